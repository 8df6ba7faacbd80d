//! The one nftables table: what it holds and how it follows the endpoints.
//!
//! The rules never change; the sets and maps do. So the number of rules a packet meets does not depend on
//! how many networks, containers or published ports there are, and a start or stop is a handful of
//! element updates in one batch. The table is the database's shadow: whenever an update finds the
//! table missing or different (flushed by a firewall, left by a crash), the whole table is made anew from the
//! database, again in one batch.
//!
//! What the chains do, in the order a packet meets them:
//!
//! - `guard` (prerouting, before connection tracking): a container cannot reach the host's loopback
//!   addresses. The bridges have `route_localnet` on, so that the host reaches a port published on
//!   127.0.0.1; this is the other half of that decision.
//! - `dnat` (prerouting) and `local` (output): published ports, by map. The address-specific map is asked
//!   first, then the one for ports published on every address, for local destinations only.
//! - `forward`: traffic inside one bridge passes (unless `enable_icc=false`); a source address that the
//!   bridge's containers do not own is dropped; internal networks talk to nobody else; replies and
//!   published ports pass; what else enters a bridge, from another bridge or from outside, is dropped.
//! - `snat` (postrouting): masquerade for what leaves the host; hairpin (a container reaching a port
//!   published by its own network, whose answer must come back through the host; with br_netfilter only the
//!   container that reaches its own port, which would take a packet from itself for forged); and host
//!   processes that came from 127.0.0.1. Traffic from one bridge to a port published by another keeps its
//!   source address.

use std::net::{IpAddr, Ipv4Addr};

use super::Error;
use super::nft::{Batch, Chain, Element, Expr, Set, Type, Value};

const CHAINS: &[Chain] = &[
    Chain { name: "guard", kind: "filter", hook: 0, priority: -300 },
    Chain { name: "dnat", kind: "nat", hook: 0, priority: -100 },
    Chain { name: "local", kind: "nat", hook: 3, priority: -100 },
    Chain { name: "forward", kind: "filter", hook: 2, priority: 0 },
    Chain { name: "snat", kind: "nat", hook: 4, priority: 100 },
];

const SETS: &[Set] = &[
    // Bridges of ours, and those with a property.
    Set { name: "bridges", key: &[Type::Interface], value: &[] },
    Set { name: "masquerade", key: &[Type::Interface], value: &[] },
    Set { name: "internal", key: &[Type::Interface], value: &[] },
    Set { name: "open", key: &[Type::Interface], value: &[] },
    // A bridge paired with itself: all of them, and those whose containers may talk to each other.
    Set { name: "hairpin", key: &[Type::Interface, Type::Interface], value: &[] },
    Set { name: "icc", key: &[Type::Interface, Type::Interface], value: &[] },
    // Host interfaces from which a bridge's containers are reached directly.
    Set { name: "trusted", key: &[Type::Interface, Type::Interface], value: &[] },
    // Which addresses live behind which bridge.
    Set { name: "member4", key: &[Type::Interface, Type::Ipv4], value: &[] },
    Set { name: "member6", key: &[Type::Interface, Type::Ipv6], value: &[] },
    // Addresses with published ports, each paired with itself.
    Set { name: "self4", key: &[Type::Ipv4, Type::Ipv4], value: &[] },
    Set { name: "self6", key: &[Type::Ipv6, Type::Ipv6], value: &[] },
    // Published ports.
    Set { name: "port4", key: &[Type::Ipv4, Type::Protocol, Type::Port], value: &[Type::Ipv4, Type::Port] },
    Set { name: "any4", key: &[Type::Protocol, Type::Port], value: &[Type::Ipv4, Type::Port] },
    Set { name: "port6", key: &[Type::Ipv6, Type::Protocol, Type::Port], value: &[Type::Ipv6, Type::Port] },
    Set { name: "any6", key: &[Type::Protocol, Type::Port], value: &[Type::Ipv6, Type::Port] },
];

/// What of a network the table needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bridge {
    pub name: String,
    pub masquerade: bool,
    pub internal: bool,
    pub icc: bool,
    pub open: bool,
    pub trusted: Vec<String>,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forward {
    /// `None` for every address of the family.
    pub host: Option<IpAddr>,
    pub protocol: u8,
    pub host_port: u16,
    pub to: IpAddr,
    pub to_port: u16,
}

/// Elements by set.
#[derive(Debug, Default)]
pub(super) struct Elements(Vec<(&'static str, Vec<Element>)>);

impl Elements {
    fn put(&mut self, set: &'static str, key: Value, value: Option<Value>) {
        match self.0.iter_mut().find(|(name, _)| *name == set) {
            Some((_, elements)) => elements.push((key, value)),
            None => self.0.push((set, vec![(key, value)])),
        }
    }

    /// Takes over another's elements.
    pub fn append(&mut self, other: Self) {
        for (set, elements) in other.0 {
            for (key, value) in elements {
                self.put(set, key, value);
            }
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A bridge and its properties.
    pub fn bridge(&mut self, bridge: &Bridge) {
        let one = || Value::default().ifname(&bridge.name);
        let pair = |first: &str| Value::default().ifname(first).ifname(&bridge.name);
        self.put("bridges", one(), None);
        self.put("hairpin", pair(&bridge.name), None);
        for (set, wanted) in
            [("masquerade", bridge.masquerade), ("internal", bridge.internal), ("open", bridge.open)]
        {
            if wanted {
                self.put(set, one(), None);
            }
        }
        if bridge.icc {
            self.put("icc", pair(&bridge.name), None);
        }
        for interface in &bridge.trusted {
            self.put("trusted", pair(interface), None);
        }
    }

    /// An address behind a bridge.
    pub fn member(&mut self, bridge: &str, address: IpAddr) {
        let key = Value::default().ifname(bridge);
        match address {
            IpAddr::V4(v4) => self.put("member4", key.with(&v4.octets()), None),
            IpAddr::V6(v6) => self.put("member6", key.with(&v6.octets()), None),
        }
    }

    /// An address that has published ports.
    pub fn published(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.put("self4", Value::default().with(&v4.octets()).with(&v4.octets()), None),
            IpAddr::V6(v6) => self.put("self6", Value::default().with(&v6.octets()).with(&v6.octets()), None),
        }
    }

    /// A published port.
    pub fn forward(&mut self, forward: &Forward) {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let set = match (forward.to, forward.host) {
            (IpAddr::V4(_), Some(_)) => "port4",
            (IpAddr::V4(_), None) => "any4",
            (IpAddr::V6(_), Some(_)) => "port6",
            (IpAddr::V6(_), None) => "any6",
        };
        let key = forward.host.map_or_else(Value::default, |host| Value::default().with(&octets(host)));
        let key = key.with(&[forward.protocol]).with(&forward.host_port.to_be_bytes());
        let value = Value::default().with(&octets(forward.to)).with(&forward.to_port.to_be_bytes());
        self.put(set, key, Some(value));
    }
}

const IIFNAME: u32 = libc::NFT_META_IIFNAME as u32;
const OIFNAME: u32 = libc::NFT_META_OIFNAME as u32;
const NFPROTO: u32 = libc::NFT_META_NFPROTO as u32;
const L4PROTO: u32 = libc::NFT_META_L4PROTO as u32;
const CT_STATE: u32 = libc::NFT_CT_STATE as u32;
const CT_STATUS: u32 = libc::NFT_CT_STATUS as u32;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const ACCEPT: i32 = libc::NF_ACCEPT;
const DROP: i32 = libc::NF_DROP;
/// `ct state established,related`.
const ESTABLISHED_RELATED: u32 = 0b110;
/// `IPS_DST_NAT`.
const DST_NAT: u32 = 1 << 5;

fn meta(key: u32, to: u32) -> Expr {
    Expr::Meta { key, to }
}

fn family(v4: bool) -> [Expr; 2] {
    let nfproto = if v4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
    [meta(NFPROTO, 0), Expr::Compare { register: 0, equal: true, value: vec![nfproto as u8] }]
}

fn source(v4: bool, to: u32) -> Expr {
    let (offset, length) = if v4 { (12, 4) } else { (8, 16) };
    Expr::Payload { base: NETWORK, offset, length, to }
}

fn destination(v4: bool, to: u32) -> Expr {
    let (offset, length) = if v4 { (16, 4) } else { (24, 16) };
    Expr::Payload { base: NETWORK, offset, length, to }
}

/// Source and destination are one address.
fn to_itself(v4: bool) -> Vec<Expr> {
    let (set, words) = if v4 { ("self4", 1) } else { ("self6", 4) };
    let mut rule = family(v4).to_vec();
    rule.extend([source(v4, 0), destination(v4, words), Expr::Lookup { set, key: 0, present: true }]);
    rule
}

fn is_loopback4(offset: u32) -> [Expr; 2] {
    let first = Expr::Payload { base: NETWORK, offset, length: 1, to: 0 };
    [first, Expr::Compare { register: 0, equal: true, value: vec![Ipv4Addr::LOCALHOST.octets()[0]] }]
}

fn any_bit(load: Expr, mask: u32) -> [Expr; 3] {
    [load, Expr::Mask { register: 0, mask }, Expr::Compare { register: 0, equal: false, value: vec![0; 4] }]
}

fn in_set(key: &[u32], set: &'static str, present: bool) -> Vec<Expr> {
    let mut rule: Vec<Expr> = key.iter().zip([0, 4]).map(|(&key, to)| meta(key, to)).collect();
    rule.push(Expr::Lookup { set, key: 0, present });
    rule
}

fn dnat(v4: bool, any: bool, except_loopback: bool) -> Vec<Expr> {
    let words = if v4 { 1 } else { 4 };
    let nfproto = if v4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 } as u8;
    let mut rule = family(v4).to_vec();
    let mut at = 0;
    if any {
        // RTN_LOCAL is 2: without this every connection through the host to such a port was ours.
        rule.extend([
            Expr::DestinationType { to: 0 },
            Expr::Compare { register: 0, equal: true, value: 2u32.to_ne_bytes().to_vec() },
        ]);
    } else {
        rule.push(destination(v4, 0));
        at = words;
    }
    if except_loopback {
        let loopback = std::net::Ipv6Addr::LOCALHOST.octets().to_vec();
        rule.extend([destination(false, 8), Expr::Compare { register: 8, equal: false, value: loopback }]);
    }
    let map = match (v4, any) {
        (true, false) => "port4",
        (true, true) => "any4",
        (false, false) => "port6",
        (false, true) => "any6",
    };
    rule.extend([
        meta(L4PROTO, at),
        Expr::Payload { base: TRANSPORT, offset: 2, length: 2, to: at + 1 },
        Expr::Map { map, key: 0, to: 0 },
        Expr::Dnat { family: nfproto, address: 0, port: words },
    ]);
    rule
}

fn rules() -> Vec<(&'static str, Vec<Expr>)> {
    let verdict = |parts: &[&[Expr]], verdict: i32| {
        let mut rule = parts.concat();
        rule.push(Expr::Verdict(verdict));
        rule
    };
    let masquerade = |parts: &[&[Expr]]| {
        let mut rule = parts.concat();
        rule.push(Expr::Masquerade);
        rule
    };
    let from_bridge = in_set(&[IIFNAME], "bridges", true);
    let to_bridge = in_set(&[OIFNAME], "bridges", true);
    let stranger = |v4: bool| {
        let set = if v4 { "member4" } else { "member6" };
        let key = [meta(IIFNAME, 0), source(v4, 4), Expr::Lookup { set, key: 0, present: false }];
        verdict(&[&from_bridge, &family(v4), &key], DROP)
    };
    vec![
        ("guard", verdict(&[&from_bridge, &family(true), &is_loopback4(16)], DROP)),
        ("dnat", dnat(true, false, false)),
        ("dnat", dnat(true, true, false)),
        ("dnat", dnat(false, false, false)),
        ("dnat", dnat(false, true, false)),
        ("local", dnat(true, false, false)),
        ("local", dnat(true, true, false)),
        ("local", dnat(false, false, true)),
        // IPv6 has no route_localnet: a rewritten ::1 could not leave, so it is refused, not lost.
        ("local", dnat(false, true, true)),
        (
            "forward",
            verdict(&[&in_set(&[IIFNAME], "bridges", false), &in_set(&[OIFNAME], "bridges", false)], ACCEPT),
        ),
        ("forward", verdict(&[&in_set(&[IIFNAME, OIFNAME], "icc", true)], ACCEPT)),
        ("forward", stranger(true)),
        ("forward", stranger(false)),
        ("forward", verdict(&[&in_set(&[IIFNAME], "internal", true)], DROP)),
        ("forward", verdict(&[&in_set(&[OIFNAME], "internal", true)], DROP)),
        ("forward", verdict(&[&any_bit(Expr::Ct { key: CT_STATE, to: 0 }, ESTABLISHED_RELATED)], ACCEPT)),
        ("forward", verdict(&[&any_bit(Expr::Ct { key: CT_STATUS, to: 0 }, DST_NAT)], ACCEPT)),
        ("forward", verdict(&[&from_bridge, &to_bridge], DROP)),
        ("forward", verdict(&[&in_set(&[OIFNAME], "open", true)], ACCEPT)),
        ("forward", verdict(&[&in_set(&[IIFNAME, OIFNAME], "trusted", true)], ACCEPT)),
        ("forward", verdict(&[&to_bridge], DROP)),
        (
            "snat",
            masquerade(&[&in_set(&[IIFNAME], "masquerade", true), &in_set(&[OIFNAME], "bridges", false)]),
        ),
        (
            "snat",
            masquerade(&[
                &any_bit(Expr::Ct { key: CT_STATUS, to: 0 }, DST_NAT),
                &in_set(&[IIFNAME, OIFNAME], "hairpin", true),
            ]),
        ),
        ("snat", masquerade(&[&any_bit(Expr::Ct { key: CT_STATUS, to: 0 }, DST_NAT), &to_itself(true)])),
        ("snat", masquerade(&[&any_bit(Expr::Ct { key: CT_STATUS, to: 0 }, DST_NAT), &to_itself(false)])),
        ("snat", masquerade(&[&to_bridge, &family(true), &is_loopback4(12)])),
    ]
}

/// Makes the table anew, in place of any there is, with these elements.
pub(super) fn replace(table: &str, elements: &Elements) -> Result<(), Error> {
    // What a batch deletes the kernel frees after a grace period, for which the next socket to close waits. Mostly
    // there is nothing to delete.
    match write(table, elements, true) {
        Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
            write(table, elements, false)
        }
        other => other,
    }
}

fn write(table: &str, elements: &Elements, fresh: bool) -> Result<(), Error> {
    let mut batch = Batch::new(table);
    if fresh {
        batch.add_new_table();
    } else {
        // Deleting needs it to exist: create, delete, create is one atomic replacement.
        batch.add_table();
        batch.delete_table();
        batch.add_table();
    }
    for chain in CHAINS {
        batch.add_chain(chain);
    }
    for set in SETS {
        batch.add_set(set);
    }
    for (set, elements) in &elements.0 {
        batch.add_elements(set, elements);
    }
    for (chain, rule) in rules() {
        batch.add_rule(chain, &rule);
    }
    batch.commit()
}

/// Adds and removes elements. `false` when the table is not as expected and must be replaced.
pub(super) fn update(table: &str, add: &Elements, remove: &Elements) -> Result<bool, Error> {
    if add.is_empty() && remove.is_empty() {
        return Ok(true);
    }
    let mut batch = Batch::new(table);
    for (set, elements) in &remove.0 {
        batch.delete_elements(set, elements);
    }
    for (set, elements) in &add.0 {
        batch.add_elements(set, elements);
    }
    match batch.commit() {
        Ok(()) => Ok(true),
        Err(Error::Kernel { source, .. })
            if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EEXIST | libc::EBUSY)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Removes the table if there is one.
pub(super) fn remove(table: &str) -> Result<(), Error> {
    let mut batch = Batch::new(table);
    batch.add_table();
    batch.delete_table();
    batch.commit()
}
