//! Reads image archives: what `docker save` writes, old and new, OCI archives and OCI layouts.
//!
//! A tar is listed first and then read in any order, so layers can be unpacked side by side. What cannot
//! be read in any order (a pipe, a compressed archive) is spooled, inflated, into the store's scratch
//! directory; the file is gone before anything is synced, so most of it never reaches the disk.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::archive::Archive;
use super::install::{LayerBlob, New, Progress, install};
use super::manifest::{Descriptor, Index, Manifest};
use super::{Error, Reference, host_architecture, tell};
use crate::digest::Digest;
use crate::layer::{self, Framing, Options};
use crate::store::Store;

/// Indexes within indexes.
const MAX_DEPTH: usize = 8;
/// Images in one archive.
const MAX_IMAGES: usize = 4096;

/// Where an archive is.
pub enum Input<'a> {
    /// A file, or a directory that holds an OCI layout.
    Path(&'a Path),
    /// A stream, as standard input is.
    Stream(Box<dyn Read + Send + 'a>),
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// An image that a load brought.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names the archive gave it.
    pub names: Vec<Reference>,
    /// Names taken from another image.
    pub moved: Vec<(Reference, Digest)>,
}

impl Loaded {
    /// What `docker load` prints about it.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .moved
            .iter()
            .map(|(name, old)| {
                format!(
                    "The image {} already exists, renaming the old one with ID {old} to empty string",
                    name.familiar()
                )
            })
            .collect();
        if self.names.is_empty() {
            lines.push(format!("Loaded image ID: {}", self.id));
        }
        lines.extend(self.names.iter().map(|name| format!("Loaded image: {}", name.familiar())));
        lines
    }
}

/// Stores every image of an archive.
pub fn load(
    store: &mut Store,
    input: Input<'_>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Loaded>, Error> {
    store.sweep_scratch()?;
    let spool = store.scratch()?;
    let (archive, name) = match input {
        Input::Path(path) => {
            let shown = path.display().to_string();
            if path.is_dir() {
                (Archive::directory(path)?, shown)
            } else {
                let mut file = File::open(path).map_err(|source| Error::io("open", path, source))?;
                let mut start = [0; 6];
                let n = std::os::unix::fs::FileExt::read_at(&file, &mut start, 0);
                // A FIFO or /dev/stdin has no positions: spool it like any stream.
                let plain = n.is_ok_and(|n| Framing::detect(&start[..n]) == Framing::None)
                    && file.metadata().is_ok_and(|meta| meta.is_file());
                if !plain {
                    file = spool_stream(&mut file, &shown, spool.path())?;
                }
                (Archive::tar(file)?, shown)
            }
        }
        Input::Stream(mut stream) => {
            let shown = "standard input".to_owned();
            (Archive::tar(spool_stream(&mut stream, &shown, spool.path())?)?, shown)
        }
    };
    let images = read_manifests(&archive, &name)?;
    let installed = install(store, &images, &archive, options, progress)?;
    let loaded: Vec<Loaded> = images
        .into_iter()
        .zip(installed)
        .map(|(image, done)| Loaded { id: done.id, names: image.names, moved: done.moved })
        .collect();
    for image in &loaded {
        let names: Vec<String> = image.names.iter().map(Reference::familiar).collect();
        tell(store, "load", &image.id, (!names.is_empty()).then(|| names.join(", ")).as_deref());
    }
    Ok(loaded)
}

/// A file that is gone when it is closed.
pub(super) fn nameless(dir: &Path) -> Result<File, Error> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600);
    options.open(dir).map_err(|source| Error::io("open", dir, source))
}

/// Inflates a stream, called `what`, into a file without a name, in `dir`.
pub(super) fn spool_stream(stream: &mut (dyn Read + Send), what: &str, dir: &Path) -> Result<File, Error> {
    let file = nameless(dir)?;
    layer::inflate_to(stream, &file, layer::Limit::from_env()?)
        .map_err(|source| Error::Layer { what: what.to_owned(), source })?;
    Ok(file)
}

fn read_manifests(archive: &Archive, name: &str) -> Result<Vec<New>, Error> {
    // Docker writes both since 25; its own list has the tags.
    if let Some(manifest) = archive.document("manifest.json")? {
        return docker_archive(archive, &manifest);
    }
    match archive.document("index.json")? {
        Some(index) => oci_layout(archive, &index),
        None => Err(Error::NoManifest(name.to_owned())),
    }
}

fn parse<'a, T: Deserialize<'a>>(file: &str, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Document { file: file.to_owned(), reason: error.to_string() })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The digest that a file's name claims: `blobs/sha256/<hex>`, or `<hex>.json` as Docker wrote before.
fn claimed(name: &str) -> Option<Digest> {
    let hex = name.strip_prefix("blobs/sha256/").or_else(|| name.strip_suffix(".json"))?;
    format!("sha256:{hex}").parse().ok()
}

fn verify(what: &str, bytes: &[u8], expected: Digest) -> Result<(), Error> {
    let actual = Digest::of(bytes);
    if actual == expected {
        return Ok(());
    }
    Err(Error::Mismatch { what: what.to_owned(), expected, actual })
}

fn docker_archive(archive: &Archive, manifest: &[u8]) -> Result<Vec<New>, Error> {
    let manifests: Vec<DockerManifest> = parse("manifest.json", manifest)?;
    if manifests.len() > MAX_IMAGES {
        let reason = format!("{} images: the limit is {MAX_IMAGES}", manifests.len());
        return Err(Error::Document { file: "manifest.json".to_owned(), reason });
    }
    manifests
        .into_iter()
        .map(|manifest| {
            let config =
                archive.document(&manifest.config)?.ok_or_else(|| Error::Missing(manifest.config.clone()))?;
            if let Some(expected) = claimed(&manifest.config) {
                verify(&manifest.config, &config, expected)?;
            }
            let names = manifest
                .repo_tags
                .unwrap_or_default()
                .iter()
                .map(|tag| Ok(Reference::parse(tag)?.tagged()))
                .collect::<Result<_, Error>>()?;
            let layers = manifest
                .layers
                .unwrap_or_default()
                .into_iter()
                .map(|name| LayerBlob { digest: claimed(&name), size: None, name })
                .collect();
            Ok(New { config, manifest: None, layers, names })
        })
        .collect()
}

impl Descriptor {
    /// The name that the archive gives the image, if it is one.
    fn name(&self) -> Result<Option<Reference>, Error> {
        if let Some(name) = self.annotation("io.containerd.image.name") {
            return Ok(Some(Reference::parse(name)?.tagged()));
        }
        match self.annotation("org.opencontainers.image.ref.name") {
            // A tag alone names nothing without its repository.
            Some(name) if name.contains(['/', ':']) => Ok(Some(Reference::parse(name)?.tagged())),
            _ => Ok(None),
        }
    }

    /// Reads the document it describes, checked.
    fn read(&self, archive: &Archive) -> Result<Vec<u8>, Error> {
        let digest: Digest = self.digest.parse()?;
        let file = blob_name(&digest);
        let bytes = archive.document(&file)?.ok_or_else(|| Error::Missing(file.clone()))?;
        if bytes.len() as u64 != self.size {
            return Err(Error::Size { what: file, expected: self.size, actual: bytes.len() as u64 });
        }
        verify(&file, &bytes, digest)?;
        Ok(bytes)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn oci_layout(archive: &Archive, index: &[u8]) -> Result<Vec<New>, Error> {
    let index: Index = parse("index.json", index)?;
    let mut images: Vec<New> = Vec::new();
    let mut seen = HashSet::new();
    let wanted = choose(&index.manifests)?;
    if wanted.len() > MAX_IMAGES {
        let reason = format!("{} images: the limit is {MAX_IMAGES}", wanted.len());
        return Err(Error::Document { file: "index.json".to_owned(), reason });
    }
    for descriptor in wanted {
        let name = descriptor.name()?;
        let new = resolve(archive, descriptor, 0)?;
        let id = Digest::of(&new.config);
        if seen.insert(id) {
            images.push(new);
        }
        // One image may have several names, each in a descriptor of its own.
        if let (Some(name), Some(image)) =
            (name, images.iter_mut().find(|image| Digest::of(&image.config) == id))
            && !image.names.contains(&name)
        {
            image.names.push(name);
        }
    }
    Ok(images)
}

/// Of several manifests under one name, the one for this host; of those under different names, each.
fn choose(manifests: &[Descriptor]) -> Result<Vec<&Descriptor>, Error> {
    let images: Vec<&Descriptor> = manifests.iter().filter(|d| !d.is_attestation()).collect();
    let mut chosen = Vec::new();
    for descriptor in &images {
        let name = descriptor.name()?;
        if descriptor.is_foreign() {
            continue;
        }
        // A name that a platform of ours has taken needs no second image.
        let taken = descriptor.platform.is_some()
            && chosen.iter().any(|other: &&Descriptor| {
                other.platform.is_some() && other.name().ok() == Some(name.clone()) && name.is_some()
            });
        if !taken {
            chosen.push(*descriptor);
        }
    }
    if chosen.is_empty() {
        return Err(Error::NoPlatform(format!("linux/{}", host_architecture())));
    }
    Ok(chosen)
}

fn resolve(archive: &Archive, descriptor: &Descriptor, depth: usize) -> Result<New, Error> {
    let bytes = descriptor.read(archive)?;
    if descriptor.is_index() {
        if depth == MAX_DEPTH {
            let reason = format!("more than {MAX_DEPTH} indexes within each other");
            return Err(Error::Document { file: descriptor.digest.clone(), reason });
        }
        let index: Index = parse(&descriptor.digest, &bytes)?;
        let chosen = choose(&index.manifests)?;
        return resolve(archive, chosen[0], depth + 1);
    }
    let manifest: Manifest = parse(&descriptor.digest, &bytes)?;
    let config = manifest.config.read(archive)?;
    let layers = manifest
        .layers
        .iter()
        .map(|layer| {
            let digest: Digest = layer.digest.parse()?;
            let name = blob_name(&digest);
            let (_, actual) = archive.find(&name)?.ok_or_else(|| Error::Missing(name.clone()))?;
            if actual != layer.size {
                return Err(Error::Size { what: name, expected: layer.size, actual });
            }
            Ok(LayerBlob { name, digest: Some(digest), size: Some(layer.size) })
        })
        .collect::<Result<_, Error>>()?;
    Ok(New { config, manifest: Some(bytes), layers, names: Vec::new() })
}
