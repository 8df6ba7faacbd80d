//! What the verbs do: each module is glue between one verb's arguments and the engine.

pub mod completion;
pub mod man;
pub mod version;
