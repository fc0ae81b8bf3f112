#[cfg(doc)]
use super::Promises;
use super::error::Failure;
use super::slot::{AnySlot, Slot};
use super::{IntoKey, Key};
use crate::BoxError;
use std::fmt;
use std::sync::Arc;
#[cfg(feature = "operations")]
use tower_promises_operations::durable::{DurableRun, Recording};

/// Results for [`Promises::with_results`]. If a name is added twice, the last result counts.
#[derive(Default)]
pub struct PromiseResults {
    slots: Vec<Arc<dyn AnySlot>>,
    #[cfg(feature = "operations")]
    run: Option<DurableRun>,
}

impl PromiseResults {
    pub(super) fn into_slots(self) -> Vec<Arc<dyn AnySlot>> {
        self.slots
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
        let run = Some(DurableRun::recorded(recording));
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
        self.with(Slot::settled(key.into_key(), Ok(value)))
    }

    /// Adds a promise of a `T` that failed with `error`.
    #[must_use]
    pub fn failed<T>(self, key: impl IntoKey<T>, error: impl Into<BoxError>) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with_failure::<T>(key.into_key(), Failure::Failed(error.into().into()))
    }

    /// Adds a promise of a `T` that timed out.
    #[must_use]
    pub fn timed_out<T>(self, key: impl IntoKey<T>) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with_failure::<T>(key.into_key(), Failure::TimedOut)
    }

    fn with_failure<T>(self, key: Key, failure: Failure) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.with(Slot::<T>::settled(key, Err(failure)))
    }

    fn with<T>(mut self, slot: Slot<T>) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.slots.retain(|other| other.key() != slot.key());
        self.slots.push(Arc::new(slot));
        self
    }
}

impl fmt::Debug for PromiseResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.slots.iter().map(|slot| slot.key());
        f.debug_list().entries(keys).finish()
    }
}
