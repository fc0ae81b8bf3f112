//! Log events and spans of tasks.

use super::record::Letter;
use super::{TaskContext, TaskId, TaskState};
use std::error::Error;
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::log;

/// Logs an event at `$level`, with the service, type and id of a task.
macro_rules! event {
    ($level:ident, $letter:ident, $($rest:tt)+) => {
        log::event!(
            $level,
            service = $letter.service,
            task = $letter.task,
            id = $letter.id.as_str(),
            $($rest)+
        )
    };
}

/// Function that creates the span of a task.
pub(super) type MakeSpan = dyn Fn(&TaskContext) -> tracing::Span + Send + Sync;

/// Runs a task in its span. The span is created at the first poll.
pub(super) async fn in_span<F: Future>(context: &TaskContext, future: F) -> F::Output {
    use tracing::Instrument;

    let span = match &context.tasks().core().make_span {
        Some(make_span) => make_span(context),
        None => tracing::info_span!(
            target: "tower_promises",
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

pub(super) fn unknown_service(service: &str, task: &str) {
    log::warning!(
        service,
        task,
        "no service of this name is provided: the task runs at once, in place"
    );
}

pub(super) fn began(letter: &Letter, attempt: u32) {
    event!(debug, letter, attempt, "task begins");
}

pub(super) fn ended(letter: &Letter, state: TaskState, error: Option<&(dyn Error + 'static)>) {
    {
        match state {
            TaskState::Failed => event!(error, letter, error, "task failed"),
            TaskState::Dead => event!(error, letter, error, "task is a dead letter now"),
            _ => event!(debug, letter, %state, "task ended"),
        }
    }
}

pub(super) fn conflicted(letter: &Letter, error: &(dyn Error + 'static), pause: Duration) {
    event!(info, letter, error, ?pause, "task is tried again");
}

pub(super) fn given_back(letter: &Letter) {
    event!(info, letter, "task is given back, its worker shuts down");
}

pub(super) fn waits_to_be_alone(letter: &Letter) {
    event!(
        warn,
        letter,
        "task may have crashed its workers, its last attempt waits to run alone"
    );
}

pub(super) fn superseded(letter: &Letter) {
    event!(
        warn,
        letter,
        "another worker has the task: the outcome of this attempt is dropped"
    );
}

pub(super) fn bad_letter(service: &str, envelope: &str, error: &serde_json::Error) {
    log::error!(service,
        envelope,
        %error,
        "an envelope in the queue is not a task that this version can read"
    );
}

pub(super) fn dead_letters_dropped(service: &str, dropped: usize) {
    log::error!(
        service,
        dropped,
        "there are too many dead letters, the oldest are not listed any more"
    );
}

pub(super) fn backend_failed(id: &TaskId, error: &BackendError) {
    log::warning!(
        id = id.as_str(),
        error = error as &(dyn Error + 'static),
        "the backend of tasks has failed"
    );
}

pub(super) fn bus_lost(error: Option<&BackendError>, pause: Duration) {
    log::warning!(
        error = error.map(|error| error as &(dyn Error + 'static)),
        ?pause,
        "the bus of tasks is lost, it will be listened to again"
    );
}

pub(super) fn worker_lost(service: &str, error: Option<&BackendError>, pause: Duration) {
    log::error!(
        service,
        error = error.map(|error| error as &(dyn Error + 'static)),
        ?pause,
        "a worker has ended, it will be started again"
    );
}
