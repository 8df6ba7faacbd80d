//! The walk over writable layers, at its own pace.
//!
//! It is the one figure whose price grows with what the container did, so nobody waits for it: the walk
//! runs in a thread of the lowest priority and a scrape takes what was found last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_engine::container;
use bulkhead_engine::model::{Figures, Filesystem, filesystem::Survey};
use bulkhead_engine::store::{Layout, Store};

use super::Error;

/// What was found last, by container.
#[derive(Debug, Clone, Default)]
pub struct Sizes(Arc<Mutex<HashMap<String, Filesystem>>>);

impl Sizes {
    /// Fills them in; `None` until the walk has come to a container.
    pub fn tell(&self, containers: &mut [Figures]) {
        let sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for figures in containers {
            figures.filesystem = sizes.get(&figures.identity.id).cloned();
        }
    }

    /// Of every running container, measured now.
    pub fn measured(layout: &Layout) -> Result<Self, Error> {
        let sizes = Self::default();
        walk(&Store::open(layout.clone())?, &sizes);
        Ok(sizes)
    }

    fn replace(&self, found: HashMap<String, Filesystem>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn put(&self, id: &str, found: Filesystem) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), found);
    }
}

/// Starts the walker; it measures running containers, one after the other, every `interval`.
pub fn start(layout: Layout, interval: Duration) -> Result<Sizes, Error> {
    let sizes = Sizes::default();
    let ours = sizes.clone();
    let store = Store::open(layout)?;
    std::thread::Builder::new()
        .name("filesystem".into())
        .spawn(move || {
            // SAFETY: setpriority takes integers only; 0 is the calling thread, on Linux.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
            loop {
                walk(&store, &ours);
                std::thread::sleep(interval);
            }
        })
        .map_err(|source| Error::Io { call: "spawn", object: "filesystem thread".into(), source })?;
    Ok(sizes)
}

fn walk(store: &Store, sizes: &Sizes) {
    // A store that is busy or a container that went meanwhile is looked at again next time.
    let Ok(containers) = container::list(store) else { return };
    store.let_go();
    let (mut found, mut survey) = (HashMap::new(), Survey::default());
    for container in containers.iter().filter(|container| container.state.status.is_alive()) {
        if let Ok(measured) = survey.measure(&container.dir(store.layout()).join("upper")) {
            sizes.put(&container.id, measured.clone());
            found.insert(container.id.clone(), measured);
        }
    }
    sizes.replace(found);
}
