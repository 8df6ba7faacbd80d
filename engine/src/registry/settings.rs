//! What the operator says about registries: Docker's keys of `daemon.json`, and the environment.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::Error;
use crate::operator;
use crate::store::Layout;

/// Layers that are fetched at once, unless the file says otherwise. Docker's number.
const DOWNLOADS: usize = 3;
/// Layers that are sent at once. Docker's number.
const UPLOADS: usize = 5;

/// The keys that concern registries; there are others, which others read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    insecure_registries: Vec<String>,
    registry_mirrors: Vec<String>,
    max_concurrent_downloads: Option<i64>,
    max_concurrent_uploads: Option<i64>,
    proxies: Proxies,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Proxies {
    #[serde(rename = "http-proxy")]
    http: String,
    #[serde(rename = "https-proxy")]
    https: String,
    #[serde(rename = "no-proxy")]
    none: String,
}

/// Whom to trust with what, and how to reach them.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Hosts and networks whose certificates are not checked and that may speak plain HTTP.
    insecure: Vec<Insecure>,
    /// Asked before Docker Hub, in this order: scheme and host.
    pub(super) mirrors: Vec<String>,
    /// Layers fetched at once.
    pub downloads: usize,
    /// Layers sent at once.
    pub uploads: usize,
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Vec<String>,
    /// Directories that hold a directory of certificates for each host.
    pub(super) certificates: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Insecure {
    /// `HOST` or `HOST:PORT`.
    Host(String),
    /// A network in CIDR notation.
    Network(IpAddr, u8),
}

impl Settings {
    /// Reads `/etc/bulkhead/daemon.json`, or `daemon.json` in the store's root when that is not the default;
    /// proxies that it does not name come from the environment, as `lookup` tells it.
    pub fn load(layout: &Layout, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let (path, bytes) = operator::read(layout)?;
        let mut settings =
            Self::parse(bytes.as_deref(), lookup).map_err(|reason| operator::Error { path, reason })?;
        settings.certificates =
            vec![operator::directory(layout).join("certs.d"), PathBuf::from("/etc/docker/certs.d")];
        Ok(settings)
    }

    fn parse(bytes: Option<&[u8]>, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let file: File = match bytes {
            None => File::default(),
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| error.to_string())?,
        };
        let insecure =
            file.insecure_registries.iter().map(|text| insecure(text)).collect::<Result<_, _>>()?;
        let mirrors = file.registry_mirrors.iter().map(|text| mirror(text)).collect::<Result<_, _>>()?;
        let variable =
            |names: [&str; 2]| names.iter().find_map(|name| lookup(name)).filter(|v| !v.is_empty());
        let given = |text: &str, names| if text.is_empty() { variable(names) } else { Some(text.to_owned()) };
        Ok(Self {
            insecure,
            mirrors,
            downloads: count("max-concurrent-downloads", file.max_concurrent_downloads, DOWNLOADS)?,
            uploads: count("max-concurrent-uploads", file.max_concurrent_uploads, UPLOADS)?,
            http_proxy: given(&file.proxies.http, ["HTTP_PROXY", "http_proxy"]),
            https_proxy: given(&file.proxies.https, ["HTTPS_PROXY", "https_proxy"]),
            no_proxy: given(&file.proxies.none, ["NO_PROXY", "no_proxy"])
                .unwrap_or_default()
                .split(',')
                .map(|entry| entry.trim().to_ascii_lowercase())
                .filter(|entry| !entry.is_empty())
                .collect(),
            certificates: Vec::new(),
        })
    }

    /// Whether this host may speak plain HTTP, and need not prove who it is: one that the operator lists, or
    /// this machine itself.
    pub(super) fn is_insecure(&self, domain: &str) -> bool {
        let (host, _) = split(domain);
        let address = host.parse::<IpAddr>().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.insecure.iter().any(|entry| match entry {
            Insecure::Host(listed) => listed == domain || listed == host,
            Insecure::Network(network, bits) => address.is_some_and(|a| within(a, *network, *bits)),
        })
    }

    /// The proxy for a host, if one is to be used.
    pub(super) fn proxy(&self, https: bool, domain: &str) -> Option<&str> {
        let proxy = if https { &self.https_proxy } else { &self.http_proxy }.as_deref()?;
        let (host, _) = split(domain);
        let address = host.parse::<IpAddr>().ok();
        // As Go has it: this machine is never asked for by way of another.
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return None;
        }
        let direct = self.no_proxy.iter().any(|entry| bypasses(entry, &domain.to_ascii_lowercase(), address));
        (!direct).then_some(proxy)
    }
}

/// The host and the port of a domain, without the brackets of an IPv6 address.
pub(super) fn split(domain: &str) -> (&str, Option<u16>) {
    if let Some(rest) = domain.strip_prefix('[')
        && let Some((host, rest)) = rest.split_once(']')
    {
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match domain.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (domain, None),
    }
}

fn insecure(text: &str) -> Result<Insecure, String> {
    let bad = || format!("insecure registry {text} is not valid: want HOST[:PORT] or a network");
    if let Some((network, bits)) = text.split_once('/') {
        let network: IpAddr = network.parse().map_err(|_| bad())?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(bad)?;
        return Ok(Insecure::Network(network, bits));
    }
    if text.is_empty() || text.contains(char::is_whitespace) {
        Err(bad())
    } else {
        Ok(Insecure::Host(text.to_owned()))
    }
}

/// A mirror as Docker takes it: scheme and host, nothing after.
fn mirror(text: &str) -> Result<String, String> {
    let bad = |why: &str| format!("invalid mirror: {text:?}: {why}");
    let text = text.trim_end_matches('/');
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or_else(|| bad("want http:// or https://"))?;
    if rest.is_empty() || rest.contains(['/', '?', '#', '@']) || rest.contains(char::is_whitespace) {
        return Err(bad("want a host and nothing else"));
    }
    Ok(text.to_owned())
}

fn count(key: &str, given: Option<i64>, default: usize) -> Result<usize, String> {
    match given {
        None => Ok(default),
        // More threads than this are no help to anyone.
        Some(n @ 1..) => Ok(usize::try_from(n).unwrap_or(usize::MAX).min(64)),
        Some(n) => Err(format!("invalid {key}: {n}")),
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            u32::from(a) & mask == u32::from(n) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            u128::from(a) & mask == u128::from(n) & mask
        }
        _ => false,
    }
}

/// One entry of `no-proxy`, as Go and Docker's users write them: `*`, a network, `.example.com` and
/// `*.example.com` (what is below), `example.com` (itself and what is below), `registry*`, each with a port
/// or without.
fn bypasses(entry: &str, domain: &str, address: Option<IpAddr>) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((network, bits)) = entry.split_once('/') {
        let parsed = network.parse::<IpAddr>().ok().zip(bits.parse().ok());
        return address.zip(parsed).is_some_and(|(address, (network, bits))| within(address, network, bits));
    }
    let (host, port) = split(domain);
    let (wanted, wanted_port) = if entry.parse::<IpAddr>().is_ok() { (entry, None) } else { split(entry) };
    if wanted_port.is_some() && wanted_port != port {
        return false;
    }
    if let Some(prefix) = wanted.strip_suffix('*') {
        return host.starts_with(prefix);
    }
    let below = |suffix: &str| host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    match wanted.strip_prefix("*.").or_else(|| wanted.strip_prefix('.')) {
        Some(suffix) => below(suffix),
        None => host == wanted || below(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Some(text.as_bytes()), &|_| None)
    }

    #[test]
    fn this_machine_and_what_is_listed_is_insecure() {
        let settings = parse(
            r#"{"insecure-registries": ["reg.example:5000", "plain.example", "10.1.0.0/16"], "mtu": 1400}"#,
        )
        .expect("parse");
        for (domain, want) in [
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost:5000", true),
            ("localhost.example:5000", false),
            ("reg.example:5000", true),
            ("reg.example", false),
            ("plain.example:81", true),
            ("10.1.2.3:5000", true),
            ("10.2.2.3:5000", false),
            ("docker.io", false),
        ] {
            assert_eq!(settings.is_insecure(domain), want, "{domain}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, want) in [
            ("{", "EOF while parsing"),
            (r#"{"insecure-registries": "x"}"#, "expected a sequence"),
            (r#"{"insecure-registries": ["10.0.0.0/33"]}"#, "insecure registry 10.0.0.0/33 is not valid"),
            (r#"{"registry-mirrors": ["mirror.example"]}"#, "invalid mirror: \"mirror.example\""),
            (r#"{"registry-mirrors": ["https://mirror.example/v2"]}"#, "want a host and nothing else"),
            (r#"{"max-concurrent-downloads": 0}"#, "invalid max-concurrent-downloads: 0"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
        let settings =
            parse(r#"{"max-concurrent-downloads": 10, "max-concurrent-uploads": 2}"#).expect("parse");
        assert_eq!((settings.downloads, settings.uploads), (10, 2));
    }

    #[test]
    fn a_proxy_is_for_those_that_no_entry_excepts() {
        let settings = parse(
            r#"{"proxies": {"https-proxy": "http://10.0.0.1:7890", "http-proxy": "http://10.0.0.1:7891",
               "no-proxy": "localhost,192.168.0.0/16,registry.cn-*,.corp.example,own.example,x.example:5000"}}"#,
        )
        .expect("parse");
        for (domain, direct) in [
            ("docker.io", false),
            ("127.0.0.1:5000", true),
            ("localhost:5000", true),
            ("192.168.3.4:5000", true),
            ("registry.cn-hangzhou.aliyuncs.com", true),
            ("a.corp.example", true),
            ("corp.example", false),
            ("own.example", true),
            ("b.own.example:443", true),
            ("notown.example", false),
            ("x.example:5000", true),
            ("x.example:5001", false),
        ] {
            let want = if direct { None } else { Some("http://10.0.0.1:7890") };
            assert_eq!(settings.proxy(true, domain), want, "{domain}");
        }
        assert_eq!(settings.proxy(false, "docker.io"), Some("http://10.0.0.1:7891"));
    }

    #[test]
    fn the_environment_fills_what_the_file_leaves_open() {
        let lookup = |name: &str| match name {
            "https_proxy" => Some("http://env:1".to_owned()),
            "NO_PROXY" => Some("*".to_owned()),
            _ => None,
        };
        let settings =
            Settings::parse(Some(br#"{"proxies": {"no-proxy": "only.example"}}"#), &lookup).expect("parse");
        assert_eq!(settings.proxy(true, "docker.io"), Some("http://env:1"));
        assert_eq!(settings.proxy(true, "only.example"), None);
        let settings = Settings::parse(None, &lookup).expect("parse");
        assert_eq!(settings.proxy(true, "docker.io"), None);
    }
}
