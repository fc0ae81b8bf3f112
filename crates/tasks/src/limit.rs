use serde::{Deserialize, Serialize};

/// The largest limit. The document of a key lists the running tasks, and a store may only accept 64 KiB.
const MAX_AT_ONCE: u32 = 250;

/// A limit on the tasks of a queue that share a key, such as a tenant or an account: at most this many of them run at
/// once, in all processes together. A task type [returns](super::Task::limit) it for each task.
///
/// A task beyond the limit waits outside of the queue, so it occupies no worker and delays no task of another key.
/// [`guide`](super::guide#limits-by-key) says what a limit costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLimit {
    key: String,
    at_once: u32,
}

impl TaskLimit {
    /// Creates a limit for the tasks of the queue that have this key. All task types of the queue share its keys.
    ///
    /// The number is clamped to 1 to 250. If the tasks of a key disagree about the number, as during a roll-out, the
    /// task that was submitted last decides.
    #[must_use]
    pub fn new(key: impl Into<String>, at_once: u32) -> Self {
        Self {
            key: key.into(),
            at_once: at_once.clamp(1, MAX_AT_ONCE),
        }
    }

    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the number of tasks that run at once.
    #[must_use]
    pub fn at_once(&self) -> u32 {
        self.at_once
    }
}
