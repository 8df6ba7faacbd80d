//! From a host's name to its addresses, without the C library.
//!
//! `getaddrinfo` loads modules at run time, which a static executable cannot do. What is left of it for a
//! client of registries is small: literal addresses, `localhost`, `/etc/hosts`, and a question to the name
//! servers of `/etc/resolv.conf` in hickory's message format.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::network::ResolvConf;

/// How long one name server is waited for, unless resolv.conf says otherwise.
const PATIENCE: u64 = 5;
/// Addresses kept of one name.
const MOST: usize = 16;

/// Why a name has no address.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Failure {
    /// The name servers know no such name.
    #[error("dial tcp: lookup {name}{}: no such host", on(*server))]
    NoSuchHost {
        /// The name.
        name: String,
        /// Who said so; `None` if there was nobody to ask.
        server: Option<IpAddr>,
    },
    /// No name server answered.
    #[error("dial tcp: lookup {name} on {server}:53: {reason}")]
    NoAnswer {
        /// The name.
        name: String,
        /// The last that was asked.
        server: IpAddr,
        /// What became of it.
        reason: String,
    },
}

fn on(server: Option<IpAddr>) -> String {
    server.map_or_else(String::new, |server| format!(" on {server}:53"))
}

/// Who answered, and what.
type Answer = (IpAddr, Vec<IpAddr>);

/// Looks names up.
#[derive(Debug)]
pub(super) struct Names {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    port: u16,
}

impl Default for Names {
    fn default() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into(), port: 53 }
    }
}

impl Names {
    /// The addresses of a host, IPv4 first: more networks can be reached by it.
    fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, Failure> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse() {
            return Ok(vec![address]);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let listed = in_hosts(&std::fs::read_to_string(&self.hosts).unwrap_or_default(), &name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        // RFC 6761: nobody else is asked where this machine is.
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let conf = ResolvConf::parse(&std::fs::read_to_string(&self.resolv_conf).unwrap_or_default());
        let option = |key: &str| {
            let value =
                conf.options.iter().rev().find_map(|option| option.strip_prefix(key)?.strip_prefix(':'));
            value.and_then(|value| value.parse::<u64>().ok())
        };
        let patience = Duration::from_secs(option("timeout").unwrap_or(PATIENCE).clamp(1, 30));
        let attempts = option("attempts").unwrap_or(2).clamp(1, 5);
        let dots = option("ndots").unwrap_or(1) as usize;
        let as_is = format!("{name}.");
        let searched = conf.search.iter().map(|domain| format!("{name}.{}.", domain.trim_matches('.')));
        let mut candidates: Vec<String> =
            if host.ends_with('.') { Vec::new() } else { searched.take(6).collect() };
        if name.matches('.').count() >= dots {
            candidates.insert(0, as_is);
        } else {
            candidates.push(as_is);
        }
        let mut failure = Failure::NoSuchHost { name: name.clone(), server: None };
        for candidate in candidates {
            let Ok(asked) = Name::from_str(&candidate) else { continue };
            match self.ask(&conf.nameservers, &asked, patience, attempts) {
                Ok((_, addresses)) if !addresses.is_empty() => return Ok(addresses),
                Ok((server, _)) => failure = Failure::NoSuchHost { name: name.clone(), server: Some(server) },
                Err(Some((server, error))) => {
                    failure = Failure::NoAnswer { name: name.clone(), server, reason: reason(&error) };
                }
                Err(None) => {}
            }
        }
        Err(failure)
    }

    /// Asks the servers in turn; an empty list of addresses means that there are none.
    fn ask(
        &self,
        servers: &[IpAddr],
        name: &Name,
        patience: Duration,
        attempts: u64,
    ) -> Result<Answer, Option<(IpAddr, io::Error)>> {
        let mut failed = None;
        for _ in 0..attempts {
            for server in servers.iter().take(3) {
                let to = SocketAddr::new(*server, self.port);
                let both = exchange(to, name, RecordType::A, patience)
                    .and_then(|v4| exchange(to, name, RecordType::AAAA, patience).map(|v6| (v4, v6)));
                match both {
                    Ok((mut addresses, v6)) => {
                        addresses.extend(v6);
                        return Ok((*server, addresses));
                    }
                    Err(error) => failed = Some((*server, error)),
                }
            }
        }
        Err(failed)
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// The addresses that a hosts file has for a name.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// One question to one server: over UDP, and over TCP when the answer did not fit.
fn exchange(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    patience: Duration,
) -> io::Result<Vec<IpAddr>> {
    let mut id = [0; 2];
    // SAFETY: getrandom writes at most as many bytes as the buffer has.
    let got = unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
    if got != 2 {
        return Err(io::Error::last_os_error());
    }
    let mut query = Message::new(u16::from_be_bytes(id), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), kind));
    let bytes = query.to_vec().map_err(io::Error::other)?;

    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(&bytes)?;
    let mut buffer = vec![0; 65535];
    // Datagrams that answer something else are passed over, a few of them.
    for _ in 0..8 {
        let length = socket.recv(&mut buffer)?;
        let Some(reply) = answer(&buffer[..length], &query) else { continue };
        if !reply.metadata.truncation {
            return addresses(&reply);
        }
        let mut stream = TcpStream::connect_timeout(&server, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut whole = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut whole)?;
        let reply = answer(&whole, &query).ok_or(io::ErrorKind::InvalidData)?;
        return addresses(&reply);
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// The message, if it answers this very question.
fn answer(bytes: &[u8], query: &Message) -> Option<Message> {
    let reply = Message::from_vec(bytes).ok()?;
    (reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == query.metadata.id
        && reply.queries == query.queries)
        .then_some(reply)
}

fn addresses(reply: &Message) -> io::Result<Vec<IpAddr>> {
    match reply.metadata.response_code {
        ResponseCode::NoError => Ok(reply
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                _ => None,
            })
            .collect()),
        ResponseCode::NXDomain => Ok(Vec::new()),
        other => Err(io::Error::other(format!("server misbehaving: {other}"))),
    }
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let found = self.lookup(host).map_err(|failure| ureq::Error::Other(Box::new(failure)))?;
        let mut result = self.empty();
        for address in found.into_iter().take(MOST) {
            result.push(SocketAddr::new(address, port));
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Record, rdata};

    use super::*;

    /// A name server that knows `reg.corp.example`, one whose answer is too long for UDP, and nothing else.
    fn server() -> (std::thread::JoinHandle<()>, u16) {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let port = udp.local_addr().expect("address").port();
        let tcp = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the same port over TCP");
        let reply = |bytes: &[u8], whole: bool| {
            let query = Message::from_vec(bytes).expect("a query");
            let mut reply = Message::response(query.metadata.id, OpCode::Query);
            let question = query.queries[0].clone();
            let data = match (question.name().to_string().as_str(), question.query_type()) {
                ("reg.corp.example.", RecordType::A) => Some(RData::A(rdata::A::new(10, 9, 8, 7))),
                ("long.corp.example.", RecordType::A) if whole => Some(RData::A(rdata::A::new(10, 9, 8, 6))),
                ("long.corp.example.", RecordType::A) => {
                    reply.metadata.truncation = true;
                    None
                }
                ("reg.corp.example." | "long.corp.example.", _) => None,
                _ => {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                    None
                }
            };
            let name = question.name().clone();
            reply.add_query(question);
            reply.add_answers(data.map(|data| Record::from_rdata(name, 5, data)));
            reply.to_vec().expect("encode")
        };
        let thread = std::thread::spawn(move || {
            std::thread::spawn(move || {
                for stream in tcp.incoming().take(1) {
                    let mut stream = stream.expect("accept");
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).expect("length");
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query).expect("query");
                    let answer = reply(&query, true);
                    stream.write_all(&(answer.len() as u16).to_be_bytes()).expect("length");
                    stream.write_all(&answer).expect("answer");
                }
            });
            let mut buffer = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                if length < 12 {
                    return;
                }
                // Somebody else's answer first: it must be passed over.
                let mut other = reply(&buffer[..length], false);
                other[0] ^= 0xff;
                udp.send_to(&other, from).expect("send");
                udp.send_to(&reply(&buffer[..length], false), from).expect("send");
            }
        });
        (thread, port)
    }

    #[test]
    fn names_are_looked_up_in_the_files_and_then_at_the_servers() {
        let (thread, port) = server();
        let dir = tempfile::tempdir().expect("tempdir");
        let hosts = dir.path().join("hosts");
        std::fs::write(&hosts, "10.0.0.1 one.example One # uno\nx y\n10.0.0.2 two\n").expect("hosts");
        let resolv_conf = dir.path().join("resolv.conf");
        std::fs::write(
            &resolv_conf,
            "nameserver 127.0.0.1\nsearch corp.example\noptions timeout:2 attempts:1\n",
        )
        .expect("resolv.conf");
        let names = Names { hosts, resolv_conf, port };
        let lookup = |host: &str| {
            names.lookup(host).map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        for (host, want) in [
            ("10.3.2.1", "10.3.2.1"),
            ("[::1]", "::1"),
            ("ONE.example", "10.0.0.1"),
            ("two", "10.0.0.2"),
            ("localhost", "127.0.0.1 ::1"),
            ("reg.corp.example", "10.9.8.7"),
            ("reg", "10.9.8.7"),
            ("long.corp.example", "10.9.8.6"),
        ] {
            assert_eq!(lookup(host).expect(host), want, "{host}");
        }
        let error = lookup("none.example").expect_err("no such host").to_string();
        assert_eq!(error, "dial tcp: lookup none.example on 127.0.0.1:53: no such host");
        UdpSocket::bind("127.0.0.1:0").expect("bind").send_to(b"end", ("127.0.0.1", port)).expect("send");
        thread.join().expect("server");
    }

    #[test]
    fn without_a_name_server_there_is_no_such_host() {
        let none = || PathBuf::from("/nonexistent");
        let names = Names { hosts: none(), resolv_conf: none(), port: 1 };
        let error = names.lookup("reg.example").expect_err("nobody to ask").to_string();
        assert_eq!(error, "dial tcp: lookup reg.example: no such host");
    }
}
