use super::TaskId;
use http::StatusCode;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::BackendError;

/// Error of submitting a task, or of reading its state or output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskError {
    /// The task cannot be serialised, or its JSON cannot be read again: it contains a NaN or an infinity, for example,
    /// or is nested more than 127 levels deep. It was not submitted. The error of serde is the
    /// [`source`](Error::source).
    #[non_exhaustive]
    Serialize {
        /// The name of the task's type.
        task: &'static str,
        /// The error of serde.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The task is too large. It was not submitted.
    #[non_exhaustive]
    TooLarge {
        /// The name of the task's type.
        task: &'static str,
        /// The size of the task, in bytes of JSON.
        size: usize,
        /// The maximum size.
        limit: usize,
    },
    /// The queue does not have this task type. The task was not submitted.
    #[non_exhaustive]
    NotRegistered {
        /// The name of the queue.
        queue: Arc<str>,
        /// The name of the task's type.
        task: &'static str,
    },
    /// The queue was not [added](super::TasksBuilder::queue), so that this process cannot work for it.
    #[non_exhaustive]
    UnknownQueue {
        /// The name of the queue.
        queue: Arc<str>,
    },
    /// The given id belongs to a task of another type, queue or principal. The task was not submitted.
    #[non_exhaustive]
    IdInUse {
        /// The id.
        id: TaskId,
    },
    /// The given id belongs to a task with other arguments. The task was not submitted.
    #[non_exhaustive]
    OtherArguments {
        /// The id.
        id: TaskId,
    },
    /// No such task exists, or its record has expired.
    #[non_exhaustive]
    NotFound {
        /// The id of the task.
        id: TaskId,
    },
    /// The task has ended with an error, which is the [`source`](Error::source). If the task ran in place, the source
    /// is the original error. Otherwise it carries the texts of the error and of its sources.
    #[non_exhaustive]
    Failed {
        /// The id of the task.
        id: TaskId,
        /// The name of the task's type.
        task: Arc<str>,
        /// The error of the task.
        error: Arc<dyn Error + Send + Sync>,
        /// Whether the task may succeed when it is repeated.
        is_conflict: bool,
    },
    /// The task was given up after several attempts, each of which ended with a conflict or with its worker. The task
    /// is a dead letter.
    #[non_exhaustive]
    Dead {
        /// The id of the task.
        id: TaskId,
        /// The name of the task's type.
        task: Arc<str>,
        /// The number of attempts.
        attempts: u32,
        /// The error of the last attempt.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The task was cancelled.
    #[non_exhaustive]
    Cancelled {
        /// The id of the task.
        id: TaskId,
    },
    /// The task has not ended within the timeout of the call.
    #[non_exhaustive]
    TimedOut {
        /// The id of the task.
        id: TaskId,
        /// The timeout.
        after: Duration,
    },
    /// The output of the task cannot be read as the expected type, or was written by another version of the type. It
    /// stays stored. The error of serde is the [`source`](Error::source).
    #[non_exhaustive]
    WrongType {
        /// The id of the task.
        id: TaskId,
        /// The expected type.
        expected: &'static str,
        /// The error of serde.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The backend has failed. Each method documents the consequences. The error of the backend is the
    /// [`source`](Error::source).
    #[non_exhaustive]
    Backend {
        /// The error of the backend.
        error: BackendError,
    },
    /// The caller is not inside of a tokio runtime.
    NoRuntime,
}

impl TaskError {
    /// Whether the task failed because of a conflict with concurrent work, or could not be submitted in a transaction
    /// because of another one. If an outer task returns this error, the outer task is retried.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Failed {
                is_conflict: true,
                ..
            } | Self::Backend {
                error: BackendError::Conflict { .. }
            }
        )
    }

    /// Returns the status of a response for this error: 404 for an unknown task, 409 for an id of another task or of
    /// other arguments, 503 for a failed backend, 504 for a call that timed out, and otherwise 500.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::IdInUse { .. } | Self::OtherArguments { .. } => StatusCode::CONFLICT,
            Self::Backend { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<BackendError> for TaskError {
    fn from(error: BackendError) -> Self {
        Self::Backend { error }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serialize { task, .. } => write!(f, "task `{task}` cannot be serialised"),
            Self::TooLarge { task, size, limit } => write!(
                f,
                "task `{task}` has {size} bytes, more than the {limit} that are allowed"
            ),
            Self::NotRegistered { queue, task } => {
                write!(f, "task queue `{queue}` does not know tasks `{task}`")
            }
            Self::UnknownQueue { queue } => write!(f, "task queue `{queue}` was not added"),
            Self::IdInUse { id } => write!(f, "the id `{id}` belongs to another task"),
            Self::OtherArguments { id } => {
                write!(f, "the id `{id}` belongs to a task with other arguments")
            }
            Self::NotFound { id } => write!(f, "nothing is known of a task `{id}`"),
            Self::Failed { id, task, .. } => write!(f, "task `{task}` failed (id `{id}`)"),
            Self::Dead {
                id, task, attempts, ..
            } => write!(
                f,
                "task `{task}` was given up after {attempts} attempts (id `{id}`)"
            ),
            Self::Cancelled { id } => write!(f, "task `{id}` was cancelled"),
            Self::TimedOut { id, after } => write!(f, "task `{id}` has not ended within {after:?}"),
            Self::WrongType { id, expected, .. } => {
                write!(f, "the output of task `{id}` is not a `{expected}`")
            }
            Self::Backend { .. } => f.write_str("tasks: backend failed"),
            Self::NoRuntime => f.write_str("tasks need a running tokio runtime"),
        }
    }
}

impl Error for TaskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Serialize { error, .. }
            | Self::Failed { error, .. }
            | Self::Dead { error, .. }
            | Self::WrongType { error, .. } => Some(&**error),
            Self::Backend { error } => Some(error),
            _ => None,
        }
    }
}
