//! Takes names from images, and images from the store, in Docker's order and with Docker's refusals.

use std::collections::HashSet;
use std::fs::{self, File};

use nix::fcntl::{Flock, FlockArg};

use super::{Error, Image, Reference, find, tell};
use crate::store::Store;

/// One line of what `rmi` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(String),
    /// An image or one of its layers is gone.
    Deleted(String),
}

impl std::fmt::Display for Removed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Untagged(name) => write!(f, "Untagged: {name}"),
            Self::Deleted(id) => write!(f, "Deleted: {id}"),
        }
    }
}

/// The containers of an image: short ids of a running one and of one that does not run.
struct Users {
    running: Option<String>,
    stopped: Option<String>,
}

fn users(store: &Store, image: &Image) -> Result<Users, Error> {
    let mut query = store
        .db()
        .prepare_cached(
            "SELECT substr(id, 1, 12), json_extract(state, '$.Status') IN ('running', 'paused', 'restarting')
             FROM container WHERE image = ?1",
        )
        .map_err(|e| store.db_error(e))?;
    let rows = query
        .query_map([image.id.to_string()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| store.db_error(e))?;
    let first = |wanted| rows.iter().find(|(_, running)| *running == wanted).map(|(id, _)| id.clone());
    Ok(Users { running: first(true), stopped: first(false) })
}

/// One tag, with or without digests of the same repository: as good as one name.
fn is_single(references: &[Reference]) -> bool {
    let tags = references.iter().filter(|reference| reference.tag().is_some()).count();
    references.len() <= 1
        || tags == 1 && references.iter().all(|r| r.repository() == references[0].repository())
}

/// Removes a name, and the image when that was its last; by id, the image with its one name, or with
/// all its names if `force`.
pub fn remove(store: &mut Store, text: &str, force: bool) -> Result<Vec<Removed>, Error> {
    let image = find(store, text)?;
    let short = image.id.short();
    let users = users(store, &image)?;
    let mut names = image.references.clone();
    let mut going: Vec<Reference> = Vec::new();
    let named = Reference::parse(text).ok().filter(|_| !is_id(&image, text));
    if let Some(name) = named {
        if !force
            && is_single(&names)
            && let Some(container) = users.running.clone().or_else(|| users.stopped.clone())
        {
            return Err(Error::NameInUse { name: text.to_owned(), container, image: short });
        }
        let name = name.tagged();
        let same = |other: &Reference| match name.digest() {
            // A digest that is no name of its own: the tags of that repository carry it.
            Some(digest) => {
                other.repository() == name.repository() && other.digest().is_none_or(|d| d == digest)
            }
            None => *other == name,
        };
        going.extend(names.extract_if(.., |other| same(other)));
        // Digests of a repository are no use without a tag in it.
        let repository = name.repository();
        if !names.iter().any(|other| other.repository() == repository && other.tag().is_some()) {
            going.extend(names.extract_if(.., |other| other.repository() == repository));
        }
    } else if is_single(&names) || force {
        conflict(&short, &users, &[], force)?;
        going.append(&mut names);
    } else {
        conflict(&short, &users, &names, force)?;
    }

    // What a container uses stays, without a name, until the container goes.
    let delete = names.is_empty() && users.running.is_none() && users.stopped.is_none();
    let path = store.layout().database();
    let orphans = (|| {
        let tx = store.db_mut().transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for name in &going {
            tx.execute(
                "DELETE FROM reference WHERE name = ?1 AND image = ?2",
                [name.to_string(), image.id.to_string()],
            )?;
        }
        let mut orphans = HashSet::new();
        if delete {
            // A container made since we looked makes this fail, and nothing has happened.
            tx.execute("DELETE FROM image WHERE id = ?1", [image.id.to_string()])?;
            orphans = drop_orphans(&tx)?;
        }
        tx.commit()?;
        Ok(orphans)
    })()
    .map_err(|source| crate::store::Error::Database { path, source })?;

    let mut removed: Vec<Removed> = going.iter().map(|name| Removed::Untagged(name.familiar())).collect();
    for name in &going {
        tell(store, "untag", &image.id, Some(&name.familiar()));
    }
    if delete {
        tell(store, "delete", &image.id, None);
        removed.push(Removed::Deleted(image.id.to_string()));
        let layers = image.chain.iter().rev().map(ToString::to_string);
        removed.extend(layers.filter(|id| orphans.contains(id)).map(Removed::Deleted));
        sweep(store)?;
    }
    Ok(removed)
}

/// Forgets the layers that neither an image nor a build's cache has, and says which.
pub(crate) fn drop_orphans(tx: &rusqlite::Transaction<'_>) -> rusqlite::Result<HashSet<String>> {
    let mut query = tx.prepare(
        "SELECT chain_id FROM layer
         WHERE NOT EXISTS (SELECT 1 FROM image_layer WHERE image_layer.chain_id = layer.chain_id)
           AND NOT EXISTS (SELECT 1 FROM build_cache WHERE build_cache.chain_id = layer.chain_id)",
    )?;
    let orphans: HashSet<String> =
        query.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<_, _>>()?;
    drop(query);
    for chain in &orphans {
        tx.execute("DELETE FROM layer WHERE chain_id = ?1", [chain])?;
    }
    if !orphans.is_empty() {
        tx.execute("DELETE FROM blob WHERE diff_id NOT IN (SELECT diff_id FROM layer)", [])?;
    }
    Ok(orphans)
}

/// Whether `text` names the image by its id, or the start of it.
fn is_id(image: &Image, text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    image.id.hex().starts_with(hex)
        && !image
            .references
            .iter()
            .any(|name| Reference::parse(text).is_ok_and(|text| text.tagged() == *name))
}

fn conflict(short: &str, users: &Users, names: &[Reference], force: bool) -> Result<(), Error> {
    if let Some(container) = users.running.clone() {
        return Err(Error::Running { image: short.to_owned(), container });
    }
    if force {
        return Ok(());
    }
    if !names.is_empty() {
        return Err(Error::ManyNames(short.to_owned()));
    }
    if let Some(container) = users.stopped.clone() {
        return Err(Error::Stopped { image: short.to_owned(), container });
    }
    Ok(())
}

/// Deletes the directories in `layers/` that have no row, unless somebody is adding layers just now:
/// then whoever comes next does.
pub fn sweep(store: &Store) -> Result<usize, Error> {
    let layers = store.layout().layers();
    let failed = |call, source| Error::io(call, &layers, source);
    let dir = File::open(&layers).map_err(|source| failed("open", source))?;
    let _lock = match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(0),
        Err((_, errno)) => return Err(failed("flock", errno.into())),
    };
    let known: HashSet<String> = store
        .db()
        .prepare_cached("SELECT substr(chain_id, 8) FROM layer")
        .and_then(|mut query| query.query_map([], |row| row.get(0))?.collect())
        .map_err(|e| store.db_error(e))?;
    let mut scratch = None;
    let mut swept = 0;
    for entry in fs::read_dir(&layers).map_err(|source| failed("opendir", source))? {
        let entry = entry.map_err(|source| failed("readdir", source))?;
        if entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
            continue;
        }
        // Renamed first: half a layer must not be taken for a whole one after a crash.
        let scratch = match &scratch {
            Some(scratch) => scratch,
            None => scratch.insert(store.scratch()?),
        };
        let to = scratch.path().join(entry.file_name());
        fs::rename(entry.path(), &to).map_err(|source| Error::io("rename", &entry.path(), source))?;
        swept += 1;
    }
    Ok(swept)
}
