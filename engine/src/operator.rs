//! What the operator sets for all containers: Docker's `daemon.json`.
//!
//! There is no daemon that reads it when it starts, so each command reads the keys that it needs, and a change
//! holds from the next command on. The keys of networks and of registries are understood where networks and
//! registries are; here is the file itself, and what a container is given when its own flags are silent. A key
//! that Docker does not know stops a command as it stops Docker's daemon, since it is a setting somebody believes
//! to be in force.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::{HostConfig, LogConfig, Ulimit};
use crate::store::Layout;

/// Bytes of /dev/shm when nobody says otherwise. Docker's value.
const SHM: i64 = 64 << 20;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("unable to configure the engine with file {path}: {reason}", path = path.display())]
pub struct Error {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Docker's keys that are understood, here or in the modules they concern, and those that are about a daemon or
/// about parts that Bulkhead does not have, which change nothing.
const KEYS: &[&str] = &[
    "allow-nondistributable-artifacts",
    "api-cors-header",
    "authorization-plugins",
    "bip",
    "bip6",
    "bridge",
    "bridge-accept-fwmark",
    "builder",
    "cgroup-parent",
    "cluster-advertise",
    "cluster-store",
    "cluster-store-opts",
    "containerd",
    "containerd-namespace",
    "containerd-plugin-namespace",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "data-root",
    "debug",
    "default-address-pools",
    "default-cgroupns-mode",
    "default-gateway",
    "default-gateway-v6",
    "default-ipc-mode",
    "default-network-opts",
    "default-runtime",
    "default-shm-size",
    "default-ulimits",
    "dns",
    "dns-opts",
    "dns-search",
    "exec-opts",
    "exec-root",
    "experimental",
    "features",
    "firewall-backend",
    "fixed-cidr",
    "fixed-cidr-v6",
    "group",
    "host-gateway-ip",
    "host-gateway-ips",
    "hosts",
    "http-proxy",
    "https-proxy",
    "icc",
    "init",
    "init-path",
    "insecure-registries",
    "ip",
    "ip-forward",
    "ip-forward-no-drop",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "isolation",
    "labels",
    "live-restore",
    "log-driver",
    "log-format",
    "log-level",
    "log-opts",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "metrics-addr",
    "mtu",
    "no-new-privileges",
    "no-proxy",
    "node-generic-resources",
    "oom-score-adjust",
    "pidfile",
    "proxies",
    "raw-logs",
    "registry-mirrors",
    "rootless",
    "runtimes",
    "seccomp-profile",
    "selinux-enabled",
    "shutdown-timeout",
    "storage-driver",
    "storage-opts",
    "swarm-default-advertise-addr",
    "tls",
    "tlscacert",
    "tlscert",
    "tlskey",
    "tlsverify",
    "userland-proxy",
    "userland-proxy-path",
    "userns-remap",
];

/// Keys that would change what a container is or who may do what, and that are not kept: to pass over them in
/// silence would leave the operator with less than was asked for.
const REFUSED: &[(&str, &str)] = &[
    ("userns-remap", "user namespaces are not mapped for all containers; see `bulkhead oci`"),
    ("seccomp-profile", "name the profile for each container: --security-opt seccomp=FILE"),
    ("authorization-plugins", "there is no daemon that could ask one"),
];

/// `/etc/bulkhead`, or the store's root where that is not the default: where the operator's files are.
pub fn directory(layout: &Layout) -> PathBuf {
    if layout.root == Path::new("/var/lib/bulkhead") {
        PathBuf::from("/etc/bulkhead")
    } else {
        layout.root.clone()
    }
}

/// The file and what is in it; `None` where there is none.
pub fn read(layout: &Layout) -> Result<(PathBuf, Option<Vec<u8>>), Error> {
    let path = directory(layout).join("daemon.json");
    match std::fs::read(&path) {
        Ok(bytes) => Ok((path, Some(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((path, None)),
        Err(error) => Err(Error { path, reason: error.to_string() }),
    }
}

/// What a container gets where its own flags say nothing.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Defaults {
    log_driver: String,
    log_opts: BTreeMap<String, Text>,
    default_shm_size: Option<Text>,
    default_ulimits: BTreeMap<String, Limit>,
    default_cgroupns_mode: String,
    init: bool,
    no_new_privileges: bool,
    /// Name servers.
    pub dns: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Options of resolv.conf.
    pub dns_opts: Vec<String>,
}

/// Docker takes a string where people write a number.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Text {
    String(String),
    Number(i64),
}

impl Text {
    fn as_string(&self) -> String {
        match self {
            Self::String(text) => text.clone(),
            Self::Number(number) => number.to_string(),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Limit {
    #[serde(default)]
    name: String,
    #[serde(default)]
    soft: i64,
    hard: i64,
}

impl Defaults {
    /// Reads the file.
    pub fn load(layout: &Layout) -> Result<Self, Error> {
        match read(layout)? {
            (_, None) => Ok(Self::default()),
            (path, Some(bytes)) => Self::parse(&bytes, &layout.root).map_err(|reason| Error { path, reason }),
        }
    }

    fn parse(bytes: &[u8], root: &Path) -> Result<Self, String> {
        let keys: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let unknown: Vec<&str> = keys.keys().map(String::as_str).filter(|key| !KEYS.contains(key)).collect();
        if !unknown.is_empty() {
            return Err(format!(
                "the following directives don't match any configuration option: {}",
                unknown.join(", ")
            ));
        }
        let asks = |value: &serde_json::Value| {
            !value.is_null()
                && value.as_str() != Some("")
                && value.as_array().is_none_or(|all| !all.is_empty())
        };
        for (key, why) in REFUSED {
            if keys.get(*key).is_some_and(asks) {
                return Err(format!("{key}: {why}"));
            }
        }
        if let Some(moved) = keys.get("data-root").and_then(serde_json::Value::as_str)
            && !moved.is_empty()
            && Path::new(moved) != root
        {
            return Err(format!("data-root: the root is {}: use --root or BULKHEAD_ROOT", root.display()));
        }
        let defaults: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if let Some(size) = &defaults.default_shm_size {
            bytes_of(&size.as_string()).ok_or_else(|| format!("invalid size: '{}'", size.as_string()))?;
        }
        Ok(defaults)
    }

    /// Fills in what a new container leaves open.
    pub fn complete(&self, host: &mut HostConfig) {
        let driver = match self.log_driver.as_str() {
            "" => LogConfig::default().driver,
            driver => driver.to_owned(),
        };
        if host.log_config.driver.is_empty() {
            host.log_config.driver.clone_from(&driver);
        }
        // The options are those of the operator's driver, and nobody else's.
        if host.log_config.driver == driver {
            for (key, value) in &self.log_opts {
                host.log_config.config.entry(key.clone()).or_insert_with(|| value.as_string());
            }
        }
        if host.shm_size == 0 {
            let asked = self.default_shm_size.as_ref().and_then(|size| bytes_of(&size.as_string()));
            host.shm_size = asked.unwrap_or(SHM);
        }
        for (name, limit) in &self.default_ulimits {
            if !host.resources.ulimits.iter().any(|own| own.name == *name) {
                let name = if limit.name.is_empty() { name } else { &limit.name };
                let soft = if limit.soft == 0 { limit.hard } else { limit.soft };
                host.resources.ulimits.push(Ulimit { name: name.clone(), soft, hard: limit.hard });
            }
        }
        if host.cgroupns_mode.is_empty() && !host.privileged {
            host.cgroupns_mode.clone_from(&self.default_cgroupns_mode);
        }
        if host.init.is_none() && self.init {
            host.init = Some(true);
        }
        let told = |options: &[String]| options.iter().any(|option| option.starts_with("no-new-privileges"));
        if self.no_new_privileges && !told(host.security_opt.as_deref().unwrap_or_default()) {
            host.security_opt.get_or_insert_default().push("no-new-privileges".to_owned());
        }
    }
}

/// A size as people write it: a number and `b`, `k`, `m` or `g`, with or without a `b` behind it.
pub(crate) fn bytes_of(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    digits.parse::<i64>().ok().filter(|n| *n >= 0)?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Defaults, String> {
        Defaults::parse(text.as_bytes(), Path::new("/var/lib/bulkhead"))
    }

    #[test]
    fn silence_is_filled_and_words_are_kept() {
        let defaults = parse(
            r#"{"log-opts": {"max-size": "100m", "max-file": 5}, "default-shm-size": "32M", "init": true,
               "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 900, "Soft": 800}},
               "live-restore": true, "no-new-privileges": true}"#,
        )
        .expect("parsed");
        let mut silent = HostConfig {
            log_config: LogConfig { driver: String::new(), ..LogConfig::default() },
            ..HostConfig::default()
        };
        let mut wordy = silent.clone();
        defaults.complete(&mut silent);
        assert_eq!(
            (silent.log_config.driver.as_str(), silent.shm_size, silent.init),
            ("json-file", 32 << 20, Some(true))
        );
        assert_eq!(silent.log_config.config["max-file"], "5");
        assert_eq!(silent.resources.ulimits, [Ulimit { name: "nofile".into(), soft: 800, hard: 900 }]);
        assert_eq!(silent.security_opt.as_deref(), Some(&["no-new-privileges".to_owned()][..]));
        wordy.log_config.driver = "none".into();
        wordy.shm_size = 1 << 20;
        wordy.init = Some(false);
        wordy.resources.ulimits = vec![Ulimit { name: "nofile".into(), soft: 1, hard: 2 }];
        let asked = wordy.clone();
        defaults.complete(&mut wordy);
        wordy.security_opt = None;
        assert_eq!(wordy, asked);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, why) in [
            (r#"{"bip": "192.168.100.1/24",}"#, "trailing comma at line 1 column 28"),
            (
                r#"{"fo": 1, "ba": 2}"#,
                "the following directives don't match any configuration option: fo, ba",
            ),
            (
                r#"{"data-root": "/mnt"}"#,
                "data-root: the root is /var/lib/bulkhead: use --root or BULKHEAD_ROOT",
            ),
            (r#"{"default-shm-size": "many"}"#, "invalid size: 'many'"),
            (
                r#"{"authorization-plugins": ["x"]}"#,
                "authorization-plugins: there is no daemon that could ask one",
            ),
        ] {
            assert_eq!(parse(text).expect_err(text), why);
        }
        parse(r#"{"authorization-plugins": [], "userns-remap": "", "data-root": "/var/lib/bulkhead"}"#)
            .expect("nothing is asked for");
    }

    #[test]
    fn sizes_are_read() {
        for (text, size) in [
            ("10", Some(10)),
            ("1k", Some(1024)),
            ("100m", Some(100 << 20)),
            ("2GB", Some(2 << 30)),
            ("x", None),
            ("", None),
            ("1z", None),
            ("-1", None),
        ] {
            assert_eq!(bytes_of(text), size, "{text}");
        }
    }
}
