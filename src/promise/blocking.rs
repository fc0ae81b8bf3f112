use super::error::{Failure, PromiseError, SubmitError};
use super::{IntoKey, Promises, observe};
use crate::BoxError;
use crate::blocking::OnSaturation;

/// Blocking work.
impl Promises {
    /// Like [`submit`](Self::submit), for a closure that computes for long or blocks its thread. The closure runs on a
    /// separate thread, within the limits of the layer's [`BlockingPool`](crate::blocking::BlockingPool).
    ///
    /// The closure can poll [`is_cancelled`](crate::blocking::is_cancelled) to stop early.
    ///
    /// ```
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// fn page(promises: &Promises) -> Result<String, PromiseError> {
    ///     // Runs on a thread of the pool, beside the promises of the runtime.
    ///     let primes = promises.result_or_submit_blocking("primes", || {
    ///         (2..10_000_u32).filter(|n| (2..*n).all(|d| n % d != 0)).count()
    ///     })?;
    ///     Ok(format!("{primes} primes"))
    /// }
    /// # let _ = page;
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`submit`](Self::submit). If the pool has no room when the promise starts, the promise reads as
    /// [`PromiseError::Rejected`], or the request is rejected: see [`OnSaturation`].
    pub fn submit_blocking<T>(
        &self,
        key: impl IntoKey<T>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
    {
        let job = self.blocking(|| Ok(job()));
        self.register(key, |found| found.or_submit(|| job))
    }

    /// Like [`submit_blocking`](Self::submit_blocking), for a closure that can fail.
    ///
    /// # Errors
    ///
    /// Those of [`submit_blocking`](Self::submit_blocking).
    pub fn try_submit_blocking<T, E>(
        &self,
        key: impl IntoKey<T>,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        E: Into<BoxError> + 'static,
    {
        let job = self.blocking(|| job().map_err(Into::into));
        self.register(key, |found| found.or_submit(|| job))
    }

    /// Returns the result, or [submits](Self::submit_blocking) the closure if there is no promise with this name.
    ///
    /// # Errors
    ///
    /// Those of [`result_or_submit`](Self::result_or_submit).
    pub fn result_or_submit_blocking<T>(
        &self,
        key: impl IntoKey<T>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
    {
        let job = || self.blocking(|| Ok(job()));
        self.read_or(key, |found| found.or_submit(job))
    }

    /// Like [`result_or_submit_blocking`](Self::result_or_submit_blocking), for a closure that can fail.
    ///
    /// # Errors
    ///
    /// Those of [`result_or_submit`](Self::result_or_submit).
    pub fn result_or_try_submit_blocking<T, E>(
        &self,
        key: impl IntoKey<T>,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
    {
        let job = || self.blocking(|| job().map_err(Into::into));
        self.read_or(key, |found| found.or_submit(job))
    }

    pub(super) fn blocking<T>(
        &self,
        job: impl FnOnce() -> Result<T, BoxError> + Send + 'static,
    ) -> impl Future<Output = Result<T, Failure>> + Send + 'static
    where
        T: Send + Sync + 'static,
    {
        let promises = self.downgrade();
        async move {
            let promises = promises.upgrade().ok_or(Failure::Cancelled)?;
            let registry = &promises.registry;
            let current = promises.clone();
            let job = observe::in_present_span(move || current.scope(job));
            match registry.pool().run(registry.number(), job).await {
                Ok(result) => result.map_err(|error| Failure::Failed(error.into())),
                Err(saturated) => {
                    if saturated.on_saturation == OnSaturation::Reject {
                        registry.give_up();
                    }
                    Err(Failure::Saturated)
                }
            }
        }
    }
}
