use super::builder::TasksBuilder;
use super::core::Core;
use super::hub::Subscription;
use super::scope::Caller;
use super::submit::decode;
use super::{
    Principal, Task, TaskError, TaskId, TaskService, TaskStatus, TraceContext, Worker, observe,
    scope,
};
use crate::backend::{Backend, BackendError};
use std::fmt;
use std::sync::Arc;
use tokio::time::timeout;

/// A handle to all task services, see [the module](super).
///
/// Clones are cheap and stand for the same services. It serves as axum `State` and as request extension. That which
/// [`TaskLayer`](super::TaskLayer) gives to a request submits as the principal of that request, wherever it is used.
#[derive(Clone)]
pub struct Tasks {
    core: Arc<Core>,
    /// `None` is whoever is current.
    caller: Option<Caller>,
}

impl Tasks {
    /// Builds the services of a process, over this backend.
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

    /// For whom this handle submits: the principal of the request that it was given to, else the
    /// [current](Principal::current) one, else nobody.
    #[must_use]
    pub fn principal(&self) -> Option<Principal> {
        self.caller().principal
    }

    /// The trace in which this handle submits.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.caller().trace
    }

    /// The service of this name. Where nobody has [added](TasksBuilder::service) one, what is submitted to it runs at
    /// once, in place, with a warning in the log.
    #[must_use]
    pub fn service(&self, name: impl Into<Arc<str>>) -> TaskService {
        TaskService::new(self.clone(), name.into())
    }

    /// Starts to run the tasks of all services in this process, until the [`Worker`] is drained or dropped.
    ///
    /// # Errors
    ///
    /// [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub fn work(&self) -> Result<Worker, TaskError> {
        let services = self.core.services.iter();
        let services = services.map(|(name, service)| (name.clone(), service.clone()));
        Worker::start(self, services)
    }

    /// What is known of a task. Who may ask, the caller decides: the status has the
    /// [principal](TaskStatus::principal) who has submitted it.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`] and [`TaskError::Backend`].
    pub async fn status(&self, id: &TaskId) -> Result<TaskStatus, TaskError> {
        Core::runtime()?;
        let record = self.core.find(id).await?;
        Ok(TaskStatus::new(id.clone(), record))
    }

    /// Watches a task, from now on.
    ///
    /// # Errors
    ///
    /// [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub fn watch(&self, id: &TaskId) -> Result<TaskWatch, TaskError> {
        Ok(TaskWatch {
            news: self.core.subscribe(id)?,
            core: self.core.clone(),
            id: id.clone(),
            is_new: true,
        })
    }

    /// Waits for the output of a task that was submitted, by whomever. It does not fail with the backend, but waits
    /// until that has recovered.
    ///
    /// Cancel safety: dropping it leaves the task alone.
    ///
    /// # Errors
    ///
    /// What became of the task instead: [`TaskError::Failed`], [`TaskError::Dead`], [`TaskError::Cancelled`],
    /// [`TaskError::NotFound`]; [`TaskError::WrongType`] where the output is not that of this type, or of another
    /// version of it: it stays stored for its time, and a version that knows it can read it. The same holds for
    /// [`TaskError::Backend`] with [`BackendError::Unreadable`], which says that another version of this crate has
    /// stored the task.
    pub async fn output<T: Task>(&self, id: &TaskId) -> Result<T::Output, TaskError> {
        let output = self.core.output(id).await?;
        decode::<T>(id, &output)
    }

    /// Cancels a task, and returns whether it had not ended.
    ///
    /// One that waits is cancelled when this resolves. One that runs is dropped by its worker shortly after, at its
    /// next `await`, unless it ends before: its [state](TaskStatus::state) tells.
    ///
    /// Cancel safety: dropped before it resolves, the task may or may not be cancelled.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`] and [`TaskError::Backend`].
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

/// Watches a task, see [`Tasks::watch`].
pub struct TaskWatch {
    core: Arc<Core>,
    id: TaskId,
    news: Subscription,
    is_new: bool,
}

impl TaskWatch {
    /// The status of the task: at once for the first time, then whenever it may have changed. It need not have, and
    /// statuses between two calls are skipped. A change that the bus does not tell is found after the
    /// [`poll_interval`](TasksBuilder::poll_interval). While the backend fails, it waits.
    ///
    /// Cancel safety: dropped before it resolves, nothing is lost.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`], and [`TaskError::Backend`] with [`BackendError::Unreadable`] where another version of
    /// this crate has stored what this one cannot read.
    pub async fn changed(&mut self) -> Result<TaskStatus, TaskError> {
        loop {
            if !self.is_new {
                let _ = timeout(self.core.settings.poll_interval, self.news.changed()).await;
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
