//! The one process of ours that lives as long as a container: parent of its process 1.
//!
//! It holds what must not die with a command: the read end of the container's output, the log, the
//! attach socket, the exit status, the restart policy. It is single-threaded, because it calls clone3,
//! and it owns no more than a poll set, so that a host with a thousand containers pays for a thousand
//! stacks and little else. It runs from a read-only view of the binary
//! ([`super::summon`]), because the container's process 1 is cloned from it and
//! carries its `/proc/self/exe` until the exec.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};

use super::health::Checker;
use super::lock::Lock;
use super::log::{Stream, Writer, now};
use super::protocol::{self, CHUNK, Event, Request};
use super::record::{self, Container, OutOfMemory, Status};
use super::summon::{self, Handle};
use super::{Error, IoContext as _, lifecycle, spec};
use crate::cgroup::{self, Cgroup, oom::OomWatch};
use crate::runtime;
use crate::snapshot::Snapshot;
use crate::store::{Layout, Scratch, Store};

/// Output queued for one client before its container's pipes are left unread, in bytes.
const CLIENT_QUEUE: usize = 1 << 20;
/// Input queued for the container before its clients are left unread, in bytes.
const STDIN_QUEUE: usize = 256 * 1024;
/// Clients at once; more are left waiting at the door. Each is a descriptor of ours.
const CLIENTS: usize = 256;
/// Where no descriptor is to be had for a client: how long until we try again, so that it does not become all we do.
const NO_DESCRIPTOR: Duration = Duration::from_millis(50);
/// The first pause of the restart policy; it doubles up to [`RESTART_MAX`]. Docker's values.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(60);
/// A run at least this long puts the pause back to the first.
const RESTART_RESET: Duration = Duration::from_secs(10);

/// A container that has been quiet for as long has nobody waiting for it.
const SETTLED: Duration = Duration::from_secs(1);

/// For poll(2), which counts in milliseconds: never too early, or it would be asked again and again.
fn until(patience: Option<Duration>) -> PollTimeout {
    patience.map_or(PollTimeout::NONE, |patience| {
        let milliseconds = patience.as_nanos().div_ceil(1_000_000);
        i32::try_from(milliseconds)
            .ok()
            .and_then(|ms| PollTimeout::try_from(ms).ok())
            .unwrap_or(PollTimeout::MAX)
    })
}

/// What a monitor may make for its container before it knows it. A wrong guess costs time and nothing else.
#[derive(Debug, Clone, Default)]
pub struct Likely {
    /// It will have a network namespace of its own.
    pub network: bool,
    /// It will have an IPC namespace of its own.
    pub ipc: bool,
    /// Where its cgroup will be; `None` for one that may do what others may not.
    pub cgroup_parent: Option<String>,
}

/// The monitor's life: what `bulkhead monitor ID CONTROL LOCK` runs.
pub fn main(layout: Layout, id: &str, control: RawFd, lock: RawFd) -> Result<(), Error> {
    let (control, lock) = summon::adopt(id, control, lock)?;
    live(layout, id, control, lock, Likely::default())
}

/// A monitor that is forked from this process; `None` where one must be executed ([`summon::fork`]).
pub(super) fn fork(layout: &Layout, id: &str, lock: &Lock, likely: Likely) -> Result<Option<Handle>, Error> {
    summon::fork(layout, id, lock, |control, lock| live(layout.clone(), id, control, lock, likely))
}

fn live(layout: Layout, id: &str, control: OwnedFd, lock: Lock, likely: Likely) -> Result<(), Error> {
    let mut clients = vec![Client::new(control)];
    // Nothing else is to be done until the word comes, and these take the longest.
    let ahead = if clients[0].has_spoken() { Ahead::default() } else { Ahead::make(id, &lock, likely) };
    let mut store = Store::open(layout)?;
    clients[0].greet_blocking();
    if clients[0].gone {
        drop(ahead);
        return abandoned(&mut store, id);
    }
    let container = record::find(&store, id)?;
    let mut removed = None;
    let outcome = Monitor::supervise(&mut store, container, &mut clients, &mut removed, ahead);
    let last = match &outcome {
        Ok(code) => Event::Exited { code: *code },
        Err(error) => Event::Failed { code: lifecycle::start_code(error), message: error.to_string() },
    };
    drop(lock);
    for client in &mut clients {
        client.push(&last);
        client.flush_blocking();
    }
    clients.clear();
    drop(removed);
    store.checkpoint();
    outcome.map(drop)
}

/// Takes back what a command made that went away before it gave the word. We hold the container's lock.
fn abandoned(store: &mut Store, id: &str) -> Result<(), Error> {
    match record::find(store, id) {
        Ok(mut container) if container.record.ephemeral => {
            container.state.remove_volumes = true;
            lifecycle::erase(store, &container).map(drop)
        }
        // It stays as created; like any such, without a run directory.
        Ok(_) | Err(Error::NoSuchContainer(_)) => {
            let _ = Lock::discard(store.layout(), id);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// A connected client.
struct Client {
    socket: OwnedFd,
    output: bool,
    stdin: bool,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    gone: bool,
}

impl Client {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, output: false, stdin: false, queue: VecDeque::new(), queued: 0, gone: false }
    }

    /// Whether a message waits to be read.
    fn has_spoken(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    fn greet_blocking(&mut self) {
        let mut buffer = [0; 16];
        match protocol::receive(self.socket.as_fd(), &mut buffer, MsgFlags::empty()).map(Request::decode) {
            Ok(Some(Request::Attach { stdin, output })) => (self.stdin, self.output) = (stdin, output),
            _ => self.gone = true,
        }
    }

    fn push(&mut self, event: &Event) {
        if self.gone {
            return;
        }
        let message = event.encode();
        self.queued += message.len();
        self.queue.push_back(message);
        self.flush();
    }

    fn flush(&mut self) {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        while let Some(message) = self.queue.front() {
            match protocol::send_message(self.socket.as_fd(), message, flags) {
                Ok(()) => {
                    self.queued -= message.len();
                    self.queue.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    /// Waits for a slow reader, but not for one that stopped reading altogether.
    fn flush_blocking(&mut self) {
        self.flush();
        while !self.gone && !self.queue.is_empty() {
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, PollTimeout::from(10_000_u16)) {
                // Waited for once, and not for each message: the end of the container waits for this.
                Ok(0) => self.gone = true,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            self.flush();
        }
    }
}

/// The container's side of its three streams.
enum Output {
    Pipes { out: Option<OwnedFd>, err: Option<OwnedFd> },
    Console(Option<OwnedFd>),
}

struct Monitor<'m> {
    store: &'m mut Store,
    container: Container,
    clients: &'m mut Vec<Client>,
    listener: OwnedFd,
    log: Option<Writer>,
    /// The files of a container that was to be removed: out of their place, to be removed after the last word.
    removed: &'m mut Option<Scratch>,
    /// For the first run.
    ahead: Ahead,
}

/// What was made of a container while nothing was known of it but what it is likely to be.
#[derive(Default)]
struct Ahead {
    namespaces: runtime::Fresh,
    /// In the cgroup parent it was expected in.
    cgroup: Option<(String, CgroupGuard)>,
}

impl Ahead {
    /// What cannot be made now is made, or refused, later.
    fn make(id: &str, lock: &Lock, likely: Likely) -> Self {
        let namespaces = runtime::Fresh::make(likely.network, likely.ipc).unwrap_or_default();
        let cgroup = likely.cgroup_parent.and_then(|parent| {
            lock.note(&parent).ok()?;
            let made = Cgroup::make_unlimited(&parent, id, &runtime::defaults::device_rules()).ok()?;
            Some((parent, CgroupGuard(Some(made))))
        });
        Self { namespaces, cgroup }
    }

    /// The cgroup, if it is where it should be; it is removed if it is not.
    fn cgroup(&mut self, parent: &str) -> Option<Cgroup> {
        self.cgroup.take().filter(|(made, _)| made == parent).and_then(|(_, mut guard)| guard.0.take())
    }
}

/// What ended a run of process 1.
struct Ending {
    code: i32,
    oom_kills: u64,
    oom: Option<OutOfMemory>,
    /// When it began, RFC 3339.
    started_at: String,
    /// Until the record names its pid no more.
    first: Option<Unreaped>,
}

/// Process 1 after its end, reaped when this is dropped.
///
/// Whoever reads a record that says "running" signals the pid in it, or enters its namespaces. Reaped before the
/// record says otherwise, that pid may be any process of the host's, and a container that forks often enough chooses
/// which.
struct Unreaped(OwnedFd);

impl Drop for Unreaped {
    fn drop(&mut self) {
        let _ = super::exec::exit_code(&self.0);
    }
}

/// Figures that cannot be read are not told; the kills are counted all the same.
fn out_of_memory(cgroup: &Cgroup, id: &str, kills: u64) -> OutOfMemory {
    let memory = cgroup.meter().and_then(|meter| meter.read()).ok().and_then(|stats| stats.memory);
    let victim = cgroup::await_victim(id);
    let peak = || memory.as_ref().and_then(|memory| memory.peak);
    OutOfMemory {
        kills,
        limit: memory.as_ref().and_then(|memory| memory.limit),
        usage: victim.as_ref().and_then(|victim| victim.usage).or_else(peak),
        victim,
    }
}

/// Kills for memory while process 1 lives: told when they happen, since it may go on for weeks.
struct OomTeller<'a> {
    cgroup: &'a Cgroup,
    /// `None` without a memory controller, and when the kernel has no watch to give: then the end tells.
    watch: Option<OomWatch>,
    /// Kills that have been told of.
    told: u64,
    last: Option<OutOfMemory>,
    /// When they were.
    at: Option<Instant>,
    /// v1 wakes us before it kills: until when to look again.
    looking: Option<Instant>,
}

/// Between two tellings of a container that runs out of memory again and again: it must not fill the log of
/// events, nor keep us reading the kernel's.
const TELLING: Duration = Duration::from_secs(1);
/// For how long after a wake-up the count is looked at again, and how often.
const LOOKING: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);

impl<'a> OomTeller<'a> {
    fn new(cgroup: &'a Cgroup) -> Self {
        Self {
            cgroup,
            watch: cgroup.oom_watch().ok().flatten(),
            told: 0,
            last: None,
            at: None,
            looking: None,
        }
    }

    /// What is to be polled, unless it is too soon; and after how long to look all the same.
    fn watched(&self) -> (Option<&OomWatch>, Option<Duration>) {
        let Some(watch) = &self.watch else { return (None, None) };
        match self.at.and_then(|at| TELLING.checked_sub(at.elapsed())) {
            Some(rest) => (None, Some(rest)),
            None => (Some(watch), self.looking.map(|_| LOOK)),
        }
    }

    /// Takes a wake-up.
    fn woken(&mut self) {
        if self.watch.as_ref().is_some_and(|watch| watch.acknowledge().is_err()) {
            // A watch that cannot be read would wake us for ever.
            self.watch = None;
        }
        self.looking = Some(Instant::now() + LOOKING);
    }

    /// Looks whether there are more, and tells of them. Returns how many there have been.
    fn look(&mut self, layout: &Layout, container: &Container) -> u64 {
        let kills = self.cgroup.oom_kills().ok().flatten().unwrap_or(0);
        if kills > self.told {
            self.told = kills;
            let oom = out_of_memory(self.cgroup, &container.id, kills);
            tell_oom(layout, container, &oom);
            self.last = Some(oom);
            self.at = Some(Instant::now());
            self.looking = None;
        } else if self.looking.is_some_and(|until| Instant::now() >= until) {
            self.looking = None;
        }
        kills
    }
}

/// `oom`, as `events` shows it and `serve` writes it into its log.
fn tell_oom(layout: &Layout, container: &Container, oom: &OutOfMemory) {
    let mut told = container.event("oom").with("kills", &oom.kills);
    let victim = oom.victim.as_ref();
    for (name, value) in [
        ("limit", oom.limit.map(|bytes| bytes.to_string())),
        ("usage", oom.usage.map(|bytes| bytes.to_string())),
        ("victim", victim.map(|victim| victim.name.clone())),
        ("victimPid", victim.map(|victim| victim.pid.to_string())),
        ("victimRss", victim.map(|victim| victim.rss.to_string())),
        ("victimScoreAdj", victim.and_then(|victim| victim.score_adj).map(|adj| adj.to_string())),
    ] {
        if let Some(value) = value {
            told = told.with(name, &value);
        }
    }
    told.tell(layout);
}

impl<'m> Monitor<'m> {
    fn supervise(
        store: &'m mut Store,
        container: Container,
        clients: &'m mut Vec<Client>,
        removed: &'m mut Option<Scratch>,
        ahead: Ahead,
    ) -> Result<i32, Error> {
        let listener = listen_at(&container.socket(store.layout()))?;
        let log = log_writer(&container, store.layout())?;
        let mut monitor = Self { store, container, clients, listener, log, removed, ahead };
        let mut pause = RESTART_FIRST;
        let mut first = true;
        loop {
            let began = Instant::now();
            let ending = monitor.run_once(first);
            let left = super::network::leave(monitor.store, &monitor.container).unwrap_or_else(|error| {
                // The next command sweeps what is left of it; the end has to be recorded all the same.
                monitor.tell(&Event::Warning(error.to_string()));
                Vec::new()
            });
            let ending = ending.map(|mut ending| {
                monitor.look_again();
                let again = monitor.record_end(&mut ending);
                (ending, again)
            });
            super::network::tell_left(monitor.store.layout(), &monitor.container, &left);
            match ending {
                Ok((ending, again)) => {
                    first = false;
                    if began.elapsed() >= RESTART_RESET {
                        pause = RESTART_FIRST;
                    }
                    if !(again? && monitor.waits_out(pause)?) {
                        while monitor.welcome() {}
                        return monitor.end(&ending);
                    }
                    // Its limits as well may be others by now.
                    monitor.look_again();
                    pause = (pause * 2).min(RESTART_MAX);
                }
                Err(error) => {
                    monitor.failed(&error)?;
                    return Err(error);
                }
            }
        }
    }

    /// The record as it is now: `update` and `rename` change it while we hold a copy. One that goes with its end is
    /// read once.
    fn look_again(&mut self) {
        if self.container.record.host_config.auto_remove {
            return;
        }
        if let Ok(Container { record, name, .. }) = record::find(self.store, &self.container.id) {
            (self.container.record, self.container.name) = (record, name);
        }
    }

    /// Starts process 1 and serves it until it ends.
    fn run_once(&mut self, first: bool) -> Result<Ending, Error> {
        let began = Instant::now();
        let layout = self.store.layout().clone();
        let id = self.container.id.clone();
        // Until the end of this run.
        let _volumes = super::volumes::attach(self.store, &self.container)?;
        let spec = spec::build(self.store, &self.container)?;
        for warning in &spec.warnings {
            self.tell(&Event::Warning(warning.clone()));
        }
        let snapshot = Snapshot::open(&layout, &id, &self.container.record.chain)
            .volatile(self.container.record.host_config.auto_remove);
        let resources = spec.resources();
        let parent = &self.container.record.cgroup_parent;
        let made = match self.ahead.cgroup(parent) {
            Some(made) => made.limit(resources),
            None => Cgroup::create(parent, &id, resources),
        };
        let (cgroup, warnings) = match made {
            // Of a monitor that was killed before it had recorded anything: we hold the lock, it is nobody's.
            Err(crate::cgroup::Error::Exists { .. }) => {
                Cgroup::discard(parent, &id)?;
                Cgroup::create(parent, &id, resources)?
            }
            made => made?,
        };
        for warning in warnings {
            self.tell(&Event::Warning(warning.to_string()));
        }
        let guard = CgroupGuard(Some(cgroup));
        let cgroup = guard.0.as_ref().expect("the guard holds it until dropped");
        let attach = cgroup.attach()?;

        let tty = self.container.record.config.tty;
        let (stdio, mut ours) = streams(&self.container.record).at("pipe2", Path::new(&id))?;
        let launch = runtime::Launch {
            id: &id,
            spec: &spec.spec,
            bundle: &layout.containers().join(&id),
            rootfs: runtime::Rootfs::Overlay(&snapshot),
            shm_of: spec.shm_of.as_deref(),
            fresh: std::mem::take(&mut self.ahead.namespaces),
            cgroup: Some(&attach),
            stdio,
            preserve_fds: 0,
            default_rlimits: &[],
            pivot: true,
            gate: runtime::Gate::Init,
            init: self.container.record.host_config.init == Some(true),
        };
        let mut init = runtime::create(&launch)?;
        // The container's ends must not stay open here, or its output would never end.
        drop(launch);
        for warning in init.warnings().to_vec() {
            self.tell(&Event::Warning(warning));
        }
        if tty {
            let console = init.take_console();
            if let Some(console) = &console {
                // A program that does not read must not stop its monitor.
                fcntl(console, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).at("fcntl(F_SETFL)", Path::new(&id))?;
            }
            ours.output = Output::Console(console);
        }
        let pidfd = init.clone_pidfd()?;
        let pid = init.pid();
        // Held until the end of this run: the host's ports are this container's for as long.
        let _ports = super::network::join(self.store, &self.container, pid.as_raw())?;
        let started_at = now();
        // Before the command can end: its last figures are read through this.
        let wires = crate::model::ended::Wires::open(&self.container, pid.as_raw());
        init.start()?;
        let start_took = began.elapsed().as_nanos() as u64;
        let mut checker = Checker::new(&self.container.record.config);
        record::change_state(self.store, &id, |state| {
            state.health = checker.as_ref().map(|_| Checker::first());
            state.status = Status::Running;
            state.pid = pid.as_raw();
            state.started_at.clone_from(&started_at);
            state.start_took = Some(start_took);
            state.error.clear();
            state.oom_killed = false;
            state.stopped_by_user = false;
            state.restart_count = if first { 0 } else { state.restart_count + 1 };
        })?;
        // Before whoever waits for the start hears of it, and tells what it does next.
        self.container.event("start").tell(&layout);
        if first {
            self.tell(&Event::Started { pid: pid.as_raw() });
        }
        let mut teller = OomTeller::new(cgroup);
        let code = self.serve(&pidfd, &mut ours, &mut checker, &mut teller)?;
        let first = Unreaped(pidfd);
        drop(checker);
        // Whatever shared the cgroup (a pid namespace of the host's, say) ends with process 1.
        let _ = cgroup.kill();
        self.drain(&mut ours);
        let oom_kills = teller.look(&layout, &self.container);
        let oom = teller.last;
        drop(teller.watch);
        // Figures that nobody may ever ask for are not worth failing an exit.
        let _ =
            crate::model::ended::offer(&layout, &self.container, &started_at, cgroup, wires, oom.as_ref());
        drop(guard);
        Ok(Ending { code, oom_kills, oom, started_at, first: Some(first) })
    }

    fn tell(&mut self, event: &Event) {
        for client in self.clients.iter_mut() {
            client.push(event);
        }
    }

    /// Moves bytes until process 1 ends; returns its exit code.
    fn serve(
        &mut self,
        pidfd: &OwnedFd,
        ours: &mut Ours,
        checker: &mut Option<Checker>,
        teller: &mut OomTeller<'_>,
    ) -> Result<i32, Error> {
        let mut buffer = vec![0_u8; CHUNK];
        let mut settled = false;
        loop {
            let choked = self.clients.iter().any(|client| client.queued > CLIENT_QUEUE && !client.gone);
            let door = if self.clients.len() < CLIENTS { PollFlags::POLLIN } else { PollFlags::empty() };
            let mut fds =
                vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), door)];
            let clients_at = fds.len();
            let mut polled = Vec::with_capacity(self.clients.len());
            for (n, client) in self.clients.iter().enumerate() {
                let mut events = PollFlags::empty();
                if ours.stdin_queue.len() < STDIN_QUEUE {
                    events |= PollFlags::POLLIN;
                }
                if !client.queue.is_empty() {
                    events |= PollFlags::POLLOUT;
                }
                // Poll tells of a client that has left whether it is asked or not. One whose last words have no room
                // yet would wake us again and again.
                if !events.is_empty() {
                    polled.push(n);
                    fds.push(PollFd::new(client.socket.as_fd(), events));
                }
            }
            let outputs_at = fds.len();
            let (out, err) = ours.outputs();
            let out_fd = out.filter(|_| !choked);
            let err_fd = err.filter(|_| !choked);
            for fd in out_fd.iter().chain(&err_fd) {
                fds.push(PollFd::new(*fd, PollFlags::POLLIN));
            }
            let input_at = fds.len();
            let input = ours.input().filter(|_| !ours.stdin_queue.is_empty());
            let has_input = input.is_some();
            fds.extend(input.map(|input| PollFd::new(input, PollFlags::POLLOUT)));
            for fd in checker.iter().flat_map(Checker::descriptors) {
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
            // The last, whatever else there is.
            let (watch, rest) = teller.watched();
            let has_watch = watch.is_some();
            fds.extend(watch.map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)));
            let settles = (!settled).then_some(SETTLED);
            let due = checker.as_ref().map(Checker::patience).into_iter().chain(rest).min();
            match poll(&mut fds, until(settles.into_iter().chain(due).min())) {
                Ok(0) if !settled && due.is_none_or(|due| due >= SETTLED) => {
                    // Nobody waits for a container that has been quiet for a second. Fifty starts whose
                    // records nobody copies into the database make each `ps` read them in the log.
                    settled = true;
                    self.store.checkpoint();
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).at("poll", Path::new(&self.container.id)),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            drop(fds);
            let has_out = out_fd.is_some();
            let has_err = err_fd.is_some();
            if has_out && ready[outputs_at] {
                self.forward(ours, Stream::Stdout, &mut buffer);
            }
            if has_err && ready[outputs_at + usize::from(has_out)] {
                self.forward(ours, Stream::Stderr, &mut buffer);
            }
            if has_input && ready[input_at] {
                ours.feed();
            }
            for (&n, &is_ready) in polled.iter().zip(&ready[clients_at..outputs_at]) {
                if is_ready {
                    self.listen_to(n, ours, &mut buffer);
                }
            }
            if ready[1] {
                self.welcome();
            }
            self.clients.retain(|client| !client.gone);
            if let Some(checker) = checker.as_mut().filter(|_| !ready[0]) {
                checker.turn(self.store, &self.container.id);
            }
            // When process 1 has ended as well, the end tells of it.
            if !ready[0] && has_watch {
                if ready.last() == Some(&true) {
                    teller.woken();
                }
                if teller.looking.is_some() {
                    self.out_of_memory(teller)?;
                }
            }
            if ready[0] {
                return super::exec::peek_exit_code(pidfd).at("waitid", Path::new(&self.container.id));
            }
        }
    }

    /// Somebody was killed, or the watch only says so.
    fn out_of_memory(&mut self, teller: &mut OomTeller<'_>) -> Result<(), Error> {
        let told = teller.told;
        if teller.look(self.store.layout(), &self.container) > told {
            let oom = teller.last.clone();
            record::change_state(self.store, &self.container.id, |state| {
                state.oom_killed = true;
                state.oom = oom;
            })?;
        }
        Ok(())
    }

    /// Reads one chunk of output, logs it and passes it on. Closes the stream at its end.
    fn forward(&mut self, ours: &mut Ours, stream: Stream, buffer: &mut [u8]) -> bool {
        let Some(slot) = ours.slot(stream) else { return false };
        let Some(fd) = slot else { return false };
        match nix::unistd::read(fd.as_fd(), buffer) {
            Ok(0) => {
                *slot = None;
                false
            }
            Ok(length) => {
                let data = &buffer[..length];
                if let Some(log) = &mut self.log
                    && let Err(error) = log.write(stream, data)
                {
                    // A full disk must not stop the container; it stops the log, and says so once.
                    let warning = Event::Warning(format!("the log of this container ends here: {error}"));
                    self.log = None;
                    self.tell(&warning);
                }
                let event = match stream {
                    Stream::Stdout => Event::Stdout(data.to_vec()),
                    Stream::Stderr => Event::Stderr(data.to_vec()),
                };
                for client in self.clients.iter_mut().filter(|client| client.output) {
                    client.push(&event);
                }
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            // EIO: every process that had the terminal open has gone.
            Err(_) => {
                *slot = None;
                false
            }
        }
    }

    /// Reads what is left in the pipes once nobody can write any more.
    fn drain(&mut self, ours: &mut Ours) {
        let mut buffer = vec![0_u8; CHUNK];
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.forward(ours, stream, &mut buffer) {
                for client in self.clients.iter_mut().filter(|client| client.queued > CLIENT_QUEUE) {
                    client.flush_blocking();
                }
            }
        }
        if let Some(log) = &mut self.log {
            let _ = log.finish();
        }
    }

    fn listen_to(&mut self, n: usize, ours: &mut Ours, buffer: &mut [u8]) {
        let client = &mut self.clients[n];
        client.flush();
        if ours.stdin_queue.len() >= STDIN_QUEUE {
            return;
        }
        let mut message = vec![0; buffer.len() + 1];
        let request = match protocol::receive(client.socket.as_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) | Ok([]) => None,
            Ok(bytes) => Request::decode(bytes),
        };
        match request {
            None => {
                client.gone = true;
                // Somebody who leaves a terminal, by the detach keys or with the line he sat on, may come back
                // to it: what runs there is not told that its input has ended.
                let config = &self.container.record.config;
                if client.stdin && config.stdin_once && !config.tty {
                    ours.end_input();
                }
            }
            Some(Request::Attach { stdin, output }) => (client.stdin, client.output) = (stdin, output),
            Some(Request::Stdin(data)) if client.stdin => {
                ours.stdin_queue.extend(data);
                ours.feed();
            }
            Some(Request::StdinEof) if client.stdin => {
                let config = &self.container.record.config;
                // A terminal's other end is not closed by one client's going: detaching from it is nothing else.
                if !config.tty && (config.stdin_once || !config.open_stdin) {
                    ours.end_input();
                }
            }
            Some(Request::Resize { rows, cols }) => ours.resize(rows, cols),
            Some(Request::Stdin(_) | Request::StdinEof) => {}
        }
    }

    /// Lets one client in; false when nobody is at the door.
    fn welcome(&mut self) -> bool {
        match accept4(&self.listener, SockFlag::SOCK_CLOEXEC) {
            Ok(socket) => {
                self.clients.push(Client::new(socket));
                true
            }
            Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => {
                std::thread::sleep(NO_DESCRIPTOR);
                false
            }
            // It has left again.
            Err(_) => false,
        }
    }

    /// Records the end of a run, unless the record goes with it, and then tells of it: whoever hears of an end looks.
    /// Whether the policy wants another.
    fn record_end(&mut self, ending: &mut Ending) -> Result<bool, Error> {
        let host = &self.container.record.host_config;
        let mut again = false;
        if !host.auto_remove {
            let policy = &host.restart_policy;
            let state = record::change_state(self.store, &self.container.id, |state| {
                state.exit_code = ending.code;
                again = !policy.is_none() && state.is_to_run_again(policy);
                state.status = if again { Status::Restarting } else { Status::Exited };
                state.pid = 0;
                state.finished_at = now();
                state.oom_killed = ending.oom_kills > 0;
                state.oom_kills += ending.oom_kills;
                state.oom = ending.oom.clone().or(state.oom.take());
            })?;
            again &= state.is_some();
            ending.first = None;
        }
        let ran = ending
            .started_at
            .parse::<jiff::Timestamp>()
            .map_or(0, |start| jiff::Timestamp::now().duration_since(start).as_secs());
        let die = self.container.event("die").with("exitCode", &ending.code).with("execDuration", &ran);
        die.tell(self.store.layout());
        Ok(again)
    }

    /// Waits out the pause before another run. Whether it is still wanted then; if not, that is recorded.
    fn waits_out(&mut self, pause: Duration) -> Result<bool, Error> {
        let until = Instant::now() + pause;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            // A `stop` or `rm -f` during the pause marks the state; nobody has a process to signal. An `update` may
            // have taken the policy away.
            std::thread::sleep(left.min(Duration::from_millis(100)));
            match record::find(self.store, &self.container.id) {
                Ok(found) if found.state.is_to_run_again(&found.record.host_config.restart_policy) => {}
                _ => {
                    record::change_state(self.store, &self.container.id, |state| {
                        // And not what a removal has put there.
                        if state.status == Status::Restarting {
                            state.status = Status::Exited;
                        }
                    })?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Lets go of a container that has ended, or removes it when it was to be removed.
    fn end(&mut self, ending: &Ending) -> Result<i32, Error> {
        if self.container.record.host_config.auto_remove {
            self.container.state.remove_volumes = true;
            *self.removed = lifecycle::erase(self.store, &self.container)?;
        } else {
            let _ = Lock::discard(self.store.layout(), &self.container.id);
        }
        Ok(ending.code)
    }

    /// Records a failed start. A container of `run --rm` goes, as Docker's does.
    fn failed(&mut self, error: &Error) -> Result<(), Error> {
        let id = self.container.id.clone();
        if self.container.record.host_config.auto_remove {
            self.container.state.remove_volumes = true;
            *self.removed = lifecycle::erase(self.store, &self.container)?;
            return Ok(());
        }
        let code = lifecycle::start_code(error);
        record::change_state(self.store, &id, |state| {
            state.status = if state.has_run() { Status::Exited } else { Status::Created };
            state.pid = 0;
            state.exit_code = code;
            state.error = error.to_string();
        })?;
        let _ = Lock::discard(self.store.layout(), &id);
        Ok(())
    }
}

/// Removes a container's cgroup when dropped, so that a failed start leaves none.
struct CgroupGuard(Option<Cgroup>);

impl Drop for CgroupGuard {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0.take() {
            // What cannot be removed now is found by the next command's recovery.
            let _ = cgroup.remove();
        }
    }
}

/// Our ends of a container's stdio.
struct Ours {
    input: Option<OwnedFd>,
    output: Output,
    stdin_queue: VecDeque<u8>,
    eof: bool,
}

impl Ours {
    fn slot(&mut self, stream: Stream) -> Option<&mut Option<OwnedFd>> {
        match (&mut self.output, stream) {
            (Output::Pipes { out, .. }, Stream::Stdout) => Some(out),
            (Output::Pipes { err, .. }, Stream::Stderr) => Some(err),
            (Output::Console(console), Stream::Stdout) => Some(console),
            (Output::Console(_), Stream::Stderr) => None,
        }
    }

    fn outputs(&self) -> (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>) {
        match &self.output {
            Output::Pipes { out, err } => (out.as_ref().map(AsFd::as_fd), err.as_ref().map(AsFd::as_fd)),
            Output::Console(console) => (console.as_ref().map(AsFd::as_fd), None),
        }
    }

    fn input(&self) -> Option<BorrowedFd<'_>> {
        match &self.output {
            Output::Console(console) => console.as_ref().map(AsFd::as_fd),
            Output::Pipes { .. } => self.input.as_ref().map(AsFd::as_fd),
        }
    }

    /// Writes queued input as far as the container takes it.
    fn feed(&mut self) {
        while !self.stdin_queue.is_empty() {
            let Some(fd) = self.input() else {
                self.stdin_queue.clear();
                return;
            };
            match nix::unistd::write(fd, self.stdin_queue.as_slices().0) {
                Ok(written) => drop(self.stdin_queue.drain(..written)),
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(_) => {
                    self.stdin_queue.clear();
                    self.input = None;
                    return;
                }
            }
        }
        if self.eof {
            self.input = None;
        }
    }

    fn end_input(&mut self) {
        if matches!(self.output, Output::Console(_)) {
            // A terminal ends its input by a character, not by a close.
            self.stdin_queue.push_back(4);
        }
        self.eof = true;
        self.feed();
    }

    fn resize(&self, rows: u16, cols: u16) {
        if let Output::Console(Some(console)) = &self.output {
            let _ = runtime::resize(console, runtime::WindowSize { rows, columns: cols });
        }
    }
}

fn streams(record: &record::Record) -> nix::Result<(runtime::Stdio, Ours)> {
    let (tty, open_stdin) = (record.config.tty, record.config.open_stdin);
    let ours = |input, output| Ours { input, output, stdin_queue: VecDeque::new(), eof: false };
    if tty {
        let [rows, columns] = record.host_config.console_size.map(|n| u16::try_from(n).unwrap_or(u16::MAX));
        let size = (rows > 0 && columns > 0).then_some(runtime::WindowSize { rows, columns });
        let console = runtime::Stdio::Console(size);
        return Ok((console, ours(None, Output::Console(None))));
    }
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
    let unblock = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop);
    let (theirs_in, input) = if open_stdin {
        let (read, write) = pipe()?;
        unblock(&write)?;
        (read, Some(write))
    } else {
        let null =
            nix::fcntl::open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
        (null, None)
    };
    let (out, output) = pipe()?;
    let (err, error) = pipe()?;
    for fd in [&out, &err] {
        unblock(fd)?;
    }
    let theirs = runtime::Stdio::Fds { input: theirs_in, output, error };
    Ok((theirs, ours(input, Output::Pipes { out: Some(out), err: Some(err) })))
}

fn listen_at(path: &Path) -> Result<OwnedFd, Error> {
    // A Unix address holds 108 bytes, and a run root may be deep: bind through a short name.
    let dir = path.parent().unwrap_or(Path::new("/"));
    let dir_fd = File::open(dir).at("open", dir)?;
    let short = format!("/proc/self/fd/{}/attach.sock", dir_fd.as_raw_fd());
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("unlink", path),
        _ => {}
    }
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .at("socket", path)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(short.as_str()).at("bind", path)?).at("bind", path)?;
    listen(&listener, Backlog::new(64).expect("64 is a backlog")).at("listen", path)?;
    Ok(listener)
}

fn log_writer(container: &Container, layout: &Layout) -> Result<Option<Writer>, Error> {
    let settings = super::log::Settings::read(&container.record.host_config.log_config)?;
    Ok(settings.map(|kept| Writer::new(container.log_path(layout), &kept, kept.attributes(container))))
}
