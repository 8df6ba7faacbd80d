//! What files of a context hashed to, by what `stat` says of them.
//!
//! Of a cached build nothing is as dear as reading the context again. A file whose device, inode, size and both
//! times are those of the last build holds what it held then: whoever changes a file changes its `ctime`, and
//! nobody can set that back. A clock has grains, though, and a file that is written twice within one looks the
//! same both times; so what was changed less than two seconds before it was hashed is not remembered.
//!
//! One small file for each context, written beside and renamed. One that is damaged is as good as none.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Error;
use crate::store::Store;

const MAGIC: &[u8; 8] = b"BHHASH1\n";
/// Nanoseconds within which two changes may look like one.
const GRAIN: i64 = 2_000_000_000;
/// Files remembered of one context.
const MOST: usize = 1 << 20;
/// Bytes of one record.
const RECORD: usize = 5 * 8 + 32;

/// What says that a file is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    /// Nanoseconds.
    pub mtime: i64,
    /// Nanoseconds.
    pub ctime: i64,
}

/// What is remembered of one context.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    path: PathBuf,
    known: HashMap<Stamp, [u8; 32]>,
    /// Something is new.
    changed: bool,
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

impl Hashes {
    /// Reads what a file remembers.
    pub(super) fn load(path: PathBuf) -> Self {
        let known = fs::read(&path).ok().and_then(|bytes| parse(&bytes)).unwrap_or_default();
        Self { path, known, changed: false }
    }

    /// What a file of that stamp holds.
    pub(super) fn find(&self, stamp: &Stamp) -> Option<[u8; 32]> {
        self.known.get(stamp).copied()
    }

    /// Remembers it, unless it may have changed since without showing it.
    pub(super) fn remember(&mut self, stamp: Stamp, hash: [u8; 32]) {
        if stamp.ctime < now() - GRAIN && stamp.mtime < now() - GRAIN && self.known.len() < MOST {
            self.known.insert(stamp, hash);
            self.changed = true;
        }
    }

    /// Writes it down, if there is anything new.
    pub(super) fn save(&mut self, store: &Store) -> Result<(), Error> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(MAGIC.len() + self.known.len() * RECORD);
        bytes.extend_from_slice(MAGIC);
        for (stamp, hash) in &self.known {
            for number in [stamp.dev, stamp.ino, stamp.size, stamp.mtime as u64, stamp.ctime as u64] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(hash);
        }
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let made = fs::create_dir(dir);
        if made.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::AlreadyExists) {
            made.map_err(|error| Error::io("mkdir", dir, error))?;
        }
        let scratch = store.scratch()?;
        let beside = scratch.path().join("hashes");
        fs::write(&beside, bytes).map_err(|error| Error::io("write", &beside, error))?;
        fs::rename(&beside, &self.path).map_err(|error| Error::io("rename", &beside, error))
    }
}

fn parse(bytes: &[u8]) -> Option<HashMap<Stamp, [u8; 32]>> {
    let records = bytes.strip_prefix(MAGIC)?;
    if records.len() % RECORD != 0 {
        return None;
    }
    let number = |record: &[u8], n: usize| {
        u64::from_le_bytes(record[n * 8..n * 8 + 8].try_into().expect("eight bytes"))
    };
    let one = |record: &[u8]| {
        let stamp = Stamp {
            dev: number(record, 0),
            ino: number(record, 1),
            size: number(record, 2),
            mtime: number(record, 3) as i64,
            ctime: number(record, 4) as i64,
        };
        (stamp, record[40..].try_into().expect("32 bytes"))
    };
    Some(records.chunks_exact(RECORD).map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Layout;

    #[test]
    fn what_is_remembered_comes_back_and_what_is_fresh_is_not_remembered() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout { root: dir.path().join("root"), run_root: dir.path().join("run") };
        let store = Store::open(layout).expect("open");
        let path = dir.path().join("root/build-cache/context-x");
        let stamp = |ino, ctime| Stamp { dev: 1, ino, size: 3, mtime: 4, ctime };
        let mut hashes = Hashes::load(path.clone());
        hashes.save(&store).expect("nothing");
        assert!(!path.exists());
        hashes.remember(stamp(1, 5), [7; 32]);
        hashes.remember(stamp(2, now()), [8; 32]);
        hashes.save(&store).expect("save");
        let again = Hashes::load(path.clone());
        assert_eq!(again.find(&stamp(1, 5)), Some([7; 32]));
        assert_eq!(again.find(&stamp(1, 6)), None);
        assert_eq!(again.known.len(), 1);
        let whole = fs::read(&path).expect("read");
        for damaged in [&whole[..whole.len() - 1], b"", b"x", b"BHHASH1\nshort"] {
            fs::write(&path, damaged).expect("write");
            assert!(Hashes::load(path.clone()).known.is_empty());
        }
    }
}
