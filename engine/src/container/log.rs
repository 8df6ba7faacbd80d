//! A container's output on disk, in Docker's json-file format.
//!
//! One JSON object a line: `{"log":"text\n","stream":"stdout","time":"…"}`. The format is kept because
//! log shippers read these files directly. A line of the container longer than 16 KiB is written in
//! pieces, as Docker does; only the last piece ends in a newline, so a reader that prints `log` as it
//! stands shows the output unchanged. The file is created at the first byte: a container that prints
//! nothing costs no file.
//!
//! A rotated file can be compressed (`compress`), which Docker does on a thread. A monitor has none, and must not
//! stand still for a file of a hundred megabytes either. So a rotated file is compressed piece by piece: whatever is
//! written brings the work on by several times its own length, so that it is done long before the next
//! rotation. Until then the file is there as it was, and a monitor that is killed meanwhile leaves it to the next.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The longest piece of one line, in bytes.
const PIECE: usize = 16 * 1024;

/// What is compressed for each byte that is written, and at least, in bytes.
const PACE: (usize, usize) = (4, 64 << 10);

/// Files that the driver `local` keeps, and how long one may get. Docker's values.
const LOCAL: (usize, u64) = (5, 20 << 20);

/// What `--log-driver` and `--log-opt` ask for cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// No such driver.
    #[error("logger: no log driver named '{0}' is registered")]
    Driver(String),
    /// An option that the driver does not have.
    #[error("unknown log opt '{option}' for {driver} log driver")]
    Option {
        /// The option.
        option: String,
        /// The driver.
        driver: String,
    },
    /// An option's value makes no sense.
    #[error("failed to create task for container: {option}: {why}")]
    Value {
        /// The option.
        option: String,
        /// What is wrong.
        why: String,
    },
}

/// A container's `LogConfig`, understood.
///
/// The driver `local` is Docker's name for a log that nobody but the engine reads, kept short by default. Here
/// it is the same file as `json-file`'s with those limits, and is compressed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Rotate above this many bytes; `None` never.
    pub max_size: Option<u64>,
    /// Files kept, the current one included.
    pub max_files: usize,
    /// Rotated files are compressed.
    pub is_compressed: bool,
    /// Labels whose values are noted with each line.
    labels: Vec<String>,
    /// Variables of the environment whose values are noted with each line.
    variables: Vec<String>,
    /// A name noted with each line, in Docker's template.
    tag: Option<String>,
}

impl Settings {
    /// Understands it; `None` is a container that keeps no log.
    pub fn read(config: &crate::config::LogConfig) -> Result<Option<Self>, Refused> {
        let driver = config.driver.as_str();
        let mut settings = match driver {
            "none" => return Ok(None),
            "json-file" => Self { max_files: 1, ..Self::default() },
            "local" => Self { max_files: LOCAL.0, max_size: Some(LOCAL.1), ..Self::default() },
            _ => return Err(Refused::Driver(driver.to_owned())),
        };
        let mut compress = None;
        let list = |text: &str| text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        for (option, value) in &config.config {
            let bad = |why: &str| Refused::Value { option: option.clone(), why: why.to_owned() };
            match option.as_str() {
                "max-size" if value == "-1" => settings.max_size = None,
                "max-size" => {
                    let size = crate::operator::bytes_of(value).and_then(|size| u64::try_from(size).ok());
                    settings.max_size = Some(size.ok_or_else(|| bad(&format!("invalid size: '{value}'")))?);
                }
                "max-file" => {
                    let count = value.parse().ok().filter(|count| *count > 0);
                    settings.max_files = count.ok_or_else(|| bad("max-file cannot be less than 1"))?;
                }
                "labels" if driver == "json-file" => settings.labels = list(value),
                "env" if driver == "json-file" => settings.variables = list(value),
                "tag" if driver == "json-file" => {
                    let rest = TAGS.iter().fold(value.clone(), |rest, field| rest.replace(field, ""));
                    if rest.contains("{{") {
                        return Err(bad(&format!(
                            "{value}: of a template only {} are known",
                            TAGS.join(" ")
                        )));
                    }
                    settings.tag = Some(value.clone());
                }
                // A file is always ready to be written to: there is nothing to buffer and nothing to drop.
                "mode" if matches!(value.as_str(), "blocking" | "non-blocking") => {}
                "mode" => return Err(bad(&format!("logger: invalid mode {value}"))),
                "compress" => {
                    let wanted = crate::filter::is_true(value).ok_or_else(|| {
                        bad(&format!("strconv.ParseBool: parsing {value:?}: invalid syntax"))
                    })?;
                    compress = Some(wanted);
                }
                // About the copy that Docker keeps of the logs of drivers elsewhere: here is none.
                "cache-disabled" | "cache-max-size" | "cache-max-file" | "cache-compress"
                | "max-buffer-size" => {}
                _ => {
                    return Err(Refused::Option { option: option.clone(), driver: driver.to_owned() });
                }
            }
        }
        let rotates = settings.max_files > 1 && settings.max_size.is_some();
        if compress == Some(true) && !rotates {
            return Err(Refused::Value {
                option: "compress".to_owned(),
                why: "compress cannot be true when max-file is less than 2 or max-size is not set".to_owned(),
            });
        }
        settings.is_compressed = rotates && compress.unwrap_or(driver == "local");
        Ok(Some(settings))
    }

    /// What is noted with each line of this container's.
    pub fn attributes(&self, container: &super::Container) -> BTreeMap<String, String> {
        let config = &container.record.config;
        let mut noted = BTreeMap::new();
        for name in &self.labels {
            if let Some(value) = config.labels.get(name) {
                noted.insert(name.clone(), value.clone());
            }
        }
        for name in &self.variables {
            let value = config.env.iter().rev().find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
            if let Some(value) = value {
                noted.insert(name.clone(), value.to_owned());
            }
        }
        if let Some(tag) = &self.tag {
            let image = container.image.map(|id| id.hex()).unwrap_or_default();
            let values = [
                container.short_id(),
                &container.id,
                &container.name,
                &config.image,
                &image[..12.min(image.len())],
                &image,
            ];
            let filled =
                TAGS.iter().zip(values).fold(tag.clone(), |tag, (field, value)| tag.replace(field, value));
            noted.insert("tag".to_owned(), filled);
        }
        noted
    }
}

/// What a tag's template may name.
const TAGS: [&str; 6] =
    ["{{.ID}}", "{{.FullID}}", "{{.Name}}", "{{.ImageName}}", "{{.ImageID}}", "{{.ImageFullID}}"];

/// Which of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The text, with its newline unless the line went on.
    pub log: String,
    /// Where it came from.
    pub stream: Stream,
    /// RFC 3339 with nanoseconds, UTC.
    pub time: String,
    /// Labels, variables and a tag, where the container's log is to have them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attrs: BTreeMap<String, String>,
}

/// The current time as Docker writes it: RFC 3339, nanoseconds, UTC.
pub fn now() -> String {
    let now = SystemTime::now();
    jiff::Timestamp::try_from(now).map_or_else(|_| super::record::ZERO_TIME.to_owned(), |t| format!("{t:.9}"))
}

/// Writes one container's log.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    /// Rotate above this many bytes; `None` never.
    max_size: Option<u64>,
    /// Files kept, the current one included.
    max_files: usize,
    is_compressed: bool,
    /// The newest rotated file, on its way to be compressed.
    packer: Option<Packer>,
    attributes: BTreeMap<String, String>,
    pending: [Vec<u8>; 2],
}

/// One file being compressed.
#[derive(Debug)]
struct Packer {
    plain: PathBuf,
    from: File,
    to: flate2::write::GzEncoder<File>,
}

impl Packer {
    fn new(plain: PathBuf) -> io::Result<Self> {
        let from = File::open(&plain)?;
        let to =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(partial(&plain))?;
        Ok(Self { plain, from, to: flate2::write::GzEncoder::new(to, flate2::Compression::fast()) })
    }

    /// Takes in so many bytes more; true at the end of the file.
    fn advance(&mut self, bytes: usize) -> io::Result<bool> {
        let taken = io::copy(&mut (&self.from).take(bytes as u64), &mut self.to)?;
        Ok(taken < bytes as u64)
    }

    /// Has it take the file's place.
    fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self.from, &mut self.to)?;
        self.to.finish()?;
        // Never is neither of them there.
        fs::rename(partial(&self.plain), packed(&self.plain))?;
        fs::remove_file(&self.plain)
    }
}

impl Writer {
    /// A writer for `path`; nothing is created yet. `attributes` are noted with each line.
    pub fn new(path: PathBuf, settings: &Settings, attributes: BTreeMap<String, String>) -> Self {
        Self {
            path,
            file: None,
            written: 0,
            max_size: settings.max_size,
            max_files: settings.max_files.max(1),
            is_compressed: settings.is_compressed,
            packer: None,
            attributes,
            pending: [Vec::new(), Vec::new()],
        }
    }

    /// Adds output; complete lines reach the file before this returns.
    pub fn write(&mut self, stream: Stream, data: &[u8]) -> io::Result<()> {
        let mut lines = Vec::new();
        let time = now();
        let pending = &mut self.pending[stream as usize];
        for byte_run in data.split_inclusive(|&b| b == b'\n') {
            pending.extend_from_slice(byte_run);
            while pending.len() > PIECE || pending.last() == Some(&b'\n') {
                let piece: Vec<u8> = pending.drain(..pending.len().min(PIECE)).collect();
                encode(&mut lines, stream, &time, &piece, &self.attributes);
            }
        }
        self.append(&lines)
    }

    /// Writes what is left of unfinished lines.
    pub fn finish(&mut self) -> io::Result<()> {
        let mut lines = Vec::new();
        let time = now();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.pending[stream as usize]);
            if !rest.is_empty() {
                encode(&mut lines, stream, &time, &rest, &self.attributes);
            }
        }
        self.append(&lines)
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(max) = self.max_size else { return self.put(lines) };
        // Whole entries, as many as fit: a program that prints a lot at once is no reason for a long file.
        let mut rest = lines;
        while !rest.is_empty() {
            self.open()?;
            let room = max.saturating_sub(self.written);
            let mut fitting = 0;
            for entry in rest.split_inclusive(|&byte| byte == b'\n') {
                if (fitting + entry.len()) as u64 > room && (fitting > 0 || self.written > 0) {
                    break;
                }
                fitting += entry.len();
            }
            if fitting == 0 {
                self.rotate()?;
                continue;
            }
            let (now, later) = rest.split_at(fitting);
            self.put(now)?;
            rest = later;
        }
        Ok(())
    }

    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.open()?.write_all(lines)?;
        self.written += lines.len() as u64;
        self.pack(lines.len().saturating_mul(PACE.0).max(PACE.1));
        Ok(())
    }

    /// Brings the compression of the newest rotated file on. Where it fails, as on a full disk, the file stays as it
    /// is: that is no reason to lose what the container says.
    fn pack(&mut self, bytes: usize) {
        let Some(packer) = &mut self.packer else { return };
        let end = packer.advance(bytes);
        if matches!(end, Ok(false)) {
            return;
        }
        if let Some(packer) = self.packer.take() {
            let partial = partial(&packer.plain);
            if end.and_then(|_| packer.finish()).is_err() {
                let _ = fs::remove_file(partial);
            }
        }
    }

    /// The file, which may be there from an earlier run.
    fn open(&mut self) -> io::Result<&mut File> {
        Ok(match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
                self.written = file.metadata()?.len();
                if self.is_compressed && self.packer.is_none() {
                    // What another monitor was not given the time for.
                    self.packer = Packer::new(rotated(&self.path, 1)).ok();
                }
                none.insert(file)
            }
        })
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.pack(usize::MAX);
        self.file = None;
        self.written = 0;
        for n in (1..self.max_files).rev() {
            let to = rotated(&self.path, n);
            if n == 1 {
                ignore_missing(fs::rename(&self.path, &to))?;
                ignore_missing(fs::remove_file(packed(&to)))?;
                continue;
            }
            let from = rotated(&self.path, n - 1);
            // It is there in one way or the other, and so is the one that makes room for it.
            for (moved, over, stale) in
                [(from.clone(), to.clone(), packed(&to)), (packed(&from), packed(&to), to.clone())]
            {
                match fs::rename(moved, over) {
                    Ok(()) => ignore_missing(fs::remove_file(stale))?,
                    other => ignore_missing(other)?,
                }
            }
        }
        if self.max_files == 1 {
            ignore_missing(fs::remove_file(&self.path))?;
        } else if self.is_compressed {
            self.packer = Packer::new(rotated(&self.path, 1)).ok();
        }
        Ok(())
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn rotated(path: &Path, n: usize) -> PathBuf {
    with_ending(path, &format!(".{n}"))
}

fn packed(rotated: &Path) -> PathBuf {
    with_ending(rotated, ".gz")
}

fn partial(rotated: &Path) -> PathBuf {
    with_ending(rotated, ".gz.partial")
}

/// Opens a rotated file, compressed or not.
fn open_rotated(path: &Path) -> io::Result<Box<dyn io::BufRead>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = BufReader::new(File::open(packed(path))?);
            Ok(Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))))
        }
        other => Ok(Box::new(BufReader::new(other?))),
    }
}

fn encode(
    lines: &mut Vec<u8>,
    stream: Stream,
    time: &str,
    piece: &[u8],
    attributes: &BTreeMap<String, String>,
) {
    let log = String::from_utf8_lossy(piece).into_owned();
    let entry = Entry { log, stream, time: time.to_owned(), attrs: attributes.clone() };
    // Serialising strings into memory cannot fail.
    serde_json::to_writer(&mut *lines, &entry).expect("an entry serialises");
    lines.push(b'\n');
}

/// Which part of a log to read.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only this many lines from the end; `None` means all.
    pub tail: Option<usize>,
    /// Only what was written at or after this RFC 3339 time.
    pub since: Option<jiff::Timestamp>,
    /// Only what was written before this.
    pub until: Option<jiff::Timestamp>,
}

impl Selection {
    fn admits(&self, entry: &Entry) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Ok(time) = entry.time.parse::<jiff::Timestamp>() else { return true };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

/// Reads a log file, from its rotated pieces on, and can go on as it grows.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    current: Option<BufReader<File>>,
    partial: Vec<u8>,
    selection: Selection,
}

impl Reader {
    /// A reader of the log at `path`, which need not exist yet.
    pub fn new(path: PathBuf, selection: Selection) -> Self {
        Self { path, current: None, partial: Vec::new(), selection }
    }

    /// Everything that is there now and that the selection admits, passed to `each`.
    pub fn read_existing(&mut self, mut each: impl FnMut(&Entry) -> io::Result<()>) -> io::Result<()> {
        if self.selection.tail == Some(0) {
            if let Ok(mut file) = File::open(&self.path) {
                file.seek(SeekFrom::End(0))?;
                self.current = Some(BufReader::new(file));
            }
            return Ok(());
        }
        let mut kept = std::collections::VecDeque::new();
        let selection = self.selection.clone();
        let mut take = |entry: Entry| -> io::Result<()> {
            if !selection.admits(&entry) {
                return Ok(());
            }
            match selection.tail {
                None => each(&entry),
                Some(tail) => {
                    // A long line was written in pieces; the pieces of one line count as one.
                    kept.push_back(entry);
                    while lines(&kept) > tail {
                        while let Some(front) = kept.pop_front()
                            && !front.log.ends_with('\n')
                        {}
                    }
                    Ok(())
                }
            }
        };
        let mut older = Vec::new();
        while let path = rotated(&self.path, older.len() + 1)
            && (path.exists() || packed(&path).exists())
        {
            older.push(path);
        }
        older.reverse();
        for path in older {
            let Ok(file) = open_rotated(&path) else { continue };
            for line in file.split(b'\n') {
                if let Ok(entry) = serde_json::from_slice(&line?) {
                    take(entry)?;
                }
            }
        }
        self.drain(&mut take)?;
        for entry in kept {
            each(&entry)?;
        }
        Ok(())
    }

    /// What was written since the last call; follows a rotation.
    pub fn read_new(&mut self, mut each: impl FnMut(&Entry) -> io::Result<()>) -> io::Result<()> {
        let selection = self.selection.clone();
        let mut take = |entry: Entry| if selection.admits(&entry) { each(&entry) } else { Ok(()) };
        self.drain(&mut take)?;
        if self.was_rotated()? {
            self.drain(&mut take)?;
            self.current = None;
            self.drain(&mut take)?;
        }
        Ok(())
    }

    fn was_rotated(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let Some(current) = &self.current else { return Ok(false) };
        let open = current.get_ref().metadata()?;
        Ok(fs::metadata(&self.path).is_ok_and(|named| named.ino() != open.ino()))
    }

    fn drain(&mut self, take: &mut impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        if self.current.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.current = Some(BufReader::with_capacity(64 * 1024, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let Some(reader) = &mut self.current else { return Ok(()) };
        loop {
            let read = reader.by_ref().take(1 << 20).read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') {
                if let Ok(entry) = serde_json::from_slice(&self.partial) {
                    take(entry)?;
                }
                self.partial.clear();
            }
            if read == 0 {
                return Ok(());
            }
        }
    }
}

fn lines(kept: &std::collections::VecDeque<Entry>) -> usize {
    let whole = kept.iter().filter(|entry| entry.log.ends_with('\n')).count();
    whole + usize::from(kept.back().is_some_and(|entry| !entry.log.ends_with('\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_size: Option<u64>, max_files: usize) -> Settings {
        Settings { max_size, max_files, ..Settings::default() }
    }

    #[test]
    fn a_chunk_that_is_longer_than_a_file_may_be_is_spread() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut writer = Writer::new(path.clone(), &limits(Some(1000), 3), BTreeMap::new());
        let all = (0..200).map(|n| n.to_string()).collect::<Vec<_>>().join("\n") + "\n";
        writer.write(Stream::Stdout, all.as_bytes()).expect("write");
        for file in [path.clone(), rotated(&path, 1), rotated(&path, 2)] {
            let length = fs::metadata(&file).expect("a file").len();
            assert!((1..=1000).contains(&length), "{} has {length}", file.display());
        }
        assert!(!rotated(&path, 3).exists());
        assert_eq!(
            texts(&mut Reader::new(path, Selection::default())).last().map(String::as_str),
            Some("199\n")
        );
    }

    #[test]
    fn what_a_log_may_be() {
        let read = |driver: &str, options: &[(&str, &str)]| {
            let config =
                options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Settings::read(&crate::config::LogConfig { driver: driver.to_owned(), config })
        };
        assert_eq!(read("none", &[]), Ok(None));
        let settings = read("json-file", &[("max-size", "10k"), ("max-file", "3"), ("labels", "a,b")]);
        let settings = settings.expect("understood").expect("kept");
        assert_eq!((settings.max_size, settings.max_files, settings.labels.len()), (Some(10 << 10), 3, 2));
        let local = read("local", &[]).expect("understood").expect("kept");
        assert_eq!((local.max_size, local.max_files, local.is_compressed), (Some(20 << 20), 5, true));
        for (driver, options, is_compressed) in [
            ("json-file", &[("max-size", "1m"), ("max-file", "2")][..], false),
            ("json-file", &[("max-size", "1m"), ("max-file", "2"), ("compress", "true")], true),
            ("local", &[("compress", "false")], false),
            ("local", &[("max-file", "1")], false),
        ] {
            let settings = read(driver, options).expect("understood").expect("kept");
            assert_eq!(settings.is_compressed, is_compressed, "{driver} {options:?}");
        }
        for (driver, options, why) in [
            ("syslog", &[][..], "logger: no log driver named 'syslog' is registered"),
            ("json-file", &[("foo", "1")], "unknown log opt 'foo' for json-file log driver"),
            ("local", &[("labels", "a")], "unknown log opt 'labels' for local log driver"),
            (
                "json-file",
                &[("max-size", "x")],
                "failed to create task for container: max-size: invalid size: 'x'",
            ),
            (
                "json-file",
                &[("max-file", "0")],
                "failed to create task for container: max-file: max-file cannot be less than 1",
            ),
            (
                "json-file",
                &[("compress", "true"), ("max-file", "3")],
                "failed to create task for container: compress: compress cannot be true when max-file is less than \
                 2 or max-size is not set",
            ),
            (
                "local",
                &[("compress", "perhaps")],
                "failed to create task for container: compress: strconv.ParseBool: parsing \"perhaps\": invalid \
                 syntax",
            ),
        ] {
            assert_eq!(read(driver, options).expect_err(why).to_string(), why);
        }
        read("json-file", &[("tag", "{{.Name}}/x")]).expect("a known field");
        read("json-file", &[("tag", "{{.Name}}/{{.Daemon}}")]).expect_err("an unknown field");
    }

    fn texts(reader: &mut Reader) -> Vec<String> {
        let mut seen = Vec::new();
        reader
            .read_existing(|entry| {
                seen.push(entry.log.clone());
                Ok(())
            })
            .expect("read");
        seen
    }

    #[test]
    fn lines_come_back_as_written() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut writer = Writer::new(path.clone(), &limits(None, 1), BTreeMap::new());
        assert!(!path.exists());
        writer.write(Stream::Stdout, b"one\ntw").expect("write");
        writer.write(Stream::Stderr, b"err \"quoted\"\n").expect("write");
        writer.write(Stream::Stdout, b"o\nthree").expect("write");
        writer.finish().expect("finish");
        let mut all = Reader::new(path.clone(), Selection::default());
        assert_eq!(texts(&mut all), ["one\n", "err \"quoted\"\n", "two\n", "three"]);
        let mut tail = Reader::new(path, Selection { tail: Some(2), ..Selection::default() });
        assert_eq!(texts(&mut tail), ["two\n", "three"]);
    }

    #[test]
    fn a_long_line_is_cut_and_counts_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut writer = Writer::new(path.clone(), &limits(None, 1), BTreeMap::new());
        let mut long = vec![b'x'; PIECE * 2 + 5];
        long.push(b'\n');
        writer.write(Stream::Stdout, b"first\n").expect("write");
        writer.write(Stream::Stdout, &long).expect("write");
        let mut tail = Reader::new(path, Selection { tail: Some(1), ..Selection::default() });
        let pieces = texts(&mut tail);
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces.concat().as_bytes(), long);
    }

    #[test]
    fn a_log_rotates_and_is_read_across_its_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut writer = Writer::new(path.clone(), &limits(Some(200), 3), BTreeMap::new());
        for n in 0..6 {
            writer
                .write(Stream::Stdout, format!("line {n} {}\n", "y".repeat(100)).as_bytes())
                .expect("write");
        }
        assert!(rotated(&path, 2).exists() && !rotated(&path, 3).exists());
        let seen = texts(&mut Reader::new(path, Selection::default()));
        assert_eq!(seen.len(), 3);
        assert!(seen[0].starts_with("line 3") && seen[2].starts_with("line 5"));
    }

    #[test]
    fn a_rotated_log_is_compressed_and_read_all_the_same() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let settings = Settings { is_compressed: true, ..limits(Some(4000), 4) };
        let mut writer = Writer::new(path.clone(), &settings, BTreeMap::new());
        let texts_of =
            |range: std::ops::Range<usize>| range.map(|n| format!("line {n}\n")).collect::<Vec<_>>();
        for line in texts_of(0..100) {
            writer.write(Stream::Stdout, line.as_bytes()).expect("write");
        }
        assert!(packed(&rotated(&path, 1)).exists() && !rotated(&path, 1).exists());
        assert_eq!(texts(&mut Reader::new(path.clone(), Selection::default())), texts_of(0..100));

        // A monitor was killed between a rotation and the end of its work; the next one goes on from there.
        writer.rotate().expect("rotate");
        assert!(
            writer.packer.is_some() && rotated(&path, 1).exists() && partial(&rotated(&path, 1)).exists()
        );
        drop(writer);
        let mut writer = Writer::new(path.clone(), &settings, BTreeMap::new());
        for line in texts_of(100..200) {
            writer.write(Stream::Stdout, line.as_bytes()).expect("write");
        }
        let seen = texts(&mut Reader::new(path.clone(), Selection::default()));
        assert_eq!(seen, texts_of(200 - seen.len()..200), "the newest, without a gap");
        assert!(seen.len() > 100, "{}", seen.len());
        for n in 1..4 {
            assert!(
                rotated(&path, n).exists() != packed(&rotated(&path, n)).exists(),
                "file {n} is there once"
            );
        }
        assert!(!rotated(&path, 4).exists() && !packed(&rotated(&path, 4)).exists());
    }

    #[test]
    fn a_reader_follows_growth_and_rotation() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut writer = Writer::new(path.clone(), &limits(Some(300), 2), BTreeMap::new());
        writer.write(Stream::Stdout, b"a\n").expect("write");
        let mut reader = Reader::new(path, Selection::default());
        assert_eq!(texts(&mut reader), ["a\n"]);
        let mut seen = Vec::new();
        for n in 0..10 {
            writer.write(Stream::Stdout, format!("{n}\n").as_bytes()).expect("write");
            reader
                .read_new(|entry| {
                    seen.push(entry.log.trim().to_owned());
                    Ok(())
                })
                .expect("read");
        }
        assert_eq!(seen, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn times_select() {
        let entry = |time: &str| Entry {
            log: String::new(),
            stream: Stream::Stdout,
            time: time.into(),
            attrs: BTreeMap::new(),
        };
        let since = "2026-01-01T00:00:00Z".parse().ok();
        let selection = Selection { since, ..Selection::default() };
        assert!(selection.admits(&entry("2026-01-01T00:00:00.000000000Z")));
        assert!(!selection.admits(&entry("2025-12-31T23:59:59.999999999Z")));
    }
}
