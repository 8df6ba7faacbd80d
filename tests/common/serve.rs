//! A `bulkhead serve`, and what is read from it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, Output, eventually, run};

/// A `serve` of a host whose words go to a file, ended with the test.
pub struct Logged {
    child: Child,
    log: PathBuf,
}

impl Logged {
    /// Starts it on a free port of the loopback interface, and waits until it says that it is there.
    pub fn start(host: &Host, args: &[&str]) -> Self {
        let log = host.dir().join("serve.log");
        let file = fs::File::create(&log).expect("log");
        let child = host
            .command(&[&["serve", "--metrics", "127.0.0.1:0"], args].concat())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("dup"))
            .stderr(file)
            .spawn()
            .expect("serve");
        let serve = Self { child, log };
        eventually("serve is there", || serve.log().contains("/metrics\n"));
        serve
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("log")
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("wait");
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Starts a `serve` and waits for its first line, which it prints when it can be talked to.
pub fn spawn(host: &Host, args: &[&str]) -> (Child, String) {
    let mut child = host
        .command(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("serve");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    (child, line)
}

/// A `serve` of a host, ended with the test.
pub struct Serve {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Serve {
    /// Starts it on a free port of the loopback interface.
    pub fn start(host: &Host, args: &[&str]) -> Self {
        let all: Vec<&str> = ["serve", "--metrics", "127.0.0.1:0"].iter().chain(args).copied().collect();
        let (child, line) = spawn(host, &all);
        let address =
            line.rsplit_once("://").and_then(|(_, rest)| rest.split_once('/')).expect(&line).0.to_owned();
        Self { child, address }
    }

    /// Its process.
    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().cast_signed())
    }

    /// Whether this kernel gives it a source of events.
    pub fn traces(&self, hook: &str) -> bool {
        let hook = format!("hook=\"{hook}\"");
        value(&self.metrics(""), "bulkhead_trace_hook_attached", &[&hook]) == Some(1.0)
    }

    /// One request; status, headers, body.
    pub fn get(&self, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
            .expect("write");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("read");
        let at = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(answer[..at].to_vec()).expect("text");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
        (status, head.to_lowercase(), answer[at + 4..].to_vec())
    }

    /// The body of an answer that must be one.
    pub fn metrics(&self, headers: &str) -> String {
        let (status, _, body) = self.get("/metrics", headers);
        let body = String::from_utf8(body).expect("text");
        assert_eq!(status, 200, "{body}");
        body
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A `serve` of the API, ended with the test.
pub struct Api {
    child: Child,
    /// Where it listens.
    pub socket: PathBuf,
}

impl Api {
    /// Starts it and waits until it answers.
    pub fn start(host: &Host) -> Self {
        Self::at(host, "docker.sock")
    }

    /// The same at a socket of another name.
    pub fn at(host: &Host, name: &str) -> Self {
        let socket = host.dir().join(name);
        let address = format!("unix://{}", socket.display());
        let (child, line) = spawn(host, &["serve", "--host", &address]);
        assert_eq!(line, format!("serving the API on {address}\n"));
        Self { child, socket }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("wait");
    }

    /// A command that talks to this server.
    pub fn client<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command.env("DOCKER_CONFIG", self.socket.with_file_name("config")).env("DOCKER_BUILDKIT", "0");
        command
    }

    /// The docker command, to its end.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> Output {
        run(self.client("docker", args), b"")
    }

    /// One request as it is written; everything that comes back.
    pub fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).expect("write");
        let mut answer = Vec::new();
        // A server that breaks off has said what it had to say.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A connection that has not said anything.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
        stream
    }

    /// One request; the status and the body.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.ask_with(method, path, "", body)
    }

    /// The same with more in its head: whole lines.
    pub fn ask_with(&self, method: &str, path: &str, head: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let answer = self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n{head}\r\n{body}"
            )
            .as_bytes(),
        );
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect(&answer);
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Descriptors and threads of the server.
    pub fn held(&self) -> (usize, usize) {
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

/// The value of the sample whose line begins with the family and has all of `parts`.
pub fn value(text: &str, family: &str, parts: &[&str]) -> Option<f64> {
    text.lines()
        .find(|line| {
            line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && parts.iter().all(|part| line.contains(part))
        })
        .and_then(|line| line.rsplit_once(' '))
        .and_then(|(_, value)| value.parse().ok())
}
