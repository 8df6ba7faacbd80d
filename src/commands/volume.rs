//! `volume …`.

use std::collections::{BTreeMap, HashSet};

use bulkhead_engine::store::{Layout, Store};
use bulkhead_engine::volume::{self, NewVolume, Volume};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::prune;
use super::ps::{label_holds, name_matches};
use crate::cli::Globals;
use crate::cli::volume::{CreateArgs, LsArgs, PruneArgs, RmArgs};
use crate::failure::Failure;
use crate::output::list::Listing;
use crate::output::{human, line};

/// Opens the store, and puts right what killed commands left of volumes, were it but a row that nobody is bothered by
/// elsewhere.
fn store(globals: &Globals) -> Result<Store, Failure> {
    let store = super::lifecycle::store(globals)?;
    volume::sweep(&store).map_err(Failure::daemon)?;
    Ok(store)
}

fn pairs(list: &[String]) -> BTreeMap<String, String> {
    list.iter()
        .map(|text| text.split_once('=').unwrap_or((text, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// `bulkhead volume create`
pub fn create(globals: &Globals, args: &CreateArgs) -> Result<u8, Failure> {
    let name = match (&args.volume, &args.name) {
        (Some(_), Some(_)) => {
            return Err(Failure::plain(
                "conflicting options: either specify --name or provide positional arg, not both",
            ));
        }
        (name, None) | (None, name) => name.clone().unwrap_or_default(),
    };
    let mut new = if name.is_empty() {
        NewVolume::anonymous().map_err(Failure::daemon)?
    } else {
        NewVolume { name, ..NewVolume::default() }
    };
    new.driver.clone_from(&args.driver);
    new.options = pairs(&args.opt);
    new.labels.extend(pairs(&args.label));
    new.check().map_err(Failure::daemon)?;
    let store = store(globals)?;
    let made = volume::create(&store, &new).map_err(Failure::daemon)?;
    line(&made.name)?;
    Ok(0)
}

fn is_true(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn invalid(key: &str) -> Failure {
    Failure::daemon(format!("invalid filter '{key}'"))
}

/// `bulkhead volume ls`
pub fn ls(globals: &Globals, args: &LsArgs) -> Result<u8, Failure> {
    for (key, value) in &args.filter {
        let known = matches!(key.as_str(), "dangling" | "driver" | "label" | "name");
        if !known {
            return Err(invalid(key));
        }
        if key == "dangling" && is_true(value).is_none() {
            return Err(invalid(&format!("dangling={value}")));
        }
    }
    let store = store(globals)?;
    let used = volume::used(&store).map_err(Failure::daemon)?;
    let volumes = volume::list(&store).map_err(Failure::daemon)?;
    let rows = volumes
        .iter()
        .filter(|volume| admits(volume, &used, &args.filter))
        .map(|volume| row(volume, store.layout()))
        .collect();
    let listing = Listing {
        table: "{{.Driver}}\t{{.Name}}",
        titles: &[
            ("Driver", "DRIVER"),
            ("Name", "VOLUME NAME"),
            ("Scope", "SCOPE"),
            ("Mountpoint", "MOUNTPOINT"),
            ("Labels", "LABELS"),
            ("Links", "LINKS"),
            ("Size", "SIZE"),
            ("Availability", "AVAILABILITY"),
            ("Group", "GROUP"),
            ("Status", "STATUS"),
        ],
        type_name: "*formatter.volumeContext",
    };
    let format = match args.format.as_deref() {
        None | Some("table" | "") if args.quiet => Some("{{.Name}}"),
        other => other,
    };
    listing.print(format, rows)
}

/// Any value of one key, every key; of labels every one.
fn admits(volume: &Volume, used: &HashSet<String>, filters: &[(String, String)]) -> bool {
    let fits = |key: &str, value: &str| match key {
        "dangling" => is_true(value) == Some(!used.contains(&volume.name)),
        "driver" => value == volume::DRIVER,
        "label" => label_holds(&volume.labels, value),
        "name" => name_matches(&volume.name, value),
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

fn row(volume: &Volume, layout: &Layout) -> Value {
    let labels: Vec<String> = volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    json!({
        "Availability": "N/A",
        "Driver": volume::DRIVER,
        "Group": "N/A",
        "Labels": labels.join(","),
        "Links": "N/A",
        "Mountpoint": volume.mountpoint(layout),
        "Name": volume.name,
        "Scope": "local",
        "Size": "N/A",
        "Status": "N/A",
        "_labels": volume.labels,
    })
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
        "Driver": volume::DRIVER,
        "Labels": some(&volume.labels),
        "Mountpoint": volume.mountpoint(layout),
        "Name": volume.name,
        "Options": some(&volume.options),
        "Scope": "local",
    })
}

/// `bulkhead volume rm`
pub fn rm(globals: &Globals, args: &RmArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    let mut failures = Vec::new();
    for name in &args.volumes {
        match volume::remove(&store, name) {
            // With -f one that is not there counts as removed.
            Ok(()) => line(name)?,
            Err(volume::Error::NotFound(_)) if args.force => line(name)?,
            Err(error) => failures.push(format!("Error response from daemon: {error}")),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::lines(&failures)) }
}

/// `bulkhead volume prune`
pub fn prune(globals: &Globals, args: &PruneArgs) -> Result<u8, Failure> {
    if args.all && args.filter.iter().any(|(key, _)| key == "all") {
        return Err(Failure::plain("conflicting options: cannot specify both --all and --filter all=1"));
    }
    let warning = if args.all {
        "WARNING! This will remove all local volumes not used by at least one container."
    } else {
        "WARNING! This will remove anonymous local volumes not used by at least one container."
    };
    if !args.force && !prune::confirmed(warning)? {
        return Ok(0);
    }
    let store = store(globals)?;
    let (names, freed) = sweep(&store, args.all, &args.filter)?;
    prune::report("Deleted Volumes:", &names)?;
    line(&format!("Total reclaimed space: {}", human::size4(freed)))?;
    Ok(0)
}

/// Removes the volumes that no container has mounted: those without a name, or all. Returns their names and the
/// bytes freed.
pub fn sweep(store: &Store, all: bool, given: &[(String, String)]) -> Result<(Vec<String>, u64), Failure> {
    let mut all = all;
    for (key, value) in given {
        match key.as_str() {
            "label" | "label!" => {}
            "all" => all |= is_true(value).ok_or_else(|| invalid(&format!("all={value}")))?,
            other => return Err(invalid(other)),
        }
    }
    volume::prune(store, |volume| {
        (all || volume.is_anonymous())
            && given.iter().all(|(key, value)| match key.as_str() {
                "label" => label_holds(&volume.labels, value),
                "label!" => !label_holds(&volume.labels, value),
                _ => true,
            })
    })
    .map_err(Failure::daemon)
}
