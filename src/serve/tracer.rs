//! The part that counts what only the kernel sees: executions, connections, questions, latencies.
//!
//! The counting itself happens in the kernel. This thread keeps the ring of events from filling (whoever
//! wants the events themselves uses `trace`) and lets go of the counters of cgroups that are long gone;
//! the reader asks for counters when it needs them. What this kernel does not let us attach is told once
//! on standard error and for ever in `bulkhead_trace_hook_attached`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_ebpf::{Event, Kind, Oom, Options, Tracer};
use bulkhead_exporter::{Histogram, Traced};

use super::Error;
use super::reader::Counters;
use crate::names::Names;

/// Between two looks at the ring. 8 MiB hold some 40,000 events.
const PAUSE: Duration = Duration::from_millis(200);
/// How long counters outlive their cgroup: longer than any scraper is waited for.
const KEEP: Duration = Duration::from_secs(900);

struct Counting {
    tracer: Mutex<Tracer>,
    watched: Mutex<HashSet<u64>>,
    hooks: BTreeMap<String, bool>,
}

/// Attaches, and starts the thread. `None` when nothing can be traced here, which has then been said.
pub fn start(
    parent: PathBuf,
    pin: Option<PathBuf>,
    names: Names,
) -> Result<Option<Arc<dyn Counters>>, Error> {
    let mut options = Options::new(parent);
    options.pin = pin;
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
    let counting = Arc::new(Counting { tracer: Mutex::new(tracer), watched: Mutex::default(), hooks });
    let ours = counting.clone();
    std::thread::Builder::new()
        .name("tracer".into())
        .spawn(move || ours.drain(names))
        .map_err(|source| Error::Io { call: "spawn", object: "tracer thread".into(), source })?;
    Ok(Some(counting))
}

impl Counting {
    fn tracer(&self) -> std::sync::MutexGuard<'_, Tracer> {
        self.tracer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self, mut names: Names) {
        let mut gone: VecDeque<(Instant, u64)> = VecDeque::new();
        loop {
            let polled = self.tracer().poll(Duration::ZERO, |event| match &event.kind {
                Kind::CgroupMade(name) => names.made(event.cgroup_id, name),
                Kind::CgroupRemoved(_) => {
                    names.removed(event.cgroup_id);
                    gone.push_back((Instant::now(), event.cgroup_id));
                }
                Kind::Oom(oom) => tell(&event, oom, &mut names),
                _ => {}
            });
            if let Err(error) = polled {
                eprintln!("bulkhead serve: tracing ends: {error}");
                return;
            }
            while gone.front().is_some_and(|(since, _)| since.elapsed() > KEEP) {
                if let Some((_, id)) = gone.pop_front() {
                    // Forgotten already, it is not missed.
                    let _ = self.tracer().forget(id);
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// One line of a process that the kernel killed for memory. Its container may be gone by now; its name was
/// learnt when its cgroup was made, unless all of its life fell between two looks: then the id stands for it.
fn tell(event: &Event, oom: &Oom, names: &mut Names) {
    let who = names.get(event.cgroup_id);
    let mut line = format!("container={} id={}", who.name, &who.id[..12.min(who.id.len())]);
    if let Some(task) = &event.task {
        // A process names itself, and may do so to fool whoever reads this.
        let _ = write!(line, " process={} pid={}", bulkhead_ebpf::escape(task.name()), task.pid);
    }
    if let Some(detail) = &oom.detailed {
        let _ = write!(line, " rss={}B score_adj={}", detail.rss(), detail.score_adj);
    }
    match oom.limit {
        Some(limit) => drop(write!(line, " limit={limit}B")),
        None => line.push_str(" limit=none"),
    }
    eprintln!("bulkhead serve: oom: {line}");
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
            if !watched.contains(id) && self.tracer().watch(*id).is_ok() {
                watched.insert(*id);
            }
        }
    }

    fn counted(&self) -> HashMap<u64, Traced> {
        let tracer = self.tracer();
        let Ok(ids) = tracer.cgroups() else { return HashMap::new() };
        ids.into_iter()
            .filter_map(|id| {
                // Forgotten meanwhile, or a map that cannot be read: not told, rather than zero.
                let counters = tracer.counters(id).ok().flatten()?;
                let traced = Traced {
                    execs: counters.execs,
                    exec_failures: counters.exec_failures,
                    forks: counters.forks,
                    tcp_connects: counters.tcp_connects,
                    tcp_connect_failures: counters.tcp_connect_failures,
                    tcp_accepts: counters.tcp_accepts,
                    tcp_retransmits: counters.tcp_retransmits,
                    dns_queries: counters.dns_queries,
                    dns_answers: counters.dns_answers,
                    run_queue: tracer.run_queue(id).ok().flatten().as_ref().map(histogram),
                    block_io: tracer.block_io(id).ok().flatten().as_ref().map(histogram),
                };
                Some((id, traced))
            })
            .collect()
    }

    fn lost(&self) -> BTreeMap<String, u64> {
        self.tracer()
            .lost()
            .map(|lost| lost.0.into_iter().map(|(cause, count)| (cause.to_string(), count)).collect())
            .unwrap_or_default()
    }

    fn hooks(&self) -> BTreeMap<String, bool> {
        self.hooks.clone()
    }
}
