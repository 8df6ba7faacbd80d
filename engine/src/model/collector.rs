//! Fills the model, again and again, at the price of one `pread` a file.
//!
//! Between readings the collector keeps the cgroup's files open, knows whether the store has changed (a
//! commit by anybody moves SQLite's `data_version`), re-reads limits only when somebody has written to
//! them, and what only a container's own execution changes only when it has executed. Nothing it keeps makes a container's remains live longer: a removed cgroup's open files
//! answer ENODEV and are let go, and a network namespace is never held (an open `net/dev` would be a
//! reference to it), only the directory of its process.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::{At as _, Error, Figures, Network, Tasks, interface, now, tasks};
use crate::cgroup::{self, Ceiling, Cgroup, Limits, Members, Meter, Stats, Watched, Watcher};
use crate::config::Resources;
use crate::container::{self, Container};
use crate::seq_file;
use crate::store::Store;

/// What to read beyond the cgroup's own figures, each costing a little more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// Network interfaces.
    pub network: bool,
    /// Processes and their descriptors.
    pub tasks: bool,
    /// The limits in force.
    pub limits: bool,
    /// Of the cgroup's own figures only what `docker stats` shows, and no tasks, for whoever reads once.
    pub brief: bool,
}

impl Parts {
    /// All of them.
    pub const ALL: Self = Self { network: true, tasks: true, limits: true, brief: false };
}

/// Nanoseconds after which limits are read again although nobody is known to have written to them: the CPUs of a
/// cgroup may change with those of one above it.
const LIMITS_AGE: u64 = 300_000_000_000;

/// Files kept open for one container at most: those of the meter, the list of processes and its directory,
/// process 1 and its descriptors, and one that is open for a moment.
const FILES: u64 = 19;
/// Containers for which a thread is worth its start.
const SHARE: usize = 16;
/// Threads that read at once; more would only take the host from what it is there for.
const THREADS: usize = 4;
/// Containers that a thread takes at once.
const TAKEN: usize = 16;

struct Open {
    id: u64,
    meter: Meter,
    /// `None` unless they are asked for.
    members: Option<Members>,
    process: Option<Process>,
    limits: Option<Known>,
    /// The reading before, from which a container that rests takes what cannot have changed.
    last: Option<Last>,
}

/// What a reading leaves for the next.
struct Last {
    stats: Stats,
    tasks: Option<Tasks>,
}

/// Limits as they were when they were read.
struct Known {
    limits: Limits,
    /// Those asked for, for which they stood.
    asked: Resources,
    /// When.
    clock: u64,
    /// `None` where nobody would say that they have changed.
    watched: Option<Watched>,
    changed: bool,
}

impl Known {
    fn stands(&self, container: &Container, clock: u64) -> bool {
        self.watched.is_some()
            && !self.changed
            && self.asked == container.record.host_config.resources
            && clock.saturating_sub(self.clock) < LIMITS_AGE
            && !has_own_mounts(container)
    }
}

/// Whether the container can mount cgroups in a namespace of its own: what is written there is not seen from here.
fn has_own_mounts(container: &Container) -> bool {
    let config = &container.record.host_config;
    let enough = |name: &String| {
        let name = name.to_ascii_uppercase();
        matches!(name.strip_prefix("CAP_").unwrap_or(&name), "ALL" | "SYS_ADMIN")
    };
    config.privileged || config.cap_add.iter().flatten().any(enough)
}

/// Process 1 of a container, held by directories of /proc, which die with it, however often the number is reused.
struct Process {
    pid: i32,
    /// `/proc/PID`.
    dir: OwnedFd,
    /// `/proc/PID/fd`, whose size is the number of its descriptors: asked by descriptor, the kernel need not look
    /// up the number, check who asks, and walk two directories. `None` unless processes are asked for.
    descriptors: Option<OwnedFd>,
}

impl Open {
    fn new(container: &Container, parts: Parts) -> Result<Self, cgroup::Error> {
        let (parent, id) = (&container.record.cgroup_parent, &container.id);
        if parts.brief {
            let (id, meter) = Cgroup::brief_meter(parent, id)?;
            return Ok(Self { id, meter, members: None, process: None, limits: None, last: None });
        }
        let cgroup = Cgroup::open(parent, id)?;
        let id = cgroup.id();
        // Limits are read all together, and less often.
        let meter = if parts.limits { cgroup.usage_meter()? } else { cgroup.meter()? };
        let members = if parts.tasks { Some(cgroup.members()?) } else { None };
        Ok(Self { id, meter, members, process: None, limits: None, last: None })
    }
}

/// Makes the process's table of descriptors large enough, while nobody shares it yet.
///
/// The kernel doubles a full table, and when threads share it, waits for an RCU grace period first
/// (`expand_fdtable`): `stats` of fifty containers, which needs a few hundred, stood still for 10 to 20 ms at its
/// 257th. A table is as large as its highest number wants it, so one copy under a high number is enough; above the
/// process's limit it is refused, and then nothing is won or lost.
fn make_room(descriptors: usize) {
    let high = i32::try_from(descriptors + 64).unwrap_or(i32::MAX);
    if let Ok(fd) = nix::fcntl::fcntl(std::io::stdin(), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(high)) {
        let _ = nix::unistd::close(fd);
    }
}

/// Reads figures of many containers.
pub struct Collector {
    parts: Parts,
    /// Containers whose files are kept open at most; the others' are opened at each reading.
    keep: usize,
    open: HashMap<String, Box<Open>>,
    /// `None` where nobody asks for limits, or the kernel has no room for another: then they are always read.
    watcher: Option<Watcher>,
    rows: Vec<Container>,
    /// The number of that list; see [`Figures::listing`].
    listing: u64,
    version: Option<i64>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collector({:?}, {} open)", self.parts, self.open.len())
    }
}

impl Collector {
    /// A collector that has read nothing yet. It keeps as many files open as the process's limit on open
    /// files leaves room for.
    pub fn new(parts: Parts) -> Self {
        let soft = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
            .map_or(1024, |(soft, _)| soft);
        Self {
            parts,
            keep: (soft.saturating_sub(256) / FILES) as usize,
            open: HashMap::new(),
            watcher: if parts.limits { Watcher::new().ok() } else { None },
            rows: Vec::new(),
            listing: 0,
            version: None,
        }
    }

    /// A collector that keeps nothing open, for one reading: what is closed at once, by the thread that opened it, is
    /// not closed at the end, one file after the other, and fifty containers fit into the table of descriptors that
    /// every process has.
    pub fn once(parts: Parts) -> Self {
        Self { keep: 0, ..Self::new(parts) }
    }

    /// Every container of the store, the newest first. The same `store` must be given each time.
    pub fn collect(&mut self, store: &Store) -> Result<Vec<Figures>, Error> {
        let mut figures = Vec::new();
        self.collect_into(store, &mut figures)?;
        Ok(figures)
    }

    /// The same over figures of an earlier reading, or none: of a thousand containers these are megabytes in ten
    /// thousands of pieces, and letting go of them and asking for them again takes longer than rendering what they
    /// say. What the store tells of a container is kept as long as the store has not changed.
    pub fn collect_into(&mut self, store: &Store, figures: &mut Vec<Figures>) -> Result<(), Error> {
        // Read before the list: a commit between the two makes the next reading list again.
        let version: i64 = store
            .db()
            .query_row("PRAGMA data_version", [], |row| row.get(0))
            .map_err(|error| container::Error::from(store.db_error(error)))?;
        if self.version != Some(version) {
            self.rows = container::list(store)?;
            store.let_go();
            self.listing = new_listing();
            self.version = Some(version);
            let alive: HashSet<&str> = self
                .rows
                .iter()
                .filter(|row| row.state.status.is_alive())
                .map(|row| row.id.as_str())
                .collect();
            self.open.retain(|id, _| alive.contains(id.as_str()));
        }
        let rows = std::mem::take(&mut self.rows);
        let read = self.read_rows(&rows, self.listing, figures);
        self.rows = rows;
        read
    }

    /// All of these.
    pub fn read_all(&mut self, rows: &[Container]) -> Result<Vec<Figures>, Error> {
        let mut figures = Vec::new();
        self.read_rows(rows, new_listing(), &mut figures)?;
        Ok(figures)
    }

    /// By several threads when there are many: nearly all of a reading is the kernel writing text, and each
    /// processor can do that by itself.
    fn read_rows(
        &mut self,
        rows: &[Container],
        listing: u64,
        figures: &mut Vec<Figures>,
    ) -> Result<(), Error> {
        self.notice_changes();
        // Written where they stay: each time they are moved costs a fault a page.
        figures.resize_with(rows.len(), Figures::default);
        let mut files: Vec<Option<(String, Box<Open>)>> =
            rows.iter().map(|row| self.open.remove_entry(&row.id)).collect();
        let kept = files.iter().flatten().count();
        let room = AtomicUsize::new(self.keep.saturating_sub(self.open.len() + kept));
        let take =
            || room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok();
        let (parts, watcher) = (self.parts, self.watcher.as_ref());
        let failed = Mutex::new(None);
        let threads = crate::host::threads_for(rows.len(), SHARE, THREADS);
        // A reader that keeps its files has had its room since it opened them.
        if threads > 1 && kept < rows.len().min(self.keep) {
            make_room(rows.len() * FILES as usize);
        }
        let shares = rows.chunks(TAKEN).zip(files.chunks_mut(TAKEN)).zip(figures.chunks_mut(TAKEN));
        crate::host::share_out(threads, shares, |((rows, files), figures)| {
            for ((row, files), figures) in rows.iter().zip(files).zip(figures) {
                let (id, open) = files.take().unzip();
                if figures.listing != listing || figures.identity.id != row.id {
                    *figures = Figures { listing, ..Figures::of(row) };
                }
                match read(parts, watcher, row, open, figures) {
                    // What is opened beyond our share of descriptors is closed before the next is read.
                    Ok(open) => {
                        *files = open
                            .filter(|_| id.is_some() || take())
                            .map(|open| (id.unwrap_or_else(|| row.id.clone()), open));
                    }
                    Err(error) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
                }
            }
        });
        self.open.extend(files.into_iter().flatten());
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// One container.
    pub fn read(&mut self, container: &Container) -> Result<Figures, Error> {
        self.notice_changes();
        let mut figures = Figures::of(container);
        let open = self.open.remove(&container.id);
        let open = read(self.parts, self.watcher.as_ref(), container, open, &mut figures)?;
        if let Some(open) = open
            && self.open.len() < self.keep
        {
            self.open.insert(container.id.clone(), open);
        }
        Ok(figures)
    }

    /// Limits that somebody has written to are read again.
    fn notice_changes(&mut self) {
        let Some(changes) = self.watcher.as_ref().map(Watcher::changes) else { return };
        if changes.is_empty() {
            return;
        }
        for known in self.open.values_mut().filter_map(|open| open.limits.as_mut()) {
            known.changed |= known.watched.as_ref().is_some_and(|watched| watched.is_among(&changes));
        }
    }
}

/// A number that no other listing of any collector has.
fn new_listing() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// Reads a container through the files that were kept open, if any; returns them for the next time. What the store
/// tells of it is in the figures already; all the rest is written over.
fn read(
    parts: Parts,
    watcher: Option<&Watcher>,
    container: &Container,
    mut open: Option<Box<Open>>,
    figures: &mut Figures,
) -> Result<Option<Box<Open>>, Error> {
    let mut keep = None;
    // A restart makes a new cgroup of the same name: files kept open then say "gone", and one more look
    // finds the new one. Gone twice means that it has ended.
    let attempts = if container.state.status.is_alive() { 2 } else { 0 };
    for attempt in 0..attempts {
        let (mut files, kept) = match open.take() {
            Some(open) => (open, true),
            None => match Open::new(container, parts) {
                Ok(open) => (Box::new(open), false),
                Err(error) if error.is_gone() => break,
                Err(error) => return Err(error.into()),
            },
        };
        match fill(parts, watcher, container, &mut files, figures) {
            Ok(()) => {
                keep = Some(files);
                break;
            }
            Err(Error::Cgroup(error)) if error.is_gone() => {
                if attempt == 1 || !kept {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    if keep.is_none() {
        figures.forget();
    }
    (figures.taken, figures.clock) = now();
    Ok(keep)
}

fn fill(
    parts: Parts,
    watcher: Option<&Watcher>,
    container: &Container,
    open: &mut Open,
    figures: &mut Figures,
) -> Result<(), Error> {
    figures.identity.cgroup_id = Some(open.id);
    figures.filesystem = None;
    let last = open.last.take();
    let mut stats = match &last {
        Some(last) => open.meter.read_again(&last.stats)?,
        None => open.meter.read()?,
    };
    let rests = last.filter(|last| stats.rested_since(&last.stats));
    if parts.network {
        figures.network = network(container, parts, &mut open.process)?;
    }
    if let Some(members) = &open.members {
        let first = open
            .process
            .as_ref()
            .and_then(|process| Some((process.pid, process.descriptors.as_ref()?.as_fd())));
        figures.tasks = match rests.and_then(|last| last.tasks) {
            Some(tasks) => Some(tasks),
            None => Some(tasks::count(members, first)?),
        };
    }
    open.last = Some(Last { stats: stats.clone(), tasks: figures.tasks });
    if parts.limits {
        let clock = now().1;
        if !open.limits.as_ref().is_some_and(|known| known.stands(container, clock)) {
            // Whoever is read for the first time may not be one whose files are kept.
            let again = open.limits.take().is_some();
            let cgroup = Cgroup::open(&container.record.cgroup_parent, &container.id)?;
            // Before they are read: what is written from then on is told next time.
            let watched = watcher.filter(|_| again).and_then(|watcher| watcher.watch(&cgroup).ok());
            let asked = container.record.host_config.resources.clone();
            open.limits = Some(Known { limits: cgroup.limits()?, asked, clock, watched, changed: false });
        }
        let limits = open.limits.as_ref().map(|known| &known.limits);
        if figures.limits.as_ref() != limits {
            figures.limits = limits.cloned();
        }
        stats.pids.limit = match figures.limits.as_ref().and_then(|limits| limits.pids) {
            Some(Ceiling::At(tasks)) => Some(tasks),
            Some(Ceiling::Unlimited) | None => None,
        };
    }
    figures.stats = Some(stats);
    Ok(())
}

fn network(container: &Container, parts: Parts, process: &mut Option<Process>) -> Result<Network, Error> {
    let mode = container.record.host_config.network_mode.as_str();
    if mode == "host" {
        return Ok(Network::Host);
    }
    let pid = container.state.pid;
    if pid <= 0 {
        return Ok(Network::Unknown);
    }
    let known = match process {
        Some(process) if process.pid == pid => interfaces(process)?,
        _ => None,
    };
    let list = if let Some(found) = known {
        found
    } else {
        let Some(found) = Process::open(pid, &container.id, parts)? else { return Ok(Network::Unknown) };
        let list = interfaces(&found)?;
        *process = Some(found);
        let Some(list) = list else { return Ok(Network::Unknown) };
        list
    };
    Ok(if mode.starts_with("container:") { Network::Joined(list) } else { Network::Own(list) })
}

/// `None` when the process has ended.
fn interfaces(process: &Process) -> Result<Option<Vec<super::Interface>>, Error> {
    process.read("net/dev", |text| {
        interface::parse(text)
            .ok_or_else(|| Error::Parse { path: process.path("net/dev"), text: text.to_owned() })
    })
}

thread_local! {
    /// What files of /proc are read into.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Process {
    /// `/proc/<pid>`, if that process is of this container: its number may have been reused.
    fn open(pid: i32, id: &str, parts: Parts) -> Result<Option<Self>, Error> {
        let path = PathBuf::from(format!("/proc/{pid}"));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = match nix::fcntl::open(&path, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other.at("open", &path)?,
        };
        let mut process = Self { pid, dir, descriptors: None };
        if process.read("cgroup", |cgroups| Ok(cgroups.contains(id)))? != Some(true) {
            return Ok(None);
        }
        if parts.tasks {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            process.descriptors = nix::fcntl::openat(&process.dir, "fd", flags, Mode::empty()).ok();
        }
        Ok(Some(process))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// What is made of one of its files; `None` when it has ended.
    fn read<T>(&self, name: &str, take: impl FnOnce(&str) -> Result<T, Error>) -> Result<Option<T>, Error> {
        // A process that has ended answers ESRCH or ENOENT; a zombie has no network namespace: EINVAL.
        let gone = |errno: Errno| matches!(errno, Errno::ENOENT | Errno::ESRCH | Errno::EINVAL);
        let file =
            match nix::fcntl::openat(&self.dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
                Ok(file) => file,
                Err(errno) if gone(errno) => return Ok(None),
                Err(errno) => return Err(errno).at("open", &self.path(name)),
            };
        BUFFER.with_borrow_mut(|buffer| match seq_file::read_list(file.as_fd(), buffer) {
            Ok(text) => match std::str::from_utf8(text) {
                Ok(text) => take(text).map(Some),
                Err(_) => take(&String::from_utf8_lossy(text)).map(Some),
            },
            Err(errno) if gone(errno) => Ok(None),
            Err(errno) => Err(errno).at("read", &self.path(name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_over_and_nothing_of_another_reading_stays() {
        let row = |id: &str| Container {
            id: id.into(),
            name: format!("{id}-name"),
            image: None,
            created: String::new(),
            record: Box::default(),
            state: container::State::default(),
        };
        let stale = || {
            let mut figures = Figures { stats: Some(cgroup::Stats::default()), ..Figures::default() };
            figures.network = Network::Host;
            figures.identity.id = "aa".into();
            figures.identity.cgroup_id = Some(1);
            figures
        };
        let rows = [row("aa"), row("bb")];
        let mut collector = Collector::new(Parts::ALL);
        let mut figures = vec![stale(), stale(), stale()];
        let seen = |figures: &[Figures]| -> Vec<String> {
            assert!(figures.iter().all(|figures| figures.stats.is_none() && figures.taken > 0.0));
            assert!(figures.iter().all(|figures| figures.identity.cgroup_id.is_none()));
            assert!(figures.iter().all(|figures| figures.network == Network::Unknown));
            figures.iter().map(|figures| figures.identity.name.clone()).collect()
        };
        collector.read_rows(&rows, 1, &mut figures).unwrap();
        assert_eq!(seen(&figures), ["aa-name", "bb-name"]);
        // What the store told stays for as long as it is the same listing, and the rest does not.
        figures[0] = Figures { listing: 1, ..stale() };
        collector.read_rows(&rows, 1, &mut figures).unwrap();
        assert_eq!(seen(&figures), ["", "bb-name"]);
        collector.read_rows(&rows, 2, &mut figures).unwrap();
        assert_eq!(seen(&figures), ["aa-name", "bb-name"]);
        // Others stand in their places now.
        collector.read_rows(&[row("bb"), row("cc")], 2, &mut figures).unwrap();
        assert_eq!(seen(&figures), ["bb-name", "cc-name"]);
        let (one, two) = (new_listing(), new_listing());
        assert!(one != two && one != 0);
    }

    #[test]
    fn limits_stand_until_somebody_may_have_changed_them() {
        let row = |privileged: bool, added: Option<&str>| {
            let mut record = container::Record::default();
            record.host_config.privileged = privileged;
            record.host_config.cap_add = added.map(|name| vec![name.to_owned()]);
            Container {
                id: "aa".into(),
                name: "aa".into(),
                image: None,
                created: String::new(),
                record: Box::new(record),
                state: container::State::default(),
            }
        };
        for own in ["ALL", "sys_admin", "CAP_SYS_ADMIN"] {
            assert!(has_own_mounts(&row(false, Some(own))), "{own}");
        }
        assert!(has_own_mounts(&row(true, None)));
        assert!(!has_own_mounts(&row(false, Some("NET_ADMIN"))) && !has_own_mounts(&row(false, None)));
        let known = Known {
            limits: Limits::default(),
            asked: Resources::default(),
            clock: 5,
            watched: None,
            changed: false,
        };
        assert!(!known.stands(&row(false, None), 5), "nobody would say that they have changed");
    }

    #[test]
    fn a_process_is_ours_only_if_its_cgroup_says_so() {
        let pid = std::process::id().cast_signed();
        assert!(Process::open(pid, &"ab".repeat(32), Parts::ALL).unwrap().is_none());
        assert!(Process::open(i32::MAX, "", Parts::ALL).unwrap().is_none());
        let process = Process::open(pid, "", Parts::ALL).unwrap().unwrap();
        assert!(interfaces(&process).unwrap().is_some());
        assert!(process.descriptors.is_some());
        assert!(Process::open(pid, "", Parts::default()).unwrap().unwrap().descriptors.is_none());
    }

    #[test]
    fn a_process_that_ended_has_no_interfaces() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let process = Process::open(child.id().cast_signed(), "", Parts::ALL).unwrap().unwrap();
        assert!(interfaces(&process).unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(interfaces(&process).unwrap(), None);
    }
}
