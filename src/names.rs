//! Which container a cgroup id is.
//!
//! The making of a cgroup is an event of its own and carries the directory's name, which is the container's
//! id, before anything runs in it; so even a container that is gone by the time its events are read has
//! its right name. Containers older than the trace are looked up in the store.

use std::collections::{HashMap, VecDeque};

use bulkhead_engine::cgroup::Cgroup;
use bulkhead_engine::container::{self, Container};
use bulkhead_engine::store::Store;

/// How many containers that are gone stay known, for what is still said of their sockets.
const REMEMBERED: usize = 1024;

/// What is printed of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// The full id; empty for a cgroup that is no container's.
    pub id: String,
    /// The name; the short id if the container was gone before it could be asked.
    pub name: String,
    /// The image as it was named at creation.
    pub image: String,
}

impl From<Container> for Who {
    fn from(container: Container) -> Self {
        Self { id: container.id, name: container.name, image: container.record.config.image }
    }
}

/// The table of ids.
pub struct Names {
    store: Store,
    parent: String,
    known: HashMap<u64, Who>,
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
                self.known.entry(cgroup.id()).or_insert_with(|| container.into());
            }
        }
    }

    /// A cgroup was made, by the name of a container's id.
    pub fn made(&mut self, cgroup: u64, name: &[u8]) {
        let Ok(id) = std::str::from_utf8(name) else { return };
        let who = match container::find(&self.store, id) {
            Ok(container) if container.id == id => container.into(),
            _ => Who {
                id: id.to_owned(),
                name: bulkhead_ebpf::escape(id.as_bytes()).chars().take(12).collect(),
                image: String::new(),
            },
        };
        self.known.insert(cgroup, who);
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
            // Nobody's: remember that, or every event of it would read the whole table again.
            self.known.entry(cgroup).or_default();
        }
        &self.known[&cgroup]
    }

    /// The containers that have a cgroup now, with its parent.
    pub fn running(&self) -> Vec<(String, String)> {
        self.known
            .values()
            .filter(|w| !w.id.is_empty())
            .map(|w| (w.id.clone(), self.parent.clone()))
            .collect()
    }
}
