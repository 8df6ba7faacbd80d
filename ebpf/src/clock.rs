//! The clock that programs in the kernel read.
//!
//! Events carry CLOCK_BOOTTIME as the kernel has it: nobody can step it, so what is measured with it is right
//! whatever happens to the time of day. A process in a time namespace (time_namespaces(7)) is shown another
//! boot clock, ahead or behind by a constant; comparing the two would make every event days old.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds by which our boot clock is ahead of the kernel's.
fn ahead() -> i64 {
    // A process cannot change its own once it runs in it.
    static AHEAD: OnceLock<i64> = OnceLock::new();
    *AHEAD.get_or_init(|| {
        let link = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).ok();
        // The file is of the one that children will be in, which is ours as well after an exec, save on
        // kernels where it takes a fork.
        if link("time") != link("time_for_children") {
            return 0;
        }
        let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        boottime_offset(&offsets).unwrap_or(0)
    })
}

/// `boottime SECONDS NANOSECONDS` of `/proc/PID/timens_offsets`.
fn boottime_offset(offsets: &str) -> Option<i64> {
    let line = offsets.lines().find_map(|line| line.strip_prefix("boottime"))?;
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<i64>);
    let (seconds, nanos) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// A time of our boot clock as the kernel's programs would have read it.
pub(crate) fn of_the_kernel(ours: Duration) -> Duration {
    shifted(ours, ahead())
}

fn shifted(ours: Duration, ahead: i64) -> Duration {
    let by = Duration::from_nanos(ahead.unsigned_abs());
    if ahead >= 0 { ours.saturating_sub(by) } else { ours.saturating_add(by) }
}

/// The kernel's boot clock.
pub(crate) fn boot_time() -> Duration {
    // The clock has existed since 2.6.39 and cannot fail.
    of_the_kernel(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
}

/// The wall-clock time of an event, by a reading of both clocks.
pub(crate) fn wall(event: Duration, boot: Duration, now: SystemTime) -> SystemTime {
    now.checked_sub(boot.saturating_sub(event)).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_time_namespace() {
        for (text, want) in [
            ("monotonic           0         0\nboottime            0         0\n", Some(0)),
            ("monotonic  1 2\nboottime       86400 500000000\n", Some(86_400_500_000_000)),
            ("boottime -3 1\n", Some(-2_999_999_999)),
            ("", None),
            ("boottime", None),
            ("boottime x 0", None),
            ("boottime 99999999999999999999 0", None),
            ("boottime 9223372036854775807 0", None),
        ] {
            assert_eq!(boottime_offset(text), want, "{text:?}");
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(shifted(hour, 600_000_000_000), Duration::from_secs(3000));
        assert_eq!(shifted(hour, -600_000_000_000), Duration::from_secs(4200));
        assert_eq!(shifted(hour, i64::MAX), Duration::ZERO);
    }

    /// The clock is set an hour back between two events: both are shown by the clock as it is when they are
    /// shown, and what lies between them is what the boot clock says.
    #[test]
    fn a_step_of_the_clock_moves_no_duration() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let (first, second) = (Duration::from_secs(500), Duration::from_secs(502));
        assert_eq!(wall(first, Duration::from_secs(501), noon), noon - Duration::from_secs(1));
        let stepped = noon + Duration::from_secs(2) - Duration::from_secs(3600);
        let shown = wall(second, Duration::from_secs(503), stepped);
        assert_eq!(shown, stepped - Duration::from_secs(1));
        let between = shown.duration_since(wall(first, Duration::from_secs(503), stepped)).unwrap();
        assert_eq!(between, Duration::from_secs(2));
        // An event that seems to be of the future.
        assert_eq!(wall(second, first, noon), noon);
    }
}
