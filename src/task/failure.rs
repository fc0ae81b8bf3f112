use super::TaskError;
use crate::BoxError;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// How many bytes of an error and its sources are kept.
const MAX_TEXT_BYTES: usize = 4096;

/// Why a [task](super::Task) did not do its work: what its `run` returns.
///
/// `?` makes it of any error. That ends the task at once. An error that comes of many working on the same thing at
/// the same time, and will not come again when the work is repeated, is a [`conflict`](Self::conflict); the task is
/// tried again.
///
/// It does not implement [`Error`], so that `?` can make it of everything that does.
///
/// ```
/// use tower_promises::task::TaskFailure;
///
/// fn total(text: &str) -> Result<u32, TaskFailure> {
///     Ok(text.parse::<u32>()?)
/// }
/// assert!(!total("many").unwrap_err().is_conflict());
/// ```
#[derive(Clone)]
pub struct TaskFailure {
    error: Arc<dyn Error + Send + Sync>,
    is_conflict: bool,
}

impl TaskFailure {
    /// An error that ends the task.
    pub fn new(error: impl Into<BoxError>) -> Self {
        let error: BoxError = error.into();
        // That of a task which ran in place, as a part of this one.
        let is_conflict = error.downcast_ref().is_some_and(TaskError::is_conflict);
        Self {
            error: error.into(),
            is_conflict,
        }
    }

    /// An error that may not come again when the task is repeated, such as a serialisation failure of a database.
    pub fn conflict(error: impl Into<BoxError>) -> Self {
        Self {
            is_conflict: true,
            ..Self::new(error)
        }
    }

    /// Whether the task may be tried again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.is_conflict
    }

    /// The error itself.
    #[must_use]
    pub fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.error
    }

    pub(super) fn classify(mut self, is_conflict: impl Fn(&(dyn Error + 'static)) -> bool) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = Some(&*self.error);
        while let Some(error) = next {
            if self.is_conflict || is_conflict(error) {
                self.is_conflict = true;
                break;
            }
            next = error.source();
        }
        self
    }

    pub(super) fn into_error(self) -> Arc<dyn Error + Send + Sync> {
        self.error
    }
}

impl<E: Into<BoxError>> From<E> for TaskFailure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl fmt::Debug for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskFailure")
            .field("error", &self.error)
            .field("is_conflict", &self.is_conflict)
            .finish()
    }
}

/// An error as it travels: its text and those of its sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reported {
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Box<Reported>>,
}

impl Reported {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }

    pub(super) fn because(message: impl Into<String>, source: &(dyn Error + 'static)) -> Self {
        Self {
            message: message.into(),
            source: Some(Box::new(Self::of(source))),
        }
    }

    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut messages = Vec::new();
        let mut room = MAX_TEXT_BYTES;
        let mut next = Some(error);
        while let Some(error) = next.filter(|_| room > 0) {
            let mut message = error.to_string();
            let end = (0..=room.min(message.len())).rev();
            let end = end.into_iter().find(|end| message.is_char_boundary(*end));
            message.truncate(end.unwrap_or_default());
            room = room.saturating_sub(message.len().max(1));
            messages.push(message);
            next = error.source();
        }
        let source = messages.drain(1..).rev().fold(None, |source, message| {
            let source: Option<Box<Self>> = source;
            Some(Box::new(Self { message, source }))
        });
        Self {
            message: messages.pop().unwrap_or_default(),
            source,
        }
    }
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Reported {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}
