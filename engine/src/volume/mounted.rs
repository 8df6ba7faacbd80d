//! Volumes that are a mount: `volume create -o type=… -o device=… -o o=…`.
//!
//! Such a volume is mounted on its data directory when the first container that uses it starts, and unmounted when
//! the last has ended. Who uses it holds a shared lock on a file in the volume's directory for as long, so that the
//! kernel counts, and counts right when a monitor is killed: who can have the lock alone knows that he is the last.
//! Mounting and unmounting are in turns, by the exclusive lock on the directory itself.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;

use super::fill::lock;
use super::{At as _, DATA, Error, Volume};
use crate::runtime::{self, kernel};
use crate::store::Layout;

/// The file whose shared lock says that somebody uses the mount.
pub(super) const LOCK: &str = "mounted";

/// A use of a mounted volume, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    dir: PathBuf,
    /// `None` while it is being dropped.
    lock: Option<Flock<File>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // In this order: between our giving up and our asking nobody may come and go.
        let turn = lock(&self.dir, FlockArg::LockExclusive);
        drop(self.lock.take());
        if let Ok(Some(_turn)) = turn {
            // What cannot be unmounted now is by the next sweep.
            let _ = unmount_unused(&self.dir);
        }
    }
}

fn open(dir: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK))
}

/// Mounts a volume unless it is mounted.
pub(crate) fn attach(layout: &Layout, volume: &Volume) -> Result<Held, Error> {
    let (dir, data) = (volume.dir(layout), volume.mountpoint(layout));
    let gone = || Error::NotFound(volume.name.clone());
    let _turn = lock(&dir, FlockArg::LockExclusive)?.ok_or_else(gone)?;
    let path = dir.join(LOCK);
    let file = open(&dir).at("open", &path)?;
    let lock = match Flock::lock(file, FlockArg::LockShared) {
        Ok(lock) => lock,
        Err((_, errno)) => return Err(errno).at("flock", &path),
    };
    if !is_mounted(&data)? {
        mount(volume, &data)?;
    }
    Ok(Held { dir, lock: Some(lock) })
}

/// Mounts it on a directory.
pub(crate) fn mount(volume: &Volume, data: &Path) -> Result<(), Error> {
    let option = |name: &str| volume.options.get(name).map_or("", String::as_str);
    let (kind, device, words) = (option("type"), option("device"), option("o"));
    let refused = |why: String| Error::Mount {
        device: device.to_owned(),
        path: data.to_owned(),
        kind: kind.to_owned(),
        data: words.to_owned(),
        why,
    };
    let tree = runtime::detached(kind, Path::new(device), words).map_err(|error| match &error {
        runtime::Error::Sys { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => {
            refused(format!("this kernel has no file system {kind:?} ({error})"))
        }
        _ => refused(error.to_string()),
    })?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let target = nix::fcntl::open(data, flags, Mode::empty()).at("open", data)?;
    kernel::move_mount(tree.as_fd(), target.as_fd()).map_err(|error| refused(error.to_string()))
}

/// Unmounts a volume that nobody uses, if a monitor that was killed has left it mounted.
pub(crate) fn release(dir: &Path) -> Result<(), Error> {
    match lock(dir, FlockArg::LockExclusiveNonblock)? {
        Some(_turn) => unmount_unused(dir),
        // Somebody is at it.
        None => Ok(()),
    }
}

/// The caller has the turn.
fn unmount_unused(dir: &Path) -> Result<(), Error> {
    let path = dir.join(LOCK);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.at("open", &path)?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_alone) => {}
        Err((_, Errno::EWOULDBLOCK)) => return Ok(()),
        Err((_, errno)) => return Err(errno).at("flock", &path),
    }
    let data = dir.join(DATA);
    if !is_mounted(&data)? {
        return Ok(());
    }
    match umount2(&data, MntFlags::UMOUNT_NOFOLLOW) {
        // Somebody has a file of it open on the host; it goes with the last of them.
        Err(Errno::EBUSY) => umount2(&data, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW),
        other => other,
    }
    .at("umount", &data)
}

/// Whether something is mounted on a directory.
pub(crate) fn is_mounted(data: &Path) -> Result<bool, Error> {
    let Ok(data) = data.canonicalize() else { return Ok(false) };
    Ok(below(&data)?.contains(&data))
}

/// What is mounted on a directory and below it, as this process sees it.
pub(super) fn below(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let dir = match dir.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("resolve", dir)?,
    };
    let path = Path::new("/proc/self/mountinfo");
    let info = std::fs::read(path).at("read", path)?;
    Ok(info
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
        .filter(|point| point.starts_with(&dir))
        .collect())
}

/// `\040` and its kin are how the kernel writes blanks.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0_u32, |value, digit| {
                matches!(digit, b'0'..=b'7').then(|| value * 8 + u32::from(digit - b'0'))
            })
        };
        let value = tail.get(..3).and_then(octal).and_then(|value| u8::try_from(value).ok());
        let (byte, after) = match value {
            Some(value) if *byte == b'\\' => (value, &tail[3..]),
            _ => (*byte, tail),
        };
        out.push(byte);
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        for (text, want) in [
            (&b"/a\\040b"[..], &b"/a b"[..]),
            (b"/plain", b"/plain"),
            (b"\\134\\011", b"\\\t"),
            (b"/x\\04", b"/x\\04"),
            (b"\\999", b"\\999"),
            (b"\\777", b"\\777"),
        ] {
            assert_eq!(unescape(text), want);
        }
        assert!(below(Path::new("/proc")).expect("below").contains(&PathBuf::from("/proc")));
        assert!(!is_mounted(Path::new("/proc/self")).expect("no mount"));
        assert!(!is_mounted(Path::new("/nonexistent")).expect("nothing"));
    }
}
