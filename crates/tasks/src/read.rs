//! Reading of a task's status and output.

use super::news::News;
use super::task::read_output;
use super::tasks::{Core, Tasks};
use super::{Task, TaskError, TaskId, TaskStatus, observe};
use serde_json::value::RawValue;
use tokio::time::timeout;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::topics::Subscription;

impl Tasks {
    /// Returns the status of a task. The caller must check access rights: the status contains the
    /// [principal](TaskStatus::principal) that submitted the task.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`], [`TaskError::Backend`], and [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub async fn status(&self, id: &TaskId) -> Result<TaskStatus, TaskError> {
        Core::runtime()?;
        let record = self.core.read(id).await?;
        Ok(TaskStatus::new(id.clone(), record))
    }

    /// Waits for the output of a task, which may have been submitted by any process. While the backend fails, the
    /// future keeps waiting.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not affect the task.
    ///
    /// # Errors
    ///
    /// - [`TaskError::Failed`], [`TaskError::Dead`] or [`TaskError::Cancelled`] if the task ended without an output.
    /// - [`TaskError::NotFound`] if no such task exists.
    /// - [`TaskError::WrongType`] if the output is not of this type, or was written by another version of the type. The
    ///   output stays stored, and a matching version can read it.
    /// - [`TaskError::Backend`] with [`BackendError::Unreadable`] if another version of this crate has written the
    ///   record. The record stays stored as well.
    /// - [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub async fn output<T: Task>(&self, id: &TaskId) -> Result<T::Output, TaskError> {
        let output = self.core.output(id).await?;
        read_output::<T>(id, &output)
    }
}

impl Core {
    /// Waits for the output of a task. While the backend fails, this function keeps waiting.
    pub(super) async fn output(&self, id: &TaskId) -> Result<Box<RawValue>, TaskError> {
        let mut ends = self.subscribe(id, News::Ended)?;
        loop {
            if let Some(outcome) = self.look(id).await {
                return outcome;
            }
            self.wait(&mut ends).await;
        }
    }

    /// Waits for the output of a task that was submitted after the subscription, so that it has no end yet that was not
    /// announced.
    pub(super) async fn output_of_new(
        &self,
        id: &TaskId,
        mut ends: Subscription,
    ) -> Result<Box<RawValue>, TaskError> {
        loop {
            self.wait(&mut ends).await;
            if let Some(outcome) = self.look(id).await {
                return outcome;
            }
        }
    }

    async fn wait(&self, ends: &mut Subscription) {
        // The timeout covers lost bus messages.
        let _ = timeout(self.settings.poll_interval, ends.notified()).await;
    }

    /// Returns the outcome of a task, `None` if it has not ended or the backend fails.
    async fn look(&self, id: &TaskId) -> Option<Result<Box<RawValue>, TaskError>> {
        match self.records.read(id).await {
            Ok(Some(record)) => record.outcome(id),
            Ok(None) => Some(Err(TaskError::NotFound { id: id.clone() })),
            Err(error @ BackendError::Unreadable { .. }) => Some(Err(error.into())),
            Err(error) => {
                observe::backend_failed(id, &error);
                None
            }
        }
    }
}
