//! Verbs on networks.

use clap::Args;

use crate::options::{env, net};

/// `network create`
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// Enable manual container attachment
    #[arg(long)]
    pub attachable: bool,
    /// Driver to manage the Network
    #[arg(short, long, value_name = "string", default_value = "bridge")]
    pub driver: String,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub gateway: Vec<String>,
    /// Restrict external access to the network
    #[arg(long)]
    pub internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub ip_range: Vec<String>,
    /// Enable IPv6 networking
    #[arg(long)]
    pub ipv6: bool,
    /// Set metadata on a network
    #[arg(long, value_name = "list", value_parser = env::label)]
    pub label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map", value_parser = env::label)]
    pub opt: Vec<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub subnet: Vec<String>,
    /// The name.
    #[arg(value_name = "NETWORK")]
    pub name: String,
}

/// `network ls`
#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Provide filter values (e.g. "driver=bridge")
    #[arg(short, long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only display network IDs
    #[arg(short, long)]
    pub quiet: bool,
}

/// `network inspect`
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
    /// Verbose output for diagnostics
    #[arg(short, long)]
    pub verbose: bool,
    /// The networks.
    #[arg(value_name = "NETWORK", required = true)]
    pub networks: Vec<String>,
}

/// `network rm`
#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Do not error if the network does not exist
    #[arg(short, long)]
    pub force: bool,
    /// The networks.
    #[arg(value_name = "NETWORK", required = true)]
    pub networks: Vec<String>,
}

/// `network prune`
#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// Provide filter values (e.g. "label=<key>=<value>")
    #[arg(long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
}

/// `network connect`
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings")]
    pub alias: Vec<String>,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long, value_name = "string")]
    pub ip: Option<String>,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long, value_name = "string")]
    pub ip6: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "list", value_parser = net::link)]
    pub link: Vec<String>,
    /// The network.
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// The container.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `network disconnect`
#[derive(Debug, Clone, Args)]
pub struct DisconnectArgs {
    /// Force the container to disconnect from a network
    #[arg(short, long)]
    pub force: bool,
    /// The network.
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// The container.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `port`
#[derive(Debug, Clone, Args)]
pub struct PortArgs {
    /// The container.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// One of its ports.
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    pub port: Option<String>,
}

/// The internal process that answers for the names of one network; see `engine::network`.
#[derive(Debug, Clone, Args)]
pub struct ResolverArgs {
    /// The network's id, and the descriptors handed over.
    #[arg(value_name = "ARG", required = true)]
    pub arguments: Vec<String>,
}

/// The internal process that takes away what the last container on a bridge has left; see `engine::network`.
#[derive(Debug, Clone, Args)]
pub struct CaretakerArgs {
    /// The descriptor of its lock.
    #[arg(value_name = "FD")]
    pub lock: String,
}
