//! What `--chmod` says: a number, or what chmod(1) calls a symbolic mode, which depends on the mode there was.

/// A change of permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// These, whatever they were.
    Exact(u32),
    /// One clause after the other.
    Symbolic(Vec<Clause>),
}

/// `go-w`: for whom, what is done, and with which permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// The bits of those it is about, set-id bits and the sticky one included.
    whom: u32,
    operator: u8,
    what: What,
}

/// Permissions on the right of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Bits of everybody, of which those of `whom` count; and whether `X` is among them.
    Bits(u32, bool),
    /// Those of the user (6), the group (3) or others (0), by how far they are from the right.
    Of(u32),
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHERS: u32 = 0o1007;

impl Chmod {
    /// Reads `0644` or `u=rwX,go=rX`; `None` for what is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            // The parser for numbers would take a sign.
            let digits = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777)?;
            return Some(Self::Exact(mode));
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let at = part.find(['+', '-', '='])?;
            let whom = part[..at].bytes().try_fold(0, |whom, letter| {
                Some(
                    whom | match letter {
                        b'u' => USER,
                        b'g' => GROUP,
                        b'o' => OTHERS,
                        b'a' => USER | GROUP | OTHERS,
                        _ => return None,
                    },
                )
            })?;
            // Nobody in particular is everybody: a build has no umask.
            let whom = if at == 0 { USER | GROUP | OTHERS } else { whom };
            let mut rest = part[at..].bytes().peekable();
            while let Some(operator) = rest.next() {
                let mut what = What::Bits(0, false);
                while let Some(letter) = rest.next_if(|b| !matches!(b, b'+' | b'-' | b'=')) {
                    what = what.and(letter)?;
                }
                clauses.push(Clause { whom, operator, what });
            }
        }
        Some(Self::Symbolic(clauses))
    }

    /// The permissions that something of `mode` gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let clauses = match self {
            Self::Exact(mode) => return *mode,
            Self::Symbolic(clauses) => clauses,
        };
        clauses.iter().fold(mode, |mode, clause| {
            let bits = match clause.what {
                What::Bits(bits, executable) if executable && (is_directory || mode & 0o111 != 0) => {
                    bits | 0o111
                }
                What::Bits(bits, _) => bits,
                What::Of(shift) => (mode >> shift & 7) * 0o111,
            } & clause.whom;
            match clause.operator {
                b'+' => mode | bits,
                b'-' => mode & !bits,
                // A directory keeps its set-id bits unless they are named, as in chmod(1).
                _ => {
                    let kept = if is_directory { 0o6000 & !bits } else { 0 };
                    mode & !(clause.whom & !kept) | bits
                }
            }
        })
    }
}

impl What {
    fn and(self, letter: u8) -> Option<Self> {
        let copied = match letter {
            b'u' => Some(6),
            b'g' => Some(3),
            b'o' => Some(0),
            _ => None,
        };
        match (self, copied) {
            // Either somebody's permissions or letters of one's own.
            (Self::Bits(0, false), Some(shift)) => Some(Self::Of(shift)),
            (Self::Bits(bits, executable), None) => Some(match letter {
                b'r' => Self::Bits(bits | 0o444, executable),
                b'w' => Self::Bits(bits | 0o222, executable),
                b'x' => Self::Bits(bits | 0o111, executable),
                b'X' => Self::Bits(bits, true),
                b's' => Self::Bits(bits | 0o6000, executable),
                b't' => Self::Bits(bits | 0o1000, executable),
                _ => return None,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As chmod(1) of coreutils does it, with a umask of 0.
    #[test]
    fn modes_change_as_chmod_changes_them() {
        for (text, before, is_directory, after) in [
            ("0751", 0o600, false, 0o751),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("-w", 0o666, false, 0o444),
            ("go-rwx", 0o777, false, 0o700),
            ("g=u", 0o741, false, 0o771),
            ("o=g-w", 0o770, false, 0o775),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("+t", 0o777, true, 0o1777),
            ("u=rw", 0o4755, false, 0o655),
            ("g=rx", 0o2775, true, 0o2755),
            ("g-s", 0o2775, true, 0o775),
            ("a=", 0o777, false, 0),
            ("ug+rw-x", 0o111, false, 0o661),
        ] {
            let chmod = Chmod::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(chmod.apply(before, is_directory), after, "{text} of {before:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in
            ["", "888", "10000", "+7", "u", "u=rwz", "z+x", "u=ug", "u=rg", "u+x,", ",u+x", "0o7", "-1", "7 "]
        {
            assert_eq!(Chmod::parse(text), None, "{text:?}");
        }
    }
}
