//! A layer of arbitrary bytes: nothing panics, nothing appears outside of the layer, and what is
//! accepted is given back byte for byte.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bulkhead_engine::layer::{self, Limit, Method, Options, Silent};
use libfuzzer_sys::fuzz_target;

/// Where layers are unpacked, with nothing but `in` in it.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let dir = std::env::var_os("BULKHEAD_FUZZ_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = dir.join(format!("bulkhead-fuzz-layer-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        dir
    })
}

/// Sets the checksum of every block that looks like a header, or no mutation would get past it.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    if first & 2 != 0 {
        mend(&mut bytes);
    }
    let dest = base().join("in");
    let _ = std::fs::remove_dir_all(&dest);
    std::fs::create_dir(&dest).expect("mkdir");
    let mut options = Options::from_env().expect("options");
    options.method = if first & 1 != 0 { Method::IoUring } else { Method::Threads };
    options.limit = Limit::Growth { floor: 1 << 20, factor: 1000 };
    if let Ok(unpacked) = layer::unpack(&bytes[..], &dest, &options, &Silent) {
        if unpacked.replaced {
            layer::keep_archive(&bytes[..], &dest).expect("what was read once can be read again");
        }
        let mut back = Vec::new();
        let diff_id = layer::assemble(&dest, &mut back).expect("assemble");
        assert_eq!(diff_id, unpacked.diff_id, "the same bytes come back");
        assert_eq!(back.len() as u64, unpacked.inflated);
    }
    let outside: Vec<_> =
        std::fs::read_dir(base()).expect("readdir").flatten().map(|e| e.file_name()).collect();
    assert_eq!(outside, ["in"], "nothing outside of the layer");
});
