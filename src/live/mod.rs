//! `bulkhead top`: all containers at a glance, and what can be done about them.
//!
//! Three layers that know only the one below: [`App`] is the state and what keys do to it, without a
//! terminal; [`draw()`] puts it on a screen of any size; `commands::live` owns the terminal and the clock.
//! So both can be driven by tests and by the script that makes the pictures.

mod app;
mod columns;
mod detail;
mod draw;
mod history;
mod recent;

pub use self::app::{App, Effect};
pub use self::detail::Detail;
pub use self::draw::{Look, draw};
pub use self::recent::Watch;
