//! From a blob of any framing to plain bytes.
//!
//! The format is told by the first bytes, never by a media type or a file name: what a manifest calls a
//! gzip layer is plain often enough. Members and frames may follow one another (pigz, stargz and
//! zstd:chunked write many), and zstd's skippable frames are passed over. bzip2 and xz are what the world's tars come in;
//! no engine packs a layer so any more, but Docker takes one.

use std::io::{self, BufReader, Read};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

use super::Limit;

/// KiB that an xz blob may make us take; its strongest preset wants a quarter of it.
const DICTIONARY: u32 = 256 << 10;
/// Bytes by which every framing is told.
const MAGIC: usize = 6;

/// How a blob that is read is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Not at all.
    None,
    /// gzip, RFC 1952, any number of members.
    Gzip,
    /// Zstandard, RFC 8878, any number of frames.
    Zstd,
    /// bzip2, any number of streams.
    Bzip2,
    /// xz, any number of streams.
    Xz,
}

impl Framing {
    /// Tells by the first bytes.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A skippable frame may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }
}

impl std::fmt::Display for Framing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        })
    }
}

/// Counts and, when asked, hashes what is read through it.
pub(crate) struct Tap<R> {
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

/// What a decoder reads: the bytes that the framing was told by come first, however slowly they came.
type Blob<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, Tap<R>>>;

/// A decoder over a tapped blob.
pub(crate) enum Inflater<R: Read> {
    Plain(Blob<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Blob<R>>>),
    Zstd(zstd::Decoder<'static, Blob<R>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<Blob<R>>>),
    Xz(Box<lzma_rust2::XzReader<Blob<R>>>),
}

impl<R: Read> Inflater<R> {
    /// Looks at the first bytes of `blob` and chooses.
    pub(crate) fn new(blob: R) -> io::Result<(Framing, Self)> {
        let mut tap = Tap::new(blob);
        let mut start = Vec::with_capacity(MAGIC);
        tap.by_ref().take(MAGIC as u64).read_to_end(&mut start)?;
        let framing = Framing::detect(&start);
        // Plain bytes are hashed once, after the pipeline; compressed ones here as well.
        if framing != Framing::None {
            let mut hash = Sha256::new();
            hash.update(&start);
            tap.hash = Some(hash);
        }
        let input = BufReader::with_capacity(128 << 10, io::Cursor::new(start).chain(tap));
        let inflater = match framing {
            Framing::None => Self::Plain(input),
            Framing::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            Framing::Zstd => Self::Zstd(zstd::Decoder::with_buffer(input)?),
            Framing::Bzip2 => Self::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(input))),
            Framing::Xz => Self::Xz(Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, DICTIONARY))),
        };
        Ok((framing, inflater))
    }

    /// The blob underneath.
    pub(crate) fn tap(&mut self) -> &mut Tap<R> {
        let blob = match self {
            Self::Plain(input) => input,
            Self::Gzip(input) => input.get_mut(),
            Self::Zstd(input) => input.get_mut(),
            Self::Bzip2(input) => input.get_mut(),
            Self::Xz(input) => input.inner_mut(),
        };
        blob.get_mut().get_mut().1
    }
}

impl<R: Read> Read for Inflater<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(input) => input.read(buffer),
            Self::Zstd(input) => input.read(buffer),
            Self::Bzip2(input) => input.read(buffer),
            Self::Xz(input) => input.read(buffer),
        }
    }
}

/// The plain bytes of a stream of any framing, as long as they stay within a limit.
pub(crate) struct Plain<R: Read> {
    framing: Framing,
    inflater: Inflater<R>,
    inflated: u64,
    limit: Limit,
}

impl<R: Read> Plain<R> {
    pub(crate) fn new(stream: R, limit: Limit) -> io::Result<Self> {
        let (framing, inflater) = Inflater::new(stream)?;
        Ok(Self { framing, inflater, inflated: 0, limit })
    }

    /// How it is compressed.
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inflater.read(buffer)?;
        if self.framing != Framing::None {
            self.inflated += n as u64;
            self.limit.check(self.inflater.tap().count, self.inflated).map_err(io::Error::other)?;
        }
        Ok(n)
    }
}
