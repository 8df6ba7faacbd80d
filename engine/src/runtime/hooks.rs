//! Hooks: programs that a specification wants run at points of a container's life.
//!
//! Each gets the container's state as JSON on its standard input. One that fails before the start stops
//! the start; one that fails afterwards is a warning. Source: OCI runtime-spec, "POSIX-platform Hooks".

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{ContainerState, Hook, Spec, StateBuilder};

use super::error::Error;
use super::kernel;

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
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A hook that does not read its state is none the worse for it.
        let _ = input.write_all(state);
    }
    if let Some(seconds) = hook.timeout() {
        let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let ended = ends_within(child.id() as i32, limit).map_err(|error| failed(error.to_string()))?;
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!("still ran after {seconds} s")));
        }
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, said.trim_end())))
}

fn ends_within(pid: i32, limit: Duration) -> std::io::Result<bool> {
    let pidfd = kernel::pidfd_open(pid)?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}
