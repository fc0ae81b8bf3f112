//! Metrics without a recorder: values without content, and functions that do nothing.

use std::marker::PhantomData;
use std::ops::Deref;

/// Makes a static [`Metric`] without content.
#[doc(hidden)]
#[macro_export]
macro_rules! __metric {
    ($visibility:vis $constant:ident: $($rest:tt)*) => {
        $visibility static $constant: $crate::kit::metrics::Metric = $crate::kit::metrics::Metric;
    };
}

#[derive(Debug)]
pub struct Metric;

#[derive(Debug)]
pub struct Series;

impl Metric {
    pub fn all(&self) -> &'static [Series] {
        &[]
    }

    pub fn of(&self, _: usize) -> &'static Series {
        &Series
    }

    pub fn count(&self, _: usize) {}

    pub fn series(&self, _: &[(&'static str, &str)]) -> Series {
        Series
    }

    pub fn register(&self, _: &[(&'static str, &str)]) -> Series {
        Series
    }

    pub(super) fn describe(&self) {}
}

impl Series {
    pub fn add(&self, _: u64) {}

    pub fn record<T>(&self, _: T) {}
}

#[derive(Debug)]
pub struct InFlight<S>(PhantomData<S>);

impl<S: Deref<Target = Series>> InFlight<S> {
    pub fn begin(_: S) -> Self {
        Self(PhantomData)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Stopwatch;

impl Stopwatch {
    pub fn start() -> Self {
        Self
    }
}

#[derive(Debug)]
pub struct Timed<'a>(PhantomData<&'a Series>);

impl<'a> Timed<'a> {
    pub fn start(_: &'a Series, _: &'a [Series], _: &'a [Series], _: usize) -> Self {
        Self(PhantomData)
    }

    pub fn stop(&self) {}

    pub fn ends(&self, _: usize) {}
}
