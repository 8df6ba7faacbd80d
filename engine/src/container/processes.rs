//! `top`: the processes of a container, as the host's ps would list them.
//!
//! Read from the container's cgroup and /proc, so that it needs no ps on either side. `-o LIST` chooses
//! columns; `aux`, `-ef` and the like choose the usual sets, and other options of ps change nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::{Container, Error};
use crate::cgroup::Cgroup;

/// Titles, and a row for each process.
#[derive(Debug)]
pub struct Listing {
    /// One a column.
    pub titles: Vec<String>,
    /// One a process, by pid.
    pub rows: Vec<Vec<String>>,
}

/// Lists the processes of a container that runs, in the columns that options of ps ask for.
pub fn list(container: &Container, options: &[String]) -> Result<Listing, Error> {
    if !container.state.status.is_alive() {
        return Err(Error::NotRunning(container.id.clone()));
    }
    let columns = columns(options)?;
    let mut pids = Cgroup::open(&container.record.cgroup_parent, &container.id)?.pids()?;
    pids.sort_unstable();
    let host = Host::read();
    let row = |process: Process| columns.iter().map(|(column, _)| cell(column, &process, &host)).collect();
    let rows = pids.into_iter().filter_map(|pid| read(pid, &host)).map(row).collect();
    Ok(Listing { titles: columns.into_iter().map(|(_, title)| title).collect(), rows })
}

/// A process, as /proc/PID/stat and its neighbours tell.
#[derive(Debug, Default, Clone)]
struct Process {
    pid: i32,
    ppid: i32,
    pgid: i32,
    sid: i32,
    uid: u32,
    gid: u32,
    state: String,
    tty: String,
    /// Ticks of CPU.
    ticks: u64,
    /// Seconds since the epoch.
    start: i64,
    /// Seconds since the start.
    elapsed: i64,
    threads: i64,
    nice: i64,
    /// KiB.
    vsz: u64,
    /// KiB.
    rss: u64,
    name: String,
    command: String,
}

/// What of the host the columns need.
struct Host {
    ticks: u64,
    page: u64,
    memory: u64,
    booted: i64,
    now: i64,
    passwd: String,
    group: String,
}

impl Host {
    fn read() -> Self {
        let conf = |name| nix::unistd::sysconf(name).ok().flatten().unwrap_or(0).unsigned_abs();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted =
            stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.parse().ok());
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = meminfo.split_whitespace().nth(1).and_then(|text| text.parse().ok());
        Self {
            ticks: conf(nix::unistd::SysconfVar::CLK_TCK).max(1),
            page: conf(nix::unistd::SysconfVar::PAGE_SIZE) / 1024,
            memory: memory.unwrap_or(0),
            booted: booted.unwrap_or(0),
            now: jiff::Timestamp::now().as_second(),
            passwd: fs::read_to_string("/etc/passwd").unwrap_or_default(),
            group: fs::read_to_string("/etc/group").unwrap_or_default(),
        }
    }

    fn name(file: &str, id: u32) -> String {
        let wanted = id.to_string();
        let name = file.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1) == Some(wanted.as_str())).then(|| name.to_owned())
        });
        name.unwrap_or(wanted)
    }
}

/// Field numbers of proc(5), counted from the state, which follows the name in parentheses.
fn parse(pid: i32, stat: &str, host: &Host) -> Option<Process> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let fields: Vec<&str> = stat.get(close + 2..)?.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<i64>().ok());
    let start = host.booted + number(19)? / host.ticks as i64;
    let tty = number(4)?;
    let (major, minor) = ((tty >> 8) & 0xfff, (tty & 0xff) | ((tty >> 12) & 0xfff00));
    Some(Process {
        pid,
        ppid: number(1)? as i32,
        pgid: number(2)? as i32,
        sid: number(3)? as i32,
        state: (*fields.first()?).to_owned(),
        tty: match (tty, major) {
            (0, _) => "?".to_owned(),
            (_, 136..=143) => format!("pts/{}", (major - 136) * 256 + minor),
            (_, 4) => format!("tty{minor}"),
            _ => format!("{major}:{minor}"),
        },
        ticks: number(11)?.unsigned_abs() + number(12)?.unsigned_abs(),
        nice: number(16)?,
        threads: number(17)?,
        start,
        elapsed: (host.now - start).max(0),
        vsz: number(20)?.unsigned_abs() / 1024,
        rss: number(21)?.unsigned_abs() * host.page,
        name: stat[open + 1..close].to_owned(),
        ..Process::default()
    })
}

fn read(pid: i32, host: &Host) -> Option<Process> {
    let dir = format!("/proc/{pid}");
    let owner = fs::metadata(&dir).ok()?;
    let mut process = parse(pid, &fs::read_to_string(format!("{dir}/stat")).ok()?, host)?;
    (process.uid, process.gid) = (owner.uid(), owner.gid());
    let arguments = fs::read(format!("{dir}/cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace('\0', " ");
    process.command = if arguments.is_empty() { format!("[{}]", process.name) } else { arguments };
    // A container chooses its own command line; no control characters reach the terminal.
    process.command = process.command.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Some(process)
}

/// Columns by ps's names.
fn title(column: &str) -> Option<&'static str> {
    Some(match column {
        "uid" | "user" | "euser" | "ruser" | "uname" => {
            if column == "uid" {
                "UID"
            } else {
                "USER"
            }
        }
        "group" | "egroup" | "rgroup" => "GROUP",
        "gid" | "egid" | "rgid" => "GID",
        "UID" => "UID",
        "pid" => "PID",
        "ppid" => "PPID",
        "pgid" | "pgrp" => "PGID",
        "sid" | "sess" | "session" => "SID",
        "c" => "C",
        "pcpu" | "%cpu" => "%CPU",
        "pmem" | "%mem" => "%MEM",
        "stime" => "STIME",
        "start" | "start_time" => "START",
        "lstart" => "STARTED",
        "etime" | "etimes" => "ELAPSED",
        "tty" | "tt" | "tname" => "TTY",
        "time" | "cputime" => "TIME",
        "stat" | "state" | "s" => "STAT",
        "ni" | "nice" => "NI",
        "nlwp" | "thcount" => "NLWP",
        "vsz" | "vsize" => "VSZ",
        "rss" | "rssize" | "rsz" => "RSS",
        "comm" | "ucmd" | "ucomm" => "COMMAND",
        "args" | "cmd" | "command" => {
            if column == "cmd" {
                "CMD"
            } else {
                "COMMAND"
            }
        }
        _ => return None,
    })
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn started(process: &Process, host: &Host) -> String {
    let zoned = |seconds: i64| {
        jiff::Timestamp::from_second(seconds).map(|t| t.to_zoned(jiff::tz::TimeZone::system())).ok()
    };
    match (zoned(process.start), zoned(host.now)) {
        (Some(then), Some(now)) if then.date() == now.date() => then.strftime("%H:%M").to_string(),
        (Some(then), _) => then.strftime("%b%d").to_string(),
        _ => String::new(),
    }
}

fn elapsed(seconds: i64) -> String {
    let (days, hours, rest) = (seconds / 86_400, seconds / 3600 % 24, seconds % 3600);
    let minutes = format!("{:02}:{:02}", rest / 60, rest % 60);
    match (days, hours) {
        (0, 0) => minutes,
        (0, hours) => format!("{hours:02}:{minutes}"),
        (days, hours) => format!("{days}-{hours:02}:{minutes}"),
    }
}

fn cell(column: &str, p: &Process, host: &Host) -> String {
    let percent = |part: f64, whole: f64| if whole > 0.0 { part * 100.0 / whole } else { 0.0 };
    let seconds = p.ticks as f64 / host.ticks as f64;
    match column {
        "UID" | "user" | "euser" | "ruser" | "uname" => Host::name(&host.passwd, p.uid),
        "uid" => p.uid.to_string(),
        "group" | "egroup" | "rgroup" => Host::name(&host.group, p.gid),
        "gid" | "egid" | "rgid" => p.gid.to_string(),
        "pid" => p.pid.to_string(),
        "ppid" => p.ppid.to_string(),
        "pgid" | "pgrp" => p.pgid.to_string(),
        "sid" | "sess" | "session" => p.sid.to_string(),
        "c" => (percent(seconds, p.elapsed.max(1) as f64) as u64).to_string(),
        "pcpu" | "%cpu" => format!("{:.1}", percent(seconds, p.elapsed.max(1) as f64)),
        "pmem" | "%mem" => format!("{:.1}", percent(p.rss as f64, host.memory as f64)),
        "stime" | "start" | "start_time" | "lstart" => started(p, host),
        "etime" => elapsed(p.elapsed),
        "etimes" => p.elapsed.to_string(),
        "tty" | "tt" | "tname" => p.tty.clone(),
        "time" | "cputime" => clock(seconds as u64),
        "stat" | "state" | "s" => p.state.clone(),
        "ni" | "nice" => p.nice.to_string(),
        "nlwp" | "thcount" => p.threads.to_string(),
        "vsz" | "vsize" => p.vsz.to_string(),
        "rss" | "rssize" | "rsz" => p.rss.to_string(),
        "comm" | "ucmd" | "ucomm" => p.name.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        _ => p.command.clone(),
    }
}

const FULL: &str = "UID,pid,ppid,c,stime,tty,time,cmd";
const BSD: &str = "user,pid,%cpu,%mem,vsz,rss,tty,stat,start,time,command";

/// The columns that options of ps ask for, each with its title.
fn columns(options: &[String]) -> Result<Vec<(String, String)>, Error> {
    let mut lists: Vec<String> = Vec::new();
    let mut usual = FULL;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let list = match option.as_str() {
            "-o" | "-eo" | "-efo" | "o" | "--format" | "-O" => options.next().map(String::as_str),
            other => other
                .strip_prefix("--format=")
                .or_else(|| other.strip_prefix("-eo"))
                .or_else(|| other.strip_prefix("-o"))
                .map(|list| list.strip_prefix('=').unwrap_or(list)),
        };
        match list {
            Some(list) => lists.push(list.to_owned()),
            None if !option.starts_with('-') && option.contains('u') => usual = BSD,
            None => {}
        }
    }
    if lists.is_empty() {
        lists.push(usual.to_owned());
    }
    let mut all = Vec::new();
    for list in lists {
        for column in list.split([',', ' ']).filter(|column| !column.is_empty()) {
            let (column, own) =
                column.split_once('=').map_or((column, None), |(name, own)| (name, Some(own)));
            let Some(known) = title(column) else {
                return Err(Error::PsColumn(column.to_owned()));
            };
            all.push((column.to_owned(), own.unwrap_or(known).to_owned()));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            ticks: 100,
            page: 4,
            memory: 1000,
            booted: 1000,
            now: 2000,
            passwd: "root:x:0:0::/:/bin/sh\nwww:x:33:33::/:/bin/sh\n".into(),
            group: "root:x:0:\n".into(),
        }
    }

    #[test]
    fn a_name_with_parentheses_and_blanks() {
        let stat = "42 (a) b (c) S 1 42 42 34817 42 0 0 0 0 0 250 50 0 0 20 5 3 0 50000 8192000 25 0 0";
        let process = parse(42, stat, &host()).expect("process");
        assert_eq!((process.name.as_str(), process.ppid, process.tty.as_str()), ("a) b (c", 1, "pts/1"));
        assert_eq!((process.ticks, process.start, process.rss, process.vsz), (300, 1500, 100, 8000));
        assert_eq!((process.nice, process.threads, process.elapsed), (5, 3, 500));
        assert_eq!(cell("time", &process, &host()), "00:00:03");
        assert_eq!(cell("%mem", &process, &host()), "10.0");
        assert_eq!(cell("etime", &process, &host()), "08:20");
        assert_eq!(cell("UID", &process, &host()), "root");
        assert!(parse(1, "1 (x", &host()).is_none());
        assert!(parse(1, "1 (x) S 1", &host()).is_none());
    }

    #[test]
    fn options_of_ps() {
        let titles = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            columns(&options)
                .map(|all| all.into_iter().map(|(_, title)| title).collect::<Vec<_>>().join(" "))
                .map_err(|error| error.to_string())
        };
        for (options, want) in [
            (&[][..], "UID PID PPID C STIME TTY TIME CMD"),
            (&["-ef"], "UID PID PPID C STIME TTY TIME CMD"),
            (&["aux"], "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            (&["-o", "pid,comm"], "PID COMMAND"),
            (&["-eo", "pid", "-o", "args"], "PID COMMAND"),
            (&["-opid,user=OWNER"], "PID OWNER"),
        ] {
            assert_eq!(titles(options), Ok(want.to_owned()), "{options:?}");
        }
        assert!(titles(&["-o", "pid,nope"]).is_err_and(|why| why.contains("nope")));
    }
}
