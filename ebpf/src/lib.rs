//! What a cgroup's processes execute, whom they talk to, and how they end.
//!
//! The kernel programs in `bpf/` are compiled by the build and embedded. They
//! know nothing of containers: they watch the children of one cgroup, and every
//! event and counter carries the child's cgroup id, taken in the kernel. Who made
//! the cgroup knows its name before anything runs in it, so no name is ever
//! guessed afterwards.
//!
//! [`Tracer::load`] attaches what the kernel takes and says by name what it does
//! not; [`Tracer::poll`] yields typed [`Event`]s; [`Tracer::lost`] says what is
//! missing from them, by cause.
//!
//! Everything a traced process can choose (arguments, names, DNS answers) is
//! bytes here. Put it on a terminal only through [`escape()`].

mod batch;
mod clock;
pub mod dns;
pub mod dns_stream;
mod escape;
mod event;
pub mod event_log;
mod hook;
mod ring;
mod running;
mod tracer;
mod wire;

pub use escape::{escape, is_hidden};
pub use event::{
    DecodeError, Dns, Endpoints, Event, Exec, Exit, Kind, Oom, Parent, Tcp, Transport, UdpFlow, decode,
};
pub use hook::{Hook, HookError, HookReport, Lockdown};
pub use running::running;
pub use tracer::{Cause, Counted, Figures, LoadError, Lost, Options, Stream, TraceError, Tracer, Waker};
pub use wire::{Counters, Histogram, Namespaces, Task};
