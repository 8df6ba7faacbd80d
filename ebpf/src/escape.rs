//! Bytes made fit for a terminal.
//!
//! A process chooses its own arguments and name. Printed as they are, they could
//! move the cursor, retitle the window or fake a line of a trace. So everything
//! that is not a printable character of valid UTF-8 is written as an escape that
//! a shell's `$'…'` understands, and a backslash is doubled so that the result
//! has one meaning only.

use std::fmt::Write as _;

/// Writes `bytes` as printable text on one line: `\n`, `\t`, `\e` and the like
/// for the usual controls, `\xNN` for other bytes that are no text, `\u{…}` for
/// characters that are invisible or change the direction of the text.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{1b}' => out.push_str("\\e"),
                c if (c as u32) < 0x20 || c == '\u{7f}' => {
                    let _ = write!(out, "\\x{:02x}", c as u32);
                }
                c if is_hidden(c) => {
                    let _ = write!(out, "\\u{{{:x}}}", c as u32);
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// DEL and C1 controls, line separators, zero-width and bidirectional marks, and the
/// other format characters: they would change what is seen around them.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    matches!(
        c as u32,
        0x7f..=0x9f | 0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f
            | 0xfe00..=0xfe0f | 0xfeff | 0xfff0..=0xfffb | 0xe0000..=0xe0fff
    )
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn nothing_controls_the_terminal() {
        for (bytes, text) in [
            (&b"plain text"[..], "plain text"),
            (b"", ""),
            (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
            (b"\x1b[2J\x1b]0;title\x07", "\\e[2J\\e]0;title\\x07"),
            (b"back\\slash", "back\\\\slash"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"caf\xc3\xa9", "café"),
            (b"cut\xc3", "cut\\xc3"),
            (b"\xc2\x9b31m", "\\u{9b}31m"),
            ("right\u{202e}left".as_bytes(), "right\\u{202e}left"),
            ("zero\u{200b}width".as_bytes(), "zero\\u{200b}width"),
            (b"nul\0", "nul\\x00"),
            (b"\x7f", "\\x7f"),
            (b"it's \"quoted\"", "it's \"quoted\""),
        ] {
            assert_eq!(escape(bytes), text, "{bytes:?}");
        }
    }

    #[test]
    fn every_byte_pair_is_printable() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let text = escape(&[a, b]);
                assert!(!text.chars().any(char::is_control), "{a:02x} {b:02x}: {text:?}");
            }
        }
    }
}
