//! What the engine is, what it holds, and what happens in it.

use std::sync::Arc;

use bulkhead_engine::build::cache;
use bulkhead_engine::container::network::Everyone;
use bulkhead_engine::container::{self, Container, Status, view};
use bulkhead_engine::events::{self, Reader, Watch, message};
use bulkhead_engine::host::{Counts, Info};
use bulkhead_engine::volume::{self, view as volumes};
use bulkhead_engine::{filter, image};
use hyper::StatusCode;
use hyper::header::HeaderValue;
use jiff::Timestamp;
use nix::poll::PollTimeout;
use serde_json::{Value, json};

use crate::body::{Reply, json as answer, reply, written};
use crate::error::Error;
use crate::router::{Call, plain};
use crate::{API_VERSION, App, MIN_API_VERSION, containers, images};

/// How often somebody who follows events is looked after, in milliseconds.
const LOOK: u16 = 500;

/// `GET /_ping`
pub fn ping() -> Reply {
    let mut reply = plain("OK");
    let headers = reply.headers_mut();
    // The classic builder: BuildKit's is a protocol of its own.
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    headers.insert("cache-control", HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert("pragma", HeaderValue::from_static("no-cache"));
    reply
}

/// `GET /version`
pub fn version(app: &App) -> Result<Reply, Error> {
    let kernel = nix::sys::utsname::uname()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let (version, build) = (app.settings.version, app.settings.build);
    let architecture = image::host_architecture();
    let details = json!({
        "ApiVersion": API_VERSION, "MinAPIVersion": MIN_API_VERSION, "Arch": architecture, "Os": "linux",
        "GitCommit": build, "GoVersion": "", "KernelVersion": kernel, "BuildTime": "", "Experimental": "false",
    });
    answer(&json!({
        "Platform": {"Name": "Bulkhead"},
        "Components": [{"Name": "Engine", "Version": version, "Details": details}],
        "Version": version,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": build,
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture,
        "KernelVersion": kernel,
        "BuildTime": "",
    }))
}

/// `GET /info`
pub async fn info(app: &Arc<App>) -> Result<Reply, Error> {
    let (version, root) = (app.settings.version, app.settings.layout.root.clone());
    let mut shown = app
        .with_store(move |store| {
            let all = container::list(store)?;
            let count = |wanted: fn(Status) -> bool| all.iter().filter(|c| wanted(c.state.status)).count();
            let running = count(|status| matches!(status, Status::Running | Status::Restarting));
            let paused = count(|status| status == Status::Paused);
            let info = Info::gather(&Counts {
                running,
                paused,
                stopped: all.len() - running - paused,
                images: image::list(store)?.len(),
                version: version.to_owned(),
                root: root.to_string_lossy().into_owned(),
            });
            Ok(serde_json::to_value(&info)?)
        })
        .await?;
    // What Docker's clients look into without asking whether it is there.
    let more = json!({
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": ""},
        "Runtimes": {"bulkhead": {"path": "bulkhead"}},
        "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": []},
        "IndexServerAddress": "https://index.docker.io/v1/",
        "SystemTime": Timestamp::now().to_string(),
        "LiveRestoreEnabled": true,
        "InitBinary": "",
        "Isolation": "",
    });
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    answer(&shown)
}

/// `GET /system/df`: of everything, or of the kinds that are asked for.
pub async fn df(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let kinds = call.query.all("type");
    if let Some(kind) =
        kinds.iter().find(|kind| !matches!(kind.as_str(), "container" | "image" | "volume" | "build-cache"))
    {
        return Err(Error::bad(format!("unknown object type: {kind}")));
    }
    let shown = app
        .with_store(move |store| {
            let store = &*store;
            let is_asked = |kind: &str| kinds.is_empty() || kinds.iter().any(|asked| asked == kind);
            let mut shown = json!({"LayersSize": 0, "Images": null, "Containers": null, "Volumes": null,
                "BuildCache": null, "BuilderSize": 0});
            let all = container::list(store)?;
            if is_asked("image") {
                let images = image::list(store)?;
                let sharing = image::filter::sharing(store, &images);
                let row = |image: &image::Image| {
                    let shared = sharing.get(&image.id).map(|(shared, _)| *shared);
                    images::row(image, &image.repo_tags(), shared, &all)
                };
                shown["Images"] = images.iter().map(row).collect();
                let cached = cache::usage(store)?;
                shown["LayersSize"] = image::filter::total(store)?.saturating_sub(cached.reclaimable).into();
            }
            if is_asked("container") {
                let (now, everyone) = (Timestamp::now(), Everyone::read(store)?);
                let mut names = view::ImageNames::default();
                let row = |container: &Container| {
                    let sizes = view::sizes(store, container);
                    let nameless = names.nameless(store, container);
                    let settings = everyone.settings(container);
                    let mut row = containers::row(container, nameless, &settings, sizes, now);
                    if sizes.is_none() {
                        // Docker's word for a size it does not know.
                        (row["SizeRw"], row["SizeRootFs"]) = (json!(-1), json!(-1));
                    }
                    row
                };
                shown["Containers"] = all.iter().map(row).collect();
            }
            if is_asked("volume") {
                let taken = volume::used(store)?;
                let mut places = Vec::new();
                for found in volume::list(store)? {
                    let mut shown = volumes::inspect(&found, store.layout());
                    let count = u8::from(taken.contains(&found.name));
                    shown["UsageData"] = json!({"Size": volume::size(store, &found)?, "RefCount": count});
                    places.push(shown);
                }
                shown["Volumes"] = places.into();
            }
            if is_asked("build-cache") {
                let steps: Vec<Value> = cache::layers(store)?
                    .iter()
                    .map(|layer| {
                        json!({
                            "ID": layer.chain.0.hex(), "Type": "regular",
                            "Description": layer.step, "InUse": false, "Shared": layer.shared, "Size": layer.size,
                            "CreatedAt": layer.created, "LastUsedAt": null, "UsageCount": 0,
                        })
                    })
                    .collect();
                shown["BuildCache"] = steps.into();
                shown["BuilderSize"] = cache::usage(store)?.reclaimable.into();
            }
            Ok(shown)
        })
        .await?;
    answer(&shown)
}

/// `GET /events`
pub async fn events(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let given = call.query.filters()?;
    events::check(&given)?;
    let (since, until) = filter::period(call.query.get("since"), call.query.get("until"))?;
    let layout = app.settings.layout.clone();
    let body = written(move |output| {
        let nanoseconds = |time: Timestamp| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
        let (from, to) = (since.map_or(i64::MIN, nanoseconds), until.map_or(i64::MAX, nanoseconds));
        // Before the first look at the log, so that nothing falls in between.
        let watch = Watch::new(&layout)?;
        let (mut found, mut reader) = match since {
            None => (Vec::new(), Reader::from_now(&layout)?),
            Some(_) => Reader::from_start(&layout)?,
        };
        output.begin();
        loop {
            found.extend(reader.more()?);
            for event in found.drain(..) {
                if event.time > to {
                    return Ok(());
                }
                if event.time >= from && events::admits(&event, &given) {
                    output.line(&message(&event))?;
                }
            }
            if output.is_gone() || until.is_some_and(|until| until <= Timestamp::now()) {
                return Ok(());
            }
            watch.wait(PollTimeout::from(LOOK))?;
        }
    })
    .await?;
    Ok(reply(StatusCode::OK, "application/json", body))
}
