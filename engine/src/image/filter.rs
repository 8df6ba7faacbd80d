//! Which images a list shows, under which names, and which of them nobody needs.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::{Image, Reference};
use crate::container;
use crate::digest::Digest;
use crate::filter::{Error, Given, label_holds, until};
use crate::store::Store;

/// One line of the list: an image under one of its names.
#[derive(Debug)]
pub struct Named<'a> {
    /// The image.
    pub image: &'a Image,
    /// As people write it, or `<none>`.
    pub repository: String,
    /// Or `<none>`.
    pub tag: String,
    /// Or `<none>`.
    pub digest: String,
}

/// The names of an image, as Docker lists them: one line a tag, the digest beside it; a digest without a
/// tag has a line of its own; no name at all is `<none>:<none>`.
pub fn names(image: &Image) -> Vec<Named<'_>> {
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
pub fn matches_name(pattern: &str, named: &Named<'_>) -> bool {
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
pub fn created(image: &Image) -> Option<Timestamp> {
    image.created.as_deref().and_then(|moment| moment.parse().ok())
}

/// What `--filter` says.
#[derive(Debug)]
pub struct Filters {
    dangling: Option<bool>,
    references: Vec<String>,
    labels: Vec<String>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

/// Reads the filters of a list.
pub fn filters(store: &Store, given: &[Given]) -> Result<Filters, Error> {
    let mut filters = Filters {
        dangling: None,
        references: vec![],
        labels: vec![],
        before: None,
        since: None,
        until: None,
    };
    let moment = |name: &str| {
        let image = super::find(store, name)?;
        Ok::<_, Error>(Some(created(&image).unwrap_or(Timestamp::MIN)))
    };
    for (name, value) in given {
        match name.as_str() {
            "dangling" => {
                filters.dangling = Some(match value.to_lowercase().as_str() {
                    "true" | "1" | "t" => true,
                    "false" | "0" | "f" => false,
                    _ => return Err(Error::Invalid(format!("dangling=[{value}]"))),
                });
            }
            "reference" => filters.references.push(value.clone()),
            "label" => filters.labels.push(value.clone()),
            "before" => filters.before = moment(value)?,
            "since" => filters.since = moment(value)?,
            "until" => filters.until = Some(until(value)?),
            other => return Err(Error::Invalid(other.to_owned())),
        }
    }
    Ok(filters)
}

impl Filters {
    /// Whether an image passes.
    pub fn admit(&self, image: &Image) -> bool {
        let when = created(image).unwrap_or(Timestamp::MIN);
        self.dangling.is_none_or(|dangling| dangling == image.is_dangling())
            && self.labels.iter().all(|label| label_holds(&image.config.labels, label))
            && self.before.is_none_or(|moment| when < moment)
            && self.since.is_none_or(|moment| when > moment)
            && self.until.is_none_or(|moment| when < moment)
    }

    /// Whether it is listed under this name.
    pub fn admit_name(&self, named: &Named<'_>) -> bool {
        self.references.is_empty() || self.references.iter().any(|pattern| matches_name(pattern, named))
    }
}

/// Bytes of each image's layers: those that another of them has as well, and those that are its own.
pub fn sharing(store: &Store, images: &[Image]) -> HashMap<Digest, (u64, u64)> {
    let mut owners: HashMap<_, HashSet<_>> = HashMap::new();
    for image in images {
        for id in &image.chain {
            owners.entry(id).or_default().insert(image.id);
        }
    }
    let of = |image: &Image| {
        let (mut shared, mut unique) = (0, 0);
        for id in &image.chain {
            let bytes = layer_size(store, &id.to_string());
            *(if owners[id].len() > 1 { &mut shared } else { &mut unique }) += bytes;
        }
        (shared, unique)
    };
    images.iter().map(|image| (image.id, of(image))).collect()
}

/// Bytes of a layer's files.
pub fn layer_size(store: &Store, chain_id: &str) -> u64 {
    let query = store.db().prepare_cached("SELECT size FROM layer WHERE chain_id = ?1");
    let size = query.and_then(|mut query| query.query_row([chain_id], |row| row.get::<_, i64>(0)));
    size.map_or(0, i64::unsigned_abs)
}

/// Removes images that no container uses: the nameless, or all. Returns what to print and the bytes freed.
pub fn prune(store: &mut Store, all: bool, given: &[Given]) -> Result<(Vec<String>, u64), Error> {
    let (mut all, mut until_moment) = (all, None);
    let (mut labels, mut unwanted): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (name, value) in given {
        match name.as_str() {
            "dangling" => all |= matches!(value.as_str(), "false" | "0"),
            "until" => until_moment = Some(until(value)?),
            "label" => labels.push(value),
            "label!" => unwanted.push(value),
            other => return Err(Error::Invalid(other.to_owned())),
        }
    }
    let containers = container::list(store)?;
    let used: HashSet<_> = containers.iter().filter_map(|container| container.image).collect();
    let before = total(store)?;
    let mut lines = Vec::new();
    for image in super::list(store)? {
        let going = !used.contains(&image.id)
            && (all || image.is_dangling())
            && until_moment.is_none_or(|moment| created(&image).unwrap_or(Timestamp::MIN) < moment)
            && labels.iter().all(|label| label_holds(&image.config.labels, label))
            && !unwanted.iter().any(|label| label_holds(&image.config.labels, label));
        if !going {
            continue;
        }
        match super::remove(store, &image.id.to_string(), true) {
            Ok(removed) => lines.extend(removed.iter().map(ToString::to_string)),
            // A container that was made meanwhile keeps its image; so does Docker's prune.
            Err(super::Error::Running { .. } | super::Error::Stopped { .. }) => {}
            Err(error) => return Err(error.into()),
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
pub fn total(store: &Store) -> Result<u64, Error> {
    let size =
        store.db().query_row("SELECT coalesce(sum(size), 0) FROM layer", [], |row| row.get::<_, i64>(0));
    size.map(i64::unsigned_abs).map_err(|error| store.db_error(error).into())
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
