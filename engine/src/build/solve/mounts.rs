//! What a `RUN` sees besides its root: `--mount`.
//!
//! A mount is found in two moves. The first says what it is, for the step's key; it looks at everything and makes
//! nothing, since the step may be cached. The second puts what is to be seen where it can be mounted from, in
//! directories that go with the step, but for a cache's, which is what stays.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use nix::poll::PollTimeout;

use super::super::cache::Key;
use super::super::dockerfile::{Mount, MountKind, Sharing};
use super::super::pattern::Ignore;
use super::super::place::Place;
use super::super::tree::{Found, Tree, open_directory};
use super::super::{CACHES, Error, Failed, Secret, output};
use super::Builder;
use super::stage::Inputs;
use super::state::State;
use crate::config::MountPoint;
use crate::container::Record;
use crate::container::step::{Step, View};
use crate::digest::{ChainId, Digest};

/// A secret of more bytes is none.
const LONGEST_SECRET: u64 = 512 << 10;

impl Builder<'_> {
    /// What a mount needs to be known by, with its words expanded and what it shows found.
    pub(super) fn mount(
        &self,
        state: &State,
        mount: &Mount,
        inputs: &Inputs,
        key: &mut Key,
    ) -> Result<Mounted, Failed> {
        let target = state.absolute(&self.build.expand(state, &mount.target)?);
        let source = self.build.expand(state, &mount.source)?;
        let id = mount.id.as_deref().map(|id| self.build.expand(state, id)).transpose()?;
        key.add("mount").add(&target).add(if mount.writable { "rw" } else { "ro" });
        let kind = match mount.kind {
            MountKind::Tmpfs => {
                key.add("tmpfs").add(&format!("{:?}", mount.size));
                Showing::Memory(mount.size)
            }
            MountKind::Secret => {
                let id = id.unwrap_or_else(|| source.rsplit('/').next().unwrap_or_default().to_owned());
                // What it says is nobody's to know, not even a key's.
                key.add("secret").add(&id);
                match self.build.options.secrets.iter().find(|(have, _)| *have == id) {
                    Some((_, secret)) => Showing::Secret(secret.clone(), mount.mode.unwrap_or(0o400)),
                    None if mount.required => return Err(Error::Secret(id).into()),
                    None => Showing::Nothing,
                }
            }
            MountKind::Cache => {
                let mut id = id.unwrap_or_else(|| target.clone());
                let mut seed = None;
                if let Some(from) = &mount.from {
                    // What it begins with is part of which one it is.
                    let of = &inputs[&self.build.expand(state, from)?];
                    let _ = write!(
                        id,
                        ":{}:{source}",
                        of.chain.last().map(ToString::to_string).unwrap_or_default()
                    );
                    seed = Some(Seed { chain: of.chain.clone(), source });
                }
                key.add("cache").add(&id);
                Showing::Cache { id, seed, mode: mount.mode.unwrap_or(0o755), sharing: mount.sharing }
            }
            MountKind::Bind => {
                let source = if source.is_empty() { "/".to_owned() } else { source };
                if let Some(from) = &mount.from {
                    let of = &inputs[&self.build.expand(state, from)?];
                    key.add("view")
                        .add(&of.chain.last().map(ToString::to_string).unwrap_or_default())
                        .add(&source);
                    Showing::View(of.chain.clone(), source)
                } else {
                    let Some(tree) = &self.build.options.context else {
                        return Err(Error::NotFound(source).into());
                    };
                    let found = tree.find(&source, &Ignore::default())?;
                    key.add("context");
                    for found in &found {
                        tree.hash(found, key.hash())?;
                    }
                    Showing::Context(found)
                }
            }
        };
        Ok(Mounted { target, writable: mount.writable, uid: mount.uid, gid: mount.gid, kind })
    }

    /// Takes the caches that mounts show. In the order of their names, so that no two steps wait for each other, and each
    /// once, however often it is mounted.
    pub(super) fn caches(&self, mounts: &[Mounted]) -> Result<Caches, Error> {
        let mut wanted: BTreeMap<&String, (New<'_>, Sharing)> = BTreeMap::new();
        for mount in mounts {
            if let Showing::Cache { id, seed, mode, sharing } = &mount.kind {
                let new = match seed {
                    Some(seed) => New::Of(seed),
                    None => New::Empty(mount.uid, mount.gid, *mode),
                };
                let one = wanted.entry(id).or_insert((new, *sharing));
                one.1 = one.1.max(*sharing);
            }
        }
        let dir = self.store.layout().root.join(CACHES);
        if !wanted.is_empty() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|error| Error::io("mkdir", &dir, error))?;
        }
        let wanted = wanted.into_iter().map(|(id, (new, sharing))| {
            let name = Digest::of(id.as_bytes()).hex();
            Ok((id.clone(), self.cache(&dir.join(name), new, sharing)?))
        });
        wanted.collect()
    }

    /// A cache that nobody has had before. It has its name only once what it begins with is in it.
    fn make_cache(&self, path: &Path, new: New<'_>) -> Result<(), Error> {
        let seed = match new {
            New::Empty(uid, gid, mode) => {
                return match fs::create_dir(path) {
                    Ok(()) => own(path, (uid, gid, mode)),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    Err(error) => Err(Error::io("mkdir", path, error)),
                };
            }
            New::Of(_) if path.exists() => return Ok(()),
            New::Of(seed) => seed,
        };
        let scratch = self.store.scratch()?;
        let made = scratch.path().join("cache");
        fs::create_dir(&made).map_err(|error| Error::io("mkdir", &made, error))?;
        let to = open_directory(&made).map_err(|error| Error::io("open", &made, error))?;
        let (_view, root) = output::view(self.store, &seed.chain)?;
        let tree = Tree::new(root, Ignore::default(), false);
        let place = Place { root: &to, owner: None, mode: None };
        let source = if seed.source.is_empty() { "/" } else { &seed.source };
        for found in tree.find(source, &Ignore::default())? {
            if !found.is_directory() {
                return Err(Error::NotADirectory(source.trim_start_matches('/').to_owned()));
            }
            place.put(&tree, &found, b"", true)?;
            if let Some(item) = found.items.first() {
                own(&made, (item.uid, item.gid, item.mode & 0o7777))?;
            }
        }
        match renameat2(AT_FDCWD, &made, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
            // Somebody else has made it meanwhile.
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(Error::io("rename", path, errno.into())),
        }
    }

    fn cache(&self, first: &Path, new: New<'_>, sharing: Sharing) -> Result<Cache, Error> {
        let (mut path, mut n) = (first.to_owned(), 0);
        loop {
            self.make_cache(&path, new)?;
            let dir = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
            let how = match sharing {
                Sharing::Shared => FlockArg::LockSharedNonblock,
                Sharing::Private | Sharing::Locked => FlockArg::LockExclusiveNonblock,
            };
            match Flock::lock(dir, how) {
                Ok(lock) => return Ok(Cache { path, _lock: lock }),
                Err((_, Errno::EWOULDBLOCK)) if sharing == Sharing::Private => {
                    n += 1;
                    path = first.with_extension(n.to_string());
                }
                // Another build may have it, of which nothing tells this one. BuildKit looks as often.
                Err((_, Errno::EWOULDBLOCK)) => self.build.schedule.wait(None, PollTimeout::from(100_u8))?,
                Err((_, errno)) => return Err(Error::io("flock", &path, errno.into())),
            }
        }
    }

    /// Puts what a mount shows to where it can be mounted from.
    pub(super) fn prepare(
        &self,
        container: &Step,
        n: usize,
        mount: Mounted,
        record: &mut Record,
        views: &mut Vec<View>,
        caches: &Caches,
    ) -> Result<(), Error> {
        let Mounted { target, writable, uid, gid, kind } = mount;
        match kind {
            Showing::Nothing => {}
            Showing::Memory(size) => {
                let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
                record.host_config.tmpfs.insert(target, format!("exec{size}"));
            }
            Showing::Secret(secret, mode) => {
                let bytes = match secret {
                    Secret::Value(text) => text.into_bytes(),
                    Secret::File(path) => {
                        use std::io::Read as _;
                        let mut bytes = Vec::new();
                        File::open(&path)
                            .and_then(|file| file.take(LONGEST_SECRET + 1).read_to_end(&mut bytes))
                            .map_err(|error| Error::io("open", &path, error))?;
                        if bytes.len() as u64 > LONGEST_SECRET {
                            return Err(Error::TooLarge {
                                what: path.display().to_string(),
                                limit: LONGEST_SECRET,
                            });
                        }
                        bytes
                    }
                };
                let path = container.run_dir().join(format!("secret{n}"));
                fs::write(&path, bytes).map_err(|error| Error::io("write", &path, error))?;
                own(&path, (uid, gid, mode))?;
                record.mounts.push(bind(&path, &target, false)?);
            }
            Showing::Cache { id, .. } => {
                record.mounts.push(bind(&caches[&id].path, &target, writable)?);
            }
            Showing::View(chain, source) => {
                views.push(View { chain, source: PathBuf::from(source), target, writable });
            }
            Showing::Context(found) => {
                let Some(tree) = &self.build.options.context else { return Ok(()) };
                let path = container.dir().join(format!("bind{n}"));
                fs::create_dir(&path).map_err(|error| Error::io("mkdir", &path, error))?;
                let root = open_directory(&path).map_err(|error| Error::io("open", &path, error))?;
                let place = Place { root: &root, owner: None, mode: None };
                for found in &found {
                    place.put(tree, found, b"", false)?;
                }
                let source = match &found[..] {
                    [one] if !one.is_directory() => path.join(std::ffi::OsStr::from_bytes(one.name())),
                    _ => path,
                };
                record.mounts.push(bind(&source, &target, writable)?);
            }
        }
        Ok(())
    }
}

/// A mount with its words expanded.
pub(super) struct Mounted {
    target: String,
    writable: bool,
    uid: u32,
    gid: u32,
    kind: Showing,
}

/// What a cache begins with.
pub(super) struct Seed {
    chain: Vec<ChainId>,
    source: String,
}

/// What a cache is when it is new.
#[derive(Clone, Copy)]
enum New<'a> {
    /// Nothing is in it; owner, group and mode.
    Empty(u32, u32, u32),
    /// A directory of a stage or an image.
    Of(&'a Seed),
}

/// A cache that a step has taken.
pub(super) struct Cache {
    path: PathBuf,
    _lock: Flock<File>,
}

/// By their ids.
pub(super) type Caches = BTreeMap<String, Cache>;

/// What a mount shows.
enum Showing {
    Nothing,
    Memory(Option<u64>),
    Secret(Secret, u32),
    Cache { id: String, seed: Option<Seed>, mode: u32, sharing: Sharing },
    View(Vec<ChainId>, String),
    Context(Vec<Found>),
}

pub(super) fn bind(source: &Path, target: &str, writable: bool) -> Result<MountPoint, Error> {
    let text = source
        .to_str()
        .ok_or_else(|| Error::io("bind mount", source, std::io::ErrorKind::InvalidInput.into()))?;
    Ok(MountPoint {
        kind: "bind".to_owned(),
        source: text.to_owned(),
        destination: target.to_owned(),
        rw: writable,
        propagation: "rprivate".to_owned(),
        ..MountPoint::default()
    })
}

fn own(path: &Path, (uid, gid, mode): (u32, u32, u32)) -> Result<(), Error> {
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(|error| Error::io("chown", path, error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| Error::io("chmod", path, error))
}
