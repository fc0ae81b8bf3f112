use super::PassOutcome;
use super::PromiseOutcome;
#[cfg(feature = "server-timing")]
use super::passes::{PassTiming, Passes, PromiseTiming, Timings};
#[cfg(feature = "tracing")]
use super::spans::{Spans, record};
use crate::promise::Key;
use crate::promise::error::Failure;
#[cfg(feature = "server-timing")]
use crate::sync::lock;
#[cfg(feature = "metrics")]
use crate::{
    gauge::{self, Gauge},
    metrics,
};
use http::Response;
#[cfg(feature = "server-timing")]
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// The observation of a request. If it is dropped before the request has ended, the request was abandoned.
pub(in crate::promise) struct ObservedRequest {
    #[cfg(any(feature = "server-timing", feature = "tracing"))]
    stopwatch: Stopwatch,
    /// `None` between passes.
    running: Option<Stopwatch>,
    pass: usize,
    promises: usize,
    has_ended: bool,
    /// `None` until there is more than a single pass to show, and if no subscriber is interested.
    #[cfg(feature = "tracing")]
    spans: Option<Box<Spans>>,
    /// `None` until it is known that there is more than one pass.
    #[cfg(feature = "server-timing")]
    timings: Option<Arc<Mutex<Timings>>>,
    /// `None` once the request has ended.
    #[cfg(feature = "metrics")]
    in_flight: Option<Gauge>,
}

/// The observation of a running promise. `None` if no feature or subscriber is interested.
pub(in crate::promise) struct ObservedPromise(Option<Box<Observed>>);

struct Observed {
    stopwatch: Stopwatch,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
    #[cfg(feature = "server-timing")]
    timed: Timed,
    #[cfg(feature = "metrics")]
    _in_flight: Gauge,
}

/// The destination of the timing of a promise.
#[cfg(feature = "server-timing")]
struct Timed {
    key: Key,
    pass: usize,
    /// Relative to the start of the request.
    start: Duration,
    timings: Arc<Mutex<Timings>>,
}

/// A stopwatch that reads the clock only if a feature or a subscriber is interested.
#[derive(Clone, Copy)]
struct Stopwatch(Option<Instant>);

impl ObservedRequest {
    #[inline]
    pub(in crate::promise) fn new() -> Self {
        let stopwatch = Stopwatch::start();
        Self {
            #[cfg(any(feature = "server-timing", feature = "tracing"))]
            stopwatch,
            running: Some(stopwatch),
            pass: 1,
            promises: 0,
            has_ended: false,
            #[cfg(feature = "tracing")]
            spans: None,
            #[cfg(feature = "server-timing")]
            timings: None,
            #[cfg(feature = "metrics")]
            in_flight: Some(Gauge::one(gauge::REQUESTS_IN_FLIGHT)),
        }
    }

    /// Begins the pass after the one that has ended.
    pub(in crate::promise) fn begin_pass(&mut self) {
        self.pass += 1;
        self.running = Some(Stopwatch::start());
        #[cfg(feature = "tracing")]
        if let Some(spans) = &mut self.spans {
            spans.begin_pass(self.pass);
        }
    }

    /// Enters the span of the pass until the guard is dropped.
    #[inline]
    pub(in crate::promise) fn enter_pass(&self) -> impl Sized {
        #[cfg(feature = "tracing")]
        self.spans.as_ref().map(|spans| spans.pass().enter())
    }

    /// Ends the pass, if one is running.
    pub(in crate::promise) fn end_pass(&mut self, outcome: PassOutcome) {
        let Some(stopwatch) = self.running.take() else {
            return;
        };
        #[cfg(feature = "metrics")]
        metrics::pass_ended(outcome.as_str(), stopwatch.elapsed());
        if let PassOutcome::Discarded = outcome {
            self.open();
        }
        #[cfg(feature = "tracing")]
        if let Some(spans) = &self.spans {
            spans.end_pass(outcome, stopwatch.elapsed());
        }
        #[cfg(feature = "server-timing")]
        if let Some(timings) = &self.timings {
            lock(timings).passes.push(PassTiming {
                start: stopwatch.since(self.stopwatch),
                duration: stopwatch.elapsed(),
            });
        }
    }

    /// Ends the request, and the pass if one is running.
    #[inline]
    pub(in crate::promise) fn end(&mut self, outcome: PassOutcome) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        self.end_pass(outcome);
        #[cfg(feature = "tracing")]
        if let Some(spans) = self.spans.take() {
            let duration = self.stopwatch.elapsed();
            spans.close(self.pass, self.promises, outcome, duration);
        }
        #[cfg(feature = "metrics")]
        drop(self.in_flight.take());
    }

    /// Inserts the timings into the response for outer layers. There must be no [`ObservedPromise`] left.
    pub(in crate::promise) fn annotate<R>(&mut self, response: &mut Response<R>) {
        #[cfg(feature = "server-timing")]
        if let Some(timings) = self.timings.take() {
            let timings = std::mem::take(&mut *lock(&timings));
            response.extensions_mut().insert(Passes::new(timings));
        }
        #[cfg(not(feature = "server-timing"))]
        let _ = response;
    }

    pub(in crate::promise) fn start_promise(&mut self, key: &Key) -> ObservedPromise {
        self.open();
        self.promises += 1;
        #[cfg(not(any(feature = "metrics", feature = "server-timing")))]
        if self.spans.is_none() {
            return ObservedPromise(None);
        }
        let stopwatch = Stopwatch::start();
        #[cfg(not(any(feature = "server-timing", feature = "tracing")))]
        let _ = key;
        ObservedPromise(Some(Box::new(Observed {
            stopwatch,
            #[cfg(feature = "tracing")]
            span: match &self.spans {
                Some(spans) => spans.promise(key, self.pass),
                None => tracing::Span::none(),
            },
            #[cfg(feature = "server-timing")]
            timed: Timed {
                key: key.clone(),
                pass: self.pass,
                start: stopwatch.since(self.stopwatch),
                timings: Arc::clone(self.timings.get_or_insert_default()),
            },
            #[cfg(feature = "metrics")]
            _in_flight: Gauge::one(gauge::PROMISES_IN_FLIGHT),
        })))
    }

    /// Opens the spans and the timings, because there is a promise or a second pass to show.
    fn open(&mut self) {
        #[cfg(feature = "tracing")]
        if self.spans.is_none() && spans_are_wanted() {
            self.spans = Some(Box::new(Spans::open(self.pass)));
        }
        #[cfg(feature = "server-timing")]
        self.timings.get_or_insert_default();
    }
}

impl Drop for ObservedRequest {
    fn drop(&mut self) {
        self.end(PassOutcome::Abandoned);
    }
}

impl ObservedPromise {
    /// Runs a closure in the span of the promise.
    pub(in crate::promise) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tracing")]
        if let Some(observed) = &self.0 {
            return observed.span.in_scope(f);
        }
        f()
    }

    /// Whether [`end`](Self::end) records an outcome.
    pub(in crate::promise) fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Records the outcome of the promise.
    pub(in crate::promise) fn end(&mut self, failure: Option<&Failure>) {
        if let Some(observed) = self.0.take() {
            let outcome = failure.map(PromiseOutcome::of);
            observed.end(outcome.unwrap_or(PromiseOutcome::Fulfilled));
        }
    }
}

impl Observed {
    fn end(self, outcome: PromiseOutcome) {
        let duration = self.stopwatch.elapsed();
        #[cfg(feature = "tracing")]
        record(&self.span, outcome.as_str(), duration);
        #[cfg(feature = "metrics")]
        metrics::promise_ended(outcome.as_str(), duration);
        #[cfg(feature = "server-timing")]
        lock(&self.timed.timings).promises.push(PromiseTiming {
            key: self.timed.key,
            pass: self.timed.pass,
            start: self.timed.start,
            duration,
            outcome,
        });
    }
}

impl Stopwatch {
    fn start() -> Self {
        let is_wanted = cfg!(any(feature = "metrics", feature = "server-timing"));
        #[cfg(feature = "tracing")]
        let is_wanted = is_wanted || spans_are_wanted();
        Self(is_wanted.then(Instant::now))
    }

    fn elapsed(self) -> Duration {
        self.0.map_or(Duration::ZERO, |start| start.elapsed())
    }

    #[cfg(feature = "server-timing")]
    fn since(self, earlier: Self) -> Duration {
        match (self.0, earlier.0) {
            (Some(this), Some(earlier)) => this.duration_since(earlier),
            _ => Duration::ZERO,
        }
    }
}

/// Whether any subscriber may be interested in spans.
#[cfg(feature = "tracing")]
fn spans_are_wanted() -> bool {
    tracing::level_enabled!(tracing::Level::DEBUG)
}
