//! Who a container's process is: `-u USER[:GROUP]` looked up in the image's own passwd and group files.
//!
//! The numbers must be known before the root filesystem is mounted, because the mount happens inside
//! the container's namespace. So the files are read from the layer directories themselves, topmost
//! first, with the overlay's rules applied by hand: a whiteout hides what is below, an opaque directory
//! ends the search. Every path is resolved with openat2 inside its layer, since the layers are hostile.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag};

use crate::openat2::openat2;

use super::{Error, InvalidConfig};

/// No passwd file is longer than this, in bytes.
const LONGEST: u64 = 4 << 20;

/// The identity of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, the user's own first.
    pub groups: Vec<u32>,
    /// The home directory of the passwd entry; `/` without one.
    pub home: String,
}

/// One line of a passwd file.
struct User<'t> {
    name: &'t str,
    uid: u32,
    gid: u32,
    home: &'t str,
}

/// One line of a group file.
struct Group<'t> {
    name: &'t str,
    gid: u32,
    members: &'t str,
}

fn users(text: &str) -> impl Iterator<Item = User<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).unwrap_or("");
        Some(User { name, uid, gid, home })
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or("") })
    })
}

/// Resolves `spec` (`""`, `user`, `user:group`, `uid`, `uid:gid`, …) against the two files' texts.
///
/// A name must be found; a number need not be. Without an explicit group the user's own group and its
/// memberships apply; with one, no memberships do. `extra` are `--group-add`'s.
pub fn resolve(spec: &str, passwd: &str, group: &str, extra: &[String]) -> Result<Identity, Error> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let numeric = user.parse::<u32>().ok();
    let entry = users(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| users(passwd).find(|entry| Some(entry.uid) == numeric));
    let unknown = |kind: &'static str, name: &str, file: &'static str| {
        Error::from(InvalidConfig::UnknownUser { kind, name: name.to_owned(), file })
    };
    let mut identity = match (&entry, numeric) {
        (Some(entry), _) => Identity {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: if entry.home.is_empty() { "/".into() } else { entry.home.into() },
        },
        (None, Some(uid)) => Identity { uid, gid: 0, groups: Vec::new(), home: "/".into() },
        (None, None) => return Err(unknown("user", user, "passwd file")),
    };
    let find_group = |name: &str| {
        groups(group)
            .find(|entry| entry.name == name)
            .map(|entry| entry.gid)
            .or_else(|| name.parse().ok())
            .ok_or_else(|| unknown("group", name, "group file"))
    };
    if let Some(wanted) = wanted_group {
        identity.gid = find_group(wanted)?;
    } else if let Some(entry) = &entry {
        identity.groups = groups(group)
            .filter(|group| group.members.split(',').any(|member| member == entry.name))
            .map(|group| group.gid)
            .collect();
    }
    for name in extra {
        identity.groups.push(find_group(name)?);
    }
    // Docker's bound. The highest number of all means "as it is" to setresuid(2), which is root.
    let most = i32::MAX.unsigned_abs();
    if identity.uid > most || identity.gid > most || identity.groups.iter().any(|gid| *gid > most) {
        return Err(InvalidConfig::IdRange.into());
    }
    identity.groups.sort_unstable();
    identity.groups.dedup();
    // The group itself is one of them, or a program that changes it can give up what it denies (CVE-2022-36109).
    let own = identity.gid;
    identity.groups.retain(|gid| *gid != own);
    identity.groups.insert(0, own);
    Ok(identity)
}

/// The text of an image's file as a container sees it, or an empty text when there is none.
///
/// `stack` are the overlay's directories, topmost first.
pub fn read(stack: &[PathBuf], dir: &str, file: &str) -> String {
    for layer in stack {
        let Ok(root) = File::open(layer) else { continue };
        let how = |flags: OFlag| {
            OpenHow::new()
                .flags(flags | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
        };
        let open = |path: &str, flags: OFlag| openat2(&root, path, how(flags)).ok().map(File::from);
        // O_PATH first: opening a fifo or a device that a hostile layer put there would block or act.
        if let Some(found) = open(&format!("{dir}/{file}"), OFlag::O_PATH) {
            let Ok(metadata) = found.metadata() else { return String::new() };
            if !metadata.is_file() {
                return String::new();
            }
            let Some(found) = open(&format!("{dir}/{file}"), OFlag::O_RDONLY) else { return String::new() };
            let mut bytes = Vec::new();
            return match found.take(LONGEST).read_to_end(&mut bytes) {
                Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(_) => String::new(),
            };
        }
        if let Some(parent) = open(dir, OFlag::O_PATH | OFlag::O_NOFOLLOW)
            && let Ok(metadata) = parent.metadata()
        {
            let whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
            if whiteout || is_opaque(&layer.join(dir)) {
                return String::new();
            }
        }
    }
    String::new()
}

fn is_opaque(dir: &std::path::Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(path) = std::ffi::CString::new(dir.as_os_str().as_bytes()) else { return false };
    let mut value = [0_u8; 4];
    // SAFETY: two NUL-terminated strings and a buffer of the stated length.
    let length = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            c"trusted.overlay.opaque".as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    length == 1 && value[0] == b'y'
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:201:202::/srv:/sbin/nologin\nbroken\n7:x:9:9::/n:\nnohome:x:5:5\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,www\nwww:x:202:\nbad:x:zz:www\n";

    #[test]
    fn names_and_numbers_resolve_as_docker_resolves_them() {
        let id = |uid, gid, groups: &[u32], home: &str| Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        };
        for (spec, extra, want) in [
            ("", &[][..], id(0, 0, &[0, 10], "/root")),
            ("root", &[], id(0, 0, &[0, 10], "/root")),
            ("www", &[], id(201, 202, &[202, 10], "/srv")),
            ("www:root", &[], id(201, 0, &[0], "/srv")),
            ("201", &[], id(201, 202, &[202, 10], "/srv")),
            ("1234", &[], id(1234, 0, &[0], "/")),
            ("1234:5678", &[], id(1234, 5678, &[5678], "/")),
            ("7", &[], id(9, 9, &[9], "/n")),
            ("nohome", &["wheel", "77"], id(5, 5, &[5, 10, 77], "/")),
            ("www:", &[], id(201, 202, &[202, 10], "/srv")),
        ] {
            let extra: Vec<String> = extra.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(resolve(spec, PASSWD, GROUP, &extra).expect(spec), want, "{spec}");
        }
    }

    #[test]
    fn unknown_names_are_errors() {
        let range = "uids and gids must be in range 0-2147483647";
        assert_eq!(
            resolve("1", PASSWD, GROUP, &["2147483648".to_owned()]).expect_err("gid").to_string(),
            range
        );
        for (spec, message) in [
            ("4294967295", range),
            ("2147483648", range),
            ("0:4294967295", range),
            ("nobody", "unable to find user nobody: no matching entries in passwd file"),
            ("root:nogroup", "unable to find group nogroup: no matching entries in group file"),
            ("-1", "unable to find user -1: no matching entries in passwd file"),
        ] {
            assert_eq!(resolve(spec, PASSWD, GROUP, &[]).expect_err(spec).to_string(), message);
        }
    }

    #[test]
    fn a_file_is_found_in_the_topmost_layer_and_never_outside() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (top, low) = (dir.path().join("top"), dir.path().join("low"));
        for layer in [&top, &low] {
            std::fs::create_dir_all(layer.join("etc")).expect("mkdir");
        }
        std::fs::write(low.join("etc/passwd"), "low").expect("write");
        std::fs::write(dir.path().join("secret"), "secret").expect("write");
        let stack = [top.clone(), low];
        assert_eq!(read(&stack, "etc", "passwd"), "low");
        std::os::unix::fs::symlink("../../secret", top.join("etc/passwd")).expect("symlink");
        assert_eq!(read(&stack, "etc", "passwd"), "low", "the link stays inside its layer and dangles there");
        std::fs::remove_file(top.join("etc/passwd")).expect("unlink");
        std::fs::write(top.join("etc/passwd"), "top").expect("write");
        assert_eq!(read(&stack, "etc", "passwd"), "top");
        assert_eq!(read(&stack, "etc", "group"), "");
    }
}
