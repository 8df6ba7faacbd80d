//! Networks, typed. Every test makes a network namespace its machine, so that nothing of the real one's is
//! touched and two tests never meet.

mod common;

use common::Host;

fn on_own_network(test: impl FnOnce() + Send + 'static) {
    common::on_own_network(&["nft", "ip"], test);
}

/// What a program of the machine prints.
fn machine(line: &str) -> String {
    let output = std::process::Command::new("sh").args(["-c", line]).output().expect("sh");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// No table and no link but loopback. What a command does on somebody's behalf is done when it returns; only the
/// kernel may take a moment to free a dead namespace with its end of a pair.
#[track_caller]
fn nothing_remains() {
    assert_eq!(machine("nft list tables; ip -o link | grep -E 'bh-|br-'").trim(), "");
    common::eventually("the kernel frees the namespaces", || machine("ip -o link | grep -v lo:").is_empty());
}

/// Another machine: a network namespace, and `wire` leads to it from this one, where the link is `near`.
struct Machine(std::process::Child);

impl Machine {
    fn new(near: &str, far: &str) -> Self {
        use std::io::Read as _;
        // It says when it is there.
        let mut child = std::process::Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up; echo there; exec sleep 100000"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut there = [0; 6];
        child.stdout.as_mut().expect("piped").read_exact(&mut there).expect("there");
        let machine = Self(child);
        let pid = machine.0.id();
        ok(&format!(
            "ip link add {near} type veth peer name {far} netns /proc/{pid}/ns/net && ip link set {near} up"
        ));
        machine.ok(&format!("ip link set {far} up"));
        machine
    }

    fn sh(&self, line: &str) -> std::process::Output {
        let pid = self.0.id().to_string();
        std::process::Command::new("nsenter")
            .args(["-n", "-t", &pid, "sh", "-c", line])
            .output()
            .expect("nsenter")
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let output = self.sh(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command of Bulkhead's on this machine.
    #[track_caller]
    fn bulkhead(&self, host: &Host, args: &[&str]) -> common::Output {
        let command = host.command(args);
        let mut entered = std::process::Command::new("nsenter");
        entered
            .args(["-n", "-t", &self.0.id().to_string()])
            .arg(command.get_program())
            .args(command.get_args());
        common::run(entered, b"")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a shell line on this machine, which must succeed.
#[track_caller]
fn ok(line: &str) -> String {
    let output = std::process::Command::new("sh").args(["-c", line]).output().expect("sh");
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A shell line that fetches, several times if need be: a server may not listen yet.
fn fetch(url: &str) -> String {
    // Its own -T ends in a segmentation fault (1.35).
    format!(
        "for i in 1 2 3 4 5 6; do busybox timeout 3 busybox wget -qO - '{url}' && exit; sleep 0.3; done; exit 1"
    )
}

/// Sends back what comes over UDP, from inside a container, for some seconds after the last word.
fn echo_in(host: &Host, container: &str, port: u16) {
    let pid = host.inspect(container, "{{.State.Pid}}");
    let netns = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("netns");
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        let socket = std::net::UdpSocket::bind(("0.0.0.0", port)).expect("bind");
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("timeout");
        drop(netns);
        ready.send(()).expect("send");
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    wait.recv().expect("ready");
}

const WEB: &[&str] = &["sh", "-c", "mkdir /www && echo hello > /www/index.html && exec httpd -f -h /www"];

/// Starts a web server and waits until it answers.
fn web(host: &Host, args: &[&str]) {
    let run = [&["run", "-d"], args, &["busybox"], WEB].concat();
    host.bulkhead(&run).ok();
}

fn get(host: &Host, from: &[&str], url: &str) -> String {
    let wget = [
        "sh",
        "-c",
        &format!("for i in 1 2 3 4 5 6; do timeout 3 wget -qO - {url} && exit; sleep 0.3; done; exit 1"),
    ];
    host.bulkhead(&[from, &wget].concat()).ok().out()
}

#[test]
fn a_published_port_and_names_on_a_network_of_ones_own() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        host.bulkhead(&["network", "create", "--subnet", "10.200.20.0/24", "front"]).ok();
        web(&host, &["--name", "web", "--network", "front", "--network-alias", "www", "-p", "8080:80"]);
        assert_eq!(host.bulkhead(&["port", "web"]).ok().out(), "80/tcp -> 0.0.0.0:8080\n");
        let from_host =
            "for i in 1 2 3 4 5 6; do busybox wget -qO - http://127.0.0.1:8080/ && exit; sleep 0.3; done";
        assert_eq!(machine(from_host), "hello\n");
        let front = ["run", "--rm", "--network", "front", "busybox"];
        assert_eq!(get(&host, &front, "http://web/"), "hello\n");
        assert_eq!(get(&host, &front, "http://www/"), "hello\n");
        assert_eq!(get(&host, &front, "http://10.200.20.1:8080/"), "hello\n", "through the host");
        host.bulkhead(&["rename", "web", "site"]).ok();
        assert_eq!(get(&host, &front, "http://site/"), "hello\n", "by its new name");
        host.bulkhead(&["rename", "site", "web"]).ok();
        host.bulkhead(&["run", "--rm", "-p", "8080:80", "busybox", "true"]).code(125);
        host.bulkhead(&["network", "rm", "front"]).code(1);
        host.bulkhead(&["rm", "-f", "web"]).ok();
        host.bulkhead(&["network", "rm", "front"]).ok();
        nothing_remains();
    });
}

#[test]
fn the_default_bridge_knows_no_names_and_is_closed_to_others() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        host.bulkhead(&["network", "create", "--subnet", "10.200.21.0/24", "front"]).ok();
        web(&host, &["--name", "web", "--network", "front"]);
        host.bulkhead(&["run", "-d", "--name", "client", "busybox", "sleep", "1000"]).ok();
        let addresses = host.bulkhead(&["exec", "client", "ip", "-4", "addr", "show", "eth0"]).ok();
        assert!(addresses.out().contains("172.17.0.2/16"), "{}", addresses.out());
        let probe = ["exec", "client", "nc", "-w", "1", "10.200.21.2", "80", "-e", "true"];
        host.bulkhead(&probe).code(1);
        host.bulkhead(&["network", "connect", "front", "client"]).ok();
        assert_eq!(get(&host, &["exec", "client"], "http://web/"), "hello\n");
        host.bulkhead(&["network", "disconnect", "front", "client"]).ok();
        host.bulkhead(&probe).code(1);
        let missing = host.bulkhead(&["network", "disconnect", "front", "client"]);
        missing.code(1);
    });
}

#[test]
fn modes_and_a_killed_monitor() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let none =
            host.bulkhead(&["run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net"]).ok();
        assert_eq!(none.out().trim(), "lo");
        web(&host, &["--name", "web", "-p", "127.0.0.1:8080:80"]);
        let shared = ["run", "--rm", "--network", "container:web", "busybox"];
        assert_eq!(get(&host, &shared, "http://127.0.0.1/"), "hello\n");
        host.bulkhead(&["run", "--rm", "--network", "nowhere", "busybox", "true"]).code(125);
        // The monitor dies; the next command releases address and port.
        let monitor = machine(&format!("pgrep -f -- '--root {}.* monitor'", host.root().display()));
        for pid in monitor.lines() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.parse().expect("pid")),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        host.bulkhead(&["rm", "-f", "web"]).ok();
        web(&host, &["--name", "again", "-p", "127.0.0.1:8080:80"]);
        let from_host =
            "for i in 1 2 3 4 5 6; do busybox wget -qO - http://127.0.0.1:8080/ && exit; sleep 0.3; done";
        assert_eq!(machine(from_host), "hello\n");
        host.bulkhead(&["rm", "-f", "again"]).ok();
        nothing_remains();
    });
}

#[test]
fn links_have_several_aliases_and_follow_restarts() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let sleeper =
            |name: &str| drop(host.bulkhead(&["run", "-d", "--name", name, "busybox", "sleep", "1000"]).ok());
        sleeper("db");
        host.bulkhead(&["run", "-d", "--name", "web", "--link", "db:sql mysql", "busybox", "sleep", "1000"])
            .ok();
        let line = |address: &str| {
            let hosts = host.bulkhead(&["exec", "web", "cat", "/etc/hosts"]).ok().out();
            assert!(hosts.lines().any(|l| l.starts_with(&format!("{address}\tsql mysql "))), "{hosts}");
        };
        line("172.17.0.2");
        host.bulkhead(&["exec", "web", "ping", "-c", "1", "-w", "5", "mysql"]).ok();
        // It comes back with another address, since its own has been taken meanwhile.
        host.bulkhead(&["stop", "-t", "0", "db"]).ok();
        sleeper("squatter");
        host.bulkhead(&["start", "db"]).ok();
        line("172.17.0.4");
        host.bulkhead(&["exec", "web", "ping", "-c", "1", "-w", "5", "sql"]).ok();
        host.bulkhead(&["restart", "-t", "0", "web"]).ok();
        line("172.17.0.4");
        host.bulkhead(&["run", "--rm", "--link", "nobody:x", "busybox", "true"]).code(125);
        // One that has ended, and one that runs elsewhere.
        host.bulkhead(&["kill", "squatter"]).ok();
        host.bulkhead(&["wait", "squatter"]).ok();
        host.bulkhead(&["run", "--rm", "--link", "squatter", "busybox", "true"])
            .code(125)
            .complains("Cannot link to a non running container");
        host.bulkhead(&["run", "-d", "--name", "apart", "--network", "none", "busybox", "sleep", "1000"])
            .ok();
        host.bulkhead(&["run", "--rm", "--link", "apart", "busybox", "true"])
            .code(125)
            .complains("Cannot link to /apart, as it does not belong to the default network");
    });
}

#[test]
fn a_udp_client_that_never_pauses_follows_a_restart() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        // Something that tracks connections meanwhile.
        host.bulkhead(&["run", "-d", "--name", "bystander", "busybox", "sleep", "1000"]).ok();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        client.set_read_timeout(Some(std::time::Duration::from_millis(200))).expect("timeout");
        let echo = || {
            let mut reply = [0; 16];
            client.send_to(b"hello\n", "127.0.0.1:5353").is_ok()
                && client.recv(&mut reply).is_ok_and(|length| &reply[..length] == b"hello\n")
        };
        assert!(!echo(), "nobody is there");
        host.bulkhead(&["run", "-d", "--name", "echo", "-p", "5353:53/udp", "busybox", "sleep", "1000"]).ok();
        echo_in(&host, "echo", 53);
        common::eventually("it has come", echo);
        host.bulkhead(&["stop", "-t", "0", "echo"]).ok();
        assert!(!echo());
        host.bulkhead(&["run", "-d", "--name", "squatter", "busybox", "sleep", "1000"]).ok();
        host.bulkhead(&["start", "echo"]).ok();
        echo_in(&host, "echo", 53);
        common::eventually("it has come again, at another address", echo);
    });
}

#[test]
fn the_bridge_drivers_options() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let create = [
            "network",
            "create",
            "--subnet",
            "10.200.30.0/24",
            "-o",
            "com.docker.network.bridge.enable_icc=false",
        ];
        let more =
            ["-o", "com.docker.network.bridge.name=apart0", "-o", "com.docker.network.driver.mtu=1400"];
        host.bulkhead(&[&create[..], &more, &["--label", "tier=one", "apart"]].concat()).ok();
        assert!(ok("ip link show apart0").contains("mtu 1400"));
        host.bulkhead(&["run", "-d", "--name", "one", "--network", "apart", "busybox", "sleep", "1000"]).ok();
        web(&host, &["--name", "two", "--network", "apart", "-p", "8080:80"]);
        assert!(
            host.bulkhead(&["exec", "one", "ip", "link", "show", "eth0"]).ok().out().contains("mtu 1400")
        );
        assert_eq!(ok(&fetch("http://127.0.0.1:8080/")), "hello\n", "a published port");
        host.bulkhead(&["exec", "one", "ping", "-c", "1", "-w", "5", "10.200.30.1"]).ok();
        host.bulkhead(&["exec", "one", "ping", "-c", "1", "-w", "1", "10.200.30.3"]).code(1);
        // What is published is published to the neighbours as well, and nothing but that.
        let get = |url: &str| host.bulkhead(&["exec", "one", "timeout", "3", "wget", "-q", "-O", "-", url]);
        // Where br_netfilter hands bridged packets to the rules, a rewritten one stays on the bridge, between two
        // isolated ports (docs/networks.md).
        let bridged = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        let before = std::fs::read_to_string(bridged);
        if before.is_ok() {
            std::fs::write(bridged, "0").expect("sysctl");
        }
        get("http://10.200.30.1:8080/").ok().prints("hello\n");
        if let Ok(before) = before {
            std::fs::write(bridged, before).expect("sysctl");
        }
        assert!(!get("http://10.200.30.3/").status.success());
        // So it stays after the bridge was made anew.
        ok("ip link del apart0");
        host.bulkhead(&["network", "reload"]).ok();
        host.bulkhead(&["exec", "one", "ping", "-c", "1", "-w", "5", "10.200.30.1"]).ok();
        host.bulkhead(&["exec", "one", "ping", "-c", "1", "-w", "1", "10.200.30.3"]).code(1);
        host.bulkhead(&["network", "ls", "-q", "--filter", "label=tier=one"]).ok().line();
        host.bulkhead(&["rm", "-f", "one", "two"]).ok();
        host.bulkhead(&["network", "rm", "apart"]).ok();

        let range = ["--ip-range", "172.28.5.0/24", "--gateway", "172.28.5.254"];
        host.bulkhead(&[&["network", "create", "--subnet", "172.28.0.0/16"][..], &range, &["lab"]].concat())
            .ok();
        let address = |flags: &[&str]| {
            let run = [
                &["run", "--rm", "--network", "lab"],
                flags,
                &["busybox", "ip", "-4", "-o", "addr", "show", "eth0"],
            ];
            host.bulkhead(&run.concat()).ok().out()
        };
        assert!(address(&[]).contains("inet 172.28.5."), "{}", address(&[]));
        assert!(address(&["--ip", "172.28.9.9"]).contains("inet 172.28.9.9/16"));
        let route = host.bulkhead(&["run", "--rm", "--network", "lab", "busybox", "ip", "route"]).ok().out();
        assert!(route.contains("default via 172.28.5.254"), "{route}");
        let mac = [
            "run",
            "--rm",
            "--network",
            "lab",
            "--mac-address",
            "02:00:00:00:00:77",
            "busybox",
            "cat",
            "/sys/class/net/eth0/address",
        ];
        host.bulkhead(&mac).ok().prints("02:00:00:00:00:77\n");

        ok(
            "ip link add ext0 type veth peer name ext1 && ip addr add 192.0.2.1/24 dev ext0 && ip link set ext0 up && ip link set ext1 up",
        );
        host.bulkhead(&["network", "create", "--internal", "--subnet", "10.200.31.0/24", "inside"]).ok();
        host.bulkhead(&["run", "-d", "--name", "one", "--network", "inside", "busybox", "sleep", "1000"])
            .ok();
        host.bulkhead(&["run", "-d", "--name", "two", "--network", "inside", "busybox", "sleep", "1000"])
            .ok();
        host.bulkhead(&["exec", "one", "ping", "-c", "1", "-w", "5", "two"]).ok();
        host.bulkhead(&["exec", "one", "ping", "-c", "1", "-w", "1", "192.0.2.1"]).code(1);
        assert!(!host.bulkhead(&["exec", "one", "ip", "route"]).ok().out().contains("default"));
        host.bulkhead(&["rm", "-f", "one", "two"]).ok();

        // The default bridge where the operator wants it.
        std::fs::write(host.root().join("daemon.json"), r#"{"bip": "192.168.100.1/24", "mtu": 1450}"#)
            .expect("daemon.json");
        let addr = host.bulkhead(&["run", "--rm", "busybox", "ip", "addr", "show", "eth0"]).ok().out();
        assert!(addr.contains("192.168.100.2/24") && addr.contains("mtu 1450"), "{addr}");
        std::fs::write(host.root().join("daemon.json"), r#"{"bip": "192.168.101.1/24"}"#)
            .expect("daemon.json");
        let addr = host.bulkhead(&["run", "--rm", "busybox", "ip", "addr", "show", "eth0"]).ok().out();
        assert!(addr.contains("192.168.101.2/24"), "{addr}");
        std::fs::write(host.root().join("daemon.json"), r#"{"bip": "192.168.100.1/24",}"#)
            .expect("daemon.json");
        host.bulkhead(&["run", "--rm", "busybox", "true"]).code(125).complains("daemon.json");
        std::fs::remove_file(host.root().join("daemon.json")).expect("remove");
    });
}

#[test]
fn what_the_operator_says_of_networks() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let settings =
            |text: &str| std::fs::write(host.root().join("daemon.json"), text).expect("daemon.json");
        let address = |name: &str| host.inspect(name, "{{.NetworkSettings.IPAddress}}");
        let run = |name: &str, more: &[&str]| {
            let all = [&["run", "-d", "--name", name][..], more, &["busybox", "sleep", "1000"]].concat();
            host.bulkhead(&all)
        };
        // Containers of the default bridge are kept apart, and those of another network are not.
        settings(
            r#"{"icc": false, "ip": "127.0.0.1", "default-address-pools": [{"base": "10.77.0.0/16", "size": 24}]}"#,
        );
        run("one", &["-p", "80"]).ok();
        run("two", &[]).ok();
        host.bulkhead(&["exec", "two", "ping", "-c", "1", "-w", "1", &address("one")]).code(1);
        assert!(host.bulkhead(&["port", "one"]).ok().out().starts_with("80/tcp -> 127.0.0.1:"));
        let told = host.bulkhead(&["network", "inspect", "bridge"]).ok().out();
        assert!(told.contains(r#""com.docker.network.bridge.enable_icc": "false""#), "{told}");
        assert_eq!(address("one"), "10.77.0.2");
        host.bulkhead(&["network", "create", "own"]).ok();
        run("three", &["--network", "own"]).ok();
        run("four", &["--network", "own"]).ok();
        host.bulkhead(&["exec", "four", "ping", "-c", "1", "-w", "5", "three"]).ok();
        let subnet = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
        host.bulkhead(&["network", "inspect", "-f", subnet, "own"]).ok().prints("10.77.1.0/24\n");
        host.bulkhead(&["rm", "-f", "one", "two", "three", "four"]).ok();
        host.bulkhead(&["network", "rm", "own"]).ok();

        // A bridge of the operator's own is used and left where it is.
        settings(r#"{"bridge": "cusbr0"}"#);
        run("none", &[])
            .code(125)
            .complains("bridge device with non default name cusbr0 must be created manually");
        host.bulkhead(&["rm", "none"]).ok();
        machine(
            "ip link add cusbr0 type bridge; ip addr add 192.168.100.1/24 dev cusbr0; ip link set cusbr0 up",
        );
        run("five", &[]).ok();
        run("six", &[]).ok();
        assert_eq!(address("five"), "192.168.100.2");
        assert!(machine("ip -o link show master cusbr0").lines().count() == 2);
        host.bulkhead(&["exec", "six", "ping", "-c", "1", "-w", "5", &address("five")]).ok();
        host.bulkhead(&["rm", "-f", "five", "six"]).ok();
        assert!(machine("ip -o addr show cusbr0").contains("192.168.100.1/24"));
        settings(r#"{"bridge": "cusbr0", "bip": "10.1.1.1/24"}"#);
        run("none", &[]).code(125).complains("mutually exclusive options");
        host.bulkhead(&["rm", "-f", "none"]);
        machine("ip link del cusbr0");
        std::fs::remove_file(host.root().join("daemon.json")).expect("remove");
    });
}

#[test]
fn hosts_names_and_ports_that_are_asked_for() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let run = [
            "run",
            "--rm",
            "--add-host",
            "gate:host-gateway",
            "--add-host",
            "db=10.0.0.5",
            "--dns",
            "192.0.2.53",
            "--dns-search",
            "corp.example",
        ];
        let said = host
            .bulkhead(&[&run[..], &["busybox", "cat", "/etc/hosts", "/etc/resolv.conf"]].concat())
            .ok()
            .out();
        for line in ["172.17.0.1\tgate", "10.0.0.5\tdb", "nameserver 192.0.2.53", "search corp.example"] {
            assert!(said.lines().any(|l| l == line), "{line}: {said}");
        }
        let ports = [
            "-P",
            "--expose",
            "81/udp",
            "-p",
            "127.0.0.1:7000-7001:80-81",
            "-p",
            "9100-9110:82",
            "-p",
            "53:53/udp",
        ];
        host.bulkhead(
            &[&["run", "-d", "--name", "many"][..], &ports, &["busybox", "sleep", "1000"]].concat(),
        )
        .ok();
        let told = host.bulkhead(&["port", "many"]).ok().out();
        for line in [
            "80/tcp -> 127.0.0.1:7000",
            "81/tcp -> 127.0.0.1:7001",
            "82/tcp -> 0.0.0.0:9100",
            "53/udp -> 0.0.0.0:53",
        ] {
            assert!(told.lines().any(|l| l == line), "{line}: {told}");
        }
        assert!(told.contains("81/udp -> 0.0.0.0:"), "{told}");
        host.bulkhead(&["run", "-d", "--name", "next", "-p", "9100-9110:82", "busybox", "sleep", "1000"])
            .ok();
        host.bulkhead(&["port", "next", "82"]).ok().prints("0.0.0.0:9101\n");
        // What the image exposes is published as well.
        host.bulkhead(&["commit", "-c", "EXPOSE 83 84/udp", "next", "exposing"]).ok();
        host.bulkhead(&["run", "-d", "-P", "--name", "all", "exposing", "sleep", "1000"]).ok();
        let told = host.bulkhead(&["port", "all"]).ok().out();
        for line in ["83/tcp -> 0.0.0.0:", "84/udp -> 0.0.0.0:"] {
            assert!(told.lines().any(|l| l.starts_with(line)), "{line}: {told}");
        }
        // udp goes through, both ways.
        echo_in(&host, "many", 53);
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        client.set_read_timeout(Some(std::time::Duration::from_millis(300))).expect("timeout");
        common::eventually("an echo", || {
            let mut reply = [0; 16];
            client.send_to(b"echo\n", "127.0.0.1:53").is_ok()
                && client.recv(&mut reply).is_ok_and(|length| reply.starts_with(b"echo") && length == 5)
        });
    });
}

#[test]
fn ipv6_addresses_ports_names_and_the_way_out() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let outside = Machine::new("ext0", "eth0");
        ok("ip addr add 192.0.2.1/24 dev ext0 && ip addr add 2001:db8::1/64 dev ext0 nodad");
        outside.ok("ip addr add 192.0.2.2/24 dev eth0 && ip addr add 2001:db8::2/64 dev eth0 nodad");
        let subnets = ["--subnet", "10.200.40.0/24", "--subnet", "fd42:1::/64"];
        host.bulkhead(&[&["network", "create", "--ipv6"][..], &subnets, &["six"]].concat()).ok();
        let run = ["run", "-d", "--name", "web", "--network", "six", "--ip6", "fd42:1::50", "-p", "8080:80"];
        host.bulkhead(
            &[
                &run[..],
                &[
                    "busybox",
                    "sh",
                    "-c",
                    "mkdir /www && echo six > /www/index.html && exec httpd -vv -f -h /www",
                ],
            ]
            .concat(),
        )
        .ok();
        host.bulkhead(&["port", "web"]).ok().prints("80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n");
        assert_eq!(ok(&fetch("http://[2001:db8::1]:8080/")), "six\n", "the host itself");
        assert_eq!(outside.ok(&fetch("http://[2001:db8::1]:8080/")), "six\n", "from outside");
        assert_eq!(outside.ok(&fetch("http://192.0.2.1:8080/")), "six\n");
        let said = host.bulkhead(&["logs", "web"]).ok();
        let said = said.out() + &said.err();
        assert!(said.contains("2001:db8::2"), "the source address is kept: {said}");
        let client = ["run", "--rm", "--network", "six", "busybox", "sh", "-c"];
        let ask = |line: &str| host.bulkhead(&[&client[..], &[line]].concat());
        let told = ask("nslookup -type=aaaa web; nslookup fd42:1::50; nslookup -type=a web").ok().out();
        for part in ["fd42:1::50", "name = web.six", "10.200.40."] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(ask(&fetch("http://[fd42:1::50]/")).ok().out(), "six\n");
        assert_eq!(ask(&fetch("http://[2001:db8::1]:8080/")).ok().out(), "six\n", "through the host");
        // The way out is NAT, as for IPv4: the outside has no route to fd42:1::.
        ask("ping -6 -c 1 -w 5 2001:db8::2").ok();
        assert!(!outside.sh("ping -6 -c 1 -w 1 fd42:1::50").status.success(), "closed");
        host.bulkhead(&["run", "--rm", "--network", "six", "--ip6", "fd42:1::50", "busybox", "true"])
            .code(125)
            .complains("Address already in use");
        host.bulkhead(&["run", "--rm", "--network", "six", "--ip6", "fd43::50", "busybox", "true"]).code(125);
        host.bulkhead(&["run", "--rm", "-p", "[::]:8081:80", "busybox", "true"]).code(125).complains("IPv6");
        host.bulkhead(&["rm", "-f", "web"]).ok();
    });
}

#[test]
fn a_macvlan_is_on_its_parents_wire() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let neighbour = Machine::new("lan0", "eth0");
        neighbour.ok("ip addr add 10.200.50.1/24 dev eth0");
        host.bulkhead(&["network", "create", "-d", "macvlan", "--subnet", "10.200.50.0/24", "lan"]).code(1);
        host.bulkhead(&[
            "network",
            "create",
            "-d",
            "macvlan",
            "--subnet",
            "10.200.50.0/24",
            "-o",
            "parent=lan0",
            "lan",
        ])
        .ok();
        web(&host, &["--name", "web", "--network", "lan", "--ip", "10.200.50.20"]);
        assert_eq!(neighbour.ok(&fetch("http://10.200.50.20/")), "hello\n");
        assert_eq!(
            get(&host, &["run", "--rm", "--network", "lan", "busybox"], "http://10.200.50.20/"),
            "hello\n"
        );
        host.bulkhead(&[
            "run",
            "--rm",
            "--network",
            "lan",
            "busybox",
            "ping",
            "-c",
            "1",
            "-w",
            "5",
            "10.200.50.1",
        ])
        .ok();
        host.bulkhead(&["network", "connect", "lan", "nobody"]).code(1);
        host.bulkhead(&["run", "-d", "--name", "both", "busybox", "sleep", "1000"]).ok();
        host.bulkhead(&["network", "connect", "lan", "both"]).ok();
        host.bulkhead(&["exec", "both", "ping", "-c", "1", "-w", "5", "10.200.50.20"]).ok();
        host.bulkhead(&["network", "disconnect", "lan", "both"]).ok();
        host.bulkhead(&["exec", "both", "ls", "/sys/class/net/eth1"]).code(1);
        host.bulkhead(&["rm", "-f", "web", "both"]).ok();
        host.bulkhead(&["network", "rm", "lan"]).ok();
        assert_eq!(machine("nft list tables").trim(), "");
    });
}

/// Somebody else's firewall and bridge, beside ours.
const FOREIGN: &str = "nft add table inet filter && nft add chain inet filter forward '{ type filter hook forward priority 10; policy accept; }' \
    && nft add rule inet filter forward counter && nft add chain inet filter input '{ type filter hook input priority 0; policy accept; }' \
    && nft add table ip nat && nft add chain ip nat post '{ type nat hook postrouting priority 90; }' \
    && nft add rule ip nat post oifname wan0 masquerade && ip link add virbr0 type bridge && ip addr add 192.168.122.1/24 dev virbr0 && ip link set virbr0 up";

fn foreign() -> String {
    machine("nft -s list table inet filter; nft -s list table ip nat; ip -4 -o addr show virbr0")
}

#[test]
fn a_flush_is_put_right_by_reload_and_others_rules_are_not_touched() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        ok(FOREIGN);
        let before = foreign();
        host.bulkhead(&["network", "create", "--subnet", "10.200.60.0/24", "front"]).ok();
        web(&host, &["--name", "web", "--network", "front", "-p", "8080:80"]);
        host.bulkhead(&["run", "-d", "--name", "other", "--network", "front", "busybox", "sleep", "1000"])
            .ok();
        host.bulkhead(&["run", "-d", "--name", "apart", "busybox", "sleep", "1000"]).ok();
        assert_eq!(ok(&fetch("http://127.0.0.1:8080/")), "hello\n");
        assert_eq!(foreign(), before);
        // What has to be told apart: everything of ours goes, bridge and resolver too.
        ok(
            "for t in $(nft list tables | grep -o 'bulkhead-.*'); do nft delete table inet $t; done; ip link del $(ip -o link | grep -o 'br-[0-9a-f]*' | sort -u)",
        );
        for (pid, line) in host.processes() {
            if line.contains(" resolver ") {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)
                    .expect("kill");
            }
        }
        assert!(
            !std::process::Command::new("sh")
                .args(["-c", "busybox timeout 1 busybox wget -qO - http://127.0.0.1:8080/"])
                .status()
                .expect("sh")
                .success()
        );
        host.bulkhead(&["network", "reload"]).ok();
        assert_eq!(ok(&fetch("http://127.0.0.1:8080/")), "hello\n");
        assert_eq!(get(&host, &["exec", "other"], "http://web/"), "hello\n", "by name");
        host.bulkhead(&["exec", "apart", "ping", "-c", "1", "-w", "1", "10.200.60.2"]).code(1);
        assert_eq!(foreign(), before);
        // A start by itself is as good.
        ok("for t in $(nft list tables | grep -o 'bulkhead-.*'); do nft delete table inet $t; done");
        host.bulkhead(&["run", "--rm", "busybox", "true"]).ok();
        assert_eq!(ok(&fetch("http://127.0.0.1:8080/")), "hello\n");
        // And an end after a flush makes nothing anew.
        host.bulkhead(&["rm", "-f", "other", "apart"]).ok();
        ok("nft flush ruleset");
        ok(FOREIGN.split(" && ip link").next().expect("rules"));
        let before = foreign();
        host.bulkhead(&["rm", "-f", "web"]).ok();
        host.bulkhead(&["network", "rm", "front"]).ok();
        assert_eq!(foreign(), before);
        assert!(!machine("nft list tables").contains("bulkhead"), "{}", machine("nft list tables"));
        ok("ip link del virbr0; nft flush ruleset");
        nothing_remains();
    });
}

#[test]
fn what_the_last_container_leaves_goes_without_anybody_asking() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        host.bulkhead(&["run", "--rm", "busybox", "true"]).ok();
        common::eventually("the caretaker has been", || {
            machine("nft list tables; ip -o link | grep -v lo:").trim().is_empty()
        });
        common::eventually("and has gone", || host.processes().is_empty());
        // A caretaker that is killed is replaced by the next command.
        host.bulkhead(&["run", "--rm", "busybox", "true"]).ok();
        let caretakers = || {
            host.processes().into_iter().filter(|(_, line)| line.contains(" caretaker ")).map(|(pid, _)| pid)
        };
        let mut killed = 0;
        for pid in caretakers() {
            killed += usize::from(
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).is_ok(),
            );
        }
        common::eventually("it is dead", || caretakers().next().is_none());
        host.bulkhead(&["ps"]).ok();
        assert!(killed <= 1);
        common::eventually("nothing remains", || {
            machine("nft list tables; ip -o link | grep -v lo:").trim().is_empty()
        });
    });
}

#[test]
fn isolation_hairpin_and_source_addresses() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let outside = Machine::new("ext0", "eth0");
        ok("ip addr add 192.0.2.1/24 dev ext0");
        outside.ok("ip addr add 192.0.2.2/24 dev eth0 && ip route add default via 192.0.2.1");
        host.bulkhead(&["network", "create", "--subnet", "10.200.70.0/24", "front"]).ok();
        host.bulkhead(&["network", "create", "--subnet", "10.200.71.0/24", "back"]).ok();
        let serve = [
            "busybox",
            "sh",
            "-c",
            "mkdir /www && echo hello > /www/index.html && exec httpd -vv -f -h /www",
        ];
        host.bulkhead(
            &[&["run", "-d", "--name", "web", "--network", "front", "-p", "8080:80"][..], &serve].concat(),
        )
        .ok();
        host.bulkhead(&[
            "run",
            "-d",
            "--name",
            "spy",
            "--privileged",
            "--network",
            "back",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
        host.bulkhead(&["run", "-d", "--name", "default", "busybox", "sleep", "1000"]).ok();
        let reaches = |from: &str, to: &str| {
            host.bulkhead(&["exec", from, "ping", "-c", "1", "-w", "1", to]).status.success()
        };
        let address = |name: &str, net: &str| {
            host.inspect(name, &format!("{{{{(index .NetworkSettings.Networks \"{net}\").IPAddress}}}}"))
        };
        let web_at = address("web", "front");
        assert!(!reaches("spy", &web_at) && !reaches("default", &web_at));
        // An address of the other network's, added by hand, does not cross.
        host.bulkhead(&["exec", "spy", "ip", "addr", "add", "10.200.70.99/24", "dev", "eth0"]).ok();
        assert!(!reaches("spy", &web_at));
        host.bulkhead(&["exec", "spy", "ip", "addr", "add", "10.200.71.98/24", "dev", "eth0"]).ok();
        host.bulkhead(&["exec", "spy", "ping", "-I", "10.200.71.98", "-c", "1", "-w", "1", "192.0.2.2"])
            .code(1);
        host.bulkhead(&["exec", "spy", "ping", "-c", "1", "-w", "5", "192.0.2.2"]).ok();
        // From outside, with its own source address; from another network and by hairpin, through the port.
        assert_eq!(outside.ok(&fetch("http://192.0.2.1:8080/")), "hello\n");
        let said = || {
            let said = host.bulkhead(&["logs", "web"]).ok();
            said.out() + &said.err()
        };
        assert!(said().contains("192.0.2.2"), "{}", said());
        assert_eq!(get(&host, &["exec", "default"], "http://192.0.2.1:8080/"), "hello\n");
        assert!(said().contains(&address("default", "bridge")), "{}", said());
        assert_eq!(get(&host, &["exec", "web"], "http://192.0.2.1:8080/"), "hello\n");
        // A container's address is not reachable from outside by routing, published port or not.
        outside.ok("ip route add 10.200.70.0/24 via 192.0.2.1");
        assert!(
            !outside.sh(&format!("busybox timeout 1 busybox wget -qO - http://{web_at}/")).status.success()
        );
        // connect opens one path and no other.
        host.bulkhead(&["network", "connect", "front", "default"]).ok();
        assert!(reaches("default", &web_at) && !reaches("spy", &web_at));
        assert!(
            reaches("web", &address("default", "front")) && !reaches("web", &address("default", "bridge"))
        );
        host.bulkhead(&["network", "disconnect", "front", "default"]).ok();
        assert!(!reaches("default", &web_at));
        // Rules are as many with a hundred ports as with one.
        let rules =
            || machine("nft -a list ruleset | grep -c '# handle'").trim().parse::<u32>().expect("count");
        let before = rules();
        host.bulkhead(&[
            "run",
            "-d",
            "--name",
            "many",
            "-p",
            "10000-10099:10000-10099",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
        assert_eq!(rules(), before);
        host.bulkhead(&["rm", "-f", "many"]).ok();
    });
}

#[test]
fn a_taken_port_is_an_error_before_the_container_starts() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let shared = host.dir();
        let volume = format!("{}:/shared", shared.display());
        let attempt = |ports: &[&str]| {
            let run =
                [&["run", "--rm", "-v", &volume][..], ports, &["busybox", "touch", "/shared/ran"]].concat();
            host.bulkhead(&run)
        };
        let taken = std::net::TcpListener::bind("0.0.0.0:8080").expect("bind");
        attempt(&["-p", "8080:80"]).code(125).complains("ddress already in use");
        attempt(&["-p", "127.0.0.1:8080:80"]).code(125);
        attempt(&["-p", "192.0.2.77:8081:80"]).code(125).complains("annot assign requested address");
        drop(taken);
        let udp = std::net::UdpSocket::bind("127.0.0.1:8080").expect("bind");
        attempt(&["-p", "8080:80/udp"]).code(125);
        host.bulkhead(&["run", "-d", "--name", "has", "-p", "8082:80", "busybox", "sleep", "1000"]).ok();
        attempt(&["-p", "8082:80"]).code(125).complains("port is already allocated");
        attempt(&["-p", "8083:80", "-p", "8083:81"]).code(125);
        assert!(!shared.join("ran").exists());
        // tcp and udp are apart, and what a failed start had is free.
        attempt(&["-p", "8080:80", "-p", "8081:80", "-p", "8083:80"]).ok();
        assert!(shared.join("ran").exists());
        drop(udp);
        host.bulkhead(&["rm", "-f", "has"]).ok();
        nothing_remains();
    });
}

/// The commands of docs/networks.md between two fences, for one of the two hosts.
fn documented(block: &str, machine: &str) -> Vec<String> {
    let text = include_str!("../docs/networks.md");
    let block = text.split(&format!("\n```sh {block}\n")).nth(1).and_then(|rest| rest.split("\n```").next());
    let mark = format!("# {machine}");
    let lines =
        block.unwrap_or_default().lines().filter(|line| line.ends_with(&mark) || line.ends_with("# both"));
    lines.map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned()).collect()
}

/// Two machines on one wire, eth0 each, 10.0.0.204 and 10.0.0.208, and a store on each. The first is the
/// test's own namespace.
struct Two {
    far: Machine,
    here: Host,
    there: Host,
}

impl Two {
    fn new(here: Host, there: Host) -> Self {
        let far = Machine::new("eth0", "eth0");
        ok("ip addr add 10.0.0.204/24 dev eth0");
        far.ok("ip addr add 10.0.0.208/24 dev eth0");
        here.busybox();
        there.busybox();
        Self { far, here, there }
    }

    /// Types what the documentation says, on both.
    #[track_caller]
    fn follow(&self, block: &str) {
        let (mine, theirs) = (documented(block, "A"), documented(block, "B"));
        assert!(!mine.is_empty() && !theirs.is_empty(), "docs/networks.md has no commands for {block}");
        for line in mine {
            match line.strip_prefix("bulkhead ") {
                Some(words) => drop(self.here.bulkhead(&words.split_whitespace().collect::<Vec<_>>()).ok()),
                None => drop(ok(&line.replace("bulkhead0", &bridge_of(&self.here)))),
            }
        }
        for line in theirs {
            match line.strip_prefix("bulkhead ") {
                Some(words) => {
                    drop(self.far.bulkhead(&self.there, &words.split_whitespace().collect::<Vec<_>>()).ok());
                }
                None => drop(self.far.ok(&line.replace("bulkhead0", &bridge_of(&self.there)))),
            }
        }
    }

    fn end(&self) {
        for id in self.there.containers() {
            self.far.bulkhead(&self.there, &["rm", "-f", &id]).ok();
        }
        for id in self.here.containers() {
            self.here.bulkhead(&["rm", "-f", &id]).ok();
        }
    }
}

/// The default bridge of a store whose root is not the default one.
fn bridge_of(host: &Host) -> String {
    let options = host.bulkhead(&["network", "inspect", "bridge"]).ok().out();
    let name =
        options.split("com.docker.network.bridge.name\": \"").nth(1).and_then(|rest| rest.split('"').next());
    name.expect("the bridge's name").to_owned()
}

/// Each prints where it is reached from and serves `hello`.
const SERVE: &[&str] =
    &["busybox", "sh", "-c", "mkdir /www && echo hello > /www/index.html && exec httpd -vv -f -h /www"];

#[test]
fn two_machines_routed() {
    on_own_network(|| {
        let two = Two::new(host!(), host!());
        two.follow("routed");
        two.here.bulkhead(&[&["run", "-d", "--name", "web", "--network", "lan"][..], SERVE].concat()).ok();
        two.far
            .bulkhead(&two.there, &[&["run", "-d", "--name", "web", "--network", "lan"][..], SERVE].concat())
            .ok();
        let get = |url: &str| fetch(url);
        assert_eq!(
            two.here.bulkhead(&["exec", "web", "sh", "-c", &get("http://192.168.200.2/")]).ok().out(),
            "hello\n"
        );
        let back =
            two.far.bulkhead(&two.there, &["exec", "web", "sh", "-c", &get("http://192.168.100.2/")]).ok();
        assert_eq!(back.out(), "hello\n");
        // Without masquerading each sees the other's own address.
        let said = two.far.bulkhead(&two.there, &["logs", "web"]).ok();
        assert!((said.out() + &said.err()).contains("192.168.100.2"), "{said}");
        // Only the trusted interface leads in, and only to that network.
        two.far.bulkhead(&two.there, &[&["run", "-d", "--name", "closed"][..], SERVE].concat()).ok();
        ok("ip route add 172.17.0.0/16 via 10.0.0.208 dev eth0 2>/dev/null || true");
        two.here.bulkhead(&["exec", "web", "ping", "-c", "1", "-w", "1", "172.17.0.2"]).code(1);
        two.end();
    });
}

#[test]
fn two_machines_bridged() {
    on_own_network(|| {
        let two = Two::new(host!(), host!());
        // A second NIC, as in the documentation, which joins the bridges.
        let pid = two.far.0.id();
        ok(&format!("ip link add eth1 type veth peer name eth1 netns /proc/{pid}/ns/net"));
        spread(&two, "bridged");
    });
}

#[test]
fn two_machines_over_vxlan() {
    on_own_network(|| {
        let two = Two::new(host!(), host!());
        spread(&two, "vxlan");
        let frames = ok("ip -s link show vx0");
        assert!(
            !frames.contains("TX:  bytes packets errors dropped carrier collsns           \n             0"),
            "{frames}"
        );
    });
}

/// One subnet over both machines: each gives out its own half, and all reach all.
fn spread(two: &Two, block: &str) {
    let settings =
        |host: &Host, text: &str| std::fs::write(host.root().join("daemon.json"), text).expect("daemon.json");
    let text = include_str!("../docs/networks.md");
    for (host, mark) in [(&two.here, "A"), (&two.there, "B")] {
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("# daemon.json on {mark}: ")));
        settings(host, line.expect("the documented daemon.json"));
    }
    two.here.bulkhead(&[&["run", "-d", "--name", "web"][..], SERVE].concat()).ok();
    two.far.bulkhead(&two.there, &[&["run", "-d", "--name", "web"][..], SERVE].concat()).ok();
    two.follow(block);
    let get = |url: &str| fetch(url);
    assert_eq!(
        two.here.bulkhead(&["exec", "web", "sh", "-c", &get("http://172.17.2.0/")]).ok().out(),
        "hello\n"
    );
    let back = two.far.bulkhead(&two.there, &["exec", "web", "sh", "-c", &get("http://172.17.1.0/")]).ok();
    assert_eq!(back.out(), "hello\n");
    let said = two.far.bulkhead(&two.there, &["logs", "web"]).ok();
    assert!((said.out() + &said.err()).contains("172.17.1.0"), "its own address: {said}");
    // The port that somebody has put into the bridge keeps the bridge.
    two.end();
    assert!(ok("ip -o link").contains(&bridge_of(&two.here)));
}

#[test]
fn bad_networks_and_addresses_are_refused_and_nothing_is_kept() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        ok(
            "ip link add ext0 type veth peer name ext1 && ip addr add 192.0.2.1/24 dev ext0 && ip link set ext0 up",
        );
        let refused = |args: &[&str], why: &str| {
            drop(host.bulkhead(&[&["network", "create"], args].concat()).code(1).complains(why));
        };
        refused(&["--subnet", "192.0.2.128/25", "bad"], "overlaps");
        refused(
            &["--subnet", "10.200.80.0/24", "--gateway", "10.200.81.1", "bad"],
            "no matching subnet for gateway",
        );
        refused(
            &["--subnet", "10.200.80.0/24", "--ip-range", "10.200.0.0/16", "bad"],
            "no matching subnet for range",
        );
        refused(&["--gateway", "10.200.80.1", "bad"], "no matching subnet");
        refused(
            &["--subnet", "10.200.80.0/24", "--gateway", "10.200.80.255", "bad"],
            "no matching subnet for gateway",
        );
        refused(&["--subnet", "10.200.80.0/31", "bad"], "too small");
        refused(&["--subnet", "10.200.80.0/33", "bad"], "invalid CIDR");
        refused(&["--subnet", "10.200.80.0/-1", "bad"], "invalid CIDR");
        refused(&["-o", "com.docker.network.driver.mtu=0", "bad"], "invalid value");
        refused(&["-o", "com.docker.network.bridge.name=a/b", "bad"], "invalid value");
        refused(&["-o", "com.docker.network.bridge.name=ext0", "bad"], "in use");
        refused(&["-d", "overlay", "bad"], "plugin");
        let long = "x".repeat(300);
        for name in ["", "a b", "a/b", "../x", "a;b", "a\nb", "\u{e9}t\u{e9}", "-", &long] {
            host.bulkhead(&["network", "create", "--", name]).code(1);
        }
        host.bulkhead(&["network", "create", "--subnet", "10.200.80.0/29", "tiny"]).ok();
        refused(&["--subnet", "10.200.80.4/30", "bad"], "overlaps");
        refused(&["tiny"], "already exists");
        host.bulkhead(&["network", "ls", "-q", "--filter", "type=custom"]).ok().line();

        // Six hosts, one of them the gateway.
        let sleeper = |name: &str, more: &[&str]| {
            host.bulkhead(
                &[&["run", "-d", "--name", name, "--network", "tiny"], more, &["busybox", "sleep", "1000"]]
                    .concat(),
            )
        };
        for n in 1..=5 {
            sleeper(&format!("c{n}"), &[]).ok();
        }
        sleeper("c6", &[]).code(125).complains("no available IPv4 addresses");
        host.bulkhead(&["rm", "-f", "c6", "c3"]).ok();
        sleeper("c3", &["--ip", "10.200.80.2"]).code(125).complains("Address already in use");
        host.bulkhead(&["rm", "c3"]).ok();
        sleeper("c3", &["--ip", "10.200.80.1"]).code(125).complains("Address already in use");
        host.bulkhead(&["rm", "c3"]).ok();
        sleeper("c3", &["--network-alias", "a b"]).code(125);
        host.bulkhead(&["rm", "-f", "c3"]).ok();
        sleeper("c3", &["--mac-address", "01:00:00:00:00:01"]).code(125);
        host.bulkhead(&["rm", "-f", "c3"]).ok();
        host.bulkhead(&["run", "--rm", "--ip", "172.17.0.9", "busybox", "true"])
            .code(125)
            .complains("user defined networks only");
        host.bulkhead(&["run", "--rm", "--network-alias", "x", "busybox", "true"]).code(125);
        // Two of the same alias are both answers.
        sleeper("c3", &["--network-alias", "same"]).ok();
        host.bulkhead(&["rm", "-f", "c4"]).ok();
        sleeper("c4", &["--network-alias", "same"]).ok();
        let told = host.bulkhead(&["exec", "c1", "nslookup", "-type=a", "same"]).ok().out();
        assert!(told.contains("10.200.80.4") && told.contains("10.200.80.5"), "{told}");
        host.bulkhead(&["rm", "-f", "c1", "c2", "c3", "c4", "c5"]).ok();
        host.bulkhead(&["network", "rm", "tiny"]).ok();
        ok("ip link del ext0");
        nothing_remains();
    });
}

#[test]
fn a_resolver_survives_whatever_it_is_sent_and_tells_strangers_nothing() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        host.bulkhead(&["network", "create", "--subnet", "10.200.90.0/24", "front"]).ok();
        host.bulkhead(&["network", "create", "--subnet", "10.200.91.0/24", "back"]).ok();
        let sleeper = |name: &str, net: &str| {
            drop(
                host.bulkhead(&["run", "-d", "--name", name, "--network", net, "busybox", "sleep", "1000"])
                    .ok(),
            );
        };
        sleeper("web", "front");
        sleeper("db", "front");
        sleeper("spy", "back");
        let asks = |who: &str, server: &str, name: &str| {
            host.bulkhead(&["exec", who, "timeout", "3", "nslookup", "-type=a", name, server])
        };
        assert!(asks("web", "10.200.90.1", "db").ok().out().contains("10.200.90.3"));
        // From another network, from the host itself: silence.
        assert!(!asks("spy", "10.200.90.1", "db").status.success());
        assert!(!machine("busybox timeout 2 nslookup -type=a db 10.200.90.1").contains("10.200.90.3"));
        // And by its own resolver, nothing of the other network's.
        assert!(!asks("spy", "10.200.91.1", "db").out().contains("10.200.90"));
        // Malformed, huge, looping: sent from inside, where the answer would go.
        let pid: i32 = host.inspect("web", "{{.State.Pid}}").parse().expect("pid");
        std::thread::spawn(move || {
            let netns = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("netns");
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
            let looping =
                b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01".to_vec();
            let answer =
                b"\x00\x01\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x00\x00\x01\x00\x01".to_vec();
            let many = [&b"\x00\x01\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff"[..], &[0xc0, 0x0c].repeat(2000)]
                .concat();
            for message in [Vec::new(), vec![0], vec![0xff; 12], vec![0xff; 60_000], looping, answer, many] {
                for _ in 0..20 {
                    let _ = socket.send_to(&message, "10.200.90.1:53");
                }
                if let Ok(mut stream) = std::net::TcpStream::connect("10.200.90.1:53") {
                    use std::io::Write as _;
                    let _ = stream.write_all(&(message.len() as u16).to_be_bytes());
                    let _ = stream.write_all(&message);
                }
            }
            // More connections than it has places, which say nothing.
            let silent: Vec<_> =
                (0..200).filter_map(|_| std::net::TcpStream::connect("10.200.90.1:53").ok()).collect();
            drop(silent);
        })
        .join()
        .expect("thread");
        common::eventually("it answers", || asks("web", "10.200.90.1", "db").out().contains("10.200.90.3"));
        host.bulkhead(&["rm", "-f", "web", "db", "spy"]).ok();
        host.bulkhead(&["network", "rm", "front", "back"]).ok();
        nothing_remains();
    });
}

#[test]
fn what_a_crashed_run_left_is_in_nobodys_way() {
    on_own_network(|| {
        let host = host!();
        host.busybox();
        host.bulkhead(&["network", "create", "--subnet", "10.200.95.0/24", "front"]).ok();
        let run =
            ["run", "--rm", "-p", "8080:80", "--network", "front", "--ip", "10.200.95.9", "busybox", "true"];
        // SIGKILL to everybody at once, a little later each time; the next run has address and port.
        for moment in 0..24 {
            let mut child = host
                .command(&run)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("spawn");
            std::thread::sleep(std::time::Duration::from_millis(2 + 3 * moment));
            let _ = child.kill();
            let _ = child.wait();
            // Until nobody is left: what was started between a look and its kill would go on, and rightly
            // have the address for as long.
            common::eventually("everybody is dead", || {
                let doomed: Vec<i32> = host
                    .processes()
                    .into_iter()
                    .filter(|(_, line)| !line.contains(" resolver ") || moment % 3 == 0)
                    .map(|(pid, _)| pid)
                    .collect();
                for pid in &doomed {
                    let pid = nix::unistd::Pid::from_raw(*pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
                doomed.is_empty()
            });
            host.bulkhead(&run).ok();
        }
        // A half-made bridge, a foreign rule and a foreign element in our table, a table of an earlier version.
        let bridge = bridge_of(&host);
        ok(&format!("ip link del {bridge} 2>/dev/null; ip link add {bridge} type bridge"));
        let table = format!("bulkhead-{}", bridge.trim_start_matches("bh-"));
        ok(&format!(
            "nft delete table inet {table} 2>/dev/null; nft add table inet {table}; nft add chain inet {table} old; nft add set inet {table} bridges '{{ type ipv4_addr; }}'"
        ));
        host.bulkhead(&["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "1000"]).ok();
        assert!(ok(&format!("ip addr show {bridge}")).contains("172.17.0.1/16"));
        assert!(!ok(&format!("nft list table inet {table}")).contains("chain old"));
        // Somebody's chain jumps into a chain of ours: ours cannot be deleted while it does, theirs is left alone.
        ok(&format!(
            "nft add rule inet {table} forward jump dnat 2>/dev/null || nft add rule inet {table} guard counter"
        ));
        host.bulkhead(&["run", "--rm", "-p", "8081:80", "busybox", "true"]).ok();
        host.bulkhead(&["rm", "-f", "web"]).ok();
        host.bulkhead(&["network", "rm", "front"]).ok();
        nothing_remains();
    });
}

#[test]
fn iperf3_through_a_published_port_both_ways_and_both_protocols() {
    if machine("command -v iperf3").is_empty() {
        skip!("iperf3");
    }
    on_own_network(|| {
        let host = host!();
        host.busybox();
        let outside = Machine::new("ext0", "eth0");
        ok("ip addr add 192.0.2.1/24 dev ext0");
        outside.ok("ip addr add 192.0.2.2/24 dev eth0");
        let ports = ["-p", "5201:5201", "-p", "5201:5201/udp"];
        host.bulkhead(
            &[&["run", "-d", "--name", "server"][..], &ports, &["busybox", "sleep", "1000"]].concat(),
        )
        .ok();
        let pid = host.inspect("server", "{{.State.Pid}}");
        let mut server = std::process::Command::new("nsenter")
            .args(["-n", "-t", &pid, "iperf3", "-s"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("iperf3");
        let run = |flags: &str| outside.sh(&format!("iperf3 -c 192.0.2.1 -n 4M {flags} -J"));
        common::eventually("it listens", || run("").status.success());
        for flags in ["-R", "-P 4", "-u -b 200M", "-u -b 200M -R"] {
            let output = run(flags);
            let told = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && told.contains("\"sum"), "{flags}: {told}");
        }
        server.kill().expect("kill");
        server.wait().expect("wait");
        host.bulkhead(&["rm", "-f", "server"]).ok();
    });
}

/// What runs is taken off its last network and put on one again.
#[test]
fn the_last_network_is_not_the_last() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["network", "create", "lan"]).ok();
    host.bulkhead(&["run", "-d", "--name", "box", "--network", "lan", image, "sleep", "1000"]).ok();
    for _ in 0..2 {
        host.bulkhead(&["network", "disconnect", "lan", "box"]).ok();
        host.bulkhead(&["exec", "box", "ls", "/sys/class/net"]).ok().prints("lo\n");
        host.bulkhead(&["network", "connect", "lan", "box"]).ok();
        host.bulkhead(&["exec", "box", "ls", "/sys/class/net"]).ok().prints("eth0\nlo\n");
        host.bulkhead(&["restart", "-t", "0", "box"]).ok();
    }
    assert_eq!(host.inspect("box", "{{.HostConfig.NetworkMode}}"), "lan");
    host.bulkhead(&["rm", "-f", "box"]).ok();
    host.bulkhead(&["network", "rm", "lan"]).ok();
}
