//! Where the programs attach, and why one of them might not.
//!
//! Each hook stands alone. A kernel without the tracepoint, a lockdown, or a
//! verifier that refuses takes away that hook and nothing else, and the reason is
//! kept as a fact that the user is told once.

use std::io;

use aya::programs::CgroupSkbAttachType;

/// One thing that can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Children of the watched cgroup that come and go, with their names.
    Cgroup,
    /// Ends of processes, with status and duration.
    Exit,
    /// Successful execs, with arguments, directory and parents.
    Exec,
    /// Execs that returned an error. A system-call tracepoint: while it is on,
    /// every system call of the host takes the kernel's slower path.
    ExecFailed,
    /// Counts of processes and threads created.
    Fork,
    /// Victims of the OOM killer.
    Oom,
    /// The creator of each socket, so that UDP and DNS have a process.
    Socket,
    /// TCP connections: connect, accept, close, listen.
    Tcp,
    /// Connects that fail before a packet is sent. A system-call tracepoint, as
    /// [`Hook::ExecFailed`].
    ConnectFailed,
    /// Counts of TCP retransmissions.
    Retransmit,
    /// Packet and byte counts, UDP flows and DNS.
    Packets,
    /// Histogram of the time between runnable and running.
    RunQueue,
    /// Histogram of block request latencies, counts and bytes.
    BlockIo,
    /// The sockets that are older than the tracer: those that listen are told, and the others get an owner.
    /// One look at every open file of the host; nothing stays attached.
    OlderSockets,
}

/// How a program attaches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attach {
    /// A BTF-typed tracepoint. Minimum kernel: 5.5.
    Btf(&'static str),
    /// A tracepoint by perf event; needs tracefs for its number.
    Tracepoint(&'static str, &'static str),
    /// All packets of the cgroup and what is below.
    CgroupSkb(CgroupSkbAttachType),
    /// All sockets made in the cgroup and what is below.
    CgroupSock,
    /// Run once over everything of a kind. Minimum kernel: 5.11 (`bpf_sock_from_file`).
    Iterate(&'static str),
}

impl Hook {
    /// Every hook, in the order in which they attach: an end is watched before a
    /// beginning, so that nothing begun is left without its end.
    pub const ALL: [Self; 14] = [
        Self::Cgroup,
        Self::Exit,
        Self::Exec,
        Self::ExecFailed,
        Self::Fork,
        Self::Oom,
        Self::Socket,
        Self::Tcp,
        Self::ConnectFailed,
        Self::Retransmit,
        Self::Packets,
        Self::RunQueue,
        Self::BlockIo,
        // Last: what comes up meanwhile is seen by the hooks above.
        Self::OlderSockets,
    ];

    /// The name a user sees.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Exit => "exit",
            Self::Exec => "exec",
            Self::ExecFailed => "failed exec",
            Self::Fork => "fork",
            Self::Oom => "oom",
            Self::Socket => "socket owner",
            Self::Tcp => "tcp",
            Self::ConnectFailed => "failed connect",
            Self::Retransmit => "tcp retransmit",
            Self::Packets => "packets",
            Self::RunQueue => "run-queue latency",
            Self::BlockIo => "block I/O latency",
            Self::OlderSockets => "older sockets",
        }
    }

    pub(crate) const fn programs(self) -> &'static [(&'static str, Attach)] {
        match self {
            Self::Cgroup => &[
                ("on_cgroup_mkdir", Attach::Btf("cgroup_mkdir")),
                ("on_cgroup_rmdir", Attach::Btf("cgroup_rmdir")),
            ],
            Self::Exit => &[("on_exit", Attach::Btf("sched_process_exit"))],
            Self::Exec => &[("on_exec", Attach::Btf("sched_process_exec"))],
            Self::ExecFailed => &[
                ("on_execve_exit", Attach::Tracepoint("syscalls", "sys_exit_execve")),
                ("on_execveat_exit", Attach::Tracepoint("syscalls", "sys_exit_execveat")),
            ],
            Self::Fork => &[("on_fork", Attach::Btf("sched_process_fork"))],
            Self::Oom => &[("on_oom", Attach::Btf("mark_victim"))],
            Self::Socket => &[("on_socket", Attach::CgroupSock)],
            Self::Tcp => &[("on_tcp_state", Attach::Btf("inet_sock_set_state"))],
            Self::ConnectFailed => &[("on_connect_exit", Attach::Tracepoint("syscalls", "sys_exit_connect"))],
            Self::Retransmit => &[("on_tcp_retransmit", Attach::Btf("tcp_retransmit_skb"))],
            Self::Packets => &[
                ("on_egress", Attach::CgroupSkb(CgroupSkbAttachType::Egress)),
                ("on_ingress", Attach::CgroupSkb(CgroupSkbAttachType::Ingress)),
            ],
            Self::RunQueue => &[
                ("on_fork_waits", Attach::Btf("sched_process_fork")),
                ("on_exec_waits", Attach::Btf("sched_process_exec")),
                ("on_each_task", Attach::Iterate("task")),
                ("on_switch", Attach::Btf("sched_switch")),
                ("on_wakeup", Attach::Btf("sched_wakeup")),
                ("on_wakeup_new", Attach::Btf("sched_wakeup_new")),
            ],
            Self::BlockIo => &[
                ("on_block_complete", Attach::Btf("block_rq_complete")),
                ("on_block_insert", Attach::Btf("block_rq_insert")),
                ("on_block_issue", Attach::Btf("block_rq_issue")),
            ],
            Self::OlderSockets => &[("on_each_file", Attach::Iterate("task_file"))],
        }
    }
}

/// Why a hook is not there.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The kernel's BTF does not have the tracepoint.
    #[error("this kernel has no tracepoint {0}")]
    NoTracepoint(&'static str),
    /// tracefs is neither mounted nor mountable, or lacks the event.
    #[error("the number of tracepoint {tracepoint} cannot be read from tracefs: {source}")]
    Tracefs {
        /// `category:name`.
        tracepoint: String,
        /// What failed.
        source: io::Error,
    },
    /// The kernel does not let this process load or attach it.
    #[error("{call}: {source} (needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN{lockdown})")]
    Refused {
        /// The system call.
        call: &'static str,
        /// EPERM or EACCES.
        source: io::Error,
        /// What may forbid it to whoever has these.
        lockdown: Lockdown,
    },
    /// The verifier did not accept the program.
    #[error("the verifier rejects {program}: {source}: {reason}{}", lockdown.rejection())]
    Rejected {
        /// The program's function.
        program: &'static str,
        /// The last line of the verifier that says something.
        reason: String,
        /// Errno of the load.
        source: io::Error,
        /// In confidentiality mode the verifier does not know the helpers that read kernel memory.
        lockdown: Lockdown,
    },
    /// A system call failed for another reason.
    #[error("{call}: {source}")]
    Syscall {
        /// The system call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The loader could not prepare the program.
    #[error("{program}: {source}")]
    Program {
        /// The program's function.
        program: &'static str,
        /// The loader's reason.
        source: Box<aya::programs::ProgramError>,
    },
}

/// The kernel's lockdown, `/sys/kernel/security/lockdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// securityfs is not mounted, or the kernel has no lockdown.
    Unknown,
    /// Off.
    None,
    /// The kernel cannot be changed.
    Integrity,
    /// Nor can its memory be read, which is what tracing programs do.
    Confidentiality,
}

impl Lockdown {
    /// `none [integrity] confidentiality`
    pub(crate) fn parse(text: &str) -> Self {
        let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word);
        match chosen {
            Some("none") => Self::None,
            Some("integrity") => Self::Integrity,
            Some("confidentiality") => Self::Confidentiality,
            _ => Self::Unknown,
        }
    }

    /// What a rejected program needs to be told of it.
    fn rejection(self) -> &'static str {
        match self {
            Self::Confidentiality => {
                "; the kernel is locked down (confidentiality), which forbids programs that read its memory"
            }
            _ => "",
        }
    }
}

impl std::fmt::Display for Lockdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "; a kernel lockdown may forbid it",
            Self::None => "",
            Self::Integrity => "; the kernel is locked down: integrity",
            Self::Confidentiality => "; the kernel is locked down: confidentiality",
        })
    }
}

/// What became of one hook.
#[derive(Debug)]
pub struct HookReport {
    /// Which.
    pub hook: Hook,
    /// Attached, or the reason why not.
    pub outcome: Result<(), HookError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_read_and_told() {
        for (text, want) in [
            ("[none] integrity confidentiality\n", Lockdown::None),
            ("none [integrity] confidentiality\n", Lockdown::Integrity),
            ("none integrity [confidentiality]\n", Lockdown::Confidentiality),
            ("", Lockdown::Unknown),
            ("[", Lockdown::Unknown),
            ("[new]", Lockdown::Unknown),
        ] {
            assert_eq!(Lockdown::parse(text), want, "{text:?}");
        }
        let source = || io::Error::from_raw_os_error(libc::EPERM);
        let lockdown = Lockdown::Confidentiality;
        let refused = HookError::Refused { call: "bpf", source: source(), lockdown };
        assert!(refused.to_string().contains("locked down: confidentiality"), "{refused}");
        let reason = "unknown func bpf_probe_read_kernel#113".to_owned();
        let rejected = HookError::Rejected { program: "on_exec", reason, source: source(), lockdown };
        assert!(rejected.to_string().contains("locked down (confidentiality)"), "{rejected}");
    }
}
