//! `images`, `history`, `image prune`: what is in the store.

use std::collections::HashSet;

use bulkhead_engine::container;
use bulkhead_engine::image::{self, Image, Reference};
use bulkhead_engine::store::Store;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::lifecycle::store;
use super::prune;
use super::ps::label_holds;
use crate::cli::Globals;
use crate::cli::image::{HistoryArgs, ImagePruneArgs, ImagesArgs};
use crate::failure::Failure;
use crate::options::time;
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

/// One line of the list: an image under one of its names.
struct Named<'a> {
    image: &'a Image,
    repository: String,
    tag: String,
    digest: String,
}

/// The names of an image, as Docker lists them: one line a tag, the digest beside it; a digest without a
/// tag has a line of its own; no name at all is `<none>:<none>`.
fn names(image: &Image) -> Vec<Named<'_>> {
    const NONE: &str = "<none>";
    let of = |reference: &Reference, tag: &str| Named {
        image,
        repository: reference.familiar_name(),
        tag: tag.to_owned(),
        digest: image.digest_of(reference).map_or_else(|| NONE.to_owned(), |digest| digest.to_string()),
    };
    let tagged: Vec<Named<'_>> =
        image.references.iter().filter_map(|name| name.tag().map(|tag| of(name, tag))).collect();
    let repositories: HashSet<String> = tagged.iter().map(|named| named.repository.clone()).collect();
    let mut all = tagged;
    all.extend(
        image
            .references
            .iter()
            .filter(|name| name.tag().is_none() && !repositories.contains(&name.familiar_name()))
            .map(|name| of(name, NONE)),
    );
    if all.is_empty() {
        let none = || NONE.to_owned();
        all.push(Named { image, repository: none(), tag: none(), digest: none() });
    }
    all
}

/// A pattern of Docker's `reference` filter: `*` stands for anything but a slash, `?` for one character.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len())
            .take_while(|end| !text[..*end].contains(&b'/'))
            .any(|end| fits(rest, &text[end..])),
        Some((b'?', rest)) => text.first().is_some_and(|c| *c != b'/') && fits(rest, &text[1..]),
        Some((c, rest)) => text.first() == Some(c) && fits(rest, &text[1..]),
    }
}

/// Whether a name is meant by `alpine`, `alpine:3.20`, `localhost:5000/*:1`.
fn matches_name(pattern: &str, named: &Named<'_>) -> bool {
    if named.repository == "<none>" {
        return false;
    }
    let whole = format!("{}:{}", named.repository, named.tag);
    let normal = |text: &str| {
        text.strip_prefix("docker.io/library/")
            .or_else(|| text.strip_prefix("docker.io/"))
            .unwrap_or(text)
            .to_owned()
    };
    let pattern = normal(pattern);
    // More stars than this is no pattern but an attack on the matcher.
    pattern.matches('*').count() <= 8
        && (fits(pattern.as_bytes(), named.repository.as_bytes())
            || fits(pattern.as_bytes(), whole.as_bytes()))
}

/// Docker's order of moments: an image without one is the oldest.
fn created(image: &Image) -> Option<Timestamp> {
    image.created.as_deref().and_then(|moment| moment.parse().ok())
}

struct Filters {
    dangling: Option<bool>,
    references: Vec<String>,
    labels: Vec<String>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

fn filters(store: &Store, given: &[(String, String)]) -> Result<Filters, Failure> {
    let mut filters = Filters {
        dangling: None,
        references: vec![],
        labels: vec![],
        before: None,
        since: None,
        until: None,
    };
    let moment = |name: &str| {
        image::find(store, name)
            .map_err(Failure::daemon)
            .map(|image| Some(created(&image).unwrap_or(Timestamp::MIN)))
    };
    for (name, value) in given {
        match name.as_str() {
            "dangling" => {
                filters.dangling = Some(match value.to_lowercase().as_str() {
                    "true" | "1" | "t" => true,
                    "false" | "0" | "f" => false,
                    _ => return Err(Failure::daemon(format!("invalid filter 'dangling=[{value}]'"))),
                });
            }
            "reference" => filters.references.push(value.clone()),
            "label" => filters.labels.push(value.clone()),
            "before" => filters.before = moment(value)?,
            "since" => filters.since = moment(value)?,
            "until" => filters.until = Some(until(value)?),
            other => return Err(Failure::daemon(format!("invalid filter '{other}'"))),
        }
    }
    Ok(filters)
}

/// The moment that an `until` filter means.
pub fn until(value: &str) -> Result<Timestamp, Failure> {
    time::moment(value).map_err(Failure::daemon)
}

impl Filters {
    fn admit(&self, image: &Image) -> bool {
        let when = created(image).unwrap_or(Timestamp::MIN);
        self.dangling.is_none_or(|dangling| dangling == image.is_dangling())
            && self.labels.iter().all(|label| label_holds(&image.config.labels, label))
            && self.before.is_none_or(|moment| when < moment)
            && self.since.is_none_or(|moment| when > moment)
            && self.until.is_none_or(|moment| when < moment)
    }

    fn admit_name(&self, named: &Named<'_>) -> bool {
        self.references.is_empty() || self.references.iter().any(|pattern| matches_name(pattern, named))
    }
}

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
        "VirtualSize": size,
    })
}

/// One row for each of an image's names, with how many containers are made from it.
pub fn rows(image: &Image, containers: usize, now: Timestamp) -> Vec<Value> {
    names(image).iter().map(|named| row(named, false, Some(containers), now)).collect()
}

/// `bulkhead images`
pub fn run(globals: &Globals, args: &ImagesArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    let filters = filters(&store, &args.filter)?;
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

/// Bytes of a layer's files.
pub fn layer_size(store: &Store, chain_id: &str) -> u64 {
    let query = store.db().prepare_cached("SELECT size FROM layer WHERE chain_id = ?1");
    let size = query.and_then(|mut query| query.query_row([chain_id], |row| row.get::<_, i64>(0)));
    size.map_or(0, i64::unsigned_abs)
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
    let (lines, freed) = sweep(&mut store, args.all, &args.filter)?;
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

/// Removes images that no container uses: the nameless, or all. Returns what to print and the bytes freed.
pub fn sweep(
    store: &mut Store,
    all: bool,
    given: &[(String, String)],
) -> Result<(Vec<String>, u64), Failure> {
    let (mut all, mut until_moment) = (all, None);
    let (mut labels, mut unwanted): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (name, value) in given {
        match name.as_str() {
            "dangling" => all |= matches!(value.as_str(), "false" | "0"),
            "until" => until_moment = Some(until(value)?),
            "label" => labels.push(value),
            "label!" => unwanted.push(value),
            other => return Err(Failure::daemon(format!("invalid filter '{other}'"))),
        }
    }
    let containers = container::list(store).map_err(Failure::daemon)?;
    let used: HashSet<_> = containers.iter().filter_map(|container| container.image).collect();
    let before = total(store)?;
    let mut lines = Vec::new();
    for image in image::list(store).map_err(Failure::daemon)? {
        let going = !used.contains(&image.id)
            && (all || image.is_dangling())
            && until_moment.is_none_or(|moment| created(&image).unwrap_or(Timestamp::MIN) < moment)
            && labels.iter().all(|label| label_holds(&image.config.labels, label))
            && !unwanted.iter().any(|label| label_holds(&image.config.labels, label));
        if !going {
            continue;
        }
        match image::remove(store, &image.id.to_string(), true) {
            Ok(removed) => lines.extend(removed.iter().map(ToString::to_string)),
            // A container that was made meanwhile keeps its image; so does Docker's prune.
            Err(image::Error::Running { .. } | image::Error::Stopped { .. }) => {}
            Err(error) => return Err(Failure::daemon(error)),
        }
    }
    let after = total(store)?;
    // The first letter of each line is lower case in Docker's prune: `untagged:`, `deleted:`.
    let lines = lines.into_iter().map(|text| lower_first(&text)).collect();
    Ok((lines, before.saturating_sub(after)))
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}", first.to_lowercase(), chars.as_str()))
}

/// Bytes of all layers.
pub fn total(store: &Store) -> Result<u64, Failure> {
    let size =
        store.db().query_row("SELECT coalesce(sum(size), 0) FROM layer", [], |row| row.get::<_, i64>(0));
    size.map(i64::unsigned_abs).map_err(|error| Failure::daemon(store.db_error(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("alpine", "alpine", true),
            ("alp*", "alpine", true),
            ("*", "library/x", false),
            ("*/*", "library/x", true),
            ("a?pine", "alpine", true),
            ("a?", "a/", false),
            ("alpine:*", "alpine:3.20", true),
            ("", "x", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
    }
}
