//! How long `commit` of a running container takes.

use std::path::Path;

use crate::measure::{Contender, interleave, table};
use crate::peers::{self, Dir, word};
use crate::start::{busybox, words};
use crate::worker::Worker;

/// Makes what is committed: a thousand files of one page each.
const CHANGE: &str = "mkdir /data; i=0; while [ $i -lt 1000 ]; do head -c 4096 /dev/urandom > /data/$i; i=$((i+1)); done; echo > /made; exec sleep 100000";

/// `commit [ROUNDS]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let rounds = match args {
        [] => 15,
        [n, ..] => n.parse().map_err(|_| format!("rounds: {n:?} is not a number"))?,
    };
    let disk = Dir::new("commit")?;
    println!("{}", peers::conditions(disk.path()));
    println!(
        "1,000 files of 4 KiB of random bytes, changed in a running container of a busybox image. Bulkhead has"
    );
    println!(
        "synced the new image before it returns; podman syncs nothing. Both freeze the container meanwhile."
    );
    on("on the disk", disk.path(), rounds)?;
    let memory = Dir::short("commit")?;
    on("on a tmpfs, where nothing is synced", memory.path(), rounds)
}

fn on(caption: &str, dir: &Path, rounds: usize) -> Result<(), String> {
    let image = dir.join("busybox.tar");
    busybox(&dir.join("rootfs"), &image)?;
    let run = Dir::short("run")?;
    let us = peers::bulkhead_words(&dir.join("bulkhead"), run.path())?;
    let mut here = Worker::new("", &[])?;
    here.run(&words(&us, &["import", &word(&image), "busybox"]))?;
    let podman = peers::podman(&dir.join("podman")).and_then(|(mut worker, base)| {
        worker.run(&words(&base, &["import", "--quiet", &word(&image), "busybox"]))?;
        prepare(&mut worker, &base)?;
        Ok((worker, base))
    });
    let (mut podman, absent) = match podman {
        Ok(podman) => (Some(podman), None),
        Err(error) => (None, Some(error)),
    };
    let prepared = prepare(&mut here, &us);
    if prepared.is_ok() {
        let mut contenders: Vec<Contender<'_>> = Vec::new();
        let (ours, base) = (&mut here, &us);
        contenders.push(Contender {
            name: "bulkhead commit".to_owned(),
            once: Box::new(move |round| {
                ours.run(&words(base, &["commit", "changed", &format!("made:{round}")]))
            }),
        });
        if let Some((worker, base)) = &mut podman {
            contenders.push(Contender {
                name: "podman commit --pause".to_owned(),
                once: Box::new(move |round| {
                    touch(worker, base)?;
                    let name = format!("made:{round}");
                    worker.run(&words(base, &["commit", "--quiet", "--pause", "changed", &name]))
                }),
            });
        }
        let figures = interleave(&mut contenders, 1, rounds);
        print!("{}", table(&format!("commit of 1,000 files, {caption}"), &figures));
        if let Some(error) = absent {
            println!("| podman | – | – | 0 | left out: {error} |");
        }
    }
    if let Some((mut worker, base)) = podman {
        let _ = worker.run(&words(&base, &["rm", "-f", "-t", "0", "changed"]));
    }
    let _ = here.run(&words(&us, &["rm", "-f", "changed"]));
    prepared
}

/// Changes one file, untimed: a layer that is there already is not made again.
fn touch(worker: &mut Worker, base: &[String]) -> Result<(), String> {
    let line = ["exec", "changed", "sh", "-c", "head -c 4096 /dev/urandom > /data/0"];
    worker.run(&words(base, &line))?;
    Ok(())
}

/// Starts the container and waits until it has changed everything.
fn prepare(worker: &mut Worker, base: &[String]) -> Result<(), String> {
    worker.run(&words(
        base,
        &["run", "-d", "--network", "none", "--name", "changed", "busybox", "sh", "-c", CHANGE],
    ))?;
    for _ in 0..300 {
        if worker.run(&words(base, &["exec", "changed", "test", "-e", "/made"])).is_ok() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err("the container did not make its files".to_owned())
}
