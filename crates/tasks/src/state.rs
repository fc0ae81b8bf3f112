use serde::{Deserialize, Serialize};
use std::fmt;

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TaskState {
    /// The task waits for a worker, for its first or for another attempt.
    Queued,
    /// A worker runs the task. The worker may have crashed since.
    Running,
    /// The task has ended with an output.
    Succeeded,
    /// The task has ended with an error.
    Failed,
    /// The task was given up after several attempts. It is a dead letter.
    Dead,
    /// The task was cancelled before it had ended.
    Cancelled,
}

impl TaskState {
    /// Whether the task has ended. A terminal state only changes when a dead letter is sent again.
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
