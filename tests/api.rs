//! Docker's Engine API: a real `serve`, the real docker command and compose, and clients that behave badly.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Host, Output, eventually, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A `serve` of the API, ended with the test.
struct Api {
    child: Child,
    socket: PathBuf,
}

impl Api {
    fn start(host: &Host) -> Self {
        let socket = host.dir().join("docker.sock");
        let address = format!("unix://{}", socket.display());
        let (child, line) = common::serve::spawn(host, &["serve", "--host", &address]);
        assert_eq!(line, format!("serving the API on {address}\n"));
        Self { child, socket }
    }

    /// A command that talks to this server.
    fn client<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command.env("DOCKER_CONFIG", self.socket.with_file_name("config")).env("DOCKER_BUILDKIT", "0");
        command
    }

    #[track_caller]
    fn docker(&self, args: &[&str]) -> Output {
        run(self.client("docker", args), b"")
    }

    /// One request as it is written; everything that comes back.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).expect("write");
        let mut answer = Vec::new();
        // A server that breaks off has said what it had to say.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
        stream
    }

    /// One request; the status and the body.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let answer = self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        );
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect(&answer);
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// Descriptors and threads of the server.
    fn held(&self) -> (usize, usize) {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{}/{what}", self.child.id())).map_or(0, |dir| dir.flatten().count())
        };
        (count("fd"), count("task"))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
        assert!(std::thread::panicking() || !self.socket.exists(), "the socket's file goes with the server");
    }
}

fn have(program: &str) -> bool {
    Command::new(program).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

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
        ("POST", "/containers/create?name=-", "{\"Image\": \"busybox\", \"Cmd\": [\"x\"]}", 400),
        ("GET", "/containers/json?filters=%7B", "", 400),
        ("GET", "/containers/json?filters=%7B%22foo%22%3A%5B%22x%22%5D%7D", "", 400),
        ("GET", "/events?filters=%7B%22foo%22%3A%5B%22x%22%5D%7D", "", 400),
        ("POST", "/networks/create", "{\"Name\": \"x\", \"IPAM\": {\"Driver\": \"dhcp\"}}", 400),
        ("POST", "/volumes/create", "{\"Name\": \"vol\", \"Driver\": \"nfs\"}", 400),
        ("POST", "/build?remote=http://x/", "", 400),
        ("POST", "/build?version=2", "", 400),
        ("GET", "/services", "", 503),
    ] {
        let (got, text) = api.ask(method, path, body);
        assert_eq!(got, status, "{method} {path} {body}: {text}");
        assert!(text.contains("\"message\""), "{method} {path}: {text}");
    }
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
    assert_eq!(api.ask("GET", "/containers/json?all=1", ""), (200, "[]\n".to_owned()));
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

#[test]
fn one_server_for_one_socket() {
    let host = host!();
    let mut api = Api::start(&host);
    let address = format!("unix://{}", api.socket.display());
    host.bulkhead(&["serve", "--host", &address]).code(1).complains("another server is listening on");
    host.bulkhead(&["serve", "-H", "tcp://0.0.0.0:0"]).code(125).complains("not on the loopback interface");
    // A crash leaves the socket, which the next replaces.
    api.child.kill().expect("kill");
    api.child.wait().expect("wait");
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
    compose(&["up", "-d", "--force-recreate", "-t", "1"]).ok();
    compose(&["stop", "-t", "1"]).ok();
    compose(&["start"]).ok();
    compose(&["down", "-v", "-t", "1"]).ok();
    assert_eq!(host.bulkhead(&["ps", "-aq"]).ok().out(), "");
    assert_eq!(host.bulkhead(&["volume", "ls", "-q"]).ok().out(), "");
    assert_eq!(host.bulkhead(&["network", "ls", "--filter", "type=custom", "-q"]).ok().out(), "");
}
