use super::task::write_arguments;
use super::{Principal, Task, TaskError, TaskLimit};
use serde_json::value::RawValue;
use std::sync::Arc;

/// What a task and its type say, before the task has an id and a queue.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) task: &'static str,
    pub(super) arguments: Box<RawValue>,
    pub(super) max_attempts: Option<u32>,
    pub(super) limit: Option<TaskLimit>,
}

impl Draft {
    pub(super) fn new<T: Task>(task: &T, principal: Option<&Principal>) -> Result<Self, TaskError> {
        let arguments = write_arguments(task).map_err(|error| TaskError::Serialize {
            task: T::NAME,
            error: Arc::new(error),
        })?;
        Ok(Self {
            task: T::NAME,
            arguments,
            max_attempts: T::retry_policy().attempts(),
            limit: task.limit(principal),
        })
    }

    /// Returns the size of the arguments, in bytes.
    pub(super) fn size(&self) -> usize {
        self.arguments.get().len()
    }
}
