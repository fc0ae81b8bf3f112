use super::scope::{self, Caller};
use super::{Principal, TaskId, Tasks, TraceContext};
use std::any::type_name;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// How many bytes a message may have. More is cut off.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// What a [task](super::Task) knows of the world. Clones are cheap and stand for the same task.
#[derive(Clone)]
pub struct TaskContext {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) tasks: Tasks,
    pub(super) id: TaskId,
    pub(super) service: Arc<str>,
    pub(super) task: Arc<str>,
    pub(super) attempt: u32,
    pub(super) caller: Caller,
    pub(super) report: watch::Sender<Report>,
    /// Shared with tasks that run in place.
    pub(super) stop: Arc<watch::Sender<bool>>,
}

/// What a task says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    pub(super) progress: Option<f64>,
    pub(super) message: Option<String>,
}

impl TaskContext {
    pub(super) fn of(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The context of no task in particular, for unit tests of [`run`](super::Task::run). Nobody hears of its progress
    /// and nobody cancels it; its principal is the [current](Principal::current) one.
    #[must_use]
    pub fn detached(tasks: &Tasks) -> Self {
        Self::of(Shared {
            tasks: tasks.clone(),
            id: TaskId::random(),
            service: "detached".into(),
            task: "detached".into(),
            attempt: 1,
            caller: scope::current().caller.clone(),
            report: watch::Sender::default(),
            stop: Arc::default(),
        })
    }

    /// The context of the task that this code is a part of, deep in synchronous code too. `None` where
    /// [`is_task`](super::is_task) is `false`.
    #[must_use]
    pub fn current() -> Option<Self> {
        scope::current().task.clone()
    }

    /// The id of the task. All attempts have the same, so it serves as an idempotency key for other systems.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.shared.id
    }

    /// The name of the service that runs it.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// The name of its type.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.shared.task
    }

    /// Which attempt this is, counted from one.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.shared.attempt
    }

    /// For whom it works, `None` for nobody. It is a name only: look up what it may do now.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.shared.caller.principal.as_ref()
    }

    /// The trace of the request that has submitted it.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.shared.caller.trace.as_ref()
    }

    /// What the application has given to [`TasksBuilder::state`](super::TasksBuilder::state), such as a pool of
    /// database connections.
    ///
    /// # Errors
    ///
    /// Where it has given no value of this type.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<&T, MissingState> {
        let state = self.shared.tasks.core().state.get();
        state.ok_or(MissingState {
            type_name: type_name::<T>(),
        })
    }

    /// The handle to all services. What is submitted within a task runs in place.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.shared.tasks
    }

    /// Says how much is done, in percent. NaN is ignored, values below 0 or above 100 count as those.
    ///
    /// It reaches the store some time later, see
    /// [`progress_interval`](super::TasksBuilder::progress_interval); what was said last counts.
    pub fn set_progress(&self, percent: impl Into<f64>) {
        let percent = percent.into();
        if percent.is_nan() {
            return;
        }
        // Adding zero makes of a negative zero a positive one.
        let percent = Some(percent.clamp(0.0, 100.0) + 0.0);
        self.report(|report| std::mem::replace(&mut report.progress, percent) != percent);
    }

    /// Says in words what is being done. At most [`MAX_MESSAGE_BYTES`].
    pub fn set_message(&self, text: impl Into<String>) {
        let mut text = text.into();
        let end = (0..=MAX_MESSAGE_BYTES.min(text.len())).rev();
        let end = end.into_iter().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        let message = Some(text);
        self.report(|report| {
            let changed = report.message != message;
            report.message = message;
            changed
        });
    }

    fn report(&self, change: impl FnOnce(&mut Report) -> bool) {
        self.shared.report.send_if_modified(change);
    }

    /// Whether nobody wants this attempt any more: the task was cancelled or takes too long, the worker shuts down, or
    /// another worker has the task. `false` once it has ended by itself.
    ///
    /// The future of [`run`](super::Task::run) is dropped then and need not ask. Code that it has started in a thread
    /// does, every now and then.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.shared.stop.borrow()
    }

    /// Resolves when [`is_cancelled`](Self::is_cancelled) turns true, and never before.
    ///
    /// Cancel safety: dropping it changes nothing.
    pub async fn cancelled(&self) {
        let mut stop = self.shared.stop.subscribe();
        // It cannot fail: the sender is here.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// Says that an attempt is not wanted any more, unless it has ended by itself.
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
            .field("service", &self.shared.service)
            .field("task", &self.shared.task)
            .field("attempt", &self.shared.attempt)
            .field("principal", &self.shared.caller.principal)
            .finish_non_exhaustive()
    }
}

/// A task has asked for application state that [`TasksBuilder::state`](super::TasksBuilder::state) was not given.
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
