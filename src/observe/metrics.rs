//! Counters, gauges and histograms on the [`metrics`](https://docs.rs/metrics) facade: install any recorder, and they
//! are there.
//!
//! | name | kind | labels | what |
//! |---|---|---|---|
//! | `tower_promises_requests_in_flight` | gauge | | requests that [`PromiseLayer`] is handling |
//! | `tower_promises_passes_total` | counter | `outcome` | calls of the inner service: `published`, `failed` (its error was published), `discarded`, `rejected`, `abandoned` (the client went away, or the pass panicked) |
//! | `tower_promises_pass_duration_seconds` | histogram | `outcome` | how long they took, without the promises between them |
//! | `tower_promises_promises_in_flight` | gauge | | promises that have started and not settled |
//! | `tower_promises_promises_total` | counter | `outcome` | promises that have started and ended: `fulfilled`, `failed`, `timed_out`, `panicked`, `cancelled`, `rejected` |
//! | `tower_promises_promise_duration_seconds` | histogram | `outcome` | how long they took |
//! | `tower_promises_blocking_queue_depth` | gauge | | blocking jobs that wait for their turn |
//! | `tower_promises_blocking_jobs_in_flight` | gauge | | blocking jobs that run |
//! | `tower_promises_replay_bytes` | gauge | | bytes of request bodies kept in memory for a later pass, without those on their way to a temporary file |
//! | `tower_promises_rejections_total` | counter | `kind` | requests that the layer rejected: `body_too_large`, `spool_failed`, `timed_out`, `too_many_passes`, `too_many_promises`, `saturated` |
//!
//! Names and units follow the conventions of Prometheus. No label has a value that a client could choose, so the
//! number of series is small and fixed. Gauges add up over all layers, pools and bodies of the process.
//!
//! Install the recorder before the first request: a gauge that was told only that something has ended stays below zero.
//!
//! # Example
//!
//! The example `observability` has a `/metrics` page for Prometheus. Call [`describe`] once, after the recorder was
//! installed, for units, help texts and zeros.
//!
//! [`PromiseLayer`]: crate::PromiseLayer

use super::gauge;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use std::time::Duration;

const PASSES: &str = "tower_promises_passes_total";
const PASS_DURATION: &str = "tower_promises_pass_duration_seconds";
const PROMISES: &str = "tower_promises_promises_total";
const PROMISE_DURATION: &str = "tower_promises_promise_duration_seconds";
const REJECTIONS: &str = "tower_promises_rejections_total";

/// What the labels may say.
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

/// Tells the recorder what the metrics mean, and their units. Gauges, and counters with each of their labels, are there
/// from now on, as zeros: a rate over a counter that begins with one would not show what happened first.
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
        "Calls of the inner service by what became of them."
    );
    describe_histogram!(
        PASS_DURATION,
        Unit::Seconds,
        "How long calls of the inner service took, without the promises between them."
    );
    describe_gauge!(
        gauge::PROMISES_IN_FLIGHT,
        Unit::Count,
        "Promises that have started and not settled."
    );
    describe_counter!(
        PROMISES,
        Unit::Count,
        "Promises that have started, by what became of them."
    );
    describe_histogram!(
        PROMISE_DURATION,
        Unit::Seconds,
        "How long promises took from their start."
    );
    #[cfg(feature = "blocking")]
    {
        describe_gauge!(
            gauge::BLOCKING_QUEUE_DEPTH,
            Unit::Count,
            "Blocking jobs that wait for their turn."
        );
        describe_gauge!(
            gauge::BLOCKING_JOBS_IN_FLIGHT,
            Unit::Count,
            "Blocking jobs that run."
        );
    }
    describe_gauge!(
        gauge::REPLAY_BYTES,
        Unit::Bytes,
        "Bytes of request bodies kept in memory for a later pass, without those for a file."
    );
    describe_counter!(
        REJECTIONS,
        Unit::Count,
        "Requests that were rejected, by the reason."
    );
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
