//! What is said when something could not be done: Docker's status for it, and its message.

use bulkhead_engine::{build, container, filter, image, layer, network, registry, store, volume};
use hyper::StatusCode;

/// The answer to a request that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Docker's status.
    pub status: StatusCode,
    /// One line.
    pub message: String,
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
impl Error {
    fn new(status: StatusCode, message: impl ToString) -> Self {
        Self { status, message: message.to_string() }
    }

    /// What was asked makes no sense.
    pub fn bad(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// It is not there.
    pub fn missing(message: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// It is not in the state for that.
    pub fn conflict(message: impl ToString) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// More than is taken.
    pub fn too_large(message: impl ToString) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// Docker's API has it, this does not.
    pub fn not_served(what: impl ToString) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, what)
    }

    /// Nothing has to be done.
    pub fn not_modified() -> Self {
        Self::new(StatusCode::NOT_MODIFIED, "")
    }

    /// Something failed that the client can do nothing about.
    pub fn internal(message: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// What a registry says of the client itself, where it is asked for nothing but that.
    pub fn of_client(error: registry::Error) -> Self {
        use registry::Error as E;
        match error {
            E::Unauthorized { .. } | E::NoCredentials { .. } => Self::new(StatusCode::UNAUTHORIZED, error),
            other => other.into(),
        }
    }

    /// A thread of ours ended without an answer.
    pub fn lost() -> Self {
        Self::internal("the request was not answered: see what serve says")
    }
}

impl From<container::Error> for Error {
    fn from(error: container::Error) -> Self {
        use container::Error as E;
        let status = match error {
            E::Image(error) => return error.into(),
            E::Network(error) => return error.into(),
            E::Volume(error) => return error.into(),
            E::NoSuchContainer(_) | E::NoSuchFile { .. } => StatusCode::NOT_FOUND,
            E::NameInUse { .. }
            | E::RemoveRunning { .. }
            | E::AlreadyPaused(_)
            | E::NotPaused(_)
            | E::NotRunning(_)
            | E::Paused(..)
            | E::CannotKill(..)
            | E::IsRestarting(_)
            | E::JoinStopped { .. }
            | E::CommitRemoving(_) => StatusCode::CONFLICT,
            E::AmbiguousPrefix(_)
            | E::Invalid(_)
            | E::Log(_)
            | E::InvalidName(_)
            | E::Signal(_)
            | E::NoCommand
            | E::PsColumn(_)
            | E::CopyDirectory
            | E::NotADirectory
            | E::NoSuchDirectory
            // The container's own program, which is the client's choice.
            | E::Start { code: 126 | 127, .. } => StatusCode::BAD_REQUEST,
            E::ReadOnlyRoot | E::ReadOnlyVolume => StatusCode::FORBIDDEN,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error)
    }
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Self {
        use image::Error as E;
        let status = match error {
            E::Registry(error) => return error.into(),
            E::NoSuchImage(_) | E::NoSuchTag(_) | E::NoPlatform(_) | E::OtherPlatform { .. } => {
                StatusCode::NOT_FOUND
            }
            E::NameInUse { .. } | E::ManyNames(_) | E::Running { .. } | E::Stopped { .. } => {
                StatusCode::CONFLICT
            }
            E::AmbiguousPrefix(_)
            | E::Reference(_)
            | E::Digest(_)
            | E::TagDigest
            | E::Change(_)
            | E::NoManifest(_)
            | E::Missing(_)
            | E::Document { .. }
            | E::Archive(_)
            | E::Mismatch { .. }
            | E::DiffId { .. }
            | E::Size { .. } => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error)
    }
}

impl From<registry::Error> for Error {
    fn from(error: registry::Error) -> Self {
        use registry::Error as E;
        let status = match &error {
            E::Denied { .. } | E::ManifestUnknown { .. } => StatusCode::NOT_FOUND,
            // Docker's too: it is the registry that failed the engine, not the client.
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error)
    }
}

impl From<network::Error> for Error {
    fn from(error: network::Error) -> Self {
        use network::Error as E;
        let status = match &error {
            E::NotFound(_) | E::UnknownDriver(_) => StatusCode::NOT_FOUND,
            E::NameInUse(_) => StatusCode::CONFLICT,
            E::OnlyOne(_)
            | E::Predefined(..)
            | E::ActiveEndpoints { .. }
            | E::Overlap { .. }
            | E::AlreadyConnected { .. }
            | E::NoEndpoints(_)
            | E::SharedNamespace(_)
            | E::AddressInUse(_) => StatusCode::FORBIDDEN,
            E::Ambiguous(_)
            | E::InvalidName(_)
            | E::Subnet(_)
            | E::Address(_)
            | E::Mac(_)
            | E::TooSmall(_)
            | E::NoSubnetFor(_)
            | E::GatewayOutside(_)
            | E::RangeOutside(_)
            | E::Option { .. }
            | E::NoParent(_)
            | E::AddressOutside(_)
            | E::AddressOnAutomaticSubnet
            | E::AddressOnDefault
            | E::AliasOnDefault
            | E::Alias(_)
            | E::NotConnected { .. }
            | E::LinkTarget(_)
            | E::LinkElsewhere { .. }
            | E::LinkFormat(_)
            | E::Port(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error)
    }
}

impl From<volume::Error> for Error {
    fn from(error: volume::Error) -> Self {
        use volume::Error as E;
        let status = match &error {
            E::NotFound(_) => StatusCode::NOT_FOUND,
            E::InUse { .. } | E::MountedInside { .. } => StatusCode::CONFLICT,
            E::ShortName(_)
            | E::Name(_)
            | E::Driver { .. }
            | E::Option { .. }
            | E::MissingOption { .. }
            | E::Quota(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error)
    }
}

impl From<filter::Error> for Error {
    fn from(error: filter::Error) -> Self {
        match error {
            filter::Error::Invalid(_)
            | filter::Error::Health(_)
            | filter::Error::NetworkType(_)
            | filter::Error::Period { .. }
            | filter::Error::Moment(_) => Self::bad(error),
            filter::Error::Container(error) => error.into(),
            filter::Error::Image(error) => error.into(),
            filter::Error::Network(error) => error.into(),
            filter::Error::Volume(error) => error.into(),
            filter::Error::Layer(_) | filter::Error::Store(_) => Self::internal(error),
        }
    }
}

macro_rules! internal {
    ($($error:ty),*) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::internal(error)
            }
        })*
    };
}

internal!(store::Error, layer::Error, build::Error, bulkhead_engine::model::Error, std::io::Error);

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(format!("write JSON: {error}"))
    }
}
