//! Images through the whole store: archives of every shape in, names and layers about, archives out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::layer::{Compression, Framing, Options, Packing};
use crate::store::Layout;

struct World {
    dir: tempfile::TempDir,
    store: Store,
}

fn world() -> World {
    let dir = tempfile::tempdir().expect("tempdir");
    let layout = Layout { root: dir.path().join("root"), run_root: dir.path().join("run") };
    World { store: Store::open(layout).expect("open"), dir }
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).expect("readdir").count()
}

macro_rules! need_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
    };
}

impl World {
    /// Nothing half-made: no scratch, and layers as many as rows.
    fn assert_clean(&self) {
        assert_eq!(count(&self.store.layout().scratch()), 0, "scratch left");
        let rows: i64 =
            self.store.db().query_row("SELECT count(*) FROM layer", [], |r| r.get(0)).expect("count");
        assert_eq!(count(&self.store.layout().layers()), rows as usize, "layer directories");
    }

    fn load(&mut self, archive: &[u8]) -> Result<Vec<Loaded>, Error> {
        load(&mut self.store, Input::Stream(Box::new(archive)), &by_default(), &Silent)
    }
}

fn by_default() -> Options {
    Options::from_env().expect("the environment")
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *content).expect("append");
    }
    builder.into_inner().expect("tar")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("gzip");
    out.finish().expect("gzip")
}

fn config_of(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    json!({
        "architecture": host_architecture(), "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": { "Cmd": ["sh"], "Env": ["A=b"], "Entrypoint": null, "Labels": null },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [{ "created_by": "test" }],
    })
    .to_string()
    .into_bytes()
}

fn layers() -> Vec<Vec<u8>> {
    vec![tar_of(&[("etc/a", b"one"), ("bin/x", b"exe")]), tar_of(&[("etc/b", b"two")])]
}

/// A docker-archive as `docker save` wrote it before 25.
fn docker_archive(layers: &[Vec<u8>], tags: &[&str]) -> Vec<u8> {
    let config = config_of(layers);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let names: Vec<String> = (0..layers.len()).map(|n| format!("layer{n}/layer.tar")).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": tags, "Layers": names }]).to_string();
    let mut files: Vec<(&str, &[u8])> = vec![(&config_name, &config), ("manifest.json", manifest.as_bytes())];
    files.extend(names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice)));
    tar_of(&files)
}

/// Files of an OCI layout, to be changed by a test before they are written.
struct Oci {
    files: BTreeMap<String, Vec<u8>>,
    index: Vec<Value>,
}

impl Oci {
    fn new() -> Self {
        let files =
            BTreeMap::from([("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())]);
        Self { files, index: Vec::new() }
    }

    fn blob(&mut self, bytes: Vec<u8>, media: &str) -> Value {
        let digest = Digest::of(&bytes);
        let descriptor = json!({ "mediaType": media, "digest": digest, "size": bytes.len() });
        self.files.insert(format!("blobs/sha256/{}", digest.hex()), bytes);
        descriptor
    }

    fn manifest(&mut self, config: Vec<u8>, blobs: Vec<Vec<u8>>) -> Value {
        let config = self.blob(config, "application/vnd.oci.image.config.v1+json");
        let layers: Vec<_> = blobs.into_iter().map(|blob| self.blob(blob, "layer")).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        self.blob(manifest.to_string().into_bytes(), "application/vnd.oci.image.manifest.v1+json")
    }

    fn write(&self, dir: &Path) {
        for (name, bytes) in self.all() {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, bytes).expect("write");
        }
    }

    fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        let index = json!({ "schemaVersion": 2, "manifests": self.index }).to_string();
        files.entry("index.json".to_owned()).or_insert(index.into_bytes());
        files
    }

    fn tar(&self) -> Vec<u8> {
        let files = self.all();
        tar_of(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())
    }
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

#[test]
fn every_kind_of_archive_gives_the_same_image() {
    need_root!();
    let layers = layers();
    let id = Digest::of(&config_of(&layers));
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).expect("zstd");
    let docker = docker_archive(&layers, &["app:1", "quay.io/x/app:2"]);
    let oci = |pack: &dyn Fn(&[u8]) -> Vec<u8>| {
        let mut oci = Oci::new();
        let manifest = oci.manifest(config_of(&layers), layers.iter().map(|l| pack(l)).collect());
        oci.index = vec![named(manifest.clone(), "app:1"), named(manifest, "quay.io/x/app:2")];
        oci
    };
    for (what, archive) in [
        ("docker", docker.clone()),
        ("docker gzip", gzip(&docker)),
        ("docker zstd", zstd(&docker)),
        ("oci", oci(&<[u8]>::to_vec).tar()),
        ("oci gzip", oci(&gzip).tar()),
        ("oci zstd", oci(&zstd).tar()),
        ("oci gzip in zstd", zstd(&oci(&gzip).tar())),
    ] {
        let mut world = world();
        let loaded = world.load(&archive).expect(what);
        assert_eq!(loaded.len(), 1, "{what}");
        assert_eq!(loaded[0].lines(), ["Loaded image: app:1", "Loaded image: quay.io/x/app:2"], "{what}");
        let image = find(&world.store, "app:1").expect(what);
        assert_eq!(image.id, id, "{what}");
        assert_eq!(image.config.env, ["A=b"]);
        assert_eq!(image.size, 9);
        assert_eq!(image.digest.is_some(), what.starts_with("oci"), "{what}");
        let diff = layer_dir(world.store.layout(), &image.chain[0]).join("diff");
        assert_eq!(fs::read(diff.join("etc/a")).expect("read"), b"one");
        world.assert_clean();
    }
    let dir = tempfile::tempdir().expect("tempdir");
    oci(&gzip).write(dir.path());
    let mut world = world();
    load(&mut world.store, Input::Path(dir.path()), &by_default(), &Silent).expect("directory");
    assert_eq!(list(&world.store).expect("list").len(), 1);
    let file = dir.path().join("a.tar");
    fs::write(&file, &docker).expect("write");
    load(&mut world.store, Input::Path(&file), &by_default(), &Silent).expect("file");
    assert_eq!(list(&world.store).expect("list").len(), 1);
    world.assert_clean();
}

#[test]
fn an_image_is_found_as_docker_finds_it() {
    need_root!();
    let mut world = world();
    world.load(&docker_archive(&layers(), &["app:1"])).expect("load");
    let other = vec![tar_of(&[("other", b"x")])];
    world.load(&docker_archive(&other, &[])).expect("load");
    let id = Digest::of(&config_of(&layers()));
    for text in [
        "app:1".to_owned(),
        "docker.io/library/app:1".to_owned(),
        id.to_string(),
        id.hex(),
        id.short(),
        format!("sha256:{}", &id.hex()[..20]),
    ] {
        assert_eq!(find(&world.store, &text).expect(&text).id, id);
    }
    let digits = "f".repeat(64);
    for (text, looked_for) in [
        ("app", "app:latest"),
        ("app:2", "app:2"),
        ("0000000000", "0000000000:latest"),
        ("sha256:", "sha256:"),
        (&digits, &digits),
    ] {
        let error = find(&world.store, text).expect_err(text).to_string();
        assert_eq!(error, format!("No such image: {looked_for}"));
    }
    tag(&mut world.store, "app:1", "app").expect("tag");
    assert_eq!(find(&world.store, "app").expect("app").repo_tags(), ["app:1", "app:latest"]);
    assert_eq!(
        tag(&mut world.store, "app:1", "App").expect_err("upper").to_string(),
        "invalid reference format: repository name (App) must be lowercase"
    );
}

fn container(store: &Store, id: char, image: &Digest, status: &str) {
    store
        .db()
        .execute(
            "INSERT INTO container (id, name, image, created, record, state) VALUES (?1, ?2, ?3, '', '{}', ?4)",
            (id.to_string().repeat(64), id.to_string(), image.to_string(), format!(r#"{{"Status":"{status}"}}"#)),
        )
        .expect("container");
}

#[test]
fn removal_says_what_docker_says() {
    need_root!();
    let mut world = world();
    let all = layers();
    let id = world.load(&docker_archive(&all, &["app:1", "app:2"])).expect("load")[0].id;
    let base = world.load(&docker_archive(&all[..1], &["base:1"])).expect("load")[0].id;
    let short = id.short();
    let chain = find(&world.store, "app:1").expect("find").chain;
    let store = &mut world.store;
    let lines = |removed: Vec<Removed>| removed.iter().map(ToString::to_string).collect::<Vec<_>>();
    let refusal =
        |store: &mut Store, text: &str, force| remove(store, text, force).expect_err(text).to_string();

    assert_eq!(
        refusal(store, &short, false),
        format!("conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories")
            .as_str()
    );
    assert_eq!(lines(remove(store, "app:2", false).expect("untag")), ["Untagged: app:2"]);
    container(store, 'c', &id, "running");
    assert_eq!(
        refusal(store, "app:1", false),
        format!(
            "conflict: unable to remove repository reference \"app:1\" (must force) - container cccccccccccc is using its referenced image {short}"
        )
    );
    assert_eq!(
        refusal(store, &short, true),
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container cccccccccccc"
        )
    );
    store.db().execute(r#"UPDATE container SET state = '{"Status":"exited"}'"#, []).expect("stop");
    assert_eq!(
        refusal(store, &short, false),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container cccccccccccc"
        )
    );
    store.db().execute("DELETE FROM container", []).expect("rm");
    assert_eq!(
        lines(remove(store, "app:1", false).expect("remove")),
        ["Untagged: app:1".to_owned(), format!("Deleted: {id}"), format!("Deleted: {}", chain[1])]
    );
    assert_eq!(refusal(store, "app:1", false), "No such image: app:1");
    assert_eq!(
        lines(remove(store, &base.short(), false).expect("remove")),
        ["Untagged: base:1".to_owned(), format!("Deleted: {base}"), format!("Deleted: {}", chain[0])]
    );
    world.assert_clean();
    assert_eq!(count(&world.store.layout().layers()), 0);
}

#[test]
fn what_a_crash_leaves_is_swept_but_not_while_a_load_runs() {
    need_root!();
    let mut world = world();
    let layers = world.store.layout().layers();
    fs::create_dir_all(layers.join("a".repeat(64)).join("diff")).expect("mkdir");
    let load = fs::File::open(&layers).expect("open");
    let load = nix::fcntl::Flock::lock(load, nix::fcntl::FlockArg::LockShared).expect("lock");
    assert_eq!(sweep(&world.store).expect("sweep"), 0);
    drop(load);
    world.load(&docker_archive(&self::layers(), &["a:1"])).expect("load");
    world.assert_clean();
    assert_eq!(count(&layers), 2);
}

#[test]
fn save_gives_back_the_bytes_and_the_same_ones_each_time() {
    need_root!();
    for (compression, suffix) in
        [(Compression::None, ""), (Compression::Gzip, "+gzip"), (Compression::Zstd, "+zstd")]
    {
        saved(Packing::new(compression, None).expect("default level"), suffix);
    }
}

fn saved(packing: Packing, suffix: &str) {
    let mut world = world();
    let all = layers();
    world.load(&docker_archive(&all, &["app:1", "app:2"])).expect("load");
    world.load(&docker_archive(&all[..1], &["base:1"])).expect("load");
    let save_all = |store: &Store| {
        let mut out = Vec::new();
        save(store, &["app".into(), "base:1".into()], packing, &mut out).expect("save");
        out
    };
    let archive = save_all(&world.store);
    assert!(archive == save_all(&world.store), "not reproducible");
    let mut entries = BTreeMap::new();
    for entry in ::tar::Archive::new(&archive[..]).entries().expect("entries") {
        let mut entry = entry.expect("entry");
        let name = entry.path().expect("path").display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).expect("read");
        assert!(entries.insert(name, bytes).is_none(), "a shared layer is written once");
    }
    let manifest: Value = serde_json::from_slice(&entries["manifest.json"]).expect("json");
    for (n, layer) in all.iter().enumerate() {
        let name = manifest[0]["Layers"][n].as_str().expect("a name");
        let blob = &entries[name];
        assert_eq!(name, format!("blobs/sha256/{}", Digest::of(blob).hex()));
        assert_eq!(Framing::detect(blob).to_string(), packing.compression().to_string());
        let mut plain = Vec::new();
        match packing.compression() {
            Compression::None => plain.clone_from(blob),
            Compression::Gzip => {
                let mut reader = flate2::read::GzDecoder::new(blob.as_slice());
                std::io::Read::read_to_end(&mut reader, &mut plain).expect("gzip");
            }
            Compression::Zstd => plain = zstd::decode_all(blob.as_slice()).expect("zstd"),
        }
        assert!(plain == *layer);
        let source = &manifest[0]["LayerSources"][Digest::of(layer).to_string()];
        assert_eq!(source["size"], blob.len());
        assert_eq!(source["mediaType"], format!("application/vnd.oci.image.layer.v1.tar{suffix}"));
    }
    assert_eq!(manifest[0]["RepoTags"], json!(["app:1", "app:2"]));
    assert_eq!(manifest[1]["RepoTags"], json!(["base:1"]));
    assert!(entries.contains_key("repositories") && entries.contains_key("oci-layout"));

    // Both readings of it load: Docker's list, and the OCI layout without it.
    let mut again = self::world();
    again.load(&archive).expect("load");
    assert!(save_all(&again.store) == archive);
    entries.remove("manifest.json");
    let files: Vec<_> =
        entries.iter().filter(|(n, _)| !n.ends_with('/')).map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let mut oci = self::world();
    oci.load(&tar_of(&files)).expect("load");
    assert_eq!(find(&oci.store, "app:2").expect("find").id, find(&world.store, "app:1").expect("find").id);
}

#[test]
fn a_wrong_archive_is_refused_and_leaves_nothing() {
    need_root!();
    let layers = layers();
    let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
    let good = || {
        let mut oci = Oci::new();
        let manifest = oci.manifest(config_of(&layers), layers.iter().map(|l| gzip(l)).collect());
        oci.index = vec![named(manifest, "app:1")];
        oci
    };
    let change = |what: &[u8], to: &[u8]| {
        let mut oci = good();
        let name = format!("blobs/sha256/{}", Digest::of(what).hex());
        assert!(oci.files.contains_key(&name));
        oci.files.insert(name, to.to_vec());
        oci.tar()
    };
    let layer = gzip(&layers[0]);
    let mut flipped = layer.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    let swapped = {
        let mut oci = Oci::new();
        let manifest = oci.manifest(config_of(&layers), vec![gzip(&layers[1]), gzip(&layers[0])]);
        oci.index = vec![manifest];
        oci.tar()
    };
    let descriptor = |digest: &str, size: u64| {
        let mut oci = good();
        oci.index = vec![json!({ "mediaType": "m", "digest": digest, "size": size })];
        oci.tar()
    };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_config = format!(r#"{{"config":{deep}}}"#);
    let nested = {
        let mut oci = good();
        let mut inner = oci.index[0].clone();
        for _ in 0..12 {
            let index = json!({ "manifests": [inner] }).to_string().into_bytes();
            inner = oci.blob(index, "application/vnd.oci.image.index.v1+json");
        }
        oci.index = vec![inner];
        oci.tar()
    };
    let foreign = {
        let mut oci = good();
        oci.index[0]["platform"] = json!({ "architecture": "s390x", "os": "linux" });
        oci.tar()
    };
    let docker = docker_archive(&layers, &["app:1"]);
    for (what, archive, want) in [
        ("flipped bit", change(&layer, &flipped), vec![digest(&layer), digest(&flipped)]),
        ("swapped layers", swapped, vec![digest(&layers[0]), digest(&layers[1])]),
        ("config", change(&config_of(&layers), &config_of(&layers[..1])), vec!["size mismatch".into()]),
        ("path for a digest", descriptor("sha256:../../../etc/passwd", 1), vec!["invalid digest".into()]),
        ("unknown algorithm", descriptor("md5:00", 1), vec!["only sha256".into()]),
        ("missing blob", descriptor(&digest(b"nothing"), 1), vec!["is missing".into()]),
        ("deep index", tar_of(&[("index.json", deep.as_bytes())]), vec!["invalid type".into()]),
        (
            "deep configuration",
            tar_of(&[("manifest.json", br#"[{"Config":"c","Layers":[]}]"#), ("c", deep_config.as_bytes())]),
            vec!["recursion limit".into()],
        ),
        ("nested indexes", nested, vec!["8 indexes".into()]),
        ("foreign platform", foreign, vec!["no matching manifest".into()]),
        ("empty", tar_of(&[]), vec!["neither manifest.json nor index.json".into()]),
        ("not a tar", vec![b'x'; 5000], vec!["invalid image archive".into()]),
        (
            "path in manifest.json",
            tar_of(&[("manifest.json", br#"[{"Config":"../../etc/passwd","Layers":[]}]"#)]),
            vec!["is missing".into()],
        ),
        (
            "layers fewer",
            tar_of(&[
                ("c.json", &config_of(&layers)),
                ("manifest.json", br#"[{"Config":"c.json","Layers":[]}]"#),
            ]),
            vec!["layers length mismatch: expected 2, got 0".into()],
        ),
        ("bad tag", docker_archive(&layers, &["App:1"]), vec!["must be lowercase".into()]),
        ("truncated", docker[..docker.len() / 2].to_vec(), vec!["invalid image archive".into()]),
    ] {
        let mut world = world();
        let error = world.load(&archive).expect_err(what).to_string();
        for text in want {
            assert!(error.contains(&text), "{what}: {error}");
        }
        world.assert_clean();
        assert_eq!(count(&world.store.layout().layers()), 0, "{what}");
        assert!(list(&world.store).expect("list").is_empty());
    }
}

/// In a mount namespace of this thread, which the threads of a load inherit.
#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    need_root!();
    std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};

        if unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).is_err() {
            println!("skipped: needs a mount namespace of its own");
            return;
        }
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
        let dir = tempfile::tempdir().expect("tempdir");
        let options = Some("size=4m");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), options).expect("tmpfs");
        let layout = Layout { root: dir.path().join("root"), run_root: dir.path().join("run") };
        let mut store = Store::open(layout).expect("open");
        let load = |store: &mut Store, archive: &[u8]| {
            let path = std::env::temp_dir().join(format!("bulkhead-full-{}.tar", std::process::id()));
            fs::write(&path, archive).expect("write");
            let loaded = super::load(store, Input::Path(&path), &by_default(), &Silent);
            fs::remove_file(&path).expect("unlink");
            loaded
        };
        load(&mut store, &docker_archive(&layers(), &["small:1"])).expect("small");
        let large = vec![tar_of(&[("a", &vec![1; 1 << 20]), ("b", &vec![2; 6 << 20])])];
        let error = load(&mut store, &docker_archive(&large, &["large:1"])).expect_err("full").to_string();
        assert!(error.contains("No space left on device"), "{error}");
        let world = World { dir, store };
        world.assert_clean();
        assert_eq!(list(&world.store).expect("list").len(), 1);
        find(&world.store, "small:1").expect("what was there still works");
        let dir = world.dir.path().to_owned();
        drop(world.store);
        nix::mount::umount2(&dir, nix::mount::MntFlags::MNT_DETACH).expect("umount");
    })
    .join()
    .expect("the test's own thread");
}

#[test]
fn symbolic_links_in_a_layout_directory_lead_nowhere() {
    need_root!();
    let mut oci = Oci::new();
    let manifest = oci.manifest(config_of(&layers()), layers());
    oci.index = vec![manifest];
    let dir = tempfile::tempdir().expect("tempdir");
    oci.write(dir.path());
    let blob = dir.path().join(format!("blobs/sha256/{}", Digest::of(&layers()[0]).hex()));
    let outside = dir.path().join("outside");
    fs::rename(&blob, &outside).expect("rename");
    std::os::unix::fs::symlink(&outside, &blob).expect("symlink");
    let mut world = world();
    let error = load(&mut world.store, Input::Path(dir.path()), &by_default(), &Silent)
        .expect_err("symlink")
        .to_string();
    assert!(error.contains("Too many levels of symbolic links"), "{error}");
    world.assert_clean();
}

#[test]
fn the_hosts_platform_is_taken_from_an_index() {
    need_root!();
    let mut oci = Oci::new();
    let ours = oci.manifest(config_of(&layers()), layers());
    let foreign = {
        let all = vec![tar_of(&[("foreign", b"x")])];
        oci.manifest(config_of(&all), all)
    };
    let on = |mut d: Value, arch: &str| {
        d["platform"] = json!({ "architecture": arch, "os": "linux" });
        d
    };
    let index = json!({ "manifests": [
        on(foreign, "s390x"),
        on(ours, host_architecture()),
        { "mediaType": "m", "digest": Digest::of(b""), "size": 0,
          "platform": { "architecture": "unknown", "os": "unknown" } },
    ]});
    let index = oci.blob(index.to_string().into_bytes(), "application/vnd.oci.image.index.v1+json");
    oci.index = vec![named(index, "docker.io/library/app:1")];
    let mut world = world();
    let loaded = world.load(&oci.tar()).expect("load");
    assert_eq!(loaded[0].id, Digest::of(&config_of(&layers())));
    assert_eq!(loaded[0].lines(), ["Loaded image: app:1"]);
}

#[test]
fn a_name_that_moves_is_said_to_move() {
    need_root!();
    let mut world = world();
    let old = world.load(&docker_archive(&layers(), &["app:1"])).expect("load")[0].id;
    let loaded = world.load(&docker_archive(&layers()[..1], &["app:1"])).expect("load");
    assert_eq!(
        loaded[0].lines(),
        [
            format!("The image app:1 already exists, renaming the old one with ID {old} to empty string"),
            "Loaded image: app:1".to_owned()
        ]
    );
    assert!(get(&world.store, &old).expect("get").expect("still there").references.is_empty());
}

#[test]
fn a_root_filesystem_is_imported() {
    need_root!();
    let mut world = world();
    let tar = tar_of(&[("etc/a", b"one"), ("etc/a", b"again")]);
    let name = Reference::parse("root").expect("name");
    let changes = [Change::parse("CMD [\"/bin/sh\"]").expect("CMD")];
    for blob in [tar.clone(), gzip(&tar)] {
        let input = Input::Stream(Box::new(&blob[..]));
        import(&mut world.store, input, Some(&name), &changes, Some("hello"), &by_default(), &Silent)
            .expect("import");
        let image = find(&world.store, "root:latest").expect("find");
        assert_eq!(image.config.cmd, Some(vec!["/bin/sh".to_owned()]));
        assert_eq!(image.comment.as_deref(), Some("hello"));
        assert_eq!(image.diff_ids, [DiffId(Digest::of(&tar))]);
        let mut out = Vec::new();
        save(&world.store, &["root".into()], Packing::PLAIN, &mut out).expect("save");
        world.assert_clean();
    }
    let file = world.dir.path().join("rootfs.tar");
    fs::write(&file, &tar).expect("write");
    import(&mut world.store, Input::Path(&file), None, &[], None, &by_default(), &Silent).expect("import");
    world.assert_clean();
}
