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

/// A number that a gauge of this name shows, added to those of others, for as long as it exists. Without the
/// feature `metrics` it is only a number.
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

    /// A gauge that shows one more for as long as this exists.
    #[cfg(any(feature = "blocking", feature = "metrics"))]
    pub(crate) fn one(name: &'static str) -> Self {
        let mut gauge = Self::new(name);
        gauge.prepare(1).show();
        gauge
    }

    /// Sets the value and leaves it to the caller to show it, who may hold a lock now.
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

/// By how much a gauge has changed.
#[must_use]
pub(crate) struct Difference {
    #[cfg(feature = "metrics")]
    name: &'static str,
    former: usize,
    value: usize,
}

impl Difference {
    /// Tells the recorder, which is other people's code.
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
