//! What comes from elsewhere: images, and what `ADD` fetches.
//!
//! The engine speaks to no registry and no server here: whoever builds has brought the means ([`Fetch`], [`Download`]),
//! since it is them who know credentials, proxies and whom to tell of progress.
//!
//! [`Fetch`]: super::super::Fetch
//! [`Download`]: super::super::Download

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::super::cache::Key;
use super::super::dockerfile::Copy;
use super::super::download::{self, Fetched};
use super::super::inherit::Inherited;
use super::super::pattern::Ignore;
use super::super::tree::Tree;
use super::super::{Error, Failed, git};
use super::Builder;
use super::state::State;
use crate::digest::Digest;
use crate::image::{self, Reference};
use crate::store::Scratch;

/// A name and a platform.
type Asked = (String, Option<String>);
/// An image, and how it is shown.
type Found = (State, String);

/// Images that have been found or are being looked for.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<BTreeMap<Asked, Arc<Mutex<Option<Found>>>>>);

impl Sources {
    fn cell(&self, asked: Asked) -> Arc<Mutex<Option<Found>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(asked).or_default())
    }
}

impl Builder<'_> {
    /// Hears what other images say of their steps. One that cannot be had says nothing, and the build goes on.
    pub(super) fn inherit(&mut self) -> Inherited {
        let mut inherited = Inherited::default();
        if self.build.options.no_cache {
            return inherited;
        }
        for source in &self.build.options.cache_from {
            let name = Reference::parse(&source.name).map(Reference::tagged);
            let shown = name.as_ref().map_or_else(|_| source.name.clone(), ToString::to_string);
            let platform = self.build.options.platform.as_deref();
            let _ = self.told(&format!("importing cache manifest from {shown}"), |builder, step| {
                let here = image::find(builder.store, &source.name);
                let image = match (here, name) {
                    (Ok(image), _) if !source.remote => image,
                    (here, Ok(name)) => match ((builder.build.fetch)(builder.store, &name, platform), here) {
                        (Ok(()), _) => image::find(builder.store, &source.name)?,
                        // As it was when it was last brought, rather than not at all.
                        (Err(error), Ok(image)) => {
                            builder
                                .build
                                .watcher
                                .status(step, &format!("{error}: taking the one that is here"));
                            image
                        }
                        (Err(error), Err(_)) => return Err(error.into()),
                    },
                    (Ok(image), Err(_)) => image,
                    (Err(error), Err(_)) => return Err(error.into()),
                };
                let keys = inherited.hear(&image);
                if keys == 0 {
                    builder
                        .build
                        .watcher
                        .status(step, "no inline cache: RUN and WORKDIR are known by their history");
                }
                Ok(((), false))
            });
        }
        inherited
    }

    /// An image, brought here if need be, and how it is shown.
    pub(super) fn image(&mut self, name: &str, platform: Option<&str>) -> Result<Found, Failed> {
        let asked = (name.to_owned(), platform.map(str::to_owned));
        let cell = self.build.sources.cell(asked);
        // Whoever wants the same one waits here, and does not bring it a second time.
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &*cell {
            return Ok(found.clone());
        }
        let reference = Reference::parse(name).map(Reference::tagged);
        let shown = reference.as_ref().map_or_else(|_| name.to_owned(), ToString::to_string);
        let pull = self.build.options.pull;
        let found = self.told(&format!("[internal] load metadata for {shown}"), |builder, _| {
            let here = image::find(builder.store, name);
            let image = match (here, &reference) {
                (Ok(image), Err(_)) => image,
                (Ok(image), Ok(_)) if !pull || image.id.hex().starts_with(name) => image,
                (Err(image::Error::NoSuchImage(_)) | Ok(_), Ok(reference)) => {
                    let resolve = |source| Error::Resolve {
                        shown: name.to_owned(),
                        name: shown.clone(),
                        source: Box::new(source),
                    };
                    (builder.build.fetch)(builder.store, reference, platform).map_err(resolve)?;
                    image::find(builder.store, name)?
                }
                (Err(_), Err(source)) => {
                    return Err(Error::BaseName { name: name.to_owned(), source: source.clone() }.into());
                }
                (Err(error), _) => return Err(error.into()),
            };
            Ok((image, false))
        })?;
        if let Some(wanted) = platform {
            let actual = format!("{}/{}", found.os, found.architecture);
            let plain = wanted.to_ascii_lowercase().replace("x86_64", "amd64").replace("aarch64", "arm64");
            if !(plain == actual || plain.starts_with(&format!("{actual}/")) || plain == found.architecture) {
                return Err(Error::Platform { name: shown, wanted: wanted.to_owned(), actual }.into());
            }
        }
        let found = (State::of(found), shown);
        *cell = Some(found.clone());
        Ok(found)
    }

    /// What an address of `ADD` leads to, so far as it has to be fetched to be known.
    pub(super) fn remote(&self, step: usize, url: &str, copy: &Copy, key: &mut Key) -> Result<Remote, Error> {
        let checksum = copy.checksum.as_deref();
        if let Some(repository) = git::Remote::parse(url) {
            // A commit is all that it holds, submodules included.
            key.add("git").add(&repository.url).add(&repository.directory);
            key.add(if copy.keep_git_dir { "with .git" } else { "" });
            if let Some(commit) = repository.commit() {
                key.add(commit);
                return Ok(Remote::Known);
            }
            self.build.watcher.status(step, &format!("fetching {}", repository.shown()));
            let repository = self.repository(&repository, copy)?;
            key.add(&repository.commit);
            return Ok(Remote::Repository(repository));
        }
        key.add("remote").add(url);
        if let Some(checksum) = checksum {
            checksum.parse::<Digest>().map_err(image::Error::from)?;
            key.add(checksum);
            return Ok(Remote::Known);
        }
        self.build.watcher.status(step, &format!("fetching {url}"));
        let fetched = self.file(url, None)?;
        key.add(&digest_of(&fetched.file)?.to_string());
        Ok(Remote::File(fetched))
    }

    /// What was known without having been fetched.
    pub(super) fn fetch(&self, url: &str, copy: &Copy) -> Result<Remote, Error> {
        match git::Remote::parse(url) {
            Some(repository) => Ok(Remote::Repository(self.repository(&repository, copy)?)),
            None => Ok(Remote::File(self.file(url, copy.checksum.as_deref())?)),
        }
    }

    fn file(&self, url: &str, checksum: Option<&str>) -> Result<Fetched, Error> {
        let goes_on = || self.build.schedule.check();
        let fetched = download::fetch(self.build.download, url, &self.store.layout().scratch(), &goes_on)?;
        if let Some(expected) = checksum {
            let actual = digest_of(&fetched.file)?.to_string();
            if actual != expected {
                return Err(Error::Checksum { expected: expected.to_owned(), actual });
            }
        }
        Ok(fetched)
    }

    fn repository(&self, remote: &git::Remote, copy: &Copy) -> Result<Repository, Error> {
        let scratch = self.store.scratch()?;
        let git::Fetched { root, commit } = git::fetch(remote, &scratch, copy.keep_git_dir)?;
        if let Some(expected) = copy.checksum.as_deref().filter(|text| !commit.starts_with(text)) {
            return Err(Error::Checksum { expected: expected.to_owned(), actual: commit });
        }
        Ok(Repository { tree: Tree::new(root, Ignore::default(), true), commit, _scratch: scratch })
    }
}

/// What an address leads to.
pub(super) enum Remote {
    /// It is known what it is, and it has not been fetched.
    Known,
    /// A file.
    File(Fetched),
    /// A repository's work tree.
    Repository(Repository),
}

/// A repository's work tree.
pub(super) struct Repository {
    pub(super) tree: Tree,
    commit: String,
    _scratch: Scratch,
}

pub(super) fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "git@", "ssh://"].iter().any(|scheme| source.starts_with(scheme))
}

fn digest_of(file: &File) -> Result<Digest, Error> {
    use std::io::{Read as _, Seek as _};
    let failed = |error| Error::io("read", Path::new("downloaded file"), error);
    let mut from = file;
    from.rewind().map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer).map_err(failed)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            n => hash.update(&buffer[..n]),
        }
    }
}
