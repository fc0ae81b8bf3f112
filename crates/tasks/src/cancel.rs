//! Cancelling tasks.

use super::news::News;
use super::record::Record;
use super::tasks::{Core, Tasks};
use super::{TaskError, TaskId, TaskState, observe};
use std::sync::Arc;
use tokio::runtime::Handle;
use tower_promises_backend::kit::documents::Update;

enum Found {
    Nothing,
    Ended,
    /// In this queue, as a task of this type.
    Waiting(String, String),
    Running,
}

impl Tasks {
    /// Cancels a task. Returns `false` if it had ended already.
    ///
    /// A queued task is cancelled when the future resolves. The future of a running task is dropped by its worker
    /// shortly after, at its next `await`, unless the task ends first; its [state](super::TaskStatus::state) shows the
    /// result.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the task may or may not be cancelled.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`], [`TaskError::Backend`], and [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub async fn cancel(&self, id: &TaskId) -> Result<bool, TaskError> {
        Core::runtime()?;
        self.core.cancel(id, None).await
    }
}

impl Core {
    /// Cancels a task. Returns `false` if the task had ended already.
    ///
    /// With a tombstone, a task without a record is cancelled too: the tombstone becomes its record.
    pub(super) async fn cancel(
        &self,
        id: &TaskId,
        tombstone: Option<&Record>,
    ) -> Result<bool, TaskError> {
        let time_to_live = self.settings.retention;
        let waiting = |record: Record| {
            let (queue, task) = (record.queue.clone(), record.task.clone());
            (record, Found::Waiting(queue, task))
        };
        let update = |found: Option<Record>| {
            let (mut record, was) = match (found, tombstone) {
                (Some(record), _) if record.state.is_terminal() => {
                    return Update::Keep(Found::Ended);
                }
                (Some(record), _) if record.state == TaskState::Running => (record, Found::Running),
                (Some(record), _) => waiting(record),
                (None, Some(tombstone)) => waiting(tombstone.clone()),
                (None, None) => return Update::Keep(Found::Nothing),
            };
            record.cancel = true;
            if let Found::Waiting(..) = was {
                record.end(TaskState::Cancelled, time_to_live);
            }
            let time_to_live = record.time_to_live();
            Update::Set(record, time_to_live, was)
        };
        match self.records.backend.change(&id.record(), update).await? {
            Found::Nothing => Err(TaskError::NotFound { id: id.clone() }),
            Found::Ended => Ok(false),
            Found::Waiting(queue, task) => {
                self.meters.ended(&queue, &task, TaskState::Cancelled);
                self.announce(id, News::Ended).await;
                Ok(true)
            }
            Found::Running => {
                self.announce(id, News::Cancel).await;
                Ok(true)
            }
        }
    }
}

/// Guard that cancels a task on drop.
pub(super) struct CancelOnDrop {
    task: Option<(Arc<Core>, TaskId, Record)>,
    runtime: Handle,
}

impl CancelOnDrop {
    pub(super) fn new(core: Arc<Core>, id: TaskId, tombstone: Record, runtime: Handle) -> Self {
        Self {
            task: Some((core, id, tombstone)),
            runtime,
        }
    }

    /// Defuses the guard, because the task has ended.
    pub(super) fn completed(mut self) {
        self.task = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some((core, id, tombstone)) = self.task.take() {
            self.runtime.spawn(async move {
                let cancelled = core.cancel(&id, Some(&tombstone)).await;
                if let Err(TaskError::Backend { error }) = cancelled {
                    observe::backend_failed(&id, &error);
                }
            });
        }
    }
}
