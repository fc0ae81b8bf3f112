//! What process pools tell the operator. Without the feature `tracing` all of this is nothing.

use super::ProcessError;

/// The crate rather than this private module, so that filters need no knowledge of the latter.
#[cfg(feature = "tracing")]
const TARGET: &str = "tower_promises";

/// A crash is a bug that nobody else may hear of; what is too large or too much is the caller's to report.
pub(super) fn failed(error: &ProcessError) {
    #[cfg(feature = "tracing")]
    match error {
        ProcessError::Died { job } => {
            tracing::warn!(target: TARGET, job, "process of a job has ended without a result");
        }
        ProcessError::TimedOut { job, after } => {
            tracing::warn!(target: TARGET, job, ?after, "job is killed, it takes too long");
        }
        ProcessError::Start { job, error } => {
            tracing::error!(target: TARGET, job, error = &**error as &dyn std::error::Error, "process of a job does not start");
        }
        _ => {}
    }
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}
