//! Starts a program in a directory as a container, a number of times, and says how long each step took.
//!
//! `start [--init] [--tty] [--exec] ROOTFS COUNT PROGRAM [ARGUMENT…]`, as root. What the runtime itself
//! costs, without a store, a monitor or a cgroup around it. With `--exec` the program is run in a
//! container that already runs `sleep`.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_engine::runtime::{self, Exec, Init, Launch, Rootfs, Stdio};
use oci_spec::runtime::Spec;

fn launch<'a>(spec: &'a Spec, rootfs: &'a Path, init: bool, tty: bool) -> Launch<'a> {
    Launch {
        id: "example",
        spec,
        bundle: rootfs,
        rootfs: Rootfs::Path(rootfs),
        shm_of: None,
        fresh: runtime::Fresh::default(),
        cgroup: None,
        stdio: if tty { Stdio::Console(None) } else { Stdio::Inherit },
        preserve_fds: 0,
        default_rlimits: &[],
        init,
        pivot: true,
        gate: runtime::Gate::Init,
    }
}

fn finish(mut init: Init, begin: Instant, count: usize) -> Result<[Duration; 3], Box<dyn Error>> {
    for warning in init.warnings() {
        eprintln!("warning: {warning}");
    }
    let created = begin.elapsed();
    let pid = init.pid();
    let console = init.take_console();
    init.start()?;
    let started = begin.elapsed();
    if let Some(console) = console {
        let mut console = std::fs::File::from(console);
        let mut bytes = [0; 4096];
        // EIO is how a terminal says that nobody has it open any more.
        while let Ok(n @ 1..) = console.read(&mut bytes) {
            std::io::stdout().write_all(&bytes[..n])?;
        }
    }
    let status = nix::sys::wait::waitpid(pid, None)?;
    if count == 1 {
        eprintln!("{status:?}");
    }
    Ok([created, started, begin.elapsed()])
}

fn main() -> Result<(), Box<dyn Error>> {
    let (flags, args): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|arg| matches!(arg.as_str(), "--init" | "--tty" | "--exec"));
    let flag = |name: &str| flags.iter().any(|flag| flag == name);
    let mut args = args.into_iter();
    let rootfs = PathBuf::from(args.next().ok_or("no rootfs")?);
    let count: usize = args.next().ok_or("no count")?.parse()?;
    let mut spec = runtime::defaults::spec();
    if let Some(process) = spec.process_mut() {
        process.set_args(Some(args.collect()));
    }
    let mut steps: Vec<[Duration; 3]> = Vec::new();
    if flag("--exec") {
        let mut sleeper = spec.clone();
        if let Some(process) = sleeper.process_mut() {
            process.set_args(Some(vec!["sleep".into(), "600".into()]));
        }
        let init = runtime::create(&launch(&sleeper, &rootfs, false, false))?;
        let (pid, pidfd) = (init.pid(), init.clone_pidfd()?);
        init.start()?;
        let process = spec.process().as_ref().ok_or("no process")?;
        for _ in 0..count {
            let begin = Instant::now();
            let init = runtime::exec(&Exec {
                target: std::os::fd::AsFd::as_fd(&pidfd),
                spec: &spec,
                process,
                cgroup: None,
                stdio: if flag("--tty") { Stdio::Console(None) } else { Stdio::Inherit },
                preserve_fds: 0,
                default_rlimits: &[],
            })?;
            steps.push(finish(init, begin, count)?);
        }
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        nix::sys::wait::waitpid(pid, None)?;
    } else {
        for _ in 0..count {
            let begin = Instant::now();
            let init = runtime::create(&launch(&spec, &rootfs, flag("--init"), flag("--tty")))?;
            steps.push(finish(init, begin, count)?);
        }
    }
    for (name, step) in [("created", 0), ("started", 1), ("ended", 2)] {
        let mut times: Vec<_> = steps.iter().map(|s| s[step]).collect();
        times.sort();
        eprintln!("{name:8} median {:?} min {:?}", times[times.len() / 2], times[0]);
    }
    Ok(())
}
