use super::Key;
use super::excerpt::{Name, OneLine};
use http::StatusCode;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Why a promise has no value to read.
///
/// Its text is a single line whatever name and panic are, and has at most 256 bytes of the name.
///
/// [`Pending`](Self::Pending) is not a failure. Returned from a handler with `?` it ends the pass early;
/// the response it becomes is thrown away.
///
/// What a promise itself has failed with is there in its own type:
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
///         // The page can live without it.
///         Err(PromiseError::Failed { error, .. }) if error.is::<ParseIntError>() => Ok("?".into()),
///         Err(error) => Err(error),
///     }
/// }
/// # use tower_promises::PromiseResults;
/// # let error = "many".parse::<u32>().unwrap_err();
/// # let promises = Promises::with_results(PromiseResults::new().failed::<u32>("number", error));
/// # assert_eq!(page(&promises).unwrap(), "?");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PromiseError {
    /// Nobody has submitted a promise of this name in this request.
    NotSubmitted {
        /// The name asked for.
        key: Key,
    },
    /// The promise has been submitted and has not settled yet. The next pass will see it settled.
    Pending {
        /// The name of the promise.
        key: Key,
    },
    /// The promise ended with an error of its own.
    Failed {
        /// The name of the promise.
        key: Key,
        /// Its error, shared by everyone who reads it.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The promise did not settle in time.
    TimedOut {
        /// The name of the promise.
        key: Key,
    },
    /// The promise panicked.
    Panicked {
        /// The name of the promise.
        key: Key,
        /// The panic message, where it was a string.
        message: Arc<str>,
    },
    /// The promise was cancelled, or its request ended before it settled.
    Cancelled {
        /// The name of the promise.
        key: Key,
    },
    /// The request that the handle belongs to has ended, and its promises with it, or the pass has, and
    /// the promise would be a new one.
    Ended {
        /// The name asked for.
        key: Key,
    },
    /// The promise could not be submitted.
    Rejected {
        /// Why, and the name of the promise.
        error: SubmitError,
    },
    /// The promise has another type than the one asked for.
    WrongType {
        /// The name of the promise.
        key: Key,
        /// The type asked for.
        expected: &'static str,
        /// The type of the promise.
        found: &'static str,
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
            | Self::WrongType { key, .. } => key,
            Self::Rejected { error } => error.key(),
        }
    }

    /// Whether the value is merely not there yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Pending { .. })
    }

    /// The status of a response that stands for this error: 503 for a pending or rejected promise, so
    /// that a transaction layer around the handler rolls back, 504 for one that timed out, else 500.
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
        }
    }
}

impl Error for PromiseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { error, .. } => Some(&**error),
            Self::Rejected { error } => Some(error),
            _ => None,
        }
    }
}

/// Why a promise could not be submitted. Its future was dropped unpolled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SubmitError {
    /// The name has a settled promise already. [`clear`](super::Promises::clear) it first.
    AlreadyResolved {
        /// The name of the promise.
        key: Key,
    },
    /// The name has a pending promise of another type.
    WrongType {
        /// The name of the promise.
        key: Key,
        /// The type submitted now.
        expected: &'static str,
        /// The type of the promise that is there.
        found: &'static str,
    },
    /// The request has too many promises. It will be rejected when the pass ends.
    TooManyPromises {
        /// The name of the promise.
        key: Key,
        /// How many a request may have.
        limit: usize,
    },
    /// The pass that the handle belongs to is over.
    Ended {
        /// The name of the promise.
        key: Key,
    },
    /// The pool for blocking promises has no room.
    Saturated {
        /// The name of the promise.
        key: Key,
    },
    /// The body of the request has been handed to another promise.
    BodyTaken {
        /// The name of the promise.
        key: Key,
    },
    /// More of the request's body has been read than was kept, so it cannot be handed to a promise.
    BodyRead {
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
            | Self::BodyRead { key } => key,
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

/// What a reader of a promise does with a value that is not there yet.
pub trait OrPending<T>: Sized {
    /// Turns [`PromiseError::Pending`] into `placeholder` and leaves everything else as it is: a value
    /// stays a value, an error stays an error.
    ///
    /// The placeholder serves to get to the end of a pass whose response is thrown away anyhow, so
    /// that what comes after it can register its promises in the same pass.
    ///
    /// # Errors
    ///
    /// Any but [`PromiseError::Pending`].
    fn or_pending(self, placeholder: T) -> Result<T, PromiseError>;
}

impl<T> OrPending<T> for Result<T, PromiseError> {
    fn or_pending(self, placeholder: T) -> Self {
        match self {
            Err(PromiseError::Pending { key }) => {
                #[cfg(feature = "tracing")]
                if let Some(promises) = super::Promises::current() {
                    promises.registry().accept_placeholder(&key);
                }
                #[cfg(not(feature = "tracing"))]
                let _ = key;
                Ok(placeholder)
            }
            other => other,
        }
    }
}

/// An error of a settled promise that does not know its name yet.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Failed(Arc<dyn Error + Send + Sync>),
    TimedOut,
    Panicked(Arc<str>),
    Cancelled,
    #[cfg(feature = "blocking")]
    Saturated,
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
        }
    }
}

/// Why there are no [`Promises`](super::Promises): no [`PromiseLayer`](super::PromiseLayer) is around this code, or the
/// code runs in a task or thread of its own.
///
/// As an axum response (feature `axum`) it is a 500 that says that the server is misconfigured. The log says what is
/// missing.
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
