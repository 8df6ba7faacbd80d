//! Verbs on volumes.

use clap::Args;

use crate::options::env;

/// `volume create`
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// Specify volume driver name
    #[arg(short, long, value_name = "string", default_value = "local")]
    pub driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "list", value_parser = env::label)]
    pub label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map", value_parser = env::label)]
    pub opt: Vec<String>,
    /// The name, as Docker once took it.
    #[arg(long, value_name = "string", hide = true)]
    pub name: Option<String>,
    /// The name.
    #[arg(value_name = "VOLUME")]
    pub volume: Option<String>,
}

/// `volume ls`
#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Provide filter values (e.g. "dangling=true")
    #[arg(short, long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    pub quiet: bool,
}

/// `volume inspect`
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
    /// The volumes.
    #[arg(value_name = "VOLUME", required = true)]
    pub volumes: Vec<String>,
}

/// `volume rm`
#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Force the removal of one or more volumes
    #[arg(short, long)]
    pub force: bool,
    /// The volumes.
    #[arg(value_name = "VOLUME", required = true)]
    pub volumes: Vec<String>,
}

/// `volume prune`
#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short, long)]
    pub all: bool,
    /// Provide filter values (e.g. "label=<label>")
    #[arg(long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
}
