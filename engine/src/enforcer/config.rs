//! The policy's file: what may stand in it, and where the mistake is when it is wrong.
//!
//! A policy decides who is killed, so nothing in it is guessed: an unknown field, a field that the chosen
//! detector or action does not use, and a number without its unit are refused, each with the file, the
//! line and the field. What every field means is in docs/enforcer.md.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Action, Amount, Detector, Fraction, Guard, Policy, Rank, Resource, Rule, Scope, Window};

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("open {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or a field is not what it should be.
    #[error("{}:{line}: {}{why}", path.display(), field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field, where there is one.
        field: Option<String>,
        /// What is wrong.
        why: String,
    },
}

impl Policy {
    /// From a file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// From the text of a file; `path` is for the errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let (line, field) = place(text, at);
            Error::Invalid { path: path.to_owned(), line, field, why: error.message().replace('\n', ", ") }
        })?;
        let invalid = |at: usize, field: &str, why: String| {
            let line = place(text, field_at(text, at, field)).0;
            Error::Invalid { path: path.to_owned(), line, field: Some(field.to_owned()), why }
        };
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&file.interval.0) {
            return Err(invalid(0, "interval", "must be between 100ms and 60s".into()));
        }
        let mut policy = Self {
            interval: file.interval.0,
            dry_run: file.dry_run,
            protect: file.protect.iter().map(|text| Guard::parse(text)).collect(),
            rules: Vec::new(),
        };
        for raw in &file.rule {
            let at = raw.span().start;
            let rule = rule(raw.get_ref(), &file).map_err(|(field, why)| invalid(at, field, why))?;
            if policy.rules.iter().any(|other: &Rule| other.name == rule.name) {
                return Err(invalid(at, "name", format!("{:?} names two rules", rule.name)));
            }
            policy.rules.push(rule);
        }
        Ok(policy)
    }
}

/// The line of a byte, and the key that stands on that line.
fn place(text: &str, at: usize) -> (usize, Option<String>) {
    let at = at.min(text.len());
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
    let key = line.split_once('=').map(|(key, _)| key.trim().to_owned()).filter(|key| !key.is_empty());
    (before.matches('\n').count() + 1, key.filter(|key| !key.starts_with(['#', '['])))
}

/// Where `field` is set in the table that begins at `at`; the table itself when it is not.
fn field_at(text: &str, at: usize, field: &str) -> usize {
    let mut offset = at;
    for (n, line) in text.get(at..).unwrap_or_default().split_inclusive('\n').enumerate() {
        if n > 0 && line.trim_start().starts_with("[[") {
            break;
        }
        if line.trim_start().strip_prefix(field).is_some_and(|rest| rest.trim_start().starts_with('=')) {
            return offset;
        }
        offset += line.len();
    }
    at
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(default = "second")]
    interval: Time,
    #[serde(default)]
    dry_run: bool,
    #[serde(default = "cool_down")]
    cool_down: Time,
    #[serde(default)]
    protect: Vec<String>,
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
}

fn second() -> Time {
    Time(Duration::from_secs(1))
}

fn cool_down() -> Time {
    Time(Duration::from_secs(30))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DetectorName {
    PsiSome,
    PsiFull,
    MemoryAbove,
    SwapFreeBelow,
    Growth,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawRule {
    name: String,
    detector: DetectorName,
    scope: Option<Scope>,
    resource: Option<Resource>,
    window: Option<Time>,
    threshold: Threshold,
    #[serde(rename = "for")]
    hold: Option<Time>,
    action: ActionName,
    to: Option<Threshold>,
    amount: Option<Threshold>,
    release: Option<Time>,
    rank: Option<Rank>,
    cool_down: Option<Time>,
    dry_run: Option<bool>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum ActionName {
    Throttle,
    Reclaim,
    Freeze,
    Kill,
}

type Wrong = (&'static str, String);

fn rule(raw: &RawRule, file: &File) -> Result<Rule, Wrong> {
    let unused = |field: &'static str, present: bool, by: &str| -> Result<(), Wrong> {
        if present { Err((field, format!("{by} does not use it"))) } else { Ok(()) }
    };
    if raw.name.is_empty() || raw.name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
        return Err(("name", "must be one word".into()));
    }
    let scope = |fixed: Option<Scope>, default: Scope| match (raw.scope, fixed) {
        (Some(asked), Some(only)) if asked != only => {
            Err(("scope", format!("this detector looks at the {} only", only.as_str())))
        }
        (asked, fixed) => Ok(asked.or(fixed).unwrap_or(default)),
    };
    let psi = |raw: &RawRule| -> Result<(Resource, Window, f64), Wrong> {
        let resource = raw.resource.ok_or(("resource", "one of cpu, memory, io is needed".to_owned()))?;
        let window = match raw.window.map_or(10, |window| window.0.as_millis() / 1000) {
            10 => Window::Ten,
            60 => Window::Sixty,
            300 => Window::ThreeHundred,
            _ => return Err(("window", "the kernel averages over 10s, 60s and 300s".into())),
        };
        let Amount::Percent(percent) = raw.threshold.0 else {
            return Err(("threshold", "must be a percentage of the time, such as \"20%\"".into()));
        };
        Ok((resource, window, percent.0))
    };
    let no_psi = |by: &str| unused("resource", raw.resource.is_some(), by);
    let (detector, scope) = match raw.detector {
        DetectorName::PsiSome => {
            let (resource, window, percent) = psi(raw)?;
            (Detector::PsiSome { resource, window, percent }, scope(None, Scope::Host)?)
        }
        DetectorName::PsiFull => {
            let (resource, window, percent) = psi(raw)?;
            let scope = scope(None, Scope::Host)?;
            if resource == Resource::Cpu && scope == Scope::Host {
                return Err(("resource", "the kernel keeps no full CPU pressure of a whole host".into()));
            }
            (Detector::PsiFull { resource, window, percent }, scope)
        }
        DetectorName::MemoryAbove => {
            no_psi("memory-above")?;
            unused("window", raw.window.is_some(), "memory-above")?;
            (Detector::MemoryAbove(raw.threshold.0), scope(None, Scope::Container)?)
        }
        DetectorName::SwapFreeBelow => {
            no_psi("swap-free-below")?;
            unused("window", raw.window.is_some(), "swap-free-below")?;
            (Detector::SwapFreeBelow(raw.threshold.0), scope(Some(Scope::Host), Scope::Host)?)
        }
        DetectorName::Growth => {
            no_psi("growth")?;
            let Amount::Bytes(bytes) = raw.threshold.0 else {
                return Err(("threshold", "must be a size, such as \"64MiB\"".into()));
            };
            let window = raw.window.map_or(Duration::from_secs(10), |window| window.0);
            if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&window) {
                return Err(("window", "must be between 1s and 10m".into()));
            }
            (Detector::Growth { bytes, window }, scope(Some(Scope::Container), Scope::Container)?)
        }
    };
    let of = |name: ActionName| raw.action == name;
    unused("to", raw.to.is_some() && !of(ActionName::Throttle), "this action")?;
    unused("amount", raw.amount.is_some() && !of(ActionName::Reclaim), "this action")?;
    let undone = of(ActionName::Throttle) || of(ActionName::Freeze);
    unused("release", raw.release.is_some() && !undone, "this action")?;
    let release = raw.release.map(|release| release.0);
    let action = match raw.action {
        ActionName::Throttle => {
            let to = match raw.to.map(|to| to.0) {
                None => Fraction(90.0),
                Some(Amount::Percent(percent)) => percent,
                Some(Amount::Bytes(_)) => {
                    return Err(("to", "must be a percentage of the usage, such as \"90%\"".into()));
                }
            };
            Action::Throttle { to, release }
        }
        ActionName::Reclaim => match raw.amount.map(|amount| amount.0) {
            Some(Amount::Bytes(bytes)) => Action::Reclaim { bytes },
            Some(Amount::Percent(_)) => return Err(("amount", "must be a size, such as \"64MiB\"".into())),
            None => return Err(("amount", "reclaim needs a size, such as \"64MiB\"".into())),
        },
        ActionName::Freeze => Action::Freeze { release },
        ActionName::Kill => Action::Kill,
    };
    Ok(Rule {
        name: raw.name.clone(),
        detector,
        scope,
        hold: raw.hold.map_or(Duration::ZERO, |hold| hold.0),
        action,
        rank: raw.rank.unwrap_or_default(),
        cool_down: raw.cool_down.unwrap_or(file.cool_down).0,
        dry_run: file.dry_run || raw.dry_run.unwrap_or(false),
    })
}

/// `500ms`, `10s`, `2m`, `1h`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Time(Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration: want a number and one of ms, s, m, h");
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..at].parse().map_err(|_| wrong())?;
        let ms: u64 = match &text[at..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        match number.checked_mul(ms) {
            Some(ms) if ms <= 7 * 86_400_000 => Ok(Self(Duration::from_millis(ms))),
            _ => Err(format!("{text:?} is longer than seven days")),
        }
    }
}

/// `85%` or `64MiB`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Threshold(Amount);

impl TryFrom<String> for Threshold {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a percentage (\"85%\") nor a size (\"64MiB\")");
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            if !(percent > 0.0 && percent <= 100.0) {
                return Err(format!("{text:?} is not above 0% and at most 100%"));
            }
            return Ok(Self(Amount::Percent(Fraction(percent))));
        }
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..at].parse().map_err(|_| wrong())?;
        let shift = match text[at..].to_ascii_lowercase().as_str() {
            "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        match number.checked_mul(1 << shift) {
            Some(bytes) if bytes > 0 => Ok(Self(Amount::Bytes(bytes))),
            _ => Err(format!("{text:?} is out of range")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Policy, String> {
        Policy::parse(text, Path::new("e.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_policy() {
        let policy = parse(
            "interval = \"500ms\"\ndry-run = false\ncool-down = \"1m\"\nprotect = [\"db\", \"web*\", \"label=tier=front\", \"label=keep\"]\n\
             [[rule]]\nname = \"hog\"\ndetector = \"memory-above\"\nthreshold = \"90%\"\naction = \"kill\"\n\
             [[rule]]\nname = \"stall\"\ndetector = \"psi-full\"\nresource = \"memory\"\nwindow = \"60s\"\nthreshold = \"12.5%\"\nfor = \"5s\"\naction = \"freeze\"\nrelease = \"30s\"\nrank = \"usage-over-reservation\"\ncool-down = \"2s\"\ndry-run = true\n\
             [[rule]]\nname = \"leak\"\ndetector = \"growth\"\nthreshold = \"64MiB\"\nwindow = \"30s\"\naction = \"reclaim\"\namount = \"1g\"\nrank = \"growth\"\n\
             [[rule]]\nname = \"swap\"\ndetector = \"swap-free-below\"\nthreshold = \"10%\"\naction = \"throttle\"\nto = \"80%\"\n",
        )
        .unwrap();
        assert_eq!(policy.interval, Duration::from_millis(500));
        assert_eq!(policy.protect.len(), 4);
        let [hog, stall, leak, swap] = &policy.rules[..] else { panic!("four rules") };
        assert_eq!(hog.detector, Detector::MemoryAbove(Amount::Percent(Fraction(90.0))));
        assert_eq!(
            (hog.scope, hog.rank, hog.cool_down),
            (Scope::Container, Rank::Priority, Duration::from_secs(60))
        );
        assert_eq!(
            stall.detector,
            Detector::PsiFull { resource: Resource::Memory, window: Window::Sixty, percent: 12.5 }
        );
        assert_eq!((stall.scope, stall.dry_run, stall.hold), (Scope::Host, true, Duration::from_secs(5)));
        assert_eq!(stall.action, Action::Freeze { release: Some(Duration::from_secs(30)) });
        assert_eq!(leak.action, Action::Reclaim { bytes: 1 << 30 });
        assert_eq!(swap.action, Action::Throttle { to: Fraction(80.0), release: None });
        // An empty file is a policy that does nothing.
        assert!(parse("").unwrap().rules.is_empty());
    }

    #[test]
    fn mistakes_are_told_with_line_and_field() {
        let rule = |rest: &str| format!("# a policy\n[[rule]]\nname = \"r\"\n{rest}");
        let above = "detector = \"memory-above\"\nthreshold = \"1%\"\n";
        for (text, want) in [
            ("interval = \"1ms\"".to_owned(), "e.toml:1: interval: must be between 100ms and 60s"),
            ("\ninterval = 5".to_owned(), "e.toml:2: interval: invalid type: integer `5`, expected a string"),
            ("colour = 1".to_owned(), "e.toml:1: colour: unknown field `colour`"),
            ("cool-down = \"5\"".to_owned(), "e.toml:1: cool-down: \"5\" is no duration"),
            ("interval = ".to_owned(), "e.toml:1: interval: "),
            (rule(&format!("{above}action = \"maim\"")), "e.toml:6: action: unknown variant `maim`"),
            (rule("detector = \"memory-above\"\naction = \"kill\""), "e.toml:2: missing field `threshold`"),
            (
                rule(&format!("{above}action = \"kill\"\nrelease = \"1s\"")),
                "e.toml:7: release: this action does not use it",
            ),
            (rule(&format!("{above}action = \"reclaim\"")), "e.toml:2: amount: reclaim needs a size"),
            (
                rule(&format!("{above}action = \"kill\"\nwindow = \"9s\"")),
                "e.toml:7: window: memory-above does not use it",
            ),
            (
                rule("detector = \"memory-above\"\nthreshold = \"101%\"\naction = \"kill\""),
                "e.toml:5: threshold: \"101%\" is not above 0%",
            ),
            (
                rule("detector = \"memory-above\"\nthreshold = \"NaN%\"\naction = \"kill\""),
                "e.toml:5: threshold: \"NaN%\" is not above 0%",
            ),
            (
                rule("detector = \"memory-above\"\nthreshold = \"64\"\naction = \"kill\""),
                "e.toml:5: threshold: \"64\" is neither",
            ),
            (
                rule("detector = \"growth\"\nthreshold = \"5%\"\naction = \"kill\""),
                "e.toml:5: threshold: must be a size",
            ),
            (
                rule("detector = \"growth\"\nthreshold = \"99999999999t\"\naction = \"kill\""),
                "e.toml:5: threshold: \"99999999999t\" is out of range",
            ),
            (
                rule("detector = \"psi-some\"\nthreshold = \"5%\"\naction = \"kill\""),
                "e.toml:2: resource: one of cpu",
            ),
            (
                rule("detector = \"psi-full\"\nresource = \"cpu\"\nthreshold = \"5%\"\naction = \"kill\""),
                "e.toml:5: resource: the kernel keeps no",
            ),
            (
                rule(
                    "detector = \"psi-some\"\nresource = \"io\"\nwindow = \"11s\"\nthreshold = \"5%\"\naction = \"kill\"",
                ),
                "e.toml:6: window: the kernel averages",
            ),
            (
                rule(
                    "detector = \"swap-free-below\"\nscope = \"container\"\nthreshold = \"5%\"\naction = \"kill\"",
                ),
                "e.toml:5: scope: this detector looks at the host only",
            ),
            (
                format!("{0}\n{0}", rule(&format!("{above}action = \"kill\"\n"))),
                "e.toml:10: name: \"r\" names two rules",
            ),
        ] {
            let error = parse(&text).expect_err(&text);
            assert!(error.starts_with(want), "{text}\nwanted {want}\ngot    {error}");
        }
    }
}
