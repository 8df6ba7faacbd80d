//! `ps`.

use bulkhead_engine::container;
use bulkhead_engine::container::filter::Filters;
use bulkhead_engine::container::network::Everyone;
use bulkhead_engine::container::view::{ImageNames, sizes};
use jiff::Timestamp;
use serde_json::Value;

use super::{lifecycle, network, view};
use crate::cli::Globals;
use crate::cli::container::PsArgs;
use crate::failure::Failure;
use crate::output::list::{Listing, shows};
use crate::template::Template;

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

const RAW: &str = "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\n\
    state: {{- pad .State 1 0}}\nstatus: {{- pad .Status 1 0}}\nnames: {{.Names}}\nlabels: {{- pad .Labels 1 0}}\n\
    ports: {{- pad .Ports 1 0}}";

const PLAIN: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

/// Prints the list.
pub fn run(globals: &Globals, args: &PsArgs) -> Result<u8, Failure> {
    let store = lifecycle::store(globals)?;
    let _one_state = store.read().map_err(Failure::daemon)?;
    let mut found = container::list(&store).map_err(Failure::daemon)?;
    let filters = Filters::read(&store, &args.filter, &found).map_err(Failure::daemon)?;
    let last = args.last.filter(|n| *n > 0).or_else(|| args.latest.then_some(1));
    let all = args.all || last.is_some() || filters.any_state;
    found.retain(|container| (all || container.state.status.is_alive()) && filters.admit(container));
    if let Some(last) = last {
        found.truncate(usize::try_from(last).unwrap_or(usize::MAX));
    }

    let format = args.format.as_deref();
    // The whole of a row in JSON has its size, too.
    let sized =
        args.size || shows(format, ".Size") || shows(format, "json .}}") || shows(format, "json . }}");
    let raw = format!("{RAW}{}{{{{println}}}}", if args.size { "\nsize: {{.Size}}" } else { "" });
    let table = if args.size { format!("{PLAIN}\t{{{{.Size}}}}") } else { PLAIN.to_owned() };
    let listing = Listing { table: &table, titles: TITLES, type_name: "*formatter.ContainerContext" };
    let now = Timestamp::now();
    let mut names = ImageNames::default();
    // Like Docker, `-q` with a table is the ids; with a format of one's own the format wins.
    let format = match format {
        None | Some("table" | "") if args.quiet => Some("{{.ID}}"),
        Some("raw") if args.quiet => Some("container_id: {{.ID}}"),
        Some("raw") => Some(raw.as_str()),
        other => other,
    };
    let wants = |field: &str| match format {
        Some("{{.ID}}") => field == "ID",
        other => listing.wants(other, field),
    };
    let everyone = if wants("Ports") || wants("Networks") {
        Some(Everyone::read(&store).map_err(Failure::daemon)?)
    } else {
        None
    };
    let rows = found
        .iter()
        .map(|container| {
            let size = if sized { view::Size::of(sizes(&store, container)) } else { view::Size::Unasked };
            let nameless = if wants("Image") { names.nameless(&store, container) } else { None };
            let mut row = view::row(container, nameless, args.no_trunc, size, now, &wants);
            if let Some(everyone) = everyone.as_ref().filter(|_| container.state.status.is_alive()) {
                let (ports, networks) = network::columns(everyone, container);
                row.insert("Ports".to_owned(), ports.into());
                if !networks.is_empty() {
                    row.insert("Networks".to_owned(), networks.into());
                }
            }
            Value::Object(row)
        })
        .collect();
    listing.print(format, rows).map_err(|failure| worded(format, failure))
}

/// Docker's client tries the template of `ps` out by itself, to see whether it needs sizes, and words its errors so.
fn worded(format: Option<&str>, failure: Failure) -> Failure {
    let what = if format.is_some_and(|text| Template::parse(text).is_err()) { "parse" } else { "execute" };
    match failure.message.strip_prefix("template parsing error: ") {
        Some(why) => Failure::plain(format!("failed to {what} template: {why}")),
        None => failure,
    }
}
