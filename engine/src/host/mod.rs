//! The host module.
