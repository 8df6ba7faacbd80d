//! The pipeline: inflate ‖ hash ‖ parse and dispatch ‖ create and write.
//!
//! One thread inflates and one hashes; the calling thread parses and *dispatches*: it alone makes,
//! replaces and looks up directories, so that the tree has one owner and needs no lock. Everything else
//! goes to a worker as an [`Op`] inside an open directory. Operations of one directory stay on one
//! worker while any is pending (creators in one directory only contend for its lock anyway), so order
//! within a directory is the archive's.
//!
//! Order *between* directories matters only when a name changes what it is, and for hard links. The
//! dispatcher does not remember every name (an archive may hold any number); a Bloom filter of fixed
//! size says "perhaps there is something that is no directory", and only then does it wait for the
//! workers and ask the kernel. Hard links are gathered and made together, at the end or when a later
//! entry touches a name that one of them uses.
//!
//! Nothing is ever resolved by string: each step is one component relative to an open directory, and a
//! directory is reopened from the layer's root with `openat2`, `RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS`. A
//! symbolic link *of this layer* in the middle of an entry's path is followed as containerd follows it:
//! within the layer's root, `..` stopping there.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{Mode, SFlag, fstatat, makedev, mkdirat};
use nix::unistd::linkat;
use sha2::{Digest as _, Sha256};

use super::apply::{Applier, Dir, Lane, Meta, Op, OpKind, Piece, Shared, Threads};
use super::inflate::{Framing, Inflater};
use super::stream::{CHUNK, Chunk, Slice};
use super::{Error, Link, Method, Options, Progress, Unpacked, split, tar};
use crate::digest::{DiffId, Digest};
use crate::openat2::openat2;

/// Operations sent to a worker at once, at most.
const BATCH: usize = 256;
/// Batches waiting for a worker.
const QUEUE: usize = 4;
/// Directories open at once in one layer.
const OPEN_DIRS: usize = 192;
/// Hard links gathered before they are made.
const LINKS: usize = 4096;
/// Symbolic links followed in one path (the kernel's own limit).
const HOPS: usize = 40;
/// Directories within each other. Whoever removes the layer holds one descriptor for each.
pub(super) const DEPTH: usize = 512;
/// Bytes that the attributes of all directories may take until they are set, at the end: a default access
/// list set any sooner would be inherited. A label and a list on each of 100,000 directories take a third.
pub(super) const DIRECTORY_XATTRS: usize = 32 << 20;
/// Bits of the Bloom filter: 1 MiB, 0.02 % false alarms at 70,000 names.
const BLOOM_BITS: u64 = 1 << 23;

/// Unpacks `blob` into `dest/diff`, writing `dest/split.zst`.
pub(super) fn unpack(
    blob: impl Read + Send,
    dest: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Unpacked, Error> {
    let diff = dest.join("diff");
    std::fs::create_dir(&diff).map_err(|source| Error::file("mkdir", &diff, source))?;
    let index = dest.join("split.zst");
    let record = split::Writer::create(&index).map_err(|source| Error::file("create", &index, source))?;
    let failed = &AtomicBool::new(false);
    let shared = Arc::new(Shared::default());
    let gate = &Gate::default();

    std::thread::scope(|scope| {
        let (parse, chunks) = mpsc::sync_channel::<Result<Arc<Chunk>, Error>>(8);
        let (hash, hashed) = mpsc::sync_channel::<Arc<Chunk>>(8);
        let inflater = scope.spawn(move || inflate(blob, options, failed, &parse, &hash, progress));
        let hasher = scope.spawn(move || {
            let mut hash = Sha256::new();
            for chunk in hashed {
                hash.update(&**chunk);
            }
            DiffId(Digest::from_bytes(hash.finalize().into()))
        });
        let mut senders = Vec::new();
        let mut workers = Vec::new();
        for _ in 0..options.workers.max(1) {
            let (send, receive) = mpsc::sync_channel::<Vec<Op>>(QUEUE);
            senders.push(send);
            let shared = Arc::clone(&shared);
            let method = options.method;
            workers.push(scope.spawn(move || work(&receive, method, shared, gate, failed)));
        }
        let source = Chunks { incoming: chunks, rest: None, ended: false };
        let mut dispatcher = Dispatcher::new(&diff, senders, gate, failed, Arc::clone(&shared))?;
        let mut parser = tar::Parser::new(source, Some(record));
        let mut result = dispatcher.run(&mut parser).and_then(|()| dispatcher.finish());
        if result.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        let report = dispatcher.report();
        // Closing the queues ends the workers; dropping the parser's input ends the inflater.
        drop(dispatcher);
        let mut record = parser.into_record();
        for worker in workers {
            let worked = worker.join().expect("a worker does not panic");
            // A worker's failure is why the dispatcher gave up, not the other way round.
            if matches!(result, Ok(()) | Err(Error::Cancelled)) {
                result = worked.and(result);
            }
        }
        let inflated = inflater.join().expect("the inflater does not panic");
        let diff_id = hasher.join().expect("the hasher does not panic");
        result?;
        let Some(blob) = inflated else { return Err(Error::Cancelled) };
        if let Some(record) = record.take() {
            record.finish().map_err(|source| Error::file("write", &index, source))?;
        }
        Ok(Unpacked {
            diff_id,
            digest: blob.digest.unwrap_or(diff_id.0),
            compression: blob.compression,
            compressed: blob.compressed,
            inflated: blob.inflated,
            size: report.size,
            entries: report.entries,
            implied: report.implied,
            links: report.links,
            replaced: shared.replaced.load(Ordering::Relaxed),
            dropped_xattrs: shared.dropped_xattrs.load(Ordering::Relaxed),
        })
    })
}

/// What the inflater learned about the blob.
struct Blob {
    digest: Option<Digest>,
    compression: Framing,
    compressed: u64,
    inflated: u64,
}

fn inflate(
    blob: impl Read,
    options: &Options,
    failed: &AtomicBool,
    parse: &SyncSender<Result<Arc<Chunk>, Error>>,
    hash: &SyncSender<Arc<Chunk>>,
    progress: &dyn Progress,
) -> Option<Blob> {
    let result = (|| {
        let (compression, mut inflater) = Inflater::new(blob).map_err(Error::Read)?;
        let mut inflated = 0;
        let mut reported = 0;
        loop {
            let mut chunk = options.budget.take();
            if failed.load(Ordering::Relaxed) {
                return Ok(None);
            }
            chunk.fill(&mut inflater).map_err(|source| match compression {
                Framing::None => Error::Read(source),
                _ => Error::Inflate { compression, source },
            })?;
            inflated += chunk.len() as u64;
            let compressed = inflater.tap().count;
            options.limit.check(compressed, inflated)?;
            progress.advance(compressed - reported);
            reported = compressed;
            let last = chunk.is_last();
            let chunk = Arc::new(chunk);
            // Either end hangs up only when it has failed, and then says why itself.
            let _ = hash.send(Arc::clone(&chunk));
            if parse.send(Ok(chunk)).is_err() {
                return Ok(None);
            }
            if last {
                let tap = inflater.tap();
                return Ok(Some(Blob { digest: tap.digest(), compression, compressed, inflated }));
            }
        }
    })();
    result.unwrap_or_else(|error| {
        let _ = parse.send(Err(error));
        None
    })
}

/// The parser's input.
struct Chunks {
    incoming: Receiver<Result<Arc<Chunk>, Error>>,
    rest: Option<Slice>,
    /// The chunk in which the blob ends has come.
    ended: bool,
}

/// Carries one of our errors through the parser, which knows only I/O errors.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Carried(Error);

impl tar::Source for Chunks {
    type Piece = Slice;

    fn take(&mut self, max: usize) -> Result<Option<Slice>, tar::Error> {
        loop {
            if let Some(rest) = self.rest.as_mut().filter(|rest| !rest.is_empty()) {
                let piece = rest.split_to(max);
                if rest.is_empty() {
                    // Give the chunk back as soon as its last byte is on its way.
                    self.rest = None;
                }
                return Ok(Some(piece));
            }
            match self.incoming.recv() {
                Ok(Ok(chunk)) => {
                    self.ended = chunk.is_last();
                    self.rest = Some(Slice::new(chunk));
                }
                Ok(Err(error)) => return Err(tar::Error::Input(io::Error::other(Carried(error)))),
                Err(mpsc::RecvError) if self.ended => return Ok(None),
                // The inflater stopped early because a worker failed: that is no truncated archive, and
                // the worker's own error must be the one that is told.
                Err(mpsc::RecvError) => {
                    return Err(tar::Error::Input(io::Error::other(Carried(Error::Cancelled))));
                }
            }
        }
    }
}

/// Undoes [`Carried`].
fn uncarry(error: tar::Error) -> Error {
    match error {
        tar::Error::Input(error) => match error.downcast::<Carried>() {
            Ok(Carried(error)) => error,
            Err(error) => Error::Read(error),
        },
        error => Error::Tar(error),
    }
}

/// Lets the dispatcher wait until every batch has been applied.
#[derive(Debug, Default)]
struct Gate {
    outstanding: Mutex<usize>,
    idle: Condvar,
}

impl Gate {
    fn enter(&self) {
        *self.outstanding.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn leave(&self) {
        let mut outstanding = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner);
        *outstanding -= 1;
        if *outstanding == 0 {
            self.idle.notify_one();
        }
    }

    fn wait(&self) {
        let mut outstanding = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner);
        while *outstanding > 0 {
            outstanding = self.idle.wait(outstanding).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(
    batches: &Receiver<Vec<Op>>,
    method: Method,
    shared: Arc<Shared>,
    gate: &Gate,
    failed: &AtomicBool,
) -> Result<(), Error> {
    // The umask is the process's, and other threads create files too: part from it first.
    // SAFETY: affects this thread alone, which shares nothing by its working directory or root.
    let mut result = Errno::result(unsafe { libc::unshare(libc::CLONE_FS) })
        .map_err(|errno| Error::file("unshare", Path::new("CLONE_FS"), errno.into()))
        .map(drop);
    nix::sys::stat::umask(Mode::empty());
    let mut applier: Box<dyn Applier> = match method {
        Method::Threads => Box::new(Threads::new(shared)),
        Method::IoUring => match super::ring::Ring::new(Arc::clone(&shared)) {
            Ok(ring) => Box::new(ring),
            Err(error) => {
                result = result.and(Err(error));
                Box::new(Threads::new(shared))
            }
        },
    };
    for batch in batches {
        if result.is_ok() {
            result = batch.into_iter().try_for_each(|op| applier.apply(op)).and_then(|()| applier.flush());
        }
        if result.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        gate.leave();
    }
    result
}

/// A directory of the layer, as the dispatcher sees it.
#[derive(Debug)]
struct Directory {
    parent: usize,
    depth: usize,
    name: Box<[u8]>,
    children: HashMap<Box<[u8]>, usize>,
    /// What its own entry said; `None` while it is only implied by what lies in it.
    meta: Option<Meta>,
    opaque: bool,
    lane: Arc<Lane>,
    open: Option<(Arc<Dir>, u64)>,
}

/// A name in a directory.
type Place = (usize, Box<[u8]>);

struct Report {
    size: u64,
    entries: u64,
    implied: Vec<PathBuf>,
    links: Vec<Link>,
}

struct Dispatcher<'a> {
    root: Arc<Dir>,
    directories: Vec<Directory>,
    open: Arc<AtomicUsize>,
    /// The directories in the cache.
    opened: Vec<usize>,
    clock: u64,
    /// The directory part of the last path and what it resolved to.
    last: Option<(Vec<u8>, usize)>,
    senders: Vec<SyncSender<Vec<Op>>>,
    batches: Vec<Vec<Op>>,
    next_worker: usize,
    gate: &'a Gate,
    failed: &'a AtomicBool,
    shared: Arc<Shared>,
    hasher: RandomState,
    bloom: Vec<u64>,
    /// Hard links to make: name and target.
    links: Vec<(Place, Place)>,
    linked: HashSet<Place>,
    /// Hard links to what is not in this layer.
    lower: Vec<Link>,
    /// What the directories' attributes take.
    xattrs: usize,
    size: u64,
    entries: u64,
}

const ROOT: usize = 0;

impl<'a> Dispatcher<'a> {
    fn new(
        diff: &Path,
        senders: Vec<SyncSender<Vec<Op>>>,
        gate: &'a Gate,
        failed: &'a AtomicBool,
        shared: Arc<Shared>,
    ) -> Result<Self, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(diff, flags, Mode::empty())
            .map_err(|errno| Error::file("open", diff, errno.into()))?;
        let open = Arc::new(AtomicUsize::new(1));
        let lane = Arc::new(Lane::default());
        let root =
            Arc::new(Dir { fd, path: Box::default(), lane: Arc::clone(&lane), open: Arc::clone(&open) });
        let batches = senders.iter().map(|_| Vec::new()).collect();
        Ok(Self {
            root,
            directories: vec![Directory {
                parent: ROOT,
                depth: 0,
                name: Box::default(),
                children: HashMap::new(),
                meta: None,
                opaque: false,
                lane,
                open: None,
            }],
            open,
            opened: Vec::new(),
            clock: 0,
            last: None,
            senders,
            batches,
            next_worker: 0,
            gate,
            failed,
            shared,
            hasher: RandomState::new(),
            bloom: vec![0; (BLOOM_BITS / 64) as usize],
            links: Vec::new(),
            linked: HashSet::new(),
            lower: Vec::new(),
            xattrs: 0,
            size: 0,
            entries: 0,
        })
    }

    fn run(&mut self, parser: &mut tar::Parser<Chunks>) -> Result<(), Error> {
        let mut chunk_end = CHUNK as u64;
        while let Some(entry) = parser.next().map_err(uncarry)? {
            self.entries += 1;
            self.entry(&entry, parser)?;
            // Keep the workers fed and the chunks coming back.
            if parser.position() >= chunk_end {
                chunk_end = parser.position() + CHUNK as u64;
                self.send_all()?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &tar::Entry, parser: &mut tar::Parser<Chunks>) -> Result<(), Error> {
        let path = clean(&entry.path)?;
        let Some((parent, name)) = split_last(&path) else {
            // The root itself.
            if entry.kind == tar::Kind::Directory {
                return self.describe(ROOT, meta(entry)?);
            }
            return Err(Error::Name { path: lossy(&entry.path), reason: "it names the root" });
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parent, hidden, entry);
        }
        let parent = self.resolve_parent(parent)?;
        if entry.kind == tar::Kind::Directory {
            return self.directory(parent, name, meta(entry)?);
        }
        self.make_way(parent, name)?;
        match entry.kind {
            tar::Kind::HardLink => return self.hard_link(parent, name, entry),
            tar::Kind::File => return self.file(parent, name, entry, parser),
            _ => {}
        }
        let kind = match entry.kind {
            tar::Kind::Symlink => {
                let target = c_string(&entry.link, &entry.path)?;
                if target.is_empty() {
                    return Err(Error::Name { path: lossy(&entry.path), reason: "its target is empty" });
                }
                OpKind::Symlink { target, meta: meta(entry)? }
            }
            tar::Kind::Fifo => OpKind::Node { kind: SFlag::S_IFIFO, device: 0, meta: meta(entry)? },
            _ => OpKind::Node {
                kind: if entry.kind == tar::Kind::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK },
                device: makedev(u64::from(entry.major), u64::from(entry.minor)),
                meta: meta(entry)?,
            },
        };
        self.send(parent, name, kind)
    }

    /// Handles `.wh.HIDDEN` in `parent`.
    fn whiteout(&mut self, parent: &[&[u8]], hidden: &[u8], entry: &tar::Entry) -> Result<(), Error> {
        match hidden {
            b".wh..opq" => {
                let parent = self.resolve_parent(parent)?;
                self.directories[parent].opaque = true;
                Ok(())
            }
            // AUFS kept its own books under such names.
            _ if hidden.starts_with(b".wh.") => Ok(()),
            b"" | b"." | b".." => {
                Err(Error::Name { path: lossy(&entry.path), reason: "its whiteout hides no name" })
            }
            _ => {
                let parent = self.resolve_parent(parent)?;
                if let Some(id) = self.directories[parent].children.get(hidden) {
                    // The layer has a directory of that name: the lower one must not show through.
                    let id = *id;
                    self.directories[id].opaque = true;
                    return Ok(());
                }
                self.touch(parent, hidden)?;
                self.remember(parent, hidden);
                self.send(parent, hidden, OpKind::Whiteout)
            }
        }
    }

    fn directory(&mut self, parent: usize, name: &[u8], meta: Meta) -> Result<(), Error> {
        if let Some(id) = self.directories[parent].children.get(name) {
            let id = *id;
            return self.describe(id, meta);
        }
        let mut opaque = false;
        if self.perhaps_known(parent, name) {
            self.barrier()?;
            opaque = self.clear(parent, name)?;
        }
        let id = self.mkdir(parent, name)?;
        self.directories[id].opaque = opaque;
        self.describe(id, meta)
    }

    /// Keeps what an entry says of a directory until the end.
    fn describe(&mut self, id: usize, meta: Meta) -> Result<(), Error> {
        self.xattrs += xattrs_size(&meta);
        if let Some(earlier) = self.directories[id].meta.replace(meta) {
            self.xattrs -= xattrs_size(&earlier);
        }
        if self.xattrs > DIRECTORY_XATTRS {
            let path = lossy(&self.path_of(id, b"").join(&b'/'));
            return Err(Error::Name { path, reason: "the directories' attributes are more than 32 MiB" });
        }
        Ok(())
    }

    fn file(
        &mut self,
        parent: usize,
        name: &[u8],
        entry: &tar::Entry,
        parser: &mut tar::Parser<Chunks>,
    ) -> Result<(), Error> {
        let meta = meta(entry)?;
        self.size = self.size.saturating_add(entry.size);
        let whole = [tar::Segment { offset: 0, len: parser.remaining() }];
        let segments = entry.sparse.as_deref().unwrap_or(&whole);
        let path = self.path_of(parent, name);
        if let Some(record) = parser.record() {
            for segment in segments {
                record
                    .content(&path, segment.offset, segment.len)
                    .map_err(|source| Error::file("write", Path::new("split.zst"), source))?;
            }
        }
        let mut pieces = Vec::new();
        let mut held = 0;
        let sparse = entry.sparse.is_some();
        let first = |pieces, more| OpKind::File { meta: meta.clone(), pieces, len: entry.size, sparse, more };
        let mut begun = false;
        for segment in segments {
            let mut offset = segment.offset;
            let end = segment.offset + segment.len;
            while offset < end {
                let want = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let Some(data) = parser.content(want).map_err(uncarry)? else {
                    return Err(Error::Tar(tar::Error::Truncated(parser.position())));
                };
                let len = data.len();
                pieces.push(Piece { offset, data });
                offset += len as u64;
                held += len;
                if held >= CHUNK && parser.remaining() > 0 {
                    let pieces = std::mem::take(&mut pieces);
                    held = 0;
                    let op = if begun { OpKind::Data { pieces, more: true } } else { first(pieces, true) };
                    begun = true;
                    self.send(parent, name, op)?;
                    // The chunks behind these pieces must come back for the next ones to be inflated.
                    self.send_all()?;
                }
            }
        }
        let op = if begun { OpKind::Data { pieces, more: false } } else { first(pieces, false) };
        self.send(parent, name, op)
    }

    fn hard_link(&mut self, parent: usize, name: &[u8], entry: &tar::Entry) -> Result<(), Error> {
        let target = clean(&entry.link)?;
        let Some((target_parent, target_name)) = split_last(&target) else {
            return Err(Error::Name { path: lossy(&entry.path), reason: "it is a hard link to the root" });
        };
        // The directories of a target in a lower layer are not this layer's: do not make them.
        let Some(target_parent) = self.resolve(target_parent, false)? else {
            self.lower
                .push(Link { path: self.path_of(parent, name).join(&b'/'), target: target.join(&b'/') });
            return Ok(());
        };
        let target = (target_parent, Box::from(target_name));
        let link = (parent, Box::from(name));
        if link == target {
            return Ok(());
        }
        self.linked.insert(link.clone());
        self.linked.insert(target.clone());
        self.links.push((link, target));
        if self.links.len() >= LINKS { self.make_links() } else { Ok(()) }
    }

    /// Makes the gathered hard links.
    fn make_links(&mut self) -> Result<(), Error> {
        if self.links.is_empty() {
            return Ok(());
        }
        self.wait()?;
        self.linked.clear();
        for ((parent, name), (target_parent, target_name)) in std::mem::take(&mut self.links) {
            let from = self.open(target_parent)?;
            let to = self.open(parent)?;
            let path = self.path_of(parent, &name).join(&b'/');
            let (old, new) = (c_string(&target_name, &path)?, c_string(&name, &path)?);
            let link = || linkat(&from.fd, old.as_c_str(), &to.fd, new.as_c_str(), AtFlags::empty());
            let mut result = link();
            if result == Err(Errno::EEXIST) {
                let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
                let stat = |dir: &Dir, name: &CStr| fstatat(&dir.fd, name, flags);
                let same = match (stat(&from, &old), stat(&to, &new)) {
                    (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
                    _ => false,
                };
                if same {
                    continue;
                }
                super::apply::remove_file(&to, &new, &self.shared)
                    .map_err(|(call, source)| Error::entry(call, &path, source))?;
                result = link();
            }
            match result {
                Ok(()) => {}
                Err(Errno::ENOENT) => {
                    let target = self.path_of(target_parent, &target_name).join(&b'/');
                    self.lower.push(Link { path, target });
                }
                Err(errno) => return Err(Error::entry("link", &path, errno.into())),
            }
        }
        Ok(())
    }

    /// Prepares for something that is no directory to be made at `name`.
    fn make_way(&mut self, parent: usize, name: &[u8]) -> Result<(), Error> {
        if self.directories[parent].children.contains_key(name) {
            self.barrier()?;
            self.remove_directory(parent, name)?;
        }
        self.touch(parent, name)?;
        self.remember(parent, name);
        Ok(())
    }

    /// Makes gathered hard links first if one of them uses this name.
    fn touch(&mut self, parent: usize, name: &[u8]) -> Result<(), Error> {
        if !self.linked.is_empty() && self.linked.contains(&(parent, Box::from(name))) {
            self.make_links()?;
        }
        Ok(())
    }

    /// Removes what is no directory at `name`, if anything is. True if it was a whiteout.
    fn clear(&mut self, parent: usize, name: &[u8]) -> Result<bool, Error> {
        let dir = self.open(parent)?;
        let path = self.path_of(parent, name).join(&b'/');
        let c_name = c_string(name, &path)?;
        match fstatat(&dir.fd, c_name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(Error::entry("stat", &path, errno.into())),
            Ok(stat) => {
                super::apply::remove_file(&dir, &c_name, &self.shared)
                    .map_err(|(call, source)| Error::entry(call, &path, source))?;
                Ok(super::apply::is(&stat, SFlag::S_IFCHR) && stat.st_rdev == 0)
            }
        }
    }

    /// Removes the directory `name` with everything in it, because an entry of another type replaces it.
    fn remove_directory(&mut self, parent: usize, name: &[u8]) -> Result<(), Error> {
        let Some(id) = self.directories[parent].children.remove(name) else { return Ok(()) };
        self.last = None;
        // The ids below stay allocated but can no longer be reached.
        let mut below = vec![id];
        while let Some(id) = below.pop() {
            below.extend(std::mem::take(&mut self.directories[id].children).into_values());
            self.directories[id].open = None;
            if let Some(gone) = self.directories[id].meta.take() {
                self.xattrs -= xattrs_size(&gone);
            }
        }
        self.shared.replaced.store(true, Ordering::Relaxed);
        let dir = self.open(parent)?;
        let path = self.path_of(parent, name).join(&b'/');
        super::remove_tree(dir.fd.as_fd(), &c_string(name, &path)?)
            .map_err(|source| Error::entry("remove", &path, source))
    }

    fn mkdir(&mut self, parent: usize, name: &[u8]) -> Result<usize, Error> {
        let depth = self.directories[parent].depth + 1;
        if depth > DEPTH {
            let path = lossy(&self.path_of(parent, name).join(&b'/'));
            return Err(Error::Name { path, reason: "it is more than 512 directories deep" });
        }
        let dir = self.open(parent)?;
        let path = self.path_of(parent, name).join(&b'/');
        let c_name = c_string(name, &path)?;
        // The mode comes last: a directory without write permission, or with a set-group-id bit that
        // files in it would inherit, must not be in the way now.
        mkdirat(&dir.fd, c_name.as_c_str(), Mode::S_IRWXU)
            .map_err(|errno| Error::entry("mkdir", &path, errno.into()))?;
        let id = self.directories.len();
        self.directories.push(Directory {
            parent,
            depth,
            name: Box::from(name),
            children: HashMap::new(),
            meta: None,
            opaque: false,
            lane: Arc::default(),
            open: None,
        });
        self.directories[parent].children.insert(Box::from(name), id);
        Ok(id)
    }

    fn resolve_parent(&mut self, path: &[&[u8]]) -> Result<usize, Error> {
        let joined = path.join(&b'/');
        if let Some((last, id)) = &self.last
            && *last == joined
        {
            return Ok(*id);
        }
        let id = self.resolve(path, true)?.expect("directories are made when they are missing");
        self.last = Some((joined, id));
        Ok(id)
    }

    /// The directory at `path`, following this layer's symbolic links within its root. What is missing
    /// is made if `make`; otherwise the answer is `None`.
    fn resolve(&mut self, path: &[&[u8]], make: bool) -> Result<Option<usize>, Error> {
        let mut at = ROOT;
        let mut hops = 0;
        let mut todo: Vec<Vec<u8>> = path.iter().rev().map(|part| part.to_vec()).collect();
        while let Some(part) = todo.pop() {
            if part == b".." {
                at = self.directories[at].parent;
                continue;
            }
            if let Some(id) = self.directories[at].children.get(part.as_slice()) {
                at = *id;
                continue;
            }
            let mut opaque = false;
            if self.perhaps_known(at, &part) {
                self.barrier()?;
                let dir = self.open(at)?;
                let here = self.path_of(at, &part).join(&b'/');
                let name = c_string(&part, &here)?;
                match fstatat(&dir.fd, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(Error::entry("stat", &here, errno.into())),
                    Ok(stat) if super::apply::is(&stat, SFlag::S_IFLNK) => {
                        hops += 1;
                        if hops > HOPS {
                            return Err(Error::entry("resolve", &here, Errno::ELOOP.into()));
                        }
                        let target = nix::fcntl::readlinkat(&dir.fd, name.as_c_str())
                            .map_err(|errno| Error::entry("readlink", &here, errno.into()))?;
                        let target = std::os::unix::ffi::OsStringExt::into_vec(target);
                        if target.starts_with(b"/") {
                            at = ROOT;
                        }
                        let parts = target.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
                        todo.extend(parts.map(<[u8]>::to_vec).collect::<Vec<_>>().into_iter().rev());
                        continue;
                    }
                    Ok(stat) if super::apply::is(&stat, SFlag::S_IFCHR) && stat.st_rdev == 0 => {
                        if make {
                            opaque = self.clear(at, &part)?;
                        }
                    }
                    Ok(_) => return Err(Error::entry("open", &here, Errno::ENOTDIR.into())),
                }
            }
            if !make {
                return Ok(None);
            }
            at = self.mkdir(at, &part)?;
            self.directories[at].opaque = opaque;
        }
        Ok(Some(at))
    }

    /// The open directory, from the cache or opened now.
    fn open(&mut self, id: usize) -> Result<Arc<Dir>, Error> {
        if id == ROOT {
            return Ok(Arc::clone(&self.root));
        }
        self.clock += 1;
        let clock = self.clock;
        if let Some((dir, used)) = &mut self.directories[id].open {
            *used = clock;
            return Ok(Arc::clone(dir));
        }
        if self.open.load(Ordering::Relaxed) >= OPEN_DIRS {
            self.wait()?;
            let oldest = clock.saturating_sub(OPEN_DIRS as u64 / 2);
            let directories = &mut self.directories;
            self.opened.retain(|id| {
                let directory = &mut directories[*id];
                if directory.open.as_ref().is_some_and(|(_, used)| *used < oldest) {
                    directory.open = None;
                }
                directory.open.is_some()
            });
        }
        let parts = self.path_of(id, b"");
        let path = parts[..parts.len() - 1].join(&b'/');
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let fd = openat2(&self.root.fd, path.as_slice(), how)
            .map_err(|errno| Error::entry("openat2", &path, errno.into()))?;
        self.open.fetch_add(1, Ordering::Relaxed);
        let dir = Arc::new(Dir {
            fd,
            path: path.into_boxed_slice(),
            lane: Arc::clone(&self.directories[id].lane),
            open: Arc::clone(&self.open),
        });
        self.directories[id].open = Some((Arc::clone(&dir), clock));
        self.opened.push(id);
        Ok(dir)
    }

    /// The components of `name` in a directory.
    fn path_of<'b>(&'b self, mut id: usize, name: &'b [u8]) -> Vec<&'b [u8]> {
        let mut parts = vec![name];
        while id != ROOT {
            parts.push(&self.directories[id].name);
            id = self.directories[id].parent;
        }
        parts.reverse();
        parts
    }

    fn bits(&self, parent: usize, name: &[u8]) -> [u64; 2] {
        let hash = self.hasher.hash_one((parent, name));
        [hash % BLOOM_BITS, (hash >> 32) % BLOOM_BITS]
    }

    fn remember(&mut self, parent: usize, name: &[u8]) {
        for bit in self.bits(parent, name) {
            self.bloom[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    fn perhaps_known(&self, parent: usize, name: &[u8]) -> bool {
        self.bits(parent, name).into_iter().all(|bit| self.bloom[(bit / 64) as usize] & 1 << (bit % 64) != 0)
    }

    fn send(&mut self, parent: usize, name: &[u8], kind: OpKind) -> Result<(), Error> {
        let dir = self.open(parent)?;
        let c_name = c_string(name, name)?;
        let lane = &dir.lane;
        let worker = if lane.pending.load(Ordering::Acquire) == 0 {
            self.next_worker = (self.next_worker + 1) % self.senders.len();
            let lightest = (0..self.batches.len())
                .min_by_key(|n| (self.batches[*n].len(), *n != self.next_worker))
                .unwrap_or(0);
            // A file in the middle of its content stays where it is.
            if matches!(kind, OpKind::Data { .. }) { lane.worker.load(Ordering::Relaxed) } else { lightest }
        } else {
            lane.worker.load(Ordering::Relaxed)
        };
        lane.worker.store(worker, Ordering::Relaxed);
        lane.pending.fetch_add(1, Ordering::Relaxed);
        self.batches[worker].push(Op { dir, name: c_name, kind });
        if self.batches[worker].len() >= BATCH { self.send_batch(worker) } else { Ok(()) }
    }

    fn send_batch(&mut self, worker: usize) -> Result<(), Error> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if self.batches[worker].is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batches[worker]);
        self.gate.enter();
        self.senders[worker].send(batch).map_err(|_| {
            self.gate.leave();
            Error::Cancelled
        })
    }

    fn send_all(&mut self) -> Result<(), Error> {
        (0..self.batches.len()).try_for_each(|worker| self.send_batch(worker))
    }

    /// Waits until everything sent has been done.
    fn wait(&mut self) -> Result<(), Error> {
        self.send_all()?;
        self.gate.wait();
        if self.failed.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Waits, and makes the gathered hard links too.
    fn barrier(&mut self) -> Result<(), Error> {
        self.wait()?;
        self.make_links()
    }

    /// Hard links, then what directories were to look like in the end.
    fn finish(&mut self) -> Result<(), Error> {
        self.barrier()?;
        for id in 0..self.directories.len() {
            let directory = &mut self.directories[id];
            let (meta, opaque) = (directory.meta.take(), directory.opaque);
            if meta.is_none() && !opaque {
                continue;
            }
            let mut meta = meta.map_or_else(
                || Meta { mode: 0o755, ..Meta::default() },
                |meta| {
                    // Marks it as not implied; what it says is used up here.
                    directory.meta = Some(Meta::default());
                    meta
                },
            );
            if !self.reachable(id) {
                continue;
            }
            if opaque {
                let xattrs = meta.xattrs.get_or_insert_default();
                xattrs.push((c"trusted.overlay.opaque".to_owned(), b"y".to_vec()));
            }
            let dir = self.open(id)?;
            let path = dir.path.to_vec();
            let file = super::apply::as_file(&dir).map_err(|source| Error::entry("dup", &path, source))?;
            if meta.mode & 0o7000 == 0 {
                nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(meta.mode))
                    .map_err(|errno| Error::entry("fchmod", &path, errno.into()))?;
            }
            super::apply::finish_file(&file, &meta, &self.shared)
                .map_err(|(call, source)| Error::entry(call, &path, source))?;
        }
        Ok(())
    }

    fn reachable(&self, mut id: usize) -> bool {
        while id != ROOT {
            let directory = &self.directories[id];
            if self.directories[directory.parent].children.get(&directory.name) != Some(&id) {
                return false;
            }
            id = directory.parent;
        }
        true
    }

    fn report(&mut self) -> Report {
        let implied = (0..self.directories.len())
            .filter(|id| self.directories[*id].meta.is_none() && self.reachable(*id))
            .map(|id| {
                let parts = self.path_of(id, b"");
                path(&parts[..parts.len() - 1].join(&b'/'))
            })
            .collect();
        Report { size: self.size, entries: self.entries, implied, links: std::mem::take(&mut self.lower) }
    }
}

/// What a directory's attributes take in memory.
fn xattrs_size(meta: &Meta) -> usize {
    let xattrs = meta.xattrs.iter().flat_map(|xattrs| xattrs.iter());
    xattrs.map(|(name, value)| name.as_bytes().len() + value.len() + size_of::<(CString, Vec<u8>)>()).sum()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The components of an entry's path. A leading slash means nothing; `..` is refused, since no tool
/// that makes layers writes it and nothing good can be meant by it.
fn clean(path: &[u8]) -> Result<Vec<&[u8]>, Error> {
    if path.contains(&0) {
        return Err(Error::Name { path: lossy(path), reason: "it contains a NUL byte" });
    }
    let parts: Vec<&[u8]> =
        path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(Error::Name { path: lossy(path), reason: "it leads out of the layer with \"..\"" });
    }
    Ok(parts)
}

fn split_last<'a, 'b>(path: &'b [&'a [u8]]) -> Option<(&'b [&'a [u8]], &'a [u8])> {
    path.split_last().map(|(name, parent)| (parent, *name))
}

fn c_string(bytes: &[u8], path: &[u8]) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| Error::Name { path: lossy(path), reason: "it contains a NUL byte" })
}

fn meta(entry: &tar::Entry) -> Result<Meta, Error> {
    let mut xattrs: Option<Box<super::apply::Xattrs>> = None;
    for (name, value) in &entry.xattrs {
        // overlayfs trusts these of its layers: an image could redirect a directory or hide a file.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let name = c_string(name, &entry.path)?;
        xattrs.get_or_insert_default().push((name, value.clone()));
    }
    Ok(Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs })
}
