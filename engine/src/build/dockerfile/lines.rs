//! From text to logical lines.

use super::{Error, Reason};

/// A here-document of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// Whether variables in it are replaced: its word had no quotes.
    pub expand: bool,
    /// `<<-`: tabs at the start of its lines do not count.
    pub chomp: bool,
    /// Its lines, as they stand.
    pub text: String,
}

impl Heredoc {
    /// Its lines, without the tabs that do not count.
    pub fn content(&self) -> String {
        if !self.chomp {
            return self.text.clone();
        }
        self.text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// One instruction as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The keyword, as written.
    pub keyword: String,
    /// What follows it, continuations joined.
    pub rest: String,
    /// Its here-documents.
    pub heredocs: Vec<Heredoc>,
    /// The first line it is on, from 1.
    pub first: usize,
    /// The last.
    pub last: usize,
}

/// A text, split.
#[derive(Debug, Default)]
pub struct Lines {
    /// What escapes.
    pub escape: char,
    /// The instructions.
    pub lines: Vec<Line>,
}

/// Splits a text into instructions.
pub fn split(text: &str) -> Result<Lines, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Lines { escape: '\\', lines: Vec::new() };
    let mut directives = Some(Vec::new());
    let mut physical = text.lines().enumerate().map(|(n, line)| (n + 1, line)).peekable();
    while let Some((first, line)) = physical.next() {
        if let Some(seen) = &mut directives {
            match directive(line) {
                Some((name, value)) => {
                    let failed = |reason| Error::Line { line: first, last: first, reason };
                    if seen.contains(&name) {
                        return Err(failed(Reason::DirectiveTwice(name)));
                    }
                    if name == "escape" {
                        found.escape = match value {
                            "\\" => '\\',
                            "`" => '`',
                            other => return Err(failed(Reason::Escape(other.to_owned()))),
                        };
                    }
                    seen.push(name);
                    continue;
                }
                None => directives = None,
            }
        }
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (part, mut goes_on) = continued(line, found.escape);
        let mut whole = part.to_owned();
        let mut last = first;
        while goes_on {
            let Some((n, line)) = physical.next() else { break };
            last = n;
            // Comments and empty lines in between are passed over.
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let (part, more) = continued(line, found.escape);
            whole.push_str(part);
            goes_on = more;
        }
        let whole = whole.trim();
        let (keyword, rest) = whole.split_once(char::is_whitespace).unwrap_or((whole, ""));
        let mut line = Line {
            keyword: keyword.to_owned(),
            rest: rest.trim().to_owned(),
            heredocs: Vec::new(),
            first,
            last,
        };
        if takes_heredocs(&line) {
            for mut heredoc in heredocs(&line.rest, found.escape) {
                loop {
                    let Some((n, text)) = physical.next() else {
                        return Err(Error::Line { line: first, last: line.last, reason: Reason::Heredoc });
                    };
                    line.last = n;
                    let end = if heredoc.chomp { text.trim_start_matches('\t') } else { text };
                    if end == heredoc.name {
                        break;
                    }
                    heredoc.text.push_str(text);
                    heredoc.text.push('\n');
                }
                line.heredocs.push(heredoc);
            }
        }
        found.lines.push(line);
    }
    Ok(found)
}

/// `# name=value`, of the names that mean something.
fn directive(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.trim().strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    (matches!(name.as_str(), "syntax" | "escape" | "check") && !value.is_empty()).then_some((name, value))
}

/// A line without the escape at its end, and whether there was one. Two escapes are one that is meant.
fn continued(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t', '\r']);
    match trimmed.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

fn takes_heredocs(line: &Line) -> bool {
    let takes = |word: &str| ["RUN", "COPY", "ADD"].iter().any(|name| word.eq_ignore_ascii_case(name));
    let next = || line.rest.split_whitespace().next().unwrap_or_default();
    takes(&line.keyword) || (line.keyword.eq_ignore_ascii_case("ONBUILD") && takes(next()))
}

/// The here-documents that a line announces.
fn heredocs(text: &str, escape: char) -> Vec<Heredoc> {
    if !text.contains("<<") {
        return Vec::new();
    }
    raw_words(text, escape).iter().filter_map(|word| heredoc(word)).collect()
}

/// `[0-9]*<<-?WORD`.
pub fn heredoc(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    if rest.is_empty() || rest.contains(|c: char| c == '<' || c.is_whitespace()) {
        return None;
    }
    let name: String = rest.chars().filter(|c| !matches!(c, '"' | '\'')).collect();
    let expand = name.len() == rest.len();
    (!name.is_empty()).then_some(Heredoc { name, expand, chomp, text: String::new() })
}

/// Splits at white space outside of quotes; quotes and escapes stay.
pub fn raw_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, None | Some('"')) if c == escape => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rests(text: &str) -> Vec<String> {
        split(text).expect("split").lines.into_iter().map(|line| line.rest).collect()
    }

    #[test]
    fn lines_go_on_over_comments_and_empty_lines() {
        assert_eq!(rests("RUN a \\\n# c\n\n  b \\  \n c\nRUN d"), ["a   b  c", "d"]);
        // Two are one that is meant, and the end of the file ends a line.
        assert_eq!(rests("RUN a\\\\\nRUN b \\"), ["a\\\\", "b"]);
        assert_eq!(rests("  # c\n   RUN x\t"), ["x"]);
        assert_eq!(rests("\u{feff}RUN x\r\n"), ["x"]);
    }

    #[test]
    fn directives_count_only_at_the_top() {
        let found = split("# escape=`\nRUN a `\n b\\").expect("split");
        assert_eq!((found.escape, found.lines[0].rest.as_str()), ('`', "a  b\\"));
        assert_eq!(split("# x\n# escape=`\nRUN a").expect("split").escape, '\\');
        assert!(split("# escape=x\nRUN a").is_err());
        assert!(split("#escape=`\n#escape=`\nRUN a").is_err());
    }

    #[test]
    fn here_documents_are_taken_as_they_stand() {
        let found =
            split("RUN <<A cat > a && <<-\"B\" cat > b\nI $x\n\\\nA\n\ttwo\n\tB\nRUN c").expect("split");
        let [a, b] = &found.lines[0].heredocs[..] else { panic!("{found:?}") };
        assert_eq!((a.name.as_str(), a.expand, a.chomp, a.text.as_str()), ("A", true, false, "I $x\n\\\n"));
        assert_eq!((b.name.as_str(), b.expand, b.chomp, b.content().as_str()), ("B", false, true, "two\n"));
        assert_eq!((found.lines[0].first, found.lines[0].last, found.lines[1].rest.as_str()), (1, 6, "c"));
        // A shift is none, nor is what stands in quotes, nor any other instruction's.
        for text in ["RUN echo $((1<<2))", "RUN echo '<<A'", "RUN a<<A", "ENV x=<<A", "RUN cat <<<A"] {
            assert!(split(text).expect(text).lines[0].heredocs.is_empty(), "{text}");
        }
        assert_eq!(split("ONBUILD RUN <<E\nx\nE").expect("split").lines[0].heredocs.len(), 1);
    }
}
