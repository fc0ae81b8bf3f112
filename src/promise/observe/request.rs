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
use std::cell::OnceCell;
#[cfg(any(feature = "metrics", feature = "server-timing"))]
use std::sync::Arc;
#[cfg(feature = "server-timing")]
use std::sync::Mutex;
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

/// The start of promises that start together.
pub(in crate::promise) struct ObservedStart<'a> {
    request: &'a mut ObservedRequest,
    #[cfg(any(feature = "metrics", feature = "server-timing"))]
    common: Arc<Common>,
}

/// The observation of a running promise. Its drop does not end it.
pub(in crate::promise) struct ObservedPromise {
    /// `None` if no subscriber is interested.
    #[cfg(feature = "tracing")]
    span: Option<Box<Observed>>,
    #[cfg(feature = "server-timing")]
    key: Key,
    /// Shared by promises that started together.
    #[cfg(any(feature = "metrics", feature = "server-timing"))]
    common: Arc<Common>,
    #[cfg(feature = "metrics")]
    _in_flight: Gauge,
}

/// The span of a promise.
#[cfg(feature = "tracing")]
struct Observed {
    stopwatch: Stopwatch,
    span: tracing::Span,
}

#[cfg(any(feature = "metrics", feature = "server-timing"))]
struct Common {
    stopwatch: Stopwatch,
    #[cfg(feature = "server-timing")]
    pass: usize,
    /// Relative to the start of the request.
    #[cfg(feature = "server-timing")]
    start: Duration,
    #[cfg(feature = "server-timing")]
    timings: Arc<Mutex<Timings>>,
}

/// A stopwatch that reads the clock only if a feature or a subscriber is interested.
#[derive(Clone, Copy)]
struct Stopwatch(Option<Instant>);

/// The time until the first call of [`get`](Self::get), which reads the clock.
struct Elapsed {
    stopwatch: Stopwatch,
    duration: OnceCell<Duration>,
}

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
            in_flight: Some(Gauge::one(&gauge::REQUESTS_IN_FLIGHT)),
        }
    }

    /// Creates the observation of a request that has ended.
    #[cfg(feature = "fragments")]
    pub(in crate::promise) fn ended() -> Self {
        Self {
            #[cfg(any(feature = "server-timing", feature = "tracing"))]
            stopwatch: Stopwatch(None),
            running: None,
            pass: 0,
            promises: 0,
            has_ended: true,
            #[cfg(feature = "tracing")]
            spans: None,
            #[cfg(feature = "server-timing")]
            timings: None,
            #[cfg(feature = "metrics")]
            in_flight: None,
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
        let elapsed = stopwatch.elapsed();
        #[cfg(feature = "metrics")]
        metrics::pass_ended(outcome as usize, &elapsed);
        if let PassOutcome::Discarded = outcome {
            self.open();
        }
        #[cfg(feature = "tracing")]
        if let Some(spans) = &self.spans {
            spans.end_pass(outcome, elapsed.get());
        }
        #[cfg(feature = "server-timing")]
        if let Some(timings) = &self.timings {
            lock(timings).passes.push(PassTiming {
                start: stopwatch.since(self.stopwatch),
                duration: elapsed.get(),
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
            let duration = self.stopwatch.elapsed().get();
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

    /// Starts `count` promises together. `None` if no observer is interested in them.
    pub(in crate::promise) fn start_promises(&mut self, count: usize) -> Option<ObservedStart<'_>> {
        self.open();
        self.promises += count;
        let is_wanted = cfg!(any(feature = "metrics", feature = "server-timing"));
        #[cfg(feature = "tracing")]
        let is_wanted = is_wanted || self.spans.is_some();
        if !is_wanted {
            return None;
        }
        #[cfg(any(feature = "metrics", feature = "server-timing"))]
        let stopwatch = Stopwatch::start();
        Some(ObservedStart {
            #[cfg(any(feature = "metrics", feature = "server-timing"))]
            common: Arc::new(Common {
                stopwatch,
                #[cfg(feature = "server-timing")]
                pass: self.pass,
                #[cfg(feature = "server-timing")]
                start: stopwatch.since(self.stopwatch),
                #[cfg(feature = "server-timing")]
                timings: {
                    let timings = self.timings.get_or_insert_default();
                    lock(timings).promises.reserve(count);
                    Arc::clone(timings)
                },
            }),
            request: self,
        })
    }

    /// Opens the spans and the timings, because there is a promise or a second pass to show.
    pub(in crate::promise) fn open(&mut self) {
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

impl ObservedStart<'_> {
    pub(in crate::promise) fn promise(&self, key: &Key) -> ObservedPromise {
        #[cfg(not(feature = "tracing"))]
        let _ = &self.request;
        #[cfg(not(any(feature = "server-timing", feature = "tracing")))]
        let _ = key;
        ObservedPromise {
            #[cfg(feature = "tracing")]
            span: self.request.spans.as_ref().map(|spans| {
                Box::new(Observed {
                    stopwatch: Stopwatch::start(),
                    span: spans.promise(key, self.request.pass),
                })
            }),
            #[cfg(feature = "server-timing")]
            key: key.clone(),
            #[cfg(any(feature = "metrics", feature = "server-timing"))]
            common: Arc::clone(&self.common),
            #[cfg(feature = "metrics")]
            _in_flight: Gauge::one(&gauge::PROMISES_IN_FLIGHT),
        }
    }
}

impl ObservedPromise {
    /// Runs a closure in the span of the promise.
    pub(in crate::promise) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tracing")]
        if let Some(observed) = &self.span {
            return observed.span.in_scope(f);
        }
        f()
    }

    /// Records the outcome of the promise.
    pub(in crate::promise) fn end(self, failure: Option<&Failure>) {
        let outcome = failure.map_or(PromiseOutcome::Fulfilled, PromiseOutcome::of);
        #[cfg(feature = "tracing")]
        if let Some(observed) = &self.span {
            let duration = observed.stopwatch.elapsed().get();
            record(&observed.span, outcome.as_str(), duration);
        }
        #[cfg(any(feature = "metrics", feature = "server-timing"))]
        let elapsed = self.common.stopwatch.elapsed();
        #[cfg(feature = "metrics")]
        metrics::promise_ended(outcome as usize, &elapsed);
        #[cfg(feature = "server-timing")]
        lock(&self.common.timings).promises.push(PromiseTiming {
            key: self.key,
            pass: self.common.pass,
            start: self.common.start,
            duration: elapsed.get(),
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

    fn elapsed(self) -> Elapsed {
        Elapsed {
            stopwatch: self,
            duration: OnceCell::new(),
        }
    }

    #[cfg(feature = "server-timing")]
    fn since(self, earlier: Self) -> Duration {
        match (self.0, earlier.0) {
            (Some(this), Some(earlier)) => this.duration_since(earlier),
            _ => Duration::ZERO,
        }
    }
}

impl Elapsed {
    fn get(&self) -> Duration {
        let elapsed = || self.stopwatch.0.map_or(Duration::ZERO, |it| it.elapsed());
        *self.duration.get_or_init(elapsed)
    }
}

/// Reads the clock only for a recorder: no other code converts the value.
#[cfg(feature = "metrics")]
impl ::metrics::IntoF64 for &Elapsed {
    fn into_f64(self) -> f64 {
        self.get().into_f64()
    }
}

/// Whether any subscriber may be interested in spans.
#[cfg(feature = "tracing")]
fn spans_are_wanted() -> bool {
    tracing::level_enabled!(tracing::Level::DEBUG)
}
