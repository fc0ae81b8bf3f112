use super::error::Failure;
use super::registry::{Purpose, Registry};
use super::slot::{AnySlot, Slot};
use super::submit::failed;
use super::{IntoKey, PromiseError, Promises, SubmitError};
use crate::BoxError;
use futures_util::FutureExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Awaiting results.
impl Promises {
    /// Waits for the promise with this name, in code that can `await`.
    ///
    /// The promise starts at once, whether it is new or already submitted, and causes no further pass. All requests for
    /// the name, awaiting or not, share one promise.
    ///
    /// # Errors
    ///
    /// Those of [`result`](Self::result) except `NotSubmitted` and `Pending`,
    /// [`Rejected`](PromiseError::Rejected) if a new promise could not be submitted, and
    /// [`Cancelled`](PromiseError::Cancelled) if the request ends first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops the promise if no other code has requested it. Otherwise the promise keeps
    /// running.
    pub async fn resolve<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.wait(key, || make().map(Ok)).await
    }

    /// Like [`resolve`](Self::resolve), for a future that can fail.
    ///
    /// # Errors
    ///
    /// Those of [`resolve`](Self::resolve).
    pub async fn try_resolve<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.wait(key, || make().map(failed)).await
    }

    pub(super) async fn wait<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let key = key.into_key();
        let found = self.registry.find(self.reader(), &key, Purpose::Wait);
        let slot = found.and_then(|found| found.or_submit(make));
        let slot = slot.map_err(SubmitError::into_promise_error)?;
        Waiter::new(&self.registry, slot).await
    }
}

/// A future that awaits a promise. It counts as a waiter of the promise until it is dropped.
pub(super) struct Waiter<'a, T>
where
    T: Send + Sync + 'static,
{
    registry: &'a Registry,
    slot: Arc<Slot<T>>,
    number: Option<u64>,
    has_read: bool,
}

impl<'a, T> Waiter<'a, T>
where
    T: Send + Sync + 'static,
{
    pub(super) fn new(registry: &'a Registry, slot: Arc<Slot<T>>) -> Self {
        Self {
            registry,
            slot,
            number: None,
            has_read: false,
        }
    }
}

impl<T> Future for Waiter<'_, T>
where
    T: Clone + Send + Sync + 'static,
{
    type Output = Result<T, PromiseError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if let Some(outcome) = this.slot.outcome() {
                this.has_read = true;
                return Poll::Ready(outcome);
            }
            if !this.slot.waiters().register(&mut this.number, cx.waker()) {
                continue;
            }
            // Poll only after registering: another waiter may be polling the work at this moment. If that waiter is
            // dropped, it wakes the registered waiters, and one of them polls the work next.
            if this.registry.is_driven() || this.slot.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<T> Drop for Waiter<'_, T>
where
    T: Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.registry.leave(&self.slot, self.number, self.has_read);
    }
}
