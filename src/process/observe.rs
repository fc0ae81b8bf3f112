//! What process pools tell the operator. Without the feature `tracing` all of this is nothing.

use super::ProcessError;
use crate::log;

/// A crash is a bug that nobody else may hear of; what is too large or too much is the caller's to report.
pub(super) fn failed(error: &ProcessError) {
    match error {
        ProcessError::Died { job } => {
            log::warning!(job, "process of a job has ended without a result");
        }
        ProcessError::TimedOut { job, after } => {
            log::warning!(job, ?after, "job is killed, it takes too long");
        }
        ProcessError::Start { job, error } => {
            log::error!(
                job,
                error = &**error as &dyn std::error::Error,
                "process of a job does not start"
            );
        }
        _ => {}
    }
}
