use std::sync::{MutexGuard, PoisonError};

/// Locks a mutex whose data stays consistent whatever panics while it is held.
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutex that [`lock`]s. The folder `loom` has another one, with which it tests the code that uses it.
#[derive(Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.0)
    }
}
