//! `commit`, `diff`, `export`: what a container changed, as an image, a list or a tar.

use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use bulkhead_engine::container::{self, changes};
use bulkhead_engine::image::{self, Change, Reference};

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::container::{CommitArgs, ExportArgs, OneContainer};
use crate::commands::store::into_file;
use crate::failure::Failure;
use crate::output::line;

/// `bulkhead commit`
pub fn commit(globals: &Globals, args: &CommitArgs) -> Result<u8, Failure> {
    let name = args.reference.as_deref().map(Reference::parse).transpose().map_err(Failure::daemon)?;
    let name = name.map(Reference::tagged);
    if name.as_ref().is_some_and(|name| name.digest().is_some()) {
        return Err(Failure::daemon(image::Error::TagDigest));
    }
    let changes = args.change.iter().map(|text| Change::parse(text)).collect::<Result<_, _>>();
    let options = changes::Options {
        config: None,
        name,
        author: args.author.clone(),
        message: args.message.clone(),
        changes: changes.map_err(Failure::daemon)?,
        pause: args.pause,
    };
    let mut store = store(globals)?;
    let found = container::find(&store, &args.container).map_err(Failure::daemon)?;
    let id = changes::commit(&mut store, &found, options).map_err(Failure::daemon)?;
    line(&id.to_string())?;
    Ok(0)
}

/// `bulkhead diff`
pub fn diff(globals: &Globals, args: &OneContainer) -> Result<u8, Failure> {
    let store = store(globals)?;
    let found = container::find(&store, &args.container).map_err(Failure::daemon)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for change in changes::diff(&store, &found).map_err(Failure::daemon)? {
        // A name is bytes, and is printed as it is.
        write!(out, "{} ", change.kind.letter())
            .and_then(|()| out.write_all(change.path.as_os_str().as_bytes()))
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|error| Failure::stdout(&error))?;
    }
    out.flush().map_err(|error| Failure::stdout(&error))?;
    Ok(0)
}

/// `bulkhead export`
pub fn export(globals: &Globals, args: &ExportArgs) -> Result<u8, Failure> {
    let Some(path) = args.output.as_deref().filter(|path| !path.is_empty()) else {
        if io::stdout().is_terminal() {
            return Err(Failure::plain(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect",
            ));
        }
        let store = store(globals)?;
        let found = container::find(&store, &args.container).map_err(Failure::daemon)?;
        let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
        changes::export(&store, &found, &mut out).map_err(|error| {
            changes::is_output(&error).map_or_else(|| Failure::daemon(&error), Failure::stdout)
        })?;
        out.flush().map_err(|error| Failure::stdout(&error))?;
        return Ok(0);
    };
    let place = Path::new(path);
    let dir = place.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        return Err(Failure::plain(format!(
            "failed to export container: invalid output path: directory {:?} does not exist",
            dir.display().to_string()
        )));
    }
    if place.is_dir() {
        return Err(Failure::plain(format!(
            "failed to export container: invalid output path: {path:?} is a directory"
        )));
    }
    let store = store(globals)?;
    let found = container::find(&store, &args.container).map_err(Failure::daemon)?;
    into_file(path, "failed to export container", |out| {
        changes::export(&store, &found, out).map_err(Failure::daemon)
    })?;
    Ok(0)
}
