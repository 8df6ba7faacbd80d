//! Profiles: rules that depend on the capabilities a container has, in the format of Docker's
//! `--security-opt seccomp=FILE`, and the default that applies when none is given.
//!
//! The default is Docker's, as data of our own: what is allowed to every container, what each capability
//! adds, and three calls that are looked at more closely. Source: the rule list of moby's profile.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::Deserialize;

/// Why a profile's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not JSON, or not a profile.
    #[error("opening seccomp profile failed: {0}")]
    Json(#[from] serde_json::Error),
    /// It says something twice that may be said once.
    #[error("seccomp profile: {0}")]
    Contradiction(&'static str),
}

/// A profile in Docker's format. An OCI `linux.seccomp` object is one, too.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// The form before 1.10: one name.
    #[serde(default)]
    name: Option<String>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    /// Names with their `CAP_`; one this build does not know is simply never held.
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// What Docker calls this machine.
const MACHINE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

impl Profile {
    /// Reads a profile.
    pub fn parse(json: &[u8]) -> Result<Self, ProfileError> {
        let profile: Self = serde_json::from_slice(json)?;
        if profile.architectures.is_some() && profile.arch_map.as_ref().is_some_and(|m| !m.is_empty()) {
            return Err(ProfileError::Contradiction(
                "both 'architectures' and 'archMap' are given; use either of them",
            ));
        }
        for rule in profile.syscalls.iter().flatten() {
            if rule.name.is_some() && !rule.names.is_empty() {
                return Err(ProfileError::Contradiction(
                    "both 'name' and 'names' are given; use either of them",
                ));
            }
        }
        Ok(profile)
    }

    /// The rules for a container with these capabilities on this machine.
    ///
    /// A rule's `minKernel` is taken to hold: the versions that profiles ask for are older than every
    /// kernel Bulkhead runs on, and a version says nothing about a kernel anyway.
    pub fn resolve(&self, capabilities: &Capabilities) -> LinuxSeccomp {
        let native = if MACHINE == "arm64" { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };
        let architectures = match &self.arch_map {
            Some(map) => map
                .iter()
                .filter(|entry| entry.architecture == native)
                .flat_map(|entry| {
                    std::iter::once(entry.architecture)
                        .chain(entry.sub_architectures.iter().flatten().copied())
                })
                .collect(),
            None => self.architectures.clone().unwrap_or_default(),
        };
        let held = |name: &String| {
            name.strip_prefix("CAP_")
                .and_then(|name| name.parse::<Capability>().ok())
                .is_some_and(|cap| capabilities.contains(&cap))
        };
        let here = |arch: &String| arch == MACHINE;
        let applies = |rule: &&Rule| {
            let (on, off) = (&rule.includes, &rule.excludes);
            on.caps.iter().flatten().all(held)
                && on.arches.as_ref().is_none_or(|arches| arches.is_empty() || arches.iter().any(here))
                && !off.caps.iter().flatten().any(held)
                && !off.arches.iter().flatten().any(here)
                && off.min_kernel.is_none()
        };
        let syscalls = self.syscalls.iter().flatten().filter(applies).map(|rule| {
            let names = match &rule.name {
                Some(name) => vec![name.clone()],
                None => rule.names.clone(),
            };
            rule_of(names, rule.action, rule.errno_ret, rule.args.clone().unwrap_or_default())
        });
        seccomp(
            self.default_action,
            self.default_errno_ret,
            architectures,
            self.flags.clone().unwrap_or_default(),
            syscalls.collect(),
        )
    }
}

fn seccomp(
    action: LinuxSeccompAction,
    errno: Option<u32>,
    architectures: Vec<Arch>,
    flags: Vec<LinuxSeccompFilterFlag>,
    syscalls: Vec<LinuxSyscall>,
) -> LinuxSeccomp {
    let mut seccomp = LinuxSeccompBuilder::default()
        .default_action(action)
        .architectures(architectures)
        .flags(flags)
        .syscalls(syscalls)
        .build()
        .expect("every field has a default");
    seccomp.set_default_errno_ret(errno);
    seccomp
}

fn rule_of(
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscallBuilder::default()
        .names(names)
        .action(action)
        .args(args)
        .build()
        .expect("every field has a default");
    rule.set_errno_ret(errno);
    rule
}

/// Allowed to every container.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    "_llseek", "_newselect", "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk",
    "cachestat", "capget", "capset", "chdir", "chmod", "chown", "chown32", "clock_adjtime",
    "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64",
    "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range", "connect", "copy_file_range",
    "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
    "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve",
    "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fadvise64_64",
    "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32",
    "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork",
    "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync",
    "ftruncate", "ftruncate64", "futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv",
    "futex_wake", "futimesat", "get_robust_list", "get_thread_area", "getcpu", "getcwd", "getdents",
    "getdents64", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups",
    "getgroups32", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
    "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage",
    "getsid", "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getuid32", "getxattr",
    "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel",
    "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup", "io_submit",
    "ioctl", "ioprio_get", "ioprio_set", "ipc", "kill", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "lchown", "lchown32", "lgetxattr", "link", "linkat", "listen",
    "listmount", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lseek", "lsetxattr",
    "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret",
    "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap", "mmap2",
    "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv",
    "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep",
    "newfstatat", "open", "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe",
    "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl",
    "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease", "process_vm_readv", "process_vm_writev", "ptrace", "pselect6", "pselect6_time64",
    "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recv",
    "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr",
    "removexattrat", "rename", "renameat", "renameat2", "restart_syscall", "riscv_hwprobe", "rmdir",
    "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield",
    "seccomp", "select", "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "send",
    "sendfile", "sendfile64", "sendmmsg", "sendmsg", "sendto", "set_robust_list", "set_thread_area",
    "set_tid_address", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32",
    "setgroups", "setgroups32", "setitimer", "setpgid", "setpriority", "setregid", "setregid32",
    "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setrlimit",
    "setsid", "setsockopt", "setuid", "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt",
    "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn",
    "socketcall", "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx",
    "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time",
    "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64",
    "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64",
    "timerfd_settime", "timerfd_settime64", "times", "tkill", "truncate", "truncate64", "ugetrlimit",
    "umask", "uname", "unlink", "unlinkat", "uretprobe", "utime", "utimensat", "utimensat_time64",
    "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid", "write", "writev",
];

/// Allowed on this machine only, to every container.
const MACHINE_ONLY: &[&str] = if cfg!(target_arch = "aarch64") {
    &["arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"]
} else {
    &["arch_prctl", "modify_ldt"]
};

/// What a capability adds, since without it these calls only widen what can be attacked.
const BY_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (
        Capability::SysAdmin,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "init_module", "finit_module"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::SysRawio, &["iopl", "ioperm"]),
    (Capability::SysTime, &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::SysNice, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Every CLONE_NEW* but CLONE_NEWTIME, which shares its bit with a signal number.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Docker's default profile for a container with these capabilities.
pub(in crate::runtime) fn default(capabilities: &Capabilities) -> LinuxSeccomp {
    use LinuxSeccompOperator as Op;
    let allow = |names: Vec<String>, args| rule_of(names, LinuxSeccompAction::ScmpActAllow, None, args);
    let arg = |value: u64, op: Op| {
        let arg = LinuxSeccompArgBuilder::default().index(0_usize).value(value).op(op).build();
        vec![arg.expect("every field has a default")]
    };
    let one = |name: &str| vec![name.to_owned()];
    let held =
        BY_CAPABILITY.iter().filter(|(cap, _)| capabilities.contains(cap)).flat_map(|(_, names)| *names);
    let names = ALWAYS.iter().chain(MACHINE_ONLY).chain(held).map(|&name| name.to_owned());
    let mut rules = vec![allow(names.collect(), Vec::new())];
    // Not AF_ALG (38) and not AF_VSOCK (40): the first is a way into the kernel's crypto code, the
    // second leads past every network namespace to the hypervisor.
    for (value, op) in [(38, Op::ScmpCmpLt), (39, Op::ScmpCmpEq), (40, Op::ScmpCmpGt)] {
        rules.push(allow(one("socket"), arg(value, op)));
    }
    // PER_LINUX, PER_LINUX32, each also with UNAME26, and asking without changing.
    for value in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(allow(one("personality"), arg(value, Op::ScmpCmpEq)));
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        // A masked comparison with zero: none of these bits.
        rules.push(allow(one("clone"), arg(CLONE_NAMESPACES, Op::ScmpCmpMaskedEq)));
        // Its flags lie in memory, where a filter cannot look; ENOSYS makes the C library use clone.
        let refuse = LinuxSeccompAction::ScmpActErrno;
        rules.push(rule_of(one("clone3"), refuse, Some(libc::ENOSYS as u32), Vec::new()));
    }
    let architectures = if MACHINE == "arm64" {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    };
    seccomp(LinuxSeccompAction::ScmpActErrno, Some(libc::EPERM as u32), architectures, Vec::new(), rules)
}

#[cfg(test)]
mod tests {
    use super::super::arch::Abi;
    use super::super::compile::compile;
    use super::super::interpreter::{self, Call};
    use super::*;
    use crate::runtime::defaults;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x5_0001;
    const ENOSYS: u32 = 0x5_0000 | libc::ENOSYS as u32;

    fn verdict(rules: &LinuxSeccomp, name: &str, first: u64) -> u32 {
        let program = compile(rules).expect("compiles");
        let number = Abi::NATIVE.number(name).expect("a call of this machine");
        interpreter::run(&program, &Call { number, arch: Abi::NATIVE.audit(), args: [first, 0, 0, 0, 0, 0] })
    }

    #[test]
    fn the_default_profile_decides_as_dockers() {
        let rules = default(&defaults::capabilities());
        for (name, first, want) in [
            ("read", 0, ALLOW),
            ("execve", 0, ALLOW),
            ("ptrace", 0, ALLOW),
            ("chroot", 0, ALLOW),
            ("mount", 0, EPERM),
            ("unshare", 0, EPERM),
            ("setns", 0, EPERM),
            ("bpf", 0, EPERM),
            ("io_uring_setup", 0, EPERM),
            ("keyctl", 0, EPERM),
            ("kexec_load", 0, EPERM),
            ("open_by_handle_at", 0, EPERM),
            ("clone3", 0, ENOSYS),
            ("clone", 0x11, ALLOW),
            ("clone", 0x1000_0011, EPERM),
            ("clone", 0x0002_0000, EPERM),
            ("socket", 2, ALLOW),
            ("socket", 38, EPERM),
            ("socket", 39, ALLOW),
            ("socket", 40, EPERM),
            ("socket", 41, ALLOW),
            ("personality", 0, ALLOW),
            ("personality", 0xffff_ffff, ALLOW),
            ("personality", 0x0040_0000, EPERM),
        ] {
            assert_eq!(verdict(&rules, name, first), want, "{name}({first:#x})");
        }
    }

    #[test]
    fn a_capability_brings_its_calls() {
        let rules = default(&defaults::all_capabilities());
        for name in ["mount", "clone3", "bpf", "open_by_handle_at", "setns", "reboot"] {
            assert_eq!(verdict(&rules, name, 0), ALLOW, "{name}");
        }
        assert_eq!(verdict(&rules, "clone", 0x1000_0011), ALLOW);
        assert_eq!(verdict(&rules, "kexec_load", 0), EPERM);
    }

    #[test]
    fn every_name_of_the_default_is_a_call_somewhere() {
        let known = |name: &str| {
            [Abi::X86_64, Abi::X86, Abi::Aarch64, Abi::Arm].iter().any(|abi| abi.number(name).is_some())
        };
        // In Docker's list, but a call only of machines that this build does not run on, or of none.
        let elsewhere = ["riscv_hwprobe", "getsid", "utimensat_time64", "sync_file_range2", "breakpoint"];
        for name in ALWAYS.iter().chain(BY_CAPABILITY.iter().flat_map(|(_, names)| *names)) {
            assert!(known(name) || elsewhere.contains(name), "{name} is a call of no architecture");
        }
    }

    #[test]
    fn a_profile_is_resolved_by_capability_and_machine() {
        let json = br#"{
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}],
            "syscalls": [
                {"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["setns"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
                {"names": ["gettid"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}}
            ]}"#;
        let profile = Profile::parse(json).expect("profile");
        for (caps, mount, setns) in
            [(defaults::capabilities(), EPERM, ALLOW), (defaults::all_capabilities(), ALLOW, EPERM)]
        {
            let rules = profile.resolve(&caps);
            assert_eq!(verdict(&rules, "read", 0), ALLOW);
            assert_eq!(verdict(&rules, "mount", 0), mount);
            assert_eq!(verdict(&rules, "setns", 0), setns);
            assert_eq!(verdict(&rules, "getpid", 0), EPERM);
            assert_eq!(verdict(&rules, "gettid", 0), ALLOW);
        }
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for json in [
            "",
            "{}",
            r#"{"defaultAction": "SCMP_ACT_NONSENSE"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"name": "read", "names": ["write"], "action": "SCMP_ACT_ALLOW"}]}"#,
        ] {
            assert!(Profile::parse(json.as_bytes()).is_err(), "{json}");
        }
    }
}
