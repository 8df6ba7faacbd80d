//! Loading the programs, and reading what they say.
//!
//! A tracer watches the children of one cgroup for as long as it lives; dropping
//! it detaches everything. Only the counters can outlive it, pinned in a bpffs.
//!
//! It has two halves that need nothing of each other, so that who reads counters
//! never waits for who reads events: [`Stream`] and [`Figures`].

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::programs::links::LinkError;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{CgroupAttachMode, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use crate::batch;
use crate::clock::{self, boot_time};
use crate::dns_stream::Streams;
use crate::event::{self, Dns, Endpoints, Event, Kind, Transport};
use crate::event_log::Raw;
use crate::hook::{Attach, Hook, HookError, HookReport, Lockdown};
use crate::ring::Ring;
use crate::wire::{self, Counters, Histogram, StreamCounters};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer.bpf.o"));

/// After a drain the ring is left alone for this long, so that a stream of events
/// costs a hundred wakeups a second and not one each.
const COALESCE: Duration = Duration::from_millis(10);
/// Events handed over by one [`Stream::poll`] at most, so that whoever calls it in a loop
/// has a turn for other things however fast they come.
const BATCH: usize = 4096;
/// How often the UDP flows are looked through while there are some.
const SWEEP: Duration = Duration::from_secs(1);
/// The same when none has been heard of: the ring may have had no room for the word.
const SLOW_SWEEP: Duration = Duration::from_secs(30);
/// A flow that never rests is reported in pieces of this length.
const FLOW_PIECE: Duration = Duration::from_secs(60);
/// Flows that rest in user space; beyond this they are reported early.
const OPEN_FLOWS: usize = 65_536;
/// Queries that wait for their answer; beyond this the latency is not known.
const PENDING_DNS: usize = 4096;
/// A resolver gives up long before this.
const DNS_PATIENCE: Duration = Duration::from_secs(30);

/// What to watch and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory of a cgroup2 mount. Its children are the containers.
    pub parent_cgroup: PathBuf,
    /// What to attach.
    pub hooks: Vec<Hook>,
    /// Bytes of the ring buffer, a power of two of at least a page.
    pub ring_size: u32,
    /// Keep the counters in this directory, so that they outlive the tracer. A
    /// bpffs is mounted there when it is not in one. Only one tracer may count
    /// into a directory, or everything is counted twice.
    pub pin: Option<PathBuf>,
    /// A UDP flow is reported once it has rested for this long.
    pub flow_idle: Duration,
    /// Those of `hooks` that are only made ready, for [`Stream::attach`]: what costs at every switch of a
    /// process need not be there while nobody wants to know.
    pub on_demand: Vec<Hook>,
}

impl Options {
    /// Everything below `parent_cgroup`, with an 8 MiB ring.
    pub fn new(parent_cgroup: impl Into<PathBuf>) -> Self {
        Self {
            parent_cgroup: parent_cgroup.into(),
            hooks: Hook::ALL.to_vec(),
            ring_size: 8 << 20,
            pin: None,
            flow_idle: Duration::from_secs(2),
            on_demand: Vec::new(),
        }
    }
}

/// Why there is no tracer at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel does not describe its types.
    #[error("this kernel has no BTF at /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF): {0}")]
    NoBtf(#[source] aya::BtfError),
    /// The parent cgroup cannot be opened.
    #[error("cgroup {path}: {source}")]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A descriptor could not be made.
    #[error("eventfd: {0}")]
    Wake(#[source] io::Error),
    /// The directory is not in a cgroup2 mount.
    #[error("{0} is not in a cgroup2 filesystem")]
    NotCgroup2(PathBuf),
    /// Not allowed.
    #[error("tracing needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN: {0}")]
    Refused(#[source] Box<EbpfError>),
    /// The object could not be loaded.
    #[error("loading the eBPF object: {}", chain(.0))]
    Object(#[source] Box<EbpfError>),
    /// The directory for the counters could not be made.
    #[error("{call} {path}: {source}")]
    Pin {
        /// The system call.
        call: &'static str,
        /// The directory.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// A map is not what the object should hold.
    #[error("map {name}: {source}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: MapError,
    },
}

/// A failure while tracing.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Waiting for events failed.
    #[error("poll: {0}")]
    Poll(#[source] io::Error),
    /// The ring could not be read.
    #[error("ring of events: {0}")]
    Ring(#[source] io::Error),
    /// A map could not be read or changed.
    #[error("map {name}: {}", chain(.source))]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
}

/// An error with its causes; the loader's top lines alone say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Why something is missing from the stream of events or the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The ring had no room for an event of this name.
    RingFull(&'static str),
    /// An exec event could not be put together: the CPU was at another one.
    ScratchBusy,
    /// More live processes than the map holds; an exit is missing.
    ProcessesFull,
    /// More UDP flows between two sweeps than the map holds.
    FlowsFull,
    /// More cgroups than the map holds; one has no counters.
    CountersFull,
    /// More waiting tasks or requests than a histogram's map holds.
    QueueFull,
    /// The kernel had no memory to remember a socket.
    SocketsFull,
    /// A record that is no event; the kernel and this program disagree.
    Malformed,
    /// Bytes of DNS over TCP were missing where a message begins; the rest of that connection is not read.
    StreamBroken,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RingFull(name) => write!(f, "ring full: {name}"),
            Self::ScratchBusy => f.write_str("assembly buffer busy"),
            Self::ProcessesFull => f.write_str("process table full"),
            Self::FlowsFull => f.write_str("flow table full"),
            Self::CountersFull => f.write_str("counter table full"),
            Self::QueueFull => f.write_str("latency table full"),
            Self::SocketsFull => f.write_str("socket storage full"),
            Self::Malformed => f.write_str("malformed record"),
            Self::StreamBroken => f.write_str("dns stream broken"),
        }
    }
}

/// How much is missing, by cause; causes without losses are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost(pub BTreeMap<Cause, u64>);

impl Lost {
    /// Every cause there is. Whoever keeps counts of them begins all of them at zero: a count that is first
    /// seen when it is five has not visibly risen.
    pub fn causes() -> impl Iterator<Item = Cause> {
        CAUSES.into_iter().map(|(_, cause)| cause).chain([Cause::Malformed, Cause::StreamBroken])
    }

    /// All losses together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

const CAUSES: [(u32, Cause); 19] = [
    (wire::EVENT_EXEC, Cause::RingFull("exec")),
    (wire::EVENT_EXEC_FAILED, Cause::RingFull("exec-failed")),
    (wire::EVENT_EXIT, Cause::RingFull("exit")),
    (wire::EVENT_TCP_CONNECT, Cause::RingFull("connect")),
    (wire::EVENT_TCP_CONNECT_FAILED, Cause::RingFull("connect-failed")),
    (wire::EVENT_TCP_ACCEPT, Cause::RingFull("accept")),
    (wire::EVENT_TCP_CLOSE, Cause::RingFull("close")),
    (wire::EVENT_TCP_LISTEN, Cause::RingFull("listen")),
    (wire::EVENT_DNS, Cause::RingFull("dns")),
    (wire::EVENT_DNS_SEGMENT, Cause::RingFull("dns over tcp")),
    (wire::EVENT_OOM, Cause::RingFull("oom")),
    (wire::EVENT_CGROUP_MADE, Cause::RingFull("cgroup-made")),
    (wire::EVENT_CGROUP_REMOVED, Cause::RingFull("cgroup-removed")),
    (wire::LOST_SCRATCH, Cause::ScratchBusy),
    (wire::LOST_TASKS_FULL, Cause::ProcessesFull),
    (wire::LOST_FLOWS_FULL, Cause::FlowsFull),
    (wire::LOST_COUNTERS_FULL, Cause::CountersFull),
    (wire::LOST_QUEUE_FULL, Cause::QueueFull),
    (wire::LOST_SOCKETS, Cause::SocketsFull),
];

// Indices of the `switches` map, as in tracer.bpf.c.
const SWITCH_CONNECT_EXIT: u32 = 0;
const SWITCH_EXIT: u32 = 1;
const SWITCH_GENERATION: u32 = 2;

type FlowKeyBytes = [u8; wire::FlowKey::SIZE];
type FlowBytes = [u8; wire::Flow::SIZE];
type StreamCounts = BpfHashMap<MapData, u64, [u8; StreamCounters::SIZE]>;

/// Values of each processor by cgroup id.
struct PerCgroup<const N: usize> {
    map: PerCpuHashMap<MapData, u64, [u8; N]>,
    /// The same once more, to be read as a whole.
    fd: OwnedFd,
}

/// The attached programs and their maps.
pub struct Tracer {
    stream: Stream,
    figures: Figures,
}

/// The half that yields events. The programs stay attached for as long as it lives.
pub struct Stream {
    ring: Ring,
    flows: BpfHashMap<MapData, FlowKeyBytes, FlowBytes>,
    switches: Array<MapData, u32>,
    /// The one that programs write into.
    generation: u32,
    /// Taken out of the kernel and not rested long enough to be told.
    open_flows: HashMap<FlowKeyBytes, wire::Flow>,
    /// There is something in `flows`.
    flows_made: bool,
    flow_idle: Duration,
    watch_flows: bool,
    last_sweep: Instant,
    last_drain: Option<Instant>,
    /// The last drain ended before the ring was empty.
    more: bool,
    /// When the last event that was read was made, by the clock since boot.
    newest: Duration,
    queries: Queries,
    streams: Streams,
    /// Written here only.
    dns_counts: StreamCounts,
    unread: Arc<Unread>,
    buffer: Vec<u8>,
    wake: Arc<OwnedFd>,
    /// The watched cgroup's directory.
    parent: File,
    /// What is attached on demand.
    demanded: BTreeMap<Hook, Vec<(&'static str, BtfTracePointLinkId)>>,
    /// Last: the links go when it is dropped.
    programs: Ebpf,
}

/// The half that yields counters, histograms and losses.
pub struct Figures {
    lost: PerCpuArray<MapData, u64>,
    counters: PerCgroup<{ Counters::SIZE }>,
    run_queue: PerCgroup<{ Histogram::SIZE }>,
    block_io: PerCgroup<{ Histogram::SIZE }>,
    dns_counts: StreamCounts,
    dns_table: OwnedFd,
    unread: Arc<Unread>,
}

/// All that is counted of one cgroup.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Its counters.
    pub counters: Counters,
    /// See [`Figures::run_queue`].
    pub run_queue: Option<Histogram>,
    /// See [`Figures::block_io`].
    pub block_io: Option<Histogram>,
}

/// What came out of the kernel and could not be told.
#[derive(Debug, Default)]
struct Unread {
    malformed: AtomicU64,
    broken: AtomicU64,
    uncounted: AtomicU64,
}

/// Queries without an answer, and when they were asked.
type Queries = HashMap<(u64, Endpoints, Transport, u16), Duration>;

/// Ends the wait of a [`Stream`] from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// The wait that is under way, or else the next one, returns at once.
    pub fn wake(&self) {
        // Full is awake.
        let _ = nix::unistd::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Tracer {
    /// Loads the programs and attaches the hooks one by one; the reports say which
    /// of them are not there and why. Needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
    /// Minimum kernel: 6.1 (`cgroup.ancestors`); on an older one the hooks that
    /// read it report that the verifier rejects them.
    pub fn load(options: &Options) -> Result<(Self, Vec<HookReport>), LoadError> {
        let parent = Parent::open(&options.parent_cgroup)?;
        let btf = Btf::from_sys_fs().map_err(LoadError::NoBtf)?;

        let mut pins = Vec::new();
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&btf))
            .override_global("parent_id", &parent.id, true)
            .override_global("parent_level", &parent.level, true)
            .map_max_entries("events", options.ring_size)
            // Task storage, which only programs use.
            .allow_unsupported_maps();
        if let Some(dir) = &options.pin {
            ensure_bpffs(dir)?;
            // The size is in the name: a map of another layout is another map. (bpffs
            // refuses names with a dot.)
            for (name, size) in [
                ("cgroup_counters", Counters::SIZE),
                ("run_queue", Histogram::SIZE),
                ("block_io", Histogram::SIZE),
                ("dns_streams", StreamCounters::SIZE),
            ] {
                pins.push((name, dir.join(format!("{name}_{size}"))));
            }
        }
        for (name, pin) in &pins {
            loader.map_pin_path(name, pin.as_path());
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| {
            if not_permitted(&error) {
                LoadError::Refused(Box::new(error))
            } else {
                LoadError::Object(Box::new(error))
            }
        })?;

        let wake = eventfd().map_err(LoadError::Wake)?;
        let unread = Arc::new(Unread::default());
        let (dns_counts, dns_reader, dns_table) = shared(take(&mut ebpf, "dns_streams")?)?;
        let figures = Figures {
            lost: PerCpuArray::try_from(take(&mut ebpf, "lost")?).map_err(map_error("lost"))?,
            counters: per_cgroup(&mut ebpf, "cgroup_counters")?,
            run_queue: per_cgroup(&mut ebpf, "run_queue")?,
            block_io: per_cgroup(&mut ebpf, "block_io")?,
            dns_counts: dns_reader,
            dns_table,
            unread: unread.clone(),
        };
        let Map::RingBuf(events) = take(&mut ebpf, "events")? else {
            return Err(map_error("events")(MapError::KeyNotFound));
        };
        let mut stream = Stream {
            ring: Ring::new(&events).map_err(map_error("events"))?,
            flows: BpfHashMap::try_from(take(&mut ebpf, "flows")?).map_err(map_error("flows"))?,
            switches: Array::try_from(take(&mut ebpf, "switches")?).map_err(map_error("switches"))?,
            generation: 0,
            open_flows: HashMap::new(),
            flows_made: false,
            flow_idle: options.flow_idle,
            watch_flows: options.hooks.contains(&Hook::Packets),
            last_sweep: Instant::now(),
            last_drain: None,
            more: false,
            newest: Duration::ZERO,
            queries: HashMap::new(),
            streams: Streams::default(),
            dns_counts,
            unread,
            buffer: Vec::new(),
            wake: Arc::new(wake),
            parent: parent.directory,
            demanded: BTreeMap::new(),
            programs: ebpf,
        };
        let mut reports = Vec::new();
        for hook in Hook::ALL.into_iter().filter(|h| options.hooks.contains(h)) {
            let mut outcome = load_hook(&mut stream.programs, hook, &btf);
            if outcome.is_ok() && !options.on_demand.contains(&hook) {
                // They stay for as long as the programs do.
                outcome = attach_hook(&mut stream.programs, hook, &stream.parent, &mut Vec::new());
            }
            let switch = match hook {
                Hook::ConnectFailed => Some(SWITCH_CONNECT_EXIT),
                Hook::Exit => Some(SWITCH_EXIT),
                _ => None,
            };
            if let (Some(switch), Ok(())) = (switch, &outcome) {
                stream.switches.set(switch, 1, 0).map_err(map_error("switches"))?;
            }
            reports.push(HookReport { hook, outcome });
        }
        Ok((Self { stream, figures }, reports))
    }

    /// The two halves.
    pub fn split(self) -> (Stream, Figures) {
        (self.stream, self.figures)
    }

    /// See [`Stream::poll`].
    pub fn poll(&mut self, timeout: Duration, mut sink: impl FnMut(Event)) -> Result<usize, TraceError> {
        self.stream.poll(timeout, |event, _| sink(event))
    }

    /// See [`Stream::flush`].
    pub fn flush(&mut self, mut sink: impl FnMut(Event)) -> Result<usize, TraceError> {
        self.stream.flush(|event, _| sink(event))
    }

    /// See [`Figures::counters`].
    pub fn counters(&self, cgroup_id: u64) -> Result<Option<Counters>, TraceError> {
        self.figures.counters(cgroup_id)
    }

    /// See [`Figures::run_queue`].
    pub fn run_queue(&self, cgroup_id: u64) -> Result<Option<Histogram>, TraceError> {
        self.figures.run_queue(cgroup_id)
    }

    /// See [`Figures::block_io`].
    pub fn block_io(&self, cgroup_id: u64) -> Result<Option<Histogram>, TraceError> {
        self.figures.block_io(cgroup_id)
    }

    /// See [`Figures::cgroups`].
    pub fn cgroups(&self) -> Result<Vec<u64>, TraceError> {
        self.figures.cgroups()
    }

    /// Drops all that is kept of a cgroup; call it when the container is removed.
    pub fn forget(&mut self, cgroup_id: u64) -> Result<(), TraceError> {
        self.stream.forget(cgroup_id);
        self.figures.forget(cgroup_id)
    }

    /// See [`Figures::lost`].
    pub fn lost(&self) -> Result<Lost, TraceError> {
        self.figures.lost()
    }

    /// The wall-clock time of an event, by the clock as it is set now.
    pub fn wall(time: Duration) -> SystemTime {
        clock::wall(time, boot_time(), SystemTime::now())
    }
}

impl Stream {
    /// Waits up to `timeout` for events and hands over what has come, a few thousand
    /// at most; returns how many there were. A signal or a [`Waker`] ends the wait early.
    ///
    /// DNS answers get the time since their query here, and UDP flows that rest are
    /// reported; so call it in a loop even when nothing happens.
    pub fn poll(
        &mut self,
        timeout: Duration,
        mut sink: impl FnMut(Event, Raw<'_>),
    ) -> Result<usize, TraceError> {
        let end = Instant::now() + timeout;
        if let Some(since) = self.last_drain.take()
            && !self.more
        {
            let rest = COALESCE.saturating_sub(since.elapsed());
            std::thread::sleep(rest.min(timeout));
        }
        let mut count = self.drain(&mut sink)?;
        if count == 0 && !self.more {
            let mut wait = end.saturating_duration_since(Instant::now());
            if self.watch_flows {
                wait = wait.min(self.sweep_every().saturating_sub(self.last_sweep.elapsed()));
            }
            // Rounded up, or the last millisecond would be spent turning round.
            let wait = wait.saturating_add(Duration::from_micros(999));
            let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
            let mut fds = [
                PollFd::new(self.ring.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(TraceError::Poll(errno.into())),
            }
            // Empty, if it was something else that ended the wait.
            let _ = nix::unistd::read(&*self.wake, &mut [0; 8]);
            count = self.drain(&mut sink)?;
        }
        if count > 0 {
            self.last_drain = Some(Instant::now());
        }
        if self.watch_flows && self.last_sweep.elapsed() >= self.sweep_every() {
            count += self.sweep(self.flow_idle, &mut sink)?;
        }
        Ok(count)
    }

    /// Reports everything that has come, and every UDP flow, resting or not: for the end of a trace.
    pub fn flush(&mut self, mut sink: impl FnMut(Event, Raw<'_>)) -> Result<usize, TraceError> {
        // What is made from now on is not waited for, since a container may never fall silent; what was made
        // before is, however long it takes to show: it is not counted as lost.
        let now = boot_time();
        let mut count = self.drain(&mut sink)?;
        while self.more && self.newest <= now {
            count += self.drain(&mut sink)?;
        }
        if self.watch_flows {
            count += self.sweep(Duration::ZERO, &mut sink)?;
        }
        Ok(count)
    }

    /// Attaches a hook of [`Options::on_demand`], if it is not attached.
    pub fn attach(&mut self, hook: Hook) -> Result<(), HookError> {
        if self.demanded.contains_key(&hook) {
            return Ok(());
        }
        let mut links = Vec::new();
        let attached = attach_hook(&mut self.programs, hook, &self.parent, &mut links);
        self.demanded.insert(hook, links);
        if attached.is_err() {
            self.detach(hook);
        }
        attached
    }

    /// Detaches it again; what it has counted stays.
    pub fn detach(&mut self, hook: Hook) {
        for (name, link) in self.demanded.remove(&hook).into_iter().flatten() {
            if let Some(Program::BtfTracePoint(program)) = self.programs.program_mut(name) {
                // Not attached any more is what is wanted.
                let _ = program.detach(link);
            }
        }
    }

    /// What ends this stream's wait.
    pub fn waker(&self) -> Waker {
        Waker(self.wake.clone())
    }

    /// Drops what is kept of a cgroup; call it when the container is removed.
    pub fn forget(&mut self, cgroup_id: u64) {
        self.queries.retain(|(id, ..), _| *id != cgroup_id);
        self.streams.forget(cgroup_id);
    }

    fn sweep_every(&self) -> Duration {
        if self.flows_made || !self.open_flows.is_empty() { SWEEP } else { SLOW_SWEEP }
    }

    fn drain(&mut self, sink: &mut impl FnMut(Event, Raw<'_>)) -> Result<usize, TraceError> {
        let (mut count, mut read) = (0, 0);
        self.more = false;
        // Its place in the ring is free again before anything is done with a record.
        while self.ring.next(&mut self.buffer).map_err(TraceError::Ring)? {
            read += 1;
            self.more = read == BATCH;
            let kind = wire::WakeEvent::read(&self.buffer).map(|e| e.kind);
            let (queries, unread, newest) = (&mut self.queries, &self.unread, &mut self.newest);
            let mut tell = |bytes: &[u8]| match event::decode(bytes) {
                Ok(mut event) => {
                    *newest = event.time;
                    let mut latency = None;
                    if let Kind::Dns(dns) = &mut event.kind {
                        match_dns(queries, event.cgroup_id, event.time, dns);
                        latency = dns.latency;
                    }
                    sink(event, Raw::Record { bytes, latency });
                }
                Err(_) => drop(unread.malformed.fetch_add(1, Ordering::Relaxed)),
            };
            match kind {
                Some(wire::EVENT_FLOW) => self.flows_made = true,
                Some(wire::EVENT_DNS_SEGMENT) => {
                    let mut messages = 0;
                    let fed = self.streams.feed(&self.buffer, |message| {
                        messages += 1;
                        tell(message);
                    });
                    count += messages;
                    if fed.is_none() {
                        self.unread.malformed.fetch_add(1, Ordering::Relaxed);
                    }
                    self.unread.broken.store(self.streams.broken(), Ordering::Relaxed);
                    self.count_messages(messages as u64);
                }
                _ => {
                    count += 1;
                    tell(&self.buffer);
                }
            }
            if self.more {
                break;
            }
        }
        Ok(count)
    }

    /// Adds messages of the stream that the segment in the buffer belongs to.
    fn count_messages(&mut self, messages: u64) {
        let Some(segment) = wire::DnsSegment::read(&self.buffer).filter(|_| messages > 0) else { return };
        let id = segment.head.cgroup_id;
        let counted = absent(self.dns_counts.get(&id, 0)).and_then(|found| {
            let mut counters = found.and_then(|bytes| StreamCounters::read(&bytes)).unwrap_or_default();
            if segment.outgoing == 0 {
                counters.answers += messages;
            } else {
                counters.queries += messages;
            }
            let mut bytes = Vec::with_capacity(StreamCounters::SIZE);
            counters.write(&mut bytes);
            let mut value = [0; StreamCounters::SIZE];
            value.copy_from_slice(&bytes);
            self.dns_counts.insert(id, value, 0)
        });
        if counted.is_err() {
            self.unread.uncounted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reports the flows that have rested for `idle`.
    fn sweep(&mut self, idle: Duration, sink: &mut impl FnMut(Event, Raw<'_>)) -> Result<usize, TraceError> {
        self.take_flows()?;
        self.last_sweep = Instant::now();
        let now = boot_time().as_nanos() as u64;
        let idle = if self.open_flows.len() > OPEN_FLOWS { Duration::ZERO } else { idle };
        let age = |since: u64| Duration::from_nanos(now.saturating_sub(since));
        let mut due: Vec<_> = self
            .open_flows
            .extract_if(|_, flow| age(flow.last_ns) >= idle || age(flow.first_ns) >= FLOW_PIECE)
            .collect();
        due.sort_by_key(|(_, flow)| flow.last_ns);
        let count = due.len();
        for (key, flow) in due {
            let event = wire::FlowKey::read(&key).and_then(|key| event::flow(&key, &flow).ok());
            let Some(event) = event else {
                self.unread.malformed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            self.buffer.clear();
            self.buffer.extend_from_slice(&key);
            flow.write(&mut self.buffer);
            sink(event, Raw::Flow(&self.buffer));
        }
        Ok(count)
    }

    /// Moves what the kernel has of flows to `open_flows`, to the last datagram: the programs are sent on to
    /// the other generation, those still at work in this one are waited for, and then it is nobody's but ours.
    fn take_flows(&mut self) -> Result<(), TraceError> {
        let fail = |source| TraceError::Map { name: "flows", source };
        let old = self.generation;
        self.generation ^= 1;
        self.flows_made = false;
        self.switches
            .set(SWITCH_GENERATION, self.generation, 0)
            .map_err(|source| TraceError::Map { name: "switches", source })?;
        let keys: Vec<FlowKeyBytes> = self.flows.keys().collect::<Result<_, _>>().map_err(fail)?;
        if keys.is_empty() {
            return Ok(());
        }
        wait_for_programs();
        // Again: what was made meanwhile by those that were waited for is there now.
        let keys: Vec<FlowKeyBytes> = self.flows.keys().collect::<Result<_, _>>().map_err(fail)?;
        for mut bytes in keys {
            let Some(mut key) = wire::FlowKey::read(&bytes) else { continue };
            if key.generation != old {
                // The word of it may have been read before the switch.
                self.flows_made = true;
                continue;
            }
            let value = absent(self.flows.get(&bytes, 0)).map_err(fail)?;
            absent(self.flows.remove(&bytes)).map_err(fail)?;
            let Some(new) = value.and_then(|value| wire::Flow::read(&value)) else { continue };
            key.generation = 0;
            let mut plain = Vec::with_capacity(wire::FlowKey::SIZE);
            key.write(&mut plain);
            bytes.copy_from_slice(&plain);
            self.open_flows.entry(bytes).and_modify(|flow| add(flow, &new)).or_insert(new);
        }
        Ok(())
    }
}

/// Adds what a flow has carried in another generation.
fn add(flow: &mut wire::Flow, more: &wire::Flow) {
    if flow.task.pid == 0 {
        flow.task = more.task;
    }
    if flow.netns == 0 {
        flow.netns = more.netns;
    }
    flow.first_ns = flow.first_ns.min(more.first_ns);
    flow.last_ns = flow.last_ns.max(more.last_ns);
    for (mine, theirs) in [
        (&mut flow.tx_packets, more.tx_packets),
        (&mut flow.tx_bytes, more.tx_bytes),
        (&mut flow.rx_packets, more.rx_packets),
        (&mut flow.rx_bytes, more.rx_bytes),
    ] {
        *mine = mine.saturating_add(theirs);
    }
}

/// Returns when every program that was at work has ended: they run inside RCU read-side sections, and
/// the global membarrier is the kernel's `synchronize_rcu` for user space.
fn wait_for_programs() {
    // SAFETY: two numbers; the call touches no memory of ours.
    let done = unsafe {
        libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) == 0
            && aya::util::nr_cpus().is_ok_and(|n| n > 1)
    };
    if !done {
        // Refused (nohz_full), or a single processor, where the kernel does nothing: longer than any program runs.
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    use nix::sys::eventfd::{EfdFlags, EventFd};
    let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    Ok(fd.into())
}

impl Figures {
    /// The counters of a cgroup; `None` when it has none yet.
    pub fn counters(&self, cgroup_id: u64) -> Result<Option<Counters>, TraceError> {
        let words = sum(&self.counters.map, "cgroup_counters", cgroup_id)?;
        let Some(mut counters) = words.and_then(|bytes| Counters::read(&bytes)) else { return Ok(None) };
        let streams = absent(self.dns_counts.get(&cgroup_id, 0))
            .map_err(|source| TraceError::Map { name: "dns_streams", source })?;
        if let Some(streams) = streams.and_then(|bytes| StreamCounters::read(&bytes)) {
            counters.dns_queries += streams.queries;
            counters.dns_answers += streams.answers;
        }
        Ok(Some(counters))
    }

    /// Time between runnable and running, of a cgroup's tasks.
    pub fn run_queue(&self, cgroup_id: u64) -> Result<Option<Histogram>, TraceError> {
        Ok(sum(&self.run_queue.map, "run_queue", cgroup_id)?.and_then(|bytes| Histogram::read(&bytes)))
    }

    /// Time between issue and completion, of a cgroup's block requests.
    pub fn block_io(&self, cgroup_id: u64) -> Result<Option<Histogram>, TraceError> {
        Ok(sum(&self.block_io.map, "block_io", cgroup_id)?.and_then(|bytes| Histogram::read(&bytes)))
    }

    /// Everything that is counted, by cgroup. What is told of one is from one moment or another of this call.
    pub fn all(&self) -> Result<HashMap<u64, Counted>, TraceError> {
        let fail = |name| move |source| TraceError::Map { name, source: MapError::IoError(source) };
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| fail("cgroup_counters")(source))?;
        let counters = batch::sums::<{ Counters::SIZE }>(self.counters.fd.as_fd(), cpus);
        let counters = counters.map_err(fail("cgroup_counters"))?;
        let run_queue = batch::sums::<{ Histogram::SIZE }>(self.run_queue.fd.as_fd(), cpus);
        let run_queue = run_queue.map_err(fail("run_queue"))?;
        let block_io = batch::sums::<{ Histogram::SIZE }>(self.block_io.fd.as_fd(), cpus);
        let block_io = block_io.map_err(fail("block_io"))?;
        let streams = batch::sums::<{ StreamCounters::SIZE }>(self.dns_table.as_fd(), 1);
        let streams = streams.map_err(fail("dns_streams"))?;
        let counted = counters.into_iter().filter_map(|(id, bytes)| {
            let mut counters = Counters::read(&bytes)?;
            if let Some(streams) = streams.get(&id).and_then(|bytes| StreamCounters::read(bytes)) {
                counters.dns_queries += streams.queries;
                counters.dns_answers += streams.answers;
            }
            let histogram =
                |of: &HashMap<u64, _>| of.get(&id).and_then(|bytes: &[u8; _]| Histogram::read(bytes));
            let (run_queue, block_io) = (histogram(&run_queue), histogram(&block_io));
            Some((id, Counted { counters, run_queue, block_io }))
        });
        Ok(counted.collect())
    }

    /// The cgroups that have counters.
    pub fn cgroups(&self) -> Result<Vec<u64>, TraceError> {
        self.counters
            .map
            .keys()
            .collect::<Result<_, _>>()
            .map_err(|source| TraceError::Map { name: "cgroup_counters", source })
    }

    /// Starts counting for a cgroup whose processes are older than the tracer. One
    /// that executes or forks something is counted without this.
    pub fn watch(&mut self, cgroup_id: u64) -> Result<(), TraceError> {
        const NO_EXIST: u64 = 1;
        /// Linux 6.1 refuses one now and then to whoever adds thousands in one go: the table's allocator has some
        /// entries at hand, and an interrupt that comes a moment later brings the next.
        const TURNS: u32 = 100;
        let fail = |source| TraceError::Map { name: "cgroup_counters", source };
        let cpus = aya::util::nr_cpus().unwrap_or(1);
        for turn in 1.. {
            let zero = aya::maps::PerCpuValues::try_from(vec![[0; Counters::SIZE]; cpus])
                .map_err(|error| fail(error.into()))?;
            match self.counters.map.insert(cgroup_id, zero, NO_EXIST) {
                Err(error) if errno(&error) == Some(libc::EEXIST) => break,
                Err(error) if errno(&error) == Some(libc::ENOMEM) && turn < TURNS => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                other => return other.map_err(fail),
            }
        }
        Ok(())
    }

    /// Drops all that is kept of a cgroup; call it when the container is removed.
    pub fn forget(&mut self, cgroup_id: u64) -> Result<(), TraceError> {
        let fail = |name| move |source| TraceError::Map { name, source };
        absent(self.counters.map.remove(&cgroup_id)).map_err(fail("cgroup_counters"))?;
        absent(self.run_queue.map.remove(&cgroup_id)).map_err(fail("run_queue"))?;
        absent(self.block_io.map.remove(&cgroup_id)).map_err(fail("block_io"))?;
        absent(self.dns_counts.remove(&cgroup_id)).map_err(fail("dns_streams"))?;
        Ok(())
    }

    /// Drops what pinned maps hold of cgroups that went while nobody watched: all but the children that
    /// `parent` has now. Returns how many there were.
    pub fn forget_gone(&mut self, parent: &Path) -> Result<usize, TraceError> {
        // Before the directory is read, so that a container made in between is not taken for one that is gone.
        let mut ids: HashSet<u64> = self.cgroups()?.into_iter().collect();
        for (map, name) in [(&self.run_queue.map, "run_queue"), (&self.block_io.map, "block_io")] {
            let keys = map.keys().collect::<Result<Vec<u64>, _>>();
            ids.extend(keys.map_err(|source| TraceError::Map { name, source })?);
        }
        let keys = self.dns_counts.keys().collect::<Result<Vec<u64>, _>>();
        ids.extend(keys.map_err(|source| TraceError::Map { name: "dns_streams", source })?);
        let Ok(entries) = std::fs::read_dir(parent) else { return Ok(0) };
        for entry in entries.flatten() {
            if let Ok(meta) = entry.metadata() {
                ids.remove(&meta.ino());
            }
        }
        for id in &ids {
            self.forget(*id)?;
        }
        Ok(ids.len())
    }

    /// What is missing so far.
    pub fn lost(&self) -> Result<Lost, TraceError> {
        let mut lost = BTreeMap::new();
        for (index, cause) in CAUSES {
            let values =
                self.lost.get(&index, 0).map_err(|source| TraceError::Map { name: "lost", source })?;
            let n: u64 = values.iter().sum();
            if n > 0 {
                lost.insert(cause, n);
            }
        }
        for (unread, cause) in [
            (&self.unread.malformed, Cause::Malformed),
            (&self.unread.broken, Cause::StreamBroken),
            (&self.unread.uncounted, Cause::CountersFull),
        ] {
            let n = unread.load(Ordering::Relaxed);
            if n > 0 {
                *lost.entry(cause).or_default() += n;
            }
        }
        Ok(Lost(lost))
    }
}

/// Ties an answer to its query, and keeps the table of open queries bounded.
fn match_dns(queries: &mut Queries, cgroup_id: u64, time: Duration, dns: &mut Dns) {
    let Some(message) = &dns.message else { return };
    let key = (cgroup_id, dns.ends, dns.transport, message.id);
    if dns.outgoing {
        if queries.len() >= PENDING_DNS {
            queries.retain(|_, asked| time.saturating_sub(*asked) < DNS_PATIENCE);
        }
        // A repeated query is timed from the first.
        if queries.len() < PENDING_DNS {
            queries.entry(key).or_insert(time);
        }
    } else if let Some(asked) = queries.remove(&key) {
        dns.latency = Some(time.saturating_sub(asked));
    }
}

/// The watched cgroup.
struct Parent {
    directory: File,
    id: u64,
    level: u32,
}

impl Parent {
    fn open(path: &Path) -> Result<Self, LoadError> {
        let fail = |source| LoadError::Cgroup { path: path.to_owned(), source };
        let path_abs = path.canonicalize().map_err(fail)?;
        let directory = File::open(&path_abs).map_err(fail)?;
        let kind = statfs(&path_abs).map_err(|e| fail(e.into()))?.filesystem_type();
        if kind != CGROUP2_SUPER_MAGIC {
            return Err(LoadError::NotCgroup2(path.to_owned()));
        }
        // On kernfs the inode number is the id that the kernel's helpers give.
        let meta = directory.metadata().map_err(fail)?;
        let mut level = 0;
        for up in path_abs.ancestors().skip(1) {
            if up.metadata().map_err(fail)?.dev() != meta.dev() {
                break;
            }
            level += 1;
        }
        Ok(Self { directory, id: meta.ino(), level })
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Map { name, source: MapError::KeyNotFound })
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> LoadError {
    move |source| LoadError::Map { name, source }
}

fn per_cgroup<const N: usize>(ebpf: &mut Ebpf, name: &'static str) -> Result<PerCgroup<N>, LoadError> {
    let fail = map_error(name);
    let map = take(ebpf, name)?;
    let Map::PerCpuHashMap(data) = &map else { return Err(fail(MapError::KeyNotFound)) };
    let fd = again(data).map_err(&fail)?;
    Ok(PerCgroup { map: PerCpuHashMap::try_from(map).map_err(&fail)?, fd })
}

/// A map for two, who write and read it independently, and to be read as a whole.
fn shared(map: Map) -> Result<(StreamCounts, StreamCounts, OwnedFd), LoadError> {
    let fail = map_error("dns_streams");
    let Map::HashMap(data) = map else { return Err(fail(MapError::KeyNotFound)) };
    let second = MapData::from_fd(again(&data).map_err(&fail)?).map_err(&fail)?;
    let table = again(&data).map_err(&fail)?;
    let typed = |data| BpfHashMap::try_from(Map::HashMap(data)).map_err(&fail);
    Ok((typed(data)?, typed(second)?, table))
}

/// The map under another descriptor.
fn again(data: &MapData) -> Result<OwnedFd, MapError> {
    data.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)
}

/// All members of these structs are 64-bit counts, so the CPUs add up word by word.
fn sum<T: Borrow<MapData>, const N: usize>(
    map: &PerCpuHashMap<T, u64, [u8; N]>,
    name: &'static str,
    cgroup_id: u64,
) -> Result<Option<[u8; N]>, TraceError> {
    let found = absent(map.get(&cgroup_id, 0)).map_err(|source| TraceError::Map { name, source })?;
    Ok(found.map(|values| {
        let mut total = [0; N];
        for (word, out) in total.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let sum = values
                .iter()
                .map(|cpu| u64::from_ne_bytes(cpu.as_chunks::<8>().0[word]))
                .fold(0, u64::wrapping_add);
            *out = sum.to_ne_bytes();
        }
        total
    }))
}

/// "Not there" is an answer.
fn absent<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The errno at the end of an error's chain of causes.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = cause.source();
    }
    None
}

/// A pin has reasons of its own for EPERM.
fn not_permitted(error: &EbpfError) -> bool {
    let pin = matches!(error, EbpfError::MapError(MapError::PinError { .. }));
    !pin && matches!(errno(error), Some(libc::EPERM | libc::EACCES))
}

fn ensure_bpffs(dir: &Path) -> Result<(), LoadError> {
    // The kernel makes this directory for a bpffs, and nothing can be made in it before one is mounted there;
    // who has no systemd has nobody who does.
    let usual = Path::new("/sys/fs/bpf");
    if dir != usual && dir.starts_with(usual) {
        ensure_bpffs(usual)?;
    }
    let fail = |call| move |source| LoadError::Pin { call, path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(fail("mkdir"))?;
    let kind = statfs(dir).map_err(|e| fail("statfs")(e.into()))?.filesystem_type();
    if kind != BPF_FS_MAGIC {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), dir, Some("bpf"), flags, Some("mode=700"))
            .map_err(|e| fail("mount bpf on")(e.into()))?;
    }
    Ok(())
}

/// One program of a hook, or why there is none.
fn program_of<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Program, HookError> {
    ebpf.program_mut(name).ok_or_else(|| HookError::Program {
        program: name,
        source: Box::new(ProgramError::UnexpectedProgramType),
    })
}

/// Has the verifier look at a hook's programs; nothing runs yet.
fn load_hook(ebpf: &mut Ebpf, hook: Hook, btf: &Btf) -> Result<(), HookError> {
    for &(name, attach) in hook.programs() {
        let program = program_of(ebpf, name)?;
        load_program(program, attach, btf).map_err(|error| explain(name, attach, error))?;
    }
    Ok(())
}

/// Attaches a hook's programs; what can be detached one by one is put into `links`.
fn attach_hook(
    ebpf: &mut Ebpf,
    hook: Hook,
    cgroup: &File,
    links: &mut Vec<(&'static str, BtfTracePointLinkId)>,
) -> Result<(), HookError> {
    for &(name, attach) in hook.programs() {
        let program = program_of(ebpf, name)?;
        let link = attach_program(program, attach, cgroup).map_err(|error| explain(name, attach, error))?;
        links.extend(link.map(|link| (name, link)));
    }
    Ok(())
}

fn load_program(program: &mut Program, attach: Attach, btf: &Btf) -> Result<(), ProgramError> {
    match (program, attach) {
        (Program::BtfTracePoint(p), Attach::Btf(tracepoint)) => p.load(tracepoint, btf),
        (Program::TracePoint(p), Attach::Tracepoint(..)) => p.load(),
        (Program::CgroupSkb(p), Attach::CgroupSkb(_)) => p.load(),
        (Program::CgroupSock(p), Attach::CgroupSock) => p.load(),
        (Program::Iter(p), Attach::Iterate(kind)) => p.load(kind, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn attach_program(
    program: &mut Program,
    attach: Attach,
    cgroup: &File,
) -> Result<Option<BtfTracePointLinkId>, ProgramError> {
    match (program, attach) {
        (Program::BtfTracePoint(p), Attach::Btf(_)) => return p.attach().map(Some),
        (Program::TracePoint(p), Attach::Tracepoint(category, name)) => {
            with_tracefs(|| p.attach(category, name).map(drop))?;
        }
        (Program::CgroupSkb(p), Attach::CgroupSkb(direction)) => {
            // A link always allows others beside it; the kernel takes no flag here.
            p.attach(cgroup, direction, CgroupAttachMode::Single)?;
        }
        (Program::CgroupSock(p), Attach::CgroupSock) => {
            p.attach(cgroup, CgroupAttachMode::Single)?;
        }
        (Program::Iter(p), Attach::Iterate(_)) => {
            let link = p.attach()?;
            let mut all = p.take_link(link)?.into_file().map_err(|error| match error {
                LinkError::SyscallError(error) => ProgramError::SyscallError(error),
                other => io::Error::other(other).into(),
            })?;
            // It runs while it is read, and has nothing to say itself; after a million of them without a word
            // the kernel wants to be asked again.
            while let Err(error) = all.read(&mut [0; 64]) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Err(error.into());
                }
            }
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    Ok(None)
}

/// A tracepoint's number is only in tracefs. Where that is not mounted, it is
/// mounted for a moment in a mount namespace that a thread has to itself, so that
/// the host sees nothing of it.
fn with_tracefs<T: Send>(attach: impl FnOnce() -> Result<T, ProgramError> + Send) -> Result<T, ProgramError> {
    const TRACEFS: &str = "/sys/kernel/tracing";
    if Path::new(TRACEFS).join("events").exists() {
        return attach();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).map_err(io::Error::from)?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(io::Error::from)?;
            mount(Some("tracefs"), TRACEFS, Some("tracefs"), MsFlags::empty(), none)
                .map_err(io::Error::from)?;
            attach()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What the kernel's lockdown forbids, where securityfs says so.
fn lockdown() -> Lockdown {
    std::fs::read_to_string("/sys/kernel/security/lockdown")
        .map_or(Lockdown::Unknown, |text| Lockdown::parse(&text))
}

/// Turns the loader's error into the fact behind it.
fn explain(program: &'static str, attach: Attach, error: ProgramError) -> HookError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            // The verifier ends with statistics; what it dislikes stands before them.
            let reason = log
                .lines()
                .rev()
                .find(|l| {
                    !["processed ", "verification time", "stack depth"].iter().any(|s| l.starts_with(s))
                        && !l.is_empty()
                })
                .unwrap_or("no reason given")
                .to_owned();
            if log.is_empty() && matches!(io_error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
                HookError::Refused { call: "bpf(BPF_PROG_LOAD)", source: io_error, lockdown: lockdown() }
            } else {
                HookError::Rejected { program, reason, source: io_error, lockdown: lockdown() }
            }
        }
        ProgramError::Btf(_) if matches!(attach, Attach::Btf(_)) => match attach {
            Attach::Btf(tracepoint) => HookError::NoTracepoint(tracepoint),
            _ => HookError::Program { program, source: Box::new(error) },
        },
        ProgramError::SyscallError(e) => match e.io_error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                HookError::Refused { call: e.call, source: e.io_error, lockdown: lockdown() }
            }
            _ => HookError::Syscall { call: e.call, source: e.io_error },
        },
        ProgramError::TracePointError(aya::programs::trace_point::TracePointError::FileError {
            filename,
            io_error,
        }) => HookError::Tracefs { tracepoint: filename.display().to_string(), source: io_error },
        ProgramError::IOError(source) => match attach {
            Attach::Tracepoint(category, name) => {
                HookError::Tracefs { tracepoint: format!("{category}:{name}"), source }
            }
            _ => HookError::Syscall { call: "open", source },
        },
        other => HookError::Program { program, source: Box::new(other) },
    }
}
