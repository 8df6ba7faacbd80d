//! A load under which something breaks: no descriptors, a disk that fails, a reader that fails, Ctrl-C.
//!
//! Each by both appliers: a clear error in one line, no part of the image to be seen, and nothing left
//! after the next command.

mod common;

use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use common::images::{Compression, Image, Tar};
use common::{Host, Output};

const METHODS: [&str; 2] = ["threads", "io_uring"];

/// Bytes that do not compress.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(step).collect()
}

/// An image of two layers, of many files and of one large one.
fn image() -> Image {
    let mut files = Tar::new();
    for n in 0..400 {
        files = files.file(&format!("d{n}"), 0o644, noise(n, 20_000));
    }
    Image::busybox()
        .name("broken:latest")
        .layer(files.build())
        .layer(Tar::new().file("large", 0o644, noise(7, 12 << 20)).build())
}

fn load(host: &Host, method: &str, archive: &Path) -> Command {
    let mut command = host.command(&["load", "-i", archive.to_str().expect("UTF-8")]);
    command.env("BULKHEAD_UNPACK", method);
    command
}

/// The error is one line, and of the image there is nothing, before and after what the next command sweeps.
fn nothing_of_it(host: &Host, out: &Output, layers: usize) {
    assert_eq!(out.err().trim_end().lines().count(), 1, "one line\n{out}");
    host.bulkhead(&["images", "-q", "broken"]).ok().prints("");
    host.bulkhead(&["run", "--rm", "broken", "true"]).code(125);
    assert_eq!(entries(&host.root().join("layers")), layers, "no layer of an image that did not load\n{out}");
    common::eventually("no scratch directory", || entries(&host.root().join("tmp")) == 0);
    host.bulkhead(&["run", "--rm", host.busybox(), "true"]).ok();
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn no_descriptors_are_left() {
    let host = host!();
    host.busybox();
    let layers = entries(&host.root().join("layers"));
    let archive = host.file("image.tar", image().docker_archive(Compression::Gzip));
    let (mut failed, mut loaded) = (0, 0);
    for method in METHODS {
        for most in [4, 6, 8, 10, 12, 14, 16, 20, 24, 32] {
            let mut command = load(&host, method, &archive);
            // SAFETY: setrlimit is async-signal-safe and touches only the child.
            unsafe {
                command.pre_exec(move || {
                    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
                    if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                    Ok(())
                })
            };
            let out = common::run(command, b"");
            if out.status.success() {
                loaded += 1;
                host.bulkhead(&["rmi", "broken"]).ok();
                continue;
            }
            failed += 1;
            assert!(out.status.code() == Some(1), "{method}, {most}: {out}");
            // SQLite has words of its own for it.
            let said = out.err();
            assert!(
                ["Too many open files", "unable to open database file", "io_uring"]
                    .iter()
                    .any(|w| said.contains(w)),
                "{method}, {most}: {out}"
            );
            nothing_of_it(&host, &out, layers);
        }
    }
    assert!(failed > 0 && loaded > 0, "both sides of the limit were seen: {failed} and {loaded}");
}

#[test]
fn a_source_that_fails_is_named() {
    let host = host!();
    host.busybox();
    let layers = entries(&host.root().join("layers"));
    for method in METHODS {
        // Nothing is mapped at the beginning of that address space: reading it is EIO.
        let out = common::run(load(&host, method, Path::new("/proc/self/mem")), b"");
        assert_eq!(out.status.code(), Some(1), "{out}");
        assert!(out.err().contains("Input/output error") && out.err().contains("/proc/self/mem"), "{out}");
        nothing_of_it(&host, &out, layers);
    }
}

/// A file system whose device fails on writing back: ext4 in a file that does not fit where it lies.
#[test]
fn a_disk_that_fails_at_the_last_moment_is_noticed() {
    drop(host!());
    if !common::have("mkfs.ext4") {
        skip!("e2fsprogs");
    }
    let below = tempfile::tempdir().expect("tempdir");
    let none = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), below.path(), Some("tmpfs"), none, Some("size=16m")).expect("tmpfs");
    let result = std::panic::catch_unwind(|| {
        let disk = below.path().join("disk");
        fs::File::create(&disk).and_then(|file| file.set_len(256 << 20)).expect("disk");
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-E", "lazy_itable_init=1,nodiscard", "-O", "^has_journal"])
            .arg(&disk)
            .status();
        assert!(made.is_ok_and(|status| status.success()), "mkfs");
        let mounted = below.path().join("mounted");
        fs::create_dir(&mounted).expect("mkdir");
        let status =
            Command::new("mount").args(["-o", "loop,errors=continue"]).arg(&disk).arg(&mounted).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err("a loop device");
        }
        // Each on a fresh host: a file system that failed once may have lost what was there.
        let result = std::panic::catch_unwind(|| {
            let host = Host::at(&mounted).expect("as above");
            let archive = tempfile::NamedTempFile::new().expect("archive");
            fs::write(archive.path(), image().docker_archive(Compression::None)).expect("write");
            host.bulkhead(&["images"]).ok();
            let out = common::run(load(&host, "threads", archive.path()), b"");
            assert!(!out.status.success(), "a load that is not on the disk: {out}");
            assert!(out.err().contains("Input/output error"), "{out}");
            let layers = host.root().join("layers");
            assert_eq!(entries(&layers), 0, "no layer that may not be on the disk");
        });
        let status = Command::new("umount").arg(&mounted).status();
        assert!(status.is_ok_and(|status| status.success()), "umount");
        result.map_err(|panic| std::panic::resume_unwind(panic))
    });
    nix::mount::umount(below.path()).expect("umount");
    match result {
        Ok(Ok(())) => {}
        Ok(Err(needs)) => skip!("{needs}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn control_c_leaves_nothing() {
    let host = host!();
    host.busybox();
    let layers = entries(&host.root().join("layers"));
    let archive = host.file("image.tar", image().docker_archive(Compression::Gzip));
    let mut interrupted = 0;
    for method in METHODS {
        for delay in [0, 2, 5, 10, 20, 30, 45, 60, 80, 100] {
            let mut command = load(&host, method, &archive);
            let mut child = common::heeding_interrupts(&mut command)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("load");
            std::thread::sleep(std::time::Duration::from_millis(delay));
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("kill");
            let status = common::wait(&mut child, "load");
            if status.success() {
                host.bulkhead(&["rmi", "broken"]).ok();
                continue;
            }
            interrupted += 1;
            assert!(
                status.signal() == Some(libc::SIGINT) || status.code() == Some(130),
                "ended as Ctrl-C ends a command: {status}"
            );
            host.bulkhead(&["images", "-q", "broken"]).ok().prints("");
            assert_eq!(entries(&host.root().join("layers")), layers, "{method} after {delay} ms");
            common::eventually("no scratch directory", || entries(&host.root().join("tmp")) == 0);
        }
    }
    assert!(interrupted > 0, "no load was caught");
    host.bulkhead(&["load", "-i", archive.to_str().expect("UTF-8")]).ok();
    host.bulkhead(&["run", "--rm", "broken", "test", "-e", "/d399"]).ok();
}
