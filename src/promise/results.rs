#[cfg(doc)]
use super::Promises;
use super::error::Failure;
use super::outcome::{Kind, Outcome, Type};
use super::{IntoKey, Key};
use crate::BoxError;
use std::fmt;
#[cfg(feature = "operations")]
use tower_promises_operations::durable::{DurableRun, Recording};

/// Results for [`Promises::with_results`]. If a name is added twice, the last result counts.
#[derive(Default)]
pub struct PromiseResults {
    settled: Vec<(Key, Kind, Outcome)>,
    #[cfg(feature = "operations")]
    run: Option<DurableRun>,
}

impl PromiseResults {
    pub(super) fn into_settled(self) -> Vec<(Key, Kind, Outcome)> {
        self.settled
    }

    /// The run of a durable operation that is replayed.
    #[cfg(feature = "operations")]
    pub(super) fn take_run(&mut self) -> Option<DurableRun> {
        self.run.take()
    }

    /// Adds all that a durable operation remembers: durable promises read it as in a later run of the operation, and
    /// [`Promises::replayed`] tells what the handler has requested.
    #[cfg(feature = "operations")]
    #[must_use]
    pub fn recorded(self, recording: &Recording) -> Self {
        let run = Some(DurableRun::from_recording(recording));
        Self { run, ..self }
    }

    /// Creates an empty set of results, as in the first pass.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a promise with a value.
    #[must_use]
    pub fn value<T>(self, key: impl IntoKey<T>, value: T) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with(key.into_key(), Ok(value))
    }

    /// Adds a promise of a `T` that failed with `error`.
    #[must_use]
    pub fn failed<T>(self, key: impl IntoKey<T>, error: impl Into<BoxError>) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with::<T>(key.into_key(), Err(Failure::Failed(error.into().into())))
    }

    /// Adds a promise of a `T` that timed out.
    #[must_use]
    pub fn timed_out<T>(self, key: impl IntoKey<T>) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with::<T>(key.into_key(), Err(Failure::TimedOut))
    }

    fn with<T>(mut self, key: Key, result: Result<T, Failure>) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.settled.retain(|(other, ..)| *other != key);
        self.settled
            .push((key, Type::of::<T>, Outcome::new(result)));
        self
    }
}

impl fmt::Debug for PromiseResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.settled.iter().map(|(key, ..)| key);
        f.debug_list().entries(keys).finish()
    }
}
