//! Which container a cgroup id is.
//!
//! The making of a cgroup is an event of its own and carries the directory's name, which is the container's
//! id, before anything runs in it. The rest is asked of the store at the first event that needs it; a
//! container that is gone by then is among those that the store remembers to have removed. Containers older
//! than the trace are looked up in the store.

use std::collections::{HashMap, VecDeque};

pub use bulkhead_ebpf::event_log::Owner as Who;
use bulkhead_engine::cgroup::Cgroup;
use bulkhead_engine::container::{self, Container};
use bulkhead_engine::store::Store;

/// How many containers that are gone stay known, for what is still said of their sockets.
const REMEMBERED: usize = 1024;

/// What the store says of a container.
fn who(container: Container) -> Who {
    Who { id: container.id, name: container.name, image: container.record.config.image }
}

struct Known {
    who: Who,
    /// The store has been asked.
    asked: bool,
}

/// The table of ids.
pub struct Names {
    store: Store,
    parent: String,
    known: HashMap<u64, Known>,
    gone: VecDeque<u64>,
}

impl Names {
    /// With the containers there are, whose cgroups lie under `parent`.
    pub fn new(store: Store, parent: String) -> Self {
        let mut names = Self { store, parent, known: HashMap::new(), gone: VecDeque::new() };
        names.scan();
        names
    }

    fn scan(&mut self) {
        for container in container::list(&self.store).unwrap_or_default() {
            if let Ok(cgroup) = Cgroup::open(&container.record.cgroup_parent, &container.id) {
                self.known.entry(cgroup.id()).or_insert_with(|| Known { who: who(container), asked: true });
            }
        }
        self.store.let_go();
    }

    /// A cgroup was made, by the name of a container's id.
    pub fn made(&mut self, cgroup: u64, name: &[u8]) {
        let Ok(id) = std::str::from_utf8(name) else { return };
        // Until the store has been asked, and if it does not know: the short id.
        let short = bulkhead_ebpf::escape(id.as_bytes()).chars().take(12).collect();
        let who = Who { id: id.to_owned(), name: short, image: String::new() };
        self.known.insert(cgroup, Known { who, asked: false });
    }

    /// A cgroup was removed.
    pub fn removed(&mut self, cgroup: u64) {
        self.gone.push_back(cgroup);
        if self.gone.len() > REMEMBERED
            && let Some(oldest) = self.gone.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// The container of an event.
    pub fn get(&mut self, cgroup: u64) -> &Who {
        if !self.known.contains_key(&cgroup) {
            self.scan();
        }
        // Nobody's: remember that, or every event of it would read the whole table again.
        let known = self.known.entry(cgroup).or_insert_with(|| Known { who: Who::default(), asked: true });
        if !known.asked {
            known.asked = true;
            let id = &known.who.id;
            match container::find(&self.store, id) {
                Ok(found) if found.id == *id => known.who = who(found),
                Ok(_) | Err(container::Error::NoSuchContainer(_)) => match container::gone(&self.store, id) {
                    Ok(Some((name, image))) => (known.who.name, known.who.image) = (name, image),
                    Ok(None) => {}
                    Err(_) => known.asked = false,
                },
                // A database that cannot be read now may be next time.
                Err(_) => known.asked = false,
            }
        }
        &known.who
    }

    /// The containers that have a cgroup now, with its parent.
    pub fn running(&self) -> Vec<(String, String)> {
        self.known
            .values()
            .filter(|known| !known.who.id.is_empty())
            .map(|known| (known.who.id.clone(), self.parent.clone()))
            .collect()
    }
}
