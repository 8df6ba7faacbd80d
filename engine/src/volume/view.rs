//! Volumes as Docker shows them, which of them a list's filters admit, and which nobody needs.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{DRIVER, Volume};
use crate::filter::{Error, Given, all_hold, is_true, label_holds, name_matches};
use crate::store::{Layout, Store};

/// Refuses filters that a list of volumes has not.
pub fn check(filters: &[Given]) -> Result<(), Error> {
    for (key, value) in filters {
        if !matches!(key.as_str(), "dangling" | "driver" | "label" | "name") {
            return Err(Error::Invalid(key.clone()));
        }
        if key == "dangling" && is_true(value).is_none() {
            return Err(Error::Invalid(format!("dangling={value}")));
        }
    }
    Ok(())
}

/// Whether a volume passes the filters.
pub fn admits<S: std::hash::BuildHasher>(
    volume: &Volume,
    used: &HashSet<String, S>,
    filters: &[Given],
) -> bool {
    let fits = |key: &str, value: &str| match key {
        "dangling" => is_true(value) == Some(!used.contains(&volume.name)),
        "driver" => value == DRIVER,
        "label" => label_holds(&volume.labels, value),
        "name" => name_matches(&volume.name, value),
        _ => false,
    };
    all_hold(filters, fits)
}

/// What `inspect` prints of a volume.
pub fn inspect(volume: &Volume, layout: &Layout) -> Value {
    let some = |map: &BTreeMap<String, String>| if map.is_empty() { Value::Null } else { json!(map) };
    let created = volume.created.parse::<Timestamp>().map_or_else(
        |_| volume.created.clone(),
        |time| {
            let local = time.to_zoned(TimeZone::system());
            let zone =
                if local.offset().is_zero() { "Z".to_owned() } else { local.strftime("%:z").to_string() };
            format!("{}{zone}", local.strftime("%Y-%m-%dT%H:%M:%S"))
        },
    );
    json!({
        "CreatedAt": created,
        "Driver": DRIVER,
        "Labels": some(&volume.labels),
        "Mountpoint": volume.mountpoint(layout),
        "Name": volume.name,
        "Options": some(&volume.options),
        "Scope": "local",
    })
}

/// Removes the volumes that no container has mounted: those without a name, or all. Returns their names and the
/// bytes freed.
pub fn prune(store: &Store, all: bool, given: &[Given]) -> Result<(Vec<String>, u64), Error> {
    let mut all = all;
    for (key, value) in given {
        match key.as_str() {
            "label" | "label!" => {}
            "all" => all |= is_true(value).ok_or_else(|| Error::Invalid(format!("all={value}")))?,
            other => return Err(Error::Invalid(other.to_owned())),
        }
    }
    Ok(super::prune(store, |volume| {
        (all || volume.is_anonymous())
            && given.iter().all(|(key, value)| match key.as_str() {
                "label" => label_holds(&volume.labels, value),
                "label!" => !label_holds(&volume.labels, value),
                _ => true,
            })
    })?)
}
