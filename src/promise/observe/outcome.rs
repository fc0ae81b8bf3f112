use crate::promise::PromiseError;
use std::fmt;

/// What became of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PromiseOutcome {
    /// It has a value.
    Fulfilled,
    /// It ended with an error of its own.
    Failed,
    /// It took too long.
    TimedOut,
    /// It panicked.
    Panicked,
    /// It was cancelled, or its request ended first.
    Cancelled,
    /// It could not run.
    Rejected,
}

impl PromiseOutcome {
    /// Its name in labels and logs: lowercase words with underscores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fulfilled => "fulfilled",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::Cancelled => "cancelled",
            Self::Rejected => "rejected",
        }
    }

    pub(in crate::promise) fn of(error: &PromiseError) -> Self {
        match error {
            PromiseError::TimedOut { .. } => Self::TimedOut,
            PromiseError::Panicked { .. } => Self::Panicked,
            PromiseError::Cancelled { .. } | PromiseError::Ended { .. } => Self::Cancelled,
            PromiseError::Rejected { .. } => Self::Rejected,
            _ => Self::Failed,
        }
    }
}

impl fmt::Display for PromiseOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
