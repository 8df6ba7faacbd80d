//! One more process in a running container.
//!
//! It is a child of the command that asked for it, not of the monitor: nothing about it must survive
//! that command, except the process itself when it was detached, and that the kernel looks after. The
//! caller must run from a protected binary ([`protect`]), since the new process is cloned from it.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::record::{Container, Status};
use super::spec::{self, ExecOptions};
use super::{Error, IoContext as _, lifecycle};
use crate::runtime;
use crate::store::Store;

/// The process and our ends of its streams.
#[derive(Debug)]
pub struct Running {
    /// Names the process for ever; readable when it has ended.
    pub pidfd: OwnedFd,
    /// Where its input is written; a terminal's master when it has one.
    pub input: Option<OwnedFd>,
    /// Where its output is read; `None` for a terminal, whose master is `input`.
    pub output: Option<OwnedFd>,
    /// Where its errors are read.
    pub error: Option<OwnedFd>,
    /// What could not be given.
    pub warnings: Vec<String>,
}

/// Executes this command's own binary again from where a container cannot write to it, unless it runs
/// from there already. Returns only when it does, or when that failed.
pub fn protect() -> Result<(), Error> {
    if runtime::is_protected()? || runtime::protect_in_place() {
        return Ok(());
    }
    let binary = runtime::protected_self()?;
    let args: Vec<CString> =
        std::env::args_os().filter_map(|arg| CString::new(arg.into_vec()).ok()).collect();
    Err(runtime::execute(&binary, &args).into())
}

/// Starts `options.args` in a running container.
///
/// `stdin`: its input is a pipe and not /dev/null. `detached`: all its streams are /dev/null.
pub fn start(
    store: &Store,
    container: &Container,
    options: &ExecOptions,
    stdin: bool,
    detached: bool,
) -> Result<Running, Error> {
    match container.state.status {
        Status::Running => {}
        Status::Paused => return Err(Error::Paused(container.name.clone(), "exec")),
        Status::Restarting => return Err(Error::IsRestarting(container.id.clone())),
        _ => return Err(Error::NotRunning(container.id.clone())),
    }
    let target = lifecycle::pidfd(store, container)?;
    let cgroup = lifecycle::with_cgroup(store, container, |cgroup| cgroup.attach())?;
    let process = spec::exec_process(store, container, options)?;
    let spec = spec::confinement(store, container)?;
    let path = Path::new(&container.id);
    let mut ours = (None, None, None);
    let stdio = if options.tty {
        runtime::Stdio::Console(options.size.map(|(rows, columns)| runtime::WindowSize { rows, columns }))
    } else if detached {
        let null = |flags| {
            nix::fcntl::open("/dev/null", flags | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
                .at("open", Path::new("/dev/null"))
        };
        runtime::Stdio::Fds {
            input: null(OFlag::O_RDONLY)?,
            output: null(OFlag::O_WRONLY)?,
            error: null(OFlag::O_WRONLY)?,
        }
    } else {
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).at("pipe2", path);
        let (input, write) = pipe()?;
        let (out, output) = pipe()?;
        let (err, error) = pipe()?;
        // Without -i the write end closes at once: the process reads the end of its input.
        ours = (stdin.then_some(write), Some(out), Some(err));
        runtime::Stdio::Fds { input, output, error }
    };
    let exec = runtime::Exec {
        target: target.as_fd(),
        spec: &spec,
        process: &process,
        cgroup: Some(&cgroup),
        stdio,
        preserve_fds: 0,
        default_rlimits: &[],
    };
    let mut init = runtime::exec(&exec)?;
    // The process's ends must not stay open here, or its output would never end.
    drop(exec);
    let warnings = init.warnings().to_vec();
    let (input, output, error) = match init.take_console() {
        Some(console) => (Some(console), None, None),
        None => ours,
    };
    let pidfd = init.clone_pidfd()?;
    init.start()?;
    Ok(Running { pidfd, input, output, error, warnings })
}

impl Running {
    /// What there is to wait for: its end unless it has come, its output, its errors, and room for input if some
    /// waits. In this order.
    pub fn sources(&self, tty: bool, ended: bool, waits: bool) -> [(Option<BorrowedFd<'_>>, PollFlags); 4] {
        let console = self.input.as_ref().filter(|_| tty);
        [
            (Some(self.pidfd.as_fd()).filter(|_| !ended), PollFlags::POLLIN),
            (self.output.as_ref().or(console).map(OwnedFd::as_fd), PollFlags::POLLIN),
            (self.error.as_ref().map(OwnedFd::as_fd), PollFlags::POLLIN),
            (self.input.as_ref().filter(|_| waits).map(OwnedFd::as_fd), PollFlags::POLLOUT),
        ]
    }
}

/// Which of these are ready, waiting for the first; `None` when a signal came instead.
pub fn ready<const N: usize>(
    sources: [(Option<BorrowedFd<'_>>, PollFlags); N],
    patience: PollTimeout,
) -> nix::Result<Option<[bool; N]>> {
    let there = sources.iter().filter_map(|(fd, flags)| Some(PollFd::new((*fd)?, *flags)));
    let mut polled: Vec<PollFd<'_>> = there.collect();
    match poll(&mut polled, patience) {
        Err(Errno::EINTR) => return Ok(None),
        other => other?,
    };
    let mut answers = polled.iter().map(|fd| fd.any().unwrap_or(false));
    Ok(Some(sources.map(|(fd, _)| fd.is_some() && answers.next().unwrap_or(false))))
}

/// Reads what is there and says how much it is; closes the source at its end.
pub fn take(source: &mut Option<OwnedFd>, buffer: &mut [u8]) -> Option<usize> {
    match nix::unistd::read(source.as_ref()?, buffer) {
        Err(Errno::EAGAIN | Errno::EINTR) => None,
        Ok(0) | Err(_) => {
            *source = None;
            None
        }
        Ok(length) => Some(length),
    }
}

/// Waits for a child and returns its exit code, 128 + signal when it was killed.
pub fn exit_code(pidfd: &OwnedFd) -> nix::Result<i32> {
    waited(pidfd, WaitPidFlag::WEXITED)
}

/// The same without letting go of the child: its pid is nobody else's until [`exit_code`] is asked.
pub(super) fn peek_exit_code(pidfd: &OwnedFd) -> nix::Result<i32> {
    waited(pidfd, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
}

fn waited(pidfd: &OwnedFd, flags: WaitPidFlag) -> nix::Result<i32> {
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), flags) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
