//! The log of operations, and the counters of refusals and failures.
//!
//! An id is a capability, so the log contains eight characters of its digest instead, which [`Key`] displays.

use super::limits::Refusal;
use super::metrics::{self, BackendPart, Limit};
use super::mount::UnreachableMount;
use super::record::{Key, OperationStatus};
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::log;

pub(super) fn began(key: &Key, is_durable: bool) {
    metrics::started(is_durable);
    log::info!(operation = %key, "a request has become an operation");
}

pub(super) fn ended(key: &Key, status: OperationStatus, code: Option<&str>) {
    log::info!(operation = %key, %status, code, "an operation has ended");
}

pub(super) fn on_end_failed(key: &Key, error: &(dyn std::error::Error + 'static)) {
    log::warning!(operation = %key, error, "the application was not told of the end of an operation");
}

pub(super) fn teller_lost(error: Option<&BackendError>, pause: Duration) {
    metrics::backend_failed(BackendPart::Worker);
    log::error!(
        error = error.map(|error| error as &(dyn std::error::Error + 'static)),
        ?pause,
        "the worker that tells of ends has ended, it will be started again"
    );
}

/// Returns the span of a run.
pub(super) fn run(key: &Key, attempt: u32) -> tracing::Span {
    tracing::info_span!(target: "tower_promises", "operation", operation = %key, attempt)
}

pub(super) fn run_began(key: &Key, attempt: u32) {
    log::info!(operation = %key, attempt, "a run of a durable operation has begun");
}

pub(super) fn other_names(key: &Key) {
    log::warning!(operation = %key,
        "a run of a durable operation has requested none of the promises that are remembered, and others instead: \
        derive names from the request and from results, never from the time, a counter or a random number"
    );
}

pub(super) fn waits_for_room(key: &Key) {
    log::debug!(operation = %key, "a durable operation does not begin, too much is stored");
}

pub(super) fn not_taken_up(key: &Key) {
    log::warning!(operation = %key,
        "a durable operation has not begun while its client waited, and this process takes up none: call \
        `Operations::work`, unless other processes do"
    );
}

pub(super) fn beyond_lifetime(key: &Key) {
    log::warning!(operation = %key,
        "a durable promise waits longer than the lifetime of its operation, which is cancelled before: set a longer \
        `lifetime`"
    );
}

pub(super) fn sent_again(key: &Key) {
    log::info!(operation = %key, "a durable operation is sent again");
}

pub(super) fn suspended(key: &Key) {
    log::info!(operation = %key, "a durable operation is suspended");
}

pub(super) fn recovered(key: &Key, recoveries: u32) {
    metrics::recovered();
    log::warning!(operation = %key, recoveries, "a durable operation begins again, its last run was lost");
}

pub(super) fn not_accepted(error: &BackendError) {
    metrics::backend_failed(BackendPart::Call);
    log::warning!(
        error = error as &(dyn std::error::Error + 'static),
        "refused a durable request, it could not be stored"
    );
}

pub(super) fn unreadable_envelope() {
    log::error!(
        "the envelope of a durable operation cannot be read, another version has written it"
    );
}

pub(super) fn not_stored(key: &Key, error: &BackendError) {
    metrics::backend_failed(BackendPart::Call);
    log::warning!(operation = %key,
        error = error as &(dyn std::error::Error + 'static),
        "the memory of a durable operation could not be stored, it will be tried again"
    );
}

pub(super) fn not_remembered(key: &Key) {
    log::info!(operation = %key, "an operation was refused, its idempotency key is free");
}

pub(super) fn panicked(key: &Key, message: &str) {
    log::error!(operation = %key, panic = message, "the work of an operation panicked");
}

pub(super) fn service_failed(key: &Key, error: &(dyn std::error::Error + 'static)) {
    log::error!(operation = %key, error, "the inner service of an operation failed");
}

pub(super) fn refused(refusal: Refusal) {
    match refusal {
        Refusal::Principal => {
            metrics::refused(Limit::Principal);
            log::warning!("refused a request, its principal has too many");
        }
        Refusal::PrincipalStored => {
            metrics::refused(Limit::PrincipalStored);
            log::warning!("refused a request, too much of its principal is stored");
        }
        Refusal::PrincipalReceiving => {
            metrics::refused(Limit::PrincipalReceiving);
            log::warning!("refused a request, its principal sends too many at once");
        }
        Refusal::PrincipalOpen => {
            metrics::refused(Limit::PrincipalOpen);
            log::warning!("refused a request, its principal has too many durable operations");
        }
        Refusal::TotalOpen => {
            metrics::refused(Limit::TotalOpen);
            log::warning!("refused a request, there are too many durable operations");
        }
        Refusal::TotalReceiving => {
            metrics::refused(Limit::TotalReceiving);
            log::warning!("refused a request, too many are being received");
        }
        Refusal::Total => {
            metrics::refused(Limit::Total);
            log::warning!("refused a request, too many run or too much is stored");
        }
    }
}

pub(super) fn unreachable(error: &UnreachableMount) {
    log::error!("operations are not reachable: {error}");
}

pub(super) fn suspicious(error: &UnreachableMount) {
    log::error!("no client has asked for an operation so far, perhaps because {error}");
}

pub(super) fn stays_because_unreachable() {
    log::debug!(
        "a request cannot become an operation, because requests for operations do not reach `OperationLayer`"
    );
}

pub(super) fn too_slow() {
    metrics::refused(Limit::ReceiveTimeout);
    log::warning!("refused a request, its body took too long to arrive");
}

pub(super) fn stays_on_connection(error: &BackendError) {
    metrics::backend_failed(BackendPart::Call);
    log::warning!(
        error = error as &(dyn std::error::Error + 'static),
        "a request cannot become an operation and stays on its connection"
    );
}

pub(super) fn backend_failed(key: &Key, error: &BackendError) {
    metrics::backend_failed(BackendPart::Call);
    log::warning!(operation = %key,
        error = error as &(dyn std::error::Error + 'static),
        "the backend of operations has failed"
    );
}

pub(super) fn bus_lost(error: Option<&BackendError>, pause: Duration) {
    metrics::backend_failed(BackendPart::Bus);
    log::warning!(
        error = error.map(|error| error as &(dyn std::error::Error + 'static)),
        ?pause,
        "the bus of operations is lost, it will be listened to again"
    );
}
