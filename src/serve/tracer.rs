//! The part that counts what only the kernel sees: executions, connections, questions, latencies; and that
//! keeps events for `trace --since`.
//!
//! The counting itself happens in the kernel. This thread sleeps until there are events, writes them to the
//! event log with their containers' names, and lets go of the counters of cgroups that are long gone; the
//! reader asks for counters when it needs them, and neither waits for the other. What this kernel does not let
//! us attach is told once on standard error and for ever in `bulkhead_trace_hook_attached`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_ebpf::event_log::{LogError, Raw, Writer};
use bulkhead_ebpf::{Counted, Event, Figures, Hook, Kind, Lost, Options, Stream, Tracer, Waker};
use bulkhead_exporter::{Histogram, Traced};

use super::Error;
use super::reader::Counters;
use crate::names::Names;

/// How long counters outlive their cgroup: longer than any scraper is waited for.
const KEEP: Duration = Duration::from_secs(900);
/// Cgroups that are gone and have counters, at most: half of what the kernel's tables hold, so that however many
/// come and go there is room for those that live.
const KEPT: usize = 8192;
/// As good as for ever.
const DAY: Duration = Duration::from_secs(86_400);
/// How long the run queue is watched after somebody wanted to know: longer than any scraper waits.
const ASKED: Duration = Duration::from_secs(300);
/// How often losses are looked for while events come.
const LOSSES: Duration = Duration::from_secs(1);

/// What to start with.
pub struct Settings {
    /// The containers' cgroup.
    pub parent: PathBuf,
    /// Where counters outlive us.
    pub pin: Option<PathBuf>,
    /// Measure how long processes wait for a CPU, while somebody asks for figures.
    pub run_queue: bool,
    /// Where events are kept, and how many bytes of them.
    pub log: Option<(PathBuf, u64)>,
}

/// Cgroups that are gone, and since when: the oldest first.
#[derive(Default)]
struct Gone(VecDeque<(Instant, u64)>);

impl Gone {
    fn add(&mut self, now: Instant, id: u64) {
        self.0.push_back((now, id));
    }

    /// One whose counters have been kept long enough, or stand in the way.
    fn due(&mut self, now: Instant) -> Option<u64> {
        let (since, _) = self.0.front()?;
        let due = self.0.len() > KEPT || now.saturating_duration_since(*since) >= KEEP;
        if due { self.0.pop_front().map(|(_, id)| id) } else { None }
    }

    /// How long until there is one.
    fn next(&self, now: Instant) -> Option<Duration> {
        self.0.front().map(|(since, _)| KEEP.saturating_sub(now.saturating_duration_since(*since)))
    }
}

struct Counting {
    figures: Mutex<Figures>,
    watched: Mutex<HashSet<u64>>,
    /// When figures were last asked for.
    asked: Mutex<Option<Instant>>,
    waker: Waker,
    hooks: BTreeMap<String, bool>,
    /// Events that the log had no room for.
    unlogged: AtomicU64,
    stop: AtomicBool,
}

/// The thread, and what it counts.
pub struct Handle {
    counting: Arc<Counting>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// For the reader.
    pub fn counters(&self) -> Arc<dyn Counters> {
        self.counting.clone()
    }

    /// Ends the thread once everything that has come is in the log.
    pub fn finish(self) {
        self.counting.stop.store(true, Ordering::Relaxed);
        self.counting.waker.wake();
        // A panic there has been printed.
        let _ = self.thread.join();
    }
}

/// Attaches, and starts the thread. `None` when nothing can be traced here, which has then been said.
pub fn start(settings: Settings, names: Names) -> Result<Option<Handle>, Error> {
    let mut options = Options::new(&settings.parent);
    options.pin = settings.pin;
    if !settings.run_queue {
        options.hooks.retain(|hook| *hook != Hook::RunQueue);
    }
    // It runs at every switch of every process of the host.
    options.on_demand = vec![Hook::RunQueue];
    let (tracer, reports) = match Tracer::load(&options) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("bulkhead serve: no tracing: {error}");
            return Ok(None);
        }
    };
    let mut hooks = BTreeMap::new();
    for report in reports {
        if let Err(reason) = &report.outcome {
            eprintln!("bulkhead serve: {} is not available: {reason}", report.hook.name());
        }
        hooks.insert(report.hook.name().to_owned(), report.outcome.is_ok());
    }
    let (stream, mut figures) = tracer.split();
    if let Err(error) = figures.forget_gone(&settings.parent) {
        eprintln!("bulkhead serve: counters of containers that are gone stay: {error}");
    }
    let log = settings.log.and_then(|(dir, size)| match Writer::open(&dir, size) {
        Ok(log) => Some(log),
        Err(error) => {
            eprintln!("bulkhead serve: no event log: {error}");
            None
        }
    });
    let counting = Arc::new(Counting {
        figures: Mutex::new(figures),
        watched: Mutex::default(),
        asked: Mutex::default(),
        waker: stream.waker(),
        hooks,
        unlogged: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let ours = counting.clone();
    let thread = std::thread::Builder::new()
        .name("tracer".into())
        .spawn(move || {
            let log = log.map(|writer| Log { writer, failing: false, unlogged: 0 });
            ours.drain(stream, names, log);
        })
        .map_err(|source| Error::Io { call: "spawn", object: "tracer thread".into(), source })?;
    Ok(Some(Handle { counting, thread }))
}

/// The event log, and what it could not take.
struct Log {
    writer: Writer,
    /// The last write failed, which has been said.
    failing: bool,
    unlogged: u64,
}

impl Log {
    fn append(&mut self, event: &Event, raw: Raw<'_>, names: &mut Names) {
        let appended = self.writer.append(event, raw, names.get(event.cgroup_id));
        self.note(appended);
    }

    fn flush(&mut self) {
        let flushed = self.writer.flush();
        if flushed.is_ok() && self.failing {
            self.failing = false;
            eprintln!(
                "bulkhead serve: the event log can be written again, {} events are missing",
                self.unlogged
            );
        }
        self.note(flushed);
    }

    fn note(&mut self, result: Result<(), (u64, LogError)>) {
        let Err((events, error)) = result else { return };
        self.unlogged += events;
        if !std::mem::replace(&mut self.failing, true) {
            eprintln!("bulkhead serve: event log: {error}");
        }
    }
}

impl Counting {
    fn figures(&self) -> std::sync::MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long somebody will still want to know, if anybody does.
    fn wanted(&self) -> Option<Duration> {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        ASKED.checked_sub(asked?.elapsed())
    }

    fn drain(&self, mut stream: Stream, mut names: Names, mut log: Option<Log>) {
        let mut gone = Gone::default();
        // Since when losses have not been looked for although events came.
        let mut unchecked: Option<Instant> = None;
        let mut told = BTreeMap::new();
        let mut run_queue = self.hooks.get(Hook::RunQueue.name()) == Some(&true);
        loop {
            let wanted = run_queue.then(|| self.wanted()).flatten();
            match wanted {
                Some(_) => {
                    if let Err(error) = stream.attach(Hook::RunQueue) {
                        eprintln!("bulkhead serve: {} is not available: {error}", Hook::RunQueue.name());
                        run_queue = false;
                    }
                }
                None => stream.detach(Hook::RunQueue),
            }
            let stop = self.stop.load(Ordering::Relaxed);
            // Nothing else is waited for than what happens.
            let expiry = gone.next(Instant::now());
            let losses = unchecked.map(|since| LOSSES.saturating_sub(since.elapsed()));
            let wait = expiry.into_iter().chain(losses).chain(wanted).min().unwrap_or(DAY);
            let mut take = |event: Event, raw: Raw<'_>| match &event.kind {
                Kind::CgroupMade(name) => names.made(event.cgroup_id, name),
                Kind::CgroupRemoved(_) => {
                    names.removed(event.cgroup_id);
                    gone.add(Instant::now(), event.cgroup_id);
                }
                _ => {
                    if let Some(log) = &mut log {
                        log.append(&event, raw, &mut names);
                    }
                }
            };
            let polled = if stop { stream.flush(&mut take) } else { stream.poll(wait, &mut take) };
            match polled {
                Ok(0) => {}
                Ok(_) => drop(unchecked.get_or_insert_with(Instant::now)),
                Err(error) => {
                    eprintln!("bulkhead serve: tracing ends: {error}");
                    return;
                }
            }
            if stop || unchecked.is_some_and(|since| since.elapsed() >= LOSSES) {
                unchecked = None;
                let lost = self.lost();
                let new: BTreeMap<String, u64> = lost
                    .iter()
                    .map(|(cause, count)| (cause.clone(), count - told.get(cause).unwrap_or(&0)))
                    .filter(|(_, count)| *count > 0)
                    .collect();
                told = lost;
                if let Some(log) = &mut log
                    && !new.is_empty()
                {
                    log.writer.lost(&new);
                }
            }
            if let Some(log) = &mut log {
                log.flush();
                self.unlogged.store(log.unlogged, Ordering::Relaxed);
            }
            while let Some(id) = gone.due(Instant::now()) {
                stream.forget(id);
                // Forgotten already, it is not missed.
                let _ = self.figures().forget(id);
            }
            if stop {
                return;
            }
        }
    }
}

fn histogram(of: &bulkhead_ebpf::Histogram) -> Histogram {
    Histogram { sum_ns: of.sum_ns, slots: of.slots.to_vec() }
}

impl Counters for Counting {
    fn watch(&self, cgroups: &[u64]) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // What runs no longer needs not be remembered; its counters stay until they are forgotten.
        let running: HashSet<u64> = cgroups.iter().copied().collect();
        watched.retain(|id| running.contains(id));
        for id in cgroups {
            // A table that is full shows in what is lost.
            if !watched.contains(id) && self.figures().watch(*id).is_ok() {
                watched.insert(*id);
            }
        }
    }

    fn counted(&self) -> HashMap<u64, Traced> {
        let first = self.wanted().is_none();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if first {
            self.waker.wake();
        }
        // Maps that cannot be read: not told, rather than zero.
        let counted = self.figures().all().unwrap_or_default();
        let traced = counted.into_iter().map(|(id, Counted { counters, run_queue, block_io })| {
            let traced = Traced {
                execs: counters.execs,
                exec_failures: counters.exec_failures,
                forks: counters.forks,
                tcp_connects: counters.tcp_connects,
                tcp_connect_failures: counters.tcp_connect_failures,
                tcp_accepts: counters.tcp_accepts,
                tcp_retransmits: counters.tcp_retransmits,
                ip_packets_in: counters.rx_packets,
                ip_bytes_in: counters.rx_bytes,
                ip_packets_out: counters.tx_packets,
                ip_bytes_out: counters.tx_bytes,
                dns_queries: counters.dns_queries,
                dns_answers: counters.dns_answers,
                run_queue: run_queue.as_ref().map(histogram),
                block_io: block_io.as_ref().map(histogram),
            };
            (id, traced)
        });
        traced.collect()
    }

    fn lost(&self) -> BTreeMap<String, u64> {
        let mut lost: BTreeMap<String, u64> = match self.figures().lost() {
            Ok(lost) => {
                let count = |cause| lost.0.get(&cause).copied().unwrap_or(0);
                Lost::causes().map(|cause| (cause.to_string(), count(cause))).collect()
            }
            Err(_) => BTreeMap::new(),
        };
        lost.insert("event log".to_owned(), self.unlogged.load(Ordering::Relaxed));
        lost
    }

    fn hooks(&self) -> BTreeMap<String, bool> {
        self.hooks.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_is_kept_for_a_while_and_not_in_the_way() {
        let mut gone = Gone::default();
        let begin = Instant::now();
        assert_eq!((gone.due(begin), gone.next(begin)), (None, None));
        let kept = KEPT as u64;
        for id in 0..kept {
            gone.add(begin + Duration::from_secs(1), id);
        }
        assert_eq!(gone.due(begin + KEEP), None);
        assert_eq!(gone.next(begin + KEEP), Some(Duration::from_secs(1)));
        // However many come, half of the tables is for those that live.
        for id in kept..kept + 3 {
            gone.add(begin + KEEP, id);
        }
        let due: Vec<_> = std::iter::from_fn(|| gone.due(begin + KEEP)).collect();
        assert_eq!(due, [0, 1, 2]);
        assert_eq!(gone.due(begin + KEEP + Duration::from_secs(1)), Some(3));
        let due = std::iter::from_fn(|| gone.due(begin + KEEP + KEEP)).count();
        assert_eq!(due, KEPT - 1);
    }
}
