//! Steps that write files without running anything: `COPY`, `ADD` and `WORKDIR`.
//!
//! They write into an overlay of the layers so far that is mounted nowhere, through [`Place`], for which the kernel
//! resolves every path with that overlay as the root. A step is known by the content of what it copies, so that is
//! read, or remembered, before anything is written; layers that are the same hold the same, so a copy from another
//! stage need not even read.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::super::cache::{self, Key, Made};
use super::super::dockerfile::{self, Copy, Source, Words};
use super::super::mode::Chmod;
use super::super::pattern::{Ignore, clean};
use super::super::place::{Place, relative};
use super::super::tree::{Found, Kind, Tree};
use super::super::{Error, Failed, context, output};
use super::Builder;
use super::progress::{Counter, bytes, summary};
use super::source::{Remote, is_remote};
use super::stage::Inputs;
use super::state::State;
use crate::container::users;
use crate::digest::Digest;
use crate::image;
use crate::layer;
use crate::snapshot::Snapshot;
use crate::store::Scratch;

impl Builder<'_> {
    pub(super) fn workdir(
        &mut self,
        state: &mut State,
        dir: &str,
        counter: &mut Counter,
    ) -> Result<(), Failed> {
        let dir = self.build.expand(state, dir)?;
        let parts = clean(state.absolute(&dir).as_bytes());
        let path = parts.join(&b'/');
        let shown = format!("/{}", String::from_utf8_lossy(&path));
        let name = counter.name(&format!("WORKDIR {shown}"));
        state.config.working_dir.clone_from(&shown);
        if parts.is_empty() {
            self.told(&name, |_, _| Ok(((), false)))?;
            state.note("WORKDIR /".to_owned());
            return Ok(());
        }
        let created_by = format!("WORKDIR {shown}");
        let before = &*state;
        let made = self.told(&name, |builder, _| {
            let owner = if state.config.user.is_empty() {
                None
            } else {
                Some(builder.identity(state, &state.config.user)?)
            };
            let mut key = Key::new("workdir", &state.chain);
            key.add(&shown).add(&format!("{owner:?}"));
            let key = key.finish();
            let _flight = builder.board(key)?;
            let known = builder.cached(before, &key)?;
            if let Some(made) = known.or_else(|| builder.in_history(before, &created_by)) {
                return Ok((made, true));
            }
            let made = builder.write(state, &[key], &name, |_, root| {
                Place { root, owner, mode: None }.directory(&path).map(drop)
            })?;
            Ok((made, false))
        })?;
        state.add(&made, created_by);
        Ok(())
    }

    /// Lets `work` write into the root of a stage, and keeps what it changed.
    fn write(
        &mut self,
        state: &State,
        keys: &[Digest],
        step: &str,
        work: impl FnOnce(&Scratch, &OwnedFd) -> Result<(), Error>,
    ) -> Result<Made, Error> {
        let scratch = self.store.scratch()?;
        let dir = scratch.path().join("root");
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| Error::io("mkdir", &dir, error))?;
        let snapshot = Snapshot::prepare_at(&dir, self.store.layout(), &state.chain)?.volatile(true);
        let root = snapshot.mount_alone()?;
        work(&scratch, &root)?;
        // Nothing is to be written any more when the changes are read.
        drop(root);
        self.keep(state, &snapshot.upper(), keys, step)
    }

    /// Owner and group of `USER[:GROUP]`, by the files of the image. A bare number is both.
    pub(super) fn identity(&self, state: &State, text: &str) -> Result<(u32, u32), Error> {
        if let Ok(id) = text.parse() {
            return Ok((id, id));
        }
        let stack = image::diff_dirs(self.store.layout(), &state.chain);
        let read = |file| users::read(&stack, "etc", file);
        let found = users::resolve(text, &read("passwd"), &read("group"), &[])?;
        Ok((found.uid, found.gid))
    }

    fn show_context(&mut self, size: u64) -> Result<(), Failed> {
        if self.build.context_shown.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.told("[internal] load build context", |builder, step| {
            builder.build.watcher.status(step, &format!("transferring context: {} done", bytes(size)));
            Ok(((), false))
        })
    }

    pub(super) fn copy(
        &mut self,
        state: &mut State,
        copy: &Copy,
        inputs: &Inputs,
        counter: &mut Counter,
    ) -> Result<(), Failed> {
        let keyword = if copy.unpack { "ADD" } else { "COPY" };
        let target = self.build.expand(state, &copy.target)?;
        let mut sources = Vec::new();
        for source in &copy.sources {
            sources.push(match source {
                Source::Path(word) => Source::Path(self.build.expand(state, word)?),
                Source::Text(heredoc) if heredoc.expand => {
                    let lookup = |name: &str| state.lookup(name);
                    let words = Words { escape: self.build.file.escape, lookup: &lookup };
                    let text = words
                        .expand_content(&heredoc.content())
                        .map_err(|reason| Error::Word { word: heredoc.name.clone(), reason })?;
                    Source::Text(dockerfile::Heredoc { text, chomp: false, ..heredoc.clone() })
                }
                Source::Text(heredoc) => Source::Text(dockerfile::Heredoc {
                    text: heredoc.content(),
                    chomp: false,
                    ..heredoc.clone()
                }),
            });
        }
        let chown = copy.chown.as_deref().map(|word| self.build.expand(state, word)).transpose()?;
        let chmod = copy.chmod.as_deref().map(|word| self.build.expand(state, word)).transpose()?;
        let from = copy.from.as_deref().map(|word| self.build.expand(state, word)).transpose()?;
        let mut flags = String::new();
        for (flag, value) in [("from", &from), ("chown", &chown), ("chmod", &chmod)] {
            if let Some(value) = value {
                let _ = write!(flags, "--{flag}={value} ");
            }
        }
        let shown: Vec<String> = sources
            .iter()
            .map(|source| match source {
                Source::Path(path) => path.clone(),
                Source::Text(heredoc) => format!("<<{} ({})", heredoc.name, summary(&heredoc.text)),
            })
            .collect();
        let of = from.as_ref().map(|name| &inputs[name]);
        let wants_context = of.is_none()
            && sources.iter().any(|source| matches!(source, Source::Path(path) if !is_remote(path)));
        let exclude = exclusions(&copy.exclude);
        let mut found = Vec::new();
        if wants_context {
            // What is not found is told by the step itself, which looks again.
            found = self
                .find_in(self.build.options.context.as_ref(), &sources, copy, &exclude)
                .unwrap_or_default();
            self.show_context(found.iter().flatten().map(Found::size).sum())?;
        }
        let text = format!("{keyword} {flags}{} {target}", shown.join(" "));
        let name = counter.name(&text);
        let made = self.told(&name, |builder, step| {
            let owner = chown.as_deref().map(|text| builder.identity(state, text)).transpose()?;
            let mode = chmod
                .as_deref()
                .map(|text| Chmod::parse(text).ok_or_else(|| Error::Chmod(text.to_owned())))
                .transpose()?;
            let path = state.absolute(&target);
            let mut job = Job {
                copy,
                sources: &sources,
                target: relative(&path),
                into: path.ends_with('/') || path.ends_with("/."),
                owner,
                mode,
            };
            let mut key = Key::new("copy", &state.chain);
            key.bytes(&job.target)
                .add(if job.into { "into" } else { "as" })
                .add(&format!("{owner:?} {:?}", job.mode));
            key.add(if copy.unpack { "unpack" } else { "" }).add(if copy.parents { "parents" } else { "" });
            key.list(&copy.exclude);
            let mut keys = Vec::new();
            if let Some(of) = of {
                // Layers that are the same hold the same: then nothing need be read.
                let mut quick = key.clone();
                quick.add("of").add(&of.chain.last().map(ToString::to_string).unwrap_or_default());
                for source in &sources {
                    quick.add(&format!("{source:?}"));
                }
                let quick = quick.finish();
                if let Some(made) = builder.cached(state, &quick)? {
                    return Ok((made, true));
                }
                keys.push(quick);
            }
            let view = of.map(|of| builder.view(of)).transpose()?;
            let tree = view.as_ref().map_or(builder.build.options.context.as_ref(), |(_, tree)| Some(tree));
            if found.is_empty() {
                found = builder.find_in(tree, &sources, copy, &exclude)?;
            }
            let mut files = Vec::new();
            for (source, found) in sources.iter().zip(&found) {
                match source {
                    Source::Text(heredoc) => {
                        key.add("text").add(&heredoc.name).add(&heredoc.text);
                        files.push(None);
                    }
                    Source::Path(url) if is_remote(url) && copy.unpack && of.is_none() => {
                        files.push(Some(builder.remote(step, url, copy, &mut key)?));
                    }
                    Source::Path(_) => {
                        for found in found {
                            key.bytes(if copy.parents { &found.path } else { found.name() });
                            if let Some(tree) = tree {
                                tree.hash(found, key.hash())?;
                            }
                        }
                        files.push(None);
                    }
                }
            }
            let key = key.finish();
            let _flight = builder.board(key)?;
            if let Some(made) = builder.cached(state, &key)? {
                // What only another image says is not this machine's to remember.
                if !keys.is_empty() && cache::find(builder.store, &key)?.is_some() {
                    let top = made.layer.map(|(chain, diff_id)| image::Top { chain, diff_id, size: 0 });
                    cache::record(builder.store, &keys, &state.chain, top, &made.created, &name)?;
                }
                return Ok((made, true));
            }
            keys.push(key);
            for (source, file) in sources.iter().zip(&mut files) {
                if let (Source::Path(url), Some(remote @ Remote::Known)) = (source, file) {
                    *remote = builder.fetch(url, copy)?;
                }
            }
            job.into |= found.iter().map(Vec::len).sum::<usize>() > 1;
            let made = builder
                .write(state, &keys, &name, |scratch, root| job.work(root, scratch, tree, &found, &files))?;
            Ok((made, false))
        })?;
        state.add(&made, format!("{text} # buildkit"));
        Ok(())
    }

    /// What each source finds; nothing for what is no path.
    #[allow(clippy::unused_self, reason = "beside its sisters")]
    fn find_in(
        &self,
        tree: Option<&Tree>,
        sources: &[Source],
        copy: &Copy,
        exclude: &Ignore,
    ) -> Result<Vec<Vec<Found>>, Error> {
        sources
            .iter()
            .map(|source| match (source, tree) {
                (Source::Text(_), _) => Ok(Vec::new()),
                (Source::Path(path), _) if copy.unpack && is_remote(path) => Ok(Vec::new()),
                (Source::Path(path), Some(tree)) => tree.find(path, exclude),
                (Source::Path(path), None) => Err(Error::NotFound(path.trim_start_matches('/').to_owned())),
            })
            .collect()
    }

    /// The files of a stage or an image, to be read.
    fn view(&self, of: &State) -> Result<(Scratch, Tree), Error> {
        let (scratch, root) = output::view(self.store, &of.chain)?;
        Ok((scratch, Tree::new(root, Ignore::default(), false)))
    }
}

/// One `COPY` or `ADD`, ready to be done.
struct Job<'a> {
    copy: &'a Copy,
    sources: &'a [Source],
    /// From the root.
    target: Vec<u8>,
    /// The target is a directory, whether it is there or not.
    into: bool,
    owner: Option<(u32, u32)>,
    mode: Option<Chmod>,
}

impl Job<'_> {
    fn work(
        &self,
        root: &OwnedFd,
        scratch: &Scratch,
        tree: Option<&Tree>,
        found: &[Vec<Found>],
        files: &[Option<Remote>],
    ) -> Result<(), Error> {
        let place = Place { root, owner: self.owner, mode: self.mode.as_ref() };
        if self.into {
            place.directory(&self.target)?;
        }
        for ((source, found), remote) in self.sources.iter().zip(found).zip(files) {
            match (source, remote) {
                (Source::Text(heredoc), _) => {
                    place.write(heredoc.text.as_bytes(), &heredoc.name, &self.target, self.into, 0o644)?;
                }
                (Source::Path(_), Some(Remote::Known)) => {}
                (Source::Path(_), Some(Remote::Repository(repository))) => {
                    // What is in it, into what is a directory.
                    place.directory(&self.target)?;
                    for found in repository.tree.find("/", &exclusions(&self.copy.exclude))? {
                        place.put(&repository.tree, &found, &self.target, true)?;
                    }
                }
                (Source::Path(url), Some(Remote::File(fetched))) => {
                    use std::io::Seek as _;
                    let mut file = &fetched.file;
                    file.rewind().map_err(|error| Error::io("seek", Path::new(url), error))?;
                    let name = url
                        .split(['?', '#'])
                        .next()
                        .unwrap_or_default()
                        .rsplit('/')
                        .next()
                        .unwrap_or_default();
                    if name.is_empty() && self.into {
                        return Err(Error::Unsupported(format!(
                            "cannot determine filename for source {url}"
                        )));
                    }
                    let mtime = fetched.mtime.map(|seconds| (seconds, 0));
                    place.copy(file, name, &self.target, self.into, 0o600, mtime)?;
                }
                (Source::Path(_), None) => {
                    let Some(tree) = tree else { continue };
                    for found in found {
                        self.one(&place, scratch, tree, found)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn one(&self, place: &Place<'_>, scratch: &Scratch, tree: &Tree, found: &Found) -> Result<(), Error> {
        if self.copy.parents {
            // A directory keeps its own name as well, anything else that of the directory it is in.
            let own = if found.is_directory() {
                found.path.clone()
            } else {
                found
                    .path
                    .iter()
                    .rposition(|b| *b == b'/')
                    .map(|at| found.path[..at].to_vec())
                    .unwrap_or_default()
            };
            let target = [&self.target[..], &own[..]].join(&b'/');
            let target = clean(&target).join(&b'/');
            return place.put(tree, found, &target, !found.is_directory());
        }
        if self.copy.unpack
            && let Some(first) = found.items.first().filter(|_| !found.is_directory())
            && first.kind == Kind::File
        {
            let file = tree.content(first)?;
            if let Some(archive) = context::as_tar(&file, scratch.path())? {
                let dest = place.directory(&self.target)?;
                let input = std::io::BufReader::with_capacity(128 << 10, archive);
                layer::extract::extract(dest.as_fd(), input, self.owner)?;
                return Ok(());
            }
        }
        place.put(tree, found, &self.target, self.into)
    }
}

fn exclusions(patterns: &[String]) -> Ignore {
    let mut ignore = Ignore::default();
    for pattern in patterns {
        ignore.add(pattern.as_bytes());
    }
    ignore
}
