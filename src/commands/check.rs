//! `check`: what this host offers, each thing tried.

use std::fmt::Write as _;

use bulkhead_engine::host::{self, Row};

use crate::cli::Globals;
use crate::cli::system::CheckArgs;
use crate::failure::Failure;
use crate::output;

/// `bulkhead check`
pub fn run(_: &Globals, args: &CheckArgs) -> Result<u8, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::plain("check: must be root, since most probes need privileges"));
    }
    let rows = host::check();
    match args.format.as_deref() {
        None => output::raw(table(&rows).as_bytes()),
        Some("json") => {
            for row in &rows {
                let line = serde_json::to_string(row).map_err(|error| Failure::plain(error.to_string()))?;
                output::line(&line)?;
            }
            Ok(0)
        }
        Some(other) => Err(Failure::plain(format!("check: unknown format {other:?}: only json"))),
    }
}

/// One line a feature; what is missing says why and what that costs.
fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.feature.len()).max().unwrap_or_default();
    let mut text = format!("{:<10}{:<width$}  {:<5}PROBE\n", "AREA", "FEATURE", "HAVE");
    for row in rows {
        let have = if row.supported { "yes" } else { "no" };
        let _ = write!(text, "{:<10}{:<width$}  {have:<5}{}", row.area, row.feature, row.probe);
        if let Some(errno) = &row.errno {
            let _ = write!(text, ": {errno}; {}", row.without);
        }
        text.push('\n');
    }
    text
}
