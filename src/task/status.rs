use super::record::Record;
use super::{Principal, TaskId};
use crate::backend::clock::time;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::SystemTime;

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TaskState {
    /// It waits for a worker, for the first or for another attempt.
    Queued,
    /// A worker works on it, or has crashed and it is not known yet.
    Running,
    /// It has ended with an output.
    Succeeded,
    /// It has ended with an error.
    Failed,
    /// It was given up after several attempts, and is a dead letter.
    Dead,
    /// It was cancelled before it had ended.
    Cancelled,
}

impl TaskState {
    /// Whether it has ended. Only a dead letter that is sent again leaves such a state.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        })
    }
}

/// What is known of a task.
#[derive(Clone, Debug)]
pub struct TaskStatus {
    id: TaskId,
    record: Record,
}

impl TaskStatus {
    pub(super) fn new(id: TaskId, record: Record) -> Self {
        Self { id, record }
    }

    /// The id of the task.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> TaskState {
        self.record.state
    }

    /// The name of its service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.record.service
    }

    /// The name of its type.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.record.task
    }

    /// Who has submitted it, `None` for nobody. A handler that shows a status to a client compares it.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.record.principal.as_ref()
    }

    /// How often it was begun. Attempts that ended because their worker was shut down do not count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.record.attempt
    }

    /// How much is done, in percent, where the task has [said so](super::TaskContext::set_progress).
    #[must_use]
    pub fn progress(&self) -> Option<f64> {
        self.record.progress
    }

    /// What is being done, where the task has [said so](super::TaskContext::set_message).
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.record.message.as_deref()
    }

    /// The error of the last attempt that has failed, in words.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let failure = self.record.failure.as_ref()?;
        Some(failure.error.to_string())
    }

    /// Whether somebody has asked to cancel it.
    #[must_use]
    pub fn is_cancel_requested(&self) -> bool {
        self.record.cancel
    }

    /// When it was submitted.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        time(self.record.created)
    }

    /// When its last attempt has begun.
    #[must_use]
    pub fn started(&self) -> Option<SystemTime> {
        self.record.started.map(time)
    }

    /// When it has ended.
    #[must_use]
    pub fn finished(&self) -> Option<SystemTime> {
        self.record.finished.map(time)
    }

    /// When it is forgotten, at the latest.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        time(self.record.expires)
    }
}
