//! How the executable is laid out.
//!
//! A start of a container is a few milliseconds, of which a sixth went into page faults on our own code. Where
//! the file lies in the page cache in huge pages (`cargo xtask install` writes it so) the kernel maps two
//! megabytes with one fault, if code and file are aligned alike; see docs/performance.md.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,max-page-size=0x200000");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,separate-loadable-segments");
}
