//! All flags of `run` and `create` together: the engine's configuration, or a refusal.

#![allow(clippy::zero_sized_map_values, reason = "empty values are what Docker's JSON asks for")]

use bulkhead_engine::config::{Config, Empty, EmptySet, Healthcheck, HostConfig, LogConfig, Resources};
use bulkhead_engine::container::{mounts, spec::combine};

use super::{devices, env, mount, net, restart};
use crate::cli::run::ContainerFlags;
use crate::failure::Failure;

/// Why the flags describe no container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What Docker's client refuses.
    #[error("{0}")]
    Client(String),
    /// What Docker's daemon refuses; scripts look for the prefix.
    #[error("Error response from daemon: {0}")]
    Daemon(String),
}

impl Refusal {
    /// The end of `run` (exit 125, with a pointer to the help) or of another verb (exit 1).
    pub fn failure(&self, verb: &str) -> Failure {
        match (verb, self) {
            ("run", _) | (_, Self::Client(_)) => Failure::new(
                125,
                format!("bulkhead: {self}\n\nRun 'bulkhead {verb} --help' for more information"),
            ),
            _ => Failure::plain(self.to_string()),
        }
    }
}

impl From<env::FileError> for Refusal {
    fn from(error: env::FileError) -> Self {
        Self::Client(error.to_string())
    }
}

/// When the image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Each time.
    Always,
    /// When it is not here.
    Missing,
    /// Not at all.
    Never,
}

/// What is to be created.
#[derive(Debug, Clone)]
pub struct Creation {
    /// The name asked for.
    pub name: Option<String>,
    /// The image as typed.
    pub image: String,
    /// The flags' half of the container's configuration; see [`bulkhead_engine::container::merge`].
    pub config: Config,
    /// The host's half.
    pub host: HostConfig,
    /// Networks, with what was asked of each; the first is `host.network_mode`.
    pub networks: Vec<net::Attachment>,
    /// `OS/ARCH[/VARIANT]`.
    pub platform: Option<String>,
    /// When the image is fetched.
    pub pull: Pull,
}

/// What the flags need to know of the process that was given them.
pub struct Surroundings<'a> {
    /// Looks a variable of the environment up.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
    /// The working directory, for `-v ./x:/y`.
    pub directory: &'a str,
}

fn client<T>(result: Result<T, String>) -> Result<T, Refusal> {
    result.map_err(Refusal::Client)
}

fn daemon<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Daemon(why.into()))
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}

/// Looks at all flags together. `detached` is `run -d`.
pub fn create(
    flags: &ContainerFlags,
    detached: bool,
    around: &Surroundings<'_>,
) -> Result<Creation, Refusal> {
    if flags.gpus.is_some() {
        return daemon("could not select device driver \"\" with capabilities: [[gpu]]");
    }
    if detached && !flags.attach.is_empty() {
        return client(Err("conflicting options: cannot specify both --attach and --detach".to_owned()));
    }
    let pull = match flags.pull.as_str() {
        "always" => Pull::Always,
        "missing" | "" => Pull::Missing,
        "never" => Pull::Never,
        other => {
            return client(Err(format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            )));
        }
    };
    let mut config = image_half(flags, detached, around)?;
    let host = host_half(flags, &mut config, around)?;
    let networks = networks(flags, &host, &config)?;
    Ok(Creation {
        name: flags.name.clone().filter(|name| !name.is_empty()),
        image: flags.image().to_owned(),
        config,
        host,
        networks,
        platform: flags.platform.clone(),
        pull,
    })
}

fn image_half(flags: &ContainerFlags, detached: bool, around: &Surroundings<'_>) -> Result<Config, Refusal> {
    let attached = |stream: &str| flags.attach.iter().any(|given| given == stream);
    let default = !detached && flags.attach.is_empty();
    let attach_stdin = attached("stdin") || (default && flags.interactive);

    let mut labels = std::collections::BTreeMap::new();
    for label in env::gather(&flags.label_file, &flags.label, &|_| None)? {
        let (key, value) = label.split_once('=').unwrap_or((&label, ""));
        labels.insert(key.to_owned(), value.to_owned());
    }
    let mut exposed = EmptySet::default();
    for ports in &flags.expose {
        exposed.extend(client(net::expose(ports))?.into_iter().map(|port| (port, Empty {})));
    }
    if let Some(workdir) = flags.workdir.as_deref().filter(|dir| !dir.is_empty() && !dir.starts_with('/')) {
        return daemon(format!(
            "the working directory '{workdir}' is invalid, it needs to be an absolute path"
        ));
    }
    let signal = flags.stop_signal.clone().unwrap_or_default();
    if !signal.is_empty() && !is_signal(&signal) {
        return daemon(format!("invalid signal: {signal}"));
    }
    Ok(Config {
        hostname: flags.hostname.clone().unwrap_or_default(),
        domainname: flags.domainname.clone().unwrap_or_default(),
        user: flags.user.clone().unwrap_or_default(),
        attach_stdin,
        attach_stdout: attached("stdout") || default,
        attach_stderr: attached("stderr") || default,
        exposed_ports: (!exposed.is_empty()).then_some(exposed),
        tty: flags.tty,
        open_stdin: flags.interactive,
        stdin_once: flags.interactive && attach_stdin,
        env: env::gather(&flags.env_file, &flags.env, around.lookup)?,
        cmd: some(flags.command().to_vec()),
        image: flags.image().to_owned(),
        working_dir: flags
            .workdir
            .as_deref()
            .filter(|dir| !dir.is_empty())
            .map(mount::clean)
            .unwrap_or_default(),
        entrypoint: flags.entrypoint.clone().map(|word| vec![word]),
        labels,
        stop_signal: signal,
        stop_timeout: flags.stop_timeout,
        healthcheck: healthcheck(flags)?,
        ..Config::default()
    })
}

/// A signal's number, or its name with or without `SIG`.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.starts_with("SIGRTMIN")
        || name.starts_with("SIGRTMAX")
        || name.parse::<nix::sys::signal::Signal>().is_ok()
}

fn healthcheck(flags: &ContainerFlags) -> Result<Option<Healthcheck>, Refusal> {
    let durations = [
        ("interval", flags.health_interval),
        ("timeout", flags.health_timeout),
        ("retries", flags.health_retries),
        ("start-period", flags.health_start_period),
        ("start-interval", flags.health_start_interval),
    ];
    let given = flags.health_cmd.is_some() || durations.iter().any(|(_, value)| value.is_some());
    if flags.no_healthcheck {
        if given {
            return client(Err("--no-healthcheck conflicts with --health-* options".to_owned()));
        }
        return Ok(Some(Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() }));
    }
    if !given {
        return Ok(None);
    }
    for (name, value) in durations {
        let value = value.unwrap_or(0);
        if value < 0 {
            return client(Err(format!("--health-{name} cannot be negative")));
        }
        if name != "retries" && value != 0 && value < 1_000_000 {
            let name = match name {
                "interval" => "Interval",
                "timeout" => "Timeout",
                "start-period" => "StartPeriod",
                _ => "StartInterval",
            };
            return daemon(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    let test = flags.health_cmd.clone().filter(|line| !line.is_empty());
    Ok(Some(Healthcheck {
        test: test.map(|line| vec!["CMD-SHELL".to_owned(), line]).unwrap_or_default(),
        interval: flags.health_interval.unwrap_or(0),
        timeout: flags.health_timeout.unwrap_or(0),
        retries: flags.health_retries.unwrap_or(0),
        start_period: flags.health_start_period.unwrap_or(0),
        start_interval: flags.health_start_interval.unwrap_or(0),
    }))
}

fn resources(flags: &ContainerFlags) -> Result<Resources, Refusal> {
    let swappiness = flags.memory_swappiness.filter(|value| *value != -1);
    if let Some(value) = swappiness.filter(|value| !(0..=100).contains(value)) {
        return client(Err(format!("invalid value: {value}. Valid memory swappiness range is 0-100")));
    }
    let priority = match flags.oom_priority {
        None => None,
        Some(value @ 0..=100) => Some(value as u8),
        Some(value) => {
            return client(Err(format!("invalid value: {value}. Valid OOM priority range is 0-100")));
        }
    };
    let mut given = Vec::new();
    for device in &flags.device {
        given.push(client(devices::mapping(device))?);
    }
    let resources = Resources {
        cpu_shares: flags.cpu_shares.unwrap_or(0),
        memory: flags.memory.unwrap_or(0),
        nano_cpus: flags.cpus.unwrap_or(0),
        blkio_weight: flags.blkio_weight.unwrap_or(0),
        blkio_weight_device: flags.blkio_weight_device.clone(),
        blkio_device_read_bps: flags.device_read_bps.clone(),
        blkio_device_write_bps: flags.device_write_bps.clone(),
        blkio_device_read_iops: flags.device_read_iops.clone(),
        blkio_device_write_iops: flags.device_write_iops.clone(),
        cpu_burst: flags.cpu_burst.unwrap_or(0),
        cpu_period: flags.cpu_period.unwrap_or(0),
        cpu_quota: flags.cpu_quota.unwrap_or(0),
        cpuset_cpus: flags.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: flags.cpuset_mems.clone().unwrap_or_default(),
        devices: given,
        device_cgroup_rules: some(flags.device_cgroup_rule.clone()),
        memory_reservation: flags.memory_reservation.unwrap_or(0),
        memory_swap: flags.memory_swap.unwrap_or(0),
        memory_swappiness: swappiness,
        memory_high: flags.memory_high.unwrap_or(0),
        memory_min: flags.memory_min.unwrap_or(0),
        hugepage_limits: flags.hugetlb.clone(),
        oom_kill_disable: flags.oom_kill_disable,
        oom_group: flags.oom_group.then_some(true),
        oom_priority: priority,
        pids_limit: flags.pids_limit,
        ulimits: flags.ulimit.clone(),
    };
    Ok(resources)
}

fn capabilities(names: &[String], list: &str) -> Result<Option<Vec<String>>, Refusal> {
    #[rustfmt::skip]
    const KNOWN: [&str; 41] = [
        "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
        "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
        "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
        "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
        "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let mut all: Vec<String> = Vec::new();
    for name in names {
        let upper = name.trim().to_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let full = if bare == "ALL" { "ALL".to_owned() } else { format!("CAP_{bare}") };
        if bare != "ALL" && !KNOWN.contains(&bare) {
            return daemon(format!("invalid {list}: unknown capability: {full:?}"));
        }
        if !all.contains(&full) {
            all.push(full);
        }
    }
    Ok(some(all))
}

/// What `--security-opt` says, with a seccomp profile's file read in, and whether system paths stay open.
fn security(options: &[String]) -> Result<(Vec<String>, bool), Refusal> {
    let mut all = Vec::new();
    let mut open = false;
    for option in options {
        let Some((key, value)) = option.split_once('=').or_else(|| option.split_once(':')) else {
            if option != "no-new-privileges" {
                return client(Err(format!("Invalid --security-opt: {option:?}")));
            }
            all.push(option.clone());
            continue;
        };
        match (key, value) {
            ("systempaths", "unconfined") => open = true,
            ("seccomp", "unconfined" | "builtin") | ("label" | "apparmor", _) => {
                all.push(format!("{key}={value}"));
            }
            ("no-new-privileges", "true" | "false") => all.push(format!("{key}={value}")),
            ("seccomp", path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    let reason = env::reason(&error);
                    Refusal::Client(format!("opening seccomp profile ({path}) failed: open {path}: {reason}"))
                })?;
                let profile: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
                    Refusal::Client(format!("compacting json for seccomp profile ({path}) failed: {error}"))
                })?;
                all.push(format!("seccomp={profile}"));
            }
            _ => return daemon(format!("invalid --security-opt 2: {option:?}")),
        }
    }
    Ok((all, open))
}

fn host_half(
    flags: &ContainerFlags,
    config: &mut Config,
    around: &Surroundings<'_>,
) -> Result<HostConfig, Refusal> {
    let refused = |error: mounts::Invalid| Refusal::Daemon(error.to_string());
    let mut binds = Vec::new();
    for (at, text) in flags.volume.iter().enumerate() {
        // Docker's client keeps them as the keys of a map.
        if flags.volume[..at].contains(text) {
            continue;
        }
        match mount::volume(text, around.directory).map_err(refused)? {
            mount::Volume::Anonymous(target) => {
                config.volumes.get_or_insert_default().insert(target, Empty {});
            }
            mount::Volume::Bind(bind) => binds.push(bind),
        }
    }
    let mut tmpfs = std::collections::BTreeMap::new();
    for text in &flags.tmpfs {
        let (target, options) = mount::tmpfs(text).map_err(Refusal::Daemon)?;
        tmpfs.insert(target, options);
    }
    let mut port_bindings = net::Ports::new();
    for text in &flags.publish {
        for (port, mut bindings) in client(net::publish(text))? {
            config.exposed_ports.get_or_insert_default().insert(port.clone(), Empty {});
            port_bindings.entry(port).or_default().append(&mut bindings);
        }
    }
    let restart_policy = restart::policy(flags.restart.as_deref().unwrap_or_default())?;
    if flags.rm && restart_policy.name != "no" {
        return client(Err("conflicting options: cannot specify both --restart and --rm".to_owned()));
    }
    let score = flags.oom_score_adj.unwrap_or(0);
    if !(-1000..=1000).contains(&score) {
        return daemon(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"));
    }
    if let Some(path) = flags.cidfile.as_deref().filter(|path| std::path::Path::new(path).exists()) {
        return client(Err(format!(
            "container ID file found, make sure the other container isn't running or delete {path}"
        )));
    }
    match flags.runtime.as_deref() {
        None | Some("" | "bulkhead") => {}
        Some(other) => return daemon(format!("unknown or invalid runtime name: {other}")),
    }
    match flags.volume_driver.as_deref() {
        None | Some("" | "local") => {}
        Some(other) => {
            return daemon(format!("error looking up volume plugin {other}: plugin {other:?} not found"));
        }
    }
    if !flags.storage_opt.is_empty() {
        return daemon("--storage-opt is supported only for overlay over xfs with 'pquota' mount option");
    }
    if let Some(platform) = &flags.platform {
        let parts = platform.split('/').count();
        if platform.is_empty() || parts > 3 || platform.split('/').any(str::is_empty) {
            return client(Err(format!(
                "error parsing specified platform: {platform:?}: cannot parse platform specifier: invalid argument"
            )));
        }
    }
    let (security_opt, open) = security(&flags.security_opt)?;
    let sysctls = flags
        .sysctl
        .iter()
        .filter_map(|text| text.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let annotations = flags.annotation.iter().map(|text| text.split_once('=').unwrap_or((text, "")));
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let pid_mode = namespace(flags.pid.as_deref(), &["host"], true)
        .ok_or_else(|| Refusal::Client("--pid: invalid PID mode".to_owned()))?;
    let uts_mode = namespace(flags.uts.as_deref(), &["host"], false)
        .ok_or_else(|| Refusal::Client("--uts: invalid UTS mode".to_owned()))?;
    let userns_mode = namespace(flags.userns.as_deref(), &["host"], false)
        .ok_or_else(|| Refusal::Client("--userns: invalid USER mode".to_owned()))?;
    let cgroupns_mode = namespace(flags.cgroupns.as_deref(), &["host", "private"], false)
        .ok_or_else(|| Refusal::Client("--cgroupns: invalid CGROUP mode".to_owned()))?;
    let ipc_mode = namespace(flags.ipc.as_deref(), &["none", "private", "shareable", "host"], true)
        .ok_or_else(|| {
            Refusal::Daemon(format!("invalid IPC mode: {}", flags.ipc.as_deref().unwrap_or_default()))
        })?;
    let network_mode = match flags.network.first() {
        None => "default".to_owned(),
        Some(first) if first.target.is_empty() => return client(Err("no name set for network".to_owned())),
        Some(first) => first.target.clone(),
    };
    let apart =
        |name: &str| matches!(name, "default" | "bridge" | "host" | "none") || name.starts_with("container:");
    if flags.network.iter().any(|on| apart(&on.target)) && !flags.network.iter().all(|on| apart(&on.target)) {
        return client(Err(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                .to_owned(),
        ));
    }
    let host = HostConfig {
        binds: some(binds),
        container_id_file: flags.cidfile.clone().unwrap_or_default(),
        log_config: log_config(flags)?,
        network_mode,
        port_bindings,
        restart_policy,
        auto_remove: flags.rm,
        volumes_from: some(flags.volumes_from.clone()),
        mounts: flags.mount.clone(),
        cap_add: capabilities(&flags.cap_add, "CapAdd")?,
        cap_drop: capabilities(&flags.cap_drop, "CapDrop")?,
        cgroupns_mode,
        dns: flags.dns.clone(),
        dns_options: flags.dns_option.clone(),
        dns_search: flags.dns_search.clone(),
        extra_hosts: some(flags.add_host.clone()),
        group_add: some(flags.group_add.clone()),
        ipc_mode: if ipc_mode.is_empty() { "private".to_owned() } else { ipc_mode },
        cgroup_parent: flags.cgroup_parent.clone().unwrap_or_default(),
        links: some(flags.link.clone()),
        oom_score_adj: score,
        pid_mode,
        privileged: flags.privileged,
        publish_all_ports: flags.publish_all,
        readonly_rootfs: flags.read_only,
        security_opt: some(security_opt),
        tmpfs,
        uts_mode,
        userns_mode,
        shm_size: flags.shm_size.unwrap_or(0),
        // Whoever creates the container knows the terminal.
        console_size: [0; 2],
        annotations,
        sysctls,
        runtime: "bulkhead".to_owned(),
        init: flags.init,
        resources: resources(flags)?,
        masked_paths: open.then(Vec::new),
        readonly_paths: open.then(Vec::new),
    };
    mounts::check(&host).map_err(refused)?;
    Ok(host)
}

/// A namespace's mode: one of `words`, or `container:X` where that exists.
fn namespace(given: Option<&str>, words: &[&str], joins: bool) -> Option<String> {
    let given = given.unwrap_or_default();
    let joined = joins && given.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    (given.is_empty() || words.contains(&given) || joined).then(|| given.to_owned())
}

/// What was said; the rest is the operator's, and whether it makes sense is the engine's to know.
fn log_config(flags: &ContainerFlags) -> Result<LogConfig, Refusal> {
    let driver = flags.log_driver.clone().unwrap_or_default();
    if driver == "none" && !flags.log_opt.is_empty() {
        return client(Err("invalid logging opts for driver none".to_owned()));
    }
    let config = flags.log_opt.iter().map(|option| option.split_once('=').unwrap_or((option, "")));
    let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Ok(LogConfig { driver, config })
}

fn networks(
    flags: &ContainerFlags,
    host: &HostConfig,
    config: &Config,
) -> Result<Vec<net::Attachment>, Refusal> {
    if let Some(mac) = &flags.mac_address {
        let octets: Vec<&str> = mac.split(':').collect();
        if octets.len() != 6 || octets.iter().any(|o| o.len() != 2 || u8::from_str_radix(o, 16).is_err()) {
            return client(Err(format!("{mac} is not a valid mac address")));
        }
    }
    if host.network_mode == "container:" {
        return daemon("invalid container format container:<name|id>");
    }
    combine(config, host, flags.mac_address.is_some()).map_err(|error| Refusal::Daemon(error.to_string()))?;
    for (text, v6) in [(&flags.ip, false), (&flags.ip6, true)] {
        let Some(text) = text else { continue };
        let good = text.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_ipv6() == v6);
        if !good {
            let kind = if v6 { "IPv6" } else { "IPv4" };
            return daemon(format!("invalid {kind} address: {text}"));
        }
    }
    let mut all = flags.network.clone();
    if all.is_empty() {
        all.push(net::Attachment { target: "default".to_owned(), ..net::Attachment::default() });
    }
    let first = &mut all[0];
    first.aliases.extend(flags.network_alias.iter().cloned());
    first.ipv4 = flags.ip.clone().or(first.ipv4.take());
    first.ipv6 = flags.ip6.clone().or(first.ipv6.take());
    first.mac = flags.mac_address.clone().or(first.mac.take());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::grammar;
    use clap::{Args as _, Command, FromArgMatches as _};

    fn creation(argv: &[&str], detached: bool) -> Result<Creation, Refusal> {
        let mut command = grammar::docker(ContainerFlags::augment_args(Command::new("run")));
        let argv = std::iter::once("run").chain(argv.iter().copied());
        let mut matches = command.try_get_matches_from_mut(argv).expect("parses");
        let flags = ContainerFlags::from_arg_matches_mut(&mut matches).expect("flags");
        let lookup = |name: &str| (name == "HERE").then(|| "yes".to_owned());
        create(&flags, detached, &Surroundings { lookup: &lookup, directory: "/cwd" })
    }

    #[test]
    fn the_whole_of_a_long_line() {
        let got = creation(
            &[
                "--name",
                "web",
                "--rm",
                "-it",
                "-e",
                "A=1",
                "-e",
                "HERE",
                "-e",
                "GONE",
                "-w",
                "/srv/../x/",
                "-u",
                "1:2",
                "--entrypoint",
                "sh",
                "-l",
                "k=v",
                "-l",
                "bare",
                "-m",
                "512m",
                "--memory-swap",
                "-1",
                "--memory-high",
                "400m",
                "--oom-group",
                "--oom-priority",
                "70",
                "--cpus",
                "1.5",
                "--pids-limit",
                "100",
                "--ulimit",
                "nofile=10:20",
                "-v",
                "/a:/b:ro",
                "-v",
                "data:/d",
                "-v",
                "./x:/y",
                "-v",
                "/anon",
                "--tmpfs",
                "/run:size=64m",
                "--mount",
                "type=bind,src=/m,dst=/n,ro",
                "-p",
                "8080:80",
                "--expose",
                "90/udp",
                "--cap-add",
                "net_admin",
                "--cap-drop",
                "ALL",
                "--security-opt",
                "no-new-privileges",
                "--security-opt",
                "systempaths=unconfined",
                "--device",
                "/dev/null:/dev/x:r",
                "--restart",
                "no",
                "--network",
                "none",
                "--stop-signal",
                "QUIT",
                "--stop-timeout",
                "3",
                "--health-cmd",
                "true",
                "--health-interval",
                "5s",
                "--init",
                "--shm-size",
                "1g",
                "--sysctl",
                "net.core.somaxconn=5",
                "--log-opt",
                "max-size=10m",
                "alpine:3",
                "-c",
                "true",
            ],
            false,
        )
        .expect("creation");
        let (config, host) = (&got.config, &got.host);
        assert_eq!(
            (got.name.as_deref(), got.image.as_str(), got.pull),
            (Some("web"), "alpine:3", Pull::Missing)
        );
        assert_eq!(config.env, ["A=1", "HERE=yes", "GONE"]);
        assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/x", "1:2"));
        assert_eq!(
            (config.entrypoint.clone(), config.cmd.clone()),
            (Some(vec!["sh".into()]), Some(vec!["-c".into(), "true".into()]))
        );
        assert!(
            config.tty
                && config.open_stdin
                && config.stdin_once
                && config.attach_stdin
                && config.attach_stdout
        );
        assert_eq!(config.labels, [("k".into(), "v".into()), ("bare".into(), String::new())].into());
        let keys =
            |set: &Option<EmptySet>| set.iter().flat_map(|set| set.keys().cloned()).collect::<Vec<_>>();
        assert_eq!(keys(&config.exposed_ports), ["80/tcp", "90/udp"]);
        assert_eq!(keys(&config.volumes), ["/anon"]);
        assert_eq!((config.stop_signal.as_str(), config.stop_timeout), ("QUIT", Some(3)));
        let health = config.healthcheck.as_ref().expect("health");
        assert_eq!((health.test.join(" "), health.interval), ("CMD-SHELL true".into(), 5_000_000_000));
        assert_eq!(host.binds.as_deref().unwrap_or_default(), ["/a:/b:ro", "data:/d", "/cwd/x:/y"]);
        let r = &host.resources;
        assert_eq!((r.memory, r.memory_swap, r.memory_high), (512 << 20, -1, 400 << 20));
        assert_eq!(
            (r.oom_group, r.oom_priority, r.nano_cpus, r.pids_limit),
            (Some(true), Some(70), 1_500_000_000, Some(100))
        );
        assert_eq!((host.shm_size, host.init, host.network_mode.as_str()), (1 << 30, Some(true), "none"));
        assert_eq!(host.cap_add.as_deref(), Some(&["CAP_NET_ADMIN".to_owned()][..]));
        assert_eq!(host.cap_drop.as_deref(), Some(&["ALL".to_owned()][..]));
        assert_eq!((host.masked_paths.clone(), host.readonly_paths.clone()), (Some(vec![]), Some(vec![])));
        assert_eq!(host.security_opt.as_deref(), Some(&["no-new-privileges".to_owned()][..]));
        assert_eq!(r.devices[0].path_in_container, "/dev/x");
        assert!(host.auto_remove && host.port_bindings.contains_key("80/tcp"));
    }

    #[test]
    fn defaults() {
        let got = creation(&["alpine"], true).expect("creation");
        assert!(!got.config.attach_stdout && !got.config.attach_stdin && !got.config.open_stdin);
        assert_eq!((got.config.cmd, got.config.entrypoint, got.config.healthcheck), (None, None, None));
        let host = got.host;
        assert_eq!(
            (host.network_mode.as_str(), host.ipc_mode.as_str(), host.shm_size),
            ("default", "private", 0)
        );
        assert_eq!((host.restart_policy.name.as_str(), host.masked_paths, host.binds), ("no", None, None));
        assert_eq!(host.resources, Resources::default());
        let twice =
            creation(&["--name", "", "-v", "/a:/x", "-v", "/a:/x", "alpine"], true).expect("creation");
        assert_eq!((twice.name, twice.host.binds), (None, Some(vec!["/a:/x".to_owned()])));
        let empty = creation(&["--entrypoint", "", "alpine", "x"], false).expect("creation");
        assert_eq!(empty.config.entrypoint, Some(vec![String::new()]));
    }

    #[test]
    fn refusals() {
        const DAEMON: &str = "Error response from daemon: ";
        let rows: &[(&[&str], &str)] = &[
            (&["--pid", "foo"], "--pid: invalid PID mode"),
            (&["--uts", "foo"], "--uts: invalid UTS mode"),
            (&["--userns", "foo"], "--userns: invalid USER mode"),
            (&["--cgroupns", "foo"], "--cgroupns: invalid CGROUP mode"),
            (&["--ipc", "foo"], "!invalid IPC mode: foo"),
            (&["--network", ""], "no name set for network"),
            (
                &["--network", "none", "--network", "n1"],
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
            ),
            (&["--network", "container:"], "!invalid container format container:<name|id>"),
            (
                &["--network", "container:x", "-p", "80:80"],
                "!conflicting options: port publishing and the container type network mode",
            ),
            (&["--network", "container:x", "-h", "a"], "!conflicting options: hostname and the network mode"),
            (&["--security-opt", "foo"], "Invalid --security-opt: \"foo\""),
            (
                &["--security-opt", "seccomp=/nonexist"],
                "opening seccomp profile (/nonexist) failed: open /nonexist: no such file or directory",
            ),
            (&["--rm", "--restart", "always"], "conflicting options: cannot specify both --restart and --rm"),
            (&["--health-interval", "-1s"], "--health-interval cannot be negative"),
            (&["--health-retries", "-1"], "--health-retries cannot be negative"),
            (
                &["--no-healthcheck", "--health-cmd", "foo"],
                "--no-healthcheck conflicts with --health-* options",
            ),
            (
                &["--pull", "foo"],
                "invalid pull option: 'foo': must be one of \"always\", \"missing\" or \"never\"",
            ),
            (
                &["--platform", "a/b/c/d"],
                "error parsing specified platform: \"a/b/c/d\": cannot parse platform specifier: invalid argument",
            ),
            (&["--gpus", "all"], "!could not select device driver \"\" with capabilities: [[gpu]]"),
            (&["--log-driver", "none", "--log-opt", "a=b"], "invalid logging opts for driver none"),
            (&["--mac-address", "foo"], "foo is not a valid mac address"),
            (&["--memory-swappiness", "300"], "invalid value: 300. Valid memory swappiness range is 0-100"),
            (&["--oom-priority", "101"], "invalid value: 101. Valid OOM priority range is 0-100"),
            (&["--oom-score-adj", "4000"], "!Invalid value 4000, range for oom score adj is [-1000, 1000]"),
            (&["-p", "foo"], "invalid containerPort: foo"),
            (&["--expose", "80:80"], "invalid port format for --expose: 80:80"),
            (&["-w", "foo"], "!the working directory 'foo' is invalid, it needs to be an absolute path"),
            (&["--stop-signal", "FOO"], "!invalid signal: FOO"),
            (&["--cap-add", "foo"], "!invalid CapAdd: unknown capability: \"CAP_FOO\""),
            (&["--runtime", "foo"], "!unknown or invalid runtime name: foo"),
            (&["-v", "/a:/x", "--tmpfs", "/x/"], "!Duplicate mount point: /x"),
            (&["-v", "a:b:c:d"], "!invalid volume specification: 'a:b:c:d'"),
            (&["--env-file", "/nonexist"], "open /nonexist: no such file or directory"),
            (&["--device", "/dev/x:/dev/y:q"], "bad mode specified: q"),
            (
                &["--cidfile", "/"],
                "container ID file found, make sure the other container isn't running or delete /",
            ),
            (&["-h", "x", "--uts", "host"], "!conflicting options: hostname and the UTS mode"),
            (&["--ip", "foo"], "!invalid IPv4 address: foo"),
        ];
        for (flags, want) in rows {
            let argv: Vec<&str> = flags.iter().copied().chain(["image"]).collect();
            let got = creation(&argv, false).expect_err(want).to_string();
            let want =
                want.strip_prefix('!').map_or_else(|| (*want).to_owned(), |want| format!("{DAEMON}{want}"));
            assert_eq!(got, want, "{flags:?}");
        }
        assert_eq!(
            creation(&["-a", "stdin", "x"], true).expect_err("refused").to_string(),
            "conflicting options: cannot specify both --attach and --detach"
        );
        let run = Refusal::Daemon("x".into()).failure("run");
        assert_eq!(
            (run.code, run.message.lines().next()),
            (125, Some("bulkhead: Error response from daemon: x"))
        );
        assert_eq!(
            Refusal::Daemon("x".into()).failure("create"),
            Failure::plain("Error response from daemon: x")
        );
    }
}
