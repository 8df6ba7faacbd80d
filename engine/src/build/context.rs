//! What a build may copy: a directory, a tar, or nothing.
//!
//! A tar (of any compression) is unpacked into scratch first, in the way in which `cp` unpacks one: nothing
//! in it can lead outside. The scratch goes with the build.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use super::Error;
use super::pattern::Ignore;
use super::tree::{Tree, open_directory};
use crate::layer;
use crate::store::Scratch;

/// A Dockerfile of more bytes is none.
pub const LONGEST: u64 = 2 << 20;

/// Opens a directory as a context, without what `ignore` says.
pub fn directory(path: &Path, ignore: Ignore) -> Result<Tree, Error> {
    let root = open_directory(path).map_err(|error| Error::io("open", path, error))?;
    Ok(Tree::new(root, ignore, true))
}

/// What came in one piece: over standard input, with a request, from an address.
#[derive(Debug)]
pub enum Received {
    /// A Dockerfile.
    Text(Vec<u8>),
    /// A tar, unpacked into the scratch directory.
    Unpacked,
}

/// Reads it: a tar is unpacked into `scratch`, anything else is a Dockerfile.
pub fn receive(mut input: impl Read, scratch: &Scratch) -> Result<Received, Error> {
    let failed = |error| Error::io("read", Path::new("context"), error);
    let mut start = vec![0; 512];
    let mut have = 0;
    while have < start.len() {
        match input.read(&mut start[have..]).map_err(failed)? {
            0 => break,
            n => have += n,
        }
    }
    start.truncate(have);
    let compressed = layer::Framing::detect(&start) != layer::Framing::None;
    if !compressed && !is_tar(&start) {
        let mut text = start;
        input.take(LONGEST + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > LONGEST {
            return Err(Error::TooLarge { what: "Dockerfile".to_owned(), limit: LONGEST });
        }
        return Ok(Received::Text(text));
    }
    unpack(io::Cursor::new(start).chain(input), scratch.path(), None)?;
    Ok(Received::Unpacked)
}

/// What a context that has come as a whole is built by: the Dockerfile and all that is ignored are in it.
#[derive(Debug)]
pub struct Definition {
    /// The Dockerfile.
    pub text: Vec<u8>,
    /// What is copied from.
    pub context: Tree,
    /// Bytes of the `.dockerignore`; `None` without one.
    pub ignored: Option<usize>,
}

/// Reads it. `name` is the Dockerfile in the context, unless it was `given`.
pub fn definition(root: &OwnedFd, name: &str, given: Option<Vec<u8>>) -> Result<Definition, Error> {
    let open = |ignore| {
        let root = root.try_clone().map_err(|error| Error::io("dup", Path::new("context"), error))?;
        Ok::<_, Error>(Tree::new(root, ignore, true))
    };
    let plain = open(Ignore::default())?;
    let text = match given {
        Some(text) => text,
        None => plain.read(name, LONGEST)?.ok_or_else(|| Error::NoDockerfile(name.to_owned()))?,
    };
    let ignore = match plain.read(&format!("{name}.dockerignore"), LONGEST)? {
        Some(text) => Some(text),
        None => plain.read(".dockerignore", LONGEST)?,
    };
    let context = open(Ignore::parse(ignore.as_deref().unwrap_or_default()))?;
    Ok(Definition { text, context, ignored: ignore.map(|text| text.len()) })
}

/// Whether a block is the header of a tar's entry.
pub fn is_tar(block: &[u8]) -> bool {
    if block.len() < 512 {
        return false;
    }
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(&block[..512]);
    let sum = |block: &[u8]| {
        block
            .iter()
            .enumerate()
            .map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) })
            .sum::<u32>()
    };
    block[0] != 0 && header.cksum().is_ok_and(|want| want == sum(&block[..512]))
}

/// A file without a name in a directory.
pub fn nameless(dir: &Path) -> Result<File, Error> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(dir)
        .map_err(|error| Error::io("open", dir, error))
}

/// Unpacks a tar of any compression into a directory.
pub fn unpack(input: impl Read, dir: &Path, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let mut plain = nameless(dir)?;
    layer::inflate_to(input, &plain, layer::Limit::from_env()?)?;
    plain.rewind().map_err(|error| Error::io("seek", dir, error))?;
    let dest = open_directory(dir).map_err(|error| Error::io("open", dir, error))?;
    layer::extract::extract(dest.as_fd(), io::BufReader::with_capacity(128 << 10, plain), owner)?;
    Ok(())
}

/// The tar in a file, inflated into `scratch` where need be; `None` when it is none. Either is at its start.
pub fn as_tar(file: &File, scratch: &Path) -> Result<Option<File>, Error> {
    let failed = |error| Error::io("seek", Path::new("archive"), error);
    let mut from = file;
    from.rewind().map_err(failed)?;
    let found = tar_in(file, scratch)?;
    from.rewind().map_err(failed)?;
    Ok(found)
}

fn tar_in(file: &File, scratch: &Path) -> Result<Option<File>, Error> {
    let failed = |error| Error::io("read", Path::new("archive"), error);
    let mut decoder = layer::Plain::new(file, layer::Limit::from_env()?).map_err(failed)?;
    if decoder.framing() == layer::Framing::None {
        let mut block = Vec::with_capacity(512);
        decoder.take(512).read_to_end(&mut block).map_err(failed)?;
        return if is_tar(&block) { file.try_clone().map(Some).map_err(failed) } else { Ok(None) };
    }
    let mut plain = nameless(scratch)?;
    let mut buffer = vec![0; 128 << 10];
    let mut is_first = true;
    loop {
        let mut have = 0;
        while have < buffer.len() {
            match decoder.read(&mut buffer[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What only looks compressed is a file like any other, but for one that asks for too much.
                Err(error) if is_first && error.kind() != io::ErrorKind::OutOfMemory => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
        if is_first && !is_tar(&buffer[..have]) {
            return Ok(None);
        }
        if have == 0 {
            break;
        }
        is_first = false;
        plain.write_all(&buffer[..have]).map_err(|error| Error::io("write", scratch, error))?;
    }
    plain.rewind().map_err(|error| Error::io("seek", scratch, error))?;
    Ok(Some(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_is_told_by_its_first_block() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_cksum();
        builder.append_data(&mut header, "x", &b"y"[..]).expect("append");
        let archive = builder.into_inner().expect("tar");
        assert!(is_tar(&archive[..512]));
        assert!(!is_tar(&[b'F'; 512]) && !is_tar(&[0; 512]) && !is_tar(b"FROM x"));
    }
}
