//! Limits that the adapters have in common, and how they are kept.

use super::BackendError;
use std::time::Duration;

/// How many bytes a value may have.
pub const DEFAULT_MAX_VALUE_BYTES: usize = 256 * 1024;

/// How many bytes a message of the bus may have.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// How many bytes the payload of an envelope may have.
pub const DEFAULT_MAX_ENVELOPE_BYTES: usize = 256 * 1024;

/// How many messages are kept in memory for a listener that falls behind.
pub const DEFAULT_BUS_CAPACITY: usize = 1024;

/// How many changes are kept in memory for a watcher that falls behind.
pub const DEFAULT_WATCH_CAPACITY: usize = 256;

/// For how long the id of an envelope is known. From when on, the adapter says.
pub const DEFAULT_DEDUPLICATION_WINDOW: Duration = Duration::from_secs(2 * 60);

/// Refuses what is too large.
pub(super) fn check_size(size: usize, limit: usize) -> Result<(), BackendError> {
    if size > limit {
        return Err(BackendError::TooLarge { size, limit });
    }
    Ok(())
}

/// A capacity that a channel can have: more than it can hold without a panic is far more than anyone wants.
pub(super) fn capacity(asked: usize) -> usize {
    asked.clamp(1, 1_000_000)
}
