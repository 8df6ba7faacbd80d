//! `cargo xtask demo`: from a fresh machine to containers under limits, with nothing made up.
//!
//! It builds the release binary, makes an image that holds stress-ng out of Debian packages (cached under
//! `target/demo`), starts it under a memory limit and under a CPU limit, and ends with what the limits
//! did. The CPU figure is read from the container's own cgroup, apart from what `bulkhead stats` says, so
//! that one checks the other. Everything lives under `target/demo`, with its own cgroup parent; the
//! containers and the store are removed at the end and only the downloaded image stays.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{cargo, packages, quiet, shown};

/// The CPUs that the demonstration allows, as `--cpus` and as a number.
const CPUS: (&str, f64) = ("0.5", 0.5);

/// Builds, makes the image, runs it under limits and says what they did.
pub fn run(_: &[String]) -> Result<(), String> {
    let started = Instant::now();
    let step = |what: &str| println!("\n[{:>5.1} s] {what}", started.elapsed().as_secs_f64());
    if !packages::is_root() {
        return Err("needs root: cgroups and mounts are the kernel's".to_owned());
    }
    step("looking for system packages");
    packages::ensure("demo", packages::BUILD)?;
    packages::ensure("demo", packages::DEMO)?;

    step("building bulkhead (release)");
    shown(cargo().args(["build", "--release", "--locked", "-p", "bulkhead"]))?;
    let binary = binary()?;

    let dir = crate::workspace().join("target/demo");
    fs::create_dir_all(&dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
    step("making an image that holds stress-ng");
    let rootfs = rootfs_archive(&dir)?;

    let demo = Demo { binary, dir };
    demo.clear();
    let result = demo.show(&rootfs, &step);
    step("cleaning up");
    demo.clear();
    result?;
    step("done");
    Ok(())
}

/// Where cargo put the executable: asked of cargo's own target directory rule.
pub fn binary() -> Result<PathBuf, String> {
    let target = crate::workspace().join("target");
    let found = [target.join("release/bulkhead")]
        .into_iter()
        .chain(
            fs::read_dir(&target).into_iter().flatten().flatten().map(|e| e.path().join("release/bulkhead")),
        )
        .filter(|p| p.is_file())
        .max_by_key(|p| p.metadata().and_then(|m| m.modified()).ok());
    found.ok_or_else(|| format!("no release/bulkhead under {}", target.display()))
}

/// A root file system with stress-ng and all it needs, as a tar; downloaded once.
fn rootfs_archive(dir: &Path) -> Result<PathBuf, String> {
    let archive = dir.join("stress-ng.tar");
    if archive.is_file() {
        println!("  {} is there from an earlier run", archive.display());
        return Ok(archive);
    }
    packages::update()?;
    let (debs, tree) = (dir.join("debs"), dir.join("tree"));
    let _ = fs::remove_dir_all(&tree);
    let make = |path: &Path| fs::create_dir_all(path).map_err(|e| format!("mkdir {}: {e}", path.display()));
    make(&debs.join("partial"))?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        make(&tree.join("usr").join(name))?;
        std::os::unix::fs::symlink(format!("usr/{name}"), tree.join(name))
            .map_err(|e| format!("symlink {}: {e}", tree.join(name).display()))?;
    }
    for name in ["dev", "proc", "sys", "tmp", "etc"] {
        make(&tree.join(name))?;
    }
    // An empty status file is a system on which nothing is installed: apt resolves down to libc.
    let status = dir.join("status");
    fs::write(&status, "").map_err(|e| format!("write {}: {e}", status.display()))?;
    shown(
        Command::new("apt-get")
            .args(["--yes", "--download-only", "--no-install-recommends", "-o", "APT::Sandbox::User=root"])
            .arg("-o")
            .arg(format!("Dir::State::status={}", status.display()))
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", debs.display()))
            .args(["-o", "Debug::NoLocking=1", "install", "stress-ng", "busybox-static"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::null()),
    )?;
    let mut packages: Vec<_> = fs::read_dir(&debs)
        .map_err(|e| format!("opendir {}: {e}", debs.display()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "deb"))
        .collect();
    packages.sort();
    for deb in &packages {
        println!("  unpacking {}", deb.file_name().unwrap_or_default().display());
        quiet(
            Command::new("sh")
                .args([
                    "-ec",
                    r#"dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2""#,
                    "sh",
                ])
                .arg(deb)
                .arg(&tree),
        )?;
    }
    std::os::unix::fs::symlink("busybox", tree.join("usr/bin/tail"))
        .map_err(|e| format!("symlink tail: {e}"))?;
    let part = dir.join("stress-ng.tar.part");
    quiet(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&part).args(["--numeric-owner", "."]))?;
    fs::rename(&part, &archive).map_err(|e| format!("rename {}: {e}", part.display()))?;
    let _ = fs::remove_dir_all(&tree);
    let _ = fs::remove_dir_all(&debs);
    let _ = fs::remove_file(&status);
    Ok(archive)
}

/// The engine with roots of its own.
struct Demo {
    binary: PathBuf,
    dir: PathBuf,
}

impl Demo {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(self.dir.join("root")).arg("--run-root").arg(self.dir.join("run"));
        command.args(["--cgroup-parent", "/bulkhead-demo"]).args(args);
        command
    }

    /// Types a command where everybody can see it and returns what it printed.
    fn typed(&self, args: &[&str]) -> Result<String, String> {
        println!("$ bulkhead {}", args.join(" "));
        let out = quiet(&mut self.command(args))?;
        print!("{out}");
        Ok(out.trim_end().to_owned())
    }

    fn inspect(&self, name: &str, format: &str) -> Result<String, String> {
        Ok(quiet(&mut self.command(&["inspect", "--format", format, name]))?.trim_end().to_owned())
    }

    fn show(&self, rootfs: &Path, step: &dyn Fn(&str)) -> Result<(), String> {
        self.typed(&["import", &rootfs.display().to_string(), "stress-ng"])?;
        self.typed(&["images"])?;

        step("watching: `trace` and `serve` in the background, for what comes");
        let trace = Trace::start(self)?;
        let serve = Serve::start(self)?;

        step("memory: a process that wants everything, in 64 MiB");
        self.typed(&[
            "run",
            "-d",
            "--name",
            "eater",
            "--network",
            "none",
            "-m",
            "64m",
            "--memory-swap",
            "64m",
            "stress-ng",
            "tail",
            "/dev/zero",
        ])?;
        let code = self.typed(&["wait", "eater"])?;
        let killed = self.inspect("eater", "{{.State.OOMKilled}}")?;

        step("memory: stress-ng wants 256 MiB and is held at 64 MiB");
        self.typed(&[
            "run",
            "-d",
            "--name",
            "squeezed",
            "--network",
            "none",
            "-m",
            "64m",
            "--memory-swap",
            "64m",
            "stress-ng",
            "stress-ng",
            "--vm",
            "1",
            "--vm-bytes",
            "256m",
            "--vm-keep",
            "--timeout",
            "5s",
        ])?;
        let mut peak = 0;
        for _ in 0..4 {
            sleep(Duration::from_secs(1));
            if let Some(usage) = self.cgroup("squeezed").and_then(|c| c.memory_peak()) {
                peak = peak.max(usage);
            }
            self.stats("squeezed")?;
        }
        self.typed(&["wait", "squeezed"])?;
        let stressed = self.inspect("squeezed", "{{.State.OOMKilled}}")?;

        step(&format!("cpu: stress-ng on two workers, held at {} CPUs", CPUS.0));
        self.typed(&[
            "run",
            "-d",
            "--name",
            "spinner",
            "--network",
            "none",
            "--cpus",
            CPUS.0,
            "stress-ng",
            "stress-ng",
            "--cpu",
            "2",
            "--timeout",
            "60s",
        ])?;
        sleep(Duration::from_secs(1));
        let cgroup =
            self.cgroup("spinner").ok_or("spinner: its cgroup was not found through /proc/PID/cgroup")?;
        let (from, start) = (cgroup.cpu().ok_or("spinner: no CPU figures")?, Instant::now());
        for _ in 0..4 {
            sleep(Duration::from_secs(1));
            self.stats("spinner")?;
        }
        let (to, wall) = (cgroup.cpu().ok_or("spinner: no CPU figures")?, start.elapsed());
        let used = (to.seconds - from.seconds) / wall.as_secs_f64();

        step(&format!("a scrape of http://{}/metrics", serve.address));
        let scraped = serve.scrape()?;
        let wanted = [
            "container_cpu_usage_seconds_total{",
            "container_cpu_cfs_throttled_periods_total{",
            "container_spec_cpu_quota{",
            "container_memory_working_set_bytes{",
            "container_processes{",
        ];
        let of_spinner: Vec<_> = scraped
            .lines()
            .filter(|line| line.contains("name=\"spinner\"") && wanted.iter().any(|w| line.starts_with(w)))
            .collect();
        for line in &of_spinner {
            println!("{line}");
        }
        println!("({} lines in all)", scraped.lines().count());
        if of_spinner.is_empty() {
            return Err("the scrape says nothing of the running container".to_owned());
        }

        self.typed(&["rm", "-f", "spinner"])?;
        step("what the kernel saw of it (`bulkhead trace`)");
        trace.show()?;
        drop(serve);
        self.typed(&["ps", "-a"])?;

        step("what the limits did");
        println!("  eater     memory limit 64 MiB: OOMKilled={killed}, exit code {code}");
        println!(
            "  squeezed  memory limit 64 MiB: at most {:.1} MiB used, OOMKilled={stressed} (stress-ng restarts its worker)",
            peak as f64 / f64::from(1 << 20)
        );
        println!(
            "  spinner   asked for 2 CPUs, allowed {}: got {used:.3}, {:.0} % of what was allowed; {} of {} periods throttled",
            CPUS.0,
            100.0 * used / CPUS.1,
            to.throttled - from.throttled,
            to.periods - from.periods
        );
        if used > CPUS.1 * 1.1 {
            return Err(format!("{used:.3} CPUs were used where {} were allowed", CPUS.0));
        }
        if killed != "true" || code != "137" {
            return Err(format!("wanted OOMKilled=true and 137, got {killed} and {code}"));
        }
        Ok(())
    }

    /// One line of live figures.
    fn stats(&self, name: &str) -> Result<(), String> {
        let format = "  {{.Name}}: CPU {{.CPUPerc}}, memory {{.MemUsage}}, {{.PIDs}} processes";
        print!("{}", quiet(&mut self.command(&["stats", "--no-stream", "--format", format, name]))?);
        Ok(())
    }

    fn cgroup(&self, name: &str) -> Option<Cgroup> {
        let pid = self.inspect(name, "{{.State.Pid}}").ok()?;
        Cgroup::of(&pid)
    }

    /// Removes containers, store and cgroups of this or an interrupted earlier demonstration.
    fn clear(&self) {
        if self.dir.join("root").exists() {
            for name in ["eater", "squeezed", "spinner"] {
                let _ = self.command(&["rm", "-f", name]).stderr(std::process::Stdio::null()).output();
            }
        }
        let _ = fs::remove_dir_all(self.dir.join("root"));
        let _ = fs::remove_dir_all(self.dir.join("run"));
        for (_, mount) in hierarchies() {
            // The parent only: it is empty, or rmdir refuses.
            let _ = fs::remove_dir(mount.join("bulkhead-demo"));
        }
    }
}

/// A child of ours that ends with the demonstration, however that ends.
struct Background(Child);

impl Background {
    fn start(command: &mut Command) -> Result<Self, String> {
        let name = format!("{}", command.get_program().display());
        command.stdin(Stdio::null()).spawn().map(Self).map_err(|e| format!("{name}: {e}"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // The commands end cleanly on SIGTERM, which std cannot send; `kill` of the shell can.
        let asked = Command::new("sh").args(["-c", "kill $1", "sh", &self.0.id().to_string()]).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

/// `bulkhead trace`, writing into a file.
struct Trace {
    file: PathBuf,
    child: Background,
}

impl Trace {
    fn start(demo: &Demo) -> Result<Self, String> {
        let file = demo.dir.join("trace.txt");
        let out = fs::File::create(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let err = out.try_clone().map_err(|e| format!("dup: {e}"))?;
        println!("$ bulkhead trace all &");
        let child = Background::start(demo.command(&["trace", "all"]).stdout(out).stderr(err))?;
        // It says so when the kernel has its programs, by its heading.
        for _ in 0..100 {
            if fs::metadata(&file).is_ok_and(|m| m.len() > 0) {
                break;
            }
            sleep(Duration::from_millis(100));
        }
        Ok(Self { file, child })
    }

    /// Prints the first lines of each container, and how many there were.
    fn show(self) -> Result<(), String> {
        drop(self.child);
        let text = fs::read_to_string(&self.file).map_err(|e| format!("{}: {e}", self.file.display()))?;
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().take(12) {
            println!("{line}");
        }
        for line in lines.iter().skip(12).filter(|line| line.contains("oom")).take(3) {
            println!("{line}");
        }
        println!("({} lines in all)", lines.len());
        let _ = fs::remove_file(&self.file);
        if lines.iter().any(|line| line.contains("stress-ng")) {
            Ok(())
        } else {
            Err("trace saw no stress-ng".to_owned())
        }
    }
}

/// `bulkhead serve` on a free port of the loopback.
struct Serve {
    address: String,
    _child: Background,
}

impl Serve {
    fn start(demo: &Demo) -> Result<Self, String> {
        println!("$ bulkhead serve --metrics 127.0.0.1:0 &");
        let mut command = demo.command(&["serve", "--metrics", "127.0.0.1:0"]);
        let mut child = Background::start(command.stdout(Stdio::piped()))?;
        let says = child.0.stdout.take().ok_or("serve: no stdout")?;
        let mut lines = BufReader::new(says).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("http://").map(|(_, rest)| rest.to_owned()))
            .ok_or("serve did not say where it listens")?;
        let address = address.split('/').next().unwrap_or_default().to_owned();
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { address, _child: child })
    }

    fn scrape(&self) -> Result<String, String> {
        let at = |e: std::io::Error| format!("http://{}/metrics: {e}", self.address);
        let mut stream = TcpStream::connect(&self.address).map_err(at)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)
            .map_err(at)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(at)?;
        Ok(text)
    }
}

/// A running container's cgroups, found from outside: through its process and the host's mounts.
struct Cgroup {
    /// Controller list (empty for v2) and directory.
    dirs: Vec<(String, PathBuf)>,
}

struct Cpu {
    seconds: f64,
    periods: u64,
    throttled: u64,
}

impl Cgroup {
    fn of(pid: &str) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let hierarchies = hierarchies();
        let dirs = text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            // In a hierarchy that Bulkhead makes no cgroup in, the root's figures are the whole host's.
            if path == "/" {
                return None;
            }
            let (_, mount) = hierarchies.iter().find(|(c, _)| c == controllers)?;
            Some((controllers.to_owned(), mount.join(path.trim_start_matches('/'))))
        });
        Some(Self { dirs: dirs.collect() })
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        let dir = self.dirs.iter().find(|(c, _)| c.split(',').any(|c| c == controller));
        fs::read_to_string(dir?.1.join(file)).ok()
    }

    fn cpu(&self) -> Option<Cpu> {
        let v1 = self.read("cpu", "cpu.stat");
        let v2 = self.read("", "cpu.stat");
        let key = |text: &Option<String>, name: &str| {
            let text = text.as_deref()?;
            text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        let nanos = self.read("cpuacct", "cpuacct.usage").and_then(|u| u.trim().parse::<u64>().ok());
        let seconds = match nanos {
            Some(nanos) => nanos as f64 / 1e9,
            None => key(&v2, "usage_usec ")? as f64 / 1e6,
        };
        let stat = if v1.is_some() { v1 } else { v2 };
        Some(Cpu { seconds, periods: key(&stat, "nr_periods ")?, throttled: key(&stat, "nr_throttled ")? })
    }

    fn memory_peak(&self) -> Option<u64> {
        let text = self
            .read("memory", "memory.max_usage_in_bytes")
            .or_else(|| self.read("", "memory.peak"))
            .or_else(|| self.read("", "memory.current"))?;
        text.trim().parse().ok()
    }
}

/// Controllers (none for v2) and mount point of each cgroup hierarchy.
fn hierarchies() -> Vec<(String, PathBuf)> {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let row = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mount = PathBuf::from(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        let kind = right.next()?;
        let options = right.nth(1)?;
        match kind {
            "cgroup2" => Some((String::new(), mount)),
            "cgroup" => {
                let names: Vec<_> =
                    options.split(',').filter(|o| !matches!(*o, "rw" | "ro") && !o.contains('=')).collect();
                (!names.is_empty()).then(|| (names.join(","), mount))
            }
            _ => None,
        }
    };
    info.lines().filter_map(row).collect()
}
