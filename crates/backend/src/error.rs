use crate::BoxError;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Error of a backend call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BackendError {
    /// A key, topic, prefix, queue or id violates the rules of [`check_name`](super::check_name). Retrying does not
    /// help.
    #[non_exhaustive]
    InvalidName {
        /// The violated rule.
        reason: &'static str,
    },
    /// A value or payload is too large. Retrying does not help.
    #[non_exhaustive]
    TooLarge {
        /// The size, in bytes.
        size: usize,
        /// The maximum size.
        limit: usize,
    },
    /// The backend does not support the operation. Retrying does not help.
    #[non_exhaustive]
    Unsupported {
        /// The unsupported feature, in the plural.
        what: &'static str,
    },
    /// The connection of the application cannot be used, because it is not in a transaction of the backend's database,
    /// for example. Nothing has changed. Retrying does not help.
    #[non_exhaustive]
    Refused {
        /// The reason, and what to do.
        reason: Arc<str>,
    },
    /// The database cannot serve a transaction of the application because of another one. The application must roll its
    /// transaction back, and may repeat it from its beginning.
    #[non_exhaustive]
    Conflict {
        /// The error of the adapter.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The backend has no room at present. Nothing has changed.
    Full,
    /// The backend did not answer in time. The call may or may not have taken effect.
    #[non_exhaustive]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// The backend cannot be reached, or has failed. The call may or may not have taken effect.
    #[non_exhaustive]
    Unavailable {
        /// The error of the adapter.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The stored data cannot be read by this version of the program, because another version has written it. The data
    /// stays stored, and a matching version can read it.
    #[non_exhaustive]
    Unreadable {
        /// The error of serde.
        error: Arc<dyn Error + Send + Sync>,
    },
}

impl BackendError {
    /// Creates the error of a key, topic, prefix, queue or id that violates this rule.
    #[must_use]
    pub const fn invalid_name(reason: &'static str) -> Self {
        Self::InvalidName { reason }
    }

    /// Creates the error of a value or payload that is too large. The sizes are in bytes.
    #[must_use]
    pub const fn too_large(size: usize, limit: usize) -> Self {
        Self::TooLarge { size, limit }
    }

    /// Creates the error of an operation that the backend does not support. `what` names the feature, in the plural.
    #[must_use]
    pub const fn unsupported(what: &'static str) -> Self {
        Self::Unsupported { what }
    }

    /// Creates the error of a connection that cannot be used. `reason` says why, and what to do.
    pub fn refused(reason: impl Into<Arc<str>>) -> Self {
        Self::Refused {
            reason: reason.into(),
        }
    }

    /// Creates the error of a transaction that must be rolled back because of another one.
    pub fn conflict(error: impl Into<BoxError>) -> Self {
        Self::Conflict {
            error: error.into().into(),
        }
    }

    /// Creates the error of a backend that did not answer within this time.
    #[must_use]
    pub const fn timed_out(after: Duration) -> Self {
        Self::TimedOut { after }
    }

    /// Creates the error of a backend that cannot be reached or has failed.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable {
            error: error.into().into(),
        }
    }

    /// Creates the error of stored data that this version of the program cannot read.
    pub fn unreadable(error: impl Into<BoxError>) -> Self {
        Self::Unreadable {
            error: error.into().into(),
        }
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName { reason } => write!(f, "invalid name: {reason}"),
            Self::TooLarge { size, limit } => {
                write!(f, "{size} bytes are more than the {limit} that are allowed")
            }
            Self::Unsupported { what } => write!(f, "the backend does not support {what}"),
            Self::Refused { reason } => write!(f, "the transaction cannot be joined: {reason}"),
            Self::Conflict { .. } => {
                f.write_str("the transaction conflicts with another one and must be rolled back")
            }
            Self::Full => f.write_str("the backend is full"),
            Self::TimedOut { after } => write!(f, "the backend did not answer within {after:?}"),
            Self::Unavailable { .. } => f.write_str("the backend is not available"),
            Self::Unreadable { .. } => f.write_str("this version cannot read what is stored"),
        }
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Conflict { error } | Self::Unavailable { error } | Self::Unreadable { error } => {
                Some(&**error)
            }
            _ => None,
        }
    }
}
