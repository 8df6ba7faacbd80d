//! Starts a program in a directory as a container, a number of times, and says how long each step took.
//!
//! `start ROOTFS COUNT PROGRAM [ARGUMENT…]`, as root. What the runtime itself costs, without a store, a
//! monitor or a cgroup around it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_engine::runtime::{self, Launch, Rootfs, Stdio};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let rootfs = PathBuf::from(args.next().ok_or("no rootfs")?);
    let count: usize = args.next().ok_or("no count")?.parse()?;
    let mut spec = runtime::defaults::spec();
    if let Some(process) = spec.process_mut() {
        process.set_args(Some(args.collect()));
    }
    let launch = || Launch {
        id: "example",
        spec: &spec,
        bundle: &rootfs,
        rootfs: Rootfs::Path(&rootfs),
        cgroup: None,
        stdio: Stdio::Inherit,
        preserve_fds: 0,
        default_rlimits: &[],
        pivot: true,
    };
    let mut steps: Vec<[Duration; 3]> = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let init = runtime::create(&launch())?;
        for warning in init.warnings() {
            eprintln!("warning: {warning}");
        }
        let created = begin.elapsed();
        let pid = init.pid();
        init.start()?;
        let started = begin.elapsed();
        let status = nix::sys::wait::waitpid(pid, None)?;
        if count == 1 {
            eprintln!("{status:?}");
        }
        steps.push([created, started, begin.elapsed()]);
    }
    for (name, step) in [("created", 0), ("started", 1), ("ended", 2)] {
        let mut times: Vec<_> = steps.iter().map(|s| s[step]).collect();
        times.sort();
        eprintln!("{name:8} median {:?} min {:?}", times[times.len() / 2], times[0]);
    }
    Ok(())
}
