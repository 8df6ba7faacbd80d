//! The image module.
