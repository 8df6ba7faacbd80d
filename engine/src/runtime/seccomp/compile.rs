//! The compiler proper.
//!
//! Per ABI the rules become a partition of all 2³² numbers into ranges with one outcome each, and the
//! ranges a balanced tree of `jge`. A leaf is self-contained code that ends in a return, so the program
//! is a pre-order walk of the tree, and the only jumps that can be too far for BPF's eight bits are those
//! of inner nodes; they go by way of a `ja`.

use std::collections::{BTreeMap, BTreeSet};

use libc::sock_filter;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::arch::{Abi, X32_BIT};
use crate::runtime::error::Error;

// Source: include/uapi/linux/bpf_common.h and seccomp.h.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JGT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JGE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
/// `BPF_MAXINSNS`.
const MAX_LENGTH: usize = 4096;

/// What happens to a system call: conditions tried in order, then an action.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    conditional: Vec<(Vec<LinuxSeccompArg>, u32)>,
    otherwise: u32,
}

impl Outcome {
    fn plain(action: u32) -> Self {
        Self { conditional: Vec::new(), otherwise: action }
    }
}

/// Compiles a specification's rules.
pub(super) fn compile(rules: &LinuxSeccomp) -> Result<Vec<sock_filter>, Error> {
    let default = action(rules.default_action(), rules.default_errno_ret())?;
    let mut abis: Vec<Abi> = Vec::new();
    for arch in rules.architectures().iter().flatten() {
        // A profile lists the architectures of several machines; those of others cannot occur here.
        abis.extend(Abi::new(*arch).filter(|abi| !abis.contains(abi)));
    }
    if !abis.contains(&Abi::NATIVE) {
        abis.insert(0, Abi::NATIVE);
    }
    let mut program = vec![instruction(LOAD, 0, 0, OFFSET_ARCH)];
    for abi in abis.iter().copied().filter(|abi| *abi != Abi::X32) {
        let mut section = vec![instruction(LOAD, 0, 0, OFFSET_NUMBER)];
        let mut ranges = ranges(abi, rules, default)?;
        if abi == Abi::X86_64 {
            // One audit architecture, two ABIs, told apart by a bit in the number.
            ranges.retain(|(start, _)| *start < X32_BIT);
            if abis.contains(&Abi::X32) {
                let x32 = self::ranges(Abi::X32, rules, default)?;
                let below = x32.iter().rev().find(|(start, _)| *start <= X32_BIT).map(|(_, o)| o.clone());
                ranges.extend(below.map(|outcome| (X32_BIT, outcome)));
                ranges.extend(x32.into_iter().filter(|(start, _)| *start > X32_BIT));
            } else {
                ranges.push((X32_BIT, Outcome::plain(KILL_PROCESS)));
            }
        }
        tree(&ranges, &mut section);
        // Not this architecture: over the section.
        program.push(instruction(JEQ, 1, 0, abi.audit()));
        program.push(instruction(JUMP, 0, 0, section.len() as u32));
        program.append(&mut section);
    }
    program.push(instruction(RETURN, 0, 0, KILL_PROCESS));
    if program.len() > MAX_LENGTH {
        let why = format!("compiles to {} instructions; the kernel takes {MAX_LENGTH}", program.len());
        return Err(Error::invalid("linux.seccomp", why));
    }
    Ok(program)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::unsupported("SCMP_ACT_NOTIFY", "there is no notification agent"));
    }
    if errno.is_some_and(|errno| errno > 0xffff) {
        return Err(Error::invalid("errnoRet", errno.unwrap_or(0).to_string()));
    }
    Ok(action.as_u32(errno))
}

/// The outcome of every number, as starts of ranges in ascending order; the first starts at zero.
fn ranges(abi: Abi, rules: &LinuxSeccomp, default: u32) -> Result<Vec<(u32, Outcome)>, Error> {
    let mut calls: BTreeMap<u32, Outcome> = BTreeMap::new();
    let mut settled: BTreeSet<u32> = BTreeSet::new();
    let mut newest = 0;
    for rule in rules.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        let alternatives = alternatives(rule)?;
        for name in rule.names() {
            let Some(number) = abi.number(name) else { continue };
            newest = newest.max(number);
            if settled.contains(&number) {
                continue;
            }
            let outcome = calls.entry(number).or_insert_with(|| Outcome::plain(default));
            if alternatives.is_empty() {
                *outcome = Outcome::plain(action);
                settled.insert(number);
            } else {
                outcome.conditional.extend(alternatives.iter().map(|args| (args.clone(), action)));
            }
        }
    }
    let mut ranges: Vec<(u32, Outcome)> = vec![(0, Outcome::plain(default))];
    let mut set = |start: u32, outcome: Outcome| match ranges.last_mut() {
        Some((last, current)) if *last == start => *current = outcome,
        Some((_, current)) if *current == outcome => {}
        _ => ranges.push((start, outcome)),
    };
    for (number, outcome) in calls {
        set(number, outcome);
        set(number + 1, Outcome::plain(default));
    }
    if default & 0xffff_0000 == ERRNO {
        set(newest + 1, Outcome::plain(ERRNO | libc::ENOSYS as u32));
    }
    // Replacing a start's outcome may have left two neighbours alike.
    ranges.dedup_by(|next, previous| next.1 == previous.1);
    Ok(ranges)
}

/// The conditions of a rule as alternatives, each a list of which all must hold.
fn alternatives(rule: &LinuxSyscall) -> Result<Vec<Vec<LinuxSeccompArg>>, Error> {
    let args = rule.args().as_deref().unwrap_or_default();
    if let Some(arg) = args.iter().find(|arg| arg.index() > 5) {
        return Err(Error::invalid("seccomp argument index", arg.index().to_string()));
    }
    if args.is_empty() {
        return Ok(Vec::new());
    }
    let twice = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
    Ok(if twice { args.iter().map(|arg| vec![*arg]).collect() } else { vec![args.to_vec()] })
}

/// The search tree over `ranges`, none of which is empty.
fn tree(ranges: &[(u32, Outcome)], program: &mut Vec<sock_filter>) {
    if let [(_, outcome)] = ranges {
        leaf(outcome, program);
        return;
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let mut left = Vec::new();
    tree(below, &mut left);
    let distance = left.len() as u32;
    if let Ok(distance) = u8::try_from(distance) {
        program.push(instruction(JGE, distance, 0, above[0].0));
    } else {
        program.push(instruction(JGE, 0, 1, above[0].0));
        program.push(instruction(JUMP, 0, 0, distance));
    }
    program.append(&mut left);
    tree(above, program);
}

fn leaf(outcome: &Outcome, program: &mut Vec<sock_filter>) {
    for (conditions, action) in &outcome.conditional {
        let mut code: Vec<Step> = conditions.iter().flat_map(condition).collect();
        code.push(Step { code: RETURN, k: *action, then: To::Next, otherwise: To::Next });
        let length = code.len();
        for (position, step) in code.into_iter().enumerate() {
            // A rule has at most six conditions of six instructions, so every distance fits.
            let distance = |to: To| match to {
                To::Next => 0,
                To::Skip(n) => n,
                To::Fail => (length - position - 1) as u8,
            };
            program.push(instruction(step.code, distance(step.then), distance(step.otherwise), step.k));
        }
    }
    program.push(instruction(RETURN, 0, 0, outcome.otherwise));
}

#[derive(Debug, Clone, Copy)]
enum To {
    Next,
    /// Over so many instructions: the condition holds.
    Skip(u8),
    /// To the next alternative.
    Fail,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    code: u16,
    k: u32,
    then: To,
    otherwise: To,
}

/// A comparison of a 64-bit argument in 32-bit halves, upper half first. Falls through when it holds.
fn condition(arg: &LinuxSeccompArg) -> Vec<Step> {
    use LinuxSeccompOperator as Op;
    let low = OFFSET_ARGS + 8 * arg.index() as u32;
    // Both supported machines are little-endian.
    let high = low + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (value_high, value_low) = halves(arg.value());
    let load = |offset| Step { code: LOAD, k: offset, then: To::Next, otherwise: To::Next };
    let jump = |code, k, then, otherwise| Step { code, k, then, otherwise };
    match arg.op() {
        Op::ScmpCmpEq => vec![
            load(high),
            jump(JEQ, value_high, To::Next, To::Fail),
            load(low),
            jump(JEQ, value_low, To::Next, To::Fail),
        ],
        Op::ScmpCmpNe => vec![
            load(high),
            jump(JEQ, value_high, To::Next, To::Skip(2)),
            load(low),
            jump(JEQ, value_low, To::Fail, To::Next),
        ],
        Op::ScmpCmpGt | Op::ScmpCmpGe => vec![
            load(high),
            jump(JGT, value_high, To::Skip(3), To::Next),
            jump(JEQ, value_high, To::Next, To::Fail),
            load(low),
            jump(if arg.op() == Op::ScmpCmpGt { JGT } else { JGE }, value_low, To::Next, To::Fail),
        ],
        Op::ScmpCmpLt | Op::ScmpCmpLe => vec![
            load(high),
            jump(JGT, value_high, To::Fail, To::Next),
            jump(JEQ, value_high, To::Next, To::Skip(2)),
            load(low),
            jump(if arg.op() == Op::ScmpCmpLt { JGE } else { JGT }, value_low, To::Fail, To::Next),
        ],
        Op::ScmpCmpMaskedEq => {
            let (wanted_high, wanted_low) = halves(arg.value_two().unwrap_or(0));
            let mask = |k| Step { code: AND, k, then: To::Next, otherwise: To::Next };
            vec![
                load(high),
                mask(value_high),
                jump(JEQ, wanted_high, To::Next, To::Fail),
                load(low),
                mask(value_low),
                jump(JEQ, wanted_low, To::Next, To::Fail),
            ]
        }
    }
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::{self, Call};
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = ERRNO | 1;

    fn rules(json: &serde_json::Value) -> LinuxSeccomp {
        serde_json::from_value(json.clone()).expect("rules")
    }

    fn run(program: &[sock_filter], abi: Abi, name: &str, args: [u64; 6]) -> u32 {
        let number = abi.number(name).expect("a call of this ABI");
        interpreter::run(program, &Call { number, arch: abi.audit(), args })
    }

    #[test]
    fn every_operator_compares_all_64_bits() {
        let values = [0, 1, 5, 6, 7, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, 0x7_0000_0006, u64::MAX];
        for (op, holds) in [
            ("SCMP_CMP_EQ", (|a, b| a == b) as fn(u64, u64) -> bool),
            ("SCMP_CMP_NE", |a, b| a != b),
            ("SCMP_CMP_LT", |a, b| a < b),
            ("SCMP_CMP_LE", |a, b| a <= b),
            ("SCMP_CMP_GT", |a, b| a > b),
            ("SCMP_CMP_GE", |a, b| a >= b),
        ] {
            for bound in values {
                let program = compile(&rules(&serde_json::json!({
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
                        "args": [{"index": 1, "value": bound, "op": op}]}],
                })))
                .expect("compiles");
                for value in values {
                    let want = if holds(value, bound) { ALLOW } else { EPERM };
                    let got = run(&program, Abi::NATIVE, "ioctl", [9, value, 9, 9, 9, 9]);
                    assert_eq!(got, want, "{value:#x} {op} {bound:#x}");
                }
            }
        }
    }

    #[test]
    fn a_masked_comparison_looks_at_the_masked_bits_only() {
        let program = compile(&rules(&serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0x1_7e02_0000_u64, "valueTwo": 0x2_0000, "op": "SCMP_CMP_MASKED_EQ"}]}],
        })))
        .expect("compiles");
        for (flags, want) in [
            (0x2_0000, ALLOW),
            (0x2_0011, ALLOW),
            (0xffff_fffe_8002_0000, ALLOW),
            (0, EPERM),
            (0x4002_0000, EPERM),
            (0x1_0002_0000, EPERM),
        ] {
            assert_eq!(run(&program, Abi::NATIVE, "clone", [flags, 0, 0, 0, 0, 0]), want, "{flags:#x}");
        }
    }

    #[test]
    fn conditions_on_one_argument_are_alternatives_and_on_several_all_must_hold() {
        let eq =
            |index: u32, value: u64| serde_json::json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
        let program = compile(&rules(&serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [eq(0, 0), eq(0, 8)]},
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [eq(0, 2), eq(1, 1)]},
            ],
        })))
        .expect("compiles");
        for (name, args, want) in [
            ("personality", [0, 0], ALLOW),
            ("personality", [8, 0], ALLOW),
            ("personality", [1, 0], EPERM),
            ("socket", [2, 1], ALLOW),
            ("socket", [2, 2], EPERM),
            ("socket", [1, 1], EPERM),
        ] {
            let got = run(&program, Abi::NATIVE, name, [args[0], args[1], 0, 0, 0, 0]);
            assert_eq!(got, want, "{name} {args:?}");
        }
    }

    #[test]
    fn a_rule_without_conditions_beats_those_with() {
        let conditional = serde_json::json!({"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7,
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]});
        let plain = serde_json::json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW"});
        for syscalls in [[&conditional, &plain], [&plain, &conditional]] {
            let program =
                compile(&rules(&serde_json::json!({"defaultAction": "SCMP_ACT_KILL", "syscalls": syscalls})))
                    .expect("compiles");
            assert_eq!(run(&program, Abi::NATIVE, "ioctl", [1, 0, 0, 0, 0, 0]), ALLOW);
        }
    }

    #[test]
    fn unknown_architectures_and_new_calls_are_told_apart() {
        let program = compile(&rules(&serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}],
        })))
        .expect("compiles");
        let call = |number, arch| interpreter::run(&program, &Call { number, arch, args: [0; 6] });
        let native = Abi::NATIVE.audit();
        let newest = Abi::NATIVE.number("openat2").expect("openat2");
        assert_eq!(call(newest, native), ALLOW);
        assert_eq!(call(newest - 1, native), EPERM);
        assert_eq!(call(newest + 1, native), ERRNO | libc::ENOSYS as u32);
        assert_eq!(call(newest, 0x1234_5678), KILL_PROCESS);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn x32_is_its_own_set_of_numbers() {
        let json = |archs: &[&str]| {
            serde_json::json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "architectures": archs,
                "syscalls": [{"names": ["read", "execve"], "action": "SCMP_ACT_ALLOW"}],
            })
        };
        let with = compile(&rules(&json(&["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]))).expect("compiles");
        for (number, want) in [
            (0, ALLOW),
            (1, EPERM),
            (59, ALLOW),
            (X32_BIT, ALLOW),
            (X32_BIT + 1, EPERM),
            (X32_BIT + 59, EPERM),
            (X32_BIT + 520, ALLOW),
        ] {
            let call = Call { number, arch: Abi::X86_64.audit(), args: [0; 6] };
            assert_eq!(interpreter::run(&with, &call), want, "{number:#x}");
        }
        let without = compile(&rules(&json(&["SCMP_ARCH_X86_64"]))).expect("compiles");
        let call = Call { number: X32_BIT, arch: Abi::X86_64.audit(), args: [0; 6] };
        assert_eq!(interpreter::run(&without, &call), KILL_PROCESS);
    }

    #[test]
    fn what_nobody_can_act_on_is_refused() {
        let notify = rules(&serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY"}));
        assert!(matches!(compile(&notify), Err(Error::Unsupported { .. })));
        let index = rules(&serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_KILL",
             "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}));
        assert!(matches!(compile(&index), Err(Error::Invalid { .. })));
    }
}
