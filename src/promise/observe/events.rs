//! Log events. Without the feature `tracing` all of them compile to nothing.

use crate::log;
use crate::promise::excerpt::{Names, excerpt};
use crate::promise::{Key, PromiseError, Rejection};
use std::error::Error;

pub(in crate::promise) fn promise_failed(error: &PromiseError) {
    let key = &*excerpt(error.key());
    match error {
        PromiseError::Panicked { message, .. } => {
            log::error!(key, panic = &**message, "promise panicked");
        }
        PromiseError::TimedOut { .. } => log::warning!(key, "promise timed out"),
        PromiseError::Cancelled { .. } => log::debug!(key, "promise cancelled"),
        _ => {
            let source = error.source();
            if let Some(PromiseError::Pending { .. }) = source.and_then(|it| it.downcast_ref()) {
                log::warning!(
                    key,
                    error = source,
                    "promise failed because another one was pending: inside of a promise, await `resolve`"
                );
            } else {
                log::debug!(key, error = source, "promise failed");
            }
        }
    }
}

pub(in crate::promise) fn drop_panicked(key: &Key, message: &str) {
    log::error!(
        key = &*excerpt(key),
        panic = message,
        "promise panicked when it was dropped"
    );
}

pub(in crate::promise) fn waker_panicked(message: &str) {
    log::error!(
        panic = message,
        "the waker of a task that awaits promises panicked"
    );
}

pub(in crate::promise) fn response_discarded(pass: usize, parts: &http::Response<()>) {
    log::debug!(
        pass,
        status = parts.status().as_u16(),
        // Names only: values may be secrets.
        headers = ?parts.headers().keys().collect::<Vec<_>>(),
        "discarded the response of a pass"
    );
}

pub(in crate::promise) fn error_discarded(pass: usize, error: &'static str) {
    log::debug!(pass, error, "discarded the error of a pass");
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
    log::error!("a function given to `on_discard` panicked");
}

pub(in crate::promise) fn rejected(rejection: &Rejection) {
    #[cfg(feature = "metrics")]
    crate::metrics::rejected(rejection.kind());
    match rejection {
        Rejection::BodyTooLarge { .. }
        | Rejection::TimedOut { .. }
        | Rejection::Saturated { .. } => {
            log::warning!(%rejection, "rejected a request");
        }
        #[cfg(feature = "spool")]
        Rejection::SpoolFailed { error, .. } => {
            log::error!(%rejection, %error, "rejected a request");
        }
        Rejection::TooManyPasses { pending, .. } => {
            let pending = Names(pending);
            log::error!(%rejection, ?pending, "rejected a request");
        }
        Rejection::TooManyPromises { .. } => {
            log::error!(%rejection, "rejected a request");
        }
    }
}
