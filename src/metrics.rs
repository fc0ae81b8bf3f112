//! Counters, gauges and histograms for the [`metrics`](https://docs.rs/metrics) facade. Install any recorder to collect
//! them.
//!
//! These are the metrics of promises and pages. Workers, operations, signals and tasks have metrics too, in the module
//! `metrics` of each package. [The guide](crate::observe::guide#all-metrics) lists all of them, and the questions that
//! they answer.
//!
//! | name | kind | labels | description |
//! |---|---|---|---|
//! | `tower_promises_requests_in_flight` | gauge | | requests that `PromiseLayer` is handling |
//! | `tower_promises_passes_total` | counter | `outcome` | calls of the inner service: `published`, `failed`, `discarded`, `rejected`, `abandoned` |
//! | `tower_promises_pass_duration_seconds` | histogram | `outcome` | their durations, without the promises |
//! | `tower_promises_promises_in_flight` | gauge | | promises that have started and not settled |
//! | `tower_promises_promises_total` | counter | `outcome` | promises that ended: `fulfilled`, `failed`, `timed_out`, `panicked`, `cancelled`, `rejected` |
//! | `tower_promises_promise_duration_seconds` | histogram | `outcome` | their durations |
//! | `tower_promises_shell_duration_seconds` | histogram | | the time to the beginning of a page whose fragments follow |
//! | `tower_promises_page_duration_seconds` | histogram | | the time to the end of such a page |
//! | `tower_promises_fragments_total` | counter | `outcome` | fragments that followed: `rendered`, `failed`, `timed_out`, `abandoned` |
//! | `tower_promises_fragment_duration_seconds` | histogram | `outcome` | the time from the beginning of the request to the fragment |
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
//! Install the recorder before the first request. Passes and promises of a request that began before are only counted,
//! and any other gauge whose increment was not recorded stays below zero after the decrement. A recorder of zero size
//! is told from no recorder by its gauges. Without gauges it gets no durations of passes and promises.
//!
//! # Example
//!
//! The example `observability` has a `/metrics` page for Prometheus. Call [`describe`] once after installing the
//! recorder, to register units, help texts and initial zeros, also those of the other packages that are enabled.
//!
//! [`PromiseLayer`]: crate::PromiseLayer

use crate::gauge;
use metrics::{
    Key, Label, Level, Metadata, Unit, describe_counter, describe_gauge, describe_histogram,
};
use std::time::Duration;

const PASSES: &str = "tower_promises_passes_total";
const PASS_DURATION: &str = "tower_promises_pass_duration_seconds";
const PROMISES: &str = "tower_promises_promises_total";
const PROMISE_DURATION: &str = "tower_promises_promise_duration_seconds";
#[cfg(feature = "fragments")]
const FRAGMENTS: &str = "tower_promises_fragments_total";
#[cfg(feature = "fragments")]
const FRAGMENT_DURATION: &str = "tower_promises_fragment_duration_seconds";
#[cfg(feature = "fragments")]
const SHELL_DURATION: &str = "tower_promises_shell_duration_seconds";
#[cfg(feature = "fragments")]
const PAGE_DURATION: &str = "tower_promises_page_duration_seconds";
const REJECTIONS: &str = "tower_promises_rejections_total";

/// The possible values of the label.
const REJECTION_KINDS: [&str; 6] = [
    "body_too_large",
    "spool_failed",
    "timed_out",
    "too_many_passes",
    "too_many_promises",
    "saturated",
];

static GAUGES: &[&gauge::Name] = &[
    &gauge::REQUESTS_IN_FLIGHT,
    &gauge::PROMISES_IN_FLIGHT,
    #[cfg(feature = "blocking")]
    &gauge::BLOCKING_QUEUE_DEPTH,
    #[cfg(feature = "blocking")]
    &gauge::BLOCKING_JOBS_IN_FLIGHT,
    &gauge::REPLAY_BYTES,
];

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// The keys of a counter and of a histogram for things that end with one of these outcomes, in the order of the
/// variants of the outcome. The keys are made at compile time, and their hashes once.
macro_rules! by_outcome {
    ($keys:ident, $counter:ident, $histogram:ident, [$($outcome:literal),* $(,)?]) => {
        static $keys: [(Key, Key); [$($outcome),*].len()] = [$({
            static LABELS: [Label; 1] = [Label::from_static_parts("outcome", $outcome)];
            (
                Key::from_static_parts($counter, &LABELS),
                Key::from_static_parts($histogram, &LABELS),
            )
        }),*];
    };
}

by_outcome!(
    PASS_KEYS,
    PASSES,
    PASS_DURATION,
    ["published", "failed", "discarded", "rejected", "abandoned"]
);
by_outcome!(
    PROMISE_KEYS,
    PROMISES,
    PROMISE_DURATION,
    [
        "fulfilled",
        "failed",
        "timed_out",
        "panicked",
        "cancelled",
        "rejected",
    ]
);

#[cfg(feature = "fragments")]
by_outcome!(
    FRAGMENT_KEYS,
    FRAGMENTS,
    FRAGMENT_DURATION,
    ["rendered", "failed", "timed_out", "abandoned"]
);

/// Registers the descriptions and units of the metrics. Also registers all gauges, and all counters with each of their
/// label values, with the value zero: a rate over a counter that starts at one would miss the first increment.
///
/// This function also describes the metrics of the packages that are enabled as features.
pub fn describe() {
    describe_all();
    begin();
    #[cfg(feature = "backend")]
    tower_promises_backend::metrics::describe();
    #[cfg(feature = "operations")]
    tower_promises_operations::metrics::describe();
    #[cfg(feature = "signals")]
    tower_promises_signals::metrics::describe();
    #[cfg(feature = "tasks")]
    tower_promises_tasks::metrics::describe();
}

fn describe_all() {
    describe_gauge!(
        gauge::REQUESTS_IN_FLIGHT.name_shared(),
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
        gauge::PROMISES_IN_FLIGHT.name_shared(),
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
    #[cfg(feature = "fragments")]
    describe_fragments();
    #[cfg(feature = "blocking")]
    {
        describe_gauge!(
            gauge::BLOCKING_QUEUE_DEPTH.name_shared(),
            Unit::Count,
            "Blocking jobs that are waiting in the queue."
        );
        describe_gauge!(
            gauge::BLOCKING_JOBS_IN_FLIGHT.name_shared(),
            Unit::Count,
            "Blocking jobs that are running."
        );
    }
    describe_gauge!(
        gauge::REPLAY_BYTES.name_shared(),
        Unit::Bytes,
        "Bytes of request bodies kept in memory for a later pass, without those for a file."
    );
    describe_counter!(REJECTIONS, Unit::Count, "Rejected requests, by reason.");
}

#[cfg(feature = "fragments")]
fn describe_fragments() {
    describe_counter!(
        FRAGMENTS,
        Unit::Count,
        "Fragments that followed their page, by outcome."
    );
    describe_histogram!(
        FRAGMENT_DURATION,
        Unit::Seconds,
        "Durations from the beginning of the request to a fragment that followed its page."
    );
    describe_histogram!(
        SHELL_DURATION,
        Unit::Seconds,
        "Durations to the beginning of pages whose fragments followed."
    );
    describe_histogram!(
        PAGE_DURATION,
        Unit::Seconds,
        "Durations to the end of pages whose fragments followed."
    );
}

fn begin() {
    let keys = PASS_KEYS.iter().chain(&PROMISE_KEYS);
    #[cfg(feature = "fragments")]
    let keys = keys.chain(&FRAGMENT_KEYS);
    for (counter, _) in keys {
        metrics::with_recorder(|recorder| {
            recorder.register_counter(counter, &METADATA).increment(0);
        });
    }
    for kind in REJECTION_KINDS {
        metrics::counter!(REJECTIONS, "kind" => kind).increment(0);
    }
    for name in GAUGES {
        gauge::of(name).increment(0.0);
    }
}

/// `outcome` is the number of the variant.
pub(crate) fn pass_ended(outcome: usize, duration: Duration) {
    ended(&PASS_KEYS[outcome], duration);
}

/// Counts a pass without its duration. `outcome` is the number of the variant.
pub(crate) fn pass_counted(outcome: usize) {
    counted(&PASS_KEYS[outcome], 1);
}

/// `outcome` is the number of the variant.
pub(crate) fn promise_ended(outcome: usize, duration: Duration) {
    ended(&PROMISE_KEYS[outcome], duration);
}

/// Counts promises without their durations. `outcome` is the number of the variant.
pub(crate) fn promises_counted(outcome: usize, count: u64) {
    counted(&PROMISE_KEYS[outcome], count);
}

/// `outcome` is the number of the variant.
#[cfg(feature = "fragments")]
pub(crate) fn fragment_ended(outcome: usize, since_request: Duration) {
    ended(&FRAGMENT_KEYS[outcome], since_request);
}

#[cfg(feature = "fragments")]
pub(crate) fn shell_published(since_request: Duration) {
    metrics::histogram!(SHELL_DURATION).record(since_request);
}

#[cfg(feature = "fragments")]
pub(crate) fn page_completed(since_request: Duration) {
    metrics::histogram!(PAGE_DURATION).record(since_request);
}

fn ended((counter, histogram): &'static (Key, Key), duration: Duration) {
    metrics::with_recorder(|recorder| {
        recorder.register_counter(counter, &METADATA).increment(1);
        let histogram = recorder.register_histogram(histogram, &METADATA);
        histogram.record(duration);
    });
}

fn counted((counter, _): &'static (Key, Key), count: u64) {
    metrics::with_recorder(|recorder| {
        recorder
            .register_counter(counter, &METADATA)
            .increment(count);
    });
}

pub(crate) fn rejected(kind: &'static str) {
    metrics::counter!(REJECTIONS, "kind" => kind).increment(1);
}
