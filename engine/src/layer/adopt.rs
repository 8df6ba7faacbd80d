//! Makes a layer of an upper directory where it lies.
//!
//! What a container has written is in a layer's own form already: overlayfs' whiteouts and opaque directories
//! are what [`unpack`](fn@super::unpack) makes of an archive's. A build, which throws the container away, need
//! not have its files written a second time. So the tar of the changes is written into a pipe, read only for
//! its diff-id and for the index from which it can be put together again, and the directory is then renamed
//! to be the layer's.
//!
//! Nobody may write in the directory meanwhile, and nobody may mount it as an upper one again.

use std::fs;
use std::io::{self, BufReader, BufWriter, PipeReader, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};

use super::diff::Tree;
use super::{Error, split, tar};
use crate::digest::{DiffId, Digest};

/// Bytes the writer may be ahead of the reader.
const PIPE: libc::c_int = 1 << 20;

/// Hashes what is read through it, and knows an end from a failure.
struct Hashing<'a> {
    pipe: PipeReader,
    hash: Sha256,
    whole: &'a AtomicBool,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.pipe.read(buffer)?;
        self.hash.update(&buffer[..n]);
        if n == 0 && !buffer.is_empty() && !self.whole.load(Ordering::Acquire) {
            return Err(io::Error::other("the changes could not be read to their end"));
        }
        Ok(n)
    }
}

/// The parser's input.
struct Input<'a, 'w>(&'a mut BufReader<Hashing<'w>>);

impl tar::Source for Input<'_, '_> {
    type Piece = Vec<u8>;

    fn take(&mut self, max: usize) -> Result<Option<Vec<u8>>, tar::Error> {
        let mut piece = vec![0; max.min(128 << 10)];
        let n = self.0.read(&mut piece).map_err(tar::Error::Input)?;
        piece.truncate(n);
        Ok((n > 0).then_some(piece))
    }
}

/// Moves `upper`, whose changes are `changes`, to `dest/diff`, and writes `dest/split.zst`. Returns the diff-id
/// and the bytes of the files' contents.
pub(crate) fn adopt(upper: &Path, changes: &Tree, dest: &Path) -> Result<(DiffId, u64), Error> {
    let index = dest.join("split.zst");
    let record = split::Writer::create(&index).map_err(|source| Error::file("create", &index, source))?;
    let (pipe, writer) = io::pipe().map_err(Error::Read)?;
    // SAFETY: fcntl with an integer argument. The size is only a wish.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE) };
    let whole = &AtomicBool::new(false);
    let (diff_id, size) = std::thread::scope(|scope| {
        let producer = scope.spawn(move || {
            let mut out = BufWriter::with_capacity(128 << 10, writer);
            let result = changes.tar(&mut out).and_then(|()| out.flush().map_err(Error::Read));
            whole.store(result.is_ok(), Ordering::Release);
            // What is in the buffer of a failed writer is not to be written.
            drop(out.into_parts().0);
            result
        });
        let result = follow(Hashing { pipe, hash: Sha256::new(), whole }, record, &index);
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match produced {
            // Nobody read any more: the reader's own error says why.
            Err(Error::Io { source, .. } | Error::Read(source))
                if source.kind() == io::ErrorKind::BrokenPipe && result.is_err() =>
            {
                result
            }
            Err(error) => Err(error),
            Ok(()) => result,
        }
    })?;
    changes.drop_strays()?;
    let diff = dest.join("diff");
    fs::rename(upper, &diff).map_err(|source| Error::file("rename", upper, source))?;
    Ok((diff_id, size))
}

/// Reads a tar to its end, and records all of it that is not a file's content.
fn follow(input: Hashing<'_>, record: split::Writer, index: &Path) -> Result<(DiffId, u64), Error> {
    let failed = |source| Error::file("write", index, source);
    let read = |error| match error {
        tar::Error::Input(error) => Error::Read(error),
        error => Error::Tar(error),
    };
    let mut input = BufReader::with_capacity(128 << 10, input);
    let mut parser = tar::Parser::new(Input(&mut input), Some(record));
    let mut size = 0;
    while let Some(entry) = parser.next().map_err(read)? {
        if entry.kind != tar::Kind::File {
            continue;
        }
        size += entry.size;
        let whole = [tar::Segment { offset: 0, len: parser.remaining() }];
        let segments = entry.sparse.as_deref().unwrap_or(&whole);
        let path: Vec<&[u8]> = entry.path.split(|b| *b == b'/').collect();
        for segment in segments {
            if let Some(record) = parser.record() {
                record.content(&path, segment.offset, segment.len).map_err(failed)?;
            }
        }
        for segment in segments {
            let mut left = segment.len;
            while left > 0 {
                let want = usize::try_from(left).unwrap_or(usize::MAX);
                match parser.content(want).map_err(read)? {
                    Some(piece) => left -= piece.len() as u64,
                    None => return Err(Error::Tar(tar::Error::Truncated(parser.position()))),
                }
            }
        }
    }
    if let Some(record) = parser.into_record() {
        record.finish().map_err(failed)?;
    }
    // What follows the end marker is in the archive as well.
    io::copy(&mut input, &mut io::sink()).map_err(Error::Read)?;
    let hash = input.into_inner().hash;
    Ok((DiffId(Digest::from_bytes(hash.finalize().into())), size))
}
