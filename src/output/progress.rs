//! A line for each thing that is under way, kept up to date on a terminal, and told once it is over
//! anywhere else.
//!
//! Docker's client does the same with the same few bytes: up so many lines, erase, write, down again. What
//! is printed cannot be taken back from a pipe, so there only ends are told.

use std::io::{IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::human;

/// Between two drawings, so that a terminal is not what a download waits for.
const PAUSE: Duration = Duration::from_millis(100);
/// Width of a bar.
const BAR: usize = 50;

/// Where it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    fn is_terminal(self) -> bool {
        match self {
            Self::Out => std::io::stdout().is_terminal(),
            Self::Err => std::io::stderr().is_terminal(),
        }
    }

    /// Writes as it is. What shows how far things are must not end them: a reader that has gone is no
    /// reason to stop.
    pub fn write(self, text: &str) {
        let _ = match self {
            Self::Out => {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
            Self::Err => std::io::stderr().lock().write_all(text.as_bytes()),
        };
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: String,
    status: String,
    /// Done and whole, in bytes, while there is something to measure.
    bytes: Option<(u64, u64)>,
}

impl Row {
    fn text(&self) -> String {
        match self.bytes {
            None => format!("{}: {}", self.id, self.status),
            Some((done, whole)) => {
                let done = done.min(whole);
                let full =
                    usize::try_from(u128::from(done) * BAR as u128 / u128::from(whole.max(1))).unwrap_or(BAR);
                let head = if full < BAR { ">" } else { "" };
                let (done, whole) = (human::size(done), human::size(whole));
                format!(
                    "{}: {} [{}{head}{}]  {done}/{whole}",
                    self.id,
                    self.status,
                    "=".repeat(full),
                    " ".repeat(BAR - full - head.len()),
                )
            }
        }
    }
}

#[derive(Debug)]
struct State {
    rows: Vec<Row>,
    drawn: usize,
    last: Option<Instant>,
}

/// Lines that change.
#[derive(Debug)]
pub struct Lines {
    stream: Stream,
    live: bool,
    state: Mutex<State>,
}

impl Lines {
    /// Lines on a stream; live if it is a terminal.
    pub fn on(stream: Stream) -> Self {
        Self {
            stream,
            live: stream.is_terminal(),
            state: Mutex::new(State { rows: Vec::new(), drawn: 0, last: None }),
        }
    }

    fn change(&self, now: bool, change: impl FnOnce(&mut Vec<Row>)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state.rows);
        if !self.live || (!now && state.last.is_some_and(|last| last.elapsed() < PAUSE)) {
            return;
        }
        state.last = Some(Instant::now());
        self.stream.write(&draw(&state.rows, state.drawn, width()));
        state.drawn = state.rows.len();
    }

    /// Begins anew below what has been written so far.
    pub fn begin(&self, ids: &[String], status: &str) {
        self.change(true, |rows| {
            *rows =
                ids.iter().map(|id| Row { id: id.clone(), status: status.to_owned(), bytes: None }).collect();
        });
    }

    /// Forgets all lines; what is written next comes below them.
    pub fn end(&self) {
        self.change(true, |_| {});
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rows.clear();
        state.drawn = 0;
    }

    /// Something begins to be measured.
    pub fn measure(&self, id: &str, status: &str, whole: u64) {
        self.change(true, |rows| {
            for row in rows.iter_mut().filter(|row| row.id == id) {
                status.clone_into(&mut row.status);
                row.bytes = Some((0, whole));
            }
        });
    }

    /// So many more bytes.
    pub fn advance(&self, id: &str, bytes: u64) {
        self.change(false, |rows| {
            if let Some((done, _)) =
                rows.iter_mut().find(|row| row.id == id).and_then(|row| row.bytes.as_mut())
            {
                *done += bytes;
            }
        });
    }

    /// Something is under way.
    pub fn set(&self, id: &str, status: &str) {
        self.change(true, |rows| {
            for row in rows.iter_mut().filter(|row| row.id == id) {
                status.clone_into(&mut row.status);
                row.bytes = None;
            }
        });
    }

    /// Something is over.
    pub fn finish(&self, id: &str, status: &str) {
        self.set(id, status);
        if !self.live {
            self.stream.write(&format!("{id}: {status}\n"));
        }
    }
}

/// The bytes that put these lines where `drawn` are now. No line is longer than the terminal, since one that
/// wraps is two.
fn draw(rows: &[Row], drawn: usize, width: usize) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    if drawn > 0 {
        let _ = write!(text, "\x1b[{drawn}A");
    }
    for row in rows {
        let line: String = row.text().chars().take(width).collect();
        let _ = writeln!(text, "\r\x1b[2K{line}");
    }
    text
}

fn width() -> usize {
    nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);
    [1, 2]
        .into_iter()
        .find_map(|fd| {
            // SAFETY: all bytes zero is a valid winsize.
            let mut size: libc::winsize = unsafe { std::mem::zeroed() };
            // SAFETY: the kernel writes one winsize to where we point.
            unsafe { window_size(fd, &raw mut size) }.ok()?;
            (size.ws_col > 0).then_some(usize::from(size.ws_col))
        })
        .unwrap_or(80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(status: &str, bytes: Option<(u64, u64)>) -> Row {
        Row { id: "0123456789ab".to_owned(), status: status.to_owned(), bytes }
    }

    #[test]
    fn a_bar_is_as_long_as_what_is_done() {
        for (bytes, bar, sizes) in [
            ((0, 1000), format!("[>{}]", " ".repeat(49)), "0B/1kB"),
            ((500, 1000), format!("[{}>{}]", "=".repeat(25), " ".repeat(24)), "500B/1kB"),
            ((1000, 1000), format!("[{}]", "=".repeat(50)), "1kB/1kB"),
            ((9000, 1000), format!("[{}]", "=".repeat(50)), "1kB/1kB"),
            ((0, 0), format!("[>{}]", " ".repeat(49)), "0B/0B"),
        ] {
            let text = row("Downloading", Some(bytes)).text();
            assert_eq!(text, format!("0123456789ab: Downloading {bar}  {sizes}"));
        }
    }

    #[test]
    fn lines_are_drawn_over_the_old_ones_and_never_wrap() {
        let rows = [row("Waiting", None), row("Pull complete", None)];
        assert_eq!(
            draw(&rows, 2, 20),
            "\x1b[2A\r\x1b[2K0123456789ab: Waitin\n\r\x1b[2K0123456789ab: Pull c\n"
        );
        assert!(draw(&rows, 0, 80).starts_with("\r\x1b[2K0123456789ab: Waiting\n"));
    }
}
