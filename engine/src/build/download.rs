//! What is fetched over HTTP: into a file without a name, and not more of it than anybody would have.
//!
//! Whoever answers at an address may send without end, and a disk is not theirs to fill. So what comes is counted as it
//! is written, and whoever does not want it any more says so between two pieces of it.

use std::fs::File;
use std::io::{self, Seek as _, Write};
use std::path::Path;

use super::context::nameless;
use super::{Download, Error};
use crate::layer;

/// Bytes of one file, unless `BULKHEAD_UNPACK_LIMIT` says another number.
const LONGEST: u64 = 16 << 30;

/// A file that has been fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    /// From its beginning.
    pub file: File,
    /// Seconds, where the server says when it was changed.
    pub mtime: Option<i64>,
}

/// A file that is being written.
struct Bounded<'a> {
    file: &'a File,
    length: u64,
    limit: u64,
    goes_on: &'a dyn Fn() -> Result<(), Error>,
    /// Why it was given up, which is more than an error of a write can say.
    refused: Option<Error>,
}

impl Write for Bounded<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.length += data.len() as u64;
        let checked = if self.length > self.limit {
            Err(Error::TooLarge { what: "remote file".to_owned(), limit: self.limit })
        } else {
            (self.goes_on)()
        };
        if let Err(error) = checked {
            self.refused = Some(error);
            return Err(io::Error::other("given up"));
        }
        self.file.write_all(data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fetches what an address leads to. `dir` says on which disk it is; `goes_on` has an error once nobody wants it.
pub(super) fn fetch(
    download: Download<'_>,
    url: &str,
    dir: &Path,
    goes_on: &dyn Fn() -> Result<(), Error>,
) -> Result<Fetched, Error> {
    let limit = match layer::Limit::from_env()? {
        layer::Limit::Bytes(bytes) => bytes,
        layer::Limit::Growth { .. } => LONGEST,
    };
    let mut file = nameless(dir)?;
    let mut to = Bounded { file: &file, length: 0, limit, goes_on, refused: None };
    let done = download(url, &mut to);
    if let Some(error) = to.refused {
        return Err(error);
    }
    let mtime = done?;
    file.rewind().map_err(|error| Error::io("seek", Path::new(url), error))?;
    Ok(Fetched { file, mtime })
}
