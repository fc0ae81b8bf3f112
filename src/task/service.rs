use super::builder::TaskServiceBuilder;
use super::request::Request;
use super::submit::{Call, Submit};
use super::{Task, TaskError, TaskId, TaskStatus, Tasks, Worker};
use std::fmt;
use std::sync::Arc;

/// A named task service: the way to its workers, wherever they are.
///
/// Clones are cheap and stand for the same service.
#[derive(Clone)]
pub struct TaskService {
    tasks: Tasks,
    name: Arc<str>,
}

impl TaskService {
    /// Describes a service, for [`TasksBuilder::service`](super::TasksBuilder::service).
    pub fn builder(name: impl Into<Arc<str>>) -> TaskServiceBuilder {
        TaskServiceBuilder::new(name)
    }

    pub(super) fn new(tasks: Tasks, name: Arc<str>) -> Self {
        Self { tasks, name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Submits a task: a future of its id. It runs as the [principal](Tasks::principal) for whom this is called.
    ///
    /// Within a task, and where nobody provides the service, it runs in place: the future resolves when it has ended,
    /// and its error is that of the future.
    ///
    /// The task is serialised here and now. The future's errors are [`TaskError::Serialize`], [`TaskError::TooLarge`],
    /// [`TaskError::NotRegistered`], [`TaskError::IdInUse`], [`TaskError::OtherArguments`] and [`TaskError::NoRuntime`]:
    /// it was not submitted.
    /// [`TaskError::Backend`]: it was not where the backend [says so](crate::backend::Queue::enqueue), otherwise it may
    /// have been.
    // By value, as a function takes its arguments; it is used up.
    #[allow(clippy::needless_pass_by_value)]
    pub fn submit<T: Task>(&self, task: T) -> Submit {
        Submit::new(Request::new(&self.tasks, &self.name, &task))
    }

    /// Calls a task: a future of its output, which can be a promise.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tower_promises::task::{Task, TaskContext, TaskFailure};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Render { id: u32 }
    /// # impl Task for Render {
    /// #     const NAME: &'static str = "render";
    /// #     type Output = String;
    /// #     async fn run(self, _: TaskContext) -> Result<String, TaskFailure> { Ok("report".into()) }
    /// # }
    /// use tower_promises::{PromiseError, Promises, Tasks};
    ///
    /// fn report(promises: &Promises, tasks: &Tasks, id: u32) -> Result<String, PromiseError> {
    ///     promises.result_or_try_submit("report", || tasks.service("reports").call(Render { id }))
    /// }
    /// # let _ = report;
    /// ```
    ///
    /// The future's errors are those of [`submit`](Self::submit) and what became of the task instead of an output:
    /// [`TaskError::Failed`], [`TaskError::Dead`], [`TaskError::Cancelled`], [`TaskError::TimedOut`],
    /// [`TaskError::NotFound`].
    // By value, as a function takes its arguments; it is used up.
    #[allow(clippy::needless_pass_by_value)]
    pub fn call<T: Task>(&self, task: T) -> Call<T> {
        Call::new(Request::new(&self.tasks, &self.name, &task))
    }

    /// Starts to run the tasks of this service alone in this process, until the [`Worker`] is drained or dropped.
    ///
    /// # Errors
    ///
    /// [`TaskError::NoRuntime`] outside of a tokio runtime. [`TaskError::NotFound`], with the name of the service for
    /// an id, where nobody has added it.
    pub fn work(&self) -> Result<Worker, TaskError> {
        let service = self.tasks.core().services.get(&self.name);
        let service = service.ok_or_else(|| TaskError::NotFound {
            id: TaskId::new(self.name.clone()),
        })?;
        Worker::start(&self.tasks, [(self.name.clone(), service.clone())])
    }

    /// The dead letters of the service, oldest first: tasks that were given up after several attempts. They are kept
    /// for [`dead_letter_time_to_live`](super::TasksBuilder::dead_letter_time_to_live), and the newest are listed,
    /// about a thousand: see [`MAX_DEAD_LETTER_BYTES`](super::MAX_DEAD_LETTER_BYTES). One that no worker could read as a
    /// whole has no [type](TaskStatus::task) and no principal, where those were not known before.
    ///
    /// # Errors
    ///
    /// [`TaskError::Backend`].
    pub async fn dead_letters(&self) -> Result<Vec<TaskStatus>, TaskError> {
        super::core::Core::runtime()?;
        self.tasks.core().dead_letters(&self.name).await
    }

    /// Sends a dead letter again: the task is queued, as the same principal, and has all its attempts again.
    ///
    /// Cancel safety: dropped before it resolves, it may or may not have been sent. To send it again is right.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`] where it is no dead letter of this service. [`TaskError::Backend`]: it may or may not
    /// have been sent.
    pub async fn send_again(&self, id: &TaskId) -> Result<(), TaskError> {
        super::core::Core::runtime()?;
        self.tasks.core().send_again(&self.name, id).await
    }

    /// Throws a dead letter away. What is known of the task is kept as long as that of others that have ended.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`] where it is no dead letter of this service, and [`TaskError::Backend`].
    pub async fn discard(&self, id: &TaskId) -> Result<(), TaskError> {
        super::core::Core::runtime()?;
        self.tasks.core().discard(&self.name, id).await
    }
}

impl fmt::Debug for TaskService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskService")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
