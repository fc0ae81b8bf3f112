//! Log messages.

use std::error::Error;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::log;

/// Expired entries could not be deleted.
pub(super) fn sweep_failed(error: &BackendError) {
    let error: &dyn Error = error;
    log::warning!(
        error,
        "expired entries could not be deleted from the database"
    );
}

/// Dead rows could not be removed.
pub(super) fn vacuum_failed(error: &BackendError) {
    let error: &dyn Error = error;
    log::warning!(
        error,
        "dead rows could not be removed from the queue of the database"
    );
}

/// The connection for notifications is lost or could not be made.
pub(super) fn notifications_lost(error: &BackendError) {
    let error: &dyn Error = error;
    log::warning!(
        error,
        "the connection for notifications of the database is lost, and the process polls"
    );
}

/// Notifications do not arrive.
pub(super) fn notifications_missing() {
    log::warning!(
        "notifications of the database do not arrive, probably because of a pooler, and the process polls"
    );
}
