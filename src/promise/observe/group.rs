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

/// The observation of promises that start together.
#[derive(Default)]
pub(in crate::promise) struct ObservedGroup {
    /// By the numbers of the promises. `None` after the promise has settled. Empty if no observer is interested.
    promises: Vec<Option<ObservedPromise>>,
    /// The number of promises that counters have not counted: they count promises also if no other observer is
    /// interested.
    #[cfg(feature = "metrics")]
    uncounted: usize,
}

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

/// The observation of a running promise. Its drop does not end it.
struct ObservedPromise {
    start: Instant,
    #[cfg(feature = "tracing")]
    span: Option<Box<tracing::Span>>,
    #[cfg(feature = "server-timing")]
    timing: Option<(Key, Arc<Timed>)>,
    #[cfg(feature = "metrics")]
    in_flight: Option<Gauge>,
}

impl ObservedGroup {
    /// The observation of promises with these numbers and names.
    pub(super) fn new(
        observation: Option<&mut Observation>,
        count: usize,
        names: impl FnOnce() -> Vec<(usize, Key)>,
    ) -> Self {
        Self {
            promises: observation.map_or_else(Vec::new, |it| start(it, count, names())),
            #[cfg(feature = "metrics")]
            uncounted: count,
        }
    }

    /// Whether an observer has to be told about each promise.
    pub(in crate::promise) fn is_interested(&self) -> bool {
        !self.promises.is_empty()
    }

    /// Runs a closure in the span of a promise.
    pub(in crate::promise) fn in_scope<R>(&self, number: usize, f: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tracing")]
        if let Some(Some(promise)) = self.promises.get(number) {
            if let Some(span) = &promise.span {
                return span.in_scope(f);
            }
        }
        #[cfg(not(feature = "tracing"))]
        let _ = number;
        f()
    }

    /// Records the outcome of a promise.
    pub(in crate::promise) fn end(&mut self, number: usize, failure: Option<&Failure>) {
        let outcome = failure.map_or(PromiseOutcome::Fulfilled, PromiseOutcome::of);
        #[cfg(feature = "metrics")]
        {
            self.uncounted -= 1;
        }
        match self.promises.get_mut(number).and_then(Option::take) {
            Some(promise) => promise.end(outcome),
            None => {
                #[cfg(feature = "metrics")]
                metrics::promises_counted(outcome as usize, 1);
            }
        }
    }

    /// Counts promises that have a value, about which no observer was told, because so many are still running.
    pub(in crate::promise) fn count(&mut self, running: usize) {
        #[cfg(feature = "metrics")]
        if self.uncounted > running {
            let count = self.uncounted - running;
            metrics::promises_counted(PromiseOutcome::Fulfilled as usize, count as u64);
            self.uncounted = running;
        }
        #[cfg(not(feature = "metrics"))]
        let _ = running;
    }

    /// Whether running promises have to [`end`](Self::end).
    pub(in crate::promise) fn must_end(&self) -> bool {
        cfg!(feature = "metrics") || self.is_interested()
    }
}

fn start(
    observation: &mut Observation,
    count: usize,
    names: Vec<(usize, Key)>,
) -> Vec<Option<ObservedPromise>> {
    observation.open();
    observation.add_promises(count);
    let time = Instant::now();
    let start = Start {
        time,
        #[cfg(feature = "server-timing")]
        timed: observation.timed(count, time).map(Arc::new),
        observation,
    };
    let mut promises = Vec::new();
    for (number, key) in names {
        promises.resize_with(number, || None);
        promises.push(Some(start.promise(&key)));
    }
    promises
}

impl Start<'_> {
    fn promise(&self, key: &Key) -> ObservedPromise {
        #[cfg(not(any(feature = "server-timing", feature = "tracing")))]
        let _ = key;
        ObservedPromise {
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
    fn end(self, outcome: PromiseOutcome) {
        let duration = self.start.elapsed();
        #[cfg(feature = "tracing")]
        if let Some(span) = &self.span {
            record(span, outcome.as_str(), duration);
        }
        #[cfg(feature = "metrics")]
        match self.in_flight {
            Some(_) => metrics::promise_ended(outcome as usize, duration),
            None => metrics::promises_counted(outcome as usize, 1),
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
