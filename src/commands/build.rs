//! `build`: from flags to the engine's options, and what is shown meanwhile, in BuildKit's plain words.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bulkhead_engine::build::context::{self, LONGEST, Stdin};
use bulkhead_engine::build::git;
use bulkhead_engine::build::pattern::Ignore;
use bulkhead_engine::build::tree::Tree;
use bulkhead_engine::build::{self, Error, Failed, Options, Outcome, Secret, Watcher, cache, solve};
use bulkhead_engine::config::Resources;
use bulkhead_engine::digest::Digest;
use bulkhead_engine::image::{self, Image, Platform, Reference};
use bulkhead_engine::layer::Packing;
use bulkhead_engine::registry::Session;
use bulkhead_engine::store::{Scratch, Store};

use super::lifecycle::store;
use super::store::into_file;
use super::{prune, registry};
use crate::cli::Globals;
use crate::cli::build::{BuildArgs, PruneArgs};
use crate::failure::Failure;
use crate::options::output::{self, Output, Place};
use crate::options::{cache as flags, env};
use crate::output::{human, line};

/// Lines of a failed step that are shown again.
const SHOWN_AGAIN: usize = 20;

/// One step as it is shown.
struct Vertex {
    name: String,
    began: Instant,
    /// What has come without a line's end, of both streams.
    rest: [Vec<u8>; 2],
    /// Its last lines, with their times.
    log: Vec<String>,
    failed: bool,
}

/// Shows steps on standard error as they come.
struct Plain {
    quiet: bool,
    /// Steps of the command itself, before the engine's.
    own: usize,
    vertices: Mutex<Vec<Vertex>>,
}

impl Plain {
    fn write(&self, text: &str) {
        if !self.quiet {
            // Whoever stops reading what a build says does not stop the build.
            let _ = io::stderr().lock().write_all(text.as_bytes());
        }
    }

    fn start(&self, name: &str) -> usize {
        let mut vertices = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        vertices.push(Vertex {
            name: name.to_owned(),
            began,
            rest: [Vec::new(), Vec::new()],
            log: Vec::new(),
            failed: false,
        });
        self.write(&format!("#{} {name}\n", vertices.len()));
        vertices.len()
    }

    fn say(&self, number: usize, text: &str) {
        self.write(&format!("#{number} {text}\n"));
    }

    fn finish(&self, number: usize, outcome: Outcome<'_>) {
        let mut vertices = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(vertex) = vertices.get_mut(number - 1) else { return };
        let seconds = vertex.began.elapsed().as_secs_f64();
        for rest in std::mem::take(&mut vertex.rest) {
            if !rest.is_empty() {
                let text = logged(seconds, &rest);
                self.write(&format!("#{number} {text}\n"));
                vertex.log.push(text);
            }
        }
        vertex.failed = matches!(outcome, Outcome::Failed(_));
        self.write(&match outcome {
            Outcome::Done => format!("#{number} DONE {seconds:.1}s\n\n"),
            Outcome::Cached => format!("#{number} CACHED\n\n"),
            Outcome::Canceled => format!("#{number} CANCELED\n\n"),
            Outcome::Failed(why) => format!("#{number} ERROR: {}\n", printable(why)),
        });
    }

    /// A small step of the command's own.
    fn own(&mut self, name: &str, status: &str) {
        let number = self.start(name);
        self.say(number, status);
        self.finish(number, Outcome::Done);
        self.own = number;
    }

    /// The failed step once more, with the end of its output.
    fn failed_step(&self) -> Option<String> {
        let vertices = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        let vertex = vertices.iter().rev().find(|vertex| vertex.failed)?;
        let from = vertex.log.len().saturating_sub(SHOWN_AGAIN);
        let log: String = vertex.log[from..].iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        Some(format!("------\n > {}:\n{log}------\n", vertex.name))
    }
}

/// A line of a step's output, with when it came. What would move a terminal's cursor is left out.
fn logged(seconds: f64, bytes: &[u8]) -> String {
    format!("{seconds:.3} {}", printable(String::from_utf8_lossy(bytes).trim_end_matches('\r')))
}

fn printable(text: &str) -> String {
    // Colours are a program's own; what else controls a terminal is not for a log.
    text.chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\u{1b}')).collect()
}

impl Watcher for Plain {
    fn begin(&self, _step: usize, name: &str) {
        self.start(name);
    }

    fn output(&self, step: usize, error: bool, bytes: &[u8]) {
        let number = self.own + step + 1;
        let mut vertices = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(vertex) = vertices.get_mut(number - 1) else { return };
        let seconds = vertex.began.elapsed().as_secs_f64();
        let rest = &mut vertex.rest[usize::from(error)];
        rest.extend_from_slice(bytes);
        let Some(end) = rest.iter().rposition(|b| *b == b'\n') else {
            // A program that never ends a line is not to fill our memory.
            if rest.len() > 64 << 10 {
                let text = logged(seconds, &std::mem::take(rest));
                self.write(&format!("#{number} {text}\n"));
                vertex.log.push(text);
            }
            return;
        };
        let whole: Vec<u8> = rest.drain(..=end).collect();
        let mut shown = String::new();
        for line in whole[..end].split(|b| *b == b'\n') {
            let text = logged(seconds, line);
            let _ = writeln!(shown, "#{number} {text}");
            vertex.log.push(text);
        }
        let old = vertex.log.len().saturating_sub(SHOWN_AGAIN);
        vertex.log.drain(..old);
        self.write(&shown);
    }

    fn status(&self, step: usize, text: &str) {
        self.say(self.own + step + 1, text);
    }

    fn end(&self, step: usize, outcome: Outcome<'_>) {
        self.finish(self.own + step + 1, outcome);
    }
}

/// An error before a build has begun.
fn refused(text: impl std::fmt::Display) -> Failure {
    Failure::plain(format!("ERROR: {text}"))
}

/// An error of the build.
fn failed(error: &Error) -> Failure {
    Failure::plain(format!("ERROR: failed to build: failed to solve: {}", printable(&error.to_string())))
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// A path that means the same whatever becomes of the working directory, which a mount may change.
fn absolute(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path))
}

/// `id=x[,src=path][,env=NAME]`.
fn secret(text: &str) -> Result<(String, Secret), Failure> {
    let (mut id, mut source) = (None, None);
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| refused(format!("invalid field '{field}' must be a key=value pair")))?;
        match key.to_ascii_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => source = Some(Secret::File(absolute(value))),
            "env" => {
                let text = env::lookup(value)
                    .ok_or_else(|| refused(format!("environment variable {value} of secret is not set")))?;
                source = Some(Secret::Value(text));
            }
            "type" if matches!(value, "file" | "env") => {}
            _ => return Err(refused(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| refused("secret missing id"))?;
    let source = source.unwrap_or_else(|| match env::lookup(&id) {
        Some(text) => Secret::Value(text),
        None => Secret::File(absolute(&id)),
    });
    Ok((id, source))
}

/// Where a build comes from.
struct Found {
    /// The Dockerfile as it is shown.
    name: String,
    text: Vec<u8>,
    context: Option<Tree>,
    /// Of the `.dockerignore`; `None` without one.
    ignored: Option<usize>,
    /// Held until the build is over.
    scratch: Option<Scratch>,
    /// The repository that it was fetched from, and the commit.
    commit: Option<(String, String)>,
}

/// A file of the host's that is not absurdly long.
fn read_file(path: &Path, shown: &str) -> Result<Vec<u8>, Failed> {
    use std::io::Read as _;
    let io = |source| Error::Io { call: "open", path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoDockerfile(shown.to_owned()).into());
        }
        other => other.map_err(io)?,
    };
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::TooLarge { what: shown.to_owned(), limit: LONGEST }.into());
    }
    Ok(text)
}

fn read_stdin() -> Result<Vec<u8>, Failed> {
    read_file(Path::new("/dev/stdin"), "/dev/stdin")
}

/// `NAME.dockerignore` beside the Dockerfile, or the context's own `.dockerignore`.
fn ignore_of(beside: Option<&Path>, context: &Tree) -> Result<Option<Vec<u8>>, Failed> {
    if let Some(dockerfile) = beside {
        let mut name = dockerfile.as_os_str().to_owned();
        name.push(".dockerignore");
        let path = PathBuf::from(name);
        if path.is_file() {
            return Ok(Some(read_file(&path, &path.display().to_string())?));
        }
    }
    Ok(context.read(".dockerignore", LONGEST)?)
}

/// What was unpacked into scratch: the Dockerfile and all that is ignored are in it. `open` opens the context.
fn unpacked(
    file: Option<&str>,
    scratch: Scratch,
    open: impl Fn(&Scratch, Ignore) -> Result<Tree, Error>,
) -> Result<Found, Failed> {
    let plain = open(&scratch, Ignore::default())?;
    let name = match file {
        Some("-") | None => "Dockerfile",
        Some(name) => name,
    };
    let text = match file {
        Some("-") => read_stdin()?,
        _ => plain.read(name, LONGEST)?.ok_or_else(|| Error::NoDockerfile(name.to_owned()))?,
    };
    let own = plain.read(&format!("{name}.dockerignore"), LONGEST)?;
    let ignore = match own {
        Some(text) => Some(text),
        None => plain.read(".dockerignore", LONGEST)?,
    };
    let context = open(&scratch, Ignore::parse(ignore.as_deref().unwrap_or_default()))?;
    Ok(Found {
        name: name.to_owned(),
        text,
        context: Some(context),
        ignored: ignore.map(|text| text.len()),
        scratch: Some(scratch),
        commit: None,
    })
}

/// A repository, fetched.
fn repository(remote: &git::Remote, file: Option<&str>, scratch: Scratch) -> Result<Found, Failure> {
    let fetched = git::fetch(remote, &scratch).map_err(|error| {
        let why = printable(&error.to_string());
        refused(format!(
            "unable to prepare context: unable to 'git clone' to temporary context directory: {why}"
        ))
    })?;
    let open = |_: &Scratch, ignore| {
        let path = || PathBuf::from(remote.shown());
        let io = |source| Error::Io { call: "dup", path: path(), source };
        Ok(Tree::new(fetched.root.try_clone().map_err(io)?, ignore, true))
    };
    let found = unpacked(file, scratch, open).map_err(|failure| failed(&failure.error))?;
    Ok(Found { commit: Some((remote.shown(), fetched.commit.clone())), ..found })
}

fn find(args: &BuildArgs, layout: &Store) -> Result<Found, Failure> {
    let told = |failed: Failed| self::failed(&failed.error);
    let file = args.file.as_deref();
    if args.path == "-" {
        if file == Some("-") {
            return Err(refused("invalid argument: can't use stdin for both build context and dockerfile"));
        }
        let scratch = layout.scratch().map_err(|error| refused(&error))?;
        return match context::stdin(io::stdin().lock(), &scratch).map_err(|error| failed(&error))? {
            Stdin::Text(text) => Ok(Found {
                name: "Dockerfile".to_owned(),
                text,
                context: None,
                ignored: None,
                scratch: None,
                commit: None,
            }),
            Stdin::Unpacked => {
                unpacked(file, scratch, |scratch, ignore| context::directory(scratch.path(), ignore))
                    .map_err(told)
            }
        };
    }
    let directory = Path::new(&args.path);
    // A directory of that name comes first, as in Docker.
    if !directory.is_dir()
        && let Some(remote) = git::Remote::parse(&args.path)
    {
        let scratch = layout.scratch().map_err(|error| refused(&error))?;
        return repository(&remote, file, scratch);
    }
    if ["http://", "https://"].iter().any(|scheme| args.path.starts_with(scheme)) {
        return Err(refused(format!(
            "unable to prepare context: remote contexts are not supported: {}",
            args.path
        )));
    }
    match std::fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refused(format!("unable to prepare context: path {:?} not found", args.path)));
        }
        Err(error) => return Err(refused(format!("unable to prepare context: {}: {error}", args.path))),
        Ok(meta) if !meta.is_dir() => {
            return Err(refused(format!(
                "unable to prepare context: context must be a directory: {}",
                args.path
            )));
        }
        Ok(_) => {}
    }
    let path = match file {
        Some("-") => None,
        Some(file) => Some(PathBuf::from(file)),
        None => Some(directory.join("Dockerfile")),
    };
    let name = match &path {
        None => "Dockerfile".to_owned(),
        Some(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let text = match &path {
        None => read_stdin(),
        Some(path) => read_file(path, &name),
    };
    let text = text.map_err(told)?;
    let plain = context::directory(directory, Ignore::default()).map_err(|error| failed(&error))?;
    let ignore = ignore_of(path.as_deref(), &plain).map_err(told)?;
    let rules = Ignore::parse(ignore.as_deref().unwrap_or_default());
    let context = context::directory(directory, rules).map_err(|error| failed(&error))?;
    Ok(Found {
        name,
        text,
        context: Some(context),
        ignored: ignore.map(|text| text.len()),
        scratch: None,
        commit: None,
    })
}

/// The lines that a failure is about, among their neighbours, as BuildKit prints them.
fn excerpt(name: &str, text: &str, first: usize, last: usize) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let last = last.min(lines.len()).max(first);
    let (mut from, mut to) = (first, last);
    let mut padded = 0;
    while padded < 4 {
        if from > 1 {
            from -= 1;
            padded += 1;
        }
        if to < lines.len() {
            to += 1;
            padded += 1;
        }
        padded += 1;
    }
    let mut shown = format!("{name}:{first}\n--------------------\n");
    for n in from..=to {
        let mark = if (first..=last).contains(&n) { ">>>" } else { "   " };
        let line = printable(lines.get(n - 1).copied().unwrap_or_default().trim_end_matches('\r'));
        let _ = writeln!(shown, " {n:>3} | {mark} {line}");
    }
    shown.push_str("--------------------\n");
    shown
}

/// Where what is built goes: `--output`, and the words for two of them.
fn outputs(args: &BuildArgs) -> Result<Vec<Output>, Failure> {
    let is_terminal = io::stdout().is_terminal();
    let mut outputs = args
        .output
        .iter()
        .map(|text| output::parse(text, is_terminal).map_err(refused))
        .collect::<Result<Vec<_>, _>>()?;
    if args.push {
        if args.tag.is_empty() {
            return Err(refused("tag is needed when pushing to registry"));
        }
        outputs.push(Output::Image { names: Vec::new(), push: true });
    }
    if args.load {
        outputs.push(Output::Image { names: Vec::new(), push: false });
    }
    Ok(outputs)
}

/// Brings what was built to one of its destinations.
fn deliver(
    store: &mut Store,
    plain: &mut Plain,
    built: &Image,
    names: &[Reference],
    output: &Output,
    session: &dyn Fn() -> Result<Session, bulkhead_engine::registry::Error>,
) -> Result<(), Failure> {
    let told = |error: &dyn std::fmt::Display| {
        Failure::plain(format!("ERROR: failed to build: failed to solve: {}", printable(&error.to_string())))
    };
    let files = |store: &Store, place: &Place, is_tar: bool| {
        let write = |out: &mut dyn io::Write| {
            if is_tar {
                return build::output::tar(store, built, out).map_err(|error| failed(&error));
            }
            let mut named: Vec<String> = names.iter().map(ToString::to_string).collect();
            if named.is_empty() {
                named.push(built.id.to_string());
            }
            image::save(store, &named, Packing::PLAIN, out).map_err(|error| told(&error))
        };
        match place {
            Place::File(path) => into_file(&path.display().to_string(), "ERROR: failed to build", write),
            Place::Stdout => {
                let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
                write(&mut out)?;
                out.flush().map_err(|error| Failure::stdout(&error))
            }
        }
    };
    match output {
        Output::Image { push: false, .. } => Ok(()),
        Output::Image { push: true, .. } => {
            let session = session().map_err(|error| told(&error))?;
            for name in names {
                let pushed = registry::push_built(store, &session, name, plain.quiet)?;
                let manifest = format!("pushing manifest for {name}@{} done", pushed.digest);
                plain.own(&format!("pushing {}", name.familiar()), &manifest);
            }
            Ok(())
        }
        Output::Local(dir) => {
            build::output::directory(store, built, dir).map_err(|error| failed(&error))?;
            plain.own("exporting to client directory", &format!("copying files to {} done", dir.display()));
            Ok(())
        }
        Output::Tar(place) => {
            files(store, place, true)?;
            plain.own("exporting to client tarball", "sending tarball done");
            Ok(())
        }
        Output::Archive(place) => {
            files(store, place, false)?;
            plain.own("exporting to docker image format", "sending tarball done");
            Ok(())
        }
    }
}

/// What `--metadata-file` says, in buildx's words: of files without an image there is nothing to say.
fn metadata(id: Option<&Digest>, names: &[Reference]) -> serde_json::Value {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut all = serde_json::json!({});
    if let Some(id) = id {
        all["containerimage.config.digest"] = id.to_string().into();
        all["containerimage.digest"] = id.to_string().into();
    }
    if !names.is_empty() {
        all["image.name"] = names.join(",").into();
    }
    all
}

/// A small file that says what was made, which is there as a whole or not at all.
fn say(path: &Path, text: &str) -> Result<(), Failure> {
    let shown = path.display().to_string();
    into_file(&shown, "ERROR", |out| {
        out.write_all(text.as_bytes())
            .map_err(|error| refused(format!("write {shown}: {}", env::reason(&error))))
    })
}

/// `bulkhead build`
pub fn run(globals: &Globals, args: &BuildArgs) -> Result<u8, Failure> {
    let outputs = outputs(args)?;
    // Who wants files wants no image, and no name of an older one moved.
    let only_files = !outputs.is_empty()
        && outputs.iter().all(|output| matches!(output, Output::Local(_) | Output::Tar(_)));
    let further = outputs.iter().flat_map(|output| match output {
        Output::Image { names, .. } => names.as_slice(),
        _ => &[],
    });
    let names = args
        .tag
        .iter()
        .chain(further)
        .filter(|_| !only_files)
        .map(|text| {
            let name =
                Reference::parse(text).map_err(|error| refused(format!("invalid tag {text:?}: {error}")))?;
            if name.digest().is_some() {
                return Err(refused(format!("invalid tag {text:?}: {}", image::Error::TagDigest)));
            }
            Ok(name.tagged())
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let build_args = args.build_arg.iter().filter_map(|text| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => env::lookup(text).map(|value| (text.clone(), value)),
    });
    let platform = args.platform.as_deref().map(Platform::parse).transpose();
    platform.map_err(|error| refused(format!("failed to parse platform: {error}")))?;
    let iidfile = args.iidfile.as_deref().map(absolute);
    let metadata_file = args.metadata_file.as_deref().map(absolute);
    if args.no_cache && !args.no_cache_filter.is_empty() {
        return Err(refused("--no-cache and --no-cache-filter cannot currently be used together"));
    }
    let mut cache_from = Vec::new();
    for text in &args.cache_from {
        cache_from.extend(flags::sources(text).map_err(refused)?);
    }
    for text in &args.cache_to {
        flags::inline(text).map_err(refused)?;
    }
    let secrets = args.secret.iter().map(|text| secret(text)).collect::<Result<Vec<_>, _>>()?;
    let mut store = store(globals)?;
    let quiet = args.quiet || matches!(args.progress.as_str(), "quiet" | "none");
    let mut plain = Plain { quiet, own: 0, vertices: Mutex::default() };
    let found = find(args, &store)?;
    let Ok(text) = String::from_utf8(found.text) else {
        return Err(failed(&Error::NotText(found.name)));
    };
    if let Some((repository, commit)) = &found.commit {
        plain.own(&format!("[internal] load git source {repository}"), &format!("{commit} HEAD"));
    }
    plain.own(
        &format!("[internal] load build definition from {}", found.name),
        &format!("transferring dockerfile: {} done", solve::bytes(text.len() as u64)),
    );
    if let Some(size) = found.ignored {
        plain.own(
            "[internal] load .dockerignore",
            &format!("transferring context: {} done", solve::bytes(size as u64)),
        );
    }
    let known: Vec<Digest> = if only_files {
        image::list(&store).map_err(|error| refused(&error))?.iter().map(|image| image.id).collect()
    } else {
        Vec::new()
    };
    let options = Options {
        dockerfile: text,
        lasting: found.scratch.is_none(),
        context: found.context,
        names,
        args: build_args.collect(),
        target: args.target.clone(),
        labels: args.label.iter().map(|text| pair(text)).collect(),
        no_cache: args.no_cache,
        no_cache_filter: args.no_cache_filter.clone(),
        cache_from,
        inline_cache: !args.cache_to.is_empty(),
        pull: args.pull,
        network: args.network.clone(),
        hosts: args.add_host.clone(),
        shm_size: args.shm_size.unwrap_or(0),
        resources: Resources {
            memory: args.memory.unwrap_or(0),
            memory_swap: args.memory_swap.unwrap_or(0),
            nano_cpus: args.cpus.unwrap_or(0),
            cpu_shares: args.cpu_shares.unwrap_or(0),
            cpu_period: args.cpu_period.unwrap_or(0),
            cpu_quota: args.cpu_quota.unwrap_or(0),
            cpuset_cpus: args.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: args.cpuset_mems.clone().unwrap_or_default(),
            ulimits: args.ulimit.clone(),
            ..Resources::default()
        },
        cgroup_parent: args.cgroup_parent.clone().unwrap_or_else(|| globals.cgroup_parent.clone()),
        platform: args.platform.clone(),
        secrets,
    };
    // Nobody's settings are read unless a registry or a server is asked.
    let session: std::sync::OnceLock<Session> = std::sync::OnceLock::new();
    let session = || match session.get() {
        Some(session) => Ok(session),
        None => registry::quiet_session(globals).map(|made| session.get_or_init(|| made)),
    };
    let fetch = |store: &mut Store, name: &Reference, platform: Option<&str>| {
        registry::fetch_for_build(store, session()?, name, platform)
    };
    let download = |url: &str, file: &std::fs::File| session()?.download(url, file);
    let built = build::build(&mut store, &options, &plain, &fetch, &download).map_err(|failure| {
        let mut err = io::stderr().lock();
        if let Some(block) = plain.failed_step() {
            let _ = err.write_all(block.as_bytes());
        }
        if let Some((first, last)) = failure.lines {
            let _ = err.write_all(excerpt(&found.name, &options.dockerfile, first, last).as_bytes());
        }
        failed(&failure.error)
    })?;
    if !built.unused.is_empty() && !quiet {
        let _ = writeln!(
            io::stderr(),
            "[Warning] One or more build-args [{}] were not consumed",
            built.unused.join(" ")
        );
    }
    if !outputs.is_empty() {
        let image = image::get(&store, &built.id)
            .and_then(|found| found.ok_or_else(|| image::Error::NoSuchImage(built.id.to_string())));
        let image = image.map_err(|error| refused(&error))?;
        let session = || registry::quiet_session(globals);
        let mut deliver =
            |output: &Output| deliver(&mut store, &mut plain, &image, &options.names, output, &session);
        let delivered = outputs.iter().try_for_each(&mut deliver);
        if only_files && !known.contains(&built.id) {
            image::remove(&mut store, &built.id.to_string(), false).map_err(|error| refused(&error))?;
        }
        delivered?;
    }
    // An image that was taken back, or never asked for, has no name to hand on: buildx leaves the file empty too.
    let id = (!only_files).then_some(&built.id);
    if let Some(path) = &iidfile {
        say(path, &id.map(ToString::to_string).unwrap_or_default())?;
    }
    if let Some(path) = &metadata_file {
        say(path, &format!("{:#}", metadata(id, &options.names)))?;
    }
    let is_stdout =
        |output: &Output| matches!(output, Output::Tar(Place::Stdout) | Output::Archive(Place::Stdout));
    if quiet && args.progress != "none" && !outputs.iter().any(is_stdout) {
        line(&built.id.to_string())?;
    }
    store.checkpoint();
    Ok(0)
}

/// `bulkhead builder prune`
pub fn prune(globals: &Globals, args: &PruneArgs) -> Result<u8, Failure> {
    let what = if args.all { "all build cache" } else { "all dangling build cache" };
    if !args.force && !prune::confirmed(&format!("WARNING! This will remove {what}."))? {
        return Ok(0);
    }
    let mut store = store(globals)?;
    let (mut layers, freed) = cache::prune(&mut store, args.all).map_err(Failure::daemon)?;
    layers.sort();
    prune::report("Deleted build cache objects:", &layers)?;
    line(&format!("Total reclaimed space: {}", human::size4(freed)))?;
    Ok(0)
}

/// `bulkhead build-step ID CONTROL LOCK`
pub fn step(globals: &Globals, args: &crate::cli::container::MonitorArgs) -> Result<u8, Failure> {
    bulkhead_engine::container::step::main(globals.layout(), &args.id, args.control, args.lock)
        .map(|()| 0)
        .map_err(|error| Failure::new(125, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_among_its_neighbours() {
        let text = "FROM a\nRUN b\nRUN c\nRUN d\nRUN e\nRUN f\n";
        assert_eq!(
            excerpt("Dockerfile", text, 3, 3),
            "Dockerfile:3\n--------------------\n   1 |     FROM a\n   2 |     RUN b\n   3 | >>> RUN c\n   \
             4 |     RUN d\n   5 |     RUN e\n--------------------\n"
        );
        assert!(excerpt("D", "FROM a", 1, 1).contains("   1 | >>> FROM a\n"));
    }

    #[test]
    fn secrets_are_read() {
        assert_eq!(secret("id=a,src=/x").expect("file"), ("a".to_owned(), Secret::File("/x".into())));
        assert!(secret("src=/x").is_err() && secret("id=a,foo=b").is_err() && secret("id").is_err());
    }
}
