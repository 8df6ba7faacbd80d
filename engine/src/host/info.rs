//! What `bulkhead info` says of the host, under the names of Docker's API.

use serde::Serialize;

use super::{Feature, supports};
use crate::cgroup::{Mounts, validate::Machine};

/// What others know: the store's and the engine's part of [`Info`].
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Running containers.
    pub running: usize,
    /// Paused containers.
    pub paused: usize,
    /// Containers that do not run.
    pub stopped: usize,
    /// Images.
    pub images: usize,
    /// The engine's version.
    pub version: String,
    /// Where everything is kept.
    pub root: String,
}

/// `GET /info`, and what `info` prints.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names are those of Docker's API, which documents them")]
pub struct Info {
    #[serde(rename = "ID")]
    pub id: String,
    pub containers: usize,
    pub containers_running: usize,
    pub containers_paused: usize,
    pub containers_stopped: usize,
    pub images: usize,
    pub driver: &'static str,
    pub driver_status: Vec<[String; 2]>,
    pub plugins: Plugins,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs_period: bool,
    pub cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    pub cpu_shares: bool,
    #[serde(rename = "CPUSet")]
    pub cpu_set: bool,
    pub pids_limit: bool,
    #[serde(rename = "IPv4Forwarding")]
    pub ipv4_forwarding: bool,
    pub oom_kill_disable: bool,
    pub debug: bool,
    pub logging_driver: &'static str,
    pub cgroup_driver: &'static str,
    /// "2", or "1" when the controllers are on v1, as Docker says of hybrid hosts.
    pub cgroup_version: &'static str,
    pub kernel_version: String,
    pub operating_system: String,
    #[serde(rename = "OSVersion")]
    pub os_version: String,
    #[serde(rename = "OSType")]
    pub os_type: &'static str,
    pub architecture: String,
    #[serde(rename = "NCPU")]
    pub cpus: usize,
    pub mem_total: u64,
    pub docker_root_dir: String,
    pub name: String,
    pub labels: Vec<String>,
    pub experimental_build: bool,
    pub server_version: String,
    pub default_runtime: &'static str,
    pub security_options: Vec<String>,
    pub warnings: Vec<String>,
}

/// Drivers by kind.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names are those of Docker's API, which documents them")]
pub struct Plugins {
    pub volume: Vec<&'static str>,
    pub network: Vec<&'static str>,
    pub log: Vec<&'static str>,
}

impl Info {
    /// Of this host, now.
    pub fn gather(counts: &Counts) -> Self {
        let uname = nix::sys::utsname::uname();
        let text = |field: Option<&std::ffi::OsStr>| {
            field.map_or_else(String::new, |s| s.to_string_lossy().into_owned())
        };
        let uname = uname.as_ref().ok();
        let release = std::fs::read_to_string("/etc/os-release")
            .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let (operating_system, os_version) = operating_system(&release);
        let pure = Mounts::find().is_ok_and(Mounts::is_pure_v2);
        let forwarding =
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1");
        let mut security_options = Vec::new();
        if supports(Feature::Seccomp) {
            security_options.push("name=seccomp,profile=builtin".to_owned());
        }
        security_options.push("name=cgroupns".to_owned());
        let mut info = Self {
            id: machine_id(),
            containers: counts.running + counts.paused + counts.stopped,
            containers_running: counts.running,
            containers_paused: counts.paused,
            containers_stopped: counts.stopped,
            images: counts.images,
            driver: "overlay2",
            driver_status: vec![
                ["Mount API".to_owned(), said(supports(Feature::OverlayMountApi))],
                ["Layers by lowerdir+".to_owned(), said(supports(Feature::OverlayLowerdirPlus))],
                ["Volatile".to_owned(), said(supports(Feature::OverlayVolatile))],
            ],
            plugins: Plugins {
                volume: vec!["local"],
                network: vec!["bridge", "host", "none"],
                log: vec!["json-file", "none"],
            },
            memory_limit: supports(Feature::MemoryLimit),
            swap_limit: supports(Feature::SwapLimit),
            cpu_cfs_period: supports(Feature::CpuQuota),
            cpu_cfs_quota: supports(Feature::CpuQuota),
            cpu_shares: supports(Feature::CpuWeight),
            cpu_set: supports(Feature::Cpuset),
            pids_limit: supports(Feature::PidsLimit),
            ipv4_forwarding: forwarding,
            oom_kill_disable: !pure,
            debug: false,
            logging_driver: "json-file",
            cgroup_driver: "cgroupfs",
            cgroup_version: if pure { "2" } else { "1" },
            kernel_version: text(uname.map(nix::sys::utsname::UtsName::release)),
            operating_system,
            os_version,
            os_type: "linux",
            architecture: text(uname.map(nix::sys::utsname::UtsName::machine)),
            cpus: Machine::here().cpus,
            mem_total: memory_total(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            docker_root_dir: counts.root.clone(),
            name: text(uname.map(nix::sys::utsname::UtsName::nodename)),
            labels: Vec::new(),
            experimental_build: false,
            server_version: counts.version.clone(),
            default_runtime: "bulkhead",
            security_options,
            warnings: Vec::new(),
        };
        info.warnings = info.missing();
        info
    }

    /// Docker's lines for what the host lacks, and ours for what Docker has no line for.
    fn missing(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (there, line) in [
            (self.memory_limit, "WARNING: No memory limit support"),
            (self.swap_limit, "WARNING: No swap limit support"),
            (self.cpu_cfs_quota, "WARNING: No cpu cfs quota support"),
            (self.cpu_cfs_period, "WARNING: No cpu cfs period support"),
            (self.cpu_shares, "WARNING: No cpu shares support"),
            (self.cpu_set, "WARNING: No cpuset support"),
            (self.pids_limit, "WARNING: No pids limit support"),
            (self.ipv4_forwarding, "WARNING: IPv4 forwarding is disabled"),
            (supports(Feature::IoWeight), "WARNING: No blkio weight support"),
            (supports(Feature::IoLimit), "WARNING: No blkio throttle support"),
            (supports(Feature::MemoryHigh), "WARNING: No memory.high support"),
            (supports(Feature::OomGroup), "WARNING: No memory.oom.group support"),
            (supports(Feature::Pressure), "WARNING: No pressure stall information"),
            (supports(Feature::Seccomp), "WARNING: No seccomp support"),
            (supports(Feature::Overlay), "WARNING: No overlay support"),
        ] {
            if !there {
                warnings.push(line.to_owned());
            }
        }
        warnings
    }
}

fn said(yes: bool) -> String {
    yes.to_string()
}

/// systemd's id of this machine, which survives reboots; empty where there is none.
fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

/// `PRETTY_NAME` and `VERSION_ID` of os-release(5).
pub fn operating_system(release: &str) -> (String, String) {
    let field = |name: &str| {
        release.lines().find_map(|line| {
            let value = line.trim().strip_prefix(name)?.strip_prefix('=')?;
            Some(unquote(value))
        })
    };
    let name = field("PRETTY_NAME").or_else(|| field("NAME")).unwrap_or_else(|| "Linux".to_owned());
    (name, field("VERSION_ID").unwrap_or_default())
}

/// A value in shell quotes, or none.
fn unquote(value: &str) -> String {
    let inner = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q)).unwrap_or(value);
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Bytes, of /proc/meminfo.
fn memory_total(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_as_distributions_write_it() {
        for (text, name, version) in [
            (
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n",
                "Debian GNU/Linux 12 (bookworm)",
                "12",
            ),
            ("NAME=Alpine\nVERSION_ID=3.20\n", "Alpine", "3.20"),
            ("PRETTY_NAME='It\\'s'\n", "It's", ""),
            ("PRETTY_NAME=\"\x1b[31mred\"\n", "[31mred", ""),
            ("PRETTY_NAME\n", "Linux", ""),
            ("PRETTY_NAME=\"\n", "\"", ""),
            ("", "Linux", ""),
        ] {
            assert_eq!(operating_system(text), (name.to_owned(), version.to_owned()), "{text:?}");
        }
        assert_eq!(memory_total("MemTotal:       24683656 kB\nMemFree: 1 kB\n"), 24_683_656 * 1024);
        for odd in ["", "MemTotal:", "MemTotal: x kB", "MemTotal: 5 MB"] {
            assert_eq!(memory_total(odd), 0, "{odd:?}");
        }
    }

    #[test]
    fn info_has_dockers_names() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let info = Info::gather(&Counts { running: 1, stopped: 2, ..Counts::default() });
        let json = serde_json::to_value(&info).unwrap();
        for field in
            ["ID", "NCPU", "MemTotal", "OSType", "CgroupVersion", "KernelVersion", "DockerRootDir", "CPUSet"]
        {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(json["Containers"], 3);
        assert!(info.mem_total > 0 && info.cpus > 0);
    }
}
