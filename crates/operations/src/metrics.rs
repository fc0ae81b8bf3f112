//! Counters, gauges and histograms for the [`metrics`](https://docs.rs/metrics) facade. Install any recorder to collect
//! them.
//!
//! | name | kind | labels | description |
//! |---|---|---|---|
//! | `tower_promises_operation_requests_in_flight` | gauge | | requests that count as running: those whose client waits, and operations |
//! | `tower_promises_operation_replies_total` | counter | `reply` | first replies: `inline`, `accepted`, `repeated` |
//! | `tower_promises_operation_refusals_total` | counter | `limit` | refused requests: `principal`, `principal_receiving`, `principal_stored`, `principal_open`, `total`, `total_receiving`, `total_open`, `receive_timeout` |
//! | `tower_promises_operations_started_total` | counter | `kind` | operations that were created: `ordinary`, `durable` |
//! | `tower_promises_operations_in_flight` | gauge | | operations whose work this process is running |
//! | `tower_promises_operations_total` | counter | `outcome` | operations that have ended: `succeeded`, `failed`, `cancelled`, `lost` |
//! | `tower_promises_operation_duration_seconds` | histogram | `outcome` | the time from the arrival of the request to the recorded end of its operation |
//! | `tower_promises_operations_given_up_total` | counter | | operations and runs that did not end within the limit of a drain |
//! | `tower_promises_operation_backend_errors_total` | counter | `kind` | failures of the backend: `call`, `bus`, which is listened to again, and `worker`, which is started again |
//! | `tower_promises_durable_runs_started_total` | counter | `reason` | runs of durable operations that were taken up: `begin`, `due`, `settled` |
//! | `tower_promises_durable_runs_in_flight` | gauge | | runs that this process is running |
//! | `tower_promises_durable_runs_total` | counter | `outcome` | runs that have ended: `ended`, `suspended`, `given_back`, `aborted` |
//! | `tower_promises_durable_run_duration_seconds` | histogram | `outcome` | the durations of runs |
//! | `tower_promises_durable_recoveries_total` | counter | | runs that replace a run that was lost |
//! | `tower_promises_durable_settlements_total` | counter | `result` | settlements from outside: `settled`, `repeated`, `conflict`, `too_late`, `not_found`, `too_large`, `wrong_type` |
//!
//! A first reply is `inline` if it is the inner response or error, and `accepted` if it names the operation. It is
//! `repeated` if an earlier request with the same idempotency key is answered again. Only requests that can become
//! operations count, and only those that get a reply of these kinds.
//!
//! The end of an operation counts in the process that records it. `lost` are operations that ended with the code
//! `Lost`; they do not count as `failed`. A durable operation that is sent again ends again. The duration is measured by the
//! clocks of the machines, and includes suspensions.
//!
//! A run begins for a new or resumed operation (`begin`), at a due time (`due`), or after a settlement (`settled`). The
//! outcome of a run is `ended` if the operation has ended, and `given_back` if its process drains. It is `aborted` if the
//! run was replaced or dropped, or could not store its end; the operation begins again. Durable operations that are
//! suspended are in no process, so they are in no gauge:
//! [`Operations::suspended`](super::Operations::suspended) returns those of a principal.
//!
//! No label has an id, a key, a principal, or another value that a client can choose. A gauge is the sum over all layers
//! of the process.
//!
//! Install the recorder before the first request: a gauge whose increment was not recorded stays below zero after the
//! decrement. Call [`describe`] once after installing the recorder, to register units, help texts and initial zeros.

use super::record::{OperationStatus, Record};
use std::time::Duration;
#[cfg(feature = "metrics")]
use tower_promises_backend::kit::metrics;
use tower_promises_backend::kit::metrics::{InFlight, Series, Timed, metric};

metric!(
    REQUESTS_IN_FLIGHT: Gauge "tower_promises_operation_requests_in_flight",
    "Requests that count as running."
);
metric!(
    REPLIES: Counter "tower_promises_operation_replies_total",
    "First replies to requests that can become operations, by reply.",
    "reply": ["inline", "accepted", "repeated"]
);
metric!(
    REFUSALS: Counter "tower_promises_operation_refusals_total",
    "Refused requests, by limit.",
    "limit": [
        "principal",
        "principal_receiving",
        "principal_stored",
        "principal_open",
        "total",
        "total_receiving",
        "total_open",
        "receive_timeout",
    ]
);
metric!(
    STARTED: Counter "tower_promises_operations_started_total",
    "Operations that were created, by kind.",
    "kind": ["ordinary", "durable"]
);
metric!(
    IN_FLIGHT: Gauge "tower_promises_operations_in_flight",
    "Operations whose work is running."
);
metric!(
    ENDED: Counter "tower_promises_operations_total",
    "Operations that have ended, by outcome.",
    "outcome": ["succeeded", "failed", "cancelled", "lost"]
);
metric!(
    DURATION: Histogram "tower_promises_operation_duration_seconds",
    "Durations from the arrival of a request to the end of its operation, by outcome.",
    "outcome": ["succeeded", "failed", "cancelled", "lost"]
);
metric!(
    GIVEN_UP: Counter "tower_promises_operations_given_up_total",
    "Operations that did not end within the limit of a drain."
);
metric!(
    BACKEND_ERRORS: Counter "tower_promises_operation_backend_errors_total",
    "Failures of the backend, by kind.",
    "kind": ["call", "bus", "worker"]
);
metric!(
    RUNS_STARTED: Counter "tower_promises_durable_runs_started_total",
    "Runs of durable operations that were taken up, by reason.",
    "reason": ["begin", "due", "settled"]
);
metric!(
    RUNS_IN_FLIGHT: Gauge "tower_promises_durable_runs_in_flight",
    "Runs of durable operations."
);
metric!(
    RUNS: Counter "tower_promises_durable_runs_total",
    "Runs of durable operations that have ended, by outcome.",
    "outcome": ["ended", "suspended", "given_back", "aborted"]
);
metric!(
    RUN_DURATION: Histogram "tower_promises_durable_run_duration_seconds",
    "Durations of runs of durable operations, by outcome.",
    "outcome": ["ended", "suspended", "given_back", "aborted"]
);
metric!(
    RECOVERIES: Counter "tower_promises_durable_recoveries_total",
    "Runs of durable operations that replace a run that was lost."
);
metric!(
    SETTLEMENTS: Counter "tower_promises_durable_settlements_total",
    "Settlements of promises from outside, by result.",
    "result": ["settled", "repeated", "conflict", "too_late", "not_found", "too_large", "wrong_type"]
);

/// Registers the descriptions and units of the metrics, and all counters and gauges with the value zero.
#[cfg(feature = "metrics")]
pub fn describe() {
    metrics::describe(&[
        &REQUESTS_IN_FLIGHT,
        &REPLIES,
        &REFUSALS,
        &STARTED,
        &IN_FLIGHT,
        &ENDED,
        &DURATION,
        &GIVEN_UP,
        &BACKEND_ERRORS,
        &RUNS_STARTED,
        &RUNS_IN_FLIGHT,
        &RUNS,
        &RUN_DURATION,
        &RECOVERIES,
        &SETTLEMENTS,
    ]);
}

/// The values of the label `reply`, in their order.
#[derive(Clone, Copy)]
pub(super) enum FirstReply {
    Inline,
    Accepted,
    Repeated,
}

impl FirstReply {
    /// The reply to the first request of an operation.
    pub(super) fn of(record: &Record) -> Self {
        if record.status.is_terminal() {
            Self::Inline
        } else {
            Self::Accepted
        }
    }
}

/// The values of the label `limit`, in their order.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    Principal,
    PrincipalReceiving,
    PrincipalStored,
    PrincipalOpen,
    Total,
    TotalReceiving,
    TotalOpen,
    ReceiveTimeout,
}

/// The values of the label `kind` of failures, in their order.
#[derive(Clone, Copy)]
pub(super) enum BackendPart {
    Call,
    Bus,
    Worker,
}

/// The values of the label `reason`, in their order.
#[derive(Clone, Copy)]
pub(super) enum RunReason {
    Begin,
    Due,
    Settled,
}

/// The outcomes of a run, in the order of the label's values.
#[derive(Clone, Copy)]
pub(super) enum RunOutcome {
    Ended,
    Suspended,
    GivenBack,
    Aborted,
}

/// A place in a gauge, until it is dropped.
pub(super) type Counted = InFlight<&'static Series>;

pub(super) fn request() -> Counted {
    InFlight::begin(REQUESTS_IN_FLIGHT.of(0))
}

pub(super) fn operation() -> Counted {
    InFlight::begin(IN_FLIGHT.of(0))
}

pub(super) fn replied(reply: FirstReply) {
    REPLIES.count(reply as usize);
}

pub(super) fn refused(limit: Limit) {
    REFUSALS.count(limit as usize);
}

pub(super) fn started(is_durable: bool) {
    STARTED.count(usize::from(is_durable));
}

/// Counts the recorded end of an operation.
pub(super) fn ended(record: &Record) {
    let is_lost = record.error.as_ref().is_some_and(|it| it.code == "Lost");
    let outcome = match record.status {
        OperationStatus::Failed if is_lost => 3,
        OperationStatus::Failed => 1,
        OperationStatus::Cancelled => 2,
        OperationStatus::Succeeded => 0,
        OperationStatus::NotStarted | OperationStatus::Running => return,
    };
    ENDED.count(outcome);
    let finished = record.finished.unwrap_or(record.created);
    let duration = Duration::from_millis(finished.saturating_sub(record.created));
    DURATION.of(outcome).record(duration);
}

pub(super) fn given_up(operations: usize) {
    GIVEN_UP.of(0).add(operations as u64);
}

pub(super) fn backend_failed(part: BackendPart) {
    BACKEND_ERRORS.count(part as usize);
}

pub(super) fn taken_up(reason: RunReason) {
    RUNS_STARTED.count(reason as usize);
}

/// Starts a run.
pub(super) fn run() -> Timed<'static> {
    let aborted = RunOutcome::Aborted as usize;
    Timed::start(
        RUNS_IN_FLIGHT.of(0),
        RUNS.all(),
        RUN_DURATION.all(),
        aborted,
    )
}

pub(super) fn recovered() {
    RECOVERIES.count(0);
}

/// Counts a settlement by the place of its result in the label's values.
pub(super) fn settled(result: usize) {
    SETTLEMENTS.count(result);
}
