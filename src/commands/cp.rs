//! `cp`: between a container and the host, or a tar on standard input or output.

use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use bulkhead_engine::container::{self, Error, changes, copy};

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::container::CpArgs;
use crate::failure::Failure;
use crate::output::human;

/// `CONTAINER:PATH`, or a path of the host. What begins with `/` or `.` is the host's, colon or not.
fn split(text: &str) -> (Option<&str>, &str) {
    if text.starts_with('/') || text.starts_with('.') {
        return (None, text);
    }
    match text.split_once(':') {
        Some((container, path)) => (Some(container), path),
        None => (None, text),
    }
}

/// An absolute path, with what it ends in as it was typed.
fn local(path: &str) -> Result<PathBuf, Failure> {
    if path.starts_with('/') {
        return Ok(path.into());
    }
    let here = std::env::current_dir().map_err(|error| Failure::plain(format!("getwd: {error}")))?;
    let mut absolute = here.into_os_string();
    absolute.push("/");
    absolute.push(path);
    Ok(absolute.into())
}

/// The host's own errors are the client's, a container's are the daemon's.
fn failure(error: &Error) -> Failure {
    match error {
        Error::CopyDirectory | Error::NotADirectory | Error::NoSuchDirectory => Failure::plain_from(error),
        Error::Io { call, path, source } => {
            Failure::plain(format!("{call} {}: {}", path.display(), crate::options::env::reason(source)))
        }
        other => Failure::daemon(other),
    }
}

/// Whoever runs this command.
fn us() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// `bulkhead cp`
pub fn run(globals: &Globals, args: &CpArgs) -> Result<u8, Failure> {
    if args.source.is_empty() {
        return Err(Failure::plain("source can not be empty"));
    }
    if args.destination.is_empty() {
        return Err(Failure::plain("destination can not be empty"));
    }
    let (bytes, to) = match (split(&args.source), split(&args.destination)) {
        ((Some(_), _), (Some(_), _)) => {
            return Err(Failure::plain("copying between containers is not supported"));
        }
        ((None, _), (None, _)) => return Err(Failure::plain("must specify at least one container source")),
        ((Some(name), path), (None, to)) => (from(globals, args, name, path, to)?, to.to_owned()),
        ((None, path), (Some(name), to)) => (into(globals, args, path, name, to)?, format!("{name}:{to}")),
    };
    if let Some(bytes) = bytes
        && !args.quiet
        && io::stderr().is_terminal()
    {
        let _ = writeln!(io::stderr(), "Successfully copied {} to {to}", human::size(bytes));
    }
    Ok(0)
}

/// Returns the bytes copied, if there is something to say about them.
fn from(globals: &Globals, args: &CpArgs, name: &str, path: &str, to: &str) -> Result<Option<u64>, Failure> {
    let local = if to == "-" { None } else { Some(local(to)?) };
    if let Some(local) = &local {
        let above = local.parent().unwrap_or(Path::new("/"));
        if !above.is_dir() {
            return Err(Failure::plain(format!(
                "invalid output path: directory {:?} does not exist",
                above.display().to_string()
            )));
        }
    }
    let store = store(globals)?;
    let found = container::find(&store, name).map_err(Failure::daemon)?;
    // The host's root is opened first: a stopped container may change the namespace.
    let host = copy::Root::host().map_err(|error| failure(&error))?;
    let root = copy::Root::container(&store, &found, name).map_err(Failure::daemon)?;
    let source = copy::Source::open(&root, &copy::absolute(path), args.follow_link)
        .map_err(|error| failure(&error))?;
    let Some(local) = local else {
        let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
        source.tar(None, &mut out).map_err(|error| {
            changes::is_output(&error).map_or_else(|| Failure::daemon(&error), Failure::stdout)
        })?;
        out.flush().map_err(|error| Failure::stdout(&error))?;
        return Ok(None);
    };
    let target = copy::Target::of(&host, &local, &source).map_err(|error| failure(&error))?;
    let owner = if args.archive { None } else { Some(us()) };
    copy::copy(&source, &target, owner).map_err(|error| failure(&error))?;
    Ok(Some(source.size()))
}

fn into(globals: &Globals, args: &CpArgs, path: &str, name: &str, to: &str) -> Result<Option<u64>, Failure> {
    // What is not there is found out before the store is opened.
    let source = if path == "-" {
        None
    } else {
        let host = copy::Root::host().map_err(|error| failure(&error))?;
        let local = local(path)?;
        Some(copy::Source::open(&host, &local, args.follow_link).map_err(|error| failure(&error))?)
    };
    let store = store(globals)?;
    let found = container::find(&store, name).map_err(Failure::daemon)?;
    let root = copy::Root::container(&store, &found, name).map_err(Failure::daemon)?;
    let to = copy::absolute(to);
    let Some(source) = source else {
        let target = copy::Target::directory(&root, &to).map_err(|error| match error {
            Error::NotADirectory => Failure::daemon("extraction point is not a directory"),
            other => failure(&other),
        })?;
        target.extract(io::stdin().lock()).map_err(|error| failure(&error))?;
        return Ok(None);
    };
    let target = copy::Target::of(&root, &to, &source).map_err(|error| failure(&error))?;
    let owner = if args.archive { None } else { Some((0, 0)) };
    copy::copy(&source, &target, owner).map_err(|error| failure(&error))?;
    Ok(Some(source.size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_the_hosts_or_a_containers() {
        for (text, want) in [
            ("c:/a", (Some("c"), "/a")),
            ("c:a:b", (Some("c"), "a:b")),
            ("a", (None, "a")),
            ("-", (None, "-")),
            ("/c:/a", (None, "/c:/a")),
            ("./c:/a", (None, "./c:/a")),
            ("c:", (Some("c"), "")),
        ] {
            assert_eq!(split(text), want, "{text}");
        }
    }
}
