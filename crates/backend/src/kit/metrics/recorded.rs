//! Metrics with a recorder.

use crate::kit::log::TARGET;
use metrics::{Gauge, IntoF64, Key, Label, Level, Metadata, SharedString, Unit};
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

#[doc(hidden)]
pub use metrics as facade;

static METADATA: Metadata<'static> = Metadata::new(TARGET, Level::INFO, Some(TARGET));

/// Makes a static [`Metric`]: its visibility and name, its kind, its name in the recorder and its help text. After that
/// come nothing, or a label with all its values, or `by` with labels whose values are known later.
#[doc(hidden)]
#[macro_export]
macro_rules! __metric {
    ($visibility:vis $constant:ident: $kind:ident $name:literal, $help:literal) => {
        $visibility static $constant: $crate::kit::metrics::Metric = {
            use $crate::kit::metrics::{Kind, Metric, Series, facade::Key};
            static SERIES: [Series; 1] = [Series::new(Key::from_static_name($name))];
            Metric::new(Kind::$kind, $name, $help, &SERIES)
        };
    };
    ($visibility:vis $constant:ident: $kind:ident $name:literal, $help:literal, $label:literal: [$($value:literal),+ $(,)?]) => {
        $visibility static $constant: $crate::kit::metrics::Metric = {
            use $crate::kit::metrics::{Kind, Metric, Series, facade::{Key, Label}};
            static SERIES: [Series; [$($value),+].len()] = [$({
                static LABELS: [Label; 1] = [Label::from_static_parts($label, $value)];
                Series::new(Key::from_static_parts($name, &LABELS))
            }),+];
            Metric::new(Kind::$kind, $name, $help, &SERIES)
        };
    };
    ($visibility:vis $constant:ident: $kind:ident $name:literal, $help:literal, by registration) => {
        $visibility static $constant: $crate::kit::metrics::Metric = {
            use $crate::kit::metrics::{Kind, Metric};
            Metric::new(Kind::$kind, $name, $help, &[])
        };
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric, and its series if the values of its labels are known at compile time.
#[derive(Debug)]
pub struct Metric {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    series: &'static [Series],
}

/// A metric with values of its labels.
#[derive(Debug)]
pub struct Series(Key);

impl Metric {
    pub const fn new(
        kind: Kind,
        name: &'static str,
        help: &'static str,
        series: &'static [Series],
    ) -> Self {
        Self {
            kind,
            name,
            help,
            series,
        }
    }

    /// Returns all series, in the order of the values of the label.
    pub fn all(&self) -> &'static [Series] {
        self.series
    }

    /// Returns the series with this value of the label, given as its index.
    pub fn of(&self, value: usize) -> &'static Series {
        &self.series[value]
    }

    /// Adds one to the counter with this value of the label.
    pub fn count(&self, value: usize) {
        self.of(value).add(1);
    }

    /// Makes a series for labels. The caller bounds the number of their values.
    pub fn series(&self, labels: &[(&'static str, &str)]) -> Series {
        let label = |(name, value): &(&'static str, &str)| {
            Label::new(*name, SharedString::from((*value).to_owned()))
        };
        let labels: Vec<_> = labels.iter().map(label).collect();
        Series::new(Key::from_parts(self.name, labels))
    }

    /// Makes a series for labels, and registers a counter or gauge with the value zero.
    pub fn register(&self, labels: &[(&'static str, &str)]) -> Series {
        let series = self.series(labels);
        series.begin(self.kind);
        series
    }

    pub(super) fn describe(&self) {
        let unit = if self.name.ends_with("_seconds") {
            Unit::Seconds
        } else {
            Unit::Count
        };
        let (name, help) = (self.name.into(), self.help.into());
        metrics::with_recorder(|recorder| match self.kind {
            Kind::Counter => recorder.describe_counter(name, Some(unit), help),
            Kind::Gauge => recorder.describe_gauge(name, Some(unit), help),
            Kind::Histogram => recorder.describe_histogram(name, Some(unit), help),
        });
        for series in self.series {
            series.begin(self.kind);
        }
    }
}

impl Series {
    pub const fn new(key: Key) -> Self {
        Self(key)
    }

    /// Registers the value zero: a rate over a counter that starts at one would miss the first increment.
    fn begin(&self, kind: Kind) {
        match kind {
            Kind::Counter => self.add(0),
            Kind::Gauge => self.gauge(|gauge| gauge.increment(0.0)),
            Kind::Histogram => {}
        }
    }

    /// Adds to a counter.
    pub fn add(&self, number: u64) {
        metrics::with_recorder(|recorder| {
            recorder
                .register_counter(&self.0, &METADATA)
                .increment(number);
        });
    }

    /// Adds a value to a histogram. A stopwatch is read only for a recorder.
    pub fn record(&self, time: impl IntoF64) {
        metrics::with_recorder(|recorder| {
            recorder.register_histogram(&self.0, &METADATA).record(time);
        });
    }

    fn gauge(&self, change: impl FnOnce(Gauge)) {
        metrics::with_recorder(|recorder| change(recorder.register_gauge(&self.0, &METADATA)));
    }
}

/// Counts in a gauge until it is dropped.
#[derive(Debug)]
pub struct InFlight<S: Deref<Target = Series>>(S);

impl<S: Deref<Target = Series>> InFlight<S> {
    pub fn begin(series: S) -> Self {
        series.gauge(|gauge| gauge.increment(1.0));
        Self(series)
    }
}

impl<S: Deref<Target = Series>> Drop for InFlight<S> {
    fn drop(&mut self) {
        self.0.gauge(|gauge| gauge.decrement(1.0));
    }
}

/// The time since a start, by the clock of tokio.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl IntoF64 for &Stopwatch {
    fn into_f64(self) -> f64 {
        self.0.elapsed().into_f64()
    }
}

/// Work with an outcome. It counts in a gauge until it is dropped. Then it counts in a counter, and its duration in a
/// histogram, with its outcome.
#[derive(Debug)]
pub struct Timed<'a> {
    _in_flight: InFlight<&'a Series>,
    ended: &'a [Series],
    durations: &'a [Series],
    outcome: AtomicUsize,
    start: Stopwatch,
    stopped: OnceLock<Duration>,
}

impl<'a> Timed<'a> {
    /// Starts the work. `ended` and `durations` have a series for each outcome, or `durations` has one for all.
    /// `if_dropped` is the outcome of work that is dropped before another outcome is set.
    pub fn start(
        in_flight: &'a Series,
        ended: &'a [Series],
        durations: &'a [Series],
        if_dropped: usize,
    ) -> Self {
        Self {
            _in_flight: InFlight::begin(in_flight),
            ended,
            durations,
            outcome: AtomicUsize::new(if_dropped),
            start: Stopwatch::start(),
            stopped: OnceLock::new(),
        }
    }

    /// Stops the clock before the drop. The first call counts.
    pub fn stop(&self) {
        let _ = self.stopped.set(self.start.0.elapsed());
    }

    /// Sets the outcome.
    pub fn ends(&self, outcome: usize) {
        self.outcome.store(outcome, Ordering::Relaxed);
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let outcome = *self.outcome.get_mut();
        self.ended[outcome].add(1);
        let durations = &self.durations[outcome.min(self.durations.len() - 1)];
        match self.stopped.get() {
            Some(stopped) => durations.record(*stopped),
            None => durations.record(&self.start),
        }
    }
}
