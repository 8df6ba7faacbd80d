//! Who a client says he is to registries, what he asks them, and what he hears of a pull and a push.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bulkhead_engine::digest::{DiffId, Digest};
use bulkhead_engine::image::{self, Placed, Progress, Pulled, PushWatcher, Reference, Watcher};
use bulkhead_engine::registry::credentials::server;
use bulkhead_engine::registry::search::{LIMIT, Search};
use bulkhead_engine::registry::{Credentials, Session, Settings};
use bulkhead_engine::store::Layout;
use hyper::header::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::App;
use crate::body::{Lines, Reply, json as answer, read};
use crate::error::Error;
use crate::router::Call;

/// Told at least so many bytes apart.
const STRIDE: u64 = 512 << 10;

/// `X-Registry-Auth`, and the body of `auth`. To Go a letter's case is nothing, and docker-py writes names with capitals
/// where it has them from a credential helper.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    #[serde(alias = "Username")]
    username: String,
    #[serde(alias = "Password")]
    password: String,
    #[serde(alias = "IdentityToken")]
    identitytoken: String,
    #[serde(alias = "ServerAddress")]
    serveraddress: String,
}

impl Said {
    fn credentials(self) -> Option<Credentials> {
        if self.username.is_empty() && self.identitytoken.is_empty() {
            return None;
        }
        let token = Some(self.identitytoken).filter(|token| !token.is_empty());
        Some(Credentials { identity_token: token, ..Credentials::new(self.username, self.password) })
    }
}

/// Base64 as one client or another writes it: of a URL or not, padded or not.
fn decode(text: &str) -> Option<Vec<u8>> {
    let any = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let [of_urls, usual] = [&URL_SAFE, &STANDARD].map(|alphabet| GeneralPurpose::new(alphabet, any));
    of_urls.decode(text).or_else(|_| usual.decode(text)).ok()
}

/// An environment of which nothing is taken but what Docker's daemon takes: proxies.
fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What a line of the head says in base64. What cannot be read says nothing, as in Docker.
fn said<T: DeserializeOwned + Default>(headers: &HeaderMap, name: &str) -> T {
    let text = headers.get(name).and_then(|value| value.to_str().ok()).and_then(decode);
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// A session with a registry as the operator has set it up, for whoever the head says: nobody, when it says nothing.
/// What the server's own user has in a configuration of Docker's client is that user's.
pub fn session(layout: &Layout, headers: &HeaderMap, domain: &str) -> Result<Session, Error> {
    let settings = Settings::load(layout, &lookup)?;
    let said: Said = said(headers, "x-registry-auth");
    let said = said.credentials().and_then(|credentials| Some((server(domain)?.1, credentials)));
    Ok(Session::of(settings, said.into_iter().collect()))
}

/// A session for the pulls of a build, for whoever `X-Registry-Config` says.
pub fn build_session(layout: &Layout, headers: &HeaderMap) -> Result<Session, Error> {
    let settings = Settings::load(layout, &lookup)?;
    let said: HashMap<String, Said> = said(headers, "x-registry-config");
    let said =
        said.into_iter().filter_map(|(address, said)| Some((server(&address)?.1, said.credentials()?)));
    Ok(Session::of(settings, said.collect()))
}

/// `POST /auth`
pub async fn auth(app: &Arc<App>, mut call: Call) -> Result<Reply, Error> {
    let said: Said = read(&mut call.body).await?;
    let invalid = || Error::bad(format!("invalid registry {:?}", said.serveraddress));
    let (domain, _) = server(&said.serveraddress).ok_or_else(invalid)?;
    let credentials = said.credentials().ok_or_else(|| Error::bad("no credentials given"))?;
    let layout = app.settings.layout.clone();
    app.work
        .run(move || {
            let session = Session::of(Settings::load(&layout, &lookup)?, HashMap::new());
            session.login(&domain, &credentials).map_err(Error::of_client)
        })
        .await?;
    answer(&json!({"Status": "Login Succeeded", "IdentityToken": ""}))
}

/// `GET /distribution/NAME/json`
pub async fn distribution(app: &Arc<App>, call: &Call, name: &str) -> Result<Reply, Error> {
    let name = Reference::parse(name).map_err(Error::bad)?;
    let session = session(&app.settings.layout, &call.headers, name.domain())?;
    let found = app
        .work
        .run(move || {
            image::resolve(&session, &name).map_err(|error| match error {
                image::Error::Registry(error) => Error::of_client(error),
                other => other.into(),
            })
        })
        .await?;
    let platforms: Vec<Value> = found
        .platforms
        .into_iter()
        .map(|platform| {
            let mut shown = json!({"architecture": platform.architecture, "os": platform.os});
            if let Some(variant) = platform.variant.filter(|variant| !variant.is_empty()) {
                shown["variant"] = variant.into();
            }
            shown
        })
        .collect();
    answer(&json!({
        "Descriptor": {"mediaType": found.media_type, "digest": found.digest.to_string(), "size": found.size},
        "Platforms": platforms,
    }))
}

/// `GET /images/search`
pub async fn search(app: &Arc<App>, call: &Call) -> Result<Reply, Error> {
    let term = call.query.get("term").ok_or_else(|| Error::bad("no term given"))?;
    let limit = call.query.number("limit")?.filter(|limit| *limit != 0).unwrap_or(LIMIT);
    let search = Search::new(term, limit, &call.query.filters()?).map_err(Error::bad)?;
    let session = session(&app.settings.layout, &call.headers, search.domain())?;
    let found = app.work.run(move || Ok(search.run(&session)?)).await?;
    let rows: Vec<Value> = found
        .into_iter()
        .map(|one| {
            json!({
                "name": one.name, "description": one.description, "star_count": one.stars,
                "is_official": one.official, "is_automated": false,
            })
        })
        .collect();
    answer(&rows)
}

/// The last line of a pull.
pub fn outcome(name: &Reference, newer: bool) -> Value {
    let status = if newer { "Downloaded newer image for" } else { "Image is up to date for" };
    json!({"status": format!("Status: {status} {}", name.familiar())})
}

/// How much of a blob is through.
#[derive(Debug, Clone, Copy)]
struct Through {
    bytes: u64,
    /// Of which the client has been told.
    told: u64,
    /// `None` where nobody knows.
    of: Option<u64>,
}

/// Tells a client of a pull or a push. Calls come from several threads.
pub struct Teller<'l, 'o> {
    lines: &'l Lines<'o>,
    under_way: Mutex<HashMap<String, Through>>,
    /// The blob of each layer.
    blobs: Mutex<HashMap<DiffId, Digest>>,
    name: Reference,
}

impl<'l, 'o> Teller<'l, 'o> {
    /// For one name.
    pub fn new(lines: &'l Lines<'o>, name: &Reference) -> Self {
        Self { lines, under_way: Mutex::default(), blobs: Mutex::default(), name: name.clone() }
    }

    /// A line that is about everything.
    pub fn status(&self, text: &str) {
        self.lines.tell(&json!({"status": text}));
    }

    /// What the name stands for.
    pub fn digest(&self, pulled: &Pulled) {
        self.status(&format!("Digest: {}", pulled.digest));
    }

    /// The last lines of a pull that was about this name alone.
    pub fn end(&self, pulled: &Pulled) {
        self.digest(pulled);
        self.lines.tell(&outcome(&self.name, pulled.newer));
    }

    fn of(&self, id: &str, status: &str) {
        self.lines.tell(&json!({"status": status, "progressDetail": {}, "id": id}));
    }

    fn id(&self, layer: &DiffId) -> String {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.get(layer).unwrap_or(&layer.0).short()
    }

    fn begun(&self, id: &str, of: Option<u64>) {
        let mut all = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id.to_owned(), Through { bytes: 0, told: 0, of });
    }

    fn advanced(&self, id: &str, bytes: u64, status: &str) {
        let mut all = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(through) = all.get_mut(id) else { return };
        through.bytes += bytes;
        let last = through.of.is_some_and(|all| through.bytes >= all);
        let more = through.bytes - through.told;
        if more == 0 || (more < STRIDE && !last) {
            return;
        }
        through.told = through.bytes;
        let Through { bytes: now, of, .. } = *through;
        drop(all);
        let shown = |bytes: u64| bulkhead_engine::build::bytes(bytes);
        let mut detail = json!({"current": now});
        let mut progress = shown(now);
        if let Some(all) = of {
            detail["total"] = all.into();
            progress = format!("{progress}/{}", shown(all));
        }
        self.lines.tell(&json!({"status": status, "progressDetail": detail, "progress": progress, "id": id}));
    }
}

impl Progress for Teller<'_, '_> {
    fn begin(&self, layer: &DiffId, bytes: Option<u64>) {
        let id = self.id(layer);
        self.of(&id, "Pulling fs layer");
        self.begun(&id, bytes);
    }

    fn advance(&self, layer: &DiffId, bytes: u64) {
        self.advanced(&self.id(layer), bytes, "Downloading");
    }

    fn done(&self, layer: &DiffId, reused: bool) {
        self.of(&self.id(layer), if reused { "Already exists" } else { "Pull complete" });
    }
}

impl Watcher for Teller<'_, '_> {
    fn layers(&self, layers: &[(DiffId, Digest, u64)]) {
        let of = self.name.digest().map(|digest| digest.to_string());
        let of = of.as_deref().or(self.name.tag()).unwrap_or("latest");
        self.lines.tell(&json!({"status": format!("Pulling from {}", self.name.path()), "id": of}));
        *self.blobs.lock().unwrap_or_else(PoisonError::into_inner) =
            layers.iter().map(|(diff_id, digest, _)| (*diff_id, *digest)).collect();
    }
}

/// The same of a push, in which a layer is called by its tar.
pub struct Sender<'t, 'l, 'o>(pub &'t Teller<'l, 'o>);

impl PushWatcher for Sender<'_, '_, '_> {
    fn layers(&self, layers: &[DiffId]) {
        for layer in layers.iter().rev() {
            self.0.of(&layer.0.short(), "Preparing");
        }
    }

    fn packing(&self, layer: &DiffId) {
        self.0.of(&layer.0.short(), "Compressing");
    }

    fn begin(&self, layer: &DiffId, bytes: u64) {
        self.0.begun(&layer.0.short(), Some(bytes));
    }

    fn advance(&self, layer: &DiffId, bytes: u64) {
        self.0.advanced(&layer.0.short(), bytes, "Pushing");
    }

    fn done(&self, layer: &DiffId, how: &Placed) {
        let status = match how {
            Placed::Exists => "Layer already exists".to_owned(),
            Placed::Mounted(from) => format!("Mounted from {from}"),
            Placed::Sent => "Pushed".to_owned(),
        };
        self.0.of(&layer.0.short(), &status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_every_spelling() {
        for text in [
            r#"{"username": "ann", "password": "secret", "serveraddress": "reg.example"}"#,
            r#"{"Username": "ann", "Password": "secret", "ServerAddress": "reg.example"}"#,
        ] {
            let said: Said = serde_json::from_str(text).expect("JSON");
            assert_eq!(said.credentials(), Some(Credentials::new("ann", "secret")), "{text}");
        }
        let said: Said = serde_json::from_str(r#"{"IdentityToken": "t"}"#).expect("JSON");
        assert_eq!(said.credentials().and_then(|said| said.identity_token).as_deref(), Some("t"));
        assert_eq!(Said::default().credentials(), None);
    }

    #[test]
    fn credentials_in_every_alphabet() {
        let text = br#"{"username":"a?>","password":"b"}"#;
        for engine in [
            base64::engine::general_purpose::STANDARD,
            base64::engine::general_purpose::URL_SAFE,
            base64::engine::general_purpose::URL_SAFE_NO_PAD,
        ] {
            assert_eq!(decode(&engine.encode(text)).as_deref(), Some(&text[..]));
        }
        assert_eq!(decode("{}"), None);
    }
}
