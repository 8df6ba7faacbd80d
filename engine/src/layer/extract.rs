//! Puts the entries of a tar into a directory that is in use: what `cp` does at its destination.
//!
//! Unlike a layer, such a directory has content already, may be changed by a hostile container while we
//! are in it, and knows no whiteouts. Every parent is opened from the directory's descriptor with
//! `RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS`, and what is made in it is made by a name of one component that
//! is never followed.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::Error;

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
    let mut archive = ::tar::Archive::new(input);
    // Of a directory last: what is made in it changes its time, and its mode may forbid that.
    let mut directories: Vec<(PathBuf, Meta)> = Vec::new();
    for entry in archive.entries().map_err(Error::Stream)? {
        let mut entry = entry.map_err(Error::Stream)?;
        let kind = entry.header().entry_type();
        if matches!(kind, ::tar::EntryType::XGlobalHeader) {
            continue;
        }
        let path = inside(&entry.path_bytes())?;
        let Some(name) = path.file_name() else { continue };
        let meta = meta(&mut entry, owner)?;
        let parent = parent(dest, &path)?;
        let at = |call: &'static str, errno: Errno| {
            Error::entry(call, path.as_os_str().as_bytes(), io::Error::from(errno))
        };
        if kind.is_dir() {
            match mkdirat(&parent, name, Mode::from_bits_truncate(0o700)) {
                Err(Errno::EEXIST) if is_directory(parent.as_fd(), name) => {}
                Err(Errno::EEXIST) => return Err(overwrite(&path, "non-directory", "directory")),
                other => other.map_err(|errno| at("mkdir", errno))?,
            }
            directories.push((path, meta));
            continue;
        }
        if is_directory(parent.as_fd(), name) {
            return Err(overwrite(&path, "directory", "non-directory"));
        }
        if kind.is_file() || kind.is_gnu_sparse() {
            let mut file = create(parent.as_fd(), name).map_err(|(call, errno)| at(call, errno))?;
            io::copy(&mut entry, &mut file)
                .map_err(|error| Error::entry("write", path.as_os_str().as_bytes(), error))?;
            finish(&file, &path, &meta)?;
            continue;
        }
        match kind {
            ::tar::EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = inside(&target)?;
                let target_name = target.file_name().unwrap_or_default();
                let dir = self::parent(dest, &target)?;
                replace(parent.as_fd(), name, "link", || {
                    linkat(&dir, target_name, &parent, name, LinkatFlags::empty())
                })
                .map_err(|(call, errno)| at(call, errno))?;
                continue;
            }
            ::tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                replace(parent.as_fd(), name, "symlink", || {
                    symlinkat(OsStr::from_bytes(&target), &parent, name)
                })
                .map_err(|(call, errno)| at(call, errno))?;
            }
            ::tar::EntryType::Char | ::tar::EntryType::Block | ::tar::EntryType::Fifo => {
                let number = |number: io::Result<Option<u32>>| {
                    number.map(|n| u64::from(n.unwrap_or_default())).map_err(Error::Stream)
                };
                let device =
                    makedev(number(entry.header().device_major())?, number(entry.header().device_minor())?);
                let (kind, device) = match kind {
                    ::tar::EntryType::Char => (SFlag::S_IFCHR, device),
                    ::tar::EntryType::Block => (SFlag::S_IFBLK, device),
                    _ => (SFlag::S_IFIFO, 0),
                };
                replace(parent.as_fd(), name, "mknod", || {
                    mknodat(&parent, name, kind, Mode::from_bits_truncate(0o600), device)
                })
                .map_err(|(call, errno)| at(call, errno))?;
            }
            _ => continue,
        }
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        fchownat(&parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| at("chown", errno))?;
        if kind != ::tar::EntryType::Symlink {
            // What was made here a moment ago may be a link by now: only where the kernel can refuse one.
            match fchmodat(&parent, name, meta.mode, FchmodatFlags::NoFollowSymlink) {
                Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(at("chmod", errno)),
            }
        }
        utimensat(&parent, name, &meta.time, &meta.time, UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| at("utimensat", errno))?;
    }
    for (path, meta) in directories.iter().rev() {
        finish(&File::from(open(dest, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?), path, meta)?;
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

/// The name in an archive as a relative path without dots.
fn inside(name: &[u8]) -> Result<PathBuf, Error> {
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let path = String::from_utf8_lossy(name).into_owned();
                return Err(Error::Name { path, reason: "it leads out of the destination" });
            }
        }
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

fn meta<R: Read>(entry: &mut ::tar::Entry<'_, R>, owner: Option<(u32, u32)>) -> Result<Meta, Error> {
    let header = entry.header();
    let id = |id: io::Result<u64>| {
        id.and_then(|id| u32::try_from(id).map_err(io::Error::other)).map_err(Error::Stream)
    };
    let (uid, gid) = if let Some(owner) = owner { owner } else { (id(header.uid())?, id(header.gid())?) };
    let mode = Mode::from_bits_truncate(header.mode().map_err(Error::Stream)? & 0o7777);
    let mut time = TimeSpec::new(header.mtime().map_err(Error::Stream)? as i64, 0);
    let mut xattrs = Vec::new();
    for record in entry.pax_extensions().map_err(Error::Stream)?.into_iter().flatten() {
        let record = record.map_err(Error::Stream)?;
        if record.key_bytes() == b"mtime" {
            time = record.value().ok().and_then(moment).unwrap_or(time);
        }
        if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.")
            && let Ok(name) = CString::new(name)
        {
            xattrs.push((name, record.value_bytes().to_vec()));
        }
    }
    Ok(Meta { mode, uid, gid, time, xattrs })
}

/// `SECONDS[.FRACTION]`.
fn moment(text: &str) -> Option<TimeSpec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    Some(match (text.starts_with('-'), nanos) {
        (true, 1..) => TimeSpec::new(whole - 1, 1_000_000_000 - nanos),
        _ => TimeSpec::new(whole, nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (name, want) in [("a/b", "a/b"), ("./a//b/", "a/b"), ("/etc/x", "etc/x"), ("./", ""), (".", "")] {
            assert_eq!(inside(name.as_bytes()).expect(name), Path::new(want), "{name}");
        }
        for name in ["..", "a/../../b", "/../x"] {
            assert!(matches!(inside(name.as_bytes()), Err(Error::Name { .. })), "{name}");
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
    fn moments_are_read_with_their_fraction() {
        for (text, want) in [
            ("12", (12, 0)),
            ("12.5", (12, 500_000_000)),
            ("-1.25", (-2, 750_000_000)),
            ("0.000000001", (0, 1)),
        ] {
            let time = moment(text).expect(text);
            assert_eq!((time.tv_sec(), time.tv_nsec()), want, "{text}");
        }
        for text in ["", "x", "1.x"] {
            assert!(moment(text).is_none(), "{text}");
        }
    }
}
