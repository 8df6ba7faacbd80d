//! The harness itself: its archives are what the field's own tools accept, and its leak check finds
//! leaks. A harness that cannot fail would make every suite built on it worthless.

mod common;

use std::process::Command;

use common::images::{self, Compression, Image};

/// Runs skopeo, which reads both archive formats and checks every digest.
fn skopeo(source: &str) -> common::Output {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--config", source]);
    common::run(command, b"")
}

#[test]
fn archives_are_what_skopeo_reads() {
    let host = host!();
    if !common::have("skopeo") {
        skip!("skopeo");
    }
    for (number, compression) in Compression::ALL.into_iter().enumerate() {
        let image = images::deep(5);
        let docker = host.file(&format!("docker-{number}.tar"), image.docker_archive(compression));
        let oci = host.file(&format!("oci-{number}.tar"), image.oci_archive(compression));
        let layout = host.dir().join(format!("layout-{number}"));
        image.oci_layout(&layout, compression);
        let sources = [
            format!("docker-archive:{}", docker.display()),
            format!("oci-archive:{}", oci.display()),
            format!("oci:{}", layout.display()),
        ];
        for source in sources {
            let config: serde_json::Value =
                serde_json::from_slice(&skopeo(&source).ok().stdout).expect("JSON");
            assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(5), "{source}");
            // A blob whose digest does not match its name is found by copying it.
            let mut copy = Command::new("skopeo");
            let target = host.dir().join(format!("copy-{}", source.replace([':', '/'], "-")));
            copy.args(["copy", "--quiet", "--insecure-policy", &source])
                .arg(format!("dir:{}", target.display()));
            common::run(copy, b"").ok();
        }
    }
}

#[test]
fn the_same_image_is_the_same_bytes() {
    if !images::have_busybox() {
        skip!("busybox-static");
    }
    assert_eq!(
        Image::busybox().docker_archive(Compression::Gzip),
        Image::busybox().docker_archive(Compression::Gzip)
    );
    assert_ne!(images::users().id(), Image::busybox().id());
}

#[test]
fn the_leak_check_sees_what_is_left() {
    let host = host!();
    assert_eq!(host.leftovers(), Vec::<String>::new());

    let point = host.dir();
    let none: Option<&str> = None;
    nix::mount::mount(Some("tmpfs"), &point, Some("tmpfs"), nix::mount::MsFlags::empty(), none)
        .expect("mount");
    assert!(host.leftovers().iter().any(|l| l.starts_with("mount ")), "{:?}", host.leftovers());
    nix::mount::umount(&point).expect("umount");

    let mut sleeper = Command::new("sh")
        .args(["-c", "read line; :"])
        .arg(host.root())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sh");
    // posix_spawn returns a moment before the new command line can be read from /proc.
    common::eventually("the process is seen", || host.leftovers().iter().any(|l| l.starts_with("process ")));
    sleeper.kill().expect("kill");
    sleeper.wait().expect("wait");

    std::fs::create_dir_all(host.root().join("tmp/half-a-layer")).expect("mkdir");
    assert!(host.leftovers().iter().any(|l| l.ends_with("half-a-layer")), "{:?}", host.leftovers());
    std::fs::remove_dir_all(host.root()).expect("rm");
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn the_leak_check_sees_cgroups() {
    let host = host!();
    let Some(hierarchy) = common::cgroup_hierarchies().into_iter().find(|h| {
        std::fs::create_dir_all(h.join(host.cgroup_parent().trim_start_matches('/')).join("leaked")).is_ok()
    }) else {
        skip!("a writable cgroup hierarchy");
    };
    assert!(
        host.leftovers().iter().any(|l| l.starts_with("cgroup ") && l.ends_with("leaked")),
        "{hierarchy:?}: {:?}",
        host.leftovers()
    );
    host.expect_leftovers();
    drop(host);
}
