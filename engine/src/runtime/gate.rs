//! Starting a container that somebody else created.
//!
//! An OCI `create` ends while the container waits for its `start`, which is another process and maybe
//! another user's shell. The waiting process therefore listens on a socket in the runtime's state
//! directory. Whoever connects and says so starts it, and learns over the same connection whether the
//! program was executed.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen as listen_on, socket,
};

use super::channel::{Channel, Message};
use super::error::{At as _, Error};

const NAME: &str = "start.sock";

/// What makes a created process become its program.
#[derive(Debug, Clone, Copy)]
pub enum Gate<'a> {
    /// [`super::Init::start`], by the process that created it.
    Init,
    /// [`start`], by anybody who can reach this listening socket.
    Socket(BorrowedFd<'a>),
}

fn address(dir: &OwnedFd) -> Result<UnixAddr, Error> {
    // A path of our own length: a socket's address holds 108 bytes, and a state directory may be deeper.
    let path = format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd());
    UnixAddr::new(path.as_str()).at("unix address", &path)
}

fn open(dir: &Path) -> Result<OwnedFd, Error> {
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
    nix::fcntl::open(dir, flags, nix::sys::stat::Mode::empty()).at("open", dir)
}

/// Makes the socket in a state directory.
pub fn listen(dir: &Path) -> Result<OwnedFd, Error> {
    let parent = open(dir)?;
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).at("socket", dir)?;
    bind(socket.as_raw_fd(), &address(&parent)?).at("bind", dir)?;
    listen_on(&socket, Backlog::new(1).expect("one is a valid backlog")).at("listen", dir)?;
    Ok(socket)
}

/// Whether a created container in this state directory still waits for its start.
pub fn waits(dir: &Path) -> bool {
    dir.join(NAME).exists()
}

/// Starts the process that waits in a state directory. On success its program runs.
pub fn start(dir: &Path) -> Result<(), Error> {
    let parent = open(dir)?;
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).at("socket", dir)?;
    match connect(socket.as_raw_fd(), &address(&parent)?) {
        Err(nix::errno::Errno::ECONNREFUSED) => return Err(Error::NotRunning),
        other => other.at("connect", dir.join(NAME))?,
    }
    let channel = Channel::from_socket(socket);
    channel.send(&Message::Start).map_err(|_| Error::Died)?;
    let outcome = loop {
        match channel.receive().at("recvmsg", "init")? {
            Message::Failed(error) => break Err(error),
            Message::End => break Ok(()),
            _ => {}
        }
    };
    // Started or failed, nobody listens any more.
    match std::fs::remove_file(dir.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return outcome.and(Err(error).at("unlink", dir.join(NAME)));
        }
        _ => {}
    }
    outcome
}

/// Waits in the child until somebody says start, and returns the connection on which to tell of it.
pub(super) fn wait(listener: BorrowedFd<'_>) -> Result<Channel, Error> {
    loop {
        // SAFETY: no address is asked for.
        let fd = unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        if fd < 0 {
            let error = io::Error::last_os_error();
            if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNABORTED)) {
                continue;
            }
            return Err(error).at("accept", NAME);
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let channel = Channel::from_socket(unsafe { OwnedFd::from_raw_fd(fd) });
        // Somebody who connects and goes away again has started nothing.
        if let Ok(Message::Start) = channel.receive() {
            return Ok(channel);
        }
    }
}
