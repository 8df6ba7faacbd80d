//! cgroup v2 and nothing else: each limit in its own file, parents, nesting, and what can go wrong there.
//!
//! A host whose controllers are on v1 skips these; `cargo xtask vm` runs them on two kernels.

mod common;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Host, eventually};
use serde_json::{Value, json};

/// The mount of cgroup v2, when it has the controllers.
fn mount() -> Option<PathBuf> {
    common::cgroup_hierarchies().into_iter().find(|mount| {
        fs::read_to_string(mount.join("cgroup.controllers"))
            .is_ok_and(|list| ["memory", "cpu", "pids", "io", "cpuset"].iter().all(|c| list.contains(c)))
    })
}

macro_rules! unified {
    () => {
        match mount() {
            Some(mount) => mount,
            None => skip!("the controllers on cgroup v2"),
        }
    };
}

/// Starts a sleeper under these flags; its cgroup.
fn sleeper(host: &Host, name: &str, flags: &[&str]) -> PathBuf {
    host.bulkhead(&[&["run", "-d", "--name", name][..], flags, &["busybox", "sleep", "123456"]].concat())
        .ok();
    cgroup(host, name)
}

fn cgroup(host: &Host, name: &str) -> PathBuf {
    let pid: i32 = host.inspect(name, "{{.State.Pid}}").parse().expect("a pid");
    Host::cgroup_of(pid, "memory").expect("a cgroup")
}

fn read(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

/// What `inspect` says is in force.
fn limits(host: &Host, name: &str) -> Value {
    serde_json::from_str(&host.inspect(name, "{{json .Limits}}")).expect("JSON")
}

/// A disk to limit, with its numbers. Any will do: nothing is written to it.
fn disk() -> Option<(String, String)> {
    let mut names: Vec<String> = fs::read_dir("/sys/block")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("vd") || name.starts_with("sd") || name.starts_with("nvme"))
        .collect();
    names.sort();
    let name = names.first()?;
    let numbers = fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?;
    Some((format!("/dev/{name}"), numbers.trim().to_owned()))
}

const MIB: u64 = 1 << 20;

/// Of tests that give a CPU to somebody and tests that count on having all.
static CPUS: Mutex<()> = Mutex::new(());

fn cpus() -> MutexGuard<'static, ()> {
    CPUS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_limit_is_in_its_file_and_told_as_it_stands() {
    let host = host!();
    unified!();
    host.busybox();
    let Some((node, numbers)) = disk() else { skip!("a disk") };
    let _all = cpus();
    let rate = |value: &str| format!("{node}:{value}");
    // Five bytes over: the kernel counts in pages.
    let memory = (64 * MIB + 5).to_string();
    #[rustfmt::skip]
    let dir = sleeper(&host, "all", &[
        "-m", &memory, "--memory-swap", "96m", "--memory-high", "48m", "--memory-reservation", "16m",
        "--memory-min", "8m", "--oom-group", "--cpus", "0.5", "--cpu-burst", "20000", "--cpu-shares", "512",
        "--cpuset-cpus", "0", "--cpuset-mems", "0", "--pids-limit", "50",
        "--device-read-bps", &rate("1mb"), "--device-write-bps", &rate("2mb"),
        "--device-read-iops", &rate("100"), "--device-write-iops", &rate("200"), "--hugetlb", "2MB=5m",
    ]);
    for (file, value) in [
        ("memory.max", (64 * MIB).to_string()),
        ("memory.swap.max", (32 * MIB - 8192).to_string()),
        ("memory.high", (48 * MIB).to_string()),
        ("memory.low", (16 * MIB).to_string()),
        ("memory.min", (8 * MIB).to_string()),
        ("memory.oom.group", "1".to_owned()),
        ("cpu.max", "50000 100000".to_owned()),
        ("cpu.max.burst", "20000".to_owned()),
        ("cpu.weight", "59".to_owned()),
        ("cpuset.cpus", "0".to_owned()),
        ("cpuset.mems", "0".to_owned()),
        ("pids.max", "50".to_owned()),
        ("io.max", format!("{numbers} rbps=1048576 wbps=2097152 riops=100 wiops=200")),
        ("hugetlb.2MB.max", (4 * MIB).to_string()),
    ] {
        let stands = read(&dir, file);
        // 32 MiB less five bytes, rounded down to pages of whichever size.
        let swap = file == "memory.swap.max" && stands.parse::<u64>().is_ok_and(|n| n / MIB == 31);
        assert!(swap || stands == value, "{file}: {stands}, not {value}");
    }
    let told = limits(&host, "all");
    let io =
        json!([{"Device": numbers, "ReadBps": MIB, "WriteBps": 2 * MIB, "ReadIOps": 100, "WriteIOps": 200}]);
    for (key, value) in [
        ("Memory", json!(64 * MIB)),
        ("MemoryHigh", json!(48 * MIB)),
        ("MemoryReservation", json!(16 * MIB)),
        ("MemoryMin", json!(8 * MIB)),
        ("OomGroup", json!(true)),
        ("CpuQuota", json!(50_000)),
        ("CpuPeriod", json!(100_000)),
        ("CpuBurst", json!(20_000)),
        ("CpuWeight", json!(59)),
        ("CpusetCpus", json!("0")),
        ("CpusetMems", json!("0")),
        ("Pids", json!(50)),
        ("Io", io),
    ] {
        assert_eq!(told[key], value, "{key}: {told}");
    }
    // Rounded, and told as rounded; the record keeps what was asked for.
    assert_eq!(told["HugePages"]["2MB"], json!(4 * MIB), "{told}");
    assert_eq!(host.inspect("all", "{{.HostConfig.Memory}}"), memory);

    // Everything changed at once.
    #[rustfmt::skip]
    host.bulkhead(&[
        "update", "-m", "128m", "--memory-swap", "-1", "--memory-high", "100m", "--memory-reservation", "32m",
        "--memory-min", "12m", "--oom-group=false", "--cpus", "0.25", "--cpu-burst", "10000", "--cpu-shares", "2048",
        "--cpuset-cpus", "0-1", "--pids-limit", "60", "--device-read-bps", &rate("4mb"),
        "--device-write-iops", &rate("0"), "--hugetlb", "2MB=8m", "all",
    ]).ok();
    for (file, value) in [
        ("memory.max", (128 * MIB).to_string()),
        ("memory.swap.max", "max".to_owned()),
        ("memory.high", (100 * MIB).to_string()),
        ("memory.low", (32 * MIB).to_string()),
        ("memory.min", (12 * MIB).to_string()),
        ("memory.oom.group", "0".to_owned()),
        ("cpu.max", "25000 100000".to_owned()),
        ("cpu.max.burst", "10000".to_owned()),
        ("cpu.weight", "174".to_owned()),
        ("cpuset.cpus", "0-1".to_owned()),
        ("pids.max", "60".to_owned()),
        ("io.max", format!("{numbers} rbps=4194304 wbps=2097152 riops=100 wiops=max")),
        ("hugetlb.2MB.max", (8 * MIB).to_string()),
    ] {
        assert_eq!(read(&dir, file), value, "{file}");
    }
    // And what is Bulkhead's own taken back.
    #[rustfmt::skip]
    host.bulkhead(&[
        "update", "--memory-high", "-1", "--memory-min", "-1", "--cpu-burst", "-1", "--pids-limit", "-1",
        "--hugetlb", "2MB=-1", "all",
    ]).ok();
    for (file, value) in [
        ("memory.high", "max"),
        ("memory.min", "0"),
        ("cpu.max.burst", "0"),
        ("pids.max", "max"),
        ("hugetlb.2MB.max", "max"),
        ("memory.low", "33554432"),
    ] {
        assert_eq!(read(&dir, file), value, "{file}");
    }
    host.bulkhead(&["stop", "-t", "0", "all"]).ok();
    assert_eq!(host.inspect("all", "{{json .Limits}}"), "null");
}

#[test]
fn an_update_that_the_kernel_refuses_changes_nothing() {
    let host = host!();
    unified!();
    host.busybox();
    let dir = sleeper(&host, "held", &["-m", "64m", "--cpus", "0.5"]);
    let files = ["memory.max", "memory.swap.max", "memory.high", "cpu.max", "cpu.max.burst", "pids.max"];
    let all = || files.map(|file| read(&dir, file));
    let (before, record) = (all(), host.inspect("held", "{{json .HostConfig}}"));
    // The burst is above the quota, which the kernel finds out after the memory has been written.
    let change =
        ["--memory-high", "32m", "-m", "48m", "--cpus", "0.25", "--cpu-burst", "900000", "--pids-limit", "9"];
    let out = host.bulkhead(&[&["update"][..], &change[..], &["held"]].concat()).code(1);
    let told = out.err();
    assert!(told.contains("write \"900000\" to ") && told.contains("cpu.max.burst: EINVAL"), "{out}");
    assert_eq!(told.lines().count(), 1, "{out}");
    assert_eq!((all(), host.inspect("held", "{{json .HostConfig}}")), (before, record));
    // A size of huge pages that this host does not have.
    let out = host.bulkhead(&["update", "--hugetlb", "3MB=3m", "held"]).code(1);
    assert!(out.err().contains("huge page limit is not supported on this host ("), "{out}");
    assert!(out.err().contains("hugetlb.3MB.max: ENOENT"), "{out}");
    let out = host.bulkhead(&["run", "--rm", "--hugetlb", "3MB=3m", "busybox", "true"]).code(125);
    assert!(out.err().contains("hugetlb.3MB.max: ENOENT"), "{out}");
    host.bulkhead(&["stop", "-t", "0", "held"]).ok();
}

/// A cgroup of the test's own, removed with what is below it.
struct Own(PathBuf);

impl Own {
    fn new(mount: &Path, name: &str) -> Self {
        let path = mount.join(format!("bulkhead-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("mkdir");
        Self(path)
    }

    /// As `--cgroup-parent` takes it.
    fn parent(&self, mount: &Path) -> String {
        format!("/{}", self.0.strip_prefix(mount).expect("below").display())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        fn remove(dir: &Path) {
            let below = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
            below.filter(|path| path.is_dir()).for_each(|path| remove(&path));
            let _ = fs::write(dir.join("cgroup.kill"), "1");
            for _ in 0..100 {
                match fs::remove_dir(dir) {
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    _ => break,
                }
            }
        }
        remove(&self.0);
    }
}

#[test]
fn a_parent_anywhere_gets_its_controllers() {
    let host = host!();
    let mount = unified!();
    host.busybox();
    let own = Own::new(&mount, "deep");
    let parent = format!("{}/a/b", own.parent(&mount));
    let dir = sleeper(&host, "held", &["--cgroup-parent", &parent, "-m", "32m"]);
    assert_eq!(dir.parent(), Some(own.0.join("a/b").as_path()));
    assert_eq!(read(&dir, "memory.max"), (32 * MIB).to_string());
    assert!(read(&own.0.join("a"), "cgroup.subtree_control").contains("memory"));
    // The limit of a parent holds below it, and the kill is told of the container.
    fs::write(own.0.join("memory.max"), (16 * MIB).to_string()).expect("memory.max");
    fs::write(own.0.join("memory.swap.max"), "0").expect("memory.swap.max");
    let eat = ["busybox", "tail", "/dev/zero"];
    host.bulkhead(&[&["run", "--name", "eater", "--cgroup-parent", &parent][..], &eat[..]].concat())
        .code(137);
    assert_eq!(host.inspect("eater", "{{.State.OOMKilled}} {{.State.OOM.Victim.Name}}"), "true tail");
    host.bulkhead(&["rm", "-f", "held", "eater"]).ok();
}

#[test]
fn processes_in_the_parent_are_said_to_be_in_the_way() {
    let host = host!();
    let mount = unified!();
    host.busybox();
    let own = Own::new(&mount, "busy");
    let mut squatter =
        std::process::Command::new("/bin/busybox").args(["sleep", "1000"]).spawn().expect("sleep");
    fs::write(own.0.join("cgroup.procs"), squatter.id().to_string()).expect("cgroup.procs");
    let out =
        host.bulkhead(&["run", "--rm", "--cgroup-parent", &own.parent(&mount), "busybox", "true"]).code(125);
    let told = out.err();
    assert!(
        told.contains("cgroup.subtree_control: EBUSY")
            && told.contains("(the cgroup has processes of its own"),
        "{out}"
    );
    assert!(host.bulkhead(&["ps", "-aq"]).ok().out().is_empty(), "it was to be removed");
    squatter.kill().expect("kill");
    squatter.wait().expect("wait");
}

#[test]
fn cpus_that_are_not_granted_are_refused() {
    let host = host!();
    let mount = unified!();
    host.busybox();
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        skip!("two CPUs");
    }
    let _all = cpus();
    let own = Own::new(&mount, "cpus");
    let root = fs::read_to_string(mount.join("cgroup.subtree_control")).expect("subtree_control");
    if !root.contains("cpuset") {
        fs::write(mount.join("cgroup.subtree_control"), "+cpuset").expect("subtree_control");
    }
    fs::write(own.0.join("cpuset.cpus"), "0").expect("cpuset.cpus");
    let parent = own.parent(&mount);
    let out = host
        .bulkhead(&["run", "--rm", "--cgroup-parent", &parent, "--cpuset-cpus", "1", "busybox", "true"])
        .code(125);
    let told = out.err();
    assert!(
        told.contains("cpuset.cpus 1 was asked for, but ")
            && told.contains("cpuset.cpus.effective says \"0\""),
        "{out}"
    );
    // What a running container has, it keeps.
    let dir = sleeper(&host, "held", &["--cgroup-parent", &parent, "--cpuset-cpus", "0"]);
    host.bulkhead(&["update", "--cpuset-cpus", "0-1", "held"])
        .code(1)
        .complains("cpuset.cpus.effective says \"0\"");
    assert_eq!(read(&dir, "cpuset.cpus"), "0");
    assert_eq!(host.inspect("held", "{{.HostConfig.CpusetCpus}}"), "0");
    host.bulkhead(&["rm", "-f", "held"]).ok();
    // An exclusive partition beside it keeps its CPU for itself.
    let partition = Own::new(&mount, "partition");
    fs::write(partition.0.join("cpuset.cpus"), "1").expect("cpuset.cpus");
    fs::write(partition.0.join("cpuset.cpus.partition"), "root").expect("partition");
    if read(&partition.0, "cpuset.cpus.partition") == "root" {
        let out = host.bulkhead(&["run", "--rm", "--cpuset-cpus", "1", "busybox", "true"]).code(125);
        assert!(out.err().contains("cpuset.cpus 1 was asked for, but "), "{out}");
    } else {
        println!("skipped: needs a CPU that nobody else has (the exclusive partition of this test)");
    }
    fs::write(partition.0.join("cpuset.cpus.partition"), "member").expect("partition");
}

/// Runs a command of the host in a cgroup namespace whose root is `root`, with cgroup v2 mounted anew.
fn delegated(host: &Host, root: &Path, args: &[&str]) -> common::Output {
    let mut command = host.command(args);
    let procs = root.join("cgroup.procs");
    let mount = common::cgroup_hierarchies().into_iter().find(|m| m.join("cgroup.controllers").exists());
    let mount = mount.expect("checked before");
    // SAFETY: between fork and exec this makes system calls on paths made before; allocation by `fs::write` and
    // `mount` is safe, because the child of this harness is forked by posix rules with glibc's handlers.
    unsafe {
        command.pre_exec(move || {
            use nix::mount::{MsFlags, mount as attach};
            use nix::sched::{CloneFlags, unshare};
            let none: Option<&str> = None;
            fs::write(&procs, "0")?;
            unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS)?;
            attach(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            // The same file system may not be mounted on itself.
            nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH)?;
            attach(Some("cgroup2"), &mount, Some("cgroup2"), MsFlags::empty(), none)?;
            Ok(())
        });
    }
    common::run(command, b"")
}

#[test]
fn a_subtree_without_controllers_says_what_it_lacks() {
    let host = host!();
    let mount = unified!();
    host.busybox();
    let own = Own::new(&mount, "bare");
    // Its parent hands nothing down to it.
    let bare = own.0.join("bare");
    fs::create_dir(&bare).expect("mkdir");
    assert_eq!(read(&bare, "cgroup.controllers"), "");
    let out =
        delegated(&host, &bare, &["run", "--rm", "-m", "64m", "--pids-limit", "5", "busybox", "echo", "ran"])
            .ok();
    assert_eq!(out.out(), "ran\n", "as Docker does: without the limits, and saying so");
    let told = out.err();
    for part in ["memory limit capabilities", "memory.max: ENOENT", "PIDs limit", "pids.max: ENOENT"] {
        assert!(told.contains(part), "{part}: {out}");
    }
    let out = delegated(&host, &bare, &["run", "--rm", "--memory-high", "32m", "busybox", "true"]).code(125);
    assert!(out.err().contains("memory.high is not supported on this host ("), "{out}");
    assert!(out.err().contains("memory.high: ENOENT"), "{out}");
    let out = delegated(&host, &bare, &["run", "--rm", "--cpus", "0.5", "busybox", "true"]).code(125);
    assert!(out.err().contains("cpu.max: ENOENT"), "{out}");
    assert!(host.bulkhead(&["ps", "-aq"]).ok().out().is_empty());
}

#[test]
fn a_delegated_subtree_is_used_as_it_is() {
    let host = host!();
    let mount = unified!();
    host.busybox();
    let own = Own::new(&mount, "given");
    let available = read(&own.0, "cgroup.controllers");
    let all = ["memory", "pids", "cpu", "io"].map(|c| format!("+{c}")).join(" ");
    if !available.contains("memory") {
        fs::write(mount.join("cgroup.subtree_control"), &all).expect("subtree_control");
    }
    let given = own.0.join("given");
    fs::create_dir(&given).expect("mkdir");
    fs::write(own.0.join("cgroup.subtree_control"), &all).expect("subtree_control");
    // The engine's own process is in the root of what was delegated, as systemd's Delegate=yes leaves it, and has to
    // make room before it can hand controllers down.
    let show =
        ["run", "--rm", "-m", "64m", "--pids-limit", "5", "busybox", "cat", "/sys/fs/cgroup/memory.max"];
    let out = delegated(&host, &given, &show).ok();
    assert_eq!(out.line(), (64 * MIB).to_string(), "{out}");
    assert!(!out.err().contains("WARNING"), "{out}");
    assert!(read(&given, "cgroup.subtree_control").contains("memory"));
}

#[test]
fn an_engine_in_a_container_limits_its_own() {
    let host = host!();
    unified!();
    host.busybox();
    let archive = host.file("busybox.tar", common::images::busybox());
    let inner = host.dir().join("inner");
    fs::create_dir_all(&inner).expect("mkdir");
    let program = fs::canonicalize(common::BULKHEAD).expect("the binary");
    let volumes = [
        format!("{}:/bulkhead:ro", program.display()),
        format!("{}:/image.tar:ro", archive.display()),
        format!("{}:/inner", inner.display()),
    ];
    let script = "b='/bulkhead --root /inner/root --run-root /inner/run'; $b load -qi /image.tar && \
        $b run --rm --network none -m 32m --pids-limit 7 busybox cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    #[rustfmt::skip]
    let out = host.bulkhead(&[
        "run", "--rm", "--privileged", "-m", "256m", "-v", &volumes[0], "-v", &volumes[1], "-v", &volumes[2],
        "busybox", "sh", "-c", script,
    ]).ok();
    let lines: Vec<String> = out.out().lines().map(str::to_owned).collect();
    assert_eq!(lines[lines.len() - 2..], [(32 * MIB).to_string(), "7".to_owned()], "{out}");
}

#[test]
fn a_whole_container_dies_of_memory_and_says_which_process_did_it() {
    let host = host!();
    unified!();
    let image = host.busybox();
    let eat = "sleep 1000 & tail /dev/zero; sleep 1000";
    let limits = ["-m", "32m", "--memory-swap", "32m", "--oom-group", "--network", "none"];
    host.bulkhead(&[&["run", "--name", "group"][..], &limits[..], &[image, "sh", "-c", eat]].concat())
        .code(137);
    let state: Value = serde_json::from_str(&host.inspect("group", "{{json .State}}")).expect("JSON");
    assert_eq!(
        (&state["OOMKilled"], &state["OOM"]["Victim"]["Name"]),
        (&json!(true), &json!("tail")),
        "{state}"
    );
    assert!(state["OOM"]["Kills"].as_u64() >= Some(3), "all three: {state}");
    assert_eq!(state["OOM"]["Limit"], 32 * MIB);
    assert!(state["OOM"]["Usage"].as_u64() > Some(24 * MIB), "{state}");
    // Without it the shell goes on.
    let one = ["-m", "32m", "--memory-swap", "32m", "--network", "none"];
    let eat = "tail /dev/zero; echo $?";
    let out =
        host.bulkhead(&[&["run", "--name", "one"][..], &one[..], &[image, "sh", "-c", eat]].concat()).ok();
    assert_eq!(out.out(), "137\n");
    assert_eq!(host.inspect("one", "{{.State.OOMKilled}} {{.State.OOM.Kills}}"), "true 1");
}

#[test]
fn a_limit_is_changed_while_memory_runs_out() {
    let host = host!();
    unified!();
    host.busybox();
    // The shell is to go on, so it must not look as good to the kernel as what it starts.
    let eat = "while :; do (echo 900 >/proc/self/oom_score_adj; exec tail /dev/zero); done";
    let flags = ["-m", "24m", "--memory-swap", "24m", "--network", "none", "busybox", "sh", "-c", eat];
    host.bulkhead(&[&["run", "-d", "--name", "eater"][..], &flags[..]].concat()).ok();
    let dir = cgroup(&host, "eater");
    let kills = || {
        let text = read(&dir, "memory.events");
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.parse::<u64>().ok()).expect("oom_kill")
    };
    eventually("it is killed for memory", || kills() > 0);
    for mib in [32u64, 28, 48] {
        let size = format!("{mib}m");
        host.bulkhead(&["update", "-m", &size, "--memory-swap", &size, "eater"]).ok();
        assert_eq!(read(&dir, "memory.max"), (mib * MIB).to_string());
        let before = kills();
        eventually("and again", || kills() > before);
    }
    // Told while it lives, not only in the end.
    eventually("it is told", || {
        host.inspect("eater", "{{.State.Status}} {{.State.OOMKilled}}") == "running true"
    });
    host.bulkhead(&["pause", "eater"]).ok();
    host.bulkhead(&["update", "-m", "40m", "--memory-swap", "40m", "eater"]).ok();
    assert_eq!(host.inspect("eater", "{{.State.Status}}"), "paused");
    assert_eq!((read(&dir, "cgroup.freeze"), read(&dir, "memory.max")), ("1".into(), (40 * MIB).to_string()));
    host.bulkhead(&["rm", "-f", "eater"]).ok();
}
