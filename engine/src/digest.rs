//! Content names: digests, diff-ids and chain-ids.
//!
//! Everything the engine stores is named by what it holds. Three names are easy to confuse, so each is
//! a type: a [`Digest`] names bytes as they lie in a registry or archive, a [`DiffId`] names a layer's
//! uncompressed tar, and a [`ChainId`] names a layer *on top of its parents*, which is what a snapshot
//! directory holds. Only SHA-256 is accepted: it is the one algorithm every registry and engine writes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text has no `algorithm:` part.
    #[error("invalid digest {0:?}: no algorithm")]
    NoAlgorithm(String),
    /// The algorithm is known to OCI, perhaps, but not verified here.
    #[error("invalid digest {0:?}: only sha256 is supported")]
    Algorithm(String),
    /// The hexadecimal part is not 64 lower-case digits.
    #[error("invalid digest {0:?}: want 64 lower-case hexadecimal digits")]
    Hex(String),
}

/// A SHA-256 digest, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps a finished hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 64 hexadecimal digits without the algorithm.
    pub fn hex(&self) -> String {
        self.digits().iter().map(|digit| char::from(*digit)).collect()
    }

    /// Digit by digit: the formatter, asked for each byte, was a twentieth of a `ps`.
    fn digits(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        digits
    }

    /// The 12 digits that Docker shows people.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        f.write_str(std::str::from_utf8(&self.digits()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (algorithm, hex) =
            text.split_once(':').ok_or_else(|| ParseError::NoAlgorithm(text.to_owned()))?;
        if algorithm != "sha256" {
            return Err(ParseError::Algorithm(text.to_owned()));
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let bytes = <&[u8; 64]>::try_from(hex.as_bytes()).ok().and_then(|digits| {
            let mut bytes = [0; 32];
            for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = value(pair[0])? << 4 | value(pair[1])?;
            }
            Some(bytes)
        });
        bytes.map(Self).ok_or_else(|| ParseError::Hex(text.to_owned()))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The digest of a layer's uncompressed tar.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a layer applied on top of all its parents.
///
/// Source: OCI image-spec, "Layer ChainID": `ChainID(L0) = DiffID(L0)`,
/// `ChainID(L0|…|Ln) = SHA256(ChainID(L0|…|Ln-1) + " " + DiffID(Ln))`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chain-id of `diff_id` on top of `parent`.
    pub fn extend(parent: Option<&Self>, diff_id: &DiffId) -> Self {
        match parent {
            None => Self(diff_id.0),
            Some(parent) => Self(Digest::of(format!("{} {diff_id}", parent.0).as_bytes())),
        }
    }

    /// The chain-ids of a stack of diff-ids, lowest layer first.
    pub fn chain(diff_ids: &[DiffId]) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let next = Self::extend(chain.last(), diff_id);
            chain.push(next);
        }
        chain
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_a_round_trip() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(format!("sha256:{}", digest.hex()), text);
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        // 64 bytes of it.
        let long = |digit: &str| format!("sha256:{}", digit.repeat(64 / digit.len()));
        for (text, want) in [
            ("e3b0", ParseError::NoAlgorithm("e3b0".into())),
            ("md5:e3b0", ParseError::Algorithm("md5:e3b0".into())),
            ("sha256:e3b0", ParseError::Hex("sha256:e3b0".into())),
            (&long("g"), ParseError::Hex(long("g"))),
            (&long("A"), ParseError::Hex(long("A"))),
            (&long("é"), ParseError::Hex(long("é"))),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(want));
        }
    }

    #[test]
    fn a_chain_follows_the_specification() {
        let a = DiffId(Digest::of(b"a"));
        let b = DiffId(Digest::of(b"b"));
        let chain = ChainId::chain(&[a, b]);
        assert_eq!(chain[0].0, a.0);
        assert_eq!(chain[1].0, Digest::of(format!("{a} {b}").as_bytes()));
    }
}
