//! What a start of the host owes its containers: those that their restart policies want running are started again.
//!
//! While a monitor lives it keeps to the policy by itself. When it has gone with everything else (the host lost its
//! power, somebody killed all there was) nobody is left to: the next command settles what was lost
//! ([`super::recover`]) and starts nothing, since to have asked for a list is no reason for a container to run. What
//! stands for the start of the host is the start of the server of Docker's API, as dockerd's own does: `always` runs
//! whoever stopped it, `unless-stopped` unless somebody has, `on-failure` when it did not end well and may be tried
//! once more. A container that nobody ever started is nobody's to start.
//!
//! Several servers may start at once, beside commands that settle and start as well. Whoever has the claim on a
//! container decides, and finds in the record whether a run has begun since he looked: then somebody else has seen to
//! it, and what became of that run is not ours to judge.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::lifecycle::{PATIENCE, await_start, idle};
use super::protocol::Request;
use super::record::{self, Container};
use super::{Error, attach, recover};
use crate::store::{Layout, Store};

/// Starts at once, at most: each waits for its monitor most of the time.
const AT_ONCE: usize = 16;

/// Nothing of the streams of what is started.
const UNHEARD: Request = Request::Attach { stdin: false, output: false };

/// Starts what is to run again, and returns when all of it runs or could not be started, of which `failed` hears.
pub fn restore(layout: &Layout, failed: &(dyn Fn(&Container, &Error) + Sync)) -> Result<(), Error> {
    let mut store = Store::open(layout.clone())?;
    recover::recover(&mut store)?;
    let mut left = record::list(&store)?;
    // The oldest first, as they were made.
    left.reverse();
    left.retain(|container| {
        container.state.has_run() && !container.record.host_config.restart_policy.is_none()
    });
    drop(store);
    while !left.is_empty() {
        // Whose namespaces others join runs before them; of those that lean on each other, all are tried.
        let (mut turn, mut later): (Vec<_>, Vec<_>) =
            left.iter().cloned().partition(|container| !left.iter().any(|other| leans_on(container, other)));
        if turn.is_empty() {
            std::mem::swap(&mut turn, &mut later);
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), Error> {
            let mut store = Store::open(layout.clone())?;
            while let Some(container) = turn.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = again(&mut store, container) {
                    failed(container, &error);
                }
            }
            Ok(())
        };
        let workers = thread::available_parallelism().map_or(1, NonZero::get) * 4;
        thread::scope(|scope| {
            let workers = workers.min(AT_ONCE).min(turn.len());
            let started: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            // A worker without a store leaves its share to the others, and is heard of at the end.
            started
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        left = later;
    }
    Ok(())
}

/// Whether a container joins a namespace of another.
fn leans_on(container: &Container, other: &Container) -> bool {
    let host = &container.record.host_config;
    [&host.network_mode, &host.ipc_mode, &host.pid_mode]
        .into_iter()
        .filter_map(|mode| mode.strip_prefix("container:"))
        .any(|name| container.id != other.id && (other.name == name || other.id.starts_with(name)))
}

/// Starts a container that was `seen`, if its policy wants it to run and no run has begun since.
fn again(store: &mut Store, seen: &Container) -> Result<(), Error> {
    let Some(container) = without_monitor(store, &seen.id)? else { return Ok(()) };
    let Some(claim) = idle(store, &container)? else { return Ok(()) };
    let container = match record::find(store, &seen.id) {
        Err(Error::NoSuchContainer(_)) => return Ok(()),
        other => other?,
    };
    let policy = &container.record.host_config.restart_policy;
    if container.state.started_at != seen.state.started_at || !container.state.is_owed_a_run(policy) {
        return Ok(());
    }
    let handle = claim.start(&UNHEARD)?;
    await_start(&handle, &container.id, drop).map(drop)
}

/// A container that no monitor looks after, settled; `None` when one does, or when it has been removed.
///
/// A row may say that it runs while somebody else is settling it, and holds the lock that a monitor would hold:
/// the monitor itself is asked.
fn without_monitor(store: &mut Store, id: &str) -> Result<Option<Container>, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        let container = match record::find(store, id) {
            Err(Error::NoSuchContainer(_)) => return Ok(None),
            other => other?,
        };
        if !container.state.status.is_alive() {
            return Ok(Some(container));
        }
        if attach::connect(store, &container, &UNHEARD).is_ok() {
            return Ok(None);
        }
        if Instant::now() >= until {
            return Err(Error::MonitorLost(container.id));
        }
        recover::recover_one(store, &container)?;
        thread::sleep(Duration::from_millis(2));
    }
}
