//! What JSON does not say of Docker's Go types: which fields there are that are left out when empty, and
//! which have another name in Go.
//!
//! Docker's client executes a template on its own structures first and on the daemon's JSON when that fails, so
//! both names work and what is nil is there. A structure is known here by fields that it always has.

use super::exec::Shape;
use serde_json::{Value, json};

/// What of a structure its JSON does not show.
struct Type {
    /// Fields that only this structure has together.
    marks: &'static [&'static str],
    /// Names in Go and in JSON; of an embedded structure, whose fields JSON shows in their place, the latter is empty.
    renamed: &'static [(&'static str, &'static str)],
    /// Fields left out of JSON when they are empty.
    omitted: &'static [(&'static str, Zero)],
}

/// Go's zero values.
#[derive(Clone, Copy)]
enum Zero {
    Pointer,
    Map,
    List,
    Text,
    Number,
    False,
}

impl Zero {
    fn value(self) -> (Value, Shape) {
        match self {
            Self::Pointer => (Value::Null, Shape::Pointer),
            Self::Map => (Value::Null, Shape::Map),
            Self::List => (Value::Null, Shape::Plain),
            Self::Text => (json!(""), Shape::Plain),
            Self::Number => (json!(0), Shape::Plain),
            Self::False => (json!(false), Shape::Plain),
        }
    }
}

use Zero::{False, List, Map, Number, Pointer, Text};

const TYPES: &[Type] = &[
    // container.InspectResponse
    Type {
        marks: &["HostConfig", "State"],
        renamed: &[("ID", "Id"), ("ContainerJSONBase", "")],
        omitted: &[("SizeRw", Pointer), ("SizeRootFs", Pointer), ("ImageManifestDescriptor", Pointer)],
    },
    // container.State
    Type { marks: &["OOMKilled", "StartedAt"], renamed: &[], omitted: &[("Health", Pointer)] },
    // container.HostConfig, and its Resources
    Type {
        marks: &["NetworkMode", "RestartPolicy"],
        renamed: &[
            ("Resources", ""),
            ("CPUShares", "CpuShares"),
            ("NanoCPUs", "NanoCpus"),
            ("CPUPeriod", "CpuPeriod"),
            ("CPUQuota", "CpuQuota"),
            ("CPURealtimePeriod", "CpuRealtimePeriod"),
            ("CPURealtimeRuntime", "CpuRealtimeRuntime"),
            ("CPUCount", "CpuCount"),
            ("CPUPercent", "CpuPercent"),
            ("DNS", "Dns"),
            ("DNSOptions", "DnsOptions"),
            ("DNSSearch", "DnsSearch"),
        ],
        omitted: &[
            ("Annotations", Map),
            ("StorageOpt", Map),
            ("Tmpfs", Map),
            ("Sysctls", Map),
            ("Mounts", List),
            ("Init", Pointer),
            ("KernelMemory", Number),
            ("KernelMemoryTCP", Number),
            ("Isolation", Text),
            ("ContainerIDFile", Text),
            ("CpuCount", Number),
            ("CpuPercent", Number),
            ("CpuRealtimePeriod", Number),
            ("CpuRealtimeRuntime", Number),
            ("IOMaximumIOps", Number),
            ("IOMaximumBandwidth", Number),
        ],
    },
    // container.Config, and the image's, which says less
    Type {
        marks: &["Entrypoint", "WorkingDir"],
        renamed: &[],
        omitted: &[
            ("ExposedPorts", Map),
            ("Healthcheck", Pointer),
            ("ArgsEscaped", False),
            ("NetworkDisabled", False),
            ("MacAddress", Text),
            ("StopSignal", Text),
            ("StopTimeout", Pointer),
            ("Shell", List),
            ("Volumes", Map),
            ("Labels", Map),
            ("OnBuild", List),
        ],
    },
    // container.HealthConfig
    Type {
        marks: &["Test"],
        renamed: &[],
        omitted: &[
            ("Interval", Number),
            ("Timeout", Number),
            ("StartPeriod", Number),
            ("StartInterval", Number),
            ("Retries", Number),
        ],
    },
    // image.InspectResponse
    Type {
        marks: &["RootFS", "RepoTags"],
        renamed: &[("ID", "Id")],
        omitted: &[
            ("Variant", Text),
            ("OsVersion", Text),
            ("Container", Text),
            ("ContainerConfig", Pointer),
            ("Descriptor", Pointer),
            ("Manifests", List),
        ],
    },
    // network.Inspect
    Type {
        marks: &["IPAM", "Ingress"],
        renamed: &[("ID", "Id")],
        omitted: &[("Peers", List), ("Services", Map)],
    },
    // network.IPAMConfig
    Type {
        marks: &["Subnet"],
        renamed: &[("AuxAddress", "AuxiliaryAddresses")],
        omitted: &[("IPRange", Text), ("Gateway", Text), ("AuxiliaryAddresses", Map)],
    },
    // network.EndpointIPAMConfig
    Type { marks: &["IPv4Address"], renamed: &[], omitted: &[("IPv6Address", Text), ("LinkLocalIPs", List)] },
    Type { marks: &["IPv6Address"], renamed: &[], omitted: &[("IPv4Address", Text), ("LinkLocalIPs", List)] },
    // volume.Volume
    Type {
        marks: &["Mountpoint", "Scope"],
        renamed: &[],
        omitted: &[("Status", Map), ("UsageData", Pointer), ("ClusterVolume", Pointer), ("CreatedAt", Text)],
    },
    // container.MountPoint
    Type {
        marks: &["Destination", "RW"],
        renamed: &[],
        omitted: &[("Name", Text), ("Driver", Text), ("Type", Text)],
    },
    // mount.Mount
    Type {
        marks: &["Type", "Target"],
        renamed: &[],
        omitted: &[
            ("Source", Text),
            ("ReadOnly", False),
            ("Consistency", Text),
            ("BindOptions", Pointer),
            ("VolumeOptions", Pointer),
            ("ImageOptions", Pointer),
            ("TmpfsOptions", Pointer),
            ("ClusterOptions", Pointer),
        ],
    },
    // nat.PortBinding
    Type { marks: &["HostPort"], renamed: &[("HostIP", "HostIp")], omitted: &[] },
];

/// What a structure has under a name that its JSON does not show.
pub(super) fn hidden(fields: &serde_json::Map<String, Value>, name: &str) -> Option<(Value, Shape)> {
    let mut types = TYPES.iter().filter(|of| of.marks.iter().all(|mark| fields.contains_key(*mark)));
    types.find_map(|of| {
        let json = of.renamed.iter().find(|(go, _)| *go == name).map_or(name, |(_, json)| *json);
        if json.is_empty() {
            return Some((Value::Object(fields.clone()), Shape::Plain));
        }
        if let Some(value) = fields.get(json) {
            return Some((value.clone(), super::exec::shape("", json)));
        }
        of.omitted.iter().find(|(omitted, _)| *omitted == json).map(|(_, zero)| zero.value())
    })
}
