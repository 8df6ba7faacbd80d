//! Names for containers whose user gave none: an adjective and a part of a ship.

use super::Error;

const ADJECTIVES: &[&str] = &[
    "able", "amber", "ample", "bold", "brave", "bright", "brisk", "calm", "candid", "clear", "clever",
    "coastal", "cool", "crisp", "deep", "eager", "early", "even", "fair", "fast", "fine", "firm", "fleet",
    "fond", "frank", "free", "fresh", "gentle", "glad", "grand", "great", "hardy", "honest", "humble",
    "jolly", "keen", "kind", "light", "lively", "loyal", "lucid", "mellow", "merry", "mild", "modest",
    "neat", "nimble", "noble", "open", "patient", "plain", "proud", "quick", "quiet", "rapid", "ready",
    "serene", "sharp", "silent", "sleek", "smart", "snug", "solid", "sound", "stable", "steady", "still",
    "stout", "strong", "sturdy", "sunny", "sure", "swift", "tidal", "tidy", "trim", "true", "trusty",
    "upright", "vivid", "warm", "watchful", "wise", "witty", "young",
];

const PARTS: &[&str] = &[
    "anchor",
    "ballast",
    "beacon",
    "beam",
    "berth",
    "bilge",
    "binnacle",
    "boom",
    "bow",
    "bowsprit",
    "bridge",
    "bulwark",
    "buoy",
    "cabin",
    "capstan",
    "chart",
    "cleat",
    "compass",
    "crew",
    "davit",
    "deck",
    "dinghy",
    "ensign",
    "fender",
    "flag",
    "forecastle",
    "frame",
    "funnel",
    "galley",
    "gangway",
    "gunwale",
    "halyard",
    "harbour",
    "hatch",
    "hawser",
    "helm",
    "hull",
    "jib",
    "keel",
    "ladder",
    "lantern",
    "lanyard",
    "locker",
    "log",
    "mast",
    "oar",
    "pennant",
    "pilot",
    "plank",
    "porthole",
    "prow",
    "quay",
    "rail",
    "rigging",
    "rudder",
    "sail",
    "sextant",
    "sheet",
    "shroud",
    "signal",
    "skiff",
    "spar",
    "spinnaker",
    "stay",
    "stern",
    "tiller",
    "topsail",
    "transom",
    "wake",
    "wheel",
    "winch",
    "windlass",
    "yard",
];

/// A name made from random bytes; `attempt` above 0 adds a number, so that a loop ends.
pub fn random(entropy: u64, attempt: u32) -> String {
    let adjective = ADJECTIVES[(entropy % ADJECTIVES.len() as u64) as usize];
    let part = PARTS[((entropy >> 32) % PARTS.len() as u64) as usize];
    if attempt == 0 { format!("{adjective}_{part}") } else { format!("{adjective}_{part}{attempt}") }
}

/// Checks a name that a user gave.
pub fn check(name: &str) -> Result<(), Error> {
    let mut bytes = name.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() >= 2
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good { Ok(()) } else { Err(Error::InvalidName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_are_valid_names() {
        for n in 0..1000_u64 {
            let name = random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), (n % 3) as u32);
            assert!(check(&name).is_ok(), "{name}");
        }
    }

    #[test]
    fn odd_names_are_refused() {
        for name in ["", "a", "-a", "a b", "a/b", "ä1", ".a", "a\n"] {
            assert!(check(name).is_err(), "{name:?}");
        }
        assert!(check("web-1.a_b").is_ok());
    }
}
