use super::{TaskError, TaskId};
use futures_util::future::BoxFuture;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Future returned by [`Submit::within`](super::Submit::within). It resolves to the id of the task, which exists when the
/// transaction has committed.
///
/// Until then no worker gets the task, and neither a [status](super::Tasks::status) nor a [list](super::Tasks::list)
/// has it. Workers find it by polling after the commit, and the adapter documents how soon.
/// [`Tasks::watch`](super::Tasks::watch) waits for its end: call it after the commit, because an id without a task is
/// an error.
///
/// # Rules
///
/// 1. The task always goes to a worker, also within a task, where other submissions run in place. So a task can do its
///    work and submit the next task in one transaction.
/// 2. The transaction contains the whole submission: the record of the task, its id, its envelope with arguments, delay,
///    priority, principal and trace, and the call on its end. A [limit](super::TaskLimit) applies from the commit on: the
///    task takes its place among those that wait for a slot when a worker finds it, at most one poll later.
/// 3. An [id](super::Submit::with_id) and its [policy](super::Unique) refer to the tasks that the transaction sees: those
///    that are committed, and its own. If another transaction that has not ended has submitted the id, this future waits
///    for its end, or fails with a conflict. [`Unique::Replace`](super::Unique::Replace) replaces the earlier task with
///    the commit, so a worker may begin with the earlier one until then, in which case the transaction may end with a
///    conflict.
/// 4. A delay and the [lifetime](super::TasksBuilder::lifetime) begin now, not with the commit.
///
/// # Cancel safety
///
/// If the future is dropped before it resolves, the transaction is as it was before, or contains the task. Roll it back
/// unless both are right.
///
/// # Errors
///
/// The errors of [`TaskQueue::submit`](super::TaskQueue::submit). The transaction is then as it was before, so that it
/// can be continued, unless the database has ended it. Besides:
///
/// - [`TaskError::UnknownQueue`] if the queue was not [added](super::TasksBuilder::queue): no task runs in place.
/// - [`TaskError::Backend`] with [`BackendError::Unsupported`] if the backend has no transactions, and with
///   [`BackendError::Refused`] if the connection is in none, or in one of another database.
/// - [`TaskError::Backend`] with [`BackendError::Conflict`] if the transaction must be rolled back because of another one.
///   Repeating it from its beginning may succeed. A task that returns this error is retried, as after any conflict.
///
/// [`BackendError::Unsupported`]: tower_promises_backend::BackendError::Unsupported
/// [`BackendError::Refused`]: tower_promises_backend::BackendError::Refused
/// [`BackendError::Conflict`]: tower_promises_backend::BackendError::Conflict
///
/// # Panics
///
/// Panics if it is polled after completion.
#[must_use = "futures do nothing unless polled"]
pub struct SubmitWithin<'c> {
    id: TaskId,
    submitting: BoxFuture<'c, Result<TaskId, TaskError>>,
}

impl<'c> SubmitWithin<'c> {
    pub(super) fn new(
        id: TaskId,
        submitting: impl Future<Output = Result<TaskId, TaskError>> + Send + 'c,
    ) -> Self {
        Self {
            id,
            submitting: Box::pin(submitting),
        }
    }

    /// Returns the id that the task will have.
    #[must_use]
    pub fn id(&self) -> &TaskId {
        &self.id
    }
}

impl Future for SubmitWithin<'_> {
    type Output = Result<TaskId, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.submitting.as_mut().poll(cx)
    }
}

impl fmt::Debug for SubmitWithin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitWithin")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
