use super::request::Request;
use super::{Task, TaskError, TaskId};
use crate::backend::Priority;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Future returned by [`TaskService::submit`](super::TaskService::submit): the id of the task, once it will not be
/// lost.
///
/// Nothing happens before it is polled, and it borrows nothing, so it can be a promise.
///
/// # Cancel safety
///
/// Dropped before it resolves, the task may or may not have been submitted. To submit it again with the same
/// [id](Self::with_id) is always right.
///
/// # Panics
///
/// Like most futures, it panics if it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Submit {
    state: State<TaskId>,
    id: TaskId,
}

/// Future returned by [`TaskService::call`](super::TaskService::call): the output of a task.
///
/// Nothing happens before it is polled, and it borrows nothing, so it can be a promise. Once the task is submitted, it
/// waits while the backend fails, until that has recovered.
///
/// # Cancel safety
///
/// Dropping it cancels the task, whether it waits or runs: nobody wants the output any more. So a task that is a
/// promise is cancelled with its request. The task goes on, however, where [`detached`](Self::detached) or
/// [`with_id`](Self::with_id) was called.
///
/// # Panics
///
/// Like most futures, it panics if it is polled after it was ready.
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
    Created(Box<Request>),
    Running(BoxFuture<'static, Result<T, TaskError>>),
    Done,
}

impl<T> State<T> {
    fn change(&mut self, change: impl FnOnce(&mut Request)) {
        if let Self::Created(request) = self {
            change(request);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        start: impl FnOnce(Request) -> BoxFuture<'static, Result<T, TaskError>>,
    ) -> Poll<Result<T, TaskError>> {
        if let Self::Created(_) = self {
            if let Self::Created(request) = mem::replace(self, Self::Done) {
                *self = Self::Running(start(*request));
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
    pub(super) fn new(request: Request) -> Self {
        Self {
            id: request.id().clone(),
            state: State::Created(Box::new(request)),
        }
    }

    /// The id that the task will have.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Submits it under this id, once: if there is a task of this id, this one is not submitted, and the id is
    /// returned all the same. That holds until the task is forgotten, see
    /// [`result_time_to_live`](super::TasksBuilder::result_time_to_live).
    ///
    /// The id is the same for all services and principals. If it belongs to a task of another type, service or
    /// principal, it is [`TaskError::IdInUse`]. An id that a client chooses should have its principal in it, or clients
    /// can keep ids from each other.
    ///
    /// If it belongs to a task with other arguments, it is [`TaskError::OtherArguments`], for as long as the id is
    /// known. Arguments are the same if their JSON is, whatever the order of the keys of maps. The order of sequences
    /// counts, and a `HashSet` has another one each time: use a `BTreeSet`. A version of the program that adds a field
    /// submits other arguments, unless it skips the field where that has its default (`skip_serializing_if`).
    ///
    /// What runs in place is a part of the code that submits it: it runs each time, whatever is known of the id.
    pub fn with_id(mut self, id: impl Into<TaskId>) -> Self {
        self.id = id.into();
        self.state.change(|request| request.set_id(self.id.clone()));
        self
    }

    /// Lets it begin after this time, at the earliest.
    ///
    /// Where the queue has no [delays](crate::backend::Capabilities::delays) it is [`TaskError::Backend`]. What runs in
    /// place is not delayed.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.state.change(|request| request.delay = delay);
        self
    }

    /// Lets it begin before or after others of its service, default [`Priority::Normal`].
    ///
    /// Where the queue has no [priorities](crate::backend::Capabilities::priorities), any other is
    /// [`TaskError::Backend`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.state.change(|request| request.priority = priority);
        self
    }
}

impl Future for Submit {
    type Output = Result<TaskId, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.state.poll(cx, |request| Box::pin(request.submit()))
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
    pub(super) fn new(request: Request) -> Self {
        Self {
            id: request.id().clone(),
            state: State::Created(Box::new(request)),
            timeout: None,
            is_detached: false,
            task: PhantomData,
        }
    }

    /// The id that the task will have.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Calls it under this id, once: if there is a task of this id already, its output is returned. So others may wait
    /// for the same task, and it goes on when this future is dropped. See [`Submit::with_id`].
    pub fn with_id(mut self, id: impl Into<TaskId>) -> Self {
        self.id = id.into();
        self.state.change(|request| request.set_id(self.id.clone()));
        self
    }

    /// Lets it begin before or after others of its service, see [`Submit::priority`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.state.change(|request| request.priority = priority);
        self
    }

    /// Lets the task go on when this future is dropped, or its time is over.
    pub fn detached(mut self) -> Self {
        self.is_detached = true;
        self
    }

    /// Ends the wait with [`TaskError::TimedOut`] when the task has not ended within this time from the first poll on.
    /// The task is cancelled, unless it is [detached](Self::detached). The default is no timeout: then it waits as long
    /// as the task may [live](super::TasksBuilder::lifetime).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Makes the progress and the message of the task those of an operation, in whatever process it runs. So a request
    /// that waits for a task, as a promise or not, can become an [operation](crate::operation) which shows how far the
    /// task is; to cancel the operation drops this future, which cancels the task.
    ///
    /// What the task says arrives after the [`progress_interval`](super::TasksBuilder::progress_interval) at the
    /// latest, if the bus loses nothing. An attempt that is repeated begins again with what it says first.
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
    /// use tower_promises::{Progress, PromiseError, Promises, Tasks};
    ///
    /// fn report(promises: &Promises, tasks: &Tasks, progress: &Progress) -> Result<String, PromiseError> {
    ///     promises.result_or_try_submit("report", || {
    ///         tasks.service("reports").call(Render { id: 7 }).report_to(progress.clone())
    ///     })
    /// }
    /// # let _ = report;
    /// ```
    #[cfg(feature = "operations")]
    pub fn report_to(mut self, progress: crate::operation::Progress) -> Self {
        self.state.change(|request| {
            request.on_report = Some(Box::new(move |report| {
                if let Some(percent) = report.progress {
                    progress.set(percent);
                }
                if let Some(message) = &report.message {
                    progress.message(message.as_str());
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
        let polled = self
            .state
            .poll(cx, |request| Box::pin(request.call(timeout, is_detached)));
        polled.map(|output| decode::<T>(&self.id, &output?))
    }
}

pub(super) fn decode<T: Task>(id: &TaskId, output: &RawValue) -> Result<T::Output, TaskError> {
    serde_json::from_str(output.get()).map_err(|error| TaskError::WrongType {
        id: id.clone(),
        expected: type_name::<T::Output>(),
        error: Arc::new(error),
    })
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("id", &self.id)
            .field("task", &type_name::<T>())
            .finish_non_exhaustive()
    }
}
