//! `cargo xtask vm [KERNEL…]`: the tests on other kernels and on pure cgroup v2.
//!
//! A Debian cloud kernel comes out of its package, without being installed; an initramfs is made of
//! busybox, the modules that containers need, the static `bulkhead` and the static test binaries; and
//! qemu boots it in software, which every machine can do. The serial console carries the tests' own
//! output out. One boot a kernel runs everything. What the kernels offer (`bulkhead check` inside)
//! and how the tests went becomes `docs/kernels.md`.
//!
//! Nothing is read back from the machine but the console, so a kernel that dies in the middle costs its
//! remaining tests and nothing else: they count as failed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::packages::{self, Package};
use crate::{cargo, quiet};

/// What boots a kernel.
const PACKAGES: &[Package] = &[
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64", "runs the kernel, in software"),
    ("busybox-static", "/bin/busybox", "is the machine's userland"),
    ("kmod", "/usr/sbin/depmod", "orders the modules"),
    ("xz-utils", "/usr/bin/xz", "unpacks the modules"),
    ("binutils", "/usr/bin/strip", "makes the test binaries smaller"),
    ("dpkg", "/usr/bin/dpkg-deb", "unpacks the kernel"),
];

/// Kernels, and Debian's package for each.
const KERNELS: &[(&str, &str)] =
    &[("6.12", "linux-image-6.12-cloud-amd64"), ("6.1", "linux-image-cloud-amd64")];

/// Modules that containers and their tests need; what is built in is not found and not missed.
const MODULES: &[&str] = &[
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_reject_inet",
    "virtio_pci",
    "virtio_blk",
    "loop",
    "ext4",
    "tun",
    "zram",
];

/// Prefixes of the engine's unit tests that are run; each makes its own cgroups, namespaces and files.
const TESTS: &[&str] = &["cgroup::", "host::", "snapshot::", "runtime::"];

/// Of the kernel programs' tests, those that only say more with a real machine's speed.
const SLOW: &[&str] = &["a_burst_is_complete"];

/// Software emulation is some 16 times slower than the host.
const PATIENCE: Duration = Duration::from_secs(600);

/// One kernel's account.
#[derive(Debug, Default)]
struct Report {
    release: String,
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: BTreeMap<String, String>,
    /// `bulkhead check`: feature to (have, probe).
    features: Vec<(String, bool, String)>,
    finished: bool,
}

/// `cargo xtask vm [KERNEL…] [--docs] [--no-build]`
pub fn vm(args: &[String]) -> Result<(), String> {
    let (flags, names): (Vec<&String>, Vec<&String>) = args.iter().partition(|a| a.starts_with("--"));
    if let Some(flag) = flags.iter().find(|f| !["--docs", "--no-build"].contains(&f.as_str())) {
        return Err(format!(
            "no flag {flag}: there are --docs, which rewrites docs/kernels.md, and --no-build, which takes the last build"
        ));
    }
    let mut kernels = Vec::new();
    for name in &names {
        let known = KERNELS.iter().find(|(short, _)| short == name);
        kernels.push(*known.ok_or_else(|| {
            format!(
                "no kernel {name}: there are {}",
                KERNELS.iter().map(|k| k.0).collect::<Vec<_>>().join(", ")
            )
        })?);
    }
    if kernels.is_empty() {
        kernels = KERNELS.to_vec();
    }
    packages::ensure("vm", PACKAGES)?;
    packages::ensure("vm", packages::BUILD)?;
    let binaries = if flags.iter().any(|f| *f == "--no-build") { built() } else { build()? };

    let mut reports = Vec::new();
    for (short, package) in kernels {
        let kernel = Kernel::unpack(package)?;
        let initramfs = kernel.initramfs(&binaries)?;
        let report = boot(short, &kernel, &initramfs)?;
        reports.push(report);
    }
    println!();
    let mut bad = 0;
    for report in &reports {
        for name in &report.failed {
            println!("FAILED   {}: {name}", report.release);
        }
        for (name, needs) in &report.skipped {
            println!("skipped  {}: {name}: {needs}", report.release);
        }
        bad += report.failed.len() + usize::from(!report.finished);
        if !report.finished {
            println!("FAILED   {}: did not reach the end", report.release);
        }
    }
    for report in &reports {
        println!(
            "{}: {} passed, {} failed, {} skipped",
            report.release,
            report.passed.len(),
            report.failed.len(),
            report.skipped.len()
        );
    }
    if flags.iter().any(|f| *f == "--docs") {
        let path = Path::new("docs/kernels.md");
        fs::create_dir_all("docs").map_err(|e| format!("docs: {e}"))?;
        fs::write(path, table(&reports)?).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("wrote {}", path.display());
    }
    if bad == 0 { Ok(()) } else { Err(format!("{bad} failed")) }
}

/// Name in the machine, and the stripped file.
type Binary = (String, PathBuf);

const BINARIES: &str = "target/vm/bin";

/// What the last build left.
fn built() -> Vec<Binary> {
    ["bulkhead", "engine-tests", "ebpf-tests"]
        .map(|name| (name.to_owned(), Path::new(BINARIES).join(name)))
        .to_vec()
}

fn build() -> Result<Vec<Binary>, String> {
    println!("vm: building bulkhead, the engine's tests and those of the kernel programs");
    let mut found = Vec::new();
    let made = |arguments: &[&str], kind: &str| -> Result<PathBuf, String> {
        let output = quiet(cargo().args(arguments).arg("--message-format=json-render-diagnostics"))?;
        executable(&output, kind).ok_or_else(|| format!("cargo {}: built no {kind}", arguments.join(" ")))
    };
    found.push(("bulkhead".to_owned(), made(&["build", "--package", "bulkhead"], "bulkhead")?));
    let tests = ["test", "--no-run", "--package", "bulkhead-engine", "--lib"];
    found.push(("engine-tests".to_owned(), made(&tests, "bulkhead_engine")?));
    let tests = ["test", "--no-run", "--package", "bulkhead-ebpf", "--test", "trace"];
    found.push(("ebpf-tests".to_owned(), made(&tests, "trace")?));

    let dir = PathBuf::from(BINARIES);
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for (name, path) in &mut found {
        let stripped = dir.join(&*name);
        quiet(Command::new("strip").arg("-o").arg(&stripped).arg(&*path))?;
        *path = stripped;
    }
    Ok(found)
}

/// The last executable of that target in cargo's messages.
fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    messages
        .lines()
        .rev()
        .filter(|line| line.contains(&format!("\"name\":\"{target}\"")))
        .find_map(|line| Some(PathBuf::from(line.split_once("\"executable\":\"")?.1.split_once('"')?.0)))
}

/// A kernel taken out of its package.
struct Kernel {
    image: PathBuf,
    release: String,
    dir: PathBuf,
}

impl Kernel {
    fn unpack(package: &str) -> Result<Self, String> {
        packages::update()?;
        // The name without a version is a package that depends on the kernel of the day.
        let depends = quiet(Command::new("apt-cache").args(["depends", package]))?;
        let real = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .ok_or_else(|| format!("apt-cache depends {package}: names no kernel"))?
            .to_owned();
        let dir = PathBuf::from("target/vm").join(&real);
        let release = real.trim_start_matches("linux-image-").to_owned();
        let image = dir.join("boot").join(format!("vmlinuz-{release}"));
        if !image.exists() {
            println!("vm: fetching {real}");
            fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            quiet(Command::new("apt-get").args(["download", &real]).current_dir(&dir))?;
            let deb = fs::read_dir(&dir)
                .map_err(|e| format!("{}: {e}", dir.display()))?
                .flatten()
                .map(|e| e.path())
                .find(|p| p.extension().is_some_and(|x| x == "deb"))
                .ok_or_else(|| format!("apt-get download {real}: no package in {}", dir.display()))?;
            quiet(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&dir))?;
            let _ = fs::remove_file(deb);
            quiet(Command::new("/usr/sbin/depmod").arg("--basedir").arg(&dir).arg(&release))?;
        }
        Ok(Self { image, release, dir })
    }

    /// Files of [`MODULES`] with what they depend on, in the order in which they load.
    fn modules(&self) -> Result<Vec<PathBuf>, String> {
        let base = self.dir.join("lib/modules").join(&self.release);
        let path = base.join("modules.dep");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(order(&text, MODULES).into_iter().map(|file| base.join(file)).collect())
    }

    fn initramfs(&self, binaries: &[Binary]) -> Result<PathBuf, String> {
        let mut archive = Archive::default();
        for dir in [
            "bin", "dev", "etc", "lib", "mnt", "modules", "proc", "root", "run", "sys", "tmp", "usr",
            "usr/lib", "var",
        ] {
            archive.directory(dir);
        }
        archive.console();
        let read = |path: &Path| fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
        archive.file("bin/busybox", 0o755, &read(Path::new("/bin/busybox"))?);
        for (name, path) in binaries {
            archive.file(&format!("bin/{name}"), 0o755, &read(path)?);
        }
        let mut order = String::new();
        for path in self.modules()? {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let (name, bytes) = match file.strip_suffix(".xz") {
                Some(name) => (name.to_owned(), unxz(&path)?),
                None => (file.into_owned(), read(&path)?),
            };
            archive.file(&format!("modules/{name}"), 0o644, &bytes);
            order.push_str(&name);
            order.push('\n');
        }
        archive.file("modules/order", 0o644, order.as_bytes());
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        archive.file("etc/group", 0o644, b"root:x:0:\n");
        archive.file("init", 0o755, init().as_bytes());
        let path = self.dir.join("initramfs");
        fs::write(&path, archive.close()).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }
}

fn unxz(path: &Path) -> Result<Vec<u8>, String> {
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .map_err(|e| format!("xz {}: {e}", path.display()))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("xz {}: {}", path.display(), output.status))
    }
}

/// From `modules.dep` (`a.ko: b.ko c.ko`, dependencies nearest first) the files to load for `wanted`.
fn order(dep: &str, wanted: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    let mut have = BTreeSet::new();
    for name in wanted {
        // A module's file may be called foo-bar where the module is foo_bar.
        let line = dep.lines().find(|line| {
            let file = line.split(':').next().unwrap_or_default();
            let stem = file.rsplit('/').next().unwrap_or_default();
            stem.split('.').next().unwrap_or_default().replace('-', "_") == *name
        });
        let Some((file, needs)) = line.and_then(|line| line.split_once(':')) else { continue };
        for each in needs.split_whitespace().rev().chain([file]) {
            if have.insert(each.to_owned()) {
                files.push(each.to_owned());
            }
        }
    }
    files
}

/// The machine's first process.
fn init() -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin HOME=/root RUST_BACKTRACE=0\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs dev /dev\n\
         mkdir -p /dev/pts /dev/shm /dev/mqueue\n\
         mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts\n\
         mount -t tmpfs tmpfs /dev/shm\n\
         mount -t tmpfs tmpfs /tmp\n\
         mount -t tmpfs tmpfs /run\n\
         mount -t tmpfs tmpfs /var\n\
         mkdir -p /var/lib /var/tmp\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         mount -t tracefs tracefs /sys/kernel/tracing\n\
         mount -t securityfs securityfs /sys/kernel/security\n\
         for m in $(cat /modules/order); do insmod /modules/$m 2>/dev/null; done\n\
         hostname vm\n\
         ip link set lo up\n\
         # Swap, for what limits it.\n\
         if [ -e /sys/block/zram0 ]; then echo 64M > /sys/block/zram0/disksize; mkswap /dev/zram0 >/dev/null; swapon /dev/zram0; fi\n\
         echo vm-release: $(uname -r)\n\
         echo vm-check-begin\n\
         bulkhead check\n\
         echo vm-check-end\n",
    );
    for prefix in TESTS {
        let _ = writeln!(script, "engine-tests --test-threads=1 --show-output {prefix}");
    }
    // Every hook has to load, or they fail.
    script.push_str("ebpf-tests --test-threads=1 --show-output");
    for slow in SLOW {
        let _ = write!(script, " --skip {slow}");
    }
    script.push('\n');
    script.push_str("echo vm-end\nsync\nreboot -f\n");
    script
}

/// An initramfs: cpio's "newc" format, in memory.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            self.entries,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            device.0,
            device.1,
            name.len() + 1,
            0
        );
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, (0, 0), &[]);
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | mode, (0, 0), content);
    }

    /// The kernel opens it for the first process before there is a /dev.
    fn console(&mut self) {
        self.entry("dev/console", 0o020_600, (5, 1), &[]);
    }

    fn close(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

/// Boots, prints one line a test as it comes, and counts.
fn boot(short: &str, kernel: &Kernel, initramfs: &Path) -> Result<Report, String> {
    println!("vm: booting {}", kernel.release);
    let disk = kernel.dir.join("disk");
    let make = || fs::File::create(&disk)?.set_len(256 << 20);
    make().map_err(|e| format!("{}: {e}", disk.display()))?;
    let log_path = kernel.dir.join("console.log");
    let mut log = fs::File::create(&log_path).map_err(|e| format!("{}: {e}", log_path.display()))?;
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()))
        // Above level 1 the kernel's own lines would break those of the tests.
        .args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1 psi=1 swapaccount=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| format!("qemu-system-x86_64: {e}"))?;
    let console = qemu.stdout.take().expect("it was asked for");
    // A thread of its own reads, so that a silent machine cannot outlast our patience.
    let (send, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let mut console = Console { short, report: Report::default(), shown: None, in_check: false, torn: None };
    let start = Instant::now();
    while let Ok(line) = lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
        let _ = writeln!(log, "{line}");
        console.line(&line);
        if console.report.finished {
            break;
        }
    }
    let mut report = console.report;
    if !report.finished {
        println!(
            "vm: {}: no end after {} s; see {}",
            kernel.release,
            start.elapsed().as_secs(),
            log_path.display()
        );
    }
    let _ = qemu.kill();
    let _ = qemu.wait();
    drop(lines);
    let _ = reader.join();
    if report.release.is_empty() {
        report.release.clone_from(&kernel.release);
    }
    println!("vm: {} took {} s", kernel.release, start.elapsed().as_secs());
    Ok(report)
}

/// What the machine says, line by line.
struct Console<'a> {
    short: &'a str,
    report: Report,
    /// The test whose captured output is being shown.
    shown: Option<String>,
    in_check: bool,
    /// The test in whose line something else was written, which has its verdict on one of its own.
    torn: Option<String>,
}

impl Console<'_> {
    fn line(&mut self, line: &str) {
        let report = &mut self.report;
        if line == "vm-end" {
            report.finished = true;
        } else if let Some(release) = line.strip_prefix("vm-release: ") {
            release.clone_into(&mut report.release);
        } else if line == "vm-check-begin" {
            self.in_check = true;
        } else if line == "vm-check-end" {
            self.in_check = false;
        } else if self.in_check {
            if let Some(feature) = feature(line) {
                report.features.push(feature);
            }
        } else if let Some((name, verdict)) = result(line, &mut self.torn) {
            let name = name.as_str();
            println!("{:<5} {verdict:<7} {name}", self.short);
            match verdict {
                "ok" => report.passed.push(name.to_owned()),
                "FAILED" => report.failed.push(name.to_owned()),
                _ => {
                    report.skipped.insert(name.to_owned(), verdict.to_owned());
                }
            }
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            self.shown = Some(name.to_owned());
        } else if line == "failures:" || line == "successes:" {
            self.shown = None;
        } else if let Some(name) = &self.shown {
            if line.starts_with("skipped: ") {
                report.passed.retain(|passed| passed != name);
                report.skipped.insert(name.clone(), line.to_owned());
            } else if report.failed.contains(name) && !line.is_empty() {
                println!("{:<5}         {line}", self.short);
            }
        } else if line.contains("Kernel panic") || line.contains("BUG:") {
            println!("{:<5} {line}", self.short);
        }
    }
}

/// `test NAME ... VERDICT`, as libtest prints it; what a test's own processes write may come between.
fn result<'a>(line: &'a str, torn: &mut Option<String>) -> Option<(String, &'a str)> {
    let known = |verdict: &str| matches!(verdict, "ok" | "FAILED" | "ignored");
    if known(line) {
        return Some((torn.take()?, line));
    }
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    if known(verdict) {
        return Some((name.to_owned(), verdict));
    }
    *torn = Some(name.to_owned());
    None
}

/// A line of `bulkhead check`: area, feature, yes or no, probe. Columns are two blanks apart at least,
/// and names have single blanks.
fn feature(line: &str) -> Option<(String, bool, String)> {
    let (_, rest) = line.split_at_checked(10)?;
    let (name, rest) = rest.split_once("  ")?;
    let rest = rest.trim_start();
    let (have, probe) = rest.split_once(' ')?;
    let have = match have {
        "yes" => true,
        "no" => false,
        _ => return None,
    };
    Some((name.to_owned(), have, probe.trim_start().to_owned()))
}

/// `docs/kernels.md`.
fn table(reports: &[Report]) -> Result<String, String> {
    let today = quiet(Command::new("date").arg("+%Y-%m-%d"))?;
    let host = quiet(Command::new("target/vm/bin/bulkhead").arg("check"))?;
    let host: Vec<_> = host.lines().filter_map(feature).collect();
    let release = quiet(Command::new("uname").arg("-r"))?;
    let mut text = format!(
        "# Kernels\n\n\
         What each kernel offered when it was tried, on {}. Written by `cargo xtask vm --docs`; do not edit.\n\
         Debian's cloud kernels run in a virtual machine on pure cgroup v2; the last column is the machine that\n\
         ran them.\n\n| feature |",
        today.trim()
    );
    for report in reports {
        let _ = write!(text, " {} |", report.release);
    }
    let _ = writeln!(text, " {} (host) |", release.trim());
    text.push_str(&"|---".repeat(reports.len() + 2));
    text.push_str("|\n");
    let word = |features: &[(String, bool, String)], name: &str| {
        match features.iter().find(|(feature, ..)| feature == name) {
            Some((_, true, _)) => "yes".to_owned(),
            // "probe: errno; what it costs": the costs are the same everywhere.
            Some((_, false, why)) => {
                format!("no: {}", why.split("; ").next().unwrap_or(why).replace('|', "\\|"))
            }
            None => "?".to_owned(),
        }
    };
    let names: Vec<&String> =
        reports.first().map_or(&host, |r| &r.features).iter().map(|(name, ..)| name).collect();
    for name in names {
        let _ = write!(text, "| {name} |");
        for report in reports {
            let _ = write!(text, " {} |", word(&report.features, name));
        }
        let _ = writeln!(text, " {} |", word(&host, name));
    }
    text.push_str("\n## Tests\n\nThe engine's (cgroups, host, snapshots, runtime) and those of the kernel programs (`ebpf/tests`), which fail\nwhen one of the hooks of [trace](trace.md) does not load.\n\n| kernel | passed | failed | skipped |\n|---|---|---|---|\n");
    for report in reports {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            report.release,
            report.passed.len(),
            report.failed.len(),
            report.skipped.len()
        );
    }
    for report in reports {
        for (name, needs) in &report.skipped {
            let _ = write!(text, "\n- {}: `{name}` {needs}", report.release);
        }
        for name in &report.failed {
            let _ = write!(text, "\n- {}: `{name}` **failed**", report.release);
        }
    }
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_after_what_they_need() {
        let dep = "kernel/a/nf_tables.ko.xz: kernel/b/nfnetlink.ko.xz kernel/c/crc.ko.xz\n\
            kernel/b/nfnetlink.ko.xz:\nkernel/c/crc.ko.xz:\nkernel/d/nft-ct.ko: kernel/a/nf_tables.ko.xz kernel/b/nfnetlink.ko.xz kernel/c/crc.ko.xz\n";
        assert_eq!(
            order(dep, &["nf_tables", "nft_ct", "absent"]),
            [
                "kernel/c/crc.ko.xz",
                "kernel/b/nfnetlink.ko.xz",
                "kernel/a/nf_tables.ko.xz",
                "kernel/d/nft-ct.ko"
            ]
        );
        assert!(order("", &["x"]).is_empty());
    }

    #[test]
    fn the_console_is_read_as_it_comes() {
        let mut console =
            Console { short: "x", report: Report::default(), shown: None, in_check: false, torn: None };
        for line in [
            "[    1.0] noise",
            "vm-release: 6.12.1",
            "vm-check-begin",
            "AREA      FEATURE   HAVE PROBE",
            "cgroup    memory.high  yes  write memory.high",
            "trace     kernel BTF   no   open /sys/kernel/btf/vmlinux: ENOENT; no programs",
            "vm-check-end",
            "test a ... ok",
            "test b ... FAILED",
            "test c ... ok",
            "test d ... sh: not found",
            "ok",
            "ok",
            "successes:",
            "---- c stdout ----",
            "skipped: needs swap",
            "vm-end",
        ] {
            console.line(line);
        }
        let report = console.report;
        assert_eq!(
            (report.passed.as_slice(), report.failed.as_slice()),
            (&["a".to_owned(), "d".to_owned()][..], &["b".to_owned()][..])
        );
        assert_eq!(report.skipped["c"], "skipped: needs swap");
        assert_eq!(report.features.len(), 2);
        assert!(report.features[0].1 && !report.features[1].1);
        assert!(report.finished);
        assert_eq!(report.release, "6.12.1");
    }

    #[test]
    fn an_archive_is_what_cpio_reads() {
        let mut archive = Archive::default();
        archive.directory("d");
        archive.file("d/f", 0o644, b"hello");
        let bytes = archive.close();
        assert_eq!(bytes.len() % 4, 0);
        let listed = Command::new("cpio")
            .args(["--list", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = listed else {
            println!("skipped: needs cpio");
            return;
        };
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "d\nd/f\n");
    }
}
