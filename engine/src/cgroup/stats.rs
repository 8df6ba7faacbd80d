//! What a container uses, read from files that stay open.
//!
//! One [`Stats`] for both kinds of host. A figure that this host does not have is `None` and never a
//! zero; [`crate::host`] tells why it is missing.

use std::{
    cell::RefCell,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode};
use serde::{Deserialize, Serialize};

use super::{
    Cgroup,
    dir::Dir,
    error::Error,
    mounts::{Mounts, V1},
    pressure::Pressure,
};
use crate::seq_file;

/// Figures of one container at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time; every kernel with a v2 cgroup accounts it.
    pub cpu: Cpu,
    /// Memory; `None` without a memory controller.
    pub memory: Option<Memory>,
    /// Tasks.
    pub pids: Pids,
    /// I/O by device, in the kernel's order; `None` without an io controller.
    pub io: Option<Vec<Device>>,
    /// CPU stalls; `None` without PSI.
    pub cpu_pressure: Option<Pressure>,
    /// Memory stalls; `None` without PSI.
    pub memory_pressure: Option<Pressure>,
    /// I/O stalls; `None` without PSI.
    pub io_pressure: Option<Pressure>,
}

/// CPU time in nanoseconds, which the kernel accounts in microseconds here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// All of it.
    pub usage: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// What a quota did; `None` without a cpu controller for this container.
    pub throttling: Option<Throttling>,
}

/// What a CPU quota did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Throttling {
    /// Periods in which something ran.
    pub periods: u64,
    /// Of those, how many hit the quota.
    pub throttled: u64,
    /// Nanoseconds stopped, summed over CPUs.
    pub throttled_time: u64,
    /// Periods that used saved-up quota; `None` before 5.15.
    pub bursts: Option<u64>,
    /// Nanoseconds so used.
    pub burst_time: Option<u64>,
}

/// Memory in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Charged now, page cache included.
    pub usage: u64,
    /// The lowest limit of this cgroup and those above it; `None` when unlimited.
    pub limit: Option<u64>,
    /// The most ever charged; `None` before 5.19 on v2.
    pub peak: Option<u64>,
    /// Swap in use; `None` without swap accounting.
    pub swap: Option<u64>,
    /// How often the limit was hit.
    pub failcnt: Option<u64>,
    /// Of what the usage is made.
    pub breakdown: Breakdown,
    /// Processes the kernel killed here.
    pub oom_kills: Option<u64>,
    /// How often `memory.high` throttled; v2 only.
    pub high_events: Option<u64>,
}

impl Stats {
    /// Whether nothing of the container has executed between an earlier reading and this one: no CPU time was used,
    /// and no task came or went. The kernel accounts microseconds here, and what forks, maps, opens or is killed
    /// takes longer than one. A task that is executing just now is accounted at the clock's next tick, so a reading
    /// may be behind by that much, and the one after it is not.
    pub fn rested_since(&self, earlier: &Self) -> bool {
        self.cpu.usage == earlier.cpu.usage && self.pids.current == earlier.pids.current
    }
}

impl Memory {
    /// What `docker stats` calls usage: without page cache that nobody uses.
    ///
    /// Source: docker/cli, `calculateMemUsageUnixNoCache`: usage minus (total_)inactive_file.
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.breakdown.inactive_file)
    }

    /// Takes over what a container that has rested cannot have changed.
    fn stays(&mut self, last: &Self) {
        // The kernel may have charged it for what it did on its behalf.
        self.peak = last.peak.map(|peak| peak.max(self.usage));
        self.failcnt = last.failcnt;
        self.oom_kills = last.oom_kills;
        self.high_events = last.high_events;
    }
}

/// Bytes by kind, and fault counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Breakdown {
    /// Anonymous memory.
    pub anon: u64,
    /// Page cache, tmpfs included.
    pub file: u64,
    /// tmpfs and shared memory, part of `file`.
    pub shmem: u64,
    /// File pages mapped into a process.
    pub mapped: u64,
    /// Cache waiting to be written.
    pub dirty: u64,
    /// Cache being written.
    pub writeback: u64,
    /// Cache of the LRU's cold end.
    pub inactive_file: u64,
    /// Cache of the LRU's hot end.
    pub active_file: u64,
    /// Anonymous memory of the cold end.
    pub inactive_anon: u64,
    /// Anonymous memory of the hot end.
    pub active_anon: u64,
    /// Locked.
    pub unevictable: u64,
    /// Kernel memory; v2 since 5.18.
    pub kernel: Option<u64>,
    /// Slab, part of `kernel`; v2 only.
    pub slab: Option<u64>,
    /// Kernel stacks, part of `kernel`; v2 only.
    pub kernel_stack: Option<u64>,
    /// Socket buffers; v2 only.
    pub sock: Option<u64>,
    /// Page faults.
    pub pgfault: u64,
    /// Page faults that read from a disk.
    pub pgmajfault: u64,
    /// File pages that came back soon after they were evicted.
    pub refault_file: Option<u64>,
    /// Anonymous pages that came back soon after they were swapped out.
    pub refault_anon: Option<u64>,
}

/// Tasks: processes and threads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// At most; `None` when unlimited, or not asked for.
    pub limit: Option<u64>,
}

/// I/O of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes discarded; `None` where the kernel does not say.
    pub discard_bytes: Option<u64>,
    /// Discards.
    pub discards: Option<u64>,
}

/// An open kernel file.
#[derive(Debug)]
struct Source {
    fd: OwnedFd,
    dir: Arc<Path>,
    name: &'static str,
}

impl Source {
    fn open(dir: &Dir, name: &'static str) -> Result<Option<Self>, Error> {
        Ok(dir.try_open_read(name)?.map(|fd| Self { fd, dir: dir.shared_path(), name }))
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    /// `None` when the kernel has the file and keeps no figure (PSI switched off).
    fn read<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<Option<&'b str>, Error> {
        let text = match seq_file::read_record(self.fd.as_fd(), buffer) {
            Ok(text) => text,
            Err(Errno::EOPNOTSUPP) => return Ok(None),
            Err(errno @ Errno::ENODEV) => {
                return Err(Error::Gone { path: self.dir.to_path_buf(), errno });
            }
            Err(errno) => return Err(Error::sys("pread", self.path(), errno)),
        };
        std::str::from_utf8(text).map(Some).map_err(|_| Error::parse(&self.path(), "not UTF-8"))
    }

    fn number(&self, buffer: &mut Vec<u8>) -> Result<Option<u64>, Error> {
        let Some(text) = self.read(buffer)? else { return Ok(None) };
        text.trim_end().parse().map(Some).map_err(|_| Error::parse(&self.path(), text))
    }

    /// `max` is `None`.
    fn ceiling(&self, buffer: &mut Vec<u8>) -> Result<Option<u64>, Error> {
        let Some(text) = self.read(buffer)? else { return Ok(None) };
        parse_ceiling(text).ok_or_else(|| Error::parse(&self.path(), text))
    }
}

/// `Some(None)` for `max`.
#[allow(clippy::option_option, reason = "the outer one is the parser's verdict, the inner one the value")]
pub(super) fn parse_ceiling(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "max" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// v1 says "no limit" as the largest number of pages, in bytes.
pub(super) fn v1_ceiling(bytes: u64) -> Option<u64> {
    // The page counter's maximum is LONG_MAX / PAGE_SIZE, whatever the page size up to 64 KiB.
    (bytes < i64::MAX as u64 & !0xffff).then_some(bytes)
}

#[derive(Debug)]
enum MemorySource {
    V1 {
        usage: Source,
        stat: Source,
        peak: Option<Source>,
        failcnt: Option<Source>,
        oom: Option<Source>,
        /// Its presence is swap accounting.
        swap_failcnt: Option<Source>,
    },
    V2 {
        usage: Source,
        stat: Source,
        limit: Source,
        peak: Option<Source>,
        swap: Option<Source>,
        events: Option<Source>,
    },
}

#[derive(Debug)]
enum IoSource {
    V1 { bytes: Source, operations: Option<Source> },
    V2(Source),
}

#[derive(Debug)]
enum PidsSource {
    Controller {
        current: Source,
        limit: Option<Source>,
    },
    /// No pids cgroup: threads are counted.
    Counted(Dir),
}

/// A container's figures, with its files kept open between readings.
///
/// A reading costs one `pread` a file. Files of a cgroup that is removed meanwhile give
/// [`Error::Gone`].
#[derive(Debug)]
pub struct Meter {
    cpu: Source,
    throttling: Option<Source>,
    memory: Option<MemorySource>,
    pids: PidsSource,
    io: Option<IoSource>,
    pressure: [Option<Source>; 3],
}

thread_local! {
    /// What files are read into, one for all meters of a thread: at 8 KiB each, a thousand of them would be
    /// more than their figures.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(8192));
}

impl Meter {
    /// `limits`: with the limit of tasks.
    fn open(cgroup: &Cgroup, limits: bool) -> Result<Self, Error> {
        let dir = &cgroup.dir;
        let must = |dir: &Dir, name: &'static str| {
            Ok(Source { fd: dir.open_read(name)?, dir: dir.shared_path(), name })
        };
        let memory = match cgroup.v1.get(V1::Memory) {
            Some(v1) => Some(MemorySource::V1 {
                usage: must(v1, "memory.usage_in_bytes")?,
                stat: must(v1, "memory.stat")?,
                peak: Source::open(v1, "memory.max_usage_in_bytes")?,
                failcnt: Source::open(v1, "memory.failcnt")?,
                oom: Source::open(v1, "memory.oom_control")?,
                swap_failcnt: Source::open(v1, "memory.memsw.failcnt")?,
            }),
            None => match Source::open(dir, "memory.current")? {
                Some(usage) => Some(MemorySource::V2 {
                    usage,
                    stat: must(dir, "memory.stat")?,
                    limit: must(dir, "memory.max")?,
                    peak: Source::open(dir, "memory.peak")?,
                    swap: Source::open(dir, "memory.swap.current")?,
                    events: Source::open(dir, "memory.events")?,
                }),
                None => None,
            },
        };
        let io = match cgroup.v1.get(V1::Blkio) {
            Some(v1) => match (
                Source::open(v1, "blkio.throttle.io_service_bytes_recursive")?,
                Source::open(v1, "blkio.throttle.io_serviced_recursive")?,
            ) {
                (Some(bytes), operations @ Some(_)) => Some(IoSource::V1 { bytes, operations }),
                _ => None,
            },
            None => Source::open(dir, "io.stat")?.map(IoSource::V2),
        };
        let pids_dir = cgroup.v1.get(V1::Pids).unwrap_or(dir);
        let pids = match Source::open(pids_dir, "pids.current")? {
            Some(current) => {
                let limit = if limits { Source::open(pids_dir, "pids.max")? } else { None };
                PidsSource::Controller { current, limit }
            }
            None => PidsSource::Counted(dir.reopen()?),
        };
        Ok(Self {
            cpu: must(dir, "cpu.stat")?,
            throttling: match cgroup.v1.get(V1::Cpu) {
                Some(v1) => Source::open(v1, "cpu.stat")?,
                None => None,
            },
            memory,
            pids,
            io,
            pressure: [
                Source::open(dir, "cpu.pressure")?,
                Source::open(dir, "memory.pressure")?,
                Source::open(dir, "io.pressure")?,
            ],
        })
    }

    /// The files of what a table shows, of the cgroup `relative` whose v2 directory is open. The others' files are
    /// opened by their paths: a directory that is opened and closed for one file or two costs more than walking
    /// to it twice.
    pub(super) fn brief(mounts: &Mounts, relative: &Path, dir: &Dir) -> Result<Self, Error> {
        let v1 = |controller: V1, name: &'static str| {
            let Some(mount) = mounts.v1(controller) else { return Ok(None) };
            let dir = mount.join(relative);
            let path = dir.join(name);
            match nix::fcntl::open(
                &path,
                OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
                Mode::empty(),
            ) {
                Ok(fd) => Ok(Some(Source { fd, dir: dir.into(), name })),
                // No cgroup of its own in this hierarchy.
                Err(Errno::ENOENT | Errno::ENODEV) => Ok(None),
                Err(errno) => Err(Error::sys("open", path, errno)),
            }
        };
        let v2 = |name: &'static str| Source::open(dir, name);
        let gone = || Error::Gone { path: dir.path().into(), errno: Errno::ENOENT };
        let memory = match (v1(V1::Memory, "memory.usage_in_bytes")?, v1(V1::Memory, "memory.stat")?) {
            (Some(usage), Some(stat)) => Some(MemorySource::V1 {
                usage,
                stat,
                peak: None,
                failcnt: None,
                oom: None,
                swap_failcnt: None,
            }),
            _ => match v2("memory.current")? {
                Some(usage) => Some(MemorySource::V2 {
                    usage,
                    stat: v2("memory.stat")?.ok_or_else(gone)?,
                    limit: v2("memory.max")?.ok_or_else(gone)?,
                    peak: None,
                    swap: None,
                    events: None,
                }),
                None => None,
            },
        };
        let io = match v1(V1::Blkio, "blkio.throttle.io_service_bytes_recursive")? {
            Some(bytes) => Some(IoSource::V1 { bytes, operations: None }),
            None => v2("io.stat")?.map(IoSource::V2),
        };
        let pids = match v1(V1::Pids, "pids.current")? {
            Some(current) => Some(current),
            None => v2("pids.current")?,
        };
        Ok(Self {
            cpu: v2("cpu.stat")?.ok_or_else(gone)?,
            throttling: None,
            memory,
            pids: match pids {
                Some(current) => PidsSource::Controller { current, limit: None },
                None => PidsSource::Counted(dir.reopen()?),
            },
            io,
            pressure: [None, None, None],
        })
    }

    /// All figures, now.
    pub fn read(&self) -> Result<Stats, Error> {
        BUFFER.with_borrow_mut(|buffer| self.read_with(None, buffer))
    }

    /// All figures, now, of a container whose `last` figures are known: if it has rested since, those that only its
    /// own execution changes are taken from there, which on a hybrid host saves six files of fourteen. Most containers
    /// of most hosts rest between most readings.
    pub fn read_again(&self, last: &Stats) -> Result<Stats, Error> {
        BUFFER.with_borrow_mut(|buffer| self.read_with(Some(last), buffer))
    }

    fn read_with(&self, last: Option<&Stats>, buffer: &mut Vec<u8>) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        let text = self.cpu.read(buffer)?.unwrap_or_default();
        stats.cpu = cpu_of(text).ok_or_else(|| Error::parse(&self.cpu.path(), text))?;
        stats.pids = match &self.pids {
            PidsSource::Controller { current, limit } => Pids {
                current: current.number(buffer)?.unwrap_or_default(),
                limit: match limit {
                    Some(limit) => limit.ceiling(buffer)?,
                    None => None,
                },
            },
            PidsSource::Counted(dir) => Pids { current: count_threads(dir)?, limit: None },
        };
        let last = last.filter(|last| stats.rested_since(last));
        if let Some(source) = &self.throttling {
            stats.cpu.throttling = match last {
                Some(last) => last.cpu.throttling.clone(),
                None => source.read(buffer)?.and_then(throttling_of),
            };
        }
        if let Some(source) = &self.memory {
            stats.memory = Some(source.read(last.and_then(|last| last.memory.as_ref()), buffer)?);
        }
        stats.io = match &self.io {
            Some(source) => source.read(last.and_then(|last| last.io.as_deref()), buffer)?,
            None => None,
        };
        let [cpu, memory, io] = &self.pressure;
        for (source, into) in [
            (cpu, &mut stats.cpu_pressure),
            (memory, &mut stats.memory_pressure),
            (io, &mut stats.io_pressure),
        ] {
            if let Some(source) = source
                && let Some(text) = source.read(buffer)?
            {
                *into = Some(Pressure::of(&source.path(), text)?);
            }
        }
        Ok(stats)
    }
}

/// The lowest `memory.max` of a v2 cgroup and those above it. v1 keeps it as `hierarchical_memory_limit`, v2 leaves
/// it to the reader. Containers lie side by side, so one answer does for all of a reading.
fn limit_above(dir: &Path) -> Option<u64> {
    const FRESH: Duration = Duration::from_secs(1);
    thread_local! {
        static LAST: RefCell<Option<(PathBuf, Instant, Option<u64>)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some((of, when, limit)) if of == dir && when.elapsed() < FRESH => *limit,
        _ => {
            let limit = lowest_limit(dir);
            *last = Some((dir.to_owned(), Instant::now(), limit));
            limit
        }
    })
}

/// Up to the first directory without one: the root, or where the controller is not given on.
fn lowest_limit(dir: &Path) -> Option<u64> {
    let limits = dir.ancestors().map_while(|dir| std::fs::read_to_string(dir.join("memory.max")).ok());
    limits.filter_map(|text| parse_ceiling(&text)?).min()
}

impl IoSource {
    /// `last` is of a container that has rested since: if no more bytes went to a device, by the kernel's writing back,
    /// then nothing else did.
    fn read(&self, last: Option<&[Device]>, buffer: &mut Vec<u8>) -> Result<Option<Vec<Device>>, Error> {
        match self {
            Self::V2(source) => match source.read(buffer)? {
                Some(text) => io_stat(text).map(Some).ok_or_else(|| Error::parse(&source.path(), text)),
                None => Ok(None),
            },
            Self::V1 { bytes, operations } => {
                let mut devices = Vec::new();
                let take = |source: &Source, in_bytes, buffer: &mut Vec<u8>, devices: &mut Vec<Device>| {
                    let Some(text) = source.read(buffer)? else { return Ok(()) };
                    blkio(text, in_bytes, devices).ok_or_else(|| Error::parse(&source.path(), text))
                };
                take(bytes, true, buffer, &mut devices)?;
                let moved =
                    |of: &Device| (of.major, of.minor, of.read_bytes, of.write_bytes, of.discard_bytes);
                match (operations, last) {
                    (Some(_), Some(last)) if last.iter().map(moved).eq(devices.iter().map(moved)) => {
                        devices.copy_from_slice(last);
                    }
                    (Some(operations), _) => take(operations, false, buffer, &mut devices)?,
                    (None, _) => {}
                }
                Ok(Some(devices))
            }
        }
    }
}

impl MemorySource {
    /// `last` is of a container that has rested since.
    fn read(&self, last: Option<&Memory>, buffer: &mut Vec<u8>) -> Result<Memory, Error> {
        let optional = |source: &Option<Source>, buffer: &mut Vec<u8>| match source {
            Some(source) => source.number(buffer),
            None => Ok(None),
        };
        let mut memory = Memory::default();
        match self {
            Self::V1 { usage, stat, peak, failcnt, oom, swap_failcnt } => {
                memory.usage = usage.number(buffer)?.unwrap_or_default();
                let text = stat.read(buffer)?.unwrap_or_default();
                memory_stat_v1(text, swap_failcnt.is_some(), &mut memory)
                    .ok_or_else(|| Error::parse(&stat.path(), text))?;
                if let Some(last) = last {
                    memory.stays(last);
                    return Ok(memory);
                }
                memory.peak = optional(peak, buffer)?;
                // With swap forbidden (memory = memory+swap) it is the sum's counter that refuses; a
                // refused page is counted by one of the two.
                memory.failcnt = match (optional(failcnt, buffer)?, optional(swap_failcnt, buffer)?) {
                    (Some(memory), swap) => Some(memory + swap.unwrap_or_default()),
                    (None, swap) => swap,
                };
                if let Some(oom) = oom {
                    memory.oom_kills = oom.read(buffer)?.and_then(|text| super::flat_key(text, "oom_kill"));
                }
            }
            Self::V2 { usage, stat, limit, peak, swap, events } => {
                memory.usage = usage.number(buffer)?.unwrap_or_default();
                let text = stat.read(buffer)?.unwrap_or_default();
                memory_stat_v2(text, &mut memory.breakdown)
                    .ok_or_else(|| Error::parse(&stat.path(), text))?;
                let above = limit.dir.parent().and_then(limit_above);
                memory.limit = [limit.ceiling(buffer)?, above].into_iter().flatten().min();
                memory.swap = optional(swap, buffer)?;
                if let Some(last) = last {
                    memory.stays(last);
                    return Ok(memory);
                }
                memory.peak = optional(peak, buffer)?;
                if let Some(events) = events {
                    let text = events.read(buffer)?.unwrap_or_default();
                    memory.failcnt = super::flat_key(text, "max");
                    memory.oom_kills = super::flat_key(text, "oom_kill");
                    memory.high_events = super::flat_key(text, "high");
                }
            }
        }
        Ok(memory)
    }
}

impl Cgroup {
    /// Opens this container's files for repeated reading.
    pub fn meter(&self) -> Result<Meter, Error> {
        Meter::open(self, true)
    }

    /// Without the limit of tasks, for whoever reads all limits by [`Cgroup::limits`] at its own pace.
    pub fn usage_meter(&self) -> Result<Meter, Error> {
        Meter::open(self, false)
    }

    /// All figures, once. To read again and again, keep a [`Meter`].
    pub fn stats(&self) -> Result<Stats, Error> {
        self.meter()?.read()
    }
}

fn count_threads(dir: &Dir) -> Result<u64, Error> {
    let mut count = dir.read_list("cgroup.threads")?.lines().count() as u64;
    for name in dir.children()? {
        if let Some(child) = dir.child(&name)? {
            match count_threads(&child) {
                Ok(more) => count += more,
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(count)
}

/// Pairs of a flat keyed file; a line that is none ends the parse with `None`.
fn pairs(text: &str) -> impl Iterator<Item = Option<(&str, u64)>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let line = std::mem::take(&mut rest);
        (!line.is_empty()).then(|| {
            let (key, value, after) = pair(line)?;
            rest = after;
            Some((key, value))
        })
    })
}

/// The first line's key and number, and what comes after it. Each byte is looked at once: most of what a container's
/// files say is such lines, and to find a line, its blank and its number one after the other took a tenth of the
/// processor's time outside the kernel.
fn pair(text: &str) -> Option<(&str, u64, &str)> {
    let bytes = text.as_bytes();
    let blank = bytes.iter().position(|byte| matches!(byte, b' ' | b'\n'))?;
    let mut value = None;
    let mut at = blank;
    loop {
        at += 1;
        match bytes.get(at) {
            Some(digit @ b'0'..=b'9') => {
                let digit = u64::from(digit - b'0');
                value = Some(value.unwrap_or(0_u64).checked_mul(10)?.checked_add(digit)?);
            }
            Some(b'\n') | None => break,
            Some(_) => return None,
        }
    }
    let after = text.get(at + 1..).unwrap_or_default();
    if bytes[blank] == b' ' { Some((&text[..blank], value?, after)) } else { None }
}

fn cpu_of(text: &str) -> Option<Cpu> {
    let mut cpu = Cpu::default();
    let mut usage = None;
    for pair in pairs(text) {
        let (key, value) = pair?;
        let ns = value.saturating_mul(1000);
        match key {
            "usage_usec" => usage = Some(ns),
            "user_usec" => cpu.user = ns,
            "system_usec" => cpu.system = ns,
            _ => {}
        }
    }
    cpu.usage = usage?;
    cpu.throttling = throttling_of(text);
    Some(cpu)
}

/// From `cpu.stat` of either version: microseconds on v2, nanoseconds on v1.
fn throttling_of(text: &str) -> Option<Throttling> {
    let mut found = Throttling::default();
    let mut periods = None;
    for pair in pairs(text) {
        let (key, value) = pair?;
        match key {
            "nr_periods" => periods = Some(value),
            "nr_throttled" => found.throttled = value,
            "throttled_usec" => found.throttled_time = value.saturating_mul(1000),
            "throttled_time" => found.throttled_time = value,
            "nr_bursts" => found.bursts = Some(value),
            "burst_usec" => found.burst_time = Some(value.saturating_mul(1000)),
            "burst_time" => found.burst_time = Some(value),
            _ => {}
        }
    }
    found.periods = periods?;
    Some(found)
}

fn memory_stat_v2(text: &str, to: &mut Breakdown) -> Option<()> {
    let mut seen = false;
    for pair in pairs(text) {
        let (key, value) = pair?;
        match key {
            "anon" => {
                to.anon = value;
                seen = true;
            }
            "file" => to.file = value,
            "kernel" => to.kernel = Some(value),
            "kernel_stack" => to.kernel_stack = Some(value),
            "slab" => to.slab = Some(value),
            "sock" => to.sock = Some(value),
            "shmem" => to.shmem = value,
            "file_mapped" => to.mapped = value,
            "file_dirty" => to.dirty = value,
            "file_writeback" => to.writeback = value,
            "inactive_anon" => to.inactive_anon = value,
            "active_anon" => to.active_anon = value,
            "inactive_file" => to.inactive_file = value,
            "active_file" => to.active_file = value,
            "unevictable" => to.unevictable = value,
            "pgfault" => to.pgfault = value,
            "pgmajfault" => to.pgmajfault = value,
            "workingset_refault_file" => to.refault_file = Some(value),
            "workingset_refault_anon" => to.refault_anon = Some(value),
            _ => {}
        }
    }
    seen.then_some(())
}

/// The `total_` lines include the cgroups below, as v2's lines do.
fn memory_stat_v1(text: &str, swap_accounted: bool, memory: &mut Memory) -> Option<()> {
    let mut seen = false;
    let to = &mut memory.breakdown;
    for pair in pairs(text) {
        let (key, value) = pair?;
        match key {
            "hierarchical_memory_limit" => {
                memory.limit = v1_ceiling(value);
                seen = true;
            }
            "total_rss" => to.anon = value,
            "total_cache" => to.file = value,
            "total_shmem" => to.shmem = value,
            "total_mapped_file" => to.mapped = value,
            "total_dirty" => to.dirty = value,
            "total_writeback" => to.writeback = value,
            "total_swap" if swap_accounted => memory.swap = Some(value),
            "total_inactive_anon" => to.inactive_anon = value,
            "total_active_anon" => to.active_anon = value,
            "total_inactive_file" => to.inactive_file = value,
            "total_active_file" => to.active_file = value,
            "total_unevictable" => to.unevictable = value,
            "total_pgfault" => to.pgfault = value,
            "total_pgmajfault" => to.pgmajfault = value,
            "total_workingset_refault_file" => to.refault_file = Some(value),
            "total_workingset_refault_anon" => to.refault_anon = Some(value),
            _ => {}
        }
    }
    seen.then_some(())
}

pub(super) fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`. A device with nothing to tell has
/// no fields, and one whose name is gone is called `(unknown)`.
fn io_stat(text: &str) -> Option<Vec<Device>> {
    let mut devices = Vec::new();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?;
        let Some((major, minor)) = device_number(name) else {
            if name == "(unknown)" {
                continue;
            }
            return None;
        };
        let mut device = Device { major, minor, ..Device::default() };
        for field in fields {
            let (key, value) = field.split_once('=')?;
            let into = match key {
                "rbytes" => &mut device.read_bytes,
                "wbytes" => &mut device.write_bytes,
                "rios" => &mut device.reads,
                "wios" => &mut device.writes,
                "dbytes" => device.discard_bytes.insert(0),
                "dios" => device.discards.insert(0),
                _ => continue,
            };
            *into = value.parse().ok()?;
        }
        devices.push(device);
    }
    Some(devices)
}

/// `blkio.throttle.io_service_bytes`: `8:0 Read 4096`, and a `Total` line.
fn blkio(text: &str, bytes: bool, devices: &mut Vec<Device>) -> Option<()> {
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next()?;
        if first == "Total" {
            continue;
        }
        let (major, minor) = device_number(first)?;
        let (operation, value) = (fields.next()?, fields.next()?.parse::<u64>().ok()?);
        let at = devices.iter().position(|d| (d.major, d.minor) == (major, minor)).unwrap_or_else(|| {
            devices.push(Device { major, minor, ..Device::default() });
            devices.len() - 1
        });
        let device = &mut devices[at];
        match (operation, bytes) {
            ("Read", true) => device.read_bytes = value,
            ("Write", true) => device.write_bytes = value,
            ("Discard", true) => device.discard_bytes = Some(value),
            ("Read", false) => device.reads = value,
            ("Write", false) => device.writes = value,
            ("Discard", false) => device.discards = Some(value),
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
fn fake(dir: &std::path::Path, name: &'static str, text: &str) -> Source {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    Source { fd: std::fs::File::open(&path).unwrap().into(), dir: dir.into(), name }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A meter of files that this test writes.
    fn meter(dir: &Path, is_v2: bool) -> Meter {
        let source = |name, text| fake(dir, name, text);
        let some = |name, text| Some(source(name, text));
        let memory = if is_v2 {
            MemorySource::V2 {
                usage: source("memory.current", "4096\n"),
                stat: source("memory.stat", "anon 4096\n"),
                limit: source("memory.max", "max\n"),
                peak: some("memory.peak", "8192\n"),
                swap: some("memory.swap.current", "0\n"),
                events: some("memory.events", "high 0\nmax 1\noom 0\noom_kill 0\n"),
            }
        } else {
            MemorySource::V1 {
                usage: source("memory.usage_in_bytes", "4096\n"),
                stat: source("memory.stat", "hierarchical_memory_limit 8192\ntotal_rss 4096\n"),
                peak: some("memory.max_usage_in_bytes", "8192\n"),
                failcnt: some("memory.failcnt", "1\n"),
                oom: some("memory.oom_control", "oom_kill 0\n"),
                swap_failcnt: None,
            }
        };
        Meter {
            cpu: source("cpu.stat", "usage_usec 10\nuser_usec 6\nsystem_usec 4\n"),
            throttling: some("v1.cpu.stat", "nr_periods 5\nnr_throttled 1\nthrottled_time 7\n"),
            memory: Some(memory),
            pids: PidsSource::Controller { current: source("pids.current", "2\n"), limit: None },
            io: Some(if is_v2 {
                IoSource::V2(source("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"))
            } else {
                IoSource::V1 {
                    bytes: source("blkio.bytes", "8:0 Read 1\n8:0 Write 2\nTotal 3\n"),
                    operations: some("blkio.operations", "8:0 Read 3\n8:0 Write 4\nTotal 7\n"),
                }
            }),
            pressure: [
                None,
                some("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
                None,
            ],
        }
    }

    #[test]
    fn only_what_a_rest_cannot_change_is_taken_from_the_reading_before() {
        for is_v2 in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let meter = meter(dir.path(), is_v2);
            let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
            let first = meter.read().unwrap();
            assert_eq!(meter.read_again(&first).unwrap(), first);
            // As if it had changed by itself: nobody looks.
            write("v1.cpu.stat", "nr_periods 6\nnr_throttled 2\nthrottled_time 8\n");
            write("memory.peak", "9000\n");
            write("memory.max_usage_in_bytes", "9000\n");
            write("memory.failcnt", "2\n");
            write("memory.events", "high 0\nmax 2\noom 0\noom_kill 0\n");
            write("blkio.operations", "8:0 Read 30\n8:0 Write 40\nTotal 70\n");
            assert_eq!(meter.read_again(&first).unwrap(), first, "v2: {is_v2}");
            // What others do to it is seen: reclaim, writing back, stalls.
            let usage = if is_v2 { "memory.current" } else { "memory.usage_in_bytes" };
            write(usage, "8500\n");
            write("blkio.bytes", "8:0 Read 1\n8:0 Write 20\nTotal 21\n");
            write("io.stat", "8:0 rbytes=1 wbytes=20 rios=30 wios=40 dbytes=0 dios=0\n");
            write("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=2\n");
            let second = meter.read_again(&first).unwrap();
            assert!(second.rested_since(&first));
            let (memory, device) = (second.memory.as_ref().unwrap(), second.io.as_ref().unwrap()[0]);
            assert_eq!((memory.usage, memory.peak, memory.failcnt), (8500, Some(8500), Some(1)));
            assert_eq!((device.write_bytes, device.reads, device.writes), (20, 30, 40));
            assert_eq!(second.memory_pressure.unwrap().some.total, 2);
            // A microsecond, or a task that came or went, and all is read.
            for (name, text, before) in [
                ("cpu.stat", "usage_usec 11\nuser_usec 7\nsystem_usec 4\n", &second),
                ("pids.current", "1\n", &second),
            ] {
                write(name, text);
                let again = meter.read_again(before).unwrap();
                assert!(!again.rested_since(before), "{name}");
                assert_eq!(again, meter.read().unwrap(), "{name}");
                assert_eq!(again.cpu.throttling.as_ref().unwrap().periods, 6, "{name}");
                assert_eq!(again.memory.as_ref().unwrap().peak, Some(9000), "{name}");
            }
        }
    }

    #[test]
    fn cpu_stat_of_both_versions() {
        let v2 = "usage_usec 12\nuser_usec 7\nsystem_usec 5\nnice_usec 0\ncore_sched.force_idle_usec 0\n\
            nr_periods 10\nnr_throttled 3\nthrottled_usec 44\nnr_bursts 1\nburst_usec 2\n";
        let cpu = cpu_of(v2).unwrap();
        assert_eq!((cpu.usage, cpu.user, cpu.system), (12_000, 7_000, 5_000));
        let throttling = cpu.throttling.unwrap();
        assert_eq!((throttling.periods, throttling.throttled, throttling.throttled_time), (10, 3, 44_000));
        assert_eq!((throttling.bursts, throttling.burst_time), (Some(1), Some(2_000)));
        // Without the controller there is no throttling to tell of, rather than none that happened.
        assert_eq!(cpu_of("usage_usec 12\nuser_usec 7\nsystem_usec 5\n").unwrap().throttling, None);
        let v1 = throttling_of("nr_periods 2\nnr_throttled 1\nthrottled_time 99\n").unwrap();
        assert_eq!((v1.throttled_time, v1.bursts), (99, None));
        for odd in ["", "usage_usec\n", "usage_usec x\n", "usage_usec -1\n", "user_usec 3\n", "\n"] {
            assert_eq!(cpu_of(odd), None, "{odd:?}");
        }
        assert_eq!(cpu_of("usage_usec 18446744073709551615\n").unwrap().usage, u64::MAX);
    }

    #[test]
    fn memory_stat_of_both_versions() {
        let mut v2 = Breakdown::default();
        memory_stat_v2("anon 4096\nfile 8192\nkernel 100\ninactive_file 5000\nnew_in_7_0 1\n", &mut v2)
            .unwrap();
        assert_eq!(
            (v2.anon, v2.file, v2.kernel, v2.inactive_file, v2.sock),
            (4096, 8192, Some(100), 5000, None)
        );

        let mut v1 = Memory { usage: 6000, ..Memory::default() };
        let text = "cache 1\nhierarchical_memory_limit 9223372036854771712\ntotal_rss 7\ntotal_inactive_file 5000\ntotal_swap 3\n";
        memory_stat_v1(text, true, &mut v1).unwrap();
        assert_eq!((v1.limit, v1.breakdown.anon, v1.swap, v1.working_set()), (None, 7, Some(3), 1000));
        let mut unaccounted = Memory::default();
        memory_stat_v1(text, false, &mut unaccounted).unwrap();
        assert_eq!(unaccounted.swap, None);

        for odd in ["", "anon", "anon  \n", "anon 1 2\n", "anon 99999999999999999999999\n"] {
            assert_eq!(memory_stat_v2(odd, &mut Breakdown::default()), None, "{odd:?}");
            assert_eq!(memory_stat_v1(odd, true, &mut Memory::default()), None, "{odd:?}");
        }
        assert_eq!(v1_ceiling(6 << 20), Some(6 << 20));
        // The same "unlimited" with 64 KiB pages.
        assert_eq!(v1_ceiling(0x7fff_ffff_ffff_0000), None);
        assert_eq!((parse_ceiling("max\n"), parse_ceiling("7\n")), (Some(None), Some(Some(7))));
        assert_eq!((parse_ceiling(""), parse_ceiling("maximum")), (None, None));
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("slice/parent");
        std::fs::create_dir_all(&dir).unwrap();
        let put = |path: &str, limit: &str| {
            std::fs::write(root.path().join(path).join("memory.max"), limit).unwrap();
        };
        assert_eq!(lowest_limit(&dir), None, "the controller is not here");
        for (slice, parent, lowest) in [
            ("max\n", "max\n", None),
            ("1000\n", "max\n", Some(1000)),
            ("1000\n", "2000\n", Some(1000)),
            ("3000\n", "2000\n", Some(2000)),
            ("odd\n", "2000\n", Some(2000)),
        ] {
            put("slice", slice);
            put("slice/parent", parent);
            assert_eq!(lowest_limit(&dir), lowest, "{slice:?} {parent:?}");
        }
    }

    #[test]
    fn io_of_both_versions() {
        let v2 =
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7\n253:1 \n(unknown) rbytes=1\n";
        let devices = io_stat(v2).unwrap();
        assert_eq!(devices.len(), 2);
        assert_eq!((devices[0].read_bytes, devices[0].discards), (1, Some(6)));
        assert_eq!((devices[1].major, devices[1].discards), (253, None));

        let mut v1 = Vec::new();
        blkio(
            "254:0 Read 10\n254:0 Write 20\n254:0 Sync 30\n254:0 Discard 1\n254:0 Total 31\nTotal 31\n",
            true,
            &mut v1,
        )
        .unwrap();
        blkio("254:0 Read 1\n7:0 Write 2\nTotal 3\n", false, &mut v1).unwrap();
        assert_eq!(v1.len(), 2);
        assert_eq!((v1[0].read_bytes, v1[0].write_bytes, v1[0].reads), (10, 20, 1));
        assert_eq!((v1[1].major, v1[1].writes), (7, 2));

        for odd in ["8 rbytes=1\n", "8:x rbytes=1\n", "8:0 rbytes\n", "8:0 rbytes=z\n", "\n"] {
            assert_eq!(io_stat(odd), None, "{odd:?}");
        }
        for odd in ["8:0 Read\n", "8:0\n", "8:0 Read x\n", "\n", "-1:0 Read 1\n"] {
            assert_eq!(blkio(odd, true, &mut Vec::new()), None, "{odd:?}");
        }
    }

    #[test]
    fn a_file_longer_than_the_buffer_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let long = "8:0 rbytes=1\n".repeat(5000);
        let source = fake(dir.path(), "io.stat", &long);
        let mut buffer = Vec::new();
        assert_eq!(source.read(&mut buffer).unwrap(), Some(long.as_str()));
        assert_eq!(source.read(&mut buffer).unwrap().map(str::len), Some(long.len()), "from the start again");
    }
}
