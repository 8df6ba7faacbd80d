//! Where a build comes from: the Dockerfile, and what is copied from.
//!
//! A directory of this host's is left where it is, and its Dockerfile may be anywhere. What comes as a whole (over standard
//! input, from a repository, from an address) is brought into scratch, and its Dockerfile is in it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bulkhead_engine::build::context::{self, Definition, LONGEST, Received};
use bulkhead_engine::build::pattern::Ignore;
use bulkhead_engine::build::remote::{Address, Arrived};
use bulkhead_engine::build::tree::{Tree, open_directory};
use bulkhead_engine::build::{Download, Error, Failed};
use bulkhead_engine::store::{Scratch, Store};

use super::progress::printable;
use super::{failed, refused};
use crate::cli::build::BuildArgs;
use crate::failure::Failure;

/// Where a build comes from.
pub(super) struct Found {
    /// The Dockerfile as it is shown.
    pub(super) name: String,
    pub(super) text: Vec<u8>,
    pub(super) context: Option<Tree>,
    /// Of the `.dockerignore`; `None` without one.
    pub(super) ignored: Option<usize>,
    /// Held until the build is over.
    pub(super) scratch: Option<Scratch>,
    /// Where it was fetched from, as a step of its own, and what that found.
    pub(super) source: Option<(String, String)>,
}

impl Found {
    /// A Dockerfile without a context.
    fn alone(name: &str, text: Vec<u8>) -> Self {
        Self { name: name.to_owned(), text, context: None, ignored: None, scratch: None, source: None }
    }
}

/// A context that has come as a whole, into scratch.
fn whole(file: Option<&str>, root: &OwnedFd, scratch: Scratch) -> Result<Found, Error> {
    let given = match file {
        Some("-") => Some(read_stdin().map_err(|failed| failed.error)?),
        _ => None,
    };
    let name = file.filter(|name| *name != "-").unwrap_or("Dockerfile");
    let Definition { text, context, ignored } = context::definition(root, name, given)?;
    Ok(Found {
        name: name.to_owned(),
        text,
        context: Some(context),
        ignored,
        scratch: Some(scratch),
        source: None,
    })
}

/// What is somewhere else, fetched.
fn elsewhere(
    address: &Address,
    file: Option<&str>,
    scratch: Scratch,
    download: Download<'_>,
) -> Result<Found, Failure> {
    let shown = address.shown();
    let arrived = address.fetch(&scratch, download).map_err(|error| {
        let what = match address {
            Address::Repository(_) => "unable to 'git clone' to temporary context directory".to_owned(),
            Address::File(_) => format!("unable to download remote context {shown}"),
        };
        refused(format!("unable to prepare context: {what}: {}", printable(&error.to_string())))
    })?;
    match arrived {
        Arrived::Text(text) => {
            let found = Found::alone("Dockerfile", text);
            Ok(Found {
                source: Some((format!("[internal] load remote build context {shown}"), "done".to_owned())),
                ..found
            })
        }
        Arrived::Directory { root, commit } => {
            let found = whole(file, &root, scratch).map_err(|error| failed(&error))?;
            let source = match commit {
                Some(commit) => (format!("[internal] load git source {shown}"), format!("{commit} HEAD")),
                None => (format!("[internal] load remote build context {shown}"), "done".to_owned()),
            };
            Ok(Found { source: Some(source), ..found })
        }
    }
}

/// A file of the host's that is not absurdly long.
fn read_file(path: &Path, shown: &str) -> Result<Vec<u8>, Failed> {
    use std::io::Read as _;
    let io = |source| Error::Io { call: "open", path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoDockerfile(shown.to_owned()).into());
        }
        other => other.map_err(io)?,
    };
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::TooLarge { what: shown.to_owned(), limit: LONGEST }.into());
    }
    Ok(text)
}

fn read_stdin() -> Result<Vec<u8>, Failed> {
    read_file(Path::new("/dev/stdin"), "/dev/stdin")
}

/// `NAME.dockerignore` beside the Dockerfile, or the context's own `.dockerignore`.
fn ignore_of(beside: Option<&Path>, context: &Tree) -> Result<Option<Vec<u8>>, Failed> {
    if let Some(dockerfile) = beside {
        let mut name = dockerfile.as_os_str().to_owned();
        name.push(".dockerignore");
        let path = PathBuf::from(name);
        if path.is_file() {
            return Ok(Some(read_file(&path, &path.display().to_string())?));
        }
    }
    Ok(context.read(".dockerignore", LONGEST)?)
}

/// Finds what the command line names.
pub(super) fn find(args: &BuildArgs, store: &Store, download: Download<'_>) -> Result<Found, Failure> {
    let told = |failed: Failed| super::failed(&failed.error);
    let file = args.file.as_deref();
    if args.path == "-" {
        if file == Some("-") {
            return Err(refused("invalid argument: can't use stdin for both build context and dockerfile"));
        }
        let scratch = store.scratch().map_err(|error| refused(&error))?;
        let received = context::receive(io::stdin().lock(), &scratch).map_err(|error| failed(&error))?;
        return match received {
            Received::Text(text) => Ok(Found::alone("Dockerfile", text)),
            Received::Unpacked => {
                let root = open_directory(scratch.path()).map_err(|error| refused(&error))?;
                whole(file, &root, scratch).map_err(|error| failed(&error))
            }
        };
    }
    let directory = Path::new(&args.path);
    // A directory of that name comes first, as in Docker.
    if !directory.is_dir()
        && let Some(address) = Address::parse(&args.path)
    {
        let scratch = store.scratch().map_err(|error| refused(&error))?;
        return elsewhere(&address, file, scratch, download);
    }
    match std::fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refused(format!("unable to prepare context: path {:?} not found", args.path)));
        }
        Err(error) => return Err(refused(format!("unable to prepare context: {}: {error}", args.path))),
        Ok(meta) if !meta.is_dir() => {
            return Err(refused(format!(
                "unable to prepare context: context must be a directory: {}",
                args.path
            )));
        }
        Ok(_) => {}
    }
    let path = match file {
        Some("-") => None,
        Some(file) => Some(PathBuf::from(file)),
        None => Some(directory.join("Dockerfile")),
    };
    let name = match &path {
        None => "Dockerfile".to_owned(),
        Some(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let text = match &path {
        None => read_stdin(),
        Some(path) => read_file(path, &name),
    };
    let text = text.map_err(told)?;
    let plain = context::directory(directory, Ignore::default()).map_err(|error| failed(&error))?;
    let ignore = ignore_of(path.as_deref(), &plain).map_err(told)?;
    let rules = Ignore::parse(ignore.as_deref().unwrap_or_default());
    let context = context::directory(directory, rules).map_err(|error| failed(&error))?;
    Ok(Found {
        name,
        text,
        context: Some(context),
        ignored: ignore.map(|text| text.len()),
        scratch: None,
        source: None,
    })
}
