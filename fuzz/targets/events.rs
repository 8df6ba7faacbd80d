//! What comes out of the kernel's ring, and what lies in the event log: bytes of anybody's, as far as the
//! decoders know; and DNS over TCP, put together of several records. They never panic, and what they make of it
//! can be put on a terminal.
#![no_main]

use bulkhead_ebpf::dns_stream::Streams;
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
    match kind % 3 {
        0 => {
            if let Ok(event) = decode(data) {
                shown(&event);
            }
            return;
        }
        1 => {
            // Records with their lengths before them: DNS over TCP is put together of several.
            let (mut streams, mut rest) = (Streams::default(), data);
            while let Some((&[high, low], more)) = rest.split_first_chunk() {
                let length = usize::from(u16::from_be_bytes([high, low]));
                let (record, more) = more.split_at(length.min(more.len()));
                rest = more;
                streams.feed(record, |message| {
                    if let Ok(event) = decode(message) {
                        shown(&event);
                    }
                });
            }
            return;
        }
        _ => {}
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
