//! What a layer's tar holds besides the files' contents, so that the tar can be put together again.
//!
//! A layer is kept unpacked, and only so: keeping the blob too would double the disk. But `save` and
//! `push` must give back the very bytes the diff-id names, and no directory remembers how its tar wrote
//! a header. So everything that is not file content goes, in order, into a small compressed index, with
//! references to where the contents went (the idea is tar-split's). The index of a distribution image is
//! about one percent of the layer.
//!
//! Format: zstd over `"BHSPLIT1"` and records. A record is a tag byte and unsigned LEB128 numbers:
//! `0 len bytes…` is literal; `1 len path… offset count` is `count` bytes of the file `path`, relative
//! to the layer's `diff` directory, from `offset`.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"BHSPLIT1";
/// Literal bytes gathered before they are written as one record.
const GATHER: usize = 64 << 10;

/// Writes an index.
pub(super) struct Writer {
    out: zstd::Encoder<'static, File>,
    literal: Vec<u8>,
}

impl Writer {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        // Level 1: headers are so alike that higher levels gain little and would hold up the parser.
        let mut out = zstd::Encoder::new(File::create_new(path)?, 1)?;
        out.write_all(MAGIC)?;
        Ok(Self { out, literal: Vec::with_capacity(GATHER) })
    }

    /// Bytes that are in no file.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.literal.extend_from_slice(bytes);
        if self.literal.len() >= GATHER { self.flush() } else { Ok(()) }
    }

    /// `count` bytes of `path` from `offset`.
    pub(super) fn content(&mut self, path: &[&[u8]], offset: u64, count: u64) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.flush()?;
        let len: usize = path.iter().map(|part| part.len()).sum::<usize>() + path.len().saturating_sub(1);
        let mut record = Vec::with_capacity(len + 24);
        record.push(1);
        number(&mut record, len as u64);
        for (n, part) in path.iter().enumerate() {
            if n > 0 {
                record.push(b'/');
            }
            record.extend_from_slice(part);
        }
        number(&mut record, offset);
        number(&mut record, count);
        self.out.write_all(&record)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.literal.is_empty() {
            return Ok(());
        }
        let mut front = vec![0];
        number(&mut front, self.literal.len() as u64);
        self.out.write_all(&front)?;
        self.out.write_all(&self.literal)?;
        self.literal.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.finish()?;
        Ok(())
    }
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// One record of an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Raw(Vec<u8>),
    Content { path: Vec<u8>, offset: u64, count: u64 },
}

/// Reads an index.
pub(super) struct Reader<R: Read> {
    input: BufReader<zstd::Decoder<'static, BufReader<R>>>,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> io::Result<Self> {
        let mut input = BufReader::new(zstd::Decoder::new(input)?);
        let mut magic = [0; 8];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a layer index"));
        }
        Ok(Self { input })
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        loop {
            match self.input.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(byte[0])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut n = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "number too long in a layer index"))
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let len = self.number()?;
        let mut bytes = Vec::new();
        // Not `vec![0; len]`: the length is only believed as far as there are bytes.
        self.input.by_ref().take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        match self.byte()? {
            None => Ok(None),
            Some(0) => Ok(Some(Record::Raw(self.bytes()?))),
            Some(1) => {
                let path = self.bytes()?;
                let (offset, count) = (self.number()?, self.number()?);
                Ok(Some(Record::Content { path, offset, count }))
            }
            Some(tag) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("tag {tag} in a layer index")))
            }
        }
    }
}
