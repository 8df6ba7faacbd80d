//! What happens when the whole machine runs out of memory: whom the kernel prefers, and what the policy saves.
//!
//! No test may do that to a host, so these run only where they were told that the machine is theirs, and only if
//! it is small: in the machine of 512 MiB that `cargo xtask vm` boots for them.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::serve::Logged;
use common::{Host, eventually};

/// Bytes available without taking anything from anybody; `None` on a machine that is not ours to starve.
fn available() -> Option<u64> {
    std::env::var_os("BULKHEAD_TEST_MAY_STARVE")?;
    let info = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let kib = |name: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim_matches([' ', ':']).trim_end_matches("kB").trim().parse().expect(name)
    };
    (kib("MemTotal") < 600 << 10).then(|| kib("MemAvailable") << 10)
}

macro_rules! starved {
    () => {
        match available() {
            Some(bytes) => bytes,
            None => skip!("a machine of 512 MiB that may be starved (cargo xtask vm)"),
        }
    };
}

/// A container whose one process holds so many bytes of its own, and waits.
fn holder(host: &Host, name: &str, bytes: u64, flags: &[&str]) {
    // dd fills its buffer, and then waits for a reader that never comes.
    let script = format!(
        "mkfifo /f; sleep 100000 </f & echo $! >/ready; exec dd if=/dev/zero of=/f bs={bytes} count=1"
    );
    let base = ["run", "-d", "--network", "none", "--name", name];
    host.bulkhead(&[&base, flags, &["busybox", "sh", "-c", &script]].concat()).ok();
    eventually("it holds its memory", || resident(host, name) >= bytes);
}

fn resident(host: &Host, name: &str) -> u64 {
    let pid = host.inspect(name, "{{.State.Pid}}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[test]
fn the_kernel_prefers_whom_the_priorities_name() {
    let host = host!();
    let available = starved!();
    host.busybox();
    let share = |percent: u64| available / 100 * percent;
    // The least important one holds least: by size alone the kernel would take the others first.
    holder(&host, "low", share(12), &["--oom-priority", "10"]);
    holder(&host, "mid", share(20), &["--oom-priority", "50"]);
    holder(&host, "high", share(28), &["--oom-priority", "90"]);
    let score = |name: &str| {
        let pid = host.inspect(name, "{{.State.Pid}}");
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("score").trim().to_owned()
    };
    assert_eq!(["low", "mid", "high"].map(score), ["801", "2", "-797"]);
    // Of the most important one more than there is, by a process that is executed in it: it is scored as its
    // container, and the others make room, in their order. Twelve parts are too few.
    let script = format!(
        "cat /proc/self/oom_score_adj; dd if=/dev/zero of=/dev/null bs={} count=1 2>/dev/null",
        share(60)
    );
    let out = host.bulkhead(&["exec", "high", "sh", "-c", &script]).ok();
    assert_eq!(out.out(), "-797\n");
    let state = |name: &str| {
        host.inspect(
            name,
            "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.OOM.Victim.Name}}",
        )
    };
    eventually("the least important ones are gone", || {
        state("low") == "exited 137 true dd" && state("mid") == "exited 137 true dd"
    });
    assert_eq!(host.inspect("high", "{{.State.Status}} {{.State.OOMKilled}}"), "running false");
    let ended = |name: &str| host.inspect(name, "{{.State.FinishedAt}}");
    assert!(ended("low") <= ended("mid"), "{} {}", ended("low"), ended("mid"));
    // The host ran out, not the container: it had no limit.
    assert_eq!(host.inspect("low", "{{json .State.OOM.Limit}}"), "null");
    host.bulkhead(&["rm", "-f", "low", "mid", "high"]).ok();
}

const POLICY: &str = r#"
interval  = "100ms"
cool-down = "1s"
protect   = ["web"]

[[rule]]
name      = "little-left"
detector  = "memory-above"
scope     = "host"
threshold = "75%"
action    = "kill"
rank      = "usage-over-reservation"

[[rule]]
name      = "host-stalls"
detector  = "psi-full"
resource  = "memory"
threshold = "10%"
action    = "kill"
rank      = "usage-over-reservation"
"#;

/// Pages of a quarter of a MiB that the web server has: more than the kernel keeps for it when memory is short.
const PAGES: usize = 160;

/// One question to the web server; `None` when it does not answer.
fn ask(address: &str, page: usize) -> Option<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
    write!(stream, "GET /{} HTTP/1.0\r\n\r\n", page % PAGES).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    (answer.len() > 200 << 10).then(|| began.elapsed())
}

/// What the answers took.
#[derive(Default)]
struct Latencies {
    times: Vec<Duration>,
    failed: usize,
}

impl Latencies {
    fn ask(&mut self, address: &str) {
        match ask(address, self.times.len() + self.failed) {
            Some(took) => self.times.push(took),
            None => self.failed += 1,
        }
        std::thread::sleep(Duration::from_millis(20));
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times
            .get((times.len() * percent / 100).min(times.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }

    fn tell(&self, what: &str) {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        println!(
            "figures: {what}: {} answers, {} failed, p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
            self.times.len(),
            self.failed,
            ms(self.percentile(50)),
            ms(self.percentile(99)),
            ms(self.percentile(100)),
        );
    }
}

/// Twenty seconds or five hundred questions, whichever is more.
const WATCHED: Duration = Duration::from_secs(20);
const QUESTIONS: usize = 500;

fn watched(address: &str) -> Latencies {
    let began = Instant::now();
    let mut latencies = Latencies::default();
    while latencies.times.len() + latencies.failed < QUESTIONS || began.elapsed() < WATCHED {
        latencies.ask(address);
    }
    latencies
}

/// Takes all there is and a little more, again and again, whatever the kernel kills of it; half a processor at
/// most, so that what is measured is memory.
fn hog(host: &Host, available: u64) {
    let flags = ["run", "-d", "--name", "hog", "--network", "none", "--cpus", "0.5"];
    // One read into one buffer. Larger than the whole machine it would be refused before it is tried.
    let take =
        format!("while :; do dd if=/dev/zero of=/dev/null bs={} count=1; done", available + (40 << 20));
    host.bulkhead(&[&flags[..], &["busybox", "sh", "-c", &take]].concat()).ok();
}

#[test]
fn a_policy_keeps_the_latency_of_who_is_protected() {
    let host = host!();
    let available = starved!();
    host.busybox();
    // On the disk: what the memory's want throws out has to be read again.
    let pages = PathBuf::from("/mnt/disk/pages");
    fs::create_dir_all(&pages).expect("mkdir");
    for page in 0..PAGES {
        fs::write(pages.join(page.to_string()), vec![b'x'; 256 << 10]).expect("write");
    }
    let volume = format!("{}:/www:ro", pages.display());
    host.bulkhead(&[
        "run", "-d", "--name", "web", "-v", &volume, "busybox", "httpd", "-f", "-p", "80", "-h", "/www",
    ])
    .ok();
    let address = format!("{}:80", host.inspect("web", "{{.NetworkSettings.IPAddress}}"));
    eventually("it answers", || ask(&address, 0).is_some());

    let idle = watched(&address);
    idle.tell("idle");
    let policy = host.file("enforcer.toml", POLICY);
    let serve = Logged::start(&host, &["--no-trace", "--enforcer", policy.to_str().expect("utf-8")]);
    hog(&host, available);
    let kept = watched(&address);
    kept.tell("a hog, policy on");
    let log = serve.log();
    for line in log.lines().filter(|line| line.contains(" outcome=")) {
        println!("figures: {line}");
    }
    eventually("the hog is gone", || {
        host.inspect("hog", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137"
    });
    assert_eq!(host.inspect("web", "{{.State.Status}} {{.State.OOMKilled}}"), "running false", "{log}");
    assert!(log.contains("action=kill container=hog "), "{log}");
    assert_eq!((idle.failed, kept.failed), (0, 0));
    println!(
        "figures: p99 with the policy is {:.2} times idle",
        kept.percentile(99).as_secs_f64() / idle.percentile(99).as_secs_f64()
    );
    drop(serve);
    host.bulkhead(&["rm", "-f", "hog"]).ok();

    // And what it is like without: to be seen, whatever it is.
    hog(&host, available);
    let lost = watched(&address);
    lost.tell("a hog, policy off");
    let state = |name: &str| {
        let state: serde_json::Value =
            serde_json::from_str(&host.inspect(name, "{{json .State}}")).expect("JSON");
        format!(
            "{}, {} killed in it for memory",
            state["Status"],
            state["OOM"]["Kills"].as_u64().unwrap_or(0)
        )
    };
    println!("figures: policy off: web is {}; hog is {}", state("web"), state("hog"));
    host.bulkhead(&["rm", "-f", "hog", "web"]).ok();
}
