//! Last figures: what a container used, told once after it has ended.
//!
//! A counter is only worth something if its last increments are seen, and a container that lives between
//! two scrapes would leave no trace at all. So its monitor, before it removes the cgroup, reads the
//! figures a last time and leaves them for `serve` in a directory of the run root. It does so only while
//! a `serve` lives (it holds a lock), so that nothing heaps up on a host that is not watched; the
//! question costs the monitor one open and one flock.
//!
//! Order makes a scrape complete: the monitor writes first and removes the cgroup afterwards, the
//! collector reads cgroups first and this directory afterwards. A container whose cgroup was gone has
//! therefore left its figures.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::{At as _, Error, Figures, Network, interface, now, seconds};
use crate::cgroup::Cgroup;
use crate::container::{Container, OutOfMemory};
use crate::store::Layout;

fn lock_path(layout: &Layout) -> PathBuf {
    layout.run_root.join("serve.lock")
}

fn directory(layout: &Layout) -> PathBuf {
    layout.run_root.join("ended")
}

/// The side that `serve` holds: while it lives, monitors leave figures.
#[derive(Debug)]
pub struct Inbox {
    dir: PathBuf,
    /// Dropped with us, or by the kernel when we are killed.
    _lock: File,
}

impl Inbox {
    /// `None` when another `serve` holds it. What an earlier one left unread is kept: it ended
    /// without having told of it.
    pub fn open(layout: &Layout) -> Result<Option<Self>, Error> {
        let dir = directory(layout);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).at("mkdir", &dir)?;
        let path = lock_path(layout);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .at("open", &path)?;
        // A monitor that asks whether we live holds a shared lock for an instant.
        for _ in 0..50 {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(Self { dir, _lock: lock })),
                Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(2)),
                Err(TryLockError::Error(error)) => return Err(error).at("flock", &path),
            }
        }
        Ok(None)
    }

    /// Takes out what has been left. A file that makes no sense is dropped.
    pub fn take(&self) -> Result<Vec<Figures>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).at("readdir", &self.dir)? {
            let path = entry.at("readdir", &self.dir)?.path();
            // Still being written.
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            let text = fs::read(&path).at("read", &path)?;
            fs::remove_file(&path).at("unlink", &path)?;
            found.extend(serde_json::from_slice::<Figures>(&text).ok());
        }
        Ok(found)
    }
}

/// A run's network counters, which can be read until this is dropped: the open file keeps the network
/// namespace, which would otherwise end with the last process in it and take its counters along.
#[derive(Debug)]
pub struct Wires(File);

impl Wires {
    /// Opens the file of a process that has just been made. `None` for a container without a network of its
    /// own, and when it cannot be had: last figures are not worth failing a start.
    pub fn open(container: &Container, pid: i32) -> Option<Self> {
        let mode = container.record.host_config.network_mode.as_str();
        if mode == "none" || mode == "host" || mode.starts_with("container:") {
            return None;
        }
        File::open(format!("/proc/{pid}/net/dev")).ok().map(Self)
    }

    fn read(mut self) -> Network {
        let mut text = String::with_capacity(1024);
        let read = self.0.read_to_string(&mut text).ok();
        read.and_then(|_| interface::parse(&text)).map_or(Network::Unknown, Network::Own)
    }
}

/// The monitor's side: leaves the last figures of a run whose cgroup is about to be removed.
///
/// `started` is when this run began, RFC 3339, which the record that the monitor holds may not say yet; `oom`
/// what it had when it was killed for memory.
pub fn offer(
    layout: &Layout,
    container: &Container,
    started: &str,
    cgroup: &Cgroup,
    wires: Option<Wires>,
    oom: Option<&OutOfMemory>,
) -> Result<(), Error> {
    match File::open(lock_path(layout)) {
        Err(_) => return Ok(()),
        Ok(lock) if lock.try_lock_shared().is_ok() => return Ok(()),
        Ok(_) => {}
    }
    let mut figures = Figures::of(container);
    (figures.taken, figures.clock) = now();
    figures.identity.cgroup_id = Some(cgroup.id());
    figures.life.started = seconds(started);
    figures.life.finished = Some(figures.taken);
    figures.life.status = crate::container::Status::Exited;
    figures.life.pid = 0;
    figures.life.oom_killed = oom.is_some();
    figures.life.oom = oom.cloned().or(figures.life.oom);
    figures.stats = Some(cgroup.stats()?);
    figures.network = wires.map(Wires::read).unwrap_or_default();
    leave(layout, &figures)
}

fn leave(layout: &Layout, figures: &Figures) -> Result<(), Error> {
    let dir = directory(layout);
    let hidden = dir.join(format!(".{}", figures.identity.id));
    let visible = dir.join(&figures.identity.id);
    let text = serde_json::to_vec(figures).map_err(std::io::Error::from).at("serialize", &visible)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&hidden)
        .at("open", &hidden)?;
    file.write_all(&text).at("write", &hidden)?;
    fs::rename(&hidden, &visible).at("rename", &visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_arrive_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { root: dir.path().join("root"), run_root: dir.path().join("run") };
        let inbox = Inbox::open(&layout).unwrap().unwrap();
        let mut figures =
            Figures { taken: 7.5, stats: Some(crate::cgroup::Stats::default()), ..Figures::default() };
        figures.identity.id = "ab".repeat(32);
        figures.identity.labels.insert("a\"b".into(), "c\nd\u{e9}".into());
        leave(&layout, &figures).unwrap();
        fs::write(dir.path().join("run/ended/.half"), "{").unwrap();
        fs::write(dir.path().join("run/ended/broken"), "{").unwrap();
        assert_eq!(inbox.take().unwrap(), [figures]);
        assert_eq!(inbox.take().unwrap(), []);
    }

    #[test]
    fn one_serve_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { root: dir.path().join("root"), run_root: dir.path().join("run") };
        let inbox = Inbox::open(&layout).unwrap().unwrap();
        assert!(Inbox::open(&layout).unwrap().is_none());
        drop(inbox);
        assert!(Inbox::open(&layout).unwrap().is_some());
    }
}
