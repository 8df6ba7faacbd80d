//! Drives the real binary from outside, in a world of its own.
//!
//! Every test gets a [`Host`]: a private `--root`, `--run-root` and `--cgroup-parent` under one
//! temporary directory, so that tests run in parallel with each other and with whatever else the
//! machine does. When the host goes out of scope it removes its containers and then *looks*: mounts,
//! cgroups, processes, loop devices, half-made directories. What is still there is a leak and fails the
//! test; the sweep that follows touches only what carries this host's own names.
//!
//! Use it as
//!
//! ```ignore
//! mod common;
//!
//! #[test]
//! fn true_is_true() {
//!     let host = host!();
//!     let image = host.busybox();
//!     host.bulkhead(&["run", "--rm", image, "true"]).ok();
//!     host.bulkhead(&["run", "--rm", image, "sh", "-c", "exit 7"]).code(7);
//! }
//! ```
//!
//! A test that cannot run here says `skipped: needs X` (see [`skip!`]), which `cargo xtask test` counts
//! as skipped and lists; it is never counted as passed.

#![allow(dead_code, reason = "every test binary compiles this module and uses its own part of it")]

pub mod git;
pub mod images;
pub mod registry;
pub mod serve;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

/// How long a command may take before it counts as hung. Not a measure of speed: it only keeps a
/// deadlock from stopping the whole suite.
const HUNG: Duration = Duration::from_secs(180);

/// How often each patience is waited out before it is over: once, or as `BULKHEAD_TEST_PATIENCE` says where
/// the tests run on an emulated processor (`cargo xtask vm`).
fn patience(once: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    let times = TIMES.get_or_init(|| {
        let text = std::env::var("BULKHEAD_TEST_PATIENCE").unwrap_or_default();
        text.parse().unwrap_or(1)
    });
    once * *times
}

/// Says that this test cannot run here, in the words that `cargo xtask test` looks for, and returns.
#[macro_export]
macro_rules! skip {
    ($($needs:tt)*) => {{
        println!("skipped: needs {}", format_args!($($needs)*));
        return;
    }};
}

/// A [`Host`](common::Host), or a skip that names what is missing.
#[macro_export]
macro_rules! host {
    () => {
        match $crate::common::Host::new() {
            Ok(host) => host,
            Err(needs) => $crate::skip!("{needs}"),
        }
    };
}

/// The binary under test.
pub const BULKHEAD: &str = env!("CARGO_BIN_EXE_bulkhead");

/// A private world for one test.
#[derive(Debug)]
pub struct Host {
    /// Removed last, after everything in it has been checked.
    dir: tempfile::TempDir,
    cgroup_parent: String,
    /// Turned off by [`Host::expect_leftovers`].
    check: std::sync::atomic::AtomicBool,
}

impl Host {
    /// A fresh host, or what this machine lacks for one.
    pub fn new() -> Result<Self, &'static str> {
        Self::at(&std::env::temp_dir())
    }

    /// A fresh host whose directories lie under `parent`: a small tmpfs, a loop-mounted ext4, …
    pub fn at(parent: &Path) -> Result<Self, &'static str> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if !nix::unistd::Uid::effective().is_root() {
            return Err("root");
        }
        if !images::have_busybox() {
            return Err("busybox-static");
        }
        let dir = tempfile::Builder::new().prefix("bulkhead-test-").tempdir_in(parent).expect("tempdir");
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup_parent = format!("/bulkhead-test-{}-{n}", std::process::id());
        Ok(Self { dir, cgroup_parent, check: std::sync::atomic::AtomicBool::new(true) })
    }

    /// `--root` of this host.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// `--run-root` of this host.
    pub fn run_root(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// `--cgroup-parent` of this host, an absolute cgroup path.
    pub fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    /// A directory for the test's own files; removed with the host.
    pub fn dir(&self) -> PathBuf {
        let dir = self.dir.path().join("files");
        fs::create_dir_all(&dir).expect("files directory");
        dir
    }

    /// Writes a file under [`Host::dir`] and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().expect("below dir")).expect("parent directory");
        fs::write(&path, content).expect("write");
        path
    }

    /// The binary with this host's global options, for tests that need more than [`Host::bulkhead`]:
    /// a terminal, an environment, a kill halfway.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(BULKHEAD);
        command.arg("--root").arg(self.root()).arg("--run-root").arg(self.run_root());
        command.arg("--cgroup-parent").arg(&self.cgroup_parent).args(args);
        // What is not here is looked for nowhere else: no test waits for name servers or meets a registry of
        // the world. Credentials are those of the test, not of whoever runs it.
        command.env("HTTPS_PROXY", "http://127.0.0.1:1").env("DOCKER_CONFIG", self.dir.path().join("docker"));
        command.env_remove("DOCKER_HOST").env_remove("BULKHEAD_ROOT").env_remove("BULKHEAD_RUN_ROOT");
        command
    }

    /// Runs the binary to its end with an empty standard input.
    #[track_caller]
    pub fn bulkhead<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(self.command(args), b"")
    }

    /// Starts the binary with nothing to hear and nobody to hear it.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: &[S]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn")
    }

    /// Runs the binary and kills it after `delay`; true when it was still running then.
    pub fn kill_after<S: AsRef<OsStr>>(&self, args: &[S], delay: Duration) -> bool {
        let mut child = self.spawn(args);
        std::thread::sleep(delay);
        let alive = child.try_wait().expect("waitpid").is_none();
        // The child is not reaped yet, so the pid is still its own.
        child.kill().expect("kill");
        child.wait().expect("waitpid");
        alive
    }

    /// Runs the binary to its end with `stdin` as its standard input.
    #[track_caller]
    pub fn bulkhead_with_stdin<S: AsRef<OsStr>>(&self, args: &[S], stdin: &[u8]) -> Output {
        run(self.command(args), stdin)
    }

    /// Loads an archive held in memory; panics with the command's words if that fails.
    #[track_caller]
    pub fn load(&self, archive: &[u8]) -> Output {
        self.bulkhead_with_stdin(&["load"], archive).ok()
    }

    /// Loads the busybox image and returns its name.
    #[track_caller]
    pub fn busybox(&self) -> &'static str {
        self.load(images::busybox());
        "busybox"
    }

    /// `inspect --format FORMAT NAME`, without the newline.
    #[track_caller]
    pub fn inspect(&self, name: &str, format: &str) -> String {
        self.bulkhead(&["inspect", "--format", format, name]).ok().out().trim_end().to_owned()
    }

    /// Waits until `bulkhead inspect` shows `value`; panics when it never does.
    #[track_caller]
    pub fn wait_for(&self, name: &str, format: &str, value: &str) {
        eventually(&format!("{name}: {format} = {value}"), || {
            let out = self.bulkhead(&["inspect", "--format", format, name]);
            out.status.success() && out.out().trim_end() == value
        });
    }

    /// For the few tests whose point is what is left behind (say, before a reboot): clean, do not check.
    pub fn expect_leftovers(&self) {
        self.check.store(false, Ordering::Relaxed);
    }

    /// What of this host is still there, one line each; empty is how it should be once every
    /// container is removed.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for mount in self.mounts() {
            found.push(format!("mount {}", mount.display()));
        }
        for cgroup in self.cgroups() {
            found.push(format!("cgroup {}", cgroup.display()));
        }
        for (pid, what) in self.processes() {
            found.push(format!("process {pid}: {what}"));
        }
        for dev in self.loops() {
            found.push(format!("loop device {}", dev.display()));
        }
        for dir in ["containers", "tmp"] {
            for entry in entries(&self.root().join(dir)) {
                found.push(format!("file {}", entry.display()));
            }
        }
        // A volume stays; what was to go with one, or to come into one, does not.
        for entry in entries(&self.root().join("volumes")) {
            let parts = entries(&entry).into_iter().chain([entry]);
            found.extend(
                parts
                    .filter(|part| {
                        part.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
                    })
                    .map(|part| format!("file {}", part.display())),
            );
        }
        // A container's directory in the run root carries its 64-digit id.
        for entry in entries(&self.run_root()) {
            if entry.file_name().is_some_and(|n| n.len() == 64) {
                found.push(format!("file {}", entry.display()));
            }
        }
        found
    }

    /// Mounts below this host's directory, deepest first, as this mount namespace sees them.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let mut mounts: Vec<_> =
            mount_points().into_iter().filter(|m| m.starts_with(self.dir.path())).collect();
        mounts.sort();
        mounts.reverse();
        mounts
    }

    /// Cgroups below (not including) this host's parent in every hierarchy, deepest first.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        fn below(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in entries(dir) {
                if entry.is_dir() {
                    below(&entry, found);
                    found.push(entry);
                }
            }
        }
        let mut found = Vec::new();
        for parent in self.cgroup_parents() {
            below(&parent, &mut found);
        }
        found
    }

    /// This host's parent cgroup in every hierarchy that has it.
    pub fn cgroup_parents(&self) -> Vec<PathBuf> {
        let name = self.cgroup_parent.trim_start_matches('/');
        cgroup_hierarchies().into_iter().map(|h| h.join(name)).filter(|p| p.is_dir()).collect()
    }

    /// Processes that belong to this host: in its cgroups, or started with its directories on their
    /// command line (a monitor is outside the container's cgroup).
    pub fn processes(&self) -> Vec<(i32, String)> {
        let dir = self.dir.path().as_os_str().as_encoded_bytes();
        let mut found = Vec::new();
        for entry in entries(Path::new("/proc")) {
            let Some(pid) = entry.file_name().and_then(OsStr::to_str).and_then(|n| n.parse::<i32>().ok())
            else {
                continue;
            };
            if pid == std::process::id().cast_signed() {
                continue;
            }
            let cgroups = fs::read_to_string(entry.join("cgroup")).unwrap_or_default();
            let inside = cgroups.lines().filter_map(|l| l.splitn(3, ':').nth(2)).any(|path| {
                path.strip_prefix(&self.cgroup_parent)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            let cmdline = fs::read(entry.join("cmdline")).unwrap_or_default();
            let ours = memchr_find(&cmdline, dir);
            let stat = fs::read_to_string(entry.join("stat")).unwrap_or_default();
            let zombie = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
            if (inside || ours) && !zombie {
                found.push((pid, String::from_utf8_lossy(&cmdline).replace('\0', " ")));
            }
        }
        found
    }

    fn loops(&self) -> Vec<PathBuf> {
        entries(Path::new("/sys/block"))
            .into_iter()
            .filter(|dev| {
                fs::read_to_string(dev.join("loop/backing_file"))
                    .is_ok_and(|file| Path::new(file.trim_end()).starts_with(self.dir.path()))
            })
            .collect()
    }

    /// Counts of everything a start could leak, for tests that compare before with after.
    pub fn census(&self) -> Census {
        fn count(dir: &Path) -> usize {
            entries(dir)
                .into_iter()
                .map(|e| 1 + if e.is_dir() && !e.is_symlink() { count(&e) } else { 0 })
                .sum()
        }
        Census {
            mounts: self.mounts().len(),
            cgroups: self.cgroups().len(),
            processes: self.processes().len(),
            files: count(&self.root()) + count(&self.run_root()),
        }
    }

    /// Ids of the containers that have a directory, dead or alive; read from the disk so that a broken
    /// `ps` hides nothing.
    pub fn containers(&self) -> Vec<String> {
        let names = entries(&self.root().join("containers"));
        names.iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect()
    }

    fn remove_containers(&self) -> Option<String> {
        for id in self.containers() {
            let rm = run(self.command(&["rm", "-f", "-v", &id]), b"");
            if !rm.status.success() {
                return Some(format!("rm -f {id}: {}", rm.err()));
            }
        }
        None
    }

    /// A network's bridge is the host's, and outlives the root it is recorded in.
    fn remove_networks(&self) {
        if self.root().join("bulkhead.db").exists() {
            let _ = run(self.command(&["network", "prune", "-f"]), b"");
        }
    }

    /// The monitor of a container.
    pub fn monitor_of(&self, id: &str) -> i32 {
        let is_its = |(_, line): &(i32, String)| line.contains("monitor") && line.contains(id);
        self.processes().into_iter().find(is_its).expect("a monitor").0
    }

    /// The cgroup directory of a process in the hierarchy of a v1 controller, or in v2 when the controller
    /// is there.
    pub fn cgroup_of(pid: i32, controller: &str) -> Option<PathBuf> {
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let (mut v1, mut v2) = (None, None);
        for line in lines.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            if controllers.is_empty() {
                v2 = Some(path);
            } else if controllers.split(',').any(|c| c == controller) {
                v1 = Some(path);
            }
        }
        let hierarchies = cgroup_hierarchies();
        let v1 = v1.and_then(|path| {
            let mount = hierarchies.iter().find(|h| {
                h.file_name().and_then(OsStr::to_str).is_some_and(|n| n.split(',').any(|c| c == controller))
            })?;
            Some(mount.join(path))
        });
        v1.or_else(|| {
            let path = v2?;
            hierarchies.iter().find(|h| h.join("cgroup.controllers").exists()).map(|h| h.join(path))
        })
    }

    /// Removes by force what carries this host's names; the last resort after the check.
    fn sweep(&self) {
        for _ in 0..50 {
            for cgroup in self.cgroups().iter().chain(&self.cgroup_parents()) {
                // Frozen processes do not die on v1.
                let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
                let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            }
            let processes = self.processes();
            for (pid, _) in &processes {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::SIGKILL);
            }
            for mount in self.mounts() {
                let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
            }
            for cgroup in self.cgroups().iter().chain(&self.cgroup_parents()) {
                let _ = fs::remove_dir(cgroup);
            }
            if processes.is_empty() && self.mounts().is_empty() && self.cgroup_parents().is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for dev in self.loops() {
            let name = Path::new("/dev").join(dev.file_name().expect("loopN"));
            let _ = Command::new("losetup").arg("-d").arg(name).status();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut complaints: Vec<String> = self.remove_containers().into_iter().collect();
        self.remove_networks();
        // A monitor ends a moment after the command that removed its container; that is no leak.
        let deadline = Instant::now() + patience(Duration::from_secs(10));
        let mut left = self.leftovers();
        while self.check.load(Ordering::Relaxed)
            && !left.is_empty()
            && complaints.is_empty()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(20));
            left = self.leftovers();
        }
        self.sweep();
        complaints.extend(left);
        if complaints.is_empty() || !self.check.load(Ordering::Relaxed) {
            return;
        }
        let report = format!("left behind:\n  {}", complaints.join("\n  "));
        if std::thread::panicking() {
            eprintln!("{report}");
        } else {
            panic!("{report}");
        }
    }
}

/// See [`Host::census`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Mounts below the host's directory.
    pub mounts: usize,
    /// Cgroups below its parent, over all hierarchies.
    pub cgroups: usize,
    /// Processes.
    pub processes: usize,
    /// Files and directories under both roots.
    pub files: usize,
}

/// What a command said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    line: String,
}

impl Output {
    /// Panics unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Panics unless the command ended with this exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert!(self.status.code() == Some(code), "wanted exit code {code}\n{self}");
        self
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output's only line (an id, a name), without the newline.
    #[track_caller]
    pub fn line(&self) -> String {
        let out = self.out();
        let line = out.strip_suffix('\n').unwrap_or(&out);
        assert!(!line.is_empty() && !line.contains('\n'), "wanted one line\n{self}");
        line.to_owned()
    }

    /// Panics unless standard output is exactly this.
    #[track_caller]
    pub fn prints(self, wanted: &str) -> Self {
        assert!(self.out() == wanted, "wanted {wanted:?} on stdout\n{self}");
        self
    }

    /// Panics unless standard error contains this.
    #[track_caller]
    pub fn complains(self, wanted: &str) -> Self {
        assert!(self.err().contains(wanted), "wanted {wanted:?} on stderr\n{self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "$ {}\n{}\n--- stdout\n{}--- stderr\n{}", self.line, self.status, self.out(), self.err())
    }
}

/// Runs any command to its end. A command that hangs is killed and fails the test, and so does one that
/// ends while something it started still holds its output: that is what hangs `$(bulkhead run -d …)`.
#[track_caller]
pub fn run(mut command: Command, stdin: &[u8]) -> Output {
    let line = describe(&command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{line}: {e}"));
    let mut input = child.stdin.take().expect("piped");
    let stdin = stdin.to_owned();
    // A command that ends before it has read everything gives EPIPE here; its exit status says why.
    std::thread::spawn(move || input.write_all(&stdin));
    let stdout = drain(child.stdout.take().expect("piped"));
    let stderr = drain(child.stderr.take().expect("piped"));
    let status = wait(&mut child, &line);
    let collect = |what: &str, pipe: &mpsc::Receiver<Vec<u8>>| {
        pipe.recv_timeout(patience(Duration::from_secs(20)))
            .unwrap_or_else(|_| panic!("$ {line}\n{status}, but something still holds its {what}"))
    };
    let stdout = collect("stdout", &stdout);
    let stderr = collect("stderr", &stderr);
    Output { status, stdout, stderr, line }
}

/// Starts a command on a terminal of its own, and returns the other end.
#[allow(dead_code, reason = "not every test has a terminal")]
pub fn on_terminal(mut command: Command, size: Option<nix::pty::Winsize>) -> (Child, fs::File) {
    let pty = nix::pty::openpty(size.as_ref(), None).expect("openpty");
    let end = || Stdio::from(pty.slave.try_clone().expect("dup"));
    let line = describe(&command);
    let child = command.stdin(end()).stdout(end()).stderr(end()).spawn();
    (child.unwrap_or_else(|error| panic!("{line}: {error}")), pty.master.into())
}

/// Has a command heed Ctrl-C: a shell lets its background jobs ignore it, and the tests may be one.
#[allow(dead_code, reason = "not every test sends signals")]
pub fn heeding_interrupts(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt as _;
    let heed = || {
        // SAFETY: a disposition without a handler.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        Ok(())
    };
    // SAFETY: one system call.
    unsafe { command.pre_exec(heed) }
}

/// Waits for a child, killing it (and failing) when it hangs.
#[track_caller]
pub fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let deadline = Instant::now() + patience(HUNG);
    let mut nap = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().expect("waitpid") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("$ {what}\nhung for {HUNG:?}");
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(10));
    }
}

/// Polls until `done`; panics with `what` when it never is.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(Duration::from_secs(60));
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        // Each look is most often a whole command, which a slow machine has to work for.
        std::thread::sleep(patience(Duration::from_millis(20)));
    }
}

/// Runs a test in a thread that has a network namespace of its own, so that what it does with links, addresses and
/// ports meets nobody; what it starts inherits it. `tools` are the programs it needs.
pub fn on_own_network(tools: &'static [&'static str], test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(move || {
        if !nix::unistd::Uid::effective().is_root() {
            skip!("root");
        }
        if let Some(tool) = tools.iter().find(|tool| !have(tool)) {
            skip!("{tool}");
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

/// Whether a program is on the search path.
pub fn have(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Mount points of this mount namespace.
pub fn mount_points() -> Vec<PathBuf> {
    let info = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    info.lines().filter_map(|l| l.split(' ').nth(4)).map(|p| PathBuf::from(p.replace("\\040", " "))).collect()
}

/// Where the cgroup hierarchies, v1 and v2, are mounted.
pub fn cgroup_hierarchies() -> Vec<PathBuf> {
    let info = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let found: BTreeSet<PathBuf> = info
        .lines()
        .filter(|line| {
            line.split_once(" - ")
                .is_some_and(|(_, fs)| fs.starts_with("cgroup ") || fs.starts_with("cgroup2 "))
        })
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .collect();
    found.into_iter().collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|list| list.filter_map(|e| e.ok().map(|e| e.path())).collect()).unwrap_or_default()
}

fn memchr_find(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn drain(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read error shows as missing output, which the test then misses.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    receive
}
