pub(crate) use std::sync::MutexGuard;
use std::sync::PoisonError;

/// Locks a mutex and ignores poisoning: no panic can leave the data of these mutexes inconsistent.
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutex that ignores poisoning, see [`lock`]. The crate in `loom/` replaces this type to model-check its users.
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.0)
    }
}
