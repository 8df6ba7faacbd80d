//! `update`.

use std::io::{self, Write as _};

use bulkhead_engine::config::Resources;
use bulkhead_engine::container::{self, lifecycle};

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::container::UpdateArgs;
use crate::failure::Failure;
use crate::options::restart;

/// `bulkhead update`
pub fn run(globals: &Globals, args: &UpdateArgs) -> Result<u8, Failure> {
    let restart = args
        .restart
        .as_deref()
        .map(restart::policy)
        .transpose()
        .map_err(|refusal| Failure::plain(refusal.to_string()))?;
    let change = change(args);
    // A zero changes nothing, and is a flag all the same.
    let zero = [
        args.cpu_burst,
        args.cpu_period,
        args.cpu_quota,
        args.cpu_shares,
        args.memory,
        args.memory_high,
        args.memory_min,
        args.memory_reservation,
        args.memory_swap,
        args.cpus,
        args.blkio_weight.map(i64::from),
    ];
    let given = zero.iter().any(Option::is_some) || args.cpuset_cpus.is_some() || args.cpuset_mems.is_some();
    if !given && change == Resources::default() && restart.is_none() {
        return Err(Failure::plain("you must provide one or more flags when using this command"));
    }
    let mut store = store(globals)?;
    let mut failures = Vec::new();
    for name in &args.containers {
        let updated = container::find(&store, name)
            .and_then(|found| lifecycle::update(&mut store, &found, restart.clone(), &change));
        match updated {
            Ok(warnings) => {
                for warning in warnings {
                    let _ = writeln!(io::stderr(), "WARNING: {warning}");
                }
                writeln!(io::stdout(), "{name}").map_err(|error| Failure::stdout(&error))?;
            }
            Err(error) => failures.push(format!("Error response from daemon: {error}")),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::lines(&failures)) }
}

/// What the flags ask for; zero is "as it is".
fn change(args: &UpdateArgs) -> Resources {
    Resources {
        blkio_weight: args.blkio_weight.unwrap_or_default(),
        blkio_device_read_bps: args.device_read_bps.clone(),
        blkio_device_read_iops: args.device_read_iops.clone(),
        blkio_device_write_bps: args.device_write_bps.clone(),
        blkio_device_write_iops: args.device_write_iops.clone(),
        cpu_burst: args.cpu_burst.unwrap_or_default(),
        cpu_period: args.cpu_period.unwrap_or_default(),
        cpu_quota: args.cpu_quota.unwrap_or_default(),
        cpu_shares: args.cpu_shares.unwrap_or_default(),
        cpuset_cpus: args.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: args.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: args.hugetlb.clone(),
        memory: args.memory.unwrap_or_default(),
        memory_high: args.memory_high.unwrap_or_default(),
        memory_min: args.memory_min.unwrap_or_default(),
        memory_reservation: args.memory_reservation.unwrap_or_default(),
        memory_swap: args.memory_swap.unwrap_or_default(),
        nano_cpus: args.cpus.unwrap_or_default(),
        oom_group: args.oom_group,
        pids_limit: args.pids_limit,
        ..Resources::default()
    }
}
