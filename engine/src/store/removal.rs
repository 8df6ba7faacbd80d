//! Removing a tree that a container filled.
//!
//! `std::fs::remove_dir_all` holds a descriptor for each level it is in, and a container may nest directories as
//! deep as it likes: one that went deeper than we may open files could never be removed, and every later command
//! would stumble over it. Here a fixed number of levels is open at once. What lies deeper is moved up to the root of
//! the tree, one rename for the whole subtree, and is emptied from there.
//!
//! Every step is an `openat` or `unlinkat` of one name with `O_NOFOLLOW`, so that nothing that is renamed or linked
//! under our feet leads out of the tree.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Levels that are open at once.
const DEPTH: usize = 32;

/// Removes a directory and everything in it, however deep. What cannot be removed stays, everything else goes; the
/// error is the first one met. Links are removed and not followed, but for the path itself above its last name.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let mut root = nix::fcntl::open(path, DIRECTORY, Mode::empty()).and_then(Dir::from_fd)?;
    let top = root.as_fd().try_clone_to_owned()?;
    let mut emptying = Emptying { top: top.as_fd(), moved: 0, first: None };
    loop {
        let before = emptying.moved;
        emptying.empty(&mut root, 0);
        // What was moved up may have been listed already, or not.
        if emptying.moved == before {
            break;
        }
    }
    match (emptying.first, std::fs::remove_dir(path)) {
        // Why it is not empty says more than that it is not.
        (Some(errno), Err(_)) => Err(errno.into()),
        (_, removed) => removed,
    }
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

struct Emptying<'a> {
    top: BorrowedFd<'a>,
    /// Directories moved up so far.
    moved: u64,
    first: Option<Errno>,
}

impl Emptying<'_> {
    fn empty(&mut self, dir: &mut Dir, depth: usize) {
        let mut names: Vec<(CString, bool)> = Vec::new();
        loop {
            names.clear();
            // So many at a time: a directory may hold more names than we want to remember.
            for entry in dir.iter() {
                match entry {
                    Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                    Ok(entry) => names.push((
                        entry.file_name().to_owned(),
                        matches!(entry.file_type(), Some(Type::Directory) | None),
                    )),
                    Err(errno) => {
                        self.first.get_or_insert(errno);
                        break;
                    }
                }
                if names.len() == BATCH {
                    break;
                }
            }
            let mut removed = 0;
            for (name, may_be_directory) in &names {
                match self.remove(dir, name, *may_be_directory, depth) {
                    Ok(()) | Err(Errno::ENOENT) => removed += 1,
                    Err(errno) => {
                        self.first.get_or_insert(errno);
                    }
                }
            }
            // The next reading begins at the front. Where nothing of a full batch went, it would find the same.
            if names.len() < BATCH || removed == 0 {
                return;
            }
        }
    }

    fn remove(&mut self, dir: &Dir, name: &CStr, may_be_directory: bool, depth: usize) -> nix::Result<()> {
        if !may_be_directory {
            match unlinkat(dir.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
                Err(Errno::EISDIR) => {}
                other => return other,
            }
        }
        match unlinkat(dir.as_fd(), name, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTDIR) => return unlinkat(dir.as_fd(), name, UnlinkatFlags::NoRemoveDir),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            other => return other,
        }
        if depth == DEPTH {
            return self.lift(dir, name);
        }
        let mut child = openat(dir.as_fd(), name, DIRECTORY, Mode::empty()).and_then(Dir::from_fd)?;
        self.empty(&mut child, depth + 1);
        drop(child);
        match unlinkat(dir.as_fd(), name, UnlinkatFlags::RemoveDir) {
            // Something in it stays, and the reason is known.
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if self.first.is_some() => Ok(()),
            other => other,
        }
    }

    /// Moves a directory up to the root of the tree.
    fn lift(&mut self, dir: &Dir, name: &CStr) -> nix::Result<()> {
        loop {
            let to = format!("lifted-{}", self.moved);
            self.moved += 1;
            match renameat(dir.as_fd(), name, self.top, to.as_str()) {
                // The tree has that name itself.
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                Err(errno) => {
                    self.moved -= 1;
                    return Err(errno);
                }
                Ok(()) => return Ok(()),
            }
        }
    }
}

/// Names that are remembered at once.
const BATCH: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A chain of directories, made as a container makes one: each inside the one before.
    fn nest(at: &Path, levels: usize) {
        fs::create_dir(at).unwrap();
        let mut dir = Dir::open(at, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..levels {
            nix::sys::stat::mkdirat(dir.as_fd(), "d", Mode::from_bits_truncate(0o700)).unwrap();
            let below = openat(dir.as_fd(), "d", DIRECTORY, Mode::empty()).unwrap();
            dir = Dir::from_fd(below).unwrap();
        }
    }

    #[test]
    fn a_tree_deeper_than_there_are_descriptors_goes() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for name in ["a", "b"] {
            nest(&tree.join(name), 3000);
        }
        // Names that what is moved up would like to have.
        fs::write(tree.join("lifted-0"), "a file").unwrap();
        fs::create_dir_all(tree.join("lifted-1/full")).unwrap();
        fs::create_dir(tree.join("lifted-2")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn links_lead_nowhere_and_many_names_go() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, other) = (dir.path().join("tree"), dir.path().join("other"));
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        symlink(&other, tree.join("sub/link")).unwrap();
        for n in 0..=BATCH {
            fs::write(tree.join(format!("sub/{n}")), "").unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && other.join("kept").exists());
        symlink(&other, &tree).unwrap();
        assert!(remove_tree(&tree).is_err(), "a link is no tree");
        assert!(other.join("kept").exists());
        let gone = remove_tree(&dir.path().join("nothing")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_cannot_go_stays_alone() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("mounted")).unwrap();
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir_all(tree.join("z/y")).unwrap();
        let at = tree.join("mounted");
        // A mount point is what a removal meets that it cannot remove.
        let mounted =
            nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>);
        mounted.unwrap();
        let refused = remove_tree(&tree);
        nix::mount::umount(&at).unwrap();
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EBUSY));
        assert_eq!(fs::read_dir(&tree).unwrap().count(), 1);
        remove_tree(&tree).unwrap();
    }
}
