//! Mount options: what the words in a specification mean to the new mount interface.
//!
//! The classic mount(2) mixed three things in one word of flags: attributes of this mount (`nosuid`),
//! options of the file system (`size=64m`), and propagation. The kernel's new calls keep them apart,
//! and so does this parser.

use std::ffi::CString;

use super::error::Error;
use super::kernel::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME, MountAttr,
};

/// The options that are more than words for the file system: those of every mount.
pub const OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "loud",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "tmpcopyup",
    "unbindable",
];

/// Our own option for a bind whose source somebody hostile may be changing at this moment: a symbolic link
/// anywhere in it is refused. What begins with `x-` is no option of any file system.
pub(crate) const PLAIN_SOURCE: &str = "x-bulkhead.plain-source";

/// The options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Attributes of the mount itself.
    pub attr: MountAttr,
    /// Attributes for the mount and everything below it (`rro` and its kin).
    pub recursive: MountAttr,
    /// `bind` or `rbind`.
    pub bind: bool,
    /// `rbind`.
    pub rbind: bool,
    /// Propagation, and whether it applies to everything below.
    pub propagation: Option<(u64, bool)>,
    /// `key=value` options of the file system.
    pub values: Vec<(CString, CString)>,
    /// Options of the file system that take no value.
    pub flags: Vec<CString>,
    /// `tmpcopyup`: fill a tmpfs with what it covers.
    pub copy_up: bool,
    /// [`PLAIN_SOURCE`]: the source of a bind has no symbolic link in it.
    pub plain_source: bool,
    /// `idmap` or `ridmap`.
    pub idmap: bool,
    /// `remount`: change the attributes of what is mounted there already.
    pub remount: bool,
}

impl Options {
    /// Reads the options of a specification's mount.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut options = Self::default();
        for word in words {
            options.word(word)?;
        }
        Ok(options)
    }

    fn word(&mut self, word: &str) -> Result<(), Error> {
        // "rro" is "ro" for the whole tree; "rbind", "rw" and "relatime" start with r by themselves.
        let (attr, name) = match word.strip_prefix('r') {
            Some(rest) if attribute(rest).is_some() && attribute(word).is_none() => {
                (&mut self.recursive, rest)
            }
            _ => (&mut self.attr, word),
        };
        if let Some((set, clear)) = attribute(name) {
            // The last word on an attribute wins.
            attr.set = attr.set & !clear | set;
            attr.clear = attr.clear & !set | clear;
            return Ok(());
        }
        match word {
            "defaults" | "async" | "loud" | "nolazytime" | "nomand" | "norelatime" => {}
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.rbind) = (true, true),
            "tmpcopyup" => self.copy_up = true,
            "remount" => self.remount = true,
            PLAIN_SOURCE => self.plain_source = true,
            "idmap" | "ridmap" => self.idmap = true,
            "shared" => self.propagation = Some((libc::MS_SHARED, false)),
            "slave" => self.propagation = Some((libc::MS_SLAVE, false)),
            "private" => self.propagation = Some((libc::MS_PRIVATE, false)),
            "unbindable" => self.propagation = Some((libc::MS_UNBINDABLE, false)),
            "rshared" => self.propagation = Some((libc::MS_SHARED, true)),
            "rslave" => self.propagation = Some((libc::MS_SLAVE, true)),
            "rprivate" => self.propagation = Some((libc::MS_PRIVATE, true)),
            "runbindable" => self.propagation = Some((libc::MS_UNBINDABLE, true)),
            _ => {
                let c = |text: &str| CString::new(text).map_err(|_| Error::invalid("mount option", word));
                match word.split_once('=') {
                    Some((key, value)) => self.values.push((c(key)?, c(value)?)),
                    None => self.flags.push(c(word)?),
                }
            }
        }
        Ok(())
    }
}

/// The attribute bits that a word sets and clears. Access times are not bits but one field of three
/// values, so every word about them clears the field first.
fn attribute(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "ro" => (MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, MOUNT_ATTR_RDONLY),
        "nosuid" => (MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, MOUNT_ATTR_NOSUID),
        "nodev" => (MOUNT_ATTR_NODEV, 0),
        "dev" => (0, MOUNT_ATTR_NODEV),
        "noexec" => (MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, MOUNT_ATTR_NOEXEC),
        "nosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => (MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, MOUNT_ATTR_NODIRATIME),
        "noatime" => (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
        "strictatime" => (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
        "relatime" | "atime" | "nostrictatime" => (0, MOUNT_ATTR_ATIME),
        _ => return None,
    })
}

/// The propagation that a `rootfsPropagation` names, and whether it is recursive.
pub(super) fn propagation(word: &str) -> Result<(u64, bool), Error> {
    let mut options = Options::default();
    options.word(word)?;
    options.propagation.ok_or_else(|| Error::invalid("rootfsPropagation", word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        Options::parse(text.split(',').filter(|w| !w.is_empty())).expect("options")
    }

    #[test]
    fn words_become_attributes_and_values() {
        let options = parse("nosuid,noexec,nodev,mode=1777,size=65536k");
        assert_eq!(options.attr.set, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV);
        let values: Vec<_> =
            options.values.iter().map(|(k, v)| (k.to_str().unwrap(), v.to_str().unwrap())).collect();
        assert_eq!(values, [("mode", "1777"), ("size", "65536k")]);
    }

    #[test]
    fn a_source_may_have_to_be_plain() {
        let options = parse(&format!("rbind,ro,{PLAIN_SOURCE}"));
        assert!(options.plain_source && options.flags.is_empty());
    }

    #[test]
    fn every_option_that_is_told_is_understood() {
        for option in OPTIONS {
            let parsed = parse(option);
            assert!(parsed.values.is_empty() && parsed.flags.is_empty(), "{option}");
        }
    }

    #[test]
    fn the_last_word_on_an_attribute_wins() {
        for (text, set, clear) in [
            ("ro,rw", 0, MOUNT_ATTR_RDONLY),
            ("rw,ro", MOUNT_ATTR_RDONLY, 0),
            ("noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
            ("noatime,strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
            ("noatime,relatime", 0, MOUNT_ATTR_ATIME),
        ] {
            let attr = parse(text).attr;
            let want = MountAttr { set, clear, ..MountAttr::default() };
            assert_eq!((attr.set, attr.clear & !attr.set), (want.set, want.clear & !want.set), "{text}");
        }
    }

    #[test]
    fn recursive_words_are_told_from_words_with_an_r() {
        let options = parse("rbind,rro,rnosuid,relatime,rw,rslave");
        assert!(options.bind && options.rbind);
        assert_eq!(options.recursive.set, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID);
        assert_eq!(options.attr.set, 0);
        assert_eq!(options.attr.clear, MOUNT_ATTR_RDONLY | MOUNT_ATTR_ATIME);
        assert_eq!(options.propagation, Some((libc::MS_SLAVE, true)));
    }
}
