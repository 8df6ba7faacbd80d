//! `bulkhead`: Docker's grammar over the engine, without a daemon.
//!
//! This package is glue. [`cli`] says what may be typed, [`options`] turns flags into the engine's
//! configuration, [`commands`] calls the engine, [`template`] and [`output`] print what it answers.

mod attach;
#[allow(
    rustdoc::invalid_html_tags,
    rustdoc::broken_intra_doc_links,
    reason = "these comments are help texts, in Docker's own words"
)]
mod cli;
mod commands;
mod failure;
mod live;
mod names;
mod options;
mod output;
mod serve;
mod template;

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let failure = match cli::dispatch(std::env::args_os().collect()) {
        Ok(code) => return ExitCode::from(code),
        Err(failure) => failure,
    };
    // Nothing is left to be done if these two fail.
    if !failure.output.is_empty() {
        let _ = writeln!(std::io::stdout(), "{}", failure.output.trim_end());
    }
    if !failure.message.is_empty() {
        let _ = writeln!(std::io::stderr(), "{}", failure.message);
    }
    ExitCode::from(failure.code)
}
