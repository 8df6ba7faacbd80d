//! `trace`: the kernel's events with containers' names on them.
//!
//! The programs watch the children of one cgroup and know ids only; [`crate::names`] knows which container an id
//! is, from the stream itself (a cgroup's making is an event) and from the store. What is written, to a
//! terminal by [`table`] or to a program by [`json`], has passed [`filter`].

mod filter;
mod json;
mod table;

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_ebpf::{Event, Hook, Kind, Options, TraceError, Tracer};
use bulkhead_engine::cgroup::{self, Cgroup};
use bulkhead_engine::container;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::cli::Globals;
use crate::cli::trace::{Topic, TraceArgs};
use crate::failure::Failure;
use crate::names::Names;
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

    let mut view = View {
        names: Names::new(store, parent),
        chosen: chosen.iter().map(|c| c.id.clone()).collect(),
        filters,
        topic,
        out: BufWriter::with_capacity(64 << 10, io::stdout()),
        form: if args.json { Form::Json } else { Form::Table(table::Table::new(args.no_trunc)) },
        written: 0,
        broken: None,
    };
    view.begin()?;
    if args.since_start && matches!(topic, Topic::Exec | Topic::All) {
        for (id, parent) in view.names.running() {
            let Ok(cgroup) = Cgroup::open(&parent, &id) else { continue };
            for event in bulkhead_ebpf::running(cgroup.path()) {
                view.show(&event);
            }
        }
    }
    view.flush()?;

    let mut known_lost = 0;
    let mut checked = Instant::now();
    while !INTERRUPTED.load(Ordering::Relaxed) {
        tracer.poll(TICK, |event| view.show(&event)).map_err(Failure::plain_from)?;
        if checked.elapsed() >= TICK {
            checked = Instant::now();
            known_lost = tell_losses(&mut view, &tracer, known_lost).map_err(Failure::plain_from)?;
        }
        view.flush()?;
    }
    tracer.flush(|event| view.show(&event)).map_err(Failure::plain_from)?;
    let lost = tell_losses(&mut view, &tracer, known_lost).map_err(Failure::plain_from)?;
    view.flush()?;
    note(&format!("{} events, lost: {lost}", view.written));
    Ok(0)
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
        hooks.extend([Hook::Socket, Hook::Packets]);
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
        match view.form {
            Form::Json => view.write(&json::lost(&lost)),
            Form::Table(_) => {
                let causes: Vec<String> = lost.0.iter().map(|(cause, n)| format!("{cause}: {n}")).collect();
                note(&format!("lost: {total} ({})", causes.join(", ")));
            }
        }
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
    names: Names,
    chosen: Vec<String>,
    filters: Filters,
    topic: Topic,
    out: BufWriter<io::Stdout>,
    form: Form,
    written: u64,
    broken: Option<io::Error>,
}

impl View {
    fn begin(&mut self) -> Result<(), Failure> {
        if let Form::Table(table) = &self.form {
            let header = table.header();
            self.write(&header);
        }
        // Whoever starts a container next may rely on this line: everything is attached.
        note("tracing");
        self.flush()
    }

    fn show(&mut self, event: &Event) {
        match &event.kind {
            Kind::CgroupMade(name) => return self.names.made(event.cgroup_id, name),
            Kind::CgroupRemoved(_) => return self.names.removed(event.cgroup_id),
            _ => {}
        }
        if !self.about(&event.kind) || !self.filters.pass(event) {
            return;
        }
        let who = self.names.get(event.cgroup_id);
        if !self.chosen.is_empty() && !self.chosen.contains(&who.id) {
            return;
        }
        let line = match &self.form {
            Form::Json => json::event(event, who),
            Form::Table(table) => table.line(event, who),
        };
        self.write(&line);
        self.written += 1;
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
