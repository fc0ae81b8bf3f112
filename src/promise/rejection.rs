use super::Key;
use crate::problem;
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use std::error::Error;
use std::fmt;
use std::time::Duration;
#[cfg(feature = "spool")]
use std::{io, path::Path, sync::Arc};

/// The reason why the layer answered a request itself.
///
/// The layer inserts it into the extensions of the response, also of a custom response, so that an outer layer can
/// distinguish a rejection from a response of the service.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Rejection {
    /// Promises are pending, and more of the body was read than may be kept for the next pass. 413.
    #[non_exhaustive]
    BodyTooLarge {
        /// The largest number of bytes to keep.
        limit: usize,
    },
    /// Promises are pending, and the part of the body that exceeds the memory limit could not be written to a temporary
    /// file for the next pass. 503, because the fault is on the server, may be temporary, and another server may
    /// succeed. (507 would be more specific, but belongs to `WebDAV`.)
    #[cfg(feature = "spool")]
    #[non_exhaustive]
    SpoolFailed {
        /// The directory of the temporary file.
        directory: Arc<Path>,
        /// The I/O error, also available as [`source`](Error::source).
        error: Arc<io::Error>,
    },
    /// The whole request exceeded its timeout. 503.
    #[non_exhaustive]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// The request used all its passes, and the last pass requested a promise that is pending. 500.
    #[non_exhaustive]
    TooManyPasses {
        /// The largest number of passes.
        limit: usize,
        /// The promises that were pending at the end.
        pending: Vec<Key>,
    },
    /// The request submitted too many promises. 500.
    #[non_exhaustive]
    TooManyPromises {
        /// The largest number of promises.
        limit: usize,
    },
    /// The pool for blocking promises has no room. 503 with `Retry-After`.
    #[non_exhaustive]
    Saturated {
        /// The delay after which the client may retry.
        retry_after: Duration,
    },
}

impl Rejection {
    /// The status of the default response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            #[cfg(feature = "spool")]
            Self::SpoolFailed { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut { .. } | Self::Saturated { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyPasses { .. } | Self::TooManyPromises { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// The value of the label `kind` in metrics.
    #[cfg(feature = "metrics")]
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::BodyTooLarge { .. } => "body_too_large",
            #[cfg(feature = "spool")]
            Self::SpoolFailed { .. } => "spool_failed",
            Self::TimedOut { .. } => "timed_out",
            Self::Saturated { .. } => "saturated",
            Self::TooManyPasses { .. } => "too_many_passes",
            Self::TooManyPromises { .. } => "too_many_promises",
        }
    }

    fn detail(&self) -> &'static str {
        match self {
            Self::BodyTooLarge { .. } => "The request body is too large.",
            #[cfg(feature = "spool")]
            Self::SpoolFailed { .. } => "The request cannot be processed at the moment.",
            Self::TimedOut { .. } => "The request took too long.",
            Self::Saturated { .. } => "The server is busy. Try again later.",
            Self::TooManyPasses { .. } | Self::TooManyPromises { .. } => {
                "The request could not be completed."
            }
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BodyTooLarge { limit } => write!(
                f,
                "promises are pending, but more of the request body was read than the {limit} bytes \
                 that are kept for the next pass; raise {SETTINGS}, or register the promises before \
                 the body is read"
            ),
            #[cfg(feature = "spool")]
            Self::SpoolFailed { directory, .. } => write!(
                f,
                "promises are pending, but the request body could not be written to a temporary \
                 file in `{}` for the next pass; see to the directory given to \
                 `PromiseLayer::spool_dir`, or register the promises before the body is read",
                directory.display()
            ),
            Self::TimedOut { after } => write!(f, "the request took longer than {after:?}"),
            Self::TooManyPasses { limit, .. } => write!(
                f,
                "promises are still pending after {limit} passes: either each promise depends on \
                 the one before it in a chain that long (raise `PromiseLayer::max_passes`), or the \
                 keys differ in every pass (derive them from the request alone, never from the \
                 time, a counter or a random number)"
            ),
            Self::TooManyPromises { limit } => write!(
                f,
                "the request has registered more than {limit} promises; raise \
                 `PromiseLayer::max_promises`, or ask for many things in one promise"
            ),
            Self::Saturated { .. } => f.write_str(
                "the pool for blocking promises has no room; raise `BlockingPoolBuilder::max_running` or \
                 `BlockingPoolBuilder::max_waiting`, or admit fewer requests",
            ),
        }
    }
}

impl Error for Rejection {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            #[cfg(feature = "spool")]
            Self::SpoolFailed { error, .. } => Some(&**error),
            _ => None,
        }
    }
}

/// The settings that limit the kept bytes.
#[cfg(not(feature = "spool"))]
const SETTINGS: &str = "`PromiseLayer::max_body_bytes`";
#[cfg(feature = "spool")]
const SETTINGS: &str = "`PromiseLayer::max_body_bytes`, or `PromiseLayer::max_spool_bytes` if the \
                        layer has a `spool_dir`";

/// Builds the response for a request that the layer answers itself.
///
/// Implemented for any `Fn(Rejection) -> Response<B>`, so that a closure can be given to
/// [`PromiseLayer::on_rejection`](super::PromiseLayer::on_rejection).
///
/// Where a closure does not compile, implement the trait for a type of your own, for every body `B`. A closure fails
/// where a connection is spawned and the error of the response body is a boxed trait object: the compiler cannot show
/// that a closure, which returns one body type, returns that type for every lifetime of the trait object
/// ("implementation of `FnOnce` is not general enough", "one type is more general than the other").
///
/// ```
/// use http::Response;
/// use tower_promises::promise::ResponseForRejection;
/// use tower_promises::PromiseLayer;
/// use tower_promises::promise::Rejection;
///
/// #[derive(Clone)]
/// struct StatusOnly;
///
/// impl<B: Default> ResponseForRejection<B> for StatusOnly {
///     fn response_for_rejection(&self, rejection: Rejection) -> Response<B> {
///         let mut response = Response::new(B::default());
///         *response.status_mut() = rejection.status();
///         response
///     }
/// }
///
/// let layer = PromiseLayer::new().on_rejection(StatusOnly);
/// # let _ = layer;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot build a rejection with the response body `{B}`",
    label = "the default response needs a body that is `From<Bytes>`",
    note = "call `PromiseLayer::on_rejection` with a closure that builds the response, \
            or with `EmptyResponseForRejection` if the body is `Default`"
)]
pub trait ResponseForRejection<B> {
    /// Builds the response.
    fn response_for_rejection(&self, rejection: Rejection) -> Response<B>;
}

impl<F, B> ResponseForRejection<B> for F
where
    F: Fn(Rejection) -> Response<B>,
{
    fn response_for_rejection(&self, rejection: Rejection) -> Response<B> {
        self(rejection)
    }
}

/// The default [`ResponseForRejection`]: the rejection's status and a body in the format
/// `application/problem+json` ([RFC 9457]), for every response body that is `From<Bytes>`.
///
/// The text is the same for all rejections of a kind. Limits, keys and errors go only to the log.
///
/// [RFC 9457]: https://www.rfc-editor.org/rfc/rfc9457
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultResponseForRejection;

impl<B> ResponseForRejection<B> for DefaultResponseForRejection
where
    B: From<Bytes>,
{
    fn response_for_rejection(&self, rejection: Rejection) -> Response<B> {
        let mut response = problem::response(rejection.status(), rejection.detail());
        if let Rejection::Saturated { retry_after } = rejection {
            // In whole seconds (RFC 9110, section 10.2.3), rounded up, so that no client retries too early.
            let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A [`ResponseForRejection`] with the rejection's status and an empty body, for every response body that is
/// `Default`, for example a boxed body.
///
/// ```
/// use tower_promises::PromiseLayer;
/// use tower_promises::promise::EmptyResponseForRejection;
///
/// let layer = PromiseLayer::new().on_rejection(EmptyResponseForRejection);
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyResponseForRejection;

impl<B> ResponseForRejection<B> for EmptyResponseForRejection
where
    B: Default,
{
    fn response_for_rejection(&self, rejection: Rejection) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = rejection.status();
        response
    }
}
