//! What a block device is called, from its numbers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// `/dev/sda` of 8:0. Source: the link /sys/dev/block/MAJOR:MINOR; a device that is gone is called by
/// its numbers. Asked once: the kernel derives the name from the numbers.
pub fn name(major: u32, minor: u32) -> String {
    static KNOWN: Mutex<Option<HashMap<(u32, u32), String>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(name) = known.get(&(major, minor)) {
        return name.clone();
    }
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
    let Some(name) = link.as_deref().and_then(|link| link.file_name()).and_then(|name| name.to_str()) else {
        return format!("{major}:{minor}");
    };
    // The kernel writes a slash in a device's name as an exclamation mark.
    let name = format!("/dev/{}", name.replace('!', "/"));
    known.insert((major, minor), name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(name(4095, 4095), "4095:4095");
        // Every host with a block device at all has it under its numbers.
        let Some(entry) = std::fs::read_dir("/sys/dev/block").ok().and_then(|mut list| list.next()?.ok())
        else {
            println!("skipped: needs a block device");
            return;
        };
        let numbers = entry.file_name().into_string().unwrap();
        let (major, minor) = numbers.split_once(':').unwrap();
        let found = name(major.parse().unwrap(), minor.parse().unwrap());
        assert!(found.starts_with("/dev/"), "{found}");
        assert_eq!(name(major.parse().unwrap(), minor.parse().unwrap()), found);
    }
}
