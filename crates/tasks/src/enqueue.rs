use super::record::Letter;
use super::tasks::Core;
use bytes::Bytes;
use std::time::Duration;
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::{BackendError, Envelope, Priority};

impl Core {
    pub(super) async fn enqueue(
        &self,
        letter: &Letter,
        delay: Duration,
        priority: Priority,
    ) -> Result<(), BackendError> {
        let payload = encode(letter)?;
        let envelope = Envelope::new(backend_queue(&letter.queue), letter.envelope_id(), payload)
            .delay(delay)
            .priority(priority);
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
