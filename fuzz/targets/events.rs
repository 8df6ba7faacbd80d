//! What comes out of the kernel's ring, and what lies in the event log: bytes of anybody's, as far as the
//! decoders know. They never panic, and what they make of it can be put on a terminal.
#![no_main]

use bulkhead_ebpf::event_log::{self, Entry};
use bulkhead_ebpf::{Event, Kind, decode, escape};
use libfuzzer_sys::fuzz_target;

fn shown(event: &Event) {
    if let Some(task) = &event.task {
        assert!(!escape(task.name()).chars().any(char::is_control));
    }
    let (Kind::Exec(exec) | Kind::ExecFailed(exec, _)) = &event.kind else { return };
    for bytes in [&exec.filename, &exec.cwd].into_iter().chain(&exec.args) {
        assert!(!escape(bytes).chars().any(char::is_control));
    }
    assert!(exec.parents.len() <= 8);
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    if kind % 2 == 0 {
        if let Ok(event) = decode(data) {
            shown(&event);
        }
        return;
    }
    // As it is, and as one record with the checksum it should have: no mutation would find that.
    let mut whole = event_log::header().to_vec();
    event_log::record(&mut whole, data);
    for bytes in [data, &whole] {
        let end = event_log::parse(bytes, &mut |entry| {
            if let Entry::Event { event, .. } = entry {
                shown(event);
            }
        });
        assert!(end.is_none_or(|end| end <= bytes.len()));
    }
});
