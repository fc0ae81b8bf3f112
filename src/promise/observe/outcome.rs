use crate::promise::error::Failure;
use std::fmt;

/// How a promise ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PromiseOutcome {
    /// The promise has a value.
    Fulfilled,
    /// The promise ended with its own error.
    Failed,
    /// The promise exceeded a timeout.
    TimedOut,
    /// The promise panicked.
    Panicked,
    /// The promise was cancelled, or its request ended first.
    Cancelled,
    /// The promise could not run, because the pool for blocking promises had no room.
    Rejected,
}

impl PromiseOutcome {
    /// The name of the outcome in labels and logs: lowercase words with underscores.
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
            #[cfg(feature = "operations")]
            Failure::Unreadable(_) | Failure::NotRemembered(_) => Self::Failed,
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
