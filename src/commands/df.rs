//! `system df`: what the store takes on the disk.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use bulkhead_engine::container::Container;
use bulkhead_engine::container::view::ImageNames;
use bulkhead_engine::image::Image;
use bulkhead_engine::store::Store;
use bulkhead_engine::{build::cache, container, image, layer, volume};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::lifecycle::store;
use super::{images, ps, view};
use crate::cli::Globals;
use crate::cli::system::DfArgs;
use crate::failure::Failure;
use crate::output::human;
use crate::output::list::Listing;
use crate::output::raw;

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

    if args.verbose {
        if args.format.is_some() {
            return Err(Failure::plain("the verbose and the format options conflict"));
        }
        return verbose(&store, &images, &containers, cached.reclaimable);
    }
    let (mut size, mut free, mut active) = (0, 0, 0);
    for container in &containers {
        let dir = container.dir(store.layout()).join("upper");
        let usage = match layer::disk_usage(&dir) {
            // Removed since it was listed.
            Err(_) if !dir.exists() => continue,
            usage => usage.map_err(Failure::daemon)?,
        };
        if !usage.complete {
            let warning = "WARNING: could not be measured to the end: it changed meanwhile";
            let _ = writeln!(io::stderr(), "{warning}: container {}", container.short_id());
        }
        let bytes = usage.bytes;
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

/// Titles of what is shown of a layer in the build cache.
pub const CACHED: &[(&str, &str)] = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("Shared", "SHARED"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Description", "STEP"),
];

/// A layer in the build cache, as templates see it.
pub fn cached(layer: &cache::Cached, now: Timestamp) -> Value {
    json!({
        "ID": layer.chain.0.short(),
        "CacheType": "regular",
        "Size": human::size4(layer.size),
        "CreatedSince": format!("{} ago", human::duration(human::since(&layer.created, now))),
        "Description": layer.step,
        "Shared": layer.shared.to_string(),
        "Reclaimable": (!layer.shared).to_string(),
    })
}

/// Everything by itself, as `-v` shows it.
fn verbose(store: &Store, images: &[Image], containers: &[Container], cached: u64) -> Result<u8, Failure> {
    let sharing = image::filter::sharing(store, images);
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for image in images {
        let (shared, unique) = sharing[&image.id];
        let used = containers.iter().filter(|container| container.image == Some(image.id)).count();
        rows.extend(images::rows(image, used, now).into_iter().map(|mut row| {
            row["SharedSize"] = human::size(shared).into();
            row["UniqueSize"] = human::size(unique).into();
            row
        }));
    }
    let mut text = "Images space usage:\n\n".to_owned();
    text += &Listing {
        table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
        titles: images::TITLES,
        type_name: "*formatter.imageContext",
    }
    .render(None, rows)?;
    text += "\nContainers space usage:\n\n";
    let mut names = ImageNames::default();
    let rows = containers.iter().map(|container| {
        let usage = layer::disk_usage(&container.dir(store.layout()).join("upper")).ok();
        let own = usage.and_then(layer::Usage::known).map(|own| (own, 0));
        let nameless = names.nameless(store, container);
        Value::Object(view::row(container, nameless, false, view::Size::of(own), now, &|_| true))
    });
    text += &Listing {
        table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
        titles: ps::TITLES,
        type_name: "*formatter.ContainerContext",
    }
    .render(None, rows.collect())?;
    text += "\nLocal Volumes space usage:\n\n";
    let mut rows = Vec::new();
    for one in volume::list(store).map_err(Failure::daemon)? {
        let links = containers
            .iter()
            .filter(|container| container.record.mounts.iter().any(|mount| mount.name == one.name))
            .count();
        let bytes = volume::size(store, &one).map_err(Failure::daemon)?;
        rows.push(json!({"Name": one.name, "Links": links.to_string(), "Size": human::size4(bytes)}));
    }
    text += &Listing {
        table: "{{.Name}}\t{{.Links}}\t{{.Size}}",
        titles: &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")],
        type_name: "*formatter.volumeContext",
    }
    .render(None, rows)?;
    let _ = write!(text, "\nBuild cache usage: {}\n\n", human::size4(cached));
    let rows = cache::layers(store).map_err(Failure::daemon)?;
    let rows = rows.iter().map(|layer| self::cached(layer, now));
    text += &Listing {
        table: "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.Shared}}\t{{.Description}}",
        titles: CACHED,
        type_name: "*formatter.buildCacheContext",
    }
    .render(None, rows.collect())?;
    raw(text.as_bytes())
}
