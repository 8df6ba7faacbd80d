//! `oci events`: a container's figures as runc prints them, one JSON object a line.
//!
//! The callers are programs that were written against runc, so the names and the nesting are runc's. A
//! figure that this host's cgroups do not have is left out: a zero would be a lie.

use std::time::{Duration, Instant};

use bulkhead_engine::cgroup::stats::{Device, Memory, Stats};
use bulkhead_engine::runtime::oci::{Container, Status};
use serde_json::{Value, json};

use super::{Error, say};
use crate::cli::oci::EventsArgs;

/// How often it is asked whether somebody was killed for memory, and whether the container still runs.
const TICK: Duration = Duration::from_millis(200);

/// What runc writes where there is no limit.
const UNLIMITED: u64 = u64::MAX;

pub(super) fn events(mut container: Container, args: &EventsArgs) -> Result<u8, Error> {
    container.release();
    let container = &container;
    let id = &container.record.id;
    let refused = || Err(Error::Usage(format!("container {id} is not running")));
    if !alive(container) {
        return refused();
    }
    let cgroup = container.cgroup()?;
    let meter = cgroup.meter()?;
    let figures = |stats: &Stats| line(&json!({"type": "stats", "data": data(stats), "id": id}));
    if args.stats {
        figures(&meter.read()?)?;
        return Ok(0);
    }
    let kills = || -> Result<u64, Error> { Ok(cgroup.oom_kills()?.unwrap_or(0)) };
    let (mut seen, mut next) = (kills()?, Instant::now() + args.interval);
    while alive(container) {
        std::thread::sleep(TICK.min(args.interval));
        // The cgroup goes with the container, perhaps between our question and our read.
        let Ok(now) = kills() else { break };
        for _ in seen..now {
            line(&json!({"type": "oom", "id": id}))?;
        }
        seen = now;
        if Instant::now() >= next {
            let Ok(stats) = meter.read() else { break };
            figures(&stats)?;
            next += args.interval;
        }
    }
    Ok(0)
}

fn alive(container: &Container) -> bool {
    matches!(container.status(), Status::Running | Status::Paused)
}

fn line(value: &Value) -> Result<(), Error> {
    say(&format!("{value}\n"))
}

fn data(stats: &Stats) -> Value {
    let mut cpu = json!({
        "usage": {"total": stats.cpu.usage, "kernel": stats.cpu.system, "user": stats.cpu.user},
    });
    if let Some(throttling) = &stats.cpu.throttling {
        cpu["throttling"] = json!({
            "periods": throttling.periods,
            "throttledPeriods": throttling.throttled,
            "throttledTime": throttling.throttled_time,
        });
    }
    let mut data = json!({
        "cpu": cpu,
        "pids": {"current": stats.pids.current, "limit": stats.pids.limit.unwrap_or(0)},
    });
    if let Some(memory) = &stats.memory {
        data["memory"] = usage(memory);
    }
    if let Some(devices) = &stats.io {
        let each = |figures: fn(&Device) -> [(&'static str, u64); 2]| -> Vec<Value> {
            let of = |device: &Device| {
                figures(device).map(
                    |(op, value)| json!({"major": device.major, "minor": device.minor, "op": op, "value": value}),
                )
            };
            devices.iter().flat_map(of).collect()
        };
        data["blkio"] = json!({
            "ioServiceBytesRecursive": each(|d| [("Read", d.read_bytes), ("Write", d.write_bytes)]),
            "ioServicedRecursive": each(|d| [("Read", d.reads), ("Write", d.writes)]),
        });
    }
    data
}

fn usage(memory: &Memory) -> Value {
    let mut usage = json!({"usage": memory.usage, "limit": memory.limit.unwrap_or(UNLIMITED)});
    for (name, value) in [("max", memory.peak), ("failcnt", memory.failcnt)] {
        if let Some(value) = value {
            usage[name] = value.into();
        }
    }
    let parts = &memory.breakdown;
    let mut shown = json!({
        "usage": usage,
        "cache": parts.file,
        "raw": {
            "anon": parts.anon,
            "file": parts.file,
            "shmem": parts.shmem,
            "file_mapped": parts.mapped,
            "file_dirty": parts.dirty,
            "file_writeback": parts.writeback,
            "active_anon": parts.active_anon,
            "inactive_anon": parts.inactive_anon,
            "active_file": parts.active_file,
            "inactive_file": parts.inactive_file,
            "unevictable": parts.unevictable,
        },
    });
    if let Some(swap) = memory.swap {
        shown["swap"] = json!({"usage": swap});
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_does_not_have_is_left_out() {
        let mut stats = Stats::default();
        stats.cpu.usage = 7;
        let shown = data(&stats);
        assert_eq!(shown["cpu"]["usage"]["total"], 7);
        assert!(shown.get("memory").is_none() && shown.get("blkio").is_none());
        assert!(shown["cpu"].get("throttling").is_none());
        stats.memory = Some(Memory { usage: 5, peak: Some(9), ..Memory::default() });
        stats.io = Some(vec![Device { major: 8, minor: 1, read_bytes: 3, ..Device::default() }]);
        let shown = data(&stats);
        assert_eq!(shown["memory"]["usage"], json!({"usage": 5, "limit": UNLIMITED, "max": 9}));
        let first = &shown["blkio"]["ioServiceBytesRecursive"][0];
        assert_eq!(*first, json!({"major": 8, "minor": 1, "op": "Read", "value": 3}));
    }
}
