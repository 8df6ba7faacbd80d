//! Which applier is faster, where: the measurement behind `BULKHEAD_UNPACK=auto`.
//!
//! One layer at a time, so that nothing but the applier differs: many tiny files (Node's packages), few
//! large ones (the image's own tars, as files), and a distribution's mixture. Each is read as gzip and as
//! zstd, written to the disk and to a tmpfs, on one core and on two.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::measure::{Contender, interleave, median};
use crate::peers::{self, Dir, word};
use crate::unpack;
use crate::worker::Worker;

const METHODS: [&str; 2] = ["threads", "io_uring"];

/// `appliers [ROUNDS]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let rounds = match args {
        [] => 3,
        [n, ..] => n.parse().map_err(|_| format!("rounds: {n:?} is not a number"))?,
    };
    let source = unpack::image()?;
    let disk = Dir::new("appliers")?;
    let memory = Dir::short("appliers")?;
    println!("{}", peers::conditions(disk.path()));
    println!(
        "\n`bulkhead import` of one layer; a fresh destination each time, the archive in the page cache, one"
    );
    println!("syncfs before it returns (nothing on tmpfs). Medians of {rounds} rounds in turns, seconds.");
    println!("\n| layer | compressed | file system | cores | threads | io_uring | io_uring takes |");
    println!("|---|---|---|---|---|---|---|");
    for (shape, tar) in shapes(&source, disk.path())? {
        for (kind, archive) in compressed(&tar, disk.path())? {
            for (system, place) in [("disk", disk.path()), ("tmpfs", memory.path())] {
                for cores in [1, 2] {
                    row(&shape, kind, system, cores, &archive, place, rounds)?;
                }
            }
        }
    }
    Ok(())
}

fn row(
    shape: &str,
    kind: &str,
    system: &str,
    cores: usize,
    archive: &Path,
    place: &Path,
    rounds: usize,
) -> Result<(), String> {
    let mut used: Vec<PathBuf> = Vec::new();
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for method in METHODS {
        let mut worker = Worker::new("", &[("BULKHEAD_UNPACK", PathBuf::from(method))])?;
        let at = move |round: usize| {
            place.join(format!("{shape}-{method}-{cores}-{kind}-{round}").replace(' ', "-"))
        };
        let once = move |round: usize| -> Result<Duration, String> {
            let list = if cores == 1 { "0" } else { "0,1" };
            let mut line: Vec<String> = ["taskset", "-c", list].map(str::to_owned).to_vec();
            line.extend(peers::bulkhead_words(&at(round), &at(round).join("run"))?);
            line.extend(["import".to_owned(), word(archive), "bench/layer".to_owned()]);
            let _ =
                fs::File::open(archive).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
            worker.run(&line)
        };
        used.extend(
            (0..rounds).map(|round| {
                place.join(format!("{shape}-{method}-{cores}-{kind}-{round}").replace(' ', "-"))
            }),
        );
        contenders.push(Contender { name: method.to_owned(), once: Box::new(once) });
    }
    let figures = interleave(&mut contenders, 0, rounds);
    drop(contenders);
    let seconds: Vec<f64> =
        figures.iter().filter_map(|f| median(&f.rounds)).map(|took| took.as_secs_f64()).collect();
    let ratios: Vec<f64> = figures[1]
        .rounds
        .iter()
        .zip(&figures[0].rounds)
        .map(|(ring, threads)| ring.as_secs_f64() / threads.as_secs_f64())
        .collect();
    match (&seconds[..], median(&ratios)) {
        (&[threads, ring], Some(ratio)) => println!(
            "| {shape} | {kind} | {system} | {cores} | {threads:.2} | {ring:.2} | {ratio:.2} times as long |"
        ),
        _ => println!("| {shape} | {kind} | {system} | {cores} | – | – | {:?} |", figures[1].failed),
    }
    // A tmpfs must not fill up. On the disk everything stays until the end: ext4 makes files several times
    // more slowly for some seconds after many were deleted.
    if system == "tmpfs" {
        for dir in used {
            let _ = Command::new("rm").arg("-rf").arg(dir).status();
        }
    }
    Ok(())
}

/// The three layers: a caption and a tar.
fn shapes(source: &Path, dir: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let layers = source.join("layers");
    let large = dir.join("large.tar");
    shell(&format!("tar -C {} --sort=name -cf {} 1.tar 2.tar", word(&layers), word(&large)))?;
    [
        ("many tiny files", layers.join("4.tar")),
        ("few large files", large),
        ("a distribution", layers.join("1.tar")),
    ]
    .into_iter()
    .map(|(name, tar)| {
        let bytes = fs::metadata(&tar).map_err(|e| format!("{}: {e}", tar.display()))?.len();
        let entries = Command::new("tar").arg("-tf").arg(&tar).output().map_err(|e| format!("tar: {e}"))?;
        let entries = String::from_utf8_lossy(&entries.stdout).lines().count();
        Ok((format!("{name}: {entries} in {} MB", bytes / 1_000_000), tar))
    })
    .collect()
}

fn compressed(tar: &Path, dir: &Path) -> Result<Vec<(&'static str, PathBuf)>, String> {
    let name = tar.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (gzip, zstd) = (dir.join(format!("{name}.gz")), dir.join(format!("{name}.zst")));
    shell(&format!("gzip -n -6 -c {} > {}", word(tar), word(&gzip)))?;
    shell(&format!("zstd -q -3 -T0 {} -o {}", word(tar), word(&zstd)))?;
    Ok(vec![("gzip", gzip), ("zstd", zstd)])
}

fn shell(line: &str) -> Result<(), String> {
    match Command::new("sh").args(["-ec", line]).status() {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("{line}: {other:?}")),
    }
}
