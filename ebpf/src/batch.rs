//! Whole tables at once.
//!
//! Asked key by key, a table wants two calls an entry, and most of what is asked for is not there: a container
//! that sleeps has executed nothing, waited for no disk and sent no DNS. For a thousand containers these were
//! five thousand calls a scrape. The kernel hands out a table bucket by bucket instead, with a few calls however
//! many entries there are, and an entry that is there all the while exactly once.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Bytes of values asked for at once.
const BYTES: usize = 256 * 1024;
/// Entries asked for at once at least: a bucket comes whole or not at all.
const LEAST: usize = 64;

/// Source: bpf(2), `BPF_MAP_LOOKUP_BATCH`. Minimum kernel: 5.6.
const LOOKUP_BATCH: libc::c_int = 24;

/// That command's part of `union bpf_attr`.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Every entry of a table of 64-bit counts by a 64-bit key. `copies` is how many values an entry has: one, or one
/// a possible processor; they are added up word by word.
pub(crate) fn sums<const N: usize>(
    table: BorrowedFd<'_>,
    copies: usize,
) -> io::Result<HashMap<u64, [u8; N]>> {
    const { assert!(N.is_multiple_of(8)) };
    let words = N / 8;
    let mut room = (BYTES / (N * copies)).max(LEAST);
    let mut keys: Vec<u64> = Vec::new();
    let mut values: Vec<u64> = Vec::new();
    let mut found = HashMap::new();
    // How far the kernel has come, in its own words; one is read while the other is written.
    let (mut from, mut to) = (0_u64, 0_u64);
    let mut begun = false;
    loop {
        keys.resize(room, 0);
        values.resize(room * copies * words, 0);
        let mut attributes = Attributes {
            in_batch: if begun { (&raw const from) as u64 } else { 0 },
            out_batch: (&raw mut to) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map: table.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: both arrays have room for `count` entries of the table's key and value, the two marks for the
        // four bytes that a mark has, and all of it outlives the call.
        let done = unsafe {
            libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>())
        };
        let mut last = false;
        if done != 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // What is left comes with it.
                Some(libc::ENOENT) => last = true,
                // A bucket with more entries than there is room for.
                Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                Some(libc::EINTR) => continue,
                _ => return Err(error),
            }
        }
        let entries = keys.iter().zip(values.chunks_exact(copies * words));
        found.extend(entries.take(attributes.count as usize).map(|(key, copies)| {
            let mut total = [0; N];
            for (word, out) in total.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let sum = copies.iter().skip(word).step_by(words).fold(0, |sum: u64, n| sum.wrapping_add(*n));
                *out = sum.to_ne_bytes();
            }
            (*key, total)
        }));
        if last {
            return Ok(found);
        }
        std::mem::swap(&mut from, &mut to);
        begun = true;
    }
}
