//! The clock of the server, as this process knows it.

use crate::sync::lock;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// By how much a sample may differ from what was expected before the clock of the server counts as set. Servers of a
/// cluster differ too.
const TOLERANCE: Duration = Duration::from_secs(2);

/// How old a sample may be when something is found to be over.
const FRESH: Duration = Duration::from_secs(1);

/// What time the server has. Its stamps are compared with nothing else: a clock of this machine may be another one, and
/// may be set. Between two samples the monotonic clock of the process counts on, which is never set.
#[derive(Debug, Default)]
pub(super) struct Clock {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    present: Option<Sample>,
    /// The sample before the clock of the server was set, and until when stamps are of that time.
    before: Option<(Sample, SystemTime)>,
    /// When the server was last asked.
    asked: Option<Instant>,
}

/// The server had that time then, or a later one.
#[derive(Clone, Copy, Debug)]
struct Sample {
    stamp: SystemTime,
    then: Instant,
}

impl Sample {
    /// What time it is by it. A time that no clock shows is the end.
    fn at(self, now: Instant) -> SystemTime {
        let elapsed = now.saturating_duration_since(self.then);
        self.stamp.checked_add(elapsed).unwrap_or(self.stamp)
    }
}

impl Clock {
    /// Takes over a stamp that the server has made between two instants.
    pub(super) fn sample(&self, stamp: SystemTime, asked: Instant, answered: Instant) {
        let mut state = lock(&self.state);
        state.asked = Some(answered);
        let sample = Sample {
            stamp,
            then: answered,
        };
        if let Some(present) = state.present {
            let expected = present.at(answered);
            let latest = Sample { stamp, then: asked }.at(answered);
            if (stamp..=latest).contains(&expected) {
                // Of two that agree, the one with the faster answer is more exact: it says later.
                return;
            }
            let difference = expected.duration_since(stamp);
            let difference = difference.unwrap_or_else(|error| error.duration());
            if difference > TOLERANCE {
                state.before = Some((present, expected));
            }
        }
        state.present = Some(sample);
    }

    /// Whether the server was asked not long ago.
    pub(super) fn is_fresh(&self) -> bool {
        let asked = lock(&self.state).asked;
        asked.is_some_and(|asked| asked.elapsed() < FRESH)
    }

    /// How much is left of a time that began at a stamp of the server. It is at most as much longer as the fastest answer
    /// took, and never too short.
    pub(super) fn left(&self, began: SystemTime, time: Duration) -> Duration {
        self.left_at(began, time, Instant::now())
    }

    fn left_at(&self, began: SystemTime, time: Duration, now: Instant) -> Duration {
        let Some(end) = began.checked_add(time) else {
            // No clock gets there.
            return Duration::MAX;
        };
        let state = lock(&self.state);
        // There is always a sample: the backend is not open before.
        let present = state.present.map_or_else(SystemTime::now, |it| it.at(now));
        let now = match state.before {
            // Stamps of before it was set forward are not of the time that was left out, and those that are ahead of the
            // present are of before it was set back.
            Some((before, until)) => {
                let before = before.at(now);
                let is_of_before = match before < present {
                    true => began <= until,
                    false => began > present,
                };
                if is_of_before { before } else { present }
            }
            None => present,
        };
        end.duration_since(now).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_secs(600);
    const LEASE: Duration = Duration::from_secs(15);

    /// A clock that has seen the server set by ten minutes, ten seconds after the first sample. Returns the time of the
    /// server at that moment, before it was set.
    fn set(is_forward: bool) -> (Clock, Instant, SystemTime) {
        let (clock, then) = (Clock::default(), Instant::now());
        let stamp = SystemTime::UNIX_EPOCH + STEP * 1000;
        clock.sample(stamp, then, then);
        let (now, time) = (then + SECOND * 10, stamp + SECOND * 10);
        let is = if is_forward { time + STEP } else { time - STEP };
        clock.sample(is, now, now);
        (clock, now, time)
    }

    #[test]
    fn a_lease_of_before_goes_on_when_the_server_is_set() {
        for is_forward in [true, false] {
            let (clock, now, time) = set(is_forward);
            let began = time - SECOND * 5;
            assert_eq!(clock.left_at(began, LEASE, now), SECOND * 10);
            let later = now + SECOND * 9;
            assert_eq!(clock.left_at(began, LEASE, later), SECOND);
            let over = now + SECOND * 11;
            assert!(clock.left_at(began, LEASE, over).is_zero());
        }
    }

    #[test]
    fn a_lease_of_after_has_its_time() {
        for is_forward in [true, false] {
            let (clock, now, time) = set(is_forward);
            let is = if is_forward { time + STEP } else { time - STEP };
            let began = is + SECOND;
            let now = now + SECOND * 2;
            assert_eq!(clock.left_at(began, LEASE, now), SECOND * 14);
            let over = now + LEASE;
            assert!(clock.left_at(began, LEASE, over).is_zero());
        }
    }

    #[test]
    fn the_faster_answer_counts() {
        let (clock, then) = (Clock::default(), Instant::now());
        let stamp = SystemTime::UNIX_EPOCH + STEP;
        // It took a second, so it may be later by up to a second.
        clock.sample(stamp, then, then + SECOND);
        assert_eq!(clock.left_at(stamp, LEASE, then + SECOND), LEASE);
        clock.sample(stamp + SECOND, then + SECOND, then + SECOND);
        assert_eq!(clock.left_at(stamp, LEASE, then + SECOND), LEASE - SECOND);
        clock.sample(stamp + SECOND, then + SECOND, then + SECOND * 3);
        let later = then + SECOND * 3;
        assert_eq!(clock.left_at(stamp, LEASE, later), LEASE - SECOND * 3);
    }
}
