//! A container's cgroup: its identity, its limits, its figures and its end.
//!
//! On pure cgroup v2 one directory is all of that. On a hybrid host, where the controllers sit on
//! v1, a container still gets a v2 cgroup, because identity (the id that eBPF sees), freezing, killing as
//! a whole and `CLONE_INTO_CGROUP` exist only there; beside it stand the few v1 cgroups that account
//! or limit. The v2 cgroup is made first and removed last, so whatever a crash leaves behind can be
//! found by it.
//!
//! A container enters by being cloned into the v2 directory and, on a hybrid host, by writing "0" to
//! the v1 `tasks` of [`Attach`] while it has a single thread. Neither takes the lock that makes a write
//! to `cgroup.procs` wait for an RCU grace period.

mod device;
mod dir;
mod error;
mod hybrid;
mod limits;
mod mounts;
pub mod oom;
mod pressure;
pub mod proof;
pub mod resources;
pub mod stats;
mod v2;
pub mod validate;
mod victim;
mod watch;

use std::{
    cell::RefCell,
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
    unistd::Pid,
};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

pub use self::{
    device::probe_bpf,
    error::{Error, Limit, Unsupported, Warning},
    limits::{Ceiling, IoMax, Limits},
    mounts::Mounts,
    pressure::{Pressure, Stall},
    stats::{Meter, Stats},
    v2::weight_of_shares,
    victim::{Victim, await_victim, find as victim},
    watch::{Changes, Watched, Watcher},
};
use self::{dir::Dir, hybrid::Hierarchies, mounts::V1};
use crate::seq_file;

/// Where containers' cgroups go unless `--cgroup-parent` says otherwise.
pub const DEFAULT_PARENT: &str = "/bulkhead";

/// How long a killed container may take to be gone. A process in an uninterruptible sleep (a dead NFS
/// server) can take for ever.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a container's first process needs in order to be born in its cgroup.
#[derive(Debug)]
pub struct Attach {
    /// The v2 directory, for `CLONE_INTO_CGROUP`.
    pub v2: OwnedFd,
    /// v1 `tasks` files, opened for writing. The child, while single-threaded, writes "0" to each;
    /// empty on pure v2.
    pub tasks: Vec<OwnedFd>,
}

/// A container's cgroup.
pub struct Cgroup {
    mounts: &'static Mounts,
    parent: PathBuf,
    name: String,
    id: u64,
    dir: Dir,
    v1: Hierarchies,
    /// Device rules that were set before the limits were known.
    restricted: Vec<LinuxDeviceCgroup>,
}

impl fmt::Debug for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cgroup({}, id {})", self.dir.path().display(), self.id)
    }
}

/// Collects what was left out with Docker's blessing, and turns the rest of it into a refusal.
#[derive(Debug, Default)]
pub(crate) struct Report {
    warnings: Vec<Warning>,
}

impl Report {
    /// Judges the outcome of writing one limit.
    pub(crate) fn take(&mut self, what: Limit, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            // An absent file, or one that exists and does nothing (kernel memory, swap accounting off).
            Err(
                Error::Sys { path: file, errno: errno @ Errno::ENOENT, .. }
                | Error::Write { path: file, errno: errno @ Errno::EOPNOTSUPP, .. },
            ) => self.judge(Unsupported { what, file, errno }),
            other => other,
        }
    }

    /// A limit that has no file on this kind of host at all.
    pub(crate) fn absent(&mut self, what: Limit, file: PathBuf) -> Result<(), Error> {
        self.judge(Unsupported { what, file, errno: Errno::ENOENT })
    }

    fn judge(&mut self, fact: Unsupported) -> Result<(), Error> {
        if fact.what.docker_warning().is_none() {
            return Err(Error::Unsupported(fact));
        }
        // One sentence a limit, however many devices it names.
        if !self.warnings.iter().any(|w| w.0.what == fact.what) {
            self.warnings.push(Warning(fact));
        }
        Ok(())
    }
}

/// The mounts, the parent's path and the v2 directory of a cgroup that is there. [`Error::Gone`] otherwise.
fn find(parent: &str, id: &str) -> Result<(&'static Mounts, PathBuf, Dir), Error> {
    let parent = clean_parent(parent)?;
    check_name(id)?;
    let mounts = Mounts::find()?;
    let relative = parent.join(id);
    let dir = Dir::find(&mounts.v2, &relative)?
        .ok_or_else(|| Error::Gone { path: mounts.v2.join(&relative), errno: Errno::ENOENT })?;
    Ok((mounts, parent, dir))
}

impl Cgroup {
    /// Makes the cgroup `parent/id` and limits it. A failure leaves nothing behind.
    pub fn create(parent: &str, id: &str, resources: &LinuxResources) -> Result<(Self, Vec<Warning>), Error> {
        Self::make(parent, id, resources)?.limit(resources)
    }

    /// Makes the cgroup `parent/id` with these device rules and without limits, in the hierarchies that every
    /// container has one in, for [`Cgroup::limit`]. All of it takes the kernel longer than most limits do, and
    /// can be done before anybody knows them.
    pub fn make_unlimited(parent: &str, id: &str, devices: &[LinuxDeviceCgroup]) -> Result<Self, Error> {
        let plain = LinuxResources::default();
        let mut cgroup = Self::make(parent, id, &plain)?;
        let made = hybrid::controllers(&plain)
            .into_iter()
            .try_for_each(|controller| cgroup.make_v1(controller))
            .and_then(|()| cgroup.restrict_devices(devices, true));
        cgroup.restricted = devices.to_vec();
        cgroup.or_nothing(made).map(|(cgroup, ())| cgroup)
    }

    fn make(parent: &str, id: &str, resources: &LinuxResources) -> Result<Self, Error> {
        let parent = clean_parent(parent)?;
        check_name(id)?;
        let mounts = Mounts::find()?;
        let above = v2::enable(mounts, &parent, &v2::controllers(mounts, resources))?;
        let dir = above.make_child(id)?;
        Ok(Self {
            mounts,
            parent,
            name: id.into(),
            id: dir.inode()?,
            dir,
            v1: Hierarchies::default(),
            restricted: Vec::new(),
        })
    }

    /// Limits a cgroup that has just been made and that nobody is in. A failure leaves nothing behind.
    pub fn limit(mut self, resources: &LinuxResources) -> Result<(Self, Vec<Warning>), Error> {
        let limited = self.populate(resources);
        self.or_nothing(limited)
    }

    /// Takes the cgroup away again when what was done to it has failed.
    fn or_nothing<T>(self, done: Result<T, Error>) -> Result<(Self, T), Error> {
        match done {
            Ok(result) => Ok((self, result)),
            Err(error) => {
                // The first failure is the one to tell.
                let _ = self.remove();
                Err(error)
            }
        }
    }

    fn populate(&mut self, resources: &LinuxResources) -> Result<Vec<Warning>, Error> {
        let wanted = v2::controllers(self.mounts, resources);
        if wanted != v2::controllers(self.mounts, &LinuxResources::default()) {
            v2::enable(self.mounts, &self.parent, &wanted)?;
        }
        for controller in hybrid::controllers(resources) {
            self.make_v1(controller)?;
        }
        if let Some(rules) = resources.devices()
            && self.restricted != *rules
        {
            self.restrict_devices(rules, self.restricted.is_empty())?;
        }
        self.apply(resources, true)
    }

    /// By the v1 controller where there is one, else by a BPF program.
    ///
    /// Both hold. Loading a program takes the kernel half a millisecond (measured), most of it to make it
    /// executable, and the controller's dozen writes a tenth of that.
    fn restrict_devices(&mut self, rules: &[LinuxDeviceCgroup], fresh: bool) -> Result<(), Error> {
        if fresh {
            if device::allows_everything(rules) {
                return Ok(());
            }
            self.make_v1(V1::Devices)?;
        }
        match self.v1.get(V1::Devices) {
            Some(v1) => device::write_v1(v1, rules),
            None => device::restrict(&self.dir, rules, fresh),
        }
    }

    fn make_v1(&mut self, controller: V1) -> Result<(), Error> {
        if self.v1.get(controller).is_some() {
            return Ok(());
        }
        match self.v1.make(self.mounts, controller, &self.parent, &self.name) {
            // Left by a crash between the two removals: it is ours, and empty.
            Err(Error::Exists { .. }) => {
                self.discard_v1(controller)?;
                self.v1.make(self.mounts, controller, &self.parent, &self.name)?;
            }
            other => {
                other?;
            }
        }
        Ok(())
    }

    fn discard_v1(&self, controller: V1) -> Result<(), Error> {
        let Some(mount) = self.mounts.v1(controller) else { return Ok(()) };
        let Some(above) = Dir::find(mount, &self.parent)? else { return Ok(()) };
        if let Some(stale) = above.child(&self.name)? {
            stale.remove_descendants()?;
        }
        above.remove_child(&self.name).map_err(|errno| Error::sys("rmdir", above.file(&self.name), errno))
    }

    /// Ends what is in a cgroup that nobody answers for any more, and removes it.
    pub fn discard(parent: &str, id: &str) -> Result<(), Error> {
        let cgroup = Self::open(parent, id)?;
        let _ = cgroup.thaw();
        let _ = cgroup.kill();
        cgroup.remove()
    }

    /// Opens a cgroup that is there. [`Error::Gone`] otherwise.
    pub fn open(parent: &str, id: &str) -> Result<Self, Error> {
        let (mounts, parent, dir) = find(parent, id)?;
        let v1 = Hierarchies::open(mounts, &parent.join(id))?;
        Ok(Self { mounts, parent, name: id.into(), id: dir.inode()?, dir, v1, restricted: Vec::new() })
    }

    /// What a table shows of a cgroup that is there, and the cgroup's [id](Self::id): CPU time, memory, tasks and
    /// bytes of I/O. [`Error::Gone`] otherwise. Opening a file costs more than reading it, and whoever reads once
    /// opens them all: these are six of more than twenty.
    pub fn brief_meter(parent: &str, id: &str) -> Result<(u64, Meter), Error> {
        let (mounts, parent, dir) = find(parent, id)?;
        Ok((dir.inode()?, Meter::brief(mounts, &parent.join(id), &dir)?))
    }

    /// The v2 cgroup's id, the number that eBPF's `bpf_get_current_cgroup_id` returns.
    ///
    /// It is the directory's inode number: kernfs makes the two one on 64-bit kernels.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The v2 directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The cgroup as `/proc/PID/cgroup` names it from outside: `/bulkhead/ID`.
    pub fn name(&self) -> PathBuf {
        Path::new("/").join(&self.parent).join(&self.name)
    }

    /// The v1 controllers that have a cgroup of this container's, with their directories.
    pub fn v1_controllers(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.v1.iter().map(|(controller, dir)| (controller.name(), dir.path()))
    }

    /// What a new process needs in order to be born here.
    pub fn attach(&self) -> Result<Attach, Error> {
        // A descriptor outlives its directory; a clone into it would fail without saying why.
        if !self.dir.has("cgroup.procs") {
            return Err(Error::Gone { path: self.dir.path().into(), errno: Errno::ENOENT });
        }
        Ok(Attach { v2: self.dir.try_clone_fd()?, tasks: self.v1.tasks()? })
    }

    /// Changes limits; what `resources` does not name stays as it is.
    pub fn update(&mut self, resources: &LinuxResources) -> Result<Vec<Warning>, Error> {
        v2::enable(self.mounts, &self.parent, &v2::controllers(self.mounts, resources))?;
        let missing: Vec<V1> = hybrid::controllers(resources)
            .into_iter()
            .filter(|c| self.v1.get(*c).is_none() && self.mounts.v1(*c).is_some())
            .collect();
        if !missing.is_empty() {
            self.join_late(&missing, resources)?;
        }
        if let Some(rules) = resources.devices() {
            self.restrict_devices(rules, false)?;
        }
        self.apply(resources, false)
    }

    /// Makes v1 cgroups that the container started without, and moves its processes in.
    ///
    /// They are frozen meanwhile, because a fork between listing and moving would escape the limit.
    fn join_late(&mut self, controllers: &[V1], resources: &LinuxResources) -> Result<(), Error> {
        let was_frozen = self.is_frozen()?;
        if !was_frozen {
            self.freeze()?;
        }
        let mut made = Vec::new();
        let moved = (|| {
            for &controller in controllers {
                match self.v1.make(self.mounts, controller, &self.parent, &self.name) {
                    Err(Error::Exists { .. }) => {
                        let relative = self.parent.join(&self.name);
                        self.v1 = Hierarchies::open(self.mounts, &relative)?;
                    }
                    other => {
                        other?;
                        made.push(controller);
                    }
                }
                let Some(dir) = self.v1.get(controller) else { continue };
                // An impossible set is to fail before anybody is moved.
                if controller == V1::Cpuset
                    && let Some(cpu) = resources.cpu()
                {
                    hybrid::cpuset(dir, cpu, &mut Report::default())?;
                }
                for pid in self.pids()? {
                    match dir.write("cgroup.procs", &pid.to_string()) {
                        Ok(()) | Err(Error::Write { errno: Errno::ESRCH, .. }) => {}
                        Err(other) => return Err(other),
                    }
                }
            }
            Ok(())
        })();
        // Whoever removes the container's cgroups may have looked here before they were made, and does not come
        // again. While there are processes, he has not looked yet.
        let is_over = !self.pids().is_ok_and(|pids| !pids.is_empty());
        for dir in made.into_iter().filter(|_| is_over).filter_map(|controller| self.v1.get(controller)) {
            let _ = std::fs::remove_dir(dir.path());
        }
        if !was_frozen {
            self.thaw()?;
        }
        moved
    }

    fn apply(&self, resources: &LinuxResources, fresh: bool) -> Result<Vec<Warning>, Error> {
        let mut report = Report::default();
        let dir = &self.dir;
        if let Some(memory) = resources.memory() {
            match self.v1.get(V1::Memory) {
                Some(v1) => hybrid::memory(v1, memory, fresh, &mut report)?,
                None => v2::memory(dir, memory, &mut report)?,
            }
        }
        if let Some(cpu) = resources.cpu() {
            match self.v1.get(V1::Cpuset) {
                Some(v1) => hybrid::cpuset(v1, cpu, &mut report)?,
                None => v2::cpuset(dir, cpu, &mut report)?,
            }
            match self.v1.get(V1::Cpu) {
                Some(v1) => hybrid::cpu(v1, cpu, &mut report)?,
                None => v2::cpu(dir, cpu, &mut report)?,
            }
        }
        if let Some(pids) = resources.pids() {
            match self.v1.get(V1::Pids) {
                Some(v1) => hybrid::pids(v1, pids.limit(), &mut report)?,
                None => v2::pids(dir, pids.limit(), &mut report)?,
            }
        }
        if let Some(io) = resources.block_io() {
            match self.v1.get(V1::Blkio) {
                Some(v1) => hybrid::blkio(v1, io, &mut report)?,
                None => v2::io(dir, io, &mut report)?,
            }
        }
        if let Some(limits) = resources.hugepage_limits() {
            match self.v1.get(V1::Hugetlb) {
                Some(v1) => hybrid::hugetlb(v1, limits, &mut report)?,
                None => v2::hugetlb(dir, limits, &mut report)?,
            }
        }
        if let Some(files) = resources.unified() {
            v2::unified(dir, files.iter(), &mut report)?;
        }
        Ok(report.warnings)
    }

    /// Sets `memory.high`, above which the kernel slows the container down and reclaims; `None` lifts it.
    ///
    /// v2 only; minimum kernel 4.5.
    pub fn set_memory_high(&self, bytes: Option<u64>) -> Result<(), Error> {
        let value = bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        self.write_memory("memory.high", &value)
    }

    /// Has the kernel take back up to so many bytes, now. Getting less is no error.
    ///
    /// v2 only; minimum kernel: `memory.reclaim` (5.19).
    pub fn reclaim(&self, bytes: u64) -> Result<(), Error> {
        match self.write_memory("memory.reclaim", &bytes.to_string()) {
            Err(Error::Write { errno: Errno::EAGAIN, .. }) => Ok(()),
            other => other,
        }
    }

    fn write_memory(&self, file: &str, value: &str) -> Result<(), Error> {
        match self.dir.write(file, value) {
            Err(Error::Sys { path, errno: errno @ Errno::ENOENT, .. }) => {
                Err(Error::Unsupported(Unsupported { what: Limit::Unified(file.into()), file: path, errno }))
            }
            other => other,
        }
    }

    /// Stops every process, and returns when they have stopped.
    ///
    /// Minimum kernel: `cgroup.freeze` (5.2).
    pub fn freeze(&self) -> Result<(), Error> {
        self.dir.write("cgroup.freeze", "1")?;
        let frozen = self.wait_event("frozen", 1, FREEZE_TIMEOUT)?;
        if frozen {
            return Ok(());
        }
        self.dir.write("cgroup.freeze", "0")?;
        Err(Error::FreezeTimeout { path: self.dir.path().into(), seconds: FREEZE_TIMEOUT.as_secs() })
    }

    /// Lets every process run again.
    pub fn thaw(&self) -> Result<(), Error> {
        self.dir.write("cgroup.freeze", "0")
    }

    /// Whether the container was asked to stop and has.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        Ok(self.event(&self.dir.read("cgroup.events")?, "frozen")? == 1)
    }

    /// Whether any live process is in the cgroup or below.
    pub fn is_populated(&self) -> Result<bool, Error> {
        Ok(self.event(&self.dir.read("cgroup.events")?, "populated")? == 1)
    }

    fn event(&self, text: &str, key: &str) -> Result<u64, Error> {
        flat_key(text, key).ok_or_else(|| Error::parse(&self.dir.file("cgroup.events"), text))
    }

    /// Waits until `cgroup.events` says `key value`; false when time is out.
    fn wait_event(&self, key: &str, value: u64, timeout: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + timeout;
        let file = self.dir.open_read("cgroup.events")?;
        loop {
            let text = dir::read_record(file.as_fd())
                .map_err(|errno| Error::Gone { path: self.dir.path().into(), errno })?;
            if self.event(&text, key)? == value {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            // Rounded up, so that the last millisecond is slept and not spun.
            let timeout = PollTimeout::try_from(left.as_millis() as i32 + 1).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::sys("poll", self.dir.file("cgroup.events"), errno)),
            }
        }
    }

    /// SIGKILL to every process at once, however fast they fork, frozen or not.
    ///
    /// `cgroup.kill` (5.14) where there is one; otherwise freeze, signal each, thaw.
    pub fn kill(&self) -> Result<(), Error> {
        match self.dir.write("cgroup.kill", "1") {
            Err(Error::Sys { errno: Errno::ENOENT, .. } | Error::Write { errno: Errno::EOPNOTSUPP, .. }) => {}
            other => return other,
        }
        // Frozen processes cannot fork, so one pass reaches all. If they do not freeze in time, the
        // signal is sent all the same.
        let frozen = self.freeze();
        let signalled = self.signal_all(Signal::SIGKILL as i32);
        match frozen {
            Ok(()) => self.thaw()?,
            Err(Error::FreezeTimeout { .. }) => {}
            Err(other) => return Err(other),
        }
        signalled
    }

    /// A signal, by number (real-time ones too), to each process. One that forks meanwhile may be missed;
    /// use [`Cgroup::kill`] to end all.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        for pid in self.pids()? {
            // SAFETY: no memory is involved.
            if unsafe { libc::kill(pid, signal) } == -1 {
                match Errno::last() {
                    Errno::ESRCH => {}
                    errno => return Err(Error::sys("kill", format!("pid {pid}"), errno)),
                }
            }
        }
        Ok(())
    }

    /// Processes in the cgroup and below, as this PID namespace numbers them.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        collect_pids(&self.dir, Pid::this().as_raw(), &mut pids)?;
        Ok(pids)
    }

    /// The list of processes, kept open for many readings.
    pub fn members(&self) -> Result<Members, Error> {
        let list = self.dir.open_read("cgroup.procs")?;
        Ok(Members { list, dir: self.dir.reopen()?, this: Pid::this().as_raw() })
    }

    /// Kills what lives, waits until it is gone, removes the cgroups below and then this one.
    ///
    /// Removed already counts as success.
    pub fn remove(self) -> Result<(), Error> {
        if self.rmdirs().is_ok() {
            return Ok(());
        }
        self.empty()?;
        // v1 hierarchies see the same exits but are told in their own time; so are nested cgroups.
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match self.rmdirs() {
                Err(Error::Sys { errno: Errno::EBUSY, .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
    }

    /// Kills, and waits for the last one to be gone.
    fn empty(&self) -> Result<(), Error> {
        let outcome = self.kill().and_then(|()| self.wait_event("populated", 0, REMOVE_TIMEOUT));
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Busy {
                path: self.dir.path().into(),
                seconds: REMOVE_TIMEOUT.as_secs(),
                pids: self.pids().unwrap_or_default(),
            }),
            Err(error) if error.is_gone() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The v2 cgroup last: as long as it is there the rest can be found.
    ///
    /// In every hierarchy, whether we know of a cgroup there or not: an `update` of somebody else's may have made
    /// one since.
    fn rmdirs(&self) -> Result<(), Error> {
        for mount in self.mounts.v1.iter().flatten() {
            remove_dir(mount, &self.parent, &self.name)?;
        }
        remove_dir(&self.mounts.v2, &self.parent, &self.name)
    }
}

fn remove_dir(mount: &Path, parent: &Path, name: &str) -> Result<(), Error> {
    let path = mount.join(parent).join(name);
    match nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, &path, nix::unistd::UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
        Err(Errno::EBUSY) => {
            // Either processes or children. Children without processes go here and now.
            match Dir::find(mount, &parent.join(name))? {
                Some(dir) => dir.remove_descendants()?,
                None => return Ok(()),
            }
            match nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, &path, nix::unistd::UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
                Err(errno) => Err(Error::sys("rmdir", path, errno)),
            }
        }
        Err(errno) => Err(Error::sys("rmdir", path, errno)),
    }
}

/// The v2 directory of `parent`, made if need be: what watches all containers watches this.
pub fn make_parent(parent: &str) -> Result<PathBuf, Error> {
    let parent = clean_parent(parent)?;
    let mounts = Mounts::find()?;
    Ok(Dir::open(&mounts.v2)?.descend(&parent)?.path().to_owned())
}

/// Whether the cgroups below `parent` will lack this file of cgroup v2's memory controller; why, if so.
pub fn lacks_memory_file(parent: &str, file: &str) -> Result<Option<Unsupported>, Error> {
    let parent = clean_parent(parent)?;
    let mounts = Mounts::find()?;
    let dir = match mounts.v1(V1::Memory) {
        // The controller is on v1, whose cgroups never have it; the parent's own is looked at all the same.
        Some(_) => Dir::open(&mounts.v2)?.descend(&parent)?,
        // Enabling it for the children gives the parent its files too.
        None => v2::enable(mounts, &parent, &["memory"])?,
    };
    let missing =
        Unsupported { what: Limit::Unified(file.into()), file: dir.file(file), errno: Errno::ENOENT };
    Ok((!dir.has(file)).then_some(missing))
}

/// Removes `parent` itself, when nothing is left in it. For tests and for `system prune`; other
/// containers may be using it.
pub fn remove_parent(parent: &str) -> Result<(), Error> {
    let parent = clean_parent(parent)?;
    let mounts = Mounts::find()?;
    for mount in mounts.v1.iter().flatten().chain([&mounts.v2]) {
        let path = mount.join(&parent);
        match std::fs::remove_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("rmdir", path, &error)),
        }
    }
    Ok(())
}

/// A cgroup's processes, its files kept open between readings.
#[derive(Debug)]
pub struct Members {
    list: OwnedFd,
    dir: Dir,
    /// Our own process.
    this: i32,
}

impl Members {
    /// Processes in the cgroup and below, as this PID namespace numbers them.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let mut pids = Vec::new();
        BUFFER.with_borrow_mut(|buffer| match seq_file::read_list(self.list.as_fd(), buffer) {
            Ok(text) => parse_pids(&self.dir, &String::from_utf8_lossy(text), self.this, &mut pids),
            Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(errno @ Errno::ENODEV) => Err(Error::Gone { path: self.dir.path().into(), errno }),
            Err(errno) => Err(Error::sys("pread", self.dir.file("cgroup.procs"), errno)),
        })?;
        collect_below(&self.dir, self.this, &mut pids)?;
        Ok(pids)
    }
}

/// All but `this`.
fn parse_pids(dir: &Dir, text: &str, this: i32, pids: &mut Vec<i32>) -> Result<(), Error> {
    for line in text.lines() {
        let pid: i32 = line.parse().map_err(|_| Error::parse(&dir.file("cgroup.procs"), line))?;
        // 0 is a process of an outer PID namespace.
        if pid != 0 && pid != this {
            pids.push(pid);
        }
    }
    Ok(())
}

fn collect_pids(dir: &Dir, this: i32, pids: &mut Vec<i32>) -> Result<(), Error> {
    match dir.read_list("cgroup.procs") {
        Ok(text) => parse_pids(dir, &text, this, pids)?,
        // A threaded cgroup has threads only; its domain above lists their processes.
        Err(Error::Sys { errno: Errno::EOPNOTSUPP, .. }) => {}
        Err(other) => return Err(other),
    }
    collect_below(dir, this, pids)
}

fn collect_below(dir: &Dir, this: i32, pids: &mut Vec<i32>) -> Result<(), Error> {
    for name in dir.children()? {
        if let Some(child) = dir.child(&name)? {
            match collect_pids(&child, this, pids) {
                Err(error) if error.is_gone() => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// The number after `key` in a file of `key value` lines.
pub(crate) fn flat_key(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A parent as a path below the mount, whatever slashes it came with.
fn clean_parent(parent: &str) -> Result<PathBuf, Error> {
    let bad = |why| Error::BadPath { path: parent.into(), why };
    if parent.contains('\0') || parent.contains('\n') {
        return Err(bad("control characters"));
    }
    let mut clean = PathBuf::new();
    for part in Path::new(parent).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => clean.push(part),
            Component::ParentDir | Component::Prefix(_) => return Err(bad("`..` leads out of it")),
        }
    }
    if clean.as_os_str().is_empty() {
        // The root of the hierarchy: its children would be siblings of everything on the host.
        return Err(bad("no cgroup named"));
    }
    Ok(clean)
}

fn check_name(id: &str) -> Result<(), Error> {
    let bad = |why| Err(Error::BadPath { path: id.into(), why });
    match id {
        "" => bad("empty"),
        "." | ".." => bad("not a name"),
        _ if id.contains(['/', '\0', '\n']) => bad("not a single name"),
        _ if id.len() > 255 => bad("longer than 255 bytes"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
