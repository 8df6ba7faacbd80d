//! Pressure stall information: how long work stood still for want of a resource.
//!
//! Source: Documentation/accounting/psi.rst. Minimum kernel: PSI 4.20; `full` for CPU 5.13 (system-wide it
//! is always zero).

use super::Error;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total: u64,
}

/// A pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one task stood still.
    pub some: Stall,
    /// Every non-idle task stood still; `None` where the kernel does not say.
    pub full: Option<Stall>,
}

impl Pressure {
    /// Of the text of `cpu.pressure`, `memory.pressure`, `io.pressure` or a file of /proc/pressure.
    pub fn parse(text: &str) -> Option<Self> {
        let mut some = None;
        let mut full = None;
        for line in text.lines() {
            let (kind, rest) = line.split_once(' ')?;
            match kind {
                "some" => some = Some(stall(rest)?),
                "full" => full = Some(stall(rest)?),
                // A line that a later kernel adds.
                _ => {}
            }
        }
        Some(Self { some: some?, full })
    }

    /// As [`Pressure::parse`], with the path in the error.
    pub(crate) fn of(path: &Path, text: &str) -> Result<Self, Error> {
        Self::parse(text).ok_or_else(|| Error::parse(path, text))
    }
}

fn stall(fields: &str) -> Option<Stall> {
    let mut stall = Stall::default();
    let mut total = None;
    for field in fields.split_ascii_whitespace() {
        let (key, value) = field.split_once('=')?;
        let percent = || value.parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0);
        match key {
            "avg10" => stall.avg10 = percent()?,
            "avg60" => stall.avg60 = percent()?,
            "avg300" => stall.avg300 = percent()?,
            "total" => total = Some(value.parse().ok()?),
            _ => {}
        }
    }
    stall.total = total?;
    Some(stall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_files_as_they_come_and_odd_ones() {
        let both = "some avg10=1.50 avg60=0.25 avg300=0.00 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let parsed = Pressure::parse(both).unwrap();
        assert_eq!(parsed.some, Stall { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 123_456 });
        assert_eq!(parsed.full.unwrap().total, 7);

        // cpu.pressure before 5.13 has no full line.
        assert_eq!(Pressure::parse("some avg10=0 avg60=0 avg300=0 total=1").unwrap().full, None);
        // A later kernel's additions are passed over.
        assert!(Pressure::parse("some avg10=0 total=1 irq=3\nidle avg10=0\n").is_some());

        for odd in [
            "",
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=7",
            "some",
            "some avg10=x total=1",
            "some avg10=-1 total=1",
            "some avg10=NaN total=1",
            "some avg10=0.00 avg60=0.00 avg300=0.00",
            "some avg10=0.00 total=99999999999999999999999",
            "some avg10 total=1",
        ] {
            assert_eq!(Pressure::parse(odd), None, "{odd:?}");
        }
    }
}
