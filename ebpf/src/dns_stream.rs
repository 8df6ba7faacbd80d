//! DNS over TCP: from segments to messages.
//!
//! A stream carries messages, each with its length in two bytes before it (RFC 1035 §4.2.2, RFC 7766), and TCP
//! cuts it wherever it likes. The programs see packets as they come and go: some twice, some in the wrong order,
//! of very long ones only the beginning, and none while the ring is full. [`Streams`] puts the bytes in order
//! again as a receiver would, keeps the beginning of each message, and goes on behind what is missing as long as
//! it still knows where the next message begins. Where it does not, it says so ([`Streams::broken`]) and waits
//! for the next connection; it never takes the middle of a message for a beginning.
//!
//! Whoever sends to port 53 decides what is in here, so everything is bounded: directions, bytes that wait for
//! what is before them, bytes kept of a message.

use std::collections::HashMap;

use crate::wire::{self, DnsEvent, DnsSegment, Endpoints, Header};

/// Bytes kept of a message; the rest is only counted.
const KEPT: usize = 4096;
/// Directions of connections that are followed at once.
const OPEN: usize = 2048;
/// Parts that may wait for what is before them, of one direction and of all.
const WAITING: usize = 64;
const ALL_WAITING: usize = 8192;
/// A header has twelve bytes; what is shorter is no message.
const SHORTEST: usize = 12;

const FIN: u32 = 1;
const SYN: u32 = 2;
const RST: u32 = 4;

/// One direction of one connection.
type Key = (u64, [u8; Endpoints::SIZE], bool);

/// Follows every connection to port 53.
#[derive(Debug, Default)]
pub struct Streams {
    open: HashMap<Key, Direction>,
    waiting: usize,
    broken: u64,
    /// The record that is handed out.
    buffer: Vec<u8>,
}

#[derive(Debug, Default)]
struct Direction {
    /// Sequence number of the next byte.
    next: u32,
    /// Bytes of the length that have come: none, one or two.
    prefix: Vec<u8>,
    /// Bytes of the message that have not come, once its length is known.
    left: usize,
    /// The beginning of the message.
    kept: Vec<u8>,
    /// Bytes are missing in what has come of it, so nothing more is kept.
    holed: bool,
    /// Where messages begin is not known any more.
    lost: bool,
    /// Parts with what is before them missing.
    ahead: Vec<(u32, Vec<u8>)>,
    /// When it was last heard of.
    last_ns: u64,
}

impl Streams {
    /// Reads a record of a segment, and hands out a record of a DNS event for every message that is whole now.
    /// `None` when the bytes are no such record.
    pub fn feed(&mut self, record: &[u8], mut message: impl FnMut(&[u8])) -> Option<()> {
        let segment = DnsSegment::read(record)?;
        let payload = record.get(DnsSegment::SIZE..)?.get(..segment.len as usize)?;
        if segment.head.kind != wire::EVENT_DNS_SEGMENT {
            return None;
        }
        let mut ends = Vec::with_capacity(Endpoints::SIZE);
        segment.ends.write(&mut ends);
        let key = |outgoing: bool| -> Option<Key> {
            Some((segment.head.cgroup_id, ends.as_slice().try_into().ok()?, outgoing))
        };
        let (this, other) = (key(segment.outgoing != 0)?, key(segment.outgoing == 0)?);
        if segment.flags & SYN != 0 {
            self.close(&this);
        }
        if !self.open.contains_key(&this) {
            // An older connection is taken up where it visibly begins a message.
            if segment.flags & SYN == 0 && !begins(payload, segment.outgoing != 0) {
                return Some(());
            }
            self.make_room();
            self.open.insert(this, Direction { next: segment.seq, ..Direction::default() });
        }
        let Self { open, waiting, broken, buffer } = self;
        let direction = open.get_mut(&this)?;
        direction.last_ns = segment.head.time_ns;
        let mut tell = |kept: &[u8], length: usize| {
            let head = Header { kind: wire::EVENT_DNS, ..segment.head };
            let event = DnsEvent {
                head,
                ends: segment.ends,
                outgoing: segment.outgoing,
                len: kept.len() as u32,
                wire_len: length as u32,
                netns: segment.netns,
                stream: 1,
            };
            buffer.clear();
            event.write(buffer);
            buffer.extend_from_slice(kept);
            message(buffer);
        };
        let before = direction.ahead.len();
        let full = *waiting >= ALL_WAITING;
        direction.arrive(segment.seq, payload);
        // What is missing will not come: the programs did not see it, or it was cut.
        let ends_here = segment.flags & (FIN | RST) != 0;
        while let Some(missing) = direction.settle(&mut tell)
            && (ends_here || full || direction.ahead.len() > WAITING)
        {
            *broken += u64::from(!direction.skip(missing, &mut tell));
        }
        *waiting = (*waiting + direction.ahead.len()).saturating_sub(before);
        if segment.flags & RST != 0 {
            self.close(&other);
        }
        if ends_here {
            self.close(&this);
        }
        Some(())
    }

    /// How many times it was not known any more where messages begin.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// Drops what is kept of a cgroup.
    pub fn forget(&mut self, cgroup_id: u64) {
        let keys: Vec<Key> = self.open.keys().filter(|(id, ..)| *id == cgroup_id).copied().collect();
        for key in &keys {
            self.close(key);
        }
    }

    fn close(&mut self, key: &Key) {
        if let Some(direction) = self.open.remove(key) {
            self.waiting = self.waiting.saturating_sub(direction.ahead.len());
        }
    }

    /// Who has been silent for longest gives way.
    fn make_room(&mut self) {
        if self.open.len() >= OPEN
            && let Some(key) = self.open.iter().min_by_key(|(_, d)| d.last_ns).map(|(key, _)| *key)
        {
            self.broken += u64::from(self.open[&key].within());
            self.close(&key);
        }
    }
}

impl Direction {
    /// A message has begun and not ended.
    fn within(&self) -> bool {
        !self.prefix.is_empty() || !self.ahead.is_empty()
    }

    /// Takes in bytes; those that have come before are dropped.
    fn arrive(&mut self, seq: u32, bytes: &[u8]) {
        let old = self.next.wrapping_sub(seq);
        let new = match old.cast_signed() {
            1.. => bytes.get(old as usize..).unwrap_or_default(),
            _ => bytes,
        };
        if !new.is_empty() {
            let seq = if old.cast_signed() > 0 { self.next } else { seq };
            self.ahead.push((seq, new.to_vec()));
        }
    }

    /// Uses what is in order. How many bytes are missing before the next that wait, if any do.
    fn settle(&mut self, tell: &mut impl FnMut(&[u8], usize)) -> Option<u32> {
        loop {
            let next = self.next;
            let distance = |seq: u32| seq.wrapping_sub(next).cast_signed();
            let (at, _) = self.ahead.iter().enumerate().min_by_key(|(_, (seq, _))| distance(*seq))?;
            let gap = distance(self.ahead[at].0);
            if gap > 0 {
                return Some(gap.cast_unsigned());
            }
            let (_, bytes) = self.ahead.swap_remove(at);
            if let Some(new) = bytes.get(gap.unsigned_abs() as usize..) {
                self.next = self.next.wrapping_add(new.len() as u32);
                self.read(new, tell);
            }
        }
    }

    fn read(&mut self, mut bytes: &[u8], tell: &mut impl FnMut(&[u8], usize)) {
        while !self.lost && !bytes.is_empty() {
            if self.prefix.len() < 2 {
                let (first, rest) = bytes.split_at(1);
                self.prefix.extend_from_slice(first);
                bytes = rest;
                if let &[high, low] = self.prefix.as_slice() {
                    self.left = usize::from(u16::from_be_bytes([high, low]));
                    // No DNS, or not where a message begins.
                    self.lost = self.left < SHORTEST;
                }
                continue;
            }
            let (now, rest) = bytes.split_at(self.left.min(bytes.len()));
            if !self.holed {
                let room = KEPT - self.kept.len();
                self.kept.extend_from_slice(&now[..now.len().min(room)]);
            }
            self.left -= now.len();
            bytes = rest;
            self.end(tell);
        }
    }

    /// Tells the message if it is whole.
    fn end(&mut self, tell: &mut impl FnMut(&[u8], usize)) {
        if let (&[high, low], 0) = (self.prefix.as_slice(), self.left) {
            tell(&self.kept, usize::from(u16::from_be_bytes([high, low])));
            self.prefix.clear();
            self.kept.clear();
            self.holed = false;
        }
    }

    /// Goes on behind bytes that will not come; false when they hid where a message begins.
    fn skip(&mut self, missing: u32, tell: &mut impl FnMut(&[u8], usize)) -> bool {
        self.next = self.next.wrapping_add(missing);
        if self.lost {
            return true;
        }
        if self.prefix.len() == 2 && missing as usize <= self.left {
            self.left -= missing as usize;
            self.holed = true;
            self.end(tell);
            return true;
        }
        self.lost = true;
        self.kept = Vec::new();
        false
    }
}

/// Whether bytes look like a length and the header of a query (sent) or an answer (received).
fn begins(bytes: &[u8], query: bool) -> bool {
    let Some((&[high, low, _, _, flags, codes, _, questions], _)) = bytes.split_first_chunk() else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // QR, and an opcode in use (RFC 6895); the bit that must be zero; not more than one question.
    length >= SHORTEST
        && (flags & 0x80 == 0) == query
        && matches!(flags >> 3 & 0xf, 0 | 4 | 5)
        && codes & 0x40 == 0
        && bytes[6] == 0
        && questions <= 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Kind, decode};

    /// A record of a segment, as the programs make it.
    fn segment(seq: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
        let mut ends = Endpoints::default();
        (ends.family, ends.remote_port) = (libc::AF_INET as u16, 53);
        let mut record = Vec::new();
        DnsSegment {
            head: Header { kind: wire::EVENT_DNS_SEGMENT, time_ns: 7, cgroup_id: 5, ..Header::default() },
            ends,
            outgoing: 1,
            len: payload.len() as u32,
            seq,
            flags,
            netns: 9,
        }
        .write(&mut record);
        record.extend_from_slice(payload);
        record
    }

    fn query(name: &str) -> Vec<u8> {
        let mut m = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
        m.extend_from_slice(name.as_bytes());
        m.extend_from_slice(&[0, 0, 1, 0, 1]);
        let mut framed = (m.len() as u16).to_be_bytes().to_vec();
        framed.append(&mut m);
        framed
    }

    /// Names asked for, in the order they were told, with what is said of their sizes.
    fn told(streams: &mut Streams, segments: &[(u32, u32, &[u8])]) -> Vec<(String, u32, bool)> {
        let mut names = Vec::new();
        for (seq, flags, payload) in segments {
            let record = segment(*seq, *flags, payload);
            let fed = streams.feed(&record, |record| {
                let event = decode(record).expect("a record");
                assert_eq!((event.cgroup_id, event.time.as_nanos()), (5, 7));
                let Kind::Dns(dns) = event.kind else { panic!("{:?}", event.kind) };
                assert_eq!((dns.transport, dns.ends.netns), (crate::Transport::Tcp, 9));
                let message = dns.message.expect("a message");
                let name = message.questions.first().map_or_else(String::new, |q| q.name.clone());
                names.push((name, dns.size, message.incomplete));
            });
            assert_eq!(fed, Some(()));
        }
        names
    }

    fn whole(names: &[&str]) -> Vec<(String, u32, bool)> {
        names.iter().map(|n| ((*n).to_owned(), query(n).len() as u32 - 2, false)).collect()
    }

    #[test]
    fn every_cut_gives_the_same_messages() {
        let stream: Vec<u8> = ["one", "two", "three"].iter().flat_map(|n| query(n)).collect();
        // The sequence numbers run over their end on the way.
        let start = u32::MAX - 20;
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let mut streams = Streams::default();
                let parts: Vec<(u32, u32, &[u8])> = vec![
                    (start, SYN, b""),
                    (start, 0, &stream[..first]),
                    (start.wrapping_add(first as u32), 0, &stream[first..second]),
                    (start.wrapping_add(second as u32), FIN, &stream[second..]),
                ];
                assert_eq!(told(&mut streams, &parts), whole(&["one", "two", "three"]), "{first} {second}");
                assert_eq!((streams.open.len(), streams.waiting, streams.broken), (0, 0, 0));
            }
        }
        let bytes: Vec<(u32, u32, &[u8])> =
            (0..stream.len()).map(|at| (start.wrapping_add(at as u32), 0, &stream[at..=at])).collect();
        let mut streams = Streams::default();
        assert_eq!(told(&mut streams, &[(start, SYN, b"")]), []);
        assert_eq!(told(&mut streams, &bytes), whole(&["one", "two", "three"]));
    }

    #[test]
    fn order_and_repetition_change_nothing() {
        let stream: Vec<u8> = ["a", "bb", "ccc"].iter().flat_map(|n| query(n)).collect();
        let part = |from: usize, to: usize| (100 + from as u32, 0, &stream[from..to]);
        for parts in [
            vec![part(0, 10), part(10, 40), part(40, stream.len())],
            vec![part(40, stream.len()), part(10, 40), part(0, 10)],
            vec![part(10, 40), part(0, 10), part(10, 40), part(0, 10), part(40, stream.len())],
            // Sent again in other pieces.
            vec![part(0, 10), part(5, 30), part(0, 35), part(20, stream.len()), part(0, stream.len())],
        ] {
            let mut streams = Streams::default();
            assert_eq!(told(&mut streams, &[(100, SYN, b"")]), []);
            assert_eq!(told(&mut streams, &parts), whole(&["a", "bb", "ccc"]));
            assert_eq!((streams.waiting, streams.broken), (0, 0));
        }
    }

    #[test]
    fn what_is_missing_costs_as_little_as_it_can() {
        // Inside a long message: it is told without its end, and the next one whole.
        let mut long = query("long");
        long.resize(2 + 3000, 0xee);
        long[..2].copy_from_slice(&3000u16.to_be_bytes());
        let mut stream = long.clone();
        stream.extend(query("next"));
        let mut streams = Streams::default();
        let told_of =
            told(&mut streams, &[(0, SYN, b""), (0, 0, &stream[..512]), (2048, FIN, &stream[2048..])]);
        assert_eq!(told_of, [("long".to_owned(), 3000, false), whole(&["next"]).remove(0)]);
        assert_eq!(streams.broken, 0);
        // Where the next one begins: nothing more is made up, and that is counted.
        let mut streams = Streams::default();
        let told_of =
            told(&mut streams, &[(0, SYN, b""), (0, 0, &stream[..512]), (3004, FIN, &stream[3004..])]);
        assert_eq!((told_of, streams.broken), (vec![], 1));
        // Without an end of the stream it is waited for, but not for ever.
        let mut streams = Streams::default();
        assert_eq!(told(&mut streams, &[(0, SYN, b""), (0, 0, &stream[..512])]), []);
        let rest: Vec<(u32, u32, &[u8])> =
            (2048..stream.len()).map(|at| (at as u32, 0, &stream[at..=at])).collect();
        assert_eq!(told(&mut streams, &rest[..WAITING]), []);
        assert_eq!(told(&mut streams, &rest[WAITING..]).len(), 2);
        assert_eq!(streams.waiting, 0);
    }

    #[test]
    fn an_older_connection_is_taken_up_at_a_message() {
        let mut streams = Streams::default();
        let stream = query("older");
        assert_eq!(told(&mut streams, &[(50, 0, &stream[7..])]), []);
        assert_eq!(streams.open.len(), 0);
        assert_eq!(told(&mut streams, &[(50, 0, &stream)]), whole(&["older"]));
        // What is no DNS is left alone, whatever comes.
        let mut streams = Streams::default();
        let http = b"GET / HTTP/1.1\r\n\r\n";
        assert_eq!(
            told(&mut streams, &[(0, SYN, b""), (0, 0, &[0, 3, 1, 2, 3]), (5, 0, http), (23, 0, http)]),
            []
        );
        assert!(streams.open.values().all(|d| d.lost && d.kept.is_empty() && d.ahead.is_empty()));
    }

    #[test]
    fn whatever_comes_is_bounded() {
        let mut streams = Streams::default();
        // Many connections, each with a hole before everything.
        for n in 0..OPEN as u64 + 50 {
            for at in 0..8u32 {
                let mut record = segment(10 + at, if at == 0 { SYN } else { 0 }, b"x");
                record[16..24].copy_from_slice(&n.to_ne_bytes());
                if at == 0 {
                    let flags_and_no_bytes = segment(1, SYN, b"");
                    record = flags_and_no_bytes;
                    record[16..24].copy_from_slice(&n.to_ne_bytes());
                }
                streams.feed(&record, |_| ());
            }
        }
        assert!(
            streams.open.len() <= OPEN && streams.waiting <= ALL_WAITING + WAITING,
            "{}",
            streams.waiting
        );
        let counted: usize = streams.open.values().map(|d| d.ahead.len()).sum();
        assert_eq!(counted, streams.waiting);
        streams.forget(OPEN as u64 + 49);
        assert_eq!(streams.open.len(), OPEN - 1);

        // Noise, with lengths, flags and numbers that mean anything.
        let mut streams = Streams::default();
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..50_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let payload: Vec<u8> = (0..x as usize % 40).map(|i| (x >> (i % 56)) as u8 & 0x1f).collect();
            let flags = if x.is_multiple_of(31) { (x >> 20) as u32 & 6 } else { 0 };
            let record = segment((x >> 32) as u32 % 300, flags, &payload);
            streams.feed(&record, |record| drop(decode(record)));
            let cut = x as usize % (record.len() + 1);
            if cut < DnsSegment::SIZE + payload.len() {
                assert_eq!(streams.feed(&record[..cut], |_| ()), None);
            }
        }
        let counted: usize = streams.open.values().map(|d| d.ahead.len()).sum();
        assert_eq!(counted, streams.waiting);
    }
}
