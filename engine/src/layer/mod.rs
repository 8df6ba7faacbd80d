//! Layers: tar archives unpacked once, into the directories that overlayfs stacks.
//!
//! Unpacking is where other engines spend their time: one thread that inflates, hashes, parses and
//! writes in turn. Here the stages run side by side ([`unpack`](fn@unpack)), several layers at once, and the archive's
//! bytes go from the inflater to `write` without a copy.
//!
//! *Memory* does not grow with an image's contents. All layers of a load together have 32 MiB of chunks
//! ([`Budget`]). Each layer being unpacked has besides 1 MiB of name filter; the inflater's window (32 KiB
//! for gzip, up to 128 MiB if a zstd frame asks for it, and 256 MiB an xz stream); of the entry at hand 1 MiB
//! of extension headers and 16 MiB of sparse map, each twice while it is read; names and attributes on their way to the
//! workers, in two dozen batches of what a chunk of the archive says; and up to 32 MiB of directories'
//! attributes. What does grow is what must be known to the end: about 200 bytes and the name of each
//! directory, and the two names of each hard link to a lower layer. Of that [`Limit`] is the bound.
//!
//! *Order* of layers does not matter to the pipeline: each is unpacked on its own. What an upper layer
//! takes from lower ones is settled afterwards, by [`settle`]: a directory that the archive implies but
//! does not describe looks like the one below it (as containerd does), and a hard link to a file of a
//! lower layer copies that file up under both names (as `link` on an overlay does).
//!
//! *Hostile archives*: see [`tar`] for what is refused when it is parsed and [`unpack`](mod@unpack) for why no
//! entry can reach outside. A blob that inflates beyond [`Limit`] is a bomb.

mod adopt;
mod apply;
mod compress;
pub mod diff;
pub mod extract;
mod inflate;
pub(crate) mod outer;
mod ring;
mod split;
mod stream;
mod tar;
mod unpack;
mod usage;

#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use adopt::adopt;
pub use compress::{Compression, InvalidLevel, Packing};
pub use inflate::Framing;
pub(crate) use inflate::Plain;
pub use stream::Budget;
pub use tar::Error as TarError;
pub use usage::{Usage, disk_usage};

use crate::digest::{DiffId, Digest};

/// Why a layer could not be unpacked, put together or compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the store failed us.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The operation, in the kernel's words.
        call: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An entry could not be made.
    #[error("{call} {path:?} in the layer: {source}")]
    Entry {
        /// The operation, in the kernel's words.
        call: &'static str,
        /// The entry, relative to the layer's root.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An entry has a name that no layer may hold.
    #[error("layer entry {path:?} is refused: {reason}")]
    Name {
        /// The name as written.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A hard link's target is neither in the layer nor below it.
    #[error("layer entry {path:?} is a hard link to {target:?}, which does not exist")]
    NoTarget {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A directory in the way of something else, or the other way round.
    #[error("cannot overwrite {old} {path:?} with {new}")]
    Overwrite {
        /// The entry.
        path: String,
        /// What is there.
        old: &'static str,
        /// What was to be there.
        new: &'static str,
    },
    /// A tar that is copied could not be read.
    #[error("read archive: {0}")]
    Stream(#[source] tar::Error),
    /// The blob could not be read.
    #[error("read layer: {0}")]
    Read(#[source] io::Error),
    /// The blob does not decompress.
    #[error("decompress layer ({compression}): {source}")]
    Inflate {
        /// Its format.
        compression: Framing,
        /// Why.
        source: io::Error,
    },
    /// The uncompressed blob is no tar archive.
    #[error("read layer: {0}")]
    Tar(#[from] tar::Error),
    /// The blob is a decompression bomb.
    #[error(
        "layer of {compressed} compressed bytes grows beyond {limit} bytes: refused (set BULKHEAD_UNPACK_LIMIT to allow more)"
    )]
    Bomb {
        /// Compressed bytes read so far.
        compressed: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The kernel refused a ring.
    #[error("io_uring: {call}: {source} (BULKHEAD_UNPACK=threads needs no ring)")]
    Ring {
        /// The step that failed.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A directory or file whose content overlayfs keeps elsewhere.
    #[error("{0:?} was moved by an overlay mount with redirects: its content cannot be read from one layer")]
    Redirected(String),
    /// A limit or method in the environment makes no sense.
    #[error("{variable}={value}: want {want}")]
    Setting {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        want: &'static str,
    },
    /// Another stage failed first; its error is the one that is shown.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn file(call: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { call, path: path.to_owned(), source }
    }

    fn entry(call: &'static str, path: &[u8], source: io::Error) -> Self {
        Self::Entry { call, path: String::from_utf8_lossy(path).into_owned(), source }
    }
}

/// How far a blob may grow when it is decompressed.
///
/// Real layers grow three- to twentyfold; deflate can grow a thousandfold. By default every layer may
/// have 1 GiB, and a larger one at most 200 times its compressed size. `BULKHEAD_UNPACK_LIMIT` replaces
/// both by a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Whichever is more: so many bytes, or so many times the compressed size.
    Growth {
        /// Bytes every layer may have.
        floor: u64,
        /// Times the compressed size.
        factor: u64,
    },
    /// So many bytes.
    Bytes(u64),
}

impl Default for Limit {
    fn default() -> Self {
        Self::Growth { floor: 1 << 30, factor: 200 }
    }
}

impl Limit {
    /// From `BULKHEAD_UNPACK_LIMIT`, or the default.
    pub fn from_env() -> Result<Self, Error> {
        let variable = "BULKHEAD_UNPACK_LIMIT";
        match std::env::var(variable) {
            Err(_) => Ok(Self::default()),
            Ok(value) => match value.parse() {
                Ok(bytes) => Ok(Self::Bytes(bytes)),
                Err(_) => Err(Error::Setting { variable, value, want: "a number of bytes" }),
            },
        }
    }

    pub(crate) fn check(self, compressed: u64, inflated: u64) -> Result<(), Error> {
        let limit = match self {
            Self::Bytes(bytes) => bytes,
            Self::Growth { floor, factor } => floor.max(compressed.saturating_mul(factor)),
        };
        if inflated > limit { Err(Error::Bomb { compressed, limit }) } else { Ok(()) }
    }
}

/// Which applier makes the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Plain system calls on worker threads.
    Threads,
    /// Chains of requests in an io_uring of each worker.
    IoUring,
}

impl Method {
    /// What `asked` says (a flag), or else `BULKHEAD_UNPACK`. `auto`, the default, is threads: see
    /// [`ring`] for why.
    pub fn choose(asked: Option<&str>) -> Result<Self, Error> {
        let variable = "BULKHEAD_UNPACK";
        let value = asked.map_or_else(|| std::env::var(variable).unwrap_or_default(), str::to_owned);
        match value.as_str() {
            "" | "auto" | "threads" => Ok(Self::Threads),
            "io_uring" => {
                // Asked for by name: say so now if it cannot be had, before anything is made.
                ring::probe()?;
                Ok(Self::IoUring)
            }
            _ => Err(Error::Setting { variable, value, want: "auto, io_uring or threads" }),
        }
    }
}

/// How to unpack.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who makes the files.
    pub method: Method,
    /// Workers per layer.
    pub workers: usize,
    /// How far a blob may grow.
    pub limit: Limit,
    /// The memory shared by all layers of one load.
    pub budget: Arc<Budget>,
}

impl Options {
    /// What the environment and this host ask for.
    pub fn from_env() -> Result<Self, Error> {
        Self::with_method(None)
    }

    /// The same, with the applier that was asked for by name: `auto`, `io_uring` or `threads`.
    pub fn with_method(asked: Option<&str>) -> Result<Self, Error> {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            method: Method::choose(asked)?,
            workers: cpus.clamp(1, 4),
            limit: Limit::from_env()?,
            budget: Budget::new(),
        })
    }
}

/// Hears how far a load has come.
pub trait Progress: Sync {
    /// So many more bytes of the blob have been read.
    fn advance(&self, bytes: u64);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn advance(&self, _bytes: u64) {}
}

/// A hard link whose target is not in its own layer. Both paths are relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The name to make.
    pub path: Vec<u8>,
    /// What it links to.
    pub target: Vec<u8>,
}

/// What a layer turned out to be.
#[derive(Debug)]
pub struct Unpacked {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the blob as it was read.
    pub digest: Digest,
    /// How the blob was compressed.
    pub compression: Framing,
    /// Bytes of the blob.
    pub compressed: u64,
    /// Bytes of the tar.
    pub inflated: u64,
    /// Bytes of file content.
    pub size: u64,
    /// Entries in the archive.
    pub entries: u64,
    /// Directories that no entry describes.
    pub implied: Vec<PathBuf>,
    /// Hard links to lower layers.
    pub links: Vec<Link>,
    /// Content that the index refers to was replaced by a later entry: the index cannot give the
    /// archive back, and the caller must keep it (see [`keep_archive`]).
    pub replaced: bool,
    /// Extended attributes that the file system would not take.
    pub dropped_xattrs: usize,
}

/// Unpacks `blob`, of whatever compression, into `dest/diff`, with the index in `dest/split.zst`.
///
/// `dest` must be an empty directory that nobody else can reach. On an error what is in it is garbage.
/// Nothing is synced: that is one call for all layers of a load.
pub fn unpack(
    blob: impl io::Read + Send,
    dest: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Unpacked, Error> {
    unpack::unpack(blob, dest, options, progress)
}

/// Replaces the index of a layer that cannot be put together from its files by the archive itself; returns
/// the diff-id of what was read, for the caller to compare.
pub fn keep_archive(blob: impl io::Read, dest: &Path) -> Result<DiffId, Error> {
    use sha2::{Digest as _, Sha256};

    let path = dest.join("split.zst");
    let at = |source| Error::file("write", &path, source);
    let (_, mut inflater) = inflate::Inflater::new(blob).map_err(Error::Read)?;
    fs::remove_file(&path).map_err(|source| Error::file("unlink", &path, source))?;
    let mut record = split::Writer::create(&path).map_err(at)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; stream::CHUNK];
    loop {
        match io::Read::read(&mut inflater, &mut buffer).map_err(Error::Read)? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                record.raw(&buffer[..n]).map_err(at)?;
            }
        }
    }
    record.finish().map_err(at)?;
    Ok(DiffId(Digest::from_bytes(hash.finalize().into())))
}

/// Gives back the layer's tar, byte for byte; returns its diff-id for the caller to compare.
pub fn assemble(layer: &Path, out: &mut dyn io::Write) -> Result<DiffId, Error> {
    use sha2::{Digest as _, Sha256};

    let index = layer.join("split.zst");
    let diff = layer.join("diff");
    let broken = |source| Error::file("read", &index, source);
    let root = nix::fcntl::open(
        &diff,
        nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(|errno| Error::file("open", &diff, errno.into()))?;
    let file = fs::File::open(&index).map_err(|source| Error::file("open", &index, source))?;
    let mut reader = split::Reader::new(file).map_err(broken)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; stream::CHUNK];
    let mut open: Option<(Vec<u8>, fs::File)> = None;
    while let Some(record) = reader.next().map_err(broken)? {
        match record {
            split::Record::Raw(bytes) => {
                hash.update(&bytes);
                out.write_all(&bytes).map_err(|source| Error::file("write", Path::new("layer"), source))?;
            }
            split::Record::Content { path, mut offset, count } => {
                if open.as_ref().is_none_or(|(open, _)| *open != path) {
                    let how = nix::fcntl::OpenHow::new()
                        .flags(nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC)
                        .resolve(
                            nix::fcntl::ResolveFlag::RESOLVE_BENEATH
                                | nix::fcntl::ResolveFlag::RESOLVE_NO_SYMLINKS,
                        );
                    let fd = crate::openat2::openat2(&root, path.as_slice(), how)
                        .map_err(|errno| Error::entry("openat2", &path, errno.into()))?;
                    open = Some((path, fs::File::from(fd)));
                }
                let Some((path, file)) = &open else { continue };
                let mut left = count;
                while left > 0 {
                    let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let n = std::os::unix::fs::FileExt::read_at(file, &mut buffer[..want], offset)
                        .map_err(|source| Error::entry("read", path, source))?;
                    if n == 0 {
                        return Err(Error::entry("read", path, io::ErrorKind::UnexpectedEof.into()));
                    }
                    hash.update(&buffer[..n]);
                    out.write_all(&buffer[..n])
                        .map_err(|source| Error::file("write", Path::new("layer"), source))?;
                    offset += n as u64;
                    left -= n as u64;
                }
            }
        }
    }
    Ok(DiffId(Digest::from_bytes(hash.finalize().into())))
}

/// Bytes of the tar that [`assemble`] would write.
pub fn assembled_size(layer: &Path) -> Result<u64, Error> {
    let index = layer.join("split.zst");
    let broken = |source| Error::file("read", &index, source);
    let file = fs::File::open(&index).map_err(|source| Error::file("open", &index, source))?;
    let mut reader = split::Reader::new(file).map_err(broken)?;
    let mut size = 0;
    while let Some(record) = reader.next().map_err(broken)? {
        size += match record {
            split::Record::Raw(bytes) => bytes.len() as u64,
            split::Record::Content { count, .. } => count,
        };
    }
    Ok(size)
}

/// Inflates all of a stream into a file, if it stays within the limit.
pub fn inflate_to(stream: impl io::Read, mut file: &fs::File, limit: Limit) -> Result<(), Error> {
    let mut plain = Plain::new(stream, limit).map_err(Error::Read)?;
    let compression = plain.framing();
    let mut buffer = vec![0; stream::CHUNK];
    loop {
        let n =
            io::Read::read(&mut plain, &mut buffer).map_err(|source| match source.downcast::<Error>() {
                Ok(bomb) => bomb,
                Err(source) if compression == Framing::None => Error::Read(source),
                Err(source) => Error::Inflate { compression, source },
            })?;
        if n == 0 {
            return Ok(());
        }
        io::Write::write_all(&mut file, &buffer[..n])
            .map_err(|source| Error::file("write", Path::new("spooled archive"), source))?;
    }
}

/// Where a path is in a stack of layers, the highest first: the layer that shows it, if none hides it.
pub(crate) fn find_below(parents: &[PathBuf], path: &Path) -> io::Result<Option<PathBuf>> {
    'layers: for parent in parents {
        let mut at = parent.clone();
        let mut opaque = false;
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            at.push(part);
            match fs::symlink_metadata(&at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if opaque {
                        return Ok(None);
                    }
                    continue 'layers;
                }
                Err(error) => return Err(error),
                Ok(found) if found.file_type().is_char_device() && found.rdev() == 0 => return Ok(None),
                Ok(found) if parts.peek().is_some() && !found.is_dir() => return Ok(None),
                Ok(found) => opaque |= found.is_dir() && is_opaque(&at)?,
            }
        }
        return Ok(Some(at));
    }
    Ok(None)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Whether overlayfs stops looking below this directory.
fn is_opaque(path: &Path) -> io::Result<bool> {
    Ok(get_xattr(path, c"trusted.overlay.opaque")?.is_some_and(|value| value == b"y"))
}

/// An attribute of what `path` names itself, even if it is a symbolic link.
fn get_xattr(path: &Path, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let path = c_path(path)?;
    let mut value = vec![0_u8; 256];
    loop {
        // SAFETY: both names are C strings and the value's pointer and length belong together.
        let len =
            unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        match nix::errno::Errno::result(len) {
            Ok(len) => {
                value.truncate(len as usize);
                return Ok(Some(value));
            }
            Err(nix::errno::Errno::ERANGE) => value.resize(value.len() * 8, 0),
            Err(nix::errno::Errno::ENODATA | nix::errno::Errno::EOPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// All attributes but overlayfs' own, sorted by name.
fn list_xattrs(path: &Path) -> io::Result<Vec<(CString, Vec<u8>)>> {
    xattr_values(path, xattr_names(path)?)
}

/// The names of all attributes.
fn xattr_names(path: &Path) -> io::Result<Vec<CString>> {
    let c_path = c_path(path)?;
    let mut names = vec![0_u8; 1024];
    let len = loop {
        // SAFETY: the path is a C string and the buffer's pointer and length belong together.
        let len = unsafe { libc::llistxattr(c_path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        match nix::errno::Errno::result(len) {
            Ok(len) => break len as usize,
            Err(nix::errno::Errno::ERANGE) => names.resize(names.len() * 8, 0),
            Err(nix::errno::Errno::EOPNOTSUPP) => break 0,
            Err(errno) => return Err(errno.into()),
        }
    };
    let names = names[..len].split(|b| *b == 0).filter(|name| !name.is_empty());
    names.map(|name| Ok(CString::new(name)?)).collect()
}

/// The values of those that are not overlayfs' own, sorted by name.
fn xattr_values(path: &Path, names: Vec<CString>) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in names {
        if name.to_bytes().starts_with(b"trusted.overlay.") || name.to_bytes().starts_with(b"user.overlay.") {
            continue;
        }
        if let Some(value) = get_xattr(path, &name)? {
            found.push((name, value));
        }
    }
    found.sort();
    Ok(found)
}

/// Gives `to` the owner, mode, attributes and times of `from`; neither may be a symbolic link.
pub(crate) fn copy_meta(from: &Path, to: &Path) -> io::Result<()> {
    let source = fs::symlink_metadata(from)?;
    let file = fs::File::open(to)?;
    let meta = apply::Meta {
        mode: source.mode() & 0o7777,
        uid: source.uid(),
        gid: source.gid(),
        mtime: (source.mtime(), source.mtime_nsec() as u32),
        xattrs: Some(Box::new(list_xattrs(from)?)),
    };
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(meta.mode))?;
    apply::finish_file(&file, &meta, &apply::Shared::default()).map_err(|(_, error)| error)
}

/// Settles what a layer takes from those below it; `parents` are their `diff` directories, the highest
/// first.
pub fn settle(layer: &Path, unpacked: &Unpacked, parents: &[PathBuf]) -> Result<u64, Error> {
    let diff = layer.join("diff");
    let mut copied = 0;
    for link in &unpacked.links {
        copied += copy_up(&diff, link, parents)?;
    }
    for path in &unpacked.implied {
        let to = diff.join(path);
        let failed = |source| Error::file("copy attributes", &to, source);
        if !leads_inside(&diff, &path.join("x")) {
            continue;
        }
        match find_below(parents, path).map_err(failed)? {
            Some(from) if from.is_dir() && !from.is_symlink() => copy_meta(&from, &to).map_err(failed)?,
            _ => fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .map_err(failed)?,
        }
    }
    Ok(copied)
}

/// Whether every directory on the way to `path` is a plain directory of `root`, and no symbolic link.
/// Only for trees that nobody else changes meanwhile.
fn leads_inside(root: &Path, path: &Path) -> bool {
    let mut at = root.to_owned();
    path.parent().into_iter().flat_map(Path::components).all(|part| {
        at.push(part);
        at.symlink_metadata().is_ok_and(|meta| meta.is_dir())
    })
}

/// Makes a hard link to a lower layer's file, as overlayfs does: the file is copied up under its own
/// name, and linked.
fn copy_up(diff: &Path, link: &Link, parents: &[PathBuf]) -> Result<u64, Error> {
    let name = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
    let (target, path) = (name(&link.target), name(&link.path));
    let missing =
        || Error::NoTarget { path: path.display().to_string(), target: target.display().to_string() };
    let to = diff.join(&path);
    let failed = |source| Error::file("copy up", &to, source);
    // A later entry may have won the name, or have put a symbolic link where its directory was.
    if !leads_inside(diff, &path) || to.symlink_metadata().is_ok() {
        return Ok(0);
    }
    // In this layer the way to the target must not be a link either: make what is missing of it.
    let mut at = diff.to_owned();
    for part in target.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        match at.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(missing()),
            Err(_) => {
                let relative = at.strip_prefix(diff).map_err(io::Error::other).map_err(failed)?;
                let below = find_below(parents, relative).map_err(failed)?.ok_or_else(missing)?;
                if !below.symlink_metadata().map_err(failed)?.is_dir() {
                    return Err(missing());
                }
                fs::create_dir(&at).map_err(failed)?;
                copy_meta(&below, &at).map_err(failed)?;
            }
        }
    }
    // The link before this one may have copied it up already.
    let own = diff.join(&target);
    let mut copied = 0;
    match own.symlink_metadata() {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(missing()),
        Err(_) => {
            let from = find_below(parents, &target).map_err(failed)?.ok_or_else(missing)?;
            if !from.symlink_metadata().map_err(failed)?.is_file() {
                return Err(missing());
            }
            let mut source = fs::File::open(&from).map_err(failed)?;
            let mut file = fs::File::create_new(&own).map_err(failed)?;
            copied = io::copy(&mut source, &mut file).map_err(failed)?;
            copy_meta(&from, &own).map_err(failed)?;
        }
    }
    fs::hard_link(&own, &to).map_err(failed)?;
    Ok(copied)
}

/// Removes the directory `name` in `dir` and everything below it.
fn remove_tree(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir)))
        .join(std::ffi::OsStr::from_bytes(name.to_bytes()));
    crate::store::remove_tree(&path)
}
