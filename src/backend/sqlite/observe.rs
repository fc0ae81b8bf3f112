//! Log messages.

use crate::log;

/// Expired entries could not be deleted.
pub(super) fn sweep_failed(error: &sqlx::Error) {
    let error: &dyn std::error::Error = error;
    log::warning!(
        error,
        "expired entries could not be deleted from the database"
    );
}
