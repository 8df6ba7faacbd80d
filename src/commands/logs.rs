//! `logs`.

use std::io::{self, Write as _};

use bulkhead_engine::container;
use bulkhead_engine::container::follow::{self, Listener};
use bulkhead_engine::container::log::{Entry, Selection, Stream};
use jiff::Timestamp;

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::container::LogsArgs;
use crate::failure::Failure;
use bulkhead_engine::time;

/// `bulkhead logs`
pub fn run(globals: &Globals, args: &LogsArgs) -> Result<u8, Failure> {
    let moment = |text: &Option<String>| -> Result<Option<Timestamp>, Failure> {
        text.as_deref()
            .filter(|text| !text.is_empty())
            .map(time::moment)
            .transpose()
            .map_err(Failure::plain_from)
    };
    // A negative number and what is no number mean all, as in Docker.
    let tail = args.tail.parse::<usize>().ok();
    let selection = Selection { tail, since: moment(&args.since)?, until: moment(&args.until)? };
    let store = store(globals)?;
    let found = container::find(&store, &args.container).map_err(Failure::daemon)?;
    if found.record.host_config.log_config.driver == "none" {
        return Err(Failure::daemon("configured logging driver does not support reading"));
    }
    let mut printer = Printer { details: args.details, timestamps: args.timestamps };
    let log = follow::Log::open(&store, &found, selection, args.follow);
    match log.and_then(|log| log.tell(&store, &mut printer)) {
        Ok(()) => Ok(0),
        Err(follow::Error::Log(error)) => Err(Failure::stdout(&error)),
        Err(follow::Error::Container(error)) => Err(Failure::daemon(error)),
    }
}

struct Printer {
    details: bool,
    timestamps: bool,
}

impl Listener for Printer {
    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let noted = if self.details { entry.details() } else { String::new() };
        let time = if self.timestamps { format!("{} ", entry.time) } else { String::new() };
        let line = format!("{time}{noted}{}", entry.log);
        match entry.stream {
            Stream::Stdout => io::stdout().write_all(line.as_bytes()),
            Stream::Stderr => io::stderr().write_all(line.as_bytes()),
        }
    }

    fn pause(&mut self) -> io::Result<bool> {
        io::stdout().flush().map(|()| true)
    }
}
