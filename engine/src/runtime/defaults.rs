//! Docker's defaults as an OCI specification, for the engine to fill in.
//!
//! People know what a container may do from Docker; a container of ours must be neither weaker nor
//! stranger. Sources: moby's default Linux specification and capability list; runc's list of devices
//! that are allowed whatever the specification says.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxDevice,
    LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, LinuxSeccomp, Mount, MountBuilder,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder,
};

use super::capabilities;
use super::error::{At as _, Error};

/// `$PATH` of a container whose image sets none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of /dev/shm unless `--shm-size` says otherwise.
pub const SHM_SIZE: u64 = 64 << 20;

/// The OCI runtime-spec version that this runtime follows.
pub const OCI_VERSION: &str = "1.2.0";

/// The capabilities of a container that asks for nothing special.
pub fn capabilities() -> Capabilities {
    [
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fsetid,
        Capability::Fowner,
        Capability::Mknod,
        Capability::NetRaw,
        Capability::Setgid,
        Capability::Setuid,
        Capability::Setfcap,
        Capability::Setpcap,
        Capability::NetBindService,
        Capability::SysChroot,
        Capability::Kill,
        Capability::AuditWrite,
    ]
    .into_iter()
    .collect()
}

/// Every capability there is; the runtime leaves out what the engine itself does not have.
pub fn all_capabilities() -> Capabilities {
    capabilities::all().collect()
}

/// The same, in the order of the kernel's numbers.
pub fn all_capabilities_in_order() -> impl Iterator<Item = Capability> {
    capabilities::all()
}

/// The sets of a process with these capabilities: bounding, permitted and effective. Inheritable and
/// ambient stay empty, as with Docker since CVE-2022-24769; a user other than root has them in the
/// bounding set only, so that a set-uid program can still gain them.
pub fn capability_sets(set: &Capabilities, root: bool) -> LinuxCapabilities {
    let held = if root { set.clone() } else { Capabilities::default() };
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .permitted(held.clone())
        .effective(held)
        // The crate's own defaults are a set of three here.
        .inheritable(Capabilities::default())
        .ambient(Capabilities::default())
        .build()
        .expect("every field has a default")
}

/// Docker's default seccomp rules for a container with these capabilities. To be called when the
/// capabilities are final: what `--cap-add` gives must also be callable.
pub fn seccomp(capabilities: &Capabilities) -> LinuxSeccomp {
    super::seccomp::default_profile(capabilities)
}

/// The mounts of every container. `privileged` makes /sys and the cgroups writable.
pub fn mounts(shm_size: u64, privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    let shm = format!("size={shm_size}");
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        MountBuilder::default()
            .destination(destination)
            .typ(kind)
            .source(source)
            .options(options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>())
            .build()
            .expect("every field has a default")
    };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", access]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ]
}

/// Paths that show or control the host. Source: moby, including GHSA-6fw5-f8r9-fgfm (interrupt and
/// thermal counters as side channels) and GHSA-jq35-85cj-fj4p (power counters).
pub fn masked_paths() -> Vec<String> {
    [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Paths that may be read and not written.
pub fn readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).to_vec()
}

/// The namespaces of a container that shares none. The cgroup namespace is new, as with Docker on
/// cgroup v2; on a hybrid host it is what keeps the host's paths out of /proc/self/cgroup.
pub fn namespaces() -> Vec<LinuxNamespace> {
    [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Cgroup,
    ]
    .into_iter()
    .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().expect("every field has a default"))
    .collect()
}

fn rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .access(access)
        .build()
        .expect("every field has a default");
    rule.set_typ(kind).set_major(major).set_minor(minor);
    rule
}

/// The device rules of a container: nothing, then what every container has. Rules for `--device` go
/// behind these.
pub fn device_rules() -> Vec<LinuxDeviceCgroup> {
    let c = Some(LinuxDeviceType::C);
    let mut rules = vec![rule(false, None, None, None, "rwm")];
    // Any node may be made, none of them opened.
    rules.push(rule(true, c, None, None, "m"));
    rules.push(rule(true, Some(LinuxDeviceType::B), None, None, "m"));
    for (major, minor) in [
        (1, Some(3)), // null
        (1, Some(5)), // zero
        (1, Some(7)), // full
        (1, Some(8)), // random
        (1, Some(9)), // urandom
        (5, Some(0)), // tty
        (5, Some(1)), // console
        (5, Some(2)), // ptmx
        (136, None),  // pts/*
    ] {
        rules.push(rule(true, c, Some(major), minor, "rwm"));
    }
    rules
}

/// The rules of a privileged container: everything.
pub fn all_device_rules() -> Vec<LinuxDeviceCgroup> {
    vec![rule(true, None, None, None, "rwm")]
}

/// The node and the rule for one host device, `--device HOST[:CONTAINER[:ACCESS]]`.
pub fn device(
    host: &Path,
    container: &Path,
    access: &str,
) -> Result<(LinuxDevice, LinuxDeviceCgroup), Error> {
    let stat = fs::metadata(host).at("stat", host)?;
    let kind = if stat.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if stat.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return Err(Error::invalid("device", format!("{} is not a device node", host.display())));
    };
    if access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(Error::invalid("device mode", access));
    }
    let device = node(container, kind, &stat);
    let rule = rule(true, Some(kind), Some(device.major()), Some(device.minor()), access);
    Ok((device, rule))
}

fn node(path: &Path, kind: LinuxDeviceType, stat: &fs::Metadata) -> LinuxDevice {
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(nix::sys::stat::major(stat.rdev()) as i64)
        .minor(nix::sys::stat::minor(stat.rdev()) as i64)
        .file_mode(stat.mode() & 0o7777)
        .uid(stat.uid())
        .gid(stat.gid())
        .build()
        .expect("every field has a default")
}

/// All device nodes of the host, for `--privileged`. What every container has of its own is left out.
pub fn host_devices() -> Result<Vec<LinuxDevice>, Error> {
    let mut devices = Vec::new();
    let mut todo = vec![PathBuf::from("/dev")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).at("opendir", &dir)? {
            let entry = entry.at("readdir", &dir)?;
            let path = entry.path();
            let stat = match entry.metadata() {
                // Devices come and go.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.at("stat", &path)?,
            };
            let kind = stat.file_type();
            if kind.is_dir() {
                if !matches!(entry.file_name().to_str(), Some("pts" | "shm" | "fd" | "mqueue" | ".udev")) {
                    todo.push(path);
                }
            } else if entry.file_name() != "console" {
                if kind.is_char_device() {
                    devices.push(node(&path, LinuxDeviceType::C, &stat));
                } else if kind.is_block_device() {
                    devices.push(node(&path, LinuxDeviceType::B, &stat));
                }
            }
        }
    }
    devices.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(devices)
}

/// The specification of a container that asks for nothing special. The engine fills in the process's
/// program, environment, directory and user, the host name, and what its flags say.
pub fn spec() -> Spec {
    let linux = LinuxBuilder::default()
        .namespaces(namespaces())
        .masked_paths(masked_paths())
        .readonly_paths(readonly_paths())
        .seccomp(seccomp(&capabilities()))
        .resources(
            LinuxResourcesBuilder::default()
                .devices(device_rules())
                .build()
                .expect("every field has a default"),
        )
        .build()
        .expect("every field has a default");
    skeleton(linux, mounts(SHM_SIZE, false), capability_sets(&capabilities(), true))
}

/// The specification of a `--privileged` container: every capability, every device, nothing masked,
/// nothing read-only, no seccomp filter.
pub fn privileged() -> Result<Spec, Error> {
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces())
        .devices(host_devices()?)
        .resources(
            LinuxResourcesBuilder::default()
                .devices(all_device_rules())
                .build()
                .expect("every field has a default"),
        )
        .build()
        .expect("every field has a default");
    linux.set_masked_paths(None).set_readonly_paths(None);
    Ok(skeleton(linux, mounts(SHM_SIZE, true), capability_sets(&all_capabilities(), true)))
}

fn skeleton(linux: Linux, mounts: Vec<Mount>, capabilities: LinuxCapabilities) -> Spec {
    let mut process = ProcessBuilder::default()
        .args(Vec::new())
        .env(vec![format!("PATH={PATH}")])
        .cwd("/")
        .capabilities(capabilities)
        .no_new_privileges(false)
        .build()
        .expect("every field has a default");
    process.set_rlimits(None);
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(
            RootBuilder::default().path("rootfs").readonly(false).build().expect("every field has a default"),
        )
        .mounts(mounts)
        .process(process)
        .linux(linux)
        .build()
        .expect("every field has a default");
    spec.set_hostname(None);
    spec
}
