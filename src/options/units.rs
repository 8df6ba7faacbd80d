//! Numbers as Docker's flags take them: byte sizes, CPUs, durations, ulimits, and Go's integer errors.

use bulkhead_engine::config::{HugepageLimit, Ulimit};

fn quoted_error(function: &str, text: &str, why: &str) -> String {
    format!("strconv.{function}: parsing {text:?}: {why}")
}

/// Go's `strconv.ParseInt` (base 10, 64 bits).
pub fn int(text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|error| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let range = matches!(error.kind(), NegOverflow | PosOverflow);
        quoted_error("ParseInt", text, if range { "value out of range" } else { "invalid syntax" })
    })
}

/// Go's `strconv.ParseUint` of 16 bits.
pub fn uint16(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let why = if digits { "value out of range" } else { "invalid syntax" };
    text.parse::<u16>().ok().filter(|_| digits).ok_or_else(|| quoted_error("ParseUint", text, why))
}

/// A size in bytes with binary units, as go-units' `RAMInBytes` reads it: `512m`, `1.5 GiB`, `32kb`.
pub fn bytes(text: &str) -> Result<i64, String> {
    let Some(last) = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ') else {
        return Err(format!("invalid size: '{text}'"));
    };
    let (number, suffix) = if text.as_bytes()[last] == b' ' {
        (&text[..last], &text[last + 1..])
    } else {
        text.split_at(last + 1)
    };
    // Rust also reads "inf" and "nan", which end in no digit and so never come here.
    let size: f64 = number.parse().map_err(|_| quoted_error("ParseFloat", number, "invalid syntax"))?;
    if size < 0.0 {
        return Err(format!("invalid size: '{text}'"));
    }
    let suffix = suffix.to_lowercase();
    let bad = || Err(format!("invalid suffix: '{suffix}'"));
    let (scale, rest) = match suffix.as_bytes() {
        [] | [b'b'] => (1u64, &b""[..]),
        [b'k', rest @ ..] => (1 << 10, rest),
        [b'm', rest @ ..] => (1 << 20, rest),
        [b'g', rest @ ..] => (1 << 30, rest),
        [b't', rest @ ..] => (1 << 40, rest),
        [b'p', rest @ ..] => (1 << 50, rest),
        _ => return bad(),
    };
    if !matches!(rest, b"" | b"b" | b"ib") {
        return bad();
    }
    let size = size * scale as f64;
    if size >= i64::MAX as f64 { Err(format!("invalid size: '{text}'")) } else { Ok(size as i64) }
}

/// `SIZE=BYTES` of huge pages, the size as in the kernel's file names, bytes as [`bytes`] or -1.
pub fn huge_pages(text: &str) -> Result<HugepageLimit, String> {
    let invalid =
        || format!("invalid huge page limit {text:?}. The correct format is <size>=<bytes>: 2MB=64m");
    let (size, limit) = text.split_once('=').ok_or_else(invalid)?;
    let unit = size.trim_start_matches(|c: char| c.is_ascii_digit());
    if unit == size || !matches!(unit, "KB" | "MB" | "GB") {
        return Err(invalid());
    }
    let limit = bytes_or_unlimited(limit).map_err(|_| invalid())?;
    Ok(HugepageLimit { page_size: size.to_owned(), limit })
}

/// [`bytes`], or -1 for no limit.
pub fn bytes_or_unlimited(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// A decimal or fractional count of CPUs, in billionths: `1.5`, `.25`, `1/2`.
pub fn nano_cpus(text: &str) -> Result<i64, String> {
    let rational = || format!("failed to parse {text} as a rational number");
    let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
    let denominator: i128 = denominator.parse().ok().filter(|number| *number > 0).ok_or_else(rational)?;
    // Exact arithmetic in billionths: digits that fall below one are an error, not a rounding.
    let (negative, unsigned) = match numerator.as_bytes().first() {
        Some(b'-') => (true, &numerator[1..]),
        Some(b'+') => (false, &numerator[1..]),
        _ => (false, numerator),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(rational());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| rational())? };
    let billionths: i128 = format!("{fraction:0<9}").parse().map_err(|_| rational())?;
    let nano =
        whole.checked_mul(1_000_000_000).and_then(|n| n.checked_add(billionths)).ok_or_else(rational)?;
    if nano % denominator != 0 {
        return Err("value is too precise".to_owned());
    }
    let nano = nano / denominator * if negative { -1 } else { 1 };
    i64::try_from(nano).map_err(|_| rational())
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub fn duration(text: &str) -> Result<i64, String> {
    bulkhead_engine::time::duration(text).map_err(|error| error.to_string())
}

const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `NAME=SOFT[:HARD]`; -1 is unlimited.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let values: Vec<&str> = limits.split(':').collect();
    if values.len() > 2 {
        return Err(format!(
            "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        ));
    }
    let soft = int(values[0])?;
    let hard = values.get(1).map_or(Ok(soft), |text| int(text))?;
    if hard != -1 && soft == -1 {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
        ));
    }
    if hard != -1 && soft > hard {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_page_limits() {
        let limit = |page_size: &str, limit| Ok(HugepageLimit { page_size: page_size.into(), limit });
        assert_eq!(huge_pages("2MB=64m"), limit("2MB", 64 << 20));
        assert_eq!(huge_pages("1GB=-1"), limit("1GB", -1));
        for odd in ["", "2MB", "=1", "MB=1", "2M=1", "2MB=x", "../2MB=1", "2mb=1", "-2MB=1", "2MB.max=1"] {
            assert!(huge_pages(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32Kb", 32 << 10),
            ("32KiB", 32 << 10),
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("1.5 GiB", 3 << 29),
            ("2t", 2 << 40),
            ("1p", 1 << 50),
            ("0", 0),
            ("0.4", 0),
            ("1e3", 1000),
            (".5k", 512),
        ] {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for (text, want) in [
            ("", "invalid size: ''"),
            ("abc", "invalid size: 'abc'"),
            ("-5", "invalid size: '-5'"),
            ("12kk", "invalid suffix: 'kk'"),
            ("1gbx", "invalid suffix: 'gbx'"),
            ("1bb", "invalid suffix: 'bb'"),
            ("1kib5", "strconv.ParseFloat: parsing \"1kib5\": invalid syntax"),
            ("1.2.3", "strconv.ParseFloat: parsing \"1.2.3\": invalid syntax"),
            ("1 g x", "strconv.ParseFloat: parsing \"1 g\": invalid syntax"),
            ("99999p", "invalid size: '99999p'"),
            ("5é", "invalid suffix: 'é'"),
        ] {
            assert_eq!(bytes(text), Err(want.to_owned()), "{text}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
        assert_eq!(bytes_or_unlimited("1k"), Ok(1024));
        assert_eq!(bytes_or_unlimited("-2"), Err("invalid size: '-2'".into()));
    }

    #[test]
    fn cpus() {
        for (text, want) in [
            ("1", 1_000_000_000),
            ("1.5", 1_500_000_000),
            (".25", 250_000_000),
            ("2.", 2_000_000_000),
            ("1/2", 500_000_000),
            ("0.000000001", 1),
            ("-1", -1_000_000_000),
            ("1.5000000000000", 1_500_000_000),
        ] {
            assert_eq!(nano_cpus(text), Ok(want), "{text}");
        }
        for (text, want) in [
            ("abc", "failed to parse abc as a rational number"),
            ("", "failed to parse  as a rational number"),
            (".", "failed to parse . as a rational number"),
            ("1/0", "failed to parse 1/0 as a rational number"),
            ("1.00000000001", "value is too precise"),
            ("1/3", "value is too precise"),
        ] {
            assert_eq!(nano_cpus(text), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn integers_fail_in_go_words() {
        assert_eq!(int("-12"), Ok(-12));
        assert_eq!(int("x"), Err("strconv.ParseInt: parsing \"x\": invalid syntax".into()));
        assert_eq!(
            int("99999999999999999999"),
            Err("strconv.ParseInt: parsing \"99999999999999999999\": value out of range".into())
        );
        assert_eq!(uint16("1000"), Ok(1000));
        assert_eq!(uint16("70000"), Err("strconv.ParseUint: parsing \"70000\": value out of range".into()));
        assert_eq!(uint16("-1"), Err("strconv.ParseUint: parsing \"-1\": invalid syntax".into()));
        assert_eq!(uint16("+1"), Err("strconv.ParseUint: parsing \"+1\": invalid syntax".into()));
        assert_eq!(uint16(""), Err("strconv.ParseUint: parsing \"\": invalid syntax".into()));
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("100ms", 100_000_000),
            ("-2us", -2_000),
            (".5s", 500_000_000),
        ] {
            assert_eq!(duration(text), Ok(want), "{text}");
        }
        for (text, want) in [
            ("", "time: invalid duration \"\""),
            ("foo", "time: invalid duration \"foo\""),
            ("5", "time: missing unit in duration \"5\""),
            ("1x", "time: unknown unit \"x\" in duration \"1x\""),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("99999999999999999999h", "time: invalid duration \"99999999999999999999h\""),
        ] {
            assert_eq!(duration(text), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn ulimits() {
        let limit = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
        assert_eq!(ulimit("nofile=1024:2048"), Ok(limit("nofile", 1024, 2048)));
        assert_eq!(ulimit("nproc=5"), Ok(limit("nproc", 5, 5)));
        assert_eq!(ulimit("core=-1"), Ok(limit("core", -1, -1)));
        assert_eq!(ulimit("core=0:-1"), Ok(limit("core", 0, -1)));
        for (text, want) in [
            ("nofile", "invalid ulimit argument: nofile"),
            ("foo=1", "invalid ulimit type: foo"),
            ("nofile=", "strconv.ParseInt: parsing \"\": invalid syntax"),
            ("nofile=1:", "strconv.ParseInt: parsing \"\": invalid syntax"),
            ("nofile=5:3", "ulimit soft limit must be less than or equal to hard limit: 5 > 3"),
            (
                "nofile=-1:5",
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 5",
            ),
            (
                "nofile=1:2:3",
                "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
            ),
        ] {
            assert_eq!(ulimit(text), Err(want.to_owned()), "{text}");
        }
    }
}
