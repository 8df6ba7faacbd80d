//! The pressure policy: `serve` acts on the right container, and on nobody that is protected.

mod common;

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;

use common::serve::Logged;
use common::{Host, eventually};

/// A `serve` with a policy.
struct Serve(Logged);

impl Serve {
    fn start(host: &Host, policy: &str) -> Self {
        let policy = host.file("enforcer.toml", policy);
        Self(Logged::start(host, &["--no-trace", "--enforcer", policy.to_str().expect("utf-8")]))
    }

    fn log(&self) -> String {
        self.0.log()
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
        nix::sys::signal::kill(self.0.pid(), nix::sys::signal::Signal::SIGHUP).expect("SIGHUP");
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
    // It stays in memory itself, whatever is short.
    let status = fs::read_to_string(format!("/proc/{}/status", serve.0.pid())).expect("status");
    assert!(status.lines().any(|l| l.starts_with("VmLck:") && !l.contains(" 0 kB")), "{status}");
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
    // The state says so before the line does.
    let told = || serve.log().contains("release=freeze container=hog outcome=done");
    eventually("that is told", told);
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

/// Whether cgroup v2 has the memory controller, which throttling and reclaiming need.
fn memory_on_v2() -> bool {
    common::cgroup_hierarchies().iter().any(|mount| {
        fs::read_to_string(mount.join("cgroup.controllers")).is_ok_and(|list| list.contains("memory"))
    })
}

fn cgroup(host: &Host, name: &str) -> std::path::PathBuf {
    let pid: i32 = host.inspect(name, "{{.State.Pid}}").parse().expect("a pid");
    Host::cgroup_of(pid, "memory").expect("a memory cgroup")
}

/// The containers that a rule has chosen, in order.
fn chosen(serve: &Serve, rule: &str) -> Vec<String> {
    let begin = format!("enforcer: rule={rule} ");
    serve
        .decisions()
        .iter()
        .filter(|line| line.contains(&begin))
        .filter_map(|line| Some(line.split_once(" container=")?.1.split(' ').next()?.to_owned()))
        .collect()
}

#[test]
fn whoever_grows_is_stopped() {
    let host = host!();
    host.busybox();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    // Large, and content with that.
    hog(&host, "steady", &[]);
    let policy = "interval = \"200ms\"\n[[rule]]\nname = \"growing\"\ndetector = \"growth\"\nthreshold = \"24m\"\n\
        window = \"30s\"\naction = \"kill\"\nrank = \"growth\"\n";
    let serve = Serve::start(&host, policy);
    let grow = "i=0; while [ $i -lt 40 ]; do head -c 1m /dev/zero >> /dev/shm/x; i=$((i+1)); sleep 0.05; done; exec sleep 123456";
    let flags = ["run", "-d", "--name", "grower", "-m", "64m", "--shm-size", "60m", "busybox", "sh", "-c"];
    host.bulkhead(&[&flags[..], &[grow]].concat()).ok();
    eventually("the grower is killed", || state(&host, "grower") == "exited 137");
    assert_eq!(chosen(&serve, "growing"), ["grower"]);
    assert_eq!(state(&host, "steady"), "running 0");
}

#[test]
fn each_ranking_has_its_own_first() {
    let host = host!();
    host.busybox();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    hog(&host, "reserved", &["--memory-reservation", "63m", "--oom-score-adj", "300"]);
    hog(&host, "greedy", &["--oom-score-adj", "300"]);
    hog(&host, "cheap", &["--oom-priority", "0", "--memory-reservation", "40m"]);
    let rule = |name: &str, rank: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\ndetector = \"memory-above\"\nthreshold = \"50%\"\naction = \"kill\"\nrank = \"{rank}\"\n"
        )
    };
    // What one rule has chosen, a later one leaves alone.
    let policy = format!(
        "interval = \"200ms\"\ndry-run = true\ncool-down = \"500ms\"\n{}{}",
        rule("first", "priority"),
        rule("second", "usage-over-reservation")
    );
    let serve = Serve::start(&host, &policy);
    eventually("both decide twice", || {
        chosen(&serve, "first").len() > 1 && chosen(&serve, "second").len() > 1
    });
    assert!(chosen(&serve, "first").iter().all(|name| name == "cheap"), "{}", serve.log());
    assert!(chosen(&serve, "second").iter().all(|name| name == "greedy"), "{}", serve.log());
}

#[test]
fn a_rule_rests_as_long_as_it_was_told_to() {
    let host = host!();
    host.busybox();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    for name in ["one", "two", "three"] {
        hog(&host, name, &[]);
    }
    let rule = |name: &str, cool_down: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\ndetector = \"memory-above\"\nthreshold = \"50%\"\naction = \"kill\"\n\
             cool-down = \"{cool_down}\"\ndry-run = {}\n",
            name == "clock"
        )
    };
    // The second rule only shows that time passes and that the first one would trip again.
    let serve = Serve::start(
        &host,
        &format!("interval = \"200ms\"\n{}{}", rule("tired", "1h"), rule("clock", "200ms")),
    );
    eventually("the other one has decided often", || chosen(&serve, "clock").len() >= 4);
    assert_eq!(chosen(&serve, "tired").len(), 1, "{}", serve.log());
    let alive = || ["one", "two", "three"].iter().filter(|name| state(&host, name) == "running 0").count();
    eventually("one of them has ended", || alive() == 2);
    assert_eq!(chosen(&serve, "tired").len(), 1, "{}", serve.log());
    assert_eq!(alive(), 2);
}

#[test]
fn waiting_for_the_cpu_is_pressure() {
    let host = host!();
    host.busybox();
    if !Path::new("/proc/pressure/cpu").exists() {
        skip!("pressure stall information");
    }
    let flags = ["run", "-d", "--cpuset-cpus", "0", "--name"];
    let spin = "while :; do :; done & while :; do :; done & while :; do :; done";
    host.bulkhead(&[&flags[..], &["calm", "busybox", "sleep", "123456"]].concat()).ok();
    host.bulkhead(&[&flags[..], &["crowd", "busybox", "sh", "-c", spin]].concat()).ok();
    let policy = "interval = \"200ms\"\n[[rule]]\nname = \"crowded\"\ndetector = \"psi-some\"\nscope = \"container\"\n\
        resource = \"cpu\"\nthreshold = \"20%\"\naction = \"freeze\"\n";
    let serve = Serve::start(&host, policy);
    eventually("the crowd is frozen", || state(&host, "crowd") == "paused 0");
    assert_eq!(state(&host, "calm"), "running 0");
    assert!(chosen(&serve, "crowded").iter().all(|name| name == "crowd"), "{}", serve.log());
    host.bulkhead(&["unpause", "crowd"]).ok();
}

#[test]
fn stalls_for_memory_trip_both_kinds_of_pressure() {
    let host = host!();
    host.busybox();
    if !memory_on_v2() {
        skip!("the memory controller on cgroup v2");
    }
    // Beyond memory.high it is slowed down so much that it does nothing but stand still.
    let flags =
        ["run", "-d", "--name", "stuck", "-m", "256m", "--memory-high", "16m", "--memory-swap", "256m"];
    host.bulkhead(&[&flags[..], &["busybox", "tail", "/dev/zero"]].concat()).ok();
    hog(&host, "calm", &[]);
    let rule = |name: &str, detector: &str, rest: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\ndetector = \"{detector}\"\nresource = \"memory\"\nwindow = \"10s\"\n\
             threshold = \"15%\"\n{rest}\n"
        )
    };
    // Three rules on one stall: the host's average and the container's own; the last one acts.
    let policy = format!(
        "interval = \"200ms\"\ncool-down = \"1s\"\nprotect = [\"calm\"]\n{}{}{}",
        rule("host", "psi-some", "action = \"kill\"\ndry-run = true\ncool-down = \"1h\""),
        rule(
            "some",
            "psi-some",
            "scope = \"container\"\naction = \"freeze\"\ndry-run = true\ncool-down = \"1h\""
        ),
        rule("full", "psi-full", "scope = \"container\"\naction = \"kill\""),
    );
    let serve = Serve::start(&host, &policy);
    eventually("it is killed for it", || state(&host, "stuck") == "exited 137");
    // As a whole by cgroup.kill, not by the kernel for memory.
    assert_eq!(host.inspect("stuck", "{{.State.OOMKilled}}"), "false");
    // Dying takes a while for who stands still, so the rule may have tripped once more.
    for rule in ["host", "some", "full"] {
        let names = chosen(&serve, rule);
        assert!(!names.is_empty() && names.iter().all(|name| name == "stuck"), "{rule}: {}", serve.log());
    }
    assert_eq!(state(&host, "calm"), "running 0");
}

#[test]
fn memory_is_taken_back_and_swap_is_watched() {
    let host = host!();
    host.busybox();
    if !memory_on_v2() {
        skip!("the memory controller on cgroup v2");
    }
    let swap = fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count() > 1;
    if !swap {
        skip!("swap");
    }
    hog(&host, "hog", &["--memory-swap", "-1"]);
    hog(&host, "dear", &["--memory-swap", "-1"]);
    let usage = |name: &str| {
        fs::read_to_string(cgroup(&host, name).join("memory.current"))
            .expect("usage")
            .trim()
            .parse::<u64>()
            .expect("bytes")
    };
    let (before, kept) = (usage("hog"), usage("dear"));
    assert!(before > 40 << 20, "{before}");
    let rule = "[[rule]]\nname = \"back\"\ndetector = \"memory-above\"\nthreshold = \"50%\"\naction = \"reclaim\"\namount = \"12m\"\n";
    // Swap gets used by that, and the second rule sees it.
    let watch = "[[rule]]\nname = \"swap\"\ndetector = \"swap-free-below\"\nthreshold = \"100%\"\nfor = \"400ms\"\n\
        action = \"kill\"\nrank = \"usage-over-reservation\"\ndry-run = true\n";
    let policy = format!("interval = \"200ms\"\ncool-down = \"300ms\"\nprotect = [\"dear\"]\n{rule}{watch}");
    let serve = Serve::start(&host, &policy);
    eventually("it has less", || usage("hog") + (8 << 20) < before);
    eventually("swap is less than all", || !chosen(&serve, "swap").is_empty());
    // The other one is protected; when it alone trips a rule, nobody is chosen.
    let mine = |name: &String| name == "hog" || name == "none";
    assert!(chosen(&serve, "back").iter().chain(&chosen(&serve, "swap")).all(mine), "{}", serve.log());
    assert!(usage("dear") + (4 << 20) > kept, "who is protected keeps what he has");
    assert_eq!(state(&host, "hog"), "running 0");
}

#[test]
fn who_is_throttled_is_let_go_when_it_is_calm() {
    let host = host!();
    host.busybox();
    if !memory_on_v2() {
        skip!("the memory controller on cgroup v2");
    }
    hog(&host, "hog", &["--memory-high", "60m"]);
    let high = cgroup(&host, "hog").join("memory.high");
    let high = || fs::read_to_string(&high).expect("memory.high").trim().to_owned();
    assert_eq!(high(), (60 << 20).to_string());
    let policy = format!("{ABOVE}action = \"throttle\"\nto = \"95%\"\nrelease = \"1s\"\n");
    let serve = Serve::start(&host, &policy);
    eventually("it is throttled", || high() != (60 << 20).to_string());
    assert!(high().parse::<u64>().is_ok_and(|bytes| bytes < 60 << 20), "{}", high());
    host.bulkhead(&["exec", "hog", "rm", "/dev/shm/x"]).ok();
    // To what was asked for when it was started, not to no limit at all.
    eventually("it is let go", || high() == (60 << 20).to_string());
    // The file says so before the line does.
    let told = || serve.log().contains("release=throttle container=hog outcome=done");
    eventually("that is told", told);
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
    if fs::File::open("/dev/kmsg").is_err() {
        skip!("the kernel's log");
    }
    let serve = Serve::start(&host, "");
    let cidfile = host.dir().join("cid");
    let cid = cidfile.to_str().expect("utf-8");
    let limits = ["run", "--rm", "--name", "eater", "-m", "32m", "--memory-swap", "32m", "--cidfile", cid];
    host.bulkhead(&[&limits[..], &[image, "tail", "/dev/zero"]].concat()).code(137);
    let id = fs::read_to_string(&cidfile).expect("cidfile");
    // The container is gone by now. The log, ...
    eventually("the log tells of it", || serve.log().contains("serve: oom: "));
    let log = serve.log();
    let line = log.lines().find(|line| line.contains("serve: oom: ")).expect("a line");
    assert!(line.contains(&format!("container=eater id={} process=tail pid=", &id[..12])), "{line}");
    assert!(line.ends_with(&format!(" limit={}B kills=1", 32 << 20)), "{line}");
    let field = |name: &str| -> u64 {
        let rest = line.split_once(&format!(" {name}=")).expect(line).1;
        rest.split(' ').next().and_then(|value| value.trim_end_matches('B').parse().ok()).expect(line)
    };
    // Pages of the program itself are its own as well, and charged to whoever read them first.
    assert!((16 << 20..=40 << 20).contains(&field("rss")), "{line}");
    assert!((30 << 20..=32 << 20).contains(&field("usage")), "{line}");
    // ... the events ...
    let template = "{{.Actor.Attributes.name}} {{.Actor.Attributes.victim}} {{.Actor.Attributes.victimRss}} \
        {{.Actor.Attributes.limit}} {{.Actor.Attributes.usage}}";
    let told = ["events", "--since", "1h", "--until", "0s", "--filter", "event=oom", "--format", template];
    let same = format!("eater tail {} {} {}\n", field("rss"), 32 << 20, field("usage"));
    host.bulkhead(&told).ok().prints(&same);
    // ... and the metrics say the same.
    let metrics = serve.metrics();
    for (family, label, value) in [
        ("bulkhead_container_oom_victim_rss_bytes", "process=\"tail\"", field("rss")),
        ("bulkhead_container_oom_usage_bytes", "name=\"eater\"", field("usage")),
        ("bulkhead_container_oom_limit_bytes", "name=\"eater\"", 32 << 20),
        ("bulkhead_container_oom_kills_total", "name=\"eater\"", 1),
    ] {
        let sample = metrics.lines().find(|l| l.starts_with(family) && l.contains(label)).unwrap_or_default();
        assert!(
            sample.contains("name=\"eater\"") && sample.ends_with(&format!(" {value}")),
            "{family}: {sample:?}"
        );
    }
}

#[test]
fn an_oom_is_told_while_the_container_goes_on() {
    let host = host!();
    let image = host.busybox();
    if !accounts_memory(&host) {
        skip!("a memory controller");
    }
    let serve = Serve::start(&host, "");
    let limits = ["run", "-d", "--name", "shell", "-m", "32m", "--memory-swap", "32m"];
    let script = "tail /dev/zero; exec sleep 123456";
    host.bulkhead(&[&limits[..], &[image, "sh", "-c", script]].concat()).ok();
    eventually("the log tells of it", || serve.log().contains("serve: oom: container=shell "));
    let told = || -> serde_json::Value {
        serde_json::from_str(&host.inspect("shell", "{{json .State}}")).expect("JSON")
    };
    eventually("inspect does", || told()["OOMKilled"] == true && told()["OOM"]["Kills"] == 1);
    assert_eq!(state(&host, "shell"), "running 0");
    // Another one: told once more, and not a second time in the end.
    host.bulkhead(&["exec", "shell", "tail", "/dev/zero"]).code(137);
    eventually("again", || told()["OOM"]["Kills"] == 2);
    host.bulkhead(&["stop", "-t", "0", "shell"]).ok();
    let told = [
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "event=oom",
        "--format",
        "{{.Actor.Attributes.kills}}",
    ];
    host.bulkhead(&told).ok().prints("1\n2\n");
    assert_eq!(serve.log().matches("serve: oom: ").count(), 2, "{}", serve.log());
}
