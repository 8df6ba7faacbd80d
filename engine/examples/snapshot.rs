//! How long it takes to make a snapshot, mount it, let it go and remove it.
//!
//! `snapshot DIRECTORY LAYERS COUNT`, as root. DIRECTORY must be empty or missing, and is left with the
//! layers in it.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_engine::digest::{ChainId, DiffId, Digest};
use bulkhead_engine::snapshot::Snapshot;
use bulkhead_engine::store::Layout;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let root = PathBuf::from(args.next().ok_or("no directory")?);
    let layers: usize = args.next().ok_or("no number of layers")?.parse()?;
    let count: usize = args.next().ok_or("no count")?.parse()?;
    let layout = Layout { run_root: root.join("run"), root };
    fs::create_dir_all(layout.containers())?;
    let diff_ids: Vec<_> = (0..layers).map(|n| DiffId(Digest::of(&n.to_le_bytes()))).collect();
    let chain = ChainId::chain(&diff_ids);
    for id in &chain {
        let diff = layout.layers().join(id.0.hex()).join("diff");
        fs::create_dir_all(&diff)?;
        fs::write(diff.join("file"), id.to_string())?;
    }
    let mut steps: Vec<[Duration; 4]> = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let snapshot = Snapshot::prepare(&layout, "example", &chain)?.volatile(true);
        let prepared = begin.elapsed();
        let mount = snapshot.mount()?;
        let mounted = begin.elapsed();
        drop(mount);
        let unmounted = begin.elapsed();
        Snapshot::remove(&layout, "example")?;
        steps.push([prepared, mounted, unmounted, begin.elapsed()]);
    }
    for (name, step) in [("prepared", 0), ("mounted", 1), ("unmounted", 2), ("removed", 3)] {
        let mut times: Vec<_> = steps.iter().map(|s| s[step]).collect();
        times.sort();
        println!("{name:9} median {:?} min {:?}", times[times.len() / 2], times[0]);
    }
    Ok(())
}
