use super::Key;
use super::excerpt::{Name, OneLine};
use http::StatusCode;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The reason why a promise has no value to read.
///
/// The text is always a single line and contains at most 256 bytes of the name.
///
/// [`Pending`](Self::Pending) is not a failure. Returned from a handler with `?` it ends the pass early, and the layer
/// discards the response that is made from it.
///
/// The error of a failed promise keeps its own type:
///
/// ```
/// use std::num::ParseIntError;
/// use tower_promises::{PromiseError, Promises};
///
/// async fn parse(text: &str) -> Result<u32, ParseIntError> {
///     text.parse()
/// }
///
/// fn page(promises: &Promises) -> Result<String, PromiseError> {
///     match promises.result_or_try_submit("number", || parse("many")) {
///         Ok(number) => Ok(number.to_string()),
///         // The page works without this number.
///         Err(PromiseError::Failed { error, .. }) if error.is::<ParseIntError>() => Ok("?".into()),
///         Err(error) => Err(error),
///     }
/// }
/// # use tower_promises::promise::PromiseResults;
/// # let error = "many".parse::<u32>().unwrap_err();
/// # let promises = Promises::with_results(PromiseResults::new().failed::<u32>("number", error));
/// # assert_eq!(page(&promises).unwrap(), "?");
/// ```
///
/// Each error knows its promise, and has a status for a response:
///
/// ```
/// use tower_promises::promise::PromiseResults;
/// use tower_promises::Promises;
///
/// let promises = Promises::with_results(PromiseResults::new().timed_out::<u32>("price"));
/// let error = promises.result::<u32>("price").unwrap_err();
/// assert_eq!(error.status(), 504);
/// assert_eq!(error.key().as_str(), "price");
/// assert!(!error.is_pending());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PromiseError {
    /// There is no promise with this name in this request.
    #[non_exhaustive]
    NotSubmitted {
        /// The requested name.
        key: Key,
    },
    /// The promise has not settled yet. The next pass reads the settled promise.
    #[non_exhaustive]
    Pending {
        /// The name of the promise.
        key: Key,
    },
    /// The promise ended with its own error.
    #[non_exhaustive]
    Failed {
        /// The name of the promise.
        key: Key,
        /// The error, shared by all readers.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The promise did not settle in time.
    #[non_exhaustive]
    TimedOut {
        /// The name of the promise.
        key: Key,
    },
    /// The promise panicked.
    #[non_exhaustive]
    Panicked {
        /// The name of the promise.
        key: Key,
        /// The panic message. `the panic had no message` if the payload is not a string.
        message: Arc<str>,
    },
    /// The promise was cancelled, or its request ended before it settled.
    #[non_exhaustive]
    Cancelled {
        /// The name of the promise.
        key: Key,
    },
    /// The handle's request has ended, and its promises with it, or the handle's pass is over and the promise would be
    /// a new one.
    #[non_exhaustive]
    Ended {
        /// The requested name.
        key: Key,
    },
    /// The promise could not be submitted.
    #[non_exhaustive]
    Rejected {
        /// The reason, with the name of the promise.
        error: SubmitError,
    },
    /// The promise has another type than the requested type.
    #[non_exhaustive]
    WrongType {
        /// The name of the promise.
        key: Key,
        /// The requested type.
        expected: &'static str,
        /// The type of the promise.
        found: &'static str,
    },
    /// The remembered value of a durable promise does not fit the requested type, for example because another version
    /// of the program has stored it. The value stays remembered, and a matching version can read it.
    #[non_exhaustive]
    Unreadable {
        /// The name of the promise.
        key: Key,
        /// The requested type.
        expected: &'static str,
        /// The type of the remembered value, if it is known.
        found: Option<Arc<str>>,
        /// The reason.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The outcome of a durable promise cannot be remembered, because it is too large or is no JSON. The promise runs
    /// again in the next run of the operation.
    #[non_exhaustive]
    NotRemembered {
        /// The name of the promise.
        key: Key,
        /// The reason.
        error: Arc<dyn Error + Send + Sync>,
    },
}

impl PromiseError {
    /// The name of the promise.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::NotSubmitted { key }
            | Self::Pending { key }
            | Self::Failed { key, .. }
            | Self::TimedOut { key }
            | Self::Panicked { key, .. }
            | Self::Cancelled { key }
            | Self::Ended { key }
            | Self::WrongType { key, .. }
            | Self::Unreadable { key, .. }
            | Self::NotRemembered { key, .. } => key,
            Self::Rejected { error } => error.key(),
        }
    }

    /// Whether the promise has not settled yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Pending { .. })
    }

    /// The status of a response for this error: 503 for a pending or rejected promise, 504 for a promise that timed
    /// out, otherwise 500. A pending promise has a 5xx status so that a transaction layer around the handler rolls
    /// back.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Pending { .. } | Self::Rejected { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for PromiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = Name(self.key());
        match self {
            Self::NotSubmitted { .. } => write!(f, "promise `{key}` has not been submitted"),
            Self::Pending { .. } => write!(f, "promise `{key}` has not settled yet"),
            Self::Failed { .. } => write!(f, "promise `{key}` failed"),
            Self::TimedOut { .. } => write!(f, "promise `{key}` timed out"),
            Self::Panicked { message, .. } => {
                write!(f, "promise `{key}` panicked: {}", OneLine(message))
            }
            Self::Cancelled { .. } => write!(f, "promise `{key}` was cancelled"),
            Self::Ended { .. } => write!(
                f,
                "promise `{key}` was asked for through the handle of a pass that is over"
            ),
            Self::Rejected { .. } => write!(f, "promise `{key}` was rejected"),
            Self::WrongType {
                expected, found, ..
            } => write_wrong_type(f, &key, expected, found),
            Self::Unreadable {
                expected, found, ..
            } => write!(
                f,
                "the remembered value of promise `{key}` does not fit: expected `{expected}`, remembered `{}`",
                OneLine(found.as_deref().unwrap_or("a value from outside"))
            ),
            Self::NotRemembered { .. } => {
                write!(f, "the outcome of promise `{key}` cannot be remembered")
            }
        }
    }
}

impl Error for PromiseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { error, .. }
            | Self::Unreadable { error, .. }
            | Self::NotRemembered { error, .. } => Some(&**error),
            Self::Rejected { error } => Some(error),
            _ => None,
        }
    }
}

/// The reason why a promise could not be submitted. Its future was dropped unpolled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SubmitError {
    /// The name has a settled promise. [`clear`](super::Promises::clear) it first.
    #[non_exhaustive]
    AlreadyResolved {
        /// The name of the promise.
        key: Key,
    },
    /// The name has a pending promise of another type.
    #[non_exhaustive]
    WrongType {
        /// The name of the promise.
        key: Key,
        /// The submitted type.
        expected: &'static str,
        /// The type of the pending promise.
        found: &'static str,
    },
    /// The request has reached its limit of promises. The request is rejected when the pass ends.
    #[non_exhaustive]
    TooManyPromises {
        /// The name of the promise.
        key: Key,
        /// The largest number of promises of a request.
        limit: usize,
    },
    /// The pass that the handle belongs to is over.
    #[non_exhaustive]
    Ended {
        /// The name of the promise.
        key: Key,
    },
    /// The pool for blocking promises has no room.
    #[non_exhaustive]
    Saturated {
        /// The name of the promise.
        key: Key,
    },
    /// Another promise has the request body.
    #[non_exhaustive]
    BodyTaken {
        /// The name of the promise.
        key: Key,
    },
    /// More of the request body has been read than was kept, so no promise can get the whole body.
    #[non_exhaustive]
    BodyRead {
        /// The name of the promise.
        key: Key,
    },
    /// Only a promise of a durable operation can be settled from outside.
    #[non_exhaustive]
    NotDurable {
        /// The name of the promise.
        key: Key,
    },
}

impl SubmitError {
    /// The name of the promise.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::AlreadyResolved { key }
            | Self::WrongType { key, .. }
            | Self::TooManyPromises { key, .. }
            | Self::Ended { key }
            | Self::Saturated { key }
            | Self::BodyTaken { key }
            | Self::BodyRead { key }
            | Self::NotDurable { key } => key,
        }
    }

    /// The error for a caller that wants the value.
    #[cold]
    #[expect(
        clippy::boxed_local,
        reason = "the error is boxed until here, because results with it are larger otherwise"
    )]
    pub(super) fn into_promise_error(self: Box<Self>) -> PromiseError {
        match *self {
            Self::Ended { key } => PromiseError::Ended { key },
            Self::WrongType {
                key,
                expected,
                found,
            } => PromiseError::WrongType {
                key,
                expected,
                found,
            },
            error => PromiseError::Rejected { error },
        }
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = Name(self.key());
        match self {
            Self::AlreadyResolved { .. } => write!(
                f,
                "promise `{key}` is already resolved, clear it to submit it again"
            ),
            Self::WrongType {
                expected, found, ..
            } => write_wrong_type(f, &key, expected, found),
            Self::TooManyPromises { limit, .. } => write!(
                f,
                "promise `{key}` is one more than the {limit} that a request may have"
            ),
            Self::Ended { .. } => write!(
                f,
                "promise `{key}` was submitted through the handle of a pass that is over"
            ),
            Self::Saturated { .. } => write!(
                f,
                "promise `{key}` finds no room in the pool for blocking promises"
            ),
            Self::BodyTaken { .. } => write!(
                f,
                "promise `{key}` comes too late: another promise reads the request body"
            ),
            Self::BodyRead { .. } => write!(
                f,
                "promise `{key}` comes too late: too much of the request body has been read"
            ),
            Self::NotDurable { .. } => write!(
                f,
                "promise `{key}` can be settled from outside in a durable operation only"
            ),
        }
    }
}

impl Error for SubmitError {}

fn write_wrong_type(
    f: &mut fmt::Formatter<'_>,
    key: &Name<'_>,
    expected: &str,
    found: &str,
) -> fmt::Result {
    write!(
        f,
        "promise `{key}` has the wrong type: expected `{expected}`, found `{found}`"
    )
}

/// The error of a settled promise, without the name of the promise.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Failed(Arc<dyn Error + Send + Sync>),
    TimedOut,
    Panicked(Arc<str>),
    Cancelled,
    #[cfg(feature = "blocking")]
    Saturated,
    #[cfg(feature = "operations")]
    Unreadable(Unreadable),
    #[cfg(feature = "operations")]
    NotRemembered(Arc<dyn Error + Send + Sync>),
}

/// A remembered value that does not fit the requested type.
#[cfg(feature = "operations")]
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    pub(super) expected: &'static str,
    pub(super) found: Option<Arc<str>>,
    pub(super) error: Arc<dyn Error + Send + Sync>,
}

impl Failure {
    pub(super) fn of(self, key: Key) -> PromiseError {
        match self {
            Self::Failed(error) => PromiseError::Failed { key, error },
            Self::TimedOut => PromiseError::TimedOut { key },
            Self::Panicked(message) => PromiseError::Panicked { key, message },
            Self::Cancelled => PromiseError::Cancelled { key },
            #[cfg(feature = "blocking")]
            Self::Saturated => PromiseError::Rejected {
                error: SubmitError::Saturated { key },
            },
            #[cfg(feature = "operations")]
            Self::Unreadable(Unreadable {
                expected,
                found,
                error,
            }) => PromiseError::Unreadable {
                key,
                expected,
                found,
                error,
            },
            #[cfg(feature = "operations")]
            Self::NotRemembered(error) => PromiseError::NotRemembered { key, error },
        }
    }
}

/// The error of code that needs [`Promises`](super::Promises) and finds none: there is no
/// [`PromiseLayer`](super::PromiseLayer) around the code, or the code runs in a separate task or thread.
///
/// As an axum response (feature `axum`) it is a 500 with a text that the server is misconfigured. The log names the
/// missing layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingPromiseLayer;

impl fmt::Display for MissingPromiseLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "`Promises` need `PromiseLayer` around the handler: add `.layer(PromiseLayer::new())` to the router, after \
             its routes; on another thread, and in a task of its own, code needs `Promises::scope` besides",
        )
    }
}

impl Error for MissingPromiseLayer {}
