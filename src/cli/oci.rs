//! `oci`: the command line of an OCI runtime, for podman, containerd and CRI-O.
//!
//! The grammar is runc's, because that is what those programs type: global flags before the verb, the
//! container's id last. Flags that only make sense with an init system or a feature that Bulkhead does
//! not have are accepted where ignoring them changes nothing, and refused with a reason where it would.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// `oci`: everything behind it is parsed by [`Oci`].
#[derive(Debug, Clone, Args)]
pub struct OciArgs {
    /// The runtime's own flags, verb and arguments.
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// The runtime's command line.
#[derive(Debug, Parser)]
#[command(name = "bulkhead oci", disable_version_flag = true, args_override_self = true)]
pub struct Oci {
    /// Where containers are recorded
    #[arg(long, value_name = "dir", default_value = bulkhead_engine::runtime::oci::DEFAULT_ROOT)]
    pub root: PathBuf,
    /// A file for messages beside standard error
    #[arg(long, value_name = "file")]
    pub log: Option<PathBuf>,
    /// The form of those messages
    #[arg(long, value_name = "format", default_value = "text")]
    pub log_format: LogFormat,
    /// Accepted: `cgroupsPath` may be in systemd's form, but systemd is not asked
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Accepted and without effect: messages are few
    #[arg(long)]
    pub debug: bool,
    /// Accepted and without effect: the engine runs as root
    #[arg(long, value_name = "auto", num_args = 0..=1, default_missing_value = "auto")]
    pub rootless: Option<String>,
    /// Print the version
    #[arg(short, long)]
    pub version: bool,
    /// The verb.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The form of log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `time="…" level=error msg="…"`
    Text,
    /// One object a line.
    Json,
}

/// What can be asked of the runtime.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a container that waits for its start
    Create(CreateArgs),
    /// Run the program of a created container
    Start(IdArgs),
    /// Create and start a container
    Run(RunArgs),
    /// Print a container's state
    State(IdArgs),
    /// Send a signal to a container (default SIGTERM)
    Kill(KillArgs),
    /// Remove a stopped container
    Delete(DeleteArgs),
    /// Run one more process in a container
    Exec(ExecArgs),
    /// List a container's processes
    Ps(PsArgs),
    /// Print a container's figures, and its kills for memory, as they come
    Events(EventsArgs),
    /// List containers
    List(ListArgs),
    /// Freeze a container
    Pause(IdArgs),
    /// Thaw a container
    Resume(IdArgs),
    /// Change a container's limits
    Update(UpdateArgs),
    /// Write a specification to start from
    Spec(SpecArgs),
    /// Print what this runtime understands
    Features,
}

/// Verbs that take only an id.
#[derive(Debug, Clone, Args)]
pub struct IdArgs {
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// `create`
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// The bundle's directory
    #[arg(short, long, value_name = "dir", default_value = ".")]
    pub bundle: PathBuf,
    /// A socket to send the console's master to
    #[arg(long, value_name = "path")]
    pub console_socket: Option<PathBuf>,
    /// A file to write the pid to
    #[arg(long, value_name = "file")]
    pub pid_file: Option<PathBuf>,
    /// Do not use pivot_root
    #[arg(long)]
    pub no_pivot: bool,
    /// Accepted and without effect: no session keyring is made
    #[arg(long)]
    pub no_new_keyring: bool,
    /// How many descriptors from 3 on to pass on
    #[arg(long, value_name = "n", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// `run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// How to create it.
    #[command(flatten)]
    pub create: CreateArgs,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Keep the container when it has ended
    #[arg(long)]
    pub keep: bool,
}

/// `kill`
#[derive(Debug, Clone, Args)]
pub struct KillArgs {
    /// Signal every process of the container
    #[arg(short, long)]
    pub all: bool,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
    /// The signal, by name or number
    #[arg(value_name = "signal", default_value = "SIGTERM")]
    pub signal: String,
}

/// `delete`
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// Kill it first; one that does not exist is no error
    #[arg(short, long)]
    pub force: bool,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// `exec`
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// A file with the process's specification, in place of a command
    #[arg(short, long, value_name = "file")]
    pub process: Option<PathBuf>,
    /// A socket to send the console's master to
    #[arg(long, value_name = "path")]
    pub console_socket: Option<PathBuf>,
    /// A file to write the pid to
    #[arg(long, value_name = "file")]
    pub pid_file: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Working directory
    #[arg(long, value_name = "dir")]
    pub cwd: Option<PathBuf>,
    /// Environment, `NAME=VALUE`
    #[arg(short, long, value_name = "env")]
    pub env: Vec<String>,
    /// User, `UID[:GID]`
    #[arg(short, long, value_name = "uid[:gid]")]
    pub user: Option<String>,
    /// Additional groups
    #[arg(short = 'g', long, value_name = "gid")]
    pub additional_gids: Vec<u32>,
    /// Additional capabilities
    #[arg(short, long, value_name = "capability")]
    pub cap: Vec<String>,
    /// Set no_new_privs
    #[arg(long)]
    pub no_new_privs: bool,
    /// How many descriptors from 3 on to pass on
    #[arg(long, value_name = "n", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
    /// The command
    #[arg(value_name = "command", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `ps`
#[derive(Debug, Clone, Args)]
pub struct PsArgs {
    /// table or json
    #[arg(short, long, value_name = "format", default_value = "table")]
    pub format: Format,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// `events`
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// How far two lines of figures are apart
    #[arg(long, value_name = "duration", default_value = "5s", value_parser = interval)]
    pub interval: std::time::Duration,
    /// Print the figures of this moment and end
    #[arg(long)]
    pub stats: bool,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// A duration in Go's form that is longer than none.
fn interval(text: &str) -> Result<std::time::Duration, String> {
    let nanoseconds = crate::options::units::duration(text)?;
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds) if nanoseconds > 0 => Ok(std::time::Duration::from_nanos(nanoseconds)),
        _ => Err("duration interval must be greater than 0".to_owned()),
    }
}

/// `list`
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// table or json
    #[arg(short, long, value_name = "format", default_value = "table")]
    pub format: Format,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// JSON.
    Json,
}

/// `update`
#[derive(Debug, Clone, Args)]
pub struct UpdateArgs {
    /// A file of `linux.resources`, `-` for standard input
    #[arg(short, long, value_name = "file")]
    pub resources: Option<PathBuf>,
    /// Memory limit in bytes
    #[arg(long, value_name = "bytes", allow_negative_numbers = true)]
    pub memory: Option<i64>,
    /// Soft memory limit in bytes
    #[arg(long, value_name = "bytes", allow_negative_numbers = true)]
    pub memory_reservation: Option<i64>,
    /// Memory and swap in bytes
    #[arg(long, value_name = "bytes", allow_negative_numbers = true)]
    pub memory_swap: Option<i64>,
    /// CPU time in µs per period
    #[arg(long, value_name = "us", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// The period in µs
    #[arg(long, value_name = "us")]
    pub cpu_period: Option<u64>,
    /// Relative CPU weight
    #[arg(long, value_name = "shares")]
    pub cpu_share: Option<u64>,
    /// CPUs
    #[arg(long, value_name = "list")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "list")]
    pub cpuset_mems: Option<String>,
    /// Number of processes, -1 for no limit
    #[arg(long, value_name = "n", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// Relative I/O weight
    #[arg(long, value_name = "weight")]
    pub blkio_weight: Option<u16>,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

/// `spec`
#[derive(Debug, Clone, Args)]
pub struct SpecArgs {
    /// Where config.json goes
    #[arg(short, long, value_name = "dir", default_value = ".")]
    pub bundle: PathBuf,
}
