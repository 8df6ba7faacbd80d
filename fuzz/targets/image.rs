//! An archive with one hostile member (the manifest, the configuration, the index, or all of it): a load
//! never panics, and what it refuses leaves nothing behind.
#![no_main]

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use bulkhead_engine::digest::Digest;
use bulkhead_engine::image::{self, Input, Silent};
use bulkhead_engine::store::{Layout, Store};
use libfuzzer_sys::fuzz_target;

struct World {
    store: Store,
    archive: PathBuf,
    scratch: PathBuf,
}

fn world() -> &'static Mutex<World> {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = std::env::var_os("BULKHEAD_FUZZ_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = dir.join(format!("bulkhead-fuzz-image-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let layout = Layout { root: dir.join("root"), run_root: dir.join("run") };
        let scratch = layout.scratch();
        let store = Store::open(layout).expect("open");
        Mutex::new(World { store, archive: dir.join("archive.tar"), scratch })
    })
}

fn tar(members: &[(String, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).expect("append");
    }
    builder.into_inner().expect("finish")
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", &digest(bytes)["sha256:".len()..])
}

/// An archive of the `kind`-th sort, with `data` where the hostile part goes.
fn archive(kind: u8, data: &[u8]) -> Vec<u8> {
    let layer = tar(&[("file".to_owned(), b"content")]);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest(&layer)
    );
    let docker = br#"[{"Config":"config.json","RepoTags":["a:1"],"Layers":["l.tar"]}]"#;
    let of = |manifest: &[u8], config: &[u8]| {
        tar(&[
            ("manifest.json".to_owned(), manifest),
            ("config.json".to_owned(), config),
            ("l.tar".to_owned(), &layer),
        ])
    };
    let oci = |index: &[u8], manifest: &[u8]| {
        tar(&[
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json".to_owned(), index),
            (blob(manifest), manifest),
            (blob(config.as_bytes()), config.as_bytes()),
            (blob(&layer), &layer),
        ])
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        digest(config.as_bytes()),
        config.len(),
        digest(&layer),
        layer.len()
    );
    match kind % 5 {
        0 => data.to_vec(),
        1 => of(data, config.as_bytes()),
        2 => of(docker, data),
        3 => oci(data, manifest.as_bytes()),
        _ => {
            let index = format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{}}}]}}"#,
                digest(data),
                data.len()
            );
            oci(index.as_bytes(), data)
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let mut world = world().lock().expect("one thread");
    let World { store, archive: path, scratch } = &mut *world;
    std::fs::write(&*path, archive(*kind, data)).expect("write");
    let options = bulkhead_engine::layer::Options::from_env().expect("the environment");
    let loaded = image::load(store, Input::Path(path), &options, &Silent);
    let images = image::list(store).expect("list");
    match loaded {
        Ok(loaded) => assert!(loaded.is_empty() || !images.is_empty()),
        Err(_) => assert!(images.is_empty(), "a refused archive left an image"),
    }
    for image in images {
        image::remove(store, &image.id.to_string(), true).expect("remove");
    }
    let left = std::fs::read_dir(scratch).into_iter().flatten().count();
    assert_eq!(left, 0, "something is left in scratch");
});
