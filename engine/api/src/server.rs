//! Connections, and the limits on what one may take without giving.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_engine::store::Store;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::listen::{self, Listener};
use crate::{App, Settings, attach, exec, hub, router, work};

/// Connections at once; more wait in the kernel's queue. compose has two or three for each container.
const CONNECTIONS: usize = 512;
/// For the head of a request, and between two requests. Longer than Docker's clients keep an idle connection.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of a request's head; `X-Registry-Auth` and the query of a build are the long ones.
const HEAD: usize = 256 << 10;

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] bulkhead_engine::store::Error),
    /// A call.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// The server. Its sockets' files go with it; its threads end with the process.
#[derive(Debug)]
pub struct Server {
    files: Vec<(PathBuf, u64)>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for (path, inode) in &self.files {
            listen::remove(path, *inode);
        }
    }
}

/// Serves until the process ends.
pub fn start(listeners: Vec<Listener>, settings: Settings) -> Result<Server, StartError> {
    let io = |call| move |source| StartError::Io { call, source };
    // Makes the root, in which the log of events is watched.
    drop(Store::open(settings.layout.clone())?);
    let hub = hub::Hub::start(&settings.layout).map_err(io("inotify"))?;
    let app = Arc::new(App {
        settings,
        work: work::Work::new(),
        hub,
        execs: exec::Execs::default(),
        waiting: attach::Waiting::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(io("epoll_create"))?;
    let files = listeners
        .iter()
        .filter_map(|listener| match listener {
            Listener::Unix(_, path, inode) => Some((path.clone(), *inode)),
            Listener::Tcp(_) => None,
        })
        .collect();
    let serve = move || {
        runtime.block_on(async move {
            let room = Arc::new(Semaphore::new(CONNECTIONS));
            for listener in listeners {
                let (app, room) = (app.clone(), room.clone());
                tokio::spawn(async move {
                    if let Err(error) = accept(listener, app, room).await {
                        eprintln!("bulkhead serve: accept: {error}");
                    }
                });
            }
            std::future::pending::<()>().await;
        });
    };
    std::thread::Builder::new().name("api".into()).spawn(serve).map_err(io("clone"))?;
    Ok(Server { files })
}

async fn accept(listener: Listener, app: Arc<App>, room: Arc<Semaphore>) -> std::io::Result<()> {
    enum Socket {
        Unix(tokio::net::UnixListener),
        Tcp(tokio::net::TcpListener),
    }
    let socket = match listener {
        Listener::Unix(listener, ..) => Socket::Unix(tokio::net::UnixListener::from_std(listener)?),
        Listener::Tcp(listener) => Socket::Tcp(tokio::net::TcpListener::from_std(listener)?),
    };
    // Out of files or memory, or a client that went: none of it ends the server.
    let pause = || tokio::time::sleep(Duration::from_millis(50));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(()) };
        let app = app.clone();
        match &socket {
            Socket::Unix(listener) => match listener.accept().await {
                Ok((stream, _)) => converse(stream, app, permit),
                Err(_) => pause().await,
            },
            Socket::Tcp(listener) => match listener.accept().await {
                Ok((stream, _)) => converse(stream, app, permit),
                Err(_) => pause().await,
            },
        }
    }
}

/// Answers one client until it has gone, in a task of its own that gives its place back.
fn converse<S>(stream: S, app: Arc<App>, place: OwnedSemaphorePermit)
where
    S: AsFd + AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = stream.as_fd().try_clone_to_owned().ok().map(Arc::new);
    let service = service_fn(move |request| {
        let (app, peer) = (app.clone(), peer.clone());
        async move { Ok::<_, Infallible>(router::answer(app, request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::spawn(async move {
        // A connection that ends badly ended for its client; nobody else need know.
        let _ = connection.await;
        drop(place);
    });
}
