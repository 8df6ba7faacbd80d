//! Flags that mount something: `--mount`, `--volume`, `--tmpfs`.

use bulkhead_engine::config::{MountPoint, VolumeOptions};
use bulkhead_engine::container::mounts;
pub use bulkhead_engine::container::volumes::clean;

use super::units;

/// Splits one line of CSV, as `--mount` is one: a field may be quoted, a quote inside is doubled.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut all = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let field = all.last_mut().expect("never empty");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '"' => {
                return Err(format!(
                    "parse error on line 1, column {}: bare \" in non-quoted-field",
                    field.len() + 1
                ));
            }
            ',' if !quoted => all.push(String::new()),
            other => field.push(other),
        }
    }
    if quoted {
        return Err("parse error on line 1: extraneous or missing \" in quoted-field".to_owned());
    }
    Ok(all)
}

/// `--mount type=bind|volume|tmpfs,…`. What is specific to a kind is kept in `mode`, comma separated:
/// `nonrecursive`, `size=BYTES`, `mode=OCTAL`.
pub fn long(text: &str) -> Result<MountPoint, String> {
    if text.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut mount = MountPoint { kind: "volume".to_owned(), rw: true, ..MountPoint::default() };
    let (mut bind_options, mut volume_options, mut tmpfs_options) = (false, false, false);
    let mut volume = VolumeOptions::default();
    let mut mode: Vec<String> = Vec::new();
    for field in fields(text)? {
        let (key, value) =
            field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let key = key.to_lowercase();
        // These may stand alone and then mean true.
        let switch = |value: Option<&str>| match value.unwrap_or("true") {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
            other => Err(format!("invalid value for {key}: {other}")),
        };
        match key.as_str() {
            "readonly" | "ro" => {
                mount.rw = !switch(value)?;
                continue;
            }
            "volume-nocopy" => {
                volume_options = true;
                volume.no_copy = switch(value)?;
                continue;
            }
            "bind-nonrecursive" => {
                bind_options = true;
                if switch(value)? {
                    mode.push("nonrecursive".to_owned());
                }
                continue;
            }
            _ => {}
        }
        let Some(value) = value else {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        };
        match key.as_str() {
            "type" => mount.kind = value.to_lowercase(),
            "source" | "src" => value.clone_into(&mut mount.source),
            "target" | "dst" | "destination" => value.clone_into(&mut mount.destination),
            "bind-propagation" => {
                bind_options = true;
                mount.propagation = value.to_lowercase();
            }
            "bind-recursive" => {
                bind_options = true;
                match value {
                    // Nor would one that cannot be kept be made: every kernel that is needed knows how.
                    "enabled" | "readonly" => {}
                    "disabled" => mode.push("nonrecursive".to_owned()),
                    "writable" => mode.push("nonrecursive-readonly".to_owned()),
                    other => {
                        return Err(format!(
                            "invalid value for bind-recursive: {other} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                        ));
                    }
                }
            }
            // SELinux labels and consistency are other systems' business; Docker accepts both on Linux.
            "consistency" => {}
            "volume-label" | "volume-opt" => {
                volume_options = true;
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                let map = if key == "volume-label" {
                    &mut volume.labels
                } else {
                    &mut volume.driver_config.options
                };
                map.insert(name.to_owned(), value.to_owned());
            }
            "volume-driver" => {
                volume_options = true;
                value.clone_into(&mut volume.driver_config.name);
            }
            "volume-subpath" => {
                volume_options = true;
                value.clone_into(&mut volume.subpath);
            }
            "tmpfs-size" => {
                tmpfs_options = true;
                let size = units::bytes(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
                mode.push(format!("size={size}"));
            }
            "tmpfs-mode" => {
                tmpfs_options = true;
                let bits =
                    u32::from_str_radix(value, 8).map_err(|_| format!("invalid value for {key}: {value}"))?;
                mode.push(format!("mode={bits:o}"));
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if mount.kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.destination.is_empty() {
        return Err("target is required".to_owned());
    }
    for (given, owner, prefix) in [
        (volume_options, "volume", "volume"),
        (bind_options, "bind", "bind"),
        (tmpfs_options, "tmpfs", "tmpfs"),
    ] {
        if given && mount.kind != owner {
            return Err(format!("cannot mix '{prefix}-*' options with mount type '{}'", mount.kind));
        }
    }
    mount.mode = mode.join(",");
    if mount.kind == "volume" {
        mount.name = std::mem::take(&mut mount.source);
        mount.volume_options = volume_options.then_some(volume);
    }
    Ok(mount)
}

/// One `--volume`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volume {
    /// `TARGET` alone: an anonymous volume.
    Anonymous(String),
    /// `SOURCE:TARGET[:OPTIONS]`, as Docker keeps it in `Binds`.
    Bind(String),
}

/// `--volume [SOURCE:]TARGET[:OPTIONS]`. A source that begins with `.` or `~/` is a path of the client's:
/// `directory` is where it starts. Anything else without a leading slash is a volume's name.
pub fn volume(text: &str, directory: &str) -> Result<Volume, mounts::Invalid> {
    let Some((source, rest)) = text.split_once(':') else {
        mounts::anonymous(text)?;
        return Ok(Volume::Anonymous(clean(text)));
    };
    let bind = if source.starts_with('/') {
        format!("{}:{rest}", clean(source))
    } else if source.starts_with('.') {
        format!("{}:{rest}", clean(&format!("{directory}/{source}")))
    } else {
        text.to_owned()
    };
    mounts::bind(&bind)?;
    Ok(Volume::Bind(bind))
}

/// Mount options without a value that a tmpfs takes.
#[rustfmt::skip]
const TMPFS_FLAGS: [&str; 32] = [
    "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "remount",
    "mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "bind", "rbind", "unbindable",
    "runbindable", "private", "rprivate", "shared", "rshared", "slave", "rslave", "relatime", "norelatime",
    "strictatime", "nostrictatime",
];

/// `--tmpfs TARGET[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<(String, String), String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    mounts::tmpfs(target).map_err(|error| error.to_string())?;
    for option in options.split(',').filter(|_| !options.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let known = match key {
            "size" => value.ends_with('%') || units::bytes(value).is_ok(),
            "mode" => u32::from_str_radix(value, 8).is_ok(),
            "uid" | "gid" | "nr_inodes" | "nr_blocks" => !value.is_empty(),
            "mpol" => true,
            _ => TMPFS_FLAGS.contains(&option),
        };
        if !known {
            return Err(format!("invalid tmpfs option [{option:?}]"));
        }
    }
    Ok((clean(target), options.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_mounts() {
        let bind = long("type=bind,src=/a,dst=/b,readonly").expect("bind");
        assert_eq!((bind.kind.as_str(), bind.source.as_str(), bind.rw), ("bind", "/a", false));
        let quoted = long("type=bind,\"src=/a,b\",dst=/x").expect("quoted");
        assert_eq!(quoted.source, "/a,b");
        let tmpfs = long("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777").expect("tmpfs");
        assert_eq!(tmpfs.mode, "size=1048576,mode=1777");
        let volume =
            long("src=data,dst=/d,volume-nocopy,volume-label=a=b=c,volume-opt=o=bind,volume-subpath=x/y")
                .expect("volume");
        assert_eq!((volume.kind.as_str(), volume.name.as_str()), ("volume", "data"));
        let options = volume.volume_options.expect("options");
        assert!(options.no_copy);
        assert_eq!(
            (options.labels["a"].as_str(), options.driver_config.options["o"].as_str()),
            ("b=c", "bind")
        );
        assert_eq!(options.subpath, "x/y");
        assert_eq!(long("TYPE=bind,SRC=/a,target=/b,ro=false").map(|m| m.rw), Ok(true));
        for (text, want) in [
            ("", "EOF"),
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("type", "invalid field 'type' must be a key=value pair"),
            ("type=foo", "target is required"),
            ("type=bind,src=/a", "target is required"),
            ("type=bind,foo=a", "unexpected key 'foo' in 'foo=a'"),
            ("type=tmpfs,tmpfs-size=x,dst=/a", "invalid value for tmpfs-size: x"),
            ("type=tmpfs,tmpfs-mode=9,dst=/a", "invalid value for tmpfs-mode: 9"),
            ("type=bind,src=/a,dst=/b,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'bind'"),
            (
                "type=volume,dst=/a,bind-propagation=foo",
                "cannot mix 'bind-*' options with mount type 'volume'",
            ),
            ("type=bind,src=/a,dst=/b,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
            ("type=bind,readonly=foo", "invalid value for readonly: foo"),
            ("type=bind,src=/a,dst=/b,bind-nonrecursive=x", "invalid value for bind-nonrecursive: x"),
        ] {
            assert_eq!(long(text).map(|m| m.kind), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn mounts_that_parse_may_still_be_refused() {
        for (text, want) in [
            ("type=bind,src=/a,dst=/b", None),
            ("type=foo,dst=/b", Some("invalid mount config for type \"foo\": mount type unknown")),
            (
                "type=bind,dst=/b",
                Some("invalid mount config for type \"bind\": field Source must not be empty"),
            ),
            (
                "type=bind,src=a,dst=/b",
                Some(
                    "invalid mount config for type \"bind\": invalid mount path: 'a' mount path must be absolute",
                ),
            ),
            (
                "type=bind,src=/a,dst=b",
                Some(
                    "invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute",
                ),
            ),
            (
                "type=tmpfs,src=/a,dst=/b",
                Some("invalid mount config for type \"tmpfs\": field Source must not be specified"),
            ),
            (
                "type=volume,dst=/a,volume-subpath=x",
                Some(
                    "invalid mount config for type \"volume\": must not set Subpath when using anonymous volumes",
                ),
            ),
            (
                "type=volume,src=vol,dst=/a,volume-subpath=x/../../y",
                Some(
                    "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
                ),
            ),
            (
                "type=tmpfs,dst=/a/..",
                Some(
                    "invalid mount config for type \"tmpfs\": invalid specification: destination can't be '/'",
                ),
            ),
        ] {
            let mount = long(text).expect(text);
            let refused = mounts::long(&mount).err().map(|error| error.to_string());
            assert_eq!(refused.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn volumes() {
        let bind = |text: &str| Ok(Volume::Bind(text.to_owned()));
        for (text, want) in [
            ("/a:/b", bind("/a:/b")),
            ("/a/:/b:ro", bind("/a:/b:ro")),
            ("data:/b:nocopy", bind("data:/b:nocopy")),
            ("./x:/b", bind("/cwd/x:/b")),
            (".:/b:rw,rshared,z", bind("/cwd:/b:rw,rshared,z")),
            ("/doesnt/exist", Ok(Volume::Anonymous("/doesnt/exist".into()))),
            ("", Err("invalid volume specification: ''")),
            ("a:b:c:d", Err("invalid volume specification: 'a:b:c:d'")),
            (":/b", Err("invalid volume spec: ':/b': empty section between colons")),
            ("./x:/b:nocopy", Err("invalid mode: nocopy")),
            (
                "b",
                Err(
                    "invalid volume specification: 'b': invalid mount config for type \"volume\": invalid mount path: \
                     'b' mount path must be absolute",
                ),
            ),
        ] {
            let got = volume(text, "/cwd").map_err(|error| error.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn tmpfs_mounts() {
        assert_eq!(tmpfs("/run:rw,size=64m"), Ok(("/run".into(), "rw,size=64m".into())));
        assert_eq!(tmpfs("/run/"), Ok(("/run".into(), String::new())));
        assert!(tmpfs("/run:size=50%,mode=1777,uid=5,noexec,nosuid").is_ok());
        assert_eq!(tmpfs("/a:xx"), Err("invalid tmpfs option [\"xx\"]".into()));
        assert_eq!(tmpfs("/a:size=q"), Err("invalid tmpfs option [\"size=q\"]".into()));
        assert!(tmpfs("foo").is_err());
        assert!(tmpfs("/").is_err());
    }
}
