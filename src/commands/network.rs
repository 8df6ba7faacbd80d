//! `network …` and `port`.

use bulkhead_engine::config::{EndpointIpam, EndpointSettings, NetworkingConfig};
use bulkhead_engine::container::network::{self as joined, Everyone};
use bulkhead_engine::container::{self, Container};
use bulkhead_engine::network::{self, IpamConfig, NewNetwork, Protocol, Subnet, filter};
use serde_json::json;

use super::lifecycle::store;
use super::prune;
use crate::cli::network::{
    CaretakerArgs, ConnectArgs, CreateArgs, DisconnectArgs, LsArgs, PortArgs, PruneArgs, ResolverArgs, RmArgs,
};
use crate::cli::{Globals, NoArgs};
use crate::failure::Failure;
use crate::options::net::Attachment;
use crate::output::list::Listing;
use crate::output::{human, line};

/// What `--network`, `--ip`, `--network-alias` and `--mac-address` ask for, in the engine's words.
pub fn networking(attachments: &[Attachment]) -> NetworkingConfig {
    let asked = attachments.iter().map(|attachment| {
        let addresses = EndpointIpam {
            ipv4_address: attachment.ipv4.clone().unwrap_or_default(),
            ipv6_address: attachment.ipv6.clone().unwrap_or_default(),
        };
        let settings = EndpointSettings {
            ipam_config: (addresses != EndpointIpam::default()).then_some(addresses),
            aliases: some(&attachment.aliases),
            mac_address: attachment.mac.clone().unwrap_or_default(),
            ..EndpointSettings::default()
        };
        (attachment.target.clone(), settings)
    });
    NetworkingConfig { endpoints_config: asked.collect() }
}

fn some(list: &[String]) -> Option<Vec<String>> {
    if list.is_empty() { None } else { Some(list.to_vec()) }
}

fn pairs(list: &[String]) -> std::collections::BTreeMap<String, String> {
    list.iter()
        .map(|text| text.split_once('=').unwrap_or((text, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Gives each range and gateway to the subnet it lies in, as Docker's client does.
fn ipam(args: &CreateArgs) -> Result<Vec<IpamConfig>, Failure> {
    let mut configs = Vec::new();
    let mut subnets = Vec::new();
    for text in &args.subnet {
        let subnet: Subnet = text.parse().map_err(Failure::plain_from)?;
        subnets.push(subnet);
        configs.push(IpamConfig { subnet: Some(text.clone()), ..IpamConfig::default() });
    }
    for text in &args.ip_range {
        let range: Subnet = text.parse().map_err(Failure::plain_from)?;
        let at = subnets.iter().position(|subnet| subnet.covers(&range));
        let at = at.ok_or_else(|| Failure::plain(format!("no matching subnet for range {text}")))?;
        if configs[at].ip_range.replace(text.clone()).is_some() {
            return Err(Failure::plain(format!(
                "cannot configure multiple ranges ({text}) on the same subnet ({})",
                subnets[at]
            )));
        }
    }
    for text in &args.gateway {
        let gateway = text.parse().map_err(|_| Failure::plain(format!("invalid gateway address: {text}")))?;
        let at = subnets.iter().position(|subnet| subnet.contains(gateway));
        let at = at.ok_or_else(|| Failure::plain(format!("no matching subnet for gateway {text}")))?;
        if configs[at].gateway.replace(text.clone()).is_some() {
            return Err(Failure::plain(format!(
                "cannot configure multiple gateways ({text}) for the same subnet ({})",
                subnets[at]
            )));
        }
    }
    Ok(configs)
}

/// `bulkhead network create`
pub fn create(globals: &Globals, args: &CreateArgs) -> Result<u8, Failure> {
    let new = NewNetwork {
        name: args.name.clone(),
        driver: args.driver.clone(),
        ipam: ipam(args)?,
        internal: args.internal,
        ipv6: args.ipv6,
        attachable: args.attachable,
        options: pairs(&args.opt),
        labels: pairs(&args.label),
    };
    let mut store = store(globals)?;
    let network = network::create(&mut store, &new).map_err(Failure::daemon)?;
    line(&network.id)?;
    Ok(0)
}

/// `bulkhead network ls`
pub fn ls(globals: &Globals, args: &LsArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    let mut rows = Vec::new();
    for network in network::list(&store).map_err(Failure::daemon)? {
        let unused = network::members(&store, &network.id).map_err(Failure::daemon)?.is_empty();
        if !filter::admits(&network, &args.filter, unused && !network.is_predefined())
            .map_err(Failure::daemon)?
        {
            continue;
        }
        let labels: Vec<String> =
            network.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        rows.push(json!({
            "CreatedAt": human::utc(&network.created),
            "Driver": network.driver.as_str(),
            "ID": if args.no_trunc { &network.id } else { &network.id[..12] },
            "IPv4": (network.v4.is_some() || network.name == network::DEFAULT).to_string(),
            "IPv6": network.v6.is_some().to_string(),
            "Internal": network.internal.to_string(),
            "Labels": labels.join(","),
            "Name": network.name,
            "Scope": "local",
            "_labels": network.labels,
        }));
    }
    let listing = Listing {
        table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        titles: &[
            ("ID", "NETWORK ID"),
            ("Name", "NAME"),
            ("Driver", "DRIVER"),
            ("Scope", "SCOPE"),
            ("IPv4", "IPV4"),
            ("IPv6", "IPV6"),
            ("Internal", "INTERNAL"),
            ("Labels", "LABELS"),
            ("CreatedAt", "CREATED AT"),
        ],
        type_name: "*network.networkContext",
    };
    let format = match args.format.as_deref() {
        None | Some("table" | "") if args.quiet => Some("{{.ID}}"),
        Some("raw") if args.quiet => Some("network_id: {{.ID}}"),
        Some("raw") => {
            Some("network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}{{println}}")
        }
        other => other,
    };
    listing.print(format, rows)
}

/// What `ps` shows of a running container: its ports and its networks.
pub fn columns(everyone: &Everyone, container: &Container) -> (String, String) {
    let (networks, ports) = everyone.brief(container);
    let mut shown = Vec::new();
    for (port, on_host) in ports {
        if on_host.is_empty() {
            shown.push(port);
        } else {
            shown.extend(on_host.iter().map(|host| format!("{host}->{port}")));
        }
    }
    (shown.join(", "), Vec::from_iter(networks).join(","))
}

/// `bulkhead network rm`
pub fn rm(globals: &Globals, args: &RmArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    network::tidy(&store).map_err(Failure::daemon)?;
    let mut failures = Vec::new();
    for name in &args.networks {
        match network::remove(&mut store, name) {
            Ok(_) => line(name)?,
            Err(network::Error::NotFound(_)) if args.force => {}
            Err(error) => failures.push(format!("Error response from daemon: {error}")),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::lines(&failures)) }
}

/// `bulkhead network prune`
pub fn prune(globals: &Globals, args: &PruneArgs) -> Result<u8, Failure> {
    let warning = "WARNING! This will remove all custom networks not used by at least one container.";
    if !args.force && !prune::confirmed(warning)? {
        return Ok(0);
    }
    let mut store = store(globals)?;
    let names = filter::prune(&mut store, &args.filter).map_err(Failure::daemon)?;
    prune::report("Deleted Networks:", &names)?;
    Ok(0)
}

/// `bulkhead network connect`
pub fn connect(globals: &Globals, args: &ConnectArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    let container = container::find(&store, &args.container).map_err(Failure::daemon)?;
    let addresses = EndpointIpam {
        ipv4_address: args.ip.clone().unwrap_or_default(),
        ipv6_address: args.ip6.clone().unwrap_or_default(),
    };
    let settings = EndpointSettings {
        ipam_config: (addresses != EndpointIpam::default()).then_some(addresses),
        aliases: some(&args.alias),
        links: some(&args.link),
        ..EndpointSettings::default()
    };
    joined::attach(&mut store, &container, &args.network, &settings).map_err(Failure::daemon)?;
    Ok(0)
}

/// `bulkhead network disconnect`
pub fn disconnect(globals: &Globals, args: &DisconnectArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    let container = match container::find(&store, &args.container) {
        // With force, an endpoint whose container is gone: the sweep before us has released it.
        Err(container::Error::NoSuchContainer(_)) if args.force => {
            network::find(&store, &args.network).map_err(Failure::daemon)?;
            return Ok(0);
        }
        other => other.map_err(Failure::daemon)?,
    };
    joined::detach(&mut store, &container, &args.network).map_err(Failure::daemon)?;
    Ok(0)
}

/// `bulkhead network reload`
pub fn reload(globals: &Globals, _: &NoArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    joined::reload(&mut store).map_err(Failure::daemon)?;
    Ok(0)
}

/// `bulkhead port`
pub fn port(globals: &Globals, args: &PortArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    let container = container::find(&store, &args.container).map_err(Failure::daemon)?;
    let on = network::memberships(&store, &container.id).map_err(Failure::daemon)?;
    let published = on.iter().flat_map(|member| &member.ports);
    let at = |host: std::net::IpAddr, port: u16| std::net::SocketAddr::new(host, port).to_string();
    let Some(wanted) = &args.port else {
        for port in published {
            let text =
                format!("{}/{} -> {}", port.container_port, port.protocol, at(port.host, port.host_port));
            line(&text)?;
        }
        return Ok(0);
    };
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let invalid = || Failure::plain(format!("Error: invalid port: {wanted}"));
    let number: u16 = number.parse().map_err(|_| invalid())?;
    let protocol: Protocol = protocol.parse().map_err(|_| invalid())?;
    let mut any = false;
    for port in published.filter(|port| (port.container_port, port.protocol) == (number, protocol)) {
        any = true;
        line(&at(port.host, port.host_port))?;
    }
    if any {
        Ok(0)
    } else {
        Err(Failure::plain(format!(
            "Error: No public port '{number}/{protocol}' published for {}",
            args.container
        )))
    }
}

/// `bulkhead caretaker FD`, the internal process.
pub fn caretaker(globals: &Globals, _: &CaretakerArgs) -> Result<u8, Failure> {
    network::care(&globals.layout()).map_err(Failure::plain_from)?;
    Ok(0)
}

/// `bulkhead resolver ID FD…`, the internal process.
pub fn resolver(globals: &Globals, args: &ResolverArgs) -> Result<u8, Failure> {
    network::serve_names(&globals.layout(), &args.arguments)
        .map(|never| match never {})
        .map_err(Failure::plain_from)
}
