//! Times as milliseconds, and what is left of them.

use async_nats::HeaderMap;
use std::time::{Duration, SystemTime};

/// A time that no server counts to the end. What comes too early is told the rest.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A time in headers and records: in milliseconds, rounded up, so that it is never too short.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A time in a header.
pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let milliseconds = headers.get(name)?.as_str().parse().ok()?;
    Some(Duration::from_millis(milliseconds))
}

/// How much is left of a time that began then: by the clock of this machine, of one that the server has stamped.
pub(super) fn left(began: SystemTime, time: Duration) -> Duration {
    let Some(end) = began.checked_add(time) else {
        // No clock gets there.
        return Duration::MAX;
    };
    end.duration_since(SystemTime::now()).unwrap_or_default()
}
