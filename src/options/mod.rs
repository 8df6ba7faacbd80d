//! From flags to the engine's configuration.
//!
//! [`create`] looks at all flags together; the engine adds what the image says. Limits are the engine's to
//! judge. The other submodules parse single values in Docker's syntax and refuse in Docker's words; they know nothing of
//! each other or of the engine beyond its configuration types.

pub mod cache;
pub mod create;
pub mod devices;
pub mod env;
pub mod mount;
pub mod net;
pub mod output;
pub mod restart;
pub mod units;
