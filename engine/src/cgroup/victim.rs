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
    /// Of a line that named the cgroup; the line with the figures is still to come.
    chosen: Option<i32>,
    found: Option<Victim>,
}

impl<'a> Search<'a> {
    fn new(cgroup: &'a str) -> Self {
        Self { cgroup, chosen: None, found: None }
    }

    /// One record: `6,1234,5678,-;text`, or the text alone.
    fn line(&mut self, record: &str) {
        let text = record.lines().next().unwrap_or_default();
        let text = text.split_once(';').map_or(text, |(_, text)| text);
        if let Some(rest) = text.strip_prefix("oom-kill:") {
            // `task=` comes last but for two: a name with commas in it is before them.
            let memcg = rest.split_once(",task_memcg=").and_then(|(_, rest)| rest.split_once(",task="));
            self.chosen = memcg
                .filter(|(path, _)| path.split('/').any(|part| part == self.cgroup))
                .and_then(|(_, rest)| rest.rsplit_once(",pid=")?.1.split(',').next()?.parse().ok());
        } else if let Some((_, rest)) = text.split_once("Killed process ")
            && let Some(victim) = victim(rest)
            && self.chosen == Some(victim.pid)
        {
            self.found = Some(victim);
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
    Some(Victim { pid: pid.parse().ok()?, name: name.to_owned(), rss: rss.sum::<u64>() * 1024 })
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
            "6,2,3,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/b/ID,task_memcg=/b/ID,task=a,pid=1,b,pid=4321,uid=0\n SUBSYSTEM=x",
            "3,3,4,-;Memory cgroup out of memory: Killed process 4321 (a,pid=1,b) total-vm:9kB, anon-rss:100kB, file-rss:20kB, shmem-rss:3kB, UID:0 pgtables:60kB oom_score_adj:0",
        ]);
        assert_eq!(found, Some(Victim { pid: 4321, name: "a,pid=1,b".to_owned(), rss: 123 << 10 }));
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
