use super::caller::Caller;
use super::record::Letter;
use super::tasks::Core;
use super::{TaskError, TaskId};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::kit::clock::{milliseconds, now};
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::{BackendError, Envelope, Priority};
use uuid::Uuid;

impl Core {
    /// Creates the letter of a task. Fails if the task is too large, or if this process provides the queue without the
    /// type of the task.
    pub(super) fn letter(
        &self,
        id: TaskId,
        queue: &Arc<str>,
        task: &'static str,
        arguments: Box<RawValue>,
        caller: &Caller,
    ) -> Result<Letter, TaskError> {
        self.check(queue, task, arguments.get().len())?;
        Ok(self.letter_of(id, queue, task, arguments, caller))
    }

    /// Checks the size of a task, and whether this process can provide it.
    pub(super) fn check(
        &self,
        queue: &Arc<str>,
        task: &'static str,
        size: usize,
    ) -> Result<(), TaskError> {
        let limit = self.settings.max_task_bytes;
        if size > limit {
            return Err(TaskError::TooLarge { task, size, limit });
        }
        let provided = self.queues.get(queue);
        if !provided.is_none_or(|provided| provided.types.contains_key(task)) {
            return Err(TaskError::NotRegistered {
                queue: queue.clone(),
                task,
            });
        }
        Ok(())
    }

    pub(super) fn letter_of(
        &self,
        id: TaskId,
        queue: &str,
        task: &str,
        arguments: Box<RawValue>,
        caller: &Caller,
    ) -> Letter {
        let created = now();
        Letter {
            id,
            submission: Uuid::new_v4().simple().to_string(),
            queue: queue.to_owned(),
            task: task.to_owned(),
            arguments,
            principal: caller.principal.clone(),
            trace: caller.trace.clone(),
            created,
            expires: created.saturating_add(milliseconds(self.settings.lifetime)),
            once: false,
            on_end: None,
            ended: None,
        }
    }

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
