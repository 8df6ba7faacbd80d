//! Processes of ours that go on by themselves: monitors, and those that hold an exec.
//!
//! A command that starts one exits before it, and whoever inherits it collects it. A process that stays, and has
//! started a thousand, would be left with a thousand zombies; so whoever starts one hands it over here, and what
//! has ended is collected at the next start and whenever somebody calls [`collect`]. Not by ignoring SIGCHLD:
//! nobody could then wait for a credential helper any more.

use std::process::Child;
use std::sync::{Mutex, PoisonError};

static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Takes over a child that nobody will wait for.
pub(crate) fn hand_over(child: Child) {
    collect();
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).push(child);
}

/// Collects those that have ended.
pub fn collect() {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    // An error means that somebody else has collected it.
    children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}
