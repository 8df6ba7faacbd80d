//! What may be asked to be mounted: Docker's rules for the texts of `-v`, for `--mount`, and for `--tmpfs`.
//!
//! The command line and the API read these from two grammars into one configuration. What is refused of it, and in
//! which words, is said here for both.

use std::collections::HashSet;

use super::volumes::clean;
use crate::config::{HostConfig, MountPoint, VolumeOptions};
use crate::volume::{self, check_name};

/// Ways in which mounts of the host and the container may reach each other.
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// A mount that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// A text of `-v` that is not `SOURCE:TARGET[:MODE]`.
    #[error("invalid volume specification: '{0}'")]
    Specification(String),
    /// One with nothing before its colon.
    #[error("invalid volume spec: '{0}': empty section between colons")]
    EmptySection(String),
    /// One whose target is not absolute.
    #[error(
        "invalid volume specification: '{text}': invalid mount config for type {kind:?}: invalid mount path: '{target}' \
         mount path must be absolute"
    )]
    RelativeTarget {
        /// All of it.
        text: String,
        /// `bind` or `volume`.
        kind: &'static str,
        /// The target.
        target: String,
    },
    /// One in the place of the root.
    #[error("invalid volume specification: '{0}': invalid specification: destination can't be '/'")]
    OnRoot(String),
    /// A mode of `-v` with a word that means nothing there, or with two of a kind.
    #[error("invalid mode: {0}")]
    Mode(String),
    /// A volume's name.
    #[error(transparent)]
    Name(Box<volume::Error>),
    /// A mount of `--mount`.
    #[error("invalid mount config for type {kind:?}: {why}")]
    Long {
        /// Its type.
        kind: String,
        /// What is wrong with it.
        why: String,
    },
    /// A `--tmpfs` that is not absolute.
    #[error("invalid tmpfs mount: path {0:?} must be absolute")]
    RelativeTmpfs(String),
    /// A `--tmpfs` in the place of the root.
    #[error("invalid specification: destination can't be '/'")]
    TmpfsOnRoot,
    /// Two in one place.
    #[error("Duplicate mount point: {0}")]
    Duplicate(String),
}

impl From<volume::Error> for Invalid {
    fn from(error: volume::Error) -> Self {
        Self::Name(Box::new(error))
    }
}

/// Checks all mounts of a container, and that no two are in one place.
pub fn check(host: &HostConfig) -> Result<(), Invalid> {
    let mut targets = HashSet::new();
    let mut take = |target: &str| {
        let target = clean(target);
        if targets.contains(&target) {
            return Err(Invalid::Duplicate(target));
        }
        targets.insert(target);
        Ok(())
    };
    for text in host.binds.iter().flatten() {
        take(&bind(text)?.destination)?;
    }
    for mount in &host.mounts {
        long(mount)?;
        take(&mount.destination)?;
    }
    for target in host.tmpfs.keys() {
        tmpfs(target)?;
        take(target)?;
    }
    Ok(())
}

/// `SOURCE:TARGET[:MODE]`, where a source without a leading slash is the name of a volume.
pub fn bind(text: &str) -> Result<MountPoint, Invalid> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        ["", _] | ["", _, _] => return Err(Invalid::EmptySection(text.to_owned())),
        [source, target] if !target.is_empty() => (*source, *target, ""),
        [source, target, mode] if !target.is_empty() && !mode.is_empty() => (*source, *target, *mode),
        _ => return Err(Invalid::Specification(text.to_owned())),
    };
    let is_path = source.starts_with('/');
    let kind = if is_path { "bind" } else { "volume" };
    self::target(text, kind, target)?;
    let mut point = MountPoint {
        kind: kind.to_owned(),
        destination: target.to_owned(),
        rw: true,
        mode: mode.to_owned(),
        ..MountPoint::default()
    };
    let (mut access, mut label, mut propagation, mut copy, mut consistency) = (0, 0, 0, 0, 0);
    for word in mode.split(',').filter(|_| !mode.is_empty()) {
        match word {
            "ro" | "rw" => {
                access += 1;
                point.rw = word == "rw";
            }
            "z" | "Z" => label += 1,
            "nocopy" if !is_path => {
                copy += 1;
                point.volume_options = Some(VolumeOptions { no_copy: true, ..VolumeOptions::default() });
            }
            "consistent" | "cached" | "delegated" | "default" => consistency += 1,
            word if is_path && PROPAGATIONS.contains(&word) => {
                propagation += 1;
                word.clone_into(&mut point.propagation);
            }
            _ => return Err(Invalid::Mode(mode.to_owned())),
        }
    }
    if [access, label, propagation, copy, consistency].iter().any(|times| *times > 1) {
        return Err(Invalid::Mode(mode.to_owned()));
    }
    if is_path {
        source.clone_into(&mut point.source);
        if propagation == 0 {
            "rprivate".clone_into(&mut point.propagation);
        }
    } else {
        check_name(source)?;
        source.clone_into(&mut point.name);
        if mode.is_empty() {
            // Docker shows the label that SELinux would give it.
            "z".clone_into(&mut point.mode);
        }
    }
    Ok(point)
}

/// Checks `TARGET` alone, a volume without a name.
pub fn anonymous(text: &str) -> Result<(), Invalid> {
    if text.is_empty() { Err(Invalid::Specification(String::new())) } else { target(text, "volume", text) }
}

fn target(text: &str, kind: &'static str, target: &str) -> Result<(), Invalid> {
    if !target.starts_with('/') {
        return Err(Invalid::RelativeTarget { text: text.to_owned(), kind, target: target.to_owned() });
    }
    if clean(target) == "/" { Err(Invalid::OnRoot(text.to_owned())) } else { Ok(()) }
}

/// Checks a mount in the form that `--mount` has in the configuration: kinds and paths.
pub fn long(mount: &MountPoint) -> Result<(), Invalid> {
    let invalid = |why: String| Err(Invalid::Long { kind: mount.kind.clone(), why });
    let relative = |path: &str| invalid(format!("invalid mount path: '{path}' mount path must be absolute"));
    match mount.kind.as_str() {
        "bind" if mount.source.is_empty() => return invalid("field Source must not be empty".to_owned()),
        "bind" if !mount.source.starts_with('/') => return relative(&mount.source),
        "bind" if !mount.propagation.is_empty() && !PROPAGATIONS.contains(&mount.propagation.as_str()) => {
            return invalid(format!("invalid propagation mode: {}", mount.propagation));
        }
        "tmpfs" if !mount.source.is_empty() => {
            return invalid("field Source must not be specified".to_owned());
        }
        "volume" if !mount.name.is_empty() => check_name(&mount.name)?,
        "bind" | "tmpfs" | "volume" => {}
        _ => return invalid("mount type unknown".to_owned()),
    }
    let subpath = mount.volume_options.as_ref().map_or("", |options| options.subpath.as_str());
    if mount.name.is_empty() && !subpath.is_empty() {
        return invalid("must not set Subpath when using anonymous volumes".to_owned());
    }
    if subpath.starts_with('/') || subpath.split('/').any(|part| part == "..") {
        return invalid("subpath must be a relative path within the volume".to_owned());
    }
    if !mount.destination.starts_with('/') {
        return relative(&mount.destination);
    }
    if clean(&mount.destination) == "/" {
        return invalid("invalid specification: destination can't be '/'".to_owned());
    }
    Ok(())
}

/// Checks the target of a `--tmpfs`.
pub fn tmpfs(target: &str) -> Result<(), Invalid> {
    if !target.starts_with('/') {
        return Err(Invalid::RelativeTmpfs(target.to_owned()));
    }
    if clean(target) == "/" { Err(Invalid::TmpfsOnRoot) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_mounts() {
        let point = bind("/a:/b").expect("plain");
        assert_eq!((point.source.as_str(), point.rw, point.propagation.as_str()), ("/a", true, "rprivate"));
        let point = bind("/a:/b:ro,rslave").expect("options");
        assert_eq!(
            (point.rw, point.propagation.as_str(), point.mode.as_str()),
            (false, "rslave", "ro,rslave")
        );
        let point = bind("data:/b:nocopy").expect("volume");
        assert_eq!(
            (point.kind.as_str(), point.name.as_str(), point.mode.as_str()),
            ("volume", "data", "nocopy")
        );
        assert!(point.volume_options.is_some_and(|options| options.no_copy));
        assert_eq!(bind("data:/b").expect("volume").mode, "z");
    }

    #[test]
    fn texts_that_are_refused() {
        for (text, want) in [
            ("/a", "invalid volume specification: '/a'"),
            ("a:b:c:d", "invalid volume specification: 'a:b:c:d'"),
            ("/a:/b:", "invalid volume specification: '/a:/b:'"),
            ("/a:", "invalid volume specification: '/a:'"),
            (":/b", "invalid volume spec: ':/b': empty section between colons"),
            ("/a:/b:foo", "invalid mode: foo"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            ("/a:/b:ro,", "invalid mode: ro,"),
            ("/a:/b:nocopy", "invalid mode: nocopy"),
            ("data:/b:shared", "invalid mode: shared"),
            ("/a:/", "invalid volume specification: '/a:/': invalid specification: destination can't be '/'"),
            (
                "/a:b",
                "invalid volume specification: '/a:b': invalid mount config for type \"bind\": invalid mount path: 'b' \
                 mount path must be absolute",
            ),
        ] {
            assert_eq!(bind(text).expect_err(text).to_string(), want, "{text}");
        }
        let named = bind("a/b:/c").expect_err("a name").to_string();
        assert!(named.contains("includes invalid characters for a local volume name"), "{named}");
    }

    #[test]
    fn one_place_is_one_mounts() {
        let mut host = HostConfig { binds: Some(vec!["/a:/x".to_owned()]), ..HostConfig::default() };
        assert!(check(&host).is_ok());
        host.tmpfs.insert("/y/../x/".to_owned(), String::new());
        assert_eq!(check(&host).expect_err("two").to_string(), "Duplicate mount point: /x");
        host.tmpfs.clear();
        host.mounts.push(MountPoint {
            kind: "tmpfs".into(),
            destination: "/x".into(),
            ..MountPoint::default()
        });
        assert_eq!(check(&host).expect_err("two").to_string(), "Duplicate mount point: /x");
    }
}
