//! How the process that is to hold a container comes to be: executed, or forked from the command that wants it.
//!
//! Either way it is left two descriptors, a socket to that command and the container's lock, and nothing else of
//! its maker's: not its streams, its signals, its session or whatever its shell left open.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::lock::Lock;
use super::{Error, IoContext as _};
use crate::runtime;
use crate::store::{self, Layout};

/// A monitor that has been started, seen from the command that started it.
#[derive(Debug)]
pub struct Handle {
    /// Messages in both directions; see [`super::protocol`].
    pub socket: OwnedFd,
}

/// Executes a monitor for a container whose lock the caller holds.
///
/// The monitor inherits the lock; the caller drops its own copy. It does nothing that is seen before the
/// first message, a [`super::protocol::Request::Attach`], and takes the container back when none comes.
pub fn spawn(layout: &Layout, id: &str, lock: &Lock) -> Result<Handle, Error> {
    spawn_as("monitor", layout, id, lock)
}

/// The same for another of our verbs that holds a lock and talks over a socket.
pub(crate) fn spawn_as(verb: &str, layout: &Layout, id: &str, lock: &Lock) -> Result<Handle, Error> {
    let run = layout.run(id);
    let (ours, theirs) = control(&run)?;
    let exe = runtime::protected_self()?;
    for fd in [theirs.as_fd(), lock.as_fd()] {
        fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).at("fcntl(F_SETFD)", &run)?;
    }
    // The monitor leaves this session itself; no pre_exec, so that the standard library can use
    // posix_spawn, which does not copy page tables.
    let spawned = Command::new(format!("/proc/self/fd/{}", exe.as_raw_fd()))
        .arg("--root")
        .arg(&layout.root)
        .arg("--run-root")
        .arg(&layout.run_root)
        .args([verb, id, &theirs.as_raw_fd().to_string(), &lock.as_fd().as_raw_fd().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // The monitor outlives this command, and is collected by whoever inherits it.
    crate::children::hand_over(spawned.at("exec", Path::new("/proc/self/exe"))?);
    Ok(Handle { socket: ours })
}

impl Handle {
    /// Lets the monitor know that no word will come, and waits until it has taken back what it made.
    pub(super) fn give_up(self) {
        // It may be gone already.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // It says nothing: what is heard is its end.
        while poll(&mut fds, PollTimeout::from(10_000_u16)) == Err(Errno::EINTR) {}
    }
}

/// A socket for messages in both directions, none of which its ends leave to programs they execute.
pub(super) fn control(run: &Path) -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).at("socketpair", run)
}

/// The same as [`spawn`], without executing anything: this process becomes two, and the new one lives `life`.
///
/// Executing our own binary a second time costs more than all that a monitor does before a container starts
/// (see [`runtime::protect_in_place`]). `None` where only [`spawn`] will do: the kernel does not let a process
/// change what it was executed from, this one has threads, or it has a store open.
pub(super) fn fork(
    layout: &Layout,
    id: &str,
    lock: &Lock,
    life: impl FnOnce(OwnedFd, Lock) -> Result<(), Error>,
) -> Result<Option<Handle>, Error> {
    let alone = || runtime::is_alone().unwrap_or(false);
    if store::was_opened() || !runtime::protect_in_place() || !alone() {
        return Ok(None);
    }
    let run = layout.run(id);
    let (ours, theirs) = control(&run)?;
    // SAFETY: this process has one thread, so that the child finds no lock held by another.
    let forked = unsafe { nix::unistd::fork() }.at("fork", &run)?;
    if forked.is_parent() {
        return Ok(Some(Handle { socket: ours }));
    }
    let lived = || {
        become_monitor(layout, id);
        let (control, lock) = adopt(id, theirs.into_raw_fd(), lock.as_fd().as_raw_fd())?;
        life(control, lock)
    };
    // Neither a panic nor the end may reach what the command above us on this stack has in hand.
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(lived));
    // SAFETY: ends this process, which has nothing buffered that is its own.
    unsafe { libc::_exit(if matches!(lived, Ok(Ok(()))) { 0 } else { 125 }) }
}

/// What an exec would have done, besides what [`adopt`] does.
fn become_monitor(layout: &Layout, id: &str) {
    if let Ok(null) =
        nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
    {
        for standard in 0..3 {
            // SAFETY: three numbers that every process has, and that nobody in this one holds as its own.
            unsafe { libc::dup2(null.as_raw_fd(), standard) };
        }
    }
    runtime::reset_signals();
    // As the start of every Rust program does: a client that goes away is an error of a write.
    // SAFETY: a disposition without a handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let word = OsStr::new;
    runtime::retitle(&[
        word("bulkhead"),
        word("--root"),
        layout.root.as_os_str(),
        word("--run-root"),
        layout.run_root.as_os_str(),
        word("monitor"),
        word(id),
    ]);
}

/// Makes the two descriptors that [`spawn_as`] left us our own, and leaves everything else of its caller's behind.
pub(crate) fn adopt(id: &str, control: RawFd, lock: RawFd) -> Result<(OwnedFd, Lock), Error> {
    // SAFETY: `spawn_as` left exactly these two descriptors open across the exec for us to own, and `fork` hands
    // over those of a caller that is never returned to.
    let (control, lock) = unsafe { (OwnedFd::from_raw_fd(control), Lock::from(File::from_raw_fd(lock))) };
    for fd in [control.as_fd(), lock.as_fd()] {
        fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).at("fcntl(F_SETFD)", Path::new(id))?;
    }
    close_inherited([control.as_raw_fd(), lock.as_fd().as_raw_fd()]).at("close_range", Path::new(id))?;
    let _ = nix::unistd::setsid();
    Ok((control, lock))
}

/// The same for a process that is left one descriptor, besides its streams.
pub(super) fn adopt_control(control: RawFd) -> Result<OwnedFd, Error> {
    // SAFETY: `session::spawn` left exactly this descriptor open across the exec for us to own.
    let control = unsafe { OwnedFd::from_raw_fd(control) };
    let place = Path::new(super::session::VERB);
    fcntl(control.as_fd(), FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).at("fcntl(F_SETFD)", place)?;
    close_inherited([control.as_raw_fd(); 2]).at("close_range", place)?;
    let _ = nix::unistd::setsid();
    Ok(control)
}

/// Closes whatever a shell or supervisor left open in the command that started us: a pipe held by a
/// process that lives for months is a reader that never sees its end.
fn close_inherited(keep: [RawFd; 2]) -> io::Result<()> {
    let (low, high) = (keep[0].min(keep[1]) as u32, keep[0].max(keep[1]) as u32);
    for (first, last) in [(3, low.saturating_sub(1)), (low + 1, high.saturating_sub(1)), (high + 1, u32::MAX)]
    {
        if first <= last {
            // SAFETY: close_range takes three integers. A process that was executed has opened none yet; in one
            // that was forked their owners lie on the stack above `fork`, which is never returned to.
            if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}
