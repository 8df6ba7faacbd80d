//! The pressure policy: a noisy container must not take the host down with it.
//!
//! The kernel acts when memory is gone, and then by its own lights. A [`Policy`] acts before: a detector
//! says that something runs short, a ranking says who is to pay, an action makes him. [`Enforcer::decide`]
//! is a function of figures and time and nothing else, so that what would happen can be tested and, in a
//! dry run, be read; [`act`] does it. Who is protected is left out before anybody is ranked: no rule, order
//! or tie can bring him back.

pub mod act;
pub mod config;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::cgroup::{Pressure, oom};
use crate::model::{Figures, Host};

/// Percent, above 0 and at most 100.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fraction(pub f64);

impl Fraction {
    /// That share of `whole`.
    pub fn of(self, whole: u64) -> u64 {
        (whole as f64 * self.0 / 100.0) as u64
    }
}

/// A threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Of a whole that depends on what is measured.
    Percent(Fraction),
    /// Bytes.
    Bytes(u64),
}

impl Amount {
    fn of(self, whole: u64) -> u64 {
        match self {
            Self::Percent(percent) => percent.of(whole),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// What work can stand still for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names of the pressure files")]
pub enum Resource {
    Cpu,
    Memory,
    Io,
}

impl Resource {
    /// As in the file's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

/// The kernel's averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// 10 s.
    Ten,
    /// 60 s.
    Sixty,
    /// 300 s.
    ThreeHundred,
}

/// Whose figures a detector looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The host's: when they are bad, every container that is not protected is a candidate.
    Host,
    /// Each container's: those whose figures are bad are candidates.
    Container,
}

impl Scope {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Container => "container",
        }
    }
}

/// What says that something runs short.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Detector {
    /// Some task stood still for more than this percentage of the time.
    PsiSome {
        /// For want of what.
        resource: Resource,
        /// Averaged over.
        window: Window,
        /// Percent.
        percent: f64,
    },
    /// Every task did.
    PsiFull {
        /// For want of what.
        resource: Resource,
        /// Averaged over.
        window: Window,
        /// Percent.
        percent: f64,
    },
    /// A container uses more than this (percent: of its limit); the host uses more than this (of its
    /// memory).
    MemoryAbove(Amount),
    /// Less swap than this is free (percent: of all swap).
    SwapFreeBelow(Amount),
    /// A container's memory grew by this many bytes within the window.
    Growth {
        /// By how much.
        bytes: u64,
        /// In how long.
        window: Duration,
    },
}

impl Detector {
    /// As in the policy's file.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PsiSome { .. } => "psi-some",
            Self::PsiFull { .. } => "psi-full",
            Self::MemoryAbove(_) => "memory-above",
            Self::SwapFreeBelow(_) => "swap-free-below",
            Self::Growth { .. } => "growth",
        }
    }
}

/// What is done to the container that was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// `memory.high` is set to this share of what it uses: the kernel slows it down and reclaims.
    Throttle {
        /// Percent of the usage.
        to: Fraction,
        /// Lifted when the rule has not tripped for so long.
        release: Option<Duration>,
    },
    /// So much is taken back from it by `memory.reclaim`.
    Reclaim {
        /// Bytes.
        bytes: u64,
    },
    /// It is paused, as by `bulkhead pause`.
    Freeze {
        /// Thawed when the rule has not tripped for so long.
        release: Option<Duration>,
    },
    /// All of its processes are killed at once.
    Kill,
}

impl Action {
    /// As in the policy's file.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Throttle { .. } => "throttle",
            Self::Reclaim { .. } => "reclaim",
            Self::Freeze { .. } => "freeze",
            Self::Kill => "kill",
        }
    }

    const fn release(&self) -> Option<Duration> {
        match self {
            Self::Throttle { release, .. } | Self::Freeze { release } => *release,
            Self::Reclaim { .. } | Self::Kill => None,
        }
    }
}

/// Who among the candidates pays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rank {
    /// Whom the kernel would prefer to kill: the highest oom_score_adj, which is the lowest
    /// `--oom-priority`.
    #[default]
    Priority,
    /// Whose memory grew most in the last ten seconds.
    Growth,
    /// Who uses most beyond his reservation.
    UsageOverReservation,
}

/// Whom no rule may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The container of this name.
    Name(String),
    /// Containers whose name begins so.
    Prefix(String),
    /// Containers with this label, whatever its value.
    Label(String),
    /// Containers with this label and value.
    LabelValue(String, String),
}

impl Guard {
    /// `NAME`, `PREFIX*`, `label=KEY`, `label=KEY=VALUE`.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("label=") {
            Some(label) => match label.split_once('=') {
                Some((key, value)) => Self::LabelValue(key.into(), value.into()),
                None => Self::Label(label.into()),
            },
            None => match text.strip_suffix('*') {
                Some(prefix) => Self::Prefix(prefix.into()),
                None => Self::Name(text.into()),
            },
        }
    }

    /// Whether it covers this container.
    pub fn covers(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Name(wanted) => name == wanted,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Self::Label(key) => labels.contains_key(key),
            Self::LabelValue(key, value) => labels.get(key) == Some(value),
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// One word, for the log.
    pub name: String,
    /// What trips it.
    pub detector: Detector,
    /// Whose figures.
    pub scope: Scope,
    /// For how long it must be so.
    pub hold: Duration,
    /// What is done.
    pub action: Action,
    /// To whom.
    pub rank: Rank,
    /// How long the rule rests after it has acted.
    pub cool_down: Duration,
    /// It only reports.
    pub dry_run: bool,
}

/// A whole policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Between two looks.
    pub interval: Duration,
    /// Nothing is done, by any rule.
    pub dry_run: bool,
    /// Whom no rule may touch.
    pub protect: Vec<Guard>,
    /// In order: what one rule has chosen, a later one leaves alone in the same look.
    pub rules: Vec<Rule>,
}

/// What a decision is about one container.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// Full id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Bytes in use, without page cache that nobody uses; `None` without a memory controller.
    pub memory: Option<u64>,
    /// Its limit, the host's memory where there is none.
    pub limit: u64,
    /// Bytes reserved for it.
    pub reservation: u64,
    /// oom_score_adj of its process 1.
    pub score: i64,
    /// CPU, memory and I/O pressure.
    pub pressure: [Option<Pressure>; 3],
}

impl Subject {
    /// Of a container that runs; `None` for one that does not, which nobody need stop.
    pub fn of(figures: &Figures, host: &Host) -> Option<Self> {
        let stats = figures.stats.as_ref()?;
        if figures.life.status != crate::container::Status::Running {
            return None;
        }
        // What the kernel goes by; when the process has just gone, what it would have been given.
        let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", figures.life.pid))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or_else(|| oom::score_of(0, &figures.asked));
        Some(Self {
            id: figures.identity.id.clone(),
            name: figures.identity.name.clone(),
            labels: figures.identity.labels.clone(),
            memory: stats.memory.as_ref().map(crate::cgroup::stats::Memory::working_set),
            limit: figures.memory_limit(host),
            reservation: u64::try_from(figures.asked.memory_reservation).unwrap_or(0),
            score,
            pressure: [stats.cpu_pressure, stats.memory_pressure, stats.io_pressure],
        })
    }
}

/// Why nothing is done although a rule says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restraint {
    /// The policy says to report only.
    DryRun,
    /// This host cannot do it; said at the start.
    Unsupported,
}

/// What is to be done, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The rule.
    pub rule: String,
    /// Its detector.
    pub detector: &'static str,
    /// What was measured.
    pub measured: Measured,
    /// What is done.
    pub action: Action,
    /// The container's id and name; `None` when every candidate is protected.
    pub victim: Option<(String, String)>,
    /// Bytes it uses, for the actions that go by that.
    pub memory: Option<u64>,
    /// It is only reported.
    pub restraint: Option<Restraint>,
}

/// A figure beside its threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measured {
    /// Percent of the time.
    Percent(f64, f64),
    /// Bytes.
    Bytes(u64, u64),
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(value, threshold) => write!(f, "value={value:.2}% threshold={threshold}%"),
            Self::Bytes(value, threshold) => write!(f, "value={value}B threshold={threshold}B"),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule={} detector={} {}", self.rule, self.detector, self.measured)?;
        write!(f, " action={}", self.action.name())?;
        match &self.victim {
            Some((id, name)) => write!(f, " container={name} id={}", &id[..12.min(id.len())]),
            None => f.write_str(" container=none (every candidate is protected)"),
        }
    }
}

/// What was done and is to be undone.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// The rule that did it.
    pub rule: String,
    /// What it did.
    pub action: Action,
    /// To whom: id and name.
    pub victim: (String, String),
}

#[derive(Debug, Default)]
struct RuleState {
    /// Nanoseconds until which it rests.
    rests: u64,
    /// Since when it has been tripped, by container; the empty name is the host.
    since: HashMap<String, u64>,
    /// When it was last tripped.
    last: u64,
    done: Vec<(String, String)>,
}

/// How long memory is remembered for [`Rank::Growth`] where no detector asks for more.
const RANKED_GROWTH: Duration = Duration::from_secs(10);

/// A policy and what it must remember.
#[derive(Debug)]
pub struct Enforcer {
    policy: Policy,
    states: Vec<RuleState>,
    /// Rules whose action this host does not have.
    unsupported: HashSet<String>,
    history: HashMap<String, VecDeque<(u64, u64)>>,
}

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

impl Enforcer {
    /// A policy that has decided nothing yet. Rules named in `unsupported` only report.
    pub fn new(policy: Policy, unsupported: HashSet<String>) -> Self {
        let states = policy.rules.iter().map(|_| RuleState::default()).collect();
        Self { policy, states, unsupported, history: HashMap::new() }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// One look. `clock` is nanoseconds that never go back.
    pub fn decide(&mut self, host: &Host, subjects: &[Subject], clock: u64) -> Vec<Decision> {
        self.remember(subjects, clock);
        let mut taken: HashSet<String> = HashSet::new();
        let mut decisions = Vec::new();
        for (rule, state) in self.policy.rules.iter().zip(&mut self.states) {
            let mut tripped: Vec<(&Subject, Measured)> = Vec::new();
            let mut since = HashMap::new();
            let held = |since: &mut HashMap<String, u64>, state: &RuleState, key: &str| {
                let first = state.since.get(key).copied().unwrap_or(clock);
                since.insert(key.to_owned(), first);
                clock.saturating_sub(first) >= ns(rule.hold)
            };
            let mut any = false;
            match rule.scope {
                Scope::Host => {
                    if let Some(measured) = host_trips(&rule.detector, host) {
                        any = true;
                        if held(&mut since, state, "") {
                            tripped.extend(subjects.iter().map(|subject| (subject, measured)));
                        }
                    }
                }
                Scope::Container => {
                    for subject in subjects {
                        let growth = |window| growth(self.history.get(&subject.id), clock, window);
                        if let Some(measured) = container_trips(&rule.detector, subject, growth) {
                            any = true;
                            if held(&mut since, state, &subject.id) {
                                tripped.push((subject, measured));
                            }
                        }
                    }
                }
            }
            state.since = since;
            if any {
                state.last = clock;
            }
            if tripped.is_empty() || clock < state.rests {
                continue;
            }
            let grown = |subject: &Subject| growth(self.history.get(&subject.id), clock, RANKED_GROWTH);
            let weight = |subject: &Subject| -> (i64, u64) {
                let memory = subject.memory.unwrap_or(0);
                match rule.rank {
                    Rank::Priority => (subject.score, memory),
                    Rank::Growth => (grown(subject) as i64, memory),
                    Rank::UsageOverReservation => (memory as i64 - subject.reservation as i64, memory),
                }
            };
            let protected = |subject: &Subject| {
                self.policy.protect.iter().any(|g| g.covers(&subject.name, &subject.labels))
            };
            let measured = tripped[0].1;
            let open = tripped.iter().filter(|(subject, _)| !protected(subject));
            let chosen = open
                .clone()
                .filter(|(subject, _)| !taken.contains(&subject.id))
                // The id last: two looks at the same figures choose the same one.
                .max_by(|(a, _), (b, _)| (weight(a), &b.id).cmp(&(weight(b), &a.id)));
            if chosen.is_none() && open.count() > 0 {
                // An earlier rule has dealt with the only candidates.
                continue;
            }
            state.rests = clock + ns(rule.cool_down);
            let restraint = if rule.dry_run {
                Some(Restraint::DryRun)
            } else if self.unsupported.contains(&rule.name) {
                Some(Restraint::Unsupported)
            } else {
                None
            };
            let victim = chosen.map(|(subject, _)| (subject.id.clone(), subject.name.clone()));
            if let Some((id, name)) = &victim {
                taken.insert(id.clone());
                let undone = rule.action.release().is_some() && restraint.is_none();
                if undone && !state.done.iter().any(|(done, _)| done == id) {
                    state.done.push((id.clone(), name.clone()));
                }
            }
            decisions.push(Decision {
                rule: rule.name.clone(),
                detector: rule.detector.name(),
                measured: chosen.map_or(measured, |(_, measured)| *measured),
                action: rule.action,
                victim,
                memory: chosen.and_then(|(subject, _)| subject.memory),
                restraint,
            });
        }
        decisions
    }

    /// What the calm of the last looks allows to undo; told once each.
    pub fn releases(&mut self, clock: u64) -> Vec<Release> {
        let mut due = Vec::new();
        for (rule, state) in self.policy.rules.iter().zip(&mut self.states) {
            let Some(release) = rule.action.release() else { continue };
            if clock.saturating_sub(state.last) >= ns(release) {
                due.extend(state.done.drain(..).map(|victim| Release {
                    rule: rule.name.clone(),
                    action: rule.action,
                    victim,
                }));
            }
        }
        due
    }

    fn remember(&mut self, subjects: &[Subject], clock: u64) {
        let longest = self
            .policy
            .rules
            .iter()
            .filter_map(|rule| match rule.detector {
                Detector::Growth { window, .. } => Some(window),
                _ => None,
            })
            .fold(RANKED_GROWTH, Duration::max);
        let alive: HashSet<&str> = subjects.iter().map(|subject| subject.id.as_str()).collect();
        self.history.retain(|id, _| alive.contains(id.as_str()));
        for subject in subjects {
            let Some(memory) = subject.memory else { continue };
            let samples = self.history.entry(subject.id.clone()).or_default();
            samples.push_back((clock, memory));
            while samples.front().is_some_and(|(at, _)| clock.saturating_sub(*at) > ns(longest)) {
                samples.pop_front();
            }
        }
    }
}

/// Bytes by which the newest sample exceeds the oldest one within the window.
fn growth(samples: Option<&VecDeque<(u64, u64)>>, clock: u64, window: Duration) -> u64 {
    let Some(samples) = samples else { return 0 };
    let oldest = samples.iter().find(|(at, _)| clock.saturating_sub(*at) <= ns(window));
    match (oldest, samples.back()) {
        (Some((_, old)), Some((_, new))) => new.saturating_sub(*old),
        _ => 0,
    }
}

fn stalled(pressure: Option<Pressure>, full: bool, window: Window, percent: f64) -> Option<Measured> {
    let pressure = pressure?;
    let stall = if full { pressure.full? } else { pressure.some };
    let value = match window {
        Window::Ten => stall.avg10,
        Window::Sixty => stall.avg60,
        Window::ThreeHundred => stall.avg300,
    };
    (value > percent).then_some(Measured::Percent(value, percent))
}

fn host_trips(detector: &Detector, host: &Host) -> Option<Measured> {
    let of = |resource| match resource {
        Resource::Cpu => host.cpu_pressure,
        Resource::Memory => host.memory_pressure,
        Resource::Io => host.io_pressure,
    };
    let memory = &host.memory;
    match *detector {
        Detector::PsiSome { resource, window, percent } => stalled(of(resource), false, window, percent),
        Detector::PsiFull { resource, window, percent } => stalled(of(resource), true, window, percent),
        Detector::MemoryAbove(amount) => {
            let (used, threshold) = (memory.total.saturating_sub(memory.available), amount.of(memory.total));
            (used > threshold).then_some(Measured::Bytes(used, threshold))
        }
        Detector::SwapFreeBelow(amount) => {
            let (free, threshold) =
                (memory.swap_total.saturating_sub(memory.swap), amount.of(memory.swap_total));
            // A host without swap has not run out of it.
            (memory.swap_total > 0 && free < threshold).then_some(Measured::Bytes(free, threshold))
        }
        Detector::Growth { .. } => None,
    }
}

fn container_trips(
    detector: &Detector,
    subject: &Subject,
    growth: impl Fn(Duration) -> u64,
) -> Option<Measured> {
    let of = |resource| subject.pressure[resource as usize];
    match *detector {
        Detector::PsiSome { resource, window, percent } => stalled(of(resource), false, window, percent),
        Detector::PsiFull { resource, window, percent } => stalled(of(resource), true, window, percent),
        Detector::MemoryAbove(amount) => {
            let (used, threshold) = (subject.memory?, amount.of(subject.limit));
            (used > threshold).then_some(Measured::Bytes(used, threshold))
        }
        Detector::SwapFreeBelow(_) => None,
        Detector::Growth { bytes, window } => {
            let grown = growth(window);
            (grown >= bytes).then_some(Measured::Bytes(grown, bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Stall;
    use crate::model::HostMemory;

    const S: u64 = 1_000_000_000;
    const MIB: u64 = 1 << 20;

    fn subject(name: &str, memory: u64, score: i64) -> Subject {
        Subject {
            id: format!("id-{name}"),
            name: name.into(),
            memory: Some(memory * MIB),
            limit: 100 * MIB,
            score,
            ..Subject::default()
        }
    }

    fn rule(detector: Detector, scope: Scope) -> Rule {
        Rule {
            name: "r".into(),
            detector,
            scope,
            hold: Duration::ZERO,
            action: Action::Kill,
            rank: Rank::Priority,
            cool_down: Duration::from_secs(10),
            dry_run: false,
        }
    }

    fn enforcer(rules: Vec<Rule>, protect: &[&str]) -> Enforcer {
        let protect = protect.iter().map(|text| Guard::parse(text)).collect();
        let policy = Policy { interval: Duration::from_secs(1), dry_run: false, protect, rules };
        Enforcer::new(policy, HashSet::new())
    }

    fn above(percent: f64) -> Detector {
        Detector::MemoryAbove(Amount::Percent(Fraction(percent)))
    }

    fn names(decisions: &[Decision]) -> Vec<&str> {
        decisions.iter().map(|d| d.victim.as_ref().map_or("-", |(_, name)| name.as_str())).collect()
    }

    #[test]
    fn who_is_above_is_chosen_by_rank_and_the_rule_rests() {
        let mut e = enforcer(vec![rule(above(50.0), Scope::Container)], &[]);
        let host = Host::default();
        let all = [subject("small", 10, 1000), subject("dear", 90, -500), subject("cheap", 60, 500)];
        assert_eq!(names(&e.decide(&host, &all, 0)), ["cheap"]);
        assert!(e.decide(&host, &all, 9 * S).is_empty(), "it rests");
        assert_eq!(names(&e.decide(&host, &all, 10 * S)), ["cheap"]);
        assert!(e.decide(&host, &[subject("small", 50, 0)], 30 * S).is_empty(), "at is not above");
        assert!(e.decide(&host, &[Subject { memory: None, ..all[1].clone() }], 30 * S).is_empty());
    }

    #[test]
    fn nobody_protected_is_ever_chosen() {
        let host_full = Host {
            memory: HostMemory { total: 100, available: 1, ..HostMemory::default() },
            ..Host::default()
        };
        let mut labelled = subject("labelled", 99, 1000);
        labelled.labels.insert("tier".into(), "front".into());
        let all = [subject("db", 99, 1000), subject("web-1", 99, 1000), labelled, subject("hog", 1, -900)];
        for scope in [Scope::Host, Scope::Container] {
            for rank in [Rank::Priority, Rank::Growth, Rank::UsageOverReservation] {
                let protect = ["db", "web*", "label=tier=front"];
                let mut e = enforcer(vec![Rule { rank, ..rule(above(50.0), scope) }], &protect);
                let wanted: &[&str] = if scope == Scope::Host { &["hog"] } else { &["-"] };
                let decided = e.decide(&host_full, &all, 0);
                assert_eq!(names(&decided), wanted, "{scope:?} {rank:?}");
                assert_eq!(names(&e.decide(&host_full, &all[..3], 20 * S)), ["-"]);
                assert!(e.decide(&host_full, &all[..3], 21 * S).is_empty(), "told once a cool-down");
            }
        }
        assert!(!Guard::parse("label=tier=back").covers("x", &all[2].labels));
        assert!(Guard::parse("label=tier").covers("x", &all[2].labels));
    }

    #[test]
    fn pressure_must_last_as_long_as_asked() {
        let detector = Detector::PsiSome { resource: Resource::Memory, window: Window::Ten, percent: 20.0 };
        let mut e = enforcer(vec![Rule { hold: Duration::from_secs(3), ..rule(detector, Scope::Host) }], &[]);
        let stalls = |avg10| Host {
            memory_pressure: Some(Pressure { some: Stall { avg10, ..Stall::default() }, full: None }),
            ..Host::default()
        };
        let all = [subject("a", 1, 0), subject("b", 2, 0)];
        assert!(e.decide(&stalls(30.0), &all, 0).is_empty());
        assert!(e.decide(&stalls(10.0), &all, 2 * S).is_empty(), "it was calm in between");
        assert!(e.decide(&stalls(30.0), &all, 3 * S).is_empty());
        let decided = e.decide(&stalls(30.0), &all, 6 * S);
        assert_eq!(names(&decided), ["b"], "same score: who uses more");
        assert_eq!(decided[0].measured, Measured::Percent(30.0, 20.0));
        assert!(e.decide(&Host::default(), &all, 60 * S).is_empty(), "no PSI, no decision");
    }

    #[test]
    fn growth_and_usage_over_reservation() {
        let detector = Detector::Growth { bytes: 20 * MIB, window: Duration::from_secs(5) };
        let mut e = enforcer(
            vec![Rule { rank: Rank::UsageOverReservation, ..rule(detector, Scope::Container) }],
            &[],
        );
        let host = Host::default();
        let at = |a, b| [subject("a", a, 0), Subject { reservation: 90 * MIB, ..subject("b", b, 0) }];
        assert!(e.decide(&host, &at(10, 10), 0).is_empty());
        assert!(e.decide(&host, &at(29, 29), S).is_empty());
        assert_eq!(names(&e.decide(&host, &at(30, 90), 2 * S)), ["a"]);
        assert!(e.decide(&host, &at(31, 91), 20 * S).is_empty(), "too slow");
        let mut e = enforcer(vec![Rule { rank: Rank::Growth, ..rule(above(5.0), Scope::Container) }], &[]);
        e.decide(&host, &at(50, 10), 0);
        assert_eq!(names(&e.decide(&host, &at(50, 20), 10 * S)), ["b"]);
    }

    #[test]
    fn swap_is_looked_at_only_where_there_is_some() {
        let detector = Detector::SwapFreeBelow(Amount::Percent(Fraction(10.0)));
        let all = [subject("a", 1, 0)];
        let swap = |swap_total, swap| Host {
            memory: HostMemory { total: 1, swap_total, swap, ..HostMemory::default() },
            ..Host::default()
        };
        for (host, trips) in [(swap(0, 0), false), (swap(100, 90), false), (swap(100, 91), true)] {
            let mut e = enforcer(vec![rule(detector, Scope::Host)], &[]);
            assert_eq!(!e.decide(&host, &all, 0).is_empty(), trips, "{:?}", host.memory);
        }
    }

    #[test]
    fn restraint_two_rules_and_release() {
        let freeze = Action::Freeze { release: Some(Duration::from_secs(5)) };
        let mut second = rule(above(50.0), Scope::Container);
        second.name = "second".into();
        let first = Rule { action: freeze, ..rule(above(50.0), Scope::Container) };
        let mut e = enforcer(vec![first.clone(), second], &[]);
        let host = Host::default();
        let hog = [subject("hog", 90, 0)];
        assert_eq!(names(&e.decide(&host, &hog, 0)), ["hog"], "the second rule leaves it alone");
        assert!(e.releases(4 * S).is_empty());
        // Frozen, it is no subject any more, and nothing trips.
        e.decide(&host, &[], 4 * S);
        assert_eq!(e.releases(5 * S).len(), 1);
        assert!(e.releases(6 * S).is_empty(), "once");

        let policy = e.policy().clone();
        let mut e = Enforcer::new(policy, HashSet::from(["r".to_owned()]));
        assert_eq!(e.decide(&host, &hog, 0)[0].restraint, Some(Restraint::Unsupported));
        let mut e = enforcer(vec![Rule { dry_run: true, ..first }], &[]);
        let decided = e.decide(&host, &hog, 0);
        assert_eq!(decided[0].restraint, Some(Restraint::DryRun));
        assert!(e.releases(100 * S).is_empty(), "nothing was done");
        assert_eq!(
            decided[0].to_string(),
            "rule=r detector=memory-above value=94371840B threshold=52428800B action=freeze container=hog id=id-hog"
        );
    }
}
