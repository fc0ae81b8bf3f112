//! Pauses between attempts that grow, and calls that are repeated.

use crate::BackendError;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;
use tokio::time::sleep;

/// Pauses that double from the first to the longest. Each is up to a quarter shorter, at random: processes that lose a
/// backend at the same time must not return to it at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause - random(pause / 4)
    }

    /// The pause after a failure of an operation that worked for the given time. An operation that worked at least as
    /// long as the longest pause starts again with the first pause.
    pub fn pause_after(&mut self, worked: Duration) -> Duration {
        if worked >= self.longest {
            self.next = self.first;
        }
        self.pause()
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

/// Returns a random duration up to this one.
pub fn random(longest: Duration) -> Duration {
    // Each state has other keys, and so another hash of nothing.
    let random = RandomState::new().build_hasher().finish();
    longest.mul_f64(random as f64 / u64::MAX as f64)
}

/// How often [`retry`] calls. The last call comes five to six seconds after the first.
const ATTEMPTS: u32 = 7;

/// Repeats a call until the backend answers, with growing pauses, seven times at most. A value that is too large is not
/// tried again. Each error is reported.
pub async fn retry<T, F>(
    mut call: impl FnMut() -> F,
    report: impl Fn(&BackendError),
) -> Result<T, BackendError>
where
    F: Future<Output = Result<T, BackendError>>,
{
    let mut backoff = Backoff::default();
    for attempt in 1.. {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                report(&error);
                if attempt == ATTEMPTS || matches!(error, BackendError::TooLarge { .. }) {
                    return Err(error);
                }
            }
        }
        sleep(backoff.pause()).await;
    }
    unreachable!("the last attempt returns")
}

#[cfg(test)]
mod tests {
    use super::{Backoff, random, retry};
    use crate::BackendError;
    use std::cell::Cell;
    use std::time::Duration;
    use tokio::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again() {
        let mut backoff = Backoff::new(SECOND, SECOND * 5);
        let check = |pause: Duration, seconds: u32| {
            let longest = SECOND * seconds;
            assert!(pause >= longest * 3 / 4 && pause <= longest, "{pause:?}");
        };
        for seconds in [1, 2, 4, 5, 5] {
            check(backoff.pause(), seconds);
        }
        check(backoff.pause_after(SECOND * 4), 5);
        check(backoff.pause_after(SECOND * 5), 1);
        check(backoff.pause_after(SECOND), 2);
    }

    #[test]
    fn random_durations_spread_over_the_whole_range() {
        let durations: Vec<_> = (0..1000).map(|_| random(SECOND)).collect();
        assert!(durations.iter().all(|duration| *duration <= SECOND));
        for tenth in 0..10 {
            let range = SECOND * tenth / 10..SECOND * (tenth + 1) / 10;
            let hits = durations
                .iter()
                .filter(|duration| range.contains(*duration));
            assert!(hits.count() > 30, "{range:?}");
        }
        assert_eq!(random(Duration::ZERO), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_repeated_until_it_succeeds() {
        let (calls, reports) = (Cell::new(0), Cell::new(0));
        let start = Instant::now();
        let call = async || {
            calls.set(calls.get() + 1);
            match calls.get() {
                3 => Ok("answer"),
                _ => Err(BackendError::unavailable("away")),
            }
        };
        let answer = retry(call, |_| reports.set(reports.get() + 1)).await;
        assert_eq!(answer.ok(), Some("answer"));
        assert_eq!((calls.get(), reports.get()), (3, 2));
        let elapsed = start.elapsed().as_millis();
        assert!((225..=300).contains(&elapsed), "{elapsed}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_given_up_at_last_and_at_once_where_it_cannot_help() {
        let calls = Cell::new(0);
        let count = || calls.set(calls.get() + 1);
        let away = async || {
            count();
            Err::<(), _>(BackendError::unavailable("away"))
        };
        assert!(retry(away, |_| {}).await.is_err());
        assert_eq!(calls.replace(0), 7);
        let too_large = async || {
            count();
            Err::<(), _>(BackendError::TooLarge { size: 2, limit: 1 })
        };
        assert!(retry(too_large, |_| {}).await.is_err());
        assert_eq!(calls.get(), 1);
    }
}
