//! The engine's own binary, as it may be seen from inside a container.
//!
//! While a process of ours is inside a container and has not yet become the container's program, its
//! /proc/PID/exe leads to our binary, and a hostile program that opens it, waits until it is no longer
//! executing and then writes to it owns the host (CVE-2019-5736). What enters a container is therefore
//! always executed from a detached, read-only mount of the binary: the link then leads to that mount,
//! and opening it for writing is refused by the mount, whoever asks.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SealFlag};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::error::{At as _, Error};
use super::kernel::{self, MOUNT_ATTR_RDONLY, MountAttr, OPEN_TREE_CLONE};
use super::relink;

const SELF: &str = "/proc/self/exe";

/// The running binary behind a descriptor through which nobody can write to it.
///
/// A read-only detached mount; where the kernel refuses one, a sealed copy in memory. A process that
/// already runs from such a descriptor gets its own binary again. Execute it with [`execute`].
pub fn protected_self() -> Result<OwnedFd, Error> {
    if is_protected()? {
        return open_self();
    }
    match mounted_self() {
        Ok(fd) => Ok(fd),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)) => {
            sealed_self()
        }
        Err(error) => Err(error).at("open_tree", SELF),
    }
}

fn open_self() -> Result<OwnedFd, Error> {
    nix::fcntl::open(SELF, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).at("open", SELF)
}

/// Whether this process runs from a binary that cannot be written to through its /proc/self/exe.
pub fn is_protected() -> Result<bool, Error> {
    let fd = open_self()?;
    if fstatvfs(&fd).at("fstatvfs", SELF)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    // Seals can be asked for only on a file that is open for reading, and only a memfd has any.
    let file = fs::File::open(SELF).at("open", SELF)?;
    let seals = nix::fcntl::fcntl(&file, FcntlArg::F_GET_SEALS).unwrap_or(0);
    Ok(SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE))
}

fn mounted_self() -> io::Result<OwnedFd> {
    let tree = kernel::open_tree(libc::AT_FDCWD, c"/proc/self/exe", OPEN_TREE_CLONE)?;
    let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    kernel::mount_setattr(tree.as_fd(), 0, &attr)?;
    Ok(tree)
}

fn sealed_self() -> Result<OwnedFd, Error> {
    let memfd = memfd_create("bulkhead", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
        .at("memfd_create", "bulkhead")?;
    let mut copy = fs::File::from(memfd);
    let mut bytes = Vec::new();
    fs::File::open(SELF).and_then(|mut file| file.read_to_end(&mut bytes)).at("read", SELF)?;
    copy.write_all(&bytes).at("write", "memfd")?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    nix::fcntl::fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).at("fcntl(F_ADD_SEALS)", "memfd")?;
    // A descriptor open for writing cannot be executed.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).at("open", "memfd")
}

/// Makes this process one that runs from where nobody can write to its binary, on the spot; whether it is one
/// now. A process with several threads is left as it is.
pub fn protect_in_place() -> bool {
    if is_protected().unwrap_or(false) {
        return true;
    }
    let relinked = mounted_self().and_then(|tree| {
        let file = fs::File::open(format!("/proc/self/fd/{}", tree.as_raw_fd()))?;
        if is_alone()? { relink::relink(&file) } else { Err(io::ErrorKind::ResourceBusy.into()) }
    });
    relinked.is_ok()
}

/// Whether this process has one thread.
pub fn is_alone() -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    // One link for each thread, beside the two of every directory.
    Ok(fs::metadata("/proc/self/task")?.nlink() == 3)
}

/// Gives this process another command line, for one that was forked to be something else. Best effort.
pub fn retitle(words: &[&OsStr]) {
    let _ = relink::retitle(words);
}

/// Executes a binary from [`protected_self`] with the caller's environment. Returns only on failure.
pub fn execute(binary: &OwnedFd, args: &[CString]) -> Error {
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(key, value)| {
            use std::os::unix::ffi::OsStrExt as _;
            CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .collect();
    let source = kernel::exec_fd(binary.as_fd(), args, &env);
    Error::Exec { file: SELF.to_owned(), source }
}
