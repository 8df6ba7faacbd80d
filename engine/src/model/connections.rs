//! `/proc/<pid>/net/tcp` and `tcp6`: the connections of a network namespace, for the view of one container.
//!
//! They are listed on request and never exported: an address in a metric's label would make a series of
//! every client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::{At as _, Error};

/// Rows read at most; a busy proxy has more connections than anybody can look at.
const MOST: usize = 1000;

/// A TCP connection or listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The container's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The kernel's state, in `ss`'s words.
    pub state: &'static str,
    /// Bytes waiting to be acknowledged by the other end.
    pub send_queue: u64,
    /// Bytes waiting to be read by the container.
    pub receive_queue: u64,
}

/// The TCP sockets in the network namespace of a process, at most the first thousand of each family.
pub fn list(pid: i32) -> Result<Vec<Connection>, Error> {
    let mut found = Vec::new();
    for file in ["tcp", "tcp6"] {
        let path = format!("/proc/{pid}/net/{file}");
        let path = Path::new(&path);
        let text = match std::fs::read_to_string(path) {
            // A kernel without IPv6 has no tcp6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.at("read", path)?,
        };
        for line in text.lines().skip(1).take(MOST) {
            let connection =
                parse(line).ok_or_else(|| Error::Parse { path: path.to_owned(), text: line.to_owned() })?;
            found.push(connection);
        }
    }
    Ok(found)
}

fn parse(line: &str) -> Option<Connection> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
    let state = match u8::from_str_radix(fields.next()?, 16).ok()? {
        1 => "ESTAB",
        2 => "SYN-SENT",
        3 => "SYN-RECV",
        4 => "FIN-WAIT-1",
        5 => "FIN-WAIT-2",
        6 => "TIME-WAIT",
        7 => "CLOSE",
        8 => "CLOSE-WAIT",
        9 => "LAST-ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        12 => "NEW-SYN-RECV",
        _ => return None,
    };
    let (send, receive) = fields.next()?.split_once(':')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(Connection { local, remote, state, send_queue: hex(send)?, receive_queue: hex(receive)? })
}

/// `0100007F:0050`: words in the host's byte order, the port in network order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n * 8)?);
            }
            let ip = Ipv6Addr::from(bytes);
            ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_both_families() {
        let v4 = "   0: 0100007F:1F90 0200A8C0:C350 01 0000000A:00000B00 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0";
        let found = parse(v4).unwrap();
        assert_eq!(found.local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(found.remote, "192.168.0.2:50000".parse().unwrap());
        assert_eq!((found.state, found.send_queue, found.receive_queue), ("ESTAB", 10, 0xb00));
        let v6 = "   1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0 00:00000000 0 0 0 1";
        assert_eq!(parse(v6).unwrap().local, "[::1]:22".parse().unwrap());
        let mapped = "0000000000000000FFFF00000100007F:0016";
        assert_eq!(address(mapped), Some("127.0.0.1:22".parse().unwrap()));
        for odd in ["", "0:", "0: 0100007F:1F90", "0: 0100007F 0200A8C0:C350 01 0:0", "0: ééééé:1 0:1 01 0:0"]
        {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }
}
