//! What a container's cgroups cost: to make, limit and remove, and to read.
//!
//! The engine's own calls, without a container around them, so that nothing else is in the figures. Making and
//! removing is measured empty, as the monitor does it around a container's life; reading with a process in
//! each cgroup and every limit set, so that every file is there and says something. A bare `mkdir` and
//! `rmdir` in every hierarchy concerned is the floor.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_engine::cgroup::{self, Cgroup, Meter, resources};
use bulkhead_engine::config::Resources;

use crate::measure::{Contender, Figures, interleave, median, table};

/// Containers of which all figures are read at once.
const MANY: usize = 1000;
/// Files that a container's meter and cgroup keep open, at most. A host that allows fewer gets fewer containers.
const FILES: usize = 24;
/// A reader that comes every 15 seconds finds other things in the processor's caches.
const PAUSE: Duration = Duration::from_millis(200);

/// `cgroup [ROUNDS]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let number = |text: &&str| text.parse::<usize>().map_err(|_| format!("{text:?} is not a number"));
    let rounds = args.first().map_or(Ok(201), number)?;
    let parent = format!("/bulkhead-bench-{}", std::process::id());
    let many = MANY.min(raise_open_files().saturating_sub(200) / FILES);
    let measured = measure(&parent, rounds, many);
    let removed = cgroup::remove_parent(&parent).map_err(|e| e.to_string());
    measured.and(removed)
}

/// As `serve` does; returns how many files may be open.
fn raise_open_files() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to that structure. Refused, there are fewer files, which then shows.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

fn text<T, E: ToString>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// What `run -m 64m --memory-swap 64m --cpus 0.5 --pids-limit 100` asks for.
fn limits() -> Resources {
    Resources {
        memory: 64 << 20,
        memory_swap: 64 << 20,
        nano_cpus: 500_000_000,
        pids_limit: Some(100),
        ..Resources::default()
    }
}

fn measure(parent: &str, rounds: usize, many: usize) -> Result<(), String> {
    let limited = text(resources::of(&limits()))?;
    let plain = text(resources::of(&Resources::default()))?;
    let (first, _) = text(Cgroup::create(parent, "first", &limited))?;
    let directories: Vec<PathBuf> = std::iter::once(first.path().to_owned())
        .chain(first.v1_controllers().map(|(_, path)| path.to_owned()))
        .filter_map(|path| path.parent().map(Path::to_owned))
        .collect();
    text(first.remove())?;
    let cycle = |resources| {
        move |round: usize| {
            let began = Instant::now();
            let (cgroup, _) = text(Cgroup::create(parent, &format!("c{round}"), resources))?;
            text(cgroup.attach()).map(drop)?;
            text(cgroup.remove())?;
            Ok(began.elapsed())
        }
    };
    let mut contenders = vec![
        Contender { name: "memory, CPU and tasks limited".to_owned(), once: Box::new(cycle(&limited)) },
        Contender { name: "no limits".to_owned(), once: Box::new(cycle(&plain)) },
        Contender {
            name: format!("mkdir and rmdir in {} hierarchies", directories.len()),
            once: Box::new(|round| {
                let began = Instant::now();
                for dir in &directories {
                    let path = dir.join(format!("b{round}"));
                    text(fs::create_dir(&path).and_then(|()| fs::remove_dir(&path)))?;
                }
                Ok(began.elapsed())
            }),
        },
    ];
    let figures = interleave(&mut contenders, 20, rounds);
    drop(contenders);
    print!("{}", table("a container's cgroups: make, limit, open for a clone, remove", &figures));

    let mut fleet = Fleet::new(parent);
    let read = fleet.grow(1, &limited).and_then(|()| {
        let one = fleet.read("one container, all figures, files kept open", rounds, 1);
        fleet.grow(many, &limited)?;
        let idle = [1, 2].map(|n| fleet.read(&format!("{many} idle containers, threads: {n}"), 21, n));
        Ok([one].into_iter().chain(idle).collect::<Vec<_>>())
    });
    let ended = fleet.end();
    for figures in read? {
        print!("{}", table(&figures.name, std::slice::from_ref(&figures)));
        if let Some(middle) = median(&figures.rounds) {
            println!("\nmedian {:.1} µs", middle.as_secs_f64() * 1e6);
        }
    }
    ended
}

/// Cgroups with a process that does nothing in each.
struct Fleet<'a> {
    parent: &'a str,
    cgroups: Vec<Cgroup>,
    meters: Vec<Meter>,
    processes: Vec<Child>,
}

impl<'a> Fleet<'a> {
    fn new(parent: &'a str) -> Self {
        Self { parent, cgroups: Vec::new(), meters: Vec::new(), processes: Vec::new() }
    }

    fn grow(&mut self, to: usize, limits: &oci_spec::runtime::LinuxResources) -> Result<(), String> {
        while self.cgroups.len() < to {
            let (cgroup, _) = text(Cgroup::create(self.parent, &format!("f{}", self.cgroups.len()), limits))?;
            // Kept before anything else can fail: what is kept is removed.
            let paths: Vec<PathBuf> = std::iter::once(cgroup.path().to_owned())
                .chain(cgroup.v1_controllers().map(|(_, path)| path.to_owned()))
                .collect();
            let meter = cgroup.meter();
            self.cgroups.push(cgroup);
            let child = Command::new("sleep").arg("100000").stdin(Stdio::null()).spawn();
            let child = child.map_err(|e| format!("sleep: {e}"))?;
            let pid = child.id().to_string();
            self.processes.push(child);
            for path in paths {
                text(fs::write(path.join("cgroup.procs"), &pid))?;
            }
            self.meters.push(text(meter)?);
            eprint!("\r  {} cgroups", self.cgroups.len());
        }
        eprintln!();
        Ok(())
    }

    /// With so many threads, as the collector reads them.
    fn read(&self, name: &str, rounds: usize, threads: usize) -> Figures {
        let mut figures = Figures { name: name.to_owned(), rounds: Vec::new(), failed: None };
        for round in 0..rounds + 3 {
            if self.meters.len() > 1 {
                std::thread::sleep(PAUSE);
            }
            let began = Instant::now();
            let all = |some: &[Meter]| some.iter().find_map(|meter| meter.read().err());
            let share = self.meters.len().div_ceil(threads);
            let failed = std::thread::scope(|scope| {
                let mut pieces = self.meters.chunks(share);
                let first = pieces.next().unwrap_or_default();
                let others: Vec<_> = pieces.map(|some| scope.spawn(move || all(some))).collect();
                let first = all(first);
                others.into_iter().filter_map(|thread| thread.join().ok().flatten()).last().or(first)
            });
            figures.failed = failed.map(|error| error.to_string()).or(figures.failed);
            if round >= 3 {
                figures.rounds.push(began.elapsed());
            }
        }
        figures
    }

    /// Removing kills; the children are ours to reap. What fails is told after all has been tried.
    fn end(self) -> Result<(), String> {
        let mut failed = Ok(());
        drop(self.meters);
        for cgroup in self.cgroups {
            failed = failed.and(text(cgroup.remove()));
        }
        for mut process in self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::io::stderr().flush();
        failed
    }
}
