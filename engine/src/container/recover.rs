//! What a command does before its own work: finish what a killed one left.
//!
//! Nothing in the store is trusted to be in step with the kernel. A row that claims a living container
//! is checked against its monitor's lock; a row in the middle of its removal is removed; a container
//! that `run --rm` made and never started has no owner any more and goes. The cost on a healthy host is
//! one query and, for each living container, one lock question.

use std::collections::HashSet;
use std::fmt;
use std::fs;

use super::lock::{DISCARDED, Lock};
use super::log::now;
use super::record::{self, Container, Standing, Status};
use super::{Error, freeze, lifecycle};
use crate::cgroup::Cgroup;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// The exit code recorded for a container whose monitor was killed: what SIGKILL gives.
const LOST: i32 = 137;

/// What could not be put right. The next command tries again; this one is most likely about something else, and a
/// container that is stuck in the kernel must not take the others with it.
#[derive(Debug)]
pub struct Unsettled {
    /// What it is about: a container's id, the networks, a scratch directory.
    pub what: String,
    /// Why.
    pub error: Error,
}

impl fmt::Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what a killed process left of {} could not be put right: {}", self.what, self.error)
    }
}

/// Puts right what killed commands and monitors left, and returns what it could not.
pub fn recover(store: &mut Store) -> Result<Vec<Unsettled>, Error> {
    let mut unsettled = Vec::new();
    let standings = record::standings(store)?;
    let mut owned = HashSet::new();
    for Standing { id, status } in &standings {
        let settled = match status {
            Some(status) => put_right(store, id, *status),
            // Whoever asks for it by name hears what is wrong with it.
            None => record::find(store, id).map(|_| Settled::Untouched),
        };
        match settled {
            Ok(Settled::Owned) => drop(owned.insert(id.as_str())),
            Ok(Settled::Untouched | Settled::PutRight) => {}
            Err(error) => unsettled.push(Unsettled { what: format!("container {id}"), error }),
        }
    }
    sweep_run_root(store, &standings);
    if let Err(error) = super::network::sweep(store, &owned) {
        unsettled.push(Unsettled { what: "networks".to_owned(), error });
    }
    // Who makes or removes a volume holds a scratch directory: only when one was abandoned is there anything to look
    // for, and a command that cannot put volumes right is not about them.
    let left = store.sweep_scratch_after(|| drop(crate::volume::sweep(store)))?;
    unsettled.extend(left.into_iter().map(|left| Unsettled {
        what: format!("scratch directory {}", left.path.display()),
        error: left.error.into(),
    }));
    Ok(unsettled)
}

/// How a container was found.
#[derive(Debug, PartialEq, Eq)]
enum Settled {
    /// Its monitor lives.
    Owned,
    /// There was nothing to do.
    Untouched,
    /// Something was.
    PutRight,
}

fn put_right(store: &mut Store, id: &str, status: Status) -> Result<Settled, Error> {
    if status == Status::Created && is_half_made(store, id) {
        finish_making(store, id)?;
    }
    let suspect = status.is_alive()
        || status == Status::Removing
        || (status == Status::Created && is_ephemeral(store, id)?);
    if suspect { settle(store, id) } else { Ok(Settled::Untouched) }
}

/// The same for one container, when no other matters: 200 system calls less where fifty run. Whether it
/// touched it.
pub fn recover_one(store: &mut Store, container: &Container) -> Result<bool, Error> {
    let status = container.state.status;
    if status == Status::Created && is_half_made(store, &container.id) {
        return finish_making(store, &container.id);
    }
    let suspect = status.is_alive() || status == Status::Removing;
    Ok(suspect && settle(store, &container.id)? == Settled::PutRight)
}

/// The row comes first, then the directories, of which `work` is the last.
fn is_half_made(store: &Store, id: &str) -> bool {
    !store.layout().containers().join(id).join("work").exists()
}

/// Makes the directories of a container whose `create` was killed after its row was written.
fn finish_making(store: &Store, id: &str) -> Result<bool, Error> {
    if Lock::is_held(store.layout(), id) {
        return Ok(false);
    }
    let Some(_lock) = Lock::take(store.layout(), id)? else { return Ok(false) };
    match record::find(store, id) {
        // One that goes with its command is not worth it.
        Ok(container) if container.state.status == Status::Created && !container.record.ephemeral => {
            Snapshot::complete(store.layout(), id, &container.record.chain)?;
            let _ = Lock::discard(store.layout(), id);
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(Error::NoSuchContainer(_)) => {
            let _ = Lock::discard(store.layout(), id);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn is_ephemeral(store: &Store, id: &str) -> Result<bool, Error> {
    match record::find(store, id) {
        Ok(container) => Ok(container.record.ephemeral),
        Err(Error::NoSuchContainer(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn settle(store: &mut Store, id: &str) -> Result<Settled, Error> {
    if Lock::is_held(store.layout(), id) {
        freeze::thaw_abandoned(store, id)?;
        return Ok(Settled::Owned);
    }
    // Take the lock, so that two commands do not settle the same container at once, and look again:
    // a monitor may have finished its work between our query and now.
    let Some(lock) = Lock::take(store.layout(), id)? else { return Ok(Settled::Owned) };
    let mut container = match record::find(store, id) {
        Err(Error::NoSuchContainer(_)) => {
            remove_early_cgroup(&lock, id);
            let _ = Lock::discard(store.layout(), id);
            return Ok(Settled::PutRight);
        }
        other => other?,
    };
    let _ = Cgroup::discard(&container.record.cgroup_parent, &container.id);
    let _ = super::volumes::release(store, &container);
    let by_itself = container.record.host_config.auto_remove;
    if container.state.status == Status::Removing || by_itself {
        // One that was on its way out already says itself what goes with it.
        container.state.remove_volumes |= container.state.status != Status::Removing;
        drop(lifecycle::erase(store, &container)?);
    } else if container.state.status.is_alive() {
        record::change_state(store, &container.id, |state| {
            state.status = Status::Exited;
            state.pid = 0;
            state.exit_code = LOST;
            state.finished_at = now();
            state.error = "its monitor was killed".into();
        })?;
        let _ = Lock::discard(store.layout(), &container.id);
    }
    Ok(Settled::PutRight)
}

/// Removes run directories without a row: their maker was killed before it recorded anything.
fn sweep_run_root(store: &Store, standings: &[Standing]) {
    let known: HashSet<&str> = standings.iter().map(|standing| standing.id.as_str()).collect();
    let Ok(entries) = fs::read_dir(&store.layout().run_root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str() else { continue };
        if id.starts_with(DISCARDED) {
            // Its owner is at it as well, or was killed.
            let _ = fs::remove_dir_all(entry.path());
            continue;
        }
        if let Some(process) = crate::store::passing(id) {
            let process = nix::unistd::Pid::from_raw(process);
            if nix::sys::signal::kill(process, None) == Err(nix::errno::Errno::ESRCH) {
                let _ = fs::remove_file(entry.path());
            }
            continue;
        }
        let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_id || known.contains(id) || Lock::is_held(store.layout(), id) {
            continue;
        }
        // Recorded since our query, or about to be: whoever makes a container holds its lock from
        // before the directory is visible as unowned until the row exists.
        if let Ok(Some(lock)) = Lock::take(store.layout(), id)
            && matches!(record::find(store, id), Err(Error::NoSuchContainer(_)))
        {
            remove_early_cgroup(&lock, id);
            // A step of a build is a container without a row.
            super::step::take_back(store.layout(), id);
            let _ = Lock::discard(store.layout(), id);
        }
    }
}

/// A monitor makes the cgroup of a container that is not recorded yet, and may have been killed then.
pub(super) fn remove_early_cgroup(lock: &Lock, id: &str) {
    if let Some(parent) = lock.noted()
        && let Ok(cgroup) = Cgroup::open(&parent, id)
    {
        let _ = cgroup.remove();
    }
}
