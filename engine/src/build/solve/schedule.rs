//! Who builds which stage, and when.
//!
//! Stages that do not depend on each other are built at the same time, since most of what a stage does is wait: for a
//! server, a disk, a compiler that uses one processor. What the target needs is read off the Dockerfile before
//! anything is done, each stage as soon as the one it begins with is there; what only shows itself on the way (a
//! variable in `--from`, an `ONBUILD`) is built by whoever asks. A stage needs only stages that stand before it,
//! so that nobody waits for somebody who waits for them.
//!
//! Each thread has a store of its own, as two builds would have, and meets the others in the same places: the layer
//! that two of them make at once is kept once, and whoever comes second to a step that is under way waits for it and
//! finds it in the cache ([`Schedule::board`]).
//!
//! *What fails ends the others.* A stage that is given up, by an error or a panic, cancels the build, and so does whoever
//! wanted it and has gone: containers of steps are killed, and whoever waits goes. The first error is the build's.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::super::dockerfile::{Instruction, MountKind, Stage};
use super::super::{Error, Failed};
use super::state::State;
use super::{Build, Builder};
use crate::digest::Digest;
use crate::store::Store;

/// Stages built at once. More wait: a Dockerfile from anywhere is not to say how many containers there are.
const AT_ONCE: usize = 16;
/// Bytes of a thread's stack, of which what is not used costs nothing; stages may be nested.
const STACK: usize = 8 << 20;

/// How far a stage is.
#[derive(Debug, Default)]
enum Standing {
    #[default]
    Idle,
    UnderWay,
    Built(Box<State>),
}

/// All stages of a Dockerfile.
#[derive(Debug)]
struct Stages {
    standing: Vec<Standing>,
    /// Those that are wanted and that nobody has taken.
    idle: BTreeSet<usize>,
    /// Of these, the ones whose base is there.
    ready: BTreeSet<usize>,
    /// And the others, by their bases.
    waiting: BTreeMap<usize, Vec<usize>>,
}

impl Stages {
    fn take(&mut self, stage: usize) {
        self.standing[stage] = Standing::UnderWay;
        self.idle.remove(&stage);
        self.ready.remove(&stage);
    }
}

/// What the threads of a build know of each other.
#[derive(Debug)]
pub(super) struct Schedule {
    stages: Mutex<Stages>,
    /// Steps that are being done, by their keys.
    steps: Mutex<HashSet<Digest>>,
    changed: Condvar,
    landed: Condvar,
    canceled: AtomicBool,
    /// Readable once the build is canceled, for those who wait for something else.
    event: EventFd,
}

/// A stage, for whoever asks for it.
pub(super) enum Taken<'a> {
    /// To be built.
    Mine(Claim<'a>),
    /// Built.
    Built(Box<State>),
}

/// A stage that a thread has taken upon itself. Dropped before it is finished, it cancels the build.
pub(super) struct Claim<'a> {
    schedule: &'a Schedule,
    stage: usize,
    done: bool,
}

/// A step that is being done.
pub(super) struct Flight<'a> {
    schedule: &'a Schedule,
    key: Digest,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Schedule {
    /// Of a Dockerfile of so many stages.
    pub fn new(stages: usize) -> Result<Self, Error> {
        let stages = Stages {
            standing: (0..stages).map(|_| Standing::default()).collect(),
            idle: BTreeSet::new(),
            ready: BTreeSet::new(),
            waiting: BTreeMap::new(),
        };
        Ok(Self {
            stages: Mutex::new(stages),
            steps: Mutex::default(),
            changed: Condvar::new(),
            landed: Condvar::new(),
            canceled: AtomicBool::new(false),
            event: event()?,
        })
    }

    /// Ends what the others do.
    fn cancel(&self) {
        // Under the locks, so that nobody goes to sleep between having looked and being woken.
        let _stages = locked(&self.stages);
        let _steps = locked(&self.steps);
        self.canceled.store(true, Ordering::Release);
        let _ = self.event.write(1);
        self.changed.notify_all();
        self.landed.notify_all();
    }

    /// An error once the build is canceled.
    pub fn check(&self) -> Result<(), Error> {
        if self.canceled.load(Ordering::Acquire) { Err(Error::Canceled) } else { Ok(()) }
    }

    /// Waits until one can read from `fd`; an error as soon as the build is canceled. With no `fd`, waits a while.
    pub fn wait(&self, fd: Option<BorrowedFd<'_>>, timeout: PollTimeout) -> Result<(), Error> {
        let mut fds = vec![PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
        fds.extend(fd.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => self.check(),
            Err(errno) => Err(Error::io("poll", Path::new("build"), errno.into())),
        }
    }

    /// Takes a stage, or waits until whoever has taken it has built it.
    pub fn take(&self, stage: usize) -> Result<Taken<'_>, Error> {
        let mut stages = locked(&self.stages);
        loop {
            self.check()?;
            match &stages.standing[stage] {
                Standing::Built(state) => return Ok(Taken::Built(state.clone())),
                Standing::Idle => {
                    stages.take(stage);
                    return Ok(Taken::Mine(Claim { schedule: self, stage, done: false }));
                }
                Standing::UnderWay => {
                    stages = self.changed.wait(stages).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Says which stages are to be built, and upon which of them each of these is.
    fn plan(&self, wanted: &BTreeSet<usize>, base: impl Fn(usize) -> Option<usize>) {
        let mut stages = locked(&self.stages);
        for stage in wanted {
            stages.idle.insert(*stage);
            match base(*stage) {
                Some(base) => stages.waiting.entry(base).or_default().push(*stage),
                None => drop(stages.ready.insert(*stage)),
            }
        }
    }

    /// A stage that nobody has taken and whose base is there, once there is one; `None` when all have been taken.
    fn next(&self) -> Option<Claim<'_>> {
        let mut stages = locked(&self.stages);
        loop {
            self.check().ok()?;
            if let Some(stage) = stages.ready.first().copied() {
                stages.take(stage);
                return Some(Claim { schedule: self, stage, done: false });
            }
            if stages.idle.is_empty() {
                return None;
            }
            stages = self.changed.wait(stages).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes a step upon oneself, or waits until whoever does it has done it, and then takes it: what they have made is
    /// in the cache.
    pub fn board(&self, key: Digest) -> Result<Flight<'_>, Error> {
        let mut steps = locked(&self.steps);
        loop {
            self.check()?;
            if steps.insert(key) {
                return Ok(Flight { schedule: self, key });
            }
            steps = self.landed.wait(steps).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Claim<'_> {
    /// Which stage.
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// Has the others know that it is built.
    pub fn finish(mut self, state: State) {
        self.done = true;
        let mut stages = locked(&self.schedule.stages);
        stages.standing[self.stage] = Standing::Built(Box::new(state));
        let waiting = stages.waiting.remove(&self.stage).unwrap_or_default();
        let ready: Vec<usize> = waiting.into_iter().filter(|n| stages.idle.contains(n)).collect();
        stages.ready.extend(ready);
        drop(stages);
        self.schedule.changed.notify_all();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.schedule.cancel();
        }
    }
}

/// Says so when it is dropped, by a panic as well.
struct Over<'a>(&'a EventFd);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let _ = self.0.write(1);
    }
}

fn event() -> Result<EventFd, Error> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| Error::io("eventfd", Path::new("build"), errno.into()))
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        locked(&self.schedule.steps).remove(&self.key);
        self.schedule.landed.notify_all();
    }
}

/// The stages that `target` needs, itself among them, as far as the Dockerfile alone says.
fn wanted(build: &Build<'_>, target: usize) -> BTreeSet<usize> {
    let (mut wanted, mut left) = (BTreeSet::new(), vec![target]);
    while let Some(n) = left.pop() {
        if wanted.insert(n) {
            let stage = &build.file.stages[n];
            left.extend(build.base_of(n));
            // What has to be expanded first is not known yet.
            left.extend(
                origins(stage).filter(|name| !name.contains('$')).filter_map(|name| build.named(name, n)),
            );
        }
    }
    wanted
}

/// What a stage's steps name with `--from`.
fn origins(stage: &Stage) -> impl Iterator<Item = &String> {
    stage.steps.iter().flat_map(|(_, step)| step_origins(step))
}

/// What a step names with `--from`.
pub(super) fn step_origins(step: &Instruction) -> Vec<&String> {
    match step {
        Instruction::Run(run) => {
            let shown =
                run.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Bind | MountKind::Cache));
            shown.filter_map(|mount| mount.from.as_ref()).collect()
        }
        Instruction::Copy(copy) => copy.from.iter().collect(),
        _ => Vec::new(),
    }
}

/// Builds the target, and what it needs at the same time.
pub(super) fn solve(build: &Build<'_>, store: &mut Store, target: usize) -> Result<State, Failed> {
    let wanted = wanted(build, target);
    build.schedule.plan(&wanted, |n| build.base_of(n));
    let layout = store.layout().clone();
    let first = Mutex::new(None);
    let failed = |failure: Failed| {
        if !matches!(failure.error, Error::Canceled) {
            locked(&first).get_or_insert(failure);
        }
    };
    // This thread takes the target, which is of no use to others until they are done.
    let claim = match build.schedule.take(target)? {
        Taken::Mine(claim) => claim,
        Taken::Built(state) => return Ok(*state),
    };
    let over = &event()?;
    let built = std::thread::scope(|scope| {
        let _over = Over(over);
        if let Some(gone) = build.watcher.gone() {
            let listens = move || {
                let mut fds = [gone, over.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                while matches!(poll(&mut fds, PollTimeout::NONE), Err(nix::errno::Errno::EINTR)) {}
                if fds[0].any() == Some(true) {
                    build.schedule.cancel();
                }
            };
            let thread = std::thread::Builder::new().name("listens".to_owned());
            thread
                .spawn_scoped(scope, listens)
                .map_err(|error| failed(Error::io("clone", Path::new("build"), error).into()))?;
        }
        let work = || {
            // What mounts without the new interface changes its working directory; see `Snapshot::view`.
            let _ = unshare(CloneFlags::CLONE_FS);
            while let Some(claim) = build.schedule.next() {
                // Opened within the claim, so that a failure is not waited for.
                let store = Store::open(layout.clone());
                let built = store
                    .map_err(Failed::from)
                    .and_then(|mut store| Builder::new(build, &mut store).claimed(claim).map(drop));
                if let Err(failure) = built {
                    failed(failure);
                }
            }
        };
        for _ in 1..wanted.len().min(AT_ONCE) {
            let thread = std::thread::Builder::new().name("stage".to_owned()).stack_size(STACK);
            // Without one more, those that are there do it.
            if thread.spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        Builder::new(build, store).claimed(claim).map_err(failed)
    });
    match (built, first.into_inner().unwrap_or_else(PoisonError::into_inner)) {
        (Ok(state), _) => Ok(state),
        (Err(()), Some(failure)) => Err(failure),
        (Err(()), None) => Err(Error::Canceled.into()),
    }
}
