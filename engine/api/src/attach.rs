//! Connections that a client takes over for a container's or an exec's streams.
//!
//! A client upgrades its connection and from then on it carries bytes: as they are for a terminal, otherwise in frames
//! of eight bytes that say which stream they are of. `docker run` does so before it starts the container, so that no
//! word of it is lost; such a client waits here ([`Waiting`]), and the start gives it the first connection to the
//! monitor, as it gives one to `bulkhead run`. Everything here is a task of the runtime and holds no thread.

use std::collections::HashMap;
use std::io::Write as _;
use std::num::{IntErrorKind, ParseIntError};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_engine::container::attach::{DETACH_KEYS, Keys, connect, parse_detach_keys};
use bulkhead_engine::container::log;
use bulkhead_engine::container::protocol::{self, CHUNK, Event, Request};
use bulkhead_engine::container::summon::Handle;
use bulkhead_engine::container::{self, Status};
use bulkhead_engine::events::Kind;
use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

use crate::App;
use crate::body::{Body, Reply, reply, told, written};
use crate::error::Error;
use crate::router::{Call, Query, upgraded, wants_upgrade};

/// How often a client that sends nothing more is looked after.
const LOOK: Duration = Duration::from_millis(500);

const RAW: &str = "application/vnd.docker.raw-stream";
const FRAMED: &str = "application/vnd.docker.multiplexed-stream";

/// Clients that have attached to containers which do not run yet.
#[derive(Debug, Default)]
pub struct Waiting {
    clients: Mutex<HashMap<String, Vec<Client>>>,
}

/// One of them.
#[derive(Debug)]
pub struct Client {
    number: u64,
    /// What it wants.
    pub wish: Request,
    handle: oneshot::Sender<Handle>,
}

impl Client {
    /// Whether it still waits.
    pub fn is_there(&self) -> bool {
        !self.handle.is_closed()
    }

    /// Gives it its connection.
    pub fn give(self, handle: Handle) {
        // It may have gone at this moment; the monitor sees that.
        let _ = self.handle.send(handle);
    }
}

impl Waiting {
    fn add(&self, id: &str, wish: Request) -> (u64, oneshot::Receiver<Handle>) {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (send, receive) = oneshot::channel();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.entry(id.to_owned()).or_default().push(Client { number, wish, handle: send });
        (number, receive)
    }

    /// Takes one back; false when a start has it.
    fn take_back(&self, id: &str, number: u64) -> bool {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(all) = clients.get_mut(id) else { return false };
        let before = all.len();
        all.retain(|client| client.number != number);
        let taken = all.len() < before;
        if all.is_empty() {
            clients.remove(id);
        }
        taken
    }

    /// Those who wait for a container, for whoever starts it.
    pub fn take(&self, id: &str) -> Vec<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.remove(id).unwrap_or_default()
    }
}

/// What of a container's or an exec's streams a client gets, and how.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Bytes as they are.
    pub tty: bool,
    /// What the client sends is typed.
    pub stdin: bool,
    /// It gets standard output.
    pub stdout: bool,
    /// It gets standard error.
    pub stderr: bool,
    /// What detaches it.
    pub keys: Vec<u8>,
}

impl Manner {
    /// The type of the streams, which clients of 1.42 and later go by.
    pub fn kind(&self, minor: u32) -> &'static str {
        if self.tty || minor < 42 { RAW } else { FRAMED }
    }
}

/// The sequence that a query asks for.
pub fn keys(query: &Query) -> Result<Vec<u8>, Error> {
    match query.get("detachKeys") {
        None => Ok(DETACH_KEYS.to_vec()),
        Some(text) => parse_detach_keys(text)
            .ok_or_else(|| Error::bad(format!("Invalid detach keys ({text}) provided"))),
    }
}

/// How a client's session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The program ended with this code.
    Exited(i32),
    /// The monitor went away without a word.
    Lost,
    /// The client went, or detached.
    Left,
}

/// A monitor's or a session's socket on the runtime.
#[derive(Debug)]
pub struct Wire(AsyncFd<OwnedFd>);

impl Wire {
    /// Takes it over.
    pub fn of(handle: Handle) -> std::io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(handle.socket.as_fd(), FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        // SAFETY: an owned descriptor is the same and open for as long as it is registered.
        Ok(Self(unsafe { AsyncFd::register(handle.socket) }?))
    }

    /// A copy of the descriptor, to send sizes over from elsewhere.
    pub fn copy(&self) -> std::io::Result<OwnedFd> {
        self.0.get_ref().try_clone()
    }

    /// The next word; `None` when the other end is gone.
    pub async fn receive(&self) -> std::io::Result<Option<Event>> {
        let mut buffer = vec![0; CHUNK + 1];
        loop {
            let mut ready = self.0.readable().await?;
            let got = ready.try_io(|fd| {
                protocol::receive(fd.get_ref().as_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)
                    .map(|message| if message.is_empty() { None } else { Some(Event::decode(message)) })
            });
            match got {
                Err(_would_block) => {}
                Ok(Err(error)) => return Err(error),
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(Some(event)))) => return Ok(Some(event)),
                // A message of a newer monitor that we do not know is passed over.
                Ok(Ok(Some(None))) => {}
            }
        }
    }

    /// Says something, once there is room for it.
    pub async fn send(&self, request: &Request) -> std::io::Result<()> {
        let message = request.encode();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(sent) = ready.try_io(|fd| protocol::send_message(fd.get_ref().as_fd(), &message, flags))
            {
                return sent;
            }
        }
    }
}

/// Whether anybody is at the other end of a connection of which the end of input has been read. Somebody who has only
/// closed his own direction still listens.
fn is_hung_up(peer: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(peer.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|found| found.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// Waits until a client has gone that sends nothing more.
async fn hung_up(peer: Option<&OwnedFd>) {
    let Some(peer) = peer else { return };
    while !is_hung_up(peer) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Puts output into a frame, or leaves it as it is.
pub fn framed(tty: bool, stream: log::Stream, data: &[u8]) -> Vec<u8> {
    if tty {
        return data.to_vec();
    }
    let number = match stream {
        log::Stream::Stdout => 1,
        log::Stream::Stderr => 2,
    };
    let mut frame = Vec::with_capacity(8 + data.len());
    frame.extend_from_slice(&[number, 0, 0, 0]);
    frame.extend_from_slice(&(data.len() as u32).to_be_bytes());
    frame.extend_from_slice(data);
    frame
}

/// Moves bytes between a client and a program until one of them has gone.
pub async fn relay(client: TokioIo<Upgraded>, peer: Option<&OwnedFd>, wire: &Wire, manner: &Manner) -> End {
    let (mut from, mut to) = tokio::io::split(client);
    let output = async {
        let end = loop {
            match wire.receive().await {
                Ok(Some(Event::Exited { code })) => break End::Exited(code),
                Ok(Some(Event::Failed { code, message })) => {
                    let text = format!("{message}\r\n");
                    let _ = say(&mut to, manner, log::Stream::Stdout, text.as_bytes()).await;
                    break End::Exited(code);
                }
                Ok(Some(Event::Stdout(data))) if manner.stdout => {
                    if say(&mut to, manner, log::Stream::Stdout, &data).await.is_err() {
                        break End::Left;
                    }
                }
                Ok(Some(Event::Stderr(data))) if manner.stderr => {
                    if say(&mut to, manner, log::Stream::Stderr, &data).await.is_err() {
                        break End::Left;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break End::Lost,
            }
        };
        // Its end is how the client learns that nothing more comes.
        let _ = to.shutdown().await;
        end
    };
    let input = async {
        let mut keys = Keys::new(if manner.tty { &manner.keys } else { &[] });
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer).await {
                Err(_) => return End::Left,
                Ok(0) => break,
                Ok(_) if !manner.stdin => {}
                Ok(length) => match keys.pass(&buffer[..length]) {
                    None => return End::Left,
                    Some(data) if data.is_empty() => {}
                    Some(data) => {
                        if wire.send(&Request::Stdin(data)).await.is_err() {
                            // The program's last words are still to be passed on.
                            break;
                        }
                    }
                },
            }
        }
        if manner.stdin {
            let _ = wire.send(&Request::StdinEof).await;
        }
        hung_up(peer).await;
        match peer {
            Some(_) => End::Left,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        end = output => end,
        end = input => end,
    }
}

/// Passes what a program says on to a client that takes no connection over, until one of them has gone.
pub async fn listen(send: &mpsc::Sender<std::io::Result<Bytes>>, wire: &Wire, manner: &Manner) -> End {
    loop {
        let event = tokio::select! {
            event = wire.receive() => event,
            () = send.closed() => return End::Left,
        };
        let frame = match event {
            Ok(Some(Event::Stdout(data))) if manner.stdout => framed(manner.tty, log::Stream::Stdout, &data),
            Ok(Some(Event::Stderr(data))) if manner.stderr => framed(manner.tty, log::Stream::Stderr, &data),
            Ok(Some(Event::Exited { code })) => return End::Exited(code),
            Ok(None) | Err(_) => return End::Lost,
            Ok(Some(_)) => continue,
        };
        if send.send(Ok(frame.into())).await.is_err() {
            return End::Left;
        }
    }
}

async fn say(
    to: &mut (impl AsyncWrite + Unpin),
    manner: &Manner,
    stream: log::Stream,
    data: &[u8],
) -> std::io::Result<()> {
    to.write_all(&framed(manner.tty, stream, data)).await?;
    to.flush().await
}

/// `POST /containers/NAME/attach`
pub async fn attach(app: &Arc<App>, call: Call, name: &str) -> Result<Reply, Error> {
    let query = &call.query;
    let keys = keys(query)?;
    let (streams, logs) = (query.is("stream"), query.is("logs"));
    if !streams && !logs {
        return Err(Error::bad("Either the stream or logs parameter must be true"));
    }
    let (stdin, stdout, stderr) = (query.is("stdin"), query.is("stdout"), query.is("stderr"));
    let wanted = name.to_owned();
    let wish = Request::Attach { stdin: stdin && streams, output: streams && (stdout || stderr) };
    let asked = wish.clone();
    let found = app
        .with_store(move |store| {
            let found = container::find(store, &wanted)?;
            let refused = |what: &str| Error::conflict(format!("Container {} is {what}", found.id));
            match found.state.status {
                Status::Paused => Err(refused("paused, unpause the container before attach")),
                Status::Restarting => Err(refused("restarting, wait until the container is running")),
                _ if !streams || !found.state.status.is_alive() => Ok((found, None)),
                _ => {
                    let handle = connect(store, &found, &asked)?;
                    Ok((found, Some(handle)))
                }
            }
        })
        .await?;
    let (found, handle) = found;
    let manner = Manner {
        tty: found.record.config.tty,
        stdin: stdin && found.record.config.open_stdin && streams,
        stdout,
        stderr,
        keys,
    };
    let mut earlier = if logs && found.record.host_config.log_config.driver != "none" {
        Some(earlier(found.log_path(&app.settings.layout), manner.clone()).await?)
    } else {
        None
    };
    let source = match handle {
        Some(handle) => Source::Here(Wire::of(handle)?),
        None if streams => {
            let events = app.hub.listen();
            let (number, handle) = app.waiting.add(&found.id, wish);
            let place = Place { app: app.clone(), id: found.id.clone(), number };
            Source::Coming { place, handle, events }
        }
        None => Source::None,
    };
    let kind = manner.kind(call.minor);
    let id = found.id.clone();
    let app = app.clone();
    let wire = async move { source.wire(&app, &id).await };
    if wants_upgrade(&call.headers) {
        let upgrade = call.upgrade.ok_or_else(|| Error::bad("the connection cannot be upgraded"))?;
        let peer = call.peer;
        tokio::spawn(async move {
            let Ok(client) = upgrade.await else { return };
            let mut client = TokioIo::new(client);
            while let Some(piece) = next(&mut earlier).await {
                let Ok(piece) = piece else { return };
                if client.write_all(&piece).await.is_err() {
                    return;
                }
            }
            let wire = tokio::select! {
                wire = wire => wire,
                () = left(peer.as_deref()) => None,
            };
            match wire {
                Some(wire) => drop(relay(client, peer.as_deref(), &wire, &manner).await),
                None => drop(client.shutdown().await),
            }
        });
        return Ok(upgraded(kind));
    }
    // A client that does not take the connection over only listens.
    let (send, body) = told();
    tokio::spawn(async move {
        while let Some(piece) = next(&mut earlier).await {
            let broken = piece.is_err();
            if send.send(piece).await.is_err() || broken {
                return;
            }
        }
        let wire = tokio::select! {
            wire = wire => wire,
            () = send.closed() => None,
        };
        if let Some(wire) = wire {
            listen(&send, &wire, &manner).await;
        }
    });
    Ok(reply(hyper::StatusCode::OK, kind, body))
}

type Pieces = mpsc::Receiver<std::io::Result<Bytes>>;

/// What a container has said so far. A log may be longer than memory, and is read as fast as the client takes it.
async fn earlier(path: PathBuf, manner: Manner) -> Result<Pieces, Error> {
    let body = written(move |output| {
        let mut log = log::Reader::open(path, log::Selection::default(), false)?;
        output.begin();
        log.read_existing(|entry| {
            let wanted = match entry.stream {
                log::Stream::Stdout => manner.stdout,
                log::Stream::Stderr => manner.stderr,
            };
            if !wanted {
                return Ok(());
            }
            output.write_all(&framed(manner.tty, entry.stream, entry.log.as_bytes()))
        })?;
        Ok(())
    });
    match body.await? {
        Body::Stream(pieces) => Ok(pieces),
        Body::Whole(_) => Err(Error::lost()),
    }
}

async fn next(earlier: &mut Option<Pieces>) -> Option<std::io::Result<Bytes>> {
    earlier.as_mut()?.recv().await
}

/// Waits until a client has gone of which nothing has been read yet.
async fn left(peer: Option<&OwnedFd>) {
    match peer {
        Some(peer) => hung_up(Some(peer)).await,
        None => std::future::pending().await,
    }
}

/// Where an attached client's bytes come from.
enum Source {
    /// Nowhere: it asked for the log.
    None,
    Here(Wire),
    Coming {
        place: Place,
        handle: oneshot::Receiver<Handle>,
        events: tokio::sync::broadcast::Receiver<Arc<bulkhead_engine::events::Event>>,
    },
}

/// A client's place among those who wait. It is given back whenever the client goes before the start, be it before its
/// connection is its own.
struct Place {
    app: Arc<App>,
    id: String,
    number: u64,
}

impl Place {
    /// False when a start has it.
    fn give_back(&self) -> bool {
        self.app.waiting.take_back(&self.id, self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Source {
    /// The connection, once there is one. A start by a command is heard of in the log of events.
    async fn wire(self, app: &Arc<App>, id: &str) -> Option<Wire> {
        let (place, mut handle, mut events) = match self {
            Self::None => return None,
            Self::Here(wire) => return Some(wire),
            Self::Coming { place, handle, events } => (place, handle, events),
        };
        let started = |event: &bulkhead_engine::events::Event| {
            event.kind == Kind::Container
                && event.id == id
                && matches!(event.action.as_str(), "start" | "destroy")
        };
        loop {
            tokio::select! {
                biased;
                handle = &mut handle => return handle.ok().and_then(|handle| Wire::of(handle).ok()),
                event = events.recv() => match event {
                    Ok(event) if started(&event) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
                    _ => continue,
                },
            }
            if !place.give_back() {
                // A start of ours has it, and is about to give it.
                return handle.await.ok().and_then(|handle| Wire::of(handle).ok());
            }
            let (wanted, client) = (id.to_owned(), Request::Attach { stdin: true, output: true });
            let connected = app.with_store(move |store| {
                let found = container::find(store, &wanted)?;
                Ok(connect(store, &found, &client)?)
            });
            return connected.await.ok().and_then(|handle| Wire::of(handle).ok());
        }
    }
}

/// Rows and columns of a resize.
pub fn size(query: &Query) -> Result<(u16, u16), Error> {
    let number = |name: &str, what: &str| {
        let text = query.get(name).unwrap_or_default();
        text.parse().map_err(|error: ParseIntError| {
            let why = match error.kind() {
                IntErrorKind::PosOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Error::bad(format!("invalid resize {what} {text:?}: {why}"))
        })
    };
    Ok((number("h", "height")?, number("w", "width")?))
}

/// `POST /containers/NAME/resize`
pub async fn resize(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let (rows, cols) = size(&call.query)?;
    let name = name.to_owned();
    app.with_store(move |store| {
        let found = container::find(store, &name)?;
        if !found.state.status.is_alive() {
            return Err(container::Error::NotRunning(found.id).into());
        }
        let handle = connect(store, &found, &Request::Attach { stdin: false, output: false })?;
        protocol::request(handle.socket.as_fd(), &Request::Resize { rows, cols })?;
        Ok(())
    })
    .await?;
    Ok(crate::body::empty(hyper::StatusCode::OK))
}

/// Sends a size over a copy of a session's socket.
pub fn resize_over(socket: &OwnedFd, rows: u16, cols: u16) -> std::io::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let socket = nix::sys::socket::send(socket.as_raw_fd(), &Request::Resize { rows, cols }.encode(), flags);
    socket.map(drop).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_say_which_stream_and_how_long() {
        assert_eq!(framed(false, log::Stream::Stderr, b"abc"), b"\x02\0\0\0\0\0\0\x03abc");
        assert_eq!(framed(true, log::Stream::Stdout, b"abc"), b"abc");
    }

    #[test]
    fn a_client_that_waits_is_taken_once() {
        let waiting = Waiting::default();
        let wish = Request::Attach { stdin: true, output: true };
        let (number, receiver) = waiting.add("x", wish.clone());
        assert!(waiting.take("y").is_empty());
        let all = waiting.take("x");
        assert!(all.len() == 1 && all[0].wish == wish && all[0].is_there());
        assert!(!waiting.take_back("x", number));
        drop(receiver);
        assert!(!all[0].is_there());
    }

    #[test]
    fn who_has_only_stopped_sending_still_listens() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("socketpair");
        let ours = OwnedFd::from(ours);
        theirs.shutdown(std::net::Shutdown::Write).expect("shutdown");
        assert!(!is_hung_up(&ours));
        drop(theirs);
        assert!(is_hung_up(&ours));
    }
}
