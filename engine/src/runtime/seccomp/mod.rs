//! Seccomp filters: from a specification's rules to a BPF program the kernel runs on every system call.

use std::io;

use oci_spec::runtime::LinuxSeccomp;

use super::error::{At as _, Error};

/// A compiled filter.
#[derive(Debug)]
pub(super) struct Filter {
    program: Vec<libc::sock_filter>,
    flags: libc::c_ulong,
}

impl Filter {
    /// Compiles the rules of a specification.
    pub fn compile(_rules: &LinuxSeccomp) -> Result<Self, Error> {
        Err(Error::unsupported("linux.seccomp", "the compiler is not in this build yet"))
    }

    /// Installs the filter on the calling thread. Needs `no_new_privs` or CAP_SYS_ADMIN.
    pub fn install(&self) -> Result<(), Error> {
        let program = libc::sock_fprog {
            len: self.program.len() as libc::c_ushort,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: program and what it points at outlive the call, which only reads them.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.flags, &raw const program)
        };
        if result < 0 { Err(io::Error::last_os_error()).at("seccomp", "") } else { Ok(()) }
    }
}
