//! From a process that may do everything to the one the specification describes.
//!
//! The order is forced by the kernel: limits and the bounding set while we may still change them; the
//! user before the final capabilities, with keepcaps in between; the seccomp filter before the
//! capabilities go when `no_new_privs` is off (installing it needs CAP_SYS_ADMIN then) and as the very
//! last act when it is on.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::SFlag;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process};

use super::capabilities::{self, Sets};
use super::channel::{Channel, Message};
use super::error::{At as _, Error};
use super::gate::{self, Gate};
use super::seccomp::Filter;
use super::{Stdio, console, kernel, reaper};

/// A process of the specification in the kernel's terms. Made before the fork, so that what is wrong
/// with a specification is said before anything exists.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    process: &'a Process,
    args: Vec<CString>,
    env: Vec<CString>,
    sets: Sets,
    /// Capabilities that were asked for and that this process does not have.
    pub missing: u64,
    filter: Option<Filter>,
    default_rlimits: &'a [PosixRlimit],
}

/// How a process goes from being set up to its program.
pub(super) struct Entry<'a> {
    /// Whether a missing working directory is made.
    pub create_cwd: bool,
    /// Who gives the word.
    pub gate: Gate<'a>,
    /// What happens then and before the program: hooks.
    pub before: &'a dyn Fn() -> Result<(), Error>,
    /// Whether an init of ours stays in front of the program.
    pub init: bool,
}

impl<'a> Prepared<'a> {
    /// Checks and converts.
    pub fn new(
        process: &'a Process,
        filter: Option<Filter>,
        default_rlimits: &'a [PosixRlimit],
    ) -> Result<Self, Error> {
        let strings = |what: &'static str, list: &Option<Vec<String>>| {
            list.iter()
                .flatten()
                .map(|s| CString::new(s.as_str()).map_err(|_| Error::invalid(what, s.replace('\0', "\\0"))))
                .collect::<Result<Vec<_>, _>>()
        };
        let args = strings("process.args", process.args())?;
        if args.is_empty() {
            return Err(Error::invalid("process.args", "no program is given"));
        }
        let mut sets = Sets::new(process.capabilities().as_ref());
        let missing = sets.limit(kernel::permitted_capabilities().at("capget", "")?);
        if !process.cwd().is_absolute() {
            return Err(Error::invalid(
                "process.cwd",
                format!("{} is not absolute", process.cwd().display()),
            ));
        }
        let env = strings("process.env", process.env())?;
        Ok(Self { process, args, env, sets, missing, filter, default_rlimits })
    }

    /// Sets limits. Those the specification lists must hold; of the defaults, one the kernel refuses is
    /// returned as a warning and what was there stays.
    fn limit(&self) -> Result<Vec<String>, Error> {
        let explicit = self.process.rlimits().as_deref().unwrap_or_default();
        for limit in explicit {
            set_rlimit(limit).at("setrlimit", limit.typ().to_string())?;
        }
        let mut warnings = Vec::new();
        for limit in self.default_rlimits {
            if explicit.iter().all(|e| e.typ() != limit.typ())
                && let Err(error) = set_rlimit(limit)
            {
                warnings.push(format!("default limit {} is not set: {error}", limit.typ()));
            }
        }
        Ok(warnings)
    }

    /// Goes to the working directory, which is made where it is missing, and proves that it lies inside
    /// the container: a directory descriptor of the host's that leaked in would be a way out
    /// (CVE-2024-21626).
    fn change_directory(&self, create: bool) -> Result<(), Error> {
        let cwd = self.process.cwd().as_path();
        let mut changed = nix::unistd::chdir(cwd);
        if create && changed == Err(nix::errno::Errno::ENOENT) {
            // No mask is in force, and it is the container's to open it to others.
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(cwd).at("mkdir", cwd)?;
            changed = nix::unistd::chdir(cwd);
        }
        changed.map_err(|errno| Error::Cwd { path: cwd.display().to_string(), source: errno.into() })?;
        let mut buffer = [0u8; libc::PATH_MAX as usize];
        // SAFETY: the kernel writes at most the length given. The raw call, because libc's getcwd may
        // fall back on walking up by itself, which is what must not be believed.
        let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
        if length < 0 {
            return Err(io::Error::last_os_error()).at("getcwd", cwd);
        }
        if buffer[0] != b'/' {
            return Err(Error::invalid(
                "process.cwd",
                format!("{} lies outside the container", cwd.display()),
            ));
        }
        Ok(())
    }

    /// Becomes the user, with the capabilities and without the rest.
    fn drop_privileges(&self, stdio_is_ours: bool) -> Result<(), Error> {
        let user = self.process.user();
        let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
        let nnp = self.process.no_new_privileges().unwrap_or(false);
        if stdio_is_ours && user.uid() != 0 {
            give_stdio(uid);
        }
        if !nnp && let Some(filter) = &self.filter {
            filter.install()?;
        }
        self.sets.bound()?;
        if user.uid() != 0 {
            kernel::prctl(libc::PR_SET_KEEPCAPS, 1, 0).at("prctl(PR_SET_KEEPCAPS)", "1")?;
        }
        // Which the calls below would take for "as it is".
        if user.uid() == u32::MAX || user.gid() == u32::MAX {
            return Err(Error::invalid("process.user", "4294967295 is nobody's number"));
        }
        let groups: Vec<Gid> =
            user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
        match nix::unistd::setgroups(&groups) {
            Err(nix::errno::Errno::EPERM) if groups.is_empty() => {}
            other => other.at("setgroups", "")?,
        }
        nix::unistd::setresgid(gid, gid, gid).at("setresgid", gid.to_string())?;
        nix::unistd::setresuid(uid, uid, uid).at("setresuid", uid.to_string())?;
        if user.uid() != 0 {
            kernel::prctl(libc::PR_SET_KEEPCAPS, 0, 0).at("prctl(PR_SET_KEEPCAPS)", "0")?;
        }
        self.sets.apply()?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(user.umask().unwrap_or(0o022)));
        if nnp {
            kernel::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at("prctl(PR_SET_NO_NEW_PRIVS)", "1")?;
        }
        Ok(())
    }

    /// The program's path inside the container, found as a shell would: by `$PATH` of the container's
    /// own environment, unless the name has a slash.
    fn find_program(&self) -> Result<CString, Error> {
        let name = self.args[0].as_c_str();
        let file = || name.to_string_lossy().into_owned();
        if name.is_empty() {
            return Err(Error::NotInPath { file: String::new() });
        }
        if name.to_bytes().contains(&b'/') {
            return match executable(name) {
                Ok(true) => Ok(name.to_owned()),
                Ok(false) => Err(Error::IsDirectory { file: file() }),
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                    Err(Error::NotExecutable { file: file() })
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                    Err(Error::NoSuchFile { file: file() })
                }
                Err(source) => Err(Error::Exec { file: file(), source }),
            };
        }
        let path = self
            .env
            .iter()
            .rev()
            .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="))
            .unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let mut denied = false;
        for directory in path.split(|&b| b == b':') {
            let directory = if directory.is_empty() { b"." } else { directory };
            let mut candidate = directory.to_vec();
            candidate.push(b'/');
            candidate.extend_from_slice(name.to_bytes());
            let Ok(candidate) = CString::new(candidate) else { continue };
            match executable(&candidate) {
                Ok(true) => return Ok(candidate),
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => denied = true,
                _ => {}
            }
        }
        Err(if denied { Error::NotExecutable { file: file() } } else { Error::NotInPath { file: file() } })
    }

    /// The way from inside the container to the program: streams, limits, directory, privileges, and
    /// the wait for the word to start. Returns only with a reason for failure.
    pub fn become_program(
        &self,
        channel: &Channel,
        stdio: &Stdio,
        console: Option<(OwnedFd, OwnedFd)>,
        how: &Entry<'_>,
    ) -> Result<Infallible, Error> {
        let master = match (stdio, console) {
            (Stdio::Inherit, _) => None,
            (Stdio::Fds { input, output, error }, _) => {
                set_stdio([input, output, error])?;
                None
            }
            (Stdio::Console(size), Some((master, slave))) => {
                if let Some(size) = size {
                    console::resize(&slave, *size).at("ioctl(TIOCSWINSZ)", "/dev/console")?;
                }
                console::take_control(&slave).at("ioctl(TIOCSCTTY)", "/dev/console")?;
                set_stdio([&slave, &slave, &slave])?;
                Some(master)
            }
            (Stdio::Console(_), None) => {
                return Err(Error::invalid("process.terminal", "needs a new mount namespace"));
            }
        };
        for warning in self.limit()? {
            channel.send(&Message::Warning(warning)).at("sendmsg", "the runtime")?;
        }
        self.change_directory(how.create_cwd)?;
        self.drop_privileges(!matches!(stdio, Stdio::Inherit))?;
        let program = self.find_program()?;
        channel.send(&Message::Ready(master)).at("sendmsg", "the runtime")?;
        let connection;
        let channel = match how.gate {
            Gate::Init => match channel.receive().at("recvmsg", "the runtime")? {
                Message::Start => channel,
                // The caller has gone away, or has changed its mind.
                _ => kernel::exit_now(1),
            },
            Gate::Socket(listener) => {
                connection = gate::wait(listener)?;
                &connection
            }
        };
        let begin = || {
            (how.before)()?;
            if how.init {
                reaper::stay_behind()?;
            }
            Err(self.exec(&program))
        };
        // Whoever gave the word to start is who must hear of a failure.
        let outcome: Result<Infallible, Error> = begin();
        let Err(error) = outcome;
        let _ = channel.send(&Message::Failed(error));
        kernel::exit_now(1)
    }

    /// Asks the security module, where the specification names one's label, to confine the program.
    /// Takes effect with the exec. Written while /proc is still the host's.
    pub fn label(&self) -> Result<(), Error> {
        for (label, what, file, prefix) in [
            (self.process.apparmor_profile(), "apparmorProfile", "/proc/self/attr/apparmor/exec", "exec "),
            (self.process.selinux_label(), "selinuxLabel", "/proc/self/attr/exec", ""),
        ] {
            let Some(label) = label.as_deref().filter(|label| !label.is_empty()) else { continue };
            let module = if prefix.is_empty() { "/sys/fs/selinux/enforce" } else { file };
            if !Path::new(module).exists() {
                return Err(Error::unsupported(what, "the kernel runs without that security module"));
            }
            write_file(Path::new(file), &format!("{prefix}{label}"))?;
        }
        Ok(())
    }

    /// Becomes the program. Returns only with the reason why not.
    fn exec(&self, program: &CStr) -> Error {
        if self.process.no_new_privileges().unwrap_or(false)
            && let Some(filter) = &self.filter
            && let Err(error) = filter.install()
        {
            return error;
        }
        let source = kernel::exec(program, &self.args, &self.env);
        Error::Exec { file: program.to_string_lossy().into_owned(), source }
    }
}

/// Whether the effective user may execute a regular file (true), or it is a directory (false).
fn executable(path: &CStr) -> io::Result<bool> {
    let stat = nix::sys::stat::stat(path)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
        return Ok(false);
    }
    // SAFETY: path is a C string. faccessat2 with AT_EACCESS asks for the effective user.
    let result = unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(true) }
}

/// Lets the container's user open its own /dev/stdout: pipes and terminals made for it change owner.
fn give_stdio(uid: Uid) {
    for fd in 0..3 {
        // SAFETY: 0, 1 and 2 are open in every process we make.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        if let Ok(stat) = nix::sys::stat::fstat(fd)
            && stat.st_uid != uid.as_raw()
            && stat.st_rdev != nix::sys::stat::makedev(1, 3)
        {
            // Best effort, as it is with Docker: a pipe of another user namespace refuses.
            let _ = nix::unistd::fchown(fd, Some(uid), None);
        }
    }
}

fn set_rlimit(limit: &PosixRlimit) -> io::Result<()> {
    Ok(setrlimit(resource(limit.typ()), limit.soft(), limit.hard())?)
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

/// Makes `fds` the standard streams of this process. Runs in the child; the descriptors are copies made
/// by the fork, and close on exec.
fn set_stdio(fds: [&OwnedFd; 3]) -> Result<(), Error> {
    // A source may itself be 0, 1 or 2, and must not be overwritten before it is copied.
    let mut sources = Vec::with_capacity(3);
    for fd in fds {
        let copy = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3)).at("dup", "stdio")?;
        sources.push(copy);
    }
    for (target, source) in sources.into_iter().enumerate() {
        // SAFETY: both are plain numbers; what 0, 1 and 2 were in the parent is not ours to keep here.
        if unsafe { libc::dup2(source, target as libc::c_int) } < 0 {
            return Err(io::Error::last_os_error()).at("dup2", "stdio");
        }
        // SAFETY: the copy was made above and is used by nobody else.
        unsafe { libc::close(source) };
    }
    Ok(())
}

/// Everything the engine may have left on a process: handlers, ignored signals (Rust ignores SIGPIPE),
/// blocked signals.
pub fn reset_signals() {
    // `struct kernel_sigaction`: handler, flags, restorer, mask. All zero is SIG_DFL.
    let default = [0u64; 4];
    // SAFETY: SIG_DFL is a valid disposition for every signal; those that cannot be changed are refused.
    // The raw call, because libc keeps 32 and 33 to itself, and may have been handed them ignored.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// What a warning about missing capabilities says.
pub(super) fn missing_capabilities(mask: u64) -> Option<String> {
    (mask != 0).then(|| format!("not available to this engine and not given: {}", capabilities::names(mask)))
}

/// Biases the kernel's choice of whom to kill, in this process and all that it will become.
///
/// Lowering the score below where it once was takes CAP_SYS_RESOURCE, which an engine inside a container
/// may lack. A program that would be killed later than it will be is still better than no program: what
/// the score stays at is told, and the start goes on.
pub(super) fn set_oom_score(process: &Process, channel: &Channel) -> Result<(), Error> {
    let Some(score) = process.oom_score_adj() else { return Ok(()) };
    let path = Path::new("/proc/self/oom_score_adj");
    match write_file(path, &score.to_string()) {
        Err(Error::Sys { source, .. })
            if matches!(source.raw_os_error(), Some(libc::EACCES | libc::EPERM)) =>
        {
            let stays = std::fs::read_to_string(path).at("read", path)?;
            let warning = format!(
                "Your kernel does not let this engine lower oom_score_adj to {score} without CAP_SYS_RESOURCE. OOM score stays at {}. (write {}: {source})",
                stays.trim(),
                path.display()
            );
            channel.send(&Message::Warning(warning)).at("sendmsg", "the runtime")
        }
        other => other,
    }
}

/// Opens `path` for reading without following a last symlink, as a handle whose later use does not
/// depend on names.
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    let fd = nix::fcntl::open(
        path,
        nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .at("open", path)?;
    // One write: /proc takes a value in one piece or not at all.
    // SAFETY: the buffer is valid for its length.
    let result = unsafe { libc::write(fd.as_raw_fd(), text.as_ptr().cast(), text.len()) };
    if result < 0 { Err(io::Error::last_os_error()).at("write", path) } else { Ok(()) }
}

/// setdomainname(2).
pub(super) fn set_domain_name(name: &str) -> Result<(), Error> {
    // SAFETY: the buffer is valid for its length.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    if result < 0 { Err(io::Error::last_os_error()).at("setdomainname", name) } else { Ok(()) }
}

/// This process's pid in the pid namespace of the /proc that is mounted now.
pub(super) fn own_pid() -> Result<i32, Error> {
    let link = std::fs::read_link("/proc/self").at("readlink", "/proc/self")?;
    link.to_str().and_then(|pid| pid.parse().ok()).ok_or_else(|| Error::invalid("/proc/self", "not a pid"))
}
