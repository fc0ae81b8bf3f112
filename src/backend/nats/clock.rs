//! The clock of the server, as this process knows it.

use crate::sync::lock;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// What time the server has. Its stamps are compared with nothing else: a clock of this machine may be another one, and
/// may be set. Between two samples the monotonic clock of the process counts on, which is never set.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The server had that time then, or a later one.
    sample: Mutex<Option<(SystemTime, Instant)>>,
}

impl Clock {
    /// Takes over a stamp that the server has made between two instants.
    pub(super) fn sample(&self, stamp: SystemTime, asked: Instant, answered: Instant) {
        let mut sample = lock(&self.sample);
        let latest = stamp.checked_add(answered.saturating_duration_since(asked));
        let present = sample.and_then(|sample| at(sample, answered));
        // Of two that agree, the one with the faster answer is more exact: it says later.
        let is_better = present.is_some_and(|present| {
            present >= stamp && latest.is_none_or(|latest| present <= latest)
        });
        if !is_better {
            *sample = Some((stamp, answered));
        }
    }

    /// How much is left of a time that began at a stamp of the server. It is at most as much longer as the fastest answer
    /// took, and never too short.
    pub(super) fn left(&self, began: SystemTime, time: Duration) -> Duration {
        let Some(end) = began.checked_add(time) else {
            // No clock gets there.
            return Duration::MAX;
        };
        let now = lock(&self.sample).and_then(|sample| at(sample, Instant::now()));
        // There is always a sample: the backend is not open before.
        let now = now.unwrap_or_else(SystemTime::now);
        end.duration_since(now).unwrap_or_default()
    }
}

/// What time it is by a sample.
fn at((stamp, then): (SystemTime, Instant), now: Instant) -> Option<SystemTime> {
    stamp.checked_add(now.saturating_duration_since(then))
}
