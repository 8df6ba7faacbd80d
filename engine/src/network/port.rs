//! Published ports: what was asked for, and which host ports were got.
//!
//! A host port is held by a bound socket, not only by a row: the socket makes the kernel say "taken" when
//! a process of the host has the port, before the container starts, and keeps others from taking it while
//! the container runs. It never carries traffic; the nftables maps do.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::str::FromStr;

use crate::config::{Config, HostConfig};

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Docker's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP as u8,
            Self::Udp => libc::IPPROTO_UDP as u8,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with a port's text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidPort {
    /// Not a number from 1 to 65535.
    #[error("invalid port: {0:?}")]
    Number(String),
    /// Neither tcp nor udp.
    #[error("invalid proto: {0}")]
    Protocol(String),
    /// Not an address.
    #[error("invalid IP address: {0}")]
    Address(String),
    /// The end lies before the start.
    #[error("invalid range format for hostPort: {0}")]
    Range(String),
}

impl FromStr for Protocol {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        match text {
            "" | "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            other => Err(InvalidPort::Protocol(other.to_owned())),
        }
    }
}

/// A container port to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// The port inside.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The host's address; `None` for the network's default, usually all.
    pub host: Option<IpAddr>,
    /// First and last host port that will do; `None` for any free one.
    pub ports: Option<(u16, u16)>,
}

/// A container port that is published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// The port inside.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The host's address, possibly `0.0.0.0` or `::`.
    pub host: IpAddr,
    /// The host's port.
    pub host_port: u16,
}

fn number(text: &str) -> Result<u16, InvalidPort> {
    let invalid = || InvalidPort::Number(text.to_owned());
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    text.parse().ok().filter(|&port| port != 0).ok_or_else(invalid)
}

/// Splits `PORT[/PROTO]`.
fn port_and_protocol(text: &str) -> Result<(u16, Protocol), InvalidPort> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, ""));
    Ok((number(port)?, protocol.to_ascii_lowercase().parse()?))
}

/// What `-p`, `-P`, `--expose` and the image ask for together.
pub fn port_specs(config: &Config, host: &HostConfig) -> Result<Vec<PortSpec>, InvalidPort> {
    let mut specs = Vec::new();
    for (port, bindings) in &host.port_bindings {
        let (container_port, protocol) = port_and_protocol(port)?;
        // An empty list asks for any port, as a binding without a port does.
        let any = [crate::config::PortBinding::default()];
        for binding in if bindings.is_empty() { &any[..] } else { bindings } {
            let host = match binding.host_ip.as_str() {
                "" => None,
                text => Some(
                    text.trim_start_matches('[')
                        .trim_end_matches(']')
                        .parse()
                        .map_err(|_| InvalidPort::Address(text.to_owned()))?,
                ),
            };
            let ports = match binding.host_port.as_str() {
                "" | "0" => None,
                text => {
                    let (first, last) = text.split_once('-').unwrap_or((text, text));
                    let (first, last) = (number(first)?, number(last)?);
                    if last < first {
                        return Err(InvalidPort::Range(text.to_owned()));
                    }
                    Some((first, last))
                }
            };
            specs.push(PortSpec { container_port, protocol, host, ports });
        }
    }
    if host.publish_all_ports {
        for port in config.exposed_ports.iter().flat_map(|ports| ports.keys()) {
            let (container_port, protocol) = port_and_protocol(port)?;
            if !specs.iter().any(|s| (s.container_port, s.protocol) == (container_port, protocol)) {
                specs.push(PortSpec { container_port, protocol, host: None, ports: None });
            }
        }
    }
    Ok(specs)
}

/// Whether a port on one address keeps another from having it on the other.
pub(super) fn conflict(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// The addresses a specification stands for, given what the container has.
pub(super) fn host_addresses(spec: &PortSpec, default: Option<IpAddr>, v6: bool) -> Vec<IpAddr> {
    match spec.host.or(default) {
        // Docker's rule: no address means every IPv4 address, and every IPv6 one where there is IPv6.
        None if v6 => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        None => vec![Ipv4Addr::UNSPECIFIED.into()],
        Some(address) => vec![address],
    }
}

/// Binds a host port and holds it. Port 0 takes any free one; the port got is returned.
///
/// Without `SO_REUSEADDR`, because two sockets that both set it may share a port while neither listens,
/// and these never listen.
pub(super) fn hold(protocol: Protocol, address: IpAddr, port: u16) -> io::Result<(OwnedFd, u16)> {
    let kind = match protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    };
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if address.is_ipv6() {
        let on: libc::c_int = 1;
        // SAFETY: the pointer and length describe one c_int that outlives the call.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IPV6,
                libc::IPV6_V6ONLY,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let bind = |name: &dyn nix::sys::socket::SockaddrLike| {
        // SAFETY: the trait promises that pointer and length describe a socket address.
        let done = unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr(), name.len()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    match SocketAddr::new(address, port) {
        SocketAddr::V4(v4) => bind(&nix::sys::socket::SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => bind(&nix::sys::socket::SockaddrIn6::from(v6))?,
    }
    let got = if port == 0 {
        let name = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(socket.as_raw_fd())?;
        name.as_sockaddr_in()
            .map(nix::sys::socket::SockaddrIn::port)
            .or_else(|| name.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port))
            .ok_or(io::ErrorKind::InvalidData)?
    } else {
        port
    };
    Ok((socket, got))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Empty, PortBinding};

    fn bindings(list: &[(&str, &[(&str, &str)])]) -> HostConfig {
        let mut host = HostConfig::default();
        for (port, on) in list {
            let on = on
                .iter()
                .map(|(ip, port)| PortBinding { host_ip: (*ip).into(), host_port: (*port).into() })
                .collect();
            host.port_bindings.insert((*port).into(), on);
        }
        host
    }

    #[test]
    fn bindings_become_specs() {
        let host = bindings(&[
            ("80/tcp", &[("", "8080"), ("127.0.0.1", "9000-9009")]),
            ("53/udp", &[("[::1]", "")]),
        ]);
        let specs = port_specs(&Config::default(), &host).expect("specs");
        assert_eq!(
            specs,
            [
                PortSpec {
                    container_port: 53,
                    protocol: Protocol::Udp,
                    host: Some("::1".parse().unwrap()),
                    ports: None
                },
                PortSpec {
                    container_port: 80,
                    protocol: Protocol::Tcp,
                    host: None,
                    ports: Some((8080, 8080))
                },
                PortSpec {
                    container_port: 80,
                    protocol: Protocol::Tcp,
                    host: Some("127.0.0.1".parse().unwrap()),
                    ports: Some((9000, 9009))
                },
            ]
        );
    }

    #[test]
    fn publish_all_adds_exposed_ports_that_are_not_bound() {
        let mut host = bindings(&[("80/tcp", &[("", "8080")])]);
        host.publish_all_ports = true;
        let exposed = ["80/tcp", "443/tcp", "53/udp"].map(|p| (p.to_owned(), Empty {}));
        let config = Config { exposed_ports: Some(exposed.into_iter().collect()), ..Config::default() };
        let specs = port_specs(&config, &host).expect("specs");
        let ports: Vec<u16> = specs.iter().map(|s| s.container_port).collect();
        assert_eq!(ports, [80, 443, 53]);
        assert_eq!(specs[1].ports, None);
    }

    #[test]
    fn nonsense_is_refused() {
        for (port, ip, host_port, error) in [
            ("0/tcp", "", "1", InvalidPort::Number("0".into())),
            ("65536/tcp", "", "1", InvalidPort::Number("65536".into())),
            ("80/sctp", "", "1", InvalidPort::Protocol("sctp".into())),
            ("80/tcp", "300.0.0.1", "1", InvalidPort::Address("300.0.0.1".into())),
            ("80/tcp", "", "9-8", InvalidPort::Range("9-8".into())),
            ("80/tcp", "", "+80", InvalidPort::Number("+80".into())),
            ("80/tcp", "", "8-", InvalidPort::Number(String::new())),
        ] {
            assert_eq!(
                port_specs(&Config::default(), &bindings(&[(port, &[(ip, host_port)])])),
                Err(error),
                "{port}"
            );
        }
    }

    #[test]
    fn a_held_port_is_taken_and_a_dropped_one_is_free() {
        let local = Ipv4Addr::LOCALHOST.into();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let (held, port) = hold(protocol, local, 0).expect("any");
            assert_ne!(port, 0);
            let error = hold(protocol, Ipv4Addr::UNSPECIFIED.into(), port).expect_err("taken");
            assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
            drop(held);
        }
    }

    #[test]
    fn every_address_conflicts_with_each_of_its_family() {
        let ip = |t: &str| t.parse::<IpAddr>().expect(t);
        for (a, b, clash) in [
            ("0.0.0.0", "127.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("::", "0.0.0.0", false),
            ("::", "::1", true),
        ] {
            assert_eq!(conflict(ip(a), ip(b)), clash, "{a} {b}");
            assert_eq!(conflict(ip(b), ip(a)), clash, "{b} {a}");
        }
    }
}
