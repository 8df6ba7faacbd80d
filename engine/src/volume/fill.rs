//! The first use of an empty volume: what the image has at that place is copied into it.
//!
//! A copy takes as long as it takes, and may be killed; what it has copied by then must not make the volume look
//! like one that holds somebody's data. So the copy is made beside the volume, and when it is whole one rename
//! says so. From there its entries are moved in, each by one rename; who finds a whole copy that is not moved in
//! yet moves on ([`resume`]), and who finds one that is not whole throws it away. The lock on the volume's
//! directory says whether somebody is at it.
//!
//! The volume's own directory is never replaced: a container that has it mounted already (empty, or `nocopy`)
//! keeps it.
//!
//! What is copied is hostile: the image's paths are resolved inside the image's root by the kernel, and the tree
//! is read and written as `cp` reads and writes one ([`layer::diff`], [`layer::extract`]): no link is followed,
//! and owners, modes, times, attributes, hard links, devices and holes in the tree's order stay what they are.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, RenameFlags, renameat2};
use nix::sys::stat::Mode;

use super::{At as _, DATA, Error, mounted};
use crate::layer::diff::Tree;
use crate::layer::{self, extract::extract};
use crate::store::remove_tree;

// The names are unmistakable, because in a volume with options they lie among somebody's data.

/// The copy while it is made.
pub(super) const PART: &str = ".bulkhead-filling";
/// The copy when it is whole.
pub(super) const WHOLE: &str = ".bulkhead-filled";

/// The right to fill a volume, to mount it and to unmount it.
pub(super) fn lock(dir: &Path, how: FlockArg) -> Result<Option<Flock<File>>, Error> {
    let file = match File::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.at("open", dir)?,
    };
    match Flock::lock(file, how) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).at("flock", dir),
    }
}

fn is_empty(dir: &Path) -> Result<bool, Error> {
    for entry in fs::read_dir(dir).at("opendir", dir)? {
        let name = entry.at("readdir", dir)?.file_name();
        // In one that is mounted the copy lies here; see `beside`.
        if name != PART && name != WHOLE {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a volume is empty, or a copy into it was cut short.
pub(crate) fn is_wanted(dir: &Path) -> Result<bool, Error> {
    Ok(exists(&dir.join(WHOLE)) || is_empty(&dir.join(DATA))?)
}

/// Where the copy is made: beside the data, and in it where that is another file system.
fn beside(dir: &Path) -> Result<PathBuf, Error> {
    let data = dir.join(DATA);
    Ok(if mounted::is_mounted(&data)? { data } else { dir.to_owned() })
}

/// Fills an empty volume with what is below `source`, and gives it that directory's owner, mode and attributes.
/// False when it was not empty. With `durable`, what was copied is on the disk before it counts.
///
/// A volume with options is mounted meanwhile, by the caller.
pub(crate) fn fill(dir: &Path, source: OwnedFd, durable: bool) -> Result<bool, Error> {
    let data = dir.join(DATA);
    let Some(_lock) = lock(dir, FlockArg::LockExclusive)? else { return Ok(false) };
    let place = beside(dir)?;
    finish(&place, &data)?;
    if !is_empty(&data)? {
        return Ok(false);
    }
    let tree = Tree::whole(source)?;
    let directory = File::open(&place).at("open", &place)?;
    if let Err(error) = write(&tree, &directory) {
        // Most likely the disk is full, and this is what fills it.
        let _ = remove_tree(&place.join(PART));
        return Err(error);
    }
    if durable && !tree.is_empty() {
        nix::unistd::syncfs(&directory).at("syncfs", &place)?;
    }
    let (part, whole) = (place.join(PART), place.join(WHOLE));
    fs::rename(&part, &whole).at("rename", &part)?;
    finish(&place, &data)?;
    Ok(true)
}

/// Goes on with a copy that was cut short, if nobody is at it: a whole one is moved in, another one goes.
pub(crate) fn resume(dir: &Path) -> Result<(), Error> {
    let here = |place: &Path| exists(&place.join(PART)) || exists(&place.join(WHOLE));
    let data = dir.join(DATA);
    // What has such a name in a volume that is not mounted is its user's.
    let in_data = here(&data) && mounted::is_mounted(&data)?;
    for place in [(here(dir), dir), (in_data, data.as_path())]
        .into_iter()
        .filter_map(|(here, place)| here.then_some(place))
    {
        if let Some(_lock) = lock(dir, FlockArg::LockExclusiveNonblock)? {
            finish(place, &data)?;
        }
    }
    Ok(())
}

/// Copies a tree to [`PART`] in a directory, through a tar between two threads.
fn write(tree: &Tree, into: &File) -> Result<(), Error> {
    let (reader, writer) = io::pipe().at("pipe", Path::new(PART))?;
    // SAFETY: fcntl with an integer argument. The size is only a wish.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| -> Result<(), layer::Error> {
            let mut out = BufWriter::with_capacity(128 << 10, writer);
            tree.tar_below(PART.as_bytes(), &mut out)?;
            out.flush().map_err(|source| layer::Error::file("write", Path::new("pipe"), source))
        });
        // The reader goes with the call, so that a failed one does not leave the writer waiting.
        let extracted = extract(into.as_fd(), reader, None);
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (produced, extracted) {
            // The one that failed first made the other's pipe break.
            (_, Err(error)) if !matches!(error, layer::Error::Stream(_)) => Err(error.into()),
            (Err(error), _) | (Ok(()), Err(error)) => Err(error.into()),
            (Ok(()), Ok(())) => Ok(()),
        }
    })
}

/// Removes a tree, or what is in its place.
fn clear(path: &Path) -> Result<(), Error> {
    let removed = match remove_tree(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        other => other,
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", path),
    }
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Moves a whole copy in, and throws away what else is there.
pub(super) fn finish(place: &Path, data: &Path) -> Result<(), Error> {
    let (part, whole) = (place.join(PART), place.join(WHOLE));
    clear(&part)?;
    // In a volume that is mounted a container may have put whatever it likes there.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut from = match Dir::open(&whole, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::ELOOP | Errno::ENOTDIR) => return clear(&whole),
        other => other.at("opendir", &whole)?,
    };
    let to = File::open(data).at("open", data)?;
    let mut names = Vec::new();
    for entry in from.iter() {
        let name = entry.at("readdir", &whole)?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(OsStr::from_bytes(name.to_bytes()).to_owned());
        }
    }
    let opened = PathBuf::from(format!("/proc/self/fd/{}/.", from.as_raw_fd()));
    let meta = fs::metadata(&opened).at("stat", &whole)?;
    for name in &names {
        let name = name.as_os_str();
        let moved = match renameat2(&from, name, &to, name, RenameFlags::RENAME_NOREPLACE) {
            // A file system that does not know how: only a volume with options is on one.
            Err(Errno::EINVAL) if !exists(&data.join(name)) => {
                renameat2(&from, name, &to, name, RenameFlags::empty())
            }
            Err(Errno::EINVAL) => Err(Errno::EEXIST),
            other => other,
        };
        match moved {
            // A container that had it mounted was quicker, and what is its is its.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => {
                return Err(errno).at("rename", &whole.join(name));
            }
        }
    }
    // From the copy's own directory, which has them from the image.
    std::os::unix::fs::chown(data, Some(meta.uid()), Some(meta.gid())).at("chown", data)?;
    layer::copy_meta(&opened, data).at("copy attributes", data)?;
    clear(&whole)?;
    // Last, since every name that comes or goes changes it.
    let times = meta.modified().map(|time| fs::FileTimes::new().set_accessed(time).set_modified(time));
    times.and_then(|times| to.set_times(times)).at("utimensat", data)
}
