//! The list of what is exported: one row a family.
//!
//! Names, labels and units of `container_*` and `machine_*` are cAdvisor's (docs/storage/prometheus.md and
//! metrics/prometheus.go there); `bulkhead_*` are ours. As with cAdvisor the host itself is the container
//! with `id="/"`, without a name or an image.

use bulkhead_engine::cgroup::{Ceiling, Limits, Pressure, stats};
use bulkhead_engine::container::OutOfMemory;
use bulkhead_engine::model::{Figures, Filesystem, Interface, Network, device};

use crate::Snapshot;
use crate::text::{Ns, Samples, Subject, Us};

/// Interfaces of one container told apart at most.
pub const INTERFACES: usize = 8;
/// Block devices of one container told apart at most.
pub const DEVICES: usize = 16;
/// Buckets of a histogram, the infinite one included: 1 µs, 2 µs, 4 µs … 2²⁴ µs (17 s), ∞.
pub const BUCKETS: usize = 26;
/// Series of one container at most; a test counts them.
pub const CEILING: usize = 360;

/// What a family's numbers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Up only, until the container is started anew.
    Counter,
    /// A counter whose name (cAdvisor's) forbids the type; see [`crate::write()`].
    UntypedCounter,
    /// A gauge whose name (cAdvisor's, with `_total`) forbids the type.
    UntypedGauge,
    /// Up and down.
    Gauge,
    /// A gauge that says something of a container that has ended.
    LastGauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// Whether a last value is worth telling when the container has ended.
    pub const fn accumulates(self) -> bool {
        !matches!(self, Self::Gauge | Self::UntypedGauge)
    }
}

/// One family.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What it means, in one line; the unit is in the name.
    pub help: &'static str,
    pub(crate) container: Option<fn(&Subject<'_>, &mut Samples<'_>)>,
    pub(crate) host: Option<fn(&Snapshot, &mut Samples<'_>)>,
}

/// The labels of the host as a whole.
const ROOT: &[(&str, &str)] = &[("id", "/")];

macro_rules! family {
    ($kind:ident $name:literal $help:literal $(each $each:expr;)? $(host $host:expr;)?) => {
        Family {
            name: $name,
            kind: Kind::$kind,
            help: $help,
            container: { let f: Option<fn(&Subject<'_>, &mut Samples<'_>)> = None; $(let _ = f; let f: Option<fn(&Subject<'_>, &mut Samples<'_>)> = Some($each);)? f },
            host: { let f: Option<fn(&Snapshot, &mut Samples<'_>)> = None; $(let _ = f; let f: Option<fn(&Snapshot, &mut Samples<'_>)> = Some($host);)? f },
        }
    };
}

/// Every family, in the order of an answer.
#[rustfmt::skip]
pub static FAMILIES: &[Family] = &[
    // --- CPU
    family!(Counter "container_cpu_usage_seconds_total" "Cumulative cpu time consumed in seconds."
        each |s, out| if let Some(stats) = &s.figures.stats { out.with(&[("cpu", "total")], Ns(stats.cpu.usage)) };
        host |s, out| out.with(&[("id", "/"), ("cpu", "total")], Ns(s.host.cpu.usage));),
    family!(Counter "container_cpu_user_seconds_total" "Cumulative user cpu time consumed in seconds."
        each |s, out| out.maybe(s.figures.stats.as_ref().map(|stats| Ns(stats.cpu.user)));
        host |s, out| out.with(ROOT, Ns(s.host.cpu.user));),
    family!(Counter "container_cpu_system_seconds_total" "Cumulative system cpu time consumed in seconds."
        each |s, out| out.maybe(s.figures.stats.as_ref().map(|stats| Ns(stats.cpu.system)));
        host |s, out| out.with(ROOT, Ns(s.host.cpu.system));),
    family!(Counter "container_cpu_cfs_periods_total" "Number of elapsed enforcement period intervals."
        each |s, out| out.maybe(throttling(s.figures).map(|t| t.periods));),
    family!(Counter "container_cpu_cfs_throttled_periods_total" "Number of throttled period intervals."
        each |s, out| out.maybe(throttling(s.figures).map(|t| t.throttled));),
    family!(Counter "container_cpu_cfs_throttled_seconds_total" "Total time duration the container has been throttled."
        each |s, out| out.maybe(throttling(s.figures).map(|t| Ns(t.throttled_time)));),
    // --- Memory
    family!(Gauge "container_memory_usage_bytes" "Current memory usage in bytes, including all memory regardless of when it was accessed."
        each |s, out| out.maybe(memory(s.figures).map(|m| m.usage));
        host |s, out| out.with(ROOT, s.host.memory.total.saturating_sub(s.host.memory.free));),
    family!(Gauge "container_memory_working_set_bytes" "Current working set in bytes: usage without inactive file cache."
        each |s, out| out.maybe(memory(s.figures).map(stats::Memory::working_set));
        host |s, out| out.with(ROOT, s.host.memory.total.saturating_sub(s.host.memory.available));),
    family!(Gauge "container_memory_rss" "Size of anonymous memory in bytes."
        each |s, out| out.maybe(memory(s.figures).map(|m| m.breakdown.anon));
        host |s, out| out.with(ROOT, s.host.memory.anon);),
    family!(Gauge "container_memory_cache" "Number of bytes of page cache memory."
        each |s, out| out.maybe(memory(s.figures).map(|m| m.breakdown.file));
        host |s, out| out.with(ROOT, s.host.memory.cache);),
    family!(Gauge "container_memory_mapped_file" "Size of memory mapped files in bytes."
        each |s, out| out.maybe(memory(s.figures).map(|m| m.breakdown.mapped));),
    family!(Gauge "container_memory_swap" "Container swap usage in bytes."
        each |s, out| out.maybe(memory(s.figures).and_then(|m| m.swap));
        host |s, out| out.with(ROOT, s.host.memory.swap);),
    family!(Gauge "container_memory_max_usage_bytes" "Maximum memory usage recorded in bytes."
        each |s, out| out.maybe(memory(s.figures).and_then(|m| m.peak));),
    family!(Gauge "container_memory_kernel_usage" "Size of kernel memory allocated in bytes."
        each |s, out| out.maybe(memory(s.figures).and_then(|m| m.breakdown.kernel));),
    family!(Gauge "container_memory_total_active_file_bytes" "Current total active file in bytes."
        each |s, out| out.maybe(memory(s.figures).map(|m| m.breakdown.active_file));),
    family!(Gauge "container_memory_total_inactive_file_bytes" "Current total inactive file in bytes."
        each |s, out| out.maybe(memory(s.figures).map(|m| m.breakdown.inactive_file));),
    family!(UntypedCounter "container_memory_failcnt" "Number of memory usage hits limits."
        each |s, out| out.maybe(memory(s.figures).and_then(|m| m.failcnt));),
    family!(Counter "container_memory_failures_total" "Cumulative count of memory allocation failures."
        each |s, out| if let Some(m) = memory(s.figures) {
            out.with(&[("failure_type", "pgfault"), ("scope", "hierarchy")], m.breakdown.pgfault);
            out.with(&[("failure_type", "pgmajfault"), ("scope", "hierarchy")], m.breakdown.pgmajfault);
        };),
    family!(Counter "container_oom_events_total" "Count of out of memory events observed for the container."
        each |s, out| out.maybe(s.figures.oom_kills());),
    // --- Network
    family!(Counter "container_network_receive_bytes_total" "Cumulative count of bytes received."
        each |s, out| interfaces(s.figures, out, |i| i.received.bytes); host |s, out| host_interfaces(s, out, |i| i.received.bytes);),
    family!(Counter "container_network_receive_packets_total" "Cumulative count of packets received."
        each |s, out| interfaces(s.figures, out, |i| i.received.packets); host |s, out| host_interfaces(s, out, |i| i.received.packets);),
    family!(Counter "container_network_receive_packets_dropped_total" "Cumulative count of packets dropped while receiving."
        each |s, out| interfaces(s.figures, out, |i| i.received.dropped); host |s, out| host_interfaces(s, out, |i| i.received.dropped);),
    family!(Counter "container_network_receive_errors_total" "Cumulative count of errors encountered while receiving."
        each |s, out| interfaces(s.figures, out, |i| i.received.errors); host |s, out| host_interfaces(s, out, |i| i.received.errors);),
    family!(Counter "container_network_transmit_bytes_total" "Cumulative count of bytes transmitted."
        each |s, out| interfaces(s.figures, out, |i| i.sent.bytes); host |s, out| host_interfaces(s, out, |i| i.sent.bytes);),
    family!(Counter "container_network_transmit_packets_total" "Cumulative count of packets transmitted."
        each |s, out| interfaces(s.figures, out, |i| i.sent.packets); host |s, out| host_interfaces(s, out, |i| i.sent.packets);),
    family!(Counter "container_network_transmit_packets_dropped_total" "Cumulative count of packets dropped while transmitting."
        each |s, out| interfaces(s.figures, out, |i| i.sent.dropped); host |s, out| host_interfaces(s, out, |i| i.sent.dropped);),
    family!(Counter "container_network_transmit_errors_total" "Cumulative count of errors encountered while transmitting."
        each |s, out| interfaces(s.figures, out, |i| i.sent.errors); host |s, out| host_interfaces(s, out, |i| i.sent.errors);),
    // --- Filesystem and block devices
    family!(Gauge "container_fs_usage_bytes" "Number of bytes that are consumed by the container on this filesystem."
        each |s, out| filesystem(s.figures.filesystem.as_ref(), "", out, |f| f.used); host |s, out| filesystem(s.disk.as_ref(), "/", out, |f| f.used);),
    family!(Gauge "container_fs_limit_bytes" "Number of bytes that can be consumed by the container on this filesystem."
        each |s, out| filesystem(s.figures.filesystem.as_ref(), "", out, |f| f.total); host |s, out| filesystem(s.disk.as_ref(), "/", out, |f| f.total);),
    family!(UntypedGauge "container_fs_inodes_total" "Number of Inodes."
        each |s, out| filesystem(s.figures.filesystem.as_ref(), "", out, |f| f.inodes_total); host |s, out| filesystem(s.disk.as_ref(), "/", out, |f| f.inodes_total);),
    family!(Gauge "container_fs_inodes_free" "Number of available Inodes."
        each |s, out| filesystem(s.figures.filesystem.as_ref(), "", out, |f| f.inodes_free); host |s, out| filesystem(s.disk.as_ref(), "/", out, |f| f.inodes_free);),
    family!(Counter "container_fs_reads_bytes_total" "Cumulative count of bytes read."
        each |s, out| devices(s.figures, |device, _, _, d| out.with(&[("device", device)], d.read_bytes));),
    family!(Counter "container_fs_writes_bytes_total" "Cumulative count of bytes written."
        each |s, out| devices(s.figures, |device, _, _, d| out.with(&[("device", device)], d.write_bytes));),
    family!(Counter "container_fs_reads_total" "Cumulative count of reads completed."
        each |s, out| devices(s.figures, |device, _, _, d| out.with(&[("device", device)], d.reads));),
    family!(Counter "container_fs_writes_total" "Cumulative count of writes completed."
        each |s, out| devices(s.figures, |device, _, _, d| out.with(&[("device", device)], d.writes));),
    family!(Counter "container_blkio_device_usage_total" "Blkio device bytes usage."
        each |s, out| devices(s.figures, |device, major, minor, d| {
            out.with(&[("device", device), ("major", major), ("minor", minor), ("operation", "Read")], d.read_bytes);
            out.with(&[("device", device), ("major", major), ("minor", minor), ("operation", "Write")], d.write_bytes);
        });),
    // --- Tasks
    family!(Gauge "container_processes" "Number of processes running inside the container."
        each |s, out| out.maybe(s.figures.tasks.map(|t| t.processes));),
    family!(Gauge "container_threads" "Number of threads running inside the container."
        each |s, out| out.maybe(s.figures.stats.as_ref().map(|stats| stats.pids.current));),
    family!(Gauge "container_threads_max" "Maximum number of threads allowed inside the container; 0 is unlimited."
        each |s, out| out.maybe(s.figures.stats.as_ref().map(|stats| stats.pids.limit.unwrap_or(0)));),
    family!(Gauge "container_file_descriptors" "Number of open file descriptors for the container."
        each |s, out| out.maybe(s.figures.tasks.map(|t| t.descriptors));),
    // --- Limits
    family!(Gauge "container_spec_cpu_period" "CPU period of the container in microseconds."
        each |s, out| out.maybe(limits(s.figures).filter(|l| quota(l).is_some()).and_then(|l| l.cpu_period));),
    family!(Gauge "container_spec_cpu_quota" "CPU quota of the container in microseconds a period."
        each |s, out| out.maybe(limits(s.figures).and_then(quota));),
    family!(Gauge "container_spec_cpu_shares" "CPU share of the container."
        each |s, out| out.maybe(limits(s.figures).and_then(shares));),
    family!(Gauge "container_spec_memory_limit_bytes" "Memory limit for the container; 0 is unlimited."
        each |s, out| out.maybe(limits(s.figures).and_then(|l| l.memory).map(bytes));),
    family!(Gauge "container_spec_memory_swap_limit_bytes" "Memory swap limit for the container; 0 is unlimited."
        each |s, out| out.maybe(limits(s.figures).and_then(|l| l.memory_swap).map(bytes));),
    family!(Gauge "container_spec_memory_reservation_limit_bytes" "Memory reservation limit for the container; 0 is none."
        each |s, out| out.maybe(limits(s.figures).and_then(|l| l.memory_reservation).map(bytes));),
    // --- Pressure
    family!(Counter "container_pressure_cpu_waiting_seconds_total" "Total time duration tasks in the container have waited due to CPU congestion."
        each |s, out| out.maybe(psi(s.figures, |p| p.cpu_pressure).map(|p| Us(p.some.total)));
        host |s, out| if let Some(p) = s.host.cpu_pressure { out.with(ROOT, Us(p.some.total)) };),
    family!(Counter "container_pressure_cpu_stalled_seconds_total" "Total time duration no tasks in the container could make progress due to CPU congestion."
        each |s, out| out.maybe(psi(s.figures, |p| p.cpu_pressure).and_then(|p| p.full).map(|full| Us(full.total)));),
    family!(Counter "container_pressure_memory_waiting_seconds_total" "Total time duration tasks in the container have waited due to memory congestion."
        each |s, out| out.maybe(psi(s.figures, |p| p.memory_pressure).map(|p| Us(p.some.total)));
        host |s, out| if let Some(p) = s.host.memory_pressure { out.with(ROOT, Us(p.some.total)) };),
    family!(Counter "container_pressure_memory_stalled_seconds_total" "Total time duration no tasks in the container could make progress due to memory congestion."
        each |s, out| out.maybe(psi(s.figures, |p| p.memory_pressure).and_then(|p| p.full).map(|full| Us(full.total)));
        host |s, out| if let Some(full) = s.host.memory_pressure.and_then(|p| p.full) { out.with(ROOT, Us(full.total)) };),
    family!(Counter "container_pressure_io_waiting_seconds_total" "Total time duration tasks in the container have waited due to IO congestion."
        each |s, out| out.maybe(psi(s.figures, |p| p.io_pressure).map(|p| Us(p.some.total)));
        host |s, out| if let Some(p) = s.host.io_pressure { out.with(ROOT, Us(p.some.total)) };),
    family!(Counter "container_pressure_io_stalled_seconds_total" "Total time duration no tasks in the container could make progress due to IO congestion."
        each |s, out| out.maybe(psi(s.figures, |p| p.io_pressure).and_then(|p| p.full).map(|full| Us(full.total)));
        host |s, out| if let Some(full) = s.host.io_pressure.and_then(|p| p.full) { out.with(ROOT, Us(full.total)) };),
    // --- Life
    family!(Gauge "container_last_seen" "Last time a container was seen by the exporter."
        each |s, out| out.put(s.figures.taken.floor());
        host |s, out| out.with(ROOT, s.host.taken.floor());),
    family!(Gauge "container_start_time_seconds" "Start time of the container since unix epoch in seconds."
        each |s, out| out.maybe(s.figures.life.started);
        host |s, out| out.with(ROOT, s.host.booted);),
    family!(Gauge "container_health_state" "The result of the container's health check: 1 healthy, 0 starting or unhealthy, -1 without a check."
        each |s, out| out.put(match s.figures.life.health.as_deref() { None => -1.0, Some("healthy") => 1.0, Some(_) => 0.0 });),
    family!(Gauge "container_scrape_error" "1 if there was an error while getting container metrics, 0 otherwise."
        host |s, out| out.put(u64::from(s.engine.failed));),
    // --- The machine
    family!(Gauge "machine_cpu_cores" "Number of logical CPU cores." host |s, out| out.put(s.host.cpus);),
    family!(Gauge "machine_memory_bytes" "Amount of memory installed on the machine." host |s, out| out.put(s.host.memory.total);),
    family!(Gauge "machine_swap_bytes" "Amount of swap memory available on the machine." host |s, out| out.put(s.host.memory.swap_total);),
    // --- Ours
    family!(Gauge "bulkhead_container_info" "What is known of a container beyond its name; always 1."
        each |s, out| out.with(&[
            ("container_id", &s.figures.identity.id),
            ("image_id", &s.figures.identity.image_id),
            ("network", match s.figures.network { Network::Unknown => "unknown", Network::Host => "host", Network::Own(_) => "own", Network::Joined(_) => "container" }),
            ("state", s.figures.life.status.as_str()),
        ], 1);),
    family!(Counter "bulkhead_container_oom_kills_total" "Processes the kernel killed for memory in the container's life."
        each |s, out| out.maybe(s.figures.oom_kills());),
    family!(LastGauge "bulkhead_container_oom_victim_rss_bytes" "What the last process that the kernel killed for memory held."
        each |s, out| if let Some(victim) = oom(s.figures).and_then(|oom| oom.victim.as_ref()) { out.with(&[("process", &victim.name)], victim.rss) };),
    family!(LastGauge "bulkhead_container_oom_usage_bytes" "What the container had when the kernel last killed in it for memory."
        each |s, out| out.maybe(oom(s.figures).and_then(|oom| oom.usage));),
    family!(LastGauge "bulkhead_container_oom_limit_bytes" "What the container might have had then; 0 is no limit of its own."
        each |s, out| out.maybe(oom(s.figures).map(|oom| oom.limit.unwrap_or(0)));),
    family!(Gauge "bulkhead_container_start_seconds" "How long the container's last start took, until its first process was its own."
        each |s, out| out.maybe(s.figures.life.start_took.map(Ns));),
    family!(Counter "bulkhead_container_restarts_total" "Restarts by the restart policy."
        each |s, out| out.put(s.figures.life.restarts);),
    family!(Counter "bulkhead_container_memory_high_events_total" "How often memory.high throttled the container."
        each |s, out| out.maybe(memory(s.figures).and_then(|m| m.high_events));),
    family!(Gauge "bulkhead_container_memory_anon_bytes" "Anonymous memory, by the limit-relevant kinds of memory.stat."
        each |s, out| out.maybe(memory(s.figures).map(|m| m.breakdown.anon));),
    family!(Gauge "bulkhead_container_memory_shmem_bytes" "tmpfs and shared memory."
        each |s, out| out.maybe(memory(s.figures).map(|m| m.breakdown.shmem));),
    family!(Gauge "bulkhead_container_memory_dirty_bytes" "Page cache waiting to be written."
        each |s, out| out.maybe(memory(s.figures).map(|m| m.breakdown.dirty));),
    family!(Gauge "bulkhead_container_memory_sock_bytes" "Socket buffers; cgroup v2 only."
        each |s, out| out.maybe(memory(s.figures).and_then(|m| m.breakdown.sock));),
    family!(Gauge "bulkhead_container_memory_high_bytes" "memory.high, above which the kernel throttles; 0 is none."
        each |s, out| out.maybe(limits(s.figures).and_then(|l| l.memory_high).map(bytes));),
    family!(Counter "bulkhead_container_exec_total" "Programs executed in the container."
        each |s, out| out.maybe(s.traced.map(|t| t.execs));),
    family!(Counter "bulkhead_container_exec_failures_total" "Executions that failed."
        each |s, out| out.maybe(s.traced.map(|t| t.exec_failures));),
    family!(Counter "bulkhead_container_forks_total" "Processes created in the container."
        each |s, out| out.maybe(s.traced.map(|t| t.forks));),
    family!(Counter "bulkhead_container_tcp_connections_total" "TCP connections established, by who opened them."
        each |s, out| if let Some(t) = s.traced {
            out.with(&[("direction", "outgoing")], t.tcp_connects);
            out.with(&[("direction", "incoming")], t.tcp_accepts);
        };),
    family!(Counter "bulkhead_container_tcp_connect_failures_total" "TCP connections that could not be established."
        each |s, out| out.maybe(s.traced.map(|t| t.tcp_connect_failures));),
    family!(Counter "bulkhead_container_tcp_retransmits_total" "TCP segments sent again."
        each |s, out| out.maybe(s.traced.map(|t| t.tcp_retransmits));),
    family!(Counter "bulkhead_container_ip_packets_total" "IP packets of the container's own sockets, also on the host's network or another's."
        each |s, out| if let Some(t) = s.traced {
            out.with(&[("direction", "outgoing")], t.ip_packets_out);
            out.with(&[("direction", "incoming")], t.ip_packets_in);
        };),
    family!(Counter "bulkhead_container_ip_bytes_total" "Bytes of these packets, with their IP headers."
        each |s, out| if let Some(t) = s.traced {
            out.with(&[("direction", "outgoing")], t.ip_bytes_out);
            out.with(&[("direction", "incoming")], t.ip_bytes_in);
        };),
    family!(Counter "bulkhead_container_dns_queries_total" "DNS questions sent."
        each |s, out| out.maybe(s.traced.map(|t| t.dns_queries));),
    family!(Counter "bulkhead_container_dns_answers_total" "DNS answers received."
        each |s, out| out.maybe(s.traced.map(|t| t.dns_answers));),
    family!(Histogram "bulkhead_container_runqueue_latency_seconds" "Time between runnable and running."
        each |s, out| if let Some(h) = s.traced.and_then(|t| t.run_queue.as_ref()) { out.histogram(h) };),
    family!(Histogram "bulkhead_container_blkio_latency_seconds" "Time between issue and completion of block requests."
        each |s, out| if let Some(h) = s.traced.and_then(|t| t.block_io.as_ref()) { out.histogram(h) };),
    family!(Counter "bulkhead_events_lost_total" "Events the kernel could not hand over, by cause."
        host |s, out| for (cause, lost) in s.engine.events_lost.iter().flatten() { out.with(&[("cause", cause)], *lost) };),
    family!(Gauge "bulkhead_trace_hook_attached" "1 if this kernel gives us this source of events, 0 if it does not."
        host |s, out| for (hook, attached) in &s.engine.hooks { out.with(&[("hook", hook)], u64::from(*attached)) };),
    family!(Counter "bulkhead_enforcer_actions_total" "Actions of the pressure policy, by action and detector."
        host |s, out| for ((action, detector), n) in &s.engine.enforced { out.with(&[("action", action), ("detector", detector)], *n) };),
    family!(Counter "bulkhead_enforcer_reports_total" "Actions of the pressure policy that were only reported, by action and detector."
        host |s, out| for ((action, detector), n) in &s.engine.reported { out.with(&[("action", action), ("detector", detector)], *n) };),
    family!(Counter "bulkhead_enforcer_failures_total" "Actions of the pressure policy that failed, by action and detector."
        host |s, out| for ((action, detector), n) in &s.engine.unenforced { out.with(&[("action", action), ("detector", detector)], *n) };),
    family!(Gauge "bulkhead_containers" "Containers by state."
        host |s, out| for (state, count) in &s.engine.containers { out.with(&[("state", state)], *count) };),
    family!(Counter "bulkhead_image_unpacks_total" "Images for which layers had to be unpacked."
        host |s, out| out.maybe(s.unpacked.map(|cost| cost.images));),
    family!(Counter "bulkhead_image_unpacked_layers_total" "Layers unpacked."
        host |s, out| out.maybe(s.unpacked.map(|cost| cost.layers));),
    family!(Counter "bulkhead_image_unpacked_bytes_total" "Bytes of file content unpacked."
        host |s, out| out.maybe(s.unpacked.map(|cost| cost.bytes));),
    family!(Counter "bulkhead_image_unpack_seconds_total" "Time spent unpacking images, until their layers were durable."
        host |s, out| out.maybe(s.unpacked.map(|cost| Ns(cost.ns)));),
    family!(Gauge "bulkhead_build_info" "Bulkhead's version; always 1."
        host |s, out| out.with(&[("version", &s.engine.version)], 1);),
    family!(Counter "bulkhead_scrapes_total" "Answers given." host |s, out| out.put(s.engine.scrapes);),
    family!(Counter "bulkhead_scrape_errors_total" "Readings of the figures that failed." host |s, out| out.put(s.engine.errors);),
    family!(Gauge "bulkhead_collect_duration_seconds" "How long the last reading of all figures took."
        host |s, out| out.put(s.engine.collect_seconds);),
    family!(Counter "process_cpu_seconds_total" "Total user and system CPU time spent in seconds." host |s, out| out.put(Ns(s.engine.cpu_ns));),
    family!(Gauge "process_resident_memory_bytes" "Resident memory size in bytes." host |s, out| out.put(s.engine.resident);),
    family!(Gauge "process_open_fds" "Number of open file descriptors." host |s, out| out.put(s.engine.descriptors);),
    family!(Gauge "process_start_time_seconds" "Start time of the process since unix epoch in seconds." host |s, out| out.put(s.engine.started);),
];

fn oom(figures: &Figures) -> Option<&OutOfMemory> {
    figures.life.oom.as_ref()
}

fn memory(figures: &Figures) -> Option<&stats::Memory> {
    figures.stats.as_ref()?.memory.as_ref()
}

fn throttling(figures: &Figures) -> Option<&stats::Throttling> {
    figures.stats.as_ref()?.cpu.throttling.as_ref()
}

fn limits(figures: &Figures) -> Option<&Limits> {
    figures.limits.as_ref()
}

fn psi(figures: &Figures, of: impl Fn(&stats::Stats) -> Option<Pressure>) -> Option<Pressure> {
    of(figures.stats.as_ref()?)
}

fn quota(limits: &Limits) -> Option<u64> {
    match limits.cpu_quota? {
        Ceiling::At(quota) => Some(quota),
        Ceiling::Unlimited => None,
    }
}

/// Shares as cAdvisor tells them: v2's weight is turned back into the shares that give it.
fn shares(limits: &Limits) -> Option<u64> {
    // The inverse of runc's and crun's 1 + ((shares - 2) * 9999) / 262142.
    limits
        .cpu_shares
        .or_else(|| limits.cpu_weight.map(|weight| 2 + (weight.saturating_sub(1) * 262_142) / 9999))
}

fn bytes(ceiling: Ceiling) -> u64 {
    match ceiling {
        Ceiling::At(bytes) => bytes,
        Ceiling::Unlimited => 0,
    }
}

fn filesystem(of: Option<&Filesystem>, id: &str, out: &mut Samples<'_>, field: fn(&Filesystem) -> u64) {
    let Some(filesystem) = of else { return };
    let device = ("device", filesystem.device.as_str());
    if id.is_empty() {
        out.with(&[device], field(filesystem));
    } else {
        out.with(&[("id", id), device], field(filesystem));
    }
}

/// Of a container in another's network nothing is told: the other one tells it.
fn interfaces(figures: &Figures, out: &mut Samples<'_>, field: fn(&Interface) -> u64) {
    let Network::Own(list) = &figures.network else { return };
    let (told, rest) = list.split_at(list.len().min(INTERFACES));
    for interface in told {
        out.with(&[("interface", &interface.name)], field(interface));
    }
    if !rest.is_empty() {
        out.with(&[("interface", "other")], rest.iter().map(field).sum::<u64>());
    }
}

/// Interfaces that are ends of containers' own are left out, as cAdvisor does: they come and go.
fn host_interfaces(snapshot: &Snapshot, out: &mut Samples<'_>, field: fn(&Interface) -> u64) {
    for interface in &snapshot.host.interfaces {
        if !["veth", "bh-", "docker", "br-"].iter().any(|own| interface.name.starts_with(own)) {
            out.with(&[("id", "/"), ("interface", &interface.name)], field(interface));
        }
    }
}

/// Calls with device, major, minor and figures.
fn devices(figures: &Figures, mut tell: impl FnMut(&str, &str, &str, &stats::Device)) {
    let Some(list) = figures.stats.as_ref().and_then(|stats| stats.io.as_ref()) else { return };
    let (told, rest) = list.split_at(list.len().min(DEVICES));
    for device in told {
        let (major, minor) = (device.major.to_string(), device.minor.to_string());
        tell(&device::name(device.major, device.minor), &major, &minor, device);
    }
    if !rest.is_empty() {
        let mut sum = stats::Device::default();
        for device in rest {
            sum.read_bytes += device.read_bytes;
            sum.write_bytes += device.write_bytes;
            sum.reads += device.reads;
            sum.writes += device.writes;
        }
        tell("other", "", "", &sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut seen = HashSet::new();
        for family in FAMILIES {
            assert!(seen.insert(family.name), "{} twice", family.name);
            assert!(family.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            let total = matches!(family.kind, Kind::Counter | Kind::UntypedGauge);
            assert_eq!(total, family.name.ends_with("_total"), "{}", family.name);
            assert!(!family.help.is_empty() && !family.help.contains(['\n', '\\']));
            assert!(family.container.is_some() || family.host.is_some());
        }
    }

    #[test]
    fn v2_weights_are_told_as_shares() {
        let of = |weight| shares(&Limits { cpu_weight: Some(weight), ..Limits::default() });
        assert_eq!((of(1), of(39), of(10_000)), (Some(2), Some(998), Some(262_144)));
        assert_eq!(shares(&Limits { cpu_shares: Some(7), ..Limits::default() }), Some(7));
    }
}
