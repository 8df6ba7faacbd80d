//! The same tables for every applier: what real archives hold, and what hostile ones try.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use super::tar::Kind;
use super::*;

/// Every applier that this host can run.
fn methods() -> Vec<Method> {
    match ring::probe() {
        Ok(()) => vec![Method::Threads, Method::IoUring],
        Err(error) => {
            println!("skipped: needs io_uring ({error})");
            vec![Method::Threads]
        }
    }
}

fn options(method: Method) -> Options {
    Options { method, workers: 3, limit: Limit::default(), budget: Budget::new() }
}

/// Making devices and overlay attributes takes root; everything here does.
macro_rules! need_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
    };
}

struct Case {
    dir: tempfile::TempDir,
    result: Result<Unpacked, Error>,
}

impl Case {
    fn run(blob: &[u8], method: Method) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        // A witness beside the layer: whatever escapes must come past it.
        fs::write(dir.path().join("witness"), "untouched").expect("witness");
        let layer = dir.path().join("layer");
        fs::create_dir(&layer).expect("mkdir");
        let result = unpack(blob, &layer, &options(method), &Silent);
        assert_eq!(fs::read(dir.path().join("witness")).expect("witness"), b"untouched");
        let mut beside: Vec<_> =
            fs::read_dir(dir.path()).expect("readdir").map(|e| e.expect("entry").file_name()).collect();
        beside.sort();
        assert_eq!(beside, ["layer", "witness"], "something was made outside the layer");
        Self { dir, result }
    }

    fn layer(&self) -> std::path::PathBuf {
        self.dir.path().join("layer")
    }

    fn diff(&self) -> std::path::PathBuf {
        self.layer().join("diff")
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.diff().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

/// Builds tars by hand where the `tar` crate is too well-behaved.
#[derive(Default)]
struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    fn header(&mut self, kind: u8, path: &[u8], link: &[u8], size: u64) -> &mut Self {
        self.custom(kind, path, link, size, |_| {})
    }

    fn custom(
        &mut self,
        kind: u8,
        path: &[u8],
        link: &[u8],
        size: u64,
        change: impl FnOnce(&mut ::tar::Header),
    ) -> &mut Self {
        let mut header = ::tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header.as_old_mut().linkflag = [kind];
        header.set_device_major(0).expect("ustar");
        header.set_device_minor(0).expect("ustar");
        change(&mut header);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self
    }

    fn data(&mut self, data: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    fn file(&mut self, path: &str, content: &[u8]) -> &mut Self {
        self.header(b'0', path.as_bytes(), b"", content.len() as u64).data(content)
    }

    fn directory(&mut self, path: &str) -> &mut Self {
        self.header(b'5', path.as_bytes(), b"", 0)
    }

    fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.header(b'2', path.as_bytes(), target.as_bytes(), 0)
    }

    fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.header(b'1', path.as_bytes(), target.as_bytes(), 0)
    }

    fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while rest + len.to_string().len() != len {
                len += 1;
            }
            body.extend_from_slice(format!("{len} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.header(b'x', b"pax", b"", body.len() as u64).data(&body)
    }

    fn finish(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("gzip");
    out.finish().expect("gzip")
}

/// Path to type, mode, owner, time, content or target, links, attributes.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    let mut first_name: BTreeMap<u64, String> = BTreeMap::new();
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().expect("stat");
        let name = path.strip_prefix(root).expect("below").display().to_string();
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            todo.extend(fs::read_dir(&path).expect("readdir").map(|e| e.expect("entry").path()));
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).expect("readlink").display())
        } else if kind.is_file() {
            format!("file {}", Digest::of(&fs::read(&path).expect("read")))
        } else {
            format!("special {:o} {:x}", meta.mode(), meta.rdev())
        };
        // Which names share an inode matters, not its number; the directory order must not decide it.
        let same = if kind.is_dir() {
            String::new()
        } else {
            let first = first_name.entry(meta.ino()).or_insert_with(|| name.clone());
            if *first > name {
                first.clone_from(&name);
            }
            format!("{}", meta.nlink())
        };
        let xattrs = list_xattrs(&path).expect("xattrs");
        found.insert(
            name,
            format!(
                "{what} {:o} {}:{} {}.{:09} {same} {xattrs:?} {}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
                if kind.is_file() { meta.len() } else { 0 }
            ),
        );
    }
    found
}

/// Unpacks with GNU tar and with us, and compares everything.
fn same_as_gnu(archive: &[u8], method: Method) {
    let case = Case::run(archive, method);
    case.result.as_ref().expect("unpack");
    let theirs = tempfile::tempdir().expect("tempdir");
    let file = theirs.path().join("a.tar");
    fs::write(&file, archive).expect("write");
    let root = theirs.path().join("diff");
    fs::create_dir(&root).expect("mkdir");
    let status = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-pxf"])
        .arg(&file)
        .arg("-C")
        .arg(&root)
        .status()
        .expect("tar");
    assert!(status.success());
    let (ours, theirs) = (listing(&case.diff()), listing(&root));
    for (path, want) in &theirs {
        // The root's own attributes come from its entry, if there is one.
        if path.is_empty() {
            continue;
        }
        assert_eq!(ours.get(path), Some(want), "{path}");
    }
    assert_eq!(ours.len(), theirs.len());
    let mut again = Vec::new();
    let diff_id = assemble(&case.layer(), &mut again).expect("assemble");
    assert!(again == archive, "the tar put together again differs");
    assert_eq!(diff_id.0, Digest::of(archive));
    assert_eq!(assembled_size(&case.layer()).expect("size"), archive.len() as u64);
}

/// An archive with every type of entry that GNU tar can make of a real tree.
fn rich_tree(format: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("tempdir");
    let script = r#"
        set -e
        mkdir -p a/b/c setgid sticky
        echo hello > a/hello; echo > a/b/newline; : > empty
        head -c 700000 /dev/urandom > a/b/large
        ln a/hello a/b/hard; ln a/hello zhard
        ln -s hello a/soft; ln -s /nowhere dangling; ln -s "$(printf 'x%.0s' $(seq 150))" longlink
        mkdir -p "$(printf 'd%.0s' $(seq 120))/$(printf 'e%.0s' $(seq 120))"
        echo long > "$(printf 'd%.0s' $(seq 120))/$(printf 'e%.0s' $(seq 120))/$(printf 'f%.0s' $(seq 120))"
        mkfifo fifo; mknod char c 1 3; mknod block b 7 200
        cp /bin/true suid; chmod 4755 suid; cp /bin/true sgid; chown 12:34 sgid; chmod 2755 sgid
        chmod 2775 setgid; chown 5:6 setgid; chmod 1777 sticky; echo x > setgid/inside
        echo own > own; chown 4000000:3000000 own; chmod 0 own
        mkdir closed; echo in > closed/in; chmod 0 closed
        truncate -s 3M sparse; echo data | dd of=sparse bs=1 seek=1500000 conv=notrunc 2>/dev/null
        truncate -s 2M hole
        ln -s target soft2; chown -h 7:8 soft2
        echo caps > caps
        touch -d '2001-02-03 04:05:06.123456789' a/hello; touch -h -d '1999-01-01 00:00:00.5' soft2
        touch -d '1960-01-01 00:00:00.25' empty
        touch -d '2010-10-10 10:10:10' a/b a
    "#;
    let made = Command::new("sh").args(["-c", script]).current_dir(dir.path()).status().expect("sh");
    assert!(made.success());
    // cap_net_raw=ep; user::rw-, user:1234:rwx, group::r--, mask::rwx, other::r--.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut acl = vec![2, 0, 0, 0];
    for (tag, perm, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 7, 1234), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 4, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    for (path, name, value) in [
        ("caps", c"user.note", &b"value"[..]),
        ("caps", c"security.capability", &capability),
        ("a/b/newline", c"system.posix_acl_access", &acl),
        ("a/b/c", c"system.posix_acl_default", &acl),
        ("setgid", c"user.dir", b"\0binary\n"),
    ] {
        let path = c_path(&dir.path().join(path)).expect("path");
        // SAFETY: both names are C strings and the value's pointer and length belong together.
        let done =
            unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        assert_eq!(done, 0, "{name:?}: {}", io::Error::last_os_error());
    }
    let out = Command::new("tar")
        .args(format)
        .args(["-S", "--xattrs", "--xattrs-include=*", "-cf", "-", "."])
        .current_dir(dir.path())
        .output()
        .expect("tar");
    assert!(out.status.success());
    out.stdout
}

#[test]
fn every_entry_comes_out_as_from_gnu_tar() {
    need_root!();
    for method in methods() {
        for format in [
            &["--format=pax"][..],
            &["--format=pax", "--sparse-version=0.0"],
            &["--format=pax", "--sparse-version=0.1"],
            &["--format=gnu"],
        ] {
            same_as_gnu(&rich_tree(format), method);
        }
    }
}

#[test]
fn a_real_tree_comes_out_as_from_gnu_tar() {
    need_root!();
    let out = Command::new("tar")
        .args(["--format=pax", "-cf", "-", "-C", "/usr/lib", "python3"])
        .output()
        .expect("tar");
    for method in methods() {
        same_as_gnu(&out.stdout, method);
    }
}

#[test]
fn every_framing_gives_the_same_layer() {
    need_root!();
    let plain = Builder::default().file("a", &vec![b'a'; 300_000]).file("b", b"b").finish();
    let (front, back) = plain.split_at(200_001);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).expect("zstd");
    let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    skippable.extend(zstd(&plain));
    let want = DiffId(Digest::of(&plain));
    for blob in [
        plain.clone(),
        gzip(&plain),
        [gzip(front), gzip(back)].concat(),
        zstd(&plain),
        [zstd(front), zstd(back)].concat(),
        skippable,
    ] {
        let case = Case::run(&blob, Method::Threads);
        let unpacked = case.result.as_ref().expect("unpack");
        assert_eq!(unpacked.diff_id, want);
        assert_eq!(unpacked.digest, Digest::of(&blob));
        assert_eq!(unpacked.compressed, blob.len() as u64);
        assert_eq!(unpacked.size, 300_001);
    }
}

#[test]
fn nothing_gets_out_of_the_layer() {
    need_root!();
    let new = Builder::default;
    for method in methods() {
        for (what, tar, want) in [
            ("dot dot", new().file("../witness", b"x").finish(), Err("\"..\"")),
            ("dot dot inside", new().file("a/../../witness", b"x").finish(), Err("\"..\"")),
            ("dot dot directory", new().directory("..").finish(), Err("\"..\"")),
            ("absolute", new().file("/etc/passwd", b"x").finish(), Ok("etc/passwd")),
            (
                "through an absolute symlink",
                new().symlink("out", "/tmp").file("out/x", b"x").finish(),
                Ok("tmp/x"),
            ),
            (
                "through a relative symlink",
                new().symlink("a", "../../..").file("a/witness", b"x").finish(),
                Ok("witness"),
            ),
            (
                "through a symlink that a duplicate made",
                new().directory("a").symlink("a", "/").file("a/b", b"x").finish(),
                Ok("b"),
            ),
            (
                "symlink loop",
                new().symlink("a", "b").symlink("b", "a").file("a/x", b"").finish(),
                Err("resolve"),
            ),
            ("hard link out", new().link("a", "../witness").finish(), Err("\"..\"")),
            (
                "hard link through a symlink",
                new().symlink("s", "/etc").link("a", "s/hostname-of-nobody").finish(),
                Ok(""),
            ),
            ("hard link to a directory", new().directory("d").link("a", "d").finish(), Err("link")),
            ("file over root", new().file("./", b"").finish(), Err("names the root")),
            ("whiteout of nothing", new().file(".wh.", b"").finish(), Err("whiteout")),
            ("whiteout of dot", new().file("a/.wh..", b"").finish(), Err("whiteout")),
            ("whiteout of dot dot", new().file("a/.wh...", b"").finish(), Err("whiteout")),
            ("whiteout outside", new().file("../.wh.witness", b"").finish(), Err("\"..\"")),
            (
                "whiteout through a symlink",
                new().symlink("s", "..").file("s/.wh.witness", b"").finish(),
                Ok(""),
            ),
            ("file as directory", new().file("a", b"x").file("a/b", b"x").finish(), Err("Not a directory")),
            (
                "fifo as directory",
                new().header(b'6', b"a", b"", 0).file("a/b", b"x").finish(),
                Err("Not a directory"),
            ),
            ("nul in a PAX path", new().pax(&[("path", b"a\0b")]).file("x", b"").finish(), Err("PAX")),
            (
                "PAX path with dots",
                new().pax(&[("path", b"../../witness")]).file("x", b"").finish(),
                Err("\"..\""),
            ),
            ("symlink to nothing", new().symlink("a", "").finish(), Err("target")),
            ("long component", new().pax(&[("path", &[b'a'; 300])]).file("x", b"").finish(), Err("too long")),
            (
                "long path",
                new().pax(&[("path", &b"a/".repeat(3000))]).file("x", b"").finish(),
                Err("limit is 4095"),
            ),
            (
                "too deep",
                new().pax(&[("path", &b"a/".repeat(600))]).file("x", b"").finish(),
                Err("512 directories"),
            ),
            (
                "too deep by a symlink",
                new()
                    .pax(&[("path", &b"a/".repeat(500))])
                    .directory("x")
                    .pax(&[("path", b"s"), ("linkpath", &b"a/".repeat(500))])
                    .symlink("x", "x")
                    .pax(&[("path", &[&b"s/"[..], &b"b/".repeat(500)].concat())])
                    .directory("x")
                    .finish(),
                Err("512 directories"),
            ),
            ("unknown type", new().header(b'Z', b"a", b"", 0).finish(), Err("unsupported")),
        ] {
            let case = Case::run(&tar, method);
            match (&case.result, want) {
                (Ok(_), Ok(path)) => assert!(case.diff().join(path).symlink_metadata().is_ok(), "{what}"),
                (Err(error), Err(text)) => {
                    assert!(error.to_string().contains(text), "{what}: {error}");
                }
                (result, want) => panic!("{what}: {result:?}, want {want:?}"),
            }
        }
    }
}

#[test]
fn absurd_numbers_are_refused() {
    let new = Builder::default;
    let huge = |field: &mut [u8]| field.fill(0xff);
    for (what, tar, want) in [
        (
            "size beyond all",
            new()
                .custom(b'0', b"a", b"", 0, |h| {
                    h.as_old_mut().size.copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
                })
                .finish(),
            "size",
        ),
        (
            "negative size",
            new().custom(b'0', b"a", b"", 0, |h| huge(&mut h.as_old_mut().size)).finish(),
            "size",
        ),
        ("negative uid", new().custom(b'0', b"a", b"", 0, |h| huge(&mut h.as_old_mut().uid)).finish(), "uid"),
        ("no number", new().custom(b'0', b"a", b"", 0, |h| h.as_old_mut().mode.fill(b'z')).finish(), "mode"),
        ("PAX size", new().pax(&[("size", b"99999999999999999999999")]).file("a", b"").finish(), "PAX"),
        ("PAX uid", new().pax(&[("uid", b"4294967295")]).file("a", b"").finish(), "uid"),
        ("PAX of 1 GB", new().header(b'x', b"p", b"", 1 << 30).finish(), "1073741824"),
        ("name of 1 GB", new().header(b'L', b"p", b"", 1 << 30).finish(), "1073741824"),
        ("PAX length", new().header(b'x', b"p", b"", 6).data(b"9 a=b\n").file("a", b"").finish(), "PAX"),
        ("PAX no equals", new().header(b'x', b"p", b"", 6).data(b"6 abc\n").file("a", b"").finish(), "PAX"),
        (
            "bad checksum",
            new()
                .header(b'0', b"a", b"", 0)
                .bytes
                .iter()
                .enumerate()
                .map(|(n, b)| if n == 1 { b'x' } else { *b })
                .collect(),
            "invalid tar header",
        ),
        ("not a tar", vec![b'x'; 2048], "invalid tar header"),
        (
            "sparse beyond the file",
            new()
                .pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,5,8,5")])
                .file("a", b"0123456789")
                .finish(),
            "sparse",
        ),
        (
            "sparse overlap",
            new()
                .pax(&[("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"0,6,3,4")])
                .file("a", b"0123456789")
                .finish(),
            "sparse",
        ),
        (
            "sparse overflow",
            new()
                .pax(&[("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"18446744073709551615,10")])
                .file("a", b"0123456789")
                .finish(),
            "sparse",
        ),
        (
            "sparse map count",
            new()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"10"),
                ])
                .file("a", b"99999999999\n")
                .finish(),
            "sparse",
        ),
        (
            "content missing",
            {
                let mut t = new().header(b'0', b"a", b"", 9000).bytes.clone();
                t.extend([0; 512]);
                t
            },
            "unexpected end",
        ),
        ("header cut", new().file("a", b"x").bytes[..700].to_vec(), "unexpected end"),
    ] {
        for method in methods() {
            let case = Case::run(&tar, method);
            let error = case.result.as_ref().expect_err(what).to_string();
            assert!(error.contains(want), "{what}: {error}");
        }
    }
}

/// What the parser makes of an archive.
fn entries(archive: &[u8]) -> Result<Vec<tar::Entry>, tar::Error> {
    let mut parser = tar::Parser::new(archive, None);
    let mut entries = Vec::new();
    while let Some(entry) = parser.next()? {
        entries.push(entry);
    }
    Ok(entries)
}

/// Longer than star's prefix.
const LONG: [u8; 140] = [b'p'; 140];

/// What another engine, or a scanner, sees of an archive that is read in more than one way: each vector
/// was decided by Go's `archive/tar`.
#[test]
fn what_can_be_read_in_two_ways_is_read_as_go_does() {
    let new = Builder::default;
    let gnu = |h: &mut ::tar::Header| {
        h.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
    };
    let prefix = |text: &'static [u8], trailer: &'static [u8], magic: &'static [u8; 8]| {
        move |h: &mut ::tar::Header| {
            let bytes = h.as_mut_bytes();
            bytes[345..345 + text.len()].copy_from_slice(text);
            bytes[512 - trailer.len()..].copy_from_slice(trailer);
            bytes[257..265].copy_from_slice(magic);
        }
    };
    let star = [&LONG[..131], b"/a"].concat();
    for (what, archive, want) in [
        (
            "the last PAX header replaces the one before",
            new().pax(&[("path", b"one"), ("uid", b"5")]).pax(&[("gid", b"6")]).file("a", b"").finish(),
            ("a", 0, 6, Kind::File, 0),
        ),
        (
            "a long name prevails over a PAX path that precedes it",
            new()
                .pax(&[("path", b"pax"), ("uid", b"5")])
                .custom(b'L', b"long", b"", 4, gnu)
                .data(b"gnu\0")
                .file("a", b"")
                .finish(),
            ("gnu", 5, 0, Kind::File, 0),
        ),
        (
            "and over one that follows",
            new()
                .custom(b'L', b"long", b"", 4, gnu)
                .data(b"gnu\0")
                .pax(&[("path", b"pax")])
                .file("a", b"")
                .finish(),
            ("gnu", 0, 0, Kind::File, 0),
        ),
        (
            "but not if it is empty",
            new()
                .pax(&[("path", b"pax")])
                .custom(b'L', b"long", b"", 1, gnu)
                .data(b"\0")
                .file("a", b"")
                .finish(),
            ("pax", 0, 0, Kind::File, 0),
        ),
        (
            "what precedes a global header is lost",
            new()
                .custom(b'L', b"long", b"", 4, gnu)
                .data(b"gnu\0")
                .pax(&[("path", b"pax"), ("uid", b"5")])
                .header(b'g', b"global", b"", 13)
                .data(b"13 path=glob\n")
                .file("a", b"")
                .finish(),
            ("a", 0, 0, Kind::File, 0),
        ),
        (
            "only v7 marks a directory by a slash",
            new().file("a/", &[b'x'; 512]).finish(),
            ("a/", 0, 0, Kind::File, 512),
        ),
        (
            "a directory of v7 has no content",
            new().header(0, b"a/", b"", 512).finish(),
            ("a/", 0, 0, Kind::Directory, 0),
        ),
        (
            "a sparse file's name is for sparse files",
            new().pax(&[("GNU.sparse.name", b"sparse"), ("GNU.sparse.size", b"9")]).file("a", b"").finish(),
            ("a", 0, 0, Kind::File, 0),
        ),
        (
            "an unknown sparse format is a file",
            new()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.name", b"sparse")])
                .file("a", b"0\n")
                .finish(),
            ("a", 0, 0, Kind::File, 2),
        ),
        (
            "a number may be padded in front",
            new()
                .custom(b'0', b"a", b"", 0, |h| h.as_old_mut().size.copy_from_slice(b"\0\0 00000002 "))
                .data(b"xy")
                .finish(),
            ("a", 0, 0, Kind::File, 2),
        ),
        (
            "star's prefix is shorter",
            new().custom(b'0', b"a", b"", 0, prefix(&LONG, b"tar\0", b"ustar\x0000")).finish(),
            (std::str::from_utf8(&star).expect("ascii"), 0, 0, Kind::File, 0),
        ),
        (
            "a prefix in a GNU header, as Go wrote it once",
            new().custom(b'0', b"a", b"", 0, prefix(b"dir", b"", b"ustar  \0")).finish(),
            ("dir/a", 0, 0, Kind::File, 0),
        ),
        (
            "times in a GNU header",
            new().custom(b'0', b"a", b"", 0, prefix(b"00000000001\0", b"", b"ustar  \0")).finish(),
            ("a", 0, 0, Kind::File, 0),
        ),
    ] {
        let found = entries(&archive).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        let entry = &found[0];
        let path = String::from_utf8_lossy(&entry.path);
        assert_eq!((&*path, entry.uid, entry.gid, entry.kind, entry.size), want, "{what}");
    }
    let sparse = new()
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1")])
        .directory("a")
        .finish();
    assert!(matches!(entries(&sparse), Err(tar::Error::Sparse(_))), "a directory is not sparse");
}

#[test]
fn the_last_of_an_attributes_values_counts_however_many_there_are() {
    // A name of its own for each made reading them quadratic: hours for a megabyte, seconds for this.
    let names: Vec<String> = (0..30_000).map(|n| format!("SCHILY.xattr.a{n}")).collect();
    let mut records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"1"[..])).collect();
    records.push(("SCHILY.xattr.a7", b"2"));
    let archive = Builder::default().pax(&records).file("a", b"").finish();
    let xattrs = entries(&archive).expect("entries").remove(0).xattrs;
    assert_eq!(xattrs.len(), 30_000);
    let values: Vec<_> = xattrs.iter().filter(|(name, _)| name == b"a7").map(|(_, value)| value).collect();
    assert_eq!(values, [b"2"]);
}

#[test]
fn one_entrys_extension_headers_have_one_limit() {
    let value = vec![b'v'; 300 << 10];
    let some = |count| {
        let mut builder = Builder::default();
        for _ in 0..count {
            builder.pax(&[("comment", &value)]);
        }
        builder.file("a", b"").file("b", b"").finish()
    };
    assert_eq!(entries(&some(3)).expect("900 KiB").len(), 2);
    let error = entries(&some(4)).expect_err("1200 KiB");
    assert!(matches!(error, tar::Error::Extension { .. }), "{error}");
    // Nor can there be any number of small ones.
    let mut builder = Builder::default();
    for _ in 0..3000 {
        builder.pax(&[]);
    }
    let error = entries(&builder.file("a", b"").finish()).expect_err("3000 headers");
    assert!(matches!(error, tar::Error::Extension { .. }), "{error}");
    // The limit is the entry's, not the archive's.
    let mut builder = Builder::default();
    for _ in 0..8 {
        builder.pax(&[("comment", &value)]).file("a", b"");
    }
    assert_eq!(entries(&builder.finish()).expect("eight entries").len(), 8);
}

#[test]
fn attributes_take_a_bounded_amount_of_memory() {
    need_root!();
    let large = vec![b'v'; (64 << 10) + 1];
    let error = entries(&Builder::default().pax(&[("SCHILY.xattr.user.a", &large)]).file("a", b"").finish())
        .expect_err("more than the kernel takes");
    assert!(matches!(error, tar::Error::XattrTooLong { .. }), "{error}");
    let value = &large[1..];
    // Those of files are set and forgotten, those of directories kept until the end.
    let records: Vec<(String, &[u8])> = (0..15).map(|n| (format!("SCHILY.xattr.user.{n}"), value)).collect();
    let records: Vec<(&str, &[u8])> = records.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let some = |count: usize, same: bool| {
        let mut builder = Builder::default();
        for n in 0..count {
            builder.pax(&records).directory(&if same { "d".to_owned() } else { format!("d{n}") });
        }
        builder.finish()
    };
    for method in methods() {
        let case = Case::run(&some(40, false), method);
        let error = case.result.expect_err("37 MiB of attributes").to_string();
        assert!(error.contains("32 MiB"), "{error}");
        // The last of one name counts, and only that is kept.
        let case = Case::run(&some(40, true), method);
        let told = case.result.map(drop).err().map(|error| error.to_string());
        // What one inode can take depends on the file system, and is not the question here.
        assert!(told.as_ref().is_none_or(|told| told.contains("setxattr")), "{told:?}");
    }
}

#[test]
fn the_last_of_duplicates_wins_and_the_archive_survives() {
    need_root!();
    let tar = Builder::default()
        .file("f", b"first")
        .file("f", b"second")
        .file("to-dir", b"x")
        .directory("to-dir")
        .file("to-dir/in", b"in")
        .directory("to-file")
        .file("to-file/lost", b"lost")
        .file("to-file", b"file")
        .symlink("s", "f")
        .file("s", b"not through the link")
        .file("linked", b"old")
        .link("link", "linked")
        .file("linked", b"new")
        .finish();
    for method in methods() {
        let case = Case::run(&tar, method);
        let unpacked = case.result.as_ref().expect("unpack");
        assert_eq!(case.read("f"), "second");
        assert_eq!(case.read("to-dir/in"), "in");
        assert_eq!(case.read("to-file"), "file");
        assert_eq!(case.read("s"), "not through the link");
        assert_eq!((case.read("link"), case.read("linked")), ("old".into(), "new".into()));
        assert!(unpacked.replaced);
        keep_archive(&tar[..], &case.layer()).expect("keep");
        let mut again = Vec::new();
        assert_eq!(assemble(&case.layer(), &mut again).expect("assemble"), unpacked.diff_id);
        assert!(again == tar);
    }
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    need_root!();
    let tar = Builder::default()
        .file("gone/.wh.file", b"")
        .directory("hidden")
        .file("hidden/.wh..wh..opq", b"")
        .file(".wh.renewed", b"")
        .directory("renewed")
        .file("renewed/x", b"x")
        .file("kept", b"kept")
        .file(".wh.kept", b"")
        .file(".wh..wh.plnk", b"")
        .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc"), ("SCHILY.xattr.user.ok", b"1")])
        .directory("sly")
        .finish();
    for method in methods() {
        let case = Case::run(&tar, method);
        case.result.as_ref().expect("unpack");
        let meta = case.diff().join("gone/file").symlink_metadata().expect("whiteout");
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
        assert!(is_opaque(&case.diff().join("hidden")).expect("xattr"));
        assert!(is_opaque(&case.diff().join("renewed")).expect("xattr"));
        assert_eq!(case.read("kept"), "kept");
        assert!(!case.diff().join(".wh..wh.plnk").exists());
        let sly = case.diff().join("sly");
        assert_eq!(get_xattr(&sly, c"trusted.overlay.redirect").expect("xattr"), None);
        assert_eq!(get_xattr(&sly, c"user.ok").expect("xattr").as_deref(), Some(&b"1"[..]));
        let mut again = Vec::new();
        assemble(&case.layer(), &mut again).expect("assemble");
        assert!(again == tar);
    }
}

#[test]
fn a_bomb_is_refused_by_its_growth() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = vec![0; 8 << 20];
    let tar = Builder::default().file("zeros", &file).finish();
    let bomb = gzip(&tar);
    for method in methods() {
        let mut options = options(method);
        options.limit = Limit::Bytes(1 << 20);
        let layer = dir.path().join(format!("{method:?}"));
        fs::create_dir(&layer).expect("mkdir");
        let error = unpack(&bomb[..], &layer, &options, &Silent).expect_err("bomb");
        assert!(matches!(error, Error::Bomb { limit: 1_048_576, .. }), "{error}");
    }
    // The default: 10 GB in 10 MB is far over 1 GiB and over 200 times.
    assert!(Limit::default().check(10 << 20, 10 << 30).is_err());
    assert!(Limit::default().check(1 << 20, 1 << 30).is_ok());
    assert!(Limit::default().check(100 << 20, 2 << 30).is_ok());
}

#[test]
fn truncation_anywhere_is_an_error_or_another_digest() {
    need_root!();
    let tar = Builder::default()
        .file("a", &vec![7; 1000])
        .pax(&[("path", b"long/name"), ("mtime", b"1.5")])
        .file("x", b"content")
        .link("l", "a")
        .finish();
    let whole = Digest::of(&tar);
    for method in methods() {
        for cut in (0..tar.len()).step_by(61) {
            let case = Case::run(&tar[..cut], method);
            if let Ok(unpacked) = &case.result {
                assert_ne!(unpacked.diff_id.0, whole, "cut at {cut}");
            }
        }
    }
    let blob = gzip(&tar);
    for cut in (0..blob.len()).step_by(3) {
        let case = Case::run(&blob[..cut], Method::Threads);
        if let Ok(unpacked) = &case.result {
            assert_ne!(unpacked.digest, Digest::of(&blob), "cut at {cut}");
        }
    }
}

#[test]
fn a_layer_takes_from_below_what_it_only_implies() {
    need_root!();
    let below = Case::run(
        &Builder::default()
            .custom(b'5', b"etc", b"", 0, |h| {
                h.set_mode(0o750);
                h.set_uid(11);
            })
            .file("etc/file", b"below")
            .file("gone", b"x")
            .finish(),
        Method::Threads,
    );
    let above = Case::run(
        &Builder::default().file("etc/new", b"new").link("alias", "etc/file").finish(),
        Method::Threads,
    );
    let unpacked = above.result.as_ref().expect("unpack");
    settle(&above.layer(), unpacked, &[below.diff()]).expect("settle");
    let etc = above.diff().join("etc").metadata().expect("etc");
    assert_eq!((etc.mode() & 0o7777, etc.uid(), etc.mtime()), (0o750, 11, 1_000_000_000));
    let (one, two) = (above.diff().join("alias"), above.diff().join("etc/file"));
    assert_eq!(fs::read(&one).expect("read"), b"below");
    assert_eq!(one.metadata().expect("stat").ino(), two.metadata().expect("stat").ino());

    // A layer that puts a symbolic link where a pending link or its target has its directory must not
    // reach the host through it.
    let host = tempfile::tempdir().expect("tempdir");
    fs::write(host.path().join("secret"), "secret").expect("write");
    let host_path = host.path().to_str().expect("utf-8");
    for tar in [
        Builder::default().link("mine", "s/secret").symlink("s", host_path).finish(),
        Builder::default().link("d/mine", "etc/file").symlink("d", host_path).finish(),
        Builder::default().file("e/f", b"x").link("l", "e/secret").symlink("e", host_path).finish(),
    ] {
        let case = Case::run(&tar, Method::Threads);
        if let Ok(unpacked) = &case.result {
            // Refused or passed over; either will do.
            let _ = settle(&case.layer(), unpacked, &[below.diff()]);
        }
        assert_eq!(fs::read_dir(host.path()).expect("readdir").count(), 1);
        let secret = host.path().join("secret").metadata().expect("stat");
        assert_eq!(secret.nlink(), 1, "a file of the host was linked into the layer");
    }

    let nowhere = Case::run(&Builder::default().link("a", "b").finish(), Method::Threads);
    let unpacked = nowhere.result.as_ref().expect("unpack");
    let error = settle(&nowhere.layer(), unpacked, &[below.diff()]).expect_err("no target");
    assert!(matches!(error, Error::NoTarget { .. }), "{error}");
}

/// What an upper directory looks like after a container changed things.
fn upper() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    let script = r#"
        set -e
        mkdir -p etc new gone-dir "$(printf 'd%.0s' $(seq 120))"
        echo changed > etc/hosts; echo added > new/file; ln new/file new/hard; ln -s file new/soft
        mknod etc/gone c 0 0; mkfifo new/fifo; mknod new/null c 1 3
        chown 70000:4000000 new/file; chmod 4755 new/file
        for n in $(seq 200); do echo $n > new/$n; done
        head -c 300000 /dev/zero > new/large; : > new/empty
        find . -exec touch -h -d '2020-02-02 02:02:02.123' {} +
    "#;
    assert!(Command::new("sh").args(["-c", script]).current_dir(dir.path()).status().expect("sh").success());
    let opaque = c_path(&dir.path().join("etc")).expect("path");
    // SAFETY: the names are C strings and the value is one byte.
    let done = unsafe {
        libc::lsetxattr(opaque.as_ptr(), c"trusted.overlay.opaque".as_ptr(), c"y".as_ptr().cast(), 1, 0)
    };
    assert_eq!(done, 0);
    dir
}

fn changed(upper: &Path) -> diff::Tree {
    diff::Tree::changes(upper, &[], false).expect("changes")
}

#[test]
fn a_layer_made_from_an_upper_directory_unpacks_to_it() {
    need_root!();
    let upper = upper();
    let mut tar = Vec::new();
    changed(upper.path()).tar(&mut tar).expect("tar");
    let mut again = Vec::new();
    changed(upper.path()).tar(&mut again).expect("tar");
    assert!(tar == again, "not reproducible");
    for method in methods() {
        let case = Case::run(&tar, method);
        assert!(!case.result.as_ref().expect("unpack").replaced);
        let (mut ours, mut theirs) = (listing(&case.diff()), listing(upper.path()));
        // The root is no entry, and a whiteout's own time and mode say nothing.
        for listing in [&mut ours, &mut theirs] {
            listing.remove("");
            assert!(listing.remove("etc/gone").expect("whiteout").contains("special 20"));
        }
        assert_eq!(ours, theirs);
        assert!(is_opaque(&case.diff().join("etc")).expect("xattr"));
    }
}

#[test]
fn changes_are_told_as_docker_tells_them() {
    need_root!();
    let upper = upper();
    let below = Case::run(
        &Builder::default()
            .file("etc/hosts", b"x")
            .file("etc/gone", b"x")
            .file("etc/hidden", b"x")
            .directory("gone-dir")
            .finish(),
        Method::Threads,
    );
    let changes = diff::changes(upper.path(), &[below.diff()]).expect("changes");
    let lines: Vec<String> =
        changes.iter().map(|c| format!("{} {}", c.kind.letter(), c.path.display())).collect();
    for line in [
        "C /etc",
        "C /etc/hosts",
        "D /etc/gone",
        "D /etc/hidden",
        "C /gone-dir",
        "A /new",
        "A /new/hard",
        "A /new/200",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line}: {lines:?}");
    }
    let mut sorted = lines.clone();
    sorted.sort_by(|a, b| a[2..].cmp(&b[2..]));
    assert_eq!(lines, sorted);
    let usage = disk_usage(upper.path()).expect("usage");
    assert!(usage.bytes >= 300_000 + 6 && usage.bytes < 400_000, "{usage:?}");
}

#[test]
fn what_a_container_nests_beyond_any_path_is_told_and_is_no_layer() {
    need_root!();
    let dir = tempfile::tempdir().expect("tempdir");
    let nested = |levels: usize, name: &str| {
        let upper = dir.path().join(name);
        fs::create_dir(&upper).expect("mkdir");
        let flags = nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
        let none = nix::sys::stat::Mode::empty();
        let mut at = nix::fcntl::open(&upper, flags, none).expect("open");
        for _ in 0..levels {
            nix::sys::stat::mkdirat(&at, "level", nix::sys::stat::Mode::S_IRWXU).expect("mkdir");
            at = nix::fcntl::openat(&at, "level", flags, none).expect("open");
        }
        let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_CLOEXEC;
        nix::fcntl::openat(&at, "file", flags, nix::sys::stat::Mode::S_IRWXU).expect("create");
        upper
    };
    let deep = nested(2000, "deep");
    let changes = diff::changes(&deep, &[]).expect("changes");
    assert_eq!(changes.len(), 2001);
    assert!(changes.last().is_some_and(|last| last.path.as_os_str().len() == 2000 * 6 + 5));
    let error = diff::Tree::changes(&deep, &[], false).expect_err("deeper than a layer may be").to_string();
    assert!(error.contains("512 directories"), "{error}");
    let most = nested(512, "most");
    let mut tar = Vec::new();
    diff::Tree::changes(&most, &[], false).expect("changes").tar(&mut tar).expect("tar");
    // The standard library removes a tree with a descriptor for each level.
    let gone = Command::new("rm").arg("-rf").args([&deep, &most]).status().expect("rm");
    assert!(gone.success());
}

#[test]
fn a_container_that_makes_links_leads_a_diff_nowhere() {
    need_root!();
    let dir = tempfile::tempdir().expect("tempdir");
    fs::create_dir_all(dir.path().join("upper")).expect("mkdir");
    fs::write(dir.path().join("secret"), "secret").expect("write");
    std::os::unix::fs::symlink("../", dir.path().join("upper/out")).expect("symlink");
    std::os::unix::fs::symlink("../secret", dir.path().join("upper/file")).expect("symlink");
    let mut tar = Vec::new();
    changed(&dir.path().join("upper")).tar(&mut tar).expect("tar");
    assert!(
        !tar.windows(6).any(|w| w == b"secret") || tar.windows(9).filter(|w| *w == b"../secret").count() == 1
    );
    assert_eq!(tar.len(), 1024 + 1024 + 2 * 1024, "two links with their times, and the end");
}

/// A generator of its own, so that a failure can be run again from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        // xorshift64*, Vigna 2014.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }
}

/// Mutates a rich archive: whatever comes of it, nothing is outside the layer, nothing panics, and what
/// was accepted is given back byte for byte. `BULKHEAD_FUZZ_SECONDS` runs it longer.
#[test]
fn mutated_archives_harm_nothing() {
    need_root!();
    let seconds: u64 = std::env::var("BULKHEAD_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let begun = std::time::Instant::now();
    let archives = [
        Builder::default()
            .directory("a")
            .file("a/f", b"content")
            .symlink("s", "a")
            .file("s/g", b"through")
            .link("l", "a/f")
            .file(".wh.x", b"")
            .header(b'6', b"fifo", b"", 0)
            .pax(&[("path", b"a/long"), ("SCHILY.xattr.user.x", b"1"), ("mtime", b"1.5"), ("size", b"4")])
            .file("x", b"long")
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"sp"),
                ("GNU.sparse.realsize", b"100000"),
            ])
            .header(b'0', b"y", b"", 516)
            .data(
                b"1
9000
4
",
            )
            .data(b"data")
            .finish(),
        rich_small(),
    ];
    let mut round = 0_u64;
    while round < 300 || begun.elapsed().as_secs() < seconds {
        round += 1;
        let mut random = Random(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut bytes = archives[random.next(archives.len())].clone();
        for _ in 0..=random.next(4) {
            let at = random.next(bytes.len());
            match random.next(5) {
                0 => bytes[at] ^= 1 << random.next(8),
                1 => bytes[at] = random.next(256) as u8,
                2 => bytes.truncate(at.max(1)),
                3 => {
                    // Copy one block over another: entries out of order, headers as content.
                    let (from, to) = (at / 512 * 512, random.next(bytes.len()) / 512 * 512);
                    let len = 512.min(bytes.len() - from).min(bytes.len() - to);
                    bytes.copy_within(from..from + len, to);
                }
                _ => bytes[at..].iter_mut().take(random.next(12)).for_each(|b| *b = b'.'),
            }
        }
        // Most mutations would stop at the checksum; mend it in most headers.
        if random.next(4) > 0 {
            mend(&mut bytes);
        }
        for method in methods() {
            let case = Case::run(&bytes, method);
            if let Ok(unpacked) = &case.result {
                if unpacked.replaced {
                    keep_archive(&bytes[..], &case.layer()).expect("keep");
                }
                let mut again = Vec::new();
                assemble(&case.layer(), &mut again).unwrap_or_else(|e| panic!("round {round}: {e}"));
                assert!(again == bytes, "round {round}");
            }
        }
    }
    println!("{round} rounds in {} s", begun.elapsed().as_secs());
}

fn rich_small() -> Vec<u8> {
    let mut builder = Builder::default();
    builder.file("d/one", b"1").directory("d").file("d/two", &[b'2'; 1500]).file("d", b"now a file");
    builder.link("hard", "d").symlink("loop", "loop").file("loop", b"no link").file("d/.wh..wh..opq", b"");
    builder.header(b'L', b"././@LongLink", b"", 150).data(&[b'n'; 150]).file("short", b"named long");
    builder.header(b'K', b"././@LongLink", b"", 140).data(&[b't'; 140]).symlink("sym", "x");
    builder.header(b'3', b"dev", b"", 0).header(b'5', b"./", b"", 0);
    builder.finish()
}

/// Corrects the checksum of every block that looks like a header.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            let mut header = ::tar::Header::new_ustar();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

#[test]
fn many_directories_do_not_exhaust_descriptors() {
    need_root!();
    let mut builder = Builder::default();
    for n in 0..3000 {
        builder.file(&format!("d{n}/f"), b"x");
    }
    for n in 0..3000 {
        builder.file(&format!("d{n}/g"), b"y");
    }
    let tar = builder.finish();
    for method in methods() {
        let case = Case::run(&tar, method);
        assert_eq!(case.result.as_ref().expect("unpack").entries, 6000);
        assert_eq!(case.read("d2999/g"), "y");
    }
}
