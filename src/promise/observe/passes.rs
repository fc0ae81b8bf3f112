use super::PromiseOutcome;
use crate::promise::Key;
use std::sync::Arc;
use std::time::Duration;

/// Where the time of a request went: its passes and its promises.
///
/// The layer puts it into the extensions of the response that it publishes, also of a
/// [rejection](crate::promise::Rejection), if the request had a promise that started. A response without it has taken
/// one pass. [`ServerTimingLayer`](crate::observe::ServerTimingLayer) shows it to the client's developer tools.
///
/// All times are counted from the moment in which the layer was called. A clone is cheap.
///
/// ```
/// use http::Response;
/// use tower_promises::promise::Passes;
///
/// fn report<B>(response: &Response<B>) {
///     let Some(passes) = response.extensions().get::<Passes>() else { return };
///     for promise in passes.promises() {
///         println!("{}: {} after {:?}", promise.key(), promise.outcome(), promise.duration());
///     }
/// }
/// # report(&Response::new(()));
/// ```
#[derive(Clone, Debug)]
pub struct Passes {
    timings: Arc<Timings>,
}

/// What has been timed so far.
#[derive(Debug, Default)]
pub(super) struct Timings {
    pub(super) passes: Vec<PassTiming>,
    pub(super) promises: Vec<PromiseTiming>,
}

/// One call of the inner service.
#[derive(Clone, Debug)]
pub struct PassTiming {
    pub(super) start: Duration,
    pub(super) duration: Duration,
}

/// One promise that has started.
#[derive(Clone, Debug)]
pub struct PromiseTiming {
    pub(super) key: Key,
    pub(super) pass: usize,
    pub(super) start: Duration,
    pub(super) duration: Duration,
    pub(super) outcome: PromiseOutcome,
}

impl Passes {
    pub(super) fn new(timings: Timings) -> Self {
        Self {
            timings: Arc::new(timings),
        }
    }

    /// How many passes the request took.
    #[must_use]
    pub fn count(&self) -> usize {
        self.timings.passes.len()
    }

    /// The passes in their order.
    #[must_use]
    pub fn passes(&self) -> &[PassTiming] {
        &self.timings.passes
    }

    /// The promises in the order in which they settled. Those that never started are not among them.
    #[must_use]
    pub fn promises(&self) -> &[PromiseTiming] {
        &self.timings.promises
    }
}

impl PassTiming {
    /// When the inner service was called.
    #[must_use]
    pub fn start(&self) -> Duration {
        self.start
    }

    /// How long it took to answer. The promises that started when it had are not part of it.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

impl PromiseTiming {
    /// The promise's name.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The pass in which it was started, counted from one.
    #[must_use]
    pub fn pass(&self) -> usize {
        self.pass
    }

    /// When it was started.
    #[must_use]
    pub fn start(&self) -> Duration {
        self.start
    }

    /// How long it took from there.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// What became of it.
    #[must_use]
    pub fn outcome(&self) -> PromiseOutcome {
        self.outcome
    }
}
