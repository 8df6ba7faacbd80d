//! `run` and `create`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};

use bulkhead_engine::container::claim::Claim;
use bulkhead_engine::container::monitor::Likely;
use bulkhead_engine::container::{self, NewContainer, lifecycle, protocol::Request};
use bulkhead_engine::image;
use bulkhead_engine::store::Store;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use super::lifecycle::{detach_keys, finish, forward_signal, hold_signals, store, warn};
use crate::attach::{RawMode, Session};
use crate::cli::Globals;
use crate::cli::run::{ContainerFlags, CreateArgs, RunArgs};
use crate::failure::Failure;
use crate::options::create::{self, Pull, Refusal, Surroundings};
use crate::options::env;

/// A failure before the container's own program ran, as Docker ends that verb.
fn refused(verb: &str, error: impl std::fmt::Display) -> Failure {
    Refusal::Daemon(error.to_string()).failure(verb)
}

/// For which verb a container is made.
struct How<'a> {
    verb: &'a str,
    /// At once, by whoever makes it.
    started: bool,
    detached: bool,
    /// Nobody will ever start it if its maker does not.
    ephemeral: bool,
}

/// Creates the container that the flags describe.
fn make(
    globals: &Globals,
    flags: &ContainerFlags,
    how: &How<'_>,
) -> Result<(Store, lifecycle::Created), Failure> {
    let verb = how.verb;
    let directory = std::env::current_dir().unwrap_or_default();
    let around = Surroundings { lookup: &env::lookup, directory: &directory.to_string_lossy() };
    // A file of variables may be a pipe that nobody writes to.
    let creation = interruptibly(|| create::create(flags, how.detached, &around))
        .map_err(|refusal| refusal.failure(verb))?;
    let mut claim = Claim::new(&globals.layout()).map_err(|error| refused(verb, error))?;
    if how.started {
        let host = &creation.host;
        let own = |mode: &str| mode != "host" && !mode.starts_with("container:");
        let parent = Some(&host.cgroup_parent).filter(|parent| !parent.is_empty());
        let likely = Likely {
            network: own(&host.network_mode),
            ipc: own(&host.ipc_mode),
            cgroup_parent: (!host.privileged).then(|| parent.unwrap_or(&globals.cgroup_parent).clone()),
        };
        claim.summon(likely).map_err(|error| refused(verb, error))?;
    }
    let mut store = store(globals)?;
    let fetch = |store: &mut Store| {
        let platform = creation.platform.as_deref();
        interruptibly(|| {
            super::registry::fetch_for_run(globals, store, &creation.image, platform, flags.quiet)
        })
        .map_err(|error| refused(verb, error))
    };
    if creation.pull == Pull::Always {
        fetch(&mut store)?;
    }
    // An image for something else is not the one that is asked for, and a registry may have that.
    let platform = creation.platform.as_deref();
    let wrong = |image: &image::Image| platform.is_some_and(|platform| !is_for(image, platform));
    let may_fetch = creation.pull == Pull::Missing && is_name(&creation.image);
    let image = match image::find(&store, &creation.image) {
        Ok(image) if !(may_fetch && wrong(&image)) => image,
        Ok(_) | Err(image::Error::NoSuchImage(_)) if may_fetch => {
            if !flags.quiet {
                let name = image::Reference::parse(&creation.image).map(|name| name.tagged().familiar());
                let name = name.unwrap_or_else(|_| creation.image.clone());
                let _ = writeln!(io::stderr(), "Unable to find image '{name}' locally");
            }
            fetch(&mut store)?;
            image::find(&store, &creation.image).map_err(|error| refused(verb, error))?
        }
        Ok(image) => image,
        Err(error) => return Err(refused(verb, error)),
    };
    if let Some(platform) = creation.platform.as_deref().filter(|platform| !is_for(&image, platform)) {
        return Err(refused(
            verb,
            format!(
                "image with reference {} was found but does not match the specified platform: wanted {platform}, actual: {}/{}",
                creation.image, image.os, image.architecture
            ),
        ));
    }
    let config = container::merge(&image.config, creation.config).map_err(|error| refused(verb, error))?;
    let (name, mut host_config) = (creation.name, creation.host);
    if config.tty
        && let Some((rows, columns)) = crate::attach::window_size()
    {
        // A program that asks as the first thing it does must not find a terminal without a size.
        host_config.console_size = [rows.into(), columns.into()];
    }
    let cid_file = match host_config.container_id_file.as_str() {
        "" => None,
        path => Some(OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
            let why = if error.kind() == io::ErrorKind::AlreadyExists {
                format!(
                    "container ID file found, make sure the other container isn't running or delete {path}"
                )
            } else {
                format!("failed to create the container ID file: open {path}: {error}")
            };
            Failure::new(125, format!("bulkhead: {why}"))
        })?),
    };
    let cid_path = host_config.container_id_file.clone();
    let new = NewContainer {
        image: image.id,
        chain: image.chain,
        name,
        config,
        host_config,
        networking: super::network::networking(&creation.networks),
        cgroup_parent: globals.cgroup_parent.clone(),
        ephemeral: how.ephemeral,
    };
    // An empty volume gets the image's files now, as many as there are.
    let may_copy =
        new.config.volumes.is_some() || new.host_config.binds.is_some() || !new.host_config.mounts.is_empty();
    let created = if may_copy {
        interruptibly(|| lifecycle::create(&mut store, new, claim))
    } else {
        lifecycle::create(&mut store, new, claim)
    };
    let created = match created {
        Ok(created) => created,
        Err(error) => {
            if cid_file.is_some() {
                let _ = std::fs::remove_file(cid_path);
            }
            return Err(refused(verb, error));
        }
    };
    if let Some(mut file) = cid_file {
        file.write_all(created.container.id.as_bytes())
            .map_err(|error| Failure::new(125, format!("bulkhead: write {cid_path}: {error}")))?;
    }
    for warning in &created.warnings {
        let _ = writeln!(io::stderr(), "WARNING: {warning}");
    }
    Ok((store, created))
}

/// Whether a registry could be asked for it: an id is nobody's name.
fn is_name(image: &str) -> bool {
    image::Reference::parse(image).is_ok()
}

/// Does what takes long, and may be ended by a signal although the command holds signals back for the
/// container that is to come.
fn interruptibly<T>(work: impl FnOnce() -> T) -> T {
    let mut held = SigSet::empty();
    // Neither call can fail: the sets are ours and the way is one of three.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), Some(&mut held));
    let done = work();
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&held), None);
    done
}

/// Whether an image is for a platform as users write it: `linux/arm64/v8`, `linux/amd64`, `arm64`, `linux`.
fn is_for(image: &image::Image, platform: &str) -> bool {
    let arch = |text: &str| match text {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    };
    let lower = platform.to_ascii_lowercase();
    match lower.split('/').collect::<Vec<_>>()[..] {
        [one] => one == image.os || arch(one) == image.architecture,
        [os, architecture] => os == image.os && arch(architecture) == image.architecture,
        [os, architecture, variant] => {
            os == image.os
                && arch(architecture) == image.architecture
                // An image that names no variant is for all of them.
                && image.variant.as_deref().is_none_or(|own| own == variant)
        }
        _ => false,
    }
}

/// `bulkhead create`
pub fn create(globals: &Globals, args: &CreateArgs) -> Result<u8, Failure> {
    let how = How { verb: "create", started: false, detached: false, ephemeral: false };
    let (_, created) = make(globals, &args.container, &how)?;
    writeln!(io::stdout(), "{}", created.container.id).map_err(|error| Failure::stdout(&error))?;
    Ok(0)
}

/// `bulkhead run`
pub fn run(globals: &Globals, args: &RunArgs) -> Result<u8, Failure> {
    let flags = &args.container;
    let keys = detach_keys(args.detach_keys.as_deref())?;
    if flags.tty && flags.interactive && !args.detach && !io::IsTerminal::is_terminal(&io::stdin()) {
        return Err(Failure::plain("the input device is not a TTY"));
    }
    if !args.detach {
        hold_signals(args.sig_proxy && !flags.tty)?;
    }
    let how = How { verb: "run", started: true, detached: args.detach, ephemeral: flags.rm };
    let (store, created) = make(globals, flags, &how)?;
    let found = created.container;
    let stdin = found.record.config.attach_stdin;
    let attach = Request::Attach { stdin, output: !args.detach };
    let handle = created.claim.start(&attach).map_err(|error| refused("run", error))?;
    let layout = store.layout().clone();
    let started = lifecycle::await_start(&handle, &found.id, warn);
    // Kept open until here, the database is found open by the monitor, which saves that a recovery; the
    // session itself may last for days, and does without.
    drop(store);
    match started {
        Ok(_) => {}
        Err(container::Error::Start { code, message }) => {
            let error = container::Error::Start { code, message };
            return Err(Failure { code: code as u8, ..refused("run", error) });
        }
        Err(error) => return Err(refused("run", error)),
    }
    if args.detach {
        writeln!(io::stdout(), "{}", found.id).map_err(|error| Failure::stdout(&error))?;
        return Ok(0);
    }
    if !found.record.config.attach_stdout && !found.record.config.attach_stderr {
        writeln!(io::stdout(), "{}", found.id).map_err(|error| Failure::stdout(&error))?;
    }
    let tty = found.record.config.tty;
    let raw = (tty && stdin).then(RawMode::enter);
    let mut forward = |signal: i32| forward_signal(layout.clone(), &found.id, signal);
    let proxy = args.sig_proxy && !tty;
    let mut session = Session {
        stdin,
        stdout: found.record.config.attach_stdout,
        stderr: found.record.config.attach_stderr,
        tty,
        on_signal: proxy.then_some(&mut forward as &mut dyn FnMut(i32)),
        detach_keys: &keys,
    };
    let outcome = session.serve(&handle);
    drop(raw);
    finish(outcome, &layout, &found.id)
}
