use super::MAX_SIGNAL_NAME_BYTES;
use crate::backend::BackendError;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a signal could not be sent, or was not received.
///
/// Names are as [`Signals::path`](super::Signals::path) makes them: with their namespaces.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SignalError {
    /// Nobody has sent the signal within the time that the wait was given.
    TimedOut {
        /// The name of the signal.
        name: Arc<str>,
        /// The time it was given.
        after: Duration,
    },
    /// There are as many waiters as there may be: of this name, or of all names together.
    TooManyWaiters {
        /// The name of the signal.
        name: Arc<str>,
        /// How many there may be.
        limit: usize,
    },
    /// The name has more than [`MAX_SIGNAL_NAME_BYTES`] bytes. Only its beginning is kept.
    NameTooLong {
        /// The beginning of the name.
        name: Arc<str>,
    },
    /// The value is too large to be sent.
    TooLarge {
        /// The name of the signal.
        name: Arc<str>,
        /// How many bytes it has as JSON.
        size: usize,
        /// How many bytes it may have.
        limit: usize,
    },
    /// The value that was to be sent cannot be serialised: it has a NaN or an infinity, say, or is nested more
    /// than 127 levels deep. serde's error is the [`source`](Error::source).
    Serialize {
        /// The name of the signal.
        name: Arc<str>,
        /// The type of the value.
        type_name: &'static str,
        /// What serde says.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The value that was received is not of the type that the waiter wants, or of another version of it. That
    /// ends this wait alone: other waiters get the value, and a latch stays. serde's error is the
    /// [`source`](Error::source), which may quote the value.
    WrongType {
        /// The name of the signal.
        name: Arc<str>,
        /// The type that the waiter wants.
        expected: &'static str,
        /// What serde says.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The backend has failed, see each method for what that means. Its error is the
    /// [`source`](Error::source).
    Backend {
        /// The name of the signal, empty where it concerns all.
        name: Arc<str>,
        /// What the backend says.
        error: BackendError,
    },
    /// No tokio runtime is running here.
    NoRuntime {
        /// The name of the signal, empty where it concerns all.
        name: Arc<str>,
    },
}

impl SignalError {
    /// The name of the signal, empty where the error concerns all.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::TimedOut { name, .. }
            | Self::TooManyWaiters { name, .. }
            | Self::NameTooLong { name }
            | Self::TooLarge { name, .. }
            | Self::Serialize { name, .. }
            | Self::WrongType { name, .. }
            | Self::Backend { name, .. }
            | Self::NoRuntime { name } => name,
        }
    }
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { name, after } => {
                write!(f, "nobody has sent signal `{name}` within {after:?}")
            }
            Self::TooManyWaiters { name, limit } => {
                write!(f, "signal `{name}`: there are already {limit} waiters")
            }
            Self::NameTooLong { name } => write!(
                f,
                "the name of a signal has more than {MAX_SIGNAL_NAME_BYTES} bytes: `{name}…`"
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
            Self::Backend { name, .. } if name.is_empty() => f.write_str("signals: backend failed"),
            Self::Backend { name, .. } => write!(f, "signal `{name}`: backend failed"),
            Self::NoRuntime { .. } => f.write_str("signals need a running tokio runtime"),
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
