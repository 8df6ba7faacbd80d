//! How much a container wrote, and what room it has.
//!
//! The writable layer is a directory, so its size is a walk over all its files: the one figure that
//! costs more the more there is. Nobody waits for it: `serve` measures in the background and the scrape
//! takes the last result.
//!
//! The container writes to the directory while it is walked, and may rename directories and plant
//! symbolic links under our feet. Every step is therefore an `openat` of one name with O_NOFOLLOW.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};
use serde::{Deserialize, Serialize};

use super::{At as _, Error};

/// Directories open at once while walking, which is also how deep the walk goes.
const DEPTH: usize = 200;

/// Use of the filesystem a directory lies on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Its device, as /proc/self/mountinfo names it: `/dev/sda1`.
    pub device: String,
    /// Bytes on disk of the directory's files. Source: `st_blocks`.
    pub used: u64,
    /// Files and directories.
    pub inodes: u64,
    /// False when the directory is deeper than the walk goes, so that there is more.
    pub complete: bool,
    /// Bytes of the whole filesystem. Source: statvfs.
    pub total: u64,
    /// Bytes that an ordinary user can still have.
    pub available: u64,
    /// Inodes of the whole filesystem; 0 where it has no fixed number.
    pub inodes_total: u64,
    /// Inodes free.
    pub inodes_free: u64,
}

impl Filesystem {
    /// Of the filesystem alone, without a walk: `used` is what the whole filesystem uses.
    pub fn around(dir: &Path) -> Result<Self, Error> {
        Self::on(dir, device_of(dir)?)
    }

    fn on(dir: &Path, device: String) -> Result<Self, Error> {
        let stat = nix::sys::statvfs::statvfs(dir).at("statvfs", dir)?;
        let block = stat.fragment_size() as u64;
        let total = stat.blocks() as u64 * block;
        Ok(Self {
            device,
            used: total.saturating_sub(stat.blocks_free() as u64 * block),
            inodes: (stat.files() as u64).saturating_sub(stat.files_free() as u64),
            complete: true,
            total,
            available: stat.blocks_available() as u64 * block,
            inodes_total: stat.files() as u64,
            inodes_free: stat.files_free() as u64,
        })
    }

    /// Walks a directory.
    pub fn measure(dir: &Path) -> Result<Self, Error> {
        Survey::default().measure(dir)
    }
}

/// Measures many directories. The table of mounts, which a device's name is looked up in, has a line for whatever is
/// mounted on the host; all writable layers lie on one filesystem, and ask once.
#[derive(Debug, Default)]
pub struct Survey {
    /// By the number of the device.
    devices: HashMap<u64, String>,
}

impl Survey {
    /// Walks a directory.
    pub fn measure(&mut self, dir: &Path) -> Result<Filesystem, Error> {
        let number = nix::sys::stat::stat(dir).at("stat", dir)?.st_dev;
        let device = match self.devices.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(device_of(dir)?),
        };
        let mut measured = Filesystem::on(dir, device.clone())?;
        (measured.used, measured.inodes, measured.complete) = walk(dir)?;
        Ok(measured)
    }
}

/// Bytes, inodes, and whether everything was seen.
fn walk(dir: &Path) -> Result<(u64, u64, bool), Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = |at: &Dir, name: &std::ffi::CStr| {
        nix::fcntl::openat(at.as_fd(), name, flags, Mode::empty()).and_then(Dir::from_fd)
    };
    let root = nix::fcntl::open(dir, flags, Mode::empty()).and_then(Dir::from_fd).at("open", dir)?;
    let (mut bytes, mut inodes, mut complete) = (0, 0, true);
    let mut linked = HashSet::new();
    // A directory and the names in it that are still to be entered.
    let mut stack: Vec<(Dir, Vec<std::ffi::CString>)> = Vec::new();
    let mut enter = |mut dir: Dir, stack: &mut Vec<(Dir, Vec<std::ffi::CString>)>| {
        let names: Vec<_> = dir
            .iter()
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_owned())
            .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
            .collect();
        let mut below = Vec::new();
        for name in names {
            // Removed since it was listed: it uses nothing.
            let Ok(stat) = fstatat(dir.as_fd(), name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
            if kind == SFlag::S_IFDIR {
                below.push(name);
            } else if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            bytes += stat.st_blocks as u64 * 512;
            inodes += 1;
        }
        stack.push((dir, below));
    };
    enter(root, &mut stack);
    while let Some((dir, below)) = stack.last_mut() {
        let Some(name) = below.pop() else {
            stack.pop();
            continue;
        };
        let child = match open(dir, &name) {
            Ok(child) => child,
            // Gone, or another thing by now.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            Err(_) => {
                complete = false;
                continue;
            }
        };
        if stack.len() >= DEPTH {
            complete = false;
            continue;
        }
        enter(child, &mut stack);
    }
    Ok((bytes, inodes, complete))
}

/// The source of the mount a path lies on.
fn device_of(path: &Path) -> Result<String, Error> {
    let info = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(info).at("read", info)?;
    let real = path.canonicalize().at("realpath", path)?;
    Ok(device_in(&text, &real).unwrap_or_else(|| "none".to_owned()))
}

fn device_in(mountinfo: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?.replace("\\040", " ");
        let source = right.split(' ').nth(1)?;
        // The later of two mounts on one point covers the earlier.
        if path.starts_with(&point) && best.is_none_or(|(length, _)| point.len() >= length) {
            best = Some((point.len(), source));
        }
    }
    best.map(|(_, source)| source.replace("\\040", " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_walk_counts_each_file_once_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(at("a/file"), at("a/b/again")).unwrap();
        std::os::unix::fs::symlink("/usr", at("link")).unwrap();
        let found = Filesystem::measure(dir.path()).unwrap();
        assert_eq!((found.inodes, found.complete), (4, true), "a, a/b, the file, the link");
        assert!((100_000..200_000).contains(&found.used), "{found:?}");
        assert!(found.total >= found.available && !found.device.is_empty());
    }

    #[test]
    fn a_bottomless_directory_is_not_followed_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().to_owned();
        for _ in 0..DEPTH + 5 {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        assert!(!Filesystem::measure(dir.path()).unwrap().complete);
    }

    #[test]
    fn the_deepest_and_latest_mount_wins() {
        let text = "1 0 8:1 / / rw - ext4 /dev/root rw\n2 1 8:2 / /var/my\\040disk rw shared:1 - ext4 /dev/old rw\n3 1 8:3 / /var/my\\040disk rw - ext4 /dev/new rw\n";
        assert_eq!(device_in(text, Path::new("/var/my disk/x")).unwrap(), "/dev/new");
        assert_eq!(device_in(text, Path::new("/var/my disks")).unwrap(), "/dev/root");
        assert_eq!(device_in("", Path::new("/")), None);
    }
}
