//! System packages: what is missing is named, with the reason, and then installed.
//!
//! A package is looked for by a file it brings rather than by asking dpkg, so that a machine of another
//! distribution that has the programs needs no apt.

use std::path::Path;
use std::process::Command;

use crate::shown;

/// A Debian package, a file it brings, and why it is wanted.
pub type Package = (&'static str, &'static str, &'static str);

/// To compile the workspace.
pub const BUILD: &[Package] = &[
    ("gcc", "/usr/bin/cc", "links, and compiles SQLite and zstd"),
    ("libc6-dev", "/usr/include/stdio.h", "the C library, also static"),
    ("clang", "/usr/bin/clang", "compiles the eBPF programs"),
    ("libbpf-dev", "/usr/include/bpf/bpf_helpers.h", "their helpers' declarations"),
    ("linux-libc-dev", "/usr/include/linux/bpf.h", "the kernel's interface"),
];

/// To make and run the demonstration's image.
pub const DEMO: &[Package] = &[
    ("apt", "/usr/bin/apt-get", "resolves and downloads what stress-ng needs"),
    ("dpkg", "/usr/bin/dpkg-deb", "unpacks it"),
    ("tar", "/usr/bin/tar", "makes it an archive"),
];

/// What the tests drive or compare with.
pub const TEST: &[Package] = &[
    ("busybox-static", "/bin/busybox", "every test image is made of it"),
    ("skopeo", "/usr/bin/skopeo", "reads the archives that the tests make and that save writes"),
    ("stress-ng", "/usr/bin/stress-ng", "leans on the limits"),
    ("podman", "/usr/bin/podman", "drives the OCI command line, pulls what we push"),
    ("docker-registry", "/usr/bin/docker-registry", "pulls and pushes on the loopback interface"),
    ("openssl", "/usr/bin/openssl", "makes certificates for it"),
    ("nftables", "/usr/sbin/nft", "looks at rules, and plays another firewall"),
    ("iproute2", "/usr/sbin/ip", "makes the other machines of a network"),
    ("iperf3", "/usr/bin/iperf3", "traffic through published ports"),
    ("prometheus", "/usr/bin/prometheus", "scrapes serve, reads the metrics, tests the alert rules"),
    (
        "docker-compose",
        "/usr/bin/docker-compose",
        "drives the API, beside the docker command where that is there",
    ),
    ("cpio", "/usr/bin/cpio", "reads the archive that a virtual machine boots from"),
    ("gzip", "/usr/bin/gzip", "compressed archives"),
    ("zstd", "/usr/bin/zstd", "compressed archives"),
];

/// Installs whatever of `wanted` is missing, saying what and why.
pub fn ensure(who: &str, wanted: &[Package]) -> Result<(), String> {
    let missing: Vec<_> = wanted.iter().filter(|(_, file, _)| !Path::new(file).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("{who}: missing system packages:");
    for (name, file, why) in &missing {
        println!("  {name:<16} {why} ({file})");
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err("no apt-get here: install the packages above by this system's own means".to_owned());
    }
    let names: Vec<_> = missing.iter().map(|(name, ..)| *name).collect();
    if !is_root() {
        return Err(format!("not root: run `sudo apt-get install {}` and then this again", names.join(" ")));
    }
    update()?;
    shown(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(&names))
}

/// Fetches the package lists, unless some are there.
pub fn update() -> Result<(), String> {
    let lists = std::fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    if lists.filter(|e| e.file_name().to_string_lossy().contains("_Packages")).count() > 0 {
        return Ok(());
    }
    shown(apt_get().arg("update"))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    command
}

/// Whether we are root. Asked of the kernel through /proc, since std has no geteuid.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0")))
}
