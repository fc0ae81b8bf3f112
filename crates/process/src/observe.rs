//! Log events of process pools.

use super::ProcessError;
use tower_promises_backend::kit::log;

/// Logs crashes, timeouts and failed starts, which are bugs. The caller can report the other errors.
pub(super) fn failed(error: &ProcessError) {
    match error {
        ProcessError::Died { job } => {
            log::warning!(job, "process of a job has ended without a result");
        }
        ProcessError::TimedOut { job, after } => {
            log::warning!(job, ?after, "job is killed, it takes too long");
        }
        ProcessError::StartFailed { job, error } => {
            log::error!(
                job,
                error = &**error as &dyn std::error::Error,
                "process of a job does not start"
            );
        }
        _ => {}
    }
}
