//! Events on disk, for whoever asks afterwards.
//!
//! A log is a directory of segments. The newest is written to, and when all together are larger than they
//! may be, the oldest goes. What is kept of an event are the very bytes that came out of the kernel, so that
//! reading the log gives the same [`Event`] as reading the ring did, and writing it costs a copy; the
//! container's name and image stand beside it once per segment, as they were when the event was written,
//! because by the time somebody reads them the container may be gone.
//!
//! Nothing is synced. A process killed at any instant leaves at most one torn record, at the end of a
//! segment: it is not read, and the next writer cuts it off. A record whose checksum is wrong (a power cut)
//! ends its segment, which [`Skipped`] names. A segment written by a build with other structures is skipped
//! and named as well; guessing would show events that never were.
//!
//! ```text
//! segment = "BHEVLOG1", layout: u64, record…
//! record  = length: u32, checksum: u32, body
//! body    = 1, cgroup: u64, three lengths: u16, id, name, image     whose events follow
//!         | 2, wall ns: u64, latency ns: u64, bytes of the ring     an event
//!         | 3, wall ns: u64, bytes of key and value                 a UDP flow
//!         | 4, wall ns: u64, (count: u64, length: u16, cause)…      what is missing since the last of these
//! ```

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::event::{self, Event, Kind};
use crate::wire;

const MAGIC: [u8; 8] = *b"BHEVLOG1";
const HEADER: usize = 16;
/// Segments that a full log has.
const SEGMENTS: u64 = 8;
/// The smallest segment: an exec has 6 KiB at most.
const SMALLEST: u64 = 64 << 10;
/// No record is larger; a length above this is damage.
const LARGEST: usize = 32 << 10;
/// What is gathered before it is written.
const BUFFER: usize = 64 << 10;

const OWNER: u8 = 1;
const RECORD: u8 = 2;
const FLOW: u8 = 3;
const LOST: u8 = 4;

/// The bytes behind an event, as [`crate::Stream::poll`] hands them out.
#[derive(Clone, Copy, Debug)]
pub enum Raw<'a> {
    /// A record of the ring, and what only its reader could know.
    Record {
        /// The record.
        bytes: &'a [u8],
        /// Time since the query, of a DNS answer.
        latency: Option<Duration>,
    },
    /// Key and value of a flow.
    Flow(&'a [u8]),
}

/// Whose events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The container's full id; empty for a cgroup that is no container's.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image, as named at creation.
    pub image: String,
}

/// A log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("{call} {path}: {source}", path = path.display())]
    Io {
        /// The call.
        call: &'static str,
        /// Its object.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else writes it.
    #[error("another process writes the event log {}", .0.display())]
    Held(PathBuf),
    /// Nobody has ever written it.
    #[error("there is no event log at {}: `bulkhead serve` writes it", .0.display())]
    Absent(PathBuf),
}

/// Where the log of an engine's root lies.
pub fn directory(root: &Path) -> PathBuf {
    root.join("events")
}

trait At<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, LogError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, LogError> {
        self.map_err(|source| LogError::Io { call, path: path.to_owned(), source })
    }
}

/// FNV-1a over words instead of bytes: a torn or zeroed record has to be told from a whole one, and
/// nothing more.
fn checksum(body: &[u8]) -> u32 {
    let (words, rest) = body.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let hash = words.iter().chain([&last]).fold(0xcbf2_9ce4_8422_2325 ^ body.len() as u64, |hash, word| {
        (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x100_0000_01b3).rotate_left(29)
    });
    (hash ^ (hash >> 32)) as u32
}

/// The segments of a directory with their sequence numbers, oldest first.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).at("readdir", dir)? {
        let path = entry.at("readdir", dir)?.path();
        if path.extension() == Some(OsStr::new("events"))
            && let Some(number) = path.file_stem().and_then(OsStr::to_str).and_then(|n| n.parse().ok())
        {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a log; one at a time, which a lock sees to.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    /// Bytes of all segments together.
    limit: u64,
    segment: File,
    path: PathBuf,
    number: u64,
    /// Bytes of this segment that are whole.
    written: u64,
    buffer: Vec<u8>,
    /// Events in the buffer.
    pending: u64,
    /// Who has been introduced in this segment.
    owners: HashMap<u64, Owner>,
    /// Dropped with us, or by the kernel when we are killed.
    _lock: File,
}

impl Writer {
    /// Opens or makes the log in a directory, which together may take about `limit` bytes.
    pub fn open(dir: &Path, limit: u64) -> Result<Self, LogError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).at("mkdir", dir)?;
        let lock = dir.join("lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock_file = options.open(&lock).at("open", &lock)?;
        match lock_file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::Held(dir.to_owned())),
            Err(TryLockError::Error(source)) => return Err(source).at("flock", &lock),
        }
        let mut last = None;
        if let Some((number, path)) = segments(dir)?.pop() {
            // After a torn record nothing would be read; what cannot be continued is left as it is.
            let whole = whole(&path)?;
            if whole >= HEADER as u64 {
                let file = OpenOptions::new().write(true).open(&path).at("open", &path)?;
                file.set_len(whole).at("ftruncate", &path)?;
                last = Some((number, path, file, whole));
            } else {
                last = Some(new_segment(dir, number + 1)?);
            }
        }
        let (number, path, segment, written) = match last {
            Some(last) => last,
            None => new_segment(dir, 1)?,
        };
        let mut writer = Self {
            dir: dir.to_owned(),
            limit: limit.max(SMALLEST * SEGMENTS),
            segment,
            path,
            number,
            written,
            buffer: Vec::with_capacity(BUFFER * 2),
            pending: 0,
            owners: HashMap::new(),
            _lock: lock_file,
        };
        writer.make_room()?;
        Ok(writer)
    }

    /// Takes an event in; it is on its way to the disk after [`Writer::flush`]. An error says how many
    /// events it cost.
    pub fn append(&mut self, event: &Event, raw: Raw<'_>, owner: &Owner) -> Result<(), (u64, LogError)> {
        if self.owners.get(&event.cgroup_id) != Some(owner) {
            self.introduce(event.cgroup_id, owner);
        }
        let wall = nanos(crate::Tracer::wall(event.time));
        self.frame(|out| match raw {
            Raw::Record { bytes, latency } => {
                out.push(RECORD);
                out.extend_from_slice(&wall.to_le_bytes());
                let latency = latency.map_or(u64::MAX, |l| l.as_nanos() as u64);
                out.extend_from_slice(&latency.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Raw::Flow(bytes) => {
                out.push(FLOW);
                out.extend_from_slice(&wall.to_le_bytes());
                out.extend_from_slice(bytes);
            }
        });
        self.pending += 1;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Says how many events are missing since this was last said.
    pub fn lost(&mut self, causes: &BTreeMap<String, u64>) {
        let now = nanos(SystemTime::now());
        self.frame(|out| {
            out.push(LOST);
            out.extend_from_slice(&now.to_le_bytes());
            for (cause, count) in causes {
                out.extend_from_slice(&count.to_le_bytes());
                text(out, cause);
            }
        });
    }

    /// Hands everything to the kernel.
    pub fn flush(&mut self) -> Result<(), (u64, LogError)> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let result = self.segment.write_all_at(&self.buffer, self.written).at("write", &self.path);
        let length = self.buffer.len() as u64;
        self.buffer.clear();
        if let Err(error) = result {
            // Half a record (a full disk): the next one must not stand behind it. Its owners went as well.
            let _ = self.segment.set_len(self.written);
            self.owners.clear();
            return Err((pending, error));
        }
        self.written += length;
        if self.written >= self.limit / SEGMENTS {
            let (number, path, segment, written) =
                new_segment(&self.dir, self.number + 1).map_err(|error| (0, error))?;
            (self.number, self.path, self.segment, self.written) = (number, path, segment, written);
            self.owners.clear();
            self.make_room().map_err(|error| (0, error))?;
        }
        Ok(())
    }

    /// Removes the oldest segments until there is room for a full newest one.
    fn make_room(&mut self) -> Result<(), LogError> {
        let mut all = segments(&self.dir)?;
        let mut sizes: Vec<u64> =
            all.iter().map(|(_, path)| fs::metadata(path).map_or(0, |meta| meta.len())).collect();
        while all.len() > 1 && sizes.iter().sum::<u64>() > self.limit - self.limit / SEGMENTS {
            let (_, oldest) = all.remove(0);
            sizes.remove(0);
            fs::remove_file(&oldest).at("unlink", &oldest)?;
        }
        Ok(())
    }

    fn introduce(&mut self, cgroup: u64, owner: &Owner) {
        self.frame(|out| {
            out.push(OWNER);
            out.extend_from_slice(&cgroup.to_le_bytes());
            for word in [&owner.id, &owner.name, &owner.image] {
                text(out, word);
            }
        });
        self.owners.insert(cgroup, owner.clone());
    }

    fn frame(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        frame(&mut self.buffer, write);
    }
}

fn frame(buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = buffer.len();
    buffer.extend_from_slice(&[0; 8]);
    write(buffer);
    let body = &buffer[at + 8..];
    let (length, sum) = (body.len() as u32, checksum(body));
    buffer[at..at + 4].copy_from_slice(&length.to_le_bytes());
    buffer[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
}

/// What a segment of this build begins with.
pub fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..].copy_from_slice(&wire::LAYOUT.to_le_bytes());
    header
}

/// Appends a record with any body, and the length and checksum it should have.
pub fn record(segment: &mut Vec<u8>, body: &[u8]) {
    frame(segment, |out| out.extend_from_slice(body));
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Whoever wants to know calls it before.
        let _ = self.flush();
    }
}

fn text(out: &mut Vec<u8>, word: &str) {
    // Names and references are far shorter.
    let word = &word.as_bytes()[..word.len().min(4096)];
    out.extend_from_slice(&(word.len() as u16).to_le_bytes());
    out.extend_from_slice(word);
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

fn new_segment(dir: &Path, mut number: u64) -> Result<(u64, PathBuf, File, u64), LogError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let (path, file) = loop {
        let path = dir.join(format!("{number:012}.events"));
        match options.open(&path) {
            Ok(file) => break (path, file),
            // What is left of an attempt that could not be taken back. Nobody else writes here.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error).at("open", &path),
        }
    };
    if let Err(error) = file.write_all_at(&header(), 0) {
        // On a full disk the next flush tries again, and is to find the number free.
        let _ = fs::remove_file(&path);
        return Err(error).at("write", &path);
    }
    Ok((number, path, file, HEADER as u64))
}

/// Bytes at the beginning of a segment that hold whole records; 0 when it is no segment of ours.
fn whole(path: &Path) -> Result<u64, LogError> {
    let mut bytes = Vec::new();
    File::open(path).at("open", path)?.read_to_end(&mut bytes).at("read", path)?;
    let Some(mut rest) = records(&bytes) else { return Ok(0) };
    while rest.next().is_some() {}
    Ok(rest.at as u64)
}

/// The records of a segment; `None` for bytes that do not begin as ours do.
fn records(bytes: &[u8]) -> Option<Records<'_>> {
    (bytes.get(..HEADER)? == header()).then_some(Records { bytes, at: HEADER })
}

/// Ends at the first record that is not whole; `at` is where.
struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.get(self.at..)?.split_first_chunk::<8>()?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let sum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let body = rest.get(..length)?;
        if length == 0 || length > LARGEST || checksum(body) != sum {
            return None;
        }
        self.at += 8 + length;
        Some(body)
    }
}

/// What a log has to say.
#[derive(Debug)]
pub enum Entry<'a> {
    /// An event, and whose it is.
    Event {
        /// When, by the clock as it was set when it was written.
        wall: SystemTime,
        /// The event as the ring gave it.
        event: &'a Event,
        /// The container.
        owner: &'a Owner,
    },
    /// Events that were lost.
    Lost {
        /// When that was noticed.
        wall: SystemTime,
        /// By cause, since the last of these.
        causes: BTreeMap<String, u64>,
    },
}

/// A segment of which not everything could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// From a byte on there are no whole records, though it is not the end of what is being written.
    Damaged(PathBuf, u64),
    /// Another build wrote it.
    Foreign(PathBuf),
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(path, at) => {
                write!(f, "{} is damaged at byte {at}: what follows is not shown", path.display())
            }
            Self::Foreign(path) => write!(f, "{} was written by another version: not shown", path.display()),
        }
    }
}

/// Reads a log, oldest first, from segments that were written to after `since`.
pub fn read(
    dir: &Path,
    since: SystemTime,
    mut sink: impl FnMut(Entry<'_>),
) -> Result<Vec<Skipped>, LogError> {
    let all = match segments(dir) {
        Ok(all) if !all.is_empty() => all,
        Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(LogError::Absent(dir.to_owned()));
        }
        Ok(_) => return Err(LogError::Absent(dir.to_owned())),
        Err(error) => return Err(error),
    };
    let mut skipped = Vec::new();
    for (_, path) in all {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            // Rotated away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).at("open", &path),
        };
        let meta = file.metadata().at("stat", &path)?;
        // A clock that was set back makes both sides doubtful; then rather too much is read than too little.
        if meta.modified().is_ok_and(|modified| modified + Duration::from_secs(60) < since) {
            continue;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).at("read", &path)?;
        match parse(&bytes, &mut sink) {
            None if bytes.len() < HEADER => {}
            None => skipped.push(Skipped::Foreign(path)),
            // A record that is only begun is being written, or was when its writer was killed.
            Some(at) if bytes.len() - at < 8 + LARGEST && begun(&bytes[at..]) => {}
            Some(at) if at == bytes.len() => {}
            Some(at) => skipped.push(Skipped::Damaged(path, at as u64)),
        }
    }
    Ok(skipped)
}

/// Whether the bytes are a record whose end is missing.
fn begun(rest: &[u8]) -> bool {
    rest.first_chunk::<4>().is_none_or(|head| {
        let length = u32::from_le_bytes(*head) as usize;
        length > 0 && length <= LARGEST && rest.len() < 8 + length
    })
}

/// Reads one segment; returns where its whole records end, or `None` for bytes that are no segment of this
/// build. Takes any bytes: a record that makes no sense is left out.
pub fn parse(bytes: &[u8], sink: &mut impl FnMut(Entry<'_>)) -> Option<usize> {
    let mut records = records(bytes)?;
    let mut owners: HashMap<u64, Owner> = HashMap::new();
    let nobody = Owner::default();
    for body in records.by_ref() {
        // What is whole and yet no entry is of no use to anyone.
        let _ = entry(body, &mut owners, &nobody, sink);
    }
    Some(records.at)
}

fn entry(
    body: &[u8],
    owners: &mut HashMap<u64, Owner>,
    nobody: &Owner,
    sink: &mut impl FnMut(Entry<'_>),
) -> Option<()> {
    let (tag, mut rest) = body.split_first()?;
    let first = take_u64(&mut rest)?;
    if *tag == OWNER {
        let mut word = || take_text(&mut rest);
        let owner = Owner { id: word()?, name: word()?, image: word()? };
        owners.insert(first, owner);
        return Some(());
    }
    let wall = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(first))?;
    let event = match *tag {
        RECORD => {
            let latency = take_u64(&mut rest)?;
            let mut event = event::decode(rest).ok()?;
            if let Kind::Dns(dns) = &mut event.kind {
                dns.latency = (latency != u64::MAX).then(|| Duration::from_nanos(latency));
            }
            event
        }
        FLOW => {
            let (key, value) = rest.split_at_checked(wire::FlowKey::SIZE)?;
            event::flow(&wire::FlowKey::read(key)?, &wire::Flow::read(value)?).ok()?
        }
        LOST => {
            let mut causes = BTreeMap::new();
            while !rest.is_empty() {
                let count = take_u64(&mut rest)?;
                causes.insert(take_text(&mut rest)?, count);
            }
            sink(Entry::Lost { wall, causes });
            return Some(());
        }
        _ => return None,
    };
    let owner = owners.get(&event.cgroup_id).unwrap_or(nobody);
    sink(Entry::Event { wall, event: &event, owner });
    Some(())
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (word, left) = rest.split_first_chunk::<8>()?;
    *rest = left;
    Some(u64::from_le_bytes(*word))
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let (length, left) = rest.split_first_chunk::<2>()?;
    let (word, left) = left.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *rest = left;
    Some(String::from_utf8_lossy(word).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("bulkhead-event-log-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Self(dir)
        }

        fn read(&self) -> (Vec<(u32, String)>, u64, Vec<Skipped>) {
            let (mut events, mut lost) = (Vec::new(), 0);
            let skipped = read(&self.0, SystemTime::UNIX_EPOCH, |entry| match entry {
                Entry::Event { event, owner, .. } => {
                    let Kind::Exit(_) = event.kind else { panic!("{event:?}") };
                    events.push((event.task.unwrap().pid, owner.name.clone()));
                }
                Entry::Lost { causes, .. } => lost += causes.values().sum::<u64>(),
            })
            .unwrap();
            (events, lost, skipped)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn exit(cgroup: u64, pid: u32) -> Vec<u8> {
        let head = wire::Header {
            kind: wire::EVENT_EXIT,
            time_ns: 5,
            cgroup_id: cgroup,
            leaf_cgroup_id: cgroup,
            task: wire::Task { pid, ..Default::default() },
        };
        let mut bytes = Vec::new();
        wire::ExitEvent { head, duration_ns: 1, status: 0 }.write(&mut bytes);
        bytes
    }

    fn put(writer: &mut Writer, cgroup: u64, pid: u32, name: &str) {
        let bytes = exit(cgroup, pid);
        let event = event::decode(&bytes).unwrap();
        let owner = Owner { id: format!("{cgroup:064}"), name: name.into(), image: "i".into() };
        writer.append(&event, Raw::Record { bytes: &bytes, latency: None }, &owner).unwrap();
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = Dir::new("read");
        assert!(matches!(read(&dir.0, SystemTime::now(), |_| ()), Err(LogError::Absent(_))));
        let mut writer = Writer::open(&dir.0, 0).unwrap();
        put(&mut writer, 1, 10, "one");
        put(&mut writer, 2, 20, "two");
        writer.lost(&BTreeMap::from([("ring full: exec".to_owned(), 7)]));
        put(&mut writer, 1, 11, "renamed");
        writer.flush().unwrap();
        assert!(matches!(Writer::open(&dir.0, 0), Err(LogError::Held(_))));
        let want = vec![(10, "one".to_owned()), (20, "two".into()), (11, "renamed".into())];
        assert_eq!(dir.read(), (want, 7, vec![]));
        // The clock's time of the last write is in the future of nobody.
        let later = SystemTime::now() + Duration::from_secs(3600);
        read(&dir.0, later, |entry| panic!("{entry:?}")).unwrap();
    }

    /// Every length that a kill can leave, and what the next writer makes of it.
    #[test]
    fn a_torn_end_costs_the_last_record_only() {
        let dir = Dir::new("torn");
        let mut writer = Writer::open(&dir.0, 0).unwrap();
        put(&mut writer, 1, 10, "one");
        writer.flush().unwrap();
        let before = writer.written as usize;
        put(&mut writer, 1, 11, "one");
        drop(writer);
        let path = segments(&dir.0).unwrap()[0].1.clone();
        let whole = fs::read(&path).unwrap();
        for length in before..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(dir.read(), (vec![(10, "one".to_owned())], 0, vec![]), "{length}");
            let mut writer = Writer::open(&dir.0, 0).unwrap();
            put(&mut writer, 3, 12, "next");
            drop(writer);
            let want = vec![(10, "one".to_owned()), (12, "next".to_owned())];
            assert_eq!(dir.read(), (want, 0, vec![]), "{length}");
        }
        // Less than a header is a segment that was just begun.
        fs::write(&path, &whole[..7]).unwrap();
        assert_eq!(dir.read(), (vec![], 0, vec![]));
        put(&mut Writer::open(&dir.0, 0).unwrap(), 1, 13, "new");
        assert_eq!(dir.read(), (vec![(13, "new".to_owned())], 0, vec![]));
    }

    #[test]
    fn damage_and_other_layouts_are_named() {
        let dir = Dir::new("damage");
        let mut writer = Writer::open(&dir.0, 0).unwrap();
        for pid in 1..=20 {
            put(&mut writer, 1, pid, "one");
        }
        drop(writer);
        let path = segments(&dir.0).unwrap()[0].1.clone();
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (events, _, skipped) = dir.read();
        assert!(!events.is_empty() && events.len() < 20);
        assert!(matches!(&skipped[..], [Skipped::Damaged(p, _)] if *p == path), "{skipped:?}");
        let mut bytes = good.clone();
        bytes[8] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(dir.read().2, [Skipped::Foreign(path.clone())]);
        // It is left alone, and writing goes on in another.
        put(&mut Writer::open(&dir.0, 0).unwrap(), 1, 77, "new");
        assert_eq!(dir.read(), (vec![(77, "new".to_owned())], 0, vec![Skipped::Foreign(path)]));
        // No bytes are too odd.
        for at in (0..good.len()).step_by(3) {
            for bit in [1, 0x80] {
                let mut bytes = good.clone();
                bytes[at] ^= bit;
                parse(&bytes, &mut |_| ());
                parse(&bytes[..at], &mut |_| ());
            }
        }
    }

    /// As after a disk that was full when a segment was begun, and a kill before that was taken back.
    #[test]
    fn a_segment_that_was_only_begun_does_not_end_the_rotation() {
        let dir = Dir::new("begun");
        let limit = SMALLEST * SEGMENTS;
        let mut writer = Writer::open(&dir.0, limit).unwrap();
        fs::write(dir.0.join(format!("{:012}.events", writer.number + 1)), b"").unwrap();
        let count = 20_000;
        for pid in 1..=count {
            put(&mut writer, 1, pid, "one");
        }
        drop(writer);
        for (_, path) in segments(&dir.0).unwrap() {
            let size = fs::metadata(&path).unwrap().len();
            assert!(size <= SMALLEST + 2 * BUFFER as u64, "{}: {size}", path.display());
        }
        let (events, _, skipped) = dir.read();
        assert_eq!((events.last().map(|(pid, _)| *pid), skipped), (Some(count), vec![]));
    }

    #[test]
    fn the_oldest_goes() {
        let dir = Dir::new("rotate");
        let limit = SMALLEST * SEGMENTS;
        let mut writer = Writer::open(&dir.0, limit).unwrap();
        let count = 20_000;
        for pid in 1..=count {
            put(&mut writer, 1, pid, "one");
        }
        drop(writer);
        let sizes: u64 =
            segments(&dir.0).unwrap().iter().map(|(_, path)| fs::metadata(path).unwrap().len()).sum();
        assert!(sizes <= limit + 2 * BUFFER as u64 && sizes > limit / 2, "{sizes}");
        let (events, _, skipped) = dir.read();
        assert_eq!(skipped, []);
        // A run without gaps up to the last one, each with its name.
        let first = events[0].0;
        assert!(first > 1);
        let want: Vec<_> = (first..=count).map(|pid| (pid, "one".to_owned())).collect();
        assert_eq!(events, want);
    }
}
