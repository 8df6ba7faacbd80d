//! Holding a container still while its files are read.
//!
//! Three things could leave it frozen, or thaw it too soon. *Another command*: whoever freezes or thaws
//! holds the lock of `freeze` in the run directory, so that `pause` waits for a commit and two commits for
//! each other. *Ctrl-C*: the signals that end a command wait until the container runs again; the reader
//! asks [`Signals::wanted`] between two writes. *SIGKILL*: the file says that its holder froze the
//! container, and [`thaw_abandoned`], which every command does first, finds a file that says so and a lock
//! that nobody holds.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};

use super::record::{self, Container, Status};
use super::{Error, IoContext as _, lifecycle};
use crate::cgroup::Cgroup;
use crate::store::{Layout, Store};

/// The signals that end a command.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// Keeps the signals that end a command waiting; they are delivered when this is dropped.
#[derive(Debug)]
pub struct Signals {
    before: SigSet,
}

/// Whether this process was started to go on in spite of a signal, as `nohup` and a shell's `&` do. One that is
/// blocked waits all the same, so that whoever asks what waits must know.
fn is_ignored(signal: Signal) -> bool {
    // SAFETY: an all-zero action is a valid place for the kernel to write its answer to.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; the pointer is to that action.
    let asked = unsafe { libc::sigaction(signal as i32, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

impl Signals {
    /// From here on.
    pub fn hold() -> Result<Self, Error> {
        let set: SigSet = ENDING.into_iter().collect();
        let before = SigSet::thread_get_mask().at("pthread_sigmask", Path::new("signals"))?;
        set.thread_block().at("pthread_sigmask", Path::new("signals"))?;
        Ok(Self { before })
    }

    /// Whether this command is to end: one of those signals waits.
    pub fn wanted() -> bool {
        // SAFETY: an all-zero set is a valid place for the kernel to write its answer to.
        let mut pending: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to that set.
        if unsafe { libc::sigpending(&raw mut pending) } != 0 {
            return false;
        }
        // SAFETY: sigpending has filled the set.
        let waits = |signal: Signal| unsafe { libc::sigismember(&raw const pending, signal as i32) } == 1;
        ENDING.into_iter().any(|signal| waits(signal) && !is_ignored(signal))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

fn path(layout: &Layout, id: &str) -> PathBuf {
    layout.run(id).join("freeze")
}

/// The right to freeze and to thaw a living container.
#[derive(Debug)]
pub struct Right {
    file: Flock<File>,
}

impl Right {
    /// Waits for it. The container must be alive, so that it has a run directory.
    pub fn take(layout: &Layout, id: &str) -> Result<Self, Error> {
        match Self::lock(layout, id, FlockArg::LockExclusive)? {
            Ok(right) => Ok(right),
            Err(errno) => Err(errno).at("flock", &path(layout, id)),
        }
    }

    /// The right, unless somebody has it.
    pub fn try_take(layout: &Layout, id: &str) -> Result<Option<Self>, Error> {
        match Self::lock(layout, id, FlockArg::LockExclusiveNonblock)? {
            Ok(right) => Ok(Some(right)),
            Err(Errno::EWOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno).at("flock", &path(layout, id)),
        }
    }

    /// Waits for it, where the container is still alive then.
    pub(super) fn of(store: &Store, id: &str) -> Result<Option<Self>, Error> {
        let right = match Self::take(store.layout(), id) {
            Err(Error::NotRunning(_)) => return Ok(None),
            right => right?,
        };
        Ok(record::find(store, id)?.state.status.is_alive().then_some(right))
    }

    /// Says that the container may be frozen: whoever finds this said and the right free thaws it.
    pub(super) fn mark(&self) -> Result<(), Error> {
        self.file.write_all_at(b"frozen", 0).at("write", Path::new("freeze"))
    }

    /// Says that it runs again. What stays said costs the next command a thaw of what is not frozen.
    pub(super) fn unmark(&self) {
        let _ = self.file.set_len(0);
    }

    fn lock(layout: &Layout, id: &str, how: FlockArg) -> Result<Result<Self, Errno>, Error> {
        let path = path(layout, id);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = match file {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotRunning(id.to_owned()));
            }
            other => other.at("open", &path)?,
        };
        Ok(Flock::lock(file, how).map(|file| Self { file }).map_err(|(_, errno)| errno))
    }
}

/// A container that runs again when this is dropped.
#[derive(Debug)]
pub struct Frozen {
    right: Right,
    cgroup: Option<Cgroup>,
}

impl Frozen {
    /// Freezes a running container. One that is paused already is kept paused meanwhile; of one that
    /// does not run, nothing is to be frozen.
    pub fn take(store: &Store, container: &Container) -> Result<Option<Self>, Error> {
        if !matches!(container.state.status, Status::Running | Status::Paused) {
            return Ok(None);
        }
        let right = match Right::take(store.layout(), &container.id) {
            // It has ended since.
            Err(Error::NotRunning(_)) => return Ok(None),
            other => other?,
        };
        // Somebody may have held the right for long.
        let container = record::find(store, &container.id)?;
        let cgroup = match container.state.status {
            Status::Running => lifecycle::with_cgroup(store, &container, Ok)?,
            Status::Paused => return Ok(Some(Self { right, cgroup: None })),
            _ => return Ok(None),
        };
        right.mark()?;
        // Before the freeze, so that one that fails halfway is undone as well.
        let frozen = Self { right, cgroup: Some(cgroup) };
        if let Some(cgroup) = &frozen.cgroup {
            cgroup.freeze()?;
        }
        Ok(Some(frozen))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup
            && cgroup.thaw().is_ok()
        {
            self.right.unmark();
        }
    }
}

/// Thaws a container whose freezer was killed.
pub fn thaw_abandoned(store: &Store, id: &str) -> Result<(), Error> {
    let path = path(store.layout(), id);
    if !fs::metadata(&path).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    let Ok(file) = File::options().read(true).write(true).open(&path) else { return Ok(()) };
    // Held: whoever froze it is at work.
    let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(()) };
    let container = record::find(store, id)?;
    if container.state.status == Status::Running {
        match Cgroup::open(&container.record.cgroup_parent, &container.id).and_then(|cgroup| cgroup.thaw()) {
            // It has ended since.
            Err(crate::cgroup::Error::Gone { .. }) => {}
            thawed => thawed?,
        }
    }
    file.set_len(0).at("truncate", &path)
}
