//! DNS messages, as far as a trace shows them.
//!
//! The bytes come from whoever sends to port 53 and may have been cut on the
//! way, so the parser takes what is whole and says when there was more. Names are
//! kept in presentation form (RFC 1035 §5.1: a dot or a backslash inside a label
//! is `\.`, other bytes that do not print are `\DDD`), which also makes them safe
//! to display.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Labels may point back into the message; a loop must end. RFC 1035 allows 127
/// labels in a name.
const MAX_JUMPS: usize = 127;
/// More than the 4096 bytes that are kept of a message over TCP hold of addresses.
const MAX_RECORDS: usize = 256;

/// A parsed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The id that ties an answer to its query.
    pub id: u16,
    /// An answer, not a query.
    pub response: bool,
    /// Response code; 0 is success, 3 "no such name".
    pub rcode: u8,
    /// The sender cut the message (TC).
    pub truncated: bool,
    /// The questions.
    pub questions: Vec<Question>,
    /// The records of the answer section.
    pub answers: Vec<Record>,
    /// Something announced in the header is not in the bytes.
    pub incomplete: bool,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name, without the final dot; the root is `.`.
    pub name: String,
    /// Record type asked for.
    pub kind: u16,
}

/// One record of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose record it is.
    pub name: String,
    /// Seconds it may be kept.
    pub ttl: u32,
    /// Its contents.
    pub data: Data,
}

/// Contents of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name for the same thing.
    Cname(String),
    /// The name of an address.
    Ptr(String),
    /// A type that is not shown in detail.
    Opaque(u16),
}

impl std::fmt::Display for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::A(a) => a.fmt(f),
            Self::Aaaa(a) => a.fmt(f),
            Self::Cname(name) | Self::Ptr(name) => f.write_str(name),
            Self::Opaque(kind) => f.write_str(&kind_name(*kind)),
        }
    }
}

/// The mnemonic of a record type, or `TYPE` and its number (RFC 3597).
#[must_use]
pub fn kind_name(kind: u16) -> String {
    match kind {
        1 => "A".into(),
        2 => "NS".into(),
        5 => "CNAME".into(),
        6 => "SOA".into(),
        12 => "PTR".into(),
        15 => "MX".into(),
        16 => "TXT".into(),
        28 => "AAAA".into(),
        33 => "SRV".into(),
        64 => "SVCB".into(),
        65 => "HTTPS".into(),
        255 => "ANY".into(),
        other => format!("TYPE{other}"),
    }
}

/// The mnemonic of a response code, or `RCODE` and its number.
#[must_use]
pub fn rcode_name(rcode: u8) -> String {
    match rcode {
        0 => "NOERROR".into(),
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        3 => "NXDOMAIN".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        other => format!("RCODE{other}"),
    }
}

/// Reads a message; `None` when not even the header is there.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let header = bytes.get(..12)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let flags = word(2);
    let mut message = Message {
        id: word(0),
        response: flags & 0x8000 != 0,
        rcode: (flags & 0xf) as u8,
        truncated: flags & 0x0200 != 0,
        questions: Vec::new(),
        answers: Vec::new(),
        incomplete: false,
    };
    let mut at = 12;
    for _ in 0..word(4) {
        match question(bytes, &mut at) {
            Some(q) if message.questions.len() < MAX_RECORDS => message.questions.push(q),
            _ => {
                message.incomplete = true;
                return Some(message);
            }
        }
    }
    for _ in 0..word(6) {
        match record(bytes, &mut at) {
            Some(r) if message.answers.len() < MAX_RECORDS => message.answers.push(r),
            _ => {
                message.incomplete = true;
                break;
            }
        }
    }
    Some(message)
}

fn take<const N: usize>(bytes: &[u8], at: &mut usize) -> Option<[u8; N]> {
    let out = bytes.get(*at..at.checked_add(N)?)?.try_into().ok()?;
    *at += N;
    Some(out)
}

fn question(bytes: &[u8], at: &mut usize) -> Option<Question> {
    let name = name(bytes, at)?;
    let kind = u16::from_be_bytes(take(bytes, at)?);
    let _class: [u8; 2] = take(bytes, at)?;
    Some(Question { name, kind })
}

fn record(bytes: &[u8], at: &mut usize) -> Option<Record> {
    let owner = name(bytes, at)?;
    let kind = u16::from_be_bytes(take(bytes, at)?);
    let _class: [u8; 2] = take(bytes, at)?;
    let ttl = u32::from_be_bytes(take(bytes, at)?);
    let len = usize::from(u16::from_be_bytes(take(bytes, at)?));
    let start = *at;
    let rdata = bytes.get(start..start.checked_add(len)?)?;
    *at += len;
    // A name may point anywhere before it, but must not run past its record.
    let target = |end: usize| name(&bytes[..end], &mut start.clone());
    let data = match (kind, len) {
        (1, 4) => Data::A(Ipv4Addr::from(<[u8; 4]>::try_from(rdata).ok()?)),
        (28, 16) => Data::Aaaa(Ipv6Addr::from(<[u8; 16]>::try_from(rdata).ok()?)),
        (5, _) => Data::Cname(target(start + len)?),
        (12, _) => Data::Ptr(target(start + len)?),
        _ => Data::Opaque(kind),
    };
    Some(Record { name: owner, ttl, data })
}

fn name(bytes: &[u8], at: &mut usize) -> Option<String> {
    let mut out = String::new();
    let mut pos = *at;
    let mut jumped = false;
    let mut wire = 0;
    for _ in 0..=MAX_JUMPS * 2 {
        let len = usize::from(*bytes.get(pos)?);
        match len >> 6 {
            0 if len == 0 => {
                if !jumped {
                    *at = pos + 1;
                }
                if out.is_empty() {
                    out.push('.');
                }
                return Some(out);
            }
            0 => {
                wire += len + 1;
                // RFC 1035 §2.3.4
                if wire > 254 {
                    return None;
                }
                if !out.is_empty() {
                    out.push('.');
                }
                for &b in bytes.get(pos + 1..pos + 1 + len)? {
                    match b {
                        b'.' | b'\\' => out.extend(['\\', b as char]),
                        0x21..=0x7e => out.push(b as char),
                        _ => {
                            let _ = write!(out, "\\{b:03}");
                        }
                    }
                }
                pos += 1 + len;
            }
            3 => {
                let low = usize::from(*bytes.get(pos + 1)?);
                if !jumped {
                    *at = pos + 2;
                }
                jumped = true;
                let target = (len & 0x3f) << 8 | low;
                // Only backwards: forwards would allow a loop.
                if target >= pos {
                    return None;
                }
                pos = target;
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Vec<u8> {
        let mut q = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        q.extend(b"\x03www\x07example\x03org\x00\x00\x1c\x00\x01");
        q
    }

    fn answer() -> Vec<u8> {
        let mut a = query();
        a[2] = 0x81;
        a[3] = 0x80;
        a[7] = 3;
        // www is another name for web, which has two addresses
        a.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x06\x03web\xc0\x10");
        a.extend(b"\x03web\xc0\x10\x00\x1c\x00\x01\x00\x00\x00\x3c\x00\x10");
        a.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
        a.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc0\x00\x02\x07");
        a
    }

    #[test]
    fn a_query_and_its_answer() {
        let q = parse(&query()).unwrap();
        assert_eq!((q.id, q.response, q.incomplete), (0x1234, false, false));
        assert_eq!(q.questions, [Question { name: "www.example.org".into(), kind: 28 }]);

        let a = parse(&answer()).unwrap();
        assert_eq!((a.id, a.response, a.rcode, a.incomplete), (0x1234, true, 0, false));
        let data: Vec<_> = a.answers.iter().map(|r| (r.name.as_str(), r.data.to_string())).collect();
        assert_eq!(
            data,
            [
                ("www.example.org", "web.example.org".into()),
                ("web.example.org", "2001:db8::1".into()),
                ("www.example.org", "192.0.2.7".into()),
            ]
        );
        assert_eq!(a.answers[2].ttl, 5);
    }

    #[test]
    fn every_truncation_is_answered() {
        let whole = answer();
        for len in 0..whole.len() {
            match parse(&whole[..len]) {
                None => assert!(len < 12),
                Some(m) => assert!(m.incomplete, "{len} of {}", whole.len()),
            }
        }
    }

    #[test]
    fn hostile_names() {
        let with = |labels: &[u8]| {
            let mut m = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            m.extend(labels);
            m.extend(b"\x00\x01\x00\x01");
            parse(&m).unwrap()
        };
        // a pointer to itself, a forward pointer, a reserved label type
        for bad in [&b"\xc0\x0c"[..], b"\xc0\x20", b"\x80abc\x00", b"\x40a\x00"] {
            let m = with(bad);
            assert!(m.incomplete && m.questions.is_empty(), "{bad:?}");
        }
        // 255 bytes of labels are too many
        let long: Vec<u8> = std::iter::repeat_n(b"\x07aaaaaaa", 32).flatten().copied().chain([0]).collect();
        assert!(with(&long).incomplete);
        // bytes in labels cannot control a terminal
        assert_eq!(with(b"\x04\x1b[2J\x03a.b\x00").questions[0].name, "\\027[2J.a\\.b");
        assert_eq!(with(b"\x00").questions[0].name, ".");
    }

    /// Every byte of a good answer replaced by a few others, and xorshift noise:
    /// no panic, and no more records than the bytes can hold.
    #[test]
    fn mutations_never_panic() {
        let whole = answer();
        for at in 0..whole.len() {
            for value in [0, 1, 0x3f, 0x40, 0x7f, 0xc0, 0xff, whole[at] ^ 1] {
                let mut bad = whole.clone();
                bad[at] = value;
                let _ = parse(&bad);
            }
        }
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut bytes = [0u8; 96];
            for b in &mut bytes {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                *b = (x >> 32) as u8;
            }
            if let Some(m) = parse(&bytes) {
                assert!(m.questions.len() + m.answers.len() <= bytes.len());
            }
        }
    }
}
