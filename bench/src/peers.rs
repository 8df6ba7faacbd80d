//! How each engine is made to run beside the others, out of the host's way.
//!
//! Each has a data root of its own under the benchmark's directory. Nothing of the host's engines, images
//! or cgroups is used or changed.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::worker::Worker;

/// crun, and podman on it, refuse a hybrid cgroup host whose v2 hierarchy offers a controller. They are
/// given a mount namespace in which that hierarchy is hidden; the v1 controllers they use stay.
pub const HIDE_V2: &str = "
mount --make-rprivate /
[ ! -d /sys/fs/cgroup/unified ] || mount -t tmpfs tmpfs /sys/fs/cgroup/unified";

/// The benchmark's directory, removed at the end.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// A directory under `BULKHEAD_BENCH_DIR`, or the working tree's `target/`: on the disk whose speed is
    /// of interest.
    pub fn new(name: &str) -> Result<Self, String> {
        let base = std::env::var_os("BULKHEAD_BENCH_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench"), PathBuf::from);
        let dir = base.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
        dir.canonicalize().map(Self).map_err(|e| format!("{}: {e}", dir.display()))
    }

    /// A directory with a short name: a socket's holds 107 bytes, and podman wants its run root below 50.
    pub fn short(name: &str) -> Result<Self, String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // What a run root holds lives in a tmpfs on every ordinary system.
        let base = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
        let dir = PathBuf::from(format!("{base}/bb-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
        Ok(Self(dir))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Best effort: a mount left by a peer that crashed must not be followed.
        let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.0).status();
    }
}

/// A path as a word of a command line.
pub fn word(path: &Path) -> String {
    path.display().to_string()
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).map(|d| d.join(program)).find(|p| p.is_file())
}

/// The release executable under test, installed as a user would: written in one go.
///
/// A linker writes its output through a mapping, page by page, and the page cache keeps it in single pages;
/// what `cargo xtask install` writes lies there in huge ones, of which one fault maps two megabytes. The peers
/// were installed by a package manager.
pub fn bulkhead() -> Result<PathBuf, String> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    INSTALLED.get_or_init(install).clone()
}

fn install() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
    let built = exe.with_file_name("bulkhead");
    let installed = exe.with_file_name("bulkhead-installed");
    let at = |path: &Path| format!("{}: ", path.display());
    let bytes = fs::read(&built).map_err(|e| at(&built) + &e.to_string())?;
    // Anew, since an inode that is there keeps its pages, and may be running.
    let beside = exe.with_file_name(format!("bulkhead-installed.{}", std::process::id()));
    fs::write(&beside, bytes)
        .and_then(|()| fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&beside, &installed))
        .map_err(|e| at(&installed) + &e.to_string())?;
    Ok(installed)
}

/// Bulkhead with roots of its own.
pub fn bulkhead_words(dir: &Path, run: &Path) -> Result<Vec<String>, String> {
    Ok(vec![
        word(&bulkhead()?),
        "--root".to_owned(),
        word(&dir.join("root")),
        "--run-root".to_owned(),
        word(run),
        "--cgroup-parent".to_owned(),
        format!("/bulkhead-bench-{}", std::process::id()),
    ])
}

/// podman with roots of its own, on crun.
pub fn podman(dir: &Path) -> Result<(Worker, Vec<String>), String> {
    let podman = find("podman").ok_or("not installed")?;
    fs::create_dir_all(dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
    let conf = dir.join("containers.conf");
    // podman's own defaults raise hard limits, which needs CAP_SYS_RESOURCE.
    let networks = word(&dir.join("networks"));
    let text = format!(
        "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=4096:4096\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n[network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{networks}\"\n"
    );
    fs::write(&conf, text).map_err(|e| format!("write {}: {e}", conf.display()))?;
    let mut worker = Worker::new(HIDE_V2, &[("CONTAINERS_CONF", conf)])?;
    let run = Dir::short("podman")?;
    let words = vec![
        word(&podman),
        "--root".to_owned(),
        word(&dir.join("root")),
        "--runroot".to_owned(),
        word(run.path()),
        "--storage-driver".to_owned(),
        "overlay".to_owned(),
    ];
    worker.keep(run);
    Ok((worker, words))
}

/// A daemon started by hand; it ends with the benchmark.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// Starts it and waits until `ready` succeeds.
    pub fn start(command: &mut Command, log: &Path, ready: &[String]) -> Result<Self, String> {
        let file = fs::File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let err = file.try_clone().map_err(|e| format!("dup: {e}"))?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(err).spawn();
        let mut daemon = Self(child.map_err(|e| format!("{}: {e}", command.get_program().display()))?);
        for _ in 0..200 {
            let asked = Command::new(&ready[0]).args(&ready[1..]).stdin(Stdio::null()).output();
            if asked.is_ok_and(|o| o.status.success()) {
                return Ok(daemon);
            }
            if let Ok(Some(status)) = daemon.0.try_wait() {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{status}: {}", said.trim().lines().last().unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("did not answer within 20 s".to_owned())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        for _ in 0..100 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// containerd with state of its own, and `ctr` to talk to it.
pub fn containerd(dir: &Path) -> Result<(Daemon, Worker, Vec<String>), String> {
    let (containerd, ctr) =
        (find("containerd").ok_or("not installed")?, find("ctr").ok_or("ctr is not installed")?);
    fs::create_dir_all(dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
    let run = Dir::short("ctr")?;
    let socket = run.path().join("containerd.sock");
    let config = dir.join("config.toml");
    let text = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n",
        word(&dir.join("root")),
        word(&run.path().join("state")),
        word(&socket)
    );
    fs::write(&config, text).map_err(|e| format!("write {}: {e}", config.display()))?;
    let words = vec![word(&ctr), "--address".to_owned(), word(&socket)];
    let mut ready = words.clone();
    ready.push("version".to_owned());
    let mut command = Command::new(containerd);
    command.arg("--config").arg(&config);
    let daemon = Daemon::start(&mut command, &dir.join("log"), &ready)?;
    let mut worker = Worker::new("", &[])?;
    worker.keep(run);
    Ok((daemon, worker, words))
}

/// What the figures depend on, for the head of a report.
pub fn conditions(dir: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(str::to_owned)
    };
    let mut text = String::new();
    let date = said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = read("/proc/cpuinfo");
    let model =
        model.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("", |m| m.1);
    let fs = said("stat", &["-f", "-c", "%T", &word(dir)]).unwrap_or_default();
    let _ = writeln!(
        text,
        "{date}; {cpus} CPUs ({model}); kernel {}; files on {fs}.",
        read("/proc/sys/kernel/osrelease").trim()
    );
    let _ = writeln!(
        text,
        "load average before the run: {}",
        read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
    );
    for (program, args) in [
        ("podman", &["--version"][..]),
        ("crun", &["--version"]),
        ("runc", &["--version"]),
        ("containerd", &["--version"]),
        ("skopeo", &["--version"]),
        ("umoci", &["--version"]),
    ] {
        let _ = writeln!(
            text,
            "- {}",
            said(program, args).unwrap_or_else(|| format!("{program}: not installed"))
        );
    }
    text
}
