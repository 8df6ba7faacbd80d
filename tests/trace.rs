//! `bulkhead trace` beside real containers.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use common::images::{Compression, Image, Tar};
use common::serve::{self, Logged, Serve as Metrics};
use common::{Host, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A trace that runs, and what it has written when it is told to end.
struct Trace {
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
    out: mpsc::Receiver<String>,
}

impl Trace {
    /// Starts one and waits until everything is attached; `Err` says what this machine lacks.
    fn start(host: &Host, args: &[&str]) -> Result<Self, String> {
        Self::begin(host.command(&[&["trace"], args].concat()))
    }

    #[allow(clippy::zombie_processes, reason = "end waits for it, and a panic ends the test")]
    fn begin(mut command: Command) -> Result<Self, String> {
        let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => return Err(error.to_string()),
        };
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if errors.read_line(&mut line).expect("stderr") == 0 {
                common::wait(&mut child, "trace");
                return Err(said.trim().to_owned());
            }
            if line == "tracing\n" {
                let mut stdout = child.stdout.take().expect("piped");
                let (send, out) = mpsc::channel();
                // A pipe that nobody reads fills, and a trace that waits for it loses events.
                std::thread::spawn(move || {
                    let mut text = String::new();
                    stdout.read_to_string(&mut text).expect("UTF-8");
                    send.send(text)
                });
                return Ok(Self { child, errors, out });
            }
            said.push_str(&line);
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("kill");
    }

    fn end(mut self) -> (String, String) {
        self.signal(Signal::SIGINT);
        let mut err = String::new();
        self.errors.read_to_string(&mut err).expect("UTF-8");
        assert!(common::wait(&mut self.child, "trace").success(), "{err}");
        (self.out.recv().expect("stdout"), err)
    }
}

/// A `serve` that traces; `Err` says what this machine lacks.
fn tracing(host: &Host, args: &[&str]) -> Result<Logged, String> {
    let serve = Logged::start(host, args);
    if serve.log().contains("no tracing: ") { Err(serve.log()) } else { Ok(serve) }
}

/// What the log says, as objects.
fn past(host: &Host, args: &[&str]) -> Vec<Value> {
    objects(&host.bulkhead(&[&["trace", "--json", "--since", "1h"], args].concat()).ok().out())
}

fn of<'a>(all: &'a [Value], name: &str, event: &str) -> Vec<&'a Value> {
    all.iter().filter(|e| e["container"]["name"] == name && e["event"] == event).collect()
}

fn on_own_network(test: impl FnOnce() + Send + 'static) {
    common::on_own_network(&[], test);
}

/// An image with a program of our own in it; `None` without a C compiler.
fn burst(host: &Host) -> Option<&'static str> {
    if !common::have("cc") {
        return None;
    }
    let source = host.file("burst.c", include_str!("common/burst.c"));
    let program = host.dir().join("burst");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-static", "-o"]).arg(&program).arg(&source);
    common::run(cc, b"").ok();
    let layer = Tar::new().file("burst", 0o755, fs::read(&program).expect("burst")).build();
    host.load(&Image::empty("burst:latest").layer(layer).docker_archive(Compression::None));
    Some("burst")
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

/// Names, image, events: as live, also after the container, the serve and half a record are gone.
#[test]
fn the_event_log_answers_for_who_is_gone() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["trace", "--since", "10m"]).code(1).complains("there is no event log at");
    let mut serve = match tracing(&host, &[]) {
        Ok(serve) => serve,
        Err(why) => skip!("eBPF ({why})"),
    };
    let trace = Trace::start(&host, &["--json"]).expect("serve could");
    for n in 0..30 {
        let (name, marker) = (format!("brief{n}"), format!("marker-{n}"));
        host.bulkhead(&["run", "--rm", "--name", &name, "--network", "none", image, "true", &marker]).ok();
    }
    host.bulkhead(&[
        "run",
        "--rm",
        "--name",
        "odd",
        "--network",
        "none",
        image,
        "sh",
        "-c",
        "/no/such; exit 3",
    ])
    .code(3);
    let (live, err) = trace.end();
    assert!(err.contains("lost: 0"), "{err}");
    let plain = |all: &[Value]| -> Vec<Value> {
        let strip = |e: &Value| {
            let mut e = e.clone();
            // Two programs of the kernel, one after the other, looked at the clock.
            let object = e.as_object_mut().expect("object");
            object.remove("time");
            object.remove("boot_ns");
            if let Some(exit) = object.get_mut("exit").and_then(Value::as_object_mut) {
                exit.remove("duration_ns");
            }
            e
        };
        all.iter().map(strip).collect()
    };
    let live = objects(&live);
    eventually("the log has it all", || past(&host, &[]).len() >= live.len());
    let logged = past(&host, &[]);
    assert_eq!(plain(&logged), plain(&live));
    for n in 0..30 {
        let execs = of(&logged, &format!("brief{n}"), "exec");
        assert_eq!(execs.len(), 1, "{n}: {logged:?}");
        assert_eq!(execs[0]["exec"]["args"], json!(["true", format!("marker-{n}")]));
        assert_eq!(execs[0]["container"]["image"], image);
    }
    // By name, by id, by the beginning of an id; by topic and filter; in time.
    let id = of(&logged, "brief7", "exec")[0]["container"]["id"].as_str().expect("id").to_owned();
    for who in ["brief7", &id, &id[..12]] {
        let found = past(&host, &["exec", who]);
        assert!(found.len() == 2 && found.iter().all(|e| e["container"]["id"] == id), "{who}: {found:?}");
    }
    assert_eq!(past(&host, &["net", "brief7"]), Vec::<Value>::new());
    assert_eq!(past(&host, &["--filter", "event=exec-failed"]).len(), 1);
    assert_eq!(past(&host, &["--filter", "code=3", "odd"]).len(), 1);
    assert_eq!(past(&host, &["--until", "30m"]), Vec::<Value>::new());
    let text = host.bulkhead(&["trace", "--since", "10m", "exec", "brief7"]).ok();
    assert!(text.out().contains("true marker-7") && text.err().contains("2 events, lost: 0"), "{text}");
    host.bulkhead(&["trace", "--since", "10m", "brief7", "nobody"])
        .code(1)
        .complains("No such container: nobody");
    host.bulkhead(&["trace", "--since", "soon"]).code(1).complains("invalid value for time");

    serve.kill();
    let segment = host.root().join("events/000000000001.events");
    let mut file = fs::OpenOptions::new().append(true).open(&segment).expect("segment");
    file.write_all(&[200, 1, 0, 0, 9, 9, 9, 9, 2, 2, 2]).expect("write");
    let torn = host.bulkhead(&["trace", "--json", "--since", "1h"]).ok();
    assert_eq!((objects(&torn.out()).len(), torn.err().contains("damaged")), (logged.len(), false), "{torn}");
    let serve = tracing(&host, &[]).expect("it could before");
    host.bulkhead(&["run", "--rm", "--name", "later", "--network", "none", image, "true"]).ok();
    // A serve that is told to end writes what has come before it does.
    drop(serve);
    let all = past(&host, &[]);
    assert_eq!(plain(&all[..logged.len()]), plain(&logged));
    assert_eq!(of(&all, "later", "exec").len(), 1, "{all:?}");
}

#[test]
fn the_event_log_is_bounded_and_may_be_left_out() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["serve", "--metrics", ":0", "--event-log-size", "1k"]).code(125).complains("at least 1m");
    let serve = match tracing(&host, &["--event-log-size", "1m"]) {
        Ok(serve) => serve,
        Err(why) => skip!("eBPF ({why})"),
    };
    // Each has some 2,000 bytes of arguments.
    let script = "x=$(printf '%01900d' 0); i=0; while [ $i -lt 1200 ]; do /bin/true $i $x; i=$((i+1)); done";
    host.bulkhead(&["run", "--rm", "--name", "many", "--network", "none", image, "sh", "-c", script]).ok();
    drop(serve);
    let all = past(&host, &[]);
    let last = of(&all, "many", "exec").last().map(|e| e["exec"]["args"][1].clone());
    assert_eq!(last, Some(json!("1199")));
    let first = all.iter().find(|e| e["event"] == "exec").expect("an exec");
    assert_ne!(first["exec"]["args"][0], "sh", "the oldest are gone");
    assert_eq!(first["container"]["name"], "many", "and the rest keep their names");
    let sizes: u64 = fs::read_dir(host.root().join("events"))
        .expect("events")
        .map(|entry| entry.expect("entry").metadata().expect("stat").len())
        .sum();
    assert!(sizes <= (1 << 20) + (128 << 10), "{sizes}");
    fs::remove_dir_all(host.root().join("events")).expect("rm");
    let serve = tracing(&host, &["--no-event-log"]).expect("it could before");
    host.bulkhead(&["run", "--rm", "--network", "none", image, "true"]).ok();
    drop(serve);
    assert!(!host.root().join("events").exists());
}

/// Every network mode; in the same namespace each container has its own.
#[test]
fn traffic_is_its_container_s_on_every_network() {
    on_own_network(|| {
        let host = host!();
        let image = host.busybox();
        let www = |port: u16| {
            format!("mkdir -p /www; echo hello >/www/index.html; exec httpd -f -p {port} -h /www")
        };
        let trace = match Trace::start(&host, &["--json", "net"]) {
            Ok(trace) => trace,
            Err(why) => skip!("eBPF ({why})"),
        };
        let figures = Metrics::start(&host, &[]);
        let run = |name: &str, network: &str, script: &str| {
            host.bulkhead(&["run", "-d", "--name", name, "--network", network, image, "sh", "-c", script])
                .ok();
        };
        run("idle", "host", "exec sleep 1000");
        let get = |name: &str, network: &str, url: &str| {
            let script =
                format!("for i in 1 2 3 4 5 6 7 8; do wget -qO - {url} && exit; sleep 0.2; done; exit 1");
            host.bulkhead(&["run", "--name", name, "--network", network, image, "sh", "-c", &script])
                .ok()
                .prints("hello\n");
        };
        run("server", "bridge", &www(8001));
        let address = host.bulkhead(&["exec", "server", "hostname", "-i"]).ok().line().trim().to_owned();
        get("client", "bridge", &format!("http://{address}:8001/"));
        get("joined", "container:server", "http://127.0.0.1:8001/");
        run("host1", "host", &www(8002));
        run("host2", "host", &www(8003));
        get("guest1", "host", "http://127.0.0.1:8002/");
        get("guest2", "host", "http://127.0.0.1:8003/");
        let refused = "wget -qO - http://127.0.0.1:9/ || exit 7";
        host.bulkhead(&["run", "--name", "alone", "--network", "none", image, "sh", "-c", refused]).code(7);
        let server_pid = host.inspect("server", "{{.State.Pid}}");
        let ns = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/net")).expect("ns").ino();
        let (server_ns, host_ns) = (ns(&server_pid), ns("thread-self"));
        // Only the shared namespace's, whoever is in it.
        let filter = format!("net:{server_ns}");
        let only = Trace::start(&host, &["--json", "--namespace", &filter, "net"]).expect("another");
        get("joined2", "container:server", "http://127.0.0.1:8001/");
        get("guest3", "host", "http://127.0.0.1:8002/");
        let (only, _) = only.end();
        let (out, err) = trace.end();
        assert!(err.contains("lost: 0"), "{err}");
        // On one network each has its own bytes: a page of six and its head, to two of them and to one.
        let text = figures.metrics("");
        let sent = |name: &str| {
            let name = format!("name=\"{name}\"");
            serve::value(&text, "bulkhead_container_ip_bytes_total", &[&name, "\"outgoing\""])
        };
        let (one, two) = (sent("host1"), sent("host2"));
        assert!(one > two && two > Some(300.0), "{one:?} {two:?}");
        assert_eq!(sent("idle"), Some(0.0));
        let all = objects(&out);
        let ports = |name: &str, event: &str, port: &str| -> Vec<u64> {
            let found = of(&all, name, event);
            let mut ports: Vec<u64> = found.iter().map(|e| e["tcp"][port].as_u64().expect("port")).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        for (name, port, clients) in [
            ("server", 8001, ["client", "joined"]),
            ("host1", 8002, ["guest1", "guest3"]),
            ("host2", 8003, ["guest2"; 2]),
        ] {
            assert_eq!(ports(name, "listen", "local_port"), [port], "{name}");
            assert_eq!(ports(name, "accept", "local_port"), [port], "{name}");
            assert_eq!(ports(name, "close", "local_port"), [port], "{name}");
            assert_eq!(of(&all, name, "connect").len(), 0, "{name}");
            for client in clients {
                let connects = of(&all, client, "connect");
                assert_eq!(connects.len(), 1, "{client}: {out}");
                assert_eq!(connects[0]["tcp"]["remote_port"], port);
                let close = of(&all, client, "close");
                assert!(close[0]["tcp"]["rx_bytes"].as_u64() > Some(100), "{client}: {close:?}");
                assert!(close[0]["tcp"]["tx_bytes"].as_u64() > Some(20), "{client}: {close:?}");
                let namespace = match client {
                    "joined" => server_ns,
                    "client" => connects[0]["process"]["namespaces"]["net"].as_u64().expect("inum"),
                    _ => host_ns,
                };
                assert_eq!(connects[0]["tcp"]["netns"], namespace, "{client}");
            }
        }
        assert_eq!(of(&all, "client", "connect")[0]["tcp"]["remote"], address);
        let failed = of(&all, "alone", "connect-failed");
        assert_eq!(failed.len(), 1, "{out}");
        assert_eq!((&failed[0]["tcp"]["errno"], &failed[0]["tcp"]["remote_port"]), (&111.into(), &9.into()));
        let only = objects(&only);
        assert_eq!(of(&only, "joined2", "connect").len(), 1, "{only:?}");
        assert!(!of(&only, "server", "accept").is_empty());
        assert!(only.iter().all(|e| e["tcp"]["netns"] == server_ns), "{only:?}");
        host.bulkhead(&[
            "rm", "-f", "idle", "server", "client", "joined", "joined2", "host1", "host2", "guest1",
            "guest2", "guest3", "alone",
        ])
        .ok();
    });
}

#[test]
fn questions_have_names_and_answers_their_time() {
    on_own_network(|| {
        let host = host!();
        let image = host.busybox();
        host.bulkhead(&["network", "create", "--subnet", "10.200.31.0/24", "names"]).ok();
        let trace = match Trace::start(&host, &["--json", "dns"]) {
            Ok(trace) => trace,
            Err(why) => skip!("eBPF ({why})"),
        };
        let sleep = ["--network", "names", image, "sleep", "1000"];
        host.bulkhead(&[&["run", "-d", "--name", "db"], &sleep[..]].concat()).ok();
        let look = ["--network", "names", image, "nslookup", "-type=a", "db"];
        host.bulkhead(&[&["run", "--name", "asker"], &look[..]].concat()).ok();
        let (out, err) = trace.end();
        assert!(err.contains("lost: 0"), "{err}");
        let all = objects(&out);
        assert!(all.iter().all(|e| e["event"].as_str().is_some_and(|e| e.starts_with("dns-"))), "{out}");
        let asks = |e: &&&Value| e["dns"]["message"]["questions"][0] == json!({"name": "db", "type": "A"});
        let queries = of(&all, "asker", "dns-query");
        assert!(queries.iter().any(|e| asks(&e)), "{out}");
        let answers = of(&all, "asker", "dns-answer");
        let answer = answers.iter().find(asks).expect(&out);
        assert!(answer["dns"]["latency_ns"].as_u64() > Some(0), "{answer}");
        let db = host.bulkhead(&["exec", "db", "hostname", "-i"]).ok().line();
        assert_eq!(answer["dns"]["message"]["answers"][0]["data"], db.trim());
        host.bulkhead(&["rm", "-f", "db", "asker"]).ok();
        host.bulkhead(&["network", "rm", "names"]).ok();
    });
}

/// Over TCP, in as many segments as there are bytes, and two questions in one; to Bulkhead's own resolver.
#[test]
fn questions_over_tcp_are_the_same() {
    on_own_network(|| {
        let host = host!();
        if burst(&host).is_none() {
            skip!("a C compiler");
        }
        let busybox = host.busybox();
        let serve = Metrics::start(&host, &[]);
        if !serve.traces("packets") {
            skip!("eBPF (packets)");
        }
        let create = ["network", "create", "--subnet", "10.200.33.0/24", "--gateway", "10.200.33.1", "names"];
        host.bulkhead(&create).ok();
        host.bulkhead(&["run", "-d", "--name", "db", "--network", "names", busybox, "sleep", "1000"]).ok();
        let db = host.bulkhead(&["exec", "db", "hostname", "-i"]).ok().line();
        let trace = Trace::start(&host, &["--json", "dns"]).expect("serve could");
        let program = format!("{}:/burst", host.dir().join("burst").display());
        let ask = "/burst dns 10.200.33.1 || exit; echo done; exec sleep 1000";
        let ask = ["-v", &program, "--network", "names", busybox, "sh", "-c", ask];
        host.bulkhead(&[&["run", "-d", "--name", "asker"], &ask[..]].concat()).ok();
        eventually("answers", || host.bulkhead(&["logs", "asker"]).out() == "done\n");
        let counted = |direction: &str| {
            let family = format!("bulkhead_container_dns_{direction}_total");
            serve::value(&serve.metrics(""), &family, &["name=\"asker\""])
        };
        eventually("what serve counts", || {
            counted("queries") == Some(3.0) && counted("answers") == Some(3.0)
        });
        let (out, err) = trace.end();
        assert!(err.contains("lost: 0"), "{err}");
        let all = objects(&out);
        let (queries, answers) = (of(&all, "asker", "dns-query"), of(&all, "asker", "dns-answer"));
        let names = |events: &[&Value]| -> Vec<Value> {
            events.iter().map(|e| e["dns"]["message"]["questions"][0]["name"].clone()).collect()
        };
        assert_eq!(names(&queries), ["db", "db", "asker"], "{out}");
        let mut answered = names(&answers);
        answered.sort_by_key(ToString::to_string);
        assert_eq!(answered, ["asker", "db", "db"], "{out}");
        for query in &queries {
            assert_eq!(
                (&query["dns"]["transport"], &query["dns"]["remote_port"]),
                (&"tcp".into(), &53.into())
            );
            let name = query["dns"]["message"]["questions"][0]["name"].as_str().expect("a name");
            assert_eq!(query["dns"]["size"], 12 + 2 + name.len() + 4);
            assert_eq!(query["process"]["comm"], "burst");
            assert_eq!(query["dns"]["message"]["incomplete"], false);
        }
        for answer in &answers {
            assert!(answer["dns"]["latency_ns"].as_u64() > Some(0), "{answer}");
            if answer["dns"]["message"]["questions"][0]["name"] == "db" {
                assert_eq!(answer["dns"]["message"]["answers"][0]["data"], db.trim());
            }
        }
        host.bulkhead(&["rm", "-f", "db", "asker"]).ok();
        host.bulkhead(&["network", "rm", "names"]).ok();
    });
}

/// The sockets that a tracer finds: each is told once, under its own container, in whatever namespace; what is
/// connected has its close.
#[test]
fn sockets_that_are_older_are_known() {
    on_own_network(|| {
        let host = host!();
        let image = host.busybox();
        let run = |name: &str, network: &str, script: &str| {
            let line = ["run", "-d", "--name", name, "--network", network, image, "sh", "-c", script];
            host.bulkhead(&line).ok();
        };
        run("bridged", "bridge", "exec nc -l -p 8101");
        run("host1", "host", "mkfifo /h; exec 3<>/h; nc -l -p 8102 <&3 & exec nc -l -p 8103");
        run("host2", "host", "httpd -p 8104 -h /; exec sleep 1000");
        run("joined", "container:bridged", "exec nc -l -p 8105");
        run("talker", "host", "mkfifo /f; exec 3<>/f; until nc 127.0.0.1 8102 <&3; do sleep 0.1; done");
        let listening = |name: &str, port: u16| {
            eventually(&format!("{name} listens on {port}"), || {
                let sockets = host.bulkhead(&["exec", name, "cat", "/proc/net/tcp6", "/proc/net/tcp"]).out();
                sockets.lines().any(|l| l.contains(&format!(":{port:04X} ")) && l.contains(" 0A "))
            });
        };
        for (name, port) in [("bridged", 8101), ("host1", 8103), ("host2", 8104), ("joined", 8105)] {
            listening(name, port);
        }
        host.bulkhead(&["exec", "talker", "sh", "-c", "echo before >/f"]).ok();
        eventually("talker is connected", || {
            host.bulkhead(&["exec", "host1", "cat", "/proc/net/tcp6", "/proc/net/tcp"])
                .out()
                .lines()
                .any(|l| l.contains(":1FA6 ") && l.contains(" 01 "))
        });
        let trace = match Trace::start(&host, &["--json", "net"]) {
            Ok(trace) => trace,
            Err(why) => skip!("eBPF ({why})"),
        };
        let only = Trace::start(&host, &["--json", "net", "host2"]).expect("another");
        run("later", "host", "exec nc -l -p 8106");
        listening("later", 8106);
        host.bulkhead(&["exec", "talker", "sh", "-c", "echo after >/f"]).ok();
        eventually("all of it", || host.bulkhead(&["logs", "host1"]).out() == "before\nafter\n");
        let pid = |name: &str| host.inspect(name, "{{.State.Pid}}").parse::<u64>().expect("pid");
        let namespaces: BTreeMap<&str, u64> = ["bridged", "host1", "host2", "joined"]
            .map(|name| (name, fs::metadata(format!("/proc/{}/ns/net", pid(name))).expect("ns").ino()))
            .into();
        host.bulkhead(&["rm", "-f", "talker"]).ok();
        let (only, _) = only.end();
        let (out, err) = trace.end();
        assert!(err.contains("lost: 0"), "{err}");
        let all = objects(&out);
        let told: Vec<(&str, u64, bool)> = all
            .iter()
            .filter(|e| e["event"] == "listen")
            .map(|e| {
                let (name, tcp) = (e["container"]["name"].as_str().expect("name"), &e["tcp"]);
                if let Some(inode) = namespaces.get(name) {
                    assert_eq!(tcp["netns"], *inode, "{e}");
                }
                assert!(e["process"]["pid"].as_u64() > Some(1), "{e}");
                (name, tcp["local_port"].as_u64().expect("port"), tcp["older"] == true)
            })
            .collect();
        let mut sorted = told.clone();
        sorted.sort_unstable();
        let wanted = [
            ("bridged", 8101, true),
            ("host1", 8103, true),
            ("host2", 8104, true),
            ("joined", 8105, true),
            ("later", 8106, false),
        ];
        assert_eq!(sorted, wanted, "{out}");
        let only = objects(&only);
        assert_eq!(only.iter().filter(|e| e["event"] == "listen").count(), 1, "{only:?}");
        assert_eq!(only[0]["container"]["name"], "host2");
        // Its two ends, each with what it had carried before anybody looked.
        let closes = of(&all, "talker", "close");
        assert_eq!(closes.len(), 1, "{out}");
        assert_eq!(
            (&closes[0]["tcp"]["tx_bytes"], &closes[0]["tcp"]["remote_port"]),
            (&13.into(), &8102.into())
        );
        assert_eq!(closes[0]["process"]["comm"], "nc");
        host.bulkhead(&["rm", "-f", "bridged", "host1", "host2", "joined", "later"]).ok();
    });
}

/// What a network swallows is sent again, and is counted at the socket, in the container and in the figures.
#[test]
fn what_is_sent_again_is_counted() {
    on_own_network(|| {
        let host = host!();
        let image = host.busybox();
        let serve = Metrics::start(&host, &[]);
        if !serve.traces("tcp retransmit") {
            skip!("eBPF (tcp retransmit)");
        }
        let trace = Trace::start(&host, &["--json", "net"]).expect("serve could");
        let name = "com.docker.network.bridge.name=lossy0";
        host.bulkhead(&["network", "create", "--subnet", "10.200.32.0/24", "-o", name, "lossy"]).ok();
        let run = |name: &str, script: &str| {
            let line = ["run", "-d", "--name", name, "--network", "lossy", image, "sh", "-c", script];
            host.bulkhead(&line).ok();
        };
        // Without an end of its input, or it would end the connection.
        run("sink", "mkfifo /h; exec 3<>/h; nc -l -p 7000 <&3 >/got; sleep 1000");
        let address = host.bulkhead(&["exec", "sink", "hostname", "-i"]).ok().line();
        let send = format!("mkfifo /f; exec 3<>/f; until nc {} 7000 <&3; do sleep 0.1; done", address.trim());
        run("source", &send);
        let say =
            |word: &str| host.bulkhead(&["exec", "source", "sh", "-c", &format!("echo {word} >/f")]).ok();
        let arrives = |text: &str| {
            eventually(text, || host.bulkhead(&["exec", "sink", "cat", "/got"]).out() == text);
        };
        let bridge = |state: &str| {
            let set = Command::new("busybox").args(["ip", "link", "set", "lossy0", state]).status();
            assert!(set.expect("busybox").success());
        };
        let counted = || {
            let text = serve.metrics("");
            let of = |name: &str| {
                serve::value(&text, "bulkhead_container_tcp_retransmits_total", &[name]).unwrap_or(-1.0)
            };
            (of("name=\"source\""), of("name=\"sink\""))
        };
        eventually("a fifo", || host.bulkhead(&["exec", "source", "test", "-p", "/f"]).status.success());
        say("first");
        arrives("first\n");
        // None, unless the machine was too busy to acknowledge in time.
        let (before, _) = counted();
        bridge("down");
        say("second");
        eventually("it is sent again", || counted().0 >= before + 2.0);
        bridge("up");
        arrives("first\nsecond\n");
        let (source, _) = counted();
        host.bulkhead(&["rm", "-f", "source"]).ok();
        let (out, err) = trace.end();
        assert!(err.contains("lost: 0"), "{err}");
        let all = objects(&out);
        let closes = of(&all, "source", "close");
        assert_eq!(closes.len(), 1, "{out}");
        // The end of the connection may have to be sent again too, after the counter was read.
        let retransmits = closes[0]["tcp"]["retransmits"].as_f64().expect("a number");
        assert!((source..=source + 3.0).contains(&retransmits), "{source} counted: {out}");
        assert_eq!(closes[0]["tcp"]["tx_bytes"], 13, "each byte once, however often it was sent");
        host.bulkhead(&["rm", "-f", "sink"]).ok();
        host.bulkhead(&["network", "rm", "lossy"]).ok();
    });
}

#[test]
fn a_victim_has_its_limit_and_score() {
    let host = host!();
    let image = host.busybox();
    if host.bulkhead(&["info", "--format", "{{.MemoryLimit}}"]).ok().out().trim() != "true" {
        skip!("a memory controller");
    }
    let trace = match Trace::start(&host, &["--json", "oom"]) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF ({why})"),
    };
    let eat = ["-m", "32m", "--memory-swap", "32m", "--network", "none", image, "tail", "/dev/zero"];
    host.bulkhead(&[&["run", "--rm", "--name", "eater"], &eat[..]].concat()).code(137);
    let (out, _) = trace.end();
    let all = objects(&out);
    assert_eq!(all.len(), 1, "{out}");
    let oom = &all[0];
    assert_eq!((&oom["event"], &oom["container"]["name"]), (&"oom".into(), &"eater".into()));
    assert_eq!(oom["process"]["comm"], "tail");
    if oom["oom"]["victim"].is_null() {
        skip!("a kernel that tells a victim's sizes (6.8)");
    }
    assert_eq!(oom["oom"]["limit"], 32 << 20);
    assert!(oom["oom"]["victim"]["rss"].as_u64() > Some(16 << 20), "{out}");
    assert!(oom["oom"]["victim"]["points"].as_i64() > Some(0), "{out}");
}

/// Who enters a namespace of another stays its container's, and is shown where it is.
#[test]
fn a_process_that_enters_namespaces_stays_its_container_s() {
    let host = host!();
    let image = host.busybox();
    let trace = match Trace::start(&host, &["--json", "exec"]) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF ({why})"),
    };
    let script = "unshare -n -u sleep 100 & sleep 0.5; nsenter -t $! -n -u /bin/true entered; kill $!";
    host.bulkhead(&[
        "run",
        "--privileged",
        "--name",
        "mover",
        "--network",
        "none",
        image,
        "sh",
        "-c",
        script,
    ])
    .ok();
    let (out, _) = trace.end();
    let all = objects(&out);
    let find = |args: &[&str]| {
        let mut found = all.iter().filter(|e| e["event"] == "exec");
        found.find(|e| e["exec"]["args"] == json!(args)).expect(&out)
    };
    let (own, apart, entered) = (&all[0], find(&["sleep", "100"]), find(&["/bin/true", "entered"]));
    let ns = |e: &Value, kind: &str| e["process"]["namespaces"][kind].clone();
    for kind in ["net", "uts"] {
        assert_eq!(ns(entered, kind), ns(apart, kind), "{kind}");
        assert_ne!(ns(entered, kind), ns(own, kind), "{kind}");
    }
    assert_eq!(ns(entered, "mnt"), ns(own, "mnt"));
    assert!(all.iter().all(|e| e["container"]["name"] == "mover"), "{out}");
    host.bulkhead(&["rm", "mover"]).ok();
}

/// All eight, as `/proc` has them; also of what runs already, and of who made a time namespace.
#[test]
fn every_namespace_is_told() {
    let host = host!();
    let Some(image) = burst(&host) else { skip!("a C compiler") };
    host.busybox();
    host.bulkhead(&["run", "-d", "--name", "old", "--network", "none", "busybox", "sleep", "1000"]).ok();
    let trace = match Trace::start(&host, &["--json", "--since-start", "exec"]) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF ({why})"),
    };
    host.bulkhead(&["exec", "old", "sleep", "1"]).ok();
    host.bulkhead(&["run", "--privileged", "--name", "clock", "--network", "none", image, "/burst", "clock"])
        .ok();
    let pid = host.inspect("old", "{{.State.Pid}}");
    let mut inodes: BTreeMap<String, u64> = BTreeMap::new();
    for kind in ["mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time"] {
        if let Ok(meta) = fs::metadata(format!("/proc/{pid}/ns/{kind}")) {
            inodes.insert(kind.to_owned(), meta.ino());
        }
    }
    let (out, _) = trace.end();
    let all = objects(&out);
    let execs = of(&all, "old", "exec");
    assert_eq!(execs.len(), 2, "{out}");
    for exec in execs {
        let told = exec["process"]["namespaces"].as_object().expect("namespaces");
        assert_eq!(told.len(), 8, "{told:?}");
        for (kind, inode) in &inodes {
            assert_eq!(told[kind], *inode, "{kind}");
        }
    }
    let clocks: Vec<&Value> =
        of(&all, "clock", "exec").iter().map(|e| &e["process"]["namespaces"]["time"]).collect();
    assert_eq!(clocks.len(), 2, "{out}");
    assert!(clocks[0] == inodes["time"] && clocks[1] != clocks[0], "{clocks:?}");
    host.bulkhead(&["rm", "-f", "old", "clock"]).ok();
}

/// A tracer in a time namespace, whose own boot clock is a day ahead of the kernel's.
#[test]
fn another_boot_clock_moves_no_event() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["run", "-d", "--name", "old", "--network", "none", image, "sleep", "1000"]).ok();
    let began = std::time::SystemTime::now();
    let mut command = host.command(&["trace", "--json", "--since-start", "exec"]);
    // SAFETY: unshare takes a number, and what is opened and written is named by literals.
    unsafe {
        command.pre_exec(|| {
            const CLONE_NEWTIME: libc::c_int = 0x80;
            if libc::unshare(CLONE_NEWTIME) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let fd = libc::open(c"/proc/self/timens_offsets".as_ptr(), libc::O_WRONLY);
            let offset = b"boottime 86400 0";
            if fd < 0 || libc::write(fd, offset.as_ptr().cast(), offset.len()) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            libc::close(fd);
            Ok(())
        });
    }
    let trace = match Trace::begin(command) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF and time namespaces ({why})"),
    };
    host.bulkhead(&["exec", "old", "true"]).ok();
    let (out, _) = trace.end();
    let all = objects(&out);
    let execs = of(&all, "old", "exec");
    let marks: Vec<(i64, u64)> = execs
        .iter()
        .map(|e| {
            let time: jiff::Timestamp = e["time"].as_str().expect("time").parse().expect("RFC 3339");
            (time.as_second(), e["boot_ns"].as_u64().expect("boot_ns"))
        })
        .collect();
    assert_eq!(marks.len(), 2, "{out}");
    let now = jiff::Timestamp::try_from(began).expect("now").as_second();
    for (time, _) in &marks {
        assert!((now - 600..now + 600).contains(time), "{time} {now}");
    }
    // The one that was read from /proc and the one that the kernel told are on one clock.
    assert!(marks[0].1 < marks[1].1 && marks[1].1 - marks[0].1 < 600_000_000_000, "{marks:?}");
    host.bulkhead(&["rm", "-f", "old"]).ok();
}

/// One process id, used again as soon as it is free: every life has its own beginning and end.
#[test]
fn a_pid_that_is_used_again_at_once_is_another_process() {
    let host = host!();
    let Some(image) = burst(&host) else { skip!("a C compiler") };
    let trace = match Trace::start(&host, &["--json", "exec"]) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF ({why})"),
    };
    let lives = 1_000_u64;
    let number = lives.to_string();
    let run = ["--privileged", "--pid", "host", "--network", "none", image, "/burst", "reuse", &number];
    let ran = host.bulkhead(&[&["run", "--name", "again"], &run[..]].concat());
    if ran.status.code() == Some(5) {
        host.bulkhead(&["rm", "again"]).ok();
        drop(trace.end());
        skip!("clone3 with set_tid (CAP_CHECKPOINT_RESTORE)");
    }
    ran.ok();
    let (out, err) = trace.end();
    assert!(err.contains("lost: 0"), "{err}");
    let all = objects(&out);
    let parent = all[0]["process"]["pid"].clone();
    let lived: Vec<&Value> = all.iter().filter(|e| e["process"]["pid"] != parent).collect();
    assert_eq!(lived.len() as u64, 2 * lives, "{}", lived.len());
    let mut before = 0;
    for (n, life) in lived.chunks(2).enumerate() {
        let (exec, exit) = (life[0], life[1]);
        assert_eq!((&exec["event"], &exit["event"]), (&json!("exec"), &json!("exit")), "{n}");
        assert_eq!(exec["exec"]["args"], json!(["/burst", "end", (n % 200).to_string()]));
        assert_eq!(exit["exit"]["code"], n % 200);
        assert_eq!(exec["process"]["pid"], lived[0]["process"]["pid"], "{n}");
        assert_eq!(exec["process"]["start_boot_ns"], exit["process"]["start_boot_ns"], "{n}");
        let start = exec["process"]["start_boot_ns"].as_u64().expect("a start");
        assert!(start > before, "{n}: {start} after {before}");
        before = start;
        let (lived, told) = (
            exit["exit"]["duration_ns"].as_u64().expect("a duration"),
            exit["boot_ns"].as_u64().expect("boot_ns") - exec["boot_ns"].as_u64().expect("boot_ns"),
        );
        assert_eq!(lived, told, "{n}: not another life's beginning");
    }
    host.bulkhead(&["rm", "again"]).ok();
}

/// While nobody reads, the ring overflows; what was seen and what is said to be lost are what was done.
#[test]
fn seen_and_lost_are_what_was_done() {
    let host = host!();
    let Some(image) = burst(&host) else { skip!("a C compiler") };
    let trace = match Trace::start(&host, &["--json"]) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF ({why})"),
    };
    let run = |name: &str, what: &str, count: u64| {
        let count = count.to_string();
        host.bulkhead(&["run", "--name", name, "--network", "none", image, "/burst", what, &count]).ok();
    };
    run("first", "exec", 10);
    trace.signal(Signal::SIGSTOP);
    // The connections fill it.
    let (execs, connections) = (5_000, 20_000);
    run("connections", "connect", connections);
    run("execs", "exec", execs);
    trace.signal(Signal::SIGCONT);
    let (out, err) = trace.end();
    let all = objects(&out);
    let lost = all.iter().rfind(|e| e["event"] == "lost").expect("a line of what is lost");
    // Each program is executed once more than it executes itself.
    for (event, made) in [
        ("exec", 11 + 1 + execs + 1),
        ("connect", connections),
        ("accept", connections),
        ("close", 2 * connections),
    ] {
        let seen = all.iter().filter(|e| e["event"] == event).count() as u64;
        let missing = lost["lost"]["causes"][format!("ring full: {event}")].as_u64().unwrap_or(0);
        assert_eq!(seen + missing, made, "{event}: {seen} seen, {lost}");
        assert!(seen > 0 && missing > 0, "{event}: {seen} {missing}");
    }
    let causes = lost["lost"]["causes"].as_object().expect("causes");
    let total: u64 = causes.values().map(|n| n.as_u64().expect("count")).sum();
    assert_eq!(lost["lost"]["total"], total);
    assert!(err.contains(&format!("lost: {total}")), "{err}");
    host.bulkhead(&["rm", "first", "execs", "connections"]).ok();
}

/// Bursts that are read: as many as there were, or the difference is told.
#[test]
fn bursts_add_up() {
    let host = host!();
    let Some(image) = burst(&host) else { skip!("a C compiler") };
    let trace = match Trace::start(&host, &["--json"]) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF ({why})"),
    };
    // The executions by four that follow each other at once, so that none takes longer than a command may.
    let (execs, connections) = (100_000, 50_000);
    let each = execs / 4;
    let names = ["execs1", "execs2", "execs3", "execs4", "connections"];
    for name in names {
        let (what, count) = if name == "connections" { ("connect", connections) } else { ("exec", each) };
        let count = count.to_string();
        host.bulkhead(&["run", "--name", name, "--network", "none", image, "/burst", what, &count]).ok();
    }
    let (out, _) = trace.end();
    let all = objects(&out);
    let causes = all.iter().rfind(|e| e["event"] == "lost").map(|e| e["lost"]["causes"].clone());
    let causes: BTreeMap<String, u64> =
        causes.map_or_else(BTreeMap::new, |c| serde_json::from_value(c).expect("causes"));
    let lost = |event: &str| causes.get(&format!("ring full: {event}")).copied().unwrap_or(0);
    let all_of = |event: &str| all.iter().filter(|e| e["event"] == event).count() as u64 + lost(event);
    // Once more each: the programs that begin.
    assert_eq!(all_of("exec"), execs + 5, "{causes:?}");
    assert_eq!(all_of("exit"), 5, "{causes:?}");
    assert_eq!((all_of("connect"), all_of("accept")), (connections, connections), "{causes:?}");
    assert_eq!((all_of("close"), all_of("listen")), (2 * connections, 1), "{causes:?}");
    host.bulkhead(&[&["rm"], &names[..]].concat()).ok();
}

#[test]
fn hostile_arguments_and_names_stay_on_their_line() {
    let host = host!();
    let image = host.busybox();
    // Nearly two megabytes, live and as what runs already.
    let long = "x=$(head -c 99000 /dev/zero | tr '\\0' y); ";
    let all_of_it = "$x $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x $x";
    let script = format!("{long} exec sh -c 'sleep 1000; true' {all_of_it}");
    host.bulkhead(&["run", "-d", "--name", "old", "--network", "none", image, "sh", "-c", &script]).ok();
    let pid = host.inspect("old", "{{.State.Pid}}");
    eventually("it has its arguments", || {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.len() > 1_800_000)
    });
    let trace = match Trace::start(&host, &["--json", "--since-start", "exec"]) {
        Ok(trace) => trace,
        Err(why) => skip!("eBPF ({why})"),
    };
    let script = format!("{long} exec /bin/true {all_of_it}");
    host.bulkhead(&["run", "--name", "long", "--network", "none", image, "sh", "-c", &script]).ok();
    let script = "printf 'a\"b\\n\\033[2J\\047' > /proc/$$/comm; exit 0";
    host.bulkhead(&["run", "--name", "named", "--network", "none", image, "sh", "-c", script]).ok();
    let (out, err) = trace.end();
    assert!(err.contains("lost: 0"), "{err}");
    assert!(out.lines().all(|line| line.len() < 12_000), "bounded");
    let all = objects(&out);
    for (name, program) in [("old", "sh"), ("long", "/bin/true")] {
        let execs = of(&all, name, "exec");
        let exec = execs.iter().find(|e| e["exec"]["args_cut"] == true).expect(name);
        assert_eq!(exec["exec"]["args"][0], program);
        let args = exec["exec"]["args"].as_array().expect("args");
        let bytes: usize = args.iter().map(|a| a.as_str().map_or(0, str::len)).sum();
        assert!((2_000..=4_096).contains(&bytes), "{name}: {bytes}");
    }
    assert_eq!(of(&all, "named", "exit")[0]["process"]["comm"], "a\"b\n\u{1b}[2J'");
    let table = host.bulkhead(&["trace", "--filter", "comm=x", "--namespace", "net"]);
    assert_eq!(table.status.code(), Some(1));
    host.bulkhead(&["rm", "-f", "old", "long", "named"]).ok();
}

/// Without a capability or without BTF there is one sentence, and nothing is half attached.
#[test]
fn what_is_missing_is_said() {
    let host = host!();
    if let Err(why) = Trace::start(&host, &["exec"]).map(Trace::end) {
        skip!("eBPF ({why})");
    }
    let mut bare = host.command(&["trace", "exec"]);
    // SAFETY: prctl takes numbers only.
    unsafe {
        bare.pre_exec(|| {
            // CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
            for capability in [21, 38, 39] {
                if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    common::run(bare, b"").code(1).complains("tracing needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN");
    let mut blind = host.command(&["trace", "exec"]);
    // SAFETY: unshare and mount take literals; nothing is allocated.
    unsafe {
        blind.pre_exec(|| {
            use nix::mount::{MsFlags, mount};
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("none"), "/sys/kernel/btf", Some("tmpfs"), MsFlags::empty(), none)?;
            Ok(())
        });
    }
    common::run(blind, b"").code(1).complains("this kernel has no BTF at /sys/kernel/btf/vmlinux");
}
