//! Containers on networks: what a start attaches and an end releases.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rusqlite::{Row, params};
use sha2::{Digest as _, Sha256};

use super::files::{self, HostsEntry};
use super::link::{LOOPBACK, Links, Veth, inside};
use super::model::{self, Driver, Network, Pool};
use super::port::{self, PortSpec, Protocol, Published};
use super::resolver;
use super::rules::{self, Elements, Forward};
use super::subnet::{mac_of, number};
use super::{DEFAULT, Error, HostLock, Settings, caretaker, conntrack, query, random, random_id, sysctl};
use crate::store::Store;

/// The longest hosts file that links are renewed in, in bytes.
const HOSTS: u64 = 1 << 20;

/// `--link TARGET:ALIAS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The other container's name or id.
    pub target: String,
    /// The names it gets here, separated by white space.
    pub alias: String,
}

impl Link {
    /// Splits `TARGET[:ALIAS]`; without an alias the target's own name is it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::LinkFormat(text.to_owned());
        let (target, alias) = text.split_once(':').unwrap_or((text, text));
        let target = target.trim_start_matches('/');
        // Docker's API shows links as /target:/container/alias.
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        if target.is_empty() || alias.trim().is_empty() || !alias.split_whitespace().all(files::is_name) {
            return Err(bad());
        }
        Ok(Self { target: target.to_owned(), alias: alias.to_owned() })
    }
}

/// A container that is to join a network.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    /// The container's full id.
    pub container: String,
    /// Its name.
    pub name: String,
    /// The network's name or id.
    pub network: String,
    /// Further names on the network.
    pub aliases: Vec<String>,
    /// The IPv4 address it must have.
    pub ip: Option<IpAddr>,
    /// The IPv6 address it must have.
    pub ip6: Option<IpAddr>,
    /// The MAC address it must have.
    pub mac: Option<[u8; 6]>,
    /// Names for other containers.
    pub links: Vec<Link>,
    /// Ports to publish.
    pub ports: Vec<PortSpec>,
    /// Name servers the embedded resolver forwards this container's queries to.
    pub upstream: Vec<IpAddr>,
}

/// What a container got.
#[derive(Debug)]
pub struct Attached {
    /// The endpoint's id.
    pub id: String,
    /// The network.
    pub network: Network,
    /// The interface inside, empty where the network gives none.
    pub interface: String,
    /// IPv4 address and prefix length.
    pub ip4: Option<(IpAddr, u8)>,
    /// IPv6 address and prefix length.
    pub ip6: Option<(IpAddr, u8)>,
    /// The IPv4 gateway.
    pub gateway4: Option<IpAddr>,
    /// The IPv6 gateway.
    pub gateway6: Option<IpAddr>,
    /// The MAC address.
    pub mac: String,
    /// Published ports.
    pub ports: Vec<Published>,
    /// Sockets that hold the host ports: keep them open, close-on-exec, for as long as the container runs.
    pub held: Vec<OwnedFd>,
    /// The embedded resolver's address, on networks that resolve names.
    pub resolver: Option<IpAddr>,
    /// Lines for the hosts file, from links.
    pub links: Vec<HostsEntry>,
}

/// A container on a network, as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The endpoint's id.
    pub id: String,
    /// The network's id.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// IPv4 address.
    pub ip4: Option<IpAddr>,
    /// IPv6 address.
    pub ip6: Option<IpAddr>,
    /// MAC address.
    pub mac: String,
    /// The interface inside.
    pub interface: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// Published ports.
    pub ports: Vec<Published>,
}

impl Membership {
    /// The host's end of its veth pair.
    fn veth(&self) -> String {
        veth_name(&self.id)
    }
}

fn veth_name(endpoint: &str) -> String {
    format!("veth{}", &endpoint[..7])
}

fn read(row: &Row<'_>) -> rusqlite::Result<Membership> {
    let address = |at: usize| -> rusqlite::Result<Option<IpAddr>> {
        let text: Option<String> = row.get(at)?;
        // Only this module writes the column, and it writes addresses.
        Ok(text.and_then(|t| t.parse().ok()))
    };
    Ok(Membership {
        id: row.get(0)?,
        network: row.get(1)?,
        container: row.get(2)?,
        name: row.get(3)?,
        ip4: address(4)?,
        ip6: address(5)?,
        mac: row.get(6)?,
        interface: row.get(7)?,
        aliases: Vec::new(),
        ports: Vec::new(),
    })
}

const COLUMNS: &str = "id, network, container, name, ip4, ip6, mac, interface";

/// Rows without aliases and ports, which cost two more queries.
fn bare(db: &rusqlite::Connection, condition: &str, argument: &str) -> rusqlite::Result<Vec<Membership>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM endpoint WHERE {condition} ORDER BY interface"))?
        .query_map([argument], read)?
        .collect()
}

/// Rows with aliases and ports: three queries, of however many endpoints.
fn select(store: &Store, condition: &str, argument: &str) -> Result<Vec<Membership>, Error> {
    query(store, |db| {
        let mut found = bare(db, condition, argument)?;
        if found.is_empty() {
            return Ok(found);
        }
        let places: HashMap<String, usize> =
            found.iter().enumerate().map(|(place, member)| (member.id.clone(), place)).collect();
        let of = |columns: &str, table: &str, order: &str| {
            db.prepare_cached(&format!(
                "SELECT endpoint, {columns} FROM {table}
                 WHERE endpoint IN (SELECT id FROM endpoint WHERE {condition}) ORDER BY {order}"
            ))
        };
        let place = |row: &Row<'_>| Ok::<_, rusqlite::Error>(places.get(row.get_ref(0)?.as_str()?).copied());
        let mut aliases = of("alias", "endpoint_alias", "endpoint, alias")?;
        let mut rows = aliases.query([argument])?;
        while let Some(row) = rows.next()? {
            if let Some(place) = place(row)? {
                found[place].aliases.push(row.get(1)?);
            }
        }
        let columns = "container_port, protocol, host, host_port";
        let mut ports = of(columns, "port", columns)?;
        let mut rows = ports.query([argument])?;
        while let Some(row) = rows.next()? {
            let (protocol, host) = (row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_str()?);
            // Only this module writes the columns, and what it writes can be read.
            if let (Some(place), Ok(protocol), Ok(host)) = (place(row)?, protocol.parse(), host.parse()) {
                let (container_port, host_port) = (row.get(1)?, row.get(4)?);
                found[place].ports.push(Published { container_port, protocol, host, host_port });
            }
        }
        Ok(found)
    })
}

/// The containers on a network.
pub fn members(store: &Store, network: &str) -> Result<Vec<Membership>, Error> {
    select(store, "network = ?1", network)
}

/// Every container's, on every network.
pub fn everyone(store: &Store) -> Result<Vec<Membership>, Error> {
    select(store, "?1 = ''", "")
}

/// The networks a container is on.
pub fn memberships(store: &Store, container: &str) -> Result<Vec<Membership>, Error> {
    select(store, "container = ?1", container)
}

/// Makes the network's bridge if it is not there, with its addresses. Returns its index.
///
/// It is set up last: one that is down was left half-made by a killed command, and is finished.
pub(super) fn ensure_bridge(network: &Network, settings: &Settings, links: &mut Links) -> Result<u32, Error> {
    let name = network.bridge_name(settings);
    let index = match links.look(&name)? {
        Some((index, true)) => return Ok(index),
        Some((index, false)) => index,
        None => {
            // Locally administered and unicast, and the same when it is made again: containers remember it.
            let hash = Sha256::digest(network.id.as_bytes());
            let mac = [0x02, 0x42, hash[0], hash[1], hash[2], hash[3]];
            links.add_bridge(&name, mac, network.mtu(settings))?;
            links.index(&name)?.ok_or_else(|| Error::Kernel {
                call: "RTM_GETLINK",
                on: name.clone(),
                source: io::ErrorKind::NotFound.into(),
            })?
        }
    };
    address_bridge(network, &name, index, links)?;
    links.up(&name, index)?;
    Ok(index)
}

fn address_bridge(network: &Network, name: &str, index: u32, links: &mut Links) -> Result<(), Error> {
    for pool in [network.v4, network.v6].into_iter().flatten() {
        links.add_address(name, index, pool.gateway, pool.subnet.prefix())?;
    }
    Ok(())
}

/// What packets need besides rules.
fn ensure_sysctls(network: &Network, bridge: &str, ports: &[Published]) -> Result<(), Error> {
    if !network.internal {
        sysctl("net/ipv4/ip_forward", "1")?;
        if network.v6.is_some() {
            sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
    }
    // A host process that connects to 127.0.0.1:PORT has a loopback source, which the kernel lets out of a
    // bridge only with this. The rules' `guard` chain keeps containers from using the other direction.
    if ports.iter().any(|p| p.host.is_ipv4() && (p.host.is_unspecified() || p.host.is_loopback())) {
        sysctl(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1")?;
    }
    Ok(())
}

fn forwards(member: &Membership) -> impl Iterator<Item = Forward> {
    member.ports.iter().filter_map(|p| {
        Some(Forward {
            host: (!p.host.is_unspecified()).then_some(p.host),
            protocol: p.protocol.number(),
            host_port: p.host_port,
            to: if p.host.is_ipv4() { member.ip4? } else { member.ip6? },
            to_port: p.container_port,
        })
    })
}

fn own_elements(member: &Membership, bridge: &str) -> Elements {
    let mut elements = Elements::default();
    for address in [member.ip4, member.ip6].into_iter().flatten() {
        elements.member(bridge, address);
        if !member.ports.is_empty() {
            elements.published(address);
        }
    }
    for forward in forwards(member) {
        elements.forward(&forward);
    }
    elements
}

/// Every element the table should have, given the rows, some endpoints left out.
fn all_elements(
    store: &Store,
    settings: &Settings,
    without: &[Membership],
) -> Result<Option<Elements>, Error> {
    let networks = model::list(store)?;
    let mut elements = Elements::default();
    let mut seen = BTreeSet::new();
    for member in everyone(store)? {
        let Some(network) = networks.iter().find(|n| n.id == member.network && n.driver == Driver::Bridge)
        else {
            continue;
        };
        if without.iter().any(|w| w.id == member.id) {
            continue;
        }
        let bridge = network.rules(settings);
        if seen.insert(&network.id) {
            elements.bridge(&bridge);
        }
        elements.append(own_elements(&member, &bridge.name));
    }
    Ok((!seen.is_empty()).then_some(elements))
}

fn replace_table(store: &Store, settings: &Settings, without: &[Membership]) -> Result<(), Error> {
    match all_elements(store, settings, without)? {
        Some(elements) => rules::replace(&settings.table, &elements),
        None => rules::remove(&settings.table),
    }
}

/// Puts a container on a network: address, interface, routes, published ports, rules. On an error nothing
/// of it remains.
pub fn attach(store: &mut Store, wanted: &Endpoint, netns: BorrowedFd<'_>) -> Result<Attached, Error> {
    let settings = Settings::load(store.layout())?;
    let lock = HostLock::take()?;
    let mut network = model::find(store, &wanted.network)?;
    // What is done under the lock is what others would get in the way of; see the module's first rule.
    match network.driver {
        Driver::Host => return Err(Error::NoEndpoints("host")),
        Driver::Null => {
            drop(lock);
            inside(netns, Links::open)?.up("lo", LOOPBACK)?;
            return Ok(Attached {
                id: random_id()?,
                network,
                interface: String::new(),
                ip4: None,
                ip6: None,
                gateway4: None,
                gateway6: None,
                mac: String::new(),
                ports: Vec::new(),
                held: Vec::new(),
                resolver: None,
                links: Vec::new(),
            });
        }
        Driver::Bridge | Driver::Macvlan => {}
    }
    may_join(&network, wanted)?;
    let mine = query(store, |db| bare(db, "container = ?1", &wanted.container))?;
    if mine.iter().any(|m| m.network == network.id) {
        return Err(Error::AlreadyConnected { container: wanted.name.clone(), network: network.name });
    }

    let mut links = Links::open()?;
    if network.name == DEFAULT {
        choose_default_pool(store, &settings, &mut links, &mut network)?;
    }
    let (member, held) = record(store, &settings, &network, wanted)?;
    let prepared = prepare(store, &settings, &mut links, &network, &member)
        .and_then(|bridge| relink(store, &member).map(|()| bridge));
    drop(lock);
    let connected =
        prepared.and_then(|bridge| connect(&settings, &mut links, &network, &member, bridge, netns));
    let connected = connected.and_then(|()| {
        if member.ports.iter().any(|port| port.protocol == Protocol::Udp) {
            conntrack::forget_unanswered(&member.ports, &links.addresses()?)?;
        }
        Ok(())
    });
    if let Err(error) = connected {
        // The error that matters is the first one; what cannot be undone now, the next sweep undoes.
        let _ = HostLock::take().and_then(|_lock| release(store, &settings, std::slice::from_ref(&member)));
        return Err(error);
    }

    let prefixed = |address: Option<IpAddr>, pool: Option<Pool>| Some((address?, pool?.subnet.prefix()));
    let gateway = |pool: Option<Pool>| pool.filter(|_| !network.internal).map(|p| p.gateway);
    Ok(Attached {
        interface: member.interface.clone(),
        ip4: prefixed(member.ip4, network.v4),
        ip6: prefixed(member.ip6, network.v6),
        gateway4: gateway(network.v4),
        gateway6: gateway(network.v6),
        mac: member.mac.clone(),
        ports: member.ports.clone(),
        held,
        resolver: resolver::address(&network),
        links: link_entries(store, &member.id)?,
        id: member.id,
        network,
    })
}

/// Whether a network can give an endpoint what is asked of it, as far as that can be told before anything is looked up.
pub fn may_join(network: &Network, wanted: &Endpoint) -> Result<(), Error> {
    if wanted.ip.is_some() || wanted.ip6.is_some() {
        if network.is_predefined() {
            return Err(Error::AddressOnDefault);
        }
        if !network.fixed {
            return Err(Error::AddressOnAutomaticSubnet);
        }
    }
    if !wanted.aliases.is_empty() && network.is_predefined() {
        return Err(Error::AliasOnDefault);
    }
    if let Some(alias) = wanted.aliases.iter().find(|alias| !files::is_name(alias)) {
        return Err(Error::Alias(alias.clone()));
    }
    if let Some(mac) = wanted.mac
        && (mac[0] & 1 != 0 || mac == [0; 6])
    {
        return Err(Error::Mac(mac_text(mac)));
    }
    Ok(())
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Gives the default network a subnet: the operator's, the one it had, or a free one.
fn choose_default_pool(
    store: &Store,
    settings: &Settings,
    links: &mut Links,
    network: &mut Network,
) -> Result<(), Error> {
    let configured = model::configured_pool(settings, links)?;
    if links.index(&network.bridge_name(settings))?.is_some() && network.v4.is_some() {
        // The bridge of a moment ago, which the operator wants otherwise now.
        let other = configured.is_some() && configured != network.v4;
        if !other || !query(store, |db| bare(db, "network = ?1", &network.id))?.is_empty() {
            return Ok(());
        }
        caretaker::remove_default_bridge(store, settings, links)?;
    }
    let pool = match (configured, network.v4) {
        (Some(configured), _) => configured,
        (None, Some(kept)) if !links.subnets()?.iter().any(|s| s.overlaps(&kept.subnet)) => kept,
        (None, _) => {
            network.v4 = None;
            model::free_pool(store, settings, links)?
        }
    };
    network.v4 = Some(pool);
    model::set_pool4(store, network, pool)
}

/// Chooses the addresses and ports and writes the row.
fn record(
    store: &mut Store,
    settings: &Settings,
    network: &Network,
    wanted: &Endpoint,
) -> Result<(Membership, Vec<OwnedFd>), Error> {
    let others = query(store, |db| bare(db, "network = ?1", &network.id))?;
    let ip4 = choose_address(network, network.v4, wanted.ip, others.iter().filter_map(|o| o.ip4))?;
    let ip6 = choose_address(network, network.v6, wanted.ip6, others.iter().filter_map(|o| o.ip6))?;
    let mac = match (wanted.mac, ip4) {
        (Some(mac), _) => mac,
        (None, Some(IpAddr::V4(v4))) => mac_of(v4),
        (None, _) => {
            let mut mac = [0u8; 6];
            random(&mut mac)?;
            mac[0] = 0x02;
            mac
        }
    };
    let mine = query(store, |db| bare(db, "container = ?1", &wanted.container))?;
    // One more name than there are interfaces: one of them is free.
    let interface = (0..=mine.len())
        .map(|n| format!("eth{n}"))
        .find(|name| !mine.iter().any(|m| m.interface == *name))
        .unwrap_or_default();
    let mut links = Vec::new();
    for link in &wanted.links {
        let target = others
            .iter()
            .find(|o| o.name == link.target || o.container == link.target)
            .or_else(|| others.iter().find(|o| o.container.starts_with(&link.target)))
            .ok_or_else(|| Error::LinkTarget(link.target.clone()))?;
        links.push((link.alias.clone(), target.container.clone()));
    }
    let (ports, held) = choose_ports(store, settings, network, wanted, ip6.is_some())?;
    let member = Membership {
        id: random_id()?,
        network: network.id.clone(),
        container: wanted.container.clone(),
        name: wanted.name.clone(),
        ip4,
        ip6,
        mac: mac_text(mac),
        interface,
        aliases: wanted.aliases.clone(),
        ports,
    };

    let path = store.layout().database();
    let database = |source| crate::store::Error::Database { path: path.clone(), source };
    let tx = store
        .db_mut()
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(database)?;
    (|| {
        tx.execute(
            &format!("INSERT INTO endpoint ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
            params![
                member.id,
                member.network,
                member.container,
                member.name,
                member.ip4.map(|a| a.to_string()),
                member.ip6.map(|a| a.to_string()),
                member.mac,
                member.interface
            ],
        )?;
        for alias in &member.aliases {
            tx.execute("INSERT OR IGNORE INTO endpoint_alias VALUES (?1, ?2)", [&member.id, alias])?;
        }
        for (alias, target) in &links {
            tx.execute(
                "INSERT OR REPLACE INTO endpoint_link VALUES (?1, ?2, ?3)",
                [&member.id, alias, target],
            )?;
        }
        for (position, server) in wanted.upstream.iter().enumerate() {
            tx.execute(
                "INSERT INTO endpoint_upstream VALUES (?1, ?2, ?3)",
                params![member.id, position as i64, server.to_string()],
            )?;
        }
        for port in &member.ports {
            tx.execute(
                "INSERT INTO port VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    member.id,
                    port.host.to_string(),
                    port.host_port,
                    port.protocol.as_str(),
                    port.container_port
                ],
            )?;
        }
        Ok(())
    })()
    .map_err(database)?;
    tx.commit().map_err(database)?;
    Ok((member, held))
}

fn choose_address(
    network: &Network,
    pool: Option<Pool>,
    wanted: Option<IpAddr>,
    taken: impl Iterator<Item = IpAddr>,
) -> Result<Option<IpAddr>, Error> {
    let Some(pool) = pool else {
        return match wanted {
            Some(address) => Err(Error::AddressOutside(address)),
            None => Ok(None),
        };
    };
    let mut taken: Vec<u128> = taken.map(number).chain([number(pool.gateway)]).collect();
    taken.sort_unstable();
    match wanted {
        Some(address) if !pool.subnet.is_host(address) => Err(Error::AddressOutside(address)),
        Some(address) if taken.binary_search(&number(address)).is_ok() => Err(Error::AddressInUse(address)),
        Some(address) => Ok(Some(address)),
        None => pool.subnet.lowest_free(&pool.range, &taken).map(Some).ok_or_else(|| Error::Exhausted {
            version: if pool.subnet.is_ipv4() { 4 } else { 6 },
            network: network.name.clone(),
            id: network.id.clone(),
        }),
    }
}

/// Gets a host port for each specification, and holds it.
fn choose_ports(
    store: &Store,
    settings: &Settings,
    network: &Network,
    wanted: &Endpoint,
    v6: bool,
) -> Result<(Vec<Published>, Vec<OwnedFd>), Error> {
    let mut published: Vec<Published> = Vec::new();
    let mut held = Vec::new();
    if network.internal || network.driver != Driver::Bridge || wanted.ports.is_empty() {
        return Ok((published, held));
    }
    let rows = query(store, |db| {
        db.prepare_cached("SELECT protocol, host, host_port FROM port")?
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
            .collect::<rusqlite::Result<Vec<(String, String, u16)>>>()
    })?;
    let taken: Vec<(Protocol, IpAddr, u16)> = rows
        .into_iter()
        .filter_map(|(protocol, host, port)| Some((protocol.parse().ok()?, host.parse().ok()?, port)))
        .collect();
    for spec in &wanted.ports {
        let addresses = port::host_addresses(spec, network.binding(settings), v6);
        if let Some(address) = addresses.iter().find(|a| a.is_ipv6() && !v6) {
            return Err(Error::NoIpv6(*address, network.name.clone()));
        }
        // Port 0 lets the kernel choose; a few tries find one that is free on every address.
        let candidates = spec.ports.map_or_else(|| vec![0; 16], |(first, last)| (first..=last).collect());
        let mut refused = None;
        let got = candidates.into_iter().find_map(|candidate| {
            let mut sockets = Vec::new();
            let mut port = candidate;
            for &address in &addresses {
                let allocated = |p: u16| {
                    taken.iter().any(|&(protocol, host, taken)| {
                        protocol == spec.protocol && taken == p && port::conflict(host, address)
                    })
                };
                if port != 0 && allocated(port) {
                    refused = Some(Error::PortAllocated { container: wanted.name.clone(), address, port });
                    return None;
                }
                match port::hold(spec.protocol, address, port) {
                    Ok((socket, got)) => {
                        sockets.push(socket);
                        port = got;
                    }
                    Err(source) => {
                        refused = Some(Error::PortBind {
                            container: wanted.name.clone(),
                            protocol: spec.protocol,
                            address,
                            port,
                            source,
                        });
                        return None;
                    }
                }
            }
            Some((port, sockets))
        });
        match (got, refused) {
            (Some((port, sockets)), _) => {
                held.extend(sockets);
                published.extend(addresses.iter().map(|&host| Published {
                    container_port: spec.container_port,
                    protocol: spec.protocol,
                    host,
                    host_port: port,
                }));
            }
            (None, Some(error)) => return Err(error),
            // A range is never empty.
            (None, None) => {}
        }
    }
    published.sort();
    Ok((published, held))
}

/// Makes what an endpoint shares with others: bridge and rules, or the macvlan's parent. Returns its index.
fn prepare(
    store: &Store,
    settings: &Settings,
    links: &mut Links,
    network: &Network,
    member: &Membership,
) -> Result<u32, Error> {
    if network.driver == Driver::Macvlan {
        let parent = network.parent().unwrap_or_default();
        return links.index(parent)?.ok_or_else(|| Error::NoParent(parent.to_owned()));
    }
    let name = network.bridge_name(settings);
    let bridge = ensure_bridge(network, settings, links)?;
    ensure_sysctls(network, &name, &member.ports)?;
    // The rules come first: there is no instant at which the container is reachable without them.
    let mut elements = own_elements(member, &name);
    elements.bridge(&network.rules(settings));
    if !rules::update(&settings.table, &elements, &Elements::default())? {
        replace_table(store, settings, &[])?;
    }
    Ok(bridge)
}

/// What a member's port of the bridge may do.
fn set_port(
    settings: &Settings,
    network: &Network,
    member: &Membership,
    links: &mut Links,
) -> Result<(), Error> {
    // With br_netfilter a container's packet to its own published port never leaves the bridge, and must go back by
    // the way it came.
    let hairpin = !member.ports.is_empty();
    let icc = network.icc(settings);
    if hairpin || !icc {
        links.set_port(&member.veth(), !icc, hairpin)?;
    }
    Ok(())
}

/// Makes what an endpoint has for itself: its link, addresses and routes.
fn connect(
    settings: &Settings,
    links: &mut Links,
    network: &Network,
    member: &Membership,
    shared: u32,
    netns: BorrowedFd<'_>,
) -> Result<(), Error> {
    let mac = parse_mac(&member.mac).ok_or_else(|| Error::Mac(member.mac.clone()))?;
    if network.driver == Driver::Macvlan {
        links.add_macvlan(shared, network.macvlan_mode(), netns, &member.interface, mac)?;
    } else {
        let host = member.veth();
        links.add_veth(&Veth {
            host: &host,
            bridge: shared,
            group: settings.group,
            mtu: network.mtu(settings),
            netns,
            peer: &member.interface,
            mac,
        })?;
        set_port(settings, network, member, links)?;
    }

    let mut container = inside(netns, || {
        if member.ip6.is_none() {
            // No link-local address either: Docker's containers without IPv6 have none. A kernel
            // without IPv6 has no such file and nothing to disable.
            match sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", member.interface), "1") {
                Err(Error::Kernel { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Links::open()
    })?;
    container.up("lo", LOOPBACK)?;
    let index = container.index(&member.interface)?.ok_or_else(|| Error::Kernel {
        call: "RTM_GETLINK",
        on: member.interface.clone(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    container.up(&member.interface, index)?;
    if network.driver == Driver::Bridge {
        container.await_carrier(&member.interface)?;
        links.await_carrier(&member.veth())?;
        // The first port gives the bridge itself a carrier.
        links.await_carrier(&network.bridge_name(settings))?;
    }
    for (address, pool) in [(member.ip4, network.v4), (member.ip6, network.v6)] {
        if let (Some(address), Some(pool)) = (address, pool) {
            container.add_address(&member.interface, index, address, pool.subnet.prefix())?;
        }
    }
    default_routes(&mut container, network, index)
}

fn default_routes(container: &mut Links, network: &Network, index: u32) -> Result<(), Error> {
    if !network.internal {
        for pool in [network.v4, network.v6].into_iter().flatten() {
            // The first network with a way out keeps the default route.
            container.add_default_route(pool.gateway, index)?;
        }
    }
    Ok(())
}

/// Parses `02:42:ac:11:00:02`.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0u8; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Ends the UDP conversations of containers whose rules are gone; before their addresses are given away.
fn forget(gone: &[Membership]) -> Result<(), Error> {
    for member in gone {
        let addresses: Vec<IpAddr> = [member.ip4, member.ip6].into_iter().flatten().collect();
        conntrack::forget_container(&member.ports, &addresses)?;
    }
    Ok(())
}

/// Takes endpoints off the host, then out of the database.
fn release(store: &Store, settings: &Settings, gone: &[Membership]) -> Result<(), Error> {
    if gone.is_empty() {
        return Ok(());
    }
    let networks = model::list(store)?;
    let stay: Vec<Membership> =
        everyone(store)?.into_iter().filter(|m| !gone.iter().any(|g| g.id == m.id)).collect();
    let bridge_of =
        |m: &Membership| networks.iter().find(|n| n.id == m.network && n.driver == Driver::Bridge);

    if stay.iter().any(|m| bridge_of(m).is_some()) {
        let mut elements = Elements::default();
        let mut emptied = BTreeSet::new();
        for member in gone {
            let Some(network) = bridge_of(member) else { continue };
            elements.append(own_elements(member, &network.bridge_name(settings)));
            if !stay.iter().any(|s| s.network == network.id) && emptied.insert(&network.id) {
                elements.bridge(&network.rules(settings));
            }
        }
        if !rules::update(&settings.table, &Elements::default(), &elements)? {
            replace_table(store, settings, gone)?;
        }
    } else {
        rules::remove(&settings.table)?;
    }

    let mut links = Links::open()?;
    for member in gone.iter().filter(|m| bridge_of(m).is_some()) {
        links.remove(&member.veth())?;
    }
    // The default bridge goes with its last container. The bridges that users made go with their networks.
    if let Some(default) = networks.iter().find(|n| n.name == DEFAULT)
        && gone.iter().any(|g| g.network == default.id)
        && !stay.iter().any(|s| s.network == default.id)
    {
        caretaker::remove_default_bridge(store, settings, &mut links)?;
    }
    forget(gone)?;
    for member in gone {
        query(store, |db| db.execute("DELETE FROM endpoint WHERE id = ?1", [&member.id]))?;
    }
    for network in networks.iter().filter(|n| n.resolves_names()) {
        if gone.iter().any(|g| g.network == network.id) && !stay.iter().any(|s| s.network == network.id) {
            resolver::stop(store.layout(), network)?;
        }
    }
    Ok(())
}

/// What a container has left.
#[derive(Debug, Default)]
pub struct Left {
    /// The networks it was on.
    pub networks: Vec<Network>,
    /// Nobody needs the table or the default bridge any more; a caretaker should see to them ([`caretaker`]).
    pub idle: bool,
}

/// Takes an ended container off its networks, the cheap way: its addresses, ports and rules are free when this
/// returns, its link is out of the bridge and goes with its namespace.
pub fn leave(store: &mut Store, container: &str) -> Result<Left, Error> {
    if query(store, |db| bare(db, "container = ?1", container))?.is_empty() {
        return Ok(Left::default());
    }
    let settings = Settings::load(store.layout())?;
    let _lock = HostLock::take()?;
    let gone = memberships(store, container)?;
    let networks = model::list(store)?;
    let stay = query(store, |db| bare(db, "container <> ?1", container))?;
    let emptied = |network: &Network| {
        gone.iter().any(|g| g.network == network.id) && !stay.iter().any(|s| s.network == network.id)
    };
    let mut elements = Elements::default();
    let mut seen = BTreeSet::new();
    let mut links = Links::open()?;
    for member in &gone {
        let is_its = |n: &&Network| n.id == member.network && n.driver == Driver::Bridge;
        let Some(network) = networks.iter().find(is_its) else { continue };
        elements.append(own_elements(member, &network.bridge_name(&settings)));
        if emptied(network) && seen.insert(&network.id) {
            elements.bridge(&network.rules(&settings));
        }
        links.leave(&member.veth())?;
    }
    if !rules::update(&settings.table, &Elements::default(), &elements)? {
        replace_table(store, &settings, &gone)?;
    }
    forget(&gone)?;
    query(store, |db| db.execute("DELETE FROM endpoint WHERE container = ?1", [container]))?;
    for network in networks.iter().filter(|n| n.resolves_names() && emptied(n)) {
        resolver::stop(store.layout(), network)?;
    }
    let idle = caretaker::idle(store)?;
    let idle = !elements.is_empty()
        && (idle.table || (idle.bridge && networks.iter().any(|n| n.name == DEFAULT && emptied(n))));
    let networks = gone.iter().filter_map(|g| networks.iter().find(|n| n.id == g.network)).cloned().collect();
    Ok(Left { networks, idle })
}

/// Takes a container off a network, or off all. What is not there is not missed. For a container that goes
/// on running, its namespace must be given, so that its remaining networks take over the default route.
pub fn detach(
    store: &mut Store,
    container: &str,
    network: Option<&str>,
    netns: Option<BorrowedFd<'_>>,
) -> Result<Vec<Membership>, Error> {
    let mut gone = memberships(store, container)?;
    if gone.is_empty() && network.is_none() {
        return Ok(gone);
    }
    let settings = Settings::load(store.layout())?;
    let lock = HostLock::take()?;
    gone = memberships(store, container)?;
    if let Some(wanted) = network {
        let network = model::find(store, wanted)?;
        gone.retain(|m| m.network == network.id);
        // A macvlan lives in the container alone.
        if let (Driver::Macvlan, Some(netns), [member]) = (network.driver, netns, gone.as_slice()) {
            inside(netns, Links::open)?.remove(&member.interface)?;
        }
    }
    release(store, &settings, &gone)?;
    drop(lock);
    if let Some(netns) = netns {
        reroute(store, container, netns)?;
    }
    Ok(gone)
}

/// Gives a running container the default route of one of its networks, if it has lost its own.
pub fn reroute(store: &Store, container: &str, netns: BorrowedFd<'_>) -> Result<(), Error> {
    let remaining = memberships(store, container)?;
    if remaining.is_empty() {
        return Ok(());
    }
    let mut links = inside(netns, Links::open)?;
    for member in remaining {
        let network = model::find(store, &member.network)?;
        if let Some(index) = links.index(&member.interface)? {
            default_routes(&mut links, &network, index)?;
        }
    }
    Ok(())
}

/// Releases what belongs to containers that do not live. Cheap when there are none.
pub fn sweep(store: &mut Store, lives: impl Fn(&str) -> bool) -> Result<usize, Error> {
    let owners = query(store, |db| {
        db.prepare_cached("SELECT DISTINCT container FROM endpoint")?
            .query_map([], |row| row.get::<_, String>(0))?
            .collect::<rusqlite::Result<Vec<String>>>()
    })?;
    if owners.iter().all(|container| lives(container)) {
        caretaker::recover(store)?;
        return Ok(0);
    }
    let settings = Settings::load(store.layout())?;
    let _lock = HostLock::take()?;
    let gone: Vec<Membership> = everyone(store)?.into_iter().filter(|m| !lives(&m.container)).collect();
    release(store, &settings, &gone)?;
    Ok(gone.len())
}

/// Puts bridges, their addresses and the whole table back as the database has them.
pub fn reload(store: &mut Store) -> Result<(), Error> {
    let settings = Settings::load(store.layout())?;
    let _lock = HostLock::take()?;
    let everyone = everyone(store)?;
    let mut links = Links::open()?;
    for network in model::list(store)?.iter().filter(|n| n.driver == Driver::Bridge) {
        let on_it: Vec<&Membership> = everyone.iter().filter(|m| m.network == network.id).collect();
        if network.name == DEFAULT && on_it.is_empty() {
            continue;
        }
        let name = network.bridge_name(&settings);
        let index = ensure_bridge(network, &settings, &mut links)?;
        address_bridge(network, &name, index, &mut links)?;
        links.up(&name, index)?;
        for member in on_it {
            ensure_sysctls(network, &name, &member.ports)?;
            // A bridge that was deleted has let its ports go.
            if links.join(&member.veth(), index)? {
                set_port(&settings, network, member, &mut links)?;
            }
        }
    }
    replace_table(store, &settings, &[])
}

/// The hosts lines a container's links stand for, as things are now.
pub fn link_entries(store: &Store, endpoint: &str) -> Result<Vec<HostsEntry>, Error> {
    let rows = query(store, |db| {
        let mut statement = db.prepare_cached(
            "SELECT t.ip4, t.ip6, l.alias, t.container, t.name
             FROM endpoint_link l
             JOIN endpoint e ON e.id = l.endpoint
             JOIN endpoint t ON t.container = l.target AND t.network = e.network
             WHERE l.endpoint = ?1 ORDER BY l.alias",
        )?;
        statement
            .query_map([endpoint], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))?
            .collect::<rusqlite::Result<Vec<(Option<String>, Option<String>, String, String, String)>>>()
    })?;
    let mut entries = Vec::new();
    for (ip4, ip6, alias, container, name) in rows {
        for address in [ip4, ip6].into_iter().flatten().filter_map(|a| a.parse().ok()) {
            let mut names: Vec<String> = alias.split_whitespace().map(str::to_owned).collect();
            for more in [container[..12.min(container.len())].to_owned(), name.clone()] {
                if !names.contains(&more) {
                    names.push(more);
                }
            }
            entries.push(HostsEntry { address, names });
        }
    }
    Ok(entries)
}

/// Gives a container another name on all its networks.
pub fn rename(store: &Store, container: &str, name: &str) -> Result<(), Error> {
    query(store, |db| db.execute("UPDATE endpoint SET name = ?2 WHERE container = ?1", [container, name]))?;
    Ok(())
}

/// A container's hosts file; `None` where there is none that is worth its links.
///
/// The container may have written to it: what is longer than any list of names is not read, let alone copied.
fn read_hosts(path: &std::path::Path) -> io::Result<Option<String>> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = match options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut text = Vec::new();
    if !file.metadata()?.is_file() || file.take(HOSTS + 1).read_to_end(&mut text)? as u64 > HOSTS {
        return Ok(None);
    }
    Ok(String::from_utf8(text).ok())
}

/// Rewrites the hosts files of running containers that link to this one.
fn relink(store: &Store, target: &Membership) -> Result<(), Error> {
    let followers = query(store, |db| {
        let mut statement = db.prepare_cached(
            "SELECT e.id, e.container FROM endpoint_link l JOIN endpoint e ON e.id = l.endpoint
             WHERE l.target = ?1 AND e.network = ?2",
        )?;
        statement
            .query_map([&target.container, &target.network], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect::<rusqlite::Result<BTreeSet<(String, String)>>>()
    })?;
    for (endpoint, container) in followers {
        let path = store.layout().etc(&container).join("hosts");
        let fail = |call, source| Error::Kernel { call, on: path.display().to_string(), source };
        let Some(current) = read_hosts(&path).map_err(|source| fail("read", source))? else { continue };
        let text = files::replace_links(&current, &link_entries(store, &endpoint)?);
        if text != current {
            // In place: the container has this inode mounted.
            std::fs::write(&path, text).map_err(|e| fail("write", e))?;
        }
    }
    Ok(())
}
