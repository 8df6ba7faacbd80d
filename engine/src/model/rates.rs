//! What happens per second, out of two readings of counters, or out of one and the container's start.

use super::Figures;

/// What a rate was computed from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Basis {
    /// Two readings.
    #[default]
    Readings,
    /// One reading and the start of the container: an average over its life so far. Views mark it.
    Start,
}

/// Rates of one container.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Percent of one CPU, as `docker stats` has it: 200 is two CPUs busy.
    ///
    /// Docker divides by the host's CPU time and multiplies with the number of CPUs, which is a
    /// division by the time that passed.
    pub cpu: f64,
    /// Of the periods with a quota, the percentage in which it was hit. `None` without a quota.
    pub throttled: Option<f64>,
    /// Bytes a second.
    pub received: f64,
    /// Bytes a second.
    pub sent: f64,
    /// Bytes a second, from block devices.
    pub read: f64,
    /// Bytes a second, to block devices.
    pub written: f64,
    /// Major page faults a second.
    pub major_faults: f64,
    /// From what.
    pub basis: Basis,
}

/// A counter that went backwards belongs to another run of the container, which began at zero.
fn delta(before: u64, after: u64) -> u64 {
    if after < before { after } else { after - before }
}

impl Rates {
    /// Between two readings; of the life so far when there is no earlier one, or when the earlier one
    /// is of another run. `None` unless the container runs.
    pub fn between(before: Option<&Figures>, after: &Figures) -> Option<Self> {
        let stats = after.stats.as_ref()?;
        let earlier = before.and_then(|figures| {
            let same_run = figures.identity.id == after.identity.id
                && figures.identity.cgroup_id == after.identity.cgroup_id
                && figures.clock < after.clock;
            Some((figures, figures.stats.as_ref().filter(|_| same_run)?))
        });
        let (seconds, basis) = match earlier {
            Some((figures, _)) => ((after.clock - figures.clock) as f64 / 1e9, Basis::Readings),
            None => (after.taken - after.life.started?, Basis::Start),
        };
        // A start in the future: the clock was set back. Nothing sensible can be said.
        if seconds <= 0.0 {
            return None;
        }
        let old = earlier.map(|(_, stats)| stats);
        let per_second = |before: u64, after: u64| delta(before, after) as f64 / seconds;
        let throttled = stats.cpu.throttling.as_ref().and_then(|now| {
            let was = old.and_then(|old| old.cpu.throttling.as_ref());
            let periods = delta(was.map_or(0, |was| was.periods), now.periods);
            let hit = delta(was.map_or(0, |was| was.throttled), now.throttled);
            (now.periods > 0).then(|| if periods == 0 { 0.0 } else { hit as f64 * 100.0 / periods as f64 })
        });
        let (was_received, was_sent) = earlier.map_or((0, 0), |(figures, _)| figures.network.bytes());
        let (received, sent) = after.network.bytes();
        let (was_read, was_written) = old.map_or((0, 0), io_bytes);
        let (read, written) = io_bytes(stats);
        let faults = |stats: &crate::cgroup::stats::Stats| {
            stats.memory.as_ref().map_or(0, |memory| memory.breakdown.pgmajfault)
        };
        Some(Self {
            cpu: per_second(old.map_or(0, |old| old.cpu.usage), stats.cpu.usage) / 1e9 * 100.0,
            throttled,
            received: per_second(was_received, received),
            sent: per_second(was_sent, sent),
            read: per_second(was_read, read),
            written: per_second(was_written, written),
            major_faults: per_second(old.map_or(0, faults), faults(stats)),
            basis,
        })
    }
}

/// Bytes read and written over all devices.
pub(crate) fn io_bytes(stats: &crate::cgroup::stats::Stats) -> (u64, u64) {
    stats
        .io
        .iter()
        .flatten()
        .fold((0, 0), |(read, written), device| (read + device.read_bytes, written + device.write_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::stats::{Cpu, Stats, Throttling};

    fn figures(clock_s: u64, cpu_ms: u64, throttled: Option<(u64, u64)>) -> Figures {
        let throttling =
            throttled.map(|(periods, throttled)| Throttling { periods, throttled, ..Throttling::default() });
        let cpu = Cpu { usage: cpu_ms * 1_000_000, throttling, ..Cpu::default() };
        let mut figures = Figures {
            clock: clock_s * 1_000_000_000,
            taken: 1000.0 + clock_s as f64,
            stats: Some(Stats { cpu, ..Stats::default() }),
            ..Figures::default()
        };
        figures.life.started = Some(1000.0);
        figures
    }

    #[test]
    fn between_two_readings_and_since_the_start() {
        let (one, two) = (figures(10, 1000, Some((10, 1))), figures(12, 4000, Some((20, 6))));
        let rates = Rates::between(Some(&one), &two).unwrap();
        assert!((rates.cpu - 150.0).abs() < 1e-9);
        assert_eq!(rates.throttled, Some(50.0));
        assert_eq!(rates.basis, Basis::Readings);
        let rates = Rates::between(None, &two).unwrap();
        assert!((rates.cpu - 4000.0 / 12.0 / 10.0).abs() < 1e-9);
        assert_eq!(rates.basis, Basis::Start);
    }

    #[test]
    fn a_reading_of_another_run_is_not_used() {
        let (mut one, two) = (figures(10, 9000, None), figures(12, 100, None));
        one.identity.cgroup_id = Some(7);
        assert_eq!(Rates::between(Some(&one), &two).unwrap().basis, Basis::Start);
        one.identity.cgroup_id = None;
        // The same clock, or a clock that went back (another boot), cannot be divided by.
        one.clock = two.clock;
        assert_eq!(Rates::between(Some(&one), &two).unwrap().basis, Basis::Start);
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        let mut stopped = figures(12, 100, None);
        assert_eq!(Rates::between(None, &stopped).unwrap().throttled, None);
        stopped.life.started = Some(5000.0);
        assert_eq!(Rates::between(None, &stopped), None);
        stopped.stats = None;
        assert_eq!(Rates::between(None, &stopped), None);
    }
}
