//! Volumes: by name and without one, filled at their first use, shared, removed, mounted, and killed in the middle
//! of any of it.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::images::{Compression, Image, Tar};
use common::{Host, eventually};
use serde_json::{Value, json};

/// `data`: busybox with a directory worth copying, and `/data` declared a volume.
fn data() -> Image {
    let header = |size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(size);
        header
    };
    let record = b"28 SCHILY.xattr.user.kind=x\n";
    let layer = Tar::new()
        .dir_of("data", 0o1770, 7, 8)
        .entry(header(record.len() as u64), "pax", record)
        .file("data/hello", 0o640, "greeting\n")
        .hardlink("data/hard", "data/hello")
        .symlink("data/link", "hello")
        .symlink("data/out", "/etc/passwd")
        .dir_of("data/sub", 0o2750, 5, 3_000_000)
        .file("data/sub/deep", 0o4711, "deep\n")
        .build();
    Image::busybox().name("data:latest").layer(layer).config("Volumes", json!({"/data": {}}))
}

fn load(host: &Host, image: &Image) -> &'static str {
    host.load(&image.docker_archive(Compression::None));
    "data"
}

fn volume(host: &Host, name: &str) -> PathBuf {
    host.root().join("volumes").join(name).join("_data")
}

fn names(host: &Host) -> BTreeSet<String> {
    host.bulkhead(&["volume", "ls", "-q"]).ok().out().lines().map(str::to_owned).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What is in the directory of all volumes: their names, and whatever was left there.
fn on_disk(host: &Host) -> BTreeSet<String> {
    let Ok(list) = fs::read_dir(host.root().join("volumes")) else { return BTreeSet::new() };
    list.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8")).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn the_verbs_have_dockers_words() {
    let host = host!();
    let daemon = "Error response from daemon: ";
    host.bulkhead(&["volume", "create", "one"]).ok().prints("one\n");
    host.bulkhead(&["volume", "create", "--label", "a=b", "--label", "c", "two"]).ok().prints("two\n");
    // One that is there is found, and stays what it is.
    host.bulkhead(&["volume", "create", "--label", "x=y", "two"]).ok().prints("two\n");
    let anonymous = host.bulkhead(&["volume", "create"]).ok().line();
    assert!(anonymous.len() == 64 && anonymous.bytes().all(|b| b.is_ascii_hexdigit()), "{anonymous}");
    let listed = format!("DRIVER    VOLUME NAME\nlocal     {anonymous}\nlocal     one\nlocal     two\n");
    let mut lines: Vec<&str> = listed.lines().collect();
    lines[1..].sort_unstable();
    host.bulkhead(&["volume", "ls"]).ok().prints(&format!("{}\n", lines.join("\n")));
    for (filter, want) in [
        ("name=on", "one\n"),
        ("label=a", "two\n"),
        ("label=a=b", "two\n"),
        ("label=a=c", ""),
        ("driver=nfs", ""),
        ("dangling=false", ""),
    ] {
        host.bulkhead(&["volume", "ls", "-q", "-f", filter]).ok().prints(want);
    }
    host.bulkhead(&[
        "volume",
        "ls",
        "--format",
        "{{.Name}} {{.Driver}} {{.Label \"a\"}}",
        "-f",
        "name=^two$",
    ])
    .ok()
    .prints("two local b\n");
    let shown: Value =
        serde_json::from_slice(&host.bulkhead(&["volume", "inspect", "one", "two"]).ok().stdout)
            .expect("JSON");
    assert_eq!(shown[0]["Mountpoint"], text(&volume(&host, "one")));
    assert_eq!(
        (&shown[0]["Driver"], &shown[0]["Scope"], &shown[0]["Labels"], &shown[0]["Options"]),
        (&json!("local"), &json!("local"), &Value::Null, &Value::Null)
    );
    assert!(shown[0]["CreatedAt"].as_str().is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok()));
    assert_eq!(shown[1]["Labels"], json!({"a": "b", "c": ""}));
    assert_eq!(volume(&host, "one").metadata().expect("made").mode() & 0o7777, 0o755);
    assert_eq!(host.inspect("two", "{{.Name}} {{.Labels.a}}"), "two b");
    host.bulkhead(&["inspect", "--type", "volume", "-f", "{{.Driver}}", "one"]).ok().prints("local\n");
    for (args, want) in [
        (
            &["volume", "create", "a"][..],
            "create a: volume name is too short, names should be at least two alphanumeric characters",
        ),
        (
            &["volume", "create", "../x"],
            "create ../x: \"../x\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path",
        ),
        (
            &["volume", "create", "-d", "nfs", "vol"],
            "create vol: error looking up volume plugin nfs: plugin \"nfs\" not found",
        ),
        (&["volume", "create", "-o", "x=y", "vol"], "create vol: invalid option: \"x\""),
        (&["volume", "create", "-o", "type=tmpfs", "vol"], "create vol: missing required option: \"device\""),
        (&["volume", "inspect", "none"], "get none: no such volume"),
        (&["inspect", "--type", "volume", "none"], "get none: no such volume"),
        (&["volume", "rm", "none"], "get none: no such volume"),
        (&["volume", "ls", "-f", "colour=red"], "invalid filter 'colour'"),
        (&["volume", "ls", "-f", "dangling=perhaps"], "invalid filter 'dangling=perhaps'"),
        (&["volume", "prune", "-f", "--filter", "until=1h"], "invalid filter 'until'"),
    ] {
        let out = host.bulkhead(args).code(1);
        assert_eq!(out.err(), format!("{daemon}{want}\n"), "{out}");
    }
    host.bulkhead(&["volume", "rm", "-f", "none"]).ok().prints("none\n");
    host.bulkhead(&["volume", "rm", "none", "one"])
        .code(1)
        .prints("one\n")
        .complains("get none: no such volume");
    // Without -a only what has no name; without -f not without asking.
    host.bulkhead_with_stdin(&["volume", "prune"], b"n\n").ok().prints(
        "WARNING! This will remove anonymous local volumes not used by at least one container.\nAre you sure you want to continue? [y/N] ",
    );
    fs::write(volume(&host, &anonymous).join("f"), [0; 1500]).expect("write");
    host.bulkhead(&["volume", "prune", "-f"])
        .ok()
        .prints(&format!("Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space: 1.5kB\n"));
    host.bulkhead(&["volume", "prune", "-f", "-a", "--filter", "label!=a"])
        .ok()
        .prints("Total reclaimed space: 0B\n");
    host.bulkhead(&["volume", "prune", "-f", "-a", "--filter", "label=a"])
        .ok()
        .prints("Deleted Volumes:\ntwo\n\nTotal reclaimed space: 0B\n");
    assert_eq!(on_disk(&host), BTreeSet::new());
}

#[test]
fn an_empty_volume_gets_what_the_image_has() {
    let host = host!();
    let image = load(&host, &data());
    let list = "stat -c '%n %a %u %g %h' /data /data/* /data/sub/deep; cat /data/link /data/out";
    let want = "/data 1770 7 8 3\n/data/hard 640 0 0 2\n/data/hello 640 0 0 2\n/data/link 777 0 0 1\n\
                /data/out 777 0 0 1\n/data/sub 2750 5 3000000 2\n/data/sub/deep 4711 0 0 1\ngreeting\n";
    let out = host.bulkhead(&["run", "--rm", "-v", "filled:/data", image, "sh", "-c", list]).ok();
    assert!(out.out().starts_with(want), "{out}");
    // The link that leads out of the volume was copied as a link, and leads to the container's own.
    assert!(out.out().contains("app:x:1000"), "{out}");
    let there = volume(&host, "filled");
    assert!(there.join("out").symlink_metadata().expect("stat").is_symlink());
    assert_eq!(there.join("hello").metadata().expect("stat").mtime(), 1_700_000_000);
    let mut value = [0_u8; 8];
    let path = std::ffi::CString::new(text(&there.join("hello"))).expect("no NUL");
    // SAFETY: two C strings, and a buffer with its length.
    let got = unsafe { libc::getxattr(path.as_ptr(), c"user.kind".as_ptr(), value.as_mut_ptr().cast(), 8) };
    assert_eq!((got, value[0]), (1, b'x'), "attributes come along");
    // What is there hides what the image has, one file or many.
    host.bulkhead(&["volume", "create", "own"]).ok();
    fs::write(volume(&host, "own").join("mine"), "").expect("write");
    host.bulkhead(&["run", "--rm", "-v", "own:/data", image, "ls", "/data"]).ok().prints("mine\n");
    // Emptied, it is empty; until it is used again.
    host.bulkhead(&["run", "--rm", "-v", "filled:/x", image, "sh", "-c", "rm -r /x/*; ls -A /x"])
        .ok()
        .prints("");
    for nocopy in [&["-v", "plain:/data:nocopy"][..], &["--mount", "src=plain,dst=/data,volume-nocopy"]] {
        let run = [&["run", "--rm"], nocopy, &[image, "ls", "-A", "/data"]].concat();
        host.bulkhead(&run).ok().prints("");
    }
    let stat = ["run", "--rm", "-v", "plain:/data:nocopy", image, "stat", "-c", "%a %u", "/data"];
    host.bulkhead(&stat).ok().prints("755 0\n");
    // A directory of the host is never filled.
    let bound = host.dir().join("bound");
    fs::create_dir(&bound).expect("mkdir");
    let bind = format!("{}:/data", bound.display());
    host.bulkhead(&["run", "--rm", "-v", &bind, image, "ls", "-A", "/data"]).ok().prints("");
    // Nor is one that is mounted where the image has nothing, and its place is made.
    host.bulkhead(&["run", "--rm", "-v", "new:/not/there", image, "touch", "/not/there/f"]).ok();
    assert!(volume(&host, "new").join("f").exists());
    // Read only is for the container.
    host.bulkhead(&["run", "--rm", "-v", "ro:/data:ro", image, "touch", "/data/x"])
        .code(1)
        .complains("Read-only file system");
    assert!(volume(&host, "ro").join("hello").exists());
    // `create` is enough.
    host.bulkhead(&["create", "--name", "made", "-v", "early:/data", image]).ok();
    assert!(volume(&host, "early").join("sub/deep").exists());
}

#[test]
fn volumes_without_a_name_go_with_their_container() {
    let host = host!();
    let image = load(&host, &data());
    let mine = |container: &str| {
        host.inspect(container, "{{range .Mounts}}{{.Name}} {{end}}")
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // Of the image, of -v, of --mount; and one with a name.
    let run =
        ["run", "--name", "one", "-v", "/x", "--mount", "dst=/y", "-v", "named:/z", image, "ls", "/data"];
    host.bulkhead(&run).ok().prints("hard\nhello\nlink\nout\nsub\n");
    assert_eq!(mine("one").len(), 4);
    assert_eq!(names(&host), mine("one").into_iter().collect());
    for name in mine("one").iter().filter(|name| *name != "named") {
        assert!(name.len() == 64, "{name}");
        let label = "{{index .Labels \"com.docker.volume.anonymous\"}}|";
        host.bulkhead(&["volume", "inspect", "-f", label, name]).ok().prints("|\n");
    }
    // They outlive `rm`, and not `rm -v`.
    host.bulkhead(&["run", "--name", "two", image, "true"]).ok();
    let kept = mine("two");
    host.bulkhead(&["rm", "two"]).ok();
    host.bulkhead(&["rm", "-v", "one"]).ok();
    assert_eq!(names(&host), set(&["named", &kept[0]]));
    // Nor does `rm` take them from one that would have gone by itself, and has not.
    host.bulkhead(&["create", "--rm", "--name", "three", "-v", "/x", image, "true"]).ok();
    let left = mine("three");
    host.bulkhead(&["rm", "three"]).ok();
    assert!(left.iter().all(|name| names(&host).contains(name)), "{left:?}");
    host.bulkhead(&[&["volume", "rm"][..], &left.iter().map(String::as_str).collect::<Vec<_>>()].concat())
        .ok();
    // A volume that was made without a name and is mounted by its name is one with a name there.
    let by_name = format!("{}:/data", kept[0]);
    host.bulkhead(&["run", "--rm", "-v", &by_name, image, "true"]).ok();
    assert_eq!(names(&host), set(&["named", &kept[0]]));
    // Nothing is made where something is mounted already.
    for flags in [&["--tmpfs", "/data"][..], &["-v", "named:/data/"], &["--mount", "type=tmpfs,dst=/data"]] {
        host.bulkhead(&[&["run", "--name", "other"], flags, &[image, "true"]].concat()).ok();
        host.bulkhead(&["rm", "other"]).ok();
    }
    host.bulkhead(&["run", "--rm", image, "true"]).ok();
    host.bulkhead(&["run", "--rm", image, "/no/such/program"]).code(127);
    assert_eq!(names(&host), set(&["named", &kept[0]]));
    host.bulkhead(&["volume", "rm", &kept[0]]).ok();
    // Nor one whose monitor is killed.
    host.bulkhead(&["run", "-d", "--rm", image, "sleep", "1000"]).ok();
    for (pid, _) in host.processes() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    }
    eventually("the next command takes both away", || {
        host.bulkhead(&["ps"]).ok();
        on_disk(&host) == set(&["named"])
    });
    // What another container has mounted stays until that goes as well.
    host.bulkhead(&["create", "--name", "owner", image]).ok();
    host.bulkhead(&["create", "--name", "guest", "--volumes-from", "owner", image]).ok();
    host.bulkhead(&["rm", "-v", "owner"]).ok();
    assert_eq!(names(&host).len(), 2);
    host.bulkhead(&["rm", "-v", "guest"]).ok();
    assert_eq!(names(&host), set(&["named"]));
    // A command that fails leaves none.
    host.bulkhead(&["create", "--name", "taken", "-v", "named:/data", image]).ok();
    host.bulkhead(&["create", "--name", "taken", "-v", "fresh:/f", image]).code(1).complains("Conflict.");
    assert_eq!(on_disk(&host), set(&["named"]));
    host.bulkhead(&["volume", "create"]).ok();
    let prune = host.bulkhead(&["system", "prune", "-f", "--volumes"]).ok();
    assert!(prune.out().contains("Deleted Volumes:\n"), "{prune}");
    assert_eq!(on_disk(&host), set(&["named"]));
}

#[test]
fn containers_share_volumes_and_keep_them() {
    let host = host!();
    let image = load(&host, &data());
    host.bulkhead(&["run", "-d", "--name", "one", "-v", "shared:/data", image, "sleep", "1000"]).ok();
    let id = host.inspect("one", "{{.Id}}");
    host.bulkhead(&["run", "--rm", "-v", "shared:/s", image, "sh", "-c", "cat /s/hello; echo two >/s/two"])
        .ok()
        .prints("greeting\n");
    host.bulkhead(&["exec", "one", "cat", "/data/two"]).ok().prints("two\n");
    let refused = format!("Error response from daemon: remove shared: volume is in use - [{id}]\n");
    assert_eq!(host.bulkhead(&["volume", "rm", "shared"]).code(1).err(), refused);
    assert_eq!(host.bulkhead(&["volume", "rm", "-f", "shared"]).code(1).err(), refused);
    host.bulkhead(&["volume", "prune", "-a", "-f"]).ok();
    host.bulkhead(&["volume", "ls", "-q", "-f", "dangling=false"]).ok().prints("shared\n");
    let shown: Value = serde_json::from_str(&host.inspect("one", "{{json .Mounts}}")).expect("JSON");
    let source = volume(&host, "shared");
    assert_eq!(
        shown,
        json!([{"Type": "volume", "Name": "shared", "Source": text(&source), "Destination": "/data",
            "Driver": "local", "Mode": "z", "RW": true, "Propagation": ""}])
    );
    for filter in ["volume=shared", "volume=/data"] {
        host.bulkhead(&["ps", "--filter", filter, "--format", "{{.Names}} {{.Mounts}} {{.LocalVolumes}}"])
            .ok()
            .prints("one shared 1\n");
    }
    host.bulkhead(&["ps", "-q", "--filter", "volume=other"]).ok().prints("");
    // From another container, running or not, all of its mounts.
    let bound = host.file("bound/f", "bound\n");
    let bind = format!("{}:/b:ro", bound.parent().expect("parent").display());
    host.bulkhead(&["create", "--name", "holder", "--volumes-from", "one", "-v", &bind, image]).ok();
    let cat = "cat /data/two /b/f; touch /b/x";
    host.bulkhead(&["run", "--rm", "--volumes-from", "holder", image, "sh", "-c", cat])
        .code(1)
        .prints("two\nbound\n")
        .complains("Read-only file system");
    host.bulkhead(&["run", "--rm", "--volumes-from", "holder:ro", image, "touch", "/data/x"])
        .code(1)
        .complains("Read-only file system");
    // What is said here comes first.
    host.bulkhead(&["run", "--rm", "--volumes-from", "holder", "-v", "mine:/b", image, "ls", "/b"])
        .ok()
        .prints("");
    for (from, want) in [
        ("nobody", "No such container: nobody"),
        ("", "volumes-from specification cannot be an empty string"),
        ("one:nocopy", "invalid mode: nocopy"),
        ("one:rslave", "invalid mode: rslave"),
    ] {
        host.bulkhead(&["run", "--rm", "--volumes-from", from, image, "true"]).code(125).complains(want);
    }
    host.bulkhead(&["rm", "-f", "-v", "one", "holder"]).ok();
    assert!(source.join("two").exists(), "a volume with a name outlives its containers");
    let told: Vec<String> = host
        .bulkhead(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "volume=shared",
            "--format",
            "{{.Type}} {{.Action}} {{.Actor.Attributes.driver}}",
        ])
        .ok()
        .out()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(told[..2], ["volume create local", "volume mount local"]);
    let count = |action: &str| told.iter().filter(|line| line.contains(action)).count();
    assert_eq!((count(" mount "), count(" unmount ")), (count(" unmount "), count(" mount ")));
    let df =
        host.bulkhead(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}}"]).ok();
    assert!(df.out().contains("Local Volumes 2 0 18B\n"), "{df}");
}

#[test]
fn a_path_of_a_volume_leads_nowhere_else() {
    let host = host!();
    let image = load(&host, &data());
    let secret = host.file("outside/secret", "of the host\n");
    let outside = secret.parent().expect("parent");
    host.bulkhead(&["run", "--rm", "-v", "vol:/data", image, "true"]).ok();
    let mount = |subpath: &str| format!("type=volume,src=vol,dst=/m,volume-subpath={subpath}");
    let run = |subpath: &str, command: &[&str]| {
        host.bulkhead(&[&["run", "--rm", "--mount", &mount(subpath), image], command].concat())
    };
    run("sub", &["cat", "/m/deep"]).ok().prints("deep\n");
    run("hello", &["cat", "/m"]).ok().prints("greeting\n");
    run("none", &["true"]).code(125).complains("cannot access subpath \"none\" of volume vol");
    symlink(outside, volume(&host, "vol").join("abs")).expect("symlink");
    symlink("../../../../../../../../../..", volume(&host, "vol").join("up")).expect("symlink");
    symlink("sub", volume(&host, "vol").join("inside")).expect("symlink");
    run("abs", &["true"]).code(125).complains("cannot access subpath");
    // Above the volume's own root there is nothing.
    run("up", &["ls", "/m/hello"]).ok().prints("/m/hello\n");
    run(&format!("up/{}", outside.display()), &["ls", "/m"]).code(125);
    run("inside", &["cat", "/m/deep"]).ok().prints("deep\n");
    // Nor does one that is put there while somebody starts.
    let (plain, link) = (volume(&host, "vol").join("sub"), volume(&host, "vol").join("trap"));
    symlink(outside, &link).expect("symlink");
    let done = std::sync::atomic::AtomicBool::new(false);
    let outs = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &plain, nix::fcntl::AT_FDCWD, &link, exchange)
                    .expect("exchange");
                // As long as a start takes from one look to the other.
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        let outs: Vec<_> = (0..40).map(|_| run("sub", &["ls", "/m"])).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outs
    });
    for out in &outs {
        assert!(!out.out().contains("secret"), "{out}");
    }
    let refused = outs.iter().filter(|out| !out.status.success()).count();
    assert!(refused > 0, "the trap was never in the way");
    for (mount, want) in [
        ("dst=/m,volume-subpath=x", "must not set Subpath when using anonymous volumes"),
        ("src=vol,dst=/m,volume-subpath=/x", "subpath must be a relative path within the volume"),
        ("src=vol,dst=/m,volume-subpath=a/../..", "subpath must be a relative path within the volume"),
    ] {
        host.bulkhead(&["run", "--rm", "--mount", mount, image, "true"]).code(125).complains(want);
    }
}

#[test]
fn a_hostile_image_copies_nothing_of_the_host() {
    let host = host!();
    let secret = host.file("outside/secret", "of the host\n");
    let outside = text(secret.parent().expect("parent")).to_owned();
    let layer = Tar::new()
        .symlink("abs", &outside)
        .symlink("up", &format!("../../../../../../../../../..{outside}"))
        .dir("d", 0o755)
        .symlink("d/in", &outside)
        .symlink("proc-link", "/proc/self/root")
        .build();
    let image = Image::busybox().name("evil:latest").layer(layer);
    host.load(&image.docker_archive(Compression::None));
    for (number, path) in
        ["/abs", "/up", "/proc-link", "/d/in", "/../../..", "/d/../../abs"].iter().enumerate()
    {
        let volume_name = format!("evil{number}");
        // Whether it starts is another matter: a link to nothing is no place.
        host.bulkhead(&["run", "--rm", "-v", &format!("{volume_name}:{path}"), "evil", "true"]);
        if let Ok(mut list) = fs::read_dir(volume(&host, &volume_name)) {
            assert!(list.next().is_none(), "{path}");
        }
    }
    host.bulkhead(&["run", "--rm", "-v", "dd:/d", "evil", "true"]).ok();
    assert_eq!(fs::read_link(volume(&host, "dd").join("in")).expect("a link"), Path::new(&outside));
    assert_eq!(fs::read_dir(&outside).expect("outside").count(), 1);
    // Declared by the image: the root is no place for a volume, and dots change nothing.
    for (path, want) in
        [("/", Some("destination can't be '/'")), ("/x/..", Some("destination can't be '/'")), ("d/./", None)]
    {
        let declared = image.clone().name("declared:latest").config("Volumes", json!({path: {}}));
        host.load(&declared.docker_archive(Compression::None));
        let out = host.bulkhead(&["run", "--rm", "declared", "ls", "/d"]);
        match want {
            Some(want) => drop(out.code(125).complains(want)),
            None => drop(out.ok().prints("in\n")),
        }
    }
}

#[test]
fn cp_reaches_volumes_and_images_do_not_contain_them() {
    let host = host!();
    let image = load(&host, &data());
    let file = host.file("file", "from the host\n");
    // Before it has ever run, where the image has a place and where it has none.
    let create =
        ["create", "--name", "one", "-v", "vol:/data", "-v", "new:/not/there", image, "sleep", "1000"];
    host.bulkhead(&create).ok();
    for (round, name) in ["never", "running", "ended"].iter().enumerate() {
        if *name == "running" {
            host.bulkhead(&["start", "one"]).ok();
        } else if round > 0 {
            host.bulkhead(&["stop", "-t", "0", "one"]).ok();
        }
        host.bulkhead(&["cp", text(&file), &format!("one:/data/{name}")]).ok();
        host.bulkhead(&["cp", text(&file), &format!("one:/not/there/{name}")]).ok();
        for vol in ["vol", "new"] {
            let path = volume(&host, vol).join(name);
            assert_eq!(fs::read_to_string(path).expect("in the volume"), "from the host\n");
        }
        let to = host.dir().join(name);
        host.bulkhead(&["cp", "one:/data/sub/deep", text(&to)]).ok();
        assert_eq!(fs::read_to_string(to).expect("copied"), "deep\n");
    }
    host.bulkhead(&["create", "--name", "ro", "-v", "vol:/data:ro", image]).ok();
    let refused = host.bulkhead(&["cp", text(&file), "ro:/data/x"]).code(1);
    assert_eq!(refused.err(), "Error response from daemon: mounted volume is marked read-only\n");
    host.bulkhead(&["create", "--name", "root", "--read-only", "-v", "vol:/data", image]).ok();
    host.bulkhead(&["cp", text(&file), "root:/data/through"]).ok();
    host.bulkhead(&["cp", text(&file), "root:/x"]).code(1).complains("container rootfs is marked read-only");
    host.bulkhead(&["start", "one"]).ok();
    host.bulkhead(&["exec", "one", "sh", "-c", "echo x >/data/in-volume; echo x >/own"]).ok();
    host.bulkhead(&["diff", "one"]).ok().prints("A /not\nA /not/there\nA /own\n");
    host.bulkhead(&["commit", "one", "committed"]).ok();
    let ls =
        ["run", "--rm", "-v", "none:/data:nocopy", "committed", "ls", "-A", "/data", "/not/there", "/own"];
    host.bulkhead(&ls).ok().prints("/own\n\n/data:\n\n/not/there:\n");
    let exported = host.bulkhead(&["export", "one"]).ok().stdout;
    let names: Vec<String> = tar::Archive::new(&exported[..])
        .entries()
        .expect("tar")
        .map(|entry| entry.expect("entry").path().expect("path").display().to_string())
        .collect();
    assert!(names.contains(&"own".to_owned()) && names.contains(&"data/hello".to_owned()));
    assert!(!names.iter().any(|name| name.ends_with("in-volume") || name.starts_with("not/there/f")));
}

#[test]
fn a_volume_with_options_is_mounted_while_it_is_used() {
    let host = host!();
    let image = load(&host, &data());
    let device = host.dir().join("device");
    fs::create_dir(&device).expect("mkdir");
    let option = format!("device={}", device.display());
    host.bulkhead(&["volume", "create", "-o", "type=none", "-o", &option, "-o", "o=bind", "bound"]).ok();
    assert_eq!(host.inspect("bound", "{{.Options.o}} {{.Options.type}}"), "bind none");
    host.bulkhead(&["run", "-d", "--name", "one", "-v", "bound:/data", image, "sleep", "1000"]).ok();
    // Filled like any volume, and through it the device.
    assert_eq!(fs::read_to_string(device.join("hello")).expect("filled"), "greeting\n");
    assert_eq!(device.metadata().expect("stat").mode() & 0o7777, 0o1770);
    assert_eq!(host.mounts(), [volume(&host, "bound")]);
    host.bulkhead(&["run", "--rm", "-v", "bound:/b", image, "touch", "/b/second"]).ok();
    assert_eq!(host.mounts(), [volume(&host, "bound")], "the first one still uses it");
    host.bulkhead(&["rm", "-f", "one"]).ok();
    assert_eq!(host.mounts(), Vec::<PathBuf>::new());
    host.bulkhead(&["volume", "rm", "bound"]).ok();
    assert!(device.join("second").exists(), "what is mounted is not removed");

    host.bulkhead(&[
        "volume",
        "create",
        "-o",
        "type=tmpfs",
        "-o",
        "device=tmpfs",
        "-o",
        "o=size=1m,uid=9",
        "memory",
    ])
    .ok();
    host.bulkhead(&["run", "-d", "--name", "one", "-v", "memory:/m", image, "sleep", "1000"]).ok();
    host.bulkhead(&["exec", "one", "sh", "-c", "echo shared >/m/f; stat -fc %T /m; stat -c %u /m"])
        .ok()
        .prints("tmpfs\n9\n");
    host.bulkhead(&["run", "--rm", "-v", "memory:/n", image, "cat", "/n/f"]).ok().prints("shared\n");
    // A monitor that is killed leaves it to the next command.
    for (pid, line) in host.processes() {
        if line.contains(" monitor ") {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).expect("kill");
        }
    }
    eventually("the next command unmounts it", || {
        host.bulkhead(&["ps"]).ok();
        host.mounts().is_empty()
    });
    host.bulkhead(&["rm", "-f", "one"]).ok();
    // Without a copy, so that the failure is the start's.
    for (kind, device, options, want) in [
        ("none", "/nonexistent", "bind", "failed to mount local volume: mount /nonexistent:"),
        ("nosuchfs", "x", "rw", "this kernel has no file system \"nosuchfs\""),
        ("tmpfs", "tmpfs", "size=what", "failed to mount local volume"),
    ] {
        let opts = [format!("type={kind}"), format!("device={device}"), format!("o={options}")];
        host.bulkhead(&["volume", "create", "-o", &opts[0], "-o", &opts[1], "-o", &opts[2], "bad"]).ok();
        for mode in ["bad:/data", "bad:/data:nocopy"] {
            host.bulkhead(&["run", "--rm", "-v", mode, image, "true"]).code(125).complains(want);
        }
        host.bulkhead(&["volume", "rm", "bad"]).ok();
    }
    // What somebody else has mounted inside is not deleted with it.
    host.bulkhead(&["volume", "create", "plain"]).ok();
    let inside = volume(&host, "plain").join("inside");
    fs::create_dir(&inside).expect("mkdir");
    nix::mount::mount(Some(&device), &inside, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>)
        .expect("mount");
    host.bulkhead(&["volume", "rm", "plain"]).code(1).complains("is a mount point: unmount it first");
    nix::mount::umount(&inside).expect("umount");
    assert!(device.join("second").exists());
    host.bulkhead(&["volume", "rm", "plain"]).ok();
}

/// Everybody at the same few volumes at once.
#[test]
fn creating_using_and_removing_race() {
    let host = host!();
    let image = load(&host, &data());
    host.bulkhead(&["volume", "ls"]).ok();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let host = &host;
            scope.spawn(move || {
                for round in 0..12 {
                    let name = format!("vol{}", (worker + round) % 2);
                    match (worker + round / 2) % 4 {
                        0 => drop(host.bulkhead(&["volume", "create", &name]).ok()),
                        1 => {
                            let rm = host.bulkhead(&["volume", "rm", &name]);
                            let fine = ["no such volume", "volume is in use"];
                            assert!(
                                rm.status.success() || fine.iter().any(|why| rm.err().contains(why)),
                                "{rm}"
                            );
                        }
                        2 => {
                            let mount = format!("{name}:/data");
                            // Whoever sees it sees all of it.
                            host.bulkhead(&[
                                "run",
                                "--rm",
                                "-v",
                                &mount,
                                image,
                                "cat",
                                "/data/hello",
                                "/data/sub/deep",
                            ])
                            .ok()
                            .prints("greeting\ndeep\n");
                        }
                        _ => drop(
                            host.bulkhead(&["run", "--rm", image, "cat", "/data/sub/deep"])
                                .ok()
                                .prints("deep\n"),
                        ),
                    }
                }
            });
        }
    });
    assert_eq!(names(&host), on_disk(&host));
    assert!(names(&host).is_subset(&set(&["vol0", "vol1"])), "{:?}", names(&host));
}

#[test]
fn a_kill_leaves_a_volume_empty_or_whole() {
    const INSTANTS: u32 = 16;
    let host = host!();
    let tar = (0..200).fold(Tar::new().dir_of("data", 0o755, 5, 6).dir("data/d", 0o755), |tar, file| {
        let tar = tar.file(&format!("data/{file}"), 0o644, [1; 3000]);
        tar.file(&format!("data/d/{file}"), 0o644, [1; 3000])
    });
    let image =
        Image::busybox().name("data:latest").layer(tar.build()).config("Volumes", json!({"/anonymous": {}}));
    let image = load(&host, &image);
    let run = ["run", "--rm", "-v", "vol:/data", image, "true"];
    let length = (0..3)
        .map(|_| {
            let start = Instant::now();
            host.bulkhead(&run).ok();
            let took = start.elapsed();
            host.bulkhead(&["volume", "rm", "vol"]).ok();
            took
        })
        .min()
        .expect("three");
    let mut killed = 0;
    for instant in 0..INSTANTS {
        killed += u32::from(host.kill_after(&run, length * instant / INSTANTS));
        // Any command sweeps; the one that was killed may have a monitor that takes its container back meanwhile.
        eventually("the container is gone", || {
            host.bulkhead(&["ps", "-aq"]).ok().out().is_empty() && host.containers().is_empty()
        });
        let dir = host.root().join("volumes/vol");
        if let Ok(list) = fs::read_dir(&dir) {
            let left: Vec<_> = list.map(|entry| entry.expect("entry").file_name()).collect();
            assert_eq!(left, ["_data"], "after instant {instant}");
            let files = fs::read_dir(dir.join("_data")).expect("ls").count();
            assert!(matches!(files, 0 | 201), "{files} files after instant {instant}");
        }
        let names = names(&host);
        assert!(names.is_subset(&set(&["vol"])), "{names:?} after instant {instant}");
        assert_eq!(on_disk(&host), names, "after instant {instant}");
        // And whatever it was, it can be used.
        let count =
            ["run", "--rm", "-v", "vol:/data", image, "sh", "-c", "ls /data/d | wc -l; stat -c %u /data"];
        host.bulkhead(&count).ok().prints("200\n5\n");
        host.bulkhead(&["volume", "rm", "vol"]).ok();
    }
    assert!(killed > 0, "every run ended before its kill");
    assert_eq!(on_disk(&host), BTreeSet::new());
}

#[test]
fn a_kill_leaves_no_half_of_a_volume() {
    const INSTANTS: u32 = 20;
    let host = host!();
    let image = load(&host, &data());
    host.bulkhead(&["run", "--rm", image, "true"]).ok();
    // A container that was created and then not filled is filled when it starts.
    for instant in 0..INSTANTS {
        let delay = Duration::from_micros(u64::from(instant) * 800);
        host.kill_after(&["create", "--name", "made", "-v", "vol:/data", image, "cat", "/data/hello"], delay);
        let id = host.bulkhead(&["inspect", "-f", "{{.Id}}", "made"]);
        if id.status.success() {
            // Killed before it had a writable layer, it is no container that could be started.
            if host.root().join("containers").join(id.line()).join("work").exists() {
                host.bulkhead(&["start", "-a", "made"]).ok().prints("greeting\n");
            }
            host.bulkhead(&["rm", "made"]).ok();
        }
        host.bulkhead(&["volume", "rm", "-f", "vol"]).ok();
        assert_eq!(on_disk(&host), BTreeSet::new(), "created, instant {instant}");
    }
    for instant in 0..INSTANTS {
        let delay = Duration::from_micros(u64::from(instant) * 400);
        host.bulkhead(&["volume", "create", "vol"]).ok();
        for file in 0..50 {
            fs::write(volume(&host, "vol").join(file.to_string()), "x").expect("write");
        }
        host.kill_after(&["volume", "rm", "vol"], delay);
        let there = names(&host).contains("vol");
        assert_eq!(on_disk(&host).len(), usize::from(there), "removed, instant {instant}");
        if there {
            assert_eq!(fs::read_dir(volume(&host, "vol")).expect("ls").count(), 50, "all or nothing");
        }
        host.bulkhead(&["volume", "rm", "-f", "vol"]).ok();
        host.bulkhead(&["run", "--name", "made", image, "true"]).ok();
        host.kill_after(&["rm", "-v", "made"], delay);
        host.bulkhead(&["rm", "-f", "-v", "made"]).ok();
        host.bulkhead(&["ps"]).ok();
        assert_eq!(on_disk(&host), BTreeSet::new(), "removed with its container, instant {instant}");
    }
}
