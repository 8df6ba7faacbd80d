//! Who may read: names and bcrypt hashes in a file, as `htpasswd -B` writes it.
//!
//! How long a refusal takes says nothing about what was wrong: an unknown name is checked against a hash
//! of its own kind, made at the start, the whole work of bcrypt is done either way, and a name whose hash is
//! cheaper than the dearest is refused after what is missing to that. A password that
//! was right is remembered by a digest, so that a scraper that comes every second does not cost a
//! bcrypt each time.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

/// Digests of right answers remembered at most.
const REMEMBERED: usize = 128;

/// The password file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It cannot be read.
    #[error("open {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line that is no `name:hash`.
    #[error("{}:{line}: want NAME:HASH with a bcrypt hash, as `htpasswd -B` makes it", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number.
        line: usize,
    },
    /// Nobody is in it, so nobody could read.
    #[error("{}: no users", .0.display())]
    Empty(PathBuf),
}

/// Those who may read.
pub struct Users {
    hashes: HashMap<String, String>,
    /// What an unknown name is checked against.
    nobody: String,
    right: Mutex<HashSet<[u8; 32]>>,
}

impl Users {
    /// From a file.
    pub fn read(path: &Path) -> Result<Self, AuthError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| AuthError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, AuthError> {
        let mut hashes = HashMap::new();
        let mut nobody = String::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || AuthError::Line { path: path.to_owned(), line: n + 1 };
            let (name, hash) = line.split_once(':').ok_or_else(wrong)?;
            // Also says whether the hash is one at all.
            let parts: bcrypt::HashParts = hash.parse().map_err(|_| wrong())?;
            if name.is_empty() {
                return Err(wrong());
            }
            // The dearest of all, with another salt and another result.
            if nobody.is_empty() || parts.get_cost() > cost(&nobody) {
                nobody = bcrypt::hash("nobody", parts.get_cost()).map_err(|_| wrong())?;
            }
            hashes.insert(name.to_owned(), hash.to_owned());
        }
        if hashes.is_empty() {
            return Err(AuthError::Empty(path.to_owned()));
        }
        Ok(Self { hashes, nobody, right: Mutex::default() })
    }

    fn digest(&self, name: &str, password: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [name, password, self.hashes.get(name).map_or("", String::as_str)] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    /// Whether this pair was right before; takes no time.
    pub fn known(&self, name: &str, password: &str) -> bool {
        let digest = self.digest(name, password);
        self.right.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest)
    }

    /// Costs of the hashes that a refusal of this name still has to make so that it has cost as much as any
    /// other: a hash of cost n is two of cost n - 1, so one each of its own cost and of all up to the dearest
    /// add up to it.
    fn rest(&self, name: &str) -> std::ops::Range<u32> {
        let dearest = cost(&self.nobody);
        self.hashes.get(name).map_or(dearest, |hash| cost(hash))..dearest
    }

    /// Whether this pair is right; takes as long as bcrypt does.
    pub fn check(&self, name: &str, password: &str) -> bool {
        let hash = self.hashes.get(name);
        let matches = bcrypt::verify(password, hash.unwrap_or(&self.nobody)).unwrap_or(false);
        let right = matches && hash.is_some();
        if !right {
            for cost in self.rest(name) {
                // Only the work is wanted.
                let _ = bcrypt::hash(password, cost);
            }
        }
        if right {
            let mut known = self.right.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(self.digest(name, password));
        }
        right
    }
}

fn cost(hash: &str) -> u32 {
    hash.parse::<bcrypt::HashParts>().map_or(0, |parts| parts.get_cost())
}

/// The name and password of an `Authorization` header.
pub fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, rest) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(decode(rest.trim())?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// Base64 (RFC 4648, with its padding).
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in &text[..text.len() - padding] {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        let hash = bcrypt::hash("s3cret:with colon", 4).unwrap();
        // htpasswd writes $2y$, which is the same algorithm.
        let apache = bcrypt::hash("other", 5).unwrap().replace("$2b$", "$2y$");
        Users::parse(&format!("# who\n\nprom:{hash}\nbob:{apache}\n"), Path::new("/f")).unwrap()
    }

    #[test]
    fn right_and_wrong() {
        let users = users();
        assert!(!users.known("prom", "s3cret:with colon"));
        assert!(users.check("prom", "s3cret:with colon"));
        assert!(users.known("prom", "s3cret:with colon"));
        assert!(users.check("bob", "other"));
        for (name, password) in
            [("prom", "wrong"), ("prom", ""), ("nobody", "nobody"), ("", ""), ("bob", "s3cret:with colon")]
        {
            assert!(!users.check(name, password) && !users.known(name, password), "{name}");
        }
        assert_eq!(cost(&users.nobody), 5, "an unknown name costs as much as the dearest");
    }

    #[test]
    fn every_refusal_is_the_same_work() {
        let users = users();
        for name in ["prom", "bob", "nobody", ""] {
            let own = cost(users.hashes.get(name).unwrap_or(&users.nobody));
            let work: u64 = std::iter::once(own).chain(users.rest(name)).map(|cost| 1 << cost).sum();
            assert_eq!(work, 1 << 5, "{name}");
        }
    }

    #[test]
    fn files_that_make_no_sense() {
        for odd in [
            "",
            "# nobody\n",
            "prom\n",
            "prom:plain\n",
            "prom:$apr1$abc$def\n",
            ":$2b$04$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
        ] {
            assert!(Users::parse(odd, Path::new("/f")).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn headers() {
        assert_eq!(basic("Basic cHJvbTphOmI="), Some(("prom".into(), "a:b".into())));
        assert_eq!(basic("basic Og=="), Some((String::new(), String::new())));
        for odd in [
            "",
            "Basic",
            "Basic ",
            "Bearer cHJvbTphOmI=",
            "Basic cHJvbQ==",
            "Basic ====",
            "Basic c",
            "Basic c\u{e9}==",
            "Basic /w==",
        ] {
            assert_eq!(basic(odd), None, "{odd:?}");
        }
    }
}
