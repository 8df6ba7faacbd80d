//! Which namespaces are new, which are joined, and which stay.
//!
//! New ones come from the one clone3 that makes the process; joined ones are entered by the child with
//! setns. Two cannot follow that rule. A pid namespace can only be entered by a fork, so the parent sets
//! it for its children and sets it back. A cgroup namespace takes its root from the caller of clone3,
//! which is not in the container's cgroup, so the child unshares it for itself.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::error::{At as _, Error};
use super::kernel;

/// The namespaces of one container.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// CLONE_NEW* of those that clone3 makes.
    pub new: u64,
    /// Whether the child unshares its cgroup namespace.
    pub new_cgroup: bool,
    /// Those to join, in the order in which that must happen.
    join: Vec<(libc::c_int, OwnedFd)>,
    /// The pid namespace to join.
    pid: Option<OwnedFd>,
}

/// The order of joining: the user namespace first, for it owns the rights to join the others; the mount
/// namespace last, for the paths of the others are looked up in ours.
const ORDER: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWTIME,
    libc::CLONE_NEWNS,
];

impl Namespaces {
    /// Reads the specification and opens what is to be joined. What it wants to be new is joined, too, where
    /// `fresh` has one.
    pub fn new(spec: &Spec, fresh: &Fresh) -> Result<Self, Error> {
        let mut namespaces = Self::default();
        let mut seen = 0;
        for namespace in spec.linux().iter().flat_map(|l| l.namespaces().iter().flatten()) {
            let kind = flag(namespace.typ());
            if seen & kind != 0 {
                return Err(Error::invalid("namespace", format!("{} is given twice", namespace.typ())));
            }
            seen |= kind;
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => {
                    let file = OwnedFd::from(File::open(path).at("open namespace", path)?);
                    if kind == libc::CLONE_NEWPID {
                        namespaces.pid = Some(file);
                    } else {
                        namespaces.join.push((kind, file));
                    }
                }
                None if kind == libc::CLONE_NEWCGROUP => namespaces.new_cgroup = true,
                None => namespaces.new |= kind as u64,
            }
        }
        // A new user namespace is to own the container's other namespaces, and would not own these.
        for (kind, file) in fresh.0.iter().filter(|_| seen & libc::CLONE_NEWUSER == 0) {
            if namespaces.new & *kind as u64 != 0 {
                namespaces.new &= !(*kind as u64);
                namespaces.join.push((*kind, file.try_clone().at("dup", name(*kind))?));
            }
        }
        namespaces.join.sort_by_key(|(kind, _)| ORDER.iter().position(|k| k == kind));
        if seen & libc::CLONE_NEWNS == 0 {
            return Err(Error::invalid("namespaces", "a container needs a mount namespace"));
        }
        let joins_user = namespaces.join.iter().any(|(kind, _)| *kind == libc::CLONE_NEWUSER);
        if joins_user && namespaces.new != 0 {
            return Err(Error::unsupported(
                "new namespaces owned by a joined user namespace",
                "join all of them, or let the user namespace be new",
            ));
        }
        Ok(namespaces)
    }

    /// Whether one of this kind will be new.
    pub fn is_new(&self, kind: libc::c_int) -> bool {
        self.new & kind as u64 != 0 || kind == libc::CLONE_NEWCGROUP && self.new_cgroup
    }

    /// Whether one of this kind is not the host's: new or joined.
    pub fn is_private(&self, kind: libc::c_int) -> bool {
        self.is_new(kind)
            || self.join.iter().any(|(k, _)| *k == kind)
            || kind == libc::CLONE_NEWPID && self.pid.is_some()
    }

    /// Runs `fork` with the joined pid namespace set for children, and sets ours back.
    pub fn around_fork<T>(&self, fork: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let Some(pid) = &self.pid else { return fork() };
        in_pid_namespace(pid, fork)
    }

    /// Joins what is to be joined. Runs in the child.
    pub fn join(&self) -> Result<(), Error> {
        for (kind, file) in &self.join {
            kernel::setns(file, *kind).at("setns", name(*kind))?;
            if *kind == libc::CLONE_NEWUSER {
                become_root()?;
            }
        }
        Ok(())
    }
}

/// CLONE_NEW* of what a container made from `spec` does not share with the host.
pub(super) fn private(spec: &Spec) -> libc::c_int {
    let all = spec.linux().iter().flat_map(|l| l.namespaces().iter().flatten());
    all.fold(0, |flags, namespace| flags | flag(namespace.typ()))
}

/// Runs `fork` so that a process it makes is born in the pid namespace behind `target` (a namespace
/// file or a pidfd).
pub(super) fn in_pid_namespace<T>(
    target: &impl std::os::fd::AsFd,
    fork: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let own = File::open("/proc/self/ns/pid").at("open", "/proc/self/ns/pid")?;
    kernel::setns(target.as_fd(), libc::CLONE_NEWPID).at("setns", "pid")?;
    let result = fork();
    // The child, too, comes through here with its copy; for it this changes only its own children,
    // and it does not return from `fork`.
    kernel::setns(&own, libc::CLONE_NEWPID).at("setns", "/proc/self/ns/pid")?;
    result
}

/// Root of the user namespace just entered.
pub(super) fn become_root() -> Result<(), Error> {
    nix::unistd::setgroups(&[])
        .or_else(|errno| match errno {
            // setgroups is denied in a namespace whose maps were written without privilege.
            nix::errno::Errno::EPERM => Ok(()),
            other => Err(other),
        })
        .at("setgroups", "")?;
    let (uid, gid) = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid).at("setresgid", "0")?;
    nix::unistd::setresuid(uid, uid, uid).at("setresuid", "0")?;
    // A change of user makes the process dumpable by the rules of its new user.
    kernel::prctl(libc::PR_SET_DUMPABLE, 0, 0).at("prctl(PR_SET_DUMPABLE)", "0").map(drop)
}

fn flag(kind: LinuxNamespaceType) -> libc::c_int {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    }
}

fn name(kind: libc::c_int) -> &'static str {
    match kind {
        libc::CLONE_NEWNS => "mnt",
        libc::CLONE_NEWCGROUP => "cgroup",
        libc::CLONE_NEWUTS => "uts",
        libc::CLONE_NEWIPC => "ipc",
        libc::CLONE_NEWUSER => "user",
        libc::CLONE_NEWPID => "pid",
        libc::CLONE_NEWNET => "net",
        _ => "time",
    }
}

/// Namespaces that nobody uses yet, for [`super::Launch::fresh`].
#[derive(Debug, Default)]
pub struct Fresh(Vec<(libc::c_int, OwnedFd)>);

impl Fresh {
    /// Makes a network namespace, with its loopback interface up, and an IPC namespace: the two that take the
    /// kernel long. The caller is in its own again when this returns. Must be called while this process has
    /// one thread.
    pub fn make(network: bool, ipc: bool) -> Result<Self, Error> {
        let mut fresh = Self::default();
        for (wanted, kind) in [(network, libc::CLONE_NEWNET), (ipc, libc::CLONE_NEWIPC)] {
            if wanted {
                fresh.0.push((kind, make(kind)?));
            }
        }
        Ok(fresh)
    }
}

fn make(kind: libc::c_int) -> Result<OwnedFd, Error> {
    let path = Path::new("/proc/self/ns").join(name(kind));
    let own = File::open(&path).at("open", &path)?;
    kernel::unshare(kind).at("unshare", name(kind))?;
    let up = if kind == libc::CLONE_NEWNET { loopback_up() } else { Ok(()) };
    let made = up.and_then(|()| File::open(&path).at("open", &path));
    kernel::setns(&own, kind).at("setns", &path)?;
    made.map(OwnedFd::from)
}

/// Brings the loopback interface of the current network namespace up.
pub(super) fn loopback_up() -> Result<(), Error> {
    use std::os::fd::AsRawFd as _;
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .at("socket", "lo")?;
    // SAFETY: ifreq is plain data; zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } < 0 {
        return Err(std::io::Error::last_os_error()).at("ioctl(SIOCSIFFLAGS)", "lo");
    }
    Ok(())
}
