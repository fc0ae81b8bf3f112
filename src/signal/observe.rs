//! What signals tell the operator. Without the feature `tracing` all of this is nothing.

use crate::backend::BackendError;
use std::time::Duration;

/// The crate rather than this private module, so that filters need no knowledge of the latter.
#[cfg(feature = "tracing")]
const TARGET: &str = "tower_promises";

pub(super) fn bus_lost(error: Option<&BackendError>, pause: Duration) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: TARGET,
        error = error.map(|error| error as &(dyn std::error::Error + 'static)),
        ?pause,
        "the bus of signals is lost, it will be listened to again"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (error, pause);
}

pub(super) fn bus_lagged(missed: u64) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: TARGET, missed, "signals were lost, too many were sent at once");
    #[cfg(not(feature = "tracing"))]
    let _ = missed;
}

pub(super) fn bad_message(signal: &str, error: &serde_json::Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: TARGET, signal, %error, "a message on the bus is no signal");
    #[cfg(not(feature = "tracing"))]
    let _ = (signal, error);
}

/// The error may quote the value, so the log has only its place.
pub(super) fn wrong_type(signal: &str, expected: &str, error: &serde_json::Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: TARGET,
        signal,
        expected,
        column = error.column(),
        "a waiter cannot read the value of a signal, which may be that of another version"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (signal, expected, error);
}

pub(super) fn backend_failed(signal: &str, error: &BackendError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: TARGET,
        signal,
        error = error as &(dyn std::error::Error + 'static),
        "the backend of signals has failed"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (signal, error);
}
