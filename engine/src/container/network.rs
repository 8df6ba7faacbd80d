//! A container's networks: joined by its monitor between process 1's birth and its exec, left at its end.
//!
//! The namespace exists from the birth on and nothing of the container's runs in it before the exec, so
//! that a program finds its addresses, routes and names complete. The monitor keeps the sockets that
//! hold the host's ports.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;

use super::freeze::Signals;
use super::lock::Lock;
use super::record::Container;
use super::{Error, IoContext as _, record};
use crate::config::{Config, EndpointSettings, HostConfig, NetworkSettings, NetworkingConfig};
use crate::network::{self, Attached, Driver, Endpoint, Link, Membership, Network};
use crate::operator::Defaults;
use crate::runtime;
use crate::store::{Layout, Store};

/// The name of the network that a mode means; `None` when the container gets no network from us.
fn network_of(mode: &str) -> Option<&str> {
    match mode {
        "host" | "none" => None,
        "" | "default" => Some(network::DEFAULT),
        other if other.starts_with("container:") => None,
        other => Some(other),
    }
}

/// The networks a container asks for, with what it asks of each; the one its mode names is first.
pub fn wanted(container: &Container) -> Vec<(String, EndpointSettings)> {
    let host = &container.record.host_config;
    let Some(first) = network_of(&host.network_mode) else { return Vec::new() };
    let asked = &container.record.networking.endpoints_config;
    let mut all = vec![(first.to_owned(), EndpointSettings::default())];
    for (name, settings) in asked {
        let name = network_of(name).unwrap_or(name);
        if name == first {
            all[0].1 = settings.clone();
        } else {
            all.push((name.to_owned(), settings.clone()));
        }
    }
    all
}

/// Refuses at creation what could only fail at the start.
pub fn check(store: &Store, host: &HostConfig, asked: &NetworkingConfig) -> Result<(), Error> {
    let Some(first) = network_of(&host.network_mode) else { return Ok(()) };
    network::find(store, first)?;
    for (name, settings) in &asked.endpoints_config {
        let network = network::find(store, network_of(name).unwrap_or(name))?;
        network::may_join(&network, &wish(settings)?)?;
    }
    network::port_specs(&Config::default(), host).map_err(network::Error::from)?;
    network::add_host_entries(
        host.extra_hosts.as_deref().unwrap_or_default(),
        Some(Ipv4Addr::LOCALHOST.into()),
    )?;
    network::resolv_conf("", &host.dns, &host.dns_search, &host.dns_options, None)?;
    Ok(())
}

fn address(text: &str) -> Result<Option<IpAddr>, Error> {
    match text {
        "" => Ok(None),
        text => Ok(Some(text.parse().map_err(|_| network::Error::Address(text.to_owned()))?)),
    }
}

/// Name servers, search domains and options: the container's, or the operator's where it has none.
fn resolution(layout: &Layout, host: &HostConfig) -> Result<[Vec<String>; 3], Error> {
    let own = [&host.dns, &host.dns_search, &host.dns_options];
    if own.iter().all(|list| !list.is_empty()) {
        return Ok(own.map(Clone::clone));
    }
    let operator = Defaults::load(layout)?;
    let or = |own: &Vec<String>, otherwise: Vec<String>| if own.is_empty() { otherwise } else { own.clone() };
    Ok([
        or(&host.dns, operator.dns),
        or(&host.dns_search, operator.dns_search),
        or(&host.dns_options, operator.dns_opts),
    ])
}

/// What is asked of an endpoint, whosever it is.
fn wish(settings: &EndpointSettings) -> Result<Endpoint, Error> {
    let mac = match settings.mac_address.as_str() {
        "" => None,
        text => Some(network::parse_mac(text).ok_or_else(|| network::Error::Mac(text.to_owned()))?),
    };
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    Ok(Endpoint {
        aliases: settings.aliases.clone().unwrap_or_default(),
        ip: address(&ipam.ipv4_address)?,
        ip6: address(&ipam.ipv6_address)?,
        mac,
        links: settings.links.iter().flatten().map(|text| Link::parse(text)).collect::<Result<_, _>>()?,
        ..Endpoint::default()
    })
}

/// What the network module is asked for on behalf of a container.
pub fn endpoint(
    layout: &Layout,
    container: &Container,
    name: &str,
    settings: &EndpointSettings,
) -> Result<Endpoint, Error> {
    let [servers, ..] = resolution(layout, &container.record.host_config)?;
    let upstream = servers
        .iter()
        .map(|text| text.parse().map_err(|_| network::Error::Address(text.clone())))
        .collect::<Result<_, _>>()?;
    Ok(Endpoint {
        container: container.id.clone(),
        name: container.name.clone(),
        network: name.to_owned(),
        upstream,
        ..wish(settings)?
    })
}

/// Puts a new process 1 on its container's networks. The sockets hold the host's ports.
pub(crate) fn join(store: &mut Store, container: &Container, pid: i32) -> Result<Vec<OwnedFd>, Error> {
    let all = wanted(container);
    if all.is_empty() {
        return Ok(Vec::new());
    }
    // What an earlier run left, if its monitor was killed.
    network::detach(store, &container.id, None, None)?;
    let path = format!("/proc/{pid}/ns/net");
    let netns = File::open(&path).at("open", Path::new(&path))?;
    let joined = (|| {
        let host = &container.record.host_config;
        let mut held = Vec::new();
        for (position, (name, settings)) in all.iter().enumerate() {
            let mut endpoint = endpoint(store.layout(), container, name, settings)?;
            if position == 0 {
                endpoint.ports =
                    network::port_specs(&container.record.config, host).map_err(network::Error::from)?;
                for link in host.links.iter().flatten() {
                    let mut link = Link::parse(link)?;
                    // A name or prefix means the container it means now.
                    link.target = linked(store, &link.target, name)?;
                    endpoint.links.push(link);
                }
            }
            held.extend(connect(store, &endpoint, &netns)?.held);
        }
        write_files(store, container)?;
        Ok(held)
    })();
    if joined.is_err() {
        let _ = network::detach(store, &container.id, None, None);
    }
    joined
}

/// The id of a container that another is to be linked to on a network.
fn linked(store: &Store, target: &str, network: &str) -> Result<String, Error> {
    let target = record::find(store, target)?;
    let network = network::find(store, network)?;
    if target.state.status.is_alive() && !is_on(store, &target, &network)? {
        let network = if network.name == network::DEFAULT { "default".to_owned() } else { network.name };
        return Err(network::Error::LinkElsewhere { target: target.name, network }.into());
    }
    Ok(target.id)
}

/// Attaches one endpoint and sees to the network's resolver.
pub fn connect(store: &mut Store, endpoint: &Endpoint, netns: &File) -> Result<Attached, Error> {
    let attached = network::attach(store, endpoint, netns.as_fd())?;
    if attached.resolver.is_some()
        && let Err(error) = start_resolver(store, &attached.network)
    {
        let _ = network::detach(store, &endpoint.container, Some(&attached.network.id), None);
        return Err(error);
    }
    told(store.layout(), "connect", &attached.network, &endpoint.container);
    Ok(attached)
}

/// Runs `act` with a command that executes this very program with this store, up to the verb.
fn with_self(
    store: &Store,
    verb: &str,
    act: impl FnOnce(Command) -> Result<(), network::Error>,
) -> Result<(), Error> {
    let exe = runtime::protected_self()?;
    let mut program = Command::new(format!("/proc/self/fd/{}", exe.as_raw_fd()));
    let Layout { root, run_root } = store.layout();
    program.arg("--root").arg(root).arg("--run-root").arg(run_root).arg(verb);
    Ok(act(program)?)
}

fn start_resolver(store: &Store, network: &network::Network) -> Result<(), Error> {
    with_self(store, "resolver", |program| network::start_resolver(store, network, program))
}

/// A step of a build is nobody's container: what it does to networks is not told.
fn told(layout: &Layout, action: &str, network: &network::Network, container: &str) {
    if super::step::is_one(layout, container) {
        return;
    }
    network.event(action).with("container", container).tell(layout);
}

/// Takes an ended container off its networks, of which [`tell_left`] is to be told.
pub(crate) fn leave(store: &mut Store, container: &Container) -> Result<Vec<Network>, Error> {
    let left = network::leave(store, &container.id)?;
    if left.idle && with_self(store, "caretaker", |program| network::start_caretaker(store, program)).is_err()
    {
        // No process to be had: what it would do a moment from now is done here.
        network::tidy(store)?;
    }
    Ok(left.networks)
}

/// `disconnect`, which comes after the container's end, as Docker's does.
pub(crate) fn tell_left(layout: &Layout, container: &Container, networks: &[Network]) {
    for network in networks {
        told(layout, "disconnect", network, &container.id);
    }
}

/// Puts back what somebody has flushed or ended: bridges, addresses, rules, resolvers.
pub fn reload(store: &mut Store) -> Result<(), Error> {
    network::reload(store)?;
    for network in network::list(store)? {
        if !network::members(store, &network.id)?.is_empty() {
            start_resolver(store, &network)?;
        }
    }
    Ok(())
}

/// Releases what containers hold whose monitors are gone. Those that are known to be `owned` are not asked again.
pub(super) fn sweep(store: &mut Store, owned: &HashSet<&str>) -> Result<(), Error> {
    let layout = store.layout().clone();
    network::sweep(store, |id| owned.contains(id) || Lock::is_held(&layout, id))?;
    Ok(())
}

/// Writes the hosts file and resolv.conf for the networks a container is on now, in place.
pub fn write_files(store: &Store, container: &Container) -> Result<(), Error> {
    let (config, host) = (&container.record.config, &container.record.host_config);
    let on = network::memberships(store, &container.id)?;
    let mut own = Vec::new();
    let mut gateway = None;
    let mut resolver = None;
    let mut links = Vec::new();
    for member in &on {
        let network = network::find(store, &member.network)?;
        own.extend(member.ip4.into_iter().chain(member.ip6));
        gateway = gateway.or(network.v4.map(|pool| pool.gateway));
        resolver = resolver.or(network::resolver_address(&network));
        links.extend(network::links(store, &member.id)?);
    }
    let extra = network::add_host_entries(host.extra_hosts.as_deref().unwrap_or_default(), gateway)?;
    let hosts = network::hosts(&config.hostname, &config.domainname, &own, true, &extra, &links);
    let of_host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let [servers, search, options] = resolution(store.layout(), host)?;
    let (resolv, _) = network::resolv_conf(&of_host, &servers, &search, &options, resolver)?;
    let dir = store.layout().etc(&container.id);
    for (file, text) in [("hosts", hosts), ("resolv.conf", resolv.text())] {
        let path = dir.join(file);
        // In place: a running container has this inode mounted.
        fs::write(&path, text).at("write", &path)?;
    }
    Ok(())
}

/// What `inspect` shows of a container's networks.
pub fn settings(store: &Store, container: &Container) -> Result<NetworkSettings, Error> {
    let on = network::memberships(store, &container.id)?;
    let networks = on.iter().map(|member| Ok(network::find(store, &member.network)?));
    let networks = networks.collect::<Result<Vec<_>, Error>>()?;
    Ok(shown(container, on.iter().zip(&networks)))
}

/// The networks of all containers, for a list of many: read at once, not one container after the other.
#[derive(Debug)]
pub struct Everyone {
    networks: HashMap<String, Network>,
    members: HashMap<String, Vec<Membership>>,
}

impl Everyone {
    /// As they are now.
    pub fn read(store: &Store) -> Result<Self, Error> {
        let mut members: HashMap<String, Vec<Membership>> = HashMap::new();
        for member in network::everyone(store)? {
            members.entry(member.container.clone()).or_default().push(member);
        }
        let networks = if members.is_empty() { Vec::new() } else { network::list(store)? };
        let networks = networks.into_iter().map(|network| (network.id.clone(), network)).collect();
        Ok(Self { networks, members })
    }

    /// The part of it that a line of a list has: the names of its networks, and its ports, each with where on the host
    /// it is to be had (`address:port`).
    pub fn brief<'a>(
        &'a self,
        container: &'a Container,
    ) -> (BTreeSet<&'a str>, BTreeMap<String, Vec<String>>) {
        let asked = container.record.networking.endpoints_config.keys();
        let first = network_of(&container.record.host_config.network_mode);
        let mut names: BTreeSet<&str> = match first {
            Some(first) => asked.map(|name| network_of(name).unwrap_or(name)).chain([first]).collect(),
            None => BTreeSet::new(),
        };
        let mut ports: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let on = self.members.get(&container.id);
        for member in on.into_iter().flatten() {
            let Some(network) = self.networks.get(&member.network) else { continue };
            names.insert(&network.name);
            for port in &member.ports {
                let on_host = SocketAddr::new(port.host, port.host_port).to_string();
                ports.entry(format!("{}/{}", port.container_port, port.protocol)).or_default().push(on_host);
            }
        }
        if on.is_some() {
            for port in exposed(container) {
                ports.entry(port.clone()).or_default();
            }
        }
        (names, ports)
    }

    /// What [`settings`] says of one of them.
    pub fn settings(&self, container: &Container) -> NetworkSettings {
        let on = self.members.get(&container.id).into_iter().flatten();
        shown(container, on.filter_map(|member| Some((member, self.networks.get(&member.network)?))))
    }
}

/// The ports that a container says it listens on: to be had only on the networks that it is on, while it runs.
fn exposed(container: &Container) -> impl Iterator<Item = &String> {
    let runs = container.state.status.is_alive();
    container.record.config.exposed_ports.iter().filter(move |_| runs).flat_map(|ports| ports.keys())
}

fn shown<'a>(
    container: &Container,
    on: impl Iterator<Item = (&'a Membership, &'a Network)>,
) -> NetworkSettings {
    let mut shown = NetworkSettings::default();
    shown.networks.extend(wanted(container));
    let mut on = on.peekable();
    let is_on_one = on.peek().is_some();
    for (member, network) in on {
        let entry = shown.networks.entry(network.name.clone()).or_default();
        entry.network_id.clone_from(&network.id);
        entry.endpoint_id.clone_from(&member.id);
        entry.mac_address.clone_from(&member.mac);
        if let (Some(address), Some(pool)) = (member.ip4, network.v4) {
            entry.ip_address = address.to_string();
            entry.ip_prefix_len = pool.subnet.prefix();
            entry.gateway = if network.internal { String::new() } else { pool.gateway.to_string() };
        }
        if let (Some(address), Some(pool)) = (member.ip6, network.v6) {
            entry.global_ipv6_address = address.to_string();
            entry.global_ipv6_prefix_len = pool.subnet.prefix();
            entry.ipv6_gateway = if network.internal { String::new() } else { pool.gateway.to_string() };
        }
        if network.resolves_names() {
            let mut names = vec![member.name.clone()];
            names.extend(member.aliases.iter().cloned());
            names.push(container.short_id().to_owned());
            entry.dns_names = Some(names);
        }
        for port in &member.ports {
            let key = format!("{}/{}", port.container_port, port.protocol);
            shown.ports.entry(key).or_default().get_or_insert_default().push(crate::config::PortBinding {
                host_ip: port.host.to_string(),
                host_port: port.host_port.to_string(),
            });
        }
        if network.name == network::DEFAULT {
            // Docker repeats the default network's fields at the top.
            shown.ip_address.clone_from(&entry.ip_address);
            shown.ip_prefix_len = entry.ip_prefix_len;
            shown.gateway.clone_from(&entry.gateway);
            shown.mac_address.clone_from(&entry.mac_address);
            shown.endpoint_id.clone_from(&entry.endpoint_id);
        }
    }
    if is_on_one {
        for port in exposed(container) {
            shown.ports.entry(port.clone()).or_default();
        }
    }
    shown
}

/// The network namespace of a running container.
pub fn netns(container: &Container) -> Result<Option<File>, Error> {
    if !container.state.status.is_alive() || container.state.pid <= 0 {
        return Ok(None);
    }
    let path = format!("/proc/{}/ns/net", container.state.pid);
    match File::open(&path) {
        // It has ended since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).at("open", Path::new(&path)),
    }
}

/// Puts a container on one more network, at once if it runs and from its next start on.
pub fn attach(
    store: &mut Store,
    container: &Container,
    name: &str,
    settings: &EndpointSettings,
) -> Result<(), Error> {
    let network = network::find(store, name)?;
    match network.driver {
        Driver::Host => return Err(network::Error::NoEndpoints("host").into()),
        Driver::Null => return Err(network::Error::NoEndpoints("none").into()),
        Driver::Bridge | Driver::Macvlan => {}
    }
    let mode = &container.record.host_config.network_mode;
    // One that is on no network begins with this one: whoever takes a container off its last network puts it on another
    // next, compose before the container has run.
    let begins = mode == "none";
    if network_of(mode).is_none() && !begins {
        return Err(network::Error::SharedNamespace(mode.clone()).into());
    }
    let wished = wanted(container).iter().any(|(have, _)| *have == network.name || *have == network.id);
    let netns = netns(container)?;
    let is_on = is_on(store, container, &network)?;
    if wished && (is_on || netns.is_none()) {
        let (container, network) = (container.name.clone(), network.name);
        return Err(network::Error::AlreadyConnected { container, network }.into());
    }
    // The wish first: one that was killed after it is connected by its next start, or by being asked again, and one
    // without a wish would be on a network that nobody takes it off.
    let _signals = Signals::hold()?;
    let before = mode.clone();
    record::change_record(store, &container.id, |record| {
        record.networking.endpoints_config.insert(network.name.clone(), settings.clone());
        if begins {
            record.host_config.network_mode.clone_from(&network.name);
        }
        Ok(())
    })?;
    let Some(netns) = netns.filter(|_| !is_on) else { return Ok(()) };
    let connected = (|| {
        let mut endpoint = endpoint(store.layout(), container, &network.id, settings)?;
        for link in &mut endpoint.links {
            link.target = record::find(store, &link.target)?.id;
        }
        connect(store, &endpoint, &netns)?;
        write_files(store, container)
    })();
    if connected.is_err() && !wished {
        record::change_record(store, &container.id, |record| {
            record.networking.endpoints_config.remove(&network.name);
            record.host_config.network_mode = before;
            Ok(())
        })?;
    }
    connected
}

/// Whether it has an endpoint on a network, whatever its record says.
fn is_on(store: &Store, container: &Container, network: &Network) -> Result<bool, Error> {
    Ok(network::memberships(store, &container.id)?.iter().any(|member| member.network == network.id))
}

/// Takes a container off a network, at once if it runs and for its next start.
pub fn detach(store: &mut Store, container: &Container, name: &str) -> Result<(), Error> {
    let network = network::find(store, name)?;
    let is_it = |have: &str| have == network.name || have == network.id;
    let wished = wanted(container).iter().any(|(have, _)| is_it(have));
    if !wished && !is_on(store, container, &network)? {
        let container = container.name.clone();
        return Err(network::Error::NotConnected { container, network: network.name }.into());
    }
    let _signals = Signals::hold()?;
    let netns = netns(container)?;
    network::detach(store, &container.id, Some(&network.id), netns.as_ref().map(std::os::fd::AsFd::as_fd))?;
    if netns.is_some() {
        write_files(store, container)?;
    }
    record::change_record(store, &container.id, |record| {
        let config = &mut record.networking.endpoints_config;
        config.retain(|have, _| !is_it(network_of(have).unwrap_or(have)));
        if network_of(&record.host_config.network_mode).is_some_and(is_it) {
            // The next start begins with another of its networks, or with none.
            record.host_config.network_mode =
                config.keys().next().cloned().unwrap_or_else(|| "none".to_owned());
        }
        Ok(())
    })
}
