//! Log events. Without the feature `tracing` all of them compile to nothing.

#[cfg(feature = "tracing")]
use crate::promise::excerpt::{Names, excerpt};
use crate::promise::{Key, PromiseError, Rejection};

/// The name of the crate instead of this private module, so that filters do not depend on the module structure.
#[cfg(feature = "tracing")]
pub(super) const TARGET: &str = "tower_promises";

pub(in crate::promise) fn promise_failed(error: &PromiseError) {
    #[cfg(feature = "tracing")]
    {
        use std::error::Error;

        let key = &*excerpt(error.key());
        match error {
            PromiseError::Panicked { message, .. } => {
                tracing::error!(target: TARGET, key, panic = &**message, "promise panicked");
            }
            PromiseError::TimedOut { .. } => {
                tracing::warn!(target: TARGET, key, "promise timed out");
            }
            PromiseError::Cancelled { .. } => {
                tracing::debug!(target: TARGET, key, "promise cancelled");
            }
            _ => {
                let source = error.source();
                if let Some(PromiseError::Pending { .. }) = source.and_then(|it| it.downcast_ref())
                {
                    tracing::warn!(
                        target: TARGET,
                        key,
                        error = source,
                        "promise failed because another one was pending: inside of a promise, await `resolve`"
                    );
                } else {
                    tracing::debug!(target: TARGET, key, error = source, "promise failed");
                }
            }
        }
    }
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

pub(in crate::promise) fn drop_panicked(key: &Key, message: &str) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        target: TARGET,
        key = &*excerpt(key),
        panic = message,
        "promise panicked when it was dropped"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (key, message);
}

pub(in crate::promise) fn response_discarded(pass: usize, parts: &http::Response<()>) {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: TARGET,
        pass,
        status = parts.status().as_u16(),
        // Names only: values may be secrets.
        headers = ?parts.headers().keys().collect::<Vec<_>>(),
        "discarded the response of a pass"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (pass, parts);
}

pub(in crate::promise) fn error_discarded(pass: usize, error: &'static str) {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: TARGET, pass, error, "discarded the error of a pass");
    #[cfg(not(feature = "tracing"))]
    let _ = (pass, error);
}

/// Makes a closure for another thread that runs in the current span of this thread.
#[cfg(feature = "blocking")]
pub(in crate::promise) fn in_present_span<R>(f: impl FnOnce() -> R) -> impl FnOnce() -> R {
    #[cfg(feature = "tracing")]
    {
        let span = tracing::Span::current();
        move || span.in_scope(f)
    }
    #[cfg(not(feature = "tracing"))]
    f
}

pub(in crate::promise) fn undo_panicked() {
    #[cfg(feature = "tracing")]
    tracing::error!(target: TARGET, "a function given to `on_discard` panicked");
}

pub(in crate::promise) fn rejected(rejection: &Rejection) {
    #[cfg(feature = "metrics")]
    crate::observe::metrics::rejected(rejection.kind());
    #[cfg(feature = "tracing")]
    match rejection {
        Rejection::BodyTooLarge { .. }
        | Rejection::TimedOut { .. }
        | Rejection::Saturated { .. } => {
            tracing::warn!(target: TARGET, %rejection, "rejected a request");
        }
        #[cfg(feature = "spool")]
        Rejection::SpoolFailed { error, .. } => {
            tracing::error!(target: TARGET, %rejection, %error, "rejected a request");
        }
        Rejection::TooManyPasses { pending, .. } => {
            let pending = Names(pending);
            tracing::error!(target: TARGET, %rejection, ?pending, "rejected a request");
        }
        Rejection::TooManyPromises { .. } => {
            tracing::error!(target: TARGET, %rejection, "rejected a request");
        }
    }
    #[cfg(not(feature = "tracing"))]
    let _ = rejection;
}
