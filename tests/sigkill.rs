//! SIGKILL at any instant of load, run and rm: the next command works, and nothing leaks.
//!
//! The instants are spread over the length of the undisturbed command, so that on a machine of any speed
//! they fall into all of its steps. What a killed command was doing may have happened or not; what may
//! not be is half of it.

mod common;

use std::time::{Duration, Instant};

use common::Host;
use common::images::{self, Compression, Image};

/// How many instants per command.
const INSTANTS: u32 = 40;

/// The same for load: every one of these loads again, and a load syncs the disk.
const LOAD_INSTANTS: u32 = 16;

/// How long a command takes undisturbed: the fastest of three.
fn length(run: impl FnMut()) -> Duration {
    length_after(|| {}, run)
}

/// The same of one that something has to be made ready for each time.
fn length_after(mut ready: impl FnMut(), mut run: impl FnMut()) -> Duration {
    let time = |()| {
        ready();
        let start = Instant::now();
        run();
        start.elapsed()
    };
    [(); 3].map(time).into_iter().min().expect("three")
}

fn layers(host: &Host) -> usize {
    std::fs::read_dir(host.root().join("layers")).map_or(0, Iterator::count)
}

#[test]
fn load() {
    let host = host!();
    host.busybox();
    let with_busybox = layers(&host);
    let image = (0..6).fold(Image::busybox().name("big:latest"), |image, i| {
        let tar = (0..200).fold(images::Tar::new().dir("d", 0o755), |tar, f| {
            tar.file(&format!("d/{i}-{f}"), 0o644, vec![i; 2000])
        });
        image.layer(tar.build())
    });
    let archive = host.file("big.tar", image.docker_archive(Compression::Gzip));
    let archive = archive.to_str().expect("UTF-8");
    let load = ["load", "-i", archive];
    let whole = length(|| {
        host.bulkhead(&load).ok();
        host.bulkhead(&["rmi", "big"]).ok();
    });
    let mut killed = 0;
    for i in 0..LOAD_INSTANTS {
        killed += u32::from(host.kill_after(&load, whole * i / LOAD_INSTANTS));
        // What was there works, and the load can be done again on top of whatever the kill left.
        host.bulkhead(&["run", "--rm", "busybox", "true"]).ok();
        host.bulkhead(&load).ok();
        let out = host.bulkhead(&["run", "--rm", "big", "cat", "/d/5-199"]).ok();
        assert_eq!(out.stdout, vec![5; 2000]);
        host.bulkhead(&["rmi", "big"]).ok();
        assert_eq!(layers(&host), with_busybox, "layers of a removed image after instant {i}");
    }
    assert!(killed > 0, "every load ended before its kill");
    common::eventually("nothing is left", || host.leftovers().is_empty());
}

#[test]
fn run() {
    let host = host!();
    let image = host.busybox();
    let line = ["run", "--rm", image, "true"];
    let whole = length(|| {
        host.bulkhead(&line).ok();
    });
    let mut killed = 0;
    for i in 0..INSTANTS {
        killed += u32::from(host.kill_after(&line, whole * i / INSTANTS));
        host.bulkhead(&["run", "--rm", image, "true"]).ok();
        remove_all(&host);
    }
    assert!(killed > 0, "every run ended before its kill");
    common::eventually("nothing is left", || host.leftovers().is_empty());
}

/// Removes every container that can still be found; one may vanish by itself meanwhile (`--rm`).
fn remove_all(host: &Host) {
    for id in host.containers() {
        let rm = host.bulkhead(&["rm", "-f", &id]);
        assert!(rm.status.success() || rm.err().contains("No such container"), "{rm}");
    }
}

/// Runs a command and kills it after `delay`, and whatever of its monitor and its container is there.
fn kill_all_after(host: &Host, line: &[&str], delay: Duration) {
    let mut child = host.spawn(line);
    std::thread::sleep(delay);
    for (pid, _) in host.processes() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    }
    child.wait().expect("waitpid");
}

#[test]
fn run_and_its_monitor() {
    let host = host!();
    let image = host.busybox();
    let whole = length(|| {
        host.bulkhead(&["run", "--rm", image, "true"]).ok();
    });
    for i in 0..INSTANTS {
        // Long enough to be running at the last instants.
        let line = ["run", "-d", "--name", "victim", image, "sleep", "1000"];
        kill_all_after(&host, &line, whole * i / INSTANTS);
        // The name is free again once the dead container is removed, or was never taken.
        let rm = host.bulkhead(&["rm", "-f", "victim"]);
        assert!(rm.status.success() || rm.err().contains("No such container"), "instant {i}\n{rm}");
        host.bulkhead(&["run", "--name", "victim", image, "true"]).ok();
        host.bulkhead(&["rm", "victim"]).ok();
    }
    common::eventually("nothing is left", || host.leftovers().is_empty());
}

#[test]
fn rm() {
    let host = host!();
    let image = host.busybox();
    let start = || drop(host.bulkhead(&["run", "-d", "--name", "victim", image, "sleep", "1000"]).ok());
    let line = ["rm", "-f", "victim"];
    let whole = length_after(start, || drop(host.bulkhead(&line).ok()));
    let mut killed = 0;
    for i in 0..INSTANTS {
        start();
        killed += u32::from(host.kill_after(&line, whole * i / INSTANTS));
        let rm = host.bulkhead(&line);
        assert!(rm.status.success() || rm.err().contains("No such container"), "instant {i}\n{rm}");
    }
    assert!(killed > 0, "every rm ended before its kill");
    common::eventually("nothing is left", || host.leftovers().is_empty());
}

/// Limits that a container began without: its processes are moved, and must not be left frozen.
#[test]
fn update() {
    let host = host!();
    let image = host.busybox();
    let fresh = || {
        host.bulkhead(&["rm", "-f", "victim"]);
        host.bulkhead(&["run", "-d", "--name", "victim", image, "sleep", "1000"]).ok();
    };
    let line = ["update", "--cpus", "0.5", "--pids-limit", "100", "victim"];
    let whole = length_after(fresh, || drop(host.bulkhead(&line).ok()));
    let mut killed = 0;
    for i in 0..INSTANTS {
        fresh();
        killed += u32::from(host.kill_after(&line, whole * i / INSTANTS));
        // The next command lets it go on; an exec into one that stands still would wait for ever.
        host.bulkhead(&["ps", "-q"]).ok();
        host.bulkhead(&["exec", "victim", "true"]).ok();
        host.bulkhead(&line).ok();
    }
    host.bulkhead(&["rm", "-f", "victim"]).ok();
    assert!(killed > 0, "every update ended before its kill");
    common::eventually("nothing is left", || host.leftovers().is_empty());
}

/// A network that a container is on is one that it can be taken off.
#[test]
fn connect() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["network", "create", "lan"]).ok();
    host.bulkhead(&["run", "-d", "--name", "victim", image, "sleep", "1000"]).ok();
    let (on, off) = (["network", "connect", "lan", "victim"], ["network", "disconnect", "lan", "victim"]);
    let whole = length(|| {
        host.bulkhead(&on).ok();
        host.bulkhead(&off).ok();
    }) / 2;
    let mut killed = 0;
    for i in 0..INSTANTS {
        killed += u32::from(host.kill_after(&on, whole * i / INSTANTS));
        let shown =
            host.inspect("victim", "{{range $name, $net := .NetworkSettings.Networks}}{{$name}} {{end}}");
        let address = host.inspect("victim", "{{with .NetworkSettings.Networks.lan}}{{.IPAddress}}{{end}}");
        let again = host.bulkhead(&on);
        let whole = shown.contains("lan") && !address.is_empty();
        assert!(again.status.success() != whole, "instant {i}: {shown}, {address}\n{again}");
        host.bulkhead(&off).ok();
        host.bulkhead(&["exec", "victim", "ls", "/sys/class/net"]).ok().prints("eth0\nlo\n");
    }
    assert!(killed > 0, "every connect ended before its kill");
    host.bulkhead(&["rm", "-f", "victim"]).ok();
    host.bulkhead(&["network", "rm", "lan"]).ok();
    common::eventually("nothing is left", || host.leftovers().is_empty());
}

/// One whose start was killed can be started.
#[test]
fn start_and_its_monitor() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["create", "--name", "victim", image, "true"]).ok();
    let line = ["start", "-a", "victim"];
    let whole = length(|| {
        host.bulkhead(&line).ok();
    });
    for i in 0..INSTANTS {
        kill_all_after(&host, &line, whole * i / INSTANTS);
        // One that was born meanwhile goes when it finds its parent gone.
        common::eventually("all are dead", || host.processes().is_empty());
        host.bulkhead(&line).ok();
    }
    host.bulkhead(&["rm", "victim"]).ok();
    common::eventually("nothing is left", || host.leftovers().is_empty());
}
