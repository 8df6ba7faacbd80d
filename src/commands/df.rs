//! `system df`: what the store takes on the disk.

use std::collections::HashSet;

use bulkhead_engine::{build::cache, container, image, layer, volume};
use serde_json::{Value, json};

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::system::DfArgs;
use crate::failure::Failure;
use crate::output::human;
use crate::output::list::Listing;

const TITLES: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

fn row(kind: &str, total: usize, active: usize, size: u64, reclaimable: u64) -> Value {
    let percent =
        (reclaimable * 100).checked_div(size).map_or_else(String::new, |share| format!(" ({share}%)"));
    json!({
        "Active": active.to_string(),
        "Reclaimable": format!("{}{percent}", human::size4(reclaimable)),
        "Size": human::size4(size),
        "TotalCount": total.to_string(),
        "Type": kind,
    })
}

/// `bulkhead system df`
pub fn run(globals: &Globals, args: &DfArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    let containers = container::list(&store).map_err(Failure::daemon)?;
    let images = image::list(&store).map_err(Failure::daemon)?;

    let used: HashSet<_> = containers.iter().filter_map(|container| container.image).collect();
    // A layer that a used image shares is not to be had back.
    let kept: HashSet<_> =
        images.iter().filter(|i| used.contains(&i.id)).flat_map(|i| i.chain.iter()).collect();
    let cached = cache::usage(&store).map_err(Failure::daemon)?;
    let all = image::filter::total(&store).map_err(Failure::daemon)?.saturating_sub(cached.reclaimable);
    let held: u64 = kept.iter().map(|id| image::filter::layer_size(&store, &id.to_string())).sum();

    let (mut size, mut free, mut active) = (0, 0, 0);
    for container in &containers {
        let dir = container.dir(store.layout()).join("upper");
        let bytes = layer::disk_usage(&dir).map_err(Failure::daemon)?.bytes;
        size += bytes;
        if container.state.status.is_alive() {
            active += 1;
        } else {
            free += bytes;
        }
    }
    let used_volumes = volume::used(&store).map_err(Failure::daemon)?;
    let volumes = volume::list(&store).map_err(Failure::daemon)?;
    let (mut volume_size, mut volume_free) = (0, 0);
    for volume in &volumes {
        let bytes = volume::size(&store, volume).map_err(Failure::daemon)?;
        volume_size += bytes;
        if !used_volumes.contains(&volume.name) {
            volume_free += bytes;
        }
    }
    let rows = vec![
        row(
            "Images",
            images.len(),
            images.iter().filter(|i| used.contains(&i.id)).count(),
            all,
            all - held.min(all),
        ),
        row("Containers", containers.len(), active, size, free),
        row("Local Volumes", volumes.len(), used_volumes.len(), volume_size, volume_free),
        row("Build Cache", cached.layers as usize, 0, cached.reclaimable, cached.reclaimable),
    ];
    Listing {
        table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
        titles: TITLES,
        type_name: "*formatter.diskUsageContext",
    }
    .print(args.format.as_deref(), rows)
}
