//! Where the engine keeps what must survive a command: one directory tree and one SQLite database.
//!
//! The store has no daemon in front of it, so two commands may hold it at once and either may be
//! killed at any instant. Three rules make that safe. *Names appear last*: a layer or image is built
//! under [`Scratch`], made durable, and then renamed and recorded, so no reader ever meets half of one.
//! *Owners hold locks, not pid files*: a scratch directory and a running container are each held by an
//! open file description lock that the kernel drops with the process, so whether an owner lives is
//! asked of the kernel and cannot be fooled by a reused pid. *Relations live in SQLite*: unique names,
//! "a container uses this image" and reference moves are constraints and transactions, not code.
//!
//! Modules own their tables: each declares its DDL here in [`SCHEMA`], and keeps its queries beside
//! its logic.

mod removal;
mod scratch;

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Connection;

pub(crate) use removal::remove_tree;
pub use scratch::{Left, Scratch};

/// What can go wrong with the store itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The operation that failed, in the kernel's words.
        call: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database refused.
    #[error("database {path}: {source}", path = path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The database was written by a newer Bulkhead.
    #[error("database {path} has version {found}; this bulkhead knows up to {known}", path = path.display())]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The version found in it.
        found: u32,
        /// The newest version this build understands.
        known: u32,
    },
}

/// Adds the failing call and path to an I/O result.
pub(crate) trait IoContext<T> {
    /// Names the call and the path it was applied to.
    fn at(self, call: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { call, path: path.to_owned(), source })
    }
}

/// The DDL of each version, applied in order; the position is the version (SQLite `user_version`).
const SCHEMA: &[&str] = &[
    // 1: images, their names and layers; containers.
    "CREATE TABLE image (
        id       TEXT PRIMARY KEY,          -- digest of the configuration
        config   BLOB NOT NULL,             -- the configuration, byte for byte
        manifest BLOB,                      -- the manifest it came with, if any
        digest   TEXT,                      -- digest of that manifest
        size     INTEGER NOT NULL,          -- bytes of all layers, unpacked
        loaded   TEXT NOT NULL              -- when it was stored, RFC 3339
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reference (
        name  TEXT PRIMARY KEY,             -- docker.io/library/alpine:3.20
        image TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX reference_image ON reference(image);
    CREATE TABLE layer (
        chain_id TEXT PRIMARY KEY,
        diff_id  TEXT NOT NULL,
        parent   TEXT,                      -- chain-id below, NULL for a base
        size     INTEGER NOT NULL           -- bytes of file content in the diff directory
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image_layer (
        image    TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,          -- 0 is the lowest
        chain_id TEXT NOT NULL REFERENCES layer(chain_id),
        PRIMARY KEY (image, position)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_layer_chain ON image_layer(chain_id);
    CREATE TABLE container (
        id      TEXT PRIMARY KEY,
        name    TEXT NOT NULL UNIQUE,
        image   TEXT REFERENCES image(id),  -- keeps a used image from being removed
        created TEXT NOT NULL,              -- RFC 3339
        record  TEXT NOT NULL,              -- what does not change by itself: configuration (JSON)
        state   TEXT NOT NULL               -- what does: status, pid, exit code (JSON)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX container_image ON container(image);
    CREATE INDEX container_created ON container(created);",
    // Networks, who is on them, and the host ports they hold.
    "CREATE TABLE network (
        id         TEXT PRIMARY KEY,
        name       TEXT NOT NULL UNIQUE,
        driver     TEXT NOT NULL,           -- bridge, host, null, macvlan
        created    TEXT NOT NULL,           -- RFC 3339
        internal   INTEGER NOT NULL,
        attachable INTEGER NOT NULL,
        fixed      INTEGER NOT NULL,        -- the user chose the subnet
        subnet4    TEXT, range4 TEXT, gateway4 TEXT,
        subnet6    TEXT, range6 TEXT, gateway6 TEXT,
        options    TEXT NOT NULL,           -- JSON object
        labels     TEXT NOT NULL            -- JSON object
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE endpoint (
        id        TEXT PRIMARY KEY,
        network   TEXT NOT NULL REFERENCES network(id),
        container TEXT NOT NULL,            -- no reference: a row outlives a crash of its container
        name      TEXT NOT NULL,            -- the container's name
        ip4       TEXT,
        ip6       TEXT,
        mac       TEXT NOT NULL,
        interface TEXT NOT NULL,            -- eth0, in the container
        UNIQUE (network, container),
        UNIQUE (network, ip4),
        UNIQUE (network, ip6)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX endpoint_container ON endpoint(container);
    CREATE TABLE endpoint_alias (
        endpoint TEXT NOT NULL REFERENCES endpoint(id) ON DELETE CASCADE,
        alias    TEXT NOT NULL,
        PRIMARY KEY (endpoint, alias)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE endpoint_link (
        endpoint TEXT NOT NULL REFERENCES endpoint(id) ON DELETE CASCADE,
        alias    TEXT NOT NULL,
        target   TEXT NOT NULL,             -- the other container's id
        PRIMARY KEY (endpoint, alias)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX endpoint_link_target ON endpoint_link(target);
    CREATE TABLE endpoint_upstream (
        endpoint TEXT NOT NULL REFERENCES endpoint(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        server   TEXT NOT NULL,             -- a name server that its queries are forwarded to
        PRIMARY KEY (endpoint, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE port (
        endpoint       TEXT NOT NULL REFERENCES endpoint(id) ON DELETE CASCADE,
        host           TEXT NOT NULL,       -- an address; 0.0.0.0 or :: for all
        host_port      INTEGER NOT NULL,
        protocol       TEXT NOT NULL,
        container_port INTEGER NOT NULL,
        PRIMARY KEY (host, host_port, protocol)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX port_endpoint ON port(endpoint);",
    // The state before the record: SQLite reads a row from its start, and a record is pages long.
    "CREATE TABLE container_in_order (
        id      TEXT PRIMARY KEY,
        state   TEXT NOT NULL,
        name    TEXT NOT NULL UNIQUE,
        image   TEXT REFERENCES image(id),
        created TEXT NOT NULL,
        record  TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO container_in_order (id, state, name, image, created, record)
        SELECT id, state, name, image, created, record FROM container;
    DROP TABLE container;
    ALTER TABLE container_in_order RENAME TO container;
    CREATE INDEX container_image ON container(image);
    CREATE INDEX container_created ON container(created);",
    // What the last containers that were removed were called: whoever reads the kernel's events reads them after
    // the fact, and a `run --rm` may be over by then. No index: it is short, and seldom read.
    "CREATE TABLE gone (
        n     INTEGER PRIMARY KEY,
        id    TEXT NOT NULL,
        name  TEXT NOT NULL,
        image TEXT NOT NULL                 -- as named at creation
    ) STRICT;
    CREATE TRIGGER container_gone AFTER DELETE ON container BEGIN
        INSERT INTO gone (id, name, image) VALUES (OLD.id, OLD.name,
            CASE WHEN json_valid(OLD.record) THEN ifnull(json_extract(OLD.record, '$.Config.Image'), '') ELSE '' END);
        DELETE FROM gone WHERE n <= (SELECT max(n) FROM gone) - 1024;
    END;",
    // What unpacking has cost since the store was made; commands that unpack end, and somebody must remember.
    "CREATE TABLE unpacked (
        one    INTEGER PRIMARY KEY CHECK (one = 1),
        images INTEGER NOT NULL,            -- images for which something had to be unpacked
        layers INTEGER NOT NULL,
        bytes  INTEGER NOT NULL,            -- of file content
        ns     INTEGER NOT NULL             -- until the layers were durable
    ) STRICT;
    INSERT INTO unpacked VALUES (1, 0, 0, 0, 0);",
    // As what blobs registries have the layers: what is there already need not be compressed and sent again.
    "CREATE TABLE blob (
        diff_id    TEXT NOT NULL,
        repository TEXT NOT NULL,           -- docker.io/library/alpine
        digest     TEXT NOT NULL,
        size       INTEGER NOT NULL,        -- compressed
        media_type TEXT NOT NULL,
        PRIMARY KEY (diff_id, repository, digest)
    ) STRICT, WITHOUT ROWID;",
    // Volumes, and which container has which mounted. No index by container: its record names its volumes, and
    // every table and index more is one that each command reads the definition of.
    "CREATE TABLE volume (
        name    TEXT PRIMARY KEY,
        created TEXT NOT NULL,              -- RFC 3339
        options TEXT NOT NULL,              -- JSON object
        labels  TEXT NOT NULL               -- JSON object
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE volume_user (
        volume    TEXT NOT NULL REFERENCES volume(name),
        container TEXT NOT NULL,            -- no reference: it would be looked for whenever a container goes
        unfilled  INTEGER NOT NULL,         -- the image's files are still to be copied
        PRIMARY KEY (volume, container)
    ) STRICT, WITHOUT ROWID;",
    // What the steps of builds made, by what they depend on. A layer that only this has stays until `builder prune`.
    "CREATE TABLE build_cache (
        key      TEXT PRIMARY KEY,          -- digest of everything the step depends on
        chain_id TEXT REFERENCES layer(chain_id), -- NULL when it changed nothing
        diff_id  TEXT,
        created  TEXT NOT NULL,             -- RFC 3339
        step     TEXT NOT NULL              -- as it is shown
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX build_cache_chain ON build_cache(chain_id);",
    // Containers by number. A table without rowids is an index, whose cells hold a quarter of a page: a record spilled
    // over, and each comparison on the way to it read what had spilled. Only what is looked up has an index, since
    // each costs every start a page written, twice.
    "CREATE TABLE container_by_number (
        n       INTEGER PRIMARY KEY,
        state   TEXT NOT NULL,
        id      TEXT NOT NULL UNIQUE,
        name    TEXT NOT NULL UNIQUE,
        image   TEXT REFERENCES image(id),
        created TEXT NOT NULL,
        record  TEXT NOT NULL
    ) STRICT;
    INSERT INTO container_by_number (state, id, name, image, created, record)
        SELECT state, id, name, image, created, record FROM container ORDER BY created;
    DROP TABLE container;
    ALTER TABLE container_by_number RENAME TO container;
    CREATE TRIGGER container_gone AFTER DELETE ON container BEGIN
        INSERT INTO gone (id, name, image) VALUES (OLD.id, OLD.name,
            CASE WHEN json_valid(OLD.record) THEN ifnull(json_extract(OLD.record, '$.Config.Image'), '') ELSE '' END);
        DELETE FROM gone WHERE n <= (SELECT max(n) FROM gone) - 1024;
    END;",
];

/// Bytes of write-ahead log above which [`Store::checkpoint`] works. Measured: reading 32 frames
/// through costs a start 0.1 ms.
const CHECKPOINT_ABOVE: u64 = 32 * 4096;

/// Bytes of log that a command does not leave behind, if no monitor has come along for so long.
const CHECKPOINT_AT_LAST: u64 = 1000 * 4096;

/// How long a command waits for another one's transaction.
const BUSY: Duration = Duration::from_secs(10);

/// The directories of a store, derived from the two roots.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Persistent data, `/var/lib/bulkhead` unless `--root` says otherwise.
    pub root: PathBuf,
    /// Sockets, locks and pids of this boot, `/run/bulkhead` unless `--run-root` says otherwise.
    pub run_root: PathBuf,
}

/// What the names of sockets begin with that end with a process.
const PASSING: &str = "api-";

/// The process that the socket of a name in the run root is for.
pub(crate) fn passing(name: &str) -> Option<i32> {
    name.strip_prefix(PASSING)?.strip_suffix(".sock")?.parse().ok()
}

impl Layout {
    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.root.join("bulkhead.db")
    }

    /// Unpacked layers: `layers/<hex of chain-id>/diff`, the lowerdirs of every snapshot.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Containers: `containers/<id>/{upper,work,log.json}`.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// What lies below the layers of every snapshot; see [`crate::snapshot`].
    pub fn mount_points(&self) -> PathBuf {
        self.root.join("mountpoints")
    }

    /// Volumes: `volumes/<name>/_data`.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Scratch directories; see [`Scratch`].
    pub fn scratch(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where the files are that a container has mounted on its `/etc/hosts`, `/etc/hostname` and
    /// `/etc/resolv.conf`: written anew at each start, they belong to the run and not to the disk.
    pub fn etc(&self, container: &str) -> PathBuf {
        self.run(container)
    }

    /// The socket of a server that lives as long as another process does. One that is left when that has ended is
    /// taken away by the next command.
    pub fn passing_socket(&self, process: u32) -> PathBuf {
        self.run_root.join(format!("{PASSING}{process}.sock"))
    }

    /// Runtime files of one container: lock, attach socket, what is mounted in its `/etc`.
    pub fn run(&self, container: &str) -> PathBuf {
        self.run_root.join(container)
    }
}

/// Set by the first store that this process opens.
static OPENED: AtomicBool = AtomicBool::new(false);

/// Whether this process has opened a store. SQLite believes that the locks of its connections are the
/// process's own; a fork's would not be, so that a process must not fork into one that opens a store, too.
pub fn was_opened() -> bool {
    OPENED.load(Ordering::Relaxed)
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    db: Connection,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.checkpoint_above(CHECKPOINT_AT_LAST);
    }
}

impl Store {
    /// Opens the store, creating both roots (mode 0700) and the schema on first use.
    pub fn open(layout: Layout) -> Result<Self, Error> {
        use rusqlite::config::DbConfig;
        OPENED.store(true, Ordering::Relaxed);
        let path = layout.database();
        let database = |source| Error::Database { path: path.clone(), source };
        let db = if let Ok(db) = Connection::open(&path) {
            db
        } else {
            make_dir(&layout.root)?;
            Connection::open(&path).map_err(database)?
        };
        db.busy_timeout(BUSY).map_err(database)?;
        // OFF: a container's state need not survive a power cut, since the container does not, and nothing
        // but the log is written without a sync: it is copied into the database by `checkpoint` alone, which
        // does sync. NORMAL would have the first writer after a checkpoint wait for the disk, to sync the
        // header of a log that was empty. Image commits raise this to FULL for their one transaction.
        // Of two first commands that make the file a log at once, one is refused at once, whatever the time-out.
        let began = std::time::Instant::now();
        loop {
            let set = db.execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; PRAGMA foreign_keys=OFF;",
            );
            match set {
                Err(error)
                    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                        && began.elapsed() < BUSY =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => break other.map_err(database)?,
            }
        }
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(database)?;
        // Without this a statement whose plan might profit from the values of its parameters (`ORDER BY id = ?1`,
        // `LIKE ?1`) is compiled again for each of them: 40 % of what `ps` computed.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(database)?;
        let mut store = Self { layout, db };
        store.migrate()?;
        // After the migration: a table that is replaced would take what refers to it along.
        store.db.execute_batch("PRAGMA foreign_keys=ON").map_err(|source| store.db_error(source))?;
        Ok(store)
    }

    /// Gives back what is kept in memory of the database: for one that stays and has just read all of it, and will
    /// read all of it again when anybody has written.
    pub fn let_go(&self) {
        // Whatever is in use stays.
        let _ = self.db.execute_batch("PRAGMA shrink_memory");
    }

    fn migrate(&mut self) -> Result<(), Error> {
        let path = self.layout.database();
        let database = |source| Error::Database { path: path.clone(), source };
        let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0));
        let known = SCHEMA.len() as u32;
        if version(&self.db).map_err(database)? == known {
            return Ok(());
        }
        // Only the first command on a host pays for these mkdirs; the root itself may well be there, as a
        // mount point or made by an administrator.
        for dir in
            [&self.layout.run_root, &self.layout.layers(), &self.layout.containers(), &self.layout.scratch()]
        {
            make_dir(dir)?;
        }
        // Another command may be migrating at this moment: take the write lock, then look again.
        let tx =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(database)?;
        let found = version(&tx).map_err(database)?;
        if found > known {
            return Err(Error::Newer { path: path.clone(), found, known });
        }
        for ddl in &SCHEMA[found as usize..] {
            tx.execute_batch(ddl).map_err(database)?;
        }
        tx.pragma_update(None, "user_version", known).map_err(database)?;
        tx.commit().map_err(database)
    }

    /// Where things lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The database, for the modules that own tables in it.
    pub fn db(&self) -> &Connection {
        &self.db
    }

    /// The database, for transactions.
    pub fn db_mut(&mut self) -> &mut Connection {
        &mut self.db
    }

    /// Whether a transaction is on the disk when its commit returns, from now on: for what is to be there after a
    /// power cut.
    pub fn sync_commits(&self, yes: bool) -> Result<(), Error> {
        let level = if yes { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=OFF" };
        self.db.execute_batch(level).map_err(|source| self.db_error(source))
    }

    /// Until the value is dropped, all reads see one state of the database. Each statement outside of this
    /// takes and releases the database's locks, which is most of what a short one costs.
    pub fn read(&self) -> Result<rusqlite::Transaction<'_>, Error> {
        self.db.unchecked_transaction().map_err(|source| self.db_error(source))
    }

    /// Gives a rusqlite error the database's path.
    pub fn db_error(&self, source: rusqlite::Error) -> Error {
        Error::Database { path: self.layout.database(), source }
    }

    /// Copies the write-ahead log into the database when it has grown, so that the next command that
    /// finds nobody else at the database need not read it through: SQLite rebuilds its index of the log
    /// at the first open, frame by frame. This costs two fsyncs, so it is for moments when nobody waits:
    /// a monitor calls it after its last word, a long command at its end.
    pub fn checkpoint(&self) {
        self.checkpoint_above(CHECKPOINT_ABOVE);
    }

    fn checkpoint_above(&self, length: u64) {
        let mut log = self.layout.database().into_os_string();
        log.push("-wal");
        if fs::metadata(&log).is_ok_and(|log| log.len() > length) {
            // A busy database is checkpointed by whoever is busy with it: this must not wait for them, nor
            // make them wait. TRUNCATE, because the frames of a log that was only copied stay valid, and
            // are read through again at each first open until a writer happens to start the log anew.
            let _ = self.db.busy_timeout(Duration::ZERO);
            // The log is synced before its pages reach the database, and the database before the log goes.
            if self.db.execute_batch("PRAGMA synchronous=NORMAL").is_ok() {
                let _ = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            }
            let _ = self.db.execute_batch("PRAGMA synchronous=OFF");
            let _ = self.db.busy_timeout(BUSY);
        }
    }

    /// A new scratch directory, held by a lock until it is dropped or kept.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        Scratch::create(&self.layout.scratch())
    }

    /// Takes a directory of this store away, which is removed when the value is dropped; see [`Scratch`].
    pub fn take_away(&self, dir: &Path) -> Result<Option<Scratch>, Error> {
        Scratch::take(&self.layout.scratch(), dir)
    }

    /// Removes scratch directories whose owners are gone, and returns those that it could not remove. Cheap when
    /// there are none: one `getdents`.
    pub fn sweep_scratch(&self) -> Result<Vec<Left>, Error> {
        self.sweep_scratch_after(|| ())
    }

    /// The same; `before` is called when there is such a directory, before the first of them goes.
    pub fn sweep_scratch_after(&self, before: impl FnOnce()) -> Result<Vec<Left>, Error> {
        scratch::sweep(&self.layout.scratch(), before)
    }
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).at("mkdir", dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &Path) -> Layout {
        Layout { root: dir.join("root"), run_root: dir.join("run") }
    }

    #[test]
    fn a_store_opens_twice_at_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let first = Store::open(layout(dir.path())).expect("first");
        let second = Store::open(layout(dir.path())).expect("second");
        for store in [first, second] {
            let version: u32 =
                store.db().query_row("PRAGMA user_version", [], |r| r.get(0)).expect("version");
            assert_eq!(version as usize, SCHEMA.len());
        }
    }

    #[test]
    fn a_root_that_is_there_already_is_filled() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = layout(dir.path());
        fs::create_dir(&layout.root).expect("mkdir");
        Store::open(layout.clone()).expect("open").scratch().expect("scratch");
        assert!(layout.layers().is_dir() && layout.containers().is_dir());
    }

    #[test]
    fn what_an_older_database_holds_is_kept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = layout(dir.path());
        fs::create_dir(&layout.root).expect("mkdir");
        let old = Connection::open(layout.database()).expect("open");
        for ddl in &SCHEMA[..SCHEMA.len() - 1] {
            old.execute_batch(ddl).expect("schema");
        }
        let row = "INSERT INTO container (id, name, image, created, record, state) VALUES ('a', 'n', NULL, 'c', 'r', 's')";
        old.execute(row, []).expect("insert");
        old.pragma_update(None, "user_version", SCHEMA.len() as u32 - 1).expect("version");
        drop(old);
        let store = Store::open(layout).expect("migrated");
        let kept: (String, String) = store
            .db()
            .query_row("SELECT state, record FROM container WHERE id = 'a'", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .expect("kept");
        assert_eq!(kept, ("s".to_owned(), "r".to_owned()));
        let on: bool = store.db().query_row("PRAGMA foreign_keys", [], |row| row.get(0)).expect("pragma");
        assert!(on);
    }

    #[test]
    fn a_newer_database_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(layout(dir.path())).expect("open");
        store.db().pragma_update(None, "user_version", 9999).expect("pragma");
        drop(store);
        let error = Store::open(layout(dir.path())).expect_err("newer");
        assert!(matches!(error, Error::Newer { found: 9999, .. }), "{error}");
    }

    #[test]
    fn an_abandoned_scratch_is_swept_and_a_held_one_is_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(layout(dir.path())).expect("open");
        let held = store.scratch().expect("held");
        let abandoned = store.layout().scratch().join("abandoned");
        fs::create_dir_all(abandoned.join("a/b")).expect("mkdir");
        assert!(store.sweep_scratch().expect("sweep").is_empty());
        assert!(!abandoned.exists());
        assert!(held.path().exists());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_cannot_be_removed_is_told_and_not_in_the_way() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(layout(dir.path())).expect("open");
        let [stuck, other] = ["stuck", "other"].map(|name| store.layout().scratch().join(name));
        fs::create_dir_all(stuck.join("mounted")).expect("mkdir");
        fs::create_dir_all(&other).expect("mkdir");
        let (at, flags) = (stuck.join("mounted"), nix::mount::MsFlags::empty());
        nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), flags, None::<&str>).expect("mount");
        let swept = store.sweep_scratch();
        nix::mount::umount(&at).expect("umount");
        let left = swept.expect("sweep");
        assert_eq!(left.iter().map(|left| &left.path).collect::<Vec<_>>(), [&stuck]);
        assert!(left[0].error.to_string().contains("Device or resource busy"), "{}", left[0].error);
        assert!(!other.exists());
        assert!(store.sweep_scratch().expect("sweep").is_empty() && !stuck.exists());
    }
}
