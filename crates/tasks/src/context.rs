use super::scope;
use super::tasks::{Shared, TaskContext, Tasks};
use super::{EndedTask, Principal, TaskId, TraceContext};
use std::any::type_name;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

impl TaskContext {
    /// Creates a context without a task, for unit tests of [`run`](super::Task::run). Its progress is discarded, and it
    /// is never cancelled. Its principal is the [current](Principal::current) one.
    #[must_use]
    pub fn detached(tasks: &Tasks) -> Self {
        Self::of(Shared {
            tasks: tasks.clone(),
            id: TaskId::random(),
            queue: "detached".into(),
            task: "detached".into(),
            attempt: 1,
            caller: scope::current().caller.clone(),
            ended: None,
            report: watch::Sender::default(),
            stop: Arc::default(),
        })
    }

    /// Returns the id of the task. All attempts share it, so it can serve as an idempotency key for other systems.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.shared.id
    }

    /// Returns the name of the queue that runs the task.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.shared.queue
    }

    /// Returns the name of the task's type.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.shared.task
    }

    /// Returns the number of this attempt, counted from one.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.shared.attempt
    }

    /// Returns the principal that the task acts for, `None` if it was submitted without one. A principal carries no
    /// permissions: look them up when the task runs.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.shared.caller.principal.as_ref()
    }

    /// Returns the task whose end has caused this task, see [`Submit::on_end`](super::Submit::on_end).
    #[must_use]
    pub fn ended(&self) -> Option<&EndedTask> {
        self.shared.ended.as_ref()
    }

    /// Returns the trace context of the request that submitted the task.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.shared.caller.trace.as_ref()
    }

    /// Returns application state that was added with [`TasksBuilder::state`](super::TasksBuilder::state), such as a
    /// database pool.
    ///
    /// # Errors
    ///
    /// [`MissingState`] if no value of this type was added.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<&T, MissingState> {
        let state = self.shared.tasks.core.state.get();
        state.ok_or(MissingState {
            type_name: type_name::<T>(),
        })
    }

    /// Returns the handle to all queues. Tasks that are submitted within a task run in place.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.shared.tasks
    }

    /// Sets the progress in percent. Values are clamped to 0 to 100; NaN is ignored.
    ///
    /// The latest progress is stored after at most one [`progress_interval`](super::TasksBuilder::progress_interval).
    /// Values in between are skipped.
    pub fn set_progress(&self, percent: impl Into<f64>) {
        let percent = percent.into();
        let report = &self.shared.report;
        report.send_if_modified(|report| report.set_percent(percent));
    }

    /// Sets a message that describes the current work. Text beyond 1024 bytes is cut off.
    pub fn set_message(&self, text: impl Into<String>) {
        let text = text.into();
        let report = &self.shared.report;
        report.send_if_modified(|report| report.set_message(text));
    }

    /// Whether the attempt must stop: the task was cancelled or timed out, the worker shuts down, or another worker has
    /// the task. `false` after the attempt has ended by itself.
    ///
    /// The future of [`run`](super::Task::run) is dropped in these cases and does not need to check. Threads that it
    /// has started must check regularly.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.shared.stop.borrow()
    }

    /// Resolves when [`is_cancelled`](Self::is_cancelled) becomes `true`. Otherwise it stays pending.
    ///
    /// # Cancel safety
    ///
    /// This future is cancel safe.
    pub async fn cancelled(&self) {
        let mut stop = self.shared.stop.subscribe();
        // Cannot fail: `self` holds the sender.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

/// Guard that marks an attempt as cancelled on drop, unless the attempt has completed.
pub(super) struct StopOnDrop {
    stop: Option<Arc<watch::Sender<bool>>>,
}

impl StopOnDrop {
    pub(super) fn new(stop: Arc<watch::Sender<bool>>) -> Self {
        Self { stop: Some(stop) }
    }

    pub(super) fn completed(mut self) {
        self.stop = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send_replace(true);
        }
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("id", &self.shared.id)
            .field("queue", &self.shared.queue)
            .field("task", &self.shared.task)
            .field("attempt", &self.shared.attempt)
            .field("principal", &self.shared.caller.principal)
            .finish_non_exhaustive()
    }
}

/// Error of [`TaskContext::state`] when no value of the type was given to
/// [`TasksBuilder::state`](super::TasksBuilder::state).
#[derive(Clone, Copy, Debug)]
pub struct MissingState {
    type_name: &'static str,
}

impl fmt::Display for MissingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tasks have no state of type `{}`", self.type_name)
    }
}

impl Error for MissingState {}
