//! The engine: images, layers, snapshots, cgroups, the OCI runtime and the life of a container.
//!
//! A library without a daemon. Every verb of the command line opens the [`store`], does its work in
//! its own process and exits; the only thing that outlives a command is one small monitor per running
//! container ([`container::monitor`]). Nothing here starts threads or an async runtime behind the
//! caller's back, because a process that is about to `clone3` must be single-threaded; the layer
//! pipeline, which is parallel, joins its threads before it returns.
//!
//! Arrows point one way: `{build, enforcer} → {model, container} → {runtime, snapshot, image, cgroup, volume} → {layer, registry, store, host} → {config, digest}`.

pub mod build;
pub mod cgroup;
pub mod children;
pub mod config;
pub mod container;
pub mod digest;
pub mod enforcer;
pub mod events;
pub mod filter;
pub mod host;
pub mod image;
pub mod layer;
pub mod model;
pub mod network;
mod openat2;
pub mod operator;
pub mod registry;
pub mod runtime;
mod seq_file;
pub mod snapshot;
pub mod store;
pub mod time;
pub mod volume;
