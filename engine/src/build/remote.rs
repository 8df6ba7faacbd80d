//! A context that is somewhere else: `build https://…`.
//!
//! An address is a repository's ([`git`]), or that of a file, which is a tar or a Dockerfile, as on standard input. Either
//! is brought into scratch and goes with the build. What it holds is nobody's we know, so it is fetched within a limit,
//! unpacked as `ADD` unpacks, and all paths in it are resolved with it as the root.

use std::os::fd::OwnedFd;

use super::context::{self, Received};
use super::tree::open_directory;
use super::{Download, Error, download, git};
use crate::store::Scratch;

/// Where a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A repository.
    Repository(git::Remote),
    /// A file, over HTTP.
    File(String),
}

/// What was found there.
#[derive(Debug)]
pub enum Arrived {
    /// A Dockerfile.
    Text(Vec<u8>),
    /// A directory, of a repository or a tar.
    Directory {
        /// It.
        root: OwnedFd,
        /// The commit, of a repository.
        commit: Option<String>,
    },
}

impl Address {
    /// Reads the argument of a build. `None` is what is none.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(remote) = git::Remote::parse(text) {
            return Some(Self::Repository(remote));
        }
        let over_http = text.starts_with("http://") || text.starts_with("https://");
        over_http.then(|| Self::File(text.to_owned()))
    }

    /// How it may be shown: without a name and a password.
    pub fn shown(&self) -> String {
        match self {
            Self::Repository(remote) => remote.shown(),
            Self::File(url) => git::anonymous(url),
        }
    }

    /// Brings it into scratch.
    pub fn fetch(&self, scratch: &Scratch, download: Download<'_>) -> Result<Arrived, Error> {
        match self {
            Self::Repository(remote) => {
                let fetched = git::fetch(remote, scratch, false)?;
                Ok(Arrived::Directory { root: fetched.root, commit: Some(fetched.commit) })
            }
            Self::File(url) => {
                let fetched = download::fetch(download, url, scratch.path(), &|| Ok(()))?;
                match context::receive(fetched.file, scratch)? {
                    Received::Text(text) => Ok(Arrived::Text(text)),
                    Received::Unpacked => {
                        let root = open_directory(scratch.path());
                        let root = root.map_err(|error| Error::io("open", scratch.path(), error))?;
                        Ok(Arrived::Directory { root, commit: None })
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_by_its_beginning() {
        for (text, repository) in
            [("https://h/r.git#x", true), ("http://h/c.tar.gz", false), ("git@h:r", true)]
        {
            let address = Address::parse(text).expect(text);
            assert_eq!(matches!(address, Address::Repository(_)), repository, "{text}");
        }
        for text in [".", "-", "ftp://h/c.tar", "file:///c.tar", "https:/h"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
        assert_eq!(Address::parse("https://me:secret@h/c.tar").expect("one").shown(), "https://h/c.tar");
    }
}
