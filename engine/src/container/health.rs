//! Health checks: a command that is executed in a running container now and again.
//!
//! The monitor is the one process that is there as long as the container, so the checks are its. It is
//! single-threaded and must never wait for a check: a probe is one more process of its poll set, and
//! [`Checker::turn`] does what has become due. What the answers mean follows Docker: a failure counts once
//! the start period is over or the container has been healthy, as many in a row as there are retries make
//! it unhealthy, one success makes it healthy again.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::Error;
use super::exec::{self, Running};
use super::freeze::Right;
use super::log::now;
use super::record::{self, Health, Probe, Status};
use super::spec::ExecOptions;
use crate::config::Config;
use crate::store::Store;

/// Docker's, where the container names none.
const INTERVAL: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;
/// Bytes kept of what a probe printed.
const OUTPUT: usize = 4096;
/// Probes kept.
const LOG: usize = 5;
/// When a container cannot be probed at this moment (it is paused, or being committed).
const LATER: Duration = Duration::from_millis(100);
/// The exit code of a probe that did not end by itself, or did not begin.
const NOT_RUN: i32 = -1;

/// What is asked of the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    retries: u32,
    start_period: Duration,
    start_interval: Duration,
}

impl Plan {
    /// `None` where there is nothing to check.
    fn of(config: &Config) -> Option<Self> {
        let check = config.healthcheck.as_ref()?;
        let command = match check.test.split_first() {
            Some((kind, words)) if kind == "CMD" && !words.is_empty() => words.to_vec(),
            Some((kind, words)) if kind == "CMD-SHELL" && !words.is_empty() => {
                // The shell of the image, where it names one.
                let shell = config.shell.clone().filter(|shell| !shell.is_empty());
                let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                command.push(words.join(" "));
                command
            }
            _ => return None,
        };
        let or = |nanoseconds: i64, default| match u64::try_from(nanoseconds) {
            Ok(0) | Err(_) => default,
            Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
        };
        Some(Self {
            command,
            interval: or(check.interval, INTERVAL),
            timeout: or(check.timeout, TIMEOUT),
            retries: u32::try_from(check.retries).ok().filter(|retries| *retries > 0).unwrap_or(RETRIES),
            start_period: or(check.start_period, Duration::ZERO),
            start_interval: or(check.start_interval, START_INTERVAL),
        })
    }

    /// From one probe to the next: while a container has not come up yet, it is asked more often (or less).
    fn pause(&self, up_for: Duration, status: &str) -> Duration {
        if status == "starting" && up_for < self.start_period { self.start_interval } else { self.interval }
    }

    /// Adds a probe's answer. `early`: the start period is not over.
    fn judge(&self, health: &mut Health, probe: Probe, early: bool) {
        if probe.exit_code == 0 {
            health.failing_streak = 0;
            "healthy".clone_into(&mut health.status);
        } else if !(early && health.status == "starting") {
            health.failing_streak = health.failing_streak.saturating_add(1);
            if health.failing_streak >= self.retries {
                "unhealthy".clone_into(&mut health.status);
            }
        }
        health.log.push(probe);
        let surplus = health.log.len().saturating_sub(LOG);
        health.log.drain(..surplus);
    }
}

/// A probe that runs.
#[derive(Debug)]
struct Probing {
    running: Running,
    began: String,
    deadline: Instant,
    output: Vec<u8>,
    overdue: bool,
}

impl Probing {
    fn streams(&self) -> impl Iterator<Item = &OwnedFd> {
        self.running.output.iter().chain(&self.running.error)
    }

    /// Reads what is there, keeping the beginning.
    fn read(&mut self) {
        let mut buffer = [0; OUTPUT];
        for stream in [&mut self.running.output, &mut self.running.error] {
            while let Some(fd) = stream {
                match nix::unistd::read(fd.as_fd(), &mut buffer) {
                    Ok(0) => *stream = None,
                    Ok(length) => {
                        let room = OUTPUT.saturating_sub(self.output.len());
                        self.output.extend_from_slice(&buffer[..length.min(room)]);
                    }
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(nix::errno::Errno::EAGAIN) => break,
                    Err(_) => *stream = None,
                }
            }
        }
    }

    /// The exit code once it has ended.
    fn ended(&self) -> Option<i32> {
        match waitid(Id::PIDFd(self.running.pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, code)) => Some(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
            Ok(_) | Err(nix::errno::Errno::EINTR) => None,
            Err(_) => Some(NOT_RUN),
        }
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        // Of one that has been reaped there is nobody to signal. Of one that is frozen, nobody to wait for:
        // it dies with its cgroup, and whoever adopts it reaps it.
        let _ = crate::runtime::signal(&self.running.pidfd, libc::SIGKILL);
        let _ = self.ended();
    }
}

/// The checks of one run of a container.
#[derive(Debug)]
pub(super) struct Checker {
    plan: Plan,
    began: Instant,
    next: Instant,
    probing: Option<Probing>,
}

impl Checker {
    /// The checks that a container asks for, from its start on.
    pub fn new(config: &Config) -> Option<Self> {
        let plan = Plan::of(config)?;
        let began = Instant::now();
        Some(Self { next: began + plan.pause(Duration::ZERO, "starting"), began, plan, probing: None })
    }

    /// The state before the first answer.
    pub fn first() -> Health {
        Health { status: "starting".to_owned(), ..Health::default() }
    }

    /// What to poll for input.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.probing.iter().flat_map(|probing| {
            // A command that left something behind that holds its output has ended all the same.
            probing.streams().map(|fd| fd.as_fd()).chain(std::iter::once(probing.running.pidfd.as_fd()))
        })
    }

    /// How long nothing is due.
    pub fn patience(&self) -> Duration {
        let due = match &self.probing {
            // Killed already: what is waited for is its end, which is polled for.
            Some(probing) if probing.overdue => Instant::now() + TIMEOUT,
            Some(probing) => probing.deadline,
            None => self.next,
        };
        due.saturating_duration_since(Instant::now())
    }

    /// Does what is due. An answer that cannot be recorded now is lost: that is no reason to end a
    /// container, and the next one will be told.
    pub fn turn(&mut self, store: &mut Store, id: &str) {
        if self.work(store, id).is_err() {
            self.next = Instant::now() + self.plan.interval;
        }
    }

    fn work(&mut self, store: &mut Store, id: &str) -> Result<(), Error> {
        let Some(probing) = &mut self.probing else {
            if Instant::now() >= self.next {
                self.begin(store, id)?;
            }
            return Ok(());
        };
        probing.read();
        match probing.ended() {
            Some(code) => {
                // What it wrote between our read and its end.
                probing.read();
                let text = String::from_utf8_lossy(&probing.output).into_owned();
                let (code, output) = if probing.overdue {
                    let seconds = self.plan.timeout.as_secs_f64();
                    (NOT_RUN, format!("Health check exceeded timeout ({seconds}s): {text}"))
                } else {
                    (code, text)
                };
                let began = std::mem::take(&mut probing.began);
                self.probing = None;
                self.answer(store, id, began, code, output)?;
            }
            None if !probing.overdue && Instant::now() >= probing.deadline => {
                probing.overdue = true;
                let _ = crate::runtime::signal(&probing.running.pidfd, libc::SIGKILL);
            }
            None => {}
        }
        Ok(())
    }

    fn begin(&mut self, store: &mut Store, id: &str) -> Result<(), Error> {
        let later = Instant::now() + LATER;
        // A process that is born into a frozen cgroup would keep us waiting for its first step.
        let Some(_right) = Right::try_take(store.layout(), id)? else {
            self.next = later;
            return Ok(());
        };
        let container = match record::find(store, id) {
            Ok(container) if container.state.status == Status::Running => container,
            // Paused, or gone a moment from now.
            Ok(_) | Err(Error::NoSuchContainer(_)) => {
                self.next = later;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let began = now();
        let options = ExecOptions { args: self.plan.command.clone(), ..ExecOptions::default() };
        match exec::start(store, &container, &options, false, false) {
            Ok(running) => {
                for fd in running.output.iter().chain(&running.error) {
                    let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
                }
                let deadline = Instant::now() + self.plan.timeout;
                self.probing = Some(Probing { running, began, deadline, output: Vec::new(), overdue: false });
                Ok(())
            }
            // Process 1 has ended: there is nothing to say about its health any more.
            Err(Error::NotRunning(_) | Error::Runtime(crate::runtime::Error::NotRunning)) => {
                self.next = later;
                Ok(())
            }
            Err(error) => self.answer(store, id, began, NOT_RUN, error.to_string()),
        }
    }

    fn answer(
        &mut self,
        store: &mut Store,
        id: &str,
        start: String,
        exit_code: i32,
        output: String,
    ) -> Result<(), Error> {
        let up_for = self.began.elapsed();
        self.next = Instant::now() + self.plan.pause(up_for, "starting");
        let probe = Probe { start, end: now(), exit_code, output };
        let early = up_for < self.plan.start_period;
        let mut changed = None;
        record::change_state(store, id, |state| {
            let health = state.health.get_or_insert_with(Self::first);
            let before = health.status.clone();
            self.plan.judge(health, probe, early);
            self.next = Instant::now() + self.plan.pause(up_for, &health.status);
            changed = (health.status != before).then(|| health.status.clone());
        })?;
        if let (Some(status), Ok(container)) = (changed, record::find(store, id)) {
            container.event(format!("health_status: {status}")).tell(store.layout());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Healthcheck;

    fn plan(test: &[&str], retries: i64) -> Option<Plan> {
        let test = test.iter().map(|word| (*word).to_owned()).collect();
        let healthcheck = Some(Healthcheck { test, retries, interval: 7, ..Healthcheck::default() });
        Plan::of(&Config { healthcheck, ..Config::default() })
    }

    #[test]
    fn a_check_is_a_command_or_a_line_for_the_shell() {
        assert_eq!(plan(&["CMD", "test", "-e", "/x"], 0).expect("plan").command, ["test", "-e", "/x"]);
        let line = plan(&["CMD-SHELL", "exit 1"], 0).expect("plan");
        assert_eq!(line.command, ["/bin/sh", "-c", "exit 1"]);
        assert_eq!((line.interval, line.timeout, line.retries), (Duration::from_nanos(7), TIMEOUT, RETRIES));
        for nothing in [&["NONE"] as &[&str], &[], &["CMD"], &["CMD-SHELL"], &["OTHER", "x"]] {
            assert_eq!(plan(nothing, 0), None, "{nothing:?}");
        }
    }

    #[test]
    fn as_many_failures_in_a_row_as_there_are_retries_make_it_unhealthy() {
        let plan = plan(&["CMD", "x"], 2).expect("plan");
        let mut health = Checker::first();
        let mut told = |exit_code, early| {
            plan.judge(&mut health, Probe { exit_code, ..Probe::default() }, early);
            (health.status.clone(), health.failing_streak, health.log.len())
        };
        let is = |status: &str, streak, log| (status.to_owned(), streak, log);
        assert_eq!(told(1, true), is("starting", 0, 1), "in the start period it does not count");
        assert_eq!(told(1, false), is("starting", 1, 2));
        assert_eq!(told(0, true), is("healthy", 0, 3));
        assert_eq!(told(NOT_RUN, true), is("healthy", 1, 4), "it has been healthy: it counts");
        assert_eq!(told(3, false), is("unhealthy", 2, 5));
        assert_eq!(told(3, false), is("unhealthy", 3, 5));
        assert_eq!(told(0, false), is("healthy", 0, 5));
    }
}
