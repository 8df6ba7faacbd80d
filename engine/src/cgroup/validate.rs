//! Limits that make no sense, refused before anything is made, in Docker's words.
//!
//! Source of sentences and thresholds: moby, daemon/daemon_unix.go, `verifyPlatformContainerResources`,
//! and container/container_unix.go, `UpdateContainer`.

use crate::config::Resources;

/// What Docker refuses, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub(crate) String);

fn refuse<T>(sentence: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(sentence.into()))
}

/// Below this a container cannot start: runc's own init once needed it, and scripts know the sentence.
const MIN_MEMORY: i64 = 6 << 20;

/// What of the host a check needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// CPUs this process may use.
    pub cpus: usize,
    /// CPUs online, as a list.
    pub cpu_list: String,
    /// Memory nodes online, as a list.
    pub mem_list: String,
}

impl Machine {
    /// This host.
    pub fn here() -> Self {
        let read = |path: &str, or: &str| {
            std::fs::read_to_string(path).map_or_else(|_| or.to_owned(), |text| text.trim().to_owned())
        };
        let cpus = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).map_or(1, |set| {
            (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
        });
        Self {
            cpus,
            cpu_list: read("/sys/devices/system/cpu/online", "0"),
            // A kernel without NUMA has no such directory, and one node.
            mem_list: read("/sys/devices/system/node/has_memory", "0"),
        }
    }
}

/// Checks what `run` and `create` ask for. The strings are warnings.
pub fn create(resources: &Resources, machine: &Machine) -> Result<Vec<String>, Invalid> {
    let r = resources;
    let mut warnings = Vec::new();
    for (value, flag) in [
        (r.memory, "memory"),
        (r.memory_reservation, "memory reservation"),
        (r.memory_high, "memory high"),
        (r.memory_min, "memory min"),
    ] {
        if value < 0 {
            return refuse(format!("invalid {flag} limit {value}: a number of bytes, 0 for none"));
        }
    }
    if r.memory > 0 && r.memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if r.memory_swap < -1 {
        return refuse(format!("invalid memory swap limit {}: -1 means unlimited", r.memory_swap));
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if r.memory == 0 && r.memory_swap > 0 {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if let Some(swappiness) = r.memory_swappiness
        && !(0..=100).contains(&swappiness)
        // The command line's "not given".
        && swappiness != -1
    {
        return refuse(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
    }
    if r.memory_reservation > 0 && r.memory_reservation < MIN_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if r.memory > 0 && r.memory_reservation > r.memory {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if r.memory > 0 && r.memory_high > r.memory {
        return refuse("Minimum memory limit can not be less than memory high limit, see usage");
    }
    if r.memory > 0 && r.memory_min > r.memory {
        return refuse("Minimum memory limit can not be less than memory min, see usage");
    }
    if let Some(pages) = r.hugepage_limits.iter().find(|pages| pages.limit < 0) {
        return refuse(format!("invalid limit {} for huge pages of {}", pages.limit, pages.page_size));
    }
    if r.oom_kill_disable == Some(true) && r.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                .to_owned(),
        );
    }
    cpu(r, machine)?;
    io(r)?;
    Ok(warnings)
}

fn cpu(r: &Resources, machine: &Machine) -> Result<(), Invalid> {
    if r.cpu_shares < 0 {
        return refuse("shares: invalid argument");
    }
    if r.nano_cpus > 0 && r.cpu_period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if r.nano_cpus > 0 && r.cpu_quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    let cpus = machine.cpus;
    // Docker's lower end is a hundredth: below it a quota of 100 ms would be under the kernel's 1 ms.
    if r.nano_cpus < 0
        || (r.nano_cpus > 0 && r.nano_cpus < 10_000_000)
        || i128::from(r.nano_cpus) > cpus as i128 * 1_000_000_000
    {
        return refuse(format!(
            "Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        ));
    }
    if r.cpu_period != 0 && !(1000..=1_000_000).contains(&r.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if r.cpu_burst < 0 {
        return refuse(format!("invalid CPU burst {}: microseconds, 0 for none", r.cpu_burst));
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    for (asked, available, what, label) in [
        (&r.cpuset_cpus, &machine.cpu_list, "CPUs", "cpuset cpus"),
        (&r.cpuset_mems, &machine.mem_list, "memory nodes", "cpuset mems"),
    ] {
        if asked.is_empty() {
            continue;
        }
        let Some(wanted) = parse_list(asked) else {
            return refuse(format!("Invalid value {asked} for {label}"));
        };
        // What the host says of itself parses, or there is nothing to compare with.
        if let Some(have) = parse_list(available)
            && !wanted.iter().all(|n| have.contains(n))
        {
            return refuse(format!(
                "Requested {what} are not available - requested {asked}, available: {available}"
            ));
        }
    }
    Ok(())
}

fn io(r: &Resources) -> Result<(), Invalid> {
    if r.blkio_weight != 0 && !(10..=1000).contains(&r.blkio_weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    for device in &r.blkio_weight_device {
        if device.weight != 0 && !(10..=1000).contains(&device.weight) {
            return refuse(format!("invalid weight for device: {}:{}", device.path, device.weight));
        }
    }
    Ok(())
}

/// `--oom-score-adj`.
pub fn oom_score_adj(score: i64) -> Result<(), Invalid> {
    if (-1000..=1000).contains(&score) {
        Ok(())
    } else {
        refuse(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"))
    }
}

/// Merges what `update` asks for into what a container has, or refuses.
///
/// A zero means "leave as it is", as in Docker. The result is to be stored; what is to be written is
/// [`super::resources::of_update`] of the two.
pub fn update(current: &Resources, change: &Resources, machine: &Machine) -> Result<Resources, Invalid> {
    if change.nano_cpus > 0 && (current.cpu_quota > 0 || current.cpu_period > 0) {
        return refuse(
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota or CPU Period has already been set",
        );
    }
    if current.nano_cpus > 0 && change.cpu_quota > 0 {
        return refuse("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set");
    }
    if current.nano_cpus > 0 && change.cpu_period > 0 {
        return refuse("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set");
    }
    if change.memory > 0
        && change.memory_swap == 0
        && current.memory_swap > 0
        && change.memory > current.memory_swap
    {
        return refuse(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    let mut merged = current.clone();
    let number = |into: &mut i64, from: i64| {
        if from != 0 {
            *into = from;
        }
    };
    number(&mut merged.cpu_shares, change.cpu_shares);
    number(&mut merged.nano_cpus, change.nano_cpus);
    number(&mut merged.cpu_period, change.cpu_period);
    number(&mut merged.cpu_quota, change.cpu_quota);
    number(&mut merged.memory, change.memory);
    number(&mut merged.memory_swap, change.memory_swap);
    number(&mut merged.memory_reservation, change.memory_reservation);
    for (into, from) in [
        (&mut merged.memory_high, change.memory_high),
        (&mut merged.memory_min, change.memory_min),
        (&mut merged.cpu_burst, change.cpu_burst),
    ] {
        // Bulkhead's own can be taken back.
        number(into, from);
        *into = (*into).max(0);
    }
    for pages in &change.hugepage_limits {
        merged.hugepage_limits.retain(|have| have.page_size != pages.page_size);
        if pages.limit >= 0 {
            merged.hugepage_limits.push(pages.clone());
        }
    }
    if change.blkio_weight != 0 {
        merged.blkio_weight = change.blkio_weight;
    }
    for (into, from) in
        [(&mut merged.cpuset_cpus, &change.cpuset_cpus), (&mut merged.cpuset_mems, &change.cpuset_mems)]
    {
        if !from.is_empty() {
            into.clone_from(from);
        }
    }
    for (into, from) in [
        (&mut merged.blkio_device_read_bps, &change.blkio_device_read_bps),
        (&mut merged.blkio_device_write_bps, &change.blkio_device_write_bps),
        (&mut merged.blkio_device_read_iops, &change.blkio_device_read_iops),
        (&mut merged.blkio_device_write_iops, &change.blkio_device_write_iops),
    ] {
        for device in from {
            into.retain(|have| have.path != device.path);
            into.push(device.clone());
        }
    }
    for device in &change.blkio_weight_device {
        merged.blkio_weight_device.retain(|have| have.path != device.path);
        merged.blkio_weight_device.push(device.clone());
    }
    if change.pids_limit.is_some() {
        merged.pids_limit = change.pids_limit;
    }
    merged.oom_group = change.oom_group.or(merged.oom_group);
    create(&merged, machine)?;
    Ok(merged)
}

/// A list of CPUs or memory nodes: `0-2,4`. `None` for anything else, numbers above 8191 included: no
/// kernel is built for more, and a list is expanded in memory.
pub(crate) fn parse_list(list: &str) -> Option<Vec<u16>> {
    const MOST: u16 = 8191;
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|n| plain && *n <= MOST)
    };
    let mut numbers = Vec::new();
    for part in list.split(',') {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return None;
                }
                numbers.extend(first..=last);
            }
            None => numbers.push(number(part)?),
        }
        if numbers.len() > 2 * usize::from(MOST) {
            return None;
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WeightDevice;

    fn machine() -> Machine {
        Machine { cpus: 2, cpu_list: "0-1".into(), mem_list: "0".into() }
    }

    #[test]
    fn lists_as_people_write_them() {
        assert_eq!(parse_list("0-2,4"), Some(vec![0, 1, 2, 4]));
        assert_eq!(parse_list("1,1"), Some(vec![1, 1]));
        for odd in ["", ",", "1-", "-1", "2-1", "a", "1,", "0-4294967295", "8192", " 1", "+1", "0x1", "1-2-3"]
        {
            assert_eq!(parse_list(odd), None, "{odd:?}");
        }
        assert_eq!(parse_list(&["0-8191"; 100].join(",")), None, "a list that only wants memory");
    }

    #[test]
    fn what_docker_refuses_and_how() {
        let base = Resources::default();
        let mib = 1 << 20;
        for (resources, sentence) in [
            (Resources { memory: 1, ..base.clone() }, "Minimum memory limit allowed is 6MB"),
            (
                Resources { memory: -1, ..base.clone() },
                "invalid memory limit -1: a number of bytes, 0 for none",
            ),
            (
                Resources { memory: 64 * mib, memory_swap: 32 * mib, ..base.clone() },
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                Resources { memory_swap: 32 * mib, ..base.clone() },
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                Resources { memory_swappiness: Some(101), ..base.clone() },
                "Invalid value: 101, valid memory swappiness range is 0-100",
            ),
            (
                Resources { memory_reservation: 1024, ..base.clone() },
                "Minimum memory reservation allowed is 6MB",
            ),
            (
                Resources { memory: 8 * mib, memory_reservation: 9 * mib, ..base.clone() },
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ),
            (
                Resources { memory: 8 * mib, memory_high: 9 * mib, ..base.clone() },
                "Minimum memory limit can not be less than memory high limit, see usage",
            ),
            (
                Resources { memory: 8 * mib, memory_min: 9 * mib, ..base.clone() },
                "Minimum memory limit can not be less than memory min, see usage",
            ),
            (Resources { cpu_burst: -1, ..base.clone() }, "invalid CPU burst -1: microseconds, 0 for none"),
            (
                Resources { nano_cpus: 1, cpu_quota: 1, ..base.clone() },
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ),
            (
                Resources { nano_cpus: 3_000_000_000, ..base.clone() },
                "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                Resources { nano_cpus: 1_000_000, ..base.clone() },
                "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                Resources { cpu_period: 10, ..base.clone() },
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ),
            (
                Resources { cpu_quota: 10, ..base.clone() },
                "CPU cfs quota can not be less than 1ms (i.e. 1000)",
            ),
            (
                Resources { cpuset_cpus: "0-7".into(), ..base.clone() },
                "Requested CPUs are not available - requested 0-7, available: 0-1",
            ),
            (Resources { cpuset_cpus: "zero".into(), ..base.clone() }, "Invalid value zero for cpuset cpus"),
            (
                Resources { cpuset_mems: "3".into(), ..base.clone() },
                "Requested memory nodes are not available - requested 3, available: 0",
            ),
            (Resources { blkio_weight: 5, ..base.clone() }, "Range of blkio weight is from 10 to 1000"),
            (
                Resources {
                    blkio_weight_device: vec![WeightDevice { path: "/dev/vda".into(), weight: 7 }],
                    ..base.clone()
                },
                "invalid weight for device: /dev/vda:7",
            ),
        ] {
            assert_eq!(create(&resources, &machine()), Err(Invalid(sentence.into())), "{resources:?}");
        }
        assert_eq!(create(&base, &machine()), Ok(vec![]));
        let fine = Resources {
            memory: 8 * mib,
            memory_swap: -1,
            nano_cpus: 2_000_000_000,
            cpuset_cpus: "0,1".into(),
            cpuset_mems: "0".into(),
            ..base.clone()
        };
        assert_eq!(create(&fine, &machine()), Ok(vec![]));
        let undying = Resources { oom_kill_disable: Some(true), ..base };
        assert_eq!(create(&undying, &machine()).unwrap().len(), 1);
        assert!(oom_score_adj(1001).is_err() && oom_score_adj(-1000).is_ok());
    }

    #[test]
    fn updates_merge_or_conflict() {
        let mib = 1 << 20;
        let current = Resources {
            memory: 64 * mib,
            memory_swap: 128 * mib,
            nano_cpus: 500_000_000,
            ..Resources::default()
        };
        let merged = update(
            &current,
            &Resources { memory: 32 * mib, pids_limit: Some(-1), ..Resources::default() },
            &machine(),
        )
        .unwrap();
        assert_eq!((merged.memory, merged.memory_swap, merged.pids_limit), (32 * mib, 128 * mib, Some(-1)));
        let pages = |limit| vec![crate::config::HugepageLimit { page_size: "2MB".into(), limit }];
        let own = Resources {
            memory_high: 1,
            memory_min: 1,
            cpu_burst: 1,
            oom_group: Some(true),
            hugepage_limits: pages(0),
            ..Resources::default()
        };
        let kept = update(&own, &Resources { pids_limit: Some(1), ..Resources::default() }, &machine());
        assert_eq!(kept, Ok(Resources { pids_limit: Some(1), ..own.clone() }));
        let lift = Resources {
            memory_high: -1,
            memory_min: -1,
            cpu_burst: -1,
            oom_group: Some(false),
            hugepage_limits: pages(-1),
            ..Resources::default()
        };
        let lifted = update(&own, &lift, &machine());
        assert_eq!(lifted, Ok(Resources { oom_group: Some(false), ..Resources::default() }));
        for (change, sentence) in [
            (Resources { memory: 256 * mib, ..Resources::default() }, "already set memoryswap"),
            (Resources { cpu_quota: 50_000, ..Resources::default() }, "NanoCPUs has already been set"),
            (Resources { cpuset_cpus: "9".into(), ..Resources::default() }, "not available"),
            (Resources { memory_reservation: 128 * mib, ..Resources::default() }, "reservation"),
        ] {
            let error = update(&current, &change, &machine()).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }
}
