//! What it costs to be watched: scrapes, `stats`, the live view, and what `serve` takes to do it.
//!
//! Real containers, each a process that sleeps, with limits and a network of their own, so that every file
//! is there that a scrape reads. A scrape is timed by its client, from `connect` to the last byte. CPU is
//! the kernel's own sum (`/proc/PID/stat`) over an interval in which a scraper comes every 15 seconds, so
//! what `serve` does in between counts as well.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::iter;
use crate::measure::{Contender, Figures, interleave, median, table};
use crate::peers::{self, Dir, word};
use crate::start::{busybox, words};
use crate::worker::Worker;

/// What a scraper's interval usually is.
const INTERVAL: Duration = Duration::from_secs(15);
/// Containers that `stats` and the live view have before them.
const MANY: usize = 50;

/// `metrics [ROUNDS [CONTAINERS...]]`
pub fn run(args: &[&str]) -> Result<(), String> {
    let number = |text: &&str| text.parse::<usize>().map_err(|_| format!("{text:?} is not a number"));
    let rounds = args.first().map_or(Ok(21), number)?;
    let sizes: Vec<usize> = match args.get(1..) {
        Some(rest @ [_, ..]) => rest.iter().map(number).collect::<Result<_, _>>()?,
        _ => vec![100, 1000],
    };
    let dir = Dir::new("metrics")?;
    let dir = dir.path();
    let run = Dir::short("run")?;
    let image = dir.join("busybox.tar");
    busybox(&dir.join("rootfs"), &image)?;
    let us = peers::bulkhead_words(&dir.join("bulkhead"), run.path())?;
    let mut here = Worker::new("", &[])?;
    here.run(&words(&us, &["import", &word(&image), "busybox"]))?;
    println!("{}", peers::conditions(dir));
    let mut fleet = Fleet { us: us.clone(), here, count: 0 };
    let measured = measure(&mut fleet, dir, &image, rounds, &sizes);
    fleet.end();
    measured
}

fn measure(
    fleet: &mut Fleet,
    dir: &Path,
    image: &Path,
    rounds: usize,
    sizes: &[usize],
) -> Result<(), String> {
    fleet.grow(MANY)?;
    stats(fleet, dir, image, rounds);
    top(fleet)?;
    let mut rows = Vec::new();
    for size in sizes {
        fleet.grow(*size)?;
        rows.push(scrapes(fleet, rounds)?);
        iter::compare(&fleet.us, rounds)?;
    }
    println!(
        "\n### `serve`, all hooks attached\n\n\
         | containers | text | gzip | answer | series | first scrape | resident | private | CPU, a scrape each 15 s | CPU without any |\n\
         |---|---|---|---|---|---|---|---|---|---|"
    );
    for row in rows {
        println!("{row}");
    }
    Ok(())
}

/// Our containers.
struct Fleet {
    us: Vec<String>,
    here: Worker,
    count: usize,
}

impl Fleet {
    fn grow(&mut self, to: usize) -> Result<(), String> {
        while self.count < to {
            let name = format!("c{}", self.count);
            let line = [
                "run",
                "-d",
                "--name",
                &name,
                "-m",
                "64m",
                "--cpus",
                "0.5",
                "--pids-limit",
                "100",
                "busybox",
                "sleep",
                "100000",
            ];
            self.here.run(&words(&self.us, &line))?;
            self.count += 1;
            eprint!("\r  {} containers", self.count);
        }
        eprintln!();
        Ok(())
    }

    /// A failure here must not hide the figures.
    fn end(mut self) {
        let names: Vec<String> = (0..self.count).map(|n| format!("c{n}")).collect();
        for some in names.chunks(100) {
            let some: Vec<&str> = some.iter().map(String::as_str).collect();
            if let Err(error) = self.here.run(&words(&words(&self.us, &["rm", "-f"]), &some)) {
                eprintln!("  rm: {error}");
            }
        }
    }
}

fn stats(fleet: &mut Fleet, dir: &Path, image: &Path, rounds: usize) {
    let mut podman = peers::podman(&dir.join("podman")).and_then(|(mut worker, base)| {
        eprintln!("  starting {MANY} containers with podman");
        worker.run(&words(&base, &["import", "--quiet", &word(image), "busybox"]))?;
        for n in 0..MANY {
            let name = format!("c{n}");
            let line = ["run", "-d", "--network", "none", "--name", &name, "busybox", "sleep", "100000"];
            worker.run(&words(&base, &line))?;
        }
        Ok((worker, base))
    });
    let us = words(&fleet.us, &["stats", "--no-stream"]);
    let here = &mut fleet.here;
    let mut contenders = vec![Contender {
        name: "bulkhead stats --no-stream".to_owned(),
        once: Box::new(move |_| here.run(&us)),
    }];
    let mut absent = None;
    match &mut podman {
        Ok((worker, base)) => {
            let line = words(base, &["stats", "--no-stream"]);
            contenders.push(Contender {
                name: "podman stats --no-stream (crun)".to_owned(),
                once: Box::new(move |_| worker.run(&line)),
            });
        }
        Err(error) => absent = Some(error.clone()),
    }
    let figures: Vec<Figures> = interleave(&mut contenders, 3, rounds);
    drop(contenders);
    print!("{}", table(&format!("`stats --no-stream` of {MANY} running containers"), &figures));
    if let Ok((worker, base)) = &mut podman {
        let _ = worker.run(&words(base, &["rm", "-f", "-t", "0", "-a"]));
    }
    if let Some(error) = absent {
        println!("\npodman is left out: {error}");
    }
}

/// CPU of a process with all its threads, those that have ended included: a reading's do at its end, and what
/// `/proc/PID/task` adds up to is a third of what was used.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything, utime and stime are the 12th and the 13th.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: sysconf only reads.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Duration::from_secs_f64(ticks as f64 / a_second.max(1) as f64)
}

fn share(used: Duration, of: Duration) -> String {
    format!("{:.2} % of a core", used.as_secs_f64() / of.as_secs_f64() * 100.0)
}

/// The live view on a terminal of 200 by 60 cells.
fn top(fleet: &Fleet) -> Result<(), String> {
    const WATCHED: Duration = Duration::from_secs(30);
    let size = libc::winsize { ws_row: 60, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut master, mut slave) = (0, 0);
    // SAFETY: both pointers are to integers of ours, the name and the modes may be null, and the size
    // outlives the call.
    let made = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            (&raw const size).cast_mut(),
        )
    };
    if made != 0 {
        return Err(format!("openpty: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: the call made both and nobody else has them.
    let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let end = || slave.try_clone().map(Stdio::from).map_err(|e| format!("dup: {e}"));
    let mut command = Command::new(&fleet.us[0]);
    command.args(&fleet.us[1..]).arg("top").env("TERM", "xterm-256color");
    let child = command.stdin(end()?).stdout(end()?).stderr(end()?).spawn();
    let child = Ended(child.map_err(|e| format!("top: {e}"))?);
    let mut reader = fs::File::from(master);
    std::thread::spawn(move || {
        let mut bytes = [0; 8192];
        while matches!(reader.read(&mut bytes), Ok(1..)) {}
    });
    // The kernel programs are loaded by then.
    std::thread::sleep(Duration::from_secs(5));
    let (began, before) = (Instant::now(), cpu(child.0.id()));
    std::thread::sleep(WATCHED);
    let (took, used) = (began.elapsed(), cpu(child.0.id()).saturating_sub(before));
    println!(
        "\n### the live view, {MANY} containers, 200 × 60, one refresh a second\n\n{} over {:.0} s",
        share(used, took),
        took.as_secs_f64()
    );
    Ok(())
}

/// A child that does not outlive us.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        for _ in 0..100 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Time and answer of one scrape.
fn scrape(address: &str, gzip: bool) -> Result<(Duration, Vec<u8>), String> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).map_err(|e| format!("connect {address}: {e}"))?;
    let accept = if gzip { "Accept-Encoding: gzip\r\n" } else { "" };
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\nConnection: close\r\n{accept}\r\n"
    )
    .map_err(|e| format!("write: {e}"))?;
    let mut answer = Vec::with_capacity(32 << 20);
    stream.read_to_end(&mut answer).map_err(|e| format!("read: {e}"))?;
    let took = began.elapsed();
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no head")?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(String::from_utf8_lossy(&answer[..at]).into_owned());
    }
    Ok((took, answer.split_off(at + 4)))
}

fn scrapes(fleet: &Fleet, rounds: usize) -> Result<String, String> {
    let mut command = Command::new(&fleet.us[0]);
    command.args(&fleet.us[1..]).args(["serve", "--metrics", "127.0.0.1:0"]);
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| format!("serve: {e}"))?;
    let mut child = Ended(child);
    let pid = child.0.id();
    let mut line = String::new();
    let out = child.0.stdout.take().ok_or("serve: no stdout")?;
    BufReader::new(out).read_line(&mut line).map_err(|e| format!("serve: {e}"))?;
    let address =
        line.split("://").nth(1).and_then(|rest| rest.split('/').next()).ok_or("serve: no address")?;
    let (first, body) = scrape(address, false)?;
    let told = String::from_utf8_lossy(&body).matches("\ncontainer_last_seen{").count() - 1;
    if told != fleet.count {
        return Err(format!("{told} containers told of {}", fleet.count));
    }
    let (mut text, mut gzip, mut series, mut sizes) = (Vec::new(), Vec::new(), 0, (0, 0));
    for round in 0..rounds + 3 {
        // Somebody who scrapes without a pause has everything in the processor's caches; nobody does that.
        std::thread::sleep(Duration::from_millis(200));
        let (took, body) = scrape(address, false)?;
        let (zipped, small) = scrape(address, true)?;
        if round >= 3 {
            text.push(took);
            gzip.push(zipped);
        }
        series = String::from_utf8_lossy(&body).lines().filter(|line| !line.starts_with('#')).count();
        sizes = (body.len(), small.len());
        eprint!("\r  scrape {} of {}", round + 1, rounds + 3);
    }
    eprintln!();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib = |text: &str, names: &[&str]| -> f64 {
        let lines = text.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum()
    };
    let resident = kib(&status, &["VmRSS:"]) / 1024.0;
    let private = kib(&rollup, &["Private_Clean:", "Private_Dirty:"]) / 1024.0;
    let idle = {
        let (began, before) = (Instant::now(), cpu(pid));
        std::thread::sleep(INTERVAL);
        share(cpu(pid).saturating_sub(before), began.elapsed())
    };
    let (began, before) = (Instant::now(), cpu(pid));
    for _ in 0..4 {
        scrape(address, true)?;
        std::thread::sleep(INTERVAL);
    }
    let busy = share(cpu(pid).saturating_sub(before), began.elapsed());
    let ms = |duration: Option<Duration>| duration.map_or(0.0, |d| d.as_secs_f64() * 1e3);
    Ok(format!(
        "| {} | {:.1} ms | {:.1} ms | {:.2} MB, {:.2} MB gzip | {series} | {:.1} ms | {resident:.1} MiB | {private:.1} MiB | {busy} | {idle} |",
        fleet.count,
        ms(median(&text)),
        ms(median(&gzip)),
        sizes.0 as f64 / 1e6,
        sizes.1 as f64 / 1e6,
        first.as_secs_f64() * 1e3,
    ))
}
