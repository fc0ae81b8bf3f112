//! Log messages.

use tower_promises_backend::kit::log;

/// Expired entries could not be deleted.
pub(super) fn sweep_failed(error: &sqlx::Error) {
    let error: &dyn std::error::Error = error;
    log::warning!(
        error,
        "expired entries could not be deleted from the database"
    );
}
