//! `container prune`, `system prune`, and the question they ask first.

use std::io::{BufRead as _, Write as _};

use bulkhead_engine::build::cache;
use bulkhead_engine::container::{self, Container, Status, lifecycle as life};
use bulkhead_engine::layer;
use bulkhead_engine::store::Store;
use jiff::Timestamp;

use super::lifecycle::store;
use super::ps::label_holds;
use super::{images, network, volume};
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

fn admits(given: &[(String, String)], container: &Container) -> Result<bool, Failure> {
    let mut admitted = true;
    for (name, value) in given {
        let labels = &container.record.config.labels;
        admitted &= match name.as_str() {
            "until" => {
                let moment = images::until(value)?;
                container.created.parse::<Timestamp>().is_ok_and(|created| created < moment)
            }
            "label" => label_holds(labels, value),
            "label!" => !label_holds(labels, value),
            other => return Err(Failure::daemon(format!("invalid filter '{other}'"))),
        };
    }
    Ok(admitted)
}

/// Removes containers that do not run. Returns their ids and the bytes freed.
fn sweep(store: &mut Store, given: &[(String, String)]) -> Result<(Vec<String>, u64), Failure> {
    let (mut ids, mut freed) = (Vec::new(), 0);
    for container in container::list(store).map_err(Failure::daemon)? {
        let stopped = matches!(container.state.status, Status::Created | Status::Exited);
        if !admits(given, &container)? || !stopped {
            continue;
        }
        let usage = layer::disk_usage(&container.dir(store.layout()).join("upper"));
        match life::remove(store, &container, false, false) {
            Ok(()) => {
                freed += usage.map_or(0, |usage| usage.bytes);
                ids.push(container.id);
            }
            // Started or removed by somebody else meanwhile.
            Err(container::Error::RemoveRunning { .. } | container::Error::NoSuchContainer(_)) => {}
            Err(error) => return Err(Failure::daemon(error)),
        }
    }
    Ok((ids, freed))
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
    let (ids, freed) = sweep(&mut store, &args.filter)?;
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
    let (ids, mut freed) = sweep(&mut store, &args.filter)?;
    report("Deleted Containers:", &ids)?;
    report("Deleted Networks:", &network::sweep(&mut store, &args.filter)?)?;
    if args.volumes {
        let (names, bytes) = volume::sweep(&store, false, &args.filter)?;
        freed += bytes;
        report("Deleted Volumes:", &names)?;
    }
    let (lines, bytes) = images::sweep(&mut store, args.all, &args.filter)?;
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
