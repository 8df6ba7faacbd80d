//! The client's side of an attach socket.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect as connect_socket, socket,
};

use super::protocol::{self, CHUNK, Event, Request};
use super::record::Container;
use super::summon::Handle;
use super::{Error, IoContext as _};
use crate::store::Store;

/// Connects to a running container's monitor and says what is wanted.
pub fn connect(store: &Store, container: &Container, attach: &Request) -> Result<Handle, Error> {
    let path = container.socket(store.layout());
    let dir = path.parent().unwrap_or(Path::new("/"));
    // Through a descriptor, because a Unix address holds only 108 bytes.
    let dir_fd = std::fs::File::open(dir).map_err(|_| Error::NotRunning(container.id.clone()))?;
    let short = format!("/proc/self/fd/{}/attach.sock", dir_fd.as_raw_fd());
    let socket: OwnedFd =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).at("socket", &path)?;
    connect_socket(socket.as_raw_fd(), &UnixAddr::new(short.as_str()).at("connect", &path)?)
        .at("connect", &path)?;
    let handle = Handle { socket };
    protocol::request(std::os::fd::AsFd::as_fd(&handle.socket), attach).at("send", &path)?;
    Ok(handle)
}

/// Receives a monitor's events.
#[derive(Debug)]
pub struct Receiver<'s> {
    socket: BorrowedFd<'s>,
    buffer: Vec<u8>,
}

impl<'s> Receiver<'s> {
    /// A receiver on an attach socket.
    pub fn new(socket: BorrowedFd<'s>) -> Self {
        Self { socket, buffer: vec![0; CHUNK + 1] }
    }

    /// Waits for the next event; `None` when the monitor is gone.
    pub fn receive(&mut self) -> io::Result<Option<Event>> {
        loop {
            let message = protocol::receive(self.socket, &mut self.buffer, MsgFlags::empty())?;
            if message.is_empty() {
                return Ok(None);
            }
            // A message of a newer monitor that we do not know is passed over.
            if let Some(event) = Event::decode(message) {
                return Ok(Some(event));
            }
        }
    }
}
