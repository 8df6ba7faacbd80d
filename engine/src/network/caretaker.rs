//! What the host keeps for a moment after its last container.
//!
//! The default bridge and the table of rules are there for containers and go with the last one. To take
//! them away at the very instant would be dear, and for the next container as much as for the one that ended:
//!
//! - Removing a link waits for an RCU grace period, 10 to 40 ms.
//! - The first rule in a namespace that looks at connections switches connection tracking on, and the
//!   kernel then visits every connection that it remembers (`nf_ct_netns_do_get`), behind those
//!   visits that masquerading makes for each link that went down. With 80,000 connections and containers that come
//!   and go, a start waited for seconds, and with it whoever wanted the host's lock.
//!
//! So a container that ends by itself leaves both where they are, and one process, the caretaker, looks a
//! second later and takes them away if nobody came. A file in the run root says that there is something to take
//! away; commands that end containers on somebody's behalf (`stop`, `rm`, …) do it themselves before they
//! return ([`tidy`]), and if the caretaker is killed the next command finds the file without a holder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::link::Links;
use super::{DEFAULT, Error, HostLock, Settings, background, model, query, rules};
use crate::store::{Layout, Store};

/// How long a table and a bridge without containers stay.
const GRACE: Duration = Duration::from_secs(1);

fn path(layout: &Layout) -> PathBuf {
    layout.run_root.join("network-idle")
}

/// What nobody needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Idle {
    /// No container is on a bridge, so the table has nothing to do.
    pub table: bool,
    /// No container is on the default bridge.
    pub bridge: bool,
}

pub(super) fn idle(store: &Store) -> Result<Idle, Error> {
    query(store, |db| {
        let mut statement = db.prepare_cached(
            "SELECT NOT EXISTS (SELECT 1 FROM endpoint e JOIN network n ON n.id = e.network
                                WHERE n.driver = 'bridge'),
                    NOT EXISTS (SELECT 1 FROM endpoint e JOIN network n ON n.id = e.network
                                WHERE n.name = ?1)",
        )?;
        statement.query_row([DEFAULT], |row| Ok(Idle { table: row.get(0)?, bridge: row.get(1)? }))
    })
}

/// Takes away what nobody needs. The caller holds the host's lock.
fn clear_away(store: &Store, settings: &Settings) -> Result<(), Error> {
    let idle = idle(store)?;
    let mut links = Links::open()?;
    if idle.table {
        rules::remove(&settings.table)?;
        // Ends of pairs whose other end lives on, in a namespace that a container shared with its dead owner.
        links.remove_group(settings.group)?;
    }
    if idle.bridge {
        remove_default_bridge(store, settings, &mut links)?;
    }
    Ok(())
}

/// Removes the default bridge, unless somebody has put a port of theirs into it.
pub(super) fn remove_default_bridge(
    store: &Store,
    settings: &Settings,
    links: &mut Links,
) -> Result<(), Error> {
    if settings.foreign_bridge {
        return Ok(());
    }
    let name = model::find(store, DEFAULT)?.bridge_name(settings);
    if let Some(index) = links.index(&name)?
        && !links.all()?.iter().any(|(_, _, controller)| *controller == Some(index))
    {
        links.remove(&name)?;
    }
    Ok(())
}

/// Whether the file is there and nobody has it: a caretaker was killed.
fn is_abandoned(path: &Path) -> Result<bool, Error> {
    Ok(path.exists() && background::lock(path)?.is_some())
}

/// Takes away at once what the last container left, instead of leaving it to the caretaker. Costs a look at one
/// file when there is nothing to do.
pub fn tidy(store: &Store) -> Result<(), Error> {
    let path = path(store.layout());
    if !path.exists() {
        return Ok(());
    }
    let settings = Settings::load(store.layout())?;
    let _lock = HostLock::take()?;
    clear_away(store, &settings)?;
    background::stop(&path)
}

/// Does the work of a caretaker that was killed.
pub(super) fn recover(store: &Store) -> Result<(), Error> {
    if is_abandoned(&path(store.layout()))? { tidy(store) } else { Ok(()) }
}

/// Has a caretaker look a moment from now, unless one is about to. `program` is the binary and the words that lead to
/// [`care`].
pub fn start_caretaker(store: &Store, program: Command) -> Result<(), Error> {
    let path = path(store.layout());
    let _lock = HostLock::take()?;
    let Some(held) = background::lock(&path)? else { return Ok(()) };
    background::spawn(program, &held, &[]).map_err(|source| Error::Kernel {
        call: "spawn",
        on: "caretaker".into(),
        source,
    })
}

/// The caretaker process.
pub fn care(layout: &Layout) -> Result<(), Error> {
    std::thread::sleep(GRACE);
    let path = path(layout);
    // Somebody has done it, or has removed the whole store: opening that would make it anew.
    if !path.exists() || !layout.database().exists() {
        return Ok(());
    }
    let store = Store::open(layout.clone())?;
    let settings = Settings::load(layout)?;
    let _lock = HostLock::take()?;
    let done = clear_away(&store, &settings);
    // Under the host's lock, so that whoever leaves next finds either a caretaker that has not looked yet, or none.
    let _ = std::fs::remove_file(&path);
    done
}
