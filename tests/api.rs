//! Docker's Engine API: a real `serve`, the real docker command and compose, and clients that behave badly.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use common::git::{git, git_server};
use common::images::{Compression, Tar, digest, image, noise, short};
use common::registry::{INDEX, MANIFEST, Registry, Reply, Request, Server, Setup, Stock, own_address, users};
use common::serve::Api;
use common::{Host, eventually, have, run};
use serde_json::{Value, json};

#[test]
fn a_ping_says_which_api_this_is() {
    let host = host!();
    let api = Api::start(&host);
    let answer = api.raw(b"HEAD /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").to_lowercase();
    for line in ["http/1.1 200", "api-version: 1.47", "ostype: linux", "builder-version: 1"] {
        assert!(answer.contains(line), "{line}: {answer}");
    }
    assert_eq!(api.ask("GET", "/_ping", ""), (200, "OK".to_owned()));
    assert_eq!(api.ask("GET", "/v1.24/version", "").0, 200);
    let (status, body) = api.ask("GET", "/v1.99/version", "");
    assert!(status == 400 && body.contains("client version 1.99 is too new. Maximum supported"), "{body}");
    let (status, body) = api.ask("GET", "/v1.12/version", "");
    assert!(status == 400 && body.contains("client version 1.12 is too old. Minimum supported"), "{body}");
    let mode = fs::metadata(&api.socket).expect("stat").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn bad_requests_are_answered_and_change_nothing() {
    let host = host!();
    host.busybox();
    host.bulkhead(&["create", "--name", "box", "busybox", "true"]).ok();
    let api = Api::start(&host);
    for (method, path, body, status) in [
        ("GET", "/nowhere", "", 404),
        ("GET", "/containers/nosuch/json", "", 404),
        ("POST", "/containers/nosuch/start", "", 404),
        ("POST", "/exec/nosuch/start", "{}", 404),
        ("GET", "/images/nosuch/json", "", 404),
        ("GET", "/networks/nosuch", "", 404),
        ("GET", "/volumes/nosuch", "", 404),
        ("GET", "/images/%ff/json", "", 400),
        ("POST", "/containers/create", "{", 400),
        ("POST", "/containers/create", "[]", 400),
        ("POST", "/containers/create", "{\"Image\": 5}", 400),
        ("POST", "/containers/create", "{}", 400),
        ("POST", "/containers/create", "{\"Image\": \"nosuch\", \"Cmd\": [\"x\"]}", 404),
        (
            "POST",
            "/containers/create",
            "{\"Image\": \"busybox\", \"HostConfig\": {\"KernelMemory\": 1}}",
            400,
        ),
        ("POST", "/containers/create", "{\"Image\": \"busybox\", \"HostConfig\": {\"Memory\": \"1g\"}}", 400),
        // Not 404, for which Docker's client pulls the image.
        (
            "POST",
            "/containers/create",
            "{\"Image\": \"busybox\", \"Cmd\": [\"x\"], \"HostConfig\": {\"NetworkMode\": \"nosuch\"}}",
            400,
        ),
        (
            "POST",
            "/containers/create",
            "{\"Image\": \"busybox\", \"Cmd\": [\"x\"], \"HostConfig\": {\"NetworkMode\": \"container:nosuch\"}}",
            400,
        ),
        (
            "POST",
            "/containers/create",
            "{\"Image\": \"busybox\", \"Hostname\": \"h\", \"HostConfig\": {\"UTSMode\": \"host\"}}",
            400,
        ),
        (
            "POST",
            "/containers/create",
            "{\"Image\": \"busybox\", \"HostConfig\": {\"NetworkMode\": \"container:x\", \"PublishAllPorts\": true}}",
            400,
        ),
        (
            "POST",
            "/containers/create",
            "{\"Image\": \"busybox\", \"Cmd\": [\"x\"], \"HostConfig\": {\"Mounts\": [{\"Type\": \"bind\", \"Source\": \"/nosuch\", \"Target\": \"/x\"}]}}",
            400,
        ),
        (
            "POST",
            "/containers/create",
            "{\"Image\": \"busybox\", \"Cmd\": [\"x\"], \"NetworkingConfig\": {\"EndpointsConfig\": {\"bridge\": {\"IPAMConfig\": {\"IPv4Address\": \"1.2.3.4\"}}}}}",
            400,
        ),
        ("POST", "/containers/box/rename?name=box", "", 400),
        ("POST", "/containers/box/resize", "", 400),
        ("POST", "/containers/box/resize?h=10", "", 400),
        ("POST", "/containers/box/resize?h=10&w=99999999999", "", 400),
        ("POST", "/exec/nosuch/resize?w=-1&h=1", "", 400),
        ("POST", "/containers/create?name=-", "{\"Image\": \"busybox\", \"Cmd\": [\"x\"]}", 400),
        ("GET", "/containers/json?filters=%7B", "", 400),
        ("GET", "/containers/json?filters=%7B%22foo%22%3A%5B%22x%22%5D%7D", "", 400),
        ("GET", "/networks?filters=%7B%22type%22%3A%5B%22x%22%5D%7D", "", 400),
        ("GET", "/events?since=5&until=1", "", 400),
        ("GET", "/events?filters=%7B%22foo%22%3A%5B%22x%22%5D%7D", "", 400),
        ("POST", "/networks/create", "{\"Name\": \"x\", \"IPAM\": {\"Driver\": \"dhcp\"}}", 400),
        ("POST", "/volumes/create", "{\"Name\": \"vol\", \"Driver\": \"nfs\"}", 400),
        ("POST", "/build?remote=ftp://x/", "", 400),
        ("POST", "/build?remote=http://127.0.0.1:1/context.tar", "", 400),
        ("POST", "/build?remote=git://127.0.0.1/r%23--upload-pack=x", "", 400),
        ("POST", "/build?cachefrom=x", "", 400),
        ("POST", "/build?version=2", "", 400),
        ("GET", "/services", "", 503),
    ] {
        let (got, text) = api.ask(method, path, body);
        assert_eq!(got, status, "{method} {path} {body}: {text}");
        assert!(text.contains("\"message\""), "{method} {path}: {text}");
    }
    let id = host.inspect("box", "{{.Id}}");
    let (_, body) = api.ask("POST", "/containers/box/unpause", "");
    assert!(body.contains(&format!("Container {id} is not paused")), "{body}");
    // A body of which the server is told that it is too long, and one that is.
    let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n";
    assert!(api.raw(head.as_bytes()).contains("413"), "told");
    let mut sent =
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..5 {
        sent.extend(b"100000\r\n");
        sent.extend(&chunk);
        sent.extend(b"\r\n");
    }
    let mut stream = api.connect();
    let _ = stream.write_all(&sent);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
    let endless = format!("GET /{} HTTP/1.1\r\nHost: x\r\n", "x".repeat(300_000));
    assert!(!api.raw(endless.as_bytes()).contains("200 OK"), "a head without an end");
    assert!(!api.raw(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n").contains("200 OK"), "TLS");
    host.bulkhead(&["ps", "-aq", "--no-trunc"]).ok().prints(&format!("{}\n", host.inspect("box", "{{.Id}}")));
}

#[test]
fn a_follower_hears_the_last_words_of_a_container_that_is_removed_at_once() {
    let host = host!();
    host.busybox();
    let api = Api::start(&host);
    let gates = host.dir().join("gates");
    fs::create_dir(&gates).expect("mkdir");
    let volume = format!("{}:/gates", gates.display());
    let wait = "until test -e /gates/$0; do sleep 0.02; done; echo bye";
    // By the API, and by the command.
    for round in 0..6 {
        let name = format!("brief{round}");
        let args = ["run", "-d", "--rm", "--name", &name, "-v", &volume, "busybox", "sh", "-c", wait, &name];
        host.bulkhead(&args).ok();
        if round % 2 == 0 {
            let mut stream = api.connect();
            let ask = format!(
                "GET /containers/{name}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(ask.as_bytes()).expect("write");
            let mut status = [0; 12];
            stream.read_exact(&mut status).expect("an answer");
            fs::write(gates.join(&name), "").expect("touch");
            eventually("it is gone", || !host.bulkhead(&["inspect", &name]).status.success());
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("read");
            let rest = String::from_utf8_lossy(&rest);
            assert!(rest.contains("bye\n"), "{round}: {rest}");
        } else {
            let follower = host.command(&["logs", "-f", &name]).stdout(Stdio::piped()).spawn().expect("logs");
            let containers = host.root().join("containers");
            let log = || {
                fs::read_dir(&containers)
                    .expect("dir")
                    .flatten()
                    .any(|dir| dir.path().join("log.json").exists())
            };
            eventually("it listens", log);
            fs::write(gates.join(&name), "").expect("touch");
            let said = follower.wait_with_output().expect("logs");
            assert_eq!(String::from_utf8_lossy(&said.stdout), "bye\n", "{round}");
        }
    }
}

#[test]
fn what_follows_the_end_of_an_archive_is_taken() {
    let host = host!();
    host.busybox();
    let api = Api::start(&host);
    host.bulkhead(&["create", "--name", "box", "busybox", "true"]).ok();
    let mut stream = api.connect();
    // An empty archive, which ends with two blocks of zeros, and as much padding as no socket's buffer holds.
    let padding = vec![0; 4 << 20];
    let put = |name: &str| {
        format!(
            "PUT /containers/{name}/archive?path=/ HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            1024 + padding.len()
        )
    };
    for (name, status) in [("box", "200 OK"), ("nosuch", "404 Not Found"), ("box", "200 OK")] {
        stream.write_all(put(name).as_bytes()).expect("head");
        stream.write_all(&[0; 1024]).expect("archive");
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        stream.write_all(&padding).expect("padding");
    }
}

/// Who is still sending when it is refused hears why, and not of a broken pipe.
#[test]
fn what_is_sent_to_nobody_is_taken() {
    let host = host!();
    let api = Api::start(&host);
    let body = vec![b' '; 4 << 20];
    for (path, status) in [("/swarm/init", 503), ("/nowhere", 404), ("/v1.99/containers/create", 400)] {
        let mut stream = api.connect();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).expect("head");
        // Not all at once: the answer is there by the time the rest is sent.
        let (first, rest) = body.split_at(1 << 10);
        stream.write_all(first).expect("the first of it");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{path}");
        stream.write_all(rest).expect("the rest of it");
    }
}

#[test]
fn one_server_for_one_socket() {
    let host = host!();
    let mut api = Api::start(&host);
    let address = format!("unix://{}", api.socket.display());
    host.bulkhead(&["serve", "--host", &address]).code(1).complains("another server is listening on");
    host.bulkhead(&["serve", "-H", "tcp://0.0.0.0:0"]).code(125).complains("not on the loopback interface");
    // A crash leaves the socket, which the next replaces.
    api.kill();
    assert!(api.socket.exists());
    drop(Api::start(&host));
}

#[test]
fn clients_that_go_leave_nothing() {
    let host = host!();
    host.busybox();
    host.bulkhead(&["run", "-d", "--name", "web", "busybox", "sleep", "1000"]).ok();
    let api = Api::start(&host);
    assert_eq!(api.ask("GET", "/_ping", "").0, 200);
    let before = api.held();
    let mut open = Vec::new();
    for (method, path, upgrade) in [
        ("GET", "/containers/web/logs?follow=1&stdout=1", false),
        ("GET", "/events", false),
        ("GET", "/containers/web/stats", false),
        ("POST", "/containers/web/wait", false),
        ("POST", "/containers/web/wait?condition=next-exit", false),
        ("POST", "/containers/web/attach?stream=1&stdout=1", true),
        ("POST", "/containers/web/attach?stream=1&stdin=1&stdout=1", true),
        ("POST", "/containers/web/attach?stream=1&stdout=1", false),
    ] {
        let mut stream = api.connect();
        let more = if upgrade { "Connection: Upgrade\r\nUpgrade: tcp\r\n" } else { "" };
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n").expect("write");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect(path);
        assert_eq!(&status, if upgrade { b"HTTP/1.1 101" } else { b"HTTP/1.1 200" }, "{path}");
        open.push(stream);
    }
    // Half a head, half a body, and nothing at all.
    for text in ["", "GET /_pi", "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"]
    {
        let mut stream = api.connect();
        stream.write_all(text.as_bytes()).expect("write");
        open.push(stream);
    }
    assert!(api.held() > before);
    drop(open);
    eventually("nothing of them is left", || {
        let now = api.held();
        now.0 <= before.0 && now.1 <= before.1
    });
    drop(api);
    assert_eq!(host.inspect("web", "{{.State.Status}}"), "running", "no container needs the server");
    host.bulkhead(&["rm", "-f", "web"]).ok();
}

/// A client that goes at once, at any moment of its start, leaves no exec behind that runs for ever by the record.
#[test]
fn execs_of_clients_that_go_come_to_their_end() {
    let host = host!();
    host.busybox();
    host.bulkhead(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let api = Api::start(&host);
    let mut ids = Vec::new();
    for (n, body) in ["{\"Detach\": true}", "{}"].iter().cycle().take(24).enumerate() {
        let (status, made) =
            api.ask("POST", "/containers/box/exec", "{\"Cmd\": [\"true\"], \"AttachStdout\": true}");
        assert_eq!(status, 201, "{made}");
        let id =
            serde_json::from_str::<Value>(&made).expect("JSON")["Id"].as_str().expect("an id").to_owned();
        let mut stream = api.connect();
        let upgrade = if n % 4 == 3 { "Connection: Upgrade\r\nUpgrade: tcp\r\n" } else { "" };
        let length = body.len();
        let request = format!(
            "POST /exec/{id}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{upgrade}\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("write");
        std::thread::sleep(std::time::Duration::from_millis(n as u64 / 4));
        drop(stream);
        ids.push(id);
    }
    eventually("every one of them is over", || {
        ids.iter().all(|id| {
            let (_, shown) = api.ask("GET", &format!("/exec/{id}/json"), "");
            serde_json::from_str::<Value>(&shown).expect("JSON")["Running"] == json!(false)
        })
    });
    host.bulkhead(&["rm", "-f", "box"]).ok();
}

/// More than the server may take into its memory, for a client that does not read.
/// Whatever keeps a program from being executed is 126, but for one that is not there.
#[test]
fn execs_that_cannot_begin_have_dockers_codes() {
    let host = host!();
    host.busybox();
    let api = Api::start(&host);
    host.bulkhead(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    for (user, program, code) in
        [("nouser", "id", 126), ("", "/etc", 126), ("", "nosuch", 127), ("", "false", 1)]
    {
        let asked = json!({"Cmd": [program], "User": user, "AttachStdout": true}).to_string();
        let (status, body) = api.ask("POST", "/containers/box/exec", &asked);
        assert_eq!(status, 201, "{body}");
        let made: Value = serde_json::from_str(&body).expect("JSON");
        let id = made["Id"].as_str().expect("an id");
        api.ask("POST", &format!("/exec/{id}/start"), "{}");
        let (_, body) = api.ask("GET", &format!("/exec/{id}/json"), "");
        let shown: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (&shown["ExitCode"], &shown["Running"]),
            (&json!(code), &json!(false)),
            "{program}: {body}"
        );
        let (status, body) = api.ask("POST", &format!("/exec/{id}/start"), "{}");
        assert_eq!(status, 409, "{body}");
        assert!(body.contains(&format!("Exec command {id} has already run")), "{body}");
    }
    host.bulkhead(&["rm", "-f", "box"]).ok();
}

#[test]
fn the_log_before_an_attach_is_sent_as_it_is_taken() {
    let host = host!();
    host.busybox();
    let script =
        "i=0; while [ $i -lt 60 ]; do head -c 1000000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done";
    host.bulkhead(&["run", "--name", "box", "busybox", "sh", "-c", script]).ok();
    let api = Api::start(&host);
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", api.pid())).expect("status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak").to_owned();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("kB")
    };
    let before = resident();
    let mut all = Vec::new();
    for upgrade in ["", "Connection: Upgrade\r\nUpgrade: tcp\r\n"] {
        let mut stream = api.connect();
        write!(stream, "POST /containers/box/attach?logs=1&stdout=1 HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n")
            .expect("write");
        if upgrade.is_empty() {
            continue;
        }
        all.clear();
        stream.read_to_end(&mut all).expect("read");
    }
    let text: usize = all.iter().map(|byte| usize::from(*byte == b'x')).sum();
    assert!(text >= 60_000_000, "{text}");
    let grown = resident() - before;
    assert!(grown < 30_000, "{grown} kB");
    host.bulkhead(&["rm", "box"]).ok();
}

#[test]
fn a_patience_without_an_end_ends_no_server() {
    let host = host!();
    host.busybox();
    let api = Api::start(&host);
    let longest = i64::MAX;
    let program = ["busybox", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"];
    let create = ["run", "-d", "--name", "box", "--stop-timeout", &longest.to_string()];
    host.bulkhead(&[&create[..], &program].concat()).ok();
    // Of this run, and not of the one before: process 1 of a namespace hears nothing of a signal that it does not catch.
    let catches = r"test $((0x$(sed -n 's/^SigCgt:.//p' /proc/1/status) & 0x4000)) -ne 0";
    let up = || {
        eventually("the trap is set", || {
            host.bulkhead(&["exec", "box", "sh", "-c", catches]).status.success()
        });
    };
    up();
    for path in [format!("restart?t={longest}"), format!("stop?t={longest}"), "stop".to_owned()] {
        host.bulkhead(&["start", "box"]).ok();
        up();
        let (status, body) = api.ask("POST", &format!("/containers/box/{path}"), "");
        assert_eq!(status, 204, "{path}: {body}");
        if path.starts_with("stop") {
            assert_eq!(host.inspect("box", "{{.State.ExitCode}}"), "5", "it had the time it wanted");
        }
    }
    for filter in ["-9223372036854775808ns", "9223372036854775807ns"] {
        let (status, body) = api.ask("GET", &format!("/events?since={filter}&until=1"), "");
        assert!(matches!(status, 200 | 400), "{filter}: {body}");
    }
    assert_eq!(api.ask("GET", "/_ping", "").0, 200);
    host.bulkhead(&["start", "box"]).ok();
    up();
    host.bulkhead(&["stop", "-t", &longest.to_string(), "box"]).ok();
    host.bulkhead(&["rm", "box"]).ok();
}

#[test]
fn the_docker_command_runs_containers() {
    let host = host!();
    if !have("docker") {
        skip!("docker (the command)");
    }
    host.busybox();
    let api = Api::start(&host);
    assert_eq!(api.docker(&["run", "--rm", "busybox", "echo", "hi"]).ok().out(), "hi\n");
    api.docker(&["run", "--rm", "busybox", "sh", "-c", "echo no >&2; exit 7"]).code(7).complains("no");
    api.docker(&["run", "--rm", "busybox", "nosuch"]).code(127);
    api.docker(&["run", "--rm", "busybox", "/etc"]).code(126);
    let big: Vec<u8> = (0..2_000_000_u32).map(|n| (n * 7) as u8).collect();
    let back = run(api.client("docker", &["run", "-i", "--rm", "busybox", "cat"]), &big).ok();
    assert!(back.stdout == big, "what is sent comes back");
    let terminal = format!(
        "docker -H unix://{} run -it --rm busybox sh -c 'test -t 0 && echo tty'",
        api.socket.display()
    );
    assert!(run(api.client("script", &["-qec", &terminal, "/dev/null"]), b"").out().contains("tty"));

    let id = api.docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "-l",
        "a=b",
        "busybox",
        "sh",
        "-c",
        "echo one; sleep 1000",
    ]);
    let id = id.ok().out().trim().to_owned();
    assert_eq!(api.docker(&["ps", "-q", "--no-trunc", "--filter", "label=a=b"]).ok().out().trim(), id);
    eventually("the log has a line", || api.docker(&["logs", "web"]).ok().out() == "one\n");
    api.docker(&["logs", "--details", "web"]).ok().prints(" one\n");
    assert_eq!(api.docker(&["exec", "web", "echo", "two"]).ok().out(), "two\n");
    api.docker(&["exec", "web", "sh", "-c", "exit 3"]).code(3);
    api.docker(&["exec", "web", "nosuch"]).code(127);
    let typed = run(api.client("docker", &["exec", "-i", "web", "cat"]), b"typed").ok();
    assert_eq!(typed.out(), "typed");
    api.docker(&["pause", "web"]).ok();
    api.docker(&["exec", "web", "true"]).code(1).complains("is paused");
    api.docker(&["unpause", "web"]).ok();
    api.docker(&["rename", "web", "www"]).ok();
    api.docker(&["update", "--memory", "64m", "www"]).ok();
    let inspected =
        api.docker(&["inspect", "-f", "{{.HostConfig.Memory}} {{.Name}} {{.State.Status}}", "www"]);
    assert_eq!(inspected.ok().out(), "67108864 /www running\n");
    assert!(api.docker(&["top", "www"]).ok().out().contains("sleep 1000"));
    assert!(api.docker(&["stats", "--no-stream", "www"]).ok().out().contains("64MiB"));
    api.docker(&["restart", "-t", "1", "www"]).ok();
    api.docker(&["stop", "-t", "1", "www"]).ok();
    assert_eq!(api.docker(&["wait", "www"]).ok().out(), "137\n");
    api.docker(&["rm", "www"]).ok();
    assert_eq!(host.bulkhead(&["ps", "-aq"]).ok().out(), "");
}

#[test]
fn the_docker_command_moves_files_and_images() {
    let host = host!();
    if !have("docker") {
        skip!("docker (the command)");
    }
    host.busybox();
    let api = Api::start(&host);
    let files = host.dir();
    let at = |name: &str| files.join(name).display().to_string();
    api.docker(&["create", "--name", "box", "-v", "data:/srv", "busybox", "cat", "/srv/f"]).ok();
    host.file("up/sub/f", "content");
    api.docker(&["cp", &at("up/sub/f"), "box:/srv/f"]).ok();
    assert_eq!(api.docker(&["start", "-a", "box"]).ok().out(), "content");
    api.docker(&["cp", &at("up"), "box:/tmp-up"]).ok();
    api.docker(&["cp", "box:/tmp-up/.", &at("down")]).ok();
    assert_eq!(fs::read_to_string(files.join("down/sub/f")).expect("copied"), "content");
    api.docker(&["cp", "box:/nosuch", &at("x")]).code(1).complains("Could not find the file /nosuch");
    assert!(api.docker(&["diff", "box"]).ok().out().contains("A /tmp-up/sub/f\n"));
    assert!(api.docker(&["export", "box"]).ok().stdout.len() > 10_000);
    api.docker(&["commit", "-c", "CMD [\"cat\", \"/tmp-up/sub/f\"]", "box", "snap:1"]).ok();
    assert_eq!(api.docker(&["run", "--rm", "snap:1"]).ok().out(), "content");
    api.docker(&["save", "-o", &at("snap.tar"), "snap:1"]).ok();
    api.docker(&["rmi", "snap:1"]).ok();
    assert!(api.docker(&["load", "-i", &at("snap.tar")]).ok().out().contains("Loaded image: snap:1"));
    api.docker(&["tag", "snap:1", "other:2"]).ok();
    let listed = api.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=o*"]);
    assert_eq!(listed.ok().out(), "other:2\n");

    host.file(
        "context/Dockerfile",
        "FROM busybox\nARG A\nCOPY f /f\nRUN echo $A >> /f\nCMD [\"cat\", \"/f\"]\n",
    );
    host.file("context/f", "f\n");
    let built = api.docker(&["build", "--build-arg", "A=arg", "-t", "built:1", &at("context")]).ok();
    assert!(built.out().contains("Successfully tagged built:1"), "{}", built.out());
    assert_eq!(api.docker(&["run", "--rm", "built:1"]).ok().out(), "f\narg\n");
    host.file("context/bad", "FROM busybox\nRUN exit 5\n");
    api.docker(&["build", "-f", &at("context/bad"), &at("context")]).code(5).complains("exit code: 5");
    api.docker(&["rm", "-v", "box"]).ok();
    api.docker(&["volume", "rm", "data"]).ok();
    api.docker(&["system", "prune", "-af"]).ok();
    assert_eq!(api.docker(&["images", "-q"]).ok().out(), "");
}

/// Whoever asked for a build and hangs up wants it no more: what a step has started ends.
#[test]
fn a_build_ends_with_its_client() {
    let host = host!();
    host.busybox();
    let api = Api::start(&host);
    let unique = format!("{}", 1_000_000 + std::process::id());
    let dockerfile = format!("FROM busybox\nRUN echo begun && exec sleep {unique}\n");
    let tar = Tar::new().file("Dockerfile", 0o644, dockerfile).build();
    let runs = || {
        let command = format!("sleep\0{unique}\0");
        let mut processes = fs::read_dir("/proc").expect("/proc").flatten();
        processes.any(|process| {
            fs::read(process.path().join("cmdline")).is_ok_and(|line| line == command.as_bytes())
        })
    };
    let mut stream = api.connect();
    let head = format!("POST /build?t=never:1 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", tar.len());
    stream.write_all(head.as_bytes()).expect("send");
    stream.write_all(&tar).expect("send");
    eventually("the step runs", runs);
    drop(stream);
    eventually("the step is ended", || !runs());
    // And nothing of it is left to whoever comes next.
    let out = host.bulkhead(&["images", "-aq", "never"]).ok().out();
    assert_eq!(out, "");
    let (status, _) = api.ask("GET", "/_ping", "");
    assert_eq!(status, 200);
}

/// What the views of `system df -v` are made of, with Docker's own client in between.
#[test]
fn what_is_taken_is_told_of_each() {
    let host = host!();
    host.busybox();
    let api = Api::start(&host);
    if !have("docker") {
        skip!("docker (the command)");
    }
    host.file("context/Dockerfile", "FROM busybox\nRUN echo one > /one\n");
    let context = host.dir().join("context").display().to_string();
    api.docker(&["build", "-t", "made:1", &context]).ok();
    api.docker(&["create", "--name", "box", "made:1", "sleep", "7"]).ok();
    let out = api.docker(&["system", "df", "-v"]).ok().out();
    assert!(!out.contains("56 years ago"), "{out}");
    let row = |start: &str| {
        let line =
            out.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {out}"));
        line.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let image = row("made");
    assert_ne!(image[5], "0B", "shared with what it is made from: {out}");
    assert_eq!(image[7], "1", "{out}");
    let (_, text) = api.ask("GET", "/system/df", "");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(told["Containers"][0]["Command"], "sleep 7", "{text}");
    assert_eq!(told["BuildCache"][0]["Shared"], true, "{text}");
    assert!(
        told["BuildCache"][0]["Description"].as_str().is_some_and(|step| step.contains("echo one")),
        "{text}"
    );
}

#[test]
fn what_is_taken_is_told_of_what_is_asked_for() {
    let host = host!();
    host.busybox();
    host.bulkhead(&["create", "--name", "box", "-v", "data:/d", "busybox", "true"]).ok();
    let api = Api::start(&host);
    let told = |query: &str| {
        let (status, body) = api.ask("GET", &format!("/system/df{query}"), "");
        assert_eq!(status, 200, "{body}");
        let shown: Value = serde_json::from_str(&body).expect("JSON");
        ["Images", "Containers", "Volumes", "BuildCache"].map(|kind| shown[kind].as_array().map(Vec::len))
    };
    assert_eq!(told(""), [Some(1), Some(1), Some(1), Some(0)]);
    assert_eq!(told("?type=image"), [Some(1), None, None, None]);
    assert_eq!(told("?type=container&type=volume"), [None, Some(1), Some(1), None]);
    assert_eq!(told("?type=build-cache"), [None, None, None, Some(0)]);
    let (status, body) = api.ask("GET", "/system/df?type=image&type=foo", "");
    assert!(status == 400 && body.contains("unknown object type: foo"), "{body}");
    host.bulkhead(&["rm", "box"]).ok();
    host.bulkhead(&["volume", "rm", "data"]).ok();
}

#[test]
fn compose_brings_a_project_up_and_down() {
    let host = host!();
    if !have("docker-compose") {
        skip!("docker-compose");
    }
    host.busybox();
    let api = Api::start(&host);
    let file = host.file(
        "project/docker-compose.yml",
        r#"
version: "2.4"
services:
  db:
    image: busybox
    command: sh -c 'echo ready > /data/state; exec sleep 1000'
    volumes: ["dbdata:/data"]
    networks: {back: {aliases: [store]}}
    healthcheck: {test: ["CMD", "cat", "/data/state"], interval: 1s, retries: 30}
  web:
    image: busybox
    command: sh -c 'echo started; exec sleep 1000'
    depends_on: {db: {condition: service_healthy}}
    networks: [back, front]
    environment: {A: "1"}
networks: {back: {}, front: {}}
volumes: {dbdata: {}}
"#,
    );
    let file = file.display().to_string();
    let compose = |args: &[&str]| {
        let all: Vec<&str> = ["--ansi", "never", "-f", &file].iter().chain(args).copied().collect();
        run(api.client("docker-compose", &all), b"")
    };
    compose(&["up", "-d"]).ok();
    assert_eq!(compose(&["ps", "-q"]).ok().out().lines().count(), 2);
    assert!(compose(&["logs", "web"]).ok().out().contains("started"));
    assert_eq!(compose(&["exec", "-T", "web", "sh", "-c", "echo $A"]).ok().out(), "1\n");
    assert_eq!(host.inspect("project_web_1", "{{len .NetworkSettings.Networks}}"), "2");
    assert_eq!(host.inspect("project_db_1", "{{.State.Health.Status}}"), "healthy");
    // The engine's own word for it has a server of its own, which goes with it.
    let own = |args: &[&str]| {
        let all = [&["compose", "--ansi", "never", "-f", &file][..], args].concat();
        host.bulkhead(&all)
    };
    assert_eq!(own(&["ps", "-q"]).ok().out().lines().count(), 2);
    assert_eq!(own(&["exec", "-T", "web", "sh", "-c", "exit 7"]).code(7).out(), "");
    own(&["nosuch"]).code(1);
    let sockets = || {
        let entries = fs::read_dir(host.run_root()).expect("the run root").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("api-")).count()
    };
    eventually("its server is gone", || sockets() == 0);
    compose(&["up", "-d", "--force-recreate", "-t", "1"]).ok();
    compose(&["stop", "-t", "1"]).ok();
    compose(&["start"]).ok();
    compose(&["down", "-v", "-t", "1"]).ok();
    assert_eq!(host.bulkhead(&["ps", "-aq"]).ok().out(), "");
    assert_eq!(host.bulkhead(&["volume", "ls", "-q"]).ok().out(), "");
    assert_eq!(host.bulkhead(&["network", "ls", "--filter", "type=custom", "-q"]).ok().out(), "");
}

/// The lines of an answer that is a stream of JSON.
fn lines(body: &str) -> Vec<Value> {
    let lines = body.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// What a client says of itself in the head of a request.
fn registry_auth(value: &Value) -> String {
    format!("X-Registry-Auth: {}\r\n", URL_SAFE.encode(value.to_string()))
}

/// An image of this name in the store, with two layers.
fn stocked(host: &Host, name: &str) {
    host.load(&image("one").docker_archive(Compression::None));
    host.bulkhead(&["tag", "x", name]).ok();
}

#[test]
fn the_docker_command_pulls_and_pushes() {
    let host = host!();
    if !have("docker") {
        skip!("docker (the command)");
    }
    let registry = registry!(host);
    let name = registry.name("team/box:1");
    stocked(&host, &name);
    let api = Api::start(&host);
    let tars: Vec<String> =
        image("one").layers.iter().map(|layer| short(&digest(layer)).to_owned()).collect();

    let out = api.docker(&["push", &name]).ok().out();
    assert!(
        out.starts_with(&format!("The push refers to repository [{}]\n", registry.name("team/box"))),
        "{out}"
    );
    for tar in &tars {
        assert!(
            out.contains(&format!("{tar}: Preparing\n")) && out.contains(&format!("{tar}: Pushed\n")),
            "{out}"
        );
    }
    let manifest = registry.skopeo("team/box:1", "{{.Digest}}");
    assert!(
        out.lines().last().expect("lines").starts_with(&format!("1: digest: {manifest} size: ")),
        "{out}"
    );
    let out = api.docker(&["push", &name]).ok().out();
    assert_eq!(out.matches(": Layer already exists\n").count(), 2, "{out}");
    assert_eq!(api.docker(&["push", "-q", &name]).ok().line(), name);
    api.docker(&["tag", &name, &registry.name("team/box:2")]).ok();
    let out = api.docker(&["push", "-a", &registry.name("team/box")]).ok().out();
    assert!(out.contains("1: digest: ") && out.contains("2: digest: "), "{out}");
    api.docker(&["push", &registry.name("nothing:1")])
        .code(1)
        .complains("An image does not exist locally with the tag: ");

    // Another machine.
    let host = host!();
    let api = Api::start(&host);
    let out = api.docker(&["pull", &name]).ok().out();
    let blobs = registry.skopeo("team/box:1", "{{range .Layers}}{{.}} {{end}}");
    let blobs: Vec<&str> = blobs.split_whitespace().map(short).collect();
    assert_eq!(blobs.len(), 2);
    assert!(out.starts_with("1: Pulling from team/box\n"), "{out}");
    for blob in &blobs {
        let told = [format!("{blob}: Pulling fs layer\n"), format!("{blob}: Pull complete\n")];
        assert!(told.iter().all(|line| out.contains(line)), "{out}");
    }
    let end = format!("Digest: {manifest}\nStatus: Downloaded newer image for {name}\n{name}\n");
    assert!(out.ends_with(&end), "{out}");
    let out = api.docker(&["pull", &name]).ok().out();
    assert!(out.contains(&format!("Status: Image is up to date for {name}\n")), "{out}");
    assert!(blobs.iter().all(|blob| out.contains(&format!("{blob}: Already exists\n"))), "{out}");
    assert!(!out.contains("Pulling fs layer"), "{out}");
    assert_eq!(api.docker(&["pull", "-q", &name]).ok().line(), name);
    let digests = ["images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}"];
    let repository = registry.name("team/box");
    assert_eq!(api.docker(&digests).ok().line(), format!("{repository} 1 {manifest}"));
    // The command asks for whole seconds.
    eventually("the pull is told of", || {
        let told =
            api.docker(&["events", "--since", "1", "--until", "0s", "--filter", "event=pull"]).ok().out();
        told.contains(&format!("image pull {name} (name={repository})"))
    });

    // By its digest, under no tag.
    api.docker(&["rmi", &name]).ok();
    let by_digest = format!("{repository}@{manifest}");
    let out = api.docker(&["pull", &by_digest]).ok().out();
    assert!(out.starts_with(&format!("{manifest}: Pulling from team/box\n")), "{out}");
    assert!(
        out.ends_with(&format!("Status: Downloaded newer image for {by_digest}\n{by_digest}\n")),
        "{out}"
    );
    assert_eq!(api.docker(&digests).ok().line(), format!("{repository} <none> {manifest}"));
    assert_eq!(api.docker(&["run", "--rm", &by_digest, "cat", "/what"]).ok().out(), "one");
    api.docker(&["rmi", &by_digest]).ok();

    // All tags, and what a run needs.
    let out = api.docker(&["pull", "-a", &repository]).ok().out();
    assert!(
        out.contains("1: Pulling from team/box\n") && out.contains("2: Pulling from team/box\n"),
        "{out}"
    );
    assert!(
        out.ends_with(&format!("Status: Downloaded newer image for {repository}\n{repository}\n")),
        "{out}"
    );
    api.docker(&["rmi", &name, &registry.name("team/box:2")]).ok();
    let out = api.docker(&["run", "--rm", &name, "cat", "/what"]).ok();
    assert_eq!(out.out(), "one");
    assert!(out.err().starts_with(&format!("Unable to find image '{name}' locally\n")), "{out}");

    for (name, why) in [
        (registry.name("team/box"), "not found: manifest unknown: manifest unknown"),
        (registry.name("nothing:1"), "not found: manifest unknown: manifest unknown"),
        ("127.0.0.1:1/x:1".to_owned(), "dial tcp 127.0.0.1:1: connect: connection refused"),
    ] {
        api.docker(&["pull", &name]).code(1).complains(why);
    }
    api.docker(&["pull", "-a", &registry.name("nothing")]).code(1).complains("pull access denied for ");
    api.docker(&["pull", "--platform", "linux/s390x", &name])
        .code(1)
        .complains("does not match the specified platform: wanted linux/s390x");
    api.docker(&["pull", "--platform", "bread/and/butter/too", &name]).code(1).complains("invalid argument");
}

#[test]
fn a_pull_and_a_push_are_told_as_they_go() {
    let host = host!();
    let registry = registry!(host);
    let size = 3 << 20;
    let big = image("big").layer(Tar::new().file("noise", 0o644, noise(size)).build());
    registry.put(&host, &big, "big:1", &[]);
    let api = Api::start(&host);
    let path = |verb: &str| verb.replace("NAME", &registry.name("big"));
    let (status, body) = api.ask("POST", &path("/images/create?fromImage=NAME&tag=1"), "");
    assert_eq!(status, 200, "{body}");
    let check = |told: &[Value], doing: &str| {
        let far: Vec<(u64, u64)> = told
            .iter()
            .filter(|line| {
                line["status"] == doing && line["progressDetail"]["total"].as_u64() > Some(size as u64)
            })
            .map(|line| {
                let detail = &line["progressDetail"];
                let number = |name: &str| detail[name].as_u64().expect("a number");
                assert!(line["id"].as_str().is_some_and(|id| id.len() == 12), "{line}");
                (number("current"), number("total"))
            })
            .collect();
        assert!(far.len() > 3 && far.is_sorted(), "{far:?}");
        assert!(far.iter().all(|(current, total)| current <= total), "{far:?}");
        assert_eq!(far.last().map(|(current, total)| current == total), Some(true), "{far:?}");
    };
    let told = lines(&body);
    assert_eq!(told[0], json!({"status": "Pulling from big", "id": "1"}));
    check(&told, "Downloading");
    assert!(told.iter().all(|line| line.get("error").is_none()), "{body}");
    assert_eq!(
        told.last().expect("lines")["status"],
        format!("Status: Downloaded newer image for {}", registry.name("big:1"))
    );

    // A registry that has nothing yet.
    let fresh = registry!(host);
    host.bulkhead(&["tag", &registry.name("big:1"), &fresh.name("big:1")]).ok();
    let (status, body) = api.ask("POST", &format!("/images/{}/push?tag=1", fresh.name("big")), "");
    assert_eq!(status, 200, "{body}");
    let told = lines(&body);
    check(&told, "Pushing");
    let aux = &told.last().expect("lines")["aux"];
    let manifest = fresh.skopeo("big:1", "{{.Digest}}");
    assert_eq!((&aux["Tag"], &aux["Digest"]), (&json!("1"), &json!(manifest)), "{body}");
    if have("docker") && have("script") {
        host.bulkhead(&["rmi", &fresh.name("big:1"), &registry.name("big:1")]).ok();
        let (socket, name) = (api.socket.display(), registry.name("big:1"));
        let line = format!("stty cols 200; docker -H unix://{socket} pull {name}");
        let shown = run(api.client("script", &["-qec", &line, "/dev/null"]), b"").ok().out();
        assert!(
            shown.contains("Downloading") && shown.contains("[====") && shown.contains("Pull complete"),
            "{shown}"
        );
    }

    // What fails before anything was said has a status, what fails later is said in the stream.
    for (path, status) in [
        ("/images/create?fromImage=NAME&tag=none", 404),
        ("/images/create?fromImage=127.0.0.1:1/x&tag=1", 500),
        ("/images/create?fromImage=A%20B&tag=1", 400),
        ("/images/create", 400),
        ("/images/NAME/push?tag=none", 404),
        ("/images/A%20B/push", 400),
    ] {
        let (got, body) = api.ask("POST", &path.replace("NAME", &registry.name("big")), "");
        assert_eq!(got, status, "{path}: {body}");
    }
    host.busybox();
    host.bulkhead(&["tag", "busybox", "127.0.0.1:1/big:1"]).ok();
    let (status, body) = api.ask("POST", "/images/127.0.0.1:1/big/push?tag=1", "");
    let told = lines(&body);
    let last = told.last().expect("lines");
    assert_eq!(status, 200);
    assert!(last["error"].as_str().is_some_and(|error| error.contains("connection refused")), "{body}");
    assert_eq!(last["errorDetail"]["message"], last["error"]);
}

#[test]
fn registries_learn_who_a_client_is() {
    let host = host!();
    if !have("docker") {
        skip!("docker (the command)");
    }
    drop(registry!(host));
    let file = users(&host);
    let registry = Registry::with(&host, Setup { users: Some(&file), ..Setup::default() });
    registry.put(&host, &image("one"), "box:1", &["--dest-creds", "ann:secret"]);
    let name = registry.name("box:1");
    // Who runs the server is logged in; that is not the client's.
    host.bulkhead(&["login", "-u", "ann", "-p", "secret", &registry.address]).ok();
    let api = Api::start(&host);
    api.docker(&["pull", &name]).code(1).complains("no basic auth credentials");
    let login = |password: &str| {
        let args = ["login", "-u", "ann", "--password-stdin", &registry.address];
        run(api.client("docker", &args), password.as_bytes())
    };
    login("wrong").code(1).complains("unauthorized: authentication required");
    assert!(login("secret").ok().out().contains("Login Succeeded"));
    api.docker(&["pull", &name]).ok();
    let second = registry.name("second:1");
    api.docker(&["tag", &name, &second]).ok();
    api.docker(&["push", &second]).ok();
    assert!(api.docker(&["login", &registry.address]).ok().out().contains("Login Succeeded"));

    // A build brings what it begins with, and tells of it.
    api.docker(&["rmi", &name, &second]).ok();
    host.file("context/Dockerfile", format!("FROM {name}\nRUN echo built >> /what\n"));
    let context = host.dir().join("context").display().to_string();
    let out = api.docker(&["build", "-t", "built:1", &context]).ok().out();
    for told in
        ["1: Pulling from box\n", "Status: Downloaded newer image for", "Successfully tagged built:1\n"]
    {
        assert!(out.contains(told), "{told}: {out}");
    }
    assert_eq!(api.docker(&["run", "--rm", "built:1", "cat", "/what"]).ok().out(), "onebuilt\n");
    let out = api.docker(&["build", "--pull", &context]).ok().out();
    assert!(out.contains("Status: Image is up to date for") && out.contains("Using cache"), "{out}");
    let id = api.docker(&["build", "-q", "--pull", &context]).ok().line();
    assert_eq!(id, host.inspect("built:1", "{{.Id}}"));

    api.docker(&["logout", &registry.address]).ok();
    api.docker(&["pull", &name]).code(1).complains("no basic auth credentials");
    api.docker(&["push", &second]).code(1);
    api.docker(&["build", "--pull", &context]).code(1).complains("no basic auth credentials");

    // The same without the docker command.
    let path = format!("/images/create?fromImage={}&tag=1", registry.name("box"));
    let ann = json!({"username": "ann", "password": "secret", "serveraddress": registry.address});
    let (status, body) = api.ask_with("POST", &path, &registry_auth(&ann), "");
    assert!(status == 200 && body.contains("Status: Image is up to date"), "{body}");
    let usual = format!("X-Registry-Auth: {}\r\n", STANDARD.encode(ann.to_string()));
    assert_eq!(api.ask_with("POST", &path, &usual, "").0, 200);
    let wrong = json!({"username": "ann", "password": "wrong"});
    for (head, status, why) in [
        (registry_auth(&wrong), 404, "pull access denied"),
        (registry_auth(&json!({})), 500, "no basic auth credentials"),
        ("X-Registry-Auth: nonsense\r\n".to_owned(), 500, "no basic auth credentials"),
    ] {
        let (got, body) = api.ask_with("POST", &path, &head, "");
        assert!(got == status && body.contains(why), "{head}: {got} {body}");
    }
    let said = |password: &str, address: &str| {
        let said = json!({"username": "ann", "password": password, "serveraddress": address});
        api.ask("POST", "/auth", &said.to_string())
    };
    let (status, body) = said("secret", &registry.address);
    assert!(status == 200 && body.contains("\"Login Succeeded\""), "{body}");
    assert_eq!(said("secret", &format!("http://{}/v2/", registry.address)).0, 200);
    assert_eq!(said("wrong", &registry.address).0, 401);
    assert_eq!(said("secret", "127.0.0.1:1").0, 500, "nobody has refused anybody");
    assert_eq!(said("secret", "what is this").0, 400);
    assert_eq!(api.ask("POST", "/auth", "{}").0, 400);
    let path = format!("/distribution/{name}/json");
    assert_eq!(api.ask("GET", &path, "").0, 401);
    assert_eq!(api.ask_with("GET", &path, &registry_auth(&ann), "").0, 200);
}

#[test]
fn an_identity_token_stands_for_a_password() {
    let host = host!();
    let stock = Stock::of("team/box", &image("one"), Compression::Gzip);
    let tokens = Server::start(|request: &Request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        if request.method == "POST"
            && body.contains("grant_type=refresh_token")
            && body.contains("refresh_token=the-identity")
        {
            return Reply::ok(json!({"access_token": "good", "expires_in": 300}).to_string());
        }
        Reply::status(401)
    });
    let realm = format!("http://{}/token", tokens.address);
    let server = Server::start(move |request: &Request| {
        if request.header("authorization") == "Bearer good" {
            return stock.answer(request);
        }
        let wanted = format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:team/box:pull\"");
        Reply::status(401).with("WWW-Authenticate", wanted)
    });
    let api = Api::start(&host);
    let path = format!("/images/create?fromImage={}&tag=1", server.name("team/box"));
    let head = |token: &str| registry_auth(&json!({"identitytoken": token, "serveraddress": server.address}));
    let (status, body) = api.ask_with("POST", &path, &head("another"), "");
    assert!(status == 404 && body.contains("pull access denied"), "{status} {body}");
    let (status, body) = api.ask_with("POST", &path, &head("the-identity"), "");
    assert!(status == 200 && body.contains("Status: Downloaded newer image"), "{status} {body}");
    let said =
        json!({"username": "<token>", "identitytoken": "the-identity", "serveraddress": server.address});
    assert_eq!(api.ask("POST", "/auth", &said.to_string()).0, 200);
    if have("docker") {
        let auths = json!({"auths": {server.address.clone(): {"auth": STANDARD.encode("ann:"), "identitytoken": "the-identity"}}});
        host.file("config/config.json", auths.to_string());
        api.docker(&["rmi", &server.name("team/box:1")]).ok();
        api.docker(&["pull", &server.name("team/box:1")]).ok();
    }
}

#[test]
fn a_registry_elsewhere_is_trusted_when_the_operator_says_so() {
    let host = host!();
    drop(registry!(host));
    let Some(ip) = own_address() else { skip!("an address that is not loopback") };
    let registry = Registry::with(&host, Setup { ip: Some(ip), ..Setup::default() });
    registry.put(&host, &image("one"), "box:1", &[]);
    fs::create_dir_all(host.root()).expect("mkdir");
    let settings = |list: Value| {
        let text = json!({"insecure-registries": list, "proxies": {"no-proxy": "*"}}).to_string();
        fs::write(host.root().join("daemon.json"), text).expect("daemon.json");
    };
    settings(json!([]));
    let api = Api::start(&host);
    let path = format!("/images/create?fromImage={}&tag=1", registry.name("box"));
    let (status, body) = api.ask("POST", &path, "");
    assert!(status == 500 && body.contains("server gave HTTP response to HTTPS client"), "{status} {body}");
    // Read for each request, as for each command.
    settings(json!([registry.address]));
    assert_eq!(api.ask("POST", &path, "").0, 200);
}

#[test]
fn registries_are_searched_and_asked_what_they_have() {
    let host = host!();
    let registry = registry!(host);
    registry.put(&host, &image("one"), "team/box:1", &[]);
    let api = Api::start(&host);
    let manifest = registry.skopeo("team/box:1", "{{.Digest}}");
    let arch = host.bulkhead(&["version", "--format", "{{.Client.Arch}}"]).ok().line();
    for name in [registry.name("team/box:1"), registry.name(&format!("team/box@{manifest}"))] {
        let (status, body) = api.ask("GET", &format!("/distribution/{name}/json"), "");
        let said: Value = serde_json::from_str(&body).expect(&body);
        assert_eq!((status, &said["Descriptor"]["digest"]), (200, &json!(manifest)), "{body}");
        assert!(said["Descriptor"]["size"].as_u64() > Some(100), "{body}");
        assert!(
            said["Descriptor"]["mediaType"].as_str().is_some_and(|kind| kind.contains("manifest")),
            "{body}"
        );
        assert_eq!(said["Platforms"], json!([{"architecture": arch, "os": "linux"}]));
    }
    for (name, status) in
        [(registry.name("team/box:none"), 404), ("A%20B".into(), 400), ("127.0.0.1:1/x".into(), 500)]
    {
        assert_eq!(api.ask("GET", &format!("/distribution/{name}/json"), "").0, status, "{name}");
    }
    assert_eq!(host.bulkhead(&["images", "-q"]).ok().out(), "", "nothing was brought");

    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": manifest, "size": 5, "platform": {"os": "linux", "architecture": "amd64"}},
        {"mediaType": MANIFEST, "digest": manifest, "size": 5,
         "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}},
        {"mediaType": MANIFEST, "digest": manifest, "size": 5, "platform": {"os": "unknown", "architecture": "unknown"}},
    ]})
    .to_string();
    let expected = digest(index.as_bytes());
    let results = json!({"results": [
        {"name": "box", "description": "none", "star_count": 3, "is_official": true},
        {"name": "someone/box", "star_count": 7},
    ]});
    let server = Server::start(move |request: &Request| match request.target.split('?').next() {
        Some("/v2/") => Reply::ok("{}"),
        Some("/v2/multi/manifests/latest") => Reply::ok(index.clone()).with("Content-Type", INDEX),
        Some("/v1/search") => Reply::ok(results.to_string()),
        _ => Reply::status(404),
    });
    let (status, body) = api.ask("GET", &format!("/distribution/{}/json", server.name("multi")), "");
    let said: Value = serde_json::from_str(&body).expect(&body);
    assert_eq!((status, &said["Descriptor"]["digest"]), (200, &json!(expected)), "{body}");
    let platforms = json!([
        {"architecture": "amd64", "os": "linux"}, {"architecture": "arm", "os": "linux", "variant": "v7"},
    ]);
    assert_eq!(said["Platforms"], platforms);

    let search = |query: &str| {
        let (status, body) =
            api.ask("GET", &format!("/images/search?term={}{query}", server.name("box")), "");
        (status, serde_json::from_str::<Value>(&body).expect(&body))
    };
    let row = |name: &str, description: &str, stars: u64, official: bool| {
        json!({"name": name, "description": description, "star_count": stars, "is_official": official,
               "is_automated": false})
    };
    assert_eq!(search(""), (200, json!([row("someone/box", "", 7, false), row("box", "none", 3, true)])));
    let official = "&filters=%7B%22is-official%22%3A%5B%22true%22%5D%7D";
    assert_eq!(search(official), (200, json!([row("box", "none", 3, true)])));
    assert_eq!(search("&limit=101").0, 400);
    assert_eq!(search("&filters=%7B%22foo%22%3A%5B%22x%22%5D%7D").0, 400);
    assert_eq!(api.ask("GET", "/images/search", "").0, 400);
    if have("docker") {
        let found = api.docker(&["search", "--format", "{{.Name}}", &registry.name("box")]).ok().line();
        assert_eq!(found, registry.name("team/box"));
    }
}

#[test]
fn compose_pulls_builds_and_pushes() {
    let host = host!();
    if !have("docker-compose") {
        skip!("docker-compose");
    }
    let registry = registry!(host);
    registry.put(&host, &image("one"), "team/box:1", &[]);
    let api = Api::start(&host);
    let (base, made) = (registry.name("team/box:1"), registry.name("team/made:1"));
    host.file(
        "project/Dockerfile",
        format!("FROM {base}\nRUN echo made >> /what\nCMD [\"cat\", \"/what\"]\n"),
    );
    let file = host.file(
        "project/docker-compose.yml",
        format!(
            "version: '2.4'\nservices:\n  web: {{image: '{base}', command: cat /what}}\n  made: {{image: '{made}', build: .}}\n"
        ),
    );
    let file = file.display().to_string();
    let compose = |args: &[&str]| {
        let all: Vec<&str> = ["--ansi", "never", "-f", &file].iter().chain(args).copied().collect();
        run(api.client("docker-compose", &all), b"")
    };
    compose(&["pull", "web"]).ok();
    compose(&["build"]).ok();
    compose(&["push", "made"]).ok();
    let manifest = registry.skopeo("team/made:1", "{{.Digest}}");
    host.bulkhead(&["rmi", &made]).ok();
    let out = compose(&["pull"]).ok();
    assert!(out.err().contains("Pulling made"), "{out}");
    assert_eq!(
        host.inspect(&made, "{{json .RepoDigests}}"),
        json!([registry.name(&format!("team/made@{manifest}"))]).to_string()
    );
    let out = compose(&["up"]).ok().out();
    assert!(out.contains("onemade") && out.contains("| one"), "{out}");
    host.file(
        "project/none.yml",
        format!("version: '2.4'\nservices: {{x: {{image: '{}'}}}}\n", registry.name("none:1")),
    );
    let file = host.dir().join("project/none.yml").display().to_string();
    let out = run(api.client("docker-compose", &["--ansi", "never", "-f", &file, "pull"]), b"").code(1);
    assert!(out.err().contains("manifest unknown"), "{out}");
    compose(&["down"]).ok();
}

#[test]
fn a_commit_may_bring_a_configuration() {
    let host = host!();
    host.busybox();
    let api = Api::start(&host);
    let args =
        ["create", "--name", "box", "-e", "A=1", "-e", "B=2", "-l", "kept=yes", "busybox", "sleep", "5"];
    host.bulkhead(&args).ok();
    let commit =
        |query: &str, body: &str| api.ask("POST", &format!("/commit?container=box&repo=snap{query}"), body);
    let shown =
        |tag: &str, what: &str| host.inspect(&format!("snap:{tag}"), &format!("{{{{json .Config.{what}}}}}"));
    for (tag, body) in
        [("1", ""), ("2", "{}"), ("3", "null"), ("4", r#"{"Cmd": null, "Env": null, "Labels": null}"#)]
    {
        let (status, answer) = commit(&format!("&tag={tag}"), body);
        assert_eq!(status, 201, "{body}: {answer}");
        assert_eq!(shown(tag, "Cmd"), r#"["sleep","5"]"#, "{body}");
        assert_eq!(shown(tag, "Labels"), r#"{"kept":"yes"}"#, "{body}");
    }
    let body = r#"{"Cmd": ["echo", "said"], "Env": ["B=3", "C=4"], "Labels": {"more": "yes"}, "User": "7",
                   "ExposedPorts": {"80/tcp": {}}, "Hostname": "not-an-image's"}"#;
    let (status, answer) = commit("&tag=said&changes=WORKDIR%20/srv", body);
    assert_eq!(status, 201, "{answer}");
    assert_eq!(shown("said", "Cmd"), r#"["echo","said"]"#);
    let env: Vec<String> = serde_json::from_str(&shown("said", "Env")).expect("a list");
    for wanted in ["A=1", "B=3", "C=4"] {
        assert!(env.iter().any(|have| have == wanted), "{env:?}");
    }
    assert!(!env.iter().any(|have| have == "B=2"), "{env:?}");
    assert_eq!(shown("said", "Labels"), r#"{"kept":"yes","more":"yes"}"#);
    assert_eq!(shown("said", "User"), "\"7\"");
    assert_eq!(shown("said", "ExposedPorts"), r#"{"80/tcp":{}}"#);
    assert_eq!(shown("said", "WorkingDir"), "\"/srv\"");
    assert_eq!(shown("said", "Hostname"), "\"\"");
    assert_eq!(host.bulkhead(&["run", "--rm", "-u", "0", "-w", "/", "snap:said"]).ok().out(), "said\n");
    for (body, status) in [
        (r#"{"Cmd": {}}"#, 400),
        (r#"{"WorkingDir": "x"}"#, 400),
        (r#"{"NetworkDisabled": true}"#, 400),
        ("[]", 400),
        ("{", 400),
    ] {
        assert_eq!(commit("&tag=bad", body).0, status, "{body}");
    }
    host.bulkhead(&["rm", "box"]).ok();
}

/// Contexts that the request does not bring, and images that it names as caches.
#[test]
fn a_build_takes_its_context_and_its_cache_from_elsewhere() {
    let host = host!();
    if !have("git") {
        skip!("git");
    }
    host.busybox();
    let api = Api::start(&host);
    let tar = Tar::new()
        .file("Dockerfile", 0o644, "FROM busybox\nCOPY a /a\nRUN cat /proc/sys/kernel/random/uuid > /r\n")
        .file("sub/Other", 0o644, "FROM busybox\nCOPY a /other\n")
        .file("a", 0o644, "of the tar\n")
        .build();
    let packed = Compression::Gzip.apply(&tar);
    let files = Server::start(move |request| match request.target.as_str() {
        "/c.tar.gz" => Reply::ok(packed.clone()),
        "/text" => Reply::ok("FROM busybox\nENV X=1\nRUN cat /proc/sys/kernel/random/uuid > /r\n"),
        _ => Reply::status(404),
    });
    let work = host.dir().join("work");
    host.file("work/Dockerfile", "FROM busybox\nCOPY a /a\n");
    host.file("work/a", "of the repository\n");
    git(&work, &["init", "-q", "-b", "main"]);
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "one"]);
    let root = host.dir().join("repositories");
    fs::create_dir(&root).expect("mkdir");
    git(&host.dir(), &["clone", "-q", "--bare", "work", "repositories/r.git"]);
    let repositories = git_server(root);
    let cat = |image: &str, path: &str| {
        host.bulkhead(&["run", "--rm", "--network", "none", image, "cat", path]).ok().out()
    };
    let build = |query: &str| api.ask("POST", &format!("/build?{query}"), "");

    let (status, said) = build(&format!("remote=http://{}/c.tar.gz&t=made:tar", files.address));
    assert!(status == 200 && said.contains("Successfully tagged made:tar"), "{said}");
    assert!(said.contains(&format!("Fetched http://{}/c.tar.gz", files.address)), "{said}");
    assert_eq!(cat("made:tar", "/a"), "of the tar\n");
    let (_, said) =
        build(&format!("remote=http://{}/c.tar.gz&dockerfile=sub/Other&t=made:other", files.address));
    assert!(said.contains("Successfully tagged made:other"), "{said}");
    assert_eq!(cat("made:other", "/other"), "of the tar\n");
    let (_, said) = build(&format!("remote=http://{}/text&t=made:text", files.address));
    assert!(said.contains("Successfully tagged made:text"), "{said}");
    let (_, said) = build(&format!("remote=http://{}%23main&t=made:git", repositories.name("r.git")));
    assert!(said.contains("Successfully tagged made:git"), "{said}");
    assert_eq!(cat("made:git", "/a"), "of the repository\n");
    for (query, wanted) in [
        (format!("remote=http://{}/nowhere", files.address), "404"),
        (
            format!("remote=http://{}/c.tar.gz&dockerfile=x", files.address),
            "Cannot locate specified Dockerfile: x",
        ),
        (format!("remote=http://{}%23none", repositories.name("r.git")), "error fetching"),
    ] {
        let (status, said) = build(&query);
        assert!(status == 400 && said.contains(wanted), "{query}: {said}");
    }

    // What this machine remembers is gone, and the image still says what was done.
    let before = cat("made:text", "/r");
    host.bulkhead(&["builder", "prune", "-af"]).ok();
    let cached = format!("remote=http://{}/text&t=made:again&cachefrom=%5B%22made:text%22%5D", files.address);
    let (_, said) = build(&cached);
    assert!(said.contains("importing cache manifest from") && said.contains("Using cache"), "{said}");
    assert_eq!(cat("made:again", "/r"), before);
    host.bulkhead(&["builder", "prune", "-af"]).ok();
    let (_, said) = build(&format!("remote=http://{}/text&t=made:fresh", files.address));
    assert!(!said.contains("Using cache"), "{said}");
    assert_ne!(cat("made:fresh", "/r"), before);
    // One that cannot be had is told, and is no failure.
    let nowhere = files.name("nothing:1").replace(':', "%3A").replace('/', "%2F");
    let (status, said) =
        build(&format!("remote=http://{}/text&cachefrom=%5B%22{nowhere}%22%5D", files.address));
    assert!(status == 200 && said.contains("Successfully built"), "{said}");
}
