//! Registries on the loopback interface: Debian's `docker-registry`, and one written here that misbehaves
//! as it is told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::images::{Compression, Image};
use super::{Host, Output, eventually, have, run};

/// A registry of Debian's, or a skip.
#[macro_export]
macro_rules! registry {
    ($host:expr) => {{
        if !$crate::common::registry::Registry::available() {
            $crate::skip!("docker-registry");
        }
        if !$crate::common::have("skopeo") {
            $crate::skip!("skopeo");
        }
        $crate::common::registry::Registry::start(&$host)
    }};
}

/// A password file with `ann`, whose password is `secret`.
pub fn users(host: &Host) -> PathBuf {
    let hash = bcrypt::hash("secret", 4).expect("bcrypt");
    host.file("htpasswd", format!("ann:{hash}\n"))
}

/// An address of this machine that is not loopback.
pub fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // No packet is sent: the kernel only looks for the way.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// A `docker-registry`, ended with the test.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    /// Host and port.
    pub address: String,
    log: PathBuf,
}

/// What a registry is to have.
#[derive(Debug, Default, Clone, Copy)]
pub struct Setup<'a> {
    /// A htpasswd file.
    pub users: Option<&'a Path>,
    /// Certificate and key.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// Who may come: certificates that a client's has to be one of, or signed by one of.
    pub clients: Option<&'a Path>,
    /// A token server's address, and the certificates that its tokens are signed with.
    pub tokens: Option<(&'a str, &'a Path)>,
    /// The address to listen on; loopback if none is given.
    pub ip: Option<std::net::IpAddr>,
}

impl Registry {
    /// Whether it can be started here.
    pub fn available() -> bool {
        have("docker-registry")
    }

    /// An open one.
    pub fn start(host: &Host) -> Self {
        Self::with(host, Setup::default())
    }

    /// One as it is wanted.
    pub fn with(host: &Host, setup: Setup<'_>) -> Self {
        // Somebody else may take the port between our looking and its listening: then there is another.
        for _ in 0..20 {
            if let Some(registry) = Self::attempt(host, setup) {
                return registry;
            }
        }
        panic!("docker-registry does not start");
    }

    fn attempt(host: &Host, setup: Setup<'_>) -> Option<Self> {
        let ip = setup.ip.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
        let port = TcpListener::bind((ip, 0)).expect("bind").local_addr().expect("address").port();
        let address = SocketAddr::new(ip, port).to_string();
        let dir = host.dir().join(format!("registry-{port}"));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: {address}\n",
            dir.join("data").display()
        );
        if let Some((certificate, key)) = setup.tls {
            let (certificate, key) = (certificate.display(), key.display());
            let clients = setup.clients.map(|path| format!(", clientcas: [{}]", path.display()));
            let clients = clients.unwrap_or_default();
            let _ = writeln!(config, "  tls: {{certificate: {certificate}, key: {key}{clients}}}");
        }
        if let Some(users) = setup.users {
            let _ = writeln!(config, "auth:\n  htpasswd: {{realm: test, path: {}}}", users.display());
        }
        if let Some((realm, bundle)) = setup.tokens {
            let token =
                format!("realm: \"{realm}\", service: x, issuer: x, rootcertbundle: {}", bundle.display());
            let _ = writeln!(config, "auth:\n  token: {{{token}}}");
        }
        let file = dir.join("config.yml");
        std::fs::write(&file, config).expect("write");
        let log = dir.join("log");
        let to = || Stdio::from(std::fs::File::options().create(true).append(true).open(&log).expect("log"));
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env_remove("HTTPS_PROXY")
            .stdin(Stdio::null())
            .stdout(to())
            .stderr(to())
            .spawn()
            .expect("docker-registry");
        let mut registry = Self { child, address, log };
        let mut ended = false;
        eventually("docker-registry listens", || {
            ended = registry.child.try_wait().expect("waitpid").is_some();
            // Its own words, and not a connection: that could be to whoever took the port instead.
            ended || std::fs::read_to_string(&registry.log).is_ok_and(|text| text.contains("listening on"))
        });
        (!ended).then_some(registry)
    }

    /// `ADDRESS/REST`.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// What it has logged: one line a request.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("log")
    }

    /// Puts an image there with skopeo.
    pub fn put(&self, host: &Host, image: &Image, rest: &str, more: &[&str]) {
        let archive = host.file(
            &format!("put-{}.tar", rest.replace(['/', ':'], "-")),
            image.docker_archive(Compression::None),
        );
        let from = format!("docker-archive:{}", archive.display());
        let to = format!("docker://{}", self.name(rest));
        let policy = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        skopeo(policy.iter().chain(more).copied().chain([from.as_str(), to.as_str()])).ok();
    }

    /// `skopeo inspect`, one field by a template.
    pub fn skopeo(&self, rest: &str, format: &str) -> String {
        let name = format!("docker://{}", self.name(rest));
        skopeo(["inspect", "--tls-verify=false", "--format", format, &name]).ok().line()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs skopeo, without the credentials of whoever runs the tests.
pub fn skopeo<'a>(args: impl IntoIterator<Item = &'a str>) -> Output {
    let mut command = Command::new("skopeo");
    command.args(args).env_remove("HTTPS_PROXY").env_remove("HTTP_PROXY");
    run(command, b"")
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// With what follows the `?`.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What came with it.
    pub body: Vec<u8>,
}

impl Request {
    /// A header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Whether it is this method and path.
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.target.split('?').next() == Some(path)
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// 200
    pub status: u16,
    /// Without lengths, which follow from the body.
    pub headers: Vec<(String, String)>,
    /// How it goes on.
    pub body: Body,
}

/// The body of an answer.
#[derive(Debug, Clone)]
pub enum Body {
    /// As it should be.
    Whole(Vec<u8>),
    /// Its length, this much of it, and then the connection is cut.
    Cut(Vec<u8>, usize),
    /// This much, and then nothing more while the connection stays.
    Stall(Vec<u8>, usize),
    /// Chunks without end.
    Endless,
    /// No answer at all: the connection is cut.
    Gone,
    /// Chunks, and an end.
    Chunked(Vec<u8>),
}

impl Reply {
    /// 200 with a body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Whole(body.into()) }
    }

    /// A status and nothing else.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::ok("") }
    }

    /// The same with one header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same with another body.
    #[must_use]
    pub fn body(self, body: Body) -> Self {
        Self { body, ..self }
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server whose every answer is the test's.
pub struct Server {
    /// Host and port.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    done: Arc<AtomicBool>,
}

impl Server {
    /// Listens on loopback.
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let done = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let (seen, over) = (Arc::clone(&requests), Arc::clone(&done));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, seen, over) = (Arc::clone(&handler), Arc::clone(&seen), Arc::clone(&over));
                let Ok(stream) = stream else { continue };
                // A client that goes away ends the conversation, as it should.
                std::thread::spawn(move || drop(converse(stream, &*handler, &seen, &over)));
            }
        });
        Self { address, requests, done }
    }

    /// `ADDRESS/REST`.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// What has been asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("lock").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        // The listener waits for somebody to come.
        let _ = TcpStream::connect(&self.address);
    }
}

fn converse(
    mut stream: TcpStream,
    handler: &Handler,
    seen: &Mutex<Vec<Request>>,
    done: &AtomicBool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        // We speak no TLS; whoever asks for it is to notice at once.
        if reader.fill_buf()?.first().is_none_or(|first| *first == 0x16) {
            return Ok(());
        }
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                None => break,
                Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            };
        }
        let mut body = vec![0; headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let request = Request { method, target, headers, body };
        seen.lock().expect("lock").push(request.clone());
        let reply = handler(&request);
        if matches!(reply.body, Body::Gone) {
            return stream.shutdown(std::net::Shutdown::Both);
        }
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", reply.status);
        for (name, value) in &reply.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match &reply.body {
            Body::Whole(bytes) | Body::Cut(bytes, _) | Body::Stall(bytes, _) => {
                let _ = write!(head, "Content-Length: {}\r\n\r\n", bytes.len());
            }
            Body::Endless | Body::Chunked(_) | Body::Gone => {
                head.push_str("Transfer-Encoding: chunked\r\n\r\n");
            }
        }
        stream.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            continue;
        }
        match &reply.body {
            Body::Whole(bytes) => stream.write_all(bytes)?,
            Body::Cut(bytes, most) => {
                stream.write_all(&bytes[..*most])?;
                stream.flush()?;
                return stream.shutdown(std::net::Shutdown::Both);
            }
            Body::Stall(bytes, most) => {
                stream.write_all(&bytes[..*most])?;
                while !done.load(Ordering::Relaxed) && reader.fill_buf().is_ok_and(|more| !more.is_empty()) {}
                return Ok(());
            }
            Body::Endless => {
                let piece = vec![b' '; 65536];
                while !done.load(Ordering::Relaxed) {
                    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                    stream.write_all(&piece)?;
                    stream.write_all(b"\r\n")?;
                }
                return Ok(());
            }
            Body::Gone => return Ok(()),
            Body::Chunked(bytes) => {
                if !bytes.is_empty() {
                    stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
                    stream.write_all(bytes)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")?;
            }
        }
    }
}

/// The manifest and the blobs of one image, as a registry has them.
#[derive(Debug, Clone)]
pub struct Stock {
    /// The repository.
    pub repository: String,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// By digest.
    pub blobs: BTreeMap<String, Vec<u8>>,
}

/// What the OCI calls a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What the OCI calls a list of them.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Stock {
    /// Of an image, its layers compressed.
    pub fn of(repository: &str, image: &Image, compression: Compression) -> Self {
        let mut blobs = BTreeMap::new();
        let mut index = serde_json::Value::Null;
        for (name, bytes) in image.oci_files(compression) {
            match name.strip_prefix("blobs/sha256/") {
                Some(hex) => drop(blobs.insert(format!("sha256:{hex}"), bytes)),
                None if name == "index.json" => index = serde_json::from_slice(&bytes).expect("JSON"),
                None => {}
            }
        }
        let digest = index["manifests"][0]["digest"].as_str().expect("digest");
        let manifest = blobs.remove(digest).expect("the manifest");
        Self { repository: repository.to_owned(), manifest, blobs }
    }

    /// The manifest's digest.
    pub fn digest(&self) -> String {
        super::images::digest(&self.manifest)
    }

    /// The descriptors of the layers.
    pub fn layers(&self) -> Vec<(String, usize)> {
        let manifest: serde_json::Value = serde_json::from_slice(&self.manifest).expect("JSON");
        let layers = manifest["layers"].as_array().expect("layers").iter();
        layers
            .map(|l| {
                (l["digest"].as_str().expect("digest").to_owned(), l["size"].as_u64().expect("size") as usize)
            })
            .collect()
    }

    /// What a registry that behaves answers: any tag is this image.
    pub fn answer(&self, request: &Request) -> Reply {
        let path = request.target.split('?').next().unwrap_or_default();
        if path == "/v2/" {
            return Reply::ok("{}");
        }
        let Some(rest) = path.strip_prefix(&format!("/v2/{}/", self.repository)) else {
            return Reply::status(404);
        };
        if let Some(which) = rest.strip_prefix("manifests/") {
            return if which.starts_with("sha256:") && which != self.digest() {
                Reply::status(404)
            } else {
                Reply::ok(self.manifest.clone()).with("Content-Type", MANIFEST)
            };
        }
        let blob = rest.strip_prefix("blobs/").and_then(|digest| self.blobs.get(digest));
        let Some(blob) = blob else { return Reply::status(404) };
        match request
            .header("range")
            .strip_prefix("bytes=")
            .and_then(|r| r.strip_suffix('-')?.parse::<usize>().ok())
        {
            Some(from) => Reply { status: 206, ..Reply::ok(&blob[from..]) }
                .with("Content-Range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len())),
            None => Reply::ok(blob.clone()),
        }
    }
}
