use super::TaskContext;
use super::core::{Core, IsConflict, Service};
use super::definition::run;
use super::hub::Hub;
use super::observe::MakeSpan;
use super::records::Records;
use super::{Task, Tasks};
use http::Extensions;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::Backend;
use tower_promises_backend::kit::deadline::TimedBackend;
use tower_promises_backend::kit::limits::DEFAULT_LEASE;
use tower_promises_backend::kit::topics::Listening;

/// The default number of tasks of a service that a worker runs at once: 4.
pub const DEFAULT_TASK_CONCURRENCY: usize = 4;

/// The default timeout of an attempt: one hour.
pub const DEFAULT_TASK_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// The default number of attempts, counting those that end with a conflict or with their worker: 3.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 3;

/// The default time that a task may wait for its attempts: 7 days.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The default time for which the output or the error of a task is kept: one hour.
pub const DEFAULT_RESULT_TIME_TO_LIVE: Duration = Duration::from_secs(60 * 60);

/// The default time for which a dead letter is kept: 14 days.
pub const DEFAULT_DEAD_LETTER_TIME_TO_LIVE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The default limit on a task and on its output, each in bytes of JSON: 48 KiB.
pub const DEFAULT_MAX_TASK_BYTES: usize = 48 * 1024;

/// The default interval at which the store is polled in case a bus message was lost: 5 seconds.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The default interval at which the progress of a task is stored: one second.
pub const DEFAULT_PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The default timeout of a backend call: 10 seconds.
pub const DEFAULT_BACKEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The lower bound of intervals. Shorter ones would keep the store busy.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) max_attempts: u32,
    pub(super) lifetime: Duration,
    pub(super) result_time_to_live: Duration,
    pub(super) dead_letter_time_to_live: Duration,
    pub(super) max_task_bytes: usize,
    pub(super) max_output_bytes: usize,
    pub(super) poll_interval: Duration,
    pub(super) progress_interval: Duration,
    pub(super) lease: Duration,
}

/// Builds [`Tasks`] from services, application state and settings.
///
/// All processes that share a backend should use the same services and settings.
#[derive(Clone)]
#[must_use = "`build` makes the tasks"]
pub struct TasksBuilder {
    backend: Backend,
    backend_timeout: Duration,
    services: HashMap<Arc<str>, Service>,
    state: Extensions,
    is_conflict: Option<Arc<IsConflict>>,
    make_span: Option<Arc<MakeSpan>>,
    settings: Settings,
}

impl TasksBuilder {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            backend,
            backend_timeout: DEFAULT_BACKEND_TIMEOUT,
            services: HashMap::new(),
            state: Extensions::new(),
            is_conflict: None,
            make_span: None,
            settings: Settings {
                max_attempts: DEFAULT_MAX_ATTEMPTS,
                lifetime: DEFAULT_LIFETIME,
                result_time_to_live: DEFAULT_RESULT_TIME_TO_LIVE,
                dead_letter_time_to_live: DEFAULT_DEAD_LETTER_TIME_TO_LIVE,
                max_task_bytes: DEFAULT_MAX_TASK_BYTES,
                max_output_bytes: DEFAULT_MAX_TASK_BYTES,
                poll_interval: DEFAULT_POLL_INTERVAL,
                progress_interval: DEFAULT_PROGRESS_INTERVAL,
                lease: DEFAULT_LEASE,
            },
        }
    }

    /// Adds a service. A service of the same name is replaced.
    ///
    /// Processes that only submit tasks must add the service as well, with the same task types. Tasks that are
    /// submitted to an unknown service run in place, within the call that submits them.
    pub fn service(mut self, service: TaskServiceBuilder) -> Self {
        self.services.insert(service.name, service.service);
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
    /// The default span is named `task` and has the level INFO. Its fields are the service, the type, the id, the
    /// attempt, the principal and the `traceparent` of the task.
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
    /// A panic in the closure ends the task, like a panic in [`Task::run`].
    pub fn make_span_with(
        mut self,
        make_span: impl Fn(&TaskContext) -> tracing::Span + Send + Sync + 'static,
    ) -> Self {
        self.make_span = Some(Arc::new(make_span));
        self
    }

    /// Sets the number of attempts, by default [`DEFAULT_MAX_ATTEMPTS`] and at least one. An attempt counts if it ends
    /// with a conflict or with its worker. After the last one the task is a dead letter.
    ///
    /// With a limit of one, a task that shares a worker with a crashing task becomes a dead letter as well. With two or
    /// more, the last attempt after a crash runs without other tasks of its service, see [the module](super).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts.max(1);
        self
    }

    /// Sets how long a task may wait for a worker, including the wait for its last attempt, by default
    /// [`DEFAULT_LIFETIME`].
    ///
    /// A task that reaches a worker later fails without being started. A task that no worker takes is deleted; calls
    /// that wait for it get [`TaskError::NotFound`](super::TaskError::NotFound). The lifetime should exceed every
    /// [delay](super::Submit::delay).
    pub fn lifetime(mut self, time: Duration) -> Self {
        self.settings.lifetime = time;
        self
    }

    /// Sets how long the output or the error of a task is kept after its end, by default
    /// [`DEFAULT_RESULT_TIME_TO_LIVE`]. For this time, submitting the same id again is idempotent.
    pub fn result_time_to_live(mut self, time: Duration) -> Self {
        self.settings.result_time_to_live = time;
        self
    }

    /// Sets how long a dead letter is kept, by default [`DEFAULT_DEAD_LETTER_TIME_TO_LIVE`].
    pub fn dead_letter_time_to_live(mut self, time: Duration) -> Self {
        self.settings.dead_letter_time_to_live = time;
        self
    }

    /// Sets the maximum size of a task's arguments, in bytes of JSON, by default [`DEFAULT_MAX_TASK_BYTES`]. A larger
    /// task is refused with [`TaskError::TooLarge`](super::TaskError::TooLarge). The queue and the store have limits of
    /// their own.
    pub fn max_task_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_task_bytes = bytes;
        self
    }

    /// Sets the maximum size of a task's output, in bytes of JSON, by default [`DEFAULT_MAX_TASK_BYTES`]. A task with a
    /// larger output fails. Large results belong elsewhere; the output can say where. The store has a limit of its own.
    pub fn max_output_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_output_bytes = bytes;
        self
    }

    /// Sets the interval at which the store is polled in case a bus message was lost, by default
    /// [`DEFAULT_POLL_INTERVAL`] and at least one millisecond. Each call that waits for a task polls, and so does each
    /// running task.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(SHORTEST_INTERVAL);
        self
    }

    /// Sets the minimum interval between two writes of a task's progress, by default [`DEFAULT_PROGRESS_INTERVAL`] and
    /// at least one millisecond.
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

    /// Sets the timeout of a backend call, by default [`DEFAULT_BACKEND_TIMEOUT`].
    pub fn backend_timeout(mut self, timeout: Duration) -> Self {
        self.backend_timeout = timeout;
        self
    }

    /// Creates the handle. A process needs one; clones share it.
    #[must_use]
    pub fn build(self) -> Tasks {
        Tasks::of(Core {
            records: Records {
                backend: TimedBackend::new(self.backend, self.backend_timeout),
            },
            settings: self.settings,
            services: self.services,
            state: self.state,
            is_conflict: self.is_conflict,
            make_span: self.make_span,
            hub: Hub::default(),
            suspect: tokio::sync::Mutex::new(()),
            listening: Listening::default(),
        })
    }
}

impl fmt::Debug for TasksBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TasksBuilder")
            .field("services", &self.services)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Describes a task service: the types of tasks that it runs, and its limits.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use tower_promises_tasks::{Task, TaskContext, TaskFailure};
/// # #[derive(Serialize, Deserialize)]
/// # struct Render;
/// # impl Task for Render {
/// #     const NAME: &'static str = "render";
/// #     type Output = ();
/// #     async fn run(self, _: TaskContext) -> Result<(), TaskFailure> { Ok(()) }
/// # }
/// use std::time::Duration;
/// use tower_promises_backend::Backend;
/// use tower_promises_tasks::{TaskService, Tasks};
///
/// let reports = TaskService::builder("reports")
///     .task::<Render>()
///     .concurrency(2)
///     .timeout(Duration::from_secs(60));
/// let tasks = Tasks::builder(Backend::memory()).service(reports).build();
/// # let _ = tasks;
/// ```
#[derive(Clone, Debug)]
#[must_use = "give it to `TasksBuilder::service`"]
pub struct TaskServiceBuilder {
    name: Arc<str>,
    service: Service,
}

impl TaskServiceBuilder {
    pub(super) fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            service: Service {
                registry: HashMap::new(),
                concurrency: DEFAULT_TASK_CONCURRENCY,
                timeout: DEFAULT_TASK_TIMEOUT,
            },
        }
    }

    /// Adds a task type. A type with the same [name](Task::NAME) is replaced.
    pub fn task<T: Task>(mut self) -> Self {
        self.service.registry.insert(T::NAME, run::<T>);
        self
    }

    /// Sets how many tasks of this service a worker runs at once, by default [`DEFAULT_TASK_CONCURRENCY`] and at least
    /// one.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.service.concurrency = tasks.max(1);
        self
    }

    /// Sets the timeout of an attempt, by default [`DEFAULT_TASK_TIMEOUT`]. A task that takes longer is dropped and has
    /// failed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.service.timeout = timeout;
        self
    }
}
