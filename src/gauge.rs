/// The names of gauges.
#[cfg(feature = "metrics")]
pub(crate) const REQUESTS_IN_FLIGHT: &str = "tower_promises_requests_in_flight";
#[cfg(feature = "metrics")]
pub(crate) const PROMISES_IN_FLIGHT: &str = "tower_promises_promises_in_flight";
#[cfg(feature = "blocking")]
pub(crate) const BLOCKING_QUEUE_DEPTH: &str = "tower_promises_blocking_queue_depth";
#[cfg(feature = "blocking")]
pub(crate) const BLOCKING_JOBS_IN_FLIGHT: &str = "tower_promises_blocking_jobs_in_flight";
pub(crate) const REPLAY_BYTES: &str = "tower_promises_replay_bytes";

/// A value that is included in the gauge with this name while it exists. The gauge shows the sum of all such values.
/// Without the feature `metrics` it is a plain number.
#[derive(Debug)]
pub(crate) struct Gauge {
    value: usize,
    #[cfg(feature = "metrics")]
    name: &'static str,
}

impl Gauge {
    pub(crate) const fn new(name: &'static str) -> Self {
        #[cfg(not(feature = "metrics"))]
        let _ = name;
        Self {
            value: 0,
            #[cfg(feature = "metrics")]
            name,
        }
    }

    /// Creates a value of one.
    #[cfg(any(feature = "blocking", feature = "metrics"))]
    pub(crate) fn one(name: &'static str) -> Self {
        let mut gauge = Self::new(name);
        gauge.prepare(1).show();
        gauge
    }

    /// Sets the value. The caller may hold a lock, so the caller shows the difference later.
    pub(crate) fn prepare(&mut self, value: usize) -> Difference {
        let former = std::mem::replace(&mut self.value, value);
        Difference {
            #[cfg(feature = "metrics")]
            name: self.name,
            former,
            value,
        }
    }
}

#[cfg(feature = "metrics")]
impl Drop for Gauge {
    fn drop(&mut self) {
        self.prepare(0).show();
    }
}

/// A change of the value of a gauge.
#[must_use]
pub(crate) struct Difference {
    #[cfg(feature = "metrics")]
    name: &'static str,
    former: usize,
    value: usize,
}

impl Difference {
    /// Updates the gauge. The recorder is user code.
    pub(crate) fn show(self) {
        #[cfg(feature = "metrics")]
        {
            let gauge = || metrics::gauge!(self.name);
            match self.value.checked_sub(self.former) {
                Some(0) => {}
                Some(more) => gauge().increment(more as f64),
                None => gauge().decrement((self.former - self.value) as f64),
            }
        }
        #[cfg(not(feature = "metrics"))]
        let _ = (self.former, self.value);
    }
}
