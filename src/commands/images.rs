//! `images`, `history`, `image prune`: what is in the store.

use bulkhead_engine::container;
use bulkhead_engine::image::filter::{Named, created, filters, layer_size, matches_name, names};
use bulkhead_engine::image::{self, Image, filter};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::lifecycle::store;
use super::prune;
use crate::cli::Globals;
use crate::cli::image::{HistoryArgs, ImagePruneArgs, ImagesArgs};
use crate::failure::Failure;
use crate::output::list::{Listing, shows};
use crate::output::{human, line};

pub const TITLES: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

/// A line of `images`, as its templates see it.
fn row(named: &Named<'_>, full: bool, containers: Option<usize>, now: Timestamp) -> Value {
    let image = named.image;
    let moment = image.created.as_deref().unwrap_or("");
    let since = if created(image).is_some() {
        format!("{} ago", human::duration(human::since(moment, now)))
    } else {
        "N/A".to_owned()
    };
    let size = human::size(image.size);
    json!({
        "Containers": containers.map_or_else(|| "N/A".to_owned(), |count| count.to_string()),
        "CreatedAt": human::local(moment),
        "CreatedSince": since,
        "Digest": named.digest,
        "ID": if full { image.id.to_string() } else { image.id.short() },
        "Repository": named.repository,
        "SharedSize": "N/A",
        "Size": size,
        "Tag": named.tag,
        "UniqueSize": "N/A",
        "VirtualSize": human::size4(image.size),
    })
}

/// One row for each of an image's names, with how many containers are made from it.
pub fn rows(image: &Image, containers: usize, now: Timestamp) -> Vec<Value> {
    names(image).iter().map(|named| row(named, false, Some(containers), now)).collect()
}

/// `bulkhead images`
pub fn run(globals: &Globals, args: &ImagesArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    let filters = filters(&store, &args.filter).map_err(Failure::daemon)?;
    let images = image::list(&store).map_err(Failure::daemon)?;
    let format = args.format.as_deref();
    let used: Option<Vec<_>> = if shows(format, ".Containers") {
        let containers = container::list(&store).map_err(Failure::daemon)?;
        Some(containers.into_iter().filter_map(|container| container.image).collect())
    } else {
        None
    };
    let now = Timestamp::now();
    let mut rows = Vec::new();
    let mut ids = Vec::new();
    for image in images.iter().filter(|image| filters.admit(image)) {
        let containers = used.as_ref().map(|used| used.iter().filter(|id| **id == image.id).count());
        for named in names(image) {
            if filters.admit_name(&named)
                && args.repository.as_deref().is_none_or(|wanted| matches_name(wanted, &named))
            {
                let row = row(&named, args.no_trunc, containers, now);
                ids.push(row["ID"].as_str().unwrap_or_default().to_owned());
                rows.push(row);
            }
        }
    }
    if args.quiet && matches!(format, None | Some("" | "table")) {
        for id in ids {
            line(&id)?;
        }
        return Ok(0);
    }
    let format = match format {
        Some("raw") if args.quiet => Some("image_id: {{.ID}}"),
        Some("raw") if args.digests => Some(
            "repository: {{.Repository}}\ntag: {{.Tag}}\ndigest: {{.Digest}}\nimage_id: {{.ID}}\n\
             created_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}{{println}}",
        ),
        Some("raw") => Some(
            "repository: {{.Repository}}\ntag: {{.Tag}}\nimage_id: {{.ID}}\n\
             created_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}{{println}}",
        ),
        other => other,
    };
    let table = if args.digests {
        "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    } else {
        "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    };
    Listing { table, titles: TITLES, type_name: "*formatter.imageContext" }.print(format, rows)
}

const HISTORY_TITLES: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// `bulkhead history`
pub fn history(globals: &Globals, args: &HistoryArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    let image = image::find(&store, &args.image).map_err(Failure::daemon)?;
    let now = Timestamp::now();
    let mut layers = image.chain.iter();
    let mut rows = Vec::new();
    for step in &image.history {
        let size = if step.empty_layer {
            0
        } else {
            layers.next().map_or(0, |id| layer_size(&store, &id.to_string()))
        };
        let moment = step.created.as_deref().unwrap_or("");
        let known = moment.parse::<Timestamp>().is_ok();
        let by = step.created_by.as_deref().unwrap_or("").replace('\t', " ");
        let at = if known { human::local_rfc3339(moment) } else { "N/A".to_owned() };
        let since = match (known, args.human) {
            (false, _) => "N/A".to_owned(),
            (true, true) => format!("{} ago", human::duration(human::since(moment, now))),
            (true, false) => at.clone(),
        };
        rows.push(json!({
            "Comment": step.comment.as_deref().unwrap_or(""),
            "CreatedAt": at,
            "CreatedBy": if args.no_trunc { by } else { human::ellipsis(&by, 45) },
            "CreatedSince": since,
            "ID": "<missing>",
            "Size": if args.human { human::size(size) } else { size.to_string() },
        }));
    }
    // The newest step is the image itself; what came before has no id of its own.
    if rows.is_empty() {
        rows.push(json!({
            "Comment": "", "CreatedAt": "N/A", "CreatedBy": "", "CreatedSince": "N/A", "ID": "",
            "Size": if args.human { human::size(image.size) } else { image.size.to_string() },
        }));
    }
    if let Some(Value::Object(last)) = rows.last_mut() {
        let id = if args.no_trunc { image.id.to_string() } else { image.id.short() };
        last.insert("ID".to_owned(), id.into());
    }
    rows.reverse();
    let format = args.format.as_deref();
    if args.quiet && matches!(format, None | Some("" | "table")) {
        for row in rows {
            line(row["ID"].as_str().unwrap_or_default())?;
        }
        return Ok(0);
    }
    Listing {
        table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
        titles: HISTORY_TITLES,
        type_name: "*formatter.historyContext",
    }
    .print(format, rows)
}

/// `bulkhead image prune`
pub fn prune(globals: &Globals, args: &ImagePruneArgs) -> Result<u8, Failure> {
    let question = if args.all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !args.force && !prune::confirmed(question)? {
        return Ok(0);
    }
    let mut store = store(globals)?;
    let (lines, freed) = filter::prune(&mut store, args.all, &args.filter).map_err(Failure::daemon)?;
    if !lines.is_empty() {
        line("Deleted Images:")?;
        for text in &lines {
            line(text)?;
        }
        line("")?;
    }
    line(&format!("Total reclaimed space: {}", human::size4(freed)))?;
    Ok(0)
}
