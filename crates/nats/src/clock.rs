//! The clock of the server, as this process knows it.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};
use tower_promises_backend::kit::sync::lock;

/// The largest difference between a sample and the expected time. Beyond it, the clock of the server counts as set. The
/// clocks of the servers of a cluster differ too.
const TOLERANCE: Duration = Duration::from_secs(2);

/// The largest age of a sample by which something may be found to be expired.
const FRESH: Duration = Duration::from_secs(1);

/// Estimates the time of the server. Timestamps of the server are compared with this estimate only: the clock of this
/// machine may differ, and may be set. Between two samples the monotonic clock of the process counts.
#[derive(Debug, Default)]
pub(super) struct Clock {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    present: Option<Sample>,
    /// The last sample before the clock of the server was set, and the time until which timestamps are by that clock.
    before: Option<(Sample, SystemTime)>,
    /// The time of the last request to the server.
    asked: Option<Instant>,
}

/// The server had the time `stamp`, or a time that is later by at most `late`, at the instant `then`.
#[derive(Clone, Copy, Debug)]
struct Sample {
    stamp: SystemTime,
    then: Instant,
    /// The round-trip time of the request.
    late: Duration,
}

impl Sample {
    /// The time at `now` according to this sample. If the sum overflows, the time of the sample.
    fn at(self, now: Instant) -> SystemTime {
        let elapsed = now.saturating_duration_since(self.then);
        self.stamp.checked_add(elapsed).unwrap_or(self.stamp)
    }
}

impl Clock {
    /// Adds a timestamp that the server made between two instants.
    pub(super) fn sample(&self, stamp: SystemTime, asked: Instant, answered: Instant) {
        let mut state = lock(&self.state);
        state.asked = Some(answered);
        let sample = Sample {
            stamp,
            then: answered,
            late: answered.saturating_duration_since(asked),
        };
        if let Some(present) = state.present {
            let expected = present.at(answered);
            let latest = stamp.checked_add(sample.late).unwrap_or(stamp);
            if (stamp..=latest).contains(&expected) {
                // The samples agree. The earlier sample shows the later time, so its answer was faster and it is more
                // exact.
                return;
            }
            // The earlier sample may itself be behind the server.
            let forward = stamp.duration_since(expected).unwrap_or_default();
            let back = expected.duration_since(latest).unwrap_or_default();
            if forward > TOLERANCE + present.late || back > TOLERANCE {
                state.before = Some((present, expected));
            }
        }
        state.present = Some(sample);
    }

    /// Records that the server was asked but did not answer.
    pub(super) fn was_asked(&self, now: Instant) {
        lock(&self.state).asked = Some(now);
    }

    /// Whether the server was asked recently.
    pub(super) fn is_fresh(&self) -> bool {
        let asked = lock(&self.state).asked;
        asked.is_some_and(|asked| asked.elapsed() < FRESH)
    }

    /// The remaining part of a duration that started at a timestamp of the server. The result is never too short, and
    /// too long by at most the round-trip time of the fastest answer.
    pub(super) fn left(&self, began: SystemTime, time: Duration) -> Duration {
        self.left_at(began, time, Instant::now())
    }

    fn left_at(&self, began: SystemTime, time: Duration, now: Instant) -> Duration {
        let Some(end) = began.checked_add(time) else {
            // No clock reaches that time.
            return Duration::MAX;
        };
        let state = lock(&self.state);
        // There is always a sample, because opening the backend takes one.
        let Some(present) = state.present else {
            return end.duration_since(SystemTime::now()).unwrap_or_default();
        };
        let time = match state.before {
            Some((before, until)) if is_of_before(began, before, until, present, now) => before,
            _ => present,
        };
        end.duration_since(time.at(now)).unwrap_or_default()
    }
}

/// Whether a timestamp was made before the clock of the server was set. After a step forward, timestamps up to the time
/// of the step were. After a step back, timestamps that are ahead of the present were. A sample is behind the server by
/// up to its round-trip time, so the latest timestamps are ahead of it too, but by less than a step.
fn is_of_before(
    began: SystemTime,
    before: Sample,
    until: SystemTime,
    present: Sample,
    now: Instant,
) -> bool {
    let is_ahead_of = |time: SystemTime, sample: Sample| {
        let latest = time.checked_add(sample.late + TOLERANCE);
        latest.is_some_and(|latest| began > latest)
    };
    let (past, present_time) = (before.at(now), present.at(now));
    if past < present_time {
        !is_ahead_of(until, before)
    } else {
        is_ahead_of(present_time, present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_secs(600);
    const LEASE: Duration = Duration::from_secs(15);

    /// A clock that detects that the server was set by ten minutes, ten seconds after the first sample. Returns the
    /// time of the server at that moment, by the clock before it was set.
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

    /// A sample is behind the server by up to its round-trip time.
    #[test]
    fn a_lease_has_its_time_although_the_sample_is_behind() {
        const MOMENT: Duration = Duration::from_millis(5);
        for took in [Duration::from_millis(20), SECOND * 4] {
            for is_forward in [true, false] {
                let (clock, then) = (Clock::default(), Instant::now());
                let stamp = SystemTime::UNIX_EPOCH + STEP * 1000;
                // The server makes the timestamp at once, and its answer arrives late.
                clock.sample(stamp, then, then + took);
                let now = then + took + SECOND * 10;
                // A lease that started just before the step.
                let before = stamp + (now - then) - MOMENT;
                let time = stamp + (now - then);
                let is = if is_forward { time + STEP } else { time - STEP };
                clock.sample(is, now, now + took);
                let now = now + took;
                let left = clock.left_at(before, LEASE, now);
                let least = LEASE - took - MOMENT;
                assert!(left >= least && left <= least + took, "{left:?}");
                // A lease that started just now.
                let left = clock.left_at(is + took - MOMENT, LEASE, now);
                assert!(left >= LEASE - MOMENT && left <= LEASE + took, "{left:?}");
            }
        }
    }

    #[test]
    fn the_faster_answer_counts() {
        let (clock, then) = (Clock::default(), Instant::now());
        let stamp = SystemTime::UNIX_EPOCH + STEP;
        // The answer took a second, so the server may be ahead by up to a second.
        clock.sample(stamp, then, then + SECOND);
        assert_eq!(clock.left_at(stamp, LEASE, then + SECOND), LEASE);
        clock.sample(stamp + SECOND, then + SECOND, then + SECOND);
        assert_eq!(clock.left_at(stamp, LEASE, then + SECOND), LEASE - SECOND);
        // A slow answer does not mean that the clock was set.
        let (slow, later) = (Clock::default(), then + SECOND * 4);
        slow.sample(stamp, then, later);
        slow.sample(stamp + SECOND * 4, later, later);
        assert_eq!(slow.left_at(stamp, LEASE, later), LEASE - SECOND * 4);
        clock.sample(stamp + SECOND, then + SECOND, then + SECOND * 3);
        let later = then + SECOND * 3;
        assert_eq!(clock.left_at(stamp, LEASE, later), LEASE - SECOND * 3);
    }
}
