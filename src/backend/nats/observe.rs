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

#[cfg(not(feature = "tracing"))]
pub(super) fn clock_not_set(_: &BackendError) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn sweep_failed(_: &BackendError) {}
