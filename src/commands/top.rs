//! `top CONTAINER`: its processes.

use bulkhead_engine::container::{self, processes};

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::container::TopArgs;
use crate::failure::Failure;
use crate::output::{raw, table};

/// `bulkhead top`
pub fn run(globals: &Globals, args: &TopArgs) -> Result<u8, Failure> {
    let Some((name, options)) = args.container_and_options.split_first() else {
        return Err(Failure::plain("\"bulkhead top\" requires at least 1 argument."));
    };
    let store = store(globals)?;
    let found = container::find(&store, name).map_err(Failure::daemon)?;
    let listing = processes::list(&found, options).map_err(Failure::daemon)?;
    let mut text = String::new();
    for line in std::iter::once(&listing.titles).chain(&listing.rows) {
        text.push_str(&line.join("\t"));
        text.push('\n');
    }
    raw(table::columns(&text, 20).as_bytes())
}
