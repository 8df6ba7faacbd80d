//! From a blob of any framing to plain bytes.
//!
//! The format is told by the first bytes, never by a media type or a file name: what a manifest calls a
//! gzip layer is plain often enough. Members and frames may follow one another (pigz, stargz and
//! zstd:chunked write many), and zstd's skippable frames are passed over.

use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, RFC 1952, any number of members.
    Gzip,
    /// Zstandard, RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    /// Tells by the first bytes.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A skippable frame may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Counts and, when asked, hashes what is read through it.
pub(super) struct Tap<R> {
    inner: R,
    pub(super) count: u64,
    pub(super) hash: Option<Sha256>,
}

impl<R: Read> Tap<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, count: 0, hash: None }
    }

    /// The digest of everything read, if it was hashed.
    pub(super) fn digest(&mut self) -> Option<Digest> {
        self.hash.take().map(|hash| Digest::from_bytes(hash.finalize().into()))
    }
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count += n as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..n]);
        }
        Ok(n)
    }
}

/// A decoder over a tapped blob.
pub(super) enum Inflater<R: Read> {
    Plain(BufReader<Tap<R>>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Tap<R>>>>),
    Zstd(zstd::Decoder<'static, BufReader<Tap<R>>>),
}

impl<R: Read> Inflater<R> {
    /// Looks at the first bytes of `blob` and chooses.
    pub(super) fn new(blob: R) -> io::Result<(Compression, Self)> {
        let mut input = BufReader::with_capacity(128 << 10, Tap::new(blob));
        let start = input.fill_buf()?.to_vec();
        let compression = Compression::detect(&start);
        // Plain bytes are hashed once, after the pipeline; compressed ones here as well.
        if compression != Compression::None {
            let tap = input.get_mut();
            let mut hash = Sha256::new();
            hash.update(&start);
            tap.hash = Some(hash);
        }
        let inflater = match compression {
            Compression::None => Self::Plain(input),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            Compression::Zstd => Self::Zstd(zstd::Decoder::with_buffer(input)?),
        };
        Ok((compression, inflater))
    }

    /// The blob underneath.
    pub(super) fn tap(&mut self) -> &mut Tap<R> {
        match self {
            Self::Plain(input) => input.get_mut(),
            Self::Gzip(input) => input.get_mut().get_mut(),
            Self::Zstd(input) => input.get_mut().get_mut(),
        }
    }
}

impl<R: Read> Read for Inflater<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(input) => input.read(buffer),
            Self::Zstd(input) => input.read(buffer),
        }
    }
}
