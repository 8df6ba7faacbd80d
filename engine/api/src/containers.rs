//! The verbs of a container's life.

use std::sync::Arc;

use bulkhead_engine::config::{NetworkSettings, Resources, RestartPolicy};
use bulkhead_engine::container::network::Everyone;
use bulkhead_engine::container::protocol::Request;
use bulkhead_engine::container::view::ImageNames;
use bulkhead_engine::container::{
    self, Container, Error as Failed, changes as changed, lifecycle, processes, view,
};
use bulkhead_engine::digest::Digest;
use bulkhead_engine::image;
use bulkhead_engine::layer::diff::ChangeKind;
use bulkhead_engine::network::{self, Protocol};
use bulkhead_engine::store::Store;
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::App;
use crate::body::{Reply, created, done, json as answer, read};
use crate::create::{self as asked, Asked};
use crate::error::Error;
use crate::router::Call;

/// `GET /containers/json`
pub async fn list(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let given = call.query.filters()?;
    let (all, sized) = (call.query.is("all"), call.query.is("size"));
    let limit: Option<i64> = call.query.number("limit")?;
    let rows = app
        .with_store(move |store| {
            let store = &*store;
            let _one_state = store.read()?;
            let mut found = container::list(store)?;
            let filters = container::filter::Filters::read(store, &given, &found)?;
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
            let all = all || limit.is_some() || filters.any_state;
            found.retain(|container| (all || container.state.status.is_alive()) && filters.admit(container));
            found.truncate(limit.unwrap_or(usize::MAX));
            let now = Timestamp::now();
            let everyone = Everyone::read(store)?;
            let mut names = ImageNames::default();
            let row = |container| {
                let sizes = sized.then(|| view::sizes(store, container)).flatten();
                let nameless = names.nameless(store, container);
                row(container, nameless, &everyone.settings(container), sizes, now)
            };
            Ok(found.iter().map(row).collect::<Vec<_>>())
        })
        .await?;
    answer(&rows)
}

/// A container in a list; of one whose image has lost its name, the image's id.
pub fn row(
    container: &Container,
    nameless: Option<Digest>,
    settings: &NetworkSettings,
    sizes: Option<(u64, u64)>,
    now: Timestamp,
) -> Value {
    let record = &container.record;
    let mut command = record.path.clone();
    for argument in &record.args {
        command.push(' ');
        command.push_str(argument);
    }
    let mut ports = Vec::new();
    for (port, bindings) in &settings.ports {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let number: u16 = number.parse().unwrap_or(0);
        match bindings {
            None => ports.push(json!({"PrivatePort": number, "Type": protocol})),
            Some(bindings) => ports.extend(bindings.iter().map(|binding| {
                json!({
                    "IP": binding.host_ip,
                    "PrivatePort": number,
                    "PublicPort": binding.host_port.parse::<u16>().unwrap_or(0),
                    "Type": protocol,
                })
            })),
        }
    }
    let created = container.created.parse::<Timestamp>().map_or(0, Timestamp::as_second);
    let mut row = json!({
        "Id": container.id,
        "Names": [format!("/{}", container.name)],
        "Image": nameless.map_or_else(|| record.config.image.clone(), |id| id.to_string()),
        "ImageID": container.image.map(|id| id.to_string()).unwrap_or_default(),
        "Command": command,
        "Created": created,
        "Ports": ports,
        "Labels": record.config.labels,
        "State": container.state.status.as_str(),
        "Status": view::status(&container.state, now),
        "HostConfig": {"NetworkMode": record.host_config.network_mode},
        "NetworkSettings": {"Networks": settings.networks},
        "Mounts": view::mounts(container),
    });
    if let Some((own, whole)) = sizes {
        row["SizeRw"] = own.into();
        row["SizeRootFs"] = whole.into();
    }
    row
}

/// `GET /containers/NAME/json`
pub async fn inspect(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let (name, sized) = (name.to_owned(), call.query.is("size"));
    let mut shown = app
        .with_store(move |store| {
            let found = container::find(store, &name)?;
            let sizes = sized.then(|| view::sizes(store, &found)).flatten();
            Ok(view::inspect(store, &found, sizes)?)
        })
        .await?;
    let execs = app.execs.of(shown["Id"].as_str().unwrap_or_default());
    if !execs.is_empty() {
        shown["ExecIDs"] = execs.into();
    }
    answer(&shown)
}

/// `POST /containers/create`
pub async fn create(app: &Arc<App>, mut call: Call) -> Result<Reply, Error> {
    let body: Value = read(&mut call.body).await?;
    let asked = Asked::read(body)?;
    let name = call.query.get("name").map(str::to_owned);
    let platform = call.query.get("platform").map(image::Platform::parse).transpose().map_err(Error::bad)?;
    let (layout, parent) = (app.settings.layout.clone(), app.settings.cgroup_parent.clone());
    let made = app
        .with_store(move |store| {
            let image = asked::image(store, &asked.config.image, platform.as_ref())?;
            let Asked { config, host, networking } = asked;
            let config = container::merge(&image.config, config).map_err(Error::bad)?;
            let claim = container::claim::Claim::new(&layout)?;
            let new = container::NewContainer {
                image: image.id,
                chain: image.chain,
                name: name.map(|name| name.trim_start_matches('/').to_owned()),
                config,
                host_config: host,
                networking,
                cgroup_parent: parent,
                ephemeral: false,
            };
            // For a 404 Docker's client pulls the image; it is something else that is missing.
            let made = lifecycle::create(store, new, claim).map_err(|error| match Error::from(error) {
                Error { status: StatusCode::NOT_FOUND, message } => Error::bad(message),
                other => other,
            })?;
            Ok(json!({"Id": made.container.id, "Warnings": made.warnings}))
        })
        .await?;
    created(&made)
}

/// Starts a container, and gives those who have attached to it their connections.
fn begin(app: &App, store: &Store, found: &Container) -> Result<bool, Error> {
    let mut clients = app.waiting.take(&found.id);
    clients.retain(crate::attach::Client::is_there);
    let mut clients = clients.into_iter();
    let first = clients.next();
    let quiet = Request::Attach { stdin: false, output: false };
    let wish = first.as_ref().map_or(&quiet, |client| &client.wish);
    let Some(handle) = lifecycle::start(store, found, wish)? else { return Ok(false) };
    lifecycle::await_start(&handle, &found.id, |_| {})?;
    if let Some(first) = first {
        first.give(handle);
    }
    for client in clients {
        if let Ok(handle) =
            container::attach::connect(store, &container::find(store, &found.id)?, &client.wish)
        {
            client.give(handle);
        }
    }
    Ok(true)
}

/// `POST /containers/NAME/start`
pub async fn start(app: &Arc<App>, name: &str) -> Result<Reply, Error> {
    let (name, shared) = (name.to_owned(), app.clone());
    app.with_store(move |store| {
        let found = container::find(store, &name)?;
        match found.state.status {
            container::Status::Paused => {
                Err(Error::conflict("cannot start a paused container, try unpause instead"))
            }
            status if status.is_alive() => Err(Error::not_modified()),
            _ if begin(&shared, store, &found)? => Ok(done()),
            _ => Err(Error::not_modified()),
        }
    })
    .await
}

/// What `t` or `signal` of a query say.
fn patience(call: &Call) -> Result<(Option<i64>, Option<String>), Error> {
    Ok((call.query.number("t")?, call.query.get("signal").map(str::to_owned)))
}

/// The networks' bridge and rules go with the last container that somebody ends. What cannot be done now the caretaker
/// does.
fn tidy(store: &Store) {
    let _ = network::tidy(store);
}

/// `POST /containers/NAME/stop`
pub async fn stop(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let (timeout, signal) = patience(call)?;
    let name = name.to_owned();
    app.with_store(move |store| {
        let found = container::find(store, &name)?;
        if !found.state.status.is_alive() {
            return Err(Error::not_modified());
        }
        lifecycle::stop(store, &found, timeout, signal.as_deref())?;
        tidy(store);
        Ok(done())
    })
    .await
}

/// `POST /containers/NAME/restart`
pub async fn restart(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let (timeout, signal) = patience(call)?;
    let (name, shared) = (name.to_owned(), app.clone());
    app.with_store(move |store| {
        let found = container::find(store, &name)?;
        lifecycle::stop(store, &found, timeout, signal.as_deref())?;
        // What was found ran, and a start of what runs does nothing.
        let found = container::find(store, &found.id)?;
        begin(&shared, store, &found)?;
        found.event("restart").tell(store.layout());
        Ok(done())
    })
    .await
}

/// `POST /containers/NAME/kill`
pub async fn kill(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let signal = call.query.get("signal").unwrap_or("KILL").to_owned();
    let name = name.to_owned();
    app.with_store(move |store| {
        lifecycle::parse_signal(&signal)?;
        let found = container::find(store, &name)?;
        lifecycle::kill(store, &found, &signal).map_err(|error| match error {
            Failed::NotRunning(id) => Failed::CannotKill(found.name.clone(), id),
            other => other,
        })?;
        Ok(done())
    })
    .await
}

/// `POST /containers/NAME/pause`
pub async fn pause(app: &Arc<App>, name: &str) -> Result<Reply, Error> {
    let name = name.to_owned();
    app.with_store(move |store| {
        let found = container::find(store, &name)?;
        lifecycle::pause(store, &found)?;
        Ok(done())
    })
    .await
}

/// `POST /containers/NAME/unpause`
pub async fn unpause(app: &Arc<App>, name: &str) -> Result<Reply, Error> {
    let name = name.to_owned();
    app.with_store(move |store| {
        let found = container::find(store, &name)?;
        lifecycle::unpause(store, &found)?;
        Ok(done())
    })
    .await
}

/// `POST /containers/NAME/rename`
pub async fn rename(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let to = call
        .query
        .get("name")
        .ok_or_else(|| Error::bad("Neither old nor new names may be empty"))?
        .to_owned();
    let name = name.to_owned();
    app.with_store(move |store| {
        let found = container::find(store, &name)?;
        lifecycle::rename(store, &found, &to)?;
        Ok(done())
    })
    .await
}

/// `POST /containers/NAME/update`
pub async fn update(app: &Arc<App>, mut call: Call, name: &str) -> Result<Reply, Error> {
    let body: Value = read(&mut call.body).await?;
    let (resources, restart): (Resources, Option<RestartPolicy>) = asked::update(body)?;
    let name = name.to_owned();
    let warnings = app
        .with_store(move |store| {
            let found = container::find(store, &name)?;
            Ok(lifecycle::update(store, &found, restart, &resources)?)
        })
        .await?;
    answer(&json!({"Warnings": warnings}))
}

/// `DELETE /containers/NAME`
pub async fn remove(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    if call.query.is("link") {
        return Err(Error::conflict("Conflict, cannot remove the default link name of the container"));
    }
    let (force, volumes) = (call.query.is("force"), call.query.is("v"));
    let name = name.to_owned();
    app.with_store(move |store| {
        let found = container::find(store, &name)?;
        lifecycle::remove(store, &found, force, volumes)?;
        tidy(store);
        Ok(done())
    })
    .await
}

/// `POST /containers/prune`
pub async fn prune(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let given = call.query.filters()?;
    let (ids, freed) = app.with_store(move |store| Ok(container::prune(store, &given)?)).await?;
    answer(&json!({"ContainersDeleted": ids, "SpaceReclaimed": freed}))
}

/// `GET /containers/NAME/top`
pub async fn top(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let options: Vec<String> =
        call.query.get("ps_args").unwrap_or("-ef").split_whitespace().map(str::to_owned).collect();
    let name = name.to_owned();
    let listing = app
        .with_store(move |store| {
            let found = container::find(store, &name)?;
            Ok(processes::list(&found, &options)?)
        })
        .await?;
    answer(&json!({"Titles": listing.titles, "Processes": listing.rows}))
}

/// `GET /containers/NAME/changes`
pub async fn changes(app: &Arc<App>, name: &str) -> Result<Reply, Error> {
    let name = name.to_owned();
    let all = app
        .with_store(move |store| {
            let found = container::find(store, &name)?;
            Ok(changed::diff(store, &found)?)
        })
        .await?;
    let shown: Vec<Value> = all
        .iter()
        .map(|change| {
            let kind = match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            };
            json!({"Path": change.path.to_string_lossy(), "Kind": kind})
        })
        .collect();
    answer(&shown)
}

/// `POST /commit`
pub async fn commit(app: &Arc<App>, mut call: Call) -> Result<Reply, Error> {
    let config = asked::committed(read(&mut call.body).await?)?;
    let query = &call.query;
    let name = query.name()?;
    if name.as_ref().is_some_and(|name| name.digest().is_some()) {
        return Err(image::Error::TagDigest.into());
    }
    let options = changed::Options {
        config: Some(config),
        name,
        author: query.get("author").map(str::to_owned),
        message: query.get("comment").map(str::to_owned),
        changes: query.changes()?,
        pause: query.is_not_off("pause"),
    };
    let container = query.get("container").unwrap_or_default().to_owned();
    let id = app
        .with_store(move |store| {
            let found = container::find(store, &container)?;
            Ok(changed::commit(store, &found, options)?)
        })
        .await?;
    created(&json!({"Id": id.to_string()}))
}

/// A port as `PORT/PROTOCOL`, checked.
pub fn port(text: &str) -> Result<String, Error> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let invalid = || Error::bad(format!("invalid port: {text:?}"));
    let _: Protocol = protocol.parse().map_err(|_| invalid())?;
    let ends = number.split_once('-').unwrap_or((number, number));
    for end in [ends.0, ends.1] {
        end.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(invalid)?;
    }
    Ok(format!("{number}/{protocol}"))
}
