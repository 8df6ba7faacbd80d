//! What a container changed, and what it is now: `diff`, `commit`, `export`.
//!
//! `diff` and `commit` read the upper directory and nothing else ([`layer::diff`]). `export` reads the
//! whole root, through an overlay of its own.

use std::io::Write;

use super::Error;
use super::freeze::{Frozen, Signals};
use super::merge::{NoCommand, merge};
use super::record::{Container, Status};
use crate::config::Config;
use crate::digest::Digest;
use crate::image::{self, Change, Commit, Reference};
use crate::layer::{self, diff};
use crate::snapshot::Snapshot;
use crate::store::Store;

/// What `commit` may be told.
#[derive(Debug, Default)]
pub struct Options {
    /// What the image is to say; where it says nothing, the container does.
    pub config: Option<Config>,
    /// The new image's name.
    pub name: Option<Reference>,
    /// By whom.
    pub author: Option<String>,
    /// What is said about it.
    pub message: Option<String>,
    /// Instructions applied to the configuration, in order.
    pub changes: Vec<Change>,
    /// A running container is frozen while its files are read.
    pub pause: bool,
}

/// The paths that a container changed, sorted.
pub fn diff(store: &Store, container: &Container) -> Result<Vec<diff::Change>, Error> {
    let upper = Snapshot::open(store.layout(), &container.id, &container.record.chain).upper();
    Ok(diff::changes(&upper, &image::diff_dirs(store.layout(), &container.record.chain))?)
}

/// Makes an image of a container and returns its id. The container runs again when this returns, however
/// it returns.
pub fn commit(store: &mut Store, container: &Container, options: Options) -> Result<Digest, Error> {
    if container.state.status == Status::Removing {
        return Err(Error::CommitRemoving(container.id.clone()));
    }
    let parent = container.image.ok_or_else(|| Error::NoImage(container.id.clone()))?;
    let parent = image::get(store, &parent)?.ok_or_else(|| image::Error::NoSuchImage(parent.to_string()))?;
    let mut config = container.record.config.clone();
    if let Some(said) = options.config {
        config = merge(&config, said).map_err(|NoCommand| Error::NoCommand)?;
    }
    let mut config = of_image(config);
    for change in &options.changes {
        change.apply(&mut config);
    }
    let commit = Commit {
        config,
        created_by: container.record.config.cmd.clone().unwrap_or_default().join(" "),
        author: options.author,
        message: options.message,
        name: options.name,
    };
    // Dropped last: a signal that waited ends this command once everything is put back.
    let _signals = Signals::hold()?;
    let frozen = if options.pause { Frozen::take(store, container)? } else { None };
    let live = frozen.is_none() && container.state.status.is_alive();
    let upper = Snapshot::open(store.layout(), &container.id, &container.record.chain).upper();
    let below = image::diff_dirs(store.layout(), &container.record.chain);
    let changes = diff::Tree::changes(&upper, &below, live)?;
    let committed =
        image::commit(store, &parent, &commit, &changes, move || drop(frozen), &|| !Signals::wanted());
    if committed.is_err() && Signals::wanted() {
        return Err(Error::Interrupted);
    }
    let committed = committed?;
    container.event("commit").with("imageID", &committed).tell(store.layout());
    Ok(committed)
}

/// What of a container's configuration is the image's: not its name, its terminal or its clients.
fn of_image(config: Config) -> Config {
    Config {
        hostname: String::new(),
        domainname: String::new(),
        attach_stdin: false,
        attach_stdout: false,
        attach_stderr: false,
        tty: false,
        open_stdin: false,
        stdin_once: false,
        image: String::new(),
        ..config
    }
}

/// Writes a tar of a container's root, without what is mounted in it. A running container goes on.
pub fn export(store: &Store, container: &Container, out: &mut dyn Write) -> Result<(), Error> {
    let root = Snapshot::open(store.layout(), &container.id, &container.record.chain).view()?;
    Ok(diff::Tree::whole(root)?.tar(out)?)
}

/// Whether an error of [`export`] is about where it writes to.
pub fn is_output(error: &Error) -> Option<&std::io::Error> {
    match error {
        Error::Layer(layer::Error::Io { call: "write", source, .. }) => Some(source),
        _ => None,
    }
}
