//! An image in the making: what the next instruction of a stage builds upon.
//!
//! A stage is a state that one instruction after the other changes, and all of it is small: a configuration, names of
//! layers, a history. Layers themselves are in the store. So a state is copied whenever a stage begins with another
//! one, and what a step does to it is decided nowhere but where the step is.

use super::super::cache::Made;
use crate::config::Config;
use crate::digest::{ChainId, DiffId};
use crate::image::{self, History, Image};

/// What BuildKit says of the history it writes.
const COMMENT: &str = "buildkit.dockerfile.v0";
/// The search path of an image made from nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image in the making.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) architecture: String,
    pub(super) os: String,
    pub(super) variant: Option<String>,
    pub(super) author: Option<String>,
    pub(super) diff_ids: Vec<DiffId>,
    pub(super) chain: Vec<ChainId>,
    pub(super) history: Vec<History>,
    /// When its topmost layer was made.
    pub(super) created: Option<String>,
    /// `ARG`s of this stage, in order.
    pub(super) args: Vec<(String, Option<String>)>,
    /// `CMD` was said in this stage.
    pub(super) own_cmd: bool,
    /// Steps in the history of the image that it began with, as long as none has had a time of its own.
    pub(super) untimed: Option<usize>,
}

impl State {
    pub(super) fn scratch() -> Self {
        let config = Config { env: vec![PATH.to_owned()], working_dir: "/".to_owned(), ..Config::default() };
        Self {
            config,
            architecture: image::host_architecture().to_owned(),
            os: "linux".to_owned(),
            untimed: Some(0),
            ..Self::default()
        }
    }

    pub(super) fn of(image: Image) -> Self {
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
    pub(super) fn base(&self) -> Self {
        Self { args: Vec::new(), own_cmd: false, ..self.clone() }
    }

    pub(super) fn lookup(&self, name: &str) -> Option<String> {
        let of_env = self.config.env.iter().rev().find_map(|entry| {
            let (key, value) = entry.split_once('=')?;
            (key == name).then(|| value.to_owned())
        });
        of_env.or_else(|| {
            self.args.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.clone())
        })
    }

    /// `ARG`s with a value that no `ENV` hides, the last of each name.
    pub(super) fn arguments(&self) -> Vec<String> {
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

    pub(super) fn shell(&self) -> Vec<String> {
        self.config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
    }

    pub(super) fn note(&mut self, created_by: String) {
        self.history.push(History {
            created: self.created.clone(),
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            empty_layer: true,
            ..History::default()
        });
    }

    pub(super) fn add(&mut self, made: &Made, created_by: String) {
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
    pub(super) fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.config.working_dir.trim_end_matches('/'))
        }
    }
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
}
