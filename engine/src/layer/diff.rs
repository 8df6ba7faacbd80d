//! What a container changed: its upper directory, read once, without looking at what lies below.
//!
//! overlayfs writes down every change in its own terms: a whiteout is a character device 0/0, a
//! directory that hides the lower one carries an attribute. Reading the upper directory alone therefore
//! gives the whole difference, at a cost that depends on what changed and not on the image. The lower
//! layers are asked only to tell "changed" from "added" in `diff`, by name.
//!
//! The container may be running, and hostile: every directory and file is opened from the upper
//! directory's descriptor with `RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS`, and a file that changes size
//! while it is read is an error, or, where the reader said that nobody is frozen, cut or padded to the
//! size it had when its header was written. In neither case is it a corrupt tar.
//!
//! What the engine itself made in the upper directory, so that it could mount on it, is no change of the
//! container's: see [`MADE`].

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, major, minor};

use crate::openat2::openat2;

use super::apply::is;
use super::unpack::DEPTH;
use super::{Error, find_below, is_opaque, list_xattrs, xattr_names, xattr_values};

/// Files read ahead of the writer at once.
const WINDOW: usize = 128;
/// Larger files are streamed by the writer itself, so that a window stays within 16 MiB.
const SMALL: u64 = 128 << 10;

/// Bytes of a path that are opened at once.
const PART: usize = 4000;

/// Where a container's own file systems and files are mounted. In an image that lacks them the runtime
/// makes an empty directory or file there.
pub const MADE: &[&str] = &["dev", "proc", "sys", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is also below, and differs or holds something that does.
    Modified,
    /// It is new.
    Added,
    /// It is only below.
    Deleted,
}

impl ChangeKind {
    /// The letter of `docker diff`.
    pub fn letter(self) -> char {
        match self {
            Self::Modified => 'C',
            Self::Added => 'A',
            Self::Deleted => 'D',
        }
    }
}

/// One line of `diff`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Where, from the container's root.
    pub path: PathBuf,
}

/// One thing in the upper directory.
struct Node {
    /// Relative to the upper directory.
    path: Vec<u8>,
    stat: FileStat,
    opaque: bool,
    link: Vec<u8>,
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Node {
    fn is_whiteout(&self) -> bool {
        is(&self.stat, SFlag::S_IFCHR) && self.stat.st_rdev == 0
    }
}

/// Whether what is in a directory are no files but what the kernel says when they are read: a copy of a running
/// container's root has such a directory and not what is in it, some of which waits for ever (`trace_pipe`, `kmsg`).
fn is_kernels(dir: BorrowedFd<'_>) -> bool {
    use nix::sys::statfs as fs;
    /// Of linux/magic.h, in what nix has no name for.
    const MQUEUE: fs::FsType = fs::FsType(0x1980_0202);
    const CONFIGFS: fs::FsType = fs::FsType(0x6265_6570);
    const PSTORE: fs::FsType = fs::FsType(0x6165_676c);
    fs::fstatfs(dir).is_ok_and(|fs| {
        [
            fs::PROC_SUPER_MAGIC,
            fs::SYSFS_MAGIC,
            fs::CGROUP_SUPER_MAGIC,
            fs::CGROUP2_SUPER_MAGIC,
            fs::DEVPTS_SUPER_MAGIC,
            fs::TRACEFS_MAGIC,
            fs::DEBUGFS_MAGIC,
            fs::SECURITYFS_MAGIC,
            fs::BPF_FS_MAGIC,
            MQUEUE,
            CONFIGFS,
            PSTORE,
        ]
        .contains(&fs.filesystem_type())
    })
}

struct Upper {
    root: OwnedFd,
    /// Files may change while they are read.
    live: bool,
}

impl Upper {
    fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        nix::fcntl::open(path, flags, Mode::empty())
            .map(|root| Self { root, live: false })
            .map_err(|errno| Error::file("open", path, errno.into()))
    }

    fn at(&self, path: &[u8], flags: OFlag) -> Result<File, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | flags;
        self.open_at(path, flags).map(File::from).map_err(|errno| Error::entry("openat2", path, errno.into()))
    }

    /// Opens what is at a path of any length: one system call takes no more than [`PART`] of it.
    fn open_at(&self, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        let how = |flags| {
            let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
            OpenHow::new().flags(flags).resolve(resolve)
        };
        let mut rest = if path.is_empty() { b"." } else { path };
        let mut above = None;
        while rest.len() > PART {
            let end = memchr::memrchr(b'/', &rest[..PART]).ok_or(nix::errno::Errno::ENAMETOOLONG)?;
            let directory = how(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
            above = Some(openat2(above.as_ref().unwrap_or(&self.root), &rest[..end], directory)?);
            rest = &rest[end + 1..];
        }
        openat2(above.as_ref().unwrap_or(&self.root), rest, how(flags))
    }

    /// Everything, each directory before what is in it, sorted: the order of the tar.
    fn walk(&self, full: bool) -> Result<Vec<Node>, Error> {
        let mut nodes = Vec::new();
        // An explicit stack: a container can nest directories deeper than ours may recurse.
        let mut todo = Vec::new();
        if !self.live || !is_kernels(self.root.as_fd()) {
            self.list(&[], full, &mut todo)?;
        }
        // The mounts that were met, by device.
        let mut kernels: HashMap<u64, bool> = HashMap::new();
        while let Some(node) = todo.pop() {
            let passes_by = self.live
                && is(&node.stat, SFlag::S_IFDIR)
                && *kernels.entry(node.stat.st_dev).or_insert_with(|| {
                    let dir = self.open_at(&node.path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
                    dir.is_ok_and(|dir| is_kernels(dir.as_fd()))
                });
            if is(&node.stat, SFlag::S_IFDIR) && !passes_by {
                match self.list(&node.path, full, &mut todo) {
                    // A running container may remove what we have just been told of.
                    Err(Error::Entry { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                    other => other?,
                }
            }
            nodes.push(node);
        }
        Ok(nodes)
    }

    /// Puts what is in a directory on the stack, which gives back the last first.
    fn list(&self, path: &[u8], full: bool, todo: &mut Vec<Node>) -> Result<(), Error> {
        let file = self.at(path, OFlag::O_DIRECTORY)?;
        let failed = |errno: nix::errno::Errno| Error::entry("readdir", path, errno.into());
        let mut dir = nix::dir::Dir::from_fd(file.into()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        for name in names {
            match Self::node(dir.as_fd(), &name, join(path, name.to_bytes()), full) {
                Err(Error::Entry { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => todo.push(other?),
            }
        }
        Ok(())
    }

    /// What `name` in an open directory is; `path` is where that is in the tree.
    fn node(parent: BorrowedFd<'_>, name: &CStr, path: Vec<u8>, full: bool) -> Result<Node, Error> {
        let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| Error::entry("stat", &path, errno.into()))?;
        // By way of the open parent, so that nothing can be put in between.
        let by_fd = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()))
            .join(OsStr::from_bytes(name.to_bytes()));
        let mut node = Node { path, stat, opaque: false, link: Vec::new(), xattrs: Vec::new() };
        let xattr = |error| Error::entry("getxattr", &node.path, error);
        let directory = is(&stat, SFlag::S_IFDIR);
        if !full {
            node.opaque = directory && is_opaque(&by_fd).map_err(xattr)?;
            return Ok(node);
        }
        if !node.is_whiteout() {
            // One call for most files: the names tell whether a value is worth asking for.
            let names = xattr_names(&by_fd).map_err(xattr)?;
            let has = |wanted: &CStr| names.iter().any(|name| name.as_c_str() == wanted);
            if has(c"trusted.overlay.redirect") || has(c"trusted.overlay.metacopy") {
                // The content is elsewhere then; our mounts turn both features off.
                return Err(Error::Redirected(String::from_utf8_lossy(&node.path).into_owned()));
            }
            let opaque = directory && has(c"trusted.overlay.opaque") && is_opaque(&by_fd).map_err(xattr)?;
            let xattrs = xattr_values(&by_fd, names).map_err(xattr)?;
            (node.opaque, node.xattrs) = (opaque, xattrs);
        }
        if is(&stat, SFlag::S_IFLNK) {
            let target = nix::fcntl::readlinkat(parent, name)
                .map_err(|errno| Error::entry("readlink", &node.path, errno.into()))?;
            node.link = target.as_bytes().to_vec();
        }
        Ok(node)
    }

    fn content(&self, node: &Node) -> Result<File, Error> {
        let file = self.at(&node.path, OFlag::empty())?;
        let meta = file.metadata().map_err(|error| Error::entry("stat", &node.path, error))?;
        if meta.is_file() && (self.live || meta.len() == node.stat.st_size as u64) {
            return Ok(file);
        }
        Err(changed(node))
    }

    fn read_small(&self, node: &Node) -> Result<Vec<u8>, Error> {
        let size = node.stat.st_size as u64;
        let mut bytes = Vec::with_capacity(size as usize + 1);
        self.content(node)?
            .take(size + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::entry("read", &node.path, error))?;
        if self.live {
            bytes.resize(size as usize, 0);
        }
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(changed(node)) }
    }
}

/// Takes out what the engine made, and says what that was, each directory before what is in it: a mount
/// point that is still empty, and a directory that is in the upper one only because such a mount point is
/// in it.
fn drop_made(nodes: &mut Vec<Node>, below: &[PathBuf]) -> Result<Vec<Vec<u8>>, Error> {
    // What is in each directory: how much of it the container's, how much ours.
    let mut inside: HashMap<Vec<u8>, (usize, usize)> = HashMap::new();
    let mut ours = vec![false; nodes.len()];
    // Directories come before what is in them, so the other way round every directory is complete.
    for (node, ours) in nodes.iter().zip(&mut ours).rev() {
        let (theirs_inside, ours_inside) = inside.get(&node.path).copied().unwrap_or_default();
        let is_made = MADE.iter().any(|made| made.as_bytes() == node.path);
        let candidate = if is(&node.stat, SFlag::S_IFDIR) {
            theirs_inside == 0 && (is_made || ours_inside > 0) && !node.opaque
        } else {
            is_made && is(&node.stat, SFlag::S_IFREG) && node.stat.st_size == 0
        };
        if candidate {
            let path = Path::new(OsStr::from_bytes(&node.path));
            let failed = |error| Error::entry("stat", &node.path, error);
            *ours = match find_below(below, path).map_err(failed)? {
                None => true,
                Some(found) => {
                    let meta = std::fs::symlink_metadata(&found).map_err(failed)?;
                    meta.is_dir()
                        && (meta.mode() & 0o7777, meta.uid(), meta.gid())
                            == (node.stat.st_mode & 0o7777, node.stat.st_uid, node.stat.st_gid)
                }
            };
        }
        let parent = node.path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash);
        let counts = inside.entry(node.path[..parent].to_vec()).or_default();
        *if *ours { &mut counts.1 } else { &mut counts.0 } += 1;
    }
    let mut ours = ours.into_iter();
    let dropped = nodes.extract_if(.., |_| ours.next().unwrap_or(false));
    Ok(dropped.map(|node| node.path).collect())
}

fn changed(node: &Node) -> Error {
    Error::entry("read", &node.path, io::Error::other("the file changed while it was read"))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// The changes in `upper` against the stack below it (`diff` directories, the highest first), sorted.
pub fn changes(upper: &Path, below: &[PathBuf]) -> Result<Vec<Change>, Error> {
    let tree = Upper::open(upper)?;
    let mut nodes = tree.walk(false)?;
    drop_made(&mut nodes, below)?;
    let mut changes = Vec::new();
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for node in &nodes {
        seen.insert(&node.path);
    }
    for node in &nodes {
        let path = Path::new(OsStr::from_bytes(&node.path));
        let failed = |error| Error::entry("stat", &node.path, error);
        let found = find_below(below, path).map_err(failed)?;
        let kind = match (&found, node.is_whiteout()) {
            (None, true) => continue,
            (Some(_), true) => ChangeKind::Deleted,
            (Some(_), false) => ChangeKind::Modified,
            (None, false) => ChangeKind::Added,
        };
        changes.push(Change { kind, path: Path::new("/").join(path) });
        if node.opaque && found.is_some() {
            // Everything below it that was not made anew is gone.
            for name in merged_names(below, path).map_err(failed)? {
                if !seen.contains(join(&node.path, &name).as_slice()) {
                    let path = Path::new("/").join(path).join(OsStr::from_bytes(&name));
                    changes.push(Change { kind: ChangeKind::Deleted, path });
                }
            }
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

/// The names in a directory as the layers below show it.
fn merged_names(below: &[PathBuf], path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut names = std::collections::BTreeSet::new();
    for layer in below {
        // A symbolic link of an image must not have us list the host.
        if !super::leads_inside(layer, &path.join("x")) {
            continue;
        }
        match std::fs::read_dir(layer.join(path)) {
            Ok(entries) => {
                for entry in entries {
                    names.insert(entry?.file_name());
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    let mut found = Vec::new();
    for name in names {
        if find_below(below, &path.join(&name))?.is_some() {
            found.push(name.as_bytes().to_vec());
        }
    }
    Ok(found)
}

/// A tree whose names have been read and whose contents have not.
pub struct Tree {
    upper: Upper,
    nodes: Vec<Node>,
    /// What is in the directory and no change of anybody's.
    made: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("entries", &self.nodes.len()).finish_non_exhaustive()
    }
}

impl Tree {
    /// What `upper` changes in the stack below it (`diff` directories, the highest first).
    ///
    /// `live` says that files may change while they are read, because nobody is frozen.
    pub fn changes(upper: &Path, below: &[PathBuf], live: bool) -> Result<Self, Error> {
        let mut upper = Upper::open(upper)?;
        upper.live = live;
        let mut nodes = upper.walk(true)?;
        let made = drop_made(&mut nodes, below)?;
        for node in &nodes {
            // What no layer may have when it comes from elsewhere: see where it is unpacked.
            let depth = memchr::memchr_iter(b'/', &node.path).count();
            if depth > DEPTH - usize::from(is(&node.stat, SFlag::S_IFDIR)) {
                let path = String::from_utf8_lossy(&node.path).into_owned();
                return Err(Error::Name { path, reason: "it is more than 512 directories deep" });
            }
            // In a layer such a name hides another one; it would not come back as what it is.
            if base(&node.path).starts_with(b".wh.") {
                let path = String::from_utf8_lossy(&node.path).into_owned();
                return Err(Error::Name { path, reason: "in a layer, .wh. marks what is deleted" });
            }
        }
        Ok(Self { upper, nodes, made })
    }

    /// Removes from the directory what its tar does not have: what the engine made, and sockets.
    pub(super) fn drop_strays(&self) -> Result<(), Error> {
        let sockets = self.nodes.iter().filter(|node| is(&node.stat, SFlag::S_IFSOCK));
        for path in sockets.map(|node| &node.path).chain(self.made.iter().rev()) {
            let at = |call, errno: nix::errno::Errno| Error::entry(call, path, errno.into());
            let slash = path.iter().rposition(|b| *b == b'/');
            let (dir, name) = slash.map_or((&b"."[..], &path[..]), |at| (&path[..at], &path[at + 1..]));
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let dir = self.upper.open_at(dir, flags).map_err(|errno| at("openat2", errno))?;
            let name = OsStr::from_bytes(name);
            let gone = match nix::unistd::unlinkat(&dir, name, nix::unistd::UnlinkatFlags::NoRemoveDir) {
                Err(nix::errno::Errno::EISDIR) => {
                    nix::unistd::unlinkat(&dir, name, nix::unistd::UnlinkatFlags::RemoveDir)
                }
                other => other,
            };
            gone.map_err(|errno| at("unlink", errno))?;
        }
        Ok(())
    }

    /// All that is below a directory, but not what only the kernel says (`/proc`). Files may change while they are read.
    pub fn whole(root: OwnedFd) -> Result<Self, Error> {
        let upper = Upper { root, live: true };
        let nodes = upper.walk(true)?;
        Ok(Self { upper, nodes, made: Vec::new() })
    }

    /// One thing that is no directory, in an open directory.
    pub fn one(parent: OwnedFd, name: &OsStr) -> Result<Self, Error> {
        let upper = Upper { root: parent, live: true };
        let path = name.as_bytes().to_vec();
        let name =
            CString::new(path.as_slice()).map_err(|error| Error::entry("stat", &path, error.into()))?;
        let node = Upper::node(upper.root.as_fd(), &name, path, true)?;
        Ok(Self { upper, nodes: vec![node], made: Vec::new() })
    }

    /// Bytes of the files' contents.
    pub fn size(&self) -> u64 {
        let files = self.nodes.iter().filter(|node| is(&node.stat, SFlag::S_IFREG));
        files.map(|node| node.stat.st_size as u64).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Writes a tar: sorted, with whiteouts in OCI's form, the same bytes for the same tree. Sockets are
    /// left out, since tar has no such entry.
    pub fn tar(&self, out: &mut dyn Write) -> Result<(), Error> {
        self.write(&mut Writer { out, below: None, sole: None })
    }

    /// The same, with the directory itself as an entry `name` and everything else below that.
    pub fn tar_below(&self, name: &[u8], out: &mut dyn Write) -> Result<(), Error> {
        let mut writer = Writer { out, below: Some(name), sole: None };
        let stat = nix::sys::stat::fstat(&self.upper.root)
            .map_err(|errno| Error::entry("stat", name, errno.into()))?;
        let by_fd = PathBuf::from(format!("/proc/self/fd/{}/.", self.upper.root.as_raw_fd()));
        let xattrs = list_xattrs(&by_fd).map_err(|error| Error::entry("getxattr", name, error))?;
        let node = Node { path: Vec::new(), stat, opaque: false, link: Vec::new(), xattrs };
        writer.header(&node, b"", b"", ::tar::EntryType::Directory, 0)?;
        self.write(&mut writer)
    }

    /// The same of [`Tree::one`], under another name.
    pub fn tar_as(&self, name: &[u8], out: &mut dyn Write) -> Result<(), Error> {
        self.write(&mut Writer { out, below: None, sole: Some(name) })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let mut links: HashMap<(u64, u64), &[u8]> = HashMap::new();
        // A file of several names is an entry once and a hard link after that.
        let target: Vec<Option<&[u8]>> = self
            .nodes
            .iter()
            .map(|node| {
                if node.stat.st_nlink < 2 || is(&node.stat, SFlag::S_IFDIR) || node.is_whiteout() {
                    return None;
                }
                let first = *links.entry((node.stat.st_dev, node.stat.st_ino)).or_insert(&node.path);
                (first != node.path).then_some(first)
            })
            .collect();
        let mut gone: HashSet<&[u8]> = HashSet::new();
        for (nodes, targets) in self.nodes.chunks(WINDOW).zip(target.chunks(WINDOW)) {
            let contents = read_ahead(&self.upper, nodes, targets);
            for ((node, target), content) in nodes.iter().zip(targets).zip(contents) {
                if target.is_some_and(|target| gone.contains(target)) {
                    continue;
                }
                match writer.node(&self.upper, node, *target, content) {
                    // Gone since its name was read, and nothing of it has been written yet.
                    Err(Error::Entry { call: "openat2", source, .. })
                        if self.upper.live && source.kind() == io::ErrorKind::NotFound =>
                    {
                        gone.insert(&node.path);
                    }
                    other => other?,
                }
            }
        }
        writer.write(&[0; 1024])
    }
}

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// A small file's bytes; `None` for what is not one.
type Content = Option<Result<Vec<u8>, Error>>;

fn is_small(node: &Node) -> bool {
    is(&node.stat, SFlag::S_IFREG) && (1..=SMALL).contains(&(node.stat.st_size as u64))
}

/// Reads the small files of a window, several at a time.
fn read_ahead(tree: &Upper, nodes: &[Node], targets: &[Option<&[u8]>]) -> Vec<Content> {
    let wanted: Vec<usize> =
        (0..nodes.len()).filter(|n| is_small(&nodes[*n]) && targets[*n].is_none()).collect();
    let contents: Vec<Mutex<Content>> = nodes.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let read = || {
        while let Some(n) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            let content = tree.read_small(&nodes[*n]);
            *contents[*n].lock().unwrap_or_else(PoisonError::into_inner) = Some(content);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4);
    std::thread::scope(|scope| {
        // Below some dozens of files a thread costs more than it reads.
        if wanted.len() > 32 {
            for _ in 1..threads {
                scope.spawn(read);
            }
        }
        read();
    });
    contents.into_iter().map(|content| content.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    /// What every name is put below.
    below: Option<&'a [u8]>,
    /// The name of the only entry.
    sole: Option<&'a [u8]>,
}

impl Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|source| Error::file("write", Path::new("layer"), source))
    }

    /// A path as it is written.
    fn name<'n>(&self, path: &'n [u8]) -> std::borrow::Cow<'n, [u8]> {
        match (self.below, self.sole) {
            (_, Some(name)) => name.to_vec().into(),
            (Some(below), None) => [below, b"/", path].concat().into(),
            (None, None) => path.into(),
        }
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        self.write(&[0; 512][..(size.wrapping_neg() % 512) as usize])
    }

    fn node(
        &mut self,
        tree: &Upper,
        node: &Node,
        target: Option<&[u8]>,
        content: Content,
    ) -> Result<(), Error> {
        let stat = &node.stat;
        if node.is_whiteout() {
            let slash = node.path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
            let path = [&node.path[..slash], b".wh.", &node.path[slash..]].concat();
            return self.header(node, &path, b"", ::tar::EntryType::Regular, 0);
        }
        if let Some(target) = target {
            return self.header(node, &node.path, target, ::tar::EntryType::Link, 0);
        }
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => {
                let path = [&node.path[..], b"/"].concat();
                self.header(node, &path, b"", ::tar::EntryType::Directory, 0)?;
                if node.opaque {
                    let path = [&path[..], b".wh..wh..opq"].concat();
                    self.header(node, &path, b"", ::tar::EntryType::Regular, 0)?;
                }
                Ok(())
            }
            SFlag::S_IFREG => {
                let size = stat.st_size as u64;
                let bytes = content.transpose()?;
                let file = if bytes.is_none() && size > 0 { Some(tree.content(node)?) } else { None };
                self.header(node, &node.path, b"", ::tar::EntryType::Regular, size)?;
                if let Some(bytes) = bytes {
                    self.write(&bytes)?;
                }
                if let Some(file) = file {
                    self.large(tree, node, &file, size)?;
                }
                self.pad(size)
            }
            SFlag::S_IFLNK => self.header(node, &node.path, &node.link, ::tar::EntryType::Symlink, 0),
            SFlag::S_IFCHR => self.header(node, &node.path, b"", ::tar::EntryType::Char, 0),
            SFlag::S_IFBLK => self.header(node, &node.path, b"", ::tar::EntryType::Block, 0),
            SFlag::S_IFIFO => self.header(node, &node.path, b"", ::tar::EntryType::Fifo, 0),
            _ => Ok(()),
        }
    }

    fn large(&mut self, tree: &Upper, node: &Node, file: &File, size: u64) -> Result<(), Error> {
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        while offset < size {
            let want = usize::try_from(size - offset).unwrap_or(usize::MAX).min(buffer.len());
            let got = file
                .read_at(&mut buffer[..want], offset)
                .map_err(|error| Error::entry("read", &node.path, error))?;
            let got = match got {
                // It has become shorter: what tar does then, too.
                0 if tree.live => {
                    buffer.fill(0);
                    want
                }
                0 => return Err(changed(node)),
                got => got,
            };
            self.write(&buffer[..got])?;
            offset += got as u64;
        }
        Ok(())
    }

    /// A ustar header, with a PAX header before it for what does not fit.
    fn header(
        &mut self,
        node: &Node,
        path: &[u8],
        link: &[u8],
        kind: ::tar::EntryType,
        size: u64,
    ) -> Result<(), Error> {
        let stat = &node.stat;
        let (path, link) = (&*self.name(path), link);
        let target = self.name(link);
        let link = if kind == ::tar::EntryType::Link { &*target } else { link };
        let marker = node.is_whiteout() || base(path) == b".wh..wh..opq";
        let mut pax = Vec::new();
        let mut header = ::tar::Header::new_ustar();
        put(&mut header.as_old_mut().name, path, c"path", &mut pax);
        put(&mut header.as_old_mut().linkname, link, c"linkpath", &mut pax);
        let numbers = [
            (stat.st_size.max(0) as u64 & if size > 0 { u64::MAX } else { 0 }, 0o77_777_777_777, c"size"),
            (u64::from(stat.st_uid), 0o7_777_777, c"uid"),
            (u64::from(stat.st_gid), 0o7_777_777, c"gid"),
        ];
        let mut fitting = [0; 3];
        for ((value, max, key), field) in numbers.into_iter().zip(&mut fitting) {
            if value > max {
                record(&mut pax, key.to_bytes(), value.to_string().as_bytes());
            } else {
                *field = value;
            }
        }
        header.set_size(fitting[0]);
        header.set_uid(fitting[1]);
        header.set_gid(fitting[2]);
        header.set_mode(if marker { 0 } else { stat.st_mode & 0o7777 });
        // A marker has no time worth keeping; without one, the same change gives the same bytes.
        let (seconds, nanos) = if marker { (0, 0) } else { (stat.st_mtime, stat.st_mtime_nsec) };
        if nanos != 0 || !(0..=0o77_777_777_777).contains(&seconds) {
            record(&mut pax, b"mtime", time(seconds, nanos).as_bytes());
        }
        header.set_mtime(u64::try_from(seconds).unwrap_or(0).min(0o77_777_777_777));
        header.set_entry_type(kind);
        if matches!(kind, ::tar::EntryType::Char | ::tar::EntryType::Block) {
            let failed = |error| Error::entry("write header of", path, error);
            header.set_device_major(major(stat.st_rdev) as u32).map_err(failed)?;
            header.set_device_minor(minor(stat.st_rdev) as u32).map_err(failed)?;
        }
        if !marker && kind != ::tar::EntryType::Link {
            for (name, value) in &node.xattrs {
                record(&mut pax, &[b"SCHILY.xattr.", name.to_bytes()].concat(), value);
            }
        }
        header.set_cksum();
        if !pax.is_empty() {
            let mut extension = ::tar::Header::new_ustar();
            extension.as_old_mut().name[..10].copy_from_slice(b"PaxHeaders");
            extension.set_size(pax.len() as u64);
            extension.set_entry_type(::tar::EntryType::XHeader);
            extension.set_mode(0o644);
            extension.set_uid(0);
            extension.set_gid(0);
            extension.set_mtime(0);
            extension.set_cksum();
            self.write(extension.as_bytes())?;
            self.write(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        self.write(header.as_bytes())
    }
}

/// Puts a name into its field, or into a record when the field is too small.
fn put(field: &mut [u8; 100], name: &[u8], key: &CStr, pax: &mut Vec<u8>) {
    if name.len() > field.len() {
        record(pax, key.to_bytes(), name);
    }
    let len = name.len().min(field.len());
    field[..len].copy_from_slice(&name[..len]);
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    pax.extend_from_slice(len.to_string().as_bytes());
    pax.push(b' ');
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn time(seconds: i64, nanos: i64) -> String {
    let (sign, seconds, nanos) = if seconds < 0 && nanos > 0 {
        ("-", -(seconds + 1), 1_000_000_000 - nanos)
    } else {
        ("", seconds, nanos)
    };
    let text = if nanos == 0 { format!("{sign}{seconds}") } else { format!("{sign}{seconds}.{nanos:09}") };
    if nanos == 0 { text } else { text.trim_end_matches('0').to_owned() }
}
