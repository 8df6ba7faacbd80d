//! What the verbs do: each module is glue between one verb's arguments and the engine.

pub mod attach;
pub mod check;
pub mod completion;
pub mod df;
pub mod exec;
pub mod images;
pub mod info;
pub mod inspect;
pub mod lifecycle;
pub mod live;
pub mod logs;
pub mod man;
pub mod monitor;
pub mod network;
pub mod oci;
pub mod prune;
pub mod ps;
pub mod run;
pub mod serve;
pub mod stats;
pub mod store;
pub mod top;
pub mod trace;
pub mod update;
pub mod version;
pub mod view;
