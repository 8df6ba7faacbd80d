//! From readings to answers: many scrapers, one reading, and last counters told once to each.
//!
//! Answers to scrapers that come at the same time are the same bytes, so they are rendered and
//! compressed once. What differs is the past: a container that has ended is told to each scraper once,
//! in its next answer. A scraper is known by a name the server gives it (its address and what it calls
//! itself), so a person who looks with curl takes nothing away from Prometheus, and each of a pair of
//! Prometheus servers gets its own.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bulkhead_engine::host::{share_out, threads_for};
use bulkhead_engine::model::{Figures, Network};

use crate::labels::Allowed;
use crate::negotiate::Format;
use crate::{Snapshot, write};

/// Seconds for which the last figures of a container wait for scrapers.
const PATIENCE: f64 = 600.0;
/// Containers that wait at once; the oldest give way.
const WAITING: usize = 10_000;
/// Scrapers remembered; who asked longest ago is forgotten first, and told again what is waiting.
const SCRAPERS: usize = 64;

/// The last figures of containers that have ended, and who has been told.
#[derive(Debug, Default)]
pub struct Ended {
    waiting: VecDeque<(u64, Figures)>,
    last: u64,
    /// The last number told, and when somebody asked, in questions.
    told: HashMap<String, (u64, u64)>,
    questions: u64,
}

impl Ended {
    /// Adds a container, and drops what has waited in vain. `now` is seconds since the epoch.
    fn add(&mut self, figures: Figures, now: f64) {
        self.last += 1;
        self.waiting.push_back((self.last, figures));
        while self
            .waiting
            .front()
            .is_some_and(|(_, first)| self.waiting.len() > WAITING || now - first.taken > PATIENCE)
        {
            self.waiting.pop_front();
        }
    }

    /// The number from which on this scraper has not been told; from now on it has.
    fn turn(&mut self, scraper: &str) -> u64 {
        self.questions += 1;
        if !self.told.contains_key(scraper)
            && self.told.len() >= SCRAPERS
            && let Some(oldest) =
                self.told.iter().min_by_key(|(_, (_, at))| *at).map(|(name, _)| name.clone())
        {
            self.told.remove(&oldest);
        }
        let told =
            self.told.insert(scraper.to_owned(), (self.last, self.questions)).map_or(0, |(told, _)| told);
        // All who have been told everything up to the same container get the same answer.
        let first = self.waiting.front().map_or(self.last + 1, |(number, _)| *number);
        (told + 1).max(first)
    }

    /// Those from a number on, each container once (its last run), and none that runs again: two
    /// samples of one series would make the answer invalid.
    fn since(&self, from: u64, alive: &[Figures]) -> Vec<&Figures> {
        let mut seen: HashSet<&str> = alive
            .iter()
            .filter(|figures| figures.stats.is_some())
            .map(|figures| figures.identity.id.as_str())
            .collect();
        self.waiting
            .iter()
            .rev()
            .take_while(|(number, _)| *number >= from)
            .filter(|(_, figures)| seen.insert(&figures.identity.id))
            .map(|(_, figures)| figures)
            .collect()
    }
}

/// Whether two readings are of one container between one start and its end.
fn is_same_run(one: &Figures, other: &Figures) -> bool {
    one.identity.id == other.identity.id && one.identity.cgroup_id == other.identity.cgroup_id
}

/// A question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrape {
    /// The format wanted.
    pub format: Format,
    /// Compressed with gzip.
    pub gzip: bool,
    /// Who asks, in the server's words.
    pub scraper: String,
}

/// Keeps the latest snapshot and its renderings.
#[derive(Debug, Default)]
pub struct Scraper {
    allowed: Allowed,
    snapshot: Snapshot,
    /// Figures of the reading before, which the next one may write over.
    past: Vec<Figures>,
    ended: Ended,
    answers: HashMap<(Format, bool, u64), Body>,
}

/// An answer's bytes in pieces, shared by all who get the same.
#[derive(Debug, Clone, Default)]
pub struct Body(Arc<Vec<Vec<u8>>>);

impl Body {
    /// One piece after the other; none is empty.
    pub fn pieces(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// Bytes of all pieces.
    pub fn length(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl From<Vec<Vec<u8>>> for Body {
    fn from(mut pieces: Vec<Vec<u8>>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        Self(Arc::new(pieces))
    }
}

impl From<&str> for Body {
    fn from(text: &str) -> Self {
        vec![text.as_bytes().to_vec()].into()
    }
}

impl Scraper {
    /// One that has no snapshot yet.
    pub fn new(allowed: Allowed) -> Self {
        Self { allowed, ..Self::default() }
    }

    /// Takes a new reading, and what ended since the one before.
    pub fn renew(&mut self, mut snapshot: Snapshot, ended: Vec<Figures>) {
        // Whoever ended between the reading of its cgroup and the taking in of last figures is in both, and
        // its last figures are the newer: shown alive, it would never be told as ended.
        for last in &ended {
            for seen in snapshot.containers.iter_mut().filter(|seen| is_same_run(seen, last)) {
                seen.stats = None;
            }
        }
        self.remember(ended, snapshot.host.taken);
        self.past = std::mem::replace(&mut self.snapshot, snapshot).containers;
        self.answers.clear();
    }

    /// Takes what ended without a new reading, for times when nobody scrapes.
    pub fn remember(&mut self, ended: Vec<Figures>, now: f64) {
        for mut figures in ended {
            // A network namespace ends with its last process, so a monitor cannot read it any more;
            // what the last reading saw of the same run is the best there is.
            if let Some(seen) = self.snapshot.containers.iter().find(|seen| is_same_run(seen, &figures))
                && figures.network == Network::Unknown
            {
                figures.network = seen.network.clone();
            }
            self.ended.add(figures, now);
            self.answers.clear();
        }
    }

    /// What is shown now.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Figures that are not needed any more, for the next reading to be written over.
    pub fn spare(&mut self) -> Vec<Figures> {
        std::mem::take(&mut self.past)
    }

    /// Lets go of the answers given so far; of a thousand containers each is some ten megabytes. Whoever asks
    /// about the same reading again is answered anew.
    pub fn forget(&mut self) {
        self.answers.clear();
    }

    /// The answer to a question about the latest reading.
    pub fn answer(&mut self, scrape: &Scrape) -> Body {
        let from = self.ended.turn(&scrape.scraper);
        self.rendered(scrape.format, scrape.gzip, from)
    }

    fn rendered(&mut self, format: Format, gzip: bool, from: u64) -> Body {
        if let Some(known) = self.answers.get(&(format, gzip, from)) {
            return known.clone();
        }
        let ended = self.ended.since(from, &self.snapshot.containers);
        let write =
            |finish: fn(&mut String) -> Vec<u8>| write(&self.snapshot, &ended, &self.allowed, format, finish);
        let pieces = match (gzip, self.answers.get(&(format, false, from))) {
            (true, Some(text)) => compress(text.pieces()),
            // The text is kept only if somebody asked for it as it is.
            (true, None) => write(|piece| member(piece.as_bytes())),
            (false, _) => write(|piece| std::mem::take(piece).into_bytes()),
        };
        let body = Body::from(pieces);
        self.answers.insert((format, gzip, from), body.clone());
        body
    }
}

/// The fastest level that compresses at all (0 only stores): the text is so repetitive that more effort saves
/// little.
const LEVEL: i32 = 1;

/// Bytes for which a thread is worth its start.
const SHARE: usize = 512 * 1024;
/// Threads that compress at once.
const THREADS: usize = 4;

/// Each piece by itself, side by side; a gzip file is any number of members one after the other (RFC 1952, 2.2).
fn compress(pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let threads = threads_for(pieces.iter().map(Vec::len).sum(), SHARE, THREADS);
    let mut members = vec![Vec::new(); pieces.len()];
    share_out(threads, pieces.iter().zip(&mut members), |(piece, into)| *into = member(piece));
    members
}

fn member(bytes: &[u8]) -> Vec<u8> {
    thread_local! {
        /// One for all pieces of a thread: what it works with is a megabyte, whose pages would cost more than the
        /// work.
        static COMPRESSOR: RefCell<(libdeflater::Compressor, Vec<u8>)> = {
            let level = libdeflater::CompressionLvl::new(LEVEL).expect("1 is a level");
            RefCell::new((libdeflater::Compressor::new(level), Vec::new()))
        };
    }
    COMPRESSOR.with_borrow_mut(|(compressor, out)| {
        let bound = compressor.gzip_compress_bound(bytes.len());
        if out.len() < bound {
            out.resize(bound, 0);
        }
        let length = compressor.gzip_compress(bytes, out).expect("the bound is large enough for any input");
        out[..length].to_vec()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_engine::cgroup::Stats;
    use std::io::Read as _;

    fn figures(id: &str, cpu_ns: u64, taken: f64) -> Figures {
        let mut figures = Figures { taken, stats: Some(Stats::default()), ..Figures::default() };
        figures.identity.id = id.into();
        figures.identity.cgroup = format!("/bulkhead/{id}");
        figures.stats.as_mut().unwrap().cpu.usage = cpu_ns;
        figures
    }

    fn ask(scraper: &mut Scraper, who: &str) -> String {
        let scrape = Scrape { scraper: who.into(), ..Scrape::default() };
        String::from_utf8(scraper.answer(&scrape).pieces().concat()).unwrap()
    }

    #[test]
    fn the_ended_are_told_once_to_each() {
        let mut scraper = Scraper::default();
        assert!(!ask(&mut scraper, "early").contains("/bulkhead/aa"));
        scraper.renew(Snapshot::default(), vec![figures("aa", 2_000_000_000, 1.0)]);
        for who in ["early", "late"] {
            let answer = ask(&mut scraper, who);
            assert!(
                answer.contains("container_cpu_usage_seconds_total{id=\"/bulkhead/aa\",cpu=\"total\"} 2\n"),
                "{answer}"
            );
            assert!(!answer.contains("container_last_seen{id=\"/bulkhead/aa\""), "gauges end with it");
            assert!(!ask(&mut scraper, who).contains("/bulkhead/aa"));
        }
        scraper.renew(Snapshot::default(), vec![figures("bb", 1, 2.0)]);
        let answer = ask(&mut scraper, "early");
        assert!(answer.contains("/bulkhead/bb") && !answer.contains("/bulkhead/aa"));
    }

    #[test]
    fn an_end_between_reading_and_taking_in_is_told_as_an_end() {
        let mut scraper = Scraper::default();
        let alive = Snapshot { containers: vec![figures("aa", 1, 1.0)], ..Snapshot::default() };
        scraper.renew(alive, vec![figures("aa", 2_000_000_000, 1.0)]);
        let answer = ask(&mut scraper, "x");
        assert!(answer.contains("container_cpu_usage_seconds_total{id=\"/bulkhead/aa\",cpu=\"total\"} 2\n"));
        assert!(!answer.contains("container_last_seen{id=\"/bulkhead/aa\""), "{answer}");
        assert!(!ask(&mut scraper, "x").contains("/bulkhead/aa"));
    }

    #[test]
    fn a_series_never_has_two_samples() {
        let mut scraper = Scraper::default();
        // It runs again.
        let mut again = figures("aa", 5, 3.0);
        again.identity.cgroup_id = Some(2);
        let alive = Snapshot { containers: vec![again], ..Snapshot::default() };
        scraper.renew(
            alive,
            vec![figures("aa", 9, 1.0), figures("bb", 1, 1.0), figures("bb", 2_000_000_000, 2.0)],
        );
        let answer = ask(&mut scraper, "x");
        let lines: Vec<&str> = answer.lines().filter(|l| l.starts_with("container_cpu_usage")).collect();
        assert_eq!(
            lines[1..],
            [
                "container_cpu_usage_seconds_total{id=\"/bulkhead/aa\",cpu=\"total\"} 0.000000005",
                "container_cpu_usage_seconds_total{id=\"/bulkhead/bb\",cpu=\"total\"} 2",
            ]
        );
    }

    #[test]
    fn nobody_waits_for_ever_and_nobody_is_remembered_for_ever() {
        let mut ended = Ended::default();
        for n in 0..WAITING + 5 {
            ended.add(figures(&n.to_string(), 1, 1.0), 1.0);
        }
        assert_eq!(ended.waiting.len(), WAITING);
        ended.add(figures("new", 1, 2.0 + PATIENCE), 2.0 + PATIENCE);
        assert_eq!(ended.waiting.len(), 1);
        for n in 0..1000 {
            ended.turn(&n.to_string());
        }
        assert_eq!(ended.told.len(), SCRAPERS);
    }

    #[test]
    fn equal_questions_share_one_answer() {
        let mut scraper = Scraper::default();
        let ask = |scraper: &mut Scraper, who: &str, gzip| {
            scraper.answer(&Scrape { gzip, scraper: who.into(), ..Scrape::default() })
        };
        scraper.renew(Snapshot::default(), vec![figures("aa", 1, 1.0)]);
        let (one, two) = (ask(&mut scraper, "1", false), ask(&mut scraper, "2", false));
        assert!(Arc::ptr_eq(&one.0, &two.0));
        let text = one.pieces().concat();
        let small = ask(&mut scraper, "3", true);
        assert!(small.length() < one.length() / 2);
        assert!(inflate(&small) == text);
        // The same without a text that somebody asked for before.
        scraper.forget();
        assert!(inflate(&ask(&mut scraper, "4", true)) == text);
    }

    fn inflate(body: &Body) -> Vec<u8> {
        let mut all = Vec::new();
        flate2::read::MultiGzDecoder::new(&*body.pieces().concat()).read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn a_long_text_in_pieces_is_the_same_text() {
        let text: Vec<u8> =
            (0..400_000_u32).flat_map(|n| format!("series_{} {n}\n", n % 977).into_bytes()).collect();
        let pieces: Vec<Vec<u8>> = text.chunks(1 << 20).map(<[u8]>::to_vec).collect();
        assert!(inflate(&compress(&pieces).into()) == text);
    }

    #[test]
    fn the_last_known_network_goes_with_the_last_figures() {
        let mut scraper = Scraper::default();
        let mut seen = figures("aa", 1, 1.0);
        seen.network = Network::Own(vec![bulkhead_engine::model::Interface {
            name: "eth0".into(),
            ..Default::default()
        }]);
        scraper.renew(Snapshot { containers: vec![seen], ..Snapshot::default() }, Vec::new());
        scraper.renew(Snapshot::default(), vec![figures("aa", 2, 2.0)]);
        assert!(ask(&mut scraper, "x").contains("interface=\"eth0\""));
    }
}
