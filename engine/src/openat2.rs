//! One way to open a path that may be hostile.
//!
//! Paths of containers, images and build contexts hold symlinks that somebody else made, so they are resolved by the
//! kernel, below a directory (`RESOLVE_BENEATH`) or as if it were the root (`RESOLVE_IN_ROOT`). Both promise that a
//! `..` does not lead out, and the kernel keeps that promise by giving up: when anything on the machine was renamed or
//! mounted while it walked over a `..`, it answers EAGAIN and the caller is to ask again (fs/namei.c, `handle_dots`).
//! On a machine that starts containers that is an everyday answer, so nobody in this crate calls openat2 but here.

use std::os::fd::{AsFd, OwnedFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::OpenHow;

/// How often one path is asked for. A walk takes microseconds: beside four processes that did nothing but rename, one
/// in five to twenty-five was given up, and never more than three in a row (two thousand walks over three `..`). The
/// end is for an EAGAIN of another kind, a lease that is not given up.
const ATTEMPTS: u32 = 10_000;

/// openat2(2), asked again when something was renamed meanwhile or a signal came.
///
/// Minimum kernel: 5.6.
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub(crate) fn openat2<P: NixPath + ?Sized>(dir: impl AsFd, path: &P, how: OpenHow) -> nix::Result<OwnedFd> {
    let dir = dir.as_fd();
    for _ in 1..ATTEMPTS {
        match nix::fcntl::openat2(dir, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            opened => return opened,
        }
    }
    nix::fcntl::openat2(dir, path, how)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::fcntl::{OFlag, ResolveFlag};

    use super::*;

    #[test]
    fn a_rename_elsewhere_is_no_reason_to_fail() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(dir.path().join("a/b")).expect("mkdir");
        std::os::unix::fs::symlink("../a/b", dir.path().join("a/link")).expect("symlink");
        fs::write(dir.path().join("x"), "").expect("write");
        let root = fs::File::open(dir.path()).expect("open");
        let how = || {
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT)
        };
        let path = "a/link/../../a/link/../b";
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (x, y) = (dir.path().join("x"), dir.path().join("y"));
                while !done.load(Ordering::Relaxed) {
                    fs::rename(&x, &y).and_then(|()| fs::rename(&y, &x)).expect("rename");
                }
            });
            // The kernel gives up one in four of them.
            let opened: Vec<_> = (0..20_000).map(|_| openat2(&root, path, how()).map(drop)).collect();
            done.store(true, Ordering::Relaxed);
            assert!(opened.iter().all(Result::is_ok));
        });
    }
}
