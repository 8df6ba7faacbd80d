//! The two text formats.
//!
//! They differ in little: OpenMetrics calls a counter's family by its name without `_total`, has a type
//! `unknown` where the older format says `untyped`, and ends with `# EOF`. A counter of cAdvisor's whose
//! name lacks `_total` (`container_memory_failcnt`) cannot be a counter in OpenMetrics without another
//! name; it keeps its name and gives up its type, in both formats, because a name is what dashboards know.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::LazyLock;

use bulkhead_engine::host::{share_out, threads_for};
use bulkhead_engine::model::Figures;

use crate::families::{FAMILIES, Family, Kind};
use crate::labels::{self, Allowed};
use crate::negotiate::Format;
use crate::{BUCKETS, Histogram, Snapshot, Traced};

/// A container with its labels rendered.
#[derive(Debug)]
pub(crate) struct Subject<'s> {
    pub figures: &'s Figures,
    pub traced: Option<&'s Traced>,
    labels: String,
    /// Only its counters are told, for the last time.
    ended: bool,
}

/// A sample's value.
pub(crate) trait Value {
    fn append(self, out: &mut String);
}

impl Value for u64 {
    fn append(self, out: &mut String) {
        // Nearly every sample is one of these, and the formatting machinery takes as long as the rest of its line.
        out.push_str(itoa::Buffer::new().format(self));
    }
}

impl Value for f64 {
    fn append(self, out: &mut String) {
        // Infallible: the writer is a String.
        let _ = write!(out, "{self}");
    }
}

/// Nanoseconds, told in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ns(pub u64);

impl Value for Ns {
    fn append(self, out: &mut String) {
        append_fraction::<9>(self.0, out);
    }
}

/// Microseconds, told in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Us(pub u64);

impl Value for Us {
    fn append(self, out: &mut String) {
        append_fraction::<6>(self.0, out);
    }
}

/// `value` by ten to the power of `DIGITS`: exact, where a float of so many seconds might not be.
fn append_fraction<const DIGITS: u32>(value: u64, out: &mut String) {
    let unit = 10_u64.pow(DIGITS);
    (value / unit).append(out);
    let rest = value % unit;
    if rest == 0 {
        return;
    }
    // A one in front keeps the zeros behind the point.
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(unit + rest);
    out.push('.');
    out.push_str(digits[1..].trim_end_matches('0'));
}

/// Upper bounds of a histogram's slots as its labels tell them: slot i ends at 2^i microseconds.
static BOUNDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let bound = |slot| {
        let mut text = String::new();
        Us(1_u64 << slot).append(&mut text);
        text
    };
    (0..BUCKETS - 1).map(bound).collect()
});

/// Where a family's samples go. The family's head is written with its first sample, so that a family
/// nobody has samples for is not mentioned.
#[derive(Debug)]
pub(crate) struct Samples<'w> {
    out: &'w mut String,
    format: Format,
    family: &'static Family,
    labels: &'w str,
    begun: bool,
}

impl Samples<'_> {
    /// A sample with no labels but the subject's.
    pub fn put(&mut self, value: impl Value) {
        self.with(&[], value);
    }

    /// A sample, if there is one.
    pub fn maybe(&mut self, value: Option<impl Value>) {
        if let Some(value) = value {
            self.put(value);
        }
    }

    /// A sample with labels of its own.
    pub fn with(&mut self, extra: &[(&str, &str)], value: impl Value) {
        self.head();
        self.name("");
        self.open(extra);
        self.close(value);
    }

    /// A histogram.
    pub fn histogram(&mut self, histogram: &Histogram) {
        self.head();
        let mut below = 0;
        for (slot, bound) in histogram.slots.iter().zip(&*BOUNDS) {
            below += slot;
            self.name("_bucket");
            self.open(&[("le", bound)]);
            self.close(below);
        }
        let count: u64 = histogram.slots.iter().sum();
        self.name("_bucket");
        self.open(&[("le", "+Inf")]);
        self.close(count);
        self.name("_sum");
        self.open(&[]);
        self.close(Ns(histogram.sum_ns));
        self.name("_count");
        self.open(&[]);
        self.close(count);
    }

    fn name(&mut self, suffix: &str) {
        self.out.push_str(self.family.name);
        self.out.push_str(suffix);
    }

    fn open(&mut self, extra: &[(&str, &str)]) {
        if self.labels.is_empty() && extra.is_empty() {
            return;
        }
        self.out.push('{');
        self.out.push_str(self.labels);
        for (n, (name, value)) in extra.iter().enumerate() {
            if n > 0 || !self.labels.is_empty() {
                self.out.push(',');
            }
            self.out.push_str(name);
            self.out.push_str("=\"");
            labels::escape(value, self.out);
            self.out.push('"');
        }
        self.out.push('}');
    }

    fn close(&mut self, value: impl Value) {
        self.out.push(' ');
        value.append(self.out);
        self.out.push('\n');
    }

    fn head(&mut self) {
        if self.begun {
            return;
        }
        self.begun = true;
        let Family { name, help, kind, .. } = self.family;
        let (name, kind) = match (self.format, kind) {
            (_, Kind::Gauge | Kind::LastGauge) => (*name, "gauge"),
            (_, Kind::Histogram) => (*name, "histogram"),
            (Format::Text, Kind::Counter) => (*name, "counter"),
            (Format::OpenMetrics, Kind::Counter) => (name.strip_suffix("_total").unwrap_or(name), "counter"),
            (Format::Text, Kind::UntypedCounter | Kind::UntypedGauge) => (*name, "untyped"),
            (Format::OpenMetrics, Kind::UntypedCounter | Kind::UntypedGauge) => (*name, "unknown"),
        };
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }
}

/// Containers for which a thread is worth its start.
const SHARE: usize = 32;
/// Threads that render at once.
const THREADS: usize = 4;
/// Samples of a piece, some 350 kB: few enough that no processor waits long for another's last piece, and that a
/// piece is compressed while it is still in the cache; so many that compressing it by itself loses nothing.
const PIECE: usize = 2048;

/// A part of an answer: families of all containers, or one large family of some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    families: Range<usize>,
    subjects: Range<usize>,
    samples: usize,
}

/// Every family of so many containers, in order.
fn pieces(subjects: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut begun = Piece { families: 0..0, subjects: 0..subjects, samples: 0 };
    for (n, family) in FAMILIES.iter().enumerate() {
        let each = match family.kind {
            // The buckets, sum and count.
            Kind::Histogram => BUCKETS + 2,
            _ => 1,
        };
        let samples = if family.container.is_some() { each * subjects } else { each };
        if samples < 2 * PIECE {
            begun.families.end = n + 1;
            begun.samples += samples;
            if begun.samples >= PIECE {
                pieces.push(begun);
                begun = Piece { families: n + 1..n + 1, subjects: 0..subjects, samples: 0 };
            }
            continue;
        }
        if !begun.families.is_empty() {
            pieces.push(begun);
        }
        let share = subjects.div_ceil(samples / PIECE);
        pieces.extend((0..subjects).step_by(share).map(|first| {
            let subjects = first..subjects.min(first + share);
            Piece { families: n..n + 1, samples: each * subjects.len(), subjects }
        }));
        begun = Piece { families: n + 1..n + 1, subjects: 0..subjects, samples: 0 };
    }
    if !begun.families.is_empty() {
        pieces.push(begun);
    }
    pieces
}

thread_local! {
    /// What a thread renders into: whoever makes something else of a piece leaves it for the next.
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Renders a snapshot, and of the containers in `ended` the counters, into pieces that follow each other. Each is
/// finished (compressed, say, or taken as it is) by the thread that made it; they are never put together, since
/// megabytes that are copied once more cost as much as rendering them, most of it for pages that the kernel must
/// find first.
pub fn write<T: Send>(
    snapshot: &Snapshot,
    ended: &[&Figures],
    allowed: &Allowed,
    format: Format,
    finish: impl Fn(&mut String) -> T + Sync,
) -> Vec<T> {
    let alive = snapshot.containers.iter().filter(|figures| figures.stats.is_some()).map(|f| (f, false));
    let ended = ended.iter().map(|figures| (*figures, true));
    let subjects: Vec<Subject<'_>> = alive
        .chain(ended)
        .map(|(figures, ended)| Subject {
            figures,
            traced: figures.identity.cgroup_id.and_then(|id| snapshot.traced.get(&id)),
            labels: labels_of(figures, allowed),
            ended,
        })
        .collect();
    let longest = subjects.iter().map(|subject| subject.labels.len()).max().unwrap_or_default();
    let pieces = pieces(subjects.len());
    let mut done: Vec<Option<T>> = Vec::new();
    done.resize_with(pieces.len(), || None);
    let last = pieces.last().cloned();
    let threads = threads_for(subjects.len(), SHARE, THREADS);
    share_out(threads, pieces.iter().zip(&mut done), |(piece, done)| {
        TEXT.with_borrow_mut(|out| {
            // A line has a name, labels of its own and a value beside the container's labels. What is not used of
            // the room has no memory behind it.
            out.clear();
            out.reserve(piece.samples * (longest + 96) + 4096);
            for family in &FAMILIES[piece.families.clone()] {
                render(family, snapshot, &subjects, piece.subjects.clone(), format, out);
            }
            if format == Format::OpenMetrics && last.as_ref() == Some(piece) {
                out.push_str("# EOF\n");
            }
            *done = Some(finish(out));
        });
    });
    done.into_iter().flatten().collect()
}

/// Of one family the samples of some containers; the first of them come with the host's samples and the family's
/// head.
fn render(
    family: &'static Family,
    snapshot: &Snapshot,
    subjects: &[Subject<'_>],
    some: Range<usize>,
    format: Format,
    out: &mut String,
) {
    let first = some.start == 0;
    let rest = &subjects[some.end..];
    let mut samples = Samples { out, format, family, labels: "", begun: !first };
    if let Some(host) = family.host
        && first
    {
        host(snapshot, &mut samples);
    }
    let Some(container) = family.container else { return };
    let told = |subject: &&Subject<'_>| !subject.ended || family.kind.accumulates();
    for subject in subjects[some].iter().filter(told) {
        samples.labels = &subject.labels;
        container(subject, &mut samples);
    }
    // Whoever renders the others cannot know that they have the family's first sample.
    if !samples.begun {
        let mut unseen = String::new();
        let mut probe = Samples { out: &mut unseen, format, family, labels: "", begun: false };
        let has_any = rest.iter().filter(told).any(|subject| {
            container(subject, &mut probe);
            probe.begun
        });
        if has_any {
            samples.head();
        }
    }
}

/// cAdvisor's identity: the cgroup, the name, the image, and the labels that are taken.
fn labels_of(figures: &Figures, allowed: &Allowed) -> String {
    let mut out = String::with_capacity(256);
    labels::append("id", &figures.identity.cgroup, &mut out);
    labels::append("name", &figures.identity.name, &mut out);
    labels::append("image", &figures.identity.image, &mut out);
    allowed.append(&figures.identity.labels, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{CEILING, DEVICES, INTERFACES};
    use bulkhead_engine::cgroup::{Ceiling, Limits, Pressure, Stall, stats};
    use bulkhead_engine::model::{Filesystem, Interface, Network, Tasks};
    use std::collections::HashMap;

    /// A container of which everything is known.
    fn full(interfaces: usize, devices: u32) -> (Figures, Traced) {
        let pressure =
            Pressure { some: Stall { total: 1_500_000, ..Stall::default() }, full: Some(Stall::default()) };
        let histogram = Histogram { sum_ns: 3_000, slots: (0..32).map(|_| 1).collect() };
        let mut figures = Figures {
            taken: 1234.9,
            stats: Some(stats::Stats {
                cpu: stats::Cpu {
                    usage: 1_500_000_000,
                    throttling: Some(stats::Throttling::default()),
                    ..stats::Cpu::default()
                },
                memory: Some(stats::Memory {
                    usage: 4096,
                    peak: Some(1),
                    swap: Some(1),
                    failcnt: Some(7),
                    oom_kills: Some(1),
                    high_events: Some(1),
                    breakdown: stats::Breakdown {
                        kernel: Some(1),
                        sock: Some(1),
                        ..stats::Breakdown::default()
                    },
                    ..stats::Memory::default()
                }),
                io: Some(
                    (0..devices)
                        .map(|n| stats::Device { major: 4000, minor: n, ..stats::Device::default() })
                        .collect(),
                ),
                cpu_pressure: Some(pressure),
                memory_pressure: Some(pressure),
                io_pressure: Some(pressure),
                ..stats::Stats::default()
            }),
            network: Network::Own(
                (0..interfaces)
                    .map(|n| Interface { name: format!("eth{n}"), ..Interface::default() })
                    .collect(),
            ),
            tasks: Some(Tasks::default()),
            limits: Some(Limits {
                memory: Some(Ceiling::At(1 << 20)),
                memory_swap: Some(Ceiling::Unlimited),
                memory_high: Some(Ceiling::Unlimited),
                memory_reservation: Some(Ceiling::At(0)),
                cpu_quota: Some(Ceiling::At(50_000)),
                cpu_period: Some(100_000),
                cpu_weight: Some(100),
                ..Limits::default()
            }),
            filesystem: Some(Filesystem::default()),
            ..Figures::default()
        };
        figures.life.started = Some(1000.5);
        figures.identity.cgroup = "/bulkhead/ab".into();
        figures.identity.cgroup_id = Some(42);
        figures.identity.name = "we\"b\\\n\u{e9}".into();
        figures.identity.image = "busybox".into();
        let traced =
            Traced { run_queue: Some(histogram.clone()), block_io: Some(histogram), ..Traced::default() };
        (figures, traced)
    }

    fn render(interfaces: usize, devices: u32, format: Format) -> String {
        let (figures, traced) = full(interfaces, devices);
        let snapshot = Snapshot {
            containers: vec![figures],
            traced: HashMap::from([(42, traced)]),
            ..Snapshot::default()
        };
        text(&snapshot, format)
    }

    fn text(snapshot: &Snapshot, format: Format) -> String {
        write(snapshot, &[], &Allowed::default(), format, std::mem::take).concat()
    }

    #[test]
    fn numbers_are_told_exactly_and_without_zeros_behind() {
        let of = |value: u64| {
            let (mut ns, mut us) = (String::new(), String::new());
            Ns(value).append(&mut ns);
            Us(value).append(&mut us);
            (ns, us)
        };
        for (value, ns, us) in [
            (0, "0", "0"),
            (1, "0.000000001", "0.000001"),
            (1_500_000_000, "1.5", "1500"),
            (1_000_000, "0.001", "1"),
            (10_000_000_020, "10.00000002", "10000.00002"),
            (u64::MAX, "18446744073.709551615", "18446744073709.551615"),
        ] {
            assert_eq!(of(value), (ns.to_owned(), us.to_owned()));
        }
    }

    #[test]
    fn pieces_are_every_family_of_every_container_once_and_in_order() {
        for subjects in [0, 1, 63, 100, 293, 1000, 5000, 20_000] {
            let pieces = pieces(subjects);
            let mut next = (0, 0);
            for piece in &pieces {
                assert_eq!((piece.families.start, piece.subjects.start), next, "{subjects}");
                assert!(piece.samples <= 3 * PIECE, "{piece:?}");
                next = if piece.subjects.end == subjects {
                    (piece.families.end, 0)
                } else {
                    assert_eq!(piece.families.len(), 1);
                    (piece.families.start, piece.subjects.end)
                };
            }
            assert_eq!(next, (FAMILIES.len(), 0));
        }
        assert!(pieces(1000).len() > 8);
    }

    #[test]
    fn a_head_stands_before_the_first_sample_wherever_that_is() {
        let (figures, traced) = full(1, 1);
        let of = |known: &[u64]| {
            // So many that a histogram is in pieces.
            let containers = (0..1000).map(|n| {
                let mut figures = figures.clone();
                figures.identity.cgroup = format!("/bulkhead/{n}");
                figures.identity.cgroup_id = Some(n);
                figures
            });
            let snapshot = Snapshot {
                containers: containers.collect(),
                traced: known.iter().map(|id| (*id, traced.clone())).collect(),
                ..Snapshot::default()
            };
            text(&snapshot, Format::Text)
        };
        let name = "bulkhead_container_blkio_latency_seconds";
        for known in [&[0][..], &[999], &[500, 700]] {
            let text = of(known);
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(name)).collect();
            assert!(lines[0].starts_with("# HELP") && lines[1].starts_with("# TYPE"), "{:?}", &lines[..3]);
            assert_eq!(lines.len(), 2 + known.len() * (BUCKETS + 2));
            assert!(lines[2..].iter().all(|line| !line.starts_with('#')));
        }
        assert!(!of(&[]).contains(name));
    }

    #[test]
    fn samples_names_labels_and_values() {
        let text = render(1, 1, Format::Text);
        let of = "id=\"/bulkhead/ab\",name=\"we\\\"b\\\\\\n\u{e9}\",image=\"busybox\"";
        for line in [
            format!("container_cpu_usage_seconds_total{{{of},cpu=\"total\"}} 1.5"),
            format!("container_memory_usage_bytes{{{of}}} 4096"),
            format!("container_memory_failcnt{{{of}}} 7"),
            format!("container_pressure_io_waiting_seconds_total{{{of}}} 1.5"),
            format!("container_last_seen{{{of}}} 1234"),
            format!("container_start_time_seconds{{{of}}} 1000.5"),
            format!("container_health_state{{{of}}} -1"),
            format!("container_spec_memory_limit_bytes{{{of}}} 1048576"),
            format!("container_spec_memory_swap_limit_bytes{{{of}}} 0"),
            format!("container_network_receive_bytes_total{{{of},interface=\"eth0\"}} 0"),
            format!("bulkhead_container_runqueue_latency_seconds_bucket{{{of},le=\"0.000001\"}} 1"),
            format!("bulkhead_container_runqueue_latency_seconds_bucket{{{of},le=\"0.001024\"}} 11"),
            format!("bulkhead_container_runqueue_latency_seconds_bucket{{{of},le=\"+Inf\"}} 32"),
            format!("bulkhead_container_runqueue_latency_seconds_sum{{{of}}} 0.000003"),
            format!("bulkhead_container_runqueue_latency_seconds_count{{{of}}} 32"),
            "# TYPE container_memory_failcnt untyped".to_owned(),
            "# TYPE container_cpu_usage_seconds_total counter".to_owned(),
            "machine_cpu_cores 0".to_owned(),
        ] {
            assert!(text.lines().any(|have| have == line), "missing {line}\n{text}");
        }
    }

    #[test]
    fn every_family_has_its_head_once_and_before_its_samples() {
        for format in [Format::Text, Format::OpenMetrics] {
            let text = render(2, 2, format);
            let mut family = "";
            for line in text.lines() {
                if let Some(rest) = line.strip_prefix("# TYPE ") {
                    let name = rest.split(' ').next().unwrap();
                    assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1);
                    assert_eq!(text.matches(&format!("# HELP {name} ")).count(), 1);
                    family = name;
                } else if !line.starts_with('#') {
                    assert!(line.starts_with(family), "{line} under {family}");
                }
            }
        }
        let text = render(1, 1, Format::OpenMetrics);
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("# TYPE container_cpu_usage_seconds counter\n"));
        assert!(text.contains("# TYPE container_memory_failcnt unknown\n"));
    }

    #[test]
    fn many_are_told_as_few_are() {
        let (figures, traced) = full(1, 1);
        let of = |count: u64| {
            let containers = (0..count).map(|n| {
                let mut figures = figures.clone();
                figures.identity.cgroup = format!("/bulkhead/{n}");
                figures
            });
            let snapshot = Snapshot {
                containers: containers.collect(),
                traced: HashMap::from([(42, traced.clone())]),
                ..Snapshot::default()
            };
            text(&snapshot, Format::OpenMetrics)
        };
        let (one, many) = (of(1), of(64 * 5));
        let heads = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(heads(&one), heads(&many), "the same families in the same order, each once");
        let last = many.lines().filter(|line| line.contains("\"/bulkhead/319\"")).count();
        assert_eq!(last, one.lines().filter(|line| line.contains("\"/bulkhead/0\"")).count());
    }

    #[test]
    fn a_container_never_has_more_series_than_documented() {
        let count = |interfaces, devices| {
            render(interfaces, devices, Format::Text).lines().filter(|l| l.contains("/bulkhead/ab")).count()
        };
        let most = count(INTERFACES + 1, DEVICES as u32 + 1);
        assert!(most <= CEILING, "{most}");
        assert_eq!(count(500, 500), most, "a surplus is summed");
    }
}
