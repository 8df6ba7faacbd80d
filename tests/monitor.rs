//! A monitor among hostile containers and clients that misbehave: it goes on, ends when it should, and whatever gets
//! stuck is alone with that.

mod common;

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::serve::Api;
use common::{Host, eventually};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ticks of CPU time.
fn cpu(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split(' ').collect();
    fields[12].parse::<u64>().expect("utime") + fields[13].parse::<u64>().expect("stime")
}

/// As long as a record says that a container runs, the pid in it is its process 1's, dead or alive: `kill` and `cp`
/// would meet somebody else otherwise.
#[test]
fn a_pid_is_nobody_elses_until_the_record_says_so() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["run", "-d", "--name", "busy", image, "yes"]).ok();
    let pid: i32 = host.inspect("busy", "{{.State.Pid}}").parse().expect("a pid");
    let mut client = host
        .command(&["attach", "--no-stdin", "busy"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("attach");
    let client_pid = Pid::from_raw(client.id() as i32);
    // It has shown something, so it is connected; from now on its monitor has to wait for it.
    eventually("output", || {
        fs::read_to_string(format!("/proc/{client_pid}/io")).is_ok_and(|io| !io.contains("\nwchar: 0\n"))
    });
    kill(client_pid, Signal::SIGSTOP).expect("stop the client");
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill process 1");
    let running = format!("running {pid}");
    let mut seen = 0;
    eventually("the end is recorded", || {
        let state = || host.inspect("busy", "{{.State.Status}} {{.State.Pid}}");
        let before = state();
        let is_there = Path::new(&format!("/proc/{pid}/stat")).exists();
        let after = state();
        if before == running && after == running {
            assert!(is_there, "the pid is free, and the record has it still");
            seen += 1;
        }
        after.starts_with("exited")
    });
    assert!(seen > 0, "the monitor waited for nobody, so nothing was seen");
    kill(client_pid, Signal::SIGCONT).expect("let it go");
    common::wait(&mut client, "attach");
    host.bulkhead(&["rm", "busy"]).ok();
}

/// A program that does not read its terminal stops who types, and not its monitor.
#[test]
fn a_terminal_that_nobody_reads_stops_nobody() {
    let host = host!();
    let image = host.busybox();
    let deaf = "stty -echo; touch /deaf; exec sleep 100000";
    host.bulkhead(&["run", "-dit", "--name", "deaf", image, "sh", "-c", deaf]).ok();
    eventually("it sleeps", || host.bulkhead(&["exec", "deaf", "test", "-e", "/deaf"]).status.success());
    let (mut client, mut keyboard) = common::on_terminal(host.command(&["attach", "deaf"]), None);
    fcntl(&keyboard, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("fcntl");
    let (mut typed, mut idle) = (0, 0);
    // Until nobody takes any more, which is at the latest when all queues are full.
    while typed < 1 << 20 && idle < 50 {
        match keyboard.write(&b"x\n".repeat(512)) {
            Ok(length) => (typed, idle) = (typed + length, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("after {typed} bytes: {error}"),
        }
    }
    assert!(typed > 8192, "{typed} bytes are no more than a terminal keeps");
    host.bulkhead(&["exec", "deaf", "true"]).ok();
    host.bulkhead(&["stop", "-t", "1", "deaf"]).ok();
    drop(keyboard);
    common::wait(&mut client, "attach");
    host.bulkhead(&["rm", "-f", "deaf"]).ok();
}

/// What a client has sent and nobody has read does not keep the container's last word from it.
#[test]
fn input_that_is_not_read_costs_no_exit_code() {
    let host = host!();
    let image = host.busybox();
    let plenty = b"y\n".repeat(1 << 20);
    for round in 0..8 {
        let run = ["run", "--rm", "-i", image, "sh", "-c", "exit 3"];
        let input = if round % 2 == 0 { &plenty[..] } else { b"x\n" };
        common::run(host.command(&run), input).code(3);
    }
    host.bulkhead(&["create", "-i", "--name", "again", image, "sh", "-c", "exit 4"]).ok();
    for _ in 0..4 {
        common::run(host.command(&["start", "-ai", "again"]), &plenty).code(4);
    }
    // A terminal sends its size, whether it is wanted or not.
    for _ in 0..8 {
        let run = ["run", "--rm", "-it", image, "sh", "-c", "exit 5"];
        let (mut child, _terminal) = common::on_terminal(host.command(&run), None);
        assert_eq!(common::wait(&mut child, "run -it").code(), Some(5));
    }
    host.bulkhead(&["rm", "again"]).ok();
}

/// Input that nobody reads, from a client that is gone, is not asked about again and again.
#[test]
fn a_client_that_leaves_its_input_behind_costs_nothing() {
    let host = host!();
    let image = host.busybox();
    let mut client = host
        .command(&["run", "-i", "--name", "full", image, "sleep", "100000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("run");
    let input = client.stdin.take().expect("piped");
    fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("fcntl");
    let mut input = fs::File::from(std::os::fd::OwnedFd::from(input));
    let mut idle = 0;
    while idle < 50 {
        match input.write(&[b'x'; 4096]) {
            Ok(_) => idle = 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
    host.wait_for("full", "{{.State.Status}}", "running");
    client.kill().expect("kill");
    client.wait().expect("wait");
    let id = host.inspect("full", "{{.Id}}");
    let monitor = host.monitor_of(&id);
    std::thread::sleep(Duration::from_millis(1500));
    let before = cpu(monitor);
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu(monitor) - before;
    assert!(used < 10, "{used} ticks in two seconds of nothing");
    // What was left is read as soon as somebody reads, and whoever comes next is listened to.
    host.bulkhead(&["stop", "-t", "0", "full"]).ok();
    host.bulkhead(&["rm", "full"]).ok();
}

/// A process that the kernel does not let go of keeps its own container from being settled, and no other command from
/// its work.
#[test]
fn a_container_that_cannot_be_settled_is_alone_with_that() {
    let host = host!();
    let image = host.busybox();
    let id = host.bulkhead(&["run", "-d", "--name", "stuck", "--pids-limit", "50", image, "sleep", "100000"]);
    let id = id.ok().line();
    let pid: i32 = host.inspect("stuck", "{{.State.Pid}}").parse().expect("a pid");
    let is_own = |dir: &PathBuf| dir.ends_with(&id) && !dir.join("cgroup.controllers").exists();
    let Some(dir) = Host::cgroup_of(pid, "pids").filter(is_own) else {
        host.bulkhead(&["rm", "-f", "stuck"]).ok();
        skip!("cgroup v1, where a process of another cgroup can be in a container's");
    };
    // Stands for one in a sleep that nothing interrupts: it is not in the cgroup that is told to die.
    let held = dir.join("held");
    fs::create_dir(&held).expect("mkdir");
    let mut bystander = Command::new("sleep").arg("1000").spawn().expect("sleep");
    fs::write(held.join("cgroup.procs"), bystander.id().to_string()).expect("enter");
    kill(Pid::from_raw(host.monitor_of(&id)), Signal::SIGKILL).expect("kill the monitor");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill process 1");
    host.bulkhead(&["rm", "-f", "stuck"]).code(1);
    let listed = host.bulkhead(&["ps", "-a"]).ok();
    assert!(listed.err().contains("WARNING: ") && listed.err().contains(&id), "{listed}");
    host.bulkhead(&["run", "--rm", image, "echo", "works"]).ok().prints("works\n");
    bystander.kill().expect("kill");
    bystander.wait().expect("wait");
    fs::remove_dir(&held).expect("rmdir");
    let listed = host.bulkhead(&["ps", "-aq"]).ok();
    assert_eq!((listed.out(), listed.err()), (String::new(), String::new()), "and goes when it can");
}

/// What a container nests deeper than a command may open files goes with it.
#[test]
fn a_bottomless_container_can_be_removed() {
    let host = host!();
    let image = host.busybox();
    let dig = "n=0; while [ $n -lt 1500 ]; do mkdir d && cd d || exit 1; n=$((n+1)); done";
    host.bulkhead(&["run", "--name", "deep", "-v", "hole:/hole", image, "sh", "-c", dig]).ok();
    let into = format!("cd /hole; {dig}");
    host.bulkhead(&["run", "--name", "volume", "-v", "hole:/hole", image, "sh", "-c", &into]).ok();
    let few = |args: &[&str]| {
        let mut command = host.command(args);
        let lower = || {
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 200, 200)
                .map_err(std::io::Error::from)
        };
        // SAFETY: one system call.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, lower) };
        common::run(command, b"")
    };
    few(&["rm", "deep", "volume"]).ok();
    few(&["volume", "rm", "hole"]).ok();
    let listed = few(&["ps", "-aq"]).ok();
    assert_eq!((listed.out(), listed.err()), (String::new(), String::new()));
    let mut left = String::new();
    for entry in fs::read_dir(host.root().join("tmp")).expect("scratch").flatten() {
        left.push_str(&entry.file_name().to_string_lossy());
    }
    assert_eq!(left, "", "scratch directories");
}

/// A terminal's client may go: its other end stays open for the next one.
#[test]
fn a_terminal_outlives_its_client() {
    let host = host!();
    let image = host.busybox();
    let api = Api::start(&host);
    host.bulkhead(&["create", "-it", "--name", "term", image, "sh"]).ok();
    let mut client = api.connect();
    let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    write!(
        client,
        "POST /containers/term/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n"
    )
    .expect("write");
    assert_eq!(api.ask("POST", "/containers/term/start", "").0, 204);
    writeln!(client, "touch /typed").expect("write");
    eventually("it reads", || host.bulkhead(&["exec", "term", "test", "-e", "/typed"]).status.success());
    let monitor = host.monitor_of(&host.inspect("term", "{{.Id}}"));
    let sockets = || {
        let fds = fs::read_dir(format!("/proc/{monitor}/fd")).expect("fds").flatten();
        fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
            .count()
    };
    let before = sockets();
    drop(client);
    eventually("the monitor has seen it go", || sockets() < before);
    host.bulkhead(&["exec", "term", "true"]).ok();
    assert_eq!(host.inspect("term", "{{.State.Status}}"), "running");
}
