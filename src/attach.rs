//! A person's or a script's end of a container's stdio.
//!
//! One poll loop moves bytes between our own three streams and a monitor's socket, forwards signals
//! and window sizes, and watches for the detach keys. It never blocks in a write to the monitor: a
//! container that fills our output before it reads our input would otherwise stop both of us.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_engine::container::attach::Keys;
use bulkhead_engine::container::protocol::{self, CHUNK, Event, Request};
use bulkhead_engine::container::summon::Handle;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::MsgFlags;
use nix::sys::termios::{self, SetArg, Termios};

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The container ended with this code.
    Exited(i32),
    /// The user typed the detach keys.
    Detached,
    /// Whoever read our standard output is gone; the container goes on.
    OutputGone,
    /// A signal that is not for the container ended the session; the container goes on.
    Interrupted(i32),
    /// The monitor went away without a word.
    Lost,
}

/// What a session passes on.
pub struct Session<'s> {
    /// Our standard input goes to the container.
    pub stdin: bool,
    /// The container's standard output is ours.
    pub stdout: bool,
    /// And its standard error.
    pub stderr: bool,
    /// The container has a terminal.
    pub tty: bool,
    /// What to do with a signal we get; with `None` those that end a program end the session.
    pub on_signal: Option<&'s mut dyn FnMut(i32)>,
    /// The byte sequence that detaches; empty never.
    pub detach_keys: &'s [u8],
}

/// Puts a terminal into raw mode and back when dropped.
pub struct RawMode(Option<(OwnedFd, Termios)>);

impl RawMode {
    /// Raw mode on standard input, if that is a terminal.
    pub fn enter() -> Self {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Self(None);
        }
        let Ok(saved) = termios::tcgetattr(&stdin) else { return Self(None) };
        let mut raw = saved.clone();
        termios::cfmakeraw(&mut raw);
        if termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw).is_err() {
            return Self(None);
        }
        Self(stdin.as_fd().try_clone_to_owned().ok().map(|fd| (fd, saved)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some((fd, saved)) = &self.0 {
            let _ = termios::tcsetattr(fd, SetArg::TCSADRAIN, saved);
        }
    }
}

/// The size of our terminal, if we have one: rows, columns.
pub fn window_size() -> Option<(u16, u16)> {
    nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, libc::winsize);
    use std::os::fd::AsRawFd as _;
    // SAFETY: winsize is four plain integers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the pointer is to a winsize of ours.
    unsafe { get_window_size(io::stdout().as_raw_fd(), &raw mut size) }.ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Not passed on: what cannot be, what says something about ourselves, and a shell's job control of us.
const OWN: [i32; 15] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCHLD,
    libc::SIGPIPE,
    libc::SIGURG,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
];

/// What ends a session whose signals are not the container's. It has a terminal to put right first.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Signals that are passed on: all but our own, those without a name as well.
fn forwarded() -> SigSet {
    // SAFETY: a set of bits, for which zero is a value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours, and the numbers are signals.
    unsafe {
        libc::sigfillset(&raw mut set);
        for signal in OWN {
            libc::sigdelset(&raw mut set, signal);
        }
    }
    // SAFETY: sigfillset has made it.
    unsafe { SigSet::from_sigset_t_unchecked(set) }
}

/// Blocks the signals a session passes on; call before the container starts, so that a signal in between is not
/// lost.
pub fn block_signals() -> nix::Result<()> {
    forwarded().thread_block()
}

impl Session<'_> {
    /// Serves until the container ends, the user detaches or the monitor dies.
    ///
    /// A reader of ours that is gone ends the session and not the container, as SIGPIPE ends Docker's
    /// client.
    pub fn serve(&mut self, handle: &Handle) -> io::Result<Outcome> {
        let socket = handle.socket.as_fd();
        let signals = self.signals()?;
        let stdin = io::stdin();
        let mut input = self.stdin.then(|| stdin.as_fd());
        let mut pending: Option<Request> = self.tty.then(resize_request).flatten();
        let mut buffer = vec![0_u8; CHUNK + 1];
        let mut keys = Keys::new(if self.tty { self.detach_keys } else { &[] });
        let mut outputs = Outputs { deaf: [!self.stdout, !self.stderr], ..Outputs::default() };
        loop {
            let mut fds = vec![
                PollFd::new(
                    socket,
                    if pending.is_some() {
                        PollFlags::POLLIN | PollFlags::POLLOUT
                    } else {
                        PollFlags::POLLIN
                    },
                ),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            let wants_input = pending.is_none();
            if let Some(input) = input.filter(|_| wants_input) {
                fds.push(PollFd::new(input, PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(io::Error::from)?,
            };
            let ready = |n: usize| fds.get(n).and_then(PollFd::any).unwrap_or(false);
            let (socket_ready, signal_ready, input_ready) = (ready(0), ready(1), ready(2));
            if signal_ready {
                if let Some(outcome) = self.take_signal(&signals, &mut pending) {
                    return Ok(outcome);
                }
                flush(socket, &mut pending);
            }
            if socket_ready {
                if let Some(outcome) = receive(socket, &mut buffer, &mut outputs)? {
                    return Ok(outcome);
                }
                flush(socket, &mut pending);
            }
            if input_ready && let Some(fd) = input {
                match nix::unistd::read(fd, &mut buffer[..CHUNK]) {
                    Err(Errno::EINTR | Errno::EAGAIN) => {}
                    Ok(0) | Err(_) => {
                        input = None;
                        pending = Some(Request::StdinEof);
                    }
                    Ok(length) => match keys.pass(&buffer[..length]) {
                        Some(data) if data.is_empty() => {}
                        Some(data) => pending = Some(Request::Stdin(data)),
                        None => return Ok(Outcome::Detached),
                    },
                }
                flush(socket, &mut pending);
            }
        }
    }

    fn signals(&self) -> io::Result<SignalFd> {
        let mut set = if self.on_signal.is_some() { forwarded() } else { ENDING.into_iter().collect() };
        if self.tty {
            set.add(Signal::SIGWINCH);
        }
        set.thread_block()?;
        Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
    }

    fn take_signal(&mut self, signals: &SignalFd, pending: &mut Option<Request>) -> Option<Outcome> {
        while let Ok(Some(info)) = signals.read_signal() {
            let number = info.ssi_signo as i32;
            if number == libc::SIGWINCH && self.tty {
                // A size behind pending input may wait; the newest is read when it is sent.
                if pending.is_none() {
                    *pending = resize_request();
                }
            } else if let Some(on_signal) = &mut self.on_signal {
                on_signal(number);
            } else {
                return Some(Outcome::Interrupted(number));
            }
        }
        None
    }
}

fn resize_request() -> Option<Request> {
    window_size().map(|(rows, cols)| Request::Resize { rows, cols })
}

fn flush(socket: BorrowedFd<'_>, pending: &mut Option<Request>) {
    let Some(request) = pending else { return };
    match protocol::send_message(socket, &request.encode(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        // A monitor that is gone says so on the receiving side, after its last words.
        Ok(()) | Err(_) => *pending = None,
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], outputs: &mut Outputs) -> io::Result<Option<Outcome>> {
    loop {
        let message = match protocol::receive(socket, buffer, MsgFlags::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => other?,
        };
        if message.is_empty() {
            return Ok(Some(Outcome::Lost));
        }
        match Event::decode(message) {
            Some(Event::Exited { code }) => return Ok(Some(Outcome::Exited(code))),
            Some(Event::Failed { code, message }) => {
                eprintln!("bulkhead: {message}");
                return Ok(Some(Outcome::Exited(code)));
            }
            Some(event) => outputs.write(&event),
            None => {}
        }
        if outputs.out_gone {
            return Ok(Some(Outcome::OutputGone));
        }
    }
}

/// Our two output streams, each until its reader is gone.
#[derive(Default)]
pub struct Outputs {
    out_gone: bool,
    err_gone: bool,
    /// Not to be shown: standard output, standard error.
    deaf: [bool; 2],
}

impl Outputs {
    /// Writes an event's bytes to the stream they belong to.
    pub fn write(&mut self, event: &Event) {
        match event {
            Event::Stdout(_) if self.deaf[0] => {}
            Event::Stderr(_) if self.deaf[1] => {}
            Event::Stdout(data) if !self.out_gone => {
                let mut out = io::stdout().lock();
                self.out_gone = out.write_all(data).and_then(|()| out.flush()).is_err();
            }
            Event::Stderr(data) if !self.err_gone => self.err_gone = io::stderr().write_all(data).is_err(),
            Event::Warning(text) => eprintln!("WARNING: {text}"),
            _ => {}
        }
    }
}
