//! The README is typed in by this test, so that it cannot promise what does not work.
//!
//! Lines that start with `$ ` in its `console` blocks run in order in one private host, and what follows
//! each is compared with what was printed, up to what differs from run to run: ids, numbers, spacing; a
//! line `...` stands for any lines. `cargo xtask` commands are this suite itself, so they are not run from
//! inside it: that xtask has them, and that CI runs the one that the README names, is checked instead.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

/// A command and what the page shows below it.
struct Step {
    line: usize,
    command: String,
    shows: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        match (inside, line) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => {
                    steps.push(Step { line: number + 1, command: command.to_owned(), shows: Vec::new() });
                }
                (None, Some(step)) => step.shows.push(line.to_owned()),
                (None, None) => panic!("README.md:{}: output before any command", number + 1),
            },
            _ => {}
        }
    }
    steps
}

/// What a line says apart from ids, numbers and spacing.
fn stable(line: &str) -> String {
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        let mut out = String::new();
        let hex = word.trim_start_matches("sha256:");
        if hex.len() >= 12 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            out.push_str("<id>");
        } else {
            for c in word.chars() {
                match c {
                    '0'..='9' | '.' if out.ends_with('#') => {}
                    '0'..='9' => out.push('#'),
                    c => out.push(c),
                }
            }
        }
        words.push(out);
    }
    words.join(" ")
}

/// Whether `printed` is what the page `shows`.
fn agree(shows: &[String], printed: &[String]) -> bool {
    match shows.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first.trim() == "..." => {
            (0..=printed.len()).any(|skipped| agree(rest, &printed[skipped..]))
        }
        Some((first, rest)) => printed
            .split_first()
            .is_some_and(|(line, left)| stable(first) == stable(line) && agree(rest, left)),
    }
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_command_in_the_readme_works() {
    let host = host!();
    let page = fs::read_to_string(top().join("README.md")).expect("README.md");
    let xtask = fs::read_to_string(top().join("xtask/src/main.rs")).expect("xtask/src/main.rs");
    // A `bulkhead` on the path that carries this host's roots.
    let globals: Vec<_> = host
        .command::<&str>(&[])
        .get_args()
        .map(|word| format!("'{}'", word.to_str().expect("UTF-8").replace('\'', r"'\''")))
        .collect();
    let shim = host.file(
        "bin/bulkhead",
        format!("#!/bin/sh\nexec '{}' {} \"$@\"\n", common::BULKHEAD, globals.join(" ")),
    );
    fs::set_permissions(&shim, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let work = host.dir().join("work");
    fs::create_dir(&work).expect("mkdir");
    let path = format!("{}:{}", shim.parent().expect("bin").display(), std::env::var("PATH").expect("PATH"));

    let steps = steps(&page);
    assert!(steps.len() >= 3, "the page has lost its commands");
    for Step { line, command, shows } in steps {
        if let Some(name) = command.strip_prefix("cargo xtask ") {
            let name = name.split(' ').next().expect("a word");
            assert!(xtask.contains(&format!("(\"{name}\",")), "README.md:{line}: xtask has no {name}");
            continue;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(&work).env("PATH", &path);
        let output = common::run(shell, b"").ok();
        let printed: Vec<_> =
            format!("{}{}", output.out(), output.err()).lines().map(str::to_owned).collect();
        assert!(
            agree(&shows, &printed),
            "README.md:{line}: the page shows\n  {}\n{output}",
            shows.join("\n  ")
        );
    }
}

#[test]
fn ci_runs_what_the_readme_names() {
    let page = fs::read_to_string(top().join("README.md")).expect("README.md");
    let ci = fs::read_to_string(top().join(".ci/run")).expect(".ci/run");
    assert!(page.contains("$ cargo xtask test\n"));
    assert!(ci.lines().any(|line| line.trim_start_matches("exec ") == "cargo xtask test"), "{ci}");
}

/// `docs/features.md` says of 199 behaviours what proves them; what it names is there.
#[test]
fn every_proof_of_the_features_exists() {
    let page = fs::read_to_string(top().join("docs/features.md")).expect("docs/features.md");
    let mut rows = 0;
    for line in page.lines() {
        let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let Some(number) = cells.first().and_then(|cell| cell.parse::<u32>().ok()) else { continue };
        rows += 1;
        assert_eq!((number, cells.len()), (rows, 4), "{line}");
        let says = |word: &str| cells[2] == word || cells[2].starts_with(&format!("{word}:"));
        let yes = says("yes") || cells[2].starts_with("yes;");
        assert!(yes || says("partly") || says("no") || cells[2] == "does not apply", "{line}");
        let Some((file, test)) = cells[3].trim_matches('`').split_once("::") else {
            assert!(cells[3] == "*not tested*" || (cells[3].is_empty() && !yes), "{line}");
            continue;
        };
        let path = if file.contains('/') { top().join(file) } else { top().join(format!("tests/{file}.rs")) };
        let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found = source.split("#[test]").skip(1).any(|rest| rest.contains(&format!("fn {test}()")));
        assert!(found, "{} has no test {test}", path.display());
    }
    assert_eq!(rows, 199);
}

#[test]
fn comparison_is_loose_where_it_should_be_and_nowhere_else() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (page, printed, same) in [
        ("f00dfeedbeef  busybox", "0123456789abcdef busybox", true),
        ("2.5MB", "13.07MB", true),
        ("Up 3 seconds", "Up 12 seconds", true),
        ("a\n...\nz", "a\nb\nc\nz", true),
        ("a\n...", "a", true),
        ("a", "b", false),
        ("a", "a\nb", false),
        ("a\nb", "a", false),
        ("OOMKilled true", "OOMKilled false", false),
        ("a\n...\nz", "a\nb", false),
    ] {
        assert_eq!(agree(&lines(page), &lines(printed)), same, "{page:?} {printed:?}");
    }
}
