//! Volumes: directories with a name that outlive the containers they are mounted in.
//!
//! A volume is a row and a directory, `volumes/NAME/_data`. There is no daemon that could count who uses it, so
//! the count is a relation: `volume_user` names every container that has it mounted, whether it runs or not, in
//! the transaction that records the container, and a foreign key keeps a used volume from being removed, whoever
//! races whom. Creating and removing happen in one write transaction each, inside which the directory is made or
//! renamed away, so that whoever holds the write lock sees rows and directories agree.
//!
//! *What a kill leaves.* Between the change of a directory and the commit lies an instant in which they do not
//! agree. Whoever is about to be in that instant holds a [`Scratch`], empty and only there
//! to be found: the next command sweeps scratch directories anyway, finds one that nobody holds, and only then
//! looks at volumes ([`sweep`]). A host on which nothing was killed never pays for that. What the sweep finds it
//! settles without ever deleting data that nobody asked it to: a directory without a row is removed if it is empty
//! and adopted if it is not, a row without a directory is forgotten, what was on its way out goes.
//!
//! *What is copied.* An empty volume gets what the image has at the place it is mounted on ([`fill`]); that is a
//! copy of any length, and one that was cut short must not be taken for a whole one.
//!
//! *What is mounted.* A volume made with options of `mount(8)` is mounted for as long as a container that uses it
//! runs ([`mounted`]). It is the only mount that Bulkhead ever makes on the host, since two containers that share
//! a tmpfs must share one.

pub(crate) mod fill;
pub(crate) mod mounted;
#[cfg(test)]
mod tests;
pub mod view;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension as _, Row, Transaction, TransactionBehavior};

use crate::events::{Event, Kind};
use crate::layer;
use crate::store::{Layout, Scratch, Store};

/// The label of a volume that nobody gave a name. Docker's.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// The only driver there is.
pub const DRIVER: &str = "local";

/// The directory that is mounted, in the volume's own.
const DATA: &str = "_data";

/// What the name of a volume's directory begins with that is on its way out. No volume's name begins like it.
const GONE: &str = ".gone-";

/// What can go wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No volume has that name.
    #[error("get {0}: no such volume")]
    NotFound(String),
    /// A name of one character.
    #[error("create {0}: volume name is too short, names should be at least two alphanumeric characters")]
    ShortName(String),
    /// A name that is none.
    #[error(
        "create {0}: {0:?} includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    Name(String),
    /// A driver other than `local`.
    #[error("create {name}: error looking up volume plugin {driver}: plugin {driver:?} not found")]
    Driver {
        /// The volume.
        name: String,
        /// The driver asked for.
        driver: String,
    },
    /// An option that the driver does not know.
    #[error("create {name}: invalid option: {option:?}")]
    Option {
        /// The volume.
        name: String,
        /// The option.
        option: String,
    },
    /// An option that does not go without another.
    #[error("create {name}: missing required option: {option:?}")]
    MissingOption {
        /// The volume.
        name: String,
        /// The one that is missing.
        option: &'static str,
    },
    /// A limit of size, which takes a file system with project quotas.
    #[error("create {0}: quota size requested but no quota support")]
    Quota(String),
    /// Containers use it.
    #[error("remove {name}: volume is in use - [{}]", containers.join(", "))]
    InUse {
        /// The volume.
        name: String,
        /// The ids of the containers.
        containers: Vec<String>,
    },
    /// Somebody has mounted something in it, which must not be deleted with it.
    #[error("remove {name}: {} is a mount point: unmount it first", path.display())]
    MountedInside {
        /// The volume.
        name: String,
        /// Where.
        path: PathBuf,
    },
    /// What its options ask for could not be mounted.
    #[error(
        "error while mounting volume '{}': failed to mount local volume: mount {device}:{}, type: {kind}, data: {data}: {why}",
        path.display(), path.display()
    )]
    Mount {
        /// The device asked for.
        device: String,
        /// Where it was to be mounted.
        path: PathBuf,
        /// The file system asked for.
        kind: String,
        /// Its options.
        data: String,
        /// The kernel's words.
        why: String,
    },
    /// A file operation failed.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The operation, in the kernel's words.
        call: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The options or labels in the database are not readable.
    #[error("record of volume {name}: {source}")]
    Record {
        /// The volume.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The image's files could not be read, or not be written.
    #[error(transparent)]
    Copy(#[from] layer::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// Adds the failing call and path to an I/O result.
trait At<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { call, path: path.to_owned(), source })
    }
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|errno| Error::Io { call, path: path.to_owned(), source: errno.into() })
    }
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// RFC 3339.
    pub created: String,
    /// `type`, `device` and `o`, where something is to be mounted.
    pub options: BTreeMap<String, String>,
    /// What the user said about it.
    pub labels: BTreeMap<String, String>,
}

impl Volume {
    /// Its directory.
    pub(crate) fn dir(&self, layout: &Layout) -> PathBuf {
        layout.volumes().join(&self.name)
    }

    /// The directory that is mounted.
    pub fn mountpoint(&self, layout: &Layout) -> PathBuf {
        mountpoint(layout, &self.name)
    }

    /// Nobody gave it a name.
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }

    /// An event of this moment.
    pub(crate) fn event(&self, action: &str) -> Event {
        Event::new(Kind::Volume, action, &self.name).with("driver", DRIVER)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Result<Self, Error>> {
        let (name, created): (String, String) = (row.get(0)?, row.get(1)?);
        let (options, labels): (String, String) = (row.get(2)?, row.get(3)?);
        let parse = || Ok((serde_json::from_str(&options)?, serde_json::from_str(&labels)?));
        Ok(match parse() {
            Ok((options, labels)) => Ok(Self { name, created, options, labels }),
            Err(source) => Err(Error::Record { name, source }),
        })
    }
}

/// What to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// `local`, or nothing.
    pub driver: String,
    /// `type`, `device` and `o`.
    pub options: BTreeMap<String, String>,
    /// What the user says about it.
    pub labels: BTreeMap<String, String>,
}

impl NewVolume {
    /// A volume that nobody gave a name.
    pub fn anonymous() -> Result<Self, Error> {
        let mut bytes = [0_u8; 32];
        // SAFETY: the pointer and length describe `bytes`.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        // Up to 256 bytes come whole or not at all.
        if usize::try_from(got) != Ok(bytes.len()) {
            return Err(io::Error::last_os_error()).at("getrandom", Path::new("name"));
        }
        let name = crate::digest::Digest::from_bytes(bytes).hex();
        Ok(Self { name, labels: anonymous_labels(), ..Self::default() })
    }

    /// Refuses what Docker's local driver refuses.
    pub fn check(&self) -> Result<(), Error> {
        check_name(&self.name)?;
        let name = || self.name.clone();
        if !matches!(self.driver.as_str(), "" | DRIVER) {
            return Err(Error::Driver { name: name(), driver: self.driver.clone() });
        }
        if let Some(option) =
            self.options.keys().find(|key| !matches!(key.as_str(), "type" | "o" | "device" | "size"))
        {
            return Err(Error::Option { name: name(), option: option.clone() });
        }
        if self.options.contains_key("size") {
            return Err(Error::Quota(name()));
        }
        for (option, needs) in
            [("device", &["type"][..]), ("type", &["device"][..]), ("o", &["device", "type"][..])]
        {
            let missing = needs.iter().find(|needed| !self.options.contains_key(**needed));
            if let (true, Some(option)) = (self.options.contains_key(option), missing) {
                return Err(Error::MissingOption { name: name(), option });
            }
        }
        Ok(())
    }
}

/// The labels of a volume that nobody gave a name.
pub(crate) fn anonymous_labels() -> BTreeMap<String, String> {
    [(ANONYMOUS.to_owned(), String::new())].into()
}

/// Docker's rule for the names of volumes.
pub fn check_name(name: &str) -> Result<(), Error> {
    if name.len() == 1 {
        return Err(Error::ShortName(name.to_owned()));
    }
    let good = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if good { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}

/// Where a volume's data is.
pub(crate) fn mountpoint(layout: &Layout, name: &str) -> PathBuf {
    layout.volumes().join(name).join(DATA)
}

/// The write lock, until the value is committed or dropped. Rows and directories agree when it is taken.
pub(crate) fn write(store: &Store) -> Result<Transaction<'_>, Error> {
    Transaction::new_unchecked(store.db(), TransactionBehavior::Immediate)
        .map_err(|source| store.db_error(source).into())
}

pub(crate) fn commit(store: &Store, tx: Transaction<'_>) -> Result<(), Error> {
    tx.commit().map_err(|source| store.db_error(source).into())
}

const COLUMNS: &str = "SELECT name, created, options, labels FROM volume";

/// The row of that name, whatever is on the disk.
fn row(store: &Store, name: &str) -> Result<Option<Volume>, Error> {
    store
        .db()
        .prepare_cached(&format!("{COLUMNS} WHERE name = ?1"))
        .and_then(|mut statement| statement.query_row([name], Volume::read).optional())
        .map_err(|source| store.db_error(source))?
        .transpose()
}

/// Finds a volume by its name.
pub fn find(store: &Store, name: &str) -> Result<Volume, Error> {
    row(store, name)?.ok_or_else(|| Error::NotFound(name.to_owned()))
}

/// Every volume, by name.
pub fn list(store: &Store) -> Result<Vec<Volume>, Error> {
    let rows = || -> rusqlite::Result<Vec<Result<Volume, Error>>> {
        let mut statement = store.db().prepare_cached(&format!("{COLUMNS} ORDER BY name"))?;
        statement.query_map([], Volume::read)?.collect()
    };
    rows().map_err(|source| store.db_error(source))?.into_iter().collect()
}

/// The ids of the containers that have it mounted, running or not.
pub fn users(store: &Store, name: &str) -> Result<Vec<String>, Error> {
    let rows = || -> rusqlite::Result<Vec<String>> {
        let mut statement = store
            .db()
            .prepare_cached("SELECT container FROM volume_user WHERE volume = ?1 ORDER BY container")?;
        statement.query_map([name], |row| row.get(0))?.collect()
    };
    rows().map_err(|source| store.db_error(source).into())
}

/// The names of all volumes that a container has mounted.
pub fn used(store: &Store) -> Result<HashSet<String>, Error> {
    let rows = || -> rusqlite::Result<HashSet<String>> {
        let mut statement = store.db().prepare_cached("SELECT DISTINCT volume FROM volume_user")?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    rows().map_err(|source| store.db_error(source).into())
}

/// Notes that a container has a volume mounted. `unfilled` says that the image's files are still to be copied.
pub(crate) fn add_user(store: &Store, name: &str, container: &str, unfilled: bool) -> Result<(), Error> {
    store
        .db()
        .prepare_cached(
            "INSERT INTO volume_user (volume, container, unfilled) VALUES (?1, ?2, ?3)
             ON CONFLICT (volume, container) DO UPDATE SET unfilled = unfilled OR excluded.unfilled",
        )
        .and_then(|mut statement| statement.execute((name, container, unfilled)))
        .map(drop)
        .map_err(|source| store.db_error(source).into())
}

/// Whether a container waits for its image's files in a volume.
pub(crate) fn is_unfilled(store: &Store, name: &str, container: &str) -> Result<bool, Error> {
    store
        .db()
        .prepare_cached("SELECT unfilled FROM volume_user WHERE volume = ?1 AND container = ?2")
        .and_then(|mut statement| statement.query_row((name, container), |row| row.get(0)).optional())
        .map(|unfilled| unfilled.unwrap_or(false))
        .map_err(|source| store.db_error(source).into())
}

/// It waits no longer.
pub(crate) fn set_filled(store: &Store, name: &str, container: &str) -> Result<(), Error> {
    store
        .db()
        .prepare_cached("UPDATE volume_user SET unfilled = 0 WHERE volume = ?1 AND container = ?2")
        .and_then(|mut statement| statement.execute((name, container)))
        .map(drop)
        .map_err(|source| store.db_error(source).into())
}

/// Forgets that a container has a volume mounted.
pub(crate) fn drop_user(store: &Store, name: &str, container: &str) -> Result<(), Error> {
    store
        .db()
        .prepare_cached("DELETE FROM volume_user WHERE volume = ?1 AND container = ?2")
        .and_then(|mut statement| statement.execute((name, container)))
        .map(drop)
        .map_err(|source| store.db_error(source).into())
}

fn make_dir(path: &Path, mode: u32) -> Result<bool, Error> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).at("mkdir", path),
    }
}

/// Makes the directories of a volume, what is missing of them.
pub(crate) fn make_dirs(layout: &Layout, name: &str) -> Result<(), Error> {
    let dir = layout.volumes().join(name);
    match make_dir(&dir, 0o700) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            make_dir(&layout.volumes(), 0o700)?;
            make_dir(&dir, 0o700)?;
        }
        other => drop(other?),
    }
    let data = dir.join(DATA);
    if make_dir(&data, 0o755)? {
        // Whatever the umask was.
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).at("chmod", &data)?;
    }
    Ok(())
}

/// Takes the directories of a volume away again if they are empty.
fn unmake_dirs(layout: &Layout, name: &str) -> bool {
    let dir = layout.volumes().join(name);
    let empty = |path: &Path| match fs::remove_dir(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    empty(&dir.join(DATA)) && {
        let _ = fs::remove_file(dir.join(mounted::LOCK));
        empty(&dir)
    }
}

/// Volumes that a transaction makes: their directories go again unless it is committed.
#[derive(Debug)]
pub(crate) struct Making<'s> {
    store: &'s Store,
    made: Vec<Volume>,
    /// Tells the next command to look, should this one be killed.
    _mark: Scratch,
}

impl<'s> Making<'s> {
    /// To be called before the write lock is taken.
    pub fn new(store: &'s Store) -> Result<Self, Error> {
        Ok(Self { store, made: Vec::new(), _mark: store.scratch()? })
    }

    /// The volume of that name, made if there is none. The caller holds the write lock. As in Docker, one that is
    /// there already stays what it is, whatever options and labels are asked for now.
    pub fn ensure(&mut self, new: &NewVolume) -> Result<Volume, Error> {
        let (store, layout) = (self.store, self.store.layout());
        if let Some(found) = row(store, &new.name)? {
            // A row without a directory is what a killed removal leaves, unless somebody uses it.
            if found.mountpoint(layout).exists() || !users(store, &new.name)?.is_empty() {
                make_dirs(layout, &new.name)?;
                return Ok(found);
            }
            forget(store, &new.name)?;
        }
        new.check()?;
        let volume = Volume {
            name: new.name.clone(),
            created: jiff::Timestamp::now().to_string(),
            options: new.options.clone(),
            labels: new.labels.clone(),
        };
        make_dirs(layout, &volume.name)?;
        self.made.push(volume.clone());
        insert(store, &volume)?;
        Ok(volume)
    }

    /// The transaction has been committed.
    pub fn done(mut self) {
        for volume in self.made.drain(..) {
            volume.event("create").tell(self.store.layout());
        }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if self.made.is_empty() {
            return;
        }
        // Somebody may have made the same volume since our transaction was rolled back.
        let Ok(_tx) = write(self.store) else { return };
        for volume in &self.made {
            if matches!(row(self.store, &volume.name), Ok(None)) {
                unmake_dirs(self.store.layout(), &volume.name);
            }
        }
    }
}

fn insert(store: &Store, volume: &Volume) -> Result<(), Error> {
    let json = |map: &BTreeMap<String, String>| {
        serde_json::to_string(map).map_err(|source| Error::Record { name: volume.name.clone(), source })
    };
    let (options, labels) = (json(&volume.options)?, json(&volume.labels)?);
    store
        .db()
        .prepare_cached("INSERT INTO volume (name, created, options, labels) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut statement| statement.execute((&volume.name, &volume.created, options, labels)))
        .map(drop)
        .map_err(|source| store.db_error(source).into())
}

fn forget(store: &Store, name: &str) -> Result<(), Error> {
    store
        .db()
        .prepare_cached("DELETE FROM volume WHERE name = ?1")
        .and_then(|mut statement| statement.execute([name]))
        .map(drop)
        .map_err(|source| store.db_error(source).into())
}

/// Makes a volume, or finds the one that has the name.
pub fn create(store: &Store, new: &NewVolume) -> Result<Volume, Error> {
    new.check()?;
    let mut making = Making::new(store)?;
    // Unlike a container, a volume is to be there after a power cut.
    store.sync_commits(true)?;
    let made = write(store).and_then(|tx| {
        let volume = making.ensure(new)?;
        for dir in [volume.dir(store.layout()), store.layout().volumes()] {
            fs::File::open(&dir).and_then(|dir| dir.sync_all()).at("fsync", &dir)?;
        }
        commit(store, tx)?;
        Ok(volume)
    });
    store.sync_commits(false)?;
    let made = made?;
    making.done();
    Ok(made)
}

/// Directories on their way out; they go when this is dropped, and at the next command if that is killed.
#[derive(Debug)]
pub(crate) struct Going {
    dirs: Vec<PathBuf>,
    gone: Vec<Volume>,
    layout: Layout,
    mark: Scratch,
}

impl Going {
    /// To be called before the write lock is taken.
    pub fn new(store: &Store) -> Result<Self, Error> {
        let mark = store.scratch()?;
        Ok(Self { dirs: Vec::new(), gone: Vec::new(), layout: store.layout().clone(), mark })
    }

    /// Takes a volume away. The caller holds the write lock, and commits.
    pub fn take(&mut self, store: &Store, volume: &Volume) -> Result<(), Error> {
        let containers = users(store, &volume.name)?;
        if !containers.is_empty() {
            return Err(Error::InUse { name: volume.name.clone(), containers });
        }
        let dir = volume.dir(&self.layout);
        if !volume.options.is_empty() {
            // Left by a monitor that was killed. Nobody can be using it: see above.
            mounted::release(&dir)?;
        }
        // Deleting a tree would go on into whatever is mounted in it.
        if let Some(path) = mounted::below(&dir)?.into_iter().next() {
            return Err(Error::MountedInside { name: volume.name.clone(), path });
        }
        forget(store, &volume.name)?;
        let own = self.mark.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = self.layout.volumes().join(format!("{GONE}{own}-{}", self.dirs.len()));
        match fs::rename(&dir, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => {
                other.at("rename", &dir)?;
                self.dirs.push(to);
            }
        }
        self.gone.push(volume.clone());
        Ok(())
    }

    /// The transaction has been committed: deletes what was taken.
    pub fn done(mut self) -> Result<(), Error> {
        for volume in self.gone.drain(..) {
            volume.event("destroy").tell(&self.layout);
        }
        self.dirs.drain(..).try_for_each(|dir| delete(&dir))
    }
}

/// A sweep may be at the same directory.
fn delete(dir: &Path) -> Result<(), Error> {
    match crate::store::remove_tree(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", dir),
    }
}

/// Removes a volume that no container has mounted.
pub fn remove(store: &Store, name: &str) -> Result<(), Error> {
    let mut going = Going::new(store)?;
    let tx = write(store)?;
    let volume = find(store, name)?;
    going.take(store, &volume)?;
    commit(store, tx)?;
    going.done()
}

/// Removes the volumes that no container has mounted and that are `doomed`. Returns their names and the bytes
/// they took.
pub fn prune(store: &Store, mut doomed: impl FnMut(&Volume) -> bool) -> Result<(Vec<String>, u64), Error> {
    let (mut names, mut freed) = (Vec::new(), 0);
    let used = used(store)?;
    for volume in list(store)? {
        if used.contains(&volume.name) || !doomed(&volume) {
            continue;
        }
        let bytes = size(store, &volume)?;
        match remove(store, &volume.name) {
            Ok(()) => {
                freed += bytes;
                names.push(volume.name);
            }
            // Taken or removed by somebody else meanwhile.
            Err(Error::InUse { .. } | Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((names, freed))
}

/// Bytes of a volume's files. Of one with options none: what is mounted there is not the store's.
pub fn size(store: &Store, volume: &Volume) -> Result<u64, Error> {
    let data = volume.mountpoint(store.layout());
    if !volume.options.is_empty() || !data.exists() {
        return Ok(0);
    }
    Ok(layer::disk_usage(&data)?.bytes)
}

/// What is in `volumes/`: the names of volumes, and directories on their way out.
fn on_disk(layout: &Layout) -> Result<(HashSet<String>, Vec<PathBuf>), Error> {
    let root = layout.volumes();
    let (mut names, mut gone) = (HashSet::new(), Vec::new());
    let entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((names, gone)),
        other => other.at("opendir", &root)?,
    };
    for entry in entries {
        let entry = entry.at("readdir", &root)?;
        // What is not UTF-8 is not ours.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(GONE) {
            gone.push(entry.path());
        } else if check_name(&name).is_ok() {
            names.insert(name);
        }
    }
    Ok((names, gone))
}

/// Settles what killed commands, or a power cut, left of volumes.
pub fn sweep(store: &Store) -> Result<(), Error> {
    let layout = store.layout();
    let agree = |names: &HashSet<String>, rows: &[Volume]| {
        names.len() == rows.len() && rows.iter().all(|volume| names.contains(&volume.name))
    };
    let (names, mut gone) = on_disk(layout)?;
    if !agree(&names, &list(store)?) {
        // Or somebody is in the middle of it: look again when nobody can be.
        let tx = write(store)?;
        let (names, again) = on_disk(layout)?;
        gone = again;
        let rows = list(store)?;
        let known: HashSet<&str> = rows.iter().map(|volume| volume.name.as_str()).collect();
        for name in names.iter().filter(|name| !known.contains(name.as_str())) {
            fill::resume(&layout.volumes().join(name))?;
            if !unmake_dirs(layout, name) && mountpoint(layout, name).is_dir() {
                adopt(store, name)?;
            }
        }
        for volume in rows.iter().filter(|volume| !names.contains(&volume.name)) {
            if users(store, &volume.name)?.is_empty() {
                forget(store, &volume.name)?;
            } else {
                make_dirs(layout, &volume.name)?;
            }
        }
        commit(store, tx)?;
    }
    for dir in gone {
        delete(&dir)?;
    }
    for volume in list(store)? {
        let dir = volume.dir(layout);
        if !volume.options.is_empty() {
            mounted::release(&dir)?;
        }
        fill::resume(&dir)?;
    }
    Ok(())
}

/// Gives data that has no row one: its own was written down and lost with the power, or somebody put it there.
fn adopt(store: &Store, name: &str) -> Result<(), Error> {
    let dir = store.layout().volumes().join(name);
    let made = fs::metadata(&dir).and_then(|meta| meta.modified()).at("stat", &dir)?;
    let created = jiff::Timestamp::try_from(made).unwrap_or_else(|_| jiff::Timestamp::now()).to_string();
    let is_random = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let labels = if is_random { anonymous_labels() } else { BTreeMap::new() };
    insert(store, &Volume { name: name.to_owned(), created, options: BTreeMap::new(), labels })
}
