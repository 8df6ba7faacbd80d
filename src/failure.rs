//! How a command ends when it does not succeed: what is written to standard error, and the exit code.

use std::fmt::Display;

/// The end of a command that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For standard error; empty when everything is said already.
    pub message: String,
    /// For standard output; only help texts use it.
    pub output: String,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// A message and an exit code.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: without_numbers(message.into()), output: String::new(), code }
    }

    /// A message of the command line's own; exit 1.
    pub fn plain(message: impl Into<String>) -> Self {
        Self::new(1, message)
    }

    /// An error of a verb that Docker does not have, in the error's own words; exit 1.
    #[allow(clippy::needless_pass_by_value, reason = "for map_err")]
    pub fn plain_from(error: impl Display) -> Self {
        Self::new(1, error.to_string())
    }

    /// What Docker's daemon would have said; exit 1.
    pub fn daemon(error: impl Display) -> Self {
        Self::new(1, format!("Error response from daemon: {error}"))
    }

    /// Everything is said already.
    pub fn exit(code: u8) -> Self {
        Self::new(code, "")
    }

    /// Several operands failed, each with its own line; exit 1.
    pub fn lines(lines: &[String]) -> Self {
        Self::new(1, lines.join("\n"))
    }

    /// A help text; exit 0.
    pub fn help(text: String) -> Self {
        Self { message: String::new(), output: text, code: 0 }
    }

    /// Standard output is gone or full. A closed pipe ends the command as SIGPIPE would.
    pub fn stdout(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::exit(141)
        } else {
            Self::new(1, format!("write /dev/stdout: {error}"))
        }
    }
}

/// Rust names the number of a system call's error beside its text; Docker's users know it by the text alone.
fn without_numbers(mut message: String) -> String {
    const MARK: &str = " (os error ";
    while let Some(at) = message.find(MARK) {
        let number = message[at + MARK.len()..].find(')').map(|end| at + MARK.len() + end);
        match number {
            Some(end) if message[at + MARK.len()..end].bytes().all(|byte| byte.is_ascii_digit()) => {
                message.replace_range(at..=end, "");
            }
            _ => break,
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_errors_are_left_out() {
        for (message, want) in [
            ("open /x: No such file (os error 2)", "open /x: No such file"),
            ("a (os error 2), b (os error 13).", "a, b."),
            ("a (os error x)", "a (os error x)"),
            ("a (os error 2", "a (os error 2"),
        ] {
            assert_eq!(without_numbers(message.to_owned()), want);
        }
    }
}
