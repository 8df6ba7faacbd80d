//! A container as Docker's `inspect` shows it, and the sentence that `ps` has for its state.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Container, Error, State, Status, spec};
use crate::cgroup::{Ceiling, Cgroup};
use crate::config::{HostConfig, MountPoint};
use crate::digest::Digest;
use crate::runtime::defaults;
use crate::store::Store;
use crate::time;
use crate::{image, layer};

/// Docker's sentence on a container's state: `Up 2 minutes (healthy)`.
pub fn status(state: &State, now: Timestamp) -> String {
    let up = || time::elapsed(time::since(&state.started_at, now));
    let down = || time::elapsed(time::since(&state.finished_at, now));
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => match state.health.as_ref().map(|health| health.status.as_str()) {
            None | Some("" | "none") => format!("Up {}", up()),
            Some("starting") => format!("Up {} (health: starting)", up()),
            Some(health) => format!("Up {} ({health})", up()),
        },
        Status::Paused => format!("Up {} (Paused)", up()),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, down()),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, down()),
    }
}

/// What `network_mode` stands for.
pub fn network(host: &HostConfig) -> &str {
    match host.network_mode.as_str() {
        "" | "default" => "bridge",
        mode => mode,
    }
}

/// Bytes of the writable layer, and of it with the layers below; `None` when it could not be measured, or
/// not the whole of it.
pub fn sizes(store: &Store, container: &Container) -> Option<(u64, u64)> {
    let own = layer::disk_usage(&container.dir(store.layout()).join("upper")).ok()?.known()?;
    let image = container.image.and_then(|id| image::get(store, &id).ok().flatten());
    let below = image.map_or(0, |image| image.size);
    Some((own, own + below))
}

/// What a mount is of: a volume's name, or a path.
pub fn mount_name(mount: &MountPoint) -> &str {
    if mount.name.is_empty() { &mount.source } else { &mount.name }
}

fn state(container: &Container) -> Value {
    let state = &container.state;
    let mut shown = json!({
        "Status": state.status.as_str(),
        "Running": state.status.is_alive(),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started_at,
        "FinishedAt": state.finished_at,
        "OOMKills": state.oom_kills,
    });
    if let (Some(oom), Value::Object(fields)) = (&state.oom, &mut shown) {
        fields.insert("OOM".to_owned(), json!(oom));
    }
    if let (Some(health), Value::Object(fields)) = (&state.health, &mut shown) {
        let log: Vec<Value> = health
            .log
            .iter()
            .map(|probe| {
                json!({"Start": probe.start, "End": probe.end, "ExitCode": probe.exit_code, "Output": probe.output})
            })
            .collect();
        let health = json!({"Status": health.status, "FailingStreak": health.failing_streak, "Log": log});
        fields.insert("Health".to_owned(), health);
    }
    shown
}

/// The limits in force as the kernel holds them, rounded or clipped as it pleases; -1 is unlimited, and what this
/// host has no such limit for is left out. Nothing for a container that does not run.
fn limits(container: &Container) -> Option<Value> {
    if !container.state.status.is_alive() {
        return None;
    }
    // It may end at this moment.
    let cgroup = Cgroup::open(&container.record.cgroup_parent, &container.id).ok()?;
    let limits = cgroup.limits().ok()?;
    let pages = cgroup.hugepage_limits().unwrap_or_default();
    let ceiling = |ceiling: Ceiling| match ceiling {
        Ceiling::Unlimited => json!(-1),
        Ceiling::At(value) => json!(value),
    };
    let mut shown = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            shown.insert(name.to_owned(), value);
        }
    };
    put("Memory", limits.memory.map(ceiling));
    put("MemorySwap", limits.memory_swap.map(ceiling));
    put("MemoryHigh", limits.memory_high.map(ceiling));
    put("MemoryReservation", limits.memory_reservation.map(ceiling));
    put("MemoryMin", limits.memory_min.map(ceiling));
    put("OomGroup", limits.oom_group.map(Value::from));
    put("CpuQuota", limits.cpu_quota.map(ceiling));
    put("CpuPeriod", limits.cpu_period.map(Value::from));
    put("CpuBurst", limits.cpu_burst.map(Value::from));
    put("CpuWeight", limits.cpu_weight.map(Value::from));
    put("CpuShares", limits.cpu_shares.map(Value::from));
    put("CpusetCpus", limits.cpuset_cpus.map(Value::from));
    put("CpusetMems", limits.cpuset_mems.map(Value::from));
    put("Pids", limits.pids.map(ceiling));
    let rate = |rate: Option<u64>| rate.map_or(json!(-1), Value::from);
    let io: Vec<Value> = limits
        .io
        .iter()
        .map(|max| {
            json!({
                "Device": format!("{}:{}", max.major, max.minor),
                "ReadBps": rate(max.read_bps), "WriteBps": rate(max.write_bps),
                "ReadIOps": rate(max.read_iops), "WriteIOps": rate(max.write_iops),
            })
        })
        .collect();
    put("Io", Some(io.into()));
    let pages: Map<String, Value> = pages.into_iter().map(|(size, limit)| (size, ceiling(limit))).collect();
    put("HugePages", (!pages.is_empty()).then(|| pages.into()));
    Some(Value::Object(shown))
}

/// A `--mount` under the names that Docker has for what was asked for.
fn asked_mount(mount: &MountPoint) -> Value {
    let mut shown = Map::new();
    shown.insert("Type".into(), mount.kind.as_str().into());
    if mount.kind != "tmpfs" {
        shown.insert("Source".into(), mount_name(mount).into());
    }
    shown.insert("Target".into(), mount.destination.as_str().into());
    if !mount.rw {
        shown.insert("ReadOnly".into(), true.into());
    }
    // What is asked of a kind besides is kept as words.
    let word = |name: &str| mount.mode.split(',').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let mut options = Map::new();
    match mount.kind.as_str() {
        "bind" => {
            if !mount.propagation.is_empty() {
                options.insert("Propagation".into(), mount.propagation.as_str().into());
            }
            for (word, name) in
                [("nonrecursive", "NonRecursive"), ("nonrecursive-readonly", "ReadOnlyNonRecursive")]
            {
                if mount.mode.split(',').any(|asked| asked == word) {
                    options.insert(name.into(), true.into());
                }
            }
        }
        "tmpfs" => {
            if let Some(size) = word("size").and_then(|size| size.parse::<u64>().ok()) {
                options.insert("SizeBytes".into(), size.into());
            }
            if let Some(bits) = word("mode").and_then(|bits| u32::from_str_radix(bits, 8).ok()) {
                options.insert("Mode".into(), bits.into());
            }
        }
        _ => {}
    }
    if !options.is_empty() {
        let name = if mount.kind == "bind" { "BindOptions" } else { "TmpfsOptions" };
        shown.insert(name.into(), options.into());
    }
    if let Some(options) = &mount.volume_options {
        shown.insert("VolumeOptions".into(), json!(options));
    }
    Value::Object(shown)
}

/// What images' names stand for, each looked up once.
#[derive(Debug, Default)]
pub struct ImageNames(HashMap<String, Option<Digest>>);

impl ImageNames {
    /// The id of the image that a container was made from, where the name it was made by is not that image's: a tag
    /// may have moved on since, or be gone.
    pub fn nameless(&mut self, store: &Store, container: &Container) -> Option<Digest> {
        let name = &container.record.config.image;
        let found = |name: &String| crate::image::find(store, name).ok().map(|image| image.id);
        container.image.filter(|id| *self.0.entry(name.clone()).or_insert_with_key(found) != Some(*id))
    }
}

/// What is mounted in a container beside its root, as `inspect` prints it.
pub fn mounts(container: &Container) -> Vec<Value> {
    let shown = |mount: &MountPoint| {
        let mut shown = Map::new();
        shown.insert("Type".into(), mount.kind.as_str().into());
        if mount.kind == "volume" {
            shown.insert("Name".into(), mount.name.as_str().into());
        }
        shown.insert("Source".into(), mount.source.as_str().into());
        shown.insert("Destination".into(), mount.destination.as_str().into());
        if mount.kind == "volume" {
            shown.insert("Driver".into(), "local".into());
        }
        // Of a tmpfs it is what it is limited to, which Docker shows elsewhere.
        let mode = if mount.kind == "tmpfs" { "" } else { mount.mode.as_str() };
        shown.insert("Mode".into(), mode.into());
        shown.insert("RW".into(), mount.rw.into());
        shown.insert("Propagation".into(), mount.propagation.as_str().into());
        Value::Object(shown)
    };
    container.record.mounts.iter().map(shown).collect()
}

/// What `inspect` prints of a container.
pub fn inspect(store: &Store, container: &Container, size: Option<(u64, u64)>) -> Result<Value, Error> {
    let broken = |source| Error::Record { id: container.id.clone(), source };
    let layout = store.layout();
    let record = &container.record;
    let etc = layout.etc(&container.id);
    let file = |name: &str| etc.join(name).to_string_lossy().into_owned();
    let logs = if record.host_config.log_config.driver == "none" {
        String::new()
    } else {
        container.log_path(layout).to_string_lossy().into_owned()
    };
    // Overlay's order: the uppermost layer first.
    let lower: Vec<String> = record
        .chain
        .iter()
        .rev()
        .map(|id| layout.layers().join(id.0.hex()).join("diff").to_string_lossy().into_owned())
        .collect();
    let writable = |name: &str| container.dir(layout).join(name).to_string_lossy().into_owned();
    let runs = container.state.pid > 0 && container.state.status.is_alive();
    // The overlay is mounted in the container's own mount namespace and nowhere else: this is the way to it.
    let merged = if runs { format!("/proc/{}/root", container.state.pid) } else { writable("merged") };
    let sandbox = if runs { format!("/proc/{}/ns/net", container.state.pid) } else { String::new() };
    let mut host_config = serde_json::to_value(&record.host_config).map_err(broken)?;
    let host = &record.host_config;
    host_config["Mounts"] = host.mounts.iter().map(asked_mount).collect();
    host_config["CgroupnsMode"] = if spec::shares_cgroups(host) { "host" } else { "private" }.into();
    // What a privileged container is not kept from is nothing; an empty list was asked for.
    if !host.privileged && !spec::paths_are_open(host) {
        for (name, asked, default) in [
            ("MaskedPaths", &host.masked_paths, defaults::masked_paths as fn() -> Vec<String>),
            ("ReadonlyPaths", &host.readonly_paths, defaults::readonly_paths),
        ] {
            host_config[name] = asked.clone().unwrap_or_else(default).into();
        }
    }
    let mut shown = json!({
        "Id": container.id,
        "Created": container.created,
        "Path": record.path,
        "Args": record.args,
        "State": state(container),
        "Image": container.image.map(|id| id.to_string()).unwrap_or_default(),
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": logs,
        "Name": format!("/{}", container.name),
        "RestartCount": container.state.restart_count,
        "Driver": "overlay2",
        "Platform": record.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config,
        "GraphDriver": {
            "Data": {
                "ID": container.id,
                "LowerDir": lower.join(":"),
                "MergedDir": merged,
                "UpperDir": writable("upper"),
                "WorkDir": writable("work"),
            },
            "Name": "overlay2",
        },
        "Mounts": mounts(container),
        "Config": serde_json::to_value(&record.config).map_err(broken)?,
        "NetworkSettings": {
            "Bridge": "", "SandboxID": "", "SandboxKey": sandbox, "Ports": {}, "HairpinMode": false,
            "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": null,
            "SecondaryIPv6Addresses": null, "EndpointID": "", "Gateway": "", "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0, "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "",
        },
    });
    if let Value::Object(fields) = &mut shown {
        fields.insert("Limits".into(), limits(container).into());
    }
    let settings = serde_json::to_value(super::network::settings(store, container)?).map_err(broken)?;
    if let (Some(Value::Object(all)), Value::Object(settings)) = (shown.get_mut("NetworkSettings"), settings)
    {
        all.extend(settings);
    }
    if let (Some((own, whole)), Value::Object(fields)) = (size, &mut shown) {
        fields.insert("SizeRw".into(), own.into());
        fields.insert("SizeRootFs".into(), whole.into());
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: Status) -> State {
        State {
            status,
            started_at: "2026-01-01T00:00:00.5Z".into(),
            finished_at: "2026-01-01T00:01:57Z".into(),
            exit_code: 3,
            ..State::default()
        }
    }

    #[test]
    fn sentences() {
        let now: Timestamp = "2026-01-01T00:02:00Z".parse().expect("time");
        for (state, want) in [
            (Status::Created, "Created"),
            (Status::Running, "Up 2 minutes"),
            (Status::Paused, "Up 2 minutes (Paused)"),
            (Status::Exited, "Exited (3) 3 seconds ago"),
            (Status::Restarting, "Restarting (3) 3 seconds ago"),
        ] {
            assert_eq!(status(&ended(state), now), want);
        }
    }
}
