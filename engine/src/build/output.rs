//! What a build made, without the image around it: `--output type=tar` and `type=local`.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::Error;
use super::pattern::Ignore;
use super::place::Place;
use super::tree::{Tree, open_directory};
use crate::digest::ChainId;
use crate::image::Image;
use crate::layer::diff;
use crate::snapshot::Snapshot;
use crate::store::{Scratch, Store};

/// The files of some layers, to be read for as long as the scratch directory is held.
///
/// Changes the working directory and the mount namespace where the kernel lacks `lowerdir+` (Minimum kernel: 6.5).
pub(super) fn view(store: &Store, chain: &[ChainId]) -> Result<(Scratch, OwnedFd), Error> {
    let scratch = store.scratch()?;
    let root = Snapshot::prepare_at(scratch.path(), store.layout(), chain)?.view()?;
    Ok((scratch, root))
}

/// Writes an image's files as a tar.
pub fn tar(store: &Store, image: &Image, out: &mut dyn Write) -> Result<(), Error> {
    let (_scratch, root) = view(store, &image.chain)?;
    Ok(diff::Tree::whole(root)?.tar(out)?)
}

/// Copies an image's files into a directory of the host's, which is made where it is missing. What is there stays,
/// unless it has the name of something that comes; no link, of the image's or of the directory's, leads out of it.
pub fn directory(store: &Store, image: &Image, dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|error| Error::io("mkdir", dir, error))?;
    // Before the view, which may change the working directory.
    let to = open_directory(dir).map_err(|error| Error::io("open", dir, error))?;
    let (_scratch, root) = view(store, &image.chain)?;
    let tree = Tree::new(root, Ignore::default(), false);
    let place = Place { root: &to, owner: None, mode: None };
    for found in tree.find("/", &Ignore::default())? {
        place.put(&tree, &found, b"", true)?;
    }
    Ok(())
}
