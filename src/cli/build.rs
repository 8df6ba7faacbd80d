//! `build` and the verbs on its cache.

use bulkhead_engine::config::Ulimit;
use clap::Args;

use crate::options::{env, net, units};

/// `build`
#[derive(Debug, Clone, Args)]
pub struct BuildArgs {
    /// Add a custom host-to-IP mapping (format: "host:ip")
    #[arg(long, value_name = "strings", value_parser = net::extra_host)]
    pub add_host: Vec<String>,
    /// Set build-time variables
    #[arg(long, value_name = "stringArray")]
    pub build_arg: Vec<String>,
    /// External cache sources (e.g., "user/app:cache", "type=registry,ref=user/app:cache")
    #[arg(long, value_name = "stringArray")]
    pub cache_from: Vec<String>,
    /// Cache export destinations: "type=inline", into the image
    #[arg(long, value_name = "stringArray")]
    pub cache_to: Vec<String>,
    /// Set the parent cgroup for the "RUN" instructions during build
    #[arg(long, value_name = "string")]
    pub cgroup_parent: Option<String>,
    /// Limit CPU CFS (Completely Fair Scheduler) period, in microseconds
    #[arg(long, value_name = "int", value_parser = units::int)]
    pub cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota, in microseconds
    #[arg(long, value_name = "int", value_parser = units::int)]
    pub cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "int", value_parser = units::int)]
    pub cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = units::nano_cpus)]
    pub cpus: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    pub cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    pub cpuset_mems: Option<String>,
    /// Name of the Dockerfile (default: "PATH/Dockerfile")
    #[arg(short, long, value_name = "string")]
    pub file: Option<String>,
    /// Write the image ID to a file
    #[arg(long, value_name = "string")]
    pub iidfile: Option<String>,
    /// Set metadata for an image
    #[arg(long, value_name = "stringArray", value_parser = env::label)]
    pub label: Vec<String>,
    /// Memory limit of each "RUN" instruction
    #[arg(short, long, value_name = "bytes", value_parser = units::bytes)]
    pub memory: Option<i64>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = units::bytes_or_unlimited)]
    pub memory_swap: Option<i64>,
    /// Write build result metadata to a file
    #[arg(long, value_name = "string")]
    pub metadata_file: Option<String>,
    /// Set the networking mode for the "RUN" instructions during build
    #[arg(long, value_name = "string", default_value = "default")]
    pub network: String,
    /// Do not use cache when building the image
    #[arg(long)]
    pub no_cache: bool,
    /// Do not cache specified stages
    #[arg(long, value_name = "stringArray", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Output destination (format: "type=local,dest=path")
    #[arg(short, long, value_name = "stringArray")]
    pub output: Vec<String>,
    /// Set target platform for build
    #[arg(long, value_name = "string")]
    pub platform: Option<String>,
    /// Set type of progress output ("auto", "none", "plain", "quiet")
    #[arg(long, value_name = "string", default_value = "auto", value_parser = ["auto", "none", "plain", "quiet", "tty"])]
    pub progress: String,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pub pull: bool,
    /// Shorthand for "--output=type=registry"
    #[arg(long)]
    pub push: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    pub quiet: bool,
    /// Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")
    #[arg(long, value_name = "stringArray")]
    pub secret: Vec<String>,
    /// Shared memory size for build containers
    #[arg(long, value_name = "bytes", value_parser = units::bytes)]
    pub shm_size: Option<i64>,
    /// Image identifier (format: "[registry/]repository[:tag]")
    #[arg(short, long, value_name = "stringArray")]
    pub tag: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, value_name = "string")]
    pub target: Option<String>,
    /// Ulimit options
    #[arg(long, value_name = "ulimit", value_parser = units::ulimit)]
    pub ulimit: Vec<Ulimit>,
    /// Remove intermediate containers; they always are
    #[arg(long, hide = true)]
    pub rm: bool,
    /// Always remove intermediate containers; they always are
    #[arg(long, hide = true)]
    pub force_rm: bool,
    /// Load the image into the store; it always is
    #[arg(long, hide = true)]
    pub load: bool,
    /// The builder: there is one, "default"
    #[arg(long, value_name = "string", hide = true, value_parser = ["", "default"])]
    pub builder: Option<String>,
    /// Attestations of how the image was made: none are
    #[arg(long, value_name = "string", hide = true, value_parser = no_attestation)]
    pub provenance: Option<String>,
    /// And of what is in it
    #[arg(long, value_name = "string", hide = true, value_parser = no_attestation)]
    pub sbom: Option<String>,
    /// The context: a directory, a git repository, or `-` for a tar or a Dockerfile on standard input.
    #[arg(value_name = "PATH")]
    pub path: String,
}

/// `builder prune`
#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// Include all build cache, not just dangling ones
    #[arg(short, long)]
    pub all: bool,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
}

/// `builder du` and `builder ls`
#[derive(Debug, Clone, Args)]
pub struct FormatArgs {
    /// Format output using a custom template: 'table', 'json' or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
}

/// Only what says that there is to be no attestation.
fn no_attestation(text: &str) -> Result<String, String> {
    match text {
        "false" | "0" => Ok(text.to_owned()),
        _ => Err("attestations are not made; say false, or nothing".to_owned()),
    }
}
