//! The structs of `bpf/events.h` and their decoders.
//!
//! The build writes them from the header; see `build.rs`. A decoder takes bytes
//! at any alignment and answers `None` when they are too few, so that nothing
//! that comes out of a map or the ring can make this process read out of bounds.

/// `N` bytes at an offset the caller has checked against the length.
fn bytes_at<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&b[at..at + N]);
    out
}

include!(concat!(env!("OUT_DIR"), "/wire.rs"));
