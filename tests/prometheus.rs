//! A real Prometheus scrapes a real `serve`: every panel's query has data, and every alert fires under the
//! load it is for and rests without.
//!
//! The alert rules are those of `exporter/prometheus/alerts.yml` with every duration divided by twelve (a
//! minute is five seconds) and a scrape a second instead of every 15, so that a test need not wait for
//! minutes; `alerts_test.yml` tests them with the durations they have.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::serve::{Serve, value};
use common::{Host, eventually, have};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

#[path = "../exporter/grafana/dashboards.rs"]
#[allow(dead_code, reason = "its main writes the files")]
mod dashboards;

/// A Prometheus of this test's own.
struct Prometheus {
    child: Child,
    address: String,
}

impl Prometheus {
    fn start(host: &Host, target: &str, rules: &str) -> Self {
        // There is no asking which port it took, so one that is free a moment before is given to it.
        let free = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = free.local_addr().expect("address").to_string();
        let rules = host.file("rules.yml", rules);
        let config = host.file(
            "prometheus.yml",
            format!(
                "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
                 rule_files: [\"{}\"]\n\
                 scrape_configs:\n  \
                 - job_name: bulkhead\n    static_configs: [{{ targets: [{target:?}] }}]\n",
                rules.display()
            ),
        );
        let log = fs::File::create(host.dir().join("prometheus.log")).expect("log");
        drop(free);
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", host.dir().join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log)
            .spawn()
            .expect("prometheus");
        let prometheus = Self { child, address };
        let ready = || prometheus.get("/-/ready").is_some_and(|(status, _)| status == 200);
        eventually("prometheus is ready", ready);
        prometheus
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        // 1.0, so that the answer comes in one piece.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn api(&self, path: &str) -> Value {
        let (status, body) = self.get(path).expect("an answer");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).expect("JSON")["data"].take()
    }

    /// How many series with a number in them a query gives now.
    fn numbers(&self, query: &str) -> usize {
        let data = self.api(&format!("/api/v1/query?query={}", encoded(query)));
        let result = data["result"].as_array().expect("a vector").clone();
        let number = |series: &&Value| {
            series["value"][1].as_str().and_then(|n| n.parse::<f64>().ok()).is_some_and(f64::is_finite)
        };
        result.iter().filter(number).count()
    }

    /// Alerts that fire, with the container's name where there is one.
    fn firing(&self) -> BTreeSet<(String, String)> {
        let data = self.api("/api/v1/alerts");
        let alerts = data["alerts"].as_array().expect("alerts").clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        alerts
            .iter()
            .filter(|alert| alert["state"] == "firing")
            .map(|alert| (text(&alert["labels"]["alertname"]), text(&alert["labels"]["name"])))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn encoded(query: &str) -> String {
    query.bytes().fold(String::new(), |mut out, byte| {
        use std::fmt::Write as _;
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// Every duration divided by twelve.
fn faster(rules: &str) -> String {
    let mut out = String::new();
    for line in rules.lines() {
        let mut line = line.to_owned();
        for minutes in (1..=10).rev() {
            let seconds = format!("{}s", minutes * 5);
            line = line.replace(&format!("[{minutes}m]"), &format!("[{seconds}]"));
            line = line.replace(&format!("for: {minutes}m"), &format!("for: {seconds}"));
        }
        out += &line;
        out.push('\n');
    }
    out
}

fn rules() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/exporter/prometheus/alerts.yml")).expect("rules")
}

fn run(host: &Host, name: &str, options: &[&str], script: &str) {
    let mut line = vec!["run", "-d", "--name", name];
    line.extend(options);
    line.extend(["busybox", "sh", "-c", script]);
    host.bulkhead(&line).ok();
}

/// What Grafana's dashboard 193 ("Docker monitoring") asks of cAdvisor.
const DASHBOARD_193: &[&str] = &[
    r#"count(container_last_seen{image!=""})"#,
    r#"sum(container_memory_usage_bytes{image!=""})/1024/1024"#,
    r#"sum(rate(container_cpu_user_seconds_total{image!=""}[5m]) * 100)"#,
    r#"rate(container_cpu_user_seconds_total{image!=""}[5m]) * 100"#,
    r#"container_memory_usage_bytes{image!=""}"#,
    r#"irate(container_network_receive_bytes_total{image!=""}[5m])"#,
    r#"irate(container_network_transmit_bytes_total{image!=""}[5m])"#,
];

/// What 893 ("Docker and system monitoring") asks of it; the rest it asks of node_exporter.
const DASHBOARD_893: &[&str] = &[
    r#"count(rate(container_last_seen{name=~".+"}[5m]))"#,
    r#"sum(rate(container_network_receive_bytes_total{name=~".+"}[5m])) by (name)"#,
    r#"sum(rate(container_network_transmit_bytes_total{name=~".+"}[5m])) by (name)"#,
    r#"sum(rate(container_cpu_usage_seconds_total{name=~".+"}[5m])) by (name) * 100"#,
    r#"sum(container_memory_swap{name=~".+"}) by (name)"#,
    r#"sum(container_memory_rss{name=~".+"}) by (name)"#,
    r#"container_memory_usage_bytes{name=~".+"}"#,
    r#"sum(container_spec_memory_limit_bytes{name=~".+"} - container_memory_usage_bytes{name=~".+"}) by (name)"#,
    r#"sum(100 - ((container_spec_memory_limit_bytes{name=~".+"} - container_memory_usage_bytes{name=~".+"}) * 100 / container_spec_memory_limit_bytes{name=~".+"})) by (name)"#,
];

/// What 14282 ("Cadvisor exporter") asks, its variables (which name anything of cAdvisor's) first; filled in as
/// "all" fills them in.
const DASHBOARD_14282: &[&str] = &[
    r#"count by (instance) ({__name__=~"container.*"})"#,
    r#"count by (name) ({__name__=~"container.*",instance=~".*",name!=""})"#,
    r#"sum(rate(container_cpu_usage_seconds_total{instance=~".*",name=~".*",name=~".+"}[5m])) by (name) *100"#,
    r#"sum(container_memory_rss{instance=~".*",name=~".*",name=~".+"}) by (name)"#,
    r#"sum(container_memory_cache{instance=~".*",name=~".*",name=~".+"}) by (name)"#,
    r#"sum(rate(container_network_receive_bytes_total{instance=~".*",name=~".*",name=~".+"}[5m])) by (name)"#,
    r#"sum(rate(container_network_transmit_bytes_total{instance=~".*",name=~".*",name=~".+"}[5m])) by (name)"#,
    r#"(time() - container_start_time_seconds{instance=~".*",name=~".*",name=~".+"})/86400"#,
];

/// What other dashboards and rules made for cAdvisor ask.
const CADVISOR: &[&str] = &[
    r#"sum(irate(container_cpu_user_seconds_total{image!=""}[1m])) by (name)"#,
    r#"sum(irate(container_cpu_system_seconds_total{image!=""}[1m])) by (name)"#,
    r#"sum(rate(container_cpu_usage_seconds_total{id="/"}[1m])) / sum(machine_cpu_cores) * 100"#,
    r#"sum(container_memory_working_set_bytes{id="/"}) / sum(machine_memory_bytes) * 100"#,
    r#"sum(container_fs_usage_bytes{id="/"}) / sum(container_fs_limit_bytes{id="/"}) * 100"#,
    r#"container_fs_inodes_free{id="/"} / container_fs_inodes_total{id="/"}"#,
    r#"rate(container_network_receive_packets_total{name=~".+"}[1m])"#,
    r#"rate(container_network_receive_errors_total{name=~".+"}[1m])"#,
    r#"rate(container_network_transmit_packets_dropped_total{name=~".+"}[1m])"#,
    r#"sum(container_processes{name=~".+"})"#,
    r#"container_threads{name=~".+"}"#,
    r#"container_file_descriptors{name=~".+"}"#,
    r#"container_threads_max{name=~".+"}"#,
    r#"increase(container_memory_failcnt{name=~".+"}[1m])"#,
    r#"rate(container_memory_failures_total{failure_type="pgfault",scope="hierarchy"}[1m])"#,
    "container_spec_cpu_quota / container_spec_cpu_period",
    r#"container_spec_cpu_shares{name=~".+"}"#,
    r#"container_health_state{name=~".+"}"#,
    "container_scrape_error",
    r#"sum(rate(container_fs_reads_bytes_total{name=~".+"}[1m])) by (name,device)"#,
    r#"sum(rate(container_fs_writes_bytes_total{name=~".+"}[1m])) by (name,device)"#,
    r#"rate(container_blkio_device_usage_total{operation="Write"}[1m])"#,
    r#"rate(container_pressure_cpu_waiting_seconds_total{name=~".+"}[1m])"#,
    r#"sum by (container_label_tier) (container_memory_rss{container_label_tier!=""})"#,
];

#[test]
fn every_query_of_every_panel_has_data() {
    let host = host!();
    if !have("prometheus") {
        skip!("prometheus");
    }
    host.busybox();
    let serve = Serve::start(&host, &["--metrics-label", "tier", "--filesystem-interval", "1s"]);
    host.bulkhead(&["network", "create", "net"]).ok();
    run(&host, "server", &["--network", "net", "-m", "32m"], "echo hello > /tmp/f; httpd -f -p 80 -h /tmp");
    let all = [
        "--network",
        "net",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "60",
        "--label",
        "tier=web",
        "--health-cmd",
        "true",
        "--health-interval",
        "1s",
    ];
    let work = "while :; do
        wget -q -O /dev/null http://server/f; wget -q -O /dev/null http://server:81/ 2>/dev/null
        nslookup server >/dev/null 2>&1
        dd if=/dev/zero of=/block bs=64k count=4 oflag=direct 2>/dev/null
        dd if=/block of=/dev/null bs=64k iflag=direct 2>/dev/null
        i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done
    done";
    run(&host, "all", &all, work);
    let prometheus = Prometheus::start(&host, &serve.address, &rules());
    let made_for_cadvisor = [DASHBOARD_193, DASHBOARD_893, DASHBOARD_14282, CADVISOR];
    let mut left: Vec<String> = made_for_cadvisor.concat().into_iter().map(str::to_owned).collect();
    for (_, _, _, panels) in dashboards::DASHBOARDS {
        let queries = panels.iter().flat_map(|(_, _, queries)| *queries);
        left.extend(queries.map(|(query, _)| query.replace("$name", "all")));
    }
    assert!(left.len() > 80, "the dashboards were not found");
    let mut rounds = 0;
    while !left.is_empty() && rounds < 60 {
        std::thread::sleep(Duration::from_secs(1));
        left.retain(|query| prometheus.numbers(query) == 0);
        rounds += 1;
    }
    // What this host cannot tell is told by nobody; it is named, and it is not counted as shown.
    let text = serve.metrics("");
    let absent: &[(&str, &str)] = &[
        ("container_fs_reads_bytes_total{", "block I/O figures per container"),
        ("container_pressure_cpu_waiting_seconds_total{id=\"/b", "pressure figures per container"),
        ("container_memory_usage_bytes{id=\"/b", "a memory controller"),
        ("bulkhead_container_exec_total{", "eBPF"),
        ("bulkhead_container_blkio_latency_seconds_count{", "eBPF (block I/O latency)"),
        ("bulkhead_container_dns_queries_total{", "eBPF (packets)"),
    ];
    for (series, needs) in absent {
        if !text.contains(series) {
            println!("skipped: needs {needs} (some panels of this test)");
            let family = series.split('{').next().unwrap_or_default();
            let stem = family.strip_suffix("_count").unwrap_or(family);
            left.retain(|query| {
                !(query.contains(stem)
                    || *needs == "block I/O figures per container"
                        && ["fs_writes", "blkio_device"].iter().any(|part| query.contains(part))
                    || *needs == "pressure figures per container" && query.contains("container_pressure")
                    || *needs == "a memory controller" && query.contains("_memory_")
                    || *needs == "eBPF" && query.contains("bulkhead_container_"))
            });
        }
    }
    assert!(left.is_empty(), "no data for {left:#?}\n{text}");
    // What is counted is what was done: rates that would be there as zero must not be.
    for moving in [
        "container_network_receive_bytes_total",
        "container_network_transmit_bytes_total",
        "container_cpu_usage_seconds_total",
    ] {
        assert!(value(&text, moving, &["name=\"all\""]).is_some_and(|n| n > 0.0), "{moving}");
    }
    if text.contains("bulkhead_trace_hook_attached{hook=\"exec\"} 1") {
        for (moving, part) in [
            ("bulkhead_container_exec_total", ""),
            ("bulkhead_container_forks_total", ""),
            ("bulkhead_container_tcp_connections_total", "direction=\"outgoing\""),
        ] {
            assert!(value(&text, moving, &["name=\"all\"", part]).is_some_and(|n| n > 0.0), "{moving}");
        }
        let served =
            value(&text, "bulkhead_container_tcp_connections_total", &["\"server\"", "\"incoming\""]);
        assert!(served.is_some_and(|n| n > 0.0), "{served:?}");
        assert!(
            text.contains("bulkhead_events_lost_total{cause=\"ring full: exec\"}"),
            "from the start\n{text}"
        );
    }
    assert!(
        value(&text, "bulkhead_container_start_seconds", &["\"all\""]).is_some_and(|s| s > 0.0 && s < 600.0)
    );
    assert!(value(&text, "bulkhead_image_unpack_seconds_total", &[]).is_some_and(|s| s > 0.0));
    assert_eq!(value(&text, "bulkhead_image_unpacks_total", &[]), Some(1.0));
    assert_eq!(value(&text, "bulkhead_image_unpacked_layers_total", &[]), Some(1.0));
    assert!(value(&text, "bulkhead_image_unpacked_bytes_total", &[]).is_some_and(|n| n > 100_000.0));
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]);
    let said = common::run(check, text.as_bytes()).ok();
    assert_eq!((said.out().as_str(), said.err().as_str()), ("", ""));
}

#[test]
fn every_alert_fires_under_its_load_and_rests_without() {
    let host = host!();
    if !have("prometheus") {
        skip!("prometheus");
    }
    host.busybox();
    let serve = Serve::start(&host, &[]);
    let calm = [
        "-m",
        "64m",
        "--cpus",
        "1",
        "--pids-limit",
        "50",
        "--restart",
        "always",
        "--health-cmd",
        "true",
        "--health-interval",
        "1s",
    ];
    run(&host, "calm", &calm, "while :; do sleep 1; done");
    let prometheus = Prometheus::start(&host, &serve.address, &faster(&rules()));
    eventually("the first scrapes", || prometheus.numbers("count_over_time(up[1m]) > 10") == 1);
    // The host is shared with other tests, so what is said of it is not ours to judge.
    let ours = |alerts: BTreeSet<(String, String)>| -> BTreeSet<(String, String)> {
        alerts.into_iter().filter(|(alert, _)| alert != "HostMemoryPressure").collect()
    };
    assert_eq!(ours(prometheus.firing()), BTreeSet::new(), "nothing is wrong, and nothing fires");

    let text = serve.metrics("");
    let has = |series: &str| text.lines().any(|line| line.starts_with(series) && line.contains("\"calm\""));
    let mut wanted: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut load = |alert: &'static str, name: &'static str, needs: &str, options: &[&str], script: &str| {
        if has(needs) {
            run(&host, name, options, script);
            wanted.insert((alert, name));
        } else {
            println!("skipped: needs {needs} on this host ({alert})");
        }
    };
    let fill = "dd if=/dev/zero of=/dev/shm/f bs=1M count=30 2>/dev/null; sleep 1000";
    let hog = "while :; do sh -c 'x=a; while :; do x=$x$x; done'; sleep 0.2; done";
    // Reads a little more than it may keep, so that pages are taken from it shortly before it comes back to them:
    // what it then waits for is memory, however slow the disk. (Of a file of four times the limit no page counts
    // as taken too early, and beside a saturated disk the pressure fell to a tenth.) Written past the cache, and
    // with room for what is on its way from a busy disk: either would have it killed.
    let thrash = "dd if=/dev/zero of=/big bs=1M count=12 oflag=direct 2>/dev/null
        for i in 1 2 3 4; do while :; do cat /big > /dev/null; done & done; wait";
    // Few programs and much waiting, so that a busy processor does not make it wait for that instead.
    let sync = "for i in 1 2 3 4 5 6; do
        while :; do dd if=/dev/zero of=/f$i bs=4k count=4096 oflag=direct conv=fsync 2>/dev/null; done & done; wait";
    let spin = "while :; do :; done";
    load(
        "ContainerOomKilled",
        "hog",
        "container_oom_events_total",
        &["-m", "16m", "--memory-swap", "16m"],
        hog,
    );
    load("ContainerMemoryNearLimit", "near", "container_memory_usage_bytes", &["-m", "32m"], fill);
    load(
        "ContainerMemoryPressure",
        "thrash",
        "container_pressure_memory_waiting_seconds_total",
        &["-m", "12m", "--memory-swap", "12m"],
        thrash,
    );
    load("ContainerCpuThrottled", "slow", "container_cpu_cfs_periods_total", &["--cpus", "0.1"], spin);
    load("ContainerIoPressure", "sync", "container_pressure_io_waiting_seconds_total", &[], sync);
    let full = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait";
    load("ContainerNearPidsLimit", "full", "container_threads_max", &["--pids-limit", "10"], full);
    let fall = "sleep 0.3; exit 1";
    load("ContainerRestarting", "again", "bulkhead_container_restarts_total", &["--restart", "always"], fall);
    let ill = ["--health-cmd", "false", "--health-interval", "1s", "--health-retries", "1"];
    load("ContainerUnhealthy", "ill", "container_health_state", &ill, "sleep 1000");

    let mut fired: BTreeSet<(String, String)> = BTreeSet::new();
    let mut host_pressed = false;
    let mut wait_for = |wanted: &BTreeSet<(&str, &str)>| {
        for _ in 0..240 {
            for (alert, name) in prometheus.firing() {
                host_pressed |= alert == "HostMemoryPressure";
                fired.insert((alert, name));
            }
            if wanted.iter().all(|(alert, name)| fired.contains(&((*alert).to_owned(), (*name).to_owned()))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        let missing: Vec<_> = wanted
            .iter()
            .filter(|(alert, name)| !fired.contains(&((*alert).to_owned(), (*name).to_owned())))
            .collect();
        assert!(missing.is_empty(), "never fired: {missing:?}\n{}", serve.metrics(""));
        assert!(fired.iter().all(|(_, name)| name != "calm"), "{fired:?}");
    };
    wait_for(&wanted);
    for (_, name) in &wanted {
        host.bulkhead(&["rm", "-f", name]).ok();
    }

    // A serve that does not get to its ring while a container executes long command lines loses events.
    if text.contains("bulkhead_trace_hook_attached{hook=\"exec\"} 1") {
        kill(serve.pid(), Signal::SIGSTOP).expect("stop");
        let storm = "a=$(head -c 3000 /dev/zero | tr '\\0' a); i=0
            while [ $i -lt 2500 ]; do /bin/true $a $a $a $a; i=$((i+1)); done";
        host.bulkhead(&["run", "--rm", "busybox", "sh", "-c", storm]).ok();
        kill(serve.pid(), Signal::SIGCONT).expect("continue");
        wait_for(&BTreeSet::from([("BulkheadEventsLost", "")]));
    } else {
        println!("skipped: needs eBPF (BulkheadEventsLost)");
    }
    // Figures that cannot be read: the directory for last figures is gone.
    let inbox = host.run_root().join("ended");
    fs::rename(&inbox, host.run_root().join("aside")).expect("rename");
    wait_for(&BTreeSet::from([("BulkheadReadingFails", "")]));
    fs::rename(host.run_root().join("aside"), &inbox).expect("rename");
    eventually("figures again", || value(&serve.metrics(""), "container_scrape_error", &[]) == Some(0.0));

    if !host_pressed {
        println!("skipped: needs a host on which nothing else runs (HostMemoryPressure)");
    }
    // All of it has ended, and so do the alerts.
    eventually("rest", || ours(prometheus.firing()).is_empty());
    drop(serve);
    eventually("an alert for a serve that is gone", || {
        prometheus.firing().iter().any(|(alert, _)| alert == "BulkheadDown")
    });
}
