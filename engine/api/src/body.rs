//! Bodies in both directions: JSON that is small and read whole, and streams of any length.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::Error;
use crate::work;

/// Bytes of a body that is read whole. Docker's largest are configurations of containers.
const LARGEST: usize = 4 << 20;
/// For the next bytes of a body that is read whole.
const PATIENCE: Duration = Duration::from_secs(30);
/// For the next bytes of a stream, which a person's pipe may be at the other end of.
const STALLED: Duration = Duration::from_secs(600);
/// Bytes of a stream that are still taken when nobody wants them any more.
const LEFT: usize = 64 << 20;
/// Pieces on their way between a thread and a connection.
const PIECES: usize = 8;
/// Bytes that a stream is sent in at once.
const PIECE: usize = 64 << 10;

/// An answer.
pub type Reply = Response<Body>;

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// All of it, or nothing once it has been taken.
    Whole(Option<Bytes>),
    /// As it comes. An error breaks the connection off, which is how a client learns that something is missing.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(pieces) => {
                pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer with a body of some type.
pub fn reply(status: StatusCode, kind: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// An answer in JSON.
pub fn json_as(status: StatusCode, value: &impl Serialize) -> Result<Reply, Error> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    Ok(reply(status, "application/json", Body::Whole(Some(text.into()))))
}

/// The usual one.
pub fn json(value: &impl Serialize) -> Result<Reply, Error> {
    json_as(StatusCode::OK, value)
}

/// Something has been made.
pub fn created(value: &impl Serialize) -> Result<Reply, Error> {
    json_as(StatusCode::CREATED, value)
}

/// There is nothing to say.
pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::Whole(None));
    *reply.status_mut() = status;
    reply
}

/// It is done.
pub fn done() -> Reply {
    empty(StatusCode::NO_CONTENT)
}

async fn next(body: &mut Incoming, patience: Duration) -> Result<Option<Bytes>, Error> {
    loop {
        let frame = timeout(patience, poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)));
        match frame.await {
            Err(_) => return Err(Error::bad("the request's body does not come")),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Error::bad(format!("read the request's body: {error}"))),
            Ok(Some(Ok(frame))) => {
                // Trailers say nothing to us.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Reads a body that must be small.
pub async fn whole(body: &mut Incoming) -> Result<Vec<u8>, Error> {
    let large = || Error::too_large(format!("http: request body too large: more than {LARGEST} bytes"));
    if body.size_hint().lower() > LARGEST as u64 {
        return Err(large());
    }
    let mut all = Vec::new();
    while let Some(data) = next(body, PATIENCE).await? {
        if all.len() + data.len() > LARGEST {
            return Err(large());
        }
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// Reads JSON into a type; an empty body is an empty object, since clients leave out what they have nothing to say in.
pub async fn read<T: DeserializeOwned>(body: &mut Incoming) -> Result<T, Error> {
    let text = whole(body).await?;
    let text: &[u8] = if text.trim_ascii().is_empty() { b"{}" } else { &text };
    serde_json::from_slice(text).map_err(|error| Error::bad(format!("invalid JSON: {error}")))
}

/// A body that a thread reads.
#[derive(Debug)]
pub struct Input {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Input {
    /// Hands a body's bytes on to whoever reads. Nothing is read ahead of them but [`PIECES`].
    ///
    /// What is left when the reader has enough (a tar archive ends before its padding does) is taken all the same:
    /// a connection that is closed on somebody who sends tells him of a broken pipe, and not what the answer says.
    pub fn of(mut body: Incoming) -> Self {
        let (send, pieces) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            let mut left = 0;
            while left <= LEFT {
                let piece = match next(&mut body, STALLED).await {
                    Ok(None) => return,
                    Ok(Some(data)) => Ok(data),
                    Err(error) => {
                        let _ = send.send(Err(io::Error::other(error.message))).await;
                        return;
                    }
                };
                let length = piece.as_ref().map_or(0, Bytes::len);
                if send.send(piece).await.is_err() {
                    left += length;
                }
            }
        });
        Self { pieces, piece: Bytes::new() }
    }
}

/// Takes what is sent to somebody who does not want it, for the same reason.
pub fn drain(body: Incoming) {
    drop(Input::of(body));
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// A thread's end of a body.
#[derive(Debug)]
pub struct Output {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
    buffer: Vec<u8>,
    /// Told of the first byte: until then a failure is a status.
    begun: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Output {
    /// Lets the head of the answer go out, even if nothing follows it yet.
    pub fn begin(&mut self) {
        if let Some(begun) = self.begun.take() {
            let _ = begun.send(Ok(()));
        }
    }

    /// Whether something has been sent, so that a failure is no longer a status.
    pub fn has_begun(&self) -> bool {
        self.begun.is_none()
    }

    /// Whether the client has gone.
    pub fn is_gone(&self) -> bool {
        self.pieces.is_closed()
    }

    /// The same for who waits for something else as well.
    pub fn departure(&self) -> io::Result<Departure> {
        let event = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (pieces, told) = (self.pieces.clone(), event.clone());
        let task = self.runtime.spawn(async move {
            pieces.closed().await;
            let _ = told.write(1);
        });
        Ok(Departure { event, task })
    }

    /// A line of JSON, sent at once.
    pub fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.extend_from_slice(b"\r\n");
        self.write_all(&text)?;
        self.flush()
    }
}

/// Can be read from once the client has gone. A body does not end before this is dropped.
#[derive(Debug)]
pub struct Departure {
    event: Arc<EventFd>,
    task: JoinHandle<()>,
}

impl AsFd for Departure {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lines of JSON about something that goes on, which several threads write.
#[derive(Debug)]
pub struct Lines<'o>(Mutex<&'o mut Output>);

impl<'o> Lines<'o> {
    /// On this output.
    pub fn new(output: &'o mut Output) -> Self {
        Self(Mutex::new(output))
    }

    /// Tells. A client that has gone hears nothing, and ends nothing: others may wait for what it has begun, or find
    /// it done the next time.
    pub fn tell(&self, value: &Value) {
        let _: io::Result<()> = self.0.lock().unwrap_or_else(PoisonError::into_inner).line(value);
    }

    /// The output, for whoever goes on alone.
    pub fn into_inner(self) -> &'o mut Output {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(PIECE - self.buffer.len().min(PIECE));
        self.buffer.extend_from_slice(&data[..taken]);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.begin();
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A body that a thread writes. What fails before the first byte is an answer of its own; what fails later breaks the
/// stream off.
///
/// These threads are not among those that [`work::Work`] counts, since one may last as long as its client listens; there
/// is at most one for each connection.
pub async fn written(
    job: impl FnOnce(&mut Output) -> Result<(), Error> + Send + 'static,
) -> Result<Body, Error> {
    let (send, pieces) = mpsc::channel(PIECES);
    let (begun, begins) = oneshot::channel();
    let runtime = Handle::current();
    work::spawn("api-stream", move || {
        let mut output = Output { pieces: send, runtime, buffer: Vec::new(), begun: Some(begun) };
        let ended = job(&mut output).and_then(|()| Ok(output.flush()?));
        match (ended, output.begun.take()) {
            (Ok(()), None) => {}
            (ended, Some(begun)) => drop(begun.send(ended)),
            (Err(error), None) => drop(output.pieces.blocking_send(Err(io::Error::other(error.message)))),
        }
    })?;
    begins.await.map_err(|_| Error::lost())??;
    Ok(Body::Stream(pieces))
}

/// A body that a task of the runtime writes.
pub fn told() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (send, pieces) = mpsc::channel(PIECES);
    (send, Body::Stream(pieces))
}

/// The bytes of an answer that was read into pieces, for tests of what writes them.
#[cfg(test)]
pub fn collected(pieces: &mut mpsc::Receiver<io::Result<Bytes>>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.blocking_recv() {
        all.extend_from_slice(&piece.expect("no error"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime").block_on(future)
    }

    #[test]
    fn a_failure_before_the_first_byte_is_an_answer_and_later_breaks_off() {
        let early = run(written(|output| {
            output.write_all(b"held back")?;
            Err(Error::missing("x"))
        }));
        assert_eq!(early.expect_err("an error").status, StatusCode::NOT_FOUND);
        let late = run(written(|output| {
            output.write_all(b"out")?;
            output.flush()?;
            Err(Error::missing("x"))
        }));
        let Ok(Body::Stream(mut pieces)) = late else { panic!("a stream") };
        assert_eq!(pieces.blocking_recv().expect("a piece").expect("data"), "out");
        assert!(pieces.blocking_recv().expect("an end").is_err());
    }

    #[test]
    fn what_is_written_arrives_whole() {
        let data: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let copy = data.clone();
        let body = run(written(move |output| Ok(output.write_all(&copy)?)));
        let Ok(Body::Stream(mut pieces)) = body else { panic!("a stream") };
        assert_eq!(collected(&mut pieces), data);
    }

    #[test]
    fn a_writer_learns_that_nobody_reads() {
        let (tell, told) = std::sync::mpsc::channel();
        let body = run(written(move |output| {
            output.begin();
            while !output.is_gone() {
                std::thread::yield_now();
            }
            let end = output.write_all(b"x").and_then(|()| output.flush());
            let _ = tell.send(end.map_err(|error| error.kind()));
            Ok(())
        }));
        drop(body);
        assert_eq!(told.recv().expect("told"), Err(io::ErrorKind::BrokenPipe));
    }
}
