//! Wall-clock time as it is stored: in milliseconds since the Unix epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest duration that is counted: a hundred years. It can be added to any time.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The present time. A clock before the epoch is at the epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    milliseconds(since.unwrap_or_default())
}

/// A duration, rounded down.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time of a stored number. The epoch if the number is too large for a time.
pub fn time(milliseconds: u64) -> SystemTime {
    let since = Duration::from_millis(milliseconds);
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, milliseconds, now, time};
    use std::time::{Duration, Instant, SystemTime};

    #[test]
    fn times_are_stored_and_read_again() {
        let now = now();
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        assert!(since >= Duration::from_millis(now));
        assert_eq!(
            milliseconds(time(now).duration_since(time(0)).unwrap_or_default()),
            now
        );
        assert_eq!(milliseconds(Duration::from_micros(1999)), 1);
        assert_eq!(milliseconds(Duration::MAX), u64::MAX);
        let _ = time(u64::MAX);
        assert!(Instant::now().checked_add(LONGEST).is_some());
    }
}
