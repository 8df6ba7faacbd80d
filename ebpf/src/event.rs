//! Events as Rust sees them, and the way from bytes to them.
//!
//! [`decode`] believes nothing: lengths inside a record are checked against the
//! record, an unknown kind is an error, and nothing is cast. It would take any
//! file for a ring buffer and do no worse than say so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::dns::Message;
use crate::wire::{self, Namespaces, Task};

/// Something a container did, or that was done to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When: CLOCK_BOOTTIME, which no clock step moves. See [`crate::Tracer::wall`].
    pub time: Duration,
    /// The container's cgroup.
    pub cgroup_id: u64,
    /// The cgroup of the task or socket: the container's or one below it.
    pub leaf_cgroup_id: u64,
    /// Who; `None` when a socket is older than the tracer and its owner unknown.
    pub task: Option<Task>,
    /// What.
    pub kind: Kind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A process executed a program.
    Exec(Exec),
    /// A process tried to and got an error (a positive errno).
    ExecFailed(Exec, i32),
    /// A process that had executed something ended.
    Exit(Exit),
    /// A connection to somewhere stands; the duration is the handshake's.
    TcpConnect(Tcp),
    /// A connection to somewhere failed; `error` says why when the kernel does.
    TcpConnectFailed(Tcp),
    /// A connection from somewhere stands. The task is the listener's.
    TcpAccept(Tcp),
    /// A connection ended; the duration is its life.
    TcpClose(Tcp),
    /// A socket listens.
    TcpListen(Tcp),
    /// UDP traffic between two ends, reported when it rests.
    UdpFlow(UdpFlow),
    /// A DNS query or answer.
    Dns(Dns),
    /// The OOM killer chose this task.
    Oom(Oom),
    /// A child of the watched cgroup was made; its directory's name.
    CgroupMade(Vec<u8>),
    /// A child of the watched cgroup was removed; its directory's name.
    CgroupRemoved(Vec<u8>),
}

impl Kind {
    /// The event's name in output and filters.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::ExecFailed(..) => "exec-failed",
            Self::Exit(_) => "exit",
            Self::TcpConnect(_) => "connect",
            Self::TcpConnectFailed(_) => "connect-failed",
            Self::TcpAccept(_) => "accept",
            Self::TcpClose(_) => "close",
            Self::TcpListen(_) => "listen",
            Self::UdpFlow(_) => "udp",
            Self::Dns(Dns { outgoing: true, .. }) => "dns-query",
            Self::Dns(_) => "dns-answer",
            Self::Oom(_) => "oom",
            Self::CgroupMade(_) => "cgroup-made",
            Self::CgroupRemoved(_) => "cgroup-removed",
        }
    }
}

/// An exec, successful or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The path as it was given.
    pub filename: Vec<u8>,
    /// The filename is longer than what is here.
    pub filename_cut: bool,
    /// The working directory as the process sees it.
    pub cwd: Vec<u8>,
    /// The directory is deeper than what is here; its beginning is missing.
    pub cwd_cut: bool,
    /// The arguments, the name first.
    pub args: Vec<Vec<u8>>,
    /// There are more arguments, or the last one is longer.
    pub args_cut: bool,
    /// The chain of parents, nearest first.
    pub parents: Vec<Parent>,
}

/// A link of the chain of parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Process id on the host.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, when it ended by itself.
    pub code: Option<u8>,
    /// Signal, when one ended it.
    pub signal: Option<u8>,
    /// It left a core dump.
    pub core: bool,
    /// Since its last exec.
    pub duration: Duration,
}

/// What carries a DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Both ends of a connection or flow. IPv4 addresses mapped into IPv6 are shown
/// as what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// Local address.
    pub local: IpAddr,
    /// Local port; 0 when none was chosen.
    pub local_port: u16,
    /// Remote address.
    pub remote: IpAddr,
    /// Remote port.
    pub remote_port: u16,
    /// Network namespace of the socket; 0 when not known.
    pub netns: u32,
}

/// The state of a TCP socket at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Addresses and ports.
    pub ends: Endpoints,
    /// Handshake or life, by event; zero where neither is known.
    pub duration: Duration,
    /// Payload sent, without what was sent again.
    pub tx_bytes: u64,
    /// Payload received.
    pub rx_bytes: u64,
    /// Why it failed or broke: a positive errno.
    pub error: Option<i32>,
    /// Smoothed round-trip time.
    pub srtt: Duration,
    /// Segments sent again.
    pub retransmits: u32,
    /// Segments sent.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// A listening socket that was there before the tracer.
    pub older: bool,
}

/// UDP traffic between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpFlow {
    /// Addresses and ports.
    pub ends: Endpoints,
    /// From the first datagram to the last.
    pub duration: Duration,
    /// Datagrams sent.
    pub tx_packets: u64,
    /// Their payload.
    pub tx_bytes: u64,
    /// Datagrams received.
    pub rx_packets: u64,
    /// Their payload.
    pub rx_bytes: u64,
}

/// A DNS message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Addresses and ports; the remote end is the server.
    pub ends: Endpoints,
    /// A datagram, or a piece of a stream.
    pub transport: Transport,
    /// Sent by the container.
    pub outgoing: bool,
    /// The message; `None` when the bytes are no DNS.
    pub message: Option<Message>,
    /// Bytes of the message.
    pub size: u32,
    /// For an answer whose query was seen: the time between them.
    pub latency: Option<Duration>,
}

/// The OOM killer's choice, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oom {
    /// The lowest memory limit on the victim or above it; `None`: no limit, or
    /// not known ([`Oom::detailed`]).
    pub limit: Option<u64>,
    /// Its sizes; `None` on kernels before 6.8, which tell the pid only.
    pub detailed: Option<OomDetail>,
}

/// What the victim used, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomDetail {
    /// Address space.
    pub total_vm: u64,
    /// Anonymous memory.
    pub anon_rss: u64,
    /// File pages.
    pub file_rss: u64,
    /// Shared memory.
    pub shmem_rss: u64,
    /// Swapped out.
    pub swap: u64,
    /// Page tables.
    pub pgtables: u64,
    /// `oom_score_adj`.
    pub score_adj: i32,
}

impl OomDetail {
    /// Resident memory.
    pub const fn rss(&self) -> u64 {
        self.anon_rss + self.file_rss + self.shmem_rss
    }

    /// The points by which the kernel chose, in pages: resident, swapped and page
    /// tables, plus the adjustment in thousandths of the limit (`oom_badness` in
    /// mm/oom_kill.c). `None` without a limit, where the host's total counts.
    pub fn points(&self, limit: Option<u64>, page_size: u64) -> Option<i64> {
        let pages = |bytes: u64| (bytes / page_size) as i64;
        let adjustment = match self.score_adj {
            0 => 0,
            adj => i64::from(adj) * (pages(limit?) / 1000),
        };
        Some(pages(self.rss()) + pages(self.swap) + pages(self.pgtables) + adjustment)
    }
}

/// Why bytes are no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the event needs.
    #[error("a record of {len} bytes is too short for its kind {kind}")]
    Short {
        /// The kind, 0 when not even that is there.
        kind: u32,
        /// Bytes there are.
        len: usize,
    },
    /// A kind this version does not know.
    #[error("unknown event kind {0}")]
    UnknownKind(u32),
    /// An address family other than IPv4 and IPv6.
    #[error("unknown address family {0}")]
    UnknownFamily(u16),
}

/// Reads one record of the ring.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let short = |kind| DecodeError::Short { kind, len: bytes.len() };
    let head = wire::Header::read(bytes).ok_or(short(0))?;
    let kind = match head.kind {
        wire::EVENT_EXEC => Kind::Exec(exec(bytes).ok_or(short(head.kind))?.0),
        wire::EVENT_EXEC_FAILED => {
            let (exec, error) = exec(bytes).ok_or(short(head.kind))?;
            Kind::ExecFailed(exec, error.wrapping_neg())
        }
        wire::EVENT_EXIT => {
            let e = wire::ExitEvent::read(bytes).ok_or(short(head.kind))?;
            // The layout of wait(2)'s status, <bits/waitstatus.h>.
            let signal = (e.status & 0x7f) as u8;
            Kind::Exit(Exit {
                code: (signal == 0).then_some((e.status >> 8) as u8),
                signal: (signal != 0).then_some(signal),
                core: e.status & 0x80 != 0,
                duration: Duration::from_nanos(e.duration_ns),
            })
        }
        wire::EVENT_TCP_CONNECT => Kind::TcpConnect(tcp(bytes, head.kind)?),
        wire::EVENT_TCP_CONNECT_FAILED => Kind::TcpConnectFailed(tcp(bytes, head.kind)?),
        wire::EVENT_TCP_ACCEPT => Kind::TcpAccept(tcp(bytes, head.kind)?),
        wire::EVENT_TCP_CLOSE => Kind::TcpClose(tcp(bytes, head.kind)?),
        wire::EVENT_TCP_LISTEN => Kind::TcpListen(tcp(bytes, head.kind)?),
        wire::EVENT_DNS => {
            let e = wire::DnsEvent::read(bytes).ok_or(short(head.kind))?;
            let payload = &bytes[wire::DnsEvent::SIZE..];
            let payload = payload.get(..e.len as usize).ok_or(short(head.kind))?;
            Kind::Dns(Dns {
                ends: endpoints(&e.ends, e.netns)?,
                transport: if e.stream == 0 { Transport::Udp } else { Transport::Tcp },
                outgoing: e.outgoing != 0,
                message: crate::dns::parse(payload),
                size: e.wire_len,
                latency: None,
            })
        }
        wire::EVENT_OOM => {
            let e = wire::OomEvent::read(bytes).ok_or(short(head.kind))?;
            let page = page_size();
            Kind::Oom(Oom {
                limit: (e.limit_pages != u64::MAX).then(|| e.limit_pages.saturating_mul(page)),
                detailed: (e.detailed != 0).then(|| OomDetail {
                    total_vm: e.total_vm.saturating_mul(page),
                    anon_rss: e.anon_pages.saturating_mul(page),
                    file_rss: e.file_pages.saturating_mul(page),
                    shmem_rss: e.shmem_pages.saturating_mul(page),
                    swap: e.swap_pages.saturating_mul(page),
                    pgtables: e.pgtable_bytes,
                    score_adj: e.score_adj,
                }),
            })
        }
        kind @ (wire::EVENT_CGROUP_MADE | wire::EVENT_CGROUP_REMOVED) => {
            let name = c_str(&wire::CgroupEvent::read(bytes).ok_or(short(kind))?.name);
            if kind == wire::EVENT_CGROUP_MADE { Kind::CgroupMade(name) } else { Kind::CgroupRemoved(name) }
        }
        other => return Err(DecodeError::UnknownKind(other)),
    };
    Ok(Event {
        time: Duration::from_nanos(head.time_ns),
        cgroup_id: head.cgroup_id,
        leaf_cgroup_id: head.leaf_cgroup_id,
        task: known(head.task),
        kind,
    })
}

/// A flow, once it rests.
pub(crate) fn flow(key: &wire::FlowKey, flow: &wire::Flow) -> Result<Event, DecodeError> {
    Ok(Event {
        time: Duration::from_nanos(flow.last_ns),
        cgroup_id: key.cgroup_id,
        leaf_cgroup_id: flow.leaf_cgroup_id,
        task: known(flow.task),
        kind: Kind::UdpFlow(UdpFlow {
            ends: endpoints(&key.ends, flow.netns)?,
            duration: Duration::from_nanos(flow.last_ns.saturating_sub(flow.first_ns)),
            tx_packets: flow.tx_packets,
            tx_bytes: flow.tx_bytes,
            rx_packets: flow.rx_packets,
            rx_bytes: flow.rx_bytes,
        }),
    })
}

fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |n| n as u64)
}

fn known(task: Task) -> Option<Task> {
    (task.pid != 0).then_some(task)
}

/// Bytes up to the first NUL.
fn c_str(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

impl Task {
    /// The task's name without its padding. Any bytes: see [`crate::escape()`].
    pub fn name(&self) -> &[u8] {
        self.comm.split(|b| *b == 0).next().unwrap_or_default()
    }

    /// The namespace of a type as named in `/proc/PID/ns`.
    pub fn namespace(&self, kind: &str) -> Option<u32> {
        let Namespaces { mnt, pid, net, uts, ipc, user, cgroup, time } = self.ns;
        Some(match kind {
            "mnt" => mnt,
            "pid" => pid,
            "net" => net,
            "uts" => uts,
            "ipc" => ipc,
            "user" => user,
            "cgroup" => cgroup,
            "time" => time,
            _ => return None,
        })
    }
}

fn exec(bytes: &[u8]) -> Option<(Exec, i32)> {
    let e = wire::ExecEvent::read(bytes)?;
    let mut rest = &bytes[wire::ExecEvent::SIZE..];
    let mut take = |len: u32| {
        let (part, left) = rest.split_at_checked(len as usize)?;
        rest = left;
        Some(part)
    };
    let filename = c_str(take(e.filename_len)?);
    let components = take(e.cwd_len)?;
    let args = take(e.args_len)?;

    let mut cwd = Vec::new();
    for component in components.split(|b| *b == 0).filter(|c| !c.is_empty()).rev() {
        cwd.push(b'/');
        cwd.extend_from_slice(component);
    }
    if cwd.is_empty() {
        cwd.push(b'/');
    }
    let parents = e.parents.iter().take(e.parents_len as usize);
    Some((
        Exec {
            filename,
            filename_cut: e.cut & 1 != 0,
            cwd,
            cwd_cut: e.cut & 2 != 0,
            args: split_args(args),
            args_cut: e.cut & 4 != 0,
            parents: parents.map(|p| Parent { pid: p.pid, comm: c_str(&p.comm) }).collect(),
        },
        e.error,
    ))
}

/// Arguments are NUL-terminated; the last one may be cut before its NUL.
pub(crate) fn split_args(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|b| *b == 0).map(<[u8]>::to_vec).collect()
}

fn tcp(bytes: &[u8], kind: u32) -> Result<Tcp, DecodeError> {
    let e = wire::TcpEvent::read(bytes).ok_or(DecodeError::Short { kind, len: bytes.len() })?;
    Ok(Tcp {
        ends: endpoints(&e.ends, e.netns)?,
        duration: Duration::from_nanos(e.duration_ns),
        tx_bytes: e.tx_bytes,
        rx_bytes: e.rx_bytes,
        error: (e.error != 0).then_some(e.error),
        srtt: Duration::from_micros(u64::from(e.srtt_us)),
        retransmits: e.retransmits,
        segs_out: e.segs_out,
        segs_in: e.segs_in,
        older: e.older != 0,
    })
}

fn endpoints(ends: &wire::Endpoints, netns: u32) -> Result<Endpoints, DecodeError> {
    let address = |bytes: [u8; 16]| match i32::from(ends.family) {
        libc::AF_INET => Ok(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))),
        libc::AF_INET6 => Ok(Ipv6Addr::from(bytes).to_canonical()),
        _ => Err(DecodeError::UnknownFamily(ends.family)),
    };
    Ok(Endpoints {
        local: address(ends.local)?,
        local_port: ends.local_port,
        remote: address(ends.remote)?,
        remote_port: ends.remote_port,
        netns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of a kind, zero but for its header, with `tail` behind it.
    fn record(kind: u32, size: usize, tail: &[u8]) -> Vec<u8> {
        let mut b = vec![0; size];
        b[..4].copy_from_slice(&kind.to_ne_bytes());
        b[8..16].copy_from_slice(&77u64.to_ne_bytes());
        b[16..24].copy_from_slice(&1234u64.to_ne_bytes());
        b.extend_from_slice(tail);
        b
    }

    fn put(b: &mut [u8], at: usize, value: u32) {
        b[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    const HEAD: usize = wire::Header::SIZE;

    fn exec_record() -> Vec<u8> {
        let mut b = record(
            wire::EVENT_EXEC,
            wire::ExecEvent::SIZE,
            b"/bin/echo\0inner\0outer\0echo\0two words\0\0\xff\x1b[2J\0",
        );
        put(&mut b, HEAD + 4, 10);
        put(&mut b, HEAD + 8, 12);
        put(&mut b, HEAD + 12, 22);
        put(&mut b, HEAD + 24, 1);
        put(&mut b, HEAD + 32, 4711);
        b[HEAD + 36..HEAD + 40].copy_from_slice(b"sh\0x");
        b
    }

    #[test]
    fn an_exec_is_whole() {
        let e = decode(&exec_record()).unwrap();
        assert_eq!((e.time, e.cgroup_id), (Duration::from_nanos(77), 1234));
        assert_eq!(e.task, None);
        let Kind::Exec(exec) = e.kind else { panic!("{:?}", e.kind) };
        assert_eq!(exec.filename, b"/bin/echo");
        assert_eq!(exec.cwd, b"/outer/inner");
        assert_eq!(exec.args, [&b"echo"[..], b"two words", b"", b"\xff\x1b[2J"]);
        assert_eq!(exec.parents, [Parent { pid: 4711, comm: b"sh".to_vec() }]);
        assert!(!exec.args_cut);
    }

    #[test]
    fn arguments_split_at_each_nul() {
        for (bytes, args) in [
            (&b""[..], &[][..]),
            (b"\0", &[&b""[..]]),
            (b"a\0", &[b"a"]),
            (b"a\0\0", &[b"a", b""]),
            (b"a\0cut", &[b"a", b"cut"]),
        ] {
            assert_eq!(split_args(bytes), args, "{bytes:?}");
        }
    }

    #[test]
    fn a_status_is_a_code_or_a_signal() {
        for (status, code, signal, core) in [
            (0, Some(0), None, false),
            (0x300, Some(3), None, false),
            (9, None, Some(9), false),
            (0x8b, None, Some(11), true),
        ] {
            let mut b = record(wire::EVENT_EXIT, wire::ExitEvent::SIZE, b"");
            put(&mut b, HEAD + 8, status);
            let Kind::Exit(exit) = decode(&b).unwrap().kind else { panic!() };
            assert_eq!((exit.code, exit.signal, exit.core), (code, signal, core));
        }
    }

    #[test]
    fn addresses_of_both_families() {
        let mut b = record(wire::EVENT_TCP_CONNECT, wire::TcpEvent::SIZE, b"");
        b[HEAD..HEAD + 4].copy_from_slice(&[192, 0, 2, 1]);
        b[HEAD + 32..HEAD + 34].copy_from_slice(&443u16.to_ne_bytes());
        b[HEAD + 36..HEAD + 38].copy_from_slice(&2u16.to_ne_bytes());
        let Kind::TcpConnect(tcp) = decode(&b).unwrap().kind else { panic!() };
        assert_eq!((tcp.ends.local.to_string(), tcp.ends.local_port), ("192.0.2.1".into(), 443));

        b[HEAD + 36..HEAD + 38].copy_from_slice(&10u16.to_ne_bytes());
        let mapped: Ipv6Addr = "::ffff:192.0.2.9".parse().unwrap();
        b[HEAD..HEAD + 16].copy_from_slice(&mapped.octets());
        let Kind::TcpConnect(tcp) = decode(&b).unwrap().kind else { panic!() };
        assert_eq!(tcp.ends.local.to_string(), "192.0.2.9");

        b[HEAD + 36..HEAD + 38].copy_from_slice(&1u16.to_ne_bytes());
        assert_eq!(decode(&b), Err(DecodeError::UnknownFamily(1)));
    }

    #[test]
    fn points_follow_the_kernels_formula() {
        let d = OomDetail {
            total_vm: 0,
            anon_rss: 8 * 4096,
            file_rss: 4096,
            shmem_rss: 4096,
            swap: 2 * 4096,
            pgtables: 3 * 4096,
            score_adj: 0,
        };
        assert_eq!(d.points(None, 4096), Some(15));
        let adjusted = OomDetail { score_adj: -100, ..d };
        assert_eq!(adjusted.points(Some(4096 * 5000), 4096), Some(15 - 500));
        assert_eq!(adjusted.points(None, 4096), None);
    }

    /// Every prefix of every kind, every byte flipped, and noise: an answer, no
    /// panic, no read out of bounds.
    #[test]
    fn hostile_records() {
        let sizes = [
            (wire::EVENT_EXEC, wire::ExecEvent::SIZE),
            (wire::EVENT_EXEC_FAILED, wire::ExecEvent::SIZE),
            (wire::EVENT_EXIT, wire::ExitEvent::SIZE),
            (wire::EVENT_TCP_CLOSE, wire::TcpEvent::SIZE),
            (wire::EVENT_DNS, wire::DnsEvent::SIZE),
            (wire::EVENT_OOM, wire::OomEvent::SIZE),
            (wire::EVENT_CGROUP_MADE, wire::CgroupEvent::SIZE),
        ];
        for (kind, size) in sizes {
            let whole = record(kind, size, b"");
            for len in 0..size {
                assert!(
                    matches!(decode(&whole[..len]), Err(DecodeError::Short { .. })),
                    "kind {kind} with {len} of {size} bytes"
                );
            }
        }
        let whole = exec_record();
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = whole.clone();
                bad[at] = value;
                let _ = decode(&bad);
                let _ = decode(&bad[..at]);
            }
        }
        assert_eq!(decode(&record(4242, HEAD, b"")), Err(DecodeError::UnknownKind(4242)));
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        for kind in 0..14 {
            for _ in 0..2_000 {
                let mut noise = record(kind, 900, b"");
                for b in &mut noise[4..] {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    *b = (x >> 40) as u8;
                }
                let _ = decode(&noise);
            }
        }
    }
}
