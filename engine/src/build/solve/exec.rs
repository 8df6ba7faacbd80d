//! `RUN`: a step that is a container.
//!
//! What it depends on is its command, its environment, what is mounted for it and the layers below; not the limits it
//! runs under, nor what a cache or a secret holds. The container itself is [`step`](crate::container::step)'s: here it
//! is said what it is to be, its output is passed on, and what it leaves in its upper directory becomes the layer,
//! without the mount points that were only made for it.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::poll::PollTimeout;
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::UnlinkatFlags;

use super::super::cache::Key;
use super::super::dockerfile::{self, Command, Form, Line, Run};
use super::super::pattern::clean;
use super::super::tree::open_directory;
use super::super::{Error, Failed};
use super::Builder;
use super::args::PROXIES;
use super::mounts::bind;
use super::progress::{Counter, summary};
use super::stage::Inputs;
use super::state::State;
use crate::config::{Config, HostConfig};
use crate::container::protocol::Event;
use crate::container::step::{Plan, Step, View};
use crate::container::{Record, attach};
use crate::image;
use crate::layer;
use crate::openat2::openat2;

/// /dev/shm of a step when nobody says otherwise, in bytes. Docker's value.
const SHM: i64 = 64 << 20;

impl Builder<'_> {
    pub(super) fn run(
        &mut self,
        state: &mut State,
        line: &Line,
        run: &Run,
        inputs: &Inputs,
        counter: &mut Counter,
    ) -> Result<(), Failed> {
        let mut script = None;
        let mut words = run.command.args.clone();
        if let [heredoc, ..] = &run.heredocs[..] {
            let sole = dockerfile::lines::heredoc(&words[0]).is_some();
            if sole && heredoc.content().starts_with("#!") {
                words = vec![format!("/dev/pipes/{}", heredoc.name)];
                script = Some(heredoc.content());
            } else if sole {
                words = vec![heredoc.content()];
            } else {
                // The shell is to make of them what it will.
                for heredoc in &run.heredocs {
                    words[0].push('\n');
                    words[0].push_str(&heredoc.text);
                    words[0].push_str(&heredoc.name);
                }
                words[0].push('\n');
            }
        }
        let shown = match &run.heredocs[..] {
            [heredoc, ..] => format!("RUN {} ({})", line.rest, summary(&heredoc.text)),
            [] => format!("RUN {}", line.rest),
        };
        let form = if script.is_some() { Form::Exec } else { run.command.form };
        let args = self.command(state, &Command { args: words, form });
        let arguments = state.arguments();
        let mut env = state.config.env.clone();
        env.extend(arguments.iter().cloned());
        let network = match run.network.as_deref().unwrap_or(&self.build.options.network) {
            "default" => String::new(),
            other => other.to_owned(),
        };
        let mut created_by = String::from("RUN ");
        if !arguments.is_empty() {
            let _ = write!(created_by, "|{} {} ", arguments.len(), arguments.join(" "));
        }
        created_by.push_str(&args.join(" "));
        created_by.push_str(" # buildkit");
        // What a history does not say of a step, its words do not stand for.
        let by_history = run.mounts.is_empty() && script.is_none() && self.build.options.hosts.is_empty();
        let name = counter.name(&shown);
        let made = self.told(&name, |builder, step| {
            let mut key = Key::new("run", &state.chain);
            key.list(&args).list(&env).add(&state.config.user).add(&state.config.working_dir).add(&network);
            key.list(&builder.build.options.hosts).add(script.as_deref().unwrap_or_default());
            key.add(&builder.build.options.shm_size.to_string());
            let mut mounts = Vec::new();
            for mount in &run.mounts {
                mounts.push(builder.mount(state, mount, inputs, &mut key)?);
            }
            let key = key.finish();
            let _flight = builder.board(key)?;
            let known = builder.cached(state, &key)?;
            if let Some(made) =
                known.or_else(|| by_history.then(|| builder.in_history(state, &created_by))?)
            {
                return Ok((made, true));
            }
            let mut env = env;
            for proxy in PROXIES {
                if let Some(value) = builder.build.given(proxy)
                    && state.lookup(proxy).is_none()
                {
                    env.push(format!("{proxy}={value}"));
                }
            }
            let container = Step::new(builder.store.layout(), &builder.build.options.cgroup_parent)?;
            let mut resources = builder.build.options.resources.clone();
            crate::cgroup::resources::fill_defaults(&mut resources);
            let mut record = Record {
                path: args[0].clone(),
                args: args[1..].to_vec(),
                config: Config {
                    hostname: "buildkitsandbox".to_owned(),
                    env,
                    user: state.config.user.clone(),
                    working_dir: state.config.working_dir.clone(),
                    ..Config::default()
                },
                host_config: HostConfig {
                    network_mode: network,
                    extra_hosts: Some(builder.build.options.hosts.clone()).filter(|hosts| !hosts.is_empty()),
                    shm_size: if builder.build.options.shm_size == 0 {
                        SHM
                    } else {
                        builder.build.options.shm_size
                    },
                    resources,
                    ..HostConfig::default()
                },
                chain: state.chain.clone(),
                cgroup_parent: builder.build.options.cgroup_parent.clone(),
                platform: "linux".to_owned(),
                ..Record::default()
            };
            let mut views = Vec::new();
            let caches = builder.caches(&mounts)?;
            if let Some(script) = &script {
                let path = container.run_dir().join("script");
                fs::write(&path, script).map_err(|error| Error::io("write", &path, error))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .map_err(|error| Error::io("chmod", &path, error))?;
                record.mounts.push(bind(&path, &args[0], false)?);
            }
            for (n, mount) in mounts.into_iter().enumerate() {
                builder.prepare(&container, n, mount, &mut record, &mut views, &caches)?;
            }
            let targets: Vec<String> = record
                .mounts
                .iter()
                .map(|mount| mount.destination.clone())
                .chain(views.iter().map(|view: &View| view.target.clone()))
                .chain(record.host_config.tmpfs.keys().cloned())
                .collect();
            builder.execute(step, &container, &Plan { record, views }, &args)?;
            let below = image::diff_dirs(builder.store.layout(), &state.chain);
            for target in &targets {
                unmark(&container.upper(), &below, target);
            }
            let made = builder.keep(state, &container.upper(), &[key], &name)?;
            Ok((made, false))
        })?;
        state.add(&made, created_by);
        Ok(())
    }

    /// Runs a step's process to its end.
    fn execute(&self, step: usize, container: &Step, plan: &Plan, args: &[String]) -> Result<(), Error> {
        let handle = container.start(plan)?;
        let mut receiver = attach::Receiver::new(handle.socket.as_fd());
        let command = || args.join(" ");
        let mut result = None;
        let mut canceled = false;
        loop {
            if !canceled && self.build.schedule.wait(Some(handle.socket.as_fd()), PollTimeout::NONE).is_err()
            {
                // It kills what it has started, and takes back what it has made, before it goes.
                canceled = true;
                let _ = shutdown(handle.socket.as_raw_fd(), Shutdown::Write);
            }
            let event =
                receiver.receive().map_err(|error| Error::io("recv", Path::new(container.id()), error))?;
            match event {
                Some(Event::Stdout(bytes)) => self.build.watcher.output(step, false, &bytes),
                Some(Event::Stderr(bytes)) => self.build.watcher.output(step, true, &bytes),
                Some(Event::Warning(text)) => {
                    self.build.watcher.output(step, true, format!("{text}\n").as_bytes());
                }
                Some(Event::Exited { code }) => result = Some(Ok(code)),
                Some(Event::Failed { message, .. }) => result = Some(Err(message)),
                Some(Event::Started { .. }) => {}
                // Only now has it let go of everything.
                None => break,
            }
        }
        match result {
            _ if canceled => Err(Error::Canceled),
            Some(Ok(0)) => Ok(()),
            Some(Ok(code)) => Err(Error::Process { command: command(), code }),
            Some(Err(message)) => Err(Error::Start { command: command(), message }),
            None => Err(crate::container::Error::MonitorLost(container.id().to_owned()).into()),
        }
    }
}

/// Takes away what was made in an upper directory so that something could be mounted there: empty, and not
/// there below. The directory is a container's, so no link in it is followed.
fn unmark(upper: &Path, below: &[PathBuf], target: &str) {
    let mut parts = clean(target.as_bytes());
    let Ok(root) = open_directory(upper) else { return };
    while let Some(name) = parts.pop() {
        let path = Path::new(std::ffi::OsStr::from_bytes(&parts.join(&b'/')))
            .join(std::ffi::OsStr::from_bytes(&name));
        if !matches!(layer::find_below(below, &path), Ok(None)) {
            return;
        }
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let dir = parts.join(&b'/');
        let dir = if dir.is_empty() { b".".to_vec() } else { dir };
        let Ok(parent) = openat2(&root, dir.as_slice(), how) else { continue };
        let name = std::ffi::OsStr::from_bytes(&name);
        let stat = nix::sys::stat::fstatat(&parent, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
        let gone = match stat {
            Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => {
                nix::unistd::unlinkat(&parent, name, UnlinkatFlags::RemoveDir)
            }
            Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_size == 0 => {
                nix::unistd::unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)
            }
            Ok(_) => return,
            Err(_) => Ok(()),
        };
        if gone.is_err() {
            return;
        }
    }
}
