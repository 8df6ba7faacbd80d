//! An exec whose ends somebody else holds: how `serve` runs a program in a container.
//!
//! `exec` on the command line clones the new process from itself, which only a process with one thread may do, and
//! moves the bytes in a loop of its own. A server has threads, and a client that stops reading must not stop it. So it
//! executes our binary once for every exec, and talks to that process as it talks to a monitor, in the same messages
//! ([`protocol`]): what the program prints, how it ends, what is typed, the size of the terminal. The process owns
//! the exec: when the server goes, the program goes on, its output to nowhere, as with Docker's shim.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::socket::MsgFlags;
use serde::{Deserialize, Serialize};

use super::protocol::{self, CHUNK, Event, Request};
use super::spec::ExecOptions;
use super::summon::{self, Handle};
use super::{Error, IoContext as _, exec, record, recover};
use crate::runtime::{self, WindowSize};
use crate::store::{Layout, Store};

/// Input that waits for the program, in bytes, before no more is taken.
const INPUT: usize = 256 << 10;

/// The internal verb.
pub const VERB: &str = "exec-session";

/// What is to be run, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The container's id.
    pub container: String,
    /// The program and its surroundings.
    pub options: ExecOptions,
    /// Its input is a pipe and not /dev/null.
    pub stdin: bool,
    /// All its streams are /dev/null.
    pub detached: bool,
}

/// Starts the process that runs an exec. Its first word is [`Event::Started`] or [`Event::Failed`].
pub fn spawn(layout: &Layout, order: &Order) -> Result<Handle, Error> {
    let place = layout.run(&order.container);
    let (ours, theirs) = summon::control(&place)?;
    let exe = runtime::protected_self()?;
    fcntl(theirs.as_fd(), FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).at("fcntl(F_SETFD)", &place)?;
    let spawned = Command::new(format!("/proc/self/fd/{}", exe.as_raw_fd()))
        .arg("--root")
        .arg(&layout.root)
        .arg("--run-root")
        .arg(&layout.run_root)
        .args([VERB, &theirs.as_raw_fd().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    drop(theirs);
    let mut child = spawned.at("exec", Path::new("/proc/self/exe"))?;
    let text = serde_json::to_vec(order)
        .map_err(|source| Error::Record { id: order.container.clone(), source })
        .and_then(|text| match child.stdin.take() {
            Some(mut stdin) => stdin.write_all(&text).at("write", &place),
            None => Ok(()),
        });
    crate::children::hand_over(child);
    text.map(|()| Handle { socket: ours })
}

/// The life of that process. `control` is the descriptor that [`spawn`] left open.
pub fn main(layout: Layout, control: RawFd) -> Result<(), Error> {
    let control = summon::adopt_control(control)?;
    runtime::reset_signals();
    // As the start of every Rust program does: a reader that goes away is an error of a write.
    // SAFETY: a disposition without a handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let place = Path::new("stdin");
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text).at("read", place)?;
    let order: Order =
        serde_json::from_slice(&text).map_err(|source| Error::Record { id: "exec".to_owned(), source })?;
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
        .at("open", Path::new("/dev/null"))?;
    // SAFETY: a number that every process has and that nobody in this one holds as its own.
    unsafe { libc::dup2(null.as_raw_fd(), 0) };
    drop(null);
    let session = Session { control, order, gone: false };
    session.run(layout)
}

struct Session {
    control: OwnedFd,
    order: Order,
    /// Whoever held the other end is gone.
    gone: bool,
}

impl Session {
    fn run(mut self, layout: Layout) -> Result<(), Error> {
        let Order { container, options, stdin, detached } = self.order.clone();
        let mut store = Store::open(layout)?;
        let started = record::find(&store, &container).and_then(|mut found| {
            if recover::recover_one(&mut store, &found)? {
                found = record::find(&store, &container)?;
            }
            let running = exec::start(&store, &found, &options, stdin, detached)?;
            Ok((found, running))
        });
        let (found, mut running) = match started {
            Ok(started) => started,
            Err(error) => {
                let code = match &error {
                    Error::Runtime(error) => error.exit_code().into(),
                    _ => 125,
                };
                let message = match &error {
                    Error::Runtime(error) => format!(
                        "OCI runtime exec failed: exec failed: unable to start container process: {error}"
                    ),
                    other => other.to_string(),
                };
                self.say(&Event::Failed { code, message });
                return Ok(());
            }
        };
        let layout = store.layout().clone();
        drop(store);
        let place = Path::new(&container);
        for warning in std::mem::take(&mut running.warnings) {
            self.say(&Event::Warning(warning));
        }
        self.say(&Event::Started { pid: pid_of(&running.pidfd) });
        found.event(format!("exec_start: {}", options.args.join(" "))).tell(&layout);
        let code = self.relay(&mut running, options.tty).at("poll", place)?;
        found.event("exec_die").with("exitCode", &code).tell(&layout);
        self.say(&Event::Exited { code });
        Ok(())
    }

    /// Tells the other end; waits for one that is slow, and never again for one that is gone.
    fn say(&mut self, event: &Event) {
        if !self.gone {
            let sent = protocol::send_message(self.control.as_fd(), &event.encode(), MsgFlags::MSG_NOSIGNAL);
            self.gone = sent.is_err();
        }
    }

    /// Moves bytes until the program has ended and its output is empty.
    fn relay(&mut self, running: &mut exec::Running, tty: bool) -> io::Result<i32> {
        let mut pending: VecDeque<u8> = VecDeque::new();
        let mut ends = false;
        let mut listening = true;
        let mut code = None;
        let mut buffer = vec![0_u8; CHUNK + 1];
        if let Some(input) = &running.input {
            fcntl(input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        loop {
            let control = Some(self.control.as_fd()).filter(|_| listening && pending.len() < INPUT);
            let [end, output, error, input] = running.sources(tty, code.is_some(), !pending.is_empty());
            let sources = [end, output, error, input, (control, PollFlags::POLLIN)];
            // A program that ended may have left children that hold its output open; what is there is passed on,
            // what they may say later is not waited for.
            let patience = if code.is_some() { PollTimeout::ZERO } else { PollTimeout::NONE };
            let Some(ready) = exec::ready(sources, patience)? else { continue };
            if ready[1] {
                let source = if tty { &mut running.input } else { &mut running.output };
                if let Some(length) = exec::take(source, &mut buffer[..CHUNK]) {
                    self.say(&Event::Stdout(buffer[..length].to_vec()));
                }
            }
            if ready[2]
                && let Some(length) = exec::take(&mut running.error, &mut buffer[..CHUNK])
            {
                self.say(&Event::Stderr(buffer[..length].to_vec()));
            }
            if ready[4] {
                match protocol::receive(self.control.as_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) | Ok([]) => (listening, ends, self.gone) = (false, true, true),
                    Ok(message) => match Request::decode(message) {
                        Some(Request::Stdin(data)) => pending.extend(data),
                        Some(Request::StdinEof) => ends = true,
                        Some(Request::Resize { rows, cols: columns }) => {
                            if let Some(console) = running.input.as_ref().filter(|_| tty) {
                                let _ = runtime::resize(console, WindowSize { rows, columns });
                            }
                        }
                        Some(Request::Attach { .. }) | None => {}
                    },
                }
            }
            if !pending.is_empty() {
                match &running.input {
                    None => pending.clear(),
                    Some(input) => match nix::unistd::write(input, pending.make_contiguous()) {
                        Ok(written) => drop(pending.drain(..written)),
                        Err(Errno::EAGAIN | Errno::EINTR) => {}
                        Err(_) => {
                            pending.clear();
                            ends = true;
                        }
                    },
                }
            }
            if ends && pending.is_empty() && !tty {
                running.input = None;
            }
            if ready[0] {
                code = Some(exec::exit_code(&running.pidfd)?);
                continue;
            }
            if let Some(code) = code
                && !ready[1]
                && !ready[2]
            {
                return Ok(code);
            }
        }
    }
}

/// The process as the host numbers it; 0 when it is gone.
fn pid_of(pidfd: &OwnedFd) -> i32 {
    let text =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap_or_default();
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0).unwrap_or(0)
}
