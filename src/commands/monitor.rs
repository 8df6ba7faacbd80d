//! `monitor` and `exec-session`: the internal verbs that hold a container and an exec.

use bulkhead_engine::container::{monitor, session as held};

use crate::cli::Globals;
use crate::cli::container::{MonitorArgs, SessionArgs};
use crate::failure::Failure;

/// `bulkhead monitor ID CONTROL LOCK`
pub fn run(globals: &Globals, args: &MonitorArgs) -> Result<u8, Failure> {
    monitor::main(globals.layout(), &args.id, args.control, args.lock)
        .map(|()| 0)
        .map_err(|error| Failure::new(125, error.to_string()))
}

/// `bulkhead exec-session CONTROL`
pub fn session(globals: &Globals, args: &SessionArgs) -> Result<u8, Failure> {
    held::main(globals.layout(), args.control)
        .map(|()| 0)
        .map_err(|error| Failure::new(125, error.to_string()))
}
