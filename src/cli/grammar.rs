//! Docker's flag grammar on top of clap's.
//!
//! Docker's client parses flags with Go's pflag, whose habits scripts rely on: a boolean takes an optional
//! `=value`, a repeated flag overrides itself, a value may begin with a dash, flags may follow operands
//! except where the operands are somebody else's command line. [`docker`] turns a plain clap command into
//! one with those habits, and [`refuse`] words clap's refusals as Docker's client does.

use clap::builder::{Resettable, ValueRange};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use crate::failure::Failure;

const VERB_HELP: &str = "Usage:  {usage}\n\n{about}\n\n{before-help}{all-args}";
/// Help of a group of verbs.
pub const GROUP_HELP: &str = "Usage:  {usage}\n\n{about}\n\nCommands:\n{subcommands}\n\n{after-help}";
/// Help of the whole.
pub const ROOT_HELP: &str =
    "Usage:  {usage}\n\n{about}\n\nCommands:\n{subcommands}\n\nGlobal Options:\n{options}\n\n{after-help}";

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// Gives one argument pflag's habits.
fn pflag(arg: Arg) -> Arg {
    if arg.is_positional() {
        return arg;
    }
    match arg.get_action() {
        ArgAction::SetTrue => switch(arg).default_value("false"),
        ArgAction::Set if arg.get_num_args() == Some(ValueRange::from(0..=1)) => switch(arg),
        ArgAction::Set | ArgAction::Append => arg.allow_hyphen_values(true),
        _ => arg,
    }
}

fn switch(arg: Arg) -> Arg {
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(boolean)
        .hide_default_value(true)
        .hide_possible_values(true)
}

/// Gives a command pflag's habits. `-h` asks for help unless the verb has another use for it.
pub fn docker(command: Command) -> Command {
    dress(command.mut_args(pflag))
}

/// The same command for help texts, completions and man pages, where a switch is shown as one.
pub fn shown(command: Command) -> Command {
    dress(command.mut_args(|arg| {
        if arg.is_positional() || arg.get_num_args() != Some(ValueRange::from(0..=1)) {
            return arg;
        }
        arg.action(ArgAction::SetTrue)
            .num_args(0)
            .default_value(Resettable::Reset)
            .default_missing_value(Resettable::Reset)
    }))
}

fn dress(command: Command) -> Command {
    let taken = command.get_arguments().any(|arg| arg.get_short() == Some('h'));
    let help = Arg::new("help").long("help").action(ArgAction::Help).help("Print usage");
    // One whose arguments are another program's asks that one for help.
    let helps = !command.is_disable_help_flag_set();
    command
        .args(helps.then(|| if taken { help } else { help.short('h') }))
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .help_template(VERB_HELP)
        .next_help_heading("Options")
}

/// The scan of the global flags: everything from the first word on is left alone.
pub fn globals(command: Command) -> Command {
    docker(command)
        .allow_external_subcommands(true)
        .external_subcommand_value_parser(clap::value_parser!(std::ffi::OsString))
}

/// How a flag is named in Docker's messages: `-m, --memory`.
fn flag_name(command: &Command, invalid: &str) -> String {
    // clap says `--memory <bytes>`, `-m <bytes>` or `--tty[=<tty>]`.
    let end = invalid.find([' ', '[', '=']).unwrap_or(invalid.len());
    let bare = &invalid[..end];
    let found = command.get_arguments().find(|arg| {
        bare.strip_prefix("--").is_some_and(|long| arg.get_long() == Some(long))
            || bare
                .strip_prefix('-')
                .is_some_and(|short| arg.get_short().map(String::from).as_deref() == Some(short))
    });
    match found.map(|arg| (arg.get_short(), arg.get_long())) {
        Some((Some(short), Some(long))) => format!("-{short}, --{long}"),
        Some((None, Some(long))) => format!("--{long}"),
        _ => bare.to_owned(),
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> &str {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text,
        Some(ContextValue::Strings(texts)) => texts.first().map_or("", String::as_str),
        _ => "",
    }
}

/// Words a refusal as Docker's client does. A bad flag is exit 125, a wrong count of operands exit 1.
pub fn refuse(error: &clap::Error, command: &Command, path: &str, usage: &str) -> Failure {
    let invalid = context(error, ContextKind::InvalidArg);
    let value = context(error, ContextKind::InvalidValue);
    let positional = command.get_positionals().any(|arg| {
        let name = arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
        !name.is_empty() && invalid.contains(name) && !invalid.starts_with('-')
    });
    let message = match error.kind() {
        ErrorKind::UnknownArgument if invalid.starts_with("--") => {
            let end = invalid.find('=').unwrap_or(invalid.len());
            Some(format!("unknown flag: {}", &invalid[..end]))
        }
        ErrorKind::UnknownArgument if invalid.starts_with('-') && invalid.len() > 1 => {
            let letter = invalid.chars().nth(1).unwrap_or('-');
            Some(format!("unknown shorthand flag: '{letter}' in {invalid}"))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8 if !positional => {
            if value.is_empty() && std::error::Error::source(error).is_none() {
                let name = flag_name(command, invalid);
                Some(format!("flag needs an argument: {}", name.rsplit(' ').next().unwrap_or_default()))
            } else {
                let why = std::error::Error::source(error)
                    .map_or_else(|| "invalid value".to_owned(), ToString::to_string);
                Some(format!("invalid argument {value:?} for {:?} flag: {why}", flag_name(command, invalid)))
            }
        }
        ErrorKind::MissingRequiredArgument if invalid.starts_with("--") => {
            let end = invalid.find([' ', '=']).unwrap_or(invalid.len());
            Some(format!("required flag(s) {:?} not set", &invalid[2..end]))
        }
        _ => None,
    };
    let prefix = if path.is_empty() { "bulkhead".to_owned() } else { format!("bulkhead {path}") };
    let mut forms: Vec<String> =
        usage.lines().map(|form| format!("{prefix} {form}").trim_end().to_owned()).collect();
    if forms.is_empty() {
        forms.push(prefix.clone());
    }
    let forms = forms.join("\n\t");
    if let Some(message) = message {
        // Docker's client has no required flags; such a lack is a usage error like a wrong count of operands.
        let code = if error.kind() == ErrorKind::MissingRequiredArgument { 1 } else { 125 };
        return Failure::new(
            code,
            format!("{message}\n\nUsage:  {forms}\n\nRun '{prefix} --help' for more information"),
        );
    }
    let arity = arity(command);
    // Docker's own sentences begin differently.
    let see = if arity.contains("at least") && !arity.contains("at most") { "See" } else { "Run" };
    Failure::new(
        1,
        format!(
            "bulkhead: '{prefix}' {arity}\n\nUsage:  {forms}\n\n{see} '{prefix} --help' for more information"
        ),
    )
}

/// Docker's sentence on how many operands a verb takes.
fn arity(command: &Command) -> String {
    let (mut least, mut most) = (0usize, Some(0usize));
    for arg in command.get_positionals() {
        let range = arg.get_num_args().unwrap_or(ValueRange::SINGLE);
        if arg.is_required_set() {
            least += range.min_values().max(1);
        }
        let many = range.max_values() == usize::MAX || matches!(arg.get_action(), ArgAction::Append);
        most = if many { None } else { most.map(|n| n + range.max_values()) };
    }
    let noun = |n: usize| if n == 1 { "argument" } else { "arguments" };
    match (least, most) {
        (0, Some(0)) => "accepts no arguments".to_owned(),
        (0, Some(most)) => format!("requires at most {most} {}", noun(most)),
        (least, Some(most)) if least == most => format!("requires {least} {}", noun(least)),
        (least, Some(most)) => format!("requires at least {least} and at most {most} {}", noun(most)),
        (least, None) => format!("requires at least {least} {}", noun(least)),
    }
}
