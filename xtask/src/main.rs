//! `cargo xtask …`: everything that is typed to show, check or measure Bulkhead.
//!
//! One command per line of [`COMMANDS`]; each brings its own machine up first (see [`packages`]), says
//! what it is doing while it does it, and ends with what came out. Only the standard library is used,
//! so that on a fresh machine the first words appear before anything large is compiled.

mod demo;
mod fuzz;
mod hung;
mod packages;
mod pictures;
mod suite;
mod vm;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Name, what it takes, what it does, and the code.
type Row = (&'static str, &'static str, &'static str, fn(&[String]) -> Result<(), String>);

const COMMANDS: &[Row] = &[
    ("demo", "", "build, make an image with stress-ng, run it under limits, show what they did", demo::run),
    ("test", "[FILTER]", "everything CI runs; ends with `N passed, N failed, N skipped`", suite::test),
    ("lint", "", "formatting, clippy, licences and advisories only", suite::lint),
    ("vm", "[KERNEL...] [--docs]", "the tests on Debian's 6.12 and 6.1 kernels and pure cgroup v2", vm::vm),
    ("fuzz", "TARGET [SECONDS]", "coverage-guided fuzzing: layer, image, events, dns", fuzz::run),
    (
        "pictures",
        "[BINARY]",
        "docs/pictures: the live view and a dashboard, made by running them",
        pictures::run,
    ),
    ("bench", "NAME [ARG...]", "side by side with other engines: start, unpack, …", bench),
    ("install", "[DIR]", "build in release and put bulkhead into DIR, /usr/local/bin unless told", install),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = args.split_first() else {
        eprint!("{}", usage());
        return ExitCode::from(2);
    };
    if matches!(name.as_str(), "-h" | "--help" | "help") {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let Some((_, _, _, command)) = COMMANDS.iter().find(|(known, ..)| known == name) else {
        eprintln!("xtask: no command {name:?}\n{}", usage());
        return ExitCode::from(2);
    };
    if let Err(error) = std::env::set_current_dir(workspace()) {
        eprintln!("xtask {name}: chdir {}: {error}", workspace().display());
        return ExitCode::FAILURE;
    }
    match command(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::io::stdout().flush();
            eprintln!("xtask {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    COMMANDS.iter().fold("usage: cargo xtask COMMAND\n\n".to_owned(), |text, (name, args, what, _)| {
        format!("{text}  {:<22} {what}\n", format!("{name} {args}"))
    })
}

/// The top of the working tree.
fn workspace() -> PathBuf {
    let mut dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    dir.pop();
    dir
}

/// The cargo that runs us.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.stdin(Stdio::null());
    // What cargo says of xtask to xtask is not so of what that builds; build scripts that look at it (ring's)
    // would run again, and everything above them, whenever cargo is called by hand in between.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command with its output on the screen; an error names it.
fn shown(command: &mut Command) -> Result<(), String> {
    let line = format!("{} {}", command.get_program().display(), words(command));
    let status = command.status().map_err(|e| format!("{line}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}")) }
}

/// Runs a command and returns its standard output; an error carries its standard error.
fn quiet(command: &mut Command) -> Result<String, String> {
    let line = format!("{} {}", command.get_program().display(), words(command));
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{line}: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
    }
}

fn words(command: &Command) -> String {
    command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// `cargo xtask install`: what a linker wrote lies in the page cache in single pages, and what is written in
/// large pieces in huge ones, from which a program starts faster (docs/performance.md).
fn install(args: &[String]) -> Result<(), String> {
    let dir = match args {
        [] => "/usr/local/bin",
        [dir] => dir,
        _ => return Err("takes one directory at most".to_owned()),
    };
    packages::ensure("install", packages::BUILD)?;
    shown(cargo().args(["build", "--release", "--locked", "-p", "bulkhead"]))?;
    let (built, to) = (demo::binary()?, PathBuf::from(dir).join("bulkhead"));
    let partial = to.with_extension(format!("partial-{}", std::process::id()));
    let placed = copy_in_one_piece(&built, &partial).and_then(|()| std::fs::rename(&partial, &to));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&partial);
        return Err(format!("install {}: {error}", to.display()));
    }
    println!("{}", to.display());
    Ok(())
}

/// In one write: `fs::copy` lets the kernel copy, which does so in small pieces.
fn copy_in_one_piece(from: &Path, to: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(to, std::fs::read(from)?)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755))
}

/// `cargo xtask bench NAME`: builds both in release and runs the comparison.
fn bench(args: &[String]) -> Result<(), String> {
    packages::ensure("bench", packages::BUILD)?;
    shown(cargo().args(["build", "--release", "-p", "bulkhead", "-p", "bulkhead-bench"]))?;
    shown(cargo().args(["run", "--release", "--quiet", "-p", "bulkhead-bench", "--"]).args(args))
}
