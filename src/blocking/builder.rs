use super::BlockingPool;
use std::thread::available_parallelism;
use std::time::Duration;

/// The default number of jobs that may wait, per core.
const WAITING_FOR_EACH_RUNNING: usize = 64;

/// The outcome of a blocking promise for which the pool has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnSaturation {
    /// The promise reads as [`PromiseError::Rejected`](crate::PromiseError::Rejected), and the handler decides how to
    /// respond.
    #[default]
    Error,
    /// The request is rejected with 503 and `Retry-After`.
    Reject,
}

/// Builds a [`BlockingPool`] with other limits than the [default ones](super#default-limits).
#[derive(Clone, Debug)]
#[must_use]
pub struct BlockingPoolBuilder {
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) max_running: usize,
    pub(super) max_waiting: usize,
    pub(super) on_saturation: OnSaturation,
    pub(super) retry_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let max_running = available_parallelism().map_or(1, usize::from);
        Self {
            max_running,
            max_waiting: max_running.saturating_mul(WAITING_FOR_EACH_RUNNING),
            on_saturation: OnSaturation::default(),
            retry_after: Duration::from_secs(1),
        }
    }
}

impl BlockingPoolBuilder {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings::default(),
        }
    }

    /// Sets how many jobs may run at a time. Default: the number of cores. Values below 1 count as 1.
    ///
    /// Tokio's limit on blocking threads, 512 by default, also applies.
    pub fn max_running(mut self, jobs: usize) -> Self {
        self.settings.max_running = jobs.max(1);
        self
    }

    /// Sets how many jobs may wait in the queue. Default: 64 for each core.
    pub fn max_waiting(mut self, jobs: usize) -> Self {
        self.settings.max_waiting = jobs;
        self
    }

    /// Sets the outcome of a promise for which the pool has no room. Default [`OnSaturation::Error`].
    pub fn on_saturation(mut self, on_saturation: OnSaturation) -> Self {
        self.settings.on_saturation = on_saturation;
        self
    }

    /// Sets the delay after which a rejected client may retry. Default one second. The `Retry-After` header contains it
    /// in whole seconds, rounded up.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.settings.retry_after = delay;
        self
    }

    /// Creates the pool. Each call creates an independent pool.
    pub fn build(self) -> BlockingPool {
        BlockingPool::of(self.settings)
    }
}
