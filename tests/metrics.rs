//! `metrics`, `serve` and what Prometheus makes of them, on the real binary.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use common::serve::{Serve, value};
use common::{eventually, have};

#[test]
fn a_container_is_told_with_cadvisor_s_names() {
    let host = host!();
    let image = host.busybox();
    let id = host
        .bulkhead(&[
            "run",
            "-d",
            "--name",
            "web",
            "-m",
            "64m",
            "--label",
            "app=a\"b\\c\nd \u{e9}\u{1f980}",
            "--label",
            "secret=x",
            image,
            "sleep",
            "1000",
        ])
        .ok()
        .line();
    let text = host.bulkhead(&["metrics", "--metrics-label", "app"]).ok().out();
    let of = &[
        "name=\"web\"",
        "image=\"busybox\"",
        id.as_str(),
        "container_label_app=\"a\\\"b\\\\c\\nd \u{e9}\u{1f980}\"",
    ];
    for family in [
        "container_cpu_usage_seconds_total",
        "container_start_time_seconds",
        "container_last_seen",
        "container_processes",
        "container_threads",
        "container_file_descriptors",
        "container_fs_usage_bytes",
        "container_fs_limit_bytes",
        "bulkhead_container_info",
        "bulkhead_container_restarts_total",
    ] {
        assert!(value(&text, family, of).is_some(), "{family}\n{text}");
    }
    assert!(!text.contains("secret"), "labels are taken from the list only");
    assert_eq!(value(&text, "container_processes", of), Some(1.0));
    assert_eq!(value(&text, "container_health_state", of), Some(-1.0));
    if value(&text, "container_memory_usage_bytes", of).is_some() {
        assert_eq!(value(&text, "container_spec_memory_limit_bytes", of), Some(f64::from(64 << 20)));
    } else {
        println!("skipped: needs a memory controller (the memory figures of this test)");
    }
    host.bulkhead(&["rm", "-f", "web"]).ok();
    let text = host.bulkhead(&["metrics"]).ok().out();
    assert!(!text.contains(&id), "series vanish with the container\n{text}");
    assert!(value(&text, "machine_cpu_cores", &[]).is_some());
    let file = host.dir().join("x.prom");
    host.bulkhead(&["metrics", "--textfile", file.to_str().expect("utf-8")]).ok().prints("");
    assert!(std::fs::read_to_string(file).expect("file").contains("machine_cpu_cores"));
}

#[test]
fn formats_compression_and_other_paths() {
    let host = host!();
    let serve = Serve::start(&host, &["--no-trace"]);
    let (_, head, body) = serve.get("/metrics", "");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let plain = String::from_utf8(body).expect("text");
    assert!(plain.contains("# TYPE container_cpu_usage_seconds_total counter\n"));
    let (_, head, body) = serve.get("/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(String::from_utf8(body).expect("text").ends_with("# EOF\n"));
    let (_, head, body) = serve.get("/metrics", "Accept-Encoding: gzip\r\n");
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).expect("gzip");
    assert!(text.contains("machine_cpu_cores"));
    assert_eq!(serve.get("/", "").0, 200);
    assert_eq!(serve.get("/-/healthy", "").0, 200);
    assert_eq!(serve.get("/../etc/passwd", "").0, 404);
    let second = host.bulkhead(&["serve", "--metrics", "127.0.0.1:0"]).code(1);
    assert!(second.err().contains("another bulkhead serve is running"), "{second}");
}

#[test]
fn what_cannot_be_served_is_refused_at_once() {
    let host = host!();
    host.bulkhead(&["serve"]).code(1).complains("nothing to serve");
    host.bulkhead(&["serve", "--metrics", "127.0.0.1:0", "--auth-file", "/nonexistent"])
        .code(1)
        .complains("/nonexistent");
    let empty = host.file("empty", "");
    let empty = empty.to_str().expect("utf-8");
    host.bulkhead(&["serve", "--metrics", ":0", "--auth-file", empty]).code(1).complains("no users");
    host.bulkhead(&["serve", "--metrics", ":0", "--tls-cert", empty, "--tls-key", empty])
        .code(1)
        .complains("certificate");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    host.bulkhead(&["serve", "--metrics", &address]).code(1).complains("listen");
}

#[test]
fn a_password_is_asked_for() {
    let host = host!();
    let hash = bcrypt::hash("secret", 4).expect("hash");
    let users = host.file("users", format!("# who\nprom:{hash}\n"));
    let serve = Serve::start(&host, &["--no-trace", "--auth-file", users.to_str().expect("utf-8")]);
    // prom:secret, prom:wrong, who:secret
    for (header, status) in [
        ("", 401),
        ("Authorization: Basic cHJvbTpzZWNyZXQ=\r\n", 200),
        ("Authorization: Basic cHJvbTpzZWNyZXQ=\r\n", 200),
        ("Authorization: Basic cHJvbTp3cm9uZw==\r\n", 401),
        ("Authorization: Basic d2hvOnNlY3JldA==\r\n", 401),
        ("Authorization: Basic !!!\r\n", 401),
        ("Authorization: Bearer x\r\n", 401),
    ] {
        let (got, head, _) = serve.get("/metrics", header);
        assert_eq!(got, status, "{header}");
        assert_eq!(head.contains("www-authenticate: basic"), status == 401, "{head}");
    }
    assert_eq!(serve.get("/-/healthy", "").0, 401);
}

#[test]
fn a_container_that_lived_between_two_scrapes_is_told_once() {
    let host = host!();
    let image = host.busybox();
    let serve = Serve::start(&host, &["--no-trace"]);
    let (me, other) = ("User-Agent: one\r\n", "User-Agent: two\r\n");
    serve.metrics(me);
    host.bulkhead(&[
        "run",
        "--rm",
        "--name",
        "brief",
        image,
        "sh",
        "-c",
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
    ])
    .ok();
    let text = serve.metrics(me);
    let cpu = value(&text, "container_cpu_usage_seconds_total", &["name=\"brief\""]);
    assert!(cpu.is_some_and(|cpu| cpu > 0.0), "{text}");
    assert!(value(&text, "container_last_seen", &["name=\"brief\""]).is_none(), "gauges are of the living");
    assert!(!serve.metrics(me).contains("name=\"brief\""), "once");
    assert!(serve.metrics(other).contains("name=\"brief\""), "and once to another scraper");
}

#[test]
fn the_last_packets_of_a_short_life_are_told() {
    let host = host!();
    let image = host.busybox();
    let serve = Serve::start(&host, &["--no-trace"]);
    host.bulkhead(&["network", "create", "net"]).ok();
    let page = "head -c 50000 /dev/zero > /tmp/f; httpd -f -p 80 -h /tmp";
    host.bulkhead(&["run", "-d", "--name", "server", "--network", "net", image, "sh", "-c", page]).ok();
    serve.metrics("");
    let fetch = "until wget -q -O /dev/null http://server/f; do sleep 0.1; done";
    host.bulkhead(&["run", "--rm", "--name", "brief", "--network", "net", image, "sh", "-c", fetch]).ok();
    let text = serve.metrics("");
    let of = &["name=\"brief\"", "interface=\"eth0\""];
    let received = value(&text, "container_network_receive_bytes_total", of);
    assert!(received.is_some_and(|bytes| bytes > 50_000.0), "{received:?}\n{text}");
    assert!(value(&text, "container_network_transmit_packets_total", of).is_some_and(|n| n > 0.0));
    assert!(!serve.metrics("").contains("name=\"brief\""), "once");
    host.bulkhead(&["rm", "-f", "server"]).ok();
}

/// Counters and histograms of containers and of the store, by series.
fn counters(text: &str) -> std::collections::BTreeMap<String, f64> {
    let kinds: std::collections::HashMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| {
            let family = series.split('{').next().unwrap_or_default();
            let whole = ["_bucket", "_sum", "_count"].iter().find_map(|part| family.strip_suffix(part));
            (kinds.get(family) == Some(&"counter")
                || whole.is_some_and(|whole| kinds.get(whole) == Some(&"histogram")))
                && (series.contains("name=\"busy\"") || family.starts_with("bulkhead_image_"))
        })
        .map(|(series, value)| (series.to_owned(), value.parse().expect("a number")))
        .collect()
}

#[test]
fn counters_go_on_where_they_were_when_serve_starts_again() {
    /// Where the counters stay between two serves; a bpffs is mounted there.
    struct Pins(String);
    impl Drop for Pins {
        fn drop(&mut self) {
            // Not mounted where nothing can be traced.
            let _ = nix::mount::umount(self.0.as_str());
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    let host = host!();
    let image = host.busybox();
    let pins = std::env::temp_dir().join(format!("bulkhead-metrics-pin-{}", std::process::id()));
    let pins = Pins(pins.display().to_string());
    let options = ["--pin-counters", pins.0.as_str()];
    let serve = Serve::start(&host, &options);
    let script = "while :; do
        /bin/true; i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done
        dd if=/dev/zero of=/f bs=64k count=1 oflag=direct 2>/dev/null
    done";
    host.bulkhead(&["run", "-d", "--name", "busy", image, "sh", "-c", script]).ok();
    let traced = value(&serve.metrics(""), "bulkhead_trace_hook_attached", &["hook=\"exec\""]) == Some(1.0);
    if traced {
        eventually("executions", || {
            value(&serve.metrics(""), "bulkhead_container_exec_total", &["\"busy\""])
                .is_some_and(|n| n > 20.0)
        });
    } else {
        println!("skipped: needs eBPF (the counters of events in this test)");
    }
    let mut before = counters(&serve.metrics(""));
    assert!(before.len() > 10, "{before:?}");
    let counts = |of: &str| {
        let series = |series: &&String| series.starts_with(of) && series.contains("_count{");
        before.iter().find(|(name, _)| series(name)).map(|(_, count)| *count)
    };
    if traced {
        assert!(counts("bulkhead_container_runqueue_latency_seconds") > Some(0.0), "{before:?}");
        if counts("bulkhead_container_blkio_latency_seconds").is_none_or(|count| count == 0.0) {
            println!("skipped: needs a root on a block device (the block I/O histogram of this test)");
        }
    }
    let mut serve = serve;
    for signal in [nix::sys::signal::Signal::SIGKILL, nix::sys::signal::Signal::SIGTERM] {
        nix::sys::signal::kill(serve.pid(), signal).expect("kill");
        drop(serve);
        let again = Serve::start(&host, &options);
        let now = counters(&again.metrics(""));
        for (series, old) in &before {
            let new = now.get(series);
            assert!(new.is_some_and(|new| new >= old), "{signal}: {series}: {old}, then {new:?}");
        }
        before = now;
        serve = again;
    }
    drop(serve);
    host.bulkhead(&["rm", "-f", "busy"]).ok();
}

#[test]
fn a_cgroup_that_vanishes_is_no_error() {
    let host = host!();
    let image = host.busybox();
    let serve = Serve::start(&host, &["--no-trace"]);
    for name in ["stays", "goes"] {
        host.bulkhead(&["run", "-d", "--name", name, image, "sleep", "1000"]).ok();
    }
    assert!(value(&serve.metrics(""), "container_processes", &["\"goes\""]).is_some());
    // As after a crash: its monitor is killed, its processes and its cgroups are gone, its record says that
    // it runs.
    let id = host.inspect("goes", "{{.Id}}");
    for (pid, line) in host.processes() {
        if line.contains(&id) || line.contains("sleep") && cgroups_of(pid).contains(&id) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
    eventually("its cgroups are gone", || {
        let left: Vec<_> = host.cgroups().into_iter().filter(|path| path.ends_with(&id)).collect();
        for path in &left {
            let _ = std::fs::remove_dir(path);
        }
        left.is_empty()
    });
    let text = serve.metrics("");
    assert_eq!(value(&text, "container_scrape_error", &[]), Some(0.0));
    assert!(value(&text, "container_processes", &["\"stays\""]).is_some());
    assert!(!text.contains("name=\"goes\""), "{text}");
    host.bulkhead(&["stats", "--no-stream"]).ok();
    host.bulkhead(&["rm", "-f", "stays", "goes"]).ok();
}

fn cgroups_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

#[test]
fn a_limit_that_somebody_writes_by_hand_shows_in_the_next_scrape() {
    let host = host!();
    let run = ["run", "-d", "-m", "64m", "--pids-limit", "100", host.busybox(), "sleep", "1000"];
    let id = host.bulkhead(&run).ok().line();
    let serve = Serve::start(&host, &["--no-trace"]);
    let told = |family: &str| value(&serve.metrics(""), family, &[&id]);
    if told("container_spec_memory_limit_bytes").is_none() {
        println!("skipped: needs a memory controller");
        return;
    }
    let write = |names: [&str; 2], text: &str| {
        let dirs = host.cgroups().into_iter().filter(|dir| dir.ends_with(&id));
        let files: Vec<_> = dirs.flat_map(|dir| names.map(|name| dir.join(name))).collect();
        let file = files.iter().find(|file| file.exists()).expect("a controller");
        std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    };
    // The first readings read everything; whatever they were, this is the next.
    for round in 0..5_u32 {
        let limit = (48 + round) << 20;
        write(["memory.limit_in_bytes", "memory.max"], &limit.to_string());
        assert_eq!(told("container_spec_memory_limit_bytes"), Some(f64::from(limit)), "round {round}");
        write(["pids.max", "pids.max"], &(200 + round).to_string());
        assert_eq!(told("container_threads_max"), Some(f64::from(200 + round)), "round {round}");
    }
    // By us, and after a new start, whose cgroup is another.
    host.bulkhead(&["update", "--memory", "60m", "--memory-swap", "60m", &id]).ok();
    assert_eq!(told("container_spec_memory_limit_bytes"), Some(f64::from(60 << 20)));
    host.bulkhead(&["restart", "-t", "0", &id]).ok();
    assert_eq!(told("container_spec_memory_limit_bytes"), Some(f64::from(60 << 20)));
    write(["memory.limit_in_bytes", "memory.max"], &(32 << 20).to_string());
    assert_eq!(told("container_spec_memory_limit_bytes"), Some(f64::from(32 << 20)));
    host.bulkhead(&["rm", "-f", &id]).ok();
}

#[test]
fn a_reading_that_fails_is_told_and_not_a_host_that_is_down() {
    let host = host!();
    host.busybox();
    let serve = Serve::start(&host, &["--no-trace"]);
    assert_eq!(value(&serve.metrics(""), "container_scrape_error", &[]), Some(0.0));
    let (inbox, aside) = (host.run_root().join("ended"), host.run_root().join("aside"));
    std::fs::rename(&inbox, &aside).expect("rename");
    let text = serve.metrics("");
    assert_eq!(value(&text, "container_scrape_error", &[]), Some(1.0), "{text}");
    assert_eq!(value(&text, "bulkhead_scrape_errors_total", &[]), Some(1.0));
    assert!(value(&text, "machine_cpu_cores", &[]).is_some_and(|n| n > 0.0), "what is known is told");
    std::fs::rename(&aside, &inbox).expect("rename");
    let text = serve.metrics("");
    assert_eq!(value(&text, "container_scrape_error", &[]), Some(0.0));
    assert_eq!(value(&text, "bulkhead_scrape_errors_total", &[]), Some(1.0));
}

#[test]
fn slow_and_silent_clients_stall_nobody() {
    let host = host!();
    let serve = Serve::start(&host, &["--no-trace"]);
    // Connected and silent; half a request; an answer that is never read.
    let mut held = Vec::new();
    for n in 0..150 {
        let mut stream = TcpStream::connect(&serve.address).expect("connect");
        match n % 3 {
            0 => {}
            1 => stream.write_all(b"GET /metrics HT").expect("write"),
            _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("write"),
        }
        held.push(stream);
    }
    std::thread::scope(|scope| {
        let scrapers: Vec<_> = (0..200).map(|_| scope.spawn(|| serve.metrics(""))).collect();
        for scraper in scrapers {
            assert!(scraper.join().expect("scraper").contains("machine_cpu_cores"));
        }
    });
    drop(held);
}

/// As many starts and stops as this machine can do (some hundred a second when it has nothing else to do), and
/// scrapes all the while: each answer is whole, and each container is told with its last counters once.
#[test]
fn a_scrape_during_churn_is_whole() {
    const THREADS: usize = 3;
    const EACH: usize = 50;
    let host = host!();
    let image = host.busybox();
    let serve = Serve::start(&host, &[]);
    let traced = serve.traces("exec");
    let mut told: HashMap<String, usize> = HashMap::new();
    let mut scrape = || {
        let text = serve.metrics("Accept: application/openmetrics-text\r\n");
        assert!(text.ends_with("# EOF\n"), "whole");
        assert!(text.contains("container_scrape_error 0\n"));
        let mut lines: Vec<&str> = text
            .lines()
            .filter(|l| !l.starts_with('#'))
            .filter_map(|l| Some(l.rsplit_once(' ')?.0))
            .collect();
        let all = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), all, "no series twice");
        let named = |family: &str| -> BTreeSet<String> {
            lines
                .iter()
                .filter(|l| l.starts_with(family))
                .filter_map(|l| l.split_once("name=\"")?.1.split_once('"'))
                .map(|(name, _)| name.to_owned())
                .collect()
        };
        let alive = named("container_last_seen{");
        for name in named("container_cpu_usage_seconds_total{").difference(&alive) {
            if name.starts_with("again") {
                continue;
            }
            *told.entry(name.clone()).or_default() += 1;
            if traced {
                let of = format!("name=\"{name}\"");
                let execs = value(&text, "bulkhead_container_exec_total", &[&of]);
                assert_eq!(execs, Some(1.0), "{name}: the last count is all there was");
            }
        }
        told.len()
    };
    // Made before, so that little is left but to start and to end.
    for thread in 0..THREADS {
        let name = format!("again-{thread}");
        host.bulkhead(&["create", "--network", "none", "--name", &name, image, "true"]).ok();
    }
    let began = std::time::Instant::now();
    let took = std::thread::scope(|scope| {
        let host = &host;
        let churn: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    for n in 0..EACH {
                        let name = format!("brief-{thread}-{n}");
                        host.bulkhead(&["run", "--rm", "--network", "none", "--name", &name, image, "true"])
                            .ok();
                    }
                    began.elapsed()
                })
            })
            .chain((0..THREADS).map(|thread| {
                scope.spawn(move || {
                    let name = format!("again-{thread}");
                    for _ in 0..EACH {
                        host.bulkhead(&["start", &name]).ok();
                        host.bulkhead(&["wait", &name]).ok();
                    }
                    began.elapsed()
                })
            }))
            .collect();
        while churn.iter().any(|thread| !thread.is_finished()) {
            scrape();
            // Without a pause this would be two processors that do nothing else.
            std::thread::sleep(Duration::from_millis(10));
        }
        churn
            .into_iter()
            .map(|thread| thread.join().expect("a container did not start"))
            .max()
            .unwrap_or_default()
    });
    println!("{:.0} starts and stops a second", (2 * THREADS * EACH) as f64 / took.as_secs_f64());
    eventually("everyone is told", || scrape() == THREADS * EACH);
    scrape();
    let more: Vec<_> = told.iter().filter(|(_, times)| **times != 1).collect();
    assert!(more.is_empty(), "told more than once: {more:?}");
}

#[test]
fn serve_counts_what_only_the_kernel_sees() {
    let host = host!();
    let image = host.busybox();
    let serve = Serve::start(&host, &[]);
    if value(&serve.metrics(""), "bulkhead_trace_hook_attached", &["hook=\"exec\""]) != Some(1.0) {
        println!("skipped: needs eBPF (exec)");
        return;
    }
    host.bulkhead(&[
        "run",
        "-d",
        "--name",
        "busy",
        image,
        "sh",
        "-c",
        "true; /bin/true; /bin/true; sleep 1000",
    ])
    .ok();
    eventually("the executions of busy", || {
        value(&serve.metrics(""), "bulkhead_container_exec_total", &["name=\"busy\""])
            .is_some_and(|execs| execs >= 3.0)
    });
    // Waiting times are measured because somebody asks, and not where it was said that they should not be.
    let waited = |serve: &Serve| {
        let family = "bulkhead_container_runqueue_latency_seconds_count";
        value(&serve.metrics(""), family, &["name=\"busy\""])
    };
    eventually("a wait for a CPU", || {
        host.bulkhead(&["exec", "busy", "true"]).ok();
        waited(&serve) > Some(0.0)
    });
    drop(serve);
    let serve = Serve::start(&host, &["--no-run-queue"]);
    host.bulkhead(&["exec", "busy", "true"]).ok();
    eventually("executions", || {
        value(&serve.metrics(""), "bulkhead_container_exec_total", &["name=\"busy\""]) > Some(0.0)
    });
    assert_eq!((waited(&serve), serve.traces("run-queue latency")), (None, false));
    host.bulkhead(&["rm", "-f", "busy"]).ok();
}

/// Pinned, the counters go on after a restart.
#[test]
fn counters_outlive_serve() {
    struct Pins(std::path::PathBuf);
    impl Drop for Pins {
        fn drop(&mut self) {
            // Not mounted when nothing could be traced.
            let _ = nix::mount::umount(&self.0);
        }
    }
    let host = host!();
    let image = host.busybox();
    let pins = Pins(host.dir().join("pins"));
    let args = ["--no-event-log", "--pin-counters", pins.0.to_str().expect("utf-8")];
    let serve = Serve::start(&host, &args);
    if value(&serve.metrics(""), "bulkhead_trace_hook_attached", &["hook=\"exec\""]) != Some(1.0) {
        println!("skipped: needs eBPF (exec)");
        return;
    }
    let script = "/bin/true; /bin/true; /bin/true; sleep 1000";
    host.bulkhead(&["run", "-d", "--name", "busy", "--network", "none", image, "sh", "-c", script]).ok();
    let execs =
        |serve: &Serve| value(&serve.metrics(""), "bulkhead_container_exec_total", &["name=\"busy\""]);
    eventually("the executions of busy", || execs(&serve) == Some(5.0));
    let queued = |serve: &Serve| {
        let family = "bulkhead_container_runqueue_latency_seconds_count";
        value(&serve.metrics(""), family, &["name=\"busy\""]).expect("a histogram")
    };
    let waited = queued(&serve);
    drop(serve);
    let serve = Serve::start(&host, &args);
    assert_eq!(execs(&serve), Some(5.0));
    assert!(queued(&serve) >= waited);
    host.bulkhead(&["exec", "busy", "true"]).ok();
    eventually("one more", || execs(&serve) == Some(6.0));
    host.bulkhead(&["rm", "-f", "busy"]).ok();
}

#[test]
fn promtool_finds_nothing_to_say() {
    let host = host!();
    if !have("promtool") {
        skip!("promtool (prometheus)");
    }
    let image = host.busybox();
    host.bulkhead(&["run", "-d", "--name", "web", "-m", "64m", image, "sleep", "1000"]).ok();
    let text = host.bulkhead(&["metrics"]).ok().stdout;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    let said = common::run(promtool, &text).ok();
    assert_eq!((said.out().as_str(), said.err().as_str()), ("", ""));
    let mut rules = Command::new("promtool");
    rules.args([
        "test",
        "rules",
        concat!(env!("CARGO_MANIFEST_DIR"), "/exporter/prometheus/alerts_test.yml"),
    ]);
    common::run(rules, b"").ok();
    host.bulkhead(&["rm", "-f", "web"]).ok();
}
