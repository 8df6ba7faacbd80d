//! What happened to containers, images, networks and volumes: the log behind `events`.
//!
//! There is no daemon to ask, so whoever does something writes it down: one line of JSON, appended in one
//! write to a file below the store's root. Appending is what the kernel orders for us, so writers need no
//! lock, and readers follow the file as they would any log. It is bounded: a writer that finds it grown
//! beyond [`LIMIT`] gives it the name of the one before, which is thereby forgotten.
//!
//! An event is told after the fact and never fails what it tells of: a full disk loses lines of this log,
//! not containers. A line that is torn is passed over by every reader.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::filter::{self, Given, label_holds};
use crate::store::Layout;

/// Bytes after which the log begins anew; as many again are kept of the one before.
const LIMIT: u64 = 4 << 20;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl Kind {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since 1970.
    pub time: i64,
    /// What it is about.
    pub kind: Kind,
    /// Docker's name for what happened: `start`, `exec_create: ls`, `health_status: healthy`.
    pub action: String,
    /// The container's, image's or network's id, the volume's name.
    pub id: String,
    /// Its name, image, labels, and what the action adds.
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// An event of this moment.
    pub fn new(kind: Kind, action: impl Into<String>, id: impl Into<String>) -> Self {
        Self { time: now(), kind, action: action.into(), id: id.into(), attributes: BTreeMap::new() }
    }

    /// The same with one more attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.attributes.insert(name.to_owned(), value.to_string());
        self
    }

    /// Writes down that it has happened just now, and not when it was put together.
    pub(crate) fn tell_now(&self, layout: &Layout) {
        Self { time: now(), ..self.clone() }.tell(layout);
    }

    /// Writes it down.
    pub fn tell(&self, layout: &Layout) {
        // See above: there is nobody to complain to who could do anything about it.
        let _ = append(&path(layout), self, LIMIT);
    }
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn path(layout: &Layout) -> PathBuf {
    layout.root.join("events.log")
}

fn before(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn append(path: &Path, event: &Event, limit: u64) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut file = File::options().append(true).create(true).mode(0o600).open(path)?;
    // One write, so that two writers do not mix.
    let written = file.write(&line)?;
    if written < line.len() {
        // The next line must not become the end of this one.
        let _ = file.write(b"\n");
    }
    // Where the append left off is how long the file is.
    if file.stream_position()? > limit {
        rotate(path, file)?;
    }
    Ok(())
}

/// Begins the log anew, once: of two writers that find it too long, one does it.
fn rotate(path: &Path, file: File) -> io::Result<()> {
    let Ok(file) = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) else {
        return Ok(());
    };
    if fs::metadata(path)?.ino() == file.metadata()?.ino() {
        fs::rename(path, before(path))?;
    }
    Ok(())
}

/// Reads the log, and what is added to it.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// `None` when there was none yet.
    file: Option<BufReader<File>>,
    partial: Vec<u8>,
}

impl Reader {
    /// From the oldest event that is known.
    pub fn from_start(layout: &Layout) -> io::Result<(Vec<Event>, Self)> {
        let path = path(layout);
        let mut events = Vec::new();
        // What is renamed between the two opens is read in neither; look again when that happens.
        for _ in 0..10 {
            events.clear();
            let old = open(&before(&path))?;
            let current = open(&path)?;
            let inode = |file: &Option<File>| file.as_ref().and_then(|f| f.metadata().ok()).map(|m| m.ino());
            let named = fs::metadata(before(&path)).ok().map(|m| m.ino());
            if inode(&old) != named {
                continue;
            }
            if let Some(old) = old {
                let mut reader =
                    Self { path: path.clone(), file: Some(BufReader::new(old)), partial: Vec::new() };
                reader.rest(&mut events)?;
            }
            let reader = Self { path, file: current.map(BufReader::new), partial: Vec::new() };
            return Ok((events, reader));
        }
        Err(io::Error::other("the log of events is begun anew faster than it can be read"))
    }

    /// From the next event on.
    pub fn from_now(layout: &Layout) -> io::Result<Self> {
        let path = path(layout);
        let mut file = open(&path)?;
        if let Some(file) = &mut file {
            file.seek(SeekFrom::End(0))?;
        }
        Ok(Self { path, file: file.map(BufReader::new), partial: Vec::new() })
    }

    /// What has been added since.
    pub fn more(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            self.rest(&mut events)?;
            let here = match &self.file {
                Some(file) => Some(file.get_ref().metadata()?.ino()),
                None => None,
            };
            let named = match fs::metadata(&self.path) {
                Ok(meta) => Some(meta.ino()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if named.is_none() || named == here {
                return Ok(events);
            }
            // Begun anew. Whoever had the old one open may have added to it before we looked.
            self.rest(&mut events)?;
            self.partial.clear();
            self.file = open(&self.path)?.map(BufReader::new);
        }
    }

    /// Adds what the open file still has.
    fn rest(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        while file.read_until(b'\n', &mut self.partial)? > 0 {
            if self.partial.ends_with(b"\n") {
                events.extend(parse(&self.partial));
                self.partial.clear();
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// One line; `None` for a torn one.
fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok()
}

/// Wakes a reader when the log changes.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    path: PathBuf,
}

impl Watch {
    /// Watches the log, which need not exist yet. Make it before reading: what is added in between then
    /// wakes.
    pub fn new(layout: &Layout) -> io::Result<Self> {
        let watch = Self {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            path: path(layout),
        };
        let anew = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        watch.inotify.add_watch(&layout.root, anew)?;
        watch.renew();
        Ok(watch)
    }

    /// Wakes as well for what is written into the files of a directory, and for new ones.
    pub fn and(self, directory: &Path) -> io::Result<Self> {
        let written = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        self.inotify.add_watch(directory, written)?;
        Ok(self)
    }

    /// The log that has the name now.
    fn renew(&self) {
        // There is none yet: the directory's watch tells when there is.
        let _ = self.inotify.add_watch(&self.path, AddWatchFlags::IN_MODIFY);
    }

    /// Waits for a change, at most so long.
    pub fn wait(&self, patience: PollTimeout) -> io::Result<()> {
        let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, patience) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        match self.inotify.read_events() {
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.renew();
        Ok(())
    }
}

/// What events may be filtered by.
const KEYS: &[&str] =
    &["container", "daemon", "event", "image", "label", "network", "scope", "type", "volume"];

/// Refuses filters that events have not.
pub fn check(filters: &[Given]) -> Result<(), filter::Error> {
    match filters.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        Some((key, _)) => Err(filter::Error::Invalid(key.clone())),
        None => Ok(()),
    }
}

/// Whether an event passes the filters.
pub fn admits(event: &Event, filters: &[Given]) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let is_image = |name: &str, wanted: &str| {
        name == wanted
            || name.strip_suffix(":latest") == Some(wanted)
            || name.split(':').next() == Some(wanted)
    };
    let fits = |key: &str, wanted: &str| match (key, event.kind) {
        ("container", Kind::Container) | ("network", Kind::Network) | ("volume", Kind::Volume) => {
            event.id.starts_with(wanted) || attribute("name") == wanted
        }
        ("container", Kind::Network | Kind::Volume) => {
            attribute("container").starts_with(wanted) && !wanted.is_empty()
        }
        ("event", _) => {
            event.action == wanted
                || event.action.split_once(": ").is_some_and(|(action, _)| action == wanted)
        }
        ("image", Kind::Image) => event.id == wanted || is_image(attribute("name"), wanted),
        ("image", Kind::Container) => is_image(attribute("image"), wanted),
        ("label", _) => label_holds(&event.attributes, wanted),
        ("scope", _) => wanted == "local",
        ("type", _) => event.kind.as_str() == wanted,
        _ => false,
    };
    filter::all_hold(filters, fits)
}

/// The fields that Docker's API has.
pub fn message(event: &Event) -> Value {
    let mut message = json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time.div_euclid(1_000_000_000),
        "timeNano": event.time,
    });
    // What it had before there were types, and scripts still read.
    if !matches!(event.kind, Kind::Network | Kind::Volume) {
        message["status"] = json!(event.action);
        message["id"] = json!(event.id);
    }
    if event.kind == Kind::Container {
        message["from"] = json!(event.attributes.get("image"));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout { root: dir.path().to_owned(), run_root: dir.path().join("run") };
        (dir, layout)
    }

    fn names(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.action.as_str()).collect()
    }

    #[test]
    fn what_is_told_is_read_in_order_and_torn_lines_are_passed_over() {
        let (_dir, layout) = layout();
        assert!(Reader::from_start(&layout).expect("read").0.is_empty(), "no log yet");
        Event::new(Kind::Image, "tag", "sha256:1").with("name", "a\"b\nc").tell(&layout);
        fs::OpenOptions::new()
            .append(true)
            .open(path(&layout))
            .expect("open")
            .write_all(b"{\"time\":1,\n")
            .expect("write");
        Event::new(Kind::Network, "create", "n").tell(&layout);
        let (events, mut reader) = Reader::from_start(&layout).expect("read");
        assert!(events.is_empty(), "there is no older log");
        let events = reader.more().expect("more");
        assert_eq!(names(&events), ["tag", "create"]);
        assert_eq!(events[0].attributes["name"], "a\"b\nc");
        assert!(reader.more().expect("more").is_empty());
        Event::new(Kind::Container, "start", "c").tell(&layout);
        assert_eq!(names(&reader.more().expect("more")), ["start"]);
    }

    #[test]
    fn half_a_line_is_read_when_it_is_whole() {
        let (_dir, layout) = layout();
        let line = serde_json::to_string(&Event::new(Kind::Image, "tag", "i")).expect("JSON") + "\n";
        let mut file = File::create(path(&layout)).expect("create");
        let (_, mut reader) = Reader::from_start(&layout).expect("read");
        file.write_all(&line.as_bytes()[..20]).expect("write");
        assert!(reader.more().expect("more").is_empty());
        file.write_all(&line.as_bytes()[20..]).expect("write");
        assert_eq!(names(&reader.more().expect("more")), ["tag"]);
    }

    #[test]
    fn the_log_is_bounded_and_a_reader_follows_it_into_the_next() {
        let (_dir, layout) = layout();
        let path = path(&layout);
        let mut reader = Reader::from_now(&layout).expect("reader");
        let mut seen = Vec::new();
        for n in 0..100 {
            append(&path, &Event::new(Kind::Image, n.to_string(), "i"), 1000).expect("append");
            seen.extend(reader.more().expect("more"));
        }
        let all: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(names(&seen), all);
        assert!(
            fs::metadata(&path).map_or(0, |m| m.len()) + fs::metadata(before(&path)).expect("stat").len()
                < 2400
        );
        let (mut events, mut rest) = Reader::from_start(&layout).expect("read");
        events.extend(rest.more().expect("more"));
        assert!(
            !events.is_empty()
                && all.ends_with(&names(&events).iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
        );
    }

    #[test]
    fn a_watch_wakes_for_a_log_that_was_not_there() {
        let (_dir, layout) = layout();
        let watch = Watch::new(&layout).expect("watch");
        let mut reader = Reader::from_now(&layout).expect("reader");
        for action in ["one", "two"] {
            Event::new(Kind::Image, action, "i").tell(&layout);
            let mut seen = Vec::new();
            while seen.is_empty() {
                watch.wait(PollTimeout::NONE).expect("wait");
                seen = reader.more().expect("more");
            }
            assert_eq!(names(&seen), [action]);
        }
    }

    fn event() -> Event {
        Event {
            time: 1_700_000_000_123_456_789,
            kind: Kind::Container,
            action: "exec_create: sh -c x".to_owned(),
            id: "0123abc".to_owned(),
            attributes: [("image", "busybox:1"), ("name", "web"), ("tier", "ab")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        }
    }

    #[test]
    fn filters_are_or_within_a_key_and_and_between_keys() {
        let admits = |filters: &[(&str, &str)]| {
            let filters: Vec<_> = filters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            super::admits(&event(), &filters)
        };
        assert!(admits(&[]));
        assert!(admits(&[("container", "web"), ("container", "other"), ("type", "container")]));
        assert!(admits(&[("container", "0123"), ("event", "exec_create"), ("image", "busybox")]));
        assert!(!admits(&[("container", "web"), ("type", "image")]));
        assert!(!admits(&[("label", "tier"), ("label", "absent")]));
        assert!(admits(&[("label", "name=web")]));
        assert!(!admits(&[("network", "web")]));
    }

    #[test]
    fn json_has_the_old_fields_as_well() {
        let message = message(&event());
        assert_eq!(message["status"], message["Action"]);
        assert_eq!(
            (&message["time"], &message["timeNano"]),
            (&json!(1_700_000_000), &json!(1_700_000_000_123_456_789_i64))
        );
        assert_eq!(message["Actor"]["Attributes"]["name"], "web");
        assert_eq!(message["from"], "busybox:1");
    }
}
