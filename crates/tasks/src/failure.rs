use super::TaskError;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::progress::cut;

/// The maximum size of the text of an error and its sources, in bytes.
const MAX_TEXT_BYTES: usize = 4096;

/// Error returned by the `run` of a [task](super::Task).
///
/// The operator `?` converts any error. Such an error ends the task, unless the
/// [policy](super::RetryPolicy::retry_errors) of the type retries errors. The constructors say more:
///
/// | failure | the task |
/// |---|---|
/// | [`new`](Self::new), `?` | ends, or is retried if the policy retries errors |
/// | [`conflict`](Self::conflict), [`retry`](Self::retry) | is retried after the pause of the policy |
/// | [`retry_after`](Self::retry_after) | is retried after the given pause |
/// | [`permanent`](Self::permanent) | ends |
///
/// A task that is retried after its last attempt is a dead letter instead.
///
/// `TaskFailure` does not implement [`Error`], so that `?` can convert every type that does.
///
/// ```
/// use tower_promises_tasks::TaskFailure;
///
/// fn total(text: &str) -> Result<u32, TaskFailure> {
///     Ok(text.parse::<u32>()?)
/// }
/// assert!(!total("many").unwrap_err().is_conflict());
/// ```
#[derive(Clone)]
pub struct TaskFailure {
    error: Arc<dyn Error + Send + Sync>,
    kind: Kind,
}

/// What a failure says about a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: the policy of the type decides.
    Error,
    Conflict,
    Retry,
    RetryAfter(Duration),
    Permanent,
}

impl TaskFailure {
    /// Creates a failure that ends the task, unless the [policy](super::RetryPolicy::retry_errors) of the type retries
    /// errors. A [`TaskError`] that [is a conflict](TaskError::is_conflict) stays one.
    pub fn new(error: impl Into<BoxError>) -> Self {
        let error: BoxError = error.into();
        // The error of a nested task that ran in place keeps its classification.
        let is_conflict = error.downcast_ref().is_some_and(TaskError::is_conflict);
        Self {
            error: error.into(),
            kind: if is_conflict {
                Kind::Conflict
            } else {
                Kind::Error
            },
        }
    }

    /// Creates a failure that may not occur again when the task is repeated, such as a serialisation failure of a
    /// database.
    pub fn conflict(error: impl Into<BoxError>) -> Self {
        Self::of_kind(Kind::Conflict, error)
    }

    /// Creates a failure that may not occur again for another reason than a conflict, such as a server that is away.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self::of_kind(Kind::Retry, error)
    }

    /// Creates a failure after which the task is retried after this pause, such as that of a `Retry-After` header. The
    /// pause replaces that of the policy, has no jitter, and must fit into the
    /// [`lifetime`](super::TasksBuilder::lifetime) of the task. The attempt counts.
    ///
    /// In a task that runs in place, the failure is a conflict of the outer task, which is retried after a pause of its
    /// own policy.
    pub fn retry_after(error: impl Into<BoxError>, pause: Duration) -> Self {
        Self::of_kind(Kind::RetryAfter(pause), error)
    }

    /// Creates a failure that ends the task, whatever its policy is.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self::of_kind(Kind::Permanent, error)
    }

    fn of_kind(kind: Kind, error: impl Into<BoxError>) -> Self {
        Self {
            kind,
            ..Self::new(error)
        }
    }

    /// Whether the failure is a [conflict](Self::conflict).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.kind == Kind::Conflict
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the failure itself asks for a retry.
    pub(super) fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            Kind::Conflict | Kind::Retry | Kind::RetryAfter(_)
        )
    }

    /// Returns the error.
    #[must_use]
    pub fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.error
    }

    pub(super) fn classify(mut self, is_conflict: impl Fn(&(dyn Error + 'static)) -> bool) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = Some(&*self.error);
        while let Some(error) = next.filter(|_| self.kind == Kind::Error) {
            if is_conflict(error) {
                self.kind = Kind::Conflict;
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
            .field("kind", &self.kind)
            .finish()
    }
}

/// The serialised form of an error: its text and the texts of its sources.
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

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn panicked(message: &str) -> Self {
        if message.is_empty() {
            Self::new("the task panicked")
        } else {
            Self::new(format!("the task panicked: {message}"))
        }
    }

    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut messages = Vec::new();
        let mut room = MAX_TEXT_BYTES;
        let mut next = Some(error);
        while let Some(error) = next.filter(|_| room > 0) {
            let mut message = error.to_string();
            cut(&mut message, room);
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
