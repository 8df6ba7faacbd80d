//! The HTTP side of `/metrics`: hyper on a runtime of one thread.
//!
//! hyper because the Engine API, which needs upgraded connections, will stand on it as well; nothing
//! above it, because there are three paths. Every way in which a client can take without giving has a
//! limit: connections at once, time for a TLS handshake, time for a request's head (which also ends an
//! idle connection; a scraper opens another), time in which a reader reads nothing. Figures are read in
//! another thread, so that a client that stalls stalls itself only.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bulkhead_exporter::{Body, Format, Scrape, accepts_gzip};
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, Request, Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Error, Users, auth, reader::Asker};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// For a TLS handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a client to take any byte of an answer.
const STALL: Duration = Duration::from_secs(20);
/// For a reading; a scraper has given up by then.
const READING: Duration = Duration::from_secs(30);
/// Passwords checked at once: each keeps a CPU busy for as long as bcrypt is meant to.
const CHECKS: usize = 2;

/// What the server serves, and to whom.
pub struct Server {
    /// Bound already, so that a taken port is an error of the command.
    pub listener: TcpListener,
    /// Who answers.
    pub asker: Asker,
    /// Without, plain HTTP.
    pub tls: Option<TlsAcceptor>,
    /// Without, everybody may read.
    pub users: Option<Users>,
}

/// Binds an address.
pub fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    // The standard library sets SO_REUSEADDR and a backlog of 128 or more.
    TcpListener::bind(address).map_err(|source| Error::Io {
        call: "listen",
        object: address.to_string(),
        source,
    })
}

/// Starts the server's thread.
pub fn start(server: Server) -> Result<(), Error> {
    let wrong = |call, source| Error::Io { call, object: "HTTP server".into(), source };
    server.listener.set_nonblocking(true).map_err(|source| wrong("fcntl", source))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(CHECKS)
        .build()
        .map_err(|source| wrong("epoll_create", source))?;
    std::thread::Builder::new()
        .name("http".into())
        .spawn(move || {
            runtime.block_on(async move {
                if let Err(error) = accept(server).await {
                    eprintln!("bulkhead serve: {error}");
                }
            });
        })
        .map(drop)
        .map_err(|source| wrong("spawn", source))
}

struct Shared {
    asker: Asker,
    users: Option<Arc<Users>>,
    checks: Semaphore,
}

async fn accept(server: Server) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(server.listener)?;
    let shared = Arc::new(Shared {
        asker: server.asker,
        users: server.users.map(Arc::new),
        checks: Semaphore::new(CHECKS),
    });
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(()) };
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of files or memory, or a client that went: none of it ends the server.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (shared, tls) = (shared.clone(), server.tls.clone());
        tokio::spawn(async move {
            let stream = Stalling::new(stream);
            match tls {
                None => converse(stream, peer, shared).await,
                Some(acceptor) => {
                    if let Ok(Ok(stream)) = timeout(PATIENCE, acceptor.accept(stream)).await {
                        converse(stream, peer, shared).await;
                    }
                }
            }
            drop(permit);
        });
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, peer: SocketAddr, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(respond(&request, peer, &shared).await) }
    });
    // A connection that ends badly ended for its client; nobody else need know.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Answer = Response<Pieces>;

async fn respond(request: &Request<Incoming>, peer: SocketAddr, shared: &Shared) -> Answer {
    if let Some(users) = &shared.users
        && !allowed(request.headers(), users, &shared.checks).await
    {
        let mut answer = plain(StatusCode::UNAUTHORIZED, "Unauthorized\n");
        answer
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic realm=\"bulkhead\""));
        return answer;
    }
    let known = matches!(request.uri().path(), "/" | "/metrics" | "/-/healthy");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => metrics(request.headers(), peer, shared).await,
        "/-/healthy" => plain(StatusCode::OK, "OK\n"),
        "/" => {
            let mut answer = plain(
                StatusCode::OK,
                "<!doctype html><title>bulkhead</title><p><a href=\"/metrics\">metrics</a>\n",
            );
            answer
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/html; charset=utf-8"));
            answer
        }
        _ => plain(StatusCode::NOT_FOUND, "Not Found\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Pieces::of(text.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

async fn allowed(headers: &HeaderMap, users: &Arc<Users>, checks: &Semaphore) -> bool {
    // No name at all costs what a wrong one costs.
    let (name, password) = auth::basic(text(headers, &header::AUTHORIZATION)).unwrap_or_default();
    if users.known(&name, &password) {
        return true;
    }
    let Ok(_permit) = checks.acquire().await else { return false };
    let users = users.clone();
    tokio::task::spawn_blocking(move || users.check(&name, &password)).await.unwrap_or(false)
}

async fn metrics(headers: &HeaderMap, peer: SocketAddr, shared: &Shared) -> Answer {
    let format = Format::negotiate(text(headers, &header::ACCEPT));
    let gzip = accepts_gzip(text(headers, &header::ACCEPT_ENCODING));
    let scraper = format!("{} {}", peer.ip(), text(headers, &header::USER_AGENT));
    let (send, receive) = tokio::sync::oneshot::channel();
    let asked = shared.asker.ask(
        Scrape { format, gzip, scraper },
        Box::new(move |answer| {
            // Whoever asked has hung up.
            let _ = send.send(answer);
        }),
    );
    if !asked {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes\n");
    }
    let Ok(Ok(body)) = timeout(READING, receive).await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the figures cannot be read\n");
    };
    let mut answer = Response::new(Pieces::of(body));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(format.content_type()));
    headers.insert(header::VARY, header::HeaderValue::from_static("accept, accept-encoding"));
    if gzip {
        headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    }
    answer
}

/// What is sent of a body that several answers share: piece by piece, never copied.
struct Pieces {
    body: Body,
    next: usize,
    left: u64,
}

impl Pieces {
    fn of(body: Body) -> Self {
        Self { next: 0, left: body.length(), body }
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = Piece { body: self.body.clone(), number: self.next };
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.next += 1;
        self.left -= piece.as_ref().len() as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

struct Piece {
    body: Body,
    number: usize,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.body.pieces().get(self.number).map_or(&[], Vec::as_slice)
    }
}

/// A header's value; empty when it is absent or no text.
fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A stream whose peer must take something of what is written to it from time to time.
struct Stalling<S> {
    stream: S,
    limit: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<S> Stalling<S> {
    fn new(stream: S) -> Self {
        Self { stream, limit: Box::pin(tokio::time::sleep(STALL)), waiting: false }
    }

    /// Lets a write that is ready through, and one that is not only for so long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        if !self.waiting {
            self.waiting = true;
            self.limit.as_mut().reset(Instant::now() + STALL);
        }
        match self.limit.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    /// Without this hyper copies each answer once more, to have head and body in one buffer.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, shut)
    }
}
