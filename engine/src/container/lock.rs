//! Who holds a container: a lock of the kernel's, not a pid in a file.
//!
//! It is an open file description lock on a file in the container's run directory: taken by the command that
//! creates the container, inherited across the fork and the exec by what is to hold it, dropped by the kernel
//! with the last holder. There is no instant between creation and exit at which a live container's lock is free.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::{Error, IoContext as _};
use crate::store::Layout;

/// What the name of a discarded run directory begins with.
pub(super) const DISCARDED: &str = ".gone-";

/// The lock that says a container's monitor, or the command about to make it, is alive.
#[derive(Debug)]
pub struct Lock(File);

fn ofd_lock(kind: libc::c_int) -> libc::flock {
    // SAFETY: `flock` is plain integers, for which all zeroes is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

fn lock_path(layout: &Layout, id: &str) -> PathBuf {
    layout.run(id).join("lock")
}

fn is_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

impl Lock {
    /// Makes the run directory and takes its lock; `None` when somebody holds it.
    ///
    /// A sweep may take the directory away at any moment before the lock is ours: between our mkdir and
    /// our open, or between our open and our lock, which then is on a file that nobody will ever ask for.
    /// Either way we start again; each turn needs another sweep in that very moment to fail.
    pub fn take(layout: &Layout, id: &str) -> Result<Option<Self>, Error> {
        let (dir, path) = (layout.run(id), lock_path(layout, id));
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut turns = 0;
        loop {
            let file = match open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound && turns < 100 => {
                    turns += 1;
                    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).at("mkdir", &dir)?;
                    continue;
                }
                other => other.at("open", &path)?,
            };
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&ofd_lock(libc::F_WRLCK))) {
                Ok(_) if is_named(&file, &path) => return Ok(Some(Self(file))),
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
                Err(errno) => return Err(errno).at("fcntl(F_OFD_SETLK)", &path),
            }
        }
    }

    /// Takes the run directory away, by whoever holds its lock.
    ///
    /// Under another name first: were its files removed one by one where they are, somebody who opens the
    /// lock in between would make it anew and have it removed with the rest.
    pub fn discard(layout: &Layout, id: &str) -> io::Result<()> {
        let dir = layout.run(id);
        let gone = layout.run(&format!("{DISCARDED}{id}"));
        // A sweep helps with what has that name, so any of it may be gone before we come to it.
        match fs::rename(&dir, &gone).and_then(|()| fs::remove_dir_all(&gone)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Writes down where a cgroup of the container is about to be made, for whoever comes upon the lock of a
    /// container that was never recorded.
    pub(super) fn note(&self, cgroup_parent: &str) -> io::Result<()> {
        self.0.write_all_at(cgroup_parent.as_bytes(), 0)
    }

    /// What [`Lock::note`] wrote.
    pub(super) fn noted(&self) -> Option<String> {
        let mut parent = vec![0; self.0.metadata().ok()?.len() as usize];
        self.0.read_exact_at(&mut parent, 0).ok()?;
        String::from_utf8(parent).ok().filter(|parent| !parent.is_empty())
    }

    /// The same lock once more: it is free when both have been dropped.
    pub(super) fn share(&self) -> Result<Self, Error> {
        self.0.try_clone().map(Self).at("dup", Path::new("lock"))
    }

    /// Whether anybody holds the lock.
    pub fn is_held(layout: &Layout, id: &str) -> bool {
        let Ok(file) = File::open(lock_path(layout, id)) else { return false };
        let mut lock = ofd_lock(libc::F_WRLCK);
        // A failing query would make a living container look dead, and be cleaned away: err on the
        // side of the living.
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).is_err() || i32::from(lock.l_type) != libc::F_UNLCK
    }
}

impl From<File> for Lock {
    /// The lock behind a descriptor that was inherited.
    fn from(file: File) -> Self {
        Self(file)
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
