//! The time that a backend has for an answer.

use crate::{Backend, BackendError, BusStream};
use std::time::Duration;
use tokio::time::timeout;

/// The answer of a backend, or an error after this time. Needs a runtime with timers.
pub async fn in_time<T>(
    after: Duration,
    answer: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let answer = timeout(after, answer).await;
    answer.unwrap_or(Err(BackendError::TimedOut { after }))
}

/// Listens to the bus, or returns an error after this time.
pub async fn listen(backend: &Backend, after: Duration) -> Result<BusStream, BackendError> {
    in_time(after, backend.bus().listen()).await
}

#[cfg(test)]
mod tests {
    use super::in_time;
    use crate::BackendError;
    use std::future::{pending, ready};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn an_answer_comes_in_time_or_is_an_error() {
        let second = Duration::from_secs(1);
        assert_eq!(in_time(second, ready(Ok(7))).await.ok(), Some(7));
        let late = in_time(second, pending::<Result<(), _>>()).await;
        assert!(matches!(late, Err(BackendError::TimedOut { after }) if after == second));
    }
}
