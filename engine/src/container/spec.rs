//! From what a user asked for to what a runtime executes: Docker's configuration as an OCI spec.
//!
//! Everything Docker decides between the two is decided here and nowhere else: the default mounts and
//! capabilities, what `--privileged` lifts, whose namespaces are shared, which numbers a user's name
//! stands for. The result is a plain OCI runtime spec, so the same runtime serves `run` and
//! `bulkhead oci`.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxResources, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, Spec, User, UserBuilder,
};

use super::record::{self, Container, Status};
use super::users::{self, Identity};
use super::{Error, InvalidConfig, IoContext as _};
use crate::cgroup::Mounts;
use crate::config::{Config, HostConfig};
use crate::runtime::defaults;
use crate::store::Store;

/// The search path of a container whose image sets none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A spec and what the user should be told about it.
#[derive(Debug)]
pub struct Built {
    /// The spec.
    pub spec: Spec,
    /// What was asked for and could not be given.
    pub warnings: Vec<String>,
    /// The mount namespace whose /dev/shm this container has (`--ipc container:`). POSIX shared memory
    /// is files there, so an IPC namespace alone would share half of what was asked for.
    pub shm_of: Option<PathBuf>,
}

impl Built {
    /// The limits, for the cgroup.
    pub fn resources(&self) -> &LinuxResources {
        self.spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref())
            .expect("build always sets resources")
    }
}

/// What is executed besides process 1.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
pub struct ExecOptions {
    /// The command.
    pub args: Vec<String>,
    /// `KEY=value`, added to the container's.
    pub env: Vec<String>,
    /// The directory; the container's when empty.
    pub working_dir: String,
    /// The user; the container's when empty.
    pub user: String,
    /// On a terminal of its own.
    pub tty: bool,
    /// With every capability.
    pub privileged: bool,
    /// Lines and columns of its terminal as it begins.
    #[serde(default)]
    pub size: Option<(u16, u16)>,
}

/// Refuses at creation what could only fail at the start.
pub fn check(store: &Store, host: &HostConfig) -> Result<(), Error> {
    capabilities(host)?;
    for ulimit in &host.resources.ulimits {
        rlimit_type(&ulimit.name)?;
    }
    for (kind, mode) in [("PID", &host.pid_mode), ("IPC", &host.ipc_mode)] {
        let known = ["", "host", "private", "shareable", "none"];
        match mode.strip_prefix("container:") {
            Some(other) => drop(record::find(store, other)?),
            None if known.contains(&mode.as_str()) => {}
            None => return Err(InvalidConfig::Mode { kind, value: mode.clone() }.into()),
        }
    }
    if !matches!(host.uts_mode.as_str(), "" | "host" | "private") {
        return Err(InvalidConfig::Mode { kind: "UTS", value: host.uts_mode.clone() }.into());
    }
    // Other names are networks, and the network module's to judge.
    if let Some(other) = host.network_mode.strip_prefix("container:") {
        record::find(store, other)?;
    }
    for option in host.security_opt.iter().flatten() {
        if let SecurityOption::SeccompProfile(profile) = security_option(option)? {
            seccomp_profile(&profile)?;
        }
    }
    Ok(())
}

/// Refuses what does not combine with the namespaces that a container shares. `config` is what was asked for, before an
/// image adds to it: a port that an image exposes contradicts nothing.
pub fn combine(config: &Config, host: &HostConfig, has_mac: bool) -> Result<(), InvalidConfig> {
    let conflict = |given: bool, what| if given { Err(InvalidConfig::Conflict(what)) } else { Ok(()) };
    conflict(host.uts_mode == "host" && !config.hostname.is_empty(), "hostname and the UTS mode")?;
    let mode = host.network_mode.as_str();
    conflict(
        mode == "host" && host.links.is_some(),
        "host type networking can't be used with links. This would result in undefined behavior",
    )?;
    if !mode.starts_with("container:") {
        return Ok(());
    }
    conflict(!config.hostname.is_empty(), "hostname and the network mode")?;
    conflict(
        host.links.is_some(),
        "container type network can't be used with links. This would result in undefined behavior",
    )?;
    conflict(!host.dns.is_empty(), "dns and the network mode")?;
    conflict(host.extra_hosts.is_some(), "custom host-to-IP mapping and the network mode")?;
    conflict(has_mac, "mac-address and the network mode")?;
    conflict(
        !host.port_bindings.is_empty() || host.publish_all_ports,
        "port publishing and the container type network mode",
    )?;
    conflict(config.exposed_ports.is_some(), "port exposing and the container type network mode")
}

/// One `--security-opt`.
enum SecurityOption {
    SeccompUnconfined,
    SeccompBuiltin,
    /// What a client has read, or the file of a record from before clients did.
    SeccompProfile(String),
    NoNewPrivileges(bool),
    SystemPathsUnconfined,
    /// Mandatory access control of a kind this host may not have; recorded, shown, not enforced.
    Label,
}

fn security_option(text: &str) -> Result<SecurityOption, Error> {
    let bad = || Error::from(InvalidConfig::SecurityOpt(text.to_owned()));
    let (key, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    Ok(match (key, value) {
        ("no-new-privileges", None | Some("true")) => SecurityOption::NoNewPrivileges(true),
        ("no-new-privileges", Some("false")) => SecurityOption::NoNewPrivileges(false),
        ("seccomp", Some("unconfined")) => SecurityOption::SeccompUnconfined,
        ("seccomp", Some("builtin")) => SecurityOption::SeccompBuiltin,
        ("seccomp", Some(profile)) if !profile.is_empty() => SecurityOption::SeccompProfile(profile.into()),
        ("systempaths", Some("unconfined")) => SecurityOption::SystemPathsUnconfined,
        ("label" | "apparmor", Some(_)) => SecurityOption::Label,
        _ => return Err(bad()),
    })
}

fn capability(name: &str) -> Result<Capability, Error> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    bare.parse().map_err(|_| InvalidConfig::Capability(name.to_owned()).into())
}

/// Docker's rule: drops first when both name ALL, otherwise adds win over the default and drops over adds.
fn capabilities(host: &HostConfig) -> Result<Capabilities, Error> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    let (adds, drops) = (host.cap_add.as_deref().unwrap_or(&[]), host.cap_drop.as_deref().unwrap_or(&[]));
    if host.privileged {
        return Ok(defaults::all_capabilities());
    }
    let mut set = match (adds.iter().any(is_all), drops.iter().any(is_all)) {
        (true, _) => defaults::all_capabilities(),
        (false, true) => Capabilities::new(),
        (false, false) => defaults::capabilities(),
    };
    let mut dropped = Capabilities::new();
    for name in drops.iter().filter(|name| !is_all(name)) {
        dropped.insert(capability(name)?);
    }
    set.retain(|capability| !dropped.contains(capability));
    for name in adds.iter().filter(|name| !is_all(name)) {
        set.insert(capability(name)?);
    }
    Ok(set)
}

fn rlimit_type(name: &str) -> Result<PosixRlimitType, Error> {
    format!("RLIMIT_{}", name.to_ascii_uppercase())
        .parse()
        .map_err(|_| InvalidConfig::Ulimit(name.to_owned()).into())
}

fn rlimits(host: &HostConfig) -> Result<Vec<PosixRlimit>, Error> {
    host.resources
        .ulimits
        .iter()
        .map(|ulimit| {
            Ok(PosixRlimitBuilder::default()
                .typ(rlimit_type(&ulimit.name)?)
                .hard(ulimit.hard as u64)
                .soft(ulimit.soft as u64)
                .build()
                .expect("every field has a value"))
        })
        .collect()
}

/// The directories of a container's overlay, topmost first.
fn stack(store: &Store, container: &Container) -> Vec<PathBuf> {
    let layers = store.layout().layers();
    std::iter::once(container.dir(store.layout()).join("upper"))
        .chain(container.record.chain.iter().rev().map(|chain| layers.join(chain.0.hex()).join("diff")))
        .collect()
}

fn identity(store: &Store, container: &Container, user: &str) -> Result<Identity, Error> {
    let stack = stack(store, container);
    let text = |file: &str| {
        let target = format!("/etc/{file}");
        match container.record.mounts.iter().rev().find(|mount| mount.destination == target) {
            Some(mount) => fs::read_to_string(&mount.source).unwrap_or_default(),
            None => users::read(&stack, "etc", file),
        }
    };
    let extra = container.record.host_config.group_add.as_deref().unwrap_or(&[]);
    users::resolve(user, &text("passwd"), &text("group"), extra)
}

fn oci_user(identity: &Identity) -> User {
    UserBuilder::default()
        .uid(identity.uid)
        .gid(identity.gid)
        .additional_gids(identity.groups.clone())
        .build()
        .expect("every field has a value")
}

/// The environment: a default path, the host name, the terminal, then what the image and the user set.
fn environment(config: &Config, hostname: &str, tty: bool, home: &str, more: &[String]) -> Vec<String> {
    let key = |entry: &str| entry.split('=').next().unwrap_or("").to_owned();
    let mut env: Vec<String> = vec![PATH.into(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".into());
    }
    for entry in config.env.iter().chain(more) {
        // An entry without `=` removes the variable, as in Docker.
        let name = key(entry);
        let at = env.iter().position(|have| key(have) == name);
        match (at, entry.contains('=')) {
            (Some(at), true) => env[at].clone_from(entry),
            (None, true) => env.push(entry.clone()),
            (Some(at), false) => drop(env.remove(at)),
            (None, false) => {}
        }
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

fn process(
    store: &Store,
    container: &Container,
    user: &str,
    args: Vec<String>,
    tty: bool,
    more_env: &[String],
) -> Result<Process, Error> {
    let (config, host) = (&container.record.config, &container.record.host_config);
    let identity = identity(store, container, user)?;
    let set = capabilities(host)?;
    let mut process = Process::default();
    let cwd = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    process
        .set_terminal(Some(tty))
        .set_user(oci_user(&identity))
        .set_args(Some(args))
        .set_cwd(cwd.into())
        .set_capabilities(Some(defaults::capability_sets(&set, identity.uid == 0)))
        .set_rlimits(Some(rlimits(host)?))
        .set_no_new_privileges(Some(no_new_privileges(host)?))
        .set_env(Some(environment(config, &hostname(config), tty, &identity.home, more_env)));
    if host.oom_score_adj != 0 {
        process.set_oom_score_adj(i32::try_from(host.oom_score_adj).ok());
    }
    Ok(process)
}

fn no_new_privileges(host: &HostConfig) -> Result<bool, Error> {
    let mut answer = false;
    for option in host.security_opt.iter().flatten() {
        if let SecurityOption::NoNewPrivileges(value) = security_option(option)? {
            answer = value;
        }
    }
    Ok(answer)
}

fn hostname(config: &Config) -> String {
    if config.hostname.is_empty() {
        nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
    } else {
        config.hostname.clone()
    }
}

/// The process of an `exec`.
pub fn exec_process(store: &Store, container: &Container, options: &ExecOptions) -> Result<Process, Error> {
    let user = if options.user.is_empty() { &container.record.config.user } else { &options.user };
    let mut process = process(store, container, user, options.args.clone(), options.tty, &options.env)?;
    if !options.working_dir.is_empty() {
        process.set_cwd(options.working_dir.clone().into());
    }
    if options.privileged {
        process.set_capabilities(Some(defaults::capability_sets(&defaults::all_capabilities(), true)));
    }
    Ok(process)
}

/// The filter of a container's processes; `None` when unconfined.
pub fn seccomp(host: &HostConfig) -> Result<Option<oci_spec::runtime::LinuxSeccomp>, Error> {
    let set = capabilities(host)?;
    let mut chosen = if host.privileged { None } else { Some(None) };
    for option in host.security_opt.iter().flatten() {
        match security_option(option)? {
            SecurityOption::SeccompUnconfined => chosen = None,
            SecurityOption::SeccompBuiltin => chosen = Some(None),
            SecurityOption::SeccompProfile(profile) => chosen = Some(Some(profile)),
            _ => {}
        }
    }
    match chosen {
        None => Ok(None),
        Some(None) => Ok(Some(defaults::seccomp(&set))),
        Some(Some(profile)) => Ok(Some(seccomp_profile(&profile)?.resolve(&set))),
    }
}

fn seccomp_profile(given: &str) -> Result<crate::runtime::Profile, InvalidConfig> {
    if given.trim_start().starts_with('{') {
        return crate::runtime::Profile::parse(given.as_bytes())
            .map_err(|error| InvalidConfig::SeccompText(error.to_string()));
    }
    let bad = |reason: String| InvalidConfig::Seccomp { path: given.to_owned(), reason };
    let text = fs::read(given).map_err(|error| bad(error.to_string()))?;
    crate::runtime::Profile::parse(&text).map_err(|error| bad(error.to_string()))
}

/// What confines a container's processes, and no more: which namespaces it shares, and its filter. For
/// [`crate::runtime::exec`], which takes the rest from process 1.
pub fn confinement(store: &Store, container: &Container) -> Result<Spec, Error> {
    let (config, host) = (&container.record.config, &container.record.host_config);
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(store, host, is_host_uts(config, host))?))
        .set_seccomp(seccomp(host)?);
    let mut spec = Spec::default();
    spec.set_linux(Some(linux));
    Ok(spec)
}

/// A container that shares the host's network and names no host of its own has the host's name.
fn is_host_uts(config: &Config, host: &HostConfig) -> bool {
    host.uts_mode == "host" || (host.network_mode == "host" && config.hostname.is_empty())
}

/// Builds the spec of a container, making the files it binds.
pub fn build(store: &Store, container: &Container) -> Result<Built, Error> {
    let (config, host) = (&container.record.config, &container.record.host_config);
    let mut warnings = Vec::new();
    let mut spec = if host.privileged { defaults::privileged()? } else { defaults::spec() };

    let args =
        std::iter::once(container.record.path.clone()).chain(container.record.args.iter().cloned()).collect();
    spec.set_process(Some(process(store, container, &config.user, args, config.tty, &[])?));
    let host_uts = is_host_uts(config, host);
    spec.set_hostname((!host_uts).then(|| hostname(config)));
    spec.set_domainname((!config.domainname.is_empty() && !host_uts).then(|| config.domainname.clone()));
    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(host.readonly_rootfs));
    }
    if !host.annotations.is_empty() {
        spec.set_annotations(Some(host.annotations.clone().into_iter().collect()));
    }

    let mut mounts: Vec<Mount> = spec.mounts().clone().unwrap_or_default();
    shared_memory(host, &mut mounts);
    mounts.extend(etc_files(store, container)?);
    user_mounts(container, &mut mounts)?;
    spec.set_mounts(Some(mounts));

    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_namespaces(Some(namespaces(store, host, host_uts)?));
    linux.set_seccomp(seccomp(host)?);
    linux.set_cgroups_path(Some(Path::new(&container.record.cgroup_parent).join(&container.id)));
    if !host.sysctls.is_empty() {
        linux.set_sysctl(Some(host.sysctls.clone().into_iter().collect::<HashMap<_, _>>()));
    }
    if let Some(paths) = &host.masked_paths {
        linux.set_masked_paths(Some(paths.clone()));
    }
    if let Some(paths) = &host.readonly_paths {
        linux.set_readonly_paths(Some(paths.clone()));
    }
    if paths_are_open(host) {
        linux.set_masked_paths(None).set_readonly_paths(None);
    }
    let mut resources = crate::cgroup::resources::of(&host.resources)?;
    let mut rules =
        linux.resources().as_ref().and_then(|resources| resources.devices().clone()).unwrap_or_default();
    let mut devices = linux.devices().clone().unwrap_or_default();
    for mapping in &host.resources.devices {
        let (device, rule) =
            device(&mapping.path_on_host, &mapping.path_in_container, &mapping.cgroup_permissions)?;
        devices.extend(device);
        rules.extend(rule);
    }
    for rule in host.resources.device_cgroup_rules.iter().flatten() {
        rules.push(crate::cgroup::resources::device_rule(rule)?);
    }
    resources.set_devices(Some(rules));
    linux.set_devices(Some(devices));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));

    for option in host.security_opt.iter().flatten() {
        if matches!(security_option(option)?, SecurityOption::Label)
            && !option.ends_with("disable")
            && !option.ends_with("unconfined")
        {
            warnings.push(format!(
                "security option {option:?} is not enforced: Bulkhead sets no SELinux or AppArmor label"
            ));
        }
    }
    let shm_of = match host.ipc_mode.strip_prefix("container:") {
        Some(other) => Some(format!("/proc/{}/ns/mnt", record::find(store, other)?.state.pid).into()),
        None => None,
    };
    Ok(Built { spec, warnings, shm_of })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
        .expect("every field has a value")
}

fn shared_memory(host: &HostConfig, mounts: &mut Vec<Mount>) {
    mounts.retain(|mount| mount.destination() != Path::new("/dev/shm"));
    if host.ipc_mode == "host" {
        mounts.retain(|mount| mount.destination() != Path::new("/dev/mqueue"));
        mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"]));
        if Path::new("/dev/mqueue").is_dir() {
            mounts.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "rprivate"]));
        }
    } else if host.ipc_mode != "none" && !host.ipc_mode.starts_with("container:") {
        let size = if host.shm_size > 0 { host.shm_size } else { 64 << 20 };
        let size = format!("size={size}");
        mounts.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
    }
}

/// Whose a container's network is: its own, or that of the container it joins, which may have joined another.
fn network_owner(store: &Store, container: &Container) -> Result<Container, Error> {
    let mut owner = container.clone();
    let mut passed = HashSet::new();
    while let Some(other) = owner.record.host_config.network_mode.strip_prefix("container:") {
        let other = record::find(store, other)?;
        if !passed.insert(other.id.clone()) {
            return Err(Error::JoinStopped { kind: "network", id: other.id });
        }
        owner = other;
    }
    Ok(owner)
}

/// Writes and binds /etc/hostname, /etc/hosts and /etc/resolv.conf.
fn etc_files(store: &Store, container: &Container) -> Result<Vec<Mount>, Error> {
    // The network's identity may be another container's: then its files are, too.
    let owner = network_owner(store, container)?;
    let dir = store.layout().etc(&owner.id);
    if owner.id == container.id {
        write_etc_files(container, &dir)?;
    }
    // As Docker's: what is not to be written to is not to be written to here, either.
    let access = if container.record.host_config.readonly_rootfs { "ro" } else { "rw" };
    Ok(["hostname", "hosts", "resolv.conf"]
        .into_iter()
        .filter(|file| {
            let target = format!("/etc/{file}");
            !container.record.mounts.iter().any(|mount| mount.destination == target)
        })
        .map(|file| {
            let source = dir.join(file);
            mount(&format!("/etc/{file}"), "bind", &source.to_string_lossy(), &["bind", access, "rprivate"])
        })
        .collect())
}

fn write_etc_files(container: &Container, dir: &Path) -> Result<(), Error> {
    let (config, host) = (&container.record.config, &container.record.host_config);
    let name = hostname(config);
    let write = |file: &str, text: &str| {
        let path = dir.join(file);
        fs::write(&path, text).at("write", &path)
    };
    write("hostname", &format!("{name}\n"))?;
    let is_host = host.network_mode == "host";
    let mut hosts =
        if is_host { fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
    if !is_host {
        hosts.push_str(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
             ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
        );
    }
    for entry in host.extra_hosts.iter().flatten() {
        if let Some((name, address)) = entry.split_once(':') {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            hosts.extend([address, "\t", name, "\n"]);
        }
    }
    write("hosts", &hosts)?;
    let mut resolv = String::new();
    if host.dns.is_empty() {
        let of_host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        for line in of_host.lines() {
            let overridden = (line.starts_with("search") && !host.dns_search.is_empty())
                || (line.starts_with("options") && !host.dns_options.is_empty());
            if !overridden {
                resolv.push_str(line);
                resolv.push('\n');
            }
        }
    }
    for server in &host.dns {
        resolv.extend(["nameserver ", server, "\n"]);
    }
    if !host.dns_search.is_empty() && host.dns_search != ["."] {
        resolv.extend(["search ", &host.dns_search.join(" "), "\n"]);
    }
    if !host.dns_options.is_empty() {
        resolv.extend(["options ", &host.dns_options.join(" "), "\n"]);
    }
    write("resolv.conf", &resolv)
}

fn user_mounts(container: &Container, mounts: &mut Vec<Mount>) -> Result<(), Error> {
    let host = &container.record.host_config;
    for point in &container.record.mounts {
        let access = if point.rw { "rw" } else { "ro" };
        mounts.retain(|mount| mount.destination() != Path::new(&point.destination));
        if point.kind == "volume" {
            let source = super::volumes::source(point)?;
            let options = ["rbind", access, "rprivate", crate::runtime::PLAIN_SOURCE];
            let given = if point.subpath.is_empty() { &options[..3] } else { &options };
            mounts.push(mount(&point.destination, "bind", &source.to_string_lossy(), given));
            continue;
        }
        if point.kind == "tmpfs" {
            let all: Vec<&str> =
                ["noexec", "nosuid", "nodev", access].into_iter().chain(words(&point.mode)).collect();
            mounts.push(mount(&point.destination, "tmpfs", "tmpfs", &all));
            continue;
        }
        let source = Path::new(&point.source);
        if let Err(error) = fs::metadata(source) {
            // `-v` makes a missing directory; `--mount` refuses it, and was refused at creation.
            if error.kind() != io::ErrorKind::NotFound || host.mounts.contains(point) {
                return Err(InvalidConfig::BindSource(point.source.clone()).into());
            }
            fs::create_dir_all(source).at("mkdir", source)?;
        }
        let says = |wanted: &str| words(&point.mode).any(|word| word == wanted);
        let kind = if says("nonrecursive") { "bind" } else { "rbind" };
        // What is mounted below is read-only with it, unless that was said not to be.
        let access = if point.rw || kind == "bind" || says("nonrecursive-readonly") { access } else { "rro" };
        mounts.push(mount(&point.destination, "bind", &point.source, &[kind, access, &point.propagation]));
    }
    let tmpfs = host.tmpfs.iter().map(|(target, options)| (target.as_str(), options.as_str()));
    for (target, options) in tmpfs {
        let mut all = vec!["noexec", "nosuid", "nodev"];
        for option in words(options) {
            // `exec` undoes the default `noexec`, and so on.
            all.retain(|have| have.strip_prefix("no") != Some(option));
            all.push(option);
        }
        mounts.retain(|mount| mount.destination() != Path::new(target));
        mounts.push(mount(target, "tmpfs", "tmpfs", &all));
    }
    // A mount on a parent must come before one on its child.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(())
}

fn words(options: &str) -> impl Iterator<Item = &str> {
    options.split(',').filter(|option| !option.is_empty())
}

fn namespaces(store: &Store, host: &HostConfig, host_uts: bool) -> Result<Vec<LinuxNamespace>, Error> {
    let new = |kind| LinuxNamespaceBuilder::default().typ(kind).build().expect("a type is all it takes");
    let joined = |kind, path: PathBuf| {
        LinuxNamespaceBuilder::default().typ(kind).path(path).build().expect("both fields have values")
    };
    let of_container = |other: &str, kind: &'static str, file: &str| -> Result<PathBuf, Error> {
        let other = record::find(store, other)?;
        if !matches!(other.state.status, Status::Running | Status::Paused) {
            return Err(Error::JoinStopped { kind, id: other.id });
        }
        Ok(format!("/proc/{}/ns/{file}", other.state.pid).into())
    };
    let mut all = vec![new(LinuxNamespaceType::Mount)];
    if !shares_cgroups(host) {
        all.push(new(LinuxNamespaceType::Cgroup));
    }
    if !host_uts {
        all.push(new(LinuxNamespaceType::Uts));
    }
    for (kind, mode, word, file) in [
        (LinuxNamespaceType::Pid, &host.pid_mode, "PID", "pid"),
        (LinuxNamespaceType::Ipc, &host.ipc_mode, "IPC", "ipc"),
        (LinuxNamespaceType::Network, &host.network_mode, "network", "net"),
    ] {
        match mode.strip_prefix("container:") {
            Some(other) => all.push(joined(kind, of_container(other, word, file)?)),
            None if mode == "host" => {}
            None => all.push(new(kind)),
        }
    }
    Ok(all)
}

/// Whether a container sees the host's cgroups.
///
/// Docker's default: on cgroup v2 a privileged container has a namespace of its own too, so that an engine in it finds
/// the root of what is its to divide.
pub(super) fn shares_cgroups(host: &HostConfig) -> bool {
    let unified = || Mounts::find().is_ok_and(Mounts::is_pure_v2);
    match host.cgroupns_mode.as_str() {
        "host" => true,
        "" => host.privileged && !unified(),
        _ => false,
    }
}

/// Whether nothing of /proc and /sys is hidden or made read-only.
pub fn paths_are_open(host: &HostConfig) -> bool {
    host.security_opt.iter().flatten().any(|option| option == "systempaths=unconfined")
}

/// The device at `path` as a node and its rule; a directory gives all devices below it.
fn device(
    path: &str,
    inside: &str,
    access: &str,
) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), Error> {
    let bad = |reason: String| InvalidConfig::Device { path: path.to_owned(), reason };
    let inside = if inside.is_empty() { path } else { inside };
    let metadata = fs::metadata(path).map_err(|error| bad(error.to_string()))?;
    let (mut devices, mut rules) = (Vec::new(), Vec::new());
    if metadata.is_dir() {
        let entries = fs::read_dir(path).map_err(|error| bad(error.to_string()))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Ok((more, more_rules)) =
                device(&format!("{path}/{name}"), &format!("{inside}/{name}"), access)
            {
                devices.extend(more);
                rules.extend(more_rules);
            }
        }
        if devices.is_empty() {
            return Err(bad("no device nodes found in directory".into()).into());
        }
        return Ok((devices, rules));
    }
    let access = if access.is_empty() { "rwm" } else { access };
    let (node, rule) = defaults::device(Path::new(path), Path::new(inside), access)
        .map_err(|error| bad(error.to_string()))?;
    Ok((vec![node], vec![rule]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_follow_dockers_rule() {
        let host = |adds: &[&str], drops: &[&str]| HostConfig {
            cap_add: Some(adds.iter().map(|&s| s.to_owned()).collect()),
            cap_drop: Some(drops.iter().map(|&s| s.to_owned()).collect()),
            ..HostConfig::default()
        };
        let defaults = defaults::capabilities();
        assert_eq!(capabilities(&host(&[], &[])).expect("none"), defaults);
        assert!(capabilities(&host(&["SYS_ADMIN"], &[])).expect("add").contains(&Capability::SysAdmin));
        assert!(capabilities(&host(&["cap_net_admin"], &[])).expect("case").contains(&Capability::NetAdmin));
        assert!(!capabilities(&host(&[], &["CHOWN"])).expect("drop").contains(&Capability::Chown));
        assert!(capabilities(&host(&[], &["ALL"])).expect("drop all").is_empty());
        assert_eq!(capabilities(&host(&["CHOWN"], &["ALL"])).expect("one").len(), 1);
        assert!(!capabilities(&host(&["ALL"], &["SYS_ADMIN"])).expect("but").contains(&Capability::SysAdmin));
        assert!(capabilities(&host(&["NONSENSE"], &[])).is_err());
    }

    #[test]
    fn the_environment_is_merged_in_order() {
        let config = Config { env: vec!["A=1".into(), "PATH=/x".into(), "A=2".into()], ..Config::default() };
        let env = environment(&config, "host", true, "/root", &["B=3".into(), "TERM".into()]);
        assert_eq!(env, ["PATH=/x", "HOSTNAME=host", "A=2", "B=3", "HOME=/root"]);
    }
}
