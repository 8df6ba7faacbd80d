//! Making the kernel forget the UDP conversations of a published port.
//!
//! Address translation is decided by a conversation's first packet and holds for as long as packets come. For TCP
//! that is right. A UDP client that sends on and on from one port (a log shipper, a telephone) would go on
//! speaking to the address of a container that has ended, or, having spoken while there was none, to the host,
//! where nobody listens. So its conversations are forgotten when a container comes and when it goes.
//!
//! The kernel does the search, by a filter that names the port. One that knows no such filter refuses
//! (EOPNOTSUPP before Linux 6.10), and then the conversation lasts until it pauses for half a minute.

use std::io;
use std::net::IpAddr;

use super::Error;
use super::nft;
use super::port::{Protocol, Published};

const NLM_F_REQUEST_ACK: u16 = 0x5;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const NESTED: u16 = 0x8000;
const CTA_FILTER: u16 = 0x19;

// Bits of CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS: which parts of a tuple must match.
const BY_SOURCE: u32 = 1;
const BY_DESTINATION: u32 = 2;
const BY_PROTOCOL: u32 = 8;
const BY_SOURCE_PORT: u32 = 16;
const BY_DESTINATION_PORT: u32 = 32;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// One direction of a conversation.
enum Side {
    /// As the client sent it: to this address and port of the host's.
    To(IpAddr, u16),
    /// As the answer is expected: from this address and port of a container's.
    From(IpAddr, u16),
}

fn message(side: &Side) -> Vec<u8> {
    let (tuple, address, port, flags) = match side {
        Side::To(address, port) => (1, address, port, BY_DESTINATION | BY_DESTINATION_PORT),
        Side::From(address, port) => (2, address, port, BY_SOURCE | BY_SOURCE_PORT),
    };
    let answer = tuple == 2;
    let (family, octets) = match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    };
    // CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST are 1 to 4.
    let which = if address.is_ipv4() { 1 } else { 3 } + u16::from(!answer);
    let ip = attribute(1 | NESTED, &attribute(which, &octets));
    let number = attribute(1, &[libc::IPPROTO_UDP as u8]);
    let port = attribute(if answer { 2 } else { 3 }, &port.to_be_bytes());
    let protocol = attribute(2 | NESTED, &[number, port].concat());
    let flags = flags | BY_PROTOCOL;
    let (original, reply) = if answer { (0, flags) } else { (flags, 0) };
    let filter = [attribute(1, &original.to_ne_bytes()), attribute(2, &reply.to_ne_bytes())].concat();
    let body = [
        vec![family, 0, 0, 0],
        attribute(tuple | NESTED, &[ip, protocol].concat()),
        attribute(CTA_FILTER | NESTED, &filter),
    ]
    .concat();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&((body.len() + 16) as u32).to_ne_bytes());
    bytes.extend_from_slice(&(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE).to_ne_bytes());
    bytes.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&body);
    bytes
}

fn forget(sides: &[Side]) -> Result<(), Error> {
    let fail = |call, source| Error::Kernel { call, on: "conntrack".into(), source };
    nft::with_socket(|socket| {
        for side in sides {
            socket.send(&message(side), 0).map_err(|e| fail("send", e))?;
            let mut reply = [0u8; 1024];
            let length = socket.recv(&mut &mut reply[..], 0).map_err(|e| fail("recv", e))?;
            let code =
                reply[..length].get(16..20).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
            match -code {
                0 | libc::ENOENT => {}
                // This kernel cannot.
                libc::EOPNOTSUPP | libc::EINVAL => return Ok(()),
                errno => return Err(fail("IPCTNL_MSG_CT_DELETE", io::Error::from_raw_os_error(errno))),
            }
        }
        Ok(())
    })
}

fn udp(ports: &[Published]) -> impl Iterator<Item = &Published> {
    ports.iter().filter(|port| port.protocol == Protocol::Udp)
}

/// What was said to these ports while nobody had them. `local` are the host's addresses.
pub(super) fn forget_unanswered(ports: &[Published], local: &[IpAddr]) -> Result<(), Error> {
    let sides: Vec<Side> = udp(ports)
        .flat_map(|port| {
            local
                .iter()
                .filter(move |address| {
                    **address == port.host
                        || (port.host.is_unspecified() && port.host.is_ipv4() == address.is_ipv4())
                })
                .map(move |address| Side::To(*address, port.host_port))
        })
        .collect();
    if sides.is_empty() { Ok(()) } else { forget(&sides) }
}

/// What these ports had going with a container at these addresses.
pub(super) fn forget_container(ports: &[Published], addresses: &[IpAddr]) -> Result<(), Error> {
    let sides: Vec<Side> = udp(ports)
        .flat_map(|port| addresses.iter().map(move |address| Side::From(*address, port.container_port)))
        .collect();
    if sides.is_empty() { Ok(()) } else { forget(&sides) }
}
