//! `events`: what happened and what happens, in Docker's words.

use std::io::{self, Write as _};

use bulkhead_engine::events::{Event, Kind, Reader, Watch};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::poll::PollTimeout;
use serde_json::{Value, json};

use super::lifecycle::store;
use super::ps::label_holds;
use crate::cli::Globals;
use crate::cli::system::EventsArgs;
use crate::failure::Failure;
use crate::options::time;
use crate::output::list::Listing;

const KEYS: &[&str] =
    &["container", "daemon", "event", "image", "label", "network", "scope", "type", "volume"];

/// `bulkhead events`
pub fn run(globals: &Globals, args: &EventsArgs) -> Result<u8, Failure> {
    let moment =
        |text: &Option<String>| text.as_deref().map(time::moment).transpose().map_err(Failure::plain);
    let (since, until) = (moment(&args.since)?, moment(&args.until)?);
    if let Some((key, _)) = args.filter.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(Failure::daemon(format!("invalid filter '{key}'")));
    }
    let store = store(globals)?;
    let layout = store.layout().clone();
    drop(store);
    let failed = |error: io::Error| Failure::plain(format!("bulkhead: events: {error}"));
    // Before the first look at the log, so that nothing falls in between.
    let watch = Watch::new(&layout).map_err(failed)?;
    let from = since.map_or(i64::MIN, nanoseconds);
    let to = until.map_or(i64::MAX, nanoseconds);
    // Without a beginning it is about what is still to come, an end or not.
    let (mut events, mut reader) = match since {
        None => (Vec::new(), Reader::from_now(&layout).map_err(failed)?),
        Some(_) => Reader::from_start(&layout).map_err(failed)?,
    };
    loop {
        events.extend(reader.more().map_err(failed)?);
        for event in events.drain(..) {
            if event.time > to {
                return Ok(0);
            }
            if event.time >= from && admits(&event, &args.filter) && !show(&event, args.format.as_deref())? {
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

/// Any value of one key, every key; of labels every one.
fn admits(event: &Event, filters: &[(String, String)]) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let is_image = |name: &str, wanted: &str| {
        name == wanted
            || name.strip_suffix(":latest") == Some(wanted)
            || name.split(':').next() == Some(wanted)
    };
    let fits = |key: &str, wanted: &str| match (key, event.kind) {
        ("container", Kind::Container) | ("network", Kind::Network) | ("volume", Kind::Volume) => {
            event.id.starts_with(wanted) || attribute("name") == wanted
        }
        ("container", Kind::Network | Kind::Volume) => {
            attribute("container").starts_with(wanted) && !wanted.is_empty()
        }
        ("event", _) => {
            event.action == wanted
                || event.action.split_once(": ").is_some_and(|(action, _)| action == wanted)
        }
        ("image", Kind::Image) => event.id == wanted || is_image(attribute("name"), wanted),
        ("image", Kind::Container) => is_image(attribute("image"), wanted),
        ("label", _) => label_holds(&event.attributes, wanted),
        ("scope", _) => wanted == "local",
        ("type", _) => event.kind.as_str() == wanted,
        _ => false,
    };
    filters.iter().all(|(key, value)| {
        if key == "label" {
            fits(key, value)
        } else {
            filters.iter().any(|(other, value)| other == key && fits(key, value))
        }
    })
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

/// The fields that Docker's API has.
fn message(event: &Event) -> Value {
    let mut message = json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time.div_euclid(1_000_000_000),
        "timeNano": event.time,
    });
    // What it had before there were types, and scripts still read.
    if !matches!(event.kind, Kind::Network | Kind::Volume) {
        message["status"] = json!(event.action);
        message["id"] = json!(event.id);
    }
    if event.kind == Kind::Container {
        message["from"] = json!(event.attributes.get("image"));
    }
    message
}

/// The same, under the names that templates use.
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
    fn a_line_is_dockers_and_moves_no_cursor() {
        let line = line(&event());
        assert!(
            line.ends_with(
                " container exec_create: sh -c x 0123abc (image=busybox:1, name=web, tier=a\u{fffd}b)\n"
            ),
            "{line}"
        );
    }

    #[test]
    fn filters_are_or_within_a_key_and_and_between_keys() {
        let admits = |filters: &[(&str, &str)]| {
            let filters: Vec<_> = filters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            super::admits(&event(), &filters)
        };
        assert!(admits(&[]));
        assert!(admits(&[("container", "web"), ("container", "other"), ("type", "container")]));
        assert!(admits(&[("container", "0123"), ("event", "exec_create"), ("image", "busybox")]));
        assert!(!admits(&[("container", "web"), ("type", "image")]));
        assert!(!admits(&[("label", "tier"), ("label", "absent")]));
        assert!(admits(&[("label", "name=web")]));
        assert!(!admits(&[("network", "web")]));
    }

    #[test]
    fn json_has_the_old_fields_as_well() {
        let message = message(&event());
        assert_eq!(message["status"], message["Action"]);
        assert_eq!(
            (&message["time"], &message["timeNano"]),
            (&json!(1_700_000_000), &json!(1_700_000_000_123_456_789_i64))
        );
        assert_eq!(message["Actor"]["Attributes"]["name"], "web");
        assert_eq!(message["from"], "busybox:1");
    }
}
