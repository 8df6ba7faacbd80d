//! Brings images from registries.
//!
//! A registry is one more place that blobs come from: its layers go through [`install`] as those of an
//! archive do, each read from the network by the thread that inflates it. What is here already, layer by
//! layer, is not asked for; an image whose configuration is here costs one request.

use std::collections::HashMap;
use std::io::{self, BufWriter, PipeReader, Read};
use std::path::PathBuf;
use std::thread::JoinHandle;

use super::install::{Blobs, LayerBlob, New, Progress, Silent, install, lock};
use super::manifest::{self, Descriptor, Document, Platform};
use super::{Error, Reference, find_name, get, layer_dir, parse_document};
use crate::digest::{ChainId, DiffId, Digest};
use crate::events::{Event, Kind};
use crate::layer::{self, Options};
use crate::registry::{self, Repository, Session};
use crate::store::Store;

/// Indexes within indexes.
const MAX_DEPTH: usize = 8;
/// What the configuration of an image is called.
const CONFIGS: [&str; 4] =
    [manifest::OCI_CONFIG, "application/vnd.docker.container.image.v1+json", "application/octet-stream", ""];

/// Hears how far a pull has come.
pub trait Watcher: Progress {
    /// The image has these layers, lowest first: tar, blob, bytes of the blob.
    fn layers(&self, layers: &[(DiffId, Digest, u64)]);
}

impl Watcher for Silent {
    fn layers(&self, _layers: &[(DiffId, Digest, u64)]) {}
}

/// What a pull has done.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The name it was pulled by.
    pub name: Reference,
    /// The image.
    pub id: Digest,
    /// What the name stands for at the registry: a manifest, or an index of some.
    pub digest: Digest,
    /// The name stood for something else before, or for nothing.
    pub newer: bool,
}

/// Asks the mirrors of a name's registry, then itself, until one knows.
fn anywhere_of<T>(
    session: &Session,
    name: &Reference,
    mut ask: impl FnMut(&Repository<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut failure = None;
    for endpoint in session.endpoints(name.domain()) {
        let found = session
            .repository(&endpoint, name.path(), false)
            .map_err(Error::Registry)
            .and_then(|repository| ask(&repository));
        match found {
            Ok(found) => return Ok(found),
            // A mirror that does not help is passed over; the registry itself comes last.
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| Error::NoSuchImage(name.familiar())))
}

/// Brings the image of a name, for this host unless another platform is asked for.
pub fn pull(
    store: &mut Store,
    session: &Session,
    name: &Reference,
    platform: Option<&Platform>,
    options: &Options,
    watcher: &dyn Watcher,
) -> Result<Pulled, Error> {
    let name = name.clone().tagged();
    let pulled = anywhere_of(session, &name, |repository| {
        from(store, repository, &name, platform, session, options, watcher)
    })?;
    Event::new(Kind::Image, "pull", name.familiar()).with("name", &name.familiar_name()).tell(store.layout());
    Ok(pulled)
}

/// All tags that a repository has.
pub fn pull_tags(session: &Session, name: &Reference) -> Result<Vec<Reference>, Error> {
    let tags = anywhere_of(session, name, |repository| Ok(repository.tags(&name.familiar_name())?))?;
    // What is no tag by our grammar is not one that anybody can ask for.
    let whole = tags.iter().map(|tag| Reference::parse(&format!("{}:{tag}", name.repository())));
    Ok(whole.filter_map(Result::ok).collect())
}

/// What a registry has under a name, without an image being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What kind of manifest or index it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: usize,
    /// What there is an image for.
    pub platforms: Vec<Platform>,
}

/// Asks what a registry has under a name.
pub fn resolve(session: &Session, name: &Reference) -> Result<Resolved, Error> {
    let name = name.clone().tagged();
    anywhere_of(session, &name, |repository| {
        let document = manifest_of(repository, &name)?;
        let platforms = match Document::parse(&name.familiar(), &document.content_type, &document.bytes)? {
            Document::Index(index) => {
                let images = index.manifests.into_iter().filter(|descriptor| !descriptor.is_attestation());
                images.filter_map(|descriptor| descriptor.platform).collect()
            }
            Document::Manifest(found) => {
                let id: Digest = found.config.digest.parse()?;
                let raw = repository.document(&format!("configuration {id}"), &id, found.config.size)?;
                // What is no image, as an artifact, says nothing of where it runs.
                let platform = serde_json::from_slice(&raw).ok();
                platform.filter(|platform: &Platform| !platform.os.is_empty()).into_iter().collect()
            }
        };
        let (digest, size) = (document.digest, document.bytes.len());
        Ok(Resolved { media_type: document.content_type, digest, size, platforms })
    })
}

/// The manifest or the index that a name stands for.
fn manifest_of(repository: &Repository<'_>, name: &Reference) -> Result<registry::Manifest, Error> {
    let which = match name.digest() {
        Some(digest) => digest.to_string(),
        None => name.tag().unwrap_or("latest").to_owned(),
    };
    Ok(repository.manifest(&which, &name.familiar(), &name.familiar_name())?)
}

fn from(
    store: &mut Store,
    repository: &Repository<'_>,
    name: &Reference,
    platform: Option<&Platform>,
    session: &Session,
    options: &Options,
    watcher: &dyn Watcher,
) -> Result<Pulled, Error> {
    let shown = name.familiar();
    let mut document = manifest_of(repository, name)?;
    let top = document.digest;
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    let mut depth = 0;
    let found = loop {
        let what = if depth == 0 { shown.clone() } else { document.digest.to_string() };
        match Document::parse(&what, &document.content_type, &document.bytes)? {
            Document::Manifest(found) => break found,
            Document::Index(_) if depth == MAX_DEPTH => {
                let reason = format!("more than {MAX_DEPTH} indexes within each other");
                return Err(registry::Error::Document { what: shown, reason }.into());
            }
            Document::Index(index) => {
                let chosen = manifest::choose(&index, &wanted)?;
                let digest: Digest = chosen.digest.parse()?;
                document = repository.manifest(&digest.to_string(), &shown, &name.familiar_name())?;
                if document.bytes.len() as u64 != chosen.size {
                    let actual = document.bytes.len() as u64;
                    return Err(Error::Size {
                        what: format!("manifest {digest}"),
                        expected: chosen.size,
                        actual,
                    });
                }
            }
        }
        depth += 1;
    };
    if !CONFIGS.contains(&found.config.media_type.as_str()) {
        return Err(Error::NoImage { name: shown, kind: found.config.media_type });
    }
    let id: Digest = found.config.digest.parse()?;
    let config = match get(store, &id)? {
        Some(image) => image.raw,
        None => repository.document(&format!("configuration {id}"), &id, found.config.size)?,
    };
    let bad = |reason| registry::Error::Document { what: format!("configuration {id}"), reason };
    let (parsed, _) = parse_document(&config).map_err(bad)?;
    if let Some(wanted) = platform {
        let actual = Platform { os: parsed.os, architecture: parsed.architecture, variant: parsed.variant };
        wanted.check(&shown, &actual)?;
    }
    let mut layers = found
        .layers
        .iter()
        .map(|layer: &Descriptor| {
            let digest: Digest = layer.digest.parse()?;
            Ok(LayerBlob { name: digest.to_string(), digest: Some(digest), size: Some(layer.size) })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let diff_ids = parsed.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != layers.len() {
        let (expected, got) = (diff_ids.len(), layers.len());
        return Err(bad(format!("layers length mismatch: expected {expected}, got {got}")).into());
    }
    let described: Vec<(DiffId, Digest, u64)> = diff_ids
        .iter()
        .zip(&layers)
        .filter_map(|(diff_id, layer)| Some((*diff_id, layer.digest?, layer.size?)))
        .collect();
    watcher.layers(&described);

    // What is here on top of other layers need not be fetched either. Nobody may remove it meanwhile.
    let lock = lock(store)?;
    let mut here = HashMap::new();
    for (layer, diff_id) in layers.iter_mut().zip(&diff_ids) {
        if let Some(chain) = anywhere(store, diff_id)? {
            // It is read as the tar it once was, which has no digest but the diff-id.
            *layer = LayerBlob { name: diff_id.to_string(), digest: None, size: None };
            here.insert(layer.name.clone(), layer_dir(store.layout(), &chain));
        }
    }
    let before = find_name(store, name)?;
    let own = name.with_digest(top);
    let mut names = vec![own];
    if name.digest().is_none() {
        names.insert(0, name.clone());
    }
    let sizes: HashMap<String, u64> =
        layers.iter().filter_map(|layer| Some((layer.name.clone(), layer.size?))).collect();
    let new = New { config, manifest: Some(document.bytes), layers, names };
    let remote = Remote { repository, sizes, here, at_once: session.settings().downloads };
    install(store, &[new], &remote, options, watcher)?;
    drop(lock);
    let known = described.iter().zip(&found.layers).map(|((diff_id, digest, size), layer)| Known {
        diff_id: *diff_id,
        digest: *digest,
        size: *size,
        media_type: layer.media_type.clone(),
    });
    remember(store, &name.repository(), known)?;
    Ok(Pulled { name: name.clone(), id, digest: top, newer: before.is_none_or(|old| old != id.to_string()) })
}

/// A stored layer with this tar, whatever it lies upon.
fn anywhere(store: &Store, diff_id: &DiffId) -> Result<Option<ChainId>, Error> {
    let mut query = store
        .db()
        .prepare_cached("SELECT chain_id FROM layer WHERE diff_id = ?1")
        .map_err(|error| store.db_error(error))?;
    let chains = query
        .query_map([diff_id.to_string()], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| store.db_error(error))?;
    for chain in chains {
        let chain = ChainId(chain.parse()?);
        if layer_dir(store.layout(), &chain).exists() {
            return Ok(Some(chain));
        }
    }
    Ok(None)
}

/// The tar of a stored layer, put together by a thread of its own while it is read.
struct Assembled {
    pipe: Option<PipeReader>,
    thread: Option<JoinHandle<Result<DiffId, layer::Error>>>,
}

impl Assembled {
    fn open(dir: PathBuf) -> io::Result<Self> {
        let (pipe, writer) = io::pipe()?;
        let assemble = move || layer::assemble(&dir, &mut BufWriter::with_capacity(256 << 10, writer));
        let thread = std::thread::Builder::new().name("assemble".to_owned()).spawn(assemble)?;
        Ok(Self { pipe: Some(pipe), thread: Some(thread) })
    }

    fn join(&mut self) -> io::Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(_))) => Ok(()),
            Some(Ok(Err(error))) => Err(io::Error::other(error)),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Read for Assembled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(buffer))?;
        if n == 0 && !buffer.is_empty() {
            self.join()?;
        }
        Ok(n)
    }
}

impl Drop for Assembled {
    fn drop(&mut self) {
        // A writer without a reader ends, and has nothing to say then.
        self.pipe = None;
        let _ = self.join();
    }
}

/// Layers as a repository has them, or as they are here.
struct Remote<'a> {
    repository: &'a Repository<'a>,
    sizes: HashMap<String, u64>,
    here: HashMap<String, PathBuf>,
    at_once: usize,
}

impl Blobs for Remote<'_> {
    fn open(&self, name: &str) -> Result<Box<dyn Read + Send + '_>, Error> {
        if let Some(dir) = self.here.get(name) {
            let opened = Assembled::open(dir.clone());
            return Ok(Box::new(opened.map_err(|source| Error::io("pipe", dir, source))?));
        }
        let digest: Digest = name.parse()?;
        let size = self.sizes.get(name).copied().ok_or_else(|| Error::Missing(name.to_owned()))?;
        Ok(Box::new(self.repository.blob(&format!("layer {name}"), digest, size)))
    }

    fn at_once(&self) -> usize {
        self.at_once
    }

    fn cancel(&self) {
        self.repository.cancel();
    }
}

/// A layer as some repository has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub diff_id: DiffId,
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

/// Notes as what blobs a repository has layers.
pub(super) fn remember(
    store: &mut Store,
    repository: &str,
    layers: impl Iterator<Item = Known>,
) -> Result<(), Error> {
    let path = store.layout().database();
    let noted = (|| {
        let tx = store.db_mut().transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for layer in layers {
            tx.execute(
                "INSERT OR REPLACE INTO blob (diff_id, repository, digest, size, media_type)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                (
                    layer.diff_id.to_string(),
                    repository,
                    layer.digest.to_string(),
                    layer.size as i64,
                    &layer.media_type,
                ),
            )?;
        }
        tx.commit()
    })();
    noted.map_err(|source| crate::store::Error::Database { path, source }.into())
}
