//! `logs` and `wait`: answers that last.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_engine::container::follow::{self, Listener};
use bulkhead_engine::container::protocol::{Event, Request};
use bulkhead_engine::container::{self, Status, log};
use bulkhead_engine::events::Kind;
use bulkhead_engine::time;
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::App;
use crate::attach::{Wire, framed};
use crate::body::{Output, Reply, reply, told, written};
use crate::error::Error;
use crate::router::Call;

/// How often a record is looked at that is about to change.
const ABOUT: Duration = Duration::from_millis(20);
/// How many times at most.
const SETTLED: usize = 500;

/// `GET /containers/NAME/logs`
pub async fn logs(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let query = &call.query;
    let (stdout, stderr) = (query.is("stdout"), query.is("stderr"));
    if !stdout && !stderr {
        return Err(Error::bad("Bad parameters: you must choose at least one stream"));
    }
    let moment = |name: &str| -> Result<Option<Timestamp>, Error> {
        query.get(name).filter(|text| *text != "0").map(time::moment).transpose().map_err(Error::bad)
    };
    let tail = match query.get("tail") {
        None | Some("all") => None,
        // What is no number is all, as in Docker.
        Some(text) => text.parse::<i64>().ok().and_then(|count| usize::try_from(count).ok()),
    };
    let (since, until) = (moment("since")?, moment("until")?);
    let selection = log::Selection { tail, since, until };
    let (follow, timestamps) = (query.is("follow"), query.is("timestamps"));
    let details = query.is("details");
    let name = name.to_owned();
    let found = app.with_store(move |store| Ok(container::find(store, &name)?)).await?;
    if found.record.host_config.log_config.driver == "none" {
        return Err(Error::not_served("configured logging driver does not support reading"));
    }
    let tty = found.record.config.tty;
    let framing = !tty && call.minor >= 42;
    let app = app.clone();
    let body = written(move |output| {
        let store = app.store()?;
        let failed = |error| match error {
            follow::Error::Log(error) => error.into(),
            follow::Error::Container(error) => Error::from(error),
        };
        // A client that has the head may remove the container, and read what it has said only then.
        let log = follow::Log::open(&store, &found, selection, follow).map_err(failed)?;
        output.begin();
        let mut teller = Teller { output, tty, stdout, stderr, timestamps, details, line: Vec::new() };
        log.tell(&store, &mut teller).map_err(failed)
    })
    .await?;
    let kind = if framing {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    };
    Ok(reply(StatusCode::OK, kind, body))
}

/// A client that hears a log.
struct Teller<'o> {
    output: &'o mut Output,
    tty: bool,
    stdout: bool,
    stderr: bool,
    timestamps: bool,
    details: bool,
    line: Vec<u8>,
}

impl Listener for Teller<'_> {
    fn entry(&mut self, entry: &log::Entry) -> io::Result<()> {
        let wanted = match entry.stream {
            log::Stream::Stdout => self.stdout,
            log::Stream::Stderr => self.stderr,
        };
        if !wanted {
            return Ok(());
        }
        let line = &mut self.line;
        line.clear();
        if self.timestamps {
            line.extend_from_slice(entry.time.as_bytes());
            line.push(b' ');
        }
        if self.details {
            line.extend_from_slice(entry.details().as_bytes());
        }
        line.extend_from_slice(entry.log.as_bytes());
        self.output.write_all(&framed(self.tty, entry.stream, line))
    }

    fn pause(&mut self) -> io::Result<bool> {
        self.output.flush()?;
        Ok(!self.output.is_gone())
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    NotRunning,
    NextExit,
    Removed,
}

/// `POST /containers/NAME/wait`. The head goes out at once: a client starts the container when it has it.
pub async fn wait(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let condition = match call.query.get("condition") {
        None | Some("not-running") => Condition::NotRunning,
        Some("next-exit") => Condition::NextExit,
        Some("removed") => Condition::Removed,
        Some(other) => return Err(Error::bad(format!("invalid condition: {other:?}"))),
    };
    // Before the look at the record, so that nothing falls in between.
    let mut events = app.hub.listen();
    let name = name.to_owned();
    let found = app.with_store(move |store| Ok(container::find(store, &name)?)).await?;
    let (send, body) = told();
    let app = app.clone();
    tokio::spawn(async move {
        let waited = async {
            let mut code = found.state.exit_code;
            if condition == Condition::NotRunning {
                return end(&app, &found.id).await.or(Some(code));
            }
            loop {
                let action = match events.recv().await {
                    Ok(event) if event.kind == Kind::Container && event.id == found.id => {
                        if event.action == "die" {
                            let told = event.attributes.get("exitCode").and_then(|code| code.parse().ok());
                            code = told.unwrap_or(code);
                        }
                        event.action.clone()
                    }
                    Ok(_) => continue,
                    // Too much has happened meanwhile: the record tells where it has led.
                    Err(RecvError::Lagged(_)) => "die".to_owned(),
                    Err(RecvError::Closed) => return None,
                };
                match (action.as_str(), condition) {
                    ("destroy", _) => return Some(code),
                    ("die", Condition::Removed) => {
                        if matches!(look(&app, &found.id).await, Some(None)) {
                            return Some(code);
                        }
                    }
                    ("die", Condition::NextExit) => {
                        settle(&app, &found.id).await;
                        return Some(code);
                    }
                    _ => {}
                }
            }
        };
        let code = tokio::select! {
            code = waited => code,
            () = send.closed() => None,
        };
        if let Some(code) = code {
            let text = format!("{}\n", json!({"StatusCode": code}));
            let _ = send.send(Ok(text.into())).await;
        }
    });
    Ok(reply(StatusCode::OK, "application/json", body))
}

/// A container's status; `Some(None)` when it is gone, `None` when that cannot be found out.
async fn look(app: &Arc<App>, id: &str) -> Option<Option<Status>> {
    let id = id.to_owned();
    let looked = app.with_store(move |store| match container::find(store, &id) {
        Ok(found) => Ok(Some(found.state.status)),
        Err(container::Error::NoSuchContainer(_)) => Ok(None),
        Err(error) => Err(error.into()),
    });
    looked.await.ok()
}

/// Waits until a container does not run, as [`bulkhead_engine::container::wait`] does, but without a thread: its monitor
/// tells of the end once everything is written, which the log of events does not. `None` when it has been removed.
async fn end(app: &Arc<App>, id: &str) -> Option<i32> {
    loop {
        let wanted = id.to_owned();
        let quiet = Request::Attach { stdin: false, output: false };
        let looked = app.with_store(move |store| {
            let found = match container::find(store, &wanted) {
                Err(container::Error::NoSuchContainer(_)) => return Ok(Err(None)),
                other => other?,
            };
            if !found.state.status.is_alive() {
                return Ok(Err(Some(found.state.exit_code)));
            }
            // It may be about to listen, or about to go.
            Ok(Ok(container::attach::connect(store, &found, &quiet).ok()))
        });
        let handle = match looked.await {
            Ok(Ok(handle)) => handle,
            Ok(Err(code)) => return code,
            Err(_) => return None,
        };
        let Some(wire) = handle.and_then(|handle| Wire::of(handle).ok()) else {
            tokio::time::sleep(ABOUT).await;
            continue;
        };
        loop {
            match wire.receive().await {
                Ok(Some(Event::Exited { code })) => return Some(code),
                Ok(Some(_)) => {}
                // Without a word: the record tells.
                Ok(None) | Err(_) => break,
            }
        }
    }
}

/// Waits until a record says what an event of its end has told already, or that the container begins anew.
async fn settle(app: &Arc<App>, id: &str) {
    for _ in 0..SETTLED {
        match look(app, id).await {
            Some(Some(Status::Running | Status::Paused)) => tokio::time::sleep(ABOUT).await,
            _ => return,
        }
    }
}
