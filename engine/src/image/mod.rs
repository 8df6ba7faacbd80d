//! Images: a configuration, a stack of layers, and names for both.
//!
//! An image's identity is the digest of its configuration, byte for byte, so those bytes are what the
//! store keeps; everything else here is read from them. Names are rows of their own that point at an
//! image and can be moved. Layers are directories named by chain-id ([`crate::layer`]).
//!
//! *Adding* ([`install()`]): layers are unpacked side by side in a scratch directory, checked against the
//! digests that name them, made durable by one `syncfs`, renamed into place, and recorded in one
//! transaction. *Removing* ([`remove()`]) goes the other way round: rows first, then directories. A crash
//! between the two leaves a directory without a row, which [`sweep`] finds.
//!
//! The two meet in one lock: whoever adds holds `layers/` shared from the moment it decides what need
//! not be unpacked until its rows are in; whoever deletes directories holds it exclusively, and does not
//! wait for it.

mod archive;
mod commit;
pub mod filter;
mod import;
mod install;
mod load;
mod manifest;
mod pull;
mod push;
mod reference;
mod remove;
mod save;
#[cfg(test)]
mod tests;
pub mod view;

use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::digest::{self, ChainId, DiffId, Digest};
use crate::events::{Event, Kind};
use crate::layer;
use crate::store::{self, Store};

pub(crate) use commit::add_layer;
pub use commit::{Commit, Recipe, commit, put};
pub use import::{Change, import};
pub use install::{Blobs, Installed, LayerBlob, New, Progress, Silent, install, install_layer};
pub(crate) use install::{Top, lock as hold};
pub use load::{Input, Loaded, load};
pub use manifest::{InvalidPlatform, Platform};
pub use pull::{Pulled, Resolved, Watcher, pull, pull_tags, resolve};
pub use push::{Placed, PushWatcher, Pushed, push};
pub use reference::{ParseError, Reference};
pub(crate) use remove::drop_orphans;
pub use remove::{Removed, remove, sweep};
pub use save::save;

/// Why something could not be done with images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image answers to that name.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// A prefix fits more than one image.
    #[error("image ID prefix is ambiguous: {0}")]
    AmbiguousPrefix(String),
    /// A name is malformed.
    #[error(transparent)]
    Reference(#[from] ParseError),
    /// A digest is malformed.
    #[error(transparent)]
    Digest(#[from] digest::ParseError),
    /// A name with a digest was given where only a tag makes sense.
    #[error("refusing to create a tag with a digest reference")]
    TagDigest,
    /// A name has a container behind it.
    #[error(
        "conflict: unable to remove repository reference \"{name}\" (must force) - container {container} is using its referenced image {image}"
    )]
    NameInUse {
        /// The name as given.
        name: String,
        /// The container's short id.
        container: String,
        /// The image's short id.
        image: String,
    },
    /// An id has several names.
    #[error("conflict: unable to delete {0} (must be forced) - image is referenced in multiple repositories")]
    ManyNames(String),
    /// A running container uses the image.
    #[error(
        "conflict: unable to delete {image} (cannot be forced) - image is being used by running container {container}"
    )]
    Running {
        /// The image's short id.
        image: String,
        /// The container's short id.
        container: String,
    },
    /// A stopped container uses the image.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {container}"
    )]
    Stopped {
        /// The image's short id.
        image: String,
        /// The container's short id.
        container: String,
    },
    /// A file failed us.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The operation.
        call: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The archive holds neither kind of manifest.
    #[error("{0} is no image archive: it has neither manifest.json nor index.json")]
    NoManifest(String),
    /// The archive lacks a file that its manifest names.
    #[error("invalid image archive: {0:?} is missing")]
    Missing(String),
    /// A document in the archive is not what it should be.
    #[error("invalid image archive: {file}: {reason}")]
    Document {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The outer archive is broken.
    #[error("invalid image archive: {0}")]
    Archive(#[source] layer::TarError),
    /// Content does not have the digest that names it.
    #[error("{what}: digest mismatch: expected {expected}, got {actual}")]
    Mismatch {
        /// The content.
        what: String,
        /// What names it.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A layer's tar is not the one that the configuration names.
    #[error("{what}: diff-id mismatch: expected {expected}, got {actual}")]
    DiffId {
        /// The layer.
        what: String,
        /// What the configuration says.
        expected: DiffId,
        /// What was unpacked.
        actual: DiffId,
    },
    /// Content does not have the size that its descriptor states.
    #[error("{what}: size mismatch: expected {expected} bytes, got {actual}")]
    Size {
        /// The content.
        what: String,
        /// What the descriptor says.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// No image of an index is for this host.
    #[error("no matching manifest for {0} in the manifest list entries")]
    NoPlatform(String),
    /// A `--change` instruction is not one of those that apply to an image.
    #[error("{0}")]
    Change(String),
    /// A layer failed.
    #[error("{what}: {source}")]
    Layer {
        /// The layer.
        what: String,
        /// Why.
        source: layer::Error,
    },
    /// A setting of the layer pipeline is wrong.
    #[error(transparent)]
    Setting(#[from] layer::Error),
    /// What a container changed could not be read.
    #[error("read the container's changes: {0}")]
    Changes(#[source] layer::Error),
    /// A stored configuration cannot be read back.
    #[error("stored image {id}: {reason}")]
    Stored {
        /// The image.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    /// What a registry has under the name is no image.
    #[error("{name}: unsupported media type {kind:?}: it is no image")]
    NoImage {
        /// What was asked for.
        name: String,
        /// What the configuration is called.
        kind: String,
    },
    /// The image is for something else than was asked for.
    #[error(
        "image with reference {name} was found but does not match the specified platform: wanted {wanted}, actual: {actual}"
    )]
    OtherPlatform {
        /// The image as asked for.
        name: String,
        /// The platform asked for.
        wanted: String,
        /// The platform it is for.
        actual: String,
    },
    /// Nothing can be pushed that has no name.
    #[error("An image does not exist locally with the tag: {0}")]
    NoSuchTag(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    fn io(call: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { call, path: path.to_owned(), source }
    }
}

/// One step in an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What was said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The parts of a configuration document that every image must have, and those it may.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    architecture: String,
    os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<serde_json::Value>,
    rootfs: RootFs,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<History>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    /// Of the layers that a build has made: see [`crate::build::inherit`].
    #[serde(rename = "bulkhead.cache.v0", skip_serializing_if = "Option::is_none")]
    build_cache: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct RootFs {
    r#type: String,
    diff_ids: Option<Vec<DiffId>>,
}

/// A stored image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration.
    pub id: Digest,
    /// Names, sorted.
    pub references: Vec<Reference>,
    /// What a container made from it starts with.
    pub config: Config,
    /// In Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Of the architecture: `v7`, `v8`.
    pub variant: Option<String>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// By whom.
    pub author: Option<String>,
    /// What was said about it.
    pub comment: Option<String>,
    /// How it was made, oldest step first.
    pub history: Vec<History>,
    /// Its layers' tars, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// Its layers' directories, lowest first.
    pub chain: Vec<ChainId>,
    /// Bytes of file content in all layers.
    pub size: u64,
    /// Digest of the manifest it came with.
    pub digest: Option<Digest>,
    /// When it was stored, RFC 3339.
    pub loaded: String,
    /// The configuration as it was given.
    pub raw: Vec<u8>,
}

impl Image {
    /// What it runs on.
    pub fn platform(&self) -> Platform {
        let (os, architecture) = (self.os.clone(), self.architecture.clone());
        Platform { os, architecture, variant: self.variant.clone() }
    }

    /// The digest that a name has at its registry: its own, or one that its repository is known to have. Of an
    /// image that no registry has had to do with, it is that of the manifest which it came with.
    pub fn digest_of(&self, name: &Reference) -> Option<Digest> {
        let beside = || {
            let same = |other: &&Reference| other.repository() == name.repository();
            self.references.iter().filter(same).find_map(Reference::digest)
        };
        let otherwise =
            || if self.references.iter().any(|r| r.digest().is_some()) { None } else { self.digest };
        name.digest().or_else(beside).or_else(otherwise)
    }

    /// `REPOSITORY@DIGEST` for each repository it has a name in, when it came with a manifest.
    pub fn repo_digests(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .references
            .iter()
            .filter_map(|reference| Some(reference.with_digest(self.digest_of(reference)?).familiar()))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Whether it has no tag. A digest is what it once had at a registry, and keeps nobody from pruning it.
    pub fn is_dangling(&self) -> bool {
        self.references.iter().all(|reference| reference.tag().is_none())
    }

    /// `REPOSITORY:TAG` of each tag.
    pub fn repo_tags(&self) -> Vec<String> {
        let tagged = self.references.iter().filter(|reference| reference.tag().is_some());
        tagged.map(Reference::familiar).collect()
    }
}

/// Reads a configuration document; `Err` says what is wrong with it.
fn parse_document(raw: &[u8]) -> Result<(Document, Config), String> {
    let document: Document = serde_json::from_slice(raw).map_err(|error| error.to_string())?;
    let config = match document.config.clone() {
        None => Config::default(),
        Some(mut value) => {
            drop_nulls(&mut value);
            serde_json::from_value(value).map_err(|error| error.to_string())?
        }
    };
    Ok((document, config))
}

/// Go writes an empty list as `null`.
fn drop_nulls(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

/// What this host runs, in Go's words.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

const COLUMNS: &str = "SELECT id, config, digest, size, loaded FROM image";

type Row = (String, Vec<u8>, Option<String>, i64, String);

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn from_row(store: &Store, (id, raw, digest, size, loaded): Row) -> Result<Image, Error> {
    let stored = |reason: String| Error::Stored { id: id.clone(), reason };
    let (document, config) = parse_document(&raw).map_err(stored)?;
    let diff_ids = document.rootfs.diff_ids.unwrap_or_default();
    let mut query = store
        .db()
        .prepare_cached("SELECT name FROM reference WHERE image = ?1 ORDER BY name")
        .map_err(|e| store.db_error(e))?;
    let references = query
        .query_map([&id], |row| row.get::<_, String>(0))
        .map_err(|e| store.db_error(e))?
        .map(|name| Ok(Reference::parse(&name.map_err(|e| store.db_error(e))?)?))
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(Image {
        references,
        config,
        architecture: document.architecture,
        os: document.os,
        variant: document.variant,
        created: document.created,
        author: document.author,
        comment: document.comment,
        history: document.history.unwrap_or_default(),
        chain: ChainId::chain(&diff_ids),
        diff_ids,
        size: size as u64,
        digest: digest.map(|text| text.parse()).transpose()?,
        loaded,
        id: id.parse()?,
        raw,
    })
}

/// All images, the newest first.
pub fn list(store: &Store) -> Result<Vec<Image>, Error> {
    let rows = {
        let mut query = store.db().prepare_cached(COLUMNS).map_err(|e| store.db_error(e))?;
        let rows = query.query_map([], row).map_err(|e| store.db_error(e))?;
        rows.collect::<Result<Vec<_>, _>>().map_err(|e| store.db_error(e))?
    };
    let mut images = rows.into_iter().map(|row| from_row(store, row)).collect::<Result<Vec<_>, _>>()?;
    let when = |image: &Image| image.created.as_deref().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    images.sort_by(|a, b| when(b).cmp(&when(a)).then_with(|| a.id.cmp(&b.id)));
    Ok(images)
}

/// What is here of a repository, tag by tag.
pub fn tags(store: &Store, repository: &Reference) -> Result<Vec<Reference>, Error> {
    let all = list(store)?.into_iter().flat_map(|image| image.references);
    let mut tags: Vec<Reference> =
        all.filter(|name| name.repository() == repository.repository() && name.tag().is_some()).collect();
    tags.sort();
    if tags.is_empty() { Err(Error::NoSuchTag(repository.familiar_name())) } else { Ok(tags) }
}

/// The image with that id.
pub fn get(store: &Store, id: &Digest) -> Result<Option<Image>, Error> {
    let found = store
        .db()
        .prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))
        .and_then(|mut query| query.query_row([id.to_string()], row).optional())
        .map_err(|e| store.db_error(e))?;
    found.map(|row| from_row(store, row)).transpose()
}

/// The image that a name, `name@digest`, id or unique prefix of an id stands for, in Docker's order.
pub fn find(store: &Store, text: &str) -> Result<Image, Error> {
    // Docker says which tag it looked for.
    let missing = || {
        let tagged = Reference::parse(text).map_or_else(|_| text.to_owned(), |name| name.tagged().familiar());
        Error::NoSuchImage(tagged)
    };
    let by_id = |id: String| -> Result<Image, Error> { get(store, &id.parse()?)?.ok_or_else(missing) };
    if let Some(hex) = text.strip_prefix("sha256:") {
        return by_id(find_prefix(store, hex, text)?.ok_or_else(missing)?);
    }
    // A name wins over a prefix: `cafe` is the image of that name, if there is one.
    match Reference::parse(text) {
        Ok(reference) => {
            if let Some(id) = find_name(store, &reference.tagged())? {
                return by_id(id);
            }
        }
        Err(ParseError::Identifier(_)) => {}
        Err(error) => return Err(error.into()),
    }
    by_id(find_prefix(store, text, text)?.ok_or_else(missing)?)
}

fn find_name(store: &Store, reference: &Reference) -> Result<Option<String>, Error> {
    let one = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        store
            .db()
            .prepare_cached(sql)
            .and_then(|mut query| query.query_row(params, |row| row.get::<_, String>(0)).optional())
            .map_err(|e| store.db_error(e))
    };
    let Some(digest) = reference.digest() else {
        return Ok(one("SELECT image FROM reference WHERE name = ?1", &[&reference.to_string()])?);
    };
    // With a digest the tag is decoration.
    let name = reference.with_digest(digest).to_string();
    if let Some(id) = one("SELECT image FROM reference WHERE name = ?1", &[&name])? {
        return Ok(Some(id));
    }
    // Any tag of the repository whose image came with that manifest.
    let repository = format!("{}:", reference.repository());
    Ok(one(
        "SELECT image.id FROM image JOIN reference ON reference.image = image.id
         WHERE image.digest = ?1 AND substr(reference.name, 1, length(?2)) = ?2",
        &[&digest.to_string(), &repository],
    )?)
}

/// The id that starts with `hex`, if only one does.
fn find_prefix(store: &Store, hex: &str, text: &str) -> Result<Option<String>, Error> {
    if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(None);
    }
    let mut query = store
        .db()
        .prepare_cached("SELECT id FROM image WHERE id >= ?1 AND id < ?2 LIMIT 2")
        .map_err(|e| store.db_error(e))?;
    // `g` sorts after every hexadecimal digit.
    let (from, to) = (format!("sha256:{hex}"), format!("sha256:{hex}g"));
    let mut found = query
        .query_map([from, to], |row| row.get(0))
        .and_then(Iterator::collect::<Result<Vec<String>, _>>)
        .map_err(|e| store.db_error(e))?;
    match found.len() {
        0 => Ok(None),
        1 => Ok(found.pop()),
        _ => Err(Error::AmbiguousPrefix(text.to_owned())),
    }
}

/// What unpacking has cost since the store was made. It only ever grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Images for which something had to be unpacked.
    pub images: u64,
    /// Layers.
    pub layers: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Nanoseconds from the first byte until the layers were durable.
    pub ns: u64,
}

/// What unpacking has cost.
pub fn cost(store: &Store) -> Result<Cost, Error> {
    let cost = store
        .db()
        .prepare_cached("SELECT images, layers, bytes, ns FROM unpacked")
        .and_then(|mut query| {
            query.query_row([], |row| {
                let number = |at| row.get::<_, i64>(at).map(|n| n as u64);
                Ok(Cost { images: number(0)?, layers: number(1)?, bytes: number(2)?, ns: number(3)? })
            })
        })
        .map_err(|error| store.db_error(error))?;
    Ok(cost)
}

/// Tells of an image, by `name` where it has one: whoever did it to the store says so, so that no way to
/// the same deed (`rmi`, `image prune`, `system prune`) is a silent one.
fn tell(store: &Store, action: &str, id: &Digest, name: Option<&str>) {
    let id = id.to_string();
    Event::new(Kind::Image, action, &id).with("name", name.unwrap_or(&id)).tell(store.layout());
}

/// Gives `source`'s image the name `target` too; what had that name loses it.
pub fn tag(store: &mut Store, source: &str, target: &str) -> Result<Reference, Error> {
    let target = Reference::parse(target)?.tagged();
    if target.digest().is_some() {
        return Err(Error::TagDigest);
    }
    let image = find(store, source)?;
    store
        .db()
        .execute(
            "INSERT INTO reference (name, image) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET image = excluded.image",
            [target.to_string(), image.id.to_string()],
        )
        .map_err(|e| store.db_error(e))?;
    tell(store, "tag", &image.id, Some(&target.familiar()));
    Ok(target)
}

/// The `diff` directories of a stack, the highest first.
pub fn diff_dirs(layout: &store::Layout, chain: &[ChainId]) -> Vec<PathBuf> {
    chain.iter().rev().map(|id| layer_dir(layout, id).join("diff")).collect()
}

/// The directory of one layer.
pub fn layer_dir(layout: &store::Layout, id: &ChainId) -> PathBuf {
    layout.layers().join(id.0.hex())
}
