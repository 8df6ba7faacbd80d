//! Builds: a Dockerfile and a context become an image.
//!
//! A build is a command like any other: it opens the store, works in its own process and ends. Its parts know
//! little of each other. [`dockerfile`] reads; [`pattern`] decides what a `.dockerignore` leaves out;
//! [`context`] brings a directory or a tar, and [`remote`] what is somewhere else, to where [`tree`] can take from it; [`place`] puts things into a
//! root, with the permissions that [`mode`] makes; [`cache`] knows what was made before; and [`solve`] walks the stages that the target needs, several at
//! once, step by step, each of which is a change of the configuration, or a layer, or both. [`output`] takes the files out again.
//!
//! *A layer is made as a commit makes one.* Both `RUN` and `COPY` write into the upper directory of an overlay
//! of the layers so far. The tar of what they changed gives the layer its name, and since nobody needs the
//! directory any more it becomes the layer itself, after the same `syncfs` and by the same rename as
//! everything else in the store. A build that is killed leaves scratch that the next command sweeps.
//!
//! *What a Dockerfile names is resolved by the kernel*, in the context or in the root of the step and with
//! that directory as the root, never by string: see [`tree`] and [`place`].

pub mod cache;
pub mod context;
pub mod dockerfile;
mod download;
pub mod git;
mod hashes;
pub mod inherit;
pub mod mode;
pub mod output;
pub mod pattern;
pub mod place;
pub mod remote;
mod solve;
pub mod tree;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use crate::config::Resources;
use crate::digest::Digest;
use crate::image::{self, Reference};
use crate::store::Store;

pub use solve::{build, bytes};

/// Below the root: what `--mount=type=cache` keeps, and what files of contexts hash to.
const CACHES: &str = "build-cache";

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or system call failed.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The operation, in the kernel's words.
        call: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The Dockerfile cannot be read.
    #[error(transparent)]
    Dockerfile(Box<dockerfile::Error>),
    /// There is no Dockerfile.
    #[error("failed to read dockerfile: open {0}: no such file or directory")]
    NoDockerfile(String),
    /// It is not text.
    #[error("failed to read dockerfile: {0} is not valid UTF-8")]
    NotText(String),
    /// Something is larger than anybody would have it.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A word does not expand.
    #[error("failed to process {word:?}: {reason}")]
    Word {
        /// The word.
        word: String,
        /// Why.
        reason: dockerfile::words::Error,
    },
    /// `FROM $nothing`.
    #[error("base name ({0}) should not be blank")]
    BlankBase(String),
    /// `FROM Upper`.
    #[error("failed to parse stage name {name:?}: {source}")]
    BaseName {
        /// As written.
        name: String,
        /// Why.
        source: image::ParseError,
    },
    /// Two stages of one name.
    #[error("duplicate name {0}")]
    DuplicateStage(String),
    /// `--target` names nothing.
    #[error("target stage {0:?} could not be found")]
    NoTarget(String),
    /// A stage that needs itself.
    #[error("circular dependency detected on stage: {0}")]
    Circular(String),
    /// `--from` gives the number of a stage that is not there, or not before this one.
    #[error("invalid stage index {0}")]
    StageIndex(String),
    /// A `COPY` of what is not there.
    #[error(
        "failed to compute cache key: failed to calculate checksum of ref {of}: {path:?}: not found",
        of = "context",
        path = format!("/{}", .0)
    )]
    NotFound(String),
    /// A directory onto something else.
    #[error("cannot copy to non-directory: /{0}")]
    NotADirectory(String),
    /// Something else onto a directory.
    #[error("cannot replace directory /{0} with file")]
    OntoDirectory(String),
    /// `--chmod` that is no mode.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Chmod(String),
    /// `--chown` of somebody the image does not know.
    #[error("invalid user index: {0}")]
    Chown(String),
    /// `EXPOSE x`.
    #[error("invalid containerPort: {0}")]
    Port(String),
    /// A signal nobody knows.
    #[error("invalid signal: {0}")]
    Signal(String),
    /// A base that cannot be had.
    #[error("{shown}: failed to resolve source metadata for {name}: {source}")]
    Resolve {
        /// As written.
        shown: String,
        /// As it is called.
        name: String,
        /// Why.
        source: Box<image::Error>,
    },
    /// A base that is for something else.
    #[error("{name}: no match for platform in manifest: wanted {wanted}, actual: {actual}")]
    Platform {
        /// The image.
        name: String,
        /// What was asked for.
        wanted: String,
        /// What it is for.
        actual: String,
    },
    /// A secret that was not given.
    #[error("secret {0}: not found")]
    Secret(String),
    /// A step's program ended badly.
    #[error("process \"{command}\" did not complete successfully: exit code: {code}")]
    Process {
        /// Its command.
        command: String,
        /// 128 + signal when it was killed.
        code: i32,
    },
    /// A step's program could not be executed.
    #[error("process \"{command}\" did not complete successfully: {message}")]
    Start {
        /// Its command.
        command: String,
        /// Why.
        message: String,
    },
    /// What is fetched is not what it should be.
    #[error("digest mismatch {actual}: {expected}")]
    Checksum {
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// Another stage has failed.
    #[error("context canceled")]
    Canceled,
    /// What Bulkhead does not do.
    #[error("{0}")]
    Unsupported(String),
    /// The container of a step failed.
    #[error(transparent)]
    Container(Box<crate::container::Error>),
    /// A layer failed.
    #[error(transparent)]
    Layer(Box<crate::layer::Error>),
    /// An image failed.
    #[error(transparent)]
    Image(Box<image::Error>),
    /// A repository could not be fetched.
    #[error(transparent)]
    Git(Box<git::Error>),
    /// A registry, or another server.
    #[error(transparent)]
    Registry(Box<crate::registry::Error>),
    /// The overlay of a step failed.
    #[error(transparent)]
    Snapshot(#[from] crate::snapshot::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

impl Error {
    fn io(call: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { call, path: path.to_owned(), source }
    }
}

/// Most results are no errors, and should not be as long as the longest of them.
macro_rules! boxed {
    ($($variant:ident: $error:ty),*) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        }
    )*};
}

boxed! {
    Dockerfile: dockerfile::Error,
    Container: crate::container::Error,
    Git: git::Error,
    Layer: crate::layer::Error,
    Image: image::Error,
    Registry: crate::registry::Error
}

/// A failure, and which lines of the Dockerfile it is about.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// From and to, from 1.
    pub lines: Option<(usize, usize)>,
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        let error = error.into();
        let lines = match &error {
            Error::Dockerfile(error) => error.lines(),
            _ => None,
        };
        Self { error, lines }
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// A file.
    File(PathBuf),
    /// A variable's value.
    Value(String),
}

/// What a build is told.
#[derive(Debug)]
pub struct Options {
    /// The Dockerfile.
    pub dockerfile: String,
    /// What is copied from; none when a Dockerfile is all there is.
    pub context: Option<tree::Tree>,
    /// The context will be there for the next build, and what its files hash to is worth remembering.
    pub lasting: bool,
    /// Names of the image.
    pub names: Vec<Reference>,
    /// Values of `ARG`s.
    pub args: Vec<(String, String)>,
    /// The stage that is wanted; the last where none.
    pub target: Option<String>,
    /// Labels of the image.
    pub labels: Vec<(String, String)>,
    /// Nothing that was made before is used.
    pub no_cache: bool,
    /// Nor in the stages of these names.
    pub no_cache_filter: Vec<String>,
    /// Images whose steps are as good as this machine's.
    pub cache_from: Vec<inherit::Source>,
    /// The image says the keys of its steps, for others to build from.
    pub inline_cache: bool,
    /// Bases are asked for at their registries even if they are here.
    pub pull: bool,
    /// `none`, `host` or a network, for `RUN`.
    pub network: String,
    /// `NAME:ADDRESS`, for `RUN`.
    pub hosts: Vec<String>,
    /// Bytes of /dev/shm, for `RUN`; 0 is the default.
    pub shm_size: i64,
    /// Limits, for `RUN`.
    pub resources: Resources,
    /// The cgroup that steps are made under.
    pub cgroup_parent: String,
    /// What bases must be for.
    pub platform: Option<String>,
    /// By id.
    pub secrets: Vec<(String, Secret)>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// It was done.
    Done,
    /// It had been done before.
    Cached,
    /// It failed.
    Failed(&'a str),
    /// Another one failed, and this was given up.
    Canceled,
}

/// Hears how a build goes. Steps have numbers, from 0, and begin in their order; several may be under way.
pub trait Watcher: Sync {
    /// A step begins.
    fn begin(&self, step: usize, name: &str);
    /// It printed something.
    fn output(&self, step: usize, error: bool, bytes: &[u8]);
    /// It says something of itself.
    fn status(&self, step: usize, text: &str);
    /// It ended.
    fn end(&self, step: usize, outcome: Outcome<'_>);
    /// Can be read from once nobody waits for the build any more, which is given up then.
    fn gone(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Brings an image that is not here, or asks whether it is still the newest.
pub type Fetch<'a> = &'a (dyn Fn(&mut Store, &Reference, Option<&str>) -> Result<(), image::Error> + Sync);

/// Fetches what an address leads to over HTTP, and writes it; returns its time (seconds) where the server says.
pub type Download<'a> =
    &'a (dyn Fn(&str, &mut dyn std::io::Write) -> Result<Option<i64>, crate::registry::Error> + Sync);

/// What a build made.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image.
    pub id: Digest,
    /// `--build-arg`s that no `ARG` asked for.
    pub unused: Vec<String>,
}
