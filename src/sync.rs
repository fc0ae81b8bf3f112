use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data stays consistent whatever panics while it is held.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
