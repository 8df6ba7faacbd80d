//! Whether a step has to be done: the cache of this machine, then what images have said.
//!
//! [`cache`] knows keys and [`inherit`](super::super::inherit) what others say; which of them is asked, and when
//! neither, is the user's to say, and is decided here for all kinds of steps alike.

use std::path::Path;

use super::super::Error;
use super::super::cache::{self, Made};
use super::Builder;
use super::schedule::Flight;
use super::state::State;
use crate::digest::Digest;
use crate::image;
use crate::layer::diff;

impl<'a> Builder<'a> {
    /// Whether the stage that is being built may use what was made before.
    fn may_use_cache(&self) -> bool {
        let filtered = self.under_way.last().is_some_and(|n| {
            let named = self.build.file.stages[*n].name.clone().unwrap_or_else(|| format!("stage-{n}"));
            self.build.options.no_cache_filter.iter().any(|name| name.eq_ignore_ascii_case(&named))
        });
        !self.build.options.no_cache && !filtered
    }

    /// Takes a step upon this thread; if another one is doing it, what they make is in the cache when this returns.
    pub(super) fn board(&self, key: Digest) -> Result<Option<Flight<'a>>, Error> {
        // Where nothing that was made before is wanted, each does its own.
        let build = self.build;
        self.may_use_cache().then(|| build.schedule.board(key)).transpose()
    }

    /// What a key's step made, here or elsewhere, unless nothing that was made before is wanted.
    pub(super) fn cached(&self, state: &State, key: &Digest) -> Result<Option<Made>, Error> {
        if !self.may_use_cache() {
            return Ok(None);
        }
        let here = cache::find(self.store, key)?;
        Ok(here.or_else(|| self.build.inherited.by_key(key, &state.chain)))
    }

    /// What the next step made in an image that is alike so far.
    pub(super) fn in_history(&self, state: &State, created_by: &str) -> Option<Made> {
        let found = || self.build.inherited.by_history(&state.history, &state.chain, created_by);
        self.may_use_cache().then(found).flatten()
    }

    /// Makes a layer of an upper directory and remembers it.
    pub(super) fn keep(
        &mut self,
        state: &State,
        upper: &Path,
        keys: &[Digest],
        step: &str,
    ) -> Result<Made, Error> {
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
}
