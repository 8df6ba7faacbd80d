//! Is what we unpack what GNU tar unpacks? Entry by entry, on the generated image.
//!
//! Not a timing but a proof, and here because it needs the benchmark's image: some 65,000 entries of real
//! packages. Compared are names, types, modes, owners, modification times to the nanosecond, link counts,
//! devices, extended attributes, symlinks' targets and files' contents, for each layer and both appliers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_engine::digest::{ChainId, DiffId};
use sha2::{Digest as _, Sha256};

use crate::peers::{self, Dir, word};
use crate::unpack;
use crate::worker::Worker;

/// `compare`
pub fn run(args: &[&str]) -> Result<(), String> {
    if let [word, ..] = args {
        return Err(format!("{word:?}: compare takes nothing"));
    }
    let source = unpack::image()?;
    let dir = Dir::new("compare")?;
    let dir = dir.path();
    let mut theirs = Vec::new();
    for number in 1.. {
        let tar = source.join(format!("layers/{number}.tar"));
        if !tar.exists() {
            break;
        }
        let to = dir.join(format!("tar/{number}"));
        fs::create_dir_all(&to).map_err(|e| format!("mkdir {}: {e}", to.display()))?;
        // An unpacked layer's own directory has the attributes of its `./` entry, or these.
        let status = Command::new("tar")
            .args([
                "--numeric-owner",
                "--same-owner",
                "--same-permissions",
                "--xattrs",
                "--xattrs-include=*",
                "-C",
            ])
            .arg(&to)
            .arg("-xf")
            .arg(&tar)
            .status();
        if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            return Err(format!("tar -xf {}: {status:?}", tar.display()));
        }
        theirs.push(to);
    }
    for method in ["threads", "io_uring"] {
        for archive in ["gzip.tar", "zstd.tar", "plain.tar"] {
            let place = dir.join(format!("{method}-{archive}"));
            let ours = load(&source.join(archive), &place, method)?;
            if ours.len() != theirs.len() {
                return Err(format!("{} layers and not {}", ours.len(), theirs.len()));
            }
            let mut entries = 0;
            for (ours, theirs) in ours.iter().zip(&theirs) {
                entries += same(ours, theirs)?;
            }
            println!("{method}, {archive}: {} layers, {entries} entries, no difference", theirs.len());
            let _ = Command::new("rm").arg("-rf").arg(&place).status();
        }
    }
    Ok(())
}

/// Loads an archive and says where its layers lie, lowest first.
fn load(archive: &Path, place: &Path, method: &str) -> Result<Vec<PathBuf>, String> {
    let mut worker = Worker::new("", &[("BULKHEAD_UNPACK", PathBuf::from(method))])?;
    let base = peers::bulkhead_words(place, &place.join("run"))?;
    let line = |more: &[&str]| crate::start::words(&base, more);
    worker.run(&line(&["load", "-i", &word(archive)]))?;
    let inspect =
        line(&["image", "inspect", "--format", "{{range .RootFS.Layers}}{{println .}}{{end}}", "bench/real"]);
    let told = Command::new(&inspect[0]).args(&inspect[1..]).output().map_err(|e| format!("inspect: {e}"))?;
    let diff_ids = String::from_utf8_lossy(&told.stdout)
        .split_whitespace()
        .map(|text| text.parse().map(DiffId).map_err(|e| format!("{text}: {e}")))
        .collect::<Result<Vec<_>, String>>()?;
    let layers = place.join("root/layers");
    Ok(ChainId::chain(&diff_ids).iter().map(|id| layers.join(id.0.hex()).join("diff")).collect())
}

/// Compares two trees; the number of their entries.
fn same(ours: &Path, theirs: &Path) -> Result<usize, String> {
    let mut differences = Vec::new();
    let mut entries = 0;
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let (here, there) = (names(&ours.join(&below))?, names(&theirs.join(&below))?);
        for name in here.iter().chain(&there) {
            if !(here.contains(name) && there.contains(name)) {
                differences.push(format!("{}: only in one of the two", below.join(name).display()));
            }
        }
        for name in here.iter().filter(|name| there.contains(*name)) {
            entries += 1;
            let path = below.join(name);
            let (a, b) = (facts(&ours.join(&path))?, facts(&theirs.join(&path))?);
            for (key, value) in &a {
                if b.get(key) != Some(value) {
                    let other = b.get(key).map(String::as_str).unwrap_or_default();
                    differences.push(format!("{}: {key} is {value} and not {other}", path.display()));
                }
            }
            if a.len() != b.len() {
                differences.push(format!("{}: {:?} and not {:?}", path.display(), a.keys(), b.keys()));
            }
            if ours.join(&path).symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                open.push(path);
            }
        }
    }
    match differences.len() {
        0 => Ok(entries),
        count => Err(format!(
            "{count} differences in {}:\n{}",
            theirs.display(),
            differences[..count.min(20)].join("\n")
        )),
    }
}

fn names(dir: &Path) -> Result<std::collections::BTreeSet<OsString>, String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    entries.map(|entry| entry.map(|e| e.file_name()).map_err(|e| format!("{}: {e}", dir.display()))).collect()
}

/// Everything that is to be alike, by name.
fn facts(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let at = |e: std::io::Error| format!("{}: {e}", path.display());
    let meta = path.symlink_metadata().map_err(at)?;
    let mut facts = BTreeMap::new();
    let mut is = |key: &str, value: String| drop(facts.insert(key.to_owned(), value));
    is("mode", format!("{:o}", meta.mode()));
    is("owner", format!("{}:{}", meta.uid(), meta.gid()));
    is("time", format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()));
    is("device", meta.rdev().to_string());
    if meta.is_file() {
        is("links", meta.nlink().to_string());
        is("size", meta.size().to_string());
        let mut hash = Sha256::new();
        let mut file = File::open(path).map_err(at)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(at)? {
                0 => break,
                length => hash.update(&buffer[..length]),
            }
        }
        is("content", format!("{:x?}", hash.finalize().as_slice()));
    } else if meta.is_symlink() {
        is("target", fs::read_link(path).map_err(at)?.display().to_string());
    }
    for (name, value) in attributes(path).map_err(at)? {
        is(&format!("attribute {}", name.display()), format!("{value:02x?}"));
    }
    Ok(facts)
}

/// Extended attributes of the entry itself.
fn attributes(path: &Path) -> std::io::Result<Vec<(OsString, Vec<u8>)>> {
    let c = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut list = vec![0_u8; 65536];
    // SAFETY: a C string and a buffer of the length that is told.
    let length = unsafe { libc::llistxattr(c.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    let length = usize::try_from(length).map_err(|_| std::io::Error::last_os_error())?;
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 65536];
        let key = std::ffi::CString::new(name)?;
        // SAFETY: two C strings and a buffer of the length that is told.
        let length =
            unsafe { libc::lgetxattr(c.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(length).map_err(|_| std::io::Error::last_os_error())?);
        found.push((std::ffi::OsStr::from_bytes(name).to_owned(), value));
    }
    Ok(found)
}
