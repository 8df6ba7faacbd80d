//! How long an image takes from a registry to unpacked layers.
//!
//! The registry is Debian's `docker-registry` on the loopback interface, its files in the page cache: what is
//! measured is the engines, not a network. It shares the processors with them, as a network card would not.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{Contender, interleave, table};
use crate::peers::{self, Dir};
use crate::unpack::{image, settled};
use crate::worker::Worker;

/// A registry, ended when it is dropped.
struct Registry {
    child: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start(dir: &Path) -> Result<Self, String> {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
        let address = format!("127.0.0.1:{port}");
        let (config, log) = (dir.join("registry.yml"), dir.join("registry.log"));
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: {address}}}\n",
            dir.join("registry").display()
        );
        let failed = |e: std::io::Error| format!("docker-registry: {e}");
        fs::write(&config, text).map_err(failed)?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log).map_err(failed)?)
            .stderr(fs::File::options().append(true).open(&log).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let mut registry = Self { child, address };
        let began = Instant::now();
        while !fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on")) {
            if registry.child.try_wait().map_err(failed)?.is_some()
                || began.elapsed() > Duration::from_secs(30)
            {
                return Err(format!("docker-registry does not listen: see {}", log.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }
}

/// `pull [ROUNDS [gzip|zstd]…]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let rounds = match args {
        [] => 3,
        [n, ..] => n.parse().map_err(|_| format!("rounds: {n:?} is not a number"))?,
    };
    let only = args.get(1..).unwrap_or_default();
    if let Some(word) = only.iter().find(|word| !["gzip", "zstd"].contains(word)) {
        return Err(format!("{word:?} is none of gzip, zstd"));
    }
    for needed in ["docker-registry", "skopeo"] {
        if peers::find(needed).is_none() {
            return Err(format!("needs {needed}"));
        }
    }
    let source = image()?;
    let dir = Dir::new("pull")?;
    let registry = Registry::start(dir.path())?;
    println!("{}", peers::conditions(dir.path()));
    println!("{}", fs::read_to_string(source.join("facts")).unwrap_or_default().trim());
    println!(
        "\nEvery round pulls into a fresh destination, after a sync, from docker-registry on the loopback interface, \
         whose files are in the page cache. Bulkhead syncs its layers before it returns (one syncfs); podman and \
         containerd are measured as they are."
    );
    for kind in ["gzip", "zstd"] {
        if only.is_empty() || only.contains(&kind) {
            shape(kind, &source, &registry, dir.path(), rounds)?;
        }
    }
    Ok(())
}

fn shape(kind: &str, source: &Path, registry: &Registry, dir: &Path, rounds: usize) -> Result<(), String> {
    let name = format!("{}/real:{kind}", registry.address);
    let status = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
        .arg(format!("oci-archive:{}", source.join(format!("{kind}.tar")).display()))
        .arg(format!("docker://{name}"))
        .status()
        .map_err(|e| format!("skopeo: {e}"))?;
    if !status.success() {
        return Err(format!("skopeo copy to {name}: {status}"));
    }
    let at = |tool: &str, round: usize| dir.join(format!("{tool}-{kind}-{round}"));
    let mut contenders: Vec<Contender<'_>> = Vec::new();

    let mut worker = Worker::new("", &[])?;
    let image = name.clone();
    let once = move |round: usize| {
        let mut line = peers::bulkhead_words(&at("bulkhead", round), &at("bulkhead-run", round))?;
        line.extend(["pull".to_owned(), "--quiet".to_owned(), image.clone()]);
        worker.run(&line)
    };
    contenders.push(Contender { name: "bulkhead pull".to_owned(), once: Box::new(once) });

    let mut absent = Vec::new();
    if peers::find("podman").is_some() {
        let image = name.clone();
        let once = move |round: usize| {
            let (mut worker, mut line) = peers::podman(&at("podman", round))?;
            line.extend(["pull", "--tls-verify=false", "--quiet"].map(str::to_owned));
            line.push(image.clone());
            worker.run(&line)
        };
        contenders.push(Contender { name: "podman pull".to_owned(), once: Box::new(once) });
    } else {
        absent.push("podman");
    }
    if peers::find("containerd").is_some() {
        let image = name.clone();
        let once = move |round: usize| {
            let (_daemon, mut worker, mut line) = peers::containerd(&at("containerd", round))?;
            line.extend(["image", "pull", "--plain-http"].map(str::to_owned));
            line.push(image.clone());
            worker.run(&line)
        };
        contenders.push(Contender { name: "ctr image pull".to_owned(), once: Box::new(once) });
    } else {
        absent.push("containerd");
    }
    // What the download alone takes, on the same socket: nothing can be faster.
    if peers::find("curl").is_some() {
        let layout = source.join(kind).join("blobs/sha256");
        let blobs: Vec<String> = fs::read_dir(&layout)
            .map_err(|e| format!("{}: {e}", layout.display()))?
            .filter_map(|entry| Some(format!("sha256:{}", entry.ok()?.file_name().to_str()?)))
            .map(|digest| format!("http://{}/v2/real/blobs/{digest}", registry.address))
            .collect();
        let mut worker = Worker::new("", &[])?;
        let once = move |_| {
            let script = format!("curl -s -o /dev/null {}", blobs.join(" -o /dev/null "));
            worker.run(&["sh".to_owned(), "-ec".to_owned(), script])
        };
        contenders
            .push(Contender { name: "curl of the blobs, into nothing".to_owned(), once: Box::new(once) });
    }
    for contender in &mut contenders {
        let once = std::mem::replace(&mut contender.once, Box::new(|_| Err("replaced".to_owned())));
        contender.once = Box::new(settled(once));
    }
    let figures = interleave(&mut contenders, 0, rounds);
    print!("{}", table(&format!("pull, {kind}"), &figures));
    for name in absent {
        println!("\n{name} is left out: not installed");
    }
    Ok(())
}
