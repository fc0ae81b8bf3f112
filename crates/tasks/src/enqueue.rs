use super::record::Letter;
use super::tasks::Core;
use bytes::Bytes;
use std::time::Duration;
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::{BackendError, Envelope, Priority};

impl Core {
    /// Sends a letter on its way: to the queue, or, with a limit, to the tasks that wait for a slot.
    pub(super) async fn send(
        &self,
        letter: &Letter,
        delay: Duration,
        priority: Priority,
    ) -> Result<(), BackendError> {
        // A delayed task gets its slot when it is due.
        if letter.limit.is_none() || !delay.is_zero() {
            return self.enqueue(letter, delay, priority).await;
        }
        let envelope = self.envelope(letter)?.priority(priority);
        // Refuses at once what the queue would refuse later.
        self.records
            .backend
            .queue()
            .capabilities()
            .check(&envelope)?;
        self.park(letter, 0).await
    }

    fn envelope(&self, letter: &Letter) -> Result<Envelope, BackendError> {
        let queue = backend_queue(&letter.queue);
        Ok(Envelope::new(queue, letter.envelope_id(), encode(letter)?))
    }

    /// Enqueues a letter.
    pub(super) async fn enqueue(
        &self,
        letter: &Letter,
        delay: Duration,
        priority: Priority,
    ) -> Result<(), BackendError> {
        let envelope = self.envelope(letter)?.delay(delay).priority(priority);
        self.records.backend.enqueue(envelope).await
    }

    /// Enqueues a letter that this version cannot read.
    pub(super) async fn enqueue_payload(
        &self,
        queue: &str,
        envelope: String,
        payload: Bytes,
    ) -> Result<(), BackendError> {
        let envelope = Envelope::new(backend_queue(queue), envelope, payload);
        self.records.backend.enqueue(envelope).await
    }
}

/// Returns the name of a queue in the backend.
pub(super) fn backend_queue(queue: &str) -> String {
    format!("task/{queue}")
}
