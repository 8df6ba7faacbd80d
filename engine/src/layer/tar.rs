//! Reads tar: v7, ustar, GNU and PAX, in every mixture that builders have written.
//!
//! The archive is hostile. Every length is checked before it is believed, extension records are bounded
//! ([`MAX_EXTENSION`]), and no number can overflow. Where implementations differ the choice follows Go's
//! `archive/tar`, because that is what containerd and Docker read layers with, and a layer that two
//! engines read differently is a way to hide files from a scanner: a link, directory or device has no
//! content whatever its size field says; of several PAX headers before an entry the last counts; a GNU long
//! name prevails over a PAX one; and a global PAX header, which is an entry of its own there, changes
//! nothing but that what preceded it is lost.
//!
//! Content is handed out as it lies in the input's chunks; only headers are copied.

use std::collections::BTreeMap;
use std::ops::Deref;

use super::split;

/// Size of a tar block.
pub(super) const BLOCK: usize = 512;
/// Most bytes of long names and PAX records before one entry. To Go this is the limit of each
/// (`maxSpecialFileSize`), of which there may be any number.
const MAX_EXTENSION: u64 = 1 << 20;
/// Longest value of an extended attribute that the kernel stores (`XATTR_SIZE_MAX`).
const MAX_XATTR: usize = 64 << 10;
/// Longest path in bytes: what one system call takes (`PATH_MAX`, with its NUL).
const MAX_PATH: usize = 4095;
/// Most segments in one sparse file.
const MAX_SEGMENTS: usize = 1 << 20;

/// Why bytes are not a tar archive that can be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input ended inside an entry.
    #[error("unexpected end of the archive at byte {0}")]
    Truncated(u64),
    /// The header's checksum does not fit.
    #[error("invalid tar header at byte {0}")]
    Header(u64),
    /// A field is not a number, or one out of range.
    #[error("invalid {field} in the tar header at byte {at}")]
    Field {
        /// The field.
        field: &'static str,
        /// Where the header starts.
        at: u64,
    },
    /// A PAX record is malformed.
    #[error("invalid PAX record in the tar header at byte {0}")]
    Pax(u64),
    /// The extension headers of one entry are absurdly long.
    #[error("tar extension headers of {size} bytes up to byte {at}: the limit is {MAX_EXTENSION}")]
    Extension {
        /// Their size, with the one that is too much.
        size: u64,
        /// Where that one starts.
        at: u64,
    },
    /// An extended attribute's value is longer than the kernel takes.
    #[error("extended attribute of {len} bytes in the tar header at byte {at}: the limit is {MAX_XATTR}")]
    XattrTooLong {
        /// Its length.
        len: usize,
        /// Where the extension header starts.
        at: u64,
    },
    /// A path is longer than the kernel takes.
    #[error("path of {len} bytes in the tar header at byte {at}: the limit is {MAX_PATH}")]
    PathTooLong {
        /// Its length.
        len: usize,
        /// Where the header starts.
        at: u64,
    },
    /// A sparse map is inconsistent.
    #[error("invalid sparse file map in the tar header at byte {0}")]
    Sparse(u64),
    /// The type is of no use in a layer.
    #[error("unsupported tar entry type {flag:?} at byte {at}")]
    Type {
        /// The type flag.
        flag: char,
        /// Where the header starts.
        at: u64,
    },
    /// The input could not be read.
    #[error("{0}")]
    Input(#[source] std::io::Error),
    /// The index of the layer could not be written.
    #[error("write layer index: {0}")]
    Index(#[source] std::io::Error),
}

/// Where a parser gets its bytes.
pub(super) trait Source {
    /// Bytes of the input.
    type Piece: Deref<Target = [u8]>;

    /// Between 1 and `max` bytes, or `None` at the end.
    fn take(&mut self, max: usize) -> Result<Option<Self::Piece>, Error>;

    /// Passes over up to `n` bytes; how many there were.
    fn skip(&mut self, n: u64) -> Result<u64, Error> {
        let mut left = n;
        while left > 0 {
            match self.take(usize::try_from(left).unwrap_or(usize::MAX))? {
                Some(piece) => left -= piece.len() as u64,
                None => break,
            }
        }
        Ok(n - left)
    }
}

impl<'a> Source for &'a [u8] {
    type Piece = &'a [u8];

    fn take(&mut self, max: usize) -> Result<Option<&'a [u8]>, Error> {
        let (front, rest) = self.split_at(max.min(self.len()));
        *self = rest;
        Ok((!front.is_empty()).then_some(front))
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
}

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// One entry, with everything that extension headers said about it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// As written; neither cleaned nor checked.
    pub(super) path: Vec<u8>,
    /// Target of a link, as written.
    pub(super) link: Vec<u8>,
    /// Bytes of the file; for a sparse one more than the archive holds.
    pub(super) size: u64,
    /// Where the archived bytes belong, when not simply at 0.
    pub(super) sparse: Option<Vec<Segment>>,
    /// Permission bits, set-id bits and sticky bit.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(super) mtime: (i64, u32),
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other.
pub(super) struct Parser<S> {
    source: S,
    /// Bytes consumed so far.
    at: u64,
    /// Content of the current entry not yet read.
    content: u64,
    /// Padding after it.
    padding: u64,
    done: bool,
    /// What follows the end of the archive is read as well.
    to_the_end: bool,
    record: Option<split::Writer>,
}

/// What extension headers say about the next entry.
#[derive(Debug, Default)]
struct Extensions {
    pax: Pax,
    /// GNU's long name and long link; an empty one says nothing.
    path: Vec<u8>,
    link: Vec<u8>,
}

/// The records of one PAX header. An empty value says nothing.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    /// A megabyte has room for a hundred thousand: the last of one name is found without a search.
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse_major: Option<Vec<u8>>,
    sparse_minor: Option<Vec<u8>>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_real_size: Option<u64>,
    /// Formats 0.0 and 0.1: offsets and lengths in turn.
    sparse_map: Vec<u64>,
}

/// How a PAX header describes a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sparse {
    /// 0.0 and 0.1: in its records.
    Records,
    /// 1.0: at the front of the content.
    Content,
}

impl Pax {
    /// `None` if the file is not sparse, or is in a way that Go does not know, and reads as any other.
    fn sparse(&self) -> Option<Sparse> {
        match (self.sparse_major.as_deref(), self.sparse_minor.as_deref()) {
            (Some(b"0"), Some(b"0" | b"1")) => Some(Sparse::Records),
            (Some(b"1"), Some(b"0")) => Some(Sparse::Content),
            // The first two formats did not give their number.
            (None, None) if !self.sparse_map.is_empty() => Some(Sparse::Records),
            _ => None,
        }
    }
}

impl<S: Source> Parser<S> {
    /// A parser that also records what is not content into `record`.
    pub(super) fn new(source: S, record: Option<split::Writer>) -> Self {
        Self { source, at: 0, content: 0, padding: 0, done: false, to_the_end: true, record }
    }

    /// One that stops at the end of the archive: of a stream whose sender may wait for an answer before he sends the
    /// padding that follows.
    pub(super) fn of_stream(source: S) -> Self {
        Self { to_the_end: false, ..Self::new(source, None) }
    }

    /// Position in the input: after `next`, where the content of the entry starts.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// The record, for what the caller knows better.
    pub(super) fn record(&mut self) -> Option<&mut split::Writer> {
        self.record.as_mut()
    }

    /// The record, when the archive has been read.
    pub(super) fn into_record(self) -> Option<split::Writer> {
        self.record
    }

    /// The next entry; what was left of the previous one's content is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        self.finish_entry()?;
        if self.done {
            return Ok(None);
        }
        let mut ext = Extensions::default();
        let mut extended = 0;
        loop {
            let at = self.at;
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                if extended > 0 {
                    return Err(Error::Truncated(self.at));
                }
                self.done = true;
                return Ok(None);
            }
            if block.iter().all(|b| *b == 0) {
                // Two blocks of zeros end the archive; so does one at the end of the input.
                if self.block(&mut block)? && block.iter().any(|b| *b != 0) || extended > 0 {
                    return Err(Error::Header(at));
                }
                if self.to_the_end {
                    self.rest()?;
                }
                self.done = true;
                return Ok(None);
            }
            let header = Header::check(&block, at)?;
            let size = header.number(124, 12, "size")?;
            match header.flag() {
                b'x' | b'X' => {
                    let body = self.extension(size, at, &mut extended)?;
                    ext.pax = parse_pax(&body, at)?;
                }
                b'L' => ext.path = until_nul(&self.extension(size, at, &mut extended)?).to_vec(),
                b'K' => ext.link = until_nul(&self.extension(size, at, &mut extended)?).to_vec(),
                b'g' => {
                    self.extension(size, at, &mut 0)?;
                    (ext, extended) = (Extensions::default(), 0);
                }
                // A volume's label, which is about no file.
                b'V' => {
                    (self.content, self.padding) = (size, size.wrapping_neg() % BLOCK as u64);
                    self.finish_entry()?;
                    (ext, extended) = (Extensions::default(), 0);
                }
                _ => return self.entry(&header, size, ext, at).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header<'_>, size: u64, ext: Extensions, at: u64) -> Result<Entry, Error> {
        let sparse_format = ext.pax.sparse();
        let Extensions { pax, path: long_path, link: long_link } = ext;
        let named = |long: Vec<u8>, pax| if long.is_empty() { pax } else { Some(long) };
        let mut path = named(long_path, pax.path).unwrap_or_else(|| header.path());
        let kind = match header.flag() {
            // A v7 archive marks a directory only by its trailing slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => return Err(Error::Type { flag: char::from(flag), at }),
        };
        let stored = match kind {
            Kind::File => pax.size.unwrap_or(size),
            // GNU's dump directories and old writers give directories a body; Go ignores its size, but
            // then would read the body as a header. A `D` entry's body is real: pass over it.
            Kind::Directory if header.flag() == b'D' => pax.size.unwrap_or(size),
            _ => 0,
        };
        if stored > i64::MAX as u64 {
            return Err(Error::Field { field: "size", at });
        }
        self.content = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;

        let mut real = stored;
        let mut sparse = None;
        if header.flag() == b'S' {
            let (map, size) = self.old_sparse_map(header)?;
            (sparse, real) = (Some(map), size);
        } else if let Some(format) = sparse_format {
            if kind != Kind::File {
                return Err(Error::Sparse(at));
            }
            path = pax.sparse_name.unwrap_or(path);
            real = pax.sparse_size.or(pax.sparse_real_size).unwrap_or(stored);
            sparse = Some(match format {
                Sparse::Records => pairs(&pax.sparse_map, at)?,
                Sparse::Content => self.sparse_map_1(at)?,
            });
        }
        if let Some(map) = &sparse {
            check_map(map, real, self.content).ok_or(Error::Sparse(at))?;
        }
        let link = named(long_link, pax.link).unwrap_or_else(|| until_nul(&header.block[157..257]).to_vec());
        for len in [path.len(), link.len()] {
            if len > MAX_PATH {
                return Err(Error::PathTooLong { len, at });
            }
        }
        let id = |ext: Option<u64>, offset, field| {
            let id = ext.map_or_else(|| header.number(offset, 8, field), Ok)?;
            // The last id means "leave unchanged" to chown.
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(Error::Field { field, at })
        };
        let device = |offset, field| {
            let n = header.number(offset, 8, field)?;
            u32::try_from(n).map_err(|_| Error::Field { field, at })
        };
        let (major, minor) = if matches!(kind, Kind::Char | Kind::Block) {
            (device(329, "device major")?, device(337, "device minor")?)
        } else {
            (0, 0)
        };
        Ok(Entry {
            kind,
            path,
            link,
            size: real,
            sparse,
            mode: (header.number(100, 8, "mode")? & 0o7777) as u32,
            uid: id(pax.uid, 108, "uid")?,
            gid: id(pax.gid, 116, "gid")?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (header.signed(136, 12, "mtime")?, 0),
            },
            major,
            minor,
            xattrs: pax.xattrs.into_iter().collect(),
        })
    }

    /// Up to `max` bytes of the current entry's content; `None` when it has been read.
    pub(super) fn content(&mut self, max: usize) -> Result<Option<S::Piece>, Error> {
        if self.content == 0 {
            return Ok(None);
        }
        let max = usize::try_from(self.content).unwrap_or(usize::MAX).min(max);
        let piece = self.source.take(max)?.ok_or(Error::Truncated(self.at))?;
        self.at += piece.len() as u64;
        self.content -= piece.len() as u64;
        Ok(Some(piece))
    }

    /// Bytes of content that the archive holds for the current entry and that were not read yet.
    pub(super) fn remaining(&self) -> u64 {
        self.content
    }

    fn finish_entry(&mut self) -> Result<(), Error> {
        if self.content > 0 {
            if self.record.is_some() {
                // Content nobody wanted is in no file, so the index must hold it.
                while let Some(piece) = self.content(usize::MAX)? {
                    if let Some(record) = &mut self.record {
                        record.raw(&piece).map_err(Error::Index)?;
                    }
                }
            } else {
                let skipped = self.source.skip(self.content)?;
                self.at += skipped;
                if skipped < self.content {
                    return Err(Error::Truncated(self.at));
                }
                self.content = 0;
            }
        }
        let mut padding = [0; BLOCK];
        let len = std::mem::take(&mut self.padding) as usize;
        self.exact(&mut padding[..len])
    }

    /// Records what follows the end of the archive: padding to a record, or garbage.
    fn rest(&mut self) -> Result<(), Error> {
        while let Some(piece) = self.source.take(usize::MAX)? {
            self.at += piece.len() as u64;
            if let Some(record) = &mut self.record {
                record.raw(&piece).map_err(Error::Index)?;
            }
        }
        Ok(())
    }

    /// One block, or `false` at the end of the input.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Error> {
        let Some(piece) = self.source.take(BLOCK)? else { return Ok(false) };
        let len = piece.len();
        block[..len].copy_from_slice(&piece);
        self.at += len as u64;
        if let Some(record) = &mut self.record {
            record.raw(&piece).map_err(Error::Index)?;
        }
        drop(piece);
        self.exact(&mut block[len..])?;
        Ok(true)
    }

    fn exact(&mut self, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            let piece = self.source.take(buffer.len())?.ok_or(Error::Truncated(self.at))?;
            self.at += piece.len() as u64;
            if let Some(record) = &mut self.record {
                record.raw(&piece).map_err(Error::Index)?;
            }
            let (front, rest) = buffer.split_at_mut(piece.len());
            front.copy_from_slice(&piece);
            buffer = rest;
        }
        Ok(())
    }

    /// The body of an extension header; `extended` is the size of those before it and the block of each.
    fn extension(&mut self, size: u64, at: u64, extended: &mut u64) -> Result<Vec<u8>, Error> {
        *extended = extended.saturating_add(size);
        if *extended > MAX_EXTENSION {
            return Err(Error::Extension { size: *extended, at });
        }
        *extended += BLOCK as u64;
        let mut body = vec![0; size as usize];
        self.exact(&mut body)?;
        let mut padding = [0; BLOCK];
        self.exact(&mut padding[..(size.wrapping_neg() % BLOCK as u64) as usize])?;
        Ok(body)
    }

    /// GNU's first sparse format: segments in the header and in blocks that follow it.
    fn old_sparse_map(&mut self, header: &Header<'_>) -> Result<(Vec<Segment>, u64), Error> {
        let at = header.at;
        let mut map = Vec::new();
        let read = |block: &[u8; BLOCK], start: usize, count: usize, map: &mut Vec<Segment>| {
            let header = Header { block, at };
            for n in 0..count {
                let place = start + 24 * n;
                if block[place] == 0 {
                    break;
                }
                let offset = header.number(place, 12, "sparse offset")?;
                let len = header.number(place + 12, 12, "sparse length")?;
                map.push(Segment { offset, len });
            }
            Ok::<(), Error>(())
        };
        read(header.block, 386, 4, &mut map)?;
        let real = header.number(483, 12, "sparse size")?;
        let mut extended = header.block[482] != 0;
        while extended {
            if map.len() > MAX_SEGMENTS {
                return Err(Error::Sparse(at));
            }
            let mut block = [0; BLOCK];
            self.exact(&mut block)?;
            read(&block, 0, 21, &mut map)?;
            extended = block[504] != 0;
        }
        Ok((map, real))
    }

    /// PAX sparse format 1.0: decimal lines at the front of the content, padded to a block.
    fn sparse_map_1(&mut self, at: u64) -> Result<Vec<Segment>, Error> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut current: Option<u64> = None;
        let mut wanted: Option<usize> = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            if self.content < BLOCK as u64 {
                return Err(Error::Sparse(at));
            }
            let mut block = [0; BLOCK];
            self.exact(&mut block)?;
            self.content -= BLOCK as u64;
            for byte in block {
                match byte {
                    b'0'..=b'9' => {
                        let digit = u64::from(byte - b'0');
                        let n = current.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit));
                        current = Some(n.ok_or(Error::Sparse(at))?);
                    }
                    b'\n' => {
                        let n = current.take().ok_or(Error::Sparse(at))?;
                        if wanted.is_none() {
                            if n > MAX_SEGMENTS as u64 {
                                return Err(Error::Sparse(at));
                            }
                            wanted = Some(n as usize * 2);
                        } else {
                            numbers.push(n);
                        }
                        if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                            break;
                        }
                    }
                    _ => return Err(Error::Sparse(at)),
                }
            }
        }
        pairs(&numbers, at)
    }
}

fn pairs(numbers: &[u64], at: u64) -> Result<Vec<Segment>, Error> {
    if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_SEGMENTS {
        return Err(Error::Sparse(at));
    }
    Ok(numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], len: pair[1] }).collect())
}

/// Segments must rise, must not overlap, must lie in the file and must add up to what is stored.
fn check_map(map: &[Segment], real: u64, stored: u64) -> Option<()> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for segment in map {
        if segment.offset < end {
            return None;
        }
        end = segment.offset.checked_add(segment.len)?;
        sum = sum.checked_add(segment.len)?;
    }
    (end <= real && sum == stored && i64::try_from(real).is_ok()).then_some(())
}

/// A header block whose checksum fits.
struct Header<'a> {
    block: &'a [u8; BLOCK],
    at: u64,
}

impl<'a> Header<'a> {
    fn check(block: &'a [u8; BLOCK], at: u64) -> Result<Self, Error> {
        let header = Self { block, at };
        let stated = header.number(148, 8, "checksum").map_err(|_| Error::Header(at))?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (place, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&place) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            // Some writers summed signed characters.
            signed += i64::from(byte.cast_signed());
        }
        if stated.cast_signed() == unsigned || stated.cast_signed() == signed {
            Ok(header)
        } else {
            Err(Error::Header(at))
        }
    }

    fn flag(&self) -> u8 {
        self.block[156]
    }

    /// The path from the name field and the prefix, where the header has one.
    fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.block[..100]);
        let prefix = match (&self.block[257..263], &self.block[263..265]) {
            // Schilling's star has times after a shorter one.
            (b"ustar\0", _) if self.block[508..] == *b"tar\0" => until_nul(&self.block[345..476]),
            (b"ustar\0", _) => until_nul(&self.block[345..500]),
            // GNU headers have times there and a sparse map. Go wrote a prefix once all the same, and
            // takes for one what is text and no times.
            (b"ustar ", b" \0") => {
                let no_time = |field: &[u8]| {
                    field[0] != 0 && parse_number(field).is_none_or(|time| i64::try_from(time).is_err())
                };
                let text = until_nul(&self.block[345..500]);
                let times = [&self.block[345..357], &self.block[357..369]];
                if text.is_ascii() && times.into_iter().any(no_time) { text } else { b"" }
            }
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn number(&self, start: usize, len: usize, field: &'static str) -> Result<u64, Error> {
        parse_number(&self.block[start..start + len])
            .and_then(|n| u64::try_from(n).ok())
            .ok_or(Error::Field { field, at: self.at })
    }

    fn signed(&self, start: usize, len: usize, field: &'static str) -> Result<i64, Error> {
        parse_number(&self.block[start..start + len])
            .and_then(|n| i64::try_from(n).ok())
            .ok_or(Error::Field { field, at: self.at })
    }
}

/// Octal text, or GNU's base-256 when the top bit is set.
fn parse_number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        // Two's complement in all the bits after the first.
        let negative = field[0] & 0x40 != 0;
        let mut n: i128 = if negative { -1 } else { 0 };
        for (place, byte) in field.iter().enumerate() {
            let byte = if place == 0 { if negative { byte | 0x80 } else { byte & 0x7f } } else { *byte };
            n = (n << 8) | i128::from(byte);
        }
        return Some(n);
    }
    // Some writers pad in front with NULs.
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !padding(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !padding(byte)).map_or(start, |last| last + 1);
    until_nul(&field[start..end]).iter().try_fold(0_i128, |n, byte| match byte {
        b'0'..=b'7' => Some(n * 8 + i128::from(byte - b'0')),
        _ => None,
    })
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..memchr::memchr(0, field).unwrap_or(field.len())]
}

fn parse_pax(mut body: &[u8], at: u64) -> Result<Pax, Error> {
    let mut pax = Pax::default();
    // Of format 0.0, whose records are repeated.
    let mut segments = Vec::new();
    let bad = || Error::Pax(at);
    while !body.is_empty() {
        let space = memchr::memchr(b' ', &body[..body.len().min(12)]).ok_or_else(bad)?;
        let len = usize::try_from(decimal(&body[..space]).ok_or_else(bad)?).map_err(|_| bad())?;
        if len > body.len() || len < space + 3 || body[len - 1] != b'\n' {
            return Err(bad());
        }
        let record = &body[space + 1..len - 1];
        body = &body[len..];
        let equals = memchr::memchr(b'=', record).filter(|e| *e > 0).ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let text = || {
            if value.contains(&0) { Err(bad()) } else { Ok((!value.is_empty()).then(|| value.to_vec())) }
        };
        let number = || if value.is_empty() { Ok(None) } else { decimal(value).map(Some).ok_or_else(bad) };
        match key {
            b"path" => pax.path = text()?,
            b"linkpath" => pax.link = text()?,
            b"size" => pax.size = number()?,
            b"uid" => pax.uid = number()?,
            b"gid" => pax.gid = number()?,
            b"mtime" => {
                pax.mtime = if value.is_empty() { None } else { Some(time(value).ok_or_else(bad)?) };
            }
            b"GNU.sparse.major" => pax.sparse_major = text()?,
            b"GNU.sparse.minor" => pax.sparse_minor = text()?,
            b"GNU.sparse.name" => pax.sparse_name = text()?,
            b"GNU.sparse.size" => pax.sparse_size = number()?,
            b"GNU.sparse.realsize" => pax.sparse_real_size = number()?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // Offsets and lengths come in turn.
                if (key == b"GNU.sparse.numbytes") != (segments.len() % 2 == 1) {
                    return Err(bad());
                }
                segments.push(decimal(value).ok_or_else(bad)?);
            }
            b"GNU.sparse.map" if !value.is_empty() => {
                let map: Option<Vec<u64>> = value.split(|b| *b == b',').map(decimal).collect();
                pax.sparse_map = map.ok_or_else(bad)?;
            }
            b"GNU.sparse.map" => pax.sparse_map.clear(),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) {
                        return Err(bad());
                    }
                    if value.len() > MAX_XATTR {
                        return Err(Error::XattrTooLong { len: value.len(), at });
                    }
                    pax.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
    }
    if !segments.is_empty() {
        pax.sparse_map = segments;
    }
    Ok(pax)
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |n, byte| match byte {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Seconds with an optional fraction; digits after the ninth are dropped.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = memchr::memchr(b'.', text);
    let whole = &text[..dot.unwrap_or(text.len())];
    let fraction = dot.map_or(&b""[..], |dot| &text[dot + 1..]);
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9)
        .fold(0_u32, |n, place| n * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0')));
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}
