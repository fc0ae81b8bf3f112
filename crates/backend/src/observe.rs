//! Log events and counters of workers and of the memory store.

use super::BackendError;
use super::metrics::{self, Call};
use crate::kit::log;
use std::error::Error;

/// Logs that envelopes could not be taken from a queue.
pub(super) fn take_failed(queue: &str, error: &BackendError) {
    metrics::failed(Call::Take);
    let error: &dyn Error = error;
    log::warning!(
        queue,
        error,
        "the worker could not take from the queue and tries again"
    );
}

/// Logs that a call to renew a lease failed.
pub(super) fn renew_failed(queue: &str, error: &BackendError) {
    metrics::failed(Call::Renew);
    let error: &dyn Error = error;
    log::warning!(
        queue,
        error,
        "the worker could not renew a lease and tries again"
    );
}

/// Logs that a call to settle an envelope failed.
pub(super) fn settle_failed(queue: &str, error: &BackendError) {
    metrics::failed(Call::Settle);
    let error: &dyn Error = error;
    log::warning!(
        queue,
        error,
        "the worker could not settle an envelope and tries again"
    );
}

/// Logs that an envelope will be delivered again, although its handler runs or has ended.
pub(super) fn lease_lost(queue: &str, id: &str) {
    metrics::lost_lease();
    log::warning!(
        queue,
        id,
        "the worker has lost the lease of an envelope, which is delivered again"
    );
}

/// Logs a panic of a handler. The envelope will be delivered again when its lease ends.
pub(super) fn handler_panicked(queue: &str, id: &str) {
    metrics::failed(Call::Handle);
    log::error!(queue, id, "the handler of an envelope has panicked");
}

/// Logs that the memory store has dropped its least recently used entry.
pub(super) fn entry_dropped(key: &str) {
    log::warning!(key, "the memory store is full and has dropped an entry");
}
