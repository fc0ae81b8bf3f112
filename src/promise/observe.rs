//! What the layer tells the operator. Without the feature `tracing` all of this is nothing.

use super::{PromiseError, Rejection};

pub(super) fn promise_failed(error: &PromiseError) {
    #[cfg(feature = "tracing")]
    {
        use std::error::Error;

        let key = error.key().as_str();
        match error {
            PromiseError::Panicked { .. } => tracing::error!(key, %error, "promise panicked"),
            PromiseError::TimedOut { .. } => tracing::warn!(key, "promise timed out"),
            PromiseError::Cancelled { .. } => tracing::debug!(key, "promise cancelled"),
            _ => tracing::debug!(key, error = error.source(), "promise failed"),
        }
    }
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

pub(super) fn response_discarded(pass: usize, parts: &http::Response<()>) {
    #[cfg(feature = "tracing")]
    tracing::debug!(
        pass,
        status = parts.status().as_u16(),
        headers = ?parts.headers(),
        "discarded the response of a pass"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (pass, parts);
}

pub(super) fn error_discarded(pass: usize, error: &'static str) {
    #[cfg(feature = "tracing")]
    tracing::debug!(pass, error, "discarded the error of a pass");
    #[cfg(not(feature = "tracing"))]
    let _ = (pass, error);
}

pub(super) fn undo_panicked() {
    #[cfg(feature = "tracing")]
    tracing::error!("a function given to `on_discard` panicked");
}

pub(super) fn rejected(rejection: &Rejection) {
    #[cfg(feature = "tracing")]
    match rejection {
        Rejection::BodyTooLarge { .. } | Rejection::TimedOut { .. } => {
            tracing::warn!(%rejection, "rejected a request");
        }
        Rejection::TooManyPasses { pending, .. } => {
            tracing::error!(%rejection, ?pending, "rejected a request");
        }
        Rejection::TooManyPromises { .. } => tracing::error!(%rejection, "rejected a request"),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = rejection;
}
