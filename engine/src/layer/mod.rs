//! The layer module.
