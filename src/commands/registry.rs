//! `pull`, `push`, `login`, `logout`: dealings with registries, in Docker's words.

use std::collections::HashMap;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Mutex;

use bulkhead_engine::digest::{DiffId, Digest};
use bulkhead_engine::image::{self, Placed, Platform, Progress, Pulled, PushWatcher, Reference, Watcher};
use bulkhead_engine::layer::{Compression, Options, Packing};
use bulkhead_engine::registry::credentials::{self, Kept};
use bulkhead_engine::registry::{Credentials, DockerConfig, Search, Session, Settings};
use bulkhead_engine::store::Store;
use nix::sys::termios;
use serde_json::json;

use super::lifecycle::store;
use crate::cli::Globals;
use crate::cli::registry::{LoginArgs, LogoutArgs, PullArgs, PushArgs, SearchArgs};
use crate::failure::Failure;
use crate::options::env;
use crate::output::list::Listing;
use crate::output::progress::{Lines, Stream};
use crate::output::{human, line};

/// A session with whatever the operator and the user have set.
fn session(globals: &Globals) -> Result<Session, Failure> {
    let settings = Settings::load(&globals.layout(), &env::lookup).map_err(Failure::daemon)?;
    Ok(Session::new(settings, docker_config()?))
}

fn docker_config() -> Result<DockerConfig, Failure> {
    DockerConfig::load(&env::lookup).map_err(Failure::plain_from)
}

fn platform(text: Option<&str>) -> Result<Option<Platform>, Failure> {
    text.map(Platform::parse)
        .transpose()
        .map_err(|error| Failure::daemon(format!("failed to parse platform: {error}")))
}

/// What a pull shows.
struct Screen<'a> {
    stream: Stream,
    /// Nothing is shown.
    quiet: bool,
    lines: Lines,
    name: &'a Reference,
    /// The blob of each layer.
    blobs: Mutex<HashMap<DiffId, Digest>>,
}

impl<'a> Screen<'a> {
    fn new(stream: Stream, quiet: bool, name: &'a Reference) -> Self {
        Self { stream, quiet, lines: Lines::on(stream), name, blobs: Mutex::default() }
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            self.stream.write(&format!("{text}\n"));
        }
    }

    /// What Docker calls a layer when it is pulled: its blob.
    fn id(&self, layer: &DiffId) -> String {
        let blobs = self.blobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        blobs.get(layer).unwrap_or(&layer.0).short()
    }

    fn finished(&self, layer: &DiffId, status: &str) {
        if !self.quiet {
            self.lines.finish(&self.id(layer), status);
        }
    }
}

impl Progress for Screen<'_> {
    fn begin(&self, layer: &DiffId, bytes: Option<u64>) {
        if !self.quiet {
            self.lines.measure(&self.id(layer), "Downloading", bytes.unwrap_or(0));
        }
    }

    fn advance(&self, layer: &DiffId, bytes: u64) {
        if !self.quiet {
            self.lines.advance(&self.id(layer), bytes);
        }
    }

    fn done(&self, layer: &DiffId, reused: bool) {
        self.finished(layer, if reused { "Already exists" } else { "Pull complete" });
    }
}

impl Watcher for Screen<'_> {
    fn layers(&self, layers: &[(DiffId, Digest, u64)]) {
        let of = self.name.digest().map(|digest| digest.to_string());
        let of = of.as_deref().or(self.name.tag()).unwrap_or("latest");
        self.line(&format!("{of}: Pulling from {}", self.name.path()));
        *self.blobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            layers.iter().map(|(diff_id, digest, _)| (*diff_id, *digest)).collect();
        if !self.quiet {
            let mut ids: Vec<String> = Vec::new();
            for (_, digest, _) in layers {
                if !ids.contains(&digest.short()) {
                    ids.push(digest.short());
                }
            }
            self.lines.begin(&ids, "Waiting");
        }
    }
}

/// Pulls one name and tells of it, but for the last line.
pub fn fetch(
    store: &mut Store,
    session: &Session,
    name: &Reference,
    platform: Option<&Platform>,
    options: &Options,
    (stream, quiet): (Stream, bool),
) -> Result<Pulled, image::Error> {
    let screen = Screen::new(stream, quiet, name);
    let pulled = image::pull(store, session, name, platform, options, &screen);
    screen.lines.end();
    let pulled = pulled?;
    screen.line(&format!("Digest: {}", pulled.digest));
    Ok(pulled)
}

fn status(newer: bool, name: &str) -> String {
    if newer {
        format!("Status: Downloaded newer image for {name}")
    } else {
        format!("Status: Image is up to date for {name}")
    }
}

/// Brings the image that `run` or `create` wants; everything that is shown goes to standard error.
pub fn fetch_for_run(
    globals: &Globals,
    store: &mut Store,
    image: &str,
    platform: Option<&str>,
    quiet: bool,
) -> Result<(), String> {
    let name = Reference::parse(image).map_err(|error| error.to_string())?.tagged();
    let text = |failure: Failure| {
        failure.message.strip_prefix("Error response from daemon: ").unwrap_or(&failure.message).to_owned()
    };
    let platform = self::platform(platform).map_err(text)?;
    let session = session(globals).map_err(text)?;
    let options = Options::from_env().map_err(|error| error.to_string())?;
    let shown = (Stream::Err, quiet);
    let pulled =
        fetch(store, &session, &name, platform.as_ref(), &options, shown).map_err(|e| e.to_string())?;
    if !quiet {
        Stream::Err.write(&format!("{}\n", status(pulled.newer, &name.familiar())));
    }
    Ok(())
}

/// A session for a build, whose errors are told by the build.
pub fn quiet_session(globals: &Globals) -> Result<Session, bulkhead_engine::registry::Error> {
    let settings = Settings::load(&globals.layout(), &env::lookup)?;
    Ok(Session::new(settings, DockerConfig::load(&env::lookup)?))
}

/// Brings an image that a build begins with; the build itself tells of it.
pub fn fetch_for_build(
    store: &mut Store,
    session: &Session,
    name: &Reference,
    platform: Option<&str>,
) -> Result<(), image::Error> {
    // What is no platform was refused before.
    let platform = platform.and_then(|text| Platform::parse(text).ok());
    let options = Options::from_env()?;
    fetch(store, session, name, platform.as_ref(), &options, (Stream::Err, true)).map(drop)
}

/// `bulkhead pull`
pub fn pull(globals: &Globals, args: &PullArgs) -> Result<u8, Failure> {
    let name = Reference::parse(&args.name).map_err(Failure::plain_from)?;
    let bare = name.tag().is_none() && name.digest().is_none();
    if args.all_tags && !bare {
        return Err(Failure::plain("tag can't be used with --all-tags/-a"));
    }
    let platform = platform(args.platform.as_deref())?;
    let options = Options::with_method(args.unpack.as_deref()).map_err(Failure::daemon)?;
    let session = session(globals)?;
    if bare && !args.all_tags && !args.quiet {
        line("Using default tag: latest")?;
    }
    let mut store = store(globals)?;
    let (names, shown) = if args.all_tags {
        (image::pull_tags(&session, &name).map_err(Failure::daemon)?, name)
    } else {
        let name = name.tagged();
        (vec![name.clone()], name)
    };
    let mut newer = false;
    for name in &names {
        let to = (Stream::Out, args.quiet);
        let pulled =
            fetch(&mut store, &session, name, platform.as_ref(), &options, to).map_err(Failure::daemon)?;
        newer |= pulled.newer;
    }
    if !args.quiet {
        line(&status(newer, &shown.familiar()))?;
    }
    line(&shown.to_string())?;
    Ok(0)
}

const SEARCH_TITLES: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];

/// `bulkhead search`
pub fn search(globals: &Globals, args: &SearchArgs) -> Result<u8, Failure> {
    let search = Search::new(&args.term, args.limit, &args.filter).map_err(Failure::daemon)?;
    let found = search.run(&session(globals)?).map_err(Failure::daemon)?;
    let rows = found.into_iter().map(|one| {
        let description = one.description.replace(['\n', '\r'], " ");
        json!({
            "Name": one.name,
            "Description": if args.no_trunc { description } else { human::ellipsis(&description, 45) },
            "StarCount": one.stars.to_string(),
            "IsOfficial": if one.official { "[OK]" } else { "" },
            "IsAutomated": "",
        })
    });
    Listing {
        table: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
        titles: SEARCH_TITLES,
        type_name: "*formatter.searchContext",
    }
    .print(args.format.as_deref(), rows.collect())
}

/// What a push shows. Docker calls a layer by its tar here.
struct Sending {
    quiet: bool,
    lines: Lines,
}

impl PushWatcher for Sending {
    fn layers(&self, layers: &[DiffId]) {
        if !self.quiet {
            let mut ids: Vec<String> = Vec::new();
            // Docker's order: the newest first.
            for layer in layers.iter().rev() {
                if !ids.contains(&layer.0.short()) {
                    ids.push(layer.0.short());
                }
            }
            self.lines.begin(&ids, "Preparing");
        }
    }

    fn packing(&self, layer: &DiffId) {
        if !self.quiet {
            self.lines.set(&layer.0.short(), "Compressing");
        }
    }

    fn begin(&self, layer: &DiffId, bytes: u64) {
        if !self.quiet {
            self.lines.measure(&layer.0.short(), "Pushing", bytes);
        }
    }

    fn advance(&self, layer: &DiffId, bytes: u64) {
        if !self.quiet {
            self.lines.advance(&layer.0.short(), bytes);
        }
    }

    fn done(&self, layer: &DiffId, how: &Placed) {
        if !self.quiet {
            let status = match how {
                Placed::Exists => "Layer already exists".to_owned(),
                Placed::Mounted(from) => format!("Mounted from {from}"),
                Placed::Sent => "Pushed".to_owned(),
            };
            self.lines.finish(&layer.0.short(), &status);
        }
    }
}

/// Sends an image under one of its names, and shows how far it is.
fn send(
    store: &mut Store,
    session: &Session,
    name: &Reference,
    packing: Packing,
    given: bool,
    (stream, quiet): (Stream, bool),
) -> Result<image::Pushed, image::Error> {
    let sending = Sending { quiet, lines: Lines::on(stream) };
    let pushed = image::push(store, session, name, packing, given, &sending);
    sending.lines.end();
    pushed
}

/// Sends what was built, in the format in which registries have layers.
pub fn push_built(
    store: &mut Store,
    session: &Session,
    name: &Reference,
    quiet: bool,
) -> Result<image::Pushed, Failure> {
    let packing = Packing::new(Compression::Gzip, None).map_err(Failure::plain_from)?;
    send(store, session, name, packing, false, (Stream::Err, quiet)).map_err(|error| {
        let name = name.familiar();
        Failure::plain(format!("ERROR: failed to build: failed to solve: failed to push {name}: {error}"))
    })
}

/// `bulkhead push`
pub fn push(globals: &Globals, args: &PushArgs) -> Result<u8, Failure> {
    let name = Reference::parse(&args.name).map_err(Failure::plain_from)?;
    if name.digest().is_some() {
        return Err(Failure::plain("cannot push a digest reference"));
    }
    if args.all_tags && name.tag().is_some() {
        return Err(Failure::plain("tag can't be used with --all-tags/-a"));
    }
    let compression = match args.compression_format.as_deref() {
        Some("zstd") => Compression::Zstd,
        _ => Compression::Gzip,
    };
    let packing = Packing::new(compression, args.compression_level).map_err(Failure::plain_from)?;
    let given = args.compression_format.is_some() || args.compression_level.is_some();
    let session = session(globals)?;
    let mut store = store(globals)?;
    let names = if args.all_tags {
        image::tags(&store, &name).map_err(Failure::daemon)?
    } else {
        if name.tag().is_none() && !args.quiet {
            line("Using default tag: latest")?;
        }
        vec![name.clone().tagged()]
    };
    if !args.quiet {
        line(&format!("The push refers to repository [{}]", name.repository()))?;
    }
    for name in &names {
        let to = (Stream::Out, args.quiet);
        let pushed = send(&mut store, &session, name, packing, given, to).map_err(Failure::daemon)?;
        if !args.quiet {
            let tag = name.tag().unwrap_or("latest");
            line(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size))?;
        }
    }
    if args.quiet {
        line(&names.first().unwrap_or(&name).to_string())?;
    }
    Ok(0)
}

/// The domain of the server that is meant, and the name it is kept under.
fn server(given: Option<&str>) -> Result<(String, String), Failure> {
    let given = given.unwrap_or_default();
    credentials::server(given).ok_or_else(|| Failure::plain(format!("invalid registry {given:?}")))
}

/// `bulkhead login`
pub fn login(globals: &Globals, args: &LoginArgs) -> Result<u8, Failure> {
    let (domain, key) = server(args.server.as_deref())?;
    if args.password.is_some() {
        warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if args.password_stdin {
            return Err(Failure::plain("--password and --password-stdin are mutually exclusive"));
        }
    }
    let mut password = args.password.clone();
    if args.password_stdin {
        if args.username.as_deref().is_none_or(str::is_empty) {
            return Err(Failure::plain("Must provide --username with --password-stdin"));
        }
        let mut text = String::new();
        io::stdin()
            .take(64 << 10)
            .read_to_string(&mut text)
            .map_err(|error| Failure::plain(format!("read standard input: {error}")))?;
        password = Some(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    let mut config = docker_config()?;
    let settings = Settings::load(&globals.layout(), &env::lookup).map_err(Failure::daemon)?;
    let check = |credentials: &Credentials| {
        Session::new(settings.clone(), config.clone()).login(&domain, credentials).map_err(Failure::daemon)
    };
    if args.username.is_none()
        && password.is_none()
        && let Some(known) = config.get(&key).map_err(Failure::plain_from)?
    {
        line("Authenticating with existing credentials...")?;
        match check(&known) {
            Ok(()) => {
                line("Login Succeeded")?;
                return Ok(0);
            }
            Err(failure) => warn(&format!("Login did not succeed, error: {}", failure.message)),
        }
    }
    let username = match &args.username {
        Some(name) => name.clone(),
        None => ask("Username: ", true)?,
    };
    let username = username.trim().to_owned();
    if username.is_empty() {
        return Err(Failure::plain("Error: Non-null Username Required"));
    }
    let password = match password {
        Some(password) => password,
        None => ask("Password: ", false)?,
    };
    if password.is_empty() {
        return Err(Failure::plain("Error: Password Required"));
    }
    let credentials = Credentials::new(username, password);
    check(&credentials)?;
    match config.store(&key, &credentials).map_err(Failure::plain_from)? {
        Kept::Plain(path) => warn(&format!(
            "WARNING! Your password will be stored unencrypted in {}.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/engine/reference/commandline/login/#credential-stores\n",
            path.display()
        )),
        Kept::Helper => {}
    }
    line("Login Succeeded")?;
    Ok(0)
}

fn warn(text: &str) {
    Stream::Err.write(&format!("{text}\n"));
}

/// Asks whoever sits at the terminal.
fn ask(prompt: &str, echo: bool) -> Result<String, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::plain("Error: Cannot perform an interactive login from a non TTY device"));
    }
    let _ = write!(io::stdout(), "{prompt}");
    let _ = io::stdout().flush();
    let failed = |errno: nix::errno::Errno| Failure::plain(format!("tcsetattr: {errno}"));
    let saved = termios::tcgetattr(stdin.as_fd()).map_err(failed)?;
    if !echo {
        let mut silent = saved.clone();
        silent.local_flags.remove(termios::LocalFlags::ECHO);
        termios::tcsetattr(stdin.as_fd(), termios::SetArg::TCSANOW, &silent).map_err(failed)?;
    }
    let mut text = String::new();
    let read = stdin.lock().read_line(&mut text);
    if !echo {
        termios::tcsetattr(stdin.as_fd(), termios::SetArg::TCSANOW, &saved).map_err(failed)?;
        let _ = writeln!(io::stdout());
    }
    read.map_err(|error| Failure::plain(format!("read the terminal: {error}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// `bulkhead logout`
pub fn logout(_globals: &Globals, args: &LogoutArgs) -> Result<u8, Failure> {
    let (_, key) = server(args.server.as_deref())?;
    let mut config = docker_config()?;
    line(&format!("Removing login credentials for {key}"))?;
    if !config.erase(&key).map_err(Failure::plain_from)? {
        line(&format!("Not logged in to {key}"))?;
    }
    Ok(0)
}
