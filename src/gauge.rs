#[cfg(feature = "metrics")]
use metrics::{IntoF64, Level, Metadata};
#[cfg(feature = "metrics")]
use std::cell::Cell;

/// The key of a gauge, made at compile time.
#[cfg(feature = "metrics")]
pub(crate) type Name = metrics::Key;
#[cfg(not(feature = "metrics"))]
pub(crate) type Name = ();

macro_rules! names {
    ($($(#[$attribute:meta])* $constant:ident = $name:literal;)*) => {
        $(
            $(#[$attribute])*
            pub(crate) static $constant: Name = {
                #[cfg(feature = "metrics")]
                {
                    metrics::Key::from_static_name($name)
                }
            };
        )*
    };
}

names! {
    #[cfg(feature = "metrics")]
    REQUESTS_IN_FLIGHT = "tower_promises_requests_in_flight";
    #[cfg(feature = "metrics")]
    PROMISES_IN_FLIGHT = "tower_promises_promises_in_flight";
    #[cfg(feature = "blocking")]
    BLOCKING_QUEUE_DEPTH = "tower_promises_blocking_queue_depth";
    #[cfg(feature = "blocking")]
    BLOCKING_JOBS_IN_FLIGHT = "tower_promises_blocking_jobs_in_flight";
    REPLAY_BYTES = "tower_promises_replay_bytes";
}

#[cfg(feature = "metrics")]
static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// The number one, which notices whether it is used: only a gauge that is recorded converts it.
#[cfg(feature = "metrics")]
struct NoticedOne<'a>(&'a Cell<bool>);

#[cfg(feature = "metrics")]
impl IntoF64 for NoticedOne<'_> {
    fn into_f64(self) -> f64 {
        self.0.set(true);
        1.0
    }
}

/// The gauge with this name. The macro of `metrics` would hash a name that is not a literal in every call.
#[cfg(feature = "metrics")]
pub(crate) fn of(name: &'static Name) -> metrics::Gauge {
    metrics::with_recorder(|recorder| recorder.register_gauge(name, &METADATA))
}

/// A value that is included in the gauge with this name while it exists. The gauge shows the sum of all such values.
/// Without the feature `metrics` it is a plain number.
#[derive(Debug)]
pub(crate) struct Gauge {
    value: usize,
    #[cfg(feature = "metrics")]
    name: &'static Name,
}

impl Gauge {
    pub(crate) const fn new(name: &'static Name) -> Self {
        #[cfg(not(feature = "metrics"))]
        let _ = name;
        Self {
            value: 0,
            #[cfg(feature = "metrics")]
            name,
        }
    }

    /// Creates a value of one.
    #[cfg(any(feature = "blocking", feature = "metrics"))]
    pub(crate) fn one(name: &'static Name) -> Self {
        let mut gauge = Self::new(name);
        gauge.prepare(1).show();
        gauge
    }

    /// Creates a value of one. `None` if no recorder shows it.
    ///
    /// The recorder of the facade, which is that of a process without a recorder, has neither a size nor gauges.
    #[cfg(feature = "metrics")]
    pub(crate) fn recorded(name: &'static Name) -> Option<Self> {
        let is_shown = Cell::new(false);
        let is_recorded = metrics::with_recorder(|recorder| {
            let gauge = recorder.register_gauge(name, &METADATA);
            gauge.increment(NoticedOne(&is_shown));
            is_shown.get() || size_of_val(recorder) > 0
        });
        // Not `then_some`, which would create the value in any case, and drop it.
        is_recorded.then(|| Self { value: 1, name })
    }

    /// Sets the value. The caller may hold a lock, so the caller shows the difference later.
    pub(crate) fn prepare(&mut self, value: usize) -> Difference {
        let former = std::mem::replace(&mut self.value, value);
        Difference {
            #[cfg(feature = "metrics")]
            name: self.name,
            former,
            value,
        }
    }
}

#[cfg(feature = "metrics")]
impl Drop for Gauge {
    fn drop(&mut self) {
        self.prepare(0).show();
    }
}

/// A change of the value of a gauge.
#[must_use]
pub(crate) struct Difference {
    #[cfg(feature = "metrics")]
    name: &'static Name,
    former: usize,
    value: usize,
}

impl Difference {
    /// Updates the gauge. The recorder is user code.
    pub(crate) fn show(self) {
        #[cfg(feature = "metrics")]
        {
            let gauge = || of(self.name);
            match self.value.checked_sub(self.former) {
                Some(0) => {}
                Some(more) => gauge().increment(more as f64),
                None => gauge().decrement((self.former - self.value) as f64),
            }
        }
        #[cfg(not(feature = "metrics"))]
        let _ = (self.former, self.value);
    }
}
