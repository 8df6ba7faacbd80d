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
    let run = Dir::short("run")?;
    let run = run.path();
    run_true(dir, run, &image, &rootfs, rounds)?;
    let mut running = Running::start(dir, run, &image, &rootfs)?;
    running.exec(rounds);
    running.ps(rounds);
    let done = running.monitors();
    running.end();
    done?;
    depth(dir, run, &image, rounds)
}

/// How many containers `ps` has to list.
const MANY: usize = 50;

/// The containers that live while `exec` and `ps` are timed: ours, crun's, runc's and podman's.
struct Running {
    us: Vec<String>,
    here: Worker,
    runtimes: Vec<(&'static str, Vec<String>, Worker)>,
    podman: Option<(Worker, Vec<String>)>,
    absent: Vec<(&'static str, String)>,
}

impl Running {
    fn start(dir: &Path, run: &Path, image: &Path, rootfs: &Path) -> Result<Self, String> {
        let mut running = Self {
            us: peers::bulkhead_words(&dir.join("bulkhead"), run)?,
            here: Worker::new("", &[])?,
            runtimes: Vec::new(),
            podman: None,
            absent: Vec::new(),
        };
        eprintln!("  starting {MANY} containers with each engine");
        // The first is what exec goes into; the names of both engines are alike.
        for n in 0..MANY {
            let name = format!("c{n}");
            let line = ["run", "-d", "--network", "none", "--name", &name, "busybox", "sleep", "100000"];
            running.here.run(&words(&running.us, &line))?;
        }
        for (name, setup) in [("crun", peers::HIDE_V2), ("runc", "")] {
            let started = bundle(name, &dir.join(format!("{name}-exec")), rootfs).and_then(|bundle| {
                let config = bundle.join("config.json");
                let text = fs::read_to_string(&config).map_err(|e| format!("{}: {e}", config.display()))?;
                let text = text.replace("\"true\"", "\"sleep\", \"100000\"");
                fs::write(&config, text).map_err(|e| format!("write {}: {e}", config.display()))?;
                let mut worker = Worker::new(setup, &[])?;
                let base = vec![name.to_owned(), "--root".to_owned(), word(&bundle.join("state"))];
                let id = format!("bulkhead-bench-{}-exec", std::process::id());
                worker.run(&words(&base, &["run", "--detach", "--bundle", &word(&bundle), &id]))?;
                Ok((name, base, worker))
            });
            match started {
                Ok(started) => running.runtimes.push(started),
                Err(error) => running.absent.push((name, error)),
            }
        }
        let podman = peers::podman(&dir.join("podman-many")).and_then(|(mut worker, base)| {
            worker.run(&words(&base, &["import", "--quiet", &word(image), "busybox"]))?;
            for n in 0..MANY {
                let name = format!("c{n}");
                let line = ["run", "-d", "--network", "none", "--name", &name, "busybox", "sleep", "100000"];
                worker.run(&words(&base, &line))?;
            }
            Ok((worker, base))
        });
        match podman {
            Ok(podman) => running.podman = Some(podman),
            Err(error) => running.absent.push(("podman", error)),
        }
        Ok(running)
    }

    fn exec(&mut self, rounds: usize) {
        let id = format!("bulkhead-bench-{}-exec", std::process::id());
        let us = words(&self.us, &["exec", "c0", "true"]);
        let here = &mut self.here;
        let mut contenders =
            vec![Contender { name: "bulkhead exec".to_owned(), once: Box::new(move |_| here.run(&us)) }];
        for (name, base, worker) in &mut self.runtimes {
            let line = words(base, &["exec", &id, "true"]);
            contenders
                .push(Contender { name: format!("{name} exec"), once: Box::new(move |_| worker.run(&line)) });
        }
        if let Some((worker, base)) = &mut self.podman {
            let line = words(base, &["exec", "c0", "true"]);
            contenders.push(Contender {
                name: "podman exec (crun)".to_owned(),
                once: Box::new(move |_| worker.run(&line)),
            });
        }
        let figures = interleave(&mut contenders, 5, rounds);
        print!("{}", table("`exec true` in a running container", &figures));
    }

    fn ps(&mut self, rounds: usize) {
        let us = words(&self.us, &["ps"]);
        let here = &mut self.here;
        let mut contenders =
            vec![Contender { name: "bulkhead ps".to_owned(), once: Box::new(move |_| here.run(&us)) }];
        if let Some((worker, base)) = &mut self.podman {
            let line = words(base, &["ps"]);
            contenders
                .push(Contender { name: "podman ps".to_owned(), once: Box::new(move |_| worker.run(&line)) });
        }
        let figures = interleave(&mut contenders, 5, rounds);
        print!("{}", table(&format!("`ps` with {MANY} running containers"), &figures));
    }

    /// Private memory (clean and dirty, /proc/PID/smaps_rollup) of the process that watches a container.
    fn monitors(&self) -> Result<(), String> {
        println!(
            "\n### memory of one container's monitor\n\n| tool | median, private | monitors |\n|---|---|---|"
        );
        let roots = [("\0monitor\0", self.us[2].clone()), ("conmon", "podman-many".to_owned())];
        for (program, root) in roots {
            let mut sizes = Vec::new();
            for entry in fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?.flatten() {
                let dir = entry.path();
                let line = fs::read(dir.join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line);
                // Ours is executed through a descriptor, so its first word is no name.
                if !line.contains(program) || !line.contains(&root) {
                    continue;
                }
                let text = fs::read_to_string(dir.join("smaps_rollup")).unwrap_or_default();
                let kib: u64 = text
                    .lines()
                    .filter(|l| l.starts_with("Private_Clean:") || l.starts_with("Private_Dirty:"))
                    .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
                    .sum();
                sizes.push(kib);
            }
            let count = sizes.len();
            match crate::measure::median(&sizes) {
                Some(kib) => println!("| {} | {:.2} MiB | {count} |", name(program), kib as f64 / 1024.0),
                None => println!("| {} | – | 0 |", name(program)),
            }
        }
        Ok(())
    }

    /// Ends what was started; a failure here must not hide the figures.
    fn end(mut self) {
        let many: Vec<String> = (0..MANY).map(|n| format!("c{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let _ = self.here.run(&words(&words(&self.us, &["rm", "-f"]), &many));
        let id = format!("bulkhead-bench-{}-exec", std::process::id());
        for (_, base, worker) in &mut self.runtimes {
            let _ = worker.run(&words(base, &["delete", "--force", &id]));
        }
        if let Some((worker, base)) = &mut self.podman {
            let _ = worker.run(&words(base, &["rm", "-f", "-t", "0", "-a"]));
        }
        for (name, error) in self.absent {
            println!("\n{name} is left out: {error}");
        }
    }
}

fn name(program: &str) -> &str {
    if program == "conmon" { "conmon (podman)" } else { "bulkhead monitor" }
}

/// Whether a start costs more when the image has more layers.
fn depth(dir: &Path, run: &Path, image: &Path, rounds: usize) -> Result<(), String> {
    let us = peers::bulkhead_words(&dir.join("bulkhead"), run)?;
    let mut workers = Vec::new();
    for layers in [1, 25, 127] {
        let archive = dir.join(format!("layers-{layers}.tar"));
        layered(&dir.join(format!("layers-{layers}")), image, layers, &archive)?;
        let mut worker = Worker::new("", &[])?;
        worker.run(&words(&us, &["load", "-q", "-i", &word(&archive)]))?;
        let name = format!("layers:{layers}");
        workers.push((layers, worker, words(&us, &["run", "--rm", "--network", "none", &name, "true"])));
    }
    let mut contenders: Vec<Contender<'_>> = workers
        .iter_mut()
        .map(|(layers, worker, line)| Contender {
            name: format!("bulkhead run --rm, {layers} layers"),
            once: Box::new(move |_| worker.run(line)),
        })
        .collect();
    let figures = interleave(&mut contenders, 5, rounds);
    print!("{}", table("the same start from deeper images", &figures));
    Ok(())
}

/// An image of `layers` layers, the lowest of them busybox, as `docker save` writes one.
fn layered(work: &Path, lowest: &Path, layers: usize, archive: &Path) -> Result<(), String> {
    let script = r#"
        mkdir -p "$1/in"; cd "$1"
        cp "$2" 1.tar
        n=2
        while [ $n -le $3 ]; do
            echo $n >in/file-$n; tar -C in -cf $n.tar file-$n; n=$((n + 1))
        done
        ids= names= n=1
        while [ $n -le $3 ]; do
            sum=$(sha256sum $n.tar); ids="$ids,\"sha256:${sum%% *}\""; names="$names,\"$n.tar\""; n=$((n + 1))
        done
        echo "{\"architecture\":\"$5\",\"os\":\"linux\",\"config\":{},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[${ids#,}]}}" >config.json
        echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"layers:$3\"],\"Layers\":[${names#,}]}]" >manifest.json
        tar -cf "$4" manifest.json config.json *.tar
    "#;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let status = Command::new("sh")
        .args(["-ec", script, "sh"])
        .arg(work)
        .arg(lowest)
        .arg(layers.to_string())
        .arg(archive)
        .arg(architecture)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("making an image of {layers} layers: {other:?}")),
    }
}

/// A command line with more words.
pub fn words(base: &[String], more: &[&str]) -> Vec<String> {
    base.iter().cloned().chain(more.iter().map(|w| (*w).to_owned())).collect()
}

fn run_true(dir: &Path, run: &Path, image: &Path, rootfs: &Path, rounds: usize) -> Result<(), String> {
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    let mut absent: Vec<(&str, String)> = Vec::new();

    let mut here = Worker::new("", &[])?;
    let us = peers::bulkhead_words(&dir.join("bulkhead"), run)?;
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
/// A busybox image: its root, and that as a tar.
pub fn busybox(rootfs: &Path, image: &Path) -> Result<(), String> {
    let script = r#"
        mkdir -p "$1/bin" "$1/proc" "$1/dev" "$1/sys" "$1/etc" "$1/tmp"
        cp /bin/busybox "$1/bin/busybox"
        for a in sh true sleep cat echo head mkdir test; do ln -sf busybox "$1/bin/$a"; done
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
