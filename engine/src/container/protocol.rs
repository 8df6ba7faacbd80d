//! What a client and a monitor say to each other.
//!
//! The socket is `SOCK_SEQPACKET`: the kernel keeps message borders, so there is no framing to get
//! wrong and nothing to reassemble. A message is one tag byte and its payload. The same messages run
//! over the socket pair a starting command shares with its monitor and over the attach socket that
//! later commands connect to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{MsgFlags, recv, send};

/// The largest payload of stream data in one message, in bytes. Well below the default socket buffer
/// (208 KiB), so that several fit.
pub const CHUNK: usize = 32 * 1024;

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// First message of a client: which streams it wants.
    Attach {
        /// It will send input.
        stdin: bool,
        /// It wants output.
        output: bool,
    },
    /// Bytes for standard input.
    Stdin(Vec<u8>),
    /// End of standard input.
    StdinEof,
    /// The client's terminal has this size now.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters a line.
        cols: u16,
    },
}

/// What a monitor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Standard output, or the terminal's.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// Process 1 executes its program.
    Started {
        /// Its pid on the host.
        pid: i32,
    },
    /// The start failed.
    Failed {
        /// The exit code Docker gives.
        code: i32,
        /// What went wrong, one line.
        message: String,
    },
    /// A diagnostic for the person at the terminal.
    Warning(String),
    /// Process 1 ended and everything of the container has been released.
    Exited {
        /// Its exit code, 128 + signal when killed.
        code: i32,
    },
}

impl Request {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Attach { stdin, output } => vec![b'a', u8::from(*stdin), u8::from(*output)],
            Self::Stdin(data) => tagged(b'i', data),
            Self::StdinEof => vec![b'e'],
            Self::Resize { rows, cols } => {
                let mut message = vec![b'r'];
                message.extend(rows.to_le_bytes());
                message.extend(cols.to_le_bytes());
                message
            }
        }
    }

    /// Reads one message; `None` when it is not one of ours.
    pub fn decode(message: &[u8]) -> Option<Self> {
        Some(match (message.first()?, &message[1..]) {
            (b'a', &[stdin, output]) => Self::Attach { stdin: stdin != 0, output: output != 0 },
            (b'i', data) => Self::Stdin(data.to_vec()),
            (b'e', []) => Self::StdinEof,
            (b'r', &[a, b, c, d]) => {
                Self::Resize { rows: u16::from_le_bytes([a, b]), cols: u16::from_le_bytes([c, d]) }
            }
            _ => return None,
        })
    }
}

impl Event {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Stdout(data) => tagged(b'o', data),
            Self::Stderr(data) => tagged(b'E', data),
            Self::Started { pid } => tagged(b'S', &pid.to_le_bytes()),
            Self::Failed { code, message } => {
                let mut bytes = tagged(b'F', &code.to_le_bytes());
                bytes.extend(message.as_bytes().iter().take(CHUNK));
                bytes
            }
            Self::Warning(text) => tagged(b'W', text.as_bytes()),
            Self::Exited { code } => tagged(b'X', &code.to_le_bytes()),
        }
    }

    /// Reads one message; `None` when it is not one of ours.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let number = |bytes: &[u8]| bytes.try_into().ok().map(i32::from_le_bytes);
        Some(match (message.first()?, &message[1..]) {
            (b'o', data) => Self::Stdout(data.to_vec()),
            (b'E', data) => Self::Stderr(data.to_vec()),
            (b'S', pid) => Self::Started { pid: number(pid)? },
            (b'F', rest) if rest.len() >= 4 => {
                Self::Failed { code: number(&rest[..4])?, message: text(&rest[4..]) }
            }
            (b'W', rest) => Self::Warning(text(rest)),
            (b'X', code) => Self::Exited { code: number(code)? },
            _ => return None,
        })
    }
}

fn tagged(tag: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(payload.len() + 1);
    message.push(tag);
    message.extend_from_slice(payload);
    message
}

/// Sends a request; blocks while the monitor is busy.
pub fn request(socket: BorrowedFd<'_>, request: &Request) -> io::Result<()> {
    send_message(socket, &request.encode(), MsgFlags::MSG_NOSIGNAL)
}

/// Sends one message, again after an interruption.
pub fn send_message(socket: BorrowedFd<'_>, message: &[u8], flags: MsgFlags) -> io::Result<()> {
    loop {
        match send(socket.as_raw_fd(), message, flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
}

/// Receives one message into `buffer`; an empty slice means the peer is gone.
pub fn receive<'b>(socket: BorrowedFd<'_>, buffer: &'b mut [u8], flags: MsgFlags) -> io::Result<&'b [u8]> {
    loop {
        match recv(socket.as_raw_fd(), buffer, flags) {
            // A reset is told once, before what lies in the queue: the peer closed with something of ours unread,
            // input that the container did not want, say. Its last words are there all the same.
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::ECONNRESET) => {}
            Err(errno) => return Err(errno.into()),
            Ok(length) => return Ok(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_a_round_trip() {
        for request in [
            Request::Attach { stdin: true, output: false },
            Request::Stdin(b"hello\0".to_vec()),
            Request::Stdin(Vec::new()),
            Request::StdinEof,
            Request::Resize { rows: 24, cols: 65535 },
        ] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for event in [
            Event::Stdout(vec![0, 255]),
            Event::Stderr(Vec::new()),
            Event::Started { pid: i32::MAX },
            Event::Failed { code: 127, message: "exec: \"x\"".into() },
            Event::Warning("ulimit".into()),
            Event::Exited { code: -1 },
        ] {
            assert_eq!(Event::decode(&event.encode()), Some(event));
        }
    }

    #[test]
    fn garbage_is_no_message() {
        for bytes in [&b""[..], b"?", b"a", b"a\x01", b"r\x01\x02\x03", b"ex", b"F\x01\x02"] {
            assert_eq!(Request::decode(bytes), None, "{bytes:?}");
        }
        for bytes in [&b""[..], b"?", b"S\x01", b"X", b"F\x01\x02\x03"] {
            assert_eq!(Event::decode(bytes), None, "{bytes:?}");
        }
    }
}
