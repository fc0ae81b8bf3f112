//! Lists of tasks.
//!
//! A list reads the records of tasks in the store and passes those that do not match. An index by queue, state and
//! principal would make lists of rare states cheaper, but each change of a task would have to write it, too. Lists are
//! for people; the queue is not to pay for them.

use super::record::Record;
use super::task_id::RECORDS;
use super::tasks::{Core, Tasks};
use super::{Principal, TaskError, TaskId, TaskState, TaskStatus, observe};
use serde::Deserialize;
use std::sync::Arc;
use tower_promises_backend::{BackendError, Listed};

/// The number of records that are read at once.
const CHUNK: usize = 500;

/// The number of records after which a page is returned, whether or not it is full.
const MAX_PASSED: usize = 10_000;

/// Selects the tasks of a [list](Tasks::list): those that match all of its conditions.
///
/// ```
/// use tower_promises_tasks::{Principal, TaskFilter, TaskState};
///
/// let failed = TaskFilter::new()
///     .queue("reports")
///     .state(TaskState::Failed)
///     .principal(Principal::new("ada"))
///     .limit(20);
/// # let _ = failed;
/// ```
#[derive(Clone, Debug)]
#[must_use = "give it to `Tasks::list`"]
pub struct TaskFilter {
    queue: Option<Arc<str>>,
    task: Option<Arc<str>>,
    states: Vec<TaskState>,
    principal: Option<Principal>,
    limit: usize,
    after: Option<Arc<str>>,
}

impl TaskFilter {
    /// Creates a filter that all tasks match, for pages of 50.
    pub fn new() -> Self {
        Self {
            queue: None,
            task: None,
            states: Vec::new(),
            principal: None,
            limit: 50,
            after: None,
        }
    }

    /// Selects the tasks of a queue.
    pub fn queue(mut self, name: impl Into<Arc<str>>) -> Self {
        self.queue = Some(name.into());
        self
    }

    /// Selects the tasks of a [type](super::Task::NAME).
    pub fn task(mut self, name: impl Into<Arc<str>>) -> Self {
        self.task = Some(name.into());
        self
    }

    /// Selects the tasks in a state. Further calls add states.
    pub fn state(mut self, state: TaskState) -> Self {
        self.states.push(state);
        self
    }

    /// Selects the tasks of a principal.
    pub fn principal(mut self, principal: Principal) -> Self {
        self.principal = Some(principal);
        self
    }

    /// Sets the maximum number of tasks of a page, by default 50. The value is clamped to 1 to 1000.
    pub fn limit(mut self, tasks: usize) -> Self {
        self.limit = tasks.clamp(1, 1000);
        self
    }

    /// Continues after a page, with its [`next`](TaskList::next). The other conditions should be the same.
    pub fn after(mut self, cursor: impl Into<Arc<str>>) -> Self {
        self.after = Some(cursor.into());
        self
    }

    fn matches(&self, glance: &Glance<'_>) -> bool {
        let has_name = |wanted: &Option<Arc<str>>, name: &str| {
            wanted.as_ref().is_none_or(|wanted| **wanted == *name)
        };
        has_name(&self.queue, &glance.service)
            && has_name(&self.task, &glance.task)
            && (self.states.is_empty() || self.states.contains(&glance.state))
            && (self.principal.is_none() || self.principal == glance.principal)
    }
}

impl Default for TaskFilter {
    fn default() -> Self {
        Self::new()
    }
}

/// A page of the [list](Tasks::list) of tasks.
#[derive(Clone, Debug)]
pub struct TaskList {
    tasks: Vec<TaskStatus>,
    next: Option<Arc<str>>,
}

impl TaskList {
    /// Returns the tasks.
    #[must_use]
    pub fn tasks(&self) -> &[TaskStatus] {
        &self.tasks
    }

    /// Returns the tasks by value.
    #[must_use]
    pub fn into_tasks(self) -> Vec<TaskStatus> {
        self.tasks
    }

    /// Returns the cursor for the next page, `None` if this is the last one. It is valid in all processes.
    #[must_use]
    pub fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }
}

/// The part of a record that a filter needs. The rest is skipped.
#[derive(Deserialize)]
struct Glance<'a> {
    #[serde(borrow)]
    service: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    task: std::borrow::Cow<'a, str>,
    principal: Option<Principal>,
    state: TaskState,
}

impl Tasks {
    /// Lists the tasks that match a filter, in pages. The caller must check access rights, or filter by
    /// [principal](TaskFilter::principal).
    ///
    /// All tasks with a record are listed: those that wait or run, and those that have ended, for their
    /// [retention](super::TasksBuilder::retention). The order is that of the
    /// [store](tower_promises_backend::Store::list), not of time. A task that changes its state between two pages may be
    /// missing, or be on both, and a page shows each task as it was read.
    ///
    /// A page takes time in proportion to the stored tasks that it passes, whether they match or not. It passes at most
    /// 10,000, so a page may have fewer tasks than its limit, even none, although [more follow](TaskList::next). Submitting
    /// and running tasks costs nothing for it.
    ///
    /// # Errors
    ///
    /// [`TaskError::Backend`], with [`BackendError::InvalidName`] for a cursor that is not one, and with
    /// [`BackendError::Unsupported`] if the backend has no lists. [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub async fn list(&self, filter: &TaskFilter) -> Result<TaskList, TaskError> {
        Core::runtime()?;
        let backend = &self.core.records.backend;
        let (mut tasks, mut after) = (Vec::new(), filter.after.clone());
        let mut passed = 0;
        loop {
            let page = backend.list(RECORDS, after.as_deref(), CHUNK).await?;
            for listed in page.entries {
                passed += 1;
                let Some(status) = read(filter, &listed) else {
                    continue;
                };
                tasks.push(status);
                if tasks.len() == filter.limit {
                    let next = Some(listed.position);
                    return Ok(TaskList { tasks, next });
                }
            }
            // An empty page may have passed other entries of the store.
            passed += 1;
            after = page.next;
            if after.is_none() || passed >= MAX_PASSED {
                return Ok(TaskList { tasks, next: after });
            }
        }
    }
}

/// Returns the status of a listed task, `None` if it does not match.
fn read(filter: &TaskFilter, listed: &Listed) -> Option<TaskStatus> {
    let id = TaskId::new(listed.key.strip_prefix(RECORDS)?);
    let value = &listed.entry.value;
    let matches = serde_json::from_slice(value).map(|glance| filter.matches(&glance));
    let record = match matches {
        Ok(false) => return None,
        Ok(true) => serde_json::from_slice::<Record>(value),
        Err(error) => Err(error),
    };
    match record {
        Ok(record) => Some(TaskStatus::new(id, record)),
        // The record of another version hides no others.
        Err(error) => {
            observe::backend_failed(&id, &BackendError::unreadable(error));
            None
        }
    }
}
