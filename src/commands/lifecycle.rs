//! `start`, `stop`, `restart`, `kill`, `pause`, `unpause`, `wait`, `rm`, `rename`, `container prune`.
//!
//! Each takes several operands and, as Docker does, works through all of them: the names that succeeded
//! go to standard output, each failure is a line of its own, and one failure makes the exit code 1.

use std::io::{self, Write as _};
use std::time::Duration;

use bulkhead_engine::container::{self, Container, Error, lifecycle, protocol::Request, recover};
use bulkhead_engine::store::{Layout, Store};

use crate::attach::{Outcome, RawMode, Session, block_signals};
use crate::cli::Globals;
use crate::cli::container::{Containers, KillArgs, RenameArgs, RmArgs, StartArgs, StopArgs};
use crate::failure::Failure;
use bulkhead_engine::container::attach::{DETACH_KEYS, parse_detach_keys};

/// Opens the store and puts right what killed commands left.
pub fn store(globals: &Globals) -> Result<Store, Failure> {
    let mut store = globals.store()?;
    for unsettled in recover::recover(&mut store).map_err(Failure::daemon)? {
        let _ = writeln!(io::stderr(), "WARNING: {unsettled}");
    }
    Ok(store)
}

/// Applies `act` to every operand; prints what it returns, collects what fails.
fn each(
    store: &mut Store,
    names: &[String],
    mut act: impl FnMut(&mut Store, &Container) -> Result<String, Error>,
) -> Result<u8, Failure> {
    let mut failures = Vec::new();
    for name in names {
        let done = container::find(store, name).and_then(|found| act(store, &found)).map(|text| {
            // The name as typed, which is what a script compares with.
            if text.is_empty() { name.clone() } else { text }
        });
        match done {
            Ok(text) => writeln!(io::stdout(), "{text}").map_err(|error| Failure::stdout(&error))?,
            Err(error) => failures.push(format!("Error response from daemon: {error}")),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::lines(&failures)) }
}

/// `bulkhead start`
pub fn start(globals: &Globals, args: &StartArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    if args.attach || args.interactive {
        let [name] = args.containers.as_slice() else {
            return Err(Failure::plain("you cannot start and attach multiple containers at once"));
        };
        let found = container::find(&store, name).map_err(Failure::daemon)?;
        return start_attached(&store, &found, args);
    }
    let quiet = Request::Attach { stdin: false, output: false };
    let mut failures = Vec::new();
    let mut failed = Vec::new();
    for name in &args.containers {
        let started = container::find(&store, name).and_then(|found| {
            if found.state.status.is_alive() {
                return Ok(());
            }
            let Some(handle) = lifecycle::start(&store, &found, &quiet)? else { return Ok(()) };
            lifecycle::await_start(&handle, &found.id, warn).map(drop)
        });
        match started {
            Ok(()) => writeln!(io::stdout(), "{name}").map_err(|error| Failure::stdout(&error))?,
            Err(error) => {
                failures.push(format!("Error response from daemon: {error}"));
                failed.push(name.as_str());
            }
        }
    }
    if failures.is_empty() {
        return Ok(0);
    }
    failures.push(format!("Error: failed to start containers: {}", failed.join(", ")));
    Err(Failure::lines(&failures))
}

/// Prints a warning that arrives before the start; other events cannot.
pub fn warn(event: container::protocol::Event) {
    if let container::protocol::Event::Warning(text) = event {
        let _ = writeln!(io::stderr(), "WARNING: {text}");
    }
}

fn start_attached(store: &Store, found: &Container, args: &StartArgs) -> Result<u8, Failure> {
    let config = &found.record.config;
    let keys = detach_keys(args.detach_keys.as_deref())?;
    let stdin = args.interactive && config.open_stdin;
    let attach = Request::Attach { stdin, output: true };
    let started = if found.state.status.is_alive() {
        None
    } else {
        lifecycle::start(store, found, &attach).map_err(Failure::daemon)?
    };
    let handle = match started {
        Some(handle) => handle,
        None => container::attach::connect(store, found, &attach).map_err(Failure::daemon)?,
    };
    let _raw = (config.tty && stdin).then(RawMode::enter);
    let id = found.id.clone();
    let mut forward = |signal: i32| forward_signal(globals_of(store), &id, signal);
    let mut session = Session {
        stdin,
        stdout: true,
        stderr: true,
        tty: config.tty,
        on_signal: (!config.tty && args.attach).then_some(&mut forward as &mut dyn FnMut(i32)),
        detach_keys: &keys,
    };
    finish(session.serve(&handle), store.layout(), &found.id)
}

/// The layout is all a signal handler needs to open the store anew.
fn globals_of(store: &Store) -> Layout {
    store.layout().clone()
}

/// Passes a signal of ours on to a container's process 1.
pub fn forward_signal(layout: Layout, id: &str, signal: i32) {
    let Ok(mut store) = Store::open(layout) else { return };
    if let Ok(found) = container::find(&store, id) {
        let _ = lifecycle::kill(&mut store, &found, &signal.to_string());
    }
}

/// Reads `--detach-keys`.
pub fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, Failure> {
    match text {
        None => Ok(DETACH_KEYS.to_vec()),
        Some("") => Ok(Vec::new()),
        Some(text) => parse_detach_keys(text).ok_or_else(|| {
            Failure::plain(format!("Error response from daemon: Invalid detach keys ({text}) provided"))
        }),
    }
}

/// Turns the end of a session with a container into an exit code.
pub fn finish(outcome: io::Result<Outcome>, layout: &Layout, id: &str) -> Result<u8, Failure> {
    match outcome {
        Ok(Outcome::Interrupted(signal)) => Ok(128 + signal as u8),
        Ok(Outcome::Exited(code)) => Ok(code as u8),
        Ok(Outcome::Detached) => Ok(0),
        Ok(Outcome::OutputGone) => Ok(141),
        Ok(Outcome::Lost) => match recorded_end(layout, id) {
            Some(code) => Ok(code as u8),
            None => Err(Failure::new(137, "bulkhead: the container's monitor was killed")),
        },
        Err(error) => Err(Failure::plain(format!("bulkhead: attach: {error}"))),
    }
}

/// The exit code of a container whose monitor ended while we were at its door, if it had time to write that down.
fn recorded_end(layout: &Layout, id: &str) -> Option<i32> {
    let store = Store::open(layout.clone()).ok()?;
    let _ = lifecycle::wait(&store, id, Some(Duration::from_secs(5)));
    let found = container::find(&store, id).ok()?;
    (!found.state.status.is_alive()).then_some(found.state.exit_code)
}

/// `bulkhead stop`
pub fn stop(globals: &Globals, args: &StopArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    let result = each(&mut store, &args.containers, |store, found| {
        lifecycle::stop(store, found, args.timeout, args.signal.as_deref()).map(|()| String::new())
    });
    tidy(&store);
    result
}

/// The networks' bridge and rules go with the last container that somebody ends. What cannot be done now the
/// caretaker does.
fn tidy(store: &Store) {
    let _ = bulkhead_engine::network::tidy(store);
}

/// `bulkhead restart`
pub fn restart(globals: &Globals, args: &StopArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    let quiet = Request::Attach { stdin: false, output: false };
    each(&mut store, &args.containers, |store, found| {
        lifecycle::stop(store, found, args.timeout, args.signal.as_deref())?;
        // What was found ran, and a start of what runs does nothing.
        let found = &container::find(store, &found.id)?;
        if let Some(handle) = lifecycle::start(store, found, &quiet)? {
            lifecycle::await_start(&handle, &found.id, warn)?;
        }
        found.event("restart").tell(store.layout());
        Ok(String::new())
    })
}

/// `bulkhead kill`
pub fn kill(globals: &Globals, args: &KillArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    let signal = args.signal.as_deref().filter(|signal| !signal.is_empty()).unwrap_or("KILL");
    lifecycle::parse_signal(signal).map_err(Failure::daemon)?;
    each(&mut store, &args.containers, |store, found| {
        lifecycle::kill(store, found, signal).map(|()| String::new()).map_err(|error| match error {
            Error::NotRunning(id) => Error::CannotKill(found.name.clone(), id),
            other => other,
        })
    })
}

/// `bulkhead pause`
pub fn pause(globals: &Globals, args: &Containers) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    each(&mut store, &args.containers, |store, found| lifecycle::pause(store, found).map(|()| String::new()))
}

/// `bulkhead unpause`
pub fn unpause(globals: &Globals, args: &Containers) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    each(&mut store, &args.containers, |store, found| {
        lifecycle::unpause(store, found).map(|()| String::new())
    })
}

/// `bulkhead wait`
pub fn wait(globals: &Globals, args: &Containers) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    each(&mut store, &args.containers, |store, found| {
        let code = lifecycle::wait(store, &found.id, None)?;
        Ok(code.unwrap_or(0).to_string())
    })
}

/// `bulkhead rm`
pub fn rm(globals: &Globals, args: &RmArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    if args.link {
        return Err(Failure::plain(
            "Error response from daemon: Conflict, cannot remove the default link name of the container",
        ));
    }
    let mut missing = Vec::new();
    let names: Vec<String> = if args.force {
        // With -f a container that is not there is said, but is no failure.
        args.containers
            .iter()
            .filter(|name| match container::find(&store, name) {
                Err(error @ Error::NoSuchContainer(_)) => {
                    missing.push(format!("Error response from daemon: {error}"));
                    false
                }
                _ => true,
            })
            .cloned()
            .collect()
    } else {
        args.containers.clone()
    };
    let result = each(&mut store, &names, |store, found| {
        lifecycle::remove(store, found, args.force, args.volumes).map(|()| String::new())
    });
    tidy(&store);
    for line in missing {
        let _ = writeln!(io::stderr(), "{line}");
    }
    result
}

/// `bulkhead rename`
pub fn rename(globals: &Globals, args: &RenameArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    container::find(&store, &args.container)
        .and_then(|found| lifecycle::rename(&store, &found, &args.name))
        .map_err(|error| {
            Failure::lines(&[
                format!("Error response from daemon: {error}"),
                format!("Error: failed to rename container named {}", args.container),
            ])
        })?;
    Ok(0)
}

/// Signals that are for the container must be blocked before one in the foreground starts.
pub fn hold_signals(for_container: bool) -> Result<(), Failure> {
    if !for_container {
        return Ok(());
    }
    block_signals().map_err(|errno| Failure::new(125, format!("bulkhead: sigprocmask: {errno}")))
}
