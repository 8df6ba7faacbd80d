//! What happens to the file system for one tar entry, and who does it.
//!
//! The dispatcher ([`super::unpack()`]) owns directories, names and order; what is left for an applier is
//! to make things *inside one open directory*, by a name of one component, never following a link. That
//! narrow contract is what makes two appliers interchangeable: [`Threads`] calls the kernel once per
//! step, the ring ([`super::ring`]) batches. Both work through the same [`Op`]s and are tested by the
//! same tables.
//!
//! Levers that need no ring: the mode goes into `open` (each worker has a umask of 0 for itself alone),
//! nothing is chowned that is created with the right owner, and a name that exists is discovered by
//! `O_EXCL` failing and not by asking first.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstatat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

use super::Error;
use super::stream::Slice;

/// An open directory of the layer, shared by the operations in it.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    /// Where it is in the layer, for messages.
    pub(super) path: Box<[u8]>,
    pub(super) lane: Arc<Lane>,
    /// Counts open directories, so that they stay under the limit of descriptors.
    pub(super) open: Arc<AtomicUsize>,
}

impl Drop for Dir {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps the operations of one directory in order: while any is pending, all go to one worker.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) pending: AtomicU32,
    pub(super) worker: AtomicUsize,
}

/// Owner, mode, times and extended attributes.
#[derive(Debug, Clone, Default)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Option<Box<Xattrs>>,
}

/// Names and values.
pub(super) type Xattrs = Vec<(CString, Vec<u8>)>;

/// Content and where in the file it belongs.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) data: Slice,
}

/// One thing to do in one directory.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) dir: Arc<Dir>,
    pub(super) name: CString,
    pub(super) kind: OpKind,
}

#[derive(Debug)]
pub(super) enum OpKind {
    /// A regular file with the first of its content.
    File {
        meta: Meta,
        pieces: Vec<Piece>,
        len: u64,
        sparse: bool,
        more: bool,
    },
    /// More content of the file begun last by this worker.
    Data {
        pieces: Vec<Piece>,
        more: bool,
    },
    Symlink {
        target: CString,
        meta: Meta,
    },
    /// A device or FIFO.
    Node {
        kind: SFlag,
        device: u64,
        meta: Meta,
    },
    /// An overlay whiteout; yields to what the layer itself has under that name.
    Whiteout,
}

/// What appliers tell the dispatcher.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// A file whose content the index refers to was replaced by a later entry.
    pub(super) replaced: AtomicBool,
    /// Extended attributes that the file system would not take.
    pub(super) dropped_xattrs: AtomicUsize,
}

/// Carries out operations, in order within a directory.
pub(super) trait Applier {
    /// Does `op` now, or by the next `flush`.
    fn apply(&mut self, op: Op) -> Result<(), Error>;

    /// Returns when everything applied so far is done.
    fn flush(&mut self) -> Result<(), Error>;
}

/// Calls the kernel for each step, on the worker's own thread.
pub(super) struct Threads {
    shared: Arc<Shared>,
    current: Option<Current>,
}

/// A file whose content is still arriving.
struct Current {
    file: File,
    meta: Meta,
    len: u64,
    sparse: bool,
    written: u64,
    started: u64,
}

/// Bytes after which writing to disk is begun, so that the final `syncfs` finds little to do.
const WRITE_BEHIND: u64 = 8 << 20;

impl Threads {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, current: None }
    }

    fn step(&mut self, op: &mut Op) -> Result<(), (&'static str, io::Error)> {
        let dir = &op.dir;
        let name = op.name.as_c_str();
        match &mut op.kind {
            OpKind::File { meta, pieces, len, sparse, more } => {
                let file = self.create(dir, name, meta.mode)?;
                let mut current = Current {
                    file,
                    meta: std::mem::take(meta),
                    len: *len,
                    sparse: *sparse,
                    written: 0,
                    started: 0,
                };
                current.write(pieces)?;
                if *more {
                    self.current = Some(current);
                } else {
                    current.finish(&self.shared)?;
                }
            }
            OpKind::Data { pieces, more } => {
                let current = self.current.as_mut().expect("data follows its file on the same worker");
                current.write(pieces)?;
                if !*more && let Some(current) = self.current.take() {
                    current.finish(&self.shared)?;
                }
            }
            OpKind::Symlink { target, meta } => {
                self.replacing(dir, name, "symlink", || symlinkat(target.as_c_str(), &dir.fd, name))?;
                finish_by_name(dir, name, meta, false, &self.shared)?;
            }
            OpKind::Node { kind, device, meta } => {
                let mode = Mode::from_bits_truncate(meta.mode);
                self.replacing(dir, name, "mknod", || mknodat(&dir.fd, name, *kind, mode, *device))?;
                finish_by_name(dir, name, meta, true, &self.shared)?;
            }
            OpKind::Whiteout => match mknodat(&dir.fd, name, SFlag::S_IFCHR, Mode::empty(), 0) {
                // What this layer has under the name hides the lower one just as well.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(("mknod", errno.into())),
            },
        }
        Ok(())
    }

    fn create(&self, dir: &Dir, name: &CStr, mode: u32) -> Result<File, (&'static str, io::Error)> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        let mut file = None;
        self.replacing(dir, name, "open", || {
            file = Some(openat(&dir.fd, name, flags, mode)?);
            Ok(())
        })?;
        Ok(File::from(file.expect("replacing returned Ok after the closure did")))
    }

    /// Creates; if the name exists, an earlier entry of this archive made it, and the later one wins.
    fn replacing(
        &self,
        dir: &Dir,
        name: &CStr,
        call: &'static str,
        mut create: impl FnMut() -> nix::Result<()>,
    ) -> Result<(), (&'static str, io::Error)> {
        match create() {
            Err(Errno::EEXIST) => {}
            other => return other.map_err(|errno| (call, errno.into())),
        }
        remove_file(dir, name, &self.shared)?;
        create().map_err(|errno| (call, errno.into()))
    }
}

/// Removes what is no directory, and notes it when a file's content goes with it.
pub(super) fn remove_file(dir: &Dir, name: &CStr, shared: &Shared) -> Result<(), (&'static str, io::Error)> {
    let stat = fstatat(&dir.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| ("stat", e.into()))?;
    if is(&stat, SFlag::S_IFREG) {
        shared.replaced.store(true, Ordering::Relaxed);
    }
    unlinkat(&dir.fd, name, UnlinkatFlags::NoRemoveDir).map_err(|e| ("unlink", e.into()))
}

/// Whether `stat` is of that type.
pub(super) fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

impl Current {
    fn write(&mut self, pieces: &mut Vec<Piece>) -> Result<(), (&'static str, io::Error)> {
        for piece in pieces.drain(..) {
            self.file.write_all_at(&piece.data, piece.offset).map_err(|error| ("write", error))?;
            self.written = piece.offset + piece.data.len() as u64;
        }
        if self.written - self.started.min(self.written) >= WRITE_BEHIND {
            let (from, count) = (self.started as i64, (self.written - self.started) as i64);
            // SAFETY: no memory is passed. A failure loses only the head start.
            unsafe { libc::sync_file_range(self.file.as_raw_fd(), from, count, libc::SYNC_FILE_RANGE_WRITE) };
            self.started = self.written;
        }
        Ok(())
    }

    fn finish(self, shared: &Shared) -> Result<(), (&'static str, io::Error)> {
        if self.sparse {
            self.file.set_len(self.len).map_err(|error| ("ftruncate", error))?;
        }
        finish_file(&self.file, &self.meta, shared)
    }
}

/// Owner, set-id bits, attributes and times of an open file, in the one order that keeps them all:
/// chown clears set-id bits and `security.capability`, and everything but times moves the mtime.
pub(super) fn finish_file(
    file: &File,
    meta: &Meta,
    shared: &Shared,
) -> Result<(), (&'static str, io::Error)> {
    if (meta.uid, meta.gid) != (0, 0) {
        std::os::unix::fs::fchown(file, Some(meta.uid), Some(meta.gid)).map_err(|error| ("fchown", error))?;
    }
    if meta.mode & 0o7000 != 0 {
        nix::sys::stat::fchmod(file, Mode::from_bits_truncate(meta.mode))
            .map_err(|errno| ("fchmod", errno.into()))?;
    }
    for (name, value) in meta.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
        // SAFETY: the name is a C string and the value's pointer and length belong together.
        let result = unsafe {
            libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        };
        xattr_result(result, shared)?;
    }
    let (seconds, nanos) = meta.mtime;
    let time = TimeSpec::new(seconds, i64::from(nanos));
    nix::sys::stat::futimens(file, &time, &time).map_err(|errno| ("futimens", errno.into()))
}

/// The same for what cannot be opened: symbolic links and special files.
pub(super) fn finish_by_name(
    dir: &Dir,
    name: &CStr,
    meta: &Meta,
    has_mode: bool,
    shared: &Shared,
) -> Result<(), (&'static str, io::Error)> {
    if (meta.uid, meta.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        fchownat(&dir.fd, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| ("fchownat", errno.into()))?;
    }
    if has_mode && meta.mode & 0o7000 != 0 {
        // Not a symbolic link: this worker has just made it, in a directory nobody else can reach.
        let mode = Mode::from_bits_truncate(meta.mode);
        nix::sys::stat::fchmodat(&dir.fd, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
            .map_err(|errno| ("fchmodat", errno.into()))?;
    }
    if let Some(xattrs) = &meta.xattrs {
        let mut path = format!("/proc/self/fd/{}/", dir.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        let path = CString::new(path).expect("a name has no NUL");
        for (name, value) in xattrs.iter() {
            // SAFETY: both names are C strings and the value's pointer and length belong together.
            let result = unsafe {
                libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
            };
            xattr_result(result, shared)?;
        }
    }
    let (seconds, nanos) = meta.mtime;
    let time = TimeSpec::new(seconds, i64::from(nanos));
    utimensat(&dir.fd, name, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(|errno| ("utimensat", errno.into()))
}

/// A file system without extended attributes (or a symbolic link with `user.` ones) is a fact to
/// report, not a reason to refuse the image.
fn xattr_result(result: libc::c_int, shared: &Shared) -> Result<(), (&'static str, io::Error)> {
    match Errno::result(result) {
        Ok(_) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::EPERM) => {
            shared.dropped_xattrs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(errno) => Err(("setxattr", errno.into())),
    }
}

/// Names the operation's path in its error.
pub(super) fn locate(op: &Op, (call, source): (&'static str, io::Error)) -> Error {
    let mut path = op.dir.path.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(op.name.to_bytes());
    Error::entry(call, &path, source)
}

impl Applier for Threads {
    fn apply(&mut self, mut op: Op) -> Result<(), Error> {
        let result = self.step(&mut op).map_err(|error| locate(&op, error));
        op.dir.lane.pending.fetch_sub(1, Ordering::Release);
        result
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Duplicates a directory descriptor as a file, for calls that want one.
pub(super) fn as_file(dir: &Dir) -> io::Result<File> {
    let fd = nix::fcntl::fcntl(dir.fd.as_fd(), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: F_DUPFD_CLOEXEC has just returned this descriptor, which nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}
