//! Networks, typed. Every test makes a network namespace its machine, so that nothing of the real one's is
//! touched and two tests never meet.

mod common;

use common::Host;

/// Runs a test in a thread that has a network namespace of its own; what it starts inherits it.
fn on_own_network(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(move || {
        if !nix::unistd::Uid::effective().is_root() {
            skip!("root");
        }
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
        let up = std::process::Command::new("busybox").args(["ip", "link", "set", "lo", "up"]).status();
        assert!(up.expect("busybox").success());
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// What a program of the machine prints.
fn machine(line: &str) -> String {
    let output = std::process::Command::new("sh").args(["-c", line]).output().expect("sh");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const WEB: &[&str] = &["sh", "-c", "mkdir /www && echo hello > /www/index.html && exec httpd -f -h /www"];

/// Starts a web server and waits until it answers.
fn web(host: &Host, args: &[&str]) {
    let run = [&["run", "-d"], args, &["busybox"], WEB].concat();
    host.bulkhead(&run).ok();
}

fn get(host: &Host, from: &[&str], url: &str) -> String {
    let wget =
        ["sh", "-c", &format!("for i in 1 2 3 4 5 6; do wget -qO - {url} && exit; sleep 0.3; done; exit 1")];
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
        host.bulkhead(&["run", "--rm", "-p", "8080:80", "busybox", "true"]).code(125);
        host.bulkhead(&["network", "rm", "front"]).code(1);
        host.bulkhead(&["rm", "-f", "web"]).ok();
        host.bulkhead(&["network", "rm", "front"]).ok();
        assert_eq!(machine("nft list tables; ip -o link | grep -v lo:").trim(), "");
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
        assert_eq!(machine("nft list tables").trim(), "");
    });
}
