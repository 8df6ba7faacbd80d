//! `attach`.

use bulkhead_engine::container::{self, Status, protocol::Request};

use super::lifecycle::{detach_keys, finish, forward_signal, hold_signals, store};
use crate::attach::{RawMode, Session};
use crate::cli::Globals;
use crate::cli::container::AttachArgs;
use crate::failure::Failure;

/// `bulkhead attach`
pub fn run(globals: &Globals, args: &AttachArgs) -> Result<u8, Failure> {
    let keys = detach_keys(args.detach_keys.as_deref())?;
    let store = store(globals)?;
    let found = container::find(&store, &args.container).map_err(Failure::daemon)?;
    match found.state.status {
        Status::Running => {}
        Status::Paused => {
            return Err(Failure::plain("You cannot attach to a paused container, unpause it first"));
        }
        Status::Restarting => {
            return Err(Failure::plain(
                "You cannot attach to a restarting container, wait until it is running",
            ));
        }
        _ => return Err(Failure::plain("You cannot attach to a stopped container, start it first")),
    }
    let config = &found.record.config;
    let stdin = config.open_stdin && !args.no_stdin;
    if config.tty && stdin && !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(Failure::plain("the input device is not a TTY"));
    }
    hold_signals(args.sig_proxy && !config.tty)?;
    let attach = Request::Attach { stdin, output: true };
    let handle = container::attach::connect(&store, &found, &attach).map_err(Failure::daemon)?;
    let layout = store.layout().clone();
    found.event("attach").tell(&layout);
    drop(store);
    let raw = (config.tty && stdin).then(RawMode::enter);
    let mut forward = |signal: i32| forward_signal(layout.clone(), &found.id, signal);
    let mut session = Session {
        stdin,
        stdout: true,
        stderr: true,
        tty: config.tty,
        on_signal: (args.sig_proxy && !config.tty).then_some(&mut forward as &mut dyn FnMut(i32)),
        detach_keys: &keys,
    };
    let outcome = session.serve(&handle);
    drop(raw);
    finish(outcome, &layout, &found.id)
}
