use super::error::Failure;
use super::registry::Registry;
use super::slot::{AnySlot, Slot};
use super::submit::failed;
use super::{IntoKey, Key, PromiseError, Promises};
use crate::BoxError;
use futures_util::FutureExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Awaiting.
impl Promises {
    /// Waits for the promise of this name, for code that can wait. It starts at once, whether it is new
    /// or was submitted before, and costs no further pass. The name is shared: whoever asks second, awaiting
    /// or not, gets the same promise.
    ///
    /// # Errors
    ///
    /// Those of [`result`](Self::result) but `NotSubmitted` and `Pending`. It is
    /// [`Cancelled`](PromiseError::Cancelled) when the request ends first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops the promise if nobody else has asked for it. Otherwise the promise
    /// goes on.
    pub async fn resolve<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.wait(key.into_key(), || make().map(Ok)).await
    }

    /// [`resolve`](Self::resolve) for a future that can fail.
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
        self.wait(key.into_key(), || make().map(failed)).await
    }

    pub(super) async fn wait<T, F>(
        &self,
        key: Key,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let slot = self.registry.join(self.pass, &key, || Box::pin(make()))?;
        Waiter::new(&self.registry, slot).await
    }
}

/// One of those who await a promise. Counts as such until it is dropped.
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
            // After the registration: another waiter may be polling the work this moment, and if that one gives
            // up then, it wakes those who are registered.
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
