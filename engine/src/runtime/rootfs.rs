//! The container's file tree, built where nobody can interfere and entered last.
//!
//! Everything here runs in the child, inside its new mount namespace and before pivot_root. The tree
//! is reached only through descriptors. A target inside it is resolved with openat2 RESOLVE_IN_ROOT and
//! is mounted on by descriptor, so a symlink in an image, or one that another container swaps into a
//! shared volume at this very moment, can redirect a mount within its own root and never out of it
//! (CVE-2019-16884, CVE-2021-30465, CVE-2025-31133, CVE-2025-52565 were all lookups by name done twice).
//! What masks a path is verified to be the null device before it is used.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount, Spec};

use super::error::{At as _, Error};
use super::kernel::{
    self, AT_EMPTY_PATH, AT_RECURSIVE, FsContext, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY, MountAttr, OPEN_TREE_CLONE,
};
use super::mount::{self, Options};

/// The new root, attached in the child's mount namespace but not yet pivoted into.
#[derive(Debug)]
pub(super) struct Root {
    tree: OwnedFd,
}

/// Devices that every container has. Source: OCI runtime-spec, config-linux, "Default Devices".
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that every container has in /dev. Source: the same, "Dev symbolic links".
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The mounts of the namespace we were born with stop telling the host about changes, and where the
/// specification wants none of the host's either.
pub(super) fn isolate(spec: &Spec) -> Result<(), Error> {
    let word = spec.linux().as_ref().and_then(|l| l.rootfs_propagation().as_deref());
    // A bind mount that asks for slave or shared needs the host's changes to arrive at all.
    let (propagation, recursive) = match word {
        Some(word) if !word.is_empty() => mount::propagation(word)?,
        _ => (libc::MS_SLAVE, true),
    };
    // Shared is for the container's root and is applied after the pivot; up to there, slave, or our
    // own mounts would appear on the host.
    let early = if propagation == libc::MS_SHARED || propagation == libc::MS_UNBINDABLE {
        libc::MS_SLAVE
    } else {
        propagation
    };
    set_propagation(c"/", early, recursive || early == libc::MS_SLAVE)
}

/// Where POSIX shared memory lives.
pub(super) const SHM: &str = "/dev/shm";

/// The /dev/shm that processes in another mount namespace see, as a detached mount of our own.
///
/// The kernel clones a tree only from the caller's namespace, so this process visits the other one. What
/// it finds there is that container's making: no symlink is followed, and only a tmpfs is taken.
pub(super) fn shared_memory_of(namespace: &Path) -> Result<OwnedFd, Error> {
    let open = |path: &Path, flags| {
        nix::fcntl::open(path, flags | nix::fcntl::OFlag::O_CLOEXEC, Mode::empty()).at("open", path)
    };
    let read = nix::fcntl::OFlag::O_RDONLY;
    let theirs = open(namespace, read)?;
    let ours = open(Path::new("/proc/self/ns/mnt"), read)?;
    // A visit moves the root and the working directory to the namespace's; ours may be a chroot.
    let root = open(Path::new("/"), nix::fcntl::OFlag::O_PATH)?;
    kernel::setns(&theirs, libc::CLONE_NEWNS).at("setns", namespace)?;
    let found = take_shared_memory();
    kernel::setns(&ours, libc::CLONE_NEWNS).at("setns", "mnt")?;
    nix::unistd::fchdir(&root).at("fchdir", "/")?;
    nix::unistd::chroot(".").at("chroot", "/")?;
    found
}

fn take_shared_memory() -> Result<OwnedFd, Error> {
    let cwd = nix::fcntl::open(".", nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC, Mode::empty())
        .at("open", ".")?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let shm =
        kernel::openat2(cwd.as_fd(), Path::new(SHM), flags, 0, libc::RESOLVE_NO_SYMLINKS).at("open", SHM)?;
    let kind = nix::sys::statfs::fstatfs(&shm).at("fstatfs", SHM)?.filesystem_type();
    if kind != nix::sys::statfs::TMPFS_MAGIC {
        return Err(Error::invalid("/dev/shm of the container to share", "not a tmpfs"));
    }
    kernel::open_tree(shm.as_raw_fd(), c"", OPEN_TREE_CLONE | AT_EMPTY_PATH).at("open_tree", SHM)
}

fn set_propagation(path: &CStr, propagation: u64, recursive: bool) -> Result<(), Error> {
    let flags = propagation | if recursive { libc::MS_REC } else { 0 };
    // SAFETY: path is a C string; source, type and data may be null for a change of propagation.
    let result =
        unsafe { libc::mount(std::ptr::null(), path.as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    if result < 0 {
        return Err(io::Error::last_os_error()).at("mount propagation", path.to_string_lossy().as_ref());
    }
    Ok(())
}

impl Root {
    /// Attaches a detached mount as the new root, on `at`, which may be any directory that is needed by
    /// nobody else in this namespace.
    pub fn attach(tree: OwnedFd, at: &Path) -> Result<Self, Error> {
        let target =
            nix::fcntl::open(at, nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC, Mode::empty())
                .at("open", at)?;
        kernel::move_mount(tree.as_fd(), target.as_fd()).at("move_mount", at)?;
        Ok(Self { tree })
    }

    /// Makes a directory of the host the new root.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        let c = kernel::c_path(path).at("open_tree", path)?;
        let tree =
            kernel::open_tree(libc::AT_FDCWD, &c, OPEN_TREE_CLONE | AT_RECURSIVE).at("open_tree", path)?;
        // Nothing mounted in here may travel to where the original directory is.
        let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
        kernel::mount_setattr(tree.as_fd(), 0, &private).at("mount_setattr", path)?;
        Self::attach(tree, path)
    }

    /// Opens a path as the container will see it.
    pub fn open(&self, path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
        // An absolute path means the root of the tree, too; openat2 does that by itself.
        kernel::openat2(self.tree.as_fd(), path, flags, 0, libc::RESOLVE_IN_ROOT)
    }

    /// Puts a detached mount on a directory inside the root.
    pub fn place(&self, tree: &OwnedFd, destination: &Path) -> Result<(), Error> {
        let target = self.directory(destination)?;
        kernel::move_mount(tree.as_fd(), target.as_fd()).at("move_mount", destination)
    }

    /// A directory inside the root, made with all its parents where it is missing.
    pub fn directory(&self, path: &Path) -> Result<OwnedFd, Error> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        match self.open(path, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.at("open", path),
        }
        // Walk down in the order of the kernel. The names walked are only a memory of where we are;
        // each step is opened again through the kernel, which alone decides what a name leads to.
        let mut todo: VecDeque<OsString> = names(path).collect();
        let mut walked = PathBuf::new();
        let mut links = 0;
        let mut here = self.open(Path::new("."), flags).at("open", path)?;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                walked.pop();
                here = self.open(&dot(&walked), flags).at("open", path)?;
                continue;
            }
            let next = walked.join(&name);
            match self.open(&next, flags) {
                Ok(fd) => here = fd,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match nix::sys::stat::mkdirat(&here, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
                        Ok(()) => here = self.open(&next, flags).at("open", path)?,
                        // A symlink to something that is not there yet: make what it points at.
                        Err(nix::errno::Errno::EEXIST) if links < 40 => {
                            links += 1;
                            let target =
                                nix::fcntl::readlinkat(&here, name.as_os_str()).at("readlink", path)?;
                            let target = PathBuf::from(target);
                            if target.is_absolute() {
                                walked = PathBuf::new();
                            }
                            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                                todo.push_front(name);
                            }
                            here = self.open(&dot(&walked), flags).at("open", path)?;
                            continue;
                        }
                        Err(errno) => return Err(errno).at("mkdir", path),
                    }
                }
                Err(error) => return Err(error).at("open", path),
            }
            walked = next;
        }
        Ok(here)
    }

    /// A directory inside the root that is what its name says and no symlink: what is mounted there is
    /// masked and protected by that name afterwards (CVE-2019-19921).
    fn directory_itself(&self, path: &Path) -> Result<OwnedFd, Error> {
        let made = self.directory(path)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_SYMLINKS;
        let plain = kernel::openat2(self.tree.as_fd(), path, flags, 0, resolve).at("open", path)?;
        drop(made);
        Ok(plain)
    }

    /// A file inside the root to mount on, made empty where it is missing.
    fn file(&self, path: &Path) -> Result<OwnedFd, Error> {
        match self.open(path, libc::O_PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.at("open", path),
        }
        let parent = self.directory(path.parent().unwrap_or(Path::new("/")))?;
        let name = path.file_name().ok_or_else(|| Error::invalid("mount destination", show(path)))?;
        let made = kernel::openat2(
            parent.as_fd(),
            Path::new(name),
            libc::O_CREAT | libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK,
            0o644,
            libc::RESOLVE_BENEATH,
        );
        made.map(drop).at("create", path)?;
        self.open(path, libc::O_PATH).at("open", path)
    }

    /// Does one mount of the specification.
    pub fn mount(&self, mount: &Mount, cgroups: &Cgroups) -> Result<(), Error> {
        let destination = mount.destination().as_path();
        let options = Options::parse(mount.options().iter().flatten().map(String::as_str))?;
        let kind = mount.typ().as_deref().unwrap_or("");
        if options.idmap || mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return Err(Error::unsupported("id-mapped mount", show(destination)));
        }
        if options.remount {
            let target = self.open(destination, libc::O_PATH).at("open", destination)?;
            return kernel::mount_setattr(target.as_fd(), 0, &options.attr).at("mount_setattr", destination);
        }
        if options.bind || kind == "bind" || kind == "none" {
            return self.bind_mount(mount, &options);
        }
        if kind == "cgroup" || kind == "cgroup2" {
            return self.cgroup_mount(destination, &options, cgroups);
        }
        let target = if matches!(kind, "proc" | "sysfs") {
            self.directory_itself(destination)?
        } else {
            self.directory(destination)?
        };
        let source = mount.source().as_deref().unwrap_or(Path::new(kind));
        let made = file_system(kind, source, &options).map_err(|error| named(error, destination))?;
        if options.copy_up {
            copy_up(target.as_fd(), made.as_fd()).at("copy", destination)?;
        }
        kernel::move_mount(made.as_fd(), target.as_fd()).at("move_mount", destination)?;
        finish(made.as_fd(), &options, destination)
    }

    fn bind_mount(&self, mount: &Mount, options: &Options) -> Result<(), Error> {
        let destination = mount.destination().as_path();
        let source = mount
            .source()
            .as_deref()
            .ok_or_else(|| Error::invalid("bind mount without a source", show(destination)))?;
        let recursive = if options.rbind { AT_RECURSIVE } else { 0 };
        let tree = if options.plain_source {
            let at = nix::fcntl::AT_FDCWD;
            kernel::openat2(at, source, libc::O_PATH, 0, libc::RESOLVE_NO_SYMLINKS).and_then(|source| {
                kernel::open_tree(source.as_raw_fd(), c"", OPEN_TREE_CLONE | recursive | AT_EMPTY_PATH)
            })
        } else {
            let c = kernel::c_path(source).at("open_tree", source)?;
            kernel::open_tree(libc::AT_FDCWD, &c, OPEN_TREE_CLONE | recursive)
        };
        let tree = tree.at("bind mount", source)?;
        let target = if is_directory(tree.as_fd()).at("stat", source)? {
            self.directory(destination)?
        } else {
            self.file(destination)?
        };
        // Attributes go on before the mount can be seen. A bind keeps what the source has unless told.
        if options.attr.set | options.attr.clear != 0 {
            kernel::mount_setattr(tree.as_fd(), 0, &options.attr).at("mount_setattr", destination)?;
        }
        kernel::move_mount(tree.as_fd(), target.as_fd()).at("move_mount", destination)?;
        finish(tree.as_fd(), options, destination)
    }

    /// cgroup v2 inside its namespace, or Docker's layout of v1 hierarchies on a hybrid host.
    fn cgroup_mount(&self, destination: &Path, options: &Options, cgroups: &Cgroups) -> Result<(), Error> {
        let target = self.directory(destination)?;
        let attributes = options.attr.set | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        if cgroups.v1.is_empty() {
            let made = if cgroups.namespace {
                FsContext::open(c"cgroup2")
                    .and_then(|fs| fs.mount(attributes))
                    .at("mount cgroup2", destination)?
            } else {
                // Without a namespace a fresh mount would show the whole host; a bind shows our part.
                bind_path(&cgroups.own_v2(), attributes).at("bind cgroup2", destination)?
            };
            return kernel::move_mount(made.as_fd(), target.as_fd()).at("move_mount", destination);
        }
        let holder = FsContext::open(c"tmpfs")
            .and_then(|fs| {
                fs.set(c"mode", c"755")?;
                fs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
            })
            .at("mount tmpfs", destination)?;
        kernel::move_mount(holder.as_fd(), target.as_fd()).at("move_mount", destination)?;
        for hierarchy in &cgroups.v1 {
            let name = hierarchy.name();
            nix::sys::stat::mkdirat(&holder, name, Mode::from_bits_truncate(0o755)).at("mkdir", name)?;
            let target =
                kernel::openat2(holder.as_fd(), Path::new(name), libc::O_PATH, 0, libc::RESOLVE_BENEATH)
                    .at("open", name)?;
            let made = match hierarchy.bind(attributes) {
                Err(_) if cgroups.namespace => hierarchy.mount(attributes),
                bound => bound,
            }
            .at("mount cgroup", name)?;
            kernel::move_mount(made.as_fd(), target.as_fd()).at("move_mount", name)?;
            // cpu,cpuacct is also found under each of its names.
            if hierarchy.controllers.contains(',') {
                for alias in hierarchy.controllers.split(',') {
                    nix::unistd::symlinkat(name, &holder, alias).at("symlink", alias)?;
                }
            }
        }
        let attr = MountAttr { set: options.attr.set & MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        kernel::mount_setattr(holder.as_fd(), 0, &attr).at("mount_setattr", destination)
    }

    /// Fills /dev, when the specification has mounted a fresh one there.
    pub fn devices(&self, extra: &[LinuxDevice]) -> Result<(), Error> {
        let dev = self.directory(Path::new("/dev"))?;
        for (name, major, minor) in DEVICES {
            node(
                dev.as_fd(),
                name,
                SFlag::S_IFCHR,
                nix::sys::stat::makedev(major.into(), minor.into()),
                0o666,
            )?;
        }
        for (name, target) in LINKS {
            match nix::unistd::symlinkat(target, &dev, name) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(errno) => return Err(errno).at("symlink", Path::new("/dev").join(name)),
            }
        }
        for device in extra {
            self.device(device)?;
        }
        Ok(())
    }

    /// Makes one device node of the specification, wherever it wants it.
    pub fn device(&self, device: &LinuxDevice) -> Result<(), Error> {
        let path = device.path().as_path();
        let kind = match device.typ() {
            LinuxDeviceType::B => SFlag::S_IFBLK,
            LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
            LinuxDeviceType::P => SFlag::S_IFIFO,
            LinuxDeviceType::A => return Err(Error::invalid("device type", "a")),
        };
        let parent = self.directory(path.parent().unwrap_or(Path::new("/")))?;
        let name = path.file_name().ok_or_else(|| Error::invalid("device path", show(path)))?;
        let rdev = nix::sys::stat::makedev(device.major() as u64, device.minor() as u64);
        node(parent.as_fd(), name, kind, rdev, device.file_mode().unwrap_or(0o666) & 0o7777)?;
        if device.uid().is_some() || device.gid().is_some() {
            nix::unistd::fchownat(
                &parent,
                name,
                device.uid().map(Into::into),
                device.gid().map(Into::into),
                nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .at("chown", path)?;
        }
        Ok(())
    }

    /// Hides paths: files behind the null device, directories behind an empty read-only tmpfs. What
    /// does not exist needs no hiding.
    pub fn mask(&self, paths: &[String]) -> Result<(), Error> {
        let mut null: Option<OwnedFd> = None;
        let mut empty: Option<OwnedFd> = None;
        for path in paths {
            let path = Path::new(path);
            let target = match self.open(path, libc::O_PATH) {
                Ok(target) => target,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => continue,
                Err(error) => return Err(error).at("open", path),
            };
            let is_dir = is_directory(target.as_fd()).at("stat", path)?;
            // The first one is mounted itself and the others are copies of it: only what is attached to a mount
            // namespace can be copied (Minimum kernel for a detached one: 6.15).
            if let Some(cover) = if is_dir { &empty } else { &null } {
                let copy = kernel::open_tree(cover.as_raw_fd(), c"", OPEN_TREE_CLONE | AT_EMPTY_PATH)
                    .at("open_tree", path)?;
                kernel::move_mount(copy.as_fd(), target.as_fd()).at("mask", path)?;
                continue;
            }
            let cover = if is_dir {
                FsContext::open(c"tmpfs")
                    .and_then(|fs| {
                        fs.set(c"nr_blocks", c"1")?;
                        fs.set(c"nr_inodes", c"1")?;
                        fs.mount(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
                    })
                    .at("mount tmpfs", path)?
            } else {
                self.null_cover()?
            };
            kernel::move_mount(cover.as_fd(), target.as_fd()).at("mask", path)?;
            *if is_dir { &mut empty } else { &mut null } = Some(cover);
        }
        Ok(())
    }

    /// A detached, read-only mount of a verified null device. Read-only, because a chmod through the
    /// masked path would otherwise change the device of everybody who shares its inode.
    fn null_cover(&self) -> Result<OwnedFd, Error> {
        let is_null = |fd: BorrowedFd<'_>| -> io::Result<bool> {
            let stat = nix::sys::stat::fstat(fd)?;
            Ok(SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
                && stat.st_rdev == nix::sys::stat::makedev(1, 3))
        };
        let own = self.open(Path::new("/dev/null"), libc::O_PATH | libc::O_NOFOLLOW);
        let fd = match own {
            Ok(fd) if is_null(fd.as_fd()).at("stat", "/dev/null")? => fd,
            // The image brought something else of that name, or nothing: the host's will do.
            _ => nix::fcntl::open(
                "/dev/null",
                nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .at("open", "/dev/null")?,
        };
        if !is_null(fd.as_fd()).at("stat", "/dev/null")? {
            return Err(Error::invalid("/dev/null", "not the null device"));
        }
        let tree = kernel::open_tree(fd.as_raw_fd(), c"", OPEN_TREE_CLONE | AT_EMPTY_PATH)
            .at("open_tree", "/dev/null")?;
        let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        kernel::mount_setattr(tree.as_fd(), 0, &attr).at("mount_setattr", "/dev/null")?;
        Ok(tree)
    }

    /// Makes paths read-only with everything mounted below them.
    pub fn protect(&self, paths: &[String]) -> Result<(), Error> {
        for path in paths {
            let path = Path::new(path);
            let target = match self.open(path, libc::O_PATH) {
                Ok(target) => target,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => continue,
                Err(error) => return Err(error).at("open", path),
            };
            let tree =
                kernel::open_tree(target.as_raw_fd(), c"", OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH)
                    .at("open_tree", path)?;
            let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            kernel::mount_setattr(tree.as_fd(), AT_RECURSIVE, &attr).at("mount_setattr", path)?;
            kernel::move_mount(tree.as_fd(), target.as_fd()).at("move_mount", path)?;
        }
        Ok(())
    }

    /// Opens a pseudo-terminal of the container's own devpts, and mounts its slave on /dev/console.
    /// Returns master and slave.
    pub fn console(&self) -> Result<(OwnedFd, OwnedFd), Error> {
        let master = self
            .open(Path::new("/dev/pts/ptmx"), libc::O_RDWR | libc::O_NOCTTY)
            .or_else(|_| self.open(Path::new("/dev/ptmx"), libc::O_RDWR | libc::O_NOCTTY))
            .at("open", "/dev/ptmx")?;
        let slave = super::console::slave_of(&master).at("open the slave of", "/dev/ptmx")?;
        let dev = self.directory(Path::new("/dev"))?;
        let created = kernel::openat2(
            dev.as_fd(),
            Path::new("console"),
            libc::O_CREAT | libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY,
            0o600,
            libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS,
        );
        // Opening an existing console node may be refused by its driver; it is there, which is enough.
        if let Err(error) = created
            && error.raw_os_error() == Some(libc::ELOOP)
        {
            return Err(error).at("create", "/dev/console");
        }
        let target = kernel::openat2(
            dev.as_fd(),
            Path::new("console"),
            libc::O_PATH | libc::O_NOFOLLOW,
            0,
            libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS,
        )
        .at("open", "/dev/console")?;
        let tree = kernel::open_tree(slave.as_raw_fd(), c"", OPEN_TREE_CLONE | AT_EMPTY_PATH)
            .at("open_tree", "/dev/console")?;
        kernel::move_mount(tree.as_fd(), target.as_fd()).at("move_mount", "/dev/console")?;
        Ok((master, slave))
    }

    /// Changes into the new root and lets go of the host's tree.
    pub fn enter(self, spec: &Spec, pivot: bool) -> Result<(), Error> {
        let readonly = spec.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false));
        let cwd = spec.process().as_ref().map(oci_spec::runtime::Process::cwd);
        // The last moment to make one that is not there. What stands in its place is told of when it is gone to.
        if let Some(cwd) = cwd.filter(|_| readonly) {
            let _ = self.directory(cwd);
        }
        nix::unistd::fchdir(&self.tree).at("fchdir", "rootfs")?;
        if pivot {
            // Both on one spot: the old root ends up on top of the new one, and is taken off from there.
            kernel::pivot_root(c".", c".").at("pivot_root", "rootfs")?;
            nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).at("umount", "the host's root")?;
        } else {
            // SAFETY: all strings are static; type and data may be null for a move.
            let moved = unsafe {
                libc::mount(c".".as_ptr(), c"/".as_ptr(), std::ptr::null(), libc::MS_MOVE, std::ptr::null())
            };
            if moved < 0 {
                return Err(io::Error::last_os_error()).at("move the mount of", "rootfs");
            }
            nix::unistd::chroot(".").at("chroot", "rootfs")?;
        }
        nix::unistd::chdir("/").at("chdir", "/")?;
        let linux = spec.linux().as_ref();
        if let Some(word) = linux.and_then(|l| l.rootfs_propagation().as_deref()).filter(|w| !w.is_empty()) {
            let (propagation, recursive) = mount::propagation(word)?;
            set_propagation(c"/", propagation, recursive)?;
        }
        if readonly {
            let root = nix::fcntl::open(
                "/",
                nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .at("open", "/")?;
            let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            kernel::mount_setattr(root.as_fd(), 0, &attr).at("mount_setattr", "/")?;
        }
        Ok(())
    }
}

/// The cgroups of the child as its mounts need to know them: taken before the cgroup namespace hides
/// the host's paths.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    v1: Vec<Hierarchy>,
    v2: String,
    /// Whether the child has a cgroup namespace of its own.
    pub namespace: bool,
}

#[derive(Debug)]
struct Hierarchy {
    /// `cpu,cpuacct` or `name=systemd`.
    controllers: String,
    path: String,
}

impl Hierarchy {
    fn name(&self) -> &str {
        self.controllers.strip_prefix("name=").unwrap_or(&self.controllers)
    }

    /// Our part of the host's mount of it. From inside a cgroup namespace it looks like a mount of its own,
    /// root and all, and costs a look at one path: for a mount the kernel walks all cgroups of the host
    /// (`cgroup_lock_and_drain_offline`), a third of a millisecond for each where a thousand containers run.
    fn bind(&self, attributes: u64) -> io::Result<OwnedFd> {
        let path = Path::new("/sys/fs/cgroup").join(self.name()).join(self.path.trim_start_matches('/'));
        let tree = bind_path(&path, attributes)?;
        // Whatever is mounted there must not be taken for a hierarchy because of its place.
        if nix::sys::statfs::fstatfs(&tree)?.filesystem_type() != nix::sys::statfs::CGROUP_SUPER_MAGIC {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(tree)
    }

    /// A mount of its own, whose root is that of the caller's cgroup namespace.
    fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        let fs = FsContext::open(c"cgroup")?;
        match self.controllers.strip_prefix("name=") {
            Some(name) => {
                fs.set_flag(c"none")?;
                fs.set(c"name", &kernel::c_path(name)?)?;
            }
            None => {
                for controller in self.controllers.split(',') {
                    fs.set_flag(&kernel::c_path(controller)?)?;
                }
            }
        }
        fs.mount(attributes)
    }
}

impl Cgroups {
    /// Reads /proc/self/cgroup.
    pub fn read() -> Result<Self, Error> {
        let mut text = String::new();
        File::open("/proc/self/cgroup")
            .and_then(|mut file| file.read_to_string(&mut text))
            .at("read", "/proc/self/cgroup")?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut cgroups = Self::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                path.clone_into(&mut cgroups.v2);
            } else if path != "/" {
                // A hierarchy in whose root we are would show the container the whole host.
                cgroups.v1.push(Hierarchy { controllers: controllers.to_owned(), path: path.to_owned() });
            }
        }
        cgroups
    }

    fn own_v2(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(self.v2.trim_start_matches('/'))
    }
}

fn bind_path(path: &Path, attributes: u64) -> io::Result<OwnedFd> {
    let tree = kernel::open_tree(libc::AT_FDCWD, &kernel::c_path(path)?, OPEN_TREE_CLONE)?;
    kernel::mount_setattr(tree.as_fd(), 0, &MountAttr { set: attributes, ..MountAttr::default() })?;
    Ok(tree)
}

/// What `mount -t KIND -o WORDS SOURCE` would mount, detached: a file system, or with `bind` a tree of the host's.
pub(crate) fn detached(kind: &str, source: &Path, words: &str) -> Result<OwnedFd, Error> {
    let options = Options::parse(words.split(',').filter(|word| !word.is_empty()))?;
    if !options.bind {
        return file_system(kind, source, &options).map_err(|error| named(error, source));
    }
    let recursive = if options.rbind { AT_RECURSIVE } else { 0 };
    let c = kernel::c_path(source).at("open_tree", source)?;
    let tree = kernel::open_tree(libc::AT_FDCWD, &c, OPEN_TREE_CLONE | recursive).at("bind mount", source)?;
    if options.attr.set | options.attr.clear != 0 {
        kernel::mount_setattr(tree.as_fd(), 0, &options.attr).at("mount_setattr", source)?;
    }
    finish(tree.as_fd(), &options, source)?;
    Ok(tree)
}

/// A fresh detached mount of a file system.
fn file_system(kind: &str, source: &Path, options: &Options) -> Result<OwnedFd, Error> {
    let c_kind = kernel::c_path(kind).at("fsopen", kind)?;
    let fs = FsContext::open(&c_kind).at("fsopen", kind)?;
    let configure = || {
        fs.set(c"source", &kernel::c_path(source)?)?;
        for (key, value) in &options.values {
            fs.set(key, value)?;
        }
        for flag in &options.flags {
            // Every mount of devpts is a new instance since 4.7, and the option is gone from the new
            // interface's point of view; specifications still carry it.
            if kind != "devpts" || flag.as_c_str() != c"newinstance" {
                fs.set_flag(flag)?;
            }
        }
        fs.mount(options.attr.set)
    };
    configure().map_err(|source: io::Error| match fs.message() {
        Some(message) => {
            Error::Sys { call: format!("mount {kind} ({message}) on").into(), path: String::new(), source }
        }
        None => Error::Sys { call: format!("mount {kind} on").into(), path: String::new(), source },
    })
}

fn named(error: Error, path: &Path) -> Error {
    match error {
        Error::Sys { call, source, .. } => Error::Sys { call, path: show(path), source },
        other => other,
    }
}

/// What can only be said about an attached mount: recursive attributes and propagation.
fn finish(mount: BorrowedFd<'_>, options: &Options, destination: &Path) -> Result<(), Error> {
    if options.recursive.set | options.recursive.clear != 0 {
        kernel::mount_setattr(mount, AT_RECURSIVE, &options.recursive).at("mount_setattr", destination)?;
    }
    if let Some((propagation, recursive)) = options.propagation {
        let attr = MountAttr { propagation, ..MountAttr::default() };
        let recursive = if recursive { AT_RECURSIVE } else { 0 };
        kernel::mount_setattr(mount, recursive, &attr).at("mount propagation", destination)?;
    }
    Ok(())
}

/// Makes a device node; where the kernel does not allow it (a user namespace), binds the host's.
fn node(
    parent: BorrowedFd<'_>,
    name: impl AsRef<std::ffi::OsStr>,
    kind: SFlag,
    rdev: u64,
    mode: u32,
) -> Result<(), Error> {
    let name = name.as_ref();
    // The umask is zero here, so the mode is what it says.
    match nix::sys::stat::mknodat(parent, name, kind, Mode::from_bits_truncate(mode), rdev) {
        // An image's own node of that name in a bind-mounted /dev is left alone.
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(nix::errno::Errno::EPERM) => {
            let host = Path::new("/dev").join(name);
            let made = kernel::openat2(
                parent,
                Path::new(name),
                libc::O_CREAT | libc::O_EXCL | libc::O_RDONLY | libc::O_NOFOLLOW,
                0o644,
                libc::RESOLVE_BENEATH,
            )
            .at("create", &host)?;
            let c = kernel::c_path(&host).at("open_tree", &host)?;
            let tree = kernel::open_tree(libc::AT_FDCWD, &c, OPEN_TREE_CLONE).at("open_tree", &host)?;
            kernel::move_mount(tree.as_fd(), made.as_fd()).at("move_mount", &host)
        }
        Err(errno) => Err(errno).at("mknod", Path::new("/dev").join(name)),
    }
}

/// Copies what `from` holds into a fresh tmpfs, as `tmpcopyup` asks for: owners and modes included.
fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let source = kernel::openat2(from, Path::new("."), libc::O_RDONLY | libc::O_DIRECTORY, 0, 0)?;
    let target = kernel::openat2(to, Path::new("."), libc::O_RDONLY | libc::O_DIRECTORY, 0, 0)?;
    copy_directory(source, &target)
}

fn copy_directory(source: OwnedFd, target: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::AtFlags;
    use nix::sys::stat::{fchmod, fstat, fstatat};
    let copy_owner = |fd: &OwnedFd, stat: &libc::stat| -> io::Result<()> {
        nix::unistd::fchown(fd, Some(stat.st_uid.into()), Some(stat.st_gid.into()))?;
        fchmod(fd, Mode::from_bits_truncate(stat.st_mode))?;
        Ok(())
    };
    copy_owner(target, &fstat(&source)?)?;
    let mut names = Vec::new();
    let mut dir = nix::dir::Dir::from_fd(source)?;
    for entry in dir.iter() {
        let name: CString = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    for name in names {
        let stat = fstatat(&dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let mode = Mode::from_bits_truncate(stat.st_mode);
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let open = |dir: BorrowedFd<'_>, flags, mode| {
            kernel::openat2(dir, path, flags | libc::O_NOFOLLOW, mode, libc::RESOLVE_BENEATH)
        };
        match kind {
            SFlag::S_IFDIR => {
                nix::sys::stat::mkdirat(target, name.as_c_str(), mode)?;
                let below = open(target.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
                copy_directory(open(dir.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY, 0)?, &below)?;
            }
            SFlag::S_IFREG => {
                let mut input = File::from(open(dir.as_fd(), libc::O_RDONLY, 0)?);
                let output = open(target.as_fd(), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o600)?;
                copy_owner(&output, &stat)?;
                io::copy(&mut input, &mut File::from(output))?;
            }
            SFlag::S_IFLNK => {
                let link = nix::fcntl::readlinkat(&dir, name.as_c_str())?;
                nix::unistd::symlinkat(link.as_os_str(), target, name.as_c_str())?;
            }
            kind => nix::sys::stat::mknodat(target, name.as_c_str(), kind, mode, stat.st_rdev)?,
        }
    }
    Ok(())
}

fn is_directory(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok(SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// The names of a path as a walk meets them: no root, no `.`, but `..` where it is.
fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn dot(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
