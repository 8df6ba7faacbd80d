//! What this process tells of itself: `/proc/self`.

use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_exporter::Engine;

/// Fills the fields that are of the process.
pub fn describe(engine: &mut Engine) {
    use nix::sys::resource::{UsageWho, getrusage};
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let ns = |time: nix::sys::time::TimeVal| {
            time.tv_sec() as u64 * 1_000_000_000 + time.tv_usec() as u64 * 1000
        };
        engine.cpu_ns = ns(usage.user_time()) + ns(usage.system_time());
    }
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
    if let Some(pages) = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()) {
        engine.resident = pages * page;
    }
    // Twenty a container: since Linux 6.2 the directory's size is their number, and it need not be walked.
    engine.descriptors = match std::fs::metadata("/proc/self/fd").map_or(0, |fds| fds.len()) {
        0 => std::fs::read_dir("/proc/self/fd").map_or(0, |list| list.count().saturating_sub(1) as u64),
        count => count,
    };
}

/// Seconds since the epoch.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_exist() {
        let mut engine = Engine::default();
        describe(&mut engine);
        assert!(engine.resident > 100_000 && engine.descriptors >= 3, "{engine:?}");
    }
}
