//! Fills the model, again and again, at the price of one `pread` a file.
//!
//! Between readings the collector keeps the cgroup's files open, knows whether the store has changed (a
//! commit by anybody moves SQLite's `data_version`), and re-reads limits only when somebody may have
//! changed them. Nothing it keeps makes a container's remains live longer: a removed cgroup's open files
//! answer ENODEV and are let go, and a network namespace is never held (an open `net/dev` would be a
//! reference to it), only the directory of its process.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::{At as _, Error, Figures, Network, interface, now, tasks};
use crate::cgroup::{self, Cgroup, Limits, Members, Meter};
use crate::config::Resources;
use crate::container::{self, Container};
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
    /// Of the cgroup's own figures only what `docker stats` shows, for whoever reads once.
    pub brief: bool,
}

impl Parts {
    /// All of them.
    pub const ALL: Self = Self { network: true, tasks: true, limits: true, brief: false };
}

/// Nanoseconds after which limits are read again although the record has not changed: somebody may have
/// written to the cgroup by hand.
const LIMITS_AGE: u64 = 60_000_000_000;

/// Files kept open for one container at most: those of the meter, the list of processes and its directory,
/// process 1.
const FILES: u64 = 19;
/// Containers for which a thread is worth its start.
const SHARE: usize = 16;
/// Threads that read at once; more would only take the host from what it is there for.
const THREADS: usize = 4;

struct Open {
    id: u64,
    meter: Meter,
    /// `None` unless they are asked for.
    members: Option<Members>,
    /// Process 1 and its directory in /proc, which dies with it, however often the number is reused.
    process: Option<(i32, OwnedFd)>,
    limits: Option<(Limits, Resources, u64)>,
}

impl Open {
    fn new(container: &Container, parts: Parts) -> Result<Self, cgroup::Error> {
        let cgroup = Cgroup::open(&container.record.cgroup_parent, &container.id)?;
        let id = cgroup.id();
        let meter = if parts.brief { cgroup.brief_meter()? } else { cgroup.meter()? };
        let members = if parts.tasks { Some(cgroup.members()?) } else { None };
        Ok(Self { id, meter, members, process: None, limits: None })
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
    open: HashMap<String, Open>,
    rows: Vec<Container>,
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
            rows: Vec::new(),
            version: None,
        }
    }

    /// Every container of the store, the newest first. The same `store` must be given each time.
    pub fn collect(&mut self, store: &Store) -> Result<Vec<Figures>, Error> {
        // Read before the list: a commit between the two makes the next reading list again.
        let version: i64 = store
            .db()
            .query_row("PRAGMA data_version", [], |row| row.get(0))
            .map_err(|error| container::Error::from(store.db_error(error)))?;
        if self.version != Some(version) {
            self.rows = container::list(store)?;
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
        let figures = self.read_all(&rows);
        self.rows = rows;
        figures
    }

    /// All of these, by several threads when there are many: nearly all of a reading is the kernel writing
    /// text, and each processor can do that by itself.
    pub fn read_all(&mut self, rows: &[Container]) -> Result<Vec<Figures>, Error> {
        type Done = Result<(Figures, Option<Open>), Error>;

        let mut work: Vec<(&Container, Option<Open>)> =
            rows.iter().map(|row| (row, self.open.remove(&row.id))).collect();
        let parts = self.parts;
        // What is opened beyond our share of descriptors is closed before the next container is read.
        let kept = work.iter().filter(|(_, open)| open.is_some()).count();
        let room = AtomicUsize::new(self.keep.saturating_sub(self.open.len() + kept));
        let each = |(row, open): (&Container, Option<Open>)| -> Done {
            let known = open.is_some();
            let (figures, open) = read(parts, row, open)?;
            let take = || {
                room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok()
            };
            Ok((figures, open.filter(|_| known || take())))
        };
        let each = &each;
        let threads = crate::host::threads_for(rows.len(), SHARE, THREADS);
        let done: Vec<Done> = if threads == 1 {
            work.into_iter().map(each).collect()
        } else {
            let share = rows.len().div_ceil(threads);
            // A reader that keeps its files has had its room since it opened them.
            if kept < rows.len() {
                make_room(rows.len() * FILES as usize);
            }
            std::thread::scope(|scope| {
                let mut running = Vec::new();
                while work.len() > share {
                    let some = work.split_off(work.len() - share);
                    running.push(scope.spawn(move || some.into_iter().map(each).collect::<Vec<_>>()));
                }
                // The first share is this thread's own; the others were taken from the end.
                let mut done: Vec<Done> = work.into_iter().map(each).collect();
                for thread in running.into_iter().rev() {
                    done.extend(thread.join().expect("a reading does not panic"));
                }
                done
            })
        };
        let mut all = Vec::with_capacity(done.len());
        let mut failed = None;
        for result in done {
            match result {
                Ok((figures, open)) => {
                    if let Some(open) = open {
                        self.open.insert(figures.identity.id.clone(), open);
                    }
                    all.push(figures);
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(all), Err)
    }

    /// One container.
    pub fn read(&mut self, container: &Container) -> Result<Figures, Error> {
        let (figures, open) = read(self.parts, container, self.open.remove(&container.id))?;
        if let Some(open) = open
            && self.open.len() < self.keep
        {
            self.open.insert(container.id.clone(), open);
        }
        Ok(figures)
    }
}

/// Reads a container through the files that were kept open, if any; returns them for the next time.
fn read(
    parts: Parts,
    container: &Container,
    mut open: Option<Open>,
) -> Result<(Figures, Option<Open>), Error> {
    let mut figures = Figures::of(container);
    if !container.state.status.is_alive() {
        (figures.taken, figures.clock) = now();
        return Ok((figures, None));
    }
    let mut keep = None;
    // A restart makes a new cgroup of the same name: files kept open then say "gone", and one more look
    // finds the new one. Gone twice means that it has ended.
    for attempt in 0..2 {
        let (mut files, kept) = match open.take() {
            Some(open) => (open, true),
            None => match Open::new(container, parts) {
                Ok(open) => (open, false),
                Err(error) if error.is_gone() => break,
                Err(error) => return Err(error.into()),
            },
        };
        match fill(parts, container, &mut files, &mut figures) {
            Ok(()) => {
                keep = Some(files);
                break;
            }
            Err(Error::Cgroup(error)) if error.is_gone() => {
                figures = Figures::of(container);
                if attempt == 1 || !kept {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    (figures.taken, figures.clock) = now();
    Ok((figures, keep))
}

fn fill(parts: Parts, container: &Container, open: &mut Open, figures: &mut Figures) -> Result<(), Error> {
    figures.identity.cgroup_id = Some(open.id);
    figures.stats = Some(open.meter.read()?);
    if parts.network {
        figures.network = network(container, &mut open.process)?;
    }
    if let Some(members) = &open.members {
        figures.tasks = Some(tasks::count(members)?);
    }
    if parts.limits {
        let clock = now().1;
        let asked = &container.record.host_config.resources;
        let fresh = open
            .limits
            .as_ref()
            .is_some_and(|(_, of, at)| of == asked && clock.saturating_sub(*at) < LIMITS_AGE);
        if !fresh {
            let cgroup = Cgroup::open(&container.record.cgroup_parent, &container.id)?;
            open.limits = Some((cgroup.limits()?, asked.clone(), clock));
        }
        figures.limits = open.limits.as_ref().map(|(limits, _, _)| limits.clone());
    }
    Ok(())
}

fn network(container: &Container, process: &mut Option<(i32, OwnedFd)>) -> Result<Network, Error> {
    let mode = container.record.host_config.network_mode.as_str();
    if mode == "host" {
        return Ok(Network::Host);
    }
    let pid = container.state.pid;
    if pid <= 0 {
        return Ok(Network::Unknown);
    }
    let known = match process {
        Some((of, dir)) if *of == pid => interfaces(pid, dir)?,
        _ => None,
    };
    let list = if let Some(found) = known {
        found
    } else {
        let Some(dir) = process_dir(pid, &container.id)? else { return Ok(Network::Unknown) };
        let found = interfaces(pid, &dir)?;
        *process = Some((pid, dir));
        let Some(found) = found else { return Ok(Network::Unknown) };
        found
    };
    Ok(if mode.starts_with("container:") { Network::Joined(list) } else { Network::Own(list) })
}

/// `/proc/<pid>`, if that process is of this container: its number may have been reused.
fn process_dir(pid: i32, id: &str) -> Result<Option<OwnedFd>, Error> {
    let path = format!("/proc/{pid}");
    let path = Path::new(&path);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = match nix::fcntl::open(path, flags, Mode::empty()) {
        Err(nix::errno::Errno::ENOENT) => return Ok(None),
        other => other.at("open", path)?,
    };
    let Some(cgroups) = read_at(&dir, "cgroup", path)? else { return Ok(None) };
    Ok(cgroups.contains(id).then_some(dir))
}

/// `None` when the process has ended.
fn interfaces(pid: i32, dir: &OwnedFd) -> Result<Option<Vec<super::Interface>>, Error> {
    let path = format!("/proc/{pid}/net/dev");
    let path = Path::new(&path);
    let Some(text) = read_at(dir, "net/dev", path)? else { return Ok(None) };
    interface::parse(&text).map(Some).ok_or_else(|| Error::Parse { path: path.to_owned(), text })
}

fn read_at(dir: &OwnedFd, name: &str, path: &Path) -> Result<Option<String>, Error> {
    use nix::errno::Errno;
    // A process that has ended answers ESRCH or ENOENT; a zombie has no network namespace: EINVAL.
    let gone = |errno: Errno| matches!(errno, Errno::ENOENT | Errno::ESRCH | Errno::EINVAL);
    match nix::fcntl::openat(dir.as_fd(), name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(fd) => {
            let mut text = String::with_capacity(1024);
            match std::fs::File::from(fd).read_to_string(&mut text) {
                Ok(_) => Ok(Some(text)),
                Err(error) if error.raw_os_error().is_some_and(|code| gone(Errno::from_raw(code))) => {
                    Ok(None)
                }
                Err(error) => Err(error).at("read", path),
            }
        }
        Err(errno) if gone(errno) => Ok(None),
        Err(errno) => Err(errno).at("open", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ours_only_if_its_cgroup_says_so() {
        let pid = std::process::id().cast_signed();
        assert!(process_dir(pid, &"ab".repeat(32)).unwrap().is_none());
        assert!(process_dir(i32::MAX, "").unwrap().is_none());
        let dir = process_dir(pid, "").unwrap().unwrap();
        assert!(interfaces(pid, &dir).unwrap().is_some());
    }

    #[test]
    fn a_process_that_ended_has_no_interfaces() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id().cast_signed();
        let dir = process_dir(pid, "").unwrap().unwrap();
        assert!(interfaces(pid, &dir).unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(interfaces(pid, &dir).unwrap(), None);
    }
}
