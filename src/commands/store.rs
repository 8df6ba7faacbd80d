//! `load`, `import`, `save`, `tag`, `rmi`: what moves images in and out of the store.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use bulkhead_engine::image::{self, Change, Input, Reference, Silent};
use bulkhead_engine::layer::{self, Compression, Packing};

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::image::{ImportArgs, LoadArgs, RmiArgs, SaveArgs, TagArgs};
use crate::failure::Failure;
use crate::output::line;

/// A path as the command line takes it: `-` is standard input.
fn input(path: &str) -> Input<'_> {
    if path == "-" { Input::Stream(Box::new(io::stdin())) } else { Input::Path(Path::new(path)) }
}

/// `bulkhead load`
pub fn load(globals: &Globals, args: &LoadArgs) -> Result<u8, Failure> {
    let source = args.input.as_deref().unwrap_or("-");
    if source == "-" && io::stdin().is_terminal() {
        return Err(Failure::plain("requested load from stdin, but stdin is empty"));
    }
    if source != "-" {
        fs::metadata(source).map_err(|error| {
            Failure::plain(format!("open {source}: {}", crate::options::env::reason(&error)))
        })?;
    }
    let mut store = store(globals)?;
    let loaded = image::load(&mut store, input(source), &options(args.unpack.as_deref())?, &Silent)
        .map_err(Failure::daemon)?;
    if !args.quiet {
        for text in loaded.iter().flat_map(image::Loaded::lines) {
            line(&text)?;
        }
    }
    Ok(0)
}

/// `bulkhead import`
pub fn import(globals: &Globals, args: &ImportArgs) -> Result<u8, Failure> {
    let name = args
        .reference
        .as_deref()
        .map(Reference::parse)
        .transpose()
        .map_err(Failure::daemon)?
        .map(Reference::tagged);
    let changes = args
        .change
        .iter()
        .map(|text| Change::parse(text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::daemon)?;
    if args.source != "-" {
        fs::metadata(&args.source).map_err(|error| {
            Failure::plain(format!("open {}: {}", args.source, crate::options::env::reason(&error)))
        })?;
    }
    let mut store = store(globals)?;
    let message = args.message.as_deref();
    let options = options(args.unpack.as_deref())?;
    let source = input(&args.source);
    let id = image::import(&mut store, source, name.as_ref(), &changes, message, &options, &Silent)
        .map_err(Failure::daemon)?;
    line(&id.to_string())?;
    Ok(0)
}

fn options(unpack: Option<&str>) -> Result<layer::Options, Failure> {
    layer::Options::with_method(unpack).map_err(Failure::daemon)
}

/// How `save` was asked to compress.
fn packing(args: &SaveArgs) -> Result<Packing, Failure> {
    let compression = match args.compression_format.as_deref() {
        Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        _ => Compression::None,
    };
    Packing::new(compression, args.compression_level).map_err(|error| Failure::plain(error.to_string()))
}

/// `bulkhead save`
pub fn save(globals: &Globals, args: &SaveArgs) -> Result<u8, Failure> {
    let packing = packing(args)?;
    let store = store(globals)?;
    let Some(path) = &args.output else {
        if io::stdout().is_terminal() {
            return Err(Failure::plain(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect",
            ));
        }
        let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
        image::save(&store, &args.images, packing, &mut out).map_err(Failure::daemon)?;
        out.flush().map_err(|error| Failure::stdout(&error))?;
        return Ok(0);
    };
    into_file(path, "failed to save image", |out| {
        image::save(&store, &args.images, packing, out).map_err(Failure::daemon)
    })?;
    Ok(0)
}

/// Writes a file that appears under its name once it is whole: an interrupted command leaves what was
/// there before.
pub fn into_file(
    path: &str,
    failed_to: &str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |call: &str, at: &str, error: &io::Error| {
        Failure::plain(format!("{failed_to}: {call} {at}: {}", crate::options::env::reason(error)))
    };
    let partial = format!("{path}.partial-{}", std::process::id());
    let file = File::create(&partial).map_err(|error| failed("open", &partial, &error))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let written = write(&mut out)
        .and_then(|()| out.flush().map_err(|error| failed("write", &partial, &error)))
        .and_then(|()| fs::rename(&partial, path).map_err(|error| failed("rename", path, &error)));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

/// `bulkhead tag`
pub fn tag(globals: &Globals, args: &TagArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    image::tag(&mut store, &args.source, &args.target).map_err(Failure::daemon)?;
    Ok(0)
}

/// `bulkhead rmi`
pub fn rmi(globals: &Globals, args: &RmiArgs) -> Result<u8, Failure> {
    let mut store = store(globals)?;
    let mut failures = Vec::new();
    for name in &args.images {
        match image::remove(&mut store, name, args.force) {
            Ok(removed) => removed.iter().try_for_each(|step| line(&step.to_string()))?,
            Err(error) => failures.push(format!("Error response from daemon: {error}")),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::lines(&failures)) }
}
