//! Pauses between attempts that grow, and calls that are repeated.

use crate::BackendError;
use std::time::Duration;
use tokio::time::sleep;

/// Pauses that double from the first pause to the longest one.
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

    /// For listeners of the bus.
    pub const fn of_listener() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }

    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
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

/// How often [`retry`] calls, and from which pause on. The last call comes about six seconds after the first.
const ATTEMPTS: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Repeats a call until the backend answers, with growing pauses, seven times at most. A value that is too large is not
/// tried again. Each error is reported.
pub async fn retry<T, F>(
    mut call: impl FnMut() -> F,
    report: impl Fn(&BackendError),
) -> Result<T, BackendError>
where
    F: Future<Output = Result<T, BackendError>>,
{
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
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
    use super::{Backoff, retry};
    use crate::BackendError;
    use std::cell::Cell;
    use std::time::Duration;
    use tokio::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again() {
        let mut backoff = Backoff::new(SECOND, SECOND * 5);
        let pauses: Vec<_> = (0..5).map(|_| backoff.pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        assert_eq!(backoff.pause_after(SECOND * 4), SECOND * 5);
        assert_eq!(backoff.pause_after(SECOND * 5), SECOND);
        assert_eq!(backoff.pause_after(SECOND), SECOND * 2);
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
        assert_eq!(start.elapsed(), Duration::from_millis(300));
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
