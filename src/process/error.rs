use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a [`ProcessJob`](super::ProcessJob) has no output. All name the type of the job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProcessError {
    /// As many jobs wait as may.
    Saturated {
        /// The type of the job.
        job: &'static str,
        /// How many may wait.
        limit: usize,
    },
    /// The job or its output is too large.
    TooLarge {
        /// The type of the job.
        job: &'static str,
        /// How many bytes it has as JSON.
        size: u64,
        /// How many bytes it may have.
        limit: u64,
    },
    /// The job or its output does not survive serde. What serde says is the [`source`](Error::source).
    Serialize {
        /// The type of the job.
        job: &'static str,
        /// The type of what serde has refused.
        type_name: &'static str,
        /// What serde says.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// No process could be started, or it has not called [`init`](super::init) in time. The reason is the
    /// [`source`](Error::source).
    Start {
        /// The type of the job.
        job: &'static str,
        /// What went wrong.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// The job has panicked.
    Panicked {
        /// The type of the job.
        job: &'static str,
        /// What the panic says, and where it was.
        message: Arc<str>,
    },
    /// The process has ended without a result: it has aborted or exited, or was killed.
    Died {
        /// The type of the job.
        job: &'static str,
    },
    /// The job has taken too long, and is killed.
    TimedOut {
        /// The type of the job.
        job: &'static str,
        /// The time it was given.
        after: Duration,
    },
    /// No tokio runtime is running here.
    NoRuntime {
        /// The type of the job.
        job: &'static str,
    },
}

impl ProcessError {
    /// The type of the job, as the compiler calls it.
    #[must_use]
    pub fn job(&self) -> &'static str {
        match self {
            Self::Saturated { job, .. }
            | Self::TooLarge { job, .. }
            | Self::Serialize { job, .. }
            | Self::Start { job, .. }
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
                write!(
                    f,
                    "job `{job}`: a `{type_name}` does not survive serialising"
                )
            }
            Self::Start { job, .. } => write!(f, "job `{job}`: no process could be started"),
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
            Self::Serialize { error, .. } | Self::Start { error, .. } => Some(&**error),
            _ => None,
        }
    }
}
