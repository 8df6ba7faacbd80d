//! What a network costs: a start, a hundred at once, a connection, a byte, one published port more.
//!
//! The benchmark makes a network namespace its machine, with another at the end of a wire as the client and a third
//! as a server without any engine, so that no rule of the host's is in the way and none is touched.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{Contender, interleave, median, table};
use crate::peers::{self, Dir, word};
use crate::start::{busybox, words};
use crate::worker::Worker;

/// Containers that start at once.
const MANY: usize = 100;
/// Connections that the kernel remembers while containers come and go.
const TRACKED: &str = "80000";
/// The machine, as the client sees it.
const HERE: &str = "192.0.2.1";

/// `network [ROUNDS]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let rounds = match args {
        [] => 21,
        [n, ..] => n.parse().map_err(|_| format!("rounds: {n:?} is not a number"))?,
    };
    let dir = Dir::new("network")?;
    let dir = dir.path();
    println!("{}", peers::conditions(dir));
    println!(
        "The machine is a network namespace; client and plain server are two more, each at the end of a veth pair."
    );
    // SAFETY: a constant flag; this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("unshare: {}", std::io::Error::last_os_error()));
    }
    sh("ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_forward")?;
    let client = Machine::new("wire0", HERE, "192.0.2.2")?;
    let plain = Machine::new("wire1", "192.0.3.1", "192.0.3.2")?;

    let image = dir.join("busybox.tar");
    busybox(&dir.join("rootfs"), &image)?;
    let run = Dir::short("run")?;
    let us = peers::bulkhead_words(&dir.join("bulkhead"), run.path())?;
    let mut engines = Vec::new();
    let mut here = Worker::new("", &[])?;
    here.run(&words(&us, &["import", &word(&image), "busybox"]))?;
    engines.push(Engine { name: "bulkhead", base: us, worker: here, setup: "" });
    let podman = peers::podman(&dir.join("podman")).and_then(|(mut worker, base)| {
        worker.run(&words(&base, &["import", "--quiet", &word(&image), "busybox"]))?;
        worker.run(&words(&base, &["run", "--rm", "busybox", "true"]))?;
        Ok(Engine { name: "podman", base, worker, setup: peers::HIDE_V2 })
    });
    match podman {
        Ok(podman) => engines.push(podman),
        Err(error) => println!("\npodman is left out: {error}"),
    }

    // The kernel remembers connections for a while, and what it remembers slows a start: starts come first.
    starts(&mut engines, rounds);
    at_once(&mut engines);
    paths(&mut engines, &client, &plain, rounds.min(9))?;
    ports(&mut engines, &client, rounds.min(9))?;
    tracked(&mut engines, rounds.min(9))
}

struct Engine {
    name: &'static str,
    base: Vec<String>,
    worker: Worker,
    setup: &'static str,
}

impl Engine {
    fn words(&self, more: &[&str]) -> Vec<String> {
        words(&self.base, more)
    }

    fn run(&mut self, more: &[&str]) -> Result<Duration, String> {
        let line = self.words(more);
        self.worker.run(&line)
    }

    /// Where its worker finds its configuration, if it has one.
    fn configuration(&self) -> Vec<(&'static str, PathBuf)> {
        let root = self.base.iter().position(|word| word == "--root").map(|at| Path::new(&self.base[at + 1]));
        root.map(|root| ("CONTAINERS_CONF", root.with_file_name("containers.conf"))).into_iter().collect()
    }

    /// A command of its, to run beside the worker.
    fn command(&self, more: &[&str]) -> Command {
        let line = self.words(more);
        let mut command = if self.setup.is_empty() {
            Command::new(&line[0])
        } else {
            let script = format!("{}\nexec \"$@\"", self.setup);
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-ec", &script, "sh", &line[0]]);
            command
        };
        command.args(&line[1..]).envs(self.configuration()).stdin(Stdio::null());
        command
    }

    /// What a command of its prints.
    fn ask(&self, more: &[&str]) -> Result<String, String> {
        let output = self.command(more).output().map_err(|e| format!("{}: {e}", self.name))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Another network namespace, at the end of a wire.
struct Machine(Child);

impl Machine {
    fn new(near: &str, here: &str, there: &str) -> Result<Self, String> {
        let child = Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up; echo; exec sleep 1000000"])
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|e| format!("unshare: {e}"))?;
        let mut ready = [0];
        if let Some(out) = &mut child.stdout {
            out.read_exact(&mut ready).map_err(|e| format!("unshare: {e}"))?;
        }
        let machine = Self(child);
        let pid = machine.0.id();
        sh(&format!(
            "ip link add {near} type veth peer name eth0 netns /proc/{pid}/ns/net
             ip addr add {here}/24 dev {near}; ip link set {near} up
             nsenter -n -t {pid} sh -ec 'ip addr add {there}/24 dev eth0; ip link set eth0 up; ip route add default via {here}'"
        ))?;
        Ok(machine)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sh(script: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-ec", script]).output().map_err(|e| format!("sh: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn starts(engines: &mut [Engine], rounds: usize) {
    let kinds: [(&str, &[&str]); 3] =
        [("no network", &["--network", "none"]), ("bridge", &[]), ("bridge, -p", &["-p", "8080:80"])];
    for alone in [false, true] {
        for engine in engines.iter_mut() {
            if !alone
                && let Err(error) =
                    engine.run(&["run", "-d", "--name", "bystander", "busybox", "sleep", "100000"])
            {
                println!("\n{}: {error}", engine.name);
            }
        }
        let mut contenders: Vec<Contender<'_>> = Vec::new();
        for engine in engines.iter_mut() {
            let lines = kinds.map(|(kind, flags)| {
                (
                    format!("{}, {kind}", engine.name),
                    engine.words(&[&["run", "--rm"], flags, &["busybox", "true"]].concat()),
                )
            });
            let worker = std::rc::Rc::new(std::cell::RefCell::new(&mut engine.worker));
            for (name, line) in lines {
                let worker = worker.clone();
                contenders.push(Contender { name, once: Box::new(move |_| worker.borrow_mut().run(&line)) });
            }
        }
        let figures = interleave(&mut contenders, 3, rounds);
        drop(contenders);
        let title = if alone {
            "`run --rm true`, each the first on the bridge"
        } else {
            "`run --rm true`, another container is on the bridge"
        };
        print!("{}", table(title, &figures));
        for engine in engines.iter_mut() {
            let _ = engine.run(&["rm", "-f", "bystander"]);
        }
    }
}

/// A hundred at once, each with a published port behind which something answers.
fn at_once(engines: &mut [Engine]) {
    println!("\n### {MANY} containers started at once on one bridge, each with a published port\n");
    println!(
        "| tool | until all run | failed starts | addresses | ports that answer |\n|---|---|---|---|---|"
    );
    for engine in engines.iter_mut() {
        let names: Vec<String> = (0..MANY).map(|n| format!("crowd{n}")).collect();
        let began = Instant::now();
        let children: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let port = format!("{}:80", 20_000 + n);
                let answer = ["busybox", "nc", "-ll", "-p", "80", "-e", "echo", "ok"];
                let mut command = engine
                    .command(&[&["run", "-d", "--name", name, "-p", &port, "busybox"][..], &answer].concat());
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
            })
            .collect();
        let ended: Vec<bool> = children
            .into_iter()
            .map(|child| child.and_then(|mut c| c.wait()).is_ok_and(|s| s.success()))
            .collect();
        let took = began.elapsed();
        let failed = ended.iter().filter(|fine| !**fine).count();
        let format = "{{.NetworkSettings.IPAddress}}";
        let inspect: Vec<&str> =
            ["inspect", "--format", format].into_iter().chain(names.iter().map(String::as_str)).collect();
        let told = engine.ask(&inspect).unwrap_or_default();
        let addresses: std::collections::BTreeSet<&str> = told.split_whitespace().collect();
        let answers = (0..MANY).filter(|n| answers(20_000 + *n as u16)).count();
        println!(
            "| {} | {:.2} s | {failed} | {} | {answers} |",
            engine.name,
            took.as_secs_f64(),
            addresses.len()
        );
        let rm: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let _ = engine.run(&rm);
    }
}

fn answers(port: u16) -> bool {
    let Ok(to) = format!("{HERE}:{port}").parse::<SocketAddr>() else { return false };
    // What has just been started may not listen yet.
    (0..20).any(|_| {
        let mut text = String::new();
        let got = TcpStream::connect_timeout(&to, Duration::from_secs(1)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.read_to_string(&mut text)
        });
        let fine = got.is_ok() && text == "ok\n";
        if !fine {
            std::thread::sleep(Duration::from_millis(100));
        }
        fine
    })
}

/// Something that ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exe() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))
}

/// The servers in a namespace: ours, and iperf3's where it is installed.
fn serve(pid: &str) -> Result<Vec<Server>, String> {
    let enter = |program: &Path, args: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["-n", "-t", pid]).arg(program).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Server).map_err(|e| format!("nsenter: {e}"))
    };
    let mut servers = vec![enter(&exe()?, &["sink", "5000"])?];
    if let Some(iperf) = peers::find("iperf3") {
        servers.push(enter(&iperf, &["-s", "-p", "5001"])?);
    }
    std::thread::sleep(Duration::from_millis(300));
    Ok(servers)
}

/// What the client gets done per second.
fn rate(client: &Machine, what: &str, to: &str, time: &str) -> Result<f64, String> {
    let pid = client.0.id().to_string();
    let output = Command::new("nsenter").args(["-n", "-t", &pid]).arg(exe()?).args([what, to, time]).output();
    let output = output.map_err(|e| format!("nsenter: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let why = || format!("{what} {to}: {}", String::from_utf8_lossy(&output.stderr).trim());
    said.trim().parse().map_err(|_| why())
}

/// iperf3's throughput, bytes per second.
fn iperf(client: &Machine, to: &str, port: &str) -> Result<f64, String> {
    let pid = client.0.id();
    let said = sh(&format!("nsenter -n -t {pid} iperf3 -c {to} -p {port} -t 2 -J"))?;
    let received =
        said.split("\"sum_received\"").nth(1).and_then(|rest| rest.split("\"bits_per_second\":").nth(1));
    let number = received.and_then(|rest| rest.trim().split([',', '\n', '}']).next());
    number.and_then(|text| text.trim().parse::<f64>().ok()).map(|bits| bits / 8.0).ok_or(said)
}

/// The paths to compare: the first is the plain one.
fn paths(engines: &mut [Engine], client: &Machine, plain: &Machine, rounds: usize) -> Result<(), String> {
    let mut servers = serve(&plain.0.id().to_string())?;
    let mut paths =
        vec![("routed over plain veth, no engine".to_owned(), "192.0.3.2".to_owned(), 5000, 5001)];
    for (n, engine) in engines.iter_mut().enumerate() {
        let at = 30_000 + 10 * n as u16;
        let ports = [format!("{at}:5000"), format!("{}:5001", at + 1)];
        engine.run(&[
            "run", "-d", "--name", "server", "-p", &ports[0], "-p", &ports[1], "busybox", "sleep", "100000",
        ])?;
        servers.extend(serve(&engine.ask(&["inspect", "--format", "{{.State.Pid}}", "server"])?)?);
        paths.push((format!("published port, {}", engine.name), HERE.to_owned(), at, at + 1));
    }
    let iperf_too = peers::find("iperf3").is_some();
    let mut figures = vec![(Vec::new(), Vec::new(), Vec::new()); paths.len()];
    for round in 0..rounds {
        for (figure, (_, ip, port, other)) in figures.iter_mut().zip(&paths) {
            figure.0.push(rate(client, "knock", &format!("{ip}:{port}"), "700")?);
            figure.1.push(rate(client, "pour", &format!("{ip}:{port}"), "1500")?);
            if iperf_too {
                figure.2.push(iperf(client, ip, &other.to_string())?);
            }
        }
        eprint!("\r  round {} of {rounds}", round + 1);
    }
    eprintln!();
    println!("\n### through a published port, medians of {rounds} rounds in turns\n");
    println!(
        "| path | connections a second | of plain | throughput | of plain | iperf3 | of plain |\n|---|---|---|---|---|---|---|"
    );
    let ratio = |mine: &[f64], plain: &[f64]| {
        let ratios: Vec<f64> = mine.iter().zip(plain).map(|(a, b)| a / b).collect();
        median(&ratios).map_or_else(|| "–".to_owned(), |r| format!("{:.1} %", r * 100.0))
    };
    let gbit =
        |bytes: &[f64]| median(bytes).map_or_else(|| "–".to_owned(), |b| format!("{:.2} Gbit/s", b * 8e-9));
    for (figure, (name, ..)) in figures.iter().zip(&paths) {
        println!(
            "| {name} | {:.0} | {} | {} | {} | {} | {} |",
            median(&figure.0).unwrap_or_default(),
            ratio(&figure.0, &figures[0].0),
            gbit(&figure.1),
            ratio(&figure.1, &figures[0].1),
            gbit(&figure.2),
            ratio(&figure.2, &figures[0].2),
        );
    }
    drop(servers);
    for engine in engines.iter_mut() {
        let _ = engine.run(&["rm", "-f", "server"]);
    }
    Ok(())
}

/// Does one more published port make the others slower?
fn ports(engines: &mut [Engine], client: &Machine, rounds: usize) -> Result<(), String> {
    println!("\n### connections a second to one port, with more and more published beside it\n");
    println!(
        "| tool | published | rules in the kernel | connections a second | of one |\n|---|---|---|---|---|"
    );
    for engine in engines.iter_mut() {
        engine.run(&["run", "-d", "--name", "server", "-p", "30000:5000", "busybox", "sleep", "100000"])?;
        let servers = serve(&engine.ask(&["inspect", "--format", "{{.State.Pid}}", "server"])?)?;
        let mut holders = Vec::new();
        let mut one = 0.0;
        // A peer with a rule for each is not asked for the last step: it takes minutes.
        let steps: &[usize] =
            if engine.name == "bulkhead" { &[1, 101, 1001, 10_001] } else { &[1, 101, 1001] };
        for &step in steps {
            while holders.len() * 100 + 1 < step {
                let first = 31_000 + holders.len() * 100;
                let range = format!("{first}-{}:{first}-{}", first + 99, first + 99);
                let name = format!("holder{}", holders.len());
                engine.run(&["run", "-d", "--name", &name, "-p", &range, "busybox", "sleep", "100000"])?;
                holders.push(name);
            }
            let rates: Vec<f64> = (0..rounds)
                .map(|_| rate(client, "knock", &format!("{HERE}:30000"), "500"))
                .collect::<Result<_, _>>()?;
            let rate = median(&rates).unwrap_or_default();
            if step == 1 {
                one = rate;
            }
            let rules = sh("nft -a list ruleset | grep -c '# handle' || true")?;
            println!(
                "| {} | {step} | {} | {rate:.0} | {:.1} % |",
                engine.name,
                rules.trim(),
                rate / one * 100.0
            );
        }
        drop(servers);
        let rm: Vec<&str> =
            ["rm", "-f", "server"].into_iter().chain(holders.iter().map(String::as_str)).collect();
        let _ = engine.run(&rm);
    }
    Ok(())
}

/// Starts while the kernel remembers many connections, four at a time.
fn tracked(engines: &mut [Engine], rounds: usize) -> Result<(), String> {
    println!(
        "\n### `run --rm true` on the bridge, four at a time, while {TRACKED} connections are tracked\n"
    );
    println!("| tool | connections | runs | median | slowest |\n|---|---|---|---|---|");
    for engine in engines.iter_mut() {
        for count in ["0", TRACKED] {
            sh("conntrack -F 2>/dev/null || true")?;
            // Something must track them.
            engine.run(&["run", "-d", "--name", "bystander", "busybox", "sleep", "100000"])?;
            sh(&format!("{} scatter 192.0.2.2 {count}", word(&exe()?)))?;
            engine.run(&["rm", "-f", "bystander"])?;
            let line = engine.words(&["run", "--rm", "busybox", "true"]);
            let (setup, env) = (engine.setup, engine.configuration());
            let mut times: Vec<Duration> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        let (line, env) = (&line, &env);
                        scope.spawn(move || {
                            let mut worker = Worker::new(setup, env)?;
                            (0..rounds).map(|_| worker.run(line)).collect::<Result<Vec<_>, String>>()
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
                    .collect::<Result<Vec<_>, String>>()
            })?
            .concat();
            times.sort();
            let ms = |time: Option<Duration>| time.map_or(0.0, |t| t.as_secs_f64() * 1e3);
            println!(
                "| {} | {count} | {} | {:.1} ms | {:.1} ms |",
                engine.name,
                times.len(),
                ms(median(&times)),
                ms(times.last().copied())
            );
        }
    }
    Ok(())
}
