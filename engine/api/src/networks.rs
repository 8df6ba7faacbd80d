//! Networks.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_engine::config::EndpointSettings;
use bulkhead_engine::container::{self, network as joined};
use bulkhead_engine::network::{self, IpamConfig, NewNetwork, filter};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::body::{Reply, created, done, empty, json as answer, read};
use crate::create::wish;
use crate::error::Error;
use crate::router::Call;

/// `GET /networks`
pub async fn list(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let given = call.query.filters()?;
    let rows = app
        .with_store(move |store| {
            let store = &*store;
            let mut rows = Vec::new();
            for network in network::list(store)? {
                let unused = network::members(store, &network.id)?.is_empty();
                if filter::admits(&network, &given, unused && !network.is_predefined())? {
                    rows.push(serde_json::to_value(network::inspect(store, &network)?)?);
                }
            }
            Ok(rows)
        })
        .await?;
    answer(&rows)
}

/// `GET /networks/NAME`
pub async fn inspect(app: &Arc<App>, name: &str) -> Result<Reply, Error> {
    let name = name.to_owned();
    let shown = app
        .with_store(move |store| {
            let found = network::find(store, &name)?;
            Ok(network::inspect(store, &found)?)
        })
        .await?;
    answer(&shown)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct New {
    name: String,
    driver: Option<String>,
    internal: Option<bool>,
    attachable: Option<bool>,
    ingress: Option<bool>,
    config_only: Option<bool>,
    scope: Option<String>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: Option<String>,
    config: Option<Vec<Pool>>,
    options: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Pool {
    subnet: Option<String>,
    #[serde(rename = "IPRange")]
    ip_range: Option<String>,
    gateway: Option<String>,
    auxiliary_addresses: Option<BTreeMap<String, String>>,
}

impl New {
    /// Refuses what the engine has not.
    fn asked(self) -> Result<NewNetwork, Error> {
        let ipam = self.ipam.unwrap_or_default();
        let lacks = [
            (self.ingress == Some(true), "Ingress"),
            (self.config_only == Some(true), "ConfigOnly"),
            (self.enable_ipv4 == Some(false), "EnableIPv4=false"),
            (self.scope.as_deref().is_some_and(|scope| !matches!(scope, "" | "local")), "Scope"),
            (ipam.driver.as_deref().is_some_and(|driver| !matches!(driver, "" | "default")), "IPAM.Driver"),
            (ipam.options.is_some_and(|options| !options.is_empty()), "IPAM.Options"),
        ];
        if let Some((_, name)) = lacks.iter().find(|(asked, _)| *asked) {
            return Err(Error::bad(format!("{name} is not supported")));
        }
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let mut pools = Vec::new();
        for pool in ipam.config.unwrap_or_default() {
            if pool.auxiliary_addresses.is_some_and(|addresses| !addresses.is_empty()) {
                return Err(Error::bad("IPAM.Config.AuxiliaryAddresses is not supported"));
            }
            let config = IpamConfig {
                subnet: some(pool.subnet),
                ip_range: some(pool.ip_range),
                gateway: some(pool.gateway),
            };
            // compose sends an entry that says nothing.
            if config != IpamConfig::default() {
                pools.push(config);
            }
        }
        Ok(NewNetwork {
            name: self.name,
            driver: self.driver.unwrap_or_default(),
            ipam: pools,
            internal: self.internal.unwrap_or(false),
            ipv6: self.enable_ipv6.unwrap_or(false),
            attachable: self.attachable.unwrap_or(false),
            options: self.options.unwrap_or_default(),
            labels: self.labels.unwrap_or_default(),
        })
    }
}

/// `POST /networks/create`
pub async fn create(app: &Arc<App>, mut call: Call) -> Result<Reply, Error> {
    let new: New = read(&mut call.body).await?;
    let new = new.asked()?;
    let made = app.with_store(move |store| Ok(network::create(store, &new)?)).await?;
    created(&json!({"Id": made.id, "Warning": ""}))
}

/// `DELETE /networks/NAME`
pub async fn remove(app: &Arc<App>, name: &str) -> Result<Reply, Error> {
    let name = name.to_owned();
    app.with_store(move |store| {
        network::tidy(store)?;
        network::remove(store, &name)?;
        Ok(done())
    })
    .await
}

/// `POST /networks/prune`
pub async fn prune(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let given = call.query.filters()?;
    let names = app.with_store(move |store| Ok(filter::prune(store, &given)?)).await?;
    answer(&json!({"NetworksDeleted": names}))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Joining {
    container: String,
    force: Option<bool>,
    endpoint_config: Option<Value>,
}

/// `POST /networks/NAME/connect`
pub async fn connect(app: &Arc<App>, mut call: Call, name: &str) -> Result<Reply, Error> {
    let asked: Joining = read(&mut call.body).await?;
    let settings = match asked.endpoint_config {
        None | Some(Value::Null) => EndpointSettings::default(),
        Some(Value::Object(mut fields)) => {
            fields.retain(|_, value| !value.is_null());
            let parsed = serde_json::from_value(Value::Object(fields));
            parsed.map_err(|error| Error::bad(format!("invalid EndpointConfig: {error}")))?
        }
        Some(_) => return Err(Error::bad("invalid EndpointConfig")),
    };
    let name = name.to_owned();
    app.with_store(move |store| {
        let found = container::find(store, &asked.container)?;
        joined::attach(store, &found, &name, &wish(settings))?;
        Ok(empty(StatusCode::OK))
    })
    .await
}

/// `POST /networks/NAME/disconnect`
pub async fn disconnect(app: &Arc<App>, mut call: Call, name: &str) -> Result<Reply, Error> {
    let asked: Joining = read(&mut call.body).await?;
    let name = name.to_owned();
    app.with_store(move |store| {
        let found = match container::find(store, &asked.container) {
            // With force, an endpoint whose container is gone: the sweep before us has released it.
            Err(container::Error::NoSuchContainer(_)) if asked.force == Some(true) => {
                network::find(store, &name)?;
                return Ok(empty(StatusCode::OK));
            }
            other => other?,
        };
        joined::detach(store, &found, &name)?;
        Ok(empty(StatusCode::OK))
    })
    .await
}
