//! What can go wrong with a cgroup, and what a host cannot do.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

/// A failed operation on a cgroup. Each names the file, the value where there was one, and the errno.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cgroup2 filesystem is mounted, so a container would have no identity.
    #[error("no cgroup2 filesystem is mounted: /proc/self/mountinfo lists none")]
    NoCgroup2,
    /// `/proc/self/mountinfo` names a mount that is something else by now.
    #[error("{}: is mounted as cgroup but statfs says magic {:#x}", path.display(), magic.0)]
    NotCgroup {
        /// The mount point.
        path: PathBuf,
        /// `f_type` of statfs.
        magic: nix::sys::statfs::FsType,
    },
    /// A parent or an id that is no path below the mount.
    #[error("invalid cgroup path {path:?}: {why}")]
    BadPath {
        /// As given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something of that name is there already.
    #[error("cgroup {} exists already", path.display())]
    Exists {
        /// The cgroup's directory.
        path: PathBuf,
    },
    /// The cgroup was never there or was removed under our feet.
    #[error("cgroup {} is gone: {errno}", path.display())]
    Gone {
        /// The cgroup's directory.
        path: PathBuf,
        /// What the kernel answered: ENOENT on a path, ENODEV on an open file.
        errno: Errno,
    },
    /// The host cannot do what was asked.
    #[error("{0}")]
    Unsupported(Unsupported),
    /// A value that the kernel refused.
    #[error("write {value:?} to {}: {errno}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// Why not.
        errno: Errno,
    },
    /// Any other system call.
    #[error("{call} {}: {errno}", path.display())]
    Sys {
        /// The system call.
        call: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// A kernel file that does not read as documented.
    #[error("{}: cannot parse {text:?}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The offending part.
        text: String,
    },
    /// The kernel took a set and granted another one: part of it is not the parent's to give, or is kept by
    /// an exclusive partition.
    #[error("{asked} was asked for, but {} says {granted:?}", path.display())]
    NotGranted {
        /// The file that says what was granted.
        path: PathBuf,
        /// The file that took it, and what it took.
        asked: String,
        /// What there is instead.
        granted: String,
    },
    /// Processes would not leave.
    #[error("cgroup {} is still populated after {seconds} s by {pids:?}", path.display())]
    Busy {
        /// The cgroup's directory.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
        /// Who is there.
        pids: Vec<i32>,
    },
    /// The freezer did not get there.
    #[error("cgroup {} did not freeze within {seconds} s", path.display())]
    FreezeTimeout {
        /// The cgroup's directory.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// A cgroup with processes of its own cannot hand controllers to its children (the
    /// no-internal-process rule of cgroup v2).
    #[error(
        "cannot enable {controllers} in {}: {errno} (the cgroup has processes of its own: move them to a child, or choose another --cgroup-parent)",
        path.display()
    )]
    InternalProcesses {
        /// `cgroup.subtree_control` of the cgroup.
        path: PathBuf,
        /// `+memory +cpu …`.
        controllers: String,
        /// EBUSY, or what the kernel said.
        errno: Errno,
    },
    /// A memory limit above the memory+swap limit in force (cgroup v1).
    #[error(
        "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time (write {value:?} to {}: {errno})",
        path.display()
    )]
    AboveMemorySwap {
        /// The file.
        path: PathBuf,
        /// The limit asked for.
        value: String,
        /// EINVAL.
        errno: Errno,
    },
    /// A new limit below what is in use, where the caller asked to be told beforehand.
    #[error("memory limit {limit} is below the {usage} bytes in use ({})", path.display())]
    BelowUsage {
        /// The file of the usage.
        path: PathBuf,
        /// Bytes asked for.
        limit: i64,
        /// Bytes in use.
        usage: u64,
    },
}

impl Error {
    pub(crate) fn sys(call: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Self {
        Self::Sys { call, path: path.into(), errno }
    }

    pub(crate) fn io(call: &'static str, path: impl Into<PathBuf>, error: &io::Error) -> Self {
        Self::sys(call, path, errno_of(error))
    }

    pub(crate) fn parse(path: &Path, text: &str) -> Self {
        Self::Parse { path: path.into(), text: text.chars().take(120).collect() }
    }

    /// The number the kernel gave, or the nearest to it.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Gone { errno, .. }
            | Self::Write { errno, .. }
            | Self::Sys { errno, .. }
            | Self::InternalProcesses { errno, .. }
            | Self::AboveMemorySwap { errno, .. } => *errno,
            Self::Unsupported(fact) => fact.errno,
            Self::NoCgroup2 | Self::NotCgroup { .. } => Errno::ENOENT,
            Self::BadPath { .. } | Self::NotGranted { .. } => Errno::EINVAL,
            Self::Exists { .. } => Errno::EEXIST,
            Self::Parse { .. } => Errno::EBADMSG,
            Self::Busy { .. } | Self::BelowUsage { .. } => Errno::EBUSY,
            Self::FreezeTimeout { .. } => Errno::ETIMEDOUT,
        }
    }

    /// The cgroup does not exist (any more): for a removal that is success.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// EIO stands for an error that carries no number.
pub(crate) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Something a container asked for that this host has no file for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// What was asked for.
    pub what: Limit,
    /// The file that would have taken it.
    pub file: PathBuf,
    /// What opening it gave.
    pub errno: Errno,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not supported on this host ({}: {})", self.what, self.file.display(), self.errno)
    }
}

/// Each thing that can be asked of a cgroup, under the name a user knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the flags of `run`")]
pub enum Limit {
    Memory,
    MemorySwap,
    MemoryReservation,
    MemorySwappiness,
    KernelMemory,
    OomKillDisable,
    CpuShares,
    CpuQuota,
    CpuBurst,
    CpuIdle,
    CpuRealtime,
    Cpuset,
    Pids,
    BlkioWeight,
    BlkioWeightDevice,
    BlkioReadBps,
    BlkioWriteBps,
    BlkioReadIops,
    BlkioWriteIops,
    Hugetlb,
    Devices,
    /// A file of the `unified` map: `memory.high`, `memory.oom.group`, …
    Unified(String),
}

impl Limit {
    /// Docker's sentence when it runs a container without the limit; `None` where it refuses to.
    ///
    /// Source: moby, daemon/daemon_unix.go, `verifyPlatformContainerResources`. Limits that Docker
    /// does not have are refused: nobody has scripts that rely on their being dropped.
    pub fn docker_warning(&self) -> Option<&'static str> {
        Some(match self {
            Self::Memory => {
                "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
            }
            Self::MemorySwap => {
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
            }
            Self::MemoryReservation => {
                "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded."
            }
            Self::MemorySwappiness => {
                "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
            }
            Self::KernelMemory => {
                "Your kernel does not support kernel memory limit capabilities. Limitation discarded."
            }
            Self::OomKillDisable => "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
            Self::CpuShares => {
                "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."
            }
            Self::Cpuset => {
                "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
            }
            Self::Pids => {
                "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
            }
            Self::BlkioWeight => {
                "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
            }
            Self::BlkioWeightDevice => {
                "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded."
            }
            Self::BlkioReadBps => {
                "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded."
            }
            Self::BlkioWriteBps => {
                "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded."
            }
            Self::BlkioReadIops => {
                "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded."
            }
            Self::BlkioWriteIops => {
                "Your kernel does not support IOPS Block I/O write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded."
            }
            Self::CpuQuota
            | Self::CpuBurst
            | Self::CpuIdle
            | Self::CpuRealtime
            | Self::Hugetlb
            | Self::Devices
            | Self::Unified(_) => return None,
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory limit",
            Self::MemorySwap => "memory swap limit",
            Self::MemoryReservation => "memory reservation",
            Self::MemorySwappiness => "memory swappiness",
            Self::KernelMemory => "kernel memory limit",
            Self::OomKillDisable => "OOM kill disable",
            Self::CpuShares => "CPU shares",
            Self::CpuQuota => "CPU quota",
            Self::CpuBurst => "CPU burst",
            Self::CpuIdle => "CPU idle",
            Self::CpuRealtime => "CPU real-time scheduler limit",
            Self::Cpuset => "cpuset",
            Self::Pids => "PIDs limit",
            Self::BlkioWeight => "block I/O weight",
            Self::BlkioWeightDevice => "block I/O weight per device",
            Self::BlkioReadBps => "block I/O read limit in bytes",
            Self::BlkioWriteBps => "block I/O write limit in bytes",
            Self::BlkioReadIops => "block I/O read limit in operations",
            Self::BlkioWriteIops => "block I/O write limit in operations",
            Self::Hugetlb => "huge page limit",
            Self::Devices => "device filter",
            Self::Unified(file) => file,
        })
    }
}

/// A limit that was left out, because the host cannot do it and Docker runs the container all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub Unsupported);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.what.docker_warning() {
            Some(sentence) => write!(f, "{sentence} ({}: {})", self.0.file.display(), self.0.errno),
            None => write!(f, "{}", self.0),
        }
    }
}
