//! The part that acts when something runs short: the pressure policy of a file, by a thread of its own.
//!
//! Each look is one reading of the running containers; each decision is one line on standard error and one
//! count in the metrics, whether it was done, only reported, or failed. A file that is wrong is refused at
//! the start; found wrong on a reload, it changes nothing and says so, because a policy that vanishes by a
//! typing error is worse than yesterday's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bulkhead_engine::enforcer::{Decision, Enforcer, Policy, Restraint, Subject, act};
use bulkhead_engine::model::{self, Collector, Host, Parts};
use bulkhead_engine::store::{Layout, Store};
use bulkhead_exporter::Engine;

use super::Error;

/// Where the default engine's policy is.
pub const USUAL: &str = "/etc/bulkhead/enforcer.toml";

type Tally = BTreeMap<(&'static str, &'static str), u64>;

/// What became of decisions, by action and detector.
#[derive(Debug, Default)]
pub struct Counts(Mutex<[Tally; 3]>);

/// What became of one.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Done,
    Reported,
    Failed,
}

impl Counts {
    fn add(&self, decision: &Decision, outcome: Outcome) {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *tallies[outcome as usize].entry((decision.action.name(), decision.detector)).or_default() += 1;
    }

    /// Every pair of a policy, from zero: a counter that begins at one hides its first event.
    fn prepare(&self, policy: &Policy) {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tally in tallies.iter_mut() {
            for rule in &policy.rules {
                tally.entry((rule.action.name(), rule.detector.name())).or_default();
            }
        }
    }

    /// Copies them into what is exported.
    pub fn tell(&self, engine: &mut Engine) {
        let tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [done, reported, failed] = &*tallies;
        engine.enforced.clone_from(done);
        engine.reported.clone_from(reported);
        engine.unenforced.clone_from(failed);
    }
}

/// The running thread.
#[derive(Debug)]
pub struct Handle {
    reload: SyncSender<()>,
    counts: Arc<Counts>,
}

impl Handle {
    /// Has the file read again.
    pub fn reload(&self) {
        // Full: a reload is due already.
        let _ = self.reload.try_send(());
    }

    /// What was done.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }
}

struct Thread {
    path: PathBuf,
    parent: String,
    store: Store,
    collector: Collector,
    enforcer: Enforcer,
    counts: Arc<Counts>,
    began: Instant,
    /// The last look failed; said once.
    blind: bool,
}

/// Reads the policy, says what of it this host cannot do, and starts the thread.
pub fn start(layout: Layout, parent: String, path: PathBuf) -> Result<Handle, Error> {
    let counts = Arc::new(Counts::default());
    let enforcer = load(&path, &parent, &counts)?;
    let mut thread = Thread {
        path,
        parent,
        store: Store::open(layout)?,
        collector: Collector::new(Parts::default()),
        enforcer,
        counts: counts.clone(),
        began: Instant::now(),
        blind: false,
    };
    stand_firm();
    let (reload, due) = sync_channel(1);
    std::thread::Builder::new()
        .name("enforcer".into())
        .spawn(move || thread.run(&due))
        .map_err(|source| Error::Io { call: "spawn", object: "enforcer thread".into(), source })?;
    Ok(Handle { reload, counts })
}

/// Whoever is to act when memory is short must not wait for memory himself, nor be the one who is killed.
///
/// What this process has touched stays in memory, and the kernel kills it last. Without the capabilities for
/// either it does what it can all the same.
fn stand_firm() {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    // Without it there is a limit, at which the next allocation would fail.
    if set & (1 << CAP_IPC_LOCK) != 0 {
        // SAFETY: no memory is involved. On fault: pages that are never used are not brought in for this.
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    }
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
}

fn load(path: &Path, parent: &str, counts: &Counts) -> Result<Enforcer, Error> {
    let policy = Policy::read(path)?;
    let missing = act::missing(&policy, parent, &Host::read()?)?;
    for fact in &missing {
        eprintln!("bulkhead serve: enforcer: {fact}");
    }
    counts.prepare(&policy);
    eprintln!(
        "bulkhead serve: enforcer: {} rules from {}{}",
        policy.rules.len(),
        path.display(),
        if policy.dry_run { ", dry run" } else { "" }
    );
    Ok(Enforcer::new(policy, act::unsupported(&missing)))
}

impl Thread {
    fn run(&mut self, due: &Receiver<()>) {
        loop {
            match due.recv_timeout(self.enforcer.policy().interval) {
                Ok(()) => self.reload(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            match self.look() {
                Ok(()) => self.blind = false,
                Err(error) if !self.blind => {
                    eprintln!("bulkhead serve: enforcer: cannot look: {error}");
                    self.blind = true;
                }
                Err(_) => {}
            }
        }
    }

    fn reload(&mut self) {
        match load(&self.path, &self.parent, &self.counts) {
            // What the old policy has frozen or slowed down and not yet released is released now: the new
            // one does not know of it.
            Ok(new) => {
                self.release(u64::MAX);
                self.enforcer = new;
            }
            Err(error) => eprintln!("bulkhead serve: enforcer: not reloaded, the old policy stays: {error}"),
        }
    }

    fn look(&mut self) -> Result<(), model::Error> {
        let host = Host::read()?;
        let figures = self.collector.collect(&self.store)?;
        let subjects: Vec<Subject> =
            figures.iter().filter_map(|figures| Subject::of(figures, &host)).collect();
        let clock = self.began.elapsed().as_nanos() as u64;
        for decision in self.enforcer.decide(&host, &subjects, clock) {
            self.enforce(&decision);
        }
        self.release(clock);
        Ok(())
    }

    fn enforce(&mut self, decision: &Decision) {
        let (outcome, word) = match &decision.restraint {
            Some(Restraint::DryRun) => (Outcome::Reported, "dry-run".to_owned()),
            Some(Restraint::Unsupported) => (Outcome::Reported, "unsupported".to_owned()),
            None => match act::act(&mut self.store, decision) {
                Ok(true) => (Outcome::Done, "done".to_owned()),
                Ok(false) if decision.victim.is_some() => (Outcome::Reported, "already".to_owned()),
                Ok(false) => (Outcome::Reported, "nobody".to_owned()),
                Err(error) => (Outcome::Failed, format!("failed ({error})")),
            },
        };
        self.counts.add(decision, outcome);
        eprintln!("bulkhead serve: enforcer: {decision} outcome={word}");
    }

    fn release(&mut self, clock: u64) {
        for release in self.enforcer.releases(clock) {
            let word = match act::release(&mut self.store, &release) {
                Ok(true) => "done".to_owned(),
                Ok(false) => "already".to_owned(),
                Err(error) => format!("failed ({error})"),
            };
            eprintln!(
                "bulkhead serve: enforcer: rule={} release={} container={} outcome={word}",
                release.rule,
                release.action.name(),
                release.victim.1
            );
        }
    }
}
