//! What watching costs: the same work with nothing attached, under `serve`, under `trace`, in turns.
//!
//! The work runs in a cgroup of its own below the watched one, as a container's would, and in network
//! namespaces of its own. Each round starts a tracer, lets it settle, does every piece of work once under it and
//! ends it; the times are the work's own, taken inside it. The second half has no turns to take: what the
//! tracer itself uses at a given rate, and from which rate on it loses something.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{Figures, table};
use crate::peers::{self, Dir};

/// Work, how many times it does its smallest piece, and what the table calls it.
const WORK: [(&str, u64, &str); 5] = [
    ("exec", 1_500, "fork, exec and exit of `true`, 1,500 times"),
    ("rr-lo", 30_000, "TCP request and response of one byte, loopback, 30,000 times"),
    ("bulk-lo", 2_048, "TCP, 2 GiB in one direction, loopback"),
    ("rr-veth", 30_000, "TCP request and response of one byte, veth, 30,000 times"),
    ("bulk-veth", 2_048, "TCP, 2 GiB in one direction, veth"),
];

/// `ebpf [ROUNDS]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let rounds: usize = match args {
        ["work", name, count] => return work(name, count.parse().map_err(|_| "count".to_owned())?),
        [] => 11,
        [n, ..] => n.parse().map_err(|_| format!("rounds: {n:?} is not a number"))?,
    };
    let world = World::new()?;
    println!("{}", peers::conditions(world.dir.path()));
    overhead(&world, rounds)?;
    rates(&world)?;
    bursts(&world)
}

// ---- under whom ---------------------------------------------------------------------------------------

/// A watched cgroup with one child.
struct World {
    dir: Dir,
    run: Dir,
    parent: PathBuf,
    child: PathBuf,
}

impl World {
    fn new() -> Result<Self, String> {
        let mounts =
            fs::read_to_string("/proc/self/mounts").map_err(|e| format!("/proc/self/mounts: {e}"))?;
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&"cgroup2"))
            .and_then(|fields| fields.get(1).map(PathBuf::from))
            .ok_or("no cgroup2 is mounted")?;
        let parent = root.join(format!("bulkhead-bench-{}", std::process::id()));
        let child = parent.join("work");
        fs::create_dir_all(&child).map_err(|e| format!("mkdir {}: {e}", child.display()))?;
        Ok(Self { dir: Dir::new("ebpf")?, run: Dir::short("ebpf")?, parent, child })
    }

    /// Does some work in the cgroup; its own measure of the time.
    fn work(&self, name: &str, count: u64) -> Result<Duration, String> {
        let exe = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
        let mut command = Command::new(exe);
        command.args(["ebpf", "work", name, &count.to_string()]);
        let out = self.inside(&mut command)?;
        out.trim().parse().map(Duration::from_nanos).map_err(|_| format!("{name}: {out:?} is no time"))
    }

    /// Runs a command in the cgroup; its standard output.
    fn inside(&self, command: &mut Command) -> Result<String, String> {
        let mut procs = OpenOptions::new()
            .write(true)
            .open(self.child.join("cgroup.procs"))
            .map_err(|e| format!("cgroup.procs: {e}"))?;
        // SAFETY: one write to a descriptor opened before.
        unsafe {
            command.pre_exec(move || procs.write_all(b"0"));
        }
        let output = command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| format!("{}: {e}", command.get_program().display()))?;
        if !output.status.success() {
            return Err(format!("{}: {}", command.get_program().display(), output.status));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for dir in [&self.child, &self.parent] {
            for _ in 0..100 {
                if fs::remove_dir(dir).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Who watches.
#[derive(Clone, Copy, PartialEq)]
enum Watch {
    Nobody,
    Serve,
    /// Somebody asks for figures, and with that for waiting times.
    Scraped,
    Trace,
    Execsnoop,
    Tcpconnect,
}

impl Watch {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nothing attached",
            Self::Serve => "bulkhead serve",
            Self::Scraped => "bulkhead serve, scraped",
            Self::Trace => "bulkhead trace --json",
            Self::Execsnoop => "bpftrace execsnoop.bt",
            Self::Tcpconnect => "bpftrace tcpconnect.bt",
        }
    }
}

/// A tracer that runs.
struct Watcher {
    child: Option<Child>,
    /// What `trace` says at its end.
    errors: Option<BufReader<std::process::ChildStderr>>,
    metrics: Option<SocketAddr>,
}

impl Watcher {
    #[allow(clippy::zombie_processes, reason = "end and Drop wait for it")]
    fn start(world: &World, watch: Watch) -> Result<Self, String> {
        let mut watcher = Self { child: None, errors: None, metrics: None };
        let mut command = match watch {
            Watch::Nobody => return Ok(watcher),
            Watch::Execsnoop => bpftrace("execsnoop.bt")?,
            Watch::Tcpconnect => bpftrace("tcpconnect.bt")?,
            Watch::Serve | Watch::Scraped | Watch::Trace => {
                let words = peers::bulkhead_words(world.dir.path(), world.run.path())?;
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                match watch {
                    Watch::Trace => command.args(["trace", "--json"]).stdout(Stdio::null()),
                    _ => command.args(["serve", "--metrics", "127.0.0.1:0"]).stdout(Stdio::piped()),
                };
                command
            }
        };
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", watch.name()))?;
        let mut errors = BufReader::new(child.stderr.take().ok_or("no stderr")?);
        let stdout = child.stdout.take();
        watcher.child = Some(child);
        match (watch, stdout) {
            (Watch::Trace, _) => {
                expect(&mut errors, "tracing")?;
                watcher.errors = Some(errors);
            }
            (Watch::Serve | Watch::Scraped, Some(stdout)) => {
                let line = expect(&mut BufReader::new(stdout), "serving metrics on")?;
                let address = line.split("//").nth(1).and_then(|rest| rest.split('/').next());
                watcher.metrics = address.and_then(|a| a.parse().ok());
                if watch == Watch::Scraped {
                    watcher.lost()?;
                }
            }
            (_, Some(stdout)) => {
                // Until it has said more than what it is about to do, or why it cannot do it.
                let mut stdout = BufReader::new(stdout);
                let mut line = String::new();
                while line.is_empty() || line.starts_with("Attaching") {
                    line.clear();
                    if stdout.read_line(&mut line).unwrap_or(0) == 0 {
                        let mut why = String::new();
                        let _ = errors.read_to_string(&mut why);
                        let why = why.lines().rfind(|l| l.contains("ERROR")).unwrap_or("it ended");
                        return Err(why.trim().to_owned());
                    }
                }
                std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
            }
            _ => return Err("no stdout".to_owned()),
        }
        // What starting it has left to do is not the work's.
        std::thread::sleep(Duration::from_millis(300));
        Ok(watcher)
    }

    /// Nanoseconds of processor time so far, all threads.
    fn used(&self) -> u64 {
        let Some(child) = &self.child else { return 0 };
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
        tasks
            .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// What the figures say is lost.
    fn lost(&self) -> Result<u64, String> {
        let address = self.metrics.ok_or("no metrics")?;
        let mut stream = TcpStream::connect(address).map_err(|e| format!("connect {address}: {e}"))?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .map_err(|e| format!("write: {e}"))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|e| format!("read: {e}"))?;
        let lines = text.lines().filter(|l| l.starts_with("bulkhead_events_lost_total"));
        Ok(lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64)
    }

    /// Ends a `trace`: events shown, and lost.
    fn end(mut self) -> Result<(u64, u64), String> {
        let mut child = self.child.take().ok_or("nobody")?;
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        let mut said = String::new();
        if let Some(errors) = &mut self.errors {
            errors.read_to_string(&mut said).map_err(|e| format!("read: {e}"))?;
        }
        child.wait().map_err(|e| format!("wait: {e}"))?;
        let last = said.lines().last().unwrap_or_default();
        let (events, lost) = last.split_once(" events, lost: ").ok_or_else(|| said.clone())?;
        Ok((events.parse().map_err(|_| said.clone())?, lost.parse().map_err(|_| said.clone())?))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}

fn expect(from: &mut impl std::io::BufRead, start: &str) -> Result<String, String> {
    let mut said = String::new();
    for line in from.lines() {
        let line = line.map_err(|e| format!("read: {e}"))?;
        if line.starts_with(start) {
            return Ok(line);
        }
        said.push_str(&line);
    }
    Err(if said.is_empty() { "it ended".to_owned() } else { said })
}

/// A bpftrace tool. It wants tracefs, which a mount namespace of its own has.
fn bpftrace(tool: &str) -> Result<Command, String> {
    let program = peers::find("bpftrace").ok_or("not installed")?;
    let script = peers::find(tool).ok_or_else(|| format!("{tool} is not installed"))?;
    let mut command = Command::new("unshare");
    let setup = "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; \
                 mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; exec \"$@\"";
    command.args(["-m", "sh", "-c", setup, "sh"]).arg(program).args(["-B", "line"]).arg(script);
    command.stdout(Stdio::piped());
    Ok(command)
}

// ---- on and off ---------------------------------------------------------------------------------------

fn overhead(world: &World, rounds: usize) -> Result<(), String> {
    let all =
        [Watch::Nobody, Watch::Serve, Watch::Scraped, Watch::Trace, Watch::Execsnoop, Watch::Tcpconnect];
    let mut figures: Vec<Vec<Figures>> = WORK
        .iter()
        .map(|_| {
            let new = |watch: &Watch| Figures { name: watch.name().into(), rounds: Vec::new(), failed: None };
            all.iter().map(new).collect()
        })
        .collect();
    for round in 0..=rounds {
        for (at, watch) in all.iter().enumerate() {
            if figures[0][at].failed.is_some() {
                continue;
            }
            let watcher = match Watcher::start(world, *watch) {
                Ok(watcher) => watcher,
                Err(why) => {
                    eprintln!("  {} is out: {why}", watch.name());
                    for work in &mut figures {
                        work[at].failed = Some(why.clone());
                    }
                    continue;
                }
            };
            for ((name, count, _), figure) in WORK.iter().zip(&mut figures) {
                let took = world.work(name, *count)?;
                // The first round warms up.
                if round > 0 {
                    figure[at].rounds.push(took);
                }
            }
            drop(watcher);
        }
        eprint!("\r  round {round} of {rounds}");
    }
    eprintln!();
    for ((_, _, title), figures) in WORK.iter().zip(&figures) {
        print!("{}", table(title, figures));
    }
    Ok(())
}

// ---- what the tracer uses -----------------------------------------------------------------------------

fn rates(world: &World) -> Result<(), String> {
    let mut text = String::from(
        "\n### What the tracer uses, and what it loses\n\n\
         Events are connections that fail at once, made by one thread; five seconds each.\n\n\
         | | events a second | of one CPU, user and kernel | lost |\n|---|---|---|---|\n",
    );
    for watch in [Watch::Serve, Watch::Trace] {
        for rate in [0, 1_000, 50_000, 100_000, 200_000, 400_000] {
            let watcher = Watcher::start(world, watch)?;
            let (before, begin) = (watcher.used(), Instant::now());
            let made = if rate == 0 {
                std::thread::sleep(Duration::from_secs(5));
                0
            } else {
                world.work("rate", rate)?.as_nanos() as u64
            };
            let took = begin.elapsed();
            // The rest is still to be read, and is its work too.
            std::thread::sleep(Duration::from_millis(500));
            let share = (watcher.used() - before) as f64 / took.as_nanos() as f64 * 100.0;
            let lost = match watch {
                Watch::Trace => watcher.end()?.1,
                _ => watcher.lost()?,
            };
            let per_second = made as f64 / took.as_secs_f64();
            let _ = writeln!(text, "| {} | {per_second:.0} | {share:.2} % | {lost} |", watch.name());
        }
    }
    print!("{text}");
    Ok(())
}

fn bursts(world: &World) -> Result<(), String> {
    println!("\n### Bursts\n");
    let Some(cc) = peers::find("cc") else {
        println!("left out: no C compiler");
        return Ok(());
    };
    let program = world.dir.path().join("burst");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/common/burst.c");
    let status = Command::new(cc).args(["-O2", "-static", "-o"]).arg(&program).arg(&source).status();
    if !status.is_ok_and(|status| status.success()) {
        return Err("compiling the burst failed".to_owned());
    }
    println!("| | made | shown | lost | |\n|---|---|---|---|---|");
    // Of n executions: one more for the first, and its exit. A connection is made, accepted and closed twice.
    for (what, count, events) in [("exec", 100_000u64, 100_002), ("connect", 50_000, 4 * 50_000 + 3)] {
        let watcher = Watcher::start(world, Watch::Trace)?;
        let begin = Instant::now();
        let mut command = Command::new(&program);
        command.args([what, &count.to_string()]);
        world.inside(&mut command)?;
        let took = begin.elapsed();
        let (shown, lost) = watcher.end()?;
        let verdict = if shown + lost == events { "adds up" } else { "DOES NOT ADD UP" };
        println!(
            "| {count} times {what} in {:.1} s | {events} | {shown} | {lost} | {verdict} |",
            took.as_secs_f64()
        );
    }
    Ok(())
}

// ---- the work -----------------------------------------------------------------------------------------

/// Does it and prints nanoseconds; `rate` prints how many events it made instead.
fn work(name: &str, count: u64) -> Result<(), String> {
    let result = match name {
        "exec" => execs(count),
        "rr-lo" => on_loopback(|to, from| request_response(to, from, count)),
        "bulk-lo" => on_loopback(|to, from| bulk(to, from, count)),
        "rr-veth" => on_veth(|to, from| request_response(to, from, count)),
        "bulk-veth" => on_veth(|to, from| bulk(to, from, count)),
        "rate" => failures(count),
        _ => return Err(format!("no work {name:?}")),
    };
    println!("{}", result?.as_nanos());
    Ok(())
}

fn execs(count: u64) -> Result<Duration, String> {
    let busybox = peers::find("busybox").ok_or("busybox is not installed")?;
    let begin = Instant::now();
    for _ in 0..count {
        let status = Command::new(&busybox).arg("true").status().map_err(|e| format!("true: {e}"))?;
        if !status.success() {
            return Err(format!("true: {status}"));
        }
    }
    Ok(begin.elapsed())
}

fn own_network() -> Result<(), String> {
    // SAFETY: a flag; the thread has a network namespace of its own from then on.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("unshare: {}", std::io::Error::last_os_error()));
    }
    Ok(())
}

fn ip(line: &str) -> Result<(), String> {
    let status = Command::new("ip").args(line.split(' ')).status().map_err(|e| format!("ip: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("ip {line}: {status}")) }
}

type Talk<'a> = &'a (dyn Fn(TcpStream, TcpStream) -> Result<Duration, String> + Sync);

fn on_loopback(
    talk: impl Fn(TcpStream, TcpStream) -> Result<Duration, String> + Sync,
) -> Result<Duration, String> {
    own_network()?;
    ip("link set lo up")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| format!("bind: {e}"))?;
    let to = listener.local_addr().map_err(|e| format!("getsockname: {e}"))?;
    let client = TcpStream::connect(to).map_err(|e| format!("connect: {e}"))?;
    let (server, _) = listener.accept().map_err(|e| format!("accept: {e}"))?;
    talk(client, server)
}

/// The other end of the veth is in the namespace of another thread, which makes the listening socket there.
fn on_veth(
    talk: impl Fn(TcpStream, TcpStream) -> Result<Duration, String> + Sync,
) -> Result<Duration, String> {
    let talk: Talk<'_> = &talk;
    own_network()?;
    let (tell, told) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let far = std::thread::spawn(move || -> Result<TcpListener, String> {
        own_network()?;
        // SAFETY: takes nothing, gives a number.
        tell.send(unsafe { libc::gettid() }).map_err(|e| e.to_string())?;
        gone.recv().map_err(|e| e.to_string())?;
        ip("addr add 10.0.0.2/24 dev far")?;
        ip("link set far up")?;
        TcpListener::bind(("10.0.0.2", 7000)).map_err(|e| format!("bind: {e}"))
    });
    let tid = told.recv().map_err(|e| e.to_string())?;
    ip(&format!("link add near type veth peer name far netns {tid}"))?;
    ip("addr add 10.0.0.1/24 dev near")?;
    ip("link set near up")?;
    go.send(()).map_err(|e| e.to_string())?;
    let listener = far.join().map_err(|_| "the far end panicked".to_owned())??;
    let client = TcpStream::connect(("10.0.0.2", 7000)).map_err(|e| format!("connect: {e}"))?;
    let (server, _) = listener.accept().map_err(|e| format!("accept: {e}"))?;
    talk(client, server)
}

fn request_response(mut client: TcpStream, mut server: TcpStream, count: u64) -> Result<Duration, String> {
    for stream in [&client, &server] {
        stream.set_nodelay(true).map_err(|e| format!("TCP_NODELAY: {e}"))?;
    }
    let answers = std::thread::spawn(move || {
        let mut byte = [0];
        while server.read(&mut byte).is_ok_and(|n| n == 1) && server.write_all(&byte).is_ok() {}
    });
    let mut byte = [7];
    let begin = Instant::now();
    for _ in 0..count {
        client
            .write_all(&byte)
            .and_then(|()| client.read_exact(&mut byte))
            .map_err(|e| format!("tcp: {e}"))?;
    }
    let took = begin.elapsed();
    drop(client);
    let _ = answers.join();
    Ok(took)
}

fn bulk(mut client: TcpStream, mut server: TcpStream, mib: u64) -> Result<Duration, String> {
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        let mut all = 0;
        loop {
            match server.read(&mut buffer) {
                Ok(0) | Err(_) => return all,
                Ok(n) => all += n as u64,
            }
        }
    });
    let buffer = vec![1; 256 << 10];
    let begin = Instant::now();
    for _ in 0..mib * 4 {
        client.write_all(&buffer).map_err(|e| format!("write: {e}"))?;
    }
    drop(client);
    let all = reader.join().map_err(|_| "the reader panicked".to_owned())?;
    let took = begin.elapsed();
    if all == mib << 20 { Ok(took) } else { Err(format!("{all} bytes arrived")) }
}

/// Connections without a route, at a rate, for five seconds: nothing else of the kernel is as cheap and an event.
fn failures(rate: u64) -> Result<Duration, String> {
    own_network()?;
    let end = Duration::from_secs(5);
    let begin = Instant::now();
    let mut made = 0u64;
    // SAFETY: a socket of our own, an address that lives through the call.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as u16;
        address.sin_port = 80u16.to_be();
        address.sin_addr.s_addr = u32::from(Ipv4Addr::new(192, 0, 2, 1)).to_be();
        loop {
            let now = begin.elapsed();
            if now >= end {
                break;
            }
            let due = (now.as_nanos() as u64).saturating_mul(rate) / 1_000_000_000;
            if made >= due {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            let until = due.min(made + 1000);
            while made < until {
                let length = size_of_val(&address) as libc::socklen_t;
                libc::connect(fd, (&raw const address).cast(), length);
                made += 1;
            }
        }
        libc::close(fd);
    }
    Ok(Duration::from_nanos(made))
}
