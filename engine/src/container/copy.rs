//! `cp`: files between a container, the host, and a tar.
//!
//! Both sides are a [`Root`] in which a path is located. A running container's is process 1's root, so
//! that what is mounted in it is reached as well. A stopped one's is its overlay, with its binds mounted
//! in a mount namespace that only this process has. In either a path is resolved by the kernel with
//! `RESOLVE_IN_ROOT`, symbolic links and all: no link of a container leads to the host.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{SFlag, fstatat};

use super::claim::Claim;
use super::record::{Container, Status};
use super::{Error, IoContext as _, lifecycle};
use crate::layer;
use crate::layer::diff::Tree;
use crate::layer::extract::extract;
use crate::runtime::kernel::{self, AT_EMPTY_PATH, MOUNT_ATTR_RDONLY, MountAttr, OPEN_TREE_CLONE};
use crate::snapshot::Snapshot;
use crate::store::Store;

/// Symbolic links followed before it is a loop; the kernel's own number.
const LINKS: usize = 40;

/// What paths are resolved in.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    resolve: u64,
    /// The container as the user named it.
    container: Option<String>,
    read_only: bool,
    /// Nobody starts a stopped container meanwhile.
    _claim: Option<Claim>,
}

/// What a path leads to.
enum Found {
    Directory(OwnedFd),
    Other { parent: OwnedFd, name: OsString },
    Missing { parent: OwnedFd, name: OsString },
}

impl Root {
    /// The host's.
    pub fn host() -> Result<Self, Error> {
        let fd = nix::fcntl::open(
            "/",
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
        .at("open", Path::new("/"))?;
        Ok(Self { fd, resolve: 0, container: None, read_only: false, _claim: None })
    }

    /// A container's. `name` is what the user calls it. Of a stopped container with binds this gives the
    /// calling thread a mount namespace of its own.
    pub fn container(store: &Store, container: &Container, name: &str) -> Result<Self, Error> {
        let (fd, claim) = match container.state.status {
            Status::Running | Status::Paused => {
                let process = lifecycle::pidfd(store, container)?;
                let path = PathBuf::from(format!("/proc/{}/root", container.state.pid));
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let fd = match nix::fcntl::open(&path, flags, nix::sys::stat::Mode::empty()) {
                    Err(Errno::ENOENT | Errno::ESRCH) => return Err(Error::NotRunning(container.id.clone())),
                    opened => opened.at("open", &path)?,
                };
                // Alive now, so the number was its own when we opened it.
                kernel::pidfd_send_signal(process.as_fd(), 0)
                    .map_err(|_| Error::NotRunning(container.id.clone()))?;
                (fd, None)
            }
            Status::Restarting => return Err(Error::IsRestarting(container.id.clone())),
            Status::Removing => return Err(Error::NoSuchContainer(name.to_owned())),
            Status::Created | Status::Exited => {
                let claim = lifecycle::idle(store, container)?
                    .ok_or_else(|| Error::IsRestarting(container.id.clone()))?;
                (stopped(store, container)?, Some(claim))
            }
        };
        Ok(Self {
            fd,
            resolve: libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
            container: Some(name.to_owned()),
            read_only: container.record.host_config.readonly_rootfs,
            _claim: claim,
        })
    }

    fn open(&self, path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
        kernel::openat2(self.fd.as_fd(), path, flags, 0, self.resolve)
    }

    /// What is at `path`; with `follow`, what a symbolic link at its end leads to.
    fn locate(&self, path: &Path, follow: bool) -> io::Result<Found> {
        let directory = libc::O_PATH | libc::O_DIRECTORY;
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let nofollow = if follow { 0 } else { libc::O_NOFOLLOW };
            match self.open(&path, directory | nofollow) {
                Ok(fd) => return Ok(Found::Directory(fd)),
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ENOENT)) => {}
                Err(error) => return Err(error),
            }
            let (Some(name), Some(above)) = (path.file_name(), path.parent()) else {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            };
            let (name, above) = (name.to_owned(), above.to_owned());
            let parent = self.open(&above, directory)?;
            let stat = match fstatat(&parent, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => return Ok(Found::Missing { parent, name }),
                other => other?,
            };
            if !follow || stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits() {
                return Ok(Found::Other { parent, name });
            }
            // Only the words are put together here; the kernel resolves them, from the root again.
            path = above.join(readlinkat(&parent, name.as_os_str())?);
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }

    fn lost(&self, path: &Path, error: io::Error) -> Error {
        match &self.container {
            Some(container) if error.kind() == io::ErrorKind::NotFound => {
                Error::NoSuchFile { path: path.to_owned(), container: container.clone() }
            }
            _ => Error::Io { call: "lstat", path: path.to_owned(), source: error },
        }
    }
}

/// The root of a container that does not run.
fn stopped(store: &Store, container: &Container) -> Result<OwnedFd, Error> {
    let snapshot = Snapshot::open(store.layout(), &container.id, &container.record.chain);
    let root = snapshot.mount()?;
    let mounts = &container.record.mounts;
    let protect = |root: OwnedFd| {
        if container.record.host_config.readonly_rootfs {
            let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            kernel::mount_setattr(root.as_fd(), 0, &attr).at("mount_setattr", Path::new("/"))?;
        }
        Ok(root)
    };
    if mounts.is_empty() {
        return protect(root);
    }
    kernel::unshare(libc::CLONE_NEWNS).at("unshare", Path::new("mount namespace"))?;
    let private = libc::MS_PRIVATE | libc::MS_REC;
    // SAFETY: one C string; a change of propagation takes no other argument.
    let done =
        unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()) };
    Errno::result(done).at("make private", Path::new("/"))?;
    // A mount takes others below it only once it is mounted somewhere itself.
    let place = snapshot.upper();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let at = nix::fcntl::open(&place, flags, nix::sys::stat::Mode::empty()).at("open", &place)?;
    kernel::move_mount(root.as_fd(), at.as_fd()).at("move_mount", &place)?;
    for mount in mounts.iter().filter(|mount| !mount.source.is_empty()) {
        let target = Path::new(&mount.destination);
        let is_volume = mount.kind == "volume";
        if is_volume {
            let volume = crate::volume::find(store, &mount.name)?;
            let data = Path::new(&mount.source);
            if !volume.options.is_empty() && !crate::volume::mounted::is_mounted(data)? {
                // Here and for us alone.
                crate::volume::mounted::mount(&volume, data)?;
            }
        }
        // A container that never ran has no place to mount on yet.
        let Ok(onto) = mount_place(root.as_fd(), target, is_volume) else { continue };
        let source = &super::volumes::source(mount)?;
        let links = if is_volume { libc::RESOLVE_NO_SYMLINKS } else { 0 };
        let tree = kernel::openat2(nix::fcntl::AT_FDCWD, source, libc::O_PATH, 0, links)
            .and_then(|fd| kernel::open_tree(fd.as_raw_fd(), c"", OPEN_TREE_CLONE | AT_EMPTY_PATH))
            .at("open_tree", source)?;
        if !mount.rw {
            let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            kernel::mount_setattr(tree.as_fd(), libc::AT_EMPTY_PATH as u32, &attr)
                .at("mount_setattr", source)?;
        }
        kernel::move_mount(tree.as_fd(), onto.as_fd()).at("move_mount", target)?;
    }
    protect(root)
}

/// What a path leads to in a root; with `make`, a directory that is made where there is nothing.
fn mount_place(root: BorrowedFd<'_>, path: &Path, make: bool) -> io::Result<OwnedFd> {
    let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let open = || kernel::openat2(root, path, libc::O_PATH, 0, resolve);
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return open() };
    match open() {
        Err(error) if make && error.kind() == io::ErrorKind::NotFound => {
            let above = mount_place(root, above, true)?;
            match nix::sys::stat::mkdirat(&above, name, nix::sys::stat::Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => open(),
                Err(errno) => Err(errno.into()),
            }
        }
        other => other,
    }
}

/// What a path leads to, as Docker's API tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    /// The path's last part.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// As in stat(2), the kind included.
    pub mode: u32,
    /// Seconds of its last change.
    pub seconds: i64,
    /// Nanoseconds of it.
    pub nanoseconds: i32,
    /// Of a symbolic link, where it leads; empty otherwise.
    pub target: String,
}

/// What is at `path`, without following a symbolic link at its end. `path` is absolute.
pub fn stat(root: &Root, path: &Path) -> Result<Stat, Error> {
    let text = path.as_os_str().as_bytes();
    let follow = text.ends_with(b"/") || text.ends_with(b"/.");
    let lost = |error: io::Error| root.lost(path, error);
    let found = root.locate(path, follow).map_err(lost)?;
    let (stat, target) = match &found {
        Found::Missing { .. } => return Err(lost(io::Error::from_raw_os_error(libc::ENOENT))),
        Found::Directory(fd) => (nix::sys::stat::fstat(fd), String::new()),
        Found::Other { parent, name } => {
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            let stat = nix::sys::stat::fstatat(parent, name.as_os_str(), flags);
            let target = nix::fcntl::readlinkat(parent, name.as_os_str());
            (stat, target.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default())
        }
    };
    let stat = stat.map_err(|errno| lost(errno.into()))?;
    let name = path.file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(Stat {
        name,
        size: stat.st_size.unsigned_abs(),
        mode: stat.st_mode,
        seconds: stat.st_mtime,
        nanoseconds: stat.st_mtime_nsec as i32,
        target,
    })
}

/// What is copied.
#[derive(Debug)]
pub struct Source {
    tree: Tree,
    directory: bool,
    /// `SRC/.`: what is in it, without itself.
    contents: bool,
    name: OsString,
}

impl Source {
    /// Finds what is to be copied. `path` is absolute.
    pub fn open(root: &Root, path: &Path, follow: bool) -> Result<Self, Error> {
        let text = path.as_os_str().as_bytes();
        let contents = text.ends_with(b"/.") || text.ends_with(b"/..") || path.file_name().is_none();
        let follow = follow || contents || text.ends_with(b"/");
        let name = path.file_name().unwrap_or_default().to_owned();
        let (tree, directory) = match root.locate(path, follow).map_err(|error| root.lost(path, error))? {
            Found::Missing { .. } => return Err(root.lost(path, io::Error::from_raw_os_error(libc::ENOENT))),
            Found::Directory(fd) => (Tree::whole(fd)?, true),
            Found::Other { .. } if contents || text.ends_with(b"/") => {
                return Err(root.lost(path, io::Error::from_raw_os_error(libc::ENOTDIR)));
            }
            Found::Other { parent, name } => (Tree::one(parent, &name)?, false),
        };
        Ok(Self { tree, directory, contents, name })
    }

    /// Bytes of content.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Writes it as a tar; `name` is what it is called there, its own name unless given. An empty name
    /// leaves the directory itself out.
    pub fn tar(&self, name: Option<&OsStr>, out: &mut dyn Write) -> Result<(), Error> {
        let own = if self.contents { OsStr::new("") } else { self.name.as_os_str() };
        let name = name.unwrap_or(own).as_bytes();
        let written = match (self.directory, name) {
            (true, b"") => self.tree.tar(out),
            (true, name) => self.tree.tar_below(name, out),
            (false, name) => self.tree.tar_as(name, out),
        };
        Ok(written?)
    }
}

/// Where it is copied to.
#[derive(Debug)]
pub struct Target {
    directory: OwnedFd,
    /// What the source is called there; its own name when absent.
    name: Option<OsString>,
    read_only: bool,
    /// In a container, whose mounts may be read only.
    inside: bool,
}

impl Target {
    /// A directory that a tar is extracted in.
    pub fn directory(root: &Root, path: &Path) -> Result<Self, Error> {
        match root.locate(path, true).map_err(|error| root.lost(path, error))? {
            Found::Directory(directory) => Ok(Self {
                directory,
                name: None,
                read_only: root.read_only,
                inside: root.container.is_some(),
            }),
            Found::Other { .. } => Err(Error::NotADirectory),
            Found::Missing { .. } => Err(root.lost(path, io::Error::from_raw_os_error(libc::ENOENT))),
        }
    }

    /// Where a source of that kind goes, by the rules of Docker's `cp`.
    pub fn of(root: &Root, path: &Path, source: &Source) -> Result<Self, Error> {
        let text = path.as_os_str().as_bytes();
        let slash = text.ends_with(b"/") || text.ends_with(b"/.");
        let (directory, name) = match root.locate(path, true).map_err(|error| root.lost(path, error))? {
            Found::Directory(directory) => (directory, None),
            Found::Other { .. } if slash => return Err(Error::NotADirectory),
            Found::Other { .. } if source.directory => return Err(Error::CopyDirectory),
            Found::Missing { .. } if slash && !source.directory => return Err(Error::NoSuchDirectory),
            Found::Other { parent, name } | Found::Missing { parent, name } => (parent, Some(name)),
        };
        Ok(Self { directory, name, read_only: root.read_only, inside: root.container.is_some() })
    }

    /// Extracts a tar that somebody has sent, of any compression. Everything in it is whose it says.
    pub fn extract(&self, input: impl Read) -> Result<(), Error> {
        let plain = layer::Plain::new(input, layer::Limit::from_env()?).map_err(layer::Error::Read)?;
        self.place(plain, None)
    }

    /// Puts what is in a tar where it belongs. Everything is `owner`'s, or whose the tar says.
    fn place(&self, input: impl Read, owner: Option<(u32, u32)>) -> Result<(), Error> {
        extract(self.directory.as_fd(), input, owner).map_err(|error| self.explain(error))
    }

    fn explain(&self, error: layer::Error) -> Error {
        match error {
            layer::Error::Entry { source, .. }
                if self.inside && source.raw_os_error() == Some(libc::EROFS) =>
            {
                if self.read_only {
                    Error::ReadOnlyRoot
                } else {
                    Error::ReadOnlyVolume
                }
            }
            other => other.into(),
        }
    }
}

/// Copies; with `owner` everything is theirs.
pub fn copy(source: &Source, target: &Target, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let (reader, writer) = io::pipe().at("pipe", Path::new("cp"))?;
    // SAFETY: fcntl with an integer argument. The size is only a wish.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut out = BufWriter::with_capacity(128 << 10, writer);
            source.tar(target.name.as_deref(), &mut out)?;
            out.flush().at("write", Path::new("pipe"))
        });
        // The reader goes with the call, so that a failed one does not leave the writer waiting.
        let extracted = target.place(reader, owner);
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match produced {
            Err(error) if !is_broken_pipe(&error) => Err(error),
            _ => extracted,
        }
    })
}

fn is_broken_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } | Error::Layer(layer::Error::Io { source, .. })
        if source.kind() == io::ErrorKind::BrokenPipe)
}

/// A path as typed after `CONTAINER:`, from the container's root.
pub fn absolute(path: &str) -> PathBuf {
    // Not `Path::join`, which would drop a final `/.`.
    if path.starts_with('/') { path.into() } else { format!("/{path}").into() }
}
