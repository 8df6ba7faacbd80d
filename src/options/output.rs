//! `--output` of `build`: where what was built goes.

use std::path::{Path, PathBuf};

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// An image in the store, which it always is, and perhaps in its registry.
    Image {
        /// Names beside those of `--tag`.
        names: Vec<String>,
        /// Pushed.
        push: bool,
    },
    /// Its files in a directory.
    Local(PathBuf),
    /// Its files as a tar.
    Tar(Place),
    /// An archive of the image; ours is Docker's and OCI's in one.
    Archive(Place),
}

/// Where a file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Standard output.
    Stdout,
    /// A file, by its absolute path.
    File(PathBuf),
}

/// Reads `type=TYPE[,dest=PATH][,…]`, a directory, or `-`. `is_terminal`: whether standard output is one.
pub fn parse(text: &str, is_terminal: bool) -> Result<Output, String> {
    if !text.contains('=') && !text.contains(',') {
        return match text {
            "" => Err("invalid empty output".to_owned()),
            "-" => file("tar", "-", is_terminal).map(Output::Tar),
            _ => directory("local", text),
        };
    }
    let (mut kind, mut dest, mut names, mut push) = (None, "", Vec::new(), false);
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid value {field}"))?;
        match key.trim().to_ascii_lowercase().as_str() {
            "type" => kind = Some(value),
            "dest" => dest = value,
            "name" => names.push(value.to_owned()),
            "push" => {
                push = value
                    .parse()
                    .map_err(|_| format!("failed to parse push: {value:?} is not true or false"))?;
            }
            // What we write is always that way.
            "store" | "unpack" | "oci-mediatypes" | "tar" if value == "true" => {}
            other => return Err(format!("output of type {}: {other} is not supported", kind.unwrap_or(""))),
        }
    }
    let kind = kind.ok_or("type is required for output")?;
    if !names.is_empty() && !matches!(kind, "image" | "registry" | "docker") {
        return Err(format!("output of type {kind}: name is not supported"));
    }
    match kind {
        "image" => Ok(Output::Image { names, push }),
        "registry" => Ok(Output::Image { names, push: true }),
        "docker" if dest.is_empty() => Ok(Output::Image { names, push: false }),
        "local" => directory(kind, dest),
        "tar" => file(kind, dest, is_terminal).map(Output::Tar),
        "docker" | "oci" => file(kind, dest, is_terminal).map(Output::Archive),
        other => Err(format!("exporter {other:?} could not be found")),
    }
}

/// A path that means the same whatever becomes of the working directory, which a mount may change.
fn absolute(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path))
}

fn directory(kind: &str, dest: &str) -> Result<Output, String> {
    match dest {
        "" => Err(format!("dest is required for {kind} exporter")),
        "-" => Err(format!("dest cannot be stdout for {kind} exporter")),
        _ if Path::new(dest).exists() && !Path::new(dest).is_dir() => {
            Err(format!("destination directory {dest:?} is a file"))
        }
        _ => Ok(Output::Local(absolute(dest))),
    }
}

fn file(kind: &str, dest: &str, is_terminal: bool) -> Result<Place, String> {
    match dest {
        "" | "-" if is_terminal => {
            Err(format!("dest file is required for {kind} exporter. refusing to write to console"))
        }
        "" | "-" => Ok(Place::Stdout),
        _ if Path::new(dest).is_dir() => Err(format!("destination file {dest:?} is a directory")),
        _ => Ok(Place::File(absolute(dest))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read() {
        let image = |names: &[&str], push| Output::Image {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            push,
        };
        for (text, want) in [
            ("/out", Output::Local("/out".into())),
            ("-", Output::Tar(Place::Stdout)),
            ("type=local,dest=/out", Output::Local("/out".into())),
            ("type=tar,dest=/out.tar", Output::Tar(Place::File("/out.tar".into()))),
            ("type=tar", Output::Tar(Place::Stdout)),
            ("type=oci,dest=/a.tar", Output::Archive(Place::File("/a.tar".into()))),
            ("type=docker,dest=-", Output::Archive(Place::Stdout)),
            ("type=docker", image(&[], false)),
            ("type=image", image(&[], false)),
            ("type=image,name=a:1,push=true", image(&["a:1"], true)),
            ("type=registry", image(&[], true)),
        ] {
            assert_eq!(parse(text, false), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_output_is_told() {
        for (text, want) in [
            ("", "invalid empty output"),
            ("dest=x", "type is required for output"),
            ("type=local", "dest is required for local exporter"),
            ("type=local,dest=-", "dest cannot be stdout for local exporter"),
            ("type=local,dest=/dev/null", "destination directory \"/dev/null\" is a file"),
            ("/dev/null", "destination directory \"/dev/null\" is a file"),
            ("type=tar,dest=/dev", "destination file \"/dev\" is a directory"),
            ("type=tar", "dest file is required for tar exporter. refusing to write to console"),
            ("type=oci", "dest file is required for oci exporter. refusing to write to console"),
            ("-", "dest file is required for tar exporter. refusing to write to console"),
            ("type=cacheonly", "exporter \"cacheonly\" could not be found"),
            ("type=tar,nonsense", "invalid value nonsense"),
            ("type=image,push=perhaps", "failed to parse push: \"perhaps\" is not true or false"),
            ("type=tar,name=x", "output of type tar: name is not supported"),
            ("type=image,compression=zstd", "output of type image: compression is not supported"),
        ] {
            assert_eq!(parse(text, true), Err(want.to_owned()), "{text}");
        }
    }
}
