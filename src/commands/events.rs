//! `events`: what happened and what happens, in Docker's words.

use std::io::{self, Write as _};

use bulkhead_engine::events::{self, Event, Reader, Watch, message};
use bulkhead_engine::filter;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::poll::PollTimeout;
use serde_json::{Value, json};

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::system::EventsArgs;
use crate::failure::Failure;
use crate::output::list::Listing;
use crate::template::Template;

/// `bulkhead events`
pub fn run(globals: &Globals, args: &EventsArgs) -> Result<u8, Failure> {
    let period = filter::period(args.since.as_deref(), args.until.as_deref());
    let (since, until) = period.map_err(|error| match error {
        filter::Error::Moment(error) => Failure::plain_from(error),
        other => Failure::daemon(other),
    })?;
    if let Some(format) = args.format.as_deref() {
        // Refused at once, and not at the first event.
        Template::parse(format)
            .map_err(|error| Failure::new(64, format!("Error parsing format: {error}")))?;
    }
    events::check(&args.filter).map_err(Failure::daemon)?;
    let store = store(globals)?;
    let layout = store.layout().clone();
    drop(store);
    let failed = |error: io::Error| Failure::plain(format!("bulkhead: events: {error}"));
    // Before the first look at the log, so that nothing falls in between.
    let watch = Watch::new(&layout).map_err(failed)?;
    let from = since.map_or(i64::MIN, nanoseconds);
    let to = until.map_or(i64::MAX, nanoseconds);
    // Without a beginning it is about what is still to come, an end or not.
    let (mut found, mut reader) = match since {
        None => (Vec::new(), Reader::from_now(&layout).map_err(failed)?),
        Some(_) => Reader::from_start(&layout).map_err(failed)?,
    };
    loop {
        found.extend(reader.more().map_err(failed)?);
        for event in found.drain(..) {
            if event.time > to {
                return Ok(0);
            }
            if event.time >= from
                && events::admits(&event, &args.filter)
                && !show(&event, args.format.as_deref())?
            {
                return Ok(0);
            }
        }
        let left = match until {
            None => PollTimeout::NONE,
            Some(until) => {
                let left = until.duration_since(Timestamp::now());
                if left.is_negative() || left.is_zero() {
                    return Ok(0);
                }
                PollTimeout::try_from(left.as_millis().clamp(1, 60_000)).unwrap_or(PollTimeout::MAX)
            }
        };
        watch.wait(left).map_err(failed)?;
    }
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

/// Prints one event; false when nobody reads any more.
fn show(event: &Event, format: Option<&str>) -> Result<bool, Failure> {
    let text = match format {
        None | Some("") => line(event),
        Some(format) => {
            let listing = Listing { table: "", titles: &[], type_name: "*events.Message" };
            let whole = matches!(format.trim(), "json" | "{{json .}}" | "{{ json . }}");
            let row = if whole { message(event) } else { fields(event) };
            listing.render(Some(format), vec![row])?
        }
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::stdout(&error)),
    }
}

/// `2026-11-25T23:00:00.000000000Z container start 0123… (image=busybox, name=web)`
fn line(event: &Event) -> String {
    let time = Timestamp::from_nanosecond(event.time.into()).unwrap_or_default();
    let local = time.to_zoned(TimeZone::system());
    let zone = if local.offset().is_zero() { "Z".to_owned() } else { local.strftime("%:z").to_string() };
    let attributes: Vec<String> =
        event.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let attributes =
        if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    let (kind, action, id) = (event.kind.as_str(), &event.action, &event.id);
    let text = format!("{}{zone} {kind} {action} {id}{attributes}", local.strftime("%Y-%m-%dT%H:%M:%S.%9f"));
    // A label or a command line may hold what would move a terminal's cursor.
    let mut shown: String =
        text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    shown.push('\n');
    shown
}

/// What Docker's API has of it, under the names that templates use.
fn fields(event: &Event) -> Value {
    let message = message(event);
    let or_empty = |name: &str| message.get(name).cloned().unwrap_or_else(|| json!(""));
    json!({
        "Status": or_empty("status"),
        "ID": or_empty("id"),
        "From": or_empty("from"),
        "Type": message["Type"],
        "Action": message["Action"],
        "Actor": message["Actor"],
        "Scope": message["scope"],
        "Time": message["time"],
        "TimeNano": message["timeNano"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_engine::events::Kind;

    fn event() -> Event {
        Event {
            time: 1_700_000_000_123_456_789,
            kind: Kind::Container,
            action: "exec_create: sh -c x".to_owned(),
            id: "0123abc".to_owned(),
            attributes: [("image", "busybox:1"), ("name", "web"), ("tier", "a\u{1b}b")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        }
    }

    #[test]
    fn an_attribute_that_an_event_lacks_ends_nothing() {
        let listing = Listing { table: "", titles: &[], type_name: "*events.Message" };
        let format = "{{.Action}} [{{.Actor.Attributes.exitCode}}] {{.Actor.Attributes.name}}";
        let shown = listing.render(Some(format), vec![fields(&event())]);
        assert_eq!(shown.as_deref(), Ok("exec_create: sh -c x [<no value>] web\n"));
    }

    #[test]
    fn a_line_is_dockers_and_moves_no_cursor() {
        let line = line(&event());
        assert!(
            line.ends_with(
                " container exec_create: sh -c x 0123abc (image=busybox:1, name=web, tier=a\u{fffd}b)\n"
            ),
            "{line}"
        );
    }
}
