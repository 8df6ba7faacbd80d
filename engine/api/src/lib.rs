//! Docker's Engine API in front of the engine, for clients that know no other way: the docker command, compose, the
//! SDKs. `bulkhead serve --host unix://…` serves it; nothing of Bulkhead's own uses it.
//!
//! **No daemon.** The server keeps nothing that a container needs. It opens the store for each request as a command
//! does, calls what the command's verb calls, and forgets; a request and a command may follow each other on the same
//! container in any order. What it does keep is what Docker's API keeps between two requests of one client: execs that
//! have been created and not started ([`exec`]), and clients that have attached to what does not run yet
//! ([`attach`]). Its end loses these and nothing else.
//!
//! **One thread talks, others work.** hyper runs on a runtime of one thread, which never touches the store. Every call
//! of the engine gets a thread for itself ([`work`]): some change what belongs to a thread (a mount namespace, the
//! working directory, a mask), so that none may be used twice. There are only so many at once.
//!
//! **Who clones.** A process that clones containers must have one thread, and this one has many. The engine knows: where
//! a command would fork its monitor, [`bulkhead_engine::container::claim`] finds that it is not alone and executes our
//! binary for it; steps of builds are executed anyway; execs get a process of their own
//! ([`bulkhead_engine::container::session`]), since there the one that clones also moves the bytes. A helper that is
//! forked before the runtime starts, and clones on request, was the other way. It would be a daemon within the daemon:
//! whatever it holds (locks, pipes, a heap that a container's parent shares) one request leaves to the next, and its end
//! would be everybody's. An exec of our own binary costs some 2 ms, which no client of HTTP will notice.
//!
//! **Every client is hostile** in what it sends (size of heads and bodies, time to send them, connections at once,
//! nothing else than JSON that is read into types), and trusted in what it asks: who may open the socket is root, as
//! with Docker. A field that the engine does not have and that would change what a container may do is refused, never
//! passed over ([`create`]).

mod archive;
mod attach;
mod body;
mod build;
mod containers;
mod create;
mod error;
mod exec;
mod hub;
mod images;
mod listen;
mod networks;
mod registry;
mod router;
mod server;
mod stats;
mod streams;
mod system;
mod volumes;
mod work;

use std::sync::Arc;

use bulkhead_engine::container::recover;
use bulkhead_engine::store::{Layout, Store};

use error::Error;

pub use listen::{Host, ListenError, Listener};
pub use server::{Server, StartError, start};

/// The newest version of the API that is served.
pub const API_VERSION: &str = "1.47";
/// The oldest.
pub const MIN_API_VERSION: &str = "1.24";

/// What the server needs to know of the process it is in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything is.
    pub layout: Layout,
    /// The cgroup that containers are made under unless they name another.
    pub cgroup_parent: String,
    /// Bulkhead's version.
    pub version: &'static str,
    /// The commit it was built from.
    pub build: &'static str,
}

/// Everything that requests share.
#[derive(Debug)]
pub(crate) struct App {
    settings: Settings,
    work: work::Work,
    hub: hub::Hub,
    execs: exec::Execs,
    waiting: attach::Waiting,
}

impl App {
    /// Opens the store and puts right what killed processes left, as every command does.
    fn store(&self) -> Result<Store, Error> {
        let mut store = Store::open(self.settings.layout.clone())?;
        // What it could not put right is not what was asked about; every command tells of it.
        recover::recover(&mut store)?;
        Ok(store)
    }

    /// Does something with the store in a thread of its own.
    async fn with_store<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let app = self.clone();
        self.work.run(move || job(&mut app.store()?)).await
    }
}
