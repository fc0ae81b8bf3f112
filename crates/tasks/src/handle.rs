use super::builder::TasksBuilder;
use super::core::Core;
use super::hub::News;
use super::scope::Caller;
use super::submit::decode;
use super::{
    Principal, Task, TaskError, TaskId, TaskService, TaskStatus, TraceContext, Worker, observe,
    scope,
};
use std::fmt;
use std::sync::Arc;
use tokio::time::timeout;
use tower_promises_backend::kit::topics::Subscription;
use tower_promises_backend::{Backend, BackendError};

/// A handle to all task services, see [the module](super).
///
/// Clones are cheap and refer to the same services. The handle can be axum `State` or a request extension. The handle
/// that [`TaskLayer`](super::TaskLayer) adds to a request always submits as the principal of that request.
#[derive(Clone)]
pub struct Tasks {
    core: Arc<Core>,
    /// `None` means the current caller.
    caller: Option<Caller>,
}

impl Tasks {
    /// Creates a builder for the services of a process, on top of `backend`.
    pub fn builder(backend: Backend) -> TasksBuilder {
        TasksBuilder::new(backend)
    }

    pub(super) fn of(core: Core) -> Self {
        Self {
            core: Arc::new(core),
            caller: None,
        }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn bound(&self, caller: Caller) -> Self {
        Self {
            core: self.core.clone(),
            caller: Some(caller),
        }
    }

    pub(super) fn unbound(&self) -> Self {
        Self {
            core: self.core.clone(),
            caller: None,
        }
    }

    pub(super) fn caller(&self) -> Caller {
        match &self.caller {
            Some(caller) => caller.clone(),
            None => scope::current().caller.clone(),
        }
    }

    /// Returns the principal that this handle submits as: the principal of the request that the handle was given to, or
    /// the [current](Principal::current) one. `None` if there is neither.
    #[must_use]
    pub fn principal(&self) -> Option<Principal> {
        self.caller().principal
    }

    /// Returns the trace context that this handle submits with.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.caller().trace
    }

    /// Returns a handle to the service `name`. If no service of this name was [added](TasksBuilder::service), submitted
    /// tasks run in place, with a warning in the log.
    #[must_use]
    pub fn service(&self, name: impl Into<Arc<str>>) -> TaskService {
        TaskService::new(self.clone(), name.into())
    }

    /// Starts a worker for all services. It runs tasks in this process until the [`Worker`] is drained or dropped.
    ///
    /// # Errors
    ///
    /// [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub fn work(&self) -> Result<Worker, TaskError> {
        let services = self.core.services.iter();
        let services = services.map(|(name, service)| (name.clone(), service.clone()));
        Worker::start(self, services)
    }

    /// Returns the status of a task. The caller must check access rights: the status contains the
    /// [principal](TaskStatus::principal) that submitted the task.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`], [`TaskError::Backend`], and [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub async fn status(&self, id: &TaskId) -> Result<TaskStatus, TaskError> {
        Core::runtime()?;
        let record = self.core.find(id).await?;
        Ok(TaskStatus::new(id.clone(), record))
    }

    /// Watches a task from now on.
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
        decode::<T>(id, &output)
    }

    /// Cancels a task. Returns `false` if it had ended already.
    ///
    /// A queued task is cancelled when the future resolves. The future of a running task is dropped by its worker
    /// shortly after, at its next `await`, unless the task ends first; its [state](TaskStatus::state) shows the result.
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

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("services", &self.core.services)
            .field("settings", &self.core.settings)
            .field("caller", &self.caller)
            .finish_non_exhaustive()
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
    /// lost is found after the [`poll_interval`](TasksBuilder::poll_interval). While the backend fails, the future
    /// keeps waiting.
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
            let found = self.core.records.find(&self.id).await;
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
