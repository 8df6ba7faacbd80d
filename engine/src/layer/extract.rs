//! Puts the entries of a tar into a directory that is in use: what `cp` does at its destination.
//!
//! Unlike a layer, such a directory has content already, may be changed by a hostile container while we
//! are in it, and knows no whiteouts. Every parent is opened from the directory's descriptor with
//! `RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS`, and what is made in it is made by a name of one component that
//! is never followed. The tar is read by the parser that reads layers, with the same limits.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use crate::openat2::openat2;

use super::Error;
use super::stream::Input;
use super::tar::{self, Entry, Kind, Parser, Segment};
use super::unpack::{DEPTH, DIRECTORY_XATTRS};

/// How often a name is freed for an entry that somebody else takes at once.
const ATTEMPTS: usize = 64;

/// What an entry is given once it is there.
struct Meta {
    mode: Mode,
    uid: u32,
    gid: u32,
    time: TimeSpec,
    xattrs: Vec<(CString, Vec<u8>)>,
}

/// Extracts `input` into `dest`. Everything is `owner`'s, or, without one, whose the tar says.
pub fn extract(dest: BorrowedFd<'_>, input: impl Read, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let mut parser = Parser::of_stream(Input::new(input));
    // Of a directory last: what is made in it changes its time, and its mode may forbid that.
    let mut directories: Vec<(PathBuf, Meta)> = Vec::new();
    let mut kept = 0;
    while let Some(entry) = parser.next().map_err(Error::Stream)? {
        let path = inside(&entry.path, entry.kind == Kind::Directory)?;
        let Some(name) = path.file_name() else { continue };
        let meta = meta(&entry, owner);
        let parent = parent(dest, &path)?;
        let at = |(call, errno): (&'static str, Errno)| {
            Error::entry(call, path.as_os_str().as_bytes(), io::Error::from(errno))
        };
        if entry.kind == Kind::Directory {
            match mkdirat(&parent, name, Mode::from_bits_truncate(0o700)) {
                Err(Errno::EEXIST) if is_directory(parent.as_fd(), name) => {}
                Err(Errno::EEXIST) => return Err(overwrite(&path, "non-directory", "directory")),
                other => other.map_err(|errno| at(("mkdir", errno)))?,
            }
            kept +=
                meta.xattrs.iter().map(|(name, value)| name.as_bytes().len() + value.len()).sum::<usize>();
            if kept > DIRECTORY_XATTRS {
                let path = path.display().to_string();
                return Err(Error::Name { path, reason: "the directories' attributes are more than 32 MiB" });
            }
            directories.push((path, meta));
            continue;
        }
        if is_directory(parent.as_fd(), name) {
            return Err(overwrite(&path, "directory", "non-directory"));
        }
        match entry.kind {
            Kind::File => {
                let file = create(parent.as_fd(), name).map_err(at)?;
                write(&mut parser, &entry, &file, &path)?;
                finish(&file, &path, &meta)?;
                continue;
            }
            Kind::HardLink => {
                let target = inside(&entry.link, false)?;
                let target_name = target.file_name().unwrap_or_default();
                let dir = self::parent(dest, &target)?;
                replace(parent.as_fd(), name, "link", || {
                    linkat(&dir, target_name, &parent, name, LinkatFlags::empty())
                })
                .map_err(at)?;
                continue;
            }
            Kind::Symlink => {
                let target = OsStr::from_bytes(&entry.link);
                replace(parent.as_fd(), name, "symlink", || symlinkat(target, &parent, name)).map_err(at)?;
            }
            Kind::Char | Kind::Block | Kind::Fifo | Kind::Directory => {
                let device = makedev(u64::from(entry.major), u64::from(entry.minor));
                let kind = match entry.kind {
                    Kind::Char => SFlag::S_IFCHR,
                    Kind::Block => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                replace(parent.as_fd(), name, "mknod", || {
                    mknodat(&parent, name, kind, Mode::from_bits_truncate(0o600), device)
                })
                .map_err(at)?;
            }
        }
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        fchownat(&parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| at(("chown", errno)))?;
        if entry.kind != Kind::Symlink {
            // What was made here a moment ago may be a link by now: only where the kernel can refuse one.
            match fchmodat(&parent, name, meta.mode, FchmodatFlags::NoFollowSymlink) {
                Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(at(("chmod", errno))),
            }
        }
        utimensat(&parent, name, &meta.time, &meta.time, UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| at(("utimensat", errno)))?;
    }
    for (path, meta) in directories.iter().rev() {
        finish(&File::from(open(dest, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?), path, meta)?;
    }
    Ok(())
}

/// Writes what the archive holds of a file; the holes of a sparse one stay holes.
fn write(
    parser: &mut Parser<Input<impl Read>>,
    entry: &Entry,
    file: &File,
    path: &Path,
) -> Result<(), Error> {
    let failed = |call, error| Error::entry(call, path.as_os_str().as_bytes(), error);
    let whole = [Segment { offset: 0, len: parser.remaining() }];
    for segment in entry.sparse.as_deref().unwrap_or(&whole) {
        let mut offset = segment.offset;
        let end = segment.offset + segment.len;
        while offset < end {
            let want = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let Some(piece) = parser.content(want).map_err(Error::Stream)? else {
                return Err(Error::Stream(tar::Error::Truncated(parser.position())));
            };
            file.write_all_at(&piece, offset).map_err(|error| failed("write", error))?;
            offset += piece.len() as u64;
        }
    }
    if entry.sparse.is_some() {
        file.set_len(entry.size).map_err(|error| failed("ftruncate", error))?;
    }
    Ok(())
}

/// Makes something at `name` in place of what has the name, which is no directory.
///
/// The directory may be a running container's, where the name can be taken again as soon as it is free:
/// whatever is made here fails with `EEXIST` then, and never uses what it finds.
fn replace<T>(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    call: &'static str,
    mut make: impl FnMut() -> nix::Result<T>,
) -> Result<T, (&'static str, Errno)> {
    let mut attempts = 0..ATTEMPTS;
    loop {
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(("unlink", errno)),
        }
        match make() {
            Err(Errno::EEXIST) if attempts.next().is_some() => {}
            made => return made.map_err(|errno| (call, errno)),
        }
    }
}

/// A new file; or, where a file is mounted at the name (`/etc/hosts`), that file, emptied.
fn create(parent: BorrowedFd<'_>, name: &OsStr) -> Result<File, (&'static str, Errno)> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = replace(parent, name, "open", || {
        nix::fcntl::openat(parent, name, flags, Mode::from_bits_truncate(0o600))
    });
    match made {
        Err(("unlink", Errno::EBUSY)) => mounted(parent, name),
        other => other.map(File::from),
    }
}

/// Opens and empties the regular file at `name`, which is in use and cannot be replaced.
///
/// It is looked at before it is opened. A container can make any device node there; the rules of its cgroup
/// are not ours, and opening some devices (a tape, a watchdog) does something already.
fn mounted(parent: BorrowedFd<'_>, name: &OsStr) -> Result<File, (&'static str, Errno)> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = nix::fcntl::openat(parent, name, flags, Mode::empty()).map_err(|errno| ("open", errno))?;
    let stat = fstat(&found).map_err(|errno| ("stat", errno))?;
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(("unlink", Errno::EBUSY));
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
    nix::fcntl::open(path.as_str(), flags, Mode::empty()).map(File::from).map_err(|errno| ("open", errno))
}

fn overwrite(path: &Path, old: &'static str, new: &'static str) -> Error {
    Error::Overwrite { path: path.display().to_string(), old, new }
}

/// The name in an archive as a relative path without dots, in no more directories than a layer may have.
fn inside(name: &[u8], directory: bool) -> Result<PathBuf, Error> {
    let mut path = PathBuf::new();
    let mut depth = 0;
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => {
                path.push(part);
                depth += 1;
            }
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let path = String::from_utf8_lossy(name).into_owned();
                return Err(Error::Name { path, reason: "it leads out of the destination" });
            }
        }
    }
    if depth > DEPTH + usize::from(!directory) {
        let path = String::from_utf8_lossy(name).into_owned();
        return Err(Error::Name { path, reason: "it is more than 512 directories deep" });
    }
    Ok(path)
}

fn open(dest: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd, Error> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(dest, path, how)
        .map_err(|errno| Error::entry("openat2", path.as_os_str().as_bytes(), errno.into()))
}

/// The directory that `path` is in, made where it is missing.
fn parent(dest: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Error> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open(dest, dir, flags) {
        Err(Error::Entry { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let above = parent(dest, dir)?;
    let name = dir.file_name().unwrap_or_default();
    match mkdirat(&above, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => open(dest, dir, flags),
        Err(errno) => Err(Error::entry("mkdir", dir.as_os_str().as_bytes(), errno.into())),
    }
}

fn is_directory(parent: BorrowedFd<'_>, name: &OsStr) -> bool {
    fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

fn finish(file: &File, path: &Path, meta: &Meta) -> Result<(), Error> {
    let at = |call, error: io::Error| Error::entry(call, path.as_os_str().as_bytes(), error);
    std::os::unix::fs::fchown(file, Some(meta.uid), Some(meta.gid)).map_err(|error| at("chown", error))?;
    fchmod(file, meta.mode).map_err(|errno| at("chmod", errno.into()))?;
    for (name, value) in &meta.xattrs {
        // SAFETY: the name is a C string and the value's pointer and length belong together.
        let done = unsafe {
            libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        };
        match Errno::result(done) {
            // A file system without them, and a host's directory may be on one.
            Ok(_) | Err(Errno::EOPNOTSUPP | Errno::EPERM) => {}
            Err(errno) => return Err(at("setxattr", errno.into())),
        }
    }
    futimens(file, &meta.time, &meta.time).map_err(|errno| at("utimensat", errno.into()))
}

fn meta(entry: &Entry, owner: Option<(u32, u32)>) -> Meta {
    let (uid, gid) = owner.unwrap_or((entry.uid, entry.gid));
    let (seconds, nanos) = entry.mtime;
    // overlayfs trusts these of an upper directory, and that may be where this goes.
    let overlay = |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let xattrs = entry.xattrs.iter().filter(|(name, _)| !overlay(name));
    let xattrs =
        xattrs.filter_map(|(name, value)| Some((CString::new(name.as_slice()).ok()?, value.clone())));
    Meta {
        mode: Mode::from_bits_truncate(entry.mode),
        uid,
        gid,
        time: TimeSpec::new(seconds, i64::from(nanos)),
        xattrs: xattrs.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn names_stay_inside() {
        for (name, want) in [("a/b", "a/b"), ("./a//b/", "a/b"), ("/etc/x", "etc/x"), ("./", ""), (".", "")] {
            assert_eq!(inside(name.as_bytes(), true).expect(name), Path::new(want), "{name}");
        }
        for name in ["..", "a/../../b", "/../x"] {
            assert!(matches!(inside(name.as_bytes(), true), Err(Error::Name { .. })), "{name}");
        }
    }

    fn archive(name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = ::tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        let mut builder = ::tar::Builder::new(Vec::new());
        builder.append_data(&mut header, name, content).expect("append");
        builder.into_inner().expect("finish")
    }

    fn open_directory(path: &Path) -> OwnedFd {
        nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .expect("open")
    }

    #[test]
    fn a_device_made_while_a_name_is_free_is_not_opened() {
        use std::sync::atomic::{AtomicBool, Ordering};
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let dest = open_directory(dir.path());
        let archive = archive("file", b"content");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // As a hostile container does. Whatever is written to this device fails, and so tells on us.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = mknodat(&dest, "file", SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 7));
                }
            });
            let mut made = 0;
            for _ in 0..2000 {
                match extract(dest.as_fd(), &archive[..], None) {
                    Ok(()) => made += 1,
                    // The name was never free for long enough.
                    Err(Error::Entry { call: "open", source, .. })
                        if source.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(error) => {
                        done.store(true, Ordering::Relaxed);
                        panic!("the device was opened: {error}");
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(made > 0, "nothing was extracted, ever");
        });
    }

    #[test]
    fn of_what_is_mounted_only_a_file_is_opened() {
        use nix::mount::{MsFlags, mount};
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        // Mounts of a thread's own, which go with it.
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
            let dir = tempfile::tempdir().expect("tempdir");
            for name in ["file", "null"] {
                std::fs::write(dir.path().join(name), "").expect("write");
            }
            std::fs::write(dir.path().join("source"), "something longer").expect("write");
            let bind = |from: &Path, to: &str| {
                let to = dir.path().join(to);
                mount(Some(from), &to, none, MsFlags::MS_BIND, none).expect("bind");
            };
            bind(&dir.path().join("source"), "file");
            bind(Path::new("/dev/null"), "null");
            let dest = open_directory(dir.path());
            extract(dest.as_fd(), &archive("file", b"short")[..], None).expect("extract");
            assert_eq!(std::fs::read(dir.path().join("source")).expect("read"), b"short");
            let error = extract(dest.as_fd(), &archive("null", b"x")[..], None).expect_err("a device");
            assert!(
                matches!(&error, Error::Entry { call: "unlink", source, .. }
                    if source.raw_os_error() == Some(libc::EBUSY)),
                "{error}"
            );
            for name in ["file", "null"] {
                nix::mount::umount(&dir.path().join(name)).expect("umount");
            }
        })
        .join()
        .expect("the thread");
    }

    #[test]
    fn what_is_held_in_memory_and_how_deep_it_goes_is_bounded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let dest = open_directory(dir.path());
        let run = |archive: &[u8]| extract(dest.as_fd(), archive, None);
        // A long name that does not end: refused by what its header says.
        let mut header = ::tar::Header::new_gnu();
        header.set_size(1 << 30);
        header.set_entry_type(::tar::EntryType::GNULongName);
        header.set_cksum();
        let endless = io::Read::chain(&header.as_bytes()[..], io::repeat(b'a'));
        let error = extract(dest.as_fd(), endless, None).expect_err("a name of 1 GiB");
        assert!(matches!(&error, Error::Stream(tar::Error::Extension { .. })), "{error}");
        run(&archive(&format!("{}file", "d/".repeat(DEPTH)), b"x")).expect("512 directories");
        let error = run(&archive(&format!("{}file", "e/".repeat(DEPTH + 1)), b"x")).expect_err("513");
        assert!(matches!(&error, Error::Name { reason, .. } if reason.contains("512")), "{error}");
        assert!(!dir.path().join("e").exists());
    }

    #[test]
    fn sparse_files_and_attributes_arrive_and_overlays_own_do_not() {
        let from = tempfile::tempdir().expect("tempdir");
        let made = std::process::Command::new("sh")
            .args(["-c", "truncate -s 3M s; echo data | dd of=s bs=1 seek=1500000 conv=notrunc 2>/dev/null"])
            .current_dir(from.path())
            .status()
            .expect("sh");
        assert!(made.success());
        for format in ["--format=gnu", "--format=pax"] {
            let out = std::process::Command::new("tar")
                .args([format, "-S", "-cf", "-", "s"])
                .current_dir(from.path())
                .output()
                .expect("tar");
            assert!(out.stdout.len() < 100_000, "{format} is not sparse");
            let dir = tempfile::tempdir().expect("tempdir");
            extract(open_directory(dir.path()).as_fd(), &out.stdout[..], Some((0, 0))).expect("extract");
            let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join("s")).expect("read");
            assert!(read(&dir) == read(&from), "{format}");
        }
        let mut builder = ::tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions([
                ("SCHILY.xattr.user.note", &b"value"[..]),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("mtime", b"-1.25"),
            ])
            .expect("pax");
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(::tar::EntryType::Directory);
        for set in [::tar::Header::set_uid, ::tar::Header::set_gid, ::tar::Header::set_mtime] {
            set(&mut header, 0);
        }
        header.set_mode(0o750);
        header.set_size(0);
        builder.append_data(&mut header, "d", io::empty()).expect("append");
        let archive = builder.into_inner().expect("finish");
        let dir = tempfile::tempdir().expect("tempdir");
        extract(open_directory(dir.path()).as_fd(), &archive[..], None).expect("extract");
        let made = dir.path().join("d");
        let meta = std::fs::symlink_metadata(&made).expect("stat");
        assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o750, -2, 750_000_000));
        let names = super::super::xattr_names(&made).expect("xattrs");
        assert!(names.iter().all(|name| !name.to_bytes().windows(7).any(|w| w == b"overlay")), "{names:?}");
        // A file system may take no attributes at all.
        let note = super::super::get_xattr(&made, c"user.note").expect("xattr");
        assert!(note.is_none_or(|value| value == b"value"));
    }
}
