//! Limits on cgroup v2: `memory.max`, `cpu.max`, `io.max` and their like.
//!
//! Source of every file and format: the kernel's Documentation/admin-guide/cgroup-v2.rst. The mapping
//! from the OCI runtime specification's v1-shaped fields is the one its config-linux.md leaves to
//! runtimes; each formula below names where it comes from.

use std::{fmt::Write as _, path::Path};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::{
    Report,
    dir::Dir,
    error::{Error, Limit},
    mounts::{Mounts, V1},
};

/// Controllers whose accounting every container gets, asked for limits or not, and where a hybrid host
/// has them instead.
const ALWAYS: [(&str, V1); 4] =
    [("cpu", V1::Cpu), ("memory", V1::Memory), ("io", V1::Blkio), ("pids", V1::Pids)];

/// The controllers that a container with these limits needs on v2.
pub(crate) fn controllers(mounts: &Mounts, resources: &LinuxResources) -> Vec<&'static str> {
    let on_v2 = |c: V1| mounts.v1(c).is_none();
    let mut wanted: Vec<_> = ALWAYS.iter().filter(|(_, c)| on_v2(*c)).map(|(name, _)| *name).collect();
    let unified = |prefix: &str| {
        resources
            .unified()
            .as_ref()
            .is_some_and(|map| map.keys().any(|k| k.split('.').next() == Some(prefix)))
    };
    let cpuset = resources.cpu().as_ref().is_some_and(|c| c.cpus().is_some() || c.mems().is_some());
    if on_v2(V1::Cpuset) && (cpuset || unified("cpuset")) {
        wanted.push("cpuset");
    }
    let pages = resources.hugepage_limits().as_ref().is_some_and(|l| !l.is_empty());
    if on_v2(V1::Hugetlb) && (pages || unified("hugetlb")) {
        wanted.push("hugetlb");
    }
    for rare in ["rdma", "misc", "dmem"] {
        if unified(rare) {
            wanted.push(rare);
        }
    }
    wanted
}

/// Hands controllers from the mount down to the children of `parent`.
///
/// Only what is not handed down yet is written, so a subtree that systemd delegated is left as it was
/// delegated. A controller that the host does not have is skipped: the limit's own file is then missing,
/// and that is where the user is told.
pub(crate) fn enable(mounts: &Mounts, parent: &Path, wanted: &[&str]) -> Result<Dir, Error> {
    let target = Dir::open_or_make(&mounts.v2, parent)?;
    if wanted.is_empty() || missing(&target.read("cgroup.subtree_control")?, wanted).is_empty() {
        return Ok(target);
    }
    let mut at = Dir::open(&mounts.v2)?;
    enable_in(&at, wanted)?;
    for part in parent.components() {
        at = at.descend(part.as_ref())?;
        enable_in(&at, wanted)?;
    }
    Ok(target)
}

fn missing<'a>(have: &str, wanted: &[&'a str]) -> Vec<&'a str> {
    let have: Vec<&str> = have.split_ascii_whitespace().collect();
    wanted.iter().copied().filter(|w| !have.contains(w)).collect()
}

fn enable_in(dir: &Dir, wanted: &[&str]) -> Result<(), Error> {
    let available = dir.read("cgroup.controllers")?;
    let available: Vec<&str> = available.split_ascii_whitespace().collect();
    let mut todo = missing(&dir.read("cgroup.subtree_control")?, wanted);
    todo.retain(|c| available.contains(c));
    if todo.is_empty() {
        return Ok(());
    }
    let line = todo.iter().fold(String::new(), |mut line, c| {
        let _ = write!(line, "+{c} ");
        line
    });
    let line = line.trim_end();
    match dir.write("cgroup.subtree_control", line) {
        Err(Error::Write { errno: Errno::EBUSY, .. }) if evacuate(dir)? => {
            // A process that is dying is listed no more and counts as long as it is not dead.
            let mut patience = 100;
            loop {
                match dir.write("cgroup.subtree_control", line) {
                    Err(Error::Write { errno: Errno::EBUSY, .. }) if patience > 0 => {
                        patience -= 1;
                        std::thread::sleep(std::time::Duration::from_millis(1));
                        evacuate(dir)?;
                    }
                    other => break other,
                }
            }
        }
        other => other,
    }
    .map_err(|error| match error {
        Error::Write { path, value, errno: errno @ (Errno::EBUSY | Errno::EOPNOTSUPP) } => {
            Error::InternalProcesses { path, controllers: value, errno }
        }
        other => other,
    })
}

/// Moves the processes of a container's root cgroup into a leaf, so that an engine nested in that
/// container can hand controllers down.
///
/// Done only where it concerns nobody else: in the root of our own cgroup namespace, which is not the
/// host's root (that one has no `cgroup.type` and needs no evacuation). The leaf is called `init`, as
/// container images that nest engines call it.
fn evacuate(dir: &Dir) -> Result<bool, Error> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let namespace_root = own.lines().filter_map(|l| l.strip_prefix("0::")).any(|p| p == "/" || p == "/init");
    let is_mount = super::Mounts::find().is_ok_and(|m| m.v2 == dir.path());
    if !(namespace_root && is_mount && dir.has("cgroup.type")) {
        return Ok(false);
    }
    let leaf = dir.descend("init".as_ref())?;
    // A fork between reading and writing leaves a child behind: go round until nobody is left.
    for _ in 0..100 {
        let procs = dir.read_list("cgroup.procs")?;
        // 0 is a process of an outer PID namespace; it can not be named, hence not moved.
        if procs.lines().all(|pid| pid == "0") {
            break;
        }
        for pid in procs.lines().filter(|p| *p != "0") {
            match leaf.write("cgroup.procs", pid) {
                Ok(()) | Err(Error::Write { errno: Errno::ESRCH, .. }) => {}
                Err(other) => return Err(other),
            }
        }
    }
    Ok(true)
}

/// Writes what was asked, and nothing else.
pub(crate) fn memory(dir: &Dir, memory: &LinuxMemory, report: &mut Report) -> Result<(), Error> {
    if let Some(limit) = memory.limit() {
        if memory.check_before_update() == Some(true) && limit > 0 {
            let usage = dir.read("memory.current")?;
            let usage: u64 =
                usage.trim().parse().map_err(|_| Error::parse(&dir.file("memory.current"), &usage))?;
            if usage > limit as u64 {
                return Err(Error::BelowUsage { path: dir.file("memory.current"), limit, usage });
            }
        }
        report.take(Limit::Memory, dir.write("memory.max", &bytes(limit)))?;
    }
    // memory.swap.max counts swap alone; the specification's `swap` counts memory and swap.
    match (memory.swap(), memory.limit()) {
        (None | Some(0), _) => {}
        (Some(-1), _) => report.take(Limit::MemorySwap, dir.write("memory.swap.max", "max"))?,
        (Some(both), Some(limit)) if limit > 0 => {
            report
                .take(Limit::MemorySwap, dir.write("memory.swap.max", &(both - limit).max(0).to_string()))?;
        }
        (Some(both), _) => {
            // An update of the sum alone: the memory limit in force is the other half.
            let text = dir.try_read("memory.max")?.unwrap_or_default();
            match text.trim().parse::<i64>() {
                Ok(limit) => {
                    report.take(
                        Limit::MemorySwap,
                        dir.write("memory.swap.max", &(both - limit).max(0).to_string()),
                    )?;
                }
                Err(_) => {
                    return Err(Error::Write {
                        path: dir.file("memory.swap.max"),
                        value: both.to_string(),
                        errno: Errno::EINVAL,
                    });
                }
            }
        }
    }
    if let Some(reservation) = memory.reservation() {
        report.take(Limit::MemoryReservation, dir.write("memory.low", &bytes(reservation.max(0))))?;
    }
    if memory.swappiness().is_some() {
        report.absent(Limit::MemorySwappiness, dir.file("memory.swappiness"))?;
    }
    if memory.disable_oom_killer() == Some(true) {
        report.absent(Limit::OomKillDisable, dir.file("memory.oom_control"))?;
    }
    if memory.kernel().is_some_and(|k| k > 0) || memory.kernel_tcp().is_some_and(|k| k > 0) {
        report.absent(Limit::KernelMemory, dir.file("memory.kmem.limit_in_bytes"))?;
    }
    Ok(())
}

fn bytes(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

pub(crate) fn cpu(dir: &Dir, cpu: &LinuxCpu, report: &mut Report) -> Result<(), Error> {
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        report.take(Limit::CpuShares, dir.write("cpu.weight", &weight_of_shares(shares).to_string()))?;
    }
    if let Some(idle) = cpu.idle() {
        report.take(Limit::CpuIdle, dir.write("cpu.idle", &idle.to_string()))?;
    }
    let burst = cpu.burst().map(|b| b.to_string());
    // The kernel wants burst ≤ quota at every moment: a smaller burst goes first, a larger one last.
    // One of the two writes succeeds whichever way the change goes; the error of the last one counts.
    let early = burst.as_deref().map(|b| dir.write("cpu.max.burst", b));
    if cpu.quota().is_some() || cpu.period().is_some() {
        let current = || Ok::<_, Error>(dir.try_read("cpu.max")?.unwrap_or_else(|| "max 100000".into()));
        let quota = match cpu.quota() {
            Some(quota) if quota > 0 => quota.to_string(),
            Some(_) => "max".into(),
            None => current()?.split_ascii_whitespace().next().unwrap_or("max").to_owned(),
        };
        let line = match cpu.period().filter(|p| *p != 0) {
            Some(period) => format!("{quota} {period}"),
            None => quota,
        };
        report.take(Limit::CpuQuota, dir.write("cpu.max", &line))?;
    }
    match (early, burst) {
        (Some(Err(Error::Write { .. })), Some(burst)) => {
            report.take(Limit::CpuBurst, dir.write("cpu.max.burst", &burst))?;
        }
        (Some(result), _) => report.take(Limit::CpuBurst, result)?,
        (None, _) => {}
    }
    if cpu.realtime_runtime().is_some_and(|r| r > 0) || cpu.realtime_period().is_some_and(|r| r > 0) {
        report.absent(Limit::CpuRealtime, dir.file("cpu.rt_runtime_us"))?;
    }
    Ok(())
}

/// `cpu.weight` (1 to 10000, default 100) of v1 `cpu.shares` (2 to 262144, default 1024).
///
/// The curve through (2, 1), (1024, 100) and (262144, 10000), quadratic in log₂, so that a container of
/// default shares weighs as much as a cgroup that nobody configured. Source: opencontainers/cgroups,
/// `ConvertCPUSharesToCgroupV2Value` (used by runc and crun since late 2025 and adopted by Kubernetes); the linear formula of
/// KEP-2254 that it replaces turned 1024 into 39.
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1 | 2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

pub(crate) fn cpuset(dir: &Dir, cpu: &LinuxCpu, report: &mut Report) -> Result<(), Error> {
    for (file, asked) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        let Some(asked) = asked else { continue };
        let before = dir.try_read(file)?;
        report.take(Limit::Cpuset, dir.write(file, asked))?;
        if let Err(error) = granted(dir, file, asked) {
            // What held before goes on to hold.
            if let Some(before) = before {
                dir.write(file, before.trim())?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Whether the cgroup has all that it asked for.
///
/// Any CPU that the kernel was built for may be written to `cpuset.cpus`. One that the parent does not have, or
/// that a sibling's exclusive partition keeps, is left out of the effective set without an error.
fn granted(dir: &Dir, file: &str, asked: &str) -> Result<(), Error> {
    let effective = format!("{file}.effective");
    let Some(text) = dir.try_read(&effective)? else { return Ok(()) };
    let numbers = |list: &str| {
        let mut numbers = super::validate::parse_list(list.trim()).unwrap_or_default();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    if numbers(&text) == numbers(asked) {
        return Ok(());
    }
    let asked = format!("{file} {asked}");
    Err(Error::NotGranted { path: dir.file(effective), asked, granted: text.trim().into() })
}

pub(crate) fn pids(dir: &Dir, limit: i64, report: &mut Report) -> Result<(), Error> {
    let value = if limit > 0 { limit.to_string() } else { "max".into() };
    report.take(Limit::Pids, dir.write("pids.max", &value))
}

pub(crate) fn io(dir: &Dir, io: &LinuxBlockIo, report: &mut Report) -> Result<(), Error> {
    // BFQ takes the old range as it is; the generic file wants 1 to 10000. Docker's 500 is the default
    // of v1, hence io.weight's default of 100 is not what it becomes: the conversion is runc's,
    // linear from [10, 1000] to [1, 10000].
    let generic = |w: u16| 1 + (u64::from(w).saturating_sub(10)) * 9999 / 990;
    let (file, convert): (_, &dyn Fn(u16) -> u64) =
        if dir.has("io.bfq.weight") { ("io.bfq.weight", &|w| u64::from(w)) } else { ("io.weight", &generic) };
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        report.take(Limit::BlkioWeight, dir.write(file, &format!("default {}", convert(weight))))?;
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let line = format!("{}:{} {}", device.major(), device.minor(), convert(weight));
            report.take(Limit::BlkioWeightDevice, dir.write(file, &line))?;
        }
    }
    for (devices, key, limit) in [
        (io.throttle_read_bps_device(), "rbps", Limit::BlkioReadBps),
        (io.throttle_write_bps_device(), "wbps", Limit::BlkioWriteBps),
        (io.throttle_read_iops_device(), "riops", Limit::BlkioReadIops),
        (io.throttle_write_iops_device(), "wiops", Limit::BlkioWriteIops),
    ] {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let line = format!("{}:{} {key}={rate}", device.major(), device.minor());
            report.take(limit.clone(), dir.write("io.max", &line))?;
        }
    }
    Ok(())
}

pub(crate) fn hugetlb(dir: &Dir, limits: &[LinuxHugepageLimit], report: &mut Report) -> Result<(), Error> {
    for limit in limits {
        let (size, value) = (limit.page_size(), bytes(limit.limit()));
        if size.contains('/') {
            return Err(Error::BadPath { path: size.clone(), why: "not a size of huge pages" });
        }
        report.take(Limit::Hugetlb, dir.write(&format!("hugetlb.{size}.max"), &value))?;
        // Reservations are charged when they are made (since 5.7); without the file the fault is.
        let reserved = format!("hugetlb.{size}.rsvd.max");
        if dir.has(&reserved) {
            dir.write(&reserved, &value)?;
        }
    }
    Ok(())
}

/// Files named by the user. A name is a file of this cgroup and nothing else.
pub(crate) fn unified<'a>(
    dir: &Dir,
    files: impl Iterator<Item = (&'a String, &'a String)>,
    report: &mut Report,
) -> Result<(), Error> {
    for (file, value) in files {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") || file.starts_with('.') {
            return Err(Error::BadPath { path: file.clone(), why: "not the name of a controller's file" });
        }
        // io.max and its kind take one device a write.
        for line in value.lines() {
            report.take(Limit::Unified(file.clone()), dir.write(file, line))?;
        }
        // A partition that cannot be is taken as well, and reads "root invalid (why)".
        if file == "cpuset.cpus.partition"
            && let Some(text) = dir.try_read(file)?
            && text.contains("invalid")
        {
            let asked = format!("{file} {value}");
            return Err(Error::NotGranted { path: dir.file(file), asked, granted: text.trim().into() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_on_the_curve_of_opencontainers() {
        for (shares, weight) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (1024, 100),
            (262_144, 10_000),
            (u64::MAX, 10_000),
            (512, 59),
            (2048, 174),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!((2..262_144).step_by(97).map(weight_of_shares).is_sorted());
    }

    #[test]
    fn controllers_follow_what_is_asked_and_where_they_are() {
        let pure = Mounts { v2: "/cg".into(), v1: Default::default() };
        let plain = LinuxResources::default();
        assert_eq!(controllers(&pure, &plain), ["cpu", "memory", "io", "pids"]);
        let mut asked = LinuxResources::default();
        asked.set_unified(Some([("hugetlb.2MB.max".to_owned(), "0".to_owned())].into()));
        assert!(controllers(&pure, &asked).contains(&"hugetlb"));
        let mut hybrid = pure.clone();
        hybrid.v1[V1::Memory as usize] = Some("/cg1/memory".into());
        assert_eq!(controllers(&hybrid, &plain), ["cpu", "io", "pids"]);
        assert_eq!(missing("cpu io\n", &["cpu", "memory"]), ["memory"]);
    }
}
