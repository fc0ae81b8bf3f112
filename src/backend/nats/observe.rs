//! What goes to the log.

use crate::backend::BackendError;

/// What is no longer needed could not be deleted.
#[cfg(feature = "tracing")]
pub(super) fn sweep_failed(error: &BackendError) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(target: "tower_promises", error, "what is over could not be deleted from the server");
}

#[cfg(not(feature = "tracing"))]
pub(super) fn sweep_failed(_: &BackendError) {}
