//! Where the cgroup hierarchies of this host are mounted.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType};

use super::error::Error;

/// A controller that Bulkhead uses on cgroup v1.
///
/// cpuacct and freezer are missing on purpose: the container's v2 cgroup accounts CPU time and freezes
/// without them, and each cgroup saved is 60 µs off a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum V1 {
    Memory,
    Cpu,
    Cpuset,
    Pids,
    Blkio,
    Hugetlb,
    Devices,
}

impl V1 {
    pub(crate) const ALL: [Self; 7] =
        [Self::Memory, Self::Cpu, Self::Cpuset, Self::Pids, Self::Blkio, Self::Hugetlb, Self::Devices];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
            Self::Blkio => "blkio",
            Self::Hugetlb => "hugetlb",
            Self::Devices => "devices",
        }
    }
}

/// The mount points found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts {
    /// The cgroup2 mount.
    pub v2: PathBuf,
    /// The v1 mounts, in the order of [`V1::ALL`].
    pub(crate) v1: [Option<PathBuf>; V1::ALL.len()],
}

impl Mounts {
    /// This host's, found once in a process.
    pub fn find() -> Result<&'static Self, Error> {
        static FOUND: OnceLock<Mounts> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found);
        }
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        let mounts = Self::parse(&text).ok_or(Error::NoCgroup2)?;
        mounts.verify()?;
        Ok(FOUND.get_or_init(|| mounts))
    }

    /// No controller that Bulkhead uses is on v1.
    pub fn is_pure_v2(&self) -> bool {
        self.v1.iter().all(Option::is_none)
    }

    pub(crate) fn v1(&self, controller: V1) -> Option<&Path> {
        self.v1[controller as usize].as_deref()
    }

    /// From `/proc/self/mountinfo`; `None` without a cgroup2 mount.
    ///
    /// Of several mounts of one hierarchy the one listed first counts; a later one is somebody's
    /// private view (a container's, a test's).
    fn parse(mountinfo: &[u8]) -> Option<Self> {
        let mut v2 = None;
        let mut v1 = [const { None }; V1::ALL.len()];
        for line in mountinfo.split(|&b| b == b'\n') {
            // 36 35 98:0 /root /mount/point rw,noatime shared:1 - type source super,options
            let mut fields = line.split(|&b| b == b' ');
            let Some(point) = fields.nth(4) else { continue };
            let mut after = fields.skip_while(|f| *f != b"-").skip(1);
            let (Some(kind), Some(_source), options) = (after.next(), after.next(), after.next()) else {
                continue;
            };
            match kind {
                b"cgroup2" if v2.is_none() => v2 = Some(unescape(point)),
                b"cgroup" => {
                    for option in options.unwrap_or_default().split(|&b| b == b',') {
                        if let Some(c) = V1::ALL.into_iter().find(|c| c.name().as_bytes() == option) {
                            v1[c as usize].get_or_insert_with(|| unescape(point));
                        }
                    }
                }
                _ => {}
            }
        }
        Some(Self { v2: v2?, v1 })
    }

    /// A tmpfs may have been mounted over what mountinfo lists: ask the filesystem itself.
    fn verify(&self) -> Result<(), Error> {
        check_magic(&self.v2, CGROUP2_SUPER_MAGIC)?;
        for path in self.v1.iter().flatten() {
            check_magic(path, CGROUP_SUPER_MAGIC)?;
        }
        Ok(())
    }
}

fn check_magic(path: &Path, wanted: FsType) -> Result<(), Error> {
    let magic =
        nix::sys::statfs::statfs(path).map_err(|errno| Error::sys("statfs", path, errno))?.filesystem_type();
    if magic == wanted { Ok(()) } else { Err(Error::NotCgroup { path: path.into(), magic }) }
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\'
            && let Some(digits) = tail.get(..3)
            && let Some(value) = std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 8).ok())
        {
            out.push(value);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_of_hybrid_pure_and_odd_hosts() {
        let hybrid = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            99 31 0:32 /x /mnt/other rw,relatime - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found = Mounts::parse(hybrid).unwrap();
        assert_eq!(found.v2, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(found.v1(V1::Cpu), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(found.v1(V1::Memory), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(found.v1(V1::Pids), None);
        assert!(!found.is_pure_v2());

        let pure = b"30 23 0:26 / /sys/fs/my\\040cgroup rw,nosuid shared:4 master:2 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Mounts::parse(pure).unwrap();
        assert_eq!(found.v2, Path::new("/sys/fs/my cgroup"));
        assert!(found.is_pure_v2());

        // No options, cut short, not UTF-8, a lone backslash, nothing at all.
        for odd in [
            &b"30 23 0:26 / /x rw - cgroup"[..],
            b"30 23 0:26 /",
            b"\xff\xff \x00",
            b"",
            b"\n\n - cgroup2 cgroup2",
        ] {
            assert_eq!(Mounts::parse(odd), None, "{odd:?}");
        }
        assert_eq!(unescape(b"a\\"), Path::new("a\\"));
        assert_eq!(unescape(b"\\999"), Path::new("\\999"));
    }
}
