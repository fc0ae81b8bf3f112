//! What tasks tell the operator. Without the feature `tracing` all of this is nothing.

use super::record::Letter;
use super::{TaskContext, TaskId, TaskState};
use crate::backend::BackendError;
use std::error::Error;
use std::time::Duration;

/// The crate rather than this private module, so that filters need no knowledge of the latter.
#[cfg(feature = "tracing")]
const TARGET: &str = "tower_promises";

/// An event of this level, of the task of a letter.
#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $letter:ident, $($rest:tt)+) => {
        tracing::$level!(
            target: TARGET,
            service = $letter.service,
            task = $letter.task,
            id = $letter.id.as_str(),
            $($rest)+
        )
    };
}

/// Makes the span of a task, unless it is to be the usual one.
#[cfg(feature = "tracing")]
pub(super) type MakeSpan = dyn Fn(&TaskContext) -> tracing::Span + Send + Sync;

/// Runs a task in its span, which is made at the first poll.
#[cfg(feature = "tracing")]
pub(super) async fn in_span<F: Future>(context: &TaskContext, future: F) -> F::Output {
    use tracing::Instrument;

    let span = match &context.tasks().core().make_span {
        Some(make_span) => make_span(context),
        None => tracing::info_span!(
            target: TARGET,
            "task",
            service = context.service(),
            task = context.task(),
            id = context.id().as_str(),
            attempt = context.attempt(),
            principal = context.principal().map(super::Principal::as_str),
            traceparent = context.trace().map(super::TraceContext::parent),
        ),
    };
    future.instrument(span).await
}

#[cfg(not(feature = "tracing"))]
pub(super) fn in_span<F: Future>(_: &TaskContext, future: F) -> impl Future<Output = F::Output> {
    future
}

pub(super) fn unknown_service(service: &str, task: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: TARGET,
        service,
        task,
        "no service of this name is provided: the task runs at once, in place"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (service, task);
}

pub(super) fn began(letter: &Letter, attempt: u32) {
    #[cfg(feature = "tracing")]
    event!(debug, letter, attempt, "task begins");
    #[cfg(not(feature = "tracing"))]
    let _ = (letter, attempt);
}

pub(super) fn ended(letter: &Letter, state: TaskState, error: Option<&(dyn Error + 'static)>) {
    #[cfg(feature = "tracing")]
    {
        match state {
            TaskState::Failed => event!(error, letter, error, "task failed"),
            TaskState::Dead => event!(error, letter, error, "task is a dead letter now"),
            _ => event!(debug, letter, %state, "task ended"),
        }
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (letter, state, error);
}

pub(super) fn conflicted(letter: &Letter, error: &(dyn Error + 'static), pause: Duration) {
    #[cfg(feature = "tracing")]
    event!(info, letter, error, ?pause, "task is tried again");
    #[cfg(not(feature = "tracing"))]
    let _ = (letter, error, pause);
}

pub(super) fn given_back(letter: &Letter) {
    #[cfg(feature = "tracing")]
    event!(info, letter, "task is given back, its worker shuts down");
    #[cfg(not(feature = "tracing"))]
    let _ = letter;
}

pub(super) fn waits_to_be_alone(letter: &Letter) {
    #[cfg(feature = "tracing")]
    event!(
        warn,
        letter,
        "task may have ended its workers, its last attempt waits until it is alone"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = letter;
}

pub(super) fn superseded(letter: &Letter) {
    #[cfg(feature = "tracing")]
    event!(
        warn,
        letter,
        "another worker has the task: the outcome of this attempt is dropped"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = letter;
}

pub(super) fn bad_letter(service: &str, envelope: &str, error: &serde_json::Error) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        target: TARGET,
        service,
        envelope,
        %error,
        "an envelope in the queue is no task that this version knows"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (service, envelope, error);
}

pub(super) fn dead_letters_dropped(service: &str, dropped: usize) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        target: TARGET,
        service,
        dropped,
        "there are too many dead letters, the oldest are not listed any more"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (service, dropped);
}

pub(super) fn backend_failed(id: &TaskId, error: &BackendError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: TARGET,
        id = id.as_str(),
        error = error as &(dyn Error + 'static),
        "the backend of tasks has failed"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (id, error);
}

pub(super) fn bus_lost(error: Option<&BackendError>, pause: Duration) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: TARGET,
        error = error.map(|error| error as &(dyn Error + 'static)),
        ?pause,
        "the bus of tasks is lost, it will be listened to again"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (error, pause);
}

pub(super) fn worker_lost(service: &str, error: Option<&BackendError>, pause: Duration) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        target: TARGET,
        service,
        error = error.map(|error| error as &(dyn Error + 'static)),
        ?pause,
        "a worker has ended, it will be started again"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (service, error, pause);
}
