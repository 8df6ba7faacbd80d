//! `cargo xtask pictures [BINARY]`: the pictures of the README, made by running what they show.
//!
//! Containers are started that do something (a web server and its clients, a job under a CPU quota, a
//! leak that is killed for memory, a writer), the live view is opened in tmux and typed at, and what tmux
//! says is on the screen becomes an SVG, cell by cell. For the dashboard a real Prometheus scrapes a real
//! `serve`; Grafana is not a Debian package, so the panels of the dashboard's own JSON are drawn by
//! [`dashboard`] from Prometheus's answers, and the caption says so.

mod dashboard;
mod json;
mod terminal;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::{cargo, packages, quiet, shown};

const WANTED: &[packages::Package] = &[
    ("busybox-static", "/bin/busybox", "the image that is shown is made of it"),
    ("tmux", "/usr/bin/tmux", "the terminal that the live view is drawn on"),
    ("prometheus", "/usr/bin/prometheus", "scrapes what the dashboard shows"),
];
/// How long the scene plays before it is taken: the width of the graphs of one container.
const PLAYED: Duration = Duration::from_secs(110);
const PROMETHEUS: &str = "127.0.0.1:9418";

/// Makes all of them.
pub fn run(args: &[String]) -> Result<(), String> {
    if !packages::is_root() {
        return Err("needs root: cgroups and mounts are the kernel's".to_owned());
    }
    packages::ensure("pictures", packages::BUILD)?;
    packages::ensure("pictures", WANTED)?;
    let binary = if let [binary] = args {
        PathBuf::from(binary)
    } else {
        shown(cargo().args(["build", "--release", "--locked", "-p", "bulkhead"]))?;
        crate::demo::binary()?
    };
    let dir = std::env::temp_dir().join(format!("bulkhead-pictures-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
    let scene = Scene { binary, dir };
    let made = scene.play();
    scene.end();
    made
}

/// The engine with roots of its own, and what runs on it.
struct Scene {
    binary: PathBuf,
    dir: PathBuf,
}

impl Scene {
    fn words(&self) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let mut words = vec![self.binary.display().to_string()];
        words.extend(["--root".to_owned(), path("root"), "--run-root".to_owned(), path("run")]);
        words.extend(["--cgroup-parent".to_owned(), "/bulkhead-pictures".to_owned()]);
        words
    }

    fn bulkhead(&self, args: &[&str]) -> Result<String, String> {
        let words = self.words();
        quiet(Command::new(&words[0]).args(&words[1..]).args(args))
    }

    fn start(&self, name: &str, options: &[&str], script: &str) -> Result<(), String> {
        let mut line = vec!["run", "-d", "--name", name, "--network", "shop"];
        line.extend(options);
        line.extend(["busybox:1.35", "sh", "-c", script]);
        self.bulkhead(&line).map(drop)
    }

    fn play(&self) -> Result<(), String> {
        println!("starting containers");
        let script = r#"
            mkdir -p "$1/bin" "$1/tmp" "$1/etc" "$1/www"
            cp /bin/busybox "$1/bin/busybox"
            for a in $(/bin/busybox --list); do [ "$a" = busybox ] || ln -sf busybox "$1/bin/$a"; done
            head -c 300000 /dev/urandom > "$1/www/page"
            tar -C "$1" -cf "$2" .
        "#;
        let archive = self.dir.join("busybox.tar");
        quiet(Command::new("sh").args(["-ec", script, "sh"]).arg(self.dir.join("rootfs")).arg(&archive))?;
        self.bulkhead(&["import", &archive.display().to_string(), "busybox:1.35"])?;
        self.bulkhead(&["network", "create", "shop"])?;
        self.cast()?;

        let serve = self.serve()?;
        let prometheus = self.prometheus(&serve.1)?;
        println!("the live view");
        let mut words = self.words();
        words.push("top".to_owned());
        let tmux = terminal::Tmux::start(&words, 132, 20)?;
        sleep(PLAYED);
        let out = crate::workspace().join("docs/pictures");
        fs::create_dir_all(&out).map_err(|e| format!("mkdir {}: {e}", out.display()))?;
        let put = |name: &str, svg: String| {
            let path = out.join(name);
            println!("{}", path.display());
            fs::write(&path, svg).map_err(|e| format!("write {}: {e}", path.display()))
        };
        put("top.svg", tmux.picture("bulkhead top")?)?;
        tmux.resize(100, 28)?;
        tmux.keys(&["/", "api", "Enter", "Enter"])?;
        put("top-container.svg", tmux.picture("bulkhead top: one container")?)?;
        tmux.keys(&["Escape", "Escape", "/", "leak", "Enter", "Enter", "4"])?;
        put("top-events.svg", tmux.picture("bulkhead top: executions and kills for memory")?)?;
        drop(tmux);
        println!("the dashboard");
        let dashboard = crate::workspace().join("exporter/grafana/host.json");
        put("dashboard.svg", dashboard::picture(&dashboard, PROMETHEUS, PLAYED)?)?;
        drop(prometheus);
        drop(serve);
        Ok(())
    }

    /// Who plays what.
    fn cast(&self) -> Result<(), String> {
        let web = "cd /www; httpd -f -p 80";
        let ok = ["--health-cmd", "true", "--health-interval", "2s"];
        self.start("web", &[&["-m", "32m", "--cpus", "0.5"][..], &ok].concat(), web)?;
        // Work that comes in waves.
        let api = "n=0; while :; do n=$((n+1))
            wget -q -O /dev/null http://web/page
            i=0; while [ $i -lt $(( (n / 40 % 4) * 4000 )) ]; do i=$((i+1)); done
            sleep 0.1; done";
        self.start("api", &["-m", "64m", "--cpus", "0.4", "--pids-limit", "40"], api)?;
        let batch = "while :; do i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; sleep 2; done";
        self.start("batch", &["--cpus", "0.25", "-m", "64m"], batch)?;
        let cache = "dd if=/dev/zero of=/dev/shm/cache bs=1M count=42 2>/dev/null; sleep 100000";
        self.start("cache", &["-m", "48m"], cache)?;
        let db = "while :; do dd if=/dev/zero of=/table bs=256k count=24 oflag=direct 2>/dev/null; sleep 0.7; done";
        self.start("db", &["-m", "128m"], db)?;
        let leak = "while :; do sh -c 'x=a; while :; do x=$x$x; done'; sleep 4; done";
        self.start("leak", &["-m", "24m", "--memory-swap", "24m"], leak)?;
        let cron = "while :; do date > /tmp/now; cat /tmp/now /etc/hosts > /tmp/all; sleep 1; done";
        self.start("cron", &["-m", "16m"], cron)?;
        let ill = ["--health-cmd", "false", "--health-interval", "2s", "--health-retries", "2"];
        self.start("mail", &ill, "sleep 100000")?;
        self.start("idle", &[], "sleep 100000")
    }

    fn serve(&self) -> Result<(Ended, String), String> {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["serve", "--metrics", "127.0.0.1:0"]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| format!("serve: {e}"))?;
        let mut child = Ended(child);
        let out = child.0.stdout.take().ok_or("serve: no stdout")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).map_err(|e| format!("serve: {e}"))?;
        let address = line.split("://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.ok_or_else(|| format!("serve said {line:?}"))?.to_owned();
        Ok((child, address))
    }

    fn prometheus(&self, target: &str) -> Result<Ended, String> {
        let config = self.dir.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 2s, scrape_timeout: 2s }}\nscrape_configs:\n  \
             - job_name: bulkhead\n    static_configs: [{{ targets: [\"{target}\"] }}]\n"
        );
        fs::write(&config, text).map_err(|e| format!("write {}: {e}", config.display()))?;
        let log = self.dir.join("prometheus.log");
        let log = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", self.dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        child.map(Ended).map_err(|e| format!("prometheus: {e}"))
    }

    fn end(&self) {
        let ids = self.bulkhead(&["ps", "-aq"]).unwrap_or_default();
        let mut line = vec!["rm", "-f"];
        line.extend(ids.split_whitespace());
        if line.len() > 2 {
            // What cannot be removed shows in the directory that stays.
            let _ = self.bulkhead(&line);
        }
        let _ = self.bulkhead(&["network", "rm", "shop"]);
        remove(&self.dir);
    }
}

fn remove(dir: &Path) {
    let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(dir).status();
}

/// A child that does not outlive us.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Text that can stand in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
