//! Writes image archives as Docker 25 and later write them: an OCI layout with `manifest.json` and
//! `repositories` beside it, in one tar that both kinds of readers understand.
//!
//! Layers are put together again from their directories, byte for byte ([`layer::assemble`]), and each
//! is written once however many images share it. Nothing in the archive tells when or where it was
//! written, so the same images give the same bytes, compressed ([`Packing`]) or not. A compressed layer
//! goes through a file without a name first, because its size stands before it in the archive.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Seek as _, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::load::nameless;
use super::manifest::{
    OCI_CONFIG as CONFIG, OCI_INDEX as INDEX, OCI_LAYER as LAYER, OCI_MANIFEST as MANIFEST,
};
use super::{Error, Image, ParseError, Reference, find, layer_dir, list, tell};
use crate::digest::{DiffId, Digest};
use crate::layer::{self, Compression, Packing};
use crate::store::Store;

/// An image and the names it is to be saved under.
struct Wanted {
    image: Image,
    names: Vec<Reference>,
}

/// Writes the images that `names` stand for, as one archive. A repository without a tag stands for all
/// its tags; an id stands for an image without names.
pub fn save(store: &Store, names: &[String], packing: Packing, out: &mut dyn Write) -> Result<(), Error> {
    let spool = match packing.compression() {
        Compression::None => None,
        Compression::Gzip | Compression::Zstd => Some(store.scratch()?),
    };
    let wanted = choose(store, names)?;
    let mut archive = Writer { out };
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;

    let mut index = Vec::new();
    let mut docker = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut written: HashSet<Digest> = HashSet::new();
    let mut packed: HashMap<DiffId, Blob> = HashMap::new();
    for Wanted { image, names } in &wanted {
        let mut layers = Vec::new();
        let mut paths = Vec::new();
        let mut sources = serde_json::Map::new();
        for (diff_id, chain) in image.diff_ids.iter().zip(&image.chain) {
            let stored = Stored { dir: layer_dir(store.layout(), chain), diff_id: *diff_id };
            let blob = match (&spool, packed.get(diff_id)) {
                (_, Some(blob)) => *blob,
                (None, None) => {
                    let blob = Blob { digest: diff_id.0, size: stored.size()? };
                    archive.header(&blob_name(&blob.digest), blob.size, tar::EntryType::Regular)?;
                    stored.write(archive.out)?;
                    archive.pad(blob.size)?;
                    blob
                }
                (Some(spool), None) => {
                    let (file, blob) = stored.pack(packing, spool.path())?;
                    // Two layers never pack to the same bytes, but a stranger's archive may hold one twice.
                    if written.insert(blob.digest) {
                        archive.header(&blob_name(&blob.digest), blob.size, tar::EntryType::Regular)?;
                        archive.copy(file)?;
                        archive.pad(blob.size)?;
                    }
                    blob
                }
            };
            packed.insert(*diff_id, blob);
            let kind = format!("{LAYER}{}", suffix(packing.compression()));
            let descriptor = json!({ "mediaType": kind, "digest": blob.digest, "size": blob.size });
            sources.insert(diff_id.to_string(), descriptor.clone());
            paths.push(blob_name(&blob.digest));
            layers.push(descriptor);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": image.id, "size": image.raw.len() },
            "layers": layers,
        })
        .to_string()
        .into_bytes();
        let digest = Digest::of(&manifest);
        for (digest, bytes) in [(image.id, &image.raw), (digest, &manifest)] {
            if written.insert(digest) {
                archive.file(&blob_name(&digest), bytes)?;
            }
        }
        let describe = |annotations: Option<serde_json::Value>| {
            let mut descriptor = json!({ "mediaType": MANIFEST, "digest": digest, "size": manifest.len() });
            if let Some(annotations) = annotations {
                descriptor["annotations"] = annotations;
            }
            descriptor["platform"] = json!({ "architecture": image.architecture, "os": image.os });
            descriptor
        };
        if names.is_empty() {
            index.push(describe(None));
        }
        for name in names {
            let tag = name.tag().unwrap_or_default();
            index.push(describe(Some(json!({
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": tag,
            }))));
            repositories.entry(name.familiar_name()).or_default().insert(
                tag.to_owned(),
                image.diff_ids.last().map_or_else(|| image.id.hex(), |id| id.0.hex()),
            );
        }
        docker.push(json!({
            "Config": blob_name(&image.id),
            "RepoTags": if names.is_empty() {
                serde_json::Value::Null
            } else {
                names.iter().map(Reference::familiar).collect()
            },
            "Layers": paths,
            "LayerSources": sources,
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": index });
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.file("manifest.json", serde_json::Value::from(docker).to_string().as_bytes())?;
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    if !repositories.is_empty() {
        archive.file("repositories", json!(repositories).to_string().as_bytes())?;
    }
    archive.write(&[0; 1024])?;
    archive.out.flush().map_err(|source| Error::io("write", Path::new("archive"), source))?;
    for Wanted { image, names } in &wanted {
        if names.is_empty() {
            tell(store, "save", &image.id, None);
        }
        for name in names {
            tell(store, "save", &image.id, Some(&name.familiar()));
        }
    }
    Ok(())
}

/// What the OCI adds to the media type of a compressed layer.
pub(super) fn suffix(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    }
}

/// A layer as it is in the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blob {
    pub digest: Digest,
    pub size: u64,
}

/// A layer as it is in the store.
pub(super) struct Stored {
    pub dir: PathBuf,
    pub diff_id: DiffId,
}

impl Stored {
    fn failed(&self, source: layer::Error) -> Error {
        Error::Layer { what: format!("layer {}", self.diff_id), source }
    }

    fn size(&self) -> Result<u64, Error> {
        layer::assembled_size(&self.dir).map_err(|error| self.failed(error))
    }

    /// Writes its tar, and makes sure that it is the one it was.
    fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        let actual = layer::assemble(&self.dir, out).map_err(|error| self.failed(error))?;
        if actual == self.diff_id {
            return Ok(());
        }
        let what = format!("stored layer {}", self.dir.display());
        Err(Error::DiffId { what, expected: self.diff_id, actual })
    }

    /// Compresses it into a file without a name in `dir`, which is at its start again.
    pub fn pack(&self, packing: Packing, dir: &Path) -> Result<(File, Blob), Error> {
        let failed = |source| Error::io("write", dir, source);
        let mut tap = Tap { file: nameless(dir)?, hash: Sha256::new(), size: 0 };
        let mut packer = packing.writer(&mut tap).map_err(failed)?;
        self.write(&mut packer)?;
        packer.finish().map_err(failed)?;
        let Tap { mut file, hash, size } = tap;
        file.rewind().map_err(failed)?;
        Ok((file, Blob { digest: Digest::from_bytes(hash.finalize().into()), size }))
    }
}

/// Hashes and counts what goes into a file.
struct Tap {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn choose(store: &Store, names: &[String]) -> Result<Vec<Wanted>, Error> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut want = |image: Image, name: Option<Reference>| {
        let place = wanted.iter().position(|w| w.image.id == image.id).unwrap_or_else(|| {
            wanted.push(Wanted { image, names: Vec::new() });
            wanted.len() - 1
        });
        if let Some(name) = name
            && !wanted[place].names.contains(&name)
        {
            wanted[place].names.push(name);
        }
    };
    for text in names {
        match Reference::parse(text) {
            // A repository: every tag in it, if it has any.
            Ok(name) if name.tag().is_none() && name.digest().is_none() => {
                let mut tags: Vec<(Reference, Image)> = Vec::new();
                for image in list(store)? {
                    for other in &image.references {
                        if other.repository() == name.repository() && other.tag().is_some() {
                            tags.push((other.clone(), image.clone()));
                        }
                    }
                }
                tags.sort_by(|a, b| a.0.cmp(&b.0));
                if tags.is_empty() {
                    want(find(store, text)?, None);
                }
                for (tag, image) in tags {
                    want(image, Some(tag));
                }
            }
            Ok(name) => {
                let image = find(store, text)?;
                let named = image.references.contains(&name) && name.tag().is_some();
                want(image, named.then_some(name));
            }
            Err(ParseError::Identifier(_)) => want(find(store, text)?, None),
            Err(_) if text.starts_with("sha256:") => want(find(store, text)?, None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(wanted)
}

/// Writes tar entries that differ in name, size and content only.
struct Writer<'a> {
    out: &'a mut dyn Write,
}

impl Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|source| Error::io("write", Path::new("archive"), source))
    }

    fn header(&mut self, name: &str, size: u64, kind: tar::EntryType) -> Result<(), Error> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).map_err(|source| Error::io("write", Path::new(name), source))?;
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn copy(&mut self, mut file: File) -> Result<(), Error> {
        let copied = io::copy(&mut file, self.out);
        copied.map(drop).map_err(|source| Error::io("write", Path::new("archive"), source))
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        self.write(&[0; 512][..(size.wrapping_neg() % 512) as usize])
    }

    fn directory(&mut self, name: &str) -> Result<(), Error> {
        self.header(name, 0, tar::EntryType::Directory)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.header(name, bytes.len() as u64, tar::EntryType::Regular)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }
}
