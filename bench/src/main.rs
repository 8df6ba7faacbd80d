//! Side by side with other engines, on the same work in one run.
//!
//! A figure alone says more about the machine than about the engine. Every table here comes from one
//! run in which the tools take turns (A B C A B C …), so that a noisy minute hits all of them; it prints
//! medians, the ratio to Bulkhead's median *per round* (and the median of those), and everything the
//! figures depend on: file system, cache state, sync policy, and how each peer was made to run.
//!
//! A peer that is not installed, or that fails on the very work, is named with the reason and left out;
//! its cell is never guessed.

mod appliers;
mod build;
mod cgroup;
mod commit;
mod compare;
mod ebpf;
mod iter;
mod measure;
mod metrics;
mod network;
mod peers;
mod pull;
mod snapshot;
mod start;
mod traffic;
mod unpack;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["worker"] => worker::serve(),
        ["start", rest @ ..] => start::run(rest),
        ["unpack", rest @ ..] => unpack::run(rest),
        ["pull", rest @ ..] => pull::run(rest),
        ["compare", rest @ ..] => compare::run(rest),
        ["commit", rest @ ..] => commit::run(rest),
        ["build", rest @ ..] => build::run(rest),
        ["snapshot", rest @ ..] => snapshot::run(rest),
        ["appliers", rest @ ..] => appliers::run(rest),
        ["ebpf", rest @ ..] => ebpf::run(rest),
        ["cgroup", rest @ ..] => cgroup::run(rest),
        ["network", rest @ ..] => network::run(rest),
        ["sink", port] => traffic::sink(port),
        ["pour", to, time] => traffic::pour(to, time),
        ["knock", to, time] => traffic::knock(to, time),
        ["scatter", to, count] => traffic::scatter(to, count),
        ["metrics", rest @ ..] => metrics::run(rest),
        _ => {
            eprintln!(
                "usage: cargo xtask bench NAME [ROUNDS]\n\n  \
                 start   a container's start and end, beside crun, runc, podman and containerd\n  \
                 unpack  five layers, about 1.4 GB: gzip, zstd, uncompressed\n  \
                 pull    the same from a registry on the loopback interface, beside podman and containerd\n  \
                 snapshot  prepare, mount, unmount, remove: 1 to 100 layers\n  \
                 network  starts on a bridge, a hundred at once, published ports beside plain veth\n  \
                 cgroup  a container's cgroups: made, limited, removed, read; one and 1,000 of them\n  \
                 commit  1,000 changed files, beside podman\n  \
                 build   five steps, made anew and from the cache, beside podman and buildah\n  \
                 compare  not a timing: every entry of that image beside GNU tar's\n  \
                 appliers  one layer by threads and by io_uring: shapes, file systems, cores\n  \
                 ebpf    work with and without a tracer, beside bpftrace; what the tracer uses and loses\n  \
                 metrics  scrapes of 100 and 1,000 containers, stats, the live view, ways to read cgroups"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
