use super::{TaskId, TaskState};
use serde::{Deserialize, Serialize};
use std::time::SystemTime;
use tower_promises_backend::kit::clock::time;

/// A task that has ended, as the task sees it that [is called on the end](super::Submit::on_end).
///
/// The end is recorded: the [status](super::Tasks::status) has the error, and [`Tasks::output`](super::Tasks::output)
/// returns the output, as long as they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedTask {
    pub(super) id: TaskId,
    #[serde(rename = "service")]
    pub(super) queue: String,
    pub(super) task: String,
    pub(super) state: TaskState,
    // Milliseconds since the epoch.
    pub(super) finished: u64,
}

impl EndedTask {
    /// Returns the id of the task that has ended.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Returns the name of its queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Returns the name of its type.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.task
    }

    /// Returns its final state.
    #[must_use]
    pub fn state(&self) -> TaskState {
        self.state
    }

    /// Returns the time of the end.
    #[must_use]
    pub fn finished(&self) -> SystemTime {
        time(self.finished)
    }
}
