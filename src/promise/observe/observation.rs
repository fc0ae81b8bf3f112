use super::PassOutcome;
#[cfg(feature = "server-timing")]
use super::passes::{PassTiming, Passes, Timings};
#[cfg(feature = "tracing")]
use super::spans::Spans;
#[cfg(feature = "tracing")]
use crate::promise::Key;
#[cfg(feature = "server-timing")]
use crate::sync::lock;
#[cfg(feature = "metrics")]
use crate::{gauge::Gauge, metrics};
use std::mem;
#[cfg(feature = "server-timing")]
use std::sync::{Arc, Mutex};
#[cfg(feature = "server-timing")]
use std::time::Duration;
use tokio::time::Instant;

/// What observers need to know.
pub(super) struct Observation {
    #[cfg(any(feature = "server-timing", feature = "tracing"))]
    start: Instant,
    /// The start of the running pass, or of the last pass.
    pass_start: Instant,
    pass: usize,
    promises: usize,
    has_ended: bool,
    #[cfg(feature = "tracing")]
    spans: Showing<Box<Spans>>,
    #[cfg(feature = "server-timing")]
    timings: Showing<Arc<Mutex<Timings>>>,
    /// `None` without a recorder, and once the request has ended.
    #[cfg(feature = "metrics")]
    in_flight: Option<Gauge>,
}

/// What shows the passes and the promises of a request.
#[cfg(any(feature = "server-timing", feature = "tracing"))]
enum Showing<T> {
    /// No observer is interested.
    Unwanted,
    /// So far there is only a single pass to show.
    Waiting,
    Open(T),
}

/// The timings of promises that start together.
#[cfg(feature = "server-timing")]
pub(super) struct Timed {
    pub(super) pass: usize,
    /// Relative to the start of the request.
    pub(super) start: Duration,
    pub(super) timings: Arc<Mutex<Timings>>,
}

impl Observation {
    /// Begins the observation of a request and its first pass.
    #[cfg_attr(
        not(feature = "server-timing"),
        expect(unused_variables, reason = "only that feature has timings")
    )]
    pub(super) fn new(
        is_timed: bool,
        #[cfg(feature = "metrics")] in_flight: Option<Gauge>,
    ) -> Self {
        let now = Instant::now();
        Self {
            #[cfg(any(feature = "server-timing", feature = "tracing"))]
            start: now,
            pass_start: now,
            pass: 1,
            promises: 0,
            has_ended: false,
            #[cfg(feature = "tracing")]
            spans: Showing::new(spans_are_wanted()),
            #[cfg(feature = "server-timing")]
            timings: Showing::new(is_timed),
            #[cfg(feature = "metrics")]
            in_flight,
        }
    }

    pub(super) fn begin_pass(&mut self) {
        self.pass += 1;
        self.pass_start = Instant::now();
        #[cfg(feature = "tracing")]
        if let Showing::Open(spans) = &mut self.spans {
            spans.begin_pass(self.pass);
        }
    }

    pub(super) fn end_pass(&mut self, outcome: PassOutcome) {
        let duration = self.pass_start.elapsed();
        #[cfg(feature = "metrics")]
        match self.in_flight {
            Some(_) => metrics::pass_ended(outcome as usize, duration),
            None => metrics::pass_counted(outcome as usize),
        }
        if let PassOutcome::Discarded = outcome {
            self.open();
        }
        #[cfg(feature = "tracing")]
        if let Showing::Open(spans) = &self.spans {
            spans.end_pass(outcome, duration);
        }
        #[cfg(feature = "server-timing")]
        if let Showing::Open(timings) = &self.timings {
            lock(timings).passes.push(PassTiming {
                start: self.pass_start.duration_since(self.start),
                duration,
            });
        }
    }

    pub(super) fn end(&mut self, outcome: PassOutcome) {
        if mem::replace(&mut self.has_ended, true) {
            return;
        }
        #[cfg(feature = "tracing")]
        if let Showing::Open(spans) = mem::replace(&mut self.spans, Showing::Unwanted) {
            spans.close(self.pass, self.promises, outcome, self.start.elapsed());
        }
        #[cfg(not(feature = "tracing"))]
        let _ = (outcome, self.promises);
        #[cfg(feature = "metrics")]
        drop(self.in_flight.take());
    }

    /// Opens the spans and the timings, because there is a promise or a second pass to show.
    pub(super) fn open(&mut self) {
        #[cfg(feature = "tracing")]
        if let Showing::Waiting = self.spans {
            self.spans = Showing::Open(Box::new(Spans::open(self.pass)));
        }
        #[cfg(feature = "server-timing")]
        if let Showing::Waiting = self.timings {
            self.timings = Showing::Open(Arc::default());
        }
    }

    /// Takes the timings, if there are any to show.
    #[cfg(feature = "server-timing")]
    pub(super) fn passes(&mut self) -> Option<Passes> {
        match mem::replace(&mut self.timings, Showing::Unwanted) {
            Showing::Open(timings) => Some(Passes::new(mem::take(&mut *lock(&timings)))),
            Showing::Unwanted | Showing::Waiting => None,
        }
    }

    #[cfg(feature = "tracing")]
    #[inline]
    pub(super) fn spans(&self) -> Option<&Spans> {
        self.spans.opened().map(|spans| &**spans)
    }

    /// The span of a promise that starts. `None` if no subscriber is interested.
    #[cfg(feature = "tracing")]
    pub(super) fn span(&self, key: &Key) -> Option<tracing::Span> {
        Some(self.spans()?.promise(key, self.pass))
    }

    /// The timings of promises that start at `now`. `None` if no timings are wanted.
    #[cfg(feature = "server-timing")]
    pub(super) fn timed(&self, count: usize, now: Instant) -> Option<Timed> {
        let timings = self.timings.opened()?;
        lock(timings).promises.reserve(count);
        Some(Timed {
            pass: self.pass,
            start: now.duration_since(self.start),
            timings: Arc::clone(timings),
        })
    }

    /// Counts promises that start.
    pub(super) fn add_promises(&mut self, count: usize) {
        self.promises += count;
    }

    #[cfg(feature = "metrics")]
    pub(super) fn has_recorder(&self) -> bool {
        self.in_flight.is_some()
    }
}

#[cfg(any(feature = "server-timing", feature = "tracing"))]
impl<T> Showing<T> {
    fn new(is_wanted: bool) -> Self {
        match is_wanted {
            true => Self::Waiting,
            false => Self::Unwanted,
        }
    }

    #[inline]
    fn opened(&self) -> Option<&T> {
        match self {
            Self::Open(shown) => Some(shown),
            Self::Unwanted | Self::Waiting => None,
        }
    }
}

/// Whether any subscriber may be interested in spans.
#[cfg(feature = "tracing")]
pub(super) fn spans_are_wanted() -> bool {
    tracing::level_enabled!(tracing::Level::DEBUG)
}
