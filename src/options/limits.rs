//! Limits looked at together: the combinations Docker's daemon refuses, and what `update` changes.

use bulkhead_engine::config::{HostConfig, Resources, RestartPolicy};

use super::create::Refusal;
use crate::cli::container::UpdateArgs;

/// `--restart no|always|unless-stopped|on-failure[:N]`.
pub fn restart(text: &str) -> Result<RestartPolicy, Refusal> {
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    let invalid = |why: &str| Err(Refusal::Daemon(format!("invalid restart policy: {why}")));
    let count = match count {
        None | Some("") => 0,
        Some(count) => count.parse::<i64>().map_err(|_| {
            Refusal::Client(
                "invalid restart policy format: maximum retry count must be an integer".to_owned(),
            )
        })?,
    };
    match name {
        "" | "no" | "always" | "unless-stopped" if count != 0 => {
            invalid("maximum retry count can only be used with 'on-failure'")
        }
        _ if count < 0 || count > i64::from(u32::MAX) => invalid("maximum retry count cannot be negative"),
        "" | "no" | "always" | "unless-stopped" | "on-failure" => Ok(RestartPolicy {
            name: if name.is_empty() { "no" } else { name }.to_owned(),
            maximum_retry_count: count as u32,
        }),
        other => invalid(&format!(
            "unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )),
    }
}

/// A CPU or node list: `0-3,5`.
fn is_list(text: &str) -> bool {
    text.split(',').all(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.trim().parse::<u16>(), last.trim().parse::<u16>()), (Ok(first), Ok(last)) if first <= last)
    })
}

/// Refuses what makes no sense together, for a host with `cpus` processors.
pub fn check(resources: &Resources, cpus: usize) -> Result<(), Refusal> {
    const LEAST: i64 = 6 << 20;
    let r = resources;
    let refuse = |why: String| Err(Refusal::Daemon(why));
    let say = |why: &str| Err(Refusal::Daemon(why.to_owned()));
    if r.memory != 0 && r.memory < LEAST {
        return say("Minimum memory limit allowed is 6MB");
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return say("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if r.memory == 0 && r.memory_swap > 0 {
        return say("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if r.memory_reservation > 0 && r.memory_reservation < LEAST {
        return say("Minimum memory reservation allowed is 6MB");
    }
    if r.memory > 0 && r.memory_reservation > 0 && r.memory < r.memory_reservation {
        return say("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if r.memory_high > 0 && r.memory_high < LEAST {
        return say("Minimum memory high limit allowed is 6MB");
    }
    if r.nano_cpus != 0 {
        if r.cpu_period != 0 {
            return say("Conflicting options: Nano CPUs and CPU Period cannot both be set");
        }
        if r.cpu_quota != 0 {
            return say("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
        }
        if r.nano_cpus < 0 || r.nano_cpus > cpus as i64 * 1_000_000_000 {
            return refuse(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            ));
        }
        // The kernel's shortest quota is 1 ms of a period of 100 ms.
        if r.nano_cpus < 10_000_000 {
            return refuse(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            ));
        }
    }
    if r.cpu_shares < 0 {
        return refuse(format!("invalid CPU shares ({}): value must be a positive integer", r.cpu_shares));
    }
    if r.cpu_period != 0 && !(1_000..=1_000_000).contains(&r.cpu_period) {
        return say("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1_000 {
        return say("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    for (list, kind) in [(&r.cpuset_cpus, "cpus"), (&r.cpuset_mems, "mems")] {
        if !list.is_empty() && !is_list(list) {
            return refuse(format!("Invalid value {list} for cpuset {kind}"));
        }
    }
    if r.blkio_weight != 0 && !(10..=1000).contains(&r.blkio_weight) {
        return say("Range of blkio weight is from 10 to 1000");
    }
    Ok(())
}

/// `update`: what the flags change in a container's host configuration.
pub fn update(args: &UpdateArgs, current: &HostConfig, cpus: usize) -> Result<HostConfig, Refusal> {
    let mut host = current.clone();
    let r = &mut host.resources;
    let set = |field: &mut i64, value: Option<i64>| {
        if let Some(value) = value {
            *field = value;
        }
    };
    set(&mut r.cpu_period, args.cpu_period);
    set(&mut r.cpu_quota, args.cpu_quota);
    set(&mut r.cpu_shares, args.cpu_shares);
    set(&mut r.nano_cpus, args.cpus);
    set(&mut r.memory, args.memory);
    set(&mut r.memory_high, args.memory_high);
    set(&mut r.memory_reservation, args.memory_reservation);
    set(&mut r.memory_swap, args.memory_swap);
    if let Some(weight) = args.blkio_weight {
        r.blkio_weight = weight;
    }
    if let Some(list) = &args.cpuset_cpus {
        r.cpuset_cpus.clone_from(list);
    }
    if let Some(list) = &args.cpuset_mems {
        r.cpuset_mems.clone_from(list);
    }
    if let Some(limit) = args.pids_limit {
        r.pids_limit = Some(limit);
    }
    if let Some(group) = args.oom_group {
        r.oom_group = group;
    }
    // A new limit above an old swap limit is the mistake everybody makes; Docker words it so.
    if args.memory.is_some() && args.memory_swap.is_none() && r.memory_swap > 0 && r.memory > r.memory_swap {
        return Err(Refusal::Daemon(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
                .to_owned(),
        ));
    }
    check(r, cpus)?;
    if let Some(policy) = &args.restart {
        host.restart_policy = restart(policy)?;
        if host.auto_remove && host.restart_policy.name != "no" {
            return Err(Refusal::Daemon(
                "Restart policy cannot be updated because AutoRemove is enabled for the container".to_owned(),
            ));
        }
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations() {
        let memory = |memory, memory_swap, memory_reservation| Resources {
            memory,
            memory_swap,
            memory_reservation,
            ..Resources::default()
        };
        let rows: Vec<(Resources, Option<&str>)> = vec![
            (Resources::default(), None),
            (memory(512 << 20, -1, 256 << 20), None),
            (memory(512 << 20, 512 << 20, 0), None),
            (memory(1, 0, 0), Some("Minimum memory limit allowed is 6MB")),
            (
                memory(64 << 20, 32 << 20, 0),
                Some("Minimum memoryswap limit should be larger than memory limit, see usage"),
            ),
            (
                memory(0, 32 << 20, 0),
                Some("You should always set the Memory limit when using Memoryswap limit, see usage"),
            ),
            (
                memory(64 << 20, 0, 65 << 20),
                Some("Minimum memory limit can not be less than memory reservation limit, see usage"),
            ),
            (Resources { nano_cpus: 2_000_000_000, ..Resources::default() }, None),
            (
                Resources { nano_cpus: 2_000_000_001, ..Resources::default() },
                Some("range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
            ),
            (
                Resources { nano_cpus: 500_000_000, cpu_quota: 5, ..Resources::default() },
                Some("Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
            ),
            (
                Resources { cpu_shares: -1, ..Resources::default() },
                Some("invalid CPU shares (-1): value must be a positive integer"),
            ),
            (Resources { cpuset_cpus: "0-1,3".into(), ..Resources::default() }, None),
            (
                Resources { cpuset_cpus: "a".into(), ..Resources::default() },
                Some("Invalid value a for cpuset cpus"),
            ),
            (
                Resources { blkio_weight: 5, ..Resources::default() },
                Some("Range of blkio weight is from 10 to 1000"),
            ),
        ];
        for (resources, want) in rows {
            let got = check(&resources, 2).err().map(|refusal| refusal.to_string());
            assert_eq!(got, want.map(|want| format!("Error response from daemon: {want}")), "{resources:?}");
        }
    }

    #[test]
    fn restart_policies() {
        let policy =
            |name: &str, maximum_retry_count| Ok(RestartPolicy { name: name.into(), maximum_retry_count });
        assert_eq!(restart("no"), policy("no", 0));
        assert_eq!(restart("on-failure:3"), policy("on-failure", 3));
        assert_eq!(restart("always"), policy("always", 0));
        for (text, want) in [
            (
                "foo",
                "Error response from daemon: invalid restart policy: unknown policy 'foo'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            ),
            (
                "always:3",
                "Error response from daemon: invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ),
            (
                "on-failure:-1",
                "Error response from daemon: invalid restart policy: maximum retry count cannot be negative",
            ),
            ("on-failure:x", "invalid restart policy format: maximum retry count must be an integer"),
        ] {
            assert_eq!(restart(text).expect_err(text).to_string(), want);
        }
    }
}
