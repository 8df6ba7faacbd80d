//! What a command has returned from survives a power cut.
//!
//! The power cut is simulated where it happens, below the file system: the host's root lies on an ext4 in
//! a file, and the moment a command returns, that file is copied. The copy holds what had reached the
//! device and nothing that was only in memory; it is then mounted like a disk after the cut. That this
//! would notice is shown each time by a file that nobody synced.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::images::{Compression, Image, Tar};
use common::{Host, Output};

/// An ext4 in a file, mounted until it is dropped.
struct Disk {
    file: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    fn make(dir: &Path, name: &str) -> Option<Self> {
        let file = dir.join(name);
        fs::File::create(&file).and_then(|file| file.set_len(400 << 20)).expect("disk");
        let mkfs = Command::new("mkfs.ext4").args(["-q", "-E", "nodiscard"]).arg(&file).status();
        assert!(mkfs.is_ok_and(|status| status.success()), "mkfs.ext4");
        Self::mount(dir, name)
    }

    fn mount(dir: &Path, name: &str) -> Option<Self> {
        let (file, mounted) = (dir.join(name), dir.join(format!("{name}.mounted")));
        fs::create_dir(&mounted).expect("mkdir");
        // A commit every hour: nothing reaches the device because time has passed.
        let mount = Command::new("mount").args(["-o", "loop,commit=3600"]).arg(&file).arg(&mounted).status();
        mount.is_ok_and(|status| status.success()).then_some(Self { file, mounted })
    }

    /// What a power cut at this moment would leave, mounted.
    ///
    /// A file that nobody syncs is written just before, and must be lost, or the cut cuts nothing. It is
    /// kept if somebody else's fsync comes in between (a monitor's, of the database): then once more.
    fn cut(&self, dir: &Path, name: &str) -> Self {
        for attempt in 0..8 {
            let (unsynced, name) = (format!("unsynced-{name}-{attempt}"), format!("{name}-{attempt}"));
            fs::write(self.mounted.join(&unsynced), "lost").expect("write");
            // Holes stay holes, so that this is quick.
            let copied =
                Command::new("cp").arg("--sparse=always").arg(&self.file).arg(dir.join(&name)).status();
            assert!(copied.is_ok_and(|status| status.success()), "cp");
            let after = Self::mount(dir, &name).expect("the file system recovers");
            if !after.mounted.join(&unsynced).exists() {
                return after;
            }
        }
        panic!("what nobody synced survives: the cut comes too late to prove a thing");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A monitor that has said its last word may still have the database open.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while nix::mount::umount(&self.mounted).is_err() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// The same command with its root on another disk.
fn on(disk: &Disk, host: &Host, args: &[&str]) -> Output {
    let mut command = Command::new(common::BULKHEAD);
    command.arg("--root").arg(disk.mounted.join("root")).arg("--run-root").arg(host.dir().join("run"));
    command.arg("--cgroup-parent").arg(host.cgroup_parent()).args(args);
    common::run(command, b"")
}

fn content(n: u32) -> Vec<u8> {
    (0..3000).map(|i| (i * n + i / 251) as u8).collect()
}

#[test]
fn a_loaded_image_survives_a_power_cut() {
    let host = host!();
    if !common::have("mkfs.ext4") {
        skip!("e2fsprogs");
    }
    let dir = host.dir();
    let Some(disk) = Disk::make(&dir, "disk") else { skip!("a loop device") };
    let mut files = Tar::new();
    for n in 0..1500 {
        files = files.file(&format!("f{n}"), 0o640, content(n));
    }
    let image = Image::busybox().name("kept:latest").layer(files.build());
    let archive = host.file("image.tar", image.docker_archive(Compression::Gzip));
    let archive = archive.to_str().expect("UTF-8");

    on(&disk, &host, &["images"]).ok();
    for method in ["threads", "io_uring"] {
        let mut load = Command::new(common::BULKHEAD);
        load.arg("--root").arg(disk.mounted.join("root")).arg("--run-root").arg(dir.join("run"));
        load.args(["load", "-i", archive]).env("BULKHEAD_UNPACK", method);
        common::run(load, b"").ok();
        let after = disk.cut(&dir, &format!("after-{method}"));
        let names = on(&after, &host, &["images", "--format", "{{.Repository}}"]).ok().out();
        assert_eq!(names, "kept\n", "{method}");
        let layers = |disk: &Disk| -> Vec<PathBuf> {
            let all = fs::read_dir(disk.mounted.join("root/layers")).expect("layers").flatten();
            let mut all: Vec<_> = all.map(|entry| entry.path().join("diff")).collect();
            all.sort();
            all
        };
        let found = layers(&after).into_iter().find(|layer| layer.join("f0").exists()).expect("the layer");
        for n in 0..1500 {
            let file = found.join(format!("f{n}"));
            assert!(fs::read(&file).expect("read") == content(n), "{method}: {} differs", file.display());
        }
        let ran = on(&after, &host, &["run", "--rm", "--network", "none", "kept", "cat", "/f7"]).ok();
        assert!(ran.stdout == content(7));
        drop(after);
        on(&disk, &host, &["rmi", "kept"]).ok();
    }

    // And what a commit has returned from.
    on(&disk, &host, &["load", "-i", archive]).ok();
    let id = on(
        &disk,
        &host,
        &["run", "-d", "--network", "none", "kept", "sh", "-c", "echo made > /made; sleep 1000"],
    )
    .ok()
    .line();
    common::eventually("the file is made", || {
        on(&disk, &host, &["exec", &id, "cat", "/made"]).out() == "made\n"
    });
    on(&disk, &host, &["commit", &id, "made:1"]).ok();
    let after = disk.cut(&dir, "after-commit");
    on(&disk, &host, &["rm", "-f", &id]).ok();
    let ran = on(&after, &host, &["run", "--rm", "--network", "none", "made:1", "cat", "/made"]).ok();
    assert_eq!(ran.out(), "made\n");
}
