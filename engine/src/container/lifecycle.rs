//! The verbs that move a container through its life.
//!
//! Each takes the store and the container, changes one thing, and leaves a state that the next command
//! can read whatever happens in between. The order inside each is chosen for a SIGKILL at any point:
//! a row exists before the files it names, and outlives them.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::claim::Claim;
use super::freeze::{Right, Signals};
use super::lock::Lock;
use super::log::now;
use super::protocol::{Event, Request};
use super::record::{self, Container, Record, State, Status};
use super::summon::Handle;
use super::{Error, InvalidConfig, IoContext as _, attach, name};
use crate::cgroup::{Cgroup, oom, resources, validate};
use crate::config::{Config, HostConfig, NetworkingConfig, Resources};
use crate::digest::{ChainId, Digest};
use crate::operator::Defaults;
use crate::snapshot::Snapshot;
use crate::store::{Scratch, Store};

/// Seconds `stop` waits before SIGKILL when nobody said otherwise. Docker's value.
pub const STOP_TIMEOUT: i64 = 10;

/// How long to wait for somebody who has a container between two states.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long process 1 may take to die of SIGKILL, and its monitor to record that: it gives a client that has stopped
/// reading ten seconds for the last output. A process that the kernel does not let go of (a dead file server's, say)
/// would be waited for for ever.
const DYING: Duration = Duration::from_secs(30);

/// What `create` needs.
#[derive(Debug)]
pub struct NewContainer {
    /// The image's id.
    pub image: Digest,
    /// The image's layers, lowest first.
    pub chain: Vec<ChainId>,
    /// The name asked for, if any.
    pub name: Option<String>,
    /// The image half, already merged with the image's own.
    pub config: Config,
    /// The host half.
    pub host_config: HostConfig,
    /// What is asked of each network.
    pub networking: NetworkingConfig,
    /// The cgroup to make the container's under when `HostConfig` names none.
    pub cgroup_parent: String,
    /// Made by `run --rm`.
    pub ephemeral: bool,
}

/// A created container and the claim on it, for [`start`].
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub container: Container,
    /// Dropped unused, it leaves the container created and unowned.
    pub claim: Claim,
    /// What Docker would warn of.
    pub warnings: Vec<String>,
}

/// Records a new container and makes its writable layer.
pub fn create(store: &mut Store, new: NewContainer, claim: Claim) -> Result<Created, Error> {
    let NewContainer {
        image,
        chain,
        name: wanted,
        mut config,
        mut host_config,
        networking,
        cgroup_parent,
        ephemeral,
    } = new;
    if let Some(wanted) = &wanted {
        name::check(wanted)?;
    }
    Defaults::load(store.layout())?.complete(&mut host_config);
    super::log::Settings::read(&host_config.log_config)?;
    crate::cgroup::resources::fill_defaults(&mut host_config.resources);
    validate::oom_score_adj(host_config.oom_score_adj)?;
    host_config.oom_score_adj = oom::score_of(host_config.oom_score_adj, &host_config.resources);
    // Asking what machine this is costs more than a container without limits should pay.
    let mut warnings = if host_config.resources == Resources::default() {
        Vec::new()
    } else {
        validate::create(&host_config.resources, &validate::Machine::here())?
    };
    if host_config.network_mode == "host" && !host_config.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    let mut command = config.entrypoint.clone().unwrap_or_default();
    command.extend(config.cmd.clone().unwrap_or_default());
    let mut command = command.into_iter();
    let path = command.next().filter(|path| !path.is_empty()).ok_or(Error::NoCommand)?;
    let (id, entropy) = (claim.id().to_owned(), claim.entropy());
    if config.hostname.is_empty() && host_config.uts_mode != "host" && host_config.network_mode != "host" {
        id[..12].clone_into(&mut config.hostname);
    }
    let parent =
        if host_config.cgroup_parent.is_empty() { cgroup_parent } else { host_config.cgroup_parent.clone() };
    // Whom it joins is that container, whatever it or another is called later.
    for mode in [&mut host_config.network_mode, &mut host_config.ipc_mode, &mut host_config.pid_mode] {
        if let Some(other) = mode.strip_prefix("container:") {
            *mode = format!("container:{}", record::find(store, other)?.id);
        }
    }
    let mounts = super::volumes::resolve(store, &config, &host_config)?;
    super::spec::check(store, &host_config)?;
    super::network::check(store, &host_config, &networking)?;
    if let Some(other) = host_config.network_mode.strip_prefix("container:") {
        // Its hosts file is the other's, and knows no other name.
        let other = record::find(store, other)?.record.config;
        config.hostname = other.hostname;
        config.domainname = other.domainname;
    }
    let mut container = Container {
        id: id.clone(),
        name: String::new(),
        image: Some(image),
        created: now(),
        record: Box::new(Record {
            path,
            args: command.collect(),
            config,
            host_config,
            networking,
            chain,
            mounts: mounts.points,
            ephemeral,
            cgroup_parent: parent,
            platform: "linux".into(),
        }),
        state: State::default(),
    };
    let insert = |store: &Store, container: &mut Container| {
        let mut attempt = 0;
        loop {
            container.name =
                wanted.clone().unwrap_or_else(|| name::random(entropy.rotate_left(attempt * 7), attempt));
            match record::insert(store, container) {
                Err(Error::NameInUse { .. }) if wanted.is_none() => attempt += 1,
                other => return other,
            }
        }
    };
    if mounts.volumes.is_empty() {
        insert(store, &mut container)?;
    } else {
        super::volumes::record(store, &mut container, &mounts.volumes, insert)?;
    }
    let made = Snapshot::prepare(store.layout(), &id, &container.record.chain)
        .map_err(Error::from)
        .and_then(|_| super::volumes::fill(store, &container));
    if let Err(error) = made {
        container.state.remove_volumes = true;
        let _ = erase(store, &container);
        return Err(error);
    }
    container.event("create").tell(store.layout());
    Ok(Created { container, claim, warnings })
}

/// Starts a container; the caller serves `attach`'s streams over the returned socket.
///
/// Returns once the monitor has been executed; [`await_start`] waits for process 1. `None` when somebody
/// else has started it.
pub fn start(store: &Store, container: &Container, attach: &Request) -> Result<Option<Handle>, Error> {
    idle(store, container)?.map(|claim| claim.start(attach)).transpose()
}

/// The claim on a container that does not run, once whoever is about to start it, or to let go of it
/// after its end, has done so; `None` when it runs by then.
pub(super) fn idle(store: &Store, container: &Container) -> Result<Option<Claim>, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        let container = settled(store, container)?;
        if container.state.status.is_alive() {
            return Ok(None);
        }
        if let Some(claim) = Claim::of(store.layout(), &container.id)? {
            return Ok(Some(claim));
        }
        if Instant::now() >= until {
            return Err(Error::MonitorLost(container.id));
        }
    }
}

/// Waits until process 1 executes its program; hands `early` what arrives before that.
pub fn await_start(handle: &Handle, id: &str, mut early: impl FnMut(Event)) -> Result<i32, Error> {
    let mut receiver = attach::Receiver::new(handle.socket.as_fd());
    loop {
        match receiver.receive().at("recv", Path::new(id))? {
            Some(Event::Started { pid }) => return Ok(pid),
            Some(Event::Failed { code, message }) => return Err(Error::Start { code, message }),
            Some(other) => early(other),
            None => return Err(Error::MonitorLost(id.to_owned())),
        }
    }
}

/// The exit code of a failed start: 127 not found, 126 not executable, 125 our own failure.
pub fn start_code(error: &Error) -> i32 {
    match error {
        Error::Start { code, .. } => *code,
        Error::Runtime(error) => error.exit_code().into(),
        _ => 125,
    }
}

/// A handle on process 1 that cannot mean another process.
pub(super) fn pidfd(store: &Store, container: &Container) -> Result<OwnedFd, Error> {
    let gone = || Error::NotRunning(container.id.clone());
    let pid = container.state.pid;
    if pid <= 0 || !container.state.status.is_alive() {
        return Err(gone());
    }
    // SAFETY: pidfd_open takes a pid and flags and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(gone());
    }
    // SAFETY: the call just returned this descriptor.
    let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd as i32) };
    // The pid may have been reused between our reading the record and opening it. If the record still
    // says the same now, its monitor had not reaped that process when we opened it.
    let again = record::find(store, &container.id)?;
    if again.state.pid == pid && again.state.status.is_alive() && Lock::is_held(store.layout(), &container.id)
    {
        Ok(fd)
    } else {
        Err(gone())
    }
}

fn signal_fd(fd: &OwnedFd, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: a valid pidfd, a signal number, no siginfo, no flags.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads a signal as Docker takes it: `SIGHUP`, `HUP`, `hup`, `1`, `RTMIN+3`.
pub fn parse_signal(text: &str) -> Result<i32, Error> {
    let bad = || Error::Signal(text.to_owned());
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('+').and_then(|n| n.parse().ok()).ok_or_else(bad)?
        };
        return if (0..=30).contains(&offset) { Ok(34 + offset) } else { Err(bad()) };
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('-').and_then(|n| n.parse().ok()).ok_or_else(bad)?
        };
        return if (0..=30).contains(&offset) { Ok(64 - offset) } else { Err(bad()) };
    }
    format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| bad())
}

/// Sends a signal to process 1.
pub fn kill(store: &mut Store, container: &Container, signal: &str) -> Result<(), Error> {
    let number = parse_signal(signal)?;
    if container.state.status == Status::Restarting {
        return mark_stopped(store, &container.id);
    }
    let fd = pidfd(store, container)?;
    if matches!(number, libc::SIGKILL | libc::SIGTERM | libc::SIGINT) {
        mark_stopped(store, &container.id)?;
    }
    container.event("kill").with("signal", &number).tell(store.layout());
    match signal_fd(&fd, number) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            Err(Error::NotRunning(container.id.clone()))
        }
        other => other.at("pidfd_send_signal", Path::new(&container.id)),
    }?;
    if number == libc::SIGKILL && container.state.status == Status::Paused {
        // A frozen v1 task does not act on SIGKILL until it is thawed.
        if let Ok(cgroup) = Cgroup::open(&container.record.cgroup_parent, &container.id) {
            let _ = cgroup.thaw();
        }
    }
    if number == libc::SIGKILL {
        // Whoever kills it for good goes on as if it were gone.
        wait(store, &container.id, Some(DYING))?;
    }
    Ok(())
}

fn mark_stopped(store: &mut Store, id: &str) -> Result<(), Error> {
    record::change_state(store, id, |state| state.stopped_by_user = true).map(drop)
}

/// Asks process 1 to end, and kills it after the timeout (seconds; negative waits for ever).
pub fn stop(
    store: &mut Store,
    container: &Container,
    timeout: Option<i64>,
    signal: Option<&str>,
) -> Result<(), Error> {
    if !container.state.status.is_alive() {
        return Ok(());
    }
    let config = &container.record.config;
    let signal = signal.map_or_else(
        || if config.stop_signal.is_empty() { "SIGTERM".to_owned() } else { config.stop_signal.clone() },
        str::to_owned,
    );
    let number = parse_signal(&signal)?;
    mark_stopped(store, &container.id)?;
    if container.state.status == Status::Restarting {
        return wait(store, &container.id, Some(DYING)).map(drop);
    }
    let Ok(fd) = pidfd(store, container) else { return Ok(()) };
    let told = |signal: i32| container.event("kill").with("signal", &signal).tell(store.layout());
    // Before the signal, which a container may answer with its end before we come to tell of it.
    told(number);
    let sent = signal_fd(&fd, number);
    if container.state.status == Status::Paused
        && let Ok(cgroup) = Cgroup::open(&container.record.cgroup_parent, &container.id)
    {
        let _ = cgroup.thaw();
    }
    let timeout = timeout.or(config.stop_timeout).unwrap_or(STOP_TIMEOUT);
    let patience = u64::try_from(timeout).ok().map(Duration::from_secs);
    if sent.is_err() || !speaks(&fd, patience.and_then(moment))? {
        told(libc::SIGKILL);
        let _ = signal_fd(&fd, libc::SIGKILL);
        if !speaks(&fd, moment(Duration::from_secs(10)))?
            && let Ok(cgroup) = Cgroup::open(&container.record.cgroup_parent, &container.id)
        {
            cgroup.kill()?;
            await_death(&fd, container)?;
        }
    }
    wait(store, &container.id, Some(DYING))?;
    container.event("stop").tell(store.layout());
    Ok(())
}

/// When a patience is over; one that the clock cannot count to has no end.
fn moment(patience: Duration) -> Option<Instant> {
    Instant::now().checked_add(patience)
}

/// Waits until process 1, which was sent SIGKILL, is dead.
fn await_death(fd: &OwnedFd, container: &Container) -> Result<(), Error> {
    if speaks(fd, moment(DYING))? { Ok(()) } else { Err(Error::NoExit(container.name.clone())) }
}

/// Whether a pidfd tells of its process's end, or a monitor's socket of anything, before that moment.
fn speaks(fd: &OwnedFd, until: Option<Instant>) -> Result<bool, Error> {
    loop {
        let left = match until {
            None => PollTimeout::NONE,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left.min(Duration::from_secs(3600))).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(0) if until.is_some_and(|until| Instant::now() >= until) => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno).at("poll", Path::new("pidfd")),
        }
    }
}

/// Does something with the cgroup of a container that runs. One that is gone went with its container, unless somebody
/// took it away from a process that runs on.
pub(super) fn with_cgroup<T>(
    store: &Store,
    container: &Container,
    act: impl FnOnce(Cgroup) -> Result<T, crate::cgroup::Error>,
) -> Result<T, Error> {
    let gone = match Cgroup::open(&container.record.cgroup_parent, &container.id).and_then(act) {
        Err(gone @ crate::cgroup::Error::Gone { .. }) => gone,
        other => return Ok(other?),
    };
    match pidfd(store, container) {
        Ok(first) if !speaks(&first, Some(Instant::now()))? => Err(gone.into()),
        _ => Err(Error::NotRunning(container.id.clone())),
    }
}

/// Freezes every process.
pub fn pause(store: &mut Store, container: &Container) -> Result<(), Error> {
    match container.state.status {
        Status::Paused => return Err(Error::AlreadyPaused(container.id.clone())),
        Status::Running => {}
        _ => return Err(Error::NotRunning(container.id.clone())),
    }
    let _right = Right::take(store.layout(), &container.id)?;
    with_cgroup(store, container, |cgroup| cgroup.freeze())?;
    set_status(store, &container.id, Status::Running, Status::Paused)?;
    container.event("pause").tell(store.layout());
    Ok(())
}

/// Thaws every process.
pub fn unpause(store: &mut Store, container: &Container) -> Result<(), Error> {
    match container.state.status {
        Status::Paused => {}
        _ => return Err(Error::NotPaused(container.id.clone())),
    }
    let _right = Right::take(store.layout(), &container.id)?;
    with_cgroup(store, container, |cgroup| cgroup.thaw())?;
    set_status(store, &container.id, Status::Paused, Status::Running)?;
    container.event("unpause").tell(store.layout());
    Ok(())
}

fn set_status(store: &mut Store, id: &str, from: Status, to: Status) -> Result<(), Error> {
    record::change_state(store, id, |state| {
        if state.status == from {
            state.status = to;
        }
    })
    .map(drop)
}

/// Waits until a container does not run (any more) and returns its exit code; `None` when it has been
/// removed meanwhile. Fails when `patience` is over first.
pub fn wait(store: &Store, id: &str, patience: Option<Duration>) -> Result<Option<i32>, Error> {
    let until = patience.and_then(moment);
    loop {
        let found = || match record::find(store, id) {
            Err(Error::NoSuchContainer(_)) => Ok(None),
            other => other.map(Some),
        };
        let Some(container) = found()? else { return Ok(None) };
        if !container.state.status.is_alive() {
            return Ok(Some(container.state.exit_code));
        }
        if !Lock::is_held(store.layout(), &container.id) {
            // The monitor may have written the end after our reading; it does so before it lets go of the lock.
            return Ok(found()?.map(|container| container.state.exit_code));
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::NoExit(container.name));
        }
        // The monitor closes this connection when it ends, after writing the state and dropping its lock.
        match attach::connect(store, &container, &Request::Attach { stdin: false, output: false }) {
            Ok(handle) => {
                let mut receiver = attach::Receiver::new(handle.socket.as_fd());
                loop {
                    if !speaks(&handle.socket, until)? {
                        break;
                    }
                    match receiver.receive() {
                        Ok(Some(Event::Exited { code })) => {
                            return Ok(Some(code));
                        }
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    }
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Waits while somebody is about to start a container, so that nothing is taken from under its monitor:
/// the lock is held and the record does not say yet that it runs.
fn settled(store: &Store, container: &Container) -> Result<Container, Error> {
    let until = Instant::now() + PATIENCE;
    let mut container = container.clone();
    while !container.state.status.is_alive()
        && Lock::is_held(store.layout(), &container.id)
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_millis(2));
        container = record::find(store, &container.id)?;
    }
    Ok(container)
}

/// Removes a container: its files, its cgroup, its row, in that order. With `volumes`, those that nobody named and
/// nobody else uses go as well.
pub fn remove(store: &mut Store, container: &Container, force: bool, volumes: bool) -> Result<(), Error> {
    let mut container = match settled(store, container) {
        // `run --rm` may have come to its own end meanwhile.
        Err(Error::NoSuchContainer(_)) => return Ok(()),
        other => other?,
    };
    container.state.remove_volumes |= volumes;
    let container = &container;
    if container.state.status.is_alive() {
        if !force {
            let status = container.state.status.as_str();
            return Err(Error::RemoveRunning { name: container.name.clone(), status });
        }
        mark_stopped(store, &container.id)?;
        if let Ok(fd) = pidfd(store, container) {
            let _ = signal_fd(&fd, libc::SIGKILL);
            if let Ok(cgroup) = Cgroup::open(&container.record.cgroup_parent, &container.id) {
                let _ = cgroup.thaw();
                let _ = cgroup.kill();
            }
            await_death(&fd, container)?;
        }
        if wait(store, &container.id, Some(DYING))?.is_none() {
            return Ok(());
        }
    }
    erase(store, container).map(drop)
}

/// Takes away everything of a container that has no process any more.
///
/// Its files are out of their place when this returns, and are removed when what it returns is dropped. On a
/// file system that discards what it frees, each directory takes a quarter of a millisecond: whoever waits
/// for the container's end should not wait for that.
pub(super) fn erase(store: &mut Store, container: &Container) -> Result<Option<Scratch>, Error> {
    let id = &container.id;
    // From here on a kill leaves a row that says "removing", and the next command starts this again.
    if !container.record.ephemeral {
        record::change_state(store, id, |state| {
            state.status = Status::Removing;
            state.remove_volumes |= container.state.remove_volumes;
        })?;
    }
    // A start that was killed halfway leaves a row that says "created" and cgroups that nobody entered.
    if let Ok(cgroup) = Cgroup::open(&container.record.cgroup_parent, id) {
        let _ = cgroup.thaw();
        cgroup.remove()?;
    }
    let files = store.take_away(&container.dir(store.layout()))?;
    // They go with `rm -v`, and with a container that goes by itself; `rm` of such a one leaves them, as in Docker.
    super::volumes::forget(store, container, container.state.remove_volumes)?;
    container.event("destroy").tell(store.layout());
    Lock::discard(store.layout(), id).at("remove", &store.layout().run(id))?;
    Ok(files)
}

/// Gives a container another name, in the answers of its networks' resolvers as well.
pub fn rename(store: &Store, container: &Container, to: &str) -> Result<(), Error> {
    let to = to.strip_prefix('/').unwrap_or(to);
    name::check(to)?;
    if to == container.name {
        return Err(InvalidConfig::SameName.into());
    }
    record::write_name(store, &container.id, to)?;
    crate::network::rename(store, &container.id, to)?;
    let mut told = container.event("rename").with("oldName", &format!("/{}", container.name));
    told.attributes.insert("name".to_owned(), to.to_owned());
    told.tell(store.layout());
    Ok(())
}

/// Changes limits, in the kernel when the container runs, and in the record. Fields of `change` that
/// are zero stay as they are.
pub fn update(
    store: &mut Store,
    container: &Container,
    restart: Option<crate::config::RestartPolicy>,
    change: &Resources,
) -> Result<Vec<String>, Error> {
    let _signals = Signals::hold()?;
    // What a limit is moved in by may freeze it, and two changes of the same are one after the other.
    let right = if container.state.status.is_alive() { Right::of(store, &container.id)? } else { None };
    let container = &record::find(store, &container.id)?;
    if let Some(restart) = &restart
        && container.record.host_config.auto_remove
        && !restart.is_none()
    {
        return Err(InvalidConfig::RestartOfAutoRemoved.into());
    }
    let mut warnings = Vec::new();
    let machine = (*change != Resources::default()).then(validate::Machine::here);
    if let (Some(right), Some(machine)) = (&right, &machine) {
        let current = &container.record.host_config.resources;
        let merged = validate::update(current, change, machine)?;
        let write = resources::of_update(&merged, change)?;
        // One that is paused is to stay frozen.
        if container.state.status == Status::Running {
            right.mark()?;
        }
        let unsupported = with_cgroup(store, container, |mut cgroup| {
            cgroup.update(&write).inspect_err(|_| {
                // What the record goes on to say is to be what holds. A limit that cannot be put back is no
                // reason to hide why the change failed.
                let undo = resources::of_undo(current, change, &machine.cpu_list);
                let _ = undo.map(|undo| cgroup.update(&undo));
            })
        });
        right.unmark();
        warnings.extend(unsupported?.iter().map(ToString::to_string));
    }
    record::change_record(store, &container.id, |record| {
        let host = &mut record.host_config;
        if let Some(restart) = restart {
            host.restart_policy = restart;
        }
        if let Some(machine) = &machine {
            let merged = validate::update(&host.resources, change, machine)?;
            // A score that came from the limits follows them, for what is started from now on; processes
            // that run keep the one they were born with, as children of theirs would.
            if host.oom_score_adj == oom::score_of(0, &host.resources) {
                host.oom_score_adj = oom::score_of(0, &merged);
            }
            host.resources = merged;
        }
        Ok(())
    })?;
    container.event("update").tell(store.layout());
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_docker_reads_them() {
        for (text, number) in [
            ("SIGHUP", 1),
            ("HUP", 1),
            ("hup", 1),
            ("1", 1),
            ("SIGKILL", 9),
            ("term", 15),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("SIGRTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse_signal(text).expect(text), number, "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGFOO", "RTMIN+99", "RTMINx", "SIG"] {
            assert!(parse_signal(text).is_err(), "{text:?}");
        }
    }
}
