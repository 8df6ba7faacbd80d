//! `check`: what this host offers, each thing tried.

use std::fmt::Write as _;

use bulkhead_engine::cgroup::proof::{self, Row, Verdict};
use bulkhead_engine::host;

use crate::cli::Globals;
use crate::cli::system::CheckArgs;
use crate::failure::Failure;
use crate::output;

/// `bulkhead check`
pub fn run(globals: &Globals, args: &CheckArgs) -> Result<u8, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::plain("check: must be root, since most probes need privileges"));
    }
    match args.what.as_deref() {
        None => {}
        Some("limits") => return limits(globals, args),
        Some(other) => return Err(Failure::plain(format!("check: unknown check {other:?}: only limits"))),
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

/// `bulkhead check limits`: exit code 1 when a limit does not hold.
fn limits(globals: &Globals, args: &CheckArgs) -> Result<u8, Failure> {
    let json = match args.format.as_deref() {
        None => false,
        Some("json") => true,
        Some(other) => return Err(Failure::plain(format!("check: unknown format {other:?}: only json"))),
    };
    let fail = |error: &dyn std::fmt::Display| Failure::plain(format!("check limits: {error}"));
    // What the disk of the images takes is the question, and there may be no such directory yet.
    let ancestors = globals.root.ancestors();
    let directory = ancestors.into_iter().find(|path| path.is_dir()).unwrap_or(std::path::Path::new("/"));
    let rows = proof::run(&globals.cgroup_parent, directory).map_err(|error| fail(&error))?;
    if json {
        for row in &rows {
            let line = serde_json::to_string(row).map_err(|error| fail(&error))?;
            output::line(&line)?;
        }
    } else {
        let width = |of: fn(&Row) -> usize, least| rows.iter().map(of).max().unwrap_or(0).max(least);
        let (asked, measured) = (width(|row| row.asked.len(), 5), width(|row| row.measured.len(), 8));
        let mut text = format!("{:<12}{:<asked$}  {:<measured$}  VERDICT\n", "LIMIT", "ASKED", "MEASURED");
        for row in &rows {
            let _ = write!(text, "{:<12}{:<asked$}  {:<measured$}  ", row.limit, row.asked, row.measured);
            let _ = match &row.verdict {
                Verdict::Holds => writeln!(text, "holds"),
                Verdict::Fails(why) => writeln!(text, "FAILS: {why}"),
                Verdict::Inconclusive(why) => writeln!(text, "inconclusive: {why}"),
                Verdict::NotSupported(why) => writeln!(text, "not supported: {why}"),
            };
        }
        output::raw(text.as_bytes())?;
    }
    Ok(u8::from(rows.iter().any(|row| matches!(row.verdict, Verdict::Fails(_)))))
}

/// One line a feature; what is missing says why and what that costs.
fn table(rows: &[host::Row]) -> String {
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
