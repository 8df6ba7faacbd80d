//! Indexes and manifests, the OCI's and Docker's, and the choice among platforms.
//!
//! The two families differ in names only. What a document is, is told by its own `mediaType`, else by what
//! the server calls it, and must fit what is in it: one that could be read as either a manifest or an index
//! is read as neither (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Error, host_architecture};
use crate::digest::Digest;
use crate::registry;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Layers of one image. overlayfs itself takes 500.
const MAX_LAYERS: usize = 1024;

/// What a document refers to.
#[derive(Debug, Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub urls: Option<Vec<String>>,
}

/// What an image runs on, in Go's words.
#[derive(Debug, Deserialize, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`
    #[serde(default)]
    pub architecture: String,
    /// `v7`, `v8`
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Index {
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub config: Descriptor,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

impl Descriptor {
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    pub fn is_index(&self) -> bool {
        self.media_type.ends_with(".image.index.v1+json")
            || self.media_type.ends_with(".manifest.list.v2+json")
    }

    /// Build attestations sit among the platforms of an index and are no images.
    pub fn is_attestation(&self) -> bool {
        self.annotation("vnd.docker.reference.type").is_some()
            || self.platform.as_ref().is_some_and(|p| p.os == "unknown" || p.architecture == "unknown")
    }

    pub fn is_foreign(&self) -> bool {
        self.platform.as_ref().is_some_and(|p| p.os != "linux" || p.architecture != host_architecture())
    }

    /// Whether a layer's content is not in the registry but somewhere in the world.
    pub fn is_elsewhere(&self) -> bool {
        self.media_type.contains(".foreign.")
            || self.media_type.contains(".nondistributable.")
            || self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }
}

/// A text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\": unknown operating system or architecture: invalid argument")]
pub struct InvalidPlatform(String);

impl Platform {
    /// This host's.
    pub fn host() -> Self {
        Self { os: "linux".to_owned(), architecture: host_architecture().to_owned(), variant: None }
    }

    /// As people write it: `linux/arm64/v8`, `linux/amd64`, `arm64`, `linux`.
    pub fn parse(text: &str) -> Result<Self, InvalidPlatform> {
        let bad = || InvalidPlatform(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let known = |arch: &str| {
            Some(match arch {
                "x86_64" | "x86-64" | "amd64" => ("amd64", None),
                "aarch64" | "arm64" => ("arm64", None),
                "i386" | "i686" | "386" => ("386", None),
                "arm" => ("arm", None),
                "armhf" => ("arm", Some("v7")),
                "armel" => ("arm", Some("v6")),
                "ppc64le" => ("ppc64le", None),
                "s390x" => ("s390x", None),
                "riscv64" => ("riscv64", None),
                "mips64le" => ("mips64le", None),
                "loong64" => ("loong64", None),
                _ => return None,
            })
        };
        let parts: Vec<&str> = lower.split('/').collect();
        let (os, arch, variant) = match parts[..] {
            ["linux"] => ("linux", host_architecture(), None),
            [arch] => ("linux", arch, None),
            [os, arch] => (os, arch, None),
            [os, arch, variant] if !variant.is_empty() => (os, arch, Some(variant)),
            _ => return Err(bad()),
        };
        if os.is_empty() || !os.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(bad());
        }
        let (architecture, implied) = known(arch).ok_or_else(bad)?;
        let variant = variant.or(implied).map(str::to_owned);
        Ok(Self { os: os.to_owned(), architecture: architecture.to_owned(), variant })
    }

    /// How well an image for `other` runs here: less is better, `None` is not at all.
    fn fits(&self, other: &Self) -> Option<u8> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        // Go's defaults: arm64 is v8, and arm is v7.
        let usual = |platform: &Self| match (platform.architecture.as_str(), platform.variant.as_deref()) {
            ("arm64", None | Some("")) => "v8".to_owned(),
            ("arm", None | Some("")) => "v7".to_owned(),
            ("amd64", None | Some("")) => "v1".to_owned(),
            (_, variant) => variant.unwrap_or_default().to_owned(),
        };
        let (own, theirs) = (usual(self), usual(other));
        let number = |variant: &str| variant.strip_prefix('v').and_then(|n| n.parse::<u8>().ok());
        match (number(&own), number(&theirs)) {
            _ if own == theirs => Some(0),
            // A later processor runs what was made for an earlier one.
            (Some(own), Some(theirs)) if theirs < own => Some(own - theirs),
            _ => None,
        }
    }
}

impl Platform {
    /// Refuses an image for something else than is asked for: one that names no variant is for all of them.
    pub fn check(&self, name: &str, actual: &Self) -> Result<(), Error> {
        let same = self.os == actual.os
            && self.architecture == actual.architecture
            && (self.variant.is_none() || actual.variant.is_none() || self.variant == actual.variant);
        if same {
            return Ok(());
        }
        let (wanted, actual) = (self.to_string(), registry::printable(&actual.to_string()));
        Err(Error::OtherPlatform { name: name.to_owned(), wanted, actual })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

/// Of an index's images, the one for a platform.
pub(super) fn choose<'a>(index: &'a Index, platform: &Platform) -> Result<&'a Descriptor, Error> {
    let images = index.manifests.iter().filter(|descriptor| !descriptor.is_attestation());
    images
        .filter_map(|descriptor| match &descriptor.platform {
            Some(theirs) => platform.fits(theirs).map(|rank| (rank, descriptor)),
            // One that says nothing may be anything: the last choice.
            None => Some((u8::MAX, descriptor)),
        })
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, descriptor)| descriptor)
        .ok_or_else(|| Error::NoPlatform(platform.to_string()))
}

/// A document that came under a digest or a tag.
#[derive(Debug)]
pub(super) enum Document {
    Index(Index),
    Manifest(Manifest),
}

impl Document {
    /// Reads what a server calls `content_type`.
    pub fn parse(what: &str, content_type: &str, bytes: &[u8]) -> Result<Self, Error> {
        let bad = |reason: String| Error::from(registry::Error::Document { what: what.to_owned(), reason });
        let value: Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        let Value::Object(map) = &value else { return Err(bad("no JSON object".to_owned())) };
        let own = match map.get("mediaType") {
            None => "",
            Some(Value::String(text)) => text.as_str(),
            Some(_) => return Err(bad("mediaType is no text".to_owned())),
        };
        let known = |kind: &str| [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&kind);
        let kind = if own.is_empty() { content_type } else { own };
        if content_type.contains("docker.distribution.manifest.v1+")
            || map.get("schemaVersion") == Some(&Value::from(1))
        {
            return Err(bad("manifest schema 1 is not supported: the image must be pushed anew".to_owned()));
        }
        if !known(kind) {
            return Err(bad(format!("unsupported manifest media type {kind:?}")));
        }
        if known(content_type) && content_type != kind {
            return Err(bad(format!("it says it is {kind:?}, its server that it is {content_type:?}")));
        }
        let index = kind == OCI_INDEX || kind == DOCKER_LIST;
        let other: &[&str] = if index { &["config", "layers"] } else { &["manifests"] };
        if let Some(key) = other.iter().find(|key| map.contains_key(**key)) {
            return Err(bad(format!("{kind:?} with {key:?} in it: it could be read in two ways")));
        }
        if index {
            return serde_json::from_value(value).map(Self::Index).map_err(|error| bad(error.to_string()));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(bad(format!("{} layers: the limit is {MAX_LAYERS}", manifest.layers.len())));
        }
        if let Some(layer) = manifest.layers.iter().find(|layer| layer.is_elsewhere()) {
            let kind = &layer.media_type;
            return Err(bad(format!(
                "foreign layer {:?} ({kind:?}) is not in the registry, and is not fetched from elsewhere",
                layer.digest
            )));
        }
        Ok(Self::Manifest(manifest))
    }
}

/// The digests and sizes of a stored manifest's layers, lowest first; empty if it cannot be read.
pub(super) fn stored_layers(bytes: &[u8]) -> Vec<(Digest, u64, String)> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else { return Vec::new() };
    let layers = manifest.layers.into_iter();
    layers
        .map(|l| Some((l.digest.parse().ok()?, l.size, l.media_type)))
        .collect::<Option<_>>()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text).expect(text)
    }

    #[test]
    fn platforms_are_read_as_people_write_them() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("Linux/ARM64/v8", "linux/arm64/v8"),
            ("armhf", "linux/arm/v7"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(platform(text).to_string(), want, "{text}");
        }
        for text in ["", "foo", "linux/", "linux/amd64/", "a/b/c/d", "/amd64"] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_best_of_an_index_is_chosen() {
        let entry = |n: u8, os: &str, arch: &str, variant: &str| {
            json!({ "mediaType": OCI_MANIFEST, "digest": format!("sha256:{n:064}"), "size": 1,
                    "platform": { "os": os, "architecture": arch, "variant": variant } })
        };
        let mut list = vec![
            entry(1, "linux", "arm", "v6"),
            entry(2, "linux", "arm", "v7"),
            entry(3, "linux", "arm64", "v8"),
            entry(4, "linux", "amd64", "v3"),
            entry(5, "linux", "amd64", ""),
            entry(6, "unknown", "unknown", ""),
        ];
        let pick = |list: &[Value], text: &str| {
            let index: Index = serde_json::from_value(json!({ "manifests": list })).expect("index");
            choose(&index, &platform(text)).map(|d| {
                d.digest
                    .trim_start_matches(['s', 'h', 'a', '2', '5', '6', ':'])
                    .trim_start_matches('0')
                    .to_owned()
            })
        };
        for (text, want) in [
            ("linux/amd64", "5"),
            ("linux/amd64/v3", "4"),
            ("linux/amd64/v2", "5"),
            ("arm64", "3"),
            ("arm", "2"),
            ("linux/arm/v6", "1"),
            ("linux/arm/v8", "2"),
        ] {
            assert_eq!(pick(&list, text).expect(text), want, "{text}");
        }
        let error = pick(&list, "s390x").expect_err("none").to_string();
        assert_eq!(error, "no matching manifest for linux/s390x in the manifest list entries");
        list.push(json!({ "mediaType": OCI_MANIFEST, "digest": format!("sha256:{:064}", 7), "size": 1 }));
        assert_eq!(pick(&list, "s390x").expect("the one that says nothing"), "7");
    }

    #[test]
    fn a_document_is_one_thing() {
        let layer = |kind: &str| json!({ "mediaType": kind, "digest": "sha256:x", "size": 1 });
        let config = json!({ "mediaType": OCI_CONFIG, "digest": "sha256:x", "size": 1 });
        let good = json!({ "schemaVersion": 2, "config": config, "layers": [layer(OCI_LAYER)] });
        let read = |kind: &str, value: &Value| Document::parse("m", kind, value.to_string().as_bytes());
        assert!(matches!(read(OCI_MANIFEST, &good), Ok(Document::Manifest(_))));
        assert!(matches!(read(DOCKER_MANIFEST, &good), Ok(Document::Manifest(_))));
        let mut named = good.clone();
        named["mediaType"] = OCI_MANIFEST.into();
        assert!(matches!(read("text/plain", &named), Ok(Document::Manifest(_))));
        let mut both = good.clone();
        both["manifests"] = json!([]);
        let mut foreign = good.clone();
        foreign["layers"] = json!([layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]);
        let mut many = good.clone();
        many["layers"] = vec![layer(OCI_LAYER); MAX_LAYERS + 1].into();
        for (kind, value, want) in [
            ("text/html", &good, "unsupported manifest media type \"text/html\""),
            (OCI_MANIFEST, &both, "it could be read in two ways"),
            (OCI_INDEX, &good, "it could be read in two ways"),
            (DOCKER_MANIFEST, &named, "its server that it is"),
            (OCI_MANIFEST, &foreign, "foreign layer \"sha256:x\""),
            (OCI_MANIFEST, &many, "1025 layers"),
            (OCI_MANIFEST, &json!([]), "no JSON object"),
            (OCI_MANIFEST, &json!({}), "missing field `config`"),
            ("x", &json!({ "schemaVersion": 1 }), "schema 1"),
        ] {
            let error = read(kind, value).expect_err(want).to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
        assert!(Document::parse("m", OCI_MANIFEST, b"<html>").is_err());
    }
}
