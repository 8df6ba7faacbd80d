//! What steps made, by what they depend on.
//!
//! A key is the digest of everything that can change a step's outcome and of nothing else: the layers below it
//! (by chain-id, which is their content), what is done, and the content of what is copied. Labels, names and
//! times are not in it. Since the layers below stand for all that was done before, a step needs no chain of
//! keys, and two Dockerfiles that begin alike share their beginning.

use std::fmt::Write as _;

use rusqlite::OptionalExtension as _;
use sha2::{Digest as _, Sha256};

use super::Error;
use crate::digest::{ChainId, DiffId, Digest};
use crate::image::{self, Top};
use crate::store::Store;

/// A key in the making. Each part is written with its length, so that no two lists of parts look alike.
#[derive(Debug, Clone)]
pub struct Key(Sha256);

impl Key {
    /// The key of a kind of step.
    pub fn new(kind: &str, below: &[ChainId]) -> Self {
        let mut key = Self(Sha256::new());
        key.add(kind).add(&below.last().map(ToString::to_string).unwrap_or_default());
        key
    }

    /// Adds a part.
    pub fn add(&mut self, part: &str) -> &mut Self {
        self.bytes(part.as_bytes())
    }

    /// Adds bytes.
    pub fn bytes(&mut self, part: &[u8]) -> &mut Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// Adds a list.
    pub fn list<T: AsRef<str>>(&mut self, parts: &[T]) -> &mut Self {
        self.0.update((parts.len() as u64).to_le_bytes());
        for part in parts {
            self.add(part.as_ref());
        }
        self
    }

    /// The hash, for those that add much.
    pub fn hash(&mut self) -> &mut Sha256 {
        &mut self.0
    }

    /// The key.
    pub fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}

/// What a step made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its layer; none when it changed nothing.
    pub layer: Option<(ChainId, DiffId)>,
    /// When, RFC 3339.
    pub created: String,
}

/// What the step of that key made, if its layer is still there.
pub(super) fn find(store: &Store, key: &Digest) -> Result<Option<Made>, Error> {
    type Row = (Option<String>, Option<String>, String);
    let row: Option<Row> = store
        .db()
        .prepare_cached("SELECT chain_id, diff_id, created FROM build_cache WHERE key = ?1")
        .and_then(|mut query| {
            query.query_row([key.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
        })
        .map_err(|error| store.db_error(error))?;
    let Some((chain, diff_id, created)) = row else { return Ok(None) };
    let parsed = match (chain, diff_id) {
        (Some(chain), Some(diff_id)) => match (chain.parse::<Digest>(), diff_id.parse::<Digest>()) {
            (Ok(chain), Ok(diff_id)) => Some((ChainId(chain), DiffId(diff_id))),
            _ => return Ok(None),
        },
        _ => None,
    };
    if parsed.is_some_and(|(chain, _)| !image::layer_dir(store.layout(), &chain).join("diff").exists()) {
        return Ok(None);
    }
    Ok(Some(Made { layer: parsed, created }))
}

/// The keys of steps that made a layer, and when.
pub(super) fn keys(store: &Store, chain: &ChainId) -> Result<Vec<(Digest, String)>, Error> {
    let rows: Vec<(String, String)> = store
        .db()
        .prepare_cached("SELECT key, created FROM build_cache WHERE chain_id = ?1")
        .and_then(|mut query| {
            query.query_map([chain.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .map_err(|error| store.db_error(error))?;
    Ok(rows.into_iter().filter_map(|(key, created)| Some((key.parse().ok()?, created))).collect())
}

/// Remembers what a step made; `top` is new, or known.
pub(super) fn record(
    store: &mut Store,
    keys: &[Digest],
    below: &[ChainId],
    top: Option<Top>,
    created: &str,
    step: &str,
) -> Result<(), Error> {
    let path = store.layout().database();
    let failed = |source| crate::store::Error::Database { path: path.clone(), source };
    let tx =
        store.db_mut().transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    (|| {
        if let Some(top) = top {
            tx.execute(
                "INSERT OR IGNORE INTO layer (chain_id, diff_id, parent, size) VALUES (?1, ?2, ?3, ?4)",
                (
                    top.chain.to_string(),
                    top.diff_id.to_string(),
                    below.last().map(ToString::to_string),
                    top.size as i64,
                ),
            )?;
        }
        for key in keys {
            tx.execute(
                "INSERT INTO build_cache (key, chain_id, diff_id, created, step) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (key) DO UPDATE SET
                     chain_id = excluded.chain_id, diff_id = excluded.diff_id, created = excluded.created",
                (
                    key.to_string(),
                    top.map(|top| top.chain.to_string()),
                    top.map(|top| top.diff_id.to_string()),
                    created,
                    step,
                ),
            )?;
        }
        tx.commit()
    })()
    .map_err(failed)?;
    Ok(())
}

/// What the cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Layers that are in it.
    pub layers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of those that no image has.
    pub reclaimable: u64,
}

/// What the cache holds.
pub fn usage(store: &Store) -> Result<Usage, Error> {
    let row = store
        .db()
        .prepare_cached(
            "SELECT count(*), ifnull(sum(size), 0), ifnull(sum(CASE WHEN EXISTS
                 (SELECT 1 FROM image_layer WHERE image_layer.chain_id = layer.chain_id) THEN 0 ELSE size END), 0)
             FROM layer WHERE EXISTS (SELECT 1 FROM build_cache WHERE build_cache.chain_id = layer.chain_id)",
        )
        .and_then(|mut query| {
            query.query_row([], |row| {
                let number = |at| row.get::<_, i64>(at).map(|n| n as u64);
                Ok(Usage { layers: number(0)?, bytes: number(1)?, reclaimable: number(2)? })
            })
        })
        .map_err(|error| store.db_error(error))?;
    Ok(row)
}

/// A layer that the cache has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// Its name.
    pub chain: ChainId,
    /// The step that made it, as it is shown; the newest of several.
    pub step: String,
    /// When that was, RFC 3339.
    pub created: String,
    /// Bytes of its files.
    pub size: u64,
    /// An image has it, too.
    pub shared: bool,
}

/// The layers that the cache has, the oldest first.
pub fn layers(store: &Store) -> Result<Vec<Cached>, Error> {
    // Of a group whose newest is asked for, SQLite gives the other columns of that row ("bare columns").
    let rows = || -> rusqlite::Result<Vec<Cached>> {
        let mut query = store.db().prepare_cached(
            "SELECT build_cache.chain_id, step, max(created), size, EXISTS
                 (SELECT 1 FROM image_layer WHERE image_layer.chain_id = build_cache.chain_id)
             FROM build_cache JOIN layer ON layer.chain_id = build_cache.chain_id
             GROUP BY build_cache.chain_id ORDER BY max(created), build_cache.chain_id",
        )?;
        let read = |row: &rusqlite::Row<'_>| {
            let (chain, size): (String, i64) = (row.get(0)?, row.get(3)?);
            let (step, created, shared) = (row.get(1)?, row.get(2)?, row.get(4)?);
            let size = size.unsigned_abs();
            Ok(chain.parse().ok().map(|chain| Cached { chain: ChainId(chain), step, created, size, shared }))
        };
        query.query_map([], read)?.filter_map(Result::transpose).collect()
    };
    Ok(rows().map_err(|error| store.db_error(error))?)
}

/// Forgets everything (`all`), or what no image has a layer of, and the layers that only this held. Returns
/// their ids and the bytes freed.
pub fn prune(store: &mut Store, all: bool) -> Result<(Vec<String>, u64), Error> {
    let path = store.layout().database();
    let failed = |source| crate::store::Error::Database { path: path.clone(), source };
    let caches = store.layout().root.join(super::CACHES);
    let tx =
        store.db_mut().transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    let (gone, freed) = (|| {
        let mut condition = String::from("DELETE FROM build_cache");
        if !all {
            let _ = write!(
                condition,
                " WHERE chain_id IS NOT NULL AND NOT EXISTS
                  (SELECT 1 FROM image_layer WHERE image_layer.chain_id = build_cache.chain_id)"
            );
        }
        let mut sizes = std::collections::HashMap::new();
        {
            let mut query = tx.prepare("SELECT chain_id, size FROM layer")?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
            for row in rows {
                let (chain, size) = row?;
                sizes.insert(chain, size as u64);
            }
        }
        tx.execute(&condition, [])?;
        let gone: Vec<String> = image::drop_orphans(&tx)?.into_iter().collect();
        let freed: u64 = gone.iter().filter_map(|chain| sizes.get(chain)).sum();
        tx.commit()?;
        Ok((gone, freed))
    })()
    .map_err(failed)?;
    let mut freed = freed;
    if all {
        freed += crate::layer::disk_usage(&caches).map_or(0, |usage| usage.bytes);
        match crate::store::remove_tree(&caches) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &caches, error));
            }
            _ => {}
        }
    }
    image::sweep(store)?;
    Ok((gone, freed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lists_of_parts_have_one_key() {
        let key = |parts: &[&str]| {
            let mut key = Key::new("x", &[]);
            for part in parts {
                key.add(part);
            }
            key.finish()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        let list = |parts: &[&str], rest: &str| Key::new("x", &[]).list(parts).add(rest).clone().finish();
        assert_ne!(list(&["a", "b"], ""), list(&["a"], "b"));
    }
}
