//! What goes to the log.

use crate::backend::BackendError;

/// What is no longer needed could not be deleted.
#[cfg(feature = "tracing")]
pub(super) fn sweep_failed(error: &BackendError) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(target: "tower_promises", error, "expired entries could not be deleted from the server");
}

/// What time the server has could not be asked.
#[cfg(feature = "tracing")]
pub(super) fn clock_not_set(error: &BackendError) {
    let error: &dyn std::error::Error = error;
    tracing::debug!(target: "tower_promises", error, "the server does not say what time it has");
}

/// A stream was there before, and had to be made anew.
#[cfg(feature = "tracing")]
pub(super) fn stream_made_again(stream: &str) {
    tracing::warn!(target: "tower_promises", stream, "a stream was missing and is made again, empty: what was in it is lost");
}

#[cfg(not(feature = "tracing"))]
pub(super) fn stream_made_again(_: &str) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn clock_not_set(_: &BackendError) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn sweep_failed(_: &BackendError) {}
