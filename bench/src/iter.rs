//! Ways to read many cgroups: the kernel's cgroup iterator, files kept open, files opened each time.
//!
//! The iterator is given the best case: numbers in binary, no text to make or to parse, one walk. It can
//! tell CPU time and pressure; for the rest (memory, I/O, tasks, limits) it would have to know the insides
//! of structures that change from kernel to kernel. So the files it is compared with are those four.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_engine::cgroup::{self, Cgroup};

use crate::measure::{Figures, median, table};
use crate::peers::{Dir, word};

const FILES: [&str; 4] = ["cpu.stat", "cpu.pressure", "memory.pressure", "io.pressure"];
const PAUSE: Duration = Duration::from_millis(200);

/// Compares them on the cgroups below our parent.
pub fn compare(us: &[String], rounds: usize) -> Result<(), String> {
    let at = us.iter().position(|word| word == "--cgroup-parent").ok_or("no --cgroup-parent")?;
    let parent = &us[at + 1];
    let path = cgroup::make_parent(parent).map_err(|e| e.to_string())?;
    let children: Vec<PathBuf> = fs::read_dir(&path)
        .map_err(|e| format!("{}: {e}", path.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .collect();
    let count = children.len();
    let mut figures = vec![
        timed("files kept open", rounds, &mut kept(&children)?),
        timed("files opened each time", rounds, &mut opened(&children)),
        timed("all figures of the model, files kept open", rounds, &mut model(parent, &children)?),
    ];
    let (rounds, failed) = match iterator(&path, count, rounds) {
        Ok(rounds) => (rounds, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    figures.insert(1, Figures { name: "cgroup iterator, with a flush".to_owned(), rounds, failed });
    print!("{}", table(&format!("CPU time and pressure of {count} cgroups"), &figures));
    if let Some(kept) = median(&figures[0].rounds) {
        println!("\nfiles kept open: {:.1} µs a cgroup", kept.as_secs_f64() * 1e6 / count.max(1) as f64);
    }
    Ok(())
}

fn timed(name: &str, rounds: usize, once: &mut dyn FnMut() -> Result<u64, String>) -> Figures {
    let mut figures = Figures { name: name.to_owned(), rounds: Vec::new(), failed: None };
    for round in 0..rounds + 3 {
        std::thread::sleep(PAUSE);
        let began = Instant::now();
        match once() {
            Ok(_) if round >= 3 => figures.rounds.push(began.elapsed()),
            Ok(_) => {}
            Err(error) => {
                figures.failed = Some(error);
                break;
            }
        }
    }
    figures
}

/// Every number of a text, summed, so that none of them is left unparsed.
fn numbers(text: &[u8]) -> u64 {
    let (mut sum, mut now) = (0_u64, 0_u64);
    for byte in text {
        if byte.is_ascii_digit() {
            now = now * 10 + u64::from(byte - b'0');
        } else {
            sum = sum.wrapping_add(now);
            now = 0;
        }
    }
    sum.wrapping_add(now)
}

fn read(file: &File, path: &Path) -> Result<u64, String> {
    let mut buffer = [0; 4096];
    let count = file.read_at(&mut buffer, 0).map_err(|e| format!("read {}: {e}", path.display()))?;
    Ok(numbers(&buffer[..count]))
}

fn open(path: &Path) -> Result<File, String> {
    File::open(path).map_err(|e| format!("open {}: {e}", path.display()))
}

fn kept(children: &[PathBuf]) -> Result<impl FnMut() -> Result<u64, String> + use<>, String> {
    let mut files = Vec::new();
    for child in children {
        for name in FILES {
            let path = child.join(name);
            files.push((open(&path)?, path));
        }
    }
    Ok(move || files.iter().try_fold(0_u64, |sum, (file, path)| Ok(sum.wrapping_add(read(file, path)?))))
}

fn opened(children: &[PathBuf]) -> impl FnMut() -> Result<u64, String> + use<> {
    let paths: Vec<PathBuf> = children.iter().flat_map(|child| FILES.map(|name| child.join(name))).collect();
    move || paths.iter().try_fold(0_u64, |sum, path| Ok(sum.wrapping_add(read(&open(path)?, path)?)))
}

fn model(parent: &str, children: &[PathBuf]) -> Result<impl FnMut() -> Result<u64, String> + use<>, String> {
    let mut meters = Vec::new();
    for child in children {
        let id = child.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let meter = Cgroup::open(parent, &id).and_then(|cgroup| cgroup.meter()).map_err(|e| e.to_string())?;
        meters.push(meter);
    }
    Ok(move || {
        meters.iter().try_fold(0_u64, |sum, meter| {
            let stats = meter.read().map_err(|error| error.to_string())?;
            Ok(sum.wrapping_add(stats.cpu.usage))
        })
    })
}

/// Compiles the reader with what the workspace is compiled with anyway, and runs it.
fn iterator(path: &Path, count: usize, rounds: usize) -> Result<Vec<Duration>, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("iter");
    let dir = Dir::new("iter")?;
    let (object, program) = (dir.path().join("walk.bpf.o"), dir.path().join("walk"));
    let run = |command: &mut Command| -> Result<String, String> {
        let name = command.get_program().display().to_string();
        let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{name}: {e}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("{name}: {}: {}", output.status, said.trim().lines().last().unwrap_or_default()))
    };
    let asm = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    run(Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", &asm, "-c", &word(&source.join("walk.bpf.c")), "-o"])
        .arg(&object))?;
    run(Command::new("cc").args(["-O2", &word(&source.join("walk.c")), "-o"]).arg(&program).arg("-lbpf"))?;
    let said = run(Command::new(program).arg(object).arg(path).arg(rounds.to_string()))?;
    let mut lines = said.lines().map(str::parse::<u64>);
    // The parent is walked as well.
    match lines.next() {
        Some(Ok(rows)) if rows == count as u64 + 1 => {}
        other => return Err(format!("{other:?} rows for {count} cgroups")),
    }
    lines.map(|ns| ns.map(Duration::from_nanos).map_err(|e| e.to_string())).collect()
}
