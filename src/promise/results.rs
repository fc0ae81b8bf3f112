#[cfg(doc)]
use super::Promises;
use super::error::Failure;
use super::outcome::{Kind, Outcome, Type};
use super::{IntoKey, Key};
use crate::BoxError;
use std::fmt;

/// Results for [`Promises::with_results`]. If a name is added twice, the last result counts.
#[derive(Default)]
pub struct PromiseResults {
    settled: Vec<(Key, Kind, Outcome)>,
}

impl PromiseResults {
    pub(super) fn into_settled(self) -> Vec<(Key, Kind, Outcome)> {
        self.settled
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
