//! Where `COPY` takes from: the context, a stage, an image.
//!
//! Each is a directory held by a descriptor, and every path in it is resolved by the kernel with that
//! directory as the root (`RESOLVE_IN_ROOT`): a symbolic link in a context that leads to /etc leads to the
//! context's own etc. Below what a path names, links are copied and never followed.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use sha2::{Digest as _, Sha256};

use super::Error;
use super::hashes::{Hashes, Stamp};
use super::pattern::{Ignore, clean, fits, is_pattern};
use crate::openat2::openat2;
use crate::store::Store;

/// A directory to take from.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    ignore: Ignore,
    /// Everything in it is root's, whoever's it is here.
    squash: bool,
    /// What its files hashed to before, where somebody asked for that.
    hashes: Mutex<Option<Hashes>>,
}

/// What kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A symbolic link.
    Link,
    /// A device or a pipe, by the kernel's number of its kind.
    Node(u32),
}

/// One thing to copy.
#[derive(Debug, Clone)]
pub struct Item {
    /// From what was named; empty for that itself.
    pub relative: Vec<u8>,
    /// From the tree's root.
    path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Of a device.
    pub rdev: u64,
    /// Bytes of a file.
    pub size: u64,
    /// Where a link leads.
    pub link: Vec<u8>,
    stamp: Stamp,
}

/// What one name in a `COPY` stands for.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its path from the tree's root.
    pub path: Vec<u8>,
    /// The thing itself, and below a directory everything in it, each directory before what it holds.
    pub items: Vec<Item>,
}

impl Found {
    /// Whether a directory was named.
    pub fn is_directory(&self) -> bool {
        self.items.first().is_some_and(|item| item.kind == Kind::Directory)
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.items.iter().map(|item| item.size).sum()
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn os(path: &[u8]) -> &OsStr {
    if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) }
}

fn failed(call: &'static str, path: &[u8], errno: Errno) -> Error {
    Error::Io { call, path: Path::new(OsStr::from_bytes(path)).to_owned(), source: errno.into() }
}

impl Tree {
    /// Takes from a directory.
    pub fn new(root: OwnedFd, ignore: Ignore, squash: bool) -> Self {
        Self { root, ignore, squash, hashes: Mutex::new(None) }
    }

    /// Has what files hash to remembered in a file of `dir`, from one build to the next.
    pub(super) fn remember_in(&self, dir: &Path) {
        if let Ok(stat) = fstat(&self.root) {
            let name = format!("context-{:x}-{:x}", stat.st_dev, stat.st_ino);
            *self.hashes() = Some(Hashes::load(dir.join(name)));
        }
    }

    /// Writes down what is new of that.
    pub(super) fn save_hashes(&self, store: &Store) -> Result<(), Error> {
        self.hashes().as_mut().map_or(Ok(()), |hashes| hashes.save(store))
    }

    fn hashes(&self) -> MutexGuard<'_, Option<Hashes>> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    fn open(&self, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        loop {
            // EAGAIN: somebody renamed a directory on the way meanwhile.
            match openat2(&self.root, os(path), how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    /// What `path` names, which may be a pattern. What a pattern does not find is nothing; what a plain name
    /// does not find is an error.
    pub fn find(&self, path: &str, exclude: &Ignore) -> Result<Vec<Found>, Error> {
        let parts = clean(path.as_bytes());
        let wild = parts.iter().any(|part| is_pattern(part));
        let paths = if wild { self.expand(&parts)? } else { vec![parts.join(&b'/')] };
        let mut all = Vec::new();
        for found in paths {
            match self.take(&found, exclude)? {
                Some(found) => all.push(found),
                None if wild => {}
                None => return Err(Error::NotFound(String::from_utf8_lossy(&found).into_owned())),
            }
        }
        Ok(all)
    }

    fn expand(&self, parts: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Error> {
        let mut found: Vec<Vec<u8>> = vec![Vec::new()];
        for part in parts {
            let mut next = Vec::new();
            for dir in found {
                if part == b"**" {
                    next.push(dir.clone());
                    self.directories(&dir, &mut next)?;
                } else if is_pattern(part) {
                    next.extend(
                        self.names(&dir)?
                            .into_iter()
                            .filter(|name| fits(part, name))
                            .map(|name| join(&dir, &name)),
                    );
                } else if self.open(&join(&dir, part), OFlag::O_PATH).is_ok() {
                    next.push(join(&dir, part));
                }
            }
            found = next;
        }
        found.retain(|path| !path.is_empty());
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// All directories below one, links not followed.
    fn directories(&self, top: &[u8], into: &mut Vec<Vec<u8>>) -> Result<(), Error> {
        let mut todo = vec![top.to_vec()];
        while let Some(dir) = todo.pop() {
            for name in self.names(&dir)? {
                let path = join(&dir, &name);
                if self.open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).is_ok() {
                    into.push(path.clone());
                    todo.push(path);
                }
            }
        }
        Ok(())
    }

    /// The names in a directory, sorted; none where there is no directory.
    fn names(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let fd = match self.open(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Vec::new()),
            other => other.map_err(|errno| failed("open", dir, errno))?,
        };
        list(fd, dir)
    }

    /// Everything at and below a path; `None` when it is not there, or is left out.
    fn take(&self, path: &[u8], exclude: &Ignore) -> Result<Option<Found>, Error> {
        // A link that was named is followed; one that leads nowhere is nothing.
        let top = match self.open(path, OFlag::O_PATH) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
            other => other.map_err(|errno| failed("open", path, errno))?,
        };
        let stat = fstat(&top).map_err(|errno| failed("stat", path, errno))?;
        // A pattern of the instruction's own is about what it names: what is in a directory, or the file's name.
        let left_out = |path: &[u8], own: &[u8], stat: &FileStat| {
            let is_directory = kind(stat) == Some(Kind::Directory);
            let by = |ignore: &Ignore, path: &[u8]| {
                ignore.excludes(path) && !(is_directory && ignore.may_take_below(path))
            };
            by(&self.ignore, path) || by(exclude, own)
        };
        let own = match kind(&stat) {
            Some(Kind::Directory) => &[][..],
            _ => path.rsplit(|b| *b == b'/').next().unwrap_or_default(),
        };
        let Some(_) = kind(&stat).filter(|_| !left_out(path, own, &stat)) else { return Ok(None) };
        let first = self.item(path.to_vec(), Vec::new(), &stat, None)?;
        let mut items: Vec<Item> = first.into_iter().collect();
        if kind(&stat) == Some(Kind::Directory) {
            let mut todo = vec![(path.to_vec(), Vec::new())];
            while let Some((dir, relative)) = todo.pop() {
                let fd = self
                    .open(&dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
                    .map_err(|errno| failed("open", &dir, errno))?;
                let names = list(
                    fd.try_clone().map_err(|error| Error::io("dup", Path::new(os(&dir)), error))?,
                    &dir,
                )?;
                let mut below = Vec::new();
                for name in names {
                    let (path, relative) = (join(&dir, &name), join(&relative, &name));
                    let name = CString::new(name)
                        .map_err(|error| Error::io("stat", Path::new(os(&path)), error.into()))?;
                    let stat = match fstatat(&fd, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                        // Gone meanwhile.
                        Err(Errno::ENOENT) => continue,
                        other => other.map_err(|errno| failed("stat", &path, errno))?,
                    };
                    if left_out(&path, &relative, &stat) {
                        continue;
                    }
                    let Some(item) = self.item(path.clone(), relative.clone(), &stat, Some((&fd, &name)))?
                    else {
                        continue;
                    };
                    if item.kind == Kind::Directory {
                        below.push((path, relative));
                    }
                    items.push(item);
                }
                todo.extend(below.into_iter().rev());
            }
            // A directory that is left out, entered for what may be taken below it, and has nothing of that.
            if !self.ignore.is_empty() || !exclude.is_empty() {
                let holds: std::collections::HashSet<Vec<u8>> = items
                    .iter()
                    .filter(|item| item.kind != Kind::Directory)
                    .flat_map(|item| above(&item.relative))
                    .collect();
                items.retain(|item| {
                    item.kind != Kind::Directory
                        || item.relative.is_empty()
                        || holds.contains(&item.relative)
                        || !(self.ignore.excludes(&item.path) || exclude.excludes(&item.relative))
                });
            }
        }
        Ok(Some(Found { path: path.to_vec(), items }))
    }

    fn item(
        &self,
        path: Vec<u8>,
        relative: Vec<u8>,
        stat: &FileStat,
        at: Option<(&OwnedFd, &CStr)>,
    ) -> Result<Option<Item>, Error> {
        let Some(kind) = kind(stat) else { return Ok(None) };
        let link = match (kind, at) {
            (Kind::Link, Some((dir, name))) => {
                readlinkat(dir, name).map_err(|errno| failed("readlink", &path, errno))?.as_bytes().to_vec()
            }
            _ => Vec::new(),
        };
        let (uid, gid) = if self.squash { (0, 0) } else { (stat.st_uid, stat.st_gid) };
        Ok(Some(Item {
            relative,
            path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            rdev: stat.st_rdev,
            size: if kind == Kind::File { stat.st_size as u64 } else { 0 },
            link,
            stamp: stamp(stat),
        }))
    }

    /// Opens a file's content.
    pub fn content(&self, item: &Item) -> Result<File, Error> {
        let nofollow = if item.relative.is_empty() { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let fd = self
            .open(&item.path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | nofollow)
            .map_err(|errno| failed("open", &item.path, errno))?;
        let file = File::from(fd);
        let regular = file.metadata().is_ok_and(|meta| meta.is_file());
        // It was one when it was found.
        if regular { Ok(file) } else { Err(failed("open", &item.path, Errno::EINVAL)) }
    }

    /// Adds what is found to a hash: names, kinds, modes, owners, contents; no times.
    pub fn hash(&self, found: &Found, hash: &mut Sha256) -> Result<(), Error> {
        let mut buffer = vec![0; 128 << 10];
        for item in &found.items {
            let number = match item.kind {
                Kind::Directory => 0,
                Kind::File => 1,
                Kind::Link => 2,
                Kind::Node(kind) => kind,
            };
            let lengths = [item.relative.len() as u64, item.link.len() as u64];
            for n in [
                u64::from(number),
                u64::from(item.mode),
                u64::from(item.uid),
                u64::from(item.gid),
                lengths[0],
                lengths[1],
            ] {
                hash.update(n.to_le_bytes());
            }
            hash.update(&item.relative);
            hash.update(&item.link);
            if matches!(item.kind, Kind::Node(_)) {
                hash.update(item.rdev.to_le_bytes());
            }
            if item.kind == Kind::File {
                let known = self.hashes().as_ref().and_then(|hashes| hashes.find(&item.stamp));
                hash.update(match known {
                    Some(known) => known,
                    None => self.hash_content(item, &mut buffer)?,
                });
            }
        }
        Ok(())
    }

    fn hash_content(&self, item: &Item, buffer: &mut [u8]) -> Result<[u8; 32], Error> {
        let mut file = self.content(item)?;
        let mut whole = Sha256::new();
        loop {
            match file.read(buffer).map_err(|error| Error::io("read", Path::new(os(&item.path)), error))? {
                0 => break,
                n => whole.update(&buffer[..n]),
            }
        }
        let found: [u8; 32] = whole.finalize().into();
        if let Some(hashes) = self.hashes().as_mut() {
            // As it was when it was found, or it has been changed while it was read.
            let after = fstat(&file).map_err(|errno| failed("stat", &item.path, errno))?;
            if stamp(&after) == item.stamp {
                hashes.remember(item.stamp, found);
            }
        }
        Ok(found)
    }

    /// A small file's bytes; `None` when there is none of that name.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let path = clean(path.as_bytes()).join(&b'/');
        let found = match self.open(&path, OFlag::O_PATH) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            other => other.map_err(|errno| failed("open", &path, errno))?,
        };
        let stat = fstat(&found).map_err(|errno| failed("stat", &path, errno))?;
        if kind(&stat) != Some(Kind::File) {
            return Err(failed(
                "read",
                &path,
                if kind(&stat) == Some(Kind::Directory) { Errno::EISDIR } else { Errno::EINVAL },
            ));
        }
        let file = self
            .open(&path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .map_err(|errno| failed("open", &path, errno))?;
        let mut bytes = Vec::new();
        File::from(file)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io("read", Path::new(os(&path)), error))?;
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge { what: String::from_utf8_lossy(&path).into_owned(), limit });
        }
        Ok(Some(bytes))
    }
}

/// The directories above a relative path.
fn above(path: &[u8]) -> Vec<Vec<u8>> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    slashes.map(|at| path[..at].to_vec()).collect()
}

fn stamp(stat: &FileStat) -> Stamp {
    let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Stamp {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: stat.st_size as u64,
        mtime: nanos(stat.st_mtime, stat.st_mtime_nsec),
        ctime: nanos(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// `None` is a socket, which nothing can be made of.
fn kind(stat: &FileStat) -> Option<Kind> {
    let bits = stat.st_mode & SFlag::S_IFMT.bits();
    Some(match SFlag::from_bits_truncate(bits) {
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFLNK => Kind::Link,
        SFlag::S_IFSOCK => return None,
        _ => Kind::Node(bits),
    })
}

/// The names in an open directory, sorted.
fn list(fd: OwnedFd, shown: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut dir = nix::dir::Dir::from_fd(fd).map_err(|errno| failed("opendir", shown, errno))?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(|errno| failed("readdir", shown, errno))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort();
    Ok(names)
}

/// Opens a directory of the host's.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path, flags, Mode::empty())?;
    let _ = fd.as_fd();
    Ok(fd)
}
