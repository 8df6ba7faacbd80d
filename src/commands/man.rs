//! `man`: manual pages, one per verb, from the same definitions that parse.

use crate::cli::system::ManArgs;
use crate::cli::{Globals, tree};
use crate::failure::Failure;

/// Writes the pages.
pub fn run(_: &Globals, args: &ManArgs) -> Result<u8, Failure> {
    let failed = |call: &str, error: &std::io::Error| {
        Failure::plain(format!("{call} {}: {}", args.dir.display(), crate::options::env::reason(error)))
    };
    std::fs::create_dir_all(&args.dir).map_err(|error| failed("mkdir", &error))?;
    clap_mangen::generate_to(tree(), &args.dir).map_err(|error| failed("write", &error))?;
    Ok(0)
}
