//! `ARG`s and the words that they stand in.
//!
//! A name may be given on the command line, before the first `FROM`, in a stage, by the image that a stage begins with,
//! or by the platform; which of them counts depends on where the word stands. What nobody has asked for is told at
//! the end of a build, so whoever is asked for a value notes that.

use std::sync::PoisonError;

use super::super::dockerfile::Words;
use super::super::{Error, Failed};
use super::Build;
use super::state::State;
use crate::image;

/// Arguments that every build takes, for `RUN` alone, and that change nothing of what is cached.
pub(super) const PROXIES: [&str; 10] = [
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

impl Build<'_> {
    pub(super) fn given(&self, name: &str) -> Option<String> {
        let found = self.options.args.iter().rev().find(|(have, _)| have == name)?.1.clone();
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
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

    pub(super) fn global(&self, name: &str) -> Option<String> {
        let found = self.globals.iter().rev().find(|(have, _)| have == name);
        found.and_then(|(_, value)| value.clone()).or_else(|| self.platform_arg(name))
    }

    pub(super) fn expand_global(&self, word: &str) -> Result<String, Error> {
        let lookup = |name: &str| self.global(name);
        let words = Words { escape: self.file.escape, lookup: &lookup };
        words.expand(word).map_err(|reason| Error::Word { word: word.to_owned(), reason })
    }

    pub(super) fn expand(&self, state: &State, word: &str) -> Result<String, Error> {
        let lookup = |name: &str| state.lookup(name);
        let words = Words { escape: self.file.escape, lookup: &lookup };
        words.expand(word).map_err(|reason| Error::Word { word: word.to_owned(), reason })
    }

    pub(super) fn expand_all(&self, state: &State, words: &[String]) -> Result<Vec<String>, Error> {
        words.iter().map(|word| self.expand(state, word)).collect()
    }

    pub(super) fn read_globals(&mut self) -> Result<(), Failed> {
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
        for (n, stage) in self.file.stages.iter().enumerate() {
            if let Some(name) = &stage.name
                && self.names.insert(name.clone(), n).is_some()
            {
                let lines = Some((stage.line.first, stage.line.last));
                return Err(Failed { error: Error::DuplicateStage(name.clone()), lines });
            }
        }
        Ok(())
    }
}
