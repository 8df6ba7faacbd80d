//! Writes image archives as Docker 25 and later write them: an OCI layout with `manifest.json` and
//! `repositories` beside it, in one tar that both kinds of readers understand.
//!
//! Layers are put together again from their directories, byte for byte ([`layer::assemble`]), and each
//! is written once however many images share it. Nothing in the archive tells when or where it was
//! written, so the same images give the same bytes.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::{Error, Image, ParseError, Reference, find, layer_dir, list};
use crate::digest::Digest;
use crate::layer;
use crate::store::Store;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image and the names it is to be saved under.
struct Wanted {
    image: Image,
    names: Vec<Reference>,
}

/// Writes the images that `names` stand for, as one archive. A repository without a tag stands for all
/// its tags; an id stands for an image without names.
pub fn save(store: &Store, names: &[String], out: &mut dyn Write) -> Result<(), Error> {
    let wanted = choose(store, names)?;
    let mut archive = Writer { out };
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;

    let mut index = Vec::new();
    let mut docker = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut written: HashSet<Digest> = HashSet::new();
    for Wanted { image, names } in &wanted {
        let mut layers = Vec::new();
        let mut sources = serde_json::Map::new();
        for (diff_id, chain) in image.diff_ids.iter().zip(&image.chain) {
            let dir = layer_dir(store.layout(), chain);
            let failed = |source| Error::Layer { what: format!("layer {diff_id}"), source };
            let size = layer::assembled_size(&dir).map_err(failed)?;
            let descriptor = json!({ "mediaType": LAYER, "digest": diff_id, "size": size });
            sources.insert(diff_id.to_string(), descriptor.clone());
            layers.push(descriptor);
            if !written.insert(diff_id.0) {
                continue;
            }
            archive.header(&blob(&diff_id.0), size, tar::EntryType::Regular)?;
            let actual = layer::assemble(&dir, archive.out).map_err(failed)?;
            if actual != *diff_id {
                return Err(Error::DiffId {
                    what: format!("stored layer {}", dir.display()),
                    expected: *diff_id,
                    actual,
                });
            }
            archive.pad(size)?;
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
                archive.file(&blob(&digest), bytes)?;
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
            "Config": blob(&image.id),
            "RepoTags": if names.is_empty() {
                serde_json::Value::Null
            } else {
                names.iter().map(Reference::familiar).collect()
            },
            "Layers": image.diff_ids.iter().map(|id| blob(&id.0)).collect::<Vec<_>>(),
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
    archive.out.flush().map_err(|source| Error::io("write", Path::new("archive"), source))
}

fn blob(digest: &Digest) -> String {
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
