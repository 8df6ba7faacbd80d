//! `stats`: one reading, two a second apart, or one each second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_engine::container::{self, Container};
use bulkhead_engine::model::{Collector, Figures, Host, Parts};
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::App;
use crate::body::{Reply, reply, written};
use crate::error::Error;
use crate::router::Call;

/// Between two readings.
const SECOND: Duration = Duration::from_secs(1);
/// Between two looks at whether the client is still there.
const LOOK: Duration = Duration::from_millis(250);
const ZERO: &str = "0001-01-01T00:00:00Z";

/// One reading, with what the next is compared to.
struct Reading {
    time: String,
    cpu: Value,
    figures: Figures,
    host: Host,
}

/// Nanoseconds that all CPUs have spent, on whatever.
fn system_usage() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let ticks: u64 =
        first.split_whitespace().skip(1).take(8).filter_map(|text| text.parse::<u64>().ok()).sum();
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1);
    ticks.saturating_mul(1_000_000_000 / hertz.unsigned_abs())
}

fn read(collector: &mut Collector, container: &Container) -> Result<Reading, Error> {
    let figures = collector.read(container)?;
    let host = Host::totals()?;
    let cpu = figures.stats.as_ref().map_or_else(
        || {
            json!({"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
                  "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}})
        },
        |stats| {
            let throttling = stats.cpu.throttling.clone().unwrap_or_default();
            json!({
                "cpu_usage": {
                    "total_usage": stats.cpu.usage,
                    "usage_in_kernelmode": stats.cpu.system,
                    "usage_in_usermode": stats.cpu.user,
                },
                "system_cpu_usage": system_usage(),
                "online_cpus": host.cpus,
                "throttling_data": {
                    "periods": throttling.periods,
                    "throttled_periods": throttling.throttled,
                    "throttled_time": throttling.throttled_time,
                },
            })
        },
    );
    Ok(Reading { time: Timestamp::now().to_string(), cpu, figures, host })
}

fn memory(reading: &Reading) -> Value {
    let Some(memory) = reading.figures.stats.as_ref().and_then(|stats| stats.memory.as_ref()) else {
        return json!({});
    };
    let of = &memory.breakdown;
    let mut detail = Map::new();
    let known = [
        ("anon", of.anon),
        ("file", of.file),
        ("shmem", of.shmem),
        ("file_mapped", of.mapped),
        ("file_dirty", of.dirty),
        ("file_writeback", of.writeback),
        ("inactive_file", of.inactive_file),
        ("active_file", of.active_file),
        ("inactive_anon", of.inactive_anon),
        ("active_anon", of.active_anon),
        ("unevictable", of.unevictable),
        ("pgfault", of.pgfault),
        ("pgmajfault", of.pgmajfault),
        // Under the name that clients of v1 hosts look for.
        ("total_inactive_file", of.inactive_file),
    ];
    detail.extend(known.map(|(name, value)| (name.to_owned(), value.into())));
    let mut shown = json!({
        "usage": memory.usage, "limit": reading.figures.memory_limit(&reading.host), "stats": detail,
    });
    if let Some(failures) = memory.failcnt {
        shown["failcnt"] = failures.into();
    }
    if let Some(peak) = memory.peak {
        shown["max_usage"] = peak.into();
    }
    shown
}

fn io(figures: &Figures) -> Value {
    let devices = figures.stats.iter().flat_map(|stats| stats.io.iter().flatten());
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for device in devices {
        let entry = |op: &str, value: u64| json!({"major": device.major, "minor": device.minor, "op": op, "value": value});
        bytes.extend([entry("read", device.read_bytes), entry("write", device.write_bytes)]);
        operations.extend([entry("read", device.reads), entry("write", device.writes)]);
    }
    json!({"io_service_bytes_recursive": bytes, "io_serviced_recursive": operations})
}

fn shown(container: &Container, before: Option<&Reading>, now: &Reading) -> Value {
    let networks: BTreeMap<&str, Value> = now
        .figures
        .network
        .interfaces()
        .iter()
        .map(|interface| {
            let (received, sent) = (&interface.received, &interface.sent);
            let figures = json!({
                "rx_bytes": received.bytes, "rx_packets": received.packets, "rx_errors": received.errors,
                "rx_dropped": received.dropped, "tx_bytes": sent.bytes, "tx_packets": sent.packets,
                "tx_errors": sent.errors, "tx_dropped": sent.dropped,
            });
            (interface.name.as_str(), figures)
        })
        .collect();
    let pids = now.figures.stats.as_ref().map(|stats| &stats.pids);
    let mut tasks = json!({"current": pids.map_or(0, |pids| pids.current)});
    if let Some(limit) = pids.and_then(|pids| pids.limit) {
        tasks["limit"] = limit.into();
    }
    let nothing = || {
        json!({"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
                            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}})
    };
    let mut value = json!({
        "name": format!("/{}", container.name),
        "id": container.id,
        "read": now.time,
        "preread": before.map_or(ZERO, |before| before.time.as_str()),
        "pids_stats": tasks,
        "blkio_stats": io(&now.figures),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": now.cpu,
        "precpu_stats": before.map_or_else(nothing, |before| before.cpu.clone()),
        "memory_stats": memory(now),
    });
    if !networks.is_empty() {
        value["networks"] = json!(networks);
    }
    value
}

/// `GET /containers/NAME/stats`
pub async fn stats(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let stream = call.query.is_not_off("stream");
    let once = call.query.is("one-shot");
    if stream && once {
        return Err(Error::bad("cannot have stream=true and one-shot=true"));
    }
    let (name, app) = (name.to_owned(), app.clone());
    let body = written(move |output| {
        let store = app.store()?;
        let mut container = container::find(&store, &name)?;
        let mut collector = Collector::new(Parts { network: true, brief: true, ..Parts::default() });
        output.begin();
        let mut before = None;
        loop {
            let now = read(&mut collector, &container)?;
            // A client that asks for one answer wants a rate in it, unless it says otherwise.
            if stream || once || before.is_some() || !container.state.status.is_alive() {
                output.line(&shown(&container, before.as_ref(), &now))?;
                if !stream {
                    return Ok(());
                }
            }
            before = Some(now);
            let mut slept = Duration::ZERO;
            while slept < SECOND {
                std::thread::sleep(LOOK);
                slept += LOOK;
                if output.is_gone() {
                    return Ok(());
                }
            }
            container = match container::find(&store, &container.id) {
                Err(container::Error::NoSuchContainer(_)) => return Ok(()),
                other => other?,
            };
        }
    })
    .await?;
    Ok(reply(StatusCode::OK, "application/json", body))
}
