use crate::promise::error::Failure;
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

    pub(in crate::promise) fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Failed(_) => Self::Failed,
            Failure::TimedOut => Self::TimedOut,
            Failure::Panicked(_) => Self::Panicked,
            Failure::Cancelled => Self::Cancelled,
            #[cfg(feature = "blocking")]
            Failure::Saturated => Self::Rejected,
        }
    }
}

impl fmt::Display for PromiseOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
