//! Log events and spans of tasks, and the counters of failures of the backend.

#[cfg(feature = "page")]
use super::Principal;
use super::metrics::{self, BackendPart};
use super::record::Letter;
use super::{TaskError, TaskId, TaskState};
use std::error::Error;
use std::time::Duration;
#[cfg(feature = "schedules")]
use std::time::SystemTime;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::log;

/// Logs an event at `$level`, with the queue, type and id of a task.
macro_rules! event {
    ($level:ident, $letter:ident, $($rest:tt)+) => {
        log::event!(
            $level,
            queue = $letter.queue,
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
        queue = letter.queue,
        task = letter.task,
        id = letter.id.as_str(),
        attempt,
        principal = letter.principal.as_ref().map(super::Principal::as_str),
        traceparent = letter.trace.as_ref().map(super::TraceContext::parent),
    )
}

pub(super) fn unknown_queue(queue: &str, task: &str) {
    log::warning!(
        queue,
        task,
        "no queue of this name was added: the task runs at once, in place"
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

pub(super) fn on_end_failed(letter: &Letter, error: &TaskError) {
    event!(
        warn,
        letter,
        error = error as &(dyn Error + 'static),
        "the call on the end of a task could not be submitted"
    );
}

#[cfg(feature = "schedules")]
pub(super) fn schedule_failed(schedule: &str, error: &TaskError, pause: Duration) {
    log::warning!(
        schedule,
        error = error as &(dyn Error + 'static),
        ?pause,
        "a schedule could not be kept and is tried again"
    );
}

#[cfg(feature = "schedules")]
pub(super) fn schedule_broken(schedule: &str, due: SystemTime, error: &TaskError) {
    log::error!(
        schedule,
        due = %humantime::format_rfc3339_seconds(due),
        error = error as &(dyn Error + 'static),
        "a due time has no run, its task cannot be submitted"
    );
}

#[cfg(feature = "schedules")]
pub(super) fn schedule_without_queue(schedule: &str, queue: &str) {
    log::error!(
        schedule,
        queue,
        "a schedule is not kept, its queue was not added"
    );
}

#[cfg(feature = "schedules")]
pub(super) fn schedule_missed(schedule: &str, until: SystemTime) {
    log::warning!(
        schedule,
        until = %humantime::format_rfc3339_seconds(until),
        "due times were missed and are skipped"
    );
}

#[cfg(feature = "schedules")]
pub(super) fn schedule_overlaps(schedule: &str, due: SystemTime, last: &TaskId) {
    log::warning!(
        schedule,
        due = %humantime::format_rfc3339_seconds(due),
        last = last.as_str(),
        "a due time is skipped, the last run of its schedule has not ended"
    );
}

#[cfg(feature = "schedules")]
pub(super) fn clock_was_wrong(schedule: &str, until: SystemTime) {
    log::warning!(
        schedule,
        until = %humantime::format_rfc3339_seconds(until),
        "a schedule was kept by a clock that was ahead, and starts again now"
    );
}

pub(super) fn bad_letter(queue: &str, envelope: &str, error: &serde_json::Error) {
    log::error!(
        queue,
        envelope,
        %error,
        "an envelope in the queue is not a task that this version can read"
    );
}

pub(super) fn dead_letters_dropped(queue: &str, dropped: usize) {
    log::error!(
        queue,
        dropped,
        "there are too many dead letters, the oldest are not listed any more"
    );
}

pub(super) fn backend_failed(id: &TaskId, error: &BackendError) {
    metrics::backend_failed(BackendPart::Call);
    log::warning!(
        id = id.as_str(),
        error = error as &(dyn Error + 'static),
        "the backend of tasks has failed"
    );
}

#[cfg(feature = "page")]
pub(super) fn page_denied() {
    log::debug!("a request for the page of tasks is not admitted");
}

#[cfg(feature = "page")]
pub(super) fn page_refused(principal: &Principal) {
    log::warning!(
        principal = principal.as_str(),
        "a form of the page of tasks is refused, it comes from another site or from an old page"
    );
}

#[cfg(feature = "page")]
pub(super) fn page_changed(principal: &Principal, action: &str, id: &TaskId) {
    log::info!(
        principal = principal.as_str(),
        action,
        id = id.as_str(),
        "a task is changed on the page of tasks"
    );
}

#[cfg(feature = "page")]
pub(super) fn page_failed(error: &BackendError) {
    metrics::backend_failed(BackendPart::Call);
    log::warning!(
        error = error as &(dyn Error + 'static),
        "the page of tasks cannot read the backend"
    );
}

pub(super) fn bus_lost(error: Option<&BackendError>, pause: Duration) {
    metrics::backend_failed(BackendPart::Bus);
    log::warning!(
        error = error.map(|error| error as &(dyn Error + 'static)),
        ?pause,
        "the bus of tasks is lost, it will be listened to again"
    );
}

pub(super) fn worker_lost(queue: &str, error: Option<&BackendError>, pause: Duration) {
    metrics::backend_failed(BackendPart::Worker);
    log::error!(
        queue,
        error = error.map(|error| error as &(dyn Error + 'static)),
        ?pause,
        "a worker has ended, it will be started again"
    );
}
