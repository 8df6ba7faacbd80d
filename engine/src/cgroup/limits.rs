//! The limits in force, as the kernel rounded them.

use std::path::Path;

use super::{
    Cgroup,
    dir::Dir,
    error::Error,
    mounts::V1,
    stats::{device_number, parse_ceiling, v1_ceiling},
};

/// A limit that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ceiling {
    /// `max`.
    Unlimited,
    /// In the unit of the limit.
    At(u64),
}

impl Ceiling {
    fn of(value: Option<u64>) -> Self {
        value.map_or(Self::Unlimited, Self::At)
    }
}

/// I/O limits of one device; `None` means unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoMax {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read a second.
    pub read_bps: Option<u64>,
    /// Bytes written a second.
    pub write_bps: Option<u64>,
    /// Reads a second.
    pub read_iops: Option<u64>,
    /// Writes a second.
    pub write_iops: Option<u64>,
}

/// What holds this container. `None` where the host has no such limit, or none was ever asked for and
/// no cgroup was made for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<Ceiling>,
    /// Bytes of memory and swap together, Docker's notion.
    pub memory_swap: Option<Ceiling>,
    /// Bytes above which the kernel throttles and reclaims; v2 only.
    pub memory_high: Option<Ceiling>,
    /// Bytes protected as long as others have memory to give: memory.low, or the soft limit of v1.
    pub memory_reservation: Option<Ceiling>,
    /// Bytes protected in any case; v2 only.
    pub memory_min: Option<Ceiling>,
    /// The kernel kills all or nothing; v2 only.
    pub oom_group: Option<bool>,
    /// Microseconds of CPU time a period.
    pub cpu_quota: Option<Ceiling>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds that may be saved up.
    pub cpu_burst: Option<u64>,
    /// `cpu.weight`, 1 to 10000; v2 only.
    pub cpu_weight: Option<u64>,
    /// `cpu.shares`, 2 to 262144; v1 only.
    pub cpu_shares: Option<u64>,
    /// CPUs as the kernel grants them.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes as the kernel grants them.
    pub cpuset_mems: Option<String>,
    /// Tasks.
    pub pids: Option<Ceiling>,
    /// Per device.
    pub io: Vec<IoMax>,
}

impl Cgroup {
    /// Reads every limit back.
    #[allow(clippy::single_match_else, reason = "the two kinds of host read best side by side")]
    pub fn limits(&self) -> Result<Limits, Error> {
        let mut limits = Limits::default();
        let dir = &self.dir;
        match self.v1.get(V1::Memory) {
            Some(v1) => {
                let bytes = |file| Ok::<_, Error>(number(v1, file)?.map(|n| Ceiling::of(v1_ceiling(n))));
                limits.memory = bytes("memory.limit_in_bytes")?;
                limits.memory_swap = bytes("memory.memsw.limit_in_bytes")?;
                limits.memory_reservation = bytes("memory.soft_limit_in_bytes")?;
            }
            None => {
                limits.memory = ceiling(dir, "memory.max")?;
                limits.memory_swap = match (limits.memory, ceiling(dir, "memory.swap.max")?) {
                    (Some(Ceiling::At(memory)), Some(Ceiling::At(swap))) => Some(Ceiling::At(memory + swap)),
                    (_, swap) => swap.map(|_| Ceiling::Unlimited),
                };
                limits.memory_high = ceiling(dir, "memory.high")?;
                limits.memory_reservation = ceiling(dir, "memory.low")?;
                limits.memory_min = ceiling(dir, "memory.min")?;
                limits.oom_group = number(dir, "memory.oom.group")?.map(|n| n == 1);
            }
        }
        match self.v1.get(V1::Cpu) {
            Some(v1) => {
                limits.cpu_shares = number(v1, "cpu.shares")?;
                limits.cpu_period = number(v1, "cpu.cfs_period_us")?;
                limits.cpu_burst = number(v1, "cpu.cfs_burst_us")?;
                // -1 is "no quota".
                limits.cpu_quota = v1
                    .try_read("cpu.cfs_quota_us")?
                    .map(|text| text.trim().parse().map_or(Ceiling::Unlimited, Ceiling::At));
            }
            None => {
                if let Some(text) = dir.try_read("cpu.max")? {
                    let (quota, period) =
                        cpu_max(&text).ok_or_else(|| Error::parse(&dir.file("cpu.max"), &text))?;
                    limits.cpu_quota = Some(quota);
                    limits.cpu_period = Some(period);
                }
                limits.cpu_weight = number(dir, "cpu.weight")?;
                limits.cpu_burst = number(dir, "cpu.max.burst")?;
            }
        }
        let set = |dir: &Dir, file| Ok::<_, Error>(dir.try_read(file)?.map(|text| text.trim().to_owned()));
        match self.v1.get(V1::Cpuset) {
            Some(v1) => {
                limits.cpuset_cpus = set(v1, "cpuset.cpus")?;
                limits.cpuset_mems = set(v1, "cpuset.mems")?;
            }
            None => {
                limits.cpuset_cpus = set(dir, "cpuset.cpus.effective")?;
                limits.cpuset_mems = set(dir, "cpuset.mems.effective")?;
            }
        }
        limits.pids = ceiling(self.v1.get(V1::Pids).unwrap_or(dir), "pids.max")?;
        match self.v1.get(V1::Blkio) {
            Some(v1) => {
                for (file, field) in FIELDS {
                    let file = format!("blkio.throttle.{file}_device");
                    if let Some(text) = v1.try_read(&file)? {
                        throttle(&text, field, &mut limits.io)
                            .ok_or_else(|| Error::parse(&v1.file(&file), &text))?;
                    }
                }
            }
            None => {
                if let Some(text) = dir.try_read("io.max")? {
                    limits.io = io_max(&text).ok_or_else(|| Error::parse(&dir.file("io.max"), &text))?;
                }
            }
        }
        Ok(limits)
    }
}

impl Cgroup {
    /// The limits on huge pages, by size as in the kernel's file names. Not part of [`Cgroup::limits`], which is
    /// read with every scrape, because hardly anybody has them.
    pub fn hugepage_limits(&self) -> Result<Vec<(String, Ceiling)>, Error> {
        let path = Path::new("/sys/kernel/mm/hugepages");
        let sizes = match std::fs::read_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| Error::io("readdir", path, &error))?,
        };
        let (dir, suffix) = match self.v1.get(V1::Hugetlb) {
            Some(v1) => (v1, "limit_in_bytes"),
            None => (&self.dir, "max"),
        };
        let mut limits = Vec::new();
        for entry in sizes.flatten() {
            let Some(size) = page_size(&entry.file_name().to_string_lossy()) else { continue };
            if let Some(limit) = ceiling(dir, &format!("hugetlb.{size}.{suffix}"))? {
                limits.push((size, limit));
            }
        }
        limits.sort();
        Ok(limits)
    }
}

/// `hugepages-2048kB` as the files of the controller have it: `2MB`.
fn page_size(directory: &str) -> Option<String> {
    let kib: u64 = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        0x10_0000.. => format!("{}GB", kib >> 20),
        0x400.. => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}

fn number(dir: &Dir, file: &str) -> Result<Option<u64>, Error> {
    let Some(text) = dir.try_read(file)? else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| Error::parse(&dir.file(file), &text))
}

fn ceiling(dir: &Dir, file: &str) -> Result<Option<Ceiling>, Error> {
    let Some(text) = dir.try_read(file)? else { return Ok(None) };
    parse_ceiling(&text).map(|c| Some(Ceiling::of(c))).ok_or_else(|| Error::parse(&dir.file(file), &text))
}

fn cpu_max(text: &str) -> Option<(Ceiling, u64)> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some((Ceiling::of(parse_ceiling(quota)?), period.parse().ok()?))
}

type Field = fn(&mut IoMax) -> &mut Option<u64>;

const FIELDS: [(&str, Field); 4] = [
    ("read_bps", |m| &mut m.read_bps),
    ("write_bps", |m| &mut m.write_bps),
    ("read_iops", |m| &mut m.read_iops),
    ("write_iops", |m| &mut m.write_iops),
];

fn throttle(text: &str, field: Field, io: &mut Vec<IoMax>) -> Option<()> {
    for line in text.lines() {
        let (device, rate) = line.trim().split_once(' ')?;
        let (major, minor) = device_number(device)?;
        let at = io.iter().position(|m| (m.major, m.minor) == (major, minor)).unwrap_or_else(|| {
            io.push(IoMax { major, minor, ..IoMax::default() });
            io.len() - 1
        });
        *field(&mut io[at]) = Some(rate.trim().parse().ok()?);
    }
    Some(())
}

/// `8:16 rbps=2097152 wbps=max riops=max wiops=120`
fn io_max(text: &str) -> Option<Vec<IoMax>> {
    text.lines()
        .map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (major, minor) = device_number(fields.next()?)?;
            let mut max = IoMax { major, minor, ..IoMax::default() };
            for field in fields {
                let (key, value) = field.split_once('=')?;
                let into = match key {
                    "rbps" => &mut max.read_bps,
                    "wbps" => &mut max.write_bps,
                    "riops" => &mut max.read_iops,
                    "wiops" => &mut max.write_iops,
                    _ => continue,
                };
                *into = parse_ceiling(value)?;
            }
            Some(max)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_files_as_they_come_and_odd_ones() {
        assert_eq!(cpu_max("max 100000\n"), Some((Ceiling::Unlimited, 100_000)));
        assert_eq!(cpu_max("50000 100000"), Some((Ceiling::At(50_000), 100_000)));
        for odd in ["", "max", "x 1", "1 x", "-1 100"] {
            assert_eq!(cpu_max(odd), None, "{odd:?}");
        }
        let max = io_max("8:16 rbps=2097152 wbps=max riops=max wiops=120 new=1\n").unwrap();
        assert_eq!(
            (max[0].read_bps, max[0].write_bps, max[0].write_iops),
            (Some(2_097_152), None, Some(120))
        );
        for odd in ["x", "8:16 rbps", "8:16 rbps=q", "8 rbps=1", " "] {
            assert_eq!(io_max(odd), None, "{odd:?}");
        }
        let mut io = Vec::new();
        throttle("254:0 1048576\n7:1 5\n", FIELDS[0].1, &mut io).unwrap();
        throttle("254:0 99\n", FIELDS[3].1, &mut io).unwrap();
        assert_eq!((io.len(), io[0].read_bps, io[0].write_iops), (2, Some(1_048_576), Some(99)));
        assert_eq!(throttle("254:0\n", FIELDS[0].1, &mut io), None);
        for (directory, size) in
            [("hugepages-2048kB", "2MB"), ("hugepages-1048576kB", "1GB"), ("hugepages-64kB", "64KB")]
        {
            assert_eq!(page_size(directory).as_deref(), Some(size));
        }
        for odd in ["", "hugepages-", "hugepages-xkB", "hugepages-2048"] {
            assert_eq!(page_size(odd), None, "{odd:?}");
        }
    }
}
