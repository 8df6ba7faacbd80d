//! The programs in the running kernel: real processes in a cgroup of their own,
//! and every event they cause, compared with what they did.
//!
//! Each test makes a cgroup2 directory, watches it, and runs this very binary in
//! a child of it as a workload (see [`workload`]). Needs root; a test that cannot
//! run says what it needs.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bulkhead_ebpf::{Event, Exec, Exit, Hook, Kind, LoadError, Options, Tcp, Tracer, Transport};

const WORKLOAD: &str = "BULKHEAD_TEST_WORKLOAD";

/// A watched cgroup with one child, removed at the end.
struct Watched {
    parent: PathBuf,
    child: PathBuf,
    memory: Option<PathBuf>,
}

impl Watched {
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(root) = mount_of("cgroup2") else {
            println!("skipped: needs a cgroup2 mount");
            return None;
        };
        let name = format!("bulkhead-ebpf-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let parent = root.join(name);
        let child = parent.join("container");
        if let Err(error) = fs::create_dir_all(&child) {
            println!("skipped: needs a writable cgroup2 mount ({error})");
            return None;
        }
        Some(Self { parent, child, memory: None })
    }

    fn id(&self) -> u64 {
        fs::metadata(&self.child).unwrap().ino()
    }

    fn load(&self, change: impl FnOnce(&mut Options)) -> Option<Tracer> {
        let mut options = Options::new(&self.parent);
        // The run queue's hooks cost everyone; their own test turns them on.
        options.hooks.retain(|h| *h != Hook::RunQueue);
        change(&mut options);
        match Tracer::load(&options) {
            Ok((tracer, reports)) => {
                for report in reports {
                    if let Err(error) = report.outcome {
                        panic!("{}: {error}", report.hook.name());
                    }
                }
                // A tracepoint does not call a program at once everywhere: of 1,200 processes that slept right after
                // this, 4 had waited unseen, and none of 1,200 that began 100 ms later (kernel 6.18).
                std::thread::sleep(Duration::from_millis(100));
                Some(tracer)
            }
            Err(error @ (LoadError::Refused(_) | LoadError::NoBtf(_))) => {
                println!("skipped: needs eBPF ({error})");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A command that runs in the child cgroup, and in a fresh network namespace
    /// with its loopback up when asked.
    fn command(&self, program: impl AsRef<Path>, fresh_net: bool) -> Command {
        let mut command = Command::new(program.as_ref());
        command.stdin(Stdio::null());
        let mut procs: Vec<_> = [Some(&self.child), self.memory.as_ref()]
            .into_iter()
            .flatten()
            .map(|d| fs::OpenOptions::new().write(true).open(d.join("cgroup.procs")).unwrap())
            .collect();
        // SAFETY: the closure makes only system calls, on descriptors opened before.
        unsafe {
            command.pre_exec(move || {
                for file in &mut procs {
                    file.write_all(b"0")?;
                }
                if fresh_net {
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
                    loopback_up()?;
                }
                Ok(())
            });
        }
        command
    }

    fn workload(&self, name: &str) -> Command {
        let mut command = self.command(std::env::current_exe().unwrap(), true);
        command.args(["--exact", "workload", "--nocapture"]).env(WORKLOAD, name);
        command
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // What a failed assertion left running would hold the cgroup, and the pipe the test reports to.
        if std::thread::panicking() {
            let _ = fs::write(self.child.join("cgroup.kill"), "1");
        }
        for dir in [Some(&self.child), self.memory.as_ref(), Some(&self.parent)].into_iter().flatten() {
            // A cgroup is busy for a moment after its last process.
            for _ in 0..500 {
                match fs::remove_dir(dir) {
                    Ok(()) => break,
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        }
    }
}

fn mount_of(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .find(|f| f[2] == kind)
        .map(|f| PathBuf::from(f[1]))
}

fn loopback_up() -> std::io::Result<()> {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    let mut request =
        Request { name: [0; 16], flags: (libc::IFF_UP | libc::IFF_RUNNING) as i16, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: a plain socket, an ifreq of the size the kernel expects, and close.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 || libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) < 0 {
            return Err(std::io::Error::last_os_error());
        }
        libc::close(fd);
    }
    Ok(())
}

/// Everything the tracer has to say about what has already ended.
fn events(tracer: &mut Tracer) -> Vec<Event> {
    let mut all = Vec::new();
    while tracer.poll(Duration::from_millis(200), |e| all.push(e)).unwrap() > 0 {}
    tracer.flush(|e| all.push(e)).unwrap();
    assert_eq!(tracer.lost().unwrap().total(), 0, "{:?}", tracer.lost());
    all
}

/// Polls while a child runs, so that the ring does not fill up.
fn follow(tracer: &mut Tracer, child: &mut Child, mut sink: impl FnMut(Event)) {
    while child.try_wait().unwrap().is_none() {
        tracer.poll(Duration::from_millis(50), &mut sink).unwrap();
    }
    while tracer.poll(Duration::from_millis(200), &mut sink).unwrap() > 0 {}
}

fn execs(events: &[Event]) -> Vec<(&Event, &Exec)> {
    events.iter().filter_map(|e| if let Kind::Exec(x) = &e.kind { Some((e, x)) } else { None }).collect()
}

fn exits(events: &[Event]) -> Vec<(&Event, Exit)> {
    events.iter().filter_map(|e| if let Kind::Exit(x) = e.kind { Some((e, x)) } else { None }).collect()
}

#[test]
fn execs_are_whole() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|_| {}) else { return };

    // Not ours: must not appear.
    assert!(Command::new("/bin/true").status().unwrap().success());

    let long = "x".repeat(6000);
    let mut shell = watched.command("/bin/sh", false);
    let child = shell
        .arg("-c")
        .arg("/bin/true 'two words' '' \"$(printf '\\377\\033[2J')\"; /no/such/program a; /bin/true \"$1\"; exit 7")
        .args(["sh", &long])
        .current_dir("/usr/lib")
        // What it says would stand in the middle of the test runner's line.
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    let status = wait(child);
    assert_eq!(status.code(), Some(7));

    let events = events(&mut tracer);
    assert!(events.iter().all(|e| e.cgroup_id == watched.id() && e.leaf_cgroup_id == watched.id()));
    let execs = execs(&events);
    let (first, exec) = execs[0];
    let task = first.task.unwrap();
    assert_eq!((task.pid, task.ppid, task.uid, task.name()), (pid, std::process::id(), 0, &b"sh"[..]));
    assert_eq!((exec.filename.as_slice(), exec.cwd.as_slice()), (&b"/bin/sh"[..], &b"/usr/lib"[..]));
    assert_eq!(exec.args[0], b"/bin/sh");
    assert!(exec.args_cut, "6000 bytes are more than an event carries");
    assert_eq!(exec.parents[0].pid, std::process::id());
    for (kind, inum) in [
        ("mnt", task.ns.mnt),
        ("pid", task.ns.pid),
        ("net", task.ns.net),
        ("uts", task.ns.uts),
        ("ipc", task.ns.ipc),
        ("user", task.ns.user),
        ("cgroup", task.ns.cgroup),
        ("time", task.ns.time),
    ] {
        assert_eq!(u64::from(inum), fs::metadata(format!("/proc/self/ns/{kind}")).unwrap().ino(), "{kind}");
        assert_eq!(task.namespace(kind), Some(inum));
    }

    let trues: Vec<_> = execs.iter().filter(|(_, x)| x.filename == b"/bin/true").collect();
    assert_eq!(trues.len(), 2);
    assert_eq!(trues[0].1.args, [&b"/bin/true"[..], b"two words", b"", b"\xff\x1b[2J"]);
    assert!(!trues[0].1.args_cut);
    assert_eq!(trues[0].1.parents[0].pid, pid);
    assert_eq!(trues[0].1.parents[1].pid, std::process::id());
    assert!(trues[1].1.args_cut);
    assert!(long.as_bytes().starts_with(&trues[1].1.args[1]) && trues[1].1.args[1].len() > 4000);

    let failed: Vec<_> = events
        .iter()
        .filter_map(|e| if let Kind::ExecFailed(x, errno) = &e.kind { Some((x, *errno)) } else { None })
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].1, libc::ENOENT);
    assert_eq!(failed[0].0.filename, b"/no/such/program");
    assert_eq!(failed[0].0.args, [&b"/no/such/program"[..], b"a"]);
    assert_eq!(failed[0].0.cwd, b"/usr/lib");
    assert!(!failed[0].0.args_cut);

    let exits = exits(&events);
    assert_eq!(exits.len(), execs.len(), "each exec'd process ends once");
    let (_, last) = exits.iter().find(|(e, _)| e.task.unwrap().pid == pid).unwrap();
    assert_eq!((last.code, last.signal), (Some(7), None));
    assert!(last.duration > Duration::ZERO);

    let counters = tracer.counters(watched.id()).unwrap().unwrap();
    assert_eq!(counters.execs, execs.len() as u64);
    assert_eq!(counters.exec_failures, 1);
    assert_eq!(tracer.cgroups().unwrap(), [watched.id()]);
    tracer.forget(watched.id()).unwrap();
    assert_eq!(tracer.counters(watched.id()).unwrap(), None);
    tracer.forget(watched.id()).unwrap();
}

fn wait(mut child: Child) -> std::process::ExitStatus {
    child.wait().unwrap()
}

#[test]
fn a_signal_ends_a_process() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|o| o.hooks = vec![Hook::Exec, Hook::Exit]) else { return };
    let status = wait(watched.command("/bin/sh", false).args(["-c", "kill -TERM $$"]).spawn().unwrap());
    assert_eq!(status.signal(), Some(libc::SIGTERM));
    let events = events(&mut tracer);
    let exits = exits(&events);
    assert_eq!(exits.len(), 1);
    assert_eq!((exits[0].1.code, exits[0].1.signal), (None, Some(libc::SIGTERM as u8)));
}

/// A process that makes namespaces of its own stays its container's, and the
/// event says where it went.
#[test]
fn unshared_processes_stay_attributed() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|_| {}) else { return };
    // A nested cgroup too: the event names both.
    let nested = watched.child.join("nested");
    let script = format!(
        "mkdir {0} && echo $$ > {0}/cgroup.procs && unshare --net --uts --pid --fork \
         sh -c 'echo net $(stat -Lc %i /proc/self/ns/net); echo pid $$; /bin/true marker'; \
         echo $$ > {1}/cgroup.procs; rmdir {0}",
        nested.display(),
        watched.child.display()
    );
    let output = watched
        .command("/bin/sh", false)
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let net: u32 = text.lines().find_map(|l| l.strip_prefix("net ")).expect(&text).parse().unwrap();
    let events = events(&mut tracer);
    let execs = execs(&events);
    let (event, _) = execs.iter().find(|(_, x)| x.args.last().is_some_and(|a| a == b"marker")).unwrap();
    assert_eq!(event.cgroup_id, watched.id());
    assert_ne!(event.leaf_cgroup_id, watched.id());
    let task = event.task.unwrap();
    assert_eq!(task.ns.net, net);
    let shell = execs[0].0.task.unwrap();
    assert_ne!(task.ns.pid, shell.ns.pid);
    assert_ne!(task.ns.uts, shell.ns.uts);
    assert_eq!(task.ns.ipc, shell.ns.ipc);
    assert!(task.ns_pid < 100 && task.ns_pid != task.pid, "{task:?}");
}

#[test]
fn connections_are_whole() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|_| {}) else { return };
    let output = watched.workload("tcp").stdout(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let value = |name: &str| -> u64 {
        text.lines().find_map(|l| l.strip_prefix(name)).expect(&text).trim().parse().unwrap()
    };
    let events = events(&mut tracer);
    let tcp = |want: &str| -> Vec<(&Event, Tcp)> {
        events
            .iter()
            .filter(|e| e.kind.name() == want)
            .filter_map(|e| match e.kind {
                Kind::TcpConnect(t)
                | Kind::TcpConnectFailed(t)
                | Kind::TcpAccept(t)
                | Kind::TcpClose(t)
                | Kind::TcpListen(t) => Some((e, t)),
                _ => None,
            })
            .collect()
    };
    for (family, local) in [("v4", "127.0.0.1"), ("v6", "::1")] {
        let address: IpAddr = local.parse().unwrap();
        let port = value(&format!("{family} server")) as u16;
        let client = value(&format!("{family} client")) as u16;
        let (_, listen) = tcp("listen").into_iter().find(|(_, t)| t.ends.local_port == port).unwrap();
        assert_eq!(listen.ends.local, address);

        let (event, connect) = tcp("connect").into_iter().find(|(_, t)| t.ends.local_port == client).unwrap();
        assert_eq!((connect.ends.local, connect.ends.remote), (address, address));
        assert_eq!(connect.ends.remote_port, port);
        assert_eq!(u64::from(connect.ends.netns), value("net"));
        assert_eq!(u64::from(event.task.unwrap().pid), value("pid"));
        assert!(connect.duration > Duration::ZERO && connect.srtt > Duration::ZERO);

        let (event, accept) = tcp("accept").into_iter().find(|(_, t)| t.ends.local_port == port).unwrap();
        assert_eq!(accept.ends.remote_port, client);
        assert_eq!(u64::from(event.task.unwrap().pid), value("pid"));

        let closes = tcp("close");
        let (event, close) = closes.iter().find(|(_, t)| t.ends.local_port == client).unwrap();
        assert_eq!((close.tx_bytes, close.rx_bytes), (100_000, 5_000), "client {family}");
        assert_eq!(u64::from(event.task.unwrap().pid), value("pid"));
        assert!(close.duration > Duration::ZERO && close.error.is_none());
        let (_, close) = closes.iter().find(|(_, t)| t.ends.local_port == port).unwrap();
        assert_eq!((close.tx_bytes, close.rx_bytes), (5_000, 100_000), "server {family}");
    }
    assert_eq!((tcp("connect").len(), tcp("accept").len(), tcp("close").len()), (2, 2, 4));

    let failed = tcp("connect-failed");
    let errors: Vec<_> =
        failed.iter().map(|(_, t)| (t.ends.remote, t.ends.remote_port, t.error.unwrap())).collect();
    assert_eq!(
        errors,
        [
            (IpAddr::V4(Ipv4Addr::LOCALHOST), 1, libc::ECONNREFUSED),
            (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80, libc::ENETUNREACH),
        ]
    );
    let counters = tracer.counters(watched.id()).unwrap().unwrap();
    assert_eq!((counters.tcp_connects, counters.tcp_accepts, counters.tcp_closes), (2, 2, 4));
    assert_eq!(counters.tcp_connect_failures, 2);
    // Loopback: what is sent is received, headers included; except what no socket of the
    // cgroup sends or receives: the SYN to port 1 and its answer, the last words of TIME_WAIT.
    assert!(counters.tx_bytes.abs_diff(counters.rx_bytes) <= 200, "{counters:?}");
    assert!(counters.tx_packets.abs_diff(counters.rx_packets) <= 4, "{counters:?}");
    assert!(counters.tx_bytes > 210_000);
}

#[test]
fn datagrams_and_names() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|_| {}) else { return };
    let output = watched.workload("udp").stdout(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let pid: u32 = text.lines().find_map(|l| l.strip_prefix("pid ")).unwrap().parse().unwrap();
    let events = events(&mut tracer);

    let flows: Vec<_> = events
        .iter()
        .filter_map(|e| if let Kind::UdpFlow(f) = e.kind { Some((e, f)) } else { None })
        .collect();
    let (event, flow) = flows.iter().find(|(_, f)| f.ends.remote_port == 7003).unwrap();
    assert_eq!((flow.tx_packets, flow.tx_bytes, flow.rx_packets, flow.rx_bytes), (10, 1000, 10, 1000));
    assert_eq!(event.task.unwrap().pid, pid);
    let (_, flow) = flows.iter().find(|(_, f)| f.ends.local_port == 7003).unwrap();
    assert_eq!((flow.tx_packets, flow.rx_packets), (10, 10));
    let (_, flow) = flows.iter().find(|(_, f)| f.ends.remote_port == 7004).unwrap();
    assert_eq!((flow.ends.remote.to_string().as_str(), flow.tx_packets, flow.tx_bytes), ("::1", 1, 6));

    let dns: Vec<_> =
        events.iter().filter_map(|e| if let Kind::Dns(d) = &e.kind { Some((e, d)) } else { None }).collect();
    assert_eq!(dns.len(), 2, "{dns:?}");
    let (event, query) = dns[0];
    assert!(query.outgoing);
    assert_eq!(event.task.unwrap().pid, pid);
    let asked = query.message.as_ref().unwrap();
    assert_eq!((asked.questions[0].name.as_str(), asked.questions[0].kind), ("db.example.org", 1));
    let (_, answer) = dns[1];
    assert!(!answer.outgoing);
    assert!(answer.latency.unwrap() > Duration::ZERO);
    let told = answer.message.as_ref().unwrap();
    assert_eq!(told.answers[0].data.to_string(), "192.0.2.44");
    let counters = tracer.counters(watched.id()).unwrap().unwrap();
    assert_eq!((counters.dns_queries, counters.dns_answers), (1, 1));
}

/// A flow that is taken out of the kernel while it goes on loses nothing: pieces add up to the whole.
#[test]
fn flows_in_pieces_add_up() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|o| {
        o.hooks = vec![Hook::Socket, Hook::Packets];
        o.flow_idle = Duration::ZERO;
    }) else {
        return;
    };
    let mut child = watched.workload("flood").stdout(Stdio::piped()).spawn().unwrap();
    let (mut pieces, mut sent, mut received) = (0, 0, 0);
    let mut sink = |event: Event| {
        if let Kind::UdpFlow(flow) = event.kind
            && flow.ends.remote_port == 7005
        {
            pieces += 1;
            sent += flow.tx_packets;
        } else if let Kind::UdpFlow(flow) = event.kind {
            received += flow.rx_packets;
        }
    };
    while child.try_wait().unwrap().is_none() {
        tracer.poll(Duration::from_millis(50), &mut sink).unwrap();
    }
    tracer.flush(&mut sink).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let made: u64 = text.lines().find_map(|l| l.strip_prefix("sent ")).expect(&text).parse().unwrap();
    assert_eq!(tracer.lost().unwrap().total(), 0);
    assert!(pieces >= 2, "{pieces} for {made}");
    assert_eq!((sent, received), (made, made));
}

#[test]
fn an_oom_kill_is_told() {
    let Some(mut watched) = Watched::new() else { return };
    let limit: u64 = 48 << 20;
    if let Some(v1) = fs::read_to_string("/proc/self/mounts").ok().and_then(|m| {
        m.lines()
            .map(|l| l.split(' ').collect::<Vec<_>>())
            .find(|f| f[2] == "cgroup" && f[3].split(',').any(|o| o == "memory"))
            .map(|f| PathBuf::from(f[1]))
    }) {
        let dir = v1.join(watched.parent.file_name().unwrap());
        if let Err(error) = fs::create_dir(&dir) {
            println!("skipped: needs a writable memory cgroup ({error})");
            return;
        }
        fs::write(dir.join("memory.limit_in_bytes"), limit.to_string()).unwrap();
        watched.memory = Some(dir);
    } else if fs::write(watched.parent.join("../cgroup.subtree_control"), "+memory").is_ok()
        && fs::write(watched.parent.join("cgroup.subtree_control"), "+memory").is_ok()
    {
        fs::write(watched.child.join("memory.max"), limit.to_string()).unwrap();
    } else {
        println!("skipped: needs a memory controller");
        return;
    }
    let Some(mut tracer) = watched.load(|_| {}) else { return };
    let status = wait(watched.workload("oom").stdout(Stdio::null()).spawn().unwrap());
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    let events = events(&mut tracer);
    let ooms: Vec<_> =
        events.iter().filter_map(|e| if let Kind::Oom(o) = e.kind { Some((e, o)) } else { None }).collect();
    assert_eq!(ooms.len(), 1);
    let (event, oom) = ooms[0];
    let exits = exits(&events);
    let (exit_event, exit) = exits[0];
    assert_eq!(event.task.unwrap().pid, exit_event.task.unwrap().pid);
    assert_eq!(exit.signal, Some(libc::SIGKILL as u8));
    if let Some(detail) = oom.detailed {
        assert_eq!(oom.limit, Some(limit));
        assert!(detail.rss() > limit / 2 && detail.rss() <= limit + (8 << 20), "{detail:?}");
        assert!(detail.total_vm >= detail.rss());
        assert!(detail.points(oom.limit, 4096).unwrap() > 0);
    }
    assert_eq!(tracer.counters(watched.id()).unwrap().unwrap().oom_kills, 1);
}

#[test]
fn names_over_tcp() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|_| {}) else { return };
    let status = wait(watched.workload("names").stdout(Stdio::null()).spawn().unwrap());
    assert!(status.success());
    let events = events(&mut tracer);
    let dns: Vec<_> =
        events.iter().filter_map(|e| if let Kind::Dns(d) = &e.kind { Some(d) } else { None }).collect();
    assert_eq!(dns.len(), 3, "{dns:?}");
    for (d, outgoing, size) in [(dns[0], true, 32), (dns[1], false, 48), (dns[2], false, 48)] {
        assert_eq!((d.outgoing, d.size, d.transport), (outgoing, size, Transport::Tcp));
        assert_eq!(d.message.as_ref().unwrap().questions[0].name, "db.example.org");
    }
    assert!(dns[1].latency.unwrap() > Duration::ZERO);
    assert_eq!(dns[1].message.as_ref().unwrap().answers[0].data.to_string(), "192.0.2.44");
    let counters = tracer.counters(watched.id()).unwrap().unwrap();
    assert_eq!((counters.dns_queries, counters.dns_answers), (1, 2));
    tracer.forget(watched.id()).unwrap();
    assert_eq!(tracer.counters(watched.id()).unwrap(), None);
}

#[test]
fn older_sockets_are_found() {
    let Some(watched) = Watched::new() else { return };
    let mut child = watched.workload("older").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let net = said.find_map(|line| line.strip_prefix("net ").map(str::to_owned)).unwrap();
    said.find(|line| line == "ready").unwrap();
    let Some(mut tracer) = watched.load(|_| {}) else {
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    };
    drop(child.stdin.take());
    while said.next().is_some() {}
    assert!(child.wait().unwrap().success());
    let events = events(&mut tracer);
    let pid = |e: &Event| e.task.expect("its owner").pid;
    let listens: Vec<_> = events
        .iter()
        .filter_map(|e| if let Kind::TcpListen(t) = e.kind { Some((e, t)) } else { None })
        .collect();
    assert_eq!(listens.len(), 1, "{listens:?}");
    let (event, listen) = listens[0];
    assert!(listen.older && pid(event) == child.id(), "{event:?}");
    assert_eq!((listen.ends.local_port, listen.ends.netns.to_string()), (7006, net));
    let closes: Vec<_> = events
        .iter()
        .filter_map(|e| if let Kind::TcpClose(t) = e.kind { Some((e, t)) } else { None })
        .collect();
    assert_eq!(closes.len(), 2, "{closes:?}");
    for (event, close) in closes {
        let (sent, received) = if close.ends.remote_port == 7006 { (1500, 0) } else { (0, 1500) };
        assert_eq!((close.tx_bytes, close.rx_bytes, close.duration), (sent, received, Duration::ZERO));
        assert_eq!(pid(event), child.id());
    }
    let flow = events.iter().find(|e| matches!(e.kind, Kind::UdpFlow(_))).unwrap();
    assert_eq!(pid(flow), child.id());
}

/// Everything arrives, though the ring is far smaller than the burst.
#[test]
fn a_burst_is_complete() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|o| o.hooks = vec![Hook::Exec, Hook::Exit, Hook::Fork]) else {
        return;
    };
    let n = 5_000;
    let mut child = watched
        .command("/bin/sh", false)
        .args(["-c", &format!("seq {n} | xargs -n 1 /bin/true")])
        .spawn()
        .unwrap();
    let (mut execs, mut exits, mut next) = (0u64, 0u64, 1u32);
    follow(&mut tracer, &mut child, |event| match event.kind {
        Kind::Exec(exec) => {
            execs += 1;
            if exec.filename == b"/bin/true" {
                assert_eq!(exec.args[1], next.to_string().as_bytes());
                next += 1;
            }
        }
        Kind::Exit(_) => exits += 1,
        _ => {}
    });
    let lost = tracer.lost().unwrap();
    let counters = tracer.counters(watched.id()).unwrap().unwrap();
    assert_eq!(lost.total(), 0, "{lost:?}");
    assert_eq!(next, n + 1);
    assert_eq!((execs, exits), (counters.execs, counters.execs));
}

/// Ten thousand containers that come and go: each is told with its processes, and nothing of them stays.
#[test]
fn a_burst_is_complete_also_of_containers() {
    let Some(watched) = Watched::new() else { return };
    let hooks = [Hook::Cgroup, Hook::Exit, Hook::Exec, Hook::Fork, Hook::RunQueue];
    let Some(tracer) = watched.load(|o| o.hooks = hooks.to_vec()) else { return };
    let (mut stream, mut figures) = tracer.split();
    let lives = 10_000;
    let (mut made, mut removed, mut execs, mut exits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut read = |figures: &mut bulkhead_ebpf::Figures, wait: Duration| {
        let mut gone = Vec::new();
        let count = stream.poll(wait, |event, _| match event.kind {
            Kind::CgroupMade(_) => made.push(event.cgroup_id),
            Kind::CgroupRemoved(_) => gone.push(event.cgroup_id),
            Kind::Exec(_) => execs.push(event.cgroup_id),
            Kind::Exit(exit) => exits.push((event.cgroup_id, exit.code)),
            _ => {}
        });
        for id in &gone {
            figures.forget(*id).unwrap();
        }
        removed.append(&mut gone);
        count.unwrap()
    };
    let mut ids = Vec::new();
    for n in 0..lives {
        let dir = watched.parent.join(format!("brief-{n}"));
        fs::create_dir(&dir).unwrap();
        ids.push(fs::metadata(&dir).unwrap().ino());
        run_in(&dir);
        while fs::remove_dir(&dir).is_err() {
            std::thread::sleep(Duration::from_micros(100));
        }
        if n % 200 == 0 {
            read(&mut figures, Duration::ZERO);
        }
    }
    while read(&mut figures, Duration::from_millis(200)) > 0 {}
    assert_eq!(figures.lost().unwrap().total(), 0, "{:?}", figures.lost());
    assert!(made == ids && removed == ids && execs == ids, "{} {}", made.len(), execs.len());
    assert!(exits.iter().copied().eq(ids.iter().map(|id| (*id, Some(0)))), "{}", exits.len());
    assert_eq!(figures.cgroups().unwrap(), Vec::<u64>::new());
    assert_eq!(figures.forget_gone(&watched.parent).unwrap(), 0, "in none of the tables");
}

/// Runs `true` in a cgroup from its first moment on; writing its pid there afterwards waits for all processors.
fn run_in(dir: &Path) {
    let cgroup = fs::File::open(dir).unwrap();
    let program = c"/bin/true";
    let argv = [program.as_ptr(), std::ptr::null()];
    // The arguments of clone3(2) up to and with the cgroup.
    let mut arguments = [0_u64; 11];
    arguments[0] = 0x2_0000_0000; // CLONE_INTO_CGROUP
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = std::os::fd::AsRawFd::as_raw_fd(&cgroup) as u64;
    // SAFETY: the child shares no memory and calls only execve and _exit; everything they read was made before.
    let status = unsafe {
        let size = size_of_val(&arguments);
        let pid = libc::syscall(libc::SYS_clone3, arguments.as_mut_ptr(), size);
        if pid == 0 {
            libc::execve(program.as_ptr(), argv.as_ptr(), [std::ptr::null()].as_ptr());
            libc::_exit(127);
        }
        assert!(pid > 0, "{}", std::io::Error::last_os_error());
        let mut status = 0;
        assert_eq!(libc::waitpid(pid as i32, &raw mut status, 0), pid as i32);
        status
    };
    assert_eq!(status, 0);
}

/// Nobody reads: what does not fit is counted, to the last event.
#[test]
fn losses_are_exact() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|o| {
        o.hooks = vec![Hook::Exec, Hook::Exit];
        o.ring_size = 64 << 10;
    }) else {
        return;
    };
    let status = wait(
        watched.command("/bin/sh", false).args(["-c", "seq 1000 | xargs -n 1 /bin/true"]).spawn().unwrap(),
    );
    assert!(status.success());
    let (mut execs, mut exits) = (0, 0);
    while tracer
        .poll(Duration::from_millis(200), |e| match e.kind {
            Kind::Exec(_) => execs += 1,
            Kind::Exit(_) => exits += 1,
            _ => {}
        })
        .unwrap()
        > 0
    {}
    let lost = tracer.lost().unwrap().0;
    let counters = tracer.counters(watched.id()).unwrap().unwrap();
    let lost_of = |name| lost.get(&bulkhead_ebpf::Cause::RingFull(name)).copied().unwrap_or(0);
    assert!(lost_of("exec") > 0 && execs > 0);
    assert_eq!(execs + lost_of("exec"), counters.execs);
    assert_eq!(exits + lost_of("exit"), counters.execs, "every exec'd process ended");
}

#[test]
fn a_table_as_a_whole_says_what_each_of_its_entries_says() {
    let Some(watched) = Watched::new() else { return };
    let Some(tracer) = watched.load(|o| o.hooks = vec![Hook::RunQueue, Hook::Exec]) else { return };
    assert!(wait(watched.command("/bin/sleep", false).arg("0.01").spawn().unwrap()).success());
    let (_stream, mut figures) = tracer.split();
    // More than are handed out at once.
    let quiet = (1_u64 << 40)..(1 << 40) + 5000;
    for id in quiet.clone() {
        figures.watch(id).unwrap();
    }
    let all = figures.all().unwrap();
    assert_eq!(all.len(), quiet.clone().count() + 1);
    let ours = &all[&watched.id()];
    assert!(ours.counters.execs > 0);
    assert_eq!(Some(ours.counters), figures.counters(watched.id()).unwrap());
    assert_eq!(ours.run_queue, figures.run_queue(watched.id()).unwrap());
    assert!(ours.run_queue.is_some_and(|queue| queue.slots.iter().sum::<u64>() > 0));
    assert!(quiet.clone().all(|id| all[&id].run_queue.is_none() && all[&id].counters.execs == 0));
    for id in quiet {
        figures.forget(id).unwrap();
    }
    assert_eq!(figures.all().unwrap().len(), 1);
}

#[test]
fn latencies_are_counted() {
    let Some(watched) = Watched::new() else { return };
    let Some(tracer) = watched.load(|o| o.hooks = vec![Hook::RunQueue, Hook::BlockIo, Hook::Exec]) else {
        return;
    };
    assert!(wait(watched.command("/bin/sleep", false).arg("0.01").spawn().unwrap()).success());
    let queue = tracer.run_queue(watched.id()).unwrap().unwrap();
    let n: u64 = queue.slots.iter().sum();
    assert!(n > 0 && queue.sum_ns > 0, "{queue:?}");

    // On demand: not before, not after, and what lies in between has nobody wait for as long as that.
    drop(tracer);
    let Some(tracer) = watched.load(|o| {
        o.hooks = vec![Hook::RunQueue, Hook::BlockIo, Hook::Exec];
        o.on_demand = vec![Hook::RunQueue];
    }) else {
        return;
    };
    let (mut stream, mut figures) = tracer.split();
    let mut sleeper =
        watched.command("/bin/sh", false).args(["-c", "while sleep 0.01; do :; done"]).spawn().unwrap();
    let counted = |figures: &bulkhead_ebpf::Figures| {
        let queue = figures.run_queue(watched.id()).unwrap();
        queue.map_or((0, 0), |queue| (queue.slots.iter().sum::<u64>(), queue.sum_ns))
    };
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(counted(&figures), (0, 0));
    for _ in 0..2 {
        let (before, _) = counted(&figures);
        stream.attach(Hook::RunQueue).unwrap();
        stream.attach(Hook::RunQueue).unwrap();
        while counted(&figures).0 < before + 20 {
            std::thread::sleep(Duration::from_millis(10));
        }
        stream.detach(Hook::RunQueue);
        // A tracepoint's last callers are waited for by nobody.
        std::thread::sleep(Duration::from_millis(200));
        let rested = counted(&figures);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(counted(&figures), rested);
    }
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    figures.forget(watched.id()).unwrap();

    // Direct I/O is issued in the context of the one who asks for it.
    let file = std::env::temp_dir().join(format!("bulkhead-ebpf-{}", std::process::id()));
    let status = wait(
        watched
            .command("/bin/dd", false)
            .args(["if=/dev/zero", "bs=64k", "count=8", "oflag=direct", "status=none"])
            .arg(format!("of={}", file.display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    fs::remove_file(&file).ok();
    if !status.success() {
        println!("skipped: needs a temporary directory with O_DIRECT");
        return;
    }
    let io = figures.block_io(watched.id()).unwrap();
    let Some(io) = io else {
        println!("skipped: needs a temporary directory on a block device");
        return;
    };
    let counters = figures.counters(watched.id()).unwrap().unwrap();
    assert!(io.slots.iter().sum::<u64>() >= 8, "{io:?}");
    assert!(counters.io_write_bytes >= 8 * 65536, "{counters:?}");
    figures.forget(watched.id()).unwrap();
    assert_eq!(figures.run_queue(watched.id()).unwrap(), None);
}

/// Counters outlive the tracer in a bpffs, and go on from there.
#[test]
fn counters_survive() {
    /// Unmounts even when an assertion fails.
    struct Pins(PathBuf);
    impl Drop for Pins {
        fn drop(&mut self) {
            let unmounted = nix::mount::umount(&self.0).is_ok() && fs::remove_dir(&self.0).is_ok();
            assert!(unmounted || std::thread::panicking(), "{} is left", self.0.display());
        }
    }
    let Some(watched) = Watched::new() else { return };
    let pins = Pins(std::env::temp_dir().join(format!("bulkhead-ebpf-pin-{}", std::process::id())));
    let dir = &pins.0;
    for round in 1..=2 {
        let Some(mut tracer) = watched.load(|o| {
            o.hooks = vec![Hook::Exec];
            o.pin = Some(dir.clone());
        }) else {
            return;
        };
        assert!(wait(watched.command("/bin/true", false).spawn().unwrap()).success());
        assert_eq!(tracer.counters(watched.id()).unwrap().unwrap().execs, round);
        if round == 2 {
            tracer.forget(watched.id()).unwrap();
        }
    }
    // What went while nobody watched: its counters and histograms are swept by the next one, and no other's.
    let other = watched.parent.join("other");
    fs::create_dir(&other).unwrap();
    let gone = fs::metadata(&other).unwrap().ino();
    let load = || {
        watched.load(|o| {
            o.hooks = vec![Hook::Exec, Hook::RunQueue];
            o.pin = Some(dir.clone());
        })
    };
    let Some(tracer) = load() else { return };
    assert!(wait(watched.command("/bin/sleep", false).arg("0.01").spawn().unwrap()).success());
    let mut shell =
        watched.command("/bin/sh", false).args(["-c", "sleep 0.2; /bin/sleep 0.01; true"]).spawn().unwrap();
    fs::write(other.join("cgroup.procs"), shell.id().to_string()).unwrap();
    assert!(shell.wait().unwrap().success());
    drop(tracer);
    fs::remove_dir(&other).unwrap();
    let (_stream, mut figures) = load().expect("it could before").split();
    let kept = figures.counters(watched.id()).unwrap().unwrap().execs;
    assert!(kept >= 1);
    assert!(figures.run_queue(watched.id()).unwrap().is_some(), "histograms are pinned too");
    assert!(figures.run_queue(gone).unwrap().is_some(), "and so is that of who is gone");
    assert_eq!(figures.forget_gone(&watched.parent).unwrap(), 1);
    assert_eq!(figures.run_queue(gone).unwrap(), None);
    assert_eq!(figures.counters(watched.id()).unwrap().unwrap().execs, kept);
    let mounted = nix::sys::statfs::statfs(dir).unwrap().filesystem_type();
    assert_eq!(mounted, nix::sys::statfs::BPF_FS_MAGIC);
}

/// The stream itself says which id has which name, before anything runs there.
#[test]
fn cgroups_come_and_go() {
    let Some(watched) = Watched::new() else { return };
    let Some(mut tracer) = watched.load(|o| o.hooks = vec![Hook::Cgroup, Hook::Exec]) else { return };
    let late = watched.parent.join("late");
    fs::create_dir(&late).unwrap();
    let id = fs::metadata(&late).unwrap().ino();
    // Below a container it is the container's own affair.
    fs::create_dir(late.join("inner")).unwrap();
    fs::remove_dir(late.join("inner")).unwrap();
    fs::remove_dir(&late).unwrap();
    let kinds: Vec<_> = events(&mut tracer).into_iter().map(|e| (e.cgroup_id, e.kind)).collect();
    assert_eq!(
        kinds,
        [(id, Kind::CgroupMade(b"late".to_vec())), (id, Kind::CgroupRemoved(b"late".to_vec()))]
    );
}

#[test]
fn a_directory_elsewhere_is_refused() {
    let error = Tracer::load(&Options::new(std::env::temp_dir())).map(drop).unwrap_err();
    assert!(matches!(error, LoadError::NotCgroup2(_)), "{error}");
    let error = Tracer::load(&Options::new("/no/such/cgroup")).map(drop).unwrap_err();
    assert!(matches!(error, LoadError::Cgroup { .. }), "{error}");
}

// ---- what runs in the cgroup ----------------------------------------------

/// Not a test: this binary runs it in the watched cgroup, named by a variable.
#[test]
fn workload() {
    let Ok(name) = std::env::var(WORKLOAD) else { return };
    println!("\npid {}", std::process::id());
    println!("net {}", fs::metadata("/proc/self/ns/net").unwrap().ino());
    match name.as_str() {
        "tcp" => tcp(),
        "udp" => udp(),
        "names" => names(),
        "older" => older(),
        "flood" => flood(),
        "oom" => {
            let mut blocks = Vec::new();
            for _ in 0..256 {
                blocks.push(std::hint::black_box(vec![1u8; 1 << 20]));
            }
            panic!("{} MiB fit", blocks.len());
        }
        other => panic!("unknown workload {other}"),
    }
}

fn tcp() {
    for (family, address) in [("v4", "127.0.0.1:0"), ("v6", "[::1]:0")] {
        let listener = TcpListener::bind(address).unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), 100_000);
            stream.write_all(&[7; 5_000]).unwrap();
        });
        let mut client = TcpStream::connect(to).unwrap();
        println!("{family} server {}\n{family} client {}", to.port(), client.local_addr().unwrap().port());
        client.write_all(&vec![1; 100_000]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert_eq!(back.len(), 5_000);
        server.join().unwrap();
    }
    assert!(TcpStream::connect("127.0.0.1:1").is_err());
    assert!(TcpStream::connect("192.0.2.1:80").is_err());
}

/// A question over TCP in two pieces, and its answer in one with another's beginning.
fn names() {
    let resolver = TcpListener::bind("127.0.0.53:53").unwrap();
    let mut asker = TcpStream::connect("127.0.0.53:53").unwrap();
    let (mut answerer, _) = resolver.accept().unwrap();
    asker.set_nodelay(true).unwrap();
    let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x02db\x07example\x03org\x00\x00\x01\x00\x01");
    let mut answer = query.clone();
    (answer[2], answer[7]) = (0x81, 1);
    answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\xc0\x00\x02\x2c");
    let framed = |message: &[u8]| [&(message.len() as u16).to_be_bytes(), message].concat();
    let (query, answer) = (framed(&query), framed(&answer));
    let mut seen = vec![0; query.len()];
    for part in [&query[..1], &query[1..20], &query[20..]] {
        asker.write_all(part).unwrap();
        // It has come before the next one goes.
        answerer.read_exact(&mut seen[..part.len()]).unwrap();
    }
    let twice = [&answer[..], &answer[..]].concat();
    for part in [&twice[..answer.len() + 5], &twice[answer.len() + 5..]] {
        answerer.write_all(part).unwrap();
        asker.read_exact(&mut vec![0; part.len()]).unwrap();
    }
}

/// Sockets that are there before anybody looks, and end when standard input does.
fn older() {
    let listener = TcpListener::bind("127.0.0.1:7006").unwrap();
    let mut client = TcpStream::connect("127.0.0.1:7006").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(&[1; 1000]).unwrap();
    server.read_exact(&mut [0; 1000]).unwrap();
    let (sink, source) =
        (UdpSocket::bind("127.0.0.1:7007").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    client.write_all(&[1; 500]).unwrap();
    server.read_exact(&mut [0; 500]).unwrap();
    source.send_to(b"x", "127.0.0.1:7007").unwrap();
    sink.recv(&mut [0; 8]).unwrap();
}

/// Datagrams for as long as two sweeps take.
fn flood() {
    let sink = UdpSocket::bind("127.0.0.1:7005").unwrap();
    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sent = 0u64;
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_millis(2500) {
        for _ in 0..100 {
            sent += u64::from(source.send_to(b"x", "127.0.0.1:7005").is_ok());
            // What has no room in the socket would not have been received.
            sink.recv(&mut [0; 8]).unwrap();
        }
    }
    println!("sent {sent}");
}

fn udp() {
    let server = UdpSocket::bind("127.0.0.1:7003").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 200];
    for _ in 0..10 {
        client.send(&[1; 100]).unwrap();
        let (n, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..n], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 100);
    }
    let six = UdpSocket::bind("[::1]:0").unwrap();
    let sink = UdpSocket::bind("[::1]:7004").unwrap();
    six.send_to(b"sixsix", "[::1]:7004").unwrap();
    sink.recv(&mut buffer).unwrap();

    let resolver = UdpSocket::bind("127.0.0.53:53").unwrap();
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x02db\x07example\x03org\x00\x00\x01\x00\x01");
    asker.send_to(&query, "127.0.0.53:53").unwrap();
    let (n, from): (usize, SocketAddr) = resolver.recv_from(&mut buffer).unwrap();
    let mut answer = buffer[..n].to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\xc0\x00\x02\x2c");
    resolver.send_to(&answer, from).unwrap();
    asker.recv(&mut buffer).unwrap();
}
