//! Volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_engine::store::Store;
use bulkhead_engine::volume::{self, NewVolume, view};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::body::{Reply, created, done, json as answer, read};
use crate::error::Error;
use crate::router::Call;

/// Puts right what killed commands left of volumes.
fn swept(store: &Store) -> Result<(), Error> {
    Ok(volume::sweep(store)?)
}

/// `GET /volumes`
pub async fn list(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let given = call.query.filters()?;
    view::check(&given)?;
    let rows: Vec<Value> = app
        .with_store(move |store| {
            swept(store)?;
            let used = volume::used(store)?;
            let all = volume::list(store)?;
            let shown = all.iter().filter(|volume| view::admits(volume, &used, &given));
            Ok(shown.map(|volume| view::inspect(volume, store.layout())).collect())
        })
        .await?;
    answer(&json!({"Volumes": rows, "Warnings": null}))
}

/// `GET /volumes/NAME`
pub async fn inspect(app: &Arc<App>, name: &str) -> Result<Reply, Error> {
    let name = name.to_owned();
    let shown = app
        .with_store(move |store| {
            let found = volume::find(store, &name)?;
            Ok(view::inspect(&found, store.layout()))
        })
        .await?;
    answer(&shown)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct New {
    name: Option<String>,
    driver: Option<String>,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    cluster_volume_spec: Option<Value>,
}

/// `POST /volumes/create`
pub async fn create(app: &Arc<App>, mut call: Call) -> Result<Reply, Error> {
    let asked: New = read(&mut call.body).await?;
    if asked.cluster_volume_spec.is_some_and(|spec| !spec.is_null()) {
        return Err(Error::bad("ClusterVolumeSpec is not supported"));
    }
    let name = asked.name.unwrap_or_default();
    let mut new =
        if name.is_empty() { NewVolume::anonymous()? } else { NewVolume { name, ..NewVolume::default() } };
    new.driver = asked.driver.unwrap_or_default();
    new.options = asked.driver_opts.unwrap_or_default();
    new.labels.extend(asked.labels.unwrap_or_default());
    new.check()?;
    let shown = app
        .with_store(move |store| {
            swept(store)?;
            let made = volume::create(store, &new)?;
            Ok(view::inspect(&made, store.layout()))
        })
        .await?;
    created(&shown)
}

/// `DELETE /volumes/NAME`
pub async fn remove(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let (name, force) = (name.to_owned(), call.query.is("force"));
    app.with_store(move |store| {
        swept(store)?;
        match volume::remove(store, &name) {
            Err(volume::Error::NotFound(_)) if force => Ok(done()),
            other => Ok(other.map(|()| done())?),
        }
    })
    .await
}

/// `POST /volumes/prune`
pub async fn prune(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let given = call.query.filters()?;
    // Before 1.42 a prune was of all of them.
    let all = call.minor < 42;
    let (names, freed) = app
        .with_store(move |store| {
            swept(store)?;
            Ok(view::prune(store, all, &given)?)
        })
        .await?;
    answer(&json!({"VolumesDeleted": names, "SpaceReclaimed": freed}))
}
