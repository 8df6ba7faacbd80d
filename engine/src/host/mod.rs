//! What this host can do, found out by trying.
//!
//! Distributions patch kernels, containers hide files and security modules refuse calls, so neither a
//! version number nor a configuration file says what will work. Each [`Feature`] is tried, once in a
//! process and only when somebody asks: a start of a container pays for nothing it does not need. What a
//! feature's absence costs stands beside it, so `bulkhead check` can tell the user.

mod info;
mod probe;

use std::{
    fmt,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{Mutex, OnceLock, PoisonError},
};

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;
use serde::Serialize;

pub use self::info::{Counts, Info, operating_system};
use self::probe::{Tried, Value, in_child, netlink, new_mount, on_scratch, open_dir, sys, unshare};
use crate::cgroup::{self, Cgroup, Mounts};

/// Something a host may or may not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "Feature::name says what each is")]
pub enum Feature {
    Cgroup2,
    MemoryLimit,
    MemoryHigh,
    MemoryMin,
    MemoryReservation,
    SwapLimit,
    OomGroup,
    MemoryReclaim,
    CpuQuota,
    CpuWeight,
    CpuBurst,
    Cpuset,
    PidsLimit,
    IoLimit,
    IoWeight,
    Hugetlb,
    Devices,
    Freeze,
    CgroupKill,
    Pressure,
    CloneIntoCgroup,
    Pidfd,
    Openat2,
    MountSetattr,
    Overlay,
    OverlayMountApi,
    OverlayLowerdirPlus,
    OverlayLowerdirFd,
    OverlayVolatile,
    OverlayUserxattr,
    IoUring,
    Seccomp,
    UserNamespace,
    NetworkNamespace,
    Veth,
    Bridge,
    Nftables,
    Bpf,
    BpfRingBuffer,
    Btf,
    Unlocked,
}

/// Whether a host has a feature, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was tried and worked.
    Yes {
        /// What was tried.
        how: String,
    },
    /// It was tried and did not.
    No {
        /// What was tried.
        how: String,
        /// What came of it.
        errno: Errno,
    },
}

impl Verdict {
    /// Whether it worked.
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes { how } => f.write_str(how),
            Self::No { how, errno } => write!(f, "{how}: {}", errno.desc()),
        }
    }
}

/// One line of `bulkhead check`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Row {
    /// The part of the engine that wants it.
    pub area: &'static str,
    /// The feature, as a user would call it.
    pub feature: &'static str,
    /// Whether it worked.
    pub supported: bool,
    /// What was tried.
    pub probe: String,
    /// What came of it where it did not work: `ENOENT` and its like.
    pub errno: Option<String>,
    /// What happens where it is missing.
    pub without: &'static str,
}

/// Has `threads` threads, of which the caller is one, do some work, each taking the next item there is. Equal shares
/// would be waited for where one processor has something else to do as well.
pub fn share_out<I>(threads: usize, items: I, work: impl Fn(I::Item) + Sync)
where
    I: Iterator + Send,
{
    let items = Mutex::new(items);
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let take = || {
        while let Some(item) = next() {
            work(item);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(take);
        }
        take();
    });
}

/// How many threads some work is worth: one for each `share` of it, at least one, and never more than
/// `most` or the processors this process may use.
pub fn threads_for(work: usize, share: usize, most: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (work / share).clamp(1, processors.min(most))
}

/// Every feature, tried: the table of `bulkhead check`.
pub fn check() -> Vec<Row> {
    Feature::ALL
        .into_iter()
        .map(|feature| {
            let (area, name, without) = feature.describe();
            let (supported, probe, errno) = match fact(feature) {
                Verdict::Yes { how } => (true, how, None),
                Verdict::No { how, errno } => (false, how, Some(format!("{errno:?}"))),
            };
            Row { area, feature: name, supported, probe: probe.clone(), errno, without }
        })
        .collect()
}

/// Whether this host has the feature. Tried at the first question, remembered after.
pub fn supports(feature: Feature) -> bool {
    fact(feature).is_yes()
}

/// As [`supports`], with how it is known.
pub fn fact(feature: Feature) -> &'static Verdict {
    static FACTS: [OnceLock<Verdict>; Feature::ALL.len()] = [const { OnceLock::new() }; Feature::ALL.len()];
    FACTS[feature as usize].get_or_init(|| feature.try_it())
}

/// A verdict from what was tried.
fn verdict(how: impl Into<String>, tried: Tried) -> Verdict {
    let how = how.into();
    match tried {
        Ok(()) => Verdict::Yes { how },
        Err(errno) => Verdict::No { how, errno },
    }
}

impl Feature {
    /// All, in the order of the table and of the enum.
    pub const ALL: [Self; 41] = [
        Self::Cgroup2,
        Self::MemoryLimit,
        Self::MemoryHigh,
        Self::MemoryMin,
        Self::MemoryReservation,
        Self::SwapLimit,
        Self::OomGroup,
        Self::MemoryReclaim,
        Self::CpuQuota,
        Self::CpuWeight,
        Self::CpuBurst,
        Self::Cpuset,
        Self::PidsLimit,
        Self::IoLimit,
        Self::IoWeight,
        Self::Hugetlb,
        Self::Devices,
        Self::Freeze,
        Self::CgroupKill,
        Self::Pressure,
        Self::CloneIntoCgroup,
        Self::Pidfd,
        Self::Openat2,
        Self::MountSetattr,
        Self::Overlay,
        Self::OverlayMountApi,
        Self::OverlayLowerdirPlus,
        Self::OverlayLowerdirFd,
        Self::OverlayVolatile,
        Self::OverlayUserxattr,
        Self::IoUring,
        Self::Seccomp,
        Self::UserNamespace,
        Self::NetworkNamespace,
        Self::Veth,
        Self::Bridge,
        Self::Nftables,
        Self::Bpf,
        Self::BpfRingBuffer,
        Self::Btf,
        Self::Unlocked,
    ];

    /// Area, name, and what its absence costs.
    fn describe(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Cgroup2 => ("cgroup", "cgroup v2 mount", "no container can be started"),
            Self::MemoryLimit => ("cgroup", "memory limit", "--memory is discarded with a warning"),
            Self::MemoryHigh => ("cgroup", "memory.high", "--memory-high is refused"),
            Self::MemoryMin => ("cgroup", "memory.min", "memory.min is refused"),
            Self::MemoryReservation => {
                ("cgroup", "memory reservation", "--memory-reservation is discarded with a warning")
            }
            Self::SwapLimit => ("cgroup", "swap limit", "--memory-swap is discarded with a warning"),
            Self::OomGroup => ("cgroup", "memory.oom.group", "--oom-group is refused"),
            Self::MemoryReclaim => ("cgroup", "memory.reclaim", "the pressure policy cannot reclaim"),
            Self::CpuQuota => ("cgroup", "CPU quota", "--cpus, --cpu-quota and --cpu-period are refused"),
            Self::CpuWeight => ("cgroup", "CPU weight", "--cpu-shares is discarded with a warning"),
            Self::CpuBurst => ("cgroup", "CPU burst", "a burst in an OCI bundle is refused"),
            Self::Cpuset => {
                ("cgroup", "cpuset", "--cpuset-cpus and --cpuset-mems are discarded with a warning")
            }
            Self::PidsLimit => ("cgroup", "PIDs limit", "--pids-limit is discarded with a warning"),
            Self::IoLimit => {
                ("cgroup", "I/O limits", "--device-read-bps and its kin are discarded with a warning")
            }
            Self::IoWeight => ("cgroup", "I/O weight", "--blkio-weight is discarded with a warning"),
            Self::Hugetlb => ("cgroup", "huge page limit", "a huge page limit in an OCI bundle is refused"),
            Self::Devices => ("cgroup", "device rules", "no unprivileged container can be started"),
            Self::Freeze => ("cgroup", "cgroup.freeze", "pause is refused"),
            Self::CgroupKill => ("cgroup", "cgroup.kill", "processes are frozen and signalled one by one"),
            Self::Pressure => ("cgroup", "pressure (PSI)", "no pressure figures, and no pressure policy"),
            Self::CloneIntoCgroup => ("start", "clone3 into a cgroup", "no container can be started"),
            Self::Pidfd => ("start", "pidfd", "no container can be started"),
            Self::Openat2 => ("start", "openat2", "no container can be started"),
            Self::MountSetattr => {
                ("start", "mount_setattr", "read-only mounts are not read-only below their root")
            }
            Self::Overlay => ("image", "overlay", "no container can be started from an image"),
            Self::OverlayMountApi => {
                ("image", "overlay by fsopen", "overlays are mounted the old way, by mount(2)")
            }
            Self::OverlayLowerdirPlus => {
                ("image", "overlay lowerdir+", "layers are given as one string, which limits their number")
            }
            Self::OverlayLowerdirFd => ("image", "overlay layers by descriptor", "layers are given by path"),
            Self::OverlayVolatile => {
                ("image", "overlay volatile", "--rm containers sync their files when they end")
            }
            Self::OverlayUserxattr => {
                ("image", "overlay userxattr", "none today; rootless containers would need it")
            }
            Self::IoUring => ("image", "io_uring", "layers are unpacked by threads alone"),
            Self::Seccomp => {
                ("security", "seccomp filter", "containers are refused unless seccomp=unconfined")
            }
            Self::UserNamespace => {
                ("security", "user namespaces", "none today; rootless containers would need it")
            }
            Self::NetworkNamespace => ("network", "network namespaces", "only --network host"),
            Self::Veth => ("network", "veth", "no bridge networks"),
            Self::Bridge => ("network", "bridge", "no bridge networks"),
            Self::Nftables => ("network", "nftables", "no published ports, no masquerading"),
            Self::Bpf => ("trace", "BPF", "no tracing, no per-container network counters"),
            Self::BpfRingBuffer => ("trace", "BPF ring buffer", "no events"),
            Self::Btf => ("trace", "kernel BTF", "no programs that read kernel structures"),
            Self::Unlocked => ("trace", "kernel lockdown off", "no fentry and no LSM programs"),
        }
    }

    fn try_it(self) -> Verdict {
        match self {
            Self::Cgroup2 => match Mounts::find() {
                Ok(mounts) => {
                    let mode = if mounts.is_pure_v2() { "v2 only" } else { "hybrid, controllers on v1" };
                    verdict(format!("statfs {}: cgroup2 ({mode})", mounts.v2.display()), Ok(()))
                }
                Err(error) => verdict(error.to_string(), Err(Errno::ENOENT)),
            },
            Self::MemoryLimit
            | Self::MemoryHigh
            | Self::MemoryMin
            | Self::MemoryReservation
            | Self::SwapLimit
            | Self::OomGroup
            | Self::MemoryReclaim
            | Self::CpuQuota
            | Self::CpuWeight
            | Self::CpuBurst
            | Self::Cpuset
            | Self::PidsLimit
            | Self::IoLimit
            | Self::IoWeight
            | Self::Hugetlb
            | Self::Devices
            | Self::Freeze
            | Self::CgroupKill
            | Self::CloneIntoCgroup => self.in_cgroup(),
            Self::Pressure => {
                let path = "/proc/pressure/memory";
                let tried = std::fs::read_to_string(path)
                    .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
                    .and_then(|text| cgroup::Pressure::parse(&text).map(drop).ok_or(Errno::EBADMSG));
                verdict(format!("read {path}"), tried)
            }
            // SAFETY: no memory is involved; a descriptor made is closed again.
            Self::Pidfd => verdict("pidfd_open of this process", unsafe {
                sys(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0)).map(|fd| {
                    libc::close(fd);
                })
            }),
            Self::Openat2 => verdict("openat2 with RESOLVE_IN_ROOT", openat2()),
            Self::MountSetattr => verdict("mount_setattr on a detached copy of /", in_child(mount_setattr)),
            Self::Overlay => verdict("mount(2) of two layers", on_scratch(|| overlay(c""))),
            Self::OverlayVolatile => verdict("mount(2) with volatile", on_scratch(|| overlay(c",volatile"))),
            Self::OverlayUserxattr => {
                verdict("mount(2) with userxattr", on_scratch(|| overlay(c",userxattr")))
            }
            Self::OverlayMountApi => verdict(
                "fsopen, fsconfig lowerdir, fsmount",
                on_scratch(|| {
                    new_mount(
                        c"overlay",
                        &[
                            (c"lowerdir", Value::Text(c"a:b")),
                            (c"upperdir", Value::Text(c"upper")),
                            (c"workdir", Value::Text(c"work")),
                        ],
                    )
                    .map(drop)
                }),
            ),
            Self::OverlayLowerdirPlus => verdict(
                "fsconfig lowerdir+ twice",
                on_scratch(|| {
                    new_mount(
                        c"overlay",
                        &[(c"lowerdir+", Value::Text(c"a")), (c"lowerdir+", Value::Text(c"b"))],
                    )
                    .map(drop)
                }),
            ),
            Self::OverlayLowerdirFd => verdict(
                "fsconfig lowerdir+ with descriptors",
                on_scratch(|| {
                    let (a, b) = (open_dir(c"a")?, open_dir(c"b")?);
                    new_mount(c"overlay", &[(c"lowerdir+", Value::Fd(&a)), (c"lowerdir+", Value::Fd(&b))])
                        .map(drop)
                }),
            ),
            Self::IoUring => io_uring(),
            Self::Seccomp => {
                const GET_ACTION_AVAIL: u32 = 2;
                let action: u32 = libc::SECCOMP_RET_ERRNO;
                // SAFETY: the action is read from `action`.
                let tried =
                    sys(unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) });
                verdict("seccomp(SECCOMP_GET_ACTION_AVAIL)", tried.map(drop))
            }
            Self::UserNamespace => {
                verdict("unshare(CLONE_NEWUSER) in a child", in_child(|| unshare(libc::CLONE_NEWUSER)))
            }
            Self::NetworkNamespace => {
                verdict("unshare(CLONE_NEWNET) in a child", in_child(|| unshare(libc::CLONE_NEWNET)))
            }
            Self::Veth => self.in_network(libc::NETLINK_ROUTE, &netlink::link(b"veth")),
            Self::Bridge => self.in_network(libc::NETLINK_ROUTE, &netlink::link(b"bridge")),
            Self::Nftables => self.in_network(libc::NETLINK_NETFILTER, &netlink::table()),
            Self::Bpf => verdict("load a program that returns 0", cgroup::probe_bpf()),
            Self::BpfRingBuffer => verdict("create a ring buffer", ring_buffer()),
            Self::Btf => {
                let path = "/sys/kernel/btf/vmlinux";
                let tried = std::fs::File::open(path)
                    .map(drop)
                    .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)));
                verdict(format!("open {path}"), tried)
            }
            Self::Unlocked => lockdown(),
        }
    }

    fn in_network(self, protocol: i32, request: &[u8]) -> Verdict {
        let what = self.describe().1;
        let tried = in_child(|| {
            unshare(libc::CLONE_NEWNET)?;
            netlink::ask(protocol, request)
        });
        verdict(format!("make one in a network namespace ({what})"), tried)
    }

    /// In a cgroup made for the question.
    fn in_cgroup(self) -> Verdict {
        let name = format!("probe-{}-{}", std::process::id(), self as u8);
        let made = Cgroup::create(cgroup::DEFAULT_PARENT, &name, &LinuxResources::default());
        let (mut cgroup, _) = match made {
            Ok(made) => made,
            Err(error) => return verdict(error.to_string(), Err(error.errno())),
        };
        let found = self.try_in(&mut cgroup);
        // A cgroup without processes goes at once; if it does not, the next probe is not hurt.
        let _ = cgroup.remove();
        found
    }

    fn try_in(self, cgroup: &mut Cgroup) -> Verdict {
        let mut set = |how: &str, json: &str| {
            let resources = serde_json::from_str(json).expect("the literals below are specifications");
            match cgroup.update(&resources) {
                Ok(warnings) => match warnings.into_iter().next() {
                    None => verdict(how, Ok(())),
                    Some(cgroup::Warning(fact)) => missing(&fact),
                },
                Err(cgroup::Error::Unsupported(fact)) => missing(&fact),
                Err(error) => verdict(format!("{how} ({error})"), Err(error.errno())),
            }
        };
        match self {
            Self::MemoryLimit => set("limit a cgroup to 64 MiB", r#"{"memory": {"limit": 67108864}}"#),
            Self::SwapLimit => set(
                "limit memory and swap of a cgroup",
                r#"{"memory": {"limit": 67108864, "swap": 67108864}}"#,
            ),
            Self::MemoryReservation => {
                set("reserve memory for a cgroup", r#"{"memory": {"reservation": 67108864}}"#)
            }
            Self::MemoryHigh => set("write memory.high", r#"{"unified": {"memory.high": "67108864"}}"#),
            Self::MemoryMin => set("write memory.min", r#"{"unified": {"memory.min": "4096"}}"#),
            Self::OomGroup => set("write memory.oom.group", r#"{"unified": {"memory.oom.group": "1"}}"#),
            Self::MemoryReclaim => set("write memory.reclaim", r#"{"unified": {"memory.reclaim": "0"}}"#),
            Self::CpuQuota => {
                set("give a cgroup half a CPU", r#"{"cpu": {"quota": 50000, "period": 100000}}"#)
            }
            Self::CpuWeight => set("weigh a cgroup", r#"{"cpu": {"shares": 512}}"#),
            Self::CpuBurst => {
                set("give a cgroup a burst", r#"{"cpu": {"quota": 50000, "period": 100000, "burst": 10000}}"#)
            }
            Self::Cpuset => {
                let first = cgroup::validate::Machine::here().cpu_list;
                let first: String = first.chars().take_while(char::is_ascii_digit).collect();
                set("pin a cgroup to a CPU", &format!(r#"{{"cpu": {{"cpus": "{first}"}}}}"#))
            }
            Self::PidsLimit => set("limit the tasks of a cgroup", r#"{"pids": {"limit": 100}}"#),
            Self::IoLimit => match first_disk() {
                Some((major, minor)) => set(
                    "limit reading from a disk",
                    &format!(
                        r#"{{"blockIO": {{"throttleReadBpsDevice": [{{"major": {major}, "minor": {minor}, "rate": 1048576}}]}}}}"#
                    ),
                ),
                None => verdict("find a disk in /sys/block", Err(Errno::ENODEV)),
            },
            Self::IoWeight => set("weigh the I/O of a cgroup", r#"{"blockIO": {"weight": 500}}"#),
            Self::Hugetlb => set(
                "limit the huge pages of a cgroup",
                r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}]}"#,
            ),
            Self::Devices => {
                set("deny a cgroup all devices", r#"{"devices": [{"allow": false, "access": "rwm"}]}"#)
            }
            Self::Freeze => {
                let tried = cgroup.freeze().and_then(|()| cgroup.thaw());
                verdict("freeze and thaw an empty cgroup", tried.map_err(|e| e.errno()))
            }
            Self::CgroupKill => {
                let path = cgroup.path().join("cgroup.kill");
                let tried = std::fs::write(&path, "1")
                    .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)));
                verdict("write 1 to cgroup.kill of an empty cgroup", tried)
            }
            Self::CloneIntoCgroup => {
                let tried = cgroup.attach().map_err(|e| e.errno()).and_then(|attach| clone_into(&attach.v2));
                verdict("clone3 a child into a cgroup", tried)
            }
            other => unreachable!("{other:?} needs no cgroup"),
        }
    }
}

/// Without the path of the cgroup that was made to find out.
fn missing(fact: &cgroup::Unsupported) -> Verdict {
    let file = fact.file.file_name().unwrap_or_default().to_string_lossy();
    verdict(format!("write {file}"), Err(fact.errno))
}

fn clone_into(cgroup: &OwnedFd) -> Tried {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: clone_args is plain data; without CLONE_VM the child is a fork and leaves at once.
    let pid = unsafe {
        let mut args: libc::clone_args = std::mem::zeroed();
        args.flags = CLONE_INTO_CGROUP;
        args.exit_signal = libc::SIGCHLD as u64;
        args.cgroup = cgroup.as_raw_fd() as u64;
        let pid = sys(libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()))?;
        if pid == 0 {
            libc::_exit(0);
        }
        pid
    };
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).map(drop)
}

fn first_disk() -> Option<(u32, u32)> {
    // loop and zram devices take limits as well, but a disk is what is asked about.
    let mut names: Vec<_> = std::fs::read_dir("/sys/block").ok()?.filter_map(Result::ok).collect();
    names.sort_by_key(|e| {
        let name = e.file_name();
        let name = name.to_string_lossy();
        (name.starts_with("loop") || name.starts_with("zram") || name.starts_with("ram"), name.into_owned())
    });
    let text = std::fs::read_to_string(names.first()?.path().join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn openat2() -> Tried {
    const RESOLVE_IN_ROOT: u64 = 0x10;
    // SAFETY: open_how is plain data passed with its size; the descriptor made is closed again.
    unsafe {
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
        how.resolve = RESOLVE_IN_ROOT;
        let size = size_of::<libc::open_how>();
        let fd = sys(libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, c"/".as_ptr(), &raw const how, size))?;
        libc::close(fd);
    }
    Ok(())
}

fn mount_setattr() -> Tried {
    unshare(libc::CLONE_NEWNS)?;
    // SAFETY: mount_attr is plain data passed with its size; the process ends with its descriptors.
    unsafe {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        let tree = sys(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), flags))?;
        let tree = OwnedFd::from_raw_fd(tree);
        let mut attr: libc::mount_attr = std::mem::zeroed();
        attr.attr_set = libc::MOUNT_ATTR_RDONLY;
        let size = size_of::<libc::mount_attr>();
        let call = libc::SYS_mount_setattr;
        sys(libc::syscall(call, tree.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, &raw const attr, size))
            .map(drop)
    }
}

fn overlay(extra: &std::ffi::CStr) -> Tried {
    let mut data = [0u8; 128];
    let base = b"lowerdir=a:b,upperdir=upper,workdir=work";
    data[..base.len()].copy_from_slice(base);
    data[base.len()..base.len() + extra.to_bytes().len()].copy_from_slice(extra.to_bytes());
    let data = std::ffi::CStr::from_bytes_until_nul(&data).map_err(|_| Errno::EINVAL)?;
    probe::mount(Some(c"overlay"), c"at", Some(c"overlay"), 0, Some(data))
}

fn io_uring() -> Verdict {
    let mut params = [0u8; 120];
    // SAFETY: struct io_uring_params is 120 bytes, all zero is valid; the ring is closed again.
    let tried = unsafe {
        sys(libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr())).map(|fd| {
            libc::close(fd);
        })
    };
    let mut how = "io_uring_setup".to_owned();
    if tried.is_err()
        && let Ok(text) = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
    {
        how = match text.trim() {
            "0" => "io_uring_setup (a seccomp filter or security module refuses it)".to_owned(),
            level => format!("io_uring_setup (kernel.io_uring_disabled = {level})"),
        };
    }
    verdict(how, tried)
}

fn ring_buffer() -> Tried {
    const MAP_CREATE: i32 = 0;
    const RINGBUF: u32 = 27;
    // struct: map_type, key_size, value_size, max_entries.
    let attr = [RINGBUF, 0, 0, 4096u32];
    // SAFETY: a prefix of union bpf_attr passed with its size; the map is closed again.
    unsafe {
        sys(libc::syscall(libc::SYS_bpf, MAP_CREATE, attr.as_ptr(), size_of_val(&attr))).map(|fd| {
            libc::close(fd);
        })
    }
}

/// Read from a securityfs of our own, since nobody need have mounted one.
fn lockdown() -> Verdict {
    let tried = on_scratch(|| {
        probe::mount(Some(c"securityfs"), c"at", Some(c"securityfs"), 0, None)?;
        let mut text = [0u8; 64];
        // SAFETY: a NUL-terminated path; the buffer is passed with its length.
        let length = unsafe {
            let fd = sys(libc::open(c"at/lockdown".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC).into())?;
            Errno::result(libc::read(fd, text.as_mut_ptr().cast(), text.len()))?
        };
        // "[none] integrity confidentiality", the one in force in brackets.
        if text[..length as usize].starts_with(b"[none]") { Ok(()) } else { Err(Errno::EPERM) }
    });
    match tried {
        // A kernel without the feature locks nothing.
        Err(Errno::ENOENT) => verdict("look for lockdown in securityfs: there is none", Ok(())),
        Err(Errno::EPERM) => verdict("read lockdown in securityfs: the kernel is locked down", tried),
        other => verdict("read lockdown in securityfs", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_is_tried_and_none_leaves_a_trace() {
        for (at, feature) in Feature::ALL.into_iter().enumerate() {
            assert_eq!(feature as usize, at);
        }
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let rows = check();
        for row in &rows {
            let word = if row.supported { "yes" } else { "no" };
            println!("{:9} {:30} {word:4} {} {:?}", row.area, row.feature, row.probe, row.errno);
            assert_eq!(row.supported, row.errno.is_none());
        }
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
        // What every host that can run the other tests of this crate has.
        for feature in
            [Feature::Cgroup2, Feature::CloneIntoCgroup, Feature::Pidfd, Feature::Openat2, Feature::Seccomp]
        {
            assert!(supports(feature), "{feature:?}: {}", fact(feature));
        }
        let own = format!("probe-{}-", std::process::id());
        let parent = Mounts::find().unwrap().v2.join("bulkhead");
        let left = std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
        assert_eq!(left.filter(|e| e.file_name().to_string_lossy().starts_with(&own)).count(), 0);
    }
}
