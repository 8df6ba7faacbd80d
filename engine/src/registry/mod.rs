//! Registries: manifests and blobs over HTTP.
//!
//! Everything here blocks. A layer is read from the network by the very thread that inflates it, so that
//! back pressure is a socket that is not read; an async client would be a second scheduler between the two,
//! and a runtime in a process that clones containers. Nothing is started before a command asks for a
//! registry: [`Session`] opens its first connection with its first request.
//!
//! What a server says is never believed: documents are bounded ([`MAX_DOCUMENT`]) and compared with the
//! digest that names them, a blob ends where its descriptor says, an address to go to instead (`Location`)
//! gets no credentials unless it is the same origin, and neither it nor a token server may be reached by
//! plain HTTP when the registry is not.

mod auth;
mod client;
pub mod credentials;
mod http;
mod resolve;
pub mod search;
mod settings;
mod tls;

use std::path::PathBuf;

use crate::digest::Digest;

pub use client::{Blob, Content, Endpoint, Found, Manifest, Repository, Session};
pub use credentials::{Credentials, DockerConfig};
pub use search::Search;
pub use settings::Settings;

pub(crate) use http::printable;

/// Longest manifest, index, configuration or token that is read, in bytes: what registries themselves allow.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Why a registry could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine's configuration file cannot be used.
    #[error(transparent)]
    Operator(#[from] crate::operator::Error),
    /// No answer came, or none that is HTTP.
    #[error("{method} {url:?}: {reason}")]
    Transport {
        /// Go's spelling of the method: `Get`.
        method: &'static str,
        /// Where to.
        url: String,
        /// What happened.
        reason: String,
        /// Whether trying again may help.
        again: Again,
    },
    /// The registry wants to know who asks, and was told nothing or something else.
    #[error("{method} {url:?}: unauthorized: {message}")]
    Unauthorized {
        /// Go's spelling of the method.
        method: &'static str,
        /// Where to.
        url: String,
        /// The server's words.
        message: String,
    },
    /// Nobody is logged in, and the registry wants a password.
    #[error("{method} {url:?}: no basic auth credentials")]
    NoCredentials {
        /// Go's spelling of the method.
        method: &'static str,
        /// Where to.
        url: String,
    },
    /// The registry refuses.
    #[error("{method} {url:?}: received unexpected HTTP status: {status}{}", said(.message))]
    Status {
        /// Go's spelling of the method.
        method: &'static str,
        /// Where to.
        url: String,
        /// `500 Internal Server Error`.
        status: String,
        /// The registry's own words, if it has any.
        message: String,
    },
    /// The registry refuses, and says why in its own terms.
    #[error("{code}: {message}")]
    Refused {
        /// Its code, in Docker's spelling: `toomanyrequests`, `denied`.
        code: String,
        /// Its words.
        message: String,
    },
    /// There is no such repository, or it is not for everybody.
    #[error("pull access denied for {name}, repository does not exist or may require a login{}", said(.message))]
    Denied {
        /// The repository.
        name: String,
        /// The registry's own words, if it has any.
        message: String,
    },
    /// The repository has no such manifest.
    #[error("manifest for {reference} not found: manifest unknown: {message}")]
    ManifestUnknown {
        /// What was asked for.
        reference: String,
        /// The registry's words.
        message: String,
    },
    /// A document is longer than any should be.
    #[error("{what}: more than {limit} bytes: refused")]
    TooLong {
        /// The document.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A document is not what it should be.
    #[error("{what}: {reason}")]
    Document {
        /// The document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Content does not have the digest that names it.
    #[error("{what}: digest mismatch: expected {expected}, got {actual}")]
    Mismatch {
        /// The content.
        what: String,
        /// What names it.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// Content does not have the size that its descriptor states.
    #[error("{what}: size mismatch: expected {expected} bytes, got {actual}")]
    Size {
        /// The content.
        what: String,
        /// What the descriptor says.
        expected: u64,
        /// What came.
        actual: String,
    },
    /// The server sends us where we must not go.
    #[error("{method} {url:?}: {what} {to:?} is refused: {why}")]
    Elsewhere {
        /// Go's spelling of the method.
        method: &'static str,
        /// Where the request went.
        url: String,
        /// `redirect to`, `token server`.
        what: &'static str,
        /// Where it was to go.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// A certificate or key of the host's directory cannot be used.
    #[error("{path}: {reason}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A proxy's address is none.
    #[error("invalid proxy {0:?}")]
    Proxy(String),
    /// What Docker's client keeps cannot be read or written.
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    /// Another layer failed, and this one was given up.
    #[error("cancelled")]
    Cancelled,
}

/// Whether what went wrong on the way may go better a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It will not.
    No,
    /// It will not, and the server speaks TLS: there is no use in trying without.
    Tls,
    /// The connection broke.
    Broken,
    /// Nothing came for a long time; as long again would have to be waited.
    Silent,
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl Error {
    /// Whether trying again may help.
    fn is_transient(&self) -> bool {
        match self {
            Self::Transport { again, .. } => *again == Again::Broken,
            Self::Status { status, .. } => {
                matches!(status.split(' ').next(), Some("408" | "429" | "500" | "502" | "503" | "504"))
            }
            _ => false,
        }
    }
}
