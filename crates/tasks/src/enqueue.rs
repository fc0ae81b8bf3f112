use super::caller::Caller;
use super::draft::Draft;
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
        draft: Draft,
        caller: &Caller,
    ) -> Result<Letter, TaskError> {
        self.check(queue, draft.task, draft.size())?;
        Ok(Letter {
            max_attempts: draft.max_attempts,
            limit: draft.limit,
            ..self.letter_of(id, queue, draft.task, draft.arguments, caller)
        })
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
            max_attempts: None,
            limit: None,
            line: None,
            created,
            due: None,
            expires: created.saturating_add(milliseconds(self.settings.lifetime)),
            once: false,
            on_end: None,
            ended: None,
            is_reminder: false,
        }
    }

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

    pub(super) fn envelope(&self, letter: &Letter) -> Result<Envelope, BackendError> {
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
