//! Containers as an OCI command line keeps them: one directory per container, and nothing else.
//!
//! `podman`, containerd and CRI-O bring their own idea of images, names and logs, and want of a runtime
//! only the verbs create, start, state, kill and delete over a bundle. Their containers do not appear in
//! the engine's store. A container's directory under the runtime's root is its claim on the id; it holds
//! the record, a copy of the specification as it was at creation, and the socket that `start` uses.
//! Whether a process still is the container's is asked of the kernel by pid *and* start time, so a reused
//! pid is nobody's container.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::{ContainerState, Process, Spec, State, StateBuilder};
use serde::{Deserialize, Serialize};

use super::{Error as RuntimeError, Exec, Gate, Init, Launch, Rootfs, Stdio, gate, hooks, kernel};
use crate::cgroup::{self, Cgroup};

/// Where containers are recorded unless `--root` says otherwise.
pub const DEFAULT_ROOT: &str = "/run/bulkhead-oci";

/// What can go wrong with an OCI verb.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id cannot name a directory.
    #[error("invalid container id: {0:?}")]
    Id(String),
    /// A container of this id exists.
    #[error("container with given ID already exists: {0}")]
    Exists(String),
    /// There is no container of this id.
    #[error("container does not exist: {0}")]
    NoSuchContainer(String),
    /// The verb does not fit the container's state.
    #[error("cannot {verb} a container in the {state} state: {id}")]
    State {
        /// What was asked for.
        verb: &'static str,
        /// The state it is in.
        state: Status,
        /// The container.
        id: String,
    },
    /// A file operation failed.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The operation, in the kernel's words.
        call: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that should hold JSON does not.
    #[error("{path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The cgroup refused.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
}

trait At<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { call, path: path.to_owned(), source })
    }
}

/// A container's state, with the one that OCI does not name and every runtime has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Set up, and waiting for `start`.
    Created,
    /// Running its program.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Stopped,
}

impl Status {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What is recorded of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its first process as the host sees it; 0 while it is being created.
    pub pid: i32,
    /// When that process began, in the kernel's ticks since boot; tells it from a later one of that pid.
    pub start_time: u64,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The root's directory.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// The parent of its cgroup.
    pub cgroup_parent: String,
    /// Its cgroup's name below that.
    pub cgroup_name: String,
}

/// How to create a container.
#[derive(Debug)]
pub struct Create<'a> {
    /// Its id.
    pub id: &'a str,
    /// The bundle: a directory with a config.json.
    pub bundle: &'a Path,
    /// Its standard streams.
    pub stdio: Stdio,
    /// How many descriptors from 3 on it keeps.
    pub preserve_fds: u32,
    /// Whether to change its root with pivot_root.
    pub pivot: bool,
    /// Whether `linux.cgroupsPath` is in systemd's form, `slice:prefix:name`.
    pub systemd: bool,
}

/// The containers under one root.
#[derive(Debug)]
pub struct Registry {
    root: PathBuf,
}

/// One container.
#[derive(Debug)]
pub struct Container {
    dir: PathBuf,
    /// What is recorded of it.
    pub record: Record,
    /// What could not be given when it was created.
    pub warnings: Vec<String>,
    lock: Option<Flock<fs::File>>,
}

/// Reads a specification.
pub fn read_spec(path: &Path) -> Result<Spec, Error> {
    let bytes = fs::read(path).at("open", path)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// Reads a process's specification, as `exec --process` takes it.
pub fn read_process(path: &Path) -> Result<Process, Error> {
    let bytes = fs::read(path).at("open", path)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.to_owned(), source })
}

impl Registry {
    /// The containers under `root`, which need not exist yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn dir(&self, id: &str) -> Result<PathBuf, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
        if id.is_empty() || id == "." || id == ".." || id.len() > 255 || !id.bytes().all(plain) {
            return Err(Error::Id(id.to_owned()));
        }
        Ok(self.root.join(id))
    }

    /// Creates a container. It waits for [`Container::start`], by this process or another; its console,
    /// where it has one, is in the [`Init`].
    pub fn create(&self, create: Create<'_>) -> Result<(Container, Init), Error> {
        let bundle = fs::canonicalize(create.bundle).at("open", create.bundle)?;
        let spec = read_spec(&bundle.join("config.json"))?;
        let dir = self.dir(create.id)?;
        let root =
            spec.root().as_ref().ok_or_else(|| RuntimeError::invalid("root", "config.json has none"))?;
        let rootfs = bundle.join(root.path());
        let rootfs = fs::canonicalize(&rootfs).at("open", &rootfs)?;
        let (cgroup_parent, cgroup_name) = cgroup_of(&spec, create.id, create.systemd)?;
        match fs::DirBuilder::new().mode(0o711).recursive(true).create(&self.root).and_then(|()| {
            // The directory is the claim on the id.
            fs::DirBuilder::new().mode(0o711).create(&dir)
        }) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists(create.id.to_owned()));
            }
            other => other.at("mkdir", &dir)?,
        }
        let record = Record {
            id: create.id.to_owned(),
            pid: 0,
            start_time: 0,
            bundle,
            rootfs,
            created: jiff::Timestamp::now().to_string(),
            cgroup_parent,
            cgroup_name,
        };
        let mut container = Container { lock: Some(lock(&dir)?), dir, record, warnings: Vec::new() };
        let made = container.make_cgroup(&spec).and_then(|cgroup| {
            container.make(create, &spec, &cgroup).inspect_err(|_| {
                // The first failure is the one to tell.
                let _ = cgroup.kill();
                let _ = cgroup.remove();
            })
        });
        match made {
            Ok(init) => Ok((container, init)),
            Err(error) => {
                let _ = fs::remove_dir_all(&container.dir);
                Err(error)
            }
        }
    }

    /// Opens a container, and keeps other verbs from it until it is dropped.
    pub fn open(&self, id: &str) -> Result<Container, Error> {
        let dir = self.dir(id)?;
        let missing = |error: Error| match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Error::NoSuchContainer(id.to_owned())
            }
            other => other,
        };
        let lock = lock(&dir).map_err(missing)?;
        let record = read_record(&dir).map_err(missing)?;
        Ok(Container { dir, record, warnings: Vec::new(), lock: Some(lock) })
    }

    /// All containers, by id. One that is half made, or half removed, is left out.
    pub fn list(&self) -> Result<Vec<Container>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.at("opendir", &self.root)?,
        };
        let mut containers = Vec::new();
        for entry in entries {
            let dir = entry.at("readdir", &self.root)?.path();
            if let Ok(record) = read_record(&dir) {
                containers.push(Container { dir, record, warnings: Vec::new(), lock: None });
            }
        }
        containers.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        Ok(containers)
    }

    /// What a killed `create` may have left: a directory without a record. Returns whether there was one.
    pub fn sweep(&self, id: &str) -> Result<bool, Error> {
        let dir = self.dir(id)?;
        if !dir.exists() || dir.join("state.json").exists() {
            return Ok(false);
        }
        fs::remove_dir_all(&dir).at("remove", &dir)?;
        Ok(true)
    }
}

impl Container {
    /// Lets other verbs at it, for a verb that stays for as long as the container runs.
    pub fn release(&mut self) {
        self.lock = None;
    }

    fn make_cgroup(&mut self, spec: &Spec) -> Result<Cgroup, Error> {
        write_json(&self.dir.join("config.json"), spec)?;
        // Recorded before it exists, so that a forced delete finds what a killed create has left.
        self.save()?;
        let mut resources = spec.linux().as_ref().and_then(|l| l.resources().clone()).unwrap_or_default();
        if let Some(rules) = resources.devices_mut().as_mut().filter(|rules| !rules.is_empty()) {
            // Callers count on the runtime for the devices that every container has.
            rules.extend(super::defaults::device_rules().into_iter().skip(1));
        }
        let (cgroup, warnings) =
            Cgroup::create(&self.record.cgroup_parent, &self.record.cgroup_name, &resources)?;
        self.warnings.extend(warnings.iter().map(ToString::to_string));
        Ok(cgroup)
    }

    fn make(&mut self, create: Create<'_>, spec: &Spec, cgroup: &Cgroup) -> Result<Init, Error> {
        let listener = gate::listen(&self.dir)?;
        let attach = cgroup.attach()?;
        let init = super::create(&Launch {
            id: create.id,
            spec,
            bundle: &self.record.bundle,
            rootfs: Rootfs::Path(&self.record.rootfs),
            shm_of: None,
            fresh: super::Fresh::default(),
            cgroup: Some(&attach),
            stdio: create.stdio,
            preserve_fds: create.preserve_fds,
            default_rlimits: &[],
            gate: Gate::Socket(listener.as_fd()),
            init: false,
            pivot: create.pivot,
        })?;
        self.warnings.extend_from_slice(init.warnings());
        self.record.pid = init.pid().as_raw();
        self.record.start_time = start_time(self.record.pid).unwrap_or(0);
        self.save()?;
        Ok(init)
    }

    fn save(&self) -> Result<(), Error> {
        write_json(&self.dir.join("state.json"), &self.record)
    }

    /// The specification as it was when the container was created.
    pub fn spec(&self) -> Result<Spec, Error> {
        read_spec(&self.dir.join("config.json"))
    }

    /// Its cgroup. An error of the kind "gone" is what remains of one that was removed.
    pub fn cgroup(&self) -> Result<Cgroup, Error> {
        Ok(Cgroup::open(&self.record.cgroup_parent, &self.record.cgroup_name)?)
    }

    /// The state it is in now.
    pub fn status(&self) -> Status {
        if self.record.pid == 0 || start_time(self.record.pid) != Some(self.record.start_time) {
            return Status::Stopped;
        }
        if self.cgroup().and_then(|cgroup| Ok(cgroup.is_frozen()?)).unwrap_or(false) {
            return Status::Paused;
        }
        if gate::waits(&self.dir) { Status::Created } else { Status::Running }
    }

    fn expect(&self, verb: &'static str, wanted: &[Status]) -> Result<Status, Error> {
        let state = self.status();
        if wanted.contains(&state) {
            Ok(state)
        } else {
            Err(Error::State { verb, state, id: self.record.id.clone() })
        }
    }

    /// The state in OCI's form; a paused container is a running one there.
    pub fn state(&self) -> Result<State, Error> {
        let status = self.status();
        let mut state = StateBuilder::default()
            .version(super::defaults::OCI_VERSION)
            .id(self.record.id.as_str())
            .status(match status {
                Status::Created => ContainerState::Created,
                Status::Running | Status::Paused => ContainerState::Running,
                Status::Stopped => ContainerState::Stopped,
            })
            .bundle(self.record.bundle.as_path())
            .build()
            .map_err(|_| RuntimeError::Died)?;
        state.set_annotations(self.spec()?.annotations().clone());
        state.set_pid(Some(if status == Status::Stopped { 0 } else { self.record.pid }));
        Ok(state)
    }

    /// Lets it run its program, then runs its poststart hooks. A poststart hook that fails is returned
    /// and undoes nothing.
    pub fn start(&self) -> Result<Option<RuntimeError>, Error> {
        self.expect("start", &[Status::Created])?;
        gate::start(&self.dir)?;
        let (record, spec) = (&self.record, self.spec()?);
        let hooks = hooks::run(
            hooks::Point::Poststart,
            &spec,
            &record.id,
            &record.bundle,
            record.pid,
            ContainerState::Running,
        );
        Ok(hooks.err())
    }

    /// Signals its first process, or all of its processes.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), Error> {
        if all {
            return Ok(self.cgroup()?.signal_all(signal)?);
        }
        self.expect("kill", &[Status::Created, Status::Running, Status::Paused])?;
        let pidfd = self.pidfd()?;
        kernel::pidfd_send_signal(pidfd.as_fd(), signal).at("kill", Path::new(&self.record.id))?;
        // A frozen process does not die of a signal until it is thawed; v2 lets SIGKILL through.
        Ok(())
    }

    /// The pidfd of its first process, checked to be that process.
    pub fn pidfd(&self) -> Result<OwnedFd, Error> {
        let gone = || Error::State { verb: "signal", state: Status::Stopped, id: self.record.id.clone() };
        let pidfd = kernel::pidfd_open(self.record.pid).map_err(|_| gone())?;
        // Looked at after the pidfd is open: what it names cannot change any more.
        if start_time(self.record.pid) != Some(self.record.start_time) {
            return Err(gone());
        }
        Ok(pidfd)
    }

    /// Freezes it.
    pub fn pause(&self) -> Result<(), Error> {
        self.expect("pause", &[Status::Created, Status::Running])?;
        Ok(self.cgroup()?.freeze()?)
    }

    /// Thaws it.
    pub fn resume(&self) -> Result<(), Error> {
        self.expect("resume", &[Status::Paused])?;
        Ok(self.cgroup()?.thaw()?)
    }

    /// Starts one more process in it, up to the exec.
    pub fn exec(&self, process: &Process, stdio: Stdio, preserve_fds: u32) -> Result<Init, Error> {
        self.expect("exec in", &[Status::Created, Status::Running])?;
        let (pidfd, spec, attach) = (self.pidfd()?, self.spec()?, self.cgroup()?.attach()?);
        Ok(super::exec(&Exec {
            target: pidfd.as_fd(),
            spec: &spec,
            process,
            cgroup: Some(&attach),
            stdio,
            preserve_fds,
            default_rlimits: &[],
        })?)
    }

    /// Removes a container that has ended; with `force` one that has not, too. A poststop hook that fails
    /// is returned and undoes nothing.
    pub fn delete(self, force: bool) -> Result<Option<RuntimeError>, Error> {
        if !force {
            self.expect("delete", &[Status::Stopped])?;
        }
        let spec = self.spec().ok();
        self.remove_all()?;
        let record = &self.record;
        Ok(spec.and_then(|spec| {
            let stopped = ContainerState::Stopped;
            hooks::run(hooks::Point::Poststop, &spec, &record.id, &record.bundle, 0, stopped).err()
        }))
    }

    fn remove_all(&self) -> Result<(), Error> {
        match self.cgroup() {
            Ok(cgroup) => {
                let _ = cgroup.thaw();
                cgroup.kill()?;
                cgroup.remove()?;
            }
            Err(Error::Cgroup(cgroup::Error::Gone { .. })) => {}
            Err(error) => return Err(error),
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.at("remove", &self.dir),
        }
    }
}

fn lock(dir: &Path) -> Result<Flock<fs::File>, Error> {
    let file = fs::File::open(dir).at("open", dir)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into()).at("flock", dir)
}

fn read_record(dir: &Path) -> Result<Record, Error> {
    let path = dir.join("state.json");
    let bytes = fs::read(&path).at("open", &path)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { path, source })
}

/// Written beside and renamed over, so that nobody reads half a record.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let beside = path.with_extension("new");
    let bytes = serde_json::to_vec(value).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    fs::write(&beside, bytes).at("write", &beside)?;
    fs::rename(&beside, path).at("rename", path)
}

/// When a process began; none when there is none, or only a zombie of it.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name in parentheses: the state is field 3, the start time field 22 (proc(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

/// The parent and the name of a container's cgroup.
fn cgroup_of(spec: &Spec, id: &str, systemd: bool) -> Result<(String, String), Error> {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_deref());
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok((format!("{}/oci", cgroup::DEFAULT_PARENT), id.to_owned()));
    };
    let invalid = || RuntimeError::invalid("linux.cgroupsPath", path.display().to_string());
    let text = path.to_str().ok_or_else(invalid)?;
    if systemd || text.split(':').count() == 3 {
        // slice:prefix:name. There is no systemd in it: the same names, as plain cgroups.
        let mut parts = text.split(':');
        let (Some(slice), Some(prefix), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid().into());
        };
        let parent = if slice.is_empty() { "/system.slice".to_owned() } else { format!("/{slice}") };
        return Ok((parent, format!("{prefix}-{name}.scope")));
    }
    if path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(invalid().into());
    }
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
    let above = path.parent().and_then(Path::to_str).unwrap_or("").trim_matches('/');
    let parent = match (path.is_absolute(), above) {
        // A relative path is the runtime's to place.
        (_, "") => format!("{}/oci", cgroup::DEFAULT_PARENT),
        (false, above) => format!("{}/oci/{above}", cgroup::DEFAULT_PARENT),
        (true, above) => format!("/{above}"),
    };
    Ok((parent, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroups_path_is_split_into_parent_and_name() {
        let spec = |path: &str| {
            serde_json::from_value::<Spec>(serde_json::json!({
                "ociVersion": "1.0.2", "linux": {"cgroupsPath": path}
            }))
            .expect("specification")
        };
        for (path, systemd, parent, name) in [
            ("", false, "/bulkhead/oci", "id"),
            ("/a/b/c", false, "/a/b", "c"),
            ("/c", false, "/bulkhead/oci", "c"),
            ("a/c", false, "/bulkhead/oci/a", "c"),
            ("machine.slice:libpod:42", true, "/machine.slice", "libpod-42.scope"),
            (":libpod:42", true, "/system.slice", "libpod-42.scope"),
        ] {
            let got = cgroup_of(&spec(path), "id", systemd).expect(path);
            assert_eq!((got.0.as_str(), got.1.as_str()), (parent, name), "{path}");
        }
        for path in ["/a/../b", "/"] {
            assert!(cgroup_of(&spec(path), "id", false).is_err(), "{path}");
        }
    }

    #[test]
    fn an_id_cannot_leave_the_root() {
        let registry = Registry::new(Path::new("/root"));
        for id in ["", ".", "..", "a/b", "../a", "a\0b", "ü"] {
            assert!(matches!(registry.dir(id), Err(Error::Id(_))), "{id:?}");
        }
        assert_eq!(registry.dir("a_B-1.+").expect("valid"), Path::new("/root/a_B-1.+"));
    }

    #[test]
    fn our_own_start_time_is_the_same_twice() {
        let own = std::process::id() as i32;
        assert!(start_time(own).is_some());
        assert_eq!(start_time(own), start_time(own));
        assert_eq!(start_time(i32::MAX), None);
    }
}
