//! From Docker's limits to the OCI specification's.

use std::{collections::HashMap, os::unix::fs::FileTypeExt as _};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimitBuilder, LinuxMemory,
    LinuxPids, LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};

use super::validate::Invalid;
use crate::config::{HugepageLimit, Resources, ThrottleDevice};

/// Fills in what Docker fills in when a container is made, so that `inspect` shows it: memory and swap
/// together are twice the memory limit unless said otherwise.
pub fn fill_defaults(resources: &mut Resources) {
    if resources.memory > 0 && resources.memory_swap == 0 {
        resources.memory_swap = resources.memory.saturating_mul(2);
    }
}

/// The limits of a container as its runtime takes them. Device rules are the caller's.
pub fn of(resources: &Resources) -> Result<LinuxResources, Invalid> {
    build(resources, resources.pids_limit.filter(|limit| *limit > 0))
}

/// What an update has to write: the fields of `change`, completed from `merged`, the outcome of
/// [`super::validate::update`], where the kernel wants two together.
pub fn of_update(merged: &Resources, change: &Resources) -> Result<LinuxResources, Invalid> {
    let mut write = change.clone();
    // The kernel's v2 file holds swap alone, so a new limit changes it even if the sum stays.
    if write.memory != 0 || write.memory_swap != 0 {
        write.memory = merged.memory;
        write.memory_swap = merged.memory_swap;
    }
    // 0 and -1 lift the limit; the specification says so with -1.
    build(&write, change.pids_limit.map(|limit| if limit > 0 { limit } else { -1 }))
}

/// What takes `change` back after only part of it could be written: the values that `current` has, and the
/// kernel's defaults where it has none.
pub fn of_undo(current: &Resources, change: &Resources, cpus: &str) -> Result<LinuxResources, Invalid> {
    let back = |changed: i64, before: i64, default: i64| match (changed, before) {
        (0, _) => 0,
        (_, 0) => default,
        (_, before) => before,
    };
    let rates = |changed: &[ThrottleDevice], before: &[ThrottleDevice]| -> Vec<ThrottleDevice> {
        changed
            .iter()
            .map(|device| {
                let same = before.iter().find(|have| have.path == device.path).cloned();
                // A rate of 0 is none.
                same.unwrap_or_else(|| ThrottleDevice { path: device.path.clone(), rate: 0 })
            })
            .collect()
    };
    let quota = change.nano_cpus != 0 || change.cpu_quota != 0;
    let undo = Resources {
        memory: back(change.memory | change.memory_swap, current.memory, -1),
        memory_swap: back(change.memory | change.memory_swap, current.memory_swap, -1),
        memory_reservation: back(change.memory_reservation, current.memory_reservation, -1),
        memory_high: back(change.memory_high, current.memory_high, -1),
        memory_min: back(change.memory_min, current.memory_min, -1),
        oom_group: change.oom_group.map(|_| current.oom_group.unwrap_or(false)),
        cpu_shares: back(change.cpu_shares, current.cpu_shares, 1024),
        nano_cpus: if quota { current.nano_cpus } else { 0 },
        cpu_quota: if quota && current.nano_cpus == 0 { back(1, current.cpu_quota, -1) } else { 0 },
        cpu_period: if current.nano_cpus == 0 {
            back(change.nano_cpus | change.cpu_period, current.cpu_period, 100_000)
        } else {
            0
        },
        cpu_burst: back(change.cpu_burst, current.cpu_burst, -1),
        cpuset_cpus: match (change.cpuset_cpus.is_empty(), current.cpuset_cpus.is_empty()) {
            (true, _) => String::new(),
            (false, true) => cpus.to_owned(),
            (false, false) => current.cpuset_cpus.clone(),
        },
        blkio_device_read_bps: rates(&change.blkio_device_read_bps, &current.blkio_device_read_bps),
        blkio_device_write_bps: rates(&change.blkio_device_write_bps, &current.blkio_device_write_bps),
        blkio_device_read_iops: rates(&change.blkio_device_read_iops, &current.blkio_device_read_iops),
        blkio_device_write_iops: rates(&change.blkio_device_write_iops, &current.blkio_device_write_iops),
        hugepage_limits: change
            .hugepage_limits
            .iter()
            .map(|pages| {
                let same = current.hugepage_limits.iter().find(|have| have.page_size == pages.page_size);
                same.cloned().unwrap_or_else(|| HugepageLimit { limit: -1, ..pages.clone() })
            })
            .collect(),
        ..Resources::default()
    };
    build(&undo, change.pids_limit.map(|_| current.pids_limit.filter(|limit| *limit > 0).unwrap_or(-1)))
}

fn build(r: &Resources, pids: Option<i64>) -> Result<LinuxResources, Invalid> {
    let some = |value: i64| (value != 0).then_some(value);
    let mut linux = LinuxResources::default();
    linux.set_devices(None);

    let mut memory = LinuxMemory::default();
    memory.set_limit(some(r.memory));
    memory.set_swap(some(r.memory_swap));
    memory.set_reservation(some(r.memory_reservation));
    memory.set_swappiness(r.memory_swappiness.and_then(|s| u64::try_from(s).ok()));
    memory.set_disable_oom_killer(r.oom_kill_disable.filter(|disable| *disable));
    if memory != LinuxMemory::default() {
        linux.set_memory(Some(memory));
    }

    let mut cpu = LinuxCpu::default();
    cpu.set_shares(some(r.cpu_shares).and_then(|s| u64::try_from(s).ok()));
    if r.nano_cpus > 0 {
        // Docker's period; the quota is that share of it.
        cpu.set_period(Some(100_000));
        cpu.set_quota(Some((i128::from(r.nano_cpus) * 100_000 / 1_000_000_000) as i64));
    } else {
        cpu.set_period(some(r.cpu_period).and_then(|p| u64::try_from(p).ok()));
        cpu.set_quota(some(r.cpu_quota));
    }
    // -1 takes it back, which for this file is 0.
    cpu.set_burst(some(r.cpu_burst).map(|burst| u64::try_from(burst).unwrap_or(0)));
    let list = |text: &String| (!text.is_empty()).then(|| text.clone());
    cpu.set_cpus(list(&r.cpuset_cpus));
    cpu.set_mems(list(&r.cpuset_mems));
    if cpu != LinuxCpu::default() {
        linux.set_cpu(Some(cpu));
    }

    if let Some(limit) = pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        linux.set_pids(Some(pids));
    }

    let mut io = LinuxBlockIo::default();
    io.set_weight((r.blkio_weight != 0).then_some(r.blkio_weight));
    let weights = r
        .blkio_weight_device
        .iter()
        .map(|device| {
            let (major, minor) = block_device(&device.path)?;
            LinuxWeightDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .weight(device.weight)
                .build()
                .map_err(|error| Invalid(error.to_string()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    io.set_weight_device((!weights.is_empty()).then_some(weights));
    io.set_throttle_read_bps_device(throttle(&r.blkio_device_read_bps)?);
    io.set_throttle_write_bps_device(throttle(&r.blkio_device_write_bps)?);
    io.set_throttle_read_iops_device(throttle(&r.blkio_device_read_iops)?);
    io.set_throttle_write_iops_device(throttle(&r.blkio_device_write_iops)?);
    if io != LinuxBlockIo::default() {
        linux.set_block_io(Some(io));
    }

    let pages = r
        .hugepage_limits
        .iter()
        .map(|pages| {
            LinuxHugepageLimitBuilder::default()
                .page_size(pages.page_size.clone())
                .limit(pages.limit)
                .build()
                .map_err(|error| Invalid(error.to_string()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    linux.set_hugepage_limits((!pages.is_empty()).then_some(pages));

    let mut unified = HashMap::new();
    let mut set = |file: &str, value: String| drop(unified.insert(file.to_owned(), value));
    // -1 takes a limit back.
    match r.memory_high {
        0 => {}
        ..0 => set("memory.high", "max".into()),
        bytes => set("memory.high", bytes.to_string()),
    }
    if r.memory_min != 0 {
        set("memory.min", r.memory_min.max(0).to_string());
    }
    if let Some(group) = r.oom_group {
        set("memory.oom.group", u8::from(group).to_string());
    }
    if !unified.is_empty() {
        linux.set_unified(Some(unified));
    }
    Ok(linux)
}

fn throttle(devices: &[ThrottleDevice]) -> Result<Option<Vec<LinuxThrottleDevice>>, Invalid> {
    let devices = devices
        .iter()
        .map(|device| {
            let (major, minor) = block_device(&device.path)?;
            LinuxThrottleDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .rate(device.rate)
                .build()
                .map_err(|error| Invalid(error.to_string()))
        })
        .collect::<Result<Vec<_>, Invalid>>()?;
    Ok((!devices.is_empty()).then_some(devices))
}

/// The numbers of a block device's node.
fn block_device(path: &str) -> Result<(i64, i64), Invalid> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(path).map_err(|error| Invalid(format!("invalid device {path}: {error}")))?;
    if !meta.file_type().is_block_device() {
        return Err(Invalid(format!("invalid device {path}: not a block device")));
    }
    Ok((major(meta.rdev()) as i64, minor(meta.rdev()) as i64))
}

/// A rule of `--device-cgroup-rule`: `c 1:3 rwm`, `b *:* r`, `a *:* rwm`.
pub fn device_rule(rule: &str) -> Result<LinuxDeviceCgroup, Invalid> {
    let bad = || Invalid(format!("invalid device cgroup rule format: '{rule}'"));
    let mut fields = rule.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(bad());
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse::<u32>().map(|n| Some(n.into())).map_err(|_| bad())
        }
        _ => Err(bad()),
    };
    let (first, second) = numbers.split_once(':').ok_or_else(bad)?;
    let right = |c| access.matches(c).count() <= 1;
    if access.is_empty()
        || !access.bytes().all(|b| b"rwm".contains(&b))
        || !['r', 'w', 'm'].into_iter().all(right)
    {
        return Err(bad());
    }
    let mut parsed = LinuxDeviceCgroup::default();
    parsed
        .set_allow(true)
        .set_typ(Some(kind))
        .set_major(number(first)?)
        .set_minor(number(second)?)
        .set_access(Some(access.to_owned()));
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_limits_become_the_specifications() {
        let mut r = Resources {
            memory: 64 << 20,
            memory_high: 32 << 20,
            oom_group: Some(true),
            memory_min: 4 << 20,
            cpu_burst: 5000,
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
            nano_cpus: 1_500_000_000,
            cpuset_cpus: "0".into(),
            pids_limit: Some(100),
            ..Resources::default()
        };
        fill_defaults(&mut r);
        let linux = of(&r).unwrap();
        let memory = linux.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(128 << 20)));
        let cpu = linux.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.cpus().as_deref()),
            (Some(150_000), Some(100_000), Some("0"))
        );
        assert_eq!(linux.pids().unwrap().limit(), 100);
        let unified = linux.unified().as_ref().unwrap();
        assert_eq!(unified["memory.high"], (32 << 20).to_string());
        assert_eq!(unified["memory.oom.group"], "1");
        assert_eq!(unified["memory.min"], (4 << 20).to_string());
        assert_eq!(cpu.burst(), Some(5000));
        assert_eq!(linux.hugepage_limits().as_ref().unwrap()[0].limit(), 4 << 20);

        let none = of(&Resources { pids_limit: Some(0), ..Resources::default() }).unwrap();
        assert!(none.memory().is_none() && none.cpu().is_none() && none.pids().is_none());
        assert!(none.block_io().is_none() && none.unified().is_none() && none.devices().is_none());
    }

    #[test]
    fn an_update_writes_what_changed_and_what_hangs_on_it() {
        let change = Resources { memory: 32 << 20, pids_limit: Some(0), ..Resources::default() };
        let merged = Resources { memory: 32 << 20, memory_swap: 128 << 20, cpu_shares: 7, ..change.clone() };
        let linux = of_update(&merged, &change).unwrap();
        assert_eq!(linux.memory().unwrap().swap(), Some(128 << 20));
        assert_eq!(linux.pids().unwrap().limit(), -1);
        assert!(linux.cpu().is_none());
        let lift = Resources {
            memory_high: -1,
            memory_min: -1,
            cpu_burst: -1,
            oom_group: Some(false),
            ..Resources::default()
        };
        let linux = of_update(&Resources::default(), &lift).unwrap();
        let unified = linux.unified().as_ref().unwrap();
        let values = ["memory.high", "memory.min", "memory.oom.group"].map(|file| unified[file].as_str());
        assert_eq!((values, linux.cpu().as_ref().unwrap().burst()), (["max", "0", "0"], Some(0)));
    }

    #[test]
    fn an_update_that_failed_half_way_is_taken_back() {
        let current = Resources { memory: 64 << 20, memory_swap: 128 << 20, ..Resources::default() };
        let change = Resources {
            memory: 32 << 20,
            memory_high: 16 << 20,
            nano_cpus: 500_000_000,
            cpuset_cpus: "0".into(),
            pids_limit: Some(5),
            ..Resources::default()
        };
        let undo = of_undo(&current, &change, "0-3").unwrap();
        let memory = undo.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(128 << 20)));
        assert_eq!(undo.unified().as_ref().unwrap()["memory.high"], "max");
        let cpu = undo.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.cpus().as_deref()),
            (Some(-1), Some(100_000), Some("0-3"))
        );
        assert_eq!(undo.pids().unwrap().limit(), -1);
        // What was not to change is not touched.
        let only = Resources { cpu_shares: 5, ..Resources::default() };
        let undo = of_undo(&current, &only, "0").unwrap();
        assert!(undo.memory().is_none() && undo.pids().is_none() && undo.unified().is_none());
        assert_eq!(undo.cpu().as_ref().unwrap().shares(), Some(1024));
    }

    #[test]
    fn device_nodes_are_resolved_or_refused() {
        let ask = |path: &str| {
            let device = ThrottleDevice { path: path.into(), rate: 1 };
            of(&Resources { blkio_device_read_bps: vec![device], ..Resources::default() })
        };
        assert!(ask("/dev/null").unwrap_err().to_string().contains("not a block device"));
        assert!(ask("/nowhere").unwrap_err().to_string().contains("/nowhere"));
        if std::fs::metadata("/dev/loop0").is_ok_and(|m| m.file_type().is_block_device()) {
            let linux = ask("/dev/loop0").unwrap();
            let io = linux.block_io().as_ref().unwrap().clone();
            assert_eq!(io.throttle_read_bps_device().as_ref().unwrap()[0].major(), 7);
        } else {
            println!("skipped: needs /dev/loop0");
        }
    }

    #[test]
    fn device_rules_as_docker_takes_them() {
        let rule = device_rule("c 1:3 mr").unwrap();
        assert_eq!((rule.major(), rule.minor(), rule.access().as_deref()), (Some(1), Some(3), Some("mr")));
        assert_eq!(device_rule("a *:* rwm").unwrap().major(), None);
        for odd in [
            "",
            "c",
            "c 1:3",
            "x 1:3 r",
            "c 1 r",
            "c 1:3 x",
            "c 1:3 rr",
            "c 1:3  r",
            "c -1:3 r",
            "c 1:99999999999 r",
            "c :3 r ",
        ] {
            assert!(device_rule(odd).is_err(), "{odd:?}");
        }
    }
}
