//! Log events of signals, and the counters of failures.

use super::metrics::{self, BackendPart};
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::log;

pub(super) fn bus_lost(error: Option<&BackendError>, pause: Duration) {
    metrics::backend_failed(BackendPart::Bus);
    log::warning!(
        error = error.map(|error| error as &(dyn std::error::Error + 'static)),
        ?pause,
        "the bus of signals is lost, it will be listened to again"
    );
}

pub(super) fn bus_lagged(missed: u64) {
    metrics::missed(missed);
    log::warning!(missed, "signals were lost, too many were sent at once");
}

pub(super) fn bad_message(signal: &str, error: &serde_json::Error) {
    metrics::backend_failed(BackendPart::Message);
    log::warning!(signal, %error, "a message on the bus is not a signal");
}

/// Logs only the position of the error, because its text may quote the value.
pub(super) fn wrong_type(signal: &str, expected: &str, error: &serde_json::Error) {
    log::warning!(
        signal,
        expected,
        column = error.column(),
        "a waiter cannot read the value of a signal, which another version may have sent"
    );
}

pub(super) fn backend_failed(signal: &str, error: &BackendError) {
    metrics::backend_failed(BackendPart::Call);
    log::warning!(
        signal,
        error = error as &(dyn std::error::Error + 'static),
        "the backend of signals has failed"
    );
}
