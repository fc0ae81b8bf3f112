//! Counters, gauges and histograms for the [`metrics`](https://docs.rs/metrics) facade. Install any recorder to collect
//! them.
//!
//! | name | kind | labels | description |
//! |---|---|---|---|
//! | `tower_promises_signals_sent_total` | counter | `method` | values that were sent: `send`, `send_one`, `latch` |
//! | `tower_promises_signal_waits_in_flight` | gauge | | waits that have neither ended nor been dropped |
//! | `tower_promises_signal_waits_total` | counter | `outcome` | waits that have ended: `received`, `timed_out`, `wrong_type`, `dropped` |
//! | `tower_promises_signal_wait_duration_seconds` | histogram | `outcome` | the durations of waits from their creation |
//! | `tower_promises_signal_waits_refused_total` | counter | | waits that were refused, because there are too many |
//! | `tower_promises_signals_missed_total` | counter | | messages of the bus that this process was too slow to read, at least |
//! | `tower_promises_signal_backend_errors_total` | counter | `kind` | failures of the backend: `call`, `bus`, which is listened to again, and `message`, which cannot be read |
//!
//! A wait is `dropped` if its request has ended or was cancelled first. A value that was sent counts once, however many
//! waiters get it. No label has a name of a signal, because a client can choose it.
//!
//! Install the recorder before the first wait: a gauge whose increment was not recorded stays below zero after the
//! decrement. Call [`describe`] once after installing the recorder, to register units, help texts and initial zeros.

#[cfg(feature = "metrics")]
use tower_promises_backend::kit::metrics;
use tower_promises_backend::kit::metrics::{Timed, metric};

metric!(
    SENT: Counter "tower_promises_signals_sent_total",
    "Values that were sent, by method.",
    "method": ["send", "send_one", "latch"]
);
metric!(
    IN_FLIGHT: Gauge "tower_promises_signal_waits_in_flight",
    "Waits that have neither ended nor been dropped."
);
metric!(
    WAITS: Counter "tower_promises_signal_waits_total",
    "Waits that have ended, by outcome.",
    "outcome": ["received", "timed_out", "wrong_type", "dropped"]
);
metric!(
    WAIT_DURATION: Histogram "tower_promises_signal_wait_duration_seconds",
    "Durations of waits from their creation, by outcome.",
    "outcome": ["received", "timed_out", "wrong_type", "dropped"]
);
metric!(
    REFUSED: Counter "tower_promises_signal_waits_refused_total",
    "Waits that were refused."
);
metric!(
    MISSED: Counter "tower_promises_signals_missed_total",
    "Messages of the bus that were not read in time."
);
metric!(
    BACKEND_ERRORS: Counter "tower_promises_signal_backend_errors_total",
    "Failures of the backend, by kind.",
    "kind": ["call", "bus", "message"]
);

/// Registers the descriptions and units of the metrics, and all counters and gauges with the value zero.
#[cfg(feature = "metrics")]
pub fn describe() {
    metrics::describe(&[
        &SENT,
        &IN_FLIGHT,
        &WAITS,
        &WAIT_DURATION,
        &REFUSED,
        &MISSED,
        &BACKEND_ERRORS,
    ]);
}

/// The values of the label `method`, in their order.
#[derive(Clone, Copy)]
pub(super) enum Method {
    Send,
    SendOne,
    Latch,
}

/// The outcomes of a wait, in the order of the label's values.
#[derive(Clone, Copy)]
pub(super) enum WaitOutcome {
    Received,
    TimedOut,
    WrongType,
    Dropped,
}

/// The values of the label `kind`, in their order.
#[derive(Clone, Copy)]
pub(super) enum BackendPart {
    Call,
    Bus,
    Message,
}

pub(super) fn sent(method: Method) {
    SENT.count(method as usize);
}

/// Starts a wait.
pub(super) fn wait() -> Timed<'static> {
    let dropped = WaitOutcome::Dropped as usize;
    Timed::start(IN_FLIGHT.of(0), WAITS.all(), WAIT_DURATION.all(), dropped)
}

pub(super) fn refused() {
    REFUSED.count(0);
}

pub(super) fn missed(messages: u64) {
    MISSED.of(0).add(messages);
}

pub(super) fn backend_failed(part: BackendPart) {
    BACKEND_ERRORS.count(part as usize);
}
