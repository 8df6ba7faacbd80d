//! A full disk: a clear error, nothing half-made, and what was there still works.

mod common;

use common::Host;
use common::images::{Compression, Image, Tar};

#[test]
fn load_onto_a_full_disk() {
    // Asks for what every host needs before anything is mounted.
    drop(host!());
    let small = tempfile::tempdir().expect("tempdir");
    let none = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), small.path(), Some("tmpfs"), none, Some("size=24m")).expect("mount");
    // Everything that can fail runs under catch_unwind, so that the mount never stays.
    let result = std::panic::catch_unwind(|| scenario(&Host::at(small.path()).expect("as above")));
    nix::mount::umount(small.path()).expect("umount");
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn scenario(host: &Host) {
    let image = host.busybox();
    let layers = || std::fs::read_dir(host.root().join("layers")).expect("layers").count();
    let before = layers();
    // The archive itself comes through a pipe: it would not fit beside its own layers.
    let noise = |seed: u32| -> Vec<u8> {
        let mut state = seed;
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..12 << 20).map(step).collect()
    };
    let big = Image::busybox()
        .name("big:latest")
        .layer(Tar::new().file("one", 0o644, noise(1)).build())
        .layer(Tar::new().file("two", 0o644, noise(2)).build());
    let methods = ["threads", "io_uring"];
    for (compression, method) in
        [Compression::None, Compression::Gzip].into_iter().flat_map(|c| methods.map(|method| (c, method)))
    {
        let mut load = host.command(&["load"]);
        load.env("BULKHEAD_UNPACK", method);
        let out = common::run(load, &big.docker_archive(compression)).code(1);
        assert!(out.err().contains("No space left on device"), "{out}");
        assert_eq!(out.err().trim_end().lines().count(), 1, "one line\n{out}");
        assert_eq!(layers(), before, "no layer of an image that did not load");
        host.bulkhead(&["run", "--rm", image, "true"]).ok();
        host.bulkhead(&["run", "--rm", "big", "true"]).code(125);
    }
    // There is room again for what fits.
    host.load(
        &Image::busybox()
            .name("small:latest")
            .layer(Tar::new().file("x", 0o644, b"x").build())
            .docker_archive(Compression::None),
    );
    host.bulkhead(&["run", "--rm", "small", "cat", "/x"]).ok().prints("x");
    common::eventually("nothing is left", || host.leftovers().is_empty());
}
