//! Names of images, as people write them and as registries understand them.
//!
//! People write `alpine`; a registry wants `docker.io/library/alpine:latest`. The store keeps only the
//! long form, so that two spellings of one name cannot become two images, and every view prints the
//! short form back. The grammar and the wording of refusals are Docker's, because scripts match on them.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The registry of names that give none.
const DEFAULT_DOMAIN: &str = "docker.io";
/// What Docker Hub was called once; still written in old files.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// The namespace of Docker Hub's names that give none.
const OFFICIAL: &str = "library";
/// Longest repository name in bytes, domain included (distribution's `NameTotalLengthMax`).
const MAX_NAME: usize = 255;

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has an upper-case letter.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// 64 hexadecimal digits alone would be taken for an id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// The repository is longer than 255 bytes.
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
}

/// A normalised name: domain, path, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises; a name without tag and digest keeps neither (see [`Self::tagged`]).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ParseError::Identifier(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| ParseError::Format)?)),
            None => (text, None),
        };
        // The tag's colon comes after the last slash; one before it belongs to a port.
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_start..].split_once(':') {
            Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ParseError::Format);
        }
        let (domain, path) = match name.split_once('/') {
            Some((first, path)) if is_domain_like(first) => (first, path.to_owned()),
            _ => (DEFAULT_DOMAIN, name.to_owned()),
        };
        let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ParseError::Uppercase(path));
        }
        if !is_domain(domain) || !path.split('/').all(is_component) {
            return Err(ParseError::Format);
        }
        let path =
            if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("{OFFICIAL}/{path}") } else { path };
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ParseError::TooLong);
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// The registry's host, with its port if it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one is named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest digest, if one is named.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same name with `latest` when it names neither a tag nor a digest.
    #[must_use]
    pub fn tagged(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same repository under another tag.
    #[must_use]
    pub fn with_tag(&self, tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() }
    }

    /// The same repository at a digest only.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// `docker.io/library/alpine`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// `alpine`: the repository as people write it.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        let path = &self.path;
        match path.strip_prefix("library/") {
            // `docker.io/library/a/b` cannot be shortened: `a/b` names another repository.
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => path.clone(),
        }
    }

    /// `alpine:3.20`: the whole name as people write it.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.repository()))
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

/// Whether the first part of a name is a host: it has a dot or a port, is `localhost`, or has an
/// upper-case letter (no repository has).
fn is_domain_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if let Some(end) = text.strip_prefix('[').and_then(|t| t.find(']')) {
        let inside = &text[1..=end];
        let rest = &text[end + 2..];
        let valid = !inside.is_empty() && inside.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        return valid && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// `[a-z0-9]+` joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(|b| alphanumeric(*b)) || !bytes.last().is_some_and(|b| alphanumeric(*b)) {
        return false;
    }
    bytes.split(|b| alphanumeric(*b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

/// `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && word(text.as_bytes()[0])
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_shortened_back() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("user/app:v1", "docker.io/user/app:v1", "user/app:v1"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("quay.io/x/y", "quay.io/x/y:latest", "quay.io/x/y:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("foo_bar__baz", "docker.io/library/foo_bar__baz:latest", "foo_bar__baz:latest"),
            ("a---b", "docker.io/library/a---b:latest", "a---b:latest"),
        ] {
            let reference = Reference::parse(text).expect(text).tagged();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(Reference::parse(full).expect(full), reference);
        }
    }

    #[test]
    fn a_digest_reference_gets_no_tag() {
        let digest = Digest::of(b"x");
        let reference = Reference::parse(&format!("alpine@{digest}")).expect("parse").tagged();
        assert_eq!(reference.to_string(), format!("docker.io/library/alpine@{digest}"));
        let both = Reference::parse(&format!("alpine:1@{digest}")).expect("parse");
        assert_eq!((both.tag(), both.digest()), (Some("1"), Some(digest)));
    }

    #[test]
    fn what_is_no_name_is_refused_in_dockers_words() {
        let hex = "a".repeat(64);
        for (text, want) in [
            ("", "invalid reference format"),
            (":latest", "invalid reference format"),
            ("alpine:", "invalid reference format"),
            ("al pine", "invalid reference format"),
            ("alpine::x", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("../a", "invalid reference format"),
            ("alpine@sha256:12", "invalid reference format"),
            ("Alpine", "invalid reference format: repository name (Alpine) must be lowercase"),
            (
                hex.as_str(),
                &format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings"),
            ),
            (&"a/".repeat(130), "invalid reference format"),
            (&format!("{}a", "a/".repeat(130)), "repository name must not be more than 255 characters"),
            (&format!("a:{}", "t".repeat(129)), "invalid reference format"),
        ] {
            assert_eq!(Reference::parse(text).expect_err(text).to_string(), want, "{text}");
        }
    }
}
