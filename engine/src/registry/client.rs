//! What is asked of a registry: manifests, blobs, tags, uploads, in the words of the OCI's distribution
//! specification.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::{Body, BodyReader};

use super::auth::{self, Authority, Challenge, encode};
use super::credentials::{self, Credentials, DockerConfig, HUB};
use super::http::{Http, Origin, Outgoing, Payload, Trust, complaint, join, location, printable, spelled};
use super::{Again, Error, Settings};
use crate::digest::Digest;

/// The registry of names that give none, and where it really is.
const HUB_DOMAIN: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
/// Where Docker Hub is searched.
const HUB_INDEX: &str = "index.docker.io";
/// Times that something is tried again, as long as nothing comes of it.
const TRIES: u32 = 5;
/// The first pause between tries; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes that must have come for a broken transfer to count as one that gets on.
const PROGRESS: u64 = 1 << 20;
/// Bytes in a second below which, on the average, a file that is fetched by its address is not waited for.
const PACE: u64 = 16 << 10;
/// Pages of a list of tags.
const PAGES: usize = 1000;

/// The manifests we understand, and the two whose refusal we word ourselves.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws, \
     application/vnd.docker.distribution.manifest.v1+json, application/json";

/// What a session knows credentials by.
type Lookup = Box<dyn Fn(&str) -> Result<Option<Credentials>, credentials::Error> + Send + Sync>;

/// One command's dealings with registries.
pub struct Session {
    http: Http,
    lookup: Lookup,
    known: Mutex<HashMap<String, Option<Credentials>>>,
    authorities: Mutex<HashMap<Origin, Arc<Authority>>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("http", &self.http).finish_non_exhaustive()
    }
}

/// A place where a registry may be: itself, or a mirror of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `HTTPS://HOST`, if the scheme is given.
    fixed: Option<String>,
    /// Host and port.
    host: String,
    /// What its credentials are kept under.
    server: String,
}

impl Endpoint {
    /// Of the registry with this domain.
    pub fn of(domain: &str) -> Self {
        let hub = domain == HUB_DOMAIN;
        Self {
            fixed: None,
            host: if hub { HUB_HOST } else { domain }.to_owned(),
            server: if hub { HUB } else { domain }.to_owned(),
        }
    }
}

/// A manifest as it came.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// What the server calls it.
    pub content_type: String,
}

impl Session {
    /// A session that takes its credentials from Docker's configuration.
    pub fn new(settings: Settings, config: DockerConfig) -> Self {
        Self::with_credentials(settings, Box::new(move |server| config.get(server)))
    }

    /// A session of somebody who says who he is: his credentials by server.
    pub fn of(settings: Settings, said: HashMap<String, Credentials>) -> Self {
        Self::with_credentials(settings, Box::new(move |server| Ok(said.get(server).cloned())))
    }

    fn with_credentials(settings: Settings, lookup: Lookup) -> Self {
        Self { http: Http::new(settings), lookup, known: Mutex::default(), authorities: Mutex::default() }
    }

    /// Fetches what an address leads to, whoever's it is, and writes it. Returns its time in seconds where the
    /// server says. How much of it there may be is for the writer to say, who ends it with an error; one that sends a byte
    /// now and then is given up here.
    pub fn download(&self, url: &str, to: &mut dyn std::io::Write) -> Result<Option<i64>, Error> {
        let outgoing =
            Outgoing { method: "GET", url: url.to_owned(), headers: Vec::new(), payload: Payload::None };
        let response = self.http.send(&outgoing)?;
        if response.status().as_u16() != 200 {
            let status = response.status().to_string();
            return Err(Error::Status { method: "Get", url: url.to_owned(), status, message: String::new() });
        }
        let time = response.headers().get(header::LAST_MODIFIED).and_then(|text| text.to_str().ok());
        let time =
            time.and_then(|text| jiff::fmt::rfc2822::parse(text).ok()).map(|at| at.timestamp().as_second());
        self.http.receive(url, response, u64::MAX, PACE, |piece| to.write_all(piece))?;
        Ok(time)
    }

    /// What the operator says.
    pub fn settings(&self) -> &Settings {
        self.http.settings()
    }

    /// Where to look for what a domain has: its mirrors, then itself.
    pub fn endpoints(&self, domain: &str) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        if domain == HUB_DOMAIN {
            endpoints.extend(self.settings().mirrors.iter().map(|mirror| {
                let host = mirror.split("://").nth(1).unwrap_or_default().to_owned();
                Endpoint { fixed: Some(mirror.clone()), server: host.clone(), host }
            }));
        }
        endpoints.push(Endpoint::of(domain));
        endpoints
    }

    fn credentials(&self, server: &str) -> Result<Option<Credentials>, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(server) {
            return Ok(found.clone());
        }
        let found = (self.lookup)(server)?;
        known.insert(server.to_owned(), found.clone());
        Ok(found)
    }

    /// Finds out how a registry is spoken to, and what it wants first.
    fn ping(&self, endpoint: &Endpoint) -> Result<(Origin, Arc<Authority>), Error> {
        let schemes: &[bool] = match (&endpoint.fixed, self.http.trust(&endpoint.host)) {
            (Some(url), _) if url.starts_with("https:") => &[true],
            (Some(_), _) => &[false],
            (None, Trust::Checked) => &[true],
            // One that is not trusted anyway may have no TLS at all.
            (None, Trust::Any) => &[true, false],
        };
        let mut failure = None;
        for https in schemes {
            let origin = Origin { https: *https, domain: endpoint.host.to_ascii_lowercase() };
            {
                let authorities = self.authorities.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(authority) = authorities.get(&origin) {
                    return Ok((origin, Arc::clone(authority)));
                }
            }
            let outgoing = Outgoing {
                method: "GET",
                url: format!("{origin}/v2/"),
                headers: Vec::new(),
                payload: Payload::None,
            };
            match self.http.send(&outgoing) {
                Ok(response) => {
                    let authority = Arc::new(Authority::default());
                    if response.status().as_u16() == 401
                        && let Some(challenge) = auth::challenge(challenges(&response))
                    {
                        authority.learn(challenge);
                    }
                    let mut authorities = self.authorities.lock().unwrap_or_else(PoisonError::into_inner);
                    authorities.insert(origin.clone(), Arc::clone(&authority));
                    return Ok((origin, authority));
                }
                Err(error @ Error::Transport { again: Again::Tls, .. }) => return Err(error),
                Err(error @ Error::Transport { .. }) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or(Error::Cancelled))
    }

    /// A repository, to read from and, if `write`, to write to.
    pub fn repository(&self, endpoint: &Endpoint, path: &str, write: bool) -> Result<Repository<'_>, Error> {
        let (origin, authority) = self.ping(endpoint)?;
        let actions = if write { "pull,push" } else { "pull" };
        Ok(Repository {
            session: self,
            origin,
            authority,
            server: endpoint.server.clone(),
            path: path.to_owned(),
            cancelled: AtomicBool::new(false),
            scopes: vec![format!("repository:{path}:{actions}")],
        })
    }

    /// Whether a registry takes these credentials.
    pub fn login(&self, domain: &str, credentials: &Credentials) -> Result<(), Error> {
        let endpoint = Endpoint::of(domain);
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(endpoint.server.clone(), Some(credentials.clone()));
        let mut repository = self.repository(&endpoint, "", false)?;
        repository.scopes.clear();
        let url = format!("{}/v2/", repository.origin);
        let outgoing = Outgoing { method: "GET", url, headers: Vec::new(), payload: Payload::None };
        let response = repository.request(&outgoing)?;
        if response.status().is_success() { Ok(()) } else { Err(repository.refusal("GET", "", response)) }
    }
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The repository, as it is pulled.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// How many people like it.
    pub stars: u64,
    /// Whether Docker Hub's own people look after it.
    pub official: bool,
}

impl Session {
    /// Asks a registry for repositories.
    ///
    /// Docker's way, `/v1/search`, is Docker Hub's; other registries have lost it with the rest of that protocol.
    /// Of those that have, the catalogue is gone through for names with the term in them.
    pub(super) fn search(&self, domain: &str, term: &str, limit: usize) -> Result<Vec<Found>, Error> {
        #[derive(serde::Deserialize)]
        struct Answer {
            #[serde(default)]
            results: Option<Vec<Hit>>,
        }
        #[derive(serde::Deserialize)]
        struct Hit {
            name: String,
            #[serde(default)]
            description: Option<String>,
            #[serde(default)]
            star_count: u64,
            #[serde(default)]
            is_official: bool,
        }
        let hub = domain == HUB_DOMAIN;
        let mut endpoint = Endpoint::of(domain);
        if hub {
            HUB_INDEX.clone_into(&mut endpoint.host);
        }
        let mut repository = self.repository(&endpoint, "", false)?;
        repository.scopes.clear();
        let query = encode(&[("q", term), ("n", &limit.to_string())]);
        let url = format!("{}/v1/search?{query}", repository.origin);
        let outgoing =
            Outgoing { method: "GET", url: url.clone(), headers: Vec::new(), payload: Payload::None };
        let response = patiently(|| repository.request(&outgoing))?;
        match response.status().as_u16() {
            200 => {}
            404 | 405 if !hub => return repository.search_catalogue(domain, term, limit),
            code => {
                let (method, status) = ("Get", response.status().to_string());
                let message = format!("Unexpected status code {code}");
                return Err(Error::Status { method, url, status, message });
            }
        }
        let bytes = self.http.document(&url, response)?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Document { what: url, reason: error.to_string() })?;
        let hits = answer.results.unwrap_or_default().into_iter().take(limit);
        Ok(hits
            .map(|hit| Found {
                name: printable(&hit.name),
                description: printable(&hit.description.unwrap_or_default()),
                stars: hit.star_count,
                official: hit.is_official,
            })
            .collect())
    }
}

impl Repository<'_> {
    fn search_catalogue(mut self, domain: &str, term: &str, limit: usize) -> Result<Vec<Found>, Error> {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            repositories: Option<Vec<String>>,
        }
        self.scopes = vec!["registry:catalog:*".to_owned()];
        let mut url = format!("{}/v2/_catalog", self.origin);
        let mut found = Vec::new();
        for _ in 0..PAGES {
            let outgoing =
                Outgoing { method: "GET", url: url.clone(), headers: Vec::new(), payload: Payload::None };
            let response = patiently(|| self.request(&outgoing))?;
            if response.status().as_u16() != 200 {
                return Err(self.refusal("GET", "_catalog", response));
            }
            let next = response.headers().get(header::LINK).and_then(|value| next_page(value.to_str().ok()?));
            let next = next.and_then(|next| join(&url, &next));
            let bytes = self.session.http.document(&url, response)?;
            let page: Page = serde_json::from_slice(&bytes)
                .map_err(|error| Error::Document { what: url.clone(), reason: error.to_string() })?;
            let names = page.repositories.unwrap_or_default().into_iter().filter(|name| name.contains(term));
            found.extend(names.map(|name| Found {
                name: printable(&format!("{domain}/{name}")),
                description: String::new(),
                stars: 0,
                official: false,
            }));
            match next.filter(|next| Origin::of(next).as_ref() == Some(&self.origin)) {
                Some(next) if found.len() < limit => url = next,
                _ => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

/// The values of `WWW-Authenticate`.
fn challenges(response: &Response<Body>) -> impl Iterator<Item = &str> {
    response.headers().get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok())
}

/// Does something again when the connection broke meanwhile.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match attempt() {
            Err(error) if error.is_transient() => std::thread::sleep(pause),
            done => return done,
        }
        pause *= 2;
    }
    attempt()
}

/// A repository of a registry.
#[derive(Debug)]
pub struct Repository<'s> {
    session: &'s Session,
    origin: Origin,
    authority: Arc<Authority>,
    server: String,
    path: String,
    scopes: Vec<String>,
    cancelled: AtomicBool,
}

/// What a blob is sent from.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// A file, and somebody who hears how many more bytes of it have gone.
    File(&'a File, u64, &'a (dyn Fn(u64) + Sync)),
    /// These bytes.
    Bytes(&'a [u8]),
}

impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(_, size, _) => f.debug_tuple("File").field(size).finish(),
            Self::Bytes(bytes) => f.debug_tuple("Bytes").field(&bytes.len()).finish(),
        }
    }
}

impl Repository<'_> {
    /// Its path in the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Ends what other threads are waiting for, and lets nothing new begin.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.session.http.shutdown();
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn url(&self, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.origin, self.path)
    }

    /// Sends a request with whatever the registry wants beside it.
    fn request(&self, outgoing: &Outgoing<'_>) -> Result<Response<Body>, Error> {
        self.request_for(outgoing, &self.scopes)
    }

    fn request_for(&self, outgoing: &Outgoing<'_>, scopes: &[String]) -> Result<Response<Body>, Error> {
        let session = self.session;
        if self.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let at_home = Origin::of(&outgoing.url).is_some_and(|origin| origin == self.origin);
        if !at_home {
            // An upload that the registry wants elsewhere brings its permission in its address.
            return session.http.send(outgoing);
        }
        let mut scopes = scopes.to_vec();
        let mut fresh = false;
        loop {
            let wanted = self.authority.needs_credentials();
            let credentials = if wanted { session.credentials(&self.server)? } else { None };
            let header =
                self.authority.header(&session.http, &self.origin, credentials.as_ref(), &scopes, fresh)?;
            let mut with = outgoing.clone();
            let sent = header.is_some();
            with.headers.extend(header.map(|value| ("Authorization", value)));
            let response = session.http.send(&with)?;
            if response.status().as_u16() != 401 {
                return Ok(response);
            }
            let (method, url) = (spelled(outgoing.method), outgoing.url.clone());
            let challenge = auth::challenge(challenges(&response));
            let again = match &challenge {
                Some(Challenge::Basic) if !sent => {
                    if session.credentials(&self.server)?.is_none() {
                        return Err(Error::NoCredentials { method, url });
                    }
                    true
                }
                Some(Challenge::Bearer { .. }) => !fresh,
                _ => false,
            };
            if !again {
                let (_, message) = complaint(response);
                let message = if message.is_empty() { "authentication required".to_owned() } else { message };
                return Err(Error::Unauthorized { method, url, message });
            }
            if let Some(challenge) = challenge {
                if let Challenge::Bearer { scope: Some(scope), .. } = &challenge {
                    for one in scope.split(' ').filter(|one| !one.is_empty()) {
                        if !scopes.iter().any(|known| known == one) {
                            scopes.push(one.to_owned());
                        }
                    }
                }
                self.authority.learn(challenge);
            }
            // A token that has expired on the way, or was for something less.
            fresh = true;
        }
    }

    /// What an answer that is none of the good ones means.
    fn refusal(&self, method: &str, rest: &str, response: Response<Body>) -> Error {
        let status = response.status();
        let (code, message) = complaint(response);
        let url = self.url(rest);
        match (status.as_u16(), code.as_deref()) {
            (401, _) => Error::Unauthorized {
                method: spelled(method),
                url,
                message: if message.is_empty() { "authentication required".to_owned() } else { message },
            },
            (500.., _) | (_, None) => {
                Error::Status { method: spelled(method), url, status: status.to_string(), message }
            }
            (_, Some(code)) => {
                let code: String = code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                Error::Refused { code: code.to_ascii_lowercase().replace('_', " "), message }
            }
        }
    }

    /// The manifest of a tag or a digest. `shown` is how the whole name is written in refusals.
    pub fn manifest(&self, which: &str, shown: &str, familiar: &str) -> Result<Manifest, Error> {
        let outgoing = Outgoing {
            method: "GET",
            url: self.url(&format!("manifests/{which}")),
            headers: vec![("Accept", ACCEPT.to_owned())],
            payload: Payload::None,
        };
        let what = format!("manifest of {shown}");
        patiently(|| {
            let response = match self.request(&outgoing) {
                Ok(response) => response,
                Err(Error::Unauthorized { message, .. }) => {
                    let message = format!("unauthorized: {message}");
                    return Err(Error::Denied { name: familiar.to_owned(), message });
                }
                Err(error) => return Err(error),
            };
            match response.status().as_u16() {
                200 => {}
                404 => {
                    let (code, message) = complaint(response);
                    if code.as_deref() == Some("NAME_UNKNOWN") {
                        return Err(Error::Denied { name: familiar.to_owned(), message });
                    }
                    let message = if message.is_empty() { "manifest unknown".to_owned() } else { message };
                    return Err(Error::ManifestUnknown { reference: shown.to_owned(), message });
                }
                403 => {
                    let (code, message) = complaint(response);
                    let code = code.unwrap_or_else(|| "denied".to_owned()).to_ascii_lowercase();
                    let message = if message.is_empty() { code } else { format!("{code}: {message}") };
                    return Err(Error::Denied { name: familiar.to_owned(), message });
                }
                _ => return Err(self.refusal("GET", &format!("manifests/{which}"), response)),
            }
            let text = |name: &str| {
                let value = response.headers().get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let content_type =
                text("content-type").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            let claimed = text("docker-content-digest").parse::<Digest>().ok();
            let bytes = self.session.http.document(&what, response)?;
            let digest = Digest::of(&bytes);
            if let Some(expected) = which.parse::<Digest>().ok().or(claimed)
                && expected != digest
            {
                return Err(Error::Mismatch { what: what.clone(), expected, actual: digest });
            }
            Ok(Manifest { bytes, digest, content_type })
        })
    }

    /// A small blob as a whole, checked: a configuration.
    pub fn document(&self, what: &str, digest: &Digest, size: u64) -> Result<Vec<u8>, Error> {
        if size > super::MAX_DOCUMENT {
            return Err(Error::TooLong { what: what.to_owned(), limit: super::MAX_DOCUMENT });
        }
        let mut bytes = Vec::new();
        let mut blob = self.blob(what, *digest, size);
        blob.read_to_end(&mut bytes).map_err(|error| match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => self.session.http.broken(&blob.url(), error),
        })?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(Error::Mismatch { what: what.to_owned(), expected: *digest, actual });
        }
        Ok(bytes)
    }

    /// A blob, as a stream that begins with the first read. It is not checked against its digest.
    pub fn blob(&self, what: &str, digest: Digest, size: u64) -> Blob<'_> {
        Blob {
            repository: self,
            what: what.to_owned(),
            digest,
            size,
            at: 0,
            skip: 0,
            body: None,
            exact: false,
            tries: 0,
            mark: 0,
        }
    }

    /// All tags.
    pub fn tags(&self, familiar: &str) -> Result<Vec<String>, Error> {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut all: Vec<String> = Vec::new();
        let mut url = self.url("tags/list");
        for _ in 0..PAGES {
            let outgoing =
                Outgoing { method: "GET", url: url.clone(), headers: Vec::new(), payload: Payload::None };
            let response = match patiently(|| self.request(&outgoing)) {
                Err(Error::Unauthorized { message, .. }) => {
                    return Err(Error::Denied { name: familiar.to_owned(), message });
                }
                other => other?,
            };
            match response.status().as_u16() {
                200 => {}
                403 | 404 => {
                    return Err(Error::Denied { name: familiar.to_owned(), message: complaint(response).1 });
                }
                _ => return Err(self.refusal("GET", "tags/list", response)),
            }
            let next = response.headers().get(header::LINK).and_then(|value| next_page(value.to_str().ok()?));
            let next = next.and_then(|next| join(&url, &next));
            let bytes = self.session.http.document(&url, response)?;
            let page: Page = serde_json::from_slice(&bytes)
                .map_err(|error| Error::Document { what: url.clone(), reason: error.to_string() })?;
            all.extend(page.tags.unwrap_or_default());
            match next.filter(|next| Origin::of(next).as_ref() == Some(&self.origin)) {
                Some(next) => url = next,
                None => break,
            }
        }
        Ok(all)
    }

    /// Whether the repository has a blob.
    pub fn has(&self, digest: &Digest) -> Result<bool, Error> {
        let rest = format!("blobs/{digest}");
        let outgoing =
            Outgoing { method: "HEAD", url: self.url(&rest), headers: Vec::new(), payload: Payload::None };
        patiently(|| {
            let response = self.request(&outgoing)?;
            match response.status().as_u16() {
                200 => Ok(true),
                404 => Ok(false),
                _ => Err(self.refusal("HEAD", &rest, response)),
            }
        })
    }

    /// Whether the registry will take a blob that it has in its repository `from`.
    pub fn mount(&self, digest: &Digest, from: &str) -> Result<bool, Error> {
        Ok(self.begin(Some((digest, from)))?.is_none())
    }

    /// Sends a blob.
    pub fn send(&self, digest: &Digest, content: Content<'_>) -> Result<(), Error> {
        patiently(|| {
            let Some(to) = self.begin(None)? else {
                return Err(Error::Document {
                    what: self.url("blobs/uploads/"),
                    reason: "no address to send the blob to".to_owned(),
                });
            };
            let joint = if to.contains('?') { '&' } else { '?' };
            let outgoing = Outgoing {
                method: "PUT",
                url: format!("{to}{joint}{}", encode(&[("digest", &digest.to_string())])),
                headers: vec![("Content-Type", "application/octet-stream".to_owned())],
                payload: match content {
                    Content::File(file, size, sent) => Payload::File { file, size, sent },
                    Content::Bytes(bytes) => Payload::Bytes(bytes),
                },
            };
            let response = self.request(&outgoing)?;
            match response.status().as_u16() {
                201 | 204 => Ok(()),
                _ => Err(self.refusal("PUT", "blobs/uploads/", response)),
            }
        })
    }

    /// Opens an upload; `None` if the blob could be mounted and there is nothing to send.
    fn begin(&self, mount: Option<(&Digest, &str)>) -> Result<Option<String>, Error> {
        let mut url = self.url("blobs/uploads/");
        let mut scopes = self.scopes.clone();
        if let Some((digest, from)) = mount {
            url = format!("{url}?{}", encode(&[("mount", &digest.to_string()), ("from", from)]));
            scopes.push(format!("repository:{from}:pull"));
        }
        let outgoing =
            Outgoing { method: "POST", url: url.clone(), headers: Vec::new(), payload: Payload::Bytes(b"") };
        let response = patiently(|| self.request_for(&outgoing, &scopes))?;
        match response.status().as_u16() {
            201 if mount.is_some() => Ok(None),
            202 => {
                let to = location(&response).and_then(|to| join(&url, &to)).ok_or_else(|| {
                    Error::Document { what: url.clone(), reason: "no address to send the blob to".to_owned() }
                })?;
                if self.origin.https && Origin::of(&to).is_none_or(|origin| !origin.https) {
                    return Err(Error::Elsewhere {
                        method: "Post",
                        url,
                        what: "upload to",
                        to,
                        why: "it leaves HTTPS",
                    });
                }
                if mount.is_some() {
                    self.abandon(&to);
                }
                Ok(Some(to))
            }
            _ => Err(self.refusal("POST", "blobs/uploads/", response)),
        }
    }

    /// An upload that was opened because a mount did not work is not needed.
    fn abandon(&self, to: &str) {
        let outgoing =
            Outgoing { method: "DELETE", url: to.to_owned(), headers: Vec::new(), payload: Payload::None };
        // The registry forgets it by itself, in time.
        let _ = self.request(&outgoing);
    }

    /// Puts a manifest under a tag or digest.
    pub fn put_manifest(&self, which: &str, content_type: &str, bytes: &[u8]) -> Result<(), Error> {
        let rest = format!("manifests/{which}");
        let outgoing = Outgoing {
            method: "PUT",
            url: self.url(&rest),
            headers: vec![("Content-Type", content_type.to_owned())],
            payload: Payload::Bytes(bytes),
        };
        patiently(|| {
            let response = self.request(&outgoing)?;
            match response.status().as_u16() {
                200..=299 => Ok(()),
                _ => Err(self.refusal("PUT", &rest, response)),
            }
        })
    }
}

/// The address in `<…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    (rest.contains("rel=\"next\"") || rest.contains("rel=next")).then(|| address.to_owned())
}

/// A blob on its way here. When the connection breaks, it goes on where it stopped.
#[derive(Debug)]
pub struct Blob<'r> {
    repository: &'r Repository<'r>,
    what: String,
    digest: Digest,
    size: u64,
    at: u64,
    /// Bytes to pass over, because the server began anew.
    skip: u64,
    body: Option<Reader>,
    /// The server has said how much it sends.
    exact: bool,
    tries: u32,
    /// Where the last break was.
    mark: u64,
}

struct Reader(BodyReader<'static>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Blob<'_> {
    fn url(&self) -> String {
        self.repository.url(&format!("blobs/{}", self.digest))
    }

    /// Asks for what is still missing.
    fn connect(&mut self) -> Result<(), Error> {
        let mut headers = Vec::new();
        if self.at > 0 {
            headers.push(("Range", format!("bytes={}-", self.at)));
        }
        let outgoing = Outgoing { method: "GET", url: self.url(), headers, payload: Payload::None };
        let response = self.repository.request(&outgoing)?;
        let from = match response.status().as_u16() {
            200 => 0,
            206 => {
                let range =
                    response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
                let start = range
                    .and_then(|r: &str| r.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
                if start != Some(self.at) {
                    let reason = format!("asked for bytes from {}, got {range:?}", self.at);
                    return Err(Error::Document { what: self.what.clone(), reason });
                }
                self.at
            }
            404 => {
                let (code, message) = complaint(response);
                let code = code.unwrap_or_else(|| "BLOB_UNKNOWN".to_owned()).to_ascii_lowercase();
                let message = if message.is_empty() { self.digest.to_string() } else { message };
                return Err(Error::Refused { code: code.replace('_', " "), message });
            }
            _ => return Err(self.repository.refusal("GET", &format!("blobs/{}", self.digest), response)),
        };
        let length =
            response.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if let Some(length) = length
            && length != self.size - from
        {
            return Err(Error::Size {
                what: self.what.clone(),
                expected: self.size,
                actual: (from + length).to_string(),
            });
        }
        self.exact = length.is_some();
        self.skip = self.at - from;
        self.body = Some(Reader(response.into_body().into_reader()));
        Ok(())
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            if self.repository.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if self.at == self.size {
                // Whatever else the server may want to send is not looked at; but a connection whose answer has
                // been read to its end can be used again.
                if let Some(mut body) = self.body.take()
                    && self.exact
                {
                    let _ = body.0.read(&mut [0; 1]);
                }
                return Ok(0);
            }
            let done = match &mut self.body {
                None => self.connect().map(|()| None),
                Some(body) => {
                    let left = if self.skip > 0 { self.skip } else { self.size - self.at };
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    match body.0.read(&mut buffer[..most]) {
                        Ok(n) => Ok(Some(n)),
                        Err(error) => Err(self.repository.session.http.broken(&self.url(), error)),
                    }
                }
            };
            match done {
                Ok(None) => {}
                Ok(Some(0)) => {
                    let (expected, actual) = (self.size, self.at.to_string());
                    return Err(Error::Size { what: self.what.clone(), expected, actual });
                }
                Ok(Some(n)) if self.skip > 0 => self.skip -= n as u64,
                Ok(Some(n)) => {
                    self.at += n as u64;
                    return Ok(n);
                }
                Err(error) => self.pause(error)?,
            }
        }
    }

    /// Waits before the next try, unless there have been enough.
    fn pause(&mut self, error: Error) -> Result<(), Error> {
        let silent = matches!(error, Error::Transport { again: Again::Silent, .. });
        if !(error.is_transient() || silent) {
            return Err(error);
        }
        self.body = None;
        if self.at >= self.mark + PROGRESS {
            self.tries = 0;
        }
        self.mark = self.at;
        // Silence has been long already.
        self.tries += if silent { 2 } else { 1 };
        if self.tries >= TRIES {
            return Err(error);
        }
        std::thread::sleep(PAUSE * 2_u32.pow(self.tries - 1));
        Ok(())
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.next(buffer).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_where_the_link_says() {
        assert_eq!(
            next_page(r#"</v2/a/tags/list?last=b&n=2>; rel="next""#).as_deref(),
            Some("/v2/a/tags/list?last=b&n=2")
        );
        assert_eq!(next_page(r#"</v2/a/tags/list>; rel="prev""#), None);
        assert_eq!(next_page("nonsense"), None);
    }

    #[test]
    fn the_hub_is_elsewhere_than_it_is_called() {
        let hub = Endpoint::of("docker.io");
        assert_eq!((hub.host.as_str(), hub.server.as_str()), ("registry-1.docker.io", HUB));
        let own = Endpoint::of("reg.example:5000");
        assert_eq!((own.host.as_str(), own.server.as_str()), ("reg.example:5000", "reg.example:5000"));
    }
}
