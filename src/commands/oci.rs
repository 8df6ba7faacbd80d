//! What the verbs of `oci` do.

mod events;

use std::fs;
use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use bulkhead_engine::container::exec::{exit_code, protect};
use bulkhead_engine::runtime::oci::{self, Container, Create, Registry, Status};
use bulkhead_engine::runtime::{self, Init, Stdio, WindowSize, defaults};
use clap::Parser as _;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use oci_spec::runtime::{
    Capability, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, Process,
};
use serde_json::json;

use crate::cli::Globals;
use crate::cli::oci::{
    CreateArgs, DeleteArgs, ExecArgs, Format, KillArgs, ListArgs, LogFormat, Oci, OciArgs, PsArgs, RunArgs,
    SpecArgs, UpdateArgs, Verb,
};
use crate::failure::Failure;

/// `bulkhead oci …`
pub fn run(_globals: &Globals, args: &OciArgs) -> Result<u8, Failure> {
    let argv = std::iter::once("bulkhead oci".into()).chain(args.args.iter().cloned());
    let oci = match Oci::try_parse_from(argv) {
        Ok(oci) => oci,
        Err(error) if error.use_stderr() => {
            return Err(Failure::plain(error.to_string().trim_end().to_owned()));
        }
        Err(error) => return Err(Failure::help(error.to_string())),
    };
    if oci.version {
        print(&format!(
            "bulkhead version {}\nspec: {}\n",
            crate::commands::version::VERSION,
            defaults::OCI_VERSION
        ))?;
        return Ok(0);
    }
    let Some(verb) = &oci.verb else {
        return Err(Failure::plain("bulkhead oci: a command is needed; see 'bulkhead oci help'"));
    };
    match verb_of(&oci, verb) {
        Ok(code) => Ok(code),
        Err(error) => {
            // podman and conmon read the reason from the log and not from standard error.
            log(&oci, "error", &error.to_string());
            Err(Failure::new(error.code(), error.to_string()))
        }
    }
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Oci(#[from] oci::Error),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Protect(#[from] bulkhead_engine::container::Error),
    #[error(transparent)]
    Cgroup(#[from] bulkhead_engine::cgroup::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{call} {path}: {source}")]
    Io { call: &'static str, path: String, source: std::io::Error },
    #[error("{path}: {source}")]
    Json { path: String, source: serde_json::Error },
}

impl Error {
    fn code(&self) -> u8 {
        match self {
            // A command line that runs something else exits as that would; runc's own failures are 1.
            Self::Runtime(error) | Self::Oci(oci::Error::Runtime(error)) => match error.exit_code() {
                _ if matches!(error, runtime::Error::Cwd { .. }) => 1,
                code @ (126 | 127 | 255) => code,
                _ => 1,
            },
            _ => 1,
        }
    }
}

trait At<T> {
    fn at(self, call: &'static str, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, call: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|source| Error::Io { call, path: path.as_ref().display().to_string(), source })
    }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::stdout(&error))
}

fn say(text: &str) -> Result<(), Error> {
    std::io::stdout().write_all(text.as_bytes()).at("write", "/dev/stdout")
}

fn log(oci: &Oci, level: &str, message: &str) {
    let Some(path) = &oci.log else { return };
    let time = jiff::Timestamp::now().to_string();
    let line = match oci.log_format {
        LogFormat::Json => json!({"level": level, "msg": message, "time": time}).to_string(),
        LogFormat::Text => format!("time={time:?} level={level} msg={message:?}"),
    };
    // A log that cannot be written must not hide what was to be logged; standard error has it as well.
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o644).open(path);
    let _ = file.and_then(|mut file| writeln!(file, "{line}"));
}

fn warn(oci: &Oci, message: &str) {
    log(oci, "warning", message);
    if oci.log.is_none() {
        eprintln!("time={:?} level=warning msg={message:?}", jiff::Timestamp::now().to_string());
    }
}

fn verb_of(oci: &Oci, verb: &Verb) -> Result<u8, Error> {
    let registry = Registry::new(&oci.root);
    let open = |id: &str| registry.open(id);
    match verb {
        Verb::Create(args) => create(oci, &registry, args).map(|_| 0),
        Verb::Run(args) => run_to_end(oci, &registry, args),
        Verb::Start(args) => start(oci, &open(&args.id)?),
        Verb::State(args) => {
            let container = open(&args.id)?;
            say(&format!("{}\n", pretty(&state_json(&container)?)))?;
            Ok(0)
        }
        Verb::Kill(args) => kill(&open(&args.id)?, args),
        Verb::Delete(args) => delete(oci, &registry, args),
        Verb::Exec(args) => exec(oci, open(&args.id)?, args),
        Verb::Ps(args) => ps(&open(&args.id)?, args),
        Verb::Events(args) => events::events(open(&args.id)?, args),
        Verb::List(args) => list(&registry, args),
        Verb::Pause(args) => open(&args.id)?.pause().map(|()| 0).map_err(Into::into),
        Verb::Resume(args) => open(&args.id)?.resume().map(|()| 0).map_err(Into::into),
        Verb::Update(args) => update(oci, &open(&args.id)?, args),
        Verb::Spec(args) => spec(args),
        Verb::Features => {
            say(&format!("{}\n", pretty(&features())))?;
            Ok(0)
        }
    }
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value is always printable")
}

/// The streams a process is to have, and where its console goes.
fn stdio(terminal: bool, size: Option<(u64, u64)>, socket: Option<&Path>) -> Result<Stdio, Error> {
    match (terminal, socket) {
        (false, None) => Ok(Stdio::Inherit),
        (false, Some(_)) => {
            Err(Error::Usage("--console-socket is given, and process.terminal is false".into()))
        }
        (true, None) => Err(Error::Usage(
            "process.terminal is true: a console socket is needed (--console-socket)".into(),
        )),
        (true, Some(_)) => Ok(Stdio::Console(
            size.filter(|size| *size != (0, 0))
                .map(|(rows, columns)| WindowSize { rows: rows as u16, columns: columns as u16 }),
        )),
    }
}

/// Hands a console's master over, as every OCI runtime does: one message with the descriptor.
fn send_console(init: &mut Init, socket: Option<&Path>) -> Result<(), Error> {
    let (Some(console), Some(path)) = (init.take_console(), socket) else { return Ok(()) };
    let stream = UnixStream::connect(path).at("connect", path)?;
    let fds = [console.as_raw_fd()];
    let name = [IoSlice::new(b"/dev/ptmx")];
    sendmsg::<UnixAddr>(
        stream.as_raw_fd(),
        &name,
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
    .map_err(std::io::Error::from)
    .at("sendmsg", path)
}

/// The pid, in one rename, for whoever waits for the file to appear.
fn write_pid(path: Option<&Path>, pid: i32) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, pid.to_string()).at("write", &beside)?;
    fs::rename(&beside, path).at("rename", path)
}

fn create(oci: &Oci, registry: &Registry, args: &CreateArgs) -> Result<(Container, OwnedFd), Error> {
    // What enters the container must not be a binary that it could write to.
    protect()?;
    if oci.systemd_cgroup {
        warn(oci, "--systemd-cgroup: systemd is not used; the cgroup is made under the same names");
    }
    let spec = oci::read_spec(&args.bundle.join("config.json"))?;
    let process = spec.process().as_ref();
    let size = process.and_then(Process::console_size).map(|size| (size.height(), size.width()));
    let terminal = process.and_then(Process::terminal).unwrap_or(false);
    let (container, mut init) = registry.create(Create {
        id: &args.id,
        bundle: &args.bundle,
        stdio: stdio(terminal, size, args.console_socket.as_deref())?,
        preserve_fds: args.preserve_fds,
        pivot: !args.no_pivot,
        systemd: oci.systemd_cgroup,
    })?;
    for warning in &container.warnings {
        warn(oci, warning);
    }
    let told = send_console(&mut init, args.console_socket.as_deref())
        .and_then(|()| write_pid(args.pid_file.as_deref(), init.pid().as_raw()));
    let pidfd = init.clone_pidfd()?;
    match told {
        Ok(()) => Ok((container, pidfd)),
        Err(error) => {
            // Nobody will ever start it.
            let _ = container.delete(true);
            let _ = exit_code(&pidfd);
            Err(error)
        }
    }
}

fn start(oci: &Oci, container: &Container) -> Result<u8, Error> {
    if let Some(hook) = container.start()? {
        warn(oci, &hook.to_string());
    }
    Ok(0)
}

fn run_to_end(oci: &Oci, registry: &Registry, args: &RunArgs) -> Result<u8, Error> {
    let (container, pidfd) = create(oci, registry, &args.create)?;
    if let Err(error) = start(oci, &container) {
        let _ = container.delete(true);
        let _ = exit_code(&pidfd);
        return Err(error);
    }
    if args.detach {
        return Ok(0);
    }
    let id = container.record.id.clone();
    // Others may look at it and signal it while it runs.
    drop(container);
    forward_signals(&pidfd)?;
    let code = exit_code(&pidfd).map_err(std::io::Error::from).at("waitid", &id)?;
    if !args.keep
        && let Ok(container) = registry.open(&id)
        && let Some(hook) = container.delete(true)?
    {
        warn(oci, &hook.to_string());
    }
    Ok(code as u8)
}

/// Passes the signals that people send to a foreground command on to the container, until it ends.
fn forward_signals(pidfd: &OwnedFd) -> Result<(), Error> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    use std::os::fd::AsFd as _;
    let mut set = SigSet::empty();
    for signal in
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2]
    {
        set.add(signal);
    }
    set.thread_block().map_err(std::io::Error::from).at("sigprocmask", "")?;
    let signals =
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).map_err(std::io::Error::from).at("signalfd", "")?;
    loop {
        let mut fds =
            [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(std::io::Error::from(errno)).at("poll", ""),
        }
        if fds[0].any().unwrap_or(true) {
            return Ok(());
        }
        if let Ok(Some(signal)) = signals.read_signal() {
            let _ = runtime::signal(pidfd, signal.ssi_signo as i32);
        }
    }
}

fn state_json(container: &Container) -> Result<serde_json::Value, Error> {
    let mut state = serde_json::to_value(container.state()?)
        .map_err(|source| Error::Json { path: container.record.id.clone(), source })?;
    // What runc adds, and its callers read: where the root is, when it was made, and "paused".
    state["status"] = json!(container.status().name());
    state["rootfs"] = json!(container.record.rootfs);
    state["created"] = json!(container.record.created);
    state["owner"] = json!("");
    Ok(state)
}

fn kill(container: &Container, args: &KillArgs) -> Result<u8, Error> {
    let name = args.signal.to_ascii_uppercase();
    let number = match name.parse::<i32>() {
        // Signal 0 asks whether there is somebody to get one.
        Ok(number) if (0..=64).contains(&number) => Some(number),
        Ok(_) => None,
        Err(_) => {
            let full = if name.starts_with("SIG") { name.clone() } else { format!("SIG{name}") };
            full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
        }
    };
    let number = number.ok_or_else(|| Error::Usage(format!("unknown signal {:?}", args.signal)))?;
    container.kill(number, args.all)?;
    Ok(0)
}

fn delete(oci: &Oci, registry: &Registry, args: &DeleteArgs) -> Result<u8, Error> {
    let container = match registry.open(&args.id) {
        Err(oci::Error::NoSuchContainer(_)) if args.force => {
            registry.sweep(&args.id)?;
            return Ok(0);
        }
        other => other?,
    };
    if let Some(hook) = container.delete(args.force)? {
        warn(oci, &hook.to_string());
    }
    Ok(0)
}

fn exec(oci: &Oci, container: Container, args: &ExecArgs) -> Result<u8, Error> {
    protect()?;
    let process = match &args.process {
        Some(path) => oci::read_process(path)?,
        None => exec_process(&container, args)?,
    };
    let terminal = process.terminal().unwrap_or(false);
    let size = process.console_size().map(|size| (size.height(), size.width()));
    let stdio = stdio(terminal, size, args.console_socket.as_deref())?;
    let mut init = container.exec(&process, stdio, args.preserve_fds)?;
    for warning in init.warnings() {
        warn(oci, warning);
    }
    send_console(&mut init, args.console_socket.as_deref())?;
    write_pid(args.pid_file.as_deref(), init.pid().as_raw())?;
    let pidfd = init.clone_pidfd()?;
    init.start()?;
    // Others may look at the container, signal it and delete it while this runs.
    drop(container);
    if args.detach {
        return Ok(0);
    }
    forward_signals(&pidfd)?;
    exit_code(&pidfd).map(|code| code as u8).map_err(std::io::Error::from).at("waitid", &args.id)
}

/// The container's own process with another command and what the flags change.
fn exec_process(container: &Container, args: &ExecArgs) -> Result<Process, Error> {
    if args.command.is_empty() {
        return Err(Error::Usage("exec: a command is needed, or --process".into()));
    }
    let spec = container.spec()?;
    let mut process = spec
        .process()
        .clone()
        .ok_or_else(|| Error::Usage("the container's specification has no process".into()))?;
    process.set_args(Some(args.command.clone())).set_terminal(Some(args.tty));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if !args.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(args.env.iter().cloned());
        process.set_env(Some(env));
    }
    if let Some(user) = &args.user {
        let mut ids = user.splitn(2, ':').map(str::parse::<u32>);
        let bad = || Error::Usage(format!("--user takes UID[:GID] in numbers, not {user:?}"));
        let uid = ids.next().and_then(Result::ok).ok_or_else(bad)?;
        let gid = ids.next().transpose().map_err(|_| bad())?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !args.additional_gids.is_empty() {
        process.user_mut().set_additional_gids(Some(args.additional_gids.clone()));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if !args.cap.is_empty() {
        let mut capabilities = process.capabilities().clone().unwrap_or_default();
        for name in &args.cap {
            let bare = name.to_ascii_uppercase();
            let capability = bare
                .strip_prefix("CAP_")
                .unwrap_or(&bare)
                .parse::<Capability>()
                .map_err(|_| Error::Usage(format!("unknown capability {name:?}")))?;
            let with = |set: &Option<std::collections::HashSet<Capability>>| {
                let mut set = set.clone().unwrap_or_default();
                set.insert(capability);
                Some(set)
            };
            let (bounding, permitted) = (with(capabilities.bounding()), with(capabilities.permitted()));
            let effective = with(capabilities.effective());
            capabilities.set_bounding(bounding).set_permitted(permitted).set_effective(effective);
        }
        process.set_capabilities(Some(capabilities));
    }
    Ok(process)
}

fn ps(container: &Container, args: &PsArgs) -> Result<u8, Error> {
    use std::fmt::Write as _;
    let pids = container.cgroup()?.pids()?;
    if args.format == Format::Json {
        say(&format!("{}\n", json!(pids)))?;
        return Ok(0);
    }
    let mut text = String::from("PID\tCMD\n");
    for pid in pids {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let _ = writeln!(text, "{pid}\t{}", command.trim_end());
    }
    say(&text)?;
    Ok(0)
}

fn list(registry: &Registry, args: &ListArgs) -> Result<u8, Error> {
    use std::fmt::Write as _;
    let containers = registry.list()?;
    let text = if args.quiet {
        containers.iter().flat_map(|c| [c.record.id.as_str(), "\n"]).collect()
    } else if args.format == Format::Json {
        let states = containers.iter().map(state_json).collect::<Result<Vec<_>, _>>()?;
        format!("{}\n", json!(states))
    } else {
        let mut text = format!("{:<20} {:>9} {:<10} {:<40} {}\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED");
        for container in &containers {
            let (record, status) = (&container.record, container.status());
            let pid = if status == Status::Stopped { 0 } else { record.pid };
            let _ = writeln!(
                text,
                "{:<20} {pid:>9} {:<10} {:<40} {}",
                record.id,
                status.name(),
                record.bundle.display(),
                record.created
            );
        }
        text
    };
    say(&text)?;
    Ok(0)
}

fn update(oci: &Oci, container: &Container, args: &UpdateArgs) -> Result<u8, Error> {
    let mut resources = match &args.resources {
        Some(path) => {
            let mut text = Vec::new();
            if path == Path::new("-") {
                std::io::stdin().read_to_end(&mut text).at("read", "/dev/stdin")?;
            } else {
                text = fs::read(path).at("open", path)?;
            }
            serde_json::from_slice::<LinuxResources>(&text)
                .map_err(|source| Error::Json { path: path.display().to_string(), source })?
        }
        None => LinuxResources::default(),
    };
    if args.resources.is_none() {
        let mut memory = LinuxMemoryBuilder::default().build().unwrap_or_default();
        memory.set_limit(args.memory).set_reservation(args.memory_reservation).set_swap(args.memory_swap);
        let mut cpu = LinuxCpuBuilder::default().build().unwrap_or_default();
        cpu.set_quota(args.cpu_quota).set_period(args.cpu_period).set_shares(args.cpu_share);
        cpu.set_cpus(args.cpuset_cpus.clone()).set_mems(args.cpuset_mems.clone());
        resources.set_memory(Some(memory)).set_cpu(Some(cpu)).set_devices(None);
        if let Some(limit) = args.pids_limit {
            resources.set_pids(LinuxPidsBuilder::default().limit(limit).build().ok());
        }
        if let Some(weight) = args.blkio_weight {
            let mut io = oci_spec::runtime::LinuxBlockIoBuilder::default().build().unwrap_or_default();
            io.set_weight(Some(weight));
            resources.set_block_io(Some(io));
        }
    }
    for warning in container.cgroup()?.update(&resources)? {
        warn(oci, &warning.to_string());
    }
    Ok(0)
}

fn spec(args: &SpecArgs) -> Result<u8, Error> {
    let path = args.bundle.join("config.json");
    let mut spec = defaults::spec();
    if let Some(process) = spec.process_mut() {
        process.set_args(Some(vec!["sh".to_owned()]));
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path).at("create", &path)?;
    let text = serde_json::to_string_pretty(&spec)
        .map_err(|source| Error::Json { path: path.display().to_string(), source })?;
    writeln!(file, "{text}").at("write", &path)?;
    Ok(0)
}

fn features() -> serde_json::Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": defaults::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": runtime::MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": defaults::all_capabilities_in_order().map(|c| format!("CAP_{c}")).collect::<Vec<_>>(),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
            },
            // The file that a label is written to is there exactly where labels work.
            "apparmor": {"enabled": Path::new("/proc/self/attr/apparmor/exec").exists()},
            "selinux": {"enabled": Path::new("/sys/fs/selinux/enforce").exists()},
            "mountExtensions": {"idmap": {"enabled": false}},
        },
    })
}
