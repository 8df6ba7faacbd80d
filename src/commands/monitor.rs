//! `monitor`: the internal verb that a starting command executes.

use bulkhead_engine::container::monitor;

use crate::cli::Globals;
use crate::cli::container::MonitorArgs;
use crate::failure::Failure;

/// `bulkhead monitor ID CONTROL LOCK`
pub fn run(globals: &Globals, args: &MonitorArgs) -> Result<u8, Failure> {
    monitor::main(globals.layout(), &args.id, args.control, args.lock)
        .map(|()| 0)
        .map_err(|error| Failure::new(125, error.to_string()))
}
