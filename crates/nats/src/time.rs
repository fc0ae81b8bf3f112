//! Durations in milliseconds.

use async_nats::HeaderMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A time in headers and records: in milliseconds, rounded up, so that it is never too short.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Reads a duration from a header.
pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let milliseconds = headers.get(name)?.as_str().parse().ok()?;
    Some(Duration::from_millis(milliseconds))
}

/// The milliseconds since the first call in this process, by the monotonic clock.
pub(super) fn milliseconds_now() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX)
}
