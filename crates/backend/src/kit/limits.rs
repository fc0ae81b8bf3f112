//! Limits that the adapters share, and functions that enforce them.

use crate::BackendError;
use std::time::Duration;

/// The default maximum size of a value: 256 KiB.
pub const DEFAULT_MAX_VALUE_BYTES: usize = 256 * 1024;

/// The default maximum size of a bus message: 64 KiB.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// The default maximum size of the payload of an envelope: 256 KiB.
pub const DEFAULT_MAX_ENVELOPE_BYTES: usize = 256 * 1024;

/// The default number of messages that are buffered for a listener that falls behind: 1024.
pub const DEFAULT_BUS_CAPACITY: usize = 1024;

/// The default number of changes that are buffered for a watcher that falls behind: 256.
pub const DEFAULT_WATCH_CAPACITY: usize = 256;

/// The default time for which the id of an envelope stays known: 2 minutes. Each adapter documents when the time
/// starts.
pub const DEFAULT_DEDUPLICATION_WINDOW: Duration = Duration::from_secs(2 * 60);

/// The default lease of an envelope: 30 seconds.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// Returns an error if the size exceeds the limit.
pub fn check_size(size: usize, limit: usize) -> Result<(), BackendError> {
    if size > limit {
        return Err(BackendError::TooLarge { size, limit });
    }
    Ok(())
}

/// Clamps a capacity to 1 to 1,000,000. tokio's channel panics on very large capacities.
pub fn capacity(asked: usize) -> usize {
    asked.clamp(1, 1_000_000)
}

/// The number of rows of a table that a setting allows.
pub fn rows(asked: usize) -> u32 {
    u32::try_from(asked).unwrap_or(u32::MAX)
}

/// The number of entries of a page.
pub fn page_limit(asked: usize) -> usize {
    asked.clamp(1, 1000)
}
