//! `volume …`.

use std::collections::BTreeMap;

use bulkhead_engine::store::{Layout, Store};
use bulkhead_engine::volume::{self, NewVolume, Volume};
use serde_json::{Value, json};

use super::prune;
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

/// `bulkhead volume ls`
pub fn ls(globals: &Globals, args: &LsArgs) -> Result<u8, Failure> {
    volume::view::check(&args.filter).map_err(Failure::daemon)?;
    let store = store(globals)?;
    let used = volume::used(&store).map_err(Failure::daemon)?;
    let volumes = volume::list(&store).map_err(Failure::daemon)?;
    let rows = volumes
        .iter()
        .filter(|volume| volume::view::admits(volume, &used, &args.filter))
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
        Some("raw") if args.quiet => Some("name: {{.Name}}"),
        Some("raw") => Some("name: {{.Name}}\ndriver: {{.Driver}}{{println}}"),
        other => other,
    };
    listing.print(format, rows)
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
    let (names, freed) = volume::view::prune(&store, args.all, &args.filter).map_err(Failure::daemon)?;
    prune::report("Deleted Volumes:", &names)?;
    line(&format!("Total reclaimed space: {}", human::size4(freed)))?;
    Ok(0)
}
