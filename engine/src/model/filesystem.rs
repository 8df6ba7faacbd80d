//! How much a container wrote, and what room it has.
//!
//! The writable layer is a directory, so its size is a walk over all its files: the one figure that
//! costs more the more there is. Nobody waits for it: `serve` measures in the background and the scrape
//! takes the last result. For the walk itself see [`disk_usage`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{At as _, Error};
use crate::layer::disk_usage;

/// Use of the filesystem a directory lies on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Its device, as /proc/self/mountinfo names it: `/dev/sda1`.
    pub device: String,
    /// Bytes on disk of the directory's files. Source: `st_blocks`.
    pub used: u64,
    /// Files and directories.
    pub inodes: u64,
    /// False when a part of the directory could not be seen, so that there may be more.
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
        let usage = disk_usage(dir)?;
        (measured.used, measured.inodes, measured.complete) = (usage.allocated, usage.inodes, usage.complete);
        Ok(measured)
    }
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
    fn a_directory_is_measured_with_the_filesystem_it_is_on() {
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
    fn the_deepest_and_latest_mount_wins() {
        let text = "1 0 8:1 / / rw - ext4 /dev/root rw\n2 1 8:2 / /var/my\\040disk rw shared:1 - ext4 /dev/old rw\n3 1 8:3 / /var/my\\040disk rw - ext4 /dev/new rw\n";
        assert_eq!(device_in(text, Path::new("/var/my disk/x")).unwrap(), "/dev/new");
        assert_eq!(device_in(text, Path::new("/var/my disks")).unwrap(), "/dev/root");
        assert_eq!(device_in("", Path::new("/")), None);
    }
}
