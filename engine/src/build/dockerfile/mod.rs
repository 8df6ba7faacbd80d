//! A Dockerfile, read.
//!
//! Three steps, none of which knows the next. [`lines`] turns text into logical instructions: parser
//! directives, comments, continuations and here-documents are its business, and every instruction keeps the
//! lines it came from, because an error without a line is of no use in a file of two hundred. [`words`] is
//! the little shell of a Dockerfile: quotes, escapes and `${name:-word}`, applied when a step is run, since
//! only then is it known what a name stands for. [`instruction`] says what each keyword takes. Words of
//! errors are Docker's, as people search for them.

pub mod instruction;
pub mod lines;
pub mod words;

pub use instruction::{
    Command, Copy, Form, Healthcheck, Instruction, Mount, MountKind, Run, Sharing, Source, Stage,
};
pub use lines::{Heredoc, Line};
pub use words::{Lookup, Words};

/// Why a text is no Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An instruction is not what it should be.
    #[error("dockerfile parse error on line {line}: {reason}")]
    Line {
        /// The first line of the instruction, from 1.
        line: usize,
        /// Its last line.
        last: usize,
        /// What is wrong.
        reason: Reason,
    },
    /// There is no instruction in it.
    #[error("file with no instructions")]
    Empty,
}

impl Error {
    /// The lines that are at fault, from 1.
    pub fn lines(&self) -> Option<(usize, usize)> {
        match self {
            Self::Line { line, last, .. } => Some((*line, *last)),
            Self::Empty => None,
        }
    }
}

/// What is wrong with one instruction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No such keyword.
    #[error("unknown instruction: {name}{}", hint(.suggestion))]
    Unknown {
        /// The word.
        name: String,
        /// The keyword that was most likely meant.
        suggestion: Option<String>,
    },
    /// No such flag.
    #[error("unknown flag: --{name}{}", hint(.suggestion))]
    Flag {
        /// The flag.
        name: String,
        /// The one that was most likely meant.
        suggestion: Option<String>,
    },
    /// A flag that wants a value has none.
    #[error("missing a value on flag: --{0}")]
    FlagValue(String),
    /// A flag is given twice.
    #[error("duplicate flag specified: --{0}")]
    FlagTwice(String),
    /// A flag that is yes or no has some other value.
    #[error("expecting boolean value for flag --{0}, not: {1}")]
    FlagBoolean(String, String),
    /// Too few or too many arguments.
    #[error("{0} requires {1}")]
    Arguments(&'static str, &'static str),
    /// `COPY x`.
    #[error(
        "{0} requires at least two arguments, but only one was provided. Destination could not be determined"
    )]
    NoDestination(&'static str),
    /// Several files into what is no directory.
    #[error(
        "When using {0} with more than one source file, the destination must be a directory and end with a /"
    )]
    NotADirectory(&'static str),
    /// A pair without an equals sign.
    #[error("Syntax error - can't find = in {0:?}. Must be of the form: name=value")]
    NoEquals(String),
    /// `ENV =x`.
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    /// `ENV name`.
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    /// A here-document without its end.
    #[error("unterminated heredoc")]
    Heredoc,
    /// The first instruction is not FROM.
    #[error("no build stage in current context")]
    NoStage,
    /// A stage's name.
    #[error("invalid name for build stage: {0:?}, name can't start with a number or contain symbols")]
    StageName(String),
    /// A directive that stands twice.
    #[error("only one {0} parser directive can be used")]
    DirectiveTwice(String),
    /// An escape character that is none.
    #[error("invalid ESCAPE '{0}' does not match ` or \\")]
    Escape(String),
    /// `ONBUILD ONBUILD`.
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnBuildTwice,
    /// What must not wait for another build.
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    Trigger(String),
    /// `SHELL` in shell form.
    #[error("SHELL requires the arguments to be in JSON form")]
    ShellForm,
    /// A kind of health check that is none.
    #[error("Unknown type {0:?} in HEALTHCHECK (try CMD)")]
    HealthcheckType(String),
    /// `HEALTHCHECK NONE x`.
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNone,
    /// `HEALTHCHECK CMD`.
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthcheckCommand,
    /// A duration that is none, or too short.
    #[error("{0}")]
    Duration(String),
    /// A number of retries.
    #[error("--retries cannot be negative or no number: {0:?}")]
    Retries(String),
    /// A part of `--mount`.
    #[error("{0}")]
    Mount(String),
    /// `--network=x`.
    #[error("invalid network mode: {0}")]
    Network(String),
    /// `--security=x`.
    #[error("security {0:?} is not allowed")]
    Security(String),
    /// A word that does not expand.
    #[error("failed to process {word:?}: {reason}")]
    Word {
        /// The word.
        word: String,
        /// Why.
        reason: words::Error,
    },
}

#[allow(clippy::ref_option, reason = "as thiserror hands a field over")]
fn hint(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

/// The one of `known` that `word` was most likely meant to be: two slips of the fingers away at most.
fn nearest(word: &str, known: &[&str]) -> Option<String> {
    let word = word.to_ascii_lowercase();
    let near = known.iter().map(|name| (distance(&word, &name.to_ascii_lowercase()), *name));
    near.filter(|(far, _)| *far < 3).min_by_key(|(far, _)| *far).map(|(_, name)| name.to_owned())
}

/// Letters to be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    // Nobody's slip is longer, and a hostile word must not cost its square.
    if a.len() > 32 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Names, and their defaults where they have one.
pub type Arguments = Vec<(String, Option<String>)>;

/// A Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// What escapes: `\` or a backtick.
    pub escape: char,
    /// `ARG`s before the first `FROM`.
    pub arguments: Vec<(Line, Arguments)>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

/// Reads a Dockerfile.
pub fn parse(text: &str) -> Result<Dockerfile, Error> {
    let file = lines::split(text)?;
    if file.lines.is_empty() {
        return Err(Error::Empty);
    }
    let mut read = Dockerfile { escape: file.escape, ..Dockerfile::default() };
    for line in file.lines {
        let failed = |reason| Error::Line { line: line.first, last: line.last, reason };
        match (instruction::read(&line, file.escape).map_err(failed)?, read.stages.last_mut()) {
            (Instruction::From { image, name, platform }, _) => {
                read.stages.push(Stage { image, name, platform, line, steps: Vec::new() });
            }
            (Instruction::Arg(pairs), None) => read.arguments.push((line, pairs)),
            (_, None) => return Err(failed(Reason::NoStage)),
            (step, Some(stage)) => stage.steps.push((line, step)),
        }
    }
    match (read.stages.is_empty(), read.arguments.last()) {
        (true, Some((line, _))) => {
            Err(Error::Line { line: line.first, last: line.last, reason: Reason::NoStage })
        }
        _ => Ok(read),
    }
}

/// Reads what an image's `ONBUILD` says.
pub fn parse_trigger(text: &str) -> Result<(Line, Instruction), Error> {
    let file = lines::split(text)?;
    let line = file.lines.into_iter().next().ok_or(Error::Empty)?;
    let failed = |reason| Error::Line { line: line.first, last: line.last, reason };
    match instruction::read(&line, file.escape).map_err(failed)? {
        Instruction::OnBuild(_) => Err(failed(Reason::OnBuildTwice)),
        Instruction::From { .. } => Err(failed(Reason::Trigger("FROM".to_owned()))),
        Instruction::Maintainer(_) => Err(failed(Reason::Trigger("MAINTAINER".to_owned()))),
        step => Ok((line, step)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn a_file_is_stages_of_steps() {
        let text = "# syntax=docker/dockerfile:1\nARG V=1\nFROM a:${V} AS one\nRUN x\n\nFROM scratch\nCOPY --from=one /x /\n";
        let file = parse(text).expect("parse");
        assert_eq!(file.arguments.len(), 1);
        assert_eq!(file.stages.len(), 2);
        assert_eq!((file.stages[0].image.as_str(), file.stages[0].name.as_deref()), ("a:${V}", Some("one")));
        assert_eq!(file.stages[1].steps.len(), 1);
        assert_eq!(file.stages[1].steps[0].0.first, 7);
    }

    #[test]
    fn refusals_are_dockers_and_name_the_line() {
        for (text, want) in [
            (
                "FROM a\n\nRUNN x",
                "dockerfile parse error on line 3: unknown instruction: RUNN (did you mean RUN?)",
            ),
            ("FROM a\nQWERTYUIOP x", "dockerfile parse error on line 2: unknown instruction: QWERTYUIOP"),
            ("", "file with no instructions"),
            ("# only\n", "file with no instructions"),
            ("RUN x", "dockerfile parse error on line 1: no build stage in current context"),
            ("ARG a", "dockerfile parse error on line 1: no build stage in current context"),
            ("FROM a b", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
            (
                "FROM a AS 1x",
                "dockerfile parse error on line 1: invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
            ),
            (
                "FROM a\nCOPY x",
                "dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
            ),
            (
                "FROM a\nCOPY x y z",
                "dockerfile parse error on line 2: When using COPY with more than one source file, the destination must be a directory and end with a /",
            ),
            (
                "FROM a\nCOPY --chwn=1 x y",
                "dockerfile parse error on line 2: unknown flag: --chwn (did you mean chown?)",
            ),
            ("FROM a\nENV x", "dockerfile parse error on line 2: ENV must have two arguments"),
            (
                "FROM a\nENV a=b c",
                "dockerfile parse error on line 2: Syntax error - can't find = in \"c\". Must be of the form: name=value",
            ),
            (
                "FROM a\nONBUILD ONBUILD RUN x",
                "dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ),
            (
                "FROM a\nONBUILD FROM x",
                "dockerfile parse error on line 2: FROM isn't allowed as an ONBUILD trigger",
            ),
            (
                "FROM a\nSHELL x",
                "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form",
            ),
            ("FROM a\nRUN", "dockerfile parse error on line 2: RUN requires at least one argument"),
            ("FROM a\nRUN <<E\nx\n", "dockerfile parse error on line 2: unterminated heredoc"),
            (
                "FROM a\nHEALTHCHECK X y",
                "dockerfile parse error on line 2: Unknown type \"X\" in HEALTHCHECK (try CMD)",
            ),
            ("FROM a\nWORKDIR", "dockerfile parse error on line 2: WORKDIR requires exactly one argument"),
        ] {
            assert_eq!(refused(text), want, "{text:?}");
        }
    }

    #[test]
    fn a_trigger_is_one_instruction() {
        assert!(matches!(parse_trigger("RUN x").expect("run").1, Instruction::Run(_)));
        assert!(parse_trigger("ONBUILD RUN x").is_err());
        assert!(parse_trigger("").is_err());
    }
}
