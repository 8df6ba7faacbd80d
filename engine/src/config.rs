//! What a user asked for, in Docker's own field names.
//!
//! `Config` and `HostConfig` are the two halves of Docker's container description: what the image
//! may set, and what only the host's operator may. Keeping Docker's JSON names on our own types means
//! that `inspect`, its Go templates and an Engine API body are all one serialisation of the record, and
//! nothing has to be translated twice. Fields that are Bulkhead's own (`MemoryHigh`, `OomGroup`) sit
//! beside Docker's.

#![allow(clippy::zero_sized_map_values, reason = "empty values are what Docker's JSON asks for")]

use std::cell::Cell;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

thread_local! {
    static STORING: Cell<bool> = const { Cell::new(false) };
}

/// Serialises for our own store: what has the value that reading fills in anyway is left out. `inspect`
/// shows all of Docker's hundred fields; a record of them all is 4 KiB of zeros, and every command that
/// looks at fifty containers reads fifty of those. Measured: it made up half of a `ps`.
pub(crate) fn storing<T>(serialize: impl FnOnce() -> T) -> T {
    STORING.set(true);
    let result = serialize();
    STORING.set(false);
    result
}

/// Whether a field need not be written, because it is read as this when it is missing.
pub(crate) fn implied<T: Default + PartialEq>(value: &T) -> bool {
    STORING.get() && *value == T::default()
}

/// An empty object, as Docker writes the values of `ExposedPorts` and `Volumes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// A set that Docker writes as an object of empty objects.
pub type EmptySet = BTreeMap<String, Empty>;

/// The half of a container's configuration that its image may set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// The host name inside; the short id unless asked otherwise.
    #[serde(skip_serializing_if = "implied")]
    pub hostname: String,
    /// The NIS domain name inside.
    #[serde(skip_serializing_if = "implied")]
    pub domainname: String,
    /// `USER[:GROUP]`, by name or number, as given.
    #[serde(skip_serializing_if = "implied")]
    pub user: String,
    /// A client's standard input is attached.
    #[serde(skip_serializing_if = "implied")]
    pub attach_stdin: bool,
    /// A client's standard output is attached.
    #[serde(skip_serializing_if = "implied")]
    pub attach_stdout: bool,
    /// A client's standard error is attached.
    #[serde(skip_serializing_if = "implied")]
    pub attach_stderr: bool,
    /// `PORT/PROTO` announced by the image or `--expose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<EmptySet>,
    /// A pseudo terminal is the container's stdio.
    #[serde(skip_serializing_if = "implied")]
    pub tty: bool,
    /// Standard input stays open when nobody is attached.
    #[serde(skip_serializing_if = "implied")]
    pub open_stdin: bool,
    /// Standard input closes with the first client that attached it.
    #[serde(skip_serializing_if = "implied")]
    pub stdin_once: bool,
    /// `KEY=value`, in order, the later of two wins.
    #[serde(skip_serializing_if = "implied")]
    pub env: Vec<String>,
    /// The default arguments, or the command when there is no entrypoint. `None` is not `[]`.
    #[serde(skip_serializing_if = "implied")]
    pub cmd: Option<Vec<String>>,
    /// The image as the user named it.
    #[serde(skip_serializing_if = "implied")]
    pub image: String,
    /// Paths that an image declares as volumes.
    #[serde(skip_serializing_if = "implied")]
    pub volumes: Option<EmptySet>,
    /// The working directory; empty means `/`.
    #[serde(skip_serializing_if = "implied")]
    pub working_dir: String,
    /// The fixed front of the command. `None` is not `[]`.
    #[serde(skip_serializing_if = "implied")]
    pub entrypoint: Option<Vec<String>>,
    /// Labels of the image and the container.
    #[serde(skip_serializing_if = "implied")]
    pub labels: BTreeMap<String, String>,
    /// The signal `stop` sends; empty means SIGTERM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds `stop` waits before SIGKILL; `None` means 10, `-1` for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// How the container's health is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The shell that shell-form instructions of a derived image use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Instructions for a build that starts from the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
}

/// A health check; durations are nanoseconds, 0 means Docker's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`; empty inherits.
    pub test: Vec<String>,
    /// Nanoseconds between two checks (default 30 s).
    pub interval: i64,
    /// Nanoseconds one check may take (default 30 s).
    pub timeout: i64,
    /// Failures in a row that make it unhealthy (default 3).
    pub retries: i64,
    /// Nanoseconds during which failures do not count.
    pub start_period: i64,
    /// Nanoseconds between two checks during the start period (default 5 s).
    #[serde(skip_serializing_if = "is_default")]
    pub start_interval: i64,
}

/// The half of a container's configuration that belongs to the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `SOURCE:TARGET[:OPTIONS]` for each `-v`, source absolute or a volume's name.
    #[serde(skip_serializing_if = "implied")]
    pub binds: Option<Vec<String>>,
    /// The file that got the container's id.
    #[serde(rename = "ContainerIDFile", skip_serializing_if = "implied")]
    pub container_id_file: String,
    /// Where and how output is logged.
    #[serde(skip_serializing_if = "implied")]
    pub log_config: LogConfig,
    /// `none`, `host`, `bridge`, `default`, `container:<id>` or a network's name.
    #[serde(skip_serializing_if = "implied")]
    pub network_mode: String,
    /// `PORT/PROTO` to the host addresses it is published on.
    #[serde(skip_serializing_if = "implied")]
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    /// What happens after an exit.
    #[serde(skip_serializing_if = "implied")]
    pub restart_policy: RestartPolicy,
    /// The container is removed when it exits.
    #[serde(skip_serializing_if = "implied")]
    pub auto_remove: bool,
    /// `CONTAINER[:ro|:rw]` whose mounts are taken over.
    #[serde(skip_serializing_if = "implied")]
    pub volumes_from: Option<Vec<String>>,
    /// Mounts given with `--mount`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountPoint>,
    /// Capabilities beyond the default set.
    #[serde(skip_serializing_if = "implied")]
    pub cap_add: Option<Vec<String>>,
    /// Capabilities taken from the default set.
    #[serde(skip_serializing_if = "implied")]
    pub cap_drop: Option<Vec<String>>,
    /// `host`, `private` or empty for the default.
    #[serde(skip_serializing_if = "implied")]
    pub cgroupns_mode: String,
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "implied")]
    pub dns: Vec<String>,
    /// Options of resolv.conf.
    #[serde(skip_serializing_if = "implied")]
    pub dns_options: Vec<String>,
    /// Search domains.
    #[serde(skip_serializing_if = "implied")]
    pub dns_search: Vec<String>,
    /// `NAME:ADDRESS` lines for /etc/hosts.
    #[serde(skip_serializing_if = "implied")]
    pub extra_hosts: Option<Vec<String>>,
    /// Supplementary groups, by name or number.
    #[serde(skip_serializing_if = "implied")]
    pub group_add: Option<Vec<String>>,
    /// `private`, `host`, `shareable`, `none`, `container:<id>`.
    #[serde(skip_serializing_if = "implied")]
    pub ipc_mode: String,
    /// The cgroup the container's own is made under; empty means the engine's.
    #[serde(skip_serializing_if = "implied")]
    pub cgroup_parent: String,
    /// `CONTAINER:ALIAS` links.
    #[serde(skip_serializing_if = "implied")]
    pub links: Option<Vec<String>>,
    /// The kernel's bias when it must kill, -1000 to 1000.
    #[serde(skip_serializing_if = "implied")]
    pub oom_score_adj: i64,
    /// Empty, `host` or `container:<id>`.
    #[serde(skip_serializing_if = "implied")]
    pub pid_mode: String,
    /// All capabilities, all devices, no seccomp, no masked paths.
    #[serde(skip_serializing_if = "implied")]
    pub privileged: bool,
    /// Every exposed port gets a host port.
    #[serde(skip_serializing_if = "implied")]
    pub publish_all_ports: bool,
    /// The root filesystem is read-only.
    #[serde(skip_serializing_if = "implied")]
    pub readonly_rootfs: bool,
    /// `seccomp=…`, `no-new-privileges`, `label=…`, `apparmor=…`, `systempaths=unconfined`.
    #[serde(skip_serializing_if = "implied")]
    pub security_opt: Option<Vec<String>>,
    /// Target path to mount options of each tmpfs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, String>,
    /// Empty or `host`.
    #[serde(rename = "UTSMode", skip_serializing_if = "implied")]
    pub uts_mode: String,
    /// Empty or `host`.
    #[serde(skip_serializing_if = "implied")]
    pub userns_mode: String,
    /// Bytes of /dev/shm.
    #[serde(skip_serializing_if = "implied")]
    pub shm_size: i64,
    /// Lines and columns of the terminal as it begins; zeros leave it without a size.
    #[serde(skip_serializing_if = "implied")]
    pub console_size: [u32; 2],
    /// What the runtime and its hooks are told besides.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Kernel parameters of the container's namespaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// The OCI runtime's name; `bulkhead`.
    #[serde(skip_serializing_if = "implied")]
    pub runtime: String,
    /// A small init is process 1 and reaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// Limits and accounting.
    #[serde(flatten)]
    pub resources: Resources,
    /// Paths hidden inside; `None` means the default list.
    #[serde(skip_serializing_if = "implied")]
    pub masked_paths: Option<Vec<String>>,
    /// Paths read-only inside; `None` means the default list.
    #[serde(skip_serializing_if = "implied")]
    pub readonly_paths: Option<Vec<String>>,
}

/// Limits, in Docker's units. Zero or `None` means unlimited or the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Resources {
    /// Relative CPU weight, 2 to 262144; 0 means 1024.
    #[serde(skip_serializing_if = "implied")]
    pub cpu_shares: i64,
    /// Bytes; memory.max on v2, memory.limit_in_bytes on v1.
    #[serde(skip_serializing_if = "implied")]
    pub memory: i64,
    /// Billionths of a CPU (`--cpus` × 10⁹).
    #[serde(skip_serializing_if = "implied")]
    pub nano_cpus: i64,
    /// Relative I/O weight, 10 to 1000.
    #[serde(skip_serializing_if = "implied")]
    pub blkio_weight: u16,
    /// Per-device I/O weights.
    #[serde(skip_serializing_if = "implied")]
    pub blkio_weight_device: Vec<WeightDevice>,
    /// Bytes a second, per device.
    #[serde(skip_serializing_if = "implied")]
    pub blkio_device_read_bps: Vec<ThrottleDevice>,
    /// Bytes a second, per device.
    #[serde(skip_serializing_if = "implied")]
    pub blkio_device_write_bps: Vec<ThrottleDevice>,
    /// Operations a second, per device.
    #[serde(rename = "BlkioDeviceReadIOps", skip_serializing_if = "implied")]
    pub blkio_device_read_iops: Vec<ThrottleDevice>,
    /// Operations a second, per device.
    #[serde(rename = "BlkioDeviceWriteIOps", skip_serializing_if = "implied")]
    pub blkio_device_write_iops: Vec<ThrottleDevice>,
    /// Microseconds of one CFS period.
    #[serde(skip_serializing_if = "implied")]
    pub cpu_period: i64,
    /// Microseconds of CPU time a period.
    #[serde(skip_serializing_if = "implied")]
    pub cpu_quota: i64,
    /// Microseconds of CPU time that may be saved up and used beyond the quota. Bulkhead's own.
    #[serde(skip_serializing_if = "implied")]
    pub cpu_burst: i64,
    /// CPUs allowed, as a list (`0-2,4`).
    #[serde(skip_serializing_if = "implied")]
    pub cpuset_cpus: String,
    /// NUMA nodes allowed, as a list.
    #[serde(skip_serializing_if = "implied")]
    pub cpuset_mems: String,
    /// Devices given to the container.
    #[serde(skip_serializing_if = "implied")]
    pub devices: Vec<DeviceMapping>,
    /// `TYPE MAJOR:MINOR ACCESS` rules.
    #[serde(skip_serializing_if = "implied")]
    pub device_cgroup_rules: Option<Vec<String>>,
    /// Bytes; memory.low on v2, soft limit on v1.
    #[serde(skip_serializing_if = "implied")]
    pub memory_reservation: i64,
    /// Bytes of memory plus swap; -1 unlimited, 0 twice the memory.
    #[serde(skip_serializing_if = "implied")]
    pub memory_swap: i64,
    /// 0 to 100, v1 only.
    #[serde(skip_serializing_if = "implied")]
    pub memory_swappiness: Option<i64>,
    /// Bytes above which the kernel throttles and reclaims; memory.high, v2 only. Bulkhead's own.
    #[serde(skip_serializing_if = "implied")]
    pub memory_high: i64,
    /// Bytes that are not taken back whoever wants them; memory.min, v2 only. Bulkhead's own.
    #[serde(skip_serializing_if = "implied")]
    pub memory_min: i64,
    /// Bytes of huge pages, by their size. Bulkhead's own.
    #[serde(skip_serializing_if = "implied")]
    pub hugepage_limits: Vec<HugepageLimit>,
    /// The kernel does not kill in this container.
    #[serde(skip_serializing_if = "implied")]
    pub oom_kill_disable: Option<bool>,
    /// The kernel kills the whole container, memory.oom.group; `None` leaves it as it is. Bulkhead's own.
    #[serde(skip_serializing_if = "implied")]
    pub oom_group: Option<bool>,
    /// How much the container matters when memory runs out, 0 (killed first) to 100; `None` leaves it to
    /// the reservation. Bulkhead's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_priority: Option<u8>,
    /// Tasks at once; 0 or -1 unlimited.
    #[serde(skip_serializing_if = "implied")]
    pub pids_limit: Option<i64>,
    /// Resource limits of processes.
    #[serde(skip_serializing_if = "implied")]
    pub ulimits: Vec<Ulimit>,
}

/// I/O weight of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WeightDevice {
    /// The device node.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// Limit on the huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HugepageLimit {
    /// As in the kernel's file names: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes; -1 lifts it.
    pub limit: i64,
}

/// I/O limit of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ThrottleDevice {
    /// The device node.
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// A device node given to a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceMapping {
    /// The node on the host.
    pub path_on_host: String,
    /// The node inside.
    pub path_in_container: String,
    /// Of `r`, `w` and `m`.
    pub cgroup_permissions: String,
}

/// One resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ulimit {
    /// `nofile`, `nproc`, … without `RLIMIT_`.
    pub name: String,
    /// The ceiling; -1 unlimited.
    pub hard: i64,
    /// The value in force; -1 unlimited.
    pub soft: i64,
}

/// A host address a port is published on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// Empty means every address.
    pub host_ip: String,
    /// Empty means any free port.
    pub host_port: String,
}

/// What happens after a container exits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `no` (or empty), `on-failure`, `always`, `unless-stopped`.
    pub name: String,
    /// For `on-failure`; 0 means for ever.
    pub maximum_retry_count: u32,
}

/// A restart policy that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// There is no less than never.
    #[error("invalid restart policy: maximum retry count cannot be negative")]
    Negative,
    /// Only failures are counted.
    #[error("invalid restart policy: maximum retry count can only be used with 'on-failure'")]
    Count,
    /// No such name.
    #[error(
        "invalid restart policy: unknown policy '{0}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
    )]
    Unknown(String),
}

impl RestartPolicy {
    /// Whether a container that ends has ended.
    pub fn is_none(&self) -> bool {
        matches!(self.name.as_str(), "" | "no")
    }

    /// Refuses one that there is not.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        match self.name.as_str() {
            "" | "no" | "always" | "unless-stopped" if self.maximum_retry_count != 0 => {
                Err(InvalidPolicy::Count)
            }
            "" | "no" | "always" | "unless-stopped" | "on-failure" => Ok(()),
            other => Err(InvalidPolicy::Unknown(other.to_owned())),
        }
    }
}

/// The log driver of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// `json-file` or `none`.
    #[serde(rename = "Type")]
    pub driver: String,
    /// `max-size`, `max-file`.
    pub config: BTreeMap<String, String>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { driver: "json-file".into(), config: BTreeMap::new() }
    }
}

/// A mount as `--mount` gives it and `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// A volume's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The path on the host.
    pub source: String,
    /// The path inside.
    pub destination: String,
    /// Options as given.
    pub mode: String,
    /// Writable.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// `rprivate`, `rshared`, `rslave`, …
    pub propagation: String,
    /// What is asked of a volume besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// A volume that nobody gave a name, and that may go with its container.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// A volume that gets the image's files while it is empty.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub copy: bool,
    /// The path in a volume that is mounted instead of all of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// What `--mount type=volume` may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// The image's files are not copied into it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_copy: bool,
    /// Labels, should it have to be made.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who makes it, and how.
    #[serde(skip_serializing_if = "is_default")]
    pub driver_config: DriverConfig,
    /// The path in it that is mounted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// A volume's driver and its options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DriverConfig {
    /// `local`, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `type`, `device` and `o`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a container asks of its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkingConfig {
    /// By the network's name or id.
    #[serde(skip_serializing_if = "implied")]
    pub endpoints_config: BTreeMap<String, EndpointSettings>,
}

/// A container on a network: what is asked for, and, where shown, what it got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSettings {
    /// Addresses asked for.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpam>,
    /// `CONTAINER:ALIAS` links on this network.
    pub links: Option<Vec<String>>,
    /// Further names on this network.
    pub aliases: Option<Vec<String>>,
    /// The MAC address.
    pub mac_address: String,
    /// Options for the driver.
    pub driver_opts: Option<BTreeMap<String, String>>,
    /// The network's id.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The endpoint's id.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// The IPv4 gateway.
    pub gateway: String,
    /// The IPv4 address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Its prefix length.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// The IPv6 gateway.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    /// The IPv6 address.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Its prefix length.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    /// Every name the resolver knows it by.
    #[serde(rename = "DNSNames")]
    pub dns_names: Option<Vec<String>>,
}

/// Addresses a container asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIpam {
    /// Empty for any.
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
    pub ipv4_address: String,
    /// Empty for any.
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
    pub ipv6_address: String,
}

/// `NetworkSettings` of `inspect`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    /// Container port to host ports; `null` for one that is exposed only.
    pub ports: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// The default network's endpoint, as Docker repeats it here.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// The default network's gateway.
    pub gateway: String,
    /// The address on the default network.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Its prefix length.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// The MAC address on the default network.
    pub mac_address: String,
    /// By network.
    pub networks: BTreeMap<String, EndpointSettings>,
}
