//! Adds images to the store, from wherever their blobs come.
//!
//! `load`, `import`, `commit`, `build` and `pull` differ in where blobs come from and in nothing else, so
//! they all end here.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::OptionalExtension as _;

use super::{Cost, Document, Error, Reference, layer_dir, parse_document};
use crate::digest::{ChainId, DiffId, Digest};
use crate::layer::{self, Options, Unpacked};
use crate::registry;
use crate::store::Store;

/// Hears how far an installation has come. Calls come from several threads.
pub trait Progress: Sync {
    /// A layer of so many bytes (compressed, if known) begins.
    fn begin(&self, layer: &DiffId, bytes: Option<u64>);
    /// So many more of its bytes have been read.
    fn advance(&self, layer: &DiffId, bytes: u64);
    /// It is unpacked; `reused` if it was there before.
    fn done(&self, layer: &DiffId, reused: bool);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _layer: &DiffId, _bytes: Option<u64>) {}
    fn advance(&self, _layer: &DiffId, _bytes: u64) {}
    fn done(&self, _layer: &DiffId, _reused: bool) {}
}

/// Where layer blobs are read from. A blob may be opened more than once.
pub trait Blobs: Sync {
    /// Opens a blob by the name it has in [`LayerBlob`].
    fn open(&self, name: &str) -> Result<Box<dyn Read + Send + '_>, Error>;

    /// How many are read at once.
    fn at_once(&self) -> usize {
        concurrency()
    }

    /// One failed, and the others are not wanted any more: those that wait need not go on waiting.
    fn cancel(&self) {}
}

/// A layer's blob and what is known about it.
#[derive(Debug, Clone)]
pub struct LayerBlob {
    /// What [`Blobs::open`] knows it by.
    pub name: String,
    /// Its digest, if something names it.
    pub digest: Option<Digest>,
    /// Its size, if something states it.
    pub size: Option<u64>,
}

/// An image to be stored.
#[derive(Debug, Clone)]
pub struct New {
    /// The configuration, byte for byte.
    pub config: Vec<u8>,
    /// The manifest it came with.
    pub manifest: Option<Vec<u8>>,
    /// The blobs of its layers, lowest first.
    pub layers: Vec<LayerBlob>,
    /// Names it gets.
    pub names: Vec<Reference>,
}

impl New {
    /// Checks that the configuration and the layers fit.
    fn check(&self) -> Result<(Digest, Document), Error> {
        let id = Digest::of(&self.config);
        let bad = |reason| Error::Document { file: id.to_string(), reason };
        let (document, _) = parse_document(&self.config).map_err(bad)?;
        let expected = document.rootfs.diff_ids.as_ref().map_or(0, Vec::len);
        if expected != self.layers.len() {
            let reason = format!("layers length mismatch: expected {expected}, got {}", self.layers.len());
            return Err(bad(reason));
        }
        if !matches!(document.os.as_str(), "linux" | "") {
            return Err(bad(format!("operating system is not supported: {:?}", document.os)));
        }
        Ok((id, document))
    }
}

/// What an installation did with one image.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The image.
    pub id: Digest,
    /// Names that pointed at another image before: the name and that image.
    pub moved: Vec<(Reference, Digest)>,
}

/// One layer to unpack.
struct Task<'a> {
    chain: ChainId,
    diff_id: DiffId,
    /// The chain below, lowest first.
    parents: &'a [ChainId],
    blob: &'a LayerBlob,
}

/// Layers unpacked at once. More would only contend: each brings an inflater, a hasher and workers.
fn concurrency() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).clamp(1, 4)
}

/// Stores images with all their layers, or none of them.
pub fn install(
    store: &mut Store,
    images: &[New],
    blobs: &dyn Blobs,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Installed>, Error> {
    let checked = images.iter().map(New::check).collect::<Result<Vec<_>, _>>()?;
    store.sweep_scratch()?;
    let lock = lock(store)?;
    let chains: Vec<Vec<ChainId>> = checked
        .iter()
        .map(|(_, document)| ChainId::chain(document.rootfs.diff_ids.as_deref().unwrap_or_default()))
        .collect();

    let mut seen = HashSet::new();
    let mut tasks = Vec::new();
    for ((image, (_, document)), chain) in images.iter().zip(&checked).zip(&chains) {
        let diff_ids = document.rootfs.diff_ids.as_deref().unwrap_or_default();
        for (n, (id, blob)) in chain.iter().zip(&image.layers).enumerate() {
            if !seen.insert(*id) {
                continue;
            }
            if layer_dir(store.layout(), id).exists() {
                progress.done(&diff_ids[n], true);
            } else {
                tasks.push(Task { chain: *id, diff_id: diff_ids[n], parents: &chain[..n], blob });
            }
        }
    }

    let began = Instant::now();
    let scratch = store.scratch()?;
    let place = |id: &ChainId| scratch.path().join(id.0.hex());
    let unpacked = unpack_all(&tasks, &place, blobs, options, progress)?;
    let mut sizes: HashMap<ChainId, u64> = HashMap::new();
    for (task, unpacked) in tasks.iter().zip(&unpacked) {
        let parents: Vec<PathBuf> = task
            .parents
            .iter()
            .rev()
            .map(|id| if place(id).exists() { place(id) } else { layer_dir(store.layout(), id) })
            .map(|dir| dir.join("diff"))
            .collect();
        let copied = layer::settle(&place(&task.chain), unpacked, &parents)
            .map_err(|source| Error::Layer { what: format!("layer {}", task.diff_id), source })?;
        sizes.insert(task.chain, unpacked.size + copied);
    }
    if !tasks.is_empty() {
        publish(store, &tasks, &place, scratch.path())?;
    }
    let cost = Cost {
        images: u64::from(!tasks.is_empty()),
        layers: tasks.len() as u64,
        bytes: sizes.values().sum(),
        ns: if tasks.is_empty() { 0 } else { began.elapsed().as_nanos() as u64 },
    };
    for chain in chains.iter().flatten() {
        if !sizes.contains_key(chain) {
            sizes.insert(*chain, known_size(store, chain)?);
        }
    }
    let installed = record(store, images, &checked, &chains, &sizes, cost)?;
    drop(scratch);
    drop(lock);
    super::sweep(store)?;
    Ok(installed)
}

/// Stores an image whose top layer is unpacked before its configuration can be written, because the
/// configuration names the layer's diff-id. `below` are the diff-ids of the stored layers under it,
/// `open` opens the layer's blob, and `document` writes the configuration for its diff-id.
pub fn install_layer<'a>(
    store: &mut Store,
    below: &[DiffId],
    open: &dyn Fn() -> Result<Box<dyn Read + Send + 'a>, Error>,
    document: &dyn Fn(DiffId) -> Vec<u8>,
    name: Option<Reference>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Digest, Error> {
    let lock = lock(store)?;
    let began = Instant::now();
    let top = unpack_top(store, below, open, options, progress)?;
    let chain = top.chain;
    let cost = Cost { images: 1, layers: 1, bytes: top.size, ns: began.elapsed().as_nanos() as u64 };
    let parents = ChainId::chain(below);
    let blob = LayerBlob { name: String::new(), digest: None, size: None };
    let new = New {
        config: document(top.diff_id),
        manifest: None,
        layers: vec![blob; below.len() + 1],
        names: name.into_iter().collect(),
    };
    let checked = new.check()?;
    let id = checked.0;
    let mut sizes = HashMap::from([(chain, top.size)]);
    for parent in &parents {
        sizes.insert(*parent, known_size(store, parent)?);
    }
    let mut chains = parents;
    chains.push(chain);
    record(store, &[new], &[checked], &[chains], &sizes, cost)?;
    drop(lock);
    super::sweep(store)?;
    Ok(id)
}

/// A layer that has just been put into its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Top {
    /// Its directory.
    pub chain: ChainId,
    /// Its tar.
    pub diff_id: DiffId,
    /// Bytes of file content.
    pub size: u64,
}

/// Unpacks a layer on top of stored ones and makes it durable, without a row.
fn unpack_top<'a>(
    store: &Store,
    below: &[DiffId],
    open: &dyn Fn() -> Result<Box<dyn Read + Send + 'a>, Error>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Top, Error> {
    struct Anonymous<'a>(&'a dyn Progress);
    impl layer::Progress for Anonymous<'_> {
        fn advance(&self, bytes: u64) {
            self.0.advance(&DiffId(Digest::from_bytes([0; 32])), bytes);
        }
    }

    let failed = |source| Error::Layer { what: "layer".to_owned(), source };
    let scratch = store.scratch()?;
    let made = scratch.path().join("layer");
    fs::create_dir(&made).map_err(|source| Error::io("mkdir", &made, source))?;
    let unpacked = layer::unpack(open()?, &made, options, &Anonymous(progress)).map_err(failed)?;
    if unpacked.replaced {
        layer::keep_archive(open()?, &made).map_err(failed)?;
    }
    let parents = ChainId::chain(below);
    let copied =
        layer::settle(&made, &unpacked, &super::diff_dirs(store.layout(), &parents)).map_err(failed)?;
    place_top(store, &parents, &made, scratch.path(), unpacked.diff_id, unpacked.size + copied)
}

/// Makes a layer that is ready in scratch durable and gives it its place, without a row: the caller holds
/// `layers/` from before this until it has recorded what the layer is for.
pub(super) fn place_top(
    store: &Store,
    parents: &[ChainId],
    made: &Path,
    scratch: &Path,
    diff_id: DiffId,
    size: u64,
) -> Result<Top, Error> {
    let chain = ChainId::extend(parents.last(), &diff_id);
    if !layer_dir(store.layout(), &chain).exists() {
        let blob = LayerBlob { name: String::new(), digest: None, size: None };
        let task = Task { chain, diff_id, parents, blob: &blob };
        publish(store, &[task], &|_| made.to_owned(), scratch)?;
    }
    Ok(Top { chain, diff_id, size })
}

/// Holds `layers/` shared: no directory in it disappears meanwhile.
pub(crate) fn lock(store: &Store) -> Result<Flock<File>, Error> {
    let path = store.layout().layers();
    let dir = File::open(&path).map_err(|source| Error::io("open", &path, source))?;
    Flock::lock(dir, FlockArg::LockShared).map_err(|(_, errno)| Error::io("flock", &path, errno.into()))
}

fn unpack_all(
    tasks: &[Task<'_>],
    place: &(dyn Fn(&ChainId) -> PathBuf + Sync),
    blobs: &dyn Blobs,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Unpacked>, Error> {
    let next = AtomicUsize::new(0);
    // What failed first is why the others were given up.
    let first = OnceLock::new();
    let results: Vec<Mutex<Option<Result<Unpacked, Error>>>> =
        tasks.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..blobs.at_once().min(tasks.len()) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(n) else { return };
                    let result = unpack_one(task, &place(&task.chain), blobs, options, progress);
                    if result.is_err() {
                        // The others finish what they are at, and begin nothing new.
                        next.store(tasks.len(), Ordering::Relaxed);
                        if first.set(n).is_ok() {
                            blobs.cancel();
                        }
                    }
                    *results[n].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    let mut unpacked = Vec::with_capacity(tasks.len());
    let mut unfinished = false;
    let mut results: Vec<_> = results.into_iter().collect();
    if let Some(first) = first.get() {
        results.swap(0, *first);
    }
    for result in results {
        match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(result) => unpacked.push(result?),
            None => unfinished = true,
        }
    }
    debug_assert!(!unfinished, "only a failed layer keeps others from beginning, and it was returned");
    Ok(unpacked)
}

fn unpack_one(
    task: &Task<'_>,
    dest: &Path,
    blobs: &dyn Blobs,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Unpacked, Error> {
    struct One<'a>(&'a dyn Progress, DiffId);
    impl layer::Progress for One<'_> {
        fn advance(&self, bytes: u64) {
            self.0.advance(&self.1, bytes);
        }
    }

    let what = || format!("layer {}", task.blob.name);
    let failed = |source| Error::Layer { what: what(), source };
    fs::create_dir(dest).map_err(|source| Error::io("mkdir", dest, source))?;
    progress.begin(&task.diff_id, task.blob.size);
    let unpacked =
        match layer::unpack(blobs.open(&task.blob.name)?, dest, options, &One(progress, task.diff_id)) {
            Ok(unpacked) => unpacked,
            Err(error) => {
                // What did not come need not be asked for again.
                let error = match fetched(error) {
                    Ok(error) => return Err(error.into()),
                    Err(error) => error,
                };
                // What does not unpack is most often not what it should be: that is the better message.
                check_blob(task, blobs)?;
                return Err(failed(error));
            }
        };
    if let Some(expected) = task.blob.digest
        && expected != unpacked.digest
    {
        return Err(Error::Mismatch { what: what(), expected, actual: unpacked.digest });
    }
    if unpacked.diff_id != task.diff_id {
        return Err(Error::DiffId { what: what(), expected: task.diff_id, actual: unpacked.diff_id });
    }
    if unpacked.replaced {
        let again = layer::keep_archive(blobs.open(&task.blob.name)?, dest).map_err(failed)?;
        // Whoever gives it twice may give something else.
        if again != task.diff_id {
            return Err(Error::DiffId { what: what(), expected: task.diff_id, actual: again });
        }
    }
    progress.done(&task.diff_id, false);
    Ok(unpacked)
}

/// Why a blob could not be had, if that is why it did not unpack.
fn fetched(error: layer::Error) -> Result<registry::Error, layer::Error> {
    match error {
        layer::Error::Read(source) => source.downcast().map_err(layer::Error::Read),
        layer::Error::Inflate { compression, source } => {
            source.downcast().map_err(|source| layer::Error::Inflate { compression, source })
        }
        other => Err(other),
    }
}

/// Whether a blob that did not unpack is the one that was meant.
fn check_blob(task: &Task<'_>, blobs: &dyn Blobs) -> Result<(), Error> {
    use sha2::{Digest as _, Sha256};

    let what = || format!("layer {}", task.blob.name);
    let Some(expected) = task.blob.digest else { return Ok(()) };
    let mut hash = Sha256::new();
    let mut blob = blobs.open(&task.blob.name)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match blob
            .read(&mut buffer)
            .map_err(|source| Error::io("read", Path::new(&task.blob.name), source))?
        {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let actual = Digest::from_bytes(hash.finalize().into());
    if actual == expected { Ok(()) } else { Err(Error::Mismatch { what: what(), expected, actual }) }
}

/// Makes the unpacked layers durable, then visible.
fn publish(
    store: &Store,
    tasks: &[Task<'_>],
    place: &dyn Fn(&ChainId) -> PathBuf,
    scratch: &Path,
) -> Result<(), Error> {
    let dir = File::open(scratch).map_err(|source| Error::io("open", scratch, source))?;
    nix::unistd::syncfs(&dir).map_err(|errno| Error::io("syncfs", scratch, errno.into()))?;
    for task in tasks {
        let (from, to) = (place(&task.chain), layer_dir(store.layout(), &task.chain));
        match fs::rename(&from, &to) {
            // Another command unpacked the same layer, and was first.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::DirectoryNotEmpty
                ) => {}
            other => other.map_err(|source| Error::io("rename", &from, source))?,
        }
    }
    let layers = store.layout().layers();
    File::open(&layers).and_then(|dir| dir.sync_all()).map_err(|source| Error::io("fsync", &layers, source))
}

/// The size of a layer that was there before: its row knows, or its files do when it has none.
fn known_size(store: &Store, chain: &ChainId) -> Result<u64, Error> {
    let row = store
        .db()
        .prepare_cached("SELECT size FROM layer WHERE chain_id = ?1")
        .and_then(|mut query| query.query_row([chain.to_string()], |row| row.get::<_, i64>(0)).optional())
        .map_err(|e| store.db_error(e))?;
    if let Some(size) = row {
        return Ok(size as u64);
    }
    layer::disk_usage(&layer_dir(store.layout(), chain).join("diff"))
        .map(|usage| usage.bytes)
        .map_err(|source| Error::Layer { what: chain.to_string(), source })
}

fn record(
    store: &mut Store,
    images: &[New],
    checked: &[(Digest, Document)],
    chains: &[Vec<ChainId>],
    sizes: &HashMap<ChainId, u64>,
    cost: Cost,
) -> Result<Vec<Installed>, Error> {
    let path = store.layout().database();
    let failed = |source| crate::store::Error::Database { path: path.clone(), source };
    // The layers are durable; the rows that give them a meaning must be, too.
    store.sync_commits(true)?;
    let now = jiff::Timestamp::now().to_string();
    let result = (|| {
        let tx = store.db_mut().transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut installed = Vec::new();
        for ((image, (id, document)), chain) in images.iter().zip(checked).zip(chains) {
            let id_text = id.to_string();
            let size: u64 = chain.iter().map(|id| sizes[id]).sum();
            let manifest_digest = image.manifest.as_deref().map(|m| Digest::of(m).to_string());
            tx.execute(
                "INSERT INTO image (id, config, manifest, digest, size, loaded)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (id) DO UPDATE SET
                     manifest = coalesce(excluded.manifest, manifest),
                     digest = coalesce(excluded.digest, digest)",
                (&id_text, &image.config, &image.manifest, manifest_digest, size as i64, &now),
            )?;
            let diff_ids = document.rootfs.diff_ids.as_deref().unwrap_or_default();
            for (position, (chain_id, diff_id)) in chain.iter().zip(diff_ids).enumerate() {
                let parent = position.checked_sub(1).map(|below| chain[below].to_string());
                let chain_text = chain_id.to_string();
                tx.execute(
                    "INSERT OR IGNORE INTO layer (chain_id, diff_id, parent, size) VALUES (?1, ?2, ?3, ?4)",
                    (&chain_text, diff_id.to_string(), parent, sizes[chain_id] as i64),
                )?;
                tx.execute(
                    "INSERT OR IGNORE INTO image_layer (image, position, chain_id) VALUES (?1, ?2, ?3)",
                    (&id_text, position as i64, &chain_text),
                )?;
            }
            let mut moved = Vec::new();
            for name in &image.names {
                let text = name.to_string();
                let old: Option<String> = tx
                    .query_row("SELECT image FROM reference WHERE name = ?1", [&text], |row| row.get(0))
                    .optional()?;
                if let Some(Ok(old)) = old.map(|old| old.parse::<Digest>())
                    && old != *id
                {
                    moved.push((name.clone(), old));
                }
                tx.execute(
                    "INSERT INTO reference (name, image) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET image = excluded.image",
                    [&text, &id_text],
                )?;
            }
            installed.push(Installed { id: *id, moved });
        }
        let Cost { images, layers, bytes, ns } = cost;
        if images > 0 {
            tx.execute(
                "UPDATE unpacked SET images = images + ?1, layers = layers + ?2, bytes = bytes + ?3, ns = ns + ?4",
                (images as i64, layers as i64, bytes as i64, ns as i64),
            )?;
        }
        tx.commit()?;
        Ok(installed)
    })();
    store.sync_commits(false)?;
    result.map_err(|source| failed(source).into())
}
