//! From the one model of a container to what Prometheus reads.
//!
//! cAdvisor's names, labels and units, so that dashboards and alerts written for it show the same thing
//! unchanged, and Bulkhead's own figures beside them. `families` is the one list of what is exported;
//! [`write()`] renders it. Nothing here reads the kernel: figures come from [`bulkhead_engine::model`] and,
//! as plain numbers in [`Traced`], from whoever counts events.
//!
//! The renderer is our own rather than the `prometheus` crate's: its registry keeps one heap object a
//! sample and label, which for 1,000 containers (some 80,000 samples) costs more than reading the figures,
//! and it speaks no OpenMetrics. Here a container's labels are rendered once and every sample is appended
//! to a buffer; an answer is a few of those, one after the other.
//!
//! # How many series
//! No label carries a process number, a port, an address or a path of the container's choosing. A
//! container has at most [`CEILING`] series however long it lives: the families times one, save those by
//! interface (at most [`INTERFACES`]) and by block device (at most [`DEVICES`]), whose surplus is summed
//! under `other`, and two histograms of [`BUCKETS`] buckets.

mod families;
mod labels;
mod negotiate;
mod scrape;
mod text;
mod textfile;

use std::collections::{BTreeMap, HashMap};

use bulkhead_engine::image::Cost;
use bulkhead_engine::model::{Figures, Filesystem, Host};

pub use self::{
    families::{BUCKETS, CEILING, DEVICES, FAMILIES, Family, INTERFACES, Kind},
    labels::{Allowed, AllowedError},
    negotiate::{Format, accepts_gzip},
    scrape::{Body, Ended, Scrape, Scraper},
    text::write,
    textfile::{TextfileError, write_textfile},
};

/// What was counted of one container's events in the kernel.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Traced {
    /// Programs executed.
    pub execs: u64,
    /// Executions that failed.
    pub exec_failures: u64,
    /// Processes created.
    pub forks: u64,
    /// TCP connections opened by the container.
    pub tcp_connects: u64,
    /// TCP connections it tried to open in vain.
    pub tcp_connect_failures: u64,
    /// TCP connections accepted by the container.
    pub tcp_accepts: u64,
    /// TCP segments sent again.
    pub tcp_retransmits: u64,
    /// IP packets received by the container's own sockets, whatever network namespace they are in.
    pub ip_packets_in: u64,
    /// Their bytes.
    pub ip_bytes_in: u64,
    /// IP packets sent by them.
    pub ip_packets_out: u64,
    /// Their bytes.
    pub ip_bytes_out: u64,
    /// DNS questions sent.
    pub dns_queries: u64,
    /// DNS answers received.
    pub dns_answers: u64,
    /// Time between runnable and running.
    pub run_queue: Option<Histogram>,
    /// Time between issue and completion of block requests.
    pub block_io: Option<Histogram>,
}

/// Durations by powers of two: slot `i` counts those below 2^i microseconds that slot `i - 1` does not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Sum of all durations, nanoseconds.
    pub sum_ns: u64,
    /// Counts.
    pub slots: Vec<u64>,
}

/// What the process that exports tells of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Engine {
    /// Bulkhead's version.
    pub version: String,
    /// Answers given so far.
    pub scrapes: u64,
    /// Readings of the figures that failed.
    pub errors: u64,
    /// Seconds the last reading took.
    pub collect_seconds: f64,
    /// Containers by status; the store's own words.
    pub containers: BTreeMap<String, u64>,
    /// Events the kernel could not hand over, by cause; `None` while nothing is traced.
    pub events_lost: Option<BTreeMap<String, u64>>,
    /// Sources of events, and whether the kernel let us have them.
    pub hooks: BTreeMap<String, bool>,
    /// Actions of the pressure policy that were done, by action and detector.
    pub enforced: BTreeMap<(&'static str, &'static str), u64>,
    /// Actions that were only reported (a dry run, or not supported here), by action and detector.
    pub reported: BTreeMap<(&'static str, &'static str), u64>,
    /// Actions that failed, by action and detector.
    pub unenforced: BTreeMap<(&'static str, &'static str), u64>,
    /// CPU time of this process, nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory of this process, bytes.
    pub resident: u64,
    /// File descriptors of this process.
    pub descriptors: u64,
    /// Start of this process, seconds since the epoch.
    pub started: f64,
    /// The last reading failed.
    pub failed: bool,
}

/// Everything that one answer is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The host.
    pub host: Host,
    /// The filesystem that images and containers lie on.
    pub disk: Option<Filesystem>,
    /// Containers; those that do not run give no series of their own.
    pub containers: Vec<Figures>,
    /// What unpacking images has cost.
    pub unpacked: Option<Cost>,
    /// Counters of events by cgroup id.
    pub traced: HashMap<u64, Traced>,
    /// The exporter itself.
    pub engine: Engine,
}
