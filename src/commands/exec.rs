//! `exec`.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use bulkhead_engine::container::attach::Keys;
use bulkhead_engine::container::spec::ExecOptions;
use bulkhead_engine::container::{self, Error, InvalidConfig, exec, recover};
use bulkhead_engine::runtime::{WindowSize, resize};
use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::lifecycle::detach_keys;
use crate::attach::{RawMode, window_size};
use crate::cli::Globals;
use crate::cli::container::ExecArgs;
use crate::failure::Failure;
use crate::options::env;

/// `bulkhead exec`
pub fn run(globals: &Globals, args: &ExecArgs) -> Result<u8, Failure> {
    let keys = detach_keys(args.detach_keys.as_deref())?;
    if args.tty && args.interactive && !args.detach && !io::stdin().is_terminal() {
        return Err(Failure::plain("the input device is not a TTY"));
    }
    exec::protect().map_err(Failure::daemon)?;
    let mut store = globals.store()?;
    let Some((name, command)) = args.container_and_command.split_first() else {
        return Err(Failure::plain("\"bulkhead exec\" requires at least 2 arguments."));
    };
    let variables = env::gather(&args.env_file, &args.env, &env::lookup)
        .map_err(|error| Failure::plain(error.to_string()))?;
    let options = ExecOptions {
        args: command.to_vec(),
        env: variables,
        working_dir: args.workdir.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        tty: args.tty,
        privileged: args.privileged,
        size: args.tty.then(window_size).flatten(),
    };
    let mut found = container::find(&store, name).map_err(Failure::daemon)?;
    if recover::recover_one(&mut store, &found).map_err(Failure::daemon)? {
        found = container::find(&store, name).map_err(Failure::daemon)?;
    }
    let layout = store.layout().clone();
    let tell = |what: &str| found.event(format!("{what}: {}", command.join(" "))).tell(&layout);
    tell("exec_create");
    let mut running = match exec::start(&store, &found, &options, args.interactive, args.detach) {
        Ok(running) => running,
        Err(Error::Runtime(error)) => {
            let code = error.exit_code();
            return Err(Failure::new(
                code,
                format!("OCI runtime exec failed: exec failed: unable to start container process: {error}"),
            ));
        }
        Err(error @ Error::Invalid(InvalidConfig::UnknownUser { .. })) => {
            return Err(Failure { code: 126, ..Failure::daemon(error) });
        }
        Err(error) => return Err(Failure::daemon(error)),
    };
    drop(store);
    tell("exec_start");
    for warning in &running.warnings {
        let _ = writeln!(io::stderr(), "WARNING: {warning}");
    }
    if args.detach {
        return Ok(0);
    }
    let raw = (args.tty && args.interactive).then(RawMode::enter);
    let code = relay(&mut running, args, &keys);
    drop(raw);
    let code = code.map_err(|error| Failure::plain(format!("bulkhead: exec: {error}")))?;
    found.event("exec_die").with("exitCode", &code).tell(&layout);
    Ok(code as u8)
}

/// Moves bytes until the process has ended and its output is empty.
fn relay(running: &mut exec::Running, args: &ExecArgs, keys: &[u8]) -> io::Result<i32> {
    let resizes = if args.tty {
        let mut set = SigSet::empty();
        set.add(Signal::SIGWINCH);
        set.thread_block()?;
        fit(running);
        Some(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
    } else {
        None
    };
    let stdin = io::stdin();
    let mut listening = args.interactive;
    let mut keys = Keys::new(if args.tty { keys } else { &[] });
    let mut pending: Vec<u8> = Vec::new();
    let mut code = None;
    let mut buffer = vec![0_u8; 32 * 1024];
    if let Some(input) = &running.input {
        nix::fcntl::fcntl(input, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    }
    loop {
        let typed = (listening && pending.is_empty()).then(|| stdin.as_fd());
        let resized = resizes.as_ref().map(SignalFd::as_fd);
        let [end, output, error, input] = running.sources(args.tty, code.is_some(), !pending.is_empty());
        let (typed, resized) = ((typed, PollFlags::POLLIN), (resized, PollFlags::POLLIN));
        let sources = [end, output, error, input, typed, resized];
        // A process that ended may have left children that hold its output open; Docker waits for the
        // output, and so does this, until nothing more is there to read.
        let patience = if code.is_some() { PollTimeout::ZERO } else { PollTimeout::NONE };
        let Some(ready) = exec::ready(sources, patience)? else { continue };
        if ready[1] {
            let source = if args.tty { &mut running.input } else { &mut running.output };
            if !pass(source, &mut buffer, &mut io::stdout().lock()) && args.tty {
                listening = false;
            }
        }
        if ready[2] {
            pass(&mut running.error, &mut buffer, &mut io::stderr());
        }
        if ready[4] {
            match nix::unistd::read(&stdin, &mut buffer) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) | Err(_) => {
                    listening = false;
                    if !args.tty {
                        running.input = None;
                    }
                }
                Ok(length) => match keys.pass(&buffer[..length]) {
                    Some(data) => pending = data,
                    None => return Ok(0),
                },
            }
        }
        if !pending.is_empty()
            && let Some(input) = &running.input
        {
            match nix::unistd::write(input, &pending) {
                Ok(written) => drop(pending.drain(..written)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => {
                    pending.clear();
                    listening = false;
                    if !args.tty {
                        running.input = None;
                    }
                }
            }
        }
        if ready[5] {
            while let Some(Ok(Some(_))) = resizes.as_ref().map(SignalFd::read_signal) {}
            fit(running);
        }
        if ready[0] {
            code = Some(exec::exit_code(&running.pidfd)?);
            continue;
        }
        if let Some(code) = code
            && !ready[1]
            && !ready[2]
        {
            return Ok(code);
        }
    }
}

/// Gives the process's terminal the size of ours.
fn fit(running: &exec::Running) {
    if let (Some(console), Some((rows, columns))) = (&running.input, window_size()) {
        let _ = resize(console, WindowSize { rows, columns });
    }
}

/// Copies what is there; closes the source at its end. Returns whether it is still open.
fn pass(source: &mut Option<OwnedFd>, buffer: &mut [u8], sink: &mut dyn io::Write) -> bool {
    if let Some(length) = exec::take(source, buffer) {
        // A reader that is gone ends the output, not the process.
        let _ = sink.write_all(&buffer[..length]).and_then(|()| sink.flush());
    }
    source.is_some()
}
