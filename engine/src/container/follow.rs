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

/// Tells a listener what is in a container's log, and with `follow` what is added until it ends.
pub fn read(
    store: &Store,
    container: &Container,
    selection: Selection,
    follow: bool,
    listener: &mut impl Listener,
) -> Result<(), Error> {
    let layout = store.layout();
    // Before the log is read, so that nothing falls in between.
    let watch = follow.then(|| Watch::new(layout)?.and(&container.dir(layout))).and_then(io::Result::ok);
    let until = selection.until;
    let mut reader = Reader::new(container.log_path(layout), selection);
    reader.read_existing(|entry| listener.entry(entry))?;
    if !follow {
        listener.pause()?;
        return Ok(());
    }
    loop {
        // Whether it runs is asked before the last look, so that its last words are not missed.
        let runs = match record::find(store, &container.id) {
            Ok(now) => now.state.status.is_alive(),
            Err(super::Error::NoSuchContainer(_)) => false,
            Err(error) => return Err(error.into()),
        };
        reader.read_new(|entry| listener.entry(entry))?;
        let left = until.map_or(LOOK, |until| until.as_millisecond() - Timestamp::now().as_millisecond());
        if !listener.pause()? || !runs || left <= 0 {
            return Ok(());
        }
        match &watch {
            Some(watch) => watch.wait(PollTimeout::from(left.min(LOOK) as u16))?,
            None => std::thread::sleep(UNWATCHED),
        }
    }
}
