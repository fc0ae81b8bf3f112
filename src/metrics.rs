//! Counters, gauges and histograms for the [`metrics`](https://docs.rs/metrics) facade. Install any recorder to collect
//! them.
//!
//! | name | kind | labels | description |
//! |---|---|---|---|
//! | `tower_promises_requests_in_flight` | gauge | | requests that [`PromiseLayer`] is handling |
//! | `tower_promises_passes_total` | counter | `outcome` | calls of the inner service: `published`, `failed`, `discarded`, `rejected`, `abandoned` |
//! | `tower_promises_pass_duration_seconds` | histogram | `outcome` | their durations, without the promises |
//! | `tower_promises_promises_in_flight` | gauge | | promises that have started and not settled |
//! | `tower_promises_promises_total` | counter | `outcome` | promises that ended: `fulfilled`, `failed`, `timed_out`, `panicked`, `cancelled`, `rejected` |
//! | `tower_promises_promise_duration_seconds` | histogram | `outcome` | their durations |
//! | `tower_promises_blocking_queue_depth` | gauge | | blocking jobs that are waiting in the queue |
//! | `tower_promises_blocking_jobs_in_flight` | gauge | | blocking jobs that are running |
//! | `tower_promises_replay_bytes` | gauge | | bytes of request bodies kept in memory for later passes |
//! | `tower_promises_rejections_total` | counter | `kind` | rejected requests: `body_too_large`, `spool_failed`, `timed_out`, `too_many_passes`, `too_many_promises`, `saturated` |
//!
//! A pass is `failed` if its error was published, and `abandoned` if the client disconnected or the pass panicked.
//! `promises_total` counts only promises that have started. `replay_bytes` does not include bytes that wait to be
//! written to a temporary file.
//!
//! Names and units follow the conventions of Prometheus. No label has a value that a client can choose, so the number
//! of series is small and fixed. A gauge is the sum over all layers, pools and bodies of the process.
//!
//! Install the recorder before the first request. A gauge whose increment was not recorded stays below zero after the
//! decrement.
//!
//! # Example
//!
//! The example `observability` has a `/metrics` page for Prometheus. Call [`describe`] once after installing the
//! recorder, to register units, help texts and initial zeros.
//!
//! [`PromiseLayer`]: crate::PromiseLayer

use crate::gauge;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use std::time::Duration;

const PASSES: &str = "tower_promises_passes_total";
const PASS_DURATION: &str = "tower_promises_pass_duration_seconds";
const PROMISES: &str = "tower_promises_promises_total";
const PROMISE_DURATION: &str = "tower_promises_promise_duration_seconds";
const REJECTIONS: &str = "tower_promises_rejections_total";

/// The possible values of the labels.
const PASS_OUTCOMES: [&str; 5] = ["published", "failed", "discarded", "rejected", "abandoned"];
const PROMISE_OUTCOMES: [&str; 6] = [
    "fulfilled",
    "failed",
    "timed_out",
    "panicked",
    "cancelled",
    "rejected",
];
const REJECTION_KINDS: [&str; 6] = [
    "body_too_large",
    "spool_failed",
    "timed_out",
    "too_many_passes",
    "too_many_promises",
    "saturated",
];

const GAUGES: &[&str] = &[
    gauge::REQUESTS_IN_FLIGHT,
    gauge::PROMISES_IN_FLIGHT,
    #[cfg(feature = "blocking")]
    gauge::BLOCKING_QUEUE_DEPTH,
    #[cfg(feature = "blocking")]
    gauge::BLOCKING_JOBS_IN_FLIGHT,
    gauge::REPLAY_BYTES,
];

/// Registers the descriptions and units of the metrics. Also registers all gauges, and all counters with each of their
/// label values, with the value zero: a rate over a counter that starts at one would miss the first increment.
pub fn describe() {
    describe_all();
    begin();
}

fn describe_all() {
    describe_gauge!(
        gauge::REQUESTS_IN_FLIGHT,
        Unit::Count,
        "Requests that are being handled."
    );
    describe_counter!(
        PASSES,
        Unit::Count,
        "Calls of the inner service, by outcome."
    );
    describe_histogram!(
        PASS_DURATION,
        Unit::Seconds,
        "Durations of calls of the inner service, without the promises."
    );
    describe_gauge!(
        gauge::PROMISES_IN_FLIGHT,
        Unit::Count,
        "Promises that have started and not settled."
    );
    describe_counter!(
        PROMISES,
        Unit::Count,
        "Promises that have started, by outcome."
    );
    describe_histogram!(
        PROMISE_DURATION,
        Unit::Seconds,
        "Durations of promises from their start."
    );
    #[cfg(feature = "blocking")]
    {
        describe_gauge!(
            gauge::BLOCKING_QUEUE_DEPTH,
            Unit::Count,
            "Blocking jobs that are waiting in the queue."
        );
        describe_gauge!(
            gauge::BLOCKING_JOBS_IN_FLIGHT,
            Unit::Count,
            "Blocking jobs that are running."
        );
    }
    describe_gauge!(
        gauge::REPLAY_BYTES,
        Unit::Bytes,
        "Bytes of request bodies kept in memory for a later pass, without those for a file."
    );
    describe_counter!(REJECTIONS, Unit::Count, "Rejected requests, by reason.");
}

fn begin() {
    for (name, label, values) in [
        (PASSES, "outcome", PASS_OUTCOMES.as_slice()),
        (PROMISES, "outcome", &PROMISE_OUTCOMES),
        (REJECTIONS, "kind", &REJECTION_KINDS),
    ] {
        for value in values {
            metrics::counter!(name, label => *value).increment(0);
        }
    }
    for name in GAUGES {
        metrics::gauge!(*name).increment(0.0);
    }
}

pub(crate) fn pass_ended(outcome: &'static str, duration: Duration) {
    metrics::counter!(PASSES, "outcome" => outcome).increment(1);
    metrics::histogram!(PASS_DURATION, "outcome" => outcome).record(duration);
}

pub(crate) fn promise_ended(outcome: &'static str, duration: Duration) {
    metrics::counter!(PROMISES, "outcome" => outcome).increment(1);
    metrics::histogram!(PROMISE_DURATION, "outcome" => outcome).record(duration);
}

pub(crate) fn rejected(kind: &'static str) {
    metrics::counter!(REJECTIONS, "kind" => kind).increment(1);
}
