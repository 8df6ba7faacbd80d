//! The host's own totals: what a container's figures are a share of.

use std::path::Path;

use super::{At as _, Error, Interface, interface, now};
use crate::cgroup::Pressure;

/// CPU time of the whole host, nanoseconds since boot. Source: /proc/stat, line `cpu`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCpu {
    /// Everything but idle and iowait.
    pub usage: u64,
    /// user and nice.
    pub user: u64,
    /// system, irq and softirq.
    pub system: u64,
}

/// Memory of the whole host, bytes. Source: /proc/meminfo.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostMemory {
    /// MemTotal.
    pub total: u64,
    /// MemFree.
    pub free: u64,
    /// MemAvailable: what can be had without swapping.
    pub available: u64,
    /// Cached.
    pub cache: u64,
    /// AnonPages.
    pub anon: u64,
    /// SwapTotal.
    pub swap_total: u64,
    /// SwapTotal - SwapFree.
    pub swap: u64,
}

/// The host at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Host {
    /// Seconds since the epoch at which this was read.
    pub taken: f64,
    /// Nanoseconds of CLOCK_BOOTTIME at which this was read.
    pub clock: u64,
    /// CPUs that are online. Source: /sys/devices/system/cpu/online.
    pub cpus: u64,
    /// CPU time.
    pub cpu: HostCpu,
    /// Memory.
    pub memory: HostMemory,
    /// Seconds since the epoch at which the host booted. Source: /proc/stat, `btime`.
    pub booted: f64,
    /// Interfaces of the network namespace we run in. Source: /proc/self/net/dev.
    pub interfaces: Vec<Interface>,
    /// /proc/pressure; `None` without PSI.
    pub cpu_pressure: Option<Pressure>,
    /// /proc/pressure; `None` without PSI.
    pub memory_pressure: Option<Pressure>,
    /// /proc/pressure; `None` without PSI.
    pub io_pressure: Option<Pressure>,
}

impl Host {
    /// Only what a share is computed of: CPUs and memory.
    pub fn totals() -> Result<Self, Error> {
        let (taken, clock) = now();
        let memory = read("/proc/meminfo", memory_of)?;
        Ok(Self { taken, clock, cpus: online()?, memory, ..Self::default() })
    }

    /// Everything.
    pub fn read() -> Result<Self, Error> {
        let mut host = Self::totals()?;
        (host.cpu, host.booted) = read("/proc/stat", stat_of)?;
        host.interfaces = read("/proc/self/net/dev", interface::parse)?;
        host.cpu_pressure = pressure("/proc/pressure/cpu")?;
        host.memory_pressure = pressure("/proc/pressure/memory")?;
        host.io_pressure = pressure("/proc/pressure/io")?;
        Ok(host)
    }
}

fn read<T>(path: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
    let path = Path::new(path);
    let text = std::fs::read_to_string(path).at("read", path)?;
    parse(&text).ok_or_else(|| Error::Parse { path: path.to_owned(), text })
}

/// `None` when PSI is switched off or not built in: the file is missing, or refuses to be read.
fn pressure(path: &str) -> Result<Option<Pressure>, Error> {
    let file = Path::new(path);
    match std::fs::read_to_string(file) {
        Ok(text) => match Pressure::parse(&text) {
            Some(pressure) => Ok(Some(pressure)),
            None => Err(Error::Parse { path: file.to_owned(), text }),
        },
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).at("read", file),
    }
}

fn online() -> Result<u64, Error> {
    read("/sys/devices/system/cpu/online", |text| list_length(text.trim()))
}

/// The number of CPUs in `0-3,7`.
fn list_length(text: &str) -> Option<u64> {
    let mut count = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

fn memory_of(text: &str) -> Option<HostMemory> {
    let mut memory = HostMemory::default();
    let mut swap_free = 0;
    for line in text.lines() {
        let (key, rest) = line.split_once(':')?;
        let into = match key {
            "MemTotal" => &mut memory.total,
            "MemFree" => &mut memory.free,
            "MemAvailable" => &mut memory.available,
            "Cached" => &mut memory.cache,
            "AnonPages" => &mut memory.anon,
            "SwapTotal" => &mut memory.swap_total,
            "SwapFree" => &mut swap_free,
            _ => continue,
        };
        let number: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
        *into = number.checked_mul(1024)?;
    }
    memory.swap = memory.swap_total.saturating_sub(swap_free);
    (memory.total > 0).then_some(memory)
}

/// The kernel counts in ticks of USER_HZ, which is 100 on every architecture there is.
const TICK: u64 = 10_000_000;

fn stat_of(text: &str) -> Option<(HostCpu, f64)> {
    let mut cpu = None;
    let mut booted = None;
    for line in text.lines() {
        if let Some(ticks) = line.strip_prefix("cpu ") {
            let ticks: Vec<u64> =
                ticks.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
            let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
                return None;
            };
            let (user, system) = (user + nice, system + irq + softirq);
            cpu = Some(HostCpu {
                usage: (user + system + steal) * TICK,
                user: user * TICK,
                system: system * TICK,
            });
        } else if let Some(time) = line.strip_prefix("btime ") {
            booted = Some(time.trim().parse().ok()?);
        }
    }
    Some((cpu?, booted?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_can_be_read() {
        let host = Host::read().unwrap();
        assert!(host.cpus > 0 && host.memory.total > 0 && host.booted > 0.0 && host.cpu.usage > 0);
        assert!(host.memory.available <= host.memory.total);
    }

    #[test]
    fn texts_as_they_come_and_odd_ones() {
        assert_eq!(list_length("0-3,7,9-10"), Some(7));
        for odd in ["", "-", "3-1", "a", "1-"] {
            assert_eq!(list_length(odd), None, "{odd:?}");
        }
        let memory = memory_of(
            "MemTotal:  100 kB\nMemFree: 7 kB\nHugePages_Total:   0\nSwapTotal: 9 kB\nSwapFree: 4 kB\n",
        )
        .unwrap();
        assert_eq!((memory.total, memory.free, memory.swap), (102_400, 7168, 5120));
        for odd in ["", "MemTotal: 5\n", "MemTotal: x kB\n", "MemFree: 1 kB\n", "what\n"] {
            assert_eq!(memory_of(odd), None, "{odd:?}");
        }
        let (cpu, booted) =
            stat_of("cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\nbtime 1000\n").unwrap();
        assert_eq!(cpu, HostCpu { usage: 27 * TICK, user: 3 * TICK, system: 16 * TICK });
        assert!((booted - 1000.0).abs() < f64::EPSILON);
        for odd in ["", "cpu 1 2 3\nbtime 1\n", "cpu  a\n", "btime 7\n"] {
            assert_eq!(stat_of(odd), None, "{odd:?}");
        }
    }
}
