//! What the kernel says while the view is open: executions and OOM kills of each container.
//!
//! The view has a tracer of its own with the two cheapest hooks there are (nothing is run per system
//! call, per packet or per switch of tasks), so it needs no `serve`. Loading takes longer than a frame may,
//! so a thread does it and the first screens say that it is under way. Events are taken out of the ring
//! once a refresh, and a container keeps its last few hundred over restarts, since the run that was
//! killed for memory is the one that somebody wants to know about.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use bulkhead_ebpf::{Event, Hook, Kind, Options, Tracer, escape};
use bulkhead_engine::model::Figures;

use crate::output::human;

/// Events kept of one container.
const KEPT: usize = 300;
/// Bytes of the ring: room for the executions of one refresh of a busy host.
const RING: u32 = 4 << 20;
/// Characters kept of one event; a command line can be two megabytes.
const LONGEST: usize = 400;

/// An execution or an OOM kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recent {
    /// Time of day.
    pub time: String,
    /// A kill for memory rather than an execution.
    pub oom: bool,
    /// Process and command line, printable.
    pub text: String,
}

/// Whether there can be events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tracing {
    /// Not yet.
    #[default]
    Starting,
    /// Never, and why.
    Refused(String),
    /// Yes, except for those that came too fast.
    On {
        /// How many those were.
        lost: u64,
    },
}

/// The tracer and what it has said.
pub struct Watch {
    loading: Option<Receiver<Result<Tracer, String>>>,
    tracer: Option<Tracer>,
    tracing: Tracing,
    /// Containers by cgroup id.
    names: HashMap<u64, String>,
    /// By container.
    events: HashMap<String, VecDeque<Recent>>,
}

impl Watch {
    /// Begins to load; `parent` is the containers' cgroup.
    pub fn start(parent: PathBuf) -> Self {
        let (send, receive) = sync_channel(1);
        let thread = std::thread::Builder::new().name("tracer".into()).spawn(move || {
            // Whoever waited has left.
            let _ = send.send(load(parent));
        });
        let mut watch = Self::refused(String::new());
        match thread {
            Ok(_) => (watch.loading, watch.tracing) = (Some(receive), Tracing::Starting),
            Err(error) => watch.tracing = Tracing::Refused(format!("spawn: {error}")),
        }
        watch
    }

    /// One that will never see anything.
    pub fn refused(why: String) -> Self {
        Self {
            loading: None,
            tracer: None,
            tracing: Tracing::Refused(why),
            names: HashMap::new(),
            events: HashMap::new(),
        }
    }

    /// Takes in what has happened. `figures` is the reading that has just been made; returned is how many
    /// programs each of its cgroups has executed, nothing while nobody counts them.
    pub fn take_in(&mut self, figures: &[Figures]) -> HashMap<u64, u64> {
        if let Some(loading) = &self.loading {
            match loading.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(Ok(tracer)) => (self.loading, self.tracer) = (None, Some(tracer)),
                Ok(Err(why)) => (self.loading, self.tracing) = (None, Tracing::Refused(why)),
                Err(TryRecvError::Disconnected) => self.loading = None,
            }
        }
        let Some(tracer) = &mut self.tracer else { return HashMap::new() };
        let running = |figures: &Figures| Some((figures.identity.cgroup_id?, figures.identity.id.clone()));
        self.names.extend(figures.iter().filter_map(running));
        let mut known: HashSet<String> = figures.iter().map(|figures| figures.identity.id.clone()).collect();
        let (names, events) = (&mut self.names, &mut self.events);
        let polled = tracer.poll(Duration::ZERO, |event| {
            if let Kind::CgroupMade(name) = &event.kind {
                if let Ok(id) = std::str::from_utf8(name) {
                    names.insert(event.cgroup_id, id.to_owned());
                    known.insert(id.to_owned());
                }
            } else if let Some(id) = names.get(&event.cgroup_id)
                && let Some(recent) = recent(&event)
            {
                let list = events.entry(id.clone()).or_default();
                if list.len() == KEPT {
                    list.pop_front();
                }
                list.push_back(recent);
            }
        });
        // What was removed is forgotten.
        events.retain(|id, _| known.contains(id));
        names.retain(|_, id| known.contains(id));
        self.tracing = match polled {
            Ok(_) => Tracing::On { lost: tracer.lost().map_or(0, |lost| lost.total()) },
            Err(error) => Tracing::Refused(error.to_string()),
        };
        let counted = |id: u64| Some((id, tracer.counters(id).ok()?.map_or(0, |counters| counters.execs)));
        figures.iter().filter_map(|figures| figures.identity.cgroup_id.and_then(counted)).collect()
    }

    /// What is known of one container, the latest last, and whether there can be more.
    pub fn of(&self, id: &str) -> (Vec<Recent>, Tracing) {
        let events = self.events.get(id).map(|list| list.iter().cloned().collect()).unwrap_or_default();
        (events, self.tracing.clone())
    }
}

fn load(parent: PathBuf) -> Result<Tracer, String> {
    let mut options = Options::new(parent);
    options.hooks = vec![Hook::Cgroup, Hook::Exec, Hook::Oom];
    options.ring_size = RING;
    let (tracer, reports) = Tracer::load(&options).map_err(|error| error.to_string())?;
    match reports.into_iter().find(|report| report.hook == Hook::Exec).map(|report| report.outcome) {
        Some(Err(why)) => Err(why.to_string()),
        _ => Ok(tracer),
    }
}

/// `None` for an event that is not shown.
fn recent(event: &Event) -> Option<Recent> {
    let mut text = String::new();
    if let Some(task) = &event.task {
        let _ = write!(text, "{:>7}  ", task.pid);
    }
    let oom = match &event.kind {
        Kind::Exec(exec) => {
            let words = if exec.args.is_empty() { std::slice::from_ref(&exec.filename) } else { &exec.args };
            for word in words {
                text.push_str(&escape(word));
                text.push(' ');
                if text.len() > LONGEST {
                    break;
                }
            }
            if exec.args_cut {
                text.push('…');
            }
            false
        }
        Kind::Oom(oom) => {
            if let Some(task) = &event.task {
                text.push_str(&escape(task.name()));
            }
            if let Some(detail) = &oom.detailed {
                let _ = write!(text, ", {} resident", human::binary(detail.rss()));
            }
            if let Some(limit) = oom.limit {
                let _ = write!(text, ", limit {}", human::binary(limit));
            }
            true
        }
        _ => return None,
    };
    if text.len() > LONGEST {
        let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= LONGEST).last();
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    let time = jiff::Timestamp::try_from(Tracer::wall(event.time))
        .map(|time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string())
        .unwrap_or_default();
    Some(Recent { time, oom, text: text.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_ebpf::{Exec, Oom};

    fn event(kind: Kind) -> Event {
        Event { time: Duration::from_secs(1), cgroup_id: 7, leaf_cgroup_id: 7, task: None, kind }
    }

    #[test]
    fn a_line_of_an_execution_is_short_and_printable() {
        let exec = |args: Vec<Vec<u8>>| {
            let exec = Exec {
                filename: b"/bin/sh".to_vec(),
                filename_cut: false,
                cwd: Vec::new(),
                cwd_cut: false,
                args,
                args_cut: false,
                parents: Vec::new(),
            };
            recent(&event(Kind::Exec(exec))).unwrap()
        };
        assert_eq!(exec(Vec::new()).text, "/bin/sh");
        let hostile = exec(vec![b"sh".to_vec(), b"\x1b[2J".to_vec(), "é".repeat(100_000).into_bytes()]);
        assert!(hostile.text.starts_with("sh ") && !hostile.text.contains('\x1b'), "{}", hostile.text);
        assert!(hostile.text.len() <= LONGEST + 3, "{}", hostile.text.len());
        assert!(!hostile.oom && hostile.time.len() == 8, "{hostile:?}");
    }

    #[test]
    fn a_kill_tells_the_limit_and_the_rest_is_not_shown() {
        let kill = recent(&event(Kind::Oom(Oom { limit: Some(16 << 20), detailed: None }))).unwrap();
        assert!(kill.oom && kill.text.contains("limit 16MiB"), "{kill:?}");
        assert_eq!(recent(&event(Kind::CgroupRemoved(Vec::new()))), None);
    }
}
