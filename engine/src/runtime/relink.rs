//! Leads this process's `/proc/self/exe` elsewhere without executing anything again.
//!
//! To execute our own binary a second time, from where nobody can write to it, costs a whole start of a
//! program: in a virtual machine 1.2 ms of the 4.6 ms that an `exec` took, most of it in the `CPUID`
//! instructions by which glibc gets to know the processor. The kernel can change the link of a living
//! process instead (`PR_SET_MM_MAP`), once none of its memory is a mapping of the old file. So each
//! segment of our program is mapped again, at the same address, through the read-only mount: the same
//! inode, the same pages of the page cache, another path. What has been written to since the start is
//! copied into memory that belongs to no file.
//!
//! "Minimum kernel": 3.18 with CONFIG_CHECKPOINT_RESTORE, and 5.12 for the read-only mount. Where the kernel
//! refuses, the process is what it was before, and the caller executes its binary again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;

use libc::{c_int, c_ulong, c_void};

/// `Elf64_Phdr`; only 64-bit targets are supported.
use libc::Elf64_Phdr as Segment;

/// Makes `/proc/self/exe` lead to `file`, which must be the running binary's own file behind another mount.
///
/// Must be called while this process has one thread.
pub(super) fn relink(file: &File) -> io::Result<()> {
    let segments = loaded()?;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let mut map = Map::parse(&stat, file.as_raw_fd() as u32).ok_or(io::ErrorKind::InvalidData)?;
    // Nothing is allocated from here on, so that the heap ends where it is said to end.
    // SAFETY: asks where the heap ends.
    map.brk = unsafe { libc::sbrk(0) } as u64;
    // Asked once before anything is touched: EBUSY says that the mappings are all that is in the way.
    match map.apply() {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        other => return other,
    }
    for segment in segments {
        map_again(file, segment)?;
    }
    map.apply()
}

/// Gives this process another command line, as `ps` shows it, of any length. For a process that goes on as
/// something else than what was executed. Costs the memory of the words for as long as it lives.
pub(super) fn retitle(words: &[&OsStr]) -> io::Result<()> {
    let mut title = Vec::new();
    for word in words {
        title.extend_from_slice(word.as_bytes());
        title.push(0);
    }
    let title: &'static [u8] = title.leak();
    let stat = fs::read_to_string("/proc/self/stat")?;
    let mut map = Map::parse(&stat, Map::SAME_EXE).ok_or(io::ErrorKind::InvalidData)?;
    let words = title.as_ptr_range();
    (map.arg_start, map.arg_end) = (words.start as u64, words.end as u64);
    // SAFETY: asks where the heap ends.
    map.brk = unsafe { libc::sbrk(0) } as u64;
    map.apply()
}

/// `struct prctl_mm_map`.
#[repr(C)]
#[derive(Debug, Default)]
struct Map {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

impl Map {
    /// For [`Self::exe_fd`]: the link stays.
    const SAME_EXE: u32 = u32::MAX;

    /// What holds now, but for the end of the heap, from a line of /proc/self/stat.
    ///
    /// The kernel's older way, `PR_SET_MM_EXE_FILE`, changes nothing but the link, but wants
    /// CAP_SYS_RESOURCE, which an engine inside a container rarely has. This one wants
    /// CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, and every other address said once more.
    fn parse(stat: &str, exe_fd: u32) -> Option<Self> {
        // The name, in parentheses, may contain anything, parentheses too. What follows begins with the
        // third field, numbered as in proc(5).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            start_code: field(26)?,
            end_code: field(27)?,
            start_stack: field(28)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: field(47)?,
            arg_start: field(48)?,
            arg_end: field(49)?,
            env_start: field(50)?,
            env_end: field(51)?,
            brk: 0,
            auxv: 0,
            auxv_size: 0,
            exe_fd,
        })
    }

    /// Lets it hold.
    fn apply(&self) -> io::Result<()> {
        // SAFETY: the kernel reads one structure of the size given.
        let result = unsafe {
            libc::prctl(
                libc::PR_SET_MM,
                libc::PR_SET_MM_MAP as c_ulong,
                std::ptr::from_ref(self) as c_ulong,
                size_of::<Self>() as c_ulong,
                0 as c_ulong,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// A part of this program's memory that the kernel mapped from its file.
#[derive(Debug, Clone, Copy)]
struct Loaded {
    start: usize,
    length: usize,
    offset: i64,
    protection: c_int,
    /// The pages that were written to while the program started and are read-only since.
    sealed: Option<(usize, usize)>,
}

/// The segments, by the program headers that the kernel left in memory.
fn loaded() -> io::Result<Vec<Loaded>> {
    // SAFETY: asks the auxiliary vector.
    let (address, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    if address == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: the kernel put there where it mapped so many program headers, for as long as we live.
    let segments = unsafe { std::slice::from_raw_parts(address as *const Segment, count as usize) };
    let of_type = |kind| segments.iter().filter(move |segment| segment.p_type == kind);
    let headers = of_type(libc::PT_PHDR).next().ok_or(io::ErrorKind::Unsupported)?;
    // Where a position-independent program was put; a program that has its place has no difference here.
    let base = (address as usize).wrapping_sub(headers.p_vaddr as usize);
    // SAFETY: asks a number that does not change.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let pages = |segment: &Segment, size: u64| {
        let start = base.wrapping_add(segment.p_vaddr as usize);
        (start & !(page - 1), (start + size as usize).next_multiple_of(page))
    };
    let sealed = of_type(libc::PT_GNU_RELRO).next().map(|segment| {
        let (start, _) = pages(segment, 0);
        // The last page is sealed only when all of it may be.
        let end = (base.wrapping_add(segment.p_vaddr as usize) + segment.p_memsz as usize) & !(page - 1);
        (start, end)
    });
    Ok(of_type(libc::PT_LOAD)
        .filter(|segment| segment.p_filesz > 0)
        .map(|segment| {
            let (start, end) = pages(segment, segment.p_filesz);
            let may = |flag, protection| if segment.p_flags & flag == 0 { 0 } else { protection };
            Loaded {
                start,
                length: end - start,
                offset: (segment.p_offset as i64) & !(page as i64 - 1),
                protection: may(libc::PF_R, libc::PROT_READ)
                    | may(libc::PF_W, libc::PROT_WRITE)
                    | may(libc::PF_X, libc::PROT_EXEC),
                sealed: sealed.filter(|&(from, to)| start <= from && from < to && to <= end),
            }
        })
        .collect())
}

fn map_again(file: &File, segment: Loaded) -> io::Result<()> {
    let Loaded { start, length, offset, protection, sealed } = segment;
    let place = start as *mut c_void;
    if protection & libc::PROT_WRITE == 0 {
        // SAFETY: what is replaced was mapped from the same bytes of the same inode, with the same
        // protection, and was never written to. The kernel replaces it under its lock: whoever executes or
        // reads there, this very function too, sees the same before and after.
        let mapped = unsafe {
            libc::mmap(
                place,
                length,
                protection,
                libc::MAP_PRIVATE | libc::MAP_FIXED,
                file.as_raw_fd(),
                offset,
            )
        };
        return if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) };
    }
    // SAFETY: anonymous memory, nobody's until here.
    let copy = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if copy == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `length` bytes are readable at `start` (the kernel maps whole pages of a segment) and
    // writable at `copy`. No other thread exists, and neither the copying nor the two system calls writes
    // to this program's data when they succeed, so that what is moved into place is what was there.
    let moved = unsafe {
        std::ptr::copy_nonoverlapping(start as *const u8, copy.cast::<u8>(), length);
        libc::mremap(copy, length, length, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, place)
    };
    if moved == libc::MAP_FAILED {
        let error = io::Error::last_os_error();
        // SAFETY: the copy is where it was, and ours.
        unsafe { libc::munmap(copy, length) };
        return Err(error);
    }
    if let Some((from, to)) = sealed {
        // SAFETY: the loader had these pages read-only since before `main`; they become so again.
        let result = unsafe { libc::mprotect(from as *mut c_void, to - from, libc::PROT_READ) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_found_behind_any_name() {
        let rest: Vec<String> = (3..=52).map(|number| (number * 10).to_string()).collect();
        for name in ["(bulkhead)", "(a ) S 1 (b)", "()"] {
            let map = Map::parse(&format!("7 {name} {}", rest.join(" ")), 9).expect("a line");
            assert_eq!((map.start_code, map.end_code, map.start_stack), (260, 270, 280), "{name}");
            assert_eq!((map.start_data, map.end_data, map.start_brk), (450, 460, 470));
            assert_eq!((map.arg_start, map.arg_end, map.env_start, map.env_end), (480, 490, 500, 510));
            assert_eq!(map.exe_fd, 9);
        }
    }

    #[test]
    fn a_line_that_is_none_is_refused() {
        for line in ["", "7 (x", "7 (x) S 1 2", "7 (x) "] {
            assert!(Map::parse(line, 9).is_none(), "{line:?}");
        }
    }

    #[test]
    fn the_segments_are_those_that_the_kernel_mapped() {
        let maps = fs::read_to_string("/proc/self/maps").expect("maps");
        let exe = fs::read_link("/proc/self/exe").expect("exe");
        let mapped: Vec<(usize, usize)> = maps
            .lines()
            .filter(|line| line.ends_with(exe.to_str().expect("utf-8")))
            .map(|line| {
                let (from, to) = line.split(' ').next().expect("range").split_once('-').expect("range");
                let number = |text| usize::from_str_radix(text, 16).expect("address");
                (number(from), number(to))
            })
            .collect();
        let segments = loaded().expect("segments");
        let covered = |address| segments.iter().any(|s| (s.start..s.start + s.length).contains(&address));
        assert!(!mapped.is_empty());
        for (from, to) in mapped {
            assert!(covered(from) && covered(to - 1), "{from:x}-{to:x}: {segments:x?}");
        }
        assert_eq!(segments.iter().filter(|s| s.protection & libc::PROT_EXEC != 0).count(), 1);
        assert_eq!(segments.iter().filter(|s| s.sealed.is_some()).count(), 1);
    }
}
