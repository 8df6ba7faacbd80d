//! `cargo xtask fuzz TARGET [SECONDS]`: coverage-guided fuzzing of what hostile bytes reach first.
//!
//! The targets are libFuzzer's and `cargo fuzz` runs them too; this needs neither that tool nor a nightly
//! compiler, since the coverage pass is LLVM's and the flag that turns it on is the only unstable one.
//! Inputs that found something new are kept under `target/fuzz/corpus`, an input that failed under
//! `target/fuzz/failed`, and the command fails with it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{cargo, packages, quiet, shown, workspace};

/// What there is to fuzz.
const TARGETS: &[(&str, &str)] = &[
    ("layer", "a layer's tar, plain or compressed"),
    ("image", "manifests, configurations, indexes"),
    ("events", "records of the kernel's ring, and the event log"),
    ("dns", "DNS messages from the wire"),
];

/// libFuzzer's runtime is C++.
const FUZZ: &[packages::Package] = &[("g++", "/usr/bin/c++", "compiles libFuzzer")];

/// The sanitizer coverage that libFuzzer reads.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions";

/// Builds one target and runs it for some seconds, a minute unless told.
pub fn run(args: &[String]) -> Result<(), String> {
    let usage = || {
        TARGETS.iter().fold("usage: cargo xtask fuzz TARGET [SECONDS]\n".to_owned(), |text, (name, what)| {
            format!("{text}\n  {name:<8} {what}")
        })
    };
    let (target, seconds) = match args {
        [target] => (target, 60),
        [target, seconds] => (target, seconds.parse::<u32>().map_err(|_| usage())?),
        _ => return Err(usage()),
    };
    if !TARGETS.iter().any(|(name, _)| name == target) {
        return Err(usage());
    }
    if !packages::is_root() {
        return Err("needs root: what is unpacked belongs to others".to_owned());
    }
    packages::ensure("fuzz", packages::BUILD)?;
    packages::ensure("fuzz", FUZZ)?;
    let dir = workspace().join("target/fuzz");
    let host = quiet(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let host = host.trim();
    shown(
        cargo()
            .args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--bin", target])
            // A named target keeps the flags away from build scripts.
            .args(["--target", host, "--target-dir"])
            .arg(&dir)
            .env("RUSTFLAGS", FLAGS),
    )?;
    let (corpus, failed) = (dir.join("corpus").join(target), dir.join("failed"));
    for dir in [&corpus, &failed] {
        fs::create_dir_all(dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
    }
    seed(&corpus, target)?;
    let work = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let work = Path::new(work).join(format!("bulkhead-fuzz-{}", std::process::id()));
    fs::create_dir_all(&work).map_err(|e| format!("mkdir {}: {e}", work.display()))?;
    let ran = shown(
        Command::new(dir.join(host).join("release").join(target))
            .arg(&corpus)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/{target}-", failed.display()))
            .args(["-max_len=65536", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .env("BULKHEAD_FUZZ_DIR", &work),
    );
    let _ = fs::remove_dir_all(&work);
    ran
}

/// Well-formed inputs to start from: without them no mutation gets past the first checksum.
fn seed(corpus: &Path, target: &str) -> Result<(), String> {
    if fs::read_dir(corpus).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(());
    }
    let plain = |name: &str, bytes: &[u8]| {
        let path = corpus.join(name);
        fs::write(&path, bytes).map_err(|e| format!("write {}: {e}", path.display()))
    };
    let write = |name: &str, kind: u8, bytes: &[u8]| plain(name, &[&[kind], bytes].concat());
    if target == "dns" {
        let mut answer = vec![0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
        answer.extend(b"\x02db\x07example\x03org\0\0\x01\0\x01");
        answer.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x1e\0\x05\x02d2\xc0\x0f");
        answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\xc0\0\x02\x2c");
        return plain("answer", &answer);
    }
    if target == "events" {
        // Long enough for every kind; the numbers of kinds stand at the beginning.
        for kind in 1..=13u32 {
            let mut record = vec![0; 1200];
            record[..4].copy_from_slice(&kind.to_ne_bytes());
            write(&format!("kind-{kind}"), 0, &record)?;
            let head = [&[2], &[0; 16][..], &record].concat();
            write(&format!("logged-{kind}"), 1, &head)?;
        }
        write("owner", 1, b"\x01\x01\0\0\0\0\0\0\0\x02\0id\x01\0n\x01\0i")?;
        write("flow", 1, &[&[3], &[0; 300][..]].concat())?;
        return write("lost", 1, b"\x04\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x02\0ab");
    }
    if target == "image" {
        write("manifest", 1, br#"[{"Config":"config.json","RepoTags":["a:1"],"Layers":["l.tar"]}]"#)?;
        write("config", 2, br#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":["sh"],"User":"0:0","ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"}},"history":[{"created":"2020-01-01T00:00:00Z","created_by":"x","empty_layer":true}],"rootfs":{"type":"layers","diff_ids":[]}}"#)?;
        write("index", 3, br#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"platform":{"architecture":"amd64","os":"linux"},"annotations":{"org.opencontainers.image.ref.name":"a"}}]}"#)?;
        write("oci", 4, br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2},"layers":[]}"#)?;
    }
    let tree = corpus.with_extension("seed");
    let make = r#"
        rm -rf "$1"; mkdir -p "$1/a/b"; cd "$1"
        echo content >a/f; ln a/f a/hard; ln -s ../a a/b/sym; : >a/.wh.gone; : >a/b/.wh..wh..opq; mkfifo pipe
        truncate -s 1M sparse; printf x | dd of=sparse seek=70000 bs=1 conv=notrunc 2>/dev/null
        long=$(printf 'n%.0s' $(seq 120)); mkdir $long; : >$long/$long
        for f in gnu pax; do tar --format=$f -S -cf "$2.$f" a pipe sparse $long; done
        tar --format=ustar -cf "$2.ustar" a pipe
        gzip -c "$2.pax" >"$2.gz"; zstd -q -c "$2.pax" >"$2.zst"
    "#;
    let made = corpus.with_extension("made");
    let status = Command::new("sh").args(["-ec", make, "sh"]).arg(&tree).arg(&made).status();
    if !status.is_ok_and(|status| status.success()) {
        return Err("making the first inputs: sh failed".to_owned());
    }
    for extension in ["gnu", "pax", "ustar", "gz", "zst"] {
        let path = made.with_extension(format!("made.{extension}"));
        let bytes = fs::read(&path).map_err(|e| format!("open {}: {e}", path.display()))?;
        for kind in 0..if target == "layer" { 4 } else { 1 } {
            write(&format!("{extension}-{kind}"), kind, &bytes)?;
        }
        let _ = fs::remove_file(&path);
    }
    let _ = fs::remove_dir_all(&tree);
    Ok(())
}
