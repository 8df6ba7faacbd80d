//! One cgroup directory, held by file descriptor.
//!
//! Every access goes through `openat` on the held directory, so a path is resolved once and a cgroup
//! that is removed and made anew by someone else is never mistaken for the one that was opened.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{Mode, fstat, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::error::Error;
use crate::seq_file;

/// A cgroup's directory in one hierarchy.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    /// Shared with its files that are kept open: of a thousand containers these are fifteen thousand.
    path: Arc<Path>,
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

impl Dir {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        match nix::fcntl::open(path, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.into() }),
            Err(errno) => Err(Error::sys("open", path, errno)),
        }
    }

    /// The cgroup `relative` of the hierarchy mounted at `mount`; `None` when there is none. One call: the
    /// figures of fifty containers ask this of seven hierarchies each.
    pub(crate) fn find(mount: &Path, relative: &Path) -> Result<Option<Self>, Error> {
        match Self::open(&mount.join(relative)) {
            Ok(dir) => Ok(Some(dir)),
            Err(Error::Sys { errno: Errno::ENOENT | Errno::ENODEV, .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The cgroup `relative` of the hierarchy mounted at `mount`, made if it is missing.
    pub(crate) fn open_or_make(mount: &Path, relative: &Path) -> Result<Self, Error> {
        let path = mount.join(relative);
        match nix::fcntl::open(&path, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.into() }),
            Err(Errno::ENOENT) => Self::open(mount)?.descend(relative),
            Err(errno) => Err(Error::sys("open", path, errno)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn shared_path(&self) -> Arc<Path> {
        self.path.clone()
    }

    pub(crate) fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The child, `None` when there is none.
    pub(crate) fn child(&self, name: impl AsRef<Path>) -> Result<Option<Self>, Error> {
        let name = name.as_ref();
        match openat(&self.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: self.file(name).into() })),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(None),
            Err(errno) => Err(Error::sys("openat", self.file(name), errno)),
        }
    }

    /// Makes the child; [`Error::Exists`] when it is there.
    pub(crate) fn make_child(&self, name: impl AsRef<Path>) -> Result<Self, Error> {
        let name = name.as_ref();
        match mkdirat(&self.fd, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(Error::Exists { path: self.file(name) }),
            Err(errno) => return Err(Error::sys("mkdirat", self.file(name), errno)),
        }
        self.child(name)?.ok_or_else(|| Error::Gone { path: self.file(name), errno: Errno::ENOENT })
    }

    /// Opens a directory below, making what is missing.
    pub(crate) fn descend(&self, relative: &Path) -> Result<Self, Error> {
        if let Some(there) = self.child(relative)? {
            return Ok(there);
        }
        let mut at = self.reopen()?;
        for part in relative.components() {
            at = match at.child(part)? {
                Some(there) => there,
                None => match at.make_child(part) {
                    // Someone made it in between: as good.
                    Err(Error::Exists { path }) => {
                        at.child(part)?.ok_or(Error::Gone { path, errno: Errno::ENOENT })?
                    }
                    other => other?,
                },
            };
        }
        Ok(at)
    }

    /// Removes a child directory. Gone already is fine.
    pub(crate) fn remove_child(&self, name: impl AsRef<Path>) -> Result<(), Errno> {
        match unlinkat(&self.fd, name.as_ref(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Names of the child cgroups.
    pub(crate) fn children(&self) -> Result<Vec<PathBuf>, Error> {
        // A link for itself, one for its entry above, and one for each directory below: most often there is
        // none, and looking for it would cost more than all the rest of a reading.
        if fstat(&self.fd).is_ok_and(|meta| meta.st_nlink == 2) {
            return Ok(Vec::new());
        }
        let fd = match openat(&self.fd, ".", DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENODEV) => return Ok(Vec::new()),
            Err(errno) => return Err(Error::sys("openat", self.path(), errno)),
        };
        let mut dir =
            nix::dir::Dir::from_fd(fd).map_err(|errno| Error::sys("fdopendir", self.path(), errno))?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::ENOENT | Errno::ENODEV) => break,
                Err(errno) => return Err(Error::sys("getdents64", self.path(), errno)),
            };
            let name = entry.file_name().to_bytes();
            if entry.file_type() == Some(nix::dir::Type::Directory) && name != b"." && name != b".." {
                names.push(PathBuf::from(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name)));
            }
        }
        Ok(names)
    }

    /// Removes every cgroup below this one, the deepest first.
    pub(crate) fn remove_descendants(&self) -> Result<(), Error> {
        for name in self.children()? {
            if let Some(child) = self.child(&name)? {
                child.remove_descendants()?;
            }
            self.remove_child(&name).map_err(|errno| Error::sys("rmdir", self.file(&name), errno))?;
        }
        Ok(())
    }

    fn open_file(&self, name: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        openat(&self.fd, name, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
    }

    /// A file that is absent is told from a cgroup that is.
    fn missing(&self, call: &'static str, name: &str, errno: Errno) -> Error {
        let gone = errno == Errno::ENODEV || errno == Errno::ENOENT && !self.has("cgroup.procs");
        if gone {
            Error::Gone { path: self.path().into(), errno }
        } else {
            Error::sys(call, self.file(name), errno)
        }
    }

    /// Whether the file exists.
    pub(crate) fn has(&self, name: &str) -> bool {
        nix::unistd::faccessat(&self.fd, name, nix::unistd::AccessFlags::F_OK, nix::fcntl::AtFlags::empty())
            .is_ok()
    }

    pub(crate) fn open_write(&self, name: &str) -> Result<OwnedFd, Error> {
        self.open_file(name, OFlag::O_WRONLY).map_err(|errno| self.missing("openat", name, errno))
    }

    pub(crate) fn open_read(&self, name: &str) -> Result<OwnedFd, Error> {
        self.open_file(name, OFlag::O_RDONLY).map_err(|errno| self.missing("openat", name, errno))
    }

    /// `None` when this kernel has no such file.
    pub(crate) fn try_open_read(&self, name: &str) -> Result<Option<OwnedFd>, Error> {
        match self.open_file(name, OFlag::O_RDONLY) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT) if self.has("cgroup.procs") => Ok(None),
            Err(errno) => Err(self.missing("openat", name, errno)),
        }
    }

    /// One `write(2)`: the kernel takes a value whole or refuses it.
    pub(crate) fn write(&self, name: &str, value: &str) -> Result<(), Error> {
        let fd = self.open_write(name)?;
        loop {
            match nix::unistd::write(&fd, value.as_bytes()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno @ Errno::ENODEV) if !self.has("cgroup.procs") => {
                    return Err(Error::Gone { path: self.path().into(), errno });
                }
                Err(errno) => return Err(Error::Write { path: self.file(name), value: value.into(), errno }),
            }
        }
    }

    /// A file that the kernel writes as one record.
    pub(crate) fn read(&self, name: &str) -> Result<String, Error> {
        let fd = self.open_read(name)?;
        read_record(fd.as_fd()).map_err(|errno| self.missing("read", name, errno))
    }

    /// A file of many records, which takes as many reads: `cgroup.procs` and its like.
    pub(crate) fn read_list(&self, name: &str) -> Result<String, Error> {
        let fd = self.open_read(name)?;
        read_list(fd.as_fd()).map_err(|errno| self.missing("read", name, errno))
    }

    /// `None` when this kernel has no such file.
    pub(crate) fn try_read(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(fd) = self.try_open_read(name)? else { return Ok(None) };
        match read_record(fd.as_fd()) {
            Ok(text) => Ok(Some(text)),
            // PSI switched off, swap accounting off.
            Err(Errno::EOPNOTSUPP) => Ok(None),
            Err(errno) => Err(self.missing("read", name, errno)),
        }
    }

    /// The inode number, which on a 64-bit kernel is the cgroup's id.
    pub(crate) fn inode(&self) -> Result<u64, Error> {
        Ok(fstat(&self.fd).map_err(|errno| Error::sys("fstat", self.path(), errno))?.st_ino)
    }

    /// The same directory under a descriptor of its own.
    pub(crate) fn reopen(&self) -> Result<Self, Error> {
        Ok(Self { fd: self.try_clone_fd()?, path: self.path.clone() })
    }

    pub(crate) fn try_clone_fd(&self) -> Result<OwnedFd, Error> {
        self.fd.try_clone().map_err(|e| Error::io("dup", self.path(), &e))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A kernel file of one record, from its start, whatever its offset.
pub(crate) fn read_record(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    owned(seq_file::read_record(fd, &mut Vec::new()))
}

/// A list of the kernel's, which may come in pieces, from its start.
pub(crate) fn read_list(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    owned(seq_file::read_list(fd, &mut Vec::new()))
}

fn owned(text: Result<&[u8], Errno>) -> Result<String, Errno> {
    text.map(|text| String::from_utf8_lossy(text).into_owned())
}
