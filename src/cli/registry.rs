//! Verbs on registries.

use clap::Args;

use crate::options::{env, units};

/// `pull`
#[derive(Debug, Clone, Args)]
pub struct PullArgs {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Accepted for Docker's sake.
    #[arg(long, hide = true)]
    pub disable_content_trust: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    pub platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    pub quiet: bool,
    /// Who makes the files: auto, io_uring, threads (default from BULKHEAD_UNPACK, or auto)
    #[arg(long, value_name = "applier", value_parser = ["auto", "io_uring", "threads"])]
    pub unpack: Option<String>,
    /// The image.
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
}

/// `push`
#[derive(Debug, Clone, Args)]
pub struct PushArgs {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Compress layers that the registry does not have: gzip, zstd (default gzip, or whatever it has)
    #[arg(long, value_name = "format", value_parser = ["gzip", "zstd"])]
    pub compression_format: Option<String>,
    /// How hard to compress: 1 to 9 for gzip (default 6), 1 to 22 for zstd (default 3)
    #[arg(long, value_name = "level")]
    pub compression_level: Option<u32>,
    /// Accepted for Docker's sake.
    #[arg(long, hide = true)]
    pub disable_content_trust: bool,
    /// Suppress verbose output
    #[arg(short, long)]
    pub quiet: bool,
    /// The image.
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
}

/// `search`
#[derive(Debug, Clone, Args)]
pub struct SearchArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Pretty-print search using a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Max number of search results
    #[arg(long, value_name = "int", value_parser = units::int, default_value = "25")]
    pub limit: i64,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// What to look for, behind the registry's host if it is not Docker Hub.
    #[arg(value_name = "TERM")]
    pub term: String,
}

/// `login`
#[derive(Debug, Clone, Args)]
pub struct LoginArgs {
    /// Password or Personal Access Token (PAT)
    #[arg(short, long, value_name = "string")]
    pub password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// Username
    #[arg(short, long, value_name = "string")]
    pub username: Option<String>,
    /// The registry; Docker Hub if none is named.
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

/// `logout`
#[derive(Debug, Clone, Args)]
pub struct LogoutArgs {
    /// The registry; Docker Hub if none is named.
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}
