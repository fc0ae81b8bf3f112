use super::submission::Submission;
use super::task::read_output;
use super::within::SubmitWithin;
use super::{Task, TaskError, TaskId, Unique};
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use std::any::{Any, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower_promises_backend::{ApplicationConnection, Priority};

/// Future returned by [`TaskQueue::submit`](super::TaskQueue::submit). It resolves to the id of the task once the
/// backend has accepted the task.
///
/// The future does nothing until it is polled. It borrows nothing, so it can be a promise.
///
/// # Cancel safety
///
/// If the future is dropped before it resolves, the task may or may not have been submitted. Submitting again with the
/// same [id](Self::with_id) is safe.
///
/// # Panics
///
/// Panics if it is polled after completion.
#[must_use = "futures do nothing unless polled"]
pub struct Submit {
    state: State<TaskId>,
    id: TaskId,
}

/// Future returned by [`TaskQueue::call`](super::TaskQueue::call). It resolves to the output of a task.
///
/// The future does nothing until it is polled. It borrows nothing, so it can be a promise. After submission, it keeps
/// waiting while the backend fails.
///
/// # Cancel safety
///
/// Dropping the future cancels the task, whether it is queued or running. So a task that is a promise is cancelled with
/// its request. The task continues if [`detached`](Self::detached) or [`with_id`](Self::with_id) was called.
///
/// # Panics
///
/// Panics if it is polled after completion.
#[must_use = "futures do nothing unless polled"]
pub struct Call<T> {
    state: State<Box<RawValue>>,
    id: TaskId,
    timeout: Option<Duration>,
    is_detached: bool,
    task: PhantomData<fn() -> T>,
}

enum State<T> {
    /// Not polled yet.
    Created(Box<Submission>),
    Running(BoxFuture<'static, Result<T, TaskError>>),
    Done,
}

impl<T> State<T> {
    fn change(&mut self, change: impl FnOnce(&mut Submission)) {
        if let Self::Created(submission) = self {
            change(submission);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        start: impl FnOnce(Submission) -> BoxFuture<'static, Result<T, TaskError>>,
    ) -> Poll<Result<T, TaskError>> {
        if let Self::Created(_) = self {
            if let Self::Created(submission) = mem::replace(self, Self::Done) {
                *self = Self::Running(start(*submission));
            }
        }
        let Self::Running(running) = self else {
            panic!("a task was polled after it was ready");
        };
        let polled = running.as_mut().poll(cx);
        if polled.is_ready() {
            *self = Self::Done;
        }
        polled
    }
}

impl Submit {
    pub(super) fn new(submission: Submission) -> Self {
        Self {
            id: submission.id().clone(),
            state: State::Created(Box::new(submission)),
        }
    }

    /// Returns the id that the task will have.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Submits the task under this id at most once. If a task with this id exists, no task is submitted, and the future
    /// resolves to the id. This holds until the record of the task expires, see
    /// [`retention`](super::TasksBuilder::retention).
    ///
    /// All queues and principals share one set of ids. An id of a task of another type, queue or principal is
    /// [`TaskError::IdInUse`]. An id that a client chooses should contain the client's principal, otherwise clients can
    /// occupy each other's ids.
    ///
    /// An id of a task with other arguments is [`TaskError::OtherArguments`], as long as the id is known.
    /// [`unique`](Self::unique) sets another policy. Arguments are
    /// equal if their JSON is equal, regardless of the order of map keys. The order of sequences counts, and it varies
    /// for a `HashSet`: use a `BTreeSet`. A version of the program that adds a field submits other arguments, unless it
    /// skips the field at its default value (`skip_serializing_if`).
    ///
    /// A task that runs in place runs each time, whether or not the id is known.
    pub fn with_id(mut self, id: impl Into<TaskId>) -> Self {
        self.id = id.into();
        self.state
            .change(|submission| submission.set_id(self.id.clone()));
        self
    }

    /// Sets what happens if a task with the [id](Self::with_id) exists, by default [`Unique::Same`]. Without an explicit
    /// id, the setting has no effect.
    pub fn unique(mut self, unique: Unique) -> Self {
        self.state.change(|submission| submission.unique = unique);
        self
    }

    /// Sets the minimum time before the task starts.
    ///
    /// A backend without [delays](tower_promises_backend::Capabilities::delays) returns [`TaskError::Backend`]. Tasks
    /// that run in place are not delayed.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.state.change(|submission| submission.delay = delay);
        self
    }

    /// Sets the priority within the queue, by default [`Priority::Normal`].
    ///
    /// A backend without [priorities](tower_promises_backend::Capabilities::priorities) returns [`TaskError::Backend`]
    /// for every other priority.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.state
            .change(|submission| submission.priority = priority);
        self
    }

    /// Submits another task, to the queue of this name, when this one has ended, in any state: succeeded, failed, dead
    /// or cancelled.
    ///
    /// The other task runs at least once, after the end is recorded, also if the process that records it dies at that
    /// moment. It acts for the same principal, and finds the end in [`TaskContext::ended`](super::TaskContext::ended).
    /// Its queue must have been [added](super::TasksBuilder::queue), and the arguments of both tasks together must have
    /// at most [`max_task_bytes`](super::TasksBuilder::max_task_bytes). A dead letter that is sent again ends again. If
    /// the [id](Self::with_id) exists already, the call of the first submission counts.
    ///
    /// A task that is cancelled while it waits is followed by the other task when a worker gets its envelope, so at
    /// most after its delay. A task that runs in place is followed by the other task as well, unless its process dies
    /// or its future is dropped.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tower_promises_tasks::{Task, TaskContext, TaskFailure};
    /// use tower_promises_tasks::{TaskError, Tasks};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Import;
    /// # impl Task for Import {
    /// #     const NAME: &'static str = "import";
    /// #     type Output = ();
    /// #     async fn run(self, _: TaskContext) -> Result<(), TaskFailure> { Ok(()) }
    /// # }
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct SendMail {
    ///     address: String,
    /// }
    ///
    /// impl Task for SendMail {
    ///     const NAME: &'static str = "send mail";
    ///     type Output = ();
    ///
    ///     async fn run(self, context: TaskContext) -> Result<(), TaskFailure> {
    ///         let ended = context.ended().ok_or("no task has ended")?;
    ///         println!("to {}: {} has {}", self.address, ended.id(), ended.state());
    ///         Ok(())
    ///     }
    /// }
    ///
    /// async fn import(tasks: &Tasks, address: String) -> Result<(), TaskError> {
    ///     let import = tasks.queue("imports").submit(Import);
    ///     import.on_end("mails", SendMail { address }).await?;
    ///     Ok(())
    /// }
    /// # let _ = import;
    /// ```
    // By value, because the task is an argument that the call consumes.
    #[allow(clippy::needless_pass_by_value)]
    pub fn on_end<E: Task>(mut self, queue: impl Into<Arc<str>>, task: E) -> Self {
        self.state
            .change(|submission| submission.set_on_end(&queue.into(), &task));
        self
    }

    /// Submits the task in the transaction that a connection of the application is in: the task exists if and only if
    /// that transaction commits. See [the guide](super::guide#tasks-in-a-transaction).
    ///
    /// The backend must be on the database of the connection. The package of its adapter documents the types of
    /// connections and transactions: `&mut *transaction` of sqlx, for example.
    ///
    /// ```no_run
    /// # use serde::{Deserialize, Serialize};
    /// # use tower_promises_tasks::{Task, TaskContext, TaskFailure};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Confirm { order: i64 }
    /// # impl Task for Confirm {
    /// #     const NAME: &'static str = "confirm";
    /// #     type Output = ();
    /// #     async fn run(self, _: TaskContext) -> Result<(), TaskFailure> { Ok(()) }
    /// # }
    /// use sqlx::sqlite::SqlitePool;
    /// use tower_promises_tasks::Tasks;
    ///
    /// async fn order(pool: &SqlitePool, tasks: &Tasks) -> Result<(), Box<dyn std::error::Error>> {
    ///     // A transaction that reads before it writes could otherwise end with a conflict.
    ///     let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    ///     let order = "INSERT INTO orders (item) VALUES ('tea') RETURNING id";
    ///     let order = sqlx::query_scalar(order).fetch_one(&mut *transaction).await?;
    ///     tasks.queue("mails").submit(Confirm { order }).within(&mut *transaction).await?;
    ///     transaction.commit().await?;
    ///     Ok(())
    /// }
    /// # let _ = order;
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if this future was polled before.
    pub fn within<C: Any + Send>(self, connection: &mut C) -> SubmitWithin<'_> {
        let State::Created(submission) = self.state else {
            panic!("a task was submitted before it got a transaction");
        };
        let connection = ApplicationConnection::new(connection);
        SubmitWithin::new(self.id, submission.submit_within(connection))
    }
}

impl Future for Submit {
    type Output = Result<TaskId, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.state
            .poll(cx, |submission| Box::pin(submission.submit()))
    }
}

impl fmt::Debug for Submit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submit")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<T: Task> Call<T> {
    pub(super) fn new(submission: Submission) -> Self {
        Self {
            id: submission.id().clone(),
            state: State::Created(Box::new(submission)),
            timeout: None,
            is_detached: false,
            task: PhantomData,
        }
    }

    /// Returns the id that the task will have.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Calls the task under this id at most once. If a task with this id exists, the future waits for the output of
    /// that task. Several callers can wait for the same task, and the task continues when this future is dropped. See
    /// [`Submit::with_id`].
    pub fn with_id(mut self, id: impl Into<TaskId>) -> Self {
        self.id = id.into();
        self.state
            .change(|submission| submission.set_id(self.id.clone()));
        self
    }

    /// Sets the priority within the queue, see [`Submit::priority`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.state
            .change(|submission| submission.priority = priority);
        self
    }

    /// Lets the task continue when this future is dropped or times out.
    pub fn detached(mut self) -> Self {
        self.is_detached = true;
        self
    }

    /// Sets a timeout, which starts with the first poll. A task that has not ended by then is cancelled, unless it is
    /// [detached](Self::detached), and the future fails with [`TaskError::TimedOut`].
    ///
    /// By default there is no timeout. The future then waits as long as the [lifetime](super::TasksBuilder::lifetime)
    /// of the task.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Submits another task when this one has ended, see [`Submit::on_end`].
    // By value, because the task is an argument that the call consumes.
    #[allow(clippy::needless_pass_by_value)]
    pub fn on_end<E: Task>(mut self, queue: impl Into<Arc<str>>, task: E) -> Self {
        self.state
            .change(|submission| submission.set_on_end(&queue.into(), &task));
        self
    }

    /// Forwards the progress and the messages of the task to an operation, wherever the task runs. A request that waits
    /// for a task, as a promise or not, can then become an operation that shows the progress of the task. Cancelling
    /// the operation drops this future, which cancels the task.
    ///
    /// Progress arrives after at most one [`progress_interval`](super::TasksBuilder::progress_interval), unless a bus
    /// message is lost. A repeated attempt starts again with its own first values.
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
    /// use tower_promises_operations::Progress;
    /// use tower_promises_tasks::Tasks;
    ///
    /// fn report(promises: &Promises, tasks: &Tasks, progress: &Progress) -> Result<String, PromiseError> {
    ///     promises.result_or_try_submit("report", || {
    ///         tasks.queue("reports").call(Render { id: 7 }).report_to(progress.clone())
    ///     })
    /// }
    /// # let _ = report;
    /// ```
    #[cfg(feature = "operations")]
    pub fn report_to(mut self, progress: tower_promises_operations::Progress) -> Self {
        self.state.change(|submission| {
            submission.on_report = Some(Box::new(move |report| {
                if let Some(percent) = report.percent {
                    progress.set(percent);
                }
                if let Some(message) = &report.message {
                    progress.set_message(message.as_str());
                }
            }));
        });
        self
    }
}

impl<T: Task> Future for Call<T> {
    type Output = Result<T::Output, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (timeout, is_detached) = (self.timeout, self.is_detached);
        let polled = self.state.poll(cx, |submission| {
            Box::pin(submission.call(timeout, is_detached))
        });
        polled.map(|output| read_output::<T>(&self.id, &output?))
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("id", &self.id)
            .field("task", &type_name::<T>())
            .finish_non_exhaustive()
    }
}
