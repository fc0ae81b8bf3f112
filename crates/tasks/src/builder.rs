use super::TaskContext;
use super::meters::Meters;
use super::news::Subscriptions;
use super::options::TaskQueueOptions;
use super::records::Records;
use super::settings::Settings;
use super::tasks::{Core, IsConflict, MakeSpan, Provided, Tasks};
use http::Extensions;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::Backend;
use tower_promises_backend::kit::deadline::TimedBackend;
use tower_promises_backend::kit::topics::Listening;

/// The lower bound of intervals. Shorter ones would keep the store busy.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// Builds [`Tasks`] from queues, application state and settings.
///
/// All processes that share a backend should use the same queues and settings.
#[derive(Clone)]
#[must_use = "`build` creates the tasks"]
pub struct TasksBuilder {
    backend: Backend,
    queues: HashMap<Arc<str>, Provided>,
    #[cfg(feature = "schedules")]
    schedules: HashMap<Arc<str>, Arc<super::Schedule>>,
    #[cfg(feature = "schedules")]
    clock: Arc<dyn Fn() -> std::time::SystemTime + Send + Sync>,
    state: Extensions,
    is_conflict: Option<Arc<IsConflict>>,
    make_span: Option<Arc<MakeSpan>>,
    settings: Settings,
}

impl Tasks {
    /// Creates a builder for the queues of a process, on top of `backend`.
    pub fn builder(backend: Backend) -> TasksBuilder {
        TasksBuilder {
            backend,
            queues: HashMap::new(),
            #[cfg(feature = "schedules")]
            schedules: HashMap::new(),
            #[cfg(feature = "schedules")]
            clock: Arc::new(std::time::SystemTime::now),
            state: Extensions::new(),
            is_conflict: None,
            make_span: None,
            settings: Settings::default(),
        }
    }
}

impl TasksBuilder {
    /// Adds a queue. A queue of the same name is replaced.
    ///
    /// Processes that only submit tasks must add the queue as well, with the same task types. Tasks that are submitted
    /// to an unknown queue run in place, within the call that submits them.
    pub fn queue(mut self, queue: TaskQueueOptions) -> Self {
        self.queues.insert(queue.name, queue.provided);
        self
    }

    /// Adds a schedule. A schedule of the same name is replaced.
    ///
    /// Each [worker](Tasks::work) of the schedule's queue keeps the schedule, so the queue must be
    /// [added](Self::queue) as well. Each due time runs once, however many workers there are. See [the
    /// guide](super::guide#schedules).
    #[cfg(feature = "schedules")]
    pub fn schedule(mut self, schedule: super::Schedule) -> Self {
        self.schedules
            .insert(schedule.name.clone(), Arc::new(schedule));
        self
    }

    /// Sets the clock of schedules, by default [`SystemTime::now`](std::time::SystemTime::now). A test can set a clock
    /// that it advances, together with the paused clock of tokio. The function is called often and must not block.
    #[cfg(feature = "schedules")]
    pub fn clock(
        mut self,
        clock: impl Fn() -> std::time::SystemTime + Send + Sync + 'static,
    ) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Adds application state for tasks, such as a database pool. Each type has one value; a second value of the same
    /// type replaces the first. Tasks read the value with [`TaskContext::state`](super::TaskContext::state).
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.state.insert(state);
        self
    }

    /// Sets the function that decides which errors are conflicts. It is called with the error of a task and then with
    /// each source of that error, until it returns `true`.
    ///
    /// By default, only errors that a task marks with [`TaskFailure::conflict`](super::TaskFailure::conflict) are
    /// conflicts.
    ///
    /// ```
    /// use tower_promises_tasks::Tasks;
    /// use tower_promises_backend::Backend;
    ///
    /// let tasks = Tasks::builder(Backend::memory()).is_conflict(|error| {
    ///     let Some(sqlx::Error::Database(error)) = error.downcast_ref() else {
    ///         return false;
    ///     };
    ///     // PostgreSQL: serialisation failure, deadlock.
    ///     matches!(error.code().as_deref(), Some("40001" | "40P01"))
    /// });
    /// # let _ = tasks;
    /// ```
    pub fn is_conflict(
        mut self,
        is_conflict: impl Fn(&(dyn Error + 'static)) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.is_conflict = Some(Arc::new(is_conflict));
        self
    }

    /// Replaces the span of an attempt.
    ///
    /// The default span is named `task` and has the level INFO. Its fields are the queue, the type, the
    /// id, the attempt, the principal and the `traceparent` of the task.
    ///
    /// A custom span can continue the trace of the submitting request. With tracing-opentelemetry:
    ///
    /// ```
    /// use opentelemetry::propagation::TextMapPropagator;
    /// use opentelemetry_sdk::propagation::TraceContextPropagator;
    /// use std::collections::HashMap;
    /// use tower_promises_tasks::Tasks;
    /// use tower_promises_backend::Backend;
    /// use tracing::{Span, info_span};
    /// use tracing_opentelemetry::OpenTelemetrySpanExt;
    ///
    /// let tasks = Tasks::builder(Backend::memory()).make_span_with(|context| {
    ///     let span = info_span!("task", name = context.task(), id = %context.id());
    ///     if let (Some(trace), true) = (context.trace(), Span::current().is_none()) {
    ///         let parent = HashMap::from([("traceparent".to_owned(), trace.parent().to_owned())]);
    ///         // Fails without an OpenTelemetry subscriber. Then there is no trace to continue.
    ///         let _ = span.set_parent(TraceContextPropagator::new().extract(&parent));
    ///     }
    ///     span
    /// });
    /// # let _ = tasks;
    /// ```
    ///
    /// A task that runs in place already has the surrounding span as its parent. The example `observability` shows how
    /// the submitting side sets the trace: [`TaskLayer::trace`](super::TaskLayer::trace).
    ///
    /// # Panics
    ///
    /// A panic in the closure ends the task, like a panic in [`Task::run`](super::Task::run).
    pub fn make_span_with(
        mut self,
        make_span: impl Fn(&TaskContext) -> tracing::Span + Send + Sync + 'static,
    ) -> Self {
        self.make_span = Some(Arc::new(make_span));
        self
    }

    /// Sets the number of attempts, by default three and at least one. An attempt counts if it ends with a conflict or
    /// with its worker. After the last one the task is a dead letter.
    ///
    /// With a limit of one, a task that shares a worker with a crashing task becomes a dead letter as well. With two or
    /// more, the last attempt after a crash runs without other tasks of its queue, see [the module](super).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts.max(1);
        self
    }

    /// Sets how long a task may wait for a worker, including the wait for its last attempt, by default 7 days.
    ///
    /// A task that reaches a worker later fails without being started. A task that no worker takes is deleted; calls
    /// that wait for it get [`TaskError::NotFound`](super::TaskError::NotFound). The lifetime should exceed every
    /// [delay](super::Submit::delay).
    pub fn lifetime(mut self, time: Duration) -> Self {
        self.settings.lifetime = time;
        self
    }

    /// Sets how long the output or the error of a task is kept after its end, by default one hour. For this time,
    /// submitting the same id again is idempotent.
    pub fn retention(mut self, time: Duration) -> Self {
        self.settings.retention = time;
        self
    }

    /// Sets how long a dead letter is kept, by default 14 days.
    pub fn dead_letter_retention(mut self, time: Duration) -> Self {
        self.settings.dead_letter_retention = time;
        self
    }

    /// Sets the maximum size of a task's arguments, in bytes of JSON, by default 48 KiB. A larger task is refused with
    /// [`TaskError::TooLarge`](super::TaskError::TooLarge). The backend has limits of its own.
    pub fn max_task_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_task_bytes = bytes;
        self
    }

    /// Sets the maximum size of a task's output, in bytes of JSON, by default 48 KiB. A task with a larger output
    /// fails. Large results belong elsewhere; the output can say where. The backend has a limit of its own.
    pub fn max_output_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_output_bytes = bytes;
        self
    }

    /// Sets the interval at which the store is polled in case a bus message was lost, by default 5 seconds and at least
    /// one millisecond. Each call that waits for a task polls, and so does each running task.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(SHORTEST_INTERVAL);
        self
    }

    /// Sets the minimum interval between two writes of a task's progress, by default one second and at least one
    /// millisecond.
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.settings.progress_interval = interval.max(SHORTEST_INTERVAL);
        self
    }

    /// Sets how long a worker that shows no sign of life keeps a task, by default 30 seconds. After a crash, another
    /// worker receives the task when the lease has expired.
    pub fn lease(mut self, time: Duration) -> Self {
        self.settings.lease = time;
        self
    }

    /// Sets the timeout of a backend call, by default 10 seconds.
    pub fn backend_timeout(mut self, timeout: Duration) -> Self {
        self.settings.backend_timeout = timeout;
        self
    }

    /// Creates the handle. A process needs one; clones share it.
    #[must_use]
    pub fn build(self) -> Tasks {
        #[cfg(feature = "schedules")]
        for schedule in self.schedules.values() {
            if !self.queues.contains_key(&schedule.queue) {
                super::observe::schedule_without_queue(&schedule.name, &schedule.queue);
            }
        }
        let types = |(name, provided): (_, &Provided)| (name, provided.types.clone().into_keys());
        let meters = Meters::new(self.queues.iter().map(types));
        #[cfg(feature = "schedules")]
        let meters = meters.with_schedules(self.schedules.keys());
        let core = Core {
            records: Records {
                backend: TimedBackend::new(self.backend, self.settings.backend_timeout),
            },
            settings: self.settings,
            queues: self.queues,
            meters,
            #[cfg(feature = "schedules")]
            schedules: self.schedules,
            #[cfg(feature = "schedules")]
            clock: self.clock,
            state: self.state,
            is_conflict: self.is_conflict,
            make_span: self.make_span,
            subscriptions: Subscriptions::default(),
            suspect: tokio::sync::Mutex::new(()),
            turns: Default::default(),
            listening: Listening::default(),
        };
        Tasks {
            core: Arc::new(core),
            caller: None,
        }
    }
}

impl fmt::Debug for TasksBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TasksBuilder")
            .field("queues", &self.queues)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
