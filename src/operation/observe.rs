//! What operations tell the operator. Without the feature `tracing` all of this is nothing.
//!
//! An id is a capability, so the log has eight characters of its digest instead, which is how [`Key`] displays.

use super::limits::Refusal;
use super::mount::UnreachableMount;
use super::record::Key;
use super::status::Status;
use crate::backend::BackendError;
use std::time::Duration;

/// The crate rather than this private module, so that filters need no knowledge of the latter.
#[cfg(feature = "tracing")]
const TARGET: &str = "tower_promises";

pub(super) fn began(key: &Key) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: TARGET, operation = %key, "a request has become an operation");
    #[cfg(not(feature = "tracing"))]
    let _ = key;
}

pub(super) fn ended(key: &Key, status: Status, code: Option<&str>) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: TARGET, operation = %key, %status, code, "an operation has ended");
    #[cfg(not(feature = "tracing"))]
    let _ = (key, status, code);
}

pub(super) fn not_remembered(key: &Key) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: TARGET, operation = %key, "an operation was refused, its idempotency key is free");
    #[cfg(not(feature = "tracing"))]
    let _ = key;
}

pub(super) fn panicked(key: &Key, message: &str) {
    #[cfg(feature = "tracing")]
    tracing::error!(target: TARGET, operation = %key, panic = message, "the work of an operation panicked");
    #[cfg(not(feature = "tracing"))]
    let _ = (key, message);
}

pub(super) fn service_failed(key: &Key, error: &(dyn std::error::Error + 'static)) {
    #[cfg(feature = "tracing")]
    tracing::error!(target: TARGET, operation = %key, error, "the inner service of an operation failed");
    #[cfg(not(feature = "tracing"))]
    let _ = (key, error);
}

pub(super) fn refused(refusal: Refusal) {
    #[cfg(feature = "tracing")]
    match refusal {
        Refusal::Principal => {
            tracing::warn!(target: TARGET, "refused a request, its principal has too many");
        }
        Refusal::PrincipalStored => {
            tracing::warn!(target: TARGET, "refused a request, too much of its principal is stored");
        }
        Refusal::PrincipalReceiving => {
            tracing::warn!(target: TARGET, "refused a request, its principal sends too many at once");
        }
        Refusal::TotalReceiving => {
            tracing::warn!(target: TARGET, "refused a request, too many are being received");
        }
        Refusal::Total => {
            tracing::warn!(target: TARGET, "refused a request, too many run or too much is stored");
        }
    }
    #[cfg(not(feature = "tracing"))]
    let _ = refusal;
}

pub(super) fn unreachable(error: &UnreachableMount) {
    #[cfg(feature = "tracing")]
    tracing::error!(target: TARGET, "operations are not reachable: {error}");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

pub(super) fn suspicious(error: &UnreachableMount) {
    #[cfg(feature = "tracing")]
    tracing::error!(target: TARGET, "no client has asked for an operation so far, perhaps because {error}");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

pub(super) fn stays_because_unreachable() {
    #[cfg(feature = "tracing")]
    tracing::debug!(
        target: TARGET,
        "a request cannot become an operation, because requests for operations do not reach `OperationLayer`"
    );
}

pub(super) fn too_slow() {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: TARGET, "refused a request, its body took too long to arrive");
}

pub(super) fn stays_on_connection(error: &BackendError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: TARGET,
        error = error as &(dyn std::error::Error + 'static),
        "a request cannot become an operation and stays on its connection"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

pub(super) fn backend_failed(key: &Key, error: &BackendError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: TARGET,
        operation = %key,
        error = error as &(dyn std::error::Error + 'static),
        "the backend of operations has failed"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (key, error);
}

pub(super) fn bus_lost(error: Option<&BackendError>, pause: Duration) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: TARGET,
        error = error.map(|error| error as &(dyn std::error::Error + 'static)),
        ?pause,
        "the bus of operations is lost, it will be listened to again"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (error, pause);
}
