//! The columns of the table: what each shows, how it sorts, and which fit.

use bulkhead_engine::cgroup::Pressure;
use bulkhead_engine::model::Host;

use super::app::Row;
use crate::output::human;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The name.
    Name,
    /// Docker's status, or the health where there is a check.
    State,
    /// Percent of one CPU.
    Cpu,
    /// CPU over time.
    CpuSpark,
    /// Memory in use.
    Memory,
    /// Memory against its limit.
    MemoryBar,
    /// Tasks.
    Pids,
    /// Pressure: CPU, memory, I/O.
    Pressure,
    /// Periods throttled.
    Throttled,
    /// OOM kills.
    Oom,
    /// Programs executed.
    Execs,
    /// Received and sent a second.
    Network,
    /// Read and written a second.
    Io,
    /// Memory over time.
    MemorySpark,
    /// Network over time.
    NetworkSpark,
    /// I/O over time.
    IoSpark,
    /// Restarts by the policy.
    Restarts,
    /// The image.
    Image,
}

use Column::{
    Cpu, CpuSpark, Execs, Image, Io, IoSpark, Memory, MemoryBar, MemorySpark, Name, Network, NetworkSpark,
    Oom, Pids, Pressure as Psi, Restarts, State, Throttled,
};

impl Column {
    /// In the order of the screen.
    pub const ALL: [Self; 18] = [
        Name,
        State,
        Cpu,
        CpuSpark,
        Throttled,
        Memory,
        MemoryBar,
        MemorySpark,
        Pids,
        Psi,
        Oom,
        Execs,
        Network,
        NetworkSpark,
        Io,
        IoSpark,
        Restarts,
        Image,
    ];

    /// In the order in which they are given up, the last first.
    const WANTED: [Self; 18] = [
        Name,
        Cpu,
        Memory,
        MemoryBar,
        State,
        CpuSpark,
        Pids,
        Psi,
        Throttled,
        Oom,
        Network,
        Io,
        Execs,
        MemorySpark,
        NetworkSpark,
        IoSpark,
        Restarts,
        Image,
    ];

    /// Its head.
    pub const fn title(self) -> &'static str {
        match self {
            Name => "NAME",
            State => "STATE",
            Cpu => "CPU%",
            CpuSpark => "CPU 10s",
            Memory => "MEM",
            MemoryBar => "OF LIMIT",
            Pids => "PIDS",
            Psi => "PSI c/m/i",
            Throttled => "THR%",
            Oom => "OOM",
            Execs => "EXEC",
            Network => "NET rx/tx",
            Io => "I/O r/w",
            MemorySpark => "MEM 10s",
            NetworkSpark => "NET 10s",
            IoSpark => "I/O 10s",
            Restarts => "RST",
            Image => "IMAGE",
        }
    }

    /// Cells it takes.
    pub const fn width(self) -> u16 {
        match self {
            Name => 13,
            Image => 20,
            State | Memory => 9,
            Cpu => 6,
            CpuSpark | MemorySpark | NetworkSpark | IoSpark | MemoryBar => 10,
            Pids | Throttled | Execs => 5,
            Psi => 11,
            Oom | Restarts => 4,
            Network | Io => 15,
        }
    }

    /// Whether it can be sorted by; a picture cannot.
    pub const fn sorts(self) -> bool {
        !matches!(self, CpuSpark | MemorySpark | NetworkSpark | IoSpark)
    }

    /// Numbers stand right.
    pub const fn is_number(self) -> bool {
        matches!(self, Cpu | Memory | Pids | Throttled | Oom | Execs | Network | Io | Psi | Restarts)
    }

    /// Those that fit into a width, in the order of the screen. The name always does; what the table is
    /// sorted by comes next, or nobody would see why the rows stand as they do.
    pub fn that_fit(width: u16, sorted: Self) -> Vec<Self> {
        let mut left = width;
        let mut chosen = Vec::new();
        let wanted = Self::WANTED.into_iter().filter(|column| *column != Name && *column != sorted);
        let first = if sorted == Name { vec![Name] } else { vec![Name, sorted] };
        for column in first.into_iter().chain(wanted) {
            let needs = column.width() + u16::from(!chosen.is_empty());
            if needs <= left || column == Name {
                left = left.saturating_sub(needs);
                chosen.push(column);
            } else {
                break;
            }
        }
        Self::ALL.into_iter().filter(|column| chosen.contains(column)).collect()
    }

    /// The cell's text.
    pub fn text(self, row: &Row, host: &Host) -> String {
        let stats = row.figures.stats.as_ref();
        let running = stats.is_some();
        let memory = stats.and_then(|stats| stats.memory.as_ref());
        let dash = || "-".to_owned();
        let cells = self.width() as usize;
        match self {
            Name => row.figures.identity.name.clone(),
            Image => row.figures.identity.image.clone(),
            State => row.state().to_owned(),
            Cpu if running => row.rates.map_or_else(dash, |rates| {
                let mark = if rates.basis == bulkhead_engine::model::Basis::Start { "~" } else { "" };
                format!("{mark}{:.1}", rates.cpu)
            }),
            Memory => memory.map_or_else(dash, |memory| human::binary(memory.working_set())),
            MemoryBar => match memory {
                Some(memory) => {
                    bar(memory.working_set() as f64, row.figures.memory_limit(host) as f64, cells)
                }
                None => String::new(),
            },
            Pids if running => stats.map_or_else(dash, |stats| stats.pids.current.to_string()),
            Psi => stats.map_or_else(dash, |stats| {
                let some = |pressure: Option<Pressure>| {
                    pressure.map_or_else(|| "-".to_owned(), |pressure| format!("{:.0}", pressure.some.avg10))
                };
                format!(
                    "{}/{}/{}",
                    some(stats.cpu_pressure),
                    some(stats.memory_pressure),
                    some(stats.io_pressure)
                )
            }),
            Throttled => row
                .rates
                .and_then(|rates| rates.throttled)
                .map_or_else(dash, |throttled| format!("{throttled:.0}")),
            Oom => row.figures.oom_kills().map_or_else(dash, |kills| kills.to_string()),
            Execs => row.execs.map_or_else(dash, |execs| execs.to_string()),
            Network if running => match &row.figures.network {
                bulkhead_engine::model::Network::Host => "host".to_owned(),
                _ => row.rates.map_or_else(dash, |rates| pair(rates.received, rates.sent)),
            },
            Io if stats.is_some_and(|stats| stats.io.is_some()) => {
                row.rates.map_or_else(dash, |rates| pair(rates.read, rates.written))
            }
            CpuSpark if running => row.history.cpu.spark(cells, 100.0),
            MemorySpark if running => row.history.memory.spark(cells, 0.0),
            NetworkSpark if running => row.history.network.spark(cells, 1.0),
            IoSpark if running => row.history.io.spark(cells, 1.0),
            CpuSpark | MemorySpark | NetworkSpark | IoSpark => String::new(),
            Restarts => row.figures.life.restarts.to_string(),
            Cpu | Pids | Network | Io => dash(),
        }
    }

    /// What it sorts by, larger first; names sort by themselves.
    pub fn key(self, row: &Row) -> f64 {
        let stats = row.figures.stats.as_ref();
        let rates = row.rates.unwrap_or_default();
        match self {
            Name | Image | CpuSpark | MemorySpark | NetworkSpark | IoSpark => 0.0,
            State => -f64::from(u8::from(stats.is_some())),
            Cpu => rates.cpu,
            Memory => row.history.memory.last(),
            MemoryBar => stats
                .and_then(|stats| stats.memory.as_ref())
                .map_or(0.0, |memory| memory.working_set() as f64 / memory.limit.unwrap_or(u64::MAX) as f64),
            Pids => stats.map_or(0.0, |stats| stats.pids.current as f64),
            Psi => stats.map_or(0.0, |stats| {
                [stats.cpu_pressure, stats.memory_pressure, stats.io_pressure]
                    .into_iter()
                    .flatten()
                    .map(|pressure| pressure.some.avg10)
                    .fold(0.0, f64::max)
            }),
            Throttled => rates.throttled.unwrap_or(-1.0),
            Oom => row.figures.oom_kills().map_or(-1.0, |kills| kills as f64),
            Execs => row.execs.map_or(-1.0, |execs| execs as f64),
            Network => rates.received + rates.sent,
            Io => rates.read + rates.written,
            Restarts => row.figures.life.restarts as f64,
        }
    }
}

/// `12kB/3MB`.
fn pair(one: f64, other: f64) -> String {
    let short = |bytes: f64| {
        let text = human::size(bytes as u64);
        if bytes < 1.0 { "0".to_owned() } else { text }
    };
    format!("{}/{}", short(one), short(other))
}

/// `████░░░░ 50%` in exactly `width` cells; readable without any colour.
pub fn bar(used: f64, limit: f64, width: usize) -> String {
    let part = if limit > 0.0 { (used / limit).clamp(0.0, 1.0) } else { 0.0 };
    let label = format!(" {:.0}%", part * 100.0);
    let cells = width.saturating_sub(5);
    let full = (part * cells as f64).round() as usize;
    let bar: String = std::iter::repeat_n('█', full).chain(std::iter::repeat_n('░', cells - full)).collect();
    format!("{bar}{label:>5}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits() {
        for width in [10_u16, 40, 80, 120, 200, 300] {
            let columns = Column::that_fit(width, Oom);
            assert!(columns.contains(&Name) && (width < 20 || columns.contains(&Oom)));
            let needs: u16 = columns.iter().map(|c| c.width()).sum::<u16>() + columns.len() as u16 - 1;
            assert!(needs <= width.max(Name.width()), "{width}: {columns:?}");
        }
        let eighty = Column::that_fit(80, Cpu);
        for column in [Name, State, Cpu, CpuSpark, Memory, MemoryBar, Pids, Psi] {
            assert!(eighty.contains(&column), "{column:?}");
        }
        assert_eq!(Column::that_fit(300, Image).len(), Column::ALL.len());
    }

    #[test]
    fn bars_keep_their_width() {
        for (used, limit, want) in [
            (0.0, 10.0, "░░░░░   0%"),
            (5.0, 10.0, "███░░  50%"),
            (99.0, 10.0, "█████ 100%"),
            (1.0, 0.0, "░░░░░   0%"),
        ] {
            assert_eq!(bar(used, limit, 10), want);
        }
    }
}
