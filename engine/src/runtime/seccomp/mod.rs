//! Seccomp filters: from a specification's rules to a BPF program the kernel runs on every system call.
//!
//! The usual way is libseccomp, a C library whose generated program is as long as the profile. This is a
//! compiler of our own because the job is small and hot: the program is one binary search over ranges of
//! system calls per architecture, so a call costs some eight comparisons and not up to four hundred, and
//! compiling it takes microseconds, so that nothing has to be cached on disk.
//!
//! What a rule means follows libseccomp and runc, since profiles were written against them: a rule
//! without conditions on a call beats rules with conditions; several conditions on one argument are
//! alternatives; a call newer than everything the profile knows gets ENOSYS and not the profile's EPERM,
//! because C libraries fall back on older calls only for the former.

mod arch;
mod compile;
#[cfg(test)]
mod interpreter;
mod profile;

use std::io;
use std::sync::OnceLock;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

use super::error::{At as _, Error};

pub(super) use profile::default as default_profile;
pub use profile::{Profile, ProfileError};

/// Rules that were compiled before anybody asked, and the program.
static PREPARED: OnceLock<(LinuxSeccomp, Vec<libc::sock_filter>)> = OnceLock::new();

/// Compiles rules that will probably be asked for. Rules that do not compile are told of when they are.
pub(super) fn prepare(rules: LinuxSeccomp) {
    if let Ok(program) = compile::compile(&rules) {
        // Whoever was first wins.
        let _ = PREPARED.set((rules, program));
    }
}

fn program(rules: &LinuxSeccomp) -> Result<Vec<libc::sock_filter>, Error> {
    match PREPARED.get() {
        Some((prepared, program)) if prepared == rules => Ok(program.clone()),
        _ => compile::compile(rules),
    }
}

/// A compiled filter.
#[derive(Debug)]
pub(super) struct Filter {
    program: Vec<libc::sock_filter>,
    flags: libc::c_ulong,
}

impl Filter {
    /// Compiles the rules of a specification. None when they allow everything.
    pub fn compile(rules: &LinuxSeccomp) -> Result<Option<Self>, Error> {
        let empty = rules.syscalls().as_ref().is_none_or(Vec::is_empty);
        if empty && rules.default_action() == LinuxSeccompAction::ScmpActAllow {
            return Ok(None);
        }
        if rules.listener_path().is_some() {
            return Err(Error::unsupported("linux.seccomp.listenerPath", "there is no notification agent"));
        }
        let mut flags = 0;
        for flag in rules.flags().iter().flatten() {
            flags |= match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                // Only says how a notification waits, and there are none.
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
            };
        }
        Ok(Some(Self { program: program(rules)?, flags }))
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
