//! `container prune`, `system prune`, and the question they ask first.

use std::io::{BufRead as _, Write as _};

use bulkhead_engine::build::cache;
use bulkhead_engine::{container, image, network, volume};

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::container::ContainerPruneArgs;
use crate::cli::system::SystemPruneArgs;
use crate::failure::Failure;
use crate::output::{human, line};

/// Asks on standard output, reads standard input; anything but `y` is no.
pub fn confirmed(warning: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    write!(out, "{warning}\nAre you sure you want to continue? [y/N] ")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::stdout(&error))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| {
        Failure::plain(format!("read /dev/stdin: {}", crate::options::env::reason(&error)))
    })?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// A title, its lines and an empty line; nothing without lines.
pub fn report(title: &str, lines: &[String]) -> Result<(), Failure> {
    if lines.is_empty() {
        return Ok(());
    }
    line(title)?;
    for text in lines {
        line(text)?;
    }
    line("")
}

/// `bulkhead container prune`
pub fn containers(globals: &Globals, args: &ContainerPruneArgs) -> Result<u8, Failure> {
    if !args.force && !confirmed("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let mut store = store(globals)?;
    let (ids, freed) = container::prune(&mut store, &args.filter).map_err(Failure::daemon)?;
    report("Deleted Containers:", &ids)?;
    line(&format!("Total reclaimed space: {}", human::size4(freed)))?;
    Ok(0)
}

/// `bulkhead system prune`
pub fn system(globals: &Globals, args: &SystemPruneArgs) -> Result<u8, Failure> {
    let images = if args.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    if args.volumes && args.filter.iter().any(|(key, _)| key == "until") {
        return Err(Failure::plain("ERROR: The \"until\" filter is not supported with \"--volumes\""));
    }
    let volumes =
        if args.volumes { "  - all anonymous volumes not used by at least one container\n" } else { "" };
    let warning = format!(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one \
         container\n{volumes}  - {images}\n  - unused build cache\n"
    );
    if !args.force && !confirmed(&warning)? {
        return Ok(0);
    }
    let mut store = store(globals)?;
    let (ids, mut freed) = container::prune(&mut store, &args.filter).map_err(Failure::daemon)?;
    report("Deleted Containers:", &ids)?;
    report("Deleted Networks:", &network::filter::prune(&mut store, &args.filter).map_err(Failure::daemon)?)?;
    if args.volumes {
        let (names, bytes) = volume::view::prune(&store, false, &args.filter).map_err(Failure::daemon)?;
        freed += bytes;
        report("Deleted Volumes:", &names)?;
    }
    let (lines, bytes) = image::filter::prune(&mut store, args.all, &args.filter).map_err(Failure::daemon)?;
    freed += bytes;
    report("Deleted Images:", &lines)?;
    // After the images, whose layers are unused from then on.
    let (mut layers, bytes) = cache::prune(&mut store, args.all).map_err(Failure::daemon)?;
    layers.sort();
    freed += bytes;
    report("Deleted build cache objects:", &layers)?;
    line(&format!("Total reclaimed space: {}", human::size4(freed)))?;
    Ok(0)
}
