//! The volumes of a container, from what was asked for to what is removed with it.
//!
//! What a container has mounted is decided once, when it is created, and recorded: `-v` and `--mount`, the mounts
//! of other containers (`--volumes-from`), and a volume without a name for every path that its image declares and
//! nothing else is mounted on. The volumes that are missing are made in the transaction that records the
//! container. A container that has none passes here without a query or a system call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use super::record::{self, Container};
use super::{Error, InvalidConfig, IoContext as _, mounts};
use crate::config::{Config, HostConfig, MountPoint};
use crate::runtime::kernel;
use crate::snapshot::Snapshot;
use crate::store::{Layout, Store};
use crate::volume::{self, NewVolume};

/// What a container is to have mounted.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// The mounts, for the record.
    pub points: Vec<MountPoint>,
    /// The volumes among them.
    pub volumes: Vec<NewVolume>,
}

impl Mounts {
    fn take(&mut self, point: MountPoint) {
        // What is said later about the same place holds.
        self.points.retain(|other| clean(&other.destination) != clean(&point.destination));
        self.points.push(point);
    }

    fn has(&self, destination: &str) -> bool {
        self.points.iter().any(|point| clean(&point.destination) == destination)
    }

    /// A volume, whose name is made up where it has none.
    fn volume(&mut self, layout: &Layout, mut point: MountPoint) -> Result<(), Error> {
        let options = point.volume_options.take().unwrap_or_default();
        let mut new = if point.name.is_empty() {
            point.anonymous = true;
            NewVolume::anonymous()?
        } else {
            NewVolume { name: point.name.clone(), ..NewVolume::default() }
        };
        new.labels.extend(options.labels);
        new.options.extend(options.driver_config.options);
        new.driver = options.driver_config.name;
        new.check()?;
        point.name.clone_from(&new.name);
        point.source = volume::mountpoint(layout, &new.name).to_string_lossy().into_owned();
        point.subpath = options.subpath;
        point.copy = !options.no_copy && point.subpath.is_empty();
        self.volumes.push(new);
        self.take(point);
        Ok(())
    }
}

/// Go's `path.Clean` of an absolute path: no `.`, `..`, doubled or trailing slashes. Only for comparing and
/// recording what was said; what is mounted is resolved in the kernel.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Decides what a container has mounted, in Docker's order.
pub(super) fn resolve(store: &Store, config: &Config, host: &HostConfig) -> Result<Mounts, Error> {
    let layout = store.layout();
    let mut mounts = Mounts::default();
    for text in host.volumes_from.iter().flatten() {
        for point in volumes_from(store, text)? {
            if point.kind == "volume" {
                // It is there, since the other container uses it; should that go just now, it is made again.
                let labels = if point.anonymous { volume::anonymous_labels() } else { BTreeMap::new() };
                mounts.volumes.push(NewVolume { name: point.name.clone(), labels, ..NewVolume::default() });
            }
            mounts.take(point);
        }
    }
    for text in host.binds.iter().flatten() {
        let point = mounts::bind(text).map_err(InvalidConfig::from)?;
        if point.kind == "volume" { mounts.volume(layout, point)? } else { mounts.take(point) }
    }
    for point in &host.mounts {
        if point.kind == "volume" {
            let mut point = point.clone();
            // Docker shows the label that SELinux would give it.
            "z".clone_into(&mut point.mode);
            mounts.volume(layout, point)?;
        } else {
            // What `-v` binds is made where it is not there, and this is not.
            if point.kind == "bind" && matches!(Path::new(&point.source).try_exists(), Ok(false)) {
                return Err(InvalidConfig::BindSource(point.source.clone()).into());
            }
            mounts.take(point.clone());
        }
    }
    for path in config.volumes.iter().flat_map(|paths| paths.keys()) {
        let destination = clean(path);
        if destination == "/" {
            return Err(InvalidConfig::VolumeOnRoot.into());
        }
        if mounts.has(&destination) || host.tmpfs.keys().any(|target| clean(target) == destination) {
            continue;
        }
        let point = MountPoint { kind: "volume".into(), destination, rw: true, ..MountPoint::default() };
        mounts.volume(layout, point)?;
    }
    Ok(mounts)
}

/// The mounts of another container: `CONTAINER[:MODE]`.
fn volumes_from(store: &Store, text: &str) -> Result<Vec<MountPoint>, Error> {
    if text.is_empty() {
        return Err(InvalidConfig::VolumesFromNobody.into());
    }
    let (name, mode) = text.split_once(':').unwrap_or((text, ""));
    let (mut access, mut label) = (BTreeSet::new(), 0);
    for word in mode.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" | "rw" => drop(access.insert(word)),
            "z" | "Z" => label += 1,
            _ => return Err(InvalidConfig::VolumesFromMode(mode.to_owned()).into()),
        }
    }
    if access.len() > 1 || label > 1 {
        return Err(InvalidConfig::VolumesFromMode(mode.to_owned()).into());
    }
    let mut points = record::find(store, name)?.record.mounts;
    for point in &mut points {
        point.rw &= !access.contains("ro");
        // The other's image was there first.
        point.copy = false;
    }
    Ok(points)
}

/// Records a container with the volumes it uses, and makes those that are missing. `insert` writes its row.
pub(super) fn record(
    store: &Store,
    container: &mut Container,
    volumes: &[NewVolume],
    insert: impl FnOnce(&Store, &mut Container) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut making = volume::Making::new(store)?;
    let tx = volume::write(store)?;
    for new in volumes {
        making.ensure(new)?;
    }
    insert(store, container)?;
    for point in of(container) {
        volume::add_user(store, &point.name, &container.id, point.copy)?;
    }
    volume::commit(store, tx)?;
    making.done();
    Ok(())
}

/// The mounts of a container that are volumes.
pub(super) fn of(container: &Container) -> impl Iterator<Item = &MountPoint> {
    container.record.mounts.iter().filter(|point| point.kind == "volume")
}

/// Forgets a container, and with `remove` the volumes without a name that nobody else uses.
pub(super) fn forget(store: &Store, container: &Container, remove: bool) -> Result<(), Error> {
    if of(container).next().is_none() {
        return record::delete(store, &container.id);
    }
    let mut going = volume::Going::new(store)?;
    let tx = volume::write(store)?;
    record::delete(store, &container.id)?;
    for point in of(container) {
        volume::drop_user(store, &point.name, &container.id)?;
    }
    for point in of(container).filter(|point| remove && point.anonymous) {
        // Used by another container, in use on the host, or gone: the container goes all the same.
        if let Ok(volume) = volume::find(store, &point.name) {
            match going.take(store, &volume) {
                Ok(()) | Err(volume::Error::InUse { .. } | volume::Error::MountedInside { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    volume::commit(store, tx)?;
    Ok(going.done()?)
}

/// Copies the image's files into the container's volumes that are empty. Once it is done it is not done again.
pub(super) fn fill(store: &Store, container: &Container) -> Result<(), Error> {
    let layout = store.layout();
    let points: Vec<_> = of(container).filter(|point| point.copy).collect();
    if points.is_empty() {
        return Ok(());
    }
    let mut held = Vec::new();
    let mut empty = Vec::new();
    for point in &points {
        let volume = volume::find(store, &point.name)?;
        if !volume.options.is_empty() {
            held.push(volume::mounted::attach(layout, &volume)?);
        }
        let dir = layout.volumes().join(&point.name);
        if volume::fill::is_wanted(&dir)? {
            empty.push((*point, dir));
        }
    }
    if !empty.is_empty() {
        // Tells the next command to look, should this one be killed.
        let _mark = store.scratch()?;
        // Where the kernel is old, looking at an image takes a mount namespace of one's own, and a thread can have one.
        std::thread::scope(|scope| {
            let filled = scope.spawn(|| fill_each(layout, container, &empty)).join();
            filled.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
    }
    points.iter().try_for_each(|point| Ok(volume::set_filled(store, &point.name, &container.id)?))
}

fn fill_each(layout: &Layout, container: &Container, empty: &[(&MountPoint, PathBuf)]) -> Result<(), Error> {
    let root = Snapshot::open(layout, &container.id, &container.record.chain).view()?;
    for (point, dir) in empty {
        let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let path = Path::new(&point.destination);
        let source = match kernel::openat2(root.as_fd(), path, flags, 0, resolve) {
            // Nothing to copy; that a directory cannot be mounted on a file is for the start to say.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => continue,
            other => other.at("open", path)?,
        };
        // Data that goes with the container need not outlive a power cut.
        let durable = !(point.anonymous && container.record.host_config.auto_remove);
        volume::fill::fill(dir, source, durable)?;
    }
    Ok(())
}

/// What a running container holds of its volumes, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Attached {
    layout: Option<Layout>,
    told: Vec<crate::events::Event>,
    #[expect(dead_code, reason = "held, never read")]
    held: Vec<volume::mounted::Held>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(layout) = &self.layout {
            self.told.iter().for_each(|event| event.tell_now(layout));
        }
    }
}

/// Makes a container's volumes ready for a start.
pub(super) fn attach(store: &Store, container: &Container) -> Result<Attached, Error> {
    if of(container).next().is_none() {
        return Ok(Attached::default());
    }
    let layout = store.layout();
    let (mut told, mut held) = (Vec::new(), Vec::new());
    for point in of(container) {
        if point.copy && volume::is_unfilled(store, &point.name, &container.id)? {
            // Whoever created it was killed before it came to this.
            fill(store, container)?;
        }
        let volume = volume::find(store, &point.name)?;
        volume::make_dirs(layout, &volume.name)?;
        if !volume.options.is_empty() {
            held.push(volume::mounted::attach(layout, &volume)?);
            volume::fill::resume(&layout.volumes().join(&volume.name))?;
        }
        let event = volume.event("mount").with("container", &container.id);
        event
            .with("destination", &point.destination)
            .with("propagation", &point.propagation)
            .with("read/write", &point.rw)
            .tell(layout);
        told.push(volume.event("unmount").with("container", &container.id));
    }
    Ok(Attached { layout: Some(layout.clone()), told, held })
}

/// Unmounts what the monitor of a container left mounted that was killed.
pub(super) fn release(store: &Store, container: &Container) -> Result<(), Error> {
    for point in of(container) {
        volume::mounted::release(&store.layout().volumes().join(&point.name))?;
    }
    Ok(())
}

/// What of a volume is mounted. A path below it leads to where the volume's own data says, but never out of it.
pub(super) fn source(point: &MountPoint) -> Result<PathBuf, Error> {
    let data = Path::new(&point.source);
    if point.subpath.is_empty() {
        return Ok(data.to_owned());
    }
    let refused = |source: io::Error| {
        Error::from(InvalidConfig::Subpath {
            subpath: point.subpath.clone(),
            volume: point.name.clone(),
            source,
        })
    };
    let root = nix::fcntl::open(
        data,
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .at("open", data)?;
    let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV;
    let found = kernel::openat2(root.as_fd(), Path::new(&point.subpath), libc::O_PATH, 0, resolve)
        .map_err(refused)?;
    // By its own name, in which there is no link: whoever puts one there now is refused when it is mounted.
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, want) in
            [("/a/", "/a"), ("a//b/./c", "/a/b/c"), ("/../a/../b", "/b"), ("", "/"), ("/", "/"), ("..", "/")]
        {
            assert_eq!(clean(path), want, "{path}");
        }
    }
}
