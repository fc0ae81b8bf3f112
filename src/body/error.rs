use crate::BoxError;
use bytes::Bytes;
use http_body::Body;
use http_body_util::{Full, LengthLimitError, Limited};
use std::error::Error;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
#[cfg(feature = "spool")]
use std::{io, path::Path};

/// The reason why a [`ReplayBody`](super::ReplayBody) could not yield its next frame.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// The original body failed. The text is that of the body's own error, which is the [`source`](Error::source). All
    /// readers share this error.
    Body(Arc<dyn Error + Send + Sync>),
    /// A newer reader of the same body has taken over.
    Superseded,
    /// More bytes were read than may be kept, so the body cannot be read again.
    #[non_exhaustive]
    TooLarge {
        /// The largest number of bytes to keep.
        limit: usize,
    },
    /// Data beyond the memory limit could not be written to the temporary file, so the body cannot be read again, or it
    /// could not be read from the file.
    #[cfg(feature = "spool")]
    #[non_exhaustive]
    SpoolFailed {
        /// The directory of the temporary file.
        directory: Arc<Path>,
        /// The I/O error, also available as [`source`](Error::source).
        error: Arc<io::Error>,
    },
    /// The request has been answered, so its body is no longer kept.
    Released,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Handlers that show the error then show the same text as without the wrapper.
            Self::Body(error) => error.fmt(f),
            Self::Superseded => {
                f.write_str("the request body is being read again by a newer reader")
            }
            Self::TooLarge { limit } => write!(
                f,
                "more than {limit} bytes of the request body were read, it cannot be replayed"
            ),
            #[cfg(feature = "spool")]
            Self::SpoolFailed { .. } => {
                f.write_str("the temporary file of the request body could not be used")
            }
            Self::Released => {
                f.write_str("the request was answered, its body is not kept any longer")
            }
        }
    }
}

impl Error for ReplayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(error) => Some(&**error),
            #[cfg(feature = "spool")]
            Self::SpoolFailed { error, .. } => Some(&**error),
            Self::Superseded | Self::TooLarge { .. } | Self::Released => None,
        }
    }
}

/// The error of an original body, in a form that can be given to every reader.
#[derive(Clone, Debug)]
pub(super) enum BodyError {
    LengthLimit,
    Other(Arc<dyn Error + Send + Sync>),
}

impl BodyError {
    pub(super) fn new(error: BoxError) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
        while let Some(error) = cause {
            if error.is::<LengthLimitError>() {
                return Self::LengthLimit;
            }
            cause = error.source();
        }
        Self::Other(error.into())
    }

    pub(super) fn to_box_error(&self) -> BoxError {
        match self {
            Self::LengthLimit => length_limit_error(),
            Self::Other(error) => ReplayError::Body(Arc::clone(error)).into(),
        }
    }
}

/// Provokes the error, because `LengthLimitError` has no constructor and is not `Clone`.
fn length_limit_error() -> BoxError {
    let one_byte_too_many = pin!(Limited::new(Full::new(Bytes::from_static(b"x")), 0));
    match one_byte_too_many.poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Err(error))) => error,
        _ => "length limit exceeded".into(),
    }
}
