//! `cargo xtask vm [KERNEL…]`: the tests on other kernels and on pure cgroup v2.
//!
//! A Debian cloud kernel comes out of its package, without being installed; an initramfs is made of
//! busybox, the modules that containers need, the static `bulkhead` and the static test binaries; and
//! qemu boots it in software, which every machine can do. The serial console carries the tests' own
//! output out. One boot a kernel runs everything, all kernels at once. What the kernels offer
//! (`bulkhead check` inside) and how the tests went becomes `docs/kernels.md`.
//!
//! The tests are the same files that run natively ([`SUITES`]); here they meet a pure cgroup v2, the
//! kernels' own features, and the right to lower an OOM score. What cannot differ (grammar, archives,
//! networks' arithmetic) is left out: software emulation is some 16 times slower than the machine.
//! One more machine is so small that its memory runs out (`starved`), which no test may do to a host.
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
    ("e2fsprogs", "/sbin/mke2fs", "makes the machine's disk"),
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
    "nft_nat",
    "nf_conntrack_netlink",
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
    "lzo_rle",
    "zram",
];

/// A test binary: its name in the machine, the file it is built from, and what it is called with: variables of its
/// environment first, then filters, then flags.
struct Suite {
    name: &'static str,
    source: &'static str,
    calls: &'static [&'static str],
}

/// Most of their time they wait for somebody.
const TOGETHER: &str = "--test-threads=3";

const SUITES: &[Suite] = &[
    Suite {
        name: "engine",
        source: "engine/src/lib.rs",
        // Modules that meet the kernel; each test makes its own cgroups, namespaces and files. Unpacking by the
        // ring and, once that is forbidden, by threads.
        calls: &[
            "cgroup:: host:: snapshot:: runtime:: --test-threads=1",
            "TMPDIR=/mnt/disk layer::tests::every_framing layer::tests::nothing_gets layer::tests::whiteouts --test-threads=1",
            "RINGLESS layer::tests::every_framing --test-threads=1",
        ],
    },
    Suite {
        name: "ebpf",
        source: "ebpf/tests/trace.rs",
        // Every hook has to load, or they fail. The one left out only says more with a real machine's speed.
        calls: &["TMPDIR=/mnt/disk --skip a_burst_is_complete --test-threads=1"],
    },
    // On the disk, which is limited as well.
    Suite { name: "limits", source: "tests/limits.rs", calls: &["TMPDIR=/mnt/disk --test-threads=3"] },
    Suite { name: "unified", source: "tests/unified.rs", calls: &[TOGETHER] },
    Suite { name: "enforcer", source: "tests/enforcer.rs", calls: &[TOGETHER] },
];

/// What runs where memory runs out.
const STARVED: &[Suite] = &[Suite {
    name: "starved",
    source: "tests/starved.rs",
    // On the disk: what is thrown out of memory has to be read again.
    calls: &["BULKHEAD_TEST_MAY_STARVE=1 TMPDIR=/mnt/disk --test-threads=1"],
}];

/// A machine to boot.
struct Machine {
    /// What its lines begin with.
    short: String,
    kernel: Kernel,
    mebibytes: u32,
    suites: &'static [Suite],
}

/// Software emulation is some 16 times slower than the host.
const PATIENCE: Duration = Duration::from_secs(900);

/// By how much longer the tests wait than on the machine itself before they call something hung. Both
/// machines and whatever else runs here share its processors.
const TEST_PATIENCE: u32 = 10;

/// One kernel's account.
#[derive(Debug, Default)]
struct Report {
    release: String,
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: BTreeMap<String, String>,
    /// `bulkhead check`: feature to (have, probe).
    features: Vec<(String, bool, String)>,
    /// What tests measured and printed to be kept.
    figures: Vec<String>,
    finished: bool,
    /// It ran code that was no longer there: see [`boot`].
    is_stale: bool,
    seconds: u64,
}

/// `cargo xtask vm [KERNEL…] [--docs] [--no-build] [--only=SUITE[:TEST]]`
pub fn vm(args: &[String]) -> Result<(), String> {
    let (flags, names): (Vec<&String>, Vec<&String>) = args.iter().partition(|a| a.starts_with("--"));
    let only = flags.iter().find_map(|f| f.strip_prefix("--only=")).unwrap_or_default();
    let known = |flag: &str| ["--docs", "--no-build"].contains(&flag) || flag.starts_with("--only=");
    if let Some(flag) = flags.iter().find(|f| !known(f)) {
        return Err(format!(
            "no flag {flag}: there are --docs, which rewrites docs/kernels.md, --no-build, which takes the last build, and --only=SUITE[:TEST]"
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
    let binaries =
        if flags.iter().any(|f| *f == "--no-build") { Binaries::built()? } else { Binaries::build()? };
    let reports = run(&kernels, &binaries, only)?;
    println!();
    let mut bad = 0;
    for report in &reports {
        for (name, needs) in &report.skipped {
            println!("skipped  {}: {name}: {needs}", report.release);
        }
        for name in report.faults() {
            println!("FAILED   {name}");
            bad += 1;
        }
    }
    for report in &reports {
        println!("{}", report.summary());
    }
    if flags.iter().any(|f| *f == "--docs") {
        let path = Path::new("docs/kernels.md");
        fs::create_dir_all("docs").map_err(|e| format!("docs: {e}"))?;
        fs::write(path, table(&reports)?).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("wrote {}", path.display());
    }
    if bad == 0 { Ok(()) } else { Err(format!("{bad} failed")) }
}

/// All kernels, for the account of `cargo xtask test`: what passed, what failed, and what was skipped for want
/// of what. An error names what it would take to boot any at all.
///
/// Measured with other builds on the same two processors: 312 s for all three machines at once. Nearly all of it is
/// emulated instructions, so there is nothing to gain by hiding it behind steps that want the processors as well,
/// and machines that stand back for those would run into timeouts of the engine's own.
pub fn matrix() -> Result<Matrix, String> {
    packages::ensure("test", PACKAGES)?;
    for (_, package) in KERNELS {
        Kernel::unpack(package)?;
    }
    let mut matrix = Matrix::default();
    match Binaries::build().and_then(|binaries| run(KERNELS, &binaries, "")) {
        Ok(reports) => {
            for report in &reports {
                println!("{}", report.summary());
                matrix.passed += report.passed.len();
                matrix.failed.extend(report.faults());
                for (name, needs) in &report.skipped {
                    let needs = needs.strip_prefix("skipped: needs ").unwrap_or(needs);
                    matrix.skipped.push((format!("{}: {name}", report.release), needs.to_owned()));
                }
            }
        }
        Err(error) => matrix.failed.push(format!("kernels: {error}")),
    }
    Ok(matrix)
}

/// See [`matrix`].
#[derive(Debug, Default)]
pub struct Matrix {
    /// How many tests passed.
    pub passed: usize,
    /// Which ones did not.
    pub failed: Vec<String>,
    /// Which ones could not run, and what they need.
    pub skipped: Vec<(String, String)>,
}

/// Boots all of them at once and runs what belongs there.
///
/// A machine that cannot be booted at all is an error; what fails in one is in its report.
fn run(kernels: &[(&str, &str)], binaries: &Binaries, only: &str) -> Result<Vec<Report>, String> {
    let mut machines = Vec::new();
    for (short, package) in kernels {
        let kernel = Kernel::unpack(package)?;
        if machines.is_empty() {
            // One kernel's account of its memory is enough, and the newest is what users have.
            let short = format!("{short}s");
            machines.push(Machine { short, kernel: kernel.clone(), mebibytes: 512, suites: STARVED });
        }
        machines.push(Machine { short: (*short).to_owned(), kernel, mebibytes: 1536, suites: SUITES });
    }
    let suite = only.split(':').next().unwrap_or_default();
    machines.retain(|machine| machine.suites.iter().any(|s| suite.is_empty() || s.name == suite));
    // The small one first: it takes least, and the others then have the processors to themselves.
    let began = Instant::now();
    let booted: Vec<Result<Report, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = machines
            .iter()
            .map(|machine| scope.spawn(move || boot(machine, &machine.initramfs(binaries, only)?)))
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err("vm: a thread panicked".into())))
            .collect()
    });
    println!("vm: all of it took {} s", began.elapsed().as_secs());
    booted.into_iter().collect()
}

impl Report {
    /// What is wrong, one line each.
    fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> =
            self.failed.iter().map(|name| format!("{}: {name}", self.release)).collect();
        if !self.finished {
            faults.push(format!("{}: did not reach the end", self.release));
        }
        faults
    }

    fn summary(&self) -> String {
        format!(
            "{}: {} passed, {} failed, {} skipped in {} s",
            self.release,
            self.passed.len(),
            self.failed.len(),
            self.skipped.len(),
            self.seconds
        )
    }
}

/// What goes into the machines, stripped.
struct Binaries {
    /// Where the tests expect the binary that they drive.
    path: String,
}

const BINARIES: &str = "target/vm/bin";

impl Binaries {
    fn file(name: &str) -> PathBuf {
        Path::new(BINARIES).join(name)
    }

    /// What the last build left.
    fn built() -> Result<Self, String> {
        let file = Self::file("path");
        let path = fs::read_to_string(&file).map_err(|e| format!("{}: {e}: build once", file.display()))?;
        Ok(Self { path })
    }

    /// Builds, or finds what `cargo test` has built: the features that all members together ask for are part of
    /// what is built, so this asks for the same.
    fn build() -> Result<Self, String> {
        println!("vm: building the tests");
        let all = || SUITES.iter().chain(STARVED);
        let mut command = cargo();
        command.args(["test", "--workspace", "--locked", "--no-run", "--lib"]);
        for suite in all() {
            let name = suite.source.rsplit('/').next().and_then(|file| file.strip_suffix(".rs"));
            if let Some(name) = name.filter(|_| suite.source.contains("tests/")) {
                command.args(["--test", name]);
            }
        }
        let messages = quiet(command.arg("--message-format=json-render-diagnostics"))?;
        let found = |source: &str, is_test: bool| {
            executable(&messages, source, is_test)
                .ok_or_else(|| format!("cargo test --no-run: built nothing from {source}"))
        };
        let bulkhead = found("/src/main.rs", false)?;
        fs::create_dir_all(BINARIES).map_err(|e| format!("{BINARIES}: {e}"))?;
        let strip = |from: &Path, name: &str| {
            quiet(Command::new("strip").arg("-o").arg(Self::file(name)).arg(from)).map(drop)
        };
        strip(&bulkhead, "bulkhead")?;
        for suite in all() {
            strip(&found(&format!("/{}", suite.source), true)?, suite.name)?;
        }
        let path = bulkhead.to_string_lossy().into_owned();
        let file = Self::file("path");
        fs::write(&file, &path).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(Self { path })
    }
}

/// The executable that cargo's messages say was built from that source, a test of it or the program itself.
fn executable(messages: &str, source: &str, is_test: bool) -> Option<PathBuf> {
    messages.lines().rev().find_map(|line| {
        let from = line.split_once("\"src_path\":\"")?.1.split_once('"')?.0;
        let path = line.split_once("\"executable\":\"")?.1.split_once('"')?.0;
        // Tests are among the dependencies; programs are not.
        (from.ends_with(source) && path.contains("/deps/") == is_test).then(|| PathBuf::from(path))
    })
}

/// A kernel taken out of its package.
#[derive(Clone)]
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
}

impl Machine {
    fn initramfs(&self, binaries: &Binaries, only: &str) -> Result<PathBuf, String> {
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
        for name in self.suites.iter().map(|suite| suite.name).chain(["bulkhead"]) {
            archive.file(&format!("bin/{name}"), 0o755, &read(&Binaries::file(name))?);
        }
        // Where the tests were told at their compilation that it is.
        archive.link(binaries.path.trim_start_matches('/'), "/bin/bulkhead");
        let mut order = String::new();
        for path in self.kernel.modules()? {
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
        archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n");
        archive.file("etc/resolv.conf", 0o644, b"");
        archive.file("init", 0o755, MOVE.as_bytes());
        archive.file("bin/start", 0o755, start(self.suites, only).as_bytes());
        let path = self.file("initramfs");
        fs::write(&path, archive.close()).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.kernel.dir.join(format!("{name}-{}", self.short))
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

/// The machine's first process: moves everything into a tmpfs and begins there, since nobody can `pivot_root` away
/// from an initramfs, which every container does.
const MOVE: &str = "#!/bin/busybox sh\n\
    b=/bin/busybox\n\
    $b mkdir /moved\n\
    $b mount -t tmpfs -o size=80% tmpfs /moved\n\
    for f in /*; do [ $f = /moved ] || $b cp -a $f /moved/; done\n\
    exec $b switch_root -c /dev/console /moved /bin/start\n";

/// What it goes on with.
fn start(suites: &[Suite], only: &str) -> String {
    let mut script = format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         rm -f /init\n\
         export PATH=/bin HOME=/root RUST_BACKTRACE=0 BULKHEAD_TEST_PATIENCE={TEST_PATIENCE}\n\
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
         # A disk, for what limits I/O.\n\
         mkdir -p /mnt/disk && mount -t ext4 /dev/vda /mnt/disk\n\
         echo vm-release: $(uname -r)\n\
         echo vm-check-begin\n\
         bulkhead check\n\
         echo vm-check-end\n"
    );
    // Where memory is to run out, swap would only make it take longer.
    if suites.iter().any(|suite| suite.name == "starved") {
        script.push_str("swapoff -a\n");
    }
    let (wanted, filter) = only.split_once(':').unwrap_or((only, ""));
    for suite in suites.iter().filter(|suite| wanted.is_empty() || suite.name == wanted) {
        let name = suite.name;
        let _ = writeln!(script, "echo vm-suite: {name}");
        for call in suite.calls {
            let (before, call) = match call.strip_prefix("RINGLESS ") {
                Some(rest) => (FORBID_RINGS, rest),
                None => ("", *call),
            };
            let (variables, words): (Vec<&str>, Vec<&str>) =
                call.split(' ').partition(|word| word.contains('=') && !word.starts_with('-'));
            let mut words: Vec<&str> = words;
            if !filter.is_empty() {
                let at = words.iter().position(|word| word.starts_with("--")).unwrap_or(words.len());
                words.splice(..at, [filter]);
            }
            let (variables, words) = (variables.join(" "), words.join(" "));
            let _ = writeln!(script, "{before}{variables} {name} --show-output {words}");
        }
    }
    script.push_str("echo vm-end\nsync\nreboot -f\n");
    script
}

/// Where this kernel has the switch.
const FORBID_RINGS: &str =
    "[ -e /proc/sys/kernel/io_uring_disabled ] && echo 2 > /proc/sys/kernel/io_uring_disabled && ";

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

    /// A symbolic link, with the directories above it.
    fn link(&mut self, name: &str, target: &str) {
        for (at, _) in name.match_indices('/') {
            self.directory(&name[..at]);
        }
        self.entry(name, 0o120_777, (0, 0), target.as_bytes());
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

/// Boots and runs the tests; once more when the emulator ended the kernel.
///
/// A kernel switches its tracepoints on and off by writing into its own code, a breakpoint first, then the rest, then
/// what was to be there, and waits for the other processors before each. The emulator has a thread for each of them,
/// and one may still run what it had translated before: the breakpoint is met when it is gone (`Oops: int3`, the
/// instruction shown whole). One thread for all (`thread=single`) does not have that fault and takes half as long again.
fn boot(machine: &Machine, initramfs: &Path) -> Result<Report, String> {
    let report = boot_once(machine, initramfs)?;
    if report.finished || !report.is_stale {
        return Ok(report);
    }
    println!("vm: {}: the emulator ran code that was no longer there; once more", machine.short);
    boot_once(machine, initramfs)
}

/// Boots, prints one line a test as it comes, and counts.
fn boot_once(machine: &Machine, initramfs: &Path) -> Result<Report, String> {
    let (kernel, short) = (&machine.kernel, machine.short.as_str());
    println!("vm: {short}: booting {} with {} MiB", kernel.release, machine.mebibytes);
    let disk = machine.file("disk");
    let make = || fs::File::create(&disk)?.set_len(256 << 20);
    make().map_err(|e| format!("{}: {e}", disk.display()))?;
    quiet(Command::new("/sbin/mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&disk))?;
    let log_path = machine.file("console.log");
    let mut log = fs::File::create(&log_path).map_err(|e| format!("{}: {e}", log_path.display()))?;
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
        .args(["-m", &machine.mebibytes.to_string()])
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
    let mut console = Console::new(short);
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
    if machine.mebibytes < 1024 {
        let _ = write!(report.release, " ({} MiB)", machine.mebibytes);
    }
    report.seconds = start.elapsed().as_secs();
    println!("vm: {short}: took {} s", report.seconds);
    Ok(report)
}

/// What the machine says, line by line.
struct Console<'a> {
    short: &'a str,
    began: Instant,
    report: Report,
    /// Whose tests run: what their names begin with.
    suite: String,
    /// The test whose captured output is being shown.
    shown: Option<String>,
    in_check: bool,
    /// The test in whose line something else was written, which has its verdict on one of its own.
    torn: Option<String>,
}

impl<'a> Console<'a> {
    fn new(short: &'a str) -> Self {
        let report = Report::default();
        Self {
            short,
            began: Instant::now(),
            report,
            suite: String::new(),
            shown: None,
            in_check: false,
            torn: None,
        }
    }

    fn line(&mut self, line: &str) {
        let report = &mut self.report;
        let suite = &self.suite;
        report.is_stale |= line.contains("Oops: int3");
        if let Some(next) = line.strip_prefix("vm-suite: ") {
            println!("{:<5} {next} from second {}", self.short, self.began.elapsed().as_secs());
            self.suite = format!("{next} ");
            self.shown = None;
        } else if line == "vm-end" {
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
            let name = &format!("{suite}{name}");
            println!("{:<5} {verdict:<7} {name}", self.short);
            match verdict {
                "ok" => report.passed.push(name.clone()),
                "FAILED" => report.failed.push(name.clone()),
                _ => {
                    report.skipped.insert(name.clone(), verdict.to_owned());
                }
            }
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            self.shown = Some(format!("{suite}{name}"));
        } else if line == "failures:" || line == "successes:" {
            self.shown = None;
        } else if let Some(name) = &self.shown {
            if let Some(figure) = line.strip_prefix("figures: ") {
                println!("{:<5}         {figure}", self.short);
                report.figures.push(figure.to_owned());
            } else if line.starts_with("skipped: ") {
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
    // A machine that is only smaller has the features of its kernel.
    let kernels: Vec<&Report> = reports.iter().filter(|report| !report.release.contains(" MiB)")).collect();
    for report in &kernels {
        let _ = write!(text, " {} |", report.release);
    }
    let _ = writeln!(text, " {} (host) |", release.trim());
    text.push_str(&"|---".repeat(kernels.len() + 2));
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
        kernels.first().map_or(&host, |r| &r.features).iter().map(|(name, ..)| name).collect();
    for name in names {
        let _ = write!(text, "| {name} |");
        for report in &kernels {
            let _ = write!(text, " {} |", word(&report.features, name));
        }
        let _ = writeln!(text, " {} |", word(&host, name));
    }
    text.push_str(
        "\n## Tests\n\n\
         The same files that run natively: the engine's own (`engine`: cgroups, host, snapshots, runtime, layers by ring\n\
         and by threads), those of the kernel programs (`ebpf`), which fail when a hook of [trace](trace.md) does not load,\n\
         and the binary's: [limits](limits.md) (`limits`, `unified`), the [pressure policy](enforcer.md) (`enforcer`), and\n\
         what happens when the whole machine runs out of memory (`starved`, in a machine of 512 MiB). All machines run\n\
         at once; seconds are of the clock on the wall.\n\n\
         | kernel | passed | failed | skipped | seconds |\n|---|---|---|---|---|\n",
    );
    for report in reports {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            report.release,
            report.passed.len(),
            report.failed.len(),
            report.skipped.len(),
            report.seconds
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
        let mut console = Console::new("x");
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
        assert!(report.finished && !report.is_stale);
        assert_eq!(report.release, "6.12.1");
        let mut console = Console::new("x");
        console.line("test e ... [    8.1] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI");
        assert!(console.report.is_stale && !console.report.finished);
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
