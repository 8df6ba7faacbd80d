//! Times and sizes as Docker words them (go-units).

use jiff::Timestamp;

pub use bulkhead_engine::time::{elapsed as duration, since};

fn zoned(moment: &str) -> Option<jiff::Zoned> {
    moment.parse::<Timestamp>().ok().map(|then| then.to_zoned(jiff::tz::TimeZone::system()))
}

/// `2006-01-02 15:04:05 -0700 MST` in local time, Go's default form of a time.
pub fn local(moment: &str) -> String {
    zoned(moment)
        .map_or_else(|| moment.to_owned(), |then| then.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string())
}

/// `2006-01-02 15:04:05.999999999 +0000 UTC`, how Go prints what a daemon's JSON has in UTC.
pub fn utc(moment: &str) -> String {
    let Ok(then) = moment.parse::<Timestamp>() else { return moment.to_owned() };
    format!("{} +0000 UTC", then.strftime("%Y-%m-%d %H:%M:%S%.f"))
}

/// `2006-01-02T15:04:05Z` or with the local offset.
pub fn local_rfc3339(moment: &str) -> String {
    let Some(then) = zoned(moment) else { return moment.to_owned() };
    let text = then.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    text.strip_suffix("+00:00").map_or_else(|| text.clone(), |text| format!("{text}Z"))
}

/// Go's `%.*g`.
fn general(value: f64, precision: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    // Memory comes in pages: most sizes are whole numbers of their unit, for which the digits of a fraction need not
    // be worked out twice.
    if value.fract() == 0.0 && value.abs() < 10_f64.powi(precision as i32) {
        return (value as i64).to_string();
    }
    let scientific = format!("{value:.*e}", precision - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if exponent < -4 || exponent >= precision as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    trim(&format!("{value:.*}", (precision as i32 - 1 - exponent).max(0) as usize))
}

fn scaled(size: u64, base: f64, units: &[&str], precision: usize) -> String {
    let mut value = size as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", general(value, precision), units[unit])
}

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];

/// Decimal, three digits: `5.59MB`.
pub fn size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 3)
}

/// Decimal, four digits: `1.234GB`.
pub fn size4(bytes: u64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 4)
}

/// Binary, four digits: `12.34MiB`.
pub fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

/// At most `width` characters, the last an ellipsis when something is cut off.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (180, "3 minutes"),
            (3600, "About an hour"),
            (3600 * 5, "5 hours"),
            (3600 * 47, "47 hours"),
            (3600 * 48, "2 days"),
            (3600 * 24 * 13, "13 days"),
            (3600 * 24 * 15, "2 weeks"),
            (3600 * 24 * 61, "2 months"),
            (3600 * 24 * 800, "2 years"),
        ] {
            assert_eq!(duration(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn moments_in_utc_are_gos() {
        assert_eq!(utc("2026-11-28T09:12:58.09344682Z"), "2026-11-28 09:12:58.09344682 +0000 UTC");
        assert_eq!(utc("2026-11-28T11:12:58+02:00"), "2026-11-28 09:12:58 +0000 UTC");
    }

    #[test]
    fn sizes() {
        for (bytes, want) in [
            (0, "0B"),
            (13_256, "13.3kB"),
            (5_590_942, "5.59MB"),
            (1_000_000, "1MB"),
            (77_800_000, "77.8MB"),
            (999, "999B"),
            (1_234_567_890, "1.23GB"),
        ] {
            assert_eq!(size(bytes), want, "{bytes}");
        }
        assert_eq!(binary(512 << 20), "512MiB");
        assert_eq!(binary(1_234_567), "1.177MiB");
        assert_eq!(size4(1_234_567), "1.235MB");
    }

    #[test]
    fn cuts() {
        assert_eq!(ellipsis("/bin/sh -c 'while true'", 10), "/bin/sh -…");
        assert_eq!(ellipsis("short", 10), "short");
    }
}
