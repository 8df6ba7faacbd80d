//! `cargo xtask test` and `lint`: what CI runs, with an account at the end.
//!
//! libtest knows passed, failed and ignored; it has no word for "could not run here". Our tests say
//! `skipped: needs X` and return, so libtest reports them as passed; this module reads the output of
//! each test (`--show-output`) and moves those into their own column. Nothing that did not run is ever
//! counted as passed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::{cargo, hung, packages, quiet, shown, vm};

/// The account.
#[derive(Debug, Default)]
struct Account {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
}

impl Account {
    fn step(&mut self, name: &str, run: impl FnOnce() -> Result<(), String>) {
        println!("\n=== {name}");
        let began = Instant::now();
        self.take(name, run());
        took(name, began);
    }

    /// What came out of a step that ran before.
    fn take(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("{error}");
                self.failed.push(name.to_owned());
            }
        }
    }

    fn skip(&mut self, name: &str, needs: impl Into<String>) {
        let needs = needs.into();
        println!("\n=== {name}\nskipped: needs {needs}");
        self.skipped.push((name.to_owned(), needs));
    }

    /// Prints what was skipped and what failed, and the last line: whoever sees only the end sees the faults.
    fn close(self) -> Result<(), String> {
        println!();
        for (name, needs) in &self.skipped {
            println!("skipped  {name}: needs {needs}");
        }
        for name in &self.failed {
            println!("FAILED   {name}");
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len());
        if self.failed.is_empty() { Ok(()) } else { Err(format!("{} failed", self.failed.len())) }
    }
}

/// Where the minutes of a run go.
fn took(what: &str, began: Instant) {
    println!("({what}: {} s)", began.elapsed().as_secs());
}

/// Everything CI runs.
pub fn test(args: &[String]) -> Result<(), String> {
    packages::ensure("test", packages::BUILD)?;
    // Without root the tests that need these packages are skipped anyway; the build must still be checked.
    if let Err(error) = packages::ensure("test", packages::TEST) {
        println!("test: {error}");
    }
    let mut account = Account::default();
    if !args.is_empty() {
        run_tests(&mut account, args);
        return account.close();
    }
    account.step("formatting", formatting);
    account.step("build", || shown(cargo().args(TESTS).arg("--no-run")));
    // The tests leave four fifths of two processors idle: what else there is to compile takes those.
    let aside = std::thread::spawn(|| {
        let began = Instant::now();
        let found = (quiet(&mut idle(&clippy())), quiet(&mut idle(&documentation())), cargo_deny());
        (found, began.elapsed())
    });
    run_tests(&mut account, args);
    match aside.join() {
        Ok(((linted, documented, deny), elapsed)) => {
            println!(
                "\n=== clippy, documentation (with cargo-deny, {} s beside the tests)",
                elapsed.as_secs()
            );
            account.take("clippy", linted.map(drop));
            account.take("documentation", documented.map(drop));
            check_dependencies(&mut account, deny);
        }
        Err(_) => account.failed.push("clippy, documentation, cargo-deny: their thread died".to_owned()),
    }
    run_kernels(&mut account);
    account.close()
}

/// The tests and what they are run with.
const TESTS: &[&str] = &["test", "--workspace", "--locked", "--no-fail-fast", "--color", "never"];

fn formatting() -> Result<(), String> {
    shown(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Command {
    let mut command = cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    command
}

fn documentation() -> Command {
    let mut command = cargo();
    command
        .args(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"])
        // Private items are in these pages, so links to them lead somewhere.
        .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    command
}

/// The same command for the time that nobody else wants, where the system can do that.
fn idle(command: &Command) -> Command {
    let chrt = Path::new("/usr/bin/chrt");
    let mut idle = Command::new(if chrt.exists() { chrt.as_os_str() } else { command.get_program() });
    if chrt.exists() {
        idle.args(["--idle", "0"]).arg(command.get_program());
    }
    idle.args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => idle.env(name, value),
            None => idle.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        idle.current_dir(dir);
    }
    idle
}

/// The checks that run nothing.
pub fn lint(_: &[String]) -> Result<(), String> {
    packages::ensure("lint", packages::BUILD)?;
    let mut account = Account::default();
    account.step("formatting", formatting);
    account.step("clippy", || shown(&mut clippy()));
    check_dependencies(&mut account, cargo_deny());
    account.close()
}

/// cargo-deny: licences, bans and sources always; advisories where their database can be had.
fn check_dependencies(account: &mut Account, deny: Result<PathBuf, String>) {
    let deny = match deny {
        Ok(deny) => deny,
        Err(error) => {
            account.skip("licences, bans, sources", format!("cargo-deny, which did not install: {error}"));
            account.skip("advisories", "cargo-deny");
            return;
        }
    };
    let run = |args: &[&str]| {
        let mut command = Command::new(&deny);
        command.stdin(Stdio::null()).args(args);
        command
    };
    account.step("licences, bans, sources", || {
        shown(&mut run(&["--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))
    });
    match quiet(&mut run(&["--locked", "fetch", "db"])) {
        Ok(_) => account
            .step("advisories", || shown(&mut run(&["--locked", "check", "--disable-fetch", "advisories"]))),
        Err(_) => account.skip("advisories", "the RustSec advisory database, which could not be fetched"),
    }
}

/// Where cargo-deny is; compiled once into target/ when the machine has none.
fn cargo_deny() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = crate::workspace().join("target/tools");
    let known = std::env::split_paths(&path).chain([tools.join("bin")]).map(|dir| dir.join("cargo-deny"));
    if let Some(found) = known.into_iter().find(|file| file.is_file()) {
        return Ok(found);
    }
    println!("cargo-deny is not here: compiling it once into {} (a few minutes)", tools.display());
    let build = tools.join("build");
    // From `/`, so that this workspace's target and linker flags do not apply to somebody else's program.
    // Not optimised: it runs for a second, and two cores compile it in half the time.
    let mut install = idle(cargo().current_dir("/"));
    install
        .args(["install", "cargo-deny", "--version", "^0.20", "--locked", "--debug", "--quiet", "--root"])
        .arg(&tools)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_TARGET_DIR", &build);
    let installed = quiet(&mut install);
    let _ = std::fs::remove_dir_all(&build);
    installed.map(|_| tools.join("bin/cargo-deny"))
}

/// The same tests on other kernels, in virtual machines: see [`vm`].
///
/// After the tests, whose binaries they are, and after all compilers, because the machines need both processors of a
/// small host.
fn run_kernels(account: &mut Account) {
    println!("\n=== kernels");
    let began = Instant::now();
    match vm::matrix() {
        Ok(matrix) => {
            account.passed += matrix.passed;
            account.failed.extend(matrix.failed);
            account.skipped.extend(matrix.skipped);
        }
        Err(error) => account.skip("kernels", format!("qemu-system-x86 and Debian's kernels: {error}")),
    }
    took("kernels", began);
}

/// Tests of one binary that run at once. Most of a test is waiting, for a container's second of work or a timer: two
/// for two processors left four fifths of both idle.
fn together() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// Unit, integration and documentation tests.
fn run_tests(account: &mut Account, filter: &[String]) {
    println!("\n=== tests");
    let began = Instant::now();
    let mut command = cargo();
    command
        .args(TESTS)
        .args(filter)
        .args(["--", "--show-output", &format!("--test-threads={}", together())])
        .env("RUST_BACKTRACE", "1")
        .stdout(Stdio::piped());
    // cargo names the test binaries on stderr and they report on stdout: one pipe keeps the order.
    let (reader, writer) = match std::io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return account.failed.push(format!("cargo test: pipe: {error}")),
    };
    let child = writer.try_clone().and_then(|stderr| command.stdout(writer).stderr(stderr).spawn());
    // The command holds the pipe's other ends, and the reader waits for those to close.
    drop(command);
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return account.failed.push(format!("cargo test: {error}")),
    };
    let mut output = TestOutput::default();
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            if send.send(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    let (mut ended, mut heard) = (0, Instant::now());
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                heard = Instant::now();
                if output.line(&line) {
                    println!("{line}");
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            // Whoever holds the pipe now was started by a test and outlived it.
            Err(mpsc::RecvTimeoutError::Timeout) if matches!(child.try_wait(), Ok(Some(_))) => {
                account.failed.push("cargo test: a process that a test started is left".to_owned());
                break;
            }
            // A compiler may be silent for as long as it likes.
            Err(mpsc::RecvTimeoutError::Timeout) if !output.open || heard.elapsed() < SILENCE => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                println!("\nnothing from {} for {} minutes:", output.binary, SILENCE.as_secs() / 60);
                heard = Instant::now();
                ended += 1;
                account.failed.push(format!("{}: hung", output.binary));
                output.open = false;
                // cargo goes on with the next binary. Where that did not help, somebody else holds the
                // pipe.
                hung::end(child.id(), ended > 1);
                if ended > 2 {
                    break;
                }
            }
        }
    }
    let status = child.wait();
    took("tests", began);
    let (passed, failed, skipped) = output.finish();
    account.passed += passed;
    let silent = failed.is_empty();
    account.failed.extend(failed);
    account.skipped.extend(skipped);
    // A binary that does not compile or dies on the way has no failed test to its name.
    if silent && !status.is_ok_and(|s| s.success()) {
        account.failed.push("cargo test: see above".to_owned());
    }
}

/// A test binary that says nothing for this long hangs: the longest test takes two minutes, and whatever
/// a test starts is killed after three (`tests/common`).
const SILENCE: Duration = Duration::from_secs(8 * 60);
/// How often a silence is looked into.
const LOOK: Duration = Duration::from_secs(10);

/// Reads libtest's report line by line.
#[derive(Debug, Default)]
struct TestOutput {
    /// The test binary that is reporting: `tests/harness.rs`.
    binary: String,
    section: Section,
    /// The test whose captured output is being read.
    test: String,
    skips: BTreeSet<(String, String)>,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
    /// A binary that started to report and did not get to its summary.
    open: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Running,
    /// Output of the tests that passed, and their names.
    Successes,
    /// Output of the tests that failed, and their names.
    Failures,
}

impl TestOutput {
    /// Takes one line; says whether to show it.
    fn line(&mut self, line: &str) -> bool {
        let trimmed = line.trim_start();
        let started = trimmed
            .strip_prefix("Running ")
            .filter(|rest| rest.ends_with(')'))
            .or_else(|| trimmed.strip_prefix("Doc-tests ").filter(|_| line.starts_with("   Doc-tests ")));
        if let Some(name) = started {
            self.close_binary();
            name.split(" (")
                .next()
                .unwrap_or(name)
                .trim_start_matches("unittests ")
                .clone_into(&mut self.binary);
            if let Some(krate) = name.split("/deps/").nth(1).and_then(|f| f.rsplit_once('-')) {
                // `src/lib.rs` says nothing; its crate does.
                if self.binary.starts_with("src/") {
                    self.binary = format!("{} {}", krate.0, self.binary);
                }
            }
            self.section = Section::Running;
            return true;
        }
        if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.open = true;
            return true;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.summary(result);
            return true;
        }
        match line {
            "successes:" => {
                self.section = Section::Successes;
                self.test.clear();
                return false;
            }
            "failures:" => {
                self.section = Section::Failures;
                self.test.clear();
                return true;
            }
            _ => {}
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            name.clone_into(&mut self.test);
        } else if self.section == Section::Successes
            && !self.test.is_empty()
            && let Some(needs) = line.strip_prefix("skipped: needs ")
        {
            self.skips.insert((format!("{} {}", self.binary, self.test), needs.to_owned()));
        } else if self.section == Section::Failures
            && let Some(name) = line.strip_prefix("    ")
            && !name.starts_with(' ')
            && !name.is_empty()
        {
            // Indented lines also occur in the output above the list; the summary's count decides.
            self.failed.push(format!("{} {name}", self.binary));
        }
        if self.section == Section::Running
            && let Some((name, reason)) =
                line.strip_prefix("test ").and_then(|l| l.split_once(" ... ignored"))
        {
            let reason = reason.trim_start_matches([',', ' ']);
            let reason = if reason.is_empty() { "`--ignored`" } else { reason };
            self.skipped.push((format!("{} {name}", self.binary), reason.to_owned()));
        }
        self.section != Section::Successes
    }

    /// `ok. 3 passed; 1 failed; 0 ignored; …`
    fn summary(&mut self, result: &str) {
        let count = |word: &str| {
            result
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(word).and_then(|n| n.trim().parse::<usize>().ok()))
                .unwrap_or(0)
        };
        let skips = std::mem::take(&mut self.skips);
        self.passed += count("passed").saturating_sub(skips.len());
        self.skipped.extend(skips);
        // Keep the last names only: the list of failed tests stands right above the summary.
        let failed = count("failed");
        let before =
            self.failed.iter().take_while(|name| !name.starts_with(&format!("{} ", self.binary))).count();
        let surplus = (self.failed.len() - before).saturating_sub(failed);
        self.failed.drain(before..before + surplus);
        self.open = false;
        self.section = Section::Running;
    }

    fn close_binary(&mut self) {
        if self.open {
            self.failed.push(format!("{}: ended without a report", self.binary));
            self.open = false;
            self.skips.clear();
        }
    }

    fn finish(mut self) -> (usize, Vec<String>, Vec<(String, String)>) {
        self.close_binary();
        (self.passed, self.failed, self.skipped)
    }
}

/// Whether `.ci/run` still calls the command that the README names is a test of its own (tests/readme.rs).
#[cfg(test)]
mod tests {

    use super::*;

    const REPORT: &str = "\
     Running unittests src/lib.rs (target/debug/deps/engine-0123456789abcdef)

running 3 tests
test a ... ok
test b ... ok
test c ... ignored, a day

successes:

---- a stdout ----
skipped: needs root

---- b stdout ----
text
skipped: needs nothing of the sort, this is `b` being skipped

successes:
    a
    b

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/one.rs (target/debug/deps/one-0123456789abcdef)

running 2 tests
test x ... FAILED
test y ... ok

successes:

successes:
    y

failures:

---- x stdout ----

thread 'x' panicked at tests/one.rs:1:1:
    indented words of a failure

failures:
    x

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/two.rs (target/debug/deps/two-0123456789abcdef)

running 1 test
error: test failed, to rerun pass `--test two`
   Doc-tests engine

running 1 test
test src/lib.rs - f (line 3) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn skipped_is_neither_passed_nor_lost() {
        let mut output = TestOutput::default();
        let shown: Vec<_> = REPORT.lines().filter(|line| output.line(line)).collect();
        let (passed, failed, skipped) = output.finish();
        assert_eq!(passed, 2, "y and the documentation test");
        assert_eq!(failed, ["tests/one.rs x", "tests/two.rs: ended without a report"]);
        let skipped: Vec<_> = skipped.iter().map(|(n, r)| (n.as_str(), r.as_str())).collect();
        assert_eq!(skipped.len(), 3);
        assert!(skipped.contains(&("engine src/lib.rs c", "a day")), "{skipped:?}");
        assert!(skipped.contains(&("engine src/lib.rs a", "root")), "{skipped:?}");
        assert!(shown.contains(&"    indented words of a failure"), "failures keep their output");
        assert!(!shown.contains(&"text"), "successes do not");
    }

    #[test]
    fn packages_name_absolute_files() {
        let all = packages::BUILD.iter().chain(packages::DEMO).chain(packages::TEST);
        assert!(all.into_iter().all(|(_, file, _)| Path::new(file).is_absolute()));
    }
}
