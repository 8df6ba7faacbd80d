//! The smallest init: what `--init` puts between the kernel and the container's program.
//!
//! The first process of a pid namespace inherits every orphan and ignores every signal it has no
//! handler for; most programs expect neither. This one passes signals on to the program, reaps whatever
//! dies, and ends with the program's status. It is a fork of the process that set the container up, so
//! nothing of the host has to be mounted into the container for it; that process is not dumpable, its
//! binary is a read-only mount, and its descriptors are closed here.

use std::ffi::CStr;

use super::error::{At as _, Error};
use super::kernel;

/// What the container sees as the command line of its first process.
const TITLE: &[u8] = b"/sbin/bulkhead-init";

/// Forks. Returns in the program's half, which goes on to exec; the other half stays here for good.
pub(super) fn stay_behind() -> Result<(), Error> {
    let all = signals(true);
    let none = signals(false);
    // Blocked before the fork, so that no signal falls between the two loops.
    // SAFETY: the set outlives the call.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
    // fork and not clone3: Docker's default seccomp filter, which may be on by now, refuses clone3.
    // SAFETY: this process is single-threaded; both halves leave by exec or _exit.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(std::io::Error::last_os_error()).at("fork", "init");
    }
    if child > 0 {
        reap(child, &all);
    }
    // A process group of its own, in the foreground where there is a terminal: a ^C then reaches the
    // program once, from the terminal, and not a second time from us.
    // SAFETY: plain integers; SIGTTOU is blocked here, so that tcsetpgrp does not stop us.
    unsafe {
        libc::setpgid(0, 0);
        if libc::isatty(0) == 1 {
            libc::tcsetpgrp(0, libc::getpid());
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    Ok(())
}

fn signals(all: bool) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, and both functions fill it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        if all {
            libc::sigfillset(&raw mut set);
        } else {
            libc::sigemptyset(&raw mut set);
        }
        set
    }
}

fn reap(child: libc::pid_t, all: &libc::sigset_t) -> ! {
    // The conversation with the runtime is the program's now: kept open here, it would never end.
    let _ = kernel::close_range(3, u32::MAX, 0);
    loop {
        let mut signal = 0;
        // SAFETY: both outlive the call.
        unsafe { libc::sigwait(all, &raw mut signal) };
        if signal != libc::SIGCHLD {
            // SAFETY: a signal to our own child, which we have not reaped yet.
            unsafe { libc::kill(child, signal) };
            continue;
        }
        loop {
            let mut status = 0;
            // SAFETY: status outlives the call.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid == child {
                let code = if libc::WIFSIGNALED(status) {
                    128 + libc::WTERMSIG(status)
                } else {
                    libc::WEXITSTATUS(status)
                };
                kernel::exit_now(code);
            }
            if pid <= 0 {
                break;
            }
        }
    }
}

/// Overwrites the command line that this process was started with: it names the host's paths and the
/// container's id, and anybody inside may read it. Called while /proc is still the host's.
pub(super) fn take_title() {
    let name: &CStr = c"bulkhead-init";
    // SAFETY: PR_SET_NAME reads a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 48 and 49 (proc(5)), counted from field 3 behind the name in parentheses.
    let mut fields =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(45)).into_iter().flatten();
    let mut address = || fields.next().and_then(|field| field.parse::<usize>().ok()).unwrap_or(0);
    let (start, end) = (address(), address());
    if start == 0 || end <= start {
        return;
    }
    let length = end - start;
    let kept = TITLE.len().min(length - 1);
    // SAFETY: the kernel says that the arguments of this process lie there; they are on its stack,
    // writable, and nobody reads them any more: Rust's copy of argv is not used after the fork.
    unsafe {
        let arguments = start as *mut u8;
        std::ptr::write_bytes(arguments, 0, length);
        std::ptr::copy_nonoverlapping(TITLE.as_ptr(), arguments, kept);
    }
}
