//! Labels: which of a container's become part of its series, and how text becomes a label.
//!
//! A container's labels are free text of free number, and a label that changes makes a new series of
//! everything. So none is taken unless the operator lists it.

use std::collections::BTreeMap;

/// Labels taken from one container at most, however many a pattern matches.
const MOST: usize = 32;

/// Bytes of a label's value at most; the rest is cut off.
const LONGEST: usize = 1024;

/// A pattern of the allow-list makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid label pattern {0:?}: want a label's name, or the beginning of one and a final '*'")]
pub struct AllowedError(String);

/// The labels that are taken: names, and beginnings that end in `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(Vec<String>);

impl Allowed {
    /// From patterns such as `app`, `com.example.*` or `*`.
    pub fn new<I: IntoIterator<Item = S>, S: Into<String>>(patterns: I) -> Result<Self, AllowedError> {
        let patterns: Vec<String> = patterns.into_iter().map(Into::into).collect();
        for pattern in &patterns {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            if pattern.is_empty() || name.contains('*') {
                return Err(AllowedError(pattern.clone()));
            }
        }
        Ok(Self(patterns))
    }

    fn takes(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        })
    }

    /// Appends `,container_label_x="…"` for each label that is taken. Two labels whose names become one
    /// (`a.b` and `a_b`) would make the whole answer invalid: the first in order wins.
    pub(crate) fn append(&self, labels: &BTreeMap<String, String>, out: &mut String) {
        let mut names: Vec<String> = Vec::new();
        for (name, value) in labels.iter().filter(|(name, _)| self.takes(name)) {
            let name = sanitize(name);
            if names.len() == MOST || names.contains(&name) {
                continue;
            }
            out.push_str(",container_label_");
            out.push_str(&name);
            out.push_str("=\"");
            escape(value, out);
            out.push('"');
            names.push(name);
        }
    }
}

/// A label's name as Prometheus takes it, as cAdvisor makes it: whatever is not `[a-zA-Z0-9_]` is `_`.
fn sanitize(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Appends `,name="value"`; nothing for an empty value, which means the same.
pub(crate) fn append(name: &str, value: &str, out: &mut String) {
    if value.is_empty() {
        return;
    }
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    escape(value, out);
    out.push('"');
}

/// Text between quotes: backslash, quote and newline are escaped, the same in both formats.
pub(crate) fn escape(value: &str, out: &mut String) {
    let mut end = value.len().min(LONGEST);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = &value[..end];
    if !value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        out.push_str(value);
        return;
    }
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(patterns: &[&str], labels: &[(&str, &str)]) -> String {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut out = String::new();
        Allowed::new(patterns.iter().copied()).unwrap().append(&labels, &mut out);
        out
    }

    #[test]
    fn only_what_is_listed() {
        let labels = [("app", "web"), ("com.example.team", "a\"b\\c\nd\u{e9}"), ("secret", "x")];
        assert_eq!(rendered(&[], &labels), "");
        assert_eq!(rendered(&["app"], &labels), ",container_label_app=\"web\"");
        assert_eq!(
            rendered(&["com.example.*"], &labels),
            ",container_label_com_example_team=\"a\\\"b\\\\c\\nd\u{e9}\""
        );
        assert_eq!(rendered(&["*"], &labels).matches("container_label_").count(), 3);
    }

    #[test]
    fn names_that_collide_are_taken_once_and_never_too_many() {
        assert_eq!(rendered(&["*"], &[("a.b", "1"), ("a_b", "2")]), ",container_label_a_b=\"1\"");
        let many: Vec<(String, String)> = (0..100).map(|n| (format!("l{n}"), String::from("v"))).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(rendered(&["l*"], &many).matches("container_label_").count(), MOST);
    }

    #[test]
    fn patterns_that_make_no_sense() {
        for odd in ["", "**", "a*b", "*a"] {
            assert!(Allowed::new([odd]).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let mut out = String::new();
        escape(&"\u{20ac}".repeat(1000), &mut out);
        assert_eq!(out.len(), 1023);
    }
}
