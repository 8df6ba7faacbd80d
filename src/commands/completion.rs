//! `completion`: the script a shell completes with.

use clap_complete::Shell;

use crate::cli::system::CompletionArgs;
use crate::cli::{Globals, tree};
use crate::failure::Failure;

/// Prints the script.
pub fn run(_: &Globals, args: &CompletionArgs) -> Result<u8, Failure> {
    let shell = match args.shell.as_str() {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        other => {
            return Err(Failure::plain(format!("unknown shell {other:?}: bash, zsh and fish are known")));
        }
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree(), "bulkhead", &mut script);
    crate::output::raw(&script)
}
