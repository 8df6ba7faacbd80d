//! The verbs that show figures: `serve`, `metrics`, `top` without an operand.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// `serve`
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Serve Docker's Engine API here, for the docker command, compose and SDKs (unix:///run/bulkhead/docker.sock is
    /// the usual one; tcp:// on the loopback interface only)
    #[arg(short = 'H', long, value_name = "host")]
    pub host: Vec<bulkhead_api::Host>,
    /// Serve /metrics on this address (127.0.0.1:9417 is the usual one); a port alone means loopback
    #[arg(long, value_name = "[ip]:port", value_parser = address)]
    pub metrics: Option<SocketAddr>,
    /// Write the metrics to this file for node_exporter's textfile collector
    #[arg(long, value_name = "path")]
    pub textfile: Option<PathBuf>,
    /// Time between two writes of the text file
    #[arg(long, value_name = "duration", default_value = "15s", value_parser = duration)]
    pub textfile_interval: Duration,
    /// Container labels that become metric labels; a final '*' matches any rest
    #[arg(long, value_name = "pattern")]
    pub metrics_label: Vec<String>,
    /// Names and bcrypt hashes of those who may read the metrics, as `htpasswd -B` writes them
    #[arg(long, value_name = "path")]
    pub auth_file: Option<PathBuf>,
    /// Certificate chain (PEM)
    #[arg(long, value_name = "path", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "path", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Pressure policy; /etc/bulkhead/enforcer.toml for the default run root, where it exists (read again on SIGHUP)
    #[arg(long, value_name = "path")]
    pub enforcer: Option<PathBuf>,
    /// Time between two measurements of what containers wrote to their filesystems
    #[arg(long, value_name = "duration", default_value = "60s", value_parser = duration)]
    pub filesystem_interval: Duration,
    /// Do not count executions, connections and latencies in the kernel
    #[arg(long)]
    pub no_trace: bool,
    /// Do not measure how long processes wait for a CPU, which costs something at every switch of a process
    #[arg(long)]
    pub no_run_queue: bool,
    /// Do not keep events for `trace --since`
    #[arg(long)]
    pub no_event_log: bool,
    /// Bytes that the event log may take below the root; the oldest events go first
    #[arg(long, value_name = "bytes", default_value = "64m", value_parser = size)]
    pub event_log_size: u64,
    /// Keep the kernel's counters in this bpffs directory over a restart; /sys/fs/bpf/bulkhead for the default run root
    #[arg(long, value_name = "dir")]
    pub pin_counters: Option<PathBuf>,
}

/// `compose`: everything behind it is compose's, `--help` too.
#[derive(Debug, Clone, Args)]
#[command(disable_help_flag = true)]
pub struct ComposeArgs {
    /// What docker-compose is told
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// `metrics`
#[derive(Debug, Clone, Args)]
pub struct MetricsArgs {
    /// Write to this file, all at once, instead of standard output
    #[arg(long, value_name = "path")]
    pub textfile: Option<PathBuf>,
    /// Container labels that become metric labels; a final '*' matches any rest
    #[arg(long, value_name = "pattern")]
    pub metrics_label: Vec<String>,
    /// Write OpenMetrics instead of Prometheus' text format
    #[arg(long)]
    pub openmetrics: bool,
}

/// `IP:PORT`, or `:PORT` on loopback: who wants every interface says `0.0.0.0`.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse().map_err(|_| format!("invalid port {port:?}"))?;
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| "want IP:PORT or :PORT".to_owned())
}

/// At least 1 MiB, so that a segment holds some thousand events.
fn size(text: &str) -> Result<u64, String> {
    match crate::options::units::bytes(text) {
        Ok(bytes @ 1_048_576..) => Ok(bytes as u64),
        Ok(_) => Err("must be at least 1m".to_owned()),
        Err(error) => Err(error),
    }
}

/// `500ms`, `15s`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let wrong = || format!("invalid duration {text:?}: want a number and one of ms, s, m, h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(ms) {
        Some(ms @ 100..=86_400_000) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("duration {text:?} is not between 100ms and 24h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(address(":9417").unwrap().to_string(), "127.0.0.1:9417");
        assert_eq!(address("0.0.0.0:80").unwrap().to_string(), "0.0.0.0:80");
        assert_eq!(address("[::1]:80").unwrap().to_string(), "[::1]:80");
        for odd in ["", ":", ":x", ":70000", "localhost:1", "1.2.3.4", "9417"] {
            assert!(address(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        for odd in
            ["", "s", "5", "5d", "0s", "99ms", "25h", "-1s", "99999999999999999999h", "18446744073709551615h"]
        {
            assert!(duration(odd).is_err(), "{odd:?}");
        }
    }
}
