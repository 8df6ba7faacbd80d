//! Bytes on their way from a blob to the files they become, without a copy in between.
//!
//! An inflater fills [`Chunk`]s; the hasher and the parser share each by reference count, and a file's
//! content reaches `write` as a [`Slice`] of the very chunk it was inflated into. Chunks come from one
//! [`Budget`] for all layers of a load, so memory is bounded by its size and not by the image's: an
//! inflater that is ahead of the disk waits here, and nowhere else.

use std::io;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::tar;

/// Bytes of one chunk. Large enough that a batch of small files shares one, and that one `write` of a
/// large file amortises the call; small enough to stay in the second-level cache between stages.
pub(super) const CHUNK: usize = 256 << 10;

/// Chunks that exist at once: 32 MiB.
const CHUNKS: usize = 128;

/// Lends chunks, at most [`CHUNKS`] at once.
#[derive(Debug)]
pub struct Budget {
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lent: usize,
    spare: Vec<Box<[u8]>>,
}

impl Budget {
    /// The budget of one load.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), returned: Condvar::new() })
    }

    /// An empty chunk; waits while all are lent.
    ///
    /// This cannot deadlock: a chunk is held only by stages that finish with it without asking for
    /// another. The parser copies a header that straddles two chunks instead of keeping both.
    pub(super) fn take(self: &Arc<Self>) -> Chunk {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.lent == CHUNKS {
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.lent += 1;
        let data = state.spare.pop();
        drop(state);
        let data = data.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
        Chunk { data, len: 0, budget: Arc::clone(self) }
    }
}

/// A piece of an uncompressed layer.
#[derive(Debug)]
pub(super) struct Chunk {
    data: Box<[u8]>,
    len: usize,
    budget: Arc<Budget>,
}

impl Chunk {
    /// Reads until the chunk is full or the input ends.
    pub(super) fn fill(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        while self.len < self.data.len() {
            match from.read(&mut self.data[self.len..]) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the input ended inside this chunk.
    pub(super) fn is_last(&self) -> bool {
        self.len < self.data.len()
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let mut state = self.budget.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lent -= 1;
        state.spare.push(data);
        drop(state);
        self.budget.returned.notify_one();
    }
}

/// Part of a chunk, keeping the whole alive.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    chunk: Arc<Chunk>,
    start: usize,
    end: usize,
}

impl Slice {
    pub(super) fn new(chunk: Arc<Chunk>) -> Self {
        let end = chunk.len;
        Self { chunk, start: 0, end }
    }

    /// Cuts off and returns the first `n` bytes, or all if there are fewer.
    pub(super) fn split_to(&mut self, n: usize) -> Self {
        let middle = self.start + n.min(self.end - self.start);
        let front = Self { chunk: Arc::clone(&self.chunk), start: self.start, end: middle };
        self.start = middle;
        front
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.chunk[self.start..self.end]
    }
}

/// A parser's input that is read from anywhere, in chunks of its own: what `cp` reads.
pub(super) struct Input<R> {
    from: R,
    budget: Arc<Budget>,
    rest: Option<Slice>,
    ended: bool,
}

impl<R: io::Read> Input<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, budget: Budget::new(), rest: None, ended: false }
    }
}

impl<R: io::Read> tar::Source for Input<R> {
    type Piece = Slice;

    fn take(&mut self, max: usize) -> Result<Option<Slice>, tar::Error> {
        loop {
            if let Some(rest) = self.rest.as_mut().filter(|rest| !rest.is_empty()) {
                return Ok(Some(rest.split_to(max)));
            }
            if self.ended {
                return Ok(None);
            }
            // Back to the budget before another is taken.
            self.rest = None;
            let mut chunk = self.budget.take();
            // What is there and no more: whoever sent the end of an archive may wait for an answer before he sends what
            // follows it.
            chunk.len = loop {
                match self.from.read(&mut chunk.data) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other.map_err(tar::Error::Input)?,
                }
            };
            self.ended = chunk.len == 0;
            self.rest = Some(Slice::new(Arc::new(chunk)));
        }
    }
}
