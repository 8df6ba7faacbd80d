//! Runs a filter as the kernel would, for tests: what a program decides can then be asked for every
//! call of every architecture and not only for those this machine can make.

use libc::sock_filter;

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub number: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            _ => {
                let at = offset.checked_sub(16).expect("no filter of ours loads the instruction pointer");
                let argument = self.args[at as usize / 8];
                if at.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        }
    }
}

/// The filter's verdict. Panics on what the kernel's verifier would refuse.
pub(super) fn run(program: &[sock_filter], call: &Call) -> u32 {
    let mut accumulator = 0u32;
    let mut at = 0;
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        at += 1 + match code {
            0x20 => {
                accumulator = call.word(k);
                0
            }
            0x54 => {
                accumulator &= k;
                0
            }
            0x05 => k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        };
    }
}
