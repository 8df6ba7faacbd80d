//! Moments, as `--since` and `--until` take them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::units;

/// Reads an RFC 3339 time, a local date or date and time, seconds since 1970 (with a fraction), or a Go
/// duration before now (`10m`, `1h30m`).
pub fn moment(text: &str) -> Result<Timestamp, String> {
    moment_at(text, Timestamp::now(), &TimeZone::system())
}

fn moment_at(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let bad = || format!("invalid value for time: {text:?}: not a timestamp nor a duration");
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(local) = text.parse::<DateTime>() {
        return zone.to_timestamp(local).map_err(|_| bad());
    }
    if let Some(time) = unix(text) {
        return Ok(time);
    }
    let nanoseconds = units::duration(text).map_err(|_| bad())?;
    now.checked_sub(nanoseconds.nanoseconds()).map_err(|_| bad())
}

fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || fraction.len() > 9 {
        return None;
    }
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_every_form() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().expect("now");
        for (text, want) in [
            ("2026-11-24T10:00:00Z", "2026-11-24T10:00:00Z"),
            ("2026-11-24T10:00:00.5+01:00", "2026-11-24T09:00:00.5Z"),
            ("2026-11-24T10:00:00", "2026-11-24T10:00:00Z"),
            ("2026-11-24", "2026-11-24T00:00:00Z"),
            ("1136073845", "2006-01-01T00:04:05Z"),
            ("1136073845.000000001", "2006-01-01T00:04:05.000000001Z"),
            ("10m", "2026-11-24T11:50:00Z"),
            ("1h30m", "2026-11-24T10:30:00Z"),
        ] {
            let want: Timestamp = want.parse().expect(text);
            assert_eq!(moment_at(text, now, &TimeZone::UTC), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in ["", "yesterday", "1.2.3", "2026-13-01", "m10"] {
            assert!(moment_at(text, Timestamp::UNIX_EPOCH, &TimeZone::UTC).is_err(), "{text}");
        }
    }
}
