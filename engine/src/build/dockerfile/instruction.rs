//! What each keyword takes.

use super::lines::{Heredoc, Line, heredoc, raw_words};
use super::{Reason, nearest};

/// The keywords.
pub const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A stage: `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The image it begins with, not expanded.
    pub image: String,
    /// Its name, in lower case.
    pub name: Option<String>,
    /// `--platform`, not expanded.
    pub platform: Option<String>,
    /// Where `FROM` stands.
    pub line: Line,
    /// What follows.
    pub steps: Vec<(Line, Instruction)>,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The words, or the one line.
    pub args: Vec<String>,
    /// How it was written.
    pub form: Form,
}

/// How a command is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A JSON list: executed as it is.
    Exec,
    /// A line for the shell.
    Shell,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// What is mounted meanwhile.
    pub mounts: Vec<Mount>,
    /// `none`, `host` or `default`.
    pub network: Option<String>,
    /// Here-documents of the line.
    pub heredocs: Vec<Heredoc>,
}

/// What kind of mount a `RUN` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that is kept between builds.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file that is in no layer.
    Secret,
}

/// Who else may have a cache mounted at the same time; the later, the fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// Whoever shares it as well.
    Shared,
    /// Nobody: whoever comes meanwhile has another one.
    Private,
    /// Nobody: whoever comes meanwhile waits.
    Locked,
}

/// `--mount`; no word is expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its kind.
    pub kind: MountKind,
    /// Where it is seen.
    pub target: String,
    /// What is seen there.
    pub source: String,
    /// Of which stage or image.
    pub from: Option<String>,
    /// Which cache or secret.
    pub id: Option<String>,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether the step fails without it.
    pub required: bool,
    /// Who else may have a cache mounted at the same time.
    pub sharing: Sharing,
    /// The mode of a new cache, or of a secret.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bytes of a tmpfs.
    pub size: Option<u64>,
}

/// What a `COPY` or `ADD` takes: a path, or text of the Dockerfile itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path, a pattern or an address.
    Path(String),
    /// A here-document.
    Text(Heredoc),
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// What is copied.
    pub sources: Vec<Source>,
    /// Where to.
    pub target: String,
    /// From which stage or image.
    pub from: Option<String>,
    /// `USER[:GROUP]`.
    pub chown: Option<String>,
    /// An octal mode.
    pub chmod: Option<String>,
    /// `--parents`: the sources' own directories are made.
    pub parents: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// What a remote file must be.
    pub checksum: Option<String>,
    /// `--keep-git-dir`: a repository's `.git` is copied as well.
    pub keep_git_dir: bool,
    /// `ADD`.
    pub unpack: bool,
}

/// `HEALTHCHECK`; durations in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `NONE`, or the command.
    pub command: Option<(Vec<String>, bool)>,
    /// Between two.
    pub interval: i64,
    /// Of one.
    pub timeout: i64,
    /// Grace.
    pub start_period: i64,
    /// Between two of them during the start period, in nanoseconds.
    pub start_interval: i64,
    /// Failures in a row.
    pub retries: i64,
}

/// An instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// `FROM`
    From {
        /// The image.
        image: String,
        /// `AS`
        name: Option<String>,
        /// `--platform`
        platform: Option<String>,
    },
    /// `RUN`
    Run(Run),
    /// `COPY` and `ADD`
    Copy(Copy),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `LABEL`
    Label(Vec<(String, String)>),
    /// `EXPOSE`
    Expose(Vec<String>),
    /// `ENV`
    Env(Vec<(String, String)>),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `USER`
    User(String),
    /// `WORKDIR`
    Workdir(String),
    /// `ARG`
    Arg(Vec<(String, Option<String>)>),
    /// `ONBUILD`
    OnBuild(String),
    /// `STOPSIGNAL`
    StopSignal(String),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `SHELL`
    Shell(Vec<String>),
    /// `MAINTAINER`
    Maintainer(String),
}

/// The flags in front of an instruction's arguments.
struct Flags {
    given: Vec<(String, Option<String>)>,
}

impl Flags {
    /// Takes `--name[=value]` words from the front of `rest`.
    fn take(rest: &str, known: &[&str], escape: char) -> Result<(Self, String), Reason> {
        let mut given: Vec<(String, Option<String>)> = Vec::new();
        let mut left = rest;
        while left.starts_with("--") {
            let word = first_word(left, escape);
            left = left[word.len()..].trim_start();
            let text = raw(word, escape);
            let text = &text[2..];
            if text.is_empty() {
                break;
            }
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            if !known.contains(&name) {
                return Err(Reason::Flag { name: name.to_owned(), suggestion: nearest(name, known) });
            }
            let many = matches!(name, "mount" | "exclude");
            if !many && given.iter().any(|(have, _)| have == name) {
                return Err(Reason::FlagTwice(name.to_owned()));
            }
            given.push((name.to_owned(), value));
        }
        Ok((Self { given }, left.to_owned()))
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &Option<String>> {
        self.given.iter().filter(move |(have, _)| have == name).map(|(_, value)| value)
    }

    fn value(&self, name: &str) -> Result<Option<String>, Reason> {
        match self.all(name).next() {
            None => Ok(None),
            Some(None) => Err(Reason::FlagValue(name.to_owned())),
            Some(Some(value)) => Ok(Some(value.clone())),
        }
    }

    fn switch(&self, name: &str) -> Result<bool, Reason> {
        match self.all(name).next().map(|value| value.as_deref()) {
            Some(None | Some("true" | "1")) => Ok(true),
            None | Some(Some("false" | "0")) => Ok(false),
            Some(Some(other)) => Err(Reason::FlagBoolean(name.to_owned(), other.to_owned())),
        }
    }
}

/// The text up to the first white space outside of quotes.
fn first_word(text: &str, escape: char) -> &str {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match (c, quote) {
            (c, _) if c == escape => escaped = true,
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => return &text[..at],
            _ => {}
        }
    }
    text
}

/// A flag's text without its quotes.
fn raw(word: &str, escape: char) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, None | Some('"')) if c == escape => match chars.next() {
                // Only what would otherwise end or begin something: `\$` is for whoever expands it.
                Some(next) if matches!(next, '"' | '\'') || next.is_whitespace() => out.push(next),
                Some(next) => out.extend([c, next]),
                None => {}
            },
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, _) => out.push(c),
        }
    }
    out
}

/// A list of strings, if it is one.
fn json(text: &str) -> Option<Vec<String>> {
    text.trim_start().starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

fn command(rest: &str) -> Command {
    match json(rest) {
        Some(args) => Command { args, form: Form::Exec },
        None if rest.is_empty() => Command { args: Vec::new(), form: Form::Shell },
        None => Command { args: vec![rest.to_owned()], form: Form::Shell },
    }
}

fn list(rest: &str) -> Vec<String> {
    json(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect())
}

/// `name=value …`, or the old `name the rest`.
fn pairs(keyword: &'static str, rest: &str, escape: char) -> Result<Vec<(String, String)>, Reason> {
    let words = raw_words(rest, escape);
    let first = words.first().ok_or(Reason::Arguments(keyword, "at least one argument"))?;
    if !first.contains('=') {
        let (name, value) = rest.split_once(char::is_whitespace).ok_or(Reason::TwoArguments(keyword))?;
        return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(Reason::BlankName(keyword)),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Reason::NoEquals(word.clone())),
        })
        .collect()
}

fn exactly_one(keyword: &'static str, rest: &str) -> Result<String, Reason> {
    if rest.is_empty() {
        Err(Reason::Arguments(keyword, "exactly one argument"))
    } else {
        Ok(rest.to_owned())
    }
}

fn at_least_one(keyword: &'static str, found: Vec<String>) -> Result<Vec<String>, Reason> {
    if found.is_empty() { Err(Reason::Arguments(keyword, "at least one argument")) } else { Ok(found) }
}

/// Reads one instruction.
pub fn read(line: &Line, escape: char) -> Result<Instruction, Reason> {
    let keyword = line.keyword.to_ascii_uppercase();
    let known: &[&str] = match keyword.as_str() {
        "FROM" => &["platform"],
        "RUN" => &["mount", "network", "security"],
        "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
        "ADD" => &["chown", "chmod", "link", "checksum", "keep-git-dir", "exclude", "unpack"],
        "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
        _ => &[],
    };
    let takes_flags = !known.is_empty();
    let (flags, rest) = if takes_flags {
        Flags::take(&line.rest, known, escape)?
    } else {
        (Flags { given: Vec::new() }, line.rest.clone())
    };
    let rest = rest.as_str();
    Ok(match keyword.as_str() {
        "FROM" => from(rest, &flags)?,
        "RUN" => run(rest, &flags, &line.heredocs)?,
        "COPY" => Instruction::Copy(copy("COPY", rest, &flags, &line.heredocs)?),
        "ADD" => Instruction::Copy(copy("ADD", rest, &flags, &line.heredocs)?),
        "CMD" => Instruction::Cmd(command(rest)),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
        "LABEL" => Instruction::Label(pairs("LABEL", rest, escape)?),
        "ENV" => Instruction::Env(pairs("ENV", rest, escape)?),
        "EXPOSE" => {
            Instruction::Expose(at_least_one("EXPOSE", rest.split_whitespace().map(str::to_owned).collect())?)
        }
        "VOLUME" => {
            let paths = at_least_one("VOLUME", list(rest))?;
            if paths.iter().any(|path| path.trim().is_empty()) {
                return Err(Reason::BlankName("VOLUME"));
            }
            Instruction::Volume(paths)
        }
        "USER" => Instruction::User(exactly_one("USER", rest)?),
        "WORKDIR" => Instruction::Workdir(exactly_one("WORKDIR", rest)?),
        "STOPSIGNAL" => Instruction::StopSignal(exactly_one("STOPSIGNAL", rest)?),
        "MAINTAINER" => Instruction::Maintainer(exactly_one("MAINTAINER", rest)?),
        "ARG" => {
            let words = at_least_one("ARG", raw_words(rest, escape))?;
            let pair = |word: &String| match word.split_once('=') {
                Some(("", _)) => Err(Reason::BlankName("ARG")),
                Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
                None => Ok((word.clone(), None)),
            };
            Instruction::Arg(words.iter().map(pair).collect::<Result<_, _>>()?)
        }
        "SHELL" => match json(rest) {
            Some(words) => Instruction::Shell(at_least_one("SHELL", words)?),
            None if rest.is_empty() => return Err(Reason::Arguments("SHELL", "at least one argument")),
            None => return Err(Reason::ShellForm),
        },
        "HEALTHCHECK" => healthcheck(rest, &flags)?,
        "ONBUILD" => on_build(rest, line, escape)?,
        _ => {
            return Err(Reason::Unknown {
                name: line.keyword.clone(),
                suggestion: nearest(&keyword, KEYWORDS),
            });
        }
    })
}

fn from(rest: &str, flags: &Flags) -> Result<Instruction, Reason> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let platform = flags.value("platform")?;
    match words[..] {
        [image] => Ok(Instruction::From { image: image.to_owned(), name: None, platform }),
        [image, word, name] if word.eq_ignore_ascii_case("AS") => {
            let name = name.to_ascii_lowercase();
            let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
            if !plain {
                return Err(Reason::StageName(name));
            }
            Ok(Instruction::From { image: image.to_owned(), name: Some(name), platform })
        }
        _ => Err(Reason::Arguments("FROM", "either one or three arguments")),
    }
}

fn run(rest: &str, flags: &Flags, heredocs: &[Heredoc]) -> Result<Instruction, Reason> {
    let network = flags.value("network")?;
    if let Some(other) = network.as_deref().filter(|mode| !matches!(*mode, "none" | "host" | "default")) {
        return Err(Reason::Network(other.to_owned()));
    }
    if let Some(other) = flags.value("security")?.filter(|mode| mode != "sandbox") {
        return Err(Reason::Security(other));
    }
    let mounts = flags
        .all("mount")
        .map(|value| mount(value.as_deref().ok_or(Reason::FlagValue("mount".to_owned()))?))
        .collect::<Result<_, _>>()?;
    let command = command(rest);
    if command.args.is_empty() {
        return Err(Reason::Arguments("RUN", "at least one argument"));
    }
    Ok(Instruction::Run(Run { command, mounts, network, heredocs: heredocs.to_vec() }))
}

/// `type=cache,target=/x,…`.
fn mount(text: &str) -> Result<Mount, Reason> {
    let mut mount = Mount {
        kind: MountKind::Bind,
        target: String::new(),
        source: String::new(),
        from: None,
        id: None,
        writable: false,
        required: false,
        sharing: Sharing::Shared,
        mode: None,
        uid: 0,
        gid: 0,
        size: None,
    };
    let bad = |text: String| Err(Reason::Mount(text));
    let mut written = None;
    let mut kind = "bind";
    for field in text.split(',') {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        let key = key.to_ascii_lowercase();
        let yes = !matches!(value, Some("false" | "0"));
        let number = |radix| {
            u64::from_str_radix(value.unwrap_or_default(), radix)
                .map_err(|_| Reason::Mount(format!("invalid value {} for {key}", value.unwrap_or_default())))
        };
        match key.as_str() {
            "readonly" | "ro" => written = Some(!yes),
            "readwrite" | "rw" => written = Some(yes),
            "required" => mount.required = yes,
            _ if value.is_none() => return bad(format!("invalid field '{field}' must be a key=value pair")),
            "type" => {
                kind = value.unwrap_or_default();
                mount.kind = match kind {
                    "bind" => MountKind::Bind,
                    "cache" => MountKind::Cache,
                    "tmpfs" => MountKind::Tmpfs,
                    "secret" => MountKind::Secret,
                    other => return bad(format!("unsupported mount type {other:?}")),
                };
            }
            "target" | "dst" | "destination" => value.unwrap_or_default().clone_into(&mut mount.target),
            "source" | "src" => value.unwrap_or_default().clone_into(&mut mount.source),
            "from" => mount.from = value.map(str::to_owned),
            "id" => mount.id = value.map(str::to_owned),
            "sharing" => match value.unwrap_or_default() {
                "shared" => mount.sharing = Sharing::Shared,
                "private" => mount.sharing = Sharing::Private,
                "locked" => mount.sharing = Sharing::Locked,
                other => return bad(format!("unsupported sharing value {other:?}")),
            },
            "mode" => mount.mode = Some(number(8)? as u32 & 0o7777),
            "uid" => mount.uid = number(10)? as u32,
            "gid" => mount.gid = number(10)? as u32,
            "size" => mount.size = Some(number(10)?),
            other => return bad(format!("unexpected key '{other}' in '{field}'")),
        }
    }
    if mount.kind == MountKind::Cache && mount.from.is_none() && !mount.source.is_empty() {
        return bad("a cache mount begins empty: source needs from".to_owned());
    }
    mount.writable = written.unwrap_or(matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
    if mount.target.is_empty() {
        if mount.kind == MountKind::Secret {
            let id = mount.id.clone().unwrap_or_else(|| mount.source.clone());
            let name = id.rsplit('/').next().unwrap_or_default();
            if name.is_empty() {
                return bad("secret mount must have either id or target".to_owned());
            }
            mount.target = format!("/run/secrets/{name}");
        } else {
            return bad(format!("invalid mount: target is required for mount type {kind:?}"));
        }
    }
    Ok(mount)
}

fn copy(keyword: &'static str, rest: &str, flags: &Flags, heredocs: &[Heredoc]) -> Result<Copy, Reason> {
    let mut words = list(rest);
    let target = match words.len() {
        0 => return Err(Reason::Arguments(keyword, "at least two arguments")),
        1 => return Err(Reason::NoDestination(keyword)),
        _ => words.pop().unwrap_or_default(),
    };
    let mut texts = heredocs.iter();
    let sources: Vec<Source> = words
        .into_iter()
        .map(|word| match heredoc(&word).and_then(|_| texts.next()) {
            Some(text) => Source::Text(text.clone()),
            None => Source::Path(word),
        })
        .collect();
    if sources.len() > 1 && !target.ends_with('/') && !matches!(target.as_str(), "." | "./") {
        return Err(Reason::NotADirectory(keyword));
    }
    flags.switch("link")?;
    let exclude =
        flags.all("exclude").map(|value| value.clone().ok_or(Reason::FlagValue("exclude".to_owned())));
    Ok(Copy {
        sources,
        target,
        from: flags.value("from")?,
        chown: flags.value("chown")?,
        chmod: flags.value("chmod")?,
        parents: flags.switch("parents")?,
        exclude: exclude.collect::<Result<_, _>>()?,
        checksum: flags.value("checksum")?,
        keep_git_dir: flags.switch("keep-git-dir")?,
        unpack: keyword == "ADD",
    })
}

fn healthcheck(rest: &str, flags: &Flags) -> Result<Instruction, Reason> {
    let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let rest = rest.trim();
    if kind.is_empty() {
        return Err(Reason::Arguments("HEALTHCHECK", "at least one argument"));
    }
    let time = |name: &str| {
        let Some(text) = flags.value(name)? else { return Ok(0) };
        let nanos =
            duration(&text).ok_or_else(|| Reason::Duration(format!("time: invalid duration {text:?}")))?;
        if nanos != 0 && nanos < 1_000_000 {
            return Err(Reason::Duration(format!("{name} {text:?} cannot be less than 1ms")));
        }
        Ok(nanos)
    };
    if kind.eq_ignore_ascii_case("NONE") {
        return if rest.is_empty() {
            Ok(Instruction::Healthcheck(Healthcheck::default()))
        } else {
            Err(Reason::HealthcheckNone)
        };
    }
    if !kind.eq_ignore_ascii_case("CMD") {
        return Err(Reason::HealthcheckType(kind.to_ascii_uppercase()));
    }
    let command = command(rest);
    if command.args.is_empty() {
        return Err(Reason::HealthcheckCommand);
    }
    let retries = match flags.value("retries")? {
        None => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(n) if n >= 0 => n,
            _ => return Err(Reason::Retries(text)),
        },
    };
    Ok(Instruction::Healthcheck(Healthcheck {
        command: Some((command.args, command.form == Form::Shell)),
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries,
    }))
}

/// Go's durations, not negative: `1h30m`, `1.5s`, `0`.
fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 6e10,
                "h" => 3.6e12,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (total < 9e18).then_some(total as i64)
}

fn on_build(rest: &str, line: &Line, escape: char) -> Result<Instruction, Reason> {
    let (keyword, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match keyword.to_ascii_uppercase().as_str() {
        "" => return Err(Reason::Arguments("ONBUILD", "at least one argument")),
        "ONBUILD" => return Err(Reason::OnBuildTwice),
        word @ ("FROM" | "MAINTAINER") => return Err(Reason::Trigger(word.to_owned())),
        _ => {}
    }
    // What it is to do is looked at now, as far as it can be.
    let inner = Line { keyword: keyword.to_owned(), rest: arguments.trim().to_owned(), ..line.clone() };
    read(&inner, escape)?;
    let mut text = rest.to_owned();
    for heredoc in &line.heredocs {
        text.push('\n');
        text.push_str(&heredoc.text);
        text.push_str(&heredoc.name);
    }
    Ok(Instruction::OnBuild(text))
}

#[cfg(test)]
mod tests {
    use super::super::lines::split;
    use super::*;

    fn one(text: &str) -> Instruction {
        let lines = split(text).expect("split");
        read(&lines.lines[0], lines.escape).expect(text)
    }

    #[test]
    fn forms_are_told_apart() {
        let shell = |text: &str| Command { args: vec![text.to_owned()], form: Form::Shell };
        assert_eq!(one("CMD echo \"a\" | wc -"), Instruction::Cmd(shell("echo \"a\" | wc -")));
        assert_eq!(one("CMD ['a']"), Instruction::Cmd(shell("['a']")));
        assert_eq!(
            one("ENTRYPOINT [\"a\", \"b c\"]"),
            Instruction::Entrypoint(Command { args: vec!["a".into(), "b c".into()], form: Form::Exec })
        );
    }

    #[test]
    fn flags_stand_in_front() {
        let Instruction::Copy(copy) = one("COPY --from=x --chown=a:b --chmod=755 --link c d e/") else {
            panic!()
        };
        assert_eq!(
            (copy.from.as_deref(), copy.chown.as_deref(), copy.chmod.as_deref()),
            (Some("x"), Some("a:b"), Some("755"))
        );
        assert_eq!((copy.sources.len(), copy.target.as_str()), (2, "e/"));
        let Instruction::Run(run) =
            one("RUN --mount=type=cache,target=/c,sharing=locked --network=none echo --x")
        else {
            panic!()
        };
        assert_eq!(
            (run.mounts.len(), run.network.as_deref(), run.command.args[0].as_str()),
            (1, Some("none"), "echo --x")
        );
        assert!(run.mounts[0].writable && run.mounts[0].sharing == Sharing::Locked);
        for text in
            ["type=cache,target=/c,source=x", "type=ssh", "target", "type=bind", "target=/x,sharing=all"]
        {
            assert!(mount(text).is_err(), "{text}");
        }
        let Instruction::Copy(copy) = one("COPY <<-\"E\" /x\n\ta\n\tE") else { panic!() };
        assert!(matches!(&copy.sources[0], Source::Text(text) if !text.expand && text.content() == "a\n"));
    }

    #[test]
    fn pairs_are_of_both_kinds() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(one("ENV a the  rest"), Instruction::Env(vec![pair("a", "the  rest")]));
        assert_eq!(
            one(r#"ENV a="x y" b=p\ q c="#),
            Instruction::Env(vec![pair("a", "\"x y\""), pair("b", "p\\ q"), pair("c", "")])
        );
        assert_eq!(
            one("ARG a b=1"),
            Instruction::Arg(vec![("a".into(), None), ("b".into(), Some("1".into()))])
        );
    }

    #[test]
    fn durations_are_gos() {
        for (text, want) in [
            ("5m", Some(300_000_000_000)),
            ("1h1.5s", Some(3_601_500_000_000)),
            ("0", Some(0)),
            ("3", None),
            ("", None),
            ("1x", None),
        ] {
            assert_eq!(duration(text), want, "{text}");
        }
        let Instruction::Healthcheck(check) =
            one("HEALTHCHECK --interval=5m --timeout=3s --retries=2 CMD curl -f http://x || exit 1")
        else {
            panic!()
        };
        assert_eq!((check.interval, check.timeout, check.retries), (300_000_000_000, 3_000_000_000, 2));
        assert_eq!(one("HEALTHCHECK NONE"), Instruction::Healthcheck(Healthcheck::default()));
    }
}
