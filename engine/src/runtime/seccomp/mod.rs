//! Seccomp filters: from a specification's rules to a BPF program the kernel runs on every system call.
//!
//! The usual way is libseccomp, a C library whose generated program is as long as the profile. This is a
//! compiler of our own because the job is small and hot: the program is one binary search over ranges of
//! system calls per architecture, so a call costs some eight comparisons and not up to four hundred. The
//! filter that nearly every container has is compiled when Bulkhead is.
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
use std::mem::size_of;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

use super::error::{At as _, Error};

pub(super) use profile::default as default_profile;
pub use profile::{Profile, ProfileError};

/// What the default profile compiles to for the default capabilities, as the kernel takes it. Nearly every
/// container has this filter, and to compile it anew took a third of a millisecond of every start and exec.
/// A test compiles it again and says how to renew the file.
#[cfg(target_arch = "x86_64")]
static DEFAULT: &[u8] = include_bytes!("default.x86_64.bpf");
#[cfg(not(target_arch = "x86_64"))]
static DEFAULT: &[u8] = &[];

fn program(rules: &LinuxSeccomp) -> Result<Vec<libc::sock_filter>, Error> {
    if DEFAULT.is_empty() || *rules != default_profile(&super::defaults::capabilities()) {
        return compile::compile(rules);
    }
    Ok(DEFAULT.chunks_exact(size_of::<libc::sock_filter>()).map(decode).collect())
}

/// One instruction: `struct sock_filter` of a little-endian machine.
fn decode(bytes: &[u8]) -> libc::sock_filter {
    let k = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    libc::sock_filter { code: u16::from_le_bytes([bytes[0], bytes[1]]), jt: bytes[2], jf: bytes[3], k }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_what_the_default_profile_compiles_to() {
        let rules = default_profile(&crate::runtime::defaults::capabilities());
        let compiled = compile::compile(&rules).expect("compiles");
        let mut bytes = Vec::new();
        for instruction in &compiled {
            bytes.extend_from_slice(&instruction.code.to_le_bytes());
            bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
            bytes.extend_from_slice(&instruction.k.to_le_bytes());
        }
        let renewed = std::env::temp_dir().join(format!("default.{}.bpf", std::env::consts::ARCH));
        if cfg!(target_arch = "x86_64") && DEFAULT != bytes {
            std::fs::write(&renewed, &bytes).expect("write");
            panic!("the default filter has changed: put {} beside this file", renewed.display());
        }
        let fields = |f: &libc::sock_filter| (f.code, f.jt, f.jf, f.k);
        let taken = program(&rules).expect("a program");
        assert_eq!(
            taken.iter().map(fields).collect::<Vec<_>>(),
            compiled.iter().map(fields).collect::<Vec<_>>()
        );
    }

    #[test]
    fn other_capabilities_have_another_filter() {
        let mut more = crate::runtime::defaults::capabilities();
        more.insert(oci_spec::runtime::Capability::SysAdmin);
        let rules = default_profile(&more);
        assert_ne!(program(&rules).expect("compiles").len() * size_of::<libc::sock_filter>(), DEFAULT.len());
    }
}
