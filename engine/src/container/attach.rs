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

/// Docker's default: ctrl-p ctrl-q.
pub const DETACH_KEYS: &[u8] = &[16, 17];

/// Reads `--detach-keys`: letters and `ctrl-X`, separated by commas.
pub fn parse_detach_keys(text: &str) -> Option<Vec<u8>> {
    text.split(',')
        .map(|key| match key.strip_prefix("ctrl-") {
            None if key.len() == 1 => Some(key.as_bytes()[0]),
            Some(key) if key.len() == 1 => match key.as_bytes()[0] {
                letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
                b'@' => Some(0),
                b'[' => Some(27),
                b'\\' => Some(28),
                b']' => Some(29),
                b'^' => Some(30),
                b'_' => Some(31),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// Looks for the detach keys in what is typed, across reads.
#[derive(Debug)]
pub struct Keys {
    sequence: Vec<u8>,
    matched: usize,
}

impl Keys {
    /// Looks for `sequence`; an empty one is never found.
    pub fn new(sequence: &[u8]) -> Self {
        Self { sequence: sequence.to_vec(), matched: 0 }
    }

    /// What to pass on; `None` when the sequence is complete. A started sequence is held back until it
    /// is complete or broken.
    pub fn pass(&mut self, typed: &[u8]) -> Option<Vec<u8>> {
        if self.sequence.is_empty() {
            return Some(typed.to_vec());
        }
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte == self.sequence[self.matched] {
                self.matched += 1;
                if self.matched == self.sequence.len() {
                    return None;
                }
                continue;
            }
            passed.extend_from_slice(&self.sequence[..self.matched]);
            self.matched = usize::from(byte == self.sequence[0]);
            if self.matched == 0 {
                passed.push(byte);
            }
        }
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read() {
        assert_eq!(parse_detach_keys("ctrl-p,ctrl-q").as_deref(), Some(DETACH_KEYS));
        assert_eq!(parse_detach_keys("a,ctrl-@,ctrl-[").as_deref(), Some(&[b'a', 0, 27][..]));
        for bad in ["", "ctrl-", "ab", "ctrl-pp", "ctrl-1", "a,"] {
            assert_eq!(parse_detach_keys(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_broken_sequence_is_passed_on_and_a_whole_one_detaches() {
        let mut keys = Keys::new(DETACH_KEYS);
        assert_eq!(keys.pass(b"ab\x10"), Some(b"ab".to_vec()));
        assert_eq!(keys.pass(b"c"), Some(b"\x10c".to_vec()));
        assert_eq!(keys.pass(b"\x10\x10"), Some(b"\x10".to_vec()));
        assert_eq!(keys.pass(b"\x11"), None);
    }
}
