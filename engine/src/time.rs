//! Moments and durations in Go's and Docker's words: as `--since` and `--until` take them, and as `ps` shows them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A text that is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for time: {0:?}: not a timestamp nor a duration")]
pub struct NoMoment(String);

/// A text that is no duration, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDuration {
    /// It is not read at all.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number stands alone.
    #[error("time: missing unit in duration {0:?}")]
    NoUnit(String),
    /// A unit that Go has not.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    Unit {
        /// The unit.
        unit: String,
        /// The duration.
        text: String,
    },
}

/// Reads an RFC 3339 time, a local date or date and time, seconds since 1970 (with a fraction), or a Go
/// duration before now (`10m`, `1h30m`).
pub fn moment(text: &str) -> Result<Timestamp, NoMoment> {
    moment_at(text, Timestamp::now(), &TimeZone::system())
}

fn moment_at(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, NoMoment> {
    let bad = || NoMoment(text.to_owned());
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(local) = text.parse::<DateTime>() {
        return zone.to_timestamp(local).map_err(|_| bad());
    }
    if let Some(time) = unix(text) {
        return Ok(time);
    }
    let nanoseconds = duration(text).map_err(|_| bad())?;
    now.checked_sub(SignedDuration::from_nanos(nanoseconds)).map_err(|_| bad())
}

fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || fraction.len() > 9 {
        return None;
    }
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}

/// Go's `time.ParseDuration`, in nanoseconds: `1h30m`, `1.5s`, `-2ms`, `0`.
pub fn duration(text: &str) -> Result<i64, NoDuration> {
    let invalid = || NoDuration::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: i128 = match unit {
            "" => return Err(NoDuration::NoUnit(text.to_owned())),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(NoDuration::Unit { unit: unit.to_owned(), text: text.to_owned() }),
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        let mut part = whole.checked_mul(scale).ok_or_else(invalid)?;
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            part += i128::from(digit - b'0') * place;
        }
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// go-units' `HumanDuration`.
pub fn elapsed(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds as f64 / 3600.0 + 0.5) as i64;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// Seconds from an RFC 3339 moment to `now`; 0 when it cannot be read.
pub fn since(moment: &str, now: Timestamp) -> i64 {
    moment.parse::<Timestamp>().map_or(0, |then| now.as_second() - then.as_second())
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

    #[test]
    fn no_duration_is_too_long_to_be_answered() {
        for text in ["9223372036854775807ns", "-9223372036854775808ns", "-9223372036854775807ns", "2562047h"]
        {
            let moment = moment_at(text, Timestamp::UNIX_EPOCH, &TimeZone::UTC).expect(text);
            assert_eq!(
                moment.as_nanosecond(),
                -i128::from(duration(text).expect(text)),
                "{text} before the epoch"
            );
        }
        for text in ["9223372036854775808ns", "99999999999999999999999999999999999999h", "-2562048h"] {
            assert!(moment_at(text, Timestamp::MAX, &TimeZone::UTC).is_err(), "{text}");
        }
    }
}
