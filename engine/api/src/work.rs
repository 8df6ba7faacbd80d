//! Threads for what blocks.
//!
//! Each job has a thread that ends with it and shares neither working directory nor mask nor mount namespace with the
//! others: mounting the files of a stopped container for `docker cp`, say, puts the calling thread into a mount
//! namespace of its own for good, and the kernel refuses that to a thread which shares these. A thread costs some ten
//! microseconds, a call of the engine milliseconds.

use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use tokio::sync::{Semaphore, oneshot};

use crate::error::Error;

/// Jobs at once; more wait. A `stop` may wait for minutes, and compose stops whole projects at once.
const JOBS: usize = 128;

/// Who gives threads out.
#[derive(Debug)]
pub struct Work {
    room: Arc<Semaphore>,
}

impl Work {
    /// With room for [`JOBS`].
    pub fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(JOBS)) }
    }

    /// Does something in a thread of its own. Whoever asked may go away; what was begun is finished.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| Error::lost())?;
        let (send, receive) = oneshot::channel();
        spawn("api-work", move || {
            let done = job();
            drop(permit);
            // Whoever asked may have gone.
            let _ = send.send(done);
        })?;
        // The other end goes without a word when the job panics.
        receive.await.map_err(|_| Error::lost())?
    }
}

/// A thread that shares nothing of its process's but memory and files.
pub fn spawn(name: &str, job: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let alone = move || {
        // Without, only what needs it fails, and says so.
        let _ = unshare(CloneFlags::CLONE_FS);
        job();
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(alone);
    spawned.map(drop).map_err(|error| Error::internal(format!("clone: {error}")))
}
