//! One HTTP request at a time: which connection it takes, what becomes of a redirect, and Go's words for
//! what goes wrong, since those are the words that people search for.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use ureq::http::{Request, Response, Uri, header};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, SocksConnector, TcpConnector};
use ureq::{Agent, Body, Proxy, ProxyProtocol, SendBody};

use super::resolve::{Failure, Names};
use super::settings::{self, Settings};
use super::tls::{self, Tls};
use super::{Again, Error, MAX_DOCUMENT};

/// Redirects followed from one request.
const HOPS: usize = 10;
/// How long a server may say nothing. `BULKHEAD_REGISTRY_TIMEOUT` replaces it, in seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of an error's body, so much is read.
const MAX_COMPLAINT: u64 = 64 << 10;

/// How a host is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// Its certificate is checked.
    Checked,
    /// Its certificate may be anybody's: the operator listed it, or it is this machine.
    Any,
}

/// What a request carries.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    /// Nothing, not even a length.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
    /// A file, from its start, with somebody who hears how far it has gone.
    File { file: &'a File, size: u64, sent: &'a (dyn Fn(u64) + Sync) },
}

/// A request.
#[derive(Clone)]
pub(super) struct Outgoing<'a> {
    pub method: &'static str,
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    pub payload: Payload<'a>,
}

/// Go's spelling of a method, as its errors have it.
pub(super) fn spelled(method: &str) -> &'static str {
    match method {
        "HEAD" => "Head",
        "POST" => "Post",
        "PUT" => "Put",
        "PATCH" => "Patch",
        "DELETE" => "Delete",
        _ => "Get",
    }
}

/// Scheme and authority: who may be given what is meant for whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub https: bool,
    pub domain: String,
}

impl Origin {
    pub(super) fn of(url: &str) -> Option<Self> {
        let (https, rest) = match url.split_once("://")? {
            (scheme, rest) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return None,
        };
        let domain = rest.split(['/', '?', '#']).next().unwrap_or_default().to_ascii_lowercase();
        // Whoever writes user information into a URL wants it read differently by somebody.
        if domain.is_empty() || domain.contains('@') {
            return None;
        }
        let usual = if https { ":443" } else { ":80" };
        let domain = domain.strip_suffix(usual).map(str::to_owned).unwrap_or(domain);
        Some(Self { https, domain })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.domain)
    }
}

/// Connections, one pool for each origin.
#[derive(Debug)]
pub(super) struct Http {
    settings: Settings,
    patience: Duration,
    agents: Mutex<HashMap<Origin, Agent>>,
    system: OnceLock<Vec<CertificateDer<'static>>>,
}

impl Http {
    pub(super) fn new(settings: Settings) -> Self {
        let patience = std::env::var("BULKHEAD_REGISTRY_TIMEOUT").ok().and_then(|text| text.parse().ok());
        let patience = patience.filter(|seconds| *seconds > 0).map_or(PATIENCE, Duration::from_secs);
        Self { settings, patience, agents: Mutex::default(), system: OnceLock::new() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Ends what is under way in other threads; there is no going on after it.
    pub(super) fn shutdown(&self) {
        let agents = std::mem::take(&mut *self.agents.lock().unwrap_or_else(PoisonError::into_inner));
        agents.into_values().for_each(Agent::shutdown);
    }

    /// How a host is to be trusted. Whoever puts a certificate down for a host wants it checked.
    pub(super) fn trust(&self, domain: &str) -> Trust {
        let own =
            self.directory(domain).is_some_and(|dir| list(&dir, "crt").is_ok_and(|found| !found.is_empty()));
        if self.settings.is_insecure(domain) && !own { Trust::Any } else { Trust::Checked }
    }

    /// The host's directory of certificates, if there is one.
    fn directory(&self, domain: &str) -> Option<PathBuf> {
        let safe = !domain.contains('/') && domain != "." && domain != "..";
        self.settings.certificates.iter().map(|dir| dir.join(domain)).find(|dir| safe && dir.is_dir())
    }

    fn agent(&self, origin: &Origin) -> Result<Agent, Error> {
        if let Some(agent) = self.agents.lock().unwrap_or_else(PoisonError::into_inner).get(origin) {
            return Ok(agent.clone());
        }
        let proxy = match self.settings.proxy(origin.https, &origin.domain) {
            None => None,
            Some(url) => Some(Proxy::new(url).map_err(|_| Error::Proxy(url.to_owned()))?),
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here, where credentials are left behind.
            .max_redirects(0)
            .user_agent(concat!("bulkhead/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(self.patience))
            .timeout_connect(Some(self.patience.min(Duration::from_secs(30))))
            .timeout_recv_response(Some(self.patience))
            .timeout_per_read(Some(self.patience))
            .timeout_per_write(Some(self.patience));
        let by_tls = proxy.as_ref().filter(|proxy| proxy.protocol() == ProxyProtocol::Https);
        let tls = Tls {
            config: origin.https.then(|| self.tls(&origin.domain)).transpose()?,
            proxy: match by_tls.and_then(|proxy| proxy.uri().authority()) {
                Some(authority) => Some((authority.to_string(), self.tls(authority.as_str())?)),
                None => None,
            },
        };
        let connector =
            ().chain(SocksConnector::default())
                .chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(tls);
        let agent = Agent::with_parts(config.proxy(proxy).build(), connector, Names::default());
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).insert(origin.clone(), agent.clone());
        Ok(agent)
    }

    fn tls(&self, domain: &str) -> Result<Arc<ClientConfig>, Error> {
        let system = self.system.get_or_init(|| rustls_native_certs::load_native_certs().certs).clone();
        let anybody = self.trust(domain) == Trust::Any;
        let mut trust = tls::Trust { system, anybody, ..tls::Trust::default() };
        let failed = |path: &Path, reason: String| Error::Certificate { path: path.to_owned(), reason };
        if let Some(dir) = self.directory(domain) {
            let list = |extension| list(&dir, extension).map_err(|error| failed(&dir, error.to_string()));
            for path in list("crt")? {
                trust.own.extend(tls::certificates(&path)?);
            }
            for path in list("cert")? {
                trust.client = Some(tls::client(&path)?);
            }
        }
        trust.config().map_err(|error| failed(Path::new("/etc/ssl/certs"), error.to_string()))
    }

    /// Sends a request and follows where it leads. Any status is an answer.
    pub(super) fn send(&self, outgoing: &Outgoing<'_>) -> Result<Response<Body>, Error> {
        let method = spelled(outgoing.method);
        let first = Origin::of(&outgoing.url).ok_or_else(|| Error::Elsewhere {
            method,
            url: outgoing.url.clone(),
            what: "address",
            to: outgoing.url.clone(),
            why: "want http:// or https:// and a host",
        })?;
        let mut url = outgoing.url.clone();
        let mut at_home = true;
        for _ in 0..=HOPS {
            // Whoever has been sent away does not come back as the one he was.
            at_home = at_home && Origin::of(&url).is_some_and(|origin| origin == first);
            let mut response = self.once(outgoing, &url, at_home)?;
            if !at_home {
                // What a stranger wants to know is not what the registry wants to know.
                response.headers_mut().remove(header::WWW_AUTHENTICATE);
            }
            let status = response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) || !matches!(outgoing.method, "GET" | "HEAD") {
                return Ok(response);
            }
            let to = location(&response).unwrap_or_default();
            let next = join(&url, &to);
            let refused =
                |why| Error::Elsewhere { method, url: url.clone(), what: "redirect to", to: to.clone(), why };
            let next = next.ok_or_else(|| refused("want http:// or https:// and a host"))?;
            if first.https && Origin::of(&next).is_none_or(|next| !next.https) {
                return Err(refused("it leaves HTTPS"));
            }
            url = next;
        }
        Err(Error::Transport {
            method,
            url: outgoing.url.clone(),
            reason: format!("stopped after {HOPS} redirects"),
            again: Again::No,
        })
    }

    fn once(&self, outgoing: &Outgoing<'_>, url: &str, at_home: bool) -> Result<Response<Body>, Error> {
        let origin = Origin::of(url);
        let failed = |error: &ureq::Error| {
            let proxy = origin.as_ref().and_then(|o| self.settings.proxy(o.https, &o.domain));
            let (reason, again) = match proxy.and_then(Origin::of) {
                // Nobody went farther than to the proxy.
                Some(proxy) if is_unreachable(error) => {
                    let (reason, again) = reason(error, Some(&proxy), self.patience);
                    (format!("proxyconnect tcp: {reason}"), again)
                }
                _ => reason(error, origin.as_ref(), self.patience),
            };
            Error::Transport { method: spelled(outgoing.method), url: url.to_owned(), reason, again }
        };
        let mut request = Request::builder().method(outgoing.method).uri(url);
        for (name, value) in &outgoing.headers {
            if at_home || *name != "Authorization" {
                request = request.header(*name, value);
            }
        }
        let agent = match &origin {
            Some(origin) => self.agent(origin)?,
            None => return Err(failed(&ureq::Error::BadUri(url.to_owned()))),
        };
        let build = |error: ureq::http::Error| failed(&ureq::Error::Http(error));
        let answer = match outgoing.payload {
            Payload::None => agent.run(request.body(()).map_err(build)?),
            Payload::Bytes(bytes) => agent.run(request.body(bytes).map_err(build)?),
            Payload::File { file, size, sent } => {
                let mut reader = file;
                let rewound = reader.rewind();
                let mut counted = Counted { inner: reader, sent };
                let request = request.header(header::CONTENT_LENGTH, size);
                let body = SendBody::from_reader(&mut counted);
                match rewound {
                    Ok(()) => {
                        // A registry that has got a large blob has to put it somewhere before it answers.
                        let long = Some(self.patience * 10);
                        let request = agent.configure_request(request.body(body).map_err(build)?);
                        agent.run(request.timeout_recv_response(long).timeout_per_read(long).build())
                    }
                    Err(error) => Err(ureq::Error::Io(error)),
                }
            }
        };
        answer.map_err(|error| failed(&error))
    }

    /// Reads a document that must not be absurdly long.
    pub(super) fn document(&self, what: &str, response: Response<Body>) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.receive(what, response, MAX_DOCUMENT, u64::MAX, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Reads a body to its end, which must come within `limit` bytes and in time: twice what a server may be
    /// silent, and a second more for each `pace` bytes that have come.
    pub(super) fn receive(
        &self,
        what: &str,
        response: Response<Body>,
        limit: u64,
        pace: u64,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Error> {
        let began = std::time::Instant::now();
        let mut received = 0;
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = reader.read(&mut buffer).map_err(|error| self.broken(what, error))?;
            if n == 0 {
                return Ok(());
            }
            received += n as u64;
            if received > limit {
                return Err(Error::TooLong { what: what.to_owned(), limit });
            }
            write(&buffer[..n]).map_err(|error| self.broken(what, error))?;
            // A byte now and then is no silence, and no end either.
            if began.elapsed() > self.patience * 2 + Duration::from_secs(received / pace) {
                let reason = format!("net/http: request canceled (no end after {:?})", began.elapsed());
                return Err(Error::Transport {
                    method: "Get",
                    url: what.to_owned(),
                    reason,
                    again: Again::Silent,
                });
            }
        }
    }

    /// What went wrong while a body was read.
    pub(super) fn broken(&self, url: &str, error: io::Error) -> Error {
        let (reason, again) = reason(&ureq::Error::from(error), Origin::of(url).as_ref(), self.patience);
        Error::Transport { method: "Get", url: url.to_owned(), reason, again }
    }
}

/// Tells how much of a file has gone.
struct Counted<'a> {
    inner: &'a File,
    sent: &'a (dyn Fn(u64) + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        (self.sent)(n as u64);
        Ok(n)
    }
}

/// The `Location` of an answer.
pub(super) fn location(response: &Response<Body>) -> Option<String> {
    Some(response.headers().get(header::LOCATION)?.to_str().ok()?.to_owned())
}

/// Where `to` leads, seen from `base`; `None` when that is nowhere we can go.
pub(super) fn join(base: &str, to: &str) -> Option<String> {
    let to = to.split('#').next().unwrap_or_default();
    let origin = Origin::of(base)?;
    let scheme = if origin.https { "https" } else { "http" };
    let joined = if let Some(rest) = to.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if to.starts_with('/') {
        format!("{origin}{to}")
    } else if to.contains("://") {
        to.to_owned()
    } else if to.is_empty() {
        return None;
    } else {
        let path = base.split(['?', '#']).next().unwrap_or_default();
        let parent =
            path.rfind('/').filter(|slash| *slash > scheme.len() + 2).map_or(path, |slash| &path[..slash]);
        format!("{parent}/{to}")
    };
    Origin::of(&joined)?;
    joined.parse::<Uri>().ok()?;
    Some(joined)
}

/// What a refusal says: its code and message, if it is in the registries' own form.
pub(super) fn complaint(response: Response<Body>) -> (Option<String>, String) {
    #[derive(serde::Deserialize)]
    struct Complaints {
        #[serde(default)]
        errors: Vec<Complaint>,
        #[serde(default)]
        details: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Complaint {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut bytes = Vec::new();
    // A refusal whose reason cannot be read is a refusal all the same.
    let _ = response.into_body().into_reader().take(MAX_COMPLAINT).read_to_end(&mut bytes);
    let Ok(complaints) = serde_json::from_slice::<Complaints>(&bytes) else { return (None, String::new()) };
    match complaints.errors.into_iter().next() {
        Some(first) => (Some(first.code).filter(|code| !code.is_empty()), printable(&first.message)),
        None => (None, printable(&complaints.details.unwrap_or_default())),
    }
}

/// A stranger's words, without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(512).collect::<String>().trim().to_owned()
}

/// Go's words for what went wrong, and whether it may pass.
fn reason(error: &ureq::Error, origin: Option<&Origin>, patience: Duration) -> (String, Again) {
    let domain = origin.map_or("", |origin| &origin.domain);
    let address = || {
        let (_, port) = settings::split(domain);
        let usual = if origin.is_some_and(|origin| origin.https) { 443 } else { 80 };
        if port.is_some() { domain.to_owned() } else { format!("{domain}:{usual}") }
    };
    if let Some(tls) = rustls_error(error) {
        let plain = matches!(tls, rustls::Error::InvalidMessage(_));
        return (tls_reason(tls), if plain { Again::No } else { Again::Tls });
    }
    match error {
        ureq::Error::Timeout(_) => {
            (format!("net/http: request canceled (no answer within {} s)", patience.as_secs()), Again::Silent)
        }
        ureq::Error::Other(source) if source.is::<Failure>() => (source.to_string(), Again::No),
        ureq::Error::HostNotFound => (format!("dial tcp: lookup {domain}: no such host"), Again::No),
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                (format!("dial tcp {}: connect: connection refused", address()), Again::No)
            }
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                let what = error.to_string();
                let what = what.split(" (os error").next().unwrap_or_default().to_ascii_lowercase();
                (format!("dial tcp {}: connect: {what}", address()), Again::No)
            }
            io::ErrorKind::UnexpectedEof => ("unexpected EOF".to_owned(), Again::Broken),
            io::ErrorKind::ConnectionReset => ("read: connection reset by peer".to_owned(), Again::Broken),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ("i/o timeout".to_owned(), Again::Silent),
            _ => (error.to_string(), Again::Broken),
        },
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
            (format!("malformed HTTP response: {error}"), Again::No)
        }
        other => (other.to_string(), Again::No),
    }
}

/// Whether there was no connection to begin with.
fn is_unreachable(error: &ureq::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    match error {
        ureq::Error::Io(error) => {
            matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
        }
        ureq::Error::Other(source) => source.is::<Failure>(),
        _ => false,
    }
}

/// The TLS error inside, wherever it was put on its way.
fn rustls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

fn tls_reason(error: &rustls::Error) -> String {
    use rustls::CertificateError as C;
    match error {
        rustls::Error::InvalidMessage(_) => "http: server gave HTTP response to HTTPS client".to_owned(),
        rustls::Error::InvalidCertificate(C::UnknownIssuer) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "tls: failed to verify certificate: x509: certificate has expired or is not yet valid".to_owned()
        }
        rustls::Error::InvalidCertificate(why) => format!("tls: failed to verify certificate: x509: {why}"),
        other => format!("tls: {other}"),
    }
}

/// Files of a directory by extension, in order.
fn list(dir: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What reading an answer without end comes to, that gives so much at once.
    fn endless(size: usize, pause: Duration, pace: u64) -> Error {
        use std::io::Write as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("http://{}/", listener.local_addr().expect("address"));
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("accept");
            let _ = client.read(&mut [0; 4096]).expect("request");
            client.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").expect("head");
            // Until the client goes.
            while client.write_all(&vec![b'x'; size]).is_ok() {
                std::thread::sleep(pause);
            }
        });
        let mut http = Http::new(Settings::default());
        http.patience = Duration::from_millis(500);
        let outgoing =
            Outgoing { method: "GET", url: url.clone(), headers: Vec::new(), payload: Payload::None };
        let response = http.send(&outgoing).expect("answer");
        let mut kept = 0;
        let error = http
            .receive(&url, response, 1 << 20, pace, |piece| {
                kept += piece.len();
                Ok(())
            })
            .expect_err("no end");
        assert!(kept <= 1 << 20, "{kept} bytes were kept");
        server.join().expect("the server");
        error
    }

    #[test]
    fn a_body_without_end_is_given_up() {
        let error = endless(64 << 10, Duration::ZERO, u64::MAX);
        assert!(matches!(error, Error::TooLong { limit, .. } if limit == 1 << 20), "{error}");
        // Never silent for long, and not getting on: 20 bytes a second, with 1000 wanted.
        let error = endless(1, Duration::from_millis(50), 1000);
        assert!(matches!(&error, Error::Transport { again: Again::Silent, .. }), "{error}");
        assert!(error.to_string().contains("no end"), "{error}");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (url, want) in [
            ("https://Reg.example/v2/", Some("https://reg.example")),
            ("https://reg.example:443/v2/", Some("https://reg.example")),
            ("http://reg.example:80?x", Some("http://reg.example")),
            ("HTTP://[::1]:5000/", Some("http://[::1]:5000")),
            ("ftp://reg.example/", None),
            ("https:///v2/", None),
            ("https://user@reg.example/", None),
            ("/v2/", None),
        ] {
            assert_eq!(Origin::of(url).map(|origin| origin.to_string()).as_deref(), want, "{url}");
        }
    }

    #[test]
    fn locations_are_read_from_where_they_were_given() {
        let base = "https://reg.example:5000/v2/a/blobs/uploads/?mount=x";
        for (to, want) in [
            ("/v2/a/blobs/uploads/1?state=y", Some("https://reg.example:5000/v2/a/blobs/uploads/1?state=y")),
            ("https://cdn.example/b", Some("https://cdn.example/b")),
            ("//cdn.example/b#c", Some("https://cdn.example/b")),
            ("1", Some("https://reg.example:5000/v2/a/blobs/uploads/1")),
            ("file:///etc/passwd", None),
            ("http://a@b/", None),
            ("", None),
        ] {
            assert_eq!(join(base, to).as_deref(), want, "{to}");
        }
    }

    #[test]
    fn words_of_strangers_are_made_harmless() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{7}"), "a [2Jb c");
        assert_eq!(printable(&"x".repeat(9999)).len(), 512);
    }
}
