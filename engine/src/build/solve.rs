//! Walks the stages that a target needs, step by step.
//!
//! A stage is built when somebody asks for it: the target first, which asks for its base, and a `COPY --from`
//! or a mount for its own. What nobody asks for is never looked at. A stage that asks for itself on the way is
//! told so.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::UnlinkatFlags;
use sha2::{Digest as _, Sha256};

use super::cache::{self, Key, Made};
use super::dockerfile::{self, Command, Copy, Form, Instruction, Line, Mount, MountKind, Run, Source, Words};
use super::mode::Chmod;
use super::pattern::{Ignore, clean};
use super::place::{Place, relative};
use super::tree::{Found, Tree, open_directory};
use super::{
    Built, CACHES, Download, Error, Failed, Fetch, Options, Outcome, Secret, Watcher, context, inherit,
    output,
};
use crate::config::{Config, Empty, Healthcheck, HostConfig, MountPoint};
use crate::container::protocol::Event;
use crate::container::step::{self, Plan, Step, View};
use crate::container::{Record, attach, lifecycle, users};
use crate::digest::{ChainId, DiffId, Digest};
use crate::image::{self, History, Image, Recipe, Reference};
use crate::layer::{self, diff};
use crate::snapshot::Snapshot;
use crate::store::{Scratch, Store};

/// What BuildKit says of the history it writes.
const COMMENT: &str = "buildkit.dockerfile.v0";
/// The search path of an image made from nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Arguments that every build takes, for `RUN` alone, and that change nothing of what is cached.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];
/// /dev/shm of a step when nobody says otherwise, in bytes. Docker's value.
const SHM: i64 = 64 << 20;
/// Stages that need one another; each costs some frames.
const DEEPEST: usize = 256;
/// A secret of more bytes is none.
const LONGEST_SECRET: u64 = 512 << 10;

/// An image in the making.
#[derive(Debug, Clone, Default)]
struct State {
    config: Config,
    architecture: String,
    os: String,
    variant: Option<String>,
    author: Option<String>,
    diff_ids: Vec<DiffId>,
    chain: Vec<ChainId>,
    history: Vec<History>,
    /// When its topmost layer was made.
    created: Option<String>,
    /// `ARG`s of this stage, in order.
    args: Vec<(String, Option<String>)>,
    /// `CMD` was said in this stage.
    own_cmd: bool,
    /// Steps in the history of the image that it began with, as long as none has had a time of its own.
    untimed: Option<usize>,
}

impl State {
    fn scratch() -> Self {
        let config = Config { env: vec![PATH.to_owned()], working_dir: "/".to_owned(), ..Config::default() };
        Self {
            config,
            architecture: image::host_architecture().to_owned(),
            os: "linux".to_owned(),
            untimed: Some(0),
            ..Self::default()
        }
    }

    fn of(image: Image) -> Self {
        Self {
            config: image.config,
            architecture: image.architecture,
            os: if image.os.is_empty() { "linux".to_owned() } else { image.os },
            variant: image.variant,
            author: image.author,
            diff_ids: image.diff_ids,
            chain: image.chain,
            untimed: Some(image.history.len()),
            history: image.history,
            created: image.created,
            ..Self::default()
        }
    }

    /// The same for a stage that begins with it.
    fn base(&self) -> Self {
        Self { args: Vec::new(), own_cmd: false, ..self.clone() }
    }

    fn lookup(&self, name: &str) -> Option<String> {
        let of_env = self.config.env.iter().rev().find_map(|entry| {
            let (key, value) = entry.split_once('=')?;
            (key == name).then(|| value.to_owned())
        });
        of_env.or_else(|| {
            self.args.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.clone())
        })
    }

    /// `ARG`s with a value that no `ENV` hides, the last of each name.
    fn arguments(&self) -> Vec<String> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (name, value) in &self.args {
            let hidden = self.config.env.iter().any(|entry| entry.split('=').next() == Some(name));
            found.retain(|(have, _)| have != name);
            if let Some(value) = value
                && !hidden
            {
                found.push((name.clone(), value.clone()));
            }
        }
        found.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn shell(&self) -> Vec<String> {
        self.config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
    }

    fn note(&mut self, created_by: String) {
        self.history.push(History {
            created: self.created.clone(),
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            empty_layer: true,
            ..History::default()
        });
    }

    fn add(&mut self, made: &Made, created_by: String) {
        if let Some((chain, diff_id)) = made.layer {
            self.chain.push(chain);
            self.diff_ids.push(diff_id);
        }
        self.created = Some(made.created.clone());
        self.untimed = None;
        self.history.push(History {
            created: Some(made.created.clone()),
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            empty_layer: made.layer.is_none(),
            ..History::default()
        });
    }

    /// A path of the Dockerfile, from the root.
    fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.config.working_dir.trim_end_matches('/'))
        }
    }
}

/// `[name 2/4] ` in front of a stage's steps.
struct Counter {
    stage: String,
    total: usize,
    at: usize,
}

impl Counter {
    fn name(&mut self, text: &str) -> String {
        self.at += 1;
        let width = self.total.to_string().len();
        let stage = if self.stage.is_empty() { String::new() } else { format!("{} ", self.stage) };
        format!("[{stage}{:>width$}/{}] {text}", self.at, self.total)
    }
}

struct Builder<'a> {
    store: &'a mut Store,
    options: &'a Options,
    watcher: &'a dyn Watcher,
    fetch: Fetch<'a>,
    download: Download<'a>,
    file: dockerfile::Dockerfile,
    /// `ARG`s before the first `FROM`.
    globals: Vec<(String, Option<String>)>,
    /// Stages that have been built.
    built: Vec<Option<State>>,
    /// Stages that are being built.
    under_way: Vec<usize>,
    /// Images that have been found, and how they are shown.
    images: BTreeMap<(String, Option<String>), (State, String)>,
    /// `--build-arg`s that were asked for.
    used: HashSet<String>,
    steps: usize,
    context_shown: bool,
    /// What the images of `--cache-from` said.
    inherited: inherit::Inherited,
}

/// Builds an image.
pub fn build(
    store: &mut Store,
    options: &Options,
    watcher: &dyn Watcher,
    fetch: Fetch<'_>,
    download: Download<'_>,
) -> Result<Built, Failed> {
    let file = dockerfile::parse(&options.dockerfile)?;
    store.sweep_scratch()?;
    step::sweep(store)?;
    // No layer that a step has made goes away until an image has it.
    let _held = image::hold(store)?;
    let built = vec![None; file.stages.len()];
    let mut builder = Builder {
        store,
        options,
        watcher,
        fetch,
        download,
        file,
        globals: Vec::new(),
        built,
        under_way: Vec::new(),
        images: BTreeMap::new(),
        used: HashSet::new(),
        steps: 0,
        context_shown: false,
        inherited: inherit::Inherited::default(),
    };
    let lasting = options.context.as_ref().filter(|_| options.lasting);
    if let Some(context) = lasting {
        context.remember_in(&builder.store.layout().root.join(CACHES));
    }
    builder.read_globals()?;
    let target = builder.target()?;
    builder.inherit();
    let built = builder.stage(target);
    if let Some(context) = lasting {
        context.save_hashes(builder.store)?;
    }
    builder.export(built?)
}

impl Builder<'_> {
    fn begin(&mut self, name: &str) -> usize {
        let step = self.steps;
        self.steps += 1;
        self.watcher.begin(step, name);
        step
    }

    /// Runs `work` as a step.
    fn told<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&mut Self, usize) -> Result<(T, bool), Failed>,
    ) -> Result<T, Failed> {
        let step = self.begin(name);
        let result = work(self, step);
        match &result {
            Ok((_, cached)) => self.watcher.end(step, if *cached { Outcome::Cached } else { Outcome::Done }),
            Err(failed) => self.watcher.end(step, Outcome::Failed(&failed.error.to_string())),
        }
        result.map(|(value, _)| value)
    }

    fn given(&mut self, name: &str) -> Option<String> {
        let found = self.options.args.iter().rev().find(|(have, _)| have == name)?.1.clone();
        self.used.insert(name.to_owned());
        Some(found)
    }

    fn platform_arg(&self, name: &str) -> Option<String> {
        let here = format!("linux/{}", image::host_architecture());
        let target = self.options.platform.clone().unwrap_or_else(|| here.clone());
        let (of, field) = match (name.strip_prefix("TARGET"), name.strip_prefix("BUILD")) {
            (Some(field), _) => (target, field),
            (_, Some(field)) => (here, field),
            _ => return None,
        };
        let part = |n: usize| of.split('/').nth(n).unwrap_or_default().to_owned();
        Some(match field {
            "PLATFORM" => of.clone(),
            "OS" => part(0),
            "ARCH" => part(1),
            "VARIANT" => part(2),
            _ => return None,
        })
    }

    fn global(&self, name: &str) -> Option<String> {
        let found = self.globals.iter().rev().find(|(have, _)| have == name);
        found.and_then(|(_, value)| value.clone()).or_else(|| self.platform_arg(name))
    }

    fn expand_global(&self, word: &str) -> Result<String, Error> {
        let lookup = |name: &str| self.global(name);
        let words = Words { escape: self.file.escape, lookup: &lookup };
        words.expand(word).map_err(|reason| Error::Word { word: word.to_owned(), reason })
    }

    fn expand(&self, state: &State, word: &str) -> Result<String, Error> {
        let lookup = |name: &str| state.lookup(name);
        let words = Words { escape: self.file.escape, lookup: &lookup };
        words.expand(word).map_err(|reason| Error::Word { word: word.to_owned(), reason })
    }

    fn expand_all(&self, state: &State, words: &[String]) -> Result<Vec<String>, Error> {
        words.iter().map(|word| self.expand(state, word)).collect()
    }

    fn read_globals(&mut self) -> Result<(), Failed> {
        for (line, pairs) in self.file.arguments.clone() {
            for (name, default) in pairs {
                let value = match self.given(&name) {
                    Some(value) => Some(value),
                    None => match default {
                        Some(word) => Some(
                            self.expand_global(&word)
                                .map_err(|error| Failed { error, lines: Some((line.first, line.last)) })?,
                        ),
                        None => None,
                    },
                };
                self.globals.push((name, value));
            }
        }
        let mut seen = HashSet::new();
        for stage in &self.file.stages {
            if let Some(name) = &stage.name
                && !seen.insert(name)
            {
                let lines = Some((stage.line.first, stage.line.last));
                return Err(Failed { error: Error::DuplicateStage(name.clone()), lines });
            }
        }
        Ok(())
    }

    fn target(&self) -> Result<usize, Error> {
        let last = self.file.stages.len() - 1;
        let Some(wanted) = self.options.target.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(last);
        };
        self.named(wanted, self.file.stages.len()).ok_or_else(|| Error::NoTarget(wanted.to_owned()))
    }

    /// The stage of that name or number among the first `before`.
    fn named(&self, name: &str, before: usize) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let stages = &self.file.stages[..before];
        stages
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(&lower))
            .or_else(|| name.parse::<usize>().ok().filter(|n| *n < before))
    }

    /// Hears what other images say of their steps. One that cannot be had says nothing, and the build goes on.
    fn inherit(&mut self) {
        if self.options.no_cache {
            return;
        }
        for source in &self.options.cache_from {
            let name = Reference::parse(&source.name).map(Reference::tagged);
            let shown = name.as_ref().map_or_else(|_| source.name.clone(), ToString::to_string);
            let platform = self.options.platform.as_deref();
            let _ = self.told(&format!("importing cache manifest from {shown}"), |builder, step| {
                let here = image::find(builder.store, &source.name);
                let image = match (here, name) {
                    (Ok(image), _) if !source.remote => image,
                    (here, Ok(name)) => match ((builder.fetch)(builder.store, &name, platform), here) {
                        (Ok(()), _) => image::find(builder.store, &source.name)?,
                        // As it was when it was last brought, rather than not at all.
                        (Err(error), Ok(image)) => {
                            builder.watcher.status(step, &format!("{error}: taking the one that is here"));
                            image
                        }
                        (Err(error), Err(_)) => return Err(error.into()),
                    },
                    (Ok(image), Err(_)) => image,
                    (Err(error), Err(_)) => return Err(error.into()),
                };
                let keys = builder.inherited.hear(&image);
                if keys == 0 {
                    builder
                        .watcher
                        .status(step, "no inline cache: RUN and WORKDIR are known by their history");
                }
                Ok(((), false))
            });
        }
    }

    fn stage(&mut self, n: usize) -> Result<State, Failed> {
        if let Some(state) = &self.built[n] {
            return Ok(state.clone());
        }
        let stage = self.file.stages[n].clone();
        let lines = Some((stage.line.first, stage.line.last));
        if self.under_way.contains(&n) {
            let name = stage.name.unwrap_or_else(|| format!("stage-{n}"));
            return Err(Failed { error: Error::Circular(name), lines });
        }
        if self.under_way.len() >= DEEPEST {
            return Err(Failed {
                error: Error::Unsupported("stages are nested too deeply".to_owned()),
                lines,
            });
        }
        self.under_way.push(n);
        let at = |mut failed: Failed| {
            failed.lines = failed.lines.or(lines);
            failed
        };
        let base = self.expand_global(&stage.image).map_err(Failed::from).map_err(at)?;
        if base.trim().is_empty() {
            return Err(at(Error::BlankBase(stage.image.clone()).into()));
        }
        let platform = match &stage.platform {
            Some(word) => Some(self.expand_global(word).map_err(Failed::from).map_err(at)?),
            None => self.options.platform.clone(),
        };
        // A number is no name here: an image may be called that.
        let lower = base.to_ascii_lowercase();
        let earlier = self.file.stages[..n].iter().rposition(|stage| stage.name.as_deref() == Some(&lower));
        let mut shown = None;
        let mut state = if let Some(earlier) = earlier {
            self.stage(earlier).map_err(at)?.base()
        } else if base == "scratch" {
            State::scratch()
        } else {
            let (state, name) = self.image(&base, platform.as_deref()).map_err(at)?;
            shown = Some(name);
            state
        };
        let mut steps = Vec::new();
        for trigger in state.config.on_build.take().unwrap_or_default() {
            let (line, step) = dockerfile::parse_trigger(&trigger)
                .map_err(Failed::from)
                .map_err(|failed| Failed { lines, ..failed })?;
            steps.push((Line { first: stage.line.first, last: stage.line.last, ..line }, step));
        }
        steps.extend(stage.steps.iter().cloned());
        let counts = |step: &Instruction| {
            matches!(step, Instruction::Run(_) | Instruction::Copy(_) | Instruction::Workdir(_))
        };
        let total = steps.iter().filter(|(_, step)| counts(step)).count() + usize::from(shown.is_some());
        let name = match &stage.name {
            Some(name) => name.clone(),
            None if self.file.stages.len() > 1 => format!("stage-{n}"),
            None => String::new(),
        };
        let mut counter = Counter { stage: name, total, at: 0 };
        if let Some(shown) = shown {
            self.told(&counter.name(&format!("FROM {shown}")), |_, _| Ok(((), false)))?;
        }
        for (line, step) in &steps {
            self.step(&mut state, line, step, &mut counter).map_err(|mut failed| {
                failed.lines = failed.lines.or(Some((line.first, line.last)));
                failed
            })?;
        }
        self.under_way.pop();
        self.built[n] = Some(state.clone());
        Ok(state)
    }

    /// An image, brought here if need be, and how it is shown.
    fn image(&mut self, name: &str, platform: Option<&str>) -> Result<(State, String), Failed> {
        let asked = (name.to_owned(), platform.map(str::to_owned));
        if let Some(found) = self.images.get(&asked) {
            return Ok(found.clone());
        }
        let reference = Reference::parse(name).map(Reference::tagged);
        let shown = reference.as_ref().map_or_else(|_| name.to_owned(), ToString::to_string);
        let pull = self.options.pull;
        let found = self.told(&format!("[internal] load metadata for {shown}"), |builder, _| {
            let here = image::find(builder.store, name);
            let image = match (here, &reference) {
                (Ok(image), Err(_)) => image,
                (Ok(image), Ok(_)) if !pull || image.id.hex().starts_with(name) => image,
                (Err(image::Error::NoSuchImage(_)) | Ok(_), Ok(reference)) => {
                    let resolve = |source| Error::Resolve {
                        shown: name.to_owned(),
                        name: shown.clone(),
                        source: Box::new(source),
                    };
                    (builder.fetch)(builder.store, reference, platform).map_err(resolve)?;
                    image::find(builder.store, name)?
                }
                (Err(_), Err(source)) => {
                    return Err(Error::BaseName { name: name.to_owned(), source: source.clone() }.into());
                }
                (Err(error), _) => return Err(error.into()),
            };
            Ok((image, false))
        })?;
        if let Some(wanted) = platform {
            let actual = format!("{}/{}", found.os, found.architecture);
            let plain = wanted.to_ascii_lowercase().replace("x86_64", "amd64").replace("aarch64", "arm64");
            if !(plain == actual || plain.starts_with(&format!("{actual}/")) || plain == found.architecture) {
                return Err(Error::Platform { name: shown, wanted: wanted.to_owned(), actual }.into());
            }
        }
        let found = (State::of(found), shown);
        self.images.insert(asked, found.clone());
        Ok(found)
    }

    fn step(
        &mut self,
        state: &mut State,
        line: &Line,
        step: &Instruction,
        counter: &mut Counter,
    ) -> Result<(), Failed> {
        match step {
            Instruction::From { .. } => {}
            Instruction::Run(run) => self.run(state, line, run, counter)?,
            Instruction::Copy(copy) => self.copy(state, copy, counter)?,
            Instruction::Workdir(dir) => self.workdir(state, dir, counter)?,
            Instruction::Cmd(command) => {
                let words = self.command(state, command);
                state.note(format!("CMD {}", quoted(&words)));
                state.config.cmd = Some(words);
                state.own_cmd = true;
            }
            Instruction::Entrypoint(command) => {
                let words = self.command(state, command);
                state.note(format!("ENTRYPOINT {}", quoted(&words)));
                state.config.entrypoint = Some(words);
                if !state.own_cmd {
                    // The base's was meant for its own.
                    state.config.cmd = None;
                }
            }
            Instruction::Label(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                state.note(format!("LABEL {}", joined(&pairs)));
                state.config.labels.extend(pairs);
            }
            Instruction::Env(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                state.note(format!("ENV {}", joined(&pairs)));
                for (name, value) in pairs {
                    let entry = format!("{name}={value}");
                    match state.config.env.iter_mut().find(|have| have.split('=').next() == Some(&name)) {
                        Some(have) => *have = entry,
                        None => state.config.env.push(entry),
                    }
                }
            }
            Instruction::Expose(words) => {
                let mut ports = Vec::new();
                for word in self.expand_all(state, words)? {
                    for word in word.split_whitespace() {
                        ports.extend(ports_of(word)?);
                    }
                }
                ports.sort();
                ports.dedup();
                state.note(format!("EXPOSE [{}]", ports.join(" ")));
                state
                    .config
                    .exposed_ports
                    .get_or_insert_default()
                    .extend(ports.into_iter().map(|port| (port, Empty {})));
            }
            Instruction::Volume(paths) => {
                let paths = self.expand_all(state, paths)?;
                state.note(format!("VOLUME [{}]", paths.join(" ")));
                state
                    .config
                    .volumes
                    .get_or_insert_default()
                    .extend(paths.into_iter().map(|path| (path, Empty {})));
            }
            Instruction::User(user) => {
                let user = self.expand(state, user)?;
                state.note(format!("USER {user}"));
                state.config.user = user;
            }
            Instruction::Arg(pairs) => self.arg(state, pairs)?,
            Instruction::OnBuild(text) => {
                state.note(format!("ONBUILD {text}"));
                state.config.on_build.get_or_insert_default().push(text.clone());
            }
            Instruction::StopSignal(signal) => {
                let signal = self.expand(state, signal)?;
                lifecycle::parse_signal(&signal).map_err(|_| Error::Signal(signal.clone()))?;
                state.note(format!("STOPSIGNAL {signal}"));
                state.config.stop_signal = signal;
            }
            Instruction::Healthcheck(check) => {
                let test = match &check.command {
                    None => vec!["NONE".to_owned()],
                    Some((words, shell)) => {
                        let kind = if *shell { "CMD-SHELL" } else { "CMD" };
                        std::iter::once(kind.to_owned()).chain(words.iter().cloned()).collect()
                    }
                };
                let seconds = |nanos: i64| format!("{:?}", go_duration(nanos));
                state.note(format!(
                    "HEALTHCHECK &{{{} {} {} {} {} '\\x{:02x}'}}",
                    quoted(&test),
                    seconds(check.interval),
                    seconds(check.timeout),
                    seconds(check.start_period),
                    seconds(check.start_interval),
                    check.retries
                ));
                state.config.healthcheck = Some(Healthcheck {
                    test,
                    interval: check.interval,
                    timeout: check.timeout,
                    retries: check.retries,
                    start_period: check.start_period,
                    start_interval: check.start_interval,
                });
            }
            Instruction::Shell(words) => {
                state.note(format!("SHELL [{}]", words.join(" ")));
                state.config.shell = Some(words.clone());
            }
            Instruction::Maintainer(text) => {
                state.note(format!("MAINTAINER {text}"));
                state.author = Some(text.clone());
            }
        }
        Ok(())
    }

    #[allow(clippy::unused_self, reason = "beside its sisters")]
    fn command(&self, state: &State, command: &Command) -> Vec<String> {
        match command.form {
            Form::Shell if !command.args.is_empty() => {
                let mut words = state.shell();
                words.extend(command.args.iter().cloned());
                words
            }
            _ => command.args.clone(),
        }
    }

    /// Pairs expanded against what held before their instruction.
    fn pairs(&self, state: &State, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, Error> {
        let both =
            |(name, value): &(String, String)| Ok((self.expand(state, name)?, self.expand(state, value)?));
        pairs.iter().map(both).collect()
    }

    fn arg(&mut self, state: &mut State, pairs: &[(String, Option<String>)]) -> Result<(), Error> {
        let mut shown = Vec::new();
        // All of them against what held before the line.
        let mut added = Vec::new();
        for (name, default) in pairs {
            let value = match (self.given(name), default) {
                (Some(value), _) => Some(value),
                (None, Some(word)) => Some(self.expand(state, word)?),
                (None, None) => self.global(name),
            };
            shown.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            added.push((name.clone(), value));
        }
        state.args.extend(added);
        state.note(format!("ARG {}", shown.join(" ")));
        Ok(())
    }

    /// Whether the stage that is being built may use what was made before.
    fn may_use_cache(&self) -> bool {
        let filtered = self.under_way.last().is_some_and(|n| {
            let named = self.file.stages[*n].name.clone().unwrap_or_else(|| format!("stage-{n}"));
            self.options.no_cache_filter.iter().any(|name| name.eq_ignore_ascii_case(&named))
        });
        !self.options.no_cache && !filtered
    }

    /// What a key's step made, here or elsewhere, unless nothing that was made before is wanted.
    fn cached(&self, state: &State, key: &Digest) -> Result<Option<Made>, Error> {
        if !self.may_use_cache() {
            return Ok(None);
        }
        let here = cache::find(self.store, key)?;
        Ok(here.or_else(|| self.inherited.by_key(key, &state.chain)))
    }

    /// What the next step made in an image that is alike so far.
    fn in_history(&self, state: &State, created_by: &str) -> Option<Made> {
        let found = || self.inherited.by_history(&state.history, &state.chain, created_by);
        self.may_use_cache().then(found).flatten()
    }

    /// Makes a layer of an upper directory and remembers it.
    fn keep(&mut self, state: &State, upper: &Path, keys: &[Digest], step: &str) -> Result<Made, Error> {
        let below = image::diff_dirs(self.store.layout(), &state.chain);
        let changes = diff::Tree::changes(upper, &below, false)?;
        let top = if changes.is_empty() {
            None
        } else {
            Some(image::add_layer(self.store, &state.diff_ids, upper, &changes)?)
        };
        let created = jiff::Timestamp::now().to_string();
        cache::record(self.store, keys, &state.chain, top, &created, step)?;
        Ok(Made { layer: top.map(|top| (top.chain, top.diff_id)), created })
    }

    fn workdir(&mut self, state: &mut State, dir: &str, counter: &mut Counter) -> Result<(), Failed> {
        let dir = self.expand(state, dir)?;
        let parts = clean(state.absolute(&dir).as_bytes());
        let path = parts.join(&b'/');
        let shown = format!("/{}", String::from_utf8_lossy(&path));
        let name = counter.name(&format!("WORKDIR {shown}"));
        state.config.working_dir.clone_from(&shown);
        if parts.is_empty() {
            self.told(&name, |_, _| Ok(((), false)))?;
            state.note("WORKDIR /".to_owned());
            return Ok(());
        }
        let created_by = format!("WORKDIR {shown}");
        let before = &*state;
        let made = self.told(&name, |builder, _| {
            let owner = if state.config.user.is_empty() {
                None
            } else {
                Some(builder.identity(state, &state.config.user)?)
            };
            let mut key = Key::new("workdir", &state.chain);
            key.add(&shown).add(&format!("{owner:?}"));
            let key = key.finish();
            let known = builder.cached(before, &key)?;
            if let Some(made) = known.or_else(|| builder.in_history(before, &created_by)) {
                return Ok((made, true));
            }
            let made = builder.write(state, &[key], &name, |_, root| {
                Place { root, owner, mode: None }.directory(&path).map(drop)
            })?;
            Ok((made, false))
        })?;
        state.add(&made, created_by);
        Ok(())
    }

    /// Lets `work` write into the root of a stage, and keeps what it changed.
    fn write(
        &mut self,
        state: &State,
        keys: &[Digest],
        step: &str,
        work: impl FnOnce(&Scratch, &OwnedFd) -> Result<(), Error>,
    ) -> Result<Made, Error> {
        let scratch = self.store.scratch()?;
        let dir = scratch.path().join("root");
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| Error::io("mkdir", &dir, error))?;
        let snapshot = Snapshot::prepare_at(&dir, self.store.layout(), &state.chain)?.volatile(true);
        let root = snapshot.mount_alone()?;
        work(&scratch, &root)?;
        // Nothing is to be written any more when the changes are read.
        drop(root);
        self.keep(state, &snapshot.upper(), keys, step)
    }

    /// Owner and group of `USER[:GROUP]`, by the files of the image. A bare number is both.
    fn identity(&self, state: &State, text: &str) -> Result<(u32, u32), Error> {
        if let Ok(id) = text.parse() {
            return Ok((id, id));
        }
        let stack = image::diff_dirs(self.store.layout(), &state.chain);
        let read = |file| users::read(&stack, "etc", file);
        let found = users::resolve(text, &read("passwd"), &read("group"), &[])?;
        Ok((found.uid, found.gid))
    }

    fn run(
        &mut self,
        state: &mut State,
        line: &Line,
        run: &Run,
        counter: &mut Counter,
    ) -> Result<(), Failed> {
        let mut script = None;
        let mut words = run.command.args.clone();
        if let [heredoc, ..] = &run.heredocs[..] {
            let sole = dockerfile::lines::heredoc(&words[0]).is_some();
            if sole && heredoc.content().starts_with("#!") {
                words = vec![format!("/dev/pipes/{}", heredoc.name)];
                script = Some(heredoc.content());
            } else if sole {
                words = vec![heredoc.content()];
            } else {
                // The shell is to make of them what it will.
                for heredoc in &run.heredocs {
                    words[0].push('\n');
                    words[0].push_str(&heredoc.text);
                    words[0].push_str(&heredoc.name);
                }
                words[0].push('\n');
            }
        }
        let shown = match &run.heredocs[..] {
            [heredoc, ..] => format!("RUN {} ({})", line.rest, summary(&heredoc.text)),
            [] => format!("RUN {}", line.rest),
        };
        let form = if script.is_some() { Form::Exec } else { run.command.form };
        let args = self.command(state, &Command { args: words, form });
        let arguments = state.arguments();
        let mut env = state.config.env.clone();
        env.extend(arguments.iter().cloned());
        let network = match run.network.as_deref().unwrap_or(&self.options.network) {
            "default" => String::new(),
            other => other.to_owned(),
        };
        for mount in &run.mounts {
            // What it is mounted from is built before, so that their lines do not mix.
            if let (MountKind::Bind, Some(from)) = (mount.kind, &mount.from) {
                let from = self.expand(state, from)?;
                self.from(&from)?;
            }
        }
        let mut created_by = String::from("RUN ");
        if !arguments.is_empty() {
            let _ = write!(created_by, "|{} {} ", arguments.len(), arguments.join(" "));
        }
        created_by.push_str(&args.join(" "));
        created_by.push_str(" # buildkit");
        // What a history does not say of a step, its words do not stand for.
        let by_history = run.mounts.is_empty() && script.is_none() && self.options.hosts.is_empty();
        let name = counter.name(&shown);
        let made = self.told(&name, |builder, step| {
            let mut key = Key::new("run", &state.chain);
            key.list(&args).list(&env).add(&state.config.user).add(&state.config.working_dir).add(&network);
            key.list(&builder.options.hosts).add(script.as_deref().unwrap_or_default());
            key.add(&builder.options.shm_size.to_string());
            let mut mounts = Vec::new();
            for mount in &run.mounts {
                mounts.push(builder.mount(state, mount, &mut key)?);
            }
            let key = key.finish();
            let known = builder.cached(state, &key)?;
            if let Some(made) =
                known.or_else(|| by_history.then(|| builder.in_history(state, &created_by))?)
            {
                return Ok((made, true));
            }
            let mut env = env;
            for proxy in PROXIES {
                if let Some(value) = builder.given(proxy)
                    && state.lookup(proxy).is_none()
                {
                    env.push(format!("{proxy}={value}"));
                }
            }
            let container = Step::new(builder.store.layout(), &builder.options.cgroup_parent)?;
            let mut resources = builder.options.resources.clone();
            crate::cgroup::resources::fill_defaults(&mut resources);
            let mut record = Record {
                path: args[0].clone(),
                args: args[1..].to_vec(),
                config: Config {
                    hostname: "buildkitsandbox".to_owned(),
                    env,
                    user: state.config.user.clone(),
                    working_dir: state.config.working_dir.clone(),
                    ..Config::default()
                },
                host_config: HostConfig {
                    network_mode: network,
                    extra_hosts: Some(builder.options.hosts.clone()).filter(|hosts| !hosts.is_empty()),
                    shm_size: if builder.options.shm_size == 0 { SHM } else { builder.options.shm_size },
                    resources,
                    ..HostConfig::default()
                },
                chain: state.chain.clone(),
                cgroup_parent: builder.options.cgroup_parent.clone(),
                platform: "linux".to_owned(),
                ..Record::default()
            };
            let mut views = Vec::new();
            let mut locks = Vec::new();
            if let Some(script) = &script {
                let path = container.run_dir().join("script");
                fs::write(&path, script).map_err(|error| Error::io("write", &path, error))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .map_err(|error| Error::io("chmod", &path, error))?;
                record.mounts.push(bind(&path, &args[0], false)?);
            }
            for (n, mount) in mounts.into_iter().enumerate() {
                builder.prepare(&container, n, mount, &mut record, &mut views, &mut locks)?;
            }
            let targets: Vec<String> = record
                .mounts
                .iter()
                .map(|mount| mount.destination.clone())
                .chain(views.iter().map(|view: &View| view.target.clone()))
                .chain(record.host_config.tmpfs.keys().cloned())
                .collect();
            builder.execute(step, &container, &Plan { record, views }, &args)?;
            let below = image::diff_dirs(builder.store.layout(), &state.chain);
            for target in &targets {
                unmark(&container.upper(), &below, target);
            }
            let made = builder.keep(state, &container.upper(), &[key], &name)?;
            Ok((made, false))
        })?;
        state.add(&made, created_by);
        Ok(())
    }

    /// Runs a step's process to its end.
    fn execute(&self, step: usize, container: &Step, plan: &Plan, args: &[String]) -> Result<(), Error> {
        let handle = container.start(plan)?;
        let mut receiver = attach::Receiver::new(handle.socket.as_fd());
        let command = || args.join(" ");
        let mut result = None;
        loop {
            let event =
                receiver.receive().map_err(|error| Error::io("recv", Path::new(container.id()), error))?;
            match event {
                Some(Event::Stdout(bytes)) => self.watcher.output(step, false, &bytes),
                Some(Event::Stderr(bytes)) => self.watcher.output(step, true, &bytes),
                Some(Event::Warning(text)) => self.watcher.output(step, true, format!("{text}\n").as_bytes()),
                Some(Event::Exited { code }) => result = Some(Ok(code)),
                Some(Event::Failed { message, .. }) => result = Some(Err(message)),
                Some(Event::Started { .. }) => {}
                // Only now has it let go of everything.
                None => break,
            }
        }
        match result {
            Some(Ok(0)) => Ok(()),
            Some(Ok(code)) => Err(Error::Process { command: command(), code }),
            Some(Err(message)) => Err(Error::Start { command: command(), message }),
            None => Err(crate::container::Error::MonitorLost(container.id().to_owned()).into()),
        }
    }

    /// What a mount needs to be known by, with its words expanded and what it shows found.
    fn mount(&mut self, state: &State, mount: &Mount, key: &mut Key) -> Result<Mounted, Failed> {
        let target = state.absolute(&self.expand(state, &mount.target)?);
        let source = self.expand(state, &mount.source)?;
        let id = mount.id.as_deref().map(|id| self.expand(state, id)).transpose()?;
        key.add("mount").add(&target).add(if mount.writable { "rw" } else { "ro" });
        let kind = match mount.kind {
            MountKind::Tmpfs => {
                key.add("tmpfs").add(&format!("{:?}", mount.size));
                Showing::Memory(mount.size)
            }
            MountKind::Secret => {
                let id = id.unwrap_or_else(|| source.rsplit('/').next().unwrap_or_default().to_owned());
                // What it says is nobody's to know, not even a key's.
                key.add("secret").add(&id);
                match self.options.secrets.iter().find(|(have, _)| *have == id) {
                    Some((_, secret)) => Showing::Secret(secret.clone(), mount.mode.unwrap_or(0o400)),
                    None if mount.required => return Err(Error::Secret(id).into()),
                    None => Showing::Nothing,
                }
            }
            MountKind::Cache => {
                let id = id.unwrap_or_else(|| target.clone());
                key.add("cache").add(&id);
                Showing::Cache { id, mode: mount.mode.unwrap_or(0o755), locked: mount.locked }
            }
            MountKind::Bind => {
                let source = if source.is_empty() { "/".to_owned() } else { source };
                if let Some(from) = &mount.from {
                    let from = self.expand(state, from)?;
                    let of = self.from(&from)?;
                    key.add("view")
                        .add(&of.chain.last().map(ToString::to_string).unwrap_or_default())
                        .add(&source);
                    Showing::View(of.chain, source)
                } else {
                    let Some(tree) = &self.options.context else {
                        return Err(Error::NotFound(source).into());
                    };
                    let found = tree.find(&source, &Ignore::default())?;
                    key.add("context");
                    for found in &found {
                        tree.hash(found, key.hash())?;
                    }
                    Showing::Context(found)
                }
            }
        };
        Ok(Mounted { target, writable: mount.writable, uid: mount.uid, gid: mount.gid, kind })
    }

    /// Puts what a mount shows to where it can be mounted from.
    fn prepare(
        &self,
        container: &Step,
        n: usize,
        mount: Mounted,
        record: &mut Record,
        views: &mut Vec<View>,
        locks: &mut Vec<nix::fcntl::Flock<File>>,
    ) -> Result<(), Error> {
        let Mounted { target, writable, uid, gid, kind } = mount;
        let own = |path: &Path, mode: u32| {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(|error| Error::io("chown", path, error))?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .map_err(|error| Error::io("chmod", path, error))
        };
        match kind {
            Showing::Nothing => {}
            Showing::Memory(size) => {
                let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
                record.host_config.tmpfs.insert(target, format!("exec{size}"));
            }
            Showing::Secret(secret, mode) => {
                let bytes = match secret {
                    Secret::Value(text) => text.into_bytes(),
                    Secret::File(path) => {
                        use std::io::Read as _;
                        let mut bytes = Vec::new();
                        File::open(&path)
                            .and_then(|file| file.take(LONGEST_SECRET + 1).read_to_end(&mut bytes))
                            .map_err(|error| Error::io("open", &path, error))?;
                        if bytes.len() as u64 > LONGEST_SECRET {
                            return Err(Error::TooLarge {
                                what: path.display().to_string(),
                                limit: LONGEST_SECRET,
                            });
                        }
                        bytes
                    }
                };
                let path = container.run_dir().join(format!("secret{n}"));
                fs::write(&path, bytes).map_err(|error| Error::io("write", &path, error))?;
                own(&path, mode)?;
                record.mounts.push(bind(&path, &target, false)?);
            }
            Showing::Cache { id, mode, locked } => {
                let caches = self.store.layout().root.join(CACHES);
                let path = caches.join(Digest::of(id.as_bytes()).hex());
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&caches);
                made.map_err(|error| Error::io("mkdir", &caches, error))?;
                match fs::create_dir(&path) {
                    Ok(()) => own(&path, mode)?,
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(Error::io("mkdir", &path, error)),
                }
                if locked {
                    let dir = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
                    let lock = nix::fcntl::Flock::lock(dir, nix::fcntl::FlockArg::LockExclusive);
                    locks.push(lock.map_err(|(_, errno)| Error::io("flock", &path, errno.into()))?);
                }
                record.mounts.push(bind(&path, &target, writable)?);
            }
            Showing::View(chain, source) => {
                views.push(View { chain, source: PathBuf::from(source), target, writable });
            }
            Showing::Context(found) => {
                let Some(tree) = &self.options.context else { return Ok(()) };
                let path = container.dir().join(format!("bind{n}"));
                fs::create_dir(&path).map_err(|error| Error::io("mkdir", &path, error))?;
                let root = open_directory(&path).map_err(|error| Error::io("open", &path, error))?;
                let place = Place { root: &root, owner: None, mode: None };
                for found in &found {
                    place.put(tree, found, b"", false)?;
                }
                let source = match &found[..] {
                    [one] if !one.is_directory() => path.join(std::ffi::OsStr::from_bytes(one.name())),
                    _ => path,
                };
                record.mounts.push(bind(&source, &target, writable)?);
            }
        }
        Ok(())
    }

    /// What `--from` means: a stage before this one, or an image.
    fn from(&mut self, name: &str) -> Result<State, Failed> {
        let before = self.under_way.last().copied().unwrap_or(self.file.stages.len());
        if let Some(n) = self.named(name, before) {
            return self.stage(n);
        }
        if name == "scratch" {
            return Ok(State::scratch());
        }
        if self
            .file
            .stages
            .get(before)
            .is_some_and(|stage| stage.name.as_deref() == Some(&name.to_ascii_lowercase()))
        {
            return Err(Error::Circular(name.to_owned()).into());
        }
        let platform = self.options.platform.clone();
        Ok(self.image(name, platform.as_deref())?.0)
    }

    fn show_context(&mut self, size: u64) -> Result<(), Failed> {
        if std::mem::replace(&mut self.context_shown, true) {
            return Ok(());
        }
        self.told("[internal] load build context", |builder, step| {
            builder.watcher.status(step, &format!("transferring context: {} done", bytes(size)));
            Ok(((), false))
        })
    }

    fn copy(&mut self, state: &mut State, copy: &Copy, counter: &mut Counter) -> Result<(), Failed> {
        let keyword = if copy.unpack { "ADD" } else { "COPY" };
        let target = self.expand(state, &copy.target)?;
        let mut sources = Vec::new();
        for source in &copy.sources {
            sources.push(match source {
                Source::Path(word) => Source::Path(self.expand(state, word)?),
                Source::Text(heredoc) if heredoc.expand => {
                    let lookup = |name: &str| state.lookup(name);
                    let words = Words { escape: self.file.escape, lookup: &lookup };
                    let text = words
                        .expand_content(&heredoc.content())
                        .map_err(|reason| Error::Word { word: heredoc.name.clone(), reason })?;
                    Source::Text(dockerfile::Heredoc { text, chomp: false, ..heredoc.clone() })
                }
                Source::Text(heredoc) => Source::Text(dockerfile::Heredoc {
                    text: heredoc.content(),
                    chomp: false,
                    ..heredoc.clone()
                }),
            });
        }
        let chown = copy.chown.as_deref().map(|word| self.expand(state, word)).transpose()?;
        let chmod = copy.chmod.as_deref().map(|word| self.expand(state, word)).transpose()?;
        let from = copy.from.as_deref().map(|word| self.expand(state, word)).transpose()?;
        let mut flags = String::new();
        for (flag, value) in [("from", &from), ("chown", &chown), ("chmod", &chmod)] {
            if let Some(value) = value {
                let _ = write!(flags, "--{flag}={value} ");
            }
        }
        let shown: Vec<String> = sources
            .iter()
            .map(|source| match source {
                Source::Path(path) => path.clone(),
                Source::Text(heredoc) => format!("<<{} ({})", heredoc.name, summary(&heredoc.text)),
            })
            .collect();
        // Another stage before this step, so that their lines do not mix.
        let of = from.as_deref().map(|name| self.from(name)).transpose()?;
        let wants_context = of.is_none()
            && sources.iter().any(|source| matches!(source, Source::Path(path) if !is_remote(path)));
        let exclude = exclusions(&copy.exclude);
        let mut found = Vec::new();
        if wants_context {
            // What is not found is told by the step itself, which looks again.
            found = self.find_in(self.options.context.as_ref(), &sources, copy, &exclude).unwrap_or_default();
            self.show_context(found.iter().flatten().map(Found::size).sum())?;
        }
        let text = format!("{keyword} {flags}{} {target}", shown.join(" "));
        let name = counter.name(&text);
        let made = self.told(&name, |builder, step| {
            let owner = chown.as_deref().map(|text| builder.identity(state, text)).transpose()?;
            let mode = chmod
                .as_deref()
                .map(|text| Chmod::parse(text).ok_or_else(|| Error::Chmod(text.to_owned())))
                .transpose()?;
            let path = state.absolute(&target);
            let mut job = Job {
                copy,
                sources: &sources,
                target: relative(&path),
                into: path.ends_with('/') || path.ends_with("/."),
                owner,
                mode,
            };
            let mut key = Key::new("copy", &state.chain);
            key.bytes(&job.target)
                .add(if job.into { "into" } else { "as" })
                .add(&format!("{owner:?} {:?}", job.mode));
            key.add(if copy.unpack { "unpack" } else { "" }).add(if copy.parents { "parents" } else { "" });
            key.list(&copy.exclude);
            let mut keys = Vec::new();
            if let Some(of) = &of {
                // Layers that are the same hold the same: then nothing need be read.
                let mut quick = key.clone();
                quick.add("of").add(&of.chain.last().map(ToString::to_string).unwrap_or_default());
                for source in &sources {
                    quick.add(&format!("{source:?}"));
                }
                let quick = quick.finish();
                if let Some(made) = builder.cached(state, &quick)? {
                    return Ok((made, true));
                }
                keys.push(quick);
            }
            let view = of.as_ref().map(|of| builder.view(of)).transpose()?;
            let tree = view.as_ref().map_or(builder.options.context.as_ref(), |(_, tree)| Some(tree));
            if found.is_empty() {
                found = builder.find_in(tree, &sources, copy, &exclude)?;
            }
            let mut files = Vec::new();
            for (source, found) in sources.iter().zip(&found) {
                match source {
                    Source::Text(heredoc) => {
                        key.add("text").add(&heredoc.name).add(&heredoc.text);
                        files.push(None);
                    }
                    Source::Path(url) if is_remote(url) && copy.unpack && of.is_none() => {
                        files.push(Some(builder.remote(step, url, copy.checksum.as_deref(), &mut key)?));
                    }
                    Source::Path(_) => {
                        for found in found {
                            key.bytes(if copy.parents { &found.path } else { found.name() });
                            if let Some(tree) = tree {
                                tree.hash(found, key.hash())?;
                            }
                        }
                        files.push(None);
                    }
                }
            }
            let key = key.finish();
            if let Some(made) = builder.cached(state, &key)? {
                // What only another image says is not this machine's to remember.
                if !keys.is_empty() && cache::find(builder.store, &key)?.is_some() {
                    let top = made.layer.map(|(chain, diff_id)| image::Top { chain, diff_id, size: 0 });
                    cache::record(builder.store, &keys, &state.chain, top, &made.created, &name)?;
                }
                return Ok((made, true));
            }
            keys.push(key);
            for (source, file) in sources.iter().zip(&mut files) {
                // One that is known by its checksum has not been fetched yet.
                if let (Source::Path(url), Some(remote @ Remote { file: None, .. })) = (source, file) {
                    *remote = builder.download(url, copy.checksum.as_deref())?;
                }
            }
            job.into |= found.iter().map(Vec::len).sum::<usize>() > 1;
            let made = builder
                .write(state, &keys, &name, |scratch, root| job.work(root, scratch, tree, &found, &files))?;
            Ok((made, false))
        })?;
        state.add(&made, format!("{text} # buildkit"));
        Ok(())
    }

    /// What each source finds; nothing for what is no path.
    #[allow(clippy::unused_self, reason = "beside its sisters")]
    fn find_in(
        &self,
        tree: Option<&Tree>,
        sources: &[Source],
        copy: &Copy,
        exclude: &Ignore,
    ) -> Result<Vec<Vec<Found>>, Error> {
        sources
            .iter()
            .map(|source| match (source, tree) {
                (Source::Text(_), _) => Ok(Vec::new()),
                (Source::Path(path), _) if copy.unpack && is_remote(path) => Ok(Vec::new()),
                (Source::Path(path), Some(tree)) => tree.find(path, exclude),
                (Source::Path(path), None) => Err(Error::NotFound(path.trim_start_matches('/').to_owned())),
            })
            .collect()
    }

    /// The files of a stage or an image, to be read.
    fn view(&self, of: &State) -> Result<(Scratch, Tree), Error> {
        let (scratch, root) = output::view(self.store, &of.chain)?;
        Ok((scratch, Tree::new(root, Ignore::default(), false)))
    }

    /// A remote file: known by its checksum, or fetched.
    fn remote(&self, step: usize, url: &str, checksum: Option<&str>, key: &mut Key) -> Result<Remote, Error> {
        if url.starts_with("git://")
            || url.starts_with("git@")
            || url.split('#').next().is_some_and(|url| url.rsplit('.').next() == Some("git"))
        {
            return Err(Error::Unsupported(format!("ADD of a git repository is not supported: {url}")));
        }
        key.add("remote").add(url);
        if let Some(checksum) = checksum {
            checksum.parse::<Digest>().map_err(image::Error::from)?;
            key.add(checksum);
            return Ok(Remote { file: None, mtime: None });
        }
        self.watcher.status(step, &format!("fetching {url}"));
        let remote = self.download(url, None)?;
        if let Some(file) = &remote.file {
            key.add(&digest_of(file)?.to_string());
        }
        Ok(remote)
    }

    fn download(&self, url: &str, checksum: Option<&str>) -> Result<Remote, Error> {
        let file = context::nameless(&self.store.layout().scratch())?;
        let mtime = (self.download)(url, &file)?;
        if let Some(expected) = checksum {
            let actual = digest_of(&file)?.to_string();
            if actual != expected {
                return Err(Error::Checksum { expected: expected.to_owned(), actual });
            }
        }
        Ok(Remote { file: Some(file), mtime })
    }

    fn export(mut self, state: State) -> Result<Built, Failed> {
        let options = self.options;
        let mut config = state.config;
        config.labels.extend(options.labels.iter().cloned());
        let (mut created, mut history) = (state.created, state.history);
        if let Some(old) = state.untimed
            && (history.len() > old || !options.labels.is_empty())
        {
            // A step that makes a layer brings its time. What only changes the configuration has one, too, and
            // the same when it is done again.
            let mut key = Key::new("configuration", &state.chain);
            key.add(&serde_json::to_string(&config).unwrap_or_default());
            key.add(state.author.as_deref().unwrap_or_default());
            for step in &history {
                key.add(step.created_by.as_deref().unwrap_or_default());
            }
            let key = key.finish();
            let known = if options.no_cache { None } else { cache::find(self.store, &key)? };
            let when = if let Some(made) = known {
                made.created
            } else {
                let now = jiff::Timestamp::now().to_string();
                cache::record(self.store, &[key], &state.chain, None, &now, "exporting to image")?;
                now
            };
            for step in &mut history[old..] {
                step.created = Some(when.clone());
            }
            created = Some(when);
        }
        let created = created.or_else(|| Some(jiff::Timestamp::now().to_string()));
        let build_cache =
            inherit::is_wanted(options).then(|| self.inherited.tell(self.store, &state.chain)).transpose()?;
        let recipe = Recipe {
            config,
            architecture: state.architecture,
            os: state.os,
            variant: state.variant,
            created,
            author: state.author,
            diff_ids: state.diff_ids,
            history,
            build_cache,
        };
        let id = self.told("exporting to image", |builder, step| {
            builder.watcher.status(step, "exporting layers done");
            let id = image::put(builder.store, &recipe, &options.names)?;
            builder.watcher.status(step, &format!("writing image {id} done"));
            for name in &options.names {
                builder.watcher.status(step, &format!("naming to {name} done"));
            }
            Ok((id, false))
        })?;
        let known =
            |name: &str| self.used.contains(name) || PROXIES.contains(&name) || name.starts_with("BUILDKIT_");
        let mut unused: Vec<String> =
            options.args.iter().map(|(name, _)| name.clone()).filter(|name| !known(name)).collect();
        unused.sort();
        unused.dedup();
        Ok(Built { id, unused })
    }
}

/// A remote file.
struct Remote {
    file: Option<File>,
    mtime: Option<i64>,
}

/// A mount with its words expanded.
struct Mounted {
    target: String,
    writable: bool,
    uid: u32,
    gid: u32,
    kind: Showing,
}

/// What a mount shows.
enum Showing {
    Nothing,
    Memory(Option<u64>),
    Secret(Secret, u32),
    Cache { id: String, mode: u32, locked: bool },
    View(Vec<ChainId>, String),
    Context(Vec<Found>),
}

/// One `COPY` or `ADD`, ready to be done.
struct Job<'a> {
    copy: &'a Copy,
    sources: &'a [Source],
    /// From the root.
    target: Vec<u8>,
    /// The target is a directory, whether it is there or not.
    into: bool,
    owner: Option<(u32, u32)>,
    mode: Option<Chmod>,
}

impl Job<'_> {
    fn work(
        &self,
        root: &OwnedFd,
        scratch: &Scratch,
        tree: Option<&Tree>,
        found: &[Vec<Found>],
        files: &[Option<Remote>],
    ) -> Result<(), Error> {
        let place = Place { root, owner: self.owner, mode: self.mode.as_ref() };
        if self.into {
            place.directory(&self.target)?;
        }
        for ((source, found), remote) in self.sources.iter().zip(found).zip(files) {
            match (source, remote) {
                (Source::Text(heredoc), _) => {
                    place.write(heredoc.text.as_bytes(), &heredoc.name, &self.target, self.into, 0o644)?;
                }
                (Source::Path(url), Some(remote)) => {
                    use std::io::Seek as _;
                    let Some(mut file) = remote.file.as_ref() else { continue };
                    file.rewind().map_err(|error| Error::io("seek", Path::new(url), error))?;
                    let name = url
                        .split(['?', '#'])
                        .next()
                        .unwrap_or_default()
                        .rsplit('/')
                        .next()
                        .unwrap_or_default();
                    if name.is_empty() && self.into {
                        return Err(Error::Unsupported(format!(
                            "cannot determine filename for source {url}"
                        )));
                    }
                    let mtime = remote.mtime.map(|seconds| (seconds, 0));
                    place.copy(file, name, &self.target, self.into, 0o600, mtime)?;
                }
                (Source::Path(_), None) => {
                    let Some(tree) = tree else { continue };
                    for found in found {
                        self.one(&place, scratch, tree, found)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn one(&self, place: &Place<'_>, scratch: &Scratch, tree: &Tree, found: &Found) -> Result<(), Error> {
        if self.copy.parents {
            // A directory keeps its own name as well, anything else that of the directory it is in.
            let own = if found.is_directory() {
                found.path.clone()
            } else {
                found
                    .path
                    .iter()
                    .rposition(|b| *b == b'/')
                    .map(|at| found.path[..at].to_vec())
                    .unwrap_or_default()
            };
            let target = [&self.target[..], &own[..]].join(&b'/');
            let target = clean(&target).join(&b'/');
            return place.put(tree, found, &target, !found.is_directory());
        }
        if self.copy.unpack
            && let Some(first) = found.items.first().filter(|_| !found.is_directory())
            && first.kind == super::tree::Kind::File
        {
            let file = tree.content(first)?;
            if let Some(archive) = context::as_tar(&file, scratch.path())? {
                let dest = place.directory(&self.target)?;
                let input = std::io::BufReader::with_capacity(128 << 10, archive);
                layer::extract::extract(dest.as_fd(), input, self.owner)?;
                return Ok(());
            }
        }
        place.put(tree, found, &self.target, self.into)
    }
}

fn exclusions(patterns: &[String]) -> Ignore {
    let mut ignore = Ignore::default();
    for pattern in patterns {
        ignore.add(pattern.as_bytes());
    }
    ignore
}

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "git@"].iter().any(|scheme| source.starts_with(scheme))
}

fn digest_of(file: &File) -> Result<Digest, Error> {
    use std::io::{Read as _, Seek as _};
    let failed = |error| Error::io("read", Path::new("downloaded file"), error);
    let mut from = file;
    from.rewind().map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer).map_err(failed)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn bind(source: &Path, target: &str, writable: bool) -> Result<MountPoint, Error> {
    let text = source
        .to_str()
        .ok_or_else(|| Error::io("bind mount", source, std::io::ErrorKind::InvalidInput.into()))?;
    Ok(MountPoint {
        kind: "bind".to_owned(),
        source: text.to_owned(),
        destination: target.to_owned(),
        rw: writable,
        propagation: "rprivate".to_owned(),
        ..MountPoint::default()
    })
}

/// Takes away what was made in an upper directory so that something could be mounted there: empty, and not
/// there below. The directory is a container's, so no link in it is followed.
fn unmark(upper: &Path, below: &[PathBuf], target: &str) {
    let mut parts = clean(target.as_bytes());
    let Ok(root) = open_directory(upper) else { return };
    while let Some(name) = parts.pop() {
        let path = Path::new(std::ffi::OsStr::from_bytes(&parts.join(&b'/')))
            .join(std::ffi::OsStr::from_bytes(&name));
        if !matches!(layer::find_below(below, &path), Ok(None)) {
            return;
        }
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let dir = parts.join(&b'/');
        let dir = if dir.is_empty() { b".".to_vec() } else { dir };
        let Ok(parent) = openat2(&root, dir.as_slice(), how) else { continue };
        let name = std::ffi::OsStr::from_bytes(&name);
        let stat = nix::sys::stat::fstatat(&parent, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
        let gone = match stat {
            Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => {
                nix::unistd::unlinkat(&parent, name, UnlinkatFlags::RemoveDir)
            }
            Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_size == 0 => {
                nix::unistd::unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)
            }
            Ok(_) => return,
            Err(_) => Ok(()),
        };
        if gone.is_err() {
            return;
        }
    }
}

/// `EXPOSE`'s ports: `80`, `80/udp`, `7000-7002`.
fn ports_of(text: &str) -> Result<Vec<String>, Error> {
    let bad = || Error::Port(text.to_owned());
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    let port = |text: &str| text.parse::<u16>().map_err(|_| bad());
    let (from, to) = match ports.split_once('-') {
        Some((from, to)) => (port(from)?, port(to)?),
        None => (port(ports)?, port(ports)?),
    };
    if from > to {
        return Err(bad());
    }
    Ok((from..=to).map(|port| format!("{port}/{protocol}")).collect())
}

/// Go's `%q` of a list.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn joined(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

/// The first line of a here-document, as it is shown.
fn summary(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut short: String = lines.first().map(|line| line.trim().to_owned()).unwrap_or_default();
    if short.chars().count() > 15 {
        short = short.chars().take(15).collect();
        short.push_str("...");
    } else if lines.len() > 1 {
        short.push_str("...");
    }
    short
}

/// Go's way to write a duration.
fn go_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
    let seconds = (nanos % 60_000_000_000) as f64 / 1e9;
    match (hours, minutes) {
        (0, 0) if nanos < 1_000_000_000 => format!("{}ms", nanos as f64 / 1e6),
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Bytes as BuildKit shows them.
pub fn bytes(n: u64) -> String {
    let mut size = n as f64;
    for unit in ["B", "kB", "MB"] {
        if size < 1000.0 {
            return if unit == "B" { format!("{n}B") } else { format!("{size:.2}{unit}") };
        }
        size /= 1000.0;
    }
    format!("{size:.2}GB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_hidden_by_a_variable() {
        let mut state = State::scratch();
        state.config.env.push("A=env".to_owned());
        state.args = vec![
            ("A".to_owned(), Some("arg".to_owned())),
            ("B".to_owned(), Some("1".to_owned())),
            ("B".to_owned(), Some("2".to_owned())),
            ("C".to_owned(), None),
        ];
        assert_eq!(state.lookup("A").as_deref(), Some("env"));
        assert_eq!(state.lookup("B").as_deref(), Some("2"));
        assert_eq!(state.lookup("C"), None);
        assert_eq!(state.arguments(), ["B=2"]);
    }

    #[test]
    fn ports_are_listed() {
        assert_eq!(ports_of("443").expect("port"), ["443/tcp"]);
        assert_eq!(ports_of("80-82/UDP").expect("range"), ["80/udp", "81/udp", "82/udp"]);
        for bad in ["x", "80/x", "90-80", "70000", ""] {
            assert!(ports_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_are_written_as_in_go() {
        assert_eq!(
            quoted(&["/bin/sh".to_owned(), "-c".to_owned(), "echo \"a\"".to_owned()]),
            r#"["/bin/sh" "-c" "echo \"a\""]"#
        );
        for (nanos, want) in [
            (0, "0s"),
            (3_000_000_000, "3s"),
            (300_000_000_000, "5m0s"),
            (500_000_000, "500ms"),
            (3_601_500_000_000, "1h0m1.5s"),
        ] {
            assert_eq!(go_duration(nanos), want);
        }
        assert_eq!(
            (bytes(2), bytes(1500), bytes(2_500_000)),
            ("2B".to_owned(), "1.50kB".to_owned(), "2.50MB".to_owned())
        );
        let mut counter = Counter { stage: "builder".to_owned(), total: 12, at: 1 };
        assert_eq!(counter.name("RUN x"), "[builder  2/12] RUN x");
    }
}
