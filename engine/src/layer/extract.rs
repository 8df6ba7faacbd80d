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
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::Error;

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
        match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
            // A file that is a mount: its content can be replaced, it cannot.
            Ok(()) | Err(Errno::ENOENT | Errno::EBUSY) => {}
            Err(errno) => return Err(at("unlink", errno)),
        }
        if kind.is_file() || kind.is_gnu_sparse() {
            let flags = OFlag::O_WRONLY
                | OFlag::O_CREAT
                | OFlag::O_TRUNC
                | OFlag::O_NOFOLLOW
                | OFlag::O_NONBLOCK
                | OFlag::O_CLOEXEC;
            let file = nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o600))
                .map_err(|errno| at("open", errno))?;
            let mut file = File::from(file);
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
                linkat(&dir, target_name, &parent, name, LinkatFlags::empty())
                    .map_err(|errno| at("link", errno))?;
                continue;
            }
            ::tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                symlinkat(OsStr::from_bytes(&target), &parent, name).map_err(|errno| at("symlink", errno))?;
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
                mknodat(&parent, name, kind, Mode::from_bits_truncate(0o600), device)
                    .map_err(|errno| at("mknod", errno))?;
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
