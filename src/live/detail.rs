//! What the view of one container shows beyond the model: its processes, its connections, its limits.

use std::path::Path;

use bulkhead_engine::cgroup::Cgroup;
use bulkhead_engine::container::Container;
use bulkhead_engine::model::connections::{self, Connection};

use super::recent::{Recent, Tracing};

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// As the host numbers it.
    pub pid: i32,
    /// The kernel's letter.
    pub state: char,
    /// CPU time, in hundredths of a second.
    pub ticks: u64,
    /// Resident memory, bytes.
    pub resident: u64,
    /// Threads.
    pub threads: u64,
    /// The command line, or the name in brackets.
    pub command: String,
}

/// Read when one container is looked at.
#[derive(Debug, Clone, Default)]
pub struct Detail {
    /// Those that use most CPU first.
    pub processes: Vec<Process>,
    /// Listening ones first.
    pub connections: Vec<Connection>,
    /// Recent executions and OOM kills, the latest last.
    pub events: Vec<Recent>,
    /// Whether there can be any.
    pub tracing: Tracing,
    /// What could not be read.
    pub error: Option<String>,
}

/// Processes shown at most.
const MOST: usize = 500;

impl Detail {
    /// Reads a container's processes and connections.
    pub fn read(container: &Container) -> Self {
        let mut detail = Self::default();
        if !container.state.status.is_alive() {
            return detail;
        }
        let pids =
            Cgroup::open(&container.record.cgroup_parent, &container.id).and_then(|cgroup| cgroup.pids());
        match pids {
            Ok(pids) => {
                detail.processes = pids.into_iter().take(MOST).filter_map(process).collect();
                detail.processes.sort_by(|a, b| b.ticks.cmp(&a.ticks).then(a.pid.cmp(&b.pid)));
            }
            Err(error) => detail.error = Some(error.to_string()),
        }
        match connections::list(container.state.pid) {
            Ok(list) => {
                detail.connections = list;
                detail.connections.sort_by_key(|connection| (connection.state != "LISTEN", connection.local));
            }
            Err(error) => detail.error = Some(error.to_string()),
        }
        detail
    }
}

fn process(pid: i32) -> Option<Process> {
    let dir = format!("/proc/{pid}");
    let dir = Path::new(&dir);
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    let mut process = parse(&stat)?;
    let command = std::fs::read(dir.join("cmdline")).unwrap_or_default();
    if !command.is_empty() {
        process.command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    }
    // What a process calls itself is its own choice; it must not steer the terminal.
    process.command = process.command.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Some(process)
}

/// `/proc/PID/stat`. The name may hold spaces and parentheses.
fn parse(stat: &str) -> Option<Process> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (pid, name) = head.split_once('(')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        pid: pid.trim().parse().ok()?,
        state: fields.first()?.chars().next()?,
        ticks: number(11)? + number(12)?,
        threads: number(17)?,
        resident: number(21)? * 4096,
        command: format!("[{name}]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 3 0 1000 4096000 200 18446744073709551615";
        let process = parse(line).unwrap();
        assert_eq!(
            process,
            Process {
                pid: 42,
                state: 'S',
                ticks: 42,
                resident: 200 * 4096,
                threads: 3,
                command: "[a (b) c]".into()
            }
        );
        for odd in [
            "",
            "42",
            "42 (a)",
            "42 (a) S",
            "x (a) S 1 42 42 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 3 0 1000 4096000 200",
        ] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }
}
