//! What the filters of all lists have in common: how they are written, and what is wrong with one.
//!
//! A filter is a name and a value, as `--filter NAME=VALUE` gives it. Of one name any value may hold (of labels
//! all must), of different names all.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{container, image, layer, network, store, time, volume};

/// A filter's name and its value.
pub type Given = (String, String);

/// Why a list cannot be filtered, or what it admits not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A filter that this list has not, or a value that means nothing.
    #[error("invalid filter '{0}'")]
    Invalid(String),
    /// A type that no network has.
    #[error("invalid filter: 'type'='{0}'")]
    NetworkType(String),
    /// A health that no container can have.
    #[error("unrecognised filter value for health: {0}")]
    Health(String),
    /// A time that ends before it begins.
    #[error("`since` time ({since}) cannot be after `until` time ({until})")]
    Period {
        /// Its beginning, as it was written.
        since: String,
        /// Its end.
        until: String,
    },
    /// A moment that cannot be read.
    #[error(transparent)]
    Moment(#[from] time::NoMoment),
    /// Containers could not be read, or the one that is named is not there.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// The same of images.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The same of networks.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The same of volumes.
    #[error(transparent)]
    Volume(#[from] volume::Error),
    /// The same of files.
    #[error(transparent)]
    Layer(#[from] layer::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The moments between which something is to have happened.
pub fn period(
    since: Option<&str>,
    until: Option<&str>,
) -> Result<(Option<Timestamp>, Option<Timestamp>), Error> {
    let moments = (since.map(time::moment).transpose()?, until.map(time::moment).transpose()?);
    match (moments, since, until) {
        ((Some(from), Some(to)), Some(since), Some(until)) if to < from => {
            Err(Error::Period { since: since.to_owned(), until: until.to_owned() })
        }
        _ => Ok(moments),
    }
}

/// The moment that an `until` filter means.
pub fn until(value: &str) -> Result<Timestamp, Error> {
    Ok(time::moment(value)?)
}

/// Docker's ways to write a truth.
pub fn is_true(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Of one name any value, of labels every one; of different names all. `fits` is told a name and a value.
pub fn all_hold(filters: &[Given], fits: impl Fn(&str, &str) -> bool) -> bool {
    filters.iter().all(|(key, value)| {
        if key == "label" {
            fits(key, value)
        } else {
            filters.iter().any(|(other, value)| other == key && fits(key, value))
        }
    })
}

/// `KEY` is there, or `KEY=VALUE` is.
pub fn label_holds(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
        None => labels.contains_key(wanted),
    }
}

/// A name's filter: a part of it, with `^` and `$` for its ends, as scripts write them.
pub fn name_matches(name: &str, pattern: &str) -> bool {
    let (start, pattern) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (end, pattern) = match pattern.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    match (start, end) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}
