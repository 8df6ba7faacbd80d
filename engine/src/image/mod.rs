//! Images.
mod reference;
pub use reference::{ParseError, Reference};
