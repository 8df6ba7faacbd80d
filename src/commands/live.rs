//! `top` without an operand: the terminal, the clock and the figures of the live view.
//!
//! Once a second the model is read and the screen drawn; in between the process sleeps in `poll`. Actions
//! are our own commands, started as children: whatever they print becomes a line at the bottom, and the
//! view stays a reader.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_engine::cgroup;
use bulkhead_engine::container;
use bulkhead_engine::model::{Collector, Host, Parts};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use ratatui::crossterm::event::{self, DisableMouseCapture, EnableMouseCapture};
use ratatui::crossterm::execute;

use super::lifecycle;
use crate::cli::Globals;
use crate::cli::container::TopArgs;
use crate::failure::Failure;
use crate::live::{App, Detail, Effect, Look, Watch, draw};

/// Time between two readings.
const REFRESH: Duration = Duration::from_secs(1);

static ENDED: AtomicBool = AtomicBool::new(false);

/// Seconds after a signal in which we must have ended by ourselves.
const GRACE: libc::c_uint = 2;

extern "C" fn end(_: libc::c_int) {
    ENDED.store(true, Ordering::Relaxed);
    // crossterm reads a terminal that has gone away for ever, and would take a processor with it.
    // SAFETY: alarm is async-signal-safe and takes no pointer.
    unsafe { libc::alarm(GRACE) };
}

/// Waits for a key; false when there will never be one again, since the terminal is gone. crossterm's own
/// waiting cannot tell the two apart.
fn wait_for_key(wait: Duration) -> bool {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    // A signal (a new size, for one) ends the wait as a key does.
    let _ = poll(&mut fds, wait);
    !fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// The terminal in the state we need, and back as it was however we leave.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn enter() -> Result<Self, Failure> {
        let terminal = ratatui::try_init().map_err(|error| Failure::plain(format!("terminal: {error}")))?;
        // A terminal without a mouse ignores it.
        let _ = execute!(std::io::stdout(), EnableMouseCapture);
        Ok(Self(terminal))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(std::io::stdout(), DisableMouseCapture);
        ratatui::restore();
    }
}

/// `bulkhead top`: Docker's list of processes when a container is named, else the live view.
pub fn run(globals: &Globals, args: &TopArgs) -> Result<u8, Failure> {
    if args.container_and_options.is_empty() { watch(globals) } else { super::top::run(globals, args) }
}

fn watch(globals: &Globals) -> Result<u8, Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::plain(
            "bulkhead top: the live view needs a terminal; `bulkhead stats --no-stream` does not",
        ));
    }
    let store = lifecycle::store(globals)?;
    // Files are kept open between two frames; opening them again would be a third of a frame's cost.
    crate::serve::raise_open_files();
    let mut collector = Collector::new(Parts { network: true, limits: true, ..Parts::default() });
    let mut app = App::default();
    // Declared before the screen, so that the terminal is given back before the programs are detached.
    let mut watch = match cgroup::make_parent(&globals.cgroup_parent) {
        Ok(parent) => Watch::start(parent),
        Err(error) => Watch::refused(error.to_string()),
    };
    // https://no-color.org: present and not empty.
    let look = Look { color: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    // The keys of these are read as keys: who sends one means it.
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP] {
        let action = nix::sys::signal::SigAction::new(
            nix::sys::signal::SigHandler::Handler(end),
            nix::sys::signal::SaFlags::empty(),
            nix::sys::signal::SigSet::empty(),
        );
        // SAFETY: the handler stores to an atomic and sets an alarm, both of which are allowed in one.
        let _ = unsafe { nix::sys::signal::sigaction(signal, &action) };
    }
    let mut screen = Screen::enter()?;
    let fail = |error: std::io::Error| Failure::plain(format!("terminal: {error}"));
    let mut running: Vec<(Child, String)> = Vec::new();
    let mut next = Instant::now();
    while !ENDED.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            let figures = collector.collect(&store).map_err(Failure::daemon)?;
            let execs = watch.take_in(&figures);
            app.update(Host::read().map_err(Failure::daemon)?, figures, &execs);
            look_into(&store, &watch, &mut app);
            next = Instant::now() + REFRESH;
        }
        reap(&mut running, &mut app);
        screen.0.draw(|frame| draw(&mut app, look, frame)).map_err(fail)?;
        // An action that is under way is looked after more often.
        let wait = next.saturating_duration_since(Instant::now());
        let wait = if running.is_empty() { wait } else { wait.min(Duration::from_millis(100)) };
        if !wait_for_key(wait) {
            return Ok(0);
        }
        // Everything that waits is taken in before the next drawing.
        while event::poll(Duration::ZERO).map_err(fail)? {
            let opened = app.open.is_some();
            match app.event(&event::read().map_err(fail)?) {
                Effect::Draw => {}
                Effect::Quit => return Ok(0),
                Effect::Run(words) => match start(globals, &words) {
                    Ok(child) => {
                        app.message = Some(format!("{} …", words[0]));
                        running.push((child, words[0].clone()));
                    }
                    Err(error) => app.message = Some(format!("{}: {error}", words[0])),
                },
            }
            if app.open.is_some() && !opened {
                look_into(&store, &watch, &mut app);
            }
        }
    }
    Ok(0)
}

/// Reads what only the view of one container shows.
fn look_into(store: &bulkhead_engine::store::Store, watch: &Watch, app: &mut App) {
    let Some(id) = app.selected.clone().filter(|_| app.open.is_some()) else { return };
    if let Ok(container) = container::find(store, &id) {
        app.detail = Detail::read(&container);
        (app.detail.events, app.detail.tracing) = watch.of(&id);
    }
}

fn start(globals: &Globals, words: &[String]) -> std::io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg("--root")
        .arg(&globals.root)
        .arg("--run-root")
        .arg(&globals.run_root)
        .args(["--cgroup-parent", &globals.cgroup_parent])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// Tells how the actions that have ended went.
fn reap(running: &mut Vec<(Child, String)>, app: &mut App) {
    use std::io::Read as _;
    running.retain_mut(|(child, verb)| match child.try_wait() {
        Ok(None) => true,
        Ok(Some(status)) if status.success() => {
            app.message = Some(format!("{verb}: done"));
            false
        }
        _ => {
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                let _ = stderr.read_to_string(&mut said);
            }
            let said: String = said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            app.message = Some(format!("{verb}: {said}"));
            false
        }
    });
}
