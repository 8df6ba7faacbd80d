//! Flags that name devices: `--device`, device rules, I/O weights and limits.

use bulkhead_engine::config::{DeviceMapping, ThrottleDevice, WeightDevice};

use super::units;

fn device_and_value(text: &str) -> Result<(&str, &str), String> {
    let (device, value) = text
        .split_once(':')
        .filter(|(device, _)| !device.is_empty())
        .ok_or_else(|| format!("bad format: {text}"))?;
    if !device.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((device, value))
}

/// `DEVICE:WEIGHT`, weight 10 to 1000, or 0.
pub fn weight(text: &str) -> Result<WeightDevice, String> {
    let (device, value) = device_and_value(text)?;
    let weight = units::uint16(value)
        .ok()
        .filter(|weight| *weight == 0 || (10..=1000).contains(weight))
        .ok_or_else(|| format!("invalid weight for device: {text}"))?;
    Ok(WeightDevice { path: device.to_owned(), weight })
}

/// `DEVICE:BYTES`, bytes with a unit.
pub fn throttle_bytes(text: &str) -> Result<ThrottleDevice, String> {
    let (device, value) = device_and_value(text)?;
    let rate = units::bytes(value).map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. \
             Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    })?;
    Ok(ThrottleDevice { path: device.to_owned(), rate: rate as u64 })
}

/// `DEVICE:OPERATIONS`.
pub fn throttle_operations(text: &str) -> Result<ThrottleDevice, String> {
    let (device, value) = device_and_value(text)?;
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let rate = value.parse().ok().filter(|_| digits).ok_or_else(|| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. \
             Number must be a positive integer"
        )
    })?;
    Ok(ThrottleDevice { path: device.to_owned(), rate })
}

/// `TYPE MAJOR:MINOR ACCESS`: `c 1:3 rwm`, `b *:* r`.
pub fn cgroup_rule(text: &str) -> Result<String, String> {
    let invalid = || format!("invalid device cgroup format '{text}'");
    let mut fields = text.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(invalid());
    };
    let number = |part: &str| part == "*" || part.parse::<u32>().is_ok();
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let known = matches!(kind, "a" | "b" | "c") && number(major) && number(minor) && is_access(access);
    if known && access.len() <= 3 { Ok(text.to_owned()) } else { Err(invalid()) }
}

fn is_access(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| b"rwm".contains(&byte))
        && text.bytes().enumerate().all(|(at, byte)| !text.as_bytes()[..at].contains(&byte))
}

/// `HOST[:CONTAINER][:ACCESS]`, as `--device` takes it.
pub fn mapping(text: &str) -> Result<DeviceMapping, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inside, access) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, access] if is_access(access) => (*host, *host, *access),
        [host, inside] => (*host, *inside, "rwm"),
        [host, inside, access] => (*host, *inside, *access),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    let inside = if inside.is_empty() { host } else { inside };
    if !is_access(access) {
        return Err(format!("bad mode specified: {access}"));
    }
    if host.is_empty() {
        return Err(format!("bad format for path: {text}"));
    }
    if !inside.starts_with('/') {
        return Err(format!("{inside} is not an absolute path"));
    }
    if !host.starts_with('/') {
        return Err(format!("{host} is not an absolute path"));
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: inside.to_owned(),
        cgroup_permissions: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_rates() {
        assert_eq!(weight("/dev/sda:100"), Ok(WeightDevice { path: "/dev/sda".into(), weight: 100 }));
        assert_eq!(weight("a"), Err("bad format: a".into()));
        assert_eq!(weight("/dev/a:5"), Err("invalid weight for device: /dev/a:5".into()));
        assert_eq!(weight("/dev/a:x"), Err("invalid weight for device: /dev/a:x".into()));
        assert_eq!(
            throttle_bytes("/dev/sda:1mb"),
            Ok(ThrottleDevice { path: "/dev/sda".into(), rate: 1 << 20 })
        );
        assert_eq!(throttle_bytes("sda:1mb"), Err("bad format for device path: sda:1mb".into()));
        assert!(
            throttle_bytes("/dev/sda:xx")
                .is_err_and(|e| e.starts_with("invalid rate for device: /dev/sda:xx."))
        );
        assert_eq!(
            throttle_operations("/dev/sda:70"),
            Ok(ThrottleDevice { path: "/dev/sda".into(), rate: 70 })
        );
        for bad in ["/dev/sda:-1", "/dev/sda:+1", "/dev/sda:1k", "/dev/sda:", "/dev/sda:1:2"] {
            assert!(throttle_operations(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules() {
        for good in ["c 1:3 rwm", "b *:* r", "a 1:* mw"] {
            assert_eq!(cgroup_rule(good), Ok(good.to_owned()));
        }
        for bad in ["foo", "c 1:3", "d 1:3 r", "c 1 r", "c 1:3 rwx", "c 1:3 rr", "c 1:3 r w", "c x:3 r", ""] {
            assert_eq!(cgroup_rule(bad), Err(format!("invalid device cgroup format '{bad}'")));
        }
    }

    #[test]
    fn mappings() {
        let want = |host: &str, inside: &str, access: &str| {
            Ok(DeviceMapping {
                path_on_host: host.into(),
                path_in_container: inside.into(),
                cgroup_permissions: access.into(),
            })
        };
        assert_eq!(mapping("/dev/x"), want("/dev/x", "/dev/x", "rwm"));
        assert_eq!(mapping("/dev/x:rw"), want("/dev/x", "/dev/x", "rw"));
        assert_eq!(mapping("/dev/x:/dev/y"), want("/dev/x", "/dev/y", "rwm"));
        assert_eq!(mapping("/dev/x:/dev/y:r"), want("/dev/x", "/dev/y", "r"));
        for (text, why) in [
            ("/dev/x:/dev/y:q", "bad mode specified: q"),
            ("/dev/x:/dev/y:", "bad mode specified: "),
            ("x", "x is not an absolute path"),
            ("/dev/x:y", "y is not an absolute path"),
            ("a:b:c:d", "invalid device specification: a:b:c:d"),
            ("", "bad format for path: "),
        ] {
            assert_eq!(mapping(text), Err(why.to_owned()), "{text}");
        }
    }
}
