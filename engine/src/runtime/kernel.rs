//! The system calls that neither libc nor nix wraps, one thin function each.
//!
//! The new mount interface and openat2 are what make a start safe against renames and symlinks made by
//! somebody else at the same moment: every object is held by a descriptor, and nothing is looked up
//! twice by name. These wrappers add types and nothing else. "Minimum kernel" is said where the call
//! is younger than 5.6; all of them are probed by use and never by a version.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libc::{c_int, c_long, c_uint, c_ulong};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;

use crate::openat2;

pub(crate) const OPEN_TREE_CLONE: c_uint = 1;
pub(crate) const OPEN_TREE_CLOEXEC: c_uint = libc::O_CLOEXEC as c_uint;
pub(crate) const AT_RECURSIVE: c_uint = libc::AT_RECURSIVE as c_uint;
pub(crate) const AT_EMPTY_PATH: c_uint = libc::AT_EMPTY_PATH as c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_SET_FD: c_uint = 5;
const FSCONFIG_CMD_CREATE: c_uint = 6;

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x4;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x8;
pub(crate) const MOUNT_ATTR_ATIME: u64 = 0x70;
pub(crate) const MOUNT_ATTR_NOATIME: u64 = 0x10;
pub(crate) const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub(crate) const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
pub(crate) const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

/// libc's constant of this name is a 32-bit integer, which cannot hold it.
pub(crate) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// `struct clone_args`, up to and including `cgroup`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// A path for the kernel. A NUL inside can only come from a hostile specification.
pub(crate) fn c_path(path: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(path.as_ref().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel has just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// openat2(2) relative to `dir`.
pub(crate) fn openat2(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: c_int,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::from_bits_retain(flags | libc::O_CLOEXEC))
        .mode(Mode::from_bits_retain(mode))
        .resolve(ResolveFlag::from_bits_retain(resolve));
    Ok(openat2::openat2(dir, path, how)?)
}

/// open_tree(2).
pub(crate) fn open_tree(dir: RawFd, path: &CStr, flags: c_uint) -> io::Result<OwnedFd> {
    // SAFETY: path is a C string that outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags | OPEN_TREE_CLOEXEC) })
}

/// move_mount(2) of a detached mount onto the file or directory behind `target`.
pub(crate) fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both paths are static empty strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// mount_setattr(2) on the mount behind `mount`. Minimum kernel: 5.12.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, flags: c_uint, attr: &MountAttr) -> io::Result<()> {
    // SAFETY: attr outlives the call; the size is that of attr.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags | AT_EMPTY_PATH,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// A file system being configured: fsopen(2) and fsconfig(2).
#[derive(Debug)]
pub(crate) struct FsContext(OwnedFd);

impl FsContext {
    /// fsopen(2).
    pub fn open(kind: &CStr) -> io::Result<Self> {
        // SAFETY: kind is a C string that outlives the call.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    fn config(&self, command: c_uint, key: *const i8, value: *const i8, aux: c_int) -> io::Result<()> {
        // SAFETY: the callers pass C strings that outlive the call, or null where the command takes none.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, aux) })
            .map(drop)
    }

    /// A `key=value` option.
    pub fn set(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        self.config(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
    }

    /// An option without a value.
    pub fn set_flag(&self, key: &CStr) -> io::Result<()> {
        self.config(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null(), 0)
    }

    /// An option whose value is an open file.
    pub fn set_fd(&self, key: &CStr, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.config(FSCONFIG_SET_FD, key.as_ptr(), std::ptr::null(), fd.as_raw_fd())
    }

    /// Makes the superblock, and a detached mount of it with these attributes.
    pub fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null(), 0)?;
        // SAFETY: no pointers are passed.
        owned(unsafe {
            libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as c_uint)
        })
    }

    /// What the file system itself had to say about a failure, if anything.
    pub fn message(&self) -> Option<String> {
        let mut text = [0u8; 512];
        let n = nix::unistd::read(&self.0, &mut text).ok()?;
        // "e overlay: too many layers": a letter for the severity, then the message.
        Some(String::from_utf8_lossy(text.get(2..n)?).trim_end().to_owned())
    }
}

/// clone3(2) in the manner of fork: the child continues here, on a copy of the stack.
///
/// Returns zero in the child.
///
/// # Safety
/// The caller is single-threaded, and the child leaves by exec or `_exit` and never returns into code
/// that believes it is the parent.
pub(crate) unsafe fn clone3(args: &mut CloneArgs) -> io::Result<libc::pid_t> {
    // SAFETY: args outlives the call; without CLONE_VM the child has its own copy of everything.
    check(unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(args), size_of::<CloneArgs>()) })
        .map(|pid| pid as libc::pid_t)
}

/// close_range(2) with CLOSE_RANGE_CLOEXEC (Minimum kernel: 5.11) or without.
pub(crate) fn close_range(first: c_uint, last: c_uint, flags: c_uint) -> io::Result<()> {
    // SAFETY: no pointers are passed. Whoever owns descriptors in the range has given them up.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// pivot_root(2).
pub(crate) fn pivot_root(new: &CStr, old: &CStr) -> io::Result<()> {
    // SAFETY: both are C strings that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) }).map(drop)
}

/// prctl(2) with integer arguments.
pub(crate) fn prctl(option: c_int, a: c_ulong, b: c_ulong) -> io::Result<c_int> {
    // SAFETY: every option used with this function takes integers only.
    check(c_long::from(unsafe { libc::prctl(option, a, b, 0, 0) })).map(|n| n as c_int)
}

/// setns(2).
pub(crate) fn setns(fd: impl AsFd, kinds: c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(c_long::from(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds) })).map(drop)
}

/// unshare(2).
pub(crate) fn unshare(kinds: c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(c_long::from(unsafe { libc::unshare(kinds) })).map(drop)
}

/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// pidfd_send_signal(2).
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    // SAFETY: a null siginfo asks the kernel to fill in its own.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The permitted set of the calling thread, as a bit mask.
pub(crate) fn permitted_capabilities() -> io::Result<u64> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 fills exactly two CapData.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// capset(2) on the calling thread.
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads exactly two CapData.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// execveat(2) of the file behind `fd`. Returns only on failure.
pub(crate) fn exec_fd(fd: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in null and outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// execve(2). Returns only on failure.
pub(crate) fn exec(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in null and outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Leaves without running a single destructor or exit handler of the parent's.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit is always safe.
    unsafe { libc::_exit(code) }
}
