//! The dashboards, as code: `cargo run -p bulkhead-exporter --example dashboards -- exporter/grafana`.
//!
//! A dashboard in Grafana's JSON is a thousand lines of which twenty say something. Those twenty are here;
//! the JSON beside this file is made of them, and a test of this crate fails when it is not.

use std::path::Path;

use serde_json::{Value, json};

/// One panel: title, unit, and queries with their legends. A title ending in `!` is a single number.
type Panel = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// Every dashboard: file, title, whether it is about one container, panels.
pub const DASHBOARDS: &[(&str, &str, bool, &[Panel])] = &[
    (
        "host",
        "Bulkhead / Host",
        false,
        &[
            ("Containers running!", "short", &[("bulkhead_containers{state=\"running\"}", "")]),
            (
                "Host CPU!",
                "percentunit",
                &[(
                    "sum(rate(container_cpu_usage_seconds_total{id=\"/\"}[1m])) / sum(machine_cpu_cores)",
                    "",
                )],
            ),
            (
                "Host memory!",
                "percentunit",
                &[("container_memory_working_set_bytes{id=\"/\"} / on(instance) machine_memory_bytes", "")],
            ),
            (
                "Disk of images and containers!",
                "percentunit",
                &[("container_fs_usage_bytes{id=\"/\"} / container_fs_limit_bytes{id=\"/\"}", "{{device}}")],
            ),
            (
                "CPU by container",
                "percentunit",
                &[("sum by (name) (rate(container_cpu_usage_seconds_total{name!=\"\"}[1m]))", "{{name}}")],
            ),
            (
                "Memory by container",
                "bytes",
                &[("container_memory_working_set_bytes{name!=\"\"}", "{{name}}")],
            ),
            (
                "Received by container",
                "Bps",
                &[(
                    "sum by (name) (rate(container_network_receive_bytes_total{name!=\"\"}[1m]))",
                    "{{name}}",
                )],
            ),
            (
                "Sent by container",
                "Bps",
                &[(
                    "sum by (name) (rate(container_network_transmit_bytes_total{name!=\"\"}[1m]))",
                    "{{name}}",
                )],
            ),
            (
                "Read from disks",
                "Bps",
                &[("sum by (name) (rate(container_fs_reads_bytes_total{name!=\"\"}[1m]))", "{{name}}")],
            ),
            (
                "Written to disks",
                "Bps",
                &[("sum by (name) (rate(container_fs_writes_bytes_total{name!=\"\"}[1m]))", "{{name}}")],
            ),
            (
                "Pressure on the host",
                "percentunit",
                &[
                    ("rate(container_pressure_cpu_waiting_seconds_total{id=\"/\"}[1m])", "cpu"),
                    ("rate(container_pressure_memory_waiting_seconds_total{id=\"/\"}[1m])", "memory"),
                    ("rate(container_pressure_io_waiting_seconds_total{id=\"/\"}[1m])", "io"),
                ],
            ),
            (
                "Restarts in the last hour",
                "short",
                &[("increase(bulkhead_container_restarts_total[1h])", "{{name}}")],
            ),
        ],
    ),
    (
        "container",
        "Bulkhead / Container",
        true,
        &[
            (
                "CPU",
                "percentunit",
                &[
                    ("sum(rate(container_cpu_usage_seconds_total{name=\"$name\"}[1m]))", "used"),
                    (
                        "container_spec_cpu_quota{name=\"$name\"} / container_spec_cpu_period{name=\"$name\"}",
                        "quota",
                    ),
                ],
            ),
            (
                "Periods throttled",
                "percentunit",
                &[(
                    "rate(container_cpu_cfs_throttled_periods_total{name=\"$name\"}[1m]) / rate(container_cpu_cfs_periods_total{name=\"$name\"}[1m])",
                    "",
                )],
            ),
            (
                "Memory",
                "bytes",
                &[
                    ("container_memory_working_set_bytes{name=\"$name\"}", "working set"),
                    ("container_memory_rss{name=\"$name\"}", "anonymous"),
                    ("container_memory_cache{name=\"$name\"}", "cache"),
                    ("container_spec_memory_limit_bytes{name=\"$name\"} > 0", "limit"),
                ],
            ),
            ("Limit hit", "short", &[("rate(container_memory_failcnt{name=\"$name\"}[1m])", "")]),
            (
                "Network",
                "Bps",
                &[
                    ("sum(rate(container_network_receive_bytes_total{name=\"$name\"}[1m]))", "received"),
                    ("sum(rate(container_network_transmit_bytes_total{name=\"$name\"}[1m]))", "sent"),
                ],
            ),
            (
                "Block devices",
                "Bps",
                &[
                    (
                        "sum by (device) (rate(container_fs_reads_bytes_total{name=\"$name\"}[1m]))",
                        "read {{device}}",
                    ),
                    (
                        "sum by (device) (rate(container_fs_writes_bytes_total{name=\"$name\"}[1m]))",
                        "written {{device}}",
                    ),
                ],
            ),
            (
                "Processes and threads",
                "short",
                &[
                    ("container_processes{name=\"$name\"}", "processes"),
                    ("container_threads{name=\"$name\"}", "threads"),
                ],
            ),
            ("Open files", "short", &[("container_file_descriptors{name=\"$name\"}", "")]),
            (
                "Pressure",
                "percentunit",
                &[
                    ("rate(container_pressure_cpu_waiting_seconds_total{name=\"$name\"}[1m])", "cpu"),
                    ("rate(container_pressure_memory_waiting_seconds_total{name=\"$name\"}[1m])", "memory"),
                    ("rate(container_pressure_io_waiting_seconds_total{name=\"$name\"}[1m])", "io"),
                ],
            ),
            ("Writable layer", "bytes", &[("container_fs_usage_bytes{name=\"$name\"}", "{{device}}")]),
            (
                "Waiting for a CPU (99 %)",
                "s",
                &[(
                    "histogram_quantile(0.99, rate(bulkhead_container_runqueue_latency_seconds_bucket{name=\"$name\"}[1m]))",
                    "",
                )],
            ),
            (
                "Waiting for a block device (99 %)",
                "s",
                &[(
                    "histogram_quantile(0.99, rate(bulkhead_container_blkio_latency_seconds_bucket{name=\"$name\"}[1m]))",
                    "",
                )],
            ),
            ("Up for", "s", &[("time() - container_start_time_seconds{name=\"$name\"}", "")]),
            ("The last start took", "s", &[("bulkhead_container_start_seconds{name=\"$name\"}", "")]),
        ],
    ),
    (
        "network-exec",
        "Bulkhead / Network and executions",
        false,
        &[
            ("Programs executed", "ops", &[("rate(bulkhead_container_exec_total[1m])", "{{name}}")]),
            ("Processes created", "ops", &[("rate(bulkhead_container_forks_total[1m])", "{{name}}")]),
            (
                "Connections opened",
                "ops",
                &[("rate(bulkhead_container_tcp_connections_total{direction=\"outgoing\"}[1m])", "{{name}}")],
            ),
            (
                "Connections accepted",
                "ops",
                &[("rate(bulkhead_container_tcp_connections_total{direction=\"incoming\"}[1m])", "{{name}}")],
            ),
            (
                "Connections that failed",
                "ops",
                &[("rate(bulkhead_container_tcp_connect_failures_total[1m])", "{{name}}")],
            ),
            (
                "Segments sent again",
                "ops",
                &[("rate(bulkhead_container_tcp_retransmits_total[1m])", "{{name}}")],
            ),
            (
                "Sent by its own sockets",
                "Bps",
                &[("rate(bulkhead_container_ip_bytes_total{direction=\"outgoing\"}[1m])", "{{name}}")],
            ),
            (
                "Received by its own sockets",
                "Bps",
                &[("rate(bulkhead_container_ip_bytes_total{direction=\"incoming\"}[1m])", "{{name}}")],
            ),
            ("DNS questions", "ops", &[("rate(bulkhead_container_dns_queries_total[1m])", "{{name}}")]),
            (
                "DNS questions without an answer",
                "ops",
                &[(
                    "rate(bulkhead_container_dns_queries_total[1m]) - rate(bulkhead_container_dns_answers_total[1m])",
                    "{{name}}",
                )],
            ),
            (
                "Packets dropped",
                "pps",
                &[(
                    "sum by (name) (rate(container_network_receive_packets_dropped_total{name!=\"\"}[1m]) + rate(container_network_transmit_packets_dropped_total{name!=\"\"}[1m]))",
                    "{{name}}",
                )],
            ),
        ],
    ),
    (
        "oom-pressure",
        "Bulkhead / OOM and pressure",
        false,
        &[
            (
                "OOM kills in the last hour",
                "short",
                &[("increase(container_oom_events_total[1h])", "{{name}}")],
            ),
            (
                "Memory against its limit",
                "percentunit",
                &[(
                    "container_memory_working_set_bytes{name!=\"\"} / (container_spec_memory_limit_bytes{name!=\"\"} > 0)",
                    "{{name}}",
                )],
            ),
            (
                "Some waited for memory",
                "percentunit",
                &[("rate(container_pressure_memory_waiting_seconds_total{name!=\"\"}[1m])", "{{name}}")],
            ),
            (
                "All waited for memory",
                "percentunit",
                &[("rate(container_pressure_memory_stalled_seconds_total{name!=\"\"}[1m])", "{{name}}")],
            ),
            (
                "Some waited for a CPU",
                "percentunit",
                &[("rate(container_pressure_cpu_waiting_seconds_total{name!=\"\"}[1m])", "{{name}}")],
            ),
            (
                "Some waited for a disk",
                "percentunit",
                &[("rate(container_pressure_io_waiting_seconds_total{name!=\"\"}[1m])", "{{name}}")],
            ),
            (
                "Throttled by a CPU quota",
                "percentunit",
                &[(
                    "rate(container_cpu_cfs_throttled_periods_total[1m]) / rate(container_cpu_cfs_periods_total[1m])",
                    "{{name}}",
                )],
            ),
            (
                "Major page faults",
                "ops",
                &[("rate(container_memory_failures_total{failure_type=\"pgmajfault\"}[1m])", "{{name}}")],
            ),
        ],
    ),
    (
        "engine",
        "Bulkhead / Engine",
        false,
        &[
            ("Up!", "short", &[("up{job=\"bulkhead\"}", "{{instance}}")]),
            ("Version!", "short", &[("bulkhead_build_info", "{{version}}")]),
            ("Containers by state", "short", &[("bulkhead_containers", "{{state}}")]),
            ("Time to read the figures", "s", &[("bulkhead_collect_duration_seconds", "{{instance}}")]),
            ("Time to scrape", "s", &[("scrape_duration_seconds{job=\"bulkhead\"}", "{{instance}}")]),
            (
                "Answers and failed readings",
                "ops",
                &[
                    ("rate(bulkhead_scrapes_total[1m])", "answers"),
                    ("rate(bulkhead_scrape_errors_total[1m])", "failed"),
                ],
            ),
            ("Series", "short", &[("scrape_samples_scraped{job=\"bulkhead\"}", "{{instance}}")]),
            ("Events sources attached", "short", &[("bulkhead_trace_hook_attached", "{{hook}}")]),
            ("Events lost", "ops", &[("rate(bulkhead_events_lost_total[5m])", "{{cause}}")]),
            ("Starts took", "s", &[("bulkhead_container_start_seconds", "{{name}}")]),
            (
                "Time to unpack an image",
                "s",
                &[(
                    "bulkhead_image_unpack_seconds_total / (bulkhead_image_unpacks_total > 0)",
                    "{{instance}}",
                )],
            ),
            (
                "Unpacked",
                "Bps",
                &[(
                    "bulkhead_image_unpacked_bytes_total / (bulkhead_image_unpack_seconds_total > 0)",
                    "{{instance}}",
                )],
            ),
            (
                "CPU of serve",
                "percentunit",
                &[("rate(process_cpu_seconds_total{job=\"bulkhead\"}[1m])", "{{instance}}")],
            ),
            (
                "Memory of serve",
                "bytes",
                &[("process_resident_memory_bytes{job=\"bulkhead\"}", "{{instance}}")],
            ),
            ("Open files of serve", "short", &[("process_open_fds{job=\"bulkhead\"}", "{{instance}}")]),
        ],
    ),
];

/// A dashboard in Grafana's JSON.
pub fn render(file: &str, title: &str, one: bool, panels: &[Panel]) -> Value {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let mut y = 0;
    let mut x = 0;
    let mut out = Vec::new();
    // Numbers fill their row: whatever lies below a gap is drawn up into it.
    let numbers = panels.iter().filter(|(title, ..)| title.ends_with('!')).count();
    for (id, (title, unit, queries)) in panels.iter().enumerate() {
        let (title, kind, width, height) = match title.strip_suffix('!') {
            Some(title) => (title, "stat", 24 / numbers, 4),
            None => (*title, "timeseries", 12, 8),
        };
        let targets: Vec<Value> = queries
            .iter()
            .zip('A'..)
            .map(|((expr, legend), letter)| {
                json!({"refId": letter.to_string(), "datasource": source, "expr": expr,
                       "legendFormat": if legend.is_empty() { "__auto" } else { legend }})
            })
            .collect();
        out.push(json!({
            "id": id + 1, "title": title, "type": kind, "datasource": source,
            "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "targets": targets,
        }));
        x += width;
        if x == 24 {
            (x, y) = (0, y + height);
        }
    }
    let mut variables = vec![json!({
        "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"
    })];
    if one {
        variables.push(json!({
            "name": "name", "type": "query", "label": "Container", "datasource": source, "refresh": 2, "sort": 1,
            "query": {"query": "label_values(container_last_seen{name!=\"\"}, name)", "refId": "name"},
        }));
    }
    json!({
        "uid": format!("bulkhead-{file}"), "title": title, "tags": ["bulkhead"], "schemaVersion": 39, "version": 1,
        "editable": true, "refresh": "15s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
        "templating": {"list": variables}, "annotations": {"list": []}, "panels": out,
    })
}

/// Writes every dashboard into the directory named.
fn main() {
    let dir = std::env::args().nth(1).expect("usage: dashboards DIRECTORY");
    for (file, title, one, panels) in DASHBOARDS {
        let text = format!("{:#}\n", render(file, title, *one, panels));
        let path = Path::new(&dir).join(format!("{file}.json"));
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}
