//! Walks the stages that a target needs, step by step.
//!
//! The rooms, each of which calls only those named after it: [`schedule`] says who builds which stage; [`stage`] goes through a stage's instructions;
//! [`dispatch`] does one, by itself where it only changes the configuration, or by [`exec`] (`RUN`, with
//! [`mounts`]) and [`mod@file`] (`COPY`, `ADD`, `WORKDIR`), which are what makes layers; [`lookup`] says whether that was
//! done before; [`source`] brings images and remote files; [`args`] expands words; [`state`] is what all of them change.
//! What is done in the end is the image, by [`export`].

mod args;
mod dispatch;
mod exec;
mod export;
mod file;
mod lookup;
mod mounts;
mod progress;
mod schedule;
mod source;
mod stage;
mod state;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

pub use progress::bytes;
use schedule::Schedule;
use source::Sources;

use super::{Built, CACHES, Download, Error, Failed, Fetch, Options, Outcome, Watcher, dockerfile, inherit};
use crate::container::step;
use crate::image;
use crate::store::Store;

/// One build, as all of its threads know it.
struct Build<'a> {
    options: &'a Options,
    watcher: &'a dyn Watcher,
    fetch: Fetch<'a>,
    download: Download<'a>,
    file: dockerfile::Dockerfile,
    /// `ARG`s before the first `FROM`.
    globals: Vec<(String, Option<String>)>,
    /// Stages by their names.
    names: HashMap<String, usize>,
    /// What the images of `--cache-from` said.
    inherited: inherit::Inherited,
    schedule: Schedule,
    sources: Sources,
    /// `--build-arg`s that were asked for.
    used: Mutex<HashSet<String>>,
    /// Steps that have begun.
    steps: Mutex<usize>,
    context_shown: AtomicBool,
}

/// One thread of it.
struct Builder<'a> {
    build: &'a Build<'a>,
    store: &'a mut Store,
    /// Stages that it is building, each for the sake of the one before.
    under_way: Vec<usize>,
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
    let schedule = Schedule::new(file.stages.len())?;
    let mut build = Build {
        options,
        watcher,
        fetch,
        download,
        file,
        globals: Vec::new(),
        names: HashMap::new(),
        inherited: inherit::Inherited::default(),
        schedule,
        sources: Sources::default(),
        used: Mutex::default(),
        steps: Mutex::default(),
        context_shown: AtomicBool::new(false),
    };
    let lasting = options.context.as_ref().filter(|_| options.lasting);
    if let Some(context) = lasting {
        context.remember_in(&store.layout().root.join(CACHES));
    }
    build.read_globals()?;
    let target = build.target()?;
    build.inherited = Builder::new(&build, store).inherit();
    let built = schedule::solve(&build, store, target);
    if let Some(context) = lasting {
        context.save_hashes(store)?;
    }
    Builder::new(&build, store).export(built?)
}

impl<'a> Builder<'a> {
    fn new(build: &'a Build<'a>, store: &'a mut Store) -> Self {
        Self { build, store, under_way: Vec::new() }
    }

    fn begin(&self, name: &str) -> usize {
        // What is shown first has the smaller number.
        let mut steps = self.build.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let step = *steps;
        *steps += 1;
        self.build.watcher.begin(step, name);
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
        let said;
        let outcome = match &result {
            Ok((_, true)) => Outcome::Cached,
            Ok((_, false)) => Outcome::Done,
            Err(Failed { error: Error::Canceled, .. }) => Outcome::Canceled,
            Err(failed) => {
                said = failed.error.to_string();
                Outcome::Failed(&said)
            }
        };
        self.build.watcher.end(step, outcome);
        result.map(|(value, _)| value)
    }
}
