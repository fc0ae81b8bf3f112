use super::error::PromiseError;
use super::registry::Registry;
use super::slot::{AnySlot, Slot};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// One of those who await a promise. Counts as such until it is dropped.
pub(super) struct Waiter<'a, T>
where
    T: Send + Sync + 'static,
{
    pub(super) registry: &'a Registry,
    pub(super) slot: Arc<Slot<T>>,
    pub(super) has_read: bool,
}

impl<T> Future for Waiter<'_, T>
where
    T: Clone + Send + Sync + 'static,
{
    type Output = Result<T, PromiseError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.registry.is_driven() {
            let _ = self.slot.poll(cx);
        }
        loop {
            if let Some(outcome) = self.slot.outcome() {
                let outcome = outcome.clone();
                self.has_read = true;
                return Poll::Ready(outcome);
            }
            if self.slot.register_waiter(cx.waker()) {
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
        self.registry.leave(&self.slot, self.has_read);
    }
}
