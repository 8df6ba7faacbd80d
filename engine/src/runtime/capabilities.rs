//! Capabilities: the specification's names as the kernel's bits, and giving up what is not wanted.

use std::io;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::error::{At as _, Error};
use super::kernel;

/// The bit of each capability. Source: include/uapi/linux/capability.h.
const BITS: [(Capability, u32); 41] = [
    (Capability::Chown, 0),
    (Capability::DacOverride, 1),
    (Capability::DacReadSearch, 2),
    (Capability::Fowner, 3),
    (Capability::Fsetid, 4),
    (Capability::Kill, 5),
    (Capability::Setgid, 6),
    (Capability::Setuid, 7),
    (Capability::Setpcap, 8),
    (Capability::LinuxImmutable, 9),
    (Capability::NetBindService, 10),
    (Capability::NetBroadcast, 11),
    (Capability::NetAdmin, 12),
    (Capability::NetRaw, 13),
    (Capability::IpcLock, 14),
    (Capability::IpcOwner, 15),
    (Capability::SysModule, 16),
    (Capability::SysRawio, 17),
    (Capability::SysChroot, 18),
    (Capability::SysPtrace, 19),
    (Capability::SysPacct, 20),
    (Capability::SysAdmin, 21),
    (Capability::SysBoot, 22),
    (Capability::SysNice, 23),
    (Capability::SysResource, 24),
    (Capability::SysTime, 25),
    (Capability::SysTtyConfig, 26),
    (Capability::Mknod, 27),
    (Capability::Lease, 28),
    (Capability::AuditWrite, 29),
    (Capability::AuditControl, 30),
    (Capability::Setfcap, 31),
    (Capability::MacOverride, 32),
    (Capability::MacAdmin, 33),
    (Capability::Syslog, 34),
    (Capability::WakeAlarm, 35),
    (Capability::BlockSuspend, 36),
    (Capability::AuditRead, 37),
    (Capability::Perfmon, 38),
    (Capability::Bpf, 39),
    (Capability::CheckpointRestore, 40),
];

/// Every capability that has a name, in the order of the kernel's numbers.
pub fn all() -> impl Iterator<Item = Capability> {
    BITS.iter().map(|(capability, _)| *capability)
}

/// The bit mask of a set.
pub(super) fn mask(set: &Capabilities) -> u64 {
    BITS.iter().filter(|(capability, _)| set.contains(capability)).fold(0, |mask, (_, bit)| mask | 1 << bit)
}

/// The five sets of a process, as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl Sets {
    /// The sets of a specification. A specification without capabilities asks for none.
    pub fn new(capabilities: Option<&LinuxCapabilities>) -> Self {
        let Some(capabilities) = capabilities else { return Self::default() };
        let mask = |set: &Option<Capabilities>| set.as_ref().map_or(0, mask);
        let (permitted, inheritable) = (mask(capabilities.permitted()), mask(capabilities.inheritable()));
        Self {
            bounding: mask(capabilities.bounding()),
            effective: mask(capabilities.effective()),
            permitted,
            inheritable,
            // The kernel lets no other be ambient; runc disregards them, and its own `spec` asks for some.
            ambient: mask(capabilities.ambient()) & permitted & inheritable,
        }
    }

    /// What of these the caller does not have itself and so cannot give: no fault of the container's,
    /// it happens whenever the engine runs inside something that was itself confined.
    pub fn limit(&mut self, available: u64) -> u64 {
        let missing = self.permitted & !available;
        for set in [&mut self.effective, &mut self.permitted, &mut self.inheritable, &mut self.ambient] {
            *set &= available;
        }
        missing
    }

    /// Narrows the bounding set. Needs CAP_SETPCAP, so it comes before the user changes.
    pub fn bound(&self) -> Result<(), Error> {
        for bit in 0..64u32 {
            if self.bounding >> bit & 1 == 1 {
                continue;
            }
            match kernel::prctl(libc::PR_CAPBSET_DROP, bit.into(), 0) {
                Ok(_) => {}
                // The first number the kernel does not know ends the list.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                Err(error) => return Err(error).at("prctl(PR_CAPBSET_DROP)", bit.to_string()),
            }
        }
        Ok(())
    }

    /// Takes on the other four sets.
    pub fn apply(&self) -> Result<(), Error> {
        kernel::set_capabilities(self.effective, self.permitted, self.inheritable).at("capset", "")?;
        if self.ambient == 0 {
            return Ok(());
        }
        for bit in (0..64u64).filter(|bit| self.ambient >> bit & 1 == 1) {
            raise_ambient(bit).at("prctl(PR_CAP_AMBIENT_RAISE)", bit.to_string())?;
        }
        Ok(())
    }
}

fn raise_ambient(bit: u64) -> io::Result<()> {
    kernel::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, bit).map(drop)
}

/// The names of a mask's bits, for a message.
pub(super) fn names(mask: u64) -> String {
    let names: Vec<String> =
        BITS.iter().filter(|(_, bit)| mask >> bit & 1 == 1).map(|(cap, _)| format!("CAP_{cap}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_follow_the_kernels_order() {
        for (position, (_, bit)) in BITS.iter().enumerate() {
            assert_eq!(position as u32, *bit);
        }
        let set: Capabilities = [Capability::Chown, Capability::CheckpointRestore].into_iter().collect();
        assert_eq!(mask(&set), 1 | 1 << 40);
        assert_eq!(names(mask(&set)), "CAP_CHOWN, CAP_CHECKPOINT_RESTORE");
    }

    #[test]
    fn only_what_is_inheritable_is_ambient() {
        let set = |all: &[Capability]| Some(all.iter().copied().collect::<Capabilities>());
        let mut asked = LinuxCapabilities::default();
        let both = [Capability::Chown, Capability::DacOverride];
        asked.set_permitted(set(&both)).set_ambient(set(&both)).set_inheritable(set(&both[..1]));
        assert_eq!(Sets::new(Some(&asked)).ambient, 0b01);
        asked.set_inheritable(None);
        assert_eq!(Sets::new(Some(&asked)).ambient, 0);
    }

    #[test]
    fn what_the_engine_lacks_is_taken_out_and_named() {
        let mut sets = Sets { effective: 0b11, permitted: 0b11, bounding: 0b11, ..Sets::default() };
        assert_eq!(sets.limit(0b01), 0b10);
        assert_eq!((sets.effective, sets.permitted, sets.bounding), (0b01, 0b01, 0b11));
    }
}
