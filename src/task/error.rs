use super::TaskId;
use crate::backend::BackendError;
use http::StatusCode;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a task could not be submitted, or has no output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskError {
    /// The task cannot be serialised, or not so that it can be read again: it has a NaN or an infinity, say, or is
    /// nested more than 127 levels deep. It was not submitted. serde's error is the [`source`](Error::source).
    Serialize {
        /// The name of the task's type.
        task: &'static str,
        /// What serde says.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The task is too large. It was not submitted.
    TooLarge {
        /// The name of the task's type.
        task: &'static str,
        /// How many bytes it has as JSON.
        size: usize,
        /// How many bytes it may have.
        limit: usize,
    },
    /// The service does not know tasks of this type. It was not submitted.
    NotRegistered {
        /// The name of the service.
        service: Arc<str>,
        /// The name of the task's type.
        task: &'static str,
    },
    /// The id that was given belongs to a task of another type, service or principal. It was not submitted.
    IdInUse {
        /// The id.
        id: TaskId,
    },
    /// The id that was given belongs to a task with other arguments. It was not submitted.
    OtherArguments {
        /// The id.
        id: TaskId,
    },
    /// Nothing is known of such a task: there was none, or its time is over.
    NotFound {
        /// Its id.
        id: TaskId,
    },
    /// The task has ended with an error, which is the [`source`](Error::source): the original one where it ran in
    /// place, else its text and those of its sources.
    Failed {
        /// Its id.
        id: TaskId,
        /// The name of its type.
        task: Arc<str>,
        /// Its error.
        error: Arc<dyn Error + Send + Sync>,
        /// Whether it may work when it is repeated.
        is_conflict: bool,
    },
    /// The task was given up after several attempts, each of which ended with a conflict or with its worker. It is a
    /// dead letter now.
    Dead {
        /// Its id.
        id: TaskId,
        /// The name of its type.
        task: Arc<str>,
        /// How often it was tried.
        attempts: u32,
        /// The error of the last attempt.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The task was cancelled.
    Cancelled {
        /// Its id.
        id: TaskId,
    },
    /// The task has not ended within the time that the call was given.
    TimedOut {
        /// Its id.
        id: TaskId,
        /// The time it was given.
        after: Duration,
    },
    /// The output of the task is not of the type asked for, or of another version of it. It stays stored for its time.
    /// serde's error is the [`source`](Error::source).
    WrongType {
        /// Its id.
        id: TaskId,
        /// The type asked for.
        expected: &'static str,
        /// What serde says.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The backend has failed, see each method for what that means. Its error is the [`source`](Error::source).
    Backend {
        /// What the backend says.
        error: BackendError,
    },
    /// No tokio runtime is running here.
    NoRuntime,
}

impl TaskError {
    /// Whether the task has failed because many have worked on the same thing at the same time. Returned from the
    /// task in which this one ran in place, it makes that one be tried again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Failed {
                is_conflict: true,
                ..
            }
        )
    }

    /// The status of a response that stands for this error: 404 for a task of which nothing is known, 409 for an id that
    /// belongs to another task or to other arguments, 503 where the backend fails, 504 for a call that has timed out, else 500.
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
            Self::NotRegistered { service, task } => {
                write!(f, "task service `{service}` does not know tasks `{task}`")
            }
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
