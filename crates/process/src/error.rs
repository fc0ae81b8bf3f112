use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Error of a [`ProcessJob`](super::ProcessJob). Each variant contains the type of the job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProcessError {
    /// The queue of waiting jobs is full.
    #[non_exhaustive]
    Saturated {
        /// The type of the job.
        job: &'static str,
        /// The maximum number of waiting jobs.
        limit: usize,
    },
    /// The job or its output is too large.
    #[non_exhaustive]
    TooLarge {
        /// The type of the job.
        job: &'static str,
        /// The size, in bytes of JSON.
        size: usize,
        /// The maximum size.
        limit: usize,
    },
    /// The job or its output cannot be serialised or deserialised. The error of serde is the [`source`](Error::source).
    #[non_exhaustive]
    Serialize {
        /// The type of the job.
        job: &'static str,
        /// The type that serde could not handle.
        type_name: &'static str,
        /// The error of serde.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The process could not be started, or it has not called [`init`](super::init) in time. The reason is the
    /// [`source`](Error::source).
    #[non_exhaustive]
    StartFailed {
        /// The type of the job.
        job: &'static str,
        /// The reason.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The job panicked.
    #[non_exhaustive]
    Panicked {
        /// The type of the job.
        job: &'static str,
        /// The panic message and its location.
        message: Arc<str>,
    },
    /// The process ended without a result: it aborted, exited or was killed.
    #[non_exhaustive]
    Died {
        /// The type of the job.
        job: &'static str,
    },
    /// The job exceeded its timeout and is killed.
    #[non_exhaustive]
    TimedOut {
        /// The type of the job.
        job: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// The caller is not inside of a tokio runtime.
    #[non_exhaustive]
    NoRuntime {
        /// The type of the job.
        job: &'static str,
    },
}

impl ProcessError {
    /// Returns the type of the job, in the form of [`std::any::type_name`].
    #[must_use]
    pub fn job(&self) -> &'static str {
        match self {
            Self::Saturated { job, .. }
            | Self::TooLarge { job, .. }
            | Self::Serialize { job, .. }
            | Self::StartFailed { job, .. }
            | Self::Panicked { job, .. }
            | Self::Died { job }
            | Self::TimedOut { job, .. }
            | Self::NoRuntime { job } => job,
        }
    }
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Saturated { job, limit } => {
                write!(f, "job `{job}`: there are already {limit} jobs waiting")
            }
            Self::TooLarge { job, size, limit } => write!(
                f,
                "job `{job}`: it or its output has {size} bytes, more than the {limit} that are allowed"
            ),
            Self::Serialize { job, type_name, .. } => {
                write!(f, "job `{job}`: a `{type_name}` cannot be sent as JSON")
            }
            Self::StartFailed { job, .. } => write!(f, "job `{job}`: no process could be started"),
            Self::Panicked { job, message } => write!(f, "job `{job}` has panicked: {message}"),
            Self::Died { job } => write!(f, "job `{job}`: its process has ended without a result"),
            Self::TimedOut { job, after } => {
                write!(f, "job `{job}` has not ended within {after:?}")
            }
            Self::NoRuntime { .. } => f.write_str("process pools need a running tokio runtime"),
        }
    }
}

impl Error for ProcessError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Serialize { error, .. } | Self::StartFailed { error, .. } => Some(&**error),
            _ => None,
        }
    }
}
