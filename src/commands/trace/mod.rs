//! `trace`: the kernel's events with containers' names on them.
//!
//! The programs watch the children of one cgroup and know ids only; [`crate::names`] knows which container an id
//! is, from the stream itself (a cgroup's making is an event) and from the store. What is written, to a
//! terminal by [`table`] or to a program by [`json`], has passed [`filter`]. [`past`] does the same with what
//! `serve` has kept.

mod filter;
mod json;
mod past;
mod table;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bulkhead_ebpf::{Event, Hook, Kind, Options, TraceError, Tracer};
use bulkhead_engine::cgroup::{self, Cgroup};
use bulkhead_engine::container;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::cli::Globals;
use crate::cli::trace::{Topic, TraceArgs};
use crate::failure::Failure;
use crate::names::{Names, Who};
use filter::Filters;

/// How long to wait for events before looking whether anything was lost.
const TICK: Duration = Duration::from_secs(1);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// `bulkhead trace`
pub fn run(globals: &Globals, args: &TraceArgs) -> Result<u8, Failure> {
    let (topic, wanted) = args.operands();
    let filters = Filters::parse(&args.filter, &args.namespace).map_err(Failure::plain)?;
    if args.since.is_some() || args.until.is_some() {
        return past::run(globals, args, filters);
    }
    let store = globals.store()?;
    let mut chosen = Vec::new();
    for name in wanted {
        chosen.push(container::find(&store, name).map_err(Failure::daemon)?);
    }
    let mut parents: Vec<&str> = chosen.iter().map(|c| c.record.cgroup_parent.as_str()).collect();
    parents.dedup();
    let parent = match parents.as_slice() {
        [] => globals.cgroup_parent.as_str(),
        [one] => one,
        _ => {
            return Err(Failure::plain(format!(
                "these containers lie under several cgroups ({}): trace them one by one",
                parents.join(", ")
            )));
        }
    };
    let parent = parent.to_owned();
    let directory = cgroup::make_parent(&parent).map_err(Failure::plain_from)?;
    let mut options = Options::new(directory);
    options.hooks = hooks(topic);
    let (mut tracer, reports) = Tracer::load(&options).map_err(Failure::plain_from)?;
    for report in reports {
        if let Err(reason) = report.outcome {
            note(&format!("bulkhead trace: {} is not available: {reason}", report.hook.name()));
        }
    }
    // SAFETY: the handler does nothing but store into an atomic.
    unsafe {
        let action = SigAction::new(SigHandler::Handler(interrupt), SaFlags::empty(), SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            sigaction(signal, &action).map_err(|errno| Failure::plain(format!("sigaction: {errno}")))?;
        }
    }

    let mut names = Names::new(store, parent);
    let chosen: Vec<String> = chosen.into_iter().map(|c| c.id).collect();
    let mut view = View::new(args, filters);
    view.begin()?;
    // Whoever starts a container next may rely on this line: everything is attached.
    note("tracing");
    if args.since_start && matches!(topic, Topic::Exec | Topic::All) {
        for (id, parent) in names.running() {
            let Ok(cgroup) = Cgroup::open(&parent, &id) else { continue };
            for event in bulkhead_ebpf::running(cgroup.path()) {
                show(&mut view, &mut names, &chosen, &event);
            }
        }
    }
    view.flush()?;

    let mut known_lost = 0;
    let mut checked = Instant::now();
    let mut gone = Vec::new();
    while !INTERRUPTED.load(Ordering::Relaxed) {
        tracer
            .poll(TICK, |event| {
                if matches!(event.kind, Kind::CgroupRemoved(_)) {
                    gone.push(event.cgroup_id);
                }
                show(&mut view, &mut names, &chosen, &event);
            })
            .map_err(Failure::plain_from)?;
        // Nobody looks at the counters of a trace, but they have their place in a table that would fill.
        for id in gone.drain(..) {
            tracer.forget(id).map_err(Failure::plain_from)?;
        }
        if checked.elapsed() >= TICK {
            checked = Instant::now();
            known_lost = tell_losses(&mut view, &tracer, known_lost).map_err(Failure::plain_from)?;
        }
        view.flush()?;
    }
    tracer.flush(|event| show(&mut view, &mut names, &chosen, &event)).map_err(Failure::plain_from)?;
    let lost = tell_losses(&mut view, &tracer, known_lost).map_err(Failure::plain_from)?;
    view.flush()?;
    note(&format!("{} events, lost: {lost}", view.written));
    Ok(0)
}

/// Shows an event of the stream, if it is of one of the chosen containers.
fn show(view: &mut View, names: &mut Names, chosen: &[String], event: &Event) {
    match &event.kind {
        Kind::CgroupMade(name) => return names.made(event.cgroup_id, name),
        Kind::CgroupRemoved(_) => return names.removed(event.cgroup_id),
        _ => {}
    }
    if view.wants(event) {
        let who = names.get(event.cgroup_id);
        if chosen.is_empty() || chosen.contains(&who.id) {
            view.show(event, who, Tracer::wall(event.time));
        }
    }
}

/// What a topic needs. The failed execs and connects cost the host something on every system call, and
/// whoever traces wants to see them.
fn hooks(topic: Topic) -> Vec<Hook> {
    let mut hooks = vec![Hook::Cgroup];
    if matches!(topic, Topic::Exec | Topic::All) {
        hooks.extend([Hook::Exec, Hook::ExecFailed, Hook::Exit]);
    }
    if matches!(topic, Topic::Net | Topic::All) {
        hooks.extend([Hook::Tcp, Hook::ConnectFailed]);
    }
    if matches!(topic, Topic::Net | Topic::Dns | Topic::All) {
        hooks.extend([Hook::Socket, Hook::Packets, Hook::OlderSockets]);
    }
    if matches!(topic, Topic::Oom | Topic::All) {
        hooks.push(Hook::Oom);
    }
    hooks
}

/// Says that something is missing as soon as it is known; returns how much is missing so far.
fn tell_losses(view: &mut View, tracer: &Tracer, known: u64) -> Result<u64, TraceError> {
    let lost = tracer.lost()?;
    let total = lost.total();
    if total > known {
        let causes = lost.0.into_iter().map(|(cause, n)| (cause.to_string(), n)).collect();
        view.lost(&causes, SystemTime::now());
    }
    Ok(total)
}

/// A line on standard error; there is nobody to tell when that fails.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

enum Form {
    Json,
    Table(table::Table),
}

/// Where events end.
struct View {
    filters: Filters,
    topic: Topic,
    out: BufWriter<io::Stdout>,
    form: Form,
    written: u64,
    broken: Option<io::Error>,
}

impl View {
    fn new(args: &TraceArgs, filters: Filters) -> Self {
        Self {
            filters,
            topic: args.operands().0,
            out: BufWriter::with_capacity(64 << 10, io::stdout()),
            form: if args.json { Form::Json } else { Form::Table(table::Table::new(args.no_trunc)) },
            written: 0,
            broken: None,
        }
    }

    fn begin(&mut self) -> Result<(), Failure> {
        if let Form::Table(table) = &self.form {
            let header = table.header();
            self.write(&header);
        }
        self.flush()
    }

    /// Whether an event is of the topic and passes the filters.
    fn wants(&self, event: &Event) -> bool {
        self.about(&event.kind) && self.filters.pass(event)
    }

    fn show(&mut self, event: &Event, who: &Who, wall: SystemTime) {
        let line = match &self.form {
            Form::Json => json::event(event, who, wall),
            Form::Table(table) => table.line(event, who, wall),
        };
        self.write(&line);
        self.written += 1;
    }

    fn lost(&mut self, causes: &BTreeMap<String, u64>, wall: SystemTime) {
        match self.form {
            Form::Json => self.write(&json::lost(causes, wall)),
            Form::Table(_) => {
                let total: u64 = causes.values().sum();
                let causes: Vec<String> = causes.iter().map(|(cause, n)| format!("{cause}: {n}")).collect();
                note(&format!("lost: {total} ({})", causes.join(", ")));
            }
        }
    }

    fn about(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Exec(_) | Kind::ExecFailed(..) | Kind::Exit(_) => {
                matches!(self.topic, Topic::Exec | Topic::All)
            }
            Kind::Dns(_) => matches!(self.topic, Topic::Dns | Topic::All),
            Kind::Oom(_) => matches!(self.topic, Topic::Oom | Topic::All),
            _ => matches!(self.topic, Topic::Net | Topic::All),
        }
    }

    fn write(&mut self, line: &str) {
        if self.broken.is_none() {
            self.broken = writeln!(self.out, "{line}").err();
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match self.broken.take() {
            Some(error) => Err(Failure::stdout(&error)),
            None => self.out.flush().map_err(|error| Failure::stdout(&error)),
        }
    }
}
