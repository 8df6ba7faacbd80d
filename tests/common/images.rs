//! Images made on the spot from `/bin/busybox` (package busybox-static), in every shape `load` takes.
//!
//! Nothing is pulled: a test host has no registry. An [`Image`] is a list of layer tars and a
//! configuration; it is written out as a docker-archive, an OCI layout or an OCI archive, with the
//! layers plain, gzip or zstd. Hostile variants are made by tests from the same pieces.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where Debian's busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";

/// Whether this machine has a busybox that needs no loader.
pub fn have_busybox() -> bool {
    // A dynamic executable names its loader; a static one has no such string in its first page.
    let mut head = vec![0; 4096];
    fs::File::open(BUSYBOX)
        .and_then(|mut f| f.read_exact(&mut head))
        .is_ok_and(|()| !head.windows(7).any(|w| w == b"/lib64/"))
}

/// `busybox:latest` as a docker-archive with one plain layer; made once per process.
pub fn busybox() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| Image::busybox().docker_archive(Compression::None))
}

/// `users:latest`: busybox with users, groups, an entrypoint, a working directory, labels and all the
/// other things a configuration can say.
///
/// Users: `app` (1000, group `app` 1000, home /home/app, also in `audio` 29), `web` (1001, group `staff` 50).
pub fn users() -> Image {
    Image::busybox()
        .name("users:latest")
        .config("User", json!("app"))
        .config("WorkingDir", json!("/srv/data"))
        .config("Entrypoint", json!(["/bin/echo", "entry"]))
        .config("Cmd", json!(["and", "cmd"]))
        .config("Env", json!(["PATH=/bin:/usr/bin", "GREETING=hello world"]))
        .config("Labels", json!({"org.example.role": "test", "tier": "one"}))
        .config("ExposedPorts", json!({"80/tcp": {}, "53/udp": {}}))
        .config("Volumes", json!({"/data": {}}))
        .config("StopSignal", json!("SIGINT"))
}

/// `deep:latest`: `layers` layers in all, busybox at the bottom. Layer *i* (from 1) adds `/layers/<i>`
/// and writes *i* to `/top`, so the merged view has `layers - 1` files and `/top` says the last.
pub fn deep(layers: usize) -> Image {
    let mut image = Image::busybox().name("deep:latest");
    for i in 1..layers {
        let tar = Tar::new().dir("layers", 0o755).file(&format!("layers/{i}"), 0o644, format!("{i}\n"));
        image = image.layer(tar.file("top", 0o644, format!("{i}\n")).build());
    }
    image
}

/// How a layer (or a whole archive) is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, one member.
    Gzip,
    /// zstd, one frame.
    Zstd,
}

impl Compression {
    /// The three of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Gzip, Self::Zstd];

    /// Compresses.
    pub fn apply(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::None => bytes.to_vec(),
            Self::Gzip => {
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gz.write_all(bytes).expect("gzip");
                gz.finish().expect("gzip")
            }
            Self::Zstd => zstd::encode_all(bytes, 1).expect("zstd"),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// `sha256:<hex>` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// An image about to be written out.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name; none makes an untagged archive.
    pub reference: Option<String>,
    /// Plain layer tars, lowest first.
    pub layers: Vec<Vec<u8>>,
    /// The `config` object of the image configuration.
    pub config: Value,
}

/// Busybox with one file more, which says `what`.
pub fn image(what: &str) -> Image {
    Image::busybox().name("x:latest").layer(Tar::new().file("what", 0o644, what).build())
}

/// Bytes that do not compress.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// The twelve digits of a digest that people see.
pub fn short(digest: &str) -> &str {
    &digest[7..19]
}

impl Image {
    /// An image without layers.
    pub fn empty(reference: &str) -> Self {
        Self { reference: Some(reference.to_owned()), layers: Vec::new(), config: json!({}) }
    }

    /// Busybox with all its applets in /bin.
    pub fn busybox() -> Self {
        Self::empty("busybox:latest")
            .layer(busybox_layer().to_vec())
            .config("Env", json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]))
            .config("Cmd", json!(["sh"]))
    }

    /// The same image under another name.
    #[must_use]
    pub fn name(mut self, reference: &str) -> Self {
        self.reference = Some(reference.to_owned());
        self
    }

    /// The same image with one layer more on top.
    #[must_use]
    pub fn layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    /// The same image with one field of its `config` set.
    #[must_use]
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// The image configuration, byte for byte; its digest is the image's id.
    pub fn configuration(&self) -> Vec<u8> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let diff_ids: Vec<_> = self.layers.iter().map(|l| digest(l)).collect();
        let history: Vec<_> = (0..self.layers.len())
            .map(|i| json!({"created": "2024-01-02T03:04:05Z", "created_by": format!("layer {i}")}))
            .collect();
        json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        })
        .to_string()
        .into_bytes()
    }

    /// The image's id, `sha256:<hex>`.
    pub fn id(&self) -> String {
        digest(&self.configuration())
    }

    /// A docker-archive: what `docker save` writes. `layers` compresses each layer inside it.
    pub fn docker_archive(&self, layers: Compression) -> Vec<u8> {
        let config = self.configuration();
        let config_name = format!("{}.json", hex(&config));
        let names: Vec<_> = self.layers.iter().map(|l| format!("{}/layer.tar", hex(l))).collect();
        let tags: Vec<_> = self.reference.iter().collect();
        let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
        let mut tar = Tar::new().file(&config_name, 0o644, config);
        let mut written = std::collections::BTreeSet::new();
        for (name, layer) in names.iter().zip(&self.layers) {
            if written.insert(name) {
                tar = tar.file(name, 0o644, layers.apply(layer));
            }
        }
        tar.file("manifest.json", 0o644, manifest.to_string()).build()
    }

    /// The files of an OCI layout, name and content.
    pub fn oci_files(&self, layers: Compression) -> Vec<(String, Vec<u8>)> {
        let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", hex(bytes)), bytes.to_vec());
        let descriptor = |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": digest(bytes), "size": bytes.len()});
        let config = self.configuration();
        let blobs: Vec<_> = self.layers.iter().map(|l| layers.apply(l)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": blobs.iter().map(|b| descriptor(layers.media_type(), b)).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        if let Some(name) = &self.reference {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index),
            blob(&config),
            blob(&manifest),
        ];
        files.extend(blobs.iter().map(|b| blob(b)));
        // Two equal layers are one blob.
        files.sort();
        files.dedup();
        files
    }

    /// Writes an OCI layout into `dir`.
    pub fn oci_layout(&self, dir: &Path, layers: Compression) {
        for (name, content) in self.oci_files(layers) {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().expect("below dir")).expect("mkdir");
            fs::write(path, content).expect("write");
        }
    }

    /// An OCI archive: the layout in a tar.
    pub fn oci_archive(&self, layers: Compression) -> Vec<u8> {
        self.oci_files(layers)
            .into_iter()
            .fold(Tar::new(), |tar, (name, content)| tar.file(&name, 0o644, content))
            .build()
    }
}

/// Writes a tar whose every byte depends only on what is put in (fixed times, root's).
pub struct Tar {
    builder: tar::Builder<Vec<u8>>,
}

impl Tar {
    /// An empty tar.
    pub fn new() -> Self {
        Self { builder: tar::Builder::new(Vec::new()) }
    }

    fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    /// A directory owned by root.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(Self::header(tar::EntryType::Directory, mode, 0), &format!("{path}/"), b"")
    }

    /// A directory with an owner.
    #[must_use]
    pub fn dir_of(self, path: &str, mode: u32, uid: u64, gid: u64) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        header.set_uid(uid);
        header.set_gid(gid);
        self.entry(header, &format!("{path}/"), b"")
    }

    /// A regular file owned by root.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        self.entry(Self::header(tar::EntryType::Regular, mode, content.len()), path, content)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        self.builder.append_link(&mut header, path, target).expect("tar symlink");
        self
    }

    /// A hard link.
    #[must_use]
    pub fn hardlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Link, 0o644, 0);
        self.builder.append_link(&mut header, path, target).expect("tar link");
        self
    }

    /// Any entry, with a header of the caller's. The path is taken as it is, `..` and all.
    #[must_use]
    pub fn entry(mut self, mut header: tar::Header, path: &str, content: &[u8]) -> Self {
        // `append_data` refuses `..` and absolute names, which hostile archives are made of.
        let name = &mut header.as_old_mut().name;
        if path.len() < name.len() {
            name.fill(0);
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            self.builder.append(&header, content).expect("tar entry");
        } else {
            self.builder.append_data(&mut header, path, content).expect("tar entry");
        }
        self
    }

    /// The finished archive.
    pub fn build(self) -> Vec<u8> {
        self.builder.into_inner().expect("tar")
    }
}

fn busybox_layer() -> &'static [u8] {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(|| {
        let program = fs::read(BUSYBOX).expect("busybox");
        let list = std::process::Command::new(BUSYBOX).arg("--list").output().expect("busybox --list");
        let mut tar = Tar::new();
        for dir in ["bin", "dev", "etc", "home", "proc", "srv", "sys", "usr", "usr/bin", "var"] {
            tar = tar.dir(dir, 0o755);
        }
        tar = tar
            .dir("root", 0o700)
            .dir("tmp", 0o1777)
            .dir_of("home/app", 0o755, 1000, 1000)
            .file("bin/busybox", 0o755, program)
            .file(
                "etc/passwd",
                0o644,
                "root:x:0:0:root:/root:/bin/sh\n\
                 daemon:x:1:1:daemon:/:/bin/false\n\
                 app:x:1000:1000:Application:/home/app:/bin/sh\n\
                 web:x:1001:50::/srv:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/:/bin/false\n",
            )
            .file(
                "etc/group",
                0o644,
                "root:x:0:\ndaemon:x:1:\naudio:x:29:app\nstaff:x:50:\napp:x:1000:\nnogroup:x:65534:\n",
            )
            .symlink("usr/bin/env", "../../bin/env");
        for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
            tar = tar.symlink(&format!("bin/{applet}"), "busybox");
        }
        tar.build()
    })
}
