//! Runs and times commands inside another mount namespace.
//!
//! Some peers need the host rearranged (crun and podman refuse a hybrid cgroup host whose v2 hierarchy
//! shows a controller). Rearranging it around each command would put an `unshare` and a shell into the
//! figure, so each peer gets one long-lived worker in a world of its own; the worker starts the command,
//! waits and answers with nanoseconds. Bulkhead is timed by the same worker, in the host's own world.
//!
//! The protocol is one line each way: words separated by U+001F; `NANOS` or `! reason`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::peers::Dir;

const SEPARATOR: char = '\u{1f}';

/// The worker's side.
pub fn serve() -> Result<(), String> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| format!("read: {e}"))?;
        let answer = match time(&line) {
            Ok(took) => took.as_nanos().to_string(),
            Err(error) => format!("! {}", error.replace('\n', " / ")),
        };
        println!("{answer}");
    }
    Ok(())
}

fn time(line: &str) -> Result<Duration, String> {
    let mut words = line.split(SEPARATOR);
    let program = words.next().unwrap_or_default();
    let log = std::env::temp_dir().join(format!("bulkhead-bench-{}.log", std::process::id()));
    let out = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let err = out.try_clone().map_err(|e| format!("dup: {e}"))?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(out).stderr(err);
    let start = Instant::now();
    let status = command.status().map_err(|e| format!("{program}: {e}"))?;
    let took = start.elapsed();
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    if status.success() {
        Ok(took)
    } else {
        let tail: Vec<_> = said.trim().lines().rev().take(3).collect();
        Err(format!("{status}: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" / ")))
    }
}

/// Our side: one worker.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Directories that its commands use.
    dirs: Vec<Dir>,
}

impl Worker {
    /// A worker in a world prepared by `setup`, a shell script run in a mount namespace of its own; an
    /// empty script means the host's own world.
    pub fn new(setup: &str, env: &[(&str, PathBuf)]) -> Result<Self, String> {
        let exe = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
        let mut command = if setup.is_empty() {
            Command::new(exe)
        } else {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-ec", &format!("{setup}\nexec \"$@\""), "sh"]).arg(exe);
            command
        };
        command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(env.iter().map(|(k, v)| (*k, v)));
        let mut child = command.spawn().map_err(|e| format!("worker: {e}"))?;
        let input = child.stdin.take().ok_or("worker: no stdin")?;
        let output = BufReader::new(child.stdout.take().ok_or("worker: no stdout")?);
        Ok(Self { child, input, output, dirs: Vec::new() })
    }

    /// Removes a directory when the worker ends.
    pub fn keep(&mut self, dir: Dir) {
        self.dirs.push(dir);
    }

    /// Runs a command to its end and says how long it took.
    pub fn run<S: AsRef<str>>(&mut self, words: &[S]) -> Result<Duration, String> {
        let line = words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(&SEPARATOR.to_string());
        writeln!(self.input, "{line}").map_err(|e| format!("worker: {e}"))?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).map_err(|e| format!("worker: {e}"))?;
        match answer.trim().strip_prefix("! ") {
            Some(error) => Err(error.to_owned()),
            None => {
                answer.trim().parse().map(Duration::from_nanos).map_err(|_| "worker: it ended".to_owned())
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has nothing running between two commands.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
