//! How long an image takes from archive to unpacked layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measure::{Contender, interleave, table};
use crate::peers::{self, Dir, word};
use crate::worker::Worker;

/// `unpack [ROUNDS [gzip|zstd|plain]…]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let rounds = match args {
        [] => 3,
        [n, ..] => n.parse().map_err(|_| format!("rounds: {n:?} is not a number"))?,
    };
    let only = args.get(1..).unwrap_or_default();
    if let Some(word) = only.iter().find(|word| !["gzip", "zstd", "plain"].contains(word)) {
        return Err(format!("{word:?} is none of gzip, zstd, plain"));
    }
    let source = image()?;
    // Removed after the last figure: unpacking right after a big tree was deleted is several times
    // slower for every tool.
    let dir = Dir::new("unpack")?;
    println!("{}", peers::conditions(dir.path()));
    println!("{}", fs::read_to_string(source.join("facts")).unwrap_or_default().trim());
    println!(
        "\nEvery round unpacks into a fresh destination, after a sync. The archives are in the page cache. Bulkhead syncs its"
    );
    println!(
        "layers before it returns (one syncfs); podman, skopeo, umoci, ctr and tar are measured as they are."
    );
    for (name, archive, transport) in [
        ("gzip", "gzip.tar", "oci-archive"),
        ("zstd", "zstd.tar", "oci-archive"),
        ("uncompressed docker-archive", "plain.tar", "docker-archive"),
    ] {
        if !only.is_empty() && !only.contains(&archive.trim_end_matches(".tar")) {
            continue;
        }
        shape(name, &source, archive, transport, dir.path(), rounds)?;
    }
    Ok(())
}

/// The generated image, made once under target/bench.
pub fn image() -> Result<PathBuf, String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = std::env::var_os("BULKHEAD_BENCH_IMAGE")
        .map_or_else(|| here.join("../target/bench/image"), PathBuf::from);
    let made = Command::new(here.join("make-image")).arg(&dir).status();
    match made {
        Ok(status) if status.success() => dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display())),
        other => Err(format!("bench/make-image: {other:?}")),
    }
}

/// The same with everything on the disk before it begins.
pub fn settled<'a>(
    mut once: Box<dyn FnMut(usize) -> Result<std::time::Duration, String> + 'a>,
) -> impl FnMut(usize) -> Result<std::time::Duration, String> + 'a {
    move |round| {
        let _ = Command::new("sync").status();
        once(round)
    }
}

fn shape(
    name: &str,
    source: &Path,
    archive: &str,
    transport: &str,
    dir: &Path,
    rounds: usize,
) -> Result<(), String> {
    let file = source.join(archive);
    // Into the page cache, whatever ran before.
    let _ = std::io::copy(
        &mut fs::File::open(&file).map_err(|e| format!("{}: {e}", file.display()))?,
        &mut std::io::sink(),
    );
    let at =
        |tool: &str, round: usize| dir.join(format!("{tool}-{}-{round}", archive.trim_end_matches(".tar")));
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    let shell = |script: String| vec!["sh".to_owned(), "-ec".to_owned(), script];

    let mut worker = Worker::new("", &[])?;
    let (input, place) = (word(&file), at);
    let once = move |round: usize| {
        let mut line = peers::bulkhead_words(&place("bulkhead", round), &place("bulkhead-run", round))?;
        line.extend(["load".to_owned(), "-i".to_owned(), input.clone()]);
        worker.run(&line)
    };
    contenders.push(Contender { name: "bulkhead load".to_owned(), once: Box::new(once) });

    // GNU tar, the floor everybody knows: no verification, no database.
    let decompress = match archive {
        "gzip.tar" => "gzip -dc",
        "zstd.tar" => "zstd -dqc",
        _ => "cat",
    };
    let layers = word(&source.join(archive.trim_end_matches(".tar")).join("blobs/sha256"));
    let plain = word(&source.join("layers"));
    let mut worker = Worker::new("", &[])?;
    let compressed = archive != "plain.tar";
    let once = move |round: usize| {
        let to = word(&place("tar", round));
        // The blobs that are not layers are JSON; by size, since their names are digests.
        let list =
            if compressed { format!("find {layers} -size +64k | sort") } else { format!("ls {plain}/*.tar") };
        let script = format!(
            "n=0; for l in $({list}); do n=$((n+1)); mkdir -p {to}/$n; {decompress} $l | tar -x --numeric-owner -C {to}/$n -f -; done"
        );
        worker.run(&shell(script))
    };
    contenders.push(Contender {
        name: format!("{decompress} | tar -x, one after the other"),
        once: Box::new(once),
    });

    let mut absent = Vec::new();
    if peers::find("podman").is_some() {
        let (input, transport) = (word(&file), transport.to_owned());
        let once = move |round: usize| {
            let (mut worker, mut line) = peers::podman(&place("podman", round))?;
            line.extend(["pull".to_owned(), "--quiet".to_owned(), format!("{transport}:{input}")]);
            worker.run(&line)
        };
        contenders.push(Contender { name: "podman pull FILE".to_owned(), once: Box::new(once) });
    } else {
        absent.push("podman");
    }
    if let (Some(umoci), true) = (peers::find("umoci"), compressed) {
        let layout = word(&source.join(archive.trim_end_matches(".tar")));
        let mut worker = Worker::new("", &[])?;
        let once = move |round: usize| {
            let to = word(&place("umoci", round));
            let line = [&word(&umoci), "unpack", "--image", &format!("{layout}:bench/real:latest"), &to];
            worker.run(&line)
        };
        contenders
            .push(Contender { name: "umoci unpack (one merged tree)".to_owned(), once: Box::new(once) });
    }
    if peers::find("containerd").is_some() {
        let input = word(&file);
        let once = move |round: usize| {
            let (_daemon, mut worker, mut line) = peers::containerd(&place("containerd", round))?;
            line.extend(["image".to_owned(), "import".to_owned(), input.clone()]);
            worker.run(&line)
        };
        contenders.push(Contender { name: "ctr image import".to_owned(), once: Box::new(once) });
    } else {
        absent.push("containerd");
    }
    // What the one before has left unwritten is not this one's to wait for: our syncfs would.
    for contender in &mut contenders {
        let once = std::mem::replace(&mut contender.once, Box::new(|_| Err("replaced".to_owned())));
        contender.once = Box::new(settled(once));
    }
    let figures = interleave(&mut contenders, 0, rounds);
    print!("{}", table(&format!("unpack, {name}"), &figures));
    for name in absent {
        println!("\n{name} is left out: not installed");
    }
    Ok(())
}
