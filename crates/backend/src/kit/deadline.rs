//! The time that a backend has for an answer.

use crate::{
    Backend, BackendError, BusStream, CompareAndSet, Entry, Envelope, Page, Queue, Revision,
};
use bytes::Bytes;
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

/// A backend whose calls have a timeout. They need a runtime with timers.
#[derive(Clone, Debug)]
pub struct TimedBackend {
    backend: Backend,
    timeout: Duration,
}

impl TimedBackend {
    pub const fn new(backend: Backend, timeout: Duration) -> Self {
        Self { backend, timeout }
    }

    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) const fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Returns the queue itself, because a worker calls it without a timeout.
    pub fn queue(&self) -> &dyn Queue {
        self.backend.queue()
    }

    pub async fn enqueue(&self, envelope: Envelope) -> Result<(), BackendError> {
        let enqueued = self.backend.queue().enqueue(envelope);
        in_time(self.timeout, enqueued).await.map(drop)
    }

    pub async fn publish(&self, topic: &str, payload: Bytes) -> Result<(), BackendError> {
        in_time(self.timeout, self.backend.bus().publish(topic, payload)).await
    }

    pub async fn listen(&self) -> Result<BusStream, BackendError> {
        in_time(self.timeout, self.backend.bus().listen()).await
    }

    pub async fn get(&self, key: &str) -> Result<Option<Entry>, BackendError> {
        in_time(self.timeout, self.backend.store().get(key)).await
    }

    pub async fn put(
        &self,
        key: &str,
        value: Bytes,
        time_to_live: Duration,
    ) -> Result<(), BackendError> {
        let put = self.backend.store().put(key, value, Some(time_to_live));
        in_time(self.timeout, put).await.map(drop)
    }

    /// Sets a value if the key has the expected revision, or no value for `None`. Returns whether the value was set.
    pub async fn set(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Duration,
    ) -> Result<bool, BackendError> {
        let set = self.compare_and_set(key, expected, value, time_to_live);
        Ok(set.await?.is_some())
    }

    /// Like [`set`](Self::set). Returns the new revision if the value was set.
    pub async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Duration,
    ) -> Result<Option<Revision>, BackendError> {
        let store = self.backend.store();
        let set = store.compare_and_set(key, expected, value, Some(time_to_live));
        Ok(match in_time(self.timeout, set).await? {
            CompareAndSet::Set(revision) => Some(revision),
            CompareAndSet::Conflict => None,
        })
    }

    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BackendError> {
        in_time(
            self.timeout,
            self.backend.store().list(prefix, after, limit),
        )
        .await
    }

    pub async fn delete(&self, key: &str) -> Result<bool, BackendError> {
        in_time(self.timeout, self.backend.store().delete(key)).await
    }
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
