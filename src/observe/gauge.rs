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
    #[cfg(feature = "blocking")]
    pub(crate) fn one(name: &'static str) -> Self {
        let mut gauge = Self::new(name);
        gauge.set(1);
        gauge
    }

    pub(crate) fn get(&self) -> usize {
        self.value
    }

    pub(crate) fn add(&mut self, count: usize) {
        self.set(self.value + count);
    }

    pub(crate) fn set(&mut self, value: usize) {
        #[cfg(feature = "metrics")]
        {
            let gauge = || metrics::gauge!(self.name);

            match value.checked_sub(self.value) {
                Some(0) => {}
                Some(more) => gauge().increment(more as f64),
                None => gauge().decrement((self.value - value) as f64),
            }
        }
        self.value = value;
    }
}

#[cfg(feature = "metrics")]
impl Drop for Gauge {
    fn drop(&mut self) {
        self.set(0);
    }
}
