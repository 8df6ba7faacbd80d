//! The last reading that a command made, kept for the next one.
//!
//! A rate needs two readings, and `stats --no-stream` must answer at once. What the reading before it saw
//! (of another `stats`, a few seconds ago) is a better first value than the average since the container
//! started. One small file for all containers, in the run root; nothing depends on it.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Figures, now};
use crate::cgroup::Stats;
use crate::store::Layout;

/// Nanoseconds after which a reading says nothing about now.
const OLD: u64 = 60_000_000_000;
/// Nanoseconds below which two readings are too close for a rate.
const CLOSE: u64 = 100_000_000;

/// What was seen of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    cgroup: u64,
    clock: u64,
    cpu: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    /// The run root may outlive a boot, clocks and cgroup ids do not.
    boot: String,
    seen: HashMap<String, Seen>,
}

/// The last reading.
#[derive(Debug, Default)]
pub struct Last {
    path: PathBuf,
    file: File,
}

impl Last {
    /// What is there; nothing when it cannot be read or is of another boot.
    pub fn load(layout: &Layout) -> Self {
        let path = layout.run_root.join("stats.json");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let file = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok())
            .filter(|file| file.boot == boot)
            .unwrap_or_else(|| File { boot, seen: HashMap::new() });
        Self { path, file }
    }

    /// The earlier reading of the same run, if it is neither too old nor too close. Only the fields that
    /// the CPU's rate needs are filled.
    pub fn before(&self, figures: &Figures) -> Option<Figures> {
        let seen = self.file.seen.get(&figures.identity.id)?;
        let age = figures.clock.checked_sub(seen.clock)?;
        if figures.identity.cgroup_id != Some(seen.cgroup) || !(CLOSE..OLD).contains(&age) {
            return None;
        }
        let mut before = Figures { clock: seen.clock, ..Figures::default() };
        before.identity.id.clone_from(&figures.identity.id);
        before.identity.cgroup_id = Some(seen.cgroup);
        let mut stats = Stats::default();
        stats.cpu.usage = seen.cpu;
        before.stats = Some(stats);
        Some(before)
    }

    /// Keeps a reading for the next command. One that is younger than the limit of closeness stays, so
    /// that a command in a tight loop keeps a base to compute from. A file that cannot be written is none.
    pub fn keep(mut self, figures: &[Figures]) {
        let clock = now().1;
        self.file.seen.retain(|_, seen| clock.saturating_sub(seen.clock) < OLD);
        for figures in figures {
            let (Some(cgroup), Some(stats)) = (figures.identity.cgroup_id, &figures.stats) else { continue };
            let young = self.file.seen.get(&figures.identity.id).is_some_and(|seen| {
                seen.cgroup == cgroup && figures.clock.saturating_sub(seen.clock) < CLOSE * 10
            });
            if !young {
                let seen = Seen { cgroup, clock: figures.clock, cpu: stats.cpu.usage };
                self.file.seen.insert(figures.identity.id.clone(), seen);
            }
        }
        let Ok(text) = serde_json::to_vec(&self.file) else { return };
        let hidden = self.path.with_extension(format!("{}", std::process::id()));
        if fs::write(&hidden, text).and_then(|()| fs::rename(&hidden, &self.path)).is_err() {
            let _ = fs::remove_file(&hidden);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(cgroup: u64, clock: u64, cpu: u64) -> Figures {
        let mut figures = Figures { clock, stats: Some(Stats::default()), ..Figures::default() };
        figures.identity.id = "ab".into();
        figures.identity.cgroup_id = Some(cgroup);
        figures.stats.as_mut().unwrap().cpu.usage = cpu;
        figures
    }

    #[test]
    fn a_reading_is_found_by_the_next_command_of_the_same_run() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { root: dir.path().into(), run_root: dir.path().into() };
        let clock = now().1;
        assert!(Last::load(&layout).before(&figures(1, clock, 5)).is_none());
        Last::load(&layout).keep(&[figures(1, clock, 5)]);
        let last = Last::load(&layout);
        let before = last.before(&figures(1, clock + CLOSE, 9)).unwrap();
        assert_eq!((before.clock, before.stats.unwrap().cpu.usage), (clock, 5));
        assert!(last.before(&figures(2, clock + CLOSE, 9)).is_none(), "another run");
        assert!(last.before(&figures(1, clock + CLOSE - 1, 9)).is_none(), "too close");
        assert!(last.before(&figures(1, clock + OLD, 9)).is_none(), "too old");
        // A loop of commands keeps its base.
        last.keep(&[figures(1, clock + CLOSE, 9)]);
        assert_eq!(Last::load(&layout).before(&figures(1, clock + 2 * CLOSE, 9)).unwrap().clock, clock);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_or_foreign_file_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { root: dir.path().into(), run_root: dir.path().into() };
        for text in ["", "{", "{\"boot\":\"other\",\"seen\":{}}", "[]"] {
            fs::write(dir.path().join("stats.json"), text).unwrap();
            assert!(Last::load(&layout).file.seen.is_empty());
        }
    }
}
