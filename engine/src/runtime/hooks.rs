//! Hooks: programs that a specification wants run at points of a container's life.
//!
//! Each gets the container's state as JSON on its standard input. One that fails before the start stops
//! the start; one that fails afterwards is a warning. Source: OCI runtime-spec, "POSIX-platform Hooks".

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use oci_spec::runtime::{ContainerState, Hook, Spec, StateBuilder};

use super::error::Error;
use super::kernel;

/// How much is kept of what a hook says, in bytes.
const SAID: usize = 64 << 10;

/// A point in a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// After the namespaces are there; the deprecated form of the next.
    Prestart,
    /// After namespaces and mounts are there, before the root is changed; in the runtime's namespaces.
    CreateRuntime,
    /// The same moment, in the container's namespaces but with the runtime's paths.
    CreateContainer,
    /// After `start`, before the program; in the container.
    StartContainer,
    /// After the program has begun; in the runtime's namespaces.
    Poststart,
    /// After the container is deleted.
    Poststop,
}

impl Point {
    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// The hooks of a specification at one point.
#[allow(deprecated, reason = "prestart is deprecated and still in use: nvidia's toolkit installs one")]
pub(super) fn of(spec: &Spec, point: Point) -> &[Hook] {
    let Some(hooks) = spec.hooks().as_ref() else { return &[] };
    let list = match point {
        Point::Prestart => hooks.prestart(),
        Point::CreateRuntime => hooks.create_runtime(),
        Point::CreateContainer => hooks.create_container(),
        Point::StartContainer => hooks.start_container(),
        Point::Poststart => hooks.poststart(),
        Point::Poststop => hooks.poststop(),
    };
    list.as_deref().unwrap_or_default()
}

/// Runs the hooks of one point in order, and stops at the first that fails.
pub fn run(
    point: Point,
    spec: &Spec,
    id: &str,
    bundle: &Path,
    pid: i32,
    status: ContainerState,
) -> Result<(), Error> {
    let hooks = of(spec, point);
    if hooks.is_empty() {
        return Ok(());
    }
    let mut state = StateBuilder::default()
        .version(super::defaults::OCI_VERSION)
        .id(id)
        .status(status)
        .bundle(bundle)
        .build()
        .expect("every field has a default");
    state.set_annotations(spec.annotations().clone());
    if pid > 0 {
        state.set_pid(Some(pid));
    }
    let state = serde_json::to_vec(&state).expect("a state holds nothing that JSON cannot");
    hooks.iter().try_for_each(|hook| run_one(point, hook, &state))
}

fn run_one(point: Point, hook: &Hook, state: &[u8]) -> Result<(), Error> {
    let failed = |why: String| Error::Hook {
        point: point.name().into(),
        path: hook.path().display().to_string(),
        why,
    };
    let mut command = Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    command.env_clear().envs(hook.env().iter().flatten().filter_map(|entry| entry.split_once('=')));
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    // A timeout that the clock cannot count to is none.
    let seconds = hook.timeout().map(|seconds| u64::try_from(seconds).unwrap_or(0));
    let deadline = seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let mut said = Vec::new();
    let ended = attend(child, state, deadline, &mut said).map_err(|error| failed(error.to_string()))?;
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(format!("{status}: {}", String::from_utf8_lossy(&said).trim_end()))),
        None => Err(failed(format!("still ran after {} s", seconds.unwrap_or_default()))),
    }
}

/// Hands a program its input and keeps the beginning of what it says, until it ends; `None` when it was killed at
/// `deadline`.
///
/// Its own end is what is waited for. Its pipes say nothing about that: it may fill one before the other is empty, and
/// what it leaves behind in the background holds them for as long as it likes.
fn attend(
    mut child: Child,
    input: &[u8],
    deadline: Option<Instant>,
    said: &mut Vec<u8>,
) -> io::Result<Option<ExitStatus>> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let over = kernel::pidfd_open(child.id() as i32)
        .and_then(|pidfd| exchange(&pidfd, stdin, stderr, input, deadline, said));
    if !matches!(over, Ok(true)) {
        let _ = child.kill();
    }
    let status = child.wait()?;
    Ok(over?.then_some(status))
}

/// False at `deadline`.
fn exchange(
    pidfd: &OwnedFd,
    mut stdin: Option<ChildStdin>,
    mut stderr: Option<ChildStderr>,
    mut input: &[u8],
    deadline: Option<Instant>,
    said: &mut Vec<u8>,
) -> io::Result<bool> {
    for fd in stdin.iter().map(AsFd::as_fd).chain(stderr.iter().map(AsFd::as_fd)) {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    // A hook that does not read its state is none the worse for it, and neither are we: what becomes a container's
    // program has the signal's disposition back already.
    let _ignored = PipesIgnored::new()?;
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                // Rounded up, so that the last millisecond is slept and not spun.
                PollTimeout::try_from(left.as_millis() + u128::from(!left.is_zero()))
                    .unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(stderr.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        fds.extend(stdin.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
        match poll(&mut fds, timeout) {
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ended = fds[0].any() == Some(true);
        if let Some(pipe) = &mut stdin {
            match pipe.write(input) {
                Ok(written) => input = &input[written..],
                Err(error) if is_later(&error) => {}
                Err(_) => input = &[],
            }
            if input.is_empty() {
                stdin = None;
            }
        }
        // After its end this is what it said before.
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut stderr {
            match pipe.read(&mut buffer) {
                Ok(0) => stderr = None,
                Ok(length) => {
                    said.extend_from_slice(&buffer[..length.min(SAID - said.len())]);
                    // Somebody else who writes without an end is not listened to for longer than the hook.
                    if ended && said.len() == SAID {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(error),
            }
        }
        if ended {
            return Ok(true);
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// For as long as this is held, a pipe that nobody reads is an error of a write and not the writer's end.
struct PipesIgnored(SigAction);

impl PipesIgnored {
    fn new() -> io::Result<Self> {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: a disposition without a handler.
        Ok(Self(unsafe { sigaction(Signal::SIGPIPE, &ignore) }?))
    }
}

impl Drop for PipesIgnored {
    fn drop(&mut self) {
        // SAFETY: what was there before, and if it was a handler, still is.
        let _ = unsafe { sigaction(Signal::SIGPIPE, &self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attended(script: &str, input: &[u8], deadline: Option<Instant>) -> (Option<ExitStatus>, Vec<u8>) {
        let mut said = Vec::new();
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh");
        let ended = attend(child, input, deadline, &mut said).expect("attended");
        (ended, said)
    }

    fn in_a_minute() -> Option<Instant> {
        Instant::now().checked_add(Duration::from_secs(60))
    }

    #[test]
    fn one_that_says_more_than_a_pipe_holds_is_heard_to_its_end() {
        let script = "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3";
        let (ended, said) = attended(script, b"", in_a_minute());
        assert_eq!(ended.and_then(|status| status.code()), Some(3));
        assert!(said.len() == SAID && said.iter().all(|byte| *byte == b'x'), "{} bytes", said.len());
    }

    #[test]
    fn what_one_leaves_behind_is_not_waited_for() {
        let begun = Instant::now();
        // It says which process, which holds the pipe until it is told to go.
        let (ended, said) = attended("sleep 1000 & echo $! >&2; exit 4", b"", None);
        let pid: i32 = String::from_utf8_lossy(&said).trim().parse().expect("a number");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
        assert_eq!(ended.and_then(|status| status.code()), Some(4));
        assert!(begun.elapsed() < Duration::from_secs(1000));
    }

    #[test]
    fn a_state_of_any_length_is_read_or_left() {
        let state = vec![b'x'; 1 << 20];
        let (ended, said) = attended("wc -c >&2", &state, in_a_minute());
        assert!(ended.is_some_and(|status| status.success()));
        assert_eq!(String::from_utf8_lossy(&said).trim(), "1048576");
        let (ended, _) = attended("exec <&-; echo >&2; exit 0", &state, in_a_minute());
        assert!(ended.is_some_and(|status| status.success()));
        // Neither reads nor ends.
        assert_eq!(attended("exec sleep 1000", &state, Some(Instant::now())).0, None);
    }
}
