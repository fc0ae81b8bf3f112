use super::PromiseOutcome;
use super::observation::Observation;
#[cfg(feature = "server-timing")]
use super::observation::Timed;
#[cfg(feature = "server-timing")]
use super::passes::PromiseTiming;
#[cfg(feature = "tracing")]
use super::spans::record;
use crate::promise::Key;
use crate::promise::error::Failure;
#[cfg(feature = "server-timing")]
use crate::sync::lock;
#[cfg(feature = "metrics")]
use crate::{
    gauge::{self, Gauge},
    metrics,
};
#[cfg(feature = "server-timing")]
use std::sync::Arc;
use tokio::time::Instant;

/// The start of promises that start together. `None` if only counters count them.
pub(in crate::promise) struct ObservedStart<'a>(Option<Start<'a>>);

/// What the promises that start together share.
struct Start<'a> {
    #[cfg_attr(
        not(any(feature = "metrics", feature = "tracing")),
        expect(dead_code, reason = "timings do not need it")
    )]
    observation: &'a Observation,
    time: Instant,
    /// `None` if no timings are wanted.
    #[cfg(feature = "server-timing")]
    timed: Option<Arc<Timed>>,
}

/// The observation of a running promise. Its drop does not end it. `None` if only counters count the promise.
pub(in crate::promise) struct ObservedPromise(Option<Observers>);

/// The observers of a running promise.
struct Observers {
    start: Instant,
    #[cfg(feature = "tracing")]
    span: Option<Box<tracing::Span>>,
    #[cfg(feature = "server-timing")]
    timing: Option<(Key, Arc<Timed>)>,
    #[cfg(feature = "metrics")]
    in_flight: Option<Gauge>,
}

impl<'a> ObservedStart<'a> {
    /// The start of promises that no observer but counters is interested in.
    pub(super) const COUNTED: Self = Self(None);

    pub(super) fn new(observation: &'a mut Observation, count: usize) -> Self {
        observation.open();
        observation.add_promises(count);
        let time = Instant::now();
        Self(Some(Start {
            time,
            #[cfg(feature = "server-timing")]
            timed: observation.timed(count, time).map(Arc::new),
            observation,
        }))
    }

    pub(in crate::promise) fn promise(&self, key: &Key) -> ObservedPromise {
        ObservedPromise(self.0.as_ref().map(|start| start.promise(key)))
    }
}

impl Start<'_> {
    fn promise(&self, key: &Key) -> Observers {
        #[cfg(not(any(feature = "server-timing", feature = "tracing")))]
        let _ = key;
        Observers {
            start: self.time,
            #[cfg(feature = "tracing")]
            span: self.observation.span(key).map(Box::new),
            #[cfg(feature = "server-timing")]
            timing: self
                .timed
                .as_ref()
                .map(|timed| (key.clone(), Arc::clone(timed))),
            #[cfg(feature = "metrics")]
            in_flight: self
                .observation
                .has_recorder()
                .then(|| Gauge::one(&gauge::PROMISES_IN_FLIGHT)),
        }
    }
}

impl ObservedPromise {
    /// Runs a closure in the span of the promise.
    pub(in crate::promise) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tracing")]
        if let Some(span) = self.0.as_ref().and_then(|it| it.span.as_ref()) {
            return span.in_scope(f);
        }
        f()
    }

    /// Records the outcome of the promise.
    pub(in crate::promise) fn end(self, failure: Option<&Failure>) {
        let outcome = failure.map_or(PromiseOutcome::Fulfilled, PromiseOutcome::of);
        match self.0 {
            Some(observers) => observers.end(outcome),
            None => {
                #[cfg(feature = "metrics")]
                metrics::promise_counted(outcome as usize);
            }
        }
    }
}

impl Observers {
    fn end(self, outcome: PromiseOutcome) {
        let duration = self.start.elapsed();
        #[cfg(feature = "tracing")]
        if let Some(span) = &self.span {
            record(span, outcome.as_str(), duration);
        }
        #[cfg(feature = "metrics")]
        match self.in_flight {
            Some(_) => metrics::promise_ended(outcome as usize, duration),
            None => metrics::promise_counted(outcome as usize),
        }
        #[cfg(feature = "server-timing")]
        if let Some((key, timed)) = self.timing {
            lock(&timed.timings).promises.push(PromiseTiming {
                key,
                pass: timed.pass,
                start: timed.start,
                duration,
                outcome,
            });
        }
    }
}
