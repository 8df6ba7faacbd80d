//! What an image says of how it was made: `--cache-from`, and the inline cache that it reads.
//!
//! Another machine's cache is not here, but an image that it has made may be, and that image can say two things.
//! Its configuration may hold the keys of its steps, where it was built with an inline cache: these are the keys of
//! [`cache`], so a `COPY` is found by the content of what is copied. And its history says which
//! command made which layer, which is enough for a `RUN` or a `WORKDIR` if everything before it is the same; it is
//! all that Docker's classic builder knew.
//!
//! *Whoever names an image believes it.* So nothing of this is written into the cache of this machine, where other
//! builds would believe it as well. What is believed is which step a layer comes from: the layer itself lies upon
//! exactly the layers that the step began with, or is not used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cache::{self, Made};
use super::{Error, Options};
use crate::digest::{ChainId, DiffId, Digest};
use crate::image::{History, Image};
use crate::store::Store;

/// An image whose steps may be taken for ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Its registry is asked even if it is here.
    pub remote: bool,
}

/// A key in an image's configuration, and the layer that its step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    key: Digest,
    /// From 0, which is the lowest.
    layer: usize,
    created: String,
}

/// The part of a configuration that holds them.
#[derive(Debug, Default, Deserialize)]
struct Part {
    #[serde(rename = "bulkhead.cache.v0", default)]
    told: Vec<Told>,
}

/// A step of an image, and what it lies upon.
#[derive(Debug, Clone)]
struct Step {
    below: Option<ChainId>,
    chain: ChainId,
    diff_id: DiffId,
    created: String,
}

/// How an image was made.
#[derive(Debug)]
struct Past {
    chain: Vec<ChainId>,
    diff_ids: Vec<DiffId>,
    history: Vec<History>,
}

/// What images have said.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    steps: BTreeMap<Digest, Vec<Step>>,
    pasts: Vec<Past>,
}

impl Inherited {
    /// Listens to an image, and returns how many keys it knew. What makes no sense in it is as if it were not there.
    pub fn hear(&mut self, image: &Image) -> usize {
        let told = serde_json::from_slice::<Part>(&image.raw).unwrap_or_default().told;
        let mut heard = 0;
        for Told { key, layer, created } in told {
            let (Some(chain), Some(diff_id)) = (image.chain.get(layer), image.diff_ids.get(layer)) else {
                continue;
            };
            if created.parse::<jiff::Timestamp>().is_err() {
                continue;
            }
            let below = layer.checked_sub(1).map(|below| image.chain[below]);
            self.steps.entry(key).or_default().push(Step {
                below,
                chain: *chain,
                diff_id: *diff_id,
                created,
            });
            heard += 1;
        }
        self.pasts.push(Past {
            chain: image.chain.clone(),
            diff_ids: image.diff_ids.clone(),
            history: image.history.clone(),
        });
        heard
    }

    /// What the step of a key made of the layers `below`.
    pub fn by_key(&self, key: &Digest, below: &[ChainId]) -> Option<Made> {
        let step = self.steps.get(key)?.iter().find(|step| step.below.as_ref() == below.last())?;
        Some(Made { layer: Some((step.chain, step.diff_id)), created: step.created.clone() })
    }

    /// What `created_by` made in an image that had this history and these layers before it.
    pub fn by_history(&self, history: &[History], below: &[ChainId], created_by: &str) -> Option<Made> {
        self.pasts.iter().find_map(|past| {
            let next = past.history.get(history.len())?;
            let alike = |(ours, theirs): (&History, &History)| {
                ours.created_by == theirs.created_by && ours.empty_layer == theirs.empty_layer
            };
            let before = history.iter().zip(&past.history).all(alike) && past.chain.starts_with(below);
            if !before || next.created_by.as_deref() != Some(created_by) {
                return None;
            }
            let created = next.created.clone().filter(|text| text.parse::<jiff::Timestamp>().is_ok())?;
            let layer = if next.empty_layer {
                None
            } else {
                Some((*past.chain.get(below.len())?, *past.diff_ids.get(below.len())?))
            };
            Some(Made { layer, created })
        })
    }

    /// The keys of an image's steps, for its configuration.
    pub fn tell(&self, store: &Store, chain: &[ChainId]) -> Result<serde_json::Value, Error> {
        let mut told: BTreeMap<(usize, String), Told> = BTreeMap::new();
        for (layer, id) in chain.iter().enumerate() {
            for (key, created) in cache::keys(store, id)? {
                told.insert((layer, key.to_string()), Told { key, layer, created });
            }
            for (key, steps) in &self.steps {
                for step in steps.iter().filter(|step| step.chain == *id) {
                    let created = step.created.clone();
                    told.entry((layer, key.to_string())).or_insert(Told { key: *key, layer, created });
                }
            }
        }
        Ok(serde_json::to_value(told.into_values().collect::<Vec<_>>()).unwrap_or_default())
    }
}

/// Whether an image is to say the keys of its steps.
pub(super) fn is_wanted(options: &Options) -> bool {
    let said = options.args.iter().rev().find(|(name, _)| name == "BUILDKIT_INLINE_CACHE");
    options.inline_cache || said.is_some_and(|(_, value)| matches!(value.as_str(), "1" | "true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(seeds: &[&str]) -> (Vec<DiffId>, Vec<ChainId>) {
        let diff_ids: Vec<DiffId> = seeds.iter().map(|seed| DiffId(Digest::of(seed.as_bytes()))).collect();
        let chain = ChainId::chain(&diff_ids);
        (diff_ids, chain)
    }

    fn made_by(created_by: &str, empty_layer: bool) -> History {
        History {
            created: Some("2026-01-01T00:00:00Z".to_owned()),
            created_by: Some(created_by.to_owned()),
            empty_layer,
            ..History::default()
        }
    }

    fn past() -> (Inherited, Vec<ChainId>, Vec<DiffId>) {
        let (diff_ids, chain) = chain(&["base", "one"]);
        let history = vec![made_by("base", false), made_by("ENV a=1", true), made_by("RUN x", false)];
        let past = Past { chain: chain.clone(), diff_ids: diff_ids.clone(), history };
        (Inherited { steps: BTreeMap::new(), pasts: vec![past] }, chain, diff_ids)
    }

    #[test]
    fn a_step_is_found_by_all_that_was_before_it() {
        let (inherited, chain, diff_ids) = past();
        let before = [made_by("base", false), made_by("ENV a=1", true)];
        let found = inherited.by_history(&before, &chain[..1], "RUN x").expect("it is there");
        assert_eq!(found.layer, Some((chain[1], diff_ids[1])));
        for (before, below, created_by) in [
            (&before[..], &chain[..1], "RUN y"),
            (&before[..1], &chain[..1], "RUN x"),
            (&[made_by("base", false), made_by("ENV a=2", true)][..], &chain[..1], "RUN x"),
            (&before[..], &[ChainId(Digest::of(b"other"))][..], "RUN x"),
        ] {
            assert_eq!(inherited.by_history(before, below, created_by), None, "{created_by}");
        }
    }

    #[test]
    fn a_layer_is_used_upon_what_it_lies_upon() {
        let (mut inherited, chain, diff_ids) = past();
        let key = Digest::of(b"key");
        let step =
            Step { below: Some(chain[0]), chain: chain[1], diff_id: diff_ids[1], created: String::new() };
        inherited.steps.insert(key, vec![step]);
        assert!(inherited.by_key(&key, &chain[..1]).is_some());
        assert_eq!(inherited.by_key(&key, &chain), None);
        assert_eq!(inherited.by_key(&key, &[]), None);
        assert_eq!(inherited.by_key(&Digest::of(b"other"), &chain[..1]), None);
    }
}
