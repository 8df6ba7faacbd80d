//! What version this is; see [`super::info`] for the verb.

use crate::failure::Failure;
use crate::output;

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, where the build says (`BULKHEAD_BUILD` at compile time).
pub const BUILD: &str = match option_env!("BULKHEAD_BUILD") {
    Some(build) => build,
    None => "dev",
};

/// `--version`
pub fn short() -> Result<u8, Failure> {
    output::line(&format!("bulkhead version {VERSION}, build {BUILD}"))?;
    Ok(0)
}
