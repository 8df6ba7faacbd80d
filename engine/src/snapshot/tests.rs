//! Real overlays, each test in a mount namespace of its own thread.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::*;
use crate::digest::{DiffId, Digest};

/// A layout with `count` layers, lowest first: each has the file `all` with its own number, and a file
/// named after that number.
fn layers(root: &Path, count: usize) -> (Layout, Vec<ChainId>) {
    let layout = Layout { root: root.to_owned(), run_root: root.join("run") };
    for dir in [layout.containers(), layout.scratch()] {
        fs::create_dir_all(dir).expect("mkdir");
    }
    let diff_ids: Vec<_> = (0..count).map(|n| DiffId(Digest::of(&n.to_le_bytes()))).collect();
    let chain = ChainId::chain(&diff_ids);
    for (number, id) in chain.iter().enumerate() {
        let diff = layout.layers().join(id.0.hex()).join("diff");
        fs::create_dir_all(&diff).expect("diff");
        for name in ["all".to_owned(), number.to_string()] {
            fs::write(diff.join(name), number.to_string()).expect("write");
        }
    }
    (layout, chain)
}

/// Runs `test` in a thread with a mount namespace of its own, or says why that is not possible.
fn isolated(test: impl FnOnce(&Path) + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            kernel::unshare(libc::CLONE_NEWNS).expect("unshare");
            let none: Option<&str> = None;
            let flags = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(none, "/", none, flags, none).expect("private");
            test(path);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Attaches a mount and returns where.
fn attach(mount: &OwnedFd, at: &Path) -> PathBuf {
    fs::create_dir_all(at).expect("mount point");
    let target = nix::fcntl::open(at, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).expect("open");
    kernel::move_mount(mount.as_fd(), target.as_fd()).expect("move_mount");
    at.to_owned()
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(path).expect("read")
}

#[test]
fn layers_are_stacked_and_changes_go_on_top() {
    isolated(|dir| {
        let (layout, chain) = layers(dir, 3);
        let snapshot = Snapshot::prepare(&layout, "c", &chain).expect("prepare");
        let merged = attach(&snapshot.mount().expect("mount"), &dir.join("merged"));
        assert_eq!(read(merged.join("all")), "2");
        assert_eq!(read(merged.join("0")), "0");
        fs::write(merged.join("new"), "new").expect("write");
        fs::remove_file(merged.join("1")).expect("unlink");
        assert_eq!(read(snapshot.upper().join("new")), "new");
        assert!(layout.layers().join(chain[1].0.hex()).join("diff/1").exists());
        // Mounted again after an end, the changes are still there.
        nix::mount::umount2(&merged, nix::mount::MntFlags::MNT_DETACH).expect("umount");
        let again = Snapshot::open(&layout, "c", &chain);
        let merged = attach(&again.mount().expect("mount"), &dir.join("again"));
        assert_eq!(read(merged.join("new")), "new");
        assert!(!merged.join("1").exists());
    });
}

#[test]
fn as_many_layers_as_docker_allows_work_by_either_interface() {
    isolated(|dir| {
        let (layout, chain) = layers(dir, 127);
        let first = std::io::Error::from_raw_os_error(libc::ENOSYS);
        for (id, by_data) in [("context", false), ("data", true)] {
            let snapshot = Snapshot::prepare(&layout, id, &chain).expect("prepare");
            let mount = if by_data { snapshot.mount_by_data(true, &first) } else { snapshot.mount() };
            let merged = attach(&mount.expect("mount"), &dir.join("merged").join(id));
            assert_eq!(read(merged.join("all")), "126");
            for number in 0..127 {
                assert_eq!(read(merged.join(number.to_string())), number.to_string());
            }
            fs::write(merged.join("0"), "changed").expect("write");
            assert_eq!(read(snapshot.upper().join("0")), "changed");
            fs::remove_file(merged.join("1")).expect("unlink");
            // The same tree beside it, to be read only.
            let view = if by_data { snapshot.mount_by_data(false, &first) } else { snapshot.view() };
            let view = attach(&view.expect("view"), &dir.join("view").join(id));
            assert_eq!((read(view.join("0")), read(view.join("all"))), ("changed".into(), "126".into()));
            assert!(!view.join("1").exists());
            let refused = fs::write(view.join("2"), "x").expect_err("read-only");
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        }
    });
}

#[test]
fn a_deep_root_does_not_stop_a_mount() {
    isolated(|dir| {
        let deep = (0..40).fold(dir.to_owned(), |dir, _| dir.join("directory"));
        let (layout, chain) = layers(&deep, 3);
        assert!(layout.layers().as_os_str().len() > FSCONFIG_STRING_MAX);
        let snapshot = Snapshot::prepare(&layout, "c", &chain).expect("prepare");
        let merged = attach(&snapshot.mount().expect("mount"), &dir.join("merged"));
        assert_eq!(read(merged.join("all")), "2");
    });
}

#[test]
fn an_image_without_layers_has_what_is_mounted_on_and_nothing_else() {
    isolated(|dir| {
        let (layout, chain) = layers(dir, 0);
        let snapshot = Snapshot::prepare(&layout, "c", &chain).expect("prepare");
        let merged = attach(&snapshot.mount().expect("mount"), &dir.join("merged"));
        let mut names: Vec<_> =
            fs::read_dir(&merged).expect("readdir").map(|entry| entry.expect("entry").file_name()).collect();
        names.sort();
        assert_eq!(names, DIRECTORIES);
        assert_eq!(fs::read_dir(snapshot.upper()).expect("readdir").count(), 0);
        fs::write(merged.join("new"), "new").expect("write");
        assert_eq!(read(snapshot.upper().join("new")), "new");
    });
}

#[test]
fn what_an_image_has_covers_the_mount_points() {
    isolated(|dir| {
        let (layout, chain) = layers(dir, 1);
        let diff = layout.layers().join(chain[0].0.hex()).join("diff");
        fs::create_dir(diff.join("etc")).expect("etc");
        fs::set_permissions(diff.join("etc"), fs::Permissions::from_mode(0o700)).expect("chmod");
        fs::write(diff.join("etc/hosts"), "theirs").expect("hosts");
        std::os::unix::fs::symlink("all", diff.join("proc")).expect("proc");
        let snapshot = Snapshot::prepare(&layout, "c", &chain).expect("prepare");
        let merged = attach(&snapshot.mount().expect("mount"), &dir.join("merged"));
        assert_eq!(read(merged.join("etc/hosts")), "theirs");
        assert_eq!(fs::metadata(merged.join("etc")).expect("etc").mode() & 0o7777, 0o700);
        assert_eq!(read(merged.join("proc")), "0");
        assert_eq!(read(merged.join("etc/hostname")), "");
    });
}

#[test]
fn the_root_looks_like_the_images() {
    isolated(|dir| {
        let (layout, chain) = layers(dir, 2);
        let top = layout.layers().join(chain[1].0.hex()).join("diff");
        fs::set_permissions(&top, fs::Permissions::from_mode(0o1777)).expect("chmod");
        std::os::unix::fs::chown(&top, Some(7), Some(8)).expect("chown");
        let snapshot = Snapshot::prepare(&layout, "c", &chain).expect("prepare");
        let merged = attach(&snapshot.mount().expect("mount"), &dir.join("merged"));
        let stat = fs::metadata(merged).expect("stat");
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (7, 8, 0o1777));
    });
}

#[test]
fn volatile_is_only_where_it_was_asked_for() {
    isolated(|dir| {
        let (layout, chain) = layers(dir, 1);
        for (id, volatile) in [("kept", false), ("rm", true)] {
            let snapshot = Snapshot::prepare(&layout, id, &chain).expect("prepare").volatile(volatile);
            let merged = attach(&snapshot.mount().expect("mount"), &dir.join("merged").join(id));
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
            let line = mounts.lines().find(|l| l.contains(merged.to_str().expect("utf-8"))).expect("mounted");
            assert_eq!(line.contains("volatile"), volatile, "{line}");
        }
    });
}

#[test]
fn a_detached_mount_is_seen_by_nobody_and_gone_with_its_descriptor() {
    isolated(|dir| {
        let (layout, chain) = layers(dir, 2);
        let snapshot = Snapshot::prepare(&layout, "c", &chain).expect("prepare");
        let before = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        let mount = snapshot.mount().expect("mount");
        let during = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
        drop(mount);
        assert_eq!(before, during);
    });
}

#[test]
fn one_container_has_one_snapshot_and_a_missing_layer_is_an_error() {
    isolated(|dir| {
        let (layout, chain) = layers(dir, 2);
        Snapshot::prepare(&layout, "c", &chain).expect("prepare");
        assert!(matches!(Snapshot::prepare(&layout, "c", &chain), Err(Error::Io { call: "mkdir", .. })));
        Snapshot::remove(&layout, "c").expect("remove");
        Snapshot::remove(&layout, "c").expect("remove again");
        assert!(!layout.containers().join("c").exists());
        let lowest = layout.layers().join(chain[0].0.hex());
        let snapshot = Snapshot::prepare(&layout, "c", &chain).expect("prepare");
        fs::remove_dir_all(lowest).expect("remove a layer");
        assert!(snapshot.mount().is_err());
    });
}
