//! The applier that makes files through io_uring.
//!
//! A file is one chain of requests, open → write → close, in a slot of the ring's own descriptor table:
//! no descriptor of the process is touched, and one system call submits some dozens of chains. What the
//! ring has no request for (owner, times, attributes, links, devices) is done by name afterwards, or by
//! the plain applier that it falls back to for anything that is not a whole, ordinary file.
//!
//! What this buys has not been measured yet. The kernel hands every creating open to its worker threads,
//! and a buffered write too on file systems that cannot do it without blocking, so a chain costs thread
//! switches that a plain call does not; it can win only where those workers run on processors that are
//! otherwise idle. Until a benchmark says more, `auto` means threads: a guess from that, and no more.
//!
//! The ring is created disabled, restricted to the three requests above, given few workers, and only
//! then enabled. Whether a kernel has all that is found out by doing it ([`probe`]), since seccomp and
//! `kernel.io_uring_disabled` forbid it as often as age does.
//!
//! Minimum kernel: 5.15 (direct descriptors by index, bounded workers).

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, opcode};

use super::Error;
use super::apply::{Applier, Op, OpKind, Shared, Threads, finish_by_name, locate};

/// Files under way at once, and slots in the descriptor table.
const SLOTS: usize = 48;
/// Pieces of content that a chain may have; a file in more is written plainly.
const PIECES: usize = 8;
/// Requests that fit into the queue.
const ENTRIES: u32 = 256;
/// Kernel workers of one ring, for regular files and for the rest.
const WORKERS: u32 = 2;

/// A ring and the files under way in it.
pub(super) struct Ring {
    inner: IoUring,
    plain: Threads,
    shared: Arc<Shared>,
    /// The slot of a file is its place here.
    files: Vec<Op>,
    queued: usize,
}

/// Whether this process may make such a ring.
pub(super) fn probe() -> Result<(), Error> {
    make().map(drop)
}

fn make() -> Result<IoUring, Error> {
    let failed = |call| move |source| Error::Ring { call, source };
    let ring = IoUring::builder().setup_r_disabled().build(ENTRIES).map_err(failed("io_uring_setup"))?;
    let submitter = ring.submitter();
    submitter.register_files_sparse(SLOTS as u32).map_err(failed("register files"))?;
    submitter.register_iowq_max_workers(&mut [WORKERS, WORKERS]).map_err(failed("register workers"))?;
    let allowed = Flags::IO_LINK | Flags::FIXED_FILE;
    let mut restrictions = [
        Restriction::sqe_op(opcode::OpenAt::CODE),
        Restriction::sqe_op(opcode::Write::CODE),
        Restriction::sqe_op(opcode::Close::CODE),
        Restriction::sqe_flags_allowed(allowed.bits()),
    ];
    submitter.register_restrictions(&mut restrictions).map_err(failed("register restrictions"))?;
    submitter.register_enable_rings().map_err(failed("enable ring"))?;
    Ok(ring)
}

/// Which request of a chain a completion belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    Write(usize),
    Close,
}

fn encode(slot: usize, step: Step) -> u64 {
    let step = match step {
        Step::Open => 0,
        Step::Close => 1,
        Step::Write(n) => 2 + n,
    };
    (slot << 16 | step) as u64
}

fn decode(data: u64) -> (usize, Step) {
    let step = match data & 0xffff {
        0 => Step::Open,
        1 => Step::Close,
        n => Step::Write(n as usize - 2),
    };
    ((data >> 16) as usize, step)
}

impl Ring {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, Error> {
        Ok(Self {
            inner: make()?,
            plain: Threads::new(Arc::clone(&shared)),
            shared,
            files: Vec::with_capacity(SLOTS),
            queued: 0,
        })
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> Result<(), Error> {
        // SAFETY: what the entry points to (the name, the content, the directory) is owned by
        // `self.files`, which is emptied only when every completion has been seen.
        let pushed = unsafe { self.inner.submission().push(entry) };
        pushed.map_err(|_| Error::Ring { call: "submit", source: io::ErrorKind::OutOfMemory.into() })?;
        self.queued += 1;
        Ok(())
    }

    /// Queues the chain of a whole file.
    fn queue(&mut self, op: Op) -> Result<(), Error> {
        let OpKind::File { meta, pieces, .. } = &op.kind else { return self.plain.apply(op) };
        let slot = self.files.len();
        let destination = DestinationSlot::try_from_slot_target(slot as u32)
            .map_err(|_| Error::Ring { call: "slot", source: io::ErrorKind::InvalidInput.into() })?;
        let mut chain = Vec::with_capacity(pieces.len() + 2);
        chain.push(
            opcode::OpenAt::new(Fd(op.dir.fd.as_raw_fd()), op.name.as_ptr())
                .flags(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW)
                .mode(meta.mode)
                .file_index(Some(destination))
                .build()
                .flags(Flags::IO_LINK)
                .user_data(encode(slot, Step::Open)),
        );
        for (n, piece) in pieces.iter().enumerate() {
            chain.push(
                opcode::Write::new(Fixed(slot as u32), piece.data.as_ptr(), piece.data.len() as u32)
                    .offset(piece.offset)
                    .build()
                    .flags(Flags::IO_LINK)
                    .user_data(encode(slot, Step::Write(n))),
            );
        }
        chain.push(opcode::Close::new(Fixed(slot as u32)).build().user_data(encode(slot, Step::Close)));
        // Owned by `files` before the ring can see it.
        self.files.push(op);
        chain.into_iter().try_for_each(|entry| self.push(&entry))
    }

    /// Submits what is queued and waits for all of it, so that nothing is in flight afterwards.
    fn complete(&mut self) -> Result<(), Error> {
        if self.files.is_empty() {
            return Ok(());
        }
        let mut results = vec![Outcome::default(); self.files.len()];
        let mut seen = 0;
        while seen < self.queued {
            match self.inner.submit_and_wait(1) {
                Ok(_) => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(error) => {
                    // Requests may be under way that read our memory: it must never be reused.
                    std::mem::forget(std::mem::take(&mut self.files));
                    return Err(Error::Ring { call: "io_uring_enter", source: error });
                }
            }
            for completion in self.inner.completion() {
                seen += 1;
                let (slot, step) = decode(completion.user_data());
                results[slot].note(step, completion.result(), &self.files[slot]);
            }
        }
        self.queued = 0;
        // A chain that broke after its open has left its slot open.
        let open: Vec<usize> =
            (0..results.len()).filter(|n| results[*n].opened && !results[*n].closed).collect();
        self.close(&open)?;
        let mut result = Ok(());
        for (op, outcome) in std::mem::take(&mut self.files).into_iter().zip(results) {
            if result.is_ok() {
                result = self.settle(op, outcome);
            }
        }
        result
    }

    fn close(&mut self, slots: &[usize]) -> Result<(), Error> {
        for slot in slots {
            let entry = opcode::Close::new(Fixed(*slot as u32)).build().user_data(encode(*slot, Step::Close));
            self.push(&entry)?;
        }
        let mut left = slots.len();
        while left > 0 {
            self.inner.submit_and_wait(1).map_err(|source| Error::Ring { call: "io_uring_enter", source })?;
            left -= self.inner.completion().count().min(left);
        }
        self.queued = 0;
        Ok(())
    }

    /// Finishes a file whose chain has ended, or does it over by plain calls.
    fn settle(&mut self, op: Op, outcome: Outcome) -> Result<(), Error> {
        match outcome.failed {
            None => {
                let OpKind::File { meta, .. } = &op.kind else { return Ok(()) };
                let result = finish_by_name(&op.dir, &op.name, meta, true, &self.shared);
                op.dir.lane.pending.fetch_sub(1, Ordering::Release);
                result.map_err(|error| locate(&op, error))
            }
            // The name exists, or a write was short: plain calls know what to do.
            Some((Step::Open, libc::EEXIST)) => self.plain.apply(op),
            Some((Step::Write(_), 0)) => {
                nix::unistd::unlinkat(
                    &op.dir.fd,
                    op.name.as_c_str(),
                    nix::unistd::UnlinkatFlags::NoRemoveDir,
                )
                .map_err(|errno| locate(&op, ("unlink", errno.into())))?;
                self.plain.apply(op)
            }
            Some((step, errno)) => {
                let call = match step {
                    Step::Open => "open",
                    Step::Write(_) => "write",
                    Step::Close => "close",
                };
                Err(locate(&op, (call, io::Error::from_raw_os_error(errno))))
            }
        }
    }
}

/// What became of a chain. The first failure counts; what it cancelled does not.
#[derive(Clone, Copy, Default)]
struct Outcome {
    opened: bool,
    closed: bool,
    failed: Option<(Step, i32)>,
}

impl Outcome {
    fn note(&mut self, step: Step, result: i32, op: &Op) {
        if result == -libc::ECANCELED {
            return;
        }
        let short = match (step, &op.kind) {
            (Step::Write(n), OpKind::File { pieces, .. }) => {
                result >= 0 && result as usize != pieces[n].data.len()
            }
            _ => false,
        };
        match step {
            Step::Open => self.opened = result >= 0,
            Step::Close => self.closed = result >= 0,
            Step::Write(_) => {}
        }
        if short {
            self.failed.get_or_insert((step, 0));
        } else if result < 0 {
            self.failed.get_or_insert((step, -result));
        }
    }
}

impl Applier for Ring {
    fn apply(&mut self, op: Op) -> Result<(), Error> {
        // Two of one name must not race in the kernel's workers.
        if self.files.iter().any(|other| Arc::ptr_eq(&other.dir, &op.dir) && other.name == op.name) {
            self.complete()?;
        }
        let whole = match &op.kind {
            OpKind::File { pieces, meta, sparse, more, .. } => {
                !more && !sparse && pieces.len() <= PIECES && meta.xattrs.is_none()
            }
            _ => false,
        };
        if !whole {
            return self.plain.apply(op);
        }
        let OpKind::File { pieces, .. } = &op.kind else { return Ok(()) };
        let entries = pieces.len() + 2;
        if self.files.len() == SLOTS || self.queued + entries > ENTRIES as usize {
            self.complete()?;
        }
        self.queue(op)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.complete()?;
        self.plain.flush()
    }
}
