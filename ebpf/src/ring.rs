//! The ring of events, seen through a window.
//!
//! aya's reader maps the whole ring, twice in a row so that no record is cut by its end. The kernel puts all those
//! pages into the mapping at once, and `serve` counted sixteen megabytes as resident for a ring that is nearly
//! always empty. Here the part is mapped that is being read, and another when the reader comes to its end: two
//! calls for some six hundred records.
//!
//! The protocol is the kernel's (kernel/bpf/ringbuf.c, Documentation/bpf/ringbuf.rst): a page with the position of
//! the reader, one with that of the programs, and records, each behind eight bytes of which the first four say
//! how long it is and whether it is finished.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{self, AtomicU32, AtomicUsize, Ordering};

use aya::maps::{MapData, MapError};

/// Bytes of the ring that are mapped at once, unless a record is longer.
const WINDOW: usize = 256 * 1024;

/// Bytes before each record.
const HEADER: usize = 8;
/// A program has begun it and not finished.
const BUSY: u32 = 1 << 31;
/// Its program has thought better of it.
const DISCARDED: u32 = 1 << 30;

/// Pages of the ring in our memory.
#[derive(Debug)]
struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: the pages are the process's, whichever thread has the mapping.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(ring: BorrowedFd<'_>, offset: usize, length: usize, protection: i32) -> io::Result<Self> {
        // SAFETY: the kernel chooses the place, so nothing that is mapped already is touched.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { address, length })
    }

    /// The position that a page begins with.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: a mapping is at least a page, aligned like one, and lives as long as the borrow; the kernel
        // changes the word as we do, in one piece.
        unsafe { self.address.cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length, and nobody borrows from it any more.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
    }
}

/// The reader.
#[derive(Debug)]
pub(crate) struct Ring {
    fd: OwnedFd,
    page: usize,
    size: usize,
    consumer: Mapping,
    producer: Mapping,
    /// Where in the ring it begins.
    window: Option<(usize, Mapping)>,
    /// Read up to here; it only ever grows, and so does the other.
    read: usize,
    /// Written up to here when last looked.
    written: usize,
    /// Room was given back since the programs' position was looked at: whoever wrote meanwhile may have taken us for
    /// one that is still at work, and will not wake us.
    freed: bool,
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Ring {
    pub(crate) fn new(map: &MapData) -> Result<Self, MapError> {
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        let page = page.map_or(4096, |size| size as usize);
        let size = map.info()?.max_entries() as usize;
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        let consumer = Mapping::new(fd.as_fd(), 0, page, writable).map_err(MapError::IoError)?;
        let producer = Mapping::new(fd.as_fd(), page, page, libc::PROT_READ).map_err(MapError::IoError)?;
        let read = consumer.position().load(Ordering::Acquire);
        let written = producer.position().load(Ordering::Acquire);
        Ok(Self { fd, page, size, consumer, producer, window: None, read, written, freed: false })
    }

    /// Puts the next record into `record`, if there is one that is finished; its place in the ring is free then.
    pub(crate) fn next(&mut self, record: &mut Vec<u8>) -> io::Result<bool> {
        while self.has_more() {
            let at = self.read & (self.size - 1);
            // SAFETY: eight bytes of a window, aligned as the kernel aligns each record's beginning; the kernel
            // writes the word in one piece.
            let header = unsafe { self.bytes(at, HEADER)?.cast::<AtomicU32>().as_ref() };
            // The kernel finishes a record by an exchange, after all that is in it.
            let header = header.load(Ordering::Acquire);
            if header & BUSY != 0 {
                if !std::mem::take(&mut self.freed) {
                    return Ok(false);
                }
                // Either it is seen to be finished now, or its program sees what was freed and wakes us.
                atomic::fence(Ordering::SeqCst);
                continue;
            }
            let length = (header & !(BUSY | DISCARDED)) as usize;
            let told = header & DISCARDED == 0;
            if told {
                let bytes = self.bytes(at + HEADER, length)?;
                record.clear();
                // SAFETY: so many bytes of a window, which nobody writes to before the place is given back.
                record.extend_from_slice(unsafe { std::slice::from_raw_parts(bytes.as_ptr(), length) });
            }
            self.read = self.read.wrapping_add((HEADER + length).next_multiple_of(8));
            self.consumer.position().store(self.read, Ordering::Release);
            self.freed = true;
            if told {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn has_more(&mut self) -> bool {
        if self.read == self.written {
            if std::mem::take(&mut self.freed) {
                // Either what is new is seen now, or its program sees what was freed and wakes us.
                atomic::fence(Ordering::SeqCst);
            }
            self.written = self.producer.position().load(Ordering::Acquire);
        }
        self.read != self.written
    }

    /// Bytes of the ring, through a window that has them; valid until the next call.
    fn bytes(&mut self, at: usize, length: usize) -> io::Result<NonNull<u8>> {
        let has = |(begin, window): &(usize, Mapping)| *begin <= at && at + length <= begin + window.length;
        if !self.window.as_ref().is_some_and(has) {
            // Before the next is there, so that there is never more than one.
            self.window = None;
            let begin = at / self.page * self.page;
            let end = (at + length).max(begin + WINDOW).next_multiple_of(self.page);
            // The ring lies there twice in a row. Nothing that the kernel has written goes beyond.
            let end = end.min(2 * self.size);
            if at + length > end {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // The two pages of positions come before it.
            let offset = 2 * self.page + begin;
            self.window = Some((begin, Mapping::new(self.fd.as_fd(), offset, end - begin, libc::PROT_READ)?));
        }
        let (begin, window) = self.window.as_ref().ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: within the mapping, as was just seen to.
        Ok(unsafe { window.address.add(at - begin) })
    }
}
