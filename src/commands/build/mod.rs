//! `build`: flags become the engine's options, a context is found, and what was built is brought to where it is wanted.

mod context;
mod deliver;
mod options;
mod progress;

use std::io::{self, Write as _};

use bulkhead_engine::build::{self, Error, cache};
use bulkhead_engine::digest::Digest;
use bulkhead_engine::image::{self, Reference};
use bulkhead_engine::registry::Session;
use bulkhead_engine::store::Store;
use jiff::Timestamp;
use progress::{Plain, excerpt, printable};
use serde_json::json;

use super::lifecycle::store;
use super::version::VERSION;
use super::{df, prune, registry};
use crate::cli::build::{BuildArgs, FormatArgs, PruneArgs};
use crate::cli::{Globals, NoArgs};
use crate::failure::Failure;
use crate::options::output::{Output, Place};
use crate::output::list::Listing;
use crate::output::{human, line};

/// An error before a build has begun.
fn refused(text: impl std::fmt::Display) -> Failure {
    Failure::plain(format!("ERROR: {text}"))
}

/// An error of the build.
fn failed(error: &Error) -> Failure {
    Failure::plain(format!("ERROR: failed to build: failed to solve: {}", printable(&error.to_string())))
}

/// `bulkhead build`
pub fn run(globals: &Globals, args: &BuildArgs) -> Result<u8, Failure> {
    let outputs = deliver::outputs(args)?;
    // Who wants files wants no image, and no name of an older one moved.
    let only_files = !outputs.is_empty()
        && outputs.iter().all(|output| matches!(output, Output::Local(_) | Output::Tar(_)));
    let mut options = options::options(globals, args, &outputs, only_files)?;
    let iidfile = args.iidfile.as_deref().map(options::absolute);
    let metadata_file = args.metadata_file.as_deref().map(options::absolute);
    let mut store = store(globals)?;
    let quiet = args.quiet || matches!(args.progress.as_str(), "quiet" | "none");
    let mut plain = Plain::new(quiet);
    // Nobody's settings are read unless a registry or a server is asked.
    let session: std::sync::OnceLock<Session> = std::sync::OnceLock::new();
    let session = || match session.get() {
        Some(session) => Ok(session),
        None => registry::quiet_session(globals).map(|made| session.get_or_init(|| made)),
    };
    let fetch = |store: &mut Store, name: &Reference, platform: Option<&str>| {
        registry::fetch_for_build(store, session()?, name, platform)
    };
    let download = |url: &str, to: &mut dyn io::Write| session()?.download(url, to);
    let found = context::find(args, &store, &download)?;
    let Ok(text) = String::from_utf8(found.text) else {
        return Err(failed(&Error::NotText(found.name)));
    };
    if let Some((name, status)) = &found.source {
        plain.own(name, status);
    }
    plain.own(
        &format!("[internal] load build definition from {}", found.name),
        &format!("transferring dockerfile: {} done", build::bytes(text.len() as u64)),
    );
    if let Some(size) = found.ignored {
        plain.own(
            "[internal] load .dockerignore",
            &format!("transferring context: {} done", build::bytes(size as u64)),
        );
    }
    let known: Vec<Digest> = if only_files {
        image::list(&store).map_err(|error| refused(&error))?.iter().map(|image| image.id).collect()
    } else {
        Vec::new()
    };
    options.dockerfile = text;
    options.lasting = found.scratch.is_none();
    options.context = found.context;
    let built = build::build(&mut store, &options, &plain, &fetch, &download).map_err(|failure| {
        let mut err = io::stderr().lock();
        if let Some(block) = plain.failed_step() {
            let _ = err.write_all(block.as_bytes());
        }
        if let Some((first, last)) = failure.lines {
            let _ = err.write_all(excerpt(&found.name, &options.dockerfile, first, last).as_bytes());
        }
        failed(&failure.error)
    })?;
    if !built.unused.is_empty() && !quiet {
        let _ = writeln!(
            io::stderr(),
            "[Warning] One or more build-args [{}] were not consumed",
            built.unused.join(" ")
        );
    }
    if !outputs.is_empty() {
        let image = image::get(&store, &built.id)
            .and_then(|found| found.ok_or_else(|| image::Error::NoSuchImage(built.id.to_string())));
        let image = image.map_err(|error| refused(&error))?;
        let session = || registry::quiet_session(globals);
        let mut deliver = |output: &Output| {
            deliver::deliver(&mut store, &mut plain, &image, &options.names, output, &session)
        };
        let delivered = outputs.iter().try_for_each(&mut deliver);
        if only_files && !known.contains(&built.id) {
            image::remove(&mut store, &built.id.to_string(), false).map_err(|error| refused(&error))?;
        }
        delivered?;
    }
    // An image that was taken back, or never asked for, has no name to hand on: buildx leaves the file empty too.
    let id = (!only_files).then_some(&built.id);
    if let Some(path) = &iidfile {
        deliver::say(path, &id.map(ToString::to_string).unwrap_or_default())?;
    }
    if let Some(path) = &metadata_file {
        deliver::say(path, &format!("{:#}", deliver::metadata(id, &options.names)))?;
    }
    let is_stdout =
        |output: &Output| matches!(output, Output::Tar(Place::Stdout) | Output::Archive(Place::Stdout));
    if quiet && args.progress != "none" && !outputs.iter().any(is_stdout) {
        line(&built.id.to_string())?;
    }
    store.checkpoint();
    Ok(0)
}

/// `bulkhead builder prune`
pub fn prune(globals: &Globals, args: &PruneArgs) -> Result<u8, Failure> {
    let what = if args.all { "all build cache" } else { "all dangling build cache" };
    if !args.force && !prune::confirmed(&format!("WARNING! This will remove {what}."))? {
        return Ok(0);
    }
    let mut store = store(globals)?;
    let (mut layers, freed) = cache::prune(&mut store, args.all).map_err(Failure::daemon)?;
    layers.sort();
    prune::report("Deleted build cache objects:", &layers)?;
    line(&format!("Total reclaimed space: {}", human::size4(freed)))?;
    Ok(0)
}

/// `bulkhead builder du`
pub fn du(globals: &Globals, args: &FormatArgs) -> Result<u8, Failure> {
    let store = store(globals)?;
    let layers = cache::layers(&store).map_err(Failure::daemon)?;
    let sum = |wanted: fn(&cache::Cached) -> bool| {
        human::size4(layers.iter().filter(|layer| wanted(layer)).map(|layer| layer.size).sum())
    };
    let (now, all, free) = (Timestamp::now(), sum(|_| true), sum(|layer| !layer.shared));
    let rows = layers.iter().map(|layer| df::cached(layer, now)).collect();
    Listing {
        table: "{{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{.CreatedSince}}\t{{.Description}}",
        titles: df::CACHED,
        type_name: "*formatter.buildCacheContext",
    }
    .print(args.format.as_deref(), rows)?;
    if args.format.is_none() {
        line(&format!("Reclaimable:\t{free}\nTotal:\t\t{all}"))?;
    }
    Ok(0)
}

/// `bulkhead builder ls`
pub fn ls(_: &Globals, args: &FormatArgs) -> Result<u8, Failure> {
    let row = json!({
        "Name": "default",
        "DriverEndpoint": "bulkhead",
        "Status": "running",
        "Version": VERSION,
        "Platforms": image::Platform::host().to_string(),
        "Current": true,
    });
    Listing {
        table: "{{.Name}}{{if .Current}}*{{end}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Version}}\t{{.Platforms}}",
        titles: &[
            ("Name", "NAME/NODE"),
            ("DriverEndpoint", "DRIVER/ENDPOINT"),
            ("Status", "STATUS"),
            ("Version", "VERSION"),
            ("Platforms", "PLATFORMS"),
            ("Current", ""),
        ],
        type_name: "*formatter.lsContext",
    }
    .print(args.format.as_deref(), vec![row])
}

/// `bulkhead builder version`
pub fn version(_: &Globals, _: &NoArgs) -> Result<u8, Failure> {
    super::version::short()
}

/// `bulkhead build-step ID CONTROL LOCK`
pub fn step(globals: &Globals, args: &crate::cli::container::MonitorArgs) -> Result<u8, Failure> {
    bulkhead_engine::container::step::main(globals.layout(), &args.id, args.control, args.lock)
        .map(|()| 0)
        .map_err(|error| Failure::new(125, error.to_string()))
}
