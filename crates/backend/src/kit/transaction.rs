//! A transaction of the application whose calls have a timeout.

use super::deadline::{TimedBackend, in_time};
use crate::{
    ApplicationConnection, BackendError, CompareAndSet, Entry, Envelope, JoinedTransaction,
    Revision,
};
use bytes::Bytes;
use std::time::Duration;

/// A transaction that a backend has joined. Dropping it undoes what was written through it. The calls need a runtime
/// with timers, and undo nothing by themselves: after an error, the transaction must be dropped.
pub struct TimedTransaction<'c> {
    transaction: Box<dyn JoinedTransaction + 'c>,
    timeout: Duration,
}

impl TimedBackend {
    pub async fn join<'c>(
        &'c self,
        connection: ApplicationConnection<'c>,
    ) -> Result<TimedTransaction<'c>, BackendError> {
        let timeout = self.timeout();
        Ok(TimedTransaction {
            transaction: in_time(timeout, self.backend().join(connection)).await?,
            timeout,
        })
    }
}

impl TimedTransaction<'_> {
    pub async fn get(&mut self, key: &str) -> Result<Option<Entry>, BackendError> {
        in_time(self.timeout, self.transaction.get(key)).await
    }

    /// Sets a value if the key has the expected revision, or no value for `None`. Returns the new revision if the value
    /// was set.
    pub async fn compare_and_set(
        &mut self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Duration,
    ) -> Result<Option<Revision>, BackendError> {
        let set = self
            .transaction
            .compare_and_set(key, expected, value, Some(time_to_live));
        Ok(match in_time(self.timeout, set).await? {
            CompareAndSet::Set(revision) => Some(revision),
            CompareAndSet::Conflict => None,
        })
    }

    pub async fn enqueue(&mut self, envelope: Envelope) -> Result<(), BackendError> {
        let enqueued = self.transaction.enqueue(envelope);
        in_time(self.timeout, enqueued).await.map(drop)
    }

    pub async fn publish(&mut self, topic: &str, payload: Bytes) -> Result<(), BackendError> {
        in_time(self.timeout, self.transaction.publish(topic, payload)).await
    }

    /// Keeps what was written, as a part of the transaction.
    pub async fn finish(self) -> Result<(), BackendError> {
        in_time(self.timeout, self.transaction.finish()).await
    }
}
