//! What goes to the log.

/// What is no longer needed could not be deleted.
#[cfg(feature = "tracing")]
pub(super) fn sweep_failed(error: &sqlx::Error) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(target: "tower_promises", error, "expired entries could not be deleted from the database");
}

#[cfg(not(feature = "tracing"))]
pub(super) fn sweep_failed(_: &sqlx::Error) {}
