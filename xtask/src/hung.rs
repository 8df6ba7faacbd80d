//! What to do with a test binary that hangs: say where it hangs, end it, go on.
//!
//! A suite that never ends tells nobody anything, least of all which test it was. libtest names a test's
//! thread after the test, and `/proc` shows what every thread waits for, so this is told without a debugger
//! before the processes are killed, by their ids and only those below the `cargo test` that we started.

use std::collections::BTreeMap;
use std::process::Command;
use std::{fs, io};

/// Shows and kills what `cargo` (a process id) has started, and `cargo` itself if asked.
pub fn end(cargo: u32, and_cargo: bool) {
    let mut pids = below(cargo);
    for &pid in &pids {
        show(pid);
    }
    if and_cargo {
        pids.push(cargo);
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    if !pids.is_empty() {
        // `kill` is a part of every shell; std has none and xtask depends on nothing else.
        let _ = Command::new("sh").args(["-c", &format!("kill -9 {}", pids.join(" "))]).status();
    }
}

/// Every process below `root`, parents first.
fn below(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&root).unwrap_or_default();
    let mut at = 0;
    while let Some(&pid) = found.get(at) {
        found.extend(children.remove(&pid).unwrap_or_default());
        at += 1;
    }
    found
}

/// The fourth field of `/proc/PID/stat`; the second, the name, may hold blanks and parentheses.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn show(pid: u32) {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    println!("  process {pid}: {}", String::from_utf8_lossy(&line).replace('\0', " "));
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |file: &str| -> io::Result<String> { fs::read_to_string(task.path().join(file)) };
        let name = read("comm").unwrap_or_default();
        let stack: Vec<String> = read("stack")
            .unwrap_or_default()
            .lines()
            .take(4)
            .filter_map(|l| Some(l.rsplit_once(' ')?.1.split('+').next()?.to_owned()))
            .collect();
        let call = read("syscall").unwrap_or_default();
        let call = call.split(' ').next().unwrap_or_default().trim();
        println!("    {}: system call {call}, {}", name.trim(), stack.join(" < "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_process_with_any_name() {
        assert_eq!(parent("12 (a b) c) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (x"), None);
    }

    #[test]
    fn a_shell_s_child_is_found_and_ended() {
        let mut shell = Command::new("sh").args(["-c", "sleep 1000; true"]).spawn().expect("sh");
        let me = std::process::id();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while below(shell.id()).is_empty() {
            assert!(std::time::Instant::now() < deadline, "the shell never started its child");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(below(me).contains(&shell.id()));
        end(shell.id(), false);
        assert!(shell.wait().expect("wait").success(), "the shell itself goes on");
    }
}
