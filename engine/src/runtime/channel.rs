//! The conversation between the runtime and the process it is setting up.
//!
//! One SOCK_SEQPACKET pair, close-on-exec at both ends. The child tells how far it got; its end closes
//! with a successful exec, so the end of the conversation *is* the good news, and there is no moment at
//! which a start has succeeded but nobody knows. A message is a letter and a payload; a console
//! descriptor may ride along.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg,
    sendmsg, socketpair,
};

use super::error::{At as _, Error};

/// What either side may say.
#[derive(Debug)]
pub(super) enum Message {
    /// Child: this went wrong, and I am leaving.
    Failed(Error),
    /// Child: this went wrong, and I am going on without it.
    Warning(String),
    /// Child: the namespaces and mounts are there; run the hooks that want to see them.
    Created,
    /// Child: everything but the exec is done. With the console's master where there is one.
    Ready(Option<OwnedFd>),
    /// Parent: the identity maps are written, or the hooks have run.
    Continue,
    /// Parent: execute the program.
    Start,
    /// The other end is closed.
    End,
}

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub fn pair() -> Result<(Self, Self), Error> {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map(|(a, b)| (Self(a), Self(b)))
            .at("socketpair", "")
    }

    /// Takes up a conversation on a connected SOCK_SEQPACKET socket.
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Closes the copy of the other's end that a fork has made. With it, nobody would hear of the other's death: a
    /// child would wait for ever, and hold on to everything that its parent held, the container's lock for one.
    pub fn close_copy(&self) {
        // SAFETY: in a child that never returns and never drops this, nothing else uses the descriptor.
        unsafe { libc::close(self.0.as_raw_fd()) };
    }

    /// Sends one message.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let (letter, payload, fd): (u8, Vec<u8>, Option<BorrowedFd<'_>>) = match message {
            Message::Failed(error) => (b'f', error.encode(), None),
            Message::Warning(text) => (b'w', text.as_bytes().to_vec(), None),
            Message::Created => (b'c', Vec::new(), None),
            Message::Ready(console) => (b'r', Vec::new(), console.as_ref().map(std::os::fd::AsFd::as_fd)),
            Message::Continue => (b'g', Vec::new(), None),
            Message::Start => (b's', Vec::new(), None),
            Message::End => return Ok(()),
        };
        let letter = [letter];
        let parts = [IoSlice::new(&letter), IoSlice::new(&payload)];
        let fds = fd.map(|fd| [fd.as_raw_fd()]);
        let control = fds.as_ref().map(|fds| ControlMessage::ScmRights(fds));
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &parts, control.as_slice(), MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Waits for one message.
    pub fn receive(&self) -> io::Result<Message> {
        let mut bytes = [0u8; 4096];
        let mut control = nix::cmsg_space!([libc::c_int; 1]);
        let (length, console) = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg::<UnixAddr>(
                self.0.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(nix::errno::Errno::EINTR) => {}
                // The peer died with our message unread: the same news as an orderly end.
                Err(nix::errno::Errno::ECONNRESET) => return Ok(Message::End),
                Err(errno) => return Err(errno.into()),
                Ok(message) => {
                    let mut console = None;
                    for part in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(fds) = part {
                            for fd in fds {
                                // SAFETY: the kernel has just made this descriptor for us.
                                console = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                            }
                        }
                    }
                    break (message.bytes, console);
                }
            }
        };
        let Some((&letter, payload)) = bytes[..length].split_first() else { return Ok(Message::End) };
        Ok(match letter {
            b'f' => Message::Failed(Error::decode(payload)),
            b'w' => Message::Warning(String::from_utf8_lossy(payload).into_owned()),
            b'c' => Message::Created,
            b'r' => Message::Ready(console),
            b'g' => Message::Continue,
            b's' => Message::Start,
            _ => return Err(io::Error::from_raw_os_error(libc::EPROTO)),
        })
    }
}
