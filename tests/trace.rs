//! `bulkhead trace` beside real containers.

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use common::Host;
use serde_json::Value;

/// A trace that runs, and what it has written when it is told to end.
struct Trace {
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
}

impl Trace {
    /// Starts one and waits until everything is attached; `Err` says what this machine lacks.
    #[allow(clippy::zombie_processes, reason = "end waits for it, and a panic ends the test")]
    fn start(host: &Host, args: &[&str]) -> Result<Self, String> {
        let mut child = host
            .command(&[&["trace"], args].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("trace");
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if errors.read_line(&mut line).expect("stderr") == 0 {
                common::wait(&mut child, "trace");
                return Err(said.trim().to_owned());
            }
            if line == "tracing\n" {
                return Ok(Self { child, errors });
            }
            said.push_str(&line);
        }
    }

    fn end(mut self) -> (String, String) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("kill");
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().expect("piped").read_to_string(&mut out).expect("UTF-8");
        self.errors.read_to_string(&mut err).expect("UTF-8");
        assert!(common::wait(&mut self.child, "trace").success(), "{err}");
        (out, err)
    }
}

fn objects(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn the_first_exec_of_a_container_has_its_name() {
    let host = host!();
    let image = host.busybox();
    let trace = match Trace::start(&host, &["--json", "exec"]) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF ({why})"),
    };
    host.bulkhead(&["run", "--name", "seen", "--network", "none", image, "sh", "-c", "true; exec sleep 0"])
        .ok();
    host.bulkhead(&["run", "--name", "other", "--network", "none", image, "sh", "-c", "exit 3"]).code(3);
    let id = host.inspect("seen", "{{.Id}}");
    let (out, err) = trace.end();
    assert!(err.contains("lost: 0"), "{err}");
    let all = objects(&out);
    let of = |name: &str| -> Vec<&Value> { all.iter().filter(|e| e["container"]["name"] == name).collect() };
    let seen = of("seen");
    assert_eq!(seen[0]["event"], "exec", "{out}");
    assert_eq!(seen[0]["exec"]["args"], serde_json::json!(["sh", "-c", "true; exec sleep 0"]));
    assert_eq!((&seen[0]["process"]["container_pid"], &seen[0]["exec"]["cwd"]), (&1.into(), &"/".into()));
    assert_eq!((&seen[0]["container"]["id"], &seen[0]["container"]["image"]), (&id.into(), &image.into()));
    assert_eq!(seen[1]["exec"]["args"], serde_json::json!(["sleep", "0"]));
    assert_eq!((&seen[2]["event"], &seen[2]["exit"]["code"]), (&"exit".into(), &0.into()));
    let other = of("other");
    assert_eq!((&other[1]["event"], &other[1]["exit"]["code"]), (&"exit".into(), &3.into()));
    assert_eq!(all.len(), seen.len() + other.len(), "{out}");
    host.bulkhead(&["rm", "seen", "other"]).ok();
}

#[test]
fn a_late_trace_of_one_container_begins_with_what_runs() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["run", "-d", "--name", "old", "--network", "none", image, "sleep", "1000"]).ok();
    host.bulkhead(&["run", "-d", "--name", "noise", "--network", "none", image, "sleep", "1001"]).ok();
    let trace = match Trace::start(&host, &["--since-start", "exec", "old"]) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF ({why})"),
    };
    host.bulkhead(&["exec", "old", "echo", "late\u{1b}[2J"]).ok();
    host.bulkhead(&["exec", "noise", "echo", "unseen"]).ok();
    let (out, _) = trace.end();
    assert!(out.contains("sleep 1000") && out.contains("echo late\\e[2J"), "{out}");
    assert!(!out.contains("unseen") && !out.contains("1001") && !out.contains('\u{1b}'), "{out}");
    host.bulkhead(&["rm", "-f", "old", "noise"]).ok();
}

#[test]
fn bad_arguments_are_refused() {
    let host = host!();
    host.bulkhead(&["trace", "nosuch"]).code(1).complains("No such container: nosuch");
    host.bulkhead(&["trace", "--filter", "colour=red"]).code(1).complains("invalid filter 'colour'");
    host.bulkhead(&["trace", "--namespace", "net"]).code(1).complains("TYPE:INUM");
}
