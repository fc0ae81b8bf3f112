use super::name::MAX_NAME_BYTES;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::BackendError;

/// Error of sending or waiting for a signal.
///
/// Names include their namespaces, as returned by [`Signals::path`](super::Signals::path).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SignalError {
    /// The signal was not sent within the timeout of the wait.
    #[non_exhaustive]
    TimedOut {
        /// The name of the signal.
        name: Arc<str>,
        /// The timeout.
        after: Duration,
    },
    /// The limit on waiters is reached, for this name or for all names together.
    #[non_exhaustive]
    TooManyWaiters {
        /// The name of the signal.
        name: Arc<str>,
        /// The limit.
        limit: usize,
    },
    /// The name with its namespaces has more than 512 bytes, after `/`, `%` and control characters were escaped.
    #[non_exhaustive]
    NameTooLong {
        /// The beginning of the name.
        beginning: Arc<str>,
    },
    /// The value is too large.
    #[non_exhaustive]
    TooLarge {
        /// The name of the signal.
        name: Arc<str>,
        /// The size of the value, in bytes of JSON.
        size: usize,
        /// The maximum size.
        limit: usize,
    },
    /// The value cannot be serialised: it contains a NaN or an infinity, for example, or is nested more than 127 levels
    /// deep. The error of serde is the [`source`](Error::source).
    #[non_exhaustive]
    Serialize {
        /// The name of the signal.
        name: Arc<str>,
        /// The type of the value.
        type_name: &'static str,
        /// The error of serde.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The received value cannot be read as the expected type, or was written by another version of the type. Only this
    /// wait fails: other waiters get the value, and a latch stays. The error of serde is the [`source`](Error::source),
    /// and may quote the value.
    #[non_exhaustive]
    WrongType {
        /// The name of the signal.
        name: Arc<str>,
        /// The expected type.
        expected: &'static str,
        /// The error of serde.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The backend has failed. Each method documents the consequences. The error of the backend is the
    /// [`source`](Error::source).
    #[non_exhaustive]
    Backend {
        /// The name of the signal. `None` if the error concerns all signals.
        name: Option<Arc<str>>,
        /// The error of the backend.
        error: BackendError,
    },
    /// The caller is not inside of a tokio runtime.
    NoRuntime,
}

impl SignalError {
    /// Returns the name of the signal. `None` if the name is too long, and if the error concerns all signals.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::TimedOut { name, .. }
            | Self::TooManyWaiters { name, .. }
            | Self::TooLarge { name, .. }
            | Self::Serialize { name, .. }
            | Self::WrongType { name, .. } => Some(name),
            Self::Backend { name, .. } => name.as_deref(),
            Self::NameTooLong { .. } | Self::NoRuntime => None,
        }
    }
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { name, after } => {
                write!(f, "signal `{name}` was not sent within {after:?}")
            }
            Self::TooManyWaiters { name, limit } => {
                write!(f, "signal `{name}`: there are already {limit} waiters")
            }
            Self::NameTooLong { beginning } => write!(
                f,
                "the name of a signal has more than {MAX_NAME_BYTES} bytes: `{beginning}…`"
            ),
            Self::TooLarge { name, size, limit } => write!(
                f,
                "signal `{name}`: the value has {size} bytes, more than the {limit} that are allowed"
            ),
            Self::Serialize {
                name, type_name, ..
            } => write!(f, "signal `{name}`: a `{type_name}` cannot be serialised"),
            Self::WrongType { name, expected, .. } => {
                write!(f, "signal `{name}`: what was sent is not a `{expected}`")
            }
            Self::Backend { name: None, .. } => f.write_str("signals: backend failed"),
            Self::Backend {
                name: Some(name), ..
            } => write!(f, "signal `{name}`: backend failed"),
            Self::NoRuntime => f.write_str("signals need a running tokio runtime"),
        }
    }
}

impl Error for SignalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Serialize { error, .. } | Self::WrongType { error, .. } => Some(&**error),
            Self::Backend { error, .. } => Some(error),
            _ => None,
        }
    }
}
