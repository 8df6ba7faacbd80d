//! When a text file of the kernel's has been read whole.
//!
//! Files of /proc and of cgroups have no size, so a reader that knows nothing of them asks again until it is
//! told zero bytes, and `std::fs` asks for the size as well, twice. A thousand containers make thousands of
//! such calls a reading, each of which finds its file's structures outside the processor's caches. What the
//! kernel promises is enough to leave them out (fs/seq_file.c, `seq_read_iter`): it fills one page with as
//! many records as fit, and hands out what is in it.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::uio::pread;

/// The least that is asked for at once; more than the page into which the kernel writes.
const ROOM: usize = 8192;
/// An answer shorter than this has no successor: the page (of 4096 bytes at least) had room for another record of
/// half its size, and no record of a list is as long as that.
const SHORT: usize = 2048;

/// A file of one record, from its start. The kernel makes the record in one piece, however large, and hands out
/// as much as fits, so only a full buffer asks for a second read.
pub(crate) fn read_record<'b>(file: BorrowedFd<'_>, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], Errno> {
    read(file, buffer, |read, room| read < room)
}

/// A list of short records, which may come in pieces, from its start.
pub(crate) fn read_list<'b>(file: BorrowedFd<'_>, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], Errno> {
    read(file, buffer, |read, _| read < SHORT)
}

/// The buffer stays as long as it has become, so that it is zeroed once and not for each file.
fn read<'b>(
    file: BorrowedFd<'_>,
    buffer: &'b mut Vec<u8>,
    done: impl Fn(usize, usize) -> bool,
) -> Result<&'b [u8], Errno> {
    let mut length = 0;
    loop {
        if buffer.len() < length + ROOM {
            buffer.resize(2 * length + ROOM, 0);
        }
        let room = buffer.len() - length;
        match pread(file, &mut buffer[length..], length as i64) {
            Ok(read) => {
                length += read;
                if read == 0 || done(read, room) {
                    return Ok(&buffer[..length]);
                }
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd as _;

    #[test]
    fn lists_and_records_of_any_length_are_read_whole_and_from_the_start() {
        let mut buffer = Vec::new();
        // Lists of the kernel's that rarely change, one shorter than a page and others longer.
        for path in ["/proc/filesystems", "/proc/crypto", "/proc/iomem", "/proc/cgroups"] {
            let Ok(file) = File::open(path) else { continue };
            for _ in 0..2 {
                let whole = std::fs::read(path).unwrap();
                assert!(read_list(file.as_fd(), &mut buffer).unwrap() == whole, "{path}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 1, ROOM - 1, ROOM, ROOM + 1, 5 * ROOM] {
            let text = vec![b'x'; length];
            std::fs::write(dir.path().join("record"), &text).unwrap();
            let file = File::open(dir.path().join("record")).unwrap();
            for _ in 0..2 {
                assert!(read_record(file.as_fd(), &mut buffer).unwrap() == text, "{length}");
            }
        }
    }
}
