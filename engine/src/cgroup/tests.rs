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
            remove_parent(&self.0).unwrap();
        }
    }
}

/// libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child born in the cgroup, running `body` and then exiting with what it returns.
pub(super) fn spawn_in(cgroup: &Cgroup, body: impl FnOnce() -> i32) -> Pid {
    let attach = cgroup.attach().unwrap();
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
        let code = if entered { body() } else { 99 };
        // SAFETY: the child of a threaded process must not run atexit handlers.
        unsafe { libc::_exit(code) }
    }
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
    assert!(cgroup.attach().is_err());
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
