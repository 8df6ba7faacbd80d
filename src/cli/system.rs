//! Verbs on the engine and on anything.

use std::path::PathBuf;

use clap::Args;

use crate::options::env;

/// `version`
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
}

/// `info`
#[derive(Debug, Clone, Args)]
pub struct InfoArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
}

/// `check`
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// 'limits' runs into each limit and measures what happens, in cgroups of its own
    #[arg(value_name = "limits")]
    pub what: Option<String>,
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
}

/// `inspect`
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    pub size: bool,
    /// Only inspect objects of the given type
    #[arg(long = "type", value_name = "string")]
    pub kind: Option<String>,
    /// The objects.
    #[arg(value_name = "NAME|ID", required = true)]
    pub names: Vec<String>,
}

/// `events`
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Format output using a custom template: 'json', or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long, value_name = "string")]
    pub since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_name = "string")]
    pub until: Option<String>,
}

/// `system df`
#[derive(Debug, Clone, Args)]
pub struct DfArgs {
    /// Show detailed information on space usage
    #[arg(short, long)]
    pub verbose: bool,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
}

/// `system prune`
#[derive(Debug, Clone, Args)]
pub struct SystemPruneArgs {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    pub all: bool,
    /// Provide filter values (e.g. "label=<key>=<value>")
    #[arg(long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    pub volumes: bool,
}

/// `completion`
#[derive(Debug, Clone, Args)]
pub struct CompletionArgs {
    /// bash, zsh or fish.
    #[arg(value_name = "SHELL")]
    pub shell: String,
}

/// `man`
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// The directory, made when absent.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
