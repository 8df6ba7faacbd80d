//! Verbs on images.

use clap::{ArgAction, Args};

use crate::options::env;

/// `images`
#[derive(Debug, Clone, Args)]
pub struct ImagesArgs {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Only images of this name.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub repository: Option<String>,
}

/// `history`
#[derive(Debug, Clone, Args)]
pub struct HistoryArgs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    pub format: Option<String>,
    /// Print sizes and dates in human readable format (default true)
    #[arg(short = 'H', long, action = ArgAction::Set, num_args = 0..=1, default_value = "true")]
    pub human: bool,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// The image.
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `import`
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    pub change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long, value_name = "string")]
    pub message: Option<String>,
    /// Set platform of the image
    #[arg(long, value_name = "string")]
    pub platform: Option<String>,
    /// Who makes the files: auto, io_uring, threads (default from BULKHEAD_UNPACK, or auto)
    #[arg(long, value_name = "applier", value_parser = ["auto", "io_uring", "threads"])]
    pub unpack: Option<String>,
    /// The archive, `-` for standard input.
    #[arg(value_name = "file|-")]
    pub source: String,
    /// The new image's name.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
}

/// `image inspect`
#[derive(Debug, Clone, Args)]
pub struct ImageInspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "string")]
    pub format: Option<String>,
    /// The images.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// `load`
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Read from tar archive file or image directory, instead of STDIN
    #[arg(short, long, value_name = "string")]
    pub input: Option<String>,
    /// Load only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long, value_name = "string")]
    pub platform: Option<String>,
    /// Suppress the load output
    #[arg(short, long)]
    pub quiet: bool,
    /// Who makes the files: auto, io_uring, threads (default from BULKHEAD_UNPACK, or auto)
    #[arg(long, value_name = "applier", value_parser = ["auto", "io_uring", "threads"])]
    pub unpack: Option<String>,
}

/// `image prune`
#[derive(Debug, Clone, Args)]
pub struct ImagePruneArgs {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    pub all: bool,
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter", value_parser = env::filter)]
    pub filter: Vec<(String, String)>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
}

/// `rmi`
#[derive(Debug, Clone, Args)]
pub struct RmiArgs {
    /// Force removal of the image
    #[arg(short, long)]
    pub force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    pub no_prune: bool,
    /// The images.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// `save`
#[derive(Debug, Clone, Args)]
pub struct SaveArgs {
    /// Compress the layers: none, gzip, zstd (default none, as Docker writes them)
    #[arg(long, value_name = "format", value_parser = ["none", "gzip", "zstd"])]
    pub compression_format: Option<String>,
    /// How hard to compress: 1 to 9 for gzip (default 6), 1 to 22 for zstd (default 3)
    #[arg(long, value_name = "level")]
    pub compression_level: Option<u32>,
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    pub output: Option<String>,
    /// The images.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// `tag`
#[derive(Debug, Clone, Args)]
pub struct TagArgs {
    /// The image as it is named now.
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub source: String,
    /// The further name it gets.
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    pub target: String,
}
