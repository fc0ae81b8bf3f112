use super::Task;
use super::run::run;
use super::tasks::{Provided, TaskType};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Describes a task queue that a process provides: the types of its tasks, and its limits.
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
/// use tower_promises_tasks::{TaskQueueOptions, Tasks};
///
/// let reports = TaskQueueOptions::new("reports")
///     .task::<Render>()
///     .concurrency(2)
///     .timeout(Duration::from_secs(60));
/// let tasks = Tasks::builder(Backend::memory()).queue(reports).build();
/// # let _ = tasks;
/// ```
#[derive(Clone, Debug)]
#[must_use = "give it to `TasksBuilder::queue`"]
pub struct TaskQueueOptions {
    pub(super) name: Arc<str>,
    pub(super) provided: Provided,
}

impl TaskQueueOptions {
    /// Creates the description of a queue without task types.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            provided: Provided {
                types: HashMap::new(),
                concurrency: 4,
                prefetch: 0,
                timeout: Duration::from_secs(60 * 60),
            },
        }
    }

    /// Adds a task type. A type with the same [name](Task::NAME) is replaced.
    pub fn task<T: Task>(mut self) -> Self {
        let task = TaskType {
            run: run::<T>,
            retry: T::retry_policy(),
        };
        self.provided.types.insert(T::NAME, task);
        self
    }

    /// Sets how many tasks of this queue a worker runs at once, by default 4 and at least one.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.provided.concurrency = tasks.max(1);
        self
    }

    /// Sets how many tasks of this queue a worker takes in advance, while it runs as many as it may, by default 0.
    ///
    /// This pays for tasks that take milliseconds. A task that waits in a worker waits behind slow tasks even if another
    /// worker is free, and tasks of a higher priority that are submitted later do not overtake it. It counts as queued, and
    /// no attempt is lost if the worker crashes meanwhile. See
    /// [`WorkOptions::prefetch`](tower_promises_backend::WorkOptions::prefetch).
    pub fn prefetch(mut self, tasks: usize) -> Self {
        self.provided.prefetch = tasks;
        self
    }

    /// Sets the timeout of an attempt, by default one hour. A task that takes longer is dropped and has failed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.provided.timeout = timeout;
        self
    }
}
