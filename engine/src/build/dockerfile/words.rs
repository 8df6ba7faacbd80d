//! The little shell of a Dockerfile: quotes, escapes, and what `$` stands for.
//!
//! What is taken for granted of a shell and is not one here: a value is never split into words, a glob in
//! it is never expanded, and no command is ever substituted.

/// Why a word does not expand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A quote without its other half.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    Quote(&'static str),
    /// `${x`.
    #[error("syntax error: missing '}}'")]
    Brace,
    /// `${}`.
    #[error("syntax error: bad substitution")]
    Substitution,
    /// `${x@y}`.
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    /// `${x:?y}`.
    #[error("{0}: {1}")]
    Unset(String, String),
    /// Braces in braces in braces.
    #[error("substitutions are nested too deeply")]
    Deep,
    /// What stands for much that stands for much.
    #[error("the result is too long")]
    Long,
}

/// What a name stands for.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How deep substitutions may be nested; each costs a frame.
const DEEPEST: usize = 64;
/// Bytes of a word when it is expanded. Ten lines can ask for ten to the tenth.
const LONGEST: usize = 1 << 20;
/// Bytes of a value in which a pattern is looked for, since that costs a power of its length.
const LONGEST_SEARCHED: usize = 2048;

/// Expands words.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    /// What escapes.
    pub escape: char,
    /// What names stand for.
    pub lookup: Lookup<'a>,
}

struct Cursor<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    depth: usize,
}

impl Words<'_> {
    /// Expands one word: quotes and escapes go, names are replaced.
    pub fn expand(&self, word: &str) -> Result<String, Error> {
        self.run(word, false)
    }

    /// The same with quotes as they stand: a here-document's content.
    pub fn expand_content(&self, text: &str) -> Result<String, Error> {
        self.run(text, true)
    }

    fn run(&self, text: &str, quotes_stay: bool) -> Result<String, Error> {
        let mut cursor = Cursor { rest: text.chars().peekable(), depth: 0 };
        self.until(&mut cursor, None, quotes_stay, false)
    }

    /// Up to `stop`, which is taken, or the end.
    fn until(
        &self,
        cursor: &mut Cursor<'_>,
        stop: Option<char>,
        quotes_stay: bool,
        escapes_stay: bool,
    ) -> Result<String, Error> {
        let mut out = String::new();
        while let Some(&c) = cursor.rest.peek() {
            if out.len() > LONGEST {
                return Err(Error::Long);
            }
            if Some(c) == stop {
                cursor.rest.next();
                return Ok(out);
            }
            match c {
                '\'' if !quotes_stay => self.single(cursor, &mut out)?,
                '"' if !quotes_stay => self.double(cursor, &mut out)?,
                '$' => out.push_str(&self.dollar(cursor)?),
                c => {
                    cursor.rest.next();
                    if c == self.escape {
                        if escapes_stay || quotes_stay && cursor.rest.peek() != Some(&'$') {
                            out.push(c);
                            if quotes_stay {
                                continue;
                            }
                        }
                        // At the very end it means nothing.
                        out.extend(cursor.rest.next());
                    } else {
                        out.push(c);
                    }
                }
            }
        }
        if stop.is_some() { Err(Error::Brace) } else { Ok(out) }
    }

    #[allow(clippy::unused_self, reason = "beside its sisters")]
    fn single(&self, cursor: &mut Cursor<'_>, out: &mut String) -> Result<(), Error> {
        cursor.rest.next();
        for c in cursor.rest.by_ref() {
            if c == '\'' {
                return Ok(());
            }
            out.push(c);
        }
        Err(Error::Quote("single"))
    }

    fn double(&self, cursor: &mut Cursor<'_>, out: &mut String) -> Result<(), Error> {
        cursor.rest.next();
        while let Some(&c) = cursor.rest.peek() {
            match c {
                '"' => {
                    cursor.rest.next();
                    return Ok(());
                }
                '$' if out.len() > LONGEST => return Err(Error::Long),
                '$' => out.push_str(&self.dollar(cursor)?),
                c => {
                    cursor.rest.next();
                    match cursor.rest.peek() {
                        Some(&next)
                            if c == self.escape && (matches!(next, '"' | '$') || next == self.escape) =>
                        {
                            cursor.rest.next();
                            out.push(next);
                        }
                        _ => out.push(c),
                    }
                }
            }
        }
        Err(Error::Quote("double"))
    }

    fn dollar(&self, cursor: &mut Cursor<'_>) -> Result<String, Error> {
        cursor.rest.next();
        if cursor.rest.peek() != Some(&'{') {
            let name = name(cursor);
            return Ok(if name.is_empty() {
                "$".to_owned()
            } else {
                (self.lookup)(&name).unwrap_or_default()
            });
        }
        cursor.rest.next();
        match cursor.rest.peek() {
            None => return Err(Error::Brace),
            Some('{' | '}' | ':') => return Err(Error::Substitution),
            Some(_) => {}
        }
        let name = name(cursor);
        let value = (self.lookup)(&name);
        let mut modifier = cursor.rest.next().ok_or(Error::Brace)?;
        if modifier == '}' {
            return Ok(value.unwrap_or_default());
        }
        cursor.depth += 1;
        if cursor.depth > DEEPEST {
            return Err(Error::Deep);
        }
        let mut set = value.is_some();
        let mut shown = modifier.to_string();
        if modifier == ':' {
            modifier = cursor.rest.next().ok_or(Error::Brace)?;
            shown.push(modifier);
            set = value.as_deref().is_some_and(|value| !value.is_empty());
            if !matches!(modifier, '-' | '+' | '?') {
                return Err(Error::Modifier(shown));
            }
        }
        let pattern = matches!(modifier, '#' | '%' | '/');
        let everywhere = modifier == '/' && cursor.rest.next_if_eq(&'/').is_some();
        let word = match modifier {
            '/' => self.until(cursor, Some('/'), false, true)?,
            '-' | '+' | '?' | '#' | '%' => self.until(cursor, Some('}'), false, pattern)?,
            _ => return Err(Error::Modifier(shown)),
        };
        let value = value.unwrap_or_default();
        if pattern && value.len() > LONGEST_SEARCHED {
            return Err(Error::Long);
        }
        let result = match modifier {
            '-' => {
                if set {
                    value
                } else {
                    word
                }
            }
            '+' => {
                if set {
                    word
                } else {
                    String::new()
                }
            }
            '?' if set => value,
            '?' => {
                let why = if word.is_empty() { "not allowed to be unset".to_owned() } else { word };
                return Err(Error::Unset(name, why));
            }
            '/' => {
                let by = self.until(cursor, Some('}'), false, true)?;
                replace(&value, &self.pattern(&word), &by, everywhere)
            }
            cut => {
                let (word, longest) = match word.strip_prefix(cut) {
                    Some(rest) => (rest, true),
                    None => (word.as_str(), false),
                };
                trim(&value, &self.pattern(word), cut == '#', longest)
            }
        };
        cursor.depth -= 1;
        Ok(result)
    }

    fn pattern(&self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            pieces.push(match c {
                '*' => Piece::Any,
                '?' => Piece::One,
                c if c == self.escape => match chars.next() {
                    Some(next) => Piece::This(next),
                    None => break,
                },
                c => Piece::This(c),
            });
        }
        pieces
    }
}

/// One part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Any,
    One,
    This(char),
}

/// Whether the whole of `text` fits. One star is retried at a time, so that it costs a product and no power.
fn fits(pattern: &[Piece], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Piece::Any) => {
                star = Some((p, t));
                p += 1;
            }
            Some(Piece::One) => (p, t) = (p + 1, t + 1),
            Some(Piece::This(c)) if *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|piece| *piece == Piece::Any)
}

fn trim(value: &str, pattern: &[Piece], front: bool, longest: bool) -> String {
    let chars: Vec<char> = value.chars().collect();
    let mut lengths: Vec<usize> = (0..=chars.len()).collect();
    if longest {
        lengths.reverse();
    }
    for length in lengths {
        let (part, rest) = if front {
            chars.split_at(length)
        } else {
            let (rest, part) = chars.split_at(chars.len() - length);
            (part, rest)
        };
        if fits(pattern, part) {
            return rest.iter().collect();
        }
    }
    value.to_owned()
}

fn replace(value: &str, pattern: &[Piece], by: &str, everywhere: bool) -> String {
    let chars: Vec<char> = value.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    let mut done = false;
    while at < chars.len() {
        let found = (!done).then(|| (at + 1..=chars.len()).rev().find(|end| fits(pattern, &chars[at..*end])));
        if let Some(end) = found.flatten() {
            out.push_str(by);
            at = end;
            done = !everywhere;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// A name: letters, digits and underscores, a number, or one special character.
fn name(cursor: &mut Cursor<'_>) -> String {
    let mut name = String::new();
    match cursor.rest.peek() {
        Some(c) if c.is_ascii_digit() => {
            while let Some(c) = cursor.rest.next_if(char::is_ascii_digit) {
                name.push(c);
            }
        }
        Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(cursor.rest.next()),
        _ => {
            while let Some(c) = cursor.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                name.push(c);
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(word: &str) -> Result<String, Error> {
        let lookup = |name: &str| match name {
            "x" => Some("one".to_owned()),
            "e" => Some(String::new()),
            "p" => Some("a/b/c.tar.gz".to_owned()),
            _ => None,
        };
        Words { escape: '\\', lookup: &lookup }.expand(word)
    }

    #[test]
    fn words_expand_as_in_a_dockerfile() {
        for (word, want) in [
            ("plain", "plain"),
            ("$x", "one"),
            ("a${x}b", "aoneb"),
            ("$xy.", "."),
            ("$", "$"),
            ("\\$x", "$x"),
            ("'$x'", "$x"),
            ("\"$x\\\"\"", "one\""),
            ("\"a\\b\"", "a\\b"),
            ("a\\ b", "a b"),
            ("${n:-w}", "w"),
            ("${e:-w}", "w"),
            ("${e-w}", ""),
            ("${n-w}", "w"),
            ("${x:+w}", "w"),
            ("${e:+w}", ""),
            ("${e+w}", "w"),
            ("${n:-${x}}", "one"),
            ("${n:-a b}", "a b"),
            ("${p#*/}", "b/c.tar.gz"),
            ("${p##*/}", "c.tar.gz"),
            ("${p%.*}", "a/b/c.tar"),
            ("${p%%.*}", "a/b/c"),
            ("${p/b/x}", "a/x/c.tar.gz"),
            ("${p//\\//-}", "a-b-c.tar.gz"),
            ("${x:?no}", "one"),
            ("nginx-$n.tar", "nginx-.tar"),
        ] {
            assert_eq!(expand(word).expect(word), want, "{word}");
        }
        for (word, want) in [
            ("'a", "unexpected end of statement while looking for matching single-quote"),
            ("\"a", "unexpected end of statement while looking for matching double-quote"),
            ("${x", "syntax error: missing '}'"),
            ("${x:-a", "syntax error: missing '}'"),
            ("${}", "syntax error: bad substitution"),
            ("${x@Q}", "unsupported modifier (@) in substitution"),
            ("${n:?must be}", "n: must be"),
            ("${n?}", "n: not allowed to be unset"),
        ] {
            assert_eq!(expand(word).expect_err(word).to_string(), want, "{word}");
        }
        assert_eq!(expand(&"${n:-".repeat(9999)).expect_err("deep"), Error::Deep);
        let lookup = |_: &str| Some("y".repeat(1000));
        let words = Words { escape: '\\', lookup: &lookup };
        assert_eq!(words.expand(&"$y".repeat(9999)).expect_err("long"), Error::Long);
        assert_eq!(words.expand(&format!("\"{}\"", "$y".repeat(9999))).expect_err("long"), Error::Long);
        let long = format!("${{n:-{}b}}", "*a".repeat(99));
        assert_eq!(expand(&long).expect("long").len(), 199);
    }

    #[test]
    fn content_keeps_its_quotes() {
        let lookup = |_: &str| Some("v".to_owned());
        let words = Words { escape: '\\', lookup: &lookup };
        assert_eq!(words.expand_content("it's \"$x\" \\$x \\n").expect("content"), "it's \"v\" $x \\n");
    }

    #[test]
    fn patterns_cost_no_power() {
        let pattern: Vec<Piece> = [Piece::Any, Piece::This('a')].repeat(40);
        assert!(!fits(&pattern, &['b'; 4000]));
    }
}
