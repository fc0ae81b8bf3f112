//! Log events and spans of tasks.

use super::record::Letter;
use super::{TaskId, TaskState};
use std::error::Error;
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::log;

/// Logs an event at `$level`, with the queue, type and id of a task.
macro_rules! event {
    ($level:ident, $letter:ident, $($rest:tt)+) => {
        log::event!(
            $level,
            service = $letter.queue,
            task = $letter.task,
            id = $letter.id.as_str(),
            $($rest)+
        )
    };
}

/// Returns the default span of an attempt.
pub(super) fn span(letter: &Letter, attempt: u32) -> tracing::Span {
    tracing::info_span!(
        target: "tower_promises",
        "task",
        service = letter.queue,
        task = letter.task,
        id = letter.id.as_str(),
        attempt,
        principal = letter.principal.as_ref().map(super::Principal::as_str),
        traceparent = letter.trace.as_ref().map(super::TraceContext::parent),
    )
}

pub(super) fn unknown_queue(queue: &str, task: &str) {
    log::warning!(
        service = queue,
        task,
        "no service of this name is provided: the task runs at once, in place"
    );
}

pub(super) fn began(letter: &Letter, attempt: u32) {
    event!(debug, letter, attempt, "task begins");
}

pub(super) fn ended(letter: &Letter, state: TaskState, error: Option<&(dyn Error + 'static)>) {
    match state {
        TaskState::Failed => event!(error, letter, error, "task failed"),
        TaskState::Dead => event!(error, letter, error, "task is a dead letter now"),
        _ => event!(debug, letter, %state, "task ended"),
    }
}

pub(super) fn conflicted(letter: &Letter, error: &(dyn Error + 'static), pause: Duration) {
    event!(info, letter, error, ?pause, "task is tried again");
}

pub(super) fn parked(letter: &Letter) {
    event!(debug, letter, "task waits until its limit has room");
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

pub(super) fn bad_letter(queue: &str, envelope: &str, error: &serde_json::Error) {
    log::error!(
        service = queue,
        envelope,
        %error,
        "an envelope in the queue is not a task that this version can read"
    );
}

pub(super) fn dead_letters_dropped(queue: &str, dropped: usize) {
    log::error!(
        service = queue,
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

pub(super) fn worker_lost(queue: &str, error: Option<&BackendError>, pause: Duration) {
    log::error!(
        service = queue,
        error = error.map(|error| error as &(dyn Error + 'static)),
        ?pause,
        "a worker has ended, it will be started again"
    );
}
