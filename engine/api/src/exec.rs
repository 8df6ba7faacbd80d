//! Execs: created by one request, started by another, asked about by a third.
//!
//! Docker keeps them in its daemon, and so does this: nothing of an exec is worth a row in the store. Each runs in a
//! process of its own ([`bulkhead_engine::container::session`]), which tells a task here how it ends.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_engine::container::protocol::{Event, Request};
use bulkhead_engine::container::session::{self, Order};
use bulkhead_engine::container::spec::ExecOptions;
use bulkhead_engine::container::{self, Status};
use hyper::StatusCode;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;

use crate::App;
use crate::attach::{End, Manner, Wire, framed, listen, relay, resize_over, size};
use crate::body::{Reply, created, empty, json as answer, read, reply, told};
use crate::error::Error;
use crate::router::{Call, upgraded, wants_upgrade};

/// How long an exec that has ended can be asked about; Docker's.
const KEPT: Duration = Duration::from_secs(300);
/// Execs at once, those that have ended and are still kept included.
const MOST: usize = 4096;

/// What a client asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Asked {
    attach_stdin: Option<bool>,
    attach_stdout: Option<bool>,
    attach_stderr: Option<bool>,
    detach_keys: Option<String>,
    tty: Option<bool>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    privileged: Option<bool>,
    console_size: Option<[u16; 2]>,
}

/// How it is to be started.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Start {
    detach: Option<bool>,
    tty: Option<bool>,
    console_size: Option<[u16; 2]>,
}

#[derive(Debug)]
struct Exec {
    container: String,
    options: ExecOptions,
    manner: Manner,
    started: bool,
    running: bool,
    pid: i32,
    exit_code: Option<i32>,
    /// To send sizes over.
    socket: Option<OwnedFd>,
    /// Of its making, or its end.
    since: Instant,
}

/// A size of nothing is none.
fn a_size(size: [u16; 2]) -> Option<(u16, u16)> {
    (size != [0, 0]).then_some((size[0], size[1]))
}

/// All of them, by id.
#[derive(Debug, Default)]
pub struct Execs(Mutex<HashMap<String, Exec>>);

impl Execs {
    fn change<T>(&self, id: &str, change: impl FnOnce(&mut Exec) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(id).map(change)
    }

    fn add(&self, exec: Exec) -> Result<String, Error> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, exec| exec.running || exec.since.elapsed() < KEPT);
        if all.len() >= MOST {
            return Err(Error::internal(format!("{MOST} execs have been created and are not over")));
        }
        let mut bytes = [0_u8; 32];
        // SAFETY: the buffer is ours and 32 bytes long.
        if unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } != 32 {
            return Err(std::io::Error::last_os_error().into());
        }
        let id = bulkhead_engine::digest::Digest::from_bytes(bytes).hex();
        all.insert(id.clone(), exec);
        Ok(id)
    }

    /// Those of a container that run.
    pub fn of(&self, container: &str) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(_, e)| e.running && e.container == container).map(|(id, _)| id.clone()).collect()
    }
}

fn missing(id: &str) -> Error {
    Error::missing(format!("No such exec instance: {id}"))
}

/// `POST /containers/NAME/exec`
pub async fn create(app: &Arc<App>, mut call: Call, name: &str) -> Result<Reply, Error> {
    let asked: Asked = read(&mut call.body).await?;
    let command = asked.cmd.unwrap_or_default();
    if command.is_empty() {
        return Err(Error::bad("No exec command specified"));
    }
    let keys = match asked.detach_keys.as_deref().filter(|text| !text.is_empty()) {
        None => container::attach::DETACH_KEYS.to_vec(),
        Some(text) => container::attach::parse_detach_keys(text)
            .ok_or_else(|| Error::bad(format!("Invalid detach keys ({text}) provided")))?,
    };
    let (name, line) = (name.to_owned(), command.join(" "));
    let container = app
        .with_store(move |store| {
            let found = container::find(store, &name)?;
            match found.state.status {
                Status::Running => {}
                Status::Paused => {
                    let id = &found.id;
                    return Err(Error::conflict(format!(
                        "container {id} is paused, unpause the container before exec"
                    )));
                }
                Status::Restarting => return Err(container::Error::IsRestarting(found.id).into()),
                _ => return Err(container::Error::NotRunning(found.id).into()),
            }
            found.event(format!("exec_create: {line}")).tell(store.layout());
            Ok(found.id)
        })
        .await?;
    let tty = asked.tty.unwrap_or(false);
    let id = app.execs.add(Exec {
        container,
        options: ExecOptions {
            args: command,
            env: asked.env.unwrap_or_default(),
            working_dir: asked.working_dir.unwrap_or_default(),
            user: asked.user.unwrap_or_default(),
            tty,
            privileged: asked.privileged.unwrap_or(false),
            size: asked.console_size.and_then(a_size),
        },
        manner: Manner {
            tty,
            stdin: asked.attach_stdin.unwrap_or(false),
            stdout: asked.attach_stdout.unwrap_or(false),
            stderr: asked.attach_stderr.unwrap_or(false),
            keys,
        },
        started: false,
        running: false,
        pid: 0,
        exit_code: None,
        socket: None,
        since: Instant::now(),
    })?;
    created(&json!({"Id": id}))
}

/// `POST /exec/ID/start`
pub async fn start(app: &Arc<App>, mut call: Call, id: &str) -> Result<Reply, Error> {
    let start: Start = read(&mut call.body).await?;
    let detached = start.detach.unwrap_or(false);
    let taken = app.execs.change(id, |exec| {
        if std::mem::replace(&mut exec.started, true) {
            return Err(if exec.running { "is already running" } else { "has already run" });
        }
        exec.running = true;
        let mut options = exec.options.clone();
        if let Some(size) = start.console_size {
            options.size = a_size(size);
        }
        let order = Order { container: exec.container.clone(), options, stdin: exec.manner.stdin, detached };
        Ok((order, exec.manner.clone()))
    });
    let (order, mut manner) = taken
        .ok_or_else(|| missing(id))?
        .map_err(|why| Error::conflict(format!("Error: Exec command {id} {why}")))?;
    // Docker's clients say it twice, and the second word is how they read.
    manner.tty = start.tty.unwrap_or(manner.tty);
    let live = Live { app: app.clone(), id: id.to_owned(), code: None };
    let kind = manner.kind(call.minor);
    if !detached && wants_upgrade(&call.headers) {
        let upgrade = call.upgrade.ok_or_else(|| Error::bad("the connection cannot be upgraded"))?;
        let peer = call.peer;
        tokio::spawn(async move {
            let Ok(client) = upgrade.await else { return };
            let mut client = TokioIo::new(client);
            // Not before the connection is the client's: what is said in one breath with the head, the SDK for Python
            // does not hear.
            match live.begin(order).await {
                Ok(wire) => match relay(client, peer.as_deref(), &wire, &manner).await {
                    End::Exited(code) => live.over(code),
                    End::Lost => {}
                    // The program goes on, with nobody to type or to read.
                    End::Left => {
                        let _ = wire.send(&Request::StdinEof).await;
                        live.finish(&wire).await;
                    }
                },
                Err(error) => {
                    drop(live);
                    let text = format!("{}\r\n", error.message);
                    let text = framed(manner.tty, container::log::Stream::Stdout, text.as_bytes());
                    let _ = client.write_all(&text).await;
                    let _ = client.shutdown().await;
                }
            }
        });
        return Ok(upgraded(kind));
    }
    // A task of its own, since this one goes with its client: what has been begun is seen to its end.
    let (tell, begun) = oneshot::channel();
    tokio::spawn(async move {
        let wire = match live.begin(order).await {
            Ok(wire) => wire,
            Err(error) => {
                drop(live);
                let _ = tell.send(Err(error));
                return;
            }
        };
        if detached {
            let _ = tell.send(Ok(None));
            return live.finish(&wire).await;
        }
        let (send, body) = told();
        let _ = tell.send(Ok(Some(body)));
        let _ = wire.send(&Request::StdinEof).await;
        match listen(&send, &wire, &manner).await {
            End::Exited(code) => live.over(code),
            End::Lost => {}
            End::Left => live.finish(&wire).await,
        }
    });
    Ok(match begun.await.map_err(|_| Error::lost())?? {
        None => empty(StatusCode::OK),
        Some(body) => reply(StatusCode::OK, kind, body),
    })
}

/// An exec that has been marked as started. Whatever becomes of those who see to it, with this it is over.
#[derive(Debug)]
struct Live {
    app: Arc<App>,
    id: String,
    code: Option<i32>,
}

impl Live {
    /// Starts it, and waits for the first word of its process.
    async fn begin(&self, order: Order) -> Result<Wire, Error> {
        let layout = self.app.settings.layout.clone();
        // Until it is known better: as Docker has it, whatever keeps a program from being executed.
        self.app.execs.change(&self.id, |exec| exec.exit_code = Some(126));
        let handle = self.app.work.run(move || Ok(session::spawn(&layout, &order)?)).await?;
        let wire = Wire::of(handle)?;
        loop {
            match wire.receive().await? {
                Some(Event::Started { pid }) => {
                    let socket = wire.copy()?;
                    self.app.execs.change(&self.id, |exec| {
                        (exec.pid, exec.socket, exec.exit_code) = (pid, Some(socket), None);
                    });
                    return Ok(wire);
                }
                Some(Event::Failed { code, message }) => {
                    if code == 127 {
                        self.app.execs.change(&self.id, |exec| exec.exit_code = Some(code));
                    }
                    return Err(Error { status: failed(code), message });
                }
                Some(_) => {}
                None => return Err(Error::internal("the exec ended before its program began")),
            }
        }
    }

    /// Waits for its end when nobody listens to it.
    async fn finish(self, wire: &Wire) {
        loop {
            match wire.receive().await {
                Ok(Some(Event::Exited { code })) => return self.over(code),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// It has ended with this code.
    fn over(mut self, code: i32) {
        self.code = Some(code);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.app.execs.change(&self.id, |exec| {
            exec.running = false;
            exec.socket = None;
            exec.since = Instant::now();
            // One whose process was killed has no code of its own.
            exec.exit_code = self.code.or(exec.exit_code).or(Some(137));
        });
    }
}

/// A program that cannot be executed is the client's choice.
fn failed(code: i32) -> StatusCode {
    if matches!(code, 126 | 127) { StatusCode::BAD_REQUEST } else { StatusCode::INTERNAL_SERVER_ERROR }
}

/// `POST /exec/ID/resize`
pub fn resize(app: &Arc<App>, call: &Call, id: &str) -> Result<Reply, Error> {
    let (rows, columns) = size(&call.query)?;
    let sent = app.execs.change(id, |exec| match &exec.socket {
        Some(socket) => Ok(resize_over(socket, rows, columns)?),
        None if exec.started => Ok(()),
        None => Err(Error::conflict(format!("exec {id} is not running"))),
    });
    sent.ok_or_else(|| missing(id))??;
    Ok(empty(StatusCode::OK))
}

/// `GET /exec/ID/json`
pub fn inspect(app: &Arc<App>, id: &str) -> Result<Reply, Error> {
    let shown = app.execs.change(id, |exec| {
        let (program, arguments) = exec.options.args.split_first().unwrap_or((&exec.container, &[]));
        json!({
            "ID": id,
            "Running": exec.running,
            "ExitCode": exec.exit_code,
            "ProcessConfig": {
                "tty": exec.options.tty,
                "entrypoint": program,
                "arguments": arguments,
                "privileged": exec.options.privileged,
                "user": exec.options.user,
            },
            "OpenStdin": exec.manner.stdin,
            "OpenStdout": exec.manner.stdout,
            "OpenStderr": exec.manner.stderr,
            "CanRemove": !exec.running && exec.started,
            "ContainerID": exec.container,
            "DetachKeys": "",
            "Pid": exec.pid,
        })
    });
    answer(&shown.ok_or_else(|| missing(id))?)
}
