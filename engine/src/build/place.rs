//! Where `COPY` puts things: the root of a step, as an overlay that is mounted nowhere.
//!
//! Every path of the Dockerfile is resolved with that root as the root, so that a link which an earlier
//! step planted at the destination leads to somewhere else in the image and nowhere else. What is made is
//! made by a name of one component in an open directory, and never through a link of that name.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, readlinkat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};

use crate::openat2::openat2;

use super::Error;
use super::mode::Chmod;
use super::pattern::clean;
use super::tree::{Found, Item, Kind, Tree};

/// Links followed on the way to a directory that is to be made.
const HOPS: u32 = 40;

/// Puts things into a root.
#[derive(Debug)]
pub struct Place<'a> {
    /// The root.
    pub root: &'a OwnedFd,
    /// Whose everything is; as in the source where none.
    pub owner: Option<(u32, u32)>,
    /// What becomes of everything's mode; as in the source where none.
    pub mode: Option<&'a Chmod>,
}

fn failed(call: &'static str, path: &[u8], errno: Errno) -> Error {
    Error::Io { call, path: Path::new("/").join(OsStr::from_bytes(path)), source: errno.into() }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match (dir.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => dir.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}

/// A path of the Dockerfile, relative to the root.
pub fn relative(path: &str) -> Vec<u8> {
    clean(path.as_bytes()).join(&b'/')
}

impl Place<'_> {
    fn open(&self, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
        openat2(self.root, path, how)
    }

    fn permissions(&self, mode: u32, is_directory: bool) -> u32 {
        self.mode.map_or(mode, |chmod| chmod.apply(mode, is_directory))
    }

    /// Whether there is a directory, perhaps behind a link.
    pub fn is_directory(&self, path: &[u8]) -> bool {
        self.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok()
    }

    /// Opens a directory, making it and those above it where they are missing.
    pub fn directory(&self, path: &[u8]) -> Result<OwnedFd, Error> {
        self.make(path, 0)
    }

    fn make(&self, path: &[u8], hops: u32) -> Result<OwnedFd, Error> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTDIR) => {
                return Err(Error::NotADirectory(String::from_utf8_lossy(path).into_owned()));
            }
            other => return other.map_err(|errno| failed("open", path, errno)),
        }
        if hops > HOPS {
            return Err(failed("open", path, Errno::ELOOP));
        }
        let at = path.iter().rposition(|b| *b == b'/');
        let (dir, name) = at.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        let parent = self.make(dir, hops)?;
        match mkdirat(&parent, OsStr::from_bytes(name), Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                if let Some((uid, gid)) = self.owner.filter(|owner| *owner != (0, 0)) {
                    chown(parent.as_fd(), name, uid, gid).map_err(|errno| failed("chown", path, errno))?;
                }
                self.open(path, flags).map_err(|errno| failed("open", path, errno))
            }
            // A link that leads to where nothing is yet.
            Err(Errno::EEXIST) => {
                let target = readlinkat(&parent, OsStr::from_bytes(name))
                    .map_err(|errno| failed("mkdir", path, errno))?;
                let target = target.as_bytes();
                let leads = if target.starts_with(b"/") { clean(target) } else { clean(&join(dir, target)) };
                self.make(&leads.join(&b'/'), hops + 1)
            }
            Err(errno) => Err(failed("mkdir", path, errno)),
        }
    }

    /// Puts what was found at `target`. A directory's content goes into the directory of that name; anything
    /// else gets the name, or goes into the directory of the name.
    pub fn put(&self, from: &Tree, found: &Found, target: &[u8], into: bool) -> Result<(), Error> {
        let Some(first) = found.items.first() else { return Ok(()) };
        if first.kind != Kind::Directory {
            let (dir, name) = self.split(target, found.name(), into);
            let parent = self.directory(&dir)?;
            return self.one(from, first, parent.as_fd(), &name, &join(&dir, &name));
        }
        let top = self.directory(target)?;
        // What is in one directory follows one another, so one is open at a time.
        let mut open: (&[u8], OwnedFd) = (b"", top);
        for item in &found.items[1..] {
            let at = item.relative.iter().rposition(|b| *b == b'/');
            let (dir, name) = at.map_or((&b""[..], item.relative.as_slice()), |at| {
                (&item.relative[..at], &item.relative[at + 1..])
            });
            if open.0 != dir {
                open = (dir, self.directory(&join(target, dir))?);
            }
            self.one(from, item, open.1.as_fd(), name, &join(target, &item.relative))?;
        }
        // Their times last, since what is made in them changes those.
        for item in found.items[1..].iter().rev().filter(|item| item.kind == Kind::Directory) {
            let path = join(target, &item.relative);
            let dir = self
                .open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
                .map_err(|errno| failed("open", &path, errno))?;
            let time = TimeSpec::new(item.mtime.0, item.mtime.1);
            futimens(&dir, &time, &time).map_err(|errno| failed("utimensat", &path, errno))?;
        }
        Ok(())
    }

    /// The directory and the name that a target means for a thing of the name `own`.
    fn split(&self, target: &[u8], own: &[u8], into: bool) -> (Vec<u8>, Vec<u8>) {
        if into || self.is_directory(target) {
            return (target.to_vec(), own.to_vec());
        }
        match target.iter().rposition(|b| *b == b'/') {
            Some(at) => (target[..at].to_vec(), target[at + 1..].to_vec()),
            None => (Vec::new(), target.to_vec()),
        }
    }

    /// Writes bytes of our own as a file.
    pub fn write(&self, text: &[u8], own: &str, target: &[u8], into: bool, mode: u32) -> Result<(), Error> {
        let (dir, name) = self.split(target, own.as_bytes(), into);
        let parent = self.directory(&dir)?;
        let shown = join(&dir, &name);
        let mut file = self.create(parent.as_fd(), &name, &shown)?;
        io::Write::write_all(&mut file, text)
            .map_err(|error| Error::io("write", Path::new(OsStr::from_bytes(&shown)), error))?;
        let (uid, gid) = self.owner.unwrap_or_default();
        self.finish(&file, uid, gid, self.permissions(mode, false), None, &shown)
    }

    /// The same of a file that is open, with a time.
    pub fn copy(
        &self,
        mut from: &File,
        own: &str,
        target: &[u8],
        into: bool,
        mode: u32,
        mtime: Option<(i64, i64)>,
    ) -> Result<(), Error> {
        let (dir, name) = self.split(target, own.as_bytes(), into);
        let parent = self.directory(&dir)?;
        let shown = join(&dir, &name);
        let mut file = self.create(parent.as_fd(), &name, &shown)?;
        io::copy(&mut from, &mut file)
            .map_err(|error| Error::io("write", Path::new(OsStr::from_bytes(&shown)), error))?;
        let (uid, gid) = self.owner.unwrap_or_default();
        self.finish(&file, uid, gid, self.permissions(mode, false), mtime, &shown)
    }

    /// A new file of that name; what has the name goes, unless it is a directory.
    fn create(&self, parent: BorrowedFd<'_>, name: &[u8], shown: &[u8]) -> Result<File, Error> {
        self.clear(parent, name, shown)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        nix::fcntl::openat(parent, OsStr::from_bytes(name), flags, Mode::from_bits_truncate(0o600))
            .map(File::from)
            .map_err(|errno| failed("open", shown, errno))
    }

    #[allow(clippy::unused_self, reason = "beside its sisters")]
    fn clear(&self, parent: BorrowedFd<'_>, name: &[u8], shown: &[u8]) -> Result<(), Error> {
        match unlinkat(parent, OsStr::from_bytes(name), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => {
                Err(Error::OntoDirectory(String::from_utf8_lossy(shown).into_owned()))
            }
            Err(errno) => Err(failed("unlink", shown, errno)),
        }
    }

    #[allow(clippy::unused_self, reason = "beside its sisters")]
    fn finish(
        &self,
        file: &File,
        uid: u32,
        gid: u32,
        mode: u32,
        mtime: Option<(i64, i64)>,
        shown: &[u8],
    ) -> Result<(), Error> {
        fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|errno| failed("chown", shown, errno))?;
        fchmod(file, Mode::from_bits_truncate(mode)).map_err(|errno| failed("chmod", shown, errno))?;
        if let Some((seconds, nanos)) = mtime {
            let time = TimeSpec::new(seconds, nanos);
            futimens(file, &time, &time).map_err(|errno| failed("utimensat", shown, errno))?;
        }
        Ok(())
    }

    fn one(
        &self,
        from: &Tree,
        item: &Item,
        parent: BorrowedFd<'_>,
        name: &[u8],
        shown: &[u8],
    ) -> Result<(), Error> {
        let (uid, gid) = self.owner.unwrap_or((item.uid, item.gid));
        let mode = self.permissions(item.mode, item.kind == Kind::Directory);
        let os = OsStr::from_bytes(name);
        match item.kind {
            Kind::Directory => {
                match mkdirat(parent, os, Mode::from_bits_truncate(0o700)) {
                    Ok(()) => {}
                    Err(Errno::EEXIST) => {
                        let stat = fstatat(parent, os, AtFlags::AT_SYMLINK_NOFOLLOW)
                            .map_err(|errno| failed("stat", shown, errno))?;
                        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFDIR.bits() {
                            return Err(Error::NotADirectory(String::from_utf8_lossy(shown).into_owned()));
                        }
                    }
                    Err(errno) => return Err(failed("mkdir", shown, errno)),
                }
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let dir = nix::fcntl::openat(parent, os, flags, Mode::empty())
                    .map(File::from)
                    .map_err(|errno| failed("open", shown, errno))?;
                self.finish(&dir, uid, gid, mode, None, shown)
            }
            Kind::File => {
                let mut source = from.content(item)?;
                let mut file = self.create(parent, name, shown)?;
                io::copy(&mut source, &mut file)
                    .map_err(|error| Error::io("copy", Path::new(OsStr::from_bytes(shown)), error))?;
                self.finish(&file, uid, gid, mode, Some(item.mtime), shown)?;
                copy_attributes(&source, &file)
                    .map_err(|error| Error::io("setxattr", Path::new(OsStr::from_bytes(shown)), error))
            }
            Kind::Link | Kind::Node(_) => {
                self.clear(parent, name, shown)?;
                if let Kind::Node(kind) = item.kind {
                    let kind = SFlag::from_bits_truncate(kind);
                    mknodat(parent, os, kind, Mode::from_bits_truncate(mode), item.rdev)
                        .map_err(|errno| failed("mknod", shown, errno))?;
                } else {
                    symlinkat(OsStr::from_bytes(&item.link), parent, os)
                        .map_err(|errno| failed("symlink", shown, errno))?;
                }
                chown(parent, name, uid, gid).map_err(|errno| failed("chown", shown, errno))?;
                let time = TimeSpec::new(item.mtime.0, item.mtime.1);
                utimensat(parent, os, &time, &time, UtimensatFlags::NoFollowSymlink)
                    .map_err(|errno| failed("utimensat", shown, errno))
            }
        }
    }
}

fn chown(parent: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    fchownat(parent, OsStr::from_bytes(name), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// File capabilities: of a file's attributes, what an image needs to work. Owner before this, since a change
/// of owner drops them.
fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let name = c"security.capability";
    let mut value = [0_u8; 64];
    // SAFETY: the name is a C string and the buffer's pointer and length belong together.
    let length =
        unsafe { libc::fgetxattr(from.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    if length <= 0 {
        return Ok(());
    }
    // SAFETY: as above, with the length that was read.
    let done =
        unsafe { libc::fsetxattr(to.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), length as usize, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
