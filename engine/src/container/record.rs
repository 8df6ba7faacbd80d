//! What is known of a container: what was asked for, and what became of it.
//!
//! The two change at different rates and by different hands, so they are two JSON columns: the
//! [`Record`] is written at creation and by `update` and `rename`, the [`State`] by the monitor and
//! the verbs. Both serialise to the names Docker's `inspect` uses, so that a template written for
//! Docker finds its fields.

use std::path::PathBuf;

use rusqlite::OptionalExtension as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::{Config, HostConfig, MountPoint, RestartPolicy, implied, storing};
use crate::digest::{ChainId, Digest};
use crate::events::{Event, Kind};
use crate::store::{Layout, Store};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    #[default]
    Created,
    /// Its process 1 runs.
    Running,
    /// Frozen.
    Paused,
    /// Between two runs of its restart policy.
    Restarting,
    /// Being removed; a command that finds this finishes the removal.
    Removing,
    /// Ended.
    Exited,
}

impl Status {
    /// Docker's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
        }
    }

    /// A monitor must be alive for this to be true.
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// Docker's zero time, shown for a moment that has not come.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// Killed by the kernel for memory, in its last run.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Process 1 as the host numbers it; 0 when it does not run.
    pub pid: i32,
    /// The code of the last exit, 128 + signal when killed.
    pub exit_code: i32,
    /// Why the last start failed.
    pub error: String,
    /// RFC 3339 with nanoseconds.
    pub started_at: String,
    /// RFC 3339 with nanoseconds.
    pub finished_at: String,
    /// Restarts by the policy since somebody started it.
    pub restart_count: u32,
    /// Stopped by a user; the restart policy rests.
    pub stopped_by_user: bool,
    /// It is being removed, and its volumes that nobody named with it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remove_volumes: bool,
    /// The answer to the health checks, when there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Processes that the kernel killed for memory in this container's life.
    pub oom_kills: u64,
    /// Nanoseconds that the last start took, until process 1 was the container's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_took: Option<u64>,
    /// What the last run that was killed for memory had; `None` without one.
    #[serde(rename = "OOM", skip_serializing_if = "Option::is_none")]
    pub oom: Option<OutOfMemory>,
}

impl State {
    /// Whether process 1 ever executed its program.
    pub fn has_run(&self) -> bool {
        self.started_at != ZERO_TIME
    }

    /// Whether a policy wants another run right after one that ended with this exit code.
    pub fn is_to_run_again(&self, policy: &RestartPolicy) -> bool {
        !self.stopped_by_user
            && match policy.name.as_str() {
                "" | "no" => false,
                "on-failure" => {
                    let limit = policy.maximum_retry_count;
                    self.exit_code != 0 && (limit == 0 || self.restart_count < limit)
                }
                _ => true,
            }
    }

    /// Whether a policy wants it to run after a start of the host: `always` forgets who stopped it.
    pub fn is_owed_a_run(&self, policy: &RestartPolicy) -> bool {
        policy.name == "always" || self.is_to_run_again(policy)
    }
}

/// The cgroup's own words on a kill for memory, read before it is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct OutOfMemory {
    /// Processes killed in that run.
    pub kills: u64,
    /// Bytes allowed, the parents' limits included on v1; `None` without a limit: the host ran out.
    pub limit: Option<u64>,
    /// The most bytes ever charged, which is what was charged when the limit was hit; `None` on v2 before
    /// Linux 5.19.
    pub usage: Option<u64>,
    /// The last process killed; `None` when the kernel's log no longer tells.
    pub victim: Option<crate::cgroup::Victim>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            status: Status::Created,
            oom_killed: false,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            started_at: ZERO_TIME.into(),
            finished_at: ZERO_TIME.into(),
            restart_count: 0,
            stopped_by_user: false,
            remove_volumes: false,
            health: None,
            oom_kills: 0,
            start_took: None,
            oom: None,
        }
    }
}

/// The answer to a container's health checks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last five probes, oldest first.
    pub log: Vec<Probe>,
}

/// One run of a health check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Probe {
    /// RFC 3339.
    pub start: String,
    /// RFC 3339.
    pub end: String,
    /// 0 is healthy.
    pub exit_code: i32,
    /// What it printed, at most 4 KiB.
    pub output: String,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Record {
    /// The program.
    #[serde(skip_serializing_if = "implied")]
    pub path: String,
    /// Its arguments.
    #[serde(skip_serializing_if = "implied")]
    pub args: Vec<String>,
    /// The image half.
    #[serde(skip_serializing_if = "implied")]
    pub config: Config,
    /// The host half.
    #[serde(skip_serializing_if = "implied")]
    pub host_config: HostConfig,
    /// What is asked of each network.
    #[serde(skip_serializing_if = "implied")]
    pub networking: crate::config::NetworkingConfig,
    /// The layers below the writable one, lowest first.
    #[serde(skip_serializing_if = "implied")]
    pub chain: Vec<ChainId>,
    /// The mounts that binds and volumes became.
    #[serde(skip_serializing_if = "implied")]
    pub mounts: Vec<MountPoint>,
    /// Made by `run --rm`: if its maker dies before the start, nobody else will ever start it.
    #[serde(skip_serializing_if = "implied")]
    pub ephemeral: bool,
    /// The cgroup the container's own lies in.
    #[serde(skip_serializing_if = "implied")]
    pub cgroup_parent: String,
    /// `linux`.
    #[serde(skip_serializing_if = "implied")]
    pub platform: String,
}

/// One container.
#[derive(Debug, Clone)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique, without Docker's leading slash.
    pub name: String,
    /// The image's id.
    pub image: Option<Digest>,
    /// RFC 3339 with nanoseconds.
    pub created: String,
    /// What was asked for. Five kilobytes of mostly empty fields, which a list of many would move about.
    pub record: Box<Record>,
    /// What became of it.
    pub state: State,
}

impl Container {
    /// An event of this moment, with what Docker tells of a container each time.
    pub fn event(&self, action: impl Into<String>) -> Event {
        let config = &self.record.config;
        let mut event = Event::new(Kind::Container, action, &self.id);
        event.attributes.extend(config.labels.iter().map(|(k, v)| (k.clone(), v.clone())));
        event.attributes.insert("image".to_owned(), config.image.clone());
        event.attributes.insert("name".to_owned(), self.name.clone());
        event
    }

    /// The 12 digits that people see.
    pub fn short_id(&self) -> &str {
        &self.id[..12.min(self.id.len())]
    }

    /// `containers/<id>` below the root.
    pub fn dir(&self, layout: &Layout) -> PathBuf {
        layout.containers().join(&self.id)
    }

    /// The log file.
    pub fn log_path(&self, layout: &Layout) -> PathBuf {
        self.dir(layout).join("log.json")
    }

    /// The attach socket.
    pub fn socket(&self, layout: &Layout) -> PathBuf {
        layout.run(&self.id).join("attach.sock")
    }

    fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Self, Error>> {
        let id: String = row.get(0)?;
        let (record, state): (String, String) = (row.get(4)?, row.get(5)?);
        let name = row.get(1)?;
        let image: Option<String> = row.get(2)?;
        let created = row.get(3)?;
        let parse = || -> Result<(Box<Record>, State), serde_json::Error> {
            Ok((serde_json::from_str(&record)?, serde_json::from_str(&state)?))
        };
        Ok(match parse() {
            Ok((record, state)) => {
                let image = image.and_then(|text| text.parse().ok());
                Ok(Self { id, name, image, created, record, state })
            }
            Err(source) => Err(Error::Record { id, source }),
        })
    }
}

const COLUMNS: &str = "SELECT id, name, image, created, record, state FROM container";

fn query(store: &Store, tail: &str, params: impl rusqlite::Params) -> Result<Vec<Container>, Error> {
    let run = || -> rusqlite::Result<Vec<Result<Container, Error>>> {
        let mut statement = store.db().prepare_cached(&format!("{COLUMNS} {tail}"))?;
        statement.query_map(params, Container::from_row)?.collect()
    };
    run().map_err(|e| store.db_error(e))?.into_iter().collect()
}

/// Every container, the newest first.
pub fn list(store: &Store) -> Result<Vec<Container>, Error> {
    let mut all = query(store, "", [])?;
    all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    Ok(all)
}

/// What a recovery looks at of every container.
#[derive(Debug)]
pub(super) struct Standing {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Where the row says it is in its life; `None` when that cannot be read.
    pub status: Option<Status>,
}

/// Every container's id and status. Reads neither configurations nor, with the columns in the order they
/// are in, the pages that hold these: every command pays for this.
pub(super) fn standings(store: &Store) -> Result<Vec<Standing>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Brief {
        status: Status,
    }
    let rows = || -> rusqlite::Result<Vec<(String, String)>> {
        let mut statement = store.db().prepare_cached("SELECT id, state FROM container")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let standing = |(id, state): (String, String)| Standing {
        id,
        status: serde_json::from_str::<Brief>(&state).ok().map(|brief| brief.status),
    };
    Ok(rows().map_err(|e| store.db_error(e))?.into_iter().map(standing).collect())
}

/// Finds a container by full id, name or unique prefix of its id, in Docker's order of preference.
pub fn find(store: &Store, name: &str) -> Result<Container, Error> {
    let wanted = name.strip_prefix('/').unwrap_or(name);
    if wanted.is_empty() {
        return Err(Error::NoSuchContainer(name.to_owned()));
    }
    if let Some(found) =
        query(store, "WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC", [wanted])?.into_iter().next()
    {
        return Ok(found);
    }
    if !wanted.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
        return Err(Error::NoSuchContainer(name.to_owned()));
    }
    // An id is lower-case hexadecimal, so the prefix `p` covers exactly the range [p, p + 'g').
    let mut found = query(store, "WHERE id >= ?1 AND id < ?1 || 'g' LIMIT 2", [wanted])?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::NoSuchContainer(name.to_owned())),
        _ => Err(Error::AmbiguousPrefix(name.to_owned())),
    }
}

/// The name and the image of a container that was removed, if it is among the last thousand.
pub fn gone(store: &Store, id: &str) -> Result<Option<(String, String)>, Error> {
    store
        .db()
        .prepare_cached("SELECT name, image FROM gone WHERE id = ?1 ORDER BY n DESC LIMIT 1")
        .and_then(|mut statement| statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional())
        .map_err(|e| store.db_error(e).into())
}

fn json<T: Serialize>(id: &str, value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|source| Error::Record { id: id.to_owned(), source })
}

/// Records a new container; fails when the name is taken.
pub fn insert(store: &Store, container: &Container) -> Result<(), Error> {
    let record = storing(|| json(&container.id, &container.record))?;
    let state = json(&container.id, &container.state)?;
    let inserted = store
        .db()
        .prepare_cached(
            "INSERT INTO container (id, name, image, created, record, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .and_then(|mut statement| {
            statement.execute((
                &container.id,
                &container.name,
                container.image.map(|image| image.to_string()),
                &container.created,
                record,
                state,
            ))
        });
    match inserted {
        Ok(_) => Ok(()),
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE =>
        {
            Err(name_in_use(store, &container.name))
        }
        // Removed since it was found.
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY =>
        {
            Err(crate::image::Error::NoSuchImage(container.record.config.image.clone()).into())
        }
        Err(other) => Err(store.db_error(other).into()),
    }
}

fn name_in_use(store: &Store, name: &str) -> Error {
    let holder = store
        .db()
        .query_row("SELECT id FROM container WHERE name = ?1", [name], |row| row.get(0))
        .unwrap_or_default();
    Error::NameInUse { name: name.to_owned(), holder }
}

/// Writes the state column.
pub fn write_state(store: &Store, id: &str, state: &State) -> Result<(), Error> {
    let text = json(id, state)?;
    store
        .db()
        .prepare_cached("UPDATE container SET state = ?2 WHERE id = ?1")
        .and_then(|mut statement| statement.execute((id, text)))
        .map_err(|e| store.db_error(e))?;
    Ok(())
}

/// Reads one column of a container, changes it and writes it, in one transaction, so that a monitor and a verb, or two
/// verbs, do not overwrite each other's fields. What `change` refuses is not written. `None` when the container is gone.
fn change<T: Serialize + DeserializeOwned, R>(
    store: &mut Store,
    id: &str,
    [read, write]: [&str; 2],
    change: impl FnOnce(&mut T) -> Result<R, Error>,
) -> Result<Option<(T, R)>, Error> {
    let path = store.layout().database();
    let database = |source| crate::store::Error::Database { path: path.clone(), source };
    let tx = store
        .db_mut()
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(database)?;
    let text: Option<String> = tx
        .prepare_cached(read)
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)).optional())
        .map_err(database)?;
    let Some(text) = text else { return Ok(None) };
    let mut value: T =
        serde_json::from_str(&text).map_err(|source| Error::Record { id: id.to_owned(), source })?;
    let answer = change(&mut value)?;
    let text = storing(|| json(id, &value))?;
    tx.prepare_cached(write).and_then(|mut statement| statement.execute((id, text))).map_err(database)?;
    tx.commit().map_err(database)?;
    Ok(Some((value, answer)))
}

/// Changes what became of a container. Returns `None` when it is gone.
pub fn change_state(
    store: &mut Store,
    id: &str,
    edit: impl FnOnce(&mut State),
) -> Result<Option<State>, Error> {
    let column =
        ["SELECT state FROM container WHERE id = ?1", "UPDATE container SET state = ?2 WHERE id = ?1"];
    let edit = |state: &mut State| {
        edit(state);
        Ok(())
    };
    Ok(change(store, id, column, edit)?.map(|(state, ())| state))
}

/// Changes what was asked for.
pub fn change_record<R>(
    store: &mut Store,
    id: &str,
    edit: impl FnOnce(&mut Record) -> Result<R, Error>,
) -> Result<R, Error> {
    let column =
        ["SELECT record FROM container WHERE id = ?1", "UPDATE container SET record = ?2 WHERE id = ?1"];
    let changed = change(store, id, column, |record: &mut Box<Record>| edit(record))?;
    changed.map(|(_, answer)| answer).ok_or_else(|| Error::NoSuchContainer(id.to_owned()))
}

/// Gives a container another name.
pub fn write_name(store: &Store, id: &str, name: &str) -> Result<(), Error> {
    match store.db().execute("UPDATE container SET name = ?2 WHERE id = ?1", (id, name)) {
        Ok(_) => Ok(()),
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE =>
        {
            Err(name_in_use(store, name))
        }
        Err(other) => Err(store.db_error(other).into()),
    }
}

/// Forgets a container.
pub fn delete(store: &Store, id: &str) -> Result<(), Error> {
    store
        .db()
        .prepare_cached("DELETE FROM container WHERE id = ?1")
        .and_then(|mut statement| statement.execute([id]))
        .map_err(|e| store.db_error(e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout { root: dir.path().join("root"), run_root: dir.path().join("run") };
        (dir, Store::open(layout).expect("open"))
    }

    fn container(id: &str, name: &str) -> Container {
        Container {
            id: id.repeat(64 / id.len()),
            name: name.into(),
            image: None,
            created: "2026-11-24T00:00:00Z".into(),
            record: Box::default(),
            state: State::default(),
        }
    }

    #[test]
    fn a_container_is_found_by_id_name_and_unique_prefix() {
        let (_dir, store) = store();
        for (id, name) in [("ab", "one"), ("ac", "two"), ("cd", "ab")] {
            insert(&store, &container(id, name)).expect("insert");
        }
        assert_eq!(find(&store, "one").expect("name").name, "one");
        assert_eq!(find(&store, "/two").expect("slash").name, "two");
        assert_eq!(find(&store, &"cd".repeat(32)).expect("id").name, "ab");
        assert_eq!(find(&store, "aca").expect("prefix").name, "two");
        assert_eq!(find(&store, "ab").expect("a name beats a prefix").name, "ab");
        assert!(matches!(find(&store, "a"), Err(Error::AmbiguousPrefix(_))));
        for missing in ["nobody", "ff", "", "/", "AB"] {
            assert!(matches!(find(&store, missing), Err(Error::NoSuchContainer(_))), "{missing}");
        }
    }

    #[test]
    fn a_taken_name_is_a_conflict_that_names_the_holder() {
        let (_dir, store) = store();
        insert(&store, &container("ab", "web")).expect("insert");
        match insert(&store, &container("cd", "web")) {
            Err(Error::NameInUse { name, holder }) => {
                assert_eq!((name.as_str(), holder), ("web", "ab".repeat(32)));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_stored_is_short_and_comes_back_as_it_was() {
        let (_dir, store) = store();
        let mut plain = container("ab", "plain");
        plain.record.config.hostname = "h".into();
        let length = storing(|| json("x", &plain.record)).expect("json").len();
        assert!(length < 200, "{length} bytes");
        assert!(json("x", &plain.record).expect("json").len() > 5 * length, "elsewhere every field is shown");
        // Values that are nothing and yet not the same as none.
        let mut odd = container("cd", "odd");
        let (config, host) = (&mut odd.record.config, &mut odd.record.host_config);
        config.entrypoint = Some(Vec::new());
        config.stop_timeout = Some(0);
        host.init = Some(false);
        host.log_config.driver = "none".into();
        host.resources.pids_limit = Some(0);
        host.resources.memory_swappiness = Some(0);
        host.resources.memory = 7;
        host.cap_drop = Some(Vec::new());
        for one in [plain, odd] {
            insert(&store, &one).expect("insert");
            assert_eq!(find(&store, &one.id).expect("find").record, one.record);
        }
    }

    #[test]
    fn who_is_gone_is_remembered_for_a_while() {
        let (_dir, store) = store();
        for n in 0..1100 {
            let mut one = container("ab", &format!("n{n}"));
            one.id = format!("{n:064x}");
            one.record.config.image = format!("image:{n}");
            insert(&store, &one).expect("insert");
            delete(&store, &one.id).expect("delete");
        }
        let found = |n: u32| gone(&store, &format!("{n:064x}")).expect("gone");
        assert_eq!(found(1099), Some(("n1099".to_owned(), "image:1099".to_owned())));
        assert_eq!(found(76), Some(("n76".to_owned(), "image:76".to_owned())));
        assert_eq!(found(75), None);
        assert_eq!(gone(&store, "n1099").expect("a name is no id"), None);
    }

    #[test]
    fn policies_want_what_dockers_want() {
        // Name, limit; exit code, restarts so far, stopped by a user; at once, after a start of the host.
        for (name, limit, code, count, stopped, at_once, later) in [
            ("", 0, 1, 0, false, false, false),
            ("no", 0, 1, 0, false, false, false),
            ("always", 0, 0, 9, false, true, true),
            ("always", 0, 137, 0, true, false, true),
            ("unless-stopped", 0, 0, 9, false, true, true),
            ("unless-stopped", 0, 137, 0, true, false, false),
            ("on-failure", 0, 0, 0, false, false, false),
            ("on-failure", 0, 1, 99, false, true, true),
            ("on-failure", 0, 1, 0, true, false, false),
            ("on-failure", 3, 1, 2, false, true, true),
            ("on-failure", 3, 1, 3, false, false, false),
        ] {
            let policy = RestartPolicy { name: name.to_owned(), maximum_retry_count: limit };
            let state =
                State { exit_code: code, restart_count: count, stopped_by_user: stopped, ..State::default() };
            assert_eq!(
                (state.is_to_run_again(&policy), state.is_owed_a_run(&policy)),
                (at_once, later),
                "{policy:?} {state:?}"
            );
        }
    }

    #[test]
    fn a_state_change_keeps_what_it_does_not_touch() {
        let (_dir, mut store) = store();
        let one = container("ab", "one");
        insert(&store, &one).expect("insert");
        change_state(&mut store, &one.id, |s| s.oom_killed = true).expect("change");
        change_state(&mut store, &one.id, |s| s.exit_code = 137).expect("change");
        let state = find(&store, "one").expect("find").state;
        assert!(state.oom_killed);
        assert_eq!(state.exit_code, 137);
        assert_eq!(change_state(&mut store, "gone", |_| ()).expect("none"), None);
    }
}
