//! The snapshot module.
