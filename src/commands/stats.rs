//! `stats`: Docker's table, at once.
//!
//! Docker waits for a second sample before it shows the first line. A first value does not need it: the
//! last `stats` left a reading, and failing that the container's life so far is a reading of its own. The
//! latter is an average, and the plain table says so with a `~` before the number; a template's value is
//! never marked, because scripts read it as a number (`CPUBasis` tells them).

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use bulkhead_engine::container::{self, Container};
use bulkhead_engine::model::{Basis, Collector, Figures, Host, Parts, Rates, last::Last};
use bulkhead_engine::store::Store;
use serde_json::{Value, json};

use super::lifecycle;
use crate::cli::Globals;
use crate::cli::container::StatsArgs;
use crate::failure::Failure;
use crate::output::{self, human, list::Listing};

const LISTING: Listing<'static> = Listing {
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    titles: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("CPUBasis", "CPU BASIS"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    type_name: "*container.statsContext",
};

/// Time between two frames; Docker's.
const FRAME: Duration = Duration::from_secs(1);

/// `bulkhead stats`
pub fn run(globals: &Globals, args: &StatsArgs) -> Result<u8, Failure> {
    let store = lifecycle::store(globals)?;
    let parts = Parts { network: true, brief: true, ..Parts::default() };
    let mut collector = if args.no_stream { Collector::once(parts) } else { Collector::new(parts) };
    let mut before: HashMap<String, Figures> = HashMap::new();
    let terminal = std::io::stdout().is_terminal();
    let mut first = true;
    loop {
        let containers = match chosen(&store, args) {
            // One that was removed while we watched is no mistake of the user's.
            Err(_) if !first => return Ok(0),
            other => other?,
        };
        let figures = collector.read_all(&containers).map_err(Failure::daemon)?;
        let host = Host::totals().map_err(Failure::daemon)?;
        let last = (first && before.is_empty()).then(|| Last::load(store.layout()));
        let rows = figures
            .iter()
            .zip(names(args, &containers))
            .map(|(figures, container)| {
                let known = before.get(&figures.identity.id).cloned();
                let known = known.or_else(|| last.as_ref().and_then(|last| last.before(figures)));
                row(figures, Rates::between(known.as_ref(), figures), &host, container, args)
            })
            .collect();
        let text = LISTING.render(args.format.as_deref(), rows)?;
        if let Some(last) = last {
            last.keep(&figures);
        }
        if args.no_stream {
            return output::raw(text.as_bytes());
        }
        show(&text, terminal, first)?;
        first = false;
        before = figures.into_iter().map(|figures| (figures.identity.id.clone(), figures)).collect();
        std::thread::sleep(FRAME);
    }
}

fn chosen(store: &Store, args: &StatsArgs) -> Result<Vec<Container>, Failure> {
    if args.containers.is_empty() {
        let mut all = container::list(store).map_err(Failure::daemon)?;
        all.retain(|container| args.all || container.state.status.is_alive());
        return Ok(all);
    }
    args.containers.iter().map(|name| container::find(store, name).map_err(Failure::daemon)).collect()
}

/// What the user called each container, which is what `{{.Container}}` prints.
fn names<'n>(args: &'n StatsArgs, containers: &'n [Container]) -> Vec<&'n str> {
    if args.containers.is_empty() {
        containers.iter().map(Container::short_id).collect()
    } else {
        args.containers.iter().map(String::as_str).collect()
    }
}

/// One frame. On a terminal it replaces the one before, line by line, so that nothing flickers.
fn show(text: &str, terminal: bool, first: bool) -> Result<(), Failure> {
    if !terminal {
        return output::raw(text.as_bytes()).map(drop);
    }
    let mut frame = String::with_capacity(text.len() + 64);
    frame.push_str(if first { "\x1b[2J\x1b[H" } else { "\x1b[H" });
    for line in text.lines() {
        frame.push_str(line);
        frame.push_str("\x1b[K\r\n");
    }
    frame.push_str("\x1b[J");
    let mut out = std::io::stdout().lock();
    out.write_all(frame.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))
}

/// Docker's columns. A container that does not run has zeroes, as Docker shows it.
fn row(figures: &Figures, rates: Option<Rates>, host: &Host, container: &str, args: &StatsArgs) -> Value {
    let id = &figures.identity.id;
    let id = if args.no_trunc { id.as_str() } else { &id[..12.min(id.len())] };
    let plain = args.format.as_deref().is_none_or(|format| format.trim().is_empty() || format == "table");
    let stats = figures.stats.as_ref();
    let memory = stats.and_then(|stats| stats.memory.as_ref());
    let cpu = rates.map_or(0.0, |rates| rates.cpu);
    let basis = rates.map_or(Basis::Readings, |rates| rates.basis);
    let mark = if plain && basis == Basis::Start { "~" } else { "" };
    let (usage, percent) = match (stats, memory) {
        (None, _) => ("0B / 0B".to_owned(), "0.00%".to_owned()),
        // No memory controller on this host: not known, rather than nothing.
        (Some(_), None) => ("-- / --".to_owned(), "--".to_owned()),
        (Some(_), Some(memory)) => {
            let (used, limit) = (memory.working_set(), figures.memory_limit(host));
            let percent = if limit == 0 { 0.0 } else { used as f64 * 100.0 / limit as f64 };
            (format!("{} / {}", human::binary(used), human::binary(limit)), format!("{percent:.2}%"))
        }
    };
    let (received, sent) = figures.network.bytes();
    let (read, written) = stats.map_or((0, 0), |stats| {
        stats.io.iter().flatten().fold((0, 0), |(r, w), d| (r + d.read_bytes, w + d.write_bytes))
    });
    let no_io = stats.is_some_and(|stats| stats.io.is_none());
    json!({
        "BlockIO": if no_io { "-- / --".to_owned() } else { format!("{} / {}", human::size(read), human::size(written)) },
        "CPUBasis": match basis { Basis::Readings => "sample", Basis::Start => "start" },
        "CPUPerc": format!("{mark}{cpu:.2}%"),
        "Container": container,
        "ID": id,
        "MemPerc": percent,
        "MemUsage": usage,
        "Name": figures.identity.name,
        "NetIO": format!("{} / {}", human::size(received), human::size(sent)),
        "PIDs": stats.map_or(0, |stats| stats.pids.current).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_engine::cgroup::stats::{Breakdown, Memory, Stats};
    use bulkhead_engine::model::HostMemory;

    fn args(format: Option<&str>) -> StatsArgs {
        StatsArgs {
            all: false,
            format: format.map(Into::into),
            no_stream: true,
            no_trunc: false,
            containers: Vec::new(),
        }
    }

    fn figures() -> Figures {
        let memory = Memory {
            usage: 3 << 20,
            limit: Some(64 << 20),
            breakdown: Breakdown { inactive_file: 1 << 20, ..Breakdown::default() },
            ..Memory::default()
        };
        let mut figures = Figures {
            stats: Some(Stats { memory: Some(memory), io: Some(Vec::new()), ..Stats::default() }),
            ..Figures::default()
        };
        figures.identity.id = "ab".repeat(32);
        figures.identity.name = "web".into();
        figures
    }

    #[test]
    fn docker_s_table() {
        let host = Host { memory: HostMemory { total: 1 << 30, ..HostMemory::default() }, ..Host::default() };
        let rates = Rates { cpu: 12.345, basis: Basis::Start, ..Rates::default() };
        let rows = vec![row(&figures(), Some(rates), &host, "web", &args(None))];
        let table = LISTING.render(None, rows).unwrap();
        let words: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            words,
            [
                "abababababab",
                "web",
                "~12.35%",
                "2MiB",
                "/",
                "64MiB",
                "3.12%",
                "0B",
                "/",
                "0B",
                "0B",
                "/",
                "0B",
                "0"
            ]
        );
        assert_eq!(
            table
                .lines()
                .next()
                .unwrap()
                .split("   ")
                .map(str::trim)
                .filter(|t| !t.is_empty())
                .collect::<Vec<_>>(),
            ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"]
        );
    }

    #[test]
    fn templates_are_never_marked_and_a_stopped_container_uses_nothing() {
        let rates = Rates { cpu: 1.0, basis: Basis::Start, ..Rates::default() };
        let format = "{{.CPUPerc}} {{.CPUBasis}} {{.Container}}";
        let rows = vec![row(&figures(), Some(rates), &Host::default(), "w", &args(Some(format)))];
        assert_eq!(LISTING.render(Some(format), rows).unwrap(), "1.00% start w\n");
        let stopped = Figures { stats: None, ..figures() };
        let value = row(&stopped, None, &Host::default(), "w", &args(None));
        assert_eq!(
            (&value["CPUPerc"], &value["MemUsage"], &value["PIDs"]),
            (&json!("0.00%"), &json!("0B / 0B"), &json!("0"))
        );
    }

    #[test]
    fn a_missing_controller_is_not_a_zero() {
        let mut figures = figures();
        figures.stats = Some(Stats::default());
        let value = row(&figures, None, &Host::default(), "w", &args(None));
        assert_eq!((&value["MemUsage"], &value["BlockIO"]), (&json!("-- / --"), &json!("-- / --")));
    }
}
