//! Patterns of paths: `.dockerignore`, `--exclude`, and the wildcards of `COPY`.
//!
//! The rules are those of Go's `filepath.Match`, with `**` for any number of directories. Work is done on
//! bytes, since a file's name is bytes, and on components, since only `**` crosses a slash. Matching retries
//! one star at a time, so that no pattern costs more than the product of the two lengths.

/// Whether a word is a pattern at all.
pub fn is_pattern(word: &[u8]) -> bool {
    word.iter().any(|b| matches!(b, b'*' | b'?' | b'[' | b'\\'))
}

/// Whether one component fits a pattern.
pub fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(p + 1),
            Some(b'[') => class(&pattern[p..], name[n]).map(|length| p + length),
            Some(b'\\') if pattern.get(p + 1) == Some(&name[n]) => Some(p + 2),
            Some(b'\\') => None,
            Some(b) if *b == name[n] => Some(p + 1),
            _ => None,
        };
        match (step, star) {
            (Some(next), _) => (p, n) = (next, n + 1),
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// The length of the class that `pattern` begins with, if `byte` is in it.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let mut at = 1;
    let negated = matches!(pattern.get(at), Some(b'^' | b'!'));
    at += usize::from(negated);
    let mut found = false;
    let first = at;
    loop {
        let mut low = *pattern.get(at)?;
        if low == b']' && at > first {
            return (found != negated).then_some(at + 1);
        }
        if low == b'\\' {
            at += 1;
            low = *pattern.get(at)?;
        }
        at += 1;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') && pattern.get(at + 1).is_some_and(|b| *b != b']') {
            at += 1;
            high = *pattern.get(at)?;
            if high == b'\\' {
                at += 1;
                high = *pattern.get(at)?;
            }
            at += 1;
        }
        found |= (low..=high).contains(&byte);
    }
}

/// A path's components without dots; what leads above the top is taken as the top.
pub fn clean(path: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part.to_vec()),
        }
    }
    parts
}

/// One line.
#[derive(Debug, Clone)]
struct Rule {
    parts: Vec<Vec<u8>>,
    /// `!`: what fits is taken after all.
    takes: bool,
}

/// What is left out.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

impl Ignore {
    /// Reads a `.dockerignore`.
    pub fn parse(text: &[u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.starts_with(b"#"));
        let mut all = Self::default();
        for line in lines {
            all.add(line.trim_ascii());
        }
        all
    }

    /// Adds one pattern.
    pub fn add(&mut self, line: &[u8]) {
        let (takes, pattern) = match line.strip_prefix(b"!") {
            Some(rest) => (true, rest.trim_ascii()),
            None => (false, line),
        };
        let parts = clean(pattern);
        // `.` names everything and excludes nothing, as in Docker.
        if !parts.is_empty() {
            self.rules.push(Rule { parts, takes });
        }
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a path (without dots, relative) is left out; the last rule that fits it or a directory above
    /// it decides.
    pub fn excludes(&self, path: &[u8]) -> bool {
        if self.rules.is_empty() || path.is_empty() {
            return false;
        }
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let fits = |rule: &Rule| (1..=parts.len()).any(|n| along(&rule.parts, &parts[..n]));
        self.rules.iter().rev().find(|rule| fits(rule)).is_some_and(|rule| !rule.takes)
    }

    /// Whether something below an excluded directory may be taken after all.
    pub fn may_take_below(&self, path: &[u8]) -> bool {
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        self.rules.iter().filter(|rule| rule.takes).any(|rule| {
            let wild = rule.parts.iter().position(|part| part == b"**");
            let checked = parts.len().min(rule.parts.len()).min(wild.unwrap_or(usize::MAX));
            (0..checked).all(|n| self::fits(&rule.parts[n], parts[n]))
                && (wild.is_some() || rule.parts.len() > parts.len())
        })
    }
}

/// Whether components fit patterns, of which `**` takes any number.
fn along(patterns: &[Vec<u8>], parts: &[&[u8]]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < parts.len() {
        match patterns.get(p) {
            Some(pattern) if pattern == b"**" => {
                // At the end it wants something to take.
                if p + 1 == patterns.len() {
                    return true;
                }
                star = Some((p, n));
                p += 1;
            }
            Some(pattern) if fits(pattern, parts[n]) => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    p == patterns.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_fit_as_in_go() {
        for (pattern, name, want) in [
            ("*.go", "a.go", true),
            ("*.go", "a.g", false),
            ("hom?.txt", "home.txt", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]a]", "]", true),
            ("[a", "a", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), want, "{pattern} {name}");
        }
        assert!(!fits("*a".repeat(60).as_bytes(), "b".repeat(5000).as_bytes()));
    }

    #[test]
    fn the_last_rule_decides() {
        let ignore = Ignore::parse(
            b"# comment\n*.md\n!README.md\n/build/\n**/node_modules\nsrc/**/*.o\n  tmp/*  \nfoo/**\n!foo/keep\n",
        );
        for (path, want) in [
            ("a.md", true),
            ("README.md", false),
            ("docs/a.md", false),
            ("build", true),
            ("build/x/y", true),
            ("node_modules", true),
            ("a/b/node_modules/c", true),
            ("src/x.o", true),
            ("src/a/b/x.o", true),
            ("tmp/x", true),
            ("tmp", false),
            ("foo", false),
            ("foo/a", true),
            ("foo/keep", false),
            ("# comment", false),
        ] {
            assert_eq!(ignore.excludes(path.as_bytes()), want, "{path}");
        }
        assert!(!Ignore::parse(b".\n./\n\n").excludes(b"a"));
        let all = Ignore::parse(b"*\n!a/b\n");
        assert!(all.excludes(b"a") && !all.excludes(b"a/b") && all.may_take_below(b"a"));
        assert!(!all.may_take_below(b"c"));
        assert!(Ignore::parse(b"*\n!**/x").may_take_below(b"c"));
    }

    #[test]
    fn nothing_leads_above_the_top() {
        let of = |text: &str| clean(text.as_bytes()).join(&b'/');
        assert_eq!(of("../../a/./b/../c//"), b"a/c");
        assert_eq!(of("/"), b"");
    }
}
