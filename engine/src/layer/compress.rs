//! Compresses a layer on every processor, into bytes that do not depend on how many there are.
//!
//! A blob's name is the digest of its bytes: an archive that differs from one machine to the next is a
//! blob that no registry has yet. Both formats are therefore cut where the input says and nowhere else.
//!
//! gzip is cut into blocks of [`BLOCK`] bytes. Each is deflated on its own, but with the 32 KiB before it
//! as its dictionary, and ends on a byte boundary (a sync flush), so that the blocks together are one
//! deflate stream, and the blob one member: there are readers that stop after the first. That costs five
//! bytes a block. zstd brings the same arrangement in its library; what it writes depends on whether it
//! is used, but not on the number of its threads.
//!
//! Memory: two blocks and what became of them for each worker, 2 MiB; zstd's jobs are four windows long,
//! 8 MiB a worker at the default level.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Crc, FlushCompress, Status};

/// Bytes of input that are deflated by one worker at a time.
const BLOCK: usize = 512 << 10;
/// How far back deflate can point.
const WINDOW: usize = 32 << 10;
/// No time, no name, no telling of the system: nothing that differs.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// How a blob that is written is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, one member.
    Gzip,
    /// Zstandard, one frame.
    Zstd,
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// What to make of layers that leave the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    compression: Compression,
    level: u32,
    workers: usize,
}

/// A level that the format does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid compression level {level} for {compression}: {range}")]
pub struct InvalidLevel {
    level: u32,
    compression: Compression,
    range: &'static str,
}

impl Packing {
    /// As they are.
    pub const PLAIN: Self = Self { compression: Compression::None, level: 0, workers: 0 };

    /// A format and its level; by default what its own tool has: 6 for gzip, 3 for zstd.
    pub fn new(compression: Compression, level: Option<u32>) -> Result<Self, InvalidLevel> {
        let (default, most, range) = match compression {
            Compression::None => (0, 0, "there are no levels"),
            Compression::Gzip => (6, 9, "1 to 9"),
            Compression::Zstd => (3, 22, "1 to 22"),
        };
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(16);
        match level {
            None => Ok(Self { compression, level: default, workers }),
            Some(level) if (1..=most).contains(&level) => Ok(Self { compression, level, workers }),
            Some(level) => Err(InvalidLevel { level, compression, range }),
        }
    }

    /// The format.
    pub fn compression(self) -> Compression {
        self.compression
    }

    /// A writer that compresses into `out`.
    pub fn writer<W: Write>(self, out: W) -> io::Result<Packer<W>> {
        Ok(match self.compression {
            Compression::None => Packer::Plain(out),
            Compression::Gzip => Packer::Gzip(Box::new(Gzip::new(out, self.level, self.workers)?)),
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(out, self.level.cast_signed())?;
                // Always in jobs: without any, the library writes other bytes.
                encoder.multithread(u32::try_from(self.workers.max(1)).unwrap_or(1))?;
                encoder.include_checksum(true)?;
                Packer::Zstd(encoder)
            }
        })
    }
}

/// Compresses what is written to it. Without [`Packer::finish`] the blob has no end.
pub enum Packer<W: Write> {
    /// Passes on.
    Plain(W),
    /// Blocks of one gzip member.
    Gzip(Box<Gzip<W>>),
    /// Jobs of one zstd frame.
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> std::fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl<W: Write> Packer<W> {
    /// Writes the rest and gives back where it went.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Gzip(gzip) => gzip.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(gzip) => gzip.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // A flush in the middle would be in the bytes.
        Ok(())
    }
}

/// A block on its way through a worker.
struct Job {
    data: Vec<u8>,
    /// What came before.
    dictionary: Vec<u8>,
    last: bool,
    reply: SyncSender<io::Result<Deflated>>,
}

struct Deflated {
    bytes: Vec<u8>,
    crc: Crc,
}

/// A gzip member in the making.
pub struct Gzip<W> {
    out: W,
    block: Vec<u8>,
    dictionary: Vec<u8>,
    jobs: Option<Sender<Job>>,
    /// In the order of the input.
    pending: VecDeque<Receiver<io::Result<Deflated>>>,
    ahead: usize,
    crc: Crc,
    workers: Vec<JoinHandle<()>>,
}

impl<W: Write> Gzip<W> {
    fn new(mut out: W, level: u32, workers: usize) -> io::Result<Self> {
        out.write_all(&GZIP_HEADER)?;
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let workers = workers.max(1);
        let spawn = |_| {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("deflate".to_owned()).spawn(move || work(&queue, level))
        };
        Ok(Self {
            out,
            block: Vec::with_capacity(BLOCK),
            dictionary: Vec::new(),
            jobs: Some(jobs),
            pending: VecDeque::new(),
            ahead: workers * 2,
            crc: Crc::new(),
            workers: (0..workers).map(spawn).collect::<io::Result<_>>()?,
        })
    }

    fn send(&mut self, last: bool) -> io::Result<()> {
        let data = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let tail = data[data.len().saturating_sub(WINDOW)..].to_vec();
        let dictionary = std::mem::replace(&mut self.dictionary, tail);
        let (reply, receiver) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        jobs.send(Job { data, dictionary, last, reply }).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.pending.push_back(receiver);
        if self.pending.len() > self.ahead { self.collect() } else { Ok(()) }
    }

    /// Writes the oldest block.
    fn collect(&mut self) -> io::Result<()> {
        let Some(oldest) = self.pending.pop_front() else { return Ok(()) };
        let done = oldest.recv().map_err(|_| io::Error::other("a compressor's thread has ended"))??;
        self.crc.combine(&done.crc);
        self.out.write_all(&done.bytes)
    }

    fn finish(mut self) -> io::Result<W> {
        self.send(true)?;
        self.jobs = None;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        for worker in self.workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
        // RFC 1952: the check sum, and the length modulo 2^32.
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full block waits until it is known not to be the last.
        if self.block.len() == BLOCK {
            self.send(false)?;
        }
        let n = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work(queue: &Mutex<Receiver<Job>>, level: u32) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A compressor that is reset instead finds other matches than a new one (zlib-rs 0.6), so that a
        // block would depend on what its worker had before.
        let done = block(Compress::new(flate2::Compression::new(level), false), &job);
        // Nobody wants it when the writer has failed meanwhile.
        let _ = job.reply.send(done);
    }
}

fn block(mut deflate: Compress, job: &Job) -> io::Result<Deflated> {
    let mut crc = Crc::new();
    crc.update(&job.data);
    if !job.dictionary.is_empty() {
        deflate.set_dictionary(&job.dictionary).map_err(io::Error::other)?;
    }
    let flush = if job.last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut bytes = Vec::with_capacity(job.data.len() / 2 + 1024);
    loop {
        let read = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let status = deflate.compress_vec(&job.data[read..], &mut bytes, flush).map_err(io::Error::other)?;
        // Room that is left means that there was nothing more to write.
        let room = bytes.len() < bytes.capacity();
        let all = deflate.total_in() == job.data.len() as u64;
        if status == Status::StreamEnd || (!job.last && room && all) {
            return Ok(Deflated { bytes, crc });
        }
        bytes.reserve(64 << 10);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Text and noise, so that some blocks grow and some shrink.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        (0..length)
            .map(|n| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if (n >> 16) % 3 == 0 { (state >> 56) as u8 } else { b"layer and chain-id "[n % 19] }
            })
            .collect()
    }

    fn pack(packing: Packing, data: &[u8]) -> Vec<u8> {
        let mut packer = packing.writer(Vec::new()).expect("writer");
        for piece in data.chunks(70_001) {
            packer.write_all(piece).expect("write");
        }
        packer.finish().expect("finish")
    }

    #[test]
    fn what_is_packed_is_what_comes_out_and_the_same_with_any_number_of_workers() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 20 * BLOCK + 12_345] {
            let data = sample(length);
            for (compression, level) in [
                (Compression::Gzip, None),
                (Compression::Gzip, Some(1)),
                (Compression::Gzip, Some(9)),
                (Compression::Zstd, None),
                (Compression::Zstd, Some(1)),
            ] {
                let packing = Packing::new(compression, level).expect("level");
                let blobs: Vec<Vec<u8>> =
                    [1, 2, 5].map(|workers| pack(Packing { workers, ..packing }, &data)).into();
                assert!(blobs.windows(2).all(|two| two[0] == two[1]), "{compression} {length}");
                let mut plain = Vec::new();
                match compression {
                    // One member, for readers that stop after it.
                    Compression::Gzip => {
                        flate2::read::GzDecoder::new(blobs[0].as_slice()).read_to_end(&mut plain)
                    }
                    _ => zstd::Decoder::new(blobs[0].as_slice()).expect("zstd").read_to_end(&mut plain),
                }
                .expect("inflate");
                assert!(plain == data, "{compression} {level:?} {length}");
            }
        }
    }

    #[test]
    fn blocks_know_what_came_before_them() {
        // Noise that repeats within the window: without a dictionary each block starts from nothing.
        let noise: Vec<u8> = sample(20_000);
        let data: Vec<u8> = noise.iter().copied().cycle().take(8 * BLOCK).collect();
        let packed = pack(Packing::new(Compression::Gzip, None).expect("level"), &data);
        // The noise once, and three or four bytes for each match of 258.
        assert!(packed.len() < 100_000, "{}", packed.len());
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        for (compression, level) in
            [(Compression::Gzip, 0), (Compression::Gzip, 10), (Compression::Zstd, 23), (Compression::None, 1)]
        {
            assert!(Packing::new(compression, Some(level)).is_err(), "{compression} {level}");
        }
    }

    #[test]
    fn a_writer_that_fails_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if bytes.len() <= GZIP_HEADER.len() {
                    Ok(bytes.len())
                } else {
                    Err(io::ErrorKind::StorageFull.into())
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut packer = Packing::new(Compression::Gzip, None).expect("level").writer(Full).expect("writer");
        let data = sample(BLOCK);
        let failed = (0..100).find_map(|_| packer.write_all(&data).err()).expect("an error");
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
    }
}
