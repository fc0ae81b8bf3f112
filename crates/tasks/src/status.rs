use super::record::Record;
use super::{Principal, TaskId, TaskState};
use std::time::SystemTime;
use tower_promises_backend::kit::clock::time;

/// A snapshot of a task.
#[derive(Clone, Debug)]
pub struct TaskStatus {
    id: TaskId,
    record: Record,
}

impl TaskStatus {
    pub(super) fn new(id: TaskId, record: Record) -> Self {
        Self { id, record }
    }

    /// Returns the id of the task.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Returns the state of the task.
    #[must_use]
    pub fn state(&self) -> TaskState {
        self.record.state
    }

    /// Returns the name of the task's queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.record.queue
    }

    /// Returns the name of the task's type.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.record.task
    }

    /// Returns the principal that submitted the task, `None` if there is none. A handler that shows a status to a
    /// client must compare it.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.record.principal.as_ref()
    }

    /// Returns the number of attempts so far. Attempts that ended because their worker shut down do not count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.record.attempt
    }

    /// Returns the progress in percent, if the task has [set](super::TaskContext::set_progress) it.
    #[must_use]
    pub fn progress(&self) -> Option<f64> {
        self.record.progress
    }

    /// Returns the message, if the task has [set](super::TaskContext::set_message) one.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.record.message.as_deref()
    }

    /// Returns the text of the error of the last failed attempt.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        let failure = self.record.failure.as_ref()?;
        Some(failure.error.message())
    }

    /// Whether a cancel was requested.
    #[must_use]
    pub fn is_cancel_requested(&self) -> bool {
        self.record.cancel
    }

    /// Returns the time of submission.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        time(self.record.created)
    }

    /// Returns the time at which the last attempt started.
    #[must_use]
    pub fn started(&self) -> Option<SystemTime> {
        self.record.started.map(time)
    }

    /// Returns the time at which the task ended.
    #[must_use]
    pub fn finished(&self) -> Option<SystemTime> {
        self.record.finished.map(time)
    }

    /// Returns the time at which the record expires.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        time(self.record.expires)
    }
}
