//! Log messages.

use tower_promises_backend::BackendError;
use tower_promises_backend::kit::log;

/// Expired messages could not be deleted.
pub(super) fn sweep_failed(error: &BackendError) {
    let error: &dyn std::error::Error = error;
    log::warning!(
        error,
        "expired entries could not be deleted from the server"
    );
}

/// The time of the server could not be read.
pub(super) fn clock_not_set(error: &BackendError) {
    let error: &dyn std::error::Error = error;
    log::debug!(error, "the server does not say what time it has");
}

/// A stream was lost and has been created again.
pub(super) fn stream_made_again(stream: &str) {
    log::warning!(
        stream,
        "a stream was missing and is made again, empty: what was in it is lost"
    );
}
