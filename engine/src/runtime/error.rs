//! What can go wrong between a specification and a running process, and how it crosses a fork.
//!
//! Most of a start happens in the child, so most errors are born there. They must reach the caller
//! with the failing call and path intact, not as a line of text on somebody's stderr; hence one flat
//! enum whose variants hold nothing but strings and an errno, and a wire form to send it over the
//! socket between the two.

use std::borrow::Cow;
use std::io;
use std::path::Path;

/// Why a container or a process in it could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{call} {path}: {source}")]
    Sys {
        /// The call, in the kernel's words.
        call: Cow<'static, str>,
        /// What it was applied to.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The specification asks for something that makes no sense.
    #[error("invalid {what}: {value}")]
    Invalid {
        /// The field or option.
        what: Cow<'static, str>,
        /// The value and, where it is not obvious, what is wrong with it.
        value: String,
    },
    /// The specification asks for something that this host, or this runtime, does not offer.
    #[error("{what}: {why}")]
    Unsupported {
        /// What was asked for.
        what: Cow<'static, str>,
        /// What is missing.
        why: String,
    },
    /// No directory in `$PATH` holds the program.
    #[error("exec: \"{file}\": executable file not found in $PATH")]
    NotInPath {
        /// The program as it was given.
        file: String,
    },
    /// The program was given with a slash and is not there.
    #[error("exec: \"{file}\": stat {file}: no such file or directory")]
    NoSuchFile {
        /// The program as it was given.
        file: String,
    },
    /// The program is there and may not be executed.
    #[error("exec: \"{file}\": permission denied")]
    NotExecutable {
        /// The program as it was given.
        file: String,
    },
    /// The program is a directory.
    #[error("exec: \"{file}\": is a directory")]
    IsDirectory {
        /// The program as it was given.
        file: String,
    },
    /// The kernel refused the program itself (its format, or its interpreter is missing).
    #[error("exec {file}: {source}")]
    Exec {
        /// The program as it was found.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// There is no way to the working directory.
    #[error("chdir to cwd ({path:?}) set in config.json failed: {}", reason(.source))]
    Cwd {
        /// The directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A hook failed.
    #[error("{point} hook {path}: {why}")]
    Hook {
        /// The hook point, as the specification names it.
        point: Cow<'static, str>,
        /// The hook's program.
        path: String,
        /// Its exit status, or why it could not run.
        why: String,
    },
    /// There is no process to join.
    #[error("the container is not running")]
    NotRunning,
    /// The process ended before it had said whether it was ready: it was killed from outside, most
    /// likely for memory.
    #[error("the container's first process ended while it was being set up")]
    Died,
}

impl Error {
    /// The exit code that Docker's command line gives for this failure: 127 when the program is not
    /// there, 126 when it may not run or not where it should, 255 when the kernel rejects its format, 125 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotInPath { .. } | Self::NoSuchFile { .. } => 127,
            Self::NotExecutable { .. } | Self::IsDirectory { .. } | Self::Cwd { .. } => 126,
            Self::Exec { source, .. } if source.raw_os_error() == Some(libc::EACCES) => 126,
            Self::Exec { .. } => 255,
            _ => 125,
        }
    }

    /// An [`Error::Invalid`] in fewer words.
    pub(crate) fn invalid(what: &'static str, value: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), value: value.into() }
    }

    /// An [`Error::Unsupported`] in fewer words.
    pub(crate) fn unsupported(what: &'static str, why: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), why: why.into() }
    }

    /// The bytes that [`Error::decode`] understands: tag, errno, and up to three strings.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (tag, source, strings): (u8, Option<&io::Error>, [&str; 3]) = match self {
            Self::Sys { call, path, source } => (0, Some(source), [call, path, ""]),
            Self::Invalid { what, value } => (1, None, [what, value, ""]),
            Self::Unsupported { what, why } => (2, None, [what, why, ""]),
            Self::NotInPath { file } => (3, None, [file, "", ""]),
            Self::NoSuchFile { file } => (4, None, [file, "", ""]),
            Self::NotExecutable { file } => (5, None, [file, "", ""]),
            Self::IsDirectory { file } => (6, None, [file, "", ""]),
            Self::Exec { file, source } => (7, Some(source), [file, "", ""]),
            Self::Hook { point, path, why } => (8, None, [point, path, why]),
            Self::NotRunning => (9, None, [""; 3]),
            Self::Died => (10, None, [""; 3]),
            Self::Cwd { path, source } => (11, Some(source), [path, "", ""]),
        };
        // An io::Error made by Rust and not by the kernel has no errno; EIO stands for it.
        let errno = source.map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO));
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&errno.to_le_bytes());
        for text in strings {
            // A message must fit the reader's buffer whatever a specification holds.
            let text = &text.as_bytes()[..text.len().min(1200)];
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text);
        }
        bytes
    }

    /// The error that `bytes` stand for. Anything malformed is [`Error::Died`]: the sender was cut off.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        Self::try_decode(bytes).unwrap_or(Self::Died)
    }

    fn try_decode(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        let (errno, mut rest) = rest.split_first_chunk::<4>()?;
        let source = io::Error::from_raw_os_error(i32::from_le_bytes(*errno));
        let mut strings: [String; 3] = Default::default();
        for string in &mut strings {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let (text, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            *string = String::from_utf8_lossy(text).into_owned();
            rest = tail;
        }
        let [a, b, c] = strings;
        Some(match tag {
            0 => Self::Sys { call: a.into(), path: b, source },
            1 => Self::Invalid { what: a.into(), value: b },
            2 => Self::Unsupported { what: a.into(), why: b },
            3 => Self::NotInPath { file: a },
            4 => Self::NoSuchFile { file: a },
            5 => Self::NotExecutable { file: a },
            6 => Self::IsDirectory { file: a },
            7 => Self::Exec { file: a, source },
            8 => Self::Hook { point: a.into(), path: b, why: c },
            9 => Self::NotRunning,
            11 => Self::Cwd { path: a, source },
            _ => return None,
        })
    }
}

/// In Go's words, which scripts look for.
fn reason(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |code| nix::errno::Errno::from_raw(code).desc().to_lowercase())
}

/// Adds the failing call and what it was applied to.
pub(crate) trait At<T> {
    /// Names the call and the path it was applied to.
    fn at(self, call: &'static str, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, call: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|source| Error::Sys {
            call: call.into(),
            path: path.as_ref().display().to_string(),
            source,
        })
    }
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, call: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(io::Error::from).at(call, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_crossing() {
        let errno = || io::Error::from_raw_os_error(libc::ENOEXEC);
        for error in [
            Error::Sys { call: "mount".into(), path: "/proc".into(), source: errno() },
            Error::invalid("sysctl", "x"),
            Error::unsupported("time namespace", "no offsets"),
            Error::NotInPath { file: "a".into() },
            Error::NoSuchFile { file: "/a".into() },
            Error::NotExecutable { file: "/a".into() },
            Error::IsDirectory { file: "/".into() },
            Error::Exec { file: "/a".into(), source: errno() },
            Error::Cwd { path: "/nope".into(), source: io::Error::from_raw_os_error(libc::ENOENT) },
            Error::Hook { point: "prestart".into(), path: "/h".into(), why: "exit status 1".into() },
            Error::NotRunning,
            Error::Died,
        ] {
            let back = Error::decode(&error.encode());
            assert_eq!(back.to_string(), error.to_string());
            assert_eq!(back.exit_code(), error.exit_code());
        }
    }

    #[test]
    fn a_message_cut_off_at_any_byte_is_a_death() {
        let bytes = Error::invalid("what", "value").encode();
        for end in 0..bytes.len() {
            assert!(matches!(Error::decode(&bytes[..end]), Error::Died), "at {end}");
        }
    }
}
