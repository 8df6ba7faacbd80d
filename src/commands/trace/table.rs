//! One line per event, for people.
//!
//! Every string that a container has a say in is escaped before it gets here or here; a line never wraps on
//! a terminal, because a wrapped line hides where the next event begins.

use std::borrow::Cow;
use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use bulkhead_ebpf::{Dns, Endpoints, Event, Exec, Kind, Tcp, Transport, dns, escape};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::names::Who;

/// Columns before the details: name and width.
const COLUMNS: [(&str, usize); 5] =
    [("TIME", 12), ("CONTAINER", 16), ("PID", 7), ("COMM", 15), ("EVENT", 14)];

/// How lines look.
pub struct Table {
    width: Option<usize>,
    zone: TimeZone,
}

impl Table {
    /// As wide as the terminal, or as wide as need be when there is none or `whole` lines are wanted.
    pub fn new(whole: bool) -> Self {
        let width = if whole || !std::io::stdout().is_terminal() { None } else { terminal_width() };
        Self { width, zone: TimeZone::system() }
    }

    /// The first line.
    pub fn header(&self) -> String {
        self.fit(&COLUMNS.map(|(name, _)| Cow::Borrowed(name)), "DETAILS")
    }

    /// The line of an event that happened at a time of the clock.
    pub fn line(&self, event: &Event, who: &Who, wall: SystemTime) -> String {
        let time = Timestamp::try_from(wall).unwrap_or_default();
        let time = time.to_zoned(self.zone.clone()).strftime("%H:%M:%S.%3f").to_string();
        let (pid, comm) = match &event.task {
            Some(task) => (task.pid.to_string(), escape(task.name())),
            None => ("-".into(), "-".into()),
        };
        let container = if who.name.is_empty() { "-" } else { &who.name };
        self.fit(
            &[time.into(), container.into(), pid.into(), comm.into(), event.kind.name().into()],
            &details(&event.kind),
        )
    }

    fn fit(&self, cells: &[Cow<'_, str>; 5], details: &str) -> String {
        let mut line = String::new();
        for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
            let cell = cut(cell, width);
            line.push_str(&cell);
            line.extend(std::iter::repeat_n(' ', width - cell.width() + 1));
        }
        line.push_str(details);
        match self.width {
            Some(width) => cut(&line, width).trim_end().to_owned(),
            None => line,
        }
    }
}

fn terminal_width() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills a winsize.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}

/// The beginning of a text that is too wide, with an ellipsis.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out.into()
}

fn details(kind: &Kind) -> String {
    match kind {
        Kind::Exec(exec) => command(exec),
        Kind::ExecFailed(exec, errno) => {
            let path = escape(&exec.filename);
            format!("{path}: {}", error(*errno))
        }
        Kind::Exit(exit) => {
            let after = duration(exit.duration);
            match (exit.code, exit.signal) {
                (Some(code), _) => format!("code {code} after {after}"),
                (None, Some(signal)) => {
                    let name = Signal::try_from(i32::from(signal)).map_or("signal", Signal::as_str);
                    let core = if exit.core { ", core dumped" } else { "" };
                    format!("{name} ({signal}) after {after}{core}")
                }
                (None, None) => format!("after {after}"),
            }
        }
        Kind::TcpConnect(tcp) => format!("{} in {}", arrow(&tcp.ends, "->"), duration(tcp.duration)),
        Kind::TcpConnectFailed(tcp) => {
            let why = tcp.error.map_or("given up".into(), error);
            format!("-> {}: {why}", place(&tcp.ends.remote.to_string(), tcp.ends.remote_port))
        }
        Kind::TcpAccept(tcp) => arrow(&tcp.ends, "<-"),
        Kind::TcpClose(tcp) => close(tcp),
        Kind::TcpListen(tcp) => {
            let older = if tcp.older { " (before the trace)" } else { "" };
            format!("{}{older}", place(&tcp.ends.local.to_string(), tcp.ends.local_port))
        }
        Kind::UdpFlow(flow) => format!(
            "{} sent {} in {}, received {} in {}, over {}",
            arrow(&flow.ends, "<->"),
            bytes(flow.tx_bytes),
            flow.tx_packets,
            bytes(flow.rx_bytes),
            flow.rx_packets,
            duration(flow.duration)
        ),
        Kind::Dns(dns) => name(dns),
        Kind::Oom(oom) => {
            let limit = oom.limit.map_or(String::new(), |l| format!(" of {}", bytes(l)));
            match &oom.detailed {
                None => format!("killed{limit}"),
                Some(d) => {
                    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
                    let points = d.points(oom.limit, page.map_or(4096, |p| p as u64));
                    let points = points.map_or(String::new(), |p| format!(", points {p}"));
                    format!("killed: rss {}{limit}{points}, score_adj {}", bytes(d.rss()), d.score_adj)
                }
            }
        }
        Kind::CgroupMade(name) | Kind::CgroupRemoved(name) => escape(name),
    }
}

fn command(exec: &Exec) -> String {
    let mut text = String::new();
    for arg in &exec.args {
        if !text.is_empty() {
            text.push(' ');
        }
        let shown = escape(arg);
        // So that one argument with a space does not look like two.
        if shown.is_empty() || shown.contains([' ', '\'', '"']) {
            text.push('\'');
            text.push_str(&shown.replace('\'', "\\'"));
            text.push('\'');
        } else {
            text.push_str(&shown);
        }
    }
    if exec.args_cut {
        text.push_str(" …");
    }
    if text.is_empty() {
        text = escape(&exec.filename);
    }
    text
}

fn close(tcp: &Tcp) -> String {
    let retransmitted = match tcp.retransmits {
        0 => String::new(),
        n => format!(", {n} retransmitted"),
    };
    let broken = tcp.error.map_or(String::new(), |errno| format!(": {}", error(errno)));
    format!(
        "{} sent {}, received {} in {}, rtt {}{retransmitted}{broken}",
        arrow(&tcp.ends, "<->"),
        bytes(tcp.tx_bytes),
        bytes(tcp.rx_bytes),
        duration(tcp.duration),
        duration(tcp.srtt)
    )
}

fn name(dns: &Dns) -> String {
    let mut server = place(&dns.ends.remote.to_string(), dns.ends.remote_port);
    if dns.transport == Transport::Tcp {
        server.push_str(" (tcp)");
    }
    let Some(message) = &dns.message else {
        return format!("{server}: {} bytes that are no DNS", dns.size);
    };
    let asked: Vec<String> =
        message.questions.iter().map(|q| format!("{} {}", dns::kind_name(q.kind), q.name)).collect();
    let asked = asked.join(", ");
    if dns.outgoing {
        return format!("{asked} ? {server}");
    }
    let told: Vec<String> = message.answers.iter().map(|r| r.data.to_string()).collect();
    let told = match (message.rcode, told.is_empty()) {
        (0, true) => "no records".to_owned(),
        (0, false) => told.join(", "),
        (rcode, _) => dns::rcode_name(rcode),
    };
    let cut = if message.truncated || message.incomplete { " …" } else { "" };
    let latency = dns.latency.map_or(String::new(), |l| format!(" in {}", duration(l)));
    format!("{asked} = {told}{cut}{latency}")
}

fn arrow(ends: &Endpoints, arrow: &str) -> String {
    format!(
        "{} {arrow} {}",
        place(&ends.local.to_string(), ends.local_port),
        place(&ends.remote.to_string(), ends.remote_port)
    )
}

fn place(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn error(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => format!("error {errno}"),
        known => known.desc().to_owned(),
    }
}

/// Three digits that matter, as Docker's own tables have them.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{n}B"),
        (_, v) if v < 10.0 => format!("{v:.2}{}", UNITS[unit]),
        (_, v) if v < 100.0 => format!("{v:.1}{}", UNITS[unit]),
        (_, v) => format!("{v:.0}{}", UNITS[unit]),
    }
}

fn duration(d: Duration) -> String {
    match d.as_nanos() {
        0..1_000_000 => format!("{}µs", d.as_micros()),
        1_000_000..1_000_000_000 => format!("{:.1}ms", d.as_secs_f64() * 1000.0),
        1_000_000_000..60_000_000_000 => format!("{:.2}s", d.as_secs_f64()),
        _ => {
            let s = d.as_secs();
            if s >= 3600 {
                format!("{}h{:02}m", s / 3600, s / 60 % 60)
            } else {
                format!("{}m{:02}s", s / 60, s % 60)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(args: &[&[u8]]) -> Exec {
        Exec {
            filename: b"/bin/x".to_vec(),
            filename_cut: false,
            cwd: b"/".to_vec(),
            cwd_cut: false,
            args: args.iter().map(|a| a.to_vec()).collect(),
            args_cut: false,
            parents: Vec::new(),
        }
    }

    #[test]
    fn commands_show_where_arguments_begin() {
        for (args, want) in [
            (&[&b"ls"[..], b"-l"][..], "ls -l"),
            (&[b"sh", b"-c", b"echo hi"], "sh -c 'echo hi'"),
            (&[b"x", b"", b"it's"], "x '' 'it\\'s'"),
            (&[b"x", b"\x1b[2J\xff"], "x \\e[2J\\xff"),
            (&[], "/bin/x"),
        ] {
            assert_eq!(command(&exec(args)), want);
        }
        let cut = Exec { args_cut: true, ..exec(&[b"ls"]) };
        assert_eq!(command(&cut), "ls …");
    }

    #[test]
    fn a_line_fits_its_terminal() {
        let who = Who { name: "容器容器容器容器容器".into(), ..Who::default() };
        let event = Event {
            time: Duration::ZERO,
            cgroup_id: 1,
            leaf_cgroup_id: 1,
            task: None,
            kind: Kind::Exec(exec(&[&[b'y'; 300]])),
        };
        for width in [20, 40, 80, 132] {
            let table = Table { width: Some(width), zone: TimeZone::UTC };
            let line = table.line(&event, &who, SystemTime::UNIX_EPOCH);
            assert!(line.width() <= width, "{width}: {line}");
            assert!(line.ends_with('…'));
            assert!(table.header().width() <= width);
        }
        let table = Table { width: None, zone: TimeZone::UTC };
        assert!(table.line(&event, &who, SystemTime::UNIX_EPOCH).ends_with(&"y".repeat(300)));
    }

    #[test]
    fn sizes_and_durations() {
        for (n, want) in
            [(0, "0B"), (999, "999B"), (1500, "1.50kB"), (99_900, "99.9kB"), (5_000_000, "5.00MB")]
        {
            assert_eq!(bytes(n), want);
        }
        for (ns, want) in [
            (1_500, "1µs"),
            (12_340_000, "12.3ms"),
            (1_234_000_000, "1.23s"),
            (61_000_000_000, "1m01s"),
            (3_720_000_000_000, "1h02m"),
        ] {
            assert_eq!(duration(Duration::from_nanos(ns)), want);
        }
    }
}
