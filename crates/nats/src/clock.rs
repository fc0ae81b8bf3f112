//! The clock of the server, as this process knows it.

use tower_promises_backend::kit::sync::lock;
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

/// The server had that time then, or a time that is later by `late` at most.
#[derive(Clone, Copy, Debug)]
struct Sample {
    stamp: SystemTime,
    then: Instant,
    /// How long the answer took.
    late: Duration,
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
            late: answered.saturating_duration_since(asked),
        };
        if let Some(present) = state.present {
            let expected = present.at(answered);
            let latest = stamp.checked_add(sample.late).unwrap_or(stamp);
            if (stamp..=latest).contains(&expected) {
                // Of two that agree, the one with the faster answer is more exact: it says later.
                return;
            }
            // The sample before was late, too.
            let forward = stamp.duration_since(expected).unwrap_or_default();
            let back = expected.duration_since(latest).unwrap_or_default();
            if forward > TOLERANCE + present.late || back > TOLERANCE {
                state.before = Some((present, expected));
            }
        }
        state.present = Some(sample);
    }

    /// Notes that the server was asked, and did not say.
    pub(super) fn was_asked(&self, now: Instant) {
        lock(&self.state).asked = Some(now);
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

/// Whether a stamp was made before the clock of the server was set. After a step forward, stamps up to the time of the step
/// are. After a step back, stamps ahead of the present are. A sample is behind the server by what its answer took, so stamps
/// of the last moment are ahead of it too: a step is longer than that.
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

    /// A sample that took a while is behind the server by up to that long.
    #[test]
    fn a_lease_has_its_time_although_the_sample_is_behind() {
        const MOMENT: Duration = Duration::from_millis(5);
        for took in [Duration::from_millis(20), SECOND * 4] {
            for is_forward in [true, false] {
                let (clock, then) = (Clock::default(), Instant::now());
                let stamp = SystemTime::UNIX_EPOCH + STEP * 1000;
                // The server makes the stamp at once, and its answer is late.
                clock.sample(stamp, then, then + took);
                let now = then + took + SECOND * 10;
                // The stamp of a lease from just before the step.
                let before = stamp + (now - then) - MOMENT;
                let time = stamp + (now - then);
                let is = if is_forward { time + STEP } else { time - STEP };
                clock.sample(is, now, now + took);
                let now = now + took;
                let left = clock.left_at(before, LEASE, now);
                let least = LEASE - took - MOMENT;
                assert!(left >= least && left <= least + took, "{left:?}");
                // And of one from just now.
                let left = clock.left_at(is + took - MOMENT, LEASE, now);
                assert!(left >= LEASE - MOMENT && left <= LEASE + took, "{left:?}");
            }
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
        // A slow answer is not a clock that was set.
        let (slow, later) = (Clock::default(), then + SECOND * 4);
        slow.sample(stamp, then, later);
        slow.sample(stamp + SECOND * 4, later, later);
        assert_eq!(slow.left_at(stamp, LEASE, later), LEASE - SECOND * 4);
        clock.sample(stamp + SECOND, then + SECOND, then + SECOND * 3);
        let later = then + SECOND * 3;
        assert_eq!(clock.left_at(stamp, LEASE, later), LEASE - SECOND * 3);
    }
}
