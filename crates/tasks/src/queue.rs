use super::submission::Submission;
use super::submit::{Call, Submit};
use super::tasks::Core;
use super::{Task, TaskError, TaskId, TaskStatus, Tasks, Worker};
use std::fmt;
use std::sync::Arc;

/// A handle to a named task queue, which sends tasks to its workers.
///
/// Clones are cheap and refer to the same queue.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use tower_promises_backend::Backend;
/// # use tower_promises_tasks::{Task, TaskContext, TaskError, TaskFailure, TaskQueueOptions, Tasks};
/// # #[derive(Serialize, Deserialize)]
/// # struct Mail { to: String }
/// # impl Task for Mail {
/// #     const NAME: &'static str = "mail";
/// #     type Output = ();
/// #     async fn run(self, _: TaskContext) -> Result<(), TaskFailure> { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), TaskError> {
/// # let tasks = Tasks::builder(Backend::memory())
/// #     .queue(TaskQueueOptions::new("mails").task::<Mail>())
/// #     .build();
/// let mails = tasks.queue("mails");
/// assert_eq!(mails.name(), "mails");
/// // A worker for this queue only.
/// let worker = mails.work()?;
///
/// // Continues after the response.
/// let id = mails.submit(Mail { to: "ferris@example.com".into() }).await?;
/// // Waits for the output.
/// mails.call(Mail { to: "corro@example.com".into() }).await?;
///
/// // Tasks that were given up. A person decides what becomes of them.
/// for letter in mails.dead_letters().await? {
///     if letter.attempt() > 5 {
///         mails.discard(letter.id()).await?;
///     } else {
///         mails.send_again(letter.id()).await?;
///     }
/// }
/// # let _ = (id, worker);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TaskQueue {
    tasks: Tasks,
    name: Arc<str>,
}

impl Tasks {
    /// Returns a handle to the queue `name`. If no queue of this name was [added](super::TasksBuilder::queue),
    /// submitted tasks run in place, with a warning in the log.
    #[must_use]
    pub fn queue(&self, name: impl Into<Arc<str>>) -> TaskQueue {
        TaskQueue {
            tasks: self.clone(),
            name: name.into(),
        }
    }
}

impl TaskQueue {
    /// Returns the name of the queue.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Submits a task. The returned future resolves to its id. The task runs as the [principal](Tasks::principal) of
    /// this handle.
    ///
    /// Within a task, and if the queue was not [added](super::TasksBuilder::queue), the task runs in place. The future
    /// then resolves when the task has ended, and returns its error.
    ///
    /// The task is serialised by this call. The future fails with [`TaskError::Serialize`], [`TaskError::TooLarge`],
    /// [`TaskError::NotRegistered`], [`TaskError::IdInUse`], [`TaskError::OtherArguments`] or [`TaskError::NoRuntime`]
    /// if the task was not submitted. After [`TaskError::Backend`], the task may have been submitted, except for the
    /// errors that [`Queue::enqueue`](tower_promises_backend::Queue::enqueue) lists.
    // By value, because the task is an argument that the call consumes.
    #[allow(clippy::needless_pass_by_value)]
    pub fn submit<T: Task>(&self, task: T) -> Submit {
        Submit::new(Submission::new(&self.tasks, &self.name, &task))
    }

    /// Calls a task. The returned future resolves to its output, and can be a promise.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tower_promises_tasks::{Task, TaskContext, TaskFailure};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Render { id: u32 }
    /// # impl Task for Render {
    /// #     const NAME: &'static str = "render";
    /// #     type Output = String;
    /// #     async fn run(self, _: TaskContext) -> Result<String, TaskFailure> { Ok("report".into()) }
    /// # }
    /// use tower_promises::{PromiseError, Promises};
    /// use tower_promises_tasks::Tasks;
    ///
    /// fn report(promises: &Promises, tasks: &Tasks, id: u32) -> Result<String, PromiseError> {
    ///     promises.result_or_try_submit("report", || tasks.queue("reports").call(Render { id }))
    /// }
    /// # let _ = report;
    /// ```
    ///
    /// The future fails with the errors of [`submit`](Self::submit). If the task has no output, it fails with
    /// [`TaskError::Failed`], [`TaskError::Dead`], [`TaskError::Cancelled`], [`TaskError::TimedOut`] or
    /// [`TaskError::NotFound`]. If the output cannot be read, it fails with [`TaskError::WrongType`].
    // By value, because the task is an argument that the call consumes.
    #[allow(clippy::needless_pass_by_value)]
    pub fn call<T: Task>(&self, task: T) -> Call<T> {
        Call::new(Submission::new(&self.tasks, &self.name, &task))
    }

    /// Starts a worker for this queue only. It runs tasks in this process until the [`Worker`] is drained or dropped.
    ///
    /// # Errors
    ///
    /// [`TaskError::NoRuntime`] outside of a tokio runtime. [`TaskError::UnknownQueue`] if the queue was not added.
    pub fn work(&self) -> Result<Worker, TaskError> {
        let Some(provided) = self.tasks.core.queues.get(&self.name) else {
            return Err(TaskError::UnknownQueue {
                queue: self.name.clone(),
            });
        };
        Worker::start(&self.tasks, [(self.name.clone(), provided.clone())])
    }

    /// Returns the dead letters of the queue, oldest first: tasks that were given up after several attempts. Removes
    /// expired ones from the list.
    ///
    /// Dead letters are kept for [`dead_letter_retention`](super::TasksBuilder::dead_letter_retention). At most
    /// 48 KiB of ids are listed, the newest ones: more than a thousand random ids. A dead letter that no worker could
    /// read as a whole has no [type](TaskStatus::task) and no principal, unless they were known before.
    ///
    /// # Errors
    ///
    /// [`TaskError::Backend`], and [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub async fn dead_letters(&self) -> Result<Vec<TaskStatus>, TaskError> {
        Core::runtime()?;
        self.tasks.core.dead_letters(&self.name).await
    }

    /// Sends a dead letter again. The task is queued as the same principal, with all its attempts and a new
    /// [lifetime](super::TasksBuilder::lifetime).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the task may or may not have been sent. Retrying is safe.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`] if the id is not a dead letter of this queue. [`TaskError::NoRuntime`] outside of a
    /// tokio runtime. After [`TaskError::Backend`], the task may or may not have been sent.
    pub async fn send_again(&self, id: &TaskId) -> Result<(), TaskError> {
        Core::runtime()?;
        self.tasks.core.send_again(&self.name, id).await
    }

    /// Deletes a dead letter. The status of the task is kept for the
    /// [`retention`](super::TasksBuilder::retention).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the dead letter may or may not have been deleted.
    ///
    /// # Errors
    ///
    /// [`TaskError::NotFound`] if the id is not a dead letter of this queue, [`TaskError::Backend`], and
    /// [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub async fn discard(&self, id: &TaskId) -> Result<(), TaskError> {
        Core::runtime()?;
        self.tasks.core.discard(&self.name, id).await
    }
}

impl fmt::Debug for TaskQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskQueue")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
