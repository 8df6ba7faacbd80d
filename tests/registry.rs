//! `pull`, `push`, `login`, `logout` and `run --pull`, against Debian's registry with skopeo and podman at its
//! other side, and against servers that do what no registry should.

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::images::{Compression, Image, Tar, digest, image, noise, short};
use common::registry::{
    Body, INDEX, MANIFEST, Registry, Reply, Request, Server, Setup, Stock, own_address, skopeo, users,
};
use common::{Host, Output, eventually, have};
use serde_json::{Value, json};

/// What is in the store besides the database: layers and scratch.
fn pieces(host: &Host) -> (usize, usize) {
    let count = |dir: &str| std::fs::read_dir(host.root().join(dir)).map_or(0, Iterator::count);
    (count("layers"), count("tmp"))
}

/// Runs with a few more variables.
#[track_caller]
fn with(host: &Host, env: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = host.command(args);
    command.envs(env.iter().copied());
    common::run(command, b"")
}

#[test]
fn what_skopeo_put_there_is_pulled_in_dockers_words() {
    let host = host!();
    let registry = registry!(host);
    registry.put(&host, &image("one"), "library/box:1", &["--dest-compress-format", "gzip"]);
    let name = registry.name("library/box:1");
    let manifest = registry.skopeo("library/box:1", "{{.Digest}}");
    let layers: Vec<String> = {
        let list = registry.skopeo("library/box:1", "{{range .Layers}}{{.}} {{end}}");
        list.split_whitespace().map(|layer| short(layer).to_owned()).collect()
    };
    let out = host.bulkhead(&["pull", &name]).ok().out();
    let mut lines: Vec<&str> = out.lines().collect();
    // Which of the layers is finished first is nobody's business.
    lines[1..3].sort_unstable();
    let mut wanted: Vec<String> = layers.iter().map(|layer| format!("{layer}: Pull complete")).collect();
    wanted.sort_unstable();
    wanted.insert(0, "1: Pulling from library/box".to_owned());
    wanted.push(format!("Digest: {manifest}"));
    wanted.push(format!("Status: Downloaded newer image for {name}"));
    wanted.push(name.clone());
    assert_eq!(lines, wanted);
    host.bulkhead(&["run", "--rm", &name, "cat", "/what"]).ok().prints("one");

    let with_digest = registry.name(&format!("library/box@{manifest}"));
    assert_eq!(host.inspect(&name, "{{json .RepoDigests}}"), json!([with_digest]).to_string());
    assert_eq!(host.inspect(&name, "{{json .RepoTags}}"), json!([name]).to_string());
    assert_eq!(host.inspect(&name, "{{.Id}}"), image("one").id());
    let listed =
        host.bulkhead(&["images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}"]).ok();
    assert_eq!(listed.line(), format!("{} 1 {manifest}", registry.name("library/box")));

    // Again: one request for the manifest, and none for anything else.
    let asked = registry.log().matches("/blobs/").count();
    let out = host.bulkhead(&["image", "pull", &name]).ok().out();
    assert!(out.contains(&format!("\nStatus: Image is up to date for {name}\n")), "{out}");
    assert!(layers.iter().all(|layer| out.contains(&format!("{layer}: Already exists\n"))), "{out}");
    assert_eq!(registry.log().matches("/blobs/").count(), asked, "{}", registry.log());
    host.bulkhead(&["pull", "-q", &name]).ok().prints(&format!("{name}\n"));

    // By its digest, under no tag.
    host.bulkhead(&["rmi", &name]).ok();
    let out = host.bulkhead(&["pull", &with_digest]).ok().out();
    assert!(out.starts_with(&format!("{manifest}: Pulling from library/box\n")), "{out}");
    assert!(
        out.ends_with(&format!("Status: Downloaded newer image for {with_digest}\n{with_digest}\n")),
        "{out}"
    );
    host.bulkhead(&["run", "--rm", &with_digest, "cat", "/what"]).ok().prints("one");
    assert_eq!(host.inspect(&with_digest, "{{json .RepoTags}}"), "[]");

    // No tag is the tag `latest`, and this repository has none.
    let out = host.bulkhead(&["pull", &registry.name("library/box")]).code(1);
    assert_eq!(out.out(), "Using default tag: latest\n");
    assert_eq!(
        out.err(),
        format!(
            "Error response from daemon: manifest for {}:latest not found: manifest unknown: manifest unknown\n",
            registry.name("library/box")
        )
    );

    let events =
        host.bulkhead(&["events", "--since", "0", "--until", "0s", "--filter", "event=pull"]).ok().out();
    assert!(
        events.contains(&format!("image pull {name} (name={})", registry.name("library/box"))),
        "{events}"
    );
}

#[test]
fn layers_that_are_here_are_not_fetched() {
    let host = host!();
    let registry = registry!(host);
    registry.put(&host, &image("one"), "a:1", &[]);
    registry.put(&host, &image("two"), "b:1", &[]);
    host.bulkhead(&["pull", &registry.name("a:1")]).ok();
    let out = host.bulkhead(&["pull", &registry.name("b:1")]).ok().out();
    assert_eq!(out.matches(": Already exists\n").count(), 1, "{out}");
    assert_eq!(out.matches(": Pull complete\n").count(), 1, "{out}");
    host.bulkhead(&["run", "--rm", &registry.name("b:1"), "cat", "/what"]).ok().prints("two");

    // An image that was loaded has its layers here, too.
    let other = host!();
    other.busybox();
    let out = other.bulkhead(&["pull", &registry.name("b:1")]).ok().out();
    assert_eq!(out.matches(": Already exists\n").count(), 1, "{out}");

    // The same layers in another order lie upon others, and are here all the same.
    let mut turned = image("two");
    turned.layers.reverse();
    registry.put(&host, &turned, "turned:1", &[]);
    let asked = registry.log().matches("GET /v2/turned/blobs/").count();
    host.bulkhead(&["pull", &registry.name("turned:1")]).ok();
    host.bulkhead(&["run", "--rm", &registry.name("turned:1"), "cat", "/what"]).ok().prints("two");
    assert_eq!(registry.log().matches("GET /v2/turned/blobs/").count(), asked + 1, "the configuration alone");

    // A tag that has moved leaves an image that only its digest names, which prune takes.
    let old = host.inspect(&registry.name("a:1"), "{{.Id}}");
    registry.put(&host, &image("three"), "a:1", &[]);
    let out = host.bulkhead(&["pull", &registry.name("a:1")]).ok().out();
    assert!(out.contains("Status: Downloaded newer image for"), "{out}");
    host.bulkhead(&["run", "--rm", &registry.name("a:1"), "cat", "/what"]).ok().prints("three");
    let dangling = ["images", "--no-trunc", "-q", "-f", "dangling=true"];
    host.bulkhead(&dangling).ok().prints(&format!("{old}\n"));
    let pruned = host.bulkhead(&["image", "prune", "-f"]).ok().out();
    assert!(pruned.contains(&format!("deleted: {old}\n")), "{pruned}");
    host.bulkhead(&dangling).ok().prints("");
}

#[test]
fn layers_of_every_kind_and_all_tags() {
    let host = host!();
    let stock: Vec<Stock> =
        Compression::ALL.iter().map(|c| Stock::of("all", &image(&format!("{c:?}")), *c)).collect();
    let server = Server::start(move |request: &Request| {
        if request.target == "/v2/all/tags/list" {
            return Reply::ok(r#"{"name": "all", "tags": ["None", "Gzip"]}"#)
                .with("Link", r#"</v2/all/tags/list?last=Gzip>; rel="next""#);
        }
        if request.target == "/v2/all/tags/list?last=Gzip" {
            return Reply::ok(r#"{"name": "all", "tags": ["Zstd", "../no tag"]}"#);
        }
        let tag = request.target.rsplit('/').next().unwrap_or_default();
        let n = Compression::ALL.iter().position(|c| format!("{c:?}") == tag);
        let any = || stock.iter().map(|s| s.answer(request)).find(|reply| reply.status == 200);
        n.map_or_else(|| any().unwrap_or(Reply::status(404)), |n| stock[n].answer(request))
    });
    let all = server.name("all");
    let out = host.bulkhead(&["pull", "-a", &all]).ok().out();
    assert!(out.ends_with(&format!("Status: Downloaded newer image for {all}\n{all}\n")), "{out}");
    for compression in Compression::ALL {
        let tag = format!("{compression:?}");
        assert!(out.contains(&format!("{tag}: Pulling from all\n")), "{out}");
        host.bulkhead(&["run", "--rm", &format!("{all}:{tag}"), "cat", "/what"]).ok().prints(&tag);
    }
    host.bulkhead(&["pull", "-a", &format!("{all}:Zstd")])
        .code(1)
        .complains("tag can't be used with --all-tags/-a");
}

#[test]
fn an_index_has_an_image_for_each_platform() {
    let host = host!();
    let own = Stock::of("multi", &image("own"), Compression::Gzip);
    let mut foreign = Stock::of("multi", &image("foreign"), Compression::Gzip);
    // What is in it matters to nobody but the check that it is what was asked for.
    let manifest: Value = serde_json::from_slice(&foreign.manifest).expect("JSON");
    let old = manifest["config"]["digest"].as_str().expect("digest").to_owned();
    let mut config: Value = serde_json::from_slice(&foreign.blobs[&old]).expect("JSON");
    config["architecture"] = "s390x".into();
    let config = config.to_string().into_bytes();
    let mut manifest = manifest.clone();
    manifest["config"]["digest"] = digest(&config).into();
    manifest["config"]["size"] = config.len().into();
    foreign.blobs.insert(digest(&config), config);
    foreign.manifest = manifest.to_string().into_bytes();

    let arch = host.bulkhead(&["version", "--format", "{{.Client.Arch}}"]).ok().line();
    let entry = |stock: &Stock, arch: &str| {
        json!({ "mediaType": MANIFEST, "digest": stock.digest(), "size": stock.manifest.len(),
                "platform": { "os": "linux", "architecture": arch } })
    };
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry(&foreign, "s390x"), entry(&own, &arch)] })
    .to_string();
    let index_digest = digest(index.as_bytes());
    let server = {
        let (own, foreign) = (own.clone(), foreign.clone());
        Server::start(move |request: &Request| {
            let which = request.target.rsplit('/').next().unwrap_or_default();
            if request.target.contains("/manifests/") {
                match which {
                    _ if which == own.digest() => return own.answer(request),
                    "other" => return Reply::ok(foreign.manifest.clone()).with("Content-Type", MANIFEST),
                    _ if which == foreign.digest() => return foreign.answer(request),
                    _ => return Reply::ok(index.clone()).with("Content-Type", INDEX),
                }
            }
            let reply = own.answer(request);
            if reply.status == 404 { foreign.answer(request) } else { reply }
        })
    };
    let name = server.name("multi:1");
    let out = host.bulkhead(&["pull", &name]).ok().out();
    assert!(out.contains(&format!("Digest: {index_digest}\n")), "{out}");
    host.bulkhead(&["run", "--rm", &name, "cat", "/what"]).ok().prints("own");
    // The image of another platform is here under that name: the one that is asked for is fetched.
    host.bulkhead(&["pull", "-q", "--platform", "linux/s390x", &name]).ok();
    let platform = format!("linux/{arch}");
    let out =
        host.bulkhead(&["run", "--rm", "--platform", &platform, "--pull", "never", &name, "true"]).code(125);
    assert!(out.err().contains("does not match the specified platform"), "{out}");
    let out =
        host.bulkhead(&["run", "--rm", "--platform", &platform, &name, "cat", "/what"]).ok().prints("own");
    assert!(out.err().starts_with("Unable to find image"), "{out}");
    // The digest that the name has there is the index's.
    let by_digest = server.name(&format!("multi@{index_digest}"));
    assert_eq!(host.inspect(&name, "{{json .RepoDigests}}"), json!([by_digest]).to_string());
    host.bulkhead(&["run", "--rm", "--pull", "never", &by_digest, "cat", "/what"]).ok().prints("own");

    host.bulkhead(&["pull", "--platform", "linux/s390x", &name]).ok();
    assert_eq!(host.inspect(&name, "{{.Architecture}}"), "s390x");
    host.bulkhead(&["pull", "--platform", "linux/riscv64", &name]).code(1).complains(
        "Error response from daemon: no matching manifest for linux/riscv64 in the manifest list entries",
    );
    host.bulkhead(&["pull", "--platform", "linux/riscv64", &server.name("multi:other")])
        .code(1)
        .complains("does not match the specified platform: wanted linux/riscv64, actual: linux/s390x");
    host.bulkhead(&["pull", "--platform", "bread/and/butter/too", &name])
        .code(1)
        .complains("invalid argument");
}

#[test]
fn run_brings_what_is_not_here() {
    let host = host!();
    let registry = registry!(host);
    registry.put(&host, &image("one"), "box:latest", &[]);
    let name = registry.name("box");
    let out = host.bulkhead(&["run", "--rm", "--pull", "never", &name, "true"]).code(125);
    assert!(
        out.err().contains(&format!("Error response from daemon: No such image: {name}:latest\n")),
        "{out}"
    );

    let out = host.bulkhead(&["run", "--rm", &name, "cat", "/what"]).ok().prints("one");
    let err = out.err();
    assert!(
        err.starts_with(&format!("Unable to find image '{name}:latest' locally\nlatest: Pulling from box\n")),
        "{err}"
    );
    assert!(err.ends_with(&format!("Status: Downloaded newer image for {name}:latest\n")), "{err}");
    let out = host.bulkhead(&["run", "--rm", &name, "cat", "/what"]).ok().prints("one");
    assert_eq!(out.err(), "", "it is here now");

    registry.put(&host, &image("two"), "box:latest", &[]);
    host.bulkhead(&["run", "--rm", "--pull", "missing", &name, "cat", "/what"]).ok().prints("one");
    let out =
        host.bulkhead(&["run", "--rm", "--pull", "always", "-q", &name, "cat", "/what"]).ok().prints("two");
    assert_eq!(out.err(), "");

    host.bulkhead(&["rmi", &name]).ok();
    let id = host.bulkhead(&["create", "--quiet", &name, "cat", "/what"]).ok().line();
    host.bulkhead(&["start", "-a", &id]).ok().prints("two");
    host.bulkhead(&["rm", &id]).ok();

    let nothing = registry.name("nothing:1");
    let out = host.bulkhead(&["run", "--rm", &nothing, "true"]).code(125);
    assert_eq!(
        out.err(),
        format!(
            "Unable to find image '{nothing}' locally\nbulkhead: Error response from daemon: manifest for {nothing} \
             not found: manifest unknown: manifest unknown\n\nRun 'bulkhead run --help' for more information\n"
        )
    );
    host.bulkhead(&["create", &nothing]).code(1);
    // What could be an id and nothing else is looked for nowhere.
    let out = host.bulkhead(&["run", "--rm", &"f".repeat(64), "true"]).code(125);
    assert!(!out.err().contains("Unable to find"), "{out}");
}

#[test]
fn what_is_pushed_is_read_by_others_and_by_us() {
    let host = host!();
    let registry = registry!(host);
    let image = image("one");
    host.load(&image.docker_archive(Compression::None));
    let name = registry.name("team/box:1");
    host.bulkhead(&["tag", "x", &name]).ok();
    let out = host.bulkhead(&["push", &name]).ok().out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], format!("The push refers to repository [{}]", registry.name("team/box")));
    let mut layers: Vec<String> =
        image.layers.iter().map(|layer| format!("{}: Pushed", short(&digest(layer)))).collect();
    layers.sort_unstable();
    let mut shown = lines[1..3].to_vec();
    shown.sort_unstable();
    assert_eq!(shown, layers);
    let told = lines[3].strip_prefix("1: digest: ").expect(&out);
    let (manifest, size) = told.split_once(" size: ").expect(told);
    assert_eq!(lines.len(), 4);
    assert_eq!(registry.skopeo("team/box:1", "{{.Digest}}"), manifest);
    let raw = skopeo(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]).ok();
    assert_eq!((digest(&raw.stdout), raw.stdout.len().to_string()), (manifest.to_owned(), size.to_owned()));
    assert_eq!(
        host.inspect(&name, "{{json .RepoDigests}}"),
        json!([registry.name(&format!("team/box@{manifest}"))]).to_string()
    );
    let events =
        host.bulkhead(&["events", "--since", "0", "--until", "0s", "--filter", "event=push"]).ok().out();
    assert!(events.contains(&format!("image push {name} (name={})", registry.name("team/box"))), "{events}");

    // skopeo checks every digest that it copies; what comes out are the very layers.
    let copy = host.dir().join("copy");
    let policy = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"];
    let to = format!("dir:{}", copy.display());
    let from = format!("docker://{name}");
    skopeo(policy.into_iter().chain([from.as_str(), to.as_str()])).ok();
    for entry in std::fs::read_dir(&copy).expect("copy") {
        let bytes = std::fs::read(entry.expect("entry").path()).expect("read");
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut plain)
                .expect("gzip");
            assert!(image.layers.contains(&plain));
        }
    }

    // Again, and under another tag: nothing is sent.
    let again = host.bulkhead(&["push", &name]).ok().out();
    assert_eq!(again.matches(": Layer already exists\n").count(), 2, "{again}");
    assert!(again.ends_with(&format!("1: digest: {manifest} size: {size}\n")), "{again}");
    // Into another repository of the same registry: taken from the first.
    let other = registry.name("other/box:2");
    host.bulkhead(&["tag", &name, &other]).ok();
    let out = host.bulkhead(&["push", &other]).ok().out();
    assert_eq!(out.matches(": Mounted from team/box\n").count(), 2, "{out}");
    assert_eq!(registry.skopeo("other/box:2", "{{.Digest}}"), manifest);

    // Another machine gets the same image, and what it pushes is the same, byte for byte.
    let second = host!();
    second.bulkhead(&["pull", &name]).ok();
    assert_eq!(second.inspect(&name, "{{.Id}}"), image.id());
    second.bulkhead(&["run", "--rm", &name, "cat", "/what"]).ok().prints("one");
    let third = host!();
    third.load(&image.docker_archive(Compression::None));
    let own = registry.name("third:1");
    third.bulkhead(&["tag", "x", &own]).ok();
    let out = third.bulkhead(&["push", &own]).ok().out();
    assert_eq!(out.matches(": Pushed\n").count(), 2, "{out}");
    assert_eq!(registry.skopeo("third:1", "{{.Digest}}"), manifest);

    host.bulkhead(&["push", &registry.name("nothing:1")])
        .code(1)
        .complains("An image does not exist locally with the tag: ");
    host.bulkhead(&["push", "-q", &name]).ok().prints(&format!("{name}\n"));
    host.bulkhead(&["tag", &name, &registry.name("team/box:3")]).ok();
    let out = host.bulkhead(&["image", "push", "-a", &registry.name("team/box")]).ok().out();
    assert!(out.contains("1: digest: ") && out.contains("3: digest: "), "{out}");
    assert_eq!(registry.skopeo("team/box:3", "{{.Digest}}"), manifest);
}

#[test]
fn podman_reads_what_is_pushed_in_zstd() {
    let host = host!();
    let registry = registry!(host);
    if !have("podman") {
        skip!("podman");
    }
    host.load(&image("one").docker_archive(Compression::None));
    let name = registry.name("z:1");
    host.bulkhead(&["tag", "x", &name]).ok();
    host.bulkhead(&["push", &name]).ok();
    // A blob of another kind is there; one in zstd was asked for.
    let out =
        host.bulkhead(&["push", "--compression-format", "zstd", "--compression-level", "5", &name]).ok();
    assert_eq!(out.out().matches(": Pushed\n").count(), 2, "{out}");
    let raw = skopeo(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]).ok();
    let manifest: Value = serde_json::from_slice(&raw.stdout).expect("JSON");
    for layer in manifest["layers"].as_array().expect("layers") {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    }
    let (root, run_root) = (host.dir().join("podman"), host.dir().join("podman-run"));
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(&root).arg("--runroot").arg(&run_root);
        command.args(["--storage-driver", "vfs"]).args(args).env_remove("HTTPS_PROXY");
        common::run(command, b"")
    };
    podman(&["pull", "--tls-verify=false", "--quiet", &name]).ok();
    assert_eq!(podman(&["inspect", "--format", "{{.Id}}", &name]).ok().line(), image("one").id()[7..]);
    podman(&["rmi", &name]).ok();
    host.bulkhead(&["rmi", &name, "x"]).ok();
    host.bulkhead(&["pull", &name]).ok();
    host.bulkhead(&["run", "--rm", &name, "cat", "/what"]).ok().prints("one");
}

#[test]
fn a_registry_that_wants_a_password() {
    let host = host!();
    drop(registry!(host));
    let file = users(&host);
    let registry = Registry::with(&host, Setup { users: Some(&file), ..Setup::default() });
    let credentials = ["--dest-creds", "ann:secret"];
    registry.put(&host, &image("one"), "box:1", &credentials);
    let name = registry.name("box:1");
    let config = host.dir().join("docker-config");
    let docker = config.to_str().expect("UTF-8").to_owned();
    let env = [("DOCKER_CONFIG", docker.as_str())];
    let url = format!("http://{}/v2/", registry.address);

    with(&host, &env, &["pull", &name]).code(1).complains("no basic auth credentials");
    let login = |password: &str, args: &[&str]| {
        let mut command =
            host.command(&[&["login", "--password-stdin"], args, &[registry.address.as_str()]].concat());
        command.envs(env);
        common::run(command, password.as_bytes())
    };
    let out = login("wrong\n", &["-u", "ann"]).code(1);
    assert_eq!(
        out.err(),
        format!("Error response from daemon: Get {url:?}: unauthorized: authentication required\n")
    );
    assert!(!config.join("config.json").exists(), "nothing is kept of what did not work");
    login("secret", &[]).code(1).complains("Must provide --username with --password-stdin");
    let out = login("secret\n", &["-u", "ann"]).ok().prints("Login Succeeded\n");
    assert!(out.err().contains("WARNING! Your password will be stored unencrypted in"), "{out}");
    let file = config.join("config.json");
    assert_eq!(std::fs::metadata(&file).expect("stat").permissions().mode() & 0o777, 0o600);
    let value: Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
    assert_eq!(value, json!({ "auths": { registry.address.clone(): { "auth": "YW5uOnNlY3JldA==" } } }));

    with(&host, &env, &["pull", &name]).ok();
    with(&host, &env, &["run", "--rm", &name, "cat", "/what"]).ok().prints("one");
    let second = registry.name("second:1");
    host.bulkhead(&["tag", &name, &second]).ok();
    with(&host, &env, &["push", &second]).ok();
    // What is kept is enough for the next time, and what skopeo keeps is understood.
    let out = with(&host, &env, &["login", &registry.address]).ok();
    assert_eq!(out.out(), "Authenticating with existing credentials...\nLogin Succeeded\n");
    let out = with(&host, &env, &["logout", &registry.address]).ok();
    assert_eq!(out.out(), format!("Removing login credentials for {}\n", registry.address));
    with(&host, &env, &["pull", &name]).code(1).complains("no basic auth credentials");
    let out = with(&host, &env, &["logout", &registry.address]).ok();
    assert!(out.out().ends_with(&format!("Not logged in to {}\n", registry.address)), "{out}");
    let out = with(&host, &env, &["login", "-u", "ann", "-p", "secret", &registry.address]).ok();
    assert!(
        out.err().starts_with("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n"),
        "{out}"
    );
    with(&host, &env, &["login", "-u", "ann", &registry.address])
        .code(1)
        .complains("Cannot perform an interactive login from a non TTY device");
    with(&host, &env, &["login", "-u", "ann", "-p", "x", "--password-stdin", &registry.address])
        .code(1)
        .complains("--password and --password-stdin are mutually exclusive");
}

#[test]
fn a_credential_helper_is_asked_and_told() {
    let host = host!();
    drop(registry!(host));
    let file = users(&host);
    let registry = Registry::with(&host, Setup { users: Some(&file), ..Setup::default() });
    registry.put(&host, &image("one"), "box:1", &["--dest-creds", "ann:secret"]);
    let kept = host.dir().join("kept.json");
    let helper = host.file(
        "bin/docker-credential-test",
        format!(
            "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nget) cat {0} 2>/dev/null || {{ echo 'credentials not found in \
             native keychain'; exit 1; }} ;;\nerase) cat >/dev/null; rm -f {0} ;;\nesac\n",
            kept.display()
        ),
    );
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let path =
        format!("{}:{}", helper.parent().expect("bin").display(), std::env::var("PATH").expect("PATH"));
    for key in ["credsStore", "credHelpers"] {
        let value =
            if key == "credsStore" { json!("test") } else { json!({ registry.address.clone(): "test" }) };
        let config = host.file("helped/config.json", json!({ key: value }).to_string());
        let dir = config.parent().expect("directory").to_str().expect("UTF-8").to_owned();
        let env = [("DOCKER_CONFIG", dir.as_str()), ("PATH", path.as_str())];
        with(&host, &env, &["pull", &registry.name("box:1")]).code(1).complains("no basic auth credentials");
        let out = with(&host, &env, &["login", "-u", "ann", "-p", "secret", &registry.address]).ok();
        assert!(!out.err().contains("unencrypted"), "{out}");
        let stored: Value = serde_json::from_slice(&std::fs::read(&kept).expect("kept")).expect("JSON");
        assert_eq!(stored, json!({ "ServerURL": registry.address, "Username": "ann", "Secret": "secret" }));
        assert!(!std::fs::read_to_string(&config).expect("read").contains("auths"));
        with(&host, &env, &["pull", &registry.name("box:1")]).ok();
        with(&host, &env, &["logout", &registry.address]).ok();
        assert!(!kept.exists());
        host.bulkhead(&["rmi", &registry.name("box:1")]).ok();
    }
    let config = host.file("none/config.json", r#"{"credsStore": "not-installed"}"#);
    let dir = config.parent().expect("directory").to_str().expect("UTF-8").to_owned();
    with(&host, &[("DOCKER_CONFIG", &dir)], &["pull", &registry.name("box:1")])
        .code(1)
        .complains("docker-credential-not-installed");
}

#[test]
fn a_registry_that_wants_a_token() {
    let host = host!();
    let stock = Stock::of("team/box", &image("one"), Compression::Gzip);
    // Each token is good for two requests, so that one has to be fetched in the middle; and one request comes
    // after the other, so that nobody's token is outdated by another's.
    std::fs::create_dir_all(host.root()).expect("mkdir");
    std::fs::write(host.root().join("daemon.json"), r#"{"max-concurrent-downloads": 1}"#)
        .expect("daemon.json");
    let issued = std::sync::Arc::new(AtomicUsize::new(0));
    let used = std::sync::Arc::new(Mutex::new(0));
    let tokens = {
        let issued = std::sync::Arc::clone(&issued);
        Server::start(move |request: &Request| {
            // ann:secret
            if request.header("authorization") != "Basic YW5uOnNlY3JldA==" {
                return Reply {
                    status: 401,
                    ..Reply::ok(r#"{"details": "incorrect username or password"}"#)
                };
            }
            let n = issued.fetch_add(1, Ordering::SeqCst) + 1;
            Reply::ok(json!({ "token": format!("t{n}"), "expires_in": 300 }).to_string())
        })
    };
    let realm = format!("http://{}/token", tokens.address);
    let server = {
        let (issued, used) = (std::sync::Arc::clone(&issued), std::sync::Arc::clone(&used));
        Server::start(move |request: &Request| {
            let mut used = used.lock().expect("lock");
            let last = issued.load(Ordering::SeqCst);
            if request.header("authorization") == format!("Bearer t{last}") && *used < 2 * last {
                *used += 1;
                return stock.answer(request);
            }
            Reply::status(401).with(
                "WWW-Authenticate",
                format!(r#"Bearer realm="{realm}",service="test",scope="repository:team/box:pull""#),
            )
        })
    };
    let name = server.name("team/box:1");
    let out = host.bulkhead(&["pull", &name]).code(1);
    assert!(out.err().contains("unauthorized: incorrect username or password"), "{out}");
    host.bulkhead(&["login", "-u", "ann", "-p", "wrong", &server.address]).code(1).complains(&format!(
        "Get \"http://{}/v2/\": unauthorized: incorrect username or password",
        server.address
    ));
    host.bulkhead(&["login", "-u", "ann", "-p", "secret", &server.address]).ok();
    host.bulkhead(&["pull", &name]).ok();
    host.bulkhead(&["run", "--rm", &name, "cat", "/what"]).ok().prints("one");
    let asked: Vec<String> = tokens.requests().into_iter().map(|request| request.target).collect();
    assert!(
        asked.contains(&"/token?service=test&scope=repository%3Ateam%2Fbox%3Apull&account=ann".to_owned()),
        "{asked:?}"
    );
    assert!(issued.load(Ordering::SeqCst) > 2, "a token that is used up is replaced");
}

/// A certificate for an address, its key, and both signed by nobody else.
fn certificate(host: &Host, name: &str, ip: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = (host.dir().join(format!("{name}.crt")), host.dir().join(format!("{name}.key")));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-days", "2", "-subj", "/CN=test", "-addext", &format!("subjectAltName=IP:{ip}")]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    common::run(command, b"").ok();
    (certificate, key)
}

#[test]
fn a_registry_with_tls() {
    let host = host!();
    drop(registry!(host));
    if !have("openssl") {
        skip!("openssl");
    }
    let (crt, key) = certificate(&host, "server", "127.0.0.1");
    let registry = Registry::with(&host, Setup { tls: Some((&crt, &key)), ..Setup::default() });
    registry.put(&host, &image("one"), "box:1", &[]);
    let name = registry.name("box:1");
    // As Docker has it, this machine need not prove who it is.
    host.bulkhead(&["pull", &name]).ok();
    // Unless somebody has put down who it has to be.
    let dir = host.root().join("certs.d").join(&registry.address);
    std::fs::create_dir_all(&dir).expect("mkdir");
    let (other, other_key) = certificate(&host, "other", "127.0.0.1");
    std::fs::copy(&other, dir.join("ca.crt")).expect("copy");
    host.bulkhead(&["pull", &name])
        .code(1)
        .complains("tls: failed to verify certificate: x509: certificate signed by unknown authority");
    std::fs::copy(&crt, dir.join("ca.crt")).expect("copy");
    host.bulkhead(&["pull", &name]).ok();
    // A certificate of our own, with its key or without or with another's.
    std::fs::copy(&other, dir.join("client.cert")).expect("copy");
    host.bulkhead(&["pull", &name]).code(1).complains("missing key client.key for client certificate");
    std::fs::copy(&key, dir.join("client.key")).expect("copy");
    host.bulkhead(&["pull", &name]).code(1).complains("client.key: ");
    std::fs::copy(&other_key, dir.join("client.key")).expect("copy");
    host.bulkhead(&["pull", &name]).ok();
    std::fs::write(dir.join("ca.crt"), "no certificate").expect("write");
    host.bulkhead(&["pull", &name]).code(1).complains("ca.crt: no certificate in it");

    // One that wants to know who comes. (`put` could not: the same files serve another one.)
    let strict = Setup { tls: Some((&crt, &key)), clients: Some(&other), ..Setup::default() };
    let registry = Registry::with(&host, strict);
    let name = registry.name("box:1");
    host.load(&image("one").docker_archive(Compression::None));
    host.bulkhead(&["tag", "x", &name]).ok();
    let refused = format!("Get \"https://{}/v2/\": tls: received fatal alert: ", registry.address);
    host.bulkhead(&["push", &name]).code(1).complains(&refused);
    let dir = host.root().join("certs.d").join(&registry.address);
    std::fs::create_dir_all(&dir).expect("mkdir");
    std::fs::copy(&crt, dir.join("ca.crt")).expect("copy");
    host.bulkhead(&["push", &name]).code(1).complains(&refused);
    std::fs::copy(&other, dir.join("client.cert")).expect("copy");
    std::fs::copy(&other_key, dir.join("client.key")).expect("copy");
    host.bulkhead(&["push", &name]).ok();

    // A password that came by TLS does not go on without.
    let realm = "http://127.0.0.1:1/token";
    let careless = Setup { tls: Some((&crt, &key)), tokens: Some((realm, &crt)), ..Setup::default() };
    let registry = Registry::with(&host, careless);
    host.bulkhead(&["login", "-u", "ann", "-p", "secret", &registry.address])
        .code(1)
        .complains(&format!("token server {realm:?} is refused: it leaves HTTPS"));
    host.bulkhead(&["pull", &registry.name("box:1")]).code(1).complains("it leaves HTTPS");
}

#[test]
fn only_who_is_listed_may_do_without_tls() {
    let host = host!();
    drop(registry!(host));
    let Some(ip) = own_address() else { skip!("an address that is not loopback") };
    let registry = Registry::with(&host, Setup { ip: Some(ip), ..Setup::default() });
    registry.put(&host, &image("one"), "box:1", &[]);
    let name = registry.name("box:1");
    let direct = [("NO_PROXY", "*")];
    let out = with(&host, &direct, &["pull", &name]).code(1);
    assert_eq!(
        out.err(),
        format!(
            "Error response from daemon: Get \"https://{}/v2/\": http: server gave HTTP response to HTTPS client\n",
            registry.address
        )
    );
    let settings = |text: &str| std::fs::write(host.root().join("daemon.json"), text).expect("daemon.json");
    settings(
        &json!({ "insecure-registries": [format!("{ip}/32")], "max-concurrent-downloads": 1 }).to_string(),
    );
    with(&host, &direct, &["pull", &name]).ok();
    settings(&json!({ "insecure-registries": [registry.address] }).to_string());
    with(&host, &direct, &["pull", &name]).ok();
    settings(r#"{"insecure-registries": ["#);
    host.bulkhead(&["pull", &name]).code(1).complains("daemon.json");
    settings(r#"{"max-concurrent-uploads": -1}"#);
    host.bulkhead(&["pull", &name]).code(1).complains("invalid max-concurrent-uploads: -1");
    settings("{}");
    host.bulkhead(&["pull", "127.0.0.1:1/box"])
        .code(1)
        .complains("Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused");
}

#[test]
fn mirrors_are_asked_first_and_passed_over_when_they_do_not_help() {
    let host = host!();
    let stock = Stock::of("library/box", &image("one"), Compression::Gzip);
    let mirror = Server::start(move |request: &Request| stock.answer(request));
    let broken = Server::start(|_: &Request| Reply::status(500));
    std::fs::create_dir_all(host.root()).expect("mkdir");
    std::fs::write(
        host.root().join("daemon.json"),
        json!({ "registry-mirrors": [
            "http://127.0.0.1:1", format!("http://{}", broken.address), format!("http://{}/", mirror.address)
        ] })
        .to_string(),
    )
    .expect("daemon.json");
    let out = host.bulkhead(&["pull", "box"]).ok().out();
    assert!(out.starts_with("Using default tag: latest\nlatest: Pulling from library/box\n"), "{out}");
    assert!(
        out.ends_with("Status: Downloaded newer image for box:latest\ndocker.io/library/box:latest\n"),
        "{out}"
    );
    host.bulkhead(&["run", "--rm", "box", "cat", "/what"]).ok().prints("one");
    assert!(!broken.requests().is_empty());
    // What no mirror has is asked of the registry itself, which is out of reach here.
    host.bulkhead(&["pull", "nothing"]).code(1).complains(
        "Get \"https://registry-1.docker.io/v2/\": proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused",
    );
}

#[test]
fn a_proxy_is_asked_for_everything_else() {
    let host = host!();
    // A proxy that knows one host by name, which has no other way to be reached.
    let stock = Stock::of("box", &image("one"), Compression::Gzip);
    let server = Server::start(move |request: &Request| stock.answer(request));
    let to = server.address.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let proxy = listener.local_addr().expect("address");
    let asked = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (to, seen) = (to.clone(), std::sync::Arc::clone(&seen));
            std::thread::spawn(move || {
                use std::io::{Read as _, Write as _};
                let mut client = stream.expect("accept");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if client.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                seen.lock().expect("lock").push(head.lines().next().unwrap_or_default().to_owned());
                let mut server = std::net::TcpStream::connect(to).expect("connect");
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("write");
                let (mut a, mut b) = (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut a, &mut b);
                    let _ = b.shutdown(std::net::Shutdown::Both);
                });
                let _ = std::io::copy(&mut server, &mut client);
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    std::fs::create_dir_all(host.root()).expect("mkdir");
    let settings = json!({
        "insecure-registries": ["registry.invalid:5000"],
        "proxies": { "http-proxy": format!("http://{proxy}"), "https-proxy": format!("http://{proxy}"),
                     "no-proxy": "direct.invalid" },
    });
    std::fs::write(host.root().join("daemon.json"), settings.to_string()).expect("daemon.json");
    host.bulkhead(&["pull", "registry.invalid:5000/box:1"]).ok();
    host.bulkhead(&["run", "--rm", "registry.invalid:5000/box:1", "cat", "/what"]).ok().prints("one");
    let asked = asked.lock().expect("lock").clone();
    assert!(asked.iter().all(|line| line.starts_with("CONNECT registry.invalid:5000 ")), "{asked:?}");
}

/// What a server does to its answers.
type Spoil = Box<dyn Fn(&Request, Reply) -> Reply + Send + Sync>;

/// A registry of one image whose every answer goes through `spoil` first.
fn spoilt(stock: Stock, spoil: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request: &Request| {
        let reply = stock.answer(request);
        spoil(request, reply)
    })
}

#[test]
fn servers_that_should_not_be_believed() {
    let host = host!();
    host.busybox();
    let before = pieces(&host);
    let stock = Stock::of("box", &image("one"), Compression::Gzip);
    let (layer, size) = stock.layers()[1].clone();
    let manifest: Value = serde_json::from_slice(&stock.manifest).expect("JSON");
    let blob = format!("/v2/box/blobs/{layer}");
    let config = format!("/v2/box/blobs/{}", manifest["config"]["digest"].as_str().expect("digest"));
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        manifest.to_string().into_bytes()
    };
    let document = |bytes: Vec<u8>, kind: &'static str| -> Spoil {
        Box::new(move |request, reply| {
            if request.target.contains("/manifests/") {
                Reply::ok(bytes.clone()).with("Content-Type", kind)
            } else {
                reply
            }
        })
    };
    let at = |path: &str, answer: Reply| -> Spoil {
        let path = path.to_owned();
        Box::new(move |request, reply| if request.is("GET", &path) { answer.clone() } else { reply })
    };
    let mut wrong = stock.blobs[&layer].clone();
    wrong[size / 2] ^= 1;
    let other = Compression::Gzip.apply(&Tar::new().file("what", 0o644, "other").build());
    let mut padded = other.clone();
    padded.resize(size, 0);
    let wide = vec![b' '; 5 << 20];
    let many = json!({ "mediaType": MANIFEST, "digest": "sha256:0", "size": 1 });
    let loopy = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": vec![many; 3] }).to_string();
    let foreign = changed(&|m| {
        m["layers"][1]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
        m["layers"][1]["urls"] = json!(["http://127.0.0.1:1/layer"]);
    });
    let helm = changed(&|m| m["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into());
    let negative = changed(&|m| m["layers"][1]["size"] = (-1).into());
    let huge_config = changed(&|m| m["config"]["size"] = (1_u64 << 40).into());
    let few = changed(&|m| drop(m["layers"].as_array_mut().expect("layers").pop()));
    let table: Vec<(&str, Spoil, String)> = vec![
        ("a manifest of 5 MiB", document(wide.clone(), MANIFEST), "more than 4194304 bytes: refused".into()),
        (
            "a manifest without end",
            at("/v2/box/manifests/1", Reply::ok("").with("Content-Type", MANIFEST).body(Body::Endless)),
            "more than 4194304 bytes: refused".into(),
        ),
        ("HTML", document(b"<html>".to_vec(), "text/html"), "box:1: expected value".into()),
        (
            "no mediaType we know",
            document(b"{}".to_vec(), "text/html"),
            "unsupported manifest media type \"text/html\"".into(),
        ),
        ("half a document", document(stock.manifest[..40].to_vec(), MANIFEST), "EOF while parsing".into()),
        ("an index that leads nowhere", document(loopy.into_bytes(), INDEX), "sha256:0".into()),
        ("a layer that is elsewhere", document(foreign, MANIFEST), "foreign layer \"sha256:".into()),
        ("no image", document(helm, MANIFEST), "it is no image".into()),
        ("a negative size", document(negative, MANIFEST), "invalid value: integer `-1`".into()),
        (
            "an enormous configuration",
            document(huge_config, MANIFEST),
            "more than 4194304 bytes: refused".into(),
        ),
        (
            "fewer layers than the configuration names",
            document(few, MANIFEST),
            "layers length mismatch: expected 2, got 1".into(),
        ),
        (
            "a manifest that is not what its server says",
            document(stock.manifest.clone(), "application/vnd.docker.distribution.manifest.v2+json"),
            "its server that it is".into(),
        ),
        (
            "a manifest with another digest than told",
            at(
                "/v2/box/manifests/1",
                Reply::ok(stock.manifest.clone())
                    .with("Content-Type", MANIFEST)
                    .with("Docker-Content-Digest", digest(b"x")),
            ),
            format!("digest mismatch: expected {}, got {}", digest(b"x"), stock.digest()),
        ),
        (
            "another configuration",
            at(&config, Reply::ok(vec![b'x'; stock.blobs[config.rsplit('/').next().expect("digest")].len()])),
            "digest mismatch: expected".into(),
        ),
        (
            "a layer with one bit changed",
            at(&blob, Reply::ok(wrong)),
            format!("layer {layer}: digest mismatch: expected {layer}, got sha256:"),
        ),
        (
            "another layer of that size",
            at(&blob, Reply::ok(padded)),
            format!("digest mismatch: expected {layer}, got sha256:"),
        ),
        (
            "a shorter layer",
            at(&blob, Reply::ok(&stock.blobs[&layer][..size - 1])),
            format!("size mismatch: expected {size} bytes, got {}", size - 1),
        ),
        (
            "a longer layer",
            at(&blob, Reply::ok(vec![0; size + 1])),
            format!("size mismatch: expected {size} bytes, got {}", size + 1),
        ),
        (
            "a layer that ends early, by its own account",
            at(&blob, Reply::ok("").body(Body::Chunked(stock.blobs[&layer][..7].to_vec()))),
            format!("size mismatch: expected {size} bytes, got 7"),
        ),
        (
            "a layer without end",
            at(&blob, Reply::ok("").body(Body::Endless)),
            format!("digest mismatch: expected {layer}"),
        ),
        ("no such layer", at(&blob, Reply::status(404)), "blob unknown".into()),
        (
            "a server that fails",
            at(&blob, Reply::status(503)),
            "received unexpected HTTP status: 503 Service Unavailable".into(),
        ),
        (
            "a refusal with a bell in it",
            at(
                "/v2/box/manifests/1",
                Reply {
                    status: 429,
                    ..Reply::ok(
                        "{\"errors\": [{\"code\": \"TOOMANYREQUESTS\", \"message\": \"slow\\u0007 down\"}]}",
                    )
                },
            ),
            "toomanyrequests: slow  down".into(),
        ),
        (
            "redirects without end",
            at(&blob, Reply::status(307).with("Location", blob.clone())),
            "stopped after 10 redirects".into(),
        ),
        (
            "a redirect to a file",
            at(&blob, Reply::status(302).with("Location", "file:///etc/passwd")),
            "redirect to \"file:///etc/passwd\" is refused".into(),
        ),
        (
            "a token server by another protocol",
            at("/v2/", Reply::status(401).with("WWW-Authenticate", "Bearer realm=\"ftp://127.0.0.1/token\"")),
            "token server \"ftp://127.0.0.1/token\" is refused".into(),
        ),
    ];
    for (what, spoil, want) in table {
        let server = spoilt(stock.clone(), spoil);
        let out =
            with(&host, &[("BULKHEAD_REGISTRY_TIMEOUT", "20")], &["pull", &server.name("box:1")]).code(1);
        let err = out.err();
        assert!(err.contains(&want), "{what}: wanted {want:?}\n{out}");
        assert!(err.starts_with("Error response from daemon: ") && err.lines().count() == 1, "{what}\n{out}");
        assert!(!err.contains('\u{7}'), "{what}\n{out}");
        assert_eq!(pieces(&host), before, "{what}: nothing half-made stays");
        assert!(!host.bulkhead(&["images", "-q"]).ok().line().contains('\n'), "{what}");
    }
}

/// A registry that knows `ann:secret` only, and sends her to another origin for blobs.
fn sends_blobs_to(origin: String, stock: Stock) -> Server {
    Server::start(move |request: &Request| {
        if request.header("authorization") != "Basic YW5uOnNlY3JldA==" {
            return Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if request.target.contains("/blobs/") {
            return Reply::status(307).with("Location", format!("http://{origin}{}", request.target));
        }
        stock.answer(request)
    })
}

#[test]
fn credentials_stay_at_home() {
    let host = host!();
    let stock = Stock::of("box", &image("one"), Compression::Gzip);
    // The blobs are at another origin, to which the registry sends us.
    let elsewhere = {
        let stock = stock.clone();
        Server::start(move |request: &Request| stock.answer(request))
    };
    let server = sends_blobs_to(elsewhere.address.clone(), stock);
    host.bulkhead(&["login", "-u", "ann", "-p", "secret", &server.address]).ok();
    host.bulkhead(&["pull", &server.name("box:1")]).ok();
    host.bulkhead(&["run", "--rm", &server.name("box:1"), "cat", "/what"]).ok().prints("one");
    let there = elsewhere.requests();
    assert!(there.len() >= 3, "{there:?}");
    assert!(there.iter().all(|request| request.header("authorization").is_empty()), "{there:?}");

    // A stranger who asks for them, by the registry's own words or by his own, gets none either.
    let thief = Server::start(|_: &Request| Reply::ok(r#"{"token": "x"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", thief.address);
    for asks in ["Basic realm=\"x\"".to_owned(), realm] {
        let stranger =
            Server::start(move |_: &Request| Reply::status(401).with("WWW-Authenticate", asks.clone()));
        let stock = Stock::of("box", &image("two"), Compression::Gzip);
        let server = sends_blobs_to(stranger.address.clone(), stock);
        host.bulkhead(&["login", "-u", "ann", "-p", "secret", &server.address]).ok();
        host.bulkhead(&["pull", &server.name("box:1")]).code(1).complains("unauthorized: ");
        let there = stranger.requests();
        assert!(!there.is_empty());
        assert!(there.iter().all(|request| request.header("authorization").is_empty()), "{there:?}");
    }
    assert!(thief.requests().is_empty(), "{:?}", thief.requests());
}

#[test]
fn a_server_that_says_nothing() {
    let host = host!();
    host.busybox();
    let before = pieces(&host);
    let big = Image::busybox().name("x:latest").layer(Tar::new().file("big", 0o644, noise(1 << 20)).build());
    let stock = Stock::of("box", &big, Compression::Gzip);
    let (layer, _) = stock.layers()[1].clone();
    for path in ["/v2/box/manifests/1".to_owned(), format!("/v2/box/blobs/{layer}")] {
        let server = spoilt(stock.clone(), move |request, reply| match reply.body.clone() {
            Body::Whole(bytes) if request.is("GET", &path) => reply.body(Body::Stall(bytes, 100)),
            _ => reply,
        });
        let out =
            with(&host, &[("BULKHEAD_REGISTRY_TIMEOUT", "1")], &["pull", &server.name("box:1")]).code(1);
        assert!(out.err().contains("no answer within 1 s"), "{out}");
        assert_eq!(pieces(&host), before);
    }
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_stopped() {
    let host = host!();
    let content = noise(3 << 20);
    let big = Image::busybox().name("x:latest").layer(Tar::new().file("big", 0o644, &content).build());
    let stock = Stock::of("box", &big, Compression::Gzip);
    let (layer, size) = stock.layers()[1].clone();
    for ranges in [true, false] {
        let breaks = AtomicUsize::new(0);
        let path = format!("/v2/box/blobs/{layer}");
        let whole = stock.blobs[&layer].clone();
        let server = spoilt(stock.clone(), move |request, reply| {
            if !request.is("GET", &path) || breaks.fetch_add(1, Ordering::SeqCst) >= 2 {
                // One that knows no ranges begins anew.
                return if request.is("GET", &path) && !ranges { Reply::ok(whole.clone()) } else { reply };
            }
            let reply = if ranges { reply } else { Reply::ok(whole.clone()) };
            let Body::Whole(bytes) = reply.body.clone() else { return reply };
            let most = bytes.len() / 3;
            reply.body(Body::Cut(bytes, most))
        });
        let name = server.name("box:1");
        host.bulkhead(&["pull", &name]).ok();
        let sum = host.bulkhead(&["run", "--rm", &name, "sha256sum", "/big"]).ok().out();
        assert_eq!(format!("sha256:{}", &sum[..64]), digest(&content));
        let asked: Vec<Request> =
            server.requests().into_iter().filter(|request| request.target.ends_with(&layer)).collect();
        assert_eq!(asked.len(), 3, "{asked:?}");
        assert_eq!(asked[0].header("range"), "");
        assert_eq!(asked[1].header("range"), format!("bytes={}-", size / 3));
        host.bulkhead(&["rmi", &name]).ok();
    }

    // One that never gets on is given up, and nothing of it stays.
    let before = pieces(&host);
    let path = format!("/v2/box/blobs/{layer}");
    let server = spoilt(stock, move |request, reply| match reply.body.clone() {
        Body::Whole(bytes) if request.is("GET", &path) => reply.body(Body::Cut(bytes, 1)),
        _ => reply,
    });
    let out = host.bulkhead(&["pull", &server.name("box:1")]).code(1);
    assert_eq!(out.err().lines().count(), 1, "{out}");
    assert!(
        out.err().contains(&format!("Get \"http://{}/v2/box/blobs/{layer}\": ", server.address)),
        "{out}"
    );
    assert_eq!(pieces(&host), before);
    let asked = server.requests().iter().filter(|request| request.target.ends_with(&layer)).count();
    assert_eq!(asked, 5, "so often and no more");
}

#[test]
fn a_push_whose_connection_breaks_is_sent_again() {
    let host = host!();
    host.load(&image("one").docker_archive(Compression::None));
    let kept: std::sync::Arc<Mutex<std::collections::BTreeMap<String, Vec<u8>>>> = std::sync::Arc::default();
    let store = std::sync::Arc::clone(&kept);
    let breaks = AtomicUsize::new(0);
    let server = Server::start(move |request: &Request| {
        let mut store = store.lock().expect("lock");
        let path = request.target.split('?').next().unwrap_or_default();
        match request.method.as_str() {
            "GET" => Reply::ok("{}"),
            "HEAD" => Reply::status(if store.contains_key(path) { 200 } else { 404 }),
            // As some do: an address relative to the request, and with a query of its own.
            "POST" => Reply::status(202).with("Location", "/v2/box/blobs/uploads/1?state=a%2Bb"),
            "PUT" if path.contains("/manifests/") => {
                store.insert(path.to_owned(), request.body.clone());
                Reply::status(201)
            }
            "PUT" if breaks.fetch_add(1, Ordering::SeqCst) == 0 => Reply::status(201).body(Body::Gone),
            "PUT" if breaks.load(Ordering::SeqCst) == 2 => Reply::status(503),
            "PUT" => {
                let wanted = request.target.rsplit("digest=sha256%3A").next().expect("digest").to_owned();
                if digest(&request.body) != format!("sha256:{wanted}")
                    || !request.target.contains("state=a%2Bb&")
                {
                    return Reply::status(400);
                }
                store.insert(format!("/v2/box/blobs/sha256:{wanted}"), request.body.clone());
                Reply::status(201)
            }
            _ => Reply::status(405),
        }
    });
    let name = server.name("box:1");
    host.bulkhead(&["tag", "x", &name]).ok();
    let out = host.bulkhead(&["push", &name]).ok().out();
    let kept = kept.lock().expect("lock");
    let manifest = &kept["/v2/box/manifests/1"];
    assert!(out.ends_with(&format!("1: digest: {} size: {}\n", digest(manifest), manifest.len())), "{out}");
    let manifest: Value = serde_json::from_slice(manifest).expect("JSON");
    for descriptor in manifest["layers"].as_array().expect("layers").iter().chain([&manifest["config"]]) {
        let blob = &kept[&format!("/v2/box/blobs/{}", descriptor["digest"].as_str().expect("digest"))];
        assert_eq!(descriptor["size"], blob.len());
    }
}

#[test]
fn a_pull_that_is_killed_leaves_nothing() {
    let host = host!();
    host.busybox();
    let before = pieces(&host);
    let big = Image::busybox().name("x:latest").layer(Tar::new().file("big", 0o644, noise(2 << 20)).build());
    let stock = Stock::of("box", &big, Compression::Gzip);
    let (layer, _) = stock.layers()[1].clone();
    let path = format!("/v2/box/blobs/{layer}");
    let stalled = std::sync::Arc::new(AtomicUsize::new(0));
    let server = {
        let stalled = std::sync::Arc::clone(&stalled);
        spoilt(stock, move |request, reply| match reply.body.clone() {
            Body::Whole(bytes) if request.is("GET", &path) && stalled.fetch_add(1, Ordering::SeqCst) == 0 => {
                let half = bytes.len() / 2;
                reply.body(Body::Stall(bytes, half))
            }
            _ => reply,
        })
    };
    let name = server.name("box:1");
    let mut child = host
        .command(&["pull", &name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    let scratch = host.root().join("tmp");
    eventually("half of the layer is here", || {
        stalled.load(Ordering::SeqCst) > 0
            && std::fs::read_dir(&scratch).is_ok_and(|mut dir| dir.next().is_some())
    });
    child.kill().expect("kill");
    child.wait().expect("waitpid");
    assert_eq!(pieces(&host).0, before.0, "no layer of it");
    host.bulkhead(&["pull", "127.0.0.1:1/x"]).code(1);
    host.load(&image("other").docker_archive(Compression::None));
    assert_eq!(pieces(&host).1, 0, "the next command that unpacks sweeps what it left");
    host.bulkhead(&["pull", &name]).ok();
    host.bulkhead(&["run", "--rm", &name, "test", "-s", "/big"]).ok();
}

#[test]
fn two_pulls_that_share_layers_at_once() {
    let host = host!();
    let shared = Image::busybox()
        .name("x:latest")
        .layer(Tar::new().dir("d", 0o755).file("d/shared", 0o644, noise(1 << 20)).build());
    let make = |what: &str| shared.clone().layer(Tar::new().file("what", 0o644, what).build());
    let stocks: Vec<Stock> =
        ["one", "two"].map(|what| Stock::of(what, &make(what), Compression::Zstd)).into_iter().collect();
    let server = Server::start(move |request: &Request| {
        stocks
            .iter()
            .map(|stock| stock.answer(request))
            .find(|reply| reply.status != 404)
            .unwrap_or(Reply::status(404))
    });
    let names = ["one", "two"].map(|what| server.name(&format!("{what}:1")));
    std::thread::scope(|scope| {
        let pulls: Vec<_> =
            names.iter().map(|name| scope.spawn(|| host.bulkhead(&["pull", name.as_str()]))).collect();
        for pull in pulls {
            pull.join().expect("a pull").ok();
        }
    });
    for (name, what) in names.iter().zip(["one", "two"]) {
        host.bulkhead(&["run", "--rm", name, "cat", "/what"]).ok().prints(what);
        host.bulkhead(&["run", "--rm", name, "test", "-s", "/d/shared"]).ok();
    }
    // Busybox, the shared one, and one of each.
    // What `--rm` removes goes after its last word.
    eventually("there is nothing else", || pieces(&host) == (4, 0));
}

#[test]
fn a_registry_is_searched() {
    let host = host!();
    let registry = registry!(host);
    registry.put(&host, &image("one"), "team/box:1", &[]);
    registry.put(&host, &image("one"), "team/other:1", &[]);
    // Without Docker Hub's protocol, the catalogue is gone through; what is found can be pulled.
    let found = host.bulkhead(&["search", "--format", "{{.Name}}", &registry.name("box")]).ok().line();
    assert_eq!(found, registry.name("team/box"));
    host.bulkhead(&["pull", &format!("{found}:1")]).ok();

    let results = json!({ "results": [
        { "name": "fedora", "description": "Official\nbuilds of Fedora, which are long-winded about it", "star_count": 1200, "is_official": true },
        { "name": "someone/fedora", "description": "", "star_count": 3 },
        { "name": "nobody/fedora", "star_count": 0 },
    ] });
    let server = Server::start(move |request: &Request| {
        if request.is("GET", "/v2/") {
            Reply::ok("{}")
        } else if request.target == "/v1/search?q=fedora&n=25" {
            Reply::ok(results.to_string())
        } else {
            Reply::status(404)
        }
    });
    let term = server.name("fedora");
    host.bulkhead(&["search", "--filter", "stars=1", &term]).ok().prints(
        "NAME             DESCRIPTION                                     STARS     OFFICIAL\n\
         fedora           Official builds of Fedora, which are long-wi…   1200      [OK]\n\
         someone/fedora                                                   3         \n",
    );
    host.bulkhead(&["search", "--filter", "is-official=true", "--format", "{{.Name}}", &term])
        .ok()
        .prints("fedora\n");
    // Nobody builds automatically any more.
    let filters =
        ["search", "--filter=is-automated=true", "--filter=stars=1", "--format", "{{.Name}}", &term];
    host.bulkhead(&filters).ok().prints("");
    host.bulkhead(&["search", "--limit", "101", &term]).code(1).complains("outside the range of [1, 100]");
    host.bulkhead(&["search", "--filter", "foo=1", &term]).code(1).complains("invalid filter 'foo'");
}
