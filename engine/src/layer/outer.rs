//! The list of entries of an image archive: a tar whose files are layers and documents.
//!
//! Only headers are read; contents are passed over and read later, in any order and in parallel, from
//! where the list says they are.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::tar::{Error, Kind, Parser, Source};

/// Entries an archive may have. Real ones have a few per layer.
const MAX_ENTRIES: usize = 1 << 18;

/// What a name in the archive stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Bytes of the archive.
    File {
        /// Where they start.
        offset: u64,
        /// How many there are.
        size: u64,
    },
    /// Another name, cleaned.
    Link(Vec<u8>),
}

struct Seekable<'a> {
    file: &'a File,
    at: u64,
    len: u64,
}

impl Source for Seekable<'_> {
    type Piece = Vec<u8>;

    fn take(&mut self, max: usize) -> Result<Option<Vec<u8>>, Error> {
        let mut buffer = vec![0; max.min(64 << 10)];
        let n = self.file.read_at(&mut buffer, self.at).map_err(Error::Input)?;
        buffer.truncate(n);
        self.at += n as u64;
        Ok((n > 0).then_some(buffer))
    }

    fn skip(&mut self, n: u64) -> Result<u64, Error> {
        let n = n.min(self.len.saturating_sub(self.at));
        self.at += n;
        Ok(n)
    }
}

/// Lists the regular files and links of a tar.
pub fn list(file: &File) -> Result<HashMap<Vec<u8>, Entry>, Error> {
    let len = file.metadata().map_err(Error::Input)?.len();
    let mut parser = Parser::new(Seekable { file, at: 0, len }, None);
    let mut entries = HashMap::new();
    while let Some(entry) = parser.next()? {
        let name = clean(&entry.path);
        let found = match entry.kind {
            Kind::File if entry.sparse.is_none() => {
                Entry::File { offset: parser.position(), size: entry.size }
            }
            Kind::HardLink => Entry::Link(clean(&entry.link)),
            Kind::Symlink => {
                // Relative to the directory of the link.
                let parent = name.iter().rposition(|b| *b == b'/').map_or(&b""[..], |end| &name[..end]);
                Entry::Link(clean(&[parent, b"/", &entry.link].concat()))
            }
            _ => continue,
        };
        entries.insert(name, found);
        if entries.len() > MAX_ENTRIES {
            return Err(Error::Input(std::io::Error::other(format!(
                "more than {MAX_ENTRIES} entries: not an image archive"
            ))));
        }
    }
    Ok(entries)
}

/// A name without `.`, `..`, and empty components; `..` stops at the archive's root. The result is only
/// ever looked up in the list.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join(&b'/')
}
