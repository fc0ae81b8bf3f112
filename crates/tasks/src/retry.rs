//! When an attempt is repeated.

use super::failure::{Kind, TaskFailure};
use std::time::Duration;
use tower_promises_backend::kit::{backoff, clock};

/// Says which failures of a task type are retried, how often, and after which pauses.
///
/// A type [returns](super::Task::retry_policy) its policy. By default, only a [conflict](TaskFailure::conflict) and a
/// failure that asks for a [retry](TaskFailure::retry) are retried, up to the
/// [`max_attempts`](super::TasksBuilder::max_attempts) of the builder, each after a random pause of up to
/// 2<sup>n</sup> seconds, where n is the number of the attempt, at most 1024 seconds.
///
/// ```
/// use std::time::Duration;
/// use tower_promises_tasks::RetryPolicy;
///
/// // Deliveries to a server that may be away for hours: 12 attempts within about three days.
/// let policy = RetryPolicy::new()
///     .retry_errors(true)
///     .max_attempts(12)
///     .backoff(Duration::from_secs(30), Duration::from_secs(12 * 60 * 60))
///     .jitter(0.2);
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a task type returns its policy"]
pub struct RetryPolicy {
    /// `None` means the setting of the builder.
    max_attempts: Option<u32>,
    first: Duration,
    longest: Duration,
    jitter: f64,
    retries_errors: bool,
}

impl RetryPolicy {
    /// Creates the default policy.
    pub const fn new() -> Self {
        Self {
            max_attempts: None,
            first: Duration::from_secs(2),
            longest: Duration::from_secs(1024),
            jitter: 1.0,
            retries_errors: false,
        }
    }

    /// Sets the number of attempts, at least one, by default the [`max_attempts`](super::TasksBuilder::max_attempts)
    /// of the builder. A task that fails in its last attempt is a dead letter.
    ///
    /// The number is sent with each task, so it also holds in workers that do not know the type. An attempt that ends
    /// with its worker counts here, and also counts towards the number of the builder: a task that kills its workers
    /// is a dead letter after three of them, whatever its policy is.
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(if attempts == 0 { 1 } else { attempts });
        self
    }

    /// Sets the pause after the first attempt, by default 2 seconds, and the longest pause, by default 1024 seconds.
    /// The pause doubles with each attempt. All of them must fit into the
    /// [`lifetime`](super::TasksBuilder::lifetime) of a task.
    pub const fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }

    /// Sets the part of a pause that is random, from 0 to 1, by default 1: a pause of 8 seconds with a jitter of 0.25
    /// takes 6 to 8 seconds. Jitter spreads tasks that failed at the same time.
    pub const fn jitter(mut self, part: f64) -> Self {
        // Not a number is no jitter.
        self.jitter = if part > 0.0 { part.min(1.0) } else { 0.0 };
        self
    }

    /// Sets whether a task is retried after every error, panic and timeout, except for a
    /// [permanent](TaskFailure::permanent) failure. By default no.
    pub const fn retry_errors(mut self, retry: bool) -> Self {
        self.retries_errors = retry;
        self
    }

    pub(super) const fn attempts(&self) -> Option<u32> {
        self.max_attempts
    }

    /// Returns the pause before the next attempt, `None` if the failure ends the task.
    pub(super) fn pause_after(&self, failure: &TaskFailure, attempt: u32) -> Option<Duration> {
        match failure.kind() {
            Kind::Permanent => None,
            Kind::Error => self.pause_after_error(attempt),
            Kind::Conflict | Kind::Retry => Some(self.pause(attempt)),
            Kind::RetryAfter(pause) => Some(pause),
        }
    }

    /// Returns the pause after an error that is not classified, `None` if it ends the task.
    pub(super) fn pause_after_error(&self, attempt: u32) -> Option<Duration> {
        self.retries_errors.then(|| self.pause(attempt))
    }

    fn pause(&self, attempt: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempt.saturating_sub(1));
        let pause = self.first.saturating_mul(doubled.unwrap_or(u32::MAX));
        let pause = pause.min(self.longest).min(clock::LONGEST);
        pause.saturating_sub(backoff::random(pause).mul_f64(self.jitter))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::RetryPolicy;
    use crate::TaskFailure;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = RetryPolicy::new().backoff(SECOND, SECOND * 5).jitter(0.0);
        let failure = TaskFailure::retry("away");
        let pauses =
            [1, 2, 3, 4, 40, u32::MAX].map(|attempt| policy.pause_after(&failure, attempt));
        assert_eq!(
            pauses,
            [1, 2, 4, 5, 5, 5].map(|seconds| Some(SECOND * seconds))
        );
    }

    #[test]
    fn the_default_pauses_are_random_within_powers_of_two_seconds() {
        for (attempt, longest) in [(1, 2), (2, 4), (10, 1024), (11, 1024)] {
            let pause = || RetryPolicy::new().pause_after(&TaskFailure::conflict("x"), attempt);
            let pauses: Vec<_> = (0..1000).filter_map(|_| pause()).collect();
            let longest = SECOND * longest;
            assert!(pauses.len() == 1000 && pauses.iter().all(|pause| *pause <= longest));
            assert!(pauses.iter().any(|pause| *pause < longest / 10));
            assert!(pauses.iter().any(|pause| *pause > longest / 10 * 9));
        }
    }

    #[test]
    fn jitter_is_a_part_of_the_pause() {
        let policy = RetryPolicy::new()
            .backoff(SECOND * 8, SECOND * 8)
            .jitter(0.25);
        for _ in 0..1000 {
            let pause = policy.pause_after(&TaskFailure::retry("away"), 1);
            assert!(pause.is_some_and(|pause| pause >= SECOND * 6 && pause <= SECOND * 8));
        }
    }

    #[test]
    fn the_policy_and_the_failure_decide_about_a_retry() {
        let (default, errors) = (RetryPolicy::new(), RetryPolicy::new().retry_errors(true));
        let is_retried = |policy: RetryPolicy, failure| policy.pause_after(&failure, 1).is_some();
        assert!(!is_retried(default, TaskFailure::new("x")));
        assert!(is_retried(errors, TaskFailure::new("x")));
        for policy in [default, errors] {
            assert!(is_retried(policy, TaskFailure::conflict("x")));
            assert!(is_retried(policy, TaskFailure::retry("x")));
            assert!(!is_retried(policy, TaskFailure::permanent("x")));
            let later = TaskFailure::retry_after("x", SECOND * 7);
            assert_eq!(policy.pause_after(&later, 1), Some(SECOND * 7));
        }
    }
}
