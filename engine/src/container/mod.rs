//! The life of a container: its record, its monitor, its log, and the verbs that move it.
//!
//! A container is a row in the store ([`record`]) and, while it runs, one small process of ours: its
//! [`monitor`]. There is no daemon between a command and the kernel, so the two questions a daemon
//! would answer are answered by the kernel: *is it alive?* by a lock that the monitor holds for as long
//! as the container runs, and *who may talk to it?* by a socket beside that lock. A command that finds
//! a row saying "running" whose lock nobody holds knows that the monitor was killed, and puts things
//! right ([`recover`]) before it does its own work.

pub mod attach;
pub mod changes;
pub mod claim;
pub mod copy;
pub mod exec;
pub mod filter;
pub mod follow;
mod freeze;
mod health;
pub mod lifecycle;
pub mod lock;
pub mod log;
mod merge;
pub mod monitor;
pub mod mounts;
mod name;
pub mod network;
pub mod processes;
pub mod protocol;
mod prune;
pub mod record;
pub mod recover;
mod restore;
pub mod session;
pub mod spec;
pub mod step;
pub mod summon;
pub(crate) mod users;
pub mod view;
pub mod volumes;

use std::path::PathBuf;

pub use lifecycle::{
    NewContainer, create, kill, pause, remove, rename, start, start_code, stop, unpause, update, wait,
};
pub use merge::{NoCommand, merge};
pub use prune::prune;
pub use record::{Container, OutOfMemory, Record, State, Status, find, gone, list};
pub use restore::restore;

/// Why a container verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container answers to that name.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// A prefix fits more than one container.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousPrefix(String),
    /// The name is taken.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name asked for.
        name: String,
        /// The id of the container that has it.
        holder: String,
    },
    /// The name has characters a name may not have.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    InvalidName(String),
    /// Nothing to execute: neither the image nor the user names a command.
    #[error("no command specified")]
    NoCommand,
    /// The verb needs a running container.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The verb needs a container that is not paused.
    #[error("Container {0} is paused, unpause the container before {1}")]
    Paused(String, &'static str),
    /// SIGKILL was sent, and nobody has seen the end.
    #[error("cannot stop container: {0}: tried to kill container, but did not receive an exit event")]
    NoExit(String),
    /// Pausing what is paused.
    #[error("Container {0} is already paused")]
    AlreadyPaused(String),
    /// Unpausing what is not paused.
    #[error("Container {0} is not paused")]
    NotPaused(String),
    /// A running container was to be removed without force.
    #[error(
        "cannot remove container \"/{name}\": container is {status}: stop the container before removing or force remove"
    )]
    RemoveRunning {
        /// The container's name.
        name: String,
        /// Its status.
        status: &'static str,
    },
    /// `container:X` names something that does not run.
    #[error("cannot join {kind} of a non running container: {id}")]
    JoinStopped {
        /// Which namespace.
        kind: &'static str,
        /// The container named.
        id: String,
    },
    /// A field of the configuration makes no sense.
    #[error("{0}")]
    Invalid(#[from] InvalidConfig),
    /// The verb needs a container that is not between two runs.
    #[error("Container {0} is restarting, wait until the container is running")]
    IsRestarting(String),
    /// A signal for what does not run.
    #[error("cannot kill container: {0}: container {1} is not running")]
    CannotKill(String, String),
    /// The container's own program could not be executed.
    #[error("failed to create task for container: {message}")]
    Start {
        /// The exit code Docker gives: 126, 127 or 125.
        code: i32,
        /// What went wrong.
        message: String,
    },
    /// The monitor ended without saying how the start went.
    #[error("the monitor of container {0} ended before the container started")]
    MonitorLost(String),
    /// The signal's name is unknown.
    #[error("invalid signal: {0}")]
    Signal(String),
    /// A file or system call failed.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The call.
        call: &'static str,
        /// Its object.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The record in the database is not readable.
    #[error("record of container {id}: {source}")]
    Record {
        /// The container.
        id: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A container that is on its way out.
    #[error("You cannot commit container {0} which is being removed")]
    CommitRemoving(String),
    /// A container that no image is known of.
    #[error("container {0} was not made from an image")]
    NoImage(String),
    /// `cp` from or to a path that is not there.
    #[error("Could not find the file {} in container {container}", path.display())]
    NoSuchFile {
        /// The path as typed.
        path: PathBuf,
        /// The container as typed.
        container: String,
    },
    /// `cp` of a directory onto a file.
    #[error("cannot copy directory")]
    CopyDirectory,
    /// `cp` into what is no directory.
    #[error("not a directory")]
    NotADirectory,
    /// `cp` of a file to `DIR/` that is not there.
    #[error("no such directory")]
    NoSuchDirectory,
    /// `cp` into a container with a read-only root.
    #[error("container rootfs is marked read-only")]
    ReadOnlyRoot,
    /// `cp` to where something is mounted read only.
    #[error("mounted volume is marked read-only")]
    ReadOnlyVolume,
    /// `top` with a column that ps has not.
    #[error("ps: error: unknown user-defined format specifier {0:?}")]
    PsColumn(String),
    /// A signal asked this command to end, and it has put everything back.
    #[error("interrupted")]
    Interrupted,
    /// The operator's settings cannot be used.
    #[error(transparent)]
    Operator(#[from] crate::operator::Error),
    /// The log that is asked for cannot be had.
    #[error(transparent)]
    Log(#[from] log::Refused),
    /// A layer could not be read.
    #[error(transparent)]
    Layer(#[from] crate::layer::Error),
    /// An image could not be read or stored.
    #[error(transparent)]
    Image(#[from] crate::image::Error),
    /// A network refused.
    #[error(transparent)]
    Network(#[from] crate::network::Error),
    /// A volume refused.
    #[error(transparent)]
    Volume(#[from] crate::volume::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] crate::runtime::Error),
    /// The snapshot failed.
    #[error(transparent)]
    Snapshot(#[from] crate::snapshot::Error),
    /// The cgroup failed.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::Error),
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// A mount that cannot be.
    #[error(transparent)]
    Mount(#[from] mounts::Invalid),
    /// A new name that is the old one.
    #[error("Renaming a container with the same name as its current name")]
    SameName,
    /// A container of `run --rm` that ends is removed, and cannot be started again as well.
    #[error("Restart policy cannot be updated because AutoRemove is enabled for the container")]
    RestartOfAutoRemoved,
    /// A bind's source is missing.
    #[error("invalid mount config for type \"bind\": bind source path does not exist: {0}")]
    BindSource(String),
    /// A volume in the place of the root.
    #[error("invalid mount config for type \"volume\": invalid specification: destination can't be '/'")]
    VolumeOnRoot,
    /// `--volumes-from` without a container.
    #[error("volumes-from specification cannot be an empty string")]
    VolumesFromNobody,
    /// `--volumes-from` with a mode that means nothing there.
    #[error("invalid mode: {0}")]
    VolumesFromMode(String),
    /// A path in a volume that cannot be mounted.
    #[error("cannot access subpath {subpath:?} of volume {volume}: {source}")]
    Subpath {
        /// The path.
        subpath: String,
        /// The volume.
        volume: String,
        /// Why.
        source: std::io::Error,
    },
    /// A user or group that the image's files do not name.
    #[error("unable to find {kind} {name}: no matching entries in {file}")]
    UnknownUser {
        /// `user` or `group`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The file looked in.
        file: &'static str,
    },
    /// A user or group that no process can be.
    #[error("uids and gids must be in range 0-2147483647")]
    IdRange,
    /// A device that is not there or is no device.
    #[error("error gathering device information while adding custom device \"{path}\": {reason}")]
    Device {
        /// The path given.
        path: String,
        /// What the kernel says of it.
        reason: String,
    },
    /// A capability nobody knows.
    #[error("invalid CapAdd: unknown capability: \"{0}\"")]
    Capability(String),
    /// A security option nobody knows.
    #[error("invalid --security-opt 2: {0:?}")]
    SecurityOpt(String),
    /// A seccomp profile that makes no sense.
    #[error("decoding seccomp profile failed: {0}")]
    SeccompText(String),
    /// A seccomp profile that cannot be read.
    #[error("opening seccomp profile ({path}) failed: {reason}")]
    Seccomp {
        /// The profile.
        path: String,
        /// Why.
        reason: String,
    },
    /// A network mode that does not exist.
    #[error("network {0} not found")]
    Network(String),
    /// A ulimit nobody knows.
    #[error("invalid ulimit type: {0}")]
    Ulimit(String),
    /// An option that does not combine with another.
    #[error("conflicting options: {0}")]
    Conflict(&'static str),
    /// A mode with an unknown value.
    #[error("invalid {kind} mode: {value}")]
    Mode {
        /// Which mode.
        kind: &'static str,
        /// Its value.
        value: String,
    },
    /// A resource limit that makes no sense or that the host cannot keep.
    #[error(transparent)]
    Resource(#[from] crate::cgroup::validate::Invalid),
}

impl From<crate::cgroup::validate::Invalid> for Error {
    fn from(invalid: crate::cgroup::validate::Invalid) -> Self {
        Self::Invalid(invalid.into())
    }
}

pub(crate) trait IoContext<T> {
    fn at(self, call: &'static str, path: &std::path::Path) -> Result<T, Error>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, call: &'static str, path: &std::path::Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { call, path: path.to_owned(), source })
    }
}

impl<T> IoContext<T> for nix::Result<T> {
    fn at(self, call: &'static str, path: &std::path::Path) -> Result<T, Error> {
        self.map_err(|errno| Error::Io { call, path: path.to_owned(), source: errno.into() })
    }
}
