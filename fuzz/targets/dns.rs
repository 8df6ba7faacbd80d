//! A DNS message from the wire: it never panics or runs for long, and what it says can be printed.
#![no_main]

use bulkhead_ebpf::dns;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(message) = dns::parse(data) else { return };
    let plain = |text: &str| assert!(!text.chars().any(char::is_control), "{text:?}");
    for question in &message.questions {
        plain(&question.name);
        plain(&dns::kind_name(question.kind));
    }
    for answer in &message.answers {
        plain(&answer.name);
        plain(&answer.data.to_string());
    }
    plain(&dns::rcode_name(message.rcode));
});
