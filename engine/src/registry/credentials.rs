//! Names and passwords for registries, where Docker's client keeps them.
//!
//! `~/.docker/config.json` is shared with Docker's client, podman and skopeo, and holds much else: it is read
//! as a whole, changed in one place and written as a whole, under a new name first. A password is in it in
//! base64, which hides nothing; whoever wants more has a credential helper, a program that is asked instead.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The name that Docker Hub has in the file.
pub const HUB: &str = "https://index.docker.io/v1/";
/// What a helper says of a server that it knows nothing of.
const UNKNOWN: &str = "credentials not found in native keychain";
/// The user's name of a secret that is no password.
const TOKEN: &str = "<token>";

/// The domain that the registry of an address has, as people and clients write one, and the name that its credentials
/// are kept under; `None` where it cannot be one. No address at all is Docker Hub's.
pub fn server(address: &str) -> Option<(String, String)> {
    let bare =
        address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")).unwrap_or(address);
    let (domain, key) = match bare.split('/').next().unwrap_or_default() {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => ("docker.io", HUB),
        "" if address.is_empty() => ("docker.io", HUB),
        host => (host, host),
    };
    let odd = |c: char| matches!(c, '@' | '?' | '#') || c.is_whitespace() || c.is_control();
    (!domain.is_empty() && !domain.contains(odd)).then(|| (domain.to_owned(), key.to_owned()))
}

/// Why credentials could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The operation.
        call: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("Error loading config file: {path}: {reason}", path = path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A helper could not be run.
    #[error("error getting credentials - err: exec: {program:?}: {source}")]
    Helper {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A helper refused.
    #[error("error {doing} credentials - err: exit status {code}, out: `{out}`")]
    Refused {
        /// `getting`, `storing`, `erasing`.
        doing: &'static str,
        /// Its exit code.
        code: i32,
        /// Its words.
        out: String,
    },
    /// The file names no program but a path.
    #[error("credential helper {0:?}: want a name")]
    Name(String),
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password; empty if there is a token instead.
    pub password: String,
    /// What stands for a password at a token server.
    pub identity_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// A name and a password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), identity_token: None }
    }
}

/// Where credentials have been put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In the file, for everyone to read who may read it.
    Plain(PathBuf),
    /// By a helper.
    Helper,
}

/// Docker's client's configuration.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    path: PathBuf,
    value: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl DockerConfig {
    /// Reads `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`.
    pub fn load(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let dir = lookup("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let home = || {
            PathBuf::from(lookup("HOME").filter(|home| !home.is_empty()).unwrap_or_else(|| "/root".into()))
        };
        Self::at(dir.unwrap_or_else(|| home().join(".docker")).join("config.json"))
    }

    fn at(path: PathBuf) -> Result<Self, Error> {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Self { path, value: Map::new() });
            }
            Err(source) => return Err(Error::Io { call: "open", path, source }),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self { path, value: Map::new() });
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self { path, value }),
            Err(error) => Err(Error::Document { path, reason: error.to_string() }),
        }
    }

    /// The helper for a server, if there is one.
    fn helper(&self, server: &str) -> Option<&str> {
        let helpers = self.value.get("credHelpers").and_then(Value::as_object);
        let own = helpers.and_then(|helpers| names(server).find_map(|name| helpers.get(&name)));
        own.or_else(|| self.value.get("credsStore")).and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// What is known for a server: a host, with its port if it has one, or [`HUB`].
    pub fn get(&self, server: &str) -> Result<Option<Credentials>, Error> {
        if let Some(helper) = self.helper(server) {
            return get(helper, server);
        }
        let Some(auths) = self.value.get("auths").and_then(Value::as_object) else { return Ok(None) };
        let exact = names(server).find_map(|name| auths.get(&name));
        // Old clients wrote URLs: what counts is the host.
        let found =
            exact.or_else(|| auths.iter().find(|(key, _)| host(key) == host(server)).map(|(_, value)| value));
        let Some(entry) = found else { return Ok(None) };
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let mut credentials =
            Credentials::new(text("username").unwrap_or(""), text("password").unwrap_or(""));
        if let Some(auth) = text("auth") {
            let bad = |reason: String| Error::Document { path: self.path.clone(), reason };
            let bytes = STANDARD.decode(auth).map_err(|error| bad(format!("auth of {server}: {error}")))?;
            let pair = String::from_utf8(bytes).map_err(|_| bad(format!("auth of {server}: not UTF-8")))?;
            let (name, password) = pair
                .split_once(':')
                .ok_or_else(|| bad(format!("auth of {server}: want NAME:PASSWORD in base64")))?;
            // A C program's NUL, in files that some have written.
            credentials = Credentials::new(name, password.trim_end_matches('\0'));
        }
        credentials.identity_token = text("identitytoken").map(str::to_owned);
        let empty = credentials.username.is_empty() && credentials.identity_token.is_none();
        Ok((!empty).then_some(credentials))
    }

    /// Keeps credentials for a server.
    pub fn store(&mut self, server: &str, credentials: &Credentials) -> Result<Kept, Error> {
        if let Some(helper) = self.helper(server) {
            let (name, secret) = match &credentials.identity_token {
                Some(token) => (TOKEN, token),
                None => (credentials.username.as_str(), &credentials.password),
            };
            let request = json!({ "ServerURL": server, "Username": name, "Secret": secret }).to_string();
            ask(helper, "store", "storing", request.as_bytes())?;
            return Ok(Kept::Helper);
        }
        let mut entry = Map::new();
        let pair = format!("{}:{}", credentials.username, credentials.password);
        entry.insert("auth".to_owned(), STANDARD.encode(pair).into());
        if let Some(token) = &credentials.identity_token {
            entry.insert("identitytoken".to_owned(), token.clone().into());
        }
        let auths = self.value.entry("auths").or_insert_with(|| json!({}));
        let Some(auths) = auths.as_object_mut() else {
            let reason = "auths: want an object".to_owned();
            return Err(Error::Document { path: self.path.clone(), reason });
        };
        auths.insert(server.to_owned(), entry.into());
        self.write()?;
        Ok(Kept::Plain(self.path.clone()))
    }

    /// Forgets a server; whether anything was known of it.
    pub fn erase(&mut self, server: &str) -> Result<bool, Error> {
        let mut known = false;
        if let Some(helper) = self.helper(server) {
            known = get(helper, server)?.is_some();
            if known {
                ask(helper, "erase", "erasing", server.as_bytes())?;
            }
        }
        if let Some(auths) = self.value.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|key, _| host(key) != host(server));
            if auths.len() < before {
                self.write()?;
                known = true;
            }
        }
        Ok(known)
    }

    /// Writes the file anew, readable by its owner alone.
    fn write(&self) -> Result<(), Error> {
        // Where it is a link, what it leads to is replaced.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |call, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { call, path, source }
        };
        let dir = path.parent().unwrap_or(Path::new("/"));
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(dir).map_err(failed("mkdir", dir))?;
        let partial = dir.join(format!(".config.json.{}", std::process::id()));
        let text = serde_json::to_string_pretty(&self.value).unwrap_or_default();
        let written = (|| {
            let mut options = fs::File::options();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&partial)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        })();
        written.map_err(|source| {
            let _ = fs::remove_file(&partial);
            failed("write", &path)(source)
        })
    }
}

/// The names a server may have in the file.
fn names(server: &str) -> impl Iterator<Item = String> + '_ {
    let hub = (host(server) == host(HUB)).then(|| HUB.to_owned());
    hub.into_iter().chain([server.to_owned(), format!("https://{server}"), format!("http://{server}")])
}

/// The host of a key: `https://reg.example/v1/` is `reg.example`.
fn host(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = key.split('/').next().unwrap_or_default();
    match host {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        other => other,
    }
}

fn get(helper: &str, server: &str) -> Result<Option<Credentials>, Error> {
    let out = match ask(helper, "get", "getting", server.as_bytes()) {
        Ok(out) => out,
        Err(Error::Refused { out, .. }) if out.contains(UNKNOWN) => return Ok(None),
        Err(error) => return Err(error),
    };
    let got: Got = serde_json::from_slice(&out).map_err(|error| Error::Refused {
        doing: "getting",
        code: 0,
        out: error.to_string(),
    })?;
    if got.username == TOKEN {
        return Ok(Some(Credentials { identity_token: Some(got.secret), ..Credentials::new(TOKEN, "") }));
    }
    Ok((!got.username.is_empty()).then(|| Credentials::new(got.username, got.secret)))
}

/// Runs `docker-credential-NAME VERB` and gives it `input`.
fn ask(helper: &str, verb: &str, doing: &'static str, input: &[u8]) -> Result<Vec<u8>, Error> {
    if helper.contains('/') || helper.contains('\0') {
        return Err(Error::Name(helper.to_owned()));
    }
    let program = format!("docker-credential-{helper}");
    let failed = |source| Error::Helper { program: program.clone(), source };
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not listen says why in its own words.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let out = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Err(Error::Refused { doing, code: output.status.code().unwrap_or(-1), out })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, DockerConfig) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("config.json");
        fs::write(&path, text).expect("write");
        let config = DockerConfig::at(path).expect("load");
        (dir, config)
    }

    #[test]
    fn a_server_is_kept_by_its_host() {
        for (address, domain, key) in [
            ("", "docker.io", HUB),
            ("docker.io", "docker.io", HUB),
            (HUB, "docker.io", HUB),
            ("reg.example:5000", "reg.example:5000", "reg.example:5000"),
            ("https://reg.example:5000/v2/", "reg.example:5000", "reg.example:5000"),
            ("http://reg.example", "reg.example", "reg.example"),
        ] {
            assert_eq!(server(address), Some((domain.to_owned(), key.to_owned())), "{address}");
        }
        for address in ["/", "https://", "a b", "ann@reg.example", "reg.example?x", "a\nb"] {
            assert_eq!(server(address), None, "{address:?}");
        }
    }

    #[test]
    fn what_docker_wrote_is_read() {
        let auth = STANDARD.encode("ann:pa:ss");
        let (_dir, config) = config(&format!(
            r#"{{"auths": {{"reg.example:5000": {{"auth": "{auth}"}}, "https://old.example/v1/": {{"auth": "{auth}"}},
               "https://index.docker.io/v1/": {{"auth": "{auth}", "identitytoken": "tok"}}, "empty.example": {{}}}}}}"#
        ));
        let ann = Credentials::new("ann", "pa:ss");
        for (server, want) in [
            ("reg.example:5000", Some(ann.clone())),
            ("old.example", Some(ann.clone())),
            ("docker.io", Some(Credentials { identity_token: Some("tok".into()), ..ann.clone() })),
            (HUB, Some(Credentials { identity_token: Some("tok".into()), ..ann })),
            ("empty.example", None),
            ("reg.example", None),
        ] {
            assert_eq!(config.get(server).expect(server), want, "{server}");
        }
    }

    #[test]
    fn what_is_kept_leaves_the_rest_alone_and_is_for_its_owner() {
        let (dir, mut config) =
            config(r#"{"psFormat": "x", "auths": {"a.example": {"auth": "eDp5"}}, "z": [1]}"#);
        let path = dir.path().join("config.json");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert_eq!(
            config.store("b.example", &Credentials::new("u", "p")).expect("store"),
            Kept::Plain(path.clone())
        );
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
        let value: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        assert_eq!(
            value,
            json!({ "psFormat": "x", "auths": { "a.example": { "auth": "eDp5" }, "b.example": { "auth": "dTpw" } }, "z": [1] })
        );
        let mut config = DockerConfig::at(path.clone()).expect("load");
        assert!(config.erase("b.example").expect("erase"));
        assert!(!config.erase("b.example").expect("erase"));
        assert_eq!(config.get("a.example").expect("get"), Some(Credentials::new("x", "y")));
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("config.json");
        fs::write(&path, "{").expect("write");
        let error = DockerConfig::at(path.clone()).expect_err("no JSON").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        let (_dir, config) =
            config(r#"{"auths": {"a": {"auth": "%%"}}, "credHelpers": {"b": "../../bin/x"}}"#);
        assert!(config.get("a").expect_err("no base64").to_string().contains("auth of a"));
        assert!(matches!(config.get("b"), Err(Error::Name(_))));
    }
}
