//! Processes, and what they hold open.
//!
//! `cgroup.procs` lists the processes, `/proc/<pid>/fd` their descriptors. Its size is their number
//! where the kernel says so (6.2); elsewhere the entries are counted.

use std::os::fd::{AsFd as _, BorrowedFd};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Members};

/// Processes of a container, in it and below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tasks {
    /// Processes. Source: cgroup.procs.
    pub processes: u64,
    /// Open file descriptors, summed. Source: /proc/PID/fd.
    pub descriptors: u64,
    /// Of those, sockets; `None` since telling them apart costs a readlink each, unless asked.
    pub sockets: Option<u64>,
}

/// Processes looked into at most; a fork bomb must not make a scrape long.
const MOST: usize = 256;

/// Counts. Processes beyond the first 256 are taken to hold as many descriptors as those on average. `held` is a
/// process whose `/proc/PID/fd` the caller keeps open.
pub fn count(members: &Members, held: Option<(i32, BorrowedFd<'_>)>) -> Result<Tasks, cgroup::Error> {
    let pids = members.pids()?;
    let mut descriptors = 0;
    for pid in pids.iter().take(MOST) {
        let size = held.filter(|(of, _)| of == pid).and_then(|(_, dir)| nix::sys::stat::fstat(dir).ok());
        descriptors += match size {
            Some(stat) if stat.st_size > 0 => stat.st_size as u64,
            _ => open_files(*pid).unwrap_or(0),
        };
    }
    if pids.len() > MOST {
        descriptors = descriptors * pids.len() as u64 / MOST as u64;
    }
    Ok(Tasks { processes: pids.len() as u64, descriptors, sockets: None })
}

/// `None` for a process that has ended.
fn open_files(pid: i32) -> Option<u64> {
    let path = format!("/proc/{pid}/fd");
    let stat = nix::sys::stat::fstatat(nix::fcntl::AT_FDCWD, path.as_str(), AtFlags::empty()).ok()?;
    if stat.st_size > 0 {
        return Some(stat.st_size as u64);
    }
    let dir = nix::fcntl::open(
        path.as_str(),
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let mut dir = nix::dir::Dir::from_fd(dir.as_fd().try_clone_to_owned().ok()?).ok()?;
    Some(dir.iter().map_while(Result::ok).count().saturating_sub(2) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_descriptors_are_counted() {
        let count = || open_files(std::process::id().cast_signed()).unwrap();
        let before = count();
        let held: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close a few meanwhile.
        assert!(count() >= before + 25, "{before} {}", count());
        drop(held);
        assert_eq!(open_files(i32::MAX), None);
    }
}
