//! A repository as a context, `build https://host/repository.git#ref:directory`, or as what an `ADD` copies.
//!
//! The `git` executable fetches it: what git speaks is a world of its own, and its users have set it up for their
//! hosts and keys. What is left to us is that a name from the command line, which often comes from somewhere else,
//! says nothing to git but a repository and a ref. So a ref is never an option or a pattern; of protocols only those
//! that Docker names are allowed, for submodules and after redirections as well (`GIT_ALLOW_PROTOCOL`), which leaves
//! out those that run a program or read a directory of the host's; nobody's configuration, templates or hooks are
//! read; and nobody is asked for a password, since a build has nobody to answer.
//!
//! Git is the first process of a PID namespace of its own. It is killed when the build is, and the kernel then kills
//! what it has started, which would otherwise wait for a server that says nothing.
//!
//! The work tree is unpacked into scratch, as a tar is, and goes with the build. A directory of it that is named as
//! the context is resolved by the kernel with the work tree as the root.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sched::{CloneFlags, setns, unshare};

use super::pattern::clean;
use super::tree::open_directory;
use crate::openat2::openat2;
use crate::store::Scratch;

/// What git may speak.
const PROTOCOLS: &str = "http:https:git:ssh";
/// What git is to do without being asked.
const SETTINGS: [&str; 5] = [
    "core.hooksPath=/dev/null",
    "init.defaultBranch=main",
    "advice.detachedHead=false",
    // A server that sends nothing for a minute is not waited for.
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
];
/// Variables that would have git read another repository or somebody's settings.
const FOREIGN: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_COUNT",
];

/// Why a repository is no context.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no git.
    #[error("unable to find 'git': executable file not found in $PATH")]
    NoGit,
    /// It could not be executed.
    #[error("git: {0}")]
    Execute(io::Error),
    /// A ref that would be something else to git.
    #[error("invalid refspec '{0}'")]
    Ref(String),
    /// Git did not do it.
    #[error("error {what}: {said}: {status}")]
    Failed {
        /// What it was to do.
        what: &'static str,
        /// What it said.
        said: String,
        /// How it ended.
        status: String,
    },
    /// The directory is not there.
    #[error("error setting git context, {0:?} not within git root")]
    Outside(String),
    /// It is none.
    #[error("error setting git context, not a directory: {0}")]
    NotADirectory(String),
    /// A directory cannot be opened or made.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The operation, in the kernel's words.
        call: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A repository, what is wanted of it, and where in it the context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// As git is told.
    pub url: String,
    /// A branch, a tag or a commit; `HEAD` where none is named.
    pub reference: String,
    /// From its root; empty is the root.
    pub directory: String,
}

impl Remote {
    /// Reads the argument of a build. `None` is what Docker does not take for a repository.
    pub fn parse(text: &str) -> Option<Self> {
        let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
        let over_http = url.starts_with("http://") || url.starts_with("https://");
        let by_scheme =
            ["git://", "ssh://", "git@", "github.com/"].iter().any(|start| url.starts_with(start));
        if !(by_scheme || over_http && url.strip_suffix(".git").is_some()) {
            return None;
        }
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let url = if url.starts_with("github.com/") { format!("https://{url}") } else { url.to_owned() };
        let reference = if reference.is_empty() { "HEAD" } else { reference };
        Some(Self { url, reference: reference.to_owned(), directory: directory.to_owned() })
    }

    /// How it may be shown: without a name and a password.
    pub fn shown(&self) -> String {
        let url = anonymous(&self.url);
        let fragment = match (self.reference.as_str(), self.directory.as_str()) {
            ("HEAD", "") => String::new(),
            ("HEAD", directory) => format!("#:{directory}"),
            (reference, "") => format!("#{reference}"),
            (reference, directory) => format!("#{reference}:{directory}"),
        };
        url + &fragment
    }

    /// The commit, where its whole name is the ref.
    pub(super) fn commit(&self) -> Option<&str> {
        let name = self.reference.as_str();
        (name.len() == 40 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(name)
    }

    /// A ref by the rules of git-check-ref-format(1), which leave no option and no pattern.
    fn checked(&self) -> Result<&str, Error> {
        let name = self.reference.as_str();
        let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        let bad = name.starts_with(['-', '+', '/'])
            || name.ends_with(['/', '.'])
            || name.strip_suffix(".lock").is_some()
            || name.contains(odd)
            || ["..", "@{", "//", "/."].iter().any(|part| name.contains(part));
        if bad { Err(Error::Ref(name.to_owned())) } else { Ok(name) }
    }
}

/// An address over HTTP without a name and a password.
pub(super) fn anonymous(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => {
            let host = rest.find('/').unwrap_or(rest.len());
            let from = rest[..host].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[from..])
        }
        _ => url.to_owned(),
    }
}

/// A repository that has been fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The context's directory.
    pub root: OwnedFd,
    /// The commit.
    pub commit: String,
}

/// Fetches a repository into scratch. With its `.git`, if that is to be kept, in which nobody's password is.
pub fn fetch(remote: &Remote, scratch: &Scratch, keep: bool) -> Result<Fetched, Error> {
    let name = remote.checked()?;
    let dir = scratch.path().join("tree");
    let failed = |call, source| Error::Io { call, path: dir.clone(), source };
    std::fs::create_dir(&dir).map_err(|error| failed("mkdir", error))?;
    git(&dir, "initializing repository", &["init", "--quiet", "--template="])?;
    git(&dir, "adding remote", &["remote", "add", "--", "origin", &remote.url])?;
    let fetch = |more: &[&str]| {
        let base = ["fetch", "--quiet", "--no-tags", "--update-head-ok", "--no-recurse-submodules"];
        git(&dir, "fetching", &[&base[..], more].concat())
    };
    // Not all servers know how to send less than everything, and few a commit by the beginning of its name.
    let shallow = fetch(&["--depth=1", "--", "origin", name]);
    let found = shallow.or_else(|_| fetch(&["--", "origin", name])).map(|_| "FETCH_HEAD");
    let is_commit = (7..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit());
    let found = match found {
        Err(_) if is_commit => {
            fetch(&["--", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"])?;
            name
        }
        other => other?,
    };
    git(&dir, "checking out", &["checkout", "--quiet", "--force", "--detach", found, "--"])?;
    let modules = ["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"];
    git(&dir, "initializing submodules", &modules)?;
    let commit = git(&dir, "reading", &["rev-parse", "HEAD"])?.trim().to_owned();
    let own = dir.join(".git");
    if keep {
        git(&dir, "changing remote", &["remote", "set-url", "--", "origin", &anonymous(&remote.url)])?;
    } else {
        crate::store::remove_tree(&own).map_err(|source| Error::Io { call: "remove", path: own, source })?;
    }
    let root = open_directory(&dir).map_err(|error| failed("open", error))?;
    if remote.directory.is_empty() {
        return Ok(Fetched { root, commit });
    }
    let below = clean(remote.directory.as_bytes()).join(&b'/');
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let below = if below.is_empty() { b".".as_slice() } else { &below };
    match openat2(&root, below, how) {
        Ok(root) => Ok(Fetched { root, commit }),
        Err(Errno::ENOTDIR) => Err(Error::NotADirectory(remote.directory.clone())),
        Err(Errno::ENOENT | Errno::ELOOP) => Err(Error::Outside(remote.directory.clone())),
        Err(errno) => Err(failed("open", errno.into())),
    }
}

/// Runs git in a directory and returns what it printed.
fn git(dir: &Path, what: &'static str, args: &[&str]) -> Result<String, Error> {
    let mut command = Command::new("git");
    command
        .args(SETTINGS.iter().flat_map(|setting| ["-c", setting]))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        // What is above the scratch directory is nobody's repository.
        .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap_or(dir))
        .env("HOME", "/dev/null")
        .env("LC_ALL", "C");
    for name in FOREIGN {
        command.env_remove(name);
    }
    if std::env::var_os("GIT_SSH_COMMAND").is_none() && std::env::var_os("GIT_SSH").is_none() {
        command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
    }
    // SAFETY: between fork and exec three system calls are made, with constants, which take no lock and no memory.
    unsafe {
        command.pre_exec(|| {
            // A build that is killed leaves nobody who goes on fetching.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // Files are as everybody's, whoever builds.
            libc::umask(0o022);
            // Another thread may be handing descriptors to a program of its own at this moment.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = in_own_pids(|| command.spawn())?.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoGit,
        _ => Error::Execute(error),
    })?;
    let output = child.wait_with_output().map_err(Error::Execute)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let status =
        output.status.code().map_or_else(|| output.status.to_string(), |code| format!("exit status {code}"));
    Err(Error::Failed { what, said: said.join("; "), status })
}

/// Does something whose first child begins a PID namespace.
fn in_own_pids<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    let path = Path::new("/proc/thread-self/ns/pid");
    let failed = |call, source| Error::Io { call, path: path.to_owned(), source };
    let own = File::open(path).map_err(|error| failed("open", error))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| failed("unshare", errno.into()))?;
    let done = work();
    // Whoever is started after this is started where we are.
    setns(own, CloneFlags::CLONE_NEWPID).map_err(|errno| failed("setns", errno.into()))?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_told_by_its_name() {
        let remote = |url: &str, reference: &str, directory: &str| {
            Some(Remote { url: url.into(), reference: reference.into(), directory: directory.into() })
        };
        for (text, wanted) in [
            ("https://h/r.git", remote("https://h/r.git", "HEAD", "")),
            ("http://h/r.git#v1:a/b", remote("http://h/r.git", "v1", "a/b")),
            ("https://h/r.git#:a", remote("https://h/r.git", "HEAD", "a")),
            ("git://h/r#x", remote("git://h/r", "x", "")),
            ("git@h:u/r.git#x:y:z", remote("git@h:u/r.git", "x", "y:z")),
            ("ssh://git@h/r", remote("ssh://git@h/r", "HEAD", "")),
            ("github.com/u/r", remote("https://github.com/u/r", "HEAD", "")),
            ("https://h/archive.tar.gz", None),
            ("file:///r.git", None),
            ("ext::sh -c x", None),
            ("./r.git", None),
            ("-oProxyCommand=x", None),
        ] {
            assert_eq!(Remote::parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_ref_is_nothing_else() {
        let checked =
            |name: &str| Remote::parse(&format!("git://h/r#{name}")).expect("a remote").checked().is_ok();
        for name in ["main", "v1.0", "refs/heads/feature/x", "0123abc", "HEAD", "refs/pull/1/head", ""] {
            assert!(checked(name), "{name}");
        }
        for name in
            ["--upload-pack=x", "-q", "+main", "refs/heads/*", "a..b", "a b", "HEAD~1", "x@{1}", "a\nb", "x/"]
        {
            assert!(!checked(name), "{name}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = |text: &str| Remote::parse(text).expect("a remote").shown();
        assert_eq!(shown("https://me:secret@h/a@b.git#x:y"), "https://h/a@b.git#x:y");
        assert_eq!(shown("git@h:r.git#:y"), "git@h:r.git#:y");
        assert_eq!(shown("github.com/u/r"), "https://github.com/u/r");
    }
}
