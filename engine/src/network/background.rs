//! Small processes that outlive the command which starts them: a network's resolver, the caretaker.
//!
//! Each has a file in the run root. The exclusive lock on it is the proof of life, which the kernel takes
//! back whatever ends the process, and the pid in it is whose. The pid is written between fork and exec, so that
//! a process which has been started can be ended at once; it need not have got as far as its first line.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Error;

fn kernel(call: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Kernel { call, on: path.display().to_string(), source }
}

/// Opens and locks the file. `None` when a process holds it. A plain file: a guard that unlocks when dropped
/// would unlock the copy that the process inherits, too.
pub(super) fn lock(path: &Path) -> Result<Option<File>, Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| kernel("open", path, e))?;
    // SAFETY: a descriptor that `file` owns, and a constant.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(Some(file));
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        error => Err(kernel("flock", path, error)),
    }
}

/// A number as text and a newline, without the allocator: this runs between fork and exec.
fn decimal(mut number: u32, buffer: &mut [u8; 12]) -> &[u8] {
    let mut at = buffer.len() - 1;
    buffer[at] = b'\n';
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

/// Starts a process that nobody has to wait for. It inherits the lock and `more`, whose numbers are appended to
/// its arguments in this order. The caller's copies are its own to close; the lock lives on in the process's.
pub(super) fn spawn(mut program: Command, held: &File, more: &[RawFd]) -> io::Result<()> {
    let lock = held.as_raw_fd();
    let fds: Vec<RawFd> = std::iter::once(lock).chain(more.iter().copied()).collect();
    program
        .args(fds.iter().map(RawFd::to_string))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/");
    // SAFETY: between fork and exec only async-signal-safe calls are made: fork, _exit, setsid, getpid,
    // ftruncate, pwrite, fcntl.
    unsafe {
        program.pre_exec(move || {
            // A grandchild, so that nobody has to wait for it.
            match libc::fork() {
                -1 => return Err(io::Error::last_os_error()),
                0 => {}
                _ => libc::_exit(0),
            }
            libc::setsid();
            let mut text = [0; 12];
            let text = decimal(libc::getpid().unsigned_abs(), &mut text);
            if libc::ftruncate(lock, 0) < 0
                || libc::pwrite(lock, text.as_ptr().cast(), text.len(), 0) != text.len().cast_signed()
            {
                return Err(io::Error::last_os_error());
            }
            for &fd in &fds {
                if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    program.spawn()?.wait()?;
    // spawn returns when the grandchild has executed or failed to, for it holds the pipe that tells.
    Ok(())
}

/// Ends the process that holds the file, waits until it has ended, and removes the file.
pub(super) fn stop(path: &Path) -> Result<(), Error> {
    let Ok(mut file) = File::open(path) else { return Ok(()) };
    let mut text = String::new();
    let _ = file.read_to_string(&mut text);
    if let Ok(pid) = text.trim().parse::<i32>()
        && pid > 1
    {
        // The pidfd first, the lock second: if the lock is still held, the pid was still its holder's when
        // the pidfd was made.
        // SAFETY: no pointers; the result is checked.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd;
        if pidfd >= 0 {
            // SAFETY: a new descriptor that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            if lock(path)?.is_none() {
                // It has nothing to put in order. Its end is awaited because until then it has its sockets.
                // SAFETY: a signal without siginfo; the descriptor is a pidfd.
                unsafe {
                    libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, 0, 0);
                }
                let mut ended = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
                let _ = nix::poll::poll(&mut ended, nix::poll::PollTimeout::from(5000_u16));
            }
        }
    }
    let _ = std::fs::remove_file(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn numbers_are_written_without_the_allocator() {
        for (number, text) in [(0, "0\n"), (7, "7\n"), (4_194_304, "4194304\n"), (u32::MAX, "4294967295\n")] {
            assert_eq!(decimal(number, &mut [0; 12]), text.as_bytes());
        }
    }
}
