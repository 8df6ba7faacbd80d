//! Against the real kernel, under a parent of each test's own.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

/// A parent cgroup that is gone when the test is.
struct Parent(String);

impl Parent {
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        if let Err(error) = Mounts::find() {
            println!("skipped: needs cgroup v2 ({error})");
            return None;
        }
        let name = format!("/bulkhead-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Some(Self(name))
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return remove_parent(&self.0).unwrap();
        }
        // A failed test must not leave its children behind.
        let names = Mounts::find().and_then(|m| Dir::open(&m.v2.join(&self.0[1..]))?.children());
        for name in names.into_iter().flatten() {
            let _ = Cgroup::open(&self.0, &name.to_string_lossy()).and_then(Cgroup::remove);
        }
        let _ = remove_parent(&self.0);
    }
}

/// libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child born in the cgroup, running `body` and then exiting with what it returns.
pub(super) fn spawn_in(cgroup: &Cgroup, body: impl FnOnce() -> i32) -> Pid {
    let attach = cgroup.attach().unwrap();
    let (told, tell) = nix::unistd::pipe().unwrap();
    // SAFETY: clone_args is plain data, and the child calls nothing that takes a lock another thread
    // of the test harness may hold: `body` keeps to system calls.
    let pid = unsafe {
        let mut args: libc::clone_args = std::mem::zeroed();
        args.flags = CLONE_INTO_CGROUP;
        args.exit_signal = libc::SIGCHLD as u64;
        args.cgroup = attach.v2.as_raw_fd() as u64;
        libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>())
    };
    assert!(pid >= 0, "clone3: {}", Errno::last());
    if pid == 0 {
        let entered = attach.tasks.iter().all(enter);
        let _ = nix::unistd::write(&tell, b"0");
        let code = if entered { body() } else { 99 };
        // SAFETY: the child of a threaded process must not run atexit handlers.
        unsafe { libc::_exit(code) }
    }
    // The child says when it is where it belongs. A byte, not the end of the file: children of other
    // tests may have inherited the other end.
    assert_eq!(nix::unistd::read(&told, &mut [0]), Ok(1));
    Pid::from_raw(pid as i32)
}

fn enter(tasks: &OwnedFd) -> bool {
    nix::unistd::write(tasks, b"0") == Ok(1)
}

fn sleeper() -> i32 {
    loop {
        nix::unistd::pause();
    }
}

fn wait(pid: Pid) -> nix::sys::wait::WaitStatus {
    nix::sys::wait::waitpid(pid, None).unwrap()
}

#[test]
fn born_frozen_killed_removed() {
    let Some(parent) = Parent::new() else { return };
    let (cgroup, warnings) = Cgroup::create(&parent.0, "one", &LinuxResources::default()).unwrap();
    assert!(warnings.is_empty());
    let Err(Error::Exists { .. }) = Cgroup::create(&parent.0, "one", &LinuxResources::default()) else {
        panic!("made twice");
    };
    assert!(!cgroup.is_populated().unwrap());
    let pid = spawn_in(&cgroup, sleeper);
    assert_eq!(cgroup.pids().unwrap(), [pid.as_raw()]);
    let inside = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in inside.lines() {
        let (_, rest) = line.split_once(':').unwrap();
        let (controllers, path) = rest.split_once(':').unwrap();
        if controllers.is_empty() || cgroup.v1_controllers().any(|(name, _)| name == controllers) {
            assert!(path.ends_with(&format!("{}/one", parent.0)), "{line}");
        }
    }

    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());

    let reopened = Cgroup::open(&parent.0, "one").unwrap();
    assert_eq!(reopened.id(), cgroup.id());
    assert_eq!(reopened.v1_controllers().count(), cgroup.v1_controllers().count());

    reopened.freeze().unwrap();
    reopened.kill().unwrap();
    assert_eq!(
        wait(pid),
        nix::sys::wait::WaitStatus::Signaled(pid, Signal::SIGKILL, false),
        "a frozen container dies too"
    );
    cgroup.remove().unwrap();
    assert!(reopened.pids().unwrap_err().is_gone());
    reopened.remove().unwrap();
    assert!(Cgroup::open(&parent.0, "one").unwrap_err().is_gone());
}

#[test]
fn removal_with_live_processes_and_children() {
    let Some(parent) = Parent::new() else { return };
    let (cgroup, _) = Cgroup::create(&parent.0, "busy", &LinuxResources::default()).unwrap();
    let pids: Vec<Pid> = (0..3).map(|_| spawn_in(&cgroup, sleeper)).collect();
    let nested = cgroup.path().join("nested/deeper");
    std::fs::create_dir_all(&nested).unwrap();
    std::fs::write(nested.join("cgroup.procs"), pids[0].to_string()).unwrap();
    let mut listed = cgroup.pids().unwrap();
    listed.sort_unstable();
    let mut expected: Vec<i32> = pids.iter().map(|p| p.as_raw()).collect();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    cgroup.remove().unwrap();
    for pid in pids {
        assert_eq!(wait(pid), nix::sys::wait::WaitStatus::Signaled(pid, Signal::SIGKILL, false));
    }
}

#[test]
fn removed_under_our_feet() {
    let Some(parent) = Parent::new() else { return };
    let (mut cgroup, _) = Cgroup::create(&parent.0, "feet", &LinuxResources::default()).unwrap();
    let paths: Vec<PathBuf> =
        cgroup.v1_controllers().map(|(_, p)| p.to_owned()).chain([cgroup.path().to_owned()]).collect();
    for path in &paths {
        std::fs::remove_dir(path).unwrap();
    }
    assert!(cgroup.pids().unwrap_err().is_gone());
    assert!(cgroup.freeze().unwrap_err().is_gone());
    assert!(cgroup.kill().unwrap_err().is_gone());
    assert!(cgroup.attach().unwrap_err().is_gone());
    let mut limits = LinuxResources::default();
    limits.set_unified(Some([("memory.high".to_owned(), "max".to_owned())].into()));
    assert!(cgroup.update(&limits).unwrap_err().is_gone());
    cgroup.remove().unwrap();
}

#[test]
fn hostile_names() {
    let none = LinuxResources::default();
    for (parent, id) in [
        ("/", "x"),
        ("", "x"),
        ("/a/../../b", "x"),
        ("/a\0b", "x"),
        ("/p", ""),
        ("/p", ".."),
        ("/p", "a/b"),
        ("/p", "a\nb"),
    ] {
        let Err(Error::BadPath { .. }) = Cgroup::create(parent, id, &none) else {
            panic!("{parent:?} {id:?}")
        };
        let Err(Error::BadPath { .. }) = Cgroup::open(parent, id) else { panic!("{parent:?} {id:?}") };
    }
    assert_eq!(clean_parent("a//./b/").unwrap(), Path::new("a/b"));
}

/// Whether limits on memory, CPU and tasks can be tested here; says what is missing otherwise.
fn has_controllers() -> bool {
    let mounts = Mounts::find().unwrap();
    let there = std::fs::read_to_string(mounts.v2.join("cgroup.controllers")).unwrap();
    let have = |c: V1| mounts.v1(c).is_some() || there.split_ascii_whitespace().any(|t| t == c.name());
    let all = [V1::Memory, V1::Cpu, V1::Pids].into_iter().all(have);
    if !all {
        println!("skipped: needs cgroup controllers");
    }
    all
}

/// Whether the memory controller is on v2; says so otherwise.
fn has_memory_v2() -> bool {
    let mounts = Mounts::find().unwrap();
    let there = std::fs::read_to_string(mounts.v2.join("cgroup.controllers")).unwrap();
    let yes = there.split_ascii_whitespace().any(|t| t == "memory");
    if !yes {
        println!("skipped: needs cgroup v2 controllers");
    }
    yes
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

const MIB: usize = 1 << 20;

/// Touches so much memory, then exits with 0.
fn touch(bytes: usize) -> i32 {
    // SAFETY: a fresh anonymous mapping, written within its bounds.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if at == libc::MAP_FAILED {
            return 98;
        }
        for offset in (0..bytes).step_by(4096) {
            at.cast::<u8>().add(offset).write_volatile(1);
        }
    }
    0
}

#[test]
fn out_of_memory_kills_counts_and_tells() {
    let Some(parent) = Parent::new() else { return };
    if !has_controllers() {
        return;
    }
    let limits = resources(r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#);
    let (cgroup, warnings) = Cgroup::create(&parent.0, "oom", &limits).unwrap();
    // Without swap there may be no file for it; the limit itself is not optional.
    assert!(warnings.iter().all(|w| w.0.what == Limit::MemorySwap), "{warnings:?}");
    assert_eq!(cgroup.oom_kills().unwrap(), Some(0));
    let watch = cgroup.oom_watch().unwrap().unwrap();
    watch.acknowledge().unwrap();

    let fits = spawn_in(&cgroup, || touch(4 * MIB));
    assert_eq!(wait(fits), nix::sys::wait::WaitStatus::Exited(fits, 0));
    assert_eq!(cgroup.oom_kills().unwrap(), Some(0));

    let exceeds = spawn_in(&cgroup, || touch(64 * MIB));
    assert_eq!(wait(exceeds), nix::sys::wait::WaitStatus::Signaled(exceeds, Signal::SIGKILL, false));
    let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, 10_000u16).unwrap(), 1, "the watch stayed silent");
    watch.acknowledge().unwrap();
    assert_eq!(cgroup.oom_kills().unwrap(), Some(1));

    let stats = cgroup.stats().unwrap();
    let memory = stats.memory.unwrap();
    assert_eq!(memory.limit, Some(16 * MIB as u64));
    assert_eq!(memory.oom_kills, Some(1));
    // 6.18 leaves both failcnt files of v1 at 0 across an OOM kill, so only v2's count is held to it.
    assert!(memory.failcnt.unwrap() > 0 || cgroup.v1.get(V1::Memory).is_some());
    if let Some(peak) = memory.peak {
        assert!((4 * MIB as u64..=16 * MIB as u64).contains(&peak), "{peak}");
    }
    cgroup.remove().unwrap();
}

#[test]
fn tasks_beyond_the_limit_get_eagain() {
    let Some(parent) = Parent::new() else { return };
    if !has_controllers() {
        return;
    }
    let (cgroup, _) = Cgroup::create(&parent.0, "pids", &resources(r#"{"pids": {"limit": 2}}"#)).unwrap();
    let pid = spawn_in(&cgroup, || {
        // The child of this child only waits to be killed; forking is a bare system call here.
        // SAFETY: fork without any lock held; the grandchild does nothing but pause.
        unsafe {
            match libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) {
                0 => sleeper(),
                -1 => 1,
                _ if libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) != -1 => 2,
                _ if Errno::last() == Errno::EAGAIN => 0,
                _ => 3,
            }
        }
    });
    assert_eq!(wait(pid), nix::sys::wait::WaitStatus::Exited(pid, 0));
    assert_eq!(cgroup.limits().unwrap().pids, Some(Ceiling::At(2)));
    assert_eq!(cgroup.stats().unwrap().pids, stats::Pids { current: 1, limit: Some(2) });
    cgroup.remove().unwrap();
}

#[test]
fn a_quota_throttles() {
    let Some(parent) = Parent::new() else { return };
    if !has_controllers() {
        return;
    }
    let quota = resources(r#"{"cpu": {"quota": 2000, "period": 20000, "shares": 512}}"#);
    let (mut cgroup, _) = Cgroup::create(&parent.0, "cpu", &quota).unwrap();
    let limits = cgroup.limits().unwrap();
    assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(Ceiling::At(2000)), Some(20_000)));
    assert!(limits.cpu_shares == Some(512) || limits.cpu_weight == Some(59), "{limits:?}");
    spawn_in(&cgroup, || {
        loop {
            std::hint::spin_loop();
        }
    });
    let meter = cgroup.meter().unwrap();
    let throttling = loop {
        let stats = meter.read().unwrap();
        let throttling = stats.cpu.throttling.unwrap();
        if throttling.throttled > 0 && throttling.throttled_time > 0 {
            assert!(stats.cpu.usage > 0);
            break throttling;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(throttling.periods >= throttling.throttled);
    // Burst after quota and quota below burst: either order of change must come out.
    for (json, quota, burst) in [
        (r#"{"cpu": {"quota": 4000, "burst": 3000}}"#, 4000, 3000),
        (r#"{"cpu": {"quota": 1000, "burst": 500}}"#, 1000, 500),
        (r#"{"cpu": {"quota": 9000, "burst": 9000}}"#, 9000, 9000),
    ] {
        cgroup.update(&resources(json)).unwrap();
        let limits = cgroup.limits().unwrap();
        assert_eq!((limits.cpu_quota, limits.cpu_burst), (Some(Ceiling::At(quota)), Some(burst)));
        assert_eq!(limits.cpu_period, Some(20_000), "an update leaves the period alone");
    }
    cgroup.update(&resources(r#"{"cpu": {"burst": 0}}"#)).unwrap();
    cgroup.update(&resources(r#"{"cpu": {"quota": -1}}"#)).unwrap();
    assert_eq!(cgroup.limits().unwrap().cpu_quota, Some(Ceiling::Unlimited));
    cgroup.remove().unwrap();
    assert!(meter.read().unwrap_err().is_gone());
}

#[test]
fn updates_reach_a_frozen_container_and_processes_already_there() {
    let Some(parent) = Parent::new() else { return };
    if !has_controllers() {
        return;
    }
    let (mut cgroup, _) = Cgroup::create(&parent.0, "late", &LinuxResources::default()).unwrap();
    let pid = spawn_in(&cgroup, sleeper);
    assert_eq!(cgroup.stats().unwrap().pids.current, 1);
    cgroup.freeze().unwrap();
    cgroup.update(&resources(r#"{"pids": {"limit": 7}, "cpu": {"shares": 2048, "cpus": "0"}}"#)).unwrap();
    assert!(cgroup.is_frozen().unwrap(), "an update does not thaw");
    assert_eq!(cgroup.limits().unwrap().pids, Some(Ceiling::At(7)));
    assert_eq!(cgroup.stats().unwrap().pids, stats::Pids { current: 1, limit: Some(7) });
    assert_eq!(cgroup.limits().unwrap().cpuset_cpus.as_deref(), Some("0"));
    cgroup.thaw().unwrap();
    // Not frozen: the update freezes, moves and thaws.
    let (mut other, _) = Cgroup::create(&parent.0, "late2", &LinuxResources::default()).unwrap();
    let second = spawn_in(&other, sleeper);
    other.update(&resources(r#"{"pids": {"limit": 1}}"#)).unwrap();
    assert!(!other.is_frozen().unwrap());
    assert_eq!(other.stats().unwrap().pids, stats::Pids { current: 1, limit: Some(1) });
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    cgroup.remove().unwrap();
    other.remove().unwrap();
    wait(pid);
    wait(second);
}

#[test]
fn memory_and_swap_move_up_and_down_together() {
    let Some(parent) = Parent::new() else { return };
    if !has_controllers() {
        return;
    }
    let pair =
        |limit: u64, swap: i64| resources(&format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#));
    let mib = 1 << 20;
    let (mut cgroup, warnings) = Cgroup::create(&parent.0, "swap", &pair(32 * mib, 48 << 20)).unwrap();
    if !warnings.is_empty() {
        println!("skipped: needs swap accounting");
        cgroup.remove().unwrap();
        return;
    }
    for (limit, swap) in [(32u64, 48i64), (64, 64), (16, 20), (128, 256), (8, -1)] {
        let both = if swap < 0 { swap } else { swap << 20 };
        assert_eq!(cgroup.update(&pair(limit * mib, both)).unwrap(), []);
        let limits = cgroup.limits().unwrap();
        assert_eq!(limits.memory, Some(Ceiling::At(limit * mib)));
        let expected = if swap < 0 { Ceiling::Unlimited } else { Ceiling::At((swap as u64) << 20) };
        assert_eq!(limits.memory_swap, Some(expected));
    }
    // The kernel rounds down to pages; what stands is what is shown.
    cgroup.update(&pair((8 << 20) + 5, -1)).unwrap();
    assert_eq!(cgroup.limits().unwrap().memory, Some(Ceiling::At(8 << 20)));
    cgroup.remove().unwrap();
}

#[test]
fn what_the_host_cannot_do_is_said() {
    let Some(parent) = Parent::new() else { return };
    let unified = |file: &str, value: &str| {
        let mut r = LinuxResources::default();
        r.set_unified(Some([(file.to_owned(), value.to_owned())].into()));
        r
    };
    let before =
        std::fs::read_dir(Mounts::find().unwrap().v2.join(&parent.0[1..])).map_or(0, Iterator::count);
    let error = Cgroup::create(&parent.0, "no", &unified("memory.nonsense", "1")).unwrap_err();
    let Error::Unsupported(fact) = &error else { panic!("{error}") };
    assert_eq!(fact.errno, Errno::ENOENT);
    assert!(error.to_string().contains("no/memory.nonsense"), "{error}");
    for hostile in ["../x.y", "cgroup.procs", "cgroup.subtree_control", "plain", ".hidden.x"] {
        let error = Cgroup::create(&parent.0, "no", &unified(hostile, "1")).unwrap_err();
        assert!(matches!(error, Error::BadPath { .. }), "{hostile}: {error}");
    }
    let error = Cgroup::create(&parent.0, "no", &resources(r#"{"cpu": {"cpus": "4095"}}"#)).unwrap_err();
    assert!(matches!(&error, Error::Write { value, .. } if value == "4095"), "{error}");
    // Nothing half-made is left of any of them.
    let left = std::fs::read_dir(Mounts::find().unwrap().v2.join(&parent.0[1..])).unwrap();
    assert_eq!(
        left.filter(|e| e.as_ref().unwrap().path().is_dir()).count(),
        0,
        "before there were {before} entries"
    );
    for (name, path) in
        Mounts::find().unwrap().v1.iter().flatten().map(|p| (p, p.join(&parent.0[1..]).join("no")))
    {
        assert!(!path.exists(), "{}", name.display());
    }
}

#[test]
fn memory_high_and_oom_group() {
    let Some(parent) = Parent::new() else { return };
    if !has_memory_v2() {
        return;
    }
    let limits = resources(
        r#"{"memory": {"limit": 33554432, "reservation": 4194304},
            "unified": {"memory.high": "8388608", "memory.oom.group": "1", "memory.min": "1048576"}}"#,
    );
    let (mut cgroup, warnings) = Cgroup::create(&parent.0, "high", &limits).unwrap();
    assert_eq!(warnings, []);
    let back = cgroup.limits().unwrap();
    assert_eq!(back.memory_high, Some(Ceiling::At(8 << 20)));
    assert_eq!(back.memory_min, Some(Ceiling::At(1 << 20)));
    assert_eq!(back.memory_reservation, Some(Ceiling::At(4 << 20)));
    assert_eq!(back.oom_group, Some(true));
    // A little above memory.high is slowed down, not killed. Far above would be slowed for minutes.
    let above = spawn_in(&cgroup, || touch(9 * MIB));
    assert_eq!(wait(above), nix::sys::wait::WaitStatus::Exited(above, 0));
    assert!(cgroup.stats().unwrap().memory.unwrap().high_events.unwrap() > 0);
    cgroup.update(&resources(r#"{"unified": {"memory.high": "max"}}"#)).unwrap();
    // Two processes; one exceeds the limit, and both go.
    let bystander = spawn_in(&cgroup, sleeper);
    let hog = spawn_in(&cgroup, || touch(96 * MIB));
    assert_eq!(wait(hog), nix::sys::wait::WaitStatus::Signaled(hog, Signal::SIGKILL, false));
    assert_eq!(wait(bystander), nix::sys::wait::WaitStatus::Signaled(bystander, Signal::SIGKILL, false));
    assert!(cgroup.oom_kills().unwrap().unwrap() >= 2);
    cgroup.remove().unwrap();
}

#[test]
fn a_huge_page_limit() {
    let Some(parent) = Parent::new() else { return };
    let size = std::fs::read_dir("/sys/kernel/mm/hugepages").map_or(0, Iterator::count);
    let limits = resources(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#);
    match Cgroup::create(&parent.0, "huge", &limits) {
        Ok((cgroup, _)) => {
            let file = cgroup.path().join("hugetlb.2MB.max");
            if let Ok(text) = std::fs::read_to_string(file) {
                assert_eq!(text.trim(), "4194304");
            }
            cgroup.remove().unwrap();
        }
        Err(Error::Unsupported(fact)) => {
            println!("skipped: needs the hugetlb controller ({fact}; {size} sizes of huge pages)");
        }
        Err(other) => panic!("{other}"),
    }
}

/// Opens a device as its only act.
fn can_open(path: &std::ffi::CStr, flags: i32) -> i32 {
    // SAFETY: a NUL-terminated path.
    let fd = unsafe { libc::open(path.as_ptr(), flags) };
    if fd >= 0 { 0 } else { Errno::last_raw() }
}

fn open_in(cgroup: &Cgroup, path: &'static std::ffi::CStr, flags: i32) -> Errno {
    match wait(spawn_in(cgroup, || can_open(path, flags))) {
        nix::sys::wait::WaitStatus::Exited(_, code) => Errno::from_raw(code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn devices_are_what_the_rules_say() {
    let Some(parent) = Parent::new() else { return };
    let allow_null = resources(
        r#"{"devices": [{"allow": false, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}]}"#,
    );
    let (mut cgroup, _) = Cgroup::create(&parent.0, "dev", &allow_null).unwrap();
    let none = Errno::from_raw(0);
    assert_eq!(open_in(&cgroup, c"/dev/null", libc::O_RDONLY), none);
    assert_eq!(open_in(&cgroup, c"/dev/null", libc::O_RDWR), Errno::EPERM);
    assert_eq!(open_in(&cgroup, c"/dev/zero", libc::O_RDONLY), Errno::EPERM);
    // An update replaces the rules, and rules for all remove them.
    let allow_zero = resources(
        r#"{"devices": [{"allow": false, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rw"}]}"#,
    );
    cgroup.update(&allow_zero).unwrap();
    assert_eq!(open_in(&cgroup, c"/dev/null", libc::O_RDONLY), Errno::EPERM);
    assert_eq!(open_in(&cgroup, c"/dev/zero", libc::O_RDWR), none);
    cgroup.update(&resources(r#"{"devices": [{"allow": true, "access": "rwm"}]}"#)).unwrap();
    assert_eq!(open_in(&cgroup, c"/dev/full", libc::O_RDWR), none);
    cgroup.remove().unwrap();
}

/// The BPF program, on this kernel, whichever way a container here would be held.
#[test]
fn device_rules_by_bpf() {
    let Some(parent) = Parent::new() else { return };
    let (cgroup, _) = Cgroup::create(&parent.0, "bpf", &LinuxResources::default()).unwrap();
    let mut rules = crate::runtime::defaults::device_rules();
    match device::restrict(&cgroup.dir, &rules, true) {
        Err(Error::Sys { errno: errno @ (Errno::EPERM | Errno::ENOSYS), .. }) => {
            println!("skipped: needs BPF ({errno})");
            cgroup.remove().unwrap();
            return;
        }
        other => other.unwrap(),
    }
    assert_eq!(open_in(&cgroup, c"/dev/null", libc::O_RDWR), Errno::from_raw(0));
    assert_eq!(open_in(&cgroup, c"/dev/kmsg", libc::O_RDONLY), Errno::EPERM);
    // Replaced: what was allowed is not any more, and nothing of the old program is left.
    rules.truncate(1);
    device::restrict(&cgroup.dir, &rules, false).unwrap();
    assert_eq!(open_in(&cgroup, c"/dev/null", libc::O_RDWR), Errno::EPERM);
    device::restrict(&cgroup.dir, &crate::runtime::defaults::all_device_rules(), false).unwrap();
    assert_eq!(open_in(&cgroup, c"/dev/kmsg", libc::O_RDONLY), Errno::from_raw(0));
    cgroup.remove().unwrap();
}

/// And the v1 controller.
#[test]
fn device_rules_on_v1() {
    let Some(parent) = Parent::new() else { return };
    let mounts = Mounts::find().unwrap();
    let rules = resources(
        r#"{"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "access": "m"},
                        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}]}"#,
    );
    let (mut cgroup, _) = Cgroup::create(&parent.0, "dev1", &LinuxResources::default()).unwrap();
    if !cgroup.v1.make(mounts, V1::Devices, &cgroup.parent, &cgroup.name).unwrap() {
        println!("skipped: needs the devices controller on cgroup v1");
        cgroup.remove().unwrap();
        return;
    }
    let v1 = cgroup.v1.get(V1::Devices).unwrap();
    for (file, value) in device::v1_writes(rules.devices().as_ref().unwrap()) {
        v1.write(file, &value).unwrap();
    }
    assert_eq!(v1.read("devices.list").unwrap(), "b *:* m\nc *:* m\nc 1:3 r\n");
    cgroup.remove().unwrap();
}

#[test]
fn who_writes_to_a_limit_is_noticed_and_who_enters_is_not() {
    let Some(parent) = Parent::new() else { return };
    if !has_controllers() {
        return;
    }
    let make = |name| Cgroup::create(&parent.0, name, &resources(r#"{"pids": {"limit": 9}}"#)).unwrap().0;
    let (one, other) = (make("one"), make("other"));
    let watcher = Watcher::new().unwrap();
    let (watched, unmoved) = (watcher.watch(&one).unwrap(), watcher.watch(&other).unwrap());
    assert!(watcher.changes().is_empty());
    let write = |dir: &Dir, file: &str, text: &str| dir.write(file, text).unwrap();
    for limit in ["7", "max"] {
        write(one.v1.get(V1::Pids).unwrap_or(&one.dir), "pids.max", limit);
        let changes = watcher.changes();
        assert!(watched.is_among(&changes) && !unmoved.is_among(&changes), "{changes:?}");
        assert!(watcher.changes().is_empty(), "told once");
    }
    let pid = spawn_in(&one, sleeper);
    for dir in [Some(&one.dir), one.v1.get(V1::Pids)].into_iter().flatten() {
        write(dir, "cgroup.procs", &pid.to_string());
    }
    assert!(watcher.changes().is_empty());
    assert!(unmoved.is_among(&Changes::Any));
    // Nobody is told of who is not watched any more.
    drop(watched);
    write(one.v1.get(V1::Pids).unwrap_or(&one.dir), "pids.max", "8");
    assert!(watcher.changes().is_empty());
    one.remove().unwrap();
    wait(pid);
    other.remove().unwrap();
}
