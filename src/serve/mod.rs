//! `bulkhead serve`: the one process that may be there all the time, and that no container depends on.
//!
//! It is made of parts, each with a thread of its own and a narrow way to talk to it, so that a slow
//! client of one cannot hold up another: the [`reader`] of figures, the walk over writable layers
//! ([`filesystem`]), the counting in the kernel ([`tracer`]), the [`http`] server, the writer of a [`textfile`],
//! the [`enforcer`] of the pressure policy, the teller of kills for memory ([`oom`]). The main thread starts them, waits
//! for a signal and lets the rest go; whatever is under way then is somebody's answer, not somebody's
//! data. The async runtime lives inside the HTTP part and nowhere else.

mod auth;
pub mod enforcer;
pub mod filesystem;
pub mod http;
mod me;
pub mod oom;
pub mod reader;
pub mod textfile;
mod tls;
pub mod tracer;

use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};

pub use self::auth::{AuthError, Users};
pub use self::tls::{TlsError, acceptor};

/// A part could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The password file.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Another serve has this run root.
    #[error("another bulkhead serve is running for {}", .0.display())]
    Running(PathBuf),
    /// Figures could not be read, or the handing over of last figures not be set up.
    #[error(transparent)]
    Model(#[from] bulkhead_engine::model::Error),
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] bulkhead_engine::store::Error),
    /// The pressure policy.
    #[error(transparent)]
    Policy(#[from] bulkhead_engine::enforcer::config::Error),
    /// The containers' cgroup.
    #[error(transparent)]
    Cgroup(#[from] bulkhead_engine::cgroup::Error),
    /// A socket or a thread could not be made.
    #[error("{call} {object}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its object.
        object: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Blocks the signals that end `serve` in this thread and all that it will start. Call it first.
pub fn block_signals() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGHUP);
    // Only an invalid argument could make it fail.
    let _ = set.thread_block();
    set
}

/// Asks the allocator to give back what is large as soon as it is not needed: an answer about a thousand
/// containers is ten megabytes for a few milliseconds, four times a minute, in pieces of some 400 kB. Call it before
/// threads start.
pub fn return_memory() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: libc::c_int = 1 << 18;
        // SAFETY: mallopt takes two integers. Fixing the first also ends its growth with what was freed.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
            libc::mallopt(libc::M_ARENA_MAX, 2);
        }
    }
}

/// Gives back what starting has left: the kernel's own description of its types, read for the programs, is
/// tens of megabytes that are never needed again.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and looks only at what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets as many files be open as the hard limit allows: the reader keeps some twenty a container, the
/// server one a client.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Refused, the soft limit stays, and the reader keeps fewer files open.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
