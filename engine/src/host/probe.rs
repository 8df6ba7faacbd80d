//! Trying things out, in a child process where trying would leave a mark.
//!
//! A child may be forked from a process with threads, so it keeps to system calls and memory it already
//! has; it reports by its exit status, which is an errno or 0.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::{errno::Errno, sys::wait::WaitStatus};

/// What a step of a probe gave.
pub(super) type Tried = Result<(), Errno>;

pub(super) fn sys(result: libc::c_long) -> Result<i32, Errno> {
    Errno::result(result).map(|r| r as i32)
}

/// Runs `body` in a child and takes its verdict.
pub(super) fn in_child(body: impl FnOnce() -> Tried) -> Tried {
    // SAFETY: the child only makes system calls and leaves by `_exit`.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::last()),
        0 => {
            let code = body().err().map_or(0, |errno| errno as i32);
            // SAFETY: leaving without running anybody's exit handlers is the point.
            unsafe { libc::_exit(code) }
        }
        pid => match nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, code) => Err(Errno::from_raw(code)),
            // Killed, which is what a seccomp filter of our own host may do.
            _ => Err(Errno::EPERM),
        },
    }
}

pub(super) fn unshare(flags: i32) -> Tried {
    // SAFETY: no memory is involved.
    sys(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// A child in a mount namespace of its own, on an empty tmpfs as working directory.
pub(super) fn on_scratch(body: impl FnOnce() -> Tried) -> Tried {
    in_child(|| {
        unshare(libc::CLONE_NEWNS)?;
        mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
        // /proc is a directory on every host, and this process is done with it.
        mount(Some(c"tmpfs"), c"/proc", Some(c"tmpfs"), 0, None)?;
        chdir(c"/proc")?;
        for dir in [c"a", c"b", c"upper", c"work", c"at"] {
            mkdir(dir)?;
        }
        body()
    })
}

pub(super) fn mkdir(path: &CStr) -> Tried {
    // SAFETY: a NUL-terminated path.
    sys(unsafe { libc::mkdir(path.as_ptr(), 0o755) }.into()).map(drop)
}

fn chdir(path: &CStr) -> Tried {
    // SAFETY: a NUL-terminated path.
    sys(unsafe { libc::chdir(path.as_ptr()) }.into()).map(drop)
}

pub(super) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> Tried {
    let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: NUL-terminated strings or null, as mount(2) takes them.
    let result =
        unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, pointer(data).cast()) };
    sys(result.into()).map(drop)
}

const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_SET_FD: u32 = 5;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// A value for `fsconfig`.
pub(super) enum Value<'a> {
    Text(&'a CStr),
    Fd(&'a OwnedFd),
}

/// `fsopen`, `fsconfig` for each option, create, `fsmount`: the mount is never attached to a tree.
pub(super) fn new_mount(kind: &CStr, options: &[(&CStr, Value<'_>)]) -> Result<OwnedFd, Errno> {
    // SAFETY: NUL-terminated strings; the descriptors are new and ours.
    unsafe {
        let context = sys(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1))?;
        let context = OwnedFd::from_raw_fd(context);
        let config = |command: u32, key: *const i8, value: *const i8, aux: i32| {
            sys(libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, aux)).map(drop)
        };
        for (key, value) in options {
            match value {
                Value::Text(text) => config(FSCONFIG_SET_STRING, key.as_ptr(), text.as_ptr(), 0)?,
                Value::Fd(fd) => config(FSCONFIG_SET_FD, key.as_ptr(), std::ptr::null(), fd.as_raw_fd())?,
            }
        }
        config(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null(), 0)?;
        let mount = sys(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0))?;
        Ok(OwnedFd::from_raw_fd(mount))
    }
}

pub(super) fn open_dir(path: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: a NUL-terminated path; the descriptor is new and ours.
    unsafe {
        let fd = sys(libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).into())?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Netlink requests, as bytes.
pub(super) mod netlink {
    use super::{Errno, OwnedFd, Tried, sys};
    use std::os::fd::{AsRawFd, FromRawFd};

    const REQUEST_ACK_CREATE_EXCL: u16 = 0x1 | 0x4 | 0x200 | 0x400;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((body.len() as u32 + 16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `RTM_NEWLINK` for a device of that kind.
    pub(crate) fn link(kind: &[u8]) -> Vec<u8> {
        const RTM_NEWLINK: u16 = 16;
        const IFLA_IFNAME: u16 = 3;
        const IFLA_LINKINFO: u16 = 18;
        const IFLA_INFO_KIND: u16 = 1;
        let mut body = vec![0; 16];
        body.extend(attribute(IFLA_IFNAME, b"bulkhead-probe\0"));
        body.extend(attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, kind)));
        message(RTM_NEWLINK, REQUEST_ACK_CREATE_EXCL, 1, &body)
    }

    /// A batch that makes one nftables table.
    pub(crate) fn table() -> Vec<u8> {
        const BATCH_BEGIN: u16 = 16;
        const BATCH_END: u16 = 17;
        const NFT_NEWTABLE: u16 = 10 << 8;
        const NFTA_TABLE_NAME: u16 = 1;
        // struct nfgenmsg: family, version, resource id in network order.
        let header = |family: u8, resource: u16| {
            let mut h = vec![family, 0];
            h.extend(resource.to_be_bytes());
            h
        };
        let mut body = header(1, 0);
        body.extend(attribute(NFTA_TABLE_NAME, b"bulkhead-probe\0"));
        let mut batch = message(BATCH_BEGIN, 1, 0, &header(0, 10));
        batch.extend(message(NFT_NEWTABLE, REQUEST_ACK_CREATE_EXCL, 1, &body));
        batch.extend(message(BATCH_END, 1, 2, &header(0, 10)));
        batch
    }

    /// Sends and waits for the acknowledgement.
    pub(crate) fn ask(protocol: i32, request: &[u8]) -> Tried {
        let mut reply = [0u8; 4096];
        // SAFETY: the socket is new and ours; both buffers are passed with their lengths.
        let length = unsafe {
            let fd =
                sys(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol).into())?;
            let socket = OwnedFd::from_raw_fd(fd);
            Errno::result(libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0))?;
            Errno::result(libc::recv(socket.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0))?
        };
        verdict(&reply[..length as usize])
    }

    /// Of the first NLMSG_ERROR, which is also how success is told.
    pub(crate) fn verdict(reply: &[u8]) -> Tried {
        const NLMSG_ERROR: u16 = 2;
        let kind = reply.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
        let error = reply.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
        match (kind, error) {
            (Some(NLMSG_ERROR), Some(0)) => Ok(()),
            (Some(NLMSG_ERROR), Some(error)) => Err(Errno::from_raw(error.saturating_neg())),
            _ => Err(Errno::EBADMSG),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn messages_are_aligned_and_verdicts_read() {
            let link = link(b"veth");
            assert_eq!(link.len() % 4, 0);
            assert_eq!(u32::from_ne_bytes(link[..4].try_into().unwrap()) as usize, link.len());
            let reply = |kind: u16, error: i32| {
                let mut body = error.to_ne_bytes().to_vec();
                body.extend([0; 16]);
                message(kind, 0, 1, &body)
            };
            assert_eq!(verdict(&reply(2, 0)), Ok(()));
            assert_eq!(verdict(&reply(2, -1)), Err(Errno::EPERM));
            for odd in [&b""[..], b"short", &reply(3, 0), &reply(2, 0)[..18]] {
                assert_eq!(verdict(odd), Err(Errno::EBADMSG), "{odd:?}");
            }
        }
    }
}
