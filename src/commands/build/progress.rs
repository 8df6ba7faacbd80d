//! What a build shows meanwhile: BuildKit's plain progress.
//!
//! Each line begins with its step's number, since several steps may be under way. What a step has printed is kept for as
//! long as it may have to be shown again: a failure is of no use without the end of its output, which others may have
//! pushed off the screen.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bulkhead_engine::build::{Outcome, Watcher};

/// Lines of a failed step that are shown again.
const SHOWN_AGAIN: usize = 20;

/// One step as it is shown.
struct Vertex {
    name: String,
    began: Instant,
    /// What has come without a line's end, of both streams.
    rest: [Vec<u8>; 2],
    /// Its last lines, with their times.
    log: Vec<String>,
    failed: bool,
}

/// Shows steps on standard error as they come.
pub(super) struct Plain {
    pub(super) quiet: bool,
    /// Steps of the command itself, before the engine's.
    own: usize,
    vertices: Mutex<Vec<Vertex>>,
}

impl Plain {
    /// Shows nothing yet, and never anything if it is to be `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, own: 0, vertices: Mutex::default() }
    }

    fn write(&self, text: &str) {
        if !self.quiet {
            // Whoever stops reading what a build says does not stop the build.
            let _ = io::stderr().lock().write_all(text.as_bytes());
        }
    }

    fn start(&self, name: &str) -> usize {
        let mut vertices = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        vertices.push(Vertex {
            name: name.to_owned(),
            began,
            rest: [Vec::new(), Vec::new()],
            log: Vec::new(),
            failed: false,
        });
        self.write(&format!("#{} {name}\n", vertices.len()));
        vertices.len()
    }

    fn say(&self, number: usize, text: &str) {
        self.write(&format!("#{number} {text}\n"));
    }

    fn finish(&self, number: usize, outcome: Outcome<'_>) {
        let mut vertices = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(vertex) = vertices.get_mut(number - 1) else { return };
        let seconds = vertex.began.elapsed().as_secs_f64();
        for rest in std::mem::take(&mut vertex.rest) {
            if !rest.is_empty() {
                let text = logged(seconds, &rest);
                self.write(&format!("#{number} {text}\n"));
                vertex.log.push(text);
            }
        }
        vertex.failed = matches!(outcome, Outcome::Failed(_));
        self.write(&match outcome {
            Outcome::Done => format!("#{number} DONE {seconds:.1}s\n\n"),
            Outcome::Cached => format!("#{number} CACHED\n\n"),
            Outcome::Canceled => format!("#{number} CANCELED\n\n"),
            Outcome::Failed(why) => format!("#{number} ERROR: {}\n", printable(why)),
        });
    }

    /// A small step of the command's own.
    pub(super) fn own(&mut self, name: &str, status: &str) {
        let number = self.start(name);
        self.say(number, status);
        self.finish(number, Outcome::Done);
        self.own = number;
    }

    /// The failed step once more, with the end of its output.
    pub(super) fn failed_step(&self) -> Option<String> {
        let vertices = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        let vertex = vertices.iter().rev().find(|vertex| vertex.failed)?;
        let from = vertex.log.len().saturating_sub(SHOWN_AGAIN);
        let log: String = vertex.log[from..].iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        Some(format!("------\n > {}:\n{log}------\n", vertex.name))
    }
}

/// A line of a step's output, with when it came. What would move a terminal's cursor is left out.
fn logged(seconds: f64, bytes: &[u8]) -> String {
    format!("{seconds:.3} {}", printable(String::from_utf8_lossy(bytes).trim_end_matches('\r')))
}

pub(super) fn printable(text: &str) -> String {
    // Colours are a program's own; what else controls a terminal is not for a log.
    text.chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\u{1b}')).collect()
}

impl Watcher for Plain {
    fn begin(&self, _step: usize, name: &str) {
        self.start(name);
    }

    fn output(&self, step: usize, error: bool, bytes: &[u8]) {
        let number = self.own + step + 1;
        let mut vertices = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(vertex) = vertices.get_mut(number - 1) else { return };
        let seconds = vertex.began.elapsed().as_secs_f64();
        let rest = &mut vertex.rest[usize::from(error)];
        rest.extend_from_slice(bytes);
        let Some(end) = rest.iter().rposition(|b| *b == b'\n') else {
            // A program that never ends a line is not to fill our memory.
            if rest.len() > 64 << 10 {
                let text = logged(seconds, &std::mem::take(rest));
                self.write(&format!("#{number} {text}\n"));
                vertex.log.push(text);
            }
            return;
        };
        let whole: Vec<u8> = rest.drain(..=end).collect();
        let mut shown = String::new();
        for line in whole[..end].split(|b| *b == b'\n') {
            let text = logged(seconds, line);
            let _ = writeln!(shown, "#{number} {text}");
            vertex.log.push(text);
        }
        let old = vertex.log.len().saturating_sub(SHOWN_AGAIN);
        vertex.log.drain(..old);
        self.write(&shown);
    }

    fn status(&self, step: usize, text: &str) {
        self.say(self.own + step + 1, text);
    }

    fn end(&self, step: usize, outcome: Outcome<'_>) {
        self.finish(self.own + step + 1, outcome);
    }
}

/// The lines that a failure is about, among their neighbours, as BuildKit prints them.
pub(super) fn excerpt(name: &str, text: &str, first: usize, last: usize) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let last = last.min(lines.len()).max(first);
    let (mut from, mut to) = (first, last);
    let mut padded = 0;
    while padded < 4 {
        if from > 1 {
            from -= 1;
            padded += 1;
        }
        if to < lines.len() {
            to += 1;
            padded += 1;
        }
        padded += 1;
    }
    let mut shown = format!("{name}:{first}\n--------------------\n");
    for n in from..=to {
        let mark = if (first..=last).contains(&n) { ">>>" } else { "   " };
        let line = printable(lines.get(n - 1).copied().unwrap_or_default().trim_end_matches('\r'));
        let _ = writeln!(shown, " {n:>3} | {mark} {line}");
    }
    shown.push_str("--------------------\n");
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_among_its_neighbours() {
        let text = "FROM a\nRUN b\nRUN c\nRUN d\nRUN e\nRUN f\n";
        assert_eq!(
            excerpt("Dockerfile", text, 3, 3),
            "Dockerfile:3\n--------------------\n   1 |     FROM a\n   2 |     RUN b\n   3 | >>> RUN c\n   \
             4 |     RUN d\n   5 |     RUN e\n--------------------\n"
        );
        assert!(excerpt("D", "FROM a", 1, 1).contains("   1 | >>> FROM a\n"));
    }
}
