//! The processes that were there before the tracer.
//!
//! A trace that begins late can still say what runs: `/proc` has the arguments, the directory and the time
//! of start of every process of a cgroup. What has ended is gone; only a tracer that was there knows it.

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::event::{Event, Exec, Kind};
use crate::wire::{ARGS_LEN, Namespaces, Task};

/// One [`Kind::Exec`] for each process in a cgroup directory and below it, at the time the process started, the
/// oldest first. Parents are not known further than one step. Processes that end meanwhile are left out.
#[must_use]
pub fn running(cgroup: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    let Ok(id) = fs::metadata(cgroup).map(|m| m.ino()) else { return events };
    let mut todo = vec![cgroup.to_owned()];
    while let Some(dir) = todo.pop() {
        let leaf = fs::metadata(&dir).map_or(id, |m| m.ino());
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        events.extend(procs.lines().filter_map(|pid| process(pid, id, leaf)));
        let children = fs::read_dir(&dir).into_iter().flatten().flatten();
        todo.extend(children.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    events.sort_by_key(|e| e.time);
    events
}

fn process(pid: &str, cgroup_id: u64, leaf_cgroup_id: u64) -> Option<Event> {
    let proc = Path::new("/proc").join(pid);
    let stat = fs::read(proc.join("stat")).ok()?;
    let (comm, ppid, ticks) = parse_stat(&stat)?;
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten()? as u64;
    // What is shown of a start is shown in our time namespace.
    let start = Duration::from_nanos(ticks.checked_mul(1_000_000_000)?.checked_div(hertz)?);
    let start_ns = crate::clock::of_the_kernel(start).as_nanos() as u64;
    let status = fs::read(proc.join("status")).ok()?;
    let ns = |kind: &str| fs::metadata(proc.join("ns").join(kind)).map_or(0, |m| m.ino() as u32);
    let mut padded = [0; 16];
    let len = comm.len().min(15);
    padded[..len].copy_from_slice(&comm[..len]);
    let pid = pid.parse().ok()?;
    let task = Task {
        start_ns,
        pid,
        tid: pid,
        ns_pid: last_number(&status, b"NSpid:")?,
        ppid,
        uid: first_number(&status, b"Uid:")?,
        gid: first_number(&status, b"Gid:")?,
        ns: Namespaces {
            mnt: ns("mnt"),
            pid: ns("pid"),
            net: ns("net"),
            uts: ns("uts"),
            ipc: ns("ipc"),
            user: ns("user"),
            cgroup: ns("cgroup"),
            time: ns("time"),
        },
        comm: padded,
    };
    // As much of it as an event of the stream would have: a process may have megabytes.
    let mut args = Vec::new();
    let file = fs::File::open(proc.join("cmdline")).ok()?;
    file.take(ARGS_LEN as u64 + 1).read_to_end(&mut args).ok()?;
    let args_cut = args.len() > ARGS_LEN;
    args.truncate(ARGS_LEN);
    let link = |name: &str| fs::read_link(proc.join(name)).map(|p| p.into_os_string().into_vec());
    Some(Event {
        time: Duration::from_nanos(start_ns),
        cgroup_id,
        leaf_cgroup_id,
        task: Some(task),
        kind: Kind::Exec(Exec {
            filename: link("exe").unwrap_or_default(),
            filename_cut: false,
            cwd: link("cwd").unwrap_or_default(),
            cwd_cut: false,
            args: crate::event::split_args(&args),
            args_cut,
            parents: Vec::new(),
        }),
    })
}

/// The name, the parent and the start in clock ticks since boot: proc(5). The name may hold anything, `) `
/// included; it ends at the last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<(&[u8], u32, u64)> {
    let open = stat.iter().position(|b| *b == b'(')?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    let comm = stat.get(open + 1..close)?;
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some((comm, fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

fn numbers<'a>(status: &'a [u8], key: &[u8]) -> Option<impl DoubleEndedIterator<Item = u32> + 'a> {
    let line = status.split(|b| *b == b'\n').find_map(|l| l.strip_prefix(key))?;
    Some(std::str::from_utf8(line).ok()?.split_ascii_whitespace().filter_map(|n| n.parse().ok()))
}

fn first_number(status: &[u8], key: &[u8]) -> Option<u32> {
    numbers(status, key)?.next()
}

fn last_number(status: &[u8], key: &[u8]) -> Option<u32> {
    numbers(status, key)?.next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest() {
        let stat = b"42 (evil) S 1 (x) R 7 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 99 1";
        let (comm, ppid, start) = parse_stat(stat).unwrap();
        assert_eq!((comm, ppid, start), (&b"evil) S 1 (x"[..], 7, 12345));
        for len in 0..stat.len() - 8 {
            assert!(parse_stat(&stat[..len]).is_none_or(|(_, _, start)| start <= 12345));
        }
    }

    #[test]
    fn numbers_of_a_status() {
        let status = b"Name:\tx\nUid:\t1000\t0\t0\t0\nNSpid:\t4711\t88\t1\n";
        assert_eq!(first_number(status, b"Uid:"), Some(1000));
        assert_eq!(last_number(status, b"NSpid:"), Some(1));
        assert_eq!(first_number(status, b"Gid:"), None);
    }
}
