use std::sync::{MutexGuard, PoisonError};

/// Locks a mutex whose data stays consistent whatever panics while it is held.
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutex for code that is tested in every order of events.
#[derive(Default)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    /// As [`lock`].
    pub(crate) fn lock(&self) -> imp::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(tower_promises_loom)]
use loom::sync as imp;
#[cfg(not(tower_promises_loom))]
use std::sync as imp;
