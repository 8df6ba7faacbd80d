//! Architectures: what the kernel calls them, and how each numbers its system calls.

use oci_spec::runtime::Arch;

/// An architecture whose system calls this compiler knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    /// 64-bit registers with 32-bit pointers: x86_64 to the kernel, but for a bit in the number.
    X32,
    Aarch64,
    Arm,
}

/// The bit that marks a system call as x32.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Where the numbers begin that only x32 has.
const X32_OWN_FIRST: u32 = 512;

/// Calls that x32 numbers on its own because their structures differ.
/// Source: arch/x86/entry/syscalls/syscall_64.tbl.
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

impl Abi {
    /// The ABI that engine and container share.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// The ABI of a specification's architecture, if it is one that this machine can execute.
    pub fn new(arch: Arch) -> Option<Self> {
        let abi = match arch {
            Arch::ScmpArchNative => Self::NATIVE,
            Arch::ScmpArchX86_64 => Self::X86_64,
            Arch::ScmpArchX86 => Self::X86,
            Arch::ScmpArchX32 => Self::X32,
            Arch::ScmpArchAarch64 => Self::Aarch64,
            Arch::ScmpArchArm => Self::Arm,
            _ => return None,
        };
        let native_is_arm = Self::NATIVE == Self::Aarch64;
        (matches!(abi, Self::Aarch64 | Self::Arm) == native_is_arm).then_some(abi)
    }

    /// `AUDIT_ARCH_*`. Source: include/uapi/linux/audit.h.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The number of a system call, or none where this ABI has no such call.
    pub fn number(self, name: &str) -> Option<u32> {
        let number = match self {
            Self::X86_64 => name.parse::<syscalls::x86_64::Sysno>().ok()?.id() as u32,
            Self::X86 => name.parse::<syscalls::x86::Sysno>().ok()?.id() as u32,
            Self::Aarch64 => name.parse::<syscalls::aarch64::Sysno>().ok()?.id() as u32,
            Self::Arm => name.parse::<syscalls::arm::Sysno>().ok()?.id() as u32,
            Self::X32 => match X32_OWN.iter().position(|own| *own == name) {
                Some(position) => X32_BIT | (X32_OWN_FIRST + position as u32),
                None => Self::X86_64.number(name)? | X32_BIT,
            },
        };
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernels_tables() {
        for (abi, name, want) in [
            (Abi::X86_64, "read", Some(0)),
            (Abi::X86_64, "clone3", Some(435)),
            (Abi::X86_64, "socketcall", None),
            (Abi::X86, "socketcall", Some(102)),
            (Abi::X86, "_llseek", Some(140)),
            (Abi::X32, "read", Some(X32_BIT)),
            (Abi::X32, "pwritev2", Some(X32_BIT + 547)),
            (Abi::Aarch64, "read", Some(63)),
            (Abi::Arm, "read", Some(3)),
        ] {
            assert_eq!(abi.number(name), want, "{abi:?} {name}");
        }
        assert_eq!(Abi::NATIVE.number("openat2").map(i64::from), Some(libc::SYS_openat2));
    }
}
