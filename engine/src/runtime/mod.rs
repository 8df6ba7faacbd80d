//! The runtime: turns an OCI specification into a running process.
//!
//! [`create`] does everything but the exec. It makes the process with one clone3, already inside its
//! cgroup and its new namespaces, and that process builds its own file tree, gives up what it should
//! not have, and waits; [`Init::start`] lets it go. There is one fork on the way, no thread, no
//! temporary file and no helper program. [`exec`] does the same for one more process in a container
//! that runs.
//!
//! Three rules keep a hostile image from reaching the host. *Nothing is named twice*: everything is
//! held by descriptor from check to use, and targets are resolved inside the root by the kernel. *What
//! enters a container carries nothing of the host's*: every descriptor closes on exec, the working
//! directory is proven to be inside, the process is not dumpable, and its program, while it is still
//! ours, is a read-only mount of the binary ([`protected_self`]). *The host's procfs is written before
//! the container's exists*: sysctls and scores go through the /proc we were born with, never through
//! one that a container can cover.
//!
//! The caller must be single-threaded, because a fork of a process with threads may not allocate.

mod capabilities;
mod channel;
mod console;
pub mod defaults;
mod error;
pub mod gate;
pub mod hooks;
pub(crate) mod kernel;
mod mount;
mod namespaces;
pub mod oci;
mod process;
mod protect;
mod reaper;
mod relink;
mod rootfs;
mod seccomp;

use std::convert::Infallible;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::unistd::Pid;
use oci_spec::runtime::{ContainerState, LinuxIdMapping, PosixRlimit, Process, Spec};

use crate::cgroup::Attach;
use crate::snapshot::Snapshot;

pub use console::{WindowSize, resize};
pub use error::Error;
pub use gate::Gate;
pub use mount::OPTIONS as MOUNT_OPTIONS;
pub(crate) use mount::PLAIN_SOURCE;
pub use namespaces::Fresh;
pub use process::reset_signals;
pub use protect::{execute, is_alone, is_protected, protect_in_place, protected_self, retitle};
pub(crate) use rootfs::detached;
pub use seccomp::{Profile, ProfileError};

use channel::{Channel, Message};
use error::At as _;
use hooks::Point;
use kernel::CloneArgs;
use namespaces::Namespaces;
use process::Prepared;
use rootfs::{Cgroups, Root};

/// Where the container's root comes from.
#[derive(Debug, Clone, Copy)]
pub enum Rootfs<'a> {
    /// A directory of the host, used as it is.
    Path(&'a Path),
    /// A snapshot, mounted inside the container's mount namespace and nowhere else.
    Overlay(&'a Snapshot),
}

/// What the process has as its standard streams.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own.
    Inherit,
    /// These.
    Fds {
        /// Standard input.
        input: OwnedFd,
        /// Standard output.
        output: OwnedFd,
        /// Standard error.
        error: OwnedFd,
    },
    /// A new pseudo-terminal of the container's devpts; its master is [`Init::take_console`]'s.
    Console(Option<WindowSize>),
}

/// A container to make.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The container's id, which becomes nothing but a name in messages and in the state given to hooks.
    pub id: &'a str,
    /// What to make.
    pub spec: &'a Spec,
    /// The bundle's directory, given to hooks.
    pub bundle: &'a Path,
    /// The root; the specification's own `root.path` is not looked at.
    pub rootfs: Rootfs<'a>,
    /// The mount namespace whose /dev/shm becomes this container's, unless the specification mounts
    /// something there.
    pub shm_of: Option<&'a Path>,
    /// The cgroup to be born in, or the caller's where none.
    pub cgroup: Option<&'a Attach>,
    /// Namespaces for a specification that wants new ones: most of what the clone of the process takes can be
    /// done before anything is known of the container.
    pub fresh: Fresh,
    /// The standard streams.
    pub stdio: Stdio,
    /// How many descriptors from 3 on the process keeps.
    pub preserve_fds: u32,
    /// Limits that are nice to have: one the kernel refuses is a warning, not an error.
    pub default_rlimits: &'a [PosixRlimit],
    /// Who lets the process go. With [`Gate::Socket`] the [`Init`] may be dropped.
    pub gate: Gate<'a>,
    /// Whether a small init of ours reaps and passes signals on in front of the program (`--init`).
    pub init: bool,
    /// Whether to enter the root with pivot_root; `false` is for hosts whose own root is a ramfs, and
    /// is less safe.
    pub pivot: bool,
}

/// The first process of a container: made, set up and waiting to become its program.
#[derive(Debug)]
pub struct Init {
    pid: Pid,
    pidfd: OwnedFd,
    channel: Channel,
    console: Option<OwnedFd>,
    warnings: Vec<String>,
}

impl Init {
    /// Its pid as the caller sees it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its pidfd, which names the same process for ever and can be polled for its end.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The pidfd, for keeping after [`Init::start`].
    pub fn clone_pidfd(&self) -> Result<OwnedFd, Error> {
        self.pidfd.try_clone().at("dup", "pidfd")
    }

    /// The master of its console, once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// What went wrong on the way without stopping it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Lets the process become its program, and waits until it has. On error nothing is left: the
    /// process is gone and reaped.
    pub fn start(self) -> Result<(), Error> {
        self.let_go().inspect_err(|_| reap(&self))
    }

    fn wait_until_ready(&mut self, hooks: impl Fn(Pid) -> Result<(), Error>) -> Result<(), Error> {
        loop {
            match self.channel.receive().at("recvmsg", "init")? {
                Message::Failed(error) => return Err(error),
                Message::Warning(text) => self.warnings.push(text),
                Message::Ready(console) => {
                    self.console = console;
                    return Ok(());
                }
                Message::Created => {
                    hooks(self.pid)?;
                    self.channel.send(&Message::Continue).map_err(|_| Error::Died)?;
                }
                Message::End => return Err(Error::Died),
                Message::Continue | Message::Start => {}
            }
        }
    }

    fn let_go(&self) -> Result<(), Error> {
        self.channel.send(&Message::Start).map_err(|_| Error::Died)?;
        loop {
            match self.channel.receive().at("recvmsg", "init")? {
                Message::Failed(error) => return Err(error),
                Message::End => break,
                _ => {}
            }
        }
        // The end of the conversation is an exec, or a death; only the latter shows on the pidfd.
        if self.has_ended()? { Err(Error::Died) } else { Ok(()) }
    }

    /// A program such as `true` may well have ended by now, and that is a success. What tells a death
    /// before the exec from one after it is a wait status the parent sees: so this only looks for a
    /// process killed by a signal while it was still ours.
    fn has_ended(&self) -> Result<bool, Error> {
        // SAFETY: siginfo_t is plain data; zero is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: info outlives the call, which fills it.
        let result = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                self.pidfd.as_raw_fd() as libc::id_t,
                &raw mut info,
                libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
            )
        };
        if result < 0 {
            return Err(std::io::Error::last_os_error()).at("waitid", "init");
        }
        Ok(info.si_code == libc::CLD_KILLED && info.si_signo == libc::SIGCHLD && !self.execed())
    }

    fn execed(&self) -> bool {
        // Between the fork and the exec this bit of /proc/PID/stat's flags is set.
        const PF_FORKNOEXEC: u64 = 0x40;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6));
        flags.and_then(|flags| flags.parse::<u64>().ok()).is_none_or(|flags| flags & PF_FORKNOEXEC == 0)
    }
}

/// Makes a container's first process, up to the exec.
///
/// On error nothing is left: the process is gone and reaped.
pub fn create(launch: &Launch<'_>) -> Result<Init, Error> {
    let plan = Plan::new(launch)?;
    let (ours, theirs) = Channel::pair()?;
    let mut args = CloneArgs {
        flags: plan.namespaces.new | (libc::CLONE_PIDFD as u64),
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = launch.cgroup {
        args.flags |= kernel::CLONE_INTO_CGROUP;
        args.cgroup = cgroup.v2.as_raw_fd() as u64;
    }
    let (pid, pidfd) = plan.namespaces.around_fork(|| {
        spawn(
            args,
            || {
                let Err(error) = plan.run_child(&theirs);
                error
            },
            &theirs,
            &ours,
        )
    })?;
    drop(theirs);
    let mut init = Init { pid, pidfd, channel: ours, console: None, warnings: plan.warnings.clone() };
    match plan.converse(&mut init) {
        Ok(()) => Ok(init),
        Err(error) => {
            reap(&init);
            Err(error)
        }
    }
}

/// One more process for a container that runs.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The pidfd of the container's first process, whose namespaces are joined.
    pub target: BorrowedFd<'a>,
    /// The container's specification: which namespaces are its own, and its seccomp filter.
    pub spec: &'a Spec,
    /// What to run.
    pub process: &'a Process,
    /// The container's cgroup.
    pub cgroup: Option<&'a Attach>,
    /// The standard streams.
    pub stdio: Stdio,
    /// How many descriptors from 3 on the process keeps.
    pub preserve_fds: u32,
    /// Limits that are nice to have; see [`Launch::default_rlimits`].
    pub default_rlimits: &'a [PosixRlimit],
}

/// Makes one more process in a running container, up to the exec. It is a child of the caller.
///
/// The caller should run from [`protected_self`]. On error nothing is left: the process is gone and
/// reaped.
pub fn exec(exec: &Exec<'_>) -> Result<Init, Error> {
    refuse_unsupported_of(exec.process)?;
    let prepared = Prepared::new(exec.process, filter(exec.spec)?, exec.default_rlimits)?;
    let private = namespaces::private(exec.spec);
    let (ours, theirs) = Channel::pair()?;
    let mut args = CloneArgs {
        flags: libc::CLONE_PIDFD as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = exec.cgroup {
        args.flags |= kernel::CLONE_INTO_CGROUP;
        args.cgroup = cgroup.v2.as_raw_fd() as u64;
    }
    let child = || -> Result<Infallible, Error> {
        process::reset_signals();
        kernel::close_range(3 + exec.preserve_fds, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
            .at("close_range", "")?;
        process::set_oom_score(exec.process, &theirs)?;
        prepared.label()?;
        kernel::prctl(libc::PR_SET_DUMPABLE, 0, 0).at("prctl(PR_SET_DUMPABLE)", "0")?;
        for tasks in exec.cgroup.iter().flat_map(|cgroup| &cgroup.tasks) {
            nix::unistd::write(tasks, b"0").at("write", "cgroup v1 tasks")?;
        }
        // One call, by a name that cannot be reused. Minimum kernel: 5.8.
        kernel::setns(exec.target, private & !libc::CLONE_NEWPID).at("setns", "the container")?;
        if private & libc::CLONE_NEWUSER != 0 {
            namespaces::become_root()?;
        }
        nix::unistd::setsid().at("setsid", "")?;
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let console = match exec.stdio {
            Stdio::Console(_) => Some(console::open_inside()?),
            _ => None,
        };
        let entry = process::Entry { create_cwd: false, gate: Gate::Init, before: &|| Ok(()), init: false };
        prepared.become_program(&theirs, &exec.stdio, console, &entry)
    };
    let fork = || {
        let child = || {
            let Err(error) = child();
            error
        };
        spawn(args, child, &theirs, &ours)
    };
    let (pid, pidfd) = if private & libc::CLONE_NEWPID == 0 {
        fork()
    } else {
        namespaces::in_pid_namespace(&exec.target, fork)
    }
    .map_err(|error| match error {
        // ESRCH: the process is gone. ENOMEM: it is a zombie, and its pid namespace takes nobody in.
        Error::Sys { source, .. } if matches!(source.raw_os_error(), Some(libc::ESRCH | libc::ENOMEM)) => {
            Error::NotRunning
        }
        other => other,
    })?;
    drop(theirs);
    let warnings = process::missing_capabilities(prepared.missing).into_iter().collect();
    let mut init = Init { pid, pidfd, channel: ours, console: None, warnings };
    match init.wait_until_ready(|_| Ok(())) {
        Ok(()) => Ok(init),
        Err(error) => {
            reap(&init);
            Err(error)
        }
    }
}

/// Signals the process behind a pidfd.
pub fn signal(pidfd: &OwnedFd, signal: i32) -> Result<(), Error> {
    kernel::pidfd_send_signal(pidfd.as_fd(), signal).at("kill", "pidfd")
}

/// Kills and reaps a process that did not become what it should.
fn reap(init: &Init) {
    let _ = kernel::pidfd_send_signal(init.pidfd(), libc::SIGKILL);
    while let Err(nix::errno::Errno::EINTR) = nix::sys::wait::waitpid(init.pid, None) {}
}

/// clone3 with a child that never returns: it runs `child`, and reports what that returns.
fn spawn(
    mut args: CloneArgs,
    child: impl FnOnce() -> Error,
    channel: &Channel,
    parents: &Channel,
) -> Result<(Pid, OwnedFd), Error> {
    let mut pidfd: libc::c_int = -1;
    args.pidfd = &raw mut pidfd as u64;
    // SAFETY: the engine is single-threaded by contract, and the child leaves through exit_now below.
    let pid = unsafe { kernel::clone3(&mut args) }.at("clone3", "")?;
    if pid == 0 {
        parents.close_copy();
        // A panic must not unwind into frames that belong to the parent.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        let error = outcome.unwrap_or_else(|_| Error::invalid("runtime", "panicked in the child"));
        let _ = channel.send(&Message::Failed(error));
        kernel::exit_now(1);
    }
    // SAFETY: CLONE_PIDFD has put a new descriptor there, and it is ours.
    Ok((Pid::from_raw(pid), unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// A launch that has been checked and translated.
struct Plan<'a> {
    launch: &'a Launch<'a>,
    namespaces: Namespaces,
    prepared: Prepared<'a>,
    /// The overlay, when it must be mounted by the host's root (a user namespace is to be made).
    overlay: Option<OwnedFd>,
    warnings: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(launch: &'a Launch<'a>) -> Result<Self, Error> {
        let spec = launch.spec;
        let process =
            spec.process().as_ref().ok_or_else(|| Error::invalid("process", "the specification has none"))?;
        let linux = spec.linux().as_ref();
        refuse_unsupported(spec)?;
        let namespaces = Namespaces::new(spec, &launch.fresh)?;
        let filter = filter(spec)?;
        for name in linux.iter().flat_map(|l| l.sysctl().iter().flatten()).map(|(name, _)| name) {
            check_sysctl(name, &namespaces)?;
        }
        if spec.hostname().is_some() && !namespaces.is_private(libc::CLONE_NEWUTS) {
            return Err(Error::invalid("hostname", "the container shares the host's UTS namespace"));
        }
        let prepared = Prepared::new(process, filter, launch.default_rlimits)?;
        let overlay = match launch.rootfs {
            Rootfs::Overlay(snapshot) if namespaces.is_private(libc::CLONE_NEWUSER) => {
                Some(mount_snapshot(snapshot)?)
            }
            _ => None,
        };
        let warnings = process::missing_capabilities(prepared.missing).into_iter().collect();
        Ok(Self { launch, namespaces, prepared, overlay, warnings })
    }

    /// The parent's half of the conversation, up to the point where the child is ready.
    fn converse(&self, init: &mut Init) -> Result<(), Error> {
        if self.namespaces.is_new(libc::CLONE_NEWUSER) {
            self.write_id_maps(init.pid)?;
            init.channel.send(&Message::Continue).map_err(|_| Error::Died)?;
        }
        init.wait_until_ready(|pid| {
            let (spec, id, bundle) = (self.launch.spec, self.launch.id, self.launch.bundle);
            for point in [Point::Prestart, Point::CreateRuntime] {
                hooks::run(point, spec, id, bundle, pid.as_raw(), ContainerState::Creating)?;
            }
            Ok(())
        })
    }

    /// Whether the child has to wait for hooks before it changes its root.
    fn stops_for_hooks(&self) -> bool {
        [Point::Prestart, Point::CreateRuntime, Point::CreateContainer]
            .into_iter()
            .any(|point| !hooks::of(self.launch.spec, point).is_empty())
    }

    fn write_id_maps(&self, pid: Pid) -> Result<(), Error> {
        let Some(linux) = self.launch.spec.linux().as_ref() else { return Ok(()) };
        for (file, maps) in [("uid_map", linux.uid_mappings()), ("gid_map", linux.gid_mappings())] {
            let maps = maps.as_deref().unwrap_or_default();
            let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
            let text: String = maps.iter().map(line).collect();
            process::write_file(Path::new(&format!("/proc/{pid}/{file}")), &text)?;
        }
        Ok(())
    }

    /// The child's half. Returns only with a reason for failure.
    fn run_child(&self, channel: &Channel) -> Result<Infallible, Error> {
        let launch = self.launch;
        let spec = launch.spec;
        let process = spec.process().as_ref().ok_or(Error::Died)?;
        let linux = spec.linux().as_ref();
        process::reset_signals();
        // Whatever the engine had open, with or without CLOEXEC, ends with the exec.
        kernel::close_range(3 + launch.preserve_fds, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
            .at("close_range", "")?;
        process::set_oom_score(process, channel)?;
        self.prepared.label()?;
        if launch.init {
            reaper::take_title();
        }
        // From here on nobody in the container may look into this process (CVE-2016-9962).
        kernel::prctl(libc::PR_SET_DUMPABLE, 0, 0).at("prctl(PR_SET_DUMPABLE)", "0")?;
        if let Some(cgroup) = launch.cgroup {
            for tasks in &cgroup.tasks {
                nix::unistd::write(tasks, b"0").at("write", "cgroup v1 tasks")?;
            }
        }
        if self.namespaces.is_new(libc::CLONE_NEWUSER) {
            match channel.receive().at("recvmsg", "the runtime")? {
                Message::Continue => {}
                _ => return Err(Error::Died),
            }
            namespaces::become_root()?;
        }
        // Our pid as the host sees it, which is what /proc shows as long as it is the host's.
        let host_pid = if spec.hooks().is_some() { process::own_pid()? } else { 0 };
        let mut cgroups = Cgroups::read()?;
        self.namespaces.join()?;
        if self.namespaces.new_cgroup {
            kernel::unshare(libc::CLONE_NEWCGROUP).at("unshare", "cgroup")?;
        }
        cgroups.namespace = self.namespaces.is_private(libc::CLONE_NEWCGROUP);
        // A session of its own, so that no terminal of the host's can signal it or be written to.
        nix::unistd::setsid().at("setsid", "")?;
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        if self.namespaces.is_new(libc::CLONE_NEWNET) {
            namespaces::loopback_up()?;
        }
        if let Some(name) = spec.hostname() {
            nix::unistd::sethostname(name).at("sethostname", name)?;
        }
        if let Some(name) = spec.domainname() {
            process::set_domain_name(name)?;
        }
        for (name, value) in linux.iter().flat_map(|l| l.sysctl().iter().flatten()) {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            process::write_file(&path, value)?;
        }
        let console = if self.namespaces.is_new(libc::CLONE_NEWNS) {
            self.build_root(channel, &cgroups, host_pid)?
        } else {
            None
        };
        let before = || {
            hooks::run(
                Point::StartContainer,
                spec,
                launch.id,
                launch.bundle,
                host_pid,
                ContainerState::Created,
            )
        };
        let entry =
            process::Entry { create_cwd: true, gate: launch.gate, before: &before, init: launch.init };
        self.prepared.become_program(channel, &launch.stdio, console, &entry)
    }

    /// Builds the file tree and enters it. Returns the console's two ends if there is to be one.
    fn build_root(
        &self,
        channel: &Channel,
        cgroups: &Cgroups,
        host_pid: i32,
    ) -> Result<Option<(OwnedFd, OwnedFd)>, Error> {
        let spec = self.launch.spec;
        let linux = spec.linux().as_ref();
        rootfs::isolate(spec)?;
        let root = match self.launch.rootfs {
            Rootfs::Path(path) => Root::bind(path)?,
            Rootfs::Overlay(snapshot) => {
                let tree = match &self.overlay {
                    Some(tree) => tree.try_clone().at("dup", "overlay")?,
                    None => mount_snapshot(snapshot)?,
                };
                // In this namespace nobody needs the upper directory by its name.
                Root::attach(tree, &snapshot.upper())?
            }
        };
        let shm = match self.launch.shm_of {
            Some(namespace) => Some(rootfs::shared_memory_of(namespace)?),
            None => None,
        };
        let mut fresh_dev = false;
        for mount in spec.mounts().iter().flatten() {
            root.mount(mount, cgroups)?;
            if mount.destination() == Path::new("/dev") {
                fresh_dev = mount.typ().as_deref() != Some("bind");
            }
        }
        if let Some(shm) = shm
            && !spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new(rootfs::SHM))
        {
            root.place(&shm, Path::new(rootfs::SHM))?;
        }
        if fresh_dev {
            root.devices(linux.and_then(|l| l.devices().as_deref()).unwrap_or_default())?;
        } else {
            for device in linux.iter().flat_map(|l| l.devices().iter().flatten()) {
                root.device(device)?;
            }
        }
        let console = match self.launch.stdio {
            Stdio::Console(_) => Some(root.console()?),
            _ => None,
        };
        if let Some(linux) = linux {
            root.protect(linux.readonly_paths().as_deref().unwrap_or_default())?;
            root.mask(linux.masked_paths().as_deref().unwrap_or_default())?;
        }
        if self.stops_for_hooks() {
            channel.send(&Message::Created).at("sendmsg", "the runtime")?;
            match channel.receive().at("recvmsg", "the runtime")? {
                Message::Continue => {}
                _ => kernel::exit_now(1),
            }
            let (id, bundle) = (self.launch.id, self.launch.bundle);
            hooks::run(Point::CreateContainer, spec, id, bundle, host_pid, ContainerState::Creating)?;
        }
        root.enter(spec, self.launch.pivot)?;
        Ok(console)
    }
}

fn filter(spec: &Spec) -> Result<Option<seccomp::Filter>, Error> {
    match spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) {
        Some(rules) => seccomp::Filter::compile(rules),
        None => Ok(None),
    }
}

/// What a specification may ask for and this runtime does not do. Passing over it would give a container
/// other than the one that was described, so each is an error that names the property.
fn refuse_unsupported(spec: &Spec) -> Result<(), Error> {
    let mut asked = Vec::new();
    if let Some(linux) = spec.linux() {
        asked.extend([
            ("linux.timeOffsets", linux.time_offsets().as_ref().is_some_and(|all| !all.is_empty())),
            ("linux.personality", linux.personality().is_some()),
            ("linux.intelRdt", linux.intel_rdt().is_some()),
            ("linux.memoryPolicy", linux.memory_policy().is_some()),
            ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|all| !all.is_empty())),
            ("linux.mountLabel", linux.mount_label().as_ref().is_some_and(|label| !label.is_empty())),
        ]);
    }
    if let Some(process) = spec.process() {
        refuse_unsupported_of(process)?;
    }
    match asked.into_iter().find(|&(_, is_asked)| is_asked) {
        Some((what, _)) => Err(Error::unsupported(what, "not implemented by this runtime")),
        None => Ok(()),
    }
}

fn refuse_unsupported_of(process: &Process) -> Result<(), Error> {
    let asked = [
        ("process.scheduler", process.scheduler().is_some()),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
    ];
    match asked.into_iter().find(|&(_, is_asked)| is_asked) {
        Some((what, _)) => Err(Error::unsupported(what, "not implemented by this runtime")),
        None => Ok(()),
    }
}

fn mount_snapshot(snapshot: &Snapshot) -> Result<OwnedFd, Error> {
    use crate::snapshot::Error as E;
    snapshot.mount().map_err(|error| match error {
        E::Io { call, path, source } => {
            Error::Sys { call: call.into(), path: path.display().to_string(), source }
        }
        refused @ (E::Overlay { .. } | E::Store(_)) => {
            Error::Unsupported { what: "overlay".into(), why: refused.to_string() }
        }
    })
}

/// A container may set what belongs to a namespace of its own, and nothing else: the rest of /proc/sys
/// is the host's. Source: Docker's and runc's list of namespaced sysctls.
fn check_sysctl(name: &str, namespaces: &Namespaces) -> Result<(), Error> {
    let (kind, which) = match name {
        "kernel.msgmax"
        | "kernel.msgmnb"
        | "kernel.msgmni"
        | "kernel.sem"
        | "kernel.shmall"
        | "kernel.shmmax"
        | "kernel.shmmni"
        | "kernel.shm_rmid_forced" => (libc::CLONE_NEWIPC, "ipc"),
        "kernel.domainname" | "kernel.hostname" => (libc::CLONE_NEWUTS, "uts"),
        _ if name.starts_with("fs.mqueue.") => (libc::CLONE_NEWIPC, "ipc"),
        _ if name.starts_with("net.") => (libc::CLONE_NEWNET, "network"),
        _ => {
            return Err(Error::Invalid {
                what: "sysctl".into(),
                value: format!("{name} is not in a separate kernel namespace"),
            });
        }
    };
    if name.contains('/') || name.split('.').any(str::is_empty) {
        return Err(Error::invalid("sysctl", name));
    }
    if !namespaces.is_private(kind) {
        return Err(Error::invalid(
            "sysctl",
            format!("{name} is not allowed: the container shares the host's {which} namespace"),
        ));
    }
    Ok(())
}
