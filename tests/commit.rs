//! `commit`, `diff`, `export`: what a container changed, as a Docker user would see it.

mod common;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::Host;
use common::images::{self, Compression};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Changes of every kind. Each time is fixed, so that two containers that do this are the same.
const CHANGE: &str = "
    umask 022
    echo new > /new
    mkdir /d; echo x > /d/x; chown 5:6 /d/x; chmod 4750 /d/x; ln /d/x /d/y; ln -s x /d/l
    mkfifo /d/p; mknod /d/null c 1 3; : > /d/empty; mkdir -m 1777 /d/sticky
    rm /etc/group
    rm -rf /home; mkdir /home; echo mine > /home/mine
    chmod 600 /etc/passwd
    find /new /d /home /etc/passwd /etc -exec touch -h -d '2020-02-02 02:02:02' {} +
";

fn layers(host: &Host, image: &str) -> Vec<String> {
    let text = host.bulkhead(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", image]).ok().out();
    serde_json::from_str(&text).expect("a list of diff-ids")
}

/// Runs a container to its end and leaves it.
fn done(host: &Host, name: &str, image: &str, script: &str) {
    host.bulkhead(&["run", "--name", name, image, "sh", "-ec", script]).ok();
}

#[test]
fn a_committed_image_is_the_container() {
    let host = host!();
    let image = host.busybox();
    done(&host, "box", image, CHANGE);
    let id = host
        .bulkhead(&[
            "commit",
            "-a",
            "Ann <ann@example.org>",
            "-m",
            "what I did",
            "-c",
            r#"CMD ["cat", "/new"]"#,
            "--change",
            "ENV GREETING=hello",
            "-c",
            "WORKDIR /d",
            "box",
            "made:v1",
        ])
        .ok()
        .line();
    assert!(id.len() == 71 && id.starts_with("sha256:"), "{id}");
    assert_eq!(host.inspect("made:v1", "{{.Id}}"), id);
    // The image stands on its own.
    host.bulkhead(&["rm", "box"]).ok();
    host.bulkhead(&["run", "--rm", "made:v1"]).ok().prints("new\n");
    let look = |host: &Host, image: &str| {
        let script = "stat -c '%n %a %u %g %h %F' x empty sticky p null /etc/passwd; readlink l; cat y
            ls /home; test ! -e /etc/group; echo $GREETING; stat -c %Y /d /new; hostname";
        host.bulkhead(&["run", "--rm", "--hostname", "h", image, "sh", "-ec", script]).ok().out()
    };
    let seen = look(&host, "made:v1");
    assert_eq!(
        seen,
        "x 4750 5 6 2 regular file\nempty 644 0 0 1 regular empty file\nsticky 1777 0 0 2 directory\n\
         p 644 0 0 1 fifo\nnull 644 0 0 1 character special file\n/etc/passwd 600 0 0 1 regular file\n\
         x\nx\nmine\nhello\n1580608922\n1580608922\nh\n"
    );
    let below = layers(&host, image);
    let own = layers(&host, "made:v1");
    assert_eq!((&own[..below.len()], own.len()), (&below[..], below.len() + 1));
    assert_eq!(host.inspect("made:v1", "{{.Author}}|{{.Comment}}"), "Ann <ann@example.org>|what I did");
    assert_eq!(
        host.inspect("made:v1", "{{.Config.Hostname}}|{{.Config.Image}}|{{json .Config.Cmd}}"),
        r#"||["cat","/new"]"#
    );
    let history = host.bulkhead(&["history", "--no-trunc", "--format", "{{.Comment}}", "made:v1"]).ok().out();
    assert_eq!(history.lines().next(), Some("what I did"));

    // And it travels.
    let archive = host.dir().join("made.tar");
    let path = archive.to_str().expect("UTF-8");
    host.bulkhead(&["save", "-o", path, "made:v1"]).ok();
    let other = host!();
    other.bulkhead(&["load", "-i", path]).ok().prints("Loaded image: made:v1\n");
    assert_eq!(other.inspect("made:v1", "{{.Id}}"), id);
    assert_eq!(look(&other, "made:v1"), seen);
}

/// Blobs of their own digests, the same ones each time, that others read as well.
#[test]
fn a_saved_image_can_be_compressed() {
    let host = host!();
    let image = host.busybox();
    done(&host, "box", image, "for i in $(seq 9); do cat /bin/busybox; done > /many; seq 200000 > /text");
    let id = host.bulkhead(&["commit", "box", "made"]).ok().line();
    let dir = host.dir();
    let at = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    host.bulkhead(&["save", "-o", &at("plain"), "made"]).ok();
    let size = |name: &str| std::fs::metadata(at(name)).expect("saved").len();
    for (format, level, unpack) in [
        ("gzip", None, "threads"),
        ("gzip", Some("1"), "auto"),
        ("zstd", None, "io_uring"),
        ("zstd", Some("9"), "auto"),
    ] {
        let mut save = vec!["save", "--compression-format", format];
        save.extend(level.iter().flat_map(|level| ["--compression-level", level]));
        let to = |name: &str| {
            [&save[..], &["-o", &at(name), "made"]]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        host.bulkhead(&to("packed")).ok();
        host.bulkhead(&to("again")).ok();
        assert!(std::fs::read(at("packed")).expect("read") == std::fs::read(at("again")).expect("read"));
        assert!(size("packed") * 3 < size("plain") * 2, "{format} {level:?}: {}", size("packed"));
        let other = host!();
        let load = other.bulkhead(&["load", "--unpack", unpack, "-i", &at("packed")]);
        if unpack == "io_uring" && load.err().contains("io_uring: ") {
            println!("skipped: needs io_uring");
            return;
        }
        load.ok().prints("Loaded image: made:latest\n");
        assert_eq!(other.inspect("made", "{{.Id}}"), id);
        other
            .bulkhead(&["run", "--rm", "--network", "none", "made", "sh", "-c", "tail -n1 /text"])
            .ok()
            .prints("200000\n");
        if common::have("skopeo") {
            for kind in ["oci-archive", "docker-archive"] {
                let copy = dir.join(format!("copy-{kind}"));
                let _ = std::fs::remove_dir_all(&copy);
                let mut skopeo = std::process::Command::new("skopeo");
                skopeo.args(["--insecure-policy", "copy", "-q"]);
                skopeo.arg(format!("{kind}:{}", at("packed"))).arg(format!("dir:{}", copy.display()));
                common::run(skopeo, b"").ok();
            }
        }
    }
    host.bulkhead(&[
        "save",
        "--compression-format",
        "gzip",
        "--compression-level",
        "10",
        "-o",
        &at("none"),
        "made",
    ])
    .code(1)
    .complains("invalid compression level 10 for gzip: 1 to 9");
    host.bulkhead(&["load", "--unpack", "magic", "-i", &at("plain")]).complains("invalid value");
    assert!(!dir.join("none").exists());
}

#[test]
fn a_name_moves_and_none_is_needed() {
    let host = host!();
    let image = host.busybox();
    done(&host, "box", image, "echo 1 > /n");
    let first = host.bulkhead(&["commit", "box", "made"]).ok().line();
    host.bulkhead(&["start", "-a", "box"]).ok();
    let second = host.bulkhead(&["commit", "-m", "again", "box", "made:latest"]).ok().line();
    assert_ne!(first, second);
    assert_eq!(host.inspect("made", "{{.Id}}"), second);
    assert_eq!(host.inspect(&first, "{{json .RepoTags}}"), "[]");
    let third = host.bulkhead(&["container", "commit", "-m", "nameless", "box"]).ok().line();
    assert_eq!(host.inspect(&third, "{{json .RepoTags}}"), "[]");
    host.bulkhead(&["run", "--rm", &third, "cat", "/n"]).ok().prints("1\n");

    // A container that changed nothing: Docker makes no layer for it.
    host.bulkhead(&["create", "--name", "still", image, "true"]).ok();
    host.bulkhead(&["commit", "-c", "LABEL k=v", "still", "same"]).ok();
    assert_eq!(layers(&host, "same"), layers(&host, image));
    assert_eq!(host.inspect("same", "{{.Config.Labels.k}}"), "v");
    host.bulkhead(&["run", "--rm", "same", "true"]).ok();
}

#[test]
fn the_same_changes_are_the_same_layer() {
    let host = host!();
    let image = host.busybox();
    for name in ["one", "two"] {
        done(&host, name, image, CHANGE);
        host.bulkhead(&["commit", name, name]).ok();
    }
    host.bulkhead(&["commit", "one", "again"]).ok();
    assert_eq!(layers(&host, "one"), layers(&host, "two"));
    assert_eq!(layers(&host, "one"), layers(&host, "again"));
}

fn set_attribute(path: &str, name: &CStr, value: &[u8]) {
    let path = CString::new(path).expect("no NUL");
    // SAFETY: two C strings, and a value of its own length.
    let done =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn attribute(path: &str, name: &CStr) -> Vec<u8> {
    let path = CString::new(path).expect("no NUL");
    let mut value = vec![0_u8; 100];
    // SAFETY: two C strings, and a buffer of its own length.
    let len =
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(len).unwrap_or_else(|_| panic!("{}", std::io::Error::last_os_error())));
    value
}

#[test]
fn attributes_are_kept() {
    let host = host!();
    let image = host.busybox();
    let run = |name: &str, image: &str| {
        host.bulkhead(&["run", "-d", "--name", name, image, "sleep", "1000"]).ok();
        format!("/proc/{}/root/bin/busybox", host.inspect(name, "{{.State.Pid}}"))
    };
    let path = run("box", image);
    // cap_net_raw, permitted and effective, as setcap writes it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_attribute(&path, c"trusted.origin", b"from here");
    set_attribute(&path, c"security.capability", &capability);
    host.bulkhead(&["commit", "box", "made"]).ok();
    let path = run("other", "made");
    assert_eq!(attribute(&path, c"trusted.origin"), b"from here");
    assert_eq!(attribute(&path, c"security.capability"), capability);
}

#[test]
fn a_writer_is_frozen_while_it_is_read() {
    let host = host!();
    let image = host.busybox();
    // `a` is written before `z`, and in a sorted reading 3,000 files lie between them.
    let script = "mkdir /m; for n in $(seq 3000); do echo $n > /m/$n; done
        i=0; while :; do i=$((i+1)); echo $i > /t; mv /t /a; echo $i > /t; mv /t /z; done";
    host.bulkhead(&["run", "-d", "--name", "writer", image, "sh", "-c", script]).ok();
    let z = || host.bulkhead(&["exec", "writer", "cat", "/z"]).out().trim().parse::<u64>().unwrap_or(0);
    common::eventually("the writer writes", || z() > 0);
    for round in 0..5 {
        host.bulkhead(&["commit", "writer", "made"]).ok();
        let out = host.bulkhead(&["run", "--rm", "made", "cat", "/a", "/z"]).ok().out();
        let read: Vec<u64> = out.lines().map(|line| line.parse().expect("a number")).collect();
        assert!(read[0] == read[1] || read[0] == read[1] + 1, "round {round}: {read:?} is of no instant");
    }
    assert_eq!(host.inspect("writer", "{{.State.Status}}"), "running");
    let before = z();
    common::eventually("it goes on", || z() > before);
    host.bulkhead(&["commit", "--pause=false", "writer", "live"]).ok();
    host.bulkhead(&["run", "--rm", "live", "test", "-e", "/a"]).ok();

    // A paused container is committed and stays paused.
    host.bulkhead(&["pause", "writer"]).ok();
    host.bulkhead(&["commit", "writer", "made"]).ok();
    assert_eq!(host.inspect("writer", "{{.State.Status}}"), "paused");
    let at = || host.bulkhead(&["diff", "writer"]).ok().out();
    let seen = at();
    assert!(seen.contains("A /a\n") && seen == at(), "{seen}");
    host.bulkhead(&["unpause", "writer"]).ok();
    let before = z();
    common::eventually("it goes on", || z() > before);
}

/// Starts a commit of a running container and sends it a signal while the container is frozen. Returns
/// the container's id, once somebody has found it running again.
fn interrupted(host: &Host, signal: Signal) -> std::process::ExitStatus {
    let image = host.busybox();
    let script = "dd if=/dev/zero of=/big bs=1M count=300 2>/dev/null; echo ready; sleep 1000";
    let id = host.bulkhead(&["run", "-d", "--name", "big", image, "sh", "-c", script]).ok().line();
    common::eventually("the file is written", || host.bulkhead(&["logs", "big"]).out() == "ready\n");
    let mut command = host.command(&["commit", "big", "made"]);
    common::heeding_interrupts(&mut command);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn");
    let mark = host.run_root().join(&id).join("freeze");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !std::fs::metadata(&mark).is_ok_and(|mark| mark.len() > 0) {
        assert!(Instant::now() < deadline && child.try_wait().expect("waitpid").is_none(), "never frozen");
        std::thread::sleep(Duration::from_micros(200));
    }
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("kill");
    let status = common::wait(&mut child, "an interrupted commit");
    host.bulkhead(&["exec", "big", "true"]).ok();
    host.bulkhead(&["inspect", "made"]).code(1);
    let layers = std::fs::read_dir(host.root().join("layers")).expect("layers").count();
    assert_eq!(layers, 1, "half a layer is visible");
    // And it can be done again.
    host.bulkhead(&["commit", "big", "made"]).ok();
    host.bulkhead(&["run", "--rm", "made", "test", "-s", "/big"]).ok();
    // What `run --rm` removes is deleted after its last word.
    let tmp = host.root().join("tmp");
    common::eventually("no temporaries", || std::fs::read_dir(&tmp).map_or(0, Iterator::count) == 0);
    status
}

#[test]
fn an_interrupted_commit_thaws_and_leaves_nothing() {
    use std::os::unix::process::ExitStatusExt as _;
    let host = host!();
    let status = interrupted(&host, Signal::SIGINT);
    assert_eq!(status.signal(), Some(libc::SIGINT), "ended as Ctrl-C ends a command: {status}");
}

#[test]
fn the_next_command_thaws_what_a_killed_commit_froze() {
    let host = host!();
    interrupted(&host, Signal::SIGKILL);
}

#[test]
fn a_commit_killed_at_any_instant_is_whole_or_nothing() {
    const INSTANTS: u32 = 16;
    let host = host!();
    let image = host.busybox();
    let script = "mkdir /m; for n in $(seq 1000); do echo $n > /m/$n; done; echo ready; sleep 1000";
    host.bulkhead(&["run", "-d", "--name", "box", image, "sh", "-c", script]).ok();
    common::eventually("the files are written", || host.bulkhead(&["logs", "box"]).out() == "ready\n");
    let mut whole = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        host.bulkhead(&["commit", "box", "made"]).ok();
        whole = whole.min(start.elapsed());
        host.bulkhead(&["rmi", "made"]).ok();
    }
    let mut killed = 0;
    for i in 0..INSTANTS {
        killed += u32::from(host.kill_after(&["commit", "box", "made"], whole * i / INSTANTS));
        host.bulkhead(&["exec", "box", "true"]).ok();
        // It is there with all its files, or it is not there.
        if host.bulkhead(&["inspect", "made"]).status.success() {
            host.bulkhead(&["run", "--rm", "made", "sh", "-c", "ls /m | wc -l"]).ok().prints("1000\n");
        }
        host.bulkhead(&["commit", "box", "made"]).ok();
        host.bulkhead(&["run", "--rm", "made", "sh", "-c", "ls /m | wc -l"]).ok().prints("1000\n");
        host.bulkhead(&["rmi", "made"]).ok();
        host.bulkhead(&["image", "prune", "-f"]).ok();
        let layers = std::fs::read_dir(host.root().join("layers")).expect("layers").count();
        assert_eq!(layers, 1, "layers after instant {i}");
    }
    assert!(killed > 0, "every commit ended before its kill");
}

#[test]
fn bad_input_is_refused_and_makes_nothing() {
    let host = host!();
    let image = host.busybox();
    done(&host, "box", image, "echo x > /x; : > /.wh.y");
    let images = || host.bulkhead(&["images", "-aq"]).ok().out();
    let before = images();
    for verb in ["commit", "diff", "export"] {
        host.bulkhead(&[verb, "nosuch"])
            .code(1)
            .prints("")
            .complains("Error response from daemon: No such container: nosuch");
        host.bulkhead(&[verb]).code(1).complains(&format!("bulkhead: 'bulkhead {verb}' requires "));
    }
    for (args, want) in [
        (&["commit", "box", "Upper"][..], "repository name (Upper) must be lowercase"),
        (&["commit", "box", "a:b:c"], "invalid reference format"),
        (&["commit", "box", "a b"], "invalid reference format"),
        (&["commit", "-c", "RUN true", "box", "x"], "run is not a valid change command"),
        (&["commit", "-c", "ENV", "box", "x"], "ENV requires at least one argument"),
        (&["commit", "-c", "EXPOSE nowhere", "box", "x"], "invalid containerPort: nowhere"),
        (&["commit", "--pause=maybe", "box"], "invalid argument \"maybe\" for \"-p, --pause\" flag"),
        // A name that would delete a file when the layer is unpacked.
        (&["commit", "box", "x"], "layer entry \".wh.y\" is refused"),
        (
            &["export", "-o", "/nonexistent/dir/x.tar", "box"],
            "failed to export container: invalid output path: directory \"/nonexistent/dir\" does not exist",
        ),
    ] {
        let out = host.bulkhead(args).prints("").complains(want);
        assert!(!out.status.success(), "{out}");
    }
    assert_eq!(images(), before);
}

#[test]
fn a_diff_is_worded_as_dockers() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["create", "--name", "fresh", image, "true"]).ok();
    host.bulkhead(&["diff", "fresh"]).ok().prints("");
    // What the runtime makes to mount on is no change.
    done(&host, "idle", image, "true");
    host.bulkhead(&["diff", "idle"]).ok().prints("");
    done(
        &host,
        "box",
        image,
        "echo x > /new; mkdir -p /srv/a/b; rm /etc/group; chmod 600 /etc/passwd; rm -r /home; mv /usr/bin/env /srv",
    );
    host.bulkhead(&["diff", "box"]).ok().prints(
        "C /etc\nD /etc/group\nC /etc/passwd\nD /home\nA /new\nC /srv\nA /srv/a\nA /srv/a/b\nA /srv/env\n\
         C /usr\nC /usr/bin\nD /usr/bin/env\n",
    );
    host.bulkhead(&["container", "diff", "box"]).ok();
}

#[test]
fn what_is_exported_is_the_whole_root_and_can_be_imported() {
    let host = host!();
    let base = images::deep(5);
    host.load(&base.docker_archive(Compression::None)).ok();
    let script = format!("{CHANGE}\n: > /.wh.kept; echo ready; sleep 1000");
    let bound = host.dir().join("bound");
    std::fs::create_dir(&bound).expect("mkdir");
    std::fs::write(bound.join("secret"), "of the host").expect("write");
    let bind = format!("{}:/bound", bound.display());
    host.bulkhead(&["run", "-d", "--name", "box", "-v", &bind, "deep", "sh", "-ec", &script]).ok();
    common::eventually("the changes are made", || host.bulkhead(&["logs", "box"]).out() == "ready\n");
    let running = host.bulkhead(&["export", "box"]).ok().stdout;
    host.bulkhead(&["stop", "-t", "0", "box"]).ok();
    let file = host.dir().join("root.tar");
    let path = file.to_str().expect("UTF-8");
    host.bulkhead(&["export", "-o", path, "box"]).ok().prints("");
    assert!(running == std::fs::read(&file).expect("read"), "running or not, it is the same");

    let mut names = BTreeSet::new();
    for entry in tar::Archive::new(&running[..]).entries().expect("tar") {
        let entry = entry.expect("entry");
        let name = entry.path().expect("path").display().to_string();
        assert!(names.insert(name.clone()), "{name} twice");
    }
    for there in ["bin/busybox", "new", "d/x", "d/y", "layers/1", "layers/4", "top", "home/mine", ".wh.kept"]
    {
        assert!(names.contains(there), "{there}: {names:?}");
    }
    for not in ["etc/group", "home/app", "home/app/", "bound/secret", "proc/self", "proc/1/"] {
        assert!(!names.contains(not), "{not} is not of the container's root");
    }

    host.bulkhead(&["import", "-c", "CMD [\"cat\", \"/new\", \"/top\"]", path, "flat"]).ok();
    assert_eq!(layers(&host, "flat").len(), 1);
    host.bulkhead(&["run", "--rm", "flat"]).ok().prints("new\n4\n");
    host.bulkhead(&["run", "--rm", "flat", "stat", "-c", "%a %u %g %h", "/d/x"]).ok().prints("4750 5 6 2\n");
}

#[test]
fn an_export_is_not_written_to_a_terminal() {
    let host = host!();
    let image = host.busybox();
    host.bulkhead(&["create", "--name", "box", image, "true"]).ok();
    let pty = nix::pty::openpty(None, None).expect("openpty");
    let mut child = host
        .command(&["export", "box"])
        .stdin(Stdio::null())
        .stdout(Stdio::from(pty.slave))
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut said).expect("read");
    assert_eq!(common::wait(&mut child, "export to a terminal").code(), Some(1));
    assert_eq!(said, "cowardly refusing to save to a terminal. Use the -o flag or redirect\n");
}
