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
        text.as_deref()
            .filter(|text| !text.is_empty())
            .map(time::moment)
            .transpose()
            .map_err(Failure::plain_from)
    };
    // A negative number and what is no number mean all, as in Docker.
    let tail = args.tail.parse::<usize>().ok();
    let selection = Selection { tail, since: moment(&args.since)?, until: moment(&args.until)? };
    let until = selection.until;
    let store = store(globals)?;
    let found = container::find(&store, &args.container).map_err(Failure::daemon)?;
    if found.record.host_config.log_config.driver == "none" {
        return Err(Failure::daemon("configured logging driver does not support reading"));
    }
    let print = |entry: &Entry| -> io::Result<()> {
        let noted = if args.details { details(&entry.attrs) } else { String::new() };
        let time = if args.timestamps { format!("{} ", entry.time) } else { String::new() };
        let line = format!("{time}{noted}{}", entry.log);
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

/// What a log notes with each line, as Docker shows it: `KEY=VALUE,…` in the encoding of a query, and a space.
fn details(noted: &std::collections::BTreeMap<String, String>) -> String {
    use std::fmt::Write as _;
    let escaped = |text: &str| {
        text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
            if byte == b' ' {
                out.push('+');
            } else if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "%{byte:02X}");
            }
            out
        })
    };
    let pairs: Vec<String> =
        noted.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
    // Docker leaves the space where there is nothing to show, too.
    format!("{} ", pairs.join(","))
}
