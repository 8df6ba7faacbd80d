//! Links, addresses and routes over rtnetlink.
//!
//! The message types are the rtnetlink project's; the conversation is a blocking socket, because the
//! project's own handle wants a tokio runtime and the engine's callers are about to clone3. A socket
//! belongs to the network namespace it was opened in, so [`inside`] enters a container's namespace only
//! to open one (and to write the sysctls that have no netlink message), and every later request is sent
//! from outside.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::Error;
use super::subnet::Subnet;

/// A conversation with rtnetlink in one network namespace.
#[derive(Debug)]
pub(super) struct Links {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Every namespace's loopback has this index.
pub(super) const LOOPBACK: u32 = 1;

/// One end of a new veth pair, and where its other end goes.
#[derive(Debug)]
pub(super) struct Veth<'a> {
    /// The end that stays here.
    pub host: &'a str,
    /// The bridge that end becomes a port of.
    pub bridge: u32,
    /// That end's group.
    pub group: u32,
    /// Both ends' MTU.
    pub mtu: u32,
    /// The namespace of the other end.
    pub netns: BorrowedFd<'a>,
    /// The other end's name there.
    pub peer: &'a str,
    /// The other end's MAC address.
    pub mac: [u8; 6],
}

impl Links {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let fail = |source| Error::Kernel { call: "socket", on: "NETLINK_ROUTE".into(), source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::new() })
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        Ok(self.sequence)
    }

    /// Sends one request and hands each answer to `each` until the kernel says it is done.
    fn converse(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let sequence = self.send(message, flags)?;
        let broken =
            |e: netlink_packet_core::DecodeError| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
        // The kernel fills at most 32 KiB at once; asking for a datagram's length first would double the calls.
        self.buffer.resize(32 * 1024, 0);
        loop {
            let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let mut rest = &self.buffer[..length];
            while rest.len() >= 16 {
                // A message this crate cannot decode (a newer kernel's attribute) is skipped by its
                // length; only acknowledgements decide the outcome.
                let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if length < 16 || length > rest.len() {
                    return Err(io::Error::from(io::ErrorKind::InvalidData));
                }
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]);
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                let parsed = match parsed {
                    Ok(parsed) => parsed,
                    Err(_) if kind >= 16 => continue,
                    Err(error) => return Err(broken(error)),
                };
                if parsed.header.sequence_number != sequence {
                    continue;
                }
                match parsed.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(()),
                            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                        };
                    }
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => {}
                }
            }
        }
    }

    fn request(
        &mut self,
        call: &'static str,
        on: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), Error> {
        self.converse(message, NLM_F_ACK | flags, |_| ()).map_err(|source| Error::Kernel {
            call,
            on: on.to_owned(),
            source,
        })
    }

    /// The index of a link, `None` when there is none of that name.
    pub fn index(&mut self, name: &str) -> Result<Option<u32>, Error> {
        Ok(self.look(name)?.map(|(index, _)| index))
    }

    /// The index of a link and whether it was set up, `None` when there is none of that name.
    pub fn look(&mut self, name: &str) -> Result<Option<(u32, bool)>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut found = None;
        let done = self.converse(RouteNetlinkMessage::GetLink(message), NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some((link.header.index, link.header.flags.contains(LinkFlags::Up)));
            }
        });
        match done {
            Ok(()) => Ok(found),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(Error::Kernel { call: "RTM_GETLINK", on: name.to_owned(), source }),
        }
    }

    /// Makes a bridge, down. The MAC is fixed at creation because a bridge otherwise takes its lowest
    /// port's, and its address would change under the neighbours' caches.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                // Snooping costs a timer per group and drops multicast until a querier appears.
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
            ]),
        ];
        self.request(
            "RTM_NEWLINK bridge",
            name,
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Makes a veth pair: one end a port of the bridge and up, the other in the container, in one
    /// message, so that a crash leaves the whole pair or none.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> Result<(), Error> {
        // The peer is configured before the pair is complete, and an incomplete pair refuses to go up
        // (ENOTCONN); its owner sets it up.
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer.to_owned()),
            LinkAttribute::Address(veth.mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::NetNsFd(veth.netns.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(veth.host.to_owned()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::Controller(veth.bridge),
            LinkAttribute::Group(veth.group),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.request(
            "RTM_NEWLINK veth",
            veth.host,
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Sets up a bridge port: whether it may not talk to other such ports (the bridge itself stays reachable), and
    /// whether frames may leave it by the way they came.
    pub fn set_port(&mut self, name: &str, isolated: bool, hairpin: bool) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        let data = vec![InfoBridgePort::Isolated(isolated), InfoBridgePort::HairpinMode(hairpin)];
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(data)),
            ]),
        ];
        self.request("RTM_NEWLINK port", name, RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Makes a macvlan of `parent` straight in a container's namespace, up.
    pub fn add_macvlan(
        &mut self,
        parent: u32,
        mode: MacVlanMode,
        netns: BorrowedFd<'_>,
        name: &str,
        mac: [u8; 6],
    ) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Link(parent),
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)])),
            ]),
        ];
        self.request(
            "RTM_NEWLINK macvlan",
            name,
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Removes a link by name; one that is not there is removed already.
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.request("RTM_DELLINK", name, RouteNetlinkMessage::DelLink(message), 0) {
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Removes every link of a group, all in one grace period.
    pub fn remove_group(&mut self, group: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        match self.request("RTM_DELLINK group", "veth", RouteNetlinkMessage::DelLink(message), 0) {
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Takes a link out of its bridge; one that is not there is not missed.
    ///
    /// For the end of a dead container's pair. Removing the link waits for a grace period (10 ms and more), and the
    /// kernel does it by itself when the namespace at the other end goes. Where that lives on because another
    /// container shares it, this has cut it off, and its address may be given away.
    pub fn leave(&mut self, name: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Controller(0)];
        match self.request("RTM_SETLINK nomaster", name, RouteNetlinkMessage::SetLink(message), 0) {
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Makes a link a port of a bridge. `false` when it is not there.
    pub fn join(&mut self, name: &str, bridge: u32) -> Result<bool, Error> {
        let Some(index) = self.index(name)? else { return Ok(false) };
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::Controller(bridge)];
        self.request("RTM_NEWLINK master", name, RouteNetlinkMessage::SetLink(message), 0)?;
        Ok(true)
    }

    /// Waits until a link that was set up carries packets.
    ///
    /// The kernel works off carrier changes in a queue: until then the device's queue discipline drops
    /// what is sent and a bridge keeps the port disabled, so that a container's first ARP request is
    /// lost and its first connection takes a second. Since Linux 6.9 asking for one link works its
    /// change off at once, so the first answer is the last; before, there is only waiting, and not for
    /// long, since the queue may take a second and most containers do not speak that early.
    pub fn await_carrier(&mut self, name: &str) -> Result<(), Error> {
        for _ in 0..20 {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::IfName(name.to_owned()));
            let mut up = false;
            self.converse(RouteNetlinkMessage::GetLink(message), NLM_F_ACK, |answer| {
                if let RouteNetlinkMessage::NewLink(link) = answer {
                    up = link.attributes.contains(&LinkAttribute::OperState(State::Up));
                }
            })
            .map_err(|source| Error::Kernel {
                call: "RTM_GETLINK",
                on: name.to_owned(),
                source,
            })?;
            if up {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // A macvlan's parent may have no cable: the container starts all the same.
        Ok(())
    }

    /// Sets a link up.
    pub fn up(&mut self, name: &str, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request("RTM_NEWLINK up", name, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives a link an address; one it has already is fine.
    pub fn add_address(&mut self, name: &str, index: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        match address {
            IpAddr::V4(v4) if prefix < 31 => {
                let broadcast = u32::from(v4) | (u32::MAX >> prefix);
                message.attributes.push(AddressAttribute::Broadcast(Ipv4Addr::from(broadcast)));
            }
            // Detection of duplicates takes a second, and the database already rules them out.
            IpAddr::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
            IpAddr::V4(_) => {}
        }
        let on = format!("{address}/{prefix} dev {name}");
        match self.request(
            "RTM_NEWADDR",
            &on,
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        ) {
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Takes an address from a link.
    #[cfg(test)]
    pub fn remove_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address)];
        self.request("RTM_DELADDR", &address.to_string(), RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Adds a default route. `false` when the namespace has one already.
    pub fn add_default_route(&mut self, gateway: IpAddr, index: u32) -> Result<bool, Error> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(gateway),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes =
            vec![RouteAttribute::Gateway(RouteAddress::from(gateway)), RouteAttribute::Oif(index)];
        let on = format!("default via {gateway}");
        match self.request(
            "RTM_NEWROUTE",
            &on,
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        ) {
            Ok(()) => Ok(true),
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Every subnet this namespace has a route or an address in, the default routes left out.
    pub fn subnets(&mut self) -> Result<Vec<Subnet>, Error> {
        let mut found = Vec::new();
        for unspecified in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let mut message = RouteMessage::default();
            message.header.address_family = family(unspecified);
            self.converse(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP, |answer| {
                let RouteNetlinkMessage::NewRoute(route) = answer else { return };
                if route.header.destination_prefix_length == 0 || route.header.kind != RouteType::Unicast {
                    return;
                }
                for attribute in route.attributes {
                    let destination = match attribute {
                        RouteAttribute::Destination(RouteAddress::Inet(v4)) => IpAddr::V4(v4),
                        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => IpAddr::V6(v6),
                        _ => continue,
                    };
                    found.extend(Subnet::of(destination, route.header.destination_prefix_length));
                }
            })
            .map_err(|source| Error::Kernel {
                call: "RTM_GETROUTE",
                on: "all".into(),
                source,
            })?;
        }
        // An address on a link that is down has no route yet.
        self.converse(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return };
            for attribute in message.attributes {
                if let AddressAttribute::Address(address) = attribute {
                    found.extend(Subnet::of(address, message.header.prefix_len));
                }
            }
        })
        .map_err(|source| Error::Kernel { call: "RTM_GETADDR", on: "all".into(), source })?;
        Ok(found)
    }

    /// Every address this namespace has.
    pub fn addresses(&mut self) -> Result<Vec<IpAddr>, Error> {
        let mut found = Vec::new();
        self.converse(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return };
            // On a point-to-point link the address is the other side's, and the local one has its own attribute.
            let local = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let any = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            found.extend(local.or(any));
        })
        .map_err(|source| Error::Kernel { call: "RTM_GETADDR", on: "all".into(), source })?;
        Ok(found)
    }

    /// The first IPv4 address of a link, and its prefix length.
    pub fn address_of(&mut self, index: u32) -> Result<Option<(IpAddr, u8)>, Error> {
        let mut found = None;
        self.converse(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return };
            if message.header.index != index || found.is_some() {
                return;
            }
            found = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) if address.is_ipv4() => {
                    Some((*address, message.header.prefix_len))
                }
                _ => None,
            });
        })
        .map_err(|source| Error::Kernel { call: "RTM_GETADDR", on: index.to_string(), source })?;
        Ok(found)
    }

    /// The names of every link, each with the index of the bridge it is a port of.
    pub fn all(&mut self) -> Result<Vec<(String, u32, Option<u32>)>, Error> {
        let mut links = Vec::new();
        self.converse(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else { return };
            let mut name = None;
            let mut controller = None;
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(n) => name = Some(n),
                    LinkAttribute::Controller(c) => controller = Some(c),
                    _ => {}
                }
            }
            links.extend(name.map(|name| (name, link.header.index, controller)));
        })
        .map_err(|source| Error::Kernel { call: "RTM_GETLINK", on: "all".into(), source })?;
        Ok(links)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Runs `work` with the calling thread in another network namespace, and comes back.
pub(super) fn inside<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    const SELF: &str = "/proc/thread-self/ns/net";
    let fail = |call, on: &str, source: io::Error| Error::Kernel { call, on: on.to_owned(), source };
    let home = std::fs::File::open(SELF).map_err(|e| fail("open", SELF, e))?;
    let enter = |ns: BorrowedFd<'_>| {
        nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
    };
    enter(netns).map_err(|e| fail("setns", "container", e))?;
    let result = work();
    enter(std::os::fd::AsFd::as_fd(&home)).map_err(|e| fail("setns", SELF, e))?;
    result
}
