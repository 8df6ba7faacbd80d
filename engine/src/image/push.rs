//! Sends images to registries.
//!
//! A layer is kept as files, so its blob has to be made: put together, compressed ([`crate::layer`]) and
//! sent. Each of that is saved where it can be: as what blobs registries have our layers is remembered
//! (table `blob`), and what the repository has, or another of the same registry, is neither compressed nor
//! sent. Where every blob turns out to be the one that the image came with, its own manifest is sent, and
//! the image keeps its digest.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::json;

use super::install::lock;
use super::manifest::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, stored_layers};
use super::pull::{Known, remember};
use super::save::{Stored, suffix};
use super::{Error, Image, Reference, find, layer_dir};
use crate::digest::{ChainId, DiffId, Digest};
use crate::events::{Event, Kind};
use crate::layer::{Compression, Packing};
use crate::registry::{Content, Endpoint, Repository, Session};
use crate::store::Store;

/// How a layer came to be in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// It has been there.
    Exists,
    /// The registry took it from another repository.
    Mounted(String),
    /// It has been sent.
    Sent,
}

/// Hears how far a push has come. Calls come from several threads.
pub trait PushWatcher: Sync {
    /// The image has these layers, lowest first.
    fn layers(&self, layers: &[DiffId]);
    /// A layer is compressed.
    fn packing(&self, layer: &DiffId);
    /// A layer's blob of so many bytes is sent.
    fn begin(&self, layer: &DiffId, bytes: u64);
    /// So many more of them have gone.
    fn advance(&self, layer: &DiffId, bytes: u64);
    /// It is there.
    fn done(&self, layer: &DiffId, how: &Placed);
}

/// What a push has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: usize,
}

/// Sends the image that a tag stands for to that tag's repository. `packing` is what layers are made of that
/// the registry does not have; `given` if somebody asked for it, so that blobs of another kind will not do.
pub fn push(
    store: &mut Store,
    session: &Session,
    name: &Reference,
    packing: Packing,
    given: bool,
    watcher: &dyn PushWatcher,
) -> Result<Pushed, Error> {
    let name = name.clone().tagged();
    let missing = || Error::NoSuchTag(name.familiar());
    let tag = name.tag().ok_or_else(missing)?;
    let image = match find(store, &name.to_string()) {
        Ok(image) if image.references.contains(&name) => image,
        Ok(_) | Err(Error::NoSuchImage(_)) => return Err(missing()),
        Err(error) => return Err(error),
    };
    let repository = session.repository(&Endpoint::of(name.domain()), name.path(), true)?;
    watcher.layers(&image.diff_ids);

    let mut seen = HashSet::new();
    let mut tasks = Vec::new();
    for (diff_id, chain) in image.diff_ids.iter().zip(&image.chain) {
        if seen.insert(*diff_id) {
            let known = candidates(store, diff_id, name.domain())?;
            let known =
                known.into_iter().filter(|(_, k)| !given || is_of(&k.media_type, packing.compression()));
            tasks.push(Task { diff_id: *diff_id, chain: *chain, known: known.collect() });
        }
    }
    // Nothing that is being read may be removed meanwhile.
    let lock = lock(store)?;
    let placed = place_all(store, &repository, &name, &tasks, packing, session.settings().uploads, watcher)?;
    drop(lock);
    remember(store, &name.repository(), placed.iter().cloned())?;

    if !repository.has(&image.id)? {
        repository.send(&image.id, Content::Bytes(&image.raw))?;
    }
    let find = |diff_id: &DiffId| placed.iter().find(|known| known.diff_id == *diff_id);
    let layers: Vec<&Known> = image.diff_ids.iter().filter_map(find).collect();
    let (kind, bytes) = manifest(store, &image, &layers)?;
    repository.put_manifest(tag, &kind, &bytes)?;
    let digest = Digest::of(&bytes);
    note(store, &image, &name.with_digest(digest))?;
    Event::new(Kind::Image, "push", name.familiar()).with("name", &name.familiar_name()).tell(store.layout());
    Ok(Pushed { digest, size: bytes.len() })
}

/// One layer to put into the repository.
struct Task {
    diff_id: DiffId,
    chain: ChainId,
    /// As what blobs this registry may have it, and in which repositories.
    known: Vec<(Reference, Known)>,
}

/// As what blobs the repositories of a registry have a layer.
fn candidates(store: &Store, diff_id: &DiffId, domain: &str) -> Result<Vec<(Reference, Known)>, Error> {
    let mut query = store
        .db()
        .prepare_cached("SELECT repository, digest, size, media_type FROM blob WHERE diff_id = ?1")
        .map_err(|error| store.db_error(error))?;
    let rows = query
        .query_map([diff_id.to_string()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?, row.get(3)?))
        })
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| store.db_error(error))?;
    let mut found = Vec::new();
    for (repository, digest, size, media_type) in rows {
        let repository = Reference::parse(&repository)?;
        if repository.domain() == domain {
            let digest = digest.parse()?;
            found.push((repository, Known { diff_id: *diff_id, digest, size: size as u64, media_type }));
        }
    }
    Ok(found)
}

fn is_of(media_type: &str, compression: Compression) -> bool {
    kind_of(media_type) == format!("{OCI_LAYER}{}", suffix(compression))
}

/// The OCI's name for a kind of layer.
fn kind_of(media_type: &str) -> String {
    let compression = if media_type.ends_with("zstd") {
        Compression::Zstd
    } else if media_type.ends_with("gzip") {
        Compression::Gzip
    } else {
        Compression::None
    };
    format!("{OCI_LAYER}{}", suffix(compression))
}

fn place_all(
    store: &Store,
    repository: &Repository<'_>,
    name: &Reference,
    tasks: &[Task],
    packing: Packing,
    at_once: usize,
    watcher: &dyn PushWatcher,
) -> Result<Vec<Known>, Error> {
    let scratch = store.scratch()?;
    // Compression takes every processor: two layers at once would only need twice the memory.
    let packer = Mutex::new(());
    let layout = store.layout();
    let place = |task: &Task| -> Result<Known, Error> {
        let done = |known: Known, how: &Placed| {
            watcher.done(&task.diff_id, how);
            Ok(known)
        };
        // Those in the repository itself first: to know costs one question.
        let (own, others): (Vec<_>, Vec<_>) =
            task.known.iter().partition(|(other, _)| other.repository() == name.repository());
        for (_, known) in own {
            if repository.has(&known.digest)? {
                return done(known.clone(), &Placed::Exists);
            }
        }
        for (other, known) in others {
            if repository.has(&known.digest)? {
                return done(known.clone(), &Placed::Exists);
            }
            // A registry that does not mount, or not for us, takes the blob all the same.
            if repository.mount(&known.digest, other.path()).unwrap_or(false) {
                return done(known.clone(), &Placed::Mounted(other.path().to_owned()));
            }
        }
        let stored = Stored { dir: layer_dir(layout, &task.chain), diff_id: task.diff_id };
        let (file, blob) = {
            let _one = packer.lock().unwrap_or_else(PoisonError::into_inner);
            watcher.packing(&task.diff_id);
            stored.pack(packing, scratch.path())?
        };
        let known = Known {
            diff_id: task.diff_id,
            digest: blob.digest,
            size: blob.size,
            media_type: format!("{OCI_LAYER}{}", suffix(packing.compression())),
        };
        if repository.has(&blob.digest)? {
            return done(known, &Placed::Exists);
        }
        watcher.begin(&task.diff_id, blob.size);
        let sent = |bytes| watcher.advance(&task.diff_id, bytes);
        repository.send(&blob.digest, Content::File(&file, blob.size, &sent))?;
        done(known, &Placed::Sent)
    };

    let next = AtomicUsize::new(0);
    let failure = OnceLock::new();
    let results: Vec<OnceLock<Known>> = tasks.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(tasks.len()) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(n) else { return };
                    match place(task) {
                        Ok(known) => drop(results[n].set(known)),
                        Err(error) => {
                            next.store(tasks.len(), Ordering::Relaxed);
                            if failure.set(error).is_ok() {
                                repository.cancel();
                            }
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(results.into_iter().filter_map(OnceLock::into_inner).collect()),
    }
}

/// The manifest that says so: the one that the image came with, if it does.
fn manifest(store: &Store, image: &Image, layers: &[&Known]) -> Result<(String, Vec<u8>), Error> {
    let stored: Option<Vec<u8>> = store
        .db()
        .query_row("SELECT manifest FROM image WHERE id = ?1", [image.id.to_string()], |row| row.get(0))
        .map_err(|error| store.db_error(error))?;
    if let Some(bytes) = stored {
        let own = stored_layers(&bytes);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let kind = value["mediaType"].as_str().unwrap_or(OCI_MANIFEST).to_owned();
        let same = own.len() == layers.len()
            && own
                .iter()
                .zip(layers)
                .all(|((digest, size, _), known)| *digest == known.digest && *size == known.size);
        if same && value["config"]["digest"] == image.id.to_string().as_str() {
            return Ok((kind, bytes));
        }
    }
    let layers: Vec<_> = layers
        .iter()
        .map(|known| json!({ "mediaType": kind_of(&known.media_type), "digest": known.digest, "size": known.size }))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": image.id, "size": image.raw.len() },
        "layers": layers,
    });
    Ok((OCI_MANIFEST.to_owned(), manifest.to_string().into_bytes()))
}

/// Notes under which digest a repository has an image now.
fn note(store: &mut Store, image: &Image, name: &Reference) -> Result<(), Error> {
    let path = store.layout().database();
    let id = image.id.to_string();
    let noted = (|| {
        let tx = store.db_mut().transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // One digest for a repository: what it had before is not what it has now.
        let prefix = format!("{}@", name.repository());
        tx.execute(
            "DELETE FROM reference WHERE image = ?1 AND substr(name, 1, length(?2)) = ?2",
            [&id, &prefix],
        )?;
        tx.execute(
            "INSERT INTO reference (name, image) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET image = excluded.image",
            [&name.to_string(), &id],
        )?;
        tx.commit()
    })();
    noted.map_err(|source| crate::store::Error::Database { path, source }.into())
}
