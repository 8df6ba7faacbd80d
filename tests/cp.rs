//! `cp`: every form, both directions, running or not, and links that want to lead out.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use common::images::{Compression, Image, Tar};
use common::serve::Api;
use common::{Host, run};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A container that has run, or one that still does.
fn container(host: &Host, name: &str, running: bool) {
    let image = host.busybox();
    let script = "mkdir -p /data/www/sub; echo page > /data/www/index; echo deep > /data/www/sub/f
        ln -s index /data/www/link; ln /data/www/index /data/www/hard; chown 5:6 /data/www/index
        chmod 640 /data/www/index; touch -d '2020-02-02 02:02:02' /data/www/index; echo ready";
    let script = if running { format!("{script}; sleep 1000") } else { script.to_owned() };
    host.bulkhead(&["run", "-d", "--name", name, image, "sh", "-ec", &script]).ok();
    common::eventually("the files are made", || host.bulkhead(&["logs", name]).out() == "ready\n");
    if !running {
        host.bulkhead(&["wait", name]).ok();
    }
}

/// What is below /proc and /sys is no files; some of it cannot be read, and some waits for ever.
#[test]
fn a_running_root_comes_out_whole() {
    let host = host!();
    container(&host, "one", true);
    let tar = host.bulkhead(&["cp", "one:/", "-"]).ok().stdout;
    let mut names = Vec::new();
    for entry in tar::Archive::new(tar.as_slice()).entries().expect("a tar") {
        names.push(entry.expect("an entry").path().expect("a name").display().to_string());
    }
    let below =
        |dir: &str| names.iter().filter(|name| name.trim_start_matches("./").starts_with(dir)).count();
    assert_eq!((below("proc"), below("sys")), (1, 1), "{names:?}");
    assert!(below("data/www/index") == 1 && below("bin/") > 1, "{names:?}");
}

#[test]
fn files_and_directories_come_out() {
    let host = host!();
    for (name, running) in [("runs", true), ("ended", false)] {
        container(&host, name, running);
        let dir = host.dir().join(name);
        fs::create_dir(&dir).expect("mkdir");
        let cp = |from: &str, to: &str| {
            let to = format!("{}/{to}", dir.display());
            host.bulkhead(&["cp", &format!("{name}:{from}"), &to]).ok().prints("");
        };
        let read = |path: &str| fs::read_to_string(dir.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        cp("/data/www/index", "new-name");
        assert_eq!(read("new-name"), "page\n");
        cp("data/www/index", ".");
        let meta = dir.join("index").metadata().expect("stat");
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.mtime()), (0o640, 0, 1_580_608_922));
        // Over what is there.
        cp("/data/www/sub/f", "index");
        assert_eq!(read("index"), "deep\n");
        // A directory into one that is there: itself; into one that is not: as that; with /. its contents.
        fs::create_dir(dir.join("data")).expect("mkdir");
        cp("/data/www", "data");
        assert_eq!(read("data/www/sub/f"), "deep\n");
        cp("/data/www/", "data2");
        assert_eq!(read("data2/sub/f"), "deep\n");
        fs::create_dir(dir.join("data3")).expect("mkdir");
        cp("/data/www/.", "data3");
        assert_eq!(read("data3/sub/f"), "deep\n");
        assert!(!dir.join("data3/www").exists());
        let ino = |path: &str| dir.join(path).metadata().expect("stat").ino();
        assert_eq!(ino("data/www/index"), ino("data/www/hard"), "a hard link stays one");
        // A link is a link, unless it is to be followed.
        cp("/data/www/link", "link");
        assert_eq!(fs::read_link(dir.join("link")).expect("a link"), Path::new("index"));
        let to = dir.join("followed");
        host.bulkhead(&["cp", "-L", &format!("{name}:/data/www/link"), text(&to)]).ok();
        assert!(to.symlink_metadata().expect("stat").is_file());
        // The flag may stand last, and keeps the owner.
        host.bulkhead(&["cp", &format!("{name}:/data/www/."), text(&dir.join("owned")), "-a"]).ok();
        let meta = dir.join("owned/index").metadata().expect("stat");
        assert_eq!((meta.uid(), meta.gid()), (5, 6));
    }
}

#[test]
fn files_and_directories_go_in() {
    let host = host!();
    let tree = host.dir().join("tree");
    fs::create_dir_all(tree.join("sub")).expect("mkdir");
    fs::write(tree.join("file"), "from the host").expect("write");
    std::os::unix::fs::chown(tree.join("file"), Some(7), Some(8)).expect("chown");
    fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o4711)).expect("chmod");
    fs::write(tree.join("sub/large"), vec![7; 3 << 20]).expect("write");
    let local = text(&tree).to_owned();
    for (name, running) in [("runs", true), ("ended", false)] {
        container(&host, name, running);
        host.bulkhead(&["cp", &local, &format!("{name}:/new")]).ok();
        host.bulkhead(&["cp", &local, &format!("{name}:/data")]).ok();
        host.bulkhead(&["cp", &format!("{local}/."), &format!("{name}:/data/www/")]).ok();
        host.bulkhead(&["cp", "-a", &format!("{local}/file"), &format!("{name}:/owned")]).ok();
        host.bulkhead(&["commit", name, name]).ok();
        let script = "stat -c '%n %a %u %g %s' /new/file /data/tree/sub/large /data/www/file /data/www/index \
             /owned; cat /new/file";
        host.bulkhead(&["run", "--rm", name, "sh", "-c", script]).ok().prints(
            "/new/file 4711 0 0 13\n/data/tree/sub/large 644 0 0 3145728\n/data/www/file 4711 0 0 13\n\
             /data/www/index 640 5 6 5\n/owned 4711 7 8 13\nfrom the host",
        );
    }
}

#[test]
fn a_tar_goes_either_way() {
    let host = host!();
    container(&host, "one", true);
    let tar = host.bulkhead(&["cp", "one:/data/www", "-"]).ok().stdout;
    let names: Vec<String> = tar::Archive::new(&tar[..])
        .entries()
        .expect("tar")
        .map(|entry| entry.expect("entry").path().expect("path").display().to_string())
        .collect();
    assert_eq!(names, ["www/", "www/hard", "www/index", "www/link", "www/sub/", "www/sub/f"]);
    host.bulkhead_with_stdin(&["cp", "-", "one:/srv"], &tar).ok();
    host.bulkhead(&["exec", "one", "stat", "-c", "%u %g %h", "/srv/www/index"]).ok().prints("5 6 2\n");
    host.bulkhead_with_stdin(&["cp", "-", "one:/data/www/index"], &tar)
        .code(1)
        .complains("extraction point is not a directory");
    host.bulkhead_with_stdin(&["cp", "-", "one:/srv"], b"no tar at all, but longer than nothing").code(1);
    // A name that leads out is refused.
    let header = {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header
    };
    let evil = common::images::Tar::new().entry(header, "../../escaped", b"x").build();
    host.bulkhead_with_stdin(&["cp", "-", "one:/srv"], &evil)
        .code(1)
        .complains("it leads out of the destination");
}

/// What the world's archives are packed with, wherever an archive is taken.
#[test]
fn archives_are_taken_however_they_are_compressed() {
    let host = host!();
    host.busybox();
    let api = Api::start(&host);
    host.bulkhead(&["create", "--name", "box", "busybox", "true"]).ok();
    let dockerfile = "FROM busybox\nCOPY word /\n";
    let saved = Image::busybox().name("saved:latest").docker_archive(Compression::None);
    let mut known = 0;
    for program in ["gzip", "zstd", "bzip2", "xz"] {
        if !common::have(program) {
            continue;
        }
        known += 1;
        let pack = |bytes: &[u8]| {
            let mut command = Command::new(program);
            command.arg("-c");
            common::run(command, bytes).ok().stdout
        };
        let tar = pack(&Tar::new().file("word", 0o644, program).build());
        let word = |from: &str| {
            let tar = host.bulkhead(&["cp", from, "-"]).ok().stdout;
            String::from_utf8_lossy(&tar[512..512 + program.len()]).into_owned()
        };
        host.bulkhead_with_stdin(&["cp", "-", "box:/srv"], &tar).ok();
        assert_eq!(word("box:/srv/word"), program);
        if common::have("docker") {
            run(api.client("docker", &["cp", "-", "box:/tmp"]), &tar).ok();
            assert_eq!(word("box:/tmp/word"), program);
        }
        let file = host.file("packed", &tar);
        host.bulkhead(&["import", text(&file), &format!("file-{program}")]).ok();
        host.bulkhead_with_stdin(&["import", "-", &format!("pipe-{program}")], &tar).ok();
        for image in ["file", "pipe"] {
            let name = format!("{image}-{program}");
            host.bulkhead(&["create", "--name", &name, &name, "x"]).ok();
            assert_eq!(word(&format!("{name}:/word")), program);
        }
        let archive = pack(&saved);
        let file = host.file("saved", &archive);
        host.bulkhead(&["load", "-i", text(&file)]).ok().prints("Loaded image: saved:latest\n");
        host.bulkhead_with_stdin(&["load"], &archive).ok().prints("Loaded image: saved:latest\n");
        let context = Tar::new().file("Dockerfile", 0o644, dockerfile).file("word", 0o644, program).build();
        host.bulkhead_with_stdin(&["build", "-t", "built", "-"], &pack(&context)).ok();
        host.bulkhead(&["run", "--rm", "built", "cat", "/word"]).ok().prints(program);
        // Half of it is said to be broken, and not taken for the whole.
        host.bulkhead_with_stdin(&["cp", "-", "box:/srv"], &tar[..tar.len() / 2]).code(1);
    }
    assert!(known > 1, "these are everywhere");
}

#[test]
fn mounts_are_reached() {
    let host = host!();
    let bound = host.dir().join("bound");
    fs::create_dir(&bound).expect("mkdir");
    fs::write(bound.join("f"), "bound").expect("write");
    let image = host.busybox();
    let bind = format!("{}:/m", bound.display());
    host.bulkhead(&["run", "-d", "--name", "one", "-v", &bind, image, "sleep", "1000"]).ok();
    for _ in 0..2 {
        let out = host.dir().join("out");
        host.bulkhead(&["cp", "one:/m/f", text(&out)]).ok();
        assert_eq!(fs::read_to_string(&out).expect("read"), "bound");
        host.bulkhead(&["cp", text(&out), "one:/m/back"]).ok();
        assert_eq!(fs::read_to_string(bound.join("back")).expect("written through"), "bound");
        fs::remove_file(bound.join("back")).expect("unlink");
        // The second time it does not run.
        host.bulkhead(&["stop", "-t", "0", "one"]).ok();
    }
    let read_only = host.file("x", "x");
    host.bulkhead(&["run", "-d", "--name", "ro", "--read-only", image, "sleep", "1000"]).ok();
    host.bulkhead(&["cp", text(&read_only), "ro:/x"])
        .code(1)
        .complains("container rootfs is marked read-only");
}

#[test]
fn links_of_a_container_lead_nowhere_but_into_it() {
    let host = host!();
    let secret = host.file("secret", "of the host");
    let outside = host.dir().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    let image = host.busybox();
    let script = format!(
        "ln -s {} /secret; ln -s {} /outside; ln -s ../../../../../../etc/passwd /up; mkdir /d; \
         ln -s {} /d/in; echo ready; sleep 1000",
        secret.display(),
        outside.display(),
        outside.display()
    );
    host.bulkhead(&["run", "-d", "--name", "evil", image, "sh", "-ec", &script]).ok();
    common::eventually("the links are made", || host.bulkhead(&["logs", "evil"]).out() == "ready\n");
    let out = host.dir().join("out");
    for _ in 0..2 {
        host.bulkhead(&["cp", "-L", "evil:/secret", text(&out)])
            .code(1)
            .complains("Could not find the file /secret in container evil");
        host.bulkhead(&["cp", "-L", "evil:/up", text(&out)]).ok();
        assert!(fs::read_to_string(&out).expect("read").contains("app:x:1000:1000:Application"));
        host.bulkhead(&["cp", text(&secret), "evil:/outside/"]).code(1);
        assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0);
        host.bulkhead(&["stop", "-t", "0", "evil"]).ok();
    }
    // Nor does a link that is copied lead what comes after it out of the destination.
    let tree = host.dir().join("tree");
    fs::create_dir_all(tree.join("d")).expect("mkdir");
    symlink(&outside, tree.join("d/in")).expect("symlink");
    let from = host.dir().join("from");
    fs::create_dir_all(from.join("d/in")).expect("mkdir");
    fs::write(from.join("d/in/f"), "x").expect("write");
    host.bulkhead(&["cp", &format!("{}/.", from.display()), "evil:/"])
        .code(1)
        .complains("cannot overwrite non-directory \"d/in\" with directory");
    assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0);
}

#[test]
fn bad_input_is_refused_in_dockers_words() {
    let host = host!();
    container(&host, "one", false);
    let file = host.file("file", "x");
    let file = text(&file);
    let dir = host.dir();
    let dir = text(&dir);
    for (args, want) in [
        (&["cp", "one:/a", "two:/b"][..], "copying between containers is not supported"),
        (&["cp", "a", "b"], "must specify at least one container source"),
        (&["cp", "", "one:/b"], "source can not be empty"),
        (&["cp", "one:/b", ""], "destination can not be empty"),
        (&["cp", "nosuch:/a", "/tmp"], "Error response from daemon: No such container: nosuch"),
        (&["cp", file, "nosuch:/a"], "Error response from daemon: No such container: nosuch"),
        (
            &["cp", "one:/nope", dir],
            "Error response from daemon: Could not find the file /nope in container one",
        ),
        (&["cp", file, "one:/nope/x"], "Could not find the file /nope/x in container one"),
        (&["cp", "/nonexistent", "one:/x"], "lstat /nonexistent: no such file or directory"),
        (&["cp", dir, "one:/etc/passwd"], "cannot copy directory"),
        (&["cp", file, "one:/etc/passwd/"], "not a directory"),
        (&["cp", file, "one:/newdir/"], "no such directory"),
        (
            &["cp", "one:/etc", "/nonexistent/x"],
            "invalid output path: directory \"/nonexistent\" does not exist",
        ),
        (&["cp", "one:/a"], "bulkhead: 'bulkhead cp' requires 2 arguments"),
    ] {
        let out = host.bulkhead(args).prints("").complains(want);
        assert_eq!(out.status.code(), Some(1), "{out}");
    }
}
