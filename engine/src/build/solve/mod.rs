//! Walks the stages that a target needs, step by step.
//!
//! The rooms, each of which calls only those named after it: [`stage`] goes through a stage's instructions;
//! [`dispatch`] does one, by itself where it only changes the configuration, or by [`exec`] (`RUN`, with
//! [`mounts`]) and [`file`] (`COPY`, `ADD`, `WORKDIR`), which are what makes layers; [`lookup`] says whether that was
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
mod source;
mod stage;
mod state;

use std::collections::{BTreeMap, HashSet};

pub use progress::bytes;
use state::State;

use super::{Built, CACHES, Download, Failed, Fetch, Options, Outcome, Watcher, dockerfile, inherit};
use crate::container::step;
use crate::image;
use crate::store::Store;

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
}
