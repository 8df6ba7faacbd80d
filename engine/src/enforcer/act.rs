//! From a decision to the kernel.

use std::collections::HashSet;

use super::{Action, Decision, Detector, Policy, Release, Scope};
use crate::cgroup::{self, Cgroup, Unsupported};
use crate::container::{self, Container, lifecycle, record};
use crate::model::Host;
use crate::store::Store;

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container, or its record.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// Its memory cannot be measured, so no share of it either.
    #[error("the memory of {0} is not accounted on this host")]
    NoMemory(String),
}

/// Something a policy asks for that this host does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The action's file is not there; the rule reports and does nothing.
    Action {
        /// The rule.
        rule: String,
        /// The action.
        action: &'static str,
        /// The file.
        fact: Unsupported,
    },
    /// The detector has no source here, so the rule never trips.
    Detector {
        /// The rule.
        rule: String,
        /// The detector.
        detector: &'static str,
        /// What is missing.
        lacks: &'static str,
    },
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Action { rule, action, fact } => {
                write!(f, "rule={rule} action={action} not supported, only reported: {fact}")
            }
            Self::Detector { rule, detector, lacks } => {
                write!(f, "rule={rule} detector={detector} not supported, never trips: {lacks}")
            }
        }
    }
}

/// What of this policy this host cannot do; `parent` is the containers' cgroup.
pub fn missing(policy: &Policy, parent: &str, host: &Host) -> Result<Vec<Missing>, cgroup::Error> {
    let mut all = Vec::new();
    for rule in &policy.rules {
        let file = match rule.action {
            Action::Throttle { .. } => Some("memory.high"),
            Action::Reclaim { .. } => Some("memory.reclaim"),
            Action::Freeze { .. } | Action::Kill => None,
        };
        if let Some(file) = file
            && let Some(fact) = cgroup::lacks_memory_file(parent, file)?
        {
            all.push(Missing::Action { rule: rule.name.clone(), action: rule.action.name(), fact });
        }
        let lacks = match rule.detector {
            Detector::PsiSome { .. } | Detector::PsiFull { .. } if host.memory_pressure.is_none() => {
                Some("this kernel keeps no pressure stall information (/proc/pressure/memory)")
            }
            Detector::SwapFreeBelow(_) if host.memory.swap_total == 0 => Some("this host has no swap"),
            _ => None,
        };
        if let Some(lacks) = lacks {
            all.push(Missing::Detector { rule: rule.name.clone(), detector: rule.detector.name(), lacks });
        }
        debug_assert!(rule.scope == Scope::Host || !matches!(rule.detector, Detector::SwapFreeBelow(_)));
    }
    Ok(all)
}

/// The rules that can only report.
pub fn unsupported(missing: &[Missing]) -> HashSet<String> {
    missing
        .iter()
        .filter_map(|fact| match fact {
            Missing::Action { rule, .. } => Some(rule.clone()),
            Missing::Detector { .. } => None,
        })
        .collect()
}

fn open(container: &Container) -> Result<Cgroup, cgroup::Error> {
    Cgroup::open(&container.record.cgroup_parent, &container.id)
}

/// Does what was decided. False when there was nobody to do it to, or he has ended meanwhile.
pub fn act(store: &mut Store, decision: &Decision) -> Result<bool, Error> {
    let Some((id, name)) = &decision.victim else { return Ok(false) };
    let container = match record::find(store, id) {
        Err(container::Error::NoSuchContainer(_)) => return Ok(false),
        other => other?,
    };
    let acted: Result<(), Error> = match decision.action {
        Action::Kill => open(&container).and_then(|cgroup| cgroup.kill()).map_err(Into::into),
        Action::Freeze { .. } => lifecycle::pause(store, &container).map_err(Into::into),
        Action::Throttle { to, .. } => {
            let memory = decision.memory.ok_or_else(|| Error::NoMemory(name.clone()))?;
            open(&container)
                .and_then(|cgroup| cgroup.set_memory_high(Some(to.of(memory))))
                .map_err(Into::into)
        }
        Action::Reclaim { bytes } => {
            open(&container).and_then(|cgroup| cgroup.reclaim(bytes)).map_err(Into::into)
        }
    };
    match acted {
        Err(Error::Cgroup(error) | Error::Container(container::Error::Cgroup(error))) if error.is_gone() => {
            Ok(false)
        }
        Err(Error::Container(container::Error::NotRunning(_))) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Undoes it. False when it has been undone already, by a user or by the container's end.
pub fn release(store: &mut Store, release: &Release) -> Result<bool, Error> {
    let container = match record::find(store, &release.victim.0) {
        Err(container::Error::NoSuchContainer(_)) => return Ok(false),
        other => other?,
    };
    match release.action {
        Action::Freeze { .. } => match lifecycle::unpause(store, &container) {
            Err(container::Error::NotPaused(_) | container::Error::NotRunning(_)) => return Ok(false),
            other => other?,
        },
        Action::Throttle { .. } => {
            let asked = u64::try_from(container.record.host_config.resources.memory_high).ok();
            let high = asked.filter(|bytes| *bytes > 0);
            match open(&container).and_then(|cgroup| cgroup.set_memory_high(high)) {
                Err(error) if error.is_gone() => return Ok(false),
                other => other?,
            }
        }
        Action::Kill | Action::Reclaim { .. } => return Ok(false),
    }
    Ok(true)
}
