//! What `/etc/hosts` and `/etc/resolv.conf` say inside a container.
//!
//! Pure functions from what is known to text. The files live in the container's directory and are bind
//! mounted, so whoever writes them must write in place: a rename would leave the container with the old one.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::Error;

/// One line of a hosts file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostsEntry {
    /// The address.
    pub address: IpAddr,
    /// The names, canonical one first.
    pub names: Vec<String>,
}

/// Turns `--add-host NAME:ADDRESS` (or `NAME=ADDRESS`) into entries; `host-gateway` stands for the
/// gateway of the container's first network.
pub fn add_host_entries(extra: &[String], host_gateway: Option<IpAddr>) -> Result<Vec<HostsEntry>, Error> {
    let bad = |text: &str| Error::Address(format!("bad format for add-host: {text:?}"));
    extra
        .iter()
        .map(|text| {
            // The first separator ends the name: an IPv6 address has colons of its own.
            let (name, address) = text.split_once(['=', ':']).ok_or_else(|| bad(text))?;
            if !is_name(name) {
                return Err(bad(text));
            }
            let address = if address == "host-gateway" {
                host_gateway.ok_or_else(|| {
                    Error::Address(format!("unable to derive the IP value for host-gateway: {text}"))
                })?
            } else {
                let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
                inner.parse().map_err(|_| Error::Address(address.to_owned()))?
            };
            Ok(HostsEntry { address, names: vec![name.to_owned()] })
        })
        .collect()
}

/// Whether the text can stand in a hosts file as one name.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'\\' | b'/' | b'"' | b'\''))
}

const LINKS_BEGIN: &str = "# links";
const LINKS_END: &str = "# end of links";

/// The hosts file: Docker's standard lines, the `--add-host` entries, links, and the container's own
/// addresses under its host name.
pub fn hosts(
    hostname: &str,
    domainname: &str,
    own: &[IpAddr],
    ipv6: bool,
    extra: &[HostsEntry],
    links: &[HostsEntry],
) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n");
    if ipv6 {
        text.push_str(
            "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
        );
    }
    lines(&mut text, extra);
    if !links.is_empty() {
        link_block(&mut text, links);
    }
    for address in own {
        // `hostname --fqdn` reads the first name, so the qualified one leads.
        let _ = if domainname.is_empty() {
            writeln!(text, "{address}\t{hostname}")
        } else {
            writeln!(text, "{address}\t{hostname}.{domainname} {hostname}")
        };
    }
    text
}

fn lines(text: &mut String, entries: &[HostsEntry]) {
    for entry in entries {
        let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
    }
}

fn link_block(text: &mut String, links: &[HostsEntry]) {
    let _ = writeln!(text, "{LINKS_BEGIN}");
    lines(text, links);
    let _ = writeln!(text, "{LINKS_END}");
}

/// The same hosts file with other links; what the container itself has written is kept.
pub fn replace_links(current: &str, links: &[HostsEntry]) -> String {
    let mut text = String::with_capacity(current.len() + 64);
    let mut inside = false;
    let mut placed = false;
    for line in current.lines() {
        match line {
            LINKS_BEGIN => {
                inside = true;
                if !placed {
                    link_block(&mut text, links);
                    placed = true;
                }
            }
            LINKS_END if inside => inside = false,
            _ if inside => {}
            other => {
                text.push_str(other);
                text.push('\n');
            }
        }
    }
    if !placed && !links.is_empty() {
        link_block(&mut text, links);
    }
    text
}

/// What a container's resolver is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers, asked in order.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a resolv.conf as the C library does: the last `search` or `domain` wins, unknown lines are
    /// passed over.
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A scope (`fe80::1%eth0`) means an interface that the container does not have.
                    parsed.nameservers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => parsed.search = words.map(str::to_owned).collect(),
                Some("options") => parsed.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        parsed
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for server in &self.nameservers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// What a container with a network namespace of its own is told: the user's `--dns`, `--dns-search` and
/// `--dns-option` over the host's, without the host's loopback servers, which are not the container's.
/// With an embedded resolver the container asks that one, and the servers are those it forwards to.
pub fn resolv_conf(
    host: &str,
    dns: &[String],
    search: &[String],
    options: &[String],
    embedded: Option<IpAddr>,
) -> Result<(ResolvConf, Vec<IpAddr>), Error> {
    let host = ResolvConf::parse(host);
    let mut upstream = if dns.is_empty() {
        // The embedded resolver runs on the host and may forward to the host's loopback.
        host.nameservers.iter().copied().filter(|ip| embedded.is_some() || !ip.is_loopback()).collect()
    } else {
        dns.iter()
            .map(|text| text.parse().map_err(|_| Error::Address(text.clone())))
            .collect::<Result<Vec<IpAddr>, Error>>()?
    };
    upstream.retain(|ip| !ip.is_unspecified());
    let search = match search {
        [] => host.search,
        // Docker's way to say "none".
        [dot] if dot == "." => Vec::new(),
        given => given.to_vec(),
    };
    let mut options = if options.is_empty() { host.options } else { options.to_vec() };
    let nameservers = match embedded {
        Some(address) => {
            // Names without a dot are containers' names: they must be asked as they are.
            if !options.iter().any(|o| o.starts_with("ndots:")) {
                options.push("ndots:0".to_owned());
            }
            vec![address]
        }
        None => upstream.clone(),
    };
    Ok((ResolvConf { nameservers, search, options }, upstream))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn add_host_takes_both_separators_ipv6_and_host_gateway() {
        let extra =
            strings(&["db:10.0.0.5", "six=fd00::5", "sixb:[fd00::6]", "six3:fd00::7", "gw:host-gateway"]);
        let entries = add_host_entries(&extra, Some(ip("172.17.0.1"))).expect("entries");
        let shown: Vec<String> = entries.iter().map(|e| format!("{} {}", e.address, e.names[0])).collect();
        assert_eq!(shown, ["10.0.0.5 db", "fd00::5 six", "fd00::6 sixb", "fd00::7 six3", "172.17.0.1 gw"]);
        for bad in [
            "db",
            ":1.2.3.4",
            "db:",
            "db:1.2.3",
            "a b:1.2.3.4",
            "a\nb:1.2.3.4",
            "a#:1.2.3.4",
            "gw:host-gateway",
        ] {
            add_host_entries(&strings(&[bad]), None).expect_err(bad);
        }
    }

    #[test]
    fn hosts_has_dockers_lines_and_the_own_address_last() {
        let extra = [HostsEntry { address: ip("10.0.0.5"), names: strings(&["db"]) }];
        let text = hosts("web", "example.org", &[ip("172.17.0.2")], false, &extra, &[]);
        assert_eq!(text, "127.0.0.1\tlocalhost\n10.0.0.5\tdb\n172.17.0.2\tweb.example.org web\n");
        let text = hosts("web", "", &[ip("172.17.0.2"), ip("fd00::2")], true, &[], &[]);
        assert!(text.contains("::1\tlocalhost ip6-localhost ip6-loopback\n"), "{text}");
        assert!(text.ends_with("172.17.0.2\tweb\nfd00::2\tweb\n"), "{text}");
    }

    #[test]
    fn links_follow_and_the_containers_own_lines_stay() {
        let link = |address: &str| {
            vec![HostsEntry {
                address: ip(address),
                names: strings(&["alias1", "alias2", "0123456789ab", "mysql"]),
            }]
        };
        let first = hosts("web", "", &[ip("172.17.0.3")], false, &[], &link("172.17.0.2"));
        assert!(first.contains("172.17.0.2\talias1 alias2 0123456789ab mysql\n"), "{first}");
        let edited = format!("{first}1.2.3.4\tmine\n");
        let moved = replace_links(&edited, &link("172.17.0.9"));
        assert!(moved.contains("172.17.0.9\talias1") && !moved.contains("172.17.0.2\t"), "{moved}");
        assert!(moved.contains("1.2.3.4\tmine\n") && moved.contains("172.17.0.3\tweb\n"), "{moved}");
        assert_eq!(replace_links(&moved, &link("172.17.0.9")), moved);
        let gone = replace_links(&moved, &[]);
        assert!(!gone.contains("mysql"), "{gone}");
        assert!(replace_links(&gone, &link("172.17.0.7")).contains("172.17.0.7\talias1"));
    }

    #[test]
    fn resolv_conf_is_parsed_leniently() {
        let text = "# c\nnameserver 10.0.0.1 extra\nnameserver fe80::1%eth0\nnameserver x\n\
                    domain old\nsearch a b ; c\noptions ndots:2 edns0\nsortlist 1\nnameserver";
        let parsed = ResolvConf::parse(text);
        assert_eq!(parsed.nameservers, [ip("10.0.0.1")]);
        assert_eq!(parsed.search, ["a", "b"]);
        assert_eq!(parsed.options, ["ndots:2", "edns0"]);
        assert_eq!(ResolvConf::parse(&parsed.text()), parsed);
    }

    #[test]
    fn flags_win_over_the_host_and_loopback_servers_stay_on_the_host() {
        let host = "nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch corp\noptions edns0\n";
        let (conf, _) = resolv_conf(host, &[], &[], &[], None).expect("conf");
        assert_eq!(conf.text(), "nameserver 10.0.0.1\nsearch corp\noptions edns0\n");
        let (conf, _) = resolv_conf(
            host,
            &strings(&["1.1.1.1", "8.8.8.8"]),
            &strings(&["x"]),
            &strings(&["rotate"]),
            None,
        )
        .expect("conf");
        assert_eq!(conf.text(), "nameserver 1.1.1.1\nnameserver 8.8.8.8\nsearch x\noptions rotate\n");
        let (conf, _) = resolv_conf(host, &[], &strings(&["."]), &[], None).expect("conf");
        assert!(conf.search.is_empty());
        let (conf, upstream) = resolv_conf(host, &[], &[], &[], Some(ip("172.18.0.1"))).expect("conf");
        assert_eq!(conf.nameservers, [ip("172.18.0.1")]);
        assert_eq!(conf.options, ["edns0", "ndots:0"]);
        assert_eq!(upstream, [ip("127.0.0.53"), ip("10.0.0.1")]);
        resolv_conf(host, &strings(&["dns.example"]), &[], &[], None).expect_err("a name is no address");
    }
}
