//! Directories for work in progress, owned by a kernel lock.
//!
//! The owner holds an exclusive `flock` on the directory itself. A sweeper that can take that lock
//! knows the owner is gone, whatever its pid may mean today. Between `mkdir` and `flock` a directory is
//! unowned for an instant; the sweeper therefore renames nothing and trusts nothing: an owner that finds
//! its directory swept in that instant just makes another.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Error, IoContext as _, remove_tree};

/// A directory for work in progress; removed when dropped unless what it held was renamed away.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: nix::fcntl::Flock<File>,
}

impl Scratch {
    pub(crate) fn create(parent: &Path) -> Result<Self, Error> {
        loop {
            let path = parent.join(unique());
            match fs::create_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                other => other.at("mkdir", &path)?,
            }
            if let Some(lock) = lock(&path)?
                && path.exists()
            {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// Takes a directory that is to go away out of its place in one step, to be removed when dropped: what is
    /// slow about a removal need not be waited for, and the place is free at once. `None` when it is not there.
    pub(super) fn take(parent: &Path, dir: &Path) -> Result<Option<Self>, Error> {
        // Locked before it is where a sweep looks for what nobody owns.
        let Some(lock) = lock(dir)? else { return Ok(None) };
        let path = parent.join(format!("gone-{}", unique()));
        match fs::rename(dir, &path) {
            Ok(()) => Ok(Some(Self { path, _lock: lock })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("rename", dir),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: what stays behind is unlocked from here on, and the next sweep takes it.
        let _ = remove_tree(&self.path);
    }
}

/// A name that nobody else gives.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{nanos:x}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn lock(path: &Path) -> Result<Option<nix::fcntl::Flock<File>>, Error> {
    let dir = match File::open(path) {
        Ok(dir) => dir,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("open", path),
    };
    match nix::fcntl::Flock::lock(dir, nix::fcntl::FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(std::io::Error::from(errno)).at("flock", path),
    }
}

/// A scratch directory that nobody owns and that cannot be removed.
#[derive(Debug)]
pub struct Left {
    /// The directory.
    pub path: PathBuf,
    /// Why it is still there.
    pub error: Error,
}

/// One that cannot be removed (a file that was made immutable, say, or something mounted in it) is not in the way of
/// the others, nor of the command that sweeps.
pub(super) fn sweep(parent: &Path, before: impl FnOnce()) -> Result<Vec<Left>, Error> {
    let mut left = Vec::new();
    let mut before = Some(before);
    for entry in fs::read_dir(parent).at("opendir", parent)? {
        let path = entry.at("readdir", parent)?.path();
        let _owned = match lock(&path) {
            Ok(Some(owned)) => owned,
            Ok(None) => continue,
            Err(error) => {
                left.push(Left { path, error });
                continue;
            }
        };
        if let Some(before) = before.take() {
            before();
        }
        if let Err(source) = remove_tree(&path)
            && source.kind() != std::io::ErrorKind::NotFound
        {
            let error = Error::Io { call: "remove", path: path.clone(), source };
            left.push(Left { path, error });
        }
    }
    Ok(left)
}
