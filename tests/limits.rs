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
    // What it had, although its cgroup is gone.
    assert_eq!(host.inspect("eater", "{{.State.OOM.Kills}} {{.State.OOM.Limit}}"), format!("1 {}", 32 << 20));
    let usage = host.inspect("eater", "{{.State.OOM.Usage}}");
    assert!(usage == "<no value>" || usage == (32 << 20).to_string(), "{usage}");
    // Killed, but not for memory: the two must not look alike.
    sleeper(&host, "sleeper", &["-m", "32m"]);
    host.bulkhead(&["kill", "sleeper"]).ok();
    host.bulkhead(&["wait", "sleeper"]).ok().prints("137\n");
    assert_eq!(host.inspect("sleeper", "{{.State.OOMKilled}} {{.State.ExitCode}}"), "false 137");
}

/// A container cannot have more than the cgroup that holds all of them, whatever it was given.
#[test]
fn the_limit_shown_is_the_lowest_on_the_way_up() {
    let host = host!();
    host.busybox();
    for (name, flags) in [("free", &[][..]), ("small", &["-m", "32m"]), ("large", &["-m", "256m"])] {
        host.bulkhead(&[&["run", "-d", "--name", name][..], flags, &["busybox", "sleep", "1000"]].concat())
            .ok();
    }
    let shown = || {
        let line = ["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"];
        let mut lines: Vec<String> = host.bulkhead(&line).ok().out().lines().map(str::to_owned).collect();
        lines.sort();
        let limits = lines.iter().map(|l| l.rsplit_once(" / ").expect("a limit").1.to_owned());
        limits.collect::<Vec<_>>()
    };
    let limit = host
        .cgroup_parents()
        .into_iter()
        .flat_map(|dir| ["memory.limit_in_bytes", "memory.max"].map(|name| dir.join(name)))
        .find(|file| file.exists());
    let Some(limit) = limit else { skip!("a memory controller") };
    let before = shown();
    // Neither limited by itself nor from above: what the host has.
    let total =
        host.bulkhead(&["info", "--format", "{{.MemTotal}}"]).ok().line().parse::<f64>().expect("bytes");
    let gib = before[0].strip_suffix("GiB").map(|n| n.parse::<f64>().expect("a number") * f64::from(1 << 30));
    if let Some(shown) = gib {
        assert!((shown - total).abs() < total / 100.0, "{before:?} {total}");
    }
    assert_eq!(before[1..], ["256MiB", "32MiB"]);
    fs::write(&limit, (128 << 20).to_string()).expect("a limit for all");
    common::eventually("the limit for all", || shown() == ["128MiB", "128MiB", "32MiB"]);
    for name in ["free", "small", "large"] {
        host.bulkhead(&["rm", "-f", name]).ok();
    }
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
    // A slow machine throttles the start already.
    let before = stat("nr_throttled ");
    host.bulkhead(&["exec", "-d", "held", "sh", "-c", "while :; do :; done"]).ok();
    // Not a measure of speed: a loop that never sleeps meets any quota below a whole CPU.
    common::eventually("the loop is throttled", || stat("nr_throttled ") >= before + 3);
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
    assert!(shares == "512" || shares == "59", "512 on v1, its weight on v2; not {shares}");
    assert_eq!(file(pid, "memory", &["memory.soft_limit_in_bytes", "memory.low"]), (16 << 20).to_string());
}

/// `oom_score_adj` of a process.
fn score(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("oom_score_adj").trim().to_owned()
}

/// The score of a container's init and of what is executed in it, and what `inspect` says of it.
fn scores(host: &Host, name: &str, pid: i32) -> [String; 3] {
    let inside = host.bulkhead(&["exec", name, "cat", "/proc/self/oom_score_adj"]).ok().line();
    [host.inspect(name, "{{.HostConfig.OomScoreAdj}}"), score(pid), inside]
}

#[test]
fn oom_priority_reaches_init_and_exec() {
    let host = host!();
    host.busybox();
    for (priority, expected) in [("0", "1000"), ("40", "202"), ("50", "2")] {
        let name = format!("p{priority}");
        let pid = sleeper(&host, &name, &["--oom-priority", priority]);
        assert_eq!(scores(&host, &name, pid), [expected, expected, expected]);
        host.bulkhead(&["rm", "-f", &name]).ok();
    }
    // What was given outright wins, and what was not asked for is not touched.
    let pid = sleeper(&host, "given", &["--oom-priority", "0", "--oom-score-adj", "7"]);
    assert_eq!(scores(&host, "given", pid), ["7", "7", "7"]);
    host.bulkhead(&["rm", "-f", "given"]).ok();
    let own = score(std::process::id() as i32);
    let pid = sleeper(&host, "plain", &["-m", "64m"]);
    assert_eq!(scores(&host, "plain", pid), ["0", &own, &own]);
}

#[test]
fn a_reservation_is_a_score() {
    let host = host!();
    host.busybox();
    let info = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let kib: u64 = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok())
        .expect("MemTotal");
    // A quarter of the host: 750, or a neighbour of it by the integer division.
    let pid = sleeper(&host, "held", &["--memory-reservation", &format!("{}k", kib / 4)]);
    let [recorded, init, exec] = scores(&host, "held", pid);
    assert!(["750", "751"].contains(&recorded.as_str()), "{recorded}");
    assert_eq!((&init, &exec), (&recorded, &recorded));
    // Half of it from now on: the record and the next process follow, the one that runs does not.
    host.bulkhead(&["update", "--memory-reservation", &format!("{}k", kib / 2), "held"]).ok();
    let [recorded, init_after, exec] = scores(&host, "held", pid);
    assert!(["500", "501"].contains(&recorded.as_str()), "{recorded}");
    assert_eq!((&init_after, &exec), (&init, &recorded));
}

#[test]
fn a_score_that_cannot_be_lowered_is_a_warning() {
    let host = host!();
    let image = host.busybox();
    let run = ["run", "--rm", "--oom-priority", "100", image, "cat", "/proc/self/oom_score_adj"];
    let out = host.bulkhead(&run).ok();
    if out.line() == "-997" {
        assert!(!out.err().contains("oom_score_adj"), "{out}");
        return;
    }
    assert_eq!(out.line(), score(std::process::id() as i32));
    let err = out.err();
    let warnings: Vec<&str> = err.lines().filter(|line| line.contains("oom_score_adj to -997")).collect();
    assert_eq!(warnings.len(), 1, "{out}");
    assert!(warnings[0].starts_with("WARNING: "), "{out}");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    let host = host!();
    let image = host.busybox();
    let cpus = std::thread::available_parallelism().expect("CPUs").get();
    let many = (cpus + 1).to_string();
    let range = format!("Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available");
    for (flags, sentence) in [
        // Below what the kernel or Docker takes.
        (&["-m", "1m"][..], "Minimum memory limit allowed is 6MB"),
        (&["--memory-reservation", "1m"], "Minimum memory reservation allowed is 6MB"),
        (
            &["--cpu-period", "10"],
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        (&["--cpu-quota", "10"], "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        (&["--blkio-weight", "5"], "Range of blkio weight is from 10 to 1000"),
        // Above what the host has.
        (&["--cpus", &many], &range),
        (&["--cpuset-cpus", "4095"], "Requested CPUs are not available - requested 4095, available: "),
        (
            &["--cpuset-mems", "1000"],
            "Requested memory nodes are not available - requested 1000, available: ",
        ),
        // Against each other.
        (
            &["-m", "8m", "--memory-reservation", "9m"],
            "Minimum memory limit can not be less than memory reservation limit",
        ),
        (&["-m", "8m", "--memory-swap", "7m"], "Minimum memoryswap limit should be larger than memory limit"),
        (&["-m", "8m", "--memory-high", "9m"], "Minimum memory limit can not be less than memory high limit"),
        (&["-m", "8m", "--memory-min", "9m"], "Minimum memory limit can not be less than memory min"),
        (&["--memory-swap", "8m"], "You should always set the Memory limit when using Memoryswap limit"),
        (
            &["--cpus", "0.5", "--cpu-quota", "50000"],
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        (&["--device-write-bps", "/dev/null:1mb"], "invalid device /dev/null: not a block device"),
        (&["--device-write-bps", "/dev/nowhere:1mb"], "invalid device /dev/nowhere: "),
    ] {
        let out = host.bulkhead(&[&["run", "--rm"][..], flags, &[image, "true"]].concat()).code(125);
        assert!(out.err().contains(sentence), "{flags:?}: {out}");
        assert!(host.bulkhead(&["ps", "-aq"]).ok().out().is_empty(), "{flags:?} left a container");
    }
    // The same against what a container has.
    sleeper(&host, "held", &["-m", "64m", "--cpus", "0.5"]);
    for (flags, sentence) in [
        (&["-m", "1m"][..], "Minimum memory limit allowed is 6MB"),
        (
            &["--memory-reservation", "100m"],
            "Minimum memory limit can not be less than memory reservation limit",
        ),
        (&["-m", "256m"], "Memory limit should be smaller than already set memoryswap limit"),
        (
            &["--cpu-quota", "50000"],
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
        (&["--cpuset-cpus", "4095"], "Requested CPUs are not available"),
    ] {
        let before = host.inspect("held", "{{json .HostConfig}}");
        let out = host.bulkhead(&[&["update"][..], flags, &["held"]].concat()).code(1);
        assert!(out.err().contains(sentence), "{flags:?}: {out}");
        assert_eq!(host.inspect("held", "{{json .HostConfig}}"), before, "{flags:?}");
    }
}

#[test]
fn a_container_that_ends_meanwhile_is_no_riddle() {
    let host = host!();
    host.busybox();
    for round in 0..12 {
        let name = format!("brief{round}");
        let run = ["run", "-d", "--name", &name, "--network", "none", "busybox", "sleep"];
        let nap = format!("0.0{}", round % 10);
        host.bulkhead(&[&run[..], &[&nap]].concat()).ok();
        let out = host.bulkhead(&["update", "--pids-limit", "50", &name]);
        if out.status.success() {
            assert_eq!(host.inspect(&name, "{{.HostConfig.PidsLimit}}"), "50");
        } else {
            // On one line; and never a lie about a limit that nobody has.
            let told = out.err();
            assert!(told.contains("is not running") && told.lines().count() == 1, "{out}");
            assert_eq!(host.inspect(&name, "{{.HostConfig.PidsLimit}}"), "<nil>", "{out}");
        }
        host.wait_for(&name, "{{.State.Status}} {{.State.ExitCode}}", "exited 0");
    }
}

/// The container's cgroups in every hierarchy.
fn cgroups(host: &Host, id: &str) -> Vec<std::path::PathBuf> {
    host.cgroups().into_iter().filter(|path| path.ends_with(id)).collect()
}

#[test]
fn a_cgroup_that_was_removed_is_said_to_be_gone() {
    let host = host!();
    host.busybox();
    let pid = sleeper(&host, "homeless", &["-m", "64m", "--pids-limit", "50"]);
    let id = host.inspect("homeless", "{{.Id}}");
    let dirs = cgroups(&host, &id);
    assert!(!dirs.is_empty());
    // Somebody moves its process out and removes what it lived in.
    for dir in &dirs {
        let above = dir.parent().and_then(std::path::Path::parent).expect("the mount, two above");
        fs::write(above.join("cgroup.procs"), pid.to_string()).expect("cgroup.procs");
    }
    for dir in &dirs {
        fs::remove_dir(dir).unwrap_or_else(|e| panic!("rmdir {}: {e}", dir.display()));
    }
    for args in [&["pause", "homeless"][..], &["update", "-m", "32m", "homeless"]] {
        let out = host.bulkhead(args);
        assert!(!out.status.success(), "{out}");
        let told = out.err();
        assert!(told.contains(&id) && told.contains("is gone: ENO") && told.lines().count() == 1, "{out}");
        // It runs, and nothing else is said of it.
        assert_eq!(
            host.inspect("homeless", "{{.State.Status}} {{.HostConfig.Memory}}"),
            format!("running {}", 64 << 20)
        );
    }
    let out = host.bulkhead(&["exec", "homeless", "true"]);
    assert!(!out.status.success() && out.err().contains("is gone: ENO"), "{out}");
    // Nothing to measure is no error of those that can be measured.
    host.bulkhead(&["stats", "--no-stream", "homeless"]).ok();
    host.bulkhead(&["ps"]).ok();
    host.bulkhead(&["kill", "homeless"]).ok();
    host.wait_for("homeless", "{{.State.Status}} {{.State.ExitCode}}", "exited 137");
    host.bulkhead(&["rm", "homeless"]).ok();
}

#[test]
fn a_read_only_cgroupfs_says_which_file_and_why() {
    let host = host!();
    host.busybox();
    if !common::have("unshare") && !common::have("busybox") {
        skip!("unshare");
    }
    sleeper(&host, "held", &["-m", "64m"]);
    // The same commands where every cgroup file system is mounted read only.
    let remount = common::cgroup_hierarchies()
        .iter()
        .map(|mount| format!("mount -o remount,bind,ro {0} {0} && ", mount.display()))
        .collect::<Vec<_>>()
        .concat();
    let read_only = |args: &[&str]| {
        let inner = host.command(args);
        let mut outer = std::process::Command::new("unshare");
        outer
            .args(["-m", "sh", "-c", &format!("{remount}exec \"$@\""), "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        common::run(outer, b"")
    };
    let out = read_only(&["run", "--name", "new", "busybox", "true"]).code(125);
    let told = out.err();
    assert!(told.contains("/sys/fs/cgroup") && told.contains(": EROFS"), "{out}");
    assert_eq!(
        host.inspect("new", "{{.State.Status}}"),
        "created",
        "as Docker leaves one that could not be started"
    );
    for args in [&["pause", "held"][..], &["update", "-m", "32m", "held"]] {
        let out = read_only(args);
        let told = out.err();
        assert!(
            !out.status.success() && told.contains("/sys/fs/cgroup") && told.contains(": EROFS"),
            "{out}"
        );
        assert_eq!(
            host.inspect("held", "{{.State.Status}} {{.HostConfig.Memory}}"),
            format!("running {}", 64 << 20)
        );
    }
    // And where it can be written again, all is as before.
    host.bulkhead(&["start", "new"]).ok();
    host.bulkhead(&["update", "-m", "32m", "--memory-swap", "64m", "held"]).ok();
}

#[test]
fn the_proof_runs_and_leaves_nothing() {
    let host = host!();
    let out = host.bulkhead(&["check", "limits", "--format", "json"]);
    let rows: Vec<serde_json::Value> =
        out.out().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let limits: Vec<&str> = rows.iter().map(|row| row["limit"].as_str().expect("a limit")).collect();
    assert_eq!(limits, ["memory", "cpu quota", "cpu shares", "pids", "cpuset", "io write"], "{out}");
    let mut failed = false;
    for row in &rows {
        let verdict = row["verdict"].as_str().expect("a verdict");
        failed |= verdict == "fails";
        assert!(["holds", "fails", "inconclusive", "not-supported"].contains(&verdict), "{row}");
        assert_eq!(verdict == "not-supported", row["measured"] == "", "{row}");
        // Time is not asserted on here, because other tests use the CPUs; counts and bytes are.
        if ["memory", "pids", "cpuset"].contains(&row["limit"].as_str().expect("a limit")) {
            assert!(["holds", "not-supported"].contains(&verdict), "{row}");
        }
    }
    assert_eq!(out.status.code(), Some(i32::from(failed)), "{out}");
    host.bulkhead(&["check", "nonsense"]).code(1).complains("check: unknown check \"nonsense\": only limits");
}
