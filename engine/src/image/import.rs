//! Makes an image of a root filesystem's tar, and applies Dockerfile instructions to a configuration.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::install::{Progress, install_layer};
use super::load::{Input, spool_stream};
use super::{Document, Error, History, Reference, RootFs, host_architecture, tell};
use crate::config::{Config, Empty};
use crate::digest::{DiffId, Digest};
use crate::layer::Options;
use crate::store::Store;

/// A Dockerfile instruction that `--change` takes, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `CMD`
    Cmd(Vec<String>),
    /// `ENTRYPOINT`
    Entrypoint(Vec<String>),
    /// `ENV`
    Env(Vec<(String, String)>),
    /// `EXPOSE`
    Expose(Vec<String>),
    /// `LABEL`
    Label(Vec<(String, String)>),
    /// `USER`
    User(String),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `WORKDIR`
    Workdir(String),
    /// `STOPSIGNAL`
    StopSignal(String),
    /// `ONBUILD`
    OnBuild(String),
}

impl Change {
    /// Parses one instruction.
    pub fn parse(line: &str) -> Result<Self, Error> {
        let line = line.trim();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let name = name.to_ascii_uppercase();
        let none = |n: &str| Error::Change(format!("{n} requires at least one argument"));
        let exactly = |n: &str| Error::Change(format!("{n} requires exactly one argument"));
        let one = |n: &str| if rest.is_empty() { Err(exactly(n)) } else { Ok(unquote(rest)) };
        Ok(match name.as_str() {
            "CMD" => Self::Cmd(command(rest)),
            "ENTRYPOINT" => Self::Entrypoint(command(rest)),
            "ENV" => Self::Env(pairs("ENV", rest)?),
            "LABEL" => Self::Label(pairs("LABEL", rest)?),
            "EXPOSE" if rest.is_empty() => return Err(none("EXPOSE")),
            "EXPOSE" => Self::Expose(words(rest).iter().map(|port| expose(port)).collect::<Result<_, _>>()?),
            "USER" => Self::User(one("USER")?),
            "VOLUME" if rest.is_empty() => return Err(none("VOLUME")),
            "VOLUME" => Self::Volume(json_list(rest).unwrap_or_else(|| words(rest))),
            "WORKDIR" => Self::Workdir(one("WORKDIR")?),
            "STOPSIGNAL" => Self::StopSignal(one("STOPSIGNAL")?),
            "ONBUILD" if rest.is_empty() => return Err(none("ONBUILD")),
            "ONBUILD" => {
                let first = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
                match first.as_str() {
                    "ONBUILD" => {
                        return Err(Error::Change(
                            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into(),
                        ));
                    }
                    "FROM" | "MAINTAINER" => {
                        return Err(Error::Change(format!("{first} isn't allowed as an ONBUILD trigger")));
                    }
                    _ => Self::OnBuild(rest.to_owned()),
                }
            }
            _ => {
                return Err(Error::Change(format!("{} is not a valid change command", name.to_lowercase())));
            }
        })
    }

    /// Applies the instruction.
    pub fn apply(&self, config: &mut Config) {
        match self {
            Self::Cmd(command) => config.cmd = Some(command.clone()),
            Self::Entrypoint(command) => {
                config.entrypoint = Some(command.clone());
                // As in a Dockerfile: the base image's CMD was meant for its own entrypoint.
                config.cmd = None;
            }
            Self::Env(pairs) => {
                for (key, value) in pairs {
                    let entry = format!("{key}={value}");
                    match config.env.iter_mut().find(|e| e.split('=').next() == Some(key)) {
                        Some(old) => *old = entry,
                        None => config.env.push(entry),
                    }
                }
            }
            Self::Label(pairs) => config.labels.extend(pairs.iter().cloned()),
            Self::Expose(ports) => {
                let exposed = config.exposed_ports.get_or_insert_default();
                exposed.extend(ports.iter().map(|port| (port.clone(), Empty {})));
            }
            Self::User(user) => config.user.clone_from(user),
            Self::Volume(paths) => {
                let volumes = config.volumes.get_or_insert_default();
                volumes.extend(paths.iter().map(|path| (path.clone(), Empty {})));
            }
            Self::Workdir(dir) if dir.starts_with('/') => config.working_dir.clone_from(dir),
            Self::Workdir(dir) => {
                config.working_dir = format!("{}/{dir}", config.working_dir.trim_end_matches('/'));
            }
            Self::StopSignal(signal) => config.stop_signal.clone_from(signal),
            Self::OnBuild(line) => config.on_build.get_or_insert_default().push(line.clone()),
        }
    }
}

/// Exec form if it is a JSON list of strings, else shell form.
fn command(text: &str) -> Vec<String> {
    match json_list(text) {
        Some(list) => list,
        None if text.is_empty() => Vec::new(),
        None => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()],
    }
}

fn json_list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// `PORT[-PORT][/PROTO]`, as Docker stores it: with a protocol.
fn expose(text: &str) -> Result<String, Error> {
    let bad = || Error::Change(format!("invalid containerPort: {text}"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let port = |port: &str| port.parse::<u16>().is_ok();
    let valid = ports.split_once('-').map_or_else(|| port(ports), |(from, to)| port(from) && port(to));
    if !valid || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    Ok(format!("{ports}/{protocol}"))
}

/// Splits as a Dockerfile does: quotes group, a backslash takes the next character as it is.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(characters.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn unquote(text: &str) -> String {
    words(text).join(" ")
}

/// `KEY=value …`, or the old `KEY the rest`.
fn pairs(instruction: &str, text: &str) -> Result<Vec<(String, String)>, Error> {
    let words_found = words(text);
    let first = words_found
        .first()
        .ok_or_else(|| Error::Change(format!("{instruction} requires at least one argument")))?;
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::Change(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), unquote(value.trim()))]);
    }
    words_found
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(Error::Change(format!("{instruction} names can not be blank"))),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::Change(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            ))),
        })
        .collect()
}

/// Makes an image of one layer, `input`'s tar (of any compression), and returns its id.
pub fn import(
    store: &mut Store,
    input: Input<'_>,
    name: Option<&Reference>,
    changes: &[Change],
    message: Option<&str>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Digest, Error> {
    store.sweep_scratch()?;
    let mut config = Config::default();
    for change in changes {
        change.apply(&mut config);
    }
    // What cannot be read twice is spooled, since a layer with replaced entries must be.
    let spool = store.scratch()?;
    let file = match input {
        Input::Path(path) => {
            let mut file = File::open(path).map_err(|source| Error::io("open", path, source))?;
            let regular = file.metadata().is_ok_and(|meta| meta.is_file());
            if regular { file } else { spool_stream(&mut file, &path.display().to_string(), spool.path())? }
        }
        Input::Stream(mut stream) => spool_stream(&mut stream, "standard input", spool.path())?,
    };
    let open = || {
        let file = super::archive::whole(&file);
        file.map_err(|source| Error::io("stat", Path::new("archive"), source))
            .map(|file| Box::new(file) as Box<dyn Read + Send + '_>)
    };
    let created = jiff::Timestamp::now().to_string();
    let comment = message.map_or_else(|| "Imported from -".to_owned(), str::to_owned);
    let document = |diff_id: DiffId| {
        let document = Document {
            created: Some(created.clone()),
            author: None,
            architecture: host_architecture().to_owned(),
            os: "linux".to_owned(),
            variant: None,
            config: Some(serde_json::to_value(&config).unwrap_or_default()),
            rootfs: RootFs { r#type: "layers".to_owned(), diff_ids: Some(vec![diff_id]) },
            history: Some(vec![History {
                created: Some(created.clone()),
                comment: Some(comment.clone()),
                ..History::default()
            }]),
            comment: message.map(str::to_owned),
            build_cache: None,
        };
        serde_json::to_vec(&document).expect("a document of strings serialises")
    };
    let names = name.cloned().map(Reference::tagged);
    let shown = names.as_ref().map(Reference::familiar);
    let id = install_layer(store, &[], &open, &document, names, options, progress)?;
    tell(store, "import", &id, shown.as_deref());
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_parsed_as_in_a_dockerfile() {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        for (line, want) in [
            (r#"CMD ["a", "b c"]"#, Change::Cmd(strings(&["a", "b c"]))),
            ("cmd echo $HOME", Change::Cmd(strings(&["/bin/sh", "-c", "echo $HOME"]))),
            ("ENTRYPOINT []", Change::Entrypoint(vec![])),
            (
                r#"ENV A=1 B="x y" C=p\ q"#,
                Change::Env(vec![pair("A", "1"), pair("B", "x y"), pair("C", "p q")]),
            ),
            ("ENV KEY the  rest", Change::Env(vec![pair("KEY", "the rest")])),
            ("LABEL a.b=c", Change::Label(vec![pair("a.b", "c")])),
            ("EXPOSE 80 53/UDP 7000-7010", Change::Expose(strings(&["80/tcp", "53/udp", "7000-7010/tcp"]))),
            (r#"VOLUME ["/a", "/b"]"#, Change::Volume(strings(&["/a", "/b"]))),
            ("VOLUME /a /b", Change::Volume(strings(&["/a", "/b"]))),
            ("USER app:app", Change::User("app:app".into())),
            ("WORKDIR /x", Change::Workdir("/x".into())),
            ("ONBUILD RUN make", Change::OnBuild("RUN make".into())),
        ] {
            assert_eq!(Change::parse(line).expect(line), want, "{line}");
        }
        for (line, want) in [
            ("RUN x", "run is not a valid change command"),
            ("ENV", "ENV requires at least one argument"),
            ("ENV A", "ENV must have two arguments"),
            ("ENV =x", "ENV names can not be blank"),
            ("EXPOSE 70000", "invalid containerPort: 70000"),
            ("USER", "USER requires exactly one argument"),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ] {
            assert_eq!(Change::parse(line).expect_err(line).to_string(), want, "{line}");
        }
    }

    #[test]
    fn instructions_change_a_configuration() {
        let mut config = Config { env: vec!["A=0".into()], cmd: Some(vec!["x".into()]), ..Config::default() };
        for line in ["ENV A=1 B=2", "ENTRYPOINT [\"e\"]", "WORKDIR /a", "WORKDIR b", "LABEL k=v", "EXPOSE 80"]
        {
            Change::parse(line).expect(line).apply(&mut config);
        }
        assert_eq!(config.env, ["A=1", "B=2"]);
        assert_eq!(config.entrypoint, Some(vec!["e".to_owned()]));
        assert_eq!(config.cmd, None);
        assert_eq!(config.working_dir, "/a/b");
        assert_eq!(config.labels["k"], "v");
        assert!(config.exposed_ports.expect("ports").contains_key("80/tcp"));
    }
}
