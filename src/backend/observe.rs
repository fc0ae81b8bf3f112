//! What goes to the log.

#[cfg(feature = "tracing")]
use std::error::Error;

use super::BackendError;

/// No envelopes could be taken from a queue.
#[cfg(feature = "tracing")]
pub(super) fn take_failed(queue: &str, error: &BackendError) {
    let error: &dyn Error = error;
    tracing::warn!(target: "tower_promises", queue, error, "the worker could not take from the queue and tries again");
}

/// A lease could not be renewed this time.
#[cfg(feature = "tracing")]
pub(super) fn renew_failed(queue: &str, error: &BackendError) {
    let error: &dyn Error = error;
    tracing::warn!(target: "tower_promises", queue, error, "the worker could not renew a lease and tries again");
}

/// What became of an envelope could not be told this time.
#[cfg(feature = "tracing")]
pub(super) fn settle_failed(queue: &str, error: &BackendError) {
    let error: &dyn Error = error;
    tracing::warn!(target: "tower_promises", queue, error, "the worker could not settle an envelope and tries again");
}

/// An envelope will be delivered again, though a handler is at it or has ended.
#[cfg(feature = "tracing")]
pub(super) fn lease_lost(queue: &str, id: &str) {
    tracing::warn!(target: "tower_promises", queue, id, "the worker has lost the lease of an envelope, which is delivered again");
}

/// An envelope will be delivered again when its lease ends.
#[cfg(feature = "tracing")]
pub(super) fn handler_panicked(queue: &str, id: &str) {
    tracing::error!(target: "tower_promises", queue, id, "the handler of an envelope has panicked");
}

#[cfg(not(feature = "tracing"))]
pub(super) fn take_failed(_: &str, _: &BackendError) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn renew_failed(_: &str, _: &BackendError) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn settle_failed(_: &str, _: &BackendError) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn lease_lost(_: &str, _: &str) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn handler_panicked(_: &str, _: &str) {}
