//! The exporter: a state becomes an image of the store.
//!
//! An image is its configuration, so that what is built again is the same image only if every byte of that is: a build
//! that changes no file remembers the time it had. See [`cache`].

use std::sync::PoisonError;

use super::super::cache::{self, Key};
use super::super::{Built, Failed, inherit};
use super::Builder;
use super::args::PROXIES;
use super::state::State;
use crate::image::{self, Recipe};

impl Builder<'_> {
    pub(super) fn export(mut self, state: State) -> Result<Built, Failed> {
        let options = self.build.options;
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
        let build_cache = inherit::is_wanted(options)
            .then(|| self.build.inherited.tell(self.store, &state.chain))
            .transpose()?;
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
            builder.build.watcher.status(step, "exporting layers done");
            let id = image::put(builder.store, &recipe, &options.names)?;
            builder.build.watcher.status(step, &format!("writing image {id} done"));
            for name in &options.names {
                builder.build.watcher.status(step, &format!("naming to {name} done"));
            }
            Ok((id, false))
        })?;
        let used = self.build.used.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            |name: &str| used.contains(name) || PROXIES.contains(&name) || name.starts_with("BUILDKIT_");
        let mut unused: Vec<String> =
            options.args.iter().map(|(name, _)| name.clone()).filter(|name| !known(name)).collect();
        unused.sort();
        unused.dedup();
        Ok(Built { id, unused })
    }
}
