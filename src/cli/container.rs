//! Verbs on containers, except `run` and `create`.

use bulkhead_engine::config::{HugepageLimit, ThrottleDevice};
use clap::{ArgAction, Args};

use crate::options::{devices, env, units};

/// `attach`
#[derive(Debug, Clone, Args)]
pub struct AttachArgs {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    pub detach_keys: Option<String>,
    /// Do not attach STDIN
    #[arg(long)]
    pub no_stdin: bool,
    /// Proxy all received signals to the process (default true)
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_value = "true")]
    pub sig_proxy: bool,
    /// The container.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `commit`
#[derive(Debug, Clone, Args)]
pub struct CommitArgs {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, value_name = "string")]
    pub author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    pub change: Vec<String>,
    /// Commit message
    #[arg(short, long, value_name = "string")]
    pub message: Option<String>,
    /// Pause container during commit (default true)
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, default_value = "true")]
    pub pause: bool,
    /// The container.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The new image's name.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
}

/// `cp`
#[derive(Debug, Clone, Args)]
pub struct CpArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    pub archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Suppress progress output during copy
    #[arg(short, long)]
    pub quiet: bool,
    /// Where from.
    #[arg(value_name = "SRC_PATH")]
    pub source: String,
    /// Where to.
    #[arg(value_name = "DEST_PATH")]
    pub destination: String,
}

/// One container: `diff`
#[derive(Debug, Clone, Args)]
pub struct OneContainer {
    /// The container.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// Several containers: `pause`, `unpause`, `wait`
#[derive(Debug, Clone, Args)]
pub struct Containers {
    /// The containers.
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `exec`
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    pub detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "list", value_parser = env::variable)]
    pub env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    pub env_file: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    pub privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(short, long, value_name = "string")]
    pub user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "string")]
    pub workdir: Option<String>,
    /// The container, then the command and its arguments, untouched; at least two.
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "CONTAINER")]
    pub container_and_command: Vec<String>,
}

/// `export`
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    pub output: Option<String>,
    /// The container.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `container inspect`
#[derive(Debug, Clone, Args)]
pub struct ContainerInspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
    /// Display total file sizes
    #[arg(short, long)]
    pub size: bool,
    /// The containers.
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `kill`
#[derive(Debug, Clone, Args)]
pub struct KillArgs {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    pub signal: Option<String>,
    /// The containers.
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `logs`
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    pub details: bool,
    /// Follow log output
    #[arg(short, long)]
    pub follow: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string")]
    pub since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "string", default_value = "all", num_args = 1)]
    pub tail: String,
    /// Show timestamps
    #[arg(short, long)]
    pub timestamps: bool,
    /// Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string")]
    pub until: Option<String>,
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
    /// `PORT[/PROTO]`; all when absent.
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    pub port: Option<String>,
}

/// `container prune`
#[derive(Debug, Clone, Args)]
pub struct ContainerPruneArgs {
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
}

/// `ps`
#[derive(Debug, Clone, Args)]
pub struct PsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Show n last created containers (includes all states) (default -1)
    #[arg(short = 'n', long, value_name = "int", value_parser = units::int)]
    pub last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    pub latest: bool,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    pub size: bool,
}

/// `rename`
#[derive(Debug, Clone, Args)]
pub struct RenameArgs {
    /// The container.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The name it gets.
    #[arg(value_name = "NEW_NAME")]
    pub name: String,
}

/// `stop` and `restart`
#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    pub signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short = 't', long, alias = "time", value_name = "int", value_parser = units::int)]
    pub timeout: Option<i64>,
    /// The containers.
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `rm`
#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    pub force: bool,
    /// Remove the specified link
    #[arg(short, long)]
    pub link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    pub volumes: bool,
    /// The containers.
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `start`
#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    pub attach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    pub detach_keys: Option<String>,
    /// Attach container's STDIN
    #[arg(short, long)]
    pub interactive: bool,
    /// The containers.
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `stats`
#[derive(Debug, Clone, Args)]
pub struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub all: bool,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    pub no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// The containers; all that run when absent.
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `top`
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// The container, then options for ps; without any, the live view of all containers.
    #[arg(num_args = 0.., trailing_var_arg = true, value_name = "CONTAINER")]
    pub container_and_options: Vec<String>,
}

/// `update`
#[derive(Debug, Clone, Args)]
pub struct UpdateArgs {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)
    #[arg(long, value_name = "uint16", value_parser = units::uint16)]
    pub blkio_weight: Option<u16>,
    /// CPU time that may be saved up and used beyond the quota, in microseconds, -1 for none
    #[arg(long, value_name = "int", value_parser = units::int)]
    pub cpu_burst: Option<i64>,
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
    /// Memory limit
    #[arg(short, long, value_name = "bytes", value_parser = units::bytes)]
    pub memory: Option<i64>,
    /// Limit read rate (bytes per second) from a device
    #[arg(long, value_name = "list", value_parser = devices::throttle_bytes)]
    pub device_read_bps: Vec<ThrottleDevice>,
    /// Limit read rate (IO per second) from a device
    #[arg(long, value_name = "list", value_parser = devices::throttle_operations)]
    pub device_read_iops: Vec<ThrottleDevice>,
    /// Limit write rate (bytes per second) to a device
    #[arg(long, value_name = "list", value_parser = devices::throttle_bytes)]
    pub device_write_bps: Vec<ThrottleDevice>,
    /// Limit write rate (IO per second) to a device
    #[arg(long, value_name = "list", value_parser = devices::throttle_operations)]
    pub device_write_iops: Vec<ThrottleDevice>,
    /// Limit the huge pages of one size (2MB=64m, 2MB=-1 for none)
    #[arg(long, value_name = "list", value_parser = units::huge_pages)]
    pub hugetlb: Vec<HugepageLimit>,
    /// Memory above which the kernel throttles and reclaims, -1 for none (cgroup v2)
    #[arg(long, value_name = "bytes", value_parser = units::bytes_or_unlimited)]
    pub memory_high: Option<i64>,
    /// Memory that is never taken back, -1 for none (cgroup v2)
    #[arg(long, value_name = "bytes", value_parser = units::bytes_or_unlimited)]
    pub memory_min: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = units::bytes)]
    pub memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = units::bytes_or_unlimited)]
    pub memory_swap: Option<i64>,
    /// When memory runs out, kill the whole container instead of one process (cgroup v2)
    #[arg(long, num_args = 0..=1, action = ArgAction::Set)]
    pub oom_group: Option<bool>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", value_parser = units::int)]
    pub pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string")]
    pub restart: Option<String>,
    /// The containers.
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// The internal process that holds one container; see `engine::container`.
#[derive(Debug, Clone, Args)]
pub struct MonitorArgs {
    /// The container's full id.
    #[arg(value_name = "ID")]
    pub id: String,
    /// The descriptor of the socket to the command that starts it.
    #[arg(value_name = "CONTROL")]
    pub control: i32,
    /// The descriptor of the container's lock.
    #[arg(value_name = "LOCK")]
    pub lock: i32,
}

/// The internal process that holds one exec of the API; see `engine::container::session`.
#[derive(Debug, Clone, Args)]
pub struct SessionArgs {
    /// The descriptor of the socket to the server that starts it.
    #[arg(value_name = "CONTROL")]
    pub control: i32,
}
