//! What goes to standard output, and how it looks.
//!
//! Everything is written through here, so that a closed pipe (`bulkhead ps | head -1`) ends a command
//! quietly and a full disk ends it with an error; `println!` would panic on both.

pub mod human;
pub mod list;
pub mod progress;
pub mod table;

use std::io::Write as _;

use crate::failure::Failure;

/// Writes bytes as they are.
pub fn raw(bytes: &[u8]) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))?;
    Ok(0)
}

/// Writes one line.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    raw(&bytes).map(drop)
}
