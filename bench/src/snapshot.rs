//! How long it takes to make a snapshot, mount it, let it go and remove it.
//!
//! This is the engine's own module in this process, since no command of any engine does only that.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_engine::digest::{ChainId, DiffId, Digest};
use bulkhead_engine::snapshot::Snapshot;
use bulkhead_engine::store::Layout;

use crate::measure::median;
use crate::peers::{self, Dir};

/// `snapshot [ROUNDS]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let rounds = match args {
        [] => 301,
        [n, ..] => n.parse().map_err(|_| format!("rounds: {n:?} is not a number"))?,
    };
    let disk = Dir::new("snapshot")?;
    let memory = Dir::short("snapshot")?;
    println!("{}", peers::conditions(disk.path()));
    println!("\nMedians of {rounds} rounds, microseconds; nothing is synced, mounts are detached.");
    println!("\n| upper directory on | layers | prepare | mount | unmount | remove | all |");
    println!("|---|---|---|---|---|---|---|");
    for (name, dir) in [("the disk", disk.path()), ("a tmpfs", memory.path())] {
        for layers in [1, 5, 25, 100] {
            let steps = measure(&dir.join(layers.to_string()), layers, rounds)
                .map_err(|error| format!("{layers} layers on {name}: {error}"))?;
            let column = |of: fn(&[Duration; 4]) -> Duration| {
                median(&steps.iter().map(of).collect::<Vec<_>>()).unwrap_or_default().as_micros()
            };
            println!(
                "| {name} | {layers} | {} | {} | {} | {} | {} |",
                column(|s| s[0]),
                column(|s| s[1].saturating_sub(s[0])),
                column(|s| s[2].saturating_sub(s[1])),
                column(|s| s[3].saturating_sub(s[2])),
                column(|s| s[3])
            );
        }
    }
    Ok(())
}

fn measure(root: &Path, layers: usize, rounds: usize) -> Result<Vec<[Duration; 4]>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let layout = Layout { run_root: root.join("run"), root: root.to_owned() };
    fs::create_dir_all(layout.containers()).map_err(|e| text(&e))?;
    let diff_ids: Vec<_> = (0..layers).map(|n| DiffId(Digest::of(&n.to_le_bytes()))).collect();
    let chain = ChainId::chain(&diff_ids);
    for id in &chain {
        let diff = layout.layers().join(id.0.hex()).join("diff");
        fs::create_dir_all(&diff)
            .and_then(|()| fs::write(diff.join("file"), id.to_string()))
            .map_err(|e| text(&e))?;
    }
    let mut steps = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begin = Instant::now();
        let snapshot = Snapshot::prepare(&layout, "bench", &chain).map_err(|e| text(&e))?.volatile(true);
        let prepared = begin.elapsed();
        let mount = snapshot.mount().map_err(|e| text(&e))?;
        let mounted = begin.elapsed();
        drop(mount);
        let unmounted = begin.elapsed();
        Snapshot::remove(&layout, "bench").map_err(|e| text(&e))?;
        steps.push([prepared, mounted, unmounted, begin.elapsed()]);
    }
    Ok(steps)
}
