//! Out of memory: how eagerly the kernel picks a container, and how it is learnt that it did.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::{
        eventfd::{EfdFlags, EventFd},
        inotify::{AddWatchFlags, InitFlags, Inotify},
    },
};

use super::{Cgroup, error::Error, flat_key, mounts::V1};

/// `oom_score_adj` of a container that nothing is known about.
pub const BEST_EFFORT: i32 = 1000;
/// `oom_score_adj` of a container whose whole memory is reserved: below everything but the host's own.
pub const GUARANTEED: i32 = -997;

/// `oom_score_adj` of a container that reserves `reservation` bytes on a host of `capacity` bytes.
///
/// 1000 − 1000 × reservation ÷ capacity, between 2 and 999: who reserved much and uses no more than
/// that is killed last, and everyone is killed before the guaranteed and after the best-effort.
/// Source: Kubernetes, pkg/kubelet/qos/policy.go, `GetContainerOOMScoreAdjust`; the integer division is
/// its own. With a limit no larger than the reservation all memory is spoken for, hence −997.
pub fn score_of_reservation(reservation: u64, limit: u64, capacity: u64) -> i32 {
    if reservation == 0 || capacity == 0 {
        return BEST_EFFORT;
    }
    if limit != 0 && reservation >= limit {
        return GUARANTEED;
    }
    let adjusted = 1000 - (1000 * u128::from(reservation) / u128::from(capacity)).min(1000) as i32;
    adjusted.clamp(2, 999)
}

/// `oom_score_adj` of `--oom-priority`: 0 goes first, 100 last.
///
/// A straight line from 1000 (best effort) to −997 (guaranteed), so that priorities and the kubelet's
/// classes share one scale; 50 is 2, the most valuable of its burstable class.
/// Numbers above 100 count as 100.
pub fn score_of_priority(priority: u8) -> i32 {
    let priority = i32::from(priority.min(100));
    BEST_EFFORT - priority * (BEST_EFFORT - GUARANTEED) / 100
}

/// The score that a container gets: an explicit one wins, then a priority, then a reservation.
///
/// `None` leaves what the engine itself has, as Docker's default of 0 does.
pub fn score(
    explicit: Option<i32>,
    priority: Option<u8>,
    reservation: u64,
    limit: u64,
    capacity: u64,
) -> Option<i32> {
    explicit
        .or_else(|| priority.map(score_of_priority))
        .or_else(|| (reservation != 0).then(|| score_of_reservation(reservation, limit, capacity)))
}

/// Bytes of memory this host has, the `capacity` of the formulas.
pub fn capacity() -> u64 {
    let mut info = std::mem::MaybeUninit::<libc::sysinfo>::zeroed();
    // SAFETY: the kernel fills the structure, for which all zeros is a value too.
    let info = unsafe {
        libc::sysinfo(info.as_mut_ptr());
        info.assume_init()
    };
    info.totalram * u64::from(info.mem_unit.max(1))
}

/// What `HostConfig.OomScoreAdj` becomes for these resources, unless the user gave one: Docker's 0 says
/// that nothing was asked for.
pub fn score_of(explicit: i64, resources: &crate::config::Resources) -> i64 {
    let r = resources;
    if explicit != 0 || (r.oom_priority.is_none() && r.memory_reservation <= 0) {
        return explicit;
    }
    let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
    score(None, r.oom_priority, bytes(r.memory_reservation), bytes(r.memory), capacity()).map_or(0, i64::from)
}

/// Becomes readable when the container runs out of memory.
///
/// To be polled beside other descriptors. The kernel may wake it before it has counted the kill and once
/// more when the cgroup is removed, so what is true is [`Cgroup::oom_kills`], asked after a wake-up and
/// again at the end.
#[derive(Debug)]
pub enum OomWatch {
    /// v1: an eventfd registered with `memory.oom_control`.
    V1(EventFd),
    /// v2: an inotify watch on `memory.events`, which the kernel marks modified.
    V2(Inotify),
}

impl OomWatch {
    /// Forgets the wake-ups so far.
    pub fn acknowledge(&self) -> Result<(), Errno> {
        let result = match self {
            Self::V1(fd) => fd.read().map(drop),
            Self::V2(fd) => fd.read_events().map(drop),
        };
        match result {
            Err(Errno::EAGAIN) => Ok(()),
            other => other,
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::V1(fd) => fd.as_fd(),
            Self::V2(fd) => fd.as_fd(),
        }
    }
}

impl Cgroup {
    /// Processes that the kernel killed here for want of memory, since the cgroup was made.
    ///
    /// On v2 the cgroups below count too. `None` without a memory controller. Ask before
    /// [`Cgroup::remove`]: the count goes with the cgroup.
    pub fn oom_kills(&self) -> Result<Option<u64>, Error> {
        let (dir, file) = match self.v1.get(V1::Memory) {
            Some(v1) => (v1, "memory.oom_control"),
            None => (&self.dir, "memory.events"),
        };
        Ok(dir.try_read(file)?.and_then(|text| flat_key(&text, "oom_kill")))
    }

    /// A descriptor that tells of OOM as it happens; `None` without a memory controller.
    pub fn oom_watch(&self) -> Result<Option<OomWatch>, Error> {
        if let Some(v1) = self.v1.get(V1::Memory) {
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(|errno| Error::sys("eventfd2", v1.path(), errno))?;
            let control: OwnedFd = v1.open_read("memory.oom_control")?;
            let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
            v1.write("cgroup.event_control", &line)?;
            // The kernel holds the registration by the eventfd: `control` may be closed.
            return Ok(Some(OomWatch::V1(event)));
        }
        if !self.dir.has("memory.events") {
            return Ok(None);
        }
        let path = self.dir.file("memory.events");
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|errno| Error::sys("inotify_init1", &path, errno))?;
        inotify
            .add_watch(&path, AddWatchFlags::IN_MODIFY)
            .map_err(|errno| Error::sys("inotify_add_watch", &path, errno))?;
        Ok(Some(OomWatch::V2(inotify)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_kubelets_formula() {
        // (reservation, limit, capacity): the classes of its own policy_test.go and the edges.
        for (reservation, limit, capacity, score) in [
            (0, 0, 8 * GIB, 1000),
            (4 * GIB, 0, 8 * GIB, 500),
            (8 * GIB, 0, 8 * GIB, 2),
            (100 * GIB, 0, 8 * GIB, 2),
            (1, 0, 8 * GIB, 999),
            (GIB, GIB, 8 * GIB, -997),
            (2 * GIB, GIB, 8 * GIB, -997),
            (GIB, 2 * GIB, 8 * GIB, 875),
            (GIB, 0, 0, 1000),
            (u64::MAX, 0, u64::MAX, 2),
        ] {
            assert_eq!(
                score_of_reservation(reservation, limit, capacity),
                score,
                "{reservation} {limit} {capacity}"
            );
        }
    }

    #[test]
    fn a_host_configuration_is_scored_once() {
        let asks = |oom_priority, memory_reservation, memory| crate::config::Resources {
            memory,
            memory_reservation,
            oom_priority,
            ..Default::default()
        };
        assert!(capacity() > 1 << 20);
        assert_eq!(score_of(0, &asks(None, 0, 1 << 30)), 0);
        assert_eq!(score_of(0, &asks(Some(0), 0, 0)), 1000);
        assert_eq!(score_of(0, &asks(Some(100), 1 << 20, 0)), -997);
        assert_eq!(score_of(-5, &asks(Some(100), 1 << 20, 0)), -5);
        assert_eq!(score_of(0, &asks(None, 1 << 30, 1 << 30)), -997);
        assert!((2..=999).contains(&score_of(0, &asks(None, 1 << 20, 0))));
    }

    #[test]
    fn priorities_and_what_wins() {
        assert_eq!(score_of_priority(0), 1000);
        assert_eq!(score_of_priority(50), 2);
        assert_eq!(score_of_priority(100), -997);
        assert_eq!(score_of_priority(255), -997);
        assert!((0..=100).map(score_of_priority).is_sorted_by(|a, b| a > b));
        assert_eq!(score(Some(-5), Some(100), GIB, 0, 8 * GIB), Some(-5));
        assert_eq!(score(None, Some(0), GIB, 0, 8 * GIB), Some(1000));
        assert_eq!(score(None, None, GIB, 0, 8 * GIB), Some(875));
        assert_eq!(score(None, None, 0, GIB, 8 * GIB), None);
    }
}
