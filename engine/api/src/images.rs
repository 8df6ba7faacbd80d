//! Images.

use std::collections::HashMap;
use std::sync::Arc;

use bulkhead_engine::container::{self, Container};
use bulkhead_engine::image::{self, Image, Input as From, Platform, Reference, Silent, filter, view};
use bulkhead_engine::layer::{Compression, Options, Packing};
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::App;
use crate::body::{Input, Lines, Output, Reply, json as answer, reply, whole, written};
use crate::error::Error;
use crate::registry::{Sender, Teller, outcome, session};
use crate::router::Call;

fn seconds(moment: Option<&str>) -> i64 {
    moment.and_then(|text| text.parse::<Timestamp>().ok()).map_or(0, Timestamp::as_second)
}

/// `GET /images/json`
pub async fn list(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let mut given = call.query.filters()?;
    // Before filters there was a parameter of its own.
    given.extend(call.query.get("filter").map(|name| ("reference".to_owned(), name.to_owned())));
    let shared = call.query.is("shared-size");
    let rows = app
        .with_store(move |store| {
            let store = &*store;
            let filters = filter::filters(store, &given)?;
            let by_name = given.iter().any(|(name, _)| name == "reference");
            let containers = container::list(store)?;
            let mut rows = Vec::new();
            let images = image::list(store)?;
            let sharing = if shared { filter::sharing(store, &images) } else { HashMap::new() };
            for image in images.iter().filter(|image| filters.admit(image)) {
                let names: Vec<_> =
                    filter::names(image).into_iter().filter(|named| filters.admit_name(named)).collect();
                if names.is_empty() {
                    continue;
                }
                let tags: Vec<String> = if by_name {
                    let tagged = names.iter().filter(|named| named.tag != "<none>");
                    tagged.map(|named| format!("{}:{}", named.repository, named.tag)).collect()
                } else {
                    image.repo_tags()
                };
                let shared = sharing.get(&image.id).map(|(shared, _)| *shared);
                rows.push(row(image, &tags, shared, &containers));
            }
            Ok(rows)
        })
        .await?;
    answer(&rows)
}

/// An image in a list; its layers' `shared` bytes are -1 when nobody counted them.
pub fn row(image: &Image, tags: &[String], shared: Option<u64>, containers: &[Container]) -> Value {
    json!({
        "Id": image.id.to_string(),
        "ParentId": "",
        "RepoTags": tags,
        "RepoDigests": image.repo_digests(),
        "Created": seconds(image.created.as_deref()),
        "Size": image.size,
        "VirtualSize": image.size,
        "SharedSize": shared.map_or(json!(-1), |bytes| json!(bytes)),
        "Labels": image.config.labels,
        "Containers": containers.iter().filter(|container| container.image == Some(image.id)).count(),
    })
}

/// `GET /images/NAME/json`
pub async fn inspect(app: &Arc<App>, name: String) -> Result<Reply, Error> {
    let mut shown = app
        .with_store(move |store| {
            let found = image::find(store, &name)?;
            Ok(view::inspect(store, &found)?)
        })
        .await?;
    // Docker has left it out since 1.45, and compose 1.29 looks for volumes in it whatever the version.
    shown["ContainerConfig"] = shown["Config"].clone();
    answer(&shown)
}

/// `GET /images/NAME/history`
pub async fn history(app: &Arc<App>, name: String) -> Result<Reply, Error> {
    let rows = app
        .with_store(move |store| {
            let image = image::find(store, &name)?;
            let mut layers = image.chain.iter();
            let mut rows: Vec<Value> = image
                .history
                .iter()
                .map(|step| {
                    let layer = if step.empty_layer { None } else { layers.next() };
                    json!({
                        "Id": "<missing>",
                        "Created": seconds(step.created.as_deref()),
                        "CreatedBy": step.created_by.as_deref().unwrap_or_default(),
                        "Tags": null,
                        "Size": layer.map_or(0, |id| filter::layer_size(store, &id.to_string())),
                        "Comment": step.comment.as_deref().unwrap_or_default(),
                    })
                })
                .collect();
            if rows.is_empty() {
                rows.push(json!({
                    "Id": "", "Created": 0, "CreatedBy": "", "Tags": null, "Size": image.size, "Comment": "",
                }));
            }
            // The newest step is the image itself; what came before has no id of its own.
            if let Some(last) = rows.last_mut() {
                last["Id"] = image.id.to_string().into();
                last["Tags"] = image.repo_tags().into();
            }
            rows.reverse();
            Ok(rows)
        })
        .await?;
    answer(&rows)
}

/// `POST /images/NAME/tag`
pub async fn tag(app: &Arc<App>, call: &Call, name: String) -> Result<Reply, Error> {
    let repository = call.query.get("repo").ok_or_else(|| Error::bad("no repository given"))?;
    let target = match call.query.get("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    app.with_store(move |store| Ok(image::tag(store, &name, &target).map(drop)?)).await?;
    Ok(crate::body::empty(StatusCode::CREATED))
}

/// `DELETE /images/NAME`
pub async fn remove(app: &Arc<App>, call: &Call, name: String) -> Result<Reply, Error> {
    let force = call.query.is("force");
    let removed = app.with_store(move |store| Ok(image::remove(store, &name, force)?)).await?;
    let steps: Vec<Value> = removed
        .into_iter()
        .map(|step| match step {
            image::Removed::Untagged(name) => json!({"Untagged": name}),
            image::Removed::Deleted(id) => json!({"Deleted": id}),
        })
        .collect();
    answer(&steps)
}

/// `POST /images/prune`
pub async fn prune(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let given = call.query.filters()?;
    let (lines, freed) = app.with_store(move |store| Ok(filter::prune(store, false, &given)?)).await?;
    let deleted: Vec<Value> = lines
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(
            |(what, name)| {
                if what == "untagged" { json!({"Untagged": name}) } else { json!({"Deleted": name}) }
            },
        )
        .collect();
    answer(&json!({"ImagesDeleted": deleted, "SpaceReclaimed": freed}))
}

/// `GET /images/get`
pub async fn save(app: &Arc<App>, names: Vec<String>) -> Result<Reply, Error> {
    // Clients have had two ways to say several.
    let names: Vec<String> = names.iter().flat_map(|name| name.split(',')).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Error::bad("no image given"));
    }
    let app = app.clone();
    let body = written(move |output| {
        let store = app.store()?;
        for name in &names {
            image::find(&store, name)?;
        }
        let packing = Packing::new(Compression::None, None).map_err(Error::internal)?;
        Ok(image::save(&store, &names, packing, output)?)
    })
    .await?;
    Ok(reply(StatusCode::OK, "application/x-tar", body))
}

/// `POST /images/load`
pub async fn load(app: &Arc<App>, call: Call) -> Result<Reply, Error> {
    let (input, app) = (Input::of(call.body), app.clone());
    let body = written(move |output| {
        let mut store = app.store()?;
        let options = Options::from_env()?;
        let loaded = image::load(&mut store, From::Stream(Box::new(input)), &options, &Silent)?;
        output.begin();
        for text in loaded.iter().flat_map(image::Loaded::lines) {
            output.line(&json!({"stream": format!("{text}\n")}))?;
        }
        Ok(())
    })
    .await?;
    Ok(reply(StatusCode::OK, "application/json", body))
}

/// The end of a stream that began well. The code is that of a program, where one ended badly: clients end with it.
pub fn told(output: &mut Output, code: Option<i32>, message: &str) -> Result<(), Error> {
    let mut detail = json!({"message": message});
    if let Some(code) = code {
        detail["code"] = code.into();
    }
    Ok(output.line(&json!({"errorDetail": detail, "error": message}))?)
}

/// `POST /images/create`: a pull, or an import.
pub async fn create(app: &Arc<App>, mut call: Call) -> Result<Reply, Error> {
    if let Some(source) = call.query.get("fromSrc").map(str::to_owned) {
        return import(app, call, &source).await;
    }
    whole(&mut call.body).await?;
    let from =
        call.query.get("fromImage").ok_or_else(|| Error::bad("neither fromImage nor fromSrc given"))?;
    let name = match call.query.get("tag") {
        // A digest is a tag here.
        Some(digest) if digest.contains(':') => format!("{from}@{digest}"),
        Some(tag) => format!("{from}:{tag}"),
        None => from.to_owned(),
    };
    let name = Reference::parse(&name).map_err(Error::bad)?;
    let every = name.tag().is_none() && name.digest().is_none();
    let platform = call.query.get("platform").map(Platform::parse).transpose().map_err(Error::bad)?;
    let session = session(&app.settings.layout, &call.headers, name.domain())?;
    let app = app.clone();
    let body = written(move |output| {
        let mut store = app.store()?;
        let options = Options::from_env()?;
        let names = if every { image::pull_tags(&session, &name)? } else { vec![name.clone()] };
        let mut newer = false;
        let lines = Lines::new(output);
        let pulled: Result<(), Error> = names.iter().try_for_each(|name| {
            let teller = Teller::new(&lines, name);
            let pulled = image::pull(&mut store, &session, name, platform.as_ref(), &options, &teller)?;
            teller.digest(&pulled);
            newer |= pulled.newer;
            Ok(())
        });
        let output = lines.into_inner();
        if let Err(error) = pulled {
            // Before anything was said, it is an answer of its own.
            return if output.has_begun() { told(output, None, &error.message) } else { Err(error) };
        }
        output.line(&outcome(&name, newer))?;
        Ok(())
    })
    .await?;
    Ok(reply(StatusCode::OK, "application/json", body))
}

async fn import(app: &Arc<App>, call: Call, source: &str) -> Result<Reply, Error> {
    if source != "-" {
        return Err(Error::bad("fromSrc: only the request's body (-) can be imported"));
    }
    let query = &call.query;
    let name = query.name()?;
    let changes = query.changes()?;
    let message = query.get("message").map(str::to_owned);
    let (input, app) = (Input::of(call.body), app.clone());
    let body = written(move |output| {
        let mut store = app.store()?;
        let options = Options::from_env()?;
        let source = From::Stream(Box::new(input));
        let id = image::import(
            &mut store,
            source,
            name.as_ref(),
            &changes,
            message.as_deref(),
            &options,
            &Silent,
        )?;
        output.line(&json!({"status": id.to_string()}))?;
        Ok(())
    })
    .await?;
    Ok(reply(StatusCode::OK, "application/json", body))
}

/// `POST /images/NAME/push`
pub async fn push(app: &Arc<App>, call: &Call, name: String) -> Result<Reply, Error> {
    let name = match call.query.get("tag") {
        Some(tag) => format!("{name}:{tag}"),
        None => name,
    };
    let name = Reference::parse(&name).map_err(Error::bad)?;
    if name.digest().is_some() {
        return Err(Error::bad("cannot push a digest reference"));
    }
    let session = session(&app.settings.layout, &call.headers, name.domain())?;
    let app = app.clone();
    let body = written(move |output| {
        let mut store = app.store()?;
        let names = if name.tag().is_some() { vec![name.clone()] } else { image::tags(&store, &name)? };
        // What is not here is said before anything is.
        for name in &names {
            image::find(&store, &name.to_string()).map_err(|_| image::Error::NoSuchTag(name.familiar()))?;
        }
        output.line(&json!({"status": format!("The push refers to repository [{}]", name.repository())}))?;
        let packing = Packing::new(Compression::Gzip, None).map_err(Error::internal)?;
        let lines = Lines::new(output);
        for name in &names {
            let teller = Teller::new(&lines, name);
            let pushed = image::push(&mut store, &session, name, packing, false, &Sender(&teller));
            let pushed = match pushed {
                Ok(pushed) => pushed,
                Err(error) => return told(lines.into_inner(), None, &error.to_string()),
            };
            let tag = name.tag().unwrap_or("latest");
            teller.status(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size));
            let digest = pushed.digest.to_string();
            let aux = json!({"Tag": tag, "Digest": digest, "Size": pushed.size});
            lines.tell(&json!({"progressDetail": {}, "aux": aux}));
        }
        Ok(())
    })
    .await?;
    Ok(reply(StatusCode::OK, "application/json", body))
}
