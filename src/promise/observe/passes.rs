use super::PromiseOutcome;
use crate::promise::Key;
use std::sync::Arc;
use std::time::Duration;

/// The timings of a request: its passes and its promises.
///
/// The layer inserts it into the extensions of the response if the request had a promise that started, also if the
/// response is a [rejection](crate::promise::Rejection). It does so with
/// [`PromiseLayer::timings`](crate::PromiseLayer::timings), and for a request whose timings an outer
/// [`ServerTimingLayer`](crate::observe::ServerTimingLayer) shows in the developer tools of the client. Otherwise no
/// timings are recorded.
///
/// All times are relative to the call of the layer. A clone is cheap.
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

/// An extension of requests whose timings an outer layer wants.
#[derive(Clone)]
pub(crate) struct TimingsWanted;

/// The timings so far.
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

    /// The number of passes that the request took.
    #[must_use]
    pub fn count(&self) -> usize {
        self.timings.passes.len()
    }

    /// The passes in order.
    #[must_use]
    pub fn passes(&self) -> &[PassTiming] {
        &self.timings.passes
    }

    /// The promises in the order in which they settled. Promises that never started are not included.
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

    /// The time until the inner service responded. Promises that started after the response are not included.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

impl PromiseTiming {
    /// The name of the promise.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The number of the pass in which the promise started, starting at 1.
    #[must_use]
    pub fn pass(&self) -> usize {
        self.pass
    }

    /// When the promise started.
    #[must_use]
    pub fn start(&self) -> Duration {
        self.start
    }

    /// The time from its start until it settled.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// How the promise ended.
    #[must_use]
    pub fn outcome(&self) -> PromiseOutcome {
        self.outcome
    }
}
