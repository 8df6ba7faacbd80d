//! The pseudo-terminal of a container.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::error::At as _;

/// A window's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

/// Unlocks and opens the other end of a pseudo-terminal.
///
/// TIOCGPTPEER (Minimum kernel: 4.13) opens it without a path, so that nothing under /dev/pts can stand
/// in for it.
pub(super) fn slave_of(master: &OwnedFd) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes its flags by value.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Tells a terminal its size.
pub fn resize(terminal: &impl std::os::fd::AsFd, size: WindowSize) -> io::Result<()> {
    let window = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    if unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const window) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes a terminal the controlling one of a new session led by the caller.
pub(super) fn take_control(terminal: &OwnedFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes its argument by value.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Opens a new pseudo-terminal in the container that this process has just entered. What the container
/// has under that name is believed only once it has proved to be the multiplexer of a devpts.
pub(super) fn open_inside() -> Result<(OwnedFd, OwnedFd), super::Error> {
    let path = "/dev/pts/ptmx";
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    // O_PATH first: opening somebody's named pipe or device could block, or do something.
    let handle = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
        .at("open", path)?;
    let stat = nix::sys::stat::fstat(&handle).at("fstat", path)?;
    let fs = nix::sys::statfs::fstatfs(&handle).at("fstatfs", path)?;
    if fs.filesystem_type() != nix::sys::statfs::DEVPTS_SUPER_MAGIC
        || stat.st_rdev != nix::sys::stat::makedev(5, 2)
    {
        return Err(super::Error::invalid("/dev/pts/ptmx", "not the multiplexer of a devpts"));
    }
    let master = nix::fcntl::open(path, flags, Mode::empty()).at("open", path)?;
    let opened = nix::sys::stat::fstat(&master).at("fstat", path)?;
    if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(super::Error::invalid("/dev/pts/ptmx", "was exchanged while it was opened"));
    }
    let slave = slave_of(&master).at("open the slave of", path)?;
    Ok((master, slave))
}
