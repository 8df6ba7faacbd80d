//! From a request's line to whoever answers it, and the versions of the API.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bulkhead_engine::filter::{Given, is_true};
use bulkhead_engine::image::{Change, Reference};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::body::{Body, Reply, drain, json_as};
use crate::error::Error;
use crate::{
    API_VERSION, App, MIN_API_VERSION, archive, attach, build, containers, exec, images, networks, registry,
    stats, streams, system, volumes,
};

const MINOR: u32 = 47;
const MIN_MINOR: u32 = 24;

/// A request, taken apart.
pub struct Call {
    /// The version asked for; the newest when none is.
    pub minor: u32,
    /// What follows the question mark.
    pub query: Query,
    /// The head's other lines.
    pub headers: HeaderMap,
    /// What is sent.
    pub body: Incoming,
    /// The connection, for those who take it over.
    pub upgrade: Option<OnUpgrade>,
    /// Our own descriptor of the connection, to ask whether anybody is at its other end.
    pub peer: Option<Arc<OwnedFd>>,
}

/// The pairs of a query, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// A name's first value, if it has one that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(have, _)| have == name).map(|(_, value)| value.clone()).collect()
    }

    /// `repo` and `tag`: the name of an image that is to be made.
    pub fn name(&self) -> Result<Option<Reference>, Error> {
        let name = self.get("repo").map(|repository| match self.get("tag") {
            Some(tag) => format!("{repository}:{tag}"),
            None => repository.to_owned(),
        });
        Ok(name.map(|name| Reference::parse(&name)).transpose().map_err(Error::bad)?.map(Reference::tagged))
    }

    /// `changes`: instructions for its configuration, a line each.
    pub fn changes(&self) -> Result<Vec<Change>, Error> {
        let texts = self.all("changes");
        let lines = texts.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty());
        Ok(lines.map(Change::parse).collect::<Result<_, _>>()?)
    }

    /// A switch, as Docker reads one: everything but nothing, `0`, `no`, `false` and `none` is on.
    pub fn is(&self, name: &str) -> bool {
        !matches!(
            self.get(name).unwrap_or_default().trim().to_ascii_lowercase().as_str(),
            "" | "0" | "no" | "false" | "none"
        )
    }

    /// A switch that is on unless it is put off.
    pub fn is_not_off(&self, name: &str) -> bool {
        self.get(name).is_none() || self.is(name)
    }

    /// A number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Error> {
        self.get(name)
            .map(|text| text.parse().map_err(|_| Error::bad(format!("invalid value for {name}: {text:?}"))))
            .transpose()
    }

    /// A value in JSON.
    pub fn json<T: serde::de::DeserializeOwned + Default>(&self, name: &str) -> Result<T, Error> {
        match self.get(name) {
            None | Some("null") => Ok(T::default()),
            Some(text) => serde_json::from_str(text)
                .map_err(|error| Error::bad(format!("invalid value for {name}: {error}"))),
        }
    }

    /// `filters`, in both forms that Docker's clients have had for it.
    pub fn filters(&self) -> Result<Vec<Given>, Error> {
        let all: std::collections::BTreeMap<String, Value> = self.json("filters")?;
        let mut given = Vec::new();
        for (name, values) in all {
            match values {
                Value::Object(values) => {
                    let wanted = values.into_iter().filter(|(_, on)| *on == Value::Bool(true));
                    given.extend(wanted.map(|(value, _)| (name.clone(), value)));
                }
                Value::Array(values) => {
                    for value in values {
                        let text = match value {
                            Value::String(text) => text,
                            Value::Bool(_) | Value::Number(_) => value.to_string(),
                            _ => return Err(Error::bad(format!("invalid filter '{name}'"))),
                        };
                        given.push((name.clone(), text));
                    }
                }
                Value::String(value) => given.push((name, value)),
                _ => return Err(Error::bad(format!("invalid filter '{name}'"))),
            }
        }
        // What the command line says with a switch of its own.
        for (name, value) in &given {
            if name == "dangling" && is_true(value).is_none() {
                return Err(Error::bad(format!("invalid filter 'dangling={value}'")));
            }
        }
        Ok(given)
    }
}

/// Answers, whatever happens.
pub async fn answer(app: Arc<App>, request: Request<Incoming>, peer: Option<Arc<OwnedFd>>) -> Reply {
    let head = request.method() == Method::HEAD;
    let mut reply = match route(app, request, peer).await {
        Ok(reply) => reply,
        Err(error) => failed(&error),
    };
    // A connection that was taken over is no longer HTTP's.
    if reply.status() != StatusCode::SWITCHING_PROTOCOLS {
        let headers = reply.headers_mut();
        let fixed = [
            ("api-version", API_VERSION),
            ("ostype", "linux"),
            ("docker-experimental", "false"),
            ("server", "Bulkhead (linux)"),
        ];
        for (name, value) in fixed {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    }
    if head {
        *reply.body_mut() = Body::Whole(None);
    }
    reply
}

fn failed(error: &Error) -> Reply {
    let told = json_as(error.status, &json!({"message": error.message}));
    let mut reply = told.unwrap_or_else(|_| crate::body::empty(error.status));
    if error.status == StatusCode::NOT_MODIFIED {
        *reply.body_mut() = Body::Whole(None);
        reply.headers_mut().remove(header::CONTENT_TYPE);
    }
    if error.status == StatusCode::PAYLOAD_TOO_LARGE {
        // The rest of what is sent is not read.
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// `v1.NN`
fn version(segment: &str) -> Option<u32> {
    segment.strip_prefix("v1.")?.parse().ok()
}

fn check_version(minor: u32) -> Result<(), Error> {
    if minor < MIN_MINOR {
        return Err(Error::bad(format!(
            "client version 1.{minor} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade \
             your client to a newer version"
        )));
    }
    if minor > MINOR {
        return Err(Error::bad(format!(
            "client version 1.{minor} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    Ok(())
}

/// The version that a path asks for, and the rest of it, decoded.
fn located(path: &str) -> Result<(u32, Vec<String>), Error> {
    let mut segments = Vec::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let text = percent_decode_str(segment).decode_utf8();
        segments.push(text.map_err(|_| Error::bad("the path is not UTF-8"))?.into_owned());
    }
    let Some(minor) = segments.first().and_then(|first| version(first)) else { return Ok((MINOR, segments)) };
    check_version(minor)?;
    segments.remove(0);
    Ok((minor, segments))
}

async fn route(
    app: Arc<App>,
    request: Request<Incoming>,
    peer: Option<Arc<OwnedFd>>,
) -> Result<Reply, Error> {
    let (mut parts, body) = request.into_parts();
    let (minor, segments) = match located(parts.uri.path()) {
        Ok(located) => located,
        Err(error) => {
            drain(body);
            return Err(error);
        }
    };
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let call = Call {
        minor,
        query,
        headers: std::mem::take(&mut parts.headers),
        body,
        upgrade: parts.extensions.remove::<OnUpgrade>(),
        peer,
    };
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (parts.method.as_str(), path.as_slice()) {
        ("GET" | "HEAD", ["_ping"]) => Ok(system::ping()),
        ("GET", ["version"]) => system::version(&app),
        ("GET", ["info"]) => system::info(&app).await,
        ("GET", ["events"]) => system::events(&app, &call).await,
        ("GET", ["system", "df"]) => system::df(&app, &call).await,
        ("POST", ["auth"]) => registry::auth(&app, call).await,

        ("GET", ["containers", "json"]) => containers::list(&app, &call).await,
        ("POST", ["containers", "create"]) => containers::create(&app, call).await,
        ("POST", ["containers", "prune"]) => containers::prune(&app, &call).await,
        ("GET", ["containers", name, "json"]) => containers::inspect(&app, &call, name).await,
        ("GET", ["containers", name, "top"]) => containers::top(&app, &call, name).await,
        ("GET", ["containers", name, "logs"]) => streams::logs(&app, &call, name).await,
        ("GET", ["containers", name, "changes"]) => containers::changes(&app, name).await,
        ("GET", ["containers", name, "export"]) => archive::export(&app, name).await,
        ("GET", ["containers", name, "stats"]) => stats::stats(&app, &call, name).await,
        ("POST", ["containers", name, "resize"]) => attach::resize(&app, &call, name).await,
        ("POST", ["containers", name, "start"]) => containers::start(&app, name).await,
        ("POST", ["containers", name, "stop"]) => containers::stop(&app, &call, name).await,
        ("POST", ["containers", name, "restart"]) => containers::restart(&app, &call, name).await,
        ("POST", ["containers", name, "kill"]) => containers::kill(&app, &call, name).await,
        ("POST", ["containers", name, "update"]) => containers::update(&app, call, name).await,
        ("POST", ["containers", name, "rename"]) => containers::rename(&app, &call, name).await,
        ("POST", ["containers", name, "pause"]) => containers::pause(&app, name).await,
        ("POST", ["containers", name, "unpause"]) => containers::unpause(&app, name).await,
        ("POST", ["containers", name, "attach"]) => attach::attach(&app, call, name).await,
        ("POST", ["containers", name, "wait"]) => streams::wait(&app, &call, name).await,
        ("POST", ["containers", name, "exec"]) => exec::create(&app, call, name).await,
        ("DELETE", ["containers", name]) => containers::remove(&app, &call, name).await,
        ("HEAD", ["containers", name, "archive"]) => archive::stat(&app, &call, name).await,
        ("GET", ["containers", name, "archive"]) => archive::get(&app, &call, name).await,
        ("PUT", ["containers", name, "archive"]) => archive::put(&app, call, name).await,
        ("POST", ["commit"]) => containers::commit(&app, call).await,

        ("POST", ["exec", id, "start"]) => exec::start(&app, call, id).await,
        ("POST", ["exec", id, "resize"]) => exec::resize(&app, &call, id),
        ("GET", ["exec", id, "json"]) => exec::inspect(&app, id),

        ("GET", ["images", "json"]) => images::list(&app, &call).await,
        ("POST", ["images", "create"]) => images::create(&app, call).await,
        ("POST", ["images", "load"]) => images::load(&app, call).await,
        ("POST", ["images", "prune"]) => images::prune(&app, &call).await,
        ("GET", ["images", "get"]) => images::save(&app, call.query.all("names")).await,
        ("GET", ["images", "search"]) => registry::search(&app, &call).await,
        ("GET", ["images", name @ .., "get"]) => images::save(&app, vec![name.join("/")]).await,
        ("GET", ["images", name @ .., "json"]) => images::inspect(&app, name.join("/")).await,
        ("GET", ["images", name @ .., "history"]) => images::history(&app, name.join("/")).await,
        ("POST", ["images", name @ .., "tag"]) => images::tag(&app, &call, name.join("/")).await,
        ("POST", ["images", name @ .., "push"]) => images::push(&app, &call, name.join("/")).await,
        ("DELETE", ["images", name @ ..]) if !name.is_empty() => {
            images::remove(&app, &call, name.join("/")).await
        }
        ("GET", ["distribution", name @ .., "json"]) => {
            registry::distribution(&app, &call, &name.join("/")).await
        }

        ("POST", ["build"]) => build::build(&app, call).await,
        ("POST", ["build", "prune"]) => build::prune(&app, &call).await,

        ("GET", ["networks"]) => networks::list(&app, &call).await,
        ("POST", ["networks", "create"]) => networks::create(&app, call).await,
        ("POST", ["networks", "prune"]) => networks::prune(&app, &call).await,
        ("GET", ["networks", name]) => networks::inspect(&app, name).await,
        ("DELETE", ["networks", name]) => networks::remove(&app, name).await,
        ("POST", ["networks", name, "connect"]) => networks::connect(&app, call, name).await,
        ("POST", ["networks", name, "disconnect"]) => networks::disconnect(&app, call, name).await,

        ("GET", ["volumes"]) => volumes::list(&app, &call).await,
        ("POST", ["volumes", "create"]) => volumes::create(&app, call).await,
        ("POST", ["volumes", "prune"]) => volumes::prune(&app, &call).await,
        ("GET", ["volumes", name]) => volumes::inspect(&app, name).await,
        ("DELETE", ["volumes", name]) => volumes::remove(&app, &call, name).await,

        // What compose and the SDKs ask before they go on without.
        ("GET", ["plugins"]) => crate::body::json(&json!([])),
        (_, ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => {
            drain(call.body);
            Err(Error {
                status: StatusCode::SERVICE_UNAVAILABLE,
                message: "This node is not a swarm manager. Bulkhead has no swarm.".to_owned(),
            })
        }
        _ => {
            drain(call.body);
            Err(Error::missing("page not found"))
        }
    }
}

/// Whether a client wants to take the connection over.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let value =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    value(header::CONNECTION).to_ascii_lowercase().contains("upgrade") && !value(header::UPGRADE).is_empty()
}

/// The head that hands the connection over.
pub fn upgraded(kind: &'static str) -> Reply {
    let mut reply = crate::body::reply(StatusCode::SWITCHING_PROTOCOLS, kind, Body::Whole(None));
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    reply.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    reply
}

/// A body of a few bytes that are no JSON.
pub fn plain(text: &'static str) -> Reply {
    crate::body::reply(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        Body::Whole(Some(Bytes::from_static(text.as_bytes()))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!((version("v1.47"), version("v1.x"), version("containers")), (Some(47), None, None));
        assert!(check_version(24).is_ok() && check_version(47).is_ok());
        assert!(check_version(23).expect_err("old").message.contains("too old"));
        assert!(check_version(48).expect_err("new").message.contains("too new"));
    }

    #[test]
    fn switches() {
        let query = Query::parse("a=1&b=0&c=true&d=False&e=&f=x&g=none");
        let on: Vec<&str> =
            ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().filter(|n| query.is(n)).collect();
        assert_eq!(on, ["a", "c", "f"]);
        assert!(query.is_not_off("h") && !query.is_not_off("b"));
        assert!(query.number::<u32>("f").is_err() && query.number::<u32>("h") == Ok(None));
    }

    #[test]
    fn filters_in_both_forms() {
        let filters = |text: &str| {
            let encoded: String =
                form_urlencoded::Serializer::new(String::new()).append_pair("filters", text).finish();
            Query::parse(&encoded).filters()
        };
        let want = Ok(vec![("label".to_owned(), "a=b".to_owned()), ("name".to_owned(), "x".to_owned())]);
        assert_eq!(filters(r#"{"label":["a=b"],"name":["x"]}"#), want);
        assert_eq!(filters(r#"{"label":{"a=b":true,"c":false},"name":{"x":true}}"#), want);
        assert_eq!(filters("null"), Ok(vec![]));
        for odd in ["{", "[]", r#"{"a":1}"#, r#"{"a":[[]]}"#, r#"{"dangling":["x"]}"#] {
            assert!(filters(odd).is_err(), "{odd}");
        }
    }
}
