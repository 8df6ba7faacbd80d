//! `logs`.

use std::io::{self, Write};
use std::time::Duration;

use bulkhead_engine::container::log::{Entry, Reader, Selection, Stream};
use bulkhead_engine::container::{self, Error};
use jiff::Timestamp;

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::container::LogsArgs;
use crate::failure::Failure;
use bulkhead_engine::time;

/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(50);

/// `bulkhead logs`
pub fn run(globals: &Globals, args: &LogsArgs) -> Result<u8, Failure> {
    let moment = |text: &Option<String>| -> Result<Option<Timestamp>, Failure> {
        text.as_deref().map(time::moment).transpose().map_err(Failure::plain_from)
    };
    let tail = match args.tail.as_str() {
        "all" => None,
        text => match text.parse::<i64>() {
            // A negative number means all, as in Docker.
            Ok(count) => usize::try_from(count).ok(),
            Err(_) => return Err(Failure::plain(format!("invalid value for \"tail\": {text:?}"))),
        },
    };
    let selection = Selection { tail, since: moment(&args.since)?, until: moment(&args.until)? };
    let until = selection.until;
    let store = store(globals)?;
    let found = container::find(&store, &args.container).map_err(Failure::daemon)?;
    if found.record.host_config.log_config.driver == "none" {
        return Err(Failure::daemon("configured logging driver does not support reading"));
    }
    let print = |entry: &Entry| -> io::Result<()> {
        let line = if args.timestamps { format!("{} {}", entry.time, entry.log) } else { entry.log.clone() };
        match entry.stream {
            Stream::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(line.as_bytes())?;
                if args.follow { out.flush() } else { Ok(()) }
            }
            Stream::Stderr => io::stderr().write_all(line.as_bytes()),
        }
    };
    let mut reader = Reader::new(found.log_path(store.layout()), selection);
    let failed = |error: io::Error| Failure::stdout(&error);
    reader.read_existing(print).map_err(failed)?;
    while args.follow && until.is_none_or(|until| Timestamp::now() < until) {
        // Whether it runs is asked before the last look, so that its last words are not missed.
        let running = match container::find(&store, &found.id) {
            Ok(now) => now.state.status.is_alive(),
            Err(Error::NoSuchContainer(_)) => false,
            Err(error) => return Err(Failure::daemon(error)),
        };
        reader.read_new(print).map_err(failed)?;
        if !running {
            break;
        }
        std::thread::sleep(FOLLOW);
    }
    io::stdout().flush().map_err(failed)?;
    Ok(0)
}
