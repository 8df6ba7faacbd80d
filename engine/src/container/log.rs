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

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The longest piece of one line, in bytes.
const PIECE: usize = 16 * 1024;

/// What is read of a file at once, in bytes.
const BLOCK: usize = 64 * 1024;

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

impl Entry {
    /// What is noted with the line, as Docker shows it: `KEY=VALUE,…` in the encoding of a query, and a space, which
    /// stands where there is nothing to show, too.
    pub fn details(&self) -> String {
        let escaped = |text: &str| {
            text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
                if byte == b' ' {
                    out.push('+');
                } else if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    let _ = write!(out, "%{byte:02X}");
                }
                out
            })
        };
        let pairs: Vec<String> =
            self.attrs.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
        format!("{} ", pairs.join(","))
    }
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
        if let Err(error) = self.open()?.write_all(lines) {
            // Perhaps in the middle of an entry, as on a full disk: whoever opens the file next sees to that.
            self.file = None;
            return Err(error);
        }
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
                let mut options = OpenOptions::new();
                let mut file = options.read(true).append(true).create(true).mode(0o640).open(&self.path)?;
                self.written = file.metadata()?.len();
                if ends_within_an_entry(&file, self.written)? {
                    // Of it nothing can be told any more; what comes next is not to be lost with it.
                    file.write_all(b"\n")?;
                    self.written += 1;
                }
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
        // Where a number is free, as after a monitor that was killed in the middle of this, the older ones stay.
        let is_free = |n: &usize| {
            let path = rotated(&self.path, *n);
            !path.exists() && !packed(&path).exists()
        };
        let last = (1..self.max_files).find(is_free).unwrap_or(self.max_files.saturating_sub(1));
        for n in (1..=last).rev() {
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

/// Whether a writer was killed, or had no room, in the middle of a line of the file.
fn ends_within_an_entry(file: &File, length: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last != *b"\n")
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The same, made as a [`Writer`] makes it. A container that is gone has no place for it.
fn open_or_create(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// One file of a log, opened.
#[derive(Debug)]
enum Piece {
    /// As it was written.
    Plain(File),
    /// Compressed.
    Packed(File),
}

impl Piece {
    /// A rotated file, compressed or not.
    fn rotated(path: &Path) -> io::Result<Option<Self>> {
        // In this order, since a file that is compressed goes once its other form is there.
        Ok(match open_if_there(path)? {
            Some(file) => Some(Self::Plain(file)),
            None => open_if_there(&packed(path))?.map(Self::Packed),
        })
    }

    fn inode(&self) -> io::Result<u64> {
        let (Self::Plain(file) | Self::Packed(file)) = self;
        Ok(file.metadata()?.ino())
    }

    /// What is in it from `offset` of the text on.
    fn text(&self, offset: u64) -> io::Result<Box<dyn io::BufRead + '_>> {
        Ok(match self {
            Self::Plain(file) => {
                let mut file = file;
                file.seek(SeekFrom::Start(offset))?;
                Box::new(BufReader::with_capacity(BLOCK, file))
            }
            Self::Packed(file) => {
                let mut file = file;
                file.rewind()?;
                let mut text = flate2::bufread::MultiGzDecoder::new(BufReader::new(file));
                io::copy(&mut (&mut text).take(offset), &mut io::sink())?;
                Box::new(BufReader::with_capacity(BLOCK, text))
            }
        })
    }
}

/// The rotated files of a log, newest first, once the current one has been opened.
///
/// What is opened first cannot be missed: a rotation meanwhile moves a file to a higher number, where it is met a
/// second time and known by its inode. Numbers may be missing, as a monitor leaves them that is killed between
/// the renames of a rotation.
fn older(path: &Path, current: Option<&File>) -> io::Result<Vec<Piece>> {
    let mut found = Vec::new();
    let mut newer = current.map(File::metadata).transpose()?.map(|current| current.ino());
    let (mut n, mut last) = (1, highest(path)?);
    while n <= last {
        if let Some(piece) = Piece::rotated(&rotated(path, n))? {
            let inode = piece.inode()?;
            if newer.replace(inode) != Some(inode) {
                found.push(piece);
            }
        }
        if n == last {
            last = last.max(highest(path)?);
        }
        n += 1;
    }
    Ok(found)
}

/// The highest number that a rotated file has; 0 when there is none.
fn highest(path: &Path) -> io::Result<usize> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(0) };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut highest = 0;
    for entry in entries {
        let entry = entry?.file_name();
        let number = entry.as_bytes().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"."));
        let number = number.map(|rest| rest.strip_suffix(b".gz").unwrap_or(rest));
        let number = number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    Ok(highest)
}

/// Looks for the place from which on a log has a number of lines, from its end backwards.
#[derive(Debug)]
struct Tail<'s> {
    selection: &'s Selection,
    wanted: usize,
    /// Ends of lines that have still to be passed; `None` before the first entry, which may be without one.
    left: Option<usize>,
}

impl<'s> Tail<'s> {
    fn new(selection: &'s Selection, wanted: usize) -> Self {
        Self { selection, wanted, left: None }
    }

    /// Takes the entry in before those that it has been given; true when what is looked for begins after it.
    ///
    /// A long line was written in pieces; the pieces of one line count as one.
    fn is_before(&mut self, line: &[u8]) -> bool {
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else { return false };
        if !self.selection.admits(&entry) {
            return false;
        }
        let ends_a_line = entry.log.ends_with('\n');
        let left = self.left.get_or_insert(self.wanted.saturating_add(usize::from(ends_a_line)));
        *left -= usize::from(ends_a_line);
        *left == 0
    }

    /// Where in the piece it begins, if it does.
    fn search(&mut self, piece: &Piece) -> io::Result<Option<u64>> {
        match piece {
            Piece::Plain(file) => self.search_backwards(file),
            Piece::Packed(_) => self.search_packed(piece),
        }
    }

    fn search_backwards(&mut self, file: &File) -> io::Result<Option<u64>> {
        // The part of the file that has not been looked at, and what follows it up to a line that has.
        let mut at = file.metadata()?.len();
        let mut rest: Vec<u8> = Vec::new();
        while at > 0 {
            let length = at.min(BLOCK as u64);
            at -= length;
            let mut block = vec![0; length as usize];
            file.read_exact_at(&mut block, at)?;
            let seen = block.len();
            block.append(&mut rest);
            // Within `rest` there is no end of a line but its last byte.
            let mut end = block.len();
            while let Some(newline) = memchr::memrchr(b'\n', &block[..end.saturating_sub(1).min(seen)]) {
                let line = &block[newline + 1..end];
                // What follows the last newline of a file is not written yet.
                if line.ends_with(b"\n") && self.is_before(line) {
                    return Ok(Some(at + end as u64));
                }
                end = newline + 1;
            }
            block.truncate(end);
            rest = block;
        }
        let found = rest.ends_with(b"\n") && self.is_before(&rest);
        Ok(found.then_some(rest.len() as u64))
    }

    /// What is compressed can only be read forwards, so as many ends as may be wanted are kept in mind.
    fn search_packed(&mut self, piece: &Piece) -> io::Result<Option<u64>> {
        let most = self.left.unwrap_or(self.wanted.saturating_add(1));
        let mut ends = VecDeque::new();
        let mut ends_a_line = None;
        let mut offset = 0;
        let mut text = piece.text(0)?;
        let mut line = Vec::new();
        while next_line(&mut text, &mut line)? {
            offset += line.len() as u64;
            if let Ok(entry) = serde_json::from_slice::<Entry>(&line)
                && self.selection.admits(&entry)
            {
                ends_a_line = Some(entry.log.ends_with('\n'));
                if ends_a_line == Some(true) {
                    ends.push_back(offset);
                    if ends.len() > most {
                        ends.pop_front();
                    }
                }
            }
        }
        let Some(ends_a_line) = ends_a_line else { return Ok(None) };
        let left = self.left.get_or_insert(self.wanted.saturating_add(usize::from(ends_a_line)));
        if let Some(index) = ends.len().checked_sub(*left) {
            return Ok(ends.get(index).copied());
        }
        *left -= ends.len();
        Ok(None)
    }
}

/// The next line with its end; false at the end of the text, or where its last line is not whole.
fn next_line(text: &mut impl io::BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    text.read_until(b'\n', line)?;
    Ok(line.ends_with(b"\n"))
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
///
/// All files are open before anything is read: a container that is removed meanwhile is heard to its end.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// Rotated files that have something of what is wanted, newest first.
    older: Vec<Piece>,
    /// Where that begins in the oldest of them.
    begin: u64,
    current: Option<BufReader<File>>,
    partial: Vec<u8>,
    selection: Selection,
}

impl Reader {
    /// A reader of the log at `path`, which need not exist yet. `follow` has it made where it does not: who waits for
    /// what a container is going to say must have a hold of the file in which it will be.
    pub fn open(path: PathBuf, selection: Selection, follow: bool) -> io::Result<Self> {
        let mut current = if follow { open_or_create(&path)? } else { open_if_there(&path)? };
        if selection.tail == Some(0) {
            if let Some(current) = &mut current {
                current.seek(SeekFrom::End(0))?;
            }
            return Ok(Self::at(path, Vec::new(), 0, current, selection));
        }
        let mut tail = selection.tail.map(|wanted| Tail::new(&selection, wanted));
        if let (Some(tail), Some(file)) = (&mut tail, &mut current)
            && let Some(begin) = tail.search_backwards(file)?
        {
            file.seek(SeekFrom::Start(begin))?;
            return Ok(Self::at(path, Vec::new(), 0, current, selection));
        }
        let mut older = older(&path, current.as_ref())?;
        let mut begin = None;
        if let Some(tail) = &mut tail {
            for n in 0..older.len() {
                begin = tail.search(&older[n])?;
                if begin.is_some() {
                    older.truncate(n + 1);
                    break;
                }
            }
        }
        Ok(Self::at(path, older, begin.unwrap_or(0), current, selection))
    }

    fn at(path: PathBuf, older: Vec<Piece>, begin: u64, current: Option<File>, selection: Selection) -> Self {
        let current = current.map(|file| BufReader::with_capacity(BLOCK, file));
        Self { path, older, begin, current, partial: Vec::new(), selection }
    }

    /// Everything that was there when it was opened, or has come since, and that the selection admits, passed to `each`.
    pub fn read_existing(&mut self, mut each: impl FnMut(&Entry) -> io::Result<()>) -> io::Result<()> {
        let selection = self.selection.clone();
        let mut take = |entry: Entry| if selection.admits(&entry) { each(&entry) } else { Ok(()) };
        let mut begin = std::mem::take(&mut self.begin);
        for piece in std::mem::take(&mut self.older).iter().rev() {
            let mut text = piece.text(std::mem::take(&mut begin))?;
            let mut line = Vec::new();
            while next_line(&mut text, &mut line)? {
                if let Ok(entry) = serde_json::from_slice(&line) {
                    take(entry)?;
                }
            }
        }
        self.drain(&mut take)
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
        let Some(current) = &self.current else { return Ok(false) };
        let open = current.get_ref().metadata()?;
        Ok(fs::metadata(&self.path).is_ok_and(|named| named.ino() != open.ino()))
    }

    fn drain(&mut self, take: &mut impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        if self.current.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.current = Some(BufReader::with_capacity(BLOCK, file)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: PathBuf, selection: Selection) -> Reader {
        Reader::open(path, selection, false).expect("open")
    }

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
        assert_eq!(texts(&mut open(path, Selection::default())).last().map(String::as_str), Some("199\n"));
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
        let mut all = open(path.clone(), Selection::default());
        assert_eq!(texts(&mut all), ["one\n", "err \"quoted\"\n", "two\n", "three"]);
        let mut tail = open(path, Selection { tail: Some(2), ..Selection::default() });
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
        let mut tail = open(path, Selection { tail: Some(1), ..Selection::default() });
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
        let seen = texts(&mut open(path, Selection::default()));
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
        assert_eq!(texts(&mut open(path.clone(), Selection::default())), texts_of(0..100));

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
        let seen = texts(&mut open(path.clone(), Selection::default()));
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

    /// The last lines of all that there are, looked for in the plain way.
    fn last_lines(all: &[String], tail: usize) -> &[String] {
        let (mut begin, mut count) = (all.len(), 0);
        while begin > 0 {
            count += usize::from(begin == all.len() || all[begin - 1].ends_with('\n'));
            if count > tail {
                break;
            }
            begin -= 1;
        }
        &all[begin..]
    }

    /// A log in which each of its lines has a second of its own, from 0 on.
    fn timed(path: &Path, lines: std::ops::Range<usize>) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("open");
        for n in lines {
            let time = jiff::Timestamp::from_second(n as i64).expect("a time");
            // Some go on in the next, some are longer than what is read at once.
            let length = if n % 50 == 7 { 3 * BLOCK / 2 } else { n % 40 };
            let end = if n % 5 == 3 { "" } else { "\n" };
            let piece = format!("{n} {}{end}", "z".repeat(length));
            let mut line = Vec::new();
            encode(&mut line, Stream::Stdout, &time.to_string(), piece.as_bytes(), &BTreeMap::new());
            if n % 11 == 0 {
                line.extend_from_slice(b"what is no entry\n");
            }
            file.write_all(&line).expect("write");
        }
    }

    #[test]
    fn the_last_lines_are_the_same_from_either_end() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        timed(&rotated(&path, 3), 0..120);
        timed(&rotated(&path, 2), 120..200);
        timed(&rotated(&path, 1), 200..280);
        timed(&path, 280..400);
        let mut packer = Packer::new(rotated(&path, 2)).expect("packer");
        packer.advance(usize::MAX).expect("compressed");
        packer.finish().expect("finish");
        let moment = |second: i64| jiff::Timestamp::from_second(second).ok();
        for end in ["", "{\"log\":\"not yet wri"] {
            OpenOptions::new()
                .append(true)
                .open(&path)
                .expect("open")
                .write_all(end.as_bytes())
                .expect("write");
            for (since, until) in [
                (None, None),
                (moment(190), None),
                (None, moment(250)),
                (None, moment(150)),
                (moment(500), None),
            ] {
                let selection = Selection { tail: None, since, until };
                let all = texts(&mut open(path.clone(), selection.clone()));
                for tail in (1..40).chain((40..420).step_by(19)).chain([usize::MAX]) {
                    let selection = Selection { tail: Some(tail), ..selection.clone() };
                    let seen = texts(&mut open(path.clone(), selection.clone()));
                    assert!(seen == last_lines(&all, tail), "{selection:?} {end}");
                }
            }
        }
        // Without the newest, as between two renames of a rotation.
        fs::remove_file(&path).expect("remove");
        let all = texts(&mut open(path.clone(), Selection::default()));
        for tail in [1, 5, 100, 300] {
            let selection = Selection { tail: Some(tail), ..Selection::default() };
            let seen = texts(&mut open(path.clone(), selection));
            assert!(!seen.is_empty() && seen == last_lines(&all, tail), "{tail}");
        }
    }

    #[test]
    fn the_last_lines_of_a_long_log_are_read_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        // Longer than could be read in any time, and than there is room for.
        let file = File::create(&path).expect("create");
        file.set_len(1 << 40).expect("a hole");
        drop(file);
        OpenOptions::new().append(true).open(&path).expect("open").write_all(b"\n").expect("write");
        timed(&path, 1000..1100);
        let seen = texts(&mut open(path, Selection { tail: Some(10), ..Selection::default() }));
        assert!(seen.last().is_some_and(|last| last.starts_with("1099 ")), "{seen:?}");
    }

    #[test]
    fn a_line_that_was_cut_off_takes_no_other_with_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        fs::write(&path, "{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"x\"}\n{\"log\":\"cut o")
            .expect("write");
        let mut writer = Writer::new(path.clone(), &limits(None, 1), BTreeMap::new());
        writer.write(Stream::Stdout, b"b\nc\n").expect("write");
        assert_eq!(texts(&mut open(path, Selection::default())), ["a\n", "b\n", "c\n"]);
    }

    #[test]
    fn a_rotation_that_was_cut_off_hides_and_costs_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut writer = Writer::new(path.clone(), &limits(Some(100), 4), BTreeMap::new());
        // One line a file.
        for n in 0..3 {
            writer.write(Stream::Stdout, format!("{n} {}\n", "x".repeat(40)).as_bytes()).expect("write");
        }
        drop(writer);
        let numbers = |path: &Path| {
            let seen = texts(&mut open(path.to_owned(), Selection::default()));
            seen.iter().map(|text| text[..1].to_owned()).collect::<String>()
        };
        assert_eq!(numbers(&path), "012");
        // A kill after the first rename of three, and after the second.
        fs::rename(rotated(&path, 2), rotated(&path, 3)).expect("rename");
        assert_eq!(numbers(&path), "012");
        fs::rename(rotated(&path, 1), rotated(&path, 2)).expect("rename");
        assert_eq!(numbers(&path), "012");
        let tail = Selection { tail: Some(2), ..Selection::default() };
        assert_eq!(texts(&mut open(path.clone(), tail)).len(), 2);
        // Whoever rotates next takes the number that is free.
        let mut writer = Writer::new(path.clone(), &limits(Some(100), 4), BTreeMap::new());
        writer.write(Stream::Stdout, format!("3 {}\n", "x".repeat(40)).as_bytes()).expect("write");
        assert_eq!(numbers(&path), "0123");
    }

    #[test]
    fn a_reader_follows_growth_and_rotation() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut writer = Writer::new(path.clone(), &limits(Some(300), 2), BTreeMap::new());
        writer.write(Stream::Stdout, b"a\n").expect("write");
        let mut reader = open(path, Selection::default());
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
    fn a_follower_hears_to_its_end_what_is_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let home = dir.path().join("container");
        fs::create_dir(&home).expect("mkdir");
        let path = home.join("log.json");
        assert!(texts(&mut open(path.clone(), Selection::default())).is_empty());
        assert!(!path.exists(), "who only reads makes no file");
        let mut follower = Reader::open(path.clone(), Selection::default(), true).expect("open");
        let mut writer = Writer::new(path.clone(), &limits(Some(60), 2), BTreeMap::new());
        writer.write(Stream::Stdout, b"a\n").expect("write");
        writer.write(Stream::Stdout, b"b\n").expect("write");
        let mut late = open(path.clone(), Selection::default());
        fs::remove_dir_all(&home).expect("rm");
        assert_eq!(texts(&mut late), ["a\n", "b\n"], "of the rotated file, too");
        assert_eq!(texts(&mut follower), ["a\n"]);
        let gone = Reader::open(path, Selection::default(), true).expect("open");
        assert!(gone.current.is_none());
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
