//! Where what was built goes: `--output`, `--push`, and the files that say what was made.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use bulkhead_engine::build;
use bulkhead_engine::digest::Digest;
use bulkhead_engine::image::{self, Image, Reference};
use bulkhead_engine::layer::Packing;
use bulkhead_engine::registry::Session;
use bulkhead_engine::store::Store;

use super::progress::{Plain, printable};
use super::{failed, refused};
use crate::cli::build::BuildArgs;
use crate::commands::registry;
use crate::commands::store::into_file;
use crate::failure::Failure;
use crate::options::env;
use crate::options::output::{self, Output, Place};

/// Where what is built goes: `--output`, and the words for two of them.
pub(super) fn outputs(args: &BuildArgs) -> Result<Vec<Output>, Failure> {
    let is_terminal = io::stdout().is_terminal();
    let mut outputs = args
        .output
        .iter()
        .map(|text| output::parse(text, is_terminal).map_err(refused))
        .collect::<Result<Vec<_>, _>>()?;
    if args.push {
        if args.tag.is_empty() {
            return Err(refused("tag is needed when pushing to registry"));
        }
        outputs.push(Output::Image { names: Vec::new(), push: true });
    }
    if args.load {
        outputs.push(Output::Image { names: Vec::new(), push: false });
    }
    Ok(outputs)
}

/// Brings what was built to one of its destinations.
pub(super) fn deliver(
    store: &mut Store,
    plain: &mut Plain,
    built: &Image,
    names: &[Reference],
    output: &Output,
    session: &dyn Fn() -> Result<Session, bulkhead_engine::registry::Error>,
) -> Result<(), Failure> {
    let told = |error: &dyn std::fmt::Display| {
        Failure::plain(format!("ERROR: failed to build: failed to solve: {}", printable(&error.to_string())))
    };
    let files = |store: &Store, place: &Place, is_tar: bool| {
        let write = |out: &mut dyn io::Write| {
            if is_tar {
                return build::output::tar(store, built, out).map_err(|error| failed(&error));
            }
            let mut named: Vec<String> = names.iter().map(ToString::to_string).collect();
            if named.is_empty() {
                named.push(built.id.to_string());
            }
            image::save(store, &named, Packing::PLAIN, out).map_err(|error| told(&error))
        };
        match place {
            Place::File(path) => into_file(&path.display().to_string(), "ERROR: failed to build", write),
            Place::Stdout => {
                let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
                write(&mut out)?;
                out.flush().map_err(|error| Failure::stdout(&error))
            }
        }
    };
    match output {
        Output::Image { push: false, .. } => Ok(()),
        Output::Image { push: true, .. } => {
            let session = session().map_err(|error| told(&error))?;
            for name in names {
                let pushed = registry::push_built(store, &session, name, plain.quiet)?;
                let manifest = format!("pushing manifest for {name}@{} done", pushed.digest);
                plain.own(&format!("pushing {}", name.familiar()), &manifest);
            }
            Ok(())
        }
        Output::Local(dir) => {
            build::output::directory(store, built, dir).map_err(|error| failed(&error))?;
            plain.own("exporting to client directory", &format!("copying files to {} done", dir.display()));
            Ok(())
        }
        Output::Tar(place) => {
            files(store, place, true)?;
            plain.own("exporting to client tarball", "sending tarball done");
            Ok(())
        }
        Output::Archive(place) => {
            files(store, place, false)?;
            plain.own("exporting to docker image format", "sending tarball done");
            Ok(())
        }
    }
}

/// What `--metadata-file` says, in buildx's words: of files without an image there is nothing to say.
pub(super) fn metadata(id: Option<&Digest>, names: &[Reference]) -> serde_json::Value {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut all = serde_json::json!({});
    if let Some(id) = id {
        all["containerimage.config.digest"] = id.to_string().into();
        all["containerimage.digest"] = id.to_string().into();
    }
    if !names.is_empty() {
        all["image.name"] = names.join(",").into();
    }
    all
}

/// A small file that says what was made, which is there as a whole or not at all.
pub(super) fn say(path: &Path, text: &str) -> Result<(), Failure> {
    let shown = path.display().to_string();
    into_file(&shown, "ERROR", |out| {
        out.write_all(text.as_bytes())
            .map_err(|error| refused(format!("write {shown}: {}", env::reason(&error))))
    })
}
