//! A container's writable view of an image: its layers as an overlay, with a directory of its own on top.
//!
//! A snapshot is two directories and a list of names; there is nothing to mount until a container
//! starts, and then the overlay is mounted inside the container's own mount namespace. The host never
//! has a mount that could leak or keep a directory busy: when the last process of the container is gone,
//! so is the overlay, whoever was killed on the way.
//!
//! Options, decided once. `index=off`, because an index refuses a snapshot whose layers have been
//! restored from elsewhere, and hard links broken by copy-up are what every other engine gives as well.
//! `metacopy=off` and `redirect_dir=off`, because the upper directory must hold whole files at their own
//! names: `diff`, `commit` and `export` read it as it lies. `volatile` only for containers that are
//! removed when they end, since after a crash such a snapshot must not be mounted again.
//!
//! Below an image's layers lies one more directory, the same for every container: the empty directories and
//! files that every container has something mounted on. An image need not have them, and Docker makes them
//! in a layer of the container's own; so did we, in the upper directory, which took seven inodes for each
//! start, as many removals for each end, and showed them as changes of the container's. What an image has
//! at those paths covers them.

#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::digest::ChainId;
use crate::runtime::kernel::{self, FsContext, OPEN_TREE_CLONE};
use crate::store::{Layout, Scratch};

/// The kernel copies at most this much of a string option (fs/fsopen.c), its end included.
const FSCONFIG_STRING_MAX: usize = 256;

/// What can go wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The operation, in the kernel's words.
        call: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the overlay.
    #[error("mount overlay of {layers} layers on {path}: {why}", path = path.display())]
    Overlay {
        /// How many layers it was to have.
        layers: usize,
        /// The container's directory.
        path: PathBuf,
        /// The overlay's own message where it gave one, and the kernel's error.
        why: String,
    },
    /// The store gave no room for work in progress.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

trait At<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { call, path: path.to_owned(), source })
    }
}

/// A container's snapshot. Holding one holds nothing open.
#[derive(Debug, Clone)]
pub struct Snapshot {
    dir: PathBuf,
    /// Topmost first, as overlay wants them.
    lower: Vec<PathBuf>,
    volatile: bool,
}

impl Snapshot {
    /// The snapshot of a container that was prepared before. `chain` is lowest first.
    pub fn open(layout: &Layout, container: &str, chain: &[ChainId]) -> Self {
        let lower = layers(layout, chain).chain([layout.mount_points()]).collect();
        Self { dir: layout.containers().join(container), lower, volatile: false }
    }

    /// A new snapshot in a directory of the caller's, which is empty and whose it stays. `chain` is lowest first.
    /// It is no container's: nothing is going to be mounted in it, and what is seen is the image's.
    pub fn prepare_at(dir: &Path, layout: &Layout, chain: &[ChainId]) -> Result<Self, Error> {
        let snapshot = Self { dir: dir.to_owned(), lower: layers(layout, chain).collect(), volatile: false };
        for (path, mode) in [(snapshot.upper(), 0o755), (dir.join("work"), 0o700)] {
            fs::DirBuilder::new().mode(mode).create(&path).at("mkdir", &path)?;
        }
        snapshot.copy_root_attributes(&snapshot.upper())?;
        Ok(snapshot)
    }

    /// Makes the directories of a new container's snapshot. `chain` is lowest first. The container's
    /// own directory may be there already; a second `prepare` of the same container is an error.
    pub fn prepare(layout: &Layout, container: &str, chain: &[ChainId]) -> Result<Self, Error> {
        let snapshot = Self::open(layout, container, chain);
        make_mount_points(layout)?;
        let make = |path: &Path, mode| fs::DirBuilder::new().mode(mode).create(path);
        let upper = snapshot.upper();
        match make(&upper, 0o755) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(&snapshot.dir, 0o700).at("mkdir", &snapshot.dir)?;
                make(&upper, 0o755).at("mkdir", &upper)?;
            }
            other => other.at("mkdir", &upper)?,
        }
        // The root of an overlay is the upper directory itself, and our own umask must not show in it.
        // Where the image has a root of its own kind (its owner, say), that is what a container sees.
        snapshot.copy_root_attributes(&upper)?;
        // The last: by this the next command knows that nothing is missing.
        let work = snapshot.dir.join("work");
        make(&work, 0o700).at("mkdir", &work)?;
        Ok(snapshot)
    }

    /// Makes what is missing of a snapshot whose maker was killed before it was done. Nothing has ever run in such
    /// a one, so whatever is there of it is as it was made.
    pub fn complete(layout: &Layout, container: &str, chain: &[ChainId]) -> Result<(), Error> {
        let snapshot = Self::open(layout, container, chain);
        if snapshot.dir.join("work").exists() {
            return Ok(());
        }
        match fs::remove_dir(snapshot.upper()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).at("rmdir", &snapshot.upper());
            }
            _ => {}
        }
        Self::prepare(layout, container, chain).map(drop)
    }

    fn copy_root_attributes(&self, upper: &Path) -> Result<(), Error> {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let (uid, gid, mode) = match self.lower.first() {
            Some(top) => {
                let stat = fs::metadata(top).at("stat", top)?;
                (stat.uid(), stat.gid(), stat.mode() & 0o7777)
            }
            None => (0, 0, 0o755),
        };
        if (uid, gid) != (0, 0) {
            std::os::unix::fs::chown(upper, Some(uid), Some(gid)).at("chown", upper)?;
        }
        fs::set_permissions(upper, fs::Permissions::from_mode(mode)).at("chmod", upper)
    }

    /// With `volatile`, nothing of the overlay is synced to disk, not even on `sync(2)` from inside.
    /// For containers that are removed when they end. Minimum kernel: 5.10.
    #[must_use]
    pub fn volatile(mut self, volatile: bool) -> Self {
        self.volatile = volatile;
        self
    }

    /// What the container has changed.
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// The directories below the upper one, topmost first.
    pub fn lower(&self) -> &[PathBuf] {
        &self.lower
    }

    /// Mounts the overlay, detached: it appears where the descriptor is moved to, and is gone with the
    /// last descriptor if it is moved nowhere.
    ///
    /// Changes the working directory where the kernel lacks `lowerdir+` (Minimum kernel: 6.5).
    pub fn mount(&self) -> Result<OwnedFd, Error> {
        match self.mount_by_context(true) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
                self.mount_by_data(true, &error)
            }
            Err(error) => Err(self.refused(error.to_string())),
            Ok(mount) => Ok(mount),
        }
    }

    /// The same tree to be read only, detached: an overlay that has the upper directory as its topmost
    /// layer and writes nothing, so that it may be mounted beside the container's own. What changes below
    /// it meanwhile may or may not be seen.
    ///
    /// Changes the working directory and the mount namespace where the kernel lacks `lowerdir+`
    /// (Minimum kernel: 6.5).
    pub fn view(&self) -> Result<OwnedFd, Error> {
        self.mount_apart(false)
    }

    /// The same as [`Snapshot::mount`] for a process that has no mount namespace of its own yet: nothing is ever
    /// mounted where others see it.
    ///
    /// Changes the working directory and the mount namespace where the kernel lacks `lowerdir+`
    /// (Minimum kernel: 6.5).
    pub fn mount_alone(&self) -> Result<OwnedFd, Error> {
        self.mount_apart(true)
    }

    fn mount_apart(&self, writable: bool) -> Result<OwnedFd, Error> {
        if self.lower.is_empty() {
            return self.bind_upper();
        }
        match self.mount_by_context(writable) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
                // This way needs a place to mount on, and nobody else is to see that.
                kernel::unshare(libc::CLONE_NEWNS).at("unshare", &self.dir)?;
                let private = libc::MS_PRIVATE | libc::MS_REC;
                // SAFETY: two C strings; the others may be null for a change of propagation.
                let done = unsafe {
                    libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null())
                };
                if done < 0 {
                    return Err(io::Error::last_os_error()).at("make private", Path::new("/"));
                }
                self.mount_by_data(writable, &error)
            }
            Err(error) => Err(self.refused(error.to_string())),
            Ok(mount) => Ok(mount),
        }
    }

    fn refused(&self, why: String) -> Error {
        Error::Overlay { layers: self.lower.len(), path: self.dir.clone(), why }
    }

    /// An image without layers: the upper directory is all there is.
    fn bind_upper(&self) -> Result<OwnedFd, Error> {
        let upper = self.upper();
        kernel::c_path(&upper)
            .and_then(|c| kernel::open_tree(libc::AT_FDCWD, &c, OPEN_TREE_CLONE))
            .at("open_tree", &upper)
    }

    fn mount_by_context(&self, writable: bool) -> io::Result<OwnedFd> {
        let fs = FsContext::open(c"overlay")?;
        fs.set(c"source", c"overlay")?;
        if !writable {
            add_layer(&fs, &self.upper())?;
        }
        for lower in &self.lower {
            add_layer(&fs, lower)?;
        }
        if writable {
            add_path(&fs, c"upperdir", &self.upper())?;
            add_path(&fs, c"workdir", &self.dir.join("work"))?;
        }
        for (key, value) in [(c"index", c"off"), (c"metacopy", c"off"), (c"redirect_dir", c"off")] {
            fs.set(key, value)?;
        }
        if self.volatile && writable {
            fs.set_flag(c"volatile")?;
        }
        fs.mount(0).map_err(|error| match fs.message() {
            // Only the errno decides about the fallback; EINVAL at this point is a real refusal.
            Some(message) => io::Error::other(format!("{message} ({error})")),
            None => error,
        })
    }

    /// mount(2) takes one page of options. 127 layers fit because each is named by the number of a
    /// descriptor, relative to the directory of our descriptors.
    fn mount_by_data(&self, writable: bool, first: &io::Error) -> Result<OwnedFd, Error> {
        let open = |path: &Path| {
            nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(io::Error::from)
                .at("open", path)
        };
        let lower = self.lower.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
        let upper = self.upper();
        let (upper_fd, work_fd) = (open(&upper)?, open(&self.dir.join("work"))?);
        let numbers: Vec<String> = lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let (upper_number, lower) = (upper_fd.as_raw_fd(), numbers.join(":"));
        let dirs = if writable {
            format!("lowerdir={lower},upperdir={upper_number},workdir={}", work_fd.as_raw_fd())
        } else {
            format!("lowerdir={upper_number}:{lower}")
        };
        let volatile = if self.volatile && writable { ",volatile" } else { "" };
        let data = format!("{dirs},index=off,metacopy=off,redirect_dir=off{volatile}");
        let data = CString::new(data).expect("numbers and words hold no NUL");
        let fds = Path::new("/proc/self/fd");
        nix::unistd::chdir(fds).map_err(io::Error::from).at("chdir", fds)?;
        let target = kernel::c_path(&upper).at("mount", &upper)?;
        // SAFETY: four C strings that outlive the call.
        let result = unsafe {
            libc::mount(c"overlay".as_ptr(), target.as_ptr(), c"overlay".as_ptr(), 0, data.as_ptr().cast())
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            return Err(self.refused(format!("{error} (before, with the new mount interface: {first})")));
        }
        let mount = self.bind_upper();
        nix::mount::umount2(&upper, nix::mount::MntFlags::MNT_DETACH)
            .map_err(io::Error::from)
            .at("umount", &upper)?;
        mount
    }

    /// Removes a container's directory with everything in it. What is not there any more is no error.
    pub fn remove(layout: &Layout, container: &str) -> Result<(), Error> {
        let dir = layout.containers().join(container);
        match crate::store::remove_tree(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.at("remove", &dir),
        }
    }
}

/// The layers of a chain, topmost first.
fn layers(layout: &Layout, chain: &[ChainId]) -> impl Iterator<Item = PathBuf> {
    let layers = layout.layers();
    chain.iter().rev().map(move |id| layers.join(id.0.hex()).join("diff"))
}

/// Directories that something is mounted on in every container.
const DIRECTORIES: [&str; 4] = ["dev", "etc", "proc", "sys"];
/// Files, the same.
const FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Makes them where they are not yet.
fn make_mount_points(layout: &Layout) -> Result<(), Error> {
    let dir = layout.mount_points();
    if dir.exists() {
        return Ok(());
    }
    // Under the name they are to have only when they are whole, and until then where a sweep leaves them alone for
    // as long as this process lives.
    let scratch = Scratch::create(&layout.scratch())?;
    let made = scratch.path().join("mountpoints");
    fill_mount_points(&made)?;
    match fs::rename(&made, &dir) {
        // Somebody else made them meanwhile.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other.at("rename", &dir),
    }
}

fn fill_mount_points(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    // Whatever the caller's umask says.
    let open_to_all =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("chmod", path);
    for path in [""].iter().chain(&DIRECTORIES).map(|name| dir.join(name)) {
        fs::create_dir_all(&path).at("mkdir", &path)?;
        open_to_all(&path, 0o755)?;
    }
    for path in FILES.map(|name| dir.join(name)) {
        fs::File::create(&path).at("create", &path)?;
        open_to_all(&path, 0o644)?;
    }
    Ok(())
}

fn add_layer(fs: &FsContext, path: &Path) -> io::Result<()> {
    add_path(fs, c"lowerdir+", path)
}

/// Overlay looks a path up by itself, which is the cheapest. One that is too long for an option goes by
/// descriptor (Minimum kernel for that: 6.13), and where that is refused by the descriptor's own name in
/// /proc, which is short and leads to the same directory.
fn add_path(fs: &FsContext, key: &std::ffi::CStr, path: &Path) -> io::Result<()> {
    let c = kernel::c_path(path)?;
    if c.as_bytes_with_nul().len() <= FSCONFIG_STRING_MAX {
        return fs.set(key, &c);
    }
    let fd = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    match fs.set_fd(key, fd.as_fd()) {
        // 6.12 knows no O_PATH descriptor here (EBADF) and no descriptor for this key (EINVAL); a file system
        // of the old kind, which overlay is before 6.5, takes none at all (EOPNOTSUPP).
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL | libc::EOPNOTSUPP)) => {
            let link = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("digits hold no NUL");
            fs.set(key, &link)
        }
        other => other,
    }
}
