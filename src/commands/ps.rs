//! `ps`.

use std::collections::HashMap;

use bulkhead_engine::container::network::Everyone;
use bulkhead_engine::container::{self, Container, Status};
use bulkhead_engine::digest::Digest;
use bulkhead_engine::layer;
use bulkhead_engine::store::Store;
use jiff::Timestamp;

use super::{lifecycle, network, view};
use crate::cli::Globals;
use crate::cli::container::PsArgs;
use crate::failure::Failure;
use crate::output::list::{Listing, shows};

/// Titles of the columns.
pub const TITLES: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];

const PLAIN: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

/// Prints the list.
pub fn run(globals: &Globals, args: &PsArgs) -> Result<u8, Failure> {
    let store = lifecycle::store(globals)?;
    let _one_state = store.read().map_err(Failure::daemon)?;
    let mut found = container::list(&store).map_err(Failure::daemon)?;
    let filters = Filters::parse(&args.filter, &found)?;
    let last = args.last.filter(|n| *n > 0).or_else(|| args.latest.then_some(1));
    let all = args.all || last.is_some() || filters.any_state;
    found.retain(|container| (all || container.state.status.is_alive()) && filters.admit(container));
    if let Some(last) = last {
        found.truncate(usize::try_from(last).unwrap_or(usize::MAX));
    }

    let format = args.format.as_deref();
    let sized = args.size || shows(format, ".Size");
    let table = if args.size { format!("{PLAIN}\t{{{{.Size}}}}") } else { PLAIN.to_owned() };
    let listing = Listing { table: &table, titles: TITLES, type_name: "*formatter.ContainerContext" };
    let now = Timestamp::now();
    let everyone = Everyone::read(&store).map_err(Failure::daemon)?;
    let mut names = Names::default();
    let rows = found
        .iter()
        .map(|container| {
            let size = if sized { Some(sizes(&store, container)) } else { None };
            let mut row = view::row(container, args.no_trunc, size, now);
            if let Some(id) =
                container.image.filter(|id| !names.still(&store, &container.record.config.image, *id))
            {
                row["Image"] = if args.no_trunc { id.to_string() } else { id.short() }.into();
            }
            if container.state.status.is_alive() {
                let (ports, networks) = network::columns(&everyone, container);
                row["Ports"] = ports.into();
                if !networks.is_empty() {
                    row["Networks"] = networks.into();
                }
            }
            row
        })
        .collect();
    // Like Docker, `-q` with a table is the ids; with a format of one's own the format wins.
    let format = match format {
        None | Some("table" | "") if args.quiet => Some("{{.ID}}"),
        other => other,
    };
    listing.print(format, rows)
}

/// What images' names stand for, each looked up once.
#[derive(Default)]
struct Names(HashMap<String, Option<Digest>>);

impl Names {
    /// Whether a name that a container was made from is still its image's: a tag may have moved on since.
    fn still(&mut self, store: &Store, name: &str, id: Digest) -> bool {
        let found = |name: &String| bulkhead_engine::image::find(store, name).ok().map(|image| image.id);
        *self.0.entry(name.to_owned()).or_insert_with_key(found) == Some(id)
    }
}

/// Bytes of the writable layer, and of it with the layers below.
pub fn sizes(store: &Store, container: &Container) -> (u64, u64) {
    let own = layer::disk_usage(&container.dir(store.layout()).join("upper")).map_or(0, |usage| usage.bytes);
    let image = container.image.and_then(|id| bulkhead_engine::image::get(store, &id).ok().flatten());
    let below = image.map_or(0, |image| image.size);
    (own, own + below)
}

/// What `--filter` says: different names are all to hold, of values of one name any (but of labels all).
struct Filters<'a> {
    given: &'a [(String, String)],
    before: Option<String>,
    since: Option<String>,
    /// A state is asked for, so that stopped ones are looked at too.
    any_state: bool,
}

impl<'a> Filters<'a> {
    fn parse(given: &'a [(String, String)], all: &[Container]) -> Result<Self, Failure> {
        let mut filters = Self { given, before: None, since: None, any_state: false };
        let created = |name: &str| {
            all.iter()
                .find(|c| {
                    c.name == name.trim_start_matches('/') || (name.len() >= 3 && c.id.starts_with(name))
                })
                .map(|container| container.created.clone())
                .ok_or_else(|| Failure::daemon(format!("No such container: {name}")))
        };
        for (name, value) in given {
            match name.as_str() {
                "status" => {
                    if !matches!(
                        value.as_str(),
                        "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead"
                    ) {
                        return Err(Failure::daemon(format!("invalid filter 'status={value}'")));
                    }
                    filters.any_state = true;
                }
                "exited" if value.parse::<i32>().is_err() => {
                    return Err(Failure::daemon(format!("invalid filter 'exited={value}'")));
                }
                "health" if !matches!(value.as_str(), "none" | "starting" | "healthy" | "unhealthy") => {
                    return Err(Failure::daemon(format!("unrecognised filter value for health: {value}")));
                }
                "before" => filters.before = Some(created(value)?),
                "since" => filters.since = Some(created(value)?),
                "id" | "name" | "label" | "exited" | "health" | "ancestor" | "network" | "volume"
                | "expose" | "publish" | "is-task" => {}
                other => return Err(Failure::daemon(format!("invalid filter '{other}'"))),
            }
        }
        Ok(filters)
    }

    fn any(&self, name: &str, mut holds: impl FnMut(&str) -> bool) -> bool {
        let mut values = self.given.iter().filter(|(given, _)| given == name).peekable();
        values.peek().is_none() || values.any(|(_, value)| holds(value))
    }

    fn admit(&self, container: &Container) -> bool {
        let record = &container.record;
        let labels = &record.config.labels;
        let health = container.state.health.as_ref().map_or("none", |health| health.status.as_str());
        let image = &record.config.image;
        let image_id = container.image.map(|id| id.hex()).unwrap_or_default();
        self.before.as_ref().is_none_or(|moment| container.created < *moment)
            && self.since.as_ref().is_none_or(|moment| container.created > *moment)
            && self.any("id", |value| container.id.starts_with(value))
            && self.any("name", |value| name_matches(&container.name, value))
            && self
                .given
                .iter()
                .filter(|(name, _)| name == "label")
                .all(|(_, value)| label_holds(labels, value))
            && self.any("exited", |value| {
                container.state.status == Status::Exited && value.parse() == Ok(container.state.exit_code)
            })
            && self.any("status", |value| container.state.status.as_str() == value)
            && self.any("health", |value| health == value)
            && self.any("ancestor", |value| {
                let bare = value.strip_prefix("sha256:").unwrap_or(value);
                image == value
                    || image.strip_suffix(":latest") == Some(value)
                    || value.strip_suffix(":latest") == Some(image)
                    || (bare.len() >= 4 && image_id.starts_with(bare))
            })
            && self.any("network", |value| view::network(&record.host_config) == value)
            && self.any("volume", |value| {
                record.mounts.iter().any(|m| m.name == value || m.source == value || m.destination == value)
            })
            && self.any("expose", |value| {
                let ports = record.config.exposed_ports.as_ref();
                let wanted = if value.contains('/') { value.to_owned() } else { format!("{value}/tcp") };
                ports.is_some_and(|ports| ports.contains_key(&wanted))
            })
            && self.any("publish", |value| {
                let wanted = if value.contains('/') { value.to_owned() } else { format!("{value}/tcp") };
                record.host_config.port_bindings.contains_key(&wanted)
            })
            && self.any("is-task", |value| matches!(value, "false" | "0"))
    }
}

/// `KEY` is there, or `KEY=VALUE` is.
pub fn label_holds(labels: &std::collections::BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
        None => labels.contains_key(wanted),
    }
}

/// A name's filter: a part of it, with `^` and `$` for its ends, as scripts write them.
pub fn name_matches(name: &str, pattern: &str) -> bool {
    let (start, pattern) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (end, pattern) = match pattern.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    match (start, end) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_engine::container::{Record, State};

    fn container(name: &str, status: Status, exit_code: i32) -> Container {
        let mut record = Record::default();
        record.config.image = "alpine".into();
        record.config.labels = [("tier".into(), "web".into())].into();
        record.host_config.network_mode = "default".into();
        Container {
            id: format!("{:0<64}", hexish(name)),
            name: name.into(),
            image: None,
            created: format!("2026-01-01T00:00:0{exit_code}Z"),
            record,
            state: State { status, exit_code, ..State::default() },
        }
    }

    fn hexish(name: &str) -> String {
        name.bytes().map(|byte| char::from(b'a' + byte % 6)).collect()
    }

    #[test]
    fn filters() {
        let all = [
            container("alpha", Status::Running, 0),
            container("beta", Status::Exited, 1),
            container("gamma", Status::Created, 2),
        ];
        let names = |given: &[(&str, &str)]| {
            let given: Vec<(String, String)> =
                given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let filters = Filters::parse(&given, &all).map_err(|failure| failure.message)?;
            Ok::<_, String>(
                all.iter().filter(|c| filters.admit(c)).map(|c| c.name.as_str()).collect::<Vec<_>>(),
            )
        };
        for (given, want) in [
            (&[][..], &["alpha", "beta", "gamma"][..]),
            (&[("name", "a")], &["alpha", "beta", "gamma"]),
            (&[("name", "^be")], &["beta"]),
            (&[("name", "^/alpha$")], &["alpha"]),
            (&[("status", "exited"), ("status", "created")], &["beta", "gamma"]),
            (&[("exited", "1")], &["beta"]),
            (&[("label", "tier=web"), ("label", "tier")], &["alpha", "beta", "gamma"]),
            (&[("label", "tier=db")], &[]),
            (&[("before", "beta")], &["alpha"]),
            (&[("since", "beta")], &["gamma"]),
            (&[("ancestor", "alpine:latest")], &["alpha", "beta", "gamma"]),
            (&[("ancestor", "busybox")], &[]),
            (&[("network", "bridge"), ("status", "running")], &["alpha"]),
            (&[("health", "none")], &["alpha", "beta", "gamma"]),
        ] {
            assert_eq!(names(given), Ok(want.to_vec()), "{given:?}");
        }
        for (given, want) in [
            (("foo", "x"), "Error response from daemon: invalid filter 'foo'"),
            (("status", "x"), "Error response from daemon: invalid filter 'status=x'"),
            (("before", "nobody"), "Error response from daemon: No such container: nobody"),
        ] {
            assert_eq!(names(&[given]), Err(want.to_owned()));
        }
    }
}
