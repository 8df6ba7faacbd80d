//! The command line's grammar, as typed: spellings, flags, refusals and exit codes. What is expected here
//! was seen with Docker's own client.

mod common;

use std::io::Read as _;
use std::process::{Command, Stdio};

use common::{BULKHEAD, Output};

/// Runs the binary without any store.
fn bulkhead(args: &[&str]) -> (i32, String, String) {
    let out = Command::new(BULKHEAD)
        .args(args)
        .env("BULKHEAD_ROOT", "/proc/nowhere")
        .env("BULKHEAD_RUN_ROOT", "/proc/nowhere")
        .stdin(Stdio::null())
        .output()
        .expect("bulkhead runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (out.status.code().expect("an exit code"), text(out.stdout), text(out.stderr))
}

#[test]
fn refusals_have_dockers_words_and_codes() {
    for (args, code, wanted) in [
        (
            &["foo"][..],
            1,
            "bulkhead: unknown command: bulkhead foo\n\nRun 'bulkhead --help' for more information\n",
        ),
        (
            &["image", "foo"],
            1,
            "bulkhead: unknown command: bulkhead image foo\n\nUsage:  bulkhead image\n\nRun 'bulkhead image --help' for more information\n",
        ),
        (
            &["--foo"],
            125,
            "unknown flag: --foo\n\nUsage:  bulkhead [OPTIONS] COMMAND\n\nRun 'bulkhead --help' for more information\n",
        ),
        (&["-x"], 125, "unknown shorthand flag: 'x' in -x\n\nUsage:  bulkhead [OPTIONS] COMMAND\n"),
        (
            &["run", "--foo", "x"],
            125,
            "unknown flag: --foo\n\nUsage:  bulkhead run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nRun 'bulkhead run --help' for more information\n",
        ),
        (
            &["container", "run", "-x", "y"],
            125,
            "unknown shorthand flag: 'x' in -x\n\nUsage:  bulkhead container run [OPTIONS]",
        ),
        (
            &["run"],
            1,
            "bulkhead: 'bulkhead run' requires at least 1 argument\n\nUsage:  bulkhead run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nSee 'bulkhead run --help' for more information\n",
        ),
        (
            &["ps", "foo"],
            1,
            "bulkhead: 'bulkhead ps' accepts no arguments\n\nUsage:  bulkhead ps [OPTIONS]\n\nRun 'bulkhead ps --help' for more information\n",
        ),
        (&["rm"], 1, "bulkhead: 'bulkhead rm' requires at least 1 argument\n"),
        (&["tag", "a"], 1, "bulkhead: 'bulkhead tag' requires 2 arguments\n"),
        (&["logs", "a", "b"], 1, "bulkhead: 'bulkhead logs' requires 1 argument\n"),
        (&["exec", "a"], 1, "bulkhead: 'bulkhead exec' requires at least 2 arguments\n"),
        (
            &["ps", "--filter", "foo"],
            125,
            "invalid argument \"foo\" for \"-f, --filter\" flag: bad format of filter (expected name=value)\n",
        ),
        (
            &["run", "-m", "abc", "x"],
            125,
            "invalid argument \"abc\" for \"-m, --memory\" flag: invalid size: 'abc'\n",
        ),
        (
            &["run", "--cpus", "abc", "x"],
            125,
            "invalid argument \"abc\" for \"--cpus\" flag: failed to parse abc as a rational number\n",
        ),
        (
            &["run", "--ulimit", "foo", "x"],
            125,
            "invalid argument \"foo\" for \"--ulimit\" flag: invalid ulimit argument: foo\n",
        ),
        (&["run", "--name"], 125, "flag needs an argument: --name\n"),
        (
            &["run", "-t=foo", "x"],
            125,
            "invalid argument \"foo\" for \"-t, --tty\" flag: strconv.ParseBool: parsing \"foo\": invalid syntax\n",
        ),
        (
            &["update", "--blkio-weight", "70000", "x"],
            125,
            "invalid argument \"70000\" for \"--blkio-weight\" flag: strconv.ParseUint: parsing \"70000\": value out of range\n",
        ),
        (
            &["serve", "--tls-cert", "c.pem"],
            1,
            "required flag(s) \"tls-key\" not set\n\nUsage:  bulkhead serve",
        ),
        (&["events", "--format", "{{.Foo"], 64, "Error parsing format: template: :1: unclosed action\n"),
        (&["help", "foo"], 1, "unknown help topic: foo\n"),
        (&["volume"], 0, "Usage:  bulkhead volume COMMAND\n\nManage volumes\n"),
        (&["completion", "tcsh"], 1, "unknown shell \"tcsh\""),
    ] {
        let (got, out, err) = bulkhead(args);
        assert!(err.starts_with(wanted), "{args:?}: wanted {wanted:?}, got {err:?}");
        assert_eq!((got, out.as_str()), (code, ""), "{args:?}");
    }
}

#[test]
fn help_says_how_and_under_which_names() {
    let (code, out, err) = bulkhead(&["ps", "--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for wanted in [
        "Usage:  bulkhead ps [OPTIONS]\n\nList containers\n",
        "Aliases:\n  bulkhead container ls, bulkhead container list, bulkhead container ps, bulkhead ps\n",
        "  -a, --all",
        "  -q, --quiet",
    ] {
        assert!(out.contains(wanted), "{wanted:?} in {out}");
    }
    assert_eq!(bulkhead(&["help", "ps"]).1, out);
    assert_eq!(bulkhead(&["ps", "-h"]).1, out);
    let (code, out, _) = bulkhead(&["image", "-h"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("Usage:  bulkhead image COMMAND\n\nManage images\n"), "{out}");
    for verb in ["history", "import", "inspect", "load", "ls", "prune", "rm", "save", "tag"] {
        assert!(out.contains(&format!("\n  {verb} ")), "{verb} in {out}");
    }
    let (code, out, _) = bulkhead(&["--help"]);
    assert_eq!(code, 0);
    assert!(out.contains("--cgroup-parent") && out.contains("\n  run ") && !out.contains("monitor"), "{out}");
    assert_eq!(bulkhead(&[]).0, 0);
    // `-h` of run is the host name.
    let (code, _, err) = bulkhead(&["run", "-h"]);
    assert_eq!((code, err.lines().next()), (125, Some("flag needs an argument: --hostname")));
}

#[test]
fn the_version_is_told_in_every_way() {
    let (code, out, _) = bulkhead(&["--version"]);
    assert_eq!(code, 0);
    assert!(out.starts_with(&format!("bulkhead version {}, build ", env!("CARGO_PKG_VERSION"))), "{out}");
    assert_eq!(bulkhead(&["-v"]).1, out);
    let (_, out, _) = bulkhead(&["version", "--format", "{{.Server.Version}} {{.Client.Os}}"]);
    assert_eq!(out, format!("{} linux\n", env!("CARGO_PKG_VERSION")));
    let (_, out, _) = bulkhead(&["version", "-f", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["Client"]["Version"], env!("CARGO_PKG_VERSION"));
    let (code, _, err) = bulkhead(&["version", "-f", "{{.Foo"]);
    assert_eq!((code, err.as_str()), (64, "template parsing error: template: :1: unclosed action\n"));
}

#[test]
fn completions_and_man_pages_come_from_the_same_grammar() {
    for (shell, wanted) in
        [("bash", "complete -F _bulkhead"), ("zsh", "#compdef bulkhead"), ("fish", "complete -c bulkhead")]
    {
        let (code, out, _) = bulkhead(&["completion", shell]);
        assert_eq!(code, 0);
        assert!(out.contains(wanted) && out.contains("memory-high"), "{shell}");
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let pages = dir.path().join("deeper/man1");
    assert_eq!(bulkhead(&["man", pages.to_str().expect("UTF-8")]).0, 0);
    for page in ["bulkhead.1", "bulkhead-run.1", "bulkhead-container-ls.1", "bulkhead-image-prune.1"] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap_or_default();
        assert!(text.contains(".TH"), "{page}");
    }
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let mut child = Command::new(BULKHEAD)
        .args(["completion", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    // Larger than a pipe, so that the writer is still at it when the reader goes.
    drop(child.stdout.take());
    let status = child.wait().expect("wait");
    let mut err = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut err).expect("read");
    assert_eq!((status.code(), err.as_str()), (Some(141), ""));
}

#[test]
fn both_spellings_do_the_same() {
    let host = host!();
    host.busybox();
    host.bulkhead(&["create", "--name", "one", "busybox", "true"]).ok();
    for (short, long) in [
        (&["ps", "-a"][..], &["container", "ls", "-a"][..]),
        (&["ps", "-a"], &["container", "list", "-a"]),
        (&["ps", "-a"], &["container", "ps", "-a"]),
        (&["images"], &["image", "ls"]),
        (&["images"], &["image", "list"]),
        (&["history", "busybox"], &["image", "history", "busybox"]),
        (&["inspect", "one"], &["container", "inspect", "one"]),
        (&["inspect", "busybox"], &["image", "inspect", "busybox"]),
        (&["info", "-f", "{{.Containers}}"], &["system", "info", "-f", "{{.Containers}}"]),
    ] {
        let all = |args: &[&str]| {
            let Output { stdout, .. } = host.bulkhead(args).ok();
            // The one thing that may differ between two commands is the time that passed.
            String::from_utf8(stdout)
                .expect("UTF-8")
                .lines()
                .map(|l| l.split("  ").next().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(short), all(long), "{short:?}");
    }
    host.bulkhead(&["container", "rm", "one"]).ok().prints("one\n");
    host.bulkhead(&["image", "rm", "busybox"]).ok();
}

#[test]
fn global_flags_may_come_from_the_environment() {
    let host = host!();
    host.busybox();
    let ids = host.bulkhead(&["images", "-q"]).ok().out();
    let out = Command::new(BULKHEAD)
        .args(["images", "-q"])
        .env("BULKHEAD_ROOT", host.root())
        .env("BULKHEAD_RUN_ROOT", host.run_root())
        .output()
        .expect("runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), ids);
}
