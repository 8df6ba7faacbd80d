//! What a command does before its own work: finish what a killed one left.
//!
//! Nothing in the store is trusted to be in step with the kernel. A row that claims a living container
//! is checked against its monitor's lock; a row in the middle of its removal is removed; a container
//! that `run --rm` made and never started has no owner any more and goes. The cost on a healthy host is
//! one query and, for each living container, one lock question.

use std::collections::HashSet;
use std::fs;

use super::log::now;
use super::monitor::Lock;
use super::record::{self, Container, Status};
use super::{Error, freeze, lifecycle};
use crate::cgroup::Cgroup;
use crate::store::Store;

/// The exit code recorded for a container whose monitor was killed: what SIGKILL gives.
const LOST: i32 = 137;

/// Puts right what killed commands and monitors left. Returns how many containers it touched.
pub fn recover(store: &mut Store) -> Result<usize, Error> {
    let mut touched = 0;
    let containers = record::list(store)?;
    for container in &containers {
        let suspect = container.state.status.is_alive()
            || container.state.status == Status::Removing
            || (container.record.ephemeral && container.state.status == Status::Created);
        if suspect && settle(store, container)? {
            touched += 1;
        }
    }
    sweep_run_root(store, &containers);
    touched += super::network::sweep(store)?;
    Ok(touched)
}

fn settle(store: &mut Store, container: &Container) -> Result<bool, Error> {
    if Lock::is_held(store.layout(), &container.id) {
        freeze::thaw_abandoned(store, container)?;
        return Ok(false);
    }
    // Take the lock, so that two commands do not settle the same container at once, and look again:
    // a monitor may have finished its work between our query and now.
    let Some(_lock) = Lock::take(store.layout(), &container.id)? else { return Ok(false) };
    let container = match record::find(store, &container.id) {
        Err(Error::NoSuchContainer(_)) => {
            let _ = fs::remove_dir_all(store.layout().run(&container.id));
            return Ok(true);
        }
        other => other?,
    };
    if let Ok(cgroup) = Cgroup::open(&container.record.cgroup_parent, &container.id) {
        let _ = cgroup.thaw();
        let _ = cgroup.kill();
        let _ = cgroup.remove();
    }
    let removing = container.state.status == Status::Removing || container.record.host_config.auto_remove;
    if removing {
        lifecycle::erase(store, &container)?;
    } else if container.state.status.is_alive() {
        record::change_state(store, &container.id, |state| {
            state.status = Status::Exited;
            state.pid = 0;
            state.exit_code = LOST;
            state.finished_at = now();
            state.error = "its monitor was killed".into();
        })?;
        let _ = fs::remove_dir_all(store.layout().run(&container.id));
    }
    Ok(true)
}

/// Removes run directories without a row: their maker was killed before it recorded anything.
fn sweep_run_root(store: &Store, containers: &[Container]) {
    let known: HashSet<&str> = containers.iter().map(|container| container.id.as_str()).collect();
    let Ok(entries) = fs::read_dir(&store.layout().run_root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str() else { continue };
        let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_id || known.contains(id) || Lock::is_held(store.layout(), id) {
            continue;
        }
        // Recorded since our query, or about to be: whoever makes a container holds its lock from
        // before the directory is visible as unowned until the row exists.
        if let Ok(Some(_lock)) = Lock::take(store.layout(), id)
            && matches!(record::find(store, id), Err(Error::NoSuchContainer(_)))
        {
            let _ = fs::remove_dir_all(store.layout().run(id));
        }
    }
}
