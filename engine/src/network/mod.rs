//! Networks: bridges, addresses, published ports and names for containers on one host.
//!
//! There is no daemon, so every command that starts or stops a container changes the host's network by
//! itself, and several do so at once. What keeps that sound is an order that every change follows:
//!
//! 1. *One at a time.* A command holds an exclusive `flock` on its network namespace
//!    (`/proc/self/ns/net`) while it changes anything. The lock is scoped to exactly what it protects, two
//!    stores on one host exclude each other, and the kernel drops it with the process.
//!    What concerns one container only (its pair of links, its addresses) happens after that.
//! 2. *The database leads.* Attaching commits the endpoint's row first and then makes links and rules;
//!    detaching removes links and rules first and then the row. A command killed in between leaves a row
//!    whose container does not live, and [`sweep`] releases it.
//! 3. *The kernel follows.* Links have names derived from the endpoint's id, the nftables table ([`rules`]) is
//!    a function of the rows, so both can be made again ([`reload`]) and removed without having
//!    been remembered.
//!
//! Everything on the host carries a name of ours: the bridges, the veth ends, one nftables table. A store
//! whose root is not the default one gets names of its own, so that stores do not disturb each other.

mod background;
mod caretaker;
mod conntrack;
mod dns;
mod endpoint;
mod files;
pub mod filter;
mod link;
mod model;
mod nft;
mod port;
mod resolver;
mod rules;
mod subnet;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

pub use caretaker::{care, start_caretaker, tidy};
pub use endpoint::{
    Attached, Endpoint, Left, Link, Membership, attach, detach, everyone, leave, link_entries as links,
    may_join, members, memberships, parse_mac, reload, rename, reroute, sweep,
};
pub use files::{HostsEntry, ResolvConf, add_host_entries, hosts, replace_links, resolv_conf};
pub use model::{
    Driver, IpamConfig, IpamView, MemberView, Network, NetworkView, NewNetwork, Pool, create, find, inspect,
    list, prune, remove,
};
pub use port::{InvalidPort, PortSpec, Protocol, Published, port_specs};
pub use resolver::{address as resolver_address, serve as serve_names, start_resolver};
pub use subnet::{NotASubnet, Subnet};

use crate::operator;
use crate::store::{self, Layout, Store};

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No network answers to that name.
    #[error("network {0} not found")]
    NotFound(String),
    /// A prefix fits more than one network.
    #[error("network {0} is ambiguous: it is a prefix of more than one network ID")]
    Ambiguous(String),
    /// The name is taken.
    #[error("network with name {0} already exists")]
    NameInUse(String),
    /// The name has characters a name may not have.
    #[error("invalid network name {0:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* is allowed")]
    InvalidName(String),
    /// The driver is unknown.
    #[error("could not find plugin {0} in v1 plugin registry: plugin not found")]
    UnknownDriver(String),
    /// Only one network of this driver can be.
    #[error("only one instance of \"{0}\" network is allowed")]
    OnlyOne(&'static str),
    /// Built in.
    #[error("{0} is a pre-defined network and cannot be {1}")]
    Predefined(String, &'static str),
    /// Containers are on it.
    #[error("error while removing network: network {name} id {id} has active endpoints")]
    ActiveEndpoints {
        /// The network.
        name: String,
        /// Its id.
        id: String,
    },
    /// The text is no subnet.
    #[error(transparent)]
    Subnet(#[from] NotASubnet),
    /// The text is no address.
    #[error("invalid IP address: {0}")]
    Address(String),
    /// The text is no MAC address.
    #[error("invalid MAC address: {0}")]
    Mac(String),
    /// The subnet is too small to hold a gateway and a container.
    #[error("subnet {0} is too small for a gateway and a container")]
    TooSmall(Subnet),
    /// Another network or a route of the host has addresses of it.
    #[error("Pool overlaps with other one on this address space: {wanted} and {taken}")]
    Overlap {
        /// The subnet asked for.
        wanted: Subnet,
        /// What it overlaps.
        taken: Subnet,
    },
    /// No subnet was asked for and none is left.
    #[error(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    )]
    NoPool,
    /// A gateway or range was given without the subnet it belongs to.
    #[error("every ip-range or gateway must have a corresponding subnet: {0}")]
    NoSubnetFor(String),
    /// The gateway is not in the subnet.
    #[error("no matching subnet for gateway {0}")]
    GatewayOutside(IpAddr),
    /// The range is not in the subnet.
    #[error("no matching subnet for range {0}")]
    RangeOutside(Subnet),
    /// An option of the driver has no such value.
    #[error("invalid value for option {option}: {value:?}")]
    Option {
        /// The option's name.
        option: String,
        /// What was given.
        value: String,
    },
    /// The bridge's name is in use on the host by a link that is not this network's.
    #[error("bridge name {0} is in use by another link")]
    BridgeNameInUse(String),
    /// The macvlan's parent does not exist.
    #[error("invalid macvlan parent interface: {0:?}")]
    NoParent(String),
    /// Every address of the range is taken.
    #[error("no available IPv{version} addresses on this network's address pools: {network} ({id})")]
    Exhausted {
        /// 4 or 6.
        version: u8,
        /// The network's name.
        network: String,
        /// Its id.
        id: String,
    },
    /// The address asked for is taken.
    #[error("Address already in use: {0}")]
    AddressInUse(IpAddr),
    /// The address asked for is outside the subnet.
    #[error("Invalid address {0}: It does not belong to any of this network's subnets")]
    AddressOutside(IpAddr),
    /// A fixed address needs a subnet the user chose.
    #[error(
        "user specified IP address is supported only when connecting to networks with user configured subnets"
    )]
    AddressOnAutomaticSubnet,
    /// A fixed address needs a network the user made.
    #[error("user specified IP address is supported on user defined networks only")]
    AddressOnDefault,
    /// Aliases need a network with name resolution.
    #[error("network-scoped alias is supported only for containers in user defined networks")]
    AliasOnDefault,
    /// The alias cannot be a name.
    #[error("invalid network alias {0:?}")]
    Alias(String),
    /// The container is on the network already.
    #[error("endpoint with name {container} already exists in network {network}")]
    AlreadyConnected {
        /// The container's name.
        container: String,
        /// The network's name.
        network: String,
    },
    /// The container is not on the network.
    #[error("container {container} is not connected to network {network}")]
    NotConnected {
        /// The container.
        container: String,
        /// The network's name.
        network: String,
    },
    /// The network's driver gives no endpoints.
    #[error("container cannot be connected to {0} network: it shares no namespace with it")]
    NoEndpoints(&'static str),
    /// The container has no network namespace of its own that we manage.
    #[error(
        "container sharing network namespace with another container or host cannot be connected to any other network: {0}"
    )]
    SharedNamespace(String),
    /// A link's target is not a running container of the network.
    #[error("Cannot link to a non running container: {0}")]
    LinkTarget(String),
    /// A link's target runs, but on other networks.
    #[error("Cannot link to /{target}, as it does not belong to the {network} network")]
    LinkElsewhere {
        /// Its name.
        target: String,
        /// The network.
        network: String,
    },
    /// The link's text has no meaning.
    #[error("bad format for links: {0}")]
    LinkFormat(String),
    /// The port's text has no meaning.
    #[error(transparent)]
    Port(#[from] InvalidPort),
    /// Another container has the host's port.
    #[error(
        "driver failed programming external connectivity on endpoint {container}: Bind for {address}:{port} failed: port is already allocated"
    )]
    PortAllocated {
        /// The container that asks.
        container: String,
        /// The host's address.
        address: IpAddr,
        /// The host's port.
        port: u16,
    },
    /// A process of the host has the host's port, or the address is not the host's.
    #[error(
        "driver failed programming external connectivity on endpoint {container}: listen {protocol} {address}:{port}: bind: {source}"
    )]
    PortBind {
        /// The container that asks.
        container: String,
        /// `tcp` or `udp`.
        protocol: Protocol,
        /// The host's address.
        address: IpAddr,
        /// The host's port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The IPv6 address of a port cannot lead to a container without one.
    #[error("cannot publish on {0}: the container has no IPv6 address on network {1}")]
    NoIpv6(IpAddr, String),
    /// The operator's settings cannot be used.
    #[error(transparent)]
    Operator(#[from] operator::Error),
    /// The bridge that the operator names is not there, or has no address.
    #[error("bridge device with non default name {0} must be created manually, with an IPv4 address")]
    NoBridge(String),
    /// The kernel refused.
    #[error("{call} {on}: {source}")]
    Kernel {
        /// The call or message.
        call: &'static str,
        /// What it was applied to.
        on: String,
        /// Why.
        source: io::Error,
    },
    /// A column of the database does not hold what it should.
    #[error("{table} {id}: column {column} holds {value:?}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row.
        id: String,
        /// The column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The default network's name.
pub const DEFAULT: &str = "bridge";

/// The names a store uses on the host, and what the operator may set about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The nftables table.
    table: String,
    /// The group of the host's ends of veth pairs, by which the kernel finds them.
    group: u32,
    /// The bridge of the default network.
    bridge: String,
    /// The default network's gateway address and prefix length, if the operator chose.
    bip: Option<(IpAddr, u8)>,
    /// The part of it that containers get, if the operator chose.
    fixed_cidr: Option<Subnet>,
    /// The default network's MTU, if the operator chose.
    mtu: Option<u32>,
    /// The default network's bridge is the operator's: it is neither made nor removed, and has its address.
    foreign_bridge: bool,
    /// Whether containers on the default network may talk to each other.
    icc: bool,
    /// The host address that ports are published on where nobody names one.
    binding: Option<IpAddr>,
    /// Where subnets come from, and how long their prefixes are; Docker's own when empty.
    pools: Vec<(Subnet, u8)>,
}

/// The keys of Docker's `daemon.json` that concern networks.
#[derive(Debug, Default, Deserialize)]
struct DaemonFile {
    bip: Option<String>,
    #[serde(rename = "fixed-cidr")]
    fixed_cidr: Option<String>,
    mtu: Option<u32>,
    bridge: Option<String>,
    icc: Option<bool>,
    ip: Option<String>,
    #[serde(rename = "default-address-pools", default)]
    default_address_pools: Vec<AddressPool>,
}

#[derive(Debug, Deserialize)]
struct AddressPool {
    base: String,
    size: u8,
}

impl Settings {
    /// Reads `/etc/bulkhead/daemon.json`, or `daemon.json` in the store's root when that is not the default.
    fn load(layout: &Layout) -> Result<Self, Error> {
        let default = layout.root == Path::new("/var/lib/bulkhead");
        let (path, bytes) = operator::read(layout)?;
        let refuse = |reason: String| operator::Error { path: path.clone(), reason };
        let file: DaemonFile = match bytes {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?,
            None => DaemonFile::default(),
        };
        let foreign = file.bridge.filter(|name| !name.is_empty());
        if foreign.is_some() && file.bip.is_some() {
            let why = "You specified -b & --bip, mutually exclusive options. Please specify only one";
            return Err(refuse(why.to_owned()).into());
        }
        let binding = match file.ip.as_deref() {
            None | Some("" | "0.0.0.0") => None,
            Some(text) => Some(text.parse().map_err(|_| Error::Address(text.to_owned()))?),
        };
        let mut pools = Vec::new();
        for AddressPool { base, size } in file.default_address_pools {
            let subnet: Subnet = base.parse()?;
            if !subnet.is_ipv4() || size < subnet.prefix() || size > 29 {
                return Err(
                    refuse(format!("invalid default address pool: {base} in parts of /{size}")).into()
                );
            }
            pools.push((subnet, size));
        }
        let bip = file
            .bip
            .map(|text| {
                let (address, prefix) = subnet::parse_cidr(&text).ok_or_else(|| NotASubnet(text.clone()))?;
                let subnet = Subnet::of(address, prefix).ok_or_else(|| NotASubnet(text.clone()))?;
                if subnet.is_ipv4() && subnet.is_host(address) {
                    Ok((address, prefix))
                } else {
                    Err(NotASubnet(text))
                }
            })
            .transpose()?;
        let fixed_cidr = file.fixed_cidr.map(|text| text.parse()).transpose()?;
        let (table, bridge) = if default {
            ("bulkhead".to_owned(), "bulkhead0".to_owned())
        } else {
            let mark = hex(&Sha256::digest(layout.root.as_os_str().as_encoded_bytes())[..4]);
            (format!("bulkhead-{mark}"), format!("bh-{mark}"))
        };
        let hash = Sha256::digest(table.as_bytes());
        // Group 0 is everybody's, and small numbers are what people choose.
        let group = u32::from_ne_bytes([hash[0], hash[1], hash[2], hash[3]]) | 1 << 31;
        Ok(Self {
            table,
            group,
            foreign_bridge: foreign.is_some(),
            bridge: foreign.unwrap_or(bridge),
            bip,
            fixed_cidr,
            mtu: file.mtu,
            icc: file.icc.unwrap_or(true),
            binding,
            pools,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 32 random bytes in hexadecimal, the form of every id.
fn random_id() -> Result<String, Error> {
    let mut bytes = [0u8; 32];
    random(&mut bytes)?;
    Ok(hex(&bytes))
}

fn random(bytes: &mut [u8]) -> Result<(), Error> {
    // SAFETY: the pointer and length describe `bytes`.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes come whole or not at all.
    if usize::try_from(got) == Ok(bytes.len()) {
        Ok(())
    } else {
        Err(Error::Kernel { call: "getrandom", on: "seed".into(), source: io::Error::last_os_error() })
    }
}

/// The exclusive right to change this network namespace; see the module's first rule.
#[derive(Debug)]
struct HostLock(#[expect(dead_code, reason = "held, never read")] nix::fcntl::Flock<File>);

impl HostLock {
    fn take() -> Result<Self, Error> {
        const PATH: &str = "/proc/thread-self/ns/net";
        let fail = |call, source| Error::Kernel { call, on: PATH.into(), source };
        let mut file = File::open(PATH).map_err(|e| fail("open", e))?;
        loop {
            match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive) {
                Ok(lock) => return Ok(Self(lock)),
                Err((again, nix::errno::Errno::EINTR)) => file = again,
                Err((_, errno)) => return Err(fail("flock", errno.into())),
            }
        }
    }
}

/// Writes a sysctl unless it has the value already.
fn sysctl(path: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/{path}");
    let fail = |call, source| Error::Kernel { call, on: path.clone(), source };
    let current = std::fs::read_to_string(&path).map_err(|e| fail("read", e))?;
    if current.trim_end() == value {
        Ok(())
    } else {
        std::fs::write(&path, value).map_err(|e| fail("write", e))
    }
}

/// Runs a database closure and gives its error the store's path.
fn query<T>(
    store: &Store,
    work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
) -> Result<T, Error> {
    work(store.db()).map_err(|source| store.db_error(source).into())
}

#[cfg(test)]
mod tests;
