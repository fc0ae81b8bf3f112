use crate::BoxError;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a backend could not do what it was asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BackendError {
    /// A key, topic, prefix, queue or id breaks the rules of [`check_name`](super::check_name). Trying again
    /// does not help.
    InvalidName {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A value or payload is too large. Trying again does not help.
    TooLarge {
        /// How many bytes it has.
        size: usize,
        /// How many bytes it may have.
        limit: usize,
    },
    /// The backend cannot do it at all. Trying again does not help.
    Unsupported {
        /// What it does not have, in the plural.
        what: &'static str,
    },
    /// The backend has no room for more at present. Nothing has changed.
    Full,
    /// The backend did not answer in time. Whether it has done what it was asked for is not known.
    TimedOut {
        /// The time it was given.
        after: Duration,
    },
    /// The backend cannot be reached, or has failed. Whether it has done what it was asked for is not known.
    Unavailable {
        /// What the adapter has to say about it.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// What is stored is not what this version of the program reads: another version has stored it. It stays as it is,
    /// and a version that knows it can read it.
    Unreadable {
        /// What serde says.
        error: Arc<dyn Error + Send + Sync>,
    },
}

impl BackendError {
    /// The error of an adapter whose backend cannot be reached, or has failed.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable {
            error: error.into().into(),
        }
    }

    /// The error of stored data that this version of the program cannot read.
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
            Self::Unavailable { error } | Self::Unreadable { error } => Some(&**error),
            _ => None,
        }
    }
}
