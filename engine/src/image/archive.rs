//! Files of an image archive, by name: in a tar or in a directory, the same to whoever reads them.
//!
//! A name from a manifest is a key into the archive's own list of entries; it is never a path of the
//! host. In a directory it is opened with `RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS`, so neither `../` nor a
//! symbolic link leads anywhere.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag};

use super::{Blobs, Error};
use crate::layer::outer;
use crate::openat2::openat2;

/// Longest document (manifest, index, configuration) that is read, in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Links followed from one name.
const HOPS: usize = 16;

/// A file of the archive, and how long it is.
type Found<'a> = (Box<dyn Read + Send + 'a>, u64);

/// An open archive.
pub(super) enum Archive {
    Tar { file: File, entries: HashMap<Vec<u8>, outer::Entry> },
    Directory(OwnedFd),
}

impl Archive {
    /// Lists a tar that can be read anywhere.
    pub(super) fn tar(file: File) -> Result<Self, Error> {
        let entries = outer::list(&file).map_err(Error::Archive)?;
        Ok(Self::Tar { file, entries })
    }

    pub(super) fn directory(path: &Path) -> Result<Self, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
            .map(Self::Directory)
            .map_err(|errno| Error::io("open", path, errno.into()))
    }

    /// Opens a file and says how long it is; `None` if there is none.
    pub(super) fn find(&self, name: &str) -> Result<Option<Found<'_>>, Error> {
        match self {
            Self::Tar { file, entries } => {
                let mut name = outer::clean(name.as_bytes());
                for _ in 0..HOPS {
                    match entries.get(&name) {
                        None => return Ok(None),
                        Some(outer::Entry::File { offset, size }) => {
                            let section = Section { file, at: *offset, end: offset + size };
                            return Ok(Some((Box::new(section), *size)));
                        }
                        // Docker saves a layer that it has saved before as a link.
                        Some(outer::Entry::Link(target)) => name.clone_from(target),
                    }
                }
                Ok(None)
            }
            Self::Directory(dir) => {
                let how = OpenHow::new()
                    .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
                    .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
                let failed = |source| Error::io("open", Path::new(name), source);
                let file = match openat2(dir, name, how) {
                    Ok(fd) => File::from(fd),
                    Err(nix::errno::Errno::ENOENT) => return Ok(None),
                    Err(errno) => return Err(failed(errno.into())),
                };
                let meta = file.metadata().map_err(failed)?;
                if !meta.is_file() {
                    return Err(failed(io::Error::other("not a regular file")));
                }
                Ok(Some((Box::new(file), meta.len())))
            }
        }
    }

    /// Reads a document, which must not be absurdly long.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some((reader, size)) = self.find(name)? else { return Ok(None) };
        if size > MAX_DOCUMENT {
            let reason = format!("{size} bytes: the limit is {MAX_DOCUMENT}");
            return Err(Error::Document { file: name.to_owned(), reason });
        }
        let mut bytes = Vec::new();
        let read = reader.take(MAX_DOCUMENT).read_to_end(&mut bytes);
        read.map_err(|source| Error::io("read", Path::new(name), source))?;
        Ok(Some(bytes))
    }
}

impl Blobs for Archive {
    fn open(&self, name: &str) -> Result<Box<dyn Read + Send + '_>, Error> {
        match self.find(name)? {
            Some((reader, _)) => Ok(reader),
            None => Err(Error::Missing(name.to_owned())),
        }
    }
}

/// All of a file, from its start and without moving its position.
pub(super) fn whole(file: &File) -> io::Result<impl Read + Send + '_> {
    Ok(Section { file, at: 0, end: file.metadata()?.len() })
}

/// Part of a file, read without moving its position: several readers share the file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let want = buffer.len().min(left);
        match self.file.read_at(&mut buffer[..want], self.at)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends inside an entry")),
            n => {
                self.at += n as u64;
                Ok(n)
            }
        }
    }
}
