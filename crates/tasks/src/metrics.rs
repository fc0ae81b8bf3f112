//! Counters, gauges and histograms for the [`metrics`](https://docs.rs/metrics) facade. Install any recorder to collect
//! them.
//!
//! | name | kind | labels | description |
//! |---|---|---|---|
//! | `tower_promises_tasks_submitted_total` | counter | `queue`, `task` | tasks that were submitted, also in transactions of the application that were rolled back, without repeated submissions of an id |
//! | `tower_promises_tasks_started_total` | counter | `queue`, `task` | tasks whose first attempt has started |
//! | `tower_promises_tasks_total` | counter | `queue`, `task`, `outcome` | tasks that have ended: `succeeded`, `failed`, `cancelled`, `dead` |
//! | `tower_promises_tasks_in_flight` | gauge | `queue`, `task` | attempts that this process is running |
//! | `tower_promises_task_wait_duration_seconds` | histogram | `queue`, `task` | the time that a task has waited for its first attempt, from its submission or the end of its delay |
//! | `tower_promises_task_attempts_total` | counter | `queue`, `task`, `outcome` | attempts that have ended: `succeeded`, `failed`, `retried`, `cancelled`, `dead`, `returned`, `aborted`, `lost` |
//! | `tower_promises_task_attempt_duration_seconds` | histogram | `queue`, `task` | the durations of attempts, without the storage of their ends |
//! | `tower_promises_task_dead_letters_total` | counter | `queue`, `change` | changes of the dead letters of a queue: `added`, `sent_again`, `discarded`, `dropped` |
//! | `tower_promises_tasks_in_place_total` | counter | `outcome` | tasks that have run in place to their end: `succeeded`, `failed` |
//! | `tower_promises_task_backend_errors_total` | counter | `kind` | failures of the backend: `call`, `bus`, which is listened to again, and `worker`, which is started again |
//! | `tower_promises_schedule_due_times_total` | counter | `schedule`, `outcome` | due times that were decided: `run`, `missed`, `overlapping`, `failed` |
//! | `tower_promises_schedule_errors_total` | counter | `schedule` | failed attempts at keeping a schedule, which are repeated |
//! | `tower_promises_webhooks_total` | counter | `outcome` | webhooks that were sent: `delivered`, `rejected`, `gone`, `unreachable`, `refused` |
//! | `tower_promises_webhook_duration_seconds` | histogram | `outcome` | the durations of attempts to send a webhook, up to the response |
//!
//! An attempt is `retried` if the task runs again after a pause, and `dead` if it was the last one. It is `returned` by a
//! worker that shuts down, and `aborted` if it has no recorded end: its worker was dropped, has lost the lease, or could
//! not store the end. It is `lost` when a worker finds a task whose attempt before has no recorded end. So an attempt
//! may count as `aborted` in one process and as `lost` in another. A cancel that reaches a task before its first attempt
//! counts as the end of a task, and not as an attempt.
//!
//! A submission in a transaction of the application counts whether or not the transaction commits.
//!
//! A dead letter is `dropped` when the list of its queue is full. A dead letter that is sent again starts and ends again,
//! without a submission. Several due times that were missed together count once. A run that is decided and whose task
//! cannot be submitted counts as `run` and as `failed`. A webhook is `rejected` by a status that is tried again, `gone`
//! by a 410, and `refused` by this process, because its address or its receiver has no permission.
//!
//! # Labels
//!
//! `queue`, `task` and `schedule` are names that this process has registered. A task of another type or queue counts as
//! `unknown`. No label has an id, a key, a principal, or another value that a client can choose. So the number of series
//! is bounded: about 15 for each type of a queue, without the buckets of histograms. Each process counts what it does;
//! add the processes up.
//!
//! Install the recorder before [`TasksBuilder::build`](super::TasksBuilder::build), which registers the counters and
//! gauges of all registered names with the value zero. Call [`describe`] once, to register units and help texts.

#[cfg(feature = "metrics")]
use tower_promises_backend::kit::metrics;
#[cfg(feature = "webhooks")]
use tower_promises_backend::kit::metrics::Stopwatch;
use tower_promises_backend::kit::metrics::metric;

metric!(
    pub(super) SUBMITTED: Counter "tower_promises_tasks_submitted_total",
    "Tasks that were submitted, also in transactions that were rolled back.",
    by registration
);
metric!(
    pub(super) STARTED: Counter "tower_promises_tasks_started_total",
    "Tasks whose first attempt has started.",
    by registration
);
metric!(
    pub(super) ENDED: Counter "tower_promises_tasks_total",
    "Tasks that have ended, by outcome.",
    by registration
);
metric!(
    pub(super) IN_FLIGHT: Gauge "tower_promises_tasks_in_flight",
    "Attempts that are running.",
    by registration
);
metric!(
    pub(super) WAIT_DURATION: Histogram "tower_promises_task_wait_duration_seconds",
    "Durations from the submission of a task, or the end of its delay, to its first attempt.",
    by registration
);
metric!(
    pub(super) ATTEMPTS: Counter "tower_promises_task_attempts_total",
    "Attempts that have ended, by outcome.",
    by registration
);
metric!(
    pub(super) ATTEMPT_DURATION: Histogram "tower_promises_task_attempt_duration_seconds",
    "Durations of attempts.",
    by registration
);
metric!(
    pub(super) DEAD_LETTERS: Counter "tower_promises_task_dead_letters_total",
    "Changes of the dead letters of a queue, by change.",
    by registration
);
metric!(
    IN_PLACE: Counter "tower_promises_tasks_in_place_total",
    "Tasks that have run in place to their end, by outcome.",
    "outcome": ["succeeded", "failed"]
);
metric!(
    BACKEND_ERRORS: Counter "tower_promises_task_backend_errors_total",
    "Failures of the backend, by kind.",
    "kind": ["call", "bus", "worker"]
);
#[cfg(feature = "schedules")]
metric!(
    pub(super) DUE_TIMES: Counter "tower_promises_schedule_due_times_total",
    "Due times that were decided, by outcome.",
    by registration
);
#[cfg(feature = "schedules")]
metric!(
    pub(super) SCHEDULE_ERRORS: Counter "tower_promises_schedule_errors_total",
    "Failed attempts at keeping a schedule.",
    by registration
);
#[cfg(feature = "webhooks")]
metric!(
    WEBHOOKS: Counter "tower_promises_webhooks_total",
    "Webhooks that were sent, by outcome.",
    "outcome": ["delivered", "rejected", "gone", "unreachable", "refused"]
);
#[cfg(feature = "webhooks")]
metric!(
    WEBHOOK_DURATION: Histogram "tower_promises_webhook_duration_seconds",
    "Durations of attempts to send a webhook, by outcome.",
    "outcome": ["delivered", "rejected", "gone", "unreachable", "refused"]
);

/// Registers the descriptions and units of the metrics, and the counters without registered names with the value zero.
#[cfg(feature = "metrics")]
pub fn describe() {
    metrics::describe(&[
        &SUBMITTED,
        &STARTED,
        &ENDED,
        &IN_FLIGHT,
        &WAIT_DURATION,
        &ATTEMPTS,
        &ATTEMPT_DURATION,
        &DEAD_LETTERS,
        &IN_PLACE,
        &BACKEND_ERRORS,
        #[cfg(feature = "schedules")]
        &DUE_TIMES,
        #[cfg(feature = "schedules")]
        &SCHEDULE_ERRORS,
        #[cfg(feature = "webhooks")]
        &WEBHOOKS,
        #[cfg(feature = "webhooks")]
        &WEBHOOK_DURATION,
    ]);
}

/// The values of the label `kind`, in their order.
pub(super) enum BackendPart {
    Call,
    Bus,
    Worker,
}

/// The outcome of a webhook, in the order of the label's values.
#[cfg(feature = "webhooks")]
#[derive(Clone, Copy, Debug)]
pub(super) enum WebhookOutcome {
    Delivered,
    Rejected,
    Gone,
    Unreachable,
    Refused,
}

pub(super) fn ran_in_place(has_succeeded: bool) {
    IN_PLACE.count(usize::from(!has_succeeded));
}

pub(super) fn backend_failed(part: BackendPart) {
    BACKEND_ERRORS.count(part as usize);
}

#[cfg(feature = "webhooks")]
pub(super) fn webhook_sent(outcome: WebhookOutcome, since: &Stopwatch) {
    WEBHOOKS.count(outcome as usize);
    WEBHOOK_DURATION.of(outcome as usize).record(since);
}
