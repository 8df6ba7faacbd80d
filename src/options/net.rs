//! Flags about networks: hosts, addresses, links, attachments and published ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bulkhead_engine::config::PortBinding;

/// `--add-host HOST:IP` or `HOST=IP`; kept as `HOST:IP`.
pub fn extra_host(text: &str) -> Result<String, String> {
    let at = text.find('=').or_else(|| text.find(':'));
    let Some((host, address)) =
        at.map(|at| (&text[..at], &text[at + 1..])).filter(|(host, _)| !host.is_empty())
    else {
        return Err(format!("bad format for add-host: {text:?}"));
    };
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if bare == "host-gateway" || bare.parse::<IpAddr>().is_ok() {
        Ok(format!("{host}:{bare}"))
    } else {
        Err(format!("invalid IP address in add-host: {address:?}"))
    }
}

/// `--dns`: an IP address.
pub fn address(text: &str) -> Result<String, String> {
    text.trim()
        .parse::<IpAddr>()
        .map(|address| address.to_string())
        .map_err(|_| format!("IP address is not correctly formatted: {text}"))
}

/// `--link CONTAINER[:ALIAS]`.
pub fn link(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [""] => Err("empty string specified for links".to_owned()),
        [name] => Ok(format!("{name}:{name}")),
        [_, _] => Ok(text.to_owned()),
        _ => Err(format!("bad format for links: {text}")),
    }
}

/// One `--network`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The network's name or id, or a mode (`none`, `host`, `container:X`).
    pub target: String,
    /// Names in that network beside the container's.
    pub aliases: Vec<String>,
    /// The address asked for.
    pub ipv4: Option<String>,
    /// The address asked for.
    pub ipv6: Option<String>,
    /// The hardware address asked for.
    pub mac: Option<String>,
}

/// `--network NAME` or `--network name=NAME,alias=A,ip=I`.
pub fn attachment(text: &str) -> Result<Attachment, String> {
    if !text.contains('=') && !text.contains(',') {
        return Ok(Attachment { target: text.to_owned(), ..Attachment::default() });
    }
    let mut attachment = Attachment::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field {field}"))?;
        match key.trim().to_lowercase().as_str() {
            "name" => value.clone_into(&mut attachment.target),
            "alias" => attachment.aliases.push(value.to_owned()),
            "ip" => attachment.ipv4 = Some(value.to_owned()),
            "ip6" => attachment.ipv6 = Some(value.to_owned()),
            "mac-address" => attachment.mac = Some(value.to_owned()),
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if attachment.target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(attachment)
}

/// The ports of `--publish`, by `PORT/PROTO`.
pub type Ports = BTreeMap<String, Vec<PortBinding>>;

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some((first, last))
        }
    }
}

/// `[IP:][HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTO]`, or the long form `published=…,target=…`.
pub fn publish(text: &str) -> Result<Ports, String> {
    if text.contains('=') {
        return publish_long(text);
    }
    let (addresses, protocol) = match text.split_once('/') {
        Some((addresses, protocol)) => (addresses, protocol.to_lowercase()),
        None => (text, "tcp".to_owned()),
    };
    // From the right: an IPv6 address may hold colons.
    let mut parts = addresses.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let ip = parts.next().unwrap_or_default();
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (first, last) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let mut ports = Ports::new();
    let mut bind = |port: u16, host_port: String| {
        let binding = PortBinding { host_ip: bare.to_owned(), host_port };
        ports.entry(format!("{port}/{protocol}")).or_default().push(binding);
    };
    if host.is_empty() {
        (first..=last).for_each(|port| bind(port, String::new()));
        return Ok(ports);
    }
    let (host_first, host_last) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
    if host_last - host_first != last - first {
        // One container port may be given a range of host ports to choose from.
        if first != last {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
        bind(first, host.to_owned());
        return Ok(ports);
    }
    for offset in 0..=last - first {
        bind(first + offset, (host_first + offset).to_string());
    }
    Ok(ports)
}

fn publish_long(text: &str) -> Result<Ports, String> {
    let (mut target, mut published, mut protocol) = (None, String::new(), "tcp".to_owned());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field: {field}"))?;
        match key.to_lowercase().as_str() {
            "target" => {
                target = Some(range(value).ok_or_else(|| {
                    format!("invalid target port ({value}): value must be an integer: invalid syntax")
                })?);
            }
            "published" => {
                range(value).ok_or_else(|| {
                    format!("invalid published port ({value}): value must be an integer: invalid syntax")
                })?;
                value.clone_into(&mut published);
            }
            "protocol" if matches!(value, "tcp" | "udp" | "sctp") => value.clone_into(&mut protocol),
            "protocol" => return Err(format!("invalid protocol value '{value}'")),
            "mode" if matches!(value, "host" | "ingress") => {}
            "mode" => {
                return Err(format!(
                    "invalid publish mode value ({value}): must be either 'ingress' or 'host'"
                ));
            }
            other => return Err(format!("invalid field key: {other}")),
        }
    }
    let (first, last) = target.ok_or_else(|| "missing mandatory field 'target'".to_owned())?;
    let spec = if published.is_empty() { String::new() } else { format!("{published}:") };
    publish(&format!("{spec}{first}-{last}/{protocol}"))
}

/// `--expose PORT[-PORT][/PROTO]`, as `PORT/PROTO` names.
pub fn expose(text: &str) -> Result<Vec<String>, String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range(ports).ok_or_else(|| {
        let why = if ports.contains('-') {
            format!("invalid range specified for port: {ports}")
        } else {
            format!("strconv.ParseUint: parsing {ports:?}: invalid syntax")
        };
        format!("invalid range format for --expose: {text}, error: {why}")
    })?;
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_addresses() {
        for (text, want) in [
            ("foo:1.2.3.4", "foo:1.2.3.4"),
            ("foo=1.2.3.4", "foo:1.2.3.4"),
            ("foo:::1", "foo:::1"),
            ("foo:[::1]", "foo:::1"),
            ("foo:host-gateway", "foo:host-gateway"),
        ] {
            assert_eq!(extra_host(text), Ok(want.to_owned()), "{text}");
        }
        for (text, want) in [
            ("foo", "bad format for add-host: \"foo\""),
            (":1.2.3.4", "bad format for add-host: \":1.2.3.4\""),
            ("foo:bar", "invalid IP address in add-host: \"bar\""),
            ("foo:[::1]x", "invalid IP address in add-host: \"[::1]x\""),
        ] {
            assert_eq!(extra_host(text), Err(want.to_owned()), "{text}");
        }
        assert_eq!(address("1.1.1.1"), Ok("1.1.1.1".into()));
        assert_eq!(address("foo"), Err("IP address is not correctly formatted: foo".into()));
        assert_eq!(link("a"), Ok("a:a".into()));
        assert_eq!(link("a:b:c"), Err("bad format for links: a:b:c".into()));
    }

    #[test]
    fn attachments() {
        assert_eq!(attachment("none").map(|a| a.target), Ok("none".into()));
        assert_eq!(attachment("container:web").map(|a| a.target), Ok("container:web".into()));
        let long = attachment("name=net,alias=a,alias=b,ip=10.0.0.2").expect("long");
        assert_eq!(
            (long.target.as_str(), long.aliases.len(), long.ipv4.as_deref()),
            ("net", 2, Some("10.0.0.2"))
        );
        assert_eq!(attachment("alias=x"), Err("network name/id is not specified".into()));
        assert_eq!(attachment("foo,alias=x"), Err("invalid field foo".into()));
        assert_eq!(attachment("name=foo,bad=1"), Err("invalid field key bad".into()));
    }

    fn flat(ports: Ports) -> String {
        ports
            .into_iter()
            .flat_map(|(port, bindings)| {
                bindings.into_iter().map(move |b| format!("{port}={}:{}", b.host_ip, b.host_port))
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn published_ports() {
        for (text, want) in [
            ("80", "80/tcp=:"),
            ("8080:80", "80/tcp=:8080"),
            ("8080:80/udp", "80/udp=:8080"),
            ("127.0.0.1:80:8080/tcp", "8080/tcp=127.0.0.1:80"),
            ("127.0.0.1::80", "80/tcp=127.0.0.1:"),
            ("[::1]:80:80", "80/tcp=::1:80"),
            ("::1:80:80", "80/tcp=::1:80"),
            ("7000-7001:80-81", "80/tcp=:7000 81/tcp=:7001"),
            ("7000-7005:80", "80/tcp=:7000-7005"),
            ("80-81", "80/tcp=: 81/tcp=:"),
            ("published=8080,target=80,protocol=udp", "80/udp=:8080"),
            ("target=80", "80/tcp=:"),
        ] {
            assert_eq!(publish(text).map(flat), Ok(want.to_owned()), "{text}");
        }
        for (text, want) in [
            ("foo", "invalid containerPort: foo"),
            ("80:foo", "invalid containerPort: foo"),
            ("99999:80", "invalid hostPort: 99999"),
            ("5-3:80", "invalid hostPort: 5-3"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("1:2:3:4", "invalid IP address: 1:2"),
            ("80:80/foo", "invalid proto: foo"),
            ("1-2:3-6", "invalid ranges specified for container and host Ports: 3-6 and 1-2"),
            ("", "no port specified: <empty>"),
            ("published=1,protocol=tcp", "missing mandatory field 'target'"),
            ("target=1,x=2", "invalid field key: x"),
        ] {
            assert_eq!(publish(text).map(flat), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn exposed_ports() {
        assert_eq!(expose("80"), Ok(vec!["80/tcp".into()]));
        assert_eq!(expose("80-81/udp"), Ok(vec!["80/udp".into(), "81/udp".into()]));
        for (text, want) in [
            (
                "foo",
                "invalid range format for --expose: foo, error: strconv.ParseUint: parsing \"foo\": invalid syntax",
            ),
            ("5-3", "invalid range format for --expose: 5-3, error: invalid range specified for port: 5-3"),
            ("80:80", "invalid port format for --expose: 80:80"),
        ] {
            assert_eq!(expose(text), Err(want.to_owned()), "{text}");
        }
    }
}
