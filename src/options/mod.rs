//! From flags to the engine's configuration.
//!
//! [`create`] and [`limits`] look at all flags together; [`merge`] adds what the image says. The other
//! submodules parse single values in Docker's syntax and refuse in Docker's words; they know nothing of
//! each other or of the engine beyond its configuration types.

pub mod create;
pub mod devices;
pub mod env;
pub mod limits;
pub mod merge;
pub mod mount;
pub mod net;
pub mod time;
pub mod units;
