//! How long a build of five steps takes, when nothing of it was made before and when everything was.

use std::path::Path;

use crate::measure::{Contender, interleave, table};
use crate::peers::{self, Dir, word};
use crate::start::{busybox, words};
use crate::worker::Worker;

/// What is built.
const DOCKERFILE: &str = "FROM busybox
COPY files /files
RUN cat /files/* > /all
RUN wc -c /all > /size
WORKDIR /app
RUN echo done > done
CMD [\"cat\", \"/app/done\"]
";

/// `build [ROUNDS]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let rounds = match args {
        [] => 15,
        [n, ..] => n.parse().map_err(|_| format!("rounds: {n:?} is not a number"))?,
    };
    let disk = Dir::new("build")?;
    println!("{}", peers::conditions(disk.path()));
    println!(
        "COPY of 20 files of 4 KiB, three RUN and a WORKDIR on a busybox image, without a network. Bulkhead has"
    );
    println!("synced each layer before the next step begins; podman and buildah sync nothing.");
    on(disk.path(), rounds)
}

/// Its worker and the words that its command lines begin with, or why it is left out.
type Peer = Result<(Worker, Vec<String>), String>;

/// A peer that keeps its images where podman does: itself, or buildah.
fn peer(dir: &Path, image: &Path, program: Option<&str>) -> Peer {
    let (mut worker, mut base) = peers::podman(dir)?;
    worker.run(&words(&base, &["import", "--quiet", &word(image), "busybox"]))?;
    if let Some(program) = program {
        base[0] = word(&peers::find(program).ok_or("not installed")?);
    }
    Ok((worker, base))
}

fn on(dir: &Path, rounds: usize) -> Result<(), String> {
    let image = dir.join("busybox.tar");
    busybox(&dir.join("rootfs"), &image)?;
    let context = dir.join("context");
    let files = context.join("files");
    std::fs::create_dir_all(&files).map_err(|e| format!("mkdir {}: {e}", files.display()))?;
    for n in 0..20_u8 {
        let path = files.join(n.to_string());
        std::fs::write(&path, [n; 4096]).map_err(|e| format!("write {}: {e}", path.display()))?;
    }
    let dockerfile = context.join("Dockerfile");
    std::fs::write(&dockerfile, DOCKERFILE).map_err(|e| format!("write {}: {e}", dockerfile.display()))?;
    let context = word(&context);

    let run = Dir::short("run")?;
    let us = peers::bulkhead_words(&dir.join("bulkhead"), run.path())?;
    let mut here = Worker::new("", &[])?;
    here.run(&words(&us, &["import", &word(&image), "busybox"]))?;
    let mut others: Vec<(&str, Peer)> = vec![
        ("podman build", peer(&dir.join("podman"), &image, None)),
        ("buildah bud", peer(&dir.join("buildah"), &image, Some("buildah"))),
    ];
    for (caption, cold) in [("nothing made before", true), ("everything made before", false)] {
        let ours = ["build", "-q", "--network", "none", "-t", "made"];
        let theirs = |name: &str| -> Vec<&str> {
            let verb = if name.starts_with("buildah") { "bud" } else { "build" };
            vec![verb, "-q", "--network", "none", "--layers", "-t", "made"]
        };
        let line = |base: &[String], verb: &[&str]| {
            let mut more = verb.to_vec();
            if cold {
                more.push("--no-cache");
            }
            more.push(&context);
            words(base, &more)
        };
        let mut contenders: Vec<Contender<'_>> = Vec::new();
        let command = line(&us, &ours);
        let worker = &mut here;
        contenders.push(Contender {
            name: "bulkhead build".to_owned(),
            once: Box::new(move |_| worker.run(&command)),
        });
        for (name, other) in &mut others {
            if let Ok((worker, base)) = other {
                let command = line(base, &theirs(name));
                contenders.push(Contender {
                    name: (*name).to_owned(),
                    once: Box::new(move |_| worker.run(&command)),
                });
            }
        }
        let figures = interleave(&mut contenders, 1, rounds);
        print!("{}", table(&format!("build of five steps, {caption}"), &figures));
    }
    for (name, other) in &others {
        if let Err(error) = other {
            println!("| {name} | – | – | 0 | left out: {error} |");
        }
    }
    Ok(())
}
