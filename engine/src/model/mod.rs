//! One model of a container: who it is, what it uses, what holds it.
//!
//! The stats table, the live view, the exporter and Docker's JSON all show the same figures, so they
//! are read in one place, once, into [`Figures`]; no view reads the kernel on its own. The fields say
//! what they mean, in which unit, and which file of which cgroup version they come from. What this host
//! cannot tell is `None` and never a zero.
//!
//! [`Collector`] fills the model and keeps files open between readings. [`ended`] hands over the last
//! figures of a container that ended between two readings. [`Rates`] turns two readings into what
//! happens per second.

mod collector;
pub mod connections;
pub mod device;
pub mod ended;
pub mod filesystem;
mod host;
pub mod interface;
pub mod last;
mod rates;
mod tasks;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    collector::{Collector, Parts},
    filesystem::Filesystem,
    host::{Host, HostCpu, HostMemory},
    interface::Interface,
    rates::{Basis, Rates},
    tasks::Tasks,
};
use crate::cgroup::{Limits, stats::Stats};
use crate::config::Resources;
use crate::container::{self, Container, Status};

/// Why figures could not be read. A container that vanished meanwhile is no error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The list of containers could not be read.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// A cgroup's file could not be read.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::Error),
    /// A writable layer could not be measured.
    #[error(transparent)]
    Layer(#[from] crate::layer::Error),
    /// A file of /proc, or of the handing over of last figures, could not be read or written.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The call.
        call: &'static str,
        /// Its object.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the kernel's is not as it has been since it was made.
    #[error("{path}: cannot make sense of {text:?}", path = path.display())]
    Parse {
        /// The file.
        path: std::path::PathBuf,
        /// Its text, or the part in question.
        text: String,
    },
}

trait At<T> {
    fn at(self, call: &'static str, path: &std::path::Path) -> Result<T, Error>;
}

impl<T, E: Into<std::io::Error>> At<T> for Result<T, E> {
    fn at(self, call: &'static str, path: &std::path::Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { call, path: path.to_owned(), source: source.into() })
    }
}

/// Which container. Nothing here changes while it runs, save the name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// 64 hexadecimal digits. Source: store.
    pub id: String,
    /// Without Docker's leading slash. Source: store.
    pub name: String,
    /// The image as the user named it. Source: `Config.Image`.
    pub image: String,
    /// The image's id, `sha256:…`; empty for a container without one. Source: store.
    pub image_id: String,
    /// Labels of image and container. Source: `Config.Labels`.
    pub labels: BTreeMap<String, String>,
    /// The cgroup as `/proc/PID/cgroup` names it from outside: `/bulkhead/<id>`.
    pub cgroup: String,
    /// The number by which eBPF knows the container: the inode of its v2 cgroup. `None` unless it runs.
    pub cgroup_id: Option<u64>,
}

/// Where the container is in its life. Source: the store's state column, written by the monitor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// Docker's status.
    pub status: Status,
    /// `starting`, `healthy` or `unhealthy`; `None` without a health check.
    pub health: Option<String>,
    /// Process 1 as the host numbers it; 0 when it does not run.
    pub pid: i32,
    /// Code of the last exit, 128 + signal when killed.
    pub exit_code: i32,
    /// The last run was ended by the kernel's OOM killer.
    pub oom_killed: bool,
    /// What the last run that was killed for memory had. Source: the state.
    #[serde(default)]
    pub oom: Option<crate::container::OutOfMemory>,
    /// Restarts by the policy.
    pub restarts: u64,
    /// Processes the kernel killed for memory in earlier runs; those of this run are in
    /// [`Stats::memory`]. The sum never goes backwards: see [`Figures::oom_kills`].
    pub earlier_oom_kills: u64,
    /// Seconds since the epoch; `None` for a container that never started.
    pub started: Option<f64>,
    /// Nanoseconds the last start took, from the monitor's first step to process 1 being the container's.
    pub start_took: Option<u64>,
    /// Seconds since the epoch; `None` unless it has ended.
    pub finished: Option<f64>,
    /// Seconds since the epoch.
    pub created: Option<f64>,
}

/// A container's network figures, and whose they are.
///
/// Source: `/proc/<pid>/net/dev`, read through process 1's network namespace without entering it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Nothing runs, or it cannot be told.
    #[default]
    Unknown,
    /// The host's network, whose figures are not the container's.
    Host,
    /// A network namespace of its own; the loopback interface is left out.
    Own(Vec<Interface>),
    /// The namespace of another container. Sums must leave these out, or count them twice.
    Joined(Vec<Interface>),
}

impl Network {
    /// The interfaces, whoever they belong to.
    pub fn interfaces(&self) -> &[Interface] {
        match self {
            Self::Own(list) | Self::Joined(list) => list,
            Self::Unknown | Self::Host => &[],
        }
    }

    /// Bytes received and sent over all interfaces.
    pub fn bytes(&self) -> (u64, u64) {
        self.interfaces().iter().fold((0, 0), |(received, sent), interface| {
            (received + interface.received.bytes, sent + interface.sent.bytes)
        })
    }
}

/// Everything known of one container at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Who.
    pub identity: Identity,
    /// Where in its life.
    pub life: Life,
    /// Seconds since the epoch at which this was read.
    pub taken: f64,
    /// Nanoseconds of CLOCK_BOOTTIME at which this was read; rates are differences of these.
    pub clock: u64,
    /// CPU, memory, I/O, tasks and pressure; units and files at [`Stats`]. `None` unless it runs.
    pub stats: Option<Stats>,
    /// Network.
    pub network: Network,
    /// Processes and file descriptors. `None` unless it runs and [`Parts::tasks`] was asked for.
    pub tasks: Option<Tasks>,
    /// The limits in force, as read back from the kernel. `None` unless it runs and
    /// [`Parts::limits`] was asked for.
    #[serde(skip)]
    pub limits: Option<Limits>,
    /// The limits asked for. Source: `HostConfig`.
    #[serde(skip)]
    pub asked: Resources,
    /// The writable layer. `None` until somebody measured it, which costs a walk over all its files.
    pub filesystem: Option<Filesystem>,
    /// Of which listing of the store identity, life and asked-for limits are; 0 is none that could be had again.
    #[serde(skip)]
    pub listing: u64,
}

impl Figures {
    /// Processes the kernel killed for memory in this container's life. `None` where the kernel does
    /// not say. Source: memory.events `oom_kill` (v2), memory.oom_control `oom_kill` (v1), and the
    /// state for earlier runs.
    pub fn oom_kills(&self) -> Option<u64> {
        match &self.stats {
            None => Some(self.life.earlier_oom_kills),
            Some(stats) => Some(self.life.earlier_oom_kills + stats.memory.as_ref()?.oom_kills?),
        }
    }

    /// The memory limit in force, bytes; the host's memory when there is none or it is larger, as
    /// `docker stats` shows it.
    pub fn memory_limit(&self, host: &Host) -> u64 {
        let limit = self.stats.as_ref().and_then(|stats| stats.memory.as_ref()).and_then(|m| m.limit);
        limit.unwrap_or(u64::MAX).min(host.memory.total)
    }

    /// CPUs the quota allows at once; `None` without a quota.
    pub fn cpu_limit(&self) -> Option<f64> {
        let limits = self.limits.as_ref()?;
        match (limits.cpu_quota?, limits.cpu_period?) {
            (crate::cgroup::Ceiling::At(quota), period) if period > 0 => Some(quota as f64 / period as f64),
            _ => None,
        }
    }

    /// Keeps what the store tells, and nothing that was read of the kernel.
    fn forget(&mut self) {
        self.identity.cgroup_id = None;
        self.stats = None;
        self.network = Network::Unknown;
        self.tasks = None;
        self.limits = None;
        self.filesystem = None;
    }

    fn of(container: &Container) -> Self {
        let record = &container.record;
        let state = &container.state;
        let parent = record.cgroup_parent.trim_matches('/');
        Self {
            identity: Identity {
                id: container.id.clone(),
                name: container.name.clone(),
                image: record.config.image.clone(),
                image_id: container.image.as_ref().map(ToString::to_string).unwrap_or_default(),
                labels: record.config.labels.clone(),
                cgroup: format!("/{parent}/{}", container.id),
                cgroup_id: None,
            },
            life: Life {
                status: state.status,
                health: state.health.as_ref().map(|health| health.status.clone()),
                pid: state.pid,
                exit_code: state.exit_code,
                oom_killed: state.oom_killed,
                oom: state.oom.clone(),
                restarts: u64::from(state.restart_count),
                earlier_oom_kills: state.oom_kills,
                started: seconds(&state.started_at),
                start_took: state.start_took,
                finished: seconds(&state.finished_at),
                created: seconds(&container.created),
            },
            asked: record.host_config.resources.clone(),
            ..Self::default()
        }
    }
}

/// RFC 3339 to seconds since the epoch; Docker's zero time is no time.
fn seconds(text: &str) -> Option<f64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    let seconds = time.as_second() as f64 + f64::from(time.subsec_nanosecond()) / 1e9;
    (seconds > 0.0).then_some(seconds)
}

/// Now, in both clocks: seconds since the epoch, nanoseconds since boot.
pub(crate) fn now() -> (f64, u64) {
    let epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
    (epoch, boot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::stats::Memory;

    #[test]
    fn times_are_read_and_the_zero_time_is_none() {
        assert_eq!(seconds("1970-01-01T00:00:01.5Z"), Some(1.5));
        assert_eq!(seconds(container::record::ZERO_TIME), None);
        assert_eq!(seconds(""), None);
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn oom_kills_add_up_over_runs() {
        let mut figures = Figures::default();
        figures.life.earlier_oom_kills = 2;
        assert_eq!(figures.oom_kills(), Some(2));
        figures.stats = Some(Stats {
            memory: Some(Memory { oom_kills: Some(1), ..Memory::default() }),
            ..Stats::default()
        });
        assert_eq!(figures.oom_kills(), Some(3));
        figures.stats = Some(Stats::default());
        assert_eq!(figures.oom_kills(), None, "no memory controller: not told, rather than none");
    }

    #[test]
    fn a_limit_above_the_host_is_the_host() {
        let host = Host { memory: HostMemory { total: 1000, ..HostMemory::default() }, ..Host::default() };
        let with = |limit| Figures {
            stats: Some(Stats { memory: Some(Memory { limit, ..Memory::default() }), ..Stats::default() }),
            ..Figures::default()
        };
        assert_eq!(with(Some(600)).memory_limit(&host), 600);
        assert_eq!(with(Some(6000)).memory_limit(&host), 1000);
        assert_eq!(with(None).memory_limit(&host), 1000);
    }
}
