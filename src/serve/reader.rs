//! The one thread that reads figures, and answers who asks for them.
//!
//! Questions come through a bounded channel. Everything that has come by the time a reading begins is
//! answered from that one reading, so two hundred scrapers at once cost one walk over the cgroups and one
//! rendering; when the channel is full, the server says so (503) instead of growing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use bulkhead_engine::container;
use bulkhead_engine::image;
use bulkhead_engine::model::{self, Collector, Filesystem, Host, Parts, ended::Inbox};
use bulkhead_engine::store::{Layout, Store};
use bulkhead_exporter::{Allowed, Body, Engine, Scrape, Scraper, Snapshot, Traced};

use super::{Error, enforcer::Counts, filesystem::Sizes, me};

/// Questions that may wait.
const WAITING: usize = 1024;
/// How often last figures are taken in while nobody asks.
const IDLE: Duration = Duration::from_secs(5);

/// What is counted in the kernel, from whoever counts it.
pub trait Counters: Send + Sync {
    /// Counts these as well, although their processes are older than whoever counts.
    fn watch(&self, cgroups: &[u64]);
    /// By cgroup id.
    fn counted(&self) -> HashMap<u64, Traced>;
    /// Events that were lost, by cause.
    fn lost(&self) -> BTreeMap<String, u64>;
    /// Which sources of events there are, and whether this kernel let us have them.
    fn hooks(&self) -> BTreeMap<String, bool>;
}

/// Where an answer goes; called exactly once, in the reader's thread, and must not block.
pub type Reply = Box<dyn FnOnce(Body) + Send>;

struct Question {
    scrape: Scrape,
    reply: Reply,
}

/// Asks the reader.
#[derive(Clone)]
pub struct Asker(SyncSender<Question>);

impl Asker {
    /// False when the reader has too much to do.
    pub fn ask(&self, scrape: Scrape, reply: Reply) -> bool {
        match self.0.try_send(Question { scrape, reply }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Asks and waits.
    pub fn wait(&self, scrape: Scrape) -> Result<Body, String> {
        let (send, receive) = sync_channel(1);
        let asked = self.ask(
            scrape,
            Box::new(move |answer| {
                // Whoever asked has stopped waiting.
                let _ = send.send(answer);
            }),
        );
        if !asked {
            return Err("too many questions".into());
        }
        receive.recv().map_err(|_| "the reader ended".into())
    }
}

/// Reads figures; also without a thread, for a single answer.
pub struct Reader {
    store: Store,
    collector: Collector,
    inbox: Option<Inbox>,
    sizes: Sizes,
    counters: Option<Arc<dyn Counters>>,
    scraper: Scraper,
    engine: Engine,
    counts: Option<Arc<Counts>>,
}

impl Reader {
    /// A reader of a store. Without an inbox nothing is told of containers that have ended.
    pub fn new(
        layout: Layout,
        allowed: Allowed,
        inbox: Option<Inbox>,
        sizes: Sizes,
        counters: Option<Arc<dyn Counters>>,
    ) -> Result<Self, Error> {
        Ok(Self {
            store: Store::open(layout)?,
            collector: Collector::new(Parts::ALL),
            inbox,
            sizes,
            counters,
            scraper: Scraper::new(allowed),
            engine: Engine {
                version: env!("CARGO_PKG_VERSION").into(),
                started: me::now(),
                ..Engine::default()
            },
            counts: None,
        })
    }

    /// Tells what the pressure policy did as well.
    pub fn with_counts(mut self, counts: Option<Arc<Counts>>) -> Self {
        self.counts = counts;
        self
    }

    /// Starts the thread.
    pub fn start(mut self) -> Result<Asker, Error> {
        let (send, receive) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("reader".into())
            .spawn(move || self.serve(&receive))
            .map_err(|source| Error::Io { call: "spawn", object: "reader thread".into(), source })?;
        Ok(Asker(send))
    }

    fn serve(&mut self, questions: &Receiver<Question>) {
        loop {
            let first = match questions.recv_timeout(IDLE) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.take_in();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Those that come while we read are answered by the next reading.
            let batch: Vec<Question> = std::iter::once(first).chain(questions.try_iter()).collect();
            let failed = self.engine.failed;
            if let Err(error) = self.read() {
                if !failed {
                    eprintln!("bulkhead serve: the figures cannot be read: {error}");
                }
                // An error page would look like a host that is down. What is left is told instead: that
                // the reading failed, and what is known without it.
                let host = Host::read().unwrap_or_default();
                self.scraper
                    .renew(Snapshot { host, engine: self.engine.clone(), ..Snapshot::default() }, Vec::new());
            }
            for Question { scrape, reply } in batch {
                reply(self.answer(&scrape));
            }
            // The next question begins with another reading.
            self.scraper.forget();
        }
    }

    /// Last figures must not heap up on disk while nobody scrapes.
    fn take_in(&mut self) {
        if let Some(inbox) = &self.inbox
            && let Ok(ended) = inbox.take()
            && !ended.is_empty()
        {
            self.scraper.remember(ended, me::now());
        }
    }

    /// Answers from the last reading.
    pub fn answer(&mut self, scrape: &Scrape) -> Body {
        self.engine.scrapes += 1;
        self.scraper.answer(scrape)
    }

    /// Reads everything.
    pub fn read(&mut self) -> Result<(), model::Error> {
        let began = Instant::now();
        let read = self.snapshot();
        self.engine.failed = read.is_err();
        self.engine.errors += u64::from(read.is_err());
        let (mut snapshot, ended) = read?;
        self.engine.collect_seconds = began.elapsed().as_secs_f64();
        me::describe(&mut self.engine);
        snapshot.engine = self.engine.clone();
        self.scraper.renew(snapshot, ended);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<(Snapshot, Vec<model::Figures>), model::Error> {
        let mut containers = self.scraper.spare();
        // The host beside its containers: with a thousand of them it has a thousand interfaces, of which the kernel
        // tells one after the other.
        let (host, collected) = std::thread::scope(|scope| {
            let host = scope.spawn(Host::read);
            let collected = self.collector.collect_into(&self.store, &mut containers);
            (host.join().expect("a reading does not panic"), collected)
        });
        collected?;
        // After the cgroups, so that whoever was gone there is found here.
        let ended = match &self.inbox {
            Some(inbox) => inbox.take()?,
            None => Vec::new(),
        };
        let mut by_state: BTreeMap<String, u64> =
            ["created", "running", "paused", "restarting", "removing", "exited"]
                .into_iter()
                .map(|state| (state.to_owned(), 0))
                .collect();
        for figures in &containers {
            let state = figures.life.status.as_str();
            match by_state.get_mut(state) {
                Some(count) => *count += 1,
                None => drop(by_state.insert(state.to_owned(), 1)),
            }
        }
        self.sizes.tell(&mut containers);
        self.engine.containers = by_state;
        let mut traced = HashMap::new();
        // After the ended were taken in: these are their last counters as well.
        if let Some(counters) = &self.counters {
            let running: Vec<u64> =
                containers.iter().filter_map(|figures| figures.identity.cgroup_id).collect();
            counters.watch(&running);
            traced = counters.counted();
            self.engine.events_lost = Some(counters.lost());
            self.engine.hooks = counters.hooks();
        }
        if let Some(counts) = &self.counts {
            counts.tell(&mut self.engine);
        }
        let snapshot = Snapshot {
            host: host?,
            disk: Filesystem::around(&self.store.layout().root).ok(),
            containers,
            unpacked: image::cost(&self.store).ok(),
            traced,
            engine: Engine::default(),
        };
        Ok((snapshot, ended))
    }
}

/// The inbox of this run root.
pub fn inbox(layout: &Layout) -> Result<Inbox, Error> {
    // The run root is made by the first command that needs it.
    container::list(&Store::open(layout.clone())?).map_err(model::Error::from)?;
    Inbox::open(layout)?.ok_or_else(|| Error::Running(layout.run_root.clone()))
}
