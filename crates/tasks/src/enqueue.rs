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
        let envelope = Envelope::new(queue_of(&letter.service), letter.envelope_id(), payload)
            .delay(delay)
            .priority(priority);
        self.records.backend.enqueue(envelope).await
    }

    /// Enqueues what this version cannot read.
    pub(super) async fn enqueue_payload(
        &self,
        service: &str,
        envelope: String,
        payload: Bytes,
    ) -> Result<(), BackendError> {
        let envelope = Envelope::new(queue_of(service), envelope, payload);
        self.records.backend.enqueue(envelope).await
    }
}

/// Returns the name of a service's queue.
pub(super) fn queue_of(service: &str) -> String {
    format!("task/{service}")
}
