//! Environment, labels, sysctls and filters: flags whose value is `KEY=VALUE`, and the files of such lines.

use std::path::Path;

/// `--env`: `KEY=VALUE`, or `KEY` alone to take the value from the environment.
pub fn variable(text: &str) -> Result<String, String> {
    let key = text.split('=').next().unwrap_or_default();
    if key.is_empty() { Err(format!("invalid environment variable: {text}")) } else { Ok(text.to_owned()) }
}

/// `--label`: `KEY=VALUE` or `KEY`.
pub fn label(text: &str) -> Result<String, String> {
    let key = text.split('=').next().unwrap_or_default();
    if key.is_empty() { Err(format!("invalid label '{text}': empty name")) } else { Ok(text.to_owned()) }
}

/// `--attach`: one of the three streams.
pub fn stream(text: &str) -> Result<String, String> {
    let lower = text.to_lowercase();
    match lower.as_str() {
        "stdin" | "stdout" | "stderr" => Ok(lower),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

/// `--filter`: `NAME=VALUE`.
pub fn filter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("bad format of filter (expected name=value)")?;
    Ok((name.trim().to_lowercase(), value.trim().to_owned()))
}

/// `--sysctl`: only parameters that belong to a namespace of the container.
pub fn sysctl(text: &str) -> Result<String, String> {
    const NAMES: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.domainname",
    ];
    let allowed = text.split_once('=').is_some_and(|(key, _)| {
        NAMES.contains(&key) || key.starts_with("net.") || key.starts_with("fs.mqueue.")
    });
    if allowed { Ok(text.to_owned()) } else { Err(format!("sysctl '{text}' is not allowed")) }
}

/// What is wrong with a file of `KEY=VALUE` lines.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened.
    #[error("open {path}: {}", reason(source))]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be read.
    #[error("invalid env file ({path}): read {path}: {}", reason(source))]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not UTF-8.
    #[error("invalid env file ({path}): invalid utf8 bytes at line {line}: {content:?}")]
    Utf8 {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// The line, as far as it can be shown.
        content: String,
    },
    /// A name has white space in it.
    #[error("invalid env file ({path}): variable '{name}' contains whitespaces")]
    Whitespace {
        /// The file.
        path: String,
        /// The name.
        name: String,
    },
    /// A line has no name before its `=`.
    #[error("invalid env file ({path}): no variable name on line '{line}'")]
    NoName {
        /// The file.
        path: String,
        /// The line.
        line: String,
    },
}

/// An I/O error in Go's words: lower case, without Rust's number.
pub fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// Reads a file of variables: `#` begins a comment line, white space before a name is skipped, a name alone
/// takes its value from `lookup` and is left out when that has none.
pub fn file(path: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, FileError> {
    let open = |source| FileError::Open { path: path.to_owned(), source };
    let read = |source| FileError::Read { path: path.to_owned(), source };
    let mut content = Vec::new();
    let mut opened = std::fs::File::open(Path::new(path)).map_err(open)?;
    std::io::Read::read_to_end(&mut opened, &mut content).map_err(read)?;
    lines(path, &content, lookup)
}

fn lines(
    path: &str,
    content: &[u8],
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, FileError> {
    let mut variables = Vec::new();
    for (at, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = if at == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let Ok(line) = std::str::from_utf8(line) else {
            return Err(FileError::Utf8 {
                path: path.to_owned(),
                line: at + 1,
                content: String::from_utf8_lossy(line).into_owned(),
            });
        };
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').map_or((line, None), |(name, value)| (name, Some(value)));
        if name.contains(char::is_whitespace) {
            return Err(FileError::Whitespace { path: path.to_owned(), name: name.to_owned() });
        }
        if name.is_empty() {
            return Err(FileError::NoName { path: path.to_owned(), line: line.to_owned() });
        }
        match value {
            Some(value) => variables.push(format!("{name}={value}")),
            None => variables.extend(lookup(name).map(|value| format!("{name}={value}"))),
        }
    }
    Ok(variables)
}

/// The variables of files, then of flags. A flag that is a name alone takes its value from `lookup`; when that
/// has none the name stays, which takes the variable out of the image's.
pub fn gather(
    files: &[String],
    flags: &[String],
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, FileError> {
    let mut all = Vec::new();
    for path in files {
        all.extend(file(path, lookup)?);
    }
    for flag in flags {
        let value = if flag.contains('=') { None } else { lookup(flag) };
        all.push(value.map_or_else(|| flag.clone(), |value| format!("{flag}={value}")));
    }
    Ok(all)
}

/// The process's own environment.
pub fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        (name == "FROM_HOST").then(|| "here".to_owned())
    }

    #[test]
    fn flags() {
        assert_eq!(variable("A=b=c"), Ok("A=b=c".into()));
        assert_eq!(variable("A"), Ok("A".into()));
        assert_eq!(variable("=x"), Err("invalid environment variable: =x".into()));
        assert_eq!(variable(""), Err("invalid environment variable: ".into()));
        assert_eq!(label("=x"), Err("invalid label '=x': empty name".into()));
        assert_eq!(filter("Label = a=b"), Ok(("label".into(), "a=b".into())));
        assert_eq!(filter("foo"), Err("bad format of filter (expected name=value)".into()));
        assert_eq!(sysctl("net.core.somaxconn=5"), Ok("net.core.somaxconn=5".into()));
        for bad in ["foo", "net.foo", "kernel.hostname=x"] {
            assert_eq!(sysctl(bad), Err(format!("sysctl '{bad}' is not allowed")));
        }
        assert_eq!(stream("STDIN"), Ok("stdin".into()));
        assert!(stream("foo").is_err());
    }

    #[test]
    fn a_file() {
        let text = b"\xef\xbb\xbf# comment\nVAR1=value1\r\n  VAR2=value2  \n\n\t# more\nFROM_HOST\nNOT_SET\nE=\nX=a b=c # no comment\n";
        assert_eq!(
            lines("f", text, &lookup).expect("lines"),
            ["VAR1=value1", "VAR2=value2  ", "FROM_HOST=here", "E=", "X=a b=c # no comment"]
        );
        for (text, want) in [
            (&b"A B=c"[..], "invalid env file (f): variable 'A B' contains whitespaces"),
            (b"=c", "invalid env file (f): no variable name on line '=c'"),
            (b"A=1\nB=\xff", "invalid env file (f): invalid utf8 bytes at line 2: \"B=\u{fffd}\""),
            (b"A =c", "invalid env file (f): variable 'A ' contains whitespaces"),
        ] {
            assert_eq!(lines("f", text, &lookup).expect_err("error").to_string(), want);
        }
        assert_eq!(
            file("/nonexistent/x", &lookup).expect_err("error").to_string(),
            "open /nonexistent/x: no such file or directory"
        );
        assert_eq!(
            file("/", &lookup).expect_err("error").to_string(),
            "invalid env file (/): read /: is a directory"
        );
    }

    #[test]
    fn flags_come_after_files_and_keep_a_name_that_is_not_set() {
        let flags = ["A=1".to_owned(), "FROM_HOST".to_owned(), "NOT_SET".to_owned()];
        assert_eq!(gather(&[], &flags, &lookup).expect("gather"), ["A=1", "FROM_HOST=here", "NOT_SET"]);
    }
}
