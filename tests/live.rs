//! The live view, typed at: keys and clicks go into a pseudo-terminal, and what is on its screen is read
//! back through a small terminal emulator. What a key is said to do is then looked for in the container.

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use common::{Host, eventually};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a terminal would show, as far as the view uses one: it places its text and clears.
#[derive(Default)]
struct Screen {
    lines: Vec<Vec<char>>,
    at: (usize, usize),
    /// A sequence that has begun.
    sequence: Option<String>,
    /// Bytes of a character that has begun.
    partial: Vec<u8>,
    colors: usize,
    /// Private modes that are on.
    modes: std::collections::BTreeSet<String>,
}

impl Screen {
    fn feed(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.partial);
        let whole = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
        self.partial = bytes[whole..].to_vec();
        text.chars().for_each(|c| self.put(c));
    }

    fn put(&mut self, c: char) {
        if let Some(sequence) = &mut self.sequence {
            sequence.push(c);
            // A control sequence ends with a letter; anything else that is escaped is one character.
            let csi = sequence.starts_with('[');
            if !csi || (sequence.len() > 1 && ('@'..='~').contains(&c)) {
                let sequence = self.sequence.take().unwrap_or_default();
                self.obey(&sequence);
            }
            return;
        }
        match c {
            '\x1b' => self.sequence = Some(String::new()),
            '\r' => self.at.1 = 0,
            '\n' => self.at.0 += 1,
            c if c.is_control() => {}
            c => {
                let (row, column) = self.at;
                if self.lines.len() <= row {
                    self.lines.resize(row + 1, Vec::new());
                }
                let line = &mut self.lines[row];
                if line.len() <= column {
                    line.resize(column + 1, ' ');
                }
                line[column] = c;
                self.at.1 += 1;
            }
        }
    }

    fn obey(&mut self, sequence: &str) {
        let Some(body) = sequence.strip_prefix('[') else { return };
        let (arguments, verb) = body.split_at(body.len() - 1);
        let number = |at: usize| {
            arguments.split(';').nth(at).and_then(|text| text.parse::<usize>().ok()).unwrap_or(1).max(1)
        };
        match verb {
            "H" | "f" => self.at = (number(0) - 1, number(1) - 1),
            "J" => self.lines.clear(),
            "K" => {
                if let Some(line) = self.lines.get_mut(self.at.0) {
                    line.truncate(self.at.1);
                }
            }
            "m" => {
                // 39 and 49 are "no colour"; the rest of 30 to 49 and of 90 to 107 are colours.
                let colored = |n: u32| matches!(n, 30..=38 | 40..=48 | 90..=107);
                self.colors +=
                    arguments.split(';').filter_map(|text| text.parse().ok()).filter(|n| colored(*n)).count();
            }
            "h" => drop(self.modes.insert(arguments.to_owned())),
            "l" => drop(self.modes.remove(arguments)),
            _ => {}
        }
    }

    fn text(&self) -> String {
        self.lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
    }
}

/// A view on a terminal.
struct View {
    child: Child,
    master: Option<File>,
    screen: Arc<Mutex<Screen>>,
    reader: Option<std::thread::JoinHandle<()>>,
    unplugged: Arc<AtomicBool>,
}

impl View {
    fn start(host: &Host, width: u16, height: u16, color: bool) -> Self {
        Self::start_as(host, width, height, color, true)
    }

    /// `leader`: as a shell starts it, with the terminal as its own, so that a resize or a hangup is a
    /// signal; else as under `setsid`.
    fn start_as(host: &Host, width: u16, height: u16, color: bool, leader: bool) -> Self {
        // Closed on exec from its first moment: whoever inherited it would keep the terminal alive.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = nix::pty::posix_openpt(flags).expect("posix_openpt");
        nix::pty::grantpt(&master).expect("grantpt");
        nix::pty::unlockpt(&master).expect("unlockpt");
        let name = nix::pty::ptsname_r(&master).expect("ptsname");
        let slave =
            File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).expect("pty");
        let master = File::from(OwnedFd::from(master));
        set_size(&master, width, height);
        let mut command = host.command(&["top"]);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        if !color {
            command.env("NO_COLOR", "1");
        }
        let end = || Stdio::from(slave.try_clone().expect("dup"));
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: setsid and ioctl are async-signal-safe, and nothing else is done between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                if leader && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("top");
        drop((command, slave));
        let mut reader = master.try_clone().expect("dup");
        let screen = Arc::new(Mutex::new(Screen::default()));
        let shown = screen.clone();
        let unplugged = Arc::new(AtomicBool::new(false));
        let over = unplugged.clone();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !over.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(50_u8)).is_ok_and(|ready| ready > 0) {
                    // EIO is how a pseudo-terminal says that nobody is at its other end.
                    let Ok(count @ 1..) = reader.read(&mut bytes) else { return };
                    shown.lock().unwrap_or_else(PoisonError::into_inner).feed(&bytes[..count]);
                }
            }
        });
        Self { child, master: Some(master), screen, reader: Some(reader), unplugged }
    }

    fn type_in(&mut self, keys: &str) {
        self.master.as_mut().expect("a terminal").write_all(keys.as_bytes()).expect("write");
    }

    fn click(&mut self, column: usize, row: usize) {
        // Both count from one here.
        self.type_in(&format!("\x1b[<0;{0};{1}M\x1b[<0;{0};{1}m", column + 1, row + 1));
    }

    fn resize(&self, width: u16, height: u16) {
        set_size(self.master.as_ref().expect("a terminal"), width, height);
    }

    /// Takes the terminal away.
    fn hang_up(&mut self) {
        self.unplugged.store(true, Ordering::Relaxed);
        self.reader.take().expect("a reader").join().expect("reader");
        self.master = None;
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    fn colors(&self) -> usize {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).colors
    }

    #[track_caller]
    fn shows(&self, what: &str) {
        self.until(what, |text| text.contains(what));
    }

    #[track_caller]
    fn until(&self, what: &str, mut is: impl FnMut(&str) -> bool) {
        for _ in 0..3000 {
            if is(&self.text()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("never on the screen: {what}\n{}", self.text());
    }

    /// The first words of the table's rows.
    fn rows(text: &str) -> Vec<&str> {
        let rows = text.lines().skip(3).filter(|line| line.contains("running") || line.contains("exited"));
        rows.filter_map(|line| line.split_whitespace().next()).collect()
    }

    #[track_caller]
    fn order(&self, wanted: &[&str]) {
        self.until(&format!("rows {wanted:?}"), |text| Self::rows(text) == wanted);
    }

    /// Ends by key, and looks at how the terminal was left.
    fn quit(mut self) {
        self.type_in("q");
        assert_eq!(common::wait(&mut self.child, "top").code(), Some(0));
        let screen = self.screen.clone();
        eventually("the terminal as it was", || {
            let screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
            ["?1049", "?1000", "?1006"].iter().all(|mode| !screen.modes.contains(*mode))
        });
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(master: &File, width: u16, height: u16) {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a winsize that outlives the call.
    assert_eq!(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
}

/// The last word of the head that has an arrow.
fn sorted_by(text: &str) -> Option<String> {
    let head = text.lines().nth(2)?;
    let before = &head[..head.find(['▼', '▲'])?];
    before.split_whitespace().last().map(str::to_owned)
}

const SPIN: &str = "while :; do :; done";

fn start(host: &Host, name: &str, options: &[&str], script: &str) {
    let mut line = vec!["run", "-d", "--name", name];
    line.extend(options);
    line.extend(["busybox", "sh", "-c", script]);
    host.bulkhead(&line).ok();
}

#[test]
fn the_table_is_sorted_filtered_clicked_at_and_resized() {
    let host = host!();
    host.busybox();
    start(&host, "calm", &["--pids-limit", "50"], "sleep 1000");
    start(&host, "wild", &["--cpus", "0.2"], SPIN);
    start(&host, "many", &[], "for i in 1 2 3 4 5; do sleep 1000 & done; wait");
    host.bulkhead(&["run", "--name", "over", "busybox", "true"]).ok();
    let mut view = View::start(&host, 80, 24, true);
    view.until("the busy one first", |text| View::rows(text).first() == Some(&"wild"));
    view.shows("3 running, 1 not");
    view.shows("CPU%▼");
    // A click on a head sorts by it, another one turns it round.
    view.click(1, 2);
    view.shows("NAME▼");
    view.order(&["calm", "many", "wild"]);
    view.click(1, 2);
    view.shows("NAME▲");
    view.order(&["wild", "many", "calm"]);
    // By key through every column, those that 80 cells have no room for as well, and back to the first.
    let mut seen = Vec::new();
    for _ in 0..14 {
        let before = sorted_by(&view.text());
        view.type_in(">");
        view.until("the next column", |text| sorted_by(text).is_some_and(|new| Some(new) != before));
        seen.extend(sorted_by(&view.text()));
    }
    assert_eq!(seen.last().map(String::as_str), Some("NAME"), "{seen:?}");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 14, "{seen:?}");
    // All, a filter, and back.
    view.type_in("a");
    view.until("four rows", |text| View::rows(text).len() == 4);
    view.type_in("a/LM\r");
    view.shows("filter: LM");
    view.order(&["calm"]);
    view.type_in("\x1b");
    view.until("no filter", |text| !text.contains("filter:") && View::rows(text).len() == 3);
    // Help lies over the table until any key.
    view.type_in("?");
    view.shows("filter by name, image or id");
    view.type_in("x");
    view.until("no help", |text| !text.contains("filter by name, image or id"));
    // Sizes.
    view.resize(200, 60);
    view.until("a wide table", |text| text.lines().nth(2).is_some_and(|head| head.contains("IMAGE")));
    view.until("the last line", |text| text.lines().nth(59).is_some_and(|foot| foot.contains("help")));
    view.resize(80, 24);
    view.until("a narrow table", |text| {
        let lines: Vec<&str> = text.lines().collect();
        lines.len() <= 24 && lines.iter().all(|line| line.chars().count() <= 80)
    });
    // A click selects, another one opens; the heads of the parts can be clicked at, too.
    view.type_in("/calm\r");
    view.order(&["calm"]);
    view.click(2, 3);
    view.shows("1 Overview");
    view.shows("of 50");
    view.click(18, 3);
    view.shows("COMMAND");
    view.quit();
}

#[test]
fn one_container_is_looked_into_and_acted_on() {
    let host = host!();
    host.busybox();
    let limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "30"];
    start(&host, "one", &limits, "nc -l -p 7777 & while :; do sleep 0.3; done");
    let mut view = View::start(&host, 100, 30, true);
    view.order(&["one"]);
    view.type_in("\r");
    for part in ["1 Overview", "of 0.50 CPUs", "of 64MiB", "of 30", "psi cpu", "throttled", "OOM kills"] {
        view.shows(part);
    }
    view.type_in("2");
    view.shows("nc -l -p 7777");
    view.type_in("3");
    view.shows("LISTEN");
    view.shows(":7777");
    view.type_in("4");
    view.until("executions, or why there are none", |text| {
        text.contains("nothing is traced here")
            || text.lines().any(|l| l.contains("exec") && l.contains("sleep 0.3"))
    });
    // No is no.
    view.type_in("p");
    view.shows("Pause one?");
    view.type_in("n");
    view.shows("nothing done");
    assert_eq!(host.inspect("one", "{{.State.Status}}"), "running");
    view.type_in("py");
    host.wait_for("one", "{{.State.Status}}", "paused");
    view.until("the state", |text| text.lines().nth(2).is_some_and(|line| line.contains("paused")));
    view.type_in("p");
    view.shows("Unpause one?");
    view.type_in("y");
    host.wait_for("one", "{{.State.Status}}", "running");
    view.type_in("lmemory=32m pids-limit=40\r");
    view.shows("Change the limits of one to memory=32m pids-limit=40?");
    view.type_in("y");
    host.wait_for("one", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}", "33554432 40");
    view.type_in("1");
    view.shows("of 32MiB");
    // What is refused is told.
    view.type_in("lmemory=plenty\ry");
    view.shows("update: ");
    view.shows("plenty");
    view.type_in("k");
    view.shows("Kill one?");
    view.type_in("y");
    host.wait_for("one", "{{.State.Status}} {{.State.ExitCode}}", "exited 137");
    view.shows("exit code 137");
    view.type_in("s");
    view.shows("one does not run");
    view.type_in("\x1b");
    view.shows("no container runs");
    host.bulkhead(&["start", "one"]).ok();
    view.order(&["one"]);
    view.type_in("s");
    view.shows("Stop one?");
    view.type_in("y");
    host.wait_for("one", "{{.State.Status}}", "exited");
    view.quit();
}

#[test]
fn kills_for_memory_are_told_while_they_happen() {
    let host = host!();
    host.busybox();
    start(
        &host,
        "hog",
        &["-m", "16m", "--memory-swap", "16m"],
        "while :; do sh -c 'x=a; while :; do x=$x$x; done'; sleep 0.5; done",
    );
    let mut view = View::start(&host, 132, 30, true);
    view.order(&["hog"]);
    view.type_in("\r4");
    view.until("a kill, or why there is none", |text| {
        text.contains("nothing is traced here")
            || text.lines().any(|l| l.contains("oom kill") && l.contains("sh"))
    });
    view.type_in("1");
    // The kernel's own count needs no tracing.
    view.until("a count of kills", |text| {
        text.lines()
            .filter_map(|line| line.split_once("OOM kills ")?.1.split_once(','))
            .any(|(count, _)| count.parse::<u64>().map_or(count == "not told here", |count| count > 0))
    });
    view.quit();
}

#[test]
fn no_color_means_none() {
    let host = host!();
    host.busybox();
    start(&host, "one", &["-m", "64m"], SPIN);
    for color in [true, false] {
        let mut view = View::start(&host, 120, 30, color);
        view.order(&["one"]);
        view.type_in("?");
        view.shows("Keys");
        view.type_in("x\r1");
        view.shows("psi cpu");
        assert_eq!(view.colors() > 0, color, "{}", view.colors());
        view.quit();
    }
}

#[test]
fn a_terminal_that_goes_away_ends_the_view() {
    let host = host!();
    host.busybox();
    start(&host, "one", &[], "sleep 1000");
    for leader in [true, false] {
        let mut view = View::start_as(&host, 80, 24, true, leader);
        view.order(&["one"]);
        view.hang_up();
        common::wait(&mut view.child, "top without its terminal");
    }
}

#[test]
fn without_a_terminal_it_says_so() {
    let host = host!();
    host.bulkhead(&["top"]).code(1).complains("needs a terminal");
}

/// Each line of the help, typed; and what else a hand does: arrows, the wheel, a word taken back.
#[test]
fn every_key_of_the_help_does_what_it_says() {
    let [up, down, right, left] = ["\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"];
    let [home, end, page_up, page_down] = ["\x1b[H", "\x1b[F", "\x1b[5~", "\x1b[6~"];
    let [back_tab, backspace] = ["\x1b[Z", "\x7f"];
    let host = host!();
    host.busybox();
    for name in ["anna", "bert", "carl"] {
        start(&host, name, &[], "sleep 1000");
    }
    let mut view = View::start(&host, 100, 30, true);
    view.until("three rows", |text| View::rows(text).len() == 3);
    view.click(1, 2);
    view.order(&["anna", "bert", "carl"]);
    // Who is under the cursor is who would be paused.
    let at = |view: &mut View, name: &str| {
        view.type_in("p");
        view.shows(&format!("Pause {name}?"));
        view.type_in("n");
        view.until("no question", |text| !text.contains("Sure?"));
    };
    view.type_in(home);
    at(&mut view, "anna");
    for (keys, name) in [
        (down, "bert"),
        (down, "carl"),
        (down, "carl"),
        (up, "bert"),
        (home, "anna"),
        (end, "carl"),
        (page_up, "anna"),
        (page_down, "carl"),
        // The wheel.
        ("\x1b[<64;3;5M", "bert"),
        ("\x1b[<65;3;5M", "carl"),
    ] {
        view.type_in(keys);
        at(&mut view, name);
    }
    view.type_in("r");
    view.shows("NAME▲");
    view.order(&["carl", "bert", "anna"]);
    view.type_in("r");
    view.order(&["anna", "bert", "carl"]);
    for (there, back) in [(">", "<"), (".", ","), (right, left)] {
        view.type_in(there);
        view.until("another column", |text| sorted_by(text).is_some_and(|column| column != "NAME"));
        view.type_in(back);
        view.until("the column of names", |text| sorted_by(text).is_some_and(|column| column == "NAME"));
    }
    view.type_in("h");
    view.shows("filter by name, image or id");
    view.type_in("x/carx");
    view.shows("carx_");
    view.type_in(backspace);
    view.type_in("\r");
    view.shows("filter: car");
    view.order(&["carl"]);
    view.type_in("\x1b");
    view.until("three again", |text| View::rows(text).len() == 3);
    view.type_in(home);
    at(&mut view, "anna");
    // One container, and its parts.
    view.type_in("\r");
    view.shows("psi cpu");
    view.type_in("\t");
    view.shows("COMMAND");
    view.type_in(back_tab);
    view.shows("psi cpu");
    view.type_in(right);
    view.shows("COMMAND");
    view.type_in(left);
    view.shows("psi cpu");
    view.type_in(backspace);
    view.order(&["anna", "bert", "carl"]);
    // A capital yes is one; what was typed can be taken back, and be given up.
    view.type_in("pY");
    host.wait_for("anna", "{{.State.Status}}", "paused");
    view.until("it is shown", |text| text.lines().any(|l| l.starts_with("anna") && l.contains("paused")));
    view.type_in("p");
    view.shows("Unpause anna?");
    view.type_in("y");
    host.wait_for("anna", "{{.State.Status}}", "running");
    view.type_in("lpids-limit=99");
    view.shows("pids-limit=99_");
    view.type_in(backspace);
    view.type_in("0\r");
    view.shows("Change the limits of anna to pids-limit=90?");
    view.type_in("n");
    view.shows("nothing done");
    view.type_in("lpids-limit=77");
    view.shows("pids-limit=77_");
    view.type_in("\x1b");
    view.until("given up", |text| !text.contains("pids-limit=77"));
    assert_ne!(host.inspect("anna", "{{.HostConfig.PidsLimit}}"), "77");
    view.type_in("\x03");
    assert_eq!(common::wait(&mut view.child, "top").code(), Some(0));
}
