//! Who was killed when a cgroup ran out of memory, in the kernel's own words.
//!
//! A cgroup's files count kills and name nobody. The kernel's log does: one line says whose limit it was
//! and which process was chosen, the next what that process held. Both stay in the log after the process
//! and its cgroup have gone, so that a container that dies of it at once can still say why.
//!
//! The log is a ring that others write to as well, and it can be kept from us (`dmesg_restrict` in a user
//! namespace). Then the victim is not known, and everything else about the kill still is.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A process that the kernel killed for memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Victim {
    /// Its number on the host.
    pub pid: i32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Bytes it held: anonymous, of files and shared.
    pub rss: u64,
    /// Bytes that the container's cgroup had at that moment; `None` when it was not its own limit that was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<u64>,
    /// Its `oom_score_adj`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_adj: Option<i32>,
}

/// How long the kernel may take from counting a kill to having said whom.
const SAYING: Duration = Duration::from_millis(20);

/// [`find`], with patience: a count goes up before the line with the figures is written.
pub fn await_victim(cgroup: &str) -> Option<Victim> {
    let until = Instant::now() + SAYING;
    loop {
        let found = find(cgroup);
        if found.is_some() || Instant::now() >= until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The last process of the cgroup whose name is `cgroup` (a container's id) that the log knows of.
pub fn find(cgroup: &str) -> Option<Victim> {
    let mut log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let mut search = Search::new(cgroup);
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(n) => search.line(&String::from_utf8_lossy(&record[..n])),
            // What we were about to read has been overwritten: the next read goes on after it.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    search.found
}

/// Goes through the log's lines, oldest first.
struct Search<'a> {
    cgroup: &'a str,
    /// Of the report that is being made: what the cgroup whose limit was hit had.
    usage: Option<u64>,
    /// Of a line that named the cgroup: the process, and the usage if the limit was this cgroup's own. The line
    /// with the figures is still to come.
    chosen: Option<(i32, Option<u64>)>,
    found: Option<Victim>,
}

impl<'a> Search<'a> {
    fn new(cgroup: &'a str) -> Self {
        Self { cgroup, usage: None, chosen: None, found: None }
    }

    /// One record: `6,1234,5678,-;text`, or the text alone.
    fn line(&mut self, record: &str) {
        let text = record.lines().next().unwrap_or_default();
        let text = text.split_once(';').map_or(text, |(_, text)| text);
        let is_ours = |path: &str| path.split('/').any(|part| part == self.cgroup);
        if text.contains(" invoked oom-killer: ") {
            self.usage = None;
        } else if let Some(rest) = text.strip_prefix("memory: usage ") {
            self.usage =
                rest.split_once("kB").and_then(|(figure, _)| figure.parse::<u64>().ok()?.checked_mul(1024));
        } else if let Some(rest) = text.strip_prefix("oom-kill:") {
            // `task=` comes last but for two: a name with commas in it is before them.
            let memcg = rest.split_once(",task_memcg=").and_then(|(_, rest)| rest.split_once(",task="));
            let limited = rest.split_once(",oom_memcg=").and_then(|(_, rest)| rest.split(',').next());
            let usage = self.usage.take().filter(|_| limited.is_some_and(is_ours));
            self.chosen = memcg
                .filter(|(path, _)| is_ours(path))
                .and_then(|(_, rest)| rest.rsplit_once(",pid=")?.1.split(',').next()?.parse().ok())
                .map(|pid| (pid, usage));
        } else if let Some((_, rest)) = text.split_once("Killed process ")
            && let Some(victim) = victim(rest)
            && let Some((pid, usage)) = self.chosen
            && pid == victim.pid
        {
            self.found = Some(Victim { usage, ..victim });
        }
    }
}

/// `1234 (name) total-vm:1kB, anon-rss:2kB, file-rss:3kB, shmem-rss:4kB, …`
fn victim(text: &str) -> Option<Victim> {
    let (pid, rest) = text.split_once(" (")?;
    // A name may hold anything, so its end is the last one before the figures.
    let (name, figures) = rest.rsplit_once(") total-vm:")?;
    let rss = ["anon-rss:", "file-rss:", "shmem-rss:"]
        .iter()
        .filter_map(|figure| figures.split_once(figure)?.1.split_once("kB")?.0.parse::<u64>().ok());
    let rss = rss.sum::<u64>().checked_mul(1024)?;
    let score_adj = figures.rsplit_once("oom_score_adj:").and_then(|(_, adj)| adj.trim().parse().ok());
    Some(Victim { pid: pid.parse().ok()?, name: name.to_owned(), rss, usage: None, score_adj })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn search(lines: &[&str]) -> Option<Victim> {
        let mut search = Search::new(ID);
        for line in lines {
            search.line(&line.replace("ID", ID));
        }
        search.found
    }

    #[test]
    fn the_process_that_the_kernel_names_is_found() {
        let found = search(&[
            "4,1,2,-;dd invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
            "6,1,2,-;memory: usage 16384kB, limit 16384kB, failcnt 27",
            "6,1,2,-;swap: usage 4kB, limit 9007199254740988kB, failcnt 0",
            "6,2,3,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/b/ID,task_memcg=/b/ID,task=a,pid=1,b,pid=4321,uid=0\n SUBSYSTEM=x",
            "3,3,4,-;Memory cgroup out of memory: Killed process 4321 (a,pid=1,b) total-vm:9kB, anon-rss:100kB, file-rss:20kB, shmem-rss:3kB, UID:0 pgtables:60kB oom_score_adj:0",
        ]);
        let usage = Some(16 << 20);
        assert_eq!(
            found,
            Some(Victim {
                pid: 4321,
                name: "a,pid=1,b".to_owned(),
                rss: 123 << 10,
                usage,
                score_adj: Some(0)
            })
        );
    }

    #[test]
    fn the_usage_is_of_our_own_limit_and_of_this_report() {
        let kill = |limited: &str| {
            [
                "x invoked oom-killer: gfp_mask=0xcc0, order=0, oom_score_adj=0".to_owned(),
                "memory: usage 7kB, limit 8kB, failcnt 1".to_owned(),
                format!(
                    "oom-kill:constraint=C,mems_allowed=0,{limited}task_memcg=/b/{ID},task=x,pid=1,uid=0"
                ),
                "Out of memory: Killed process 1 (x) total-vm:9kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB"
                    .to_owned(),
            ]
        };
        let usage = |lines: &[String]| {
            search(&lines.iter().map(String::as_str).collect::<Vec<_>>()).expect("a victim").usage
        };
        assert_eq!(usage(&kill(&format!("oom_memcg=/b/{ID},"))), Some(7 << 10));
        assert_eq!(usage(&kill(&format!("oom_memcg=/b/{ID}/nested,"))), Some(7 << 10));
        assert_eq!(usage(&kill("oom_memcg=/b,")), None, "the parent's limit");
        assert_eq!(usage(&kill("global_oom,")), None, "the host's");
        let mut stale = kill(&format!("oom_memcg=/b/{ID},"));
        stale.swap(0, 1);
        assert_eq!(usage(&stale), None, "of an earlier report");
    }

    #[test]
    fn another_cgroup_s_victim_is_not_ours() {
        let kill = |memcg: &str, pid: i32| {
            [
                format!("oom-kill:constraint=C,oom_memcg=/b,task_memcg=/b/{memcg},task=x,pid={pid},uid=0"),
                format!(
                    "Memory cgroup out of memory: Killed process {pid} (x) total-vm:9kB, anon-rss:{pid}kB, file-rss:0kB, shmem-rss:0kB"
                ),
            ]
        };
        let other = kill("f00", 1);
        let ours = kill(ID, 2);
        let later = kill("bar", 3);
        let lines: Vec<&str> = other.iter().chain(&ours).chain(&later).map(String::as_str).collect();
        assert_eq!(search(&lines).map(|victim| victim.pid), Some(2));
        assert_eq!(search(&lines[..2]), None);
        // The line with the figures alone may be anybody's.
        assert_eq!(search(&lines[3..4]), None);
    }

    #[test]
    fn what_is_no_such_line_is_passed_over() {
        for line in [
            "",
            ";",
            "oom-kill:",
            "Killed process ",
            "Killed process x (y) total-vm:",
            "6,1,1,-;oom-kill:task_memcg=,task=,pid=",
        ] {
            assert_eq!(search(&[line]), None, "{line}");
        }
    }
}
