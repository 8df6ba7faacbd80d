//! What a directory tree takes: the one walk that `ps -s`, `df`, `prune`, `inspect -s` and the exporter have
//! their figures from.
//!
//! The tree may be a running container's, which renames directories and plants symbolic links under our
//! feet: every step is an `openat` of one name that is not followed. It may be deeper than any path is long
//! and than we may open descriptors: of the directories on the way only the deepest are open, and a closed
//! one is opened again as the parent of the one below it, if that is still the same.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};

use super::Error;
use super::apply::is;

/// Directories open at once.
const OPEN: usize = 64;
/// How a directory is opened.
const FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// What a directory tree takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the regular files' contents; a file with several names counts once.
    pub bytes: u64,
    /// Bytes on disk of everything.
    pub allocated: u64,
    /// Files, directories and everything else, each once, without the root.
    pub inodes: u64,
    /// False when a part could not be seen, so that there may be more: it was moved meanwhile, or the process
    /// has no descriptors left.
    pub complete: bool,
}

impl Usage {
    /// Bytes of contents, unless there may be more of them.
    pub fn known(self) -> Option<u64> {
        self.complete.then_some(self.bytes)
    }
}

/// A directory on the way down.
struct Level {
    /// Open at the deepest [`OPEN`] levels.
    dir: Option<OwnedFd>,
    /// Device and inode.
    id: (u64, u64),
    /// Directories in it that are still to be entered.
    below: Vec<CString>,
}

/// Walks a tree.
pub fn disk_usage(root: &Path) -> Result<Usage, Error> {
    let failed = |call: &'static str| move |errno: Errno| Error::file(call, root, errno.into());
    let dir = nix::fcntl::open(root, FLAGS, Mode::empty()).map_err(failed("open"))?;
    let mut walk = Walk {
        usage: Usage { bytes: 0, allocated: 0, inodes: 0, complete: true },
        linked: HashSet::new(),
        levels: Vec::new(),
    };
    walk.enter(dir).map_err(failed("readdir"))?;
    walk.run();
    Ok(walk.usage)
}

struct Walk {
    usage: Usage,
    /// Files of several names that were counted.
    linked: HashSet<(u64, u64)>,
    levels: Vec<Level>,
}

impl Walk {
    fn run(&mut self) {
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.below.pop() else {
                self.leave();
                continue;
            };
            let Some(dir) = &level.dir else { return self.give_up() };
            match openat(dir, name.as_c_str(), FLAGS, Mode::empty()).and_then(|dir| self.enter(dir)) {
                // Gone, or another thing by now.
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(_) => self.usage.complete = false,
            }
        }
    }

    /// Counts what is in a directory, which is then the deepest.
    fn enter(&mut self, dir: OwnedFd) -> nix::Result<()> {
        let stat = fstat(&dir)?;
        let id = (stat.st_dev, stat.st_ino);
        let mut below = Vec::new();
        let mut listing = Dir::from_fd(openat(&dir, c".", FLAGS, Mode::empty())?)?;
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." && self.count(dir.as_fd(), name) {
                below.push(name.to_owned());
            }
        }
        if let Some(level) = self.levels.len().checked_sub(OPEN).and_then(|n| self.levels.get_mut(n)) {
            level.dir = None;
        }
        self.levels.push(Level { dir: Some(dir), id, below });
        Ok(())
    }

    /// Counts one thing; true if it is a directory.
    fn count(&mut self, dir: impl AsFd, name: &CStr) -> bool {
        // Removed since it was listed: it takes nothing.
        let Ok(stat) = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { return false };
        let directory = is(&stat, SFlag::S_IFDIR);
        if !directory && stat.st_nlink > 1 && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return false;
        }
        self.usage.inodes += 1;
        self.usage.allocated += stat.st_blocks as u64 * 512;
        if is(&stat, SFlag::S_IFREG) {
            self.usage.bytes += stat.st_size as u64;
        }
        directory
    }

    /// Goes up one level.
    fn leave(&mut self) {
        let Some(left) = self.levels.pop() else { return };
        let Some(level) = self.levels.last_mut().filter(|level| level.dir.is_none()) else { return };
        // Whoever moved the directory we were in made another one its parent.
        level.dir = left
            .dir
            .and_then(|dir| openat(&dir, c"..", FLAGS, Mode::empty()).ok())
            .filter(|dir| fstat(dir).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == level.id));
        if level.dir.is_none() {
            self.give_up();
        }
    }

    /// The way back is lost: what is open no longer leads to the directories above.
    fn give_up(&mut self) {
        self.usage.complete = false;
        self.levels.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn each_file_counts_once_and_no_link_is_followed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).expect("mkdir");
        fs::write(at("a/file"), vec![1; 100_000]).expect("write");
        fs::hard_link(at("a/file"), at("a/b/again")).expect("link");
        fs::File::create(at("hole")).and_then(|file| file.set_len(1 << 30)).expect("truncate");
        std::os::unix::fs::symlink("/usr", at("link")).expect("symlink");
        let found = disk_usage(dir.path()).expect("usage");
        assert_eq!((found.inodes, found.complete), (5, true), "a, a/b, the file, the hole, the link");
        assert_eq!(found.known(), Some(100_000 + (1 << 30)));
        assert!((100_000..200_000).contains(&found.allocated), "{found:?}");
        std::os::unix::fs::symlink(dir.path(), at("self")).expect("symlink");
        assert!(disk_usage(&at("self")).is_err(), "the root is no link either");
    }

    /// Nests directories deeper than a path can say; each has a file of one byte.
    fn nest(root: &Path, levels: usize) {
        let mut at = nix::fcntl::open(root, FLAGS, Mode::empty()).expect("open");
        for _ in 0..levels {
            nix::sys::stat::mkdirat(&at, "directory", Mode::S_IRWXU).expect("mkdir");
            at = openat(&at, "directory", FLAGS, Mode::empty()).expect("open");
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC;
            let file = openat(&at, "file", flags, Mode::S_IRWXU).expect("create");
            nix::unistd::write(&file, b"x").expect("write");
        }
    }

    #[test]
    fn a_tree_deeper_than_a_path_is_counted_to_its_end() {
        let dir = tempfile::tempdir().expect("tempdir");
        nest(dir.path(), 3000);
        // A sibling at every level is found on the way back.
        let found = disk_usage(dir.path()).expect("usage");
        assert_eq!((found.inodes, found.known()), (6000, Some(3000)));
        remove(dir.path());
    }

    #[test]
    fn the_way_back_leads_only_to_where_it_came_from() {
        let dir = tempfile::tempdir().expect("tempdir");
        nest(dir.path(), OPEN + 8);
        let mut walk = Walk {
            usage: Usage { bytes: 0, allocated: 0, inodes: 0, complete: true },
            linked: HashSet::new(),
            levels: Vec::new(),
        };
        let root = nix::fcntl::open(dir.path(), FLAGS, Mode::empty()).expect("open");
        walk.enter(root).expect("enter");
        for _ in 0..OPEN + 8 {
            let level = walk.levels.last_mut().expect("a level");
            let name = level.below.pop().expect("a directory");
            let below = openat(level.dir.as_ref().expect("open"), name.as_c_str(), FLAGS, Mode::empty());
            walk.enter(below.expect("open")).expect("enter");
        }
        let open = walk.levels.iter().filter(|level| level.dir.is_some()).count();
        assert!(open <= OPEN + 1, "{open} directories are open");
        // What the walk is in moves up by one, and its parent is another.
        fs::rename(dir.path().join("directory/directory/directory"), dir.path().join("moved"))
            .expect("rename");
        walk.run();
        assert!(!walk.usage.complete);
        assert_eq!(walk.usage.known(), None);
        remove(dir.path());
    }

    /// The standard library's own removal holds a descriptor for each level.
    fn remove(root: &Path) {
        let done = std::process::Command::new("rm")
            .arg("-rf")
            .arg(std::ffi::OsStr::from_bytes(root.as_os_str().as_bytes()))
            .status();
        assert!(done.expect("rm").success());
    }
}
