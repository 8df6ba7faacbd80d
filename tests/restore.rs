//! Restart policies after a start of the host: everything of a container is killed, monitor and all, and a server of
//! Docker's API is started.

mod common;

use std::fs;
use std::process::Stdio;

use common::serve::{Api, Serve};
use common::{Host, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A container that sleeps, of this name and policy.
fn sleeper(host: &Host, name: &str, policy: &str) {
    host.bulkhead(&["run", "-d", "--name", name, "--restart", policy, "busybox", "sleep", "1000"]).ok();
}

/// Kills all that there is, monitors first, as the end of the host would; nothing is recorded.
fn lose_everything(host: &Host) {
    for monitors in [true, false] {
        for (pid, line) in host.processes() {
            if line.contains(" monitor ") == monitors {
                // One that went with another is gone.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
    eventually("nothing is left", || host.processes().is_empty());
}

fn status(host: &Host, name: &str) -> String {
    host.inspect(name, "{{.State.Status}}")
}

/// How often a container has been started, by what was told of it.
fn starts(host: &Host, name: &str) -> usize {
    let filter = format!("container={name}");
    let args = ["events", "--since", "0", "--until", "0s", "--filter", "event=start", "--filter", &filter];
    host.bulkhead(&args).ok().out().lines().count()
}

#[test]
fn a_start_of_the_host_runs_what_policies_want() {
    let host = host!();
    host.busybox();
    let wanted = ["always", "unless-stopped", "on-failure", "on-failure:3"];
    for policy in wanted {
        sleeper(&host, &policy.replace(':', "-"), policy);
    }
    sleeper(&host, "no", "no");
    for policy in ["always", "unless-stopped", "on-failure"] {
        let name = format!("stopped-{policy}");
        sleeper(&host, &name, policy);
        host.bulkhead(&["stop", "-t", "0", &name]).ok();
        let made =
            ["create", "--name", &format!("made-{policy}"), "--restart", policy, "busybox", "sleep", "1000"];
        host.bulkhead(&made).ok();
    }
    host.bulkhead(&["run", "--name", "well", "--restart", "on-failure", "busybox", "true"]).ok();
    host.bulkhead(&["run", "-d", "--name", "tried", "--restart", "on-failure:1", "busybox", "false"]).ok();
    host.wait_for("tried", "{{.State.Status}} {{.RestartCount}}", "exited 1");
    host.bulkhead(&["run", "-d", "--rm", "--name", "goes", "busybox", "sleep", "1000"]).ok();
    lose_everything(&host);

    // Neither a list nor the figures are a start of the host.
    host.bulkhead(&["ps", "-a"]).ok();
    let figures = Serve::start(&host, &[]);
    assert!(figures.metrics("").contains("bulkhead"));
    drop(figures);
    assert_eq!(host.bulkhead(&["ps", "-q"]).ok().out(), "");
    assert_eq!(host.inspect("always", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");

    let api = Api::start(&host);
    for name in ["always", "unless-stopped", "on-failure", "on-failure-3", "stopped-always"] {
        assert_eq!(host.inspect(name, "{{.State.Status}} {{.RestartCount}}"), "running 0", "{name}");
        host.bulkhead(&["exec", name, "true"]).ok();
    }
    for name in ["no", "stopped-unless-stopped", "stopped-on-failure", "well", "tried"] {
        assert_eq!(status(&host, name), "exited", "{name}");
    }
    for policy in ["always", "unless-stopped", "on-failure"] {
        assert_eq!(status(&host, &format!("made-{policy}")), "created", "{policy}");
    }
    host.bulkhead(&["inspect", "goes"]).code(1);

    // What runs is let alone by the next server, and by the end of this one.
    drop(api);
    assert_eq!(status(&host, "always"), "running");
    let before = starts(&host, "always");
    drop(Api::start(&host));
    assert_eq!(starts(&host, "always"), before);
}

#[test]
fn servers_and_commands_at_once_start_each_container_once() {
    let host = host!();
    host.busybox();
    // No name that is the beginning of an id, which the filter of events would take for one.
    let names: Vec<String> = (0..8).map(|n| format!("sleeper-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        sleeper(&host, name, ["always", "unless-stopped", "on-failure:2"][n % 3]);
    }
    // One that has come to its end again when the last of them looks.
    let flag = host.file("flag", "");
    let bind = format!("{}:/flag", flag.display());
    host.bulkhead(&[
        "run",
        "-d",
        "--name",
        "brief",
        "--restart",
        "on-failure:1",
        "-v",
        &bind,
        "busybox",
        "sh",
        "-c",
        "test -s /flag && exit 3; sleep 1000",
    ])
    .ok();
    lose_everything(&host);
    fs::write(&flag, "x").expect("write");
    std::thread::scope(|scope| {
        for n in 0..3 {
            let host = &host;
            scope.spawn(move || drop(Api::at(host, &format!("{n}.sock"))));
            scope.spawn(move || {
                for _ in 0..5 {
                    host.bulkhead(&["ps", "-a"]).ok();
                }
            });
        }
    });
    for name in &names {
        assert_eq!(status(&host, name), "running", "{name}");
        assert_eq!(starts(&host, name), 2, "{name}");
    }
    host.wait_for("brief", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "exited 3 1");
    assert_eq!(starts(&host, "brief"), 3, "once by the test, once by a server, once by its policy");
}

#[test]
fn what_others_join_comes_first_and_what_cannot_start_is_named() {
    let host = host!();
    host.busybox();
    let gone = host.file("gone/f", "");
    let mount = format!("type=bind,source={},target=/f", gone.display());
    let args = [
        "run",
        "-d",
        "--name",
        "broken",
        "--restart",
        "always",
        "--mount",
        &mount,
        "busybox",
        "sleep",
        "1000",
    ];
    host.bulkhead(&args).ok();
    // The one that is joined is the younger of the two.
    sleeper(&host, "joins", "always");
    sleeper(&host, "joined", "always");
    host.bulkhead(&["rm", "-f", "joins"]).ok();
    let joins = |name: &str, mode: &str| {
        let args = [
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            "always",
            "--network",
            mode,
            "busybox",
            "sleep",
            "1000",
        ];
        host.bulkhead(&args).ok();
    };
    joins("joins", "container:joined");
    joins("joins-that", "container:joins");
    host.bulkhead(&["rename", "joined", "renamed"]).ok();
    lose_everything(&host);
    fs::remove_dir_all(gone.parent().expect("a directory")).expect("rm");
    let socket = host.dir().join("docker.sock");
    let mut serve = host
        .command(&["serve", "--host", &format!("unix://{}", socket.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(host.dir().join("serve.log")).expect("log"))
        .spawn()
        .expect("serve");
    eventually("it serves", || socket.exists() && status(&host, "joins-that") == "running");
    kill(Pid::from_raw(serve.id().cast_signed()), Signal::SIGTERM).expect("SIGTERM");
    serve.wait().expect("wait");
    let log = fs::read_to_string(host.dir().join("serve.log")).expect("log");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.starts_with("bulkhead serve: broken is not started again: "), "{log}");
    assert!(log.contains(&gone.display().to_string()), "{log}");
    assert_eq!(status(&host, "joins"), "running");
    assert_eq!(status(&host, "broken"), "exited");
}
