//! Whether limits hold on this host: each one asked for, run into, and measured.
//!
//! A file that takes a value proves nothing. So a process of our own, in a cgroup of its own below the
//! containers' parent, tries to have more than it may, and what it got is read from outside. No image is
//! needed. The processes die with the caller, and cgroups that a killed caller left are removed by the
//! next run.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use oci_spec::runtime::LinuxResources;
use serde::Serialize;

use super::{
    Cgroup, Error, Mounts, Warning, clean_parent, dir::Dir, mounts::V1, resources, weight_of_shares,
};
use crate::config::{Resources, ThrottleDevice};

/// What came of one limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "reason")]
pub enum Verdict {
    /// Nobody got more than was allowed.
    Holds,
    /// Somebody did, or got far less.
    Fails(String),
    /// The host was too busy to tell.
    Inconclusive(String),
    /// This host cannot limit that.
    NotSupported(String),
}

/// One line of the proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The limit.
    pub limit: &'static str,
    /// What was asked for.
    pub asked: String,
    /// What was measured; empty when nothing was.
    pub measured: String,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Bytes of the memory test's limit.
const MEMORY: u64 = 32 << 20;
/// How long CPU time is measured.
const MEASURE: Duration = Duration::from_secs(4);
/// Bytes a second of the I/O test's limit, and bytes it writes.
const RATE: u64 = 2 << 20;
const WRITTEN: u64 = 8 << 20;
const PREFIX: &str = "check-limits-";

/// Runs the whole proof below `parent`; `directory` is where the I/O test may write. The caller must be
/// single-threaded.
pub fn run(parent: &str, directory: &Path) -> Result<Vec<Row>, Error> {
    sweep(parent)?;
    let rows = [memory, quota, shares, pids, cpuset].map(|test| test(parent));
    let mut all = rows.into_iter().collect::<Result<Vec<_>, _>>()?;
    all.push(io(parent, directory)?);
    Ok(all)
}

/// Removes what a killed run has left.
fn sweep(parent: &str) -> Result<(), Error> {
    let relative = clean_parent(parent)?;
    let Some(dir) = Dir::find(&Mounts::find()?.v2, &relative)? else { return Ok(()) };
    for name in dir.children()? {
        let name = name.to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            Cgroup::open(parent, &name)?.remove()?;
        }
    }
    Ok(())
}

/// A cgroup that is removed with whoever is in it.
struct Room(Option<Cgroup>);

impl Room {
    /// The limit in force, or why it cannot be.
    fn new(parent: &str, name: &str, limits: &Resources) -> Result<Result<Self, String>, Error> {
        let limits: LinuxResources = match resources::of(limits) {
            Ok(limits) => limits,
            Err(invalid) => return Ok(Err(invalid.to_string())),
        };
        let name = format!("{PREFIX}{}-{name}", std::process::id());
        match Cgroup::create(parent, &name, &limits) {
            Ok((cgroup, warnings)) => {
                let room = Self(Some(cgroup));
                Ok(match warnings.into_iter().next() {
                    Some(Warning(fact)) => Err(fact.to_string()),
                    None => Ok(room),
                })
            }
            Err(Error::Unsupported(fact)) => Ok(Err(fact.to_string())),
            Err(other) => Err(other),
        }
    }

    fn cgroup(&self) -> &Cgroup {
        self.0.as_ref().expect("taken only by drop")
    }

    /// Nanoseconds of CPU time so far.
    fn cpu(&self) -> Result<u64, Error> {
        Ok(self.cgroup().meter()?.read()?.cpu.usage)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0.take() {
            // What could not be removed is removed by the next run.
            let _ = cgroup.remove();
        }
    }
}

/// Memory that a child shares with us: the figures it reports.
struct Shared(*mut AtomicU64);

impl Shared {
    fn new() -> Result<Self, Error> {
        Ok(Self(map(4096, libc::MAP_SHARED)?.cast()))
    }

    fn figures(&self) -> &[AtomicU64; 4] {
        // SAFETY: a page of zeros that stays mapped until drop, and four atomics fit into it.
        unsafe { &*self.0.cast() }
    }

    fn get(&self, n: usize) -> u64 {
        self.figures()[n].load(Ordering::Relaxed)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody refers to it any more.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

fn map(length: usize, kind: libc::c_int) -> Result<*mut libc::c_void, Error> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), length, access, kind | libc::MAP_ANONYMOUS, -1, 0) };
    if page == libc::MAP_FAILED { Err(Error::sys("mmap", "anonymous", Errno::last())) } else { Ok(page) }
}

/// A process in a room, killed and reaped when it goes out of scope.
struct Guest(Pid);

impl Guest {
    /// Forks; the child enters the cgroup, runs `body` and exits with what it returns.
    fn new(room: &Room, body: impl FnOnce() -> i32) -> Result<Self, Error> {
        let attach = room.cgroup().attach()?;
        let procs = room.cgroup().dir.open_write("cgroup.procs")?;
        // SAFETY: this process has one thread, so the child may go on as it likes.
        match unsafe { nix::unistd::fork() } {
            Ok(ForkResult::Parent { child }) => Ok(Self(child)),
            Ok(ForkResult::Child) => {
                // SAFETY: no memory is involved.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                let entered = attach
                    .tasks
                    .iter()
                    .chain(std::iter::once(&procs))
                    .all(|file| nix::unistd::write(file, b"0") == Ok(1));
                let code = if entered { body() } else { 99 };
                // SAFETY: the parent's exit handlers are not the child's to run.
                unsafe { libc::_exit(code) }
            }
            Err(errno) => Err(Error::sys("fork", "", errno)),
        }
    }

    fn wait(self) -> Result<WaitStatus, Error> {
        let pid = self.0;
        std::mem::forget(self);
        loop {
            match waitpid(pid, None) {
                Err(Errno::EINTR) => {}
                other => return other.map_err(|errno| Error::sys("waitpid", pid.to_string(), errno)),
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

fn row(limit: &'static str, asked: &str, measured: String, verdict: Verdict) -> Row {
    Row { limit, asked: asked.into(), measured, verdict }
}

fn refused(limit: &'static str, asked: &str, why: String) -> Row {
    row(limit, asked, String::new(), Verdict::NotSupported(why))
}

fn memory(parent: &str) -> Result<Row, Error> {
    let (limit, asked) = ("memory", "32MiB");
    let resources = Resources { memory: MEMORY as i64, memory_swap: MEMORY as i64, ..Resources::default() };
    let room = match Room::new(parent, limit, &resources)? {
        Ok(room) => room,
        Err(why) => return Ok(refused(limit, asked, why)),
    };
    let shared = Shared::new()?;
    let guest = Guest::new(&room, || {
        let length = 2 * MEMORY as usize;
        let Ok(memory) = map(length, libc::MAP_PRIVATE) else { return 98 };
        for at in (0..length).step_by(4096) {
            // SAFETY: inside the mapping just made.
            unsafe { memory.cast::<u8>().add(at).write_volatile(1) };
            shared.figures()[0].store(at as u64 + 4096, Ordering::Relaxed);
        }
        0
    })?;
    let status = guest.wait()?;
    let kills = room.cgroup().oom_kills()?.unwrap_or(0);
    let got = shared.get(0);
    let killed = matches!(status, WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGKILL, _));
    let verdict = if killed && kills > 0 && got > 0 && got <= MEMORY {
        Verdict::Holds
    } else {
        Verdict::Fails(format!("{status:?}, {kills} OOM kills"))
    };
    Ok(row(limit, asked, format!("OOM-killed at {:.1}MiB", got as f64 / f64::from(1 << 20)), verdict))
}

fn spin() -> i32 {
    loop {
        std::hint::spin_loop();
    }
}

fn quota(parent: &str) -> Result<Row, Error> {
    let (limit, asked, cpus) = ("cpu quota", "0.250 CPUs", 0.25);
    let resources = Resources { nano_cpus: 250_000_000, ..Resources::default() };
    let room = match Room::new(parent, "quota", &resources)? {
        Ok(room) => room,
        Err(why) => return Ok(refused(limit, asked, why)),
    };
    let _guest = Guest::new(&room, spin)?;
    // The first period begins with a full quota, whenever it begins.
    std::thread::sleep(Duration::from_millis(500));
    let (began, before) = (Instant::now(), room.cgroup().meter()?.read()?.cpu);
    std::thread::sleep(MEASURE);
    let (took, after) = (began.elapsed(), room.cgroup().meter()?.read()?.cpu);
    let got = (after.usage - before.usage) as f64 / took.as_nanos() as f64;
    let throttled = match (&before.throttling, &after.throttling) {
        (Some(before), Some(after)) => {
            (after.throttled - before.throttled) as f64 / (after.periods - before.periods).max(1) as f64
        }
        _ => 0.0,
    };
    Ok(row(
        limit,
        asked,
        format!("{got:.3} CPUs over {:.1}s", took.as_secs_f64()),
        judge_quota(got, cpus, throttled),
    ))
}

/// `throttled` is the share of periods in which the quota was used up.
fn judge_quota(got: f64, asked: f64, throttled: f64) -> Verdict {
    let off = (got / asked - 1.0) * 100.0;
    if off.abs() <= 3.0 {
        Verdict::Holds
    } else if off < 0.0 && throttled < 0.95 {
        Verdict::Inconclusive(format!(
            "{off:.1} %: other work left it too little CPU time, the quota was used up in {:.0} % of periods",
            throttled * 100.0
        ))
    } else {
        Verdict::Fails(format!("{off:+.1} %"))
    }
}

fn shares(parent: &str) -> Result<Row, Error> {
    let (limit, asked) = ("cpu shares", "512 : 1024");
    let resources = |cpu_shares| Resources { cpu_shares, ..Resources::default() };
    let cpu = allowed_cpus()?[0];
    let mut rooms = Vec::new();
    for (name, shares) in [("less", 512), ("more", 1024)] {
        match Room::new(parent, name, &resources(shares))? {
            Ok(room) => rooms.push(room),
            Err(why) => return Ok(refused(limit, asked, why)),
        }
    }
    // On one CPU, or two of them would not compete at all.
    let body = || {
        let mut set = CpuSet::new();
        if set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).is_err() {
            return 98;
        }
        spin()
    };
    let _guests = [Guest::new(&rooms[0], body)?, Guest::new(&rooms[1], body)?];
    std::thread::sleep(Duration::from_millis(500));
    let before = [rooms[0].cpu()?, rooms[1].cpu()?];
    std::thread::sleep(MEASURE);
    let used = [rooms[0].cpu()? - before[0], rooms[1].cpu()? - before[1]];
    let on_v1 = Mounts::find()?.v1(V1::Cpu).is_some();
    let wanted = if on_v1 { 2.0 } else { weight_of_shares(1024) as f64 / weight_of_shares(512) as f64 };
    let got = used[1] as f64 / used[0].max(1) as f64;
    let verdict = if used[0] + used[1] < MEASURE.as_nanos() as u64 / 20 {
        Verdict::Inconclusive("other work left the two too little CPU time to compare".into())
    } else if (got / wanted - 1.0).abs() <= 0.1 {
        Verdict::Holds
    } else {
        Verdict::Fails(format!("wanted 1 : {wanted:.2}"))
    };
    Ok(row(limit, asked, format!("1 : {got:.2}"), verdict))
}

fn pids(parent: &str) -> Result<Row, Error> {
    let (limit, asked) = ("pids", "5");
    let resources = Resources { pids_limit: Some(5), ..Resources::default() };
    let room = match Room::new(parent, limit, &resources)? {
        Ok(room) => room,
        Err(why) => return Ok(refused(limit, asked, why)),
    };
    let shared = Shared::new()?;
    let guest = Guest::new(&room, || {
        // Itself is the first.
        for tasks in 1..20 {
            shared.figures()[0].store(tasks, Ordering::Relaxed);
            // SAFETY: as in Guest::new; the child only sleeps.
            match unsafe { nix::unistd::fork() } {
                Ok(ForkResult::Parent { .. }) => {}
                Ok(ForkResult::Child) => loop {
                    nix::unistd::pause();
                },
                Err(errno) => {
                    shared.figures()[1].store(errno as u64, Ordering::Relaxed);
                    break;
                }
            }
        }
        0
    })?;
    guest.wait()?;
    let (tasks, errno) = (shared.get(0), Errno::from_raw(shared.get(1) as i32));
    let verdict = if tasks == 5 && errno == Errno::EAGAIN {
        Verdict::Holds
    } else {
        Verdict::Fails("wanted 5 tasks, then EAGAIN".into())
    };
    Ok(row(limit, asked, format!("{tasks} tasks, then {errno:?}"), verdict))
}

fn allowed_cpus() -> Result<Vec<usize>, Error> {
    let set =
        sched_getaffinity(Pid::from_raw(0)).map_err(|errno| Error::sys("sched_getaffinity", "0", errno))?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

fn cpuset(parent: &str) -> Result<Row, Error> {
    let limit = "cpuset";
    let all = allowed_cpus()?;
    let asked = all[0].to_string();
    if all.len() == 1 {
        return Ok(refused(limit, &asked, "there is only one CPU".into()));
    }
    let resources = Resources { cpuset_cpus: asked.clone(), ..Resources::default() };
    let room = match Room::new(parent, limit, &resources)? {
        Ok(room) => room,
        Err(why) => return Ok(refused(limit, &asked, why)),
    };
    let shared = Shared::new()?;
    let other = all[1];
    let guest = Guest::new(&room, || {
        let Ok(cpus) = allowed_cpus() else { return 98 };
        shared.figures()[0].store(cpus.len() as u64, Ordering::Relaxed);
        shared.figures()[1].store(cpus[0] as u64, Ordering::Relaxed);
        let mut set = CpuSet::new();
        let escaped = set.set(other).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).is_ok();
        shared.figures()[2].store(u64::from(escaped), Ordering::Relaxed);
        0
    })?;
    let status = guest.wait()?;
    let (count, first, escaped) = (shared.get(0), shared.get(1), shared.get(2) == 1);
    let verdict = if status == WaitStatus::Exited(guest_pid(&status), 0)
        && (count, first) == (1, all[0] as u64)
        && !escaped
    {
        Verdict::Holds
    } else {
        Verdict::Fails(format!("wanted CPU {asked} alone; {status:?}"))
    };
    let word = if escaped { "taken" } else { "refused" };
    Ok(row(limit, &asked, format!("{count} CPU from {first}, CPU {other} {word}"), verdict))
}

fn guest_pid(status: &WaitStatus) -> Pid {
    status.pid().unwrap_or(Pid::from_raw(0))
}

/// The disk that a directory lies on, `MAJOR:MINOR` and its node; partitions are limited with their disk.
fn disk_of(directory: &Path) -> Result<String, String> {
    let stat =
        nix::sys::stat::stat(directory).map_err(|errno| format!("stat {}: {errno}", directory.display()))?;
    let (major, minor) = (nix::sys::stat::major(stat.st_dev), nix::sys::stat::minor(stat.st_dev));
    let sys = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).map_err(|_| {
        format!("{} is on no block device of its own (device {major}:{minor})", directory.display())
    })?;
    let disk = if sys.join("partition").exists() { sys.parent().unwrap_or(&sys) } else { &sys };
    let name = disk.file_name().unwrap_or_default().to_string_lossy().replace('!', "/");
    let node = format!("/dev/{name}");
    if Path::new(&node).exists() { Ok(node) } else { Err(format!("{node} does not exist")) }
}

fn io(parent: &str, directory: &Path) -> Result<Row, Error> {
    let (limit, asked) = ("io write", "2.0MiB/s");
    let node = match disk_of(directory) {
        Ok(node) => node,
        Err(why) => return Ok(refused(limit, asked, why)),
    };
    // Nameless, so nothing is left of it; direct, since only what goes to the disk is limited on v1.
    let path = CString::new(directory.as_os_str().as_bytes()).expect("a path from the command line");
    // SAFETY: a path and flags.
    let fd = unsafe {
        libc::open(path.as_ptr(), libc::O_TMPFILE | libc::O_WRONLY | libc::O_DIRECT | libc::O_CLOEXEC, 0o600)
    };
    if fd == -1 {
        let why = format!("open {} with O_TMPFILE and O_DIRECT: {}", directory.display(), Errno::last());
        return Ok(refused(limit, asked, why));
    }
    // SAFETY: just opened, and ours.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let device = ThrottleDevice { path: node.clone(), rate: RATE };
    let resources = Resources { blkio_device_write_bps: vec![device], ..Resources::default() };
    let room = match Room::new(parent, "io", &resources) {
        Ok(Ok(room)) => room,
        Ok(Err(why)) => return Ok(refused(limit, asked, why)),
        Err(error) => return Ok(refused(limit, asked, error.to_string())),
    };
    let shared = Shared::new()?;
    let guest = Guest::new(&room, || {
        const PIECE: usize = 256 << 10;
        let Ok(buffer) = map(PIECE, libc::MAP_PRIVATE) else { return 98 };
        let began = Instant::now();
        for at in (0..WRITTEN).step_by(PIECE) {
            // SAFETY: the buffer is that long, and aligned to a page.
            if unsafe { libc::pwrite(file.as_raw_fd(), buffer, PIECE, at as i64) } != PIECE as isize {
                shared.figures()[1].store(Errno::last() as u64, Ordering::Relaxed);
                return 97;
            }
        }
        shared.figures()[0].store(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        0
    })?;
    let status = guest.wait()?;
    if !matches!(status, WaitStatus::Exited(_, 0)) {
        let errno = Errno::from_raw(shared.get(1) as i32);
        return Ok(refused(limit, asked, format!("direct write to {}: {errno}", directory.display())));
    }
    let rate = WRITTEN as f64 / (shared.get(0).max(1) as f64 / 1e6);
    // One slice of the throttle (100 ms) may pass before it bites.
    let verdict = if rate <= RATE as f64 * 1.1 {
        Verdict::Holds
    } else {
        Verdict::Fails(format!("{node} took more than was allowed"))
    };
    Ok(row(limit, asked, format!("{:.2}MiB/s to {node}", rate / f64::from(1 << 20)), verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_judged() {
        assert_eq!(judge_quota(0.25, 0.25, 1.0), Verdict::Holds);
        assert_eq!(judge_quota(0.2574, 0.25, 1.0), Verdict::Holds);
        assert!(matches!(judge_quota(0.26, 0.25, 1.0), Verdict::Fails(_)));
        assert!(matches!(judge_quota(0.20, 0.25, 1.0), Verdict::Fails(_)));
        assert!(matches!(judge_quota(0.20, 0.25, 0.5), Verdict::Inconclusive(_)));
        assert!(matches!(judge_quota(0.50, 0.25, 0.0), Verdict::Fails(_)));
    }
}
