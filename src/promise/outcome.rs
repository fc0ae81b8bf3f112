use super::error::{Failure, PromiseError};
use super::{Key, handover, waiters};
use crate::panic;
use std::any::{Any, TypeId, type_name};
use std::pin::Pin;
use std::sync::Arc;

/// The work of a promise.
pub(super) type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

pub(super) type Progress = handover::Progress<Work, Outcome>;

pub(super) type Taken = handover::Taken<Work, Outcome>;

pub(super) type Waiters = waiters::Waiters<Outcome>;

/// The outcome of a promise: a value or a [`Failure`]. Readers share it, so that they clone a value without the lock of
/// the request.
///
/// Both have the same form, because two words are passed on in registers.
#[derive(Clone)]
pub(super) struct Outcome(Arc<dyn Any + Send + Sync>);

impl Outcome {
    #[inline]
    pub(super) fn new<T: Send + Sync + 'static>(result: Result<T, Failure>) -> Self {
        match result {
            Ok(value) => Self(Arc::new(value)),
            Err(failure) => Self::failed(failure),
        }
    }

    #[cold]
    pub(super) fn failed(failure: Failure) -> Self {
        Self(Arc::new(failure))
    }

    /// The outcome of a promise that panicked.
    #[cold]
    pub(super) fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::failed(Failure::Panicked(panic::message(panic)))
    }

    #[inline]
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.0.downcast_ref()
    }

    /// The outcome for a reader. The look-up has checked that the promise is one of a `T`.
    #[inline]
    pub(super) fn read<T: Clone + 'static>(&self, key: &Key) -> Result<T, PromiseError> {
        match self.0.downcast_ref::<T>() {
            Some(value) => Ok(value.clone()),
            None => Err(self.error(key)),
        }
    }

    #[cold]
    fn error(&self, key: &Key) -> PromiseError {
        match self.failure() {
            Some(failure) => failure.clone().of(key.clone()),
            None => unreachable!("the look-up has checked the type"),
        }
    }
}

/// The type of a value, as a function, which takes less memory than its result.
pub(super) type Kind = fn() -> Type;

/// The type of a value.
#[derive(Clone, Copy)]
pub(super) struct Type {
    id: TypeId,
    pub(super) name: &'static str,
}

impl Type {
    pub(super) fn of<T: 'static>() -> Self {
        Self {
            id: TypeId::of::<T>(),
            name: type_name::<T>(),
        }
    }

    pub(super) fn matches(self, other: Self) -> bool {
        self.id == other.id
    }
}
