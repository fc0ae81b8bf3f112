//! Counters for the [`metrics`](https://docs.rs/metrics) facade. Install any recorder to collect them.
//!
//! | name | kind | labels | description |
//! |---|---|---|---|
//! | `tower_promises_worker_errors_total` | counter | `call` | calls that have failed in a worker and are repeated: `take`, `renew` and `settle` of the queue, and `handle`, a handler that has panicked |
//! | `tower_promises_worker_lost_leases_total` | counter | | envelopes whose lease a worker has lost, which are delivered again |
//!
//! Call [`describe`] once after installing the recorder, to register units, help texts and initial zeros.

use crate::kit::metrics::metric;

metric!(
    ERRORS: Counter "tower_promises_worker_errors_total",
    "Calls that have failed in a worker, by call.",
    "call": ["take", "renew", "settle", "handle"]
);
metric!(
    LOST_LEASES: Counter "tower_promises_worker_lost_leases_total",
    "Envelopes whose lease a worker has lost."
);

/// The values of the label `call`, in their order.
pub(super) enum Call {
    Take,
    Renew,
    Settle,
    Handle,
}

/// Registers the descriptions and units of the metrics, and all counters with the value zero.
#[cfg(feature = "metrics")]
pub fn describe() {
    crate::kit::metrics::describe(&[&ERRORS, &LOST_LEASES]);
}

pub(super) fn failed(call: Call) {
    ERRORS.count(call as usize);
}

pub(super) fn lost_lease() {
    LOST_LEASES.count(0);
}
