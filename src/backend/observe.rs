//! What goes to the log.

use super::BackendError;
use crate::log;
use std::error::Error;

/// No envelopes could be taken from a queue.
pub(super) fn take_failed(queue: &str, error: &BackendError) {
    let error: &dyn Error = error;
    log::warning!(
        queue,
        error,
        "the worker could not take from the queue and tries again"
    );
}

/// A lease could not be renewed this time.
pub(super) fn renew_failed(queue: &str, error: &BackendError) {
    let error: &dyn Error = error;
    log::warning!(
        queue,
        error,
        "the worker could not renew a lease and tries again"
    );
}

/// What became of an envelope could not be told this time.
pub(super) fn settle_failed(queue: &str, error: &BackendError) {
    let error: &dyn Error = error;
    log::warning!(
        queue,
        error,
        "the worker could not settle an envelope and tries again"
    );
}

/// An envelope will be delivered again, though a handler is at it or has ended.
pub(super) fn lease_lost(queue: &str, id: &str) {
    log::warning!(
        queue,
        id,
        "the worker has lost the lease of an envelope, which is delivered again"
    );
}

/// An envelope will be delivered again when its lease ends.
pub(super) fn handler_panicked(queue: &str, id: &str) {
    log::error!(queue, id, "the handler of an envelope has panicked");
}

/// The memory store has dropped the value that was not read for the longest time.
pub(super) fn entry_dropped(key: &str) {
    log::warning!(key, "the memory store is full and has dropped an entry");
}
