//! Which device nodes a container may open or make: a small BPF program on its v2 cgroup.
//!
//! cgroup v2 has no file for it; a program of type `CGROUP_DEVICE` is asked at every open and mknod. On a
//! hybrid host with the devices controller on v1 the rules go there, which costs a start much less.
//!
//! Rules are read as the OCI specification means them: in order, a later one overrides an earlier one,
//! and what no rule allows is denied. The program walks them from the last to the first and strikes
//! the accesses each allows from the ones requested; so a request for reading and writing is granted by
//! two rules that grant one each.
//!
//! Minimum kernel: 4.15 for the program type, 5.1 for 32-bit jumps.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{dir::Dir, error::Error};

const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

/// One instruction of the BPF machine.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    opcode: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { opcode, registers: source << 4 | destination, offset, immediate }
}

// Registers: 0 result, 1 context, 2 accesses not yet granted, 3 type, 4 major, 5 minor, 6 scratch.
const LOAD32: u8 = 0x61;
const MOV64: u8 = 0xb7;
const MOV64_REGISTER: u8 = 0xbf;
const AND32: u8 = 0x54;
const SHIFT_RIGHT32: u8 = 0x74;
const EXIT: u8 = 0x95;
const JUMP_NOT_EQUAL32: u8 = 0x56;
const JUMP_EQUAL32: u8 = 0x16;

/// A rule with everything optional resolved. `None` matches all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    fn of(rule: &LinuxDeviceCgroup) -> Self {
        // BPF_DEVCG_DEV_BLOCK and _CHAR.
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => Some(1),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(2),
            _ => None,
        };
        // A negative number is the specification's wildcard.
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok()).map(u32::cast_signed);
        let access = match rule.access() {
            None => ALL,
            Some(text) if text.is_empty() => ALL,
            Some(text) => text.bytes().fold(0, |bits, b| {
                bits | match b {
                    b'r' => READ,
                    b'w' => WRITE,
                    b'm' => MKNOD,
                    _ => 0,
                }
            }),
        };
        // "All devices" has no numbers, whatever they say.
        let (major, minor) =
            if kind.is_none() { (None, None) } else { (number(rule.major()), number(rule.minor())) };
        Self { allow: rule.allow(), kind, major, minor, access }
    }

    fn is_everything(&self) -> bool {
        self.kind.is_none() && self.access == ALL
    }
}

/// The rules from the last to the first that can still matter.
fn effective(rules: &[LinuxDeviceCgroup]) -> Vec<Rule> {
    let mut kept = Vec::new();
    for rule in rules.iter().rev().map(Rule::of) {
        kept.push(rule);
        if rule.is_everything() {
            break;
        }
    }
    kept
}

fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        op(LOAD32, 2, 1, 0, 0),
        op(MOV64_REGISTER, 3, 2, 0, 0),
        op(AND32, 3, 0, 0, 0xffff),
        op(SHIFT_RIGHT32, 2, 0, 0, 16),
        op(LOAD32, 4, 1, 4, 0),
        op(LOAD32, 5, 1, 8, 0),
    ];
    let verdict = |program: &mut Vec<Instruction>, allow: bool| {
        program.push(op(MOV64, 0, 0, 0, i32::from(allow)));
        program.push(op(EXIT, 0, 0, 0, 0));
    };
    for rule in rules {
        if rule.is_everything() {
            // The verifier refuses what nothing can reach, so this is the end.
            verdict(&mut program, rule.allow);
            return program;
        }
        // Conditions that skip the rule; their distance is known when it is complete.
        let mut skips = Vec::new();
        for (register, wanted) in [(3, rule.kind), (4, rule.major), (5, rule.minor)] {
            if let Some(wanted) = wanted {
                skips.push(program.len());
                program.push(op(JUMP_NOT_EQUAL32, register, 0, 0, wanted));
            }
        }
        if rule.allow {
            program.push(op(AND32, 2, 0, 0, !rule.access));
            skips.push(program.len());
            program.push(op(JUMP_NOT_EQUAL32, 2, 0, 0, 0));
        } else {
            program.push(op(MOV64_REGISTER, 6, 2, 0, 0));
            program.push(op(AND32, 6, 0, 0, rule.access));
            skips.push(program.len());
            program.push(op(JUMP_EQUAL32, 6, 0, 0, 0));
        }
        verdict(&mut program, rule.allow);
        let end = program.len();
        for at in skips {
            program[at].offset = (end - at - 1) as i16;
        }
    }
    verdict(&mut program, false);
    program
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it, up to `expected_attach_type`.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs below this one stay, and all must agree: a container may nest its own.
const ALLOW_MULTI: u32 = 2;

fn bpf<T>(command: i32, attr: &mut T) -> Result<i32, Errno> {
    // SAFETY: `attr` is a prefix of union bpf_attr laid out as the kernel's header has it, passed with
    // its size; the pointers in it outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    Errno::result(result).map(|r| r as i32)
}

fn load(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let mut attr = LoadAttr {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: *b"bulkhead_device\0",
        expected_attach_type: ATTACH_CGROUP_DEVICE,
        ..LoadAttr::default()
    };
    let fd = bpf(PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel just made this descriptor, close-on-exec, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Programs of this type attached to the cgroup itself.
fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = vec![0u32; 64];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// Holds the cgroup to the rules, in place of those before.
///
/// Rules that allow everything leave it without a program.
pub(crate) fn restrict(dir: &Dir, rules: &[LinuxDeviceCgroup], fresh: bool) -> Result<(), Error> {
    let failed = |call| move |errno| Error::sys(call, dir.path(), errno);
    let allows = allows_everything(rules);
    let rules = effective(rules);
    let before = if fresh { Vec::new() } else { attached(dir.as_fd()).map_err(failed("bpf(PROG_QUERY)"))? };
    if !allows {
        let program = load(&assemble(&rules)).map_err(failed("bpf(PROG_LOAD)"))?;
        let mut attr = AttachAttr {
            target_fd: dir.as_fd().as_raw_fd() as u32,
            attach_bpf_fd: program.as_raw_fd() as u32,
            attach_type: ATTACH_CGROUP_DEVICE,
            attach_flags: ALLOW_MULTI,
        };
        bpf(PROG_ATTACH, &mut attr).map_err(failed("bpf(PROG_ATTACH)"))?;
    }
    // The new ones hold already: there is no moment without rules.
    for id in before {
        let mut attr = IdAttr { id, ..IdAttr::default() };
        let fd = match bpf(PROG_GET_FD_BY_ID, &mut attr) {
            // SAFETY: the kernel just made this descriptor for us.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(failed("bpf(PROG_GET_FD_BY_ID)")(errno)),
        };
        let mut attr = AttachAttr {
            target_fd: dir.as_fd().as_raw_fd() as u32,
            attach_bpf_fd: fd.as_raw_fd() as u32,
            attach_type: ATTACH_CGROUP_DEVICE,
            attach_flags: 0,
        };
        bpf(PROG_DETACH, &mut attr).map_err(failed("bpf(PROG_DETACH)"))?;
    }
    Ok(())
}

/// Whether the kernel takes a program at all, by loading the smallest.
pub fn probe_bpf() -> Result<(), Errno> {
    load(&assemble(&[])).map(drop)
}

/// Rules that need nobody to hold them.
pub(crate) fn allows_everything(rules: &[LinuxDeviceCgroup]) -> bool {
    effective(rules).first().is_some_and(|rule| rule.is_everything() && rule.allow)
}

/// Holds a v1 devices cgroup to the rules.
pub(crate) fn write_v1(dir: &Dir, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    let (allow, deny) = (dir.open_write("devices.allow")?, dir.open_write("devices.deny")?);
    for (file, value) in v1_writes(rules) {
        let fd = if file == "devices.allow" { &allow } else { &deny };
        nix::unistd::write(fd, value.as_bytes()).map_err(|errno| Error::Write {
            path: dir.file(file),
            value,
            errno,
        })?;
    }
    Ok(())
}

/// The same rules for the v1 devices controller: file and value of each write.
pub(crate) fn v1_writes(rules: &[LinuxDeviceCgroup]) -> Vec<(&'static str, String)> {
    // The controller keeps one default and exceptions to it, so a rule for all resets what came before.
    let mut rules = effective(rules);
    rules.reverse();
    let mut writes = Vec::with_capacity(rules.len() + 1);
    if !rules.first().is_some_and(Rule::is_everything) {
        writes.push(("devices.deny", "a".to_owned()));
    }
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        let number = |n: Option<i32>| n.map_or("*".to_owned(), |n| n.cast_unsigned().to_string());
        let access: String = [('r', READ), ('w', WRITE), ('m', MKNOD)]
            .iter()
            .filter(|(_, bit)| rule.access & bit != 0)
            .map(|(c, _)| c)
            .collect();
        let kinds: &[char] = match rule.kind {
            _ if rule.is_everything() => {
                writes.push((file, "a".to_owned()));
                continue;
            }
            Some(1) => &['b'],
            Some(_) => &['c'],
            None => &['b', 'c'],
        };
        for kind in kinds {
            writes.push((file, format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))));
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::super::resources::device_rule;
    use super::*;

    /// What the program answers, by running it here; the kernel runs the same bytes in the tests of the
    /// module above.
    fn run(program: &[Instruction], access: i32, kind: i32, major: u32, minor: u32) -> bool {
        let context = [(access << 16 | kind).cast_unsigned(), major, minor];
        let mut r = [0u64; 11];
        let mut at = 0;
        loop {
            let i = program[at];
            let (d, s) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            match i.opcode {
                LOAD32 => r[d] = context[i.offset as usize / 4].into(),
                MOV64 => r[d] = i.immediate as u64,
                MOV64_REGISTER => r[d] = r[s],
                AND32 => r[d] = u64::from(r[d] as u32 & i.immediate.cast_unsigned()),
                SHIFT_RIGHT32 => r[d] = u64::from(r[d] as u32 >> i.immediate),
                JUMP_NOT_EQUAL32 if r[d] as u32 != i.immediate.cast_unsigned() => at += i.offset as usize,
                JUMP_EQUAL32 if r[d] as u32 == i.immediate.cast_unsigned() => at += i.offset as usize,
                JUMP_NOT_EQUAL32 | JUMP_EQUAL32 => {}
                EXIT => return r[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    fn rules(lines: &[(bool, &str)]) -> Vec<LinuxDeviceCgroup> {
        lines
            .iter()
            .map(|(allow, line)| {
                let mut rule = device_rule(line).unwrap();
                rule.set_allow(*allow);
                rule
            })
            .collect()
    }

    #[test]
    fn later_rules_override_and_accesses_add_up() {
        const BLOCK: i32 = 1;
        const CHAR: i32 = 2;
        let set = rules(&[
            (true, "c 9:9 rwm"), // forgotten by the next
            (false, "a *:* rwm"),
            (true, "c *:* m"),
            (true, "c 1:3 r"),
            (true, "c 1:3 w"),
            (true, "c 136:* rwm"),
            (false, "c 136:7 w"),
            (true, "b 8:4294967295 r"),
        ]);
        let program = assemble(&effective(&set));
        for (access, kind, major, minor, expected) in [
            (READ | WRITE, CHAR, 1, 3, true),
            (READ | WRITE | MKNOD, CHAR, 1, 3, true),
            (READ, CHAR, 1, 4, false),
            (MKNOD, CHAR, 200, 200, true),
            (MKNOD, BLOCK, 200, 200, false),
            (READ, CHAR, 9, 9, false),
            (READ | WRITE, CHAR, 136, 6, true),
            (READ | WRITE, CHAR, 136, 7, false),
            (READ, CHAR, 136, 7, true),
            (READ, BLOCK, 8, u32::MAX, true),
            (WRITE, BLOCK, 8, u32::MAX, false),
            (READ, CHAR, 8, u32::MAX, false),
        ] {
            assert_eq!(
                run(&program, access, kind, major, minor),
                expected,
                "{access} {kind} {major}:{minor}"
            );
        }
        assert!(!run(&assemble(&[]), READ, CHAR, 1, 3), "what no rule allows is denied");
    }

    #[test]
    fn rules_for_v1() {
        let set = rules(&[(false, "a *:* rwm"), (true, "c 1:3 rwm"), (true, "b *:* m"), (false, "c 5:1 w")]);
        assert_eq!(
            v1_writes(&set),
            [
                ("devices.deny", "a".to_owned()),
                ("devices.allow", "c 1:3 rwm".to_owned()),
                ("devices.allow", "b *:* m".to_owned()),
                ("devices.deny", "c 5:1 w".to_owned()),
            ]
        );
        assert_eq!(
            v1_writes(&rules(&[(true, "a *:* rwm")])).last().unwrap(),
            &("devices.allow", "a".to_owned())
        );
    }
}
