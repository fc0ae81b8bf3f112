#[cfg(feature = "tracing")]
use super::TaskContext;
use super::core::{Core, IsConflict, Service};
use super::definition::run;
use super::hub::Hub;
#[cfg(feature = "tracing")]
use super::observe::MakeSpan;
use super::records::Records;
use super::{Task, Tasks};
use crate::backend::{Backend, DEFAULT_LEASE};
use http::Extensions;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many tasks of a service a worker runs at once.
pub const DEFAULT_TASK_CONCURRENCY: usize = 4;

/// How long an attempt may take.
pub const DEFAULT_TASK_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How often a task is tried when attempts end with a conflict or with their worker.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 3;

/// How long a task may wait for its attempts.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long the output of a task is kept, and its error.
pub const DEFAULT_RESULT_TIME_TO_LIVE: Duration = Duration::from_secs(60 * 60);

/// How long a dead letter is kept.
pub const DEFAULT_DEAD_LETTER_TIME_TO_LIVE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// How many bytes a task may have as JSON, and its output.
pub const DEFAULT_MAX_TASK_BYTES: usize = 48 * 1024;

/// How often the store is read in case the bus has lost a message.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How often what a task says of its progress is stored.
pub const DEFAULT_PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How long the backend may take for an answer.
pub const DEFAULT_BACKEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Shorter times would keep the store busy.
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

/// Builds [`Tasks`]: the services, what their tasks can use, and the settings.
///
/// All processes that share a backend should have the same settings.
#[derive(Clone)]
#[must_use = "`build` makes the tasks"]
pub struct TasksBuilder {
    backend: Backend,
    backend_timeout: Duration,
    services: HashMap<Arc<str>, Service>,
    state: Extensions,
    is_conflict: Option<Arc<IsConflict>>,
    #[cfg(feature = "tracing")]
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
            #[cfg(feature = "tracing")]
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

    /// Adds a service. A second one of the same name replaces the first.
    ///
    /// The processes that submit add it too, with the same task types, even if they run no worker for it: what is
    /// submitted to a service that nobody has added runs at once, in place.
    pub fn service(mut self, service: TaskServiceBuilder) -> Self {
        self.services.insert(service.name, service.service);
        self
    }

    /// Gives tasks something of the application, such as a pool of database connections, by its type. A second value
    /// of the same type replaces the first. See [`TaskContext::state`](super::TaskContext::state).
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.state.insert(state);
        self
    }

    /// Says which errors are conflicts, so that tasks need not: it is asked for the error of a task and for each of its
    /// sources. Default: none but those that a task [has said](super::TaskFailure::conflict) to be.
    ///
    /// ```
    /// use tower_promises::Tasks;
    /// use tower_promises::backend::Backend;
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

    /// Makes the span of each attempt instead of the usual one, which is called `task`, has the level INFO, and has
    /// service, type, id, attempt, principal and `traceparent` of the task as fields.
    ///
    /// That is where the trace goes on that the submitting request is a part of. With tracing-opentelemetry:
    ///
    /// ```
    /// use opentelemetry::propagation::TextMapPropagator;
    /// use opentelemetry_sdk::propagation::TraceContextPropagator;
    /// use std::collections::HashMap;
    /// use tower_promises::Tasks;
    /// use tower_promises::backend::Backend;
    /// use tracing::{Span, info_span};
    /// use tracing_opentelemetry::OpenTelemetrySpanExt;
    ///
    /// let tasks = Tasks::builder(Backend::memory()).make_span_with(|context| {
    ///     let span = info_span!("task", name = context.task(), id = %context.id());
    ///     if let (Some(trace), true) = (context.trace(), Span::current().is_none()) {
    ///         let parent = HashMap::from([("traceparent".to_owned(), trace.parent().to_owned())]);
    ///         // Without a subscriber for OpenTelemetry there is no trace to go on with.
    ///         let _ = span.set_parent(TraceContextPropagator::new().extract(&parent));
    ///     }
    ///     span
    /// });
    /// # let _ = tasks;
    /// ```
    ///
    /// A task that runs in place has the span around it as its parent already. The example `observability` shows the
    /// other side, too: [`TaskLayer::trace`](super::TaskLayer::trace).
    ///
    /// # Panics
    ///
    /// A panic in the closure ends the task as one in [`Task::run`] does.
    #[cfg(feature = "tracing")]
    pub fn make_span_with(
        mut self,
        make_span: impl Fn(&TaskContext) -> tracing::Span + Send + Sync + 'static,
    ) -> Self {
        self.make_span = Some(Arc::new(make_span));
        self
    }

    /// How often a task is tried when attempts end with a conflict or with their worker, default
    /// [`DEFAULT_MAX_ATTEMPTS`]. Then it is a dead letter. It is at least one.
    ///
    /// Where it is one, a task that runs beside one that kills their worker is a dead letter as well. From two on it
    /// has its last attempt without the other one, see [the module](super).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts.max(1);
        self
    }

    /// How long a task may wait for a worker, for its last attempt too, default [`DEFAULT_LIFETIME`]. Then a worker
    /// that gets it does not begin it: it has failed. Where no worker comes it is forgotten, and whoever waits for it
    /// gets [`TaskError::NotFound`](super::TaskError::NotFound). It should be longer than any
    /// [delay](super::Submit::delay).
    pub fn lifetime(mut self, time: Duration) -> Self {
        self.settings.lifetime = time;
        self
    }

    /// How long the output or the error of a task that has ended is kept, default [`DEFAULT_RESULT_TIME_TO_LIVE`].
    /// That long an id makes submitting idempotent.
    pub fn result_time_to_live(mut self, time: Duration) -> Self {
        self.settings.result_time_to_live = time;
        self
    }

    /// How long a dead letter is kept, default [`DEFAULT_DEAD_LETTER_TIME_TO_LIVE`].
    pub fn dead_letter_time_to_live(mut self, time: Duration) -> Self {
        self.settings.dead_letter_time_to_live = time;
        self
    }

    /// How many bytes a task may have as JSON, default [`DEFAULT_MAX_TASK_BYTES`]. A larger one is
    /// [`TaskError::TooLarge`](super::TaskError::TooLarge). Queue and store have limits of their own.
    pub fn max_task_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_task_bytes = bytes;
        self
    }

    /// How many bytes the output of a task may have as JSON, default [`DEFAULT_MAX_TASK_BYTES`]. The task of a larger
    /// one has failed: let it put large things elsewhere and return where they are. The store has a limit of its own.
    pub fn max_output_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_output_bytes = bytes;
        self
    }

    /// How often the store is read in case the bus has lost a message, by everybody who waits for a task and for each
    /// task that runs, default [`DEFAULT_POLL_INTERVAL`]. It is at least a millisecond.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(SHORTEST_INTERVAL);
        self
    }

    /// How often what a task says of its progress is stored, default [`DEFAULT_PROGRESS_INTERVAL`].
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.settings.progress_interval = interval.max(SHORTEST_INTERVAL);
        self
    }

    /// How long a task stays with a worker that shows no sign of life, default [`DEFAULT_LEASE`]. After a crash
    /// another worker has the task that much later.
    pub fn lease(mut self, time: Duration) -> Self {
        self.settings.lease = time;
        self
    }

    /// How long the backend may take for one answer, default [`DEFAULT_BACKEND_TIMEOUT`].
    pub fn backend_timeout(mut self, timeout: Duration) -> Self {
        self.backend_timeout = timeout;
        self
    }

    /// Makes the tasks. A process needs one, and clones it.
    #[must_use]
    pub fn build(self) -> Tasks {
        Tasks::of(Core {
            records: Records {
                backend: self.backend,
                timeout: self.backend_timeout,
            },
            settings: self.settings,
            services: self.services,
            state: self.state,
            is_conflict: self.is_conflict,
            #[cfg(feature = "tracing")]
            make_span: self.make_span,
            hub: Arc::new(Hub::default()),
            suspect: tokio::sync::Mutex::new(()),
            listener: Mutex::new(None),
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

/// Describes a task service: which types of tasks it runs, and how.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use tower_promises::task::{Task, TaskContext, TaskFailure};
/// # #[derive(Serialize, Deserialize)]
/// # struct Render;
/// # impl Task for Render {
/// #     const NAME: &'static str = "render";
/// #     type Output = ();
/// #     async fn run(self, _: TaskContext) -> Result<(), TaskFailure> { Ok(()) }
/// # }
/// use std::time::Duration;
/// use tower_promises::backend::Backend;
/// use tower_promises::{TaskService, Tasks};
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

    /// Lets the service run tasks of this type. A second type of the same [name](Task::NAME) replaces the first.
    pub fn task<T: Task>(mut self) -> Self {
        self.service.registry.insert(T::NAME, run::<T>);
        self
    }

    /// How many tasks of this service a worker runs at once, default [`DEFAULT_TASK_CONCURRENCY`]. It is at least one.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.service.concurrency = tasks.max(1);
        self
    }

    /// How long an attempt may take, default [`DEFAULT_TASK_TIMEOUT`]. Then it is dropped, and the task has failed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.service.timeout = timeout;
        self
    }
}
