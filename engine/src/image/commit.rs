//! Makes an image of what a container changed: its image's layers, and one more.
//!
//! The tar of the changes is never a file. One thread writes it into a pipe and the unpack pipeline reads
//! the other end, so that a container is frozen for as long as its own files are read and not for the
//! `fsync` that comes after. Whoever reads to the end of the pipe learns whether it is the end of the tar
//! or of a writer that failed, because a layer cut short at the end of an entry looks whole.

use std::io::{self, BufWriter, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::install::{Blobs, LayerBlob, New, Silent, Top, install, install_layer, place_top};
use super::{Document, Error, History, Image, Reference, RootFs, parse_document};
use crate::config::Config;
use crate::digest::{ChainId, DiffId, Digest};
use crate::layer::{self, diff::Tree};
use crate::store::Store;

/// Bytes the writer may be ahead of the reader.
const PIPE: libc::c_int = 1 << 20;

/// What a committed image says about itself.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// What a container made from it starts with.
    pub config: Config,
    /// The container's command, for the history.
    pub created_by: String,
    /// By whom.
    pub author: Option<String>,
    /// What is said about it.
    pub message: Option<String>,
    /// A name it gets.
    pub name: Option<Reference>,
}

/// The layers below are stored; nobody opens their blobs.
struct Stored;

impl Blobs for Stored {
    fn open(&self, name: &str) -> Result<Box<dyn Read + Send + '_>, Error> {
        Err(Error::Missing(name.to_owned()))
    }
}

/// The reading end, which knows an end from a failure.
struct Changes<'a> {
    pipe: PipeReader,
    whole: &'a AtomicBool,
}

impl Read for Changes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.pipe.read(buffer)?;
        if n == 0 && !buffer.is_empty() && !self.whole.load(Ordering::Acquire) {
            return Err(io::Error::other("the container's changes could not be read to their end"));
        }
        Ok(n)
    }
}

/// Hands bytes on for as long as `goes_on` says so.
struct While<'a> {
    out: PipeWriter,
    goes_on: &'a (dyn Fn() -> bool + Sync),
}

impl Write for While<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // `ErrorKind::Interrupted` would be tried again.
        if (self.goes_on)() { self.out.write(bytes) } else { Err(io::Error::other("interrupted")) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Stores an image of `parent`'s layers and `changes`, and returns its id. `read` is called as soon as all
/// changes have been read, or could not be; the work ends with an error once `goes_on` says no.
pub fn commit(
    store: &mut Store,
    parent: &Image,
    commit: &Commit,
    changes: &Tree,
    read: impl FnOnce() + Send,
    goes_on: &(dyn Fn() -> bool + Sync),
) -> Result<Digest, Error> {
    store.sweep_scratch()?;
    let options = layer::Options::from_env()?;
    let (base, _) =
        parse_document(&parent.raw).map_err(|reason| Error::Stored { id: parent.id.to_string(), reason })?;
    let created = jiff::Timestamp::now().to_string();
    let name = commit.name.clone().map(Reference::tagged);
    let document = |top: Option<DiffId>| describe(&base, commit, &created, top);
    if changes.is_empty() {
        // No layer, as in Docker: the image differs in its configuration at most.
        read();
        let blob = |id: &DiffId| LayerBlob { name: id.to_string(), digest: None, size: None };
        let new = New {
            config: document(None),
            manifest: None,
            layers: parent.diff_ids.iter().map(blob).collect(),
            names: name.into_iter().collect(),
        };
        let installed = install(store, &[new], &Stored, &options, &Silent)?;
        return Ok(installed[0].id);
    }

    through_pipe(changes, read, goes_on, |open| {
        install_layer(store, &parent.diff_ids, open, &|top| document(Some(top)), name, &options, &Silent)
    })
}

/// Makes a layer on top of others of an upper directory, which is moved, for whoever records what it is for and
/// holds `layers/` meanwhile ([`super::hold`]). `changes` are the directory's.
pub(crate) fn add_layer(store: &Store, below: &[DiffId], upper: &Path, changes: &Tree) -> Result<Top, Error> {
    let scratch = store.scratch()?;
    let made = scratch.path().join("layer");
    std::fs::create_dir(&made).map_err(|source| Error::io("mkdir", &made, source))?;
    let (diff_id, size) = layer::adopt(upper, changes, &made).map_err(Error::Changes)?;
    place_top(store, &ChainId::chain(below), &made, scratch.path(), diff_id, size)
}

/// What opens the reading end.
type Open<'a> = dyn Fn() -> Result<Box<dyn Read + Send + 'a>, Error> + 'a;

/// Has `install` read the tar of `changes`, which another thread writes.
fn through_pipe<T>(
    changes: &Tree,
    read: impl FnOnce() + Send,
    goes_on: &(dyn Fn() -> bool + Sync),
    install: impl FnOnce(&Open<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let failed = |source| Error::Changes(layer::Error::Read(source));
    let (reader, writer) = io::pipe().map_err(failed)?;
    // SAFETY: fcntl with an integer argument. The size is only a wish.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE) };
    let whole = AtomicBool::new(false);
    let reader = Mutex::new(Some(Changes { pipe: reader, whole: &whole }));
    let open = || {
        let reader = reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A second reading is for archives that replace their own entries, and ours does not.
        let reader = reader.ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))?;
        Ok(Box::new(reader) as Box<dyn Read + Send + '_>)
    };
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut out = BufWriter::with_capacity(128 << 10, While { out: writer, goes_on });
            let result = changes.tar(&mut out).and_then(|()| out.flush().map_err(layer::Error::Read));
            read();
            whole.store(result.is_ok(), Ordering::Release);
            // What is in the buffer of a failed writer is not to be written.
            drop(out.into_parts().0);
            result
        });
        let result = install(&open);
        // A reader that failed must not leave the writer waiting for it.
        drop(reader.lock().unwrap_or_else(PoisonError::into_inner).take());
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match produced {
            Err(error) if !is_broken_pipe(&error) => Err(Error::Changes(error)),
            _ => result,
        }
    })
}

/// An image of stored layers, before it has an id.
#[derive(Debug, Clone, Default)]
pub struct Recipe {
    /// What a container made from it starts with.
    pub config: Config,
    /// In Go's words.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Of the architecture.
    pub variant: Option<String>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// By whom.
    pub author: Option<String>,
    /// Its layers, lowest first; they are stored.
    pub diff_ids: Vec<DiffId>,
    /// How it was made.
    pub history: Vec<History>,
    /// What its builder wants to know of it again, which is nobody else's to read.
    pub build_cache: Option<serde_json::Value>,
}

/// Stores the image of a recipe under its names and returns its id. Where it is there already, under these
/// names, nothing is written.
pub fn put(store: &mut Store, recipe: &Recipe, names: &[Reference]) -> Result<Digest, Error> {
    let document = Document {
        created: recipe.created.clone(),
        author: recipe.author.clone(),
        architecture: recipe.architecture.clone(),
        os: recipe.os.clone(),
        variant: recipe.variant.clone(),
        config: Some(serde_json::to_value(&recipe.config).unwrap_or_default()),
        rootfs: RootFs { r#type: "layers".to_owned(), diff_ids: Some(recipe.diff_ids.clone()) },
        history: Some(recipe.history.clone()),
        comment: None,
        build_cache: recipe.build_cache.clone(),
    };
    let config = serde_json::to_vec(&document).expect("a document of strings serialises");
    let id = Digest::of(&config);
    if let Some(have) = super::get(store, &id)?
        && names.iter().all(|name| have.references.contains(name))
    {
        return Ok(id);
    }
    let blob = |id: &DiffId| LayerBlob { name: id.to_string(), digest: None, size: None };
    let layers = recipe.diff_ids.iter().map(blob).collect();
    let new = New { config, manifest: None, layers, names: names.to_vec() };
    let options = layer::Options::from_env()?;
    let installed = install(store, &[new], &Stored, &options, &Silent)?;
    for name in names {
        super::tell(store, "tag", &id, Some(&name.familiar()));
    }
    Ok(installed[0].id)
}

/// Nobody reads any more: the reader's own error says why.
fn is_broken_pipe(error: &layer::Error) -> bool {
    matches!(error, layer::Error::Io { source, .. } | layer::Error::Read(source)
        if source.kind() == io::ErrorKind::BrokenPipe)
}

/// The new image's configuration document.
fn describe(base: &Document, commit: &Commit, created: &str, top: Option<DiffId>) -> Vec<u8> {
    let mut diff_ids = base.rootfs.diff_ids.clone().unwrap_or_default();
    diff_ids.extend(top);
    let mut history = base.history.clone().unwrap_or_default();
    history.push(History {
        created: Some(created.to_owned()),
        created_by: Some(commit.created_by.clone()).filter(|text| !text.is_empty()),
        author: commit.author.clone(),
        comment: commit.message.clone(),
        empty_layer: top.is_none(),
    });
    let document = Document {
        created: Some(created.to_owned()),
        author: commit.author.clone(),
        architecture: base.architecture.clone(),
        os: base.os.clone(),
        variant: base.variant.clone(),
        config: Some(serde_json::to_value(&commit.config).unwrap_or_default()),
        rootfs: RootFs { r#type: "layers".to_owned(), diff_ids: Some(diff_ids) },
        history: Some(history),
        comment: commit.message.clone(),
        build_cache: None,
    };
    serde_json::to_vec(&document).expect("a document of strings serialises")
}
