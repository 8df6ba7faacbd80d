//! A container before it is one: its id, the lock on it, and perhaps its monitor.
//!
//! Starting a monitor costs about as much as everything else `run` does before the container exists:
//! reading flags, looking an image up, writing a record. Neither needs the other, so `run` takes its claim
//! first and has the monitor start ([`Claim::summon`]) while it does the rest. The monitor opens the store,
//! makes a network namespace, and waits for the word to go on; when whoever summoned it goes away
//! instead, it takes back what was made so far.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread::JoinHandle;

use super::lock::Lock;
use super::monitor::{self, Likely};
use super::protocol::{self, Request};
use super::summon::{self, Handle};
use super::{Error, IoContext as _};
use crate::store::Layout;

/// The claim. Dropped without a start, it gives the run directory back.
#[derive(Debug)]
pub struct Claim {
    layout: Layout,
    id: String,
    entropy: u64,
    /// `None` once a monitor has it.
    lock: Option<Lock>,
    summoned: Option<Summoned>,
}

/// A monitor on its way.
#[derive(Debug)]
enum Summoned {
    /// Forked from this process.
    Here(Handle),
    /// Being executed by a thread.
    Coming(JoinHandle<Result<Handle, Error>>),
}

impl Summoned {
    fn handle(self) -> Result<Handle, Error> {
        match self {
            Self::Here(handle) => Ok(handle),
            Self::Coming(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        }
    }
}

impl Claim {
    /// A new id and the lock on it.
    pub fn new(layout: &Layout) -> Result<Self, Error> {
        loop {
            let (id, entropy) = random_id()?;
            // A sweep that saw the directory before the lock was ours holds it now, to remove it.
            if let Some(mut claim) = Self::of(layout, &id)? {
                claim.entropy = entropy;
                return Ok(claim);
            }
        }
    }

    /// The lock on a container that exists; `None` while somebody else has it.
    pub(super) fn of(layout: &Layout, id: &str) -> Result<Option<Self>, Error> {
        Ok(Lock::take(layout, id)?.map(|lock| Self {
            layout: layout.clone(),
            id: id.to_owned(),
            entropy: 0,
            lock: Some(lock),
            summoned: None,
        }))
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Random bits, for a name.
    pub(super) fn entropy(&self) -> u64 {
        self.entropy
    }

    /// Has the monitor start meanwhile. A failure may be told only by [`Claim::start`].
    pub fn summon(&mut self, likely: Likely) -> Result<(), Error> {
        let Some(lock) = &self.lock else { return Ok(()) };
        if let Some(handle) = monitor::fork(&self.layout, &self.id, lock, likely)? {
            self.summoned = Some(Summoned::Here(handle));
            return Ok(());
        }
        let (layout, id, lock) = (self.layout.clone(), self.id.clone(), lock.share()?);
        // A spawn suspends its thread until the new program has been executed; this one has other work.
        let thread = std::thread::spawn(move || summon::spawn(&layout, &id, &lock));
        self.summoned = Some(Summoned::Coming(thread));
        Ok(())
    }

    /// Executes another of our verbs under this claim, which stays ours as well.
    pub(crate) fn spawn(&self, verb: &str) -> Result<Handle, Error> {
        match &self.lock {
            Some(lock) => summon::spawn_as(verb, &self.layout, &self.id, lock),
            None => Err(Error::MonitorLost(self.id.clone())),
        }
    }

    /// Tells the monitor to go on; `attach` says what the caller wants of it.
    pub fn start(mut self, attach: &Request) -> Result<Handle, Error> {
        let handle = match (self.summoned.take(), &self.lock) {
            (Some(summoned), _) => summoned.handle()?,
            (None, Some(lock)) => summon::spawn(&self.layout, &self.id, lock)?,
            (None, None) => return Err(Error::MonitorLost(self.id.clone())),
        };
        protocol::request(handle.socket.as_fd(), attach).at("send", &self.layout.run(&self.id))?;
        self.lock = None;
        Ok(handle)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(Ok(handle)) = self.summoned.take().map(Summoned::handle) {
            handle.give_up();
        }
        if let Some(lock) = &self.lock {
            // A monitor that was killed has not taken back what it made.
            super::recover::remove_early_cgroup(lock, &self.id);
            let _ = Lock::discard(&self.layout, &self.id);
        }
    }
}

/// Random bytes as a 64-digit id, and some of them as a number.
fn random_id() -> Result<(String, u64), Error> {
    let mut bytes = [0_u8; 32];
    let path = Path::new("/dev/urandom");
    // getrandom(2) by the standard library's file would be an open and a read; this is one call.
    // SAFETY: the buffer is ours and 32 bytes long.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != 32 {
        fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).at("read", path)?;
    }
    let entropy = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    Ok((crate::digest::Digest::from_bytes(bytes).hex(), entropy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_64_digits() {
        let (one, _) = random_id().expect("id");
        let (two, _) = random_id().expect("id");
        assert_ne!(one, two);
        assert_eq!(one.len(), 64);
    }

    #[test]
    fn a_claim_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout { root: dir.path().join("root"), run_root: dir.path().join("run") };
        let claim = Claim::new(&layout).expect("claim");
        let id = claim.id().to_owned();
        assert!(Lock::is_held(&layout, &id));
        assert!(Lock::take(&layout, &id).expect("take").is_none(), "one claim on one id");
        drop(claim);
        assert!(!Lock::is_held(&layout, &id));
        assert!(!layout.run(&id).exists());
    }
}
