//! How long a container takes to start and end, and what surrounds it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::measure::{Contender, interleave, table};
use crate::peers::{self, Dir, word};
use crate::worker::Worker;

/// `start [ROUNDS]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let rounds = match args {
        [] => 41,
        [n, ..] => n.parse().map_err(|_| format!("rounds: {n:?} is not a number"))?,
    };
    let dir = Dir::new("start")?;
    let dir = dir.path();
    let image = dir.join("busybox.tar");
    let rootfs = dir.join("rootfs");
    busybox(&rootfs, &image)?;
    println!("{}", peers::conditions(dir));
    println!(
        "Warm: every tool ran the same work before the first counted round. No network; no data is synced."
    );
    run_true(dir, &image, &rootfs, rounds)
}

fn words(base: &[String], more: &[&str]) -> Vec<String> {
    base.iter().cloned().chain(more.iter().map(|w| (*w).to_owned())).collect()
}

fn run_true(dir: &Path, image: &Path, rootfs: &Path, rounds: usize) -> Result<(), String> {
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    let mut absent: Vec<(&str, String)> = Vec::new();

    let mut here = Worker::new("", &[])?;
    let us = peers::bulkhead_words(&dir.join("bulkhead"))?;
    match here.run(&words(&us, &["import", &word(image), "busybox"])) {
        Ok(_) => {
            let line = words(&us, &["run", "--rm", "--network", "none", "busybox", "true"]);
            contenders.push(Contender {
                name: "bulkhead run --rm".to_owned(),
                once: Box::new(move |_| here.run(&line)),
            });
        }
        Err(error) => absent.push(("bulkhead", error)),
    }

    for (name, setup) in [("crun", peers::HIDE_V2), ("runc", "")] {
        match bundle(name, &dir.join(name), rootfs) {
            Ok(bundle) => {
                let mut worker = Worker::new(setup, &[])?;
                let line = |round: usize| {
                    let id = format!("bulkhead-bench-{}-{round}", std::process::id());
                    [name, "--root", &word(&bundle.join("state")), "run", "--bundle", &word(&bundle), &id]
                        .map(str::to_owned)
                };
                let line = Box::new(line) as Box<dyn Fn(usize) -> [String; 7]>;
                // The closure borrows nothing that does not outlive the rounds.
                let lines: Vec<_> = (0..rounds + 5).map(&line).collect();
                drop(line);
                let once = move |round: usize| worker.run(&lines[round]);
                contenders
                    .push(Contender { name: format!("{name} run, prepared bundle"), once: Box::new(once) });
            }
            Err(error) => absent.push((name, error)),
        }
    }

    match peers::podman(&dir.join("podman")) {
        Ok((mut worker, base)) => {
            match worker.run(&words(&base, &["import", "--quiet", &word(image), "busybox"])) {
                Ok(_) => {
                    let line = words(&base, &["run", "--rm", "--network", "none", "busybox", "true"]);
                    contenders.push(Contender {
                        name: "podman run --rm (crun)".to_owned(),
                        once: Box::new(move |_| worker.run(&line)),
                    });
                }
                Err(error) => absent.push(("podman", error)),
            }
        }
        Err(error) => absent.push(("podman", error)),
    }

    // It must outlive the rounds.
    let mut daemon = None;
    match peers::containerd(&dir.join("containerd")) {
        Ok((started, mut worker, base)) => {
            daemon = Some(started);
            let rootfs = word(rootfs);
            let once = move |round: usize| {
                worker.run(&words(
                    &base,
                    &["run", "--rm", "--rootfs", &rootfs, &format!("bench-{round}"), "/bin/true"],
                ))
            };
            contenders
                .push(Contender { name: "ctr run --rm --rootfs (runc)".to_owned(), once: Box::new(once) });
        }
        Err(error) => absent.push(("containerd", error)),
    }

    let figures = interleave(&mut contenders, 5, rounds);
    drop(contenders);
    drop(daemon);
    print!("{}", table("run `true` in a new container, until the command returns", &figures));
    for (name, error) in absent {
        println!("\n{name} is left out: {error}");
    }
    println!(
        "\ncrun and podman run in a mount namespace in which the host's cgroup2 mount is hidden; runc, containerd and bulkhead do not."
    );
    Ok(())
}

/// A root file system of a static busybox, and the same as a tar.
fn busybox(rootfs: &Path, image: &Path) -> Result<(), String> {
    let script = r#"
        mkdir -p "$1/bin" "$1/proc" "$1/dev" "$1/sys" "$1/etc" "$1/tmp"
        cp /bin/busybox "$1/bin/busybox"
        for a in sh true sleep cat echo; do ln -sf busybox "$1/bin/$a"; done
        tar -C "$1" -cf "$2" .
    "#;
    let status = Command::new("sh").args(["-ec", script, "sh"]).arg(rootfs).arg(image).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("making the busybox image (package busybox-static): {other:?}")),
    }
}

/// An OCI bundle with the runtime's own default specification, `true` without a terminal.
fn bundle(runtime: &str, dir: &Path, rootfs: &Path) -> Result<std::path::PathBuf, String> {
    let program = peers::find(runtime).ok_or("not installed")?;
    fs::create_dir_all(dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
    let spec = Command::new(program).arg("spec").current_dir(dir).stdin(Stdio::null()).output();
    if !spec.as_ref().is_ok_and(|o| o.status.success()) {
        return Err(format!("{runtime} spec: {spec:?}"));
    }
    let config = dir.join("config.json");
    let text = fs::read_to_string(&config).map_err(|e| format!("{}: {e}", config.display()))?;
    let text = text
        .replace("\"terminal\": true", "\"terminal\": false")
        .replace("\"sh\"", "\"true\"")
        .replace("\"path\": \"rootfs\"", &format!("\"path\": \"{}\"", rootfs.display()));
    fs::write(&config, text).map_err(|e| format!("write {}: {e}", config.display()))?;
    Ok(dir.to_owned())
}
