//! Nothing accumulates: after a thousand containers the host is as it was before the first.

mod common;

use std::fs;

/// Open descriptors of every process of the host's, by pid.
fn descriptors(host: &common::Host) -> Vec<(i32, usize)> {
    let count = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let mut all: Vec<_> = host.processes().into_iter().map(|(pid, _)| (pid, count(pid))).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_thousand_containers_leave_nothing() {
    let host = host!();
    let image = host.busybox();
    // A bystander: its monitor and its init must neither gain descriptors nor be touched.
    host.bulkhead(&["run", "-d", "--name", "bystander", image, "sleep", "100000"]).ok();
    // The first one makes what later ones share (the parent cgroup).
    host.bulkhead(&["run", "--rm", image, "true"]).ok();
    let settle = || {
        let mut last = host.census();
        common::eventually("monitors of removed containers end", || {
            let now = host.census();
            // A monitor outlives its container by the moment it takes to tidy the database, and has no
            // command line any more while it ends. The bystander has two processes.
            let quiet = now == last && now.processes == 2 && host.containers().len() == 1;
            last = now;
            quiet
        });
        (last, descriptors(&host))
    };
    let before = settle();
    for _ in 0..1000 {
        host.bulkhead(&["run", "--rm", image, "true"]).ok();
    }
    assert_eq!(before, settle());
    host.bulkhead(&["rm", "-f", "bystander"]).ok();
}

#[test]
fn failed_starts_leave_nothing() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["run", "--rm", image, "true"]).ok();
    common::eventually("the first one and its monitor are gone", || {
        host.containers().is_empty() && host.processes().is_empty()
    });
    let before = host.census();
    for _ in 0..20 {
        host.bulkhead(&["run", "--rm", image, "/no/such/program"]).code(127);
        host.bulkhead(&["run", "--rm", image, "/etc/passwd"]).code(126);
        host.bulkhead(&["run", "--rm", "--user", "nobody-by-that-name", image, "true"]).code(125);
        host.bulkhead(&["run", "--rm", "no-such-image-anywhere:1", "true"]).code(125);
    }
    common::eventually("nothing is left", || host.census() == before && host.containers().is_empty());
}
