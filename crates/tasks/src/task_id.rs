use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// The prefix of the keys of records in the store.
pub(super) const RECORDS: &str = "task/record/";

/// Identifies a task in all processes.
///
/// The default id is a random UUID, which cannot be guessed. An explicit id makes submitting idempotent, see
/// [`Submit::with_id`](super::Submit::with_id). An id follows the rules of
/// [`check_name`](tower_promises_backend::check_name) and may have about 1000 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// Creates an id from text.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    pub(super) fn random() -> Self {
        Self(Uuid::new_v4().simple().to_string().into())
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key of the record in the store.
    pub(super) fn record(&self) -> String {
        format!("{RECORDS}{self}")
    }

    /// Returns the topic of the task on the bus.
    pub(super) fn topic(&self) -> String {
        format!("task/{self}")
    }
}

/// Allows map look-ups with text.
impl std::borrow::Borrow<str> for TaskId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<String> for TaskId {
    fn from(id: String) -> Self {
        Self(id.into())
    }
}

impl From<&str> for TaskId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({:?})", &*self.0)
    }
}
