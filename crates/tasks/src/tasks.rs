//! The handle, the context of a running task, and the state that both share. They are in one file because the state
//! contains the functions of the task types, which take a context, which contains the handle.

use super::caller::Caller;
use super::ended::EndedTask;
use super::meters::Meters;
use super::news::{News, Subscriptions};
use super::record::Record;
use super::records::Records;
use super::retry::RetryPolicy;
use super::settings::Settings;
use super::{TaskError, TaskFailure, TaskId, observe};
use futures_util::future::BoxFuture;
use http::Extensions;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tower_promises_backend::kit::progress::Report;
use tower_promises_backend::kit::topics::{Listening, Subscription};

/// A handle to all task queues, see [the module](super).
///
/// Clones are cheap and refer to the same queues. The handle can be axum `State` or a request extension. The handle
/// that [`TaskLayer`](super::TaskLayer) adds to a request always submits as the principal of that request.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tower_promises_backend::Backend;
/// use tower_promises_tasks::{Task, TaskContext, TaskFailure, TaskFilter, TaskQueueOptions, TaskState, Tasks};
///
/// #[derive(Serialize, Deserialize)]
/// struct Render {
///     year: u32,
/// }
///
/// impl Task for Render {
///     const NAME: &'static str = "render";
///     type Output = String;
///
///     async fn run(self, _: TaskContext) -> Result<String, TaskFailure> {
///         Ok(format!("the report of {}", self.year))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tasks = Tasks::builder(Backend::memory())
///     .queue(TaskQueueOptions::new("reports").task::<Render>())
///     .build();
/// // In the processes that run tasks.
/// let worker = tasks.work()?;
///
/// // In a handler, where the handle submits as the principal of the request.
/// let id = tasks.queue("reports").submit(Render { year: 2026 }).await?;
///
/// // In any process, also after the request has ended.
/// assert_eq!(tasks.output::<Render>(&id).await?, "the report of 2026");
/// assert_eq!(tasks.status(&id).await?.state(), TaskState::Succeeded);
/// let page = tasks.list(&TaskFilter::new().queue("reports")).await?;
/// assert_eq!(page.tasks().len(), 1);
/// // A task that has ended cannot be cancelled.
/// assert!(!tasks.cancel(&id).await?);
/// # drop(worker);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tasks {
    pub(super) core: Arc<Core>,
    /// `None` means the current caller.
    pub(super) caller: Option<Caller>,
}

impl Tasks {
    /// Returns a handle that always submits for this caller.
    pub(super) fn bound(&self, caller: Caller) -> Self {
        Self {
            core: self.core.clone(),
            caller: Some(caller),
        }
    }

    /// Returns a handle that submits for the current caller.
    pub(super) fn unbound(&self) -> Self {
        Self {
            core: self.core.clone(),
            caller: None,
        }
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("queues", &self.core.queues)
            .field("settings", &self.core.settings)
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

/// The context of a running [task](super::Task): its identity, application state, progress and cancellation. Clones are
/// cheap and refer to the same task.
#[derive(Clone)]
pub struct TaskContext {
    pub(super) shared: Arc<Shared>,
}

/// The state that the clones of a context share.
pub(super) struct Shared {
    pub(super) tasks: Tasks,
    pub(super) id: TaskId,
    pub(super) queue: Arc<str>,
    pub(super) task: Arc<str>,
    pub(super) attempt: u32,
    pub(super) caller: Caller,
    pub(super) ended: Option<EndedTask>,
    pub(super) report: watch::Sender<Report>,
    /// Shared with nested tasks that run in place.
    pub(super) stop: Arc<watch::Sender<bool>>,
}

impl TaskContext {
    pub(super) fn of(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }
}

/// State shared by the handles and workers of a process.
pub(super) struct Core {
    pub(super) records: Records,
    pub(super) settings: Settings,
    pub(super) queues: HashMap<Arc<str>, Provided>,
    pub(super) meters: Meters,
    #[cfg(feature = "schedules")]
    pub(super) schedules: HashMap<Arc<str>, Arc<super::Schedule>>,
    /// The clock of schedules.
    #[cfg(feature = "schedules")]
    pub(super) clock: Arc<dyn Fn() -> std::time::SystemTime + Send + Sync>,
    pub(super) state: Extensions,
    pub(super) is_conflict: Option<Arc<IsConflict>>,
    pub(super) make_span: Option<Arc<MakeSpan>>,
    pub(super) subscriptions: Subscriptions,
    /// Held by a suspect task during its last attempt, so that no two of them share the process.
    pub(super) suspect: tokio::sync::Mutex<()>,
    /// The turns of the calls of this process that change the slots of a key. They save lost attempts of compare-and-set,
    /// and decide nothing.
    pub(super) turns: [tokio::sync::Mutex<()>; 16],
    /// The task that listens to the bus. The first subscription starts it.
    pub(super) listening: Listening,
}

/// A queue that this process provides: its task types and limits.
#[derive(Clone, Debug)]
pub(super) struct Provided {
    pub(super) types: HashMap<&'static str, TaskType>,
    pub(super) concurrency: usize,
    pub(super) prefetch: usize,
    pub(super) timeout: Duration,
}

/// A registered task type.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskType {
    pub(super) run: Run,
    pub(super) retry: RetryPolicy,
}

/// A type-erased [`Task::run`](super::Task::run). It may panic.
pub(super) type Run = fn(Box<RawValue>, TaskContext) -> BoxFuture<'static, Ran>;

/// The outcome of a run that was not dropped: the output as JSON, or the reason why there is none.
pub(super) type Ran = Result<Box<RawValue>, RunError>;

#[derive(Debug)]
pub(super) enum RunError {
    /// The arguments do not match the type. The task has not started.
    Unreadable(serde_json::Error),
    Failed(TaskFailure),
    Panicked(String),
}

/// Function that decides whether an error of a task is a conflict.
pub(super) type IsConflict = dyn Fn(&(dyn Error + 'static)) -> bool + Send + Sync;

/// Function that creates the span of a task.
pub(super) type MakeSpan = dyn Fn(&TaskContext) -> tracing::Span + Send + Sync;

impl Core {
    /// Returns the current runtime.
    pub(super) fn runtime() -> Result<Handle, TaskError> {
        Handle::try_current().map_err(|_| TaskError::NoRuntime)
    }

    /// Subscribes to news of a task. Needs a runtime.
    pub(super) fn subscribe(&self, id: &TaskId, news: News) -> Result<Subscription, TaskError> {
        Self::runtime()?;
        let listen = || {
            self.subscriptions
                .clone()
                .listen(self.records.backend.clone())
        };
        let _ = self.listening.start(listen);
        Ok(self.subscriptions.subscribe(id, news))
    }

    /// Announces a change of a task in all processes. A lost message is covered by polling.
    pub(super) async fn announce(&self, id: &TaskId, news: News) {
        let topic = id.topic();
        self.subscriptions.tell(&topic, news);
        let payload = news.as_bytes().into();
        if let Err(error) = self.records.backend.publish(&topic, payload).await {
            observe::backend_failed(id, &error);
        }
    }

    /// Applies the application's conflict classifier.
    pub(super) fn classify(&self, failure: TaskFailure) -> TaskFailure {
        match &self.is_conflict {
            Some(is_conflict) => failure.classify(|error| is_conflict(error)),
            None => failure,
        }
    }

    pub(super) async fn read(&self, id: &TaskId) -> Result<Record, TaskError> {
        let found = self.records.read(id).await?;
        found.ok_or_else(|| TaskError::NotFound { id: id.clone() })
    }
}
