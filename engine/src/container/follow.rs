//! `logs`, and `logs -f`: what a container has said, and what it says until it ends.
//!
//! Whoever follows a log sleeps until the kernel says that a file beside it was written (a rotation makes another one) or
//! that the engine's log of events was, in which the container's end is. What is missed by both, the end of a container
//! whose monitor was killed, is found by looking again now and then.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use nix::poll::PollTimeout;

use super::log::{Entry, Reader, Selection};
use super::record::{self, Container};
use crate::events::Watch;
use crate::store::Store;

/// How long nothing is looked at when nothing wakes, in milliseconds.
const LOOK: i64 = 1000;
/// The same where the kernel has no more watches to give (`fs.inotify.max_user_instances`).
const UNWATCHED: Duration = Duration::from_millis(50);

/// Who hears a log.
pub trait Listener {
    /// Hears a line, or a piece of a long one.
    fn entry(&mut self, entry: &Entry) -> io::Result<()>;

    /// Has heard all there is for now. Whether it goes on listening.
    fn pause(&mut self) -> io::Result<bool>;
}

/// Why a log is not heard to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log could not be read, or the listener could not go on.
    #[error(transparent)]
    Log(#[from] io::Error),
    /// The container's record could not be read.
    #[error(transparent)]
    Container(#[from] super::Error),
}

/// A container's log, with a hold of its files: what becomes of the container from now on takes nothing from it.
#[derive(Debug)]
pub struct Log {
    reader: Reader,
    until: Option<Timestamp>,
    /// Who is followed; `None` where what is there is all that is asked for.
    followed: Option<Followed>,
}

#[derive(Debug)]
struct Followed {
    id: String,
    watch: Option<Watch>,
}

impl Log {
    /// Opens it; with `follow`, to hear what is added until the container ends.
    pub fn open(
        store: &Store,
        container: &Container,
        selection: Selection,
        follow: bool,
    ) -> Result<Self, Error> {
        let layout = store.layout();
        // Before the log is opened, so that nothing falls in between.
        let followed = follow.then(|| Followed {
            id: container.id.clone(),
            watch: Watch::new(layout).and_then(|watch| watch.and(&container.dir(layout))).ok(),
        });
        let until = selection.until;
        let speaks = follow && container.state.status.is_alive();
        let reader = Reader::open(container.log_path(layout), selection, speaks)?;
        Ok(Self { reader, until, followed })
    }

    /// Tells a listener all of it.
    pub fn tell(mut self, store: &Store, listener: &mut impl Listener) -> Result<(), Error> {
        self.reader.read_existing(|entry| listener.entry(entry))?;
        let Some(Followed { id, watch }) = self.followed else {
            listener.pause()?;
            return Ok(());
        };
        loop {
            // Whether it runs is asked before the last look, so that its last words are not missed.
            let runs = match record::find(store, &id) {
                Ok(now) => now.state.status.is_alive(),
                Err(super::Error::NoSuchContainer(_)) => false,
                Err(error) => return Err(error.into()),
            };
            self.reader.read_new(|entry| listener.entry(entry))?;
            let now = Timestamp::now().as_millisecond();
            let left = self.until.map_or(LOOK, |until| until.as_millisecond() - now);
            if !listener.pause()? || !runs || left <= 0 {
                return Ok(());
            }
            match &watch {
                Some(watch) => watch.wait(PollTimeout::from(left.min(LOOK) as u16))?,
                None => std::thread::sleep(UNWATCHED),
            }
        }
    }
}
