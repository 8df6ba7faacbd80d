//! The pressure policy: `serve` acts on the right container, and on nobody that is protected.

mod common;

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use common::{Host, eventually};

/// A `serve` with a policy, its log going to a file.
struct Serve {
    child: Child,
    log: std::path::PathBuf,
}

impl Serve {
    fn start(host: &Host, policy: &str) -> Self {
        Self::with(host, policy, &["--no-trace"])
    }

    fn with(host: &Host, policy: &str, more: &[&str]) -> Self {
        let policy = host.file("enforcer.toml", policy);
        let log = host.dir().join("serve.log");
        let file = fs::File::create(&log).expect("log");
        let policy = policy.to_str().expect("utf-8");
        let mut args = vec!["serve", "--metrics", "127.0.0.1:0", "--enforcer", policy];
        args.extend(more);
        let child = host
            .command(&args)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("dup"))
            .stderr(file)
            .spawn()
            .expect("serve");
        let serve = Self { child, log };
        eventually("serve is there", || serve.log().contains("/metrics\n"));
        serve
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("log")
    }

    /// The lines of the log that are decisions.
    fn decisions(&self) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(" outcome=")).map(str::to_owned).collect()
    }

    fn metrics(&self) -> String {
        let log = self.log();
        let address =
            log.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).expect("an address").0;
        let mut stream = TcpStream::connect(address).expect("connect");
        std::io::Write::write_all(
            &mut stream,
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        answer
    }

    fn hang_up(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("SIGHUP");
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// A container under a limit of 64 MiB that holds 40 MiB.
fn hog(host: &Host, name: &str, more: &[&str]) {
    let mut line = vec!["run", "-d", "--name", name, "-m", "64m", "--memory-swap", "64m"];
    line.extend(more);
    // Files in memory are charged to whoever wrote them and stay, however little he does.
    line.extend(["--shm-size", "60m", "busybox", "sh", "-c"]);
    line.push("head -c 40m /dev/zero > /dev/shm/x; exec sleep 123456");
    host.bulkhead(&line).ok();
    eventually("it has its memory", || {
        let text = host.bulkhead(&["stats", "--no-stream", "--format", "{{.MemPerc}}", name]).ok().out();
        text.trim().trim_end_matches('%').parse::<f64>().is_ok_and(|percent| percent > 55.0)
    });
}

fn accounts_memory(host: &Host) -> bool {
    host.bulkhead(&["info", "--format", "{{.MemoryLimit}}"]).ok().out().trim() == "true"
}

fn state(host: &Host, name: &str) -> String {
    host.inspect(name, "{{.State.Status}} {{.State.ExitCode}}")
}

const ABOVE: &str = "interval = \"200ms\"\ncool-down = \"1s\"\nprotect = [\"dear*\", \"label=keep\"]\n\
    [[rule]]\nname = \"above\"\ndetector = \"memory-above\"\nthreshold = \"50%\"\n";

#[test]
fn clients_that_stall_do_not_stall_the_policy() {
    let host = host!();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    host.busybox();
    let serve = Serve::start(&host, &format!("{ABOVE}action = \"kill\"\n"));
    let log = serve.log();
    let address = log.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).expect("an address").0;
    // Silent, half a request, and an answer that nobody reads.
    let held: Vec<TcpStream> = (0..600)
        .filter_map(|n| {
            let mut stream = TcpStream::connect(address).ok()?;
            let text: &[u8] = match n % 3 {
                0 => b"",
                1 => b"GET /metrics HT",
                _ => b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            };
            std::io::Write::write_all(&mut stream, text).ok().map(|()| stream)
        })
        .collect();
    assert_eq!(held.len(), 600);
    let fill = "head -c 40m /dev/zero > /dev/shm/x; exec sleep 123456";
    let options =
        ["run", "-d", "--name", "fat", "-m", "64m", "--shm-size", "60m", "busybox", "sh", "-c", fill];
    host.bulkhead(&options).ok();
    eventually("it was killed", || state(&host, "fat") == "exited 137");
    drop(held);
}

#[test]
fn the_hog_is_killed_and_who_is_protected_is_not() {
    let host = host!();
    host.busybox();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    hog(&host, "dear", &["--oom-priority", "0"]);
    hog(&host, "labelled", &["--label", "keep", "--oom-priority", "0"]);
    host.bulkhead(&["run", "-d", "--name", "small", "-m", "64m", "busybox", "sleep", "123456"]).ok();
    hog(&host, "hog", &[]);
    let serve = Serve::start(&host, &format!("{ABOVE}action = \"kill\"\n"));
    eventually("the hog is killed", || state(&host, "hog") == "exited 137");
    // The rule goes on tripping; once all that is left is protected it says so, and does nothing.
    eventually("nobody is left", || serve.log().contains("every candidate is protected"));
    for name in ["dear", "labelled", "small"] {
        assert_eq!(state(&host, name), "running 0", "{name}\n{}", serve.log());
    }
    let done: Vec<String> =
        serve.decisions().into_iter().filter(|line| line.ends_with("outcome=done")).collect();
    assert_eq!(done.len(), 1, "{done:?}");
    assert!(
        done[0].contains("rule=above detector=memory-above")
            && done[0].contains("action=kill container=hog "),
        "{done:?}"
    );
    let metrics = serve.metrics();
    let counted = "bulkhead_enforcer_actions_total{action=\"kill\",detector=\"memory-above\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn frozen_until_it_is_calm_again() {
    let host = host!();
    host.busybox();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    hog(&host, "hog", &[]);
    hog(&host, "dear", &[]);
    // `release` is longer than this test, then shorter: a reload releases what the old policy froze.
    let serve = Serve::start(&host, &format!("{ABOVE}action = \"freeze\"\nrelease = \"1h\"\n"));
    eventually("the hog is paused", || state(&host, "hog") == "paused 0");
    assert_eq!(state(&host, "dear"), "running 0");
    assert!(serve.metrics().contains("_actions_total{action=\"freeze\",detector=\"memory-above\"} 1"));
    // A file that is wrong changes nothing and says where.
    host.file("enforcer.toml", format!("{ABOVE}action = \"maim\"\n"));
    serve.hang_up();
    eventually("it is refused", || serve.log().contains("the old policy stays"));
    let log = serve.log();
    assert!(log.contains("enforcer.toml:8: action: unknown variant `maim`"), "{log}");
    assert_eq!(state(&host, "hog"), "paused 0");
    host.file("enforcer.toml", "");
    serve.hang_up();
    eventually("it is released", || state(&host, "hog") == "running 0");
    assert!(serve.log().contains("release=freeze container=hog outcome=done"), "{}", serve.log());
}

#[test]
fn a_dry_run_only_reports() {
    let host = host!();
    host.busybox();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    hog(&host, "hog", &[]);
    let serve = Serve::start(&host, &format!("dry-run = true\n{ABOVE}action = \"kill\"\n"));
    eventually("it reports twice", || serve.decisions().len() >= 2);
    assert!(serve.decisions().iter().all(|line| line.ends_with("outcome=dry-run")), "{}", serve.log());
    assert_eq!(state(&host, "hog"), "running 0");
    let metrics = serve.metrics();
    let line = |family: &str| {
        let start = format!("{family}{{action=\"kill\",detector=\"memory-above\"}} ");
        let found = metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok());
        found.unwrap_or_else(|| panic!("{start}\n{metrics}"))
    };
    assert_eq!(line("bulkhead_enforcer_actions_total"), 0);
    assert!(line("bulkhead_enforcer_reports_total") >= 2);
}

#[test]
fn throttling_works_or_is_said_not_to() {
    let host = host!();
    host.busybox();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    hog(&host, "hog", &[]);
    let serve = Serve::start(&host, &format!("{ABOVE}action = \"throttle\"\nto = \"90%\"\n"));
    eventually("it decides", || !serve.decisions().is_empty());
    let line = serve.decisions().remove(0);
    let pid: i32 = host.inspect("hog", "{{.State.Pid}}").parse().expect("a pid");
    let high = Host::cgroup_of(pid, "memory").expect("a memory cgroup").join("memory.high");
    if Path::new(&high).exists() {
        assert!(line.ends_with("outcome=done"), "{line}");
        assert_ne!(fs::read_to_string(&high).expect("memory.high").trim(), "max");
    } else {
        assert!(line.ends_with("outcome=unsupported"), "{line}");
        let fact = "rule=above action=throttle not supported, only reported: memory.high is not supported on this host";
        assert!(serve.log().contains(fact), "{}", serve.log());
        assert!(serve.metrics().contains("_actions_total{action=\"throttle\",detector=\"memory-above\"} 0"));
    }
    assert_eq!(state(&host, "hog"), "running 0");
}

#[test]
fn a_policy_that_is_wrong_is_refused_at_the_start() {
    let host = host!();
    let policy = host.file("enforcer.toml", "interval = \"1s\"\n[[rule]]\nname = \"x\"\n");
    let policy = policy.to_str().expect("utf-8");
    let out = host.bulkhead(&["serve", "--no-trace", "--enforcer", policy]);
    assert!(!out.status.success(), "{out}");
    assert!(out.err().contains("enforcer.toml:2: missing field `detector`"), "{out}");
    let out = host.bulkhead(&["serve", "--no-trace", "--enforcer", "/nonexistent/e.toml"]);
    assert!(!out.status.success() && out.err().contains("open /nonexistent/e.toml: No such file"), "{out}");
}

#[test]
fn an_oom_is_told_when_the_container_is_gone() {
    let host = host!();
    let image = host.busybox();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    let serve = Serve::with(&host, "", &[]);
    if serve.log().contains("no tracing: ") || serve.log().contains("oom is not available") {
        skip!("eBPF that may be attached to oom/mark_victim");
    }
    let cidfile = host.dir().join("cid");
    let cid = cidfile.to_str().expect("utf-8");
    let limits = ["run", "--rm", "--name", "eater", "-m", "32m", "--memory-swap", "32m", "--cidfile", cid];
    host.bulkhead(&[&limits[..], &[image, "tail", "/dev/zero"]].concat()).code(137);
    let id = fs::read_to_string(&cidfile).expect("cidfile");
    eventually("the log tells of it", || serve.log().contains("serve: oom: "));
    let log = serve.log();
    let line = log.lines().find(|line| line.contains("serve: oom: ")).expect("a line");
    let short = &id[..12];
    assert!(line.contains(&format!("container=eater id={short} ")), "{line}");
    assert!(line.contains(" process=tail pid="), "{line}");
    assert!(line.ends_with(&format!(" limit={}B", 32 << 20)), "{line}");
}
