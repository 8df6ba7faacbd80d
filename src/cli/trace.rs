//! `trace`.

use clap::Args;

/// `trace`
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Print one JSON object per line (the schema is in docs/trace.md)
    #[arg(long)]
    pub json: bool,
    /// Only events in this namespace: net:INUM, mnt:INUM, pid:INUM, uts:INUM, ipc:INUM, user:INUM, cgroup:INUM or time:INUM
    #[arg(long, value_name = "type:inum")]
    pub namespace: Vec<String>,
    /// Only events that match: event, comm, pid, uid, path, address, port, name (of DNS), code, with * as wildcard
    #[arg(short, long, value_name = "key=value")]
    pub filter: Vec<String>,
    /// Begin with the processes that are running already
    #[arg(long)]
    pub since_start: bool,
    /// Not live: what the event log of `serve` has since then (10m, or a timestamp), also of containers that are gone
    #[arg(long, value_name = "time", conflicts_with = "since_start")]
    pub since: Option<String>,
    /// Not live: what the event log has up to then
    #[arg(long, value_name = "time", conflicts_with = "since_start")]
    pub until: Option<String>,
    /// Do not cut lines to the width of the terminal
    #[arg(long)]
    pub no_trunc: bool,
    /// What to trace, then which containers.
    #[arg(value_name = "CONTAINER")]
    pub topic_and_containers: Vec<String>,
}

/// A group of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Programs: exec, failed exec, exit.
    Exec,
    /// TCP and UDP.
    Net,
    /// DNS queries and answers.
    Dns,
    /// OOM kills.
    Oom,
    /// Everything.
    All,
}

impl TraceArgs {
    /// Splits the operands: the first is a topic if it is one's name, and the rest are containers.
    pub fn operands(&self) -> (Topic, &[String]) {
        let topic = match self.topic_and_containers.first().map(String::as_str) {
            Some("exec") => Topic::Exec,
            Some("net") => Topic::Net,
            Some("dns") => Topic::Dns,
            Some("oom") => Topic::Oom,
            Some("all") => Topic::All,
            _ => return (Topic::All, &self.topic_and_containers),
        };
        (topic, &self.topic_and_containers[1..])
    }
}
