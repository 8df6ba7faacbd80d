//! Whether somebody has written to a cgroup's limits.
//!
//! A container has some fifteen files of limits, which hardly ever change, so reading them all again with every
//! scrape would double what a scrape costs; yet whoever writes to one by hand must see it in the next. inotify
//! tells: a write to a file of a cgroup marks it as modified, through whichever mount of the hierarchy it goes.
//! One watch a directory does for all of its files.
//!
//! What it cannot see is a write through another cgroup namespace, whose mounts have inodes of their own, and a
//! value that changes because of another cgroup's. Whoever asks must look by itself where these matter.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};

use super::{Cgroup, mounts::V1};

/// Watches limits of many cgroups.
#[derive(Debug, Clone)]
pub struct Watcher(Arc<Inotify>);

/// A cgroup whose limits are watched, until it is dropped.
#[derive(Debug)]
pub struct Watched {
    inotify: Arc<Inotify>,
    directories: Vec<WatchDescriptor>,
}

/// What has been written to.
#[derive(Debug)]
pub enum Changes {
    /// These directories.
    Of(HashSet<WatchDescriptor>),
    /// There was more than the kernel remembers.
    Any,
}

impl Changes {
    /// Nothing has.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Of(changed) if changed.is_empty())
    }
}

impl Watcher {
    /// Watches nothing yet.
    pub fn new() -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self(Arc::new(inotify)))
    }

    /// Watches a cgroup; call it before the limits are read.
    pub fn watch(&self, cgroup: &Cgroup) -> Result<Watched, Errno> {
        let mut watched = Watched { inotify: self.0.clone(), directories: Vec::with_capacity(6) };
        let v1 = [V1::Memory, V1::Cpu, V1::Cpuset, V1::Pids, V1::Blkio];
        for dir in v1.into_iter().filter_map(|controller| cgroup.v1.get(controller)).chain([&cgroup.dir]) {
            // By its descriptor: another cgroup may have its name by now.
            let path = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
            let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONLYDIR;
            watched.directories.push(watched.inotify.add_watch(path.as_str(), flags)?);
        }
        Ok(watched)
    }

    /// What has been written to since this was last asked.
    pub fn changes(&self) -> Changes {
        let mut changed = HashSet::new();
        loop {
            let events = match self.0.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Changes::Of(changed),
                Err(_) => return Changes::Any,
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    return Changes::Any;
                }
                let name = event.name.as_deref().and_then(|name| name.to_str()).unwrap_or_default();
                if event.mask.contains(AddWatchFlags::IN_MODIFY) && !is_no_limit(name) {
                    changed.insert(event.wd);
                }
            }
        }
    }
}

/// Files that are written when a process enters, and those that the kernel marks when it has counted something.
fn is_no_limit(name: &str) -> bool {
    name == "tasks" || name.starts_with("cgroup.") || name.contains(".events")
}

impl Watched {
    /// Whether its limits may not be what they were.
    pub fn is_among(&self, changes: &Changes) -> bool {
        match changes {
            Changes::Of(changed) => self.directories.iter().any(|directory| changed.contains(directory)),
            Changes::Any => true,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for directory in self.directories.drain(..) {
            // The kernel may have dropped it with the directory.
            let _ = self.inotify.rm_watch(directory);
        }
    }
}
