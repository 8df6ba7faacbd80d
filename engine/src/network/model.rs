//! A network: its row, the checks before it exists, and Docker's JSON for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use rusqlite::{OptionalExtension as _, Row, params};
use serde::Serialize;

use super::link::Links;
use super::rules::Bridge;
use super::subnet::{Subnet, default_pools};
use super::{DEFAULT, Error, HostLock, Settings, endpoint, query, random, random_id};
use crate::events::{Event, Kind};
use crate::store::Store;

/// How a network connects containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A Linux bridge on this host, with NAT to the outside.
    Bridge,
    /// The host's own namespace.
    Host,
    /// Loopback only.
    Null,
    /// Interfaces of their own on the link layer of a host interface.
    Macvlan,
}

impl Driver {
    /// Docker's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
            Self::Macvlan => "macvlan",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Bridge, Self::Host, Self::Null, Self::Macvlan].into_iter().find(|d| d.as_str() == text)
    }
}

/// Addresses of one family, as the user gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpamConfig {
    /// `--subnet`.
    pub subnet: Option<String>,
    /// `--ip-range`.
    pub ip_range: Option<String>,
    /// `--gateway`.
    pub gateway: Option<String>,
}

/// What `network create` is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// `bridge` when empty.
    pub driver: String,
    /// One entry a subnet.
    pub ipam: Vec<IpamConfig>,
    /// No way out and no way in.
    pub internal: bool,
    /// IPv6 addresses too; a private subnet is made up unless one is given.
    pub ipv6: bool,
    /// Shown, without effect on one host.
    pub attachable: bool,
    /// `-o KEY=VALUE`.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One family's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The subnet on the interface.
    pub subnet: Subnet,
    /// The part that is given out automatically.
    pub range: Subnet,
    /// The bridge's own address.
    pub gateway: IpAddr,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How it connects.
    pub driver: Driver,
    /// RFC 3339.
    pub created: String,
    /// No way out and no way in.
    pub internal: bool,
    /// Shown, without effect on one host.
    pub attachable: bool,
    /// The user chose the subnet, so the user may choose addresses.
    pub fixed: bool,
    /// IPv4; `None` for host, none, and a default network nothing has used yet.
    pub v4: Option<Pool>,
    /// IPv6.
    pub v6: Option<Pool>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const NAME: &str = "com.docker.network.bridge.name";
const BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const GATEWAY_MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
const MTU: &str = "com.docker.network.driver.mtu";

impl Network {
    /// An event of this moment, with what Docker tells of a network each time.
    pub fn event(&self, action: &str) -> Event {
        Event::new(Kind::Network, action, &self.id)
            .with("name", &self.name)
            .with("type", self.driver.as_str())
    }

    /// Whether it is one of the three that are always there.
    pub fn is_predefined(&self) -> bool {
        matches!(self.name.as_str(), "bridge" | "host" | "none")
    }

    /// Whether containers find each other by name here.
    pub fn resolves_names(&self) -> bool {
        self.driver == Driver::Bridge && !self.is_predefined()
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.option(name).map_or(default, |value| is_true(value).unwrap_or(default))
    }

    /// The name of its bridge on the host.
    pub(super) fn bridge_name(&self, settings: &Settings) -> String {
        match self.option(NAME) {
            Some(name) => name.to_owned(),
            None if self.name == DEFAULT => settings.bridge.clone(),
            None => format!("br-{}", &self.id[..12]),
        }
    }

    pub(super) fn mtu(&self, settings: &Settings) -> u32 {
        let configured = if self.name == DEFAULT { settings.mtu } else { None };
        self.option(MTU).and_then(|text| text.parse().ok()).or(configured).unwrap_or(1500)
    }

    /// Whether its containers may talk to each other.
    pub(super) fn icc(&self, settings: &Settings) -> bool {
        if self.name == DEFAULT { settings.icc } else { self.flag(ICC, true) }
    }

    /// The host address a port without one is published on.
    pub(super) fn binding(&self, settings: &Settings) -> Option<IpAddr> {
        let own = self.option(BINDING).filter(|_| self.name != DEFAULT).and_then(|text| text.parse().ok());
        own.or(settings.binding).filter(|ip: &IpAddr| !ip.is_unspecified())
    }

    /// The host interface below a macvlan, and its mode.
    pub(super) fn parent(&self) -> Option<&str> {
        self.option("parent")
    }

    pub(super) fn macvlan_mode(&self) -> netlink_packet_route::link::MacVlanMode {
        use netlink_packet_route::link::MacVlanMode;
        match self.option("macvlan_mode") {
            Some("private") => MacVlanMode::Private,
            Some("vepa") => MacVlanMode::Vepa,
            Some("passthru") => MacVlanMode::Passthrough,
            _ => MacVlanMode::Bridge,
        }
    }

    /// What the nftables table needs to know.
    pub(super) fn rules(&self, settings: &Settings) -> Bridge {
        let mode = self.option(GATEWAY_MODE).unwrap_or("nat");
        Bridge {
            name: self.bridge_name(settings),
            masquerade: !self.internal && mode != "routed" && self.flag(MASQUERADE, true),
            internal: self.internal,
            icc: self.icc(settings),
            open: !self.internal && mode == "nat-unprotected",
            trusted: self
                .option(TRUSTED)
                .map(|list| list.split(':').filter(|n| !n.is_empty()).map(str::to_owned).collect())
                .unwrap_or_default(),
        }
    }
}

fn is_true(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A link's name as the kernel takes it.
fn is_link_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 15
        && !matches!(name, "." | "..")
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
}

fn check_options(new: &NewNetwork) -> Result<(), Error> {
    for (option, value) in &new.options {
        let fine = match option.as_str() {
            ICC | MASQUERADE => is_true(value).is_some(),
            NAME => is_link_name(value),
            BINDING => value.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
            GATEWAY_MODE => matches!(value.as_str(), "nat" | "nat-unprotected"),
            TRUSTED => value.split(':').all(is_link_name),
            // IPv4 needs 68 bytes, IPv6 1280; more than 65535 no driver takes.
            MTU => value.parse().is_ok_and(|mtu: u32| (68..=65535).contains(&mtu)),
            "macvlan_mode" => matches!(value.as_str(), "bridge" | "private" | "vepa" | "passthru"),
            // Other drivers' and users' options are kept and shown, as Docker does.
            _ => true,
        };
        if !fine {
            return Err(Error::Option { option: option.clone(), value: value.clone() });
        }
    }
    Ok(())
}

fn is_valid_name(name: &str) -> bool {
    name.len() <= 255
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Makes sure that the three predefined networks have rows.
pub(super) fn ensure_predefined(store: &Store) -> Result<(), Error> {
    let have: u32 = query(store, |db| {
        db.prepare_cached("SELECT count(*) FROM network WHERE name IN ('bridge', 'host', 'none')")?
            .query_row([], |r| r.get(0))
    })?;
    if have == 3 {
        return Ok(());
    }
    let flags = [(DEFAULT_BRIDGE, "true"), (ICC, "true"), (MASQUERADE, "true"), (BINDING, "0.0.0.0")];
    let options: BTreeMap<&str, &str> = flags.into_iter().collect();
    for (name, driver, options) in [
        (DEFAULT, Driver::Bridge, json(&options)),
        ("host", Driver::Host, json(&())),
        ("none", Driver::Null, json(&())),
    ] {
        let options = if options == "null" { "{}".to_owned() } else { options };
        let id = random_id()?;
        query(store, |db| {
            db.execute(
                "INSERT OR IGNORE INTO network (id, name, driver, created, internal, attachable, fixed, options, labels)
                 VALUES (?1, ?2, ?3, ?4, 0, 0, 0, ?5, '{}')",
                params![id, name, driver.as_str(), now(), options],
            )
        })?;
    }
    Ok(())
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("maps of strings serialise")
}

const COLUMNS: &str = "id, name, driver, created, internal, attachable, fixed, \
                       subnet4, range4, gateway4, subnet6, range6, gateway6, options, labels";

fn read(row: &Row<'_>) -> rusqlite::Result<Result<Network, Error>> {
    let id: String = row.get(0)?;
    let corrupt = |column: &'static str, value: String| Error::Corrupt {
        table: "network",
        id: id.clone(),
        column,
        value,
    };
    let pool = |at: usize| -> rusqlite::Result<Result<Option<Pool>, Error>> {
        let Some(subnet) = row.get::<_, Option<String>>(at)? else { return Ok(Ok(None)) };
        let range: String = row.get(at + 1)?;
        let gateway: String = row.get(at + 2)?;
        Ok((|| {
            Ok(Some(Pool {
                subnet: subnet.parse().map_err(|_| corrupt("subnet", subnet.clone()))?,
                range: range.parse().map_err(|_| corrupt("range", range.clone()))?,
                gateway: gateway.parse().map_err(|_| corrupt("gateway", gateway.clone()))?,
            }))
        })())
    };
    let (v4, v6) = (pool(7)?, pool(10)?);
    let driver: String = row.get(2)?;
    let (options, labels): (String, String) = (row.get(13)?, row.get(14)?);
    let (name, created) = (row.get(1)?, row.get(3)?);
    let (internal, attachable, fixed) = (row.get(4)?, row.get(5)?, row.get(6)?);
    Ok((|| {
        Ok(Network {
            driver: Driver::parse(&driver).ok_or_else(|| corrupt("driver", driver.clone()))?,
            options: serde_json::from_str(&options).map_err(|_| corrupt("options", options.clone()))?,
            labels: serde_json::from_str(&labels).map_err(|_| corrupt("labels", labels.clone()))?,
            v4: v4?,
            v6: v6?,
            id: id.clone(),
            name,
            created,
            internal,
            attachable,
            fixed,
        })
    })())
}

/// Every network, by name.
pub fn list(store: &Store) -> Result<Vec<Network>, Error> {
    ensure_predefined(store)?;
    let rows = query(store, |db| {
        let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM network ORDER BY name"))?;
        statement.query_map([], read)?.collect::<rusqlite::Result<Vec<_>>>()
    })?;
    rows.into_iter().collect()
}

/// The network of that name, id or unique id prefix; `default` is the default network.
pub fn find(store: &Store, wanted: &str) -> Result<Network, Error> {
    let wanted = if wanted == "default" { DEFAULT } else { wanted };
    let exact = || {
        query(store, |db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM network WHERE name = ?1 OR id = ?1 ORDER BY name = ?1 DESC"
            ))?
            .query_row([wanted], read)
            .optional()
        })
    };
    if let Some(network) = exact()? {
        return network;
    }
    // Nobody has asked for a network here before, perhaps.
    ensure_predefined(store)?;
    if let Some(network) = exact()? {
        return network;
    }
    if wanted.is_empty() || !wanted.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Error::NotFound(wanted.to_owned()));
    }
    let mut fits = query(store, |db| {
        let mut statement =
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM network WHERE id LIKE ?1 || '%' LIMIT 2"))?;
        statement.query_map([wanted], read)?.collect::<rusqlite::Result<Vec<_>>>()
    })?;
    match (fits.pop(), fits.pop()) {
        (Some(network), None) => network,
        (Some(_), Some(_)) => Err(Error::Ambiguous(wanted.to_owned())),
        (None, _) => Err(Error::NotFound(wanted.to_owned())),
    }
}

/// Turns what the user gave for one family into a pool.
fn pool(config: &IpamConfig, subnet: Subnet) -> Result<Pool, Error> {
    let first = subnet.first_host().ok_or(Error::TooSmall(subnet))?;
    let range = match &config.ip_range {
        None => subnet,
        Some(text) => {
            let range: Subnet = text.parse()?;
            if !subnet.covers(&range) {
                return Err(Error::RangeOutside(range));
            }
            range
        }
    };
    let gateway = match &config.gateway {
        None => first,
        Some(text) => {
            let gateway: IpAddr = text.parse().map_err(|_| Error::Address(text.clone()))?;
            if !subnet.is_host(gateway) {
                return Err(Error::GatewayOutside(gateway));
            }
            gateway
        }
    };
    Ok(Pool { subnet, range, gateway })
}

/// Splits the user's addresses by family.
fn families(new: &NewNetwork) -> Result<(Option<Pool>, Option<Pool>), Error> {
    let (mut v4, mut v6): (Option<Pool>, Option<Pool>) = (None, None);
    for config in &new.ipam {
        let Some(text) = &config.subnet else {
            match config.gateway.as_ref().or(config.ip_range.as_ref()) {
                Some(orphan) => return Err(Error::NoSubnetFor(orphan.clone())),
                None => continue,
            }
        };
        let subnet: Subnet = text.parse()?;
        let slot = if subnet.is_ipv4() { &mut v4 } else { &mut v6 };
        if let Some(other) = slot {
            return Err(Error::Overlap { wanted: subnet, taken: other.subnet });
        }
        *slot = Some(pool(config, subnet)?);
    }
    Ok((v4, v6))
}

/// A subnet of the default pools that neither a network nor a route of the host touches.
pub(super) fn free_pool(store: &Store, settings: &Settings, links: &mut Links) -> Result<Pool, Error> {
    let mut taken = links.subnets()?;
    taken.extend(list(store)?.iter().filter_map(|n| n.v4.map(|p| p.subnet)));
    let free = |subnet: &Subnet| !taken.iter().any(|other| other.overlaps(subnet));
    let subnet = if settings.pools.is_empty() {
        default_pools().find(free)
    } else {
        settings.pools.iter().flat_map(|(base, size)| base.parts(*size)).find(free)
    };
    let subnet = subnet.ok_or(Error::NoPool)?;
    pool(&IpamConfig::default(), subnet)
}

/// A random unique local /64, RFC 4193.
fn private_v6() -> Result<Pool, Error> {
    let mut bytes = [0u8; 16];
    random(&mut bytes[..6])?;
    bytes[0] = 0xfd;
    let subnet = Subnet::of(Ipv6Addr::from(bytes).into(), 64).expect("64 is a prefix length");
    pool(&IpamConfig::default(), subnet)
}

/// Creates a network and, for the bridge driver, its bridge.
pub fn create(store: &mut Store, new: &NewNetwork) -> Result<Network, Error> {
    if !is_valid_name(&new.name) {
        return Err(Error::InvalidName(new.name.clone()));
    }
    let driver = match new.driver.as_str() {
        "" => Driver::Bridge,
        other => Driver::parse(other).ok_or_else(|| Error::UnknownDriver(other.to_owned()))?,
    };
    if matches!(driver, Driver::Host | Driver::Null) {
        return Err(Error::OnlyOne(driver.as_str()));
    }
    check_options(new)?;
    let (mut v4, mut v6) = families(new)?;
    let fixed = v4.is_some() || v6.is_some();
    if new.ipv6 && v6.is_none() {
        v6 = Some(private_v6()?);
    }
    if !new.ipv6 {
        v6 = None;
    }

    let settings = Settings::load(store.layout())?;
    let _lock = HostLock::take()?;
    ensure_predefined(store)?;
    let others = list(store)?;
    if others.iter().any(|n| n.name == new.name) {
        return Err(Error::NameInUse(new.name.clone()));
    }
    let mut links = Links::open()?;
    if v4.is_none() {
        v4 = Some(free_pool(store, &settings, &mut links)?);
    }
    let ours = others.iter().flat_map(|n| [n.v4, n.v6]).flatten().map(|p| p.subnet);
    // A macvlan shares its parent's subnet by design; a bridge may not shadow a route of the host.
    let routes = if driver == Driver::Bridge { links.subnets()? } else { Vec::new() };
    for wanted in [v4, v6].into_iter().flatten().map(|p| p.subnet) {
        if let Some(taken) = ours.clone().chain(routes.iter().copied()).find(|t| t.overlaps(&wanted)) {
            return Err(Error::Overlap { wanted, taken });
        }
    }
    let network = Network {
        id: random_id()?,
        name: new.name.clone(),
        driver,
        created: now(),
        internal: new.internal,
        attachable: new.attachable,
        fixed,
        v4,
        v6,
        options: new.options.clone(),
        labels: new.labels.clone(),
    };
    if driver == Driver::Macvlan {
        let parent = network.parent().unwrap_or_default();
        if !is_link_name(parent) || links.index(parent)?.is_none() {
            return Err(Error::NoParent(parent.to_owned()));
        }
    }
    let bridge = network.bridge_name(&settings);
    if driver == Driver::Bridge
        && (links.index(&bridge)?.is_some() || others.iter().any(|n| n.bridge_name(&settings) == bridge))
    {
        return Err(Error::BridgeNameInUse(bridge));
    }
    insert(store, &network)?;
    if driver == Driver::Bridge
        && let Err(error) = endpoint::ensure_bridge(&network, &settings, &mut links)
    {
        let _ = links.remove(&bridge);
        query(store, |db| db.execute("DELETE FROM network WHERE id = ?1", [&network.id]))?;
        return Err(error);
    }
    network.event("create").tell(store.layout());
    Ok(network)
}

fn insert(store: &Store, network: &Network) -> Result<(), Error> {
    let text = |pool: Option<Pool>| {
        pool.map_or((None, None, None), |p| {
            (Some(p.subnet.to_string()), Some(p.range.to_string()), Some(p.gateway.to_string()))
        })
    };
    let (v4, v6) = (text(network.v4), text(network.v6));
    query(store, |db| {
        db.execute(
            &format!(
                "INSERT INTO network ({COLUMNS}) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)"
            ),
            params![
                network.id,
                network.name,
                network.driver.as_str(),
                network.created,
                network.internal,
                network.attachable,
                network.fixed,
                v4.0,
                v4.1,
                v4.2,
                v6.0,
                v6.1,
                v6.2,
                json(&network.options),
                json(&network.labels)
            ],
        )
    })?;
    Ok(())
}

/// Records the subnet chosen for the default network.
pub(super) fn set_pool4(store: &Store, network: &Network, pool: Pool) -> Result<(), Error> {
    query(store, |db| {
        db.execute(
            "UPDATE network SET subnet4 = ?2, range4 = ?3, gateway4 = ?4 WHERE id = ?1",
            params![network.id, pool.subnet.to_string(), pool.range.to_string(), pool.gateway.to_string()],
        )
    })?;
    Ok(())
}

/// The default network's pool as the operator set it, if so.
pub(super) fn configured_pool(settings: &Settings, links: &mut Links) -> Result<Option<Pool>, Error> {
    let asked = if settings.foreign_bridge {
        let index = links.index(&settings.bridge)?;
        let address = index.map(|index| links.address_of(index)).transpose()?.flatten();
        Some(address.ok_or_else(|| Error::NoBridge(settings.bridge.clone()))?)
    } else {
        settings.bip
    };
    let Some((gateway, prefix)) = asked else { return Ok(None) };
    let subnet = Subnet::of(gateway, prefix).ok_or_else(|| Error::Address(gateway.to_string()))?;
    let config = IpamConfig {
        subnet: None,
        ip_range: settings.fixed_cidr.map(|range| range.to_string()),
        gateway: Some(gateway.to_string()),
    };
    pool(&config, subnet).map(Some)
}

/// Removes a network nothing uses, and its bridge.
pub fn remove(store: &mut Store, wanted: &str) -> Result<Network, Error> {
    let settings = Settings::load(store.layout())?;
    let _lock = HostLock::take()?;
    let network = find(store, wanted)?;
    if network.is_predefined() {
        return Err(Error::Predefined(network.name, "removed"));
    }
    if used(store, &network)? {
        return Err(Error::ActiveEndpoints { name: network.name, id: network.id });
    }
    take_down(store, &settings, &network)?;
    Ok(network)
}

fn used(store: &Store, network: &Network) -> Result<bool, Error> {
    query(store, |db| {
        db.query_row("SELECT EXISTS (SELECT 1 FROM endpoint WHERE network = ?1)", [&network.id], |r| r.get(0))
    })
}

fn take_down(store: &Store, settings: &Settings, network: &Network) -> Result<(), Error> {
    if network.driver == Driver::Bridge {
        Links::open()?.remove(&network.bridge_name(settings))?;
    }
    query(store, |db| db.execute("DELETE FROM network WHERE id = ?1", [&network.id]))?;
    network.event("destroy").tell(store.layout());
    Ok(())
}

/// Removes every network of the user's that nothing uses, for which `keep` is not true.
pub fn prune(store: &mut Store, mut keep: impl FnMut(&Network) -> bool) -> Result<Vec<Network>, Error> {
    let settings = Settings::load(store.layout())?;
    let _lock = HostLock::take()?;
    let mut removed = Vec::new();
    for network in list(store)? {
        if !network.is_predefined() && !keep(&network) && !used(store, &network)? {
            take_down(store, &settings, &network)?;
            removed.push(network);
        }
    }
    Ok(removed)
}

/// `network inspect`, Docker's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "Docker's field names, documented by Docker")]
pub struct NetworkView {
    pub name: String,
    pub id: String,
    pub created: String,
    pub scope: String,
    pub driver: String,
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: IpamView,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_from: BTreeMap<String, String>,
    pub config_only: bool,
    pub containers: BTreeMap<String, MemberView>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// The addresses of a network in Docker's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "Docker's field names, documented by Docker")]
pub struct IpamView {
    pub driver: String,
    pub options: Option<BTreeMap<String, String>>,
    pub config: Vec<BTreeMap<String, String>>,
}

/// A container on a network in Docker's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "Docker's field names, documented by Docker")]
pub struct MemberView {
    pub name: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub mac_address: String,
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}

/// What `network inspect` shows of a network.
pub fn inspect(store: &Store, network: &Network) -> Result<NetworkView, Error> {
    let settings = Settings::load(store.layout())?;
    let mut options = network.options.clone();
    if network.name == DEFAULT {
        options.insert(NAME.into(), network.bridge_name(&settings));
        options.insert(MTU.into(), network.mtu(&settings).to_string());
        options.insert(ICC.into(), network.icc(&settings).to_string());
        if let Some(binding) = network.binding(&settings) {
            options.insert(BINDING.into(), binding.to_string());
        }
    }
    let config = [network.v4, network.v6]
        .into_iter()
        .flatten()
        .map(|pool| {
            let mut config = BTreeMap::from([
                ("Subnet".to_owned(), pool.subnet.to_string()),
                ("Gateway".to_owned(), pool.gateway.to_string()),
            ]);
            if pool.range != pool.subnet {
                config.insert("IPRange".to_owned(), pool.range.to_string());
            }
            config
        })
        .collect();
    let containers = endpoint::members(store, &network.id)?
        .into_iter()
        .map(|m| {
            let cidr = |address: Option<IpAddr>, pool: Option<Pool>| match (address, pool) {
                (Some(address), Some(pool)) => format!("{address}/{}", pool.subnet.prefix()),
                _ => String::new(),
            };
            let view = MemberView {
                name: m.name.clone(),
                endpoint_id: m.id.clone(),
                mac_address: m.mac.clone(),
                ipv4_address: cidr(m.ip4, network.v4),
                ipv6_address: cidr(m.ip6, network.v6),
            };
            (m.container, view)
        })
        .collect();
    Ok(NetworkView {
        name: network.name.clone(),
        id: network.id.clone(),
        created: network.created.clone(),
        scope: "local".into(),
        driver: network.driver.as_str().into(),
        enable_ipv4: network.v4.is_some() || network.name == DEFAULT,
        enable_ipv6: network.v6.is_some(),
        ipam: IpamView { driver: "default".into(), options: None, config },
        internal: network.internal,
        attachable: network.attachable,
        ingress: false,
        config_from: BTreeMap::from([("Network".to_owned(), String::new())]),
        config_only: false,
        containers,
        options,
        labels: network.labels.clone(),
    })
}
