//! From flags to the engine's configuration.
//!
//! The submodules parse single values in Docker's syntax and refuse in Docker's words; they know nothing of
//! each other or of the engine beyond its configuration types.

pub mod devices;
pub mod env;
pub mod mount;
pub mod net;
pub mod time;
pub mod units;
