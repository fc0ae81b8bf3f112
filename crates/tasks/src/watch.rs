use super::news::News;
use super::tasks::{Core, Tasks};
use super::{TaskError, TaskId, TaskStatus, observe};
use std::fmt;
use std::sync::Arc;
use tokio::time::timeout;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::topics::Subscription;

impl Tasks {
    /// Watches a task from now on.
    ///
    /// ```
    /// use tower_promises_tasks::{TaskError, TaskId, Tasks};
    ///
    /// /// Shows the progress of a task until it has ended.
    /// async fn follow(tasks: &Tasks, id: &TaskId) -> Result<(), TaskError> {
    ///     let mut watch = tasks.watch(id)?;
    ///     loop {
    ///         let status = watch.changed().await?;
    ///         println!("{:?}: {:?} %", status.state(), status.progress());
    ///         if status.finished().is_some() {
    ///             return Ok(());
    ///         }
    ///     }
    /// }
    /// # let _ = follow;
    /// ```
    ///
    /// # Errors
    ///
    /// [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub fn watch(&self, id: &TaskId) -> Result<TaskWatch, TaskError> {
        Ok(TaskWatch {
            news: self.core.subscribe(id, News::Changed)?,
            core: self.core.clone(),
            id: id.clone(),
            is_new: true,
        })
    }
}

/// A watch on a task, created by [`Tasks::watch`].
pub struct TaskWatch {
    core: Arc<Core>,
    id: TaskId,
    news: Subscription,
    is_new: bool,
}

impl TaskWatch {
    /// Returns the status of the task: at once on the first call, then after each possible change.
    ///
    /// Two successive statuses may be equal, and statuses between two calls are skipped. A change whose bus message was
    /// lost is found after the [`poll_interval`](super::TasksBuilder::poll_interval). While the backend fails, the
    /// future keeps waiting.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`], and [`TaskError::Backend`] with [`BackendError::Unreadable`] if another version of this
    /// crate has written the record.
    pub async fn changed(&mut self) -> Result<TaskStatus, TaskError> {
        loop {
            if !self.is_new {
                let _ = timeout(self.core.settings.poll_interval, self.news.notified()).await;
                self.is_new = true;
            }
            let found = self.core.records.read(&self.id).await;
            self.is_new = false;
            match found {
                Ok(Some(record)) => return Ok(TaskStatus::new(self.id.clone(), record)),
                Ok(None) => {
                    return Err(TaskError::NotFound {
                        id: self.id.clone(),
                    });
                }
                Err(error @ BackendError::Unreadable { .. }) => return Err(error.into()),
                Err(error) => observe::backend_failed(&self.id, &error),
            }
        }
    }
}

impl fmt::Debug for TaskWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskWatch")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
