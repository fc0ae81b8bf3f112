//! Metrics on the facade of the crate `metrics`.
//!
//! Without the feature `metrics` of this package, all values here take no memory, no clock is read, and the functions do
//! nothing, so that the code that uses them needs no `cfg`. Packages that are built together share the feature.
//!
//! The keys of metrics without labels, and of those whose labels have known values, are made at compile time. The keys
//! of the others are made once, when the values are registered.

#[cfg(feature = "metrics")]
mod recorded;
#[cfg(not(feature = "metrics"))]
mod unrecorded;

#[cfg(feature = "metrics")]
#[doc(hidden)]
pub use recorded::facade;
#[cfg(feature = "metrics")]
pub use recorded::{InFlight, Kind, Metric, Series, Stopwatch, Timed};
#[cfg(not(feature = "metrics"))]
pub use unrecorded::{InFlight, Metric, Series, Stopwatch, Timed};

pub use crate::__metric as metric;

/// Whether anything is recorded.
pub const IS_ON: bool = cfg!(feature = "metrics");

/// Registers the descriptions and units of metrics, and the value zero of the counters and gauges among them whose
/// labels are known.
pub fn describe(metrics: &[&Metric]) {
    for metric in metrics {
        metric.describe();
    }
}
