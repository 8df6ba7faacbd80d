//! Each limit holds, seen from outside: in what the container can do, and in the kernel's own files.

mod common;

use std::fs;

use common::Host;

/// A container that sleeps under these flags; returns the pid of its init.
fn sleeper(host: &Host, name: &str, flags: &[&str]) -> i32 {
    let mut line = vec!["run", "-d", "--name", name];
    line.extend(flags);
    line.extend(["busybox", "sleep", "123456"]);
    host.bulkhead(&line).ok();
    let found = host.processes().into_iter().find(|(_, cmdline)| cmdline.trim_end() == "sleep 123456");
    found.expect("the container's init").0
}

/// The first of these files of the container's cgroup that exists, trimmed.
fn file(pid: i32, controller: &str, names: &[&str]) -> String {
    let dir = common::Host::cgroup_of(pid, controller)
        .unwrap_or_else(|| panic!("no {controller} cgroup for {pid}"));
    let found = names.iter().find_map(|name| fs::read_to_string(dir.join(name)).ok());
    found.unwrap_or_else(|| panic!("none of {names:?} in {}", dir.display())).trim().to_owned()
}

#[test]
fn memory_kills_with_137_and_says_so() {
    let host = host!();
    let image = host.busybox();
    let eat = ["run", "--name", "eater", "-m", "32m", "--memory-swap", "32m", image, "tail", "/dev/zero"];
    host.bulkhead(&eat).code(137);
    assert_eq!(host.inspect("eater", "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137");
    // Killed, but not for memory: the two must not look alike.
    sleeper(&host, "sleeper", &["-m", "32m"]);
    host.bulkhead(&["kill", "sleeper"]).ok();
    host.bulkhead(&["wait", "sleeper"]).ok().prints("137\n");
    assert_eq!(host.inspect("sleeper", "{{.State.OOMKilled}} {{.State.ExitCode}}"), "false 137");
}

#[test]
fn memory_changes_while_it_runs() {
    let host = host!();
    host.busybox();
    let pid = sleeper(&host, "held", &["-m", "64m", "--memory-swap", "64m"]);
    let limit = || file(pid, "memory", &["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(limit(), (64 << 20).to_string());
    host.bulkhead(&["update", "-m", "128m", "--memory-swap", "128m", "held"]).ok();
    assert_eq!(limit(), (128 << 20).to_string());
    // The old limit no longer holds, the new one does.
    let take = |mib: &str| {
        host.bulkhead(&[
            "exec",
            "held",
            "sh",
            "-c",
            &format!("head -c {mib}m /dev/zero | tail -c {mib}m | wc -c"),
        ])
    };
    take("80").ok().prints(&format!("{}\n", 80 << 20));
    assert_ne!(take("200").out().trim(), (200 << 20).to_string());
}

#[test]
fn pids_are_counted() {
    let host = host!();
    let image = host.busybox();
    let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done";
    let out = host.bulkhead(&["run", "--rm", "--pids-limit", "5", image, "sh", "-c", forks]);
    assert!(!out.status.success() && out.err().contains("fork"), "{out}");
    host.bulkhead(&["run", "--rm", "--pids-limit", "50", image, "sh", "-c", forks]).ok();
}

#[test]
fn cpu_is_throttled() {
    let host = host!();
    host.busybox();
    let pid = sleeper(&host, "held", &["--cpus", "0.25"]);
    let stat = |key: &str| -> u64 {
        let text = file(pid, "cpu", &["cpu.stat"]);
        text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok()).expect("a number")
    };
    assert_eq!(stat("nr_throttled "), 0);
    host.bulkhead(&["exec", "-d", "held", "sh", "-c", "while :; do :; done"]).ok();
    // Not a measure of speed: a loop that never sleeps meets any quota below a whole CPU.
    common::eventually("the loop is throttled", || stat("nr_throttled ") >= 3);
}

#[test]
fn cpuset_is_seen_inside() {
    let host = host!();
    let image = host.busybox();
    let out = host
        .bulkhead(&[
            "run",
            "--rm",
            "--cpuset-cpus",
            "0",
            image,
            "grep",
            "Cpus_allowed_list",
            "/proc/self/status",
        ])
        .ok();
    assert_eq!(out.line(), "Cpus_allowed_list:\t0");
    let out = host.bulkhead(&["run", "--rm", "--cpuset-cpus", "4095", image, "true"]);
    assert_eq!(out.status.code(), Some(125), "{out}");
}

#[test]
fn shares_and_reservation_reach_the_kernel() {
    let host = host!();
    host.busybox();
    let pid = sleeper(&host, "held", &["--cpu-shares", "512", "--memory-reservation", "16m"]);
    let shares = file(pid, "cpu", &["cpu.shares", "cpu.weight"]);
    assert!(shares == "512" || shares == "20", "512 on v1, its weight on v2; not {shares}");
    assert_eq!(file(pid, "memory", &["memory.soft_limit_in_bytes", "memory.low"]), (16 << 20).to_string());
}
