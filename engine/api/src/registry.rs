//! Whom a client says he is to registries, and what he hears of a pull and a push.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bulkhead_engine::digest::{DiffId, Digest};
use bulkhead_engine::image::{Placed, Progress, PushWatcher, Reference, Watcher};
use bulkhead_engine::registry::credentials::HUB;
use bulkhead_engine::registry::{Credentials, DockerConfig, Session, Settings};
use bulkhead_engine::store::Layout;
use hyper::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::body::{Output, Reply, json as answer, read};
use crate::error::Error;
use crate::router::Call;

/// Told at least so many bytes apart.
const STRIDE: u64 = 512 << 10;

/// `X-Registry-Auth`, and the body of `auth`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    username: String,
    password: String,
    identitytoken: String,
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

/// The host that a server's address is about, and the name credentials are kept under.
fn server(address: &str) -> (String, String) {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or_default();
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            ("docker.io".to_owned(), HUB.to_owned())
        }
        host => (host.to_owned(), host.to_owned()),
    }
}

/// An environment of which nothing is taken but what Docker's daemon takes: proxies.
fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A session with a registry as the operator has set it up, for whoever the head says.
pub fn session(layout: &Layout, headers: &HeaderMap, domain: &str) -> Result<Session, Error> {
    let settings = Settings::load(layout, &lookup)?;
    let config = DockerConfig::load(&lookup).map_err(Error::internal)?;
    let header = headers.get("x-registry-auth").and_then(|value| value.to_str().ok()).unwrap_or_default();
    // What cannot be read is nobody, as in Docker.
    let said: Said = decode(header).and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let (_, server) = self::server(domain);
    let said = said.credentials().map(|credentials| (server, credentials));
    Ok(Session::of(settings, config, said.into_iter().collect()))
}

/// A session for the pulls of a build, for whoever `X-Registry-Config` says.
pub fn build_session(layout: &Layout, headers: &HeaderMap) -> Result<Session, Error> {
    let settings = Settings::load(layout, &lookup)?;
    let config = DockerConfig::load(&lookup).map_err(Error::internal)?;
    let header = headers.get("x-registry-config").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let said: HashMap<String, Said> =
        decode(header).and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let said = said.into_iter().filter_map(|(address, said)| Some((server(&address).1, said.credentials()?)));
    Ok(Session::of(settings, config, said.collect()))
}

/// `POST /auth`
pub async fn auth(app: &Arc<App>, mut call: Call) -> Result<Reply, Error> {
    let said: Said = read(&mut call.body).await?;
    let (domain, _) = server(&said.serveraddress);
    if domain.contains(['@', '?', '#']) || domain.contains(char::is_whitespace) {
        return Err(Error::bad(format!("invalid registry {domain:?}")));
    }
    let credentials = said.credentials().ok_or_else(|| Error::bad("no credentials given"))?;
    let layout = app.settings.layout.clone();
    app.work
        .run(move || {
            let settings = Settings::load(&layout, &lookup)?;
            let config = DockerConfig::load(&lookup).map_err(Error::internal)?;
            Session::new(settings, config).login(&domain, &credentials).map_err(|error| Error {
                status: hyper::StatusCode::UNAUTHORIZED,
                message: error.to_string(),
            })
        })
        .await?;
    answer(&json!({"Status": "Login Succeeded", "IdentityToken": ""}))
}

/// Tells a client of a pull or a push, in lines of JSON. Calls come from several threads.
pub struct Teller<'o> {
    output: Mutex<&'o mut Output>,
    /// Of each thing that is under way: its name, bytes, bytes told, all bytes.
    under_way: Mutex<HashMap<String, (u64, u64, u64)>>,
    /// The blob of each layer.
    blobs: Mutex<HashMap<DiffId, Digest>>,
    name: Reference,
}

impl<'o> Teller<'o> {
    /// For one name.
    pub fn new(output: &'o mut Output, name: &Reference) -> Self {
        Self {
            output: Mutex::new(output),
            under_way: Mutex::default(),
            blobs: Mutex::default(),
            name: name.clone(),
        }
    }

    fn tell(&self, value: &Value) {
        // A client that has gone does not end a pull that others may wait for.
        let _: io::Result<()> = self.output.lock().unwrap_or_else(PoisonError::into_inner).line(value);
    }

    /// A line that is about everything.
    pub fn status(&self, text: &str) {
        self.tell(&json!({"status": text}));
    }

    fn of(&self, id: &str, status: &str) {
        self.tell(&json!({"status": status, "progressDetail": {}, "id": id}));
    }

    fn id(&self, layer: &DiffId) -> String {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.get(layer).unwrap_or(&layer.0).short()
    }

    fn begun(&self, id: &str, bytes: u64) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), (0, 0, bytes));
    }

    fn advanced(&self, id: &str, bytes: u64, status: &str) {
        let mut all = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((now, told, total)) = all.get_mut(id) else { return };
        *now += bytes;
        if *now - *told < STRIDE && *now < *total {
            return;
        }
        *told = *now;
        let (now, total) = (*now, *total);
        drop(all);
        let of = |bytes: u64| bulkhead_engine::build::solve::bytes(bytes);
        let progress = format!("{}/{}", of(now), of(total));
        self.tell(&json!({
            "status": status, "progressDetail": {"current": now, "total": total}, "progress": progress, "id": id,
        }));
    }
}

impl Progress for Teller<'_> {
    fn begin(&self, layer: &DiffId, bytes: Option<u64>) {
        self.begun(&self.id(layer), bytes.unwrap_or(0));
    }

    fn advance(&self, layer: &DiffId, bytes: u64) {
        self.advanced(&self.id(layer), bytes, "Downloading");
    }

    fn done(&self, layer: &DiffId, reused: bool) {
        self.of(&self.id(layer), if reused { "Already exists" } else { "Pull complete" });
    }
}

impl Watcher for Teller<'_> {
    fn layers(&self, layers: &[(DiffId, Digest, u64)]) {
        let of = self.name.digest().map(|digest| digest.to_string());
        let of = of.as_deref().or(self.name.tag()).unwrap_or("latest");
        self.tell(&json!({"status": format!("Pulling from {}", self.name.path()), "id": of}));
        *self.blobs.lock().unwrap_or_else(PoisonError::into_inner) =
            layers.iter().map(|(diff_id, digest, _)| (*diff_id, *digest)).collect();
        for (_, digest, _) in layers {
            self.of(&digest.short(), "Pulling fs layer");
        }
    }
}

/// The same of a push, in which a layer is called by its tar.
pub struct Sender<'t, 'o>(pub &'t Teller<'o>);

impl PushWatcher for Sender<'_, '_> {
    fn layers(&self, layers: &[DiffId]) {
        for layer in layers.iter().rev() {
            self.0.of(&layer.0.short(), "Preparing");
        }
    }

    fn packing(&self, layer: &DiffId) {
        self.0.of(&layer.0.short(), "Compressing");
    }

    fn begin(&self, layer: &DiffId, bytes: u64) {
        self.0.begun(&layer.0.short(), bytes);
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

    #[test]
    fn a_server_is_its_host() {
        assert_eq!(
            server("https://reg.example:5000/v2/"),
            ("reg.example:5000".into(), "reg.example:5000".into())
        );
        assert_eq!(server("https://index.docker.io/v1/"), ("docker.io".into(), HUB.into()));
    }
}
